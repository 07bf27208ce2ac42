//! A token bucket as arithmetic over moments that are passed in.

use std::time::Duration;

/// Units per second with a burst of a tenth of a second. Over any span the units taken are at most
/// `rate x (span + 0.1 s)` plus the one request that is being waited for.
#[derive(Debug, Clone)]
pub struct Rate {
    per_s: u64,
    /// The moment up to which units are spoken for.
    paid: Duration,
}

const BURST: Duration = Duration::from_millis(100);
const NANOS: u128 = 1_000_000_000;

impl Rate {
    /// A full bucket. A rate of zero is taken as one unit per second.
    #[must_use]
    pub const fn new(per_s: u64, now: Duration) -> Self {
        Self { per_s: if per_s == 0 { 1 } else { per_s }, paid: now }
    }

    /// Takes units and says how long to wait before using them.
    #[must_use]
    pub fn take(&mut self, now: Duration, units: u64) -> Duration {
        let ns = u128::from(units).saturating_mul(NANOS).checked_div(u128::from(self.per_s)).unwrap_or(u128::MAX);
        let cost = Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX));
        self.paid = self.paid.max(now.saturating_sub(BURST)).saturating_add(cost);
        self.paid.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Whoever waits as told never goes above the rate, whatever the requests and pauses are.
        #[test]
        fn the_rate_holds(per_s in 1_u64..10_000_000_000, steps in proptest::collection::vec((0_u64..1 << 21, 0_u64..300), 1..60)) {
            let start = Duration::from_secs(1000);
            let mut rate = Rate::new(per_s, start);
            let (mut now, mut taken) = (start, 0_u128);
            for (units, pause_ms) in steps {
                now += Duration::from_millis(pause_ms);
                now = now.saturating_add(rate.take(now, units));
                taken += u128::from(units);
                let span = (now.saturating_sub(start) + BURST).as_nanos();
                // One unit of rounding per step.
                proptest::prop_assert!(taken * NANOS <= (span + 60) * u128::from(per_s) + 60 * NANOS, "{} units until {:?}", taken, now);
            }
        }
    }

    #[test]
    fn a_pause_earns_no_more_than_the_burst() {
        let mut rate = Rate::new(1000, Duration::ZERO);
        let later = Duration::from_mins(1);
        assert_eq!(rate.take(later, 100), Duration::ZERO);
        assert_eq!(rate.take(later, 1000), Duration::from_secs(1));
    }
}
