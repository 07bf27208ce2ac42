//! Where everything lies in the core file: segments by file offset, and the ranges of the file that hold data. Known whole
//! before the first byte is written, so that the file can be read by position.

use std::collections::BTreeMap;

use super::regions::{Class, PAGE, Region};
use crate::capture::Extent;

/// Ranges of touched pages that are told apart, besides one for each mapping.
const RUNS_MAX: usize = 32_768;
/// Bytes of never-touched pages that are holes of the file; of more, the longest stretches become segments without content.
/// Both sides hash the zeros of holes, at about 1.7 GB/s.
const HOLES_BYTES_MAX: u64 = 1 << 30;
/// Segments read at once: a piece of 256 KiB has that many pages.
const PIECES_MAX: usize = 64;
/// Stretches that are cut out, the longest ones first; each makes two segments more.
const CUTS_MAX: usize = 4096;

/// What of a mapping is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Everything; what is in no run reads as zeros.
    All,
    /// The runs only: what lies between them is not zeros but somewhere else, so it is never a hole of the file.
    Runs,
    /// Nothing.
    Nothing,
}

/// A range of pages of one mapping that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Which mapping, by its place in the table.
    pub region: u32,
}

/// The runs of a process, collected in ascending order. When there are too many, small holes between them are closed: their
/// pages are then written as zeros, without being touched.
#[derive(Debug, Default)]
pub struct Runs {
    list: Vec<Run>,
    hole_bytes_min: u64,
    /// Bytes of holes that were closed, by mapping: its runs have so many bytes without a page.
    pub closed: BTreeMap<u32, u64>,
}

impl Runs {
    /// Adds a run, after all before it.
    pub fn push(&mut self, start: u64, end: u64, region: usize) {
        let Ok(region) = u32::try_from(region) else { return };
        if start >= end {
            return;
        }
        let hole = self.hole_bytes_min;
        let joins = |last: &&mut Run| last.region == region && start >= last.start && start.saturating_sub(last.end) <= hole;
        if let Some(last) = self.list.last_mut().filter(joins) {
            note_closed(&mut self.closed, region, last.end, start);
            last.end = last.end.max(end);
            return;
        }
        if self.list.len() >= RUNS_MAX && self.list.last().is_some_and(|last| last.region == region) {
            self.close_small_holes();
        }
        self.list.push(Run { start, end, region });
    }

    /// Takes back what was added last of a mapping.
    pub fn forget(&mut self, region: usize) {
        while self.list.pop_if(|last| last.region as usize == region).is_some() {}
        self.closed.retain(|n, _| *n as usize != region);
    }

    fn close_small_holes(&mut self) {
        self.hole_bytes_min = self.hole_bytes_min.saturating_mul(2).max(PAGE);
        let hole = self.hole_bytes_min;
        let Self { list, closed, .. } = self;
        list.dedup_by(|next, last| {
            let joined = next.region == last.region && next.start.saturating_sub(last.end) <= hole;
            if joined {
                note_closed(closed, last.region, last.end, next.start);
                last.end = last.end.max(next.end);
            }
            joined
        });
    }
}

/// Counts a hole from `end` to `start` that is closed.
fn note_closed(closed: &mut BTreeMap<u32, u64>, region: u32, end: u64, start: u64) {
    let hole = start.saturating_sub(end);
    if hole > 0 {
        let sum = closed.entry(region).or_default();
        *sum = sum.saturating_add(hole);
    }
}

/// A stretch of addresses in the core file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First address.
    pub start: u64,
    /// Bytes in memory.
    pub bytes: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Whether its bytes are in the file: if not, the file says only that it is there.
    pub stored: bool,
    /// Which mapping.
    pub region: u32,
}

impl Segment {
    /// Bytes in the file.
    #[must_use]
    pub const fn stored_bytes(&self) -> u64 {
        if self.stored { self.bytes } else { 0 }
    }
}

/// The plan of the part of a core file that holds memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Ascending by address and by offset; offsets count from the end of the header until [`Layout::shift`].
    pub segments: Vec<Segment>,
    /// Where data is, by offset.
    pub extents: Vec<Extent>,
    /// Bytes of all stored segments.
    pub bytes: u64,
    /// Bytes of never-touched stretches that are segments without content.
    pub cut_bytes: u64,
    /// Bytes that are not stored for another reason: devices, files that are not to be read, what lies beyond their ends.
    pub left_out_bytes: u64,
}

impl Layout {
    /// Plans the file. `keep` says of each mapping what of it is stored.
    #[must_use]
    pub fn new(regions: &[Region], runs: &Runs, keep: &dyn Fn(&Region) -> Keep) -> Self {
        let mut cuts = Cuts::new(regions, runs, keep);
        let mut layout = Self::default();
        let mut runs = runs.list.iter().peekable();
        for (n, region) in regions.iter().enumerate() {
            let n = n as u32;
            while runs.next_if(|r| r.region < n).is_some() {}
            let keep = keep(region);
            if keep == Keep::Nothing {
                layout.push(n, region.start, region.end, false);
                if !region.is_reserved() && region.class != Class::Shared {
                    layout.left_out_bytes = layout.left_out_bytes.saturating_add(region.bytes());
                }
                continue;
            }
            // From `begin` to `at` is what is collected of the segment under construction.
            let (mut begin, mut at) = (region.start, region.start);
            while let Some(run) = runs.next_if(|r| r.region == n) {
                let (start, end) = (run.start.clamp(at, region.end), run.end.clamp(at, region.end));
                layout.stretch(n, &mut begin, at, start, keep, &mut cuts);
                layout.data(begin, start, end);
                at = end;
            }
            layout.stretch(n, &mut begin, at, region.end, keep, &mut cuts);
            layout.push(n, begin, region.end, true);
        }
        layout
    }

    /// What becomes of the addresses from `at` to `start`, which are in no run: a segment without content, a hole, or a gap.
    fn stretch(&mut self, region: u32, begin: &mut u64, at: u64, start: u64, keep: Keep, cuts: &mut Cuts) {
        let bytes = start.saturating_sub(at);
        if cuts.take(keep, bytes) {
            self.push(region, *begin, at, true);
            self.push(region, at, start, false);
            *begin = start;
            let sum = if keep == Keep::All { &mut self.cut_bytes } else { &mut self.left_out_bytes };
            *sum = sum.saturating_add(bytes);
        } else if keep == Keep::Runs {
            self.data(*begin, at, start);
        }
    }

    fn push(&mut self, region: u32, start: u64, end: u64, stored: bool) {
        if start < end {
            let bytes = end.saturating_sub(start);
            self.segments.push(Segment { start, bytes, offset: self.bytes, stored, region });
            self.bytes = self.bytes.saturating_add(if stored { bytes } else { 0 });
        }
    }

    /// Data of the segment under construction, which begins at address `begin`.
    fn data(&mut self, begin: u64, start: u64, end: u64) {
        let offset = self.bytes.saturating_add(start.saturating_sub(begin));
        let length = end.saturating_sub(start);
        match self.extents.last_mut() {
            _ if length == 0 => {}
            Some(last) if last.end() == offset => last.length = last.length.saturating_add(length),
            _ => self.extents.push(Extent { offset, length }),
        }
    }

    /// Moves everything behind a header of `header_bytes`, which is data too, and fills to a whole page.
    #[must_use]
    pub fn shift(mut self, header_bytes: u64) -> Self {
        let begin = header_bytes.next_multiple_of(PAGE);
        for segment in &mut self.segments {
            segment.offset = segment.offset.saturating_add(begin);
        }
        for extent in &mut self.extents {
            extent.offset = extent.offset.saturating_add(begin);
        }
        self.extents.insert(0, Extent { offset: 0, length: begin });
        self.bytes = self.bytes.saturating_add(begin);
        self
    }

    /// The addresses of so many bytes of the file from an offset on, as far as they are stored.
    #[must_use]
    pub fn pieces(&self, offset: u64, bytes: usize) -> Vec<(u64, usize)> {
        let (mut at, end) = (offset, offset.saturating_add(bytes as u64));
        let mut pieces = Vec::new();
        let begin = self.segments.partition_point(|s| s.offset.saturating_add(s.stored_bytes()) <= offset);
        for segment in self.segments.get(begin..).unwrap_or_default().iter().filter(|s| s.stored) {
            let from = at.saturating_sub(segment.offset);
            let length = segment.bytes.saturating_sub(from).min(end.saturating_sub(at));
            if segment.offset > at || length == 0 || pieces.len() >= PIECES_MAX {
                break;
            }
            pieces.push((segment.start.saturating_add(from), length as usize));
            at = at.saturating_add(length);
        }
        pieces
    }

    /// What was planned for a file offset.
    #[must_use]
    pub fn planned(&self, offset: u64) -> Planned {
        let at = self.extents.partition_point(|e| e.end() <= offset);
        match self.extents.get(at) {
            Some(extent) if extent.offset <= offset => Planned::Data(extent.end()),
            Some(extent) => Planned::Nothing(extent.offset),
            None => Planned::Nothing(self.bytes),
        }
    }

    /// The stored segment at a file offset.
    #[must_use]
    pub fn at(&self, offset: u64) -> Option<&Segment> {
        // Segments without content lie at the offset of the next one; they end where they begin and are passed over.
        let at = self.segments.partition_point(|s| s.offset.saturating_add(s.stored_bytes()) <= offset);
        self.segments.get(at).filter(|s| s.stored && s.offset <= offset)
    }
}

/// What was planned for an offset of the file, and until where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planned {
    /// Pages.
    Data(u64),
    /// None: zeros.
    Nothing(u64),
}

/// Which stretches are cut out. Whoever owns the process chooses how many there are: the longest ones come first, so that no number of
/// small ones makes the file large.
#[derive(Debug, Clone, Copy)]
struct Cuts {
    /// Never-touched stretches that are shorter need no cut.
    from: u64,
    /// For what is shorter there is no cut left.
    least: u64,
    /// For so many of just that length there is one.
    of_least: usize,
}

impl Cuts {
    fn new(regions: &[Region], runs: &Runs, keep: &dyn Fn(&Region) -> Keep) -> Self {
        let mut cuts = Self { from: cut_from(regions, runs, keep), least: 0, of_least: 0 };
        let mut wished: Vec<u64> = Vec::new();
        stretches(regions, runs, keep, &mut |keep, bytes| {
            if cuts.wishes(keep, bytes) {
                wished.push(bytes);
            }
        });
        if wished.len() > CUTS_MAX {
            let least = *wished.select_nth_unstable_by(CUTS_MAX.saturating_sub(1), |a, b| b.cmp(a)).1;
            let longer = wished.iter().filter(|bytes| **bytes > least).count();
            cuts = Self { least, of_least: CUTS_MAX.saturating_sub(longer), ..cuts };
        }
        cuts
    }

    /// Whether a stretch should be cut out, if there is a cut for it.
    const fn wishes(&self, keep: Keep, bytes: u64) -> bool {
        match keep {
            Keep::All => bytes >= self.from,
            Keep::Runs => bytes >= PAGE,
            Keep::Nothing => false,
        }
    }

    /// Whether a stretch is cut out; asked once of each.
    const fn take(&mut self, keep: Keep, bytes: u64) -> bool {
        if !self.wishes(keep, bytes) || bytes < self.least {
            return false;
        }
        if bytes > self.least {
            return true;
        }
        let is_left = self.of_least > 0;
        self.of_least = self.of_least.saturating_sub(1);
        is_left
    }
}

/// Calls `each` with the length of every stretch of the mappings that is in no run, as [`Layout::new`] comes to them.
fn stretches(regions: &[Region], runs: &Runs, keep: &dyn Fn(&Region) -> Keep, each: &mut dyn FnMut(Keep, u64)) {
    let mut runs = runs.list.iter().peekable();
    for (n, region) in regions.iter().enumerate() {
        let (n, keep) = (n as u32, keep(region));
        let mut at = region.start;
        while let Some(run) = runs.next_if(|r| r.region <= n) {
            if run.region == n {
                let (start, end) = (run.start.clamp(at, region.end), run.end.clamp(at, region.end));
                each(keep, start.saturating_sub(at));
                at = end;
            }
        }
        each(keep, region.end.saturating_sub(at));
    }
}

/// The length from which on never-touched stretches are cut out, so that what remains is within [`HOLES_BYTES_MAX`].
fn cut_from(regions: &[Region], runs: &Runs, keep: &dyn Fn(&Region) -> Keep) -> u64 {
    let mut holes: Vec<u64> = Vec::new();
    stretches(regions, runs, keep, &mut |keep, bytes| {
        if keep == Keep::All && bytes > 0 {
            holes.push(bytes);
        }
    });
    holes.sort_unstable();
    let mut kept = 0_u64;
    for hole in holes {
        kept = kept.saturating_add(hole);
        if kept > HOLES_BYTES_MAX {
            return hole;
        }
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn region(start: u64, end: u64) -> Region {
        Region { start, end, ..Region::default() }
    }

    #[test]
    fn a_hole_in_a_mapping_is_a_hole_in_the_file() {
        let regions = [region(0x1000, 0x9000), region(0xa000, 0xb000)];
        let mut runs = Runs::default();
        runs.push(0x2000, 0x3000, 0);
        runs.push(0x8000, 0x9000, 0);
        runs.push(0xa000, 0xb000, 1);
        let layout = Layout::new(&regions, &runs, &|_| Keep::All).shift(5000);
        let offsets: Vec<(u64, u64)> = layout.segments.iter().map(|s| (s.offset, s.bytes)).collect();
        assert_eq!(offsets, [(8192, 0x8000), (8192 + 0x8000, 0x1000)]);
        let extents: Vec<(u64, u64)> = layout.extents.iter().map(|e| (e.offset, e.length)).collect();
        // The last page of the first mapping and the second mapping lie next to each other in the file.
        assert_eq!(extents, [(0, 8192), (8192 + 0x1000, 0x1000), (8192 + 0x7000, 0x2000)]);
        assert_eq!(layout.bytes, 8192 + 0x9000);
        assert_eq!(layout.at(8192 + 0x8000).map(|s| s.start), Some(0xa000));
        let planned = [0, 8192, 8192 + 0x1000, 8192 + 0x2fff, 8192 + 0x8000].map(|offset| layout.planned(offset));
        let (data, nothing) = (|at: u64| Planned::Data(8192 + at), |at: u64| Planned::Nothing(8192 + at));
        assert_eq!(planned, [data(0), nothing(0x1000), data(0x2000), nothing(0x7000), data(0x9000)]);
        assert_eq!(layout.planned(layout.bytes), Planned::Nothing(layout.bytes));
        assert_eq!(layout.at(100), None);
    }

    #[test]
    fn long_stretches_are_cut_out() {
        const GIB: u64 = 1 << 30;
        let regions = [region(0, 10 * GIB), region(20 * GIB, 20 * GIB + PAGE)];
        let mut runs = Runs::default();
        runs.push(PAGE, 2 * PAGE, 0);
        runs.push(9 * GIB, 9 * GIB + PAGE, 0);
        runs.push(20 * GIB, 20 * GIB + PAGE, 1);
        let layout = Layout::new(&regions, &runs, &|_| Keep::All);
        let stored: Vec<(u64, u64, bool)> = layout.segments.iter().map(|s| (s.start, s.bytes, s.stored)).collect();
        assert_eq!(stored[0], (0, 2 * PAGE, true));
        assert_eq!((stored[1].0, stored[1].2), (2 * PAGE, false));
        assert_eq!((stored[2].0, stored[2].2), (9 * GIB, true));
        assert!(layout.bytes <= GIB + 4 * PAGE, "{}", layout.bytes);
        assert_eq!(layout.segments.iter().map(|s| s.bytes).sum::<u64>(), 10 * GIB + PAGE, "every address is in a segment");
        assert!(layout.at(layout.bytes - 1).is_some_and(|s| s.region == 1));
    }

    #[test]
    fn nothing_of_what_is_left_out_is_stored() {
        let regions = [region(0, 4096), region(8192, 16384)];
        let mut runs = Runs::default();
        runs.push(0, 4096, 0);
        runs.push(8192, 16384, 1);
        let layout = Layout::new(&regions, &runs, &|r| if r.start == 0 { Keep::Nothing } else { Keep::All });
        assert_eq!(
            layout.segments.iter().map(|s| (s.stored, s.stored_bytes(), s.offset)).collect::<Vec<_>>(),
            [(false, 0, 0), (true, 8192, 0)]
        );
    }

    #[test]
    fn what_is_elsewhere_is_never_a_hole() {
        let regions = [region(0, 0x10_0000)];
        let mut runs = Runs::default();
        runs.push(0x1000, 0x2000, 0);
        runs.push(0x4000, 0x5000, 0);
        runs.push(0x8_0000, 0x8_1000, 0);
        let layout = Layout::new(&regions, &runs, &|_| Keep::Runs);
        let segments: Vec<(u64, u64, bool)> = layout.segments.iter().map(|s| (s.start, s.bytes, s.stored)).collect();
        assert_eq!(
            segments,
            [
                (0, 0x1000, false),
                (0x1000, 0x1000, true),
                (0x2000, 0x2000, false),
                (0x4000, 0x1000, true),
                (0x5000, 0x7_b000, false),
                (0x8_0000, 0x1000, true),
                (0x8_1000, 0x7_f000, false)
            ]
        );
        assert_eq!(layout.extents, [Extent { offset: 0, length: 0x3000 }]);
        // When there are too many, the rest is written and becomes gaps.
        let mut runs = Runs::default();
        let pages = 3 * CUTS_MAX as u64;
        (0..pages).step_by(2).for_each(|page| runs.push(page * PAGE, (page + 1) * PAGE, 0));
        let layout = Layout::new(&[region(0, pages * PAGE)], &runs, &|_| Keep::Runs);
        assert_eq!(layout.extents, [Extent { offset: 0, length: layout.bytes }]);
        assert_eq!(layout.left_out_bytes, CUTS_MAX as u64 * PAGE);
    }

    #[test]
    fn cuts_are_spent_on_the_longest_stretches() {
        const TIB: u64 = 1 << 40;
        let pages = 2 * CUTS_MAX as u64 + 200;
        let small = pages * PAGE;
        // More holes of a page than there are cuts, and behind them a large file of which one page is there.
        let regions = [region(0, small), region(TIB, 2 * TIB)];
        let mut runs = Runs::default();
        (0..pages).step_by(2).for_each(|page| runs.push(page * PAGE, (page + 1) * PAGE, 0));
        runs.push(TIB, TIB + PAGE, 1);
        let layout = Layout::new(&regions, &runs, &|_| Keep::Runs);
        assert_eq!(layout.left_out_bytes, (CUTS_MAX as u64 - 1) * PAGE + TIB - PAGE);
        assert_eq!(layout.bytes, small + TIB - layout.left_out_bytes);
        assert_eq!(layout.segments.iter().filter(|s| !s.stored).count(), CUTS_MAX);
        assert_eq!(layout.segments.iter().map(|s| s.bytes).sum::<u64>(), small + TIB, "every address is in a segment");
        // The same of memory without a file behind it: what is cut out of that is no hole.
        let keep = |r: &Region| if r.start == 0 { Keep::Runs } else { Keep::All };
        let layout = Layout::new(&regions, &runs, &keep);
        assert_eq!((layout.cut_bytes, layout.left_out_bytes), (TIB - PAGE, (CUTS_MAX as u64 - 1) * PAGE));
    }

    #[test]
    fn many_small_holes_are_closed_and_the_bound_holds() {
        let mut runs = Runs::default();
        let pages = 3 * RUNS_MAX as u64;
        for page in 0..pages {
            runs.push(page * 2 * PAGE, (page * 2 + 1) * PAGE, 0);
        }
        assert!(runs.list.len() <= RUNS_MAX + 1);
        let bytes: u64 = runs.list.iter().map(|r| r.end - r.start).sum();
        assert_eq!(runs.closed.get(&0).copied(), Some(bytes - pages * PAGE), "what was closed is counted");
        let layout = Layout::new(&[region(0, pages * 2 * PAGE)], &runs, &|_| Keep::All);
        assert_eq!(layout.bytes, pages * 2 * PAGE);
    }

    proptest! {
        #[test]
        fn addresses_and_offsets_fit(gaps in proptest::collection::vec((1_u64..100, 1_u64..1_000_000, 0_u64..3, any::<bool>()), 1..30)) {
            let (mut at, mut regions, mut runs, mut out) = (PAGE, Vec::new(), Runs::default(), Vec::new());
            for (n, (gap, pages, touched, left)) in gaps.into_iter().enumerate() {
                let start = at + gap * PAGE;
                at = start + pages * PAGE;
                regions.push(region(start, at));
                out.push(left);
                for t in 0..touched {
                    let from = start + (pages * t / 3) * PAGE;
                    runs.push(from, from + PAGE, n);
                }
            }
            let index = |r: &Region| regions.iter().position(|x| x == r).expect("known");
            let layout = Layout::new(&regions, &runs, &|r| if out[index(r)] { Keep::Nothing } else { Keep::All }).shift(PAGE);
            // Every address of every mapping is in exactly one segment.
            for (n, r) in regions.iter().enumerate() {
                let mine: Vec<&Segment> = layout.segments.iter().filter(|s| s.region as usize == n).collect();
                prop_assert_eq!(mine.iter().map(|s| s.bytes).sum::<u64>(), r.bytes());
                prop_assert!(mine.windows(2).all(|w| w[0].start + w[0].bytes == w[1].start));
                prop_assert!(!out[n] || mine.iter().all(|s| !s.stored));
            }
            // Offsets are those of a file without overlaps, and every run is data at its place.
            let mut end = PAGE;
            for s in &layout.segments {
                prop_assert_eq!(s.offset, end);
                end += s.stored_bytes();
            }
            prop_assert_eq!(end, layout.bytes);
            for run in runs.list.iter().filter(|r| !out[r.region as usize]) {
                let s = layout.segments.iter().find(|s| s.stored && s.start <= run.start && run.end <= s.start + s.bytes).expect("stored");
                let offset = s.offset + (run.start - s.start);
                prop_assert!(layout.extents.iter().any(|e| e.offset <= offset && offset + (run.end - run.start) <= e.end()));
                prop_assert_eq!(layout.at(offset), Some(s));
                let pieces = layout.pieces(offset, 3 * PAGE as usize);
                prop_assert_eq!(pieces[0].0, run.start);
                let total = pieces.iter().map(|(_, length)| *length as u64).sum::<u64>();
                prop_assert_eq!(total, (3 * PAGE).min(layout.bytes - offset));
            }
        }
    }
}
