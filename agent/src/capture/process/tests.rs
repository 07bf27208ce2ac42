//! Real processes in the situations that matter, and parsers on arbitrary bytes.

mod covered;
mod hostile;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;
use serde_json::Value;

use super::content::{Budget, Wanted};
use super::reader::{Answer, STUCK_MAX};
use super::*;
use crate::capture::live::{Read, open_dir, read_at};
use crate::capture::testing::Memory;

/// A child that is killed and reaped when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies `/bin/sleep` to a folder and runs it from there.
fn sleep_from(dir: &std::path::Path, name: impl AsRef<std::ffi::OsStr>, arg0: &std::ffi::OsStr) -> Running {
    let program = dir.join(name.as_ref());
    std::fs::copy("/bin/sleep", &program).expect("copy sleep");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut command = Command::new(&program);
    command.arg0(arg0).arg("300").stdin(Stdio::null());
    // Another thread of this test program may still hold the copy open for writing across its own fork: then it is busy.
    for _ in 0..200 {
        match command.spawn() {
            Ok(child) => {
                let running = Running(child);
                wait_until(|| std::fs::read(format!("/proc/{}/cmdline", running.0.id())).is_ok_and(|c| c.ends_with(b"300\0")));
                return running;
            }
            Err(e) if e.raw_os_error() == Some(Errno::TXTBSY.raw_os_error()) => pause(),
            Err(e) => panic!("{e}"),
        }
    }
    panic!("the copy stays busy");
}

#[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(5));
}

fn wait_until(mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        pause();
    }
    panic!("it did not happen within 5 s");
}

fn row(out: &Memory, pid: u32) -> Value {
    out.rows("table").into_iter().find(|r| r["pid"] == pid).unwrap_or_else(|| panic!("no row of {pid}"))
}

#[test]
fn a_running_program_that_was_deleted_is_taken_whole() {
    let dir = tempfile::tempdir().expect("folder");
    let running = sleep_from(dir.path(), "implant", "implant".as_ref());
    std::fs::remove_file(dir.path().join("implant")).expect("delete");
    let out = Memory::run(&Process::default(), &[]);
    let pid = running.0.id();
    let row = row(&out, pid);
    assert_eq!(row["exe"]["deleted"], true);
    assert_eq!(row["exe"]["path"], dir.path().join("implant").to_str().expect("utf-8"));
    let item = row["exe"]["item"].as_str().expect("an item");
    assert_eq!(out.content(item), std::fs::read("/bin/sleep").expect("sleep"));
    let taken = out.get(item).expect("item");
    assert_eq!((taken.item.kind, taken.item.facts["deleted"].as_str()), (Kind::File, "true"));
    assert!(row["maps"]["files"].as_array().expect("files").iter().any(|f| f["deleted"] == true && f["map_file"].is_string()));
}

#[test]
fn what_is_open_although_deleted_is_taken_with_its_holes() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("loot (1)");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("create");
    file.write_all(b"begin").expect("write");
    file.seek(SeekFrom::Start(3 << 20)).expect("seek");
    file.write_all(b"end").expect("write");
    std::fs::remove_file(&path).expect("delete");
    let out = Memory::run(&Process::default(), &[]);
    let row = row(&out, std::process::id());
    let ino = file.metadata().expect("stat").ino();
    let fd = row["fds"].as_array().expect("fds").iter().find(|f| f["ino"] == ino).expect("the descriptor");
    assert_eq!((&fd["deleted"], &fd["type"], &fd["mode"], &fd["nlink"]), (&true.into(), &"file".into(), &"rw".into(), &0.into()));
    assert_eq!(fd["pos"], (3 << 20) + 3);
    let content = out.content(fd["item"].as_str().expect("an item"));
    assert_eq!(content.len(), (3 << 20) + 3);
    assert!(content.starts_with(b"begin\0") && content.ends_with(b"\0end"));
    assert!(!file.metadata().expect("stat").permissions().readonly());
}

#[test]
fn a_memfd_is_taken() {
    let memfd = rustix::fs::memfd_create("stage two", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    rustix::io::write(&memfd, b"\x7fELF stage two").expect("write");
    let out = Memory::run(&Process::default(), &[("exe", "false")]);
    let row = row(&out, std::process::id());
    let fds = row["fds"].as_array().expect("fds");
    let fd = fds.iter().find(|f| f["target"] == "/memfd:stage two (deleted)").expect("the memfd");
    assert_eq!(out.content(fd["item"].as_str().expect("item")), b"\x7fELF stage two");
    assert_eq!(row["exe"]["item"], Value::Null, "exe=false");
}

#[test]
fn a_fifo_or_device_that_is_open_never_holds_the_capture() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    let fifo = OpenOptions::new().read(true).write(true).open(&path).expect("open fifo");
    std::fs::remove_file(&path).expect("delete");
    let out = Memory::run(&Process::default(), &[("exe", "false")]);
    let row = row(&out, std::process::id());
    let ino = fifo.metadata().expect("stat").ino();
    let fd = row["fds"].as_array().expect("fds").iter().find(|f| f["ino"] == ino).expect("the fifo");
    assert_eq!((&fd["type"], &fd["deleted"], fd.get("item")), (&"fifo".into(), &true.into(), None));
}

#[test]
fn names_with_newlines_and_escapes_lose_nothing() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().expect("folder");
    let name = std::ffi::OsStr::from_bytes(b"a\n) R 1\x1b[2J\xff");
    let running = sleep_from(dir.path(), name, std::ffi::OsStr::from_bytes(b"[kworker/0:1]\n\xfe"));
    let out = Memory::run(&Process::default(), &[]);
    let pid = running.0.id();
    let row = row(&out, pid);
    let bytes = |v: &Value| match v {
        Value::String(s) => s.clone().into_bytes(),
        other => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, other["b64"].as_str().expect("b64")).expect("base64"),
    };
    assert_eq!(bytes(&row["comm"]), b"a\n) R 1\x1b[2J\xff");
    assert_eq!(bytes(&row["cmdline"][0]), b"[kworker/0:1]\n\xfe");
    assert_eq!((&row["kernel_thread"], &row["state"], &row["ppid"]), (&false.into(), &"S".into(), &std::process::id().into()));
    assert!(bytes(&row["exe"]["path"]).ends_with(name.as_bytes()));
    assert!(out.content(&format!("/proc/{pid}/cmdline")).starts_with(b"[kworker/0:1]\n\xfe\x00300\0"));
}

#[test]
fn a_process_that_ends_while_others_are_read_is_said_to_have_vanished() {
    let dir = tempfile::tempdir().expect("folder");
    let mut running = sleep_from(dir.path(), "short", "short".as_ref());
    let pid = running.0.id();
    let folder = open_dir(rustix::fs::CWD, format!("/proc/{pid}")).expect("its folder");
    running.0.kill().expect("kill");
    running.0.wait().expect("reap");
    // What was pinned while it lived answers for nobody else.
    assert!(matches!(read_at(&folder, "stat", 100), Err(Errno::SRCH | Errno::NOENT)));
    let mut out = Memory::default();
    let mut run = Run::new(&Params::default(), &mut out).expect("parameters");
    let Answer::Refused(error) = Reader::new(Plan::default(), PATIENCE).read(pid) else { panic!("it is gone") };
    let started = out.now();
    run.refused(&mut out, pid, error, started).expect("recorded");
    run.finish(&mut out, None).expect("finished");
    assert_eq!(out.get(&format!("/proc/{pid}")).expect("an item").status, Status::Vanished);
    assert_eq!(row(&out, pid)["status"], "vanished");
}

#[test]
fn a_zombie_has_a_row_without_inventions() {
    let child = Command::new("/bin/true").spawn().expect("spawn");
    let running = Running(child);
    let pid = running.0.id();
    wait_until(|| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z ")));
    let out = Memory::run(&Process::default(), &[("exe", "false")]);
    let row = row(&out, pid);
    assert_eq!((&row["state"], &row["exe"], &row["cwd"]), (&"Z".into(), &Value::Null, &Value::Null));
}

#[test]
fn sockets_name_their_holders() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let twin = listener.try_clone().expect("dup");
    let inode = {
        use std::os::fd::AsRawFd as _;
        File::open(format!("/proc/self/fd/{}", listener.as_raw_fd())).err();
        let target = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).expect("link");
        bracketed(target.as_os_str().as_encoded_bytes(), b"socket").expect("inode")
    };
    let out = Memory::run(&Process::default(), &[("exe", "false"), ("deleted", "false")]);
    let rows = out.rows("socket-owners");
    let owners = rows.iter().find(|r| r["inode"] == inode).expect("the socket");
    let holders = owners["holders"].as_array().expect("holders");
    assert!(holders.len() >= 2 && holders.iter().all(|h| h["pid"] == std::process::id()), "{owners}");
    drop(twin);
}

#[test]
fn the_table_agrees_with_ps() {
    let dir = tempfile::tempdir().expect("folder");
    let running = sleep_from(dir.path(), "compared", "compared".as_ref());
    let pid = running.0.id();
    let ps = Command::new("ps").args(["-o", "ppid=,pgid=,sid=,uid=,gid=,nlwp=,ni=,comm=", "-p", &pid.to_string()]).output().expect("ps");
    let ps = String::from_utf8(ps.stdout).expect("utf-8");
    let words: Vec<&str> = ps.split_whitespace().collect();
    let out = Memory::run(&Process::default(), &[]);
    let row = row(&out, pid);
    let ours = [
        &row["ppid"],
        &row["pgid"],
        &row["sid"],
        &row["uids"]["effective"],
        &row["gids"]["effective"],
        &row["threads_total"],
        &row["sched"]["nice"],
    ];
    let ours: Vec<String> = ours.iter().map(ToString::to_string).collect();
    assert_eq!(ours, words[..7]);
    assert_eq!(row["comm"], words[7]);
    // Every process that ps sees before and after is in the table.
    let pids = |out: &Memory| out.rows("table").iter().filter_map(|r| r["pid"].as_u64()).collect::<BTreeSet<u64>>();
    let listed = pids(&out);
    assert!(listed.contains(&1) && listed.contains(&u64::from(std::process::id())));
    assert!(listed.len() as u64 == out.rows("table").len() as u64, "one row each");
}

#[test]
fn an_unreadable_kind_of_file_is_said_once() {
    let out = Memory::run(&Process::default(), &[("environ", "false"), ("exe", "false")]);
    let environ = out.get("/proc/*/environ").expect("an item");
    assert_eq!(environ.status, Status::Skipped);
    assert!(!out.puts.iter().any(|p| p.item.path.as_bytes().ends_with(b"/environ") && p.content.is_some()));
    assert!(out.get("/proc/*/smaps").is_some());
}

#[test]
fn each_distinct_program_is_taken_once() {
    let dir = tempfile::tempdir().expect("folder");
    let program = dir.path().join("twice");
    let first = sleep_from(dir.path(), "twice", "twice".as_ref());
    let second = Running(Command::new(&program).arg("300").spawn().expect("spawn"));
    wait_until(|| std::fs::read_link(format!("/proc/{}/exe", second.0.id())).is_ok_and(|p| p == program));
    let out = Memory::run(&Process::default(), &[]);
    let (a, b) = (row(&out, first.0.id()), row(&out, second.0.id()));
    assert_eq!(a["exe"]["item"], b["exe"]["item"]);
    assert!(a["exe"]["item"].is_string());
    let one = out.puts.iter().filter(|p| p.item.facts.get("exe_path").is_some_and(|e| e.ends_with("/twice"))).count();
    assert_eq!(one, 1);
}

#[test]
fn limits_of_size_leave_a_reason() {
    let out = Memory::run(&Process::default(), &[("file_max", "1KiB")]);
    let skipped: Vec<_> = out.puts.iter().filter(|p| p.item.path.as_bytes().ends_with(b"/exe")).collect();
    assert!(skipped.iter().any(|p| p.status == Status::Skipped));
    let is_said =
        |p: &&&crate::capture::testing::Put| p.status == Status::Skipped && p.item.reason.as_ref().is_some_and(|r| r.contains("file_max"));
    // Processes of others may end meanwhile.
    let other: Vec<_> = skipped.iter().filter(|p| p.status != Status::Vanished && !is_said(p)).map(|p| (&p.item, p.status)).collect();
    assert!(other.is_empty(), "{other:?}");
}

#[test]
fn start_time_is_near_now() {
    let dir = tempfile::tempdir().expect("folder");
    let before = crate::clock::wall();
    let running = sleep_from(dir.path(), "timed", "timed".as_ref());
    let out = Memory::run(&Process::default(), &[("exe", "false")]);
    let start: exhibit_evidence::Timestamp = row(&out, running.0.id())["start_wall"].as_str().expect("time").parse().expect("a time");
    // Ticks are hundredths of a second, rounded down.
    assert!(start.unix_ns() >= before.unix_ns() - 20_000_000 && start <= crate::clock::wall(), "{before} {start}");
}

#[test]
fn two_hundred_processes_cost_less_than_a_second() {
    let children: Vec<Running> = (0..200).map(|_| Running(Command::new("/bin/sleep").arg("300").spawn().expect("spawn"))).collect();
    let before = crate::clock::process_cpu();
    let out = Memory::run(&Process::default(), &[("exe", "false")]);
    let spent = crate::clock::process_cpu().saturating_sub(before);
    let rows = out.rows("table");
    assert!(children.iter().all(|c| rows.iter().any(|r| r["pid"] == c.0.id())));
    println!("{} processes, {} items: {spent:?}", rows.len(), out.puts.len());
    // Unoptimised and beside other tests; optimised it is a small fraction (docs/operations/captures.md).
    assert!(spent < std::time::Duration::from_secs(3), "{spent:?}");
}

#[test]
fn cancelling_stops_at_once() {
    let mut out = Memory { cancel_after: Some(20), ..Memory::default() };
    let stopped = Process::default().run(&Params::default(), &mut out);
    assert!(matches!(stopped, Err(Stop::Cancelled(_))) && out.puts.len() == 20);
}

/// Told to end in the middle, what was read until then is in the tables, and how many were not read is said.
#[test]
fn the_tables_are_put_when_the_collection_is_to_end() {
    let mut out = Memory { ends_after: Some(20), ..Memory::default() };
    assert_eq!(Process::default().run(&Params::default(), &mut out), Err(Stop::Deadline));
    let table = out.get("table.jsonl").expect("a table");
    assert!(!out.rows("table").is_empty() && table.item.facts["not_reached"].parse::<u64>().is_ok_and(|n| n > 0), "{:?}", table.item);
    for name in ["table.jsonl", "socket-owners.jsonl"] {
        let put = out.get(name).expect("a table");
        let reason = put.item.reason.as_deref().unwrap_or_default();
        assert!(put.status == Status::Partial && reason.contains("were not read: the deadline"), "{name}: {reason}");
    }
    assert_eq!(out.get("hidden.jsonl").map(|p| p.status), Some(Status::Skipped));
}

#[test]
fn stat_of_a_hostile_name() {
    let s = parse::stat(b"12 (a) S 9 (\n) R 1 2 3 34816 -1 4194304 5 0 6 0 7 8 0 0 20 0 1 0 99 0 0\n").expect("parsed");
    assert_eq!((s.comm.as_slice(), s.state, s.ppid, s.start_ticks), (&b"a) S 9 (\n"[..], Some('R'), Some(1), Some(99)));
    assert_eq!(parse::tty_name(34816), Some("pts/0".into()));
    assert!(parse::stat(b"12 (S 1").is_none());
    assert!(parse::stat(b"2 (kthreadd) S 0 0 0 0 -1 2129984 0").expect("parsed").kernel_thread());
}

#[test]
fn limits_with_and_without_unit() {
    let text = b"Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max cpu time              unlimited            unlimited            seconds   \n\
                 Max nice priority         0                    7                    \n\
                 Max open files            1024                 524288               files     \n";
    let all = parse::limits(text);
    assert_eq!(all.len(), 3);
    assert_eq!((all[0].soft, all[0].unit.as_ref().map(|u| u.0.as_slice())), (None, Some(&b"seconds"[..])));
    assert_eq!((all[1].soft, all[1].hard, &all[1].unit), (Some(0), Some(7), &None));
    assert_eq!((all[2].soft, all[2].hard), (Some(1024), Some(524_288)));
}

#[test]
fn own_limits_are_all_understood() {
    let mut text = Vec::new();
    File::open("/proc/self/limits").expect("open").read_to_end(&mut text).expect("read");
    assert_eq!(parse::limits(&text).len(), text.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count() - 1);
}

#[test]
fn containers_of_known_runtimes() {
    let id = "0123456789abcdef".repeat(4);
    let uid = "0b3f5c1e-1111-2222-3333-444455556666";
    let under = uid.replace('-', "_");
    for (path, runtime, pod) in [
        (format!("/docker/{id}"), "docker", false),
        (format!("/system.slice/docker-{id}.scope"), "docker", false),
        (
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{id}.scope"),
            "containerd",
            true,
        ),
        (format!("/kubepods.slice/kubepods-pod{under}.slice/crio-{id}.scope"), "cri-o", true),
        (format!("/kubepods/besteffort/pod{uid}/{id}"), "unknown", true),
        (format!("/machine.slice/libpod-{id}.scope/container"), "podman", false),
        (format!("/k8s.io/{id}"), "containerd", false),
        (format!("/system.slice/containerd.service/kubepods-burstable-pod{under}.slice:cri-containerd:{id}"), "containerd", true),
    ] {
        let found = container::of_cgroup(format!("12:devices:/\n0::{path}\n").as_bytes()).unwrap_or_else(|| panic!("{path}"));
        assert_eq!((found.id.as_str(), found.runtime, found.pod_uid.as_deref() == Some(uid)), (id.as_str(), runtime, pod), "{path}");
    }
    for none in ["/", "/init.scope", "/user.slice/user-1000.slice/session-2.scope", "/docker/short", "/system.slice/docker.service"] {
        assert_eq!(container::of_path(none), None, "{none}");
    }
    assert_eq!(container::of_path("/lxc.payload.web/init.scope").map(|c| (c.id, c.runtime)), Some(("web".into(), "lxc")));
}

#[test]
fn anonymous_executable_memory_is_listed() {
    let maps = b"7f00-8f00 rwxp 00000000 00:00 0 \n\
                 9f00-af00 r-xp 00001000 08:01 42                         /usr/lib/with space\\012.so (deleted)\n\
                 bf00-cf00 r-xp 00000000 00:00 0                          [vdso]\n";
    let s = maps::summarise(maps);
    assert_eq!((s.regions, s.lines_not_understood, s.executable_anonymous.len(), s.files.len()), (3, 0, 1, 1));
    assert_eq!(s.files[0].path.0, b"/usr/lib/with space\\012.so");
    assert!(s.files[0].deleted && s.files[0].executable && s.files[0].map_file.as_deref() == Some("9f00-af00"));
}

proptest! {
    #[test]
    fn parsers_survive_any_bytes(bytes: Vec<u8>) {
        let _ = parse::stat(&bytes);
        let _ = parse::status(&bytes);
        let _ = parse::limits(&bytes);
        let _ = parse::fdinfo(&bytes);
        let _ = parse::counters(&bytes);
        let _ = parse::mapping(&bytes);
        let _ = maps::summarise(&bytes);
        let _ = container::of_cgroup(&bytes);
        let (args, cut) = parse::arguments(&bytes);
        // Nothing is lost between the arguments: joined again they are the input.
        if !cut && !bytes.is_empty() {
            let mut joined: Vec<u8> = args.iter().map(|a| a.0.clone()).collect::<Vec<_>>().join(&0);
            if bytes.ends_with(b"\0") { joined.push(0); }
            prop_assert_eq!(joined, bytes);
        }
    }

    #[test]
    fn any_name_comes_back_from_stat(comm in proptest::collection::vec(1_u8..=255, 0..16), ppid in 0_i64..4_000_000) {
        let mut line = b"7 (".to_vec();
        line.extend_from_slice(&comm);
        line.extend_from_slice(format!(") S {ppid} 1 1 0 -1 0\n").as_bytes());
        let s = parse::stat(&line).expect("parsed");
        prop_assert_eq!((s.comm, s.ppid), (comm, Some(ppid)));
    }

    #[test]
    fn terminals_have_names(n: i64) {
        let _ = parse::tty_name(n);
    }
}

#[test]
fn what_is_only_mapped_is_taken_as_well() {
    let dir = tempfile::tempdir().expect("folder");
    let library = dir.path().join("injected.so");
    std::fs::write(&library, b"INJECTED LIBRARY").expect("file");
    let script = "import mmap,os,sys,time\n\
        f=open(sys.argv[1],'rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ); f.close(); os.unlink(sys.argv[1])\n\
        d=os.memfd_create('stage'); os.write(d,b'STAGE TWO'); n=mmap.mmap(d,0); os.close(d)\n\
        print('ready',flush=True); time.sleep(600)";
    let mut child =
        Command::new("python3").args(["-c", script]).arg(&library).stdout(std::process::Stdio::piped()).spawn().expect("python3");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("ready");
    let running = Running(child);
    let out = Memory::run(&Process::default(), &[("exe", "false")]);
    let row = row(&out, running.0.id());
    let files = row["maps"]["files"].as_array().expect("files").clone();
    for (end, content) in [("injected.so", &b"INJECTED LIBRARY"[..]), ("stage", b"STAGE TWO")] {
        let file = files.iter().find(|f| f["path"].as_str().is_some_and(|p| p.ends_with(end))).expect("mapped");
        let item = file["item"].as_str().unwrap_or_else(|| panic!("not taken: {file}"));
        assert_eq!(out.content(item), content, "{item}");
    }
    assert_eq!(out.get("/proc/*/numa_maps").expect("said").status, Status::Skipped);
}

#[test]
fn a_program_that_runs_from_memory_alone_is_taken() {
    let script = "import os\nfd=os.memfd_create('only in memory', 0)\nos.write(fd, open('/bin/sleep','rb').read())\n\
        os.execv('/proc/self/fd/%d' % fd, ['sleep', '300'])";
    let running = Running(Command::new("python3").args(["-c", script]).spawn().expect("python3"));
    let pid = running.0.id();
    wait_until(|| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|p| p.to_string_lossy().starts_with("/memfd:")));
    let out = Memory::run(&Process::default(), &[("hidden", "false")]);
    let row = row(&out, pid);
    assert_eq!((&row["exe"]["memfd"], &row["exe"]["path"]), (&true.into(), &"/memfd:only in memory".into()));
    assert_eq!(out.content(row["exe"]["item"].as_str().expect("an item")), std::fs::read("/bin/sleep").expect("sleep"));
    assert!(out.get("hidden.jsonl").is_none());
}

#[test]
fn programs_have_their_build_id() {
    let dir = tempfile::tempdir().expect("folder");
    let running = sleep_from(dir.path(), "built", "built".as_ref());
    let out = Memory::run(&Process::default(), &[("exe", "false"), ("hidden", "false")]);
    let theirs = build_id::read(File::open("/bin/sleep").expect("open"));
    assert_eq!(row(&out, running.0.id())["exe"]["build_id"].as_str(), theirs.as_deref());
    assert!(theirs.is_some());
}

#[test]
fn the_policy_keeps_values_of_the_environment_back() {
    let mut command = Command::new("/bin/sleep");
    let running = Running(command.arg("300").env("APP_TOKEN", "hunter2-hunter2").env("PLAIN", "seen").spawn().expect("sleep"));
    let pid = running.0.id();
    wait_until(|| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.ends_with(b"300\0")));
    let mut capture = Process::default();
    let policy = Policy::parse("redact_environ = [\"*token*\"]").expect("policy");
    capture.restrict(&policy).expect("restricted");
    let out = Memory::run(&capture, &[("exe", "false"), ("hidden", "false")]);
    let item = format!("/proc/{pid}/environ");
    let text = String::from_utf8_lossy(out.content(&item)).into_owned();
    assert!(text.contains("PLAIN=seen") && !text.contains("hunter2"), "{text}");
    assert!(text.contains("APP_TOKEN=<15 bytes, SHA-256 "), "{text}");
    let put = out.get(&item).expect("item");
    assert_eq!(put.status, Status::Partial);
    assert!(put.item.reason.as_deref().is_some_and(|r| r.contains("redact_environ")), "{:?}", put.item.reason);
    // Nowhere else in what was taken either.
    assert!(!out.puts.iter().any(|p| p.content.as_deref().unwrap_or_default().windows(15).any(|w| w == b"hunter2-hunter2")));
}
