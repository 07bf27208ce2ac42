//! What one coordinator does for all: recovery, stamping, attestation, the copy, verification, incidents into their logs, disposals
//! that are not finished.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Lease;
use crate::dispatch::{self, FINISHED_EVERY_TICKS};
use crate::parts::Parts;
use crate::problem::Problem;
use crate::retry::Retries;
use crate::{attest, copy, custody, incidents, reverify, stamp};

const TICK: Duration = Duration::from_secs(1);
/// How long the right to do them is waited for before it is asked for again.
const WAIT: Duration = Duration::from_secs(1);
/// What recovery is to [`Retries`], and its incidents are called.
const RECOVERY: &str = "recovery";
/// Of what they are.
const START: &str = "start";
/// Time before another try of a recovery that was disturbed.
const RECOVER_AGAIN: Duration = Duration::from_secs(5);
/// The same at most, of one that a store refuses.
const RECOVERED_WITHIN: Duration = Duration::from_secs(20);

/// Runs until `stop` says so. Of several coordinators one does the chores; when it goes, another one begins where it stood,
/// which each of the chores allows: they look at what is there, not at what was done.
pub async fn run_chores(parts: Arc<Parts>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        match parts.leases.alone("chores", WAIT).await {
            Ok(lease) => {
                if lease.is_shared_out() {
                    tracing::info!("this coordinator does the chores from now on");
                }
                parts.metrics.chores(true);
                while_held(&parts, &lease, &mut stop).await;
                parts.metrics.chores(false);
                lease.give(None).await;
            }
            Err(_) => {
                let _ = tokio::time::timeout(TICK, stop.wait_for(|s| *s)).await;
            }
        }
    }
}

async fn while_held(parts: &Arc<Parts>, lease: &Lease, stop: &mut watch::Receiver<bool>) {
    let (lost, lost_seen) = watch::channel(false);
    let stamping = tokio::spawn(stamp::run(Arc::clone(parts), lost_seen.clone()));
    let every = Duration::from_hours(u64::from(parts.issuing.rules.attest_hours.max(1)));
    let attesting = tokio::spawn(attest::run_all(Arc::clone(parts), every, lost_seen.clone()));
    let copying = tokio::spawn(copy::run(Arc::clone(parts), lost_seen.clone()));
    let verifying = tokio::spawn(reverify::run_scheduled(Arc::clone(parts), lost_seen));
    let recovery = tokio::spawn(recover(Arc::clone(parts)));
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0_u32;
    while lease.lasts() {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|s| *s) => break,
        }
        count = count.wrapping_add(1);
        tick(parts, count).await;
    }
    recovery.abort();
    lost.send_replace(true);
    let _ = stamping.await;
    let _ = attesting.await;
    let _ = copying.await;
    let _ = verifying.await;
}

async fn tick(parts: &Arc<Parts>, count: u32) {
    // An agent that was told that its stream is whole has forgotten it: where the end could not be written in that moment,
    // nobody else would ask again.
    if count.is_multiple_of(FINISHED_EVERY_TICKS)
        && let Err(error) = dispatch::finished_streams(parts).await
    {
        tracing::warn!(%error, "streams that were received whole could not be looked at; next try in some seconds");
    }
    // An approval that is in the log decides, whatever became of the call that brought it.
    if count.is_multiple_of(FINISHED_EVERY_TICKS)
        && let Err(error) = dispatch::approved_orders(parts).await
    {
        tracing::warn!(%error, "approved orders could not be looked at; next try in some seconds");
    }
    if let Err(error) = incidents::record(parts).await {
        tracing::warn!(%error, "incidents could not be written into their log; next try soon, or in a minute where somebody has to see to it");
    }
}

/// Each step, whatever became of those before it: one log that is damaged is in nobody else's way.
async fn take_up(parts: &Arc<Parts>) -> Vec<Problem> {
    let steps = [
        dispatch::orders_without_collections(parts).await.err(),
        dispatch::approved_orders(parts).await.err(),
        dispatch::finished_streams(parts).await.err(),
        custody::recover(parts).await.err(),
        // Nothing of the above is in a case that the catalog lacks; and this lists the store, which may be refused.
        dispatch::cases_without_rows(parts).await.err(),
    ];
    steps.into_iter().flatten().collect()
}

/// What an earlier process left between two writes. Until it is done the coordinator serves already: every step is
/// idempotent, and nothing that is left over can be seen half. Where a store refuses whoever asks, it is tried again later each time, and said
/// once for each reason. What does not pass by itself is said once, however often the rest is tried.
async fn recover(parts: Arc<Parts>) {
    let (mut retries, mut said, mut told) = (Retries::default(), BTreeSet::<String>::new(), BTreeSet::<String>::new());
    loop {
        let problems = take_up(&parts).await;
        let (again, lasting): (Vec<Problem>, Vec<Problem>) = problems.into_iter().partition(is_tried_again);
        for problem in &lasting {
            let text = problem.to_string();
            if !told.contains(&text) && parts.incident(None, RECOVERY, START, &text).await.is_told() {
                told.insert(text);
            }
        }
        if again.is_empty() {
            return attest::not_refused(&parts, RECOVERY, START).await;
        }
        // Who is not heard at all is told of by attestation; of a right that only this needs nobody else would.
        for problem in &again {
            if let Some(reason) = problem.refused().filter(|_| !problem.is_passing()) {
                attest::tell_refusal(&parts, (RECOVERY, START), reason, &problem.to_string()).await;
            }
        }
        let refused: BTreeSet<String> = again.iter().filter_map(Problem::refused).map(str::to_owned).collect();
        if refused.is_empty() || said != refused {
            for problem in &again {
                tracing::warn!(%problem, "recovery will be tried again");
            }
        }
        let wait = if refused.is_empty() { RECOVER_AGAIN } else { retries.after(RECOVERY, RECOVERED_WITHIN) };
        said = refused;
        tokio::time::sleep(wait).await;
    }
}

fn is_tried_again(problem: &Problem) -> bool {
    problem.is_passing() || problem.refused().is_some()
}
