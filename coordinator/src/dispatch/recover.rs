//! Recovery at start: cases, orders, approvals and ends of cases that stand in a log and did not reach the catalog; streams that were received whole and
//! whose collection was not ended.

use std::collections::BTreeSet;
use std::sync::Arc;

use exhibit_evidence::id::{CaseId, OrderId};
use exhibit_evidence::layout;
use exhibit_evidence::record::{CaseOpened, Enrolment, Incident, NotStamped, Predicate as _, Record, Revocation, Stamped};

use super::admit::{into_catalog, select};
use super::{cases, offers};
use crate::attest;
use crate::catalog::{CaseRow, CollectionFilter, PAGE_MAX, State, StreamState};
use crate::filled;
use crate::intake;
use crate::ledger::Ledger;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::store::Trouble;

/// Entries of a log looked at in one go.
const ORDERS_MAX: usize = 10_000;

/// What a log may hold of whose case nothing but the opening has to be made good: keys, the opening, and what speaks of the log itself.
const OF_AN_OPENING: [&str; 6] = [Enrolment::TYPE, Revocation::TYPE, CaseOpened::TYPE, Incident::TYPE, Stamped::TYPE, NotStamped::TYPE];
/// Folders of cases that the catalog lacks and that are looked into at one start: a few reads each. What is beyond is told.
const LACKING_MAX: usize = 1_000;
const MORE_THAN_ITS_OPENING: &str = "the catalog lacks this case, and its log has more than its opening: no list shows it, and nothing goes on \
                                     in it. Stop every coordinator and run 'exhibit-coordinator reindex' (docs/operations/catalog.md)";

/// Takes the cases into the catalog that were opened in the store and that it lacks: the process died between log and catalog, or the catalog
/// failed then. The names of the folders are listed for it, once. One of which more than the opening is there was lost by the catalog, as by
/// one that was put back to an older state: what `reindex` makes good is told once, and nothing of it is taken in. What others put among the
/// cases is none (attestation tells it). Repeatable; a case that is damaged holds up no other.
///
/// # Errors
/// The first problem that passes.
pub async fn cases_without_rows(parts: &Arc<Parts>) -> Result<u64> {
    let mut lacking = Vec::new();
    let made = take_in_each(parts, &mut lacking).await;
    // What was found before the store or the catalog failed is told all the same.
    attest::tell_lacking(parts, &lacking, made.is_ok()).await;
    made
}

fn untaken(subject: String, detail: String) -> Trouble {
    Trouble { kind: "recovery", subject, detail }
}

/// Those that are not taken in are added to `lacking`.
async fn take_in_each(parts: &Arc<Parts>, lacking: &mut Vec<Trouble>) -> Result<u64> {
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
            lacking.push(untaken("cases".to_owned(), detail));
            break;
        }
        let detail = match take_in(parts, &case).await {
            Ok(Taken::In) => {
                made = made.saturating_add(1);
                continue;
            }
            Ok(Taken::IsNone) => continue,
            Ok(Taken::HasMore) => MORE_THAN_ITS_OPENING.to_owned(),
            Err(problem) if problem.is_passing() => return Err(problem),
            Err(problem) => format!("the catalog lacks this case, and it could not be taken in from its log: {problem}"),
        };
        // Another coordinator may have opened it, and begun to work in it, while it was read here.
        if parts.catalog.case(case.clone()).await?.is_none() {
            lacking.push(untaken(layout::case_folder(&case), detail));
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

/// What became of a folder that the catalog does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// The catalog has the case now.
    In,
    /// No case was opened there.
    IsNone,
    /// More than an opening is there.
    HasMore,
}

async fn take_in(parts: &Parts, case: &CaseId) -> Result<Taken> {
    if !filled::is_case(&parts.ledgers, case).await? {
        return Ok(Taken::IsNone);
    }
    let ledger = parts.ledgers.case(case).await?;
    let Some(opened) = ledger.case_opened() else { return Ok(Taken::IsNone) };
    if !ledger.entries(0, &|e| !OF_AN_OPENING.contains(&e.kind), 1).is_empty() {
        return Ok(Taken::HasMore);
    }
    add(parts, case, &ledger, opened.n).await
}

async fn add(parts: &Parts, case: &CaseId, ledger: &Ledger, n: u64) -> Result<Taken> {
    let envelope = ledger.read(n).await?;
    match Record::from_payload(envelope.unverified_payload()) {
        // Verified when the log was opened.
        Ok(Record::CaseOpened(opened)) if opened.case == *case => {
            parts.catalog.add_case(cases::row_of(&opened, &envelope)).await?;
            tracing::warn!(%case, "a case was open in its log and the catalog lacked it; it has it now");
            Ok(Taken::In)
        }
        _ => Err(Problem::new(Kind::Damaged, "its log does not open this case")),
    }
}

/// Makes the collections of orders whose admission was cut between log and catalog. Only open cases are looked at: an
/// order cannot be admitted to a closed one. Repeatable; a case that is damaged holds up no other.
///
/// # Errors
/// The first problem that passes, or of which a store refuses whoever asks; otherwise the first one.
pub async fn orders_without_collections(parts: &Arc<Parts>) -> Result<u64> {
    let (mut after, mut made, mut first) = (None, 0_u64, None::<Problem>);
    loop {
        let page = parts.catalog.cases(after, PAGE_MAX).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.case.clone());
        for case in page.iter().filter(|c| c.case_closed.is_none()) {
            match orders_of(parts, case).await {
                Ok(count) => made = made.saturating_add(count),
                Err(problem) if problem.is_passing() || problem.refused().is_some() => return Err(problem),
                Err(problem) => first = first.or(Some(problem)),
            }
        }
    }
    first.map_or(Ok(made), Err)
}

/// Takes in what the catalog lacks of a case's log: orders, and then its end. An order in whose place the catalog has another one holds up none
/// of that.
///
/// # Errors
/// As the store or the catalog fails; [`Kind::Conflict`] of such an order, behind all others.
pub(super) async fn orders_of(parts: &Arc<Parts>, case: &CaseRow) -> Result<u64> {
    let ledger = parts.ledgers.case(&case.case).await?;
    let made = match take_in_orders(parts, &ledger, &case.case).await {
        Err(problem) if problem.kind() != Kind::Conflict => return Err(problem),
        made => made,
    };
    if case.case_closed.is_none()
        && let Some(closed) = ledger.case_closed()
    {
        parts.catalog.close_case(case.case.clone(), closed.digest).await?;
        tracing::warn!(case = %case.case, "a case that its log closes was open in the catalog; closed it now");
    }
    made
}

/// The first step of [`orders_of`]; whoever closes a case does it before the catalog knows, because a start looks at open cases only.
pub(super) async fn take_in_orders(parts: &Arc<Parts>, ledger: &Ledger, case: &CaseId) -> Result<u64> {
    let (mut made, mut conflict) = (0_u64, None::<Problem>);
    for entry in ledger.entries(0, &|e| e.kind == "order:v1", ORDERS_MAX) {
        let Some(id) = entry.order.clone() else { continue };
        if parts.catalog.order(id).await?.is_some() {
            continue;
        }
        let envelope = ledger.read(entry.n).await?;
        if let Ok(Record::Order(order)) = Record::from_payload(envelope.unverified_payload()) {
            let (_, rows) = match into_catalog(parts, &order, &envelope).await {
                Err(problem) if problem.kind() == Kind::Conflict => {
                    conflict = conflict.or(Some(problem));
                    continue;
                }
                taken => taken?,
            };
            tracing::warn!(order = %order.order, %case, "an order in the log had no collections; made them now");
            // Their agents may have connected before there was anything to offer.
            for row in &rows {
                offers::offer_if_online(parts, row).await;
            }
            made += 1;
        }
    }
    conflict.map_or(Ok(made), Err)
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
