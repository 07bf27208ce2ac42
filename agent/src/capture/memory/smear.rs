//! What changed between the two passes: an image of a running host is not one moment, and an examiner must know how far from
//! one it is. The first pass remembers a checksum of its pages, the second compares; nothing is read for it.

use std::num::NonZeroU32;
use std::sync::Arc;

use serde::Serialize;

use super::flags::Class;
use super::lime::Layout;
use super::ranges::PAGE;

/// Most pages that are remembered: 1 MiB of checksums. Of more, every n-th is.
const MARKS_MAX: u64 = 256 << 10;

/// The comparison under way.
pub struct Smear {
    /// The first pass's image.
    first: Arc<Layout>,
    /// Every n-th page is compared.
    stride: u64,
    /// Of remembered pages; a page that was not read has none. Four bytes each.
    marks: Vec<Option<Mark>>,
    second: bool,
    /// The page of which a part was seen.
    part: Option<Part>,
    counts: [Counts; Class::ALL.len()],
}

/// A CRC-32; the one that is zero stands as one.
type Mark = NonZeroU32;

struct Part {
    page: u64,
    seen: u64,
    sum: crc32fast::Hasher,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    compared: u64,
    changed: u64,
}

/// One class of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassReport {
    /// The class that the page had at the second pass.
    pub class: Class,
    /// Pages that were read by both passes and compared.
    pub compared: u64,
    /// Of those, with other content.
    pub changed: u64,
    /// Changed per compared.
    pub ratio: f64,
}

/// The report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Pages of the first pass.
    pub first_pass_pages: u64,
    /// Every n-th of them was compared.
    pub every: u64,
    /// Pages compared.
    pub compared: u64,
    /// Pages that changed.
    pub changed: u64,
    /// By class; those without a page are left out.
    pub classes: Vec<ClassReport>,
    /// From before the first page was chosen for the first pass until after the last byte of the second, in milliseconds: no page was
    /// read by the two passes at a greater distance.
    pub window_ms: u64,
}

impl Smear {
    /// A comparison of what the first pass reads with what the second does.
    #[must_use]
    pub fn new(first: Arc<Layout>) -> Self {
        let pages = super::ranges::total(first.ranges()) / PAGE;
        let stride = pages.div_ceil(MARKS_MAX).max(1);
        let marks = vec![None; usize::try_from(pages.div_ceil(stride)).unwrap_or(0)];
        Self { first, stride, marks, second: false, part: None, counts: [Counts::default(); Class::ALL.len()] }
    }

    /// From now on the second pass is seen.
    pub fn begin_second(&mut self) {
        self.second = true;
        self.part = None;
    }

    /// Bytes as they were read at an address, in order of addresses.
    pub fn saw(&mut self, at: u64, bytes: &[u8], class: impl Fn(u64) -> Class) {
        let (mut at, end) = (at, at.saturating_add(bytes.len() as u64));
        let begin = at;
        while at < end {
            // Most of the second pass's pages were not in the first.
            let Some(next) = self.first.next(at) else { return };
            at = next;
            if at >= end {
                return;
            }
            let page_end = (at / PAGE).saturating_add(1).saturating_mul(PAGE).min(end);
            let piece = bytes.get(at.saturating_sub(begin) as usize..page_end.saturating_sub(begin) as usize).unwrap_or_default();
            self.piece(at, piece, &class);
            at = page_end;
        }
    }

    /// Bytes of one page.
    fn piece(&mut self, at: u64, piece: &[u8], class: &impl Fn(u64) -> Class) {
        let page = at / PAGE;
        let number = self.first.page_number(page.saturating_mul(PAGE));
        let Some(slot) = number.filter(|n| n % self.stride == 0).map(|n| (n / self.stride) as usize) else { return };
        let within = at % PAGE;
        let mut part = match self.part.take() {
            Some(part) if part.page == page && part.seen == within => part,
            _ if within == 0 => Part { page, seen: 0, sum: crc32fast::Hasher::new() },
            // Its beginning was not read.
            _ => return,
        };
        part.sum.update(piece);
        part.seen = part.seen.saturating_add(piece.len() as u64);
        if part.seen < PAGE {
            self.part = Some(part);
            return;
        }
        let sum = Mark::new(part.sum.finalize()).unwrap_or(Mark::MIN);
        let Some(mark) = self.marks.get_mut(slot) else { return };
        if !self.second {
            *mark = Some(sum);
        } else if let Some(before) = mark.take() {
            let Some(counts) = self.counts.get_mut(class(page).index()) else { return };
            counts.compared = counts.compared.saturating_add(1);
            counts.changed = counts.changed.saturating_add(u64::from(before != sum));
        }
    }

    /// The report, `window_ms` after the first pass began.
    #[must_use]
    pub fn report(&self, window_ms: u64) -> Report {
        let classes = Class::ALL.iter().zip(&self.counts).filter(|(_, c)| c.compared > 0);
        let classes: Vec<ClassReport> = classes
            .map(|(class, c)| ClassReport {
                class: *class,
                compared: c.compared,
                changed: c.changed,
                ratio: c.changed as f64 / c.compared as f64,
            })
            .collect();
        let sum = |f: fn(&ClassReport) -> u64| classes.iter().map(f).fold(0, u64::saturating_add);
        Report {
            first_pass_pages: super::ranges::total(self.first.ranges()) / PAGE,
            every: self.stride,
            compared: sum(|c| c.compared),
            changed: sum(|c| c.changed),
            classes,
            window_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ranges::Range;
    use super::*;

    fn page(fill: u8) -> Vec<u8> {
        vec![fill; PAGE as usize]
    }

    #[test]
    fn what_changed_is_counted_by_class_however_it_is_read() {
        let first = vec![Range { start: 2 * PAGE, end: 5 * PAGE }, Range { start: 8 * PAGE, end: 9 * PAGE }];
        for cut in [1, 7, 100, PAGE as usize, 3 * PAGE as usize + 5, 1 << 20] {
            let mut smear = Smear::new(Layout::new(first.clone()).into());
            let see = |smear: &mut Smear, pages: &[(u64, u8)]| {
                for run in pages.chunk_by(|a, b| a.0 + 1 == b.0) {
                    let bytes: Vec<u8> = run.iter().flat_map(|(_, fill)| page(*fill)).collect();
                    for (n, piece) in bytes.chunks(cut).enumerate() {
                        let at = run[0].0 * PAGE + (n * cut) as u64;
                        smear.saw(at, piece, |page| if page == 3 { Class::Slab } else { Class::PageTable });
                    }
                }
            };
            // The last page of the first range could not be read in the first pass.
            see(&mut smear, &[(2, 1), (3, 1), (8, 1)]);
            smear.begin_second();
            see(&mut smear, &[(0, 9), (1, 9), (2, 1), (3, 2), (4, 7), (5, 7), (6, 7), (7, 7), (8, 2), (9, 9)]);
            let report = smear.report(5);
            assert_eq!((report.first_pass_pages, report.every, report.compared, report.changed), (4, 1, 3, 2), "cut {cut}");
            let by: Vec<(Class, u64, u64)> = report.classes.iter().map(|c| (c.class, c.compared, c.changed)).collect();
            assert_eq!(by, [(Class::PageTable, 2, 1), (Class::Slab, 1, 1)]);
        }
    }

    #[test]
    fn of_very_many_pages_some_are_compared() {
        let smear = Smear::new(Layout::new(vec![Range { start: 0, end: (MARKS_MAX * 2 + 1) * PAGE }]).into());
        assert_eq!((smear.stride, smear.marks.len() as u64), (3, (MARKS_MAX * 2 + 1).div_ceil(3)));
        assert_eq!(size_of_val(smear.marks.as_slice()) as u64, smear.marks.len() as u64 * 4, "what MARKS_MAX says of its bytes");
    }
}
