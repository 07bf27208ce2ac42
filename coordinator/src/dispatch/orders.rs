//! Orders of which it is not known whether they are in their case's log, or that the catalog did not take: they are looked for, and taken in. So
//! are other records of people in a case's log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use exhibit_evidence::Digest;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::record::{Hold, HoldReleased, Order, Predicate as _, Retention};
use tokio::time::Instant;

use super::{admit, recover};
use crate::custody::raising;
use crate::ledger::{self, Ledger, LedgerError};
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

/// The first look; each later one waits twice as long as the one before, up to the other.
const FIRST_LOOK: Duration = Duration::from_secs(5);
const EACH_LOOK: Duration = Duration::from_secs(20);
/// A write that a store did not answer may still arrive; longer than a request to a store lasts. What a look does not find after this is
/// not in the log.
const ARRIVES_WITHIN: Duration = Duration::from_mins(10);
/// What asks the store for other locks.
const CHANGE_LOCKS: [&str; 3] = [Hold::TYPE, HoldReleased::TYPE, Retention::TYPE];
/// Orders of one case that are looked for. A look takes in all that is there, so beyond it only the looking may end early.
const LOOKED_FOR_MAX: usize = 1_000;

/// Orders that are looked for, and since when. Memory only: a start looks at every log.
#[derive(Debug, Default)]
pub struct Unsettled(Mutex<BTreeMap<CaseId, Vec<(Digest, Instant)>>>);

impl Unsettled {
    /// False when somebody looks into this case already.
    fn begin(&self, case: &CaseId, order: Digest, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = !all.contains_key(case);
        let orders = all.entry(case.clone()).or_default();
        orders.retain(|(known, _)| *known != order);
        if orders.len() >= LOOKED_FOR_MAX {
            orders.remove(0);
        }
        orders.push((order, now));
        is_first
    }

    /// After a look that began at `began` and took in what was there: true when nothing is left to look for.
    fn looked(&self, case: &CaseId, began: Instant, is_there: &dyn Fn(&Digest) -> bool) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(orders) = all.get_mut(case) else { return true };
        // One that was added while the look went on is looked for again: only what came before it was seen by it.
        orders.retain(|(order, since)| *since > began || (!is_there(order) && began.saturating_duration_since(*since) < ARRIVES_WITHIN));
        let is_done = orders.is_empty();
        if is_done {
            all.remove(case);
        }
        is_done
    }

    fn forget(&self, case: &CaseId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(case);
    }
}

/// An order, or another record of a case, that is being written. Unless it is said to be settled it is looked for from when this is dropped
/// on, also where whoever brought it went away.
pub(crate) struct Settling<'a> {
    parts: &'a Arc<Parts>,
    case: &'a CaseId,
    order: Digest,
    is_settled: bool,
}

impl<'a> Settling<'a> {
    pub(crate) const fn new(parts: &'a Arc<Parts>, case: &'a CaseId, order: Digest) -> Self {
        Self { parts, case, order, is_settled: false }
    }

    /// Its collections are in the catalog, or it is certain that it is not in the log.
    pub(super) fn settled(mut self) {
        self.is_settled = true;
    }

    /// After it was written so: nothing when it is in the log, the error when it certainly is not. Otherwise it is looked for, and whoever
    /// brought it hears what is `not_known`.
    ///
    /// # Errors
    /// [`Problem`]
    pub(crate) async fn written(self, ledger: &Ledger, written: Result<Vec<u64>, LedgerError>, not_known: &str) -> Result<()> {
        let standing = match &written {
            Ok(_) => Standing::In,
            Err(error) => standing_in(ledger, &self.order, error).await,
        };
        if standing != Standing::Unknown {
            self.settled();
        }
        told(standing, written, not_known)
    }
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        // None where the program ends: the next start looks.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.parts.unsettled.begin(self.case, self.order, Instant::now()) {
            runtime.spawn(look_again(Arc::downgrade(self.parts), self.case.clone()));
        }
    }
}

/// What is known of a record whose writing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is in the log.
    In,
    /// It is not, for certain.
    Out,
    /// Nobody knows.
    Unknown,
}

/// Where an order's record is after its writing failed so.
pub(super) async fn standing(parts: &Parts, case: &CaseId, order: &Digest, error: &LedgerError) -> Standing {
    if is_refusal(error) {
        return Standing::Out;
    }
    let Ok(ledger) = parts.ledgers.case(case).await else { return Standing::Unknown };
    standing_in(&ledger, order, error).await
}

fn is_refusal(error: &LedgerError) -> bool {
    matches!(error.kind(), ledger::Kind::Refused | ledger::Kind::Conflict)
}

/// Where a record is after its writing into this log failed so. Of a store that was disturbed or full nothing is asked in this moment.
async fn standing_in(ledger: &Ledger, order: &Digest, error: &LedgerError) -> Standing {
    if is_refusal(error) || !ledger.may_have(order) {
        return Standing::Out;
    }
    if matches!(error.kind(), ledger::Kind::Retry | ledger::Kind::Full) {
        return Standing::Unknown;
    }
    match ledger.look_for_more().await {
        Ok(()) if ledger.find(order).is_some() => Standing::In,
        Ok(()) => Standing::Out,
        Err(_) => Standing::Unknown,
    }
}

/// [`Settling::written`] of a record that nobody looks for afterwards: the next addition to its log finds it, or the next start.
///
/// # Errors
/// [`Problem`]
pub(crate) async fn written(ledger: &Ledger, record: &Digest, written: Result<Vec<u64>, LedgerError>, not_known: &str) -> Result<()> {
    let standing = match &written {
        Ok(_) => Standing::In,
        Err(error) => standing_in(ledger, record, error).await,
    };
    told(standing, written, not_known)
}

fn told(standing: Standing, written: Result<Vec<u64>, LedgerError>, not_known: &str) -> Result<()> {
    match (standing, written) {
        (Standing::In, _) | (_, Ok(_)) => Ok(()),
        (Standing::Out, Err(error)) => Err(error.into()),
        (Standing::Unknown, Err(error)) => {
            tracing::error!(%error, "{not_known}");
            Err(Problem::from(error).unfinished(not_known))
        }
    }
}

/// What whoever gave an order hears when nobody knows what became of it; why comes behind it.
pub(super) fn not_known(order: &Order) -> String {
    let id = &order.order;
    format!(
        "order: it is not known whether the order was given ({id}): its record may be in the log of {}, and then it is carried out as soon as \
         the coordinator can. Do not give it again; look first, also after what failed was mended: exhibit collections --order {id}",
        order.case
    )
}

/// Looks until everything is found and in the catalog, or certainly not in the log, or until this coordinator ends.
async fn look_again(parts: Weak<Parts>, case: CaseId) {
    let mut pause = FIRST_LOOK;
    loop {
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(EACH_LOOK);
        let Some(parts) = parts.upgrade() else { return };
        let began = Instant::now();
        match look(&parts, &case).await {
            Ok(ledger) => {
                if parts.unsettled.looked(&case, began, &|order| ledger.find(order).is_some()) {
                    return;
                }
            }
            Err(problem) if problem.kind() == Kind::Conflict => {
                tracing::error!(%case, %problem, "the catalog has another order under the name of one that is in the log");
                parts.unsettled.forget(&case);
                return;
            }
            Err(problem) => tracing::debug!(%case, %problem, "orders that may be in the log cannot be taken in yet"),
        }
    }
}

async fn look(parts: &Arc<Parts>, case: &CaseId) -> Result<Ledger> {
    let row = admit::require_case(parts, case).await?;
    let ledger = parts.ledgers.case(case).await?;
    let before = ledger.size();
    ledger.look_for_more().await?;
    if !ledger.entries(before, &|e| CHANGE_LOCKS.contains(&e.kind), 1).is_empty() {
        // A pass may have been there before the record was, and have forgotten the change.
        parts.attesting.ask(case);
        raising::begins(parts, case).await?;
    }
    recover::orders_of(parts, &row).await?;
    Ok(ledger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_looked_for_until_it_is_there_or_can_no_longer_arrive() {
        let (unsettled, case) = (Unsettled::default(), CaseId::new(1, [7; 10]));
        let (one, two, now) = (Digest::of(b"one"), Digest::of(b"two"), Instant::now());
        assert!(unsettled.begin(&case, one, now) && !unsettled.begin(&case, two, now), "one looks");
        assert!(unsettled.begin(&CaseId::new(2, [7; 10]), one, now), "another case");
        assert!(!unsettled.looked(&case, now + FIRST_LOOK, &|order| *order == one), "the other may arrive");
        assert!(!unsettled.begin(&case, one, now + EACH_LOOK), "while it is looked");
        assert!(!unsettled.looked(&case, now + FIRST_LOOK, &|_| true), "what came after the look began");
        assert!(unsettled.looked(&case, now + EACH_LOOK + ARRIVES_WITHIN, &|_| false), "it can no longer arrive");
        assert!(unsettled.begin(&case, one, now), "anew");
    }
}
