//! Recovery at start: orders, approvals and ends of cases that stand in a log and did not reach the catalog; streams that were received whole and
//! whose collection was not ended.

use std::collections::BTreeSet;
use std::sync::Arc;

use exhibit_evidence::id::OrderId;
use exhibit_evidence::record::Record;

use super::admit::{into_catalog, select};
use super::offers;
use crate::catalog::{CollectionFilter, PAGE_MAX, State, StreamState};
use crate::intake;
use crate::parts::Parts;
use crate::problem::Result;

/// Entries of a log looked at in one go.
const ORDERS_MAX: usize = 10_000;

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
