//! Raw memory: the offset is the physical address. Between ranges lie holes, and so do pages that are zero: programs cannot tell them
//! from memory that was not there, so the image of record stays the LiME one.

use std::collections::BTreeMap;

use super::{Conversion, Made, Memory, Output, Unread, sparsely};
use crate::exit::{Code, Failure, Result};
use crate::memory::lime::Range;
use crate::units::show_bytes;

/// The largest file that is made: no machine has memory beyond, and file systems end near it.
const SIZE_MAX: u64 = 16 << 40;

/// Why an image cannot have this format, as far as its item says where its memory ends; later ones are found while it is made.
pub fn refusal(facts: &BTreeMap<String, String>) -> Option<String> {
    let end = facts.get("image_end").and_then(|end| u64::from_str_radix(end.strip_prefix("0x")?, 16).ok())?;
    (end > SIZE_MAX).then(|| format!("its memory ends at {end:#x}: a raw file would be larger than {}", show_bytes(SIZE_MAX)))
}

/// Makes raw memory.
#[derive(Debug, Default)]
pub struct Raw {
    memory: Memory,
    unread: Unread,
}

impl Raw {
    /// Nothing of a file yet.
    pub fn new(memory: Memory, unread: Unread) -> Self {
        Self { memory, unread }
    }

    /// How much of the file is what: what nobody read is no memory.
    fn note(&self, memory: u64, size: u64) -> String {
        let Unread { bytes, at_most } = self.unread;
        let (read, size) = (show_bytes(memory.saturating_sub(bytes)), show_bytes(size));
        if bytes == 0 {
            return format!("{read} of its {size} are memory, the rest is between ranges");
        }
        let least = if at_most { "at least " } else { "" };
        format!(
            "{least}{read} of its {size} are memory that was read; {} could not be read and are zeros; the rest is between ranges",
            self.unread
        )
    }
}

impl Conversion for Raw {
    fn write(&mut self, offset: u64, bytes: &[u8], out: &mut dyn Output) -> Result<()> {
        self.memory.take(offset, bytes, |piece, zeros| {
            if piece.address.saturating_add(piece.bytes.len() as u64) > SIZE_MAX {
                let problem = format!("memory at {:#x}: a raw file would be larger than {}", piece.address, show_bytes(SIZE_MAX));
                return Err(Failure::new(Code::Input, problem).hint("--as elf has no such limit"));
            }
            if zeros { Ok(()) } else { sparsely(out, piece.address, piece.bytes) }
        })
    }

    fn end(&mut self, size: u64, _: &mut dyn Output) -> Result<Made> {
        let ranges = self.memory.end(size, |_, _| Ok(()))?;
        let mut notes = self.memory.notes(&ranges, size);
        let size = ranges.last().map_or(0, |r: &Range| r.end());
        notes.push(self.note(ranges.iter().map(|r| r.len).sum(), size));
        Ok(Made { size, notes })
    }
}
