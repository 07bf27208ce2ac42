//! Which holes between runs of pages are taken as well, so that there are few enough runs: the shortest. What that costs is known
//! before anything is taken, so pages for which there is no room are left out, and none that was taken before is lost.

use super::ranges::{PAGE, Range, holding};

/// Lengths of holes, in pages, up to which each is counted by itself; of longer ones those of one power of two together.
const EXACT: u64 = 64;
const BUCKETS: usize = EXACT as usize + 64;

/// What may be taken at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Pages, with those of holes.
    pub pages: u64,
    /// Runs.
    pub runs: usize,
}

impl Bounds {
    /// Whether ranges keep them.
    #[must_use]
    pub fn hold(self, ranges: &[Range]) -> bool {
        ranges.len() <= self.runs && super::ranges::total(ranges) / PAGE <= self.pages
    }
}

/// Holes that are taken: all that are shorter than those of a bucket, and so many of that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fill {
    bucket: usize,
    more: u64,
}

impl Fill {
    /// Whether the next hole is taken, ascending.
    pub fn takes(&mut self, pages: u64) -> bool {
        let here = bucket(pages);
        if here == self.bucket && self.more > 0 {
            self.more = self.more.saturating_sub(1);
            return true;
        }
        here < self.bucket
    }
}

fn bucket(pages: u64) -> usize {
    let above = pages.saturating_sub(1).checked_div(EXACT).and_then(u64::checked_ilog2);
    above.map_or(pages, |n| EXACT.saturating_add(1).saturating_add(u64::from(n))) as usize
}

/// Pages of the longest hole in a bucket.
fn longest(bucket: usize) -> u64 {
    match (bucket as u64).checked_sub(EXACT) {
        None | Some(0) => bucket as u64,
        Some(n) => EXACT.checked_shl(u32::try_from(n).unwrap_or(u32::MAX)).unwrap_or(u64::MAX),
    }
}

/// Holes by length.
struct Holes([(u64, u64); BUCKETS]);

impl Holes {
    fn change(&mut self, pages: u64, change: fn(u64, u64) -> u64) {
        if let Some((count, sum)) = self.0.get_mut(bucket(pages)).filter(|_| pages > 0) {
            (*count, *sum) = (change(*count, 1), change(*sum, pages));
        }
    }

    /// What to take for so many runs less, and how many pages that are at most.
    fn fill(&self, mut over: u64) -> Option<(Fill, u64)> {
        let mut cost = 0_u64;
        for (bucket, (count, sum)) in self.0.iter().enumerate() {
            let more = over.min(*count);
            over = over.saturating_sub(more);
            cost = cost.saturating_add(more.saturating_mul(longest(bucket)).min(*sum));
            if over == 0 {
                return Some((Fill { bucket, more }, cost));
            }
        }
        None
    }
}

/// What comes of taking pages of a class, ascending, besides what is taken already.
pub struct Outlook<'a> {
    taken: &'a [Range],
    /// Holes lie within one of these.
    rooms: &'a [Range],
    bounds: Bounds,
    holes: Holes,
    runs: u64,
    pages: u64,
    /// Where the last page that was added ends.
    end: u64,
    seen: u64,
    best: (u64, Fill),
}

impl<'a> Outlook<'a> {
    /// Nothing is added to `taken`, which keeps the bounds. Both are normal, of whole pages.
    pub fn new(taken: &'a [Range], rooms: &'a [Range], bounds: Bounds) -> Self {
        let mut holes = Holes([(0, 0); BUCKETS]);
        for (a, b) in taken.iter().zip(taken.iter().skip(1)) {
            if holding(rooms, a.start).is_some_and(|room| b.start < room.end) {
                holes.change(b.start.saturating_sub(a.end) / PAGE, u64::saturating_add);
            }
        }
        let (runs, pages) = (taken.len() as u64, super::ranges::total(taken) / PAGE);
        Self { taken, rooms, bounds, holes, runs, pages, end: 0, seen: 0, best: (0, Fill::default()) }
    }

    /// The next page of the class.
    pub fn page(&mut self, at: u64) {
        self.seen = self.seen.saturating_add(1);
        let after = self.taken.partition_point(|r| r.end <= at);
        let next = self.taken.get(after);
        if next.is_none_or(|r| at < r.start) {
            let before = after.checked_sub(1).and_then(|n| self.taken.get(n));
            self.add(at, before.map_or(0, |r| r.end), next.map_or(u64::MAX, |r| r.start));
        }
        if self.pages > self.bounds.pages {
            return;
        }
        let over = self.runs.saturating_sub(self.bounds.runs as u64);
        if let Some((fill, _)) = self.holes.fill(over).filter(|(_, cost)| self.pages.saturating_add(*cost) <= self.bounds.pages) {
            self.best = (self.seen, fill);
        }
    }

    /// A page that is not taken yet, the end of what is taken before it, and the begin of what is taken behind it.
    fn add(&mut self, at: u64, before: u64, next: u64) {
        let Some(room) = holding(self.rooms, at) else { return };
        let end = at.saturating_add(PAGE);
        let before = Some(before.max(self.end)).filter(|e| *e > room.start);
        let next = Some(next).filter(|s| *s < room.end);
        self.runs = self.runs.saturating_add(1);
        if let (Some(before), Some(next)) = (before, next) {
            self.holes.change(next.saturating_sub(before) / PAGE, u64::saturating_sub);
        }
        for hole in [before.map(|b| at.saturating_sub(b)), next.map(|n| n.saturating_sub(end))].into_iter().flatten() {
            self.holes.change(hole / PAGE, u64::saturating_add);
            self.runs = self.runs.saturating_sub(u64::from(hole == 0));
        }
        self.pages = self.pages.saturating_add(1);
        self.end = end;
    }

    /// How many of the pages, from the first on, there is room for, the holes to take for it, and whether those are all.
    #[must_use]
    pub const fn best(&self) -> (u64, Fill, bool) {
        (self.best.0, self.best.1, self.best.0 == self.seen)
    }
}

/// Ranges in the making: pages of a class and what was taken before, ascending, with the holes that are to be taken.
pub struct Builder<'a> {
    taken: &'a [Range],
    /// Of `taken`, what is not in the list yet.
    rest: &'a [Range],
    rooms: &'a [Range],
    bounds: Bounds,
    fill: Fill,
    list: Vec<Range>,
    whole: bool,
}

impl<'a> Builder<'a> {
    /// Begins with nothing.
    pub fn new(taken: &'a [Range], rooms: &'a [Range], bounds: Bounds, fill: Fill) -> Self {
        Self { taken, rest: taken, rooms, bounds, fill, list: Vec::with_capacity(bounds.runs), whole: true }
    }

    /// The next page.
    pub fn page(&mut self, at: u64) {
        self.taken_before(at);
        self.push(Range { start: at, end: at.saturating_add(PAGE) });
    }

    fn taken_before(&mut self, at: u64) {
        while let Some((first, rest)) = self.rest.split_first().filter(|(first, _)| first.start <= at) {
            self.push(*first);
            self.rest = rest;
        }
    }

    fn push(&mut self, next: Range) {
        let room = holding(self.rooms, next.start).map_or(u64::MAX, |r| r.start);
        let full = self.list.len() >= self.bounds.runs;
        match self.list.last_mut() {
            Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
            Some(last) if last.end > room && self.fill.takes(next.start.saturating_sub(last.end) / PAGE) => last.end = next.end,
            _ if full => self.whole = false,
            _ => self.list.push(next),
        }
    }

    /// The ranges, and whether that is all of them. Between the count and now pages may have come to be others: what then is
    /// too much is left out from the end, and what was taken before stays.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Range>, bool) {
        self.taken_before(u64::MAX);
        if self.whole && self.bounds.hold(&self.list) {
            return (self.list, true);
        }
        let with = |count: usize| {
            let added = self.list.get(..count).unwrap_or_default();
            let both = super::ranges::normal(self.taken.iter().chain(added).copied().collect());
            self.bounds.hold(&both).then_some(both)
        };
        let (mut low, mut high) = (0, self.list.len().saturating_add(1));
        while high.saturating_sub(low) > 1 {
            let middle = low.midpoint(high);
            if with(middle).is_some() { low = middle } else { high = middle }
        }
        (with(low).unwrap_or_else(|| self.taken.to_vec()), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hole_is_in_a_bucket_that_is_not_too_short_for_it() {
        for pages in (1..5000).chain([1 << 20, (1 << 20) + 1, u64::MAX >> 12]) {
            let n = bucket(pages);
            assert!(n < BUCKETS && pages <= longest(n) && (n == 1 || longest(n - 1) < pages), "{pages}: {n}");
        }
    }

    #[test]
    fn pages_that_became_others_displace_nothing() {
        let page = |n: u64| Range { start: n * PAGE, end: (n + 1) * PAGE };
        let (taken, rooms) = ([page(10), page(90)], [Range { start: 0, end: 100 * PAGE }]);
        for (bounds, expected) in [(Bounds { pages: 4, runs: 9 }, 4), (Bounds { pages: 9, runs: 3 }, 3), (Bounds { pages: 2, runs: 2 }, 2)]
        {
            let mut builder = Builder::new(&taken, &rooms, bounds, Fill::default());
            (0..50).step_by(2).for_each(|n| builder.page(n * PAGE));
            let (ranges, whole) = builder.finish();
            assert!(bounds.hold(&ranges) && !whole, "{ranges:?}");
            assert!(ranges.len() == expected && taken.iter().all(|t| ranges.contains(t)), "{ranges:?}");
        }
    }
}
