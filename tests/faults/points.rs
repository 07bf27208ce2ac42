//! Real processes that end, or whose disk fails, at a named point: `strace` does it from outside, at the system call that
//! stands for the point, so that the programs hold nothing for the sake of these tests.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use exhibit_tests::{Fleet, wait_until};

use crate::processes::Site;

/// Something of the deployment that a system call is about.
#[derive(Debug, Clone, Copy)]
enum On {
    /// The object of segment 1 of stream 1.
    Segment,
    /// The stream's folder.
    StreamFolder,
    /// The stream's manifest.
    Manifest,
    /// The case log's slot that is this many behind the newest when the order runs.
    Slot(usize),
    /// The folder of slots.
    Slots,
    /// The catalog's write-ahead log.
    Catalog,
    /// Anything.
    Anything,
}

/// A point of the coordinator: its name, the system calls one of which stands for it, and on what. The process ends before
/// the call is carried out.
const POINTS: &[(&str, &str, On)] = &[
    ("segment written to its staging file", "fchmod", On::Anything),
    ("segment synced", "renameat2", On::Segment),
    ("segment in place, folder not synced", "fsync", On::StreamFolder),
    ("segment durable, catalog being written", "pwrite64", On::Catalog),
    ("catalog written, not synced", "fsync,fdatasync", On::Catalog),
    ("manifest synced", "renameat2", On::Manifest),
    ("acquisition synced", "renameat2", On::Slot(0)),
    ("receipt synced", "renameat2", On::Slot(1)),
    ("seal synced", "renameat2", On::Slot(2)),
    ("slot in place, folder not synced", "fsync", On::Slots),
    // Only checkpoints are renamed over what was there.
    ("checkpoint synced", "rename", On::Anything),
];

/// Errors of the disk at the same points.
const ERRORS: &[(&str, &str, On, &str)] = &[
    ("no room for a segment's name", "renameat2", On::Segment, "ENOSPC"),
    ("an input/output error at the sync of a segment's folder", "fsync", On::StreamFolder, "EIO"),
    ("no room for the catalog", "pwrite64", On::Catalog, "ENOSPC"),
    ("an input/output error at the catalog's sync", "fsync,fdatasync", On::Catalog, "EIO"),
    ("no room for a log slot", "renameat2", On::Slot(2), "ENOSPC"),
    ("an input/output error at the checkpoint", "rename", On::Anything, "EIO"),
];

/// `strace` on a process; ends with it, or when told.
struct Tracer {
    child: Child,
    log: PathBuf,
}

impl Tracer {
    /// Attaches and returns when it holds the process.
    fn attach(pid: u32, call: &str, inject: &str, path: Option<&Path>, log: PathBuf) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "-p", &pid.to_string(), "-e", &format!("trace={call}"), "-e", &format!("inject={call}:{inject}")]);
        if let Some(path) = path {
            command.arg("-P").arg(path);
        }
        let file = std::fs::File::create(&log).expect("log");
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        let mut child = spawned.expect("strace is installed: tests/run does it");
        wait_until(Duration::from_secs(20), "strace is attached", || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let ended = child.try_wait().ok().flatten();
            assert!(
                said.contains("attached") || ended.is_none(),
                "this machine does not let strace hold a process (ptrace), so named points cannot be tested here: {said}"
            );
            // It may have done its work already.
            said.contains("attached")
        });
        Self { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

#[allow(clippy::disallowed_methods, reason = "another process is given time")]
impl Drop for Tracer {
    fn drop(&mut self) {
        // Asked first, so that it lets go of the process; it may wait for ever for a thread that died with the others.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path_of(site: &Site, collection: &str, on: On) -> Option<PathBuf> {
    let stream = site.collection_dir(collection).join("s1");
    let log = site.fleet.case_dir(&site.case).join("log");
    let slots = || std::fs::read_dir(log.join("seq")).expect("slots").count();
    Some(match on {
        On::Segment => stream.join("00000001.tar.zst"),
        On::StreamFolder => stream,
        On::Manifest => stream.join("manifest.jsonl"),
        On::Slot(behind) => log.join(format!("seq/{:010}.dsse.json", slots() + behind)),
        On::Slots => log.join("seq"),
        On::Catalog => site.fleet.coordinator_dir().join("catalog.sqlite-wal"),
        On::Anything => return None,
    })
}

/// Every so many-th with `tests/run --quick`.
fn chosen<T>(all: &[T]) -> impl Iterator<Item = &T> {
    all.iter().step_by(if exhibit_tests::is_quick() { 4 } else { 1 })
}

#[test]
fn the_coordinator_dies_at_each_named_point() {
    let site = Site::new(Fleet::start());
    for (name, call, on) in chosen(POINTS) {
        let collection = site.order("12M");
        site.wait_segments(&collection, 1);
        let log = site.fleet.path().join("strace.log");
        let path = path_of(&site, &collection, *on);
        let tracer = Tracer::attach(site.fleet.coordinator_pid(), call, "signal=KILL", path.as_deref(), log);
        wait_until(Duration::from_mins(1), &format!("the coordinator dies at: {name}"), || tracer.said().contains("killed by SIGKILL"));
        drop(tracer);
        site.fleet.kill_coordinator();
        site.fleet.start_coordinator();
        let stored = site.check(&collection, name);
        assert_eq!(stored.streams, 1, "{name}: the agent lived");
        eprintln!("died at: {name}");
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a person takes a while")]
fn the_disk_fails_at_named_points() {
    let site = Site::new(Fleet::start());
    for (name, call, on, error) in chosen(ERRORS) {
        let collection = site.order("12M");
        site.wait_segments(&collection, 1);
        let log = site.fleet.path().join("strace.log");
        let path = path_of(&site, &collection, *on);
        let inject = format!("error={error}:when=1");
        let tracer = Tracer::attach(site.fleet.coordinator_pid(), call, &inject, path.as_deref(), log);
        wait_until(Duration::from_mins(1), &format!("the disk fails: {name}"), || tracer.said().contains("(INJECTED)"));
        drop(tracer);
        if *error == "EIO" {
            // After such an error the store takes nothing until a person has looked and started the program again. Until
            // then, for longer than a few tries, the agent keeps what it has.
            std::thread::sleep(Duration::from_secs(3));
            site.fleet.kill_coordinator();
            site.fleet.start_coordinator();
        }
        let stored = site.check(&collection, name);
        assert_eq!(stored.streams, 1, "{name}: the agent lived");
        eprintln!("failed and went on: {name}");
    }
}

#[test]
fn the_agent_dies_at_named_points() {
    let mut site = Site::new(Fleet::start());
    // What it remembers of a collection: begun before it begins, finished after it was received.
    for (name, wait) in [("begun, not written down", false), ("received, not written down", true)] {
        let tracer = |site: &Site| {
            let staged = site.agent.dir.join(".finished.json.new");
            Tracer::attach(site.agent.process().pid(), "rename", "signal=KILL", Some(&staged), site.fleet.path().join("strace.log"))
        };
        let (collection, tracer) = if wait {
            let collection = site.order("12M");
            site.wait_segments(&collection, 1);
            (collection, tracer(&site))
        } else {
            let tracer = tracer(&site);
            (site.order("12M"), tracer)
        };
        wait_until(Duration::from_mins(1), &format!("the agent dies at: {name}"), || tracer.said().contains("killed by SIGKILL"));
        drop(tracer);
        site.agent.kill();
        site.agent.restart();
        site.check(&collection, name);
        eprintln!("died at: {name}");
    }
}
