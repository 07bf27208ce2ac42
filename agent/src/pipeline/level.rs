//! The compression level follows what the stream waits for: where segments wait for the line, the processor has time for a
//! better ratio; where the line and the source wait for compression, less of it brings the evidence out of the host sooner.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

/// Compression is what everything waits for. Two thirds of the processor time of [`FAST`], for 5 to 10 percent more to send.
const LIGHT: i32 = -1;
/// Nothing waits for compression: the source is slower than it. Gives nine tenths of what any level gives.
const FAST: i32 = 1;
/// The line is what everything waits for. Half as fast as [`FAST`] for 5 to 15 percent less to send; what is above it needs
/// more memory than it is worth.
const SMALL: i32 = 3;

/// The level that all lanes use.
#[derive(Debug)]
pub(super) struct Level {
    now: AtomicI32,
    /// Frames of this segment that a lane took at once.
    taken: AtomicU32,
    /// Frames of this segment that found no lane free. All of them where there is none: on one processor reading waits for
    /// every frame.
    crowded: AtomicU32,
}

impl Level {
    pub const fn new() -> Self {
        Self { now: AtomicI32::new(FAST), taken: AtomicU32::new(0), crowded: AtomicU32::new(0) }
    }

    /// The zstd level for the next frame.
    pub fn now(&self) -> i32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Hears of a frame that a lane took.
    pub fn taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Hears of a frame for which no lane was free.
    pub fn crowded(&self) {
        self.crowded.fetch_add(1, Ordering::Relaxed);
    }

    /// Hears how long the making of a segment took, and how long of that the window was full.
    pub fn hear(&self, took: Duration, waited: Duration) {
        let crowded = self.crowded.swap(0, Ordering::Relaxed);
        let frames = self.taken.swap(0, Ordering::Relaxed).saturating_add(crowded);
        // Between two marks it stays: a level that changes with every segment gains nothing.
        if waited.saturating_mul(2) > took {
            self.now.store(SMALL, Ordering::Relaxed);
        } else if waited.saturating_mul(8) < took {
            if crowded.saturating_mul(4) > frames {
                self.now.store(LIGHT, Ordering::Relaxed);
            } else if crowded == 0 || self.now() == SMALL {
                self.now.store(FAST, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(level: &Level, took: u64, waited: u64, crowded: u32) -> i32 {
        (0..crowded).for_each(|_| level.crowded());
        (crowded..10).for_each(|_| level.taken());
        level.hear(Duration::from_millis(took), Duration::from_millis(waited));
        level.now()
    }

    #[test]
    fn a_slow_line_gets_the_better_ratio() {
        let level = Level::new();
        let heard = [(100, 0), (100, 40), (100, 60), (100, 40), (100, 5)].map(|(took, waited)| hear(&level, took, waited, 0));
        assert_eq!(heard, [FAST, FAST, SMALL, SMALL, FAST]);
    }

    #[test]
    fn a_busy_processor_compresses_less() {
        let level = Level::new();
        let heard =
            [(0, 2), (0, 3), (0, 1), (60, 9), (40, 9), (0, 2), (0, 3), (0, 0)].map(|(waited, crowded)| hear(&level, 100, waited, crowded));
        assert_eq!(heard, [FAST, LIGHT, LIGHT, SMALL, SMALL, FAST, LIGHT, FAST]);
    }
}
