//! Child processes of the agent that outlive it for a moment: they let something run again whatever becomes of the agent.
//!
//! Such a child is a fork without an exec: it uses memory that is there already and opens nothing. It leaves the agent's
//! session, closes everything of the agent's but what it is given, and blocks all signals, so that only `SIGKILL` sent to
//! itself can end it early.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// A child that was started and not yet waited for.
#[derive(Debug)]
pub(crate) struct Child(libc::pid_t);

/// Starts a child that does `work` with those descriptors, by the numbers that it is handed, and ends. `work` makes only
/// system calls: no allocation, no lock, no panic.
///
/// # Errors
/// What the kernel answers to `fork`.
pub(crate) fn start<const N: usize>(fds: [RawFd; N], work: impl FnOnce([RawFd; N])) -> io::Result<Child> {
    // SAFETY: the child calls only functions that are safe after a fork of a process with threads: it takes no lock, allocates
    // nothing, runs no destructor, and ends by `_exit`, so other threads cannot have left anything in its way.
    match unsafe { libc::fork() } {
        0 => {
            let kept = keep_only(fds);
            alone();
            work(kept);
            // SAFETY: ends this process at once, without handlers of the agent's.
            unsafe { libc::_exit(0) }
        }
        pid if pid < 0 => Err(io::Error::last_os_error()),
        pid => Ok(Child(pid)),
    }
}

impl Child {
    /// Its process id.
    pub(crate) const fn pid(&self) -> i32 {
        self.0
    }

    /// Waits for its end. Called once, when it has been told to end.
    pub(crate) fn reap(&self) {
        let mut status = 0;
        // SAFETY: the pointer is to a live variable; the child is ours and nobody else waits for it.
        let _ = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
    }
}

/// The reading and the writing end of a pipe that no program started by the agent inherits.
///
/// # Errors
/// What the kernel answers: no descriptors left.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: the call fills an array of two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let [read, write] = fds;
    // SAFETY: the descriptor is fresh and nobody else's.
    let read = unsafe { OwnedFd::from_raw_fd(read) };
    // SAFETY: as above.
    let write = unsafe { OwnedFd::from_raw_fd(write) };
    Ok((read, write))
}

/// True when there is something to read, or the other end is closed, within so many milliseconds.
pub(crate) fn is_readable(fd: RawFd, most_ms: libc::c_int) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one live entry, and the call is told that it is one.
    unsafe { libc::poll(&raw mut poll, 1, most_ms) > 0 }
}

/// Waits until there is something to read, or the other end is closed: true. False when so many milliseconds have passed
/// before; time in which the host sleeps counts.
pub(crate) fn wait(fd: RawFd, most_ms: i64) -> bool {
    const SLICE_MS: libc::c_int = 60_000;
    let end = now_ms().saturating_add(most_ms);
    loop {
        let left = end.saturating_sub(now_ms());
        if left <= 0 {
            return false;
        }
        if is_readable(fd, libc::c_int::try_from(left).unwrap_or(SLICE_MS).min(SLICE_MS)) {
            return true;
        }
    }
}

/// Leaves the agent's session and hears no signal but those that cannot be blocked.
fn alone() {
    // SAFETY: takes nothing; fails only for the leader of a group, which a fresh child is not.
    let _ = unsafe { libc::setsid() };
    // SAFETY: a set of signals is plain integers, for which zeros are valid.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: fills a live set.
    let _ = unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: reads a live set and is not asked for the old one.
    let _ = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut()) };
    // SAFETY: names this process with a text that ends in zero.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, c"exhibit-thaw".as_ptr()) };
}

/// Moves the descriptors to 0, 1, 2 ... and closes all others, the agent's connections and the ends of other pipes among
/// them: a pipe's end that stays open in a sibling would keep its closing unheard.
fn keep_only<const N: usize>(fds: [RawFd; N]) -> [RawFd; N] {
    // Out of the way first, so that none is overwritten.
    // SAFETY: `fcntl` with this command takes two integers; a failure leaves -1.
    let moved = fds.map(|fd| unsafe { libc::fcntl(fd, libc::F_DUPFD, 64) });
    let mut next: RawFd = 0;
    let kept = moved.map(|fd| {
        let to = next;
        next = next.saturating_add(1);
        // SAFETY: takes two integers.
        if unsafe { libc::dup2(fd, to) } < 0 {
            // Nothing there is better than something else of the agent's: every call on it fails.
            // SAFETY: takes an integer.
            let _ = unsafe { libc::close(to) };
        }
        to
    });
    // SAFETY: takes three integers.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, next, libc::c_uint::MAX, 0) };
    if closed != 0 {
        // Before Linux 5.9. An agent has far fewer open, and raises its limit no further than this.
        for fd in next..65_536 {
            // SAFETY: takes an integer.
            let _ = unsafe { libc::close(fd) };
        }
    }
    kept
}

/// Milliseconds since the host started, time asleep included.
pub(crate) fn now_ms() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills a live structure.
    let _ = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000)
}
