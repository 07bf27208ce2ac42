//! Which pages of a process there are: `/proc/<pid>/pagemap` (Documentation/admin-guide/mm/pagemap.rst). Looking changes
//! nothing, while reading a page that was never touched would make the kernel map one.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use exhibit_agent_sys::memory::{PAGE_GUARD, PAGE_HUGE, PAGE_PRESENT, PAGE_SWAPPED, PAGE_ZERO, PageRange, scan_pages};
use rustix::io::Errno;

use super::regions::PAGE;
use crate::capture::procfs;

/// Entries read at once where the kernel cannot list ranges: 32 KiB.
const ENTRIES: usize = 4096;
/// Ranges listed at once: 12 KiB.
const RANGES: usize = 512;

/// What the kernel says of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Not in the process's tables: never touched, or of a file and not looked at yet.
    Absent,
    /// In memory.
    Present,
    /// In swap.
    Swapped,
    /// The kernel's own page of zeros, small or huge: it was read and never written. Only [`Pages::ranges`] tells it apart, and only
    /// where the kernel lists ranges.
    Zero,
    /// No memory: the process put a guard there (`MADV_GUARD_INSTALL`), and whoever touches it is ended. Only where the kernel tells.
    Guard,
}

/// Bytes that one entry of the page middle directory maps, as a huge page, on hosts with pages of 4 KiB.
const HUGE: u64 = 2 << 20;
/// Below the folder of processes: flags of page frames by their number, 8 bytes each, and the one of pages of zeros (Documentation/admin-guide/mm/pagemap.rst).
const FLAGS: &str = "kpageflags";
const FLAG_ZERO: u64 = 1 << 24;

/// Bits of an entry that are the page frame, or the kind of swap (5 bits) with what it says, and a guard in them: `PTE_MARKER_GUARD`, 4,
/// of the kind of the kernel's marks, 31 (`include/linux/swapops.h`).
const FRAME: u64 = (1 << 55) - 1;
const GUARD_FRAME: u64 = 31 | 4 << 5;
/// Bit of an entry: the page, or what is in swap, is a file's or shared memory's.
const OF_FILE: u64 = 1 << 61;

impl Page {
    /// From an entry of pagemap: bit 63 is "present", bit 62 "swapped". A mark that is no page (bit 57: write-protected by
    /// userfaultfd before there was one; bit 58, since Linux 6.15: a guard, which before that is told by the mark itself) is shown as
    /// swapped to the last kind of swap, 31, which is none.
    const fn of_entry(entry: u64) -> Self {
        if entry >> 63 != 0 {
            Self::Present
        } else if (entry >> 62) & 1 != 0 && entry & FRAME == GUARD_FRAME {
            Self::Guard
        } else if (entry >> 62) & 1 != 0 && entry & 31 == 31 && (entry >> 57) & 3 != 0 {
            if (entry >> 58) & 1 != 0 { Self::Guard } else { Self::Absent }
        } else if (entry >> 62) & 1 != 0 {
            Self::Swapped
        } else {
            Self::Absent
        }
    }

    /// The same where only the process's own pages count, as over a device: what is not its own is absent.
    const fn own_of_entry(entry: u64) -> Self {
        if entry & OF_FILE == 0 { Self::of_entry(entry) } else { Self::Absent }
    }
}

/// An open pagemap. It belongs to the memory that the process had when it was opened: of a program that is gone it says
/// [`Errno::SRCH`].
pub struct Pages {
    file: Arc<OwnedFd>,
    /// The kernel lists ranges (Linux 6.7).
    lists: bool,
    /// It tells guards from swap when it lists them (Linux 6.16); else their entries are looked at.
    pub(super) guards: bool,
    entries: Vec<u8>,
    /// Pages of this host, in bytes.
    page: u64,
    /// [`FLAGS`], where it can be had.
    flags: Option<Arc<OwnedFd>>,
}

impl Pages {
    /// Takes an open `/proc/<pid>/pagemap`.
    #[must_use]
    pub fn new(file: OwnedFd) -> Self {
        let flags = procfs::root().and_then(|root| procfs::open_at(root, FLAGS)).ok().map(Arc::new);
        let page = (rustix::param::page_size() as u64).max(PAGE);
        Self { file: Arc::new(file), lists: true, guards: true, entries: Vec::new(), page, flags }
    }

    /// The same for another thread.
    #[must_use]
    pub fn again(&self) -> Self {
        let Self { file, lists, guards, page, flags, .. } = self;
        Self { file: Arc::clone(file), lists: *lists, guards: *guards, entries: Vec::new(), page: *page, flags: flags.clone() }
    }

    /// Whether pages of zeros are told apart.
    #[must_use]
    pub const fn tells_zeros(&self) -> bool {
        self.lists
    }

    /// Whether guards are told from swap in ranges.
    #[must_use]
    pub const fn tells_guards(&self) -> bool {
        self.lists && self.guards
    }

    /// Calls `each` with every range of pages between two addresses that are not absent, ascending; neighbours of one kind
    /// may come in several calls. `checkpoint` is asked now and then, because a mapping can be of any size.
    ///
    /// # Errors
    /// What the kernel said; [`Errno::SRCH`] when the program is gone, [`Errno::CANCELED`] when `checkpoint` said no.
    pub fn ranges(
        &mut self,
        start: u64,
        end: u64,
        checkpoint: &mut dyn FnMut() -> bool,
        each: &mut dyn FnMut(u64, u64, Page),
    ) -> Result<(), Errno> {
        self.walk((start, end), false, checkpoint, each)
    }

    /// The same of pages that are the process's own, which are [`Page::Present`] or [`Page::Swapped`]: no file's, and none of shared
    /// memory. Pages that a driver put in by their number look like own ones.
    ///
    /// # Errors
    /// As above.
    pub fn own_ranges(
        &mut self,
        start: u64,
        end: u64,
        checkpoint: &mut dyn FnMut() -> bool,
        each: &mut dyn FnMut(u64, u64, Page),
    ) -> Result<(), Errno> {
        self.walk((start, end), true, checkpoint, each)
    }

    fn walk(
        &mut self,
        (start, end): (u64, u64),
        own: bool,
        checkpoint: &mut dyn FnMut() -> bool,
        each: &mut dyn FnMut(u64, u64, Page),
    ) -> Result<(), Errno> {
        let mut at = start;
        let mut found = [PageRange::default(); RANGES];
        while self.lists && at < end {
            match scan_pages(self.file.as_fd(), at, end, self.guards, &mut found) {
                Ok((count, walked)) => {
                    for range in found.iter().take(count) {
                        let (from, to) = (range.start.max(at), range.end.min(end));
                        if own || (!self.guards && of_categories(range.categories) == Page::Swapped) {
                            self.by_entries((from, to), own, checkpoint, each)?;
                        } else {
                            self.tell(from, to, range.categories, each);
                        }
                    }
                    if walked <= at {
                        return Err(Errno::SRCH);
                    }
                    at = walked;
                }
                Err(e) if self.guards && e.raw_os_error() == Some(libc_numbers::EINVAL) => self.guards = false,
                Err(e) if matches!(e.raw_os_error(), Some(libc_numbers::ENOTTY | libc_numbers::EINVAL)) => self.lists = false,
                Err(e) => return Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
            }
            if !checkpoint() {
                return Err(Errno::CANCELED);
            }
        }
        self.by_entries((at, end), own, checkpoint, each)
    }

    /// The same by the entries of the pages.
    fn by_entries(
        &mut self,
        (mut at, end): (u64, u64),
        own: bool,
        checkpoint: &mut dyn FnMut() -> bool,
        each: &mut dyn FnMut(u64, u64, Page),
    ) -> Result<(), Errno> {
        let page = self.page;
        while at < end {
            let count = end.saturating_sub(at).div_ceil(self.page).min(ENTRIES as u64);
            let read = self.entries(at, count as usize, own)?;
            for kind in read {
                let next = at.saturating_add(page).min(end);
                if kind != Page::Absent {
                    each(at, next, kind);
                }
                at = next;
            }
            if !checkpoint() {
                return Err(Errno::CANCELED);
            }
        }
        Ok(())
    }

    /// Tells of a range of one kind. Not every kernel calls the huge page of zeros one, so its flags are looked at.
    fn tell(&self, start: u64, end: u64, categories: u64, each: &mut dyn FnMut(u64, u64, Page)) {
        let kind = of_categories(categories);
        if kind != Page::Present || categories & PAGE_HUGE == 0 || self.page != PAGE {
            return each(start, end, kind);
        }
        let mut at = start;
        while at < end {
            let next = at.saturating_add(1).next_multiple_of(HUGE).min(end);
            each(at, next, if self.is_zero(at) { Page::Zero } else { kind });
            at = next;
        }
    }

    /// Whether the page at an address is one of zeros, by the flags of its frame (bits 0 to 54 of the entry; zero for who may not
    /// know).
    fn is_zero(&self, address: u64) -> bool {
        let word = |file: &OwnedFd, at: u64| {
            let mut bytes = [0_u8; 8];
            let read = rustix::io::pread(file, &mut bytes, at.saturating_mul(8));
            read.is_ok_and(|n| n == 8).then_some(u64::from_ne_bytes(bytes))
        };
        let frame = word(&self.file, address / self.page).map_or(0, |entry| entry & ((1 << 55) - 1));
        frame != 0 && self.flags.as_ref().and_then(|flags| word(flags, frame)).is_some_and(|flags| flags & FLAG_ZERO != 0)
    }

    /// The kind of the page at an address and how many bytes from there on are of the same kind, `bytes` at most.
    ///
    /// # Errors
    /// As above.
    pub fn run(&mut self, address: u64, bytes: usize) -> Result<(Page, usize), Errno> {
        self.run_of(address, bytes, false)
    }

    /// The same where only the process's own pages count.
    ///
    /// # Errors
    /// As above.
    pub fn own_run(&mut self, address: u64, bytes: usize) -> Result<(Page, usize), Errno> {
        self.run_of(address, bytes, true)
    }

    fn run_of(&mut self, address: u64, bytes: usize, own: bool) -> Result<(Page, usize), Errno> {
        let first = address.saturating_sub(address % self.page);
        let end = address.saturating_add(bytes as u64);
        let count = end.saturating_sub(first).div_ceil(self.page).min(ENTRIES as u64);
        let page = self.page;
        let mut kinds = self.entries(first, count as usize, own)?;
        let kind = kinds.next().ok_or(Errno::SRCH)?;
        let same = kinds.take_while(|k| *k == kind).count() as u64;
        let until = first.saturating_add(same.saturating_add(1).saturating_mul(page)).min(end);
        Ok((kind, until.saturating_sub(address) as usize))
    }

    fn entries(&mut self, first: u64, count: usize, own: bool) -> Result<impl Iterator<Item = Page> + use<'_>, Errno> {
        let kind_of: fn(u64) -> Page = if own { Page::own_of_entry } else { Page::of_entry };
        let bytes = count.saturating_mul(8);
        if self.entries.len() < bytes {
            self.entries.resize(bytes, 0);
        }
        let offset = (first / self.page).saturating_mul(8);
        let got = loop {
            match rustix::io::pread(&*self.file, self.entries.get_mut(..bytes).unwrap_or_default(), offset) {
                Err(Errno::INTR) => {}
                // The memory that it belongs to is gone.
                Ok(got) if got < 8 => return Err(Errno::SRCH),
                other => break other?,
            }
        };
        let words = self.entries.get(..got).unwrap_or_default().as_chunks::<8>().0;
        Ok(words.iter().map(move |w| kind_of(u64::from_ne_bytes(*w))))
    }
}

const fn of_categories(categories: u64) -> Page {
    if categories & (PAGE_PRESENT | PAGE_ZERO) == PAGE_PRESENT | PAGE_ZERO {
        Page::Zero
    } else if categories & PAGE_PRESENT != 0 {
        Page::Present
    } else if categories & PAGE_GUARD != 0 {
        Page::Guard
    } else if categories & PAGE_SWAPPED != 0 {
        Page::Swapped
    } else {
        Page::Absent
    }
}

/// The same on every architecture that Linux has now.
mod libc_numbers {
    pub const EINVAL: i32 = 22;
    pub const ENOTTY: i32 = 25;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A block of which pages 3, 4 and 9 of 16 are touched: its first page-aligned address, and itself.
    fn block() -> (u64, Vec<u8>) {
        const MIB: usize = 1 << 20;
        // Large enough to be a mapping of its own, so that nothing of it was touched before.
        let mut block = vec![0_u8; MIB];
        let start = block.as_ptr() as usize;
        let first = start.next_multiple_of(4096) + 65_536 - start;
        for page in [3, 4, 9] {
            block[first + page * 4096] = 1;
        }
        ((start + first) as u64, block)
    }

    fn pages() -> Pages {
        Pages::new(crate::capture::live::open_at(rustix::fs::CWD, "/proc/self/pagemap").expect("pagemap"))
    }

    #[test]
    fn both_ways_of_asking_agree() {
        let (base, _block) = block();
        let mut both = Vec::new();
        for lists in [true, false] {
            let mut pages = Pages { lists, ..pages() };
            let mut there = Vec::new();
            let mut each = |start: u64, end: u64, kind| {
                assert_eq!(kind, Page::Present);
                there.extend((start..end).step_by(4096).map(|a| (a - base) / 4096));
            };
            pages.ranges(base, base + 16 * 4096, &mut || true, &mut each).expect("looked");
            both.push(there);
        }
        assert_eq!(both[0], both[1]);
        assert!([3, 4, 9].iter().all(|p| both[0].contains(p)));
    }

    #[test]
    fn a_run_is_cut_where_the_kind_changes() {
        let (base, _block) = block();
        let mut pages = pages();
        let (kind, bytes) = pages.run(base + 3 * 4096 + 100, 1 << 20).expect("looked");
        assert_eq!(kind, Page::Present);
        assert!(bytes >= 2 * 4096 - 100);
        assert_eq!(pages.run(base + 3 * 4096, 10).expect("looked"), (Page::Present, 10));
    }

    #[test]
    fn a_guard_is_told_by_its_mark_where_no_bit_says_so() {
        const SWAPPED: u64 = 1 << 62;
        let of_mark = |mark: u64| Page::of_entry(SWAPPED | mark << 5 | 31);
        assert_eq!(of_mark(4), Page::Guard);
        assert_eq!(Page::of_entry(SWAPPED | 1 << 55 | 4 << 5 | 31), Page::Guard, "soft-dirty as well");
        // A poisoned page, many marks at once, the same place of a real swap, and nothing of which a frame may be seen.
        assert_eq!([2, 6, 1 << 20 | 4].map(of_mark), [Page::Swapped; 3]);
        assert_eq!([4 << 5, 4 << 5 | 3, 0].map(|frame| Page::of_entry(SWAPPED | frame)), [Page::Swapped; 3]);
        assert_eq!(Page::of_entry(4 << 5 | 31), Page::Absent);
        let own = [1 << 63, SWAPPED | 2, 1 << 63 | OF_FILE, SWAPPED | OF_FILE | 2].map(Page::own_of_entry);
        assert_eq!(own, [Page::Present, Page::Swapped, Page::Absent, Page::Absent], "what is a file's is not its own");
    }

    #[test]
    fn a_long_look_can_be_ended() {
        let (base, _block) = block();
        let looked = pages().ranges(base, base + 4096, &mut || false, &mut |_, _, _| {});
        assert_eq!(looked, Err(Errno::CANCELED));
    }

    proptest! {
        #[test]
        fn any_entry_is_one_of_four(entry: u64, mark in 0_u64..4, is_marker: bool) {
            // Few of all numbers are a mark.
            let any = if is_marker { (entry >> 1) | (1 << 62) | 31 } else { entry };
            let entry = (any & !(3 << 57)) | (mark << 57);
            let is_mark = entry & 31 == 31 && mark != 0;
            let expected = match (entry >> 63, (entry >> 62) & 1, is_mark) {
                (1, ..) => Page::Present,
                (_, 0, _) => Page::Absent,
                (_, _, false) => Page::Swapped,
                _ if entry & (1 << 58) != 0 => Page::Guard,
                _ => Page::Absent,
            };
            prop_assert_eq!(Page::of_entry(entry), expected);
        }
    }
}
