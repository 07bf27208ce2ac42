//! LiME version 1 (504ensicsLabs/LiME, `doc/README.md`): for each range of physical memory a header of 32 bytes (magic, version, first
//! and *last* address, eight zeros, all little-endian) and its bytes. Ranges ascend and nothing stands between or behind them.

use super::{Malformed, PAGE_BYTES, u32_at, u64_at};

/// Bytes of a range's header.
pub const HEADER_BYTES: usize = 32;
const MAGIC: u32 = 0x4c69_4d45;
/// Physical addresses have 52 bits at most (x86-64 and arm64).
pub const ADDRESS_MAX: u64 = (1 << 52) - 1;
/// More ranges than any machine has: an image of single pages, every second one missing, of 8 GiB. Bounds a reader's memory to 24 MiB.
pub const RANGES_MAX: usize = 1 << 20;
const WHAT: &str = "LiME image";

/// A range of physical memory, half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Bytes; at least one.
    pub len: u64,
}

impl Range {
    /// The address behind the last byte.
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// Reads the header of a range that lies at `at` of the image; `after` is where the range before ends.
///
/// # Errors
/// Another magic or version, an end before the start, an address beyond 52 bits, a range that is not above the one before.
pub fn range(header: &[u8], at: u64, after: u64) -> Result<Range, Malformed> {
    let bad = |problem| Malformed::new(WHAT, at, problem);
    let word = |place| u32_at(header, place).ok_or_else(|| bad("ends within a header"));
    let address = |place| u64_at(header, place).ok_or_else(|| bad("ends within a header"));
    if word(0)? != MAGIC {
        return Err(bad("no range begins here"));
    }
    if word(4)? != 1 {
        return Err(bad("a version other than 1"));
    }
    let (start, last) = (address(8)?, address(16)?);
    if last < start || last > ADDRESS_MAX {
        return Err(bad("a range that cannot be"));
    }
    if start < after {
        return Err(bad("ranges that do not ascend"));
    }
    Ok(Range { start, len: last - start + 1 })
}

/// Takes an image in pieces of any size.
#[derive(Debug, Default)]
pub struct Parser {
    header: Vec<u8>,
    /// Bytes of the open range that are still to come.
    left: u64,
    /// Bytes of the image so far.
    at: u64,
    ranges: Vec<Range>,
}

/// A piece of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Physical address of its first byte.
    pub address: u64,
    /// Which range, counted from zero.
    pub range: usize,
    /// Its bytes, never none.
    pub bytes: &'a [u8],
}

impl Parser {
    /// Takes the next bytes off the front of `bytes`: a piece of a range, or none when only (a part of) a header was there.
    ///
    /// # Errors
    /// Those of [`range`]; more ranges than any machine has.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Malformed> {
        if self.left == 0 {
            let want = HEADER_BYTES.saturating_sub(self.header.len()).min(bytes.len());
            let (head, rest) = bytes.split_at_checked(want).unwrap_or((bytes, &[]));
            self.header.extend_from_slice(head);
            *bytes = rest;
            self.at = self.at.saturating_add(head.len() as u64);
            if self.header.len() == HEADER_BYTES {
                self.begin()?;
            }
            return Ok(None);
        }
        let (number, open) = match self.ranges.last() {
            Some(open) => (self.ranges.len().saturating_sub(1), *open),
            None => return Err(Malformed::new(WHAT, self.at, "no range begins here")),
        };
        let take = self.left.min(bytes.len() as u64) as usize;
        let (piece, rest) = bytes.split_at_checked(take).unwrap_or((bytes, &[]));
        *bytes = rest;
        let address = open.end().saturating_sub(self.left);
        self.left = self.left.saturating_sub(piece.len() as u64);
        self.at = self.at.saturating_add(piece.len() as u64);
        Ok((!piece.is_empty()).then_some(Piece { address, range: number, bytes: piece }))
    }

    fn begin(&mut self) -> Result<(), Malformed> {
        let at = self.at.saturating_sub(HEADER_BYTES as u64);
        let after = self.ranges.last().map_or(0, |r| r.end());
        let range = range(&self.header, at, after)?;
        if self.ranges.len() >= RANGES_MAX {
            return Err(Malformed::new(WHAT, at, "more ranges than a machine has"));
        }
        self.header.clear();
        self.left = range.len;
        self.ranges.push(range);
        Ok(())
    }

    /// The ranges, once the image was taken whole.
    ///
    /// # Errors
    /// The image ended within a range or a header, or there is none.
    pub fn finish(self) -> Result<Vec<Range>, Malformed> {
        match (self.left, self.header.is_empty(), self.ranges.is_empty()) {
            (0, true, false) => Ok(self.ranges),
            (0, true, true) => Err(Malformed::new(WHAT, self.at, "nothing is in it")),
            _ => Err(Malformed::new(WHAT, self.at, "ends in the middle of a range")),
        }
    }

    /// The ranges of an image of which only the beginning was taken: of the one that is open the whole pages that are there.
    ///
    /// # Errors
    /// No whole page is there.
    pub fn finish_cut(mut self) -> Result<Vec<Range>, Malformed> {
        if self.left > 0
            && let Some(open) = self.ranges.last_mut()
        {
            let there = open.end().saturating_sub(self.left);
            open.len = (there - there % PAGE_BYTES).saturating_sub(open.start);
        }
        self.ranges.retain(|range| range.len > 0);
        if self.ranges.is_empty() {
            return Err(Malformed::new(WHAT, self.at, "was cut off before the end of its first page"));
        }
        Ok(self.ranges)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An image of some ranges.
    pub fn image(ranges: &[(u64, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (start, bytes) in ranges {
            out.extend_from_slice(&MAGIC.to_le_bytes());
            out.extend_from_slice(&1_u32.to_le_bytes());
            out.extend_from_slice(&start.to_le_bytes());
            out.extend_from_slice(&(start + bytes.len() as u64 - 1).to_le_bytes());
            out.extend_from_slice(&[0; 8]);
            out.extend_from_slice(bytes);
        }
        out
    }

    type Bytes = Vec<(u64, u8)>;

    /// What comes out: address and byte of everything, and the ranges.
    fn read(bytes: &[u8], step: usize) -> Result<(Bytes, Vec<Range>), Malformed> {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        for mut piece in bytes.chunks(step.max(1)) {
            while !piece.is_empty() {
                if let Some(found) = parser.next(&mut piece)? {
                    out.extend(found.bytes.iter().enumerate().map(|(i, b)| (found.address + i as u64, *b)));
                }
            }
        }
        parser.finish().map(|ranges| (out, ranges))
    }

    #[test]
    fn ranges_come_back_at_any_cut() {
        let bytes = image(&[(0x1000, b"abcd"), (0x1004, b"e"), (0x9000, b"fg")]);
        for step in [1, 3, 31, 32, 33, 1000] {
            let (data, ranges) = read(&bytes, step).expect("good");
            assert_eq!(ranges, [Range { start: 0x1000, len: 4 }, Range { start: 0x1004, len: 1 }, Range { start: 0x9000, len: 2 }]);
            assert_eq!(data.iter().map(|(_, b)| *b).collect::<Vec<_>>(), b"abcdefg");
            assert_eq!(data.last(), Some(&(0x9001, b'g')));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = image(&[(0x1000, b"abcd"), (0x2000, b"e")]);
        for cut in 1..good.len() {
            assert_eq!(read(&good[..cut], 7).is_ok(), cut == 36, "cut at {cut}");
        }
        let mut more = good.clone();
        more.push(0);
        assert!(read(&more, 7).is_err(), "a trailing byte");
        assert!(read(&image(&[(0x2000, b"a"), (0x1000, b"b")]), 7).is_err(), "descending");
        assert!(read(&image(&[(0x1000, b"ab"), (0x1001, b"b")]), 7).is_err(), "overlapping");
        assert!(read(&image(&[(1 << 52, b"ab")]), 7).is_err(), "no such address");
        assert!(read(b"", 1).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..40, value: u8, step in 1_usize..50) {
            let _ = read(&bytes, step);
            let mut near = image(&[(0x1000, b"abcd"), (0x2000, b"e")]);
            near[at] = value;
            let _ = read(&near, step);
        }
    }
}
