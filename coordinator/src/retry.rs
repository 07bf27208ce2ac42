//! When what failed is tried again: soon the first time, because most of it passes, and later each time.

use std::collections::BTreeMap;
use std::time::Duration;

/// The first wait; each one after it is twice as long.
const FIRST: Duration = Duration::from_secs(5);
/// What failed so often in a row does not pass by itself: at a minute between two tries that is ten minutes.
const LASTING: u32 = 12;
/// Names that are remembered; beyond, all are forgotten, and may be tried again earlier.
const REMEMBERED_MAX: usize = 4_096;

/// How often something failed in a row, by its name.
#[derive(Debug, Default)]
pub(crate) struct Retries(BTreeMap<String, u32>);

impl Retries {
    /// It failed once more. Gives the time before the next try, at most `longest`.
    pub(crate) fn after(&mut self, name: &str, longest: Duration) -> Duration {
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(name) {
            self.0.clear();
        }
        let before = self.0.entry(name.to_owned()).or_default();
        let wait = FIRST.saturating_mul(2_u32.saturating_pow(*before)).min(longest);
        *before = before.saturating_add(1);
        wait
    }

    /// True when it failed so often in a row that somebody must look.
    pub(crate) fn lasts(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|times| *times >= LASTING)
    }

    /// It succeeded. True when it had failed before.
    pub(crate) fn succeeded(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let (mut retries, longest) = (Retries::default(), Duration::from_mins(1));
        let waits: Vec<u64> = (0..6).map(|_| retries.after("a", longest).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        assert_eq!(retries.after("b", longest), FIRST, "another one");
        assert!(retries.succeeded("a") && !retries.succeeded("a"), "told once that it goes on");
        assert_eq!(retries.after("a", longest), FIRST);
        assert!(!retries.lasts("a") && !retries.lasts("c"));
        for _ in 0..100 {
            assert!(retries.after("a", Duration::MAX) >= FIRST, "no wrap");
        }
        assert!(retries.lasts("a") && !retries.lasts("b"));
        for n in 0..3 * REMEMBERED_MAX {
            assert_eq!(retries.after(&n.to_string(), longest), FIRST);
        }
        assert!(retries.0.len() <= REMEMBERED_MAX);
    }
}
