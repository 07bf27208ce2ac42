//! What the verified log of a case says, for the documents. A record that does not verify says nothing here; the
//! verification's findings name it.

use std::collections::{BTreeMap, BTreeSet};

use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::bag::Description;
use exhibit_evidence::custody::{History, Row};
use exhibit_evidence::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::layout::CaseObject;
use exhibit_evidence::log::{InclusionProof, Plan, Tile, Tiler, leaf_hash};
use exhibit_evidence::record::{
    Acquisition, Approval, CaseClosed, Destruction, Incident, KeyRing, Order, Receipt, Record, Refusal, Revocation, Role, Seal, Verified,
};
use exhibit_evidence::verify::{CollectionSummary, Report};
use exhibit_evidence::{Digest, Timestamp};

use super::place::{Place, cannot};
use crate::exit::Result;

/// A record and its place in the log.
#[derive(Debug)]
pub struct At<T> {
    /// Its number.
    pub n: u64,
    /// Digest of its envelope.
    pub digest: Digest,
    /// What it says.
    pub record: T,
}

/// One handling of the evidence: who, when, what, why. The place in the log is its number.
#[derive(Debug)]
pub struct Handling {
    /// Number of the record.
    pub n: u64,
    /// Who.
    pub by: String,
    /// `read`, `list`, `export`, ...
    pub action: String,
    /// How many items or collections.
    pub count: usize,
    /// Why.
    pub reason: String,
    /// When, by the coordinator's clock.
    pub at: Timestamp,
}

/// A person or program whose key the log enrols.
#[derive(Debug)]
pub struct Party {
    /// SPIFFE-style URI.
    pub name: String,
    /// Its key.
    pub key: Digest,
    /// What it may sign.
    pub roles: Vec<Role>,
}

/// The records that say what became of custody.
pub const CUSTODY_EVENTS: [&str; 8] = ["hold", "hold-released", "retention", "release", "transfer", "disposal", "approval", "destruction"];

/// Everything that the documents are made of.
#[derive(Debug)]
pub struct Facts {
    /// The verification of the case in the bag.
    pub report: Report,
    /// What the bag is.
    pub description: Description,
    /// SHA-256 of the anchor's root key, which the verification began with.
    pub root_key: Digest,
    /// Orders in the order of the log, and likewise what follows.
    pub orders: Vec<At<Order>>,
    /// What agents said that they took.
    pub acquisitions: Vec<At<Acquisition>>,
    /// What the coordinator said that it received.
    pub receipts: Vec<At<Receipt>>,
    /// What agents refused.
    pub refusals: Vec<At<Refusal>>,
    /// How collections ended.
    pub seals: Vec<At<Seal>>,
    /// What second persons approved, with or without effect.
    pub approvals: Vec<At<Approval>>,
    /// Certificates of destruction, with or without effect.
    pub destructions: Vec<At<Destruction>>,
    /// Who read, listed or exported.
    pub handlings: Vec<Handling>,
    /// Who had custody, and what was done to keep or destroy the evidence.
    pub history: History,
    /// What must not happen and was noticed.
    pub incidents: Vec<At<Incident>>,
    /// Keys.
    pub parties: Vec<Party>,
    /// Names of the custodians of this case.
    pub custodians: BTreeSet<String>,
    /// By which record this log revokes a key, and the key that signed each order.
    revocations: BTreeMap<Digest, At<Revocation>>,
    givers: BTreeMap<Digest, Digest>,
    /// How the case was closed, if it was.
    pub closed: Option<At<CaseClosed>>,
    /// Heads whose cosignatures by witnesses lie in the log: key id and records. Whether they are the witness's is not known here.
    pub cosigned: Vec<(String, u64)>,
    tiles: BTreeMap<Tile, Vec<u8>>,
}

impl Facts {
    /// Reads the log of the case that was fetched.
    pub fn read(place: &Place, anchor: &Anchor, report: Report, description: Description) -> Result<Self> {
        let cosigned = place.arrived.keys().filter_map(|name| match CaseObject::parse(name) {
            Some(CaseObject::Cosigned(witness, size)) => Some((witness, size)),
            _ => None,
        });
        let mut facts = Self {
            report,
            description,
            root_key: anchor.root_key.id(),
            orders: Vec::new(),
            acquisitions: Vec::new(),
            receipts: Vec::new(),
            refusals: Vec::new(),
            seals: Vec::new(),
            approvals: Vec::new(),
            destructions: Vec::new(),
            handlings: Vec::new(),
            history: History::default(),
            incidents: Vec::new(),
            parties: Vec::new(),
            custodians: BTreeSet::new(),
            revocations: BTreeMap::new(),
            givers: BTreeMap::new(),
            closed: None,
            cosigned: cosigned.collect(),
            tiles: BTreeMap::new(),
        };
        let (mut ring, mut tiler, mut tiles) = (KeyRing::new(anchor), Tiler::new(), BTreeMap::new());
        for n in 0..facts.description.head.size {
            let path = place.object(&CaseObject::Slot(n).to_string());
            let bytes = std::fs::read(&path).map_err(|e| cannot("read", &path, &e))?;
            tiler.append(leaf_hash(&bytes), &mut |tile, bytes| drop(tiles.insert(tile, bytes)));
            if bytes.len() <= ENVELOPE_BYTES_MAX
                && let Ok(envelope) = Envelope::parse(&bytes)
                && let Ok(verified) = ring.verify(&envelope)
            {
                facts.history.add(n, &verified);
                facts.keys(n, &verified);
                facts.add(n, verified.digest(), verified.record().clone());
            }
        }
        tiles.extend(tiler.partial());
        facts.tiles = tiles;
        Ok(facts)
    }

    /// The records of custody that took effect, in the order of the log.
    pub fn custody(&self) -> impl Iterator<Item = &Row> {
        self.history.rows().iter().filter(|row| row.problem.is_none() && CUSTODY_EVENTS.contains(&row.event))
    }

    fn keys(&mut self, n: u64, verified: &Verified) {
        match verified.record() {
            Record::Order(_) => {
                self.givers.entry(verified.digest()).or_insert(verified.keyid());
            }
            Record::Revocation(p) => {
                let at = At { n, digest: verified.digest(), record: Revocation::clone(p) };
                self.revocations.entry(p.key).or_insert(at);
            }
            _ => {}
        }
    }

    /// The record that revoked the key which gave an order, if this log has one.
    pub fn giver_revoked(&self, order: &Digest) -> Option<u64> {
        self.revocation_of(self.givers.get(order)?).map(|at| at.n)
    }

    /// The record that revoked a key, if this log has one.
    pub fn revocation_of(&self, key: &Digest) -> Option<&At<Revocation>> {
        self.revocations.get(key)
    }

    /// The last revocation of a key of somebody of whom no key counts any more, as far as this log says.
    pub fn nobody_now(&self, name: &str) -> Option<&At<Revocation>> {
        let mut last: Option<&At<Revocation>> = None;
        for party in self.parties.iter().filter(|party| party.name == name) {
            let at = self.revocation_of(&party.key)?;
            last = last.filter(|last| last.n >= at.n).or(Some(at));
        }
        last
    }

    fn add(&mut self, n: u64, digest: Digest, record: Record) {
        match record {
            Record::Order(p) => self.orders.push(At { n, digest, record: *p }),
            Record::Acquisition(p) => self.acquisitions.push(At { n, digest, record: *p }),
            Record::Receipt(p) => self.receipts.push(At { n, digest, record: *p }),
            Record::Refusal(p) => self.refusals.push(At { n, digest, record: *p }),
            Record::Seal(p) => self.seals.push(At { n, digest, record: *p }),
            Record::Approval(p) => self.approvals.push(At { n, digest, record: *p }),
            Record::Destruction(p) => self.destructions.push(At { n, digest, record: *p }),
            Record::Incident(p) => self.incidents.push(At { n, digest, record: *p }),
            Record::CaseClosed(p) => self.closed = Some(At { n, digest, record: *p }),
            Record::Access(p) => {
                let (by, action, reason) = (p.by, p.action.to_string(), p.reason);
                self.handlings.push(Handling { n, by, action, count: p.what.len(), reason, at: p.at });
            }
            Record::Enrolment(p) => {
                if p.roles.contains(&Role::Custodian) && p.holds_in(&self.description.case) {
                    self.custodians.insert(p.name.clone());
                }
                self.parties.push(Party { name: p.name, key: p.key.id(), roles: p.roles });
            }
            _ => {}
        }
    }

    /// The row of a record that took effect.
    pub fn row(&self, record: &Digest) -> Option<&Row> {
        self.history.rows().iter().find(|row| row.record == *record && row.problem.is_none())
    }

    /// The order of a collection.
    pub fn order_of(&self, collection: &CollectionSummary) -> Option<&At<Order>> {
        self.orders.iter().find(|order| order.digest == collection.order)
    }

    /// The record with which a second person approved the order of a collection.
    pub fn approval_of(&self, collection: &CollectionSummary) -> Option<&Row> {
        let digest = self.history.state().approval_of(&collection.order)?;
        self.history.rows().iter().find(|row| row.record == digest)
    }

    /// The acquisitions of a collection.
    pub fn acquisitions_of<'a>(&'a self, id: &'a CollectionId) -> impl Iterator<Item = &'a At<Acquisition>> {
        self.acquisitions.iter().filter(move |a| a.record.collection == *id)
    }

    /// The receipts of a collection.
    pub fn receipts_of<'a>(&'a self, id: &'a CollectionId) -> impl Iterator<Item = &'a At<Receipt>> {
        self.receipts.iter().filter(move |r| r.record.collection == *id)
    }

    /// The seal of a collection.
    pub fn seal_of(&self, id: &CollectionId) -> Option<&At<Seal>> {
        self.seals.iter().find(|seal| seal.record.collection == *id)
    }

    /// The proof that record `n` is in the log, with the checkpoint that signs it.
    pub fn proof(&self, n: u64, checkpoint: &[u8]) -> Option<InclusionProof> {
        let plan = Plan::inclusion(n, self.description.head.size)?;
        let hashes = plan.build(&|tile| self.tiles.get(tile).map(Vec::as_slice)).ok()?;
        Some(InclusionProof { index: n, hashes, checkpoint: checkpoint.to_vec() })
    }
}
