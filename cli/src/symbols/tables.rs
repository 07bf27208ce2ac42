//! The kernel's symbols from its memory: the compressed tables that `/proc/kallsyms` is made of (Linux `scripts/kallsyms.c`,
//! `kernel/kallsyms.c`). VMCOREINFO names them since Linux 6.0. Used where the list itself was hidden (`kptr_restrict`).
//!
//! A name is a length and so many bytes, each of which stands for a token of one or more characters; the first character is the
//! symbol's type. Addresses are offsets of 32 bits, whose meaning changed over time: which one holds is found by trying, and the
//! outcome must agree with the addresses in VMCOREINFO.

use super::kallsyms::{NAME_BYTES_MAX, Symbols};
use crate::memory::image::Physical;
use crate::memory::u32_at;
use crate::memory::vmcoreinfo::VmcoreInfo;

/// More symbols than any kernel has. Bounds memory to a gigabyte for hostile tables, of which real ones need 20 MiB.
const SYMBOLS_MAX: u32 = 1 << 20;
/// Names that both VMCOREINFO and the tables have, each once.
const WITNESSES: [&str; 3] = ["_stext", "swapper_pg_dir", "init_uts_ns"];

/// How the offsets of addresses are meant.
#[derive(Debug, Clone, Copy)]
enum Offsets {
    /// Negative ones count down from the base, others are numbers that are not moved (`CONFIG_KALLSYMS_ABSOLUTE_PERCPU`; x86-64 until 6.14).
    Signed,
    /// All count up from the base.
    FromBase,
}

/// Reads the tables.
///
/// # Errors
/// Why not, in words: they are not named, not in the image, or what comes out is not what the kernel says of itself.
pub fn read(info: &VmcoreInfo, memory: &dyn Physical) -> Result<Symbols, String> {
    let place = |name: &str| {
        let address = info.symbol(&format!("kallsyms_{name}")).ok_or_else(|| {
            let release = exhibit_evidence::text::escape_bounded(info.release(), 80);
            format!("the kernel {release} does not say where its symbols are (kernels since 6.0 do, in VMCOREINFO)")
        })?;
        info.image_address(address).ok_or_else(|| "VMCOREINFO does not say where the kernel lies in memory (phys_base)".to_owned())
    };
    let gone = |what: &str| format!("the kernel's symbols are not in the image whole ({what})");
    let count = memory.bytes(place("num_syms")?, 4).and_then(|b| u32_at(&b, 0)).ok_or_else(|| gone("their number"))?;
    if count == 0 || count > SYMBOLS_MAX {
        return Err(format!("the kernel says that it has {count} symbols: that cannot be, between 1 and {SYMBOLS_MAX} are read"));
    }
    let tokens = tokens(memory, place("token_table")?, place("token_index")?).ok_or_else(|| gone("tokens"))?;
    let base = memory.u64(place("relative_base")?).ok_or_else(|| gone("base"))?;
    let offsets = memory.bytes(place("offsets")?, count as usize * 4).ok_or_else(|| gone("addresses"))?;
    for long_names in [true, false] {
        let Some(names) = names(memory, place("names")?, count, &tokens, long_names) else { continue };
        for meaning in [Offsets::Signed, Offsets::FromBase] {
            let mut symbols = Symbols::default();
            for (name, offset) in names.iter().zip(offsets.chunks_exact(4)) {
                symbols.add(name, address(u32_at(offset, 0).unwrap_or_default(), base, meaning));
            }
            if agree(&symbols, info) {
                return Ok(symbols);
            }
        }
    }
    Err("what the image has as the kernel's symbols does not agree with VMCOREINFO: it is damaged, or of another boot".to_owned())
}

const fn address(offset: u32, base: u64, meaning: Offsets) -> u64 {
    match meaning {
        Offsets::Signed if (offset as i32) < 0 => base.wrapping_sub(1).wrapping_add((offset as i32).unsigned_abs() as u64),
        Offsets::Signed => offset as u64,
        Offsets::FromBase => base.wrapping_add(offset as u64),
    }
}

fn agree(symbols: &Symbols, info: &VmcoreInfo) -> bool {
    let pairs = WITNESSES.iter().filter_map(|name| Some((info.symbol(name)?, symbols.get(name)?)));
    let (mut right, mut wrong) = (0, 0);
    for (theirs, ours) in pairs {
        if theirs == ours { right += 1 } else { wrong += 1 }
    }
    right > 0 && wrong == 0
}

/// The 256 tokens.
fn tokens(memory: &dyn Physical, table: u64, index: u64) -> Option<Vec<Vec<u8>>> {
    let index = memory.bytes(index, 512)?;
    let places: Vec<usize> = index.chunks_exact(2).map(|pair| pair.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))).collect();
    let bytes = memory.bytes(table, places.iter().max()? + NAME_BYTES_MAX)?;
    let token = |place: &usize| bytes.get(*place..)?.split(|b| *b == 0).next().map(<[u8]>::to_vec);
    places.iter().map(token).collect()
}

/// All names without their types.
fn names(memory: &dyn Physical, at: u64, count: u32, tokens: &[Vec<u8>], long_names: bool) -> Option<Vec<String>> {
    let mut stream = Stream { memory, at, held: Vec::new(), next: 0 };
    let mut names = Vec::new();
    for _ in 0..count {
        let mut left = usize::from(stream.byte()?);
        if long_names && left & 0x80 != 0 {
            left = (left & 0x7f) | usize::from(stream.byte()?) << 7;
        }
        let mut name = Vec::new();
        for _ in 0..left {
            name.extend_from_slice(tokens.get(usize::from(stream.byte()?))?);
            if name.len() > NAME_BYTES_MAX {
                return None;
            }
        }
        names.push(String::from_utf8(name.get(1..)?.to_vec()).ok()?);
    }
    Some(names)
}

/// Memory byte by byte, read in pages: where the last byte is, nobody says.
struct Stream<'a> {
    memory: &'a dyn Physical,
    at: u64,
    held: Vec<u8>,
    next: usize,
}

impl Stream<'_> {
    fn byte(&mut self) -> Option<u8> {
        if self.next >= self.held.len() {
            let to_end = crate::memory::PAGE_BYTES - self.at % crate::memory::PAGE_BYTES;
            self.held = self.memory.bytes(self.at, to_end as usize)?;
            self.at = self.at.checked_add(to_end)?;
            self.next = 0;
        }
        let byte = self.held.get(self.next).copied();
        self.next = self.next.saturating_add(1);
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::image::Pages;
    use proptest::prelude::*;
    use std::fmt::Write as _;

    const MAP: u64 = 0xffff_ffff_8000_0000;

    /// Tables as a kernel has them. Tokens: every byte itself, but 1 is `init_` and 2 is `T`.
    fn memory(symbols: &[(&str, u32)], long: bool) -> (Vec<u8>, VmcoreInfo) {
        let mut memory = vec![0_u8; 0x20000];
        let (mut table, mut index) = (Vec::new(), Vec::new());
        for byte in 0..=255_u8 {
            index.extend((table.len() as u16).to_le_bytes());
            match byte {
                0 => {}
                1 => table.extend(b"init_"),
                2 => table.push(b'T'),
                other => table.push(other),
            }
            table.push(0);
        }
        let (mut names, mut offsets) = (Vec::new(), Vec::new());
        for (name, offset) in symbols {
            let rest = name.strip_prefix("init_");
            let mut coded = vec![2];
            coded.extend(rest.map(|_| 1));
            coded.extend(rest.unwrap_or(name).as_bytes());
            if long && coded.len() > 127 {
                names.extend([(coded.len() & 0x7f) as u8 | 0x80, (coded.len() >> 7) as u8]);
            } else {
                names.push(coded.len() as u8);
            }
            names.extend(coded);
            offsets.extend(offset.to_le_bytes());
        }
        let count = (symbols.len() as u32).to_le_bytes();
        let base = (MAP + 0x100_0000).to_le_bytes();
        for (at, bytes) in [(0x100, &count[..]), (0x200, &base), (0x1000, &table), (0x3000, &index), (0x4000, &offsets), (0x8000, &names)] {
            memory[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let mut text = format!("OSRELEASE=6.1\nNUMBER(phys_base)=0\nSYMBOL(_stext)={:x}\n", MAP + 0x100_0000);
        let places = [("num_syms", 0x100), ("relative_base", 0x200), ("token_table", 0x1000), ("token_index", 0x3000)];
        for (name, at) in places.into_iter().chain([("offsets", 0x4000), ("names", 0x8000)]) {
            let _ = writeln!(text, "SYMBOL(kallsyms_{name})={:x}", MAP + at);
        }
        (memory, VmcoreInfo::parse(text.as_bytes()).expect("good"))
    }

    fn pages(memory: &[u8]) -> Pages {
        let mut pages = Pages::new(0..1 << 20);
        pages.keep(0, memory);
        pages
    }

    #[test]
    fn tables_become_symbols() {
        let long_name = "n".repeat(300);
        let symbols = [("per_cpu", 0x40), ("_stext", u32::MAX), ("init_task", (-0x201_i32) as u32), (long_name.as_str(), u32::MAX - 1)];
        let (bytes, info) = memory(&symbols, true);
        let found = read(&info, &pages(&bytes)).expect("good");
        assert_eq!((found.get("per_cpu"), found.get("_stext")), (Some(0x40), Some(MAP + 0x100_0000)));
        assert_eq!((found.get("init_task"), found.get(&long_name)), (Some(MAP + 0x100_0200), Some(MAP + 0x100_0001)));
        // Later kernels: all count from the base. Earlier ones: a length is one byte.
        let (bytes, info) = memory(&[("_stext", 0), ("init_task", 0x200)], true);
        assert_eq!(read(&info, &pages(&bytes)).expect("good").get("init_task"), Some(MAP + 0x100_0200));
        let name = "n".repeat(200);
        let (bytes, info) = memory(&[(name.as_str(), 0x8000_0000), ("_stext", u32::MAX)], false);
        assert!(read(&info, &pages(&bytes)).expect("good").get(&name).is_some());
    }

    #[test]
    fn what_does_not_agree_is_refused() {
        let (bytes, info) = memory(&[("_stext", 0x10), ("init_task", 0x200)], true);
        assert!(read(&info, &pages(&bytes)).expect_err("elsewhere").contains("does not agree"));
        assert!(read(&info, &pages(&bytes[..0x8000])).is_err(), "names are not there");
        let (mut bytes, info) = memory(&[("_stext", 0)], true);
        bytes[0x100..0x104].fill(0xff);
        assert!(read(&info, &pages(&bytes)).expect_err("too many").contains("4294967295 symbols: that cannot be"));
        let old = VmcoreInfo::parse(b"OSRELEASE=4.19.0\n").expect("good");
        assert!(read(&old, &pages(&bytes)).expect_err("old").contains("since 6.0"));
    }

    proptest! {
        #[test]
        fn no_tables_are_too_much(places in proptest::collection::vec((0_usize..0x9000, any::<u8>()), 0..60)) {
            let (mut bytes, info) = memory(&[("_stext", u32::MAX), ("init_task", 0x200)], true);
            for (at, value) in places {
                bytes[at] = value;
            }
            let _ = read(&info, &pages(&bytes));
        }
    }
}
