//! What a case's log accounts for of what lies in the folders of its collections, by names alone: the rule by which the verifier finds
//! `object.unaccounted` and `disposal.remains`, held against a listing. So `store verify` of a sample and `reindex` find evidence that no
//! record names. Where the catalog is lost too, that may be all that shows that a log was put back.

use std::collections::{BTreeMap, BTreeSet};

use exhibit_evidence::Digest;
use exhibit_evidence::custody::{Fate, State};
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{self, CaseObject, StreamNumber};
use exhibit_evidence::record::Record;
use exhibit_evidence::verify::Code;

use crate::several;
use crate::store::Entry;

/// Folders that are named; of more only the number of objects is kept.
const FOLDERS_MAX: usize = 100;

/// What the records of one case say of its collections.
#[derive(Debug, Default)]
pub(crate) struct Records {
    ordered: BTreeSet<CollectionId>,
    sealed: BTreeSet<CollectionId>,
    received: BTreeSet<(CollectionId, StreamNumber)>,
    custody: State,
}

/// Why nothing accounts for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// No order asks for its collection.
    NoOrder,
    /// Its collection is sealed, and its stream was never received.
    NoReceipt,
    /// Its collection was destroyed.
    Destroyed,
}

impl Records {
    /// Takes the next record of the case's log.
    pub(crate) fn take(&mut self, case: &CaseId, digest: Digest, record: &Record) {
        // A record that breaks a rule of custody has no effect, here as anywhere.
        let _ = self.custody.take(digest, record);
        match record {
            Record::Order(p) if p.case == *case => {
                self.ordered.extend(p.targets.iter().map(|agent| CollectionId::of(&digest, agent)));
            }
            Record::Receipt(p) if p.case == *case => {
                self.received.insert((p.collection.clone(), p.stream));
            }
            Record::Seal(p) if p.case == *case => {
                self.sealed.insert(p.collection.clone());
            }
            _ => {}
        }
    }

    /// Whether the objects of a stream are named one by one by whoever reads its manifest, or the stream as a whole by whoever compares
    /// the streams of a sealed collection.
    pub(crate) fn has(&self, collection: &CollectionId, stream: Option<StreamNumber>) -> bool {
        let is_received = |stream| self.ordered.contains(collection) && self.received.contains(&(collection.clone(), stream));
        self.custody.fate(collection) == Fate::Kept && (self.sealed.contains(collection) || stream.is_some_and(is_received))
    }

    /// Why nothing accounts for what lies in the folder of a stream; none where a receipt does, whose manifest says more, or where it may
    /// be there: of a collection that has no seal yet, and of one that is being destroyed.
    fn why(&self, collection: &CollectionId, stream: StreamNumber) -> Option<Why> {
        match self.custody.fate(collection) {
            Fate::Condemned { .. } => None,
            Fate::Destroyed { .. } => Some(Why::Destroyed),
            Fate::Kept if !self.ordered.contains(collection) => Some(Why::NoOrder),
            Fate::Kept if self.received.contains(&(collection.clone(), stream)) => None,
            Fate::Kept => self.sealed.contains(collection).then_some(Why::NoReceipt),
        }
    }
}

/// What of a listing nothing accounts for, by folder.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Of each folder why, how many objects, and how many bytes.
    folders: BTreeMap<(Why, String), (u64, u64)>,
    /// Objects of other folders.
    more: u64,
}

impl Left {
    /// Notes an object of a listing, if no record accounts for it. The listing must be older than the records.
    pub(crate) fn note(&mut self, records: &Records, entry: &Entry) {
        let Some((_, CaseObject::Segment(collection, stream, _) | CaseObject::Manifest(collection, stream))) = layout::parse(&entry.name)
        else {
            return;
        };
        let Some(why) = records.why(&collection, stream) else { return };
        let folder = match why {
            Why::NoReceipt => format!("collections/{collection}/{stream}/"),
            Why::NoOrder | Why::Destroyed => format!("collections/{collection}/"),
        };
        let key = (why, folder);
        if self.folders.len() >= FOLDERS_MAX && !self.folders.contains_key(&key) {
            self.more = self.more.saturating_add(1);
            return;
        }
        let (objects, bytes) = self.folders.entry(key).or_default();
        *objects = objects.saturating_add(1);
        *bytes = bytes.saturating_add(entry.size);
    }

    /// In words, a sentence for each folder; what is there for another reason than `but`.
    pub(crate) fn findings(&self, but: Option<Why>) -> Vec<String> {
        let wanted = self.folders.iter().filter(|((why, _), _)| Some(*why) != but);
        let mut findings: Vec<String> = wanted.map(|((why, folder), there)| sentence(*why, folder, *there)).collect();
        if self.more > 0 {
            let code = Code::ObjectUnaccounted.as_str();
            findings.push(format!("{code} collections/: so do {} of other folders ('store verify --all' names them)", objects(self.more)));
        }
        findings
    }
}

fn objects(n: u64) -> String {
    several::count(n, "object")
}

fn sentence(why: Why, folder: &str, (count, bytes): (u64, u64)) -> String {
    let there = format!("{} ({})", objects(count), several::count(bytes, "byte"));
    let unnamed = |why: &str| {
        let code = Code::ObjectUnaccounted.as_str();
        format!("{code} {folder}: {there} that no signed record and no manifest names: {why} (docs/operations/stores.md)")
    };
    match why {
        Why::NoOrder => unnamed(
            "no order in the log asks for this collection. Either the log was put back to an older state, or somebody else wrote there: keep both",
        ),
        Why::NoReceipt => unnamed("the collection is sealed without this stream"),
        Why::Destroyed => {
            let code = Code::DisposalRemains.as_str();
            format!("{code} {folder}: {there} that are there, although a record certifies the destruction of the collection")
        }
    }
}

#[cfg(test)]
mod tests {
    use exhibit_evidence::Timestamp;

    use super::*;

    fn entry(name: String) -> Entry {
        Entry { name, size: 10, modified: Timestamp::from_unix_s(1) }
    }

    fn found(records: &Records, names: &[String]) -> Vec<String> {
        let mut left = Left::default();
        for name in names {
            left.note(records, &entry(name.clone()));
        }
        left.findings(None)
    }

    #[test]
    fn what_may_be_there_is_passed_over_and_the_rest_is_named_by_folder() {
        let case = CaseId::new(1, [2; 10]);
        let id = |n: u8| CollectionId::from_digest(&Digest::of(&[n]));
        let (s1, s2) = (StreamNumber(1), StreamNumber(2));
        let names = [
            layout::segment(&case, &id(1), s1, 0),
            layout::segment(&case, &id(1), s2, 0),
            layout::segment(&case, &id(1), s2, 1),
            layout::segment(&case, &id(2), s1, 0),
            layout::manifest(&case, &id(3), s1),
        ];
        let records = Records {
            ordered: [id(1), id(2)].into_iter().collect(),
            sealed: [id(1)].into_iter().collect(),
            received: [(id(1), s1)].into_iter().collect(),
            custody: State::default(),
        };
        let told = found(&records, &names);
        assert_eq!(told.len(), 2, "an upload that runs, and what was received, may be there: {told:#?}");
        let begins =
            |folder: String, there: &str| told.iter().any(|t| t.starts_with(&format!("object.unaccounted {folder}: {there} that ")));
        assert!(begins(format!("collections/{}/", id(3)), "1 object (10 bytes)"), "{told:#?}");
        assert!(begins(format!("collections/{}/s2/", id(1)), "2 objects (20 bytes)"), "{told:#?}");
        assert!(told.iter().all(|t| t.len() < 400), "a finding has 400 characters: {told:#?}");
        let mut left = Left::default();
        for name in names {
            left.note(&records, &entry(name));
        }
        assert_eq!(left.findings(Some(Why::NoReceipt)).len(), 1);
    }

    #[test]
    fn memory_is_bounded_whatever_lies_there() {
        let case = CaseId::new(1, [2; 10]);
        let all = 3 * FOLDERS_MAX;
        let of = |n: usize| CollectionId::from_digest(&Digest::of(&n.to_be_bytes()));
        let names: Vec<String> = (0..all).map(|n| layout::segment(&case, &of(n), StreamNumber(1), 0)).collect();
        let told = found(&Records::default(), &names);
        assert_eq!(told.len(), FOLDERS_MAX + 1);
        assert!(told.last().expect("the rest").contains(&format!("{} objects", all - FOLDERS_MAX)), "{:?}", told.last());
    }
}
