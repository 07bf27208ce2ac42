//! A stream that is taken up by a later process, at every place where that can be: the same members, the same digests.

use std::path::Path;

use exhibit_evidence::key::SigningKey;
use exhibit_evidence::manifest::CONTINUED_AT;

use super::super::bookmark::{Reader, TakenUp};
use super::*;
use crate::capture::files::Files;

const KEY: [u8; 32] = [5; 32];

/// Bytes that do not compress.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(count + 8);
    while out.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(count);
    out
}

/// Small files, large ones, a sparse one, links: about 40 MiB.
fn tree(dir: &Path) {
    for n in 0..400_u64 {
        let folder = dir.join(format!("small-{}", n % 7));
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join(format!("{n}.txt")), noise(n + 1, (n * 97 % 40_000) as usize)).expect("file");
    }
    for (n, size) in [9 << 20, (3 << 20) + 17, 12 << 20, 100].into_iter().enumerate() {
        std::fs::write(dir.join(format!("large-{n}.bin")), noise(1_000 + n as u64, size)).expect("file");
    }
    let sparse = std::fs::File::create(dir.join("sparse.img")).expect("file");
    for at in [1_u64 << 20, 40 << 20, 90 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(at, 2 << 20), at).expect("write");
    }
    sparse.set_len(100 << 20).expect("length");
    std::os::unix::fs::symlink("large-0.bin", dir.join("link")).expect("link");
}

fn files_plan(dir: &Path) -> Plan {
    let params = [("paths".to_owned(), format!("{}/**", dir.display()))].into();
    let captures: Vec<(Box<dyn Capture>, Params)> = vec![
        (
            script("system", |out| out.put(NewItem::record("a.txt", out.now(), "test"), Content::Bytes(b"once")).map(drop)),
            Params::default(),
        ),
        (Box::new(Files), Params::new("files", params)),
        (script("tail", |out| out.put(NewItem::record("z.txt", out.now(), "test"), Content::Bytes(b"last")).map(drop)), Params::default()),
    ];
    Plan { captures, key: Some(Arc::new(SigningKey::from_seed(&KEY))), ..plan(Vec::new(), Budget::UNLIMITED) }
}

/// What a coordinator gives a later process that kept these segments.
fn taken_up(kept: &[Arc<Segment>]) -> Option<TakenUp> {
    taken_up_of(kept, &["system", "files", "tail"])
}

fn taken_up_of(kept: &[Arc<Segment>], captures: &[&str]) -> Option<TakenUp> {
    let last = kept.last().filter(|last| !last.bookmark.is_empty())?;
    let key = SigningKey::from_seed(&KEY);
    let mut reader = Reader::new(&facts(), kept.len() as u32, &last.bookmark, captures, &key).expect("own bookmark");
    for segment in kept {
        for piece in segment.lines.chunks(1_000) {
            reader.manifest(piece).expect("own lines");
        }
    }
    Some(reader.finish().expect("own manifest"))
}

fn digests(seen: &Seen) -> BTreeMap<String, (Status, u64, Option<Digest>)> {
    let of = |i: &Item| (format!("{} {}", i.capture, i.path), (i.status, i.size, i.sha256));
    // The report on the walk counts what this process saw, which differs.
    seen.items.iter().filter(|i| i.path.as_bytes() != b"rules.jsonl").map(of).collect()
}

#[test]
fn at_every_segment_the_digests_are_those_of_an_unbroken_stream() {
    let dir = tempfile::tempdir().expect("folder");
    tree(dir.path());
    let whole = run_plan(files_plan(dir.path()));
    let want = digests(&whole);
    assert!(whole.outcome.complete && whole.segments.len() >= 5, "{} segments", whole.segments.len());
    let (mut taken, mut across) = (0, 0);
    for kept in 1..whole.segments.len() {
        let before = whole.segments[..kept].to_vec();
        let Some(from) = taken_up(&before) else { continue };
        let again = run_from(files_plan(dir.path()), Some(from), before);
        assert_eq!(digests(&again), want, "taken up at segment {kept}");
        assert!(again.outcome.complete, "{:?}", again.outcome.reason);
        assert_eq!(again.items.len(), want.len() + 1, "each item once");
        assert!(again.segments[kept].facts.seam.is_some());
        across += again.items.iter().filter(|i| i.facts.contains_key(CONTINUED_AT)).count();
        taken += 1;
    }
    assert!(taken + 1 >= whole.segments.len() - 1, "{taken} of {} boundaries can be taken up", whole.segments.len() - 1);
    assert!(across >= 2, "large files lie across");
}

#[test]
fn a_file_that_changed_or_went_away_is_said_to_have() {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("a.bin"), noise(1, 20 << 20)).expect("file");
    let whole = run_plan(files_plan(dir.path()));
    let path = dir.path().join("a.bin");
    let name = path.to_str().expect("text").to_owned();
    let before = || whole.segments[..1].to_vec();
    let size = whole.item(&name).size;

    // Appended to: what was announced is read, and the item says that it changed.
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
    std::io::Write::write_all(&mut file, b"more").expect("append");
    let seen = run_from(files_plan(dir.path()), taken_up(&before()), before());
    let item = seen.item(&name);
    assert_eq!((item.status, item.size, item.sha256), (Status::ChangedDuringRead, size, whole.item(&name).sha256));

    // Another file under the same name: the rest is a gap, and the whole is not called whole.
    std::fs::remove_file(&path).expect("remove");
    std::fs::write(&path, noise(2, 20 << 20)).expect("file");
    for gone in [false, true] {
        if gone {
            std::fs::remove_file(&path).expect("remove");
        }
        let seen = run_from(files_plan(dir.path()), taken_up(&before()), before());
        let item = seen.item(&name);
        let from: u64 = item.facts[CONTINUED_AT].parse().expect("a number");
        assert_eq!((item.status, item.size), (Status::Partial, size), "{item:?}");
        assert_eq!(item.gaps.iter().map(|g| (g.offset, g.length)).collect::<Vec<_>>(), [(from, size - from)]);
        assert!(seen.content(&name)[from as usize..].iter().all(|b| *b == 0));
        assert!(seen.content(&name)[..from as usize] == whole.content(&name)[..from as usize]);
    }
}

/// Between two processes a log is rotated, a file is replaced and one appears where there was none: what lies at a known
/// path now is another file than the one that was taken, and nothing of it is lost.
#[test]
fn another_file_at_a_path_that_passed_is_taken_too() {
    let dir = tempfile::tempdir().expect("folder");
    let path = |name: &str| dir.path().join(name);
    for (name, seed, size) in [("a.log", 1, 3_000), ("b.conf", 2, 100), ("z.bin", 3, 20 << 20)] {
        std::fs::write(path(name), noise(seed, size)).expect("file");
    }
    let whole = run_plan(files_plan(dir.path()));
    let before = whole.segments[..2].to_vec();
    let from = taken_up(&before).expect("a bookmark within z.bin");
    std::fs::rename(path("a.log"), path("a.log.1")).expect("rotate");
    std::fs::write(path("a.log"), b"new log").expect("file");
    std::fs::write(path("b.new"), b"replaced").expect("file");
    std::fs::rename(path("b.new"), path("b.conf")).expect("replace");
    let seen = run_from(files_plan(dir.path()), Some(from), before);
    let digests = |name: &str| -> Vec<Digest> {
        let name = path(name);
        seen.items.iter().filter(|i| i.path.as_bytes() == name.as_os_str().as_encoded_bytes()).filter_map(|i| i.sha256).collect()
    };
    assert_eq!(digests("a.log"), [Digest::of(&noise(1, 3_000)), Digest::of(b"new log")]);
    assert_eq!(digests("a.log.1"), [Digest::of(&noise(1, 3_000))]);
    assert_eq!(digests("b.conf"), [Digest::of(&noise(2, 100)), Digest::of(b"replaced")]);
    assert_eq!(digests("z.bin"), [Digest::of(&noise(3, 20 << 20))], "once");
    let folder = seen.items.iter().filter(|i| i.path.as_bytes() == dir.path().as_os_str().as_encoded_bytes()).count();
    assert!(folder <= 1, "the folder is the same one");
}

/// The time that an order gives is that of the collection, not of each process.
#[test]
fn the_deadline_does_not_begin_again() {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("a.bin"), noise(1, 20 << 20)).expect("file");
    let whole = run_plan(files_plan(dir.path()));
    let before = whole.segments[..1].to_vec();
    let mut from = taken_up(&before).expect("a bookmark");
    // An hour ago, under another kernel: the machine may be up for less than an hour.
    let account = &mut from.point.account;
    account.boot_id = "another".to_owned();
    let started = account.started.as_mut().expect("begun");
    started.wall = started.wall.plus_s(-3_600);
    let deadline = crate::clock::monotonic() + std::time::Duration::from_mins(50);
    let plan = Plan { control: Arc::new(Control::new(Some(deadline))), ..files_plan(dir.path()) };
    let seen = run_from(plan, Some(from), before);
    assert!(!seen.outcome.complete, "an hour of fifty minutes was used by the first process");
    let reasons: Vec<&str> = seen.items.iter().filter_map(|i| i.reason.as_deref()).collect();
    assert!(reasons.iter().any(|r| r.contains("not finished: the deadline passed")), "{reasons:?}");
    assert!(reasons.iter().any(|r| r.contains("not begun: the deadline passed")), "the capture after it: {reasons:?}");
}

#[test]
fn what_cannot_be_read_again_leaves_no_bookmark() {
    let data = noise(3, 20 << 20);
    let once = script("process", move |out| {
        let item = NewItem::record("dump", out.now(), "test");
        out.put(item, Content::Bytes(&data)).map(drop)
    });
    let seen = run_plan(Plan { key: Some(Arc::new(SigningKey::from_seed(&KEY))), ..plan(vec![once], Budget::UNLIMITED) });
    assert!(seen.segments.len() > 1 && seen.segments.iter().all(|s| s.bookmark.is_empty()));
}

/// A loop device over a file; `None` where it is taken, or this may not be done.
struct Loop(String);

impl Loop {
    fn attach(file: &Path, node: Option<&str>) -> Option<Self> {
        let mut command = std::process::Command::new("losetup");
        match node {
            Some(node) => command.arg(node),
            None => command.args(["--find", "--show"]),
        };
        let out = command.arg(file).output().ok().filter(|out| out.status.success())?;
        Some(Self(node.map_or_else(|| String::from_utf8_lossy(&out.stdout).trim().to_owned(), str::to_owned)))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

fn disk_plan(node: &str) -> Plan {
    let params = [("path".to_owned(), node.to_owned())].into();
    let captures: Vec<(Box<dyn Capture>, Params)> = vec![(Box::new(crate::capture::disk::Disk), Params::new("disk", params))];
    Plan { captures, key: Some(Arc::new(SigningKey::from_seed(&KEY))), ..plan(Vec::new(), Budget::UNLIMITED) }
}

#[test]
fn a_disk_goes_on_where_it_was_and_is_not_taken_for_another() {
    let dir = tempfile::tempdir().expect("folder");
    let (image, other) = (dir.path().join("a.img"), dir.path().join("b.img"));
    let content = noise(11, 28 << 20);
    std::fs::write(&image, &content).expect("image");
    std::fs::write(&other, noise(12, 28 << 20)).expect("image");
    let device = Loop::attach(&image, None).expect("this test needs loop devices: run it as root where /dev/loop-control is");
    let node = device.0.clone();
    let whole = run_plan(disk_plan(&node));
    assert_eq!(whole.item(&node).sha256, Some(Digest::of(&content)));
    let mut across = 0;
    for kept in 1..whole.segments.len() {
        let before = whole.segments[..kept].to_vec();
        let Some(from) = taken_up_of(&before, &["disk"]) else { continue };
        let again = run_from(disk_plan(&node), Some(from), before);
        assert_eq!((again.item(&node).status, again.item(&node).sha256), (Status::Collected, Some(Digest::of(&content))));
        assert_eq!(again.items.len(), whole.items.len(), "each item once");
        across += usize::from(again.item(&node).facts.contains_key(CONTINUED_AT));
    }
    assert!(across >= 2, "the device lies across {across} boundaries");

    // Written to between the two processes: the kernel's count tells, whoever read it before.
    let before = || whole.segments[..2].to_vec();
    let file = std::fs::OpenOptions::new().write(true).open(&node).expect("open");
    std::os::unix::fs::FileExt::write_all_at(&file, &content[..4096], 0).expect("write");
    file.sync_all().expect("sync");
    drop(file);
    let seen = run_from(disk_plan(&node), taken_up_of(&before(), &["disk"]), before());
    let item = seen.item(&node);
    assert_eq!(item.status, Status::ChangedDuringRead);
    assert!(item.reason.as_ref().is_some_and(|r| r.contains("sectors of 512 bytes were written")), "{item:?}");

    // Another disk under the same name: the rest is a gap.
    drop(device);
    // Another test may have it for a moment, and the kernel may not have let go of it yet.
    let again = || {
        std::thread::park_timeout(std::time::Duration::from_millis(50));
        Loop::attach(&other, Some(&node))
    };
    let _device = (0..400).find_map(|_| again()).expect("the same loop device again");
    let seen = run_from(disk_plan(&node), taken_up_of(&before(), &["disk"]), before());
    let item = seen.item(&node);
    assert_eq!((item.status, item.gaps.len()), (Status::Partial, 1));
    assert!(item.reason.as_ref().is_some_and(|r| r.contains("another device was found")), "{item:?}");
}
