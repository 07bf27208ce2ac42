//! Freezing a file system for a short time (`FIFREEZE`), so that nobody, not even a killed agent, can leave it frozen.
//!
//! A frozen file system makes every writer on the host wait. Therefore not the agent freezes and thaws but a child process
//! of it that does nothing else: it thaws when it is told to, when its time is up, and when the agent is gone, whichever comes
//! first. It is a fork without an exec: it uses memory that is there already and opens nothing. It leaves the agent's
//! session and blocks all signals, so that only `SIGKILL` sent to itself can end it early; then the agent thaws.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Duration;

use crate::child::{self, Child, pipe};

const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;

/// How long the agent waits for a thaw that it asked for.
const THAW_WAIT: Duration = Duration::from_secs(10);
const STACK_BYTES: usize = 256 << 10;

/// What ended a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was thawed when the agent asked for it, or at once when it had begun too late.
    Asked,
    /// Its time was up before.
    TimeUp,
    /// The child was killed; the agent itself thawed.
    ChildLost,
}

/// Why a file system is not frozen.
#[derive(Debug)]
pub enum NotFrozen {
    /// Nothing was begun, or the kernel refused.
    Refused(io::Error),
    /// It was begun and is not finished, which nobody can take back.
    Unfinished(Unfinished),
}

/// A freeze that the kernel is still working on: it waits for whoever was writing, and all other writers wait for it. Nothing in
/// user space can end that. When it comes to its end the file system is thawed at once, by the child or, when that was
/// killed, by the thread that watches it.
#[derive(Debug)]
pub struct Unfinished {
    /// The process that the kernel holds; 0 when not even that is known.
    pub pid: i32,
    heard: Receiver<Heard>,
}

impl Unfinished {
    /// What ended it; `None` while it goes on. Asks without waiting.
    #[must_use]
    pub fn ended(&self) -> Option<io::Result<Ended>> {
        self.heard.try_iter().find_map(|heard| match heard {
            Heard::Over(how) => Some(how),
            _ => None,
        })
    }
}

/// A file system that is frozen, at most until its time is up. Dropping it thaws.
#[derive(Debug)]
pub struct Frozen {
    pid: i32,
    /// Closing it is how the child is told to thaw; a dead agent has closed it.
    life: Option<OwnedFd>,
    heard: Receiver<Heard>,
    over: Option<io::Result<Ended>>,
}

/// Called by the thread that watches a freeze when it is over: how, and how long the kernel took to freeze.
pub type Tell = Box<dyn FnOnce(&io::Result<Ended>, Duration) + Send>;

/// Freezes the file system that `folder` lies on, for at most `most`. What is dirty is written out first, by the kernel: this
/// is the one thing a freeze does to a disk. Waited for that is at most as long again; the kernel itself may take for ever
/// ([`Unfinished`]). `tell` hears how a freeze ended that had begun, whoever still waits for it then.
///
/// # Errors
/// [`NotFrozen`]: what the kernel answers (`EBUSY` when it is frozen already, `EOPNOTSUPP` when this kind cannot be, `EPERM`
/// without CAP_SYS_ADMIN), or that it is not finished after `most`.
pub fn freeze(folder: BorrowedFd<'_>, most: Duration, tell: Tell) -> Result<Frozen, NotFrozen> {
    freeze_by(folder, most, tell, Kernel { freeze: || ask(FOLDER, FIFREEZE), thaw: |fd| ask(fd, FITHAW) })
}

/// The two calls; a test has others.
#[derive(Clone, Copy)]
struct Kernel {
    /// Freezes what the child has as [`FOLDER`]. System calls only.
    freeze: fn() -> io::Result<()>,
    thaw: fn(RawFd) -> io::Result<()>,
}

/// The number under which the child has the folder.
const FOLDER: RawFd = 0;

fn freeze_by(folder: BorrowedFd<'_>, most: Duration, tell: Tell, kernel: Kernel) -> Result<Frozen, NotFrozen> {
    let begin = || {
        let mount = folder.try_clone_to_owned()?;
        let ((life_read, life), (report, report_write)) = (pipe()?, pipe()?);
        let (say, heard) = channel();
        let most_ms = i64::try_from(most.as_millis()).unwrap_or(i64::MAX);
        // Before the child, so that there is no freeze that nobody watches.
        let watch = move || {
            let fds = [mount.as_raw_fd(), life_read.as_raw_fd(), report_write.as_raw_fd()];
            let child = match child::start(fds, |fds| watchdog(fds, most_ms, kernel)) {
                Ok(child) => child,
                Err(e) => return drop(say.send(Heard::Refused(e))),
            };
            drop((life_read, report_write));
            let _ = say.send(Heard::Begun(child.pid()));
            Watch { child, report, mount, kernel }.run(&say, tell);
        };
        std::thread::Builder::new().name("freeze-watch".into()).stack_size(STACK_BYTES).spawn(watch)?;
        Ok::<_, io::Error>((life, heard))
    };
    let (life, heard) = begin().map_err(NotFrozen::Refused)?;
    let mut pid = 0;
    loop {
        match heard.recv_timeout(most) {
            Ok(Heard::Begun(its)) => pid = its,
            Ok(Heard::Frozen) => return Ok(Frozen { pid, life: Some(life), heard, over: None }),
            Ok(Heard::Refused(e)) => return Err(NotFrozen::Refused(e)),
            Ok(Heard::Over(how)) => {
                let killed = || io::Error::other("the process that was to freeze was killed");
                return Err(NotFrozen::Refused(how.err().unwrap_or_else(killed)));
            }
            // With `life` closed here the child thaws as soon as it has frozen.
            Err(RecvTimeoutError::Timeout) => return Err(NotFrozen::Unfinished(Unfinished { pid, heard })),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(NotFrozen::Refused(io::Error::other("the thread that watches the freeze has ended")));
            }
        }
    }
}

/// What the watching thread says.
#[derive(Debug)]
enum Heard {
    /// The child is there.
    Begun(i32),
    Frozen,
    /// Nothing was frozen.
    Refused(io::Error),
    Over(io::Result<Ended>),
}

/// The thread that watches one freeze: it may wait for ever, nobody else does. There is one for each freeze.
struct Watch {
    child: Child,
    report: OwnedFd,
    mount: OwnedFd,
    kernel: Kernel,
}

impl Watch {
    fn run(self, say: &Sender<Heard>, tell: Tell) {
        let begun = child::now_ms();
        let first = self.next_word();
        let took = Duration::from_millis(u64::try_from(child::now_ms().saturating_sub(begun)).unwrap_or(0));
        let last = match first {
            Some(0) => {
                let _ = say.send(Heard::Frozen);
                self.next_word()
            }
            Some(errno) => {
                self.child.reap();
                drop(self.mount);
                return drop(say.send(Heard::Refused(io::Error::from_raw_os_error(errno))));
            }
            None => None,
        };
        let ended = match last {
            // EINVAL: somebody else thawed it, which is what was asked for.
            Some(TIME_UP | libc::EINVAL) => Ok(Ended::TimeUp),
            Some(0) => Ok(Ended::Asked),
            Some(errno) => Err(still_frozen(&io::Error::from_raw_os_error(errno))),
            // It was killed. Its freeze may have come to its end all the same; the kernel says EINVAL where nothing is frozen.
            None => match (self.kernel.thaw)(self.mount.as_raw_fd()) {
                Err(e) if e.raw_os_error() != Some(libc::EINVAL) => Err(still_frozen(&e)),
                _ => Ok(Ended::ChildLost),
            },
        };
        // First nothing of it is left open: whoever hears of the end may unmount.
        self.child.reap();
        drop(self.mount);
        tell(&ended, took);
        let _ = say.send(Heard::Over(ended));
    }

    /// The child's next word, `None` when there is none any more. Waits for as long as it takes.
    fn next_word(&self) -> Option<i32> {
        let mut word = [0_u8; 4];
        loop {
            // SAFETY: the buffer is live and as long as the call is told.
            let got = unsafe { libc::read(self.report.as_raw_fd(), word.as_mut_ptr().cast(), word.len()) };
            if got < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return (got == 4).then(|| i32::from_ne_bytes(word));
        }
    }
}

impl Frozen {
    /// True as soon as the file system is no longer frozen by this. Asks without waiting.
    #[must_use]
    pub fn is_over(&mut self) -> bool {
        if self.over.is_none() {
            match self.heard.try_recv() {
                Ok(Heard::Over(how)) => self.over = Some(how),
                Err(TryRecvError::Disconnected) => self.over = Some(Err(io::Error::other("the thread that watched it has ended"))),
                _ => {}
            }
        }
        self.over.is_some()
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
        if over {
            return self.over.take().unwrap_or(Ok(Ended::TimeUp));
        }
        match self.heard.recv_timeout(THAW_WAIT) {
            Ok(Heard::Over(how)) => how,
            _ => Err(still_frozen(&io::Error::other(format!("process {} has not thawed it yet", self.pid)))),
        }
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

/// The child's word for "thawed, because the time was up": no error number.
const TIME_UP: i32 = -1;

/// The child. Only system calls from here on: no allocation, no lock, no panic.
fn watchdog([mount, life, report]: [RawFd; 3], most_ms: i64, kernel: Kernel) {
    let frozen = (kernel.freeze)();
    say(report, number(&frozen));
    if frozen.is_ok() {
        let told = child::wait(life, most_ms);
        let thawed = number(&(kernel.thaw)(mount));
        say(report, if thawed == 0 && !told { TIME_UP } else { thawed });
    }
}

fn number(result: &io::Result<()>) -> i32 {
    result.as_ref().err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO))
}

fn say(report: RawFd, word: i32) {
    let word = word.to_ne_bytes();
    // SAFETY: the buffer is live and as long as the call is told. A pipe takes four bytes at once or not at all; nobody may be
    // left to read them (SIGPIPE is blocked).
    let _ = unsafe { libc::write(report, word.as_ptr().cast(), word.len()) };
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(20);

    fn quiet() -> Tell {
        Box::new(|_, _| ())
    }

    #[test]
    fn what_cannot_be_frozen_says_so() {
        // /proc is never frozen, whoever asks.
        let proc = std::fs::File::open("/proc").expect("open");
        let Err(NotFrozen::Refused(error)) = freeze(proc.as_fd(), LONG, quiet()) else { panic!("not a file system with a disk") };
        assert!(matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM)), "{error}");
    }

    /// A freeze that waits for a writer for ever: until somebody writes a byte into the pipe that stands in for the folder.
    fn waits_for_a_writer() -> io::Result<()> {
        if child::wait(FOLDER, i64::MAX) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    /// Begins such a freeze; the way to end it, and what is told at its end.
    fn begin(thaw: fn(RawFd) -> io::Result<()>) -> (Unfinished, OwnedFd, Receiver<(io::Result<Ended>, Duration)>) {
        let (folder, writer) = pipe().expect("pipe");
        let (give, told) = channel();
        let tell: Tell = Box::new(move |how, took| {
            let how = how.as_ref().map(|e| *e).map_err(|e| io::Error::other(e.to_string()));
            give.send((how, took)).expect("heard");
        });
        let kernel = Kernel { freeze: waits_for_a_writer, thaw };
        let Err(NotFrozen::Unfinished(unfinished)) = freeze_by(folder.as_fd(), SHORT, tell, kernel) else { panic!("it waits") };
        assert!(unfinished.pid > 0 && unfinished.ended().is_none());
        (unfinished, writer, told)
    }

    #[test]
    fn a_freeze_that_comes_too_late_is_thawed_at_once() {
        let (unfinished, writer, told) = begin(|_| Ok(()));
        drop(writer);
        let (how, took) = told.recv_timeout(LONG).expect("told");
        assert_eq!((how.ok(), took >= SHORT), (Some(Ended::Asked), true));
        assert!(matches!(unfinished.heard.iter().last(), Some(Heard::Over(Ok(Ended::Asked)))));
    }

    #[test]
    fn a_freeze_whose_process_was_killed_is_thawed_by_who_watches_it() {
        static THAWED: AtomicBool = AtomicBool::new(false);
        let (unfinished, _writer, told) = begin(|_| {
            THAWED.store(true, Ordering::Release);
            Ok(())
        });
        // SAFETY: takes integers; the process is our child and was not waited for.
        assert_eq!(unsafe { libc::kill(unfinished.pid, libc::SIGKILL) }, 0);
        let (how, _) = told.recv_timeout(LONG).expect("told");
        assert_eq!((how.ok(), THAWED.load(Ordering::Acquire)), (Some(Ended::ChildLost), true));
    }
}
