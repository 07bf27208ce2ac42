//! The check of streams whose segments are encrypted to the recipients of their case. Nobody here can read them, so nothing is
//! said about what they hold. What is checked: size and digest of each segment as stored; that it is an age file to as many
//! recipients as the case has, with a possible length; that numbers and places follow each other; and all that lines must keep
//! by themselves.

use exhibit_evidence::age::Form;
use exhibit_evidence::digest::Digest;
use exhibit_evidence::manifest::{Item, Line, Segment};
use exhibit_evidence::stream::SEGMENT_BYTES_MAX;
use exhibit_evidence::text::escape_bounded;

use super::{BadUpload, Ended, StreamCheck, bad, differs};

impl StreamCheck {
    /// True when the stream's case has recipients.
    pub(super) const fn is_encrypted(&self) -> bool {
        !self.header.encrypted_to.is_none()
    }

    fn check_form(&self, bytes: &[u8]) -> Result<(), BadUpload> {
        match Form::of(bytes, self.header.encrypted_to.as_slice().len()) {
            Ok(form) if (1..=SEGMENT_BYTES_MAX as u64).contains(&form.plain_len) => Ok(()),
            Ok(form) => bad("segment_data", format!("{} bytes are encrypted in it: expected 1 to {SEGMENT_BYTES_MAX}", form.plain_len)),
            Err(e) => bad("segment_data", format!("the case is encrypted to its recipients, and this segment is not: {e}")),
        }
    }

    /// Number, place and size were compared already.
    pub(super) fn take_encrypted(&mut self, announced: &Segment, bytes: &[u8], lines: &[u8]) -> Result<(), BadUpload> {
        let sha256 = Digest::of(bytes);
        differs("segment_start.sha256", &announced.sha256, &sha256)?;
        self.check_form(bytes)?;
        // None are stated only where the agent's lines are lost.
        if announced.raw_size == 0 {
            return bad("segment_start.raw_size", "0: expected at least 1, what a frame holds");
        }
        // The raw size is the agent's word: what can be held against it is that the places of items fit into it.
        let computed = Segment { seam: None, ..announced.clone() };
        self.places.segment(&computed);
        self.take_segment_lines(&computed, lines, Ended::default())
    }

    /// What an item's line must keep by itself, and what it must not tell.
    pub(super) fn take_encrypted_item(&mut self, item: &Item) -> Result<(), BadUpload> {
        if item.meta.as_deref().is_some_and(|meta| !meta.xattrs.is_empty()) {
            let rule = "the encrypted part alone may have extended attributes, the line is readable";
            return bad("item.meta.xattrs", format!("item {}: {rule}", item.n));
        }
        self.places.item(item).or_else(|e| bad("item.location", escape_bounded(&e, 300)))
    }

    /// The line of a segment whose agent's lines are lost: what shows from outside. How many raw bytes it holds is not known, so
    /// none are stated, and no item of it.
    pub(super) fn adopt_encrypted(&mut self, bytes: &[u8]) -> Result<(Segment, Vec<u8>), BadUpload> {
        self.check_form(bytes)?;
        let (n, size, sha256) = (self.next_segment, bytes.len() as u64, Digest::of(bytes));
        let facts = Segment { n, size, sha256, raw_offset: self.raw_offset, raw_size: 0, seam: None };
        let header = (!self.header_seen).then(|| Line::Header(self.header.clone()));
        let mut lines = Vec::new();
        for line in header.into_iter().chain([Line::Segment(facts.clone())]) {
            lines.extend_from_slice(&line.to_bytes().or_else(|e| bad("manifest_lines", e))?);
        }
        self.places.segment(&facts);
        self.take_segment_lines(&facts, &lines, Ended::default())?;
        Ok((facts, lines))
    }
}
