//! Freezing a file system for a short time (`FIFREEZE`), so that nobody, not even a killed agent, can leave it frozen.
//!
//! A frozen file system makes every writer on the host wait. Therefore not the agent freezes and thaws but a child process
//! of it that does nothing else: it thaws when it is told to, when its time is up, and when the agent is gone, whichever comes
//! first. It is a fork without an exec: it uses memory that is there already and opens nothing. It leaves the agent's
//! session and blocks all signals, so that only `SIGKILL` sent to itself can end it early; then the agent thaws.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;

/// How long the agent waits for a thaw that it asked for.
const THAW_WAIT: Duration = Duration::from_secs(10);

/// What ended a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was thawed when the agent asked for it.
    Asked,
    /// Its time was up before.
    TimeUp,
    /// The child was killed; the agent itself thawed.
    ChildLost,
}

/// A file system that is frozen, at most until its time is up. Dropping it thaws.
#[derive(Debug)]
pub struct Frozen {
    child: libc::pid_t,
    /// Closing it is how the child is told to thaw; a dead agent has closed it.
    life: Option<OwnedFd>,
    report: OwnedFd,
    mount: OwnedFd,
}

/// Freezes the file system that `folder` lies on, for at most `most`. What is dirty is written out first, by the kernel: this
/// is the one thing a freeze does to a disk, and it waits for that at most as long again.
///
/// # Errors
/// What the kernel answers: `EBUSY` when it is frozen already, `EOPNOTSUPP` when this kind cannot be, `EPERM` without
/// CAP_SYS_ADMIN; `ETIMEDOUT` when writing out took longer than `most`.
pub fn freeze(folder: BorrowedFd<'_>, most: Duration) -> io::Result<Frozen> {
    let mount = folder.try_clone_to_owned()?;
    let (life_read, life_write) = pipe()?;
    let (report_read, report_write) = pipe()?;
    let fds = [mount.as_raw_fd(), life_read.as_raw_fd(), report_write.as_raw_fd()];
    // SAFETY: the child calls only functions that are safe after a fork of a process with threads, and never returns.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        watchdog(fds, i64::try_from(most.as_millis()).unwrap_or(i64::MAX));
    }
    drop((life_read, report_write));
    let mut frozen = Frozen { child, life: Some(life_write), report: report_read, mount };
    match frozen.hear(most) {
        Heard::Says(0) => Ok(frozen),
        Heard::Says(errno) => {
            frozen.reap();
            frozen.life = None;
            Err(io::Error::from_raw_os_error(errno))
        }
        // Still writing out. The child thaws as soon as it is frozen.
        Heard::Nothing => {
            frozen.life = None;
            Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
        }
        Heard::Gone => {
            frozen.reap();
            let _ = ask(frozen.mount.as_raw_fd(), FITHAW);
            frozen.life = None;
            Err(io::Error::other("the process that was to freeze was killed"))
        }
    }
}

enum Heard {
    Says(i32),
    Nothing,
    Gone,
}

impl Frozen {
    /// True as soon as the file system is no longer frozen by this. Asks without waiting.
    #[must_use]
    pub fn is_over(&self) -> bool {
        is_readable(self.report.as_raw_fd(), 0)
    }

    /// Thaws and says what ended the freeze.
    ///
    /// # Errors
    /// When the kernel refused to thaw; the text names the command with which an administrator can.
    pub fn thaw(mut self) -> io::Result<Ended> {
        self.end()
    }

    fn end(&mut self) -> io::Result<Ended> {
        let over = self.is_over();
        self.life = None;
        match self.hear(THAW_WAIT) {
            Heard::Says(0) => {
                self.reap();
                Ok(if over { Ended::TimeUp } else { Ended::Asked })
            }
            Heard::Says(errno) => {
                self.reap();
                // Somebody else thawed it: it is what was asked for.
                if errno == libc::EINVAL { Ok(Ended::TimeUp) } else { Err(still_frozen(&io::Error::from_raw_os_error(errno))) }
            }
            Heard::Gone => {
                self.reap();
                ask(self.mount.as_raw_fd(), FITHAW).map_err(|e| still_frozen(&e))?;
                Ok(Ended::ChildLost)
            }
            Heard::Nothing => Err(still_frozen(&io::Error::from_raw_os_error(libc::ETIMEDOUT))),
        }
    }

    /// The child's next word: an error number, 0 for none.
    fn hear(&self, most: Duration) -> Heard {
        if !is_readable(self.report.as_raw_fd(), libc::c_int::try_from(most.as_millis()).unwrap_or(libc::c_int::MAX)) {
            return Heard::Nothing;
        }
        let mut word = [0_u8; 4];
        // SAFETY: the buffer is live and as long as the call is told.
        let got = unsafe { libc::read(self.report.as_raw_fd(), word.as_mut_ptr().cast(), word.len()) };
        if got == 4 { Heard::Says(i32::from_ne_bytes(word)) } else { Heard::Gone }
    }

    fn reap(&self) {
        let mut status = 0;
        // SAFETY: the pointer is to a live variable; the child is ours and is waited for once.
        let _ = unsafe { libc::waitpid(self.child, &raw mut status, 0) };
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if self.life.is_some() {
            let _ = self.end();
        }
    }
}

fn still_frozen(e: &io::Error) -> io::Error {
    io::Error::other(format!("thawing failed ({e}); an administrator thaws it with fsfreeze --unfreeze"))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
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
fn is_readable(fd: RawFd, most_ms: libc::c_int) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one live entry, and the call is told that it is one.
    unsafe { libc::poll(&raw mut poll, 1, most_ms) > 0 }
}

fn ask(fd: RawFd, request: libc::Ioctl) -> io::Result<()> {
    // SAFETY: both requests take an argument that the kernel does not look at.
    let result = unsafe { libc::ioctl(fd, request, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The child. Only system calls from here on: no allocation, no lock, no panic.
fn watchdog(fds: [RawFd; 3], most_ms: i64) -> ! {
    let [mount, life, report] = keep_only(fds);
    alone();
    let frozen = ask(mount, FIFREEZE);
    let began = now_ms();
    say(report, &frozen);
    if frozen.is_ok() {
        loop {
            let left = began.saturating_add(most_ms).saturating_sub(now_ms());
            if left <= 0 || is_readable(life, libc::c_int::try_from(left.min(60_000)).unwrap_or(1_000)) {
                break;
            }
        }
        say(report, &ask(mount, FITHAW));
    }
    // SAFETY: ends this process at once, without handlers of the agent's.
    unsafe { libc::_exit(0) }
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

/// Moves three descriptors to 3, 4 and 5 and closes all others, the agent's connections and the ends of other pipes among
/// them: a pipe's end that stays open in a sibling would keep its closing unheard.
fn keep_only(fds: [RawFd; 3]) -> [RawFd; 3] {
    const FIRST: RawFd = 3;
    const ABOVE: libc::c_uint = 6;
    // Out of the way first, so that none is overwritten.
    // SAFETY: `fcntl` with this command takes two integers; here and below a failure leaves -1, on which every call fails.
    let moved = fds.map(|fd| unsafe { libc::fcntl(fd, libc::F_DUPFD, 64) });
    for (fd, to) in moved.into_iter().zip(FIRST..) {
        // SAFETY: takes two integers.
        let _ = unsafe { libc::dup2(fd, to) };
    }
    // SAFETY: takes three integers.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, ABOVE, libc::c_uint::MAX, 0) };
    if closed != 0 {
        // Before Linux 5.9. An agent has far fewer open.
        for fd in 6..4_096 {
            // SAFETY: takes an integer.
            let _ = unsafe { libc::close(fd) };
        }
    }
    [FIRST, FIRST.saturating_add(1), FIRST.saturating_add(2)]
}

fn say(report: RawFd, result: &io::Result<()>) {
    let word = result.as_ref().err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO)).to_ne_bytes();
    // SAFETY: the buffer is live and as long as the call is told. A pipe takes four bytes at once or not at all; nobody may be
    // left to read them (SIGPIPE is blocked).
    let _ = unsafe { libc::write(report, word.as_ptr().cast(), word.len()) };
}

/// Milliseconds since the host started, time asleep included.
fn now_ms() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills a live structure.
    let _ = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_cannot_be_frozen_says_so_and_leaves_no_child() {
        // /proc is never frozen, whoever asks.
        let proc = std::fs::File::open("/proc").expect("open");
        let error = freeze(proc.as_fd(), Duration::from_secs(5)).expect_err("not a file system with a disk");
        assert!(matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM)), "{error}");
        // SAFETY: takes integers and a null pointer.
        let left = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
        assert!(left < 0, "no child is left behind");
    }
}
