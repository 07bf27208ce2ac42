//! The master boot record and the chain of extended boot records (IBM PC; as the kernel's `block/partitions/msdos.c` counts).

use std::collections::BTreeSet;

use super::table::{Partition, Sectors, Tables, le};

/// Type of the partition that protects a GPT from programs that know only MBRs.
pub const PROTECTIVE: &str = "ee";

/// Most logical partitions that are followed; the kernel itself stops far earlier.
const LOGICAL_MAX: u32 = 256;
/// Where the four entries stand, and how long one is.
const ENTRIES_AT: usize = 446;
const ENTRY_BYTES: usize = 16;
const SIGNATURE: u16 = 0xaa55;
/// An MBR is 512 bytes, whatever the sector.
const BYTES: usize = 512;

/// True for partitions that only hold others.
#[must_use]
pub fn is_container(kind: &str) -> bool {
    matches!(kind, "05" | "0f" | "85" | PROTECTIVE)
}

struct Entry {
    active: bool,
    kind: u8,
    start: u32,
    sectors: u32,
}

impl Entry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85) && self.sectors > 0
    }
}

fn entries(sector: &[u8]) -> [Entry; 4] {
    [0_usize, 1, 2, 3].map(|n| {
        let at = ENTRIES_AT.saturating_add(n.saturating_mul(ENTRY_BYTES));
        let byte = |offset: usize| sector.get(at.saturating_add(offset)).copied().unwrap_or(0);
        Entry {
            active: byte(0) & 0x80 != 0,
            kind: byte(4),
            start: le::u32(sector, at.saturating_add(8)),
            sectors: le::u32(sector, at.saturating_add(12)),
        }
    })
}

fn has_signature(sector: &[u8]) -> bool {
    le::u16(sector, 510) == SIGNATURE
}

/// File systems without a partition table begin with a boot sector that ends in the same two bytes.
fn is_volume(sector: &[u8]) -> bool {
    let at = |from: usize, text: &[u8]| sector.get(from..).is_some_and(|rest| rest.starts_with(text));
    at(3, b"NTFS    ") || at(3, b"EXFAT   ") || at(54, b"FAT") || at(82, b"FAT32") || at(3, b"-FVE-FS-")
}

/// Reads the MBR and what hangs from it.
pub fn read(disk: &mut dyn Sectors, unit: u64, tables: &mut Tables) {
    let sector = match disk.bytes("the first sector", 0, BYTES) {
        Ok(sector) => sector,
        Err(problem) => return tables.problems.push(problem),
    };
    tables.boot_signature = has_signature(&sector);
    if !tables.boot_signature || (tables.gpt.is_none() && is_volume(&sector)) {
        return;
    }
    tables.disk_signature = Some(format!("{:08x}", le::u32(&sector, 440))).filter(|s| s != "00000000");
    let all = entries(&sector);
    for (number, entry) in (1_u32..).zip(&all) {
        if entry.kind != 0 && entry.sectors > 0 {
            tables.mbr.push(partition(number, entry, 0, unit));
        }
    }
    for entry in all.iter().filter(|e| e.is_extended()) {
        follow(disk, unit, u64::from(entry.start), tables);
    }
}

fn partition(number: u32, entry: &Entry, base: u64, unit: u64) -> Partition {
    let kind = format!("{:02x}", entry.kind);
    Partition {
        number,
        offset: base.saturating_add(u64::from(entry.start)).saturating_mul(unit),
        length: u64::from(entry.sectors).saturating_mul(unit),
        type_name: type_name(entry.kind),
        kind,
        active: entry.active,
        ..Partition::default()
    }
}

/// Each extended boot record has one partition, relative to itself, and a link to the next, relative to the first.
fn follow(disk: &mut dyn Sectors, unit: u64, first: u64, tables: &mut Tables) {
    let mut seen = BTreeSet::new();
    let mut at = first;
    loop {
        if !seen.insert(at) {
            return tables.problems.push(format!("the chain of extended partitions leads back to sector {at}"));
        }
        let logical = tables.mbr.iter().filter(|p| p.number >= 5).count() as u32;
        if logical >= LOGICAL_MAX || seen.len() > LOGICAL_MAX as usize {
            return tables.problems.push(format!("more than {LOGICAL_MAX} logical partitions: the rest is not followed"));
        }
        let sector = match disk.bytes("an extended boot record", at.saturating_mul(unit), BYTES) {
            Ok(sector) => sector,
            Err(problem) => return tables.problems.push(problem),
        };
        if !has_signature(&sector) {
            return tables.problems.push(format!("the extended boot record in sector {at} has no signature"));
        }
        let [data, next, ..] = &entries(&sector);
        if data.kind != 0 && data.sectors > 0 && !data.is_extended() {
            tables.mbr.push(partition(logical.saturating_add(5), data, at, unit));
        }
        let link = [data, next].into_iter().find(|e| e.is_extended());
        match link {
            Some(link) => at = first.saturating_add(u64::from(link.start)),
            None => return,
        }
    }
}

fn type_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0x01 => "FAT12",
        0x04 | 0x06 | 0x0e => "FAT16",
        0x05 | 0x0f | 0x85 => "extended",
        0x07 => "NTFS, exFAT or HPFS",
        0x0b | 0x0c => "FAT32",
        0x27 => "Windows recovery",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x8e => "Linux LVM",
        0xa5 => "FreeBSD",
        0xa6 => "OpenBSD",
        0xa9 => "NetBSD",
        0xaf => "HFS",
        0xbf => "Solaris or ZFS",
        0xda => "not a file system",
        0xe8 => "LUKS",
        0xee => "protects a GPT",
        0xef => "EFI system",
        0xfb | 0xfc => "VMware",
        0xfd => "Linux RAID",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::table::testing::Bytes;
    use super::*;

    fn put(disk: &mut [u8], sector: usize, n: usize, entry: (u8, u32, u32)) {
        let at = sector * 512 + ENTRIES_AT + n * ENTRY_BYTES;
        disk[at + 4] = entry.0;
        disk[at + 8..at + 12].copy_from_slice(&entry.1.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&entry.2.to_le_bytes());
        disk[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    #[test]
    fn primary_and_logical_partitions_are_numbered_as_linux_does() {
        let mut disk = vec![0; 512 * 200];
        put(&mut disk, 0, 0, (0x83, 10, 20));
        put(&mut disk, 0, 2, (0x05, 50, 150));
        put(&mut disk, 50, 0, (0x82, 2, 10));
        put(&mut disk, 50, 1, (0x05, 30, 40));
        put(&mut disk, 80, 0, (0x8e, 2, 10));
        let tables = Tables::read(&mut Bytes(&disk), Some(512));
        let got: Vec<(u32, u64, u64, &str)> =
            tables.mbr.iter().map(|p| (p.number, p.offset / 512, p.length / 512, p.kind.as_str())).collect();
        assert_eq!(got, [(1, 10, 20, "83"), (3, 50, 150, "05"), (5, 52, 10, "82"), (6, 82, 10, "8e")]);
        assert_eq!(tables.problems, Vec::<String>::new());
        assert_eq!(tables.partitions().len(), 3);
    }

    #[test]
    fn a_chain_that_bites_its_tail_ends() {
        let mut disk = vec![0; 512 * 100];
        put(&mut disk, 0, 0, (0x0f, 50, 50));
        put(&mut disk, 50, 0, (0x83, 1, 2));
        put(&mut disk, 50, 1, (0x05, 10, 10));
        put(&mut disk, 60, 1, (0x05, 0, 10));
        let tables = Tables::read(&mut Bytes(&disk), Some(512));
        assert!(tables.problems.iter().any(|p| p.contains("leads back to sector 50")), "{:?}", tables.problems);
        // A link beyond the disk.
        put(&mut disk, 60, 1, (0x05, 9_999, 10));
        let tables = Tables::read(&mut Bytes(&disk), Some(512));
        assert!(tables.problems.iter().any(|p| p.contains("beyond the end")), "{:?}", tables.problems);
    }

    #[test]
    fn a_file_system_without_a_table_has_no_partitions() {
        let mut disk = vec![0xff; 512 * 4];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[3..11].copy_from_slice(b"NTFS    ");
        assert!(Tables::read(&mut Bytes(&disk), Some(512)).mbr.is_empty());
    }

    proptest::proptest! {
        /// Whatever stands in the sectors, reading ends, in bounds, and says what it found.
        #[test]
        fn any_sectors_are_handled(mut disk in proptest::collection::vec(proptest::num::u8::ANY, 512 * 4..512 * 40), links in proptest::collection::vec((0_usize..40, 0_usize..4, 0_u8..=255, 0_u32..40, 0_u32..=u32::MAX), 0..40)) {
            let sectors = disk.len() / 512;
            for (sector, n, kind, start, count) in links {
                put(&mut disk, sector % sectors, n, (if kind < 128 { 0x05 } else { kind }, start, count));
            }
            for unit in [Some(512), Some(4096), None] {
                let tables = Tables::read(&mut Bytes(&disk), unit);
                proptest::prop_assert!(tables.mbr.len() <= 4 + LOGICAL_MAX as usize);
                proptest::prop_assert!(tables.problems.len() <= 64);
            }
        }
    }
}
