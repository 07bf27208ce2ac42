//! Memory that a process gave back after it was stopped and before it was read. It reads as zeros, so without a word it would be a hole
//! that nobody sees.

use std::collections::BTreeMap;

use super::regions::Regions;

/// Why pages that there were are zeros.
pub const GIVEN_BACK: &str = "no page any more: the process gave it back, or mapped something else there, between the look at its pages and the reading of them; zeros in the file";

/// Why nobody knows what was there.
pub const VANISHED: &str = "not mapped any more when its pages were looked at: the process gave this memory back after its registers were read; of it the file has kept pages at most, the rest is zeros or left out";

/// Ranges that are told one by one: 128 KiB.
const RANGES_MAX: usize = 8_192;

/// What was given back, ascending.
#[derive(Debug, Default)]
pub struct GivenBack {
    list: Vec<(u64, u64)>,
    /// Ranges beyond the list.
    pub left_out: u64,
    /// Where the last one ends.
    end: u64,
    /// Bytes of all, but for the rough ones.
    bytes: u64,
    /// Bytes of what is told elsewhere, but for the rough ones, and where the last of them ends.
    unmapped: u64,
    unmapped_end: u64,
    /// Of all, those in mappings of files that had a name and that the process could not write: the file had them, where nobody wrote
    /// there before.
    pub of_files: u64,
    /// Of all, those in mappings that are named like a device's: of a device nothing is ever taken, and of what is gone nobody knows
    /// whether it was one.
    pub doubtful: u64,
    rough: Vec<Rough>,
}

/// A mapping of which small holes were closed when it was planned: which of its pages were there is not known, but how many.
#[derive(Debug)]
struct Rough {
    start: u64,
    end: u64,
    closed: u64,
    absent: u64,
    /// Of what is told elsewhere.
    unmapped: u64,
}

impl Rough {
    /// How many bytes there were at least. Of holes that were closed it is not known where they lie, so they come off once.
    const fn bytes(&self) -> u64 {
        self.absent.saturating_add(self.unmapped).saturating_sub(self.closed)
    }
}

impl GivenBack {
    /// Nothing yet. `closed` are the bytes of holes that were closed, by the place of the mapping in the table.
    #[must_use]
    pub fn new(regions: &Regions, closed: &BTreeMap<u32, u64>) -> Self {
        let of = |(n, closed): (&u32, &u64)| {
            let region = regions.list().get(*n as usize)?;
            Some(Rough { start: region.start, end: region.end, closed: *closed, absent: 0, unmapped: 0 })
        };
        Self { rough: closed.iter().filter_map(of).collect(), ..Self::default() }
    }

    /// Adds a range of one mapping, not before those before it. What was told already (it is read a second time) counts once.
    pub fn note(&mut self, start: u64, end: u64) {
        let start = start.max(self.end);
        if start >= end {
            return;
        }
        let bytes = end.saturating_sub(start);
        let goes_on = std::mem::replace(&mut self.end, end) == start;
        if let Some(rough) = self.rough_at(start) {
            rough.absent = rough.absent.saturating_add(bytes);
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(last) = self.list.last_mut().filter(|last| last.1 == start) {
            last.1 = end;
        } else if self.list.len() < RANGES_MAX {
            self.list.push((start, end));
        } else if !goes_on || self.left_out == 0 {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// Counts a range of one mapping that is told elsewhere (as unreadable), not before those that were counted before it.
    pub fn count_unmapped(&mut self, start: u64, end: u64) {
        let start = start.max(self.unmapped_end);
        if start >= end {
            return;
        }
        self.unmapped_end = end;
        let bytes = end.saturating_sub(start);
        if let Some(rough) = self.rough_at(start) {
            rough.unmapped = rough.unmapped.saturating_add(bytes);
            return;
        }
        self.unmapped = self.unmapped.saturating_add(bytes);
    }

    /// The mapping that an address lies in, if holes were closed in it.
    fn rough_at(&mut self, address: u64) -> Option<&mut Rough> {
        let at = self.rough.partition_point(|r| r.end <= address);
        self.rough.get_mut(at).filter(|r| r.start <= address)
    }

    /// First address, one past the last, and how many bytes between them were given back; of a mapping in which holes were closed at
    /// least so many. What is told elsewhere is not among them.
    #[must_use]
    pub fn ranges(&self) -> Vec<(u64, u64, u64)> {
        let exact = self.list.iter().map(|(start, end)| (*start, *end, end.saturating_sub(*start)));
        let rough = self.rough.iter().map(|r| (r.start, r.end, r.absent.saturating_sub(r.closed)));
        exact.chain(rough.filter(|(_, _, bytes)| *bytes > 0)).collect()
    }

    /// Bytes of all, with those that are told elsewhere.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rough.iter().map(Rough::bytes).fold(self.bytes.saturating_add(self.unmapped), u64::saturating_add)
    }

    /// Whether there may be more bytes than are counted, because holes were closed where something was given back.
    #[must_use]
    pub fn is_at_least(&self) -> bool {
        self.rough.iter().any(|r| r.absent > 0 || r.unmapped > 0)
    }

    /// Whether all between two addresses was given back.
    #[must_use]
    pub fn covers(&self, start: u64, end: u64) -> bool {
        let at = self.list.partition_point(|(_, until)| *until <= start);
        self.list.get(at).is_some_and(|(from, until)| *from <= start && end <= *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file over it may have no page in memory yet: then zeros are not what the process would have read.
    #[test]
    fn what_is_no_page_any_more_may_be_of_something_else_by_now() {
        assert!(GIVEN_BACK.starts_with("no page any more: ") && GIVEN_BACK.contains("mapped something else there"), "{GIVEN_BACK}");
    }

    #[test]
    fn what_is_read_twice_counts_once_and_neighbours_are_one() {
        let mut given = GivenBack::default();
        for (start, end) in [(0x1000, 0x3000), (0x1000, 0x2000), (0x2000, 0x4000), (0x8000, 0x9000)] {
            given.note(start, end);
        }
        assert_eq!(given.ranges(), [(0x1000, 0x4000, 0x3000), (0x8000, 0x9000, 0x1000)]);
        assert_eq!((given.bytes(), given.left_out), (0x4000, 0));
        assert!(given.covers(0x1000, 0x4000) && given.covers(0x2000, 0x3000) && !given.covers(0x3000, 0x5000) && !given.covers(0, 0x1000));
    }

    #[test]
    fn holes_that_were_closed_are_not_called_given_back() {
        let regions = Regions::parse(b"1000-9000 rw-p 0 0:0 0\n9000-a000 rw-p 0 0:0 0\n");
        let mut given = GivenBack::new(&regions, &BTreeMap::from([(0, 0x3000)]));
        given.note(0x2000, 0x4000);
        given.note(0x5000, 0x6000);
        assert_eq!((given.ranges(), given.bytes()), (vec![], 0), "all of it was closed");
        given.note(0x7000, 0x9000);
        given.note(0x9000, 0xa000);
        assert_eq!(given.ranges(), [(0x9000, 0xa000, 0x1000), (0x1000, 0x9000, 0x2000)]);
        assert_eq!(given.bytes(), 0x3000);
    }

    #[test]
    fn holes_that_were_closed_come_off_once_whatever_became_of_the_rest_of_their_mapping() {
        let regions = Regions::parse(b"1000-9000 rw-p 0 0:0 0\n9000-c000 rw-p 0 0:0 0\n");
        let mut given = GivenBack::new(&regions, &BTreeMap::from([(0, 0x3000)]));
        assert!(!given.is_at_least());
        // One of the holes lies in what is not mapped any more, two in what is.
        given.count_unmapped(0x1000, 0x3000);
        given.note(0x4000, 0x5000);
        given.note(0x6000, 0x7000);
        assert_eq!((given.bytes(), given.ranges()), (0x1000, vec![]));
        assert!(given.is_at_least());
        given.count_unmapped(0x2000, 0x3000);
        assert_eq!(given.bytes(), 0x1000, "what was counted counts once");
        given.count_unmapped(0x9000, 0xa000);
        given.note(0xa000, 0xb000);
        assert_eq!((given.bytes(), given.ranges()), (0x3000, vec![(0xa000, 0xb000, 0x1000)]));
        let mut exact = GivenBack::default();
        exact.note(0x1000, 0x2000);
        exact.count_unmapped(0x2000, 0x3000);
        assert_eq!((exact.bytes(), exact.is_at_least()), (0x2000, false));
    }

    #[test]
    fn the_list_is_bounded_and_all_bytes_are_counted() {
        let mut given = GivenBack::default();
        let count = RANGES_MAX as u64 + 2;
        for at in (1..=count).map(|n| n * 0x4000) {
            given.note(at, at + 0x1000);
            given.note(at + 0x1000, at + 0x2000);
        }
        assert_eq!((given.ranges().len(), given.left_out, given.bytes()), (RANGES_MAX, 2, count * 0x2000));
    }
}
