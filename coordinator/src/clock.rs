//! The coordinator's rim: the only place that reads the wall clock or draws randomness. Everything else is handed
//! values, so that tests decide what time it is.
#![allow(clippy::disallowed_methods, reason = "this is the rim: clock and randomness enter the program here and nowhere else")]

use exhibit_evidence::Timestamp;

/// The wall clock. Before 1677 and after 2262 it stands at the end of the range.
#[must_use]
pub fn now() -> Timestamp {
    let ns = match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    };
    #[cfg(feature = "test-support")]
    let ns = ns.saturating_add(shift::get());
    Timestamp::from_unix_ns(ns)
}

/// A clock that tests set.
#[cfg(feature = "test-support")]
pub mod shift {
    use std::sync::atomic::{AtomicI64, Ordering};

    static SHIFT_NS: AtomicI64 = AtomicI64::new(0);

    /// From now on the wall clock of this process is so many seconds ahead of the machine's.
    pub fn set(seconds: i64) {
        SHIFT_NS.store(seconds.saturating_mul(1_000_000_000), Ordering::Relaxed);
    }

    pub(super) fn get() -> i64 {
        SHIFT_NS.load(Ordering::Relaxed)
    }
}

/// Bytes from the operating system's generator.
///
/// # Panics
/// When the system has no randomness to give: nothing secret may be made then, and nothing can go on without.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    getrandom::fill(&mut out).expect("the operating system gives random bytes");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_after_this_was_written_and_bytes_differ() {
        // 2025-01-01T00:00:00Z
        assert!(now() > Timestamp::from_unix_s(1_735_689_600));
        assert_ne!(random::<16>(), random::<16>());
    }
}
