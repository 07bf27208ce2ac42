//! An ELF core file of a kernel, as `/proc/kcore` and kdump make them (ELF-64 gABI; Linux `Documentation/admin-guide/kdump`): notes, memory,
//! and the program headers behind it, because the ranges are known only when all of them have arrived.
//!
//! `p_paddr` is the physical address. `p_vaddr` is where the kernel's direct map has it: found through the kernel's own page tables, once
//! the memory that they lie in was written; 0 where they cannot be followed.

use super::{Conversion, Made, Memory, Output, sparsely};
use crate::exit::{Code, Failure, Result};
use crate::memory::image::Physical;
use crate::memory::lime::Range;
use crate::memory::notes;
use crate::memory::paging::Tables;
use crate::memory::vmcoreinfo::VmcoreInfo;

const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
const SECTION_HEADER_BYTES: u64 = 64;
/// More program headers than the header can count: their number stands in the first section header then (`PN_XNUM`).
const PN_XNUM: u64 = 0xffff;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// x86-64; BTF and page tables are read for no other machine.
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const PAGE: u64 = crate::memory::PAGE_BYTES;

/// What the same capture has beside the image.
#[derive(Debug, Clone, Default)]
pub struct Companions {
    /// `kcore-notes.bin`: notes as the kernel wrote them.
    pub notes: Option<Vec<u8>>,
    /// `vmcoreinfo.txt`.
    pub vmcoreinfo: Option<Vec<u8>>,
}

impl Companions {
    /// What the kernel says of itself.
    pub fn info(&self) -> Option<VmcoreInfo> {
        let in_notes = || self.notes.as_deref().and_then(notes::vmcoreinfo);
        VmcoreInfo::parse(self.vmcoreinfo.as_deref().or_else(in_notes)?)
    }

    /// The notes of the file: the kernel's own where VMCOREINFO is among them.
    fn content(&self) -> Vec<u8> {
        let ours = self.notes.clone().unwrap_or_default();
        match (&self.vmcoreinfo, notes::vmcoreinfo(&ours)) {
            (Some(text), None) => [notes::rewritten(&ours), notes::write(notes::VMCOREINFO, 0, text).unwrap_or_default()].concat(),
            _ => ours,
        }
    }
}

/// Makes an ELF core file.
pub struct Elf {
    memory: Memory,
    companions: Companions,
    notes: Vec<u8>,
    /// Where memory begins in the file.
    data: u64,
    /// Bytes of memory so far.
    written: u64,
}

impl Elf {
    /// Nothing of a file yet.
    pub fn new(memory: Memory, companions: Companions) -> Self {
        let notes = companions.content();
        let data = (HEADER_BYTES + notes.len() as u64).next_multiple_of(PAGE);
        Self { memory, companions, notes, data, written: 0 }
    }

    fn machine(&self) -> u16 {
        // arm64 kernels say how many bits their addresses have (`NUMBER(VA_BITS)`), x86-64 ones do not.
        let arm = self.companions.info().is_some_and(|info| info.number("VA_BITS").is_some());
        if arm { EM_AARCH64 } else { EM_X86_64 }
    }

    /// Where the direct map begins.
    fn direct_map(&self, loads: &[Range], out: &dyn Output) -> Option<DirectMap> {
        let info = self.companions.info()?;
        let memory = Written::new(out, loads, self.data);
        let probes = probes(loads);
        let (base, agree) = Tables::of(&info, &memory)?.direct_map(&probes)?;
        Some(DirectMap { base, agree, asked: probes.len() })
    }

    fn notes_for_reader(&self, direct_map: Option<DirectMap>, loads: &[Range]) -> Vec<String> {
        let mut notes = Vec::new();
        match (self.companions.info(), direct_map) {
            (None, _) => notes.push("the capture has no VMCOREINFO: drgn and crash will not open this file".to_owned()),
            (Some(_), Some(DirectMap { base, agree, asked })) if agree < asked => notes.push(format!(
                "the kernel sees this memory from {base:#x} on: its page tables say so of {agree} of {asked} pages that were looked at"
            )),
            (Some(_), Some(DirectMap { base, .. })) => notes.push(format!("the kernel sees this memory from {base:#x} on")),
            (Some(_), None) => notes.push("the kernel's page tables could not be followed: virtual addresses of segments are 0".to_owned()),
        }
        if loads.len() as u64 + 1 >= PN_XNUM {
            notes.push(format!("{} segments are more than volatility3 reads: give it the LiME image", loads.len()));
        }
        notes
    }
}

impl Conversion for Elf {
    fn write(&mut self, offset: u64, bytes: &[u8], out: &mut dyn Output) -> Result<()> {
        let (data, written) = (self.data, &mut self.written);
        self.memory.take(offset, bytes, |piece, zeros| {
            let at = data.saturating_add(*written);
            *written = written.saturating_add(piece.bytes.len() as u64);
            if zeros { Ok(()) } else { sparsely(out, at, piece.bytes) }
        })
    }

    fn end(&mut self, size: u64, out: &mut dyn Output) -> Result<Made> {
        let written = &mut self.written;
        let ranges = self.memory.end(size, |piece, _| {
            *written = written.saturating_add(piece.bytes.len() as u64);
            Ok(())
        })?;
        let loads = joined(&ranges);
        let placed = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.len));
        // The beginning of a page that is not whole, where the image was cut off.
        let beyond = self.written.saturating_sub(placed).min(PAGE);
        if beyond > 0 {
            out.write(self.data.saturating_add(placed), &vec![0; beyond as usize])?;
        }
        let direct_map = self.direct_map(&loads, out);
        let mut headers = program_header(PT_NOTE, 0, HEADER_BYTES, (0, 0), self.notes.len() as u64);
        let mut at = self.data;
        for load in &loads {
            let virtual_address = direct_map.map_or(0, |map| map.base.wrapping_add(load.start));
            headers.extend(program_header(PT_LOAD, 7, at, (virtual_address, load.start), load.len));
            at = at.saturating_add(load.len);
        }
        let table = at.next_multiple_of(8);
        let count = loads.len() as u64 + 1;
        let section = table.saturating_add(headers.len() as u64);
        let extended = count >= PN_XNUM;
        if extended {
            headers.extend(section_header(count).ok_or_else(|| Failure::new(Code::Input, "more ranges than an ELF file can have"))?);
        }
        out.write(table, &headers)?;
        out.write(HEADER_BYTES, &self.notes)?;
        out.write(0, &header(self.machine(), table, count.min(PN_XNUM), extended.then_some(section)))?;
        let mut notes = self.memory.notes(&ranges, size);
        notes.extend(self.notes_for_reader(direct_map, &loads));
        Ok(Made { size: table.saturating_add(headers.len() as u64), notes })
    }
}

/// Where the kernel sees all memory.
#[derive(Debug, Clone, Copy)]
struct DirectMap {
    base: u64,
    /// Pages of which the page tables say so, and all that they were asked about.
    agree: usize,
    asked: usize,
}

/// Largest segments that are probed, and pages between their first and their last.
const PROBED_MAX: usize = 8;
const PROBED_BETWEEN: u64 = 3;

/// Pages that the kernel must see if it sees memory: of the largest segments the first, the last and some between.
fn probes(loads: &[Range]) -> Vec<u64> {
    let mut largest: Vec<&Range> = loads.iter().collect();
    largest.sort_by_key(|r| (std::cmp::Reverse(r.len), r.start));
    let of = |range: &&Range| {
        let (start, last) = (range.start, range.end().saturating_sub(1));
        let step = range.len / (PROBED_BETWEEN + 1);
        (0..=PROBED_BETWEEN).map(move |n| start.saturating_add(step.saturating_mul(n))).chain([last]).map(|a| a - a % PAGE)
    };
    let mut pages: Vec<u64> = largest.iter().take(PROBED_MAX).flat_map(of).collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// Ranges of which one begins where the other ends are one segment.
fn joined(ranges: &[Range]) -> Vec<Range> {
    let mut loads: Vec<Range> = Vec::new();
    for range in ranges {
        match loads.last_mut() {
            Some(last) if last.end() == range.start => last.len = last.len.saturating_add(range.len),
            _ => loads.push(*range),
        }
    }
    loads
}

fn header(machine: u16, table: u64, count: u64, section: Option<u64>) -> Vec<u8> {
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    out.extend([0; 8]);
    // A core file, for the machine, version 1.
    out.extend([4_u16.to_le_bytes(), machine.to_le_bytes()].concat());
    out.extend(1_u32.to_le_bytes());
    for address in [0, table, section.unwrap_or(0)] {
        out.extend(address.to_le_bytes());
    }
    out.extend(0_u32.to_le_bytes());
    let sections = u16::from(section.is_some());
    let section_bytes = if section.is_some() { SECTION_HEADER_BYTES as u16 } else { 0 };
    for half in [HEADER_BYTES as u16, PROGRAM_HEADER_BYTES as u16, count as u16, section_bytes, sections, 0] {
        out.extend(half.to_le_bytes());
    }
    out
}

fn program_header(kind: u32, flags: u32, offset: u64, (virtual_address, physical): (u64, u64), size: u64) -> Vec<u8> {
    let mut out = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    let align = if kind == PT_LOAD { PAGE } else { 4 };
    for word in [offset, virtual_address, physical, size, size, if offset.is_multiple_of(align) { align } else { 1 }] {
        out.extend(word.to_le_bytes());
    }
    out
}

/// The first section header: nothing but the number of program headers, in `sh_info`.
fn section_header(count: u64) -> Option<Vec<u8>> {
    let mut out = vec![0; 44];
    out.extend(u32::try_from(count).ok()?.to_le_bytes());
    out.resize(SECTION_HEADER_BYTES as usize, 0);
    Some(out)
}

/// Memory as it lies in the file.
struct Written<'a> {
    out: &'a dyn Output,
    /// Each segment with its place in the file.
    loads: Vec<(Range, u64)>,
}

impl<'a> Written<'a> {
    fn new(out: &'a dyn Output, loads: &[Range], mut at: u64) -> Self {
        let placed = loads.iter().map(|load| {
            let here = at;
            at = at.saturating_add(load.len);
            (*load, here)
        });
        Self { out, loads: placed.collect() }
    }
}

impl Physical for Written<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let number = self.loads.partition_point(|(load, _)| load.end() <= address);
        let Some((load, at)) = self.loads.get(number).filter(|(load, _)| load.start <= address) else { return false };
        address.saturating_add(into.len() as u64) <= load.end() && self.out.read(at.saturating_add(address - load.start), into)
    }
}
