//! What of each mapping is taken: looks at the pages and at the files behind mappings, reads none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use super::access::NOT_SUPPLIED;
use super::behind::{Asker, Asks, Backing, Node, file_ranges};
use super::given_back::GivenBack;
use super::kept::KeptPages;
use super::layout::{Keep, Layout, Runs};
use super::pages::{Page, Pages};
use super::regions::{Class, PAGE, PLAIN, Region, Regions, SHARED, SUPPLIED};
use crate::capture::live::{lines, refusal};
use crate::capture::mounts::{self, Mounts};
use crate::capture::procfs::{self, read_at};

/// Bytes of a process's mount table.
const MOUNTS_BYTES_MAX: usize = 4 << 20;
/// What an order wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Pages in swap are read, which brings them back into memory.
    pub swapped: bool,
    /// Pages of mapped files that the process has not in memory are read from the file.
    pub files: bool,
    /// Of a larger mapped file only the pages that the process has in memory are taken.
    pub file_bytes_max: u64,
}

/// Devices of file systems by what may be done with files on them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Remote or in user space: reading could hang.
    pub remote: BTreeMap<[u32; 2], String>,
    /// Made up by the kernel: a mapping of such a file is a device's or the kernel's memory.
    pub pseudo: BTreeSet<[u32; 2]>,
    /// All that are mounted where the process or the agent sees it, and those of `memfd`s and shared memory.
    pub known: BTreeSet<[u32; 2]>,
}

impl Devices {
    /// Of the mount namespaces of a process and of the agent: layers of containers lie on what only the host sees.
    #[must_use]
    pub fn of(dir: &OwnedFd) -> Self {
        let mut devices = Self { known: in_memory(), ..Self::default() };
        let own = procfs::root().and_then(|root| read_at(root, "self/mountinfo", MOUNTS_BYTES_MAX));
        for table in [read_at(dir, "mountinfo", MOUNTS_BYTES_MAX), own] {
            devices.add(&table.map(|t| t.bytes).unwrap_or_default());
        }
        devices
    }

    fn add(&mut self, table: &[u8]) {
        let devices = self;
        // Line by line: a namespace can have tens of thousands.
        for mount in lines(table).flat_map(|line| Mounts::parse(line).all().to_vec()) {
            let dev = [mount.dev.0, mount.dev.1];
            devices.known.insert(dev);
            match mount.class {
                mounts::Class::Remote | mounts::Class::Trigger => {
                    devices.remote.insert(dev, exhibit_evidence::text::escape_bytes(&mount.fs_type));
                }
                mounts::Class::Pseudo if mount.fs_type != b"hugetlbfs" => {
                    devices.pseudo.insert(dev);
                }
                _ => {}
            }
        }
    }
}

/// The devices of files that lie in memory and are mounted nowhere: those of memfds, with pages of either kind.
fn in_memory() -> BTreeSet<[u32; 2]> {
    let kinds = [MemfdFlags::CLOEXEC, MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB];
    let devices = kinds.into_iter().filter_map(|flags| {
        let stat = rustix::fs::memfd_create("exhibit", flags).and_then(rustix::fs::fstat).ok()?;
        Some([rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)])
    });
    devices.collect()
}

/// Why nothing is stored of a mapping whose pages could not be looked at.
const EMPTY: &str = "nothing of it is in memory or in swap, as smaps says (its pages could not be looked at): reads as zeros";

/// Ranges that are told one by one: 128 KiB.
const GUARDS_MAX: usize = 8_192;

/// Where a process put guards, ascending.
#[derive(Debug, Default)]
pub struct Guards {
    /// First address, and one past the last.
    pub list: Vec<(u64, u64)>,
    /// Ranges beyond the list.
    pub left_out: u64,
    /// Where the last one ends, in the list or beyond it.
    end: Option<u64>,
    /// Bytes of all.
    pub bytes: u64,
    /// The kernel tells of all that there are.
    pub told: bool,
}

impl Guards {
    fn push(&mut self, start: u64, end: u64) {
        self.bytes = self.bytes.saturating_add(end.saturating_sub(start));
        // The kernel may tell of one in several ranges.
        let goes_on = self.end.replace(end) == Some(start);
        if !goes_on && self.list.len() < GUARDS_MAX {
            self.list.push((start, end));
        } else if !goes_on {
            self.left_out = self.left_out.saturating_add(1);
        } else if let (Some(last), 0) = (self.list.last_mut(), self.left_out) {
            last.1 = end;
        }
    }
}

/// The plan of one process.
pub struct Plan {
    /// Where everything lies.
    pub layout: Layout,
    /// Mappings of which something is not stored although it is no zeros, by their place in the table, and why.
    pub why: BTreeMap<u32, String>,
    /// Bytes of pages in memory, those of zeros among them, and in swap.
    pub present_bytes: u64,
    /// See above.
    pub swapped_bytes: u64,
    /// Bytes of the kernel's own page of zeros, by mapping and together; none are known where the kernel does not tell.
    pub zeros: BTreeMap<u32, u64>,
    /// See above.
    pub zero_bytes: Option<u64>,
    /// Guards in its mappings.
    pub guards: Guards,
    /// Pages that were copied while it stood.
    pub kept_pages: usize,
    /// Bytes without a page that are data all the same, by mapping: small holes between pages.
    pub closed: BTreeMap<u32, u64>,
    /// What was not mapped any more before its pages were looked at, as far as that is known.
    pub vanished: GivenBack,
    /// Whether the table of mappings could be read for that.
    pub vanished_known: bool,
    /// Files behind mappings that did not answer, or whose file system did not before.
    pub unanswered: u64,
    /// Pages could not be looked at: everything is read, which makes the kernel map pages that were never touched, but for what `smaps`
    /// says is empty.
    pub blind: Option<Errno>,
    /// Mappings whose pages were not looked at, by their place in the table.
    pub not_seen: BTreeSet<u32>,
    /// Private mappings of devices of which nobody knows which pages are the process's own; nothing of them is read.
    pub own_not_known: u64,
    /// Why the kernel's flags of the mappings are not known, if they are not.
    pub flags: Option<String>,
}

impl Plan {
    /// Why pages could not be looked at, if they could not.
    #[must_use]
    pub fn pages_not_seen(&self) -> Option<String> {
        self.blind.map(|e| refusal(e).1)
    }
}

/// What is known of its pages.
pub struct Known<'a> {
    /// Those that there are now, or why they cannot be looked at.
    pub pages: Result<&'a mut Pages, Errno>,
    /// The kernel's flags of the mappings are known.
    pub flags: bool,
    /// Those that were copied while it stood.
    pub kept: &'a KeptPages,
}

/// Looks at everything and plans. `checkpoint` says whether to go on: the address space may be of any size.
///
/// # Errors
/// [`Errno::SRCH`] when the program is gone, [`Errno::CANCELED`], [`Errno::TIMEDOUT`] when a file does not answer and no further
/// thread may be left behind.
pub fn plan(
    dir: &Arc<OwnedFd>,
    regions: &mut Regions,
    known: Known<'_>,
    wish: &Wish,
    devices: &Devices,
    asks: Asks,
    checkpoint: &mut dyn FnMut() -> bool,
) -> Result<Plan, Errno> {
    let mut planner = Planner {
        asker: Asker::new(dir, wish, devices, asks),
        pages: known.pages,
        flags: known.flags,
        kept: known.kept,
        runs: Runs::default(),
        keep: BTreeSet::new(),
        why: BTreeMap::new(),
        zeros: BTreeMap::new(),
        guards: Guards::default(),
        blind: None,
        not_seen: BTreeSet::new(),
        own_not_known: 0,
    };
    let (mut present_bytes, mut swapped_bytes) = (0_u64, 0_u64);
    for n in 0..regions.list().len() {
        let Some(mut region) = regions.list().get(n).copied() else { break };
        planner.region(n, &mut region, checkpoint)?;
        present_bytes = present_bytes.saturating_add(u64::from(region.present_pages).saturating_mul(PAGE));
        swapped_bytes = swapped_bytes.saturating_add(u64::from(region.swapped_pages).saturating_mul(PAGE));
        if let Some(slot) = regions.list_mut().get_mut(n) {
            *slot = region;
        }
    }
    let Planner { asker, pages, kept, runs, keep, why, zeros, mut guards, blind, not_seen, own_not_known, .. } = planner;
    let pages = pages.ok();
    let kept_pages = kept.count();
    guards.told = blind.is_none() && pages.as_ref().is_some_and(|p| p.tells_guards());
    let (unanswered, tells_zeros) = (asker.unanswered, blind.is_none() && pages.is_some_and(|p| p.tells_zeros()));
    let zero_bytes = zeros.values().copied().fold(0, u64::saturating_add);
    let kept = |region: &Region| {
        let has_runs_only = keep.contains(&region.start);
        let is_foreign = matches!(region.class, Class::Device | Class::Doubtful | Class::Shared);
        if (is_foreign && !has_runs_only) || (region.is_reserved() && blind.is_none()) {
            return Keep::Nothing;
        }
        if has_runs_only { Keep::Runs } else { Keep::All }
    };
    Ok(Plan {
        layout: Layout::new(regions.list(), &runs, &kept),
        why,
        present_bytes,
        swapped_bytes,
        zeros,
        zero_bytes: tells_zeros.then_some(zero_bytes),
        guards,
        kept_pages,
        closed: runs.closed,
        vanished: GivenBack::default(),
        vanished_known: false,
        unanswered,
        blind,
        not_seen,
        own_not_known,
        flags: None,
    })
}

struct Planner<'a> {
    asker: Asker<'a>,
    pages: Result<&'a mut Pages, Errno>,
    flags: bool,
    kept: &'a KeptPages,
    runs: Runs,
    /// Mappings of which only runs are kept, by their first address.
    keep: BTreeSet<u64>,
    why: BTreeMap<u32, String>,
    zeros: BTreeMap<u32, u64>,
    guards: Guards,
    blind: Option<Errno>,
    not_seen: BTreeSet<u32>,
    own_not_known: u64,
}

/// Gives a mapping its class by what lies behind it, and says which node that is, of a device.
fn classified(region: &mut Region, backing: &Backing) -> Option<Node> {
    if region.class == Class::Doubtful {
        let is_file = matches!(backing, Backing::Readable { .. } | Backing::InMemoryOnly(_));
        region.class = if is_file { Class::File } else { Class::Device };
    }
    let Backing::Device(node) = backing else { return None };
    // The kernel makes no difference between this and memory that was asked for without a file.
    let is_zero = *node == Node::Zero && region.bits & SHARED == 0;
    region.class = if is_zero { Class::Anonymous } else { Class::Device };
    Some(*node)
}

impl Planner<'_> {
    fn region(&mut self, n: usize, region: &mut Region, checkpoint: &mut dyn FnMut() -> bool) -> Result<(), Errno> {
        let (named, key) = (matches!(region.class, Class::File | Class::Doubtful), n as u32);
        // What `smaps` says, until the pages are looked at.
        let is_empty = region.bits & PLAIN != 0 && (region.present_pages, region.swapped_pages) == (0, 0);
        (region.present_pages, region.swapped_pages) = (0, 0);
        let backing = if named { self.asker.backing(region)? } else { Backing::Unknown(Errno::NOENT) };
        if named && !checkpoint() {
            return Err(Errno::CANCELED);
        }
        let node = classified(region, &backing);
        match region.class {
            Class::Device | Class::Doubtful => return self.device(n, region, (named, node), checkpoint),
            Class::Shared => {
                self.not_seen.insert(key);
                self.why.insert(key, "the kernel's own page, the same in every process and not readable from outside".into());
                return Ok(());
            }
            Class::Kernel => {
                self.not_seen.insert(key);
                self.runs.push(region.start, region.end, n);
                return Ok(());
            }
            Class::Anonymous | Class::File => {}
        }
        let mut merged = Merged { runs: &mut self.runs, n, data: self.kept.among(region, file_ranges(region, &backing)), next: 0 };
        let (mut present, mut swapped, mut zeros) = (0_u64, 0_u64, 0_u64);
        let guards = &mut self.guards;
        let mut each = |start: u64, end: u64, kind: Page| {
            let count = end.saturating_sub(start) / PAGE;
            match kind {
                // Nothing is there that could be kept.
                Page::Guard => return guards.push(start, end),
                Page::Swapped => swapped = swapped.saturating_add(count),
                _ => {
                    present = present.saturating_add(count);
                    zeros = zeros.saturating_add(if kind == Page::Zero { count } else { 0 });
                }
            }
            merged.push(start, end);
        };
        let looked = match (&mut self.pages, self.blind) {
            (_, Some(e)) => Err(e),
            (Err(e), None) => Err(*e),
            (Ok(pages), None) => pages.ranges(region.start, region.end, checkpoint, &mut each),
        };
        merged.finish();
        match looked {
            Ok(()) => {}
            Err(e @ (Errno::SRCH | Errno::CANCELED)) => return Err(e),
            // Without seeing pages, everything is data, but for what has none at all.
            Err(e) => {
                self.blind = Some(e);
                self.not_seen.insert(key);
                self.runs.forget(n);
                if is_empty && region.class == Class::Anonymous && self.pages.is_err() {
                    self.why.insert(key, EMPTY.to_owned());
                } else {
                    self.runs.push(region.start, region.end, n);
                }
                (present, swapped, zeros) = (0, 0, 0);
            }
        }
        region.present_pages = u32::try_from(present).unwrap_or(u32::MAX);
        region.swapped_pages = u32::try_from(swapped).unwrap_or(u32::MAX);
        if zeros > 0 {
            self.zeros.insert(key, zeros.saturating_mul(PAGE));
        }
        self.keep_of(n, region, backing);
        Ok(())
    }

    /// The mapping of a device: what lies beneath is never read. In a private one the pages that the process wrote to are its own,
    /// ordinary memory that no device sees.
    fn device(
        &mut self,
        n: usize,
        region: &mut Region,
        (named, node): (bool, Option<Node>),
        checkpoint: &mut dyn FnMut() -> bool,
    ) -> Result<(), Errno> {
        let key = n as u32;
        let what = node.map_or("memory of a device or of the kernel", Node::what);
        // A block device's pages are those of a file: no driver puts others in.
        let is_plain = region.bits & PLAIN != 0 || node == Some(Node::Block);
        // What the flags call a device's memory cannot be read from outside at all; only of what has a name may they say less.
        let is_told = !named && self.flags && !is_plain;
        if region.bits & SHARED != 0 || is_told {
            self.not_seen.insert(key);
            self.why.insert(key, format!("{what}: reading it could do something, so it is not read"));
            return Ok(());
        }
        let looked = if is_plain { self.own_pages(n, region, checkpoint) } else { Ok(None) };
        let unknown = match looked {
            Ok(Some((present, swapped))) => {
                region.present_pages = u32::try_from(present).unwrap_or(u32::MAX);
                region.swapped_pages = u32::try_from(swapped).unwrap_or(u32::MAX);
                if present > 0 || swapped > 0 {
                    self.keep.insert(region.start);
                }
                self.why.insert(key, format!("{what}: only pages that the process wrote are its own and are read, nothing beneath them"));
                return Ok(());
            }
            Ok(None) => "the kernel's flags of it are not known, or it holds pages that a driver put in".to_owned(),
            Err(e @ (Errno::SRCH | Errno::CANCELED)) => return Err(e),
            Err(e) => {
                self.runs.forget(n);
                self.blind.get_or_insert(e);
                refusal(e).1
            }
        };
        self.not_seen.insert(key);
        self.own_not_known = self.own_not_known.saturating_add(1);
        self.why.insert(key, format!("{what}: which pages are the process's own is not known ({unknown}), so nothing is read"));
        Ok(())
    }

    /// Adds the process's own pages of a mapping to the runs. Returns how many are in memory and in swap.
    fn own_pages(&mut self, n: usize, region: &Region, checkpoint: &mut dyn FnMut() -> bool) -> Result<Option<(u64, u64)>, Errno> {
        let pages = match (&mut self.pages, self.blind) {
            (_, Some(e)) => return Err(e),
            (Err(e), None) => return Err(*e),
            (Ok(pages), None) => pages,
        };
        let runs = &mut self.runs;
        let (mut present, mut swapped) = (0_u64, 0_u64);
        let mut each = |start: u64, end: u64, kind: Page| {
            let sum = match kind {
                Page::Present => &mut present,
                Page::Swapped => &mut swapped,
                Page::Absent | Page::Zero | Page::Guard => return,
            };
            *sum = sum.saturating_add(end.saturating_sub(start) / PAGE);
            runs.push(start, end, n);
        };
        pages.own_ranges(region.start, region.end, checkpoint, &mut each)?;
        Ok(Some((present, swapped)))
    }

    /// Remembers of which mappings only the runs are kept, and why the rest is not there.
    fn keep_of(&mut self, n: usize, region: &Region, backing: Backing) {
        // Nobody knows what would be there: it is no zeros.
        if region.bits & SUPPLIED != 0 {
            self.keep.insert(region.start);
            self.why.insert(n as u32, NOT_SUPPLIED.to_owned());
            return;
        }
        let why = match backing {
            Backing::InMemoryOnly(why) => why,
            Backing::Readable { size, data } => {
                let beyond = region.offset.saturating_add(region.bytes()) > size.next_multiple_of(PAGE);
                match (beyond, data.is_some()) {
                    (false, false) => return,
                    (true, false) => "beyond the end of the file: no access".to_owned(),
                    (false, true) => "a hole of the file: reads as zeros".to_owned(),
                    (true, true) => format!("a hole of the file, which reads as zeros, or beyond its end ({size} bytes): no access"),
                }
            }
            Backing::Device(_) | Backing::Unknown(_) => return,
        };
        self.keep.insert(region.start);
        self.why.insert(n as u32, why);
    }
}

/// Puts the pages that the process has and the data of its file and the kept pages together, ascending.
struct Merged<'a> {
    runs: &'a mut Runs,
    n: usize,
    data: Vec<(u64, u64)>,
    next: usize,
}

impl Merged<'_> {
    fn push(&mut self, start: u64, end: u64) {
        while let Some((from, to)) = self.data.get(self.next).copied().filter(|(from, _)| *from <= start) {
            self.runs.push(from, to, self.n);
            self.next = self.next.saturating_add(1);
        }
        self.runs.push(start, end, self.n);
    }

    fn finish(&mut self) {
        for (from, to) in self.data.get(self.next..).unwrap_or_default().iter().copied() {
            self.runs.push(from, to, self.n);
        }
        self.next = self.data.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_that_is_told_in_several_ranges_is_one_also_beyond_the_list() {
        let mut guards = Guards::default();
        let count = GUARDS_MAX as u64 + 2;
        for at in (1..=count).map(|n| n * 4 * PAGE) {
            guards.push(at, at + PAGE);
            guards.push(at + PAGE, at + 2 * PAGE);
        }
        assert_eq!((guards.list.len(), guards.left_out, guards.bytes), (GUARDS_MAX, 2, count * 2 * PAGE));
        assert!(guards.list.iter().all(|(start, end)| end - start == 2 * PAGE));
    }
}
