//! The queue of one authority: cases whose heads it has to stamp, one after another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::id::CaseId;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::Stamped;
use tokio::sync::watch;
use tokio::time::Instant;

use super::authority::{Authority, NoToken};
use super::desk::{Desk, Failed};
use super::heads::{due, may_be_due};
use crate::catalog::PAGE_MAX;
use crate::clock;
use crate::parts::Parts;

const TICK: Duration = Duration::from_millis(500);
/// Records come in groups (acquisition, receipt, seal): a head is stamped when it has stood for so long.
const SETTLE: Duration = Duration::from_secs(1);
/// After a failure the authority is left alone for so long; twice as long after each further one.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_mins(10);
/// A case whose log or store fails is looked at again after so long.
const OWN_RETRY: Duration = Duration::from_secs(10);
/// A seal does not wait for the whole interval.
const SOON_PART: u32 = 10;
/// An authority's clock and this machine's should not differ by more; the token is kept, and the difference told.
const CLOCKS_APART_S_MAX: u64 = 300;

/// Runs the queues of all configured authorities until `stop` says so.
pub async fn run(parts: Arc<Parts>, stop: watch::Receiver<bool>) {
    let authorities = parts.authorities.clone();
    let queues = authorities.into_iter().map(|authority| {
        let queue =
            Queue { authority, parts: Arc::clone(&parts), due: BTreeMap::new(), last: BTreeMap::new(), failures: 0, not_before: None };
        tokio::spawn(queue.run(stop.clone()))
    });
    for queue in queues.collect::<Vec<_>>() {
        if let Err(error) = queue.await {
            tracing::error!(%error, "the queue of a timestamp authority ended badly; heads are not stamped until a restart");
        }
    }
}

struct Queue {
    authority: Authority,
    parts: Arc<Parts>,
    /// When each case is to be looked at.
    due: BTreeMap<CaseId, Instant>,
    /// When a token was last had for each case.
    last: BTreeMap<CaseId, Instant>,
    failures: u32,
    not_before: Option<Instant>,
}

/// How a look at a case ended.
enum Look {
    /// There is nothing to stamp.
    Nothing,
    /// Its turn comes then.
    Wait(Instant),
    /// A token was had and recorded.
    Stamped,
}

impl Queue {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut grown = self.parts.ledgers.grown();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            if !swept {
                swept = self.sweep().await;
            }
            loop {
                match grown.try_recv() {
                    Ok(LogName::Case(case)) => {
                        let at = Instant::now() + SETTLE;
                        self.due.entry(case).or_insert(at);
                    }
                    Ok(LogName::Deployment) => {}
                    // More grew than the channel holds: look at all of them.
                    Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_)) => swept = false,
                    Err(_) => break,
                }
            }
            let work = self.work();
            tokio::select! {
                () = work => {}
                _ = stop.wait_for(|s| *s) => return,
            }
        }
    }

    /// Looks at every case once: what an earlier process left. False when it must be done again.
    async fn sweep(&mut self) -> bool {
        let mut after = None;
        loop {
            let page = match self.parts.catalog.cases(after.clone(), PAGE_MAX).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "cases could not be looked at for heads to stamp; next try soon");
                    return false;
                }
            };
            let Some(last) = page.last() else { return true };
            after = Some(last.case.clone());
            for row in page {
                if may_be_due(&*self.parts.store, &LogName::Case(row.case.clone()), self.authority.name()).await {
                    self.due.entry(row.case).or_insert_with(Instant::now);
                }
            }
        }
    }

    /// Stamps what is ripe. An authority that fails is left alone for a while, whatever the case, and then another case comes
    /// first; a case whose own log or store fails waits alone.
    async fn work(&mut self) {
        let now = Instant::now();
        if self.not_before.is_some_and(|at| now < at) {
            return;
        }
        let interval = self.authority.interval();
        self.last.retain(|_, last| *last + interval > now);
        let ripe: Vec<CaseId> = self.due.iter().filter(|(_, at)| **at <= now).map(|(case, _)| case.clone()).collect();
        for case in ripe {
            match self.look(&case).await {
                Ok(Look::Nothing) => {
                    self.due.remove(&case);
                }
                Ok(Look::Wait(at)) => {
                    self.due.insert(case, at);
                }
                Ok(Look::Stamped) => {
                    self.due.remove(&case);
                    self.last.insert(case, Instant::now());
                    (self.failures, self.not_before) = (0, None);
                }
                Err(Failed::Own(error) | Failed::Damaged(error)) => {
                    tracing::warn!(authority = %self.authority.name(), %case, %error, again_in_s = OWN_RETRY.as_secs(), "a head was not stamped");
                    self.due.insert(case, Instant::now() + OWN_RETRY);
                }
                Err(Failed::Token(NoToken { code, message })) => {
                    let wait = RETRY_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
                    self.failures = self.failures.saturating_add(1);
                    let again = Instant::now() + wait;
                    tracing::warn!(authority = %self.authority.name(), %case, code, error = %message, again_in_s = wait.as_secs(), "a head was not stamped");
                    self.not_before = Some(again);
                    self.due.insert(case, again + TICK);
                    return;
                }
            }
        }
    }

    /// One case: is there something to stamp, and may it be stamped now?
    async fn look(&self, case: &CaseId) -> Result<Look, Failed> {
        let ledger = self.parts.ledgers.case(case).await?;
        let parts = &self.parts;
        let desk = Desk {
            store: &*parts.store,
            key: parts.ledgers.log_key(),
            deployment: parts.deployment(),
            authority: &self.authority,
            case,
            ledger: &ledger,
        };
        let found = due(&ledger.view(), self.authority.name());
        let Some(due) = found else {
            desk.publish().await?;
            return Ok(Look::Nothing);
        };
        let interval = if due.soon { self.authority.interval() / SOON_PART } else { self.authority.interval() };
        if let Some(at) = self.last.get(case).map(|last| *last + interval).filter(|at| *at > Instant::now()) {
            return Ok(Look::Wait(at));
        }
        match desk.stamp(&due).await {
            Ok(stamped) => {
                self.compare_clocks(&stamped).await;
                Ok(Look::Stamped)
            }
            Err(Failed::Token(e)) => {
                if !due.failure_recorded {
                    desk.record_failure(&due, &e, clock::now()).await?;
                    // In no case's log: there the failure is a record of its own, and another record would be another head to stamp.
                    let detail = format!("no token for case {case}: {}: {}", e.code, e.message);
                    parts.incident(None, "timestamp", self.authority.name().as_str(), &detail).await;
                }
                Err(Failed::Token(e))
            }
            Err(Failed::Damaged(what)) => {
                parts.incident(Some(case), "timestamp", self.authority.name().as_str(), &what).await;
                Err(Failed::Damaged(what))
            }
            Err(e) => Err(e),
        }
    }

    /// One of the two clocks is wrong when they are far apart; the token is kept all the same.
    async fn compare_clocks(&self, stamped: &Stamped) {
        tracing::info!(authority = %stamped.authority, case = %stamped.case, size = stamped.size, time = %stamped.time, "a head was stamped");
        let apart_s = stamped.received_at.unix_ns().abs_diff(stamped.time.unix_ns()) / 1_000_000_000;
        if apart_s > CLOCKS_APART_S_MAX {
            let (name, time, here) = (&stamped.authority, stamped.time, stamped.received_at);
            let detail = format!("authority '{name}' says {time}, this machine {here}: one of the two clocks is wrong");
            self.parts.incident(None, "clock", "timestamp", &detail).await;
        }
    }
}
