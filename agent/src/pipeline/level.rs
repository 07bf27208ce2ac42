//! The compression level follows the line: where segments wait to be sent, the processor has time for a better ratio;
//! where nothing waits, compression is what everything waits for.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// Measured on two cores: at level 1 compression is not slower than what feeds it, and gives nine tenths of what any level
/// gives. Level 3 is half as fast for 5 to 15 percent less to send; what is above it needs more memory than it is worth.
const FAST: i32 = 1;
const SMALL: i32 = 3;

/// The level that all lanes use.
#[derive(Debug)]
pub(super) struct Level(AtomicI32);

impl Level {
    pub const fn new() -> Self {
        Self(AtomicI32::new(FAST))
    }

    /// The zstd level for the next frame.
    pub fn now(&self) -> i32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Hears how long the making of a segment took, and how long of that the window was full.
    pub fn hear(&self, took: Duration, waited: Duration) {
        // Between the two marks it stays: a level that changes with every segment gains nothing.
        if waited.saturating_mul(2) > took {
            self.0.store(SMALL, Ordering::Relaxed);
        } else if waited.saturating_mul(8) < took {
            self.0.store(FAST, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_line_gets_the_better_ratio() {
        let level = Level::new();
        let hear = |took, waited| {
            level.hear(Duration::from_millis(took), Duration::from_millis(waited));
            level.now()
        };
        assert_eq!([hear(100, 0), hear(100, 40), hear(100, 60), hear(100, 40), hear(100, 5)], [FAST, FAST, SMALL, SMALL, FAST]);
    }
}
