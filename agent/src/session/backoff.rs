//! How long to wait before trying again: full jitter, so that a fleet does not come back as one wave.

use std::time::Duration;

/// The waits of one endeavour. The first tries follow fast, because most outages are restarts.
#[derive(Debug, Clone)]
pub struct Backoff {
    failures: u32,
    longest: Duration,
}

/// The longest wait.
pub const LONGEST: Duration = Duration::from_mins(5);
/// The longest wait while a collection is under way: its host waits with it.
pub const LONGEST_BUSY: Duration = Duration::from_secs(5);
const FIRST: Duration = Duration::from_millis(200);
const SHORTEST: Duration = Duration::from_millis(50);

impl Backoff {
    /// No failure yet.
    #[must_use]
    pub const fn new(longest: Duration) -> Self {
        Self { failures: 0, longest }
    }

    /// It worked: the next failure is a first one.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Sets the longest wait.
    pub const fn limit(&mut self, longest: Duration) {
        self.longest = longest;
    }

    /// The wait after one more failure; `random` is drawn for this call.
    pub fn next(&mut self, random: u32) -> Duration {
        let ceiling = FIRST.saturating_mul(1_u32.checked_shl(self.failures.min(20)).unwrap_or(u32::MAX)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let share = u64::from(random).saturating_mul(ceiling.as_millis() as u64) >> 32;
        Duration::from_millis(share).max(SHORTEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_tries_are_fast_and_the_later_ones_bounded() {
        let mut backoff = Backoff::new(LONGEST);
        let longest: Vec<u64> = (0..14).map(|_| backoff.next(u32::MAX).as_millis() as u64).collect();
        assert_eq!(longest[..5], [199, 399, 799, 1_599, 3_199]);
        assert!(longest[12..].iter().all(|ms| *ms >= 299_000 && *ms <= 300_000));
        backoff.reset();
        backoff.limit(LONGEST_BUSY);
        let busy: Vec<Duration> = (0..40).map(|_| backoff.next(u32::MAX)).collect();
        assert!(busy.iter().all(|d| *d <= LONGEST_BUSY) && busy[0] < Duration::from_millis(200));
    }

    #[test]
    fn the_wait_follows_the_draw() {
        let at = |random| Backoff { failures: 9, longest: LONGEST }.next(random);
        assert_eq!(at(0), SHORTEST);
        assert!(at(1 << 30) < at(1 << 31) && at(1 << 31) < at(u32::MAX));
    }
}
