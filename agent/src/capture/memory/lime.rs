//! LiME version 1, the format of a memory image: for each range a header of 32 bytes, then its bytes; ascending, nothing
//! behind the last. Format: LiME, `doc/README.md` ("LiME Memory Range Header Version 1 Specification").

use super::ranges::{PAGE, Range, holding};

/// Bytes of a record's header.
pub const HEADER: u64 = 32;
const MAGIC: u32 = 0x4C69_4D45;
const VERSION: u32 = 1;

/// Which range is at which offset of the image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    ranges: Vec<Range>,
    /// Offset of each record's header.
    starts: Vec<u64>,
    size: u64,
}

/// What is at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A header, from a byte of it on.
    Header { bytes: [u8; HEADER as usize], from: usize },
    /// Memory.
    Memory {
        /// The physical address.
        at: u64,
        /// Bytes of the range that are left.
        left: u64,
    },
}

impl Layout {
    /// An image of these ranges, which are normal.
    #[must_use]
    pub fn new(ranges: Vec<Range>) -> Self {
        let mut size = 0_u64;
        let starts = ranges
            .iter()
            .map(|range| {
                let start = size;
                size = size.saturating_add(HEADER).saturating_add(range.len());
                start
            })
            .collect();
        Self { ranges, starts, size }
    }

    /// Bytes of the image.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// What is at an offset; nothing at and behind the end.
    #[must_use]
    pub fn place(&self, offset: u64) -> Option<Place> {
        let record = self.starts.partition_point(|s| *s <= offset).checked_sub(1)?;
        let (start, range) = (*self.starts.get(record)?, self.ranges.get(record)?);
        let within = offset.saturating_sub(start);
        if within < HEADER {
            return Some(Place::Header { bytes: header(range), from: within as usize });
        }
        let at = range.start.saturating_add(within.saturating_sub(HEADER));
        (at < range.end).then(|| Place::Memory { at, left: range.end.saturating_sub(at) })
    }

    /// The number of the page that begins at an address, counted through the image, if it is in it. Only for images of
    /// whole pages.
    #[must_use]
    pub fn page_number(&self, at: u64) -> Option<u64> {
        let range = holding(&self.ranges, at)?;
        let record = self.ranges.partition_point(|r| r.start < range.start);
        let before = self.starts.get(record)?.saturating_sub(HEADER.saturating_mul(record as u64));
        Some(before.saturating_add(at.saturating_sub(range.start)) / PAGE)
    }

    /// The first address at or behind `at` that is in the image.
    #[must_use]
    pub fn next(&self, at: u64) -> Option<u64> {
        self.ranges.get(self.ranges.partition_point(|r| r.end <= at)).map(|r| r.start.max(at))
    }
}

/// The header of a range: magic, version, first and last address (inclusive), eight zeros; little-endian.
fn header(range: &Range) -> [u8; HEADER as usize] {
    let mut bytes = [0; HEADER as usize];
    let fields = [&MAGIC.to_le_bytes()[..], &VERSION.to_le_bytes(), &range.start.to_le_bytes(), &range.end.saturating_sub(1).to_le_bytes()];
    for (to, from) in bytes.iter_mut().zip(fields.concat()) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::ranges::{normal, total};
    use super::*;

    #[test]
    fn a_record_begins_as_lime_says() {
        let layout = Layout::new(vec![Range { start: 0x1000, end: 0x9_fc00 }]);
        let Some(Place::Header { bytes, from: 0 }) = layout.place(0) else { panic!("a header") };
        let expected = [&b"EMiL"[..], &[1, 0, 0, 0], &[0, 0x10, 0, 0, 0, 0, 0, 0], &[0xff, 0xfb, 9, 0, 0, 0, 0, 0], &[0; 8]];
        assert_eq!(bytes.to_vec(), expected.concat());
    }

    proptest::proptest! {
        #[test]
        fn every_byte_of_every_range_is_there_once_in_order(parts in proptest::collection::vec((0_u64..100, 1_u64..40), 0..6)) {
            let ranges = normal(parts.into_iter().map(|(start, length)| Range { start, end: start + length }).collect());
            let layout = Layout::new(ranges.clone());
            let mut addresses = Vec::new();
            let mut headers = 0;
            for offset in 0..layout.size() {
                match layout.place(offset) {
                    Some(Place::Header { from: 0, .. }) => headers += 1,
                    Some(Place::Header { .. }) => {}
                    Some(Place::Memory { at, left }) => {
                        proptest::prop_assert_eq!(holding(&ranges, at).map(|r| r.end - at), Some(left));
                        addresses.push(at);
                    }
                    None => proptest::prop_assert!(false, "nothing at {}", offset),
                }
            }
            proptest::prop_assert_eq!(layout.place(layout.size()), None);
            proptest::prop_assert_eq!(headers, ranges.len());
            proptest::prop_assert_eq!(addresses, ranges.iter().flat_map(|r| r.start..r.end).collect::<Vec<u64>>());
            proptest::prop_assert_eq!(layout.size(), total(&ranges) + HEADER * ranges.len() as u64);
        }

        #[test]
        fn pages_are_numbered_through(parts in proptest::collection::vec((0_u64..100, 1_u64..9), 0..6)) {
            let ranges = normal(parts.into_iter().map(|(s, n)| Range { start: s * PAGE, end: (s + n) * PAGE }).collect());
            let layout = Layout::new(ranges.clone());
            let pages: Vec<u64> = ranges.iter().flat_map(|r| (r.start..r.end).step_by(PAGE as usize)).collect();
            for (number, at) in pages.iter().enumerate() {
                proptest::prop_assert_eq!(layout.page_number(*at), Some(number as u64));
            }
            for at in (0..120 * PAGE).step_by(PAGE as usize) {
                proptest::prop_assert_eq!(layout.next(at), pages.iter().copied().find(|p| *p >= at));
            }
        }
    }
}
