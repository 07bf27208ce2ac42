//! Freezing a file system for a short time (`FIFREEZE`), so that nobody, not even a killed agent, can leave it frozen.
//!
//! A frozen file system makes every writer on the host wait. Therefore not the agent freezes and thaws but a child process
//! of it that does nothing else: it thaws when it is told to, when its time is up, and when the agent is gone, whichever comes
//! first. It is a fork without an exec: it uses memory that is there already and opens nothing. It leaves the agent's
//! session and blocks all signals, so that only `SIGKILL` sent to itself can end it early; then the agent thaws.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::child::{self, Child, is_readable, pipe};

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
    child: Child,
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
    let most_ms = i64::try_from(most.as_millis()).unwrap_or(i64::MAX);
    let child = child::start(fds, |fds| watchdog(fds, most_ms))?;
    drop((life_read, report_write));
    let mut frozen = Frozen { child, life: Some(life_write), report: report_read, mount };
    match frozen.hear(most) {
        Heard::Says(0) => Ok(frozen),
        Heard::Says(errno) => {
            frozen.child.reap();
            frozen.life = None;
            Err(io::Error::from_raw_os_error(errno))
        }
        // Still writing out. The child thaws as soon as it is frozen.
        Heard::Nothing => {
            frozen.life = None;
            Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
        }
        Heard::Gone => {
            frozen.child.reap();
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
                self.child.reap();
                Ok(if over { Ended::TimeUp } else { Ended::Asked })
            }
            Heard::Says(errno) => {
                self.child.reap();
                // Somebody else thawed it: it is what was asked for.
                if errno == libc::EINVAL { Ok(Ended::TimeUp) } else { Err(still_frozen(&io::Error::from_raw_os_error(errno))) }
            }
            Heard::Gone => {
                self.child.reap();
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

fn ask(fd: RawFd, request: libc::Ioctl) -> io::Result<()> {
    // SAFETY: both requests take an argument that the kernel does not look at.
    let result = unsafe { libc::ioctl(fd, request, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The child. Only system calls from here on: no allocation, no lock, no panic.
fn watchdog([mount, life, report]: [RawFd; 3], most_ms: i64) {
    let frozen = ask(mount, FIFREEZE);
    say(report, &frozen);
    if frozen.is_ok() {
        child::wait(life, most_ms);
        say(report, &ask(mount, FITHAW));
    }
}

fn say(report: RawFd, result: &io::Result<()>) {
    let word = result.as_ref().err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO)).to_ne_bytes();
    // SAFETY: the buffer is live and as long as the call is told. A pipe takes four bytes at once or not at all; nobody may be
    // left to read them (SIGPIPE is blocked).
    let _ = unsafe { libc::write(report, word.as_ptr().cast(), word.len()) };
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
