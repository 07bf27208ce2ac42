//! Processes that would rather not be read.

use std::process::Command;
use std::time::Duration;

use super::*;
use crate::capture::left::{LATE_ANYBODY_MAX, LATE_MAX};
use crate::capture::process_memory::tests::programs::{self, Target, compile};

/// A process that overwrote its arguments to the last byte: then the kernel shows its first variable as a part of them.
#[test]
fn a_variable_behind_overwritten_arguments_is_kept_back_too() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "title", programs::TITLE, &[]);
    let mut command = Command::new(&program);
    command.env_clear().env("APP_TOKEN", "hunter2-hunter2");
    let target = Target::start(command);
    let shown = std::fs::read(format!("/proc/{}/cmdline", target.pid())).expect("cmdline");
    assert!(shown.windows(15).any(|w| w == b"hunter2-hunter2"), "the kernel shows it: {shown:?}");
    let plan = |redacts| Plan { redacts, ..Plan::default() };
    let line = |plan: Plan| {
        let gathered = gather::gather(target.pid(), &plan).expect("read");
        let (_, read) = gathered.raw.into_iter().find(|(name, _)| *name == "cmdline").expect("read");
        (read.expect("read"), gathered.row.cmdline_cut)
    };
    let (read, cut) = line(plan(true));
    assert!(read.bytes.iter().all(|b| *b == b'x') && !read.bytes.is_empty() && cut, "{read:?}");
    assert!(read.cut.is_some_and(|c| c.contains("redact_environ")));
    assert_eq!(line(plan(false)), (Read { bytes: shown, cut: None }, false));
}

/// A process holds its own memory lock: it is left behind, whoever comes after it is read.
#[test]
fn who_holds_its_own_memory_lock_holds_nobody_up() {
    let dir = tempfile::tempdir().expect("folder");
    let locked = programs::locked(dir.path());
    let mut reader = Reader::new(Plan::default(), Duration::from_secs(1));
    assert!(matches!(reader.read(locked.pid()), Answer::Stuck));
    assert!(matches!(reader.read(std::process::id()), Answer::Taken(_)));
    assert_eq!(reader.left.count(), 1);
    // Its lock may be held only after it was read, when its mapped files are looked for.
    let folder = open_dir(rustix::fs::CWD, format!("/proc/{}", locked.pid())).expect("its folder");
    let mut budget = Budget { file_bytes_max: 1, left_bytes: 1, hole_bytes_left: 1, patience: Duration::from_secs(1), stuck_left: 1 };
    let mut out = Memory::default();
    for _ in 0..2 {
        let wanted = Wanted { path: evidence_path("/it"), dir: &folder, link: "map_files/1000-2000", facts: BTreeMap::new(), remote: None };
        assert!(!content::take(&mut out, wanted, &mut budget).expect("goes on"));
    }
    let said: Vec<(Status, &str)> = out.puts.iter().map(|p| (p.status, p.item.reason.as_deref().expect("a reason"))).collect();
    assert!(said[0].0 == Status::Error && said[0].1.contains("did not answer within 1 s"), "{said:?}");
    assert!(said[1].0 == Status::Skipped && said[1].1.contains("too many"), "{said:?}");
    drop(locked);
    programs::until("the thread that waited for it came back", || reader.left.count() == 0);
}

/// A file can give itself any size at no cost: limits are of what it holds, and a few bytes behind a large hole are taken.
#[test]
fn a_size_that_is_mostly_a_hole_keeps_nothing_from_being_taken() {
    const SIZE: usize = 4 << 20;
    let memfd = rustix::fs::memfd_create("blown up", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    rustix::io::write(&memfd, b"the loot").expect("write");
    rustix::fs::ftruncate(&memfd, SIZE as u64).expect("a size");
    let folder = open_dir(rustix::fs::CWD, format!("/proc/{}", std::process::id())).expect("its folder");
    let link = format!("fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memfd));
    let mut out = Memory::default();
    let mut take = |file_bytes_max: u64, left_bytes: u64, hole_bytes_left: u64| {
        let mut budget = Budget { file_bytes_max, left_bytes, hole_bytes_left, patience: PATIENCE, stuck_left: 1 };
        let wanted = Wanted { path: evidence_path("/it"), dir: &folder, link: &link, facts: BTreeMap::new(), remote: None };
        (content::take(&mut out, wanted, &mut budget).expect("goes on"), left_bytes - budget.left_bytes)
    };
    // One page of memory, of whatever size that or a huge one is here.
    let (is_taken, cost) = take(2 << 20, 2 << 20, SIZE as u64);
    assert!(is_taken && (8..=2 << 20).contains(&cost), "{cost} bytes were counted");
    assert_eq!((take(cost - 1, u64::MAX, u64::MAX), take(u64::MAX, cost - 1, u64::MAX)), ((false, 0), (false, 0)));
    // Holes have a limit of their own: they must not use up what a stream can have.
    assert_eq!(take(u64::MAX, u64::MAX, SIZE as u64 - cost - 1), (false, 0));
    let content = out.puts[0].content.as_deref().expect("content");
    assert!(out.puts[0].status == Status::Collected && content.len() == SIZE);
    assert!(content.starts_with(b"the loot\0") && content[8..].iter().all(|b| *b == 0));
    for (put, parameter) in out.puts[1..].iter().zip(["file_max", "total_max"]) {
        let reason = put.item.reason.as_deref().expect("a reason");
        assert!(put.status == Status::Skipped && reason.contains(parameter), "{reason}");
        assert!(reason.starts_with(&format!("{cost} bytes of data")), "{reason}");
    }
}

/// A collection whose limit has no room for contents.
struct Full;

impl Output for Full {
    fn put(&mut self, item: NewItem, content: Content<'_>) -> Result<Status, Stop> {
        Ok(if matches!(content, Content::Source { .. }) { Status::Skipped } else { item.status })
    }

    fn checkpoint(&mut self) -> Result<(), Stop> {
        Ok(())
    }

    fn note(&mut self, _current: &str) {}

    fn now(&self) -> crate::clock::Moment {
        crate::clock::now()
    }

    fn ran(&mut self, _command: String) {}
}

#[test]
fn what_the_collection_has_no_room_for_is_not_called_taken_and_costs_nothing() {
    const LEFT: u64 = 1 << 40;
    let folder = open_dir(rustix::fs::CWD, format!("/proc/{}", std::process::id())).expect("its folder");
    let mut budget = Budget { file_bytes_max: LEFT, left_bytes: LEFT, hole_bytes_left: LEFT, patience: PATIENCE, stuck_left: 1 };
    let wanted = Wanted { path: evidence_path("/it"), dir: &folder, link: "exe", facts: BTreeMap::new(), remote: None };
    assert!(!content::take(&mut Full, wanted, &mut budget).expect("goes on"));
    assert_eq!((budget.left_bytes, budget.hole_bytes_left, budget.stuck_left), (LEFT, LEFT, 1));
}

/// Many that do not answer take places from those that look alike, and from nobody else. When one answers, they are read.
#[test]
fn many_that_do_not_answer_hide_nobody_who_would() {
    let dir = tempfile::tempdir().expect("folder");
    let target = Target::start(Command::new(compile(dir.path(), "waiting", programs::WAITING, &[])));
    let pid = target.pid();
    programs::until("it waits for its child", || programs::state(pid) == "D");
    let mut reader = Reader::new(Plan::default(), PATIENCE);
    let mut silent: Vec<_> = (0..12).map(|_| reader.left.asked()).collect();
    for asked in &silent {
        asked.leave(u32::MAX);
    }
    assert!(matches!(reader.read(std::process::id()), Answer::Taken(_)));
    let mut out = Memory::default();
    let mut run = Run::new(&Params::default(), &mut out).expect("parameters");
    run.process(&mut out, &mut reader, pid).expect("goes on");
    run.again(&mut out, &mut reader).expect("goes on");
    run.finish(&mut out, None).expect("finished");
    let put = out.get(&format!("/proc/{pid}")).expect("an item");
    assert!(put.status == Status::Skipped && put.item.reason.as_deref().is_some_and(|r| r.contains("do not answer")), "{:?}", put.item);
    assert_eq!(row(&out, pid)["status"], "stuck");

    let mut out = Memory::default();
    let mut run = Run::new(&Params::default(), &mut out).expect("parameters");
    run.process(&mut out, &mut reader, pid).expect("goes on");
    assert!(out.puts.is_empty(), "it is put aside");
    silent.pop();
    run.again(&mut out, &mut reader).expect("goes on");
    run.finish(&mut out, None).expect("finished");
    assert_eq!(row(&out, pid)["pid"], pid);
    assert!(out.get(&format!("/proc/{pid}/stat")).is_some(), "it was read");
}

/// Who answers just too late gives its place back, any number of times: what that costs ends, and who is not asked for it is listed.
#[test]
fn many_that_answer_just_too_late_cost_a_bounded_time() {
    let dir = tempfile::tempdir().expect("folder");
    let target = Target::start(Command::new(compile(dir.path(), "waiting", programs::WAITING, &[])));
    let (pid, own) = (target.pid(), std::process::id());
    programs::until("it waits for its child", || programs::state(pid) == "D");
    let mut reader = Reader::new(Plan::default(), PATIENCE);
    let late = |reader: &Reader, count: usize| {
        for _ in 0..count {
            reader.left.asked().leave(u32::MAX);
        }
    };
    late(&reader, LATE_ANYBODY_MAX);
    assert_eq!(reader.left.count(), 0, "all have answered");
    assert!(matches!(reader.read(pid), Answer::Aside), "it looks as if it would be late");
    assert!(matches!(reader.read(own), Answer::Taken(_)));
    late(&reader, LATE_MAX - LATE_ANYBODY_MAX);
    let mut out = Memory::default();
    let mut run = Run::new(&Params::default(), &mut out).expect("parameters");
    run.process(&mut out, &mut reader, own).expect("goes on");
    run.again(&mut out, &mut reader).expect("goes on");
    run.finish(&mut out, None).expect("finished");
    let put = out.get(&format!("/proc/{own}")).expect("an item");
    assert!(put.status == Status::Skipped && put.item.reason.as_deref().is_some_and(|r| r.contains("in time")), "{:?}", put.item);
    assert_eq!(row(&out, own)["status"], "stuck");
}

/// Who starts processes that do not answer pays with its own: they are asked when everybody else was, and then all the same.
#[test]
fn who_is_of_an_owner_that_was_late_is_asked_after_everybody_else() {
    let own = std::process::id();
    let mut reader = Reader::new(Plan::default(), PATIENCE);
    for _ in 0..3 {
        reader.left.asked().leave(own);
    }
    let mut out = Memory::default();
    let mut run = Run::new(&Params::default(), &mut out).expect("parameters");
    run.process(&mut out, &mut reader, own).expect("goes on");
    assert!(out.puts.is_empty(), "it is put aside");
    run.again(&mut out, &mut reader).expect("goes on");
    run.finish(&mut out, None).expect("finished");
    assert_eq!(row(&out, own)["pid"], own);
    assert!(out.get(&format!("/proc/{own}/stat")).is_some(), "it was read");
}

/// `/proc/<pid>` answers as the first thread: nothing, once that has ended, and nothing of what another has for itself.
#[test]
fn what_threads_have_beside_the_first_is_taken() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "no-first", programs::NO_FIRST, &["-pthread"]);
    let bytes = std::fs::read(&program).expect("program");
    let mut target = Target::start(Command::new(&program));
    let ports: Vec<u64> = (0..2).map(|_| target.line().trim().parse().expect("a port")).collect();
    std::fs::remove_file(&program).expect("deleted");
    let pid = target.pid();
    programs::until("its first thread ends", || programs::state(pid).starts_with('Z'));

    let out = Memory::run(&Process::default(), &[]);
    let row = row(&out, pid);
    assert_eq!((&row["state"], &row["problems"]), (&"Z".into(), &serde_json::json!([])));
    let through = row["read_through"].as_u64().expect("another thread");
    assert_eq!(out.content(row["exe"]["item"].as_str().expect("the program")), bytes);
    let maps = out.get(&format!("/proc/{pid}/maps")).expect("an item");
    assert_eq!(maps.item.facts["read_through"], through.to_string());
    for file in ["maps", "cmdline", "environ"] {
        assert!(!out.content(&format!("/proc/{pid}/{file}")).is_empty(), "{file}");
    }
    assert!(String::from_utf8_lossy(out.content(&format!("/proc/{pid}/stat"))).contains(" Z "));
    assert!(row["memory"].to_string().len() > 20, "{}", row["memory"]);
    let fds = row["fds"].as_array().expect("open files");
    // Which of the two tables counts as the process's own depends on which living thread comes first.
    assert!(fds.iter().any(|f| f["thread"].is_u64()) && fds.iter().any(|f| f["thread"].is_null()), "{fds:?}");
    for name in ["of-all", "of-one"] {
        let is = |f: &&Value| f["target"] == format!("/memfd:{name} (deleted)");
        let fd = fds.iter().find(is).unwrap_or_else(|| panic!("{name}: {fds:?}"));
        assert_eq!(out.content(fd["item"].as_str().expect("content")), name.as_bytes());
    }
    assert!(row["threads"].as_array().expect("threads").iter().any(|t| t["namespaces"]["net"].is_u64()));
    // What a thread mounted that is apart stands in its own mount table only. Which of the two counts as the process depends.
    let apart = row["threads"].as_array().expect("threads").iter().find(|t| t["namespaces"]["mnt"].is_u64()).expect("a thread apart");
    assert!(apart["namespaces"]["uts"].is_u64() && apart["namespaces"]["ipc"].is_null(), "{apart}");
    for ns in [&apart["namespaces"]["mnt"], &row["namespaces"]["mnt"]] {
        assert!(out.puts.iter().any(|p| p.item.facts.get("mnt_ns") == Some(&ns.to_string())), "the mount table of namespace {ns}");
    }

    let out = Memory::run(&crate::capture::network::Network, &[("tools", "false")]);
    let mut of_thread = Vec::new();
    for port in ports {
        let rows = out.rows("listening");
        let is = |r: &&Value| r["local"]["port"] == port && r["holders"].as_array().is_some_and(|h| h.iter().any(|h| h["pid"] == pid));
        let socket = rows.iter().find(is).unwrap_or_else(|| panic!("no holder of port {port}"));
        of_thread.extend(socket["holders"].as_array().expect("holders").iter().map(|h| h["thread"].is_u64()));
    }
    assert!(
        of_thread.contains(&false) && of_thread.contains(&true),
        "the process's own table has one of them, that of a single thread too"
    );
    assert!(out.rows("namespaces").iter().any(|n| n["process"] == pid && n["thread"].is_u64()));
}

/// Whoever mounts a file system in user space chooses what it is called, and one that was detached stands in no table.
#[test]
fn a_file_whose_server_does_not_answer_holds_nobody_up() {
    for how in ["attached", "detached"] {
        let dir = tempfile::tempdir().expect("folder");
        let target = programs::silent(dir.path(), how);
        let mut out = Memory::default();
        let mut run = Run::new(&Params::default(), &mut out).expect("parameters");
        run.budget.patience = Duration::from_millis(300);
        run.process(&mut out, &mut Reader::new(Plan::default(), PATIENCE), target.pid()).expect("goes on");
        assert_eq!(run.budget.stuck_left, STUCK_MAX - 1, "{how}");
        run.finish(&mut out, None).expect("finished");
        let row = row(&out, target.pid());
        let fds = row["fds"].as_array().expect("open files");
        let item = fds.iter().find_map(|f| f["item"].as_str()).unwrap_or_else(|| panic!("{how}: {fds:?}"));
        let put = out.get(item).expect("an item");
        let reason = put.item.reason.as_deref().expect("a reason");
        assert!(put.status == Status::Partial && reason.contains("did not answer within"), "{how}: {reason}");
    }
}
