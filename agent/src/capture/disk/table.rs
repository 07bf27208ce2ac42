//! Partition tables, read from the sectors themselves: MBR with its chain of extended partitions, and GPT with both of its
//! headers. What is on a disk is hostile: nothing is trusted that the bounds of the disk, or a checksum, do not bear out, and
//! every contradiction is a sentence in `problems`, never a reason to stop.

use std::io;

use serde::Serialize;

pub use super::gpt::Gpt;
use super::{gpt, mbr};

/// Reads ranges of a disk for those who interpret it.
pub trait Sectors {
    /// Bytes of the whole.
    fn size(&self) -> u64;

    /// Fills the buffer from an offset; fewer bytes only at the end of the disk.
    ///
    /// # Errors
    /// What the kernel said.
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// `count` bytes from an offset, or why not all of them could be had.
    ///
    /// # Errors
    /// A sentence for `problems`.
    fn bytes(&mut self, what: &str, offset: u64, count: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; count];
        match self.read(offset, &mut bytes) {
            Ok(got) if got == count => Ok(bytes),
            Ok(_) => Err(format!("{what} at byte {offset} lies beyond the end of the disk")),
            Err(e) => Err(format!("{what} at byte {offset} cannot be read: {e}")),
        }
    }
}

/// One entry of a partition table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its number, as Linux counts: 1 to 4 and from 5 on (logical) in an MBR, the entry's number in a GPT.
    pub number: u32,
    /// Where it begins, bytes from the start of the disk.
    pub offset: u64,
    /// Bytes, as the table says; it may reach beyond the disk.
    pub length: u64,
    /// The type: two hexadecimal digits in an MBR, a GUID in a GPT.
    #[serde(rename = "type")]
    pub kind: String,
    /// The type in words, if it is a known one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_name: Option<&'static str>,
    /// The MBR's mark of the partition to start from.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub active: bool,
    /// The partition's own GUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guid: Option<String>,
    /// Its name, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The GPT's attribute bits, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<String>,
}

impl Partition {
    /// Where it ends.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// What the first sectors say about the division of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tables {
    /// The MBR's signature 55 AA is there.
    pub boot_signature: bool,
    /// The MBR's disk signature, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_signature: Option<String>,
    /// Partitions of the MBR, the protective one of a GPT among them.
    pub mbr: Vec<Partition>,
    /// The GPT, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpt: Option<Gpt>,
    /// Everything that does not fit together.
    pub problems: Vec<String>,
}

/// Most problems that are listed.
const PROBLEMS_MAX: usize = 64;

impl Tables {
    /// Reads both. `sector` is the logical sector in bytes; of an image file, which does not say, the usual ones are tried.
    #[must_use]
    pub fn read(disk: &mut dyn Sectors, sector: Option<u32>) -> Self {
        let mut tables = Self::default();
        let candidates: &[u32] = if sector.is_some() { &[] } else { &[512, 4096, 2048, 1024] };
        let tried: Vec<u32> = sector.into_iter().chain(candidates.iter().copied()).collect();
        let mut unit = tried.first().copied().unwrap_or(512);
        for candidate in tried {
            if let Some(found) = gpt::read(disk, u64::from(candidate), &mut tables.problems) {
                unit = candidate;
                tables.gpt = Some(found);
                break;
            }
        }
        mbr::read(disk, u64::from(unit), &mut tables);
        tables.compare(disk.size());
        tables.problems.truncate(PROBLEMS_MAX);
        tables
    }

    /// The partitions that count: those of the GPT where there is one, else those of the MBR that hold something.
    #[must_use]
    pub fn partitions(&self) -> Vec<&Partition> {
        match &self.gpt {
            Some(gpt) => gpt.partitions.iter().collect(),
            None => self.mbr.iter().filter(|p| !mbr::is_container(&p.kind)).collect(),
        }
    }

    fn compare(&mut self, size: u64) {
        let mut parts: Vec<(u32, u64, u64)> = self.partitions().iter().map(|p| (p.number, p.offset, p.end())).collect();
        parts.sort_by_key(|(_, offset, _)| *offset);
        let mut reached = (0, 0);
        let mut problems = Vec::new();
        for (number, offset, end) in parts {
            if end > size {
                problems.push(format!("partition {number} ends at byte {end}, beyond the end of the disk ({size})"));
            }
            if offset < reached.1 {
                problems.push(format!("partition {number} overlaps partition {}", reached.0));
            }
            if end > reached.1 {
                reached = (number, end);
            }
        }
        let protective = self.mbr.iter().any(|p| p.kind == mbr::PROTECTIVE);
        if self.gpt.is_some() && !protective {
            problems.push("there is a GPT, but the MBR does not protect it".to_owned());
        }
        if self.gpt.is_some() && self.mbr.iter().any(|p| p.kind != mbr::PROTECTIVE) {
            problems.push("the MBR lists partitions beside the one that protects the GPT (hybrid)".to_owned());
        }
        if self.gpt.is_none() && protective {
            problems.push("the MBR announces a GPT, and there is none that can be read".to_owned());
        }
        self.problems.extend(problems);
    }
}

/// Little-endian numbers out of a sector; zero beyond its end, which no caller's bounds allow.
pub(super) mod le {
    pub fn u16(bytes: &[u8], at: usize) -> u16 {
        array(bytes, at).map_or(0, u16::from_le_bytes)
    }
    pub fn u32(bytes: &[u8], at: usize) -> u32 {
        array(bytes, at).map_or(0, u32::from_le_bytes)
    }
    pub fn u64(bytes: &[u8], at: usize) -> u64 {
        array(bytes, at).map_or(0, u64::from_le_bytes)
    }
    fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
        bytes.get(at..at.saturating_add(N))?.try_into().ok()
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A disk in memory.
    pub struct Bytes<'a>(pub &'a [u8]);

    impl Sectors for Bytes<'_> {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            let rest = usize::try_from(offset).ok().and_then(|o| self.0.get(o..)).unwrap_or_default();
            let count = rest.len().min(buf.len());
            buf[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
    }
}
