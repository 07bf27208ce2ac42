//! Timers. They hold no state: once a second the catalog is asked whose time has come, so a restart changes nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::id::CollectionId;
use exhibit_evidence::record::Outcome;

use super::{Outbound, end, offers};
use crate::catalog::{CollectionRow, Ending, State};
use crate::clock;
use crate::parts::Parts;
use crate::problem::Result;
use crate::replica;
use crate::seal;

const TICK: Duration = Duration::from_secs(1);
/// Collections looked at in one tick, or whose ends are begun; the rest waits for the next.
const PER_TICK_MAX: u32 = 200;
/// Collections whose ends are not written yet that are looked at in one tick, to find those that are not left alone.
const SEALING_MAX: usize = 4_096;

/// Ticks between two looks for what a notice, or a lost moment, may have left.
pub const FINISHED_EVERY_TICKS: u32 = 3;

/// Runs until `stop` says so: what every coordinator does. What only one does at a time is `replica::run_chores`.
pub async fn run_timers(parts: Arc<Parts>, mut stop: tokio::sync::watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0_u32;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|s| *s) => return,
        }
        match replica::keep_time(&parts).await {
            Ok(true) => {}
            // What is due is for those whose clocks are right.
            Ok(false) => continue,
            Err(error) => tracing::warn!(%error, "the database's time could not be asked; next try in a second"),
        }
        if let Err(error) = look_at_timers(&parts).await {
            tracing::warn!(%error, "timers could not be looked at; next try in a second");
        }
        count = count.wrapping_add(1);
        crate::attest::tell_troubles(&parts).await;
        crate::incidents::tell_refused_logs(&parts).await;
        crate::incidents::tell_log_news(&parts).await;
        if count.is_multiple_of(FINISHED_EVERY_TICKS) {
            crate::custody::finish_due(&parts);
        }
        if count.is_multiple_of(FINISHED_EVERY_TICKS)
            && parts.leases.peers().is_some()
            && let Err(error) = offers::follow_open(&parts).await
        {
            tracing::warn!(%error, "what other coordinators admitted could not be looked at; next try in some seconds");
        }
    }
}

/// What the log says; of one that cannot be read, what the row says: others' time must not wait for it.
async fn awaits_approval(parts: &Parts, row: &CollectionRow) -> bool {
    parts.ledgers.case(&row.case).await.map_or(true, |log| log.view().custody().awaits_approval(&row.order_digest))
}

/// One look: expired orders, collections to give up, ends that are not written yet, offers that failed.
///
/// # Errors
/// When the catalog fails.
pub async fn look_at_timers(parts: &Arc<Parts>) -> Result<()> {
    let now = clock::now();
    for row in parts.catalog.due(now, PER_TICK_MAX).await? {
        let (outcome, reason) = match row.state {
            State::Running => (Outcome::Partial, format!("the agent had not finished by {}", row.give_up_at.unwrap_or(now))),
            State::Unapproved if awaits_approval(parts, &row).await => {
                (Outcome::Expired, format!("nobody had approved the order when it expired at {}", row.expires_at))
            }
            _ => (Outcome::Expired, format!("the agent had not begun when the order expired at {}", row.expires_at)),
        };
        let reason = row.cancel.clone().unwrap_or(reason);
        let ending = Ending { outcome, reason: Some(reason.clone()), refusal: None };
        if end(parts, &row.collection, &[row.state], ending).await?.is_some() {
            tracing::info!(collection = %row.collection, %reason, "time is up");
            parts.uploads.cut(&row.collection);
            parts.sessions.send(&row.agent, Outbound::Cancel { collection: row.collection.to_string(), reason });
        }
    }
    write_ends(parts).await?;
    offers::offer_again(parts).await;
    Ok(())
}

/// Begins ends that are not written yet, the oldest first, past those that are left alone for now or are being written: all of one case may
/// fail.
async fn write_ends(parts: &Arc<Parts>) -> Result<()> {
    let (mut look, mut after) = (Look::default(), None);
    while look.goes_on() {
        let page = parts.catalog.sealing(after.take(), PER_TICK_MAX).await?;
        let page: Vec<CollectionId> = page.into_iter().map(|row| row.collection).collect();
        after = look.take(page, |collection| seal::begin(parts, collection));
        if after.is_none() {
            seal::only(parts, &look.open);
            return Ok(());
        }
    }
    Ok(())
}

/// One look at ends that are not written yet, page by page.
#[derive(Debug, Default)]
struct Look {
    /// Those that were seen.
    open: HashSet<CollectionId>,
    /// How many of them were begun.
    begun: u32,
}

impl Look {
    /// False when enough was begun, or seen, for one tick.
    fn goes_on(&self) -> bool {
        self.begun < PER_TICK_MAX && self.open.len() < SEALING_MAX
    }

    /// Begins what a page has, as far as `begin` does not leave it alone. The last of the page, unless it is the last of all.
    fn take(&mut self, page: Vec<CollectionId>, mut begin: impl FnMut(&CollectionId) -> bool) -> Option<CollectionId> {
        let is_last = page.len() < PER_TICK_MAX as usize;
        let after = page.last().filter(|_| !is_last).cloned();
        for collection in page {
            if begin(&collection) {
                self.begun = self.begun.saturating_add(1);
            }
            self.open.insert(collection);
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use exhibit_evidence::Digest;

    use super::*;

    /// One look at so many ends, of which so many are left alone, the oldest. Gives how many were begun, and whether all were seen.
    fn look_at(ends: u32, left_alone: u32) -> (u32, bool) {
        let all: Vec<CollectionId> = (0..ends).map(|n| CollectionId::from_digest(&Digest::of(&n.to_le_bytes()))).collect();
        let alone: HashSet<CollectionId> = all.iter().take(left_alone as usize).cloned().collect();
        let (mut look, mut after) = (Look::default(), None);
        while look.goes_on() {
            let from = after.take().and_then(|last| all.iter().position(|one| *one == last)).map_or(0, |at| at + 1);
            let page: Vec<CollectionId> = all.iter().skip(from).take(PER_TICK_MAX as usize).cloned().collect();
            after = look.take(page, |collection| !alone.contains(collection));
            if after.is_none() {
                return (look.begun, look.open.len() == all.len());
            }
        }
        (look.begun, false)
    }

    #[test]
    fn a_look_goes_past_any_number_of_ends_that_are_left_alone() {
        assert_eq!(look_at(0, 0), (0, true));
        assert_eq!(look_at(3, 0), (3, true));
        let page = PER_TICK_MAX;
        assert_eq!(look_at(2 * page + 7, 2 * page), (7, true), "they stand before the others");
        assert_eq!(look_at(2 * page, 2 * page), (0, true), "whole pages");
        assert_eq!(look_at(5 * page, 0), (page, false), "no more than these in one tick");
        assert_eq!(look_at(30 * page, 30 * page), (0, false), "nor are more looked at than are remembered");
    }
}
