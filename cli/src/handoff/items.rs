//! Which collections are items of the form: those that gave evidence. An order that brought nothing is no item, and what is
//! not in the bag is not released with it.

use exhibit_evidence::custody::Fate;
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::verify::{CollectionSummary, Report, Severity, Verdict};

use super::facts::Facts;
use super::words::{moment, not_checked, outcome, unread_of, verification};
use crate::document::Language;

/// A collection that gave evidence.
pub struct Item<'a> {
    /// Its number on the form.
    pub n: usize,
    /// The collection.
    pub collection: &'a CollectionSummary,
    /// What became of it, by the log.
    pub fate: Fate,
}

/// The items, in the order of exhibit numbers.
pub fn items(facts: &Facts) -> Vec<Item<'_>> {
    let state = facts.history.state();
    let gave = facts.report.collections.iter().filter(|c| gave_evidence(facts, c));
    gave.zip(1_usize..).map(|(collection, n)| Item { n, collection, fate: state.fate(&collection.id) }).collect()
}

/// The collections that brought nothing.
pub fn without_evidence(facts: &Facts) -> impl Iterator<Item = &CollectionSummary> {
    facts.report.collections.iter().filter(move |c| !gave_evidence(facts, c))
}

/// The seal says what there is; of an open collection, what was received.
fn gave_evidence(facts: &Facts, c: &CollectionSummary) -> bool {
    let received = || c.items > 0 || facts.receipts_of(&c.id).any(|r| r.record.manifest.items > 0);
    c.exhibits.is_some() || (c.outcome.is_none() && received())
}

impl Item<'_> {
    /// True when its evidence is in the bag and so can be given away with it.
    pub fn is_here(&self) -> bool {
        self.fate == Fate::Kept && !self.collection.left_out
    }

    /// How many exhibits it has, or had.
    pub fn quantity(&self) -> u64 {
        self.collection.exhibits.map_or(self.collection.items, |[first, last]| last.saturating_sub(first).saturating_add(1))
    }

    /// In what condition it is.
    pub fn condition(&self, l: Language, facts: &Facts) -> String {
        let record = |digest| facts.row(digest).map_or_else(|| "?".to_owned(), |row| row.n.to_string());
        match &self.fate {
            Fate::Destroyed { at, certificate } => destroyed(l, &moment(*at), &record(certificate)),
            Fate::Condemned { approval } => condemned(l, &record(approval)),
            Fate::Kept if self.collection.left_out => {
                l.pick("NOT IN THIS BAG, left out by choice", "ABSENTE DE CE DOSSIER, exclue par choix").to_owned()
            }
            Fate::Kept if is_doubted(&facts.report, &self.collection.id) => {
                format!("{}. {}", outcome(l, self.collection.outcome), verification(l, facts))
            }
            Fate::Kept => {
                let ended = outcome(l, self.collection.outcome);
                match unread_of(facts, self.collection) {
                    None => ended.to_owned(),
                    Some(what) => format!("{ended}{}{} {}", l.pick("; ", " ; "), not_checked(l, what), l.pick("here", "ici")),
                }
            }
        }
    }
}

/// True when the case is not sound and a finding speaks of this collection or of none: what is wrong with the log, or is not known
/// because there were too many findings, concerns all of them.
fn is_doubted(report: &Report, id: &CollectionId) -> bool {
    let known = |other: &CollectionId| report.collections.iter().any(|c| c.id == *other);
    let mut heavy = report.findings.kept().iter().filter(|f| f.severity != Severity::Note);
    let concerns = |object: &str| collection_of(object).filter(known).is_none_or(|other| other == *id);
    report.verdict == Verdict::Unsound && (report.findings.left_out() > 0 || heavy.any(|f| concerns(&f.object)))
}

/// The collection that the object of a finding is of: `collections/ID/...`, or an item's id.
fn collection_of(object: &str) -> Option<CollectionId> {
    let id = match object.strip_prefix("collections/") {
        Some(path) => path.split('/').next(),
        None => object.split('.').next(),
    };
    id.and_then(|id| id.parse().ok())
}

fn destroyed(l: Language, at: &str, record: &str) -> String {
    match l {
        Language::En => format!("destroyed on {at} (record {record})"),
        Language::Fr => format!("détruite le {at} (enregistrement {record})"),
    }
}

/// Destruction was approved and nobody certified it.
pub fn condemned(l: Language, record: &str) -> String {
    match l {
        Language::En => format!("destruction approved (record {record}) and not certified: parts of it may be gone"),
        Language::Fr => format!("destruction approuvée (enregistrement {record}), non certifiée : une partie peut avoir disparu"),
    }
}

/// Ascending numbers as people write them: `1-3, 5`; nothing for none.
pub fn ranges(numbers: impl IntoIterator<Item = usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for n in numbers {
        if let Some(run) = runs.last_mut().filter(|run| run.1.checked_add(1) == Some(n)) {
            run.1 = n;
        } else {
            runs.push((n, n));
        }
    }
    let shown = |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(shown).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        let of = |numbers: &[usize]| ranges(numbers.iter().copied());
        assert_eq!([of(&[]), of(&[1]), of(&[1, 2, 3])], ["", "1", "1-3"]);
        assert_eq!([of(&[2]), of(&[1, 3]), of(&[1, 2, 4, 6, 7])], ["2", "1, 3", "1-2, 4, 6-7"]);
    }

    #[test]
    fn a_finding_is_of_the_collection_that_its_object_names() {
        let id = CollectionId::of(
            &exhibit_evidence::Digest::of(b"order"),
            &exhibit_evidence::AgentId::of_key(&exhibit_evidence::Digest::of(b"key")),
        );
        let of = |object: String| collection_of(&object);
        for object in [format!("collections/{id}"), format!("collections/{id}/s1/00000000.tar.zst"), format!("{id}.s1.7")] {
            assert_eq!(of(object), Some(id.clone()));
        }
        for object in ["log/checkpoint", "log/seq/0000000007.dsse.json", "collections/x/s1", ""] {
            assert_eq!(of(object.to_owned()), None, "{object}");
        }
    }

    #[test]
    fn what_is_destroyed_is_said_with_its_record() {
        assert_eq!(destroyed(Language::En, "2026-11-27", "9"), "destroyed on 2026-11-27 (record 9)");
        assert!(destroyed(Language::Fr, "2026-11-27", "9").starts_with("détruite le 2026-11-27"));
    }
}
