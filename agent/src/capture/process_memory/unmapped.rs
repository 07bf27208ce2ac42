//! What a process gave back while it was read. The kernel refuses such memory with "input/output error", as it does memory that is
//! broken: the table of mappings tells them apart.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::given_back::GivenBack;
use super::regions::{Class, REGIONS_MAX, Region, Regions, WRITE};
use crate::capture::process::parse::mapping;

/// Why nothing is there.
pub const UNMAPPED: &str = "not mapped any more: the process gave this memory back while it was read";

/// How often the table of mappings of one process is read once more: a large one takes milliseconds.
const LOOKS_MAX: usize = 64;
/// Bytes of a line in which its addresses are, and all else but its name.
const LINE_BYTES_MAX: usize = 256;
const PIECE_BYTES: usize = 32 << 10;

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
        // There is room for one of them.
        self.mapped = None;
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

/// What of the mappings is not mapped any more, and may have had pages; `None` where the table cannot be read whole. Which pages there
/// were nobody knows: to look for them while the process stands would take too long. `pseudo` are the devices of file systems that the
/// kernel makes up.
pub fn vanished(maps: &OwnedFd, regions: &Regions, pseudo: &BTreeSet<[u32; 2]>) -> Option<GivenBack> {
    read(maps).map(|mapped| missing(&mapped, regions, pseudo))
}

fn missing(mapped: &[(u64, u64)], regions: &Regions, pseudo: &BTreeSet<[u32; 2]>) -> GivenBack {
    let mut gone = GivenBack::default();
    for region in regions.list().iter().filter(|r| may_lose(r, pseudo)) {
        let before = gone.bytes();
        let mut at = region.start;
        let first = mapped.partition_point(|(_, until)| *until <= at);
        let within = mapped.get(first..).unwrap_or_default().iter().take_while(|(start, _)| *start < region.end);
        for (start, until) in within {
            gone.note(at, *start);
            at = *until;
        }
        gone.note(at, region.end);
        let bytes = gone.bytes().saturating_sub(before);
        if region.class == Class::Doubtful {
            gone.doubtful = gone.doubtful.saturating_add(bytes);
        } else if is_in_file(regions, region) {
            gone.of_files = gone.of_files.saturating_add(bytes);
        }
    }
    gone
}

/// A reservation has no memory that could be given back, and of a device or of the kernel's own pages nothing is ever taken. What is
/// only named like a device's is asked what it is when it is planned, and does not answer when it is gone.
fn may_lose(region: &Region, pseudo: &BTreeSet<[u32; 2]>) -> bool {
    let is_made_up = matches!(region.class, Class::File | Class::Doubtful) && pseudo.contains(&region.dev);
    !region.is_reserved() && !is_made_up && !matches!(region.class, Class::Device | Class::Shared)
}

/// Whether a file had what was in a mapping, and had a name: of a deleted one, and of memory that is shown as one (memfd, shared memory),
/// the mapping may have been the last that had it.
fn is_in_file(regions: &Regions, region: &Region) -> bool {
    let name = regions.name(region);
    let has_name = !name.is_empty() && name != b"/dev/zero" && !name.ends_with(b" (deleted)");
    region.class == Class::File && region.bits & WRITE == 0 && has_name
}

/// Reads the table. Of one that is not whole nothing follows.
fn read(maps: &OwnedFd) -> Option<Arc<[(u64, u64)]>> {
    rustix::fs::seek(maps, SeekFrom::Start(0)).ok()?;
    let mut table = Table::default();
    let mut piece = vec![0_u8; PIECE_BYTES];
    loop {
        match rustix::io::read(maps, piece.as_mut_slice()) {
            Ok(0) => break,
            Ok(got) => table.feed(piece.get(..got).unwrap_or_default())?,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    (table.line.is_empty() && !table.list.is_empty()).then(|| Arc::from(table.list))
}

/// Where mappings lie and nothing else of them: the process is asked often, and chooses how many there are.
#[derive(Debug, Default)]
struct Table {
    /// First addresses and ends, neighbours joined; [`REGIONS_MAX`] at most.
    list: Vec<(u64, u64)>,
    /// What the piece before ended with.
    line: Vec<u8>,
}

impl Table {
    /// Takes in a piece; `None` where it makes no sense or is too much.
    fn feed(&mut self, piece: &[u8]) -> Option<()> {
        for part in piece.split_inclusive(|b| *b == b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
            if part.ends_with(b"\n") {
                let (start, end) = mapping(self.line.strip_suffix(b"\n").unwrap_or(&self.line)).map(|m| (m.start, m.end))?;
                self.line.clear();
                self.push(start, end)?;
            }
        }
        Some(())
    }

    fn push(&mut self, start: u64, end: u64) -> Option<()> {
        let behind = self.list.last().map_or(0, |(_, until)| *until);
        if start < behind || start >= end {
            return None;
        }
        if let Some(last) = self.list.last_mut().filter(|last| last.1 == start) {
            last.1 = end;
            return Some(());
        }
        if self.list.len() >= REGIONS_MAX {
            return None;
        }
        self.list.push((start, end));
        Some(())
    }
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
        let gone = missing(&[(0x1000, 0x2000), (0x3000, 0x4000), (0x7000, 0xb000)], &regions, &BTreeSet::new());
        assert_eq!(gone.ranges(), [(0x2000, 0x3000, 0x1000), (0x4000, 0x6000, 0x2000), (0xb000, 0xc000, 0x1000)]);
        let own = open_at(rustix::fs::CWD, "/proc/self/maps").expect("maps");
        let first = Regions::parse(b"1000-2000 rw-p 0 0:0 0\n");
        let told = |maps: &OwnedFd| vanished(maps, &first, &BTreeSet::new()).map(|gone| gone.bytes());
        assert_eq!(told(&own), Some(0x1000), "nobody has the first pages");
        let other = open_at(rustix::fs::CWD, "/proc/self/status").expect("a file");
        assert_eq!(told(&other), None, "what cannot be read as a table is not the same as nothing");
    }

    #[test]
    fn what_was_only_read_from_files_is_told_apart_and_what_is_never_taken_does_not_count() {
        let table =
            b"1000-3000 r-xp 0 08:01 7 /lib/a\n3000-4000 rw-p 2000 08:01 7 /lib/a\n5000-6000 rw-p 0 0:0 0\n7000-8000 r--p 0 0:0 0 [vvar]\n";
        let gone = missing(&[(0x1000, 0x2000)], &Regions::parse(table), &BTreeSet::new());
        assert_eq!((gone.bytes(), gone.of_files), (0x3000, 0x1000));
    }

    #[test]
    fn a_file_that_nobody_may_have_any_more_does_not_count_as_one_that_has_it_still() {
        let table: &[u8] = b"1000-2000 r-xp 0 00:01 7 /memfd:payload (deleted)\n2000-3000 r-xp 0 08:01 8 /tmp/a (deleted)\n\
            3000-4000 r-xs 0 00:01 9 /dev/zero (deleted)\n4000-5000 r-xp 0 00:06 5 /dev/zero\n5000-6000 r-xp 0 00:2f 0\n\
            6000-7000 r-xp 0 08:01 7 /lib/a\n";
        let gone = missing(&[(0x9000, 0xa000)], &Regions::parse(table), &BTreeSet::new());
        assert_eq!((gone.bytes(), gone.of_files, gone.doubtful), (0x6000, 0x1000, 0));
    }

    #[test]
    fn what_may_have_been_a_device_counts_apart_and_what_was_one_does_not() {
        let table: &[u8] = b"1000-2000 r-xp 0 00:05 7 /dev/payload\n2000-4000 rw-s 0 00:16 8 /sys/devices/a\n\
            4000-5000 r--p 0 00:15 9 /proc/kpagecount\n5000-6000 rw-s 0 00:0e 5 anon_inode:[perf_event]\n6000-7000 rw-p 0 00:00 0\n";
        let pseudo = BTreeSet::from([[0, 0x15], [0, 0x16]]);
        let gone = missing(&[(0x9000, 0xa000)], &Regions::parse(table), &pseudo);
        assert_eq!(gone.ranges(), [(0x1000, 0x2000, 0x1000), (0x6000, 0x7000, 0x1000)]);
        assert_eq!((gone.of_files, gone.doubtful), (0, 0x1000));
    }

    #[test]
    fn the_table_is_bounded_and_makes_sense_or_is_none() {
        let told = |text: &[u8], piece: usize| {
            let mut table = Table::default();
            text.chunks(piece).try_for_each(|piece| table.feed(piece)).map(|()| table.list)
        };
        let path = "p".repeat(9_000);
        let text = format!("1000-2000 rw-p 0 0:0 0\n2000-3000 r--p 0 08:01 7    /{path} (deleted)\n5000-6000 rw-p 0 0:0 0 [heap]\n");
        for piece in [1, 7, 40, 20_000] {
            assert_eq!(told(text.as_bytes(), piece), Some(vec![(0x1000, 0x3000), (0x5000, 0x6000)]), "in pieces of {piece}");
        }
        for text in ["2000-3000 rw-p 0 0:0 0\n1000-2000 rw-p 0 0:0 0\n", "2000-2000 rw-p 0 0:0 0\n", "what\n"] {
            assert_eq!(told(text.as_bytes(), 64), None, "{text}");
        }
        let mut table = Table::default();
        let count = REGIONS_MAX as u64;
        assert!((1..=count).all(|n| table.push(n * 0x2000, n * 0x2000 + 0x1000).is_some()));
        assert_eq!((table.push(u64::MAX - 1, u64::MAX), table.list.len()), (None, REGIONS_MAX));
        // The formula of the agent's memory counts on it.
        assert!(table.list.capacity() * size_of::<(u64, u64)>() <= 1 << 20);
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
