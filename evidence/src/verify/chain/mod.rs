//! What the records of a case say to each other: the case is opened first, every order follows from it, every
//! collection follows from an order, every stream has its receipt, every collection at most one seal.
//!
//! What is done with evidence afterwards follows the rules of [`crate::custody`].
//!
//! State is bounded by what the log names: a few hundred bytes per order target, stream, hold and disposal. Access records leave none but
//! the names of those who exported the case, each with the last exports, and the places of exports.

mod collection;
mod moments;
mod revoked;
mod stamps;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use collection::Job;
use collection::{Collection, Context};
use moments::Moments;
pub(super) use moments::SLACK_S;
use revoked::Revoked;
use stamps::Stamps;
pub(super) use stamps::Token;

use super::stream::Tally;
use super::{CaseSummary, Code, CollectionSummary, Disposed, Findings, Severity};
use crate::age::Recipients;
use crate::custody::{Breach, Fate, Rule, State};
use crate::digest::Digest;
use crate::id::{AgentId, CaseId, CollectionId, OrderId};
use crate::layout::StreamNumber;
use crate::record::{Acquisition, Action, CaseClosed, CaseOpened, Incident, Nonce, Order, Receipt, Record, Verified};
use crate::text::escape_bounded;
use crate::time::Timestamp;

/// The custody chain as far as it was read.
#[derive(Debug)]
pub(super) struct Chain {
    complete: bool,
    /// It is the deployment's log, which opens no case.
    deployment: bool,
    /// The first record.
    first: Option<Digest>,
    opened: Option<(Digest, CaseSummary)>,
    /// A record that may not stand before case-opened was seen before it; reported once.
    early: bool,
    orders: BTreeMap<Digest, OrderFacts>,
    order_ids: BTreeSet<OrderId>,
    collections: BTreeMap<CollectionId, Collection>,
    custody: State,
    next_exhibit: u64,
    /// The place of the record that is being added.
    n: u64,
    /// What was recorded about timestamps.
    pub stamps: Stamps,
    moments: Moments,
    revoked: Revoked,
    /// The last exports by each name, [`EXPORTS_KEPT`] at most.
    exports: BTreeMap<String, Vec<Export>>,
    /// The places of all seals and exports, of which a bag has proofs.
    proven: Vec<u64>,
}

/// Exports by one name that are kept: so many may run at once without a doubt which of them made a copy.
const EXPORTS_KEPT: usize = 16;

/// An export of the case, by its access record.
#[derive(Debug)]
pub(super) struct Export {
    /// When, by the coordinator's clock.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// What later records need to know of an order.
#[derive(Debug)]
pub(super) struct OrderFacts {
    pub id: OrderId,
    pub nonce: Nonce,
    pub captures: BTreeSet<String>,
    pub expires_at: Timestamp,
    /// Reported once.
    ran_unapproved: bool,
}

impl Chain {
    /// An empty chain. `complete` says whether open collections are worth more than a note.
    pub fn new(complete: bool, deployment: bool) -> Self {
        Self {
            complete,
            deployment,
            first: None,
            opened: None,
            early: false,
            orders: BTreeMap::new(),
            order_ids: BTreeSet::new(),
            collections: BTreeMap::new(),
            custody: State::default(),
            next_exhibit: 1,
            n: 0,
            stamps: Stamps::new(deployment),
            moments: Moments::default(),
            revoked: Revoked::default(),
            exports: BTreeMap::new(),
            proven: Vec::new(),
        }
    }

    /// Leaves the evidence of collections out: it is not in this copy by choice.
    pub fn leave_out(&mut self, ids: &[CollectionId]) {
        for id in ids {
            if let Some(collection) = self.collections.get_mut(id) {
                collection.leave_out();
            }
        }
    }

    /// The collections that orders of this log ask for, in the order of their ids.
    pub fn collections(&self) -> impl Iterator<Item = &CollectionId> {
        self.collections.keys()
    }

    /// The last exports by this person that the log records, the newest at the end: a copy's own is among them.
    pub fn exports_by(&self, name: &str) -> &[Export] {
        self.exports.get(name).map_or(&[], Vec::as_slice)
    }

    /// When the log says last that the case was exported, by whomever.
    pub fn last_export(&self) -> Option<Timestamp> {
        self.exports.values().flatten().map(|export| export.at).max()
    }

    /// The places of all seals and exports, in their order.
    pub fn proven(&self) -> &[u64] {
        &self.proven
    }

    /// The case, once its case-opened record was verified.
    pub fn case(&self) -> Option<&CaseId> {
        self.opened.as_ref().map(|(_, summary)| &summary.id)
    }

    /// The case for the report.
    pub fn case_summary(&self) -> Option<CaseSummary> {
        self.opened.as_ref().map(|(_, summary)| summary.clone())
    }

    /// True when an order asked for this collection and no seal ended it.
    pub fn is_open(&self, collection: &CollectionId) -> bool {
        self.collections.get(collection).is_some_and(Collection::is_open)
    }

    /// First and last exhibit number of a collection that has some.
    pub fn exhibits(&self, collection: &CollectionId) -> Option<[u64; 2]> {
        self.collections.get(collection).and_then(Collection::exhibits)
    }

    /// True when the stream has a receipt.
    pub fn has_receipt(&self, collection: &CollectionId, stream: StreamNumber) -> bool {
        self.collections.get(collection).is_some_and(|c| c.has_receipt(stream))
    }

    /// Adds a verified record. `roots` holds the tree's root at every size up to this record.
    pub fn add(&mut self, object: &str, verified: &Verified, roots: &[Digest], findings: &mut Findings) {
        let record = verified.record();
        self.n = roots.len().saturating_sub(1) as u64;
        self.first.get_or_insert(verified.digest());
        if self.deployment {
            return self.add_to_deployment(object, record, roots, findings);
        }
        if !self.belongs_here(object, record, findings) {
            return;
        }
        let digest = verified.digest();
        self.see(object, record, findings);
        self.revoked.see(object, self.n, verified, findings);
        match record {
            Record::CaseOpened(p) => self.case_opened(object, digest, p, findings),
            Record::CaseClosed(p) => self.case_closed(object, p, findings),
            Record::Order(p) => self.order(object, digest, p, roots, findings),
            Record::Refusal(p) => {
                let named = (&p.collection, &p.agent, &p.predecessor);
                if let Some((collection, mut at)) = self.collection(object, "refusal", named, findings) {
                    collection.refusal(digest, &mut at);
                }
            }
            Record::Acquisition(p) => {
                self.must_be_approved(object, &p.predecessor, findings);
                self.approved_before(object, p, findings);
                let named = (&p.collection, &p.agent, &p.predecessor);
                if let Some((collection, mut at)) = self.collection(object, "acquisition", named, findings) {
                    collection.acquisition(digest, p, &mut at);
                }
            }
            Record::Receipt(p) => self.receipt(object, digest, p, findings),
            Record::Seal(p) => {
                self.proven.push(self.n);
                let named = (&p.collection, &p.agent, &p.order);
                let next = self.next_exhibit;
                if let Some((collection, mut at)) = self.collection(object, "seal", named, findings) {
                    self.next_exhibit = collection.seal(p, next, &mut at).unwrap_or(next);
                }
            }
            Record::Incident(p) => {
                incident(object, p, findings);
                if p.case.is_none() {
                    findings.add(Code::RecordWrongCase, object, "the incident names no case; it belongs into the deployment's log");
                }
            }
            Record::Stamped(_) | Record::NotStamped(_) => {
                if record.case().is_none() {
                    findings.add(Code::RecordWrongCase, object, "the timestamp names no case; it belongs into the deployment's log");
                }
                self.stamps.add(object, self.n, record, self.opened.as_ref().map(|(d, _)| *d), roots, findings);
            }
            Record::Access(p) if p.action == Action::Export => {
                self.proven.push(self.n);
                let of = self.exports.entry(p.by.clone()).or_default();
                if of.len() >= EXPORTS_KEPT {
                    of.remove(0);
                }
                of.push(Export { at: p.at, reason: p.reason.clone() });
            }
            Record::Enrolment(_) | Record::Revocation(_) => return,
            // The others are the custody rules' alone.
            _ => {}
        }
        if let Err(breach) = self.custody.take(digest, record) {
            let message = format!("the {} record {}", record.type_name().split(':').next().unwrap_or_default(), breach.message);
            findings.add(code_of(&breach), object, message);
        }
    }

    fn receipt(&mut self, object: &str, digest: Digest, p: &Receipt, findings: &mut Findings) {
        if let Some(order) = self.collections.get(&p.collection).map(|c| c.order) {
            self.must_be_approved(object, &order, findings);
        }
        if p.contents_unverified == self.encrypt_to().is_none() {
            findings.add(Code::ReceiptContents, object, format!("the receipt of {}.{}: {}", p.collection, p.stream, contents_said(p)));
        }
        if let Some((collection, mut at)) = self.known(object, "receipt", &p.collection, findings) {
            collection.receipt(digest, p, &mut at);
        }
    }

    /// After case-opened and of this case. False when it is of another one and takes no part.
    fn belongs_here(&mut self, object: &str, record: &Record, findings: &mut Findings) -> bool {
        if !matches!(record, Record::CaseOpened(_) | Record::Enrolment(_) | Record::Revocation(_)) && self.opened.is_none() && !self.early {
            self.early = true;
            findings.add(
                Code::CaseNotFirst,
                object,
                format!("a record of type {} stands before any valid case-opened record", record.type_name()),
            );
        }
        if let (Some(named), Some(case)) = (record.case(), self.case())
            && named != case
            && !matches!(record, Record::CaseOpened(_))
        {
            // A second case-opened has its own code.
            findings.add(Code::RecordWrongCase, object, format!("the record names case {named}, this is the log of case {case}"));
            return false;
        }
        true
    }

    /// The deployment's log holds keys, incidents, and its own timestamps.
    fn add_to_deployment(&mut self, object: &str, record: &Record, roots: &[Digest], findings: &mut Findings) {
        self.stamps.see(self.n, record);
        match record {
            Record::Enrolment(_) | Record::Revocation(_) => {}
            // Also of a case: where its own log takes nothing any more, the incident that says so stands here.
            Record::Incident(p) => incident(object, p, findings),
            Record::Stamped(_) | Record::NotStamped(_) if record.case().is_none() => {
                self.stamps.add(object, self.n, record, self.first, roots, findings);
            }
            _ => {
                let message = format!("a record of type {} that is about a case stands in the deployment's log", record.type_name());
                findings.add(Code::RecordWrongCase, object, message);
            }
        }
    }

    /// True when it is the deployment's log.
    pub const fn is_deployment(&self) -> bool {
        self.deployment
    }

    /// What became of a collection.
    pub fn fate(&self, collection: &CollectionId) -> Fate {
        self.custody.fate(collection)
    }

    fn case_opened(&mut self, object: &str, digest: Digest, p: &CaseOpened, findings: &mut Findings) {
        if let Some((_, first)) = &self.opened {
            findings.add(Code::CaseOpenedTwice, object, format!("case {} was already opened at {}", first.id, first.opened_at));
            return;
        }
        let summary = CaseSummary {
            id: p.case.clone(),
            title: p.title.clone(),
            legal_basis: p.legal_basis.clone(),
            accountable: p.accountable.clone(),
            opened_by: p.opened_by.clone(),
            opened_at: p.opened_at,
            closed_at: None,
            two_person: p.two_person,
            encrypt_to: p.encrypt_to.clone(),
        };
        self.opened = Some((digest, summary));
    }

    fn case_closed(&mut self, object: &str, p: &CaseClosed, findings: &mut Findings) {
        let Some((opened, summary)) = &mut self.opened else { return };
        if p.predecessor != *opened {
            findings.add(Code::CaseClosed, object, format!("case-closed follows from record {}, case-opened is {opened}", p.predecessor));
        }
        if let Some(at) = summary.closed_at {
            findings.add(Code::CaseClosed, object, format!("the case was already closed at {at}"));
            return;
        }
        summary.closed_at = Some(p.closed_at);
    }

    fn order(&mut self, object: &str, digest: Digest, p: &Order, roots: &[Digest], findings: &mut Findings) {
        match &self.opened {
            Some((opened, summary)) => {
                if p.predecessor != *opened {
                    let message = format!("order {} follows from record {}, case-opened is {opened}", p.order, p.predecessor);
                    findings.add(Code::OrderPredecessor, object, message);
                }
                if let Some(at) = summary.closed_at {
                    findings.add(Code::OrderAfterClose, object, format!("order {} was logged after the case was closed at {at}", p.order));
                }
            }
            None => findings.add(Code::OrderPredecessor, object, format!("order {} has no valid case-opened record before it", p.order)),
        }
        // The head of an empty log names no history, so it is no nonce.
        let root = usize::try_from(p.nonce.size).ok().filter(|n| *n > 0).and_then(|n| roots.get(n));
        if root != Some(&p.nonce.root) {
            let found = root.map_or_else(|| "no such head existed before it".to_owned(), |r| format!("its root was {r}"));
            let message = format!("order {} carries the head of {} records with root {}; {found}", p.order, p.nonce.size, p.nonce.root);
            findings.add(Code::OrderNonce, object, message);
        }
        for problem in self.order_problems(p) {
            findings.add(Code::OrderMalformed, object, format!("order {}: {problem}", p.order));
        }
        self.order_ids.insert(p.order.clone());
        for agent in &p.targets {
            let id = CollectionId::of(&digest, agent);
            self.collections.entry(id.clone()).or_insert_with(|| Collection::new(id, agent.clone(), digest));
        }
        let captures = p.captures.iter().map(|c| c.name.clone()).collect();
        self.orders.insert(
            digest,
            OrderFacts { id: p.order.clone(), nonce: p.nonce.clone(), captures, expires_at: p.expires_at, ran_unapproved: false },
        );
    }

    /// Begun after its order was approved, as far as the clocks can tell.
    fn approved_before(&self, object: &str, p: &Acquisition, findings: &mut Findings) {
        let (began, approved) = (moments::corrected(&p.started), self.custody.approved_at(&p.predecessor));
        if let (Some(began), Some(approved)) = (began, approved)
            && began.plus_s(moments::SLACK_S) < approved
        {
            let message = format!("{}.{} was begun at {began}, its order was approved at {approved}", p.collection, p.stream);
            findings.add(Code::AcquisitionUnapproved, object, message);
        }
    }

    /// Takes notice of any record: of its moment, and of an approval that comes when the case is closed, and with it what orders asked for.
    fn see(&mut self, object: &str, record: &Record, findings: &mut Findings) {
        self.stamps.see(self.n, record);
        self.moments.take(object, self.n, record, self.nonce_of(record), self.custody.retained_until(), findings);
        let Record::Approval(p) = record else { return };
        let closed = self.opened.as_ref().and_then(|(_, summary)| summary.closed_at);
        if let (Some(at), Some(order)) = (closed, self.custody.order_id(&p.predecessor)) {
            findings.add(Code::OrderAfterClose, object, format!("order {order} was approved after the case was closed at {at}"));
        }
    }

    /// Records of the head that the order of what an agent took carries.
    fn nonce_of(&self, record: &Record) -> u64 {
        let order = match record {
            Record::Acquisition(p) => Some(p.predecessor),
            Record::Receipt(p) => self.collections.get(&p.collection).map(|c| c.order),
            _ => None,
        };
        order.and_then(|order| self.orders.get(&order)).map_or(0, |order| order.nonce.size)
    }

    /// What was taken under an order that needs an approval comes after it. Said once for each order.
    fn must_be_approved(&mut self, object: &str, order: &Digest, findings: &mut Findings) {
        if self.custody.awaits_approval(order)
            && let Some(facts) = self.orders.get_mut(order)
            && !std::mem::replace(&mut facts.ran_unapproved, true)
        {
            let message = format!("order {} was carried out, and nobody had approved it", facts.id);
            findings.add(Code::OrderNotApproved, object, message);
        }
    }

    fn order_problems(&self, p: &Order) -> Vec<&'static str> {
        let unique: BTreeSet<&AgentId> = p.targets.iter().collect();
        let mut problems = Vec::new();
        let mut check = |broken: bool, text: &'static str| {
            if broken {
                problems.push(text);
            }
        };
        check(self.order_ids.contains(&p.order), "its id was used by an earlier order");
        check(p.targets.is_empty(), "it names no target");
        check(p.targets.len() > Order::TARGETS_MAX, "it names more than 1000 targets");
        check(unique.len() != p.targets.len(), "it names an agent twice");
        check(p.captures.is_empty(), "it names no capture");
        check(p.captures.len() > Order::CAPTURES_MAX, "it names more than 64 captures");
        check(p.expires_at <= p.issued_at, "it expires before it was issued");
        problems
    }

    /// Finds the collection that a record by or about an agent belongs to and checks the triple of ids.
    fn collection<'a>(
        &'a mut self,
        object: &'a str,
        what: &'static str,
        (id, agent, order): (&CollectionId, &AgentId, &Digest),
        findings: &'a mut Findings,
    ) -> Option<(&'a mut Collection, Context<'a>)> {
        if !self.orders.contains_key(order) {
            findings.add(Code::ChainOrder, object, format!("the {what} names order {order}, which is not in this log before it"));
            return None;
        }
        let expected = CollectionId::of(order, agent);
        if !self.collections.contains_key(&expected) {
            findings.add(
                Code::ChainTarget,
                object,
                format!("the {what} comes from or is about agent {agent}, which is no target of order {order}"),
            );
            return None;
        }
        if *id != expected {
            let message = format!("the {what} names collection {id}; order {order} on agent {agent} is collection {expected}");
            findings.add(Code::ChainCollection, object, message);
            return None;
        }
        self.known(object, what, id, findings)
    }

    fn known<'a>(
        &'a mut self,
        object: &'a str,
        what: &'static str,
        id: &CollectionId,
        findings: &'a mut Findings,
    ) -> Option<(&'a mut Collection, Context<'a>)> {
        let Some(collection) = self.collections.get_mut(id) else {
            findings.add(Code::ChainOrder, object, format!("the {what} is about collection {id}, which no order of this log makes"));
            return None;
        };
        let order = self.orders.get(&collection.order)?;
        Some((collection, Context { object, findings, order, n: self.n }))
    }

    /// Says of every collection between which moments it lies, and of every record whether the moment that it states can be true.
    pub fn place_in_time(&mut self, tokens: &[Token], findings: &mut Findings) {
        self.moments.compare(tokens, findings);
        for collection in self.collections.values_mut() {
            let nonce = self.orders.get(&collection.order).map_or(0, |order| order.nonce.size);
            collection.place_in_time(nonce, tokens);
        }
    }

    /// Checks that can only be made when all records were read.
    pub fn finish(&mut self, findings: &mut Findings) {
        if self.opened.is_none() && !self.deployment {
            findings.add(Code::CaseNotOpened, "log", "no valid case-opened record was found in the log");
        }
        let severity = if self.complete { Severity::Warning } else { Severity::Note };
        for collection in self.collections.values_mut() {
            let Some(order) = self.orders.get(&collection.order) else { continue };
            if collection.brought_nothing_yet() && self.custody.awaits_approval(&collection.order) {
                let revoked = self.revoked.signer_of(&collection.order);
                collection.unapproved(&order.id, (severity, revoked), findings);
            } else {
                collection.finish(&order.id, severity, findings);
            }
        }
        for id in self.collections.keys() {
            let object = format!("collections/{id}");
            match self.custody.fate(id) {
                // Nothing was ever received of one that a certificate names: it is what its seal says, and was not destroyed.
                Fate::Destroyed { .. } if !self.custody.received(id) => {}
                Fate::Kept => {}
                Fate::Condemned { approval } => {
                    let message = format!("the destruction of {id} was approved (record {approval}) and has no certificate");
                    findings.add(Code::DisposalUnfinished, object, message);
                }
                Fate::Destroyed { at, certificate } => {
                    findings.add(
                        Code::DisposalDone,
                        object,
                        format!("{id} was destroyed at {at}; the certificate is record {certificate}"),
                    );
                }
            }
        }
    }

    /// The streams to verify: every one that has a receipt and that nobody decided to destroy.
    pub fn jobs(&self) -> Vec<Job> {
        let kept = self.collections.iter().filter(|(id, _)| self.custody.fate(id) == Fate::Kept);
        kept.filter_map(|(_, c)| Some(c.jobs(&self.orders.get(&c.order)?.captures, self.encrypt_to()))).flatten().collect()
    }

    /// To whom the contents of the case's evidence are encrypted.
    pub const fn encrypt_to(&self) -> &Recipients {
        self.custody.encrypt_to()
    }

    /// Adds what was read of a stream to its collection's summary.
    pub fn add_tally(&mut self, collection: &CollectionId, stream: StreamNumber, tally: &Tally) {
        if let Some(collection) = self.collections.get_mut(collection) {
            collection.add_tally(stream, tally);
        }
    }

    /// The collections for the report, in the order of their exhibit numbers; those without come last.
    pub fn into_summaries(self) -> Vec<CollectionSummary> {
        let custody = self.custody;
        let summary = |(id, collection): (CollectionId, Collection)| {
            let disposed = match custody.fate(&id) {
                Fate::Destroyed { at, certificate } if custody.received(&id) => Some(Disposed { at, certificate }),
                _ => None,
            };
            CollectionSummary { disposed, ..collection.into_summary() }
        };
        let mut out: Vec<_> = self.collections.into_iter().map(summary).collect();
        out.sort_by_key(|c| c.exhibits.map_or(u64::MAX, |[first, _]| first));
        out
    }
}

fn incident(object: &str, p: &Incident, findings: &mut Findings) {
    let times =
        if p.count > 1 { format!(", {} times from {} to {}", p.count, p.first_at, p.last_at) } else { format!(", at {}", p.last_at) };
    let what = format!("{}: {}{times}: {}", shown(&p.kind, 60), shown(&p.about, 100), shown(&p.detail, 1_000));
    findings.add(Code::CaseIncident, object, what);
}

const fn code_of(breach: &Breach) -> Code {
    match breach.rule {
        Rule::Predecessor => Code::CustodyPredecessor,
        Rule::Reason => Code::CustodyReason,
        Rule::Collection => Code::CustodyCollection,
        Rule::RetentionShortened => Code::RetentionShortened,
        Rule::TransferRelease => Code::TransferRelease,
        Rule::TransferAcceptance => Code::TransferAcceptance,
        Rule::DisposalRequest => Code::DisposalRequest,
        Rule::SecondPerson => Code::DisposalSecondPerson,
        Rule::OrderSecondPerson => Code::OrderSecondPerson,
        Rule::ApprovalEarly => Code::ApprovalEarly,
        Rule::ApprovalLate => Code::ApprovalLate,
        Rule::Held => Code::DisposalHeld,
        Rule::Retained => Code::DisposalRetained,
        Rule::Certificate => Code::DisposalCertificate,
    }
}

/// Text of a host or person, cut and escaped for a report.
fn shown(text: &str, chars_max: usize) -> String {
    escape_bounded(text, chars_max)
}

fn contents_said(p: &Receipt) -> &'static str {
    if p.contents_unverified {
        "it says that contents were not verified, and the case is not encrypted"
    } else {
        "it says that contents were verified, and they are encrypted"
    }
}
