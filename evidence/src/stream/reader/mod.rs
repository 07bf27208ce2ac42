//! Reading the raw stream as it arrives from a peer that may lie.
//!
//! [`Parser`] is pushed bytes in pieces of any size and needs memory for one member's head only (at most about 4 MiB, in
//! practice a few kilobytes). Each member's head is decoded, written again by [`super::tar::encode`] and compared with
//! what arrived: whatever differs from the one form that the writer makes is refused, so two readers cannot see
//! different things in the same bytes and nothing hides in fields that nobody reads.

mod error;
mod head;
mod links;

use std::collections::BTreeMap;

pub use error::{Fault, StreamError};
use head::Draft;
pub use links::{LINKABLE_MAX, Linkable, SYMLINKS_MAX, Symlinks, name_hash};

use super::tar::{self, Extent, Head, HeadKind, PAX_BYTES_MAX};
use super::ustar::{BLOCK, Fields, flag};
use crate::digest::{Digest, Hasher};
use crate::manifest::Location;
use crate::time::FileTime;

/// Receives what a [`Parser`] finds, in the order of the stream.
pub trait Sink {
    /// A member's head is complete.
    fn begin(&mut self, _member: &MemberHead) {}
    /// Content of the current member: data only, in order; what is skipped between calls is a hole and reads as zeros.
    fn data(&mut self, _logical_offset: u64, _bytes: &[u8]) {}
    /// The member has ended, its padding included.
    fn end(&mut self, member: &Member);
}

/// A sink that keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ignore;

impl Sink for Ignore {
    fn end(&mut self, _member: &Member) {}
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberKind {
    /// A regular file, with holes when `extents` is there.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; `target` says where to.
    Symlink,
    /// Another name of the member that `target` names.
    Hardlink,
}

/// What a member's headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberHead {
    /// Member name, a clean relative path.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Logical size in bytes, holes included; 0 unless a file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of content.
    pub mtime: Option<FileTime>,
    /// Last access.
    pub atime: Option<FileTime>,
    /// Last change of the inode.
    pub ctime: Option<FileTime>,
    /// Target of a symbolic or hard link.
    pub target: Option<Vec<u8>>,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Data ranges of a sparse file; `None` when all bytes are stored.
    pub extents: Option<Vec<Extent>>,
}

impl MemberHead {
    /// The same member as the writer takes it.
    #[must_use]
    pub fn as_head(&self) -> Head<'_> {
        let target = self.target.as_deref().unwrap_or_default();
        let kind = match (self.kind, &self.extents) {
            (MemberKind::File, Some(extents)) => HeadKind::Sparse { size: self.size, extents },
            (MemberKind::File, None) => HeadKind::File { size: self.size },
            (MemberKind::Directory, _) => HeadKind::Directory,
            (MemberKind::Symlink, _) => HeadKind::Symlink { target },
            (MemberKind::Hardlink, _) => HeadKind::Hardlink { target },
        };
        Head {
            name: &self.name,
            kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            atime: self.atime,
            ctime: self.ctime,
            xattrs: &self.xattrs,
        }
    }
}

/// A member that has passed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its headers.
    pub head: MemberHead,
    /// SHA-256 of a file's logical content, holes as zeros. `None` for what is not a file.
    pub sha256: Option<Digest>,
    /// Where its first header block begins in the raw stream.
    pub offset: u64,
    /// Bytes from there to the end of its padding.
    pub length: u64,
}

impl Member {
    /// The member's place as a manifest states it.
    #[must_use]
    pub const fn location(&self) -> Location {
        Location { offset: self.offset, length: self.length }
    }
}

/// What one stream may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of holes in the whole stream. A hole is a few bytes in the stream, but it is hashed as zeros:
    /// 1 TiB takes about 10 minutes of one core with SHA instructions, 30 without. [`Parser::push`] does not return
    /// while it hashes one, so call it where blocking is allowed.
    pub hole_bytes_max: u64,
}

/// See [`Limits::hole_bytes_max`].
pub const HOLE_BYTES_MAX: u64 = 1 << 40;

impl Default for Limits {
    fn default() -> Self {
        Self { hole_bytes_max: HOLE_BYTES_MAX }
    }
}

/// The push parser. After an error it stays failed and repeats it.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    holes: u64,
    links: Symlinks,
    /// Offset in the stream of the first byte of `held`.
    start: u64,
    /// The raw bytes of the current member's head: ustar blocks, pax records, sparse map. Kept until the member ends,
    /// because a snapshot is these bytes and a count.
    held: Vec<u8>,
    /// Scratch for writing the head again.
    again: Vec<u8>,
    state: State,
    /// The head is that of a snapshot, whose hash has passed the holes already.
    restoring: bool,
    failed: Option<StreamError>,
}

#[derive(Debug)]
enum State {
    /// Collecting `held` up to `want` bytes, which complete `step`.
    Head {
        step: Step,
        want: usize,
    },
    Body(Box<Body>),
    /// The end marker has passed (and is in `held`).
    Ended,
}

#[derive(Debug)]
enum Step {
    First,
    Pax { records: usize },
    Main { records: usize },
    Map { draft: Box<Draft>, begins: usize, newlines: u64 },
    SecondZero,
}

#[derive(Debug)]
struct Body {
    head: MemberHead,
    hasher: Option<Hasher>,
    /// Stored data bytes, and the zeros after them.
    data: u64,
    padding: u64,
    /// How many of both have passed.
    passed: u64,
    /// The current extent of a sparse file and how much of it has passed.
    extent: usize,
    extent_passed: u64,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// A parser with other limits.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        let (held, again) = (Vec::new(), Vec::new());
        Self { limits, holes: 0, links: Symlinks::default(), start: 0, held, again, state: FIRST, restoring: false, failed: None }
    }

    /// A parser for a range of a stream that begins with a member's first header at this raw offset, as a manifest's
    /// location gives it.
    #[must_use]
    pub fn at(raw_offset: u64) -> Self {
        Self { start: raw_offset, ..Self::new() }
    }

    /// Takes the next bytes of the raw stream, any number of them.
    ///
    /// # Errors
    /// When the bytes are not a stream of ours. What the sink was given before stays true of the bytes before.
    pub fn push(&mut self, raw: &[u8], sink: &mut dyn Sink) -> Result<(), StreamError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut rest = raw;
        while !rest.is_empty() {
            match self.step(rest, sink) {
                Ok(left) => rest = left,
                Err(fault) => {
                    let error = StreamError { offset: self.raw_offset(), fault };
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Checks that the stream is whole: the end marker has passed.
    ///
    /// # Errors
    /// When it has not, or when [`Parser::push`] had failed.
    pub fn finish(&self) -> Result<(), StreamError> {
        match (&self.failed, &self.state) {
            (Some(error), _) => Err(error.clone()),
            (None, State::Ended) => Ok(()),
            (None, _) => Err(StreamError { offset: self.raw_offset(), fault: Fault::Truncated }),
        }
    }

    /// Bytes of the stream that have passed.
    #[must_use]
    pub fn raw_offset(&self) -> u64 {
        let passed = match &self.state {
            State::Body(body) => body.passed,
            _ => 0,
        };
        self.start.saturating_add(self.held.len() as u64).saturating_add(passed)
    }

    /// True when the last byte that passed ended a member, or nothing has passed yet.
    #[must_use]
    pub fn between_members(&self) -> bool {
        self.failed.is_none() && self.held.is_empty()
    }

    fn step<'a>(&mut self, raw: &'a [u8], sink: &mut dyn Sink) -> Result<&'a [u8], Fault> {
        match &mut self.state {
            State::Head { want, .. } => {
                let missing = want.saturating_sub(self.held.len());
                let (taken, rest) = raw.split_at(missing.min(raw.len()));
                self.held.extend_from_slice(taken);
                if taken.len() == missing {
                    self.head_piece(sink)?;
                }
                Ok(rest)
            }
            State::Body(body) => {
                let rest = body.take(raw, sink)?;
                if body.is_over() {
                    self.end_member(sink);
                }
                Ok(rest)
            }
            State::Ended => Err(Fault::AfterEnd),
        }
    }

    /// `held` has reached the length that was wanted: find out what it is and what is wanted next.
    fn head_piece(&mut self, sink: &mut dyn Sink) -> Result<(), Fault> {
        let State::Head { step, want } = std::mem::replace(&mut self.state, FIRST) else { return Ok(()) };
        let last = want.checked_sub(BLOCK).and_then(|at| self.held.get(at..)).and_then(|b| b.first_chunk::<BLOCK>());
        let Some(block) = last else { return Err(Fault::Header("length")) };
        let zero = block.iter().all(|b| *b == 0);
        match step {
            Step::First if zero => self.collect(Step::SecondZero, BLOCK),
            Step::First => match Fields::parse(block)? {
                fields if fields.flag == flag::PAX => {
                    let records = usize::try_from(fields.size).ok().filter(|s| (1..=PAX_BYTES_MAX).contains(s));
                    let records = records.ok_or(Fault::PaxSize(fields.size))?;
                    self.collect(Step::Pax { records }, records.next_multiple_of(BLOCK));
                }
                fields => self.main(Draft::new(fields, &[])?, sink)?,
            },
            Step::Pax { records } => self.collect(Step::Main { records }, BLOCK),
            Step::Main { .. } if zero => return Err(Fault::PaxAlone),
            Step::Main { records } => {
                let fields = Fields::parse(block)?;
                if fields.flag == flag::PAX {
                    return Err(Fault::PaxAlone);
                }
                let pax = self.held.get(BLOCK..BLOCK.saturating_add(records)).unwrap_or_default();
                let draft = Draft::new(fields, pax)?;
                self.main(draft, sink)?;
            }
            Step::Map { draft, begins, newlines } => self.map_piece(draft, begins, newlines, sink)?,
            Step::SecondZero if zero => self.state = State::Ended,
            Step::SecondZero => return Err(Fault::HalfEnd),
        }
        Ok(())
    }

    fn collect(&mut self, step: Step, more: usize) {
        self.state = State::Head { step, want: self.held.len().saturating_add(more) };
    }

    fn main(&mut self, draft: Draft, sink: &mut dyn Sink) -> Result<(), Fault> {
        if draft.sparse {
            let begins = self.held.len();
            self.collect(Step::Map { draft: Box::new(draft), begins, newlines: 0 }, BLOCK);
            return Ok(());
        }
        self.settle(draft, 0, sink)
    }

    /// One more block of a sparse map is in `held`.
    fn map_piece(&mut self, mut draft: Box<Draft>, begins: usize, newlines: u64, sink: &mut dyn Sink) -> Result<(), Fault> {
        let map = self.held.get(begins..).unwrap_or_default();
        let block = map.get(map.len().saturating_sub(BLOCK)..).unwrap_or_default();
        let newlines = newlines.saturating_add((block.split(|b| *b == b'\n').count() as u64).saturating_sub(1));
        if head::map_is_complete(map, newlines)? {
            let length = map.len() as u64;
            draft.head.extents = Some(head::parse_map(map, draft.head.size)?);
            return self.settle(*draft, length, sink);
        }
        if draft.stored <= map.len() as u64 {
            return Err(Fault::SparseMap("it is longer than the member"));
        }
        self.collect(Step::Map { draft, begins, newlines }, BLOCK);
        Ok(())
    }

    /// The head is complete: is it the one form of what it says?
    fn settle(&mut self, draft: Draft, map: u64, sink: &mut dyn Sink) -> Result<(), Fault> {
        let Draft { head, stored, .. } = draft;
        self.again.clear();
        let data = tar::encode(&head.as_head(), &mut self.again).map_err(Fault::Head)?;
        if data.checked_add(map) != Some(stored) {
            return Err(Fault::Size { stated: stored, expected: data.saturating_add(map) });
        }
        if self.again != self.held {
            let same = self.again.iter().zip(&self.held).take_while(|(a, b)| a == b).count();
            return Err(Fault::Form { at: self.start.saturating_add(same as u64) });
        }
        self.links.pass(&head.name, head.kind)?;
        let holes = head.size.saturating_sub(data);
        self.holes = self.holes.checked_add(holes).filter(|h| *h <= self.limits.hole_bytes_max).ok_or(Fault::Holes)?;
        sink.begin(&head);
        let hasher = (head.kind == MemberKind::File).then(Hasher::new);
        let padding = tar::padding(data) as u64;
        let mut body = Body { head, hasher, data, padding, passed: 0, extent: 0, extent_passed: 0 };
        if !self.restoring {
            body.pass_hole();
        }
        let over = body.is_over();
        self.state = State::Body(Box::new(body));
        if over {
            self.end_member(sink);
        }
        Ok(())
    }

    fn end_member(&mut self, sink: &mut dyn Sink) {
        let end = self.raw_offset();
        let State::Body(body) = std::mem::replace(&mut self.state, FIRST) else { return };
        let Body { head, hasher, .. } = *body;
        let sha256 = hasher.map(|mut hasher| {
            hasher.update_zeros(head.size.saturating_sub(hasher.bytes()));
            hasher.finish()
        });
        sink.end(&Member { head, sha256, offset: self.start, length: end.saturating_sub(self.start) });
        self.start = end;
        self.held.clear();
        self.held.shrink_to(KEPT_BYTES);
        self.again.shrink_to(KEPT_BYTES);
    }
}

impl Body {
    const fn is_over(&self) -> bool {
        self.passed >= self.data.saturating_add(self.padding)
    }

    /// Where the next data byte belongs and how many follow without a hole.
    fn place(&self) -> (u64, u64) {
        match &self.head.extents {
            None => (self.passed, self.data.saturating_sub(self.passed)),
            Some(extents) => extents.get(self.extent).map_or((self.head.size, 0), |e| {
                (e.offset.saturating_add(self.extent_passed), e.length.saturating_sub(self.extent_passed))
            }),
        }
    }

    fn take<'a>(&mut self, raw: &'a [u8], sink: &mut dyn Sink) -> Result<&'a [u8], Fault> {
        if self.passed >= self.data {
            let left = self.data.saturating_add(self.padding).saturating_sub(self.passed);
            let (zeros, rest) = raw.split_at((left as usize).min(raw.len()));
            if zeros.iter().any(|b| *b != 0) {
                return Err(Fault::Padding);
            }
            self.passed = self.passed.saturating_add(zeros.len() as u64);
            return Ok(rest);
        }
        let (logical, room) = self.place();
        let (bytes, rest) = raw.split_at(usize::try_from(room).unwrap_or(usize::MAX).min(raw.len()));
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        sink.data(logical, bytes);
        self.advance(bytes.len() as u64);
        self.pass_hole();
        Ok(rest)
    }

    /// Counts data bytes, at most to the end of the current extent.
    fn advance(&mut self, bytes: u64) {
        self.passed = self.passed.saturating_add(bytes);
        if let Some(extents) = &self.head.extents {
            self.extent_passed = self.extent_passed.saturating_add(bytes);
            if extents.get(self.extent).is_some_and(|e| e.length == self.extent_passed) {
                self.extent = self.extent.saturating_add(1);
                self.extent_passed = 0;
            }
        }
    }

    /// Hashes the hole before the next data byte as soon as it is known: whoever sends the stream may be hashing the same
    /// zeros now, and then neither waits for the other.
    fn pass_hole(&mut self) {
        let (logical, _) = self.place();
        if let (Some(hasher), true) = (&mut self.hasher, self.head.extents.is_some()) {
            hasher.update_zeros(logical.saturating_sub(hasher.bytes()));
        }
    }
}

const FIRST: State = State::Head { step: Step::First, want: BLOCK };

/// Capacity that buffers keep from one member to the next.
const KEPT_BYTES: usize = 64 << 10;

mod snapshot;

#[cfg(test)]
mod tests;
