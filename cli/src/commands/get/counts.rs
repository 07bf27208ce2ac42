//! What `exhibit get` says at the end, and of a file that is not the item's bytes.

use std::fmt::Write as _;

use exhibit_evidence::manifest::Item;

use crate::convert::Format;
use crate::exit::Code;
use crate::units::{count, show_bytes};

/// What became of the items.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Items that became files.
    pub restored: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Items that were not overwritten.
    pub exists: u64,
    /// Items that are kept by record only.
    pub by_record: u64,
    /// Items that could not be taken.
    pub without_content: u64,
    /// Items that cannot be made into the format without loss.
    pub not_convertible: u64,
    /// Items that were asked for and of which nothing came: the command ended before.
    pub undelivered: u64,
    /// Items that were restored, but are not whole or not of one moment.
    pub short: u64,
}

impl Counts {
    /// Says how many of those that were `asked` for did not come.
    pub const fn ended(&mut self, asked: u64) {
        let came = self.restored + self.exists + self.by_record + self.without_content + self.not_convertible;
        self.undelivered = asked.saturating_sub(came);
    }

    /// In one line.
    pub fn summary(&self, place: &str) -> String {
        let mut text = format!("restored {} ({}) below {place}", count(self.restored, "item", "items"), show_bytes(self.bytes));
        for (n, what) in [
            (self.exists, "not overwritten: something of that name was there"),
            (self.by_record, "kept by record only (devices, sockets, pipes)"),
            (self.without_content, "without content"),
            (self.not_convertible, "not written: not without loss in this format"),
            (self.undelivered, "not delivered: it ended before them"),
            (self.short, "restored, but not taken whole or changed while read"),
        ] {
            if n > 0 {
                let _ = write!(text, "; {n} {what}");
            }
        }
        text
    }

    /// How the program ends.
    pub const fn code(&self) -> Code {
        match self {
            Self { exists: 1.., .. } => Code::CannotCreate,
            Self { without_content: 1.., .. } | Self { not_convertible: 1.., .. } | Self { undelivered: 1.., .. } => Code::Incomplete,
            _ => Code::Ok,
        }
    }
}

/// How a file that was made and the evidence hang together, by their digests.
pub fn relation(item: &Item, format: Format, sha256: &exhibit_evidence::Digest) -> String {
    match item.sha256 {
        Some(stored) if stored == *sha256 => format!("sha256 {sha256}: the same bytes as the item"),
        Some(stored) => format!("sha256 {sha256}: made as {} from the item, whose bytes were checked to be {stored}", format.as_str()),
        None => format!("sha256 {sha256}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_come_is_counted() {
        let mut counts = Counts { restored: 25, not_convertible: 3, short: 2, ..Counts::default() };
        counts.ended(28);
        assert_eq!((counts.undelivered, counts.summary("x").contains("not delivered")), (0, false));
        counts.ended(30);
        assert!(counts.summary("x").contains("; 2 not delivered: it ended before them"), "{}", counts.summary("x"));
        let only = Counts { restored: 1, undelivered: 1, ..Counts::default() };
        assert_eq!(only.code(), Code::Incomplete);
    }
}
