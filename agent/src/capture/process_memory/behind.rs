//! The file behind a mapping: what it is, where it has data, opening it. Whoever serves its file system may never answer, so it is
//! asked by a thread that can be left behind.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FileType, OFlags, SeekFrom, Statx};
use rustix::io::Errno;

use super::plan::{Devices, Wish};
use super::regions::{Class, PAGE, Region};
use super::silent::{Dev, Silent, Wait, who};
use crate::capture::patience::{ENDED, Kept, NotDone};
use crate::capture::process::gather::{kind_of, look as statx_at};
use crate::capture::procfs;

/// Data ranges of one sparse file that are told apart; one with more counts as all data.
const RANGES_MAX: usize = 1024;

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
    Device(Node),
    /// The agent may not look at it: everything is read through the process.
    Unknown(Errno),
}

/// What is behind the mapping of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// `/dev/zero`, by its numbers: a private mapping of it is memory without a file, whatever it is called.
    Zero,
    /// Another character device.
    Char,
    /// A block device: its pages lie in the kernel's cache, like those of a file.
    Block,
    /// A file that the kernel makes up.
    MadeUp,
    /// Nothing that has a content.
    Odd,
}

impl Node {
    /// Of a file that is a device.
    fn of(stat: &Statx) -> Self {
        match (kind_of(stat), stat.stx_rdev_major, stat.stx_rdev_minor) {
            ("block", ..) => Self::Block,
            (_, 1, 5) => Self::Zero,
            _ => Self::Char,
        }
    }

    /// In words.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Zero | Self::Char => "a device",
            Self::Block => "a block device",
            Self::MadeUp => "a file that the kernel makes up",
            Self::Odd => "not a regular file",
        }
    }
}

/// How files behind mappings are asked what they are: by a thread that can be left behind.
pub struct Asks {
    /// How long one may take.
    pub patience: Duration,
    /// Those that do not answer.
    pub silent: Silent,
}

/// Finds out about the files behind the mappings of one process.
pub struct Asker<'a> {
    dir: &'a Arc<OwnedFd>,
    wish: &'a Wish,
    devices: &'a Devices,
    asks: Asks,
    /// The thread that asks, and how it is left behind.
    asker: Option<(Kept<Arc<Wait>>, Arc<Wait>)>,
    /// What was found out last: the mappings of one file lie next to each other.
    last: Option<([u32; 2], u64, Backing)>,
    /// Files that did not answer, or whose file system did not before.
    pub unanswered: u64,
    /// File systems that did not: who served one late is not asked again for this process.
    late: BTreeSet<Dev>,
}

impl<'a> Asker<'a> {
    /// Of a process, by its folder.
    #[must_use]
    pub const fn new(dir: &'a Arc<OwnedFd>, wish: &'a Wish, devices: &'a Devices, asks: Asks) -> Self {
        Self { dir, wish, devices, asks, asker: None, last: None, unanswered: 0, late: BTreeSet::new() }
    }

    /// What is known of the file behind a mapping.
    ///
    /// # Errors
    /// [`Errno::TIMEDOUT`] when it does not answer and no further thread may be left behind.
    pub fn backing(&mut self, region: &Region) -> Result<Backing, Errno> {
        if let Some((dev, ino, backing)) = &self.last
            && (*dev, *ino) == (region.dev, region.ino)
        {
            return Ok(backing.clone());
        }
        let backing = match self.told(region) {
            Some(backing) => backing,
            None => self.asked(region)?,
        };
        self.last = Some((region.dev, region.ino, backing.clone()));
        Ok(backing)
    }

    /// What can be said without asking the file.
    fn told(&mut self, region: &Region) -> Option<Backing> {
        if self.devices.pseudo.contains(&region.dev) {
            return Some(Backing::Device(Node::MadeUp));
        }
        let why = if let Some(fs) = self.devices.remote.get(&region.dev) {
            format!("not in memory, and on a remote or user-space file system ({fs}): reading could hang")
        } else if region.dev[0] == 0 && !self.devices.known.contains(&region.dev) {
            // A server, or a program, behind a file system that was taken out of all trees: whoever asks it anything may wait for ever.
            "not in memory, and on a file system that is mounted nowhere to be seen: reading could hang".to_owned()
        } else if self.asks.silent.is(region.dev) || self.late.contains(&region.dev) {
            self.unanswered = self.unanswered.saturating_add(1);
            let [major, minor] = region.dev;
            format!("not in memory, and its file system (device {major}:{minor}) did not answer before")
        } else {
            return None;
        };
        Some(Backing::InMemoryOnly(why))
    }

    /// Asks the file, on a thread of its own: the type of its file system does not say truly who has to answer.
    fn asked(&mut self, region: &Region) -> Result<Backing, Errno> {
        let start = || {
            let wait = Wait::new(&self.asks.silent);
            Ok((Kept::new(Arc::clone(&wait), self.asks.patience).map_err(|_| Errno::AGAIN)?, wait))
        };
        let (mut asker, wait) = self.asker.take().map_or_else(start, Ok)?;
        let (dir, wish, own) = (Arc::clone(self.dir), self.wish.clone(), *region);
        let why = match asker.ask(move |_| look_behind(&dir, &own, &wish)) {
            Ok(backing) => {
                self.asker = Some((asker, wait));
                return Ok(backing);
            }
            Err(NotDone::Late) if !wait.leave(region.dev) => return Err(Errno::TIMEDOUT),
            Err(NotDone::Late) => who(region.dev, self.asks.patience),
            Err(NotDone::Ended | NotDone::NoThread) => ENDED.to_owned(),
        };
        self.unanswered = self.unanswered.saturating_add(1);
        self.late.insert(region.dev);
        Ok(Backing::InMemoryOnly(format!("not in memory, and {why}")))
    }
}

/// Asks the file behind a mapping what it is. May wait for whoever serves it.
fn look_behind(dir: &OwnedFd, region: &Region, wish: &Wish) -> Backing {
    let stat = match statx_at(dir, map_file(region)) {
        Ok(stat) => stat,
        Err(e) => return Backing::Unknown(e),
    };
    // The process's own table of mounts may not be readable, and tells of its own view only.
    if is_made_up(dir, region) {
        return Backing::Device(Node::MadeUp);
    }
    // Some file systems of layers number their files otherwise here: then it cannot be told that it is the same file.
    if stat.stx_ino != region.ino {
        return Backing::Unknown(Errno::STALE);
    }
    match kind_of(&stat) {
        "file" => {}
        "char" | "block" => return Backing::Device(Node::of(&stat)),
        _ => return Backing::Device(Node::Odd),
    }
    if !wish.files {
        return Backing::InMemoryOnly("not in memory: left out by the order (files=false)".to_owned());
    }
    if stat.stx_size > wish.file_bytes_max {
        let (size, max) = (stat.stx_size, wish.file_bytes_max);
        return Backing::InMemoryOnly(format!("not in memory, and of a file of {size} bytes, above the limit of {max} (file_max)"));
    }
    Backing::Readable { size: stat.stx_size, data: holes(dir, region, &stat) }
}

/// Where the file has data; `None` when everywhere.
fn holes(dir: &OwnedFd, region: &Region, stat: &Statx) -> Option<Vec<(u64, u64)>> {
    if stat.stx_blocks.saturating_mul(512) >= stat.stx_size {
        return None;
    }
    let file = open_behind(dir, region).ok()?;
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

/// The name below `/proc/<pid>` under which the file of a mapping can be opened.
#[must_use]
pub fn map_file(region: &Region) -> String {
    format!("map_files/{:x}-{:x}", region.start, region.end)
}

/// Whether the file behind a mapping lies on a file system in which even regular files are devices' or the kernel's memory
/// (`include/uapi/linux/magic.h`).
pub(super) fn is_made_up(dir: &OwnedFd, region: &Region) -> bool {
    const SYSFS: u64 = 0x6265_6572;
    const PROC: u64 = 0x9fa0;
    const DEBUGFS: u64 = 0x6462_6720;
    let held = procfs::follow(dir, &map_file(region), OFlags::PATH);
    held.and_then(rustix::fs::fstatfs).is_ok_and(|s| [SYSFS, PROC, DEBUGFS].contains(&(s.f_type as u64)))
}

/// Opens the file behind a mapping for reading, if it is still that file.
///
/// # Errors
/// What the kernel said; [`Errno::STALE`] when there is another one now.
pub fn open_behind(dir: &OwnedFd, region: &Region) -> Result<OwnedFd, Errno> {
    // Without opening it first, because opening a device does something.
    let held = procfs::follow(dir, &map_file(region), OFlags::PATH)?;
    let stat = rustix::fs::fstat(&held)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_ino != region.ino {
        return Err(Errno::STALE);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    match procfs::reopen(&held, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => procfs::reopen(&held, flags),
        other => other,
    }
}

/// The address ranges of a mapping for which its file has data.
#[must_use]
pub fn file_ranges(region: &Region, backing: &Backing) -> Vec<(u64, u64)> {
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
