//! Admission of an order: everything that the coordinator can check, before it stands in the case's log.

use std::collections::BTreeSet;
use std::sync::Arc;

use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{CaseId, CollectionId, OrderId};
use exhibit_evidence::key::KeyId;
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::record::{KeyRing, Order, Record, TrustError, roles_to_sign};
use exhibit_evidence::text::escape_bounded;

use super::orders::{self, Settling, Standing};
use super::{bounds, offers};
use crate::authz;
use crate::catalog::{AgentRow, CollectionFilter, CollectionRow, OrderRow, PAGE_MAX, State, Totals};
use crate::clock;
use crate::ledger::{self, LedgerError};
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

/// Admits an order that `caller` submits, and offers its collections to the agents that are connected.
///
/// Order of writes:
/// 1. the signer's enrolment chain into the case's log (repeatable: only what is missing is added);
/// 2. the order into the case's log (repeatable: the same envelope is added once);
/// 3. order and collections into the catalog, in one transaction.
///
/// Died between 2 and 3: the start-up recovery finds an order without collections and does 3 (and the responder's
/// repeat of the same order does as well). Nothing was offered before 3. Where 2 or 3 fails and the order may be in the log, or the
/// caller goes away meanwhile, it is looked for and 3 is done later ([`orders`]); the caller hears that it is not known.
///
/// # Errors
/// [`Problem`] that names the field and its value.
pub async fn submit(parts: &Arc<Parts>, caller: &str, envelope: &Envelope) -> Result<(OrderRow, Vec<CollectionRow>)> {
    let order = verify(parts, caller, envelope).await?;
    if let Some(known) = parts.catalog.order(order.order.clone()).await? {
        if known.digest != envelope.digest() {
            return Err(Problem::new(Kind::Conflict, format!("order: {} was already used for another order", order.order)));
        }
        let rows = collections_of(parts, &order, envelope).await?;
        // The first try may have ended between the catalog and the offers.
        for row in rows.iter().filter(|row| row.state == State::Queued) {
            offers::offer_if_online(parts, row).await;
        }
        return Ok((known, rows));
    }
    bounds::check(&order, clock::now()).map_err(Problem::invalid)?;
    check_case(parts, &order, &envelope.digest()).await?;
    check_captures(&order, &targets(parts, &order).await?)?;
    parts.ledgers.ensure_enrolled(&order.case, &[envelope.keyid()]).await?;
    let (row, rows) = give(parts, &order, envelope).await?;
    tracing::info!(order = %order.order, case = %order.case, targets = rows.len(), by = %escape_bounded(caller, 200), "order admitted");
    for row in &rows {
        offers::offer_if_online(parts, row).await;
    }
    // As they stand now: some were offered.
    Ok((row, collections_of(parts, &order, envelope).await?))
}

/// The order in an envelope, signed by an enrolled responder who is the caller.
async fn verify(parts: &Parts, caller: &str, envelope: &Envelope) -> Result<Order> {
    let mut ring = parts.ledgers.deployment().await?.key_ring();
    let verified = ring.verify(envelope).map_err(|e| not_signed("order: ", &ring, (caller, envelope), &e))?;
    let Record::Order(order) = verified.record() else {
        return Err(Problem::invalid(format!("order: a record of type {} is not an order", verified.record().type_name())));
    };
    if order.issued_by != caller {
        let signer = escape_bounded(&order.issued_by, 200);
        return Err(Problem::new(Kind::Denied, format!("order: signed by {signer}, submitted by {caller}: only its signer may submit it")));
    }
    Ok((**order).clone())
}

/// A record of `caller` that the ring refused, with its field in front. Who lacks the role in the record's case hears with which
/// command an admin gives it.
pub fn not_signed(field: &str, ring: &KeyRing, (caller, envelope): (&str, &Envelope), e: &TrustError) -> Problem {
    let way = match (e, Record::from_payload(envelope.unverified_payload())) {
        // The signature was found good before the role was looked at.
        (TrustError::NotAuthorized { signer, .. }, Ok(record)) if signer == caller => way_in(ring, (caller, envelope.keyid()), &record),
        _ => String::new(),
    };
    Problem::new(Kind::Denied, format!("{field}{e}{way}"))
}

/// Nothing where it is not the role that is missing.
fn way_in(ring: &KeyRing, (caller, key): (&str, KeyId), record: &Record) -> String {
    let needed = roles_to_sign(record);
    let Some(case) = record.case().filter(|_| !needed.is_empty()) else { return String::new() };
    let rights = ring.rights_of_key(key);
    let has = rights.in_case(case);
    if needed.iter().any(|role| has.contains(role)) {
        return String::new();
    }
    if matches!(record, Record::CaseOpened(_)) {
        // There is no such case yet, so nobody could be given a role in it.
        let how = authz::how_to_allow_everywhere(caller, needed);
        return format!(": opening a case needs role responder without a limit to cases; an admin gives it: {how}");
    }
    let who = authz::who_has_it(case, needed, &rights, &authz::people_with(ring, needed));
    format!(" (case {case}{who}); an admin gives the role: {}", authz::how_to_allow(caller, needed, case))
}

async fn check_case(parts: &Parts, order: &Order, digest: &Digest) -> Result<()> {
    let case = parts.catalog.case(order.case.clone()).await?;
    let case = case.ok_or_else(|| Problem::new(Kind::NotFound, format!("case: there is no case {}", order.case)))?;
    let ledger = parts.ledgers.case(&order.case).await?;
    // One that is in the log was given before the case was closed, and the catalog did not take it.
    if case.case_closed.is_some() && ledger.find(digest).is_none() {
        return Err(Problem::new(Kind::NotNow, format!("case: {} is closed; open another case for further collections", order.case)));
    }
    if order.predecessor != case.case_opened {
        return Err(Problem::invalid(format!(
            "predecessor: {} is not the case-opened record of {} ({})",
            order.predecessor, order.case, case.case_opened
        )));
    }
    if parts.issuing.rules.two_person && !ledger.view().custody().two_person() {
        return Err(Problem::new(
            Kind::Denied,
            format!("case: {} was opened for one person, and this deployment wants two for every order: {TWO_PERSON_REMEDY}", order.case),
        ));
    }
    let nonce = &order.nonce;
    if nonce.size == 0 || ledger.root_at(nonce.size) != Some(nonce.root) {
        return Err(Problem::invalid(format!(
            "nonce: the log of {} never had the root {} at size {}; fetch the case again and sign a new order",
            order.case, nonce.root, nonce.size
        )));
    }
    Ok(())
}

/// What to do where the deployment wants two persons for every order.
pub(super) const TWO_PERSON_REMEDY: &str = "open a case with 'exhibit case open --two-person'";

/// The agents that an order names: all enrolled, none revoked.
async fn targets(parts: &Parts, order: &Order) -> Result<Vec<AgentRow>> {
    let mut agents = Vec::with_capacity(order.targets.len());
    for target in &order.targets {
        match parts.catalog.agent(target.clone()).await? {
            None => return Err(Problem::new(Kind::NotFound, format!("targets: there is no agent {target}"))),
            Some(agent) if agent.revoked.is_some() => {
                return Err(Problem::new(Kind::NotNow, format!("targets: agent {target} is revoked")));
            }
            Some(agent) => agents.push(agent),
        }
    }
    Ok(agents)
}

/// A capture that no agent of the order has is a mistake of whoever wrote it. Agents say what they have when they
/// connect; with none that ever did, only they can tell. Where some have it and others do not, those others refuse.
fn check_captures(order: &Order, agents: &[AgentRow]) -> Result<()> {
    let known: BTreeSet<&str> = agents.iter().flat_map(|agent| &agent.seen.captures).map(String::as_str).collect();
    match order.captures.iter().find(|capture| !known.is_empty() && !known.contains(capture.name.as_str())) {
        None => Ok(()),
        Some(capture) => {
            let names: Vec<&str> = known.into_iter().collect();
            Err(Problem::invalid(format!(
                "captures: no agent of this order has a capture '{}'; they have {}",
                capture.name,
                names.join(", ")
            )))
        }
    }
}

/// Steps 2 and 3 of [`submit`].
async fn give(parts: &Arc<Parts>, order: &Order, envelope: &Envelope) -> Result<(OrderRow, Vec<CollectionRow>)> {
    let digest = envelope.digest();
    let settling = Settling::new(parts, &order.case, digest, false);
    let not_known = |problem: Problem| {
        tracing::error!(order = %order.order, case = %order.case, %problem, "it is not known whether an order was given; it is looked for");
        problem.unfinished(&orders::not_known(order))
    };
    if let Err(error) = append(parts, order, envelope).await {
        match orders::standing(parts, &order.case, &digest, &error).await {
            Standing::In => {}
            Standing::Out => {
                settling.settled();
                return Err(error.into());
            }
            Standing::Unknown => return Err(not_known(error.into())),
        }
    }
    let done = into_catalog(parts, order, envelope).await.map_err(not_known)?;
    settling.settled();
    Ok(done)
}

/// Appends the order unless the case was closed in the meantime, which only the log's writer lock can tell.
async fn append(parts: &Parts, order: &Order, envelope: &Envelope) -> Result<(), LedgerError> {
    let (envelope, case, digest) = (envelope.clone(), order.case.clone(), envelope.digest());
    let ledger = parts.ledgers.case(&case).await?;
    ledger
        .append_built(move |view| {
            // The same order again is in the log already, and keeps its place.
            if view.case_closed().is_none() || view.find(&digest).is_some() {
                return Ok(vec![envelope.clone()]);
            }
            Err(LedgerError::new(ledger::Kind::Refused, format!("case: {case} is closed; open another case for further collections")))
        })
        .await?;
    Ok(())
}

/// The first state of a collection, in words too: before its approval an order reaches no agent.
pub(crate) fn waiting(order: &OrderId, awaits_approval: bool) -> (State, String) {
    if awaits_approval {
        return (State::Unapproved, format!("waits for a second person: exhibit approve {order} --reason '...'"));
    }
    (State::Queued, "waits for the agent to connect".to_owned())
}

/// Step 3 of [`submit`]; recovery calls it too.
pub(super) async fn into_catalog(parts: &Parts, order: &Order, envelope: &Envelope) -> Result<(OrderRow, Vec<CollectionRow>)> {
    let now = clock::now();
    let digest = envelope.digest();
    let waits = parts.ledgers.case(&order.case).await?.view().custody().awaits_approval(&digest);
    let (state, reason) = waiting(&order.order, waits);
    let row = OrderRow {
        order: order.order.clone(),
        digest,
        envelope: envelope.as_bytes().to_vec(),
        case: order.case.clone(),
        issued_by: order.issued_by.clone(),
        profile: order.profile.clone(),
        expires_at: order.expires_at,
        admitted_at: now,
    };
    let rows: Vec<CollectionRow> = order
        .targets
        .iter()
        .map(|agent| CollectionRow {
            collection: CollectionId::of(&digest, agent),
            order: order.order.clone(),
            order_digest: digest,
            case: order.case.clone(),
            agent: agent.clone(),
            profile: order.profile.clone(),
            state,
            reason: Some(reason.clone()),
            ending: None,
            cancel: None,
            stream: StreamNumber(1),
            queued_at: now,
            started_at: None,
            ended_at: None,
            expires_at: order.expires_at,
            give_up_at: None,
            totals: Totals::default(),
            exhibit_first: 0,
            exhibit_count: 0,
            seal: None,
        })
        .collect();
    parts.catalog.add_order(row.clone(), rows.clone()).await?;
    Ok((row, rows))
}

async fn collections_of(parts: &Parts, order: &Order, envelope: &Envelope) -> Result<Vec<CollectionRow>> {
    let mut rows = Vec::with_capacity(order.targets.len());
    for agent in &order.targets {
        let id = CollectionId::of(&envelope.digest(), agent);
        rows.extend(parts.catalog.collection(id).await?);
    }
    Ok(rows)
}

/// The collections that a person names: some by id, or all of an order, or of a case.
///
/// # Errors
/// [`Problem`] when the catalog fails.
pub async fn select(parts: &Parts, filter: CollectionFilter) -> Result<Vec<CollectionRow>> {
    let mut all: Vec<CollectionRow> = Vec::new();
    loop {
        let page = parts.catalog.collections(filter.clone(), all.last().map(|r| r.collection.clone()), PAGE_MAX).await?;
        let full = page.len() >= PAGE_MAX as usize;
        all.extend(page);
        if !full {
            return Ok(all);
        }
    }
}

/// Fails when there is no such case.
///
/// # Errors
/// [`Kind::NotFound`]
pub async fn require_case(parts: &Parts, case: &CaseId) -> Result<crate::catalog::CaseRow> {
    parts.catalog.case(case.clone()).await?.ok_or_else(|| Problem::new(Kind::NotFound, format!("case_id: there is no case {case}")))
}
