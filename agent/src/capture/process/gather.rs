//! Reads one process through its `/proc/<pid>` folder, opened once: the open folder means this process and no later one
//! with the same number, so what is read below it never mixes two processes.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::row::{Exe, Fd, Row, Sched, Thread, policy_name};
use super::{container, fds, maps, parse};
use crate::capture::live::{Lossless, Problem, Read, SMALL_BYTES_MAX, lines, number, numbers};
use crate::capture::procfs::{self, link, open_dir, read_at};
use crate::capture::threads::{self, Living, Others};

/// Bound of a table that grows with one process or one namespace (about 40,000 mappings or mounts): whoever owns it can make
/// it long, and it is in memory as a whole.
pub const TABLE_BYTES_MAX: usize = 4 << 20;
/// Names read from an fd or task folder before giving up counting.
pub(super) const NAMES_MAX: usize = 4 << 20;
/// Threads listed per process; the rest is counted.
const THREADS_MAX: usize = 8192;

/// A raw file below `/proc/<pid>` that becomes an item of its own.
#[derive(Debug, Clone, Copy)]
pub struct Raw {
    /// Path below the process's folder.
    pub name: &'static str,
    /// Bound in bytes.
    bytes_max: usize,
    /// Whether it says something about a kernel thread.
    kernel_thread: bool,
}

const fn raw(name: &'static str, bytes_max: usize, kernel_thread: bool) -> Raw {
    Raw { name, bytes_max, kernel_thread }
}

/// All of them. Left out on purpose: what needs ptrace rights and stops nothing but says little (`auxv` excepted), what
/// duplicates another file (`comm`, `mounts`, `mountstats`), what is memory (`mem`, `pagemap`), what costs (`smaps`,
/// `numa_maps`: the first by parameter).
pub const RAW: &[Raw] = &[
    raw("stat", SMALL_BYTES_MAX, true),
    raw("status", SMALL_BYTES_MAX, true),
    raw("statm", SMALL_BYTES_MAX, false),
    raw("cmdline", 4 << 20, false),
    raw("environ", 4 << 20, false),
    raw("maps", TABLE_BYTES_MAX, false),
    raw("smaps", TABLE_BYTES_MAX, false),
    raw("smaps_rollup", SMALL_BYTES_MAX, false),
    raw("limits", SMALL_BYTES_MAX, false),
    raw("cgroup", SMALL_BYTES_MAX, true),
    raw("io", SMALL_BYTES_MAX, false),
    raw("sched", SMALL_BYTES_MAX, true),
    raw("schedstat", SMALL_BYTES_MAX, false),
    raw("oom_score", SMALL_BYTES_MAX, false),
    raw("oom_score_adj", SMALL_BYTES_MAX, false),
    raw("loginuid", SMALL_BYTES_MAX, false),
    raw("sessionid", SMALL_BYTES_MAX, false),
    raw("wchan", SMALL_BYTES_MAX, true),
    raw("syscall", SMALL_BYTES_MAX, false),
    raw("stack", SMALL_BYTES_MAX, true),
    raw("personality", SMALL_BYTES_MAX, false),
    raw("attr/current", SMALL_BYTES_MAX, false),
    raw("uid_map", SMALL_BYTES_MAX, false),
    raw("gid_map", SMALL_BYTES_MAX, false),
    raw("setgroups", SMALL_BYTES_MAX, false),
    raw("timers", SMALL_BYTES_MAX, false),
    raw("timerslack_ns", SMALL_BYTES_MAX, false),
    raw("auxv", SMALL_BYTES_MAX, false),
];

const NAMESPACES: [&str; 10] = ["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"];

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Raw files that are not read: not asked for, or not offered by this kernel.
    pub without: Vec<&'static str>,
    /// The host's policy keeps values of the environment back.
    pub redacts: bool,
}

/// One process as it was read.
pub struct Gathered {
    /// `/proc/<pid>`, pinned; of a process whose first thread has ended, `/proc/<tid>` of [`Row::read_through`].
    pub dir: OwnedFd,
    pub row: Box<Row>,
    pub raw: Vec<(&'static str, Result<Read, Errno>)>,
    /// Open files beyond the row's share.
    pub more_fds: Vec<Fd>,
    pub exe: Option<Statx>,
}

/// Reads a process.
///
/// # Errors
/// When its folder cannot be opened: it is gone, or hidden.
pub fn gather(pid: u32, plan: &Plan) -> Result<Gathered, Errno> {
    let first = procfs::process(pid)?;
    let mut row = Box::new(Row { pid, status: "collected", ticks_per_s: rustix::param::clock_ticks_per_second(), ..Row::default() });
    let living = threads::living(&first, pid);
    row.read_through = living.as_ref().map(|l| l.tid);
    let dir = living.as_ref().map_or(&first, |l| &l.dir);
    let mut raw = Vec::with_capacity(RAW.len());
    let mut arguments = None;
    for file in RAW.iter().filter(|f| !plan.without.contains(&f.name)) {
        if row.kernel_thread && !file.kernel_thread {
            continue;
        }
        let mut result = read_at(if OF_FIRST.contains(&file.name) { &first } else { dir }, file.name, file.bytes_max);
        match &mut result {
            Ok(read) if file.name == "stat" => arguments = parse::stat(&read.bytes).and_then(|s| s.arguments),
            Ok(read) if file.name == "cmdline" && plan.redacts => keep_to_arguments(read, arguments),
            _ => {}
        }
        match &result {
            Ok(read) => interpret(&mut row, file.name, read),
            Err(e) => row.problems.push(Problem::new(file.name, *e)),
        }
        if let Some(living) = living.as_ref().filter(|_| OF_FIRST.contains(&file.name)) {
            arguments = memory_of(living, &mut row).or(arguments);
        }
        raw.push((file.name, result));
    }
    links(dir, &mut row);
    let exe = if row.kernel_thread { None } else { exe(dir, &mut row) };
    let others = if row.kernel_thread { Others::default() } else { threads::others(dir, row.read_through.unwrap_or(pid)) };
    list_threads(dir, &mut row, &others);
    let more_fds = if row.kernel_thread { Vec::new() } else { fds::all(dir, &mut row, &others) };
    // The folder answers only while the process exists (a zombie still does).
    // What something is mounted over is there all the same.
    if read_at(&first, "stat", SMALL_BYTES_MAX).is_err_and(|e| e != Errno::XDEV) {
        row.status = "vanished";
        for (_, result) in &mut raw {
            // A dead process's files are "not found" or "no such process" depending on the kernel's path.
            if matches!(result, Err(Errno::NOENT)) {
                *result = Err(Errno::SRCH);
            }
        }
    } else if !row.problems.is_empty() {
        row.status = "partial";
    }
    let dir = living.map_or(first, |l| l.dir);
    Ok(Gathered { dir, row, raw, more_fds, exe })
}

/// What is taken of the first thread even when it has ended: it says so there.
pub const OF_FIRST: [&str; 2] = ["stat", "status"];

/// What `stat` and `status` say of memory, which a first thread that has ended does not know any more: its sizes go into the
/// row, where the arguments lie is given back.
fn memory_of(living: &Living, row: &mut Row) -> Option<(u64, u64)> {
    if let Ok(status) = read_at(&living.dir, "status", SMALL_BYTES_MAX) {
        row.memory = parse::status(&status.bytes).memory;
    }
    read_at(&living.dir, "stat", SMALL_BYTES_MAX).ok().and_then(|read| parse::stat(&read.bytes)).and_then(|s| s.arguments)
}

/// Cuts a command line off where the arguments end. Of a process that overwrote them to the last byte the kernel shows what
/// comes behind them too, up to a zero (proc(5)): that is the environment, or what the process wrote over it.
fn keep_to_arguments(read: &mut Read, arguments: Option<(u64, u64)>) {
    let bytes = arguments.map_or(0, |(start, end)| usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX));
    if read.bytes.len() > bytes {
        read.bytes.truncate(bytes);
        let said = "what lies in the place of its environment is left out: this host's policy (redact_environ)";
        read.cut = Some(read.cut.take().map_or_else(|| said.to_owned(), |cut| format!("{said}; {cut}")));
    }
}

/// Fills the row from one raw file.
fn interpret(row: &mut Row, name: &str, read: &Read) {
    let bytes = read.bytes.as_slice();
    let text = || Some(Lossless::from(read.trimmed()));
    match name {
        "stat" => stat(row, bytes),
        "status" => status(row, parse::status(bytes)),
        "cmdline" => {
            let (arguments, cut) = parse::arguments(bytes);
            (row.cmdline, row.cmdline_cut) = (Some(arguments), cut || read.cut.is_some());
        }
        "maps" => row.maps = Some(maps::summarise(bytes)),
        "limits" => row.limits = parse::limits(bytes),
        "cgroup" => {
            row.cgroup = lines(bytes).map(Lossless::from).collect();
            row.container = container::of_cgroup(bytes);
        }
        "io" => row.io = parse::counters(bytes),
        "oom_score" => row.oom_score = number(bytes),
        "oom_score_adj" => row.oom_score_adj = number(bytes),
        "loginuid" => row.loginuid = number(bytes),
        "sessionid" => row.sessionid = number(bytes),
        "wchan" => row.wchan = text(),
        "syscall" => row.syscall = text(),
        "stack" => row.stack = Some(lines(bytes).map(Lossless::from).collect()),
        "personality" => row.personality = text(),
        // A label may end in NUL (SELinux).
        "attr/current" => row.lsm_label = Some(Lossless::from(read.trimmed().strip_suffix(b"\0").unwrap_or(read.trimmed()))),
        "timerslack_ns" => row.timer_slack_ns = number(bytes),
        _ => {}
    }
}

fn stat(row: &mut Row, bytes: &[u8]) {
    let Some(s) = parse::stat(bytes) else {
        row.problems.push(Problem {
            what: "stat".into(),
            status: crate::capture::Status::Error,
            reason: "not understood; see the raw item".into(),
        });
        return;
    };
    row.kernel_thread = s.kernel_thread();
    row.start_wall = s.start_ticks.and_then(|ticks| start_wall(ticks, row.ticks_per_s));
    row.comm = Some(Lossless(s.comm));
    row.state = s.state;
    row.flags = s.flags;
    (row.ppid, row.pgid, row.sid) = (s.ppid, s.pgid, s.sid);
    (row.tty_nr, row.tty_pgid, row.tty) = (s.tty_nr, s.tty_pgid, s.tty_nr.and_then(parse::tty_name));
    row.start_ticks = s.start_ticks;
    (row.utime_ticks, row.stime_ticks) = (s.utime_ticks, s.stime_ticks);
    (row.minor_faults, row.major_faults) = (s.minor_faults, s.major_faults);
    row.exit_code = s.exit_code;
    row.sched = Sched {
        policy: s.policy.map(policy_name),
        priority: s.priority,
        nice: s.nice,
        rt_priority: s.rt_priority,
        processor: s.processor,
        ..Sched::default()
    };
}

fn status(row: &mut Row, s: parse::Status) {
    row.umask = s.umask;
    row.tgid = s.tgid;
    row.tracer_pid = s.tracer_pid;
    (row.uids, row.gids, row.groups) = (s.uids, s.gids, s.groups);
    (row.ns_pids, row.ns_pgids, row.ns_sids) = (s.ns_pids, s.ns_pgids, s.ns_sids);
    row.memory = s.memory;
    row.signals = s.signals;
    row.caps = s.caps;
    (row.no_new_privs, row.seccomp, row.seccomp_filters) = (s.no_new_privs, s.seccomp, s.seccomp_filters);
    row.speculation_store_bypass = s.speculation_store_bypass;
    (row.sched.cpus_allowed, row.sched.mems_allowed) = (s.cpus_allowed, s.mems_allowed);
    (row.sched.voluntary_switches, row.sched.involuntary_switches) = (s.voluntary_switches, s.involuntary_switches);
}

/// Start time on the wall clock: now, less the time since the start on the clock that counts from boot.
fn start_wall(start_ticks: u64, ticks_per_s: u64) -> Option<String> {
    let ns = |id| {
        let t = clock_gettime(id);
        i128::from(t.tv_sec).checked_mul(1_000_000_000)?.checked_add(i128::from(t.tv_nsec))
    };
    let boot = ns(ClockId::Realtime)?.checked_sub(ns(ClockId::Boottime)?)?;
    let start = i128::from(start_ticks).checked_mul(1_000_000_000)?.checked_div(i128::from(ticks_per_s))?;
    let wall = i64::try_from(boot.checked_add(start)?).ok()?;
    Some(exhibit_evidence::Timestamp::from_unix_ns(wall).to_string())
}

fn links(dir: &OwnedFd, row: &mut Row) {
    for ns in NAMESPACES {
        // A kernel without that kind of namespace has no such link; anything else is a problem worth a line.
        match link(dir, format!("ns/{ns}")) {
            Ok(target) => {
                let kind = ns.strip_suffix("_for_children").unwrap_or(ns);
                if let Some(inode) = parse::bracketed(&target, kind.as_bytes()) {
                    row.namespaces.insert(ns, inode);
                }
            }
            Err(Errno::NOENT) => {}
            Err(e) => {
                row.problems.push(Problem::new("ns", e));
                break;
            }
        }
    }
    for what in ["cwd", "root"] {
        match link(dir, what) {
            Ok(target) if what == "cwd" => row.cwd = Some(Lossless(target)),
            Ok(target) => row.root = Some(Lossless(target)),
            // A zombie has neither.
            Err(Errno::NOENT) if row.state == Some('Z') => {}
            Err(e) => row.problems.push(Problem::new(what, e)),
        }
    }
}

/// Looks at what a magic link points to, without opening it and without asking a remote server.
pub fn look(dir: &OwnedFd, path: impl rustix::path::Arg) -> Result<Statx, Errno> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    statx(dir, path, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID)
}

fn exe(dir: &OwnedFd, row: &mut Row) -> Option<Statx> {
    let target = match link(dir, "exe") {
        Ok(target) => target,
        Err(Errno::NOENT) if row.state == Some('Z') => return None,
        Err(e) => {
            row.problems.push(Problem::new("exe", e));
            return None;
        }
    };
    let stat = match look(dir, "exe") {
        Ok(stat) => stat,
        Err(e) => {
            row.problems.push(Problem::new("exe", e));
            return None;
        }
    };
    let deleted = is_deleted(&target, &stat);
    let shown = if deleted { target.strip_suffix(DELETED).unwrap_or(&target) } else { &target };
    row.exe = Some(Exe {
        path: Lossless::from(shown),
        deleted,
        memfd: target.starts_with(b"/memfd:"),
        dev: [stat.stx_dev_major, stat.stx_dev_minor],
        ino: stat.stx_ino,
        nlink: u64::from(stat.stx_nlink),
        size: stat.stx_size,
        mtime: format!("{}.{:09}", stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        build_id: None,
        item: None,
    });
    Some(stat)
}

/// The kernel's mark at the end of a link's target.
const DELETED: &[u8] = b" (deleted)";

/// Whether the name is gone. A file whose real name ends in the mark counts as deleted too: its content is then taken
/// once more than necessary, which is the harmless side to err on. `nlink` tells.
pub(super) fn is_deleted(target: &[u8], stat: &Statx) -> bool {
    target.ends_with(DELETED) || (stat.stx_nlink == 0 && kind_of(stat) == "file")
}

fn list_threads(dir: &OwnedFd, row: &mut Row, others: &Others) {
    let listed = open_dir(dir, "task").and_then(|task| Ok((numbers(&task, NAMES_MAX)?.0, task)));
    let (tids, task) = match listed {
        Ok(listed) => listed,
        Err(e) => {
            row.problems.push(Problem::new("task", e));
            return;
        }
    };
    row.threads_total = tids.len() as u64;
    if others.covered {
        row.problems.push(Problem::new("task/*", Errno::XDEV));
    }
    for tid in tids.into_iter().take(THREADS_MAX) {
        // A thread that ended since the listing keeps its number in the row, with nothing known.
        let stat = read_at(&task, format!("{tid}/stat"), SMALL_BYTES_MAX).ok().and_then(|r| parse::stat(&r.bytes));
        row.threads.push(Thread {
            tid,
            state: stat.as_ref().and_then(|s| s.state),
            start_ticks: stat.as_ref().and_then(|s| s.start_ticks),
            utime_ticks: stat.as_ref().and_then(|s| s.utime_ticks),
            stime_ticks: stat.as_ref().and_then(|s| s.stime_ticks),
            processor: stat.as_ref().and_then(|s| s.processor),
            policy: stat.as_ref().and_then(|s| s.policy).map(policy_name),
            namespaces: others.elsewhere.iter().find(|(of, _)| *of == tid).map(|(_, ns)| ns.clone()).unwrap_or_default(),
            comm: stat.map(|s| Lossless(s.comm)),
        });
    }
}

/// The kind of an inode in one word. Anonymous inodes (eventfd, epoll, ...) have no type bits.
#[must_use]
pub fn kind_of(stat: &Statx) -> &'static str {
    match stat.stx_mode & 0o170_000 {
        0o100_000 => "file",
        0o040_000 => "directory",
        0o140_000 => "socket",
        0o010_000 => "fifo",
        0o020_000 => "char",
        0o060_000 => "block",
        0o120_000 => "symlink",
        _ => "anonymous",
    }
}
