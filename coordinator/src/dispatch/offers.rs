//! Offers and their answers, cancels, lost attempts. Every step is a compare-and-change of the collection's row first
//! and a message second: a message that is lost is sent again when the agent connects.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{AgentId, CollectionId, OrderId};
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::record::{Order, Outcome, Record};
use exhibit_evidence::text::{escape_bounded, one_line};

use super::Outbound;
use super::admit::{select, waiting};
use crate::catalog::{CollectionChange, CollectionFilter, CollectionRow, Ending, State, StreamState};
use crate::clock;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::seal;

/// States in which the agent may begin and has not.
const WAITING: [State; 2] = [State::Queued, State::Offered];
/// States in which nothing was begun.
const NOT_BEGUN: [State; 3] = [State::Unapproved, State::Queued, State::Offered];

/// The deadline of an order that has none.
const DEADLINE_S: i64 = 7 * 86_400;
/// How long the answer to a cancel waits for seals, and how often it looks.
const SEALS_WAIT: Duration = Duration::from_secs(5);
const SEALS_LOOK_EVERY: Duration = Duration::from_millis(50);
/// Attempts at a collection before it is closed with what arrived: an agent that dies on every attempt must not be
/// asked for ever.
const STREAMS_MAX: u32 = 5;

/// The order of a collection, from the catalog's copy.
///
/// # Errors
/// [`Kind::Damaged`] when the catalog does not hold it.
pub async fn order_of(parts: &Parts, row: &CollectionRow) -> Result<(Order, Envelope)> {
    let damaged = |what: &str| {
        Problem::new(Kind::Damaged, format!("the catalog's copy of order {}: {what}; run 'exhibit-coordinator reindex'", row.order))
    };
    let kept = parts.catalog.order(row.order.clone()).await?.ok_or_else(|| damaged("missing"))?;
    let envelope = Envelope::parse(&kept.envelope).map_err(|e| damaged(&e.to_string()))?;
    if envelope.digest() != row.order_digest {
        return Err(damaged("not the admitted one"));
    }
    match Record::from_payload(envelope.unverified_payload()) {
        Ok(Record::Order(order)) => Ok((*order, envelope)),
        _ => Err(damaged("not an order")),
    }
}

/// Offers a collection to its agent's session.
///
/// Order: (1) state `offered`; (2) the message. Lost between: offered again when the agent connects. One that was not begun and whose
/// signer or approver was revoked meanwhile ends here instead, as cancelled.
///
/// # Errors
/// [`Problem`]
pub async fn offer(parts: &Arc<Parts>, row: &CollectionRow) -> Result<()> {
    let (_, order) = order_of(parts, row).await?;
    let case = parts.catalog.case(row.case.clone()).await?;
    let case = case.ok_or_else(|| Problem::new(Kind::Damaged, format!("the catalog lacks case {}", row.case)))?;
    let ledger = parts.ledgers.case(&row.case).await?;
    let (waits, approval) = {
        let view = ledger.view();
        (view.custody().awaits_approval(&row.order_digest), view.custody().approval_of(&row.order_digest))
    };
    if waits {
        // The row cannot say otherwise: the log decides.
        return Ok(());
    }
    let approval = match approval {
        Some(digest) => ledger.read_by_digest(&digest).await?,
        None => None,
    };
    if let Some(reason) = super::signers::revoked(parts, row, &order, approval.as_ref()).await? {
        return end_unoffered(parts, row, &reason).await;
    }
    let approver = match &approval {
        Some(approval) => parts.ledgers.chain_in(approval.keyid(), &row.case).await?,
        None => Vec::new(),
    };
    let opened = ledger.read_by_digest(&case.case_opened).await?;
    let opened = opened.ok_or_else(|| Problem::new(Kind::Damaged, format!("the log of {} lacks its case-opened record", row.case)))?;
    let chain = parts.ledgers.chain_in(order.keyid(), &row.case).await?;
    let opener = if opened.keyid() == order.keyid() { Vec::new() } else { parts.ledgers.chain_in(opened.keyid(), &row.case).await? };
    let change = CollectionChange {
        state: Some(State::Offered),
        reason: Some(Some("offered to the agent, no answer yet".to_owned())),
        ..CollectionChange::default()
    };
    let Some(row) = parts.catalog.change(row.collection.clone(), WAITING.to_vec(), change).await? else { return Ok(()) };
    parts.progress.ring(&row.collection);
    let message = Outbound::Offer {
        collection: row.collection.clone(),
        order: order.as_bytes().to_vec(),
        enrolments: chain.iter().map(|e| e.as_bytes().to_vec()).collect(),
        case_opened: opened.as_bytes().to_vec(),
        stream: row.stream.0,
        continues: is_begun(parts, &row).await?,
        approval: approval.map(|a| a.as_bytes().to_vec()).unwrap_or_default(),
        approver: approver.iter().map(|e| e.as_bytes().to_vec()).collect(),
        opener: opener.iter().map(|e| e.as_bytes().to_vec()).collect(),
    };
    parts.sessions.deliver(&row.agent, message).await;
    Ok(())
}

/// What waited for its agent ends as cancelled, as if a responder had said so.
async fn end_unoffered(parts: &Arc<Parts>, row: &CollectionRow, reason: &str) -> Result<()> {
    let ending = Ending { outcome: Outcome::Cancelled, reason: Some(reason.to_owned()), refusal: None };
    if end(parts, &row.collection, &WAITING, ending).await?.is_some() {
        tracing::warn!(collection = %row.collection, agent = %row.agent, %reason, "not offered");
        // It may have been offered a moment ago.
        parts.sessions.send(&row.agent, Outbound::Cancel { collection: row.collection.to_string(), reason: one_line(reason, 1_024) });
    }
    Ok(())
}

/// [`offer`], for an agent that may not be there: it is offered when it connects. A failure is logged, and the timer
/// repeats it: an agent that stays connected would otherwise never hear of the order.
pub(super) async fn offer_if_online(parts: &Arc<Parts>, row: &CollectionRow) {
    if !parts.sessions.takes_offers(&row.agent) {
        return;
    }
    if let Err(error) = offer(parts, row).await {
        tracing::warn!(collection = %row.collection, %error, "the collection could not be offered now");
        parts.unoffered.add(row.collection.clone());
    }
}

/// Collections whose offer failed while their agent was connected. In memory only: after a restart the agents connect
/// again and are offered what is open.
#[derive(Debug, Default)]
pub struct Unoffered {
    collections: Mutex<HashSet<CollectionId>>,
    /// Approved orders whose collections still wait.
    orders: Mutex<HashSet<OrderId>>,
}

/// Most collections that wait for another offer; further ones wait until their agents connect again.
const UNOFFERED_MAX: usize = 10_000;

impl Unoffered {
    fn add(&self, collection: CollectionId) {
        let mut waiting = self.collections.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < UNOFFERED_MAX {
            waiting.insert(collection);
        }
    }

    fn add_order(&self, order: OrderId) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).insert(order);
    }

    fn take_orders(&self) -> HashSet<OrderId> {
        std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self) -> HashSet<CollectionId> {
        std::mem::take(&mut *self.collections.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Lets the collections of an order go that was approved: state `queued`, then the offers. Repeatable.
///
/// # Errors
/// [`Problem`]; what is left waits for the next call.
pub(super) async fn release(parts: &Arc<Parts>, order: &OrderId) -> Result<()> {
    for row in select(parts, CollectionFilter { order: Some(order.clone()), open: true, ..CollectionFilter::default() }).await? {
        if parts.ledgers.case(&row.case).await?.view().custody().awaits_approval(&row.order_digest) {
            return Ok(());
        }
        let (state, reason) = waiting(order, false);
        let change = CollectionChange { state: Some(state), reason: Some(Some(reason)), ..CollectionChange::default() };
        if let Some(row) = parts.catalog.change(row.collection.clone(), vec![State::Unapproved], change).await? {
            parts.progress.ring(&row.collection);
            offer_if_online(parts, &row).await;
        }
    }
    Ok(())
}

/// [`release`] after an approval came into the log: the decision stands, and what fails here is done by the timers.
pub async fn approved(parts: &Arc<Parts>, order: &OrderId) {
    if let Err(error) = release(parts, order).await {
        tracing::warn!(%order, %error, "an approved order could not be given to its agents now; next try in a second");
        parts.unoffered.add_order(order.clone());
    }
}

/// Offers again what could not be offered. What fails again waits for the next time.
pub(super) async fn offer_again(parts: &Arc<Parts>) {
    for order in parts.unoffered.take_orders() {
        approved(parts, &order).await;
    }
    for collection in parts.unoffered.take() {
        match parts.catalog.collection(collection.clone()).await {
            Ok(Some(row)) if WAITING.contains(&row.state) => offer_if_online(parts, &row).await,
            Ok(_) => {}
            Err(_) => parts.unoffered.add(collection),
        }
    }
}

/// The agent has begun: state `running`. Repeatable; an upload that arrives before the answer counts as the answer.
///
/// # Errors
/// [`Problem`] when the collection is not this agent's or already at its end.
pub async fn accept(parts: &Parts, agent: &AgentId, collection: &CollectionId) -> Result<CollectionRow> {
    let row = own(parts, agent, collection).await?;
    if row.state == State::Running {
        return Ok(row);
    }
    let (order, _) = order_of(parts, &row).await?;
    let now = clock::now();
    let deadline_s = order.limits.deadline_s.map_or(DEADLINE_S, |s| s as i64);
    let change = CollectionChange {
        state: Some(State::Running),
        reason: Some(None),
        started_at: Some(row.started_at.unwrap_or(now)),
        give_up_at: Some(row.give_up_at.unwrap_or_else(|| now.plus_s(deadline_s).plus_s(parts.uploads.grace_s()))),
        ..CollectionChange::default()
    };
    let changed = parts.catalog.change(collection.clone(), WAITING.to_vec(), change).await?;
    parts.progress.ring(collection);
    if let Some(row) = changed {
        tracing::info!(collection = %collection, agent = %agent, stream = %row.stream, "running");
        return Ok(row);
    }
    let row = own(parts, agent, collection).await?;
    if row.state == State::Running { Ok(row) } else { Err(Problem::new(Kind::NotNow, format!("{collection} is {}", row.state.as_str()))) }
}

/// The agent refuses: the record is verified, and the collection ends as refused.
///
/// # Errors
/// [`Problem`] when the record is not this agent's refusal of this collection.
pub async fn refuse(parts: &Arc<Parts>, agent: &AgentId, collection: &CollectionId, envelope: &Envelope) -> Result<()> {
    let row = own(parts, agent, collection).await?;
    let mut ring = parts.ledgers.deployment().await?.key_ring();
    let verified = ring.verify(envelope).map_err(|e| Problem::new(Kind::Denied, format!("refusal: {e}")))?;
    let Record::Refusal(refusal) = verified.record() else {
        return Err(Problem::invalid(format!("refusal: a record of type {} is no refusal", verified.record().type_name())));
    };
    if refusal.agent != *agent || refusal.collection != *collection || refusal.predecessor != row.order_digest {
        return Err(Problem::invalid(format!(
            "refusal: it names {} of agent {}, expected {collection} of {agent}",
            refusal.collection, refusal.agent
        )));
    }
    let reason = format!("{}: {}", escape_bounded(&refusal.code, 40), one_line(&refusal.message, 900));
    let ending = Ending { outcome: Outcome::Refused, reason: Some(reason), refusal: Some(envelope.as_bytes().to_vec()) };
    // A running collection cannot be refused any more: the agent has taken it up.
    end(parts, collection, &WAITING, ending).await?;
    Ok(())
}

/// Decides a collection's end and begins to write it. `None` when the collection was not in one of `from`.
///
/// Order: (1) state `sealing` with the ending in the catalog; (2) `seal::close`, which the timer repeats until it is done.
///
/// # Errors
/// [`Problem`] when step 1 failed.
pub async fn end(parts: &Arc<Parts>, collection: &CollectionId, from: &[State], ending: Ending) -> Result<Option<CollectionRow>> {
    let change = CollectionChange { state: Some(State::Sealing), ending: Some(Some(ending)), ..CollectionChange::default() };
    let changed = parts.catalog.change(collection.clone(), from.to_vec(), change).await?;
    if changed.is_some() {
        parts.progress.ring(collection);
        seal::begin(parts, collection);
    }
    Ok(changed)
}

/// A responder cancels: what waits ends as cancelled; what runs is told to finish with what it has.
///
/// # Errors
/// [`Problem`]
pub async fn cancel(parts: &Arc<Parts>, row: &CollectionRow, by: &str, reason: &str) -> Result<CollectionRow> {
    let words = format!("cancelled by {}: {}", escape_bounded(by, 200), one_line(reason, 1_024));
    let message = || Outbound::Cancel { collection: row.collection.to_string(), reason: one_line(&words, 1_024) };
    let ending = Ending { outcome: Outcome::Cancelled, reason: Some(words.clone()), refusal: None };
    if let Some(row) = end(parts, &row.collection, &NOT_BEGUN, ending).await? {
        // It may have been offered a moment ago.
        parts.sessions.send(&row.agent, message());
        return Ok(row);
    }
    let now = clock::now();
    let grace_ends = now.plus_s(parts.uploads.grace_s());
    let give_up_at = row.give_up_at.map_or(grace_ends, |at| at.min(grace_ends));
    let change = CollectionChange {
        cancel: Some(words.clone()),
        reason: Some(Some(words.clone())),
        give_up_at: Some(give_up_at),
        ..CollectionChange::default()
    };
    if row.cancel.is_none() && parts.catalog.change(row.collection.clone(), vec![State::Running], change).await?.is_some() {
        tracing::info!(collection = %row.collection, by = %escape_bounded(by, 200), "cancel asked");
    }
    let now_is = own(parts, &row.agent, &row.collection).await?;
    if now_is.state == State::Running {
        parts.sessions.send(&row.agent, message());
    }
    parts.progress.ring(&row.collection);
    Ok(now_is)
}

/// [`cancel`] for several; those that are closed stay as they are. What had not begun is at its end with that: the answer waits a
/// moment for its seal, so that it shows what became of it.
///
/// # Errors
/// [`Problem`]; those before the one that failed are cancelled.
pub async fn cancel_all(parts: &Arc<Parts>, rows: Vec<CollectionRow>, by: &str, reason: &str) -> Result<Vec<CollectionRow>> {
    let mut now = Vec::with_capacity(rows.len());
    for row in rows {
        now.push(if row.state.is_closed() { row } else { cancel(parts, &row, by, reason).await? });
    }
    let until = tokio::time::Instant::now() + SEALS_WAIT;
    while now.iter().any(CollectionRow::ends_unbegun) && tokio::time::Instant::now() < until {
        tokio::time::sleep(SEALS_LOOK_EVERY).await;
        for row in now.iter_mut().filter(|row| row.ends_unbegun()) {
            if let Some(newer) = parts.catalog.collection(row.collection.clone()).await? {
                *row = newer;
            }
        }
    }
    Ok(now)
}

/// What an agent that just connected works on, against what the catalog says.
///
/// # Errors
/// [`Problem`]
pub(super) async fn reconcile(parts: &Arc<Parts>, agent: &AgentId, running: &[CollectionId]) -> Result<()> {
    let open = select(parts, CollectionFilter { agent: Some(agent.clone()), open: true, ..CollectionFilter::default() }).await?;
    // Oldest first: `select` gives the newest first.
    for row in open.iter().rev() {
        let works_on_it = running.contains(&row.collection);
        match (row.state, works_on_it) {
            (State::Queued | State::Offered, true) => {
                accept(parts, agent, &row.collection).await?;
            }
            (State::Queued | State::Offered, false) => offer(parts, row).await?,
            (State::Running, true) => {
                if let Some(reason) = &row.cancel {
                    parts
                        .sessions
                        .send(agent, Outbound::Cancel { collection: row.collection.to_string(), reason: one_line(reason, 1_024) });
                }
            }
            (State::Running, false) => lost(parts, row).await?,
            // An agent obeys nothing that nobody approved; one that does is told to stop, and nothing of it is taken.
            (State::Unapproved, true) => {
                let reason = "nobody approved the order".to_owned();
                parts.sessions.send(agent, Outbound::Cancel { collection: row.collection.to_string(), reason });
            }
            (State::Unapproved, false) | (State::Sealing | State::Closed(_), _) => {}
        }
    }
    for id in running.iter().filter(|id| open.iter().all(|row| row.collection != **id)) {
        tell_ended(parts, agent, id).await?;
    }
    Ok(())
}

/// What came while the agent's hello was being compared: it was not offered then.
///
/// # Errors
/// [`Problem`]
pub(super) async fn offer_waiting(parts: &Arc<Parts>, agent: &AgentId) -> Result<()> {
    let open = select(parts, CollectionFilter { agent: Some(agent.clone()), open: true, ..CollectionFilter::default() }).await?;
    for row in open.iter().rev().filter(|row| row.state == State::Queued) {
        offer(parts, row).await?;
    }
    Ok(())
}

/// Another coordinator changed a collection: what its agent, if it is connected here, and an upload that runs here are to
/// know. Repeatable.
///
/// # Errors
/// [`Problem`]
pub(crate) async fn follow(parts: &Arc<Parts>, collection: &CollectionId) -> Result<()> {
    let Some(row) = parts.catalog.collection(collection.clone()).await? else { return Ok(()) };
    match (row.state, &row.cancel) {
        (State::Queued, _) => offer_if_online(parts, &row).await,
        (State::Running, Some(reason)) => {
            let reason = one_line(reason, 1_024);
            parts.sessions.send(&row.agent, Outbound::Cancel { collection: collection.to_string(), reason });
        }
        (State::Sealing | State::Closed(_), _) => {
            parts.uploads.cut(collection);
            if parts.sessions.is_online(&row.agent) {
                tell_ended(parts, &row.agent, collection).await?;
            }
        }
        (State::Unapproved | State::Offered | State::Running, _) => {}
    }
    if row.state.is_closed() {
        parts.uploads.forget(collection);
        parts.progress.forget_here(collection);
    } else {
        parts.progress.ring_here(collection);
    }
    Ok(())
}

/// [`follow`], for what waits to be offered to agents that are connected here: notices may have been missed.
///
/// # Errors
/// [`Problem`]
pub(crate) async fn follow_open(parts: &Arc<Parts>) -> Result<()> {
    for row in select(parts, CollectionFilter { open: true, ..CollectionFilter::default() }).await? {
        let waits = row.state == State::Queued || (row.state == State::Running && row.cancel.is_some());
        if waits && parts.sessions.takes_offers(&row.agent) {
            follow(parts, &row.collection).await?;
        }
    }
    Ok(())
}

/// The agent still works on something that is not open here.
async fn tell_ended(parts: &Parts, agent: &AgentId, id: &CollectionId) -> Result<()> {
    let message = match parts.catalog.collection(id.clone()).await? {
        Some(row) if row.agent == *agent => match row.seal {
            Some(seal) => Outbound::Closed { collection: id.clone(), seal },
            None => return Ok(()),
        },
        _ => Outbound::Cancel { collection: id.to_string(), reason: "the coordinator has no such collection for this agent".to_owned() },
    };
    parts.sessions.send(agent, message);
    Ok(())
}

/// An agent says only that it no longer works on a collection.
const WHY_LOST: &str = "its process ended or gave up, the log on its host says why";

/// The process that ran the collection is gone: a new attempt, or the end when there is no sense in one.
async fn lost(parts: &Arc<Parts>, row: &CollectionRow) -> Result<()> {
    let stream = parts.catalog.stream(row.collection.clone(), row.stream).await?;
    if let Some(finished) = stream.as_ref().filter(|s| s.state == StreamState::Finished) {
        // It ended after its last word: nothing is missing.
        return crate::intake::end_finished(parts, row, finished).await;
    }
    let why_not = if let Some(cancel) = &row.cancel {
        Some(cancel.clone())
    } else if row.stream.0 >= STREAMS_MAX {
        Some(format!("the agent stopped working on it {STREAMS_MAX} times: {WHY_LOST}"))
    } else if row.expires_at <= clock::now() {
        Some(format!("the agent stopped working on it, and the order has expired since: {WHY_LOST}"))
    } else {
        None
    };
    if let Some(reason) = why_not {
        let ending = Ending { outcome: Outcome::Partial, reason: Some(reason), refusal: None };
        end(parts, &row.collection, &[State::Running], ending).await?;
        return Ok(());
    }
    // Where the agent left a bookmark, its next process may take the stream up.
    let goes_on = stream.is_some_and(|s| s.state == StreamState::Open && s.next_segment > 0 && !s.bookmark.is_empty());
    let (next, how) = if goes_on { (row.stream, "goes on with") } else { (after(row.stream), "begins again as") };
    let change = CollectionChange {
        state: Some(State::Queued),
        reason: Some(Some(format!("the agent stopped working on it; {how} stream {next}"))),
        stream: Some(next),
        ..CollectionChange::default()
    };
    if let Some(row) = parts.catalog.change(row.collection.clone(), vec![State::Running], change).await? {
        tracing::warn!(collection = %row.collection, agent = %row.agent, stream = %next, "the agent's process was lost; another one {how} it");
        parts.uploads.cut(&row.collection);
        parts.progress.forget(&row.collection);
        offer(parts, &row).await?;
    }
    Ok(())
}

fn after(stream: StreamNumber) -> StreamNumber {
    StreamNumber(stream.0.saturating_add(1))
}

/// True when something of the stream is there: an agent that does not know it must ask before it sends. Also when there is
/// no bookmark: the answer is then that it begins the next stream.
async fn is_begun(parts: &Parts, row: &CollectionRow) -> Result<bool> {
    let stream = parts.catalog.stream(row.collection.clone(), row.stream).await?;
    Ok(stream.is_some_and(|s| s.state == StreamState::Open && s.next_segment > 0))
}

/// True when an agent that was asked to go on with a stream sends the one after it.
#[must_use]
pub fn is_next(row: &CollectionRow, stream: StreamNumber) -> bool {
    let open = matches!(row.state, State::Queued | State::Offered | State::Running);
    open && row.stream.0 < STREAMS_MAX && stream == after(row.stream)
}

/// The agent could not take the current stream up and begins the next one. What the current one has stays.
///
/// # Errors
/// [`Problem`]; [`Kind::NotNow`] when the collection moved on meanwhile.
pub async fn begin_next(parts: &Parts, row: CollectionRow) -> Result<CollectionRow> {
    let change = CollectionChange { stream: Some(after(row.stream)), ..CollectionChange::default() };
    let changed = parts.catalog.change(row.collection.clone(), vec![row.state], change).await?;
    let row = changed.ok_or_else(|| Problem::new(Kind::NotNow, format!("{} moved on; open the upload again", row.collection)))?;
    tracing::warn!(collection = %row.collection, agent = %row.agent, stream = %row.stream, "the stream before could not be taken up; another attempt");
    parts.uploads.cut(&row.collection);
    parts.progress.forget(&row.collection);
    Ok(row)
}

/// A collection of this agent.
///
/// # Errors
/// [`Kind::NotFound`], also for another agent's: an agent learns nothing about others.
pub async fn own(parts: &Parts, agent: &AgentId, collection: &CollectionId) -> Result<CollectionRow> {
    let row = parts.catalog.collection(collection.clone()).await?.filter(|row| row.agent == *agent);
    row.ok_or_else(|| Problem::new(Kind::NotFound, format!("collection: there is no {collection} for this agent")))
}
