//! The `process-memory` capture: one ELF core file for each chosen process, as gdb and lldb open it, with all its threads,
//! their registers and its memory.
//!
//! In mode `fast` (the default) a process stands for less than a millisecond, while its registers and mappings are read and a few
//! pages that have to fit them are kept; its memory is copied while it runs. In mode `atomic` it stands until the copy is done, or its deadline passes.

mod access;
mod asleep;
mod behind;
mod choose;
mod core_file;
mod elf;
mod flags;
mod freeze;
mod given_back;
mod held;
mod keep;
mod kept;
mod layout;
mod look;
mod one;
mod pages;
mod plan;
mod reader;
mod regions;
mod registers;
mod report;
mod select;
mod silent;
mod stop;
mod targets;
#[cfg(test)]
pub(super) mod tests;
mod unmapped;

use std::time::Duration;

use rustix::io::Errno;

use self::freeze::{Frozen, Thawed, ThawedBy};
use self::plan::Wish;
use self::report::Mode;
use self::select::{Candidate, Wanted};
use self::silent::Silent;
use self::stop::NotStopped;
use self::targets::{Standing, TargetRow, Targets};
use super::left::{ASIDE_MAX, LeftBehind};
use super::live::{Lossless, put_absent, refusal};
use super::mounts::Mounts;
use super::process::hidepid;
use super::procfs;
use super::{Capture, Content, Kind, Moment, NewItem, Output, Params, Status, Stop, evidence_path};

/// Processes listed: the kernel's own limit (PID_MAX_LIMIT).
const PIDS_MAX: usize = 4 << 20;
/// Processes with something mounted over them that are named; all are counted.
const COVERED_MAX: usize = 300;
/// Groups that were not frozen that are named, with the reason of each; all are counted.
const NOT_FROZEN_MAX: usize = 16;
/// How long a process stands at most in mode `atomic`, unless the order says otherwise.
const DEADLINE_S: u64 = 10;
/// How long the kernel may take for any one thing that it is asked of a process: a lock of the process can hold it for ever.
const PATIENCE: Duration = Duration::from_secs(10);
const METHOD: &str = "ptrace, read:/proc/<pid>/mem";

/// The capture; see the module.
#[derive(Debug, Default, Clone, Copy)]
pub struct ProcessMemory;

impl ProcessMemory {
    /// For the registry.
    #[must_use]
    pub fn boxed() -> Box<dyn Capture> {
        Box::new(Self)
    }
}

impl Capture for ProcessMemory {
    fn name(&self) -> &'static str {
        "process-memory"
    }

    fn check(&self, params: &Params) -> Result<(), String> {
        Wanted::new(params)?;
        Options::new(params).map(drop)
    }

    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        let wanted = Wanted::new(params).map_err(Stop::Fatal)?;
        let options = Options::new(params).map_err(Stop::Fatal)?;
        let taken = take(out, &wanted, &options)?;
        if taken.meant == 0 {
            let among = if taken.unseen { " among those that /proc shows the agent; see targets.jsonl" } else { "" };
            return Err(Stop::Nothing(format!("no process is what the order names{among}")));
        }
        if taken.cores == 0 {
            let meant = taken.meant;
            return Err(Stop::Nothing(format!("the memory of none of {meant} processes that the order names was taken; see the items")));
        }
        if taken.covered > 0 {
            let covered = taken.covered;
            let why = "were not looked at, because something is mounted over them; see the items";
            return Err(Stop::Nothing(format!("{covered} processes that the order means, or may mean, {why}")));
        }
        if taken.failed > 0 {
            let failed = taken.failed;
            let why = "processes that the order names was not taken, for an error; see the items";
            return Err(Stop::Nothing(format!("the memory of {failed} {why}")));
        }
        if taken.unseen {
            let why = "processes that the order may mean were not looked at, because /proc does not show them to the agent";
            return Err(Stop::Nothing(format!("{why}; see targets.jsonl")));
        }
        Ok(())
    }
}

/// How processes are taken.
#[derive(Debug, Clone)]
pub struct Options {
    mode: Mode,
    deadline: Duration,
    wish: Wish,
    /// How long the kernel may take for one thing.
    patience: Duration,
    /// What did not answer so far.
    silent: Silent,
    /// Processes that did not.
    left: LeftBehind,
}

impl Default for Options {
    fn default() -> Self {
        let wish = Wish { swapped: true, files: true, file_bytes_max: 1 << 30 };
        let (silent, left) = (Silent::default(), LeftBehind::default());
        Self { mode: Mode::Fast, deadline: Duration::from_secs(DEADLINE_S), wish, patience: PATIENCE, silent, left }
    }
}

impl Options {
    fn new(params: &Params) -> Result<Self, String> {
        let bad = |e: super::BadParam| e.to_string();
        let mode = if params.text("mode").map(str::trim) == Some("atomic") { Mode::Atomic } else { Mode::Fast };
        let deadline_s = params.seconds("deadline").map_err(bad)?.unwrap_or(DEADLINE_S);
        let default = Self::default();
        let wish = Wish {
            swapped: params.flag("swapped", default.wish.swapped).map_err(bad)?,
            files: params.flag("files", default.wish.files).map_err(bad)?,
            file_bytes_max: params.bytes("file_max").map_err(bad)?.unwrap_or(default.wish.file_bytes_max),
        };
        Ok(Self { mode, deadline: Duration::from_secs(deadline_s), wish, ..default })
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Processes that the order means, and that are not left out on principle.
    pub meant: u64,
    /// Of these, processes with a core file.
    pub cores: u64,
    /// Of these, those whose core file is not whole.
    pub in_part: u64,
    /// Processes that did not answer, at first or in the middle.
    pub stuck: u64,
    /// Of those that are meant, or may be, those over which something is mounted.
    pub covered: u64,
    /// Processes that the order names, and not only as all, of which there is no core for an error.
    pub failed: u64,
    /// More may be meant, which the agent is not shown.
    pub unseen: bool,
}

/// The memory of every process but the agent's own, in mode `fast`: what can be had of a host whose physical memory cannot.
/// Ends with the limits of the order like everything that is put.
///
/// # Errors
/// [`Stop`] from the output, or when there is no process table.
pub fn all(out: &mut dyn Output) -> Result<Taken, Stop> {
    take(out, &Wanted::everything(), &Options::default())
}

fn take(out: &mut dyn Output, wanted: &Wanted, options: &Options) -> Result<Taken, Stop> {
    // By a number of another namespace another process would be stopped.
    if let Some(why) = procfs::foreign() {
        return Err(refused(out, &why)?);
    }
    let mut pids = match procfs::listed(PIDS_MAX) {
        Ok((pids, _)) if !pids.is_empty() => pids,
        Ok(_) => return Err(Stop::Fatal("/proc lists no process: is it mounted?".to_owned())),
        Err(e) => return Err(Stop::Fatal(format!("listing /proc: {e}"))),
    };
    // A number that was ordered is tried even if it is not listed: it may be hidden.
    pids.extend(wanted.pids.iter().filter(|pid| pids.binary_search(pid).is_err()).copied().collect::<Vec<_>>());
    let mut table = Targets::new(out.now());
    for (name, value) in procfs::facts() {
        table.fact(name, value);
    }
    say_covered(&mut table);
    let hidepid = hidepid::told();
    if let Some(told) = &hidepid {
        table.fact("hidepid", told.clone());
    }
    // Who is ordered by number has a row, shown or not.
    let unseen = hidepid.is_some() && (wanted.all || wanted.looks());
    let frozen = freeze(wanted, options, &mut table);
    let taken = Taken { unseen, ..Taken::default() };
    let mut run = Run {
        wanted,
        options,
        frozen,
        table,
        taken,
        kernel_threads: 0,
        aside: Vec::new(),
        not_reached: Vec::new(),
        standing: Standing::default(),
        hidepid,
    };
    let ended = run.all(out, pids);
    let Run { frozen, mut table, taken, kernel_threads, mut not_reached, standing, hidepid, .. } = run;
    not_reached.retain(|pid| wanted.may_mean(*pid));
    // Before anything else: they stand.
    let thawed: Vec<(String, Thawed)> = frozen.into_iter().map(|group| (group.path.clone(), group.thaw())).collect();
    table.fact("kernel_threads", kernel_threads.to_string());
    if !thawed.is_empty() {
        let told: Vec<String> = thawed.iter().map(|(path, thawed)| say_thawed(path, thawed, ended.as_ref().err())).collect();
        table.fact("frozen", told.join("; "));
    }
    let mut rows = Ok(());
    for (n, row) in standing.into_rows() {
        let stood = thawed.get(n).and_then(|(_, thawed)| thawed.stood).map(micros);
        let stopped_us = stood.max(row.stopped_us);
        rows = rows.and(table.row(out, &TargetRow { stopped_us, ..row }));
    }
    // The list of what was taken is there however that ended: there is a while for it after the collection was told to end, and room
    // at the end of the list of items.
    let cut = ended.as_ref().err().map(|stop| table.cut(&not_reached, stop));
    let unseen = hidepid.filter(|_| taken.unseen).map(|told| format!("processes that the order may mean were not looked at: {told}"));
    let why: Vec<String> = cut.into_iter().chain(unseen).collect();
    let put = table.finish(out, (!why.is_empty()).then(|| (Status::Partial, why.join("; "))));
    ended?;
    rows?;
    put?;
    Ok(taken)
}

/// Microseconds, rounded up as those of single stops are.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// What the table says of a frozen group; `stop` is what ended the capture early.
fn say_thawed(path: &str, thawed: &Thawed, stop: Option<&Stop>) -> String {
    let path = exhibit_evidence::text::escape_bounded(path, 200);
    let until = match (thawed.by, stop) {
        (ThawedBy::Agent, None) => "until everything was copied".to_owned(),
        (ThawedBy::Agent, Some(stop)) => format!("until the capture was told to end, before everything was copied: {stop}"),
        (ThawedBy::Deadline, _) => "until its deadline".to_owned(),
        (ThawedBy::Other, _) => "until somebody else thawed it".to_owned(),
        (ThawedBy::Nobody, _) => "before the capture, and stays so".to_owned(),
    };
    thawed.stood.map_or_else(|| format!("{path}, {until}"), |stood| format!("{path}, {} us, {until}", micros(stood)))
}

struct Run<'a> {
    wanted: &'a Wanted,
    options: &'a Options,
    frozen: Vec<Frozen>,
    table: Targets,
    taken: Taken,
    kernel_threads: u64,
    /// Processes that are tried again after all others.
    aside: Vec<u32>,
    /// Those that were not looked at when the capture was told to end.
    not_reached: Vec<u32>,
    /// Rows of processes of frozen groups.
    standing: Standing,
    /// Which processes the agent is not shown.
    hidepid: Option<String>,
}

impl Run<'_> {
    fn all(&mut self, out: &mut dyn Output, pids: Vec<u32>) -> Result<(), Stop> {
        self.each(out, pids, false)?;
        // Those of whose owner others were late come at the very end.
        for last in [false, true] {
            let aside = std::mem::take(&mut self.aside);
            self.each(out, aside, last)?;
        }
        Ok(())
    }

    /// Takes one after the other; told to end, it remembers those that are left.
    fn each(&mut self, out: &mut dyn Output, pids: Vec<u32>, last: bool) -> Result<(), Stop> {
        let mut left = pids.into_iter();
        while let Some(pid) = left.next() {
            let told = out.checkpoint();
            let is_reached = told.is_ok();
            if let Err(stop) = told.and_then(|()| self.process(out, pid, last)) {
                self.not_reached.extend((!is_reached).then_some(pid));
                self.not_reached.extend(left);
                self.not_reached.append(&mut self.aside);
                return Err(stop);
            }
        }
        Ok(())
    }

    /// A process whose folder does not open: said if it was ordered by its number, or if something is mounted over it, or over what
    /// tells whether it is meant. Then it is an item unless the order names other numbers only. Who answers all the same is there.
    fn unopened(&mut self, out: &mut dyn Output, pid: u32, error: Errno, started: Moment) -> Result<(), Stop> {
        let is_ordered = self.wanted.pids.contains(&pid);
        let is_covered = error == Errno::XDEV;
        if !is_ordered && !is_covered {
            return Ok(());
        }
        let by = if is_ordered { Some("pid") } else { self.wanted.all.then_some("all") };
        if by.is_some() || self.wanted.looks() {
            self.taken.meant = self.taken.meant.saturating_add(1);
            self.taken.covered = self.taken.covered.saturating_add(u64::from(is_covered));
        }
        let has_failed = is_ordered && !is_covered && is_error(&gone_or_denied(error));
        self.taken.failed = self.taken.failed.saturating_add(u64::from(has_failed));
        let is_gone = matches!(error, Errno::NOENT | Errno::SRCH);
        let unseen = if is_gone { hidepid::unseen(pid, self.hidepid.as_deref()) } else { None };
        let is_there = !is_gone || unseen.is_some();
        let put = if by.is_some() {
            match unseen {
                Some(why) => put_absent(out, evidence_path(format!("/proc/{pid}/core")), Status::Denied, why, started, METHOD),
                None => absent(out, pid, gone_or_denied(error), started),
            }
        } else if self.wanted.looks() {
            let why = "something is mounted over it: whether it is what the order names cannot be told; it may be";
            put_absent(out, evidence_path(format!("/proc/{pid}/core")), Status::Error, why, started, METHOD)
        } else {
            Ok(())
        };
        let result = if is_covered {
            "not looked at: something is mounted over it"
        } else if is_there {
            "not looked at: see its item"
        } else {
            "not there"
        };
        let row = TargetRow { pid, name: Lossless::default(), by, result, core: None, stopped_us: None, stood: None };
        self.table.row(out, &row).and(put)
    }

    /// A number that was ordered and is a thread's: no core of its own is made of it, and nobody is told that there is such a process.
    fn thread(&mut self, out: &mut dyn Output, row: TargetRow, leader: u32, started: Moment) -> Result<(), Stop> {
        self.taken.meant = self.taken.meant.saturating_add(1);
        self.taken.failed = self.taken.failed.saturating_add(1);
        let at = evidence_path(format!("/proc/{}/core", row.pid));
        let why = format!("a thread of process {leader}, and no process: name pid={leader}");
        let put = put_absent(out, at, Status::Error, why, started, METHOD);
        self.table.row(out, &TargetRow { result: NOT_TAKEN, ..row }).and(put)
    }

    /// Puts the row of a process, or keeps it until its group is thawed.
    fn row(&mut self, out: &mut dyn Output, group: Option<usize>, row: TargetRow) -> Result<(), Stop> {
        let row = match group {
            Some(n) => self.standing.keep(n, row),
            None => Some(row),
        };
        row.map_or(Ok(()), |row| self.table.row(out, &row))
    }

    /// Takes a process if it is meant, and puts its row. One that may not be asked now is put aside, unless this is the last time.
    fn process(&mut self, out: &mut dyn Output, pid: u32, last: bool) -> Result<(), Stop> {
        let started = out.now();
        let (candidate, dir) = match Candidate::open(pid) {
            Ok(found) => found,
            Err(e) => return self.unopened(out, pid, e, started),
        };
        let Some(by) = self.wanted.why(&candidate) else {
            return if self.wanted.is_untold(&candidate) { self.unopened(out, pid, Errno::XDEV, started) } else { Ok(()) };
        };
        let name = Lossless(candidate.stat.comm.clone());
        let mut row = TargetRow { pid, name, by: Some(by), result: "", core: None, stopped_us: None, stood: None };
        if by == "pid"
            && let Some(leader) = select::leader(&dir, pid)
        {
            return self.thread(out, row, leader, started);
        }
        if let Some(why) = never_taken(&candidate) {
            row.result = why;
            let is_kernels = candidate.stat.kernel_thread();
            self.kernel_threads = self.kernel_threads.saturating_add(u64::from(is_kernels));
            return if is_kernels && by == "all" { Ok(()) } else { self.table.row(out, &row) };
        }
        let admitted = self.options.left.admits(pid, last);
        if !admitted && !last && self.aside.len() < ASIDE_MAX {
            self.aside.push(pid);
            return Ok(());
        }
        self.taken.meant = self.taken.meant.saturating_add(1);
        out.note(&format!("memory of process {pid}"));
        let nth = self.frozen.iter().position(|f| f.holds(candidate.groups()));
        let group = nth.and_then(|n| self.frozen.get(n));
        let asked = self.options.left.asked();
        let done = if admitted { one::one(out, &candidate, dir, self.options, group, &asked) } else { Ok(Err(NotStopped::GivenUp)) };
        let done = match done {
            Ok(done) => done,
            Err(stop) => {
                row.result = "the capture ended with it: see its item, if it has one";
                return self.row(out, nth, row).and(Err(stop));
            }
        };
        let stuck = matches!(done, Ok(one::Taken { stuck: true, .. }) | Err(NotStopped::Stuck(_)));
        if stuck {
            asked.leave(pid);
        }
        self.taken.stuck = self.taken.stuck.saturating_add(u64::from(stuck));
        let mut put = Ok(());
        match done {
            Ok(one::Taken { status, stopped_us, .. }) => {
                row.stopped_us = stopped_us;
                row.result = result(status);
                if row.result != NOT_TAKEN {
                    self.taken.cores = self.taken.cores.saturating_add(1);
                    self.taken.in_part = self.taken.in_part.saturating_add(u64::from(status != Status::Collected));
                    row.core = Some(format!("/proc/{pid}/core"));
                }
            }
            Err(why) => {
                row.result = NOT_TAKEN;
                let is_covered = why == NotStopped::Error(Errno::XDEV);
                let has_failed = by != "all" && !is_covered && is_error(&why);
                self.taken.covered = self.taken.covered.saturating_add(u64::from(is_covered));
                self.taken.failed = self.taken.failed.saturating_add(u64::from(has_failed));
                put = absent(out, pid, why, started);
            }
        }
        self.row(out, nth, row).and(put)
    }
}

const NOT_TAKEN: &str = "not taken: see its item";

/// Why a process is none whose memory is ever taken, as its row says it.
fn never_taken(candidate: &Candidate) -> Option<&'static str> {
    if candidate.stat.kernel_thread() {
        return Some("kernel thread: no memory of its own");
    }
    // What thaws file systems and groups is a child of the agent and holds a copy of its keys.
    let thaws = candidate.stat.ppid == Some(i64::from(std::process::id())) && candidate.stat.comm == b"exhibit-thaw";
    (candidate.pid == std::process::id() || thaws).then_some("the agent itself: never taken")
}

/// What `targets.jsonl` says of a core file by the status under which it was put.
const fn result(status: Status) -> &'static str {
    match status {
        Status::Collected => "taken",
        Status::Partial => "taken in part: see its item",
        Status::ChangedDuringRead => "taken, but it changed meanwhile: see its item",
        Status::Missing | Status::Denied | Status::Skipped | Status::Vanished | Status::Error => NOT_TAKEN,
    }
}

/// Says that nobody is stopped, and why.
fn refused(out: &mut dyn Output, why: &str) -> Result<Stop, Stop> {
    let mut item = NewItem::record("targets.jsonl", out.now(), "none").with_status(Status::Error, why);
    item.facts.extend(procfs::facts().into_iter().map(|(name, value)| (name.to_owned(), value)));
    out.put(item, Content::None)?;
    Ok(Stop::Nothing(why.to_owned()))
}

/// Says over which processes something is mounted: whoever looks in `/proc` sees something else than what was taken.
fn say_covered(table: &mut Targets) {
    let covered = match Mounts::read() {
        Ok(mounts) => procfs::covered(&mounts),
        Err(e) => {
            table.fact("mounted_over", format!("not known: {e}"));
            return;
        }
    };
    if covered.is_empty() {
        return;
    }
    let some: Vec<String> = covered.iter().take(COVERED_MAX).map(u32::to_string).collect();
    let count = covered.len();
    table.fact("mounted_over", format!("in /proc something is mounted over the folder of {count} processes or in it: {}", some.join(", ")));
}

/// Freezes the control groups of the order, where that can be done; otherwise each process is stopped by itself, and the
/// table says why.
fn freeze(wanted: &Wanted, options: &Options, table: &mut Targets) -> Vec<Frozen> {
    let (mut frozen, mut not_frozen) = (Vec::new(), Vec::new());
    for path in wanted.cgroups.iter().filter(|_| options.mode == Mode::Atomic) {
        match Frozen::freeze(path, options.deadline) {
            Ok(group) => frozen.push(group),
            Err(why) => {
                let path = exhibit_evidence::text::escape_bounded(path, 200);
                not_frozen.push(format!("{path}: {why}"));
            }
        }
    }
    // One fact for all: of two with one name the last one would stand alone.
    if let Some(told) = say_not_frozen(&not_frozen) {
        table.fact("not_frozen", told);
    }
    frozen
}

/// What the table says of groups that were not frozen; more than a few are counted.
fn say_not_frozen(groups: &[String]) -> Option<String> {
    let some = groups.iter().take(NOT_FROZEN_MAX).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = groups.len().saturating_sub(NOT_FROZEN_MAX);
    let more = if more > 0 { format!("; and {more} more groups") } else { String::new() };
    (!groups.is_empty()).then(|| format!("{some}{more}; their processes were stopped one by one"))
}

fn gone_or_denied(e: Errno) -> NotStopped {
    match e {
        Errno::NOENT | Errno::SRCH => NotStopped::Vanished,
        Errno::ACCESS | Errno::PERM => NotStopped::Denied(e),
        e => NotStopped::Error(e),
    }
}

/// Whether the item of a process that was not taken is an error: it did not end, and nobody refused it.
fn is_error(why: &NotStopped) -> bool {
    match why {
        NotStopped::Stuck(_) => true,
        NotStopped::Error(e) => refusal(*e).0 == Status::Error,
        NotStopped::Vanished | NotStopped::Traced(..) | NotStopped::Denied(_) | NotStopped::Withheld | NotStopped::GivenUp => false,
    }
}

/// Puts the item of a process that was not taken; `started` is when it was asked first, however long it was waited for.
fn absent(out: &mut dyn Output, pid: u32, why: NotStopped, started: Moment) -> Result<(), Stop> {
    let (status, reason) = match why {
        NotStopped::Vanished => (Status::Vanished, "the process is not there, or has ended and has no memory any more".to_owned()),
        NotStopped::Traced(tracer, name) => (
            Status::Denied,
            format!(
                "process {tracer} ({name}) traces it, and a process has one tracer at most: nothing was stopped; end that tracer, or take its memory too"
            ),
        ),
        NotStopped::Denied(e) => (Status::Denied, format!("the agent may not stop it or read its memory: {e}")),
        NotStopped::Stuck(patience) => {
            let s = patience.as_secs();
            (Status::Error, format!("it did not answer within {s} s: a lock of its memory is held (left behind, the capture went on)"))
        }
        NotStopped::Withheld => {
            let why = "where its environment lies cannot be told, so it cannot be kept back, as this host's policy asks (redact_environ)";
            (Status::Denied, why.to_owned())
        }
        NotStopped::GivenUp => {
            let why = "not tried: too many processes do not answer in time; what places are left are for those that look as if they would";
            (Status::Skipped, why.to_owned())
        }
        NotStopped::Error(e) => (Status::Error, refusal(e).1),
    };
    let item = NewItem::new(evidence_path(format!("/proc/{pid}/core")), Kind::Unknown, started, METHOD).with_status(status, reason);
    out.put(item, Content::None).map(drop)
}
