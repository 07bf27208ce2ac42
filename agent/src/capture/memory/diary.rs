//! What is known of an image beside its bytes: when each piece was read, and what is zeros because it could not be had.

use super::ranges::{PAGE, Range};

/// Gaps that are told apart with their reasons: 24 bytes each. Of more it is known only which pages they are.
pub const GAPS_MAX: usize = 32_768;
/// Distinct reasons that are told apart.
const REASONS_MAX: usize = 32;

/// When a piece was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The addresses.
    pub range: Range,
    /// CLOCK_MONOTONIC_RAW at its first and after its last read, nanoseconds.
    pub began_ns: u64,
    pub ended_ns: u64,
}

/// What is known of an image beside its bytes.
#[derive(Debug, Default)]
pub struct Diary {
    /// Pieces, ascending.
    pub pieces: Vec<Piece>,
    /// What is zeros in the image because it could not be had: addresses and the place in `reasons`. Ascending.
    pub gaps: Vec<(Range, u16)>,
    /// Why.
    pub reasons: Vec<String>,
    /// What is not data beyond the gaps that are listed with their reasons.
    pub beyond: Option<Beyond>,
    /// Reads that failed and were repeated with success.
    pub retried: u64,
}

/// What [`Diary::reasons`] begin with when the kernel answered with zeros instead of content.
pub const ZEROED: &str = "zeroed-by-kernel: ";
/// What [`Diary::reasons`] begin with where zeros were read and nothing says whether they are content.
pub const UNCERTAIN: &str = "uncertain: ";
impl Diary {
    /// Writes a gap of an image of these ranges down, once: what is asked for again after a failure may begin in the one before.
    pub fn gap(&mut self, image: &[Range], range: Range, reason: &str) {
        let range = Range { start: self.gaps.last().map_or(range.start, |(last, _)| range.start.max(last.end)), end: range.end };
        if range.is_empty() {
            return;
        }
        let reason = self.reason(reason);
        let full = self.gaps.len() >= GAPS_MAX;
        match self.gaps.last_mut() {
            Some((last, why)) if last.end == range.start && *why == reason => last.end = range.end,
            _ if full => self.beyond.get_or_insert_with(|| Beyond::new(image, range.start)).lose(range),
            _ => self.gaps.push((range, reason)),
        }
    }

    fn reason(&mut self, reason: &str) -> u16 {
        let known = self.reasons.iter().position(|r| r == reason);
        let found = known.unwrap_or_else(|| {
            let last = self.reasons.len().saturating_add(1) >= REASONS_MAX;
            self.reasons.push(if last { "not read: one of many reasons".to_owned() } else { reason.to_owned() });
            self.reasons.truncate(REASONS_MAX);
            self.reasons.len().saturating_sub(1)
        });
        found as u16
    }
}

/// Pages that are not data, without a reason: one bit for each page of the image. A program can make a gap of every other page
/// (`memfd_secret`), and must not thereby make the rest of the image doubtful.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beyond {
    /// Where it begins.
    pub from: u64,
    /// Each range of the image, with the number of its first page, counted through the image.
    ranges: Vec<(Range, u64)>,
    /// Made at once and zero: the kernel gives memory for the parts only in which a bit is set.
    lost: Vec<u64>,
}

impl Beyond {
    fn new(image: &[Range], from: u64) -> Self {
        let mut pages = 0_u64;
        let ranges = image
            .iter()
            .filter(|range| range.end > from)
            .map(|range| {
                let first = pages;
                pages = pages.saturating_add(range.end.div_ceil(PAGE).saturating_sub(range.start / PAGE));
                (*range, first)
            })
            .collect();
        Self { from, ranges, lost: vec![0; usize::try_from(pages.div_ceil(64)).unwrap_or(0)] }
    }

    /// The word and the bit of the page that an address lies in.
    fn place(&self, at: u64) -> Option<(usize, u64)> {
        let after = self.ranges.partition_point(|(range, _)| range.end <= at);
        let (range, first) = self.ranges.get(after).filter(|(range, _)| range.start <= at)?;
        let page = first.saturating_add((at / PAGE).saturating_sub(range.start / PAGE));
        Some((usize::try_from(page / 64).ok()?, 1 << (page % 64)))
    }

    fn lose(&mut self, range: Range) {
        let mut at = range.start;
        while at < range.end {
            if let Some((word, bit)) = self.place(at)
                && let Some(word) = self.lost.get_mut(word)
            {
                *word |= bit;
            }
            at = next_page(at);
        }
    }

    fn is_lost(&self, at: u64) -> bool {
        self.place(at).and_then(|(word, bit)| Some(self.lost.get(word)? & bit != 0)).unwrap_or(false)
    }

    /// Whether the first page of a range is not data, and the first part of the range that is alike in this.
    #[must_use]
    pub fn leading(&self, range: Range) -> (bool, Range) {
        let lost = self.is_lost(range.start);
        let mut end = next_page(range.start);
        while end < range.end && self.is_lost(end) == lost {
            end = next_page(end);
        }
        (lost, Range { start: range.start, end: end.min(range.end) })
    }
}

const fn next_page(at: u64) -> u64 {
    (at / PAGE).saturating_add(1).saturating_mul(PAGE)
}
