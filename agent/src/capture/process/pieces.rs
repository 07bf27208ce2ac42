//! Where a file has data and where holes. Whoever owns the file chooses how many there are of either.

use std::os::fd::OwnedFd;
use std::time::Duration;

use exhibit_evidence::stream::tar::{EXTENTS_MAX, tidy_extents};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::capture::Extent;
use crate::clock;

/// Pieces that are kept while the file is looked through, 1 MiB: four times what a stream tells apart, so that the holes that are closed
/// on the way are small ones.
const KEPT_MAX: usize = 4 * EXTENTS_MAX;
/// Pieces that are looked for: 4 GiB of single pages. What lies behind them is data.
const LOOKS_MAX: usize = 1 << 20;

/// The data ranges of a file of so many bytes, no more than a stream tells apart: of a file with more pieces the smallest holes between
/// them are data, which reads as zeros. Looking takes so long at most; what was not looked at by then is data. `None` where the file
/// system does not tell.
pub fn pieces(file: &OwnedFd, size: u64, patience: Duration) -> Option<Vec<Extent>> {
    let until = clock::monotonic().saturating_add(patience);
    look(file, size, until, LOOKS_MAX).map(|found| tidy_extents(found, size))
}

fn look(file: &OwnedFd, size: u64, until: Duration, looks_max: usize) -> Option<Vec<Extent>> {
    let mut found = Pieces { list: Vec::new(), most: KEPT_MAX };
    let (mut at, mut looks) = (0_u64, 0_usize);
    while at < size {
        if looks >= looks_max || clock::monotonic() > until {
            found.push(Extent { offset: at, length: size.saturating_sub(at) });
            break;
        }
        looks = looks.saturating_add(1);
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) if data < at => return None,
            // Nothing more, or only what was added meanwhile.
            Ok(data) if data >= size => break,
            Err(Errno::NXIO) => break,
            Ok(data) => data,
            Err(_) => return None,
        };
        let hole = match seek(file, SeekFrom::Hole(data)) {
            Ok(hole) if hole < data => return None,
            Ok(hole) => hole.min(size),
            // It was made shorter meanwhile.
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        // Where the piece was taken out meanwhile it is looked again from there.
        found.push(Extent { offset: data, length: hole.saturating_sub(data) });
        at = hole;
    }
    Some(found.list)
}

/// Pieces, ascending.
struct Pieces {
    list: Vec<Extent>,
    most: usize,
}

impl Pieces {
    /// Adds a piece behind all others.
    fn push(&mut self, piece: Extent) {
        if piece.length == 0 {
            return;
        }
        if let Some(last) = self.list.last_mut().filter(|last| last.end() == piece.offset) {
            last.length = last.length.saturating_add(piece.length);
            return;
        }
        if self.list.len() >= self.most {
            self.close_smallest();
        }
        self.list.push(piece);
    }

    /// Closes a sixteenth of the holes, the smallest ones.
    fn close_smallest(&mut self) {
        let count = (self.list.len() / 16).max(1);
        let hole = |before: &Extent, next: &Extent| next.offset.saturating_sub(before.end());
        let mut holes: Vec<u64> = self.list.iter().zip(self.list.iter().skip(1)).map(|(a, b)| hole(a, b)).collect();
        if holes.len() < count {
            return;
        }
        let largest = *holes.select_nth_unstable(count.saturating_sub(1)).1;
        // Of those of one size as many as are needed.
        let mut as_large = count.saturating_sub(holes.iter().filter(|bytes| **bytes < largest).count());
        self.list.dedup_by(|next, last| {
            let bytes = hole(last, next);
            if bytes > largest || (bytes == largest && as_large == 0) {
                return false;
            }
            if bytes == largest {
                as_large = as_large.saturating_sub(1);
            }
            last.length = next.end().saturating_sub(last.offset);
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn memfd(size: u64) -> OwnedFd {
        let file = rustix::fs::memfd_create("spread", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&file, size).expect("a size");
        file
    }

    fn sum(pieces: &[Extent]) -> u64 {
        pieces.iter().map(|e| e.length).sum()
    }

    #[test]
    fn a_file_in_more_pieces_than_a_stream_tells_apart_loses_its_small_holes_only() {
        let pages = EXTENTS_MAX as u64 + 100;
        let size = pages * 2 * PAGE;
        let file = memfd(size);
        for page in 0..pages {
            rustix::io::pwrite(&file, b"x", page * 2 * PAGE).expect("write");
        }
        let found = pieces(&file, size, Duration::from_mins(1)).expect("told");
        assert!(found.len() <= EXTENTS_MAX && sum(&found) <= size, "{} pieces", found.len());
        for offset in (0..pages).map(|page| page * 2 * PAGE) {
            let n = found.partition_point(|e| e.end() <= offset);
            assert!(found[n].offset <= offset, "{offset} is in no piece");
        }
    }

    #[test]
    fn as_many_holes_are_closed_as_are_needed_the_smallest_first() {
        let mut found = Pieces { list: Vec::new(), most: 32 };
        // Every fourth hole is of one page, the others of a thousand.
        let (mut at, mut count) = (0_u64, 0_u64);
        while found.list.len() < 32 || count < 40 {
            found.push(Extent { offset: at, length: PAGE });
            count += 1;
            at += PAGE + if count.is_multiple_of(4) { PAGE } else { 1000 * PAGE };
        }
        assert!(found.list.len() <= 32);
        let closed = sum(&found.list) - count * PAGE;
        assert!((8 * PAGE..=10 * PAGE).contains(&closed), "{closed} bytes of holes of {count} pieces");
        assert!(found.list.windows(2).all(|w| w[0].end() < w[1].offset));
        // All of one size: no more of them than that.
        let mut found = Pieces { list: Vec::new(), most: 32 };
        (0..33).for_each(|n| found.push(Extent { offset: n * 2 * PAGE, length: PAGE }));
        assert_eq!((found.list.len(), sum(&found.list)), (31, 35 * PAGE));
        assert_eq!(found.list[0], Extent { offset: 0, length: 5 * PAGE });
    }

    #[test]
    fn what_was_not_looked_at_is_data() {
        let size = 64 << 20;
        let file = memfd(size);
        for offset in [0, 16 << 20, 32 << 20] {
            rustix::io::pwrite(&file, b"x", offset).expect("write");
        }
        let later = clock::monotonic() + Duration::from_mins(1);
        let all = look(&file, size, later, 9).expect("told");
        assert!(all.len() == 3 && sum(&all) <= 6 << 20, "{all:?}");
        // The rest belongs to the last piece that was found.
        let rest = Extent { offset: all[1].offset, length: size - all[1].offset };
        assert_eq!(look(&file, size, later, 2), Some(vec![all[0], rest]));
        assert_eq!(look(&file, size, Duration::ZERO, 9), Some(vec![Extent { offset: 0, length: size }]));
    }
}
