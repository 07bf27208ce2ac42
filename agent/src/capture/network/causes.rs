//! Why something failed, counted by the kernel's answer.

use std::collections::BTreeMap;

use rustix::io::Errno;

/// Answers that are said; all are counted.
const SAID_MAX: usize = 4;

/// How often each answer came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Causes(BTreeMap<i32, u64>);

impl Causes {
    /// One more.
    pub fn add(&mut self, answer: Errno) {
        let count = self.0.entry(answer.raw_os_error()).or_default();
        *count = count.saturating_add(1);
    }

    /// All of them.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// In words, what came most often first: `97 times: Too many open files (os error 24), 1 times: ...`.
    #[must_use]
    pub fn told(&self) -> String {
        let mut all: Vec<(u64, i32)> = self.0.iter().map(|(answer, count)| (*count, *answer)).collect();
        all.sort_unstable_by_key(|(count, answer)| (std::cmp::Reverse(*count), *answer));
        let one = |(count, answer): &(u64, i32)| format!("{count} times: {}", Errno::from_raw_os_error(*answer));
        let said: Vec<String> = all.iter().take(SAID_MAX).map(one).collect();
        let more = all.len().saturating_sub(SAID_MAX);
        let rest = if more > 0 { format!(", and {more} other reasons") } else { String::new() };
        said.join(", ") + &rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_that_came_most_often_is_said_first() {
        let mut causes = Causes::default();
        for answer in [Errno::ACCESS, Errno::MFILE, Errno::MFILE] {
            causes.add(answer);
        }
        assert_eq!(causes.count(), 3);
        let told = causes.told();
        assert!(told.starts_with("2 times: Too many open files") && told.contains(", 1 times: Permission denied"), "{told}");
    }
}
