//! The queue of one authority: logs whose heads it has to stamp, one after another.

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
    /// When each log is to be looked at.
    due: BTreeMap<LogName, Instant>,
    /// When a token was last had for each log.
    last: BTreeMap<LogName, Instant>,
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
                    Ok(log) => {
                        let at = Instant::now() + SETTLE;
                        self.due.entry(log).or_insert(at);
                    }
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

    /// Looks at every log once: what an earlier process left. False when it must be done again.
    async fn sweep(&mut self) -> bool {
        self.sweep_one(LogName::Deployment).await;
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
                self.sweep_one(LogName::Case(row.case)).await;
            }
        }
    }

    async fn sweep_one(&mut self, log: LogName) {
        if may_be_due(&*self.parts.store, &log, self.authority.name()).await {
            self.due.entry(log).or_insert_with(Instant::now);
        }
    }

    /// Stamps what is ripe. An authority that fails is left alone for a while, whatever the log, and then another one comes
    /// first; one that itself fails, or its store, waits alone.
    async fn work(&mut self) {
        let now = Instant::now();
        if self.not_before.is_some_and(|at| now < at) {
            return;
        }
        let interval = self.authority.interval();
        self.last.retain(|_, last| *last + interval > now);
        let ripe: Vec<LogName> = self.due.iter().filter(|(_, at)| **at <= now).map(|(log, _)| log.clone()).collect();
        for log in ripe {
            match self.look(&log).await {
                Ok(Look::Nothing) => {
                    self.due.remove(&log);
                }
                Ok(Look::Wait(at)) => {
                    self.due.insert(log, at);
                }
                Ok(Look::Stamped) => {
                    self.due.remove(&log);
                    self.last.insert(log, Instant::now());
                    (self.failures, self.not_before) = (0, None);
                }
                Err(Failed::Own(error) | Failed::Damaged(error)) => {
                    tracing::warn!(authority = %self.authority.name(), log = %log.folder(), %error, again_in_s = OWN_RETRY.as_secs(), "a head was not stamped");
                    self.due.insert(log, Instant::now() + OWN_RETRY);
                }
                Err(Failed::Token(NoToken { code, message })) => {
                    let wait = RETRY_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
                    self.failures = self.failures.saturating_add(1);
                    let again = Instant::now() + wait;
                    tracing::warn!(authority = %self.authority.name(), log = %log.folder(), code, error = %message, again_in_s = wait.as_secs(), "a head was not stamped");
                    self.not_before = Some(again);
                    self.due.insert(log, again + TICK);
                    return;
                }
            }
        }
    }

    /// One log: is there something to stamp, and may it be stamped now?
    async fn look(&self, log: &LogName) -> Result<Look, Failed> {
        let ledger = self.parts.ledgers.get(log).await?;
        let parts = &self.parts;
        let (key, deployment) = (parts.ledgers.log_key(), parts.deployment());
        let desk = Desk { store: &*parts.store, key, deployment, authority: &self.authority, ledger: &ledger };
        let found = due(&ledger.view(), log, self.authority.name());
        let Some(due) = found else {
            desk.publish().await?;
            return Ok(Look::Nothing);
        };
        let interval = if due.soon { self.authority.interval() / SOON_PART } else { self.authority.interval() };
        if let Some(at) = self.last.get(log).map(|last| *last + interval).filter(|at| *at > Instant::now()) {
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
                    self.tell_failure(log, &e).await;
                }
                Err(Failed::Token(e))
            }
            Err(Failed::Damaged(what)) => {
                parts.incident(case_of(log), "timestamp", self.authority.name().as_str(), &what).await;
                Err(Failed::Damaged(what))
            }
            Err(e) => Err(e),
        }
    }

    /// In no case's log: there the failure is a record of its own, and another record would be another head to stamp. For the
    /// same reason the deployment's log hears of cases only; what fails there is a record there.
    async fn tell_failure(&self, log: &LogName, e: &NoToken) {
        if let Some(case) = case_of(log) {
            let detail = format!("no token for case {case}: {}: {}", e.code, e.message);
            self.parts.incident(None, "timestamp", self.authority.name().as_str(), &detail).await;
        }
    }

    /// One of the two clocks is wrong when they are far apart; the token is kept all the same.
    async fn compare_clocks(&self, stamped: &Stamped) {
        let case = stamped.case.as_ref().map(tracing::field::display);
        tracing::info!(authority = %stamped.authority, case, size = stamped.size, time = %stamped.time, "a head was stamped");
        let apart_s = stamped.received_at.unix_ns().abs_diff(stamped.time.unix_ns()) / 1_000_000_000;
        // Said with a case's token: said with one of the deployment's log it would ask for the next one.
        if apart_s > CLOCKS_APART_S_MAX && stamped.case.is_some() {
            let (name, time, here) = (&stamped.authority, stamped.time, stamped.received_at);
            let detail = format!("authority '{name}' says {time}, this machine {here}: one of the two clocks is wrong");
            self.parts.incident(None, "clock", "timestamp", &detail).await;
        }
    }
}

const fn case_of(log: &LogName) -> Option<&CaseId> {
    match log {
        LogName::Case(case) => Some(case),
        LogName::Deployment => None,
    }
}
