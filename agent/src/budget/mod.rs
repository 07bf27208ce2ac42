//! Budgets: what a collection may use of its host. They hold by waiting, in waits that a cancel or a deadline ends at
//! once; nothing is ever dropped to stay inside one.

mod control;
mod rate;

pub use control::Control;
pub use rate::Rate;

use std::time::Duration;

use crate::capture::Stop;
use crate::clock;

/// The limits of one collection as they apply: the order's, narrowed by the host's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Percent of one processor, all threads together; none = no limit.
    pub cpu_percent: Option<u32>,
    /// Bytes per second read from files and devices; none = no limit.
    pub read_bytes_per_s: Option<u64>,
    /// Bytes per second sent; none = no limit.
    pub send_bytes_per_s: Option<u64>,
    /// Raw bytes taken in all.
    pub raw_bytes_max: u64,
    /// Seconds from acceptance until the collection ends as partial.
    pub deadline_s: u64,
}

impl Budget {
    /// No limit at all, for tests and for an operator who collects offline and gives none.
    pub const UNLIMITED: Self =
        Self { cpu_percent: None, read_bytes_per_s: None, send_bytes_per_s: None, raw_bytes_max: u64::MAX, deadline_s: u64::MAX };
}

/// Keeps the capture thread inside the processor and read budgets. The other threads of a collection only work on what
/// the capture thread hands them, so holding it back holds all of them.
#[derive(Debug)]
pub struct Pace {
    cpu: Option<(Rate, Duration)>,
    read: Option<Rate>,
    read_piece_bytes: usize,
}

/// Largest single read; also what is sent or read at once when there is no rate limit.
const PIECE_BYTES_MAX: usize = 256 << 10;
const PIECE_BYTES_MIN: usize = 4 << 10;

impl Pace {
    /// A pace that begins now.
    #[must_use]
    pub fn new(budget: &Budget) -> Self {
        let (now, cpu_now) = (clock::monotonic(), clock::process_cpu());
        // One percent of one processor is 10 ms of processor time per second, counted in nanoseconds.
        let cpu = budget.cpu_percent.map(|percent| (Rate::new(u64::from(percent.max(1)).saturating_mul(10_000_000), now), cpu_now));
        let read = budget.read_bytes_per_s.map(|per_s| Rate::new(per_s, now));
        Self { cpu, read, read_piece_bytes: piece_bytes(budget.read_bytes_per_s) }
    }

    /// Waits until the processor time used so far fits the budget.
    ///
    /// # Errors
    /// [`Stop`] when the collection was told to end.
    pub fn cpu(&mut self, control: &Control) -> Result<(), Stop> {
        control.check()?;
        let Some((rate, seen)) = &mut self.cpu else { return Ok(()) };
        let used = clock::process_cpu();
        let wait = rate.take(clock::monotonic(), used.saturating_sub(*seen).as_nanos() as u64);
        *seen = used;
        control.wait(wait)
    }

    /// How many bytes to read at once.
    #[must_use]
    pub const fn read_piece_bytes(&self) -> usize {
        self.read_piece_bytes
    }

    /// Waits until `bytes` may be read.
    ///
    /// # Errors
    /// [`Stop`] when the collection was told to end.
    pub fn read(&mut self, bytes: usize, control: &Control) -> Result<(), Stop> {
        let Some(rate) = &mut self.read else { return Ok(()) };
        control.wait(rate.take(clock::monotonic(), bytes as u64))
    }
}

/// Pieces of a tenth of a second of a rate, within bounds: a slow rate is then smooth instead of long pauses.
#[must_use]
pub fn piece_bytes(per_s: Option<u64>) -> usize {
    per_s.map_or(PIECE_BYTES_MAX, |r| usize::try_from(r / 10).unwrap_or(PIECE_BYTES_MAX).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX))
}

/// Lets the host's own work go before the calling thread's. Failure is harmless: the budgets hold without it.
pub fn step_back() {
    let _ = exhibit_agent_sys::priority::nice_thread(10);
    let _ = exhibit_agent_sys::priority::io_priority_idle();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_held_to_its_share() {
        let control = Control::new(None);
        let budget = Budget { cpu_percent: Some(20), ..Budget::UNLIMITED };
        let mut pace = Pace::new(&budget);
        let (wall, cpu) = (clock::monotonic(), clock::process_cpu());
        let mut hasher = exhibit_evidence::Hasher::new();
        while clock::monotonic().saturating_sub(wall) < Duration::from_millis(800) {
            hasher.update_zeros(1 << 20);
            pace.cpu(&control).expect("nobody stops it");
        }
        let share = clock::process_cpu().saturating_sub(cpu).as_secs_f64() / clock::monotonic().saturating_sub(wall).as_secs_f64();
        // 20 % plus the burst of 0.1 s x 20 % over 0.8 s; other tests of this process run in their own processes.
        assert!(share < 0.20 * 1.25 + 0.03, "used {share:.2} of a processor");
    }

    #[test]
    fn reads_are_held_to_their_rate_and_a_cancel_ends_the_wait() {
        let control = Control::new(None);
        let budget = Budget { read_bytes_per_s: Some(1 << 20), ..Budget::UNLIMITED };
        let mut pace = Pace::new(&budget);
        let begin = clock::monotonic();
        let mut bytes = 0_u64;
        while clock::monotonic().saturating_sub(begin) < Duration::from_millis(500) {
            pace.read(pace.read_piece_bytes(), &control).expect("nobody stops it");
            bytes += pace.read_piece_bytes() as u64;
        }
        let seconds = clock::monotonic().saturating_sub(begin).as_secs_f64();
        assert!((bytes as f64) < 1.25 * seconds * f64::from(1 << 20) + f64::from(128 << 10), "{bytes} bytes in {seconds} s");
        control.stop(Stop::Cancelled("test".into()));
        assert_eq!(pace.read(1 << 30, &control), Err(Stop::Cancelled("test".into())));
    }
}
