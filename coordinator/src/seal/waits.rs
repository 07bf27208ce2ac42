//! Ends of collections that a store refuses to take, or to be looked at for: with credentials that ended, for want of a right or of room. That
//! lasts until a person has seen to it, so each is tried again, later each time, and a reason is told once, whichever ends meet it.
//!
//! Whatever else keeps an end from being written has it tried again later each time as well, so that no number of them keeps others waiting.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use exhibit_evidence::id::CollectionId;
use tokio::time::Instant;

use crate::retry::Retries;

/// The longest wait: an end is not to wait for long once somebody has seen to it.
const LONGEST: Duration = Duration::from_secs(20);
/// What passes is tried again at once so often: most of it is over by the next tick of the timer.
const AT_ONCE: u32 = 5;
/// The first wait of what no store refused and that does not pass at once; each one after it is twice as long.
const FIRST: Duration = Duration::from_secs(2);
/// A reason that lasts is told again after so long.
const AGAIN: Duration = Duration::from_hours(1);
/// Ends that are remembered; of what is beyond some other one is forgotten, and may be tried again earlier.
const REMEMBERED_MAX: usize = 4_096;
/// Reasons that are remembered; beyond, all are forgotten, and may be told again earlier. There are few.
const TOLD_MAX: usize = 256;

/// Ends that wait. Nobody sleeps for them and nothing is held: the timers leave one alone until it is due.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    retries: Retries,
    waiting: HashMap<CollectionId, Waiting>,
    /// Ends that failed, and no store refused them.
    failing: HashMap<CollectionId, Failing>,
    /// When a reason was told.
    told: HashMap<String, Instant>,
}

/// An end that waits.
#[derive(Debug)]
struct Waiting {
    /// Until when it is left alone.
    until: Instant,
    /// Why, the last time.
    reason: String,
    /// Why before: who comes past all of them is past each.
    before: BTreeSet<String>,
}

/// An end that failed for another reason than that a store refuses it.
#[derive(Debug)]
struct Failing {
    /// Until when it is left alone.
    until: Instant,
    /// How often it failed so.
    times: u32,
}

/// What is to be done about an end that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    /// Time until it is due again.
    pub(super) wait: Duration,
    /// The reason is to be told.
    pub(super) is_new: bool,
    /// The collection does not show the reason yet.
    pub(super) is_new_here: bool,
}

impl Memory {
    /// It failed no more, or somebody else wrote it. What waits for a store is not of it.
    fn succeeded(&mut self, collection: &CollectionId) {
        self.retries.succeeded(collection.as_str());
        self.failing.remove(collection);
    }

    /// No longer remembers why anybody waited, as far as nobody does.
    fn forget_reasons(&mut self) {
        let Self { waiting, told, .. } = self;
        told.retain(|reason, _| waiting.values().any(|one| one.reason == *reason || one.before.contains(reason)));
    }
}

impl Waits {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False while the end of a collection is to be left alone.
    pub(super) fn is_due(&self, collection: &CollectionId) -> bool {
        let (memory, now) = (self.memory(), Instant::now());
        memory.waiting.get(collection).is_none_or(|one| one.until <= now)
            && memory.failing.get(collection).is_none_or(|one| one.until <= now)
    }

    /// It failed, and no store refused it. `passes`: another try may succeed without anybody doing anything. Gives the time until it is due
    /// again.
    pub(super) fn failed(&self, collection: &CollectionId, passes: bool) -> Duration {
        let mut memory = self.memory();
        let before = memory.failing.get(collection).map_or(0, |one| one.times);
        let wait = wait_after(before, passes);
        make_room(&mut memory.failing, collection);
        memory.failing.insert(collection.clone(), Failing { until: Instant::now() + wait, times: before.saturating_add(1) });
        wait
    }

    /// It was refused for this reason.
    pub(super) fn refused(&self, collection: &CollectionId, reason: &str) -> Refused {
        let now = Instant::now();
        let mut memory = self.memory();
        let Memory { retries, waiting, told, .. } = &mut *memory;
        let wait = retries.after(collection.as_str(), LONGEST);
        make_room(waiting, collection);
        let last = waiting.remove(collection);
        let is_new_here = last.as_ref().is_none_or(|last| last.reason != reason);
        let mut before = BTreeSet::new();
        if let Some(last) = last {
            before = last.before;
            before.insert(last.reason);
        }
        if before.len() > TOLD_MAX {
            before.clear();
        }
        waiting.insert(collection.clone(), Waiting { until: now + wait, reason: reason.to_owned(), before });
        let is_new = told.get(reason).is_none_or(|at| now.duration_since(*at) >= AGAIN);
        if is_new {
            if told.len() >= TOLD_MAX {
                told.clear();
            }
            told.insert(reason.to_owned(), now);
        }
        Refused { wait, is_new, is_new_here }
    }

    /// It is written here. Others that were refused for the same reasons are due at once. True when one of them was told, so that it is to be
    /// told as well that it goes on.
    pub(super) fn written(&self, collection: &CollectionId) -> bool {
        let now = Instant::now();
        let mut memory = self.memory();
        memory.succeeded(collection);
        let Memory { waiting, told, .. } = &mut *memory;
        let Some(Waiting { reason, mut before, .. }) = waiting.remove(collection) else { return false };
        before.insert(reason);
        for one in waiting.values_mut().filter(|one| before.contains(&one.reason)) {
            one.until = now;
        }
        let mut was_told = false;
        for reason in &before {
            was_told |= told.remove(reason).is_some();
        }
        was_told
    }

    /// It waits no longer, and not because this coordinator wrote it: that says nothing of what others wait for.
    pub(super) fn gone(&self, collection: &CollectionId) {
        let mut memory = self.memory();
        memory.succeeded(collection);
        if memory.waiting.remove(collection).is_some() {
            memory.forget_reasons();
        }
    }

    /// Only these are still to be written: what became of the others was somebody else's doing.
    pub(super) fn only(&self, open: &HashSet<CollectionId>) {
        let mut memory = self.memory();
        memory.failing.retain(|one, _| open.contains(one));
        let gone: Vec<CollectionId> = memory.waiting.keys().filter(|one| !open.contains(*one)).cloned().collect();
        for collection in &gone {
            memory.waiting.remove(collection);
            memory.succeeded(collection);
        }
        if !gone.is_empty() {
            memory.forget_reasons();
        }
    }
}

/// How long an end is left alone that failed so often before, and no store refused it.
fn wait_after(before: u32, passes: bool) -> Duration {
    let later = if passes { before.checked_sub(AT_ONCE) } else { Some(before) };
    later.map_or(Duration::ZERO, |doubled| FIRST.saturating_mul(2_u32.saturating_pow(doubled)).min(LONGEST))
}

/// One more is remembered.
fn make_room<T>(remembered: &mut HashMap<CollectionId, T>, collection: &CollectionId) {
    if remembered.len() >= REMEMBERED_MAX && !remembered.contains_key(collection) {
        // Not all of them: they would all be tried at once.
        if let Some(other) = remembered.keys().next().cloned() {
            remembered.remove(&other);
        }
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
            let refused = waits.refused(&a, "rights");
            let wait = Duration::from_secs(seconds);
            assert_eq!(refused, Refused { wait, is_new: n == 0, is_new_here: n == 0 });
            tokio::time::advance(wait.saturating_sub(Duration::from_millis(1))).await;
            assert!(!waits.is_due(&a) && waits.is_due(&b), "another one is not kept waiting");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(waits.is_due(&a));
        }
        let refused = waits.refused(&b, "rights");
        assert!(!refused.is_new && refused.is_new_here, "told by whichever meets it first, shown by each: {refused:?}");
        let refused = waits.refused(&b, "credentials");
        assert!(refused.is_new && refused.is_new_here, "{refused:?}");
        tokio::time::advance(AGAIN).await;
        let refused = waits.refused(&a, "rights");
        assert!(refused.is_new && !refused.is_new_here, "it lasts: {refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_goes_on_nobody_waits_any_longer_for_the_same_reason() {
        let (waits, [a, b, c]) = (Waits::default(), [1, 2, 3].map(collection));
        for (which, reason) in [(&a, "room"), (&a, "rights"), (&b, "rights"), (&c, "credentials")] {
            waits.refused(which, reason);
        }
        assert!(waits.written(&a), "told once that it goes on");
        assert!(waits.is_due(&a) && waits.is_due(&b) && !waits.is_due(&c));
        assert!(!waits.written(&b), "told already");
        let refused = waits.refused(&a, "rights");
        assert_eq!((refused.wait, refused.is_new), (Duration::from_secs(5), true), "it begins anew");
        assert!(waits.refused(&a, "room").is_new, "whoever came past the last reason came past the first");
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_else_wrote_says_nothing_of_the_others_and_leaves_nothing() {
        let (waits, [a, b, c]) = (Waits::default(), [1, 2, 3].map(collection));
        for (which, reason) in [(&a, "rights"), (&b, "rights"), (&c, "credentials")] {
            waits.refused(which, reason);
        }
        waits.gone(&a);
        assert!(waits.is_due(&a) && !waits.is_due(&b) && !waits.refused(&a, "rights").is_new, "the other one still waits for it");
        waits.only(&HashSet::from([c.clone()]));
        assert!(waits.is_due(&a) && waits.is_due(&b) && !waits.is_due(&c));
        assert!(waits.refused(&a, "rights").is_new && !waits.refused(&a, "credentials").is_new, "nobody waited for the first any more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_later_each_time_and_what_passes_at_once_at_first() {
        let (waits, [a, b, c]) = (Waits::default(), [1, 2, 3].map(collection));
        let seconds =
            |which: &CollectionId, passes: bool, times: u32| (0..times).map(|_| waits.failed(which, passes).as_secs()).collect::<Vec<_>>();
        assert_eq!(seconds(&a, true, AT_ONCE), [0; AT_ONCE as usize]);
        assert!(waits.is_due(&a), "by the next tick");
        assert_eq!(seconds(&a, true, 6), [2, 4, 8, 16, 20, 20]);
        assert_eq!(seconds(&b, false, 5), [2, 4, 8, 16, 20], "what does not pass by itself waits from the first time on");
        assert!(!waits.is_due(&a) && !waits.is_due(&b) && waits.is_due(&c));
        tokio::time::advance(LONGEST).await;
        assert!(waits.is_due(&a) && waits.is_due(&b));
        assert!(!waits.written(&b) && waits.failed(&b, false) == FIRST, "it begins anew, and no store refused it");
        waits.gone(&b);
        assert!(waits.is_due(&b) && waits.failed(&a, true) == LONGEST);
        waits.only(&HashSet::new());
        assert!(waits.is_due(&a) && waits.memory().failing.is_empty());
        for n in 0..2 * REMEMBERED_MAX as u64 {
            assert_eq!(waits.failed(&collection(n), false), FIRST);
        }
        assert_eq!(waits.memory().failing.len(), REMEMBERED_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn very_many_that_wait_are_not_all_due_at_once() {
        let waits = Waits::default();
        let many = 2 * REMEMBERED_MAX as u64;
        for n in 0..many {
            waits.refused(&collection(n), &n.to_string());
        }
        for n in 0..many {
            waits.refused(&collection(n), "rights");
        }
        let left_alone = (0..many).filter(|n| !waits.is_due(&collection(*n))).count();
        assert_eq!(left_alone, REMEMBERED_MAX);
        let memory = waits.memory();
        assert!(memory.waiting.len() <= REMEMBERED_MAX && memory.told.len() <= TOLD_MAX);
    }
}
