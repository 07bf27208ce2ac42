//! What a pass saw, for people and as incidents.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use exhibit_evidence::id::CaseId;
use exhibit_evidence::text::one_line;

use super::NAMED_MAX;
use crate::several;
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
    /// Objects that were destroyed between the list and the look at their lock.
    #[serde(skip)]
    pub locks_gone: u64,
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
    /// The objects of each entry, where its sentence does not name them all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<List>,
}

/// The objects with which one thing is wrong in one case, or in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct List {
    /// As of the trouble.
    pub kind: &'static str,
    /// As of the trouble.
    pub subject: String,
    /// How many there are.
    pub count: u64,
    /// They, and what was seen of each; fewer than there are where a pass finds very many.
    pub objects: Vec<String>,
}

impl List {
    /// Of more than a sentence names.
    pub(super) fn of(kind: &'static str, subject: &str, tally: &Tally) -> Option<Self> {
        let (_, left) = tally.sentence();
        let (subject, count) = (subject.to_owned(), tally.count);
        (left > 0).then(|| Self { kind, subject, count, objects: tally.named.clone() })
    }

    fn text(&self) -> String {
        let (named, left) = several::fitting(first(&self.objects), beyond(self.count, &self.objects), "; ", several::DETAIL_BYTES);
        let what = if self.objects.len() as u64 == self.count { "all" } else { "more" };
        format!("{named}; and {left} more (--json has {what}; {DO})")
    }
}

pub(super) const DO: &str = "docs/operations/stores.md says what to do";

/// Those that a sentence may name.
fn first(named: &[String]) -> &[String] {
    named.get(..NAMED_MAX).unwrap_or(named)
}

fn beyond(count: u64, named: &[String]) -> u64 {
    count.saturating_sub(first(named).len() as u64)
}

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let were = if self.locks_read == 1 { "was" } else { "were" };
        let mut out = format!(
            "{} with {}; {} {were} read",
            several::count(self.objects, "object"),
            several::count(self.versions, "version"),
            several::count(self.locks_read, "lock")
        );
        // Of a lock that nobody read it is not said that it is as it should be.
        let all_read = self.locks_gone == 0 && (self.locks_read > 0 || self.objects == 0);
        out.push_str(match (self.troubles.is_empty(), all_read) {
            (true, true) => "; each is what was created, and locked as it should be.",
            (true, false) => "; each is what was created; of locks that were not read nothing is said.",
            (false, _) => ".\n",
        });
        for Trouble { kind, subject, detail } in &self.troubles {
            let list = self.lists.iter().find(|list| list.kind == *kind && list.subject == *subject);
            let detail = list.map_or_else(|| detail.clone(), List::text);
            let _ = writeln!(out, "  {kind} {subject}: {detail}");
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

impl Tally {
    /// The objects that a sentence has room for, and how many there are beside.
    fn sentence(&self) -> (String, u64) {
        several::fitting(first(&self.named), beyond(self.count, &self.named), "; ", several::DETAIL_BYTES)
    }
}

/// The folder of the case that an object belongs to; none of a folder that no case can have.
pub(in crate::store) fn case_of(name: &str) -> Option<String> {
    let (case, _) = name.strip_prefix("cases/")?.split_once('/')?;
    case.parse::<CaseId>().ok().map(|case| format!("cases/{case}"))
}

pub(super) fn told(kind: &'static str, subject: &str, tally: &Tally) -> Trouble {
    let (named, left) = tally.sentence();
    let more = if left > 0 { format!("; and {left} more") } else { String::new() };
    Trouble { kind, subject: subject.to_owned(), detail: one_line(&format!("{named}{more} ({DO})"), 1_990) }
}

/// A list that is full: what is not on it is served by its newest version, which the digests in the logs then tell from the genuine
/// one, or is not seen. Nobody is to believe that all of them are passed over.
pub(super) fn too_many(unremembered: u64, place: &str) -> Option<Trouble> {
    (unremembered > 0).then(|| Trouble {
        kind: "store-unattested",
        // A name of its own: what is told once goes by it, and of the place itself more may be told.
        subject: format!("{place} (list of versions)"),
        detail: format!(
            "the list of objects under another version is full: of {unremembered} more the genuine version is not remembered, and the newest one is read, or none is seen, until what lies on top is taken away; what is read is still compared with its digest (docs/operations/stores.md says what to do)"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_at_the_end_of_an_object_with_how_many_there_are() {
        let object = |n: u64| format!("'cases/x/{n:0200}': hidden under the delete marker");
        let tally = |count: u64| Tally { count, named: (0..count).map(object).collect() };
        for (count, shown) in [(1, 1), (6, 6), (7, 6), (13, 6), (5_000, 6)] {
            let tally = tally(count);
            let trouble = told("store-marker", "cases/x", &tally);
            assert_eq!(trouble.detail.matches("under the delete marker").count(), shown, "{}", trouble.detail);
            let left = count - shown as u64;
            let more = format!("; and {left} more ({DO})");
            assert_eq!(trouble.detail.ends_with(&more), left > 0, "{}", trouble.detail);
            let lists: Vec<List> = List::of("store-marker", "cases/x", &tally).into_iter().collect();
            assert_eq!(lists.iter().map(|l| l.objects.len() as u64).sum::<u64>(), if left > 0 { count } else { 0 });
            let report = Report { troubles: vec![trouble], lists, ..Report::default() };
            assert_eq!(report.text().contains(&format!("; and {left} more (--json has all; ")), left > 0, "{}", report.text());
        }
        let cut = Tally { count: 9, named: vec!["one".to_owned()] };
        let report =
            Report { troubles: vec![told("k", "s", &cut)], lists: List::of("k", "s", &cut).into_iter().collect(), ..Report::default() };
        assert!(report.text().contains("k s: one; and 8 more (--json has more; "), "{}", report.text());
    }

    #[test]
    fn a_name_that_is_escaped_already_is_not_escaped_again() {
        let tally = Tally { count: 1, named: vec![r"'cases/x/a\nb': hidden".to_owned()] };
        let trouble = told("store-marker", "cases/x", &tally);
        assert!(trouble.detail.starts_with(r"'cases/x/a\nb': hidden"), "{}", trouble.detail);
    }

    #[test]
    fn only_a_case_that_can_be_one_is_a_subject() {
        let case = CaseId::new(1, [2; 10]);
        assert_eq!(case_of(&format!("cases/{case}/x//y")), Some(format!("cases/{case}")));
        for bad in ["cases//x", "cases/x/y", "cases/../etc", "deployment/log/checkpoint", "cases"] {
            assert_eq!(case_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn locks_are_called_as_they_should_be_only_where_each_was_read() {
        for (objects, locks_read, locks_gone, is_said) in [(2, 2, 0, true), (0, 0, 0, true), (2, 0, 0, false), (2, 1, 1, false)] {
            let text = Report { objects, locks_read, locks_gone, ..Report::default() }.text();
            assert_eq!(text.contains("and locked as it should be"), is_said, "{text}");
        }
    }

    #[test]
    fn a_list_that_is_cut_says_so() {
        assert_eq!(too_many(0, "s3://bucket"), None);
        let trouble = too_many(3, "s3://bucket").expect("told");
        assert_eq!((trouble.kind, trouble.subject.as_str()), ("store-unattested", "s3://bucket (list of versions)"));
        assert!(trouble.detail.contains("of 3 more the genuine version is not remembered"), "{}", trouble.detail);
    }
}
