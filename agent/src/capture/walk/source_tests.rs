use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::*;

struct One {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn one(content: &[u8]) -> One {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("file");
    std::fs::write(&path, content).expect("write");
    One { _dir: dir, path }
}

fn source(one: &One, growth: Growth) -> FileSource {
    let file = OwnedFd::from(File::open(&one.path).expect("open"));
    let before = stat(file.as_fd()).expect("stat");
    FileSource::new(file, before, growth)
}

fn read(source: &mut FileSource, from: u64, to: u64) -> Vec<u8> {
    let mut bytes = vec![0; (to - from) as usize];
    let count = source.read_at(from, &mut bytes).expect("read");
    bytes.truncate(count);
    bytes
}

/// Times have the grain of the kernel's clock tick: let one pass.
fn wait_a_tick(one: &One) {
    let before = std::fs::metadata(&one.path).expect("metadata").modified().expect("mtime");
    let probe = one.path.with_extension("probe");
    loop {
        std::fs::write(&probe, b"x").expect("write");
        if std::fs::metadata(&probe).expect("metadata").modified().expect("mtime") > before {
            return;
        }
    }
}

#[test]
fn an_unchanged_file_says_nothing() {
    let one = one(b"hello");
    let mut source = source(&one, Growth::IsChange);
    assert_eq!((source.size(), source.extents()), (5, None));
    assert_eq!(read(&mut source, 0, 5), b"hello");
    assert_eq!(source.after(), None);
    assert!(source.facts_after().is_empty());
}

#[test]
fn growth_is_normal_for_a_log_and_a_change_for_others() {
    for (growth, expected) in [(Growth::IsNormal, false), (Growth::IsChange, true)] {
        let one = one(&vec![b'a'; 20_000]);
        wait_a_tick(&one);
        let mut source = source(&one, growth);
        read(&mut source, 0, 20_000);
        File::options().append(true).open(&one.path).expect("open").write_all(b"more").expect("append");
        let after = source.after();
        assert_eq!(after.is_some(), expected, "{after:?}");
        assert_eq!(source.facts_after().get("grew_to").map(String::as_str), (!expected).then_some("20004"));
    }
}

#[test]
fn growth_with_a_rewritten_beginning_or_end_is_a_change() {
    for at in [0, 19_999] {
        let one = one(&vec![b'a'; 20_000]);
        wait_a_tick(&one);
        let mut source = source(&one, Growth::IsNormal);
        for from in (0..20_000).step_by(5_000) {
            read(&mut source, from, from + 5_000);
        }
        let file = File::options().write(true).open(&one.path).expect("open");
        file.write_all_at(b"X", at).expect("rewrite");
        file.write_all_at(b"more", 20_000).expect("append");
        let (status, reason) = source.after().expect("a change");
        assert!(status == Status::ChangedDuringRead && reason.contains("content within"), "{reason}");
    }
}

#[test]
fn truncation_rewriting_and_metadata_are_named() {
    let one = one(&[b'a'; 9_000]);
    wait_a_tick(&one);
    let mut truncated = source(&one, Growth::IsNormal);
    let mut rewritten = source(&one, Growth::IsNormal);
    let mut chmodded = source(&one, Growth::IsNormal);
    std::fs::set_permissions(&one.path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    let (_, reason) = chmodded.after().expect("a change");
    assert!(reason.contains("ctime") && !reason.contains("size") && !reason.contains("mtime"), "{reason}");
    let mut file = File::options().write(true).open(&one.path).expect("open");
    file.rewind().expect("rewind");
    file.write_all(b"b").expect("rewrite");
    let (_, reason) = rewritten.after().expect("a change");
    assert!(reason.contains("mtime") && !reason.contains("size"), "{reason}");
    file.set_len(10).expect("truncate");
    assert_eq!(read(&mut truncated, 0, 9_000).len(), 10);
    let (status, reason) = truncated.after().expect("a change");
    assert!(status == Status::ChangedDuringRead && reason.contains("size (9000 to 10 bytes)"), "{reason}");
}

#[test]
fn a_replaced_file_is_read_to_its_end() {
    let one = one(b"the old one");
    let mut source = source(&one, Growth::IsChange);
    let other = one.path.with_extension("new");
    std::fs::write(&other, b"the new one!").expect("write");
    std::fs::rename(&other, &one.path).expect("replace");
    assert_eq!(read(&mut source, 0, 11), b"the old one");
    // Losing its name changes an inode's ctime.
    let _ = source.after();
    assert!(source.facts_after().contains_key("unlinked"));
}

#[test]
fn holes_are_found() {
    let one = one(b"");
    let file = File::options().write(true).open(&one.path).expect("open");
    file.set_len(64 << 20).expect("size");
    file.write_all_at(&[1; 4096], 1 << 20).expect("data");
    file.write_all_at(&[2; 4096], 32 << 20).expect("data");
    file.sync_all().expect("sync");
    let source = source(&one, Growth::IsChange);
    let extents = source.extents().expect("this file system keeps holes");
    assert_eq!(extents, [Extent { offset: 1 << 20, length: 4096 }, Extent { offset: 32 << 20, length: 4096 }]);
    file.set_len(0).expect("empty");
    file.set_len(1 << 20).expect("one hole");
    let hole = self::source(&one, Growth::IsChange);
    assert_eq!(hole.extents(), Some(Vec::new()), "nothing but a hole");
}

#[test]
fn the_page_cache_is_left_as_it_was() {
    let one = one(&vec![7; 12 << 20]);
    let file = OwnedFd::from(File::open(&one.path).expect("open"));
    rustix::fs::fsync(&file).expect("sync");
    let cached = || exhibit_agent_sys::page_cache::cached_pages(file.as_fd());
    fadvise(&file, 0, None, Advice::DontNeed).expect("advice");
    if !matches!(cached(), Ok(0)) {
        // A file system in memory (nothing to be evicted, nothing to leave behind), or a kernel before 6.5.
        return;
    }
    let read_all = || {
        let mut source = source(&one, Growth::IsChange);
        for from in (0..12_u64 << 20).step_by(1 << 20) {
            read(&mut source, from, from + (1 << 20));
        }
        assert_eq!(source.after(), None);
    };
    read_all();
    assert_eq!(cached().ok(), Some(0), "what only the agent read is given back");
    std::fs::read(&one.path).expect("somebody else reads it");
    read_all();
    assert_eq!(cached().ok(), Some((12 << 20) / rustix::param::page_size() as u64), "what somebody else had in the cache stays there");
}

#[test]
fn what_was_just_read_seems_cached() {
    let one = one(&vec![7; 9 << 20]);
    std::fs::read(&one.path).expect("read");
    let file = OwnedFd::from(File::open(&one.path).expect("open"));
    assert!(seems_cached(&file, 9 << 20) && is_cached(&file, 9 << 20));
}
