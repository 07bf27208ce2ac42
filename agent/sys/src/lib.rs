//! The agent's raw kernel interfaces: the only crate of this project that may hold unsafe code.
//!
//! Whatever `rustix` offers safely is called there; what remains here are the few calls that it does not have.
#![deny(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod allocator;
pub mod block;
mod child;
pub mod freeze;
pub mod memory;
pub mod page_cache;
pub mod priority;
pub mod ptrace;
pub mod socket;
pub mod watchdog;

use std::io;

/// The kernel's clock discipline, as `adjtimex(2)` reports it with no mode bit set (a pure read).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockState {
    /// Return value: 0 TIME_OK, 1 TIME_INS, 2 TIME_DEL, 3 TIME_OOP, 4 TIME_WAIT, 5 TIME_ERROR (not synchronised).
    pub state: i32,
    /// Status bits `STA_*`; 0x40 is STA_UNSYNC, 0x2000 STA_NANO.
    pub status: i32,
    /// Offset from the reference, nanoseconds if STA_NANO is set, else microseconds.
    pub offset: i64,
    /// Frequency offset, parts per million scaled by 65,536.
    pub frequency: i64,
    /// Maximum error in microseconds.
    pub max_error_us: i64,
    /// Estimated error in microseconds.
    pub estimated_error_us: i64,
    /// PLL time constant.
    pub constant: i64,
    /// Microseconds between clock ticks.
    pub tick_us: i64,
    /// TAI minus UTC in seconds; 0 when nobody told the kernel.
    pub tai_s: i32,
}

/// Reads the state of the clock discipline. Changes nothing and needs no privilege.
///
/// # Errors
/// What the kernel answers, for example `EPERM` under a seccomp filter.
pub fn clock_state() -> io::Result<ClockState> {
    // SAFETY: `timex` holds only integers (and padding), for which all zeros is a valid value; `modes` = 0 asks for a read.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, exclusively borrowed `timex`, which the call fills and does not keep.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ClockState {
        state,
        status: timex.status,
        offset: timex.offset as _,
        frequency: timex.freq as _,
        max_error_us: timex.maxerror as _,
        estimated_error_us: timex.esterror as _,
        constant: timex.constant as _,
        tick_us: timex.tick as _,
        tai_s: timex.tai,
    })
}

/// Copies what the kernel's log buffer holds (`SYSLOG_ACTION_READ_ALL`), newest last, without clearing it.
/// At most `bytes_max` bytes: the kernel then gives the newest.
///
/// # Errors
/// What the kernel answers; `EPERM` without CAP_SYSLOG where `kernel.dmesg_restrict` is set.
pub fn kernel_log(bytes_max: usize) -> io::Result<Vec<u8>> {
    const READ_ALL: libc::c_int = 3;
    let len = libc::c_int::try_from(bytes_max).unwrap_or(libc::c_int::MAX);
    let mut buffer = vec![0_u8; len as usize];
    // SAFETY: the buffer is live, exclusively borrowed and `len` bytes long; the call writes at most `len` bytes into it.
    let read = unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), len) };
    let Ok(read) = usize::try_from(read) else { return Err(io::Error::last_os_error()) };
    buffer.truncate(read);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_the_clock_state_tells_a_plausible_tick() {
        let state = clock_state().expect("adjtimex in read mode needs no privilege");
        // A tick is 1/USER_HZ = 10,000 us, and the kernel allows it to be steered by at most 10 %.
        assert!((9_000..=11_000).contains(&state.tick_us), "{state:?}");
        assert!((0..=5).contains(&state.state), "{state:?}");
    }

    #[test]
    fn the_kernel_log_is_bounded_or_refused() {
        match kernel_log(4096) {
            Ok(log) => assert!(log.len() <= 4096),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
