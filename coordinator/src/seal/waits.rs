//! Ends of collections that a store refuses to take, or to be looked at for: with credentials that ended, or for want of a right. That
//! lasts until a person has seen to it, so each is tried again, later each time, and a reason is told once, whichever ends meet it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use exhibit_evidence::id::CollectionId;
use tokio::time::Instant;

use crate::retry::Retries;

/// The longest wait: an end is not to wait for long once somebody has seen to it.
const LONGEST: Duration = Duration::from_secs(20);
/// A reason that lasts is told again after so long.
const AGAIN: Duration = Duration::from_hours(1);
/// Ends that are remembered; beyond, all are forgotten, and are tried again earlier.
const REMEMBERED_MAX: usize = 4_096;
/// Reasons that are remembered; beyond, all are forgotten, and may be told again earlier. There are few.
const TOLD_MAX: usize = 256;

/// Ends that wait. Nobody sleeps for them and nothing is held: the timers leave one alone until it is due.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    retries: Retries,
    /// Until when each is left alone, and why.
    waiting: HashMap<CollectionId, (Instant, String)>,
    /// When a reason was told.
    told: HashMap<String, Instant>,
}

impl Waits {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False while the end of a collection is to be left alone.
    pub(super) fn is_due(&self, collection: &CollectionId) -> bool {
        self.memory().waiting.get(collection).is_none_or(|(until, _)| *until <= Instant::now())
    }

    /// It was refused for this reason. Gives the time until it is due again, and whether the reason is to be told.
    pub(super) fn refused(&self, collection: &CollectionId, reason: &str) -> (Duration, bool) {
        let now = Instant::now();
        let mut memory = self.memory();
        let Memory { retries, waiting, told } = &mut *memory;
        let wait = retries.after(collection.as_str(), LONGEST);
        if waiting.len() >= REMEMBERED_MAX {
            waiting.clear();
        }
        waiting.insert(collection.clone(), (now + wait, reason.to_owned()));
        let is_new = told.get(reason).is_none_or(|at| now.duration_since(*at) >= AGAIN);
        if is_new {
            if told.len() >= TOLD_MAX {
                told.clear();
            }
            told.insert(reason.to_owned(), now);
        }
        (wait, is_new)
    }

    /// It is written. Others that were refused for the same reason are due at once. True when that reason was told, so that it is to be
    /// told as well that it goes on.
    pub(super) fn written(&self, collection: &CollectionId) -> bool {
        let now = Instant::now();
        let mut memory = self.memory();
        let Memory { retries, waiting, told } = &mut *memory;
        retries.succeeded(collection.as_str());
        let Some((_, reason)) = waiting.remove(collection) else { return false };
        for (until, why) in waiting.values_mut() {
            if *why == reason {
                *until = now;
            }
        }
        told.remove(&reason).is_some()
    }
}

#[cfg(test)]
mod tests {
    use exhibit_evidence::Digest;

    use super::*;

    fn collection(n: u64) -> CollectionId {
        CollectionId::from_digest(&Digest::of(&n.to_le_bytes()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_tried_later_each_time_and_told_once_for_each_reason() {
        let (waits, [a, b]) = (Waits::default(), [1, 2].map(collection));
        assert!(waits.is_due(&a) && !waits.written(&a), "nothing is known of it");
        for (n, seconds) in [5, 10, 20, 20].into_iter().enumerate() {
            let (wait, is_new) = waits.refused(&a, "rights");
            assert_eq!((wait, is_new), (Duration::from_secs(seconds), n == 0));
            tokio::time::advance(wait.saturating_sub(Duration::from_millis(1))).await;
            assert!(!waits.is_due(&a) && waits.is_due(&b), "another one is not kept waiting");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(waits.is_due(&a));
        }
        assert!(!waits.refused(&b, "rights").1 && waits.refused(&b, "credentials").1, "whichever meets it first");
        tokio::time::advance(AGAIN).await;
        assert!(waits.refused(&a, "rights").1, "it lasts");
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_goes_on_nobody_waits_any_longer_for_the_same_reason() {
        let (waits, [a, b, c]) = (Waits::default(), [1, 2, 3].map(collection));
        for (which, reason) in [(&a, "rights"), (&b, "rights"), (&c, "credentials")] {
            waits.refused(which, reason);
        }
        assert!(waits.written(&a), "told once that it goes on");
        assert!(waits.is_due(&a) && waits.is_due(&b) && !waits.is_due(&c));
        assert!(!waits.written(&b), "told already");
        assert_eq!(waits.refused(&a, "rights"), (Duration::from_secs(5), true), "it begins anew");
        for n in 0..3 * REMEMBERED_MAX as u64 {
            waits.refused(&collection(n), &n.to_string());
        }
        let memory = waits.memory();
        assert!(memory.waiting.len() <= REMEMBERED_MAX && memory.told.len() <= TOLD_MAX);
    }
}
