//! How a collection ends. One function writes every end, and recovery calls the same one.

mod adopt;
mod signed;
mod streams;
mod waits;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::record::{self, Outcome, Record, Seal, SealedStream};
use exhibit_evidence::text::one_line;
use tokio::sync::Semaphore;

use crate::catalog::{ByStatus, CollectionChange, CollectionRow, Ending, State, StreamRow, StreamState, Totals};
use crate::clock;
use crate::dispatch::Outbound;
use crate::ledger::{self, LedgerError, View};
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

pub(crate) use signed::{Named, named};
use waits::{Refused, Waits};

/// Ends that are written at once. Each holds one manifest in memory for a moment, within what uploads and ends share.
const AT_ONCE_MAX: usize = 4;

/// How long an end waits for puts that have begun before its place is given to another; the timer comes back to it.
const WRITES_SETTLE: Duration = Duration::from_secs(10);

/// How the reason of a collection begins whose end cannot be written.
pub(crate) const CANNOT: &str = "cannot be sealed";

/// Which ends are being written now.
#[derive(Debug)]
pub struct Sealer {
    in_flight: Mutex<HashSet<CollectionId>>,
    permits: Semaphore,
    /// Collections whose damage was recorded, so that each repeat does not record it again.
    damaged: Mutex<HashSet<CollectionId>>,
    /// Ends that wait: until a person has seen to a store, or for another try.
    waits: Waits,
}

impl Default for Sealer {
    fn default() -> Self {
        Self { in_flight: Mutex::default(), permits: Semaphore::new(AT_ONCE_MAX), damaged: Mutex::default(), waits: Waits::default() }
    }
}

impl Sealer {
    /// Waits until nothing is being written, but not longer than this.
    pub async fn idle(&self, at_most: Duration) {
        // All permits at once: whoever writes an end holds one.
        let _ = tokio::time::timeout(at_most, self.permits.acquire_many(AT_ONCE_MAX as u32)).await;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to write the end of a collection that is in state `sealing`, unless somebody does already, or it failed a moment ago. What fails is
/// repeated by the timer, later each time. True when it was begun just now.
pub fn begin(parts: &Arc<Parts>, collection: &CollectionId) -> bool {
    if !parts.sealer.waits.is_due(collection) {
        return false;
    }
    if !locked(&parts.sealer.in_flight).insert(collection.clone()) {
        return false;
    }
    let (parts, collection) = (Arc::clone(parts), collection.clone());
    tokio::spawn(async move {
        let done = close(&parts, &collection).await;
        // Before somebody else may begin: until when it is left alone.
        let refused = note_refusal(&parts.sealer.waits, &collection, &done);
        locked(&parts.sealer.in_flight).remove(&collection);
        match (done, refused) {
            (Err(problem), _) if problem.kind() == Kind::Damaged => note_damage(&parts, &collection, &problem).await,
            (Err(problem), Some(refused)) if refused.is_new_here => {
                show_why(&parts, &collection, &format!("{CANNOT} until somebody has seen to a store: {problem}")).await;
            }
            (Err(problem), None) => tracing::warn!(%collection, %problem, "the end of the collection could not be written yet"),
            (Ok(_) | Err(_), _) => {}
        }
    });
    true
}

/// All collections whose ends are still to be written are these: what waits here of others was written by another coordinator.
pub(crate) fn only(parts: &Parts, open: &HashSet<CollectionId>) {
    parts.sealer.waits.only(open);
}

/// What failed is tried again later each time. What a store refuses lasts until a person has seen to it, and is said once. None where no store
/// does.
fn note_refusal(waits: &Waits, collection: &CollectionId, done: &Result<bool>) -> Option<Refused> {
    let problem = match done {
        Ok(true) => {
            if waits.written(collection) {
                tracing::info!(%collection, "ends of collections can be written again: the store does not refuse it any more");
            }
            return None;
        }
        Ok(false) => {
            waits.gone(collection);
            return None;
        }
        Err(problem) => problem,
    };
    let Some(reason) = problem.lasting() else {
        waits.failed(collection, problem.is_passing());
        return None;
    };
    let refused = waits.refused(collection, reason);
    if refused.is_new {
        let again_in_s = refused.wait.as_secs();
        tracing::warn!(%collection, %problem, again_in_s, "the end of the collection could not be written: a store does not take it, which is said once for each reason");
    }
    Some(refused)
}

async fn note_damage(parts: &Parts, collection: &CollectionId, problem: &Problem) {
    if !locked(&parts.sealer.damaged).insert(collection.clone()) {
        return;
    }
    let case = parts.catalog.collection(collection.clone()).await.ok().flatten().map(|row| row.case);
    parts.incident(case.as_ref(), "store-damaged", collection.as_str(), &problem.to_string()).await;
    show_why(parts, collection, &format!("{CANNOT}: {problem}")).await;
}

/// Keeps why a collection cannot be sealed, for whoever looks at it.
async fn show_why(parts: &Parts, collection: &CollectionId, why: &str) {
    let reason = Some(Some(one_line(why, 1_000)));
    let change = CollectionChange { reason, ..CollectionChange::default() };
    if let Err(error) = parts.catalog.change(collection.clone(), vec![State::Sealing], change).await {
        tracing::error!(%collection, %error, "why the collection cannot be sealed could not be kept");
    }
    parts.progress.ring(collection);
}

/// Writes the end of a collection whose ending is decided (state `sealing`). False when there is none to write: somebody else did.
///
/// Order of writes; each step is idempotent, so that after a death anywhere the whole is done again:
/// 0. puts that uploads have begun are waited for and no more are let begin: what lies in the store is settled; the case's log is
///    open, so that what is written has the locks that custody asks for;
/// 1. segments that lie in the store and are not in the catalog (an earlier process died between the two, or the catalog
///    was made anew) are taken over; each stream that is still open: with segments, its manifest gets its end line (`complete: false`) and the stream
///    becomes `finished`; without, `void` (catalog);
/// 2. each finished stream: manifest object; the stream's objects listed and compared; acquisition (when the agent
///    signed one) and receipt in the case's log; `received` in the catalog;
/// 3. the agent's refusal in the case's log, if there is one;
/// 4. the seal in the case's log, with the next exhibit numbers, built under the log's lock; the ledger publishes the
///    checkpoint over it;
/// 5. the collection's row: closed, totals, exhibits, the seal;
/// 6. the agent and the watchers are told.
///
/// # Errors
/// [`Problem`]; passing ones go away, [`Kind::Damaged`] needs a person.
pub async fn close(parts: &Arc<Parts>, collection: &CollectionId) -> Result<bool> {
    let _permit = parts.sealer.permits.acquire().await;
    let begun = tokio::time::Instant::now();
    let row = parts.catalog.collection(collection.clone()).await?;
    let row = row.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no {collection}")))?;
    let (State::Sealing, Some(_)) = (row.state, &row.ending) else { return Ok(false) };
    // Another coordinator may be writing this end, or objects of an upload that ends now.
    let right = crate::replica::collection(parts, collection).await?;
    let row = parts.catalog.collection(collection.clone()).await?.unwrap_or(row);
    let (State::Sealing, Some(ending)) = (row.state, row.ending.clone()) else { return Ok(false) };
    let writing = parts.uploads.end_writing(collection);
    let settled = tokio::time::timeout(WRITES_SETTLE, writing).await;
    settled.map_err(|_| Problem::new(Kind::Busy, "a write to the store that an upload began has not ended yet"))?;
    // Before anything is written: the store learns from the case's log which hold and retention that is to have. After a start nobody may
    // have opened it yet.
    parts.ledgers.case(&row.case).await?;
    adopt::streams_without_rows(parts, &row).await?;
    for stream in parts.catalog.streams(collection.clone()).await? {
        streams::receive(parts, &row, stream).await?;
    }
    if let Some(refusal) = &ending.refusal {
        log_refusal(parts, &row, refusal).await?;
    }
    let kept: Vec<StreamRow> =
        parts.catalog.streams(collection.clone()).await?.into_iter().filter(|s| s.state == StreamState::Received).collect();
    if !right.lasts() {
        return Err(Problem::new(Kind::Busy, "the right to write the end of the collection could not be kept"));
    }
    let seal = append_seal(parts, &row, &ending, &kept).await?;
    let Ok(Record::Seal(record)) = Record::from_payload(seal.unverified_payload()) else {
        return Err(Problem::new(Kind::Damaged, format!("the log's seal of {collection} is not a seal")));
    };
    let totals = sum(&kept);
    let change = CollectionChange {
        state: Some(State::Closed(record.outcome)),
        reason: Some(reason_shown(parts, &record, &totals)),
        ending: Some(None),
        ended_at: Some(record.sealed_at),
        totals: Some(totals),
        exhibits: Some((record.exhibit_first, record.exhibit_count)),
        seal: Some(seal.as_bytes().to_vec()),
        ..CollectionChange::default()
    };
    parts.catalog.change(collection.clone(), vec![State::Sealing], change).await?;
    let (outcome, items) = (record.outcome.as_str(), record.exhibit_count);
    tracing::info!(%collection, case = %row.case, outcome, items, reason = %one_line(record.reason.as_deref().unwrap_or_default(), 300), "closed");
    parts.metrics.closed(outcome, begun.elapsed());
    parts.uploads.forget(collection);
    drop(right);
    parts.progress.forget(collection);
    parts.sessions.send(&row.agent, Outbound::Closed { collection: collection.clone(), seal: seal.as_bytes().to_vec() });
    Ok(true)
}

/// The seal's reason. Who watched the agent's own count and now sees a smaller one learns why.
fn reason_shown(parts: &Parts, seal: &Seal, totals: &Totals) -> Option<String> {
    let said = parts.progress.live(&seal.collection).map_or(0, |live| live.items);
    let reason = seal.reason.as_ref()?;
    if said <= totals.items {
        return Some(reason.clone());
    }
    Some(format!("{reason}; of {said} items that the agent had taken, {} arrived", totals.items))
}

async fn log_refusal(parts: &Parts, row: &CollectionRow, refusal: &[u8]) -> Result<()> {
    let envelope =
        Envelope::parse(refusal).map_err(|e| Problem::new(Kind::Damaged, format!("the catalog's refusal of {}: {e}", row.collection)))?;
    parts.ledgers.ensure_enrolled(&row.case, &[envelope.keyid()]).await?;
    let ledger = parts.ledgers.case(&row.case).await?;
    if ledger.refusal_of(&row.collection).is_none() {
        ledger.append(vec![envelope]).await?;
    }
    Ok(())
}

/// Step 4: the seal of the collection, from the log when it is there already.
async fn append_seal(parts: &Arc<Parts>, row: &CollectionRow, ending: &Ending, kept: &[StreamRow]) -> Result<Envelope> {
    let ledger = parts.ledgers.case(&row.case).await?;
    let facts = Facts::new(row, ending, kept, clock::now())?;
    let ledgers = Arc::clone(&parts.ledgers);
    ledger
        .append_built(move |view| {
            if view.seal_of(&facts.seal.collection).is_some() {
                return Ok(Vec::new());
            }
            let seal = facts.clone().seal(view)?;
            let signed = record::sign(&seal, ledgers.log_key())
                .map_err(|e| LedgerError::new(ledger::Kind::Bug, format!("seal of {}: {e}", seal.collection)))?;
            Ok(vec![signed])
        })
        .await?;
    let entry = ledger
        .seal_of(&row.collection)
        .ok_or_else(|| Problem::new(Kind::Damaged, format!("the log lacks the seal of {}", row.collection)))?;
    Ok(ledger.read(entry.n).await?)
}

/// What the seal says as far as it does not depend on the log.
#[derive(Clone)]
struct Facts {
    seal: Seal,
}

impl Facts {
    fn new(row: &CollectionRow, ending: &Ending, kept: &[StreamRow], now: exhibit_evidence::Timestamp) -> Result<Self> {
        let (outcome, reason) = outcome(ending, kept);
        let mut streams = Vec::with_capacity(kept.len());
        for stream in kept {
            let receipt = stream
                .receipt
                .ok_or_else(|| Problem::new(Kind::Damaged, format!("{} {} has no receipt", row.collection, stream.stream)))?;
            streams.push(SealedStream { stream: stream.stream, receipt });
        }
        let seal = Seal {
            case: row.case.clone(),
            collection: row.collection.clone(),
            agent: row.agent.clone(),
            order: row.order_digest,
            predecessor: row.order_digest,
            outcome,
            reason,
            streams,
            exhibit_first: 0,
            exhibit_count: sum(kept).items,
            sealed_at: now,
        };
        Ok(Self { seal })
    }

    /// The rest: what it follows from, and the next free exhibit numbers.
    fn seal(mut self, view: &View) -> Result<Seal, LedgerError> {
        let receipts = self.seal.streams.iter().map(|s| {
            view.receipt_of(&self.seal.collection, s.stream).filter(|e| e.digest == s.receipt).map(|e| (e.n, e.digest)).ok_or_else(|| {
                LedgerError::new(ledger::Kind::Damaged, format!("the log lacks the receipt of {} {}", self.seal.collection, s.stream))
            })
        });
        let last = receipts.collect::<Result<Vec<_>, _>>()?.into_iter().max();
        let refusal = view.refusal_of(&self.seal.collection).map(|e| e.digest);
        self.seal.predecessor = last.map(|(_, digest)| digest).or(refusal).unwrap_or(self.seal.order);
        self.seal.exhibit_first = view.exhibits().saturating_add(1);
        Ok(self.seal)
    }
}

/// How it ended, by what is there: a stream that the agent signed as complete makes it `sealed`, any other stream
/// `partial`; without a stream it cannot be either.
fn outcome(ending: &Ending, kept: &[StreamRow]) -> (Outcome, Option<String>) {
    let signed: Vec<_> = kept.iter().filter_map(streams::acquisition).collect();
    if signed.iter().any(|a| a.complete) {
        return (Outcome::Sealed, None);
    }
    let said = ending.reason.clone().or_else(|| signed.iter().rev().find_map(|a| a.reason.clone()));
    let reason = Some(one_line(said.as_deref().unwrap_or("the agent did not finish"), 1_000));
    let outcome = match (kept.is_empty(), ending.outcome) {
        (false, _) => Outcome::Partial,
        (true, Outcome::Sealed | Outcome::Partial) => Outcome::Failed,
        (true, other) => other,
    };
    (outcome, reason)
}

fn sum(kept: &[StreamRow]) -> Totals {
    let mut totals = Totals { by_status: ByStatus::new(), ..Totals::default() };
    for manifest in kept.iter().filter_map(|s| s.manifest.as_ref()) {
        totals.items = totals.items.saturating_add(manifest.items);
        totals.raw_bytes = totals.raw_bytes.saturating_add(manifest.raw_bytes);
        totals.stored_bytes = totals.stored_bytes.saturating_add(manifest.stored_bytes);
        for (status, count) in &manifest.by_status {
            let sum = totals.by_status.entry(*status).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
    totals
}
