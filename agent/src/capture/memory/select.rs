//! Which pages the first pass takes: those that decide an analysis and change fastest, before the long pass begins.

use serde::Serialize;

use super::flags::{Class, Flags, Pause, each_frame};
use super::holes::{Bounds, Builder, Fill, Outlook};
use super::iomem::Iomem;
use super::ranges::{PAGE, Range, normal};
use crate::capture::Stop;

/// Runs of pages that are told apart: 24 bytes each in a layout. Of more the shortest holes between them are taken as well.
pub const RUNS_MAX: usize = 32 << 10;

/// Pages of a class, and how many of them the first pass takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Chosen {
    /// The class.
    pub class: Class,
    /// Pages of it when they were counted.
    pub pages: u64,
    /// Of those, so many fit into the share.
    pub planned: u64,
    /// Pages of it in the ranges that are taken, those in holes between others as well.
    pub taken: u64,
}

/// Pages of each class, in the order of [`Class::ALL`].
pub type Counts = [u64; Class::ALL.len()];

/// What there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    pages: Counts,
    /// Runs of pages of this class or one before it.
    runs: [u64; Class::FIRST],
}

/// What the first pass takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// By class; those without a page are left out.
    pub classes: Vec<Chosen>,
    /// Whole pages, normal.
    pub ranges: Vec<Range>,
}

/// Chooses at most `pages_max` pages of these ranges: class by class, the next one only when there was room for all of the one
/// before. Where runs are too many, a class is taken with the shortest holes, which count as its own.
///
/// # Errors
/// What `pause` says.
pub fn choose(flags: &dyn Flags, exposed: &[Range], iomem: &Iomem, pages_max: u64, pause: Pause<'_>) -> Result<Choice, Stop> {
    let counted = count(flags, exposed, iomem, pause)?;
    let planned = share(&counted.pages, pages_max);
    let whole = exposed.iter().map(|r| Range { start: r.start.next_multiple_of(PAGE), end: r.end / PAGE * PAGE }).collect();
    let bounds = Bounds { pages: pages_max, runs: RUNS_MAX };
    let ranges = Look { flags, iomem, rooms: normal(whole), planned, bounds }.ranges(&counted, pause)?;
    // What is said to be taken is what lies in them.
    let taken = count(flags, &ranges, iomem, pause)?.pages;
    let classes = Class::ALL.iter().zip(counted.pages).zip(planned).zip(taken);
    let classes = classes.map(|(((class, pages), planned), taken)| Chosen { class: *class, pages, planned, taken });
    Ok(Choice { classes: classes.filter(|c| c.pages > 0 || c.taken > 0).collect(), ranges })
}

/// Counts the pages of these ranges by class.
fn count(flags: &dyn Flags, ranges: &[Range], iomem: &Iomem, pause: Pause<'_>) -> Result<Counted, Stop> {
    let mut counted = Counted::default();
    let mut ends = [None; Class::FIRST];
    each_frame(flags, ranges, pause, |frame, flags| {
        let index = flags.map_or(Class::Unknown, |f| Class::of(f, frame, iomem)).index();
        if let Some(count) = counted.pages.get_mut(index) {
            *count = count.saturating_add(1);
        }
        for (runs, end) in counted.runs.iter_mut().zip(&mut ends).skip(index) {
            *runs = runs.saturating_add(u64::from(*end != Some(frame)));
            *end = Some(frame.saturating_add(1));
        }
    })?;
    Ok(counted)
}

/// How many pages of each class are taken when at most `pages_max` may be: class by class in their order; of one that does not
/// fit, the ones that lie first.
fn share(counts: &Counts, pages_max: u64) -> Counts {
    let (mut left, mut planned) = (pages_max, Counts::default());
    for (planned, pages) in planned.iter_mut().zip(counts).take(Class::FIRST) {
        *planned = (*pages).min(left);
        left = left.saturating_sub(*planned);
    }
    planned
}

struct Look<'a> {
    flags: &'a dyn Flags,
    iomem: &'a Iomem,
    rooms: Vec<Range>,
    planned: Counts,
    bounds: Bounds,
}

impl Look<'_> {
    fn ranges(&self, counted: &Counted, pause: Pause<'_>) -> Result<Vec<Range>, Stop> {
        // Flags of a large host take long to read: classes for which there surely is room are taken in one go.
        let roomy = |n: &usize| {
            let runs = counted.runs.get(*n).is_some_and(|runs| *runs <= self.bounds.runs as u64);
            runs && counted.pages.get(*n) == self.planned.get(*n)
        };
        let mut first = (0..Class::FIRST).take_while(roomy).count();
        let mut builder = Builder::new(&[], &self.rooms, self.bounds, Fill::default());
        self.each(0..first, u64::MAX, pause, |at| builder.page(at))?;
        let (mut taken, whole) = builder.finish();
        if !whole {
            (first, taken) = (0, Vec::new());
        }
        for class in first..Class::FIRST {
            let (more, whole) = self.with(class, &taken, pause)?;
            taken = more;
            if !whole {
                break;
            }
        }
        taken.shrink_to_fit();
        Ok(taken)
    }

    /// What is taken with as many pages of a class as there is room for, and whether those are all.
    fn with(&self, class: usize, taken: &[Range], pause: Pause<'_>) -> Result<(Vec<Range>, bool), Stop> {
        let planned = self.planned.get(class).copied().unwrap_or(0);
        if planned == 0 {
            return Ok((taken.to_vec(), true));
        }
        let mut outlook = Outlook::new(taken, &self.rooms, self.bounds);
        self.each(class..class.saturating_add(1), planned, pause, |at| outlook.page(at))?;
        let (pages, fill, all) = outlook.best();
        if pages == 0 {
            return Ok((taken.to_vec(), all));
        }
        let mut builder = Builder::new(taken, &self.rooms, self.bounds, fill);
        self.each(class..class.saturating_add(1), pages, pause, |at| builder.page(at))?;
        let (ranges, whole) = builder.finish();
        Ok((ranges, whole && all))
    }

    /// Calls `each` with the addresses of the first whole pages of these classes, ascending.
    fn each(&self, classes: std::ops::Range<usize>, mut count: u64, pause: Pause<'_>, mut each: impl FnMut(u64)) -> Result<(), Stop> {
        if classes.clone().all(|n| self.planned.get(n).is_none_or(|planned| *planned == 0)) {
            return Ok(());
        }
        each_frame(self.flags, &self.rooms, pause, |frame, flags| {
            let Some(flags) = flags.filter(|_| count > 0) else { return };
            if classes.contains(&Class::of(flags, frame, self.iomem).index()) {
                count = count.saturating_sub(1);
                each(frame.saturating_mul(PAGE));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::io::Errno;

    use super::super::ranges::{holding, total};
    use super::*;

    const SLAB: u64 = 1 << 7;
    const FREE: u64 = 1 << 10;
    const TABLE: u64 = 1 << 26;

    /// Flags by the number of a page.
    struct By<F>(F);

    impl<F: Fn(u64) -> u64 + Send> Flags for By<F> {
        fn read(&self, first: u64, flags: &mut [u8]) -> Result<usize, Errno> {
            for (n, slot) in flags.chunks_exact_mut(8).enumerate() {
                slot.copy_from_slice(&(self.0)(first + n as u64).to_le_bytes());
            }
            Ok(flags.len() / 8)
        }
    }

    fn chosen(flags: &dyn Flags, exposed: &[Range], pages_max: u64) -> Choice {
        choose(flags, exposed, &Iomem::default(), pages_max, &mut || Ok(())).expect("no stop")
    }

    fn class(choice: &Choice, class: Class) -> (u64, u64, u64) {
        choice.classes.iter().find(|c| c.class == class).map_or((0, 0, 0), |c| (c.pages, c.planned, c.taken))
    }

    #[test]
    fn the_first_classes_come_first_and_the_share_is_kept() {
        let mut counts = Counts::default();
        for (class, pages) in [(Class::PageTable, 10), (Class::Slab, 50), (Class::KernelOther, 40), (Class::Anonymous, 900)] {
            counts[class.index()] = pages;
        }
        let planned = share(&counts, 70);
        let planned = [Class::PageTable, Class::Slab, Class::KernelOther, Class::Anonymous].map(|c| planned[c.index()]);
        assert_eq!(planned, [10, 50, 10, 0]);
        assert_eq!(share(&counts, 5).iter().sum::<u64>(), 5);
    }

    #[test]
    fn chosen_pages_become_ranges_within_what_can_be_read() {
        let exposed = [Range { start: 0, end: 10 * PAGE }, Range { start: 12 * PAGE, end: 20 * PAGE + 5 }];
        let flags = By(|n: u64| if n.is_multiple_of(3) { SLAB } else { FREE });
        let all = chosen(&flags, &exposed, 100);
        assert_eq!((class(&all, Class::Slab), class(&all, Class::Free)), ((7, 7, 7), (12, 0, 0)), "the part of a page counts as well");
        let pages: Vec<u64> = all.ranges.iter().flat_map(|r| (r.start..r.end).step_by(PAGE as usize)).map(|at| at / PAGE).collect();
        assert_eq!(pages, [0, 3, 6, 9, 12, 15, 18]);
        let few = chosen(&flags, &exposed, 2);
        assert_eq!((total(&few.ranges), class(&few, Class::Slab)), (2 * PAGE, (7, 2, 2)));
    }

    #[test]
    fn very_many_runs_do_not_displace_what_decides() {
        // Slab in 3 of 40 pages, more runs than are told apart; all page tables behind its first half.
        let pages = (RUNS_MAX as u64 + 3000) * 40;
        let flags = By(move |n: u64| match n {
            _ if n > pages / 2 && n % 40 == 20 => TABLE,
            _ if n % 40 < 3 => SLAB,
            _ => FREE,
        });
        let found = chosen(&flags, &[Range { start: 0, end: pages * PAGE }], pages / 10);
        let tables = class(&found, Class::PageTable);
        assert!(tables.0 > 17_000 && tables == (tables.0, tables.0, tables.0), "{tables:?}");
        assert!(found.ranges.len() <= RUNS_MAX && total(&found.ranges) / PAGE <= pages / 10);
        let slab = class(&found, Class::Slab);
        assert!(slab.2 < slab.1 && slab.2 > 30_000, "{slab:?}: what fits is taken, and what does not is not said to be");
        assert_eq!(found.classes.iter().map(|c| c.taken).sum::<u64>(), total(&found.ranges) / PAGE);
    }

    #[test]
    fn very_many_runs_are_joined_where_there_is_room() {
        let pages = RUNS_MAX as u64 * 5;
        let flags = By(|n: u64| if n.is_multiple_of(2) { SLAB } else { FREE });
        let joined = chosen(&flags, &[Range { start: 0, end: pages * PAGE }], u64::MAX >> 12);
        assert!(joined.ranges.len() <= RUNS_MAX);
        assert_eq!(class(&joined, Class::Slab), (pages / 2, pages / 2, pages / 2), "none is lost");
        assert_eq!(class(&joined, Class::Free).1, 0, "a hole is not planned");
        assert_eq!(class(&joined, Class::Free).2 + pages / 2, total(&joined.ranges) / PAGE);
    }

    /// Flags of some pages, page tables, slab, other kernel pages, and two that are not taken.
    fn some_flags() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::vec(prop_oneof![Just(TABLE), Just(SLAB), Just(0), Just(FREE), Just(FREE), Just(1 << 12)], 1..120)
    }

    proptest! {
        #[test]
        fn bounds_are_kept_and_classes_come_in_their_order(
            flags in some_flags(),
            rooms in proptest::collection::vec((0_u64..120, 1_u64..60), 1..4),
            pages in 0_u64..120,
            runs in 1_usize..20,
        ) {
            let iomem = Iomem::default();
            let rooms = normal(rooms.into_iter().map(|(s, n)| Range { start: s * PAGE, end: (s + n) * PAGE }).collect());
            let by = By(|n: u64| flags.get(n as usize).copied().unwrap_or(FREE));
            let bounds = Bounds { pages, runs };
            let counted = count(&by, &rooms, &iomem, &mut || Ok(())).expect("no stop");
            let planned = share(&counted.pages, pages);
            let found = Look { flags: &by, iomem: &iomem, rooms: rooms.clone(), planned, bounds }.ranges(&counted, &mut || Ok(()));
            let found = found.expect("no stop");
            prop_assert!(bounds.hold(&found) && normal(found.clone()) == found, "{:?}", found);
            prop_assert_eq!(total(&super::super::ranges::common(&found, &rooms)), total(&found), "only what can be read");
            let taken = count(&by, &found, &iomem, &mut || Ok(())).expect("no stop").pages;
            let short = (0..Class::FIRST).find(|n| taken[*n] < planned[*n]).unwrap_or(Class::FIRST);
            // Each range begins and ends with a page for which it is taken: one of the class that did not fit, or of one before.
            for at in found.iter().flat_map(|r| [r.start, r.end - PAGE]) {
                let class = Class::of(by.0(at / PAGE), at / PAGE, &iomem).index();
                prop_assert!(class <= short && class < Class::FIRST, "{} of {}: {:?}", class, short, found);
            }
            // Where runs are no matter, the plan is what is taken.
            if runs as u64 >= pages {
                prop_assert_eq!(&taken[..Class::FIRST], &planned[..Class::FIRST]);
            }
        }

        #[test]
        fn what_is_said_to_be_taken_is_what_is_in_the_ranges(flags in some_flags(), pages in 0_u64..120) {
            let by = By(|n: u64| flags.get(n as usize).copied().unwrap_or(FREE));
            let exposed = [Range { start: 0, end: flags.len() as u64 * PAGE }];
            let found = chosen(&by, &exposed, pages);
            for class in &found.classes {
                let here = flags.iter().enumerate().filter(|(n, f)| {
                    let at = *n as u64 * PAGE;
                    Class::of(**f, *n as u64, &Iomem::default()) == class.class && holding(&found.ranges, at).is_some()
                });
                prop_assert_eq!(here.count() as u64, class.taken);
                prop_assert_eq!(class.taken, class.planned, "few runs: nothing is joined");
            }
        }
    }
}
