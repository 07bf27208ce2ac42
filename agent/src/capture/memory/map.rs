//! The map beside an image: every byte of it, and of the RAM that is not in it, as data, gap or zeros by the kernel, with the
//! times at which it was read; and the flags of all pages.

use std::io;

use serde::Serialize;

use super::diary::{Beyond, Diary, Piece, UNCERTAIN, ZEROED};
use super::flags::Flags;
use super::lime::Layout;
use super::ranges::{PAGE, Range, normal};
use crate::capture::{Content, Moment, NewItem, Output, Source, Status, Stop, Table};

/// Flags before the first pass.
pub const FLAGS_BEFORE: &str = "kpageflags-before.bin";
/// Flags after the last one.
pub const FLAGS_AFTER: &str = "kpageflags-after.bin";

/// One stretch of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `data`, `gap`, `zeroed-by-kernel` (by a page flag, or because the kernel does not map the page), `not-read` when the collection was told to end before, or `uncertain` where zeros were
    /// read and nothing says whether the kernel gave them instead of content, or where too many gaps came before to keep the reason.
    pub state: &'static str,
    /// Why it is not data; the flag, of zeros.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// CLOCK_MONOTONIC_RAW when its reading began and ended, nanoseconds since boot: those of the piece that it lies in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub began_ns: Option<u64>,
    /// See above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ns: Option<u64>,
}

/// What a map shows.
pub struct Shown<'a> {
    pub diary: &'a Diary,
    pub layout: &'a Layout,
    /// System RAM that the source does not show.
    pub hidden: &'a [Range],
    pub source: &'a str,
    /// How often the source's table of memory changed while the image was read; what was read by the one before was read again.
    pub source_changes: u64,
}

/// Puts the map, ascending.
///
/// # Errors
/// [`Stop`] from the output.
pub fn put(out: &mut dyn Output, stem: &str, shown: &Shown<'_>, started: Moment) -> Result<(), Stop> {
    let mut table = Table::new(stem, started, "read:physical-memory");
    table.fact("source", shown.source);
    table.fact("source_changes", shown.source_changes.to_string());
    table.fact("retried_reads", shown.diary.retried.to_string());
    each_row(shown, |row| table.row_at_hand(out, &row));
    let problem = shown.diary.beyond.as_ref().map(|beyond| {
        let (told, from) = (shown.diary.gaps.len(), beyond.from);
        (Status::Partial, format!("more than {told} gaps: from {from:#x} on why pages are not data is not told any more"))
    });
    table.finish(out, problem).map(drop)
}

/// Calls `each` with disjoint rows that cover the image and what is hidden, ascending.
pub fn each_row(shown: &Shown<'_>, mut each: impl FnMut(Row)) {
    let all = normal(shown.layout.ranges().iter().chain(shown.hidden).copied().collect());
    let (mut hidden, mut gaps, mut pieces) = (shown.hidden.iter().peekable(), shown.diary.gaps.iter().peekable(), Pieces::of(shown.diary));
    for range in all {
        let mut at = range.start;
        while at < range.end {
            while hidden.next_if(|h| h.end <= at).is_some() {}
            while gaps.next_if(|(g, _)| g.end <= at).is_some() {}
            let rest = Range { start: at, end: range.end };
            let row = match (hidden.peek(), gaps.peek()) {
                (Some(h), _) if h.start <= at => gap(clip(rest, h), "gap", Some("not-exposed-by-kcore"), None),
                (h, Some((g, why))) if g.start <= at => {
                    let reason = shown.diary.reasons.get(usize::from(*why)).map_or("not read", String::as_str);
                    let end = clip(rest, g).end.min(h.map_or(u64::MAX, |h| h.start));
                    let (state, reason) = state_of(reason);
                    gap(Range { start: at, end }, state, Some(reason), pieces.holding(at))
                }
                (h, g) => {
                    let end = rest.end.min(h.map_or(u64::MAX, |h| h.start)).min(g.map_or(u64::MAX, |(g, _)| g.start));
                    uncertain(pieces.data(Range { start: at, end }), shown.diary.beyond.as_ref())
                }
            };
            at = row.end.max(at.saturating_add(1));
            each(row);
        }
    }
}

/// The first part of a row of data that is alike in whether it is data.
fn uncertain(row: Row, beyond: Option<&Beyond>) -> Row {
    let Some(beyond) = beyond.filter(|b| row.state == "data" && row.end > b.from) else { return row };
    if row.start < beyond.from {
        return Row { end: row.end.min(beyond.from), ..row };
    }
    match beyond.leading(Range { start: row.start, end: row.end }) {
        (false, part) => Row { end: part.end, ..row },
        (true, part) => {
            let reason = "zeros in the image, and too many gaps before to say why".to_owned();
            Row { end: part.end, state: "uncertain", reason: Some(reason), ..row }
        }
    }
}

/// The state that a reason of the diary stands for, and what is left of the reason.
fn state_of(reason: &str) -> (&'static str, &str) {
    match (reason.strip_prefix(ZEROED), reason.strip_prefix(UNCERTAIN)) {
        (Some(flag), _) => ("zeroed-by-kernel", flag),
        (_, Some(why)) => ("uncertain", why),
        _ => ("gap", reason),
    }
}

fn clip(rest: Range, to: &Range) -> Range {
    Range { start: rest.start, end: rest.end.min(to.end) }
}

fn gap(range: Range, state: &'static str, reason: Option<&str>, piece: Option<Piece>) -> Row {
    Row {
        start: range.start,
        end: range.end,
        state,
        reason: reason.map(str::to_owned),
        began_ns: piece.map(|p| p.began_ns),
        ended_ns: piece.map(|p| p.ended_ns),
    }
}

struct Pieces<'a>(std::iter::Peekable<std::slice::Iter<'a, Piece>>);

impl<'a> Pieces<'a> {
    fn of(diary: &'a Diary) -> Self {
        Self(diary.pieces.iter().peekable())
    }

    fn holding(&mut self, at: u64) -> Option<Piece> {
        while self.0.next_if(|p| p.range.end <= at).is_some() {}
        self.0.peek().filter(|p| p.range.start <= at).map(|p| **p)
    }

    /// The first part of a range that was read in one piece, or that was not read at all.
    fn data(&mut self, range: Range) -> Row {
        if let Some(piece) = self.holding(range.start) {
            return gap(clip(range, &piece.range), "data", None, Some(piece));
        }
        let next = self.0.peek().map_or(u64::MAX, |p| p.range.start);
        gap(Range { start: range.start, end: range.end.min(next) }, "not-read", Some("the collection ended before"), None)
    }
}

/// Puts the flags of all frames of System RAM: 8 bytes each, little-endian, in the order of `system_ram` in the preflight.
///
/// # Errors
/// [`Stop`] from the output.
pub fn put_flags(out: &mut dyn Output, flags: Option<&dyn Flags>, ram: &[Range], name: &str) -> Result<(), Stop> {
    let Some(flags) = flags else { return Ok(()) };
    let item = NewItem::record(name, out.now(), "read:/proc/kpageflags");
    let mut source = FlagSource::new(flags, ram);
    out.put(item, Content::Source { size: source.size, extents: None, source: &mut source }).map(drop)
}

struct FlagSource<'a> {
    flags: &'a dyn Flags,
    /// First frame, and offset of its flags.
    ranges: Vec<(u64, u64)>,
    size: u64,
}

impl<'a> FlagSource<'a> {
    fn new(flags: &'a dyn Flags, ram: &[Range]) -> Self {
        let mut size = 0_u64;
        let ranges = ram
            .iter()
            .map(|range| {
                let first = (range.start / PAGE, size);
                size = size.saturating_add(range.end.div_ceil(PAGE).saturating_sub(range.start / PAGE).saturating_mul(8));
                first
            })
            .collect();
        Self { flags, ranges, size }
    }
}

impl Source for FlagSource<'_> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.ranges.partition_point(|(_, start)| *start <= offset);
        let Some((first, start)) = n.checked_sub(1).and_then(|n| self.ranges.get(n)) else { return Ok(0) };
        let end = self.ranges.get(n).map_or(self.size, |(_, start)| *start);
        let left = usize::try_from(end.saturating_sub(offset)).unwrap_or(0).min(buf.len());
        if left == 0 {
            return Ok(0);
        }
        // The kernel gives whole entries only; a buffer may end in the middle of one.
        let within = (offset.saturating_sub(*start) % 8) as usize;
        let frame = first.saturating_add(offset.saturating_sub(*start) / 8);
        if within != 0 || left < 8 {
            let mut entry = [0; 8];
            if self.flags.read(frame, &mut entry)? == 0 {
                return Err(io::Error::other("the kernel has no flags for this page"));
            }
            let rest = entry.get(within..).unwrap_or_default();
            let count = rest.len().min(left);
            buf.iter_mut().zip(rest.iter().take(count)).for_each(|(to, from)| *to = *from);
            return Ok(count);
        }
        match self.flags.read(frame, buf.get_mut(..left / 8 * 8).unwrap_or_default())? {
            0 => Err(io::Error::other("the kernel has no flags for this page")),
            got => Ok(got.saturating_mul(8)),
        }
    }

    fn unit_end(&self, offset: u64) -> u64 {
        (offset / 8).saturating_add(1).saturating_mul(8)
    }
}
