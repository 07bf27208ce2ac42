//! The records of one collection: refusal or acquisitions and receipts, then one seal.

use std::collections::{BTreeMap, BTreeSet};

use super::{OrderFacts, Token, shown};
use crate::age::Recipients;
use crate::digest::Digest;
use crate::id::{AgentId, CaseId, CollectionId, OrderId};
use crate::key::KeyId;
use crate::layout::StreamNumber;
use crate::record::{Acquisition, ManifestRef, Outcome, Receipt, Seal};
use crate::verify::stream::Tally;
use crate::verify::{Bound, Code, CollectionSummary, Findings, Sandwich, Severity};

/// What a rule needs besides the collection.
pub(in crate::verify) struct Context<'a> {
    pub object: &'a str,
    pub findings: &'a mut Findings,
    pub order: &'a OrderFacts,
    /// The record's place in the log.
    pub n: u64,
}

impl Context<'_> {
    fn add(&mut self, code: Code, message: impl AsRef<str>) {
        self.findings.add(code, self.object, message);
    }
}

/// A collection and what was said about it.
#[derive(Debug)]
pub(in crate::verify) struct Collection {
    pub order: Digest,
    summary: CollectionSummary,
    refusal: Option<Digest>,
    acquisitions: BTreeMap<StreamNumber, AcquisitionFacts>,
    receipts: BTreeMap<StreamNumber, ReceiptFacts>,
    last_receipt: Option<Digest>,
    sealed: bool,
    /// Places of the last acquisition and of the seal.
    places: (Option<u64>, Option<u64>),
}

#[derive(Debug)]
struct AcquisitionFacts {
    digest: Digest,
    complete: bool,
    manifest: ManifestRef,
}

#[derive(Debug)]
struct ReceiptFacts {
    digest: Digest,
    case: CaseId,
    agent_signed: bool,
    manifest: ManifestRef,
}

/// A stream to verify: what was signed about it.
#[derive(Debug, Clone)]
pub(in crate::verify) struct Job {
    pub case: CaseId,
    pub collection: CollectionId,
    pub stream: StreamNumber,
    pub agent: AgentId,
    pub order: Digest,
    /// Captures that the order names.
    pub captures: BTreeSet<String>,
    /// The manifest as the receipt states it.
    pub manifest: ManifestRef,
    /// True when the agent signed for the stream, so that it must be whole.
    pub agent_signed: bool,
    /// To whom its segments are encrypted.
    pub encrypt_to: Recipients,
}

impl Collection {
    pub fn new(id: CollectionId, agent: AgentId, order: Digest) -> Self {
        let summary = CollectionSummary {
            id,
            agent,
            order,
            host: None,
            outcome: None,
            unapproved: false,
            reason: None,
            sealed_at: None,
            trusted_time: Sandwich::default(),
            exhibits: None,
            left_out: false,
            streams: 0,
            items: 0,
            items_verified: 0,
            items_unchecked: 0,
            raw_bytes_unread: 0,
            items_unsigned: 0,
            by_status: BTreeMap::new(),
            raw_bytes: 0,
            stored_bytes: 0,
            disposed: None,
        };
        Self {
            order,
            summary,
            refusal: None,
            acquisitions: BTreeMap::new(),
            receipts: BTreeMap::new(),
            last_receipt: None,
            sealed: false,
            places: (None, None),
        }
    }

    pub const fn is_open(&self) -> bool {
        !self.sealed
    }

    pub const fn exhibits(&self) -> Option<[u64; 2]> {
        self.summary.exhibits
    }

    pub fn has_receipt(&self, stream: StreamNumber) -> bool {
        self.receipts.contains_key(&stream)
    }

    fn check_open(&self, what: &str, at: &mut Context<'_>) {
        if self.sealed {
            at.add(Code::ChainAfterSeal, format!("a {what} of collection {} was logged after its seal", self.summary.id));
        }
    }

    pub fn refusal(&mut self, digest: Digest, at: &mut Context<'_>) {
        self.check_open("refusal", at);
        if self.refusal.is_some() {
            at.add(Code::ChainRepeated, format!("collection {} was already refused", self.summary.id));
            return;
        }
        self.refusal = Some(digest);
    }

    pub fn acquisition(&mut self, digest: Digest, p: &Acquisition, at: &mut Context<'_>) {
        self.check_open("acquisition", at);
        let name = format!("{}.{}", p.collection, p.stream);
        if p.nonce != at.order.nonce {
            let (size, expected) = (p.nonce.size, at.order.nonce.size);
            at.add(
                Code::AcquisitionNonce,
                format!("the acquisition of {name} carries the head of {size} records, its order that of {expected} (or another root)"),
            );
        }
        if !p.complete && p.reason.as_deref().is_none_or(str::is_empty) {
            at.add(Code::AcquisitionReason, format!("the acquisition of {name} is not complete and gives no reason"));
        }
        // A later stream goes on with what was begun in time.
        if p.stream.0 == 1 && p.started.wall >= at.order.expires_at {
            let (began, end) = (p.started.wall, at.order.expires_at);
            at.add(Code::AcquisitionExpired, format!("{name} was begun at {began} by the host's clock, its order expired at {end}"));
        }
        if self.receipts.contains_key(&p.stream) {
            at.add(Code::ChainRepeated, format!("stream {name} already has a receipt, which says that the agent did not sign"));
            return;
        }
        if self.acquisitions.contains_key(&p.stream) {
            at.add(Code::ChainRepeated, format!("stream {name} already has an acquisition"));
            return;
        }
        self.places.0 = Some(at.n);
        self.summary.host = Some(shown(&p.host.hostname, 100));
        self.acquisitions.insert(p.stream, AcquisitionFacts { digest, complete: p.complete, manifest: p.manifest.clone() });
    }

    pub fn receipt(&mut self, digest: Digest, p: &Receipt, at: &mut Context<'_>) {
        self.check_open("receipt", at);
        let name = format!("{}.{}", p.collection, p.stream);
        if self.receipts.contains_key(&p.stream) {
            at.add(Code::ChainRepeated, format!("stream {name} already has a receipt"));
            return;
        }
        match (p.agent_signed, self.acquisitions.get(&p.stream)) {
            (true, Some(acquisition)) => {
                if p.predecessor != acquisition.digest {
                    let message =
                        format!("the receipt of {name} follows from record {}, the acquisition is {}", p.predecessor, acquisition.digest);
                    at.add(Code::ReceiptPredecessor, message);
                }
                if p.manifest != acquisition.manifest {
                    let (sent, received) = (&acquisition.manifest, &p.manifest);
                    let message = format!(
                        "for {name} the agent signed manifest {} ({} items, {} raw bytes), the coordinator {} ({} items, {} raw bytes)",
                        sent.sha256, sent.items, sent.raw_bytes, received.sha256, received.items, received.raw_bytes
                    );
                    at.add(Code::ReceiptManifest, message);
                }
            }
            (true, None) => at.add(
                Code::ReceiptPredecessor,
                format!("the receipt of {name} says that the agent signed, but no acquisition stands before it"),
            ),
            (false, Some(_)) => at.add(
                Code::ReceiptPredecessor,
                format!("the receipt of {name} says that the agent did not sign, but an acquisition stands before it"),
            ),
            (false, None) if p.predecessor != self.order => {
                at.add(
                    Code::ReceiptPredecessor,
                    format!("the receipt of {name} follows from record {}, the order is {}", p.predecessor, self.order),
                );
            }
            (false, None) => {}
        }
        self.last_receipt = Some(digest);
        let facts = ReceiptFacts { digest, case: p.case.clone(), agent_signed: p.agent_signed, manifest: p.manifest.clone() };
        self.receipts.insert(p.stream, facts);
    }

    /// Returns the next free exhibit number when the seal is the collection's first.
    pub fn seal(&mut self, p: &Seal, next_exhibit: u64, at: &mut Context<'_>) -> Option<u64> {
        let id = &p.collection;
        if self.sealed {
            at.add(Code::ChainRepeated, format!("collection {id} already has a seal"));
            return None;
        }
        self.sealed = true;
        self.places.1 = Some(at.n);
        let expected = self.last_receipt.or(self.refusal).unwrap_or(self.order);
        if p.predecessor != expected {
            at.add(Code::SealPredecessor, format!("the seal of {id} follows from record {}, expected was {expected}", p.predecessor));
        }
        self.check_outcome(p, at);
        self.check_streams(p, at);
        let items = self.receipts.values().fold(0_u64, |sum, r| sum.saturating_add(r.manifest.items));
        if p.exhibit_first != next_exhibit || p.exhibit_count != items {
            let message = format!(
                "the seal of {id} gives {} exhibit numbers from {}; its streams have {items} items and the next free number is {next_exhibit}",
                p.exhibit_count, p.exhibit_first
            );
            at.add(Code::SealExhibits, message);
        }
        self.summary.outcome = Some(p.outcome);
        self.summary.reason = p.reason.as_deref().map(|r| crate::text::one_line(r, 300));
        self.summary.sealed_at = Some(p.sealed_at);
        let last = p.exhibit_first.saturating_add(p.exhibit_count).saturating_sub(1);
        self.summary.exhibits = (p.exhibit_count > 0).then_some([p.exhibit_first, last]);
        Some(p.exhibit_first.saturating_add(p.exhibit_count))
    }

    fn check_outcome(&self, p: &Seal, at: &mut Context<'_>) {
        let (id, outcome) = (&p.collection, p.outcome.as_str());
        let complete = self.receipts.iter().any(|(n, r)| r.agent_signed && self.acquisitions.get(n).is_some_and(|a| a.complete));
        let problem = match p.outcome {
            Outcome::Sealed if !complete => Some("no stream of it was signed by the agent as complete"),
            Outcome::Partial if self.receipts.is_empty() => Some("it has no stream"),
            Outcome::Refused if self.refusal.is_none() => Some("it has no signed refusal"),
            Outcome::Refused | Outcome::Failed | Outcome::Cancelled | Outcome::Expired if !self.receipts.is_empty() => {
                Some("it has streams")
            }
            _ => None,
        };
        if let Some(problem) = problem {
            at.add(Code::SealOutcome, format!("collection {id} is closed as '{outcome}', but {problem}"));
        }
        if p.outcome != Outcome::Sealed && p.reason.as_deref().is_none_or(str::is_empty) {
            at.add(Code::SealOutcome, format!("collection {id} is closed as '{outcome}' without a reason"));
        }
    }

    fn check_streams(&self, p: &Seal, at: &mut Context<'_>) {
        let id = &p.collection;
        let mut named = BTreeSet::new();
        let mut last = None;
        for sealed in &p.streams {
            if last.is_some_and(|l| sealed.stream <= l) {
                at.add(Code::SealStreams, format!("the seal of {id} names stream {} twice or out of order", sealed.stream));
            }
            last = Some(sealed.stream);
            named.insert(sealed.stream);
            match self.receipts.get(&sealed.stream) {
                Some(receipt) if receipt.digest == sealed.receipt => {}
                Some(receipt) => {
                    let message = format!(
                        "the seal of {id} names receipt {} for stream {}, the log has {}",
                        sealed.receipt, sealed.stream, receipt.digest
                    );
                    at.add(Code::SealStreams, message);
                }
                None => at.add(Code::SealStreams, format!("the seal of {id} names stream {}, which has no receipt", sealed.stream)),
            }
        }
        for (stream, receipt) in self.receipts.iter().filter(|(n, _)| !named.contains(n)) {
            at.add(Code::SealStreams, format!("the seal of {id} leaves out stream {stream}, which has receipt {}", receipt.digest));
        }
    }

    /// True when nothing was received of it and no seal ended it.
    pub fn brought_nothing_yet(&self) -> bool {
        !self.sealed && self.acquisitions.is_empty() && self.receipts.is_empty()
    }

    /// Says that its order needs an approval and has none; of a giver's key that was revoked since, the place of the revocation.
    pub fn unapproved(&mut self, order: &OrderId, (severity, revoked): (Severity, Option<(KeyId, u64)>), findings: &mut Findings) {
        self.summary.unapproved = true;
        let object = format!("collections/{}", self.summary.id);
        let more = revoked.map_or_else(
            || "what it brings if somebody approves it later is not in this log".to_owned(),
            |(key, at)| format!("nobody can approve it any more: it was signed by key {key}, which record {at} revoked"),
        );
        let (agent, id) = (&self.summary.agent, &self.summary.id);
        let message = format!("order {order} on agent {agent} (collection {id}) was never approved, and no host could obey it; {more}");
        findings.add_as(Code::OrderUnapproved, severity, object, message);
    }

    /// Checks that can only be made when all records were read.
    pub fn finish(&self, order: &OrderId, open: Severity, findings: &mut Findings) {
        let object = format!("collections/{}", self.summary.id);
        if !self.sealed {
            let message = format!("order {order} on agent {} (collection {}) has no seal", self.summary.agent, self.summary.id);
            findings.add_as(Code::OrderOpen, open, object, message);
            return;
        }
        for stream in self.acquisitions.keys().filter(|n| !self.receipts.contains_key(n)) {
            findings.add(Code::ReceiptMissing, &object, format!("stream {}.{stream} has an acquisition and no receipt", self.summary.id));
        }
    }

    /// Its evidence is not in this copy.
    pub const fn leave_out(&mut self) {
        self.summary.left_out = true;
    }

    pub fn jobs(&self, captures: &BTreeSet<String>, encrypt_to: &Recipients) -> Vec<Job> {
        self.receipts
            .iter()
            .filter(|_| !self.summary.left_out)
            .map(|(stream, receipt)| Job {
                case: receipt.case.clone(),
                collection: self.summary.id.clone(),
                stream: *stream,
                agent: self.summary.agent.clone(),
                order: self.order,
                captures: captures.clone(),
                manifest: receipt.manifest.clone(),
                agent_signed: receipt.agent_signed,
                encrypt_to: encrypt_to.clone(),
            })
            .collect()
    }

    pub fn add_tally(&mut self, stream: StreamNumber, tally: &Tally) {
        let s = &mut self.summary;
        if self.receipts.get(&stream).is_none_or(|r| !r.agent_signed) {
            s.items_unsigned = s.items_unsigned.saturating_add(tally.items);
        }
        for (status, count) in &tally.by_status {
            let sum = s.by_status.entry(*status).or_default();
            *sum = sum.saturating_add(*count);
        }
        s.streams = s.streams.saturating_add(1);
        s.items = s.items.saturating_add(tally.items);
        s.items_verified = s.items_verified.saturating_add(tally.items_verified);
        s.items_unchecked = s.items_unchecked.saturating_add(tally.items_unchecked);
        s.raw_bytes_unread = s.raw_bytes_unread.saturating_add(tally.raw_bytes_unread);
        s.raw_bytes = s.raw_bytes.saturating_add(tally.raw_bytes);
        s.stored_bytes = s.stored_bytes.saturating_add(tally.stored_bytes);
    }

    /// The time sandwich. Below: only a token whose record is *in* the head that the agent repeated was there before it; a
    /// token over that head may have been made later. Above: a token over any head that holds the record.
    pub fn place_in_time(&mut self, nonce_size: u64, tokens: &[Token]) {
        let (acquired, sealed) = self.places;
        let before = tokens.iter().filter(|t| acquired.is_some() && t.record.is_some_and(|n| n < nonce_size)).max_by_key(|t| t.earliest);
        let after = |place: Option<u64>| tokens.iter().filter(|t| place.is_some_and(|n| n < t.size)).min_by_key(|t| t.latest);
        let above = |token: &Token| Bound { at: token.latest, object: token.object.clone() };
        self.summary.trusted_time = Sandwich {
            not_before: before.map(|t| Bound { at: t.earliest, object: t.object.clone() }),
            acquired_before: after(acquired).map(above),
            sealed_before: after(sealed).map(above),
        };
    }

    pub fn into_summary(self) -> CollectionSummary {
        self.summary
    }
}
