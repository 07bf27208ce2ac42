//! Reads the memory of a process on a thread that can be left behind. Where it does not come back from one mapping, only the rest
//! of that mapping is lost: a new thread goes on behind it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::access::{Access, Counts, Failed, Lost, NOWHERE};
use super::given_back::GivenBack;
use super::silent::{Silent, Wait};

const STACK_BYTES: usize = 256 << 10;
/// Mappings of one process that may not answer before its rest is given up: each costs a wait.
const LOST_MAX: usize = 8;

struct Ask {
    /// Addresses and lengths, to be read one after the other.
    pieces: Vec<(u64, usize)>,
    buffer: Vec<u8>,
}

struct Answer {
    buffer: Vec<u8>,
    result: Result<usize, Failed>,
    counts: Counts,
    given_back: Vec<(u64, u64)>,
}

/// The thread that reads now.
struct Worker {
    ask: SyncSender<Ask>,
    answer: Receiver<Answer>,
    /// See [`Access::place`].
    place: Arc<AtomicU64>,
    wait: Arc<Wait>,
}

impl Worker {
    /// Starts it. It ends when this is dropped, or when the read in which it hangs comes back.
    fn start(mut access: Access, silent: &Silent) -> io::Result<Self> {
        let (ask, asked) = sync_channel::<Ask>(1);
        let (give, answer) = sync_channel(1);
        let (wait, place) = (Wait::new(silent), Arc::clone(&access.place));
        let own = Arc::clone(&wait);
        let body = move || {
            while let Ok(Ask { pieces, mut buffer }) = asked.recv() {
                let result = access.fill_all(&pieces, &mut buffer);
                let given_back = std::mem::take(&mut access.given_back);
                if give.send(Answer { buffer, result, counts: access.counts, given_back }).is_err() {
                    break;
                }
            }
            drop(own);
        };
        std::thread::Builder::new().name("proc-memory".into()).stack_size(STACK_BYTES).spawn(body)?;
        Ok(Self { ask, answer, place, wait })
    }
}

/// Reads and does not wait for ever.
pub struct Reader {
    /// What every thread begins with.
    access: Access,
    worker: Worker,
    silent: Silent,
    /// How long one read may take: a lock of the process, a file system, or a page in swap on a dead device can hold it for ever.
    patience: Duration,
    buffer: Vec<u8>,
    /// The rest was given up: a thread was left behind that nothing can be read beside.
    pub stuck: bool,
    /// Pages that were there when it was planned and are no more; what failed because it is not mapped any more is only counted.
    pub given_back: GivenBack,
}

impl Reader {
    /// Starts the first thread.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(access: Access, patience: Duration, silent: &Silent) -> io::Result<Self> {
        let worker = Worker::start(access.again(), silent)?;
        let (silent, given_back) = (silent.clone(), GivenBack::default());
        Ok(Self { access, worker, silent, patience, buffer: Vec::new(), stuck: false, given_back })
    }

    /// Bytes so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.access.counts
    }

    /// Whether it was known which pages there were.
    #[must_use]
    pub const fn sees_pages(&self) -> bool {
        self.access.sees_pages
    }

    /// Mappings that did not answer.
    #[must_use]
    pub const fn lost(&self) -> usize {
        self.access.lost.len()
    }

    /// Fills a buffer from pieces of memory, which together are as long, one after the other. Returns how far it came without a
    /// failure.
    ///
    /// # Errors
    /// [`Failed`] when the first byte cannot be had, or when there is no answer.
    pub fn fill(&mut self, pieces: &[(u64, usize)], buffer: &mut [u8]) -> Result<usize, Failed> {
        while !self.stuck {
            if let Some(result) = self.asked(pieces, buffer) {
                return result;
            }
            self.stuck = !self.pass_over();
        }
        let s = self.patience.as_secs();
        let error = io::Error::other(format!("the kernel did not answer within {s} s: the rest was given up"));
        Err(Failed { error, bytes: u64::MAX, gone: false })
    }

    /// One question; `None` when there was no answer in time.
    fn asked(&mut self, pieces: &[(u64, usize)], buffer: &mut [u8]) -> Option<Result<usize, Failed>> {
        let mut own = std::mem::take(&mut self.buffer);
        own.resize(buffer.len(), 0);
        self.worker.ask.send(Ask { pieces: pieces.to_vec(), buffer: own }).ok()?;
        let Answer { buffer: got, result, counts, given_back } = self.worker.answer.recv_timeout(self.patience).ok()?;
        self.access.counts = counts;
        for (start, end) in given_back {
            self.given_back.note(start, end);
        }
        if let Ok(count) = &result {
            let count = (*count).min(buffer.len());
            if let (Some(to), Some(from)) = (buffer.get_mut(..count), got.get(..count)) {
                to.copy_from_slice(from);
            }
        }
        self.buffer = got;
        Some(result)
    }

    /// Gives the mapping up in which the thread hangs, and goes on with another one. Returns false where that is no way: it waits for
    /// a lock of the whole process, or too much did not answer before.
    fn pass_over(&mut self) -> bool {
        let at = self.worker.place.load(Ordering::Relaxed);
        let Some(region) = self.access.regions.holding(at).copied().filter(|_| at != NOWHERE) else { return false };
        if self.access.lost.len() >= LOST_MAX || !self.worker.wait.leave(region.dev) {
            return false;
        }
        self.access.lost.push(Lost { start: at, end: region.end, dev: region.dev, patience: self.patience });
        match Worker::start(self.access.again(), &self.silent) {
            Ok(worker) => {
                self.worker = worker;
                true
            }
            Err(_) => false,
        }
    }
}
