//! Sets of physical addresses as sorted, disjoint, half-open ranges. Half-open on purpose: readers of `/proc/iomem` that kept
//! its inclusive ends have lost the last byte of each range.

/// Bytes of one page. On kernels with larger ones nothing is said by page flags and page tables; gaps are told in these all the same.
pub const PAGE: u64 = 4096;

/// Addresses from `start` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    /// How many bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Nothing is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

/// The ranges sorted, without empty ones, with those joined that touch or overlap.
#[must_use]
pub fn normal(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.retain(|r| !r.is_empty());
    ranges.sort_unstable();
    // In place: there may be very many.
    ranges.dedup_by(|next, last| {
        let joins = next.start <= last.end;
        if joins {
            last.end = last.end.max(next.end);
        }
        joins
    });
    ranges
}

/// What is in both. Arguments are normal.
#[must_use]
pub fn common(a: &[Range], b: &[Range]) -> Vec<Range> {
    let mut found = Vec::new();
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        let both = Range { start: x.start.max(y.start), end: x.end.min(y.end) };
        if !both.is_empty() {
            found.push(both);
        }
        if x.end <= y.end {
            a.next()
        } else {
            b.next()
        };
    }
    found
}

/// What is in `a` and not in `b`. Arguments are normal.
#[must_use]
pub fn without(a: &[Range], b: &[Range]) -> Vec<Range> {
    let mut left = Vec::new();
    for range in a {
        let mut at = range.start;
        for cut in b.iter().skip_while(|c| c.end <= range.start).take_while(|c| c.start < range.end) {
            left.push(Range { start: at, end: cut.start.min(range.end) });
            at = at.max(cut.end);
        }
        left.push(Range { start: at, end: range.end });
    }
    left.retain(|r| !r.is_empty());
    left
}

/// Bytes in all of them.
#[must_use]
pub fn total(ranges: &[Range]) -> u64 {
    ranges.iter().fold(0, |sum, r| sum.saturating_add(r.len()))
}

/// The range that holds an address, if one does. The argument is normal.
#[must_use]
pub fn holding(ranges: &[Range], at: u64) -> Option<&Range> {
    let after = ranges.partition_point(|r| r.end <= at);
    ranges.get(after).filter(|r| r.start <= at)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[Range]) -> BTreeSet<u64> {
        ranges.iter().flat_map(|r| r.start..r.end).collect()
    }

    fn some_ranges() -> impl Strategy<Value = Vec<Range>> {
        proptest::collection::vec((0_u64..60, 0_u64..12), 0..8)
            .prop_map(|v| v.into_iter().map(|(start, length)| Range { start, end: start + length }).collect())
    }

    proptest! {
        #[test]
        fn they_are_what_sets_are(a in some_ranges(), b in some_ranges(), at in 0_u64..80) {
            let (sa, sb) = (set(&a), set(&b));
            let (a, b) = (normal(a), normal(b));
            prop_assert_eq!(set(&a), sa.clone());
            prop_assert!(a.windows(2).all(|w| w[0].end < w[1].start));
            prop_assert_eq!(set(&common(&a, &b)), sa.intersection(&sb).copied().collect::<BTreeSet<u64>>());
            let left = without(&a, &b);
            prop_assert_eq!(set(&left), sa.difference(&sb).copied().collect::<BTreeSet<u64>>());
            prop_assert_eq!(total(&a), sa.len() as u64);
            prop_assert_eq!(holding(&a, at).is_some(), sa.contains(&at));
            prop_assert_eq!(total(&common(&a, &b)) + total(&left), total(&a));
        }
    }
}
