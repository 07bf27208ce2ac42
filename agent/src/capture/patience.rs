//! Work that may never come back, done on a thread that can be left behind. Some files of a process (`cmdline`, `smaps`,
//! `pagemap`, `map_files`) wait for a lock of its memory, and a process that is stuck in a page fault on a dead file system
//! holds that lock for as long as it likes. No system call can be ended from outside; waiting for it can.
//!
//! Who leaves threads behind counts them, and gives up when there are too many.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Stop;
use crate::clock;

const STACK_BYTES: usize = 256 << 10;
/// How often is asked whether to go on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotDone {
    /// It took longer than it may. Its thread was left behind, and ends when the kernel lets it.
    Late,
    /// Its thread ended without a result: a fault of this program, not of what was asked.
    Ended,
    /// The host gives no thread.
    NoThread,
}

/// [`NotDone::Ended`], for the record.
pub const ENDED: &str = "the thread that asked it ended without an answer: a fault of this program (please report it)";

impl From<RecvTimeoutError> for NotDone {
    fn from(e: RecvTimeoutError) -> Self {
        match e {
            RecvTimeoutError::Timeout => Self::Late,
            RecvTimeoutError::Disconnected => Self::Ended,
        }
    }
}

/// Does `work` on a thread of its own and waits at most so long.
///
/// # Errors
/// [`NotDone`].
pub fn within<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NotDone> {
    let (give, given) = sync_channel(1);
    let work = move || {
        let _ = give.send(work());
    };
    spawn(work)?;
    Ok(given.recv_timeout(patience)?)
}

/// What long work on another thread says and hears.
#[derive(Debug, Default)]
pub struct Pulse {
    steps: AtomicU64,
    ended: AtomicBool,
    /// Held while the work has to pause.
    gate: Mutex<()>,
}

impl Pulse {
    /// Called at every step of the work: says that it is alive, pauses while it has to. Returns whether to go on.
    pub fn step(&self) -> bool {
        drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        self.steps.fetch_add(1, Ordering::Relaxed);
        !self.ended.load(Ordering::Relaxed)
    }
}

/// As [`within`] for work that may be long, but whose steps are short: no step may take longer than `patience`. `checkpoint`
/// is asked all the time whether to go on; while it waits, the work pauses at its next step.
///
/// # Errors
/// [`Stop`] from `checkpoint`: the work was told to end.
pub fn watched<T: Send + 'static>(
    patience: Duration,
    checkpoint: &mut dyn FnMut() -> Result<(), Stop>,
    work: impl FnOnce(&Pulse) -> T + Send + 'static,
) -> Result<Result<T, NotDone>, Stop> {
    let (give, given) = sync_channel(1);
    let pulse = Arc::new(Pulse::default());
    let own = Arc::clone(&pulse);
    let work = move || {
        let _ = give.send(work(&own));
    };
    if let Err(e) = spawn(work) {
        return Ok(Err(e));
    }
    let (mut steps, mut since) = (0, clock::monotonic());
    loop {
        match given.recv_timeout(LOOK_EVERY.min(patience)) {
            Ok(done) => return Ok(Ok(done)),
            Err(RecvTimeoutError::Disconnected) => return Ok(Err(NotDone::Ended)),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = pulse.steps.load(Ordering::Relaxed);
        if now != steps {
            (steps, since) = (now, clock::monotonic());
        } else if clock::monotonic().saturating_sub(since) > patience {
            pulse.ended.store(true, Ordering::Relaxed);
            return Ok(Err(NotDone::Late));
        }
        let held = pulse.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let (begun, go_on) = (clock::monotonic(), checkpoint());
        // The time in which it had to pause is not its own.
        since = since.saturating_add(clock::monotonic().saturating_sub(begun));
        if let Err(stop) = go_on {
            pulse.ended.store(true, Ordering::Relaxed);
            return Err(stop);
        }
        drop(held);
    }
}

type Question<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A thing that only a thread of its own asks anything, one question after the other. Once it has not answered in time it is
/// not asked any more.
pub struct Kept<T> {
    ask: Result<SyncSender<Question<T>>, NotDone>,
    patience: Duration,
}

impl<T: Send + 'static> Kept<T> {
    /// Gives the thing to its thread, which ends with the last question once this is dropped.
    ///
    /// # Errors
    /// [`NotDone::NoThread`].
    pub fn new(mut thing: T, patience: Duration) -> Result<Self, NotDone> {
        let (ask, asked) = sync_channel::<Question<T>>(1);
        spawn(move || {
            while let Ok(question) = asked.recv() {
                question(&mut thing);
            }
        })?;
        Ok(Self { ask: Ok(ask), patience })
    }

    /// Asks it something, and waits at most as long as it was told.
    ///
    /// # Errors
    /// [`NotDone::Late`] or [`NotDone::Ended`], now or before.
    pub fn ask<R: Send + 'static>(&mut self, question: impl FnOnce(&mut T) -> R + Send + 'static) -> Result<R, NotDone> {
        let (give, given) = sync_channel(1);
        let question: Question<T> = Box::new(move |thing| {
            let _ = give.send(question(thing));
        });
        let sent = match &self.ask {
            Ok(ask) => ask.send(question).map_err(|_| NotDone::Ended),
            Err(before) => Err(*before),
        };
        let answer = sent.and_then(|()| given.recv_timeout(self.patience).map_err(NotDone::from));
        if let Err(why) = &answer {
            self.ask = Err(*why);
        }
        answer
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), NotDone> {
    let started = std::thread::Builder::new().name("patience".into()).stack_size(STACK_BYTES).spawn(work);
    started.map(drop).map_err(|_| NotDone::NoThread)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    /// Comes back when the sender is dropped.
    fn stuck() -> (std::sync::mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let wait = move || {
            let _ = held.recv();
        };
        (hold, wait)
    }

    #[test]
    fn what_does_not_come_back_is_left_behind() {
        assert_eq!(within(SHORT, || 7), Ok(7));
        let (hold, wait) = stuck();
        assert_eq!(within(SHORT, wait), Err(NotDone::Late));
        drop(hold);
        let (hold, wait) = stuck();
        let mut asked = 0;
        let mut checkpoint = || {
            asked += 1;
            Ok(())
        };
        assert_eq!(watched(SHORT, &mut checkpoint, move |_| wait()), Ok(Err(NotDone::Late)));
        assert!(asked > 0);
        drop(hold);
        let mut kept = Kept::new(1, SHORT).expect("a thread");
        assert_eq!((kept.ask(|n| *n + 1), kept.ask(|n| std::mem::replace(n, 5)), kept.ask(|n| *n)), (Ok(2), Ok(1), Ok(5)));
        let (hold, wait) = stuck();
        assert_eq!(kept.ask(move |_| wait()), Err(NotDone::Late));
        drop(hold);
        assert_eq!(kept.ask(|n| *n), Err(NotDone::Late), "it is not asked again");
    }

    #[test]
    fn a_panic_is_told_from_silence_and_at_once() {
        let panics = || -> u32 { panic!("made for a test") };
        let long = Duration::from_mins(10);
        assert_eq!(within(long, panics), Err(NotDone::Ended));
        assert_eq!(watched(long, &mut || Ok(()), move |_| panics()), Ok(Err(NotDone::Ended)));
        let mut kept = Kept::new(1, long).expect("a thread");
        assert_eq!(kept.ask(move |_| panics()), Err(NotDone::Ended));
        assert_eq!(kept.ask(|n| *n), Err(NotDone::Ended), "it is not asked again");
    }

    #[test]
    fn what_goes_on_in_steps_may_take_long_and_can_be_ended() {
        let steps = |pulse: &Pulse| {
            let step = |_: &u32| {
                std::thread::park_timeout(SHORT / 4);
                pulse.step()
            };
            (0..15).take_while(step).count()
        };
        assert_eq!(watched(SHORT, &mut || Ok(()), steps), Ok(Ok(15)));
        let (tell, told) = sync_channel(1);
        let work = move |pulse: &Pulse| {
            while pulse.step() {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            let _ = tell.send(());
        };
        assert_eq!(watched(SHORT, &mut || Err(Stop::Deadline), work), Err(Stop::Deadline));
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(()), "it ended");
    }
}
