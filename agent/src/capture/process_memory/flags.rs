//! The kernel's flags of each mapping, the last line of each entry of `/proc/<pid>/smaps` (proc(5), `VmFlags`). Only there
//! does it say that a mapping is a device's memory whatever it is called, or that the process wants it left out of core
//! files. The kernel walks all pages of a mapping for an entry and holds a lock of the process meanwhile, so this is read of
//! processes of ordinary size only.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::regions::{Class, DONT_DUMP, PAGE, PLAIN, PROTECTED, Region, Regions, SUPPLIED};
use crate::capture::live::{hex, number, split_at_byte, words};
use crate::capture::procfs::{open_at, read_at};

/// Larger processes are not asked: for one of 1 GiB the kernel needs some milliseconds.
const RESIDENT_BYTES_MAX: u64 = 1 << 30;
/// An entry has some 1,500 bytes; lines longer than this are a mapping's name at most.
const LINE_BYTES_MAX: usize = 32 << 10;
const PIECE_BYTES: usize = 32 << 10;

/// Reads the flags into the table. Returns why not, if it was not done. With `any_size` also those of a large process: it
/// stands anyway, or more depends on them. `step` is called for every piece; it says whether to go on.
pub fn read(dir: &OwnedFd, regions: &mut Regions, any_size: bool, step: &mut dyn FnMut() -> bool) -> Option<String> {
    let resident = read_at(dir, "statm", 4096).ok().and_then(|r| words(&r.bytes).nth(1).and_then(number::<u64>));
    let bytes = resident.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64);
    if bytes > RESIDENT_BYTES_MAX && !any_size {
        return Some(format!("not read: {bytes} bytes in memory, above {RESIDENT_BYTES_MAX}; it would hold the process up"));
    }
    let read = open_at(dir, "smaps").and_then(|file| stream(file, &mut Entry::new(regions), step));
    read.err().map(|e| format!("not read: {e}"))
}

fn stream(file: impl AsFd, entry: &mut Entry<'_>, step: &mut dyn FnMut() -> bool) -> Result<(), Errno> {
    let mut piece = vec![0_u8; PIECE_BYTES];
    while step() {
        match rustix::io::read(&file, piece.as_mut_slice()) {
            Ok(0) => return Ok(()),
            Ok(got) => entry.feed(piece.get(..got).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::CANCELED)
}

/// Where the reading stands.
struct Entry<'a> {
    regions: &'a mut Regions,
    line: Vec<u8>,
    /// Place in the table of the mapping that the entry is about.
    at: Option<usize>,
    next: usize,
}

impl<'a> Entry<'a> {
    fn new(regions: &'a mut Regions) -> Self {
        Self { regions, line: Vec::new(), at: None, next: 0 }
    }

    fn feed(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|b| *b == b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.whole(line.trim_ascii_end());
                self.line = line;
                self.line.clear();
            }
        }
    }

    fn whole(&mut self, line: &[u8]) {
        if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            let Some(region) = self.at.take().and_then(|n| self.regions.list_mut().get_mut(n)) else { return };
            region.bits |= PLAIN;
            for flag in words(flags) {
                // Also a mixture of both: its pages without a number of their own look like the process's.
                if matches!(flag, b"io" | b"pf" | b"mm") {
                    region.bits &= !PLAIN;
                }
                match flag {
                    b"dd" => region.bits |= DONT_DUMP,
                    // Watched by userfaultfd: for pages that are missing (of a file: also those not mapped), for writes.
                    b"um" | b"ui" => region.bits |= SUPPLIED,
                    b"uw" => region.bits |= PROTECTED,
                    // A device's memory, or pages that are none of the kernel's: the same for its own clock pages.
                    b"io" | b"pf" if region.class != Class::Shared => region.class = Class::Device,
                    _ => {}
                }
            }
        } else if let Some(kib) = line.strip_prefix(b"Rss:") {
            self.counted(kib, |region, pages| region.present_pages = pages);
        } else if let Some(kib) = line.strip_prefix(b"Swap:") {
            self.counted(kib, |region, pages| region.swapped_pages = pages);
        } else if let Some((start, end)) = range(line) {
            let list = self.regions.list();
            let rest = list.get(self.next..).unwrap_or_default();
            let at = self.next.saturating_add(rest.partition_point(|r| r.start < start));
            self.at = list.get(at).filter(|r| r.start == start && r.end == end).map(|_| at);
            self.next = at;
        }
    }

    /// Takes over how many KiB of a mapping there are.
    fn counted(&mut self, kib: &[u8], to: impl FnOnce(&mut Region, u32)) {
        let Some(region) = self.at.and_then(|n| self.regions.list_mut().get_mut(n)) else { return };
        // What is not understood is not nothing.
        let pages = words(kib).next().and_then(number::<u64>).map_or(u64::MAX, |kib| kib.div_ceil(PAGE / 1024));
        to(region, u32::try_from(pages).unwrap_or(u32::MAX));
    }
}

/// The range with which an entry begins.
fn range(line: &[u8]) -> Option<(u64, u64)> {
    let (range, _) = split_at_byte(line, b' ')?;
    let (start, end) = split_at_byte(range, b'-')?;
    Some((hex(start)?, hex(end)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn own() -> (OwnedFd, Regions) {
        let dir = crate::capture::live::open_dir(rustix::fs::CWD, format!("/proc/{}", std::process::id())).expect("own folder");
        let regions = Regions::read(open_at(&dir, "maps").expect("maps")).expect("read");
        (dir, regions)
    }

    #[test]
    fn own_flags_are_read() {
        // Nothing else of this program may move while it is looked at twice, so it is looked at until nothing did.
        for _ in 0..50 {
            let (dir, mut regions) = own();
            assert_eq!(read(&dir, &mut regions, false, &mut || true), None);
            let (_, again) = own();
            if again.list().len() != regions.list().len() {
                continue;
            }
            let vdso = regions.list().iter().find(|r| regions.name(r) == b"[vdso]").expect("vdso");
            assert_eq!(vdso.class, Class::Kernel);
            return;
        }
        panic!("it never stood still");
    }

    #[test]
    fn flags_go_to_their_mapping() {
        let table = b"1000-2000 rw-p 0 0:0 0 \n3000-4000 rw-p 0 0:0 0 \n5000-6000 rw-s 0 0:5 9 /tmp/disguised\n\
            7000-8000 rw-p 0 0:0 0 \n";
        let mut regions = Regions::parse(table);
        let mut entry = Entry::new(&mut regions);
        for part in b"1000-2000 rw-p 0 0:0 0 \nSize: 4 kB\nRss: 8 kB\nSwap: 4 kB\nSwapPss: 0 kB\nVmFlags: rd wr mr \n3000-4000 rw-p 0 0:0 0 \nVmFlags: rd wr dd \n\
            4000-5000 rw-p 0 0:0 0\nVmFlags: dd io\n5000-6000 rw-s 0 0:5 9 /tmp/disguised\nVmFlags: rd io pf\n7000-8000 rw-p 0 0:0 0 \nVmFlags: rd um uw\n"
            .chunks(7)
        {
            entry.feed(part);
        }
        let seen: Vec<(bool, Class)> = regions.list().iter().map(|r| (r.bits & DONT_DUMP != 0, r.class)).collect();
        assert_eq!(seen, [(false, Class::Anonymous), (true, Class::Anonymous), (false, Class::Device), (false, Class::Anonymous)]);
        assert_eq!(regions.list()[3].bits & (SUPPLIED | PROTECTED), SUPPLIED | PROTECTED);
        assert_eq!([0, 1, 2, 3].map(|n| regions.list()[n].bits & PLAIN != 0), [true, true, false, true]);
        assert_eq!((regions.list()[0].present_pages, regions.list()[0].swapped_pages), (2, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(text: Vec<u8>, piece in 1_usize..64) {
            let mut regions = Regions::parse(b"1000-2000 rw-p 0 0:0 0 \n");
            let mut entry = Entry::new(&mut regions);
            for part in text.chunks(piece) {
                entry.feed(part);
            }
        }
    }
}
