//! Stopping a process for the moment in which its registers and mappings are read, or, on request, until its memory is
//! copied.
//!
//! All `ptrace` calls of one stop are made by one thread that does nothing else. Whatever happens to it or to the agent, the
//! kernel lets the process run on when that thread ends. It waits for nothing without a limit: what needs locks of the
//! process (opening its memory, its mappings) is done by a second thread, for which the first waits a moment only.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use exhibit_agent_sys::priority::{fine_timers, nice_thread};
use exhibit_agent_sys::ptrace::{self, Waited};
use rustix::io::Errno;

use super::asleep::Asleep;
use super::choose::Place;
use super::held::{Held, SET_BYTES_MAX, Seized};
use super::keep::Keeper;
use super::kept::{KeptPages, PAGES_MAX};
use super::look::{Looked, look};
use super::registers::Set;
use crate::capture::left::Asked;
use crate::capture::live::{SMALL_BYTES_MAX, numbers};
use crate::capture::patience::{self, NotDone};
use crate::capture::process::parse;
use crate::capture::procfs::{self, open_dir, read_at};
use crate::clock::{self, Moment};

/// Threads of one process that are stopped; further ones run on and are counted.
pub const THREADS_MAX: usize = 8192;
/// How long the other threads stand for one in uninterruptible sleep,
const PATIENCE: Duration = Duration::from_millis(50);
/// and for one that stops as soon as it gets a processor, which on a busy machine can take a while.
const PATIENCE_BUSY: Duration = Duration::from_millis(500);
/// How long all stand for the thread that reads the mappings.
const LOOK_PATIENCE: Duration = Duration::from_millis(200);
/// And for the pages that it keeps, behind that.
const KEEP_PATIENCE: Duration = Duration::from_millis(100);
/// How long the capture waits for a stop as a whole before it leaves the threads behind.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Rounds of looking for threads that were started while others were being stopped.
const ROUNDS_MAX: u32 = 32;
const STACK_BYTES: usize = 256 << 10;

/// One thread as it stood.
#[derive(Debug, Default)]
pub struct Thread {
    /// Its number, in the agent's view.
    pub tid: u32,
    /// Why it did not stand, if it did not: then there are no registers.
    pub running: Option<String>,
    /// Where it sleeps in the kernel, if it did not stand and that is known.
    pub asleep: Option<Box<Asleep>>,
    /// The signal that it was about to receive; it got it afterwards.
    pub pending: i32,
    /// The whole process had been stopped before, and stays so.
    pub group_stop: bool,
    /// Signals that it blocks.
    pub blocked: u64,
    /// Registers by note type.
    pub sets: Vec<(u32, Set)>,
    /// Sets were left out for their size.
    pub sets_left_out: bool,
    /// What the kernel said about the stop.
    pub siginfo: Option<Set>,
    /// From when (it was told to stop; the earliest moment at which it may have stood) to when (it was released), nanoseconds
    /// after the stop began. The end is 0 as long as it stands.
    pub from_ns: u64,
    /// See above.
    pub to_ns: u64,
}

impl Thread {
    /// Takes its registers out of it, with what a core file says of them beside: they are large and are kept once.
    #[must_use]
    pub fn take_registers(&mut self) -> Self {
        Self {
            tid: self.tid,
            running: self.running.clone(),
            asleep: self.asleep.clone(),
            pending: self.pending,
            blocked: self.blocked,
            sets: std::mem::take(&mut self.sets),
            siginfo: self.siginfo.take(),
            ..Self::default()
        }
    }
}

/// What a stop gave.
pub struct Stopped {
    /// When the first thread was told to stop.
    pub begun: Moment,
    /// The threads, the process's first one first.
    pub threads: Vec<Thread>,
    /// Threads beyond [`THREADS_MAX`], started faster than they could be stopped, or not to be stopped because one of the process's
    /// threads did not come back from `execve`.
    pub threads_left_out: u64,
    /// Mappings and memory.
    pub looked: Looked,
    /// They were not there within the stop, so they are of a moment after it.
    pub looked_late: bool,
    /// Pages that were copied while it stood.
    pub kept: KeptPages,
    /// All threads stand until this is released or its deadline passes.
    pub hold: Option<Hold>,
}

/// Why nothing was stopped, or everything that was is released again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotStopped {
    /// It ended.
    Vanished,
    /// Somebody traces it: this process, by this name.
    Traced(u64, String),
    /// The agent may not.
    Denied(Errno),
    /// The kernel did not answer within this time.
    Stuck(Duration),
    /// What the host's policy keeps back cannot be told from the rest.
    Withheld,
    /// It was not tried: too many did not answer.
    GivenUp,
    /// Something else.
    Error(Errno),
}

/// Says whether a process stands right now.
pub type Stands = Arc<dyn Fn() -> bool + Send + Sync>;

/// A stop that lasts.
pub struct Hold {
    release: Option<SyncSender<()>>,
    ended: Receiver<Ended>,
    held: Arc<AtomicBool>,
}

/// How a stop that lasted ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its deadline passed before it was released.
    pub deadline: bool,
    /// Nanoseconds after its beginning.
    pub after_ns: u64,
}

impl Hold {
    /// True while the process surely stands.
    #[must_use]
    pub fn stands(&self) -> Stands {
        let held = Arc::clone(&self.held);
        Arc::new(move || held.load(Ordering::Acquire))
    }

    /// Lets the process run on; `None` when that is not confirmed within ten seconds (the kernel does it when the thread ends).
    pub fn release(mut self) -> Option<Ended> {
        self.release = None;
        self.ended.recv_timeout(STOP_PATIENCE).ok()
    }
}

/// Stops a process, reads its registers and mappings, keeps pages where there is `room` for them, and releases it: at once, or with
/// `hold` when [`Hold`] is released or so much time has passed. `dir` is its folder below `/proc`, opened: it stays this process
/// whatever becomes of the number. `asked` is shared with the threads that do it.
///
/// # Errors
/// [`NotStopped`]; nothing is stopped then.
pub fn stop(
    dir: &Arc<OwnedFd>,
    pid: u32,
    hold: Option<Duration>,
    room: Option<KeptPages>,
    asked: &Arc<Asked>,
) -> Result<Stopped, NotStopped> {
    let (give, given) = sync_channel(1);
    let abandoned = Arc::new(AtomicBool::new(false));
    let (dir, asked) = (Arc::clone(dir), Arc::clone(asked));
    let session = Session { dir, pid, hold, kept: room, asked, abandoned: Arc::clone(&abandoned), begun: clock::now() };
    let started = std::thread::Builder::new().name("proc-stop".into()).stack_size(STACK_BYTES).spawn(move || session.run(&give));
    if started.is_err() {
        return Err(NotStopped::Error(Errno::AGAIN));
    }
    match given.recv_timeout(STOP_PATIENCE) {
        Ok(result) => result.and_then(Released::finish),
        Err(RecvTimeoutError::Timeout) => {
            abandoned.store(true, Ordering::Release);
            Err(NotStopped::Stuck(STOP_PATIENCE))
        }
        Err(RecvTimeoutError::Disconnected) => Err(NotStopped::Error(Errno::IO)),
    }
}

/// What the stopping thread hands over.
struct Released {
    begun: Moment,
    threads: Vec<Thread>,
    threads_left_out: u64,
    looked: Seen,
    kept: KeptPages,
    hold: Option<Hold>,
}

/// What the looking thread saw, or where it will say so: the stopping thread ends in time, and with it every right over the
/// process.
enum Seen {
    InTime(Result<Looked, Errno>),
    Late(Look),
}

impl Released {
    fn finish(self) -> Result<Stopped, NotStopped> {
        let Self { begun, threads, threads_left_out, looked, kept, hold } = self;
        let (looked, looked_late) = match looked {
            Seen::InTime(looked) => (looked, false),
            Seen::Late(look) => (look.recv_timeout(STOP_PATIENCE).map_err(|_| NotStopped::Stuck(STOP_PATIENCE))?, true),
        };
        let looked = looked.map_err(|e| match e {
            Errno::NOENT | Errno::SRCH => NotStopped::Vanished,
            Errno::ACCESS | Errno::PERM => NotStopped::Denied(e),
            e => NotStopped::Error(e),
        })?;
        Ok(Stopped { begun, threads, threads_left_out, looked, looked_late, kept, hold })
    }
}

/// Where the looking thread says what it saw.
type Look = Receiver<Result<Looked, Errno>>;

/// What the session keeps of the thread that looks.
struct Looker {
    /// Where the threads are, if pages are to be kept: it begins.
    go: SyncSender<Option<Vec<Place>>>,
    /// What it saw.
    look: Look,
    /// And then the pages that it kept.
    kept: Receiver<KeptPages>,
}

struct Session {
    dir: Arc<OwnedFd>,
    pid: u32,
    hold: Option<Duration>,
    /// Room for pages, and then the pages that were kept.
    kept: Option<KeptPages>,
    /// Counts the process while one of its threads is left behind.
    asked: Arc<Asked>,
    /// Nobody waits any more: nothing may be stopped.
    abandoned: Arc<AtomicBool>,
    begun: Moment,
}

impl Session {
    fn run(mut self, give: &SyncSender<Result<Released, NotStopped>>) {
        // The process stands while these threads wait for a processor; without the right to it they wait like others.
        let _ = nice_thread(-19);
        let _ = fine_timers();
        let room = self.kept.take();
        let keeps = room.is_some();
        let Looker { go, look, kept } = match self.looker(room) {
            Ok(looker) => looker,
            Err(e) => return drop(give.send(Err(NotStopped::Error(e)))),
        };
        self.begun = clock::now();
        let mut held = Held { all: Vec::new(), begun_ns: self.begun.mono_ns };
        let threads_left_out = match self.stand(&mut held) {
            Ok(left_out) => left_out,
            Err(e) => {
                drop(held);
                return drop(give.send(Err(e)));
            }
        };
        // Who did not stand writes to the memory all the while: nothing that is copied then is of one moment.
        let keeps = keeps && threads_left_out == 0 && held.all_stand();
        let standing = held.all.iter().filter(|s| s.stands).take(PAGES_MAX);
        let _ = go.send(keeps.then(|| standing.map(|s| Place::of(&s.thread)).collect()));
        // Who is to stand until everything is copied stands for this as well.
        let patience = self.hold.map_or(LOOK_PATIENCE, |deadline| deadline.min(STOP_PATIENCE / 2));
        let looked = match look.recv_timeout(patience) {
            Ok(looked) => Seen::InTime(looked),
            Err(_) => Seen::Late(look),
        };
        if keeps && matches!(looked, Seen::InTime(Ok(_))) {
            // What is not there in time is of a moment after the stop, and is not taken.
            self.kept = kept.recv_timeout(KEEP_PATIENCE).ok();
        }
        let deadline = self.hold.filter(|_| matches!(looked, Seen::InTime(Ok(_))));
        if deadline.is_none() {
            held.release();
        }
        self.hand_over(give, held, threads_left_out, looked, deadline);
    }

    /// Starts the thread that looks when it is told where the threads are, and then keeps pages, if there is room for them.
    fn looker(&self, room: Option<KeptPages>) -> Result<Looker, Errno> {
        let ((go, told), (give, given)) = (sync_channel::<Option<Vec<Place>>>(1), sync_channel(1));
        let (keep, kept) = sync_channel(1);
        let (dir, shared) = (Arc::clone(&self.dir), Arc::clone(&self.asked));
        let body = move || {
            let _shared = shared;
            let _ = nice_thread(-19);
            let Ok(places) = told.recv() else { return };
            let looked = look(&dir);
            // It needs the mappings, which are given away below. Choosing walks once or twice over them, a millisecond where there are
            // 65,536, and asks the kernel nothing: whoever waits for the pages waits for it in either order.
            let keeper = looked
                .as_ref()
                .ok()
                .zip(room.zip(places))
                .and_then(|(looked, (room, places))| Keeper::new(looked, places, room, Arc::clone(&dir)));
            // Whatever becomes of the pages, the mappings are there.
            let _ = give.send(looked);
            if let Some(keeper) = keeper {
                let _ = keep.send(keeper.kept());
            }
        };
        std::thread::Builder::new()
            .name("proc-look".into())
            .stack_size(STACK_BYTES)
            .spawn(body)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::AGAIN))?;
        Ok(Looker { go, look: given, kept })
    }

    /// Makes all threads stand, reads the registers of each as soon as it does. Returns how many run on uncounted.
    fn stand(&self, held: &mut Held) -> Result<u64, NotStopped> {
        let mut buffer = vec![0_u8; SET_BYTES_MAX];
        let mut bytes = 0_usize;
        let mut left_out = 0_u64;
        for round in 0..ROUNDS_MAX {
            let known = held.all.len();
            left_out = self.seize_new(held)?;
            if held.all.len() == known {
                // The listing that found nobody new is the proof that all stand.
                return Ok(left_out);
            }
            if round == 0 && self.abandoned.load(Ordering::Acquire) {
                return Err(NotStopped::Stuck(STOP_PATIENCE));
            }
            let begun_ns = held.begun_ns;
            for seized in held.all.iter_mut().skip(known) {
                seized.thread.from_ns = clock::now().mono_ns.saturating_sub(begun_ns);
                seized.gone = ptrace::interrupt(seized.thread.tid).is_err();
            }
            self.wait(held, &mut buffer, &mut bytes);
        }
        Ok(left_out.saturating_add(1))
    }

    /// Seizes the threads that are not yet; returns how many there are beyond the bound.
    fn seize_new(&self, held: &mut Held) -> Result<u64, NotStopped> {
        let listed = open_dir(&*self.dir, "task").and_then(|task| numbers(task, 4 << 20));
        let (mut tids, _) = match listed {
            Ok(listed) => listed,
            Err(Errno::NOENT | Errno::SRCH) => return Err(NotStopped::Vanished),
            Err(e) => return Err(NotStopped::Error(e)),
        };
        // The first thread of the process first: debuggers show it first.
        if let Ok(at) = tids.binary_search(&self.pid) {
            tids.get_mut(..=at).unwrap_or_default().rotate_right(1);
        }
        self.seize_all(held, tids)
    }

    /// Seizes those of the listed threads that are not yet.
    fn seize_all(&self, held: &mut Held, tids: Vec<u32>) -> Result<u64, NotStopped> {
        let known = held.known();
        let new: Vec<u32> = tids.into_iter().filter(|tid| !known.contains(tid)).collect();
        if !new.is_empty() && !self.may_seize(held) {
            return Ok(new.len() as u64);
        }
        let mut left_out = 0_u64;
        for tid in new {
            if held.all.len() >= THREADS_MAX {
                left_out = left_out.saturating_add(1);
                continue;
            }
            match ptrace::seize(tid) {
                Ok(()) => held.all.push(Seized::new(&self.dir, tid)),
                Err(e) => self.not_seized(tid, &e)?,
            }
        }
        if held.all.iter().all(|s| s.stray) { Err(NotStopped::Vanished) } else { Ok(left_out) }
    }

    /// Whether seizing waits for nobody. A thread in `execve` holds a lock of its process that seizing needs, on a dead file system for
    /// ever: no thread may wait for it by which others stand. Another one tries, with a thread that is seized already, which is
    /// refused as soon as the lock is free and changes nothing. It is a thread for each round that finds new threads, which after the first
    /// round are rare: starting it is short beside waiting for those to stand, and after one that is late there is no further round.
    fn may_seize(&self, held: &Held) -> bool {
        let Some(standing) = held.all.iter().find(|s| s.stands) else { return true };
        let (tid, shared) = (standing.thread.tid, Arc::clone(&self.asked));
        let work = move || {
            let _shared = shared;
            ptrace::seize(tid).is_err()
        };
        match patience::within(PATIENCE_BUSY, work) {
            Ok(_) => true,
            Err(NotDone::Late) => {
                self.asked.leave(self.pid);
                false
            }
            Err(NotDone::Ended | NotDone::NoThread) => false,
        }
    }

    /// Whether a thread that could not be seized ends the whole undertaking: one that is gone does not.
    fn not_seized(&self, tid: u32, e: &std::io::Error) -> Result<(), NotStopped> {
        let e = Errno::from_io_error(e).unwrap_or(Errno::IO);
        let Ok(status) = read_at(&*self.dir, format!("task/{tid}/status"), SMALL_BYTES_MAX) else { return Ok(()) };
        if let Some(tracer) = parse::status(&status.bytes).tracer_pid.filter(|t| *t != 0) {
            let name = procfs::root().and_then(|root| read_at(root, format!("{tracer}/comm"), SMALL_BYTES_MAX));
            let name = name.map(|read| exhibit_evidence::text::escape_bytes(read.trimmed())).unwrap_or_default();
            return Err(NotStopped::Traced(tracer, name));
        }
        let stat = read_at(&*self.dir, format!("task/{tid}/stat"), SMALL_BYTES_MAX).ok().and_then(|r| parse::stat(&r.bytes));
        match (stat.and_then(|s| s.state), e) {
            // A first thread that ended before the others stays listed.
            (None | Some('Z' | 'X' | 'x'), _) | (_, Errno::SRCH) => Ok(()),
            (_, Errno::PERM | Errno::ACCESS) => Err(NotStopped::Denied(e)),
            _ => Err(NotStopped::Error(e)),
        }
    }

    /// Waits until every thread stands, is gone, or has had its time.
    fn wait(&self, held: &mut Held, buffer: &mut [u8], bytes: &mut usize) {
        let begun = held.since();
        let mut idle = 0_u32;
        loop {
            let mut waiting = 0_usize;
            let mut moved = false;
            for seized in held.all.iter_mut().filter(|s| s.is_awaited()) {
                match ptrace::poll_stop(seized.thread.tid) {
                    Ok(Waited::NotYet) => waiting = waiting.saturating_add(1),
                    Ok(Waited::Stopped { pending, group_stop }) => {
                        seized.stopped(pending, group_stop, buffer, bytes);
                        moved = true;
                    }
                    Ok(Waited::Gone) | Err(_) => seized.gone = true,
                }
            }
            if waiting == 0 {
                return;
            }
            let waited = Duration::from_nanos(held.since().saturating_sub(begun));
            if waited > PATIENCE_BUSY || (waited > PATIENCE && self.sleeps_for_good(held)) {
                break;
            }
            idle = if moved { 0 } else { idle.saturating_add(1) };
            pause(idle);
        }
        let waited = Duration::from_nanos(held.since().saturating_sub(begun));
        for seized in held.all.iter_mut().filter(|s| !s.stands && !s.gone) {
            let state = self.state(seized.thread.tid).map_or_else(|| "unknown".to_owned(), String::from);
            let running = format!("did not stand within {} ms (state {state}); the others were not kept longer", waited.as_millis());
            seized.thread.running.get_or_insert(running);
        }
    }

    fn state(&self, tid: u32) -> Option<char> {
        let stat = read_at(&*self.dir, format!("task/{tid}/stat"), SMALL_BYTES_MAX).ok()?;
        parse::stat(&stat.bytes)?.state
    }

    /// Whether nobody of those that are waited for is only waiting for a processor.
    fn sleeps_for_good(&self, held: &Held) -> bool {
        let mut waiting = held.all.iter().filter(|s| s.is_awaited());
        waiting.all(|s| self.state(s.thread.tid) != Some('R'))
    }

    fn hand_over(
        self,
        give: &SyncSender<Result<Released, NotStopped>>,
        mut held: Held,
        threads_left_out: u64,
        looked: Seen,
        deadline: Option<Duration>,
    ) {
        let take = |s: &mut Seized| {
            let left = Thread { tid: s.thread.tid, pending: s.thread.pending, ..Thread::default() };
            std::mem::replace(&mut s.thread, left)
        };
        let threads = held.all.iter_mut().filter(|s| !s.gone && !s.stray).map(take).collect();
        let kept = self.kept.unwrap_or_default();
        let mut released = Released { begun: self.begun, threads, threads_left_out, looked, kept, hold: None };
        let Some(deadline) = deadline else { return drop(give.send(Ok(released))) };
        let ((release, told), (tell, ended)) = (sync_channel::<()>(1), sync_channel(1));
        let flag = Arc::new(AtomicBool::new(true));
        released.hold = Some(Hold { release: Some(release), ended, held: Arc::clone(&flag) });
        // Nobody there to take it means that the sender of `release` is dropped: released at once.
        let _ = give.send(Ok(released));
        let left = deadline.saturating_sub(Duration::from_nanos(held.since()));
        let late = matches!(told.recv_timeout(left), Err(RecvTimeoutError::Timeout));
        flag.store(false, Ordering::Release);
        held.release();
        let _ = tell.send(Ended { deadline: late, after_ns: held.since() });
    }
}

/// Waits a little. It sleeps, and not too short: a thread that must run to come to a stand may be waiting for this processor.
/// Under a hypervisor, setting a timer takes up to 20 us. One that is due by then wakes the sleeper before it has given the
/// processor away: naps of 5 us kept it for 1.5 ms, with the process standing.
fn pause(idle: u32) {
    let tv_nsec = if idle < 50 { 50_000 } else { 100_000 };
    let _ = rustix::thread::nanosleep(&rustix::time::Timespec { tv_sec: 0, tv_nsec });
}

#[cfg(test)]
mod tests {
    use super::super::tests::programs;
    use super::*;
    use crate::capture::left::LeftBehind;

    fn sleeper() -> std::process::Child {
        std::process::Command::new("/bin/sleep").arg("60").spawn().expect("sleep")
    }

    /// A thread that was not seized yet runs a file whose server never answers, while the first one stands.
    #[test]
    fn who_does_not_come_back_from_running_a_program_leaves_nobody_standing() {
        let folder = tempfile::tempdir().expect("folder");
        let target = programs::silent(folder.path(), "executes");
        let pid = target.pid();
        let dir = Arc::new(open_dir(rustix::fs::CWD, format!("/proc/{pid}")).expect("its folder"));
        let (tids, _) = open_dir(&*dir, "task").and_then(|task| numbers(task, 100)).expect("its threads");
        let other = tids.into_iter().find(|tid| *tid != pid).expect("a second thread");
        // In `execve` and nowhere else for a while: by then it holds the lock.
        let execve = if cfg!(target_arch = "x86_64") { "59 " } else { "221 " };
        let (mut last, mut same) = (String::new(), 0_u32);
        let mut waits = move || {
            let line = std::fs::read_to_string(format!("/proc/{pid}/task/{other}/syscall")).expect("its system call");
            same = if line.starts_with(execve) && line == last { same + 1 } else { 0 };
            last = line;
            same > 20
        };
        let left = LeftBehind::default();
        let session = Session { dir, pid, hold: None, kept: None, asked: left.asked(), abandoned: Arc::default(), begun: clock::now() };
        let (give, given) = sync_channel(1);
        let stopping = std::thread::spawn(move || {
            let mut held = Held { all: Vec::new(), begun_ns: session.begun.mono_ns };
            session.seize_all(&mut held, vec![pid]).expect("seized");
            held.all.iter().for_each(|s| ptrace::interrupt(s.thread.tid).expect("interrupted"));
            let (mut buffer, mut bytes) = (vec![0; SET_BYTES_MAX], 0);
            session.wait(&mut held, &mut buffer, &mut bytes);
            programs::until("the other waits for the server", &mut waits);
            let new = session.seize_new(&mut held);
            let (known, stands) = (held.all.len(), held.all.iter().all(|s| s.stands));
            held.release();
            let _ = give.send((new, known, stands));
        });
        let told = given.recv_timeout(STOP_PATIENCE);
        assert_eq!(told, Ok((Ok(1), 1, true)), "it is left out, and the first one was not held for it");
        stopping.join().expect("thread");
        assert_eq!(left.count(), 1, "a thread waits");
        programs::until("it runs on", || !programs::state(pid).contains('t'));
        drop(target);
        programs::until("the thread came back", || left.count() == 0);
    }

    /// The number of a thread that ended after it was listed was given to a thread of another process.
    #[test]
    fn a_number_that_was_used_again_is_let_go_and_not_read() {
        let (mut own, mut other) = (sleeper(), sleeper());
        let dir = Arc::new(open_dir(rustix::fs::CWD, format!("/proc/{}", own.id())).expect("its folder"));
        let asked = crate::capture::left::LeftBehind::default().asked();
        let session = Session {
            dir,
            pid: own.id(),
            hold: None,
            kept: None,
            asked: Arc::clone(&asked),
            abandoned: Arc::default(),
            begun: clock::now(),
        };
        let stranger = other.id();
        std::thread::spawn(move || {
            let mut held = Held { all: Vec::new(), begun_ns: session.begun.mono_ns };
            session.seize_all(&mut held, vec![session.pid, stranger]).expect("seized");
            held.all.iter().for_each(|s| ptrace::interrupt(s.thread.tid).expect("interrupted"));
            let (mut buffer, mut bytes) = (vec![0; SET_BYTES_MAX], 0);
            session.wait(&mut held, &mut buffer, &mut bytes);
            let status = std::fs::read_to_string(format!("/proc/{stranger}/status")).expect("status");
            assert!(status.contains("TracerPid:\t0"), "it was let go: {status}");
            let (give, given) = sync_channel(1);
            session.hand_over(&give, held, 0, Seen::InTime(Err(Errno::NOENT)), None);
            let released = given.recv().expect("handed over").unwrap_or_else(|e| panic!("{e:?}"));
            let threads: Vec<(u32, bool)> = released.threads.iter().map(|t| (t.tid, t.sets.is_empty())).collect();
            assert_eq!(threads.len(), 1, "{threads:?}");
            assert!(threads.iter().all(|(tid, empty)| *tid != stranger && !*empty), "{threads:?}");
        })
        .join()
        .expect("thread");
        // A target that ended, and whose number another process has now, is not there.
        let dir = Arc::new(open_dir(rustix::fs::CWD, format!("/proc/{}", own.id())).expect("its folder"));
        own.kill().expect("killed");
        own.wait().expect("reaped");
        assert_eq!(stop(&dir, other.id(), None, None, &asked).err(), Some(NotStopped::Vanished));
        other.kill().expect("killed");
        other.wait().expect("reaped");
    }
}
