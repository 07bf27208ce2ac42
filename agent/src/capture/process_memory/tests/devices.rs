//! Private mappings of devices: what the process wrote there is its own memory.

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::*;

/// Maps a file or device privately and writes one page of it. What it writes is nowhere else, not even in its program. Says where.
const COPIED: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int fd = open(argv[1], O_RDWR);
    char *own = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (own == MAP_FAILED) return 1;
    volatile char sum = own[9 * 4096]; (void)sum;
    snprintf(own + 5 * 4096, 64, "WRITTEN-OVER-%s-%d", argv[2], 40 + argc);
    puts("ready"); printf("%016lx\n", (unsigned long)own); fflush(stdout);
    for (;;) pause();
}
"#;

/// Removed when the test ends, a loop device detached.
struct Node(String);

impl Drop for Node {
    fn drop(&mut self) {
        if self.0.starts_with("/dev/loop") {
            let _ = Command::new("losetup").args(["--detach", &self.0]).status();
        } else {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// What was taken of a process that wrote over a file, its core and the row of the mapping.
fn copied(program: &Path, path: &str, word: &str) -> (Folder, u32, serde_json::Value) {
    let mut command = Command::new(program);
    command.args([path, word]);
    let mut target = Target::start(command);
    let start = target.line();
    let taken = Folder::take(&[("pid", &target.pid().to_string())]);
    let rows = taken.rows(&format!("{}/map.jsonl", target.pid()));
    let row = rows.into_iter().find(|r| r["kind"] == "mapping" && r["start"] == start.as_str()).expect("the mapping");
    (taken, target.pid(), row)
}

/// The kernel makes memory without a file of it, by whatever node.
#[test]
fn what_was_written_over_a_private_mapping_of_dev_zero_is_in_the_core() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "copied", COPIED, &[]);
    let own = Node(format!("/dev/.exhibit-zero-{}", std::process::id()));
    mknodat(CWD, &own.0, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(1, 5)).expect("a node: run it as root");
    for path in ["/dev/zero", own.0.as_str()] {
        let (taken, pid, row) = copied(&program, path, "zero");
        let core = taken.core(pid);
        assert_eq!((core.status, &core.gaps), (Status::Collected, &vec![]), "{path}: {:?}", core.item);
        assert!(contains(&std::fs::read(&core.file).expect("core"), b"WRITTEN-OVER-zero-43"), "{path}: {row}");
        assert_eq!((&row["class"], &row["swapped_bytes"]), (&"anonymous".into(), &0.into()), "{path}");
        assert!(row["present_bytes"].as_u64() >= Some(4096) && row["stored_bytes"].as_u64() >= Some(4096), "{path}: {row}");
    }
}

/// Of a block device only what the process wrote is its own; what lies beneath is the device's.
#[test]
fn what_was_written_over_a_private_mapping_of_a_block_device_is_in_the_core() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "copied", COPIED, &[]);
    let image = dir.path().join("image");
    std::fs::write(&image, b"BENEATH-ON-THE-DEVICE".repeat(100_000)).expect("an image");
    let said = Command::new("losetup").args(["--find", "--show"]).arg(&image).output().expect("losetup");
    let node = Node(String::from_utf8_lossy(&said.stdout).trim().to_owned());
    assert!(said.status.success() && node.0.starts_with("/dev/loop"), "this test needs a loop device: run it as root");
    let (taken, pid, row) = copied(&program, &node.0, "block");
    let core = taken.core(pid);
    let bytes = std::fs::read(&core.file).expect("core");
    assert_eq!((core.status, &core.gaps), (Status::Collected, &vec![]), "{:?}", core.item);
    assert!(contains(&bytes, b"WRITTEN-OVER-block-43"), "{row}");
    assert_eq!((&row["class"], &row["present_bytes"], &row["stored_bytes"]), (&"device".into(), &4096.into(), &4096.into()), "{row}");
    assert!(row["note"].as_str().is_some_and(|note| note.starts_with("a block device: only pages that the process wrote")), "{row}");
}

/// Nobody looked at it: no number stands for that.
#[test]
fn what_was_not_looked_at_is_null_and_not_zero() {
    let target = sleeper();
    let taken = Folder::take(&[("pid", &target.pid().to_string())]);
    let rows = taken.rows(&format!("{}/map.jsonl", target.pid()));
    let of = |class: &str| rows.iter().find(|r| r["kind"] == "mapping" && r["class"] == class).expect(class);
    assert!(of("kernel")["present_bytes"].is_null() && of("shared-by-kernel")["present_bytes"].is_null());
    assert!(of("anonymous")["present_bytes"].is_u64());
}

/// A thread has a folder below `/proc` that no listing shows.
#[test]
fn the_number_of_a_thread_is_refused_with_the_one_of_its_process() {
    let dir = tempfile::tempdir().expect("folder");
    let target = Target::start(Command::new(compile(dir.path(), "threads", programs::THREADS, &["-pthread"])));
    let pid = target.pid();
    let (tids, _) = crate::capture::live::numbers(
        crate::capture::live::open_dir(rustix::fs::CWD, format!("/proc/{pid}/task")).expect("its threads"),
        100,
    )
    .expect("listed");
    let tid = tids.into_iter().find(|tid| *tid != pid).expect("another thread");
    let mut taken = Folder::new();
    let ended = taken.run(&[("pid", &format!("{pid}\n{tid}"))]);
    assert!(matches!(&ended, Err(Stop::Nothing(why)) if why.contains("of 1 processes that the order names")), "{ended:?}");
    assert_eq!(taken.core(pid).status, Status::Collected, "{:?}", taken.core(pid).item);
    let item = taken.core(tid);
    assert_eq!(item.status, Status::Error);
    assert!(item.item.reason.as_deref().is_some_and(|r| r.contains(&format!("name pid={pid}"))), "{:?}", item.item.reason);
    let rows = taken.rows("targets.jsonl");
    let row = rows.iter().find(|r| r["pid"] == tid).expect("a row");
    assert_eq!((&row["result"], &row["core"]), (&"not taken: see its item".into(), &serde_json::Value::Null));
    assert!(rows.iter().any(|r| r["pid"] == pid && r["stopped_us"].as_u64().is_some_and(|us| us > 0)), "{rows:?}");
}
