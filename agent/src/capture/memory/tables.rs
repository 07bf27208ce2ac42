//! The kernel's own page tables: whether the kernel maps a page at the address at which `/proc/kcore` reads it. Pages that it
//! does not map (`memfd_secret`, `set_direct_map_invalid_noflush`, `DEBUG_PAGEALLOC`) are answered with zeros, without an error and
//! without a page flag (`read_kcore`), so zeros alone are no content.
//!
//! Formats: Intel SDM volume 3, 4.5; Arm ARM D8.3, VMSAv8-64 with a granule of 4 KiB, of 52 bits (LPA2) too. Tables are the host's memory, which may
//! be hostile: a walk has as many steps as there are levels, whatever the entries say.

use std::io;

use super::physical::Physical;
use super::ranges::PAGE;
use crate::capture::live::lines;

/// `e_machine` of x86-64.
const EM_X86_64: u16 = 62;
/// `e_machine` of AArch64.
const EM_AARCH64: u16 = 183;
/// Where kernels on x86-64 map their own image (`__START_KERNEL_map`).
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
const PRESENT: u64 = 1;
/// x86-64: the entry maps a large page.
const LARGE: u64 = 1 << 7;
/// AArch64: the entry names a table; without it, it maps a block.
const TABLE: u64 = 1 << 1;
const ENTRIES: u64 = 512;
/// AArch64 with addresses of 52 bits: entries of the top table, bits of an entry that are an address, and those that are its two highest,
/// so many bits below their place.
const WIDE_ENTRIES: u64 = 16;
const WIDE_MASK: u64 = 0x0003_ffff_ffff_f000;
const WIDE_HIGH: u64 = 3 << 8;
const WIDE_SHIFT: u32 = 42;
/// Names of the top table, in VMCOREINFO and among the kernel's symbols.
const ROOTS: [&str; 2] = ["swapper_pg_dir", "init_top_pgt"];

/// What maps an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The physical address; none when nothing is mapped.
    pub physical: Option<u64>,
    /// So many bytes from the address on are mapped, or not mapped, as it is. Never zero.
    pub bytes: u64,
}

/// The kernel's page tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    root: u64,
    levels: u32,
    /// Bits of an entry that are an address.
    mask: u64,
    machine: u16,
    /// AArch64 with addresses of 52 bits.
    wide: bool,
}

impl Tables {
    /// The tables that the kernel says it has. They must map the top one where the source reads it, or else something about them is not
    /// understood. `symbols` looks a symbol up where VMCOREINFO does not name it.
    ///
    /// # Errors
    /// Why nothing can be said by them, in words.
    pub fn of(physical: &dyn Physical, vmcoreinfo: &[u8], symbols: impl Fn(&str) -> Option<u64>) -> Result<Self, String> {
        let value = |kind: &str, name: &str| {
            let key = format!("{kind}({name})=");
            lines(vmcoreinfo).find_map(|l| l.strip_prefix(key.as_bytes())).and_then(|v| std::str::from_utf8(v).ok()).map(str::to_owned)
        };
        let symbol = |name: &&str| value("SYMBOL", name).and_then(|v| u64::from_str_radix(&v, 16).ok()).or_else(|| symbols(name));
        let top = ROOTS.iter().find_map(symbol).ok_or("the place of the top table (swapper_pg_dir) is not known")?;
        let number = |name: &str| value("NUMBER", name).and_then(|v| any_number(&v));
        let moved = match physical.machine() {
            EM_AARCH64 => number("kimage_voffset").map(|offset| top.wrapping_sub(offset)),
            _ => number("phys_base").and_then(|base| Some(top.checked_sub(KERNEL_MAP)?.wrapping_add(base))),
        };
        let root = physical.physical_of(top).or(moved).ok_or("where the kernel lies in memory is not known (phys_base)")?;
        let address = physical.address_of(root).ok_or("the top table is not in what the source shows")?;
        let (levels, mask) = match physical.machine() {
            EM_X86_64 => {
                // With four levels addresses are sign-extended from bit 47.
                let five = number("pgtable_l5_enabled").map_or(address < 0xffff_8000_0000_0000, |n| n != 0);
                (if five { 5 } else { 4 }, 0x000f_ffff_ffff_f000 & !number("sme_mask").unwrap_or(0))
            }
            EM_AARCH64 => match arm_bits(&number) {
                Some(52) => (5, WIDE_MASK),
                Some(bits @ 30..=48) => (bits.saturating_sub(4) as u32 / 9, 0x0000_ffff_ffff_f000),
                _ => return Err("the form of its page tables is not known (VA_BITS, TCR_EL1_T1SZ)".to_owned()),
            },
            other => return Err(format!("page tables of machine {other} are not read")),
        };
        let machine = physical.machine();
        let tables = Self { root, levels, mask, machine, wide: machine == EM_AARCH64 && mask == WIDE_MASK };
        match tables.walk(physical, address) {
            Some(Mapping { physical: Some(found), .. }) if found == root => Ok(tables),
            _ => Err("the kernel's page tables do not map themselves where they are read: their form is not understood".to_owned()),
        }
    }

    /// What maps an address of the kernel; none when a table cannot be read.
    #[must_use]
    pub fn walk(&self, physical: &dyn Physical, address: u64) -> Option<Mapping> {
        let mut table = self.root;
        for level in (2..=self.levels).rev() {
            let shift = level.saturating_sub(1).saturating_mul(9).saturating_add(12);
            let size = 1_u64.checked_shl(shift)?;
            let within = address & size.saturating_sub(1);
            let left = size.saturating_sub(within);
            let mut entry = [0; 8];
            let index = if self.wide && level == self.levels { (address >> shift) % WIDE_ENTRIES } else { (address >> shift) % ENTRIES };
            read_all(physical, table.checked_add(index * 8)?, &mut entry).ok()?;
            let entry = u64::from_le_bytes(entry);
            if entry & PRESENT == 0 {
                return Some(Mapping { physical: None, bytes: left });
            }
            if level > 3 && self.wide && self.is_large(entry) {
                // Blocks of 512 GiB: kernels do not make them.
                return None;
            }
            if level <= 3 && self.is_large(entry) {
                let start = self.address_in(entry) & !size.saturating_sub(1);
                return Some(Mapping { physical: Some(start.saturating_add(within)), bytes: left });
            }
            table = self.address_in(entry);
        }
        self.pages(physical, table, address)
    }

    /// The entries of a last table from that of an address on, as far as they are alike.
    fn pages(&self, physical: &dyn Physical, table: u64, address: u64) -> Option<Mapping> {
        let index = address / PAGE % ENTRIES;
        let mut bytes = vec![0; usize::try_from(ENTRIES.saturating_sub(index)).ok()?.checked_mul(8)?];
        read_all(physical, table.checked_add(index.checked_mul(8)?)?, &mut bytes).ok()?;
        let mut entries = bytes.chunks_exact(8).filter_map(|b| b.try_into().ok()).map(u64::from_le_bytes);
        let first = entries.next()?;
        let alike = entries.take_while(|e| (e ^ first) & PRESENT == 0).count() as u64;
        let within = address % PAGE;
        let found = (first & PRESENT != 0).then(|| self.address_in(first).saturating_add(within));
        Some(Mapping { physical: found, bytes: alike.saturating_add(1).saturating_mul(PAGE).saturating_sub(within) })
    }

    /// The address that an entry has.
    const fn address_in(&self, entry: u64) -> u64 {
        let low = entry & self.mask;
        if self.wide { low | (entry & WIDE_HIGH) << WIDE_SHIFT } else { low }
    }

    const fn is_large(&self, entry: u64) -> bool {
        if self.machine == EM_AARCH64 { entry & TABLE == 0 } else { entry & LARGE != 0 }
    }
}

/// Bits of the addresses of an AArch64 kernel. One that was built for 52 uses 48 on a processor without them: the processor's register
/// says which (`arch/arm64/kernel/vmcore_info.c`).
fn arm_bits(number: &dyn Fn(&str) -> Option<u64>) -> Option<u64> {
    match number("VA_BITS") {
        Some(52) => 64_u64.checked_sub(number("TCR_EL1_T1SZ")?),
        bits => bits,
    }
}

/// Reads all of a buffer.
fn read_all(physical: &dyn Physical, mut at: u64, mut buf: &mut [u8]) -> io::Result<()> {
    while !buf.is_empty() {
        match physical.read(at, buf) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => {
                at = at.saturating_add(got as u64);
                buf = buf.get_mut(got..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A number of VMCOREINFO: decimal, signed or not, or hexadecimal behind `0x`.
fn any_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse::<u64>().ok().or_else(|| text.parse::<i64>().ok().map(i64::cast_unsigned)),
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use super::super::ranges::Range;
    use super::*;

    /// Memory of 1 MiB that is there at [`DIRECT`], with tables of four levels at 0x1000 (top), 0x2000, 0x3000 and 0x4000.
    pub struct Small(pub Vec<u8>);

    /// Where it is mapped: entry 273 of the top table, 3 of the next.
    pub const DIRECT: u64 = 0xffff_8880_c000_0000;

    impl Physical for Small {
        fn name(&self) -> &'static str {
            "small"
        }
        fn exposed(&self, ram: &[Range]) -> Vec<Range> {
            ram.to_vec()
        }
        fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
            let rest = usize::try_from(at).ok().and_then(|at| self.0.get(at..)).filter(|r| !r.is_empty());
            let Some(rest) = rest else { return Err(io::ErrorKind::InvalidInput.into()) };
            // Tables are read in short answers, which are no end.
            let count = buf.len().min(rest.len()).min(if buf.len() <= 4096 { 1000 } else { usize::MAX });
            buf[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
        fn address_of(&self, at: u64) -> Option<u64> {
            (at < self.0.len() as u64).then(|| DIRECT + at)
        }
        fn machine(&self) -> u16 {
            EM_X86_64
        }
    }

    pub const INFO: &[u8] =
        b"OSRELEASE=6.1\nSYMBOL(swapper_pg_dir)=ffffffff80a01000\nNUMBER(phys_base)=-10485760\nNUMBER(pgtable_l5_enabled)=0\n";

    /// All of the first MiB is mapped, but for these pages.
    pub fn small(absent: &[u64]) -> Small {
        let mut memory = vec![0_u8; 1 << 20];
        let mut put = |table: usize, index: usize, value: u64| memory[table + index * 8..][..8].copy_from_slice(&value.to_le_bytes());
        put(0x1000, 273, 0x2000 | 0x63);
        put(0x2000, 3, 0x3000 | 0x63);
        put(0x2000, 4, 0x4000_0000 | 0xe3);
        put(0x3000, 0, 0x4000 | 0x63);
        put(0x3000, 1, 0x20_0000 | 0xe3);
        for page in (0..256).filter(|p| !absent.contains(p)) {
            put(0x4000, usize::try_from(page).expect("small"), page << 12 | 0x8000_0000_0000_0063);
        }
        Small(memory)
    }

    fn none(_: &str) -> Option<u64> {
        None
    }

    #[test]
    fn what_is_mapped_is_told_from_what_is_not() {
        let memory = small(&[7, 8, 100]);
        let tables = Tables::of(&memory, INFO, none).expect("good");
        let look = |at: u64| tables.walk(&memory, DIRECT + at).map(|m| (m.physical, m.bytes)).expect("readable");
        assert_eq!(look(0x5010), (Some(0x5010), 2 * PAGE - 0x10));
        assert_eq!(look(0x7000), (None, 2 * PAGE));
        assert_eq!(look(0x8fff), (None, 1));
        assert_eq!(look(100 * PAGE), (None, PAGE));
        assert_eq!(look(256 * PAGE), (None, 256 * PAGE), "to the end of the table");
        assert_eq!(look(0x20_0001), (Some(0x20_0001), 0x1f_ffff));
        assert_eq!(look(0x60_0000), (None, 0x20_0000));
        assert_eq!(look(0x4000_0000), (Some(0x4000_0000), 1 << 30));
        assert_eq!(look(0x8000_0000), (None, 1 << 30));
        // The same by a symbol that only the list of symbols has.
        let rest = b"OSRELEASE=4.18\nNUMBER(phys_base)=-10485760\n";
        assert_eq!(Tables::of(&memory, rest, |name| (name == "init_top_pgt").then_some(0xffff_ffff_80a0_1000)), Ok(tables));
    }

    #[test]
    fn what_is_not_understood_is_not_used() {
        let why = |memory: &Small, info: &[u8]| Tables::of(memory, info, none).expect_err("refused");
        assert!(why(&small(&[]), b"OSRELEASE=6.1\n").contains("swapper_pg_dir"));
        assert!(why(&small(&[]), b"SYMBOL(swapper_pg_dir)=ffffffff80a01000\n").contains("phys_base"));
        assert!(why(&small(&[]), b"SYMBOL(swapper_pg_dir)=ffffffff80b01000\nNUMBER(phys_base)=0\n").contains("not in what"));
        let other = b"SYMBOL(swapper_pg_dir)=ffffffff80a02000\nNUMBER(phys_base)=-10485760\n";
        assert!(why(&small(&[]), other).contains("do not map themselves"));
        let five = b"SYMBOL(swapper_pg_dir)=ffffffff80a01000\nNUMBER(phys_base)=-10485760\nNUMBER(pgtable_l5_enabled)=1\n";
        assert!(why(&small(&[]), five).contains("do not map themselves"));
        // The top table maps itself in its own place elsewhere: a loop.
        let mut looped = small(&[]);
        looped.0[0x1000 + 273 * 8..][..8].copy_from_slice(&(0x1000_u64 | 0x63).to_le_bytes());
        assert!(why(&looped, INFO).contains("do not map themselves"));
        // A table far outside of memory is no answer at all.
        let mut outside = small(&[]);
        outside.0[0x3000 + 2 * 8..][..8].copy_from_slice(&0x000f_ffff_ffff_f063_u64.to_le_bytes());
        let tables = Tables::of(&outside, INFO, none).expect("good");
        assert_eq!(tables.walk(&outside, DIRECT + 0x40_0000), None);
    }

    /// Memory, and where it is mapped.
    struct Arm(Small, u64);

    impl Physical for Arm {
        fn name(&self) -> &'static str {
            "arm"
        }
        fn exposed(&self, ram: &[Range]) -> Vec<Range> {
            ram.to_vec()
        }
        fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(at, buf)
        }
        fn address_of(&self, at: u64) -> Option<u64> {
            Some(self.1 + at)
        }
        fn machine(&self) -> u16 {
            EM_AARCH64
        }
    }

    #[test]
    fn tables_of_arm_are_read() {
        let mut memory = vec![0_u8; 1 << 20];
        let entries =
            BTreeMap::from([(0x1000, 0x2003_u64), (0x2000, 0x3003), (0x2008, 0x4000_0701), (0x3000, 0x4003), (0x3008, 0x20_0701)]);
        for (at, entry) in entries {
            memory[at..at + 8].copy_from_slice(&entry.to_le_bytes());
        }
        for page in (0..512_usize).filter(|p| *p != 9) {
            memory[0x4000 + page * 8..][..8].copy_from_slice(&((page as u64 * PAGE) | 0x0068_0000_0000_0703).to_le_bytes());
        }
        let memory = Arm(Small(memory), 0xffff_0000_0000_0000);
        let info = b"SYMBOL(swapper_pg_dir)=ffff800008001000\nNUMBER(VA_BITS)=48\nNUMBER(kimage_voffset)=0xffff800008000000\n";
        let tables = Tables::of(&memory, info, none).expect("good");
        let look = |at: u64| tables.walk(&memory, 0xffff_0000_0000_0000 + at).map(|m| (m.physical, m.bytes)).expect("readable");
        assert_eq!((look(9 * PAGE), look(0x20_0010)), ((None, PAGE), (Some(0x20_0010), 0x1f_fff0)));
        assert_eq!((look(0x4000_0000), look(0x40_0000)), ((Some(0x4000_0000), 1 << 30), (None, 0x20_0000)));
        let wide = b"SYMBOL(swapper_pg_dir)=ffff800008001000\nNUMBER(VA_BITS)=52\nNUMBER(kimage_voffset)=0xffff800008000000\n";
        assert!(Tables::of(&memory, wide, none).expect_err("another form").contains("VA_BITS"));
    }

    #[test]
    fn tables_of_arm_with_addresses_of_52_bits_are_read() {
        const BASE: u64 = 0xfff0_0000_0000_0000;
        let mut memory = vec![0_u8; 1 << 20];
        // Bits 8 and 9 of an entry are bits 50 and 51 of its address; the last of these is a block where there is none.
        let entries =
            [(0x1000, 0x2003_u64), (0x2000, 0x3003), (0x3000, 0x4003), (0x3008, 0x4000_0601), (0x4000, 0x5003), (0x4008, 0x20_0501)];
        for (at, entry) in entries.into_iter().chain([(0x2008, 0x80_0000_0401)]) {
            memory[at..at + 8].copy_from_slice(&entry.to_le_bytes());
        }
        for page in (0..512_usize).filter(|p| *p != 9) {
            memory[0x5000 + page * 8..][..8].copy_from_slice(&((page as u64 * PAGE) | 0x0068_0000_0000_0403).to_le_bytes());
        }
        let memory = Arm(Small(memory), BASE);
        let of = |bits: &str| {
            let info =
                format!("SYMBOL(swapper_pg_dir)=ffff800008001000\nNUMBER(VA_BITS)=52\nNUMBER(kimage_voffset)=0xffff800008000000\n{bits}");
            Tables::of(&memory, info.as_bytes(), none)
        };
        let tables = of("NUMBER(TCR_EL1_T1SZ)=0xc\n").expect("good");
        let look = |at: u64| tables.walk(&memory, BASE + at).map(|m| (m.physical, m.bytes));
        assert_eq!((look(5 * PAGE), look(9 * PAGE)), (Some((Some(5 * PAGE), 4 * PAGE)), Some((None, PAGE))));
        assert_eq!(look(0x20_0010), Some((Some((1 << 50) + 0x20_0010), 0x1f_fff0)));
        assert_eq!(look(0x4000_0000), Some((Some((2 << 50) + 0x4000_0000), 1 << 30)));
        assert_eq!((look(1 << 39), look(2 << 39), look(1 << 48)), (None, Some((None, 1 << 39)), Some((None, 1 << 48))));
        // The same kernel on a processor without them would have four levels, which these are not.
        assert!(of("NUMBER(TCR_EL1_T1SZ)=0x10\n").expect_err("another form").contains("do not map themselves"));
        assert!(of("").expect_err("not said").contains("TCR_EL1_T1SZ"));
    }

    proptest::proptest! {
        #[test]
        fn no_table_is_too_much(entries in proptest::collection::vec((0_usize..0x5000 / 8, proptest::num::u64::ANY), 0..60), low: bool, at: u64) {
            let mut memory = small(&[]);
            for (index, value) in entries {
                let value = if low { value % 0x10_0000 } else { value };
                memory.0[index * 8..][..8].copy_from_slice(&value.to_le_bytes());
            }
            let tables = Tables { root: 0x1000, levels: 4, mask: 0x000f_ffff_ffff_f000, machine: EM_X86_64, wide: false };
            for address in [at, DIRECT + at % (1 << 31)] {
                if let Some(found) = tables.walk(&memory, address) {
                    proptest::prop_assert!(found.bytes > 0);
                }
            }
            let _ = Tables::of(&memory, INFO, none);
        }
    }
}
