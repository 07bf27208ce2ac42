//! A segment under construction, plain or encrypted to the recipients of its case. It is encrypted while it grows, chunk by chunk
//! in its own buffer, so that it takes no more memory than a plain one, and what waits in the window is what is stored.

use exhibit_evidence::Digest;
use exhibit_evidence::age::{Encryptor, Recipients, random_len};
use exhibit_evidence::digest::Hasher;
use exhibit_evidence::manifest::Segment;
use exhibit_evidence::stream::segment::{Built, SegmentBuilder};

use super::Memory;
use crate::clock;

#[derive(Debug)]
pub(super) struct Making {
    builder: SegmentBuilder,
    sealing: Option<Sealing>,
}

/// The encrypted bytes, with their digest so far.
#[derive(Debug)]
struct Sealing {
    encryptor: Encryptor,
    /// Of what is finished: a chunk is hashed when it is there, while the processor still has it in its cache.
    stored: Hasher,
}

impl Sealing {
    fn begin(to: &Recipients, random: &[u8], buffer: Vec<u8>) -> Result<Self, String> {
        let encryptor = Encryptor::new(to, random, buffer).map_err(|e| e.to_string())?;
        let mut stored = Hasher::new();
        stored.update(encryptor.finished());
        Ok(Self { encryptor, stored })
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        let before = self.encryptor.finished().len();
        self.encryptor.push(bytes).map_err(|e| e.to_string())?;
        self.stored.update(self.encryptor.finished().get(before..).unwrap_or_default());
        Ok(())
    }

    fn finish(self) -> Result<(Vec<u8>, Digest), String> {
        let Self { encryptor, mut stored } = self;
        let before = encryptor.finished().len();
        let bytes = encryptor.finish().map_err(|e| e.to_string())?;
        stored.update(bytes.get(before..).unwrap_or_default());
        Ok((bytes, stored.finish()))
    }
}

impl Making {
    /// Begins segment `n` in a buffer of an earlier one, if there is one.
    pub fn begin(n: u32, raw_offset: u64, buffer: Option<Vec<u8>>, to: &Recipients) -> Result<Self, String> {
        let recipients = to.as_slice().len();
        if to.is_none() {
            let buffer = buffer.unwrap_or_else(|| Vec::with_capacity(Memory::SEGMENT_BYTES));
            return Ok(Self { builder: SegmentBuilder::with_buffer(n, raw_offset, buffer), sealing: None });
        }
        let room = Memory::SEGMENT_BYTES.saturating_add(Encryptor::overhead(recipients, Memory::SEGMENT_BYTES));
        let buffer = buffer.unwrap_or_else(|| Vec::with_capacity(room));
        let random = clock::random_bytes(random_len(recipients))
            .ok_or("the system's random number generator failed: nothing is sent that cannot be encrypted")?;
        let sealing = Sealing::begin(to, &random, buffer)?;
        Ok(Self { builder: SegmentBuilder::new(n, raw_offset), sealing: Some(sealing) })
    }

    pub fn push(&mut self, frame: &[u8], raw_bytes: usize) -> Result<(), String> {
        let Some(sealing) = &mut self.sealing else {
            return self.builder.push_frame(frame, raw_bytes).map_err(|e| e.to_string());
        };
        self.builder.count_frame(frame.len(), raw_bytes).map_err(|e| e.to_string())?;
        sealing.push(frame)
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
        let Some(mut sealing) = self.sealing else { return self.builder.finish().map_err(|e| e.to_string()) };
        let Built { bytes, facts } = self.builder.rest().map_err(|e| e.to_string())?;
        sealing.push(&bytes)?;
        let (bytes, sha256) = sealing.finish()?;
        let facts = Segment { size: bytes.len() as u64, sha256, ..facts };
        Ok(Built { bytes, facts })
    }
}

#[cfg(test)]
mod tests {
    use exhibit_evidence::age::Identity;

    use super::*;

    #[test]
    fn the_digest_of_an_encrypted_segment_is_that_of_its_bytes() {
        let identity = Identity::from_secret(zeroize::Zeroizing::new([1; 32])).expect("usable");
        let to = Recipients::try_from(vec![*identity.recipient()]).expect("one");
        // Less than a chunk of encryption, exactly one, and several.
        for frame in [100, 64 << 10, 200_000] {
            let mut making = Making::begin(0, 0, None, &to).expect("begins");
            for _ in 0..3 {
                making.push(&vec![7_u8; frame], 1_000).expect("room");
            }
            let built = making.finish().expect("ends");
            assert_eq!((built.facts.sha256, built.facts.size), (Digest::of(&built.bytes), built.bytes.len() as u64), "{frame}");
        }
    }
}
