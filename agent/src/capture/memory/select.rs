//! Which pages the first pass takes: those that decide an analysis and change fastest, before the long pass begins.

use serde::Serialize;

use super::flags::{Class, Flags, Pause, each_frame};
use super::iomem::Iomem;
use super::ranges::{PAGE, Range, common, normal};
use crate::capture::Stop;

/// Runs of pages that are told apart: 1 MiB. Fragmented ones are joined over small holes, so a few more pages are taken.
const RUNS_MAX: usize = 64 << 10;

/// Pages of a class, and how many of them were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Chosen {
    /// The class.
    pub class: Class,
    /// Pages of it when they were counted.
    pub pages: u64,
    /// Of those, the first pass takes.
    pub chosen: u64,
}

/// Pages of each class, in the order of [`Class::ALL`].
pub type Counts = [u64; Class::ALL.len()];

/// Counts the pages of these ranges by class.
///
/// # Errors
/// What `pause` says.
pub fn count(flags: &dyn Flags, ranges: &[Range], iomem: &Iomem, pause: Pause<'_>) -> Result<Counts, Stop> {
    let mut counts = [0_u64; Class::ALL.len()];
    each_frame(flags, ranges, pause, |frame, flags| {
        let class = flags.map_or(Class::Unknown, |f| Class::of(f, frame, iomem));
        if let Some(count) = counts.get_mut(class.index()) {
            *count = count.saturating_add(1);
        }
    })?;
    Ok(counts)
}

/// How many pages of each class are taken when at most `pages_max` may be: class by class in their order; of one that does not
/// fit, the ones that lie first.
pub fn share(counts: &Counts, pages_max: u64) -> Vec<Chosen> {
    let mut left = pages_max;
    let classes = Class::ALL.iter().zip(counts).enumerate().filter(|(_, (_, pages))| **pages > 0);
    classes
        .map(|(n, (class, pages))| {
            let chosen = if n < Class::FIRST { (*pages).min(left) } else { 0 };
            left = left.saturating_sub(chosen);
            Chosen { class: *class, pages: *pages, chosen }
        })
        .collect()
}

/// The ranges of the chosen pages, whole ones only, at most `pages_max`: fragmented pages are joined over holes, which are then
/// taken as well, and where that makes too many, the last ones are left to the second pass.
///
/// # Errors
/// What `pause` says.
pub fn ranges(
    flags: &dyn Flags,
    exposed: &[Range],
    iomem: &Iomem,
    (chosen, pages_max): (&[Chosen], u64),
    pause: Pause<'_>,
) -> Result<Vec<Range>, Stop> {
    let whole: Vec<Range> = exposed
        .iter()
        .map(|r| Range { start: r.start.next_multiple_of(PAGE), end: r.end / PAGE * PAGE })
        .filter(|r| !r.is_empty())
        .collect();
    let mut left = [0_u64; Class::ALL.len()];
    for choice in chosen {
        if let Some(left) = left.get_mut(choice.class.index()) {
            *left = choice.chosen;
        }
    }
    let mut runs = Runs::default();
    each_frame(flags, &whole, pause, |frame, flags| {
        let Some(flags) = flags else { return };
        if let Some(left @ 1..) = left.get_mut(Class::of(flags, frame, iomem).index()) {
            *left = left.saturating_sub(1);
            runs.push(frame);
        }
    })?;
    // What was joined over a hole stays within what can be read, and all of it within the share.
    Ok(within(common(&normal(runs.list), &whole), pages_max.saturating_mul(PAGE)))
}

/// The ranges that lie first, as far as they fit into so many bytes.
fn within(mut ranges: Vec<Range>, bytes_max: u64) -> Vec<Range> {
    let mut left = bytes_max;
    for range in &mut ranges {
        range.end = range.end.min(range.start.saturating_add(left));
        left = left.saturating_sub(range.len());
    }
    ranges.retain(|r| !r.is_empty());
    ranges
}

#[derive(Default)]
struct Runs {
    list: Vec<Range>,
    /// Holes of so many pages are taken as well.
    hole: u64,
}

impl Runs {
    fn push(&mut self, frame: u64) {
        let page = Range { start: frame.saturating_mul(PAGE), end: frame.saturating_add(1).saturating_mul(PAGE) };
        self.join(page);
        if self.list.len() > RUNS_MAX {
            self.hole = self.hole.saturating_mul(2).max(1);
            for run in std::mem::take(&mut self.list) {
                self.join(run);
            }
        }
    }

    fn join(&mut self, next: Range) {
        let reach = self.hole.saturating_mul(PAGE);
        match self.list.last_mut() {
            Some(last) if next.start <= last.end.saturating_add(reach) => last.end = last.end.max(next.end),
            _ => self.list.push(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::super::ranges::total;
    use super::*;

    fn counted(flags: &dyn Flags, exposed: &[Range], iomem: &Iomem) -> Counts {
        count(flags, exposed, iomem, &mut || Ok(())).expect("no stop")
    }

    fn chosen(every: u64, exposed: &[Range], chosen: &[Chosen], pages_max: u64) -> Vec<Range> {
        ranges(&Every(every), exposed, &Iomem::default(), (chosen, pages_max), &mut || Ok(())).expect("no stop")
    }

    /// A page is slab when its number is a multiple of so many, else free.
    struct Every(u64);

    impl Flags for Every {
        fn read(&self, first: u64, flags: &mut [u8]) -> Result<usize, Errno> {
            for (n, slot) in flags.chunks_exact_mut(8).enumerate() {
                let bits: u64 = if (first + n as u64).is_multiple_of(self.0) { 1 << 7 } else { 1 << 10 };
                slot.copy_from_slice(&bits.to_le_bytes());
            }
            Ok(flags.len() / 8)
        }
    }

    #[test]
    fn the_first_classes_come_first_and_the_share_is_kept() {
        let mut counts = [0; Class::ALL.len()];
        for (class, pages) in [(Class::PageTable, 10), (Class::Slab, 50), (Class::KernelOther, 40), (Class::Anonymous, 900)] {
            counts[class.index()] = pages;
        }
        let chosen: Vec<(Class, u64)> = share(&counts, 70).iter().map(|c| (c.class, c.chosen)).collect();
        assert_eq!(chosen, [(Class::PageTable, 10), (Class::Slab, 50), (Class::KernelOther, 10), (Class::Anonymous, 0)]);
        assert_eq!(share(&counts, 5).iter().map(|c| c.chosen).sum::<u64>(), 5);
    }

    #[test]
    fn chosen_pages_become_ranges_within_what_can_be_read() {
        let iomem = Iomem::default();
        let exposed = [Range { start: 0, end: 10 * PAGE }, Range { start: 12 * PAGE, end: 20 * PAGE + 5 }];
        let counts = counted(&Every(3), &exposed, &iomem);
        assert_eq!((counts[Class::Slab.index()], counts[Class::Free.index()]), (7, 12), "the part of a page counts as well");
        let found = chosen(3, &exposed, &share(&counts, 100), 100);
        let pages: Vec<u64> = found.iter().flat_map(|r| (r.start..r.end).step_by(PAGE as usize)).map(|at| at / PAGE).collect();
        assert_eq!(pages, [0, 3, 6, 9, 12, 15, 18]);
        let few = chosen(3, &exposed, &share(&counts, 2), 2);
        assert_eq!(total(&few), 2 * PAGE);
    }

    #[test]
    fn very_many_runs_are_joined_and_keep_their_share() {
        let (pages, iomem) = (RUNS_MAX as u64 * 5, Iomem::default());
        let exposed = [Range { start: 0, end: pages * PAGE }];
        let all = share(&counted(&Every(2), &exposed, &iomem), u64::MAX);
        let joined = chosen(2, &exposed, &all, u64::MAX >> 12);
        assert!(joined.len() <= RUNS_MAX);
        assert_eq!((0..pages).step_by(2).find(|n| super::super::ranges::holding(&joined, n * PAGE).is_none()), None, "none is lost");
        let max = pages / 2;
        let kept = chosen(2, &exposed, &share(&counted(&Every(2), &exposed, &iomem), max), max);
        assert_eq!(total(&kept), max * PAGE, "holes that were joined count as well");
    }
}
