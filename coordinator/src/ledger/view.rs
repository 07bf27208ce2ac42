//! What is known about a log without reading it again: the tree's edge, the keys, and a few facts of each record.

use std::collections::HashMap;

use exhibit_evidence::custody::State;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{AgentId, CollectionId, OrderId};
use exhibit_evidence::key::KeyId;
use exhibit_evidence::layout::{LogName, StreamNumber};
use exhibit_evidence::log::{Tile, Tiler, Tree, leaf_hash};
use exhibit_evidence::record::{KeyRing, Outcome, Record, TrustError};
use exhibit_evidence::{Digest, Timestamp};

use crate::store::Protection;

/// A tree head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Records in the log.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Digest,
}

/// The facts of one record. Small: about 450 bytes with its places in the maps; payloads stay in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Place in the log, from 0.
    pub n: u64,
    /// Digest of the envelope.
    pub digest: Digest,
    /// Root of the tree that ends with this record.
    pub root: Digest,
    /// The key that signed.
    pub keyid: KeyId,
    /// Type and version, e.g. `seal:v1`.
    pub kind: &'static str,
    /// The collection that it is about.
    pub collection: Option<CollectionId>,
    /// The stream that it is about.
    pub stream: Option<StreamNumber>,
    /// The order (order records only).
    pub order: Option<OrderId>,
    /// The agent that it is about.
    pub agent: Option<AgentId>,
    /// The key that is enrolled or revoked.
    pub key: Option<KeyId>,
    /// When the key was revoked, by the words of who did it (revocations only).
    pub revoked_at: Option<Timestamp>,
    /// How the collection ended (seals only).
    pub outcome: Option<Outcome>,
    /// First exhibit number and how many (seals only).
    pub exhibits: (u64, u64),
    /// Authority and stamped size (`timestamp` and `timestamp-failed` only).
    pub stamped: Option<(Box<str>, u64)>,
}

/// The places of a case log that can be taken once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    CaseOpened,
    CaseClosed,
    Order(OrderId),
    Refusal(CollectionId),
    Acquisition(CollectionId, StreamNumber),
    Receipt(CollectionId, StreamNumber),
    Seal(CollectionId),
    /// A token of an authority over the head of so many records, and that it gave none.
    Stamped(Box<str>, u64),
    NotStamped(Box<str>, u64),
    /// Not exclusive: a key may be enrolled again in the same words of another day; the first one is found.
    Enrolment(KeyId),
}

impl Place {
    pub(super) fn of(record: &Record) -> Option<Self> {
        Some(match record {
            Record::CaseOpened(_) => Self::CaseOpened,
            Record::CaseClosed(_) => Self::CaseClosed,
            Record::Order(p) => Self::Order(p.order.clone()),
            Record::Refusal(p) => Self::Refusal(p.collection.clone()),
            Record::Acquisition(p) => Self::Acquisition(p.collection.clone(), p.stream),
            Record::Receipt(p) => Self::Receipt(p.collection.clone(), p.stream),
            Record::Seal(p) => Self::Seal(p.collection.clone()),
            Record::Stamped(p) => Self::Stamped(p.authority.as_str().into(), p.size),
            Record::NotStamped(p) => Self::NotStamped(p.authority.as_str().into(), p.size),
            Record::Enrolment(p) => Self::Enrolment(p.key.id()),
            _ => return None,
        })
    }

    pub(super) const fn is_exclusive(&self) -> bool {
        !matches!(self, Self::Enrolment(_))
    }
}

/// A log as this process knows it.
#[derive(Debug, Clone)]
pub struct View {
    tree: Tree,
    tiler: Tiler,
    /// Tiles that became full and are not known to be in the store yet: 8 KiB for every 256 records since the last checkpoint.
    full: Vec<(Tile, Vec<u8>)>,
    ring: KeyRing,
    entries: Vec<Entry>,
    by_digest: HashMap<Digest, u64>,
    by_place: HashMap<Place, u64>,
    exhibits: u64,
    custody: State,
}

impl View {
    pub(super) fn new(ring: KeyRing) -> Self {
        Self {
            tree: Tree::new(),
            tiler: Tiler::new(),
            full: Vec::new(),
            ring,
            entries: Vec::new(),
            by_digest: HashMap::new(),
            by_place: HashMap::new(),
            exhibits: 0,
            custody: State::default(),
        }
    }

    /// Takes the record that is in the next slot: verifies it under the keys so far and adds it to the tree.
    pub(super) fn take(&mut self, envelope: &Envelope) -> Result<&Entry, TrustError> {
        let verified = self.ring.verify(envelope)?;
        let leaf = leaf_hash(envelope.as_bytes());
        self.tree.append_hash(leaf);
        let full = &mut self.full;
        self.tiler.append(leaf, &mut |tile, bytes| full.push((tile, bytes)));
        let n = self.tree.size().saturating_sub(1);
        let entry = facts(n, verified.digest(), self.tree.root(), verified.keyid(), verified.record());
        self.by_digest.entry(entry.digest).or_insert(n);
        if let Some(place) = Place::of(verified.record()) {
            self.by_place.entry(place).or_insert(n);
        }
        self.exhibits = self.exhibits.saturating_add(entry.exhibits.1);
        // A record that breaks a rule of custody stays in the log and has no effect; the verifier says so.
        let _ = self.custody.take(verified.digest(), verified.record());
        let at = self.entries.len();
        self.entries.push(entry);
        Ok(&self.entries[at])
    }

    /// [`View::take`] of what nobody published yet, so that it may be what somebody else put into the log's next place. Whoever may
    /// write into the store can copy any record there: one of this log a second time, or one of another log, is none of this place.
    pub(super) fn take_own(&mut self, log: &LogName, envelope: &Envelope) -> Result<&Entry, String> {
        self.fits(log, envelope)?;
        self.take(envelope).map_err(|e| e.to_string())
    }

    /// Whether [`View::take_own`] would take it, by a copy of the keys of this log.
    pub(super) fn can_take(&self, log: &LogName, envelope: &Envelope, ring: &mut KeyRing) -> Result<(), String> {
        self.fits(log, envelope)?;
        ring.verify(envelope).map(|_| ()).map_err(|e| e.to_string())
    }

    /// What a record says of where it belongs.
    fn fits(&self, log: &LogName, envelope: &Envelope) -> Result<(), String> {
        if let Some(n) = self.find(&envelope.digest()) {
            return Err(format!("it is record {n} once more"));
        }
        let record = Record::from_payload(envelope.unverified_payload()).map_err(|e| e.to_string())?;
        if !self.is_of(log, &record) {
            return Err(format!("it is a {} record of another log", record.type_name()));
        }
        Ok(())
    }

    /// Whether a coordinator ever adds such a record to this log.
    fn is_of(&self, log: &LogName, record: &Record) -> bool {
        match (log, record.case()) {
            (LogName::Case(case), Some(of)) => of == case,
            (LogName::Case(_), None) => match record {
                Record::Enrolment(_) | Record::Revocation(_) => true,
                Record::Refusal(p) => self.find(&p.predecessor).is_some(),
                _ => false,
            },
            // An incident about a case goes here when the case's log does not take it.
            (LogName::Deployment, Some(_)) => matches!(record, Record::Incident(_)),
            (LogName::Deployment, None) => !matches!(record, Record::Refusal(_)),
        }
    }

    /// Holds, retention, custody and disposals, as the records of this log make them.
    #[must_use]
    pub const fn custody(&self) -> &State {
        &self.custody
    }

    /// What the store is asked for by that.
    #[must_use]
    pub fn protection(&self) -> Protection {
        let custody = &self.custody;
        let (held, held_collections) = custody.held();
        let (released, released_collections) = custody.released().clone();
        let condemned = custody.condemned().into_iter().filter(|id| !custody.is_held(id)).collect();
        Protection { until: custody.retained_until(), held, held_collections, condemned, released, released_collections }
    }

    /// The tiles that became full since the last checkpoint, and the incomplete ones, with their bytes.
    pub(super) fn tiles(&self) -> Vec<(Tile, Vec<u8>)> {
        self.full.iter().cloned().chain(self.tiler.partial()).collect()
    }

    /// The tiles that are full in a tree of `size` records are in the store.
    pub(super) fn tiles_are_stored(&mut self, size: u64) {
        self.full.retain(|(tile, _)| Tile::of(tile.layer(), tile.index(), size).is_none_or(|t| !t.is_full()));
    }

    pub(super) fn at(&self, place: &Place) -> Option<&Entry> {
        self.by_place.get(place).and_then(|n| self.entry(*n))
    }

    /// Records in the log.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The tree's head.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { size: self.size(), root: self.tree.root() }
    }

    /// The root of the first `size` records; `None` when there are not that many.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Digest> {
        match size.checked_sub(1) {
            None => Some(Tree::new().root()),
            Some(last) => self.entry(last).map(|e| e.root),
        }
    }

    /// The keys that are trusted after the last record.
    #[must_use]
    pub const fn key_ring(&self) -> &KeyRing {
        &self.ring
    }

    /// The place of a record by the digest of its envelope.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<u64> {
        self.by_digest.get(digest).copied()
    }

    /// Record `n`'s facts.
    #[must_use]
    pub fn entry(&self, n: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(n).ok()?)
    }

    /// All records' facts in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Exhibit numbers given so far: the next one is this plus one.
    #[must_use]
    pub const fn exhibits(&self) -> u64 {
        self.exhibits
    }

    /// The case-opened record.
    #[must_use]
    pub fn case_opened(&self) -> Option<&Entry> {
        self.at(&Place::CaseOpened)
    }

    /// The record of an order.
    #[must_use]
    pub fn order(&self, order: &OrderId) -> Option<&Entry> {
        self.at(&Place::Order(order.clone()))
    }

    /// The record that closed the case.
    #[must_use]
    pub fn case_closed(&self) -> Option<&Entry> {
        self.at(&Place::CaseClosed)
    }

    /// The seal of a collection.
    #[must_use]
    pub fn seal_of(&self, collection: &CollectionId) -> Option<&Entry> {
        self.at(&Place::Seal(collection.clone()))
    }

    /// The refusal of a collection.
    #[must_use]
    pub fn refusal_of(&self, collection: &CollectionId) -> Option<&Entry> {
        self.at(&Place::Refusal(collection.clone()))
    }

    /// The receipt of a stream.
    #[must_use]
    pub fn receipt_of(&self, collection: &CollectionId, stream: StreamNumber) -> Option<&Entry> {
        self.at(&Place::Receipt(collection.clone(), stream))
    }

    /// The acquisition record of a stream.
    #[must_use]
    pub fn acquisition_of(&self, collection: &CollectionId, stream: StreamNumber) -> Option<&Entry> {
        self.at(&Place::Acquisition(collection.clone(), stream))
    }

    /// The first enrolment of a key.
    #[must_use]
    pub fn enrolment_of(&self, key: KeyId) -> Option<&Entry> {
        self.at(&Place::Enrolment(key))
    }
}

fn facts(n: u64, digest: Digest, root: Digest, keyid: KeyId, record: &Record) -> Entry {
    let mut entry = Entry {
        n,
        digest,
        root,
        keyid,
        kind: record.type_name(),
        collection: None,
        stream: None,
        order: None,
        agent: None,
        key: None,
        revoked_at: None,
        outcome: None,
        exhibits: (0, 0),
        stamped: None,
    };
    match record {
        Record::Order(p) => entry.order = Some(p.order.clone()),
        Record::Refusal(p) => (entry.collection, entry.agent) = (Some(p.collection.clone()), Some(p.agent.clone())),
        Record::Acquisition(p) => {
            (entry.collection, entry.stream, entry.agent) = (Some(p.collection.clone()), Some(p.stream), Some(p.agent.clone()));
        }
        Record::Receipt(p) => (entry.collection, entry.stream) = (Some(p.collection.clone()), Some(p.stream)),
        Record::Seal(p) => {
            (entry.collection, entry.agent) = (Some(p.collection.clone()), Some(p.agent.clone()));
            (entry.outcome, entry.exhibits) = (Some(p.outcome), (p.exhibit_first, p.exhibit_count));
        }
        Record::Enrolment(p) => entry.key = Some(p.key.id()),
        Record::Revocation(p) => (entry.key, entry.revoked_at) = (Some(p.key), Some(p.revoked_at)),
        Record::Stamped(p) => entry.stamped = Some((p.authority.as_str().into(), p.size)),
        Record::NotStamped(p) => entry.stamped = Some((p.authority.as_str().into(), p.size)),
        _ => {}
    }
    entry
}
