//! Starting a collection's threads and running its captures in order of volatility.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use exhibit_evidence::manifest::{Kind, Status};
use exhibit_evidence::stream::reader::Symlinks;
use exhibit_evidence::stream::tar::END_MARKER;

use super::assemble::{Assembler, Ended};
use super::frames::FrameWriter;
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
    let (ins, outs) = lanes::start(plan.memory.workers)?;
    let (ended_in, ended_out) = channel();
    let assembler = Assembler::new(&plan.facts, outs, Arc::clone(&window), ended_out).map_err(io::Error::other)?;
    // Threads that were started before a later one fails end at once: their channels close when this function returns.
    std::thread::Builder::new().name("assemble".to_owned()).stack_size(STACK_BYTES).spawn(move || assembler.run())?;
    let thread = std::thread::Builder::new().name("capture".to_owned()).stack_size(CAPTURE_STACK_BYTES);
    thread.spawn(move || {
        crate::budget::step_back();
        let progress = Arc::clone(&plan.progress);
        capture_all(plan, FrameWriter::new(ins), &ended_in);
        progress.ended.store(true, std::sync::atomic::Ordering::Relaxed);
    })?;
    Ok(window)
}

const STACK_BYTES: usize = 512 << 10;
/// Only touched pages count; captures walk deep trees iteratively, but their libraries may recurse.
const CAPTURE_STACK_BYTES: usize = 2 << 20;

fn capture_all(plan: Plan, frames: FrameWriter, ended: &Sender<Ended>) {
    let started = clock::now();
    let mut taker = Taker {
        frames,
        control: plan.control,
        pace: Pace::new(&plan.budget),
        progress: plan.progress,
        raw_bytes_max: plan.budget.raw_bytes_max,
        capture: String::new(),
        items: 0,
        by_status: super::ByStatus::new(),
        links: Links::default(),
        commands: Vec::new(),
        denied: plan.denied,
        own: plan.own,
        manifest_bytes_max: plan.manifest_bytes_max,
        manifest_bytes: 0,
        symlinks: Symlinks::default(),
        taken: 0,
        holes: 0,
        over_limit: 0,
    };
    let mut reasons = Vec::new();
    let mut stopped: Option<Stop> = None;
    for (capture, params) in &plan.captures {
        if run_one(&mut taker, capture.as_ref(), params, &mut stopped, &mut reasons).is_err() {
            // Not even the item that says so could be written: the stream was given up.
            return;
        }
    }
    if let Some(stop) = &stopped {
        reasons.insert(0, stop.to_string());
    }
    if taker.over_limit > 0 {
        reasons.push(format!("{} items left out: the limit of {} raw bytes", taker.over_limit, taker.raw_bytes_max));
    }
    let Taker { mut frames, items, by_status, commands, .. } = taker;
    let end = Ended {
        items,
        by_status,
        complete: reasons.is_empty(),
        reason: (!reasons.is_empty()).then(|| exhibit_evidence::text::escape_bounded(&reasons.join("; "), 1000)),
        started,
        ended: clock::now(),
        commands,
    };
    // The end is announced before the last frame is handed on: whoever sees the lanes end then finds it.
    if frames.write(&END_MARKER).is_ok() && ended.send(end).is_ok() {
        let _ = frames.finish();
    }
}

/// Runs one capture. Whatever happens, it leaves at least one item behind.
fn run_one(
    taker: &mut Taker,
    capture: &dyn Capture,
    params: &Params,
    stopped: &mut Option<Stop>,
    reasons: &mut Vec<String>,
) -> Result<(), Stop> {
    let name = capture.name();
    name.clone_into(&mut taker.capture);
    taker.progress.set_capture(name);
    let (before, taken_before) = (taker.items, taker.taken);
    let begun = clock::now();
    let result = match stopped {
        Some(stop) => Err(Stop::Fatal(format!("not begun: {stop}"))),
        None => catch_unwind(AssertUnwindSafe(|| capture.run(params, &mut *taker)))
            .unwrap_or_else(|_| Err(Stop::Fatal("the capture failed inside (a bug; please report it)".to_owned()))),
    };
    let nothing = taker.items == before;
    let (status, reason) = match result {
        // A capture of which nothing was taken is no success, whatever its items say.
        Ok(()) if !nothing => {
            if taker.taken == taken_before {
                reasons.push(format!("{name}: nothing was taken, see its items"));
            }
            return Ok(());
        }
        Err(Stop::Nothing(why)) if !nothing => {
            reasons.push(format!("{name}: {why}"));
            return Ok(());
        }
        Ok(()) | Err(Stop::Nothing(_)) => {
            reasons.push(format!("{name}: it found nothing"));
            (Status::Missing, "the capture found nothing".to_owned())
        }
        Err(Stop::Fatal(why)) if stopped.is_some() => (Status::Skipped, why),
        Err(Stop::Fatal(why)) => {
            reasons.push(format!("{name}: {why}"));
            (Status::Error, why)
        }
        Err(stop) => {
            let why = format!("not finished: {stop}");
            *stopped = Some(stop);
            (Status::Partial, why)
        }
    };
    // `put` refuses once the collection was told to end, but records the item all the same.
    let item = NewItem::new(evidence_path(name), Kind::Unknown, begun, "capture").with_status(status, reason);
    let items = taker.items;
    match taker.put(item, Content::None) {
        Err(stop) if taker.items == items => Err(stop),
        _ => Ok(()),
    }
}
