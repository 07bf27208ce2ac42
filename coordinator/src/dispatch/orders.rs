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

/// A record that is looked for.
#[derive(Debug)]
struct Sought {
    record: Digest,
    since: Instant,
    /// It asks the store for other locks.
    locks: bool,
}

/// What a look leaves to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Looked {
    /// Nothing is looked for any more.
    is_done: bool,
    /// One that asks for other locks is looked for no more, whether it is there or not: the locks are to be looked at.
    asks: bool,
}

/// Records that are looked for. Memory only: a start looks at every log.
#[derive(Debug, Default)]
pub struct Unsettled(Mutex<BTreeMap<CaseId, Vec<Sought>>>);

impl Unsettled {
    /// False when somebody looks into this case already.
    fn begin(&self, case: &CaseId, (record, mut locks): (Digest, bool), now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = !all.contains_key(case);
        let sought = all.entry(case.clone()).or_default();
        sought.retain(|known| known.record != record);
        if sought.len() >= LOOKED_FOR_MAX {
            // Its locks are looked at with those of the one that takes its place.
            locks |= sought.remove(0).locks;
        }
        sought.push(Sought { record, since: now, locks });
        is_first
    }

    /// True while a record is looked for that would ask the store for other locks in this case.
    pub(crate) fn changes_locks(&self, case: &CaseId) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(case).is_some_and(|sought| sought.iter().any(|one| one.locks))
    }

    /// After a look that began at `began` and took in what was there.
    fn looked(&self, case: &CaseId, began: Instant, is_there: &dyn Fn(&Digest) -> bool) -> Looked {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sought) = all.get_mut(case) else { return Looked { is_done: true, asks: false } };
        let mut asks = false;
        sought.retain(|one| {
            // One that was added while the look went on is looked for again: only what came before it was seen by it.
            let may_arrive = !is_there(&one.record) && began.saturating_duration_since(one.since) < ARRIVES_WITHIN;
            let stays = one.since > began || may_arrive;
            asks |= one.locks && !stays;
            stays
        });
        let is_done = sought.is_empty();
        if is_done {
            all.remove(case);
        }
        Looked { is_done, asks }
    }
}

/// An order, or another record of a case, that is being written. Unless it is said to be settled it is looked for from when this is dropped
/// on, also where whoever brought it went away.
pub(crate) struct Settling<'a> {
    parts: &'a Arc<Parts>,
    case: &'a CaseId,
    order: Digest,
    locks: bool,
    is_settled: bool,
}

impl<'a> Settling<'a> {
    /// Of one that asks the store for other locks (`locks`) the catalog keeps the case until it is settled: `custody::raising`.
    pub(crate) const fn new(parts: &'a Arc<Parts>, case: &'a CaseId, order: Digest, locks: bool) -> Self {
        Self { parts, case, order, locks, is_settled: false }
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
        if self.parts.unsettled.begin(self.case, (self.order, self.locks), Instant::now()) {
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
    let Ok(ledger) = parts.ledgers.case(case).await else { return Standing::Unknown };
    standing_in(&ledger, order, error).await
}

/// Where a record is after its writing into this log failed so. Of a store that was disturbed or full nothing is asked in this moment. Also what
/// is refused now may be in the log, by an earlier try; and what is in the log is acknowledged only once it is locked.
async fn standing_in(ledger: &Ledger, order: &Digest, error: &LedgerError) -> Standing {
    if !ledger.may_have(order) {
        return Standing::Out;
    }
    if matches!(error.kind(), ledger::Kind::Retry | ledger::Kind::Full) {
        return Standing::Unknown;
    }
    match ledger.look_for_more().await {
        Ok(()) if ledger.find(order).is_none() => Standing::Out,
        Ok(()) if ledger.lock_again(order).await.is_ok() => Standing::In,
        Ok(()) | Err(_) => Standing::Unknown,
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
                let looked = parts.unsettled.looked(&case, began, &|order| ledger.find(order).is_some());
                // Behind that: while one is looked for, a pass does not forget that the locks are to be changed.
                if looked.asks {
                    parts.attesting.ask(&case);
                }
                if looked.is_done {
                    return;
                }
            }
            Err(problem) => tracing::debug!(%case, %problem, "orders that may be in the log cannot be taken in yet"),
        }
    }
}

async fn look(parts: &Arc<Parts>, case: &CaseId) -> Result<Ledger> {
    let row = admit::require_case(parts, case).await?;
    let ledger = parts.ledgers.case(case).await?;
    take_in(parts, case, &ledger).await?;
    // An approval of a disposal may be among it, whoever took it in: the timers carry it out.
    if !ledger.view().custody().unfinished().is_empty() {
        parts.condemned.add(case);
    }
    match recover::orders_of(parts, &row).await {
        // The next start tries that order again; what else is looked for does not wait for it.
        Err(problem) if matches!(problem.kind(), Kind::Conflict | Kind::Damaged) => {
            tracing::error!(%case, %problem, "an order that is in the log cannot be taken into the catalog");
        }
        other => {
            other?;
        }
    }
    Ok(ledger)
}

/// Takes in what lies in the log. What may ask for other locks the catalog keeps before it counts, as when it was brought: whoever takes it in,
/// and whichever pass comes meanwhile, nobody is said to have weakened a lock.
async fn take_in(parts: &Parts, case: &CaseId, ledger: &Ledger) -> Result<()> {
    let _changing = parts.attesting.changing.read().await;
    let before = ledger.size();
    let is_kept = parts.unsettled.changes_locks(case);
    if is_kept {
        raising::begins(parts, case).await?;
    }
    let looked = ledger.look_for_more().await;
    if !is_kept && !ledger.entries(before, &|e| CHANGE_LOCKS.contains(&e.kind), 1).is_empty() {
        // One that nobody here looked for; the next look begins behind it.
        parts.attesting.ask(case);
        raising::begins(parts, case).await?;
    }
    looked?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_looked_for_until_it_is_there_or_can_no_longer_arrive() {
        let (unsettled, case) = (Unsettled::default(), CaseId::new(1, [7; 10]));
        let (one, two, now) = (Digest::of(b"one"), Digest::of(b"two"), Instant::now());
        let begin = |case: &CaseId, order: Digest, now: Instant| unsettled.begin(case, (order, false), now);
        let is_done = |now: Instant, is_there: &dyn Fn(&Digest) -> bool| unsettled.looked(&case, now, is_there).is_done;
        assert!(begin(&case, one, now) && !begin(&case, two, now), "one looks");
        assert!(begin(&CaseId::new(2, [7; 10]), one, now), "another case");
        assert!(!is_done(now + FIRST_LOOK, &|order| *order == one), "the other may arrive");
        assert!(!begin(&case, one, now + EACH_LOOK), "while it is looked");
        assert!(!is_done(now + FIRST_LOOK, &|_| true), "what came after the look began");
        assert!(is_done(now + EACH_LOOK + ARRIVES_WITHIN, &|_| false), "it can no longer arrive");
        assert!(begin(&case, one, now), "anew");
    }

    #[test]
    fn locks_are_looked_at_when_what_asks_for_them_is_there_or_can_no_longer_arrive() {
        let (unsettled, case) = (Unsettled::default(), CaseId::new(1, [7; 10]));
        let (order, hold, now) = (Digest::of(b"order"), Digest::of(b"hold"), Instant::now());
        unsettled.begin(&case, (order, false), now);
        assert!(!unsettled.changes_locks(&case));
        unsettled.begin(&case, (hold, true), now);
        assert!(unsettled.changes_locks(&case) && !unsettled.changes_locks(&CaseId::new(2, [7; 10])));
        assert_eq!(unsettled.looked(&case, now, &|record| *record == order), Looked { is_done: false, asks: false });
        assert_eq!(unsettled.looked(&case, now, &|_| true), Looked { is_done: true, asks: true });
        assert!(!unsettled.changes_locks(&case));
        unsettled.begin(&case, (hold, true), now);
        assert_eq!(unsettled.looked(&case, now + ARRIVES_WITHIN, &|_| false), Looked { is_done: true, asks: true });
        unsettled.begin(&case, (hold, true), now);
        for n in 0..LOOKED_FOR_MAX {
            unsettled.begin(&case, (Digest::of(&n.to_le_bytes()), false), now);
        }
        assert!(unsettled.changes_locks(&case), "also when it is looked for no more");
    }
}
