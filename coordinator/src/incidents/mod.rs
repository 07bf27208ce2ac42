//! Which incidents are worth a row and a log line: some of each kind about a subject in a minute, and then how many of the
//! same came since. A peer that repeats itself must fill neither the catalog nor the log.

mod logs;
mod names;
mod records;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use logs::{keep_refused_logs, tell_log_news, tell_refused_logs};
pub use records::{Recorded, record};

/// Length of the window in which incidents of a kind about a subject are counted.
const WINDOW: Duration = Duration::from_mins(1);
/// How many of them are told in one window. Different lies of one agent are then still seen one by one.
const TOLD_MAX: u64 = 50;
/// Kinds and subjects that are remembered; beyond, all are forgotten, and may be told again earlier.
const REMEMBERED_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Instant,
    told: u64,
    untold: u64,
}

/// What became of an incident that was to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// It has a row, which the timers write into a log.
    Told,
    /// More of the same came in this minute than are told: it was only counted.
    Limited,
    /// It could not be kept in the catalog: this program's own log and the SIEM have it, no record will.
    Failed,
}

impl Reported {
    /// True when it need not be told again.
    #[must_use]
    pub const fn is_told(self) -> bool {
        matches!(self, Self::Told)
    }
}

/// Incidents of the last minute.
#[derive(Debug, Default)]
pub struct Recent(Mutex<HashMap<(String, String), Count>>);

impl Recent {
    /// Whether to tell this one; then how many of the same were not told before it.
    pub fn admit(&self, kind: &str, subject: &str, now: Instant) -> Option<u64> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= REMEMBERED_MAX {
            recent.retain(|_, count| now.duration_since(count.since) < WINDOW);
            if recent.len() >= REMEMBERED_MAX {
                recent.clear();
            }
        }
        let fresh = Count { since: now, told: 0, untold: 0 };
        let count = recent.entry((kind.to_owned(), subject.to_owned())).or_insert(fresh);
        if now.duration_since(count.since) >= WINDOW {
            *count = Count { untold: count.untold, ..fresh };
        }
        if count.told >= TOLD_MAX {
            count.untold = count.untold.saturating_add(1);
            return None;
        }
        count.told = count.told.saturating_add(1);
        Some(std::mem::take(&mut count.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_is_told_some_times_a_minute_and_then_counted() {
        let recent = Recent::default();
        for _ in 0..TOLD_MAX {
            assert_eq!(recent.admit("a", "x", Instant::now()), Some(0));
        }
        assert_eq!(recent.admit("a", "y", Instant::now()), Some(0));
        for _ in 0..5 {
            assert_eq!(recent.admit("a", "x", Instant::now()), None);
        }
        tokio::time::advance(WINDOW).await;
        assert_eq!(recent.admit("a", "x", Instant::now()), Some(5));
        for n in 0..3 * REMEMBERED_MAX {
            assert_eq!(recent.admit("b", &n.to_string(), Instant::now()), Some(0));
        }
        assert!(recent.0.lock().expect("lock").len() <= REMEMBERED_MAX);
    }
}
