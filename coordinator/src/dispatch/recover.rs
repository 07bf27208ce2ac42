//! Recovery at start: cases, orders, approvals and ends of cases that stand in a log and did not reach the catalog; streams that were received whole and
//! whose collection was not ended.

use std::collections::BTreeSet;
use std::sync::Arc;

use exhibit_evidence::id::{CaseId, OrderId};
use exhibit_evidence::layout;
use exhibit_evidence::record::{CaseOpened, Enrolment, Incident, NotStamped, Predicate as _, Record, Revocation, Stamped};

use super::admit::{into_catalog, select};
use super::{cases, offers};
use crate::catalog::{CollectionFilter, PAGE_MAX, State, StreamState};
use crate::filled;
use crate::intake;
use crate::ledger::Ledger;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

/// Entries of a log looked at in one go.
const ORDERS_MAX: usize = 10_000;

/// What a log may hold of whose case nothing but the opening has to be made good: keys, the opening, and what speaks of the log itself.
const OF_AN_OPENING: [&str; 6] = [Enrolment::TYPE, Revocation::TYPE, CaseOpened::TYPE, Incident::TYPE, Stamped::TYPE, NotStamped::TYPE];
/// Folders of cases that the catalog lacks and that are looked into at one start: a few reads each. What is beyond is told.
const LACKING_MAX: usize = 1_000;

/// Takes the cases into the catalog that were opened in the store and that it lacks: the process died between log and catalog, or the catalog
/// failed then. The names of the folders are listed for it, once. One of which more than the opening is there was lost by the catalog, as by
/// one that was put back to an older state: what `reindex` makes good is told, and nothing of it is taken in. What others put among the cases
/// is none (attestation tells it). Repeatable; a case that is damaged holds up no other.
///
/// # Errors
/// The first problem that passes.
pub async fn cases_without_rows(parts: &Arc<Parts>) -> Result<u64> {
    let (mut looked, mut made) = (0_usize, 0_u64);
    let known = known_cases(parts).await?;
    for folder in parts.store.folders("cases").await? {
        let Ok(case) = folder.parse::<CaseId>() else { continue };
        // Asked again: it may have been opened meanwhile.
        if known.contains(&case) || parts.catalog.case(case.clone()).await?.is_some() {
            continue;
        }
        looked = looked.saturating_add(1);
        if looked > LACKING_MAX {
            let detail = format!(
                "the catalog lacks more than {LACKING_MAX} folders of cases that are in the store, and no more of them were looked into: find out \
                 who wrote there, or stop every coordinator and run 'exhibit-coordinator reindex'"
            );
            parts.incident(None, "recovery", "cases", &detail).await;
            break;
        }
        match take_in(parts, &case).await {
            Ok(is_new) => made = made.saturating_add(u64::from(is_new)),
            Err(problem) if problem.is_passing() => return Err(problem),
            Err(problem) => {
                let detail = format!("the catalog lacks this case, and it could not be taken in from its log: {problem}");
                parts.incident(None, "recovery", &layout::case_folder(&case), &detail).await;
            }
        }
    }
    Ok(made)
}

async fn known_cases(parts: &Parts) -> Result<BTreeSet<CaseId>> {
    let (mut known, mut after) = (BTreeSet::new(), None);
    loop {
        let page = parts.catalog.cases(after.take(), PAGE_MAX).await?;
        let Some(last) = page.last() else { return Ok(known) };
        after = Some(last.case.clone());
        known.extend(page.into_iter().map(|row| row.case));
    }
}

/// True when the catalog has it now.
async fn take_in(parts: &Parts, case: &CaseId) -> Result<bool> {
    if !filled::is_case(&parts.ledgers, case).await? {
        return Ok(false);
    }
    let ledger = parts.ledgers.case(case).await?;
    let Some(opened) = ledger.case_opened() else { return Ok(false) };
    if !ledger.entries(0, &|e| !OF_AN_OPENING.contains(&e.kind), 1).is_empty() {
        let detail = "the catalog lacks this case, and its log has more than its opening: no list shows it, and nothing goes on in it. Stop every \
                      coordinator and run 'exhibit-coordinator reindex' (docs/operations/catalog.md)";
        parts.incident(None, "recovery", &layout::case_folder(case), detail).await;
        return Ok(false);
    }
    add(parts, case, &ledger, opened.n).await
}

async fn add(parts: &Parts, case: &CaseId, ledger: &Ledger, n: u64) -> Result<bool> {
    let envelope = ledger.read(n).await?;
    match Record::from_payload(envelope.unverified_payload()) {
        // Verified when the log was opened.
        Ok(Record::CaseOpened(opened)) if opened.case == *case => {
            parts.catalog.add_case(cases::row_of(&opened, &envelope)).await?;
            tracing::warn!(%case, "a case was open in its log and the catalog lacked it; it has it now");
            Ok(true)
        }
        _ => Err(Problem::new(Kind::Damaged, "its log does not open this case")),
    }
}

/// Makes the collections of orders whose admission was cut between log and catalog. Only open cases are looked at: an
/// order cannot be admitted to a closed one. Repeatable.
///
/// # Errors
/// The first problem; the others are found at the next start.
pub async fn orders_without_collections(parts: &Arc<Parts>) -> Result<u64> {
    let (mut after, mut made) = (None, 0_u64);
    loop {
        let page = parts.catalog.cases(after, PAGE_MAX).await?;
        let Some(last) = page.last() else { return Ok(made) };
        after = Some(last.case.clone());
        for case in page.iter().filter(|c| c.case_closed.is_none()) {
            let ledger = parts.ledgers.case(&case.case).await?;
            for entry in ledger.entries(0, &|e| e.kind == "order:v1", ORDERS_MAX) {
                let Some(id) = entry.order.clone() else { continue };
                if parts.catalog.order(id).await?.is_some() {
                    continue;
                }
                let envelope = ledger.read(entry.n).await?;
                if let Ok(Record::Order(order)) = Record::from_payload(envelope.unverified_payload()) {
                    let (_, rows) = into_catalog(parts, &order, &envelope).await?;
                    tracing::warn!(order = %order.order, case = %case.case, "an order in the log had no collections; made them now");
                    // Their agents may have connected before there was anything to offer.
                    for row in &rows {
                        offers::offer_if_online(parts, row).await;
                    }
                    made += 1;
                }
            }
            if let Some(closed) = ledger.case_closed() {
                parts.catalog.close_case(case.case.clone(), closed.digest).await?;
                tracing::warn!(case = %case.case, "a case that its log closes was open in the catalog; closed it now");
            }
        }
    }
}

/// Lets the collections of orders go that were approved, where the process died between log and catalog, the log's head could not
/// be published, or whoever brought the approval went away meanwhile. Repeatable; an order that fails holds up no other.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn approved_orders(parts: &Arc<Parts>) -> Result<()> {
    let open = select(parts, CollectionFilter { open: true, ..CollectionFilter::default() }).await?;
    let waiting: BTreeSet<OrderId> = open.into_iter().filter(|row| row.state == State::Unapproved).map(|row| row.order).collect();
    for order in waiting {
        offers::approved(parts, &order).await;
    }
    Ok(())
}

/// Ends the collections whose current stream was finished by the agent, where the process died before it could write
/// that down, or could not then. Repeatable.
///
/// # Errors
/// The first problem; the timers find the others.
pub async fn finished_streams(parts: &Arc<Parts>) -> Result<u64> {
    let mut ended = 0_u64;
    for row in select(parts, CollectionFilter { open: true, ..CollectionFilter::default() }).await? {
        if row.state != State::Running {
            continue;
        }
        if let Some(stream) = parts.catalog.stream(row.collection.clone(), row.stream).await?.filter(|s| s.state == StreamState::Finished) {
            intake::end_finished(parts, &row, &stream).await?;
            tracing::info!(collection = %row.collection, "its stream was whole and it was not ended; ended it now");
            ended += 1;
        }
    }
    Ok(ended)
}
