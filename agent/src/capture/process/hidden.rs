//! Processes that `/proc` does not list: the ways to hide one from a listing (a replaced library, a hooked `getdents`, a mount
//! over its folder) rarely cover every other way to ask for it.
//!
//! Every number that a process can have is asked for by signal 0 (nothing is sent); the numbers of what was started first and
//! last also by opening `/proc/<n>`, which costs ten times as much; every control group is read for its members. Processes come
//! and go, so what answers and is not listed is looked at again, several times: hidden is who is the same process in every look and in
//! none of the listings. Where a listing fails nothing can be said, and that is said. A kernel that lies to every one of these calls hides what it
//! wants: then only an image of its memory helps.

use std::collections::BTreeMap;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};
use serde::Serialize;

use super::{hidepid, parse};
use crate::capture::live::{self, Lossless, SMALL_BYTES_MAX, lines, number, open_dir, read_at, words};
use crate::capture::mounts::Mounts;
use crate::capture::procfs::{self, Listed};
use crate::capture::{Content, NewItem, Output, Status, Stop, Table};

/// Numbers asked for between two looks at the budget: some 0.5 ms.
const STEP: u32 = 4096;
/// The kernel's own limit on numbers (PID_MAX_LIMIT).
const NUMBER_MAX: u32 = 4 << 20;
/// Numbers asked for by folder at each end of those given out so far: 0.5 s of processor time in all.
const FOLDERS: u32 = 128 << 10;
/// Numbers asked for above the highest that is listed, where nothing else tells which was given out last.
const ABOVE: u32 = 16 << 10;
/// Numbers that are kept until they are looked at again.
const FOUND_MAX: usize = 65_536;
/// Listings in which who is hidden is not, besides the one before the search, and the time between two of them.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS_NS: i64 = 20_000_000;
/// Numbers that a search which was told to end still names: in one part of the table.
const UNFINISHED_MAX: usize = 8192;
/// Control groups that are read.
const GROUPS_MAX: usize = 65_536;
const GROUP_BYTES_MAX: usize = 4 << 20;

/// How a number was found.
pub const BY_SIGNAL: u8 = 1;
/// `/proc/<n>` opened although it was not listed.
pub const BY_FOLDER: u8 = 2;
/// It is a member of a control group.
pub const BY_GROUP: u8 = 4;

/// What the host answers; another one in tests.
pub trait Host {
    /// Whether there is a process or thread of this number.
    fn answers(&self, n: u32) -> bool;
    /// Whether `/proc/<n>` can be opened.
    fn opens(&self, n: u32) -> bool;
    /// Whether the number is that of a process, not of a further thread of one; `None` when it cannot be told.
    fn is_process(&self, n: u32) -> Option<bool>;
    /// When the process started, ticks after boot: whether it is still the same one. `None` when it cannot be told.
    fn started(&self, n: u32) -> Option<u64>;
    /// What `/proc` lists.
    fn listed(&self) -> Result<Listed, Errno>;
}

/// This host.
#[derive(Debug, Clone, Copy)]
pub struct Real;

impl Host for Real {
    fn answers(&self, n: u32) -> bool {
        let Some(pid) = pid_of(n) else { return false };
        !matches!(test_kill_process(pid), Err(Errno::SRCH | Errno::INVAL))
    }

    fn opens(&self, n: u32) -> bool {
        // What is mounted over it is not looked at; it is there.
        matches!(procfs::process(n), Ok(_) | Err(Errno::XDEV))
    }

    fn is_process(&self, n: u32) -> Option<bool> {
        let status = read_of(n, "status").map(|bytes| parse::status(&bytes));
        if let Some(tgid) = status.and_then(|s| s.tgid) {
            return Some(tgid == u64::from(n));
        }
        match pidfd_open(pid_of(n)?, PidfdFlags::empty()) {
            Ok(_) => Some(true),
            // Of a thread the kernel says the one or, from Linux 6.9 on, the other.
            Err(Errno::INVAL | Errno::NOENT) => Some(false),
            Err(_) => None,
        }
    }

    fn started(&self, n: u32) -> Option<u64> {
        parse::stat(&read_of(n, "stat")?)?.start_ticks
    }

    fn listed(&self) -> Result<Listed, Errno> {
        procfs::listed_to_all(NUMBER_MAX as usize)
    }
}

/// A number by which the kernel can be asked for a process; `None` where those that are listed are of another namespace.
fn pid_of(n: u32) -> Option<Pid> {
    procfs::has_own_numbers().then_some(())?;
    Pid::from_raw(i32::try_from(n).ok()?)
}

/// A file of a process or thread.
fn read_of(n: u32, file: &str) -> Option<Vec<u8>> {
    let dir = procfs::process(n).ok()?;
    procfs::read_at(&dir, file, SMALL_BYTES_MAX).ok().map(|read| read.bytes)
}

/// What was asked, and what came of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Scan {
    /// What was asked for.
    pub ranges: Ranges,
    /// Control groups read.
    pub groups: usize,
    /// Numbers that answered, were not listed, and turned out to be further threads of processes.
    pub threads: u64,
    /// That had ended, or were listed, when they were looked at again.
    pub passing: u64,
    /// That were too many to be kept.
    pub left_out: u64,
    /// Hidden processes and how they were found.
    pub hidden: BTreeMap<u32, u8>,
    /// Numbers that answered and could not be looked at again, and why: nothing is known of them.
    pub unchecked: Option<(usize, Errno)>,
    /// What `/proc` was instead in the first listing in which it did not show these processes: who is hidden from everybody else only is
    /// not found then.
    pub instead: Option<&'static str>,
}

/// A search that was told to end, and what it had by then.
#[derive(Debug)]
pub struct Cut {
    /// What ended it.
    pub stop: Stop,
    /// Numbers that answered and were not listed, and how they were found.
    found: BTreeMap<u32, u8>,
    /// How often they were looked at again, of [`LOOKS`].
    looks: u32,
}

/// Looks for processes that are not in `listed`, which is sorted.
///
/// # Errors
/// [`Cut`] when the output says that it is to end.
pub fn scan(host: &dyn Host, out: &mut dyn Output, listed: &[u32], groups: &Groups, ranges: Ranges) -> Result<Scan, Cut> {
    let mut scan = Scan { ranges, groups: groups.read, ..Scan::default() };
    let mut found: BTreeMap<u32, u8> = BTreeMap::new();
    let mut add = |n: u32, how: u8, left_out: &mut u64| {
        if listed.binary_search(&n).is_ok() {
        } else if let Some(bits) = found.get_mut(&n) {
            *bits |= how;
        } else if found.len() < FOUND_MAX {
            found.insert(n, how);
        } else {
            *left_out = left_out.saturating_add(1);
        }
    };
    let mut stopped = None;
    for n in 1..=ranges.signal_to.max(ranges.last_to) {
        if n % STEP == 0
            && let Err(stop) = out.checkpoint()
        {
            stopped = Some(stop);
            break;
        }
        if n <= ranges.signal_to && host.answers(n) {
            add(n, BY_SIGNAL, &mut scan.left_out);
        } else if ranges.by_folder(n) && host.opens(n) {
            add(n, BY_FOLDER, &mut scan.left_out);
        }
    }
    for n in &groups.members {
        add(*n, BY_GROUP, &mut scan.left_out);
    }
    if let Some(stop) = stopped {
        return Err(Cut { stop, found, looks: 0 });
    }
    confirm(host, out, &mut scan, found)?;
    Ok(scan)
}

/// Looks at what was found again and again: whoever lived before a listing and lives after it should be in it.
fn confirm(host: &dyn Host, out: &mut dyn Output, scan: &mut Scan, mut found: BTreeMap<u32, u8>) -> Result<(), Cut> {
    let started = |n: u32| host.started(n);
    let mut known: BTreeMap<u32, Option<u64>> = found.keys().map(|n| (*n, started(*n))).collect();
    for look in 0..LOOKS {
        if found.is_empty() {
            return Ok(());
        }
        if let Err(stop) = out.checkpoint() {
            return Err(Cut { stop, found, looks: look });
        }
        if look > 0 {
            let _ = rustix::thread::nanosleep(&rustix::time::Timespec { tv_sec: 0, tv_nsec: BETWEEN_LOOKS_NS });
        }
        let listed = match host.listed() {
            Ok(Listed { pids, instead }) => {
                scan.instead = scan.instead.or(instead);
                pids
            }
            Err(e) => {
                scan.unchecked = Some((found.len(), e));
                return Ok(());
            }
        };
        found.retain(|n, how| {
            if listed.binary_search(n).is_ok() || !(host.answers(*n) || host.opens(*n)) {
                scan.passing = scan.passing.saturating_add(1);
                return false;
            }
            if host.is_process(*n) == Some(false) {
                scan.threads = scan.threads.saturating_add(1);
                return false;
            }
            // Another process than before: it may have started after the listing.
            let now = started(*n);
            if known.insert(*n, now) != Some(now) {
                scan.passing = scan.passing.saturating_add(1);
                return false;
            }
            *how |= if host.opens(*n) { BY_FOLDER } else { 0 };
            true
        });
    }
    scan.hidden = found;
    Ok(())
}

/// Which numbers to ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ranges {
    /// By signal: from 1 to this.
    pub signal_to: u32,
    /// By folder: from 1 to this, what was started first,
    pub first_to: u32,
    /// and from here to `last_to`, what was started last.
    pub last_from: u32,
    /// See above.
    pub last_to: u32,
    /// How the most that a number can be was told, and the one that was given out last.
    pub told: [Told; 2],
}

/// The files that tell, below the folder of processes.
const TELLING: [&str; 2] = ["sys/kernel/pid_max", "loadavg"];

/// How a number of the kernel's was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Told {
    /// By the kernel.
    #[default]
    ByFile,
    /// Through what is mounted over it: container runtimes mount `/proc/sys` over itself, and lxcfs over `/proc/loadavg`.
    ByMount,
    /// Not at all.
    Untold,
    /// Not asked: it speaks of the agent's own namespace. The highest number that is listed tells instead.
    ByList,
}

/// A number in one of [`TELLING`]. It only says how far to look, so what is mounted over it is better than nothing.
fn told(file: &str, nth: usize) -> (Option<u32>, Told) {
    let first = |read: live::Read| words(&read.bytes).nth(nth).and_then(number::<u32>);
    let (read, how) = match procfs::root().and_then(|root| procfs::read_at(root, file, SMALL_BYTES_MAX)) {
        Err(Errno::XDEV) => (live::read(&format!("/proc/{file}"), SMALL_BYTES_MAX), Told::ByMount),
        read => (read, Told::ByFile),
    };
    read.ok().and_then(first).map_or((None, Told::Untold), |found| (Some(found), how))
}

impl Ranges {
    /// By signal every number that there can be; by folder those given out first and last. Numbers are given out in ascending
    /// order and again from the beginning when the highest was reached. `listed`, which is sorted, tells where they are in another
    /// namespace than the agent's.
    #[must_use]
    pub fn of_host(listed: &[u32]) -> Self {
        if !procfs::has_own_numbers() {
            return Self::of_others(listed);
        }
        let [of_most, of_last] = TELLING;
        let (most, by_most) = told(of_most, 0);
        let most = most.unwrap_or(NUMBER_MAX).min(NUMBER_MAX);
        // The last word of loadavg is the number given out last, in the agent's own namespace.
        let (last, by_last) = told(of_last, 4);
        let last = last.unwrap_or(most).min(most);
        let (first_to, last_from) = (most.min(FOLDERS), last.saturating_sub(FOLDERS).max(1));
        Self { signal_to: most, first_to, last_from, last_to: last, told: [by_most, by_last] }
    }

    /// By folder only. Who started after everybody that is listed has a number a little above theirs.
    fn of_others(listed: &[u32]) -> Self {
        let highest = listed.last().copied().unwrap_or(0).min(NUMBER_MAX);
        let last_to = highest.saturating_add(ABOVE).min(NUMBER_MAX);
        let (first_to, last_from) = (last_to.min(FOLDERS), highest.saturating_sub(FOLDERS).max(1));
        Self { signal_to: 0, first_to, last_from, last_to, told: [Told::ByList; 2] }
    }

    /// Which of the numbers that say how far to look were not told by the kernel, in words.
    fn not_told(&self) -> Option<String> {
        let words = TELLING.iter().zip(self.told).filter_map(|(file, told)| match told {
            Told::ByFile => None,
            Told::ByMount => Some(format!("/proc/{file} was read through what is mounted over it")),
            Told::Untold => Some(format!("/proc/{file} could not be read")),
            Told::ByList => {
                Some(format!("/proc/{file} is of the agent's own namespace: not asked, the highest number that is listed tells"))
            }
        });
        let words: Vec<String> = words.collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    const fn by_folder(&self, n: u32) -> bool {
        n <= self.first_to || (n >= self.last_from && n <= self.last_to)
    }
}

/// Members of control groups.
#[derive(Debug, Default)]
pub struct Groups {
    /// Numbers of processes, sorted, each once.
    pub members: Vec<u32>,
    /// Groups that were read.
    pub read: usize,
    /// There were more than are read.
    pub more: bool,
    /// Why it is not known where they are.
    pub unknown: Option<String>,
}

impl Groups {
    /// Reads all groups of all hierarchies.
    ///
    /// # Errors
    /// [`Stop`] from the output.
    pub fn read(out: &mut dyn Output) -> Result<Self, Stop> {
        let mut groups = Self::default();
        // The kernel lists members by their numbers in the agent's namespace.
        if !procfs::has_own_numbers() {
            return Ok(groups);
        }
        let mounts = match Mounts::read() {
            Ok(mounts) => mounts,
            Err(e) => return Ok(Self { unknown: Some(e.to_string()), ..groups }),
        };
        let kinds: [&[u8]; 2] = [b"cgroup2", b"cgroup"];
        for mount in mounts.all().iter().filter(|m| kinds.contains(&m.fs_type.as_slice())) {
            let mut todo = vec![mount.point.clone()];
            while let Some(path) = todo.pop() {
                out.checkpoint()?;
                if groups.read >= GROUPS_MAX {
                    groups.more = true;
                    break;
                }
                groups.one(&path, &mut todo);
            }
        }
        groups.members.sort_unstable();
        groups.members.dedup();
        Ok(groups)
    }

    fn one(&mut self, path: &[u8], todo: &mut Vec<Vec<u8>>) {
        let Ok(dir) = open_dir(CWD, path) else { return };
        self.read = self.read.saturating_add(1);
        if let Ok(procs) = read_at(&dir, "cgroup.procs", GROUP_BYTES_MAX) {
            // 0 stands for a process outside of the agent's PID namespace.
            self.members.extend(lines(&procs.bytes).filter_map(number::<u32>).filter(|n| *n > 0));
        }
        let Ok(entries) = rustix::fs::Dir::read_from(&dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_bytes();
            if entry.file_type() == rustix::fs::FileType::Directory && !matches!(name, b"." | b"..") && todo.len() < GROUPS_MAX {
                todo.push([path, b"/", name].concat());
            }
        }
    }
}

#[derive(Serialize)]
struct Row {
    pid: u32,
    /// `signal`, `folder`, `control-group`, `mount`.
    found_by: Vec<&'static str>,
    listed: bool,
    comm: Option<Lossless>,
    ppid: Option<i64>,
    start_ticks: Option<u64>,
    note: Option<String>,
}

/// Puts `hidden.jsonl`: what was asked and what was found. Also folders of processes over which something is mounted: they
/// are listed, but show another thing than the process.
///
/// # Errors
/// [`Stop`] from the output.
pub fn put(out: &mut dyn Output, scan: &Scan, groups: &Groups) -> Result<(), Stop> {
    let mut table = Table::new("hidden", out.now(), "kill:0, open:/proc/<n>, read:cgroup.procs");
    for (name, value) in [("control_groups", scan.groups as u64), ("threads", scan.threads), ("came_or_went", scan.passing)] {
        table.fact(name, value.to_string());
    }
    let Ranges { signal_to, first_to, last_from, last_to, .. } = scan.ranges;
    let mut problems: Vec<String> = (signal_to == 0).then(|| NOT_ASKED.to_owned()).into_iter().collect();
    table.fact("asked_by_signal", if signal_to == 0 { NO_SIGNAL.to_owned() } else { format!("1-{signal_to}") });
    table.fact("asked_by_folder", format!("1-{first_to}, {last_from}-{last_to}"));
    for (name, value) in procfs::facts().into_iter().chain(scan.ranges.not_told().map(|told| ("limits", told))) {
        table.fact(name, value);
    }
    let mounts = match Mounts::read() {
        Ok(mounts) => Some(mounts),
        Err(e) => {
            table.fact("mounted_over", format!("not known: {e}"));
            problems.push(format!("what is mounted over processes is not known: the agent's table of mounts: {e}"));
            None
        }
    };
    if let Some(option) = mounts.as_ref().and_then(hidepid::option) {
        let why = "it does not list the processes of others; without privilege that is no finding";
        table.fact("hidepid", format!("/proc is mounted with {option}: {why}"));
    }
    for (n, how) in &scan.hidden {
        let stat = read_of(*n, "stat").and_then(|bytes| parse::stat(&bytes));
        let row = Row {
            pid: *n,
            found_by: found_by(*how),
            listed: false,
            ppid: stat.as_ref().and_then(|s| s.ppid),
            start_ticks: stat.as_ref().and_then(|s| s.start_ticks),
            comm: stat.map(|s| Lossless(s.comm)),
            note: None,
        };
        table.row_at_hand(out, &row);
    }
    for mount in mounts.iter().flat_map(Mounts::all) {
        let Some(pid) = mount.point.strip_prefix(b"/proc/").and_then(|rest| number::<u32>(rest.split(|b| *b == b'/').next()?)) else {
            continue;
        };
        let source = exhibit_evidence::text::escape_bytes(&mount.source);
        let point = exhibit_evidence::text::escape_bytes(&mount.point);
        let note = Some(format!("{source} is mounted over {point}: what is read there is not the process"));
        table.row_at_hand(out, &Row { pid, found_by: vec!["mount"], listed: true, comm: None, ppid: None, start_ticks: None, note });
    }
    if let Some(what) = scan.instead {
        problems.push(not_compared(what));
        table.fact("not_compared", what);
    }
    if let Some((count, e)) = scan.unchecked {
        problems.push(format!("{count} numbers answered that were not listed, and could not be checked: listing /proc again failed: {e}"));
        table.fact("not_checked", count.to_string());
    }
    if let Some(why) = &groups.unknown {
        problems.push(format!("control groups were not read: the agent's table of mounts: {why}"));
    }
    if groups.more {
        problems.push(format!("more than {GROUPS_MAX} control groups: the rest was not read"));
    }
    if scan.left_out > 0 {
        problems.push(format!("{} further numbers that answered were not looked at", scan.left_out));
    }
    let problem = (!problems.is_empty()).then(|| (Status::Partial, problems.join("; ")));
    table.finish(out, problem).map(drop)
}

/// Says that hidden processes were not looked for to the end: the capture was told to end.
///
/// # Errors
/// [`Stop`] from the output.
pub fn put_unfinished(out: &mut dyn Output, stop: &Stop) -> Result<(), Stop> {
    let reason = format!("hidden processes were not looked for to the end: {stop}");
    let item = NewItem::record("hidden.jsonl", out.now(), "none").with_status(Status::Skipped, reason);
    out.put(item, Content::None).map(drop)
}

/// Puts what a search had that was told to end. None of it is a finding yet, and all of it is in memory: nothing more is asked.
///
/// # Errors
/// [`Stop`] from the output.
pub fn put_cut(out: &mut dyn Output, cut: &Cut) -> Result<(), Stop> {
    let Cut { stop, found, looks } = cut;
    if found.is_empty() {
        return put_unfinished(out, stop);
    }
    let mut table = Table::new("hidden", out.now(), "kill:0, open:/proc/<n>, read:cgroup.procs");
    table.fact("not_checked", found.len().to_string());
    let note = format!("looked at again {looks} of {LOOKS} times: it may be a thread, or have come or gone meanwhile");
    for (pid, how) in found.iter().take(UNFINISHED_MAX) {
        let (found_by, note) = (found_by(*how), Some(note.clone()));
        table.row_at_hand(out, &Row { pid: *pid, found_by, listed: false, comm: None, ppid: None, start_ticks: None, note });
    }
    let more = found.len().saturating_sub(UNFINISHED_MAX);
    let more = if more > 0 { format!(", {more} of which have no row") } else { String::new() };
    let count = found.len();
    let why = format!("hidden processes were not looked for to the end, and {count} numbers{more} were not checked to the end: {stop}");
    table.finish(out, Some((Status::Partial, why))).map(drop)
}

fn found_by(how: u8) -> Vec<&'static str> {
    let ways = [(BY_SIGNAL, "signal"), (BY_FOLDER, "folder"), (BY_GROUP, "control-group")];
    ways.iter().filter(|(bit, _)| how & bit != 0).map(|(_, word)| *word).collect()
}

/// Nobody is asked by a number of another namespace.
const NO_SIGNAL: &str =
    "none: by the numbers that stand in /proc the kernel would be asked for other processes (see procfs and proc_shows)";

/// Why little was asked where `/proc` has the numbers of another namespace.
const NOT_ASKED: &str = "neither by signal nor in control groups was anybody asked for: /proc has not the numbers of the agent's namespace; who \
     is hidden from its folders too is not found";

fn not_compared(what: &str) -> String {
    format!("/proc was {what} when it was listed: who answers was compared with what the agent sees, not with what everybody is shown")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use super::*;
    use crate::capture::process::Process;
    use crate::capture::testing::{Memory, in_own_mounts, in_own_numbers, without_mounting};

    /// A host on which 10 and 11 are listed, 12 is hidden from listings, 13 also from signals, 14 answers to nothing but is in
    /// a group, 15 is a thread of 10, 16 starts while it is looked for and 17 ends. 18 ends after the first look, 19 is another
    /// process in every look, 20 is listed only the last time, 21 turns out to be a thread in the second look.
    #[derive(Default)]
    struct Fake {
        listings: Cell<u32>,
        /// The listing that fails.
        fails: Option<u32>,
        /// The listing in which something else lies at `/proc`.
        covered: Option<u32>,
    }

    impl Host for Fake {
        fn answers(&self, n: u32) -> bool {
            let listings = self.listings.get();
            [10, 11, 12, 15, 16, 19, 20, 21].contains(&n) || (n == 17 && listings == 0) || (n == 18 && listings <= 1)
        }
        fn opens(&self, n: u32) -> bool {
            [10, 11, 12, 13, 15, 16].contains(&n)
        }
        fn is_process(&self, n: u32) -> Option<bool> {
            if n == 21 { (self.listings.get() > 1).then_some(false) } else { Some(n != 15) }
        }
        fn started(&self, n: u32) -> Option<u64> {
            if n == 19 { Some(self.listings.get().into()) } else { (n < 13).then_some(7) }
        }
        fn listed(&self) -> Result<Listed, Errno> {
            self.listings.set(self.listings.get() + 1);
            if self.fails == Some(self.listings.get()) {
                return Err(Errno::NFILE);
            }
            let pids = if self.listings.get() < LOOKS { vec![10, 11, 16] } else { vec![10, 11, 16, 20] };
            Ok(Listed { pids, instead: self.covered.filter(|n| *n == self.listings.get()).map(|_| "no procfs") })
        }
    }

    fn to(signal_to: u32, first_to: u32) -> Ranges {
        Ranges { signal_to, first_to, last_from: 1, last_to: first_to, ..Ranges::default() }
    }

    #[test]
    fn what_is_hidden_is_told_from_what_comes_and_goes() {
        let groups = Groups { members: vec![10, 12, 14], read: 3, ..Groups::default() };
        let found = scan(&Fake::default(), &mut Memory::default(), &[10, 11], &groups, to(100, 50)).expect("scanned");
        assert_eq!(found.hidden, BTreeMap::from([(12, BY_SIGNAL | BY_FOLDER | BY_GROUP), (13, BY_FOLDER)]));
        // A number that is only in a group, and answers to nothing, has ended.
        assert_eq!((found.threads, found.passing, found.left_out, found.unchecked), (2, 6, 0, None));
        let short = scan(&Fake::default(), &mut Memory::default(), &[10, 11], &Groups::default(), to(11, 11)).expect("scanned");
        assert!(short.hidden.is_empty());
    }

    /// A mount over `/proc` may be there for one look only.
    #[test]
    fn a_listing_of_something_else_is_told_whatever_is_there_later() {
        let groups = Groups::default();
        for covered in [None, Some(1), Some(LOOKS)] {
            let host = Fake { covered, ..Fake::default() };
            let mut out = Memory::default();
            let found = scan(&host, &mut out, &[10, 11], &groups, to(100, 50)).expect("scanned");
            put(&mut out, &found, &groups).expect("put");
            let item = out.get("hidden.jsonl").expect("a table");
            let status = if covered.is_some() { Status::Partial } else { Status::Collected };
            assert_eq!((item.status, item.item.facts.contains_key("not_compared")), (status, covered.is_some()));
            assert_eq!(item.item.reason.as_deref().is_some_and(|r| r.contains("/proc was no procfs")), covered.is_some());
        }
    }

    #[test]
    fn a_listing_that_fails_is_no_finding() {
        let groups = Groups::default();
        for (fails, left) in [(1, 9), (LOOKS, 3)] {
            let host = Fake { fails: Some(fails), ..Fake::default() };
            let mut out = Memory::default();
            let found = scan(&host, &mut out, &[10, 11], &groups, to(100, 50)).expect("scanned");
            assert_eq!((found.hidden.len(), found.unchecked), (0, Some((left, Errno::NFILE))), "{found:?}");
            put(&mut out, &found, &groups).expect("put");
            let item = out.get("hidden.jsonl").expect("a table");
            assert_eq!((item.status, item.item.facts["not_checked"].as_str()), (Status::Partial, left.to_string().as_str()));
            assert!(item.item.reason.as_deref().is_some_and(|r| r.contains("could not be checked")), "{:?}", item.item.reason);
        }
    }

    /// An output that says after so many questions that it is to end.
    struct Ending {
        memory: Memory,
        left: u32,
    }

    impl Output for Ending {
        fn put(&mut self, item: NewItem, content: Content<'_>) -> Result<Status, Stop> {
            self.memory.put(item, content)
        }
        fn checkpoint(&mut self) -> Result<(), Stop> {
            self.left = self.left.checked_sub(1).ok_or(Stop::Deadline)?;
            Ok(())
        }
        fn note(&mut self, current: &str) {
            self.memory.note(current);
        }
        fn now(&self) -> crate::capture::Moment {
            self.memory.now()
        }
        fn keep_room(&mut self, bytes: u64) -> bool {
            self.memory.keep_room(bytes)
        }
        fn ran(&mut self, command: String) {
            self.memory.ran(command);
        }
    }

    #[test]
    fn what_a_search_had_that_was_told_to_end_is_put() {
        let groups = Groups { members: vec![10, 12, 14], read: 3, ..Groups::default() };
        // Before the first look everything that answered is there, threads among it; after it, who may be hidden.
        for (left, looks) in [(0, 0), (1, 1), (2, 2)] {
            let mut out = Ending { memory: Memory::default(), left };
            // Where more numbers are asked for it is told while it asks.
            let ranges = if left == 0 { to(STEP + 1, 50) } else { to(100, 50) };
            let cut = scan(&Fake::default(), &mut out, &[10, 11], &groups, ranges).expect_err("told to end");
            assert_eq!((cut.stop.clone(), cut.looks), (Stop::Deadline, looks));
            assert!(cut.found.contains_key(&12) && cut.found.contains_key(&13), "{cut:?}");
            assert_eq!(cut.found.contains_key(&15), looks == 0, "a thread: {cut:?}");
            put_cut(&mut out, &cut).expect("put");
            let item = out.memory.get("hidden.jsonl").expect("a table");
            let reason = item.item.reason.clone().unwrap_or_default();
            assert!(item.status == Status::Partial && reason.contains("not looked for to the end"), "{reason}");
            assert_eq!(item.item.facts["not_checked"], cut.found.len().to_string());
        }
        let mut out = Ending { memory: Memory::default(), left: 0 };
        let none = Cut { stop: Stop::Deadline, found: BTreeMap::new(), looks: 0 };
        put_cut(&mut out, &none).expect("put");
        assert_eq!(out.memory.get("hidden.jsonl").expect("an item").status, Status::Skipped);
    }

    /// Container runtimes mount `/proc/sys` over itself: where no mount is crossed the limit would be the highest that there is.
    #[test]
    fn how_far_to_look_is_told_through_a_mount_where_there_is_no_own_procfs() {
        in_own_mounts("capture::process::hidden::tests::how_far_to_look_is_told_through_a_mount_where_there_is_no_own_procfs", || {
            let most: u32 = number(&live::read("/proc/sys/kernel/pid_max", SMALL_BYTES_MAX).expect("read").bytes).expect("a number");
            rustix::mount::mount_bind("/proc/sys", "/proc/sys").expect("mount");
            let empty = tempfile::NamedTempFile::new().expect("file");
            rustix::mount::mount_bind(empty.path(), "/proc/loadavg").expect("mount");
            without_mounting();
            let ranges = Ranges::of_host(&[]);
            assert_eq!((ranges.signal_to, ranges.last_to), (most, most));
            assert_eq!(ranges.told, [Told::ByMount, Told::Untold]);
            let mut out = Memory::default();
            put(&mut out, &Scan { ranges, ..Scan::default() }, &Groups::default()).expect("put");
            let limits = &out.get("hidden.jsonl").expect("a table").item.facts["limits"];
            assert!(limits.contains("pid_max was read through") && limits.contains("loadavg could not be read"), "{limits}");
        });
    }

    /// The numbers of another namespace: the newest are near the highest that is listed, wherever the agent's own have come to.
    #[test]
    fn how_far_to_look_among_the_numbers_of_others_is_told_by_who_is_listed() {
        let ranges = Ranges::of_others(&[1, 2_000_001, 2_000_005]);
        let asked = [1, FOLDERS, 1_000_000, 1_999_000, 2_000_004, 2_000_006, 3_000_000].map(|n| ranges.by_folder(n));
        assert_eq!((ranges.signal_to, asked), (0, [true, true, false, true, true, true, false]));
        assert_eq!(Ranges::of_others(&[NUMBER_MAX]).last_to, NUMBER_MAX);
        assert_eq!(Ranges::of_others(&[]).last_to, ABOVE);
    }

    /// Who cannot be asked by signal nor looked for in groups may be hidden all the same.
    #[test]
    fn a_search_among_the_numbers_of_others_is_told_to_be_in_part() {
        in_own_numbers("capture::process::hidden::tests::a_search_among_the_numbers_of_others_is_told_to_be_in_part", || {
            let out = Memory::run(&Process::default(), &[("exe", "false"), ("deleted", "false")]);
            let item = out.get("hidden.jsonl").expect("a table");
            let reason = item.item.reason.as_deref().unwrap_or_default();
            assert!(item.status == Status::Partial && reason.contains("neither by signal"), "{reason}");
            let facts = &item.item.facts;
            assert!(facts["limits"].contains("highest number that is listed"), "{facts:?}");
            assert!(facts["asked_by_signal"].starts_with("none") && !facts["asked_by_signal"].contains("stop"), "{facts:?}");
            let last: u32 = facts["asked_by_folder"].rsplit('-').next().and_then(|n| n.parse().ok()).expect("a number");
            assert!(Real.listed().expect("/proc").pids.last().is_some_and(|n| *n < last), "{facts:?}");
        });
    }

    /// No table of mounts is not the same as no mounts.
    #[test]
    fn mounts_that_are_not_known_are_told() {
        in_own_mounts("capture::process::hidden::tests::mounts_that_are_not_known_are_told", || {
            let over = format!("/proc/{}/mountinfo", std::process::id());
            rustix::mount::mount_bind("/proc/version", over.as_str()).expect("mount");
            without_mounting();
            let mut out = Memory::default();
            let groups = Groups::read(&mut out).expect("groups");
            assert!(groups.unknown.is_some() && groups.members.is_empty(), "{groups:?}");
            put(&mut out, &Scan::default(), &groups).expect("put");
            let item = out.get("hidden.jsonl").expect("a table");
            assert!(item.item.facts["mounted_over"].starts_with("not known: something is mounted over it"), "{:?}", item.item.facts);
            let reason = item.item.reason.clone().unwrap_or_default();
            assert!(item.status == Status::Partial && reason.contains("control groups were not read"), "{reason}");
        });
    }

    #[test]
    fn this_host_hides_nothing_and_its_threads_are_none() {
        let mut out = Memory::default();
        let threads: Vec<_> = (0..8).map(|_| std::sync::mpsc::channel::<()>()).collect();
        let mut parked = Vec::new();
        let mut senders = Vec::new();
        for (sender, receiver) in threads {
            senders.push(sender);
            parked.push(std::thread::spawn(move || receiver.recv()));
        }
        let listed = Real.listed().expect("/proc").pids;
        let groups = Groups::read(&mut out).expect("groups");
        let found = scan(&Real, &mut out, &listed, &groups, Ranges::of_host(&listed)).expect("scanned");
        assert!(found.hidden.is_empty(), "{found:?}");
        assert!(found.threads >= 8 && found.ranges.signal_to >= 32_768, "{found:?}");
        put(&mut out, &found, &groups).expect("put");
        assert!(out.get("hidden.jsonl").expect("a table").item.facts.contains_key("asked_by_signal"));
        drop(senders);
        for thread in parked {
            drop(thread.join());
        }
    }

    #[test]
    fn a_process_that_the_listing_leaves_out_is_found() {
        /// The real host, with a listing that leaves one out, as a hooked one does.
        struct Hooked(u32);
        impl Host for Hooked {
            fn answers(&self, n: u32) -> bool {
                Real.answers(n)
            }
            fn opens(&self, n: u32) -> bool {
                Real.opens(n)
            }
            fn is_process(&self, n: u32) -> Option<bool> {
                Real.is_process(n)
            }
            fn started(&self, n: u32) -> Option<u64> {
                Real.started(n)
            }
            fn listed(&self) -> Result<Listed, Errno> {
                let Listed { pids, instead } = Real.listed()?;
                Ok(Listed { pids: pids.into_iter().filter(|n| *n != self.0).collect(), instead })
            }
        }
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().expect("sleep");
        let host = Hooked(child.id());
        let listed = host.listed().expect("/proc").pids;
        let found = scan(&host, &mut Memory::default(), &listed, &Groups::default(), Ranges::of_host(&listed));
        child.kill().expect("killed");
        child.wait().expect("reaped");
        let hidden: BTreeSet<u32> = found.expect("scanned").hidden.into_keys().collect();
        assert_eq!(hidden, BTreeSet::from([host.0]));
    }
}
