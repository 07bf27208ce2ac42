//! Calls that may wait in the kernel for ever (a dead server, a path of a storage network that is gone, a mapping that is
//! suspended) run on threads of their own: who asks waits for so long and no longer. A thread that does not come back is left
//! behind with what it holds; nothing can end it but an answer of the kernel.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rustix::io::pread;

/// How long looking at a path may take. Tests with a server that never answers wait for less.
pub const LOOK: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 20 });
/// How long opening it may take: a drive that has to spin up first takes about ten seconds.
pub const OPEN: Duration = Duration::from_secs(20);
/// How long one read may take: a SCSI disk that fails is given up by the kernel after six times 30 s.
pub const READ: Duration = Duration::from_mins(5);

/// Most such threads at a time in this process, those that were left behind among them: 128 KiB of stack each, of those that read an
/// image 256 KiB.
const THREADS_MAX: u32 = 16;
const STACK_BYTES: usize = 128 << 10;

/// Threads that are there.
static THREADS: AtomicU32 = AtomicU32::new(0);

/// Counts a thread for as long as it runs.
pub struct Counted;

impl Counted {
    /// One thread more.
    ///
    /// # Errors
    /// When there are too many already.
    pub fn new() -> io::Result<Self> {
        let one_more = |n: u32| (n < THREADS_MAX).then(|| n.saturating_add(1));
        let counted = THREADS.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).map(|_| Self);
        counted.map_err(|_| io::Error::other(format!("{THREADS_MAX} earlier calls to disks of this host have not come back: not tried")))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The error of what did not come back.
pub fn stuck(what: &str, limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} did not come back within {} s: left behind", limit.as_secs()))
}

/// True for the error of a call that did not come back, false for the kernel's own word that something took too long.
pub fn is_stuck(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none()
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let counted = Counted::new()?;
    let run = move || {
        let _counted = counted;
        crate::budget::step_back();
        work();
    };
    std::thread::Builder::new().name("disk-reader".into()).stack_size(STACK_BYTES).spawn(run).map(drop)
}

/// Waits at most so long for what may never end. `what` says in the error what it was.
///
/// # Errors
/// Those of `work`; that it did not come back ([`is_stuck`]); that no thread was to be had.
pub fn within<T: Send + 'static>(limit: Duration, what: &str, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (give, answer) = sync_channel(1);
    spawn(move || drop(give.send(work())))?;
    match answer.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(stuck(what, limit)),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other(format!("{what} ended without an answer"))),
    }
}

/// A read that is asked for, with the memory that it goes to.
struct Ask {
    offset: u64,
    buffer: Vec<u8>,
    part: Range<usize>,
}

type Answer = (Vec<u8>, io::Result<usize>);

/// How a part of a buffer is filled.
type How = fn(BorrowedFd<'_>, u64, &mut [u8], Range<usize>) -> io::Result<usize>;

/// An open file that is read with patience.
pub struct Reads {
    file: Arc<OwnedFd>,
    worker: Option<(SyncSender<Ask>, Receiver<Answer>)>,
    limit: Duration,
    how: How,
}

impl Reads {
    /// Reads of a file, each of which may take so long.
    pub fn new(file: OwnedFd, limit: Duration) -> Self {
        Self { file: Arc::new(file), worker: None, limit, how: read }
    }

    /// Fills a part of a buffer from an offset, as `pread(2)`. The buffer stays where it is in memory; it is gone when the
    /// read does not come back, because the kernel may still write to it.
    ///
    /// # Errors
    /// What the kernel said, or that it did not come back ([`is_stuck`]).
    pub fn pread(&mut self, offset: u64, buffer: &mut Vec<u8>, part: Range<usize>) -> io::Result<usize> {
        let Some((ask, answer)) = self.worker.take().or_else(|| self.start().ok()) else {
            // No thread to be had (a limit of the host): read here and trust that it answers.
            return (self.how)(self.file.as_fd(), offset, buffer, part);
        };
        if let Err(unsent) = ask.send(Ask { offset, buffer: std::mem::take(buffer), part }) {
            *buffer = unsent.0.buffer;
            return Err(io::Error::other("the thread that reads has ended"));
        }
        match answer.recv_timeout(self.limit) {
            Ok((filled, result)) => {
                *buffer = filled;
                self.worker = Some((ask, answer));
                result
            }
            Err(RecvTimeoutError::Timeout) => Err(stuck(&format!("a read at byte {offset}"), self.limit)),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the thread that reads has ended")),
        }
    }

    /// The thread ends by itself when its channel closes: with this value, or when it comes back after having been left behind.
    fn start(&self) -> io::Result<(SyncSender<Ask>, Receiver<Answer>)> {
        let (ask, asked) = sync_channel::<Ask>(1);
        let (give, answer) = sync_channel(1);
        let (file, how) = (Arc::clone(&self.file), self.how);
        spawn(move || {
            while let Ok(Ask { offset, mut buffer, part }) = asked.recv() {
                let result = how(file.as_fd(), offset, &mut buffer, part);
                if give.send((buffer, result)).is_err() {
                    return;
                }
            }
        })?;
        Ok((ask, answer))
    }
}

impl AsFd for Reads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn read(file: BorrowedFd<'_>, offset: u64, buffer: &mut [u8], part: Range<usize>) -> io::Result<usize> {
    let room = buffer.get_mut(part).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pread(file, room, offset)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn what_does_not_come_back_is_left_behind_and_counted() {
        let limit = Duration::from_millis(20);
        let mut held = Vec::new();
        for _ in 0..THREADS_MAX {
            let (hold, wait) = sync_channel::<()>(0);
            held.push(hold);
            let error = within(limit, "opening /dev/sdx", move || wait.recv().map_err(io::Error::other)).expect_err("it waits");
            assert!(is_stuck(&error) && error.to_string().starts_with("opening /dev/sdx did not come back"), "{error}");
        }
        let error = within(limit, "one more", || Ok(())).expect_err("too many");
        assert!(!is_stuck(&error) && error.to_string().contains("not tried"), "{error}");
        held.clear();
        while THREADS.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(within(Duration::from_secs(20), "again", || Ok(7)).ok(), Some(7));
    }

    #[test]
    fn a_file_is_read_into_the_same_memory() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"0123456789").expect("written");
        let mut reads = Reads::new(file.into(), READ);
        let mut buffer = vec![0; 8];
        let place = buffer.as_ptr();
        assert_eq!(reads.pread(3, &mut buffer, 2..6).expect("read"), 4);
        assert_eq!((buffer.as_slice(), buffer.as_ptr()), (b"\0\x003456\0\0".as_slice(), place));
        assert_eq!(reads.pread(8, &mut buffer, 0..8).expect("read"), 2);
        assert!(reads.pread(0, &mut buffer, 5..9).is_err() && buffer.len() == 8, "beyond the buffer");
        assert!(!is_stuck(&io::Error::from_raw_os_error(rustix::io::Errno::TIMEDOUT.raw_os_error())));
    }

    #[test]
    fn a_read_that_never_returns_is_left_behind_with_its_memory() {
        let never: How = |_, _, _, _| {
            loop {
                std::thread::park();
            }
        };
        let file = tempfile::tempfile().expect("file");
        let mut reads = Reads { how: never, ..Reads::new(file.into(), Duration::from_millis(20)) };
        let mut buffer = vec![0; 8];
        let error = reads.pread(4096, &mut buffer, 0..8).expect_err("it hangs");
        assert!(is_stuck(&error) && error.to_string().contains("a read at byte 4096"), "{error}");
        assert!(buffer.is_empty(), "the kernel may still write to it");
    }
}
