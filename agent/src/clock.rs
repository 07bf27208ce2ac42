//! The agent's rim: the only module that reads clocks and draws random numbers. Everything else is handed a [`Moment`].

use std::time::Duration;

use exhibit_evidence::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// The host's clocks at one moment: claims of the host, recorded as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Moment {
    /// Wall clock (CLOCK_REALTIME).
    pub wall: Timestamp,
    /// CLOCK_MONOTONIC_RAW, nanoseconds since boot; adjusted by nobody.
    pub mono_ns: u64,
}

fn nanoseconds(id: ClockId) -> i64 {
    let t = clock_gettime(id);
    // 2^63 ns are reached in the year 2262.
    t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec)
}

/// Reads the host's clocks.
#[must_use]
pub fn now() -> Moment {
    Moment { wall: wall(), mono_ns: monotonic().as_nanos() as u64 }
}

/// The wall clock.
#[must_use]
pub fn wall() -> Timestamp {
    let ns = nanoseconds(ClockId::Realtime);
    #[cfg(feature = "test-support")]
    let ns = ns.saturating_add(shift::get());
    Timestamp::from_unix_ns(ns)
}

/// A wall clock that tests set.
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

/// CLOCK_MONOTONIC_RAW since boot.
#[must_use]
pub fn monotonic() -> Duration {
    Duration::from_nanos(nanoseconds(ClockId::MonotonicRaw).unsigned_abs())
}

/// Processor time of this process so far, all threads.
#[must_use]
pub fn process_cpu() -> Duration {
    Duration::from_nanos(nanoseconds(ClockId::ProcessCPUTime).unsigned_abs())
}

/// 32 random bits for the jitter of waits: not secret. When the system has none, the monotonic clock's lowest bits serve.
#[must_use]
pub fn random_u32() -> u32 {
    random::<4>().map_or_else(|| monotonic().subsec_nanos().wrapping_mul(0x9e37_79b1), u32::from_le_bytes)
}

/// Random bytes; `None` when the system has none.
#[must_use]
pub fn random<const N: usize>() -> Option<[u8; N]> {
    let seed = exhibit_certs::random::seed().ok()?;
    seed.get(..N)?.try_into().ok()
}

/// So many random bytes for keys; `None` when the system has none.
#[must_use]
pub fn random_bytes(len: usize) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    exhibit_certs::random::bytes(len).ok()
}
