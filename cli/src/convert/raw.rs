//! Raw memory: the offset is the physical address. Between ranges lie holes, and so do pages that are zero: programs cannot tell them
//! from memory that was not there, so the image of record stays the LiME one.

use std::collections::BTreeMap;

use super::{Conversion, Made, Memory, Output, sparsely};
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
pub struct Raw(Memory);

impl Conversion for Raw {
    fn write(&mut self, offset: u64, bytes: &[u8], out: &mut dyn Output) -> Result<()> {
        self.0.take(offset, bytes, |piece, zeros| {
            if piece.address.saturating_add(piece.bytes.len() as u64) > SIZE_MAX {
                let problem = format!("memory at {:#x}: a raw file would be larger than {}", piece.address, show_bytes(SIZE_MAX));
                return Err(Failure::new(Code::Input, problem).hint("--as elf has no such limit"));
            }
            if zeros { Ok(()) } else { sparsely(out, piece.address, piece.bytes) }
        })
    }

    fn end(&mut self, size: u64, _: &mut dyn Output) -> Result<Made> {
        let ranges = self.0.end(size, |_, _| Ok(()))?;
        let size = ranges.last().map_or(0, |r: &Range| r.end());
        let note = format!(
            "{} of its {} are memory, the rest is between ranges",
            show_bytes(ranges.iter().map(|r| r.len).sum()),
            show_bytes(size)
        );
        Ok(Made { size, notes: vec![note] })
    }
}
