use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::capture::Status;
use crate::capture::testing::Memory;

fn tree(files: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let base = dir.path().canonicalize().expect("base");
    for (file, content) in files {
        let path = base.join(file);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folders");
        std::fs::write(path, content).expect("file");
    }
    (dir, base)
}

/// Only what the test made: the class `other` limited to nothing by age would still look at the host.
fn extra(base: &std::path::Path, glob: &str) -> Memory {
    let text = format!("{}/{glob}", base.display());
    Memory::run(&Logs, &[("classes", ""), ("extra", &text)])
}

#[test]
fn rotated_logs_are_taken_byte_for_byte_with_their_class() {
    let (_dir, base) = tree(&[("app.log", b"new\n"), ("app.log.1", b"old\n"), ("app.log.2.gz", b"\x1f\x8b\x08\0bytes")]);
    let memory = extra(&base, "app.log*");
    for (name, content) in [("app.log", b"new\n".as_slice()), ("app.log.1", b"old\n"), ("app.log.2.gz", b"\x1f\x8b\x08\0bytes")] {
        let path = format!("{}/{name}", base.display());
        assert_eq!(memory.content(&path), content);
        assert_eq!(memory.get(&path).expect("item").item.facts["class"], "extra");
    }
}

/// Ends a writing thread also when an assertion of the reading side fails.
struct EndWith<'a>(&'a AtomicBool);

impl Drop for EndWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a writing thread writes at most: a test never fills a disk.
const WRITTEN_BYTES_MAX: usize = 32 << 20;

#[test]
fn a_log_that_is_appended_to_is_collected_and_is_what_it_was() {
    let line = b"2026-11-23T10:00:00Z host app[1]: a line of a log that is being written\n";
    let (_dir, base) = tree(&[("busy.log", &line.repeat(20_000))]);
    let path = base.join("busy.log");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = File::options().append(true).open(&path).expect("open");
            for _ in 0..WRITTEN_BYTES_MAX / line.len() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                log.write_all(line).expect("append");
            }
        });
        let _end = EndWith(&stop);
        for _ in 0..10 {
            let memory = extra(&base, "busy.log");
            let put = memory.get(&path.display().to_string()).expect("item");
            assert_eq!(put.status, Status::Collected, "{:?}", put.item.reason);
            let content = put.content.as_deref().expect("content");
            // The kernel lets a size be seen in the middle of a write that crosses a page: the last line may be begun only.
            assert!(content.len() >= 20_000 * line.len() && content.chunks(line.len()).all(|l| line.starts_with(l)));
            if let Some(size) = put.item.facts.get("grew_to") {
                assert!(size.parse::<usize>().expect("number") > content.len());
            }
        }
    });
}

#[test]
fn a_log_that_is_truncated_and_refilled_is_said_to_have_changed() {
    let (_dir, base) = tree(&[("t.log", &vec![b'a'; 300_000])]);
    let path = base.join("t.log");
    let stop = AtomicBool::new(false);
    let mut changed = 0_u32;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let log = File::options().write(true).open(&path).expect("open");
            let letters = (b'b'..=b'z').cycle();
            for letter in letters.take_while(|_| !stop.load(Ordering::Relaxed)) {
                // The file never holds more than 300,000 bytes.
                log.set_len(0).expect("truncate");
                std::os::unix::fs::FileExt::write_all_at(&log, &vec![letter; 300_000], 0).expect("refill");
            }
        });
        let _end = EndWith(&stop);
        for _ in 0..100 {
            let memory = extra(&base, "t.log");
            let put = memory.get(&path.display().to_string()).expect("item");
            let content = put.content.as_deref().expect("content");
            let mixed = content.iter().any(|b| Some(b) != content.first());
            assert!(!mixed || put.status == Status::ChangedDuringRead, "a mixture of two contents passed as one: {:?}", put.status);
            changed += u32::from(put.status == Status::ChangedDuringRead);
        }
    });
    println!("{changed} of 100 reads were marked as changed");
}

#[test]
fn classes_are_checked_and_narrow_what_is_taken() {
    let rules_of = |params: &[(&str, &str)]| {
        let values = params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        rules(&Params::new("logs", values))
    };
    let all = rules_of(&[]).expect("all classes");
    assert!(CLASSES.iter().all(|c| all.iter().any(|r| r.class == *c)));
    let two = rules_of(&[("classes", "journal\naudit")]).expect("two classes");
    assert!(two.iter().all(|r| r.class == "journal" || r.class == "audit") && two.len() > 5);
    let text = rules_of(&[("classes", "audits")]).expect_err("unknown");
    assert!(text.contains("'audits'") && text.contains("journal"), "{text}");
    let text = rules_of(&[("classes", "")]).expect_err("nothing");
    assert!(text.contains("for example 'audit'"), "{text}");
    let text = rules_of(&[("extra", "x.log")]).expect_err("relative");
    assert!(text.contains("'extra'"), "{text}");
}

#[test]
fn this_hosts_logs_are_taken_honestly() {
    let start = crate::clock::monotonic();
    let memory = Memory::run(&Logs, &[("max_size", "16MiB"), ("max_total", "256MiB")]);
    let took = crate::clock::monotonic().saturating_sub(start);
    assert!(memory.puts.iter().all(|p| p.status == Status::Collected || p.item.reason.is_some()));
    let mut paths: Vec<&[u8]> = memory.puts.iter().map(|p| p.item.path.as_bytes()).collect();
    let items = paths.len();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), items, "no path twice");
    for entry in std::fs::read_dir("/var/log").into_iter().flatten().flatten() {
        let path = entry.path().display().to_string();
        assert!(memory.get(&path).is_some() || !entry.path().exists(), "{path} was left out silently");
    }
    let bytes: usize = memory.puts.iter().filter_map(|p| p.content.as_ref()).map(Vec::len).sum();
    println!("logs of this host: {items} items, {bytes} bytes in {} ms", took.as_millis());
}
