//! Copying one item's content into the stream: hashing as it goes, turning what cannot be read into gaps.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use exhibit_evidence::manifest::Gap;
use exhibit_evidence::{Digest, Hasher};

use super::Progress;
use super::bookmark::Point;
use super::frames::FrameWriter;
use crate::budget::{Control, Pace};
use crate::capture::{Extent, Source, Stop};

/// What became of a content. The announced number of bytes is in the stream in every case.
#[derive(Debug)]
pub(super) struct Copied {
    pub sha256: Digest,
    pub gaps: Vec<Gap>,
    /// Bytes that were really read.
    pub read: u64,
    /// The source ended before its announced size.
    pub ended_early: bool,
    /// The first read error.
    pub error: Option<io::Error>,
    /// The collection was told to end meanwhile; the rest is zeros and a gap.
    pub stop: Option<Stop>,
}

/// What a copy needs from the capture thread.
pub(super) struct Copy<'a> {
    pub frames: &'a mut FrameWriter,
    pub pace: &'a mut Pace,
    pub control: &'a Control,
    pub progress: &'a Progress,
    /// What a later process needs to go on from here, if it can.
    pub mark: &'a Mark<'a>,
}

/// Makes a point of where a copy stands.
pub(super) type Mark<'a> = dyn Fn(&State, &dyn Source) -> Option<Box<Point>> + 'a;

/// Most gaps of one item, about 100 KiB of manifest line. After that the rest of the item is one gap: it is not read any more,
/// unless the source keeps a list of its own of what it could not read.
const GAPS_MAX: usize = 1024;
/// Holes are hashed in steps, between which a cancel is noticed.
const HOLE_STEP: u64 = 16 << 20;
/// Before a hole of this size that data follows, what there is goes to the coordinator: it then hashes the same zeros at the same time.
const HOLE_LARGE: u64 = 256 << 20;

#[derive(Debug, Default)]
pub(super) struct State {
    pub hasher: Hasher,
    pub gaps: Vec<Gap>,
    pub read: u64,
    /// Why nothing more is read from this source.
    pub over: Option<String>,
    pub ended_early: bool,
    pub error: Option<io::Error>,
    pub stop: Option<Stop>,
}

impl Copy<'_> {
    /// Copies the data ranges of a source, from where an earlier copy of it stood; `extents` are sorted, disjoint and
    /// within `size`.
    ///
    /// # Errors
    /// [`Stop`] only when the stream itself was given up; everything else is in [`Copied`].
    pub fn run(&mut self, mut state: State, size: u64, extents: &[Extent], source: &mut dyn Source) -> Result<Copied, Stop> {
        let done = state.hasher.bytes();
        for extent in extents.iter().filter(|e| e.end() > done) {
            // Only where data follows: a member must not end in a segment without its item's line, which needs the digest.
            if extent.offset.saturating_sub(state.hasher.bytes()) >= HOLE_LARGE {
                let point = (self.mark)(&state, source);
                self.frames.cut(point)?;
            }
            self.hole(&mut state, extent.offset);
            self.range(&mut state, extent, size, source)?;
        }
        self.hole(&mut state, size);
        let State { hasher, gaps, read, ended_early, error, stop, .. } = state;
        Ok(Copied { sha256: hasher.finish(), gaps, read, ended_early, error, stop })
    }

    /// Hashes the zeros of a hole that ends at `until`.
    fn hole(&mut self, state: &mut State, until: u64) {
        while state.hasher.bytes() < until {
            let step = until.saturating_sub(state.hasher.bytes()).min(HOLE_STEP);
            state.hasher.update_zeros(step);
            // A stop is remembered; the digest is completed all the same, because the item is in the stream.
            if state.stop.is_none() {
                state.stop = self.pace.cpu(self.control).err();
            }
        }
    }

    fn range(&mut self, state: &mut State, range: &Extent, size: u64, source: &mut dyn Source) -> Result<(), Stop> {
        let end = range.end();
        let mut narrow_until = 0_u64;
        // Not its beginning when an earlier process took a part of it.
        let mut at = range.offset.max(state.hasher.bytes());
        while at < end {
            if state.over.is_none() {
                self.may_read(state, source.gap_list());
            }
            if let Some(reason) = &state.over {
                // One gap to the end of the item: holes in it read as zeros either way.
                if state.gaps.last().is_none_or(|g| g.offset.saturating_add(g.length) < size || g.reason != *reason) {
                    // One that stands for a list reaches to the end as well: it ends where nothing more was read.
                    if let Some(last) = state.gaps.last_mut() {
                        last.length = last.length.min(at.saturating_sub(last.offset));
                    }
                    state.gaps.push(Gap { offset: at, length: size.saturating_sub(at), reason: reason.clone() });
                }
                let rest = end.saturating_sub(at);
                self.frames.write_zeros(rest)?;
                state.hasher.update_zeros(rest);
                return Ok(());
            }
            let want = if at < narrow_until { to_unit_end(source, at) } else { self.pace.read_piece_bytes() as u64 };
            let want = want.min(end.saturating_sub(at));
            if let Err(stop) = self.pace.read(want as usize, self.control) {
                state.stopped(stop);
                continue;
            }
            at = at.saturating_add(self.piece(state, at..size, want, &mut narrow_until, source)?);
        }
        Ok(())
    }

    fn may_read(&mut self, state: &mut State, list: Option<&str>) {
        if state.gaps.len() >= GAPS_MAX && list.is_none() {
            state.over = Some(format!("not read: more than {GAPS_MAX} unreadable ranges before"));
        } else if let Err(stop) = self.pace.cpu(self.control) {
            state.stopped(stop);
        }
    }

    /// One read of what is left of the item. Returns how far it came: zero when it has to be tried again, smaller.
    fn piece(
        &mut self,
        state: &mut State,
        left: std::ops::Range<u64>,
        want: u64,
        narrow_until: &mut u64,
        source: &mut dyn Source,
    ) -> Result<u64, Stop> {
        let at = left.start;
        if self.frames.is_full() {
            let point = (self.mark)(state, source);
            self.frames.end_frame(point)?;
        }
        let space = self.frames.space()?;
        let count = usize::try_from(want).unwrap_or(usize::MAX).min(space.len());
        let buffer = space.get_mut(..count).unwrap_or_default();
        // A capture that panics in its reader costs this item a gap, not the collection its stream.
        let result = catch_unwind(AssertUnwindSafe(|| source.read_at(at, buffer)))
            .unwrap_or_else(|_| Err(io::Error::other("the capture's reader failed (a bug; please report it)")));
        match result {
            Ok(0) => {
                state.ended_early = true;
                state.over = Some("ended early: the file became shorter while it was read".to_owned());
                Ok(0)
            }
            Ok(got) => {
                let got = got.min(count);
                state.hasher.update(self.frames.advance(got));
                state.read = state.read.saturating_add(got as u64);
                self.progress.raw_bytes.store(self.frames.raw_offset(), std::sync::atomic::Ordering::Relaxed);
                Ok(got as u64)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(e) if source.gone().is_some() => {
                state.over = source.gone().map(|why| format!("not read: {why}"));
                state.error.get_or_insert(e);
                Ok(0)
            }
            Err(_) if count as u64 > to_unit_end(source, at) => {
                *narrow_until = at.saturating_add(count as u64);
                Ok(0)
            }
            Err(e) => {
                buffer.fill(0);
                state.hasher.update(self.frames.advance(count));
                state.gap(at, count as u64, &e.to_string(), left.end, source.gap_list());
                state.error.get_or_insert(e);
                // Whatever was asked for at first is read in pages to its end; a rerun of this page is not needed.
                *narrow_until = (*narrow_until).max(at.saturating_add(count as u64));
                Ok(count as u64)
            }
        }
    }
}

/// Bytes from an offset to the end of the unit in which it lies.
fn to_unit_end(source: &dyn Source, at: u64) -> u64 {
    source.unit_end(at).saturating_sub(at).max(1)
}

impl State {
    fn stopped(&mut self, stop: Stop) {
        self.over = Some(format!("not read: {stop}"));
        self.stop.get_or_insert(stop);
    }

    fn gap(&mut self, offset: u64, length: u64, reason: &str, size: u64, list: Option<&str>) {
        let list = list.filter(|_| self.gaps.len().saturating_add(1) >= GAPS_MAX);
        match (self.gaps.last_mut(), list) {
            (Some(last), _) if last.offset.saturating_add(last.length) >= size => {}
            (Some(last), _) if last.offset.saturating_add(last.length) == offset && last.reason == reason => {
                last.length = last.length.saturating_add(length);
            }
            // The rest counts as one gap, though it is read: a manifest line must not claim more than it can say.
            (_, Some(list)) => {
                let reason = format!("{GAPS_MAX} or more unreadable ranges: those from here on are in '{list}'");
                self.gaps.push(Gap { offset, length: size.saturating_sub(offset), reason });
            }
            _ => self.gaps.push(Gap { offset, length, reason: reason.to_owned() }),
        }
    }
}
