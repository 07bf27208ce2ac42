//! What was seen of logs that an incident must tell: each thing once, whoever runs into it and how often. The timers write it down.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use exhibit_evidence::Digest;
use exhibit_evidence::layout::LogName;
use tokio::time::Instant;

use super::heads::CONTRADICTS;
use super::{Kind, LedgerError};

/// The incident of a log that is not as it was written.
pub const DAMAGED: &str = "log";
/// The incident of a head that is not the newest one, or none at all, on top of the newest.
pub const HEAD: &str = "log-head";
/// The incident of what is no record or tile of this deployment under the name of one.
pub const SQUATTED: &str = "store-squatted";

/// The incident of a record in a log's place that no coordinator is known to have written there.
pub const RECORD: &str = "log-record";

/// The same is told again after so long, if it is still so.
const AGAIN: Duration = Duration::from_hours(1);
/// What was told lately, 40 bytes each; beyond, all is forgotten, and may be told again earlier.
const TOLD_MAX: usize = 4_096;
/// What waits for the timers, a few hundred bytes each. More is dropped: the store keeps what it is about, and the next look finds it.
const WAITING_MAX: usize = 1_000;
/// What was told lately of squats, word by word, of 2,000 bytes at most; beyond, the oldest is forgotten, and may be told in other words again.
const SQUATS_MAX: usize = 256;
/// Logs that are remembered to take no record, 50 bytes each.
const STUCK_MAX: usize = 10_000;

/// Something about a log that is an incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The log.
    pub log: LogName,
    /// A stable word for the kind.
    pub kind: &'static str,
    /// What was seen.
    pub detail: String,
}

impl News {
    /// True of what somebody put into the log's places and what the log goes on past. A head that contradicts the log is none of these.
    pub(crate) fn is_answered(&self) -> bool {
        self.kind == SQUATTED || (self.kind == HEAD && !self.detail.contains(CONTRADICTS))
    }
}

#[derive(Debug, Default)]
struct State {
    told: HashMap<Digest, Instant>,
    waiting: Vec<News>,
    squats: VecDeque<String>,
    /// Those that take no record just now.
    stuck: BTreeSet<LogName>,
}

/// What is to be told of logs.
#[derive(Debug, Default)]
pub struct Newsdesk(Mutex<State>);

impl Newsdesk {
    /// True when this was not said a short time ago; from now on it was.
    pub fn is_news(&self, log: &LogName, kind: &str, detail: &str) -> bool {
        let is = Digest::of(format!("{}\n{kind}\n{detail}", log.folder()).as_bytes());
        let (now, mut state) = (Instant::now(), self.state());
        if state.told.get(&is).is_some_and(|at| now.duration_since(*at) < AGAIN) {
            return false;
        }
        if state.told.len() >= TOLD_MAX {
            state.told.clear();
        }
        state.told.insert(is, now);
        true
    }

    /// Has this told by the timers, unless it was a short time ago.
    pub(super) fn tell(&self, log: &LogName, kind: &'static str, detail: String) {
        if self.is_news(log, kind, &detail) {
            if kind == SQUATTED {
                self.remember(std::slice::from_ref(&detail));
            }
            tracing::warn!(log = %log.folder(), kind, %detail, "something is wrong with a log");
            self.wait(News { log: log.clone(), kind, detail });
        }
    }

    /// These words about squats were told.
    pub(super) fn remember(&self, told: &[String]) {
        let mut state = self.state();
        for detail in told {
            if state.squats.contains(detail) {
                continue;
            }
            if state.squats.len() >= SQUATS_MAX {
                state.squats.pop_front();
            }
            state.squats.push_back(detail.clone());
        }
    }

    /// True when it was told lately that this object is none of a log's.
    pub(super) fn names(&self, object: &str) -> bool {
        let quoted = format!("'{object}'");
        self.state().squats.iter().any(|detail| detail.contains(&quoted))
    }

    /// What waits to be told.
    #[must_use]
    pub fn take(&self) -> Vec<News> {
        std::mem::take(&mut self.state().waiting)
    }

    /// It could not be told now.
    pub fn wait(&self, news: News) {
        let mut state = self.state();
        if state.waiting.len() < WAITING_MAX {
            state.waiting.push(news);
        }
    }

    /// The log takes no record, or does again.
    pub(super) fn note_use<T>(&self, log: &LogName, used: &Result<T, LedgerError>) {
        let mut state = self.state();
        match used {
            Ok(_) => {
                state.stuck.remove(log);
            }
            Err(e) if e.kind() == Kind::Damaged && state.stuck.len() < STUCK_MAX => {
                state.stuck.insert(log.clone());
            }
            Err(_) => {}
        }
    }

    /// How many logs take no record just now, as far as somebody tried.
    #[must_use]
    pub fn stuck(&self) -> usize {
        self.state().stuck.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_is_told_once_and_again_when_it_lasts() {
        let desk = Newsdesk::default();
        for _ in 0..6 {
            desk.tell(&LogName::Deployment, DAMAGED, "record 3 is gone".to_owned());
        }
        desk.tell(&LogName::Deployment, DAMAGED, "record 4 is gone".to_owned());
        let waiting = desk.take();
        assert_eq!(waiting.iter().map(|n| n.detail.as_str()).collect::<Vec<_>>(), ["record 3 is gone", "record 4 is gone"]);
        assert!(desk.take().is_empty());
        desk.wait(waiting[0].clone());
        assert_eq!(desk.take(), waiting[..1], "what could not be told waits");
        tokio::time::advance(AGAIN).await;
        desk.tell(&LogName::Deployment, DAMAGED, "record 3 is gone".to_owned());
        assert_eq!(desk.take().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_whatever_is_found() {
        let desk = Newsdesk::default();
        for n in 0..2 * TOLD_MAX {
            desk.tell(&LogName::Deployment, SQUATTED, n.to_string());
        }
        assert_eq!(desk.take().len(), WAITING_MAX);
        assert!(desk.state().told.len() <= TOLD_MAX);
        let stuck: Result<(), LedgerError> = Err(LedgerError::new(Kind::Damaged, "why"));
        desk.note_use(&LogName::Deployment, &stuck);
        assert_eq!(desk.stuck(), 1);
        desk.note_use(&LogName::Deployment, &Ok::<_, LedgerError>(()));
        assert_eq!(desk.stuck(), 0);
    }
}
