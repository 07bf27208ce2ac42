//! Contents on their way into the stream.

use exhibit_evidence::Digest;
use exhibit_evidence::manifest::{Gap, Location, Status};

use super::content::State;
use crate::capture::{Extent, Source};

/// What is known of an item when its line is written.
pub(super) struct Ending {
    pub size: u64,
    pub sha256: Option<Digest>,
    pub location: Option<Location>,
    pub gaps: Vec<Gap>,
}

pub(super) const BY_RECORD: Ending = Ending { size: 0, sha256: None, location: None, gaps: Vec::new() };

/// A content as the tar writer needs it.
pub(super) struct Data<'a> {
    pub size: u64,
    pub extents: Vec<Extent>,
    pub source: &'a mut dyn Source,
    /// It may use what is kept for records.
    pub spare: bool,
}

impl Data<'_> {
    pub fn stored(&self) -> u64 {
        self.extents.iter().map(|e| e.length).fold(0, u64::saturating_add)
    }

    pub fn is_sparse(&self) -> bool {
        self.stored() < self.size
    }
}

/// A content of which a part may be in the stream.
pub(super) struct Contents {
    pub size: u64,
    pub extents: Vec<Extent>,
    pub done: State,
}

/// A member whose header is in the stream.
pub(super) struct Member {
    pub name: Vec<u8>,
    pub offset: u64,
    /// Bytes of data that follow the header.
    pub follows: u64,
}

/// What cannot be read any more.
pub(super) struct Lost(pub String);

impl Source for Lost {
    fn read_at(&mut self, _: u64, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other(self.0.clone()))
    }
    fn after(&mut self) -> Option<(Status, String)> {
        Some((Status::Partial, self.0.clone()))
    }
}

pub(super) struct Memory<'a>(pub &'a [u8]);

impl Source for Memory<'_> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|o| self.0.get(o..)).unwrap_or_default();
        let count = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }
}
