//! Processes over which something is mounted in `/proc`.

use std::process::Command;

use rustix::mount::mount_bind;

use super::*;
use crate::capture::process_memory::tests::programs::Target;
use crate::capture::testing::in_own_mounts;

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
