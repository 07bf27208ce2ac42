//! `/proc/kcore`: the kernel's address space as an ELF64 core file. Its PT_LOADs say at which offset of the file which
//! physical address can be read; its PT_NOTE has VMCOREINFO. Layout: System V ABI, ELF-64 object file format; which
//! segments there are: `fs/proc/kcore.c`.

use super::ranges::{Range, common, normal, without};

/// Bytes of the file's head that are looked at: the ELF header and program headers of a kernel with thousands of memory
/// blocks, and its notes.
pub const HEAD_BYTES_MAX: usize = 1 << 20;
const EHDR: usize = 64;
const PHDR: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const ET_CORE: u16 = 4;

/// A range of physical memory and where it is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    pub range: Range,
    /// Offset of `range.start` in the file.
    pub offset: u64,
    /// Where the kernel has `range.start` in its address space.
    pub address: u64,
}

impl Window {
    /// The part of it that begins at a physical address within it.
    const fn from(&self, range: Range) -> Self {
        let skip = range.start.saturating_sub(self.range.start);
        Self { range, offset: self.offset.saturating_add(skip), address: self.address.saturating_add(skip) }
    }
}

/// What the head of the file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kcore {
    /// Physical memory, sorted and disjoint.
    pub windows: Vec<Window>,
    /// The segments with a physical address as they stand in the file; the kernel's own image is there twice.
    pub segments: Vec<Window>,
    /// Segments that are there in all.
    pub loads: usize,
    /// The notes' place: offset, bytes.
    pub notes: Option<(u64, u64)>,
    /// `e_machine`: 62 x86-64, 183 AArch64.
    pub machine: u16,
    /// Where the program headers end in the file.
    pub table_bytes: usize,
}

impl Kcore {
    /// Reads the head of the file.
    ///
    /// # Errors
    /// What about it is not as it should be.
    pub fn parse(head: &[u8]) -> Result<Self, String> {
        if head.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) {
            return Err("it is no little-endian ELF64 file".to_owned());
        }
        if u16_at(head, 16) != Some(ET_CORE) {
            return Err("it is an ELF file but no core".to_owned());
        }
        let at = u64_at(head, 32).and_then(|o| usize::try_from(o).ok()).unwrap_or(usize::MAX);
        let count = usize::from(u16_at(head, 56).unwrap_or(0));
        if u16_at(head, 54).map(usize::from) != Some(PHDR) || at < EHDR {
            return Err("its program headers have an unknown form".to_owned());
        }
        let mut found = Self { machine: u16_at(head, 18).unwrap_or(0), ..Self::default() };
        let mut segments = Vec::new();
        for n in 0..count {
            let header = n.checked_mul(PHDR).and_then(|o| o.checked_add(at));
            let header = header.and_then(|o| head.get(o..o.checked_add(PHDR)?));
            let Some(header) = header else {
                return Err(format!("its {count} program headers lie beyond the first {} bytes", head.len()));
            };
            found.segment(header, &mut segments);
        }
        found.table_bytes = count.saturating_mul(PHDR).saturating_add(at);
        found.windows = windows(segments.clone());
        found.segments = segments;
        Ok(found)
    }

    fn segment(&mut self, header: &[u8], segments: &mut Vec<Window>) {
        let field = |at| u64_at(header, at).unwrap_or(0);
        let (offset, address, physical, bytes) = (field(8), field(16), field(24), field(32));
        match u32_at(header, 0) {
            Some(PT_NOTE) => self.notes = Some((offset, bytes)),
            Some(PT_LOAD) => {
                self.loads = self.loads.saturating_add(1);
                // All ones: an address range without one physical place (vmalloc, modules, the map of pages).
                if let Some(end) = physical.checked_add(bytes).filter(|end| *end > physical && physical != u64::MAX) {
                    segments.push(Window { range: Range { start: physical, end }, offset, address });
                }
            }
            _ => {}
        }
    }

    /// What of these physical ranges can be read.
    #[must_use]
    pub fn exposed(&self, ram: &[Range]) -> Vec<Range> {
        let all = normal(self.windows.iter().map(|w| w.range).collect());
        common(ram, &all)
    }

    /// Where in the file an address is, and how many bytes follow there.
    #[must_use]
    pub fn find(&self, at: u64) -> Option<(u64, u64)> {
        let here = self.at(at)?;
        Some((here.offset, here.range.len()))
    }

    /// The address at which the kernel reads a physical one for this file.
    #[must_use]
    pub fn address_of(&self, at: u64) -> Option<u64> {
        self.at(at).map(|w| w.address)
    }

    /// The rest of the window that an address lies in, from there on.
    fn at(&self, at: u64) -> Option<Window> {
        let after = self.windows.partition_point(|w| w.range.end <= at);
        let window = self.windows.get(after).filter(|w| w.range.start <= at)?;
        Some(window.from(Range { start: at, end: window.range.end }))
    }

    /// The physical address of one of the kernel's addresses, of its own image too.
    #[must_use]
    pub fn physical_of(&self, address: u64) -> Option<u64> {
        let within = |w: &Window| address.checked_sub(w.address).filter(|skip| *skip < w.range.len());
        self.segments.iter().find_map(|w| Some(w.range.start.saturating_add(within(w)?)))
    }
}

/// Where in a table, as [`Kcore::parse`] takes it, the program header is whose content is at an offset of the file.
#[must_use]
pub fn entry(table: &[u8], offset: u64) -> Option<std::ops::Range<usize>> {
    let at = u64_at(table, 32).and_then(|o| usize::try_from(o).ok())?;
    let holds = |header: &[u8]| {
        let (start, bytes) = (u64_at(header, 8).unwrap_or(0), u64_at(header, 32).unwrap_or(0));
        u32_at(header, 0) == Some(PT_LOAD) && offset.checked_sub(start).is_some_and(|within| within < bytes)
    };
    let start = table.get(at..)?.chunks_exact(PHDR).position(holds)?.checked_mul(PHDR)?.checked_add(at)?;
    Some(start..start.checked_add(PHDR)?)
}

/// Disjoint windows: the kernel's text is there twice, by itself and in the map of all memory. The larger one is used.
fn windows(mut segments: Vec<Window>) -> Vec<Window> {
    // Kernels before 4.11 say zero for every segment: then nothing is known.
    if segments.iter().filter(|s| s.range.start == 0).count() > 1 {
        segments.retain(|s| s.range.start != 0);
    }
    segments.sort_unstable_by_key(|s| std::cmp::Reverse(s.range.len()));
    let mut taken: Vec<Range> = Vec::new();
    let mut found: Vec<Window> = Vec::new();
    for segment in segments {
        for part in without(&[segment.range], &taken) {
            found.push(segment.from(part));
        }
        taken.push(segment.range);
        taken = normal(taken);
    }
    found.sort_unstable();
    found
}

/// The text of the note VMCOREINFO in a PT_NOTE segment.
#[must_use]
pub fn vmcoreinfo(notes: &[u8]) -> Option<&[u8]> {
    let mut rest = notes;
    loop {
        let name_bytes = usize::try_from(u32_at(rest, 0)?).ok()?;
        let bytes = usize::try_from(u32_at(rest, 4)?).ok()?;
        let name = rest.get(12..12_usize.checked_add(name_bytes)?)?;
        let start = 12_usize.checked_add(name_bytes.checked_next_multiple_of(4)?)?;
        let description = rest.get(start..start.checked_add(bytes)?)?;
        if name.strip_suffix(&[0]).unwrap_or(name) == b"VMCOREINFO" {
            let end = description.iter().position(|b| *b == 0).unwrap_or(description.len());
            return description.get(..end);
        }
        rest = rest.get(start.checked_add(bytes.checked_next_multiple_of(4)?)?..)?;
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Where the kernel's addresses begin in the files that are made here.
    pub const HALF: u64 = 0xffff_8000_0000_0000;

    /// Segments: kind, offset, physical address, bytes. The kernel has them at their offsets above [`HALF`].
    pub fn core(segments: &[(u32, u64, u64, u64)]) -> Vec<u8> {
        let mut file = vec![0_u8; EHDR];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        file[16..18].copy_from_slice(&ET_CORE.to_le_bytes());
        file[18..20].copy_from_slice(&62_u16.to_le_bytes());
        file[32..40].copy_from_slice(&(EHDR as u64).to_le_bytes());
        file[54..56].copy_from_slice(&(PHDR as u16).to_le_bytes());
        file[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        for (kind, offset, physical, bytes) in segments {
            let mut header = vec![0_u8; PHDR];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&offset.to_le_bytes());
            header[16..24].copy_from_slice(&offset.wrapping_add(HALF).to_le_bytes());
            header[24..32].copy_from_slice(&physical.to_le_bytes());
            header[32..40].copy_from_slice(&bytes.to_le_bytes());
            file.extend(header);
        }
        file
    }

    #[test]
    fn addresses_are_found_once_through_the_large_map() {
        let file = core(&[
            (PT_NOTE, 0x1000, 0, 0x500),
            // The kernel's text, vmalloc, then the map of all memory in two parts.
            (PT_LOAD, 0x7fff_8000_0000, 0x100_0000, 0x200_0000),
            (PT_LOAD, 0x4000_0000, u64::MAX, 0x1000_0000),
            (PT_LOAD, 0x9000_2000, 0x1000, 0x9e000),
            (PT_LOAD, 0x9010_1000, 0x10_0000, 0x1ff0_0000),
        ]);
        let kcore = Kcore::parse(&file).expect("a core");
        assert_eq!((kcore.loads, kcore.notes, kcore.machine), (4, Some((0x1000, 0x500)), 62));
        assert_eq!(kcore.find(0x1000), Some((0x9000_2000, 0x9e000)));
        assert_eq!(kcore.find(0x100_0000), Some((0x9010_1000 + 0xf0_0000, 0x1f00_0000)));
        assert_eq!(kcore.find(0x9f000), None);
        assert_eq!(kcore.address_of(0x100_0000), Some(HALF + 0x9010_1000 + 0xf0_0000));
        assert_eq!(kcore.physical_of(HALF + 0x7fff_8000_1234), Some(0x100_1234), "the kernel's text where it runs");
        assert_eq!(kcore.physical_of(HALF + 0x4000_0000), None, "no one physical place");
        let ram = [Range { start: 0x1000, end: 0x9fc00 }, Range { start: 0x10_0000, end: 0x2000_0000 }];
        let exposed = kcore.exposed(&ram);
        assert_eq!(without(&ram, &exposed), [Range { start: 0x9f000, end: 0x9fc00 }], "3 KiB that are RAM and cannot be had");
    }

    #[test]
    fn a_kernel_that_gives_no_physical_addresses_exposes_nothing() {
        let kcore = Kcore::parse(&core(&[(PT_LOAD, 0x1000, 0, 0x100), (PT_LOAD, 0x2000, 0, 0x1000)])).expect("a core");
        assert_eq!(kcore.windows, []);
    }

    #[test]
    fn vmcoreinfo_is_found_behind_other_notes() {
        let note = |name: &[u8], body: &[u8]| {
            let mut bytes = Vec::new();
            bytes.extend((name.len() as u32 + 1).to_le_bytes());
            bytes.extend((body.len() as u32).to_le_bytes());
            bytes.extend(1_u32.to_le_bytes());
            for part in [name, &[0]] {
                bytes.extend(part);
            }
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let notes = [note(b"CORE", b"12345"), note(b"VMCOREINFO", b"OSRELEASE=6.1.0\n\0"), note(b"CORE", b"")].concat();
        assert_eq!(vmcoreinfo(&notes), Some(&b"OSRELEASE=6.1.0\n"[..]));
        assert_eq!(vmcoreinfo(&note(b"CORE", b"12345")), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>, segments in proptest::collection::vec((0_u32..6, proptest::num::u64::ANY, proptest::num::u64::ANY, proptest::num::u64::ANY), 0..12)) {
            let _ = (Kcore::parse(&bytes), vmcoreinfo(&bytes));
            let kcore = Kcore::parse(&core(&segments)).expect("a core");
            proptest::prop_assert!(kcore.windows.windows(2).all(|w| w[0].range.end <= w[1].range.start), "disjoint");
            for window in &kcore.windows {
                proptest::prop_assert_eq!(kcore.find(window.range.start), Some((window.offset, window.range.len())));
            }
        }
    }
}
