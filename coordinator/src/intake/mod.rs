//! Intake: takes streams from agents, believing nothing.
//!
//! A segment is acknowledged when it was checked (`check`), is durable in the store and its state is committed in the
//! catalog, in that order. What an agent does wrong ends its upload with the field and the value; what was acknowledged
//! before stays.

mod admission;
mod check;
mod finish;
mod member;
mod pieces;
mod stages;
mod take_up;
mod tools;
mod turned_away;
mod upload;

use bytes::Bytes;
use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::Segment;

pub use admission::{Limits, Uploads};
pub use check::{BadUpload, StreamCheck};
pub(crate) use finish::end_finished;
pub(crate) use pieces::parts_of;
pub use take_up::{Standing, take_up};
pub use upload::{Upload, open};
pub(crate) use upload::{empty_stream, encrypt_to, restore};

/// First message of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The collection.
    pub collection: CollectionId,
    /// The stream.
    pub stream: StreamNumber,
    /// The process that sends.
    pub instance: crate::dispatch::Instance,
}

/// What an agent sends after the opening.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Begins a segment: its facts as announced, and how many bytes of manifest lines go with it.
    Start(Segment, u64),
    /// Bytes of the segment.
    Data(Bytes),
    /// Manifest lines.
    Lines(Bytes),
    /// Ends the segment with this number, and the agent's bookmark, empty for none.
    End(u32, Vec<u8>),
    /// Ends the stream.
    Finish(Box<Finish>),
}

/// The end of a stream, as the agent says.
#[derive(Debug, Clone)]
pub struct Finish {
    /// Segments.
    pub segments: u32,
    /// SHA-256 of the manifest.
    pub manifest_sha256: Digest,
    /// Bytes of the manifest.
    pub manifest_bytes: u64,
    /// Acquisition record.
    pub acquisition: Envelope,
}

/// What the coordinator answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Where to begin.
    Status {
        /// First segment that is not there.
        next_segment: u32,
        /// Nothing need be sent.
        finished: bool,
    },
    /// A segment is durable.
    Ack(u32),
    /// The stream is received whole: the receipt's envelope.
    Done(Vec<u8>),
    /// Send nothing now.
    Pause(String),
    /// Go on.
    Resume,
}
