//! Starting a collection's threads and running its captures in order of volatility.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use exhibit_evidence::key::SigningKey;
use exhibit_evidence::manifest::{Kind, Status};
use exhibit_evidence::stream::tar::END_MARKER;

use super::assemble::{Assembler, Ended};
use super::bookmark::{Account, Passed, Pending, TakenUp};
use super::frames::FrameWriter;
use super::lanes::LanesIn;
use super::links::Links;
use super::own::Own;
use super::taker::Taker;
use super::{Memory, Progress, StreamFacts, Window, lanes};
use crate::budget::{Budget, Control, Pace};
use crate::capture::{Capture, Chosen, Content, NewItem, Output, Params, Stop, evidence_path};
use crate::clock;

/// Everything that a collection's threads need.
pub struct Plan {
    /// Which stream this will be.
    pub facts: StreamFacts,
    /// The captures with their parameters, already in order of volatility.
    pub captures: Vec<Chosen>,
    /// What it may use.
    pub budget: Budget,
    /// How much memory it may take.
    pub memory: Memory,
    /// Paths that this host's policy does not give.
    pub denied: globset::GlobSet,
    /// What is the agent's own.
    pub own: Own,
    /// Largest manifest that the coordinator takes.
    pub manifest_bytes_max: u64,
    /// Signs bookmarks for a later process of this agent; without it a stream that breaks off is never taken up.
    pub key: Option<Arc<SigningKey>>,
    /// Its switch.
    pub control: Arc<Control>,
    /// Where it shows how far it is.
    pub progress: Arc<Progress>,
}

/// Starts the threads of a collection and returns the window that they fill. They end by themselves: at the end of the
/// stream, or soon after [`Window::give_up`].
///
/// # Errors
/// When a thread cannot be started; nothing runs then.
pub fn start(plan: Plan) -> io::Result<Arc<Window>> {
    let window = Arc::new(Window::new(plan.memory.segments_in_flight));
    start_into(plan, None, Arc::clone(&window))?;
    Ok(window)
}

/// [`start`] into a window that is there already, from where an earlier process stood.
///
/// # Errors
/// As [`start`].
pub fn start_into(plan: Plan, from: Option<TakenUp>, window: Arc<Window>) -> io::Result<()> {
    let (ins, outs) = lanes::start(plan.memory.workers)?;
    let (ended_in, ended_out) = channel();
    if let Some(from) = &from {
        window.begin_at(from.segment);
    }
    let assembler = Assembler::new(&plan.facts, plan.key.clone(), from.as_ref(), outs, window, ended_out).map_err(io::Error::other)?;
    // Threads that were started before a later one fails end at once: their channels close when this function returns.
    std::thread::Builder::new().name("assemble".to_owned()).stack_size(STACK_BYTES).spawn(move || assembler.run())?;
    let thread = std::thread::Builder::new().name("capture".to_owned()).stack_size(CAPTURE_STACK_BYTES);
    thread.spawn(move || {
        crate::budget::step_back();
        let progress = Arc::clone(&plan.progress);
        capture_all(plan, from, ins, &ended_in);
        progress.ended.store(true, Ordering::Relaxed);
    })?;
    Ok(())
}

const STACK_BYTES: usize = 512 << 10;
/// Only touched pages count; captures walk deep trees iteratively, but their libraries may recurse.
const CAPTURE_STACK_BYTES: usize = 2 << 20;

/// The capture thread's state at its beginning, and the item that an earlier process left unfinished.
fn taker(plan: Plan, from: Option<TakenUp>, lanes: LanesIn) -> (Taker, Vec<Chosen>, bool, Option<Pending>) {
    let raw_offset = from.as_ref().map_or(0, |f| f.raw_offset);
    let (mut account, pending, passed, symlinks) = match from {
        Some(TakenUp { point, passed, symlinks, .. }) => (point.account, point.pending, passed, symlinks),
        None => Default::default(),
    };
    if account.started.is_none() {
        account.started = Some(clock::now());
        account.boot_id = crate::custody::boot_id();
    }
    plan.control.used(used_before(&account));
    plan.progress.items.store(account.items, Ordering::Relaxed);
    plan.progress.raw_bytes.store(raw_offset, Ordering::Relaxed);
    let taker = Taker {
        frames: FrameWriter::new(lanes, raw_offset),
        control: plan.control,
        pace: Pace::new(&plan.budget),
        progress: plan.progress,
        raw_bytes_max: plan.budget.raw_bytes_max,
        capture: String::new(),
        account,
        passed,
        again: false,
        links: Links::default(),
        denied: plan.denied,
        own: plan.own,
        encrypts: !plan.facts.encrypt_to.is_none(),
        manifest_bytes_max: plan.manifest_bytes_max,
        symlinks,
        kept: 0,
        closing_until: None,
        header: Vec::new(),
    };
    (taker, plan.captures, plan.key.is_some(), pending)
}

/// How long ago the collection began, as far as the host's clocks tell. After a restart of the host only the wall clock
/// does, and it may have been set back meanwhile: never less than the time since that restart.
fn used_before(account: &Account) -> Duration {
    let (Some(started), now) = (account.started, clock::now()) else { return Duration::ZERO };
    if account.boot_id == crate::custody::boot_id() {
        return Duration::from_nanos(now.mono_ns.saturating_sub(started.mono_ns));
    }
    let by_wall = u64::try_from(now.wall.unix_ns().saturating_sub(started.wall.unix_ns())).unwrap_or(0);
    Duration::from_nanos(by_wall.max(now.mono_ns))
}

fn capture_all(plan: Plan, from: Option<TakenUp>, lanes: LanesIn, ended: &Sender<Ended>) {
    let taken_up = from.is_some();
    let (mut taker, captures, marks, pending) = taker(plan, from, lanes);
    let first = taker.account.capture;
    for (place, (capture, params)) in captures.iter().enumerate().skip(first) {
        capture.name().clone_into(&mut taker.capture);
        // What one that failed inside left of its tables is not put any more.
        taker.kept = 0;
        taker.progress.set_capture(capture.name());
        taker.again = marks && capture.reads_again();
        if place != first || !taken_up {
            taker.account.capture = place;
            (taker.account.items_before, taker.account.taken_before) = (taker.account.items, taker.account.taken);
        }
        if place == first
            && let Some(pending) = pending.clone()
            && let Err(stop) = taker.finish_pending(pending)
        {
            taker.account.stopped = Some(stop);
        }
        if run_one(&mut taker, capture.as_ref(), params, place == first && taken_up).is_err() {
            // Not even the item that says so could be written: the stream was given up.
            return;
        }
        taker.passed = Passed::default();
    }
    let Taker { mut frames, account, raw_bytes_max, .. } = taker;
    let Account { items, by_status, commands, mut reasons, stopped, over_limit, started, .. } = account;
    if let Some(stop) = &stopped {
        reasons.insert(0, stop.to_string());
    }
    if over_limit > 0 {
        reasons.push(format!("{over_limit} items left out: the limit of {raw_bytes_max} raw bytes"));
    }
    let end = Ended {
        items,
        by_status,
        complete: reasons.is_empty(),
        reason: (!reasons.is_empty()).then(|| exhibit_evidence::text::one_line(&reasons.join("; "), 1000)),
        started: started.unwrap_or_else(clock::now),
        ended: clock::now(),
        commands,
    };
    // The end is announced before the last frame is handed on: whoever sees the lanes end then finds it.
    if frames.write(&END_MARKER).is_ok() && ended.send(end).is_ok() {
        let _ = frames.finish();
    }
}

/// Runs a capture, as the host is now.
fn run_capture(taker: &mut Taker, capture: &dyn Capture, params: &Params) -> Result<(), Stop> {
    crate::capture::renew();
    capture.run(params, taker)
}

/// Runs one capture, which an earlier process may have begun. Whatever happens, it leaves at least one item behind.
fn run_one(taker: &mut Taker, capture: &dyn Capture, params: &Params, begun_before: bool) -> Result<(), Stop> {
    let name = capture.name();
    let begun = clock::now();
    let stopped = taker.account.stopped.clone();
    let result = match &stopped {
        Some(stop) if begun_before => Err(stop.clone()),
        Some(stop) => Err(Stop::Fatal(format!("not begun: {stop}"))),
        None => catch_unwind(AssertUnwindSafe(|| run_capture(taker, capture, params)))
            .unwrap_or_else(|_| Err(Stop::Fatal("the capture failed inside (a bug; please report it)".to_owned()))),
    };
    let account = &mut taker.account;
    let nothing = account.items == account.items_before;
    let (status, reason) = match result {
        // A capture of which nothing was taken is no success, whatever its items say.
        Ok(()) if !nothing => {
            if account.taken == account.taken_before {
                account.reasons.push(format!("{name}: nothing was taken, see its items"));
            }
            return Ok(());
        }
        Err(Stop::Nothing(why)) if !nothing => {
            account.reasons.push(format!("{name}: {why}"));
            return Ok(());
        }
        Ok(()) | Err(Stop::Nothing(_)) => {
            account.reasons.push(format!("{name}: it found nothing"));
            (Status::Missing, "the capture found nothing".to_owned())
        }
        Err(Stop::Fatal(why)) if stopped.is_some() => (Status::Skipped, why),
        Err(Stop::Fatal(why)) => {
            account.reasons.push(format!("{name}: {why}"));
            (Status::Error, why)
        }
        Err(stop) => {
            let why = format!("not finished: {stop}");
            account.stopped = Some(stop);
            (Status::Partial, why)
        }
    };
    // `put` refuses once the collection was told to end, but records the item all the same.
    let item = NewItem::new(evidence_path(name), Kind::Unknown, begun, "capture").with_status(status, reason);
    let items = taker.account.items;
    match taker.put(item, Content::None) {
        Err(stop) if taker.account.items == items => Err(stop),
        _ => Ok(()),
    }
}
