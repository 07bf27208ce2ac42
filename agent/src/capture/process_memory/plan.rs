//! What of each mapping is taken: looks at the pages and at the files behind mappings, reads none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, SeekFrom, Statx, openat};
use rustix::io::Errno;

use super::access::NOT_SUPPLIED;
use super::layout::{Keep, Layout, Runs};
use super::pages::{Page, Pages};
use super::regions::{Class, PAGE, Region, Regions, SUPPLIED};
use crate::capture::live::{lines, read, read_at};
use crate::capture::mounts::{self, Mounts};
use crate::capture::process::gather::{kind_of, look as statx_at};

/// Bytes of a process's mount table.
const MOUNTS_BYTES_MAX: usize = 4 << 20;
/// Data ranges of one sparse file that are told apart; one with more counts as all data.
const RANGES_MAX: usize = 1024;

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
        for table in [read_at(dir, "mountinfo", MOUNTS_BYTES_MAX), read("/proc/self/mountinfo", MOUNTS_BYTES_MAX)] {
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

/// What is known of the file behind a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// A file whose pages may be read from it: where they lie in it.
    Readable {
        /// Its size.
        size: u64,
        /// Where it has data, if it has holes.
        data: Option<Vec<(u64, u64)>>,
    },
    /// Only what the process has in memory is taken, for this reason.
    InMemoryOnly(String),
    /// No file but a device.
    Device(&'static str),
    /// The agent may not look at it: everything is read through the process.
    Unknown(Errno),
}

/// The plan of one process.
pub struct Plan {
    /// Where everything lies.
    pub layout: Layout,
    /// Mappings of which something is not stored although it is no zeros, by their place in the table, and why.
    pub why: BTreeMap<u32, String>,
    /// Bytes of pages in memory and in swap.
    pub present_bytes: u64,
    /// See above.
    pub swapped_bytes: u64,
    /// Pages could not be looked at: everything is read, which makes the kernel map pages that were never touched.
    pub blind: Option<Errno>,
    /// Why the kernel's flags of the mappings are not known, if they are not.
    pub flags: Option<String>,
}

/// Looks at everything and plans. `checkpoint` says whether to go on: the address space may be of any size.
///
/// # Errors
/// [`Errno::SRCH`] when the program is gone, [`Errno::CANCELED`].
pub fn plan(
    dir: &OwnedFd,
    regions: &mut Regions,
    pages: Option<&mut Pages>,
    wish: &Wish,
    devices: &Devices,
    checkpoint: &mut dyn FnMut() -> bool,
) -> Result<Plan, Errno> {
    let mut planner =
        Planner { dir, wish, devices, pages, runs: Runs::default(), keep: BTreeSet::new(), why: BTreeMap::new(), blind: None, last: None };
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
    let Planner { runs, keep, why, blind, .. } = planner;
    let kept = |region: &Region| {
        if matches!(region.class, Class::Device | Class::Doubtful | Class::Shared) || (region.is_reserved() && blind.is_none()) {
            return Keep::Nothing;
        }
        if keep.contains(&region.start) { Keep::Runs } else { Keep::All }
    };
    Ok(Plan { layout: Layout::new(regions.list(), &runs, &kept), why, present_bytes, swapped_bytes, blind, flags: None })
}

struct Planner<'a> {
    dir: &'a OwnedFd,
    wish: &'a Wish,
    devices: &'a Devices,
    pages: Option<&'a mut Pages>,
    runs: Runs,
    /// Mappings of which only runs are kept, by their first address.
    keep: BTreeSet<u64>,
    why: BTreeMap<u32, String>,
    blind: Option<Errno>,
    /// What was found out last: the mappings of one file lie next to each other.
    last: Option<([u32; 2], u64, Backing)>,
}

impl Planner<'_> {
    fn region(&mut self, n: usize, region: &mut Region, checkpoint: &mut dyn FnMut() -> bool) -> Result<(), Errno> {
        let named = matches!(region.class, Class::File | Class::Doubtful);
        let backing = if named { self.backing(region) } else { Backing::Unknown(Errno::NOENT) };
        if region.class == Class::Doubtful {
            let is_file = matches!(backing, Backing::Readable { .. } | Backing::InMemoryOnly(_));
            region.class = if is_file { Class::File } else { Class::Device };
        }
        if let Backing::Device(what) = backing {
            region.class = Class::Device;
            self.why.insert(n as u32, format!("{what}: reading it could do something, so it is not read"));
        }
        match region.class {
            Class::Device | Class::Doubtful => {
                self.why
                    .entry(n as u32)
                    .or_insert_with(|| "memory of a device or of the kernel: reading it could do something, so it is not read".into());
                return Ok(());
            }
            Class::Shared => {
                self.why.insert(n as u32, "the kernel's own page, the same in every process and not readable from outside".into());
                return Ok(());
            }
            Class::Kernel => {
                self.runs.push(region.start, region.end, n);
                return Ok(());
            }
            Class::Anonymous | Class::File => {}
        }
        let mut merged = Merged { runs: &mut self.runs, n, data: file_ranges(region, &backing), next: 0 };
        let (mut present, mut swapped) = (0_u64, 0_u64);
        let mut each = |start: u64, end: u64, kind: Page| {
            let count = end.saturating_sub(start) / PAGE;
            if kind == Page::Swapped {
                swapped = swapped.saturating_add(count);
            } else {
                present = present.saturating_add(count);
            }
            merged.push(start, end);
        };
        let looked = match self.pages.as_deref_mut().filter(|_| self.blind.is_none()) {
            Some(pages) => pages.ranges(region.start, region.end, checkpoint, &mut each),
            None => Err(self.blind.unwrap_or(Errno::ACCESS)),
        };
        merged.finish();
        match looked {
            Ok(()) => {}
            Err(e @ (Errno::SRCH | Errno::CANCELED)) => return Err(e),
            // Without seeing pages, everything is data.
            Err(e) => {
                self.blind = Some(e);
                self.runs.forget(n);
                self.runs.push(region.start, region.end, n);
            }
        }
        region.present_pages = u32::try_from(present).unwrap_or(u32::MAX);
        region.swapped_pages = u32::try_from(swapped).unwrap_or(u32::MAX);
        self.keep_of(n, region, backing);
        Ok(())
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

    fn backing(&mut self, region: &Region) -> Backing {
        if let Some((dev, ino, backing)) = &self.last
            && (*dev, *ino) == (region.dev, region.ino)
        {
            return backing.clone();
        }
        let backing = self.look_behind(region);
        self.last = Some((region.dev, region.ino, backing.clone()));
        backing
    }

    fn look_behind(&self, region: &Region) -> Backing {
        if self.devices.pseudo.contains(&region.dev) {
            return Backing::Device("a file that the kernel makes up");
        }
        if let Some(fs) = self.devices.remote.get(&region.dev) {
            return Backing::InMemoryOnly(format!("not in memory, and on a remote or user-space file system ({fs}): reading could hang"));
        }
        // A server, or a program, behind a file system that was taken out of all trees: whoever asks it anything may wait for ever.
        if region.dev[0] == 0 && !self.devices.known.contains(&region.dev) {
            return Backing::InMemoryOnly(
                "not in memory, and on a file system that is mounted nowhere to be seen: reading could hang".to_owned(),
            );
        }
        let stat = match statx_at(self.dir, map_file(region)) {
            Ok(stat) => stat,
            Err(e) => return Backing::Unknown(e),
        };
        // The process's own table of mounts may not be readable, and tells of its own view only.
        if is_made_up(self.dir, region) {
            return Backing::Device("a file that the kernel makes up");
        }
        // Some file systems of layers number their files otherwise here: then it cannot be told that it is the same file.
        if stat.stx_ino != region.ino {
            return Backing::Unknown(Errno::STALE);
        }
        match kind_of(&stat) {
            "file" => {}
            "char" | "block" => return Backing::Device("a device"),
            _ => return Backing::Device("not a regular file"),
        }
        if !self.wish.files {
            return Backing::InMemoryOnly("not in memory: left out by the order (files=false)".to_owned());
        }
        if stat.stx_size > self.wish.file_bytes_max {
            let (size, max) = (stat.stx_size, self.wish.file_bytes_max);
            return Backing::InMemoryOnly(format!("not in memory, and of a file of {size} bytes, above the limit of {max} (file_max)"));
        }
        Backing::Readable { size: stat.stx_size, data: self.holes(region, &stat) }
    }

    /// Where the file has data; `None` when everywhere.
    fn holes(&self, region: &Region, stat: &Statx) -> Option<Vec<(u64, u64)>> {
        if stat.stx_blocks.saturating_mul(512) >= stat.stx_size {
            return None;
        }
        let file = open_behind(self.dir, region).ok()?;
        let (mut found, mut at) = (Vec::new(), 0_u64);
        while at < stat.stx_size && found.len() < RANGES_MAX {
            let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => return Some(found),
                Err(_) => return None,
            };
            let hole = rustix::fs::seek(&file, SeekFrom::Hole(data)).ok()?;
            // A file that changes could send the search backwards.
            if data < at || hole <= data {
                return None;
            }
            found.push((data / PAGE * PAGE, hole.next_multiple_of(PAGE)));
            at = hole;
        }
        (at >= stat.stx_size).then_some(found)
    }
}

/// The name below `/proc/<pid>` under which the file of a mapping can be opened.
#[must_use]
pub fn map_file(region: &Region) -> String {
    format!("map_files/{:x}-{:x}", region.start, region.end)
}

/// Whether the file behind a mapping lies on a file system in which even regular files are devices' or the kernel's memory
/// (`include/uapi/linux/magic.h`).
fn is_made_up(dir: &OwnedFd, region: &Region) -> bool {
    const SYSFS: u64 = 0x6265_6572;
    const PROC: u64 = 0x9fa0;
    const DEBUGFS: u64 = 0x6462_6720;
    let held = openat(dir, map_file(region), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    held.and_then(rustix::fs::fstatfs).is_ok_and(|s| [SYSFS, PROC, DEBUGFS].contains(&(s.f_type as u64)))
}

/// Opens the file behind a mapping for reading, if it is still that file.
///
/// # Errors
/// What the kernel said; [`Errno::STALE`] when there is another one now.
pub fn open_behind(dir: &OwnedFd, region: &Region) -> Result<OwnedFd, Errno> {
    // Without opening it first, because opening a device does something.
    let held = openat(dir, map_file(region), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&held)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_ino != region.ino {
        return Err(Errno::STALE);
    }
    let again = format!("/proc/self/fd/{}", held.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(rustix::fs::CWD, again.as_str(), flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(rustix::fs::CWD, again.as_str(), flags, Mode::empty()),
        other => other,
    }
}

/// The address ranges of a mapping for which its file has data.
fn file_ranges(region: &Region, backing: &Backing) -> Vec<(u64, u64)> {
    let (size, data) = match backing {
        Backing::Readable { size, data } => (*size, data.clone()),
        // Read through the process, all of it.
        Backing::Unknown(_) if region.class == Class::File => return vec![(region.start, region.end)],
        _ => return Vec::new(),
    };
    let address = |offset: u64| {
        let within = offset.saturating_sub(region.offset).min(region.bytes());
        region.start.saturating_add(within)
    };
    let whole = || vec![(0, size.next_multiple_of(PAGE))];
    data.unwrap_or_else(whole).into_iter().map(|(from, to)| (address(from), address(to))).filter(|(from, to)| from < to).collect()
}

/// Puts the pages that the process has and the data of its file together, ascending.
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
