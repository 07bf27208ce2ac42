//! Processes that would rather not be taken, and hosts that do not give everything.

use super::*;
use crate::capture::live::open_dir;

/// A process holds its own memory lock, as one does that is stuck on a dead file system: it is left behind and the collection
/// goes on to the others.
#[test]
fn who_holds_its_own_memory_lock_holds_nobody_up() {
    let dir = tempfile::tempdir().expect("folder");
    let (locked, after) = (programs::locked(dir.path()), sleeper());
    let mut taken = Folder::new();
    let pids = format!("{}\n{}", locked.pid(), after.pid());
    let params = Params::new("process-memory", [("pid".to_owned(), pids)].into());
    let wanted = Wanted::new(&params).expect("parameters");
    let options = Options { patience: Duration::from_secs(1), ..Options::default() };
    let begun = crate::clock::monotonic();
    let done = take(&mut taken, &wanted, &options).expect("the capture runs to its end");
    let took = crate::clock::monotonic().saturating_sub(begun);
    assert_eq!((done.meant, done.cores, done.stuck), (2, 1, 1));
    let core = taken.core(locked.pid());
    assert_eq!(core.status, Status::Error);
    assert!(core.item.reason.as_deref().is_some_and(|r| r.contains("did not answer within 1 s")), "{:?}", core.item.reason);
    assert_eq!(taken.core(after.pid()).status, Status::Collected, "{:?}", taken.core(after.pid()).item);
    assert!(took < Duration::from_secs(8), "{took:?}");
    // Its time is when it was asked, not when waiting for it was over.
    let began = |pid: u32| Duration::from_nanos(taken.core(pid).item.started.mono_ns);
    let waited = began(after.pid()).saturating_sub(began(locked.pid()));
    assert!(after.pid() < locked.pid() || waited >= options.patience, "{waited:?}");
    assert_eq!(options.left.count(), 1);
    // The lock may be taken only when it stands already: what is planned then does not hold anybody up either.
    let folder = open_dir(rustix::fs::CWD, format!("/proc/{}", locked.pid())).expect("its folder");
    let own = std::sync::Arc::new(folder);
    let looked = look::look(&own).map(|l| l.regions);
    let work =
        move |pulse: &crate::capture::patience::Pulse| flags::read(&own, &mut looked.unwrap_or_default(), true, &mut || pulse.step());
    let planned = crate::capture::patience::watched(options.patience, &mut || Ok(()), work);
    assert_eq!(planned, Ok(Err(crate::capture::patience::NotDone::Late)));
    drop(locked);
    programs::until("the threads that waited for it came back", || options.left.count() == 0);
}

/// Many that do not answer take places from those that look alike, and from nobody else. When one answers, they are taken.
#[test]
fn many_that_do_not_answer_hide_nobody_who_would() {
    let dir = tempfile::tempdir().expect("folder");
    let waits = Target::start(Command::new(compile(dir.path(), "waiting", programs::WAITING, &[])));
    let after = sleeper();
    programs::until("it waits for its child", || state(waits.pid()) == "D");
    let options = Options::default();
    let mut silent: Vec<_> = (0..12).map(|_| options.left.asked()).collect();
    for asked in &silent {
        asked.leave(u32::MAX);
    }
    let pids = format!("{}\n{}", waits.pid(), after.pid());
    let wanted = Wanted::new(&Params::new("process-memory", [("pid".to_owned(), pids)].into())).expect("parameters");
    let mut taken = Folder::new();
    let done = take(&mut taken, &wanted, &options).expect("the capture runs to its end");
    assert_eq!((done.meant, done.cores), (2, 1));
    assert_eq!(taken.core(after.pid()).status, Status::Collected, "{:?}", taken.core(after.pid()).item);
    let aside = taken.core(waits.pid());
    let why = aside.item.reason.as_deref().expect("a reason");
    assert!(aside.status == Status::Skipped && why.contains("too many processes do not answer"), "{why}");
    assert_eq!(taken.rows("targets.jsonl").len(), 2);

    silent.pop();
    let mut taken = Folder::new();
    let done = take(&mut taken, &wanted, &options).expect("the capture runs to its end");
    assert_eq!((done.meant, done.cores), (2, 2), "{:?}", taken.core(waits.pid()).item);

    // Who answers later gives its place back, any number of times: what waiting costs ends all the same.
    drop(silent);
    for _ in 0..crate::capture::left::LATE_MAX {
        options.left.asked().leave(u32::MAX);
    }
    assert_eq!(options.left.count(), 0);
    let mut taken = Folder::new();
    let done = take(&mut taken, &wanted, &options).expect("the capture runs to its end");
    assert_eq!((done.meant, done.cores), (2, 0));
    assert_eq!(taken.core(after.pid()).status, Status::Skipped);
}

/// A core names its map, and the list says what was taken: both are there although the core was the last thing that was.
#[test]
fn the_tables_are_there_whatever_ends_the_capture() {
    let target = sleeper();
    let mut taken = Folder::new();
    taken.registers_only = true;
    let ended = taken.run(&[("pid", &target.pid().to_string())]);
    assert!(matches!(ended, Err(Stop::Cancelled(_))), "{ended:?}");
    assert!(taken.rows(&format!("{}/map.jsonl", target.pid())).iter().any(|r| r["kind"] == "mapping"));
    assert_eq!(taken.rows("targets.jsonl")[0]["result"], "the capture ended with it: see its item, if it has one");
}

/// A mapping whose server does not answer costs itself; everything behind it is read, and its file system is waited for once.
#[test]
fn a_mapping_whose_server_does_not_answer_costs_itself_only() {
    for how in ["mapped", "deaf"] {
        let dir = tempfile::tempdir().expect("folder");
        let target = programs::silent(dir.path(), how);
        let pid = target.pid();
        let wanted = Wanted::new(&Params::new("process-memory", [("pid".to_owned(), pid.to_string())].into())).expect("parameters");
        let options = Options { patience: Duration::from_secs(1), ..Options::default() };
        let mut taken = Folder::new();
        let done = take(&mut taken, &wanted, &options).expect("the capture runs to its end");
        assert_eq!((done.cores, done.in_part, done.stuck), (1, 1, 0), "{how}: {:?}", taken.core(pid).item);
        let core = taken.core(pid);
        assert!(contains(&std::fs::read(&core.file).expect("core"), b"BEHIND-THE-SILENT-ONE"), "{how}: what lies behind it is there");
        let rows = taken.rows(&format!("{pid}/map.jsonl"));
        let is_silent = |r: &&serde_json::Value| r["name"].as_str().is_some_and(|n| n.contains("silent")) && r["kind"] == "mapping";
        let mappings: Vec<&str> = rows.iter().filter(is_silent).map(|r| r["start"].as_str().expect("an address")).collect();
        let kind = if how == "deaf" { "not-stored" } else { "unreadable" };
        let lost: Vec<(&str, &str)> = rows
            .iter()
            .filter(|r| r["kind"] == kind && mappings.contains(&r["start"].as_str().expect("an address")))
            .map(|r| (r["start"].as_str().expect("an address"), r["reason"].as_str().expect("a reason")))
            .collect();
        assert_eq!((mappings.len(), lost.len()), (2, 2), "{how}: {lost:?}");
        assert!(lost[0].1.contains("did not answer within") && lost[1].1.contains("did not answer"), "{how}: {lost:?}");
        assert!(rows.iter().filter(|r| r["kind"] == "unreadable").count() <= 2, "{how}: nothing else is lost");
        assert!(options.silent.is_waiting(), "{how}: a thread waits");
        drop(target);
        programs::until("the thread came back", || !options.silent.is_waiting());
    }
}

/// Nobody is asked to supply a page, nothing is made by looking, and what is not there is not called zeros.
#[test]
fn what_userfaultfd_watches_is_not_touched() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "watched", programs::WATCHED, &[]);
    let mut target = Target::start(Command::new(&program));
    let pid = target.pid();
    for mode in ["fast", "atomic"] {
        let taken = Folder::take(&[("pid", &pid.to_string()), ("mode", mode)]);
        let core = taken.core(pid);
        assert_eq!((core.status, &core.gaps), (Status::Collected, &vec![]), "{mode}: {:?}", core.item);
        assert_eq!(core.item.facts["userfaultfd_mappings"], "2", "{mode}: {:?}", core.item);
        let said = taken.gdb(pid, Some(&program), &["x/s missing", "x/s guarded", "x/s guard", "p/x missing"]);
        for marker in ["WATCHED-AND-THERE", "PROTECTED-AND-THERE", "BESIDE-A-GUARD"] {
            assert!(said.contains(marker), "{mode}: {said}");
        }
        let rows = taken.rows(&format!("{pid}/map.jsonl"));
        let watched: Vec<&serde_json::Value> = rows.iter().map(|r| &r["userfaultfd"]).filter(|w| w.is_array()).collect();
        assert_eq!(watched.len(), 2, "{watched:?}");
        assert!(watched.iter().any(|w| w[0] == "missing") && watched.iter().any(|w| w[0] == "write"), "{watched:?}");
        // Of 16 pages 14 are not there: from the second to the fifth, and from the seventh on.
        let absent = |r: &&serde_json::Value| r["kind"] == "not-stored" && r["reason"].as_str().is_some_and(|w| w.contains("userfaultfd"));
        let address = |r: &serde_json::Value, key: &str| u64::from_str_radix(r[key].as_str().expect("hex"), 16).expect("hex");
        let bytes: Vec<u64> = rows.iter().filter(absent).map(|r| address(r, "end") - address(r, "start")).collect();
        assert_eq!(bytes, [4 * 4096, 10 * 4096], "{mode}");
        target.tell();
        assert_eq!(target.line(), "asked 0, there 2 1", "{mode}");
    }
}

/// Where the process put a guard there is no memory, neither zeros nor the bytes of its file: that is said.
#[test]
fn guards_are_told_from_memory() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "guards", programs::GUARDS, &[]);
    let file = dir.path().join("data");
    std::fs::write(&file, [b'd'; 4 * 4096]).expect("file");
    let mut command = Command::new(&program);
    command.arg(&file);
    let mut target = Target::start(command);
    let (pid, said) = (target.pid(), target.line());
    let said: Vec<i64> = said.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    let [of_own, own, of_file, in_file] = said[..] else { panic!("{said:?}") };
    let pagemap = std::fs::File::open(format!("/proc/{pid}/pagemap")).expect("pagemap");
    let mut ranges = [exhibit_agent_sys::memory::PageRange::default(); 4];
    let fd = std::os::fd::AsFd::as_fd(&pagemap);
    let told = exhibit_agent_sys::memory::scan_pages(fd, own as u64, own as u64 + 8192, true, &mut ranges);
    if of_own != 0 || told.is_err() {
        println!("this kernel has no guards (before Linux 6.13) or does not tell them from swap: not tried");
        return;
    }
    // Where the kernel lists them as swapped (before Linux 6.16) their entries tell.
    let mut pages = pages::Pages::new(pagemap.into());
    pages.guards = false;
    let mut listed = Vec::new();
    let mut each = |start: u64, end: u64, kind: pages::Page| listed.extend((start..end).step_by(4096).map(|at| (at as i64, kind)));
    pages.ranges(own as u64 - 4096, own as u64 + 3 * 4096, &mut || true, &mut each).expect("looked");
    let (present, guard) = (pages::Page::Present, pages::Page::Guard);
    assert_eq!(listed, [(own - 4096, present), (own, guard), (own + 4096, guard), (own + 8192, present)]);
    let taken = Folder::take(&[("pid", &pid.to_string())]);
    let rows = taken.rows(&format!("{pid}/map.jsonl"));
    let address = |r: &serde_json::Value, key: &str| i64::from_str_radix(r[key].as_str().expect("hex"), 16).expect("hex");
    let of_kind = |kind: &str| -> Vec<(i64, i64)> {
        let of = rows.iter().filter(|r| r["kind"] == kind && r["reason"].as_str().is_some_and(|why| why.contains("MADV_GUARD_INSTALL")));
        of.map(|r| (address(r, "start"), address(r, "end"))).collect()
    };
    let guards = of_kind("guard");
    assert!(guards.contains(&(own, own + 8192)), "{guards:?}");
    assert!(rows[0]["memory"]["guard_bytes"].as_u64().is_some_and(|bytes| bytes >= 8192), "{}", rows[0]);
    assert_eq!(rows[0]["memory"]["swapped_bytes"], 0, "a guard is nothing in swap");
    let core = std::fs::read(&taken.core(pid).file).expect("core");
    assert!(contains(&core, b"BEFORE-THE-GUARD") && contains(&core, b"BEHIND-THE-GUARD"));
    // Guards in mappings of files came later (Linux 6.15).
    if of_file == 0 {
        assert!(guards.contains(&(in_file, in_file + 4096)), "{guards:?}");
        assert_eq!(of_kind("unreadable"), [(in_file, in_file + 4096)], "the file's bytes are not the process's");
        assert_eq!(taken.core(pid).status, Status::Partial);
    }
}

/// The policy keeps the environment back: it is not in the core, and the file says where it is missing.
#[test]
fn the_environment_is_left_out_where_the_policy_keeps_it_back() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "title", programs::TITLE, &["-static"]);
    let mut command = Command::new(&program);
    // Its first variable is what the kernel shows as a part of its arguments, which stand in the notes too.
    command.env_clear().env("APP_TOKEN", "hunter2-hunter2");
    let target = Target::start(command);
    let pid = target.pid();
    let secret = |folder: &Folder| contains(&std::fs::read(&folder.core(pid).file).expect("core"), b"hunter2-hunter2");
    assert!(secret(&Folder::take(&[("pid", &pid.to_string())])), "without a policy it is there");
    for mode in ["fast", "atomic"] {
        let mut taken = Folder::new();
        taken.redacts = true;
        taken.run(&[("pid", &pid.to_string()), ("mode", mode)]).expect("taken");
        assert!(!secret(&taken), "{mode}");
        let core = taken.core(pid);
        let bytes = "APP_TOKEN=hunter2-hunter2\0".len() as u64;
        assert_eq!((core.status, core.item.facts["redacted_bytes"].as_str()), (Status::Partial, bytes.to_string().as_str()));
        assert!(core.item.reason.as_deref().is_some_and(|r| r.contains("redact_environ") && r.contains("elsewhere")), "{:?}", core.item);
        let gaps: Vec<(u64, bool)> = core.gaps.iter().map(|(_, length, why)| (*length, why.contains("redact_environ"))).collect();
        assert_eq!(gaps, [(bytes, true)], "{mode}: exactly the environment");
        let rows = taken.rows(&format!("{pid}/map.jsonl"));
        assert_eq!(rows.iter().filter(|r| r["kind"] == "redacted").count(), 1);
        assert!(taken.gdb(pid, Some(&program), &["bt"]).contains("in main ("), "{mode}");
    }
}

/// A process may say that its environment is elsewhere. That neither shows what the policy keeps back nor hides the rest.
#[test]
fn who_lies_about_its_environment_gains_nothing() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "lie", programs::LIE, &["-static"]);
    for lie in ["empty", "all"] {
        let mut command = Command::new(&program);
        command.arg(lie).env_clear().env("APP_TOKEN", "hunter2-hunter2");
        let target = Target::start(command);
        let pid = target.pid();
        let mut taken = Folder::new();
        taken.redacts = true;
        taken.run(&[("pid", &pid.to_string())]).expect("taken");
        let core = taken.core(pid);
        let bytes = std::fs::read(&core.file).expect("core");
        // Behind the notes: a register can still hold what the program looked at last.
        let header = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let loads = (0..1_000).map(|n| 64 + n * 56).find(|at| bytes[*at..*at + 4] == [1, 0, 0, 0]).expect("a segment");
        let memory = &bytes[usize::try_from(header(loads + 8)).expect("an offset")..];
        assert!(!contains(memory, b"hunter2-hunter2"), "{lie}: the token is in the core");
        assert!(contains(&bytes, b"PR_SET_MM") || contains(&bytes, b"ready\n"), "{lie}: its program is in the core");
        assert!(core.status == Status::Partial && core.item.reason.as_deref().is_some_and(|r| r.contains("moved it")), "{:?}", core.item);
    }
}

#[test]
fn a_core_is_not_of_one_moment_when_another_process_uses_its_memory() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "sharer", programs::SHARER, &[]);
    let reason = |pid: u32, mode: &str| {
        let mut taken = Folder::new();
        taken.run(&[("pid", &pid.to_string()), ("mode", mode)]).expect("taken");
        let (core, targets) = (taken.core(pid), taken.rows("targets.jsonl"));
        let result = if core.status == Status::Partial { "taken in part: see its item" } else { "taken" };
        assert_eq!(targets[0]["result"], result, "{:?}", core.item);
        (core.status, core.item.reason.clone().unwrap_or_default())
    };
    for arguments in [&[][..], &["its first thread ends"]] {
        let mut command = Command::new(&program);
        command.args(arguments);
        let mut target = Target::start(command);
        let other = target.line().parse().expect("the other process");
        programs::until("its first thread ends", || arguments.is_empty() || state(other).starts_with('Z'));
        let (status, why) = reason(target.pid(), "atomic");
        assert!(status == Status::Partial && why.contains("1 other processes use the same memory"), "{why}");
        assert!(!reason(target.pid(), "fast").1.contains("same memory"), "mode fast promises no moment");
    }
    // Without a first thread it has none of the memory that kernel threads have none of either.
    let target = Target::start(Command::new(compile(dir.path(), "no-first", programs::NO_FIRST, &["-pthread"])));
    programs::until("its first thread ends", || state(target.pid()).starts_with('Z'));
    let (_, why) = reason(target.pid(), "atomic");
    assert!(!why.contains("same memory"), "{why}");
    // One of its threads has a userfaultfd, in a table of open files of its own.
    let watches = |pid: u32| one::watches(&open_dir(rustix::fs::CWD, format!("/proc/{pid}")).expect("its folder"), pid);
    assert!(watches(target.pid()) && !watches(std::process::id()));
}

/// Debuggers of 64 bits do not show registers of 32: the item says so.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_process_of_32_bits_says_so() {
    let dir = tempfile::tempdir().expect("folder");
    let flags = ["-m32", "-nostdlib", "-static", "-fno-pic", "-no-pie"];
    let target = Target::start(Command::new(compile(dir.path(), "narrow", programs::NARROW, &flags)));
    let taken = Folder::take(&[("pid", &target.pid().to_string())]);
    let core = taken.core(target.pid());
    let why = core.item.reason.as_deref().unwrap_or_default();
    assert!(core.status == Status::Partial && why.contains("a process of 32 bits"), "{:?}", core.item);
}

/// An item may be refused when it is put, by a limit of the order: nobody says that it was taken.
#[test]
fn a_core_that_was_refused_is_not_called_taken() {
    let target = sleeper();
    let mut taken = Folder::new();
    taken.refuses_cores = true;
    let wanted = Wanted::new(&Params::new("process-memory", [("pid".to_owned(), target.pid().to_string())].into())).expect("parameters");
    let done = take(&mut taken, &wanted, &Options::default()).expect("goes on");
    assert_eq!((done.meant, done.cores), (1, 0));
    let row = taken.rows("targets.jsonl").remove(0);
    assert_eq!((&row["result"], &row["core"]), (&"not taken: see its item".into(), &serde_json::Value::Null));
}
