//! One process, from the first look at it to its table. Whatever is read of a process from here on may wait for a lock that
//! the process holds, so all of it is done by threads that can be left behind.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use exhibit_agent_sys::memory::is_shared;
use rustix::io::Errno;

use super::access::{Access, Counts, NOWHERE};
use super::asleep;
use super::behind::Asks;
use super::core_file::{CoreFile, WITHHELD, Withheld};
use super::elf::{self, About, Header, Notes};
use super::freeze::Frozen;
use super::given_back::GivenBack;
use super::kept::KeptPages;
use super::pages::Pages;
use super::plan::{self, Devices, Known, Plan};
use super::reader::Reader;
use super::regions::Regions;
use super::report::{self, Mode, StopFacts};
use super::select::Candidate;
use super::stop::{self, NotStopped, Stands, Stopped};
use super::unmapped::{self, Unmapped};
use super::{METHOD, Options, flags, gone_or_denied};
use crate::capture::left::Asked;
use crate::capture::live::numbers;
use crate::capture::patience::{self, NotDone};
use crate::capture::procfs::{self, link, open_dir};
use crate::capture::threads;
use crate::capture::{Content, Kind, NewItem, Output, Status, Stop, Table, evidence_path};

/// Processes that are asked whether they share memory: as many as Linux can have.
const PROCESSES_MAX: usize = 4 << 20;
/// Open files that are looked through for a userfaultfd.
const FILES_MAX: usize = 65_536;

/// The fact `stopped_us` of who stands until its memory is copied, or its whole group's is.
const STILL_STANDS: &str = "it still stood when its item was closed: see stopped_us of its row in targets.jsonl";

/// What came of a process of which there is a core file.
pub struct Taken {
    /// It did not answer any more in the middle, and a thread waits for it.
    pub stuck: bool,
    /// What became of the item: its content may have been refused (a limit of the order), or not be whole.
    pub status: Status,
    /// The longest time that a thread stood, microseconds; none while it stands with its group.
    pub stopped_us: Option<u64>,
}

/// What is read before it stands.
struct Before {
    about: About,
    devices: Devices,
    /// It has a userfaultfd: what is watched must be known, whatever asking costs.
    watches: bool,
}

impl Before {
    fn read(dir: &OwnedFd, pid: u32) -> Self {
        Self { about: About::read(dir), devices: Devices::of(dir), watches: watches(dir, pid) }
    }
}

/// Whether it has a userfaultfd open, in any table of open files: its threads have one memory, but not always one such table. Who
/// else watches its memory (a parent, a lazy restore) cannot be told from here. What was not looked at may hold one.
pub fn watches(dir: &OwnedFd, pid: u32) -> bool {
    let living = threads::living(dir, pid);
    let (first, dir) = living.as_ref().map_or((pid, dir), |l| (l.tid, &l.dir));
    // Nor may what something is mounted over be taken for none.
    let is_one = |fd: &OwnedFd, n: u32| match link(fd, n.to_string()) {
        Ok(to) => to.starts_with(b"anon_inode:[userfaultfd]"),
        Err(e) => e == Errno::XDEV,
    };
    let holds = |files: String| match open_dir(dir, files).and_then(|fd| Ok((numbers(&fd, FILES_MAX)?, fd))) {
        Ok(((all, more), fd)) => more || all.into_iter().any(|n| is_one(&fd, n)),
        Err(e) => e == Errno::XDEV,
    };
    if holds("fd".to_owned()) {
        return true;
    }
    let others = threads::others(dir, first);
    others.covered || others.left_out.is_some() || others.files.iter().any(|tid| holds(format!("task/{tid}/fd")))
}

/// Takes one process, or says why there is no core file of it. `asked` is shared with every thread that may be left behind with it.
///
/// # Errors
/// [`Stop`] from the output.
pub fn one(
    out: &mut dyn Output,
    candidate: &Candidate,
    dir: OwnedFd,
    options: &Options,
    group: Option<&Frozen>,
    asked: &Arc<Asked>,
) -> Result<Result<Taken, NotStopped>, Stop> {
    let dir = Arc::new(dir);
    let (own, pid, shared) = (Arc::clone(&dir), candidate.pid, Arc::clone(asked));
    let look = move || {
        let _shared = shared;
        Before::read(&own, pid)
    };
    let before = match patience::within(options.patience, look) {
        Ok(before) => before,
        Err(e) => return Ok(Err(not_done(e, options))),
    };
    // What stands with its whole group needs no stop of its own but for its registers.
    let hold = (options.mode == Mode::Atomic && group.is_none()).then_some(options.deadline);
    let room = (options.mode == Mode::Fast).then(|| KeptPages::room(out.redacts_environment()));
    let mut stopped = match stop::stop(&dir, candidate.pid, hold, room, asked) {
        Ok(stopped) => stopped,
        Err(why) => return Ok(Err(why)),
    };
    asleep::ask(&dir, candidate.pid, &mut stopped, asked);
    // Released by the agent is not released: they stand until their group is thawed.
    if group.is_some_and(|group| group.is_ours() && group.stands()()) {
        for thread in &mut stopped.threads {
            thread.to_ns = 0;
        }
    }
    let sharers = if options.mode == Mode::Atomic { sharers(&dir, candidate.pid, group).unwrap_or_default() } else { Vec::new() };
    let held = group.map(Frozen::stands).or_else(|| stopped.hold.as_ref().map(stop::Hold::stands));
    let is_native = stopped.threads.iter().all(elf::is_native);
    One { out, candidate, dir, options, asked, held, sharers, is_native }.copied(before, stopped)
}

/// Whether an environment lies where the kernel puts it: in the first stack, right below the name of the program
/// (`AT_EXECFN`), not larger than the kernel lets it be (execve(2)). A process may say otherwise (`PR_SET_MM`) without a right.
fn is_where_it_was_put((start, end): (u64, u64), auxv: &[u8], stack: Option<Withheld>) -> bool {
    const AT_EXECFN: u64 = 31;
    const BYTES_MAX: u64 = 6 << 20;
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).ok();
    let name = auxv.chunks_exact(16).find_map(|pair| {
        let (key, value) = pair.split_at(8);
        (word(key) == Some(AT_EXECFN)).then(|| word(value)).flatten()
    });
    let inside = stack.is_some_and(|s| s.start <= start && end <= s.end);
    start <= end && end.saturating_sub(start) <= BYTES_MAX && name == Some(end) && inside
}

/// The other processes that use the memory of one, and do not stand with its group. `None` where the kernel does not tell.
fn sharers(dir: &OwnedFd, pid: u32, group: Option<&Frozen>) -> Option<Vec<u32>> {
    // A task without memory (a first thread that ended, a kernel thread) is equal to every other one without: never compared.
    let own = threads::living(dir, pid).map_or(pid, |l| l.tid);
    link(&procfs::process(own).ok()?, "exe").ok()?;
    is_shared(own, own).ok()?;
    let living = |other: u32| threads::living(&procfs::process(other).ok()?, other);
    let shares =
        |other: u32| is_shared(own, other).unwrap_or(false) || living(other).is_some_and(|l| is_shared(own, l.tid).unwrap_or(false));
    let stands = |other: u32| group.is_some_and(|g| Candidate::open(other).is_ok_and(|(c, _)| g.holds(c.groups())));
    let (all, _) = procfs::listed(PROCESSES_MAX).ok()?;
    Some(all.into_iter().filter(|other| *other != pid && shares(*other) && !stands(*other)).collect())
}

const fn not_done(e: NotDone, options: &Options) -> NotStopped {
    match e {
        NotDone::Late => NotStopped::Stuck(options.patience),
        NotDone::Ended => NotStopped::Error(Errno::IO),
        NotDone::NoThread => NotStopped::Error(Errno::AGAIN),
    }
}

struct One<'a> {
    out: &'a mut dyn Output,
    candidate: &'a Candidate,
    dir: Arc<OwnedFd>,
    options: &'a Options,
    asked: &'a Arc<Asked>,
    /// Says whether it stands, if it is meant to.
    held: Option<Stands>,
    /// Who else changes its memory while it stands.
    sharers: Vec<u32>,
    /// Its registers are those of a process of 64 bits.
    is_native: bool,
}

/// What was found out about its memory.
struct Planned {
    regions: Regions,
    pages: Option<Pages>,
    kept: Arc<KeptPages>,
    devices: Devices,
    plan: Result<Plan, Errno>,
}

impl One<'_> {
    /// Copies the memory of a process that was stopped.
    fn copied(&mut self, before: Before, mut stopped: Stopped) -> Result<Result<Taken, NotStopped>, Stop> {
        let Before { mut about, devices, watches } = before;
        let withheld = match self.withheld(&stopped, &mut about) {
            Ok(withheld) => withheld,
            Err(why) => return Ok(Err(why)),
        };
        let mut planned = match self.planned(&mut stopped, devices, watches)? {
            Ok(planned) => planned,
            Err(e) => return Ok(Err(not_done(e, self.options))),
        };
        let mut plan = match planned.plan {
            Ok(plan) => plan,
            Err(Errno::TIMEDOUT) => return Ok(Err(not_done(NotDone::Late, self.options))),
            Err(e) => return Ok(Err(gone_or_denied(e))),
        };
        let pid = self.candidate.pid;
        let details = format!("{pid}/map.jsonl");
        let of = report::About { pid, start_ticks: self.candidate.stat.start_ticks, mode: self.options.mode, details: &details };
        let note = report::note(&of, &stopped, &planned.regions, &plan, withheld, self.out.now());
        // The registers are in the notes from here on.
        let threads = stopped.threads.iter_mut().map(stop::Thread::take_registers).collect();
        let notes = Notes::new(pid, about, threads, &stopped.looked.auxv, &planned.regions, &note);
        let regions = Arc::new(std::mem::take(&mut planned.regions));
        let (Ok(memory), Ok(maps)) = (stopped.looked.memory.try_clone(), stopped.looked.maps.try_clone()) else {
            return Ok(Err(NotStopped::Error(Errno::MFILE)));
        };
        let access = Access {
            dir: Arc::clone(&self.dir),
            memory: Arc::new(memory),
            pages: planned.pages,
            regions: Arc::clone(&regions),
            kept: planned.kept,
            wish: self.options.wish.clone(),
            devices: Arc::new(planned.devices),
            silent: self.options.silent.clone(),
            asked: Arc::clone(self.asked),
            lost: Vec::new(),
            place: Arc::new(AtomicU64::new(NOWHERE)),
            // Where it is not known what is watched, the call that waits for who watches is not used.
            held: self.held.clone().filter(|_| plan.flags.is_none()).map(|flag| (pid, flag)),
            open: None,
            unmapped: Unmapped::new(Arc::new(maps)),
            given_back: Vec::new(),
            sees_pages: plan.blind.is_none(),
            counts: Counts::default(),
        };
        let started = Reader::start(access, self.options.patience, &self.options.silent);
        let Ok(mut reader) = started else { return Ok(Err(NotStopped::Error(Errno::AGAIN))) };
        reader.given_back = GivenBack::new(&regions, &plan.closed);
        let header = Header::new(notes, plan.layout.segments.len());
        let layout = std::mem::take(&mut plan.layout);
        let mut core = CoreFile::new(header, layout, regions, reader, details, self.held.clone());
        core.withheld = withheld;
        core.set_vanished(&plan.vanished, plan.vanished_known);
        let result = self.put(&stopped, &plan, &mut core);
        // However that went: the process runs on before anything else is done.
        let over = stopped.hold.take().and_then(stop::Hold::release);
        let stop = StopFacts::of(self.options.mode, &stopped, over.as_ref());
        let stopped_us = stop.longest_us;
        let table = Table::new(&format!("{pid}/map"), stopped.begun, "ptrace, read:/proc/<pid>/{maps,pagemap,mem}");
        // Where there is no room for a core, room is kept for the list of what was taken rather than for what would have been in it.
        let refused = result.as_ref().is_ok_and(|status| super::result(*status) == super::NOT_TAKEN);
        let table = if refused { table.ordinary() } else { table };
        // Also when the core is the last thing that is taken: it names this table.
        let put = report::table(self.out, table, pid, stop, &stopped, &plan, &core);
        let status = result?;
        put?;
        Ok(Ok(Taken { stuck: core.is_stuck(), status, stopped_us }))
    }

    /// What this host's policy keeps back: the whole environment, because the names in it are the process's to overwrite.
    fn withheld(&self, stopped: &Stopped, about: &mut About) -> Result<Option<Withheld>, NotStopped> {
        if !self.out.redacts_environment() {
            return Ok(None);
        }
        // A command line that was overwritten to its last byte is shown as going on into the environment (proc(5)).
        let arguments = about.stat.arguments.map_or(0, |(start, end)| end.saturating_sub(start));
        about.cmdline.truncate(usize::try_from(arguments).unwrap_or(usize::MAX));
        let stack = stopped.looked.regions.list().iter().find(|r| stopped.looked.regions.name(r) == b"[stack]");
        let first_stack = stack.map(|r| Withheld { start: r.start, end: r.end, moved: true });
        match stopped.looked.environment {
            Some((start, end)) if is_where_it_was_put((start, end), &stopped.looked.auxv, first_stack) => {
                Ok((start < end).then_some(Withheld { start, end, moved: false }))
            }
            // The process says that it is elsewhere. Where it was put is in the first stack, so all of that is kept back.
            _ => first_stack.map(Some).ok_or(NotStopped::Withheld),
        }
    }

    /// Looks at the flags of its mappings and plans the file; ends when the collection is to end.
    fn planned(&mut self, stopped: &mut Stopped, devices: Devices, watches: bool) -> Result<Result<Planned, NotDone>, Stop> {
        let mut pages = std::mem::replace(&mut stopped.looked.pages, Err(Errno::SRCH));
        let mut regions = std::mem::take(&mut stopped.looked.regions);
        let kept = Arc::new(std::mem::take(&mut stopped.kept));
        let (dir, wish) = (Arc::clone(&self.dir), self.options.wish.clone());
        // Without its pages only that says what is empty.
        let any_size = watches || self.held.is_some() || pages.is_err();
        let maps = stopped.looked.maps.try_clone();
        // Shorter than what the whole may take without a step.
        let asks = Asks { patience: self.options.patience / 2, silent: self.options.silent.clone() };
        let shared = Arc::clone(self.asked);
        let work = move |pulse: &patience::Pulse| {
            let _shared = shared;
            let flags = flags::read(&dir, &mut regions, any_size, &mut || pulse.step());
            // Before the look at the pages: what is given back behind it is found when it is read.
            let vanished = maps.ok().and_then(|maps| unmapped::vanished(&maps, &regions, &devices.pseudo));
            let (vanished_known, vanished) = (vanished.is_some(), vanished.unwrap_or_default());
            let known = Known { pages: pages.as_mut().map_err(|e| *e), flags: flags.is_none(), kept: &kept };
            let plan = plan::plan(&dir, &mut regions, known, &wish, &devices, asks, &mut || pulse.step());
            Planned { regions, pages: pages.ok(), kept, devices, plan: plan.map(|plan| Plan { vanished, vanished_known, flags, ..plan }) }
        };
        let Self { out, options, .. } = self;
        patience::watched(options.patience, &mut || out.checkpoint(), work)
    }

    /// What keeps a core from being all of the process at one moment, in words.
    fn shortcomings(&self, stopped: &Stopped, plan: &Plan, core: &CoreFile) -> Vec<String> {
        let mut why: Vec<String> = asleep::missing(&stopped.threads).into_iter().collect();
        if !self.sharers.is_empty() {
            let some: Vec<String> = self.sharers.iter().take(8).map(ToString::to_string).collect();
            let (n, some) = (self.sharers.len(), some.join(", "));
            why.push(format!("{n} other processes use the same memory and did not stand ({some}): it is not of one moment"));
        }
        if stopped.threads_left_out > 0 {
            let n = stopped.threads_left_out;
            why.push(format!("{n} or more threads were not stopped: too many, or one of them did not come back from execve"));
        }
        if core.regions.left_out > 0 || core.regions.cut.is_some() {
            why.push("mappings are missing: more than 65,536, or the table broke off".to_owned());
        }
        if stopped.looked_late {
            let held = if self.options.mode == Mode::Atomic { ", and it did not stand while its memory was copied" } else { "" };
            why.push(format!(
                "the mappings are of a moment after the registers: a lock of the process was held, or the host is busy{held}"
            ));
        }
        if !self.is_native {
            why.push(
                "a process of 32 bits: its registers stand as the kernel gives them, debuggers of 64 bits do not show them".to_owned(),
            );
        }
        if plan.unanswered > 0 {
            why.push(format!("{} mapped files did not answer: what of them is not in memory is not in the core", plan.unanswered));
        }
        if plan.own_not_known > 0 {
            let (n, list) = (plan.own_not_known, core.details());
            why.push(format!(
                "of {n} private mappings of devices it is not known which pages are the process's own, so nothing of them was read ({list})"
            ));
        }
        why
    }

    fn put(&mut self, stopped: &Stopped, plan: &Plan, core: &mut CoreFile) -> Result<Status, Stop> {
        let (candidate, mode) = (self.candidate, self.options.mode);
        let pid = candidate.pid;
        let mut item = NewItem::new(evidence_path(format!("/proc/{pid}/core")), Kind::File, stopped.begun, METHOD);
        let stop = StopFacts::of(mode, stopped, None);
        let facts: BTreeMap<&str, String> = BTreeMap::from([
            ("comm", exhibit_evidence::text::escape_bytes(&candidate.stat.comm)),
            ("start_ticks", candidate.stat.start_ticks.map_or_else(String::new, |t| t.to_string())),
            ("mode", if mode == Mode::Fast { "fast".to_owned() } else { "atomic".to_owned() }),
            ("threads", stopped.threads.len().to_string()),
            ("mappings", core.regions.list().len().to_string()),
            ("swapped_bytes", if plan.blind.is_some() { "not known".to_owned() } else { plan.swapped_bytes.to_string() }),
            ("left_out_bytes", core.layout.left_out_bytes.to_string()),
            ("details", core.details().to_owned()),
        ]);
        item.facts.extend(facts.into_iter().map(|(k, v)| (k.to_owned(), v)));
        // Who still stands when the item is closed: the table of targets says it when that is over.
        let still = self.held.is_some().then(|| STILL_STANDS.to_owned());
        if let Some(stopped_us) = stop.longest_us.map(|us| us.to_string()).or(still) {
            item.facts.insert("stopped_us".to_owned(), stopped_us);
        }
        if let Some(why) = plan.pages_not_seen() {
            item.facts.insert("pages_not_seen".to_owned(), why);
        }
        if plan.kept_pages > 0 {
            item.facts.insert("kept_pages".to_owned(), plan.kept_pages.to_string());
        }
        let mut why = self.shortcomings(stopped, plan, core);
        let watched = core.regions.list().iter().filter(|r| !r.watched().is_empty()).count();
        if watched > 0 {
            item.facts.insert("userfaultfd_mappings".to_owned(), watched.to_string());
        }
        if let Some(Withheld { start, end, moved }) = core.withheld {
            let bytes = end.saturating_sub(start);
            item.facts.insert("redacted_bytes".to_owned(), bytes.to_string());
            let moved = if moved { "; it says that it moved it, so its whole first stack is kept back" } else { "" };
            why.push(format!(
                "{bytes} bytes at {start:x} are not given: {WITHHELD}{moved}; what the program copied elsewhere in its memory is"
            ));
        }
        if !why.is_empty() {
            item = item.with_status(Status::Partial, why.join("; "));
        }
        let (size, extents) = (core.layout.bytes, Some(core.layout.extents.clone()));
        self.out.put(item, Content::Source { size, extents, source: core })
    }
}
