//! The pipeline: captures -> tar and SHA-256 -> raw frames -> compression -> segments -> window.
//!
//! ```text
//! capture thread                                       assembler thread         session's thread
//! Taker, FrameCompressor ───────────────── frame ────> SegmentBuilder ──> Window ──> Uploader
//!      │                                 <── empty ──                <── freed by acknowledgement
//!      │                  lanes (one thread each)        │
//!      └── raw frame ──>  FrameCompressor ── frame ──────┘
//!      <── empty buffer ──               <── empty ──
//! ```
//! Every arrow is bounded, so a slow peer holds the capture thread back and memory stays what [`memory`] says. The capture
//! thread compresses a frame itself when no lane can take it at once, and tells the assembler, in order, where each comes
//! from.

mod assemble;
pub mod bookmark;
mod content;
mod data;
mod frames;
mod header;
mod lanes;
mod level;
mod line;
mod links;
mod making;
pub mod memory;
mod own;
mod run;
mod taker;
mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};

use exhibit_evidence::age::Recipients;
use exhibit_evidence::manifest::{Header, Status};
use exhibit_evidence::record::ManifestRef;
use exhibit_evidence::{AgentId, CaseId, CollectionId, Digest};

pub use memory::Memory;
pub use own::Own;
pub use run::{Plan, start, start_into};
pub use window::{Next, Segment, Window};

use crate::capture::Moment;

/// Which stream this is: what the manifest's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFacts {
    /// The case.
    pub case: CaseId,
    /// The collection.
    pub collection: CollectionId,
    /// The stream, from 1.
    pub stream: u32,
    /// This agent.
    pub agent: AgentId,
    /// Digest of the order's envelope.
    pub order: Digest,
    /// To whom its segments are encrypted: the case's recipients, none for a case that is not encrypted.
    pub encrypt_to: Recipients,
}

impl StreamFacts {
    fn header(&self) -> Header {
        Header {
            format: exhibit_evidence::manifest::FORMAT.to_owned(),
            case: self.case.clone(),
            collection: self.collection.clone(),
            stream: exhibit_evidence::layout::StreamNumber(self.stream),
            agent: self.agent.clone(),
            order: self.order,
            encrypted_to: self.encrypt_to.clone(),
        }
    }
}

/// What a stream became; everything that the acquisition record says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The manifest's last line, which the uploader sends after the last segment.
    pub end_line: Vec<u8>,
    /// The whole manifest, by digest and totals.
    pub manifest: ManifestRef,
    /// True when every capture ran to its end and nothing was left out for a limit.
    pub complete: bool,
    /// What cut it short.
    pub reason: Option<String>,
    /// Clocks when the first capture began.
    pub started: Moment,
    /// Clocks after the last one.
    pub ended: Moment,
    /// Programs that were run.
    pub commands: Vec<String>,
}

/// What the progress display shows; written by the pipeline, read by the session.
#[derive(Debug, Default)]
pub struct Progress {
    /// Items so far.
    pub items: AtomicU64,
    /// Raw bytes so far.
    pub raw_bytes: AtomicU64,
    /// Raw bytes that are expected in all, as far as captures said; 0 when none did.
    pub expected_raw_bytes: AtomicU64,
    /// Bytes of segments sent so far.
    pub sent_bytes: AtomicU64,
    /// The capture thread is done.
    pub ended: AtomicBool,
    current: Mutex<(String, String)>,
}

impl Progress {
    /// The capture that runs and what it is at.
    #[must_use]
    pub fn current(&self) -> (String, String) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_capture(&self, capture: &str) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (capture.to_owned(), String::new());
    }

    fn set_note(&self, note: &str) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.1.clear();
        current.1.push_str(&exhibit_evidence::text::escape_bounded(note, NOTE_CHARS_MAX));
    }
}

/// What a coordinator takes (512 bytes) in characters of at most four bytes: one that is longer would cost the session.
pub(crate) const NOTE_CHARS_MAX: usize = 128;

/// Items per status.
pub(crate) type ByStatus = BTreeMap<Status, u64>;
