//! The chain of custody of a case as a table: one row per record that says what happened to evidence.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::periods::{Moment, Period, Periods, Storage};
use super::{Fate, State};
use crate::digest::Digest;
use crate::id::CollectionId;
use crate::record::{CaseOpened, REASON_BYTES_MAX, Record, Verified};
use crate::text::{escape_bounded, one_line};
use crate::time::Timestamp;

/// One row of the table. Texts of people and hosts are escaped, and cut where they are longer than a record may have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Record number.
    pub n: u64,
    /// When, by the clock of who signed.
    pub at: Timestamp,
    /// What happened: `order`, `acquisition`, `access`, `hold` and so on.
    pub event: &'static str,
    /// Who.
    pub by: String,
    /// What it is about.
    pub what: String,
    /// Why, where somebody said so.
    pub reason: Option<String>,
    /// The record's digest.
    pub record: Digest,
    /// The rule that it breaks, if any; then it has no effect.
    pub problem: Option<String>,
}

/// The table and the periods of one case. About 500 bytes per record that makes a row.
#[derive(Debug, Default)]
pub struct History {
    state: State,
    opened: Option<CaseOpened>,
    hosts: BTreeMap<CollectionId, String>,
    rows: Vec<Row>,
    periods: Periods,
    receiver: BTreeMap<CollectionId, String>,
    sealed: BTreeSet<CollectionId>,
    latest: Option<Timestamp>,
}

impl History {
    /// Takes the verified record `n`; records come in their order.
    pub fn add(&mut self, n: u64, verified: &Verified) {
        let (record, digest) = (verified.record(), verified.digest());
        let problem = self.state.take(digest, record).err().map(|b| b.message);
        let Some((at, by, what, reason)) = self.facts(record, verified.signer()) else { return };
        let event = record.type_name().split(':').next().unwrap_or_default();
        let reason = reason.map(|r| one_line(r, REASON_BYTES_MAX));
        let by = escape_bounded(by, 200);
        self.rows.push(Row { n, at, event, by, what: escape_bounded(&what, 400), reason, record: digest, problem: problem.clone() });
        // No period ends before it begins: see `Moment`.
        let at = self.latest.map_or(at, |latest| latest.max(at));
        if problem.is_none() {
            self.periods_after(record, Moment { n, at }, verified.signer());
        }
    }

    /// The rows, in the order of the log.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The periods of every collection that holds something, in the order in which they begin.
    #[must_use]
    pub fn periods(&self) -> &[Period] {
        self.periods.all()
    }

    /// How things stand after the last record.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The case.
    #[must_use]
    pub const fn case(&self) -> Option<&CaseOpened> {
        self.opened.as_ref()
    }

    /// The host of a collection, as its agent says; escaped.
    #[must_use]
    pub fn host(&self, collection: &CollectionId) -> Option<&str> {
        self.hosts.get(collection).map(String::as_str)
    }

    fn facts<'a>(&mut self, record: &'a Record, signer: &'a str) -> Option<(Timestamp, &'a str, String, Option<&'a str>)> {
        Some(match record {
            Record::CaseOpened(p) => {
                self.opened.get_or_insert_with(|| (**p).clone());
                let rule = if p.two_person { "; each order needs a second person" } else { "" };
                (p.opened_at, p.opened_by.as_str(), format!("{}{rule}", p.case), Some(p.legal_basis.as_str()))
            }
            Record::CaseClosed(p) => (p.closed_at, p.closed_by.as_str(), p.case.to_string(), Some(p.reason.as_str())),
            Record::Order(p) => {
                let captures: Vec<&str> = p.captures.iter().map(|c| c.name.as_str()).collect();
                let what = format!("{} on {}: {}", p.order, count(p.targets.len(), "host"), captures.join(", "));
                (p.issued_at, p.issued_by.as_str(), what, Some(p.reason.as_str()))
            }
            Record::Refusal(p) => (p.refused_at, signer, p.collection.to_string(), Some(p.message.as_str())),
            Record::Acquisition(p) => {
                self.hosts.insert(p.collection.clone(), escape_bounded(&p.host.hostname, 100));
                let what = format!(
                    "{}.{} on {}: {} items, manifest {}",
                    p.collection, p.stream, p.host.hostname, p.manifest.items, p.manifest.sha256
                );
                (p.ended.wall, signer, what, p.reason.as_deref())
            }
            Record::Receipt(p) => {
                let what = format!(
                    "{}.{}: {}, {} bytes",
                    p.collection,
                    p.stream,
                    count(p.manifest.segments as usize, "segment"),
                    p.manifest.stored_bytes
                );
                (p.received_to, signer, what, None)
            }
            Record::Seal(p) => {
                let last = p.exhibit_first.saturating_add(p.exhibit_count).saturating_sub(1);
                let exhibits = if p.exhibit_count > 0 { format!(", exhibits {} to {last}", p.exhibit_first) } else { String::new() };
                (p.sealed_at, signer, format!("{} {}{exhibits}", p.collection, p.outcome.as_str()), p.reason.as_deref())
            }
            Record::Approval(p) => {
                let order = self.state.order_id(&p.predecessor);
                let what = order.map_or_else(|| format!("approves record {}", p.predecessor), |id| format!("approves {id}"));
                (p.approved_at, p.approved_by.as_str(), what, Some(p.reason.as_str()))
            }
            other => return custody_facts(other, signer),
        })
    }

    fn periods_after(&mut self, record: &Record, at: Moment, signer: &str) {
        match record {
            Record::Receipt(p) => {
                self.receiver.entry(p.collection.clone()).or_insert_with(|| escape_bounded(signer, 200));
            }
            Record::Seal(p) => {
                self.sealed.insert(p.collection.clone());
            }
            Record::Hold(_) | Record::HoldReleased(_) | Record::Retention(_) | Record::Transfer(_) | Record::Approval(_) => {}
            Record::Destruction(p) => {
                self.latest = Some(at.at);
                p.collections.iter().for_each(|d| self.periods.end(&d.collection, at));
                return;
            }
            _ => return,
        }
        self.latest = Some(at.at);
        for (collection, receiver) in &self.receiver {
            let storage = match self.state.fate(collection) {
                Fate::Kept if self.sealed.contains(collection) => Storage::Sealed,
                Fate::Kept => Storage::Arriving,
                Fate::Condemned { .. } | Fate::Destroyed { .. } => Storage::Condemned,
            };
            let next = Period {
                collection: collection.clone(),
                from: at,
                to: None,
                custodian: self.state.custodian().map_or_else(|| receiver.clone(), |name| escape_bounded(name, 200)),
                storage,
                held: self.state.is_held(collection),
                retained_until: self.state.retained_until(),
            };
            self.periods.change(next);
        }
    }
}

fn custody_facts<'a>(record: &'a Record, signer: &'a str) -> Option<(Timestamp, &'a str, String, Option<&'a str>)> {
    Some(match record {
        Record::Access(p) => {
            let first: Vec<&str> = p.what.iter().take(3).map(String::as_str).collect();
            let more = p.what.len().saturating_sub(first.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            (p.at, p.by.as_str(), format!("{}: {}{more}", p.action, first.join(", ")), Some(p.reason.as_str()))
        }
        Record::Hold(p) => {
            let late = if p.too_late.is_empty() { String::new() } else { format!(", too late for {}", names(&p.too_late)) };
            (p.placed_at, p.placed_by.as_str(), format!("{}{late}", names(&p.collections)), Some(p.reason.as_str()))
        }
        Record::HoldReleased(p) => (p.released_at, p.released_by.as_str(), format!("hold {}", p.predecessor), Some(p.reason.as_str())),
        Record::Retention(p) => (p.set_at, p.set_by.as_str(), format!("until {}", p.until), Some(p.reason.as_str())),
        Record::Release(p) => (p.released_at, p.released_by.as_str(), format!("offered to {}", p.to), Some(p.reason.as_str())),
        Record::Transfer(p) => (p.received_at, p.received_by.as_str(), format!("accepts offer {}", p.predecessor), Some(p.reason.as_str())),
        Record::Disposal(p) => {
            let collections: Vec<_> = p.seals.iter().map(|s| s.collection.clone()).collect();
            (p.requested_at, p.requested_by.as_str(), names(&collections), Some(p.reason.as_str()))
        }
        Record::Destruction(p) => {
            let sum = |of: fn(&crate::record::DestroyedCollection) -> u64| p.collections.iter().fold(0_u64, |n, d| n.saturating_add(of(d)));
            // One of which nothing was ever received was not destroyed, although the certificate names it.
            let what = format!(
                "{}, {} objects, {} bytes destroyed",
                count(p.collections.iter().filter(|d| d.objects > 0).count(), "collection"),
                sum(|d| d.objects),
                sum(|d| d.bytes)
            );
            (p.destroyed_at, signer, what, None)
        }
        _ => return None,
    })
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn names(collections: &[CollectionId]) -> String {
    if collections.is_empty() {
        return "the whole case".to_owned();
    }
    collections.iter().map(CollectionId::as_str).collect::<Vec<_>>().join(", ")
}
