//! What the records of a case say to each other: the case is opened first, every order follows from it, every
//! collection follows from an order, every stream has its receipt, every collection at most one seal.
//!
//! State is bounded by what the log names: a few hundred bytes per order target and stream. Access records leave none but
//! the names of those who exported the case.

mod collection;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use collection::Job;
use collection::{Collection, Context};

use super::stream::Tally;
use super::{CaseSummary, Code, CollectionSummary, Findings, Severity};
use crate::digest::Digest;
use crate::id::{AgentId, CaseId, CollectionId, OrderId};
use crate::layout::StreamNumber;
use crate::record::{CaseClosed, CaseOpened, Incident, Nonce, Order, Record, Verified};
use crate::text::escape_bounded;

/// The custody chain as far as it was read.
#[derive(Debug)]
pub(super) struct Chain {
    complete: bool,
    opened: Option<(Digest, CaseSummary)>,
    /// A record that may not stand before case-opened was seen before it; reported once.
    early: bool,
    orders: BTreeMap<Digest, OrderFacts>,
    order_ids: BTreeSet<OrderId>,
    collections: BTreeMap<CollectionId, Collection>,
    next_exhibit: u64,
    /// Who exported the case, by their names.
    exporters: BTreeSet<String>,
}

/// What later records need to know of an order.
#[derive(Debug)]
pub(super) struct OrderFacts {
    pub id: OrderId,
    pub nonce: Nonce,
    pub captures: BTreeSet<String>,
}

impl Chain {
    /// An empty chain. `complete` says whether open collections are worth more than a note.
    pub fn new(complete: bool) -> Self {
        Self {
            complete,
            opened: None,
            early: false,
            orders: BTreeMap::new(),
            order_ids: BTreeSet::new(),
            collections: BTreeMap::new(),
            next_exhibit: 1,
            exporters: BTreeSet::new(),
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

    /// True when the log holds an access record for an export by this person.
    pub fn was_exported_by(&self, name: &str) -> bool {
        self.exporters.contains(name)
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

    /// True when the stream has a receipt.
    pub fn has_receipt(&self, collection: &CollectionId, stream: StreamNumber) -> bool {
        self.collections.get(collection).is_some_and(|c| c.has_receipt(stream))
    }

    /// Adds a verified record. `roots` holds the tree's root at every size up to this record.
    pub fn add(&mut self, object: &str, verified: &Verified, roots: &[Digest], findings: &mut Findings) {
        let record = verified.record();
        if !matches!(record, Record::CaseOpened(_) | Record::Enrolment(_) | Record::Revocation(_)) && self.opened.is_none() && !self.early {
            self.early = true;
            findings.add(
                Code::CaseNotFirst,
                object,
                format!("a record of type {} stands before any valid case-opened record", record.type_name()),
            );
        }
        if let (Some(named), Some(case)) = (case_of(record), self.case())
            && named != case
        {
            findings.add(Code::RecordWrongCase, object, format!("the record names case {named}, this is the log of case {case}"));
            return;
        }
        let digest = verified.digest();
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
                let named = (&p.collection, &p.agent, &p.predecessor);
                if let Some((collection, mut at)) = self.collection(object, "acquisition", named, findings) {
                    collection.acquisition(digest, p, &mut at);
                }
            }
            Record::Receipt(p) => {
                if let Some((collection, mut at)) = self.known(object, "receipt", &p.collection, findings) {
                    collection.receipt(digest, p, &mut at);
                }
            }
            Record::Seal(p) => {
                let named = (&p.collection, &p.agent, &p.order);
                let next = self.next_exhibit;
                if let Some((collection, mut at)) = self.collection(object, "seal", named, findings) {
                    self.next_exhibit = collection.seal(p, next, &mut at).unwrap_or(next);
                }
            }
            Record::Incident(p) => incident(object, p, findings),
            Record::Access(p) if p.action == "export" => {
                self.exporters.insert(p.by.clone());
            }
            Record::Access(_) | Record::Enrolment(_) | Record::Revocation(_) => {}
        }
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
        self.orders.insert(digest, OrderFacts { id: p.order.clone(), nonce: p.nonce.clone(), captures });
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
        Some((collection, Context { object, findings, order }))
    }

    /// Checks that can only be made when all records were read.
    pub fn finish(&mut self, findings: &mut Findings) {
        if self.opened.is_none() {
            findings.add(Code::CaseNotOpened, "log", "no valid case-opened record was found in the log");
        }
        let severity = if self.complete { Severity::Warning } else { Severity::Note };
        for collection in self.collections.values() {
            if let Some(order) = self.orders.get(&collection.order) {
                collection.finish(&order.id, severity, findings);
            }
        }
    }

    /// The streams to verify: every one that has a receipt.
    pub fn jobs(&self) -> Vec<Job> {
        self.collections.values().filter_map(|c| Some(c.jobs(&self.orders.get(&c.order)?.captures))).flatten().collect()
    }

    /// Adds what was read of a stream to its collection's summary.
    pub fn add_tally(&mut self, collection: &CollectionId, stream: StreamNumber, tally: &Tally) {
        if let Some(collection) = self.collections.get_mut(collection) {
            collection.add_tally(stream, tally);
        }
    }

    /// The collections for the report, in the order of their exhibit numbers; those without come last.
    pub fn into_summaries(self) -> Vec<CollectionSummary> {
        let mut out: Vec<_> = self.collections.into_values().map(Collection::into_summary).collect();
        out.sort_by_key(|c| c.exhibits.map_or(u64::MAX, |[first, _]| first));
        out
    }
}

fn incident(object: &str, p: &Incident, findings: &mut Findings) {
    let times =
        if p.count > 1 { format!(", {} times from {} to {}", p.count, p.first_at, p.last_at) } else { format!(", at {}", p.last_at) };
    let what = format!("{}: {}{times}: {}", shown(&p.kind, 60), shown(&p.about, 100), shown(&p.detail, 1_000));
    findings.add(Code::CaseIncident, object, what);
    if p.case.is_none() {
        findings.add(Code::RecordWrongCase, object, "the incident names no case; it belongs into the deployment's log");
    }
}

fn case_of(record: &Record) -> Option<&CaseId> {
    match record {
        Record::CaseClosed(p) => Some(&p.case),
        Record::Order(p) => Some(&p.case),
        Record::Acquisition(p) => Some(&p.case),
        Record::Receipt(p) => Some(&p.case),
        Record::Seal(p) => Some(&p.case),
        Record::Access(p) => Some(&p.case),
        Record::Incident(p) => p.case.as_ref(),
        // A second case-opened has its own code; the others name no case.
        Record::CaseOpened(_) | Record::Refusal(_) | Record::Enrolment(_) | Record::Revocation(_) => None,
    }
}

/// Text of a host or person, cut and escaped for a report.
fn shown(text: &str, chars_max: usize) -> String {
    escape_bounded(text, chars_max)
}
