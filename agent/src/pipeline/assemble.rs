//! The assembler: frames and lines become segments, segments become the manifest's digest and go into the window.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::Hasher;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::manifest::{End, Line, Seam};
use exhibit_evidence::record::ManifestRef;
use exhibit_evidence::stream::SEGMENT_TARGET_BYTES;

use super::bookmark::{Point, TakenUp};
use super::frames::FRAME_BYTES;
use super::lanes::{LanesOut, PackedFrame};
use super::level::Level;
use super::making::Making;
use super::{ByStatus, Outcome, Segment, StreamFacts, Window};
use crate::capture::Moment;
use crate::clock;

/// What the capture thread says when it has written the last byte.
#[derive(Debug)]
pub(super) struct Ended {
    pub items: u64,
    pub by_status: ByStatus,
    pub complete: bool,
    pub reason: Option<String>,
    pub started: Moment,
    pub ended: Moment,
    pub commands: Vec<String>,
}

pub(super) struct Assembler {
    /// Taken out while the assembler runs.
    pub lanes: Option<LanesOut>,
    level: Arc<Level>,
    pub window: Arc<Window>,
    pub ended: Receiver<Ended>,
    manifest: Hasher,
    making: Option<Making>,
    lines: Vec<u8>,
    raw_offset: u64,
    stored_bytes: u64,
    segments: u32,
    facts: StreamFacts,
    /// Signs bookmarks; without it there are none.
    key: Option<Arc<SigningKey>>,
    /// For the first segment of a stream that is taken up.
    seam: Option<Seam>,
    /// Where the capture thread stood after the last frame.
    point: Option<Box<Point>>,
    /// When the segment before was handed on.
    cut_at: Duration,
}

/// Why assembling ended without a stream.
#[derive(Debug)]
enum Broken {
    /// The window was given up: somebody else knows why.
    GivenUp,
    /// Ours.
    Failed(String),
}

impl Assembler {
    pub fn new(
        facts: &StreamFacts,
        key: Option<Arc<SigningKey>>,
        from: Option<&TakenUp>,
        lanes: LanesOut,
        window: Arc<Window>,
        ended: Receiver<Ended>,
    ) -> Result<Self, String> {
        let mut new = Self {
            level: Arc::clone(&lanes.level),
            lanes: Some(lanes),
            window,
            ended,
            manifest: Hasher::new(),
            making: None,
            lines: Vec::new(),
            raw_offset: 0,
            stored_bytes: 0,
            segments: 0,
            facts: facts.clone(),
            key,
            seam: None,
            point: None,
            cut_at: clock::monotonic(),
        };
        if let Some(from) = from {
            new.manifest = from.manifest.clone();
            (new.segments, new.raw_offset, new.stored_bytes) = (from.segment, from.raw_offset, from.stored_bytes);
            new.seam = Some(Seam { at: clock::wall(), boot_id: from.point.account.boot_id.clone() });
        } else {
            new.lines = Line::Header(facts.header()).to_bytes()?;
        }
        Ok(new)
    }

    /// Runs until the lanes are done or nobody wants the stream any more.
    pub fn run(mut self) {
        crate::budget::step_back();
        match self.assemble() {
            Ok(outcome) => self.window.finish(outcome),
            Err(Broken::GivenUp) => self.window.fail("the stream was given up"),
            Err(Broken::Failed(why)) => self.window.fail(why),
        }
    }

    fn assemble(&mut self) -> Result<Outcome, Broken> {
        let lost = || Broken::Failed("the pipeline ended before the stream did".to_owned());
        let lanes = self.lanes.take().ok_or_else(lost)?;
        while lanes.take_next(lost(), |packed| self.take(packed))? {}
        // Sent only after the last byte: without it something died on the way, and what came so far is not a stream.
        let ended = self.ended.try_recv().map_err(|_| lost())?;
        if self.making.is_some() || !self.lines.is_empty() {
            self.cut()?;
        }
        self.outcome(ended)
    }

    /// Takes a frame; gives its buffer back.
    fn take(&mut self, packed: PackedFrame) -> Result<Vec<u8>, Broken> {
        let PackedFrame { frame, raw_bytes, lines, point, cut } = packed;
        if raw_bytes > 0 {
            if self.making.as_ref().is_some_and(Making::is_at_bound) {
                self.cut()?;
            }
            let mut making = match self.making.take() {
                Some(making) => making,
                None => {
                    Making::begin(self.segments, self.raw_offset, self.window.spare(), &self.facts.encrypt_to).map_err(Broken::Failed)?
                }
            };
            making.push(&frame, raw_bytes).map_err(Broken::Failed)?;
            self.making = Some(making);
            self.raw_offset = self.raw_offset.saturating_add(raw_bytes as u64);
        }
        self.lines.extend_from_slice(&lines);
        let together = self.making.as_ref().map(|b| b.len().saturating_add(self.lines.len()));
        // A little earlier where the stream can be taken up after this frame: the next one may be no such place.
        let early = if point.is_some() { FRAME_BYTES } else { 0 };
        let enough = SEGMENT_TARGET_BYTES.saturating_sub(early);
        self.point = point;
        if together.is_some_and(|bytes| cut || bytes >= enough) {
            self.cut()?;
        }
        Ok(frame)
    }

    /// Ends the segment under construction and waits for room in the window.
    fn cut(&mut self) -> Result<(), Broken> {
        let making = self.making.take().ok_or_else(|| Broken::Failed("manifest lines without a segment".to_owned()))?;
        let mut built = making.finish().map_err(Broken::Failed)?;
        built.facts.seam = self.seam.take();
        let segment_line = Line::Segment(built.facts.clone()).to_bytes().map_err(Broken::Failed)?;
        let mut lines = std::mem::take(&mut self.lines);
        // The header is the first line of the manifest and stands before the first segment's line.
        let at = if self.segments == 0 { lines.iter().position(|b| *b == b'\n').map_or(0, |i| i.saturating_add(1)) } else { 0 };
        lines.splice(at..at, segment_line);
        self.manifest.update(&lines);
        self.segments = self.segments.saturating_add(1);
        self.stored_bytes = self.stored_bytes.saturating_add(built.facts.size);
        let bookmark = self.bookmark();
        let segment = Segment { facts: built.facts, bytes: Bytes::from(built.bytes), lines: Bytes::from(lines), bookmark };
        let ready = clock::monotonic();
        let taken = self.window.push(segment);
        let now = clock::monotonic();
        self.level.hear(now.saturating_sub(self.cut_at), now.saturating_sub(ready));
        self.cut_at = now;
        if taken { Ok(()) } else { Err(Broken::GivenUp) }
    }

    fn bookmark(&mut self) -> Bytes {
        let (Some(point), Some(key)) = (self.point.take(), &self.key) else { return Bytes::new() };
        let at = (self.segments, self.raw_offset, self.stored_bytes);
        Bytes::from(super::bookmark::write(&self.facts, at, &self.manifest, *point, key))
    }

    fn outcome(&mut self, ended: Ended) -> Result<Outcome, Broken> {
        let end = End {
            complete: true,
            segments: self.segments,
            stored_bytes: self.stored_bytes,
            raw_bytes: self.raw_offset,
            items: ended.items,
            by_status: ended.by_status,
        };
        let end_line = Line::End(end.clone()).to_bytes().map_err(Broken::Failed)?;
        self.manifest.update(&end_line);
        let hasher = std::mem::take(&mut self.manifest);
        Ok(Outcome {
            end_line,
            manifest: ManifestRef {
                size: hasher.bytes(),
                sha256: hasher.finish(),
                segments: end.segments,
                stored_bytes: end.stored_bytes,
                raw_bytes: end.raw_bytes,
                items: end.items,
                by_status: end.by_status,
            },
            complete: ended.complete,
            reason: ended.reason,
            started: ended.started,
            ended: ended.ended,
            commands: ended.commands,
        })
    }
}
