//! Processes over which something is mounted in `/proc`.

use std::process::Command;

use rustix::mount::mount_bind;

use super::*;
use crate::capture::process_memory::tests::programs::Target;
use crate::capture::testing::{hide_others, in_own_mounts, without_mounting};

/// A process with a word of its own in its command line.
fn sleeper(word: &str) -> Target {
    let mut command = Command::new("sh");
    command.args(["-c", "echo ready; read forever", word]);
    Target::start(command)
}

/// The mount shows another process, another's file, or nothing: what is taken is the process itself, and the mount is told.
#[test]
fn what_is_mounted_over_a_process_is_not_taken_for_it() {
    in_own_mounts("capture::process::tests::covered::what_is_mounted_over_a_process_is_not_taken_for_it", || {
        let (folder, file, emptied, other) = (sleeper("word-a"), sleeper("word-b"), sleeper("word-c"), sleeper("word-d"));
        let empty = tempfile::tempdir().expect("folder");
        mount_bind(format!("/proc/{}", other.pid()), format!("/proc/{}", folder.pid())).expect("mount");
        mount_bind(format!("/proc/{}/cmdline", other.pid()), format!("/proc/{}/cmdline", file.pid())).expect("mount");
        mount_bind(empty.path(), format!("/proc/{}", emptied.pid())).expect("mount");

        let out = Memory::run(&Process::default(), &[("exe", "false"), ("deleted", "false")]);
        for (target, word) in [(&folder, "word-a"), (&file, "word-b"), (&emptied, "word-c"), (&other, "word-d")] {
            let pid = target.pid();
            let line = String::from_utf8_lossy(out.content(&format!("/proc/{pid}/cmdline"))).into_owned();
            assert!(line.contains(word), "{pid}: {line}");
            let stat = String::from_utf8_lossy(out.content(&format!("/proc/{pid}/stat"))).into_owned();
            assert!(stat.starts_with(&format!("{pid} ")), "{stat}");
            assert_ne!(row(&out, pid)["status"], "vanished");
        }
        let hidden = out.rows("hidden");
        for target in [&folder, &file, &emptied] {
            let told = |r: &Value| r["pid"] == target.pid() && r["found_by"][0] == "mount";
            assert!(hidden.iter().any(told), "the mount over {} is told: {hidden:?}", target.pid());
        }
    });
}

/// A folder that somebody mounted over `/proc` is no table of this host's processes, and lacks nothing because the kernel does.
#[test]
fn what_a_forged_proc_shows_is_no_success() {
    in_own_mounts("capture::process::tests::covered::what_a_forged_proc_shows_is_no_success", || {
        let forged = tempfile::tempdir().expect("folder");
        std::fs::create_dir(forged.path().join("4711")).expect("folder");
        std::fs::write(forged.path().join("4711/stat"), "4711 (fake) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 7").expect("file");
        mount_bind(forged.path(), "/proc").expect("mount");
        without_mounting();
        let out = Memory::run(&Process::default(), &[("exe", "false"), ("deleted", "false")]);
        assert!(out.nothing, "the collection is no success");
        for table in ["table.jsonl", "socket-owners.jsonl", "hidden.jsonl"] {
            let put = out.get(table).expect("a table");
            let reason = put.item.reason.as_deref().unwrap_or_default();
            assert!(put.status == Status::Partial && reason.contains("/proc "), "{table}: {reason}");
        }
        let reason = out.get("table.jsonl").and_then(|put| put.item.reason.clone()).unwrap_or_default();
        assert!(reason.contains("/proc is no procfs"), "{reason}");
        assert_eq!(row(&out, 4_711)["pid"], 4_711);
        let of_all: Vec<_> = out.puts.iter().filter(|p| p.item.path.as_bytes().starts_with(b"/proc/*/")).collect();
        assert!(of_all.iter().all(|p| p.status == Status::Skipped), "{of_all:?}");
        let reasons: Vec<&str> = of_all.iter().filter_map(|p| p.item.reason.as_deref()).collect();
        assert!(reasons.iter().any(|r| r.contains("not asked: /proc is no procfs")), "{reasons:?}");
    });
}

/// Who is not shown has not ended: signal 0 finds it.
#[test]
fn who_is_kept_from_the_agent_by_hidepid_has_not_ended() {
    in_own_mounts("capture::process::tests::covered::who_is_kept_from_the_agent_by_hidepid_has_not_ended", || {
        let target = sleeper("word-a");
        hide_others();
        let out = Memory::run(&Process::default(), &[("exe", "false"), ("deleted", "false")]);
        let put = out.get(&format!("/proc/{}", target.pid())).expect("an item");
        let reason = put.item.reason.as_deref().unwrap_or_default();
        assert!(put.status == Status::Denied && reason.contains("hidepid=") && reason.contains("CAP_SYS_PTRACE"), "{reason}");
        assert_eq!(row(&out, target.pid())["status"], "denied");
        let table = out.get("table.jsonl").expect("a table");
        assert!(table.status == Status::Partial && table.item.facts["hidepid"].contains("hidepid="), "{:?}", table.item);
        assert!(out.get("hidden.jsonl").expect("a table").item.facts["hidepid"].contains("hidepid="));
    });
}

/// Who may trace everybody is shown everybody, whatever the option is.
#[test]
fn a_hidepid_that_hides_nobody_from_the_agent_is_no_doubt() {
    in_own_mounts("capture::process::tests::covered::a_hidepid_that_hides_nobody_from_the_agent_is_no_doubt", || {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("proc", "/proc", "proc", flags, c"hidepid=2,gid=54321").expect("mount");
        without_mounting();
        assert_eq!(crate::capture::process::hidepid::told(), None);
    });
}
