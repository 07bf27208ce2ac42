//! File systems that do not answer, over all processes of one order: a dead server costs one wait and one thread that is left
//! behind, not the rest of a process, and not one of each for every process that maps something of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Threads that wait for single mappings at any moment, of all processes together, 512 KiB of stack and buffer each. Beyond it
/// whoever does not answer costs the rest of its process.
const WAITING_MAX: usize = 16;
/// Single mappings that may be late in one order, those that answered later among them: eight minutes at ten seconds each.
const LATE_MAX: usize = 48;

/// A device as the table of mappings names it; two zeros: memory without a file.
pub type Dev = [u32; 2];

/// Who does not answer.
#[derive(Debug, Default, Clone)]
pub struct Silent(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    /// For each device how many threads wait for it right now.
    waiting: BTreeMap<Dev, usize>,
    /// Threads that were left behind so far.
    late: usize,
}

impl Silent {
    /// Whether a thread waits for this file system. Memory without a file has none.
    #[must_use]
    pub fn is(&self, dev: Dev) -> bool {
        dev != [0, 0] && self.with(|told| told.waiting.contains_key(&dev))
    }

    /// Whether any thread waits.
    #[cfg(test)]
    pub fn is_waiting(&self) -> bool {
        self.with(|told| !told.waiting.is_empty())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Told) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One thread that can be left behind, shared with it. Once it comes back, whatever it waited for counts as answering again.
#[derive(Debug, Default)]
pub struct Wait {
    silent: Silent,
    left_for: OnceLock<Dev>,
}

impl Wait {
    /// For a thread to be started.
    #[must_use]
    pub fn new(silent: &Silent) -> Arc<Self> {
        Arc::new(Self { silent: silent.clone(), left_for: OnceLock::new() })
    }

    /// Leaves the thread behind, because of this device. Returns false where too many wait already, or were late before.
    pub fn leave(&self, dev: Dev) -> bool {
        self.silent.with(|told| {
            let waiting = told.waiting.values().copied().fold(0, usize::saturating_add);
            let room = waiting < WAITING_MAX && told.late < LATE_MAX;
            if room && self.left_for.set(dev).is_ok() {
                told.late = told.late.saturating_add(1);
                let threads = told.waiting.entry(dev).or_insert(0);
                *threads = threads.saturating_add(1);
            }
            room
        })
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some(dev) = self.left_for.get() else { return };
        self.silent.with(|told| {
            if let Some(threads) = told.waiting.get_mut(dev) {
                *threads = threads.saturating_sub(1);
            }
            told.waiting.retain(|_, threads| *threads > 0);
        });
    }
}

/// Who did not answer, for people.
#[must_use]
pub fn who(dev: Dev, patience: Duration) -> String {
    let what = match dev {
        [0, 0] => "what it is swapped to".to_owned(),
        [major, minor] => format!("its file system (device {major}:{minor})"),
    };
    format!("{what} did not answer within {patience:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_is_asked_again_and_few_are_waited_for() {
        let silent = Silent::default();
        let all: Vec<Arc<Wait>> = (0..WAITING_MAX).map(|_| Wait::new(&silent)).collect();
        assert!(all.iter().enumerate().all(|(n, wait)| wait.leave([0, n as u32 / 2])));
        assert!(silent.is([0, 3]) && !silent.is([0, 0]) && !silent.is([8, 1]));
        let more = Wait::new(&silent);
        assert!(!more.leave([8, 1]) && !silent.is([8, 1]));
        drop(all);
        assert!(!silent.is([0, 3]) && more.leave([8, 1]) && silent.is([8, 1]));
    }

    #[test]
    fn who_comes_back_late_again_and_again_is_not_waited_for_without_end() {
        let silent = Silent::default();
        let late = (0..=LATE_MAX).take_while(|_| Wait::new(&silent).leave([8, 1])).count();
        assert!(late == LATE_MAX && !silent.is_waiting(), "{late}");
    }
}
