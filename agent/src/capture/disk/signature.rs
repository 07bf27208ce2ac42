//! What a device or partition holds, by the marks that file systems, encryption, volume managers and image formats leave at
//! fixed places. Only marks are looked for: that one is there does not mean that the rest is sound, and all that are there are
//! listed, because an older one is a trace of what was there before.

use serde::Serialize;

use super::table::{Sectors, le};

/// One mark.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// What it is a mark of, in the word that blkid(8) uses where it has one.
    pub what: &'static str,
    /// Where the mark stands, bytes from the start of the range.
    pub at: u64,
    /// The identifier that stands beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The name that stands beside it, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Bytes of the file system, as it says itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What else is worth knowing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// All marks but those of ZFS and md's old formats lie within so many first bytes.
pub const HEAD_BYTES: usize = 160 << 10;

/// A mark: name, where it stands, its bytes, and what to read beside it.
struct Mark {
    what: &'static str,
    at: usize,
    bytes: &'static [u8],
    more: fn(&[u8], &mut Signature),
}

const fn mark(what: &'static str, at: usize, bytes: &'static [u8], more: fn(&[u8], &mut Signature)) -> Mark {
    Mark { what, at, bytes, more }
}

/// Sources: each format's own header file or specification; places as in libblkid's probes, which were looked up, not copied.
const MARKS: &[Mark] = &[
    mark("crypto_LUKS", 0, b"LUKS\xba\xbe", luks),
    mark("crypto_LUKS", 0x4000, b"SKUL\xba\xbe", |_, s| s.note = Some("second header of LUKS2")),
    mark("BitLocker", 3, b"-FVE-FS-", nothing),
    mark("LVM2_member", 0, b"LABELONE", |head, s| lvm(head, 0, s)),
    mark("LVM2_member", 512, b"LABELONE", |head, s| lvm(head, 512, s)),
    mark("LVM2_member", 1024, b"LABELONE", |head, s| lvm(head, 1024, s)),
    mark("LVM2_member", 1536, b"LABELONE", |head, s| lvm(head, 1536, s)),
    mark("linux_raid_member", 0, &[0xfc, 0x4e, 0x2b, 0xa9], |head, s| md(head, 0, s)),
    mark("linux_raid_member", 4096, &[0xfc, 0x4e, 0x2b, 0xa9], |head, s| md(head, 4096, s)),
    mark("ext", 1080, &[0x53, 0xef], ext),
    mark("xfs", 0, b"XFSB", xfs),
    mark("btrfs", 0x1_0040, b"_BHRfS_M", btrfs),
    mark("f2fs", 1024, &[0x10, 0x20, 0xf5, 0xf2], |head, s| s.uuid = uuid(head, 1024 + 108)),
    mark("erofs", 1024, &[0xe2, 0xe1, 0xf5, 0xe0], |head, s| s.uuid = uuid(head, 1024 + 48)),
    mark("bcachefs", 4096 + 24, BCACHEFS, |head, s| s.uuid = uuid(head, 4096 + 56)),
    mark("bcache", 4096 + 24, BCACHE, |head, s| s.uuid = uuid(head, 4096 + 40)),
    mark("swap", 4086, b"SWAPSPACE2", swap),
    mark("swap", 65_526, b"SWAPSPACE2", swap),
    mark("swsuspend", 4086, b"S1SUSPEND", |_, s| s.note = Some("holds a hibernated system's memory")),
    mark("ntfs", 3, b"NTFS    ", |head, s| s.size = Some(le::u64(head, 40).saturating_mul(u64::from(le::u16(head, 11))))),
    mark("exfat", 3, b"EXFAT   ", nothing),
    mark("vfat", 82, b"FAT32   ", |head, s| s.label = label(head, 71, 11)),
    mark("vfat", 54, b"FAT16   ", |head, s| s.label = label(head, 43, 11)),
    mark("vfat", 54, b"FAT12   ", |head, s| s.label = label(head, 43, 11)),
    mark("iso9660", 0x8001, b"CD001", |head, s| s.label = label(head, 0x8028, 32)),
    mark("squashfs", 0, b"hsqs", nothing),
    mark("reiserfs", 0x1_0034, b"ReIsEr", nothing),
    mark("jfs", 0x8000, b"JFS1", nothing),
    mark("hfsplus", 1024, b"H+", nothing),
    mark("apfs", 32, b"NXSB", nothing),
    mark("zfs_member", 0x2_0000, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0], nothing),
    mark("qcow", 0, b"QFI\xfb", image),
    mark("vmdk", 0, b"KDMV", image),
    mark("vhdx", 0, b"vhdxfile", image),
    mark("vdi", 0x40, &[0x7f, 0x10, 0xda, 0xbe], image),
    mark("ewf", 0, b"EVF\x09\x0d\x0a\xff\x00", image),
];

const BCACHE: &[u8] = &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81];
const BCACHEFS: &[u8] = &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef];

/// The marks in a range of a disk.
///
/// # Errors
/// Why its beginning cannot be read.
pub fn probe(disk: &mut dyn Sectors, offset: u64, length: u64) -> Result<Vec<Signature>, String> {
    let count = usize::try_from(length.min(disk.size().saturating_sub(offset))).unwrap_or(usize::MAX).min(HEAD_BYTES);
    Ok(marks(&disk.bytes("what is there", offset, count)?))
}

/// The marks in the first bytes of something.
#[must_use]
pub fn marks(head: &[u8]) -> Vec<Signature> {
    let there = |m: &&Mark| head.get(m.at..).is_some_and(|rest| rest.starts_with(m.bytes));
    let found = MARKS.iter().filter(there).map(|m| {
        let mut signature = Signature { what: m.what, at: m.at as u64, ..Signature::default() };
        (m.more)(head, &mut signature);
        signature
    });
    found.collect()
}

fn nothing(_: &[u8], _: &mut Signature) {}

fn image(_: &[u8], s: &mut Signature) {
    s.note = Some("a format of disk images: the disk's bytes are inside it");
}

fn luks(head: &[u8], s: &mut Signature) {
    s.uuid = label(head, 168, 40);
    match head.get(6..8) {
        Some([0, 1]) => s.note = Some("version 1"),
        Some([0, 2]) => {
            s.note = Some("version 2");
            s.label = label(head, 24, 48);
        }
        _ => s.note = Some("unknown version"),
    }
}

fn lvm(head: &[u8], at: usize, s: &mut Signature) {
    // The id of the physical volume begins where the label header says.
    let from = at.saturating_add(le::u32(head, at.saturating_add(20)) as usize);
    s.uuid = label(head, from, 32);
    s.size = Some(le::u64(head, from.saturating_add(32))).filter(|n| *n > 0);
}

fn md(head: &[u8], at: usize, s: &mut Signature) {
    s.uuid = uuid(head, at.saturating_add(16));
    s.label = label(head, at.saturating_add(32), 32);
}

fn ext(head: &[u8], s: &mut Signature) {
    const AT: usize = 1024;
    let (compatible, incompatible) = (le::u32(head, AT + 92), le::u32(head, AT + 96));
    s.what = match (compatible & 0x4, incompatible & (0x40 | 0x80 | 0x200)) {
        (_, 1..) => "ext4",
        (1.., 0) => "ext3",
        (0, 0) => "ext2",
    };
    s.uuid = uuid(head, AT + 104);
    s.label = label(head, AT + 120, 16);
    let high = if incompatible & 0x80 != 0 { u64::from(le::u32(head, AT + 0x150)) << 32 } else { 0 };
    s.size = 1024_u64.checked_shl(le::u32(head, AT + 24)).and_then(|block| block.checked_mul(high | u64::from(le::u32(head, AT + 4))));
    if incompatible & 0x4 != 0 {
        s.note = Some("its journal is to be replayed: it was in use, or not unmounted");
    }
}

fn xfs(head: &[u8], s: &mut Signature) {
    s.uuid = uuid(head, 32);
    s.label = label(head, 108, 12);
    let be = |at: usize, count: usize| {
        head.get(at..at.saturating_add(count)).unwrap_or_default().iter().fold(0_u64, |n, b| (n << 8) | u64::from(*b))
    };
    s.size = be(4, 4).checked_mul(be(8, 8));
}

fn btrfs(head: &[u8], s: &mut Signature) {
    s.uuid = uuid(head, 0x1_0020);
    s.label = label(head, 0x1_012b, 256);
    s.size = Some(le::u64(head, 0x1_0070));
    if le::u64(head, 0x1_0088) > 1 {
        s.note = Some("one of several devices of a file system");
    }
}

fn swap(head: &[u8], s: &mut Signature) {
    s.uuid = uuid(head, 1024 + 12);
    s.label = label(head, 1024 + 28, 16);
}

fn uuid(head: &[u8], at: usize) -> Option<String> {
    let bytes = head.get(at..at.saturating_add(16))?;
    let hex = |range: std::ops::Range<usize>| crate::capture::live::to_hex(bytes.get(range).unwrap_or_default());
    Some(format!("{}-{}-{}-{}-{}", hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16)))
        .filter(|u| u.bytes().any(|b| !matches!(b, b'0' | b'-')))
}

/// A text that ends at the first zero, without blanks at its end.
fn label(head: &[u8], at: usize, length: usize) -> Option<String> {
    let bytes = head.get(at..at.saturating_add(length))?;
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default().trim_ascii_end();
    (!text.is_empty()).then(|| exhibit_evidence::text::escape_bytes(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_where_they_belong() {
        let mut head = vec![0; HEAD_BYTES];
        assert!(marks(&head).is_empty());
        head[..6].copy_from_slice(b"LUKS\xba\xbe");
        head[7] = 2;
        head[168..172].copy_from_slice(b"abcd");
        head[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
        let found = marks(&head);
        assert_eq!(found.iter().map(|s| s.what).collect::<Vec<_>>(), ["crypto_LUKS", "btrfs"], "the older one too");
        assert_eq!((found[0].note, found[0].uuid.as_deref()), (Some("version 2"), Some("abcd")));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled(mut head in proptest::collection::vec(proptest::num::u8::ANY, 0..70_000), place in 0_usize..40, numbers in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            if let Some(m) = MARKS.get(place) {
                let end = (m.at + m.bytes.len()).min(head.len());
                if let Some(to) = head.get_mut(m.at.min(end)..end) {
                    let count = to.len();
                    to.copy_from_slice(&m.bytes[..count]);
                }
                for (to, from) in head.iter_mut().skip(m.at + m.bytes.len()).zip(numbers) {
                    *to = from;
                }
            }
            for signature in marks(&head) {
                proptest::prop_assert!(signature.label.is_none_or(|l| l.len() <= 256 * 4));
            }
        }
    }
}
