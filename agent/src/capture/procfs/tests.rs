use std::process::Command;

use rustix::fs::inotify;
use rustix::mount::mount_bind;

use super::*;
use crate::capture::Status;
use crate::capture::process::Process;
use crate::capture::process_memory::ProcessMemory;
use crate::capture::process_memory::tests::programs::Target;
use crate::capture::testing::{Memory, in_own_mounts, in_own_numbers, with_mounting, without_mounting};
use crate::capture::walk::inode::Opener;

/// A process with a word of its own in its command line.
fn sleeper(word: &str) -> Target {
    let mut command = Command::new("sh");
    command.args(["-c", "echo ready; read forever", word]);
    Target::start(command)
}

fn fact(name: &str) -> Option<String> {
    facts().into_iter().find(|(n, _)| *n == name).map(|(_, value)| value)
}

#[test]
fn a_folder_of_the_agents_own_has_nothing_mounted_in_it() {
    in_own_mounts("capture::procfs::tests::a_folder_of_the_agents_own_has_nothing_mounted_in_it", || {
        let (first, other) = (sleeper("the-first"), sleeper("the-other"));
        let folder = format!("/proc/{}", first.pid());
        mount_bind(format!("/proc/{}", other.pid()), &folder).expect("mount");
        let shown = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
        let through = live::read_at(CWD, format!("{folder}/cmdline"), SMALL_BYTES_MAX).expect("read");
        assert!(shown(&through.bytes).contains("the-other"), "the mount stands");

        let dir = process(first.pid()).expect("its folder");
        let read = read_at(&dir, "cmdline", SMALL_BYTES_MAX).expect("read");
        assert!(shown(&read.bytes).contains("the-first"), "{}", shown(&read.bytes));
        assert!(link(&dir, "exe").is_ok() && follow(&dir, "exe", OFlags::PATH).is_ok());
        assert!(covered(&Mounts::read().expect("mounts")).contains(&first.pid()));
        assert_eq!((fact("procfs").as_deref(), fact("proc_shows")), (Some("own"), None));
        assert!(known().is_ok_and(|root| root.unguarded.is_none()), "no mount in it would be crossed either");
    });
}

#[test]
fn where_there_is_no_folder_of_its_own_a_mount_is_an_error_that_is_told() {
    in_own_mounts("capture::procfs::tests::where_there_is_no_folder_of_its_own_a_mount_is_an_error_that_is_told", || {
        let (first, second, other) = (sleeper("the-first"), sleeper("the-second"), sleeper("the-other"));
        let proc = live::open_dir(CWD, "/proc").expect("/proc");
        let Root { dir: proc, unguarded, .. } = Root::shared(proc, Shown::Own, Instead::Refused(Errno::PERM));
        assert_eq!(unguarded, None, "the kernel has openat2");
        mount_bind(format!("/proc/{}", other.pid()), format!("/proc/{}", first.pid())).expect("mount");
        mount_bind(format!("/proc/{}/cmdline", other.pid()), format!("/proc/{}/cmdline", second.pid())).expect("mount");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = |path: String| uncrossed(proc.as_fd(), path, flags).map(drop);
        assert_eq!(opened(first.pid().to_string()), Err(Errno::XDEV));
        assert_eq!(opened(format!("{}/cmdline", second.pid())), Err(Errno::XDEV));
        assert_eq!(opened(format!("{}/environ", second.pid())), Ok(()));
        assert_eq!(opened(format!("{}/cmdline", other.pid())), Ok(()));
        let (status, reason) = live::refusal(Errno::XDEV);
        assert!(status == Status::Error && reason.contains("mounted over"), "{reason}");
    });
}

#[test]
fn who_may_not_mount_is_told_to_have_looked_through_proc() {
    in_own_mounts("capture::procfs::tests::who_may_not_mount_is_told_to_have_looked_through_proc", || {
        without_mounting();
        let told = fact("procfs").expect("a fact");
        assert!(told.starts_with("guarded: ") && told.contains("Operation not permitted"), "{told}");
        assert_eq!((fact("proc_shows"), foreign()), (None, None));
        let listed = listed_to_all(1 << 22).expect("listed");
        assert!(has_own_numbers() && listed.pids.contains(&std::process::id()) && listed.instead.is_none());
    });
}

/// A folder over the whole of `/proc`, whose `self` leads to another number than the agent's: its own procfs stays in use.
#[test]
fn a_folder_over_the_whole_of_proc_is_not_looked_into() {
    in_own_mounts("capture::procfs::tests::a_folder_over_the_whole_of_proc_is_not_looked_into", || {
        let target = sleeper("the-first");
        let forged = tempfile::tempdir().expect("folder");
        std::fs::create_dir(forged.path().join("4711")).expect("folder");
        std::fs::write(forged.path().join("4711/status"), format!("Name:\tx\nNSpid:\t4711\t{}\n", std::process::id())).expect("file");
        std::os::unix::fs::symlink("4711", forged.path().join("self")).expect("link");
        mount_bind(forged.path(), "/proc").expect("mount");
        assert_eq!(live::link(CWD, "/proc/self").expect("link"), b"4711", "the folder is shown");

        assert_eq!((fact("procfs").as_deref(), fact("proc_shows").as_deref()), (Some("own"), Some("no procfs")));
        assert!(has_own_numbers() && foreign().is_none());
        assert!(listed(1 << 22).expect("listed").0.contains(&target.pid()));
        let to_all = listed_to_all(1 << 22).expect("listed");
        assert!(to_all.pids.contains(&target.pid()) && to_all.instead == Some("no procfs"), "the folder is not what is listed");
        let mounts = Mounts::read().expect("the agent's own table");
        assert!(mounts.all().iter().any(|m| m.point == b"/proc" && m.fs_type != b"proc"), "it has the folder");

        let out = Memory::run(&Process::default(), &[("exe", "false"), ("deleted", "false")]);
        assert!(String::from_utf8_lossy(out.content(&format!("/proc/{}/cmdline", target.pid()))).contains("the-first"));
        let hidden = out.get("hidden.jsonl").expect("a table");
        assert_eq!((hidden.item.facts["procfs"].as_str(), hidden.item.facts["proc_shows"].as_str()), ("own", "no procfs"));
        assert_eq!(out.rows("hidden").len(), 0, "who is compared with a listing of nothing would be hidden");
        assert_eq!(out.get("table.jsonl").expect("a table").item.facts["procfs"], "own");
    });
}

/// A filter that refuses the call is not a kernel without it.
#[test]
fn why_mounts_are_not_looked_out_for_is_told() {
    let told = |e: Errno| {
        let proc = live::open_dir(CWD, "/proc").expect("/proc");
        Root { unguarded: Some(e), ..Root::shared(proc, Shown::Own, Instead::Refused(Errno::PERM)) }.told()
    };
    assert!(told(Errno::NOSYS).contains("the kernel does not offer openat2"), "{}", told(Errno::NOSYS));
    let refused = told(Errno::PERM);
    assert!(refused.starts_with("unguarded: ") && refused.contains("openat2 is refused (Operation not permitted"), "{refused}");
}

/// The procfs of a PID namespace that the agent is not in.
#[test]
fn the_procfs_of_another_namespace_over_the_whole_of_proc_is_not_looked_into() {
    in_own_mounts("capture::procfs::tests::the_procfs_of_another_namespace_over_the_whole_of_proc_is_not_looked_into", || {
        let target = sleeper("the-first");
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "sh", "-c", "mount -t proc proc /proc && echo ready && read forever"]);
        let _inside = Target::start(command);
        assert_eq!(live::link(CWD, "/proc/self"), Err(Errno::NOENT), "nobody here has a number there");

        assert_eq!(fact("procfs").as_deref(), Some("own"));
        assert_eq!(fact("proc_shows").as_deref(), Shown::Other.told());
        assert!(has_own_numbers() && foreign().is_none());
        let dir = process(target.pid()).expect("its folder");
        let read = read_at(&dir, "cmdline", SMALL_BYTES_MAX).expect("read");
        assert!(String::from_utf8_lossy(&read.bytes).contains("the-first"));
    });
}

/// Links are read without looking out for mounts only where the kernel lets nobody mount anything in the agent's own procfs.
#[test]
fn where_something_can_be_mounted_in_the_agents_own_procfs_it_is_looked_out_for() {
    in_own_mounts("capture::procfs::tests::where_something_can_be_mounted_in_the_agents_own_procfs_it_is_looked_out_for", || {
        let own = Root::own().expect("a procfs");
        let file = tempfile::NamedTempFile::new().expect("file");
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = open_tree(CWD, file.path(), flags).expect("a copy of its mount");
        let moved = rustix::mount::move_mount(&copy, "", &own.dir, "loadavg", rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
        assert!(!(own.is_still && moved.is_ok()), "it was taken for one in which nothing can be mounted");
        if moved.is_ok() {
            assert_eq!(uncrossed(own.dir.as_fd(), "loadavg", OFlags::RDONLY | OFlags::CLOEXEC).map(drop), Err(Errno::XDEV));
        }
    });
}

/// Mounts an empty folder in the agent's own procfs, as root can through the agent's descriptors. False where the kernel cannot.
fn mounts_in_own(folder: &std::path::Path, pid: u32) -> bool {
    let root = known().expect("a procfs");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = open_tree(CWD, folder, flags).expect("a copy of its mount");
    let how = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&copy, "", &root.dir, pid.to_string(), how).is_ok()
}

/// Who once mounted something in the agent's own procfs hides nothing from the next capture, and it is told.
#[test]
fn what_is_mounted_in_the_agents_own_procfs_is_told_and_not_there_at_the_next_capture() {
    in_own_mounts("capture::procfs::tests::what_is_mounted_in_the_agents_own_procfs_is_told_and_not_there_at_the_next_capture", || {
        let (target, folder) = (sleeper("the-first"), tempfile::tempdir().expect("folder"));
        let command_line = || {
            let read = process(target.pid()).and_then(|dir| read_at(&dir, "cmdline", SMALL_BYTES_MAX))?;
            Ok::<_, Errno>(String::from_utf8_lossy(&read.bytes).contains("the-first"))
        };
        if !mounts_in_own(folder.path(), target.pid()) {
            return;
        }
        // What nobody met is gone as well.
        renew();
        assert_eq!((command_line(), fact("procfs").as_deref()), (Ok(true), Some("own")));

        assert!(mounts_in_own(folder.path(), target.pid()), "a second time");
        assert_eq!(command_line(), Err(Errno::XDEV));
        assert!(fact("procfs").is_some_and(|told| told.starts_with("own; something was mounted in it")), "{:?}", facts());
        for _ in 0..2 {
            renew();
            assert_eq!(command_line(), Ok(true));
            assert_eq!(fact("procfs").as_deref(), Some("own; something was mounted in one that the agent had before"));
        }
    });
}

/// What lies over the agent's own folder costs it what it would open again: that is no fault of the processes, and the tables say it.
#[test]
fn what_is_mounted_over_the_agents_own_folder_is_told_as_that() {
    in_own_mounts("capture::procfs::tests::what_is_mounted_over_the_agents_own_folder_is_told_as_that", || {
        let (target, folder) = (sleeper("the-first"), tempfile::tempdir().expect("folder"));
        assert_eq!(met(), None);
        if !mounts_in_own(folder.path(), std::process::id()) {
            return;
        }
        let out = Memory::run(&Process::default(), &[("hidden", "false")]);
        assert!(out.nothing, "the collection ends as no success");
        let table = out.get("table.jsonl").expect("a table");
        let reason = table.item.reason.as_deref().unwrap_or_default();
        assert!(table.status == Status::Partial && reason.contains("the agent's own folder /proc/"), "{reason}");
        assert!(table.item.facts["procfs"].starts_with("own; something was mounted in it"), "{:?}", table.item.facts);
        let programs = out.puts.iter().filter(|p| p.item.path.as_bytes().ends_with(b"/exe") && p.status == Status::Error);
        let reasons: Vec<&str> = programs.filter_map(|p| p.item.reason.as_deref()).collect();
        assert!(!reasons.is_empty() && reasons.iter().all(|r| r.contains("nothing is mounted over this process")), "{reasons:?}");
        let row = out.rows("table").into_iter().find(|r| r["pid"] == target.pid()).expect("a row");
        assert_eq!((&row["status"], &row["comm"]), (&"partial".into(), &"sh".into()), "the process itself is read: {row}");

        // Met on the way: all tables of a capture say the same.
        let out = Memory::run(&crate::capture::network::Network, &[("tools", "false")]);
        for table in ["sockets.jsonl", "links.jsonl", "namespaces.jsonl"] {
            let item = out.get(table).expect("a table");
            assert!(item.item.facts["procfs"].starts_with("own; something was mounted in it"), "{table}: {:?}", item.item.facts);
        }
    });
}

/// The agent runs for months.
#[test]
fn a_new_procfs_for_each_capture_leaves_nothing_open() {
    in_own_mounts("capture::procfs::tests::a_new_procfs_for_each_capture_leaves_nothing_open", || {
        let open = || live::numbers(open_dir(root().expect("a procfs"), "self/fd").expect("listed"), 1 << 16).expect("listed").0.len();
        let before = open();
        for _ in 0..20 {
            renew();
        }
        assert_eq!(open(), before);
    });
}

/// A folder in which `self` leads to `pid`, and all open files of this process lead to `file`.
fn forged(pid: u32, file: &std::path::Path) -> tempfile::TempDir {
    let forged = tempfile::tempdir().expect("folder");
    std::fs::create_dir_all(forged.path().join(format!("{pid}/fd"))).expect("folder");
    std::os::unix::fs::symlink(pid.to_string(), forged.path().join("self")).expect("link");
    for fd in 0..256 {
        std::os::unix::fs::symlink(file, forged.path().join(format!("{pid}/fd/{fd}"))).expect("link");
    }
    forged
}

/// The agent runs for months: what it once saw at `/proc` is not what is there for ever.
#[test]
fn what_is_mounted_over_proc_after_a_capture_is_told_and_not_listed() {
    in_own_mounts("capture::procfs::tests::what_is_mounted_over_proc_after_a_capture_is_told_and_not_listed", || {
        let hidden = || {
            renew();
            let out = Memory::run(&Process::default(), &[("exe", "false"), ("deleted", "false")]);
            let item = out.get("hidden.jsonl").expect("a table");
            let found = out.rows("hidden").into_iter().filter(|row| row["listed"] == false).count();
            // Nobody was compared with what everybody is shown: that is no whole look.
            let is_partial = item.status == Status::Partial && item.item.facts.contains_key("not_compared");
            (item.item.facts.get("proc_shows").cloned(), found, is_partial)
        };
        assert_eq!(hidden(), (None, 0, false));
        let forged = tempfile::tempdir().expect("folder");
        mount_bind(forged.path(), "/proc").expect("mount");
        assert_eq!(hidden(), (Some("no procfs".to_owned()), 0, true), "nobody is hidden because a folder lies over /proc");
        rustix::mount::unmount("/proc", rustix::mount::UnmountFlags::DETACH).expect("unmounted");
        assert_eq!(hidden(), (None, 0, false), "what is gone is not told any more");
    });
}

/// An agent that could have no procfs of its own asks again, and does not look through a forged folder for ever.
#[test]
fn what_lay_over_proc_for_a_while_does_not_stay_in_use() {
    in_own_mounts("capture::procfs::tests::what_lay_over_proc_for_a_while_does_not_stay_in_use", || {
        let forged = forged(4_711, std::path::Path::new("/etc/passwd"));
        mount_bind(forged.path(), "/proc").expect("mount");
        with_mounting(false);
        assert!(fact("procfs").is_some_and(|told| told.starts_with("guarded: ") && told.contains("cannot be checked")), "{:?}", facts());
        assert_eq!((fact("proc_shows").as_deref(), has_own_numbers()), (Some("no procfs"), false));
        with_mounting(true);
        renew();
        assert_eq!((fact("procfs").as_deref(), fact("proc_shows").as_deref()), (Some("own"), Some("no procfs")));
        assert!(has_own_numbers());
    });
}

/// Where the agent has no procfs of its own, the links to its open files may lead anywhere.
#[test]
fn a_file_that_is_opened_again_is_the_same_file_or_none() {
    in_own_mounts("capture::procfs::tests::a_file_that_is_opened_again_is_the_same_file_or_none", || {
        let files = tempfile::tempdir().expect("folder");
        let (meant, other) = (files.path().join("meant"), files.path().join("other"));
        std::fs::write(&meant, "meant").expect("file");
        std::fs::write(&other, "other").expect("file");
        let forged = forged(std::process::id(), &other);
        mount_bind(forged.path(), "/proc").expect("mount");
        with_mounting(false);
        let held = openat(CWD, meant.as_path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("held");
        assert!(follow(root().expect("/proc"), &format!("self/fd/{}", held.as_raw_fd()), OFlags::RDONLY).is_ok(), "it leads somewhere");
        // Nor is it opened to be compared: to open a device or what a server keeps may do something.
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).expect("inotify");
        inotify::add_watch(&watch, other.as_path(), inotify::WatchFlags::OPEN).expect("watched");
        let was_opened = || rustix::io::read(&watch, &mut [0_u8; 256][..]).is_ok();
        assert_eq!(reopen(&held, OFlags::RDONLY).map(drop), Err(Errno::STALE));

        // The capture of files opens by the name instead, and says that it has no attributes of what it cannot open.
        let (opener, dir) = (Opener::new(), live::open_dir(CWD, files.path()).expect("folder"));
        let look = opener.look(dir.as_fd(), c"meant", false).expect("a look");
        let (file, ..) = look.open_file(dir.as_fd(), c"meant").expect("opened");
        assert_eq!(live::read_fd(file, 100).expect("read").bytes, b"meant");
        assert!(!was_opened(), "the other file was opened");
        std::fs::read(&other).expect("read");
        assert!(was_opened(), "it would have been seen");
        let mut facts = std::collections::BTreeMap::new();
        assert!(look.metadata(None, &mut facts).xattrs.is_empty());
        assert!(facts["xattrs"].contains("/proc/self/fd"), "{facts:?}");
    });
}

#[test]
fn a_file_that_is_opened_again_is_found_in_a_true_procfs() {
    let file = tempfile::tempfile().expect("file");
    assert!(reopen(&file, OFlags::RDONLY).is_ok());
}

/// A container with process numbers of its own and the `/proc` around it: `process` shows what is there, and nobody is stopped,
/// asked or signalled by the numbers of others.
#[test]
fn a_container_with_the_hosts_proc_shows_the_host_and_stops_nobody() {
    in_own_numbers("capture::procfs::tests::a_container_with_the_hosts_proc_shows_the_host_and_stops_nobody", || {
        let there: u32 = number(&live::link(CWD, "/proc/self").expect("link")).expect("a number");
        assert_ne!(there, std::process::id(), "/proc is the one around");

        assert_eq!(fact("proc_shows").as_deref(), Shown::Around.told());
        assert!(fact("procfs").is_some_and(|told| told.contains("this container was given it")), "{:?}", facts());
        let listed = listed_to_all(1 << 22).expect("listed");
        assert!(!has_own_numbers() && listed.pids.contains(&there) && listed.instead.is_none());
        assert!(Mounts::read().expect("the agent's own table").at(b"/proc").is_some());

        let out = Memory::run(&Process::default(), &[("exe", "false"), ("deleted", "false")]);
        let stat = String::from_utf8_lossy(out.content(&format!("/proc/{there}/stat"))).into_owned();
        assert!(stat.starts_with(&format!("{there} ")), "{stat}");
        let hidden = out.get("hidden.jsonl").expect("a table");
        assert!(hidden.item.facts["asked_by_signal"].starts_with("none"), "{:?}", hidden.item.facts);

        let out = Memory::run(&ProcessMemory, &[("pid", &there.to_string())]);
        assert!(out.nothing && out.puts.len() == 1, "{:?}", out.puts);
        let refused = out.get("targets.jsonl").expect("an item");
        assert_eq!((refused.status, &refused.content), (Status::Error, &None));
        assert!(refused.item.reason.as_deref().is_some_and(|r| r.contains("hostPID")), "{:?}", refused.item.reason);
    });
}
