//! Real programs, taken and opened with the real gdb.

mod covered;
mod devices;
mod hostile;
pub(in crate::capture) mod programs;
mod restless;
mod returned;

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use self::programs::{Target, compile, state, until};
use super::*;
use crate::capture::{Content, Moment, Source};

/// An output that writes every content into a file of its own, sparse, as `exhibit get` does, with what cannot be read as
/// zeros in pages. Contents of whole processes do not fit into the memory of a test.
struct Folder {
    dir: tempfile::TempDir,
    puts: Vec<Put>,
    /// Called once before the first byte behind the header of a core is read.
    before_memory: Option<Box<dyn FnOnce()>>,
    /// Memory is not wanted: cancel as soon as it would be copied.
    registers_only: bool,
    /// The host's policy keeps values of the environment back.
    redacts: bool,
    /// There is no room for cores, as at a limit of the order.
    refuses_cores: bool,
}

struct Put {
    item: NewItem,
    status: Status,
    gaps: Vec<(u64, u64, String)>,
    read: u64,
    file: std::path::PathBuf,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("folder");
        Self { dir, puts: Vec::new(), before_memory: None, registers_only: false, redacts: false, refuses_cores: false }
    }

    fn take(params: &[(&str, &str)]) -> Self {
        let mut folder = Self::new();
        folder.run(params).expect("the capture runs to its end");
        folder
    }

    fn run(&mut self, params: &[(&str, &str)]) -> Result<(), Stop> {
        let values = params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let params = Params::new("process-memory", values);
        params.check(ProcessMemory.params()).expect("parameters");
        ProcessMemory.check(&params).expect("parameters");
        ProcessMemory.run(&params, self)
    }

    fn get(&self, path: &str) -> &Put {
        self.puts.iter().find(|p| p.item.path.as_bytes() == path.as_bytes()).unwrap_or_else(|| panic!("no item {path}"))
    }

    fn core(&self, pid: u32) -> &Put {
        self.get(&format!("/proc/{pid}/core"))
    }

    /// The rows of a table in all its parts.
    fn rows(&self, name: &str) -> Vec<serde_json::Value> {
        let stem = name.strip_suffix(".jsonl").expect("a table");
        let is_part = |path: &str| {
            path.strip_prefix(stem).is_some_and(|rest| rest != ".jsonl" && rest.strip_suffix(".jsonl").is_some_and(|n| n.starts_with('.')))
        };
        let mut bytes = std::fs::read(&self.get(name).file).expect("table");
        for part in self.puts.iter().filter(|p| std::str::from_utf8(p.item.path.as_bytes()).is_ok_and(is_part)) {
            bytes.extend(std::fs::read(&part.file).expect("part"));
        }
        bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).expect("row")).collect()
    }

    /// Runs gdb on a core: commands in, everything it said out.
    fn gdb(&self, pid: u32, program: Option<&Path>, commands: &[&str]) -> String {
        let mut command = Command::new("gdb");
        command.args(["-nx", "-batch", "-q"]);
        for c in commands {
            command.args(["-ex", c]);
        }
        if let Some(program) = program {
            command.arg("-se").arg(program);
        }
        let said = command.arg("-c").arg(&self.core(pid).file).env("HOME", "/nonexistent").output().expect("gdb");
        format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr))
    }
}

impl Output for Folder {
    fn put(&mut self, mut item: NewItem, content: Content<'_>) -> Result<Status, Stop> {
        assert!(item.status == Status::Collected || item.reason.is_some(), "a status without a reason: {item:?}");
        let file = self.dir.path().join(self.puts.len().to_string());
        let (mut status, mut gaps, mut read) = (item.status, Vec::new(), 0_u64);
        if self.registers_only && matches!(content, Content::Source { .. }) {
            return Err(Stop::Cancelled("the registers are enough".into()));
        }
        match content {
            Content::Source { .. } if self.refuses_cores => status = Status::Skipped,
            Content::None => {}
            Content::Bytes(bytes) => std::fs::write(&file, bytes).expect("write"),
            Content::Source { size, extents, source } => {
                let to = std::fs::File::create(&file).expect("create");
                to.set_len(size).expect("size");
                let whole = vec![crate::capture::Extent { offset: 0, length: size }];
                let extents = exhibit_evidence::stream::tar::tidy_extents(extents.unwrap_or(whole), size);
                for extent in extents {
                    read += copy(source, &to, extent.offset, extent.end(), &mut gaps, &mut self.before_memory);
                }
                if let Some((after, reason)) = source.after() {
                    status = after;
                    item.reason = Some(reason);
                }
                if !gaps.is_empty() && status == Status::Collected {
                    status = Status::Partial;
                }
                item.facts.extend(source.facts_after());
            }
        }
        self.puts.push(Put { item, status, gaps, read, file });
        Ok(status)
    }

    fn checkpoint(&mut self) -> Result<(), Stop> {
        Ok(())
    }

    fn note(&mut self, _current: &str) {}

    fn now(&self) -> Moment {
        crate::clock::now()
    }

    fn ran(&mut self, _command: String) {}

    fn redacts_environment(&self) -> bool {
        self.redacts
    }
}

/// Reads as the pipeline does: pieces, then units where a piece fails.
fn copy(
    source: &mut dyn Source,
    to: &std::fs::File,
    from: u64,
    end: u64,
    gaps: &mut Vec<(u64, u64, String)>,
    before: &mut Option<Box<dyn FnOnce()>>,
) -> u64 {
    let (mut at, mut read, mut buffer) = (from, 0, vec![0; 256 << 10]);
    let mut narrow = 0;
    while at < end {
        if at > 0
            && let Some(act) = before.take()
        {
            act();
        }
        let unit = source.unit_end(at) - at;
        let want = if at < narrow { unit } else { buffer.len() as u64 }.min(end - at).min(buffer.len() as u64);
        match source.read_at(at, &mut buffer[..want as usize]) {
            Ok(0) => {
                gaps.push((at, end - at, "ended early".into()));
                return read;
            }
            Ok(n) => {
                to.write_all_at(&buffer[..n], at).expect("write");
                at += n as u64;
                read += n as u64;
            }
            Err(e) if source.gone().is_some() => {
                gaps.push((at, end - at, e.to_string()));
                return read;
            }
            Err(_) if want > source.unit_end(at) - at => narrow = at + want,
            Err(e) => {
                gaps.push((at, want, e.to_string()));
                at += want;
            }
        }
    }
    read
}

#[test]
fn gdb_shows_threads_frames_and_memory() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "threads", programs::THREADS, &["-pthread"]);
    let target = Target::start(Command::new(&program));
    let taken = Folder::take(&[("pid", &target.pid().to_string())]);
    let core = taken.core(target.pid());
    assert_eq!((core.status, &core.gaps), (Status::Collected, &vec![]), "{:?}", core.item);
    let pid = target.pid();
    let said = taken.gdb(pid, Some(&program), &["info threads", "thread apply all bt", "x/s marker", "info auxv", "info proc mappings"]);
    assert!(said.matches("LWP ").count() >= 6, "{said}");
    assert!(said.contains("in waiter (arg=0x0)") && said.contains("in waiter (arg=0x3)") && said.contains("in main ()"), "{said}");
    assert!(said.contains("MARKER-IN-THE-HEAP"), "{said}");
    // The frame below the signal handler is found through the frame information of the C library or the vdso.
    assert!(said.contains("<signal handler called>") && said.contains("in interrupted_here ()"), "{said}");
    assert!(said.contains("AT_SYSINFO_EHDR") && said.contains("/threads"), "{said}");
    // Thread-local storage, by the thread registers and memory alone.
    let said = taken.gdb(pid, Some(&program), &["thread apply all -q -s p local"]);
    for n in 0..4 {
        assert!(said.contains(&format!("LOCAL-OF-{n}")), "{said}");
    }
    assert!(state(pid).chars().all(|c| c == 'S'), "all run on: {}", state(pid));
    let rows = taken.rows(&format!("{pid}/map.jsonl"));
    assert_eq!((&rows[0]["kind"], &rows[0]["format"]), (&"process".into(), &"exhibit-process-core/1".into()));
    assert_eq!(rows.iter().filter(|r| r["kind"] == "thread").count(), 6);
    assert!(rows.iter().any(|r| r["kind"] == "mapping" && r["name"] == "[vdso]" && r["stored_bytes"].as_u64() > Some(0)));
    let readelf = Command::new("readelf").arg("-n").arg(&core.file).output().expect("readelf");
    let notes = String::from_utf8_lossy(&readelf.stdout).into_owned();
    for name in ["NT_PRSTATUS", "NT_FPREGSET", "NT_PRPSINFO", "NT_SIGINFO", "NT_AUXV", "NT_FILE", "EXHIBIT"] {
        assert!(notes.contains(name), "{notes}");
    }
    assert_eq!(notes.matches("NT_PRSTATUS").count(), 6);
    #[cfg(target_arch = "x86_64")]
    assert_eq!(notes.matches("NT_X86_XSTATE").count(), 6);
}

/// Told to end, the list of those that were meant is there: with which it ended, and whose turn did not come.
#[test]
fn the_list_of_targets_is_put_when_the_collection_is_to_end() {
    let mut sleepers: Vec<_> = (0..3).map(|_| Command::new("sleep").arg("60").spawn().expect("sleep")).collect();
    let mut pids: Vec<u32> = sleepers.iter().map(std::process::Child::id).collect();
    pids.sort_unstable();
    let ordered = pids.iter().map(u32::to_string).collect::<Vec<_>>().join("\n");
    let params = Params::new("process-memory", [("pid".to_owned(), ordered)].into());
    // The first core is the first item, and is put before its table.
    let mut out = crate::capture::testing::Memory { ends_after: Some(2), ..Default::default() };
    let ended = ProcessMemory.run(&params, &mut out);
    for sleeper in &mut sleepers {
        sleeper.kill().and_then(|()| sleeper.wait()).expect("ended");
    }
    assert_eq!(ended, Err(Stop::Deadline));
    let table = out.get("targets.jsonl").expect("a table");
    let reason = table.item.reason.as_deref().unwrap_or_default();
    assert!(table.status == Status::Partial && reason.contains("the deadline passed"), "{reason}");
    let rows = out.rows("targets");
    let of = |pid: u32| rows.iter().find(|r| r["pid"] == pid);
    assert!(of(pids[0]).is_some_and(|r| r["result"].as_str().is_some_and(|said| said.starts_with("taken"))), "{rows:#?}");
    assert!(out.get(&format!("{}/map.jsonl", pids[0])).is_some());
    // Who has no row is named.
    assert_eq!((of(pids[2]), table.item.facts["not_reached"].ends_with(&pids[2].to_string())), (None, true), "{:?}", table.item.facts);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn vector_registers_are_what_the_program_put_there() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "vector", programs::VECTOR, &["-mavx"]);
    let target = Target::start(Command::new(&program));
    let taken = Folder::take(&[("pid", &target.pid().to_string())]);
    let said = taken.gdb(target.pid(), Some(&program), &["p/x $ymm7.v4_int64", "p $rip"]);
    assert!(said.contains("{0x1111111111111111, 0x2222222222222222, 0x3333333333333333, 0x4444444444444444}"), "{said}");
}

#[test]
fn two_hundred_threads_are_all_there() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "many", programs::MANY, &["-pthread"]);
    let mut command = Command::new(&program);
    command.arg("200");
    let target = Target::start(command);
    let taken = Folder::take(&[("pid", &target.pid().to_string())]);
    let core = taken.core(target.pid());
    assert_eq!(core.status, Status::Collected, "{:?}", core.item);
    let said = taken.gdb(target.pid(), Some(&program), &["info threads", "thread apply all -q -s bt 4"]);
    assert_eq!(said.matches(" in waiter (").count(), 200, "{said}");
    println!("200 threads stopped for {} us", core.item.facts["stopped_us"]);
    // 200 stacks of 8 MiB that were hardly touched cost next to nothing.
    let read = core.read;
    assert!(read < 48 << 20, "{read} bytes were read");
}

#[test]
fn ten_gib_that_were_hardly_touched_cost_nothing() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "sparse", programs::SPARSE, &[]);
    let target = Target::start(Command::new(&program));
    let rss = resident(target.pid());
    let begun = crate::clock::monotonic();
    let taken = Folder::take(&[("pid", &target.pid().to_string())]);
    let took = crate::clock::monotonic().saturating_sub(begun);
    let core = taken.core(target.pid());
    assert_eq!((core.status, &core.gaps), (Status::Collected, &vec![]), "{:?}", core.item);
    assert!(core.read < 32 << 20, "{} bytes were read", core.read);
    let said = taken.gdb(target.pid(), Some(&program), &["x/s block", "x/s block+5368709120", "x/s block+10737414144"]);
    for marker in ["SPARSE-FIRST", "SPARSE-MIDDLE", "SPARSE-LAST"] {
        assert!(said.contains(marker), "{said}");
    }
    println!("10 GiB sparse: {took:?}, {} bytes read, core of {} bytes", core.read, std::fs::metadata(&core.file).expect("core").len());
    // Looking made no page. (The C library may touch some of its own.)
    assert!(resident(target.pid()) <= rss + 64, "{} pages before, {} after", rss, resident(target.pid()));
    let rows = taken.rows(&format!("{}/map.jsonl", target.pid()));
    assert!(rows.iter().any(|r| r["kind"] == "not-stored" && r["reason"].as_str().is_some_and(|w| w.starts_with("never touched"))));
}

/// Resident pages.
fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("statm");
    text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("pages")
}

#[test]
fn static_stripped_and_deleted_programs() {
    let dir = tempfile::tempdir().expect("folder");
    for (name, flags, deleted) in
        [("static", &["-static", "-pthread"][..], false), ("stripped", &["-s", "-pthread"], false), ("gone", &["-pthread"], true)]
    {
        let program = compile(dir.path(), name, programs::THREADS, flags);
        let target = Target::start(Command::new(&program));
        if deleted {
            std::fs::rename(&program, dir.path().join("kept")).expect("rename");
            std::fs::copy(dir.path().join("kept"), dir.path().join("copy")).expect("copy");
            std::fs::remove_file(dir.path().join("kept")).expect("remove");
        }
        let taken = Folder::take(&[("name", name)]);
        let core = taken.core(target.pid());
        assert_eq!((core.status, &core.gaps), (Status::Collected, &vec![]), "{name}: {:?}", core.item);
        let symbols = if deleted { dir.path().join("copy") } else { program };
        let said = taken.gdb(target.pid(), Some(&symbols), &["info threads", "thread apply all bt 3"]);
        assert!(said.matches("LWP ").count() >= 6, "{name}: {said}");
        assert!(name == "stripped" || said.contains("in waiter"), "{name}: {said}");
        let bytes = std::fs::read(&core.file).expect("core");
        assert!(contains(&bytes, b"MARKER-IN-THE-HEAP") && contains(&bytes, b"LOCAL-OF-2"), "{name}");
    }
}

/// A name is the process's to choose: a program that hides below `/dev` is a program, not a device.
#[test]
fn a_program_below_dev_is_taken_like_any_other() {
    struct Removed(std::path::PathBuf);
    impl Drop for Removed {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "hidden", programs::THREADS, &["-pthread"]);
    let hidden = Removed(std::path::PathBuf::from(format!("/dev/.exhibit-test-{}", std::process::id())));
    std::fs::copy(&program, &hidden.0).expect("a file below /dev");
    let target = Target::start(Command::new(&hidden.0));
    let taken = Folder::take(&[("pid", &target.pid().to_string())]);
    let core = taken.core(target.pid());
    assert_eq!((core.status, &core.gaps), (Status::Collected, &vec![]), "{:?}", core.item);
    let said = taken.gdb(target.pid(), Some(&program), &["thread apply all bt 3", "info proc mappings"]);
    assert!(said.contains("in waiter") && said.contains("/dev/.exhibit-test-"), "{said}");
    let rows = taken.rows(&format!("{}/map.jsonl", target.pid()));
    assert!(rows.iter().all(|r| r["class"] != "device"), "{rows:?}");
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|w| w == what)
}

#[test]
fn programs_of_go_and_python() {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("main.go"), programs::GO).expect("source");
    let program = dir.path().join("gopher");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg("main.go")
        .current_dir(dir.path())
        .env("GOCACHE", dir.path().join("cache"))
        .env("GO111MODULE", "off")
        .env("HOME", dir.path())
        .status()
        .expect("go");
    assert!(built.success());
    let go = Target::start(Command::new(&program));
    let mut command = Command::new("python3");
    command.args(["-c", programs::PYTHON]);
    let python = Target::start(command);
    let taken = Folder::take(&[("pid", &format!("{}\n{}", go.pid(), python.pid()))]);
    for (pid, marker, program) in [(go.pid(), "MARKER-OF-THE-GOPHER", Some(program.as_path())), (python.pid(), "MARKER-OF-THE-SNAKE", None)]
    {
        let core = taken.core(pid);
        assert_eq!((core.status, &core.gaps), (Status::Collected, &vec![]), "{:?}", core.item);
        assert!(contains(&std::fs::read(&core.file).expect("core"), marker.as_bytes()), "{marker}");
        let said = taken.gdb(pid, program, &["info threads", "bt 3"]);
        assert!(said.contains("LWP ") && said.contains("#0 "), "{said}");
        assert!(program.is_none() || said.contains("runtime."), "{said}");
    }
}

#[test]
fn who_is_traced_by_another_is_left_alone_and_named() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "traced", programs::THREADS, &["-pthread"]);
    let target = Target::start(Command::new(&program));
    let pid = target.pid();
    let mut command = Command::new("gdb");
    command.args(["-nx", "-q", "-p", &pid.to_string(), "-ex", "shell echo ready", "-ex", "shell sleep 60"]).env("HOME", "/nonexistent");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut debugger = command.spawn().expect("gdb");
    until("gdb holds it", || state(pid).chars().all(|c| c == 't'));
    let mut taken = Folder::new();
    let ended = taken.run(&[("pid", &pid.to_string())]);
    assert!(matches!(ended, Err(Stop::Nothing(_))), "nothing was taken: {ended:?}");
    let (core, gdb) = (taken.core(pid), debugger.id());
    assert_eq!(core.status, Status::Denied);
    let reason = core.item.reason.as_deref().expect("a reason");
    assert!(reason.contains(&format!("process {gdb} (gdb) traces it")), "{reason}");
    assert!(state(pid).chars().all(|c| c == 't'), "gdb still holds it");
    debugger.kill().expect("killed");
    debugger.wait().expect("reaped");
}

#[test]
fn pages_without_access_are_taken_and_reservations_are_listed() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "guarded", programs::GUARDED, &[]);
    let target = Target::start(Command::new(&program));
    let pid = target.pid();
    let taken = Folder::take(&[("pid", &pid.to_string())]);
    let core = taken.core(pid);
    assert_eq!((core.status, &core.gaps), (Status::Collected, &vec![]), "{:?}", core.item);
    let said = taken.gdb(pid, Some(&program), &["x/s hidden", "p reserved"]);
    assert!(said.contains("HIDDEN-BY-MPROTECT"), "{said}");
    let rows = taken.rows(&format!("{pid}/map.jsonl"));
    assert!(rows.iter().any(|r| r["kind"] == "not-stored" && r["reason"] == "reserved, no access, never touched"));
    // Two pages that were only read: where the kernel gives huge ones of zeros (a setting of the host) one of them is huge.
    let zeros: Vec<u64> = rows.iter().filter(|r| r["kind"] == "mapping").filter_map(|r| r["zero_page_bytes"].as_u64()).collect();
    let huge = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").is_ok_and(|t| !t.contains("[never]"));
    let expected = if huge { [4096, 2 << 20] } else { [4096, 4096] };
    let memory = &rows[0]["memory"];
    if memory["zero_page_bytes"].is_u64() {
        assert!(expected.iter().all(|bytes| zeros.contains(bytes)), "{zeros:?}");
        assert_eq!(memory["zero_page_bytes"].as_u64(), Some(zeros.iter().sum()), "{memory}");
        assert!(memory["present_bytes"].as_u64().is_some_and(|b| b < 2 << 20), "{memory}");
    }
}

#[test]
fn mapped_files_and_shared_memory() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "mapped", programs::MAPPED, &[]);
    let file = dir.path().join("data with space");
    let mut content = vec![b'd'; 40_000];
    content[..11].copy_from_slice(b"FILE-BEGINS");
    content[39_990..].copy_from_slice(b"FILE-ENDS!");
    std::fs::write(&file, content).expect("file");
    let mut command = Command::new(&program);
    command.arg(&file);
    let target = Target::start(command);
    let pid = target.pid();
    let before = shared_pages(pid);
    let taken = Folder::take(&[("pid", &pid.to_string())]);
    let core = taken.core(pid);
    assert_eq!(core.status, Status::Collected, "{:?} {:?}", core.item, core.gaps);
    let said = taken.gdb(pid, Some(&program), &["x/s file", "x/10c file+39990", "x/s shared+1048576", "x/s other+4194304", "x/s gone"]);
    for marker in ["FILE-BEGINS", "SHARED-WITHOUT-FILE", "IN-A-MEMFD", "DELETED-BUT-MAPPED"] {
        assert!(said.contains(marker), "{said}");
    }
    assert!(said.contains("70 'F'") && said.contains("33 '!'"), "{said}");
    // The file was mapped far beyond its end; that is said, and is not in the core.
    let rows = taken.rows(&format!("{pid}/map.jsonl"));
    let beyond = rows
        .iter()
        .find(|r| r["kind"] == "not-stored" && r["reason"].as_str().is_some_and(|w| w.contains("beyond the end")))
        .expect("said");
    assert!(beyond["start"].is_string());
    assert_eq!(shared_pages(pid), before, "reading holes of shared memory made no pages");
    let rows = Folder::take(&[("pid", &pid.to_string()), ("files", "false")]).rows(&format!("{pid}/map.jsonl"));
    assert!(rows.iter().any(|r| r["reason"].as_str().is_some_and(|w| w.contains("files=false"))));
}

/// Pages of shared memory of a process.
fn shared_pages(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    text.lines().find(|l| l.starts_with("RssShmem")).expect("a line").to_owned()
}

#[test]
fn who_dies_while_being_read_leaves_what_came_before() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "dying", programs::THREADS, &["-pthread"]);
    let target = Target::start(Command::new(&program));
    let pid = target.pid();
    let mut taken = Folder::new();
    let target = std::cell::RefCell::new(target);
    let target = std::rc::Rc::new(target);
    let own = std::rc::Rc::clone(&target);
    taken.before_memory = Some(Box::new(move || own.borrow_mut().kill()));
    taken.run(&[("pid", &pid.to_string())]).expect("the capture goes on");
    let core = taken.core(pid);
    assert_eq!(core.status, Status::Partial);
    assert!(core.item.reason.as_deref().is_some_and(|r| r.contains("ended or ran another program")), "{:?}", core.item.reason);
    // The gaps say what happened to the process, not to a file, and the table says it of every mapping.
    assert!(!core.gaps.is_empty() && core.gaps.iter().all(|(_, _, why)| why == access::GONE), "{:?}", core.gaps);
    let said = taken.gdb(pid, Some(&program), &["info threads"]);
    assert!(said.matches("LWP ").count() >= 6, "the registers were taken before: {said}");
    let rows = taken.rows(&format!("{pid}/map.jsonl"));
    assert!(rows.iter().any(|r| r["kind"] == "unreadable"));
    let stored = |r: &&serde_json::Value| r["kind"] == "mapping" && r["name"] == "[stack]";
    let stack = rows.iter().find(stored).expect("a stack")["start"].as_str().expect("an address");
    let covers = |r: &serde_json::Value| r["kind"] == "unreadable" && r["start"].as_str() <= Some(stack) && r["end"].as_str() > Some(stack);
    assert!(rows.iter().any(covers) || rows.iter().any(|r| r["kind"] == "not-stored" && r["start"] == stack), "{rows:?}");
}

#[test]
fn another_program_in_the_same_process_is_never_mixed_in() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "changing", programs::EXEC, &[]);
    let mut command = Command::new(&program);
    command.arg("/bin/sleep");
    let target = Target::start(command);
    let pid = target.pid();
    let target = std::rc::Rc::new(std::cell::RefCell::new(target));
    let own = std::rc::Rc::clone(&target);
    let mut taken = Folder::new();
    taken.before_memory = Some(Box::new(move || {
        own.borrow_mut().tell();
        until("it runs sleep", || std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|p| p.ends_with("sleep")));
    }));
    taken.run(&[("pid", &pid.to_string())]).expect("the capture goes on");
    let core = taken.core(pid);
    assert_eq!(core.status, Status::Partial, "{:?}", core.item);
    assert_eq!(core.item.facts["read_from_memory_bytes"], "0");
}

#[test]
fn who_was_stopped_before_stays_stopped() {
    let target = sleeper();
    let pid = target.pid();
    signal(pid, rustix::process::Signal::STOP);
    until("it is stopped", || state(pid) == "T");
    let taken = Folder::take(&[("pid", &pid.to_string())]);
    assert_eq!(taken.core(pid).status, Status::Collected, "{:?}", taken.core(pid).item);
    assert_eq!(state(pid), "T", "as it was found");
    let rows = taken.rows(&format!("{pid}/map.jsonl"));
    assert!(rows.iter().any(|r| r["was_stopped_before"] == true));
    signal(pid, rustix::process::Signal::CONT);
    until("it runs on", || state(pid) == "S");
}

fn sleeper() -> Target {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo ready; exec sleep 300"]);
    let target = Target::start(command);
    until("it sleeps", || std::fs::read_link(format!("/proc/{}/exe", target.pid())).is_ok_and(|p| p.ends_with("sleep")));
    target
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("signalled");
}

#[test]
fn signals_that_arrive_meanwhile_are_not_lost() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "counting", programs::COUNTING, &[]);
    let mut target = Target::start(Command::new(&program));
    let pid = target.pid();
    let storm = std::thread::spawn(move || {
        for _ in 0..2000 {
            signal(pid, rustix::process::Signal::USR1);
            // One at a time: pending signals of one kind are one.
            until("it is handled", || {
                let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                text.lines().filter(|l| l.starts_with("SigPnd") || l.starts_with("ShdPnd")).all(|l| l.ends_with("0000000000000000"))
            });
        }
    });
    for _ in 0..40 {
        let taken = Folder::take(&[("pid", &pid.to_string()), ("files", "false")]);
        assert_eq!(taken.core(pid).status, Status::Collected, "{:?}", taken.core(pid).item);
    }
    storm.join().expect("sent");
    target.tell();
    assert_eq!(target.line(), "handled 2000");
}

#[test]
fn atomic_holds_until_the_copy_is_done() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "counter", programs::COUNTER, &["-pthread"]);
    let target = Target::start(Command::new(&program));
    let pid = target.pid();
    let mut taken = Folder::new();
    taken.before_memory = Some(Box::new(move || assert!(state(pid).chars().all(|c| c == 't'), "{}", state(pid))));
    taken.run(&[("pid", &pid.to_string()), ("mode", "atomic")]).expect("taken");
    let core = taken.core(pid);
    assert_eq!((core.status, &core.gaps), (Status::Collected, &vec![]), "{:?}", core.item);
    until("it runs on", || !state(pid).contains('t'));
    // How long it stood is known after its item was closed.
    assert!(core.item.facts["stopped_us"].contains("targets.jsonl"), "{:?}", core.item.facts);
    let row = taken.rows("targets.jsonl").remove(0);
    assert!(row["stopped_us"].as_u64().is_some_and(|us| us > 0), "{row}");
    // Two counters that a thread keeps equal but for the moment between two stores.
    let said = taken.gdb(pid, Some(&program), &["p first", "p second", "p first - second"]);
    assert!(said.contains("$3 = 0") || said.contains("$3 = 1"), "{said}");
}

#[test]
fn atomic_ends_at_its_deadline() {
    let target = sleeper();
    let pid = target.pid();
    let mut taken = Folder::new();
    taken.before_memory = Some(Box::new(move || {
        assert_eq!(state(pid), "t");
        until("released by the deadline", || state(pid) == "S");
    }));
    taken.run(&[("pid", &pid.to_string()), ("mode", "atomic"), ("deadline", "1s")]).expect("taken");
    let core = taken.core(pid);
    assert_eq!(core.status, Status::ChangedDuringRead);
    assert!(core.item.reason.as_deref().is_some_and(|r| r.contains("deadline")), "{:?}", core.item.reason);
}

#[test]
fn the_agent_itself_and_kernel_threads_are_left_out() {
    let own = std::process::id().to_string();
    let mut taken = Folder::new();
    assert!(matches!(taken.run(&[("pid", &own), ("name", "no-such-name")]), Err(Stop::Nothing(_))));
    let rows = taken.rows("targets.jsonl");
    assert_eq!(rows[0]["result"], "the agent itself: never taken");
    let mut none = Folder::new();
    assert!(matches!(none.run(&[("name", "no-such-name-at-all")]), Err(Stop::Nothing(_))));
    let mut gone = Folder::new();
    let ended = gone.run(&[("pid", "4000000")]);
    assert!(matches!(&ended, Err(Stop::Nothing(why)) if why.contains("none of 1 processes")), "{ended:?}");
    assert_eq!(gone.core(4_000_000).status, Status::Vanished);
}

/// A control group of cgroup v2 of its own.
struct Group(std::path::PathBuf, String);

impl Group {
    fn make() -> Self {
        let mounts = crate::capture::mounts::Mounts::read().expect("mounts");
        let whole = mounts.all().iter().find(|m| m.fs_type == b"cgroup2" && m.root == b"/");
        let point = whole.expect("this test needs cgroup v2: mount -t cgroup2 cgroup2 DIR").point.clone();
        let name = format!("/exhibit-test-{}", std::process::id());
        let path = std::path::PathBuf::from(format!("{}{name}", String::from_utf8(point).expect("UTF-8")));
        std::fs::create_dir(&path).expect("this test needs to make a group of cgroup v2: run it as root");
        Self(path, name)
    }

    fn frozen(&self) -> bool {
        std::fs::read_to_string(self.0.join("cgroup.events")).expect("events").contains("frozen 1")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.freeze"), "0");
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        until("the group is empty", || std::fs::read_to_string(self.0.join("cgroup.procs")).is_ok_and(|p| p.is_empty()));
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_whole_group_is_frozen_and_thawed() {
    let group = Group::make();
    let targets = [sleeper(), sleeper()];
    for t in &targets {
        std::fs::write(group.0.join("cgroup.procs"), t.pid().to_string()).expect("moved");
    }
    let group = std::rc::Rc::new(group);
    let (own, name) = (std::rc::Rc::clone(&group), group.1.clone());
    let mut taken = Folder::new();
    taken.before_memory = Some(Box::new(move || {
        (0..40).for_each(|_| programs::pause());
        assert!(own.frozen());
    }));
    taken.run(&[("cgroup", &name), ("mode", "atomic")]).expect("taken");
    let stood = |taken: &Folder| taken.rows("targets.jsonl").iter().map(|r| r["stopped_us"].as_u64().unwrap_or(0)).collect::<Vec<_>>();
    let all = stood(&taken);
    assert!(all.len() == 2 && all.iter().all(|us| *us >= 200_000), "all stood until everything was copied: {all:?}");
    assert!(!group.frozen());
    for t in &targets {
        let core = taken.core(t.pid());
        assert_eq!((core.status, &core.gaps), (Status::Collected, &vec![]), "{:?}", core.item);
        assert!(taken.gdb(t.pid(), None, &["info threads"]).contains("LWP "));
        assert!(core.item.facts["stopped_us"].contains("targets.jsonl"), "{:?}", core.item.facts);
        assert!(taken.rows(&format!("{}/map.jsonl", t.pid()))[0]["stop"]["longest_us"].is_null());
        until("it runs on", || state(t.pid()) == "S");
    }
    let facts = &taken.get("targets.jsonl").item.facts;
    assert!(facts["frozen"].ends_with("until everything was copied"), "{facts:?}");
    // At its deadline it thaws whatever the copy is at.
    let own = std::rc::Rc::clone(&group);
    taken = Folder::new();
    taken.before_memory = Some(Box::new(move || until("thawed by the deadline", || !own.frozen())));
    taken.run(&[("cgroup", &name), ("mode", "atomic"), ("deadline", "1s")]).expect("taken");
    assert!(targets.iter().all(|t| taken.core(t.pid()).status == Status::ChangedDuringRead));
    let (facts, all) = (&taken.get("targets.jsonl").item.facts, stood(&taken));
    assert!(facts["frozen"].ends_with("until its deadline"), "{facts:?}");
    assert!(all.iter().all(|us| (500_000..=1_100_000).contains(us)), "{all:?}");
    drop(targets);
}

#[test]
fn a_heartbeat_hardly_misses_a_beat() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "heartbeat", include_str!("tests/heartbeat.c"), &["-O1", "-pthread"]);
    let mut command = Command::new(&program);
    command.args(["1024", "5"]);
    let mut target = Target::start(command);
    let pid = target.pid().to_string();
    let mut longest = Vec::new();
    for _ in 0..5 {
        target.tell();
        let idle = target.line();
        let mut taken = Folder::new();
        // Copying is not the question here: with the first byte of memory the process runs already.
        taken.registers_only = true;
        assert!(matches!(taken.run(&[("pid", &pid)]), Err(Stop::Cancelled(_))));
        target.tell();
        longest.push((target.line().parse::<u64>().expect("microseconds"), idle));
    }
    println!("longest gap between two beats while registers were taken, and while nothing happened (us): {longest:?}");
    // The machine that tests run on has other things to do: the best of five is what the capture itself costs.
    assert!(longest.iter().any(|(us, _)| *us < 5_000), "{longest:?}");
}

#[test]
fn who_cannot_be_stopped_holds_nobody_up() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "waiting", programs::WAITING, &[]);
    let mut target = Target::start(Command::new(&program));
    let pid = target.pid();
    until("it waits for its child", || state(pid) == "D");
    let line = std::fs::read_to_string(format!("/proc/{pid}/syscall")).expect("what the kernel says of it");
    let taken = Folder::take(&[("pid", &pid.to_string())]);
    let core = taken.core(pid);
    assert_eq!(core.status, Status::Partial, "{:?}", core.item);
    assert!(core.item.reason.as_deref().is_some_and(|r| r.contains("1 threads did not stop")), "{:?}", core.item.reason);
    assert!(contains(&std::fs::read(&core.file).expect("core"), b"WAITS-FOR-ITS-CHILD"), "its memory is there");
    let rows = taken.rows(&format!("{pid}/map.jsonl"));
    let row = rows.iter().find(|r| r["running"].as_str().is_some_and(|w| w.contains("state D"))).expect("its row");
    // Where it waits is known all the same, and gdb shows it. All that the kernel tells is in the row.
    let asleep = &row["asleep"];
    let hex = |v: &serde_json::Value| format!("{:#x}", u64::from_str_radix(v.as_str().expect("digits"), 16).expect("an address"));
    let arguments: Vec<String> = asleep["arguments"].as_array().expect("arguments").iter().map(hex).collect();
    let (stack, place) = (hex(&asleep["stack_pointer"]), hex(&asleep["program_counter"]));
    assert_eq!(format!("{} {} {stack} {place}", asleep["system_call"], arguments.join(" ")), line.trim_end(), "{row}");
    assert_eq!(row["registers_partial"], true, "{row}");
    // It ran on, and so does its child with the same memory: no page is of the stop.
    assert!(rows[0]["memory"]["kept_pages"].is_null() && !core.item.facts.contains_key("kept_pages"), "{}", rows[0]);
    let said = taken.gdb(pid, Some(&program), &["info threads", "p/x (long)$sp", "p/x (long)$pc", "bt"]);
    for expected in [format!("LWP {pid}"), format!("$1 = {stack}\n"), format!("$2 = {place}\n"), "vfork".to_owned()] {
        assert!(said.contains(&expected), "{expected}: {said}");
    }
    // Its caller is in a register that is an argument of the call, as the C library has it on this processor.
    #[cfg(target_arch = "x86_64")]
    assert!(said.contains("in main ()"), "{said}");
    // It was told to stop and did not; nothing of that is left when it can.
    target.tell();
    assert_eq!(target.line(), "released");
    until("it sleeps", || state(pid) == "S");
}

#[test]
fn threads_that_come_and_go_are_all_stopped() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "restless", programs::RESTLESS, &["-pthread"]);
    let target = Target::start(Command::new(&program));
    let pid = target.pid();
    for _ in 0..10 {
        let mut taken = Folder::new();
        taken.before_memory = Some(Box::new(move || assert!(state(pid).chars().all(|c| matches!(c, 't' | 'X' | 'Z')), "{}", state(pid))));
        taken.run(&[("pid", &pid.to_string()), ("mode", "atomic")]).expect("taken");
        assert_eq!(taken.core(pid).status, Status::Collected, "{:?}", taken.core(pid).item);
        until("they run on", || !state(pid).contains('t'));
    }
}

#[test]
fn the_reason_of_every_group_that_was_not_frozen_is_told_and_many_are_counted() {
    let groups = |count: usize| (0..count).map(|n| format!("/group-{n}: there is none")).collect::<Vec<_>>();
    assert_eq!(say_not_frozen(&[]), None);
    let two = say_not_frozen(&groups(2)).expect("told");
    assert_eq!(two, "/group-0: there is none; /group-1: there is none; their processes were stopped one by one");
    let many = say_not_frozen(&groups(NOT_FROZEN_MAX + 3)).expect("told");
    assert!(many.contains("/group-15: ") && !many.contains("/group-16: ") && many.contains("and 3 more groups;"), "{many}");
}
