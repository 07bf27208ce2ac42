//! The window: complete segments that the coordinator has not acknowledged. It is the agent's whole memory of what was
//! sent, so an upload can break and continue without touching the host again.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use exhibit_evidence::manifest;
use tokio::sync::Notify;

use super::Outcome;

/// A complete segment with its manifest lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Number, size, digest, place.
    pub facts: manifest::Segment,
    /// The bytes as they will be stored.
    pub bytes: Bytes,
    /// The manifest lines that travel with it: the header before segment 0, the segment's line, its items.
    pub lines: Bytes,
    /// Where the reading stands after it, signed for a later process of this agent; empty when it could not go on here.
    pub bookmark: Bytes,
}

/// What comes next for the uploader.
#[derive(Debug, Clone)]
pub enum Next {
    /// This segment.
    Segment(Arc<Segment>),
    /// Every segment was made; this ends the stream.
    Finished(Arc<Outcome>),
    /// The pipeline failed; there will be no end.
    Failed(String),
    /// The segment was acknowledged before and is gone.
    Gone,
}

/// Shared by the assembler, which blocks while it is full, and the uploader.
#[derive(Debug)]
pub struct Window {
    state: Mutex<State>,
    space: Condvar,
    ready: Notify,
    segments_max: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Segment>>,
    /// Number of the first segment that waits.
    first: u32,
    /// Segments that were given to the uploader, or by an earlier process to the coordinator.
    handed: u32,
    finished: Option<Arc<Outcome>>,
    failed: Option<String>,
    given_up: bool,
    /// Buffers of acknowledged segments.
    spare: Vec<Vec<u8>>,
}

impl Window {
    /// A window of `segments_max` segments, at least one.
    #[must_use]
    pub fn new(segments_max: usize) -> Self {
        Self { state: Mutex::default(), space: Condvar::new(), ready: Notify::new(), segments_max: segments_max.max(1) }
    }

    /// Begins with segment `n`: the ones before it are with the coordinator. Before anything was added.
    pub fn begin_at(&self, n: u32) {
        let mut state = self.lock();
        (state.first, state.handed) = (n, n);
    }

    /// Adds the next segment; blocks while the window is full. False when nobody wants the stream any more.
    pub(super) fn push(&self, segment: Segment) -> bool {
        let mut state = self.lock();
        while state.waiting.len() >= self.segments_max && !state.given_up {
            state = self.space.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.given_up {
            return false;
        }
        state.waiting.push_back(Arc::new(segment));
        drop(state);
        self.ready.notify_one();
        true
    }

    pub(super) fn finish(&self, outcome: Outcome) {
        self.lock().finished = Some(Arc::new(outcome));
        self.ready.notify_one();
    }

    pub(super) fn fail(&self, why: impl Into<String>) {
        let mut state = self.lock();
        if state.finished.is_none() {
            state.failed.get_or_insert(why.into());
        }
        drop(state);
        self.ready.notify_one();
    }

    /// Nobody will take the stream: the pipeline ends as soon as it notices.
    pub fn give_up(&self) {
        let mut state = self.lock();
        state.given_up = true;
        state.waiting.clear();
        state.spare.clear();
        drop(state);
        self.space.notify_all();
        self.ready.notify_one();
    }

    /// A buffer to make a segment in, if one was freed.
    pub(super) fn spare(&self) -> Option<Vec<u8>> {
        self.lock().spare.pop()
    }

    /// Number of the first segment that is not acknowledged.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.lock().first
    }

    /// Segments that can have reached the coordinator: those that [`Window::next`] gave, and those before
    /// [`Window::begin_at`].
    #[must_use]
    pub fn handed(&self) -> u32 {
        self.lock().handed
    }

    /// Waits for segment `n` or for the end. One uploader waits at a time; cancel safe.
    pub async fn next(&self, n: u32) -> Next {
        loop {
            if let Some(next) = self.look(n) {
                return next;
            }
            self.ready.notified().await;
        }
    }

    fn look(&self, n: u32) -> Option<Next> {
        let mut state = self.lock();
        let Some(index) = n.checked_sub(state.first) else { return Some(Next::Gone) };
        if let Some(segment) = state.waiting.get(index as usize).map(Arc::clone) {
            state.handed = state.handed.max(n.saturating_add(1));
            return Some(Next::Segment(segment));
        }
        if let Some(outcome) = &state.finished {
            return Some(Next::Finished(Arc::clone(outcome)));
        }
        if state.given_up {
            return Some(Next::Failed("the stream was given up".to_owned()));
        }
        state.failed.clone().map(Next::Failed)
    }

    /// Forgets every segment up to and including `n`: the coordinator made them durable. Returns how many that were.
    pub fn acknowledge(&self, n: u32) -> usize {
        let mut state = self.lock();
        let mut freed = 0_usize;
        while state.first <= n
            && let Some(segment) = state.waiting.pop_front()
        {
            // A later segment is made in its buffer, unless somebody still looks at it. There are never more buffers than a
            // full window and the segment under construction have: to touch a fresh one costs as much as to fill it.
            if let Some(bytes) = Arc::into_inner(segment).map(|s| s.bytes).filter(Bytes::is_unique)
                && state.waiting.len().saturating_add(state.spare.len()) < self.segments_max
            {
                state.spare.push(Vec::from(bytes));
            }
            state.first = state.first.saturating_add(1);
            freed = freed.saturating_add(1);
        }
        drop(state);
        if freed > 0 {
            self.space.notify_all();
        }
        freed
    }

    /// Segments that wait for their acknowledgement.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// True when no segment waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change above is complete before the lock is released.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
