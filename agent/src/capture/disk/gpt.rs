//! The GUID partition table (UEFI specification 2.10, section 5.3): both headers, their checksums and their entries.

use serde::Serialize;

use super::table::{Partition, Sectors, le};

/// What one header says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Header {
    /// Where it stands, in sectors.
    pub at: u64,
    /// Where it says that the other one stands.
    pub other: u64,
    /// First and last sector that partitions may use.
    pub usable: (u64, u64),
    /// The disk's GUID.
    pub disk_guid: String,
    /// Where the entries stand, how many there are and how long each is.
    pub entries: (u64, u32, u32),
    /// Both checksums are right.
    pub sound: bool,
}

/// A GPT.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Gpt {
    /// The sector size with which it was read, bytes.
    pub sector_bytes: u64,
    /// The header at the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<Header>,
    /// The header at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<Header>,
    /// The entries of the primary header if it is sound, else of the backup if that is, else of whichever there is.
    pub partitions: Vec<Partition>,
}

const SIGNATURE: &[u8] = b"EFI PART";
const HEADER_BYTES_MIN: u32 = 92;
const ENTRY_BYTES_MIN: u32 = 128;
/// Most bytes of entries that are read; the usual table has 16 KiB.
const ENTRIES_BYTES_MAX: u64 = 1 << 20;
/// Most partitions that are listed.
const PARTITIONS_MAX: usize = 1_024;

/// Reads a GPT with this sector size, if either header is there.
pub fn read(disk: &mut dyn Sectors, unit: u64, problems: &mut Vec<String>) -> Option<Gpt> {
    let last = (disk.size() / unit).checked_sub(1)?;
    let mut notes = Vec::new();
    let primary = one(disk, unit, 1, &mut notes);
    // Where the primary says that it stands; on a disk that was enlarged this is not its end.
    let said = primary.as_ref().map(|(h, _)| h.other).filter(|at| *at > 1 && *at < last);
    let mut backup = one(disk, unit, last, &mut notes);
    if backup.is_none()
        && let Some(at) = said
    {
        backup = one(disk, unit, at, &mut notes);
        if backup.is_some() {
            notes.push(format!("the backup of the GPT is in sector {at}, not at the end of the disk ({last}): the disk was enlarged"));
        }
    }
    if primary.is_none() && backup.is_none() {
        return None;
    }
    match (&primary, &backup) {
        (Some(_), None) => notes.push("the GPT has no backup".to_owned()),
        (None, Some(_)) => notes.push("the GPT's first header is gone; this is what its backup says".to_owned()),
        (Some((first, a)), Some((second, b))) => {
            if first.disk_guid != second.disk_guid {
                notes.push("the two headers of the GPT name different disks".to_owned());
            }
            if a != b {
                notes.push("the two copies of the GPT's entries differ".to_owned());
            }
        }
        (None, None) => {}
    }
    let usable = |found: &Option<(Header, Vec<Partition>)>| found.as_ref().is_some_and(|(h, _)| h.sound);
    let from = if usable(&primary) || !usable(&backup) { primary.as_ref().or(backup.as_ref()) } else { backup.as_ref() };
    let partitions = from.map(|(_, p)| p.clone()).unwrap_or_default();
    problems.append(&mut notes);
    Some(Gpt { sector_bytes: unit, primary: primary.map(|(h, _)| h), backup: backup.map(|(h, _)| h), partitions })
}

/// One header with its entries.
fn one(disk: &mut dyn Sectors, unit: u64, at: u64, problems: &mut Vec<String>) -> Option<(Header, Vec<Partition>)> {
    let sector = disk.bytes("a GPT header", at.checked_mul(unit)?, usize::try_from(unit).ok()?).ok()?;
    if !sector.starts_with(SIGNATURE) {
        return None;
    }
    let length = le::u32(&sector, 12);
    let mut header = Header {
        at,
        other: le::u64(&sector, 32),
        usable: (le::u64(&sector, 40), le::u64(&sector, 48)),
        disk_guid: guid(sector.get(56..72)?),
        entries: (le::u64(&sector, 72), le::u32(&sector, 80), le::u32(&sector, 84)),
        sound: false,
    };
    let mut sound = true;
    let mut wrong = |what: String| {
        problems.push(format!("the GPT header in sector {at}: {what}"));
        sound = false;
    };
    let body = sector.get(..length as usize).filter(|_| length >= HEADER_BYTES_MIN);
    match body {
        None => wrong(format!("it says that it is {length} bytes long")),
        Some(body) => {
            let mut zeroed = body.to_vec();
            zeroed.get_mut(16..20)?.fill(0);
            if crc32(&zeroed) != le::u32(&sector, 16) {
                wrong("its checksum is wrong".to_owned());
            }
        }
    }
    if le::u64(&sector, 24) != at {
        wrong(format!("it says that it stands in sector {}", le::u64(&sector, 24)));
    }
    let entries = entries(disk, unit, &header, le::u32(&sector, 88), &mut wrong);
    header.sound = sound;
    Some((header, entries))
}

fn entries(disk: &mut dyn Sectors, unit: u64, header: &Header, crc: u32, wrong: &mut dyn FnMut(String)) -> Vec<Partition> {
    let (at, count, length) = header.entries;
    let all = u64::from(count).saturating_mul(u64::from(length));
    if length < ENTRY_BYTES_MIN || !length.is_multiple_of(8) || all > ENTRIES_BYTES_MAX {
        wrong(format!("{count} entries of {length} bytes are not what a GPT has"));
        return Vec::new();
    }
    let bytes = match disk.bytes("the entries", at.saturating_mul(unit), usize::try_from(all).unwrap_or(0)) {
        Ok(bytes) => bytes,
        Err(problem) => {
            wrong(problem);
            return Vec::new();
        }
    };
    if crc32(&bytes) != crc {
        wrong("the checksum of its entries is wrong".to_owned());
    }
    let used: Vec<Partition> =
        (1_u32..).zip(bytes.chunks_exact(length as usize)).filter_map(|(n, e)| entry(n, e, unit)).take(PARTITIONS_MAX).collect();
    if used.len() >= PARTITIONS_MAX {
        wrong(format!("it has {PARTITIONS_MAX} partitions or more: those after are not listed"));
    }
    used
}

fn entry(number: u32, entry: &[u8], unit: u64) -> Option<Partition> {
    let kind = entry.get(..16)?;
    if kind.iter().all(|b| *b == 0) {
        return None;
    }
    let (first, last) = (le::u64(entry, 32), le::u64(entry, 40));
    let sectors = last.checked_sub(first).and_then(|n| n.checked_add(1)).unwrap_or(0);
    let name: Vec<u16> = entry.get(56..128)?.chunks_exact(2).map(|c| le::u16(c, 0)).take_while(|c| *c != 0).collect();
    let kind = guid(kind);
    Some(Partition {
        number,
        offset: first.saturating_mul(unit),
        length: sectors.saturating_mul(unit),
        type_name: type_name(&kind),
        kind,
        active: false,
        guid: Some(guid(entry.get(16..32)?)),
        name: Some(super::shown(String::from_utf16_lossy(&name).as_bytes())).filter(|n| !n.is_empty()),
        attributes: Some(le::u64(entry, 48)).filter(|a| *a != 0).map(|a| format!("{a:016x}")),
    })
}

/// A GUID as text: the first three parts are little-endian.
fn guid(bytes: &[u8]) -> String {
    let hex = |range: std::ops::Range<usize>| crate::capture::live::to_hex(bytes.get(range).unwrap_or_default());
    format!("{:08x}-{:04x}-{:04x}-{}-{}", le::u32(bytes, 0), le::u16(bytes, 4), le::u16(bytes, 6), hex(8..10), hex(10..16))
}

/// CRC-32 of ISO-HDLC (zlib, IEEE 802.3), bit by bit: headers and tables are small.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0_u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }))
}

fn type_name(guid: &str) -> Option<&'static str> {
    Some(match guid {
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" => "EFI system",
        "21686148-6449-6e6f-744e-656564454649" => "BIOS boot",
        "0fc63daf-8483-4772-8e79-3d69d8477de4" => "Linux file system",
        "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f" => "Linux swap",
        "e6d6d379-f507-44c2-a23c-238f2a3df928" => "Linux LVM",
        "a19d880f-05fc-4d3b-a006-743f0f84911e" => "Linux RAID",
        "ca7d7ccb-63ed-4c53-861c-1742536059cc" => "LUKS",
        "4f68bce3-e8cd-4db1-96e7-fbcaf984b709" => "Linux root (x86-64)",
        "b921b045-1df0-41c3-af44-4c6f280d3fae" => "Linux root (AArch64)",
        "933ac7e1-2eb4-4f13-b844-0e14e2aef915" => "Linux home",
        "bc13c2ff-59e6-4262-a352-b275fd6f7172" => "Linux extended boot",
        "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7" => "Microsoft basic data",
        "e3c9e316-0b5c-4db8-817d-f92df00215ae" => "Microsoft reserved",
        "de94bba4-06d1-4d40-a16a-bfd50179d6ac" => "Windows recovery",
        "6a898cc3-1dd2-11b2-99a6-080020736631" => "ZFS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::table::Tables;
    use super::super::table::testing::Bytes;
    use super::*;

    /// A GPT with one partition, made as the specification says.
    pub fn sample(unit: usize, sectors: usize) -> Vec<u8> {
        let mut disk = vec![0; unit * sectors];
        let mut entries = vec![0; 128 * 128];
        entries[..16].copy_from_slice(&[0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4]);
        entries[16..32].fill(7);
        entries[32..40].copy_from_slice(&40_u64.to_le_bytes());
        entries[40..48].copy_from_slice(&49_u64.to_le_bytes());
        entries[56..60].copy_from_slice(&[b'h', 0, b'i', 0]);
        let table = entries.len().div_ceil(unit);
        let last = sectors - 1;
        for (at, other, entries_at) in [(1, last, 2), (last, 1, last - table)] {
            let mut header = vec![0; 92];
            header[..8].copy_from_slice(SIGNATURE);
            header[8..12].copy_from_slice(&[0, 0, 1, 0]);
            header[12..16].copy_from_slice(&92_u32.to_le_bytes());
            for (place, value) in [(24, at), (32, other), (40, 2 + table), (48, last - table - 1), (72, entries_at)] {
                header[place..place + 8].copy_from_slice(&(value as u64).to_le_bytes());
            }
            header[56..72].fill(9);
            header[80..84].copy_from_slice(&128_u32.to_le_bytes());
            header[84..88].copy_from_slice(&128_u32.to_le_bytes());
            header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
            let crc = crc32(&header);
            header[16..20].copy_from_slice(&crc.to_le_bytes());
            disk[at * unit..at * unit + 92].copy_from_slice(&header);
            disk[entries_at * unit..entries_at * unit + entries.len()].copy_from_slice(&entries);
        }
        // Protective.
        disk[450] = 0xee;
        disk[454..458].copy_from_slice(&1_u32.to_le_bytes());
        disk[458..462].copy_from_slice(&(last as u32).to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    #[test]
    fn a_sound_table_is_read_in_every_sector_size() {
        for unit in [512_usize, 4096] {
            let disk = sample(unit, 200);
            // An image file does not say what its sectors are.
            for told in [Some(unit as u32), None] {
                let tables = Tables::read(&mut Bytes(&disk), told);
                let gpt = tables.gpt.as_ref().expect("a GPT");
                assert_eq!((gpt.sector_bytes, tables.problems.as_slice()), (unit as u64, &[][..]));
                assert!(gpt.primary.as_ref().is_some_and(|h| h.sound) && gpt.backup.as_ref().is_some_and(|h| h.sound));
                let [part] = gpt.partitions.as_slice() else { panic!("{gpt:?}") };
                assert_eq!((part.offset, part.length), (40 * unit as u64, 10 * unit as u64));
                assert_eq!((part.type_name, part.name.as_deref()), (Some("Linux file system"), Some("hi")));
            }
        }
    }

    #[test]
    fn damage_is_named_and_the_backup_serves() {
        let whole = sample(512, 200);
        let mut disk = whole.clone();
        disk[512..1024].fill(0);
        let tables = Tables::read(&mut Bytes(&disk), Some(512));
        assert_eq!(tables.gpt.as_ref().map(|g| g.partitions.len()), Some(1));
        assert!(tables.problems.iter().any(|p| p.contains("first header is gone")), "{:?}", tables.problems);
        // An entry was changed: the checksum tells, and the copies differ.
        let mut disk = whole.clone();
        disk[2 * 512 + 40] ^= 1;
        let tables = Tables::read(&mut Bytes(&disk), Some(512));
        assert!(tables.problems.iter().any(|p| p.contains("checksum of its entries")), "{:?}", tables.problems);
        assert!(tables.problems.iter().any(|p| p.contains("entries differ")), "{:?}", tables.problems);
        assert_eq!(tables.gpt.as_ref().map(|g| g.partitions[0].length), Some(10 * 512), "the sound copy counts");
        // The disk was enlarged.
        let mut disk = whole;
        disk.resize(512 * 400, 0);
        let tables = Tables::read(&mut Bytes(&disk), Some(512));
        assert!(tables.problems.iter().any(|p| p.contains("was enlarged")), "{:?}", tables.problems);
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    proptest::proptest! {
        /// Any damage of a sound table is survived, in bounds.
        #[test]
        fn any_damage_is_handled(hits in proptest::collection::vec((0_usize..512 * 64, proptest::num::u8::ANY), 1..40), cut in 0_usize..512 * 100, told: bool) {
            let mut disk = sample(512, 100);
            for (at, byte) in hits {
                // Header and entries at the beginning, and now and then at the end.
                let at = if at % 3 == 0 { disk.len() - 1 - at % 20_000 } else { at };
                disk[at] = byte;
            }
            disk.truncate(512 * 100 - cut);
            let tables = Tables::read(&mut Bytes(&disk), told.then_some(512));
            proptest::prop_assert!(tables.problems.len() <= 64);
            proptest::prop_assert!(tables.gpt.is_none_or(|g| g.partitions.len() <= PARTITIONS_MAX));
        }
    }
}
