//! Pages that were copied while a process stood in mode `fast`. They stand in the core in the place of what is read later, so that
//! what has to fit the registers does: `keep.rs` copies them, `choose.rs` says which.

use std::os::fd::AsFd;

use rustix::io::pread;

use super::regions::{PAGE, Region};

/// Pages that are kept of one process: 1 MiB.
pub const PAGES_MAX: usize = 256;
const PAGE_BYTES: usize = PAGE as usize;

/// Room for pages, and the pages that are in it.
#[derive(Debug, Default)]
pub struct KeptPages {
    /// Where each page lies, in the order of copying.
    addresses: Vec<u64>,
    bytes: Vec<u8>,
    /// The same by address, each with its place among the bytes; filled when copying is over.
    order: Vec<(u64, usize)>,
    /// This host's policy keeps the environment back: nothing is copied of a mapping in which it may lie.
    pub spares_environment: bool,
}

impl KeptPages {
    /// Makes room, and touches it: while a process stands nothing has to be asked of the kernel for it.
    #[must_use]
    pub fn room(spares_environment: bool) -> Self {
        let bytes = vec![0xff_u8; PAGES_MAX.saturating_mul(PAGE_BYTES)];
        Self { addresses: Vec::with_capacity(PAGES_MAX), bytes, order: Vec::with_capacity(PAGES_MAX), spares_environment }
    }

    /// Pages so far.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.addresses.len()
    }

    /// Where the page lies that was copied at this place in the row.
    #[must_use]
    pub fn address(&self, slot: usize) -> Option<u64> {
        self.addresses.get(slot).copied()
    }

    /// Whether the page at an address was copied.
    #[must_use]
    pub fn holds(&self, page: u64) -> bool {
        self.addresses.contains(&page)
    }

    /// The word of a page at a place in the row.
    #[must_use]
    pub fn word(&self, slot: usize, n: usize) -> Option<u64> {
        self.page(slot)?.as_chunks::<8>().0.get(n).map(|w| u64::from_ne_bytes(*w))
    }

    fn page(&self, slot: usize) -> Option<&[u8]> {
        let from = slot.saturating_mul(PAGE_BYTES);
        self.bytes.get(from..from.saturating_add(PAGE_BYTES))
    }

    /// Copies the pages between two addresses that are not here yet, until there are `most`. One that cannot be read is left to the
    /// later reading.
    pub fn copy(&mut self, memory: impl AsFd, start: u64, end: u64, most: usize) {
        let most = most.min(PAGES_MAX);
        let mut at = start;
        while at < end && self.count() < most {
            if self.holds(at) {
                at = at.saturating_add(PAGE);
                continue;
            }
            let next = self.addresses.iter().copied().filter(|a| *a > at).min().unwrap_or(end).min(end);
            let room = most.saturating_sub(self.count()).saturating_mul(PAGE_BYTES);
            let bytes = usize::try_from(next.saturating_sub(at)).unwrap_or(usize::MAX).min(room);
            let from = self.count().saturating_mul(PAGE_BYTES);
            let Some(to) = self.bytes.get_mut(from..from.saturating_add(bytes)) else { return };
            let whole = pread(&memory, to, at).unwrap_or(0) / PAGE_BYTES;
            for n in 0..whole {
                self.addresses.push(at.saturating_add((n as u64).saturating_mul(PAGE)));
            }
            at = at.saturating_add((whole.max(1) as u64).saturating_mul(PAGE));
        }
    }

    /// Copying is over. Room that was not needed stays: giving it back now costs more than it is worth, because the process stands.
    #[must_use]
    pub fn closed(mut self) -> Self {
        self.order.extend(self.addresses.iter().enumerate().map(|(slot, address)| (*address, slot)));
        self.order.sort_unstable();
        self
    }

    /// Fills a buffer from an address on, to the end of its page at most. Returns how many bytes that are: none where the page was not
    /// kept.
    pub fn give(&self, at: u64, buffer: &mut [u8]) -> usize {
        let page = at.saturating_sub(at % PAGE);
        let Ok(n) = self.order.binary_search_by_key(&page, |(address, _)| *address) else { return 0 };
        let Some(bytes) = self.order.get(n).and_then(|(_, slot)| self.page(*slot)) else { return 0 };
        let bytes = bytes.get((at % PAGE) as usize..).unwrap_or_default();
        let count = bytes.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        count
    }

    /// How many bytes from an address on, which is in no kept page, lie before the next one; `bytes` at most.
    #[must_use]
    pub fn before(&self, at: u64, bytes: usize) -> usize {
        let next = self.order.partition_point(|(address, _)| *address <= at);
        let until = self.order.get(next).map_or(u64::MAX, |(address, _)| *address);
        usize::try_from(until.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes)
    }

    /// Puts the kept pages of a mapping among its ranges: what was there while it stood is data, whatever became of it.
    #[must_use]
    pub fn among(&self, region: &Region, mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
        let first = self.order.partition_point(|(address, _)| *address < region.start);
        let own = self.order.iter().skip(first).map(|(address, _)| *address).take_while(|address| *address < region.end);
        let known = ranges.len();
        ranges.extend(own.map(|address| (address, address.saturating_add(PAGE))));
        if ranges.len() > known {
            ranges.sort_unstable();
        }
        ranges
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::capture::live::open_at;

    /// Memory of the test itself: whole pages, all touched. Their first address, where that is in the block, and the block.
    pub fn block(pages: usize) -> (u64, usize, Vec<u8>) {
        let mut block = vec![0_u8; (pages + 1) * PAGE_BYTES];
        let start = block.as_ptr() as usize;
        let first = start.next_multiple_of(PAGE_BYTES) - start;
        for page in 0..pages {
            block[first + page * PAGE_BYTES] = 1;
        }
        ((start + first) as u64, first, block)
    }

    #[test]
    fn what_was_copied_stays_and_the_bound_holds() {
        let memory = open_at(rustix::fs::CWD, "/proc/self/mem").expect("mem");
        let (base, first, mut block) = block(PAGES_MAX + 20);
        let end = base + (PAGES_MAX as u64 + 20) * PAGE;
        let mut kept = KeptPages::room(false);
        kept.copy(&memory, base + 2 * PAGE, base + 3 * PAGE, PAGES_MAX);
        kept.copy(&memory, base, end, 4);
        assert_eq!(
            (0..5).map(|slot| kept.address(slot)).collect::<Vec<_>>(),
            [2, 0, 1, 3].map(|n| Some(base + n * PAGE)).into_iter().chain([None]).collect::<Vec<_>>()
        );
        // Nothing is at page zero, and that is no failure.
        kept.copy(&memory, 0, PAGE, PAGES_MAX);
        kept.copy(&memory, base, end, usize::MAX);
        assert_eq!(kept.count(), PAGES_MAX);
        let kept = kept.closed();
        block[first + PAGE_BYTES] = 7;
        let mut buffer = [9_u8; 8];
        assert_eq!((kept.give(base + PAGE, &mut buffer), buffer), (8, [1, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!((kept.give(base + 2 * PAGE - 3, &mut buffer), kept.give(end - PAGE, &mut buffer)), (3, 0));
        assert_eq!(block[first + PAGE_BYTES], 7);
    }

    #[test]
    fn reading_ends_where_a_kept_page_begins_and_kept_pages_are_data() {
        let kept = KeptPages { order: vec![(0x3000, 0), (0x8000, 1), (0xa000, 2)], ..KeptPages::default() };
        assert_eq!((kept.before(0x1000, 0x9000), kept.before(0x4000, 0x1000), kept.before(0xb000, 5)), (0x2000, 0x1000, 5));
        let region = Region { start: 0x2000, end: 0xa000, ..Region::default() };
        assert_eq!(kept.among(&region, vec![(0x4000, 0x5000)]), [(0x3000, 0x4000), (0x4000, 0x5000), (0x8000, 0x9000)]);
        assert_eq!(KeptPages::default().before(0, 77), 77);
    }
}
