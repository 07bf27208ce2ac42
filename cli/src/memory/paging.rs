//! Page tables of x86-64 (Intel SDM volume 3, chapter 4.5): where the kernel sees physical memory.

use super::image::Physical;
use super::lime::ADDRESS_MAX;
use super::vmcoreinfo::VmcoreInfo;

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// Kernels move the beginning of the direct map by whole gigabytes (`arch/x86/mm/kaslr.c`).
const GIGABYTE: u64 = 1 << 30;

/// A kernel's page tables in an image.
pub struct Tables<'a> {
    memory: &'a dyn Physical,
    root: u64,
    levels: u32,
    /// Bits of an entry that are an address: without the one that marks encrypted memory (AMD SME).
    mask: u64,
}

impl<'a> Tables<'a> {
    /// The tables that a kernel says it has; none where it does not say.
    pub fn of(info: &VmcoreInfo, memory: &'a dyn Physical) -> Option<Self> {
        let encrypted = info.number("sme_mask").unwrap_or(0);
        let levels = if info.five_levels() { 5 } else { 4 };
        Some(Self { memory, root: info.top_table()?, levels, mask: ADDRESS_MAX & !0xfff & !encrypted })
    }

    fn entry(&self, table: u64, index: u64) -> Option<u64> {
        self.memory.u64(table.checked_add(index.checked_mul(8)?)?).filter(|entry| entry & PRESENT != 0)
    }

    /// The physical address of a virtual one; none where nothing is mapped, or a table is not in the image.
    pub fn physical(&self, address: u64) -> Option<u64> {
        let mut table = self.root;
        for level in (1..=self.levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let entry = self.entry(table, (address >> shift) & 511)?;
            if level == 1 || (entry & LARGE != 0 && level <= 3) {
                let inside = (1_u64 << shift) - 1;
                return Some((entry & self.mask & !inside) | (address & inside));
            }
            table = entry & self.mask;
        }
        None
    }

    /// Where the direct map of all memory begins, and of how many of `probes` (addresses of memory) the tables say so: of the places that
    /// they map in the kernel's half, the one that most probes have there, if it is more than half of them. Single pages may be missing:
    /// kernels take secret and poisoned ones out. Of the areas whose place is drawn at boot the direct map is always the first.
    pub fn direct_map(&self, probes: &[u64]) -> Option<(u64, usize)> {
        let canonical = if self.levels == 5 { 0xfe00_0000_0000_0000 } else { 0xffff_0000_0000_0000 };
        let mut best: Option<(u64, usize)> = None;
        for top in 256..512_u64 {
            let Some(base) = self.entry(self.root, top).and_then(|entry| self.lowest_mapped(entry, canonical, top)) else { continue };
            if !base.is_multiple_of(GIGABYTE) {
                continue;
            }
            let agree = probes.iter().filter(|p| self.physical(base.wrapping_add(**p)) == Some(**p)).count();
            if agree > best.map_or(probes.len() / 2, |(_, most)| most) {
                best = Some((base, agree));
            }
        }
        best
    }

    /// The virtual less the physical address of the first page below an entry of the top table.
    fn lowest_mapped(&self, mut entry: u64, mut address: u64, mut index: u64) -> Option<u64> {
        for level in (1..=self.levels).rev() {
            let shift = 12 + 9 * (level - 1);
            address |= index << shift;
            if level == 1 || (entry & LARGE != 0 && level <= 3) {
                let inside = (1_u64 << shift) - 1;
                return Some(address.wrapping_sub(entry & self.mask & !inside));
            }
            // Only the first that is there: an empty table beside it would be strange, and looking further could take for ever.
            (index, entry) = (0..512).find_map(|i| Some((i, self.entry(entry & self.mask, i)?)))?;
        }
        None
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::memory::image::Pages;
    use proptest::prelude::*;

    /// Tables of 4 levels: 0x1000 top, 0x2000 third, 0x3000 second, 0x4000 first; the direct map begins 3 GiB into entry 273.
    pub fn tables() -> Pages {
        let mut memory = vec![0_u8; 0x5000];
        let mut put = |table: usize, index: usize, value: u64| memory[table + index * 8..][..8].copy_from_slice(&value.to_le_bytes());
        put(0x1000, 273, 0x2000 | 0x63);
        put(0x2000, 3, 0x3000 | 0x63);
        put(0x2000, 4, 0x4000_0000 | 0xe3);
        put(0x3000, 0, 0x4000 | 0x63);
        for page in 1..512 {
            put(0x4000, page, (page as u64) << 12 | 0x8000_0000_0000_0063);
        }
        put(0x3000, 1, 0x0020_0000 | 0xe3);
        let mut pages = Pages::new(0..0x10_0000);
        pages.keep(0, &memory);
        pages
    }

    fn info(five: bool) -> VmcoreInfo {
        let text = format!(
            "OSRELEASE=6.1\nSYMBOL(swapper_pg_dir)=ffffffff80001000\nNUMBER(phys_base)=0\nNUMBER(pgtable_l5_enabled)={}\n",
            u8::from(five)
        );
        VmcoreInfo::parse(text.as_bytes()).expect("good")
    }

    #[test]
    fn the_direct_map_is_where_the_tables_say() {
        let memory = tables();
        let tables = Tables::of(&info(false), &memory).expect("root");
        let base = 0xffff_8880_0000_0000 + 3 * GIGABYTE;
        assert_eq!(tables.physical(base), None, "page zero is not mapped");
        assert_eq!(tables.physical(base + 0x1234), Some(0x1234));
        assert_eq!(tables.physical(base + 0x20_0001), Some(0x20_0001));
        assert_eq!(tables.physical(base + 0x4000_0123), Some(0x4000_0123));
        assert_eq!(tables.direct_map(&[0x1000, 0x3f_ffff]), Some((base, 2)));
        assert_eq!(tables.direct_map(&[0x1000, 0x3f_f000, 0x40_0000]), Some((base, 2)), "one page that is not mapped denies nothing");
        assert_eq!(tables.direct_map(&[0x1000, 0x40_0000]), None, "half of them is no majority");
        assert_eq!(tables.direct_map(&[0x40_0000]), None, "none is mapped there");
    }

    proptest! {
        #[test]
        fn no_table_is_too_much(entries in proptest::collection::vec((0_usize..0x5000 / 8, 0_u64..0x6000), 0..40), five: bool) {
            let mut memory = vec![0_u8; 0x5000];
            for (index, value) in entries {
                memory[index * 8..][..8].copy_from_slice(&value.to_le_bytes());
            }
            let mut pages = Pages::new(0..0x10_0000);
            pages.keep(0, &memory);
            let _ = Tables::of(&info(five), &pages).and_then(|t| t.direct_map(&[0x1000]));
        }
    }
}
