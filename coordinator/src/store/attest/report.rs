//! What a pass saw, for people and as incidents.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use exhibit_evidence::text::escape_bounded;

use crate::store::Trouble;

/// What a pass saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Objects.
    pub objects: u64,
    /// Versions of them and markers.
    pub versions: u64,
    /// Objects whose lock was read.
    pub locks_read: u64,
    /// Locks and holds that were set again.
    pub set_again: u64,
    /// Legal holds that were taken off, because custody released them or cannot have asked for them.
    pub holds_released: u64,
    /// Cases with holds that custody seems to have released. A pass over everything takes none off: what it knows of a case may
    /// be older than a new hold. The caller looks at the case's log and asks for a pass over it.
    #[serde(skip)]
    pub to_release: BTreeSet<String>,
    /// What is wrong: one entry for each kind and case.
    pub troubles: Vec<Trouble>,
}

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{} objects with {} versions; {} locks were read", self.objects, self.versions, self.locks_read);
        out.push_str(if self.troubles.is_empty() { "; each is what was created, and locked as it should be." } else { ".\n" });
        for trouble in &self.troubles {
            let _ = writeln!(out, "  {} {}: {}", trouble.kind, trouble.subject, trouble.detail);
        }
        out
    }
}

/// What is wrong in one way with one case.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) count: u64,
    pub(super) named: Vec<String>,
}

/// The folder of the case that an object belongs to.
pub(in crate::store) fn case_of(name: &str) -> Option<String> {
    let mut parts = name.split('/');
    (parts.next() == Some("cases")).then(|| parts.next().map(|case| format!("cases/{case}")))?
}

pub(super) fn told(kind: &'static str, subject: &str, tally: &Tally) -> Trouble {
    let more = tally.count.saturating_sub(tally.named.len() as u64);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let detail = format!("{}{more} (docs/operations/stores.md says what to do)", tally.named.join("; "));
    Trouble { kind, subject: subject.to_owned(), detail: escape_bounded(&detail, 1_900) }
}

/// A list that is full: what is not on it is served by its newest version, which the digests in the logs then tell from the genuine
/// one. Nobody is to believe that all of them are passed over.
pub(super) fn too_many(unremembered: u64, place: &str) -> Option<Trouble> {
    (unremembered > 0).then(|| Trouble {
        kind: "store-unattested",
        subject: place.to_owned(),
        detail: format!(
            "the list of objects under another version is full: of {unremembered} more the genuine version is not remembered, and the newest one is read until it is taken away; what is read is still compared with its digest (docs/operations/stores.md says what to do)"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_cut_says_so() {
        assert_eq!(too_many(0, "s3://bucket"), None);
        let trouble = too_many(3, "s3://bucket").expect("told");
        assert_eq!((trouble.kind, trouble.subject.as_str()), ("store-unattested", "s3://bucket"));
        assert!(trouble.detail.contains("of 3 more the genuine version is not remembered"), "{}", trouble.detail);
    }
}
