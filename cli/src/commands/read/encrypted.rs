//! Items of encrypted cases: the coordinator gives the segments as they are stored, and they are decrypted here.

use std::sync::Arc;

use exhibit_evidence::age::{self, AgeError, Identity};
use exhibit_evidence::manifest::{Item, Segment};
use exhibit_evidence::stream::SEGMENT_BYTES_MAX;
use exhibit_evidence::stream::segment::RangeReader;
use exhibit_evidence::{Digest, text::escape_bounded};
use exhibit_proto::responder::v1 as pb;

use super::damaged;
use crate::exit::{Code, Failure, Result};

/// One segment at a time: as it arrives, and opened for the items that lie in it. At most twice [`SEGMENT_BYTES_MAX`].
pub struct Encrypted {
    identities: Arc<[Identity]>,
    facts: pb::EncryptedSegment,
    arrived: Vec<u8>,
    plain: Vec<u8>,
    opened: bool,
}

impl Encrypted {
    pub fn new(identities: Arc<[Identity]>) -> Self {
        Self { identities, facts: pb::EncryptedSegment::default(), arrived: Vec::new(), plain: Vec::new(), opened: false }
    }

    /// Hears of the next segment; one without a size is the one before.
    pub fn begin(&mut self, segment: &pb::EncryptedSegment) {
        if segment.size > 0 {
            self.facts = segment.clone();
            self.arrived.clear();
            self.opened = false;
        }
    }

    /// Takes bytes of it.
    pub fn take(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        let size = self.facts.size.min(SEGMENT_BYTES_MAX as u64);
        if self.arrived.len().saturating_add(bytes.len()) as u64 > size {
            return Err(format!("segment {} came with more than its {size} bytes", self.facts.n));
        }
        self.arrived.extend_from_slice(bytes);
        Ok(())
    }

    pub const fn is_whole(&self) -> bool {
        self.arrived.len() as u64 == self.facts.size
    }

    fn open(&mut self, id: &str) -> Result<()> {
        if self.opened {
            return Ok(());
        }
        let to = self.facts.encrypted_to.join(", ");
        let to = escape_bounded(&to, 1_200);
        let no_key = |problem: String| Failure::new(Code::Input, problem).hint("give --identity FILE with the age identity of a recipient");
        if self.identities.is_empty() {
            return Err(no_key(format!("item {} is encrypted to {to}", escape_bounded(id, 80))));
        }
        match age::decrypt(&self.arrived, self.facts.encrypted_to.len(), &self.identities, &mut self.plain) {
            Ok(()) => self.opened = true,
            Err(AgeError::OtherRecipients) => {
                let own: Vec<String> = self.identities.iter().map(|i| i.recipient().to_string()).collect();
                return Err(no_key(format!(
                    "item {} is encrypted to {to}; the given identity is that of {}",
                    escape_bounded(id, 80),
                    own.join(", ")
                )));
            }
            Err(e) => return Err(damaged(id, &e.to_string())),
        }
        Ok(())
    }

    /// Hands on the raw bytes of the segment that belong to the item.
    pub fn part(&mut self, id: &str, item: &Item, on_raw: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.open(id)?;
        let Some(location) = item.location else { return Ok(()) };
        let bad = |e: &dyn std::fmt::Display| damaged(id, &e.to_string());
        let pb::EncryptedSegment { n, raw_offset, raw_size, .. } = self.facts;
        // Size and digest of the plain segment stand nowhere: what it holds is checked against the item's own digest.
        let facts = Segment { n, size: self.plain.len() as u64, sha256: Digest::of(&[]), raw_offset, raw_size, seam: None };
        let from = location.offset.max(raw_offset);
        let to = location.offset.saturating_add(location.length).min(raw_offset.saturating_add(raw_size));
        let mut range = RangeReader::new(&[facts], from, to.saturating_sub(from)).map_err(|e| bad(&e))?;
        while let Some(need) = range.need() {
            let at = usize::try_from(need.offset).unwrap_or(usize::MAX);
            let stored = self.plain.get(at..at.saturating_add(need.length)).ok_or_else(|| bad(&"its segment is shorter than it says"))?;
            on_raw(range.supply(stored).map_err(|e| bad(&e))?)?;
        }
        Ok(())
    }
}
