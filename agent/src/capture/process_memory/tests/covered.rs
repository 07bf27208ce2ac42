//! Processes over which something is mounted in `/proc`.

use rustix::mount::mount_bind;

use super::*;
use crate::capture::testing::{hide_others, in_own_mounts, without_mounting};

fn shell() -> Target {
    let mut command = Command::new("sh");
    command.args(["-c", "echo ready; read forever"]);
    Target::start(command)
}

/// The core is that of the process that was ordered, whatever is mounted over its folder or over a file in it: never another's,
/// never a core of two.
#[test]
fn a_mount_over_a_process_does_not_put_another_ones_memory_in_its_place() {
    let name = "capture::process_memory::tests::covered::a_mount_over_a_process_does_not_put_another_ones_memory_in_its_place";
    in_own_mounts(name, || {
        let (folder, file, emptied, other) = (shell(), shell(), shell(), sleeper());
        let empty = tempfile::tempdir().expect("folder");
        // What the map of the order must show, before anything is in the way.
        let maps = |target: &Target| std::fs::read_to_string(format!("/proc/{}/maps", target.pid())).expect("maps");
        let start = |maps: &str| maps.split('-').next().expect("an address").to_owned();
        let targets = [(&folder, start(&maps(&folder))), (&file, start(&maps(&file))), (&emptied, start(&maps(&emptied)))];
        mount_bind(format!("/proc/{}", other.pid()), format!("/proc/{}", folder.pid())).expect("mount");
        mount_bind(format!("/proc/{}/maps", other.pid()), format!("/proc/{}/maps", file.pid())).expect("mount");
        mount_bind(empty.path(), format!("/proc/{}", emptied.pid())).expect("mount");

        let pids = format!("{}\n{}\n{}", folder.pid(), file.pid(), emptied.pid());
        let taken = Folder::take(&[("pid", &pids)]);
        let rows = taken.rows("targets.jsonl");
        for (target, first) in &targets {
            let pid = target.pid();
            let row = rows.iter().find(|r| r["pid"] == pid).expect("a row");
            assert!(row["core"].is_string(), "{row}");
            let first = u64::from_str_radix(first, 16).expect("an address");
            let core = std::fs::read(&taken.core(pid).file).expect("core");
            assert!(loads(&core).contains(&first), "{pid}: the core has its first mapping at {first:x}");
        }
        let targets = taken.get("targets.jsonl");
        assert!(targets.item.facts["mounted_over"].contains(&folder.pid().to_string()), "{:?}", targets.item.facts);
    });
}

/// Where the agent can have no procfs of its own, a process that is covered, and that the order means or may mean, is an item that
/// says so, and the collection is no success.
#[test]
fn who_is_covered_and_may_be_meant_is_no_silent_gap() {
    let name = "capture::process_memory::tests::covered::who_is_covered_and_may_be_meant_is_no_silent_gap";
    in_own_mounts(name, || {
        let (folder, group, other) = (shell(), shell(), sleeper());
        mount_bind(format!("/proc/{}", other.pid()), format!("/proc/{}", folder.pid())).expect("mount");
        mount_bind(format!("/proc/{}/cgroup", other.pid()), format!("/proc/{}/cgroup", group.pid())).expect("mount");
        without_mounting();
        let of_other = other.pid().to_string();
        for (params, covered) in [
            (vec![("pid", of_other.as_str())], vec![]),
            (vec![("pid", of_other.as_str()), ("container", "0123456789abcdef")], vec![folder.pid(), group.pid()]),
            (vec![("pid", of_other.as_str()), ("name", "no-such-name")], vec![folder.pid()]),
        ] {
            let mut taken = Folder::new();
            let ended = taken.run(&params);
            let rows = taken.rows("targets.jsonl");
            assert!(rows.iter().any(|r| r["pid"] == other.pid() && r["core"].is_string()), "{params:?}: {rows:?}");
            let said = |why: &str| why.starts_with(&format!("{} processes", covered.len())) && why.contains("mounted over");
            match &ended {
                Ok(()) => assert!(covered.is_empty(), "{params:?}"),
                Err(stop) => assert!(matches!(stop, Stop::Nothing(why) if !covered.is_empty() && said(why)), "{stop:?}"),
            }
            for pid in covered {
                let item = taken.core(pid);
                assert_eq!(item.status, Status::Error);
                assert!(item.item.reason.as_deref().is_some_and(|r| r.contains("mounted over")), "{:?}", item.item.reason);
            }
            assert!(taken.get("targets.jsonl").item.facts["procfs"].starts_with("guarded"), "{params:?}");
        }
    });
}

/// Who was ordered and is not taken for what is mounted over one of its files is no silent gap either.
#[test]
fn a_mount_over_one_file_of_who_was_ordered_is_no_success() {
    let name = "capture::process_memory::tests::covered::a_mount_over_one_file_of_who_was_ordered_is_no_success";
    in_own_mounts(name, || {
        let (file, other) = (shell(), sleeper());
        mount_bind(format!("/proc/{}/maps", other.pid()), format!("/proc/{}/maps", file.pid())).expect("mount");
        without_mounting();
        let mut taken = Folder::new();
        let ended = taken.run(&[("pid", &format!("{}\n{}", file.pid(), other.pid()))]);
        assert!(matches!(&ended, Err(Stop::Nothing(why)) if why.starts_with("1 processes") && why.contains("mounted over")), "{ended:?}");
        assert_eq!(taken.core(file.pid()).status, Status::Error);
        let rows = taken.rows("targets.jsonl");
        assert!(rows.iter().any(|r| r["pid"] == other.pid() && r["core"].is_string()), "{rows:?}");
    });
}

/// 10 GiB that were never touched, and a page that was.
const UNTOUCHED: &str = r#"
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    char *block = mmap(0, 10UL << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *own = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(own, 64, "TOUCHED-%s-%d", "ONCE", 1 + (block == MAP_FAILED));
    puts("ready"); printf("%016lx\n", (unsigned long)block); fflush(stdout);
    for (;;) pause();
}
"#;

/// Which pages there are is not known then, and that is said; what is empty is not read all the same.
#[test]
fn a_mount_over_the_list_of_pages_is_told() {
    in_own_mounts("capture::process_memory::tests::covered::a_mount_over_the_list_of_pages_is_told", || {
        let dir = tempfile::tempdir().expect("folder");
        let mut target = Target::start(Command::new(compile(dir.path(), "untouched", UNTOUCHED, &[])));
        let (pid, start) = (target.pid(), target.line());
        mount_bind("/proc/version", format!("/proc/{pid}/pagemap")).expect("mount");
        without_mounting();
        let taken = Folder::take(&[("pid", &pid.to_string())]);
        let core = taken.core(pid);
        let facts = &core.item.facts;
        assert!(facts["pages_not_seen"].starts_with("something is mounted over it"), "{facts:?}");
        assert_eq!(facts["swapped_bytes"], "not known");
        assert!(core.read < 256 << 20, "{} bytes were read", core.read);
        assert!(contains(&std::fs::read(&core.file).expect("core"), b"TOUCHED-ONCE-1"));
        let rows = taken.rows(&format!("{pid}/map.jsonl"));
        let memory = &rows[0]["memory"];
        assert!(memory["present_bytes"].is_null() && memory["swapped_bytes"].is_null(), "{memory}");
        let at = |r: &&serde_json::Value| {
            r["kind"] == "mapping"
                && r["start"].as_str().is_some_and(|s| s <= start.as_str())
                && r["end"].as_str().is_some_and(|e| e > start.as_str())
        };
        let row = rows.iter().find(at).expect("the mapping");
        assert!(row["present_bytes"].is_null() && row["note"].as_str().is_some_and(|note| note.contains("smaps")), "{row}");
    });
}

/// Files that cannot be looked at may be a userfaultfd.
#[test]
fn who_has_covered_files_may_watch_its_memory() {
    in_own_mounts("capture::process_memory::tests::covered::who_has_covered_files_may_watch_its_memory", || {
        let (covered, other, empty) = (shell(), shell(), tempfile::tempdir().expect("folder"));
        mount_bind(empty.path(), format!("/proc/{}/fd", covered.pid())).expect("mount");
        without_mounting();
        let watches = |target: &Target| {
            let dir = procfs::process(target.pid()).expect("its folder");
            super::super::one::watches(&dir, target.pid())
        };
        assert_eq!((watches(&covered), watches(&other)), (true, false));
    });
}

/// Whom `/proc` does not show the agent is neither gone nor out of the question.
#[test]
fn who_is_kept_from_the_agent_by_hidepid_is_no_silent_gap() {
    in_own_mounts("capture::process_memory::tests::covered::who_is_kept_from_the_agent_by_hidepid_is_no_silent_gap", || {
        let target = sleeper();
        hide_others();
        let pid = target.pid().to_string();
        let mut taken = Folder::new();
        assert!(matches!(taken.run(&[("pid", pid.as_str())]), Err(Stop::Nothing(_))));
        let item = taken.core(target.pid());
        assert_eq!(item.status, Status::Denied);
        assert!(item.item.reason.as_deref().is_some_and(|r| r.contains("hidepid=")), "{:?}", item.item.reason);
        let rows = taken.rows("targets.jsonl");
        assert!(rows.iter().any(|r| r["pid"] == target.pid() && r["result"] == "not looked at: see its item"), "{rows:?}");

        let mut taken = Folder::new();
        let ended = taken.run(&[("name", "no-such-name")]);
        assert!(matches!(&ended, Err(Stop::Nothing(why)) if why.contains("that /proc shows the agent")), "{ended:?}");
        let targets = taken.get("targets.jsonl");
        assert!(targets.status == Status::Partial && targets.item.facts["hidepid"].contains("hidepid="), "{:?}", targets.item);
    });
}

/// No table of mounts is not the same as no mounts.
#[test]
fn mounts_that_are_not_known_are_told() {
    in_own_mounts("capture::process_memory::tests::covered::mounts_that_are_not_known_are_told", || {
        let other = sleeper();
        mount_bind("/proc/version", format!("/proc/{}/mountinfo", std::process::id())).expect("mount");
        without_mounting();
        let pid = other.pid().to_string();
        let mut taken = Folder::new();
        let _ = taken.run(&[("pid", pid.as_str())]);
        let facts = &taken.get("targets.jsonl").item.facts;
        assert!(facts["mounted_over"].starts_with("not known: something is mounted over it"), "{facts:?}");
    });
}

/// The addresses of the segments of a core file (elf(5)).
fn loads(core: &[u8]) -> Vec<u64> {
    let word = |at: usize| u64::from_le_bytes(core[at..at + 8].try_into().expect("8 bytes"));
    let count = usize::from(u16::from_le_bytes([core[56], core[57]]));
    let table = usize::try_from(word(32)).expect("an offset");
    (0..count).map(|i| word(table + i * 56 + 16)).collect()
}
