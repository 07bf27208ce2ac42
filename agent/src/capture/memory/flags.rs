//! `/proc/kpageflags`: 64 bits for each page frame. They say what a page is, and which pages the kernel answers with zeros
//! instead of content. Bits: `Documentation/admin-guide/mm/pagemap.rst`, `include/uapi/linux/kernel-page-flags.h`.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use serde::Serialize;

use super::iomem::Iomem;
use super::ranges::{PAGE, Range, holding};
use crate::capture::Stop;

const LRU: u64 = 1 << 5;
const SLAB: u64 = 1 << 7;
const BUDDY: u64 = 1 << 10;
const MMAP: u64 = 1 << 11;
const ANON: u64 = 1 << 12;
const COMPOUND_TAIL: u64 = 1 << 16;
const HUGE: u64 = 1 << 17;
const HWPOISON: u64 = 1 << 19;
const NOPAGE: u64 = 1 << 20;
/// Ballooned or hot-unplugged pages (`KPF_OFFLINE`; `KPF_BALLOON` before Linux 5.1).
const OFFLINE: u64 = 1 << 23;
const PGTABLE: u64 = 1 << 26;
const RESERVED: u64 = 1 << 32;

/// What a page is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Translates addresses; without these nothing else can be found.
    PageTable,
    /// The kernel's static data.
    KernelData,
    /// The kernel's objects: tasks, files, sockets, modules' lists.
    Slab,
    /// Allocated by the kernel without a flag: stacks, modules, per-CPU and other vmalloc areas, buffers.
    KernelOther,
    /// The kernel's code and constants: an analysis needs them, but they do not change.
    KernelCode,
    /// Set aside at boot: per-CPU areas, the map of pages, firmware.
    Reserved,
    /// Memory of processes that belongs to no file.
    Anonymous,
    /// Content of files.
    PageCache,
    /// Nobody's.
    Free,
    /// The kernel does not read it: poisoned, offline, without a page.
    Withheld,
    /// The flags could not be read.
    Unknown,
}

impl Class {
    /// All, in the order in which the first pass takes them as far as its share allows; those behind [`Class::Reserved`] it
    /// never takes.
    pub const ALL: [Self; 11] = [
        Self::PageTable,
        Self::KernelData,
        Self::Slab,
        Self::KernelOther,
        Self::KernelCode,
        Self::Reserved,
        Self::Anonymous,
        Self::PageCache,
        Self::Free,
        Self::Withheld,
        Self::Unknown,
    ];
    /// How many of [`Class::ALL`] the first pass takes.
    pub const FIRST: usize = 6;

    /// The class of a page.
    #[must_use]
    pub fn of(flags: u64, frame: u64, iomem: &Iomem) -> Self {
        if withheld(flags).is_some() {
            Self::Withheld
        } else if flags & PGTABLE != 0 {
            Self::PageTable
        } else if holding(&iomem.kernel_data, frame.saturating_mul(PAGE)).is_some() {
            Self::KernelData
        } else if holding(&iomem.kernel_code, frame.saturating_mul(PAGE)).is_some() {
            Self::KernelCode
        } else if flags & SLAB != 0 {
            Self::Slab
        } else if flags & BUDDY != 0 {
            Self::Free
        } else if flags & RESERVED != 0 {
            Self::Reserved
        } else if flags & ANON != 0 {
            Self::Anonymous
        } else if flags & (LRU | MMAP) != 0 {
            Self::PageCache
        } else {
            Self::KernelOther
        }
    }

    /// Its place in [`Class::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|c| *c == self).unwrap_or(Self::ALL.len().saturating_sub(1))
    }

    /// Its name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PageTable => "page-table",
            Self::KernelData => "kernel-data",
            Self::Slab => "slab",
            Self::KernelOther => "kernel-other",
            Self::KernelCode => "kernel-code",
            Self::Reserved => "reserved",
            Self::Anonymous => "anonymous",
            Self::PageCache => "page-cache",
            Self::Free => "free",
            Self::Withheld => "withheld",
            Self::Unknown => "unknown",
        }
    }
}

/// A frame of a huge page (hugetlb) that is not its first.
#[must_use]
pub const fn is_huge_tail(flags: u64) -> bool {
    flags & (HUGE | COMPOUND_TAIL) == HUGE | COMPOUND_TAIL
}

/// Why the kernel may answer with zeros for a page instead of its content (`read_kcore`).
#[must_use]
pub const fn withheld(flags: u64) -> Option<&'static str> {
    if flags & HWPOISON != 0 {
        Some("hwpoison")
    } else if flags & OFFLINE != 0 {
        Some("offline")
    } else if flags & NOPAGE != 0 {
        Some("nopage")
    } else {
        None
    }
}

/// Reads flags of page frames.
pub trait Flags: Send {
    /// Fills `flags` with those of the frames from `first` on; returns how many there are.
    ///
    /// # Errors
    /// What the kernel said.
    fn read(&self, first: u64, flags: &mut [u8]) -> Result<usize, Errno>;
}

impl Flags for OwnedFd {
    fn read(&self, first: u64, flags: &mut [u8]) -> Result<usize, Errno> {
        let mut filled = 0_usize;
        while filled < flags.len() {
            let at = first.saturating_mul(8).saturating_add(filled as u64);
            match rustix::io::pread(self, flags.get_mut(filled..).unwrap_or_default(), at) {
                Ok(0) => break,
                Ok(n) => filled = filled.saturating_add(n),
                Err(Errno::INTR) => {}
                Err(e) if filled == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(filled / 8)
    }
}

/// Frames whose flags are read at once.
pub const BATCH: usize = 8192;

/// Asks whether to go on.
pub type Pause<'a> = &'a mut dyn FnMut() -> Result<(), Stop>;

/// Calls `each` with the number and flags of every page frame that lies wholly or in part in the ranges, ascending. Frames
/// whose flags cannot be had come as `None`. Between batches of them `pause` is asked: a host of many TiB has milliards of frames.
///
/// # Errors
/// What `pause` says.
pub fn each_frame(flags: &dyn Flags, ranges: &[Range], pause: Pause<'_>, mut each: impl FnMut(u64, Option<u64>)) -> Result<(), Stop> {
    let mut buffer = vec![0_u8; BATCH.saturating_mul(8)];
    for range in ranges {
        let (mut at, end) = (range.start / PAGE, range.end.div_ceil(PAGE));
        while at < end {
            pause()?;
            let want = usize::try_from(end.saturating_sub(at)).unwrap_or(BATCH).min(BATCH);
            let got = flags.read(at, buffer.get_mut(..want.saturating_mul(8)).unwrap_or_default()).unwrap_or(0).min(want);
            for n in 0..want {
                let bytes = buffer.get(n.saturating_mul(8)..n.saturating_add(1).saturating_mul(8)).and_then(|b| b.try_into().ok());
                each(at.saturating_add(n as u64), bytes.filter(|_| n < got).map(u64::from_le_bytes));
            }
            at = at.saturating_add(want as u64);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_one_class() {
        let iomem = Iomem {
            kernel_code: vec![Range { start: 0x10_0000, end: 0x10_1800 }],
            kernel_data: vec![Range { start: 0x11_0000, end: 0x11_1800 }],
            ..Iomem::default()
        };
        for (flags, frame, class) in [
            (0, 1, Class::KernelOther),
            (0, 0x100, Class::KernelCode),
            (RESERVED, 0x101, Class::KernelCode),
            (RESERVED, 0x110, Class::KernelData),
            (RESERVED, 0x102, Class::Reserved),
            (PGTABLE | LRU, 1, Class::PageTable),
            (SLAB, 1, Class::Slab),
            (BUDDY, 1, Class::Free),
            (ANON | LRU | MMAP, 1, Class::Anonymous),
            (LRU, 1, Class::PageCache),
            (HWPOISON | LRU, 0x100, Class::Withheld),
            (NOPAGE, 1, Class::Withheld),
        ] {
            assert_eq!(Class::of(flags, frame, &iomem), class, "{flags:x} {frame:x}");
            assert_eq!(serde_json::to_value(class).expect("a name"), class.name());
            assert_eq!(Class::ALL[class.index()], class);
        }
    }

    #[test]
    fn frames_at_the_edges_and_beyond_what_the_kernel_knows_are_there() {
        struct Ten;
        impl Flags for Ten {
            fn read(&self, first: u64, flags: &mut [u8]) -> Result<usize, Errno> {
                let count = (flags.len() / 8).min(10_usize.saturating_sub(first as usize));
                for (n, slot) in flags.chunks_exact_mut(8).take(count).enumerate() {
                    slot.copy_from_slice(&(first + n as u64).to_le_bytes());
                }
                if first >= 10 { Err(Errno::NXIO) } else { Ok(count) }
            }
        }
        let mut seen = Vec::new();
        let ranges =
            [Range { start: 0x1000, end: 0x2c00 }, Range { start: 0x9000, end: 0xb000 }, Range { start: 0x20_0000, end: 0x20_0001 }];
        each_frame(&Ten, &ranges, &mut || Ok(()), |frame, flags| seen.push((frame, flags))).expect("no stop");
        assert_eq!(seen, [(1, Some(1)), (2, Some(2)), (9, Some(9)), (10, None), (0x200, None)]);
    }
    #[test]
    fn a_long_look_can_be_ended() {
        struct Zeros;
        impl Flags for Zeros {
            fn read(&self, _: u64, flags: &mut [u8]) -> Result<usize, Errno> {
                flags.fill(0);
                Ok(flags.len() / 8)
            }
        }
        // 64 TiB: far too much for a test, if nobody asked.
        let (ranges, mut asked, mut seen) = ([Range { start: 0, end: 64 << 40 }], 0, 0_u64);
        let mut pause = || {
            asked += 1;
            if asked > 3 { Err(Stop::Deadline) } else { Ok(()) }
        };
        assert_eq!(each_frame(&Zeros, &ranges, &mut pause, |_, _| seen += 1), Err(Stop::Deadline));
        assert_eq!(seen, 3 * BATCH as u64);
    }
}
