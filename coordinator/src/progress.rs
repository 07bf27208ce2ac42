//! Who watches a collection learns of changes here. Only the newest state is kept: a slow watcher skips what it missed
//! and never holds anybody up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use exhibit_evidence::id::{AgentId, CollectionId};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

use crate::replica::{Notice, Outbox};

/// Changes that a watcher may be behind; then it looks at everything it watches once, and goes on.
const BEHIND_MAX: usize = 1_024;

/// What a running collection's agent said last. A claim, for display only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Live {
    /// The capture that is running.
    pub capture: String,
    /// Items so far.
    pub items: u64,
    /// Raw bytes so far.
    pub raw_bytes: u64,
    /// Raw bytes expected in all, zero when unknown.
    pub expected_raw_bytes: u64,
    /// What is being read now, escaped.
    pub current: String,
}

impl Live {
    /// What hinders the collection, in the agent's words: it says something and no capture runs.
    #[must_use]
    pub fn hindrance(&self) -> Option<&str> {
        (self.capture.is_empty() && !self.current.is_empty()).then_some(self.current.as_str())
    }
}

/// The board: what agents say, and a bell that rings when anything about a collection changed.
#[derive(Debug)]
pub struct Progress {
    live: Mutex<HashMap<CollectionId, (AgentId, Live)>>,
    /// Uploads that are paused, why, and whether they run here. One entry per open upload at most.
    paused: Mutex<HashMap<CollectionId, (String, bool)>>,
    bell: broadcast::Sender<CollectionId>,
    /// True once the coordinator stops.
    ending: watch::Sender<bool>,
    /// Watchers may be connected to other coordinators.
    others: Outbox,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new(Outbox::default())
    }
}

impl Progress {
    /// A board whose changes the other coordinators are told of.
    #[must_use]
    pub fn new(others: Outbox) -> Self {
        Self {
            live: Mutex::default(),
            paused: Mutex::default(),
            bell: broadcast::Sender::new(BEHIND_MAX),
            ending: watch::Sender::new(false),
            others,
        }
    }

    /// Keeps what the agent said. Only collections that were offered or run have an entry, so orders bound it.
    pub fn say(&self, collection: &CollectionId, agent: &AgentId, live: Live) {
        self.keep(collection, agent, live);
        self.tell(collection);
        self.ring_here(collection);
    }

    fn keep(&self, collection: &CollectionId, agent: &AgentId, live: Live) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(collection.clone(), (agent.clone(), live));
    }

    /// What another coordinator heard of a running collection.
    pub fn heard(&self, collection: &CollectionId, agent: &AgentId, live: Live, paused: Option<String>) {
        self.keep(collection, agent, live);
        self.keep_pause(collection, paused, false);
        self.ring_here(collection);
    }

    /// Tells the others what is known here of a collection.
    fn tell(&self, collection: &CollectionId) {
        let known = self.live.lock().unwrap_or_else(PoisonError::into_inner).get(collection).cloned();
        if let Some((agent, live)) = known {
            self.others.send(Notice::Live { collection: collection.clone(), agent, live, paused: self.paused(collection) });
        }
    }

    /// What the agent said last.
    #[must_use]
    pub fn live(&self, collection: &CollectionId) -> Option<Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).get(collection).map(|(_, live)| live.clone())
    }

    /// True when the entry of this collection is the agent's.
    #[must_use]
    pub fn belongs_to(&self, collection: &CollectionId, agent: &AgentId) -> bool {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).get(collection).is_some_and(|(owner, _)| owner == agent)
    }

    /// Keeps why an upload is paused, so that whoever asks for the collection learns it; `None` once it goes on or ended.
    pub fn pause(&self, collection: &CollectionId, why: Option<String>) {
        if self.keep_pause(collection, why, true) {
            self.tell(collection);
            self.ring_here(collection);
        }
    }

    /// True when it is another reason than before.
    fn keep_pause(&self, collection: &CollectionId, why: Option<String>, here: bool) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &why {
            Some(why) => paused.insert(collection.clone(), (why.clone(), here)),
            None => paused.remove(collection),
        };
        before.map(|(before, _)| before) != why
    }

    /// Uploads that are paused here.
    #[must_use]
    pub fn paused_count(&self) -> usize {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|(_, here)| *here).count()
    }

    /// Why the upload of a collection is paused, if it is.
    #[must_use]
    pub fn paused(&self, collection: &CollectionId) -> Option<String> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner).get(collection).map(|(why, _)| why.clone())
    }

    /// Forgets a collection that is closed.
    pub fn forget(&self, collection: &CollectionId) {
        self.forget_here(collection);
        self.others.send(Notice::Changed { collection: collection.clone() });
    }

    /// [`Progress::forget`], because another coordinator said so.
    pub fn forget_here(&self, collection: &CollectionId) {
        self.keep_pause(collection, None, true);
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(collection);
        self.ring_here(collection);
    }

    /// Tells watchers, here and at other coordinators, that the collection's row changed.
    pub fn ring(&self, collection: &CollectionId) {
        self.ring_here(collection);
        self.others.send(Notice::Changed { collection: collection.clone() });
    }

    /// [`Progress::ring`] for the watchers that are connected here.
    pub fn ring_here(&self, collection: &CollectionId) {
        // No watcher is no error.
        let _ = self.bell.send(collection.clone());
    }

    /// The coordinator stops: whoever watches is told to go on elsewhere, now and later.
    pub fn end_watches(&self) {
        self.ending.send_replace(true);
    }

    /// Becomes true when watching here ends.
    #[must_use]
    pub fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// Listens from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<CollectionId> {
        self.bell.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watcher_hears_and_a_slow_one_is_told_that_it_missed_something() {
        let progress = Progress::default();
        let id = CollectionId::from_digest(&exhibit_evidence::Digest::of(b"c"));
        let mut watcher = progress.listen();
        let agent = AgentId::new(1, [1; 10]);
        progress.say(&id, &agent, Live { items: 3, ..Live::default() });
        assert!(progress.belongs_to(&id, &agent) && !progress.belongs_to(&id, &AgentId::new(1, [2; 10])));
        assert_eq!(watcher.recv().await.as_ref(), Ok(&id));
        assert_eq!(progress.live(&id).map(|l| l.items), Some(3));
        let live = |capture: &str| Live { capture: capture.to_owned(), current: "the disk is full".to_owned(), ..Live::default() };
        assert_eq!((live("").hindrance(), live("files").hindrance()), (Some("the disk is full"), None));
        for _ in 0..=BEHIND_MAX {
            progress.ring(&id);
        }
        assert!(matches!(watcher.recv().await, Err(broadcast::error::RecvError::Lagged(_))));
        let mut watcher = progress.listen();
        progress.pause(&id, Some("the store is full".to_owned()));
        progress.pause(&id, Some("the store is full".to_owned()));
        assert_eq!(progress.paused(&id).as_deref(), Some("the store is full"));
        assert!(watcher.try_recv().is_ok() && watcher.try_recv().is_err(), "rung once");
        progress.forget(&id);
        assert_eq!((progress.live(&id), progress.paused(&id)), (None, None));
    }
}
