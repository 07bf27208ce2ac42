//! Notices on their way out: gathered for a moment, so that a busy upload does not cost the database a transaction each.

use std::collections::HashMap;
use std::mem::Discriminant;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::id::CollectionId;
use tokio::sync::{mpsc, watch};

use super::Notice;
use crate::catalog::peers::Peers;

/// Notices that wait; further ones are dropped, and whoever missed them finds the same by the timers.
const WAITING_MAX: usize = 4_096;
/// How long notices are gathered.
const GATHER: Duration = Duration::from_millis(50);

/// Where notices are put. Without other coordinators it is a bottomless one.
#[derive(Debug, Clone, Default)]
pub struct Outbox(Option<mpsc::Sender<Notice>>);

/// The other end.
#[derive(Debug)]
pub struct Waiting(mpsc::Receiver<Notice>);

impl Outbox {
    /// An outbox that [`Waiting::run`] empties.
    #[must_use]
    pub fn new() -> (Self, Waiting) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(Some(sender)), Waiting(receiver))
    }

    /// Puts a notice in; it is told soon, or not at all.
    pub fn send(&self, notice: Notice) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(notice);
        }
    }
}

impl Waiting {
    /// Tells what waits until `stop` says so, and what waits then.
    pub async fn run(mut self, peers: Arc<dyn Peers>, mut stop: watch::Receiver<bool>) {
        loop {
            let first = tokio::select! {
                notice = self.0.recv() => notice,
                _ = stop.wait_for(|s| *s) => None,
            };
            let Some(first) = first else { break };
            tokio::time::sleep(GATHER).await;
            self.tell(&*peers, Some(first)).await;
        }
        self.tell(&*peers, None).await;
    }

    async fn tell(&mut self, peers: &dyn Peers, first: Option<Notice>) {
        let mut gathered = first.into_iter().collect::<Vec<_>>();
        while let Ok(notice) = self.0.try_recv() {
            gathered.push(notice);
        }
        let texts: Vec<String> = newest(gathered).iter().filter_map(|notice| notice.to_text(peers.me())).collect();
        if texts.is_empty() {
            return;
        }
        if let Err(error) = peers.tell(texts).await {
            tracing::debug!(%error, "other coordinators could not be told; they find out by themselves");
        }
    }
}

/// Of each kind about a collection only the newest, the rest once each, in their order.
fn newest(notices: Vec<Notice>) -> Vec<Notice> {
    let mut last: HashMap<Key, usize> = HashMap::new();
    for (n, notice) in notices.iter().enumerate() {
        last.insert(key(notice), n);
    }
    notices.into_iter().enumerate().filter(|(n, notice)| last.get(&key(notice)) == Some(n)).map(|(_, notice)| notice).collect()
}

/// What a notice is about: of two about the same only the newer one is told.
type Key = (Discriminant<Notice>, Option<CollectionId>, Option<Notice>);

fn key(notice: &Notice) -> Key {
    let kind = std::mem::discriminant(notice);
    match notice {
        Notice::Changed { collection } | Notice::Live { collection, .. } | Notice::Yield { collection } => {
            (kind, Some(collection.clone()), None)
        }
        other => (kind, None, Some(other.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Live;
    use exhibit_evidence::id::AgentId;

    #[test]
    fn of_many_words_about_a_collection_the_last_one_is_told() {
        let collection = CollectionId::from_digest(&exhibit_evidence::Digest::of(b"c"));
        let live = |items| Notice::Live {
            collection: collection.clone(),
            agent: AgentId::new(1, [1; 10]),
            live: Live { items, ..Live::default() },
            paused: None,
        };
        let changed = Notice::Changed { collection: collection.clone() };
        let revoked = |name: &str| Notice::Revoked { name: name.to_owned() };
        let all = vec![live(1), changed.clone(), live(2), revoked("a"), changed.clone(), revoked("b"), revoked("a")];
        assert_eq!(newest(all), [live(2), changed, revoked("b"), revoked("a")]);
    }
}
