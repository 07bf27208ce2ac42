//! What the lines of an encrypted stream keep by themselves, for those who cannot read what they describe: the coordinator, and
//! a verifier without the secret of a recipient.

use serde::{Deserialize, Serialize};

use super::tar::END_MARKER;
use super::ustar::BLOCK;
use crate::manifest::{Item, Kind, Location, Segment};

/// The places of items: members follow each other without holes from 0 to the end marker, and an item's line stands after the
/// segment in which its member ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// Where the next member begins.
    next: u64,
    /// The raw bytes of the segment whose lines are read.
    segment: (u64, u64),
}

impl Places {
    /// Hears of the next segment.
    pub const fn segment(&mut self, facts: &Segment) {
        self.segment = (facts.raw_offset, facts.raw_offset.saturating_add(facts.raw_size));
    }

    /// Hears of an item with a place; says what is wrong with its line.
    ///
    /// # Errors
    /// In words, with the values.
    pub fn item(&mut self, item: &Item) -> Result<(), String> {
        let Some(Location { offset, length }) = item.location else { return Ok(()) };
        let (n, expected, end) = (item.n, self.next, offset.saturating_add(length));
        let (from, to) = self.segment;
        self.next = end;
        if offset != expected || length == 0 || length % BLOCK as u64 != 0 || end <= from || end > to {
            return Err(format!(
                "item {n} is stated at [{offset}, {length}]: expected whole blocks from {expected} that end in its segment ({from} to {to})"
            ));
        }
        let (content, target) = match item.kind {
            Kind::File | Kind::Record => (true, false),
            Kind::Directory => (false, false),
            Kind::Symlink | Kind::Hardlink => (false, true),
            kind => return Err(format!("item {n}: {kind:?} items have no tar member")),
        };
        if item.sha256.is_some() != content || item.target.is_some() != target || (!content && item.size != 0) {
            return Err(format!(
                "item {n}: of a {:?} expected are digest: {content}, target: {target}, and a size only of files",
                item.kind
            ));
        }
        Ok(())
    }

    /// At the end of a complete stream of so many raw bytes.
    ///
    /// # Errors
    /// In words, with the values.
    pub fn end(&self, raw_bytes: u64) -> Result<(), String> {
        let expected = self.next.saturating_add(END_MARKER.len() as u64);
        if raw_bytes == expected {
            return Ok(());
        }
        Err(format!("the stream is stated with {raw_bytes} raw bytes; its items and the end marker make {expected}"))
    }
}
