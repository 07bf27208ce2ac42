//! What a process gave back while it was read. The kernel refuses such memory with "input/output error", as it does memory that is
//! broken: the table of mappings tells them apart.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::SeekFrom;

use super::given_back::GivenBack;
use super::regions::Regions;

/// Why nothing is there.
pub const UNMAPPED: &str = "not mapped any more: the process gave this memory back while it was read";

/// How often the table of mappings of one process is read once more: a large one takes milliseconds.
const LOOKS_MAX: usize = 64;

/// The mappings as they are now.
#[derive(Debug, Clone)]
pub struct Unmapped {
    /// `/proc/<pid>/maps`, opened while the process stood: it is empty when that program is gone.
    maps: Arc<OwnedFd>,
    /// First addresses and ends, ascending, by the last look; `None` where they could not be read whole.
    mapped: Option<Arc<[(u64, u64)]>>,
    looks: usize,
}

impl Unmapped {
    /// Nothing was looked at yet.
    #[must_use]
    pub const fn new(maps: Arc<OwnedFd>) -> Self {
        Self { maps, mapped: None, looks: 0 }
    }

    /// How many bytes from an address on, to `end` at most, are not mapped any more; `None` where it is, or where nobody knows.
    pub fn bytes(&mut self, at: u64, end: u64) -> Option<u64> {
        let known = self.known(at, end);
        if known.is_some() || self.looks >= LOOKS_MAX {
            return known;
        }
        self.looks = self.looks.saturating_add(1);
        self.mapped = read(&self.maps);
        self.known(at, end)
    }

    fn known(&self, at: u64, end: u64) -> Option<u64> {
        let mapped = self.mapped.as_ref()?;
        let next = mapped.partition_point(|(_, until)| *until <= at);
        let until = mapped.get(next).map_or(end, |(start, _)| (*start).min(end));
        until.checked_sub(at).filter(|bytes| *bytes > 0)
    }
}

/// What of the mappings is not mapped any more; nothing where the table cannot be read whole.
pub fn vanished(maps: &OwnedFd, regions: &Regions) -> GivenBack {
    read(maps).map(|mapped| missing(&mapped, regions)).unwrap_or_default()
}

fn missing(mapped: &[(u64, u64)], regions: &Regions) -> GivenBack {
    let mut gone = GivenBack::default();
    // A reservation has no memory that could be given back.
    for region in regions.list().iter().filter(|r| !r.is_reserved()) {
        let mut at = region.start;
        let first = mapped.partition_point(|(_, until)| *until <= at);
        let within = mapped.get(first..).unwrap_or_default().iter().take_while(|(start, _)| *start < region.end);
        for (start, until) in within {
            gone.note(at, *start);
            at = *until;
        }
        gone.note(at, region.end);
    }
    gone
}

/// Reads the table. Of one that is not whole nothing follows.
fn read(maps: &OwnedFd) -> Option<Arc<[(u64, u64)]>> {
    rustix::fs::seek(maps, SeekFrom::Start(0)).ok()?;
    let regions = Regions::read(maps).ok()?;
    let is_whole = regions.cut.is_none() && regions.left_out == 0 && regions.not_understood == 0 && !regions.list().is_empty();
    is_whole.then(|| regions.list().iter().map(|r| (r.start, r.end)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::live::open_at;

    fn own() -> Unmapped {
        Unmapped::new(Arc::new(open_at(rustix::fs::CWD, "/proc/self/maps").expect("maps")))
    }

    #[test]
    fn what_is_mapped_is_told_from_what_is_not() {
        let mut own = own();
        // The first page is never mapped; this variable's is.
        let here = &raw const own as u64;
        assert_eq!(own.bytes(0, 4096), Some(4096));
        assert_eq!((own.bytes(here, here + 8), own.looks), (None, 2));
        assert_eq!((own.bytes(4096, 8192), own.looks), (Some(4096), 2), "what is known is not looked up again");
    }

    #[test]
    fn what_is_not_mapped_ends_where_the_next_mapping_begins() {
        let mapped: Arc<[(u64, u64)]> = Arc::from([(0x1000, 0x2000), (0x5000, 0x6000)]);
        let unmapped = Unmapped { mapped: Some(mapped), ..own() };
        assert_eq!(unmapped.known(0x3000, 0x8000), Some(0x2000));
        assert_eq!(unmapped.known(0x2000, 0x3000), Some(0x1000));
        assert_eq!(unmapped.known(0x7000, 0x8000), Some(0x1000));
        assert_eq!((unmapped.known(0x1000, 0x8000), unmapped.known(0x5fff, 0x8000)), (None, None));
    }

    #[test]
    fn what_vanished_before_its_pages_were_looked_at_is_told() {
        let regions = Regions::parse(b"1000-5000 rw-p 0 0:0 0\n5000-6000 rw-p 0 0:0 0\n8000-9000 rw-p 0 0:0 0\na000-c000 rw-p 0 0:0 0\n");
        let gone = missing(&[(0x1000, 0x2000), (0x3000, 0x4000), (0x7000, 0xb000)], &regions);
        assert_eq!(gone.ranges(), [(0x2000, 0x3000, 0x1000), (0x4000, 0x6000, 0x2000), (0xb000, 0xc000, 0x1000)]);
        let own = open_at(rustix::fs::CWD, "/proc/self/maps").expect("maps");
        let first = Regions::parse(b"1000-2000 rw-p 0 0:0 0\n");
        assert_eq!(vanished(&own, &first).bytes(), 0x1000, "nobody has the first pages");
    }

    #[test]
    fn the_table_is_not_read_without_end() {
        let mut own = own();
        let here = &raw const own as u64;
        for _ in 0..LOOKS_MAX + 9 {
            assert_eq!(own.bytes(here, here + 8), None);
        }
        assert_eq!(own.looks, LOOKS_MAX);
    }
}
