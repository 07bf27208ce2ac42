//! A store without room, a catalog that somebody holds, rights that were taken away: real file systems, real locks, real
//! processes. The agent waits, the operator is told, nothing is acknowledged that is not durable, and when the cause has
//! gone the collection goes on by itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use exhibit_tests::{Finished, Fleet, wait_until};

use crate::processes::Site;

/// A small file system over a folder; unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn over(folder: &Path, size: &str) -> Self {
        let keep = tempfile::tempdir().expect("temporary folder");
        run(Command::new("cp").arg("-a").arg(folder.join(".")).arg(keep.path()));
        let options = format!("size={size},mode=0700");
        let mounted = Finished::of(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "exhibit-test"]).arg(folder));
        assert_eq!(mounted.code, 0, "a small file system cannot be mounted here, so a full store cannot be tested: {}", mounted.stderr);
        let small = Self(folder.to_owned());
        run(Command::new("cp").arg("-a").arg(keep.path().join(".")).arg(folder));
        small
    }

    fn grow(&self, size: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.0));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    let _ = Finished::of(command).ok();
}

/// The coordinator says why it waits.
fn told(site: &Site, words: &str) {
    wait_until(Duration::from_secs(40), &format!("the coordinator's log says '{words}'"), || site.fleet.coordinator_log().contains(words));
}

/// Nothing moves for a while, and the agent is alive.
#[allow(clippy::disallowed_methods, reason = "that nothing happens is seen by waiting")]
fn stands_still(site: &mut Site, collection: &str) {
    let stored = |site: &Site| site.fleet.collection(collection)["stored_bytes"].as_u64();
    let mut before = stored(site);
    // A segment that was under way when room ended may still arrive.
    wait_until(Duration::from_secs(30), "nothing is stored for two seconds", || {
        std::thread::sleep(Duration::from_secs(2));
        let now = stored(site);
        std::mem::replace(&mut before, now) == now
    });
    let state = site.fleet.collection(collection)["state"].clone();
    assert_eq!(state, "running");
}

#[test]
fn a_store_that_is_full_makes_the_agent_wait() {
    let fleet = Fleet::prepare();
    fleet.configure("free_bytes_min", "0");
    let small = Small::over(&fleet.coordinator_dir().join("store"), "12m");
    fleet.start_coordinator();
    let mut site = Site::new(fleet);
    let collection = site.order("40M");
    told(&site, "upload paused");
    stands_still(&mut site, &collection);
    small.grow("64m");
    let stored = site.check(&collection, "the store was full");
    assert_eq!(stored.streams, 1);
    drop(site);
}

#[test]
fn a_store_below_its_reserve_makes_the_agent_wait() {
    let fleet = Fleet::prepare();
    fleet.configure("free_bytes_min", "40000000");
    let small = Small::over(&fleet.coordinator_dir().join("store"), "52m");
    fleet.start_coordinator();
    let mut site = Site::new(fleet);
    let collection = site.order("40M");
    told(&site, "bytes free");
    stands_still(&mut site, &collection);
    small.grow("128m");
    let stored = site.check(&collection, "the store was below its reserve");
    assert_eq!(stored.streams, 1);
    drop(site);
}

#[test]
fn a_catalog_that_is_full_makes_the_agent_wait() {
    let fleet = Fleet::prepare();
    // The catalog lies in a folder of its own for this.
    let folder = fleet.coordinator_dir().join("index");
    std::fs::create_dir(&folder).expect("folder");
    for name in ["catalog.sqlite", "catalog.sqlite.lock"] {
        let _ = std::fs::rename(fleet.coordinator_dir().join(name), folder.join(name));
    }
    fleet.configure("catalog", "\"index/catalog.sqlite\"");
    let small = Small::over(&folder, "4m");
    fleet.start_coordinator();
    let mut site = Site::new(fleet);
    let collection = site.order("12M");
    site.wait_segments(&collection, 1);
    let filler = folder.join("filler");
    let _ = Command::new("dd").args(["if=/dev/zero", "bs=4096", &format!("of={}", filler.display())]).status();
    told(&site, "full");
    stands_still(&mut site, &collection);
    std::fs::remove_file(filler).expect("removed");
    let stored = site.check(&collection, "the catalog was full");
    assert_eq!(stored.streams, 1);
    drop(site);
    drop(small);
}

#[test]
fn a_catalog_that_somebody_holds_makes_the_agent_wait() {
    let mut site = Site::new(Fleet::start());
    let collection = site.order("12M");
    site.wait_segments(&collection, 1);
    let catalog = site.fleet.coordinator_dir().join("catalog.sqlite");
    let hold = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\nc.execute('BEGIN IMMEDIATE')\nprint('held', flush=True)\nsys.stdin.read()\n";
    let mut holder = Command::new("python3")
        .args(["-c", hold])
        .arg(&catalog)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("python3 is installed: tests/run does it");
    told(&site, "the catalog is busy");
    stands_still(&mut site, &collection);
    drop(holder.stdin.take());
    holder.wait().expect("ends");
    let stored = site.check(&collection, "somebody held the catalog");
    assert_eq!(stored.streams, 1);
}

#[test]
fn a_store_that_may_not_be_written_makes_the_agent_wait() {
    let mut site = Site::new(Fleet::start());
    let collection = site.order("12M");
    site.wait_segments(&collection, 1);
    // Even root may not write into a file system that is read-only.
    let store = site.fleet.coordinator_dir().join("store");
    let bound = Finished::of(Command::new("mount").args(["--bind"]).arg(&store).arg(&store));
    assert_eq!(bound.code, 0, "nothing can be mounted here, so lost rights cannot be tested: {}", bound.stderr);
    let _guard = Small(store.clone());
    run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&store));
    told(&site, "mounted read-only");
    stands_still(&mut site, &collection);
    run(Command::new("mount").args(["-o", "remount,bind,rw"]).arg(&store));
    let stored = site.check(&collection, "the store could not be written");
    assert_eq!(stored.streams, 1);
}
