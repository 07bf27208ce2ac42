//! A tiny child process that lets a frozen control group run again, whatever becomes of its parent.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};

/// The child. Dropping it without [`Watchdog::dismiss`] makes it thaw at once: the pipe closes, as it does when the parent dies.
#[derive(Debug)]
pub struct Watchdog {
    pid: libc::pid_t,
    /// Closed by the kernel when this process ends, however it ends.
    pipe: Option<OwnedFd>,
}

/// Starts the child. It writes `0` to `freeze` (an open `cgroup.freeze`) when `deadline_ms` have passed or when this
/// process is gone, whichever is first, and ends. It ignores the signals with which programs are asked to end.
///
/// It is started *before* the group is frozen, so that there is no moment without it. What it cannot survive is a SIGKILL
/// of its own (whoever kills every process of the agent's control group, for example).
///
/// # Errors
/// What the kernel answers to `pipe` or `fork`.
pub fn start(freeze: BorrowedFd<'_>, deadline_ms: i32) -> io::Result<Watchdog> {
    let mut ends = [0; 2];
    // SAFETY: the pointer is to a live, exclusively borrowed array of two integers, which the call fills and does not keep.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let [reader, writer] = ends;
    // SAFETY: both descriptors were just made by the kernel and belong to nobody else.
    let reader = unsafe { OwnedFd::from_raw_fd(reader) };
    // SAFETY: as above.
    let writer = unsafe { OwnedFd::from_raw_fd(writer) };
    let (reader_fd, writer_fd, freeze_fd) = (reader.as_raw_fd(), writer.as_raw_fd(), freeze.as_raw_fd());
    // SAFETY: the child calls only async-signal-safe functions and ends by `_exit`: it takes no lock, allocates nothing and
    // runs no destructor, so other threads of this process cannot have left anything in its way.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => watch(reader_fd, writer_fd, freeze_fd, deadline_ms),
        p if p < 0 => Err(io::Error::last_os_error()),
        pid => Ok(Watchdog { pid, pipe: Some(writer) }),
    }
}

/// The child's life.
fn watch(reader: libc::c_int, writer: libc::c_int, freeze: libc::c_int, deadline_ms: i32) -> ! {
    const UNUSED: libc::c_int = 3;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: `setsid` takes nothing; signals of a terminal no longer arrive.
    unsafe { libc::setsid() };
    // SAFETY: the name is a C string that lives for ever.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"exhibit-thaw".as_ptr()) };
    // The parent's end of the pipe first, or the pipe would never close; then everything else of the parent (before Linux 5.9
    // that stays open, which does no harm). The two that are needed are moved out of the way of each other.
    // SAFETY: descriptors are integers.
    unsafe { libc::close(writer) };
    // SAFETY: descriptors are integers; a failure leaves nothing worse than an early thaw.
    let high_reader = unsafe { libc::fcntl(reader, libc::F_DUPFD, 64) };
    // SAFETY: as above.
    let high_freeze = unsafe { libc::fcntl(freeze, libc::F_DUPFD, 64) };
    // SAFETY: as above.
    unsafe { libc::dup2(high_reader, 0) };
    // SAFETY: as above.
    unsafe { libc::dup2(high_freeze, 1) };
    // SAFETY: `close_range` takes three integers. 2 (standard error) is closed too.
    unsafe { libc::syscall(libc::SYS_close_range, UNUSED.saturating_sub(1), libc::c_uint::MAX, 0) };
    let mut wait = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // SAFETY: the pointer is to one live `pollfd`. No handler is installed, so nothing interrupts but a stop of this child,
    // after which an early thaw is the safe side.
    unsafe { libc::poll(&raw mut wait, 1, deadline_ms) };
    let mut word = 0_u8;
    // A byte means that the parent has thawed the group itself; the end of the file that it is gone.
    // SAFETY: the pointer is to one live byte. Not reached with an open, empty pipe but after the deadline.
    let told = wait.revents & libc::POLLIN != 0 && unsafe { libc::read(0, (&raw mut word).cast(), 1) } == 1;
    if !told {
        // SAFETY: the pointer is to one static byte.
        unsafe { libc::write(1, b"0".as_ptr().cast(), 1) };
    }
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}

impl Watchdog {
    /// The child's process id.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Tells the child that the group runs again, and waits for its end. Called after the thaw.
    pub fn dismiss(mut self) {
        if let Some(pipe) = &self.pipe {
            // SAFETY: the pointer is to one static byte, the descriptor is owned. If the child is gone already (its deadline
            // passed) this fails, which changes nothing: Rust programs ignore SIGPIPE.
            unsafe { libc::write(pipe.as_raw_fd(), b"k".as_ptr().cast(), 1) };
        }
        self.end();
    }

    fn end(&mut self) {
        if self.pipe.take().is_some() {
            let mut status = 0;
            // SAFETY: the pointer is to a live integer; the child is this process's own, nobody else waits for it, and it ends
            // at once: its pipe is closed.
            unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::os::fd::AsFd as _;

    use super::*;

    fn file() -> std::fs::File {
        let path = std::env::temp_dir().join(format!("watchdog-{}-{:?}", std::process::id(), std::thread::current().id()));
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("file");
        std::fs::remove_file(path).expect("removed");
        file
    }

    fn text(mut file: &std::fs::File) -> String {
        let mut text = String::new();
        file.rewind().expect("rewound");
        file.read_to_string(&mut text).expect("read");
        text
    }

    #[test]
    fn it_thaws_when_its_parent_lets_go() {
        let file = file();
        drop(start(file.as_fd(), 60_000).expect("started"));
        assert_eq!(text(&file), "0");
    }

    #[test]
    fn it_thaws_at_the_deadline() {
        let file = file();
        let dog = start(file.as_fd(), 50).expect("started");
        while text(&file).is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(text(&file), "0");
        dog.dismiss();
    }

    #[test]
    fn it_does_nothing_once_dismissed() {
        let file = file();
        start(file.as_fd(), 60_000).expect("started").dismiss();
        assert_eq!(text(&file), "");
    }
}
