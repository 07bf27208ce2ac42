//! The mappings of a process, read from `/proc/<pid>/maps` piece by piece into a table of fixed width: whoever owns the
//! process chooses how many there are and what they are called.

use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::capture::process::parse::{Mapping, mapping};

/// Mappings that are kept: `vm.max_map_count` is 65,530 unless somebody raised it. 56 bytes each, 3.5 MiB.
pub const REGIONS_MAX: usize = 65_536;
/// Bytes of their names, each of a run of mappings of one file kept once.
pub const NAMES_BYTES_MAX: usize = 512 << 10;
/// The longest line: 73 columns and an escaped path. The kernel's own bound is a page.
const LINE_BYTES_MAX: usize = 32 << 10;
const PIECE_BYTES: usize = 32 << 10;

/// What is behind a mapping, as far as its line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    /// Private memory without a file: a page that was never touched does not exist.
    #[default]
    Anonymous,
    /// A file, or memory that is shared without one (which the kernel shows as a deleted file).
    File,
    /// What the kernel maps by itself and reads like memory: `[vdso]` and the like.
    Kernel,
    /// A device's memory, or an object of the kernel: reading it may do something, so it is not read.
    Device,
    /// Named like a device's memory. A name is the process's to choose (a program below `/dev`, another mount namespace), so what
    /// the file is decides; until that is known it counts as a device.
    Doubtful,
    /// The kernel's own clock pages and the old system call page: the same for every process, not readable from outside.
    Shared,
}

impl Class {
    /// The word in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::File => "file",
            Self::Kernel => "kernel",
            Self::Device | Self::Doubtful => "device",
            Self::Shared => "shared-by-kernel",
        }
    }
}

/// One mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Where in the file it begins, bytes.
    pub offset: u64,
    /// The file's inode, 0 without one.
    pub ino: u64,
    /// Its device.
    pub dev: [u32; 2],
    /// Where its name lies among the names, and how long it is: see [`Regions::name`].
    pub name_start: u32,
    /// See above.
    pub name_bytes: u16,
    /// [`READ`], [`WRITE`], [`EXECUTE`], [`SHARED`], [`DONT_DUMP`], [`SUPPLIED`], [`PROTECTED`], [`PLAIN`].
    pub bits: u8,
    /// What is behind it.
    pub class: Class,
    /// Pages in memory, and pages in swap, when it was looked at; at most 2^32 - 1. Until it is planned what `smaps` says.
    pub present_pages: u32,
    /// See above.
    pub swapped_pages: u32,
}

/// Bits of [`Region::bits`].
pub const READ: u8 = 1;
/// May be written.
pub const WRITE: u8 = 2;
/// May be executed.
pub const EXECUTE: u8 = 4;
/// Writes are seen by others.
pub const SHARED: u8 = 8;
/// The process asked that core files leave it out (`MADV_DONTDUMP`). It is taken all the same, and listed.
pub const DONT_DUMP: u8 = 16;
/// Watched by userfaultfd: what is not in memory is supplied by a program when somebody touches it.
pub const SUPPLIED: u8 = 32;
/// Watched by userfaultfd: who writes to a page waits until a program allows it. Reading is free.
pub const PROTECTED: u8 = 64;
/// The kernel's flags of it were read, and say that no driver put pages in by their number (`io`, `pf`, `mm`): a page that is no file's
/// is the process's own.
pub const PLAIN: u8 = 128;

impl Region {
    /// Bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Memory that the process reserved, cannot access, and never had: there is nothing in it.
    #[must_use]
    pub const fn is_reserved(&self) -> bool {
        matches!(self.class, Class::Anonymous)
            && self.bits & (READ | WRITE | EXECUTE) == 0
            && self.present_pages == 0
            && self.swapped_pages == 0
    }

    /// What userfaultfd waits for in it: touching what is missing, writing.
    #[must_use]
    pub fn watched(&self) -> Vec<&'static str> {
        [(SUPPLIED, "missing"), (PROTECTED, "write")].iter().filter(|(bit, _)| self.bits & bit != 0).map(|(_, word)| *word).collect()
    }

    /// As in the kernel's table: `rwxp`.
    #[must_use]
    pub fn permissions(&self) -> String {
        let bit = |bit: u8, c: char| if self.bits & bit == 0 { '-' } else { c };
        [bit(READ, 'r'), bit(WRITE, 'w'), bit(EXECUTE, 'x'), if self.bits & SHARED == 0 { 'p' } else { 's' }].iter().collect()
    }
}

/// The mappings of one process, ascending and disjoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Regions {
    list: Vec<Region>,
    names: Vec<u8>,
    /// Mappings beyond [`REGIONS_MAX`].
    pub left_out: u64,
    /// Lines that make no sense: none on any known kernel.
    pub not_understood: u64,
    /// Names that did not fit.
    pub names_left_out: u64,
    /// Why the table ended early, if it did.
    pub cut: Option<String>,
}

impl Regions {
    /// Reads an open `maps`.
    ///
    /// # Errors
    /// What the kernel said before the first byte. Later errors are in [`Regions::cut`].
    pub fn read(file: impl AsFd) -> Result<Self, Errno> {
        let mut regions = Self::default();
        let mut piece = vec![0_u8; PIECE_BYTES];
        let mut line: Vec<u8> = Vec::new();
        let mut any = false;
        loop {
            let got = match rustix::io::read(&file, piece.as_mut_slice()) {
                Ok(0) => break,
                Ok(n) => n,
                Err(Errno::INTR) => continue,
                Err(e) if !any => return Err(e),
                Err(e) => {
                    regions.cut = Some(format!("the table of mappings broke off: {e}"));
                    break;
                }
            };
            any = true;
            regions.feed(piece.get(..got).unwrap_or_default(), &mut line);
        }
        if !line.is_empty() {
            regions.line(&line);
        }
        Ok(regions)
    }

    /// From text.
    #[cfg(test)]
    pub fn parse(text: &[u8]) -> Self {
        let (mut regions, mut line) = (Self::default(), Vec::new());
        regions.feed(text, &mut line);
        regions
    }

    /// Takes in a piece of the table; `line` holds the part of a line that the piece before ended with.
    fn feed(&mut self, piece: &[u8], line: &mut Vec<u8>) {
        for part in piece.split_inclusive(|b| *b == b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(line.len());
            line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
            if part.ends_with(b"\n") {
                self.line(line.strip_suffix(b"\n").unwrap_or(line));
                line.clear();
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(m) = mapping(line).filter(|m| m.start < m.end && m.start % PAGE == 0 && m.end % PAGE == 0) else {
            self.not_understood = self.not_understood.saturating_add(1);
            return;
        };
        // Ascending and disjoint, or what follows from it (searches, sizes) would not hold.
        if self.list.last().is_some_and(|last| m.start < last.end) {
            self.not_understood = self.not_understood.saturating_add(1);
            return;
        }
        if self.list.len() >= REGIONS_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        let (name_start, name_bytes) = self.keep_name(m.path);
        let bit = |at: usize, c: u8, bit: u8| if m.perms.get(at) == Some(&c) { bit } else { 0 };
        self.list.push(Region {
            start: m.start,
            end: m.end,
            offset: m.offset,
            ino: m.ino,
            dev: m.dev,
            name_start,
            name_bytes,
            bits: bit(0, b'r', READ) | bit(1, b'w', WRITE) | bit(2, b'x', EXECUTE) | bit(3, b's', SHARED),
            class: class(&m),
            present_pages: 0,
            swapped_pages: 0,
        });
    }

    fn keep_name(&mut self, name: &[u8]) -> (u32, u16) {
        if name.is_empty() {
            return (0, 0);
        }
        if let Some(last) = self.list.last().copied().filter(|last| self.name(last) == name) {
            return (last.name_start, last.name_bytes);
        }
        let fits = self.names.len().saturating_add(name.len()) <= NAMES_BYTES_MAX;
        let (Ok(start), Ok(bytes), true) = (u32::try_from(self.names.len()), u16::try_from(name.len()), fits) else {
            self.names_left_out = self.names_left_out.saturating_add(1);
            return (0, 0);
        };
        self.names.extend_from_slice(name);
        (start, bytes)
    }

    /// The mapping's name as the kernel prints it (a newline as `\012`, ` (deleted)` at the end); empty without one.
    #[must_use]
    pub fn name(&self, region: &Region) -> &[u8] {
        let start = region.name_start as usize;
        self.names.get(start..start.saturating_add(usize::from(region.name_bytes))).unwrap_or_default()
    }

    /// All of them.
    #[must_use]
    pub fn list(&self) -> &[Region] {
        &self.list
    }

    /// All of them, to be filled in.
    pub fn list_mut(&mut self) -> &mut [Region] {
        &mut self.list
    }

    /// The one that an address lies in.
    #[must_use]
    pub fn holding(&self, address: u64) -> Option<&Region> {
        let after = self.list.partition_point(|r| r.start <= address);
        self.list.get(after.checked_sub(1)?).filter(|r| address < r.end)
    }
}

/// Pages as the tables of the kernel count them. Other sizes (16 KiB and 64 KiB on some ARM hosts) are multiples.
pub const PAGE: u64 = 4096;

fn class(m: &Mapping<'_>) -> Class {
    let no_file = !m.is_file();
    match m.path {
        b"[vsyscall]" | b"[vvar]" | b"[vvar_vclock]" => Class::Shared,
        b"" | b"[heap]" | b"[stack]" if no_file => Class::Anonymous,
        p if no_file && (p.starts_with(b"[anon:") || p.starts_with(b"[stack:")) => Class::Anonymous,
        p if no_file && p.starts_with(b"[") => Class::Kernel,
        p if p.starts_with(b"anon_inode:") || p.starts_with(b"socket:") => Class::Device,
        // Shared memory without a file is shown like this; the device of that name is none that holds memory.
        p if p.starts_with(b"/dev/shm/") || p == b"/dev/zero" || p == b"/dev/zero (deleted)" => Class::File,
        p if p.starts_with(b"/dev/hugepages/") => Class::File,
        p if p.starts_with(b"/dev/") || p.starts_with(b"/sys/") => Class::Doubtful,
        _ if no_file => Class::Anonymous,
        _ => Class::File,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &[u8], piece: usize) -> Regions {
        let (mut regions, mut line) = (Regions::default(), Vec::new());
        for part in text.chunks(piece.max(1)) {
            regions.feed(part, &mut line);
        }
        if !line.is_empty() {
            regions.line(&line);
        }
        regions
    }

    const TABLE: &[u8] = b"1000-3000 r--p 00000000 08:01 42                         /usr/lib/a b\\012c (deleted)\n\
        3000-5000 rw-p 00002000 08:01 42                         /usr/lib/a b\\012c (deleted)\n\
        5000-6000 ---p 00000000 00:00 0 \n\
        7000-8000 rw-s 00000000 00:01 7                          /dev/zero (deleted)\n\
        8000-9000 rw-s 00000000 00:06 7                          /dev/mem\n\
        7ffe000-7fff000 rw-p 00000000 00:00 0                          [stack]\n\
        8000000-8001000 r-xp 00000000 00:00 0                          [vdso]\n\
        ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

    #[test]
    fn odd_names_and_kinds() {
        for piece in [1, 7, 4096] {
            let regions = parse(TABLE, piece);
            let classes: Vec<&str> = regions.list().iter().map(|r| r.class.as_str()).collect();
            assert_eq!(classes, ["file", "file", "anonymous", "file", "device", "anonymous", "kernel", "shared-by-kernel"]);
            let first = regions.list()[0];
            assert_eq!(regions.name(&first), b"/usr/lib/a b\\012c (deleted)");
            assert_eq!(regions.name(&regions.list()[1]), regions.name(&first));
            assert_eq!((first.permissions().as_str(), first.ino, first.dev), ("r--p", 42, [8, 1]));
            assert!(regions.list()[2].is_reserved() && !regions.list()[3].is_reserved());
            assert_eq!(regions.holding(0x3fff).map(|r| r.offset), Some(0x2000));
            assert_eq!(regions.holding(0x6000), None);
            assert_eq!((regions.not_understood, regions.left_out), (0, 0));
        }
    }

    #[test]
    fn a_file_may_have_the_number_zero() {
        let regions = parse(b"1000-2000 r--p 0 00:2f 0 /mnt/a\n2000-3000 r--p 0 00:2f 0\n3000-4000 r--p 0 00:00 0 /gone\n4000-5000 r--p 0 00:00 0 [anon:x]\n", 100);
        let classes: Vec<&str> = regions.list().iter().map(|r| r.class.as_str()).collect();
        assert_eq!(classes, ["file", "file", "file", "anonymous"]);
    }

    #[test]
    fn what_overlaps_or_is_no_page_is_not_understood() {
        let regions = parse(b"1000-3000 r--p 0 0:0 0\n2000-4000 r--p 0 0:0 0\n4001-5000 r--p 0 0:0 0\n6000-5000 r--p 0 0:0 0\n", 100);
        assert_eq!((regions.list().len(), regions.not_understood), (1, 3));
    }

    #[test]
    fn the_bounds_hold() {
        let mut text = Vec::new();
        for n in 1..=(REGIONS_MAX as u64 + 10) {
            let (start, end) = (n * 8192, n * 8192 + 4096);
            text.extend_from_slice(format!("{start:x}-{end:x} rw-p 00000000 08:01 {n} /tmp/{n:0>40}\n").as_bytes());
        }
        let regions = parse(&text, 5000);
        assert_eq!((regions.list().len(), regions.left_out), (REGIONS_MAX, 10));
        assert!(regions.names.len() <= NAMES_BYTES_MAX && regions.names_left_out > 0);
        assert!(size_of::<Region>() <= 56);
    }

    #[test]
    fn own_table_is_understood() {
        let file = crate::capture::live::open_at(rustix::fs::CWD, "/proc/self/maps").expect("maps");
        let regions = Regions::read(file).expect("read");
        assert_eq!((regions.not_understood, regions.left_out, regions.cut.as_deref()), (0, 0, None));
        let here = &raw const regions as u64;
        assert!(regions.holding(here).is_some_and(|r| r.class == Class::Anonymous));
    }

    proptest! {
        #[test]
        fn any_bytes_make_an_ordered_table(text: Vec<u8>, piece in 1_usize..64) {
            let regions = parse(&text, piece);
            prop_assert!(regions.list().windows(2).all(|w| w[0].end <= w[1].start));
        }

        #[test]
        fn any_numbers_make_an_ordered_table(lines in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..20)) {
            let text: Vec<String> = lines.iter().map(|(s, e, o)| format!("{s:x}-{e:x} rwxp {o:x} ff:ff 9 /x\n")).collect();
            let regions = parse(text.concat().as_bytes(), 64);
            prop_assert!(regions.list().windows(2).all(|w| w[0].end <= w[1].start));
            prop_assert!(regions.list().iter().all(|r| r.start < r.end));
        }
    }
}
