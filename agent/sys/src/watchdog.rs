//! A tiny child process that lets a frozen control group run again, whatever becomes of its parent.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use crate::child::{self, Child, pipe};

/// The child. Dropping it without [`Watchdog::dismiss`] makes it thaw at once: the pipe closes, as it does when the parent dies.
#[derive(Debug)]
pub struct Watchdog {
    child: Child,
    /// Closed by the kernel when this process ends, however it ends.
    pipe: Option<OwnedFd>,
}

/// Starts the child. It writes `0` to `freeze` (an open `cgroup.freeze`) when `deadline_ms` have passed or when this
/// process is gone, whichever is first, and ends.
///
/// It is started *before* the group is frozen, so that there is no moment without it. What it cannot survive is a SIGKILL
/// of its own (whoever kills every process of the agent's control group, for example).
///
/// # Errors
/// What the kernel answers to `pipe` or `fork`.
pub fn start(freeze: BorrowedFd<'_>, deadline_ms: i32) -> io::Result<Watchdog> {
    let (reader, writer) = pipe()?;
    let child = child::start([reader.as_raw_fd(), freeze.as_raw_fd()], |fds| watch(fds, deadline_ms.into()))?;
    Ok(Watchdog { child, pipe: Some(writer) })
}

/// The child's life. Only system calls: no allocation, no lock, no panic.
fn watch([parent, freeze]: [RawFd; 2], deadline_ms: i64) {
    let mut word = 0_u8;
    // A byte means that the parent has thawed the group itself; the end of the file that it is gone.
    // SAFETY: the pointer is to one live byte. Not reached with an open, empty pipe.
    let told = child::wait(parent, deadline_ms) && unsafe { libc::read(parent, (&raw mut word).cast(), 1) } == 1;
    if !told {
        // SAFETY: the pointer is to one static byte.
        unsafe { libc::write(freeze, b"0".as_ptr().cast(), 1) };
    }
}

impl Watchdog {
    /// The child's process id.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.child.pid()
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
            self.child.reap();
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
