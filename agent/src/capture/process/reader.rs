//! Reads processes on a thread of its own, because some files of a process (`cmdline`, `maps`, ...) wait for a lock that
//! a hung process can hold for ever. A process that does not answer in time is recorded as such and left behind with its
//! thread; the capture goes on.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rustix::io::Errno;

use super::gather::{Gathered, Plan, gather};
use crate::capture::left::{Asked, LeftBehind};

/// How long one process may take. The largest (65,536 open files, 16 MiB of maps) needs about a second.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Most threads left behind with contents of files, 128 KiB of stack each, before no further content is tried.
pub const STUCK_MAX: u32 = 16;
const STACK_BYTES: usize = 256 << 10;

/// What came of asking for a process.
pub enum Answer {
    Taken(Box<Gathered>),
    Refused(Errno),
    /// It did not answer in time.
    Stuck,
    /// Too many have not answered yet, and no place is left, or none for one that does not look as if it would; or others of its
    /// owner were late, and everybody else is asked first.
    Aside,
}

struct Worker {
    ask: SyncSender<u32>,
    answer: Receiver<Result<Gathered, Errno>>,
    asked: Arc<Asked>,
}

/// The reader.
pub struct Reader {
    plan: Arc<Plan>,
    patience: Duration,
    worker: Option<Worker>,
    /// Who did not answer.
    pub(super) left: LeftBehind,
    /// Everybody was asked once: who was put aside for others is not any more.
    pub(super) last: bool,
}

impl Reader {
    /// A reader that has not started its thread yet.
    pub fn new(plan: Plan, patience: Duration) -> Self {
        Self { plan: Arc::new(plan), patience, worker: None, left: LeftBehind::default(), last: false }
    }

    /// Reads a process; waits at most as long as it was told.
    pub fn read(&mut self, pid: u32) -> Answer {
        if !self.left.admits(pid, self.last) {
            return Answer::Aside;
        }
        let Some(worker) = self.worker.take().or_else(|| start(&self.plan, &self.left)) else {
            // No thread to be had (a limit of the host): read here and trust that it answers.
            return answer(gather(pid, &self.plan));
        };
        if worker.ask.send(pid).is_err() {
            return answer(gather(pid, &self.plan));
        }
        match worker.answer.recv_timeout(self.patience) {
            Ok(result) => {
                self.worker = Some(worker);
                answer(result)
            }
            Err(RecvTimeoutError::Timeout) => {
                worker.asked.leave(pid);
                Answer::Stuck
            }
            Err(RecvTimeoutError::Disconnected) => Answer::Refused(Errno::IO),
        }
    }
}

fn answer(result: Result<Gathered, Errno>) -> Answer {
    match result {
        Ok(gathered) => Answer::Taken(Box::new(gathered)),
        Err(e) => Answer::Refused(e),
    }
}

/// The thread ends by itself when its channel closes: at the end of the capture, or when it comes back after having
/// been given up.
fn start(plan: &Arc<Plan>, left: &LeftBehind) -> Option<Worker> {
    let (ask, told) = sync_channel::<u32>(1);
    let (give, answer) = sync_channel(1);
    let (plan, asked) = (Arc::clone(plan), left.asked());
    let own = Arc::clone(&asked);
    std::thread::Builder::new()
        .name("proc-reader".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let _own = own;
            while let Ok(pid) = told.recv() {
                if give.send(gather(pid, &plan)).is_err() {
                    return;
                }
            }
        })
        .ok()?;
    Some(Worker { ask, answer, asked })
}
