//! The coordinator's rim: the only place that reads a clock or draws randomness. Everything else is handed a [`Clock`].
#![allow(clippy::disallowed_methods, reason = "this is the rim: clock and randomness enter the program here and nowhere else")]

use std::sync::Arc;

use exhibit_evidence::Timestamp;

/// Time and randomness, as one object that a test can replace.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// The wall clock. Before 1970 and after 2262 it saturates.
    fn now(&self) -> Timestamp;

    /// Fills `out` from the operating system's generator.
    ///
    /// # Errors
    /// When the system has no randomness to give: nothing secret may be made then.
    fn fill(&self, out: &mut [u8]) -> std::io::Result<()>;
}

/// How the parts of the program hold a clock.
pub type SharedClock = Arc<dyn Clock>;

/// The real clock and the real generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let ns = match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
        };
        Timestamp::from_unix_ns(ns)
    }

    fn fill(&self, out: &mut [u8]) -> std::io::Result<()> {
        getrandom::fill(out).map_err(|e| std::io::Error::other(format!("no randomness from the operating system: {e}")))
    }
}

/// Ten random bytes for an identifier.
///
/// # Errors
/// As [`Clock::fill`].
pub fn id_random(clock: &dyn Clock) -> std::io::Result<[u8; 10]> {
    let mut out = [0; 10];
    clock.fill(&mut out)?;
    Ok(out)
}

/// A clock that stands still until it is moved, and a seeded generator: the same seed gives the same bytes.
#[cfg(any(test, feature = "test-support"))]
#[derive(Debug)]
pub struct SteeredClock {
    state: std::sync::Mutex<(i64, exhibit_evidence::Digest)>,
}

#[cfg(any(test, feature = "test-support"))]
impl SteeredClock {
    /// Begins at `now`.
    #[must_use]
    pub fn new(now: Timestamp, seed: u64) -> Self {
        Self { state: std::sync::Mutex::new((now.unix_ns(), exhibit_evidence::Digest::of(&seed.to_le_bytes()))) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: std::time::Duration) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.0 = state.0.saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX));
    }
}

#[cfg(any(test, feature = "test-support"))]
impl Clock for SteeredClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ns(self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0)
    }

    fn fill(&self, out: &mut [u8]) -> std::io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for chunk in out.chunks_mut(32) {
            state.1 = exhibit_evidence::Digest::of(state.1.as_bytes());
            chunk.copy_from_slice(&state.1.as_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steered_clock_moves_only_when_told_and_repeats_its_bytes() {
        let clock = SteeredClock::new(Timestamp::from_unix_s(1_000), 7);
        assert_eq!((clock.now(), clock.now()), (Timestamp::from_unix_s(1_000), Timestamp::from_unix_s(1_000)));
        clock.advance(std::time::Duration::from_secs(5));
        assert_eq!(clock.now(), Timestamp::from_unix_s(1_005));
        let again = SteeredClock::new(Timestamp::from_unix_s(0), 7);
        assert_eq!(id_random(&clock).expect("steered"), id_random(&again).expect("steered"));
        assert_ne!(id_random(&clock).expect("steered"), id_random(&SystemClock).expect("system"));
    }
}
