//! A segment under construction, plain or encrypted to the recipients of its case. It is encrypted while it grows, chunk by chunk
//! in its own buffer, so that it takes no more memory than a plain one, and what waits in the window is what is stored.

use exhibit_evidence::Digest;
use exhibit_evidence::age::{Encryptor, Recipients, random_len};
use exhibit_evidence::manifest::Segment;
use exhibit_evidence::stream::segment::{Built, SegmentBuilder};

use super::Memory;
use crate::clock;

#[derive(Debug)]
pub(super) struct Making {
    builder: SegmentBuilder,
    encryptor: Option<Encryptor>,
}

impl Making {
    /// Begins segment `n` in a buffer of an earlier one, if there is one.
    pub fn begin(n: u32, raw_offset: u64, buffer: Option<Vec<u8>>, to: &Recipients) -> Result<Self, String> {
        let recipients = to.as_slice().len();
        if to.is_none() {
            let buffer = buffer.unwrap_or_else(|| Vec::with_capacity(Memory::SEGMENT_BYTES));
            return Ok(Self { builder: SegmentBuilder::with_buffer(n, raw_offset, buffer), encryptor: None });
        }
        let room = Memory::SEGMENT_BYTES.saturating_add(Encryptor::overhead(recipients, Memory::SEGMENT_BYTES));
        let buffer = buffer.unwrap_or_else(|| Vec::with_capacity(room));
        let random = clock::random_bytes(random_len(recipients))
            .ok_or("the system's random number generator failed: nothing is sent that cannot be encrypted")?;
        let encryptor = Encryptor::new(to, &random, buffer).map_err(|e| e.to_string())?;
        Ok(Self { builder: SegmentBuilder::new(n, raw_offset), encryptor: Some(encryptor) })
    }

    pub fn push(&mut self, frame: &[u8], raw_bytes: usize) -> Result<(), String> {
        let Some(encryptor) = &mut self.encryptor else {
            return self.builder.push_frame(frame, raw_bytes).map_err(|e| e.to_string());
        };
        self.builder.count_frame(frame.len(), raw_bytes).map_err(|e| e.to_string())?;
        encryptor.push(frame).map_err(|e| e.to_string())
    }

    /// Bytes of frames so far.
    pub const fn len(&self) -> usize {
        self.builder.len()
    }

    /// True when one more frame could pass a bound of the format.
    pub const fn is_at_bound(&self) -> bool {
        self.builder.is_at_bound()
    }

    /// The segment as it is stored.
    pub fn finish(self) -> Result<Built, String> {
        let Some(mut encryptor) = self.encryptor else { return self.builder.finish().map_err(|e| e.to_string()) };
        let Built { bytes, facts } = self.builder.rest().map_err(|e| e.to_string())?;
        encryptor.push(&bytes).map_err(|e| e.to_string())?;
        let bytes = encryptor.finish().map_err(|e| e.to_string())?;
        let facts = Segment { size: bytes.len() as u64, sha256: Digest::of(&bytes), ..facts };
        Ok(Built { bytes, facts })
    }
}
