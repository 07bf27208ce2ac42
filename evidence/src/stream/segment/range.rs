//! Reading a part of a stream, one item say, by ranges of its segments: only the frames that hold it are fetched and
//! decoded.

use std::io::{self, Read};
use std::ops::Range;

use super::frame::FrameDecoder;
use super::{FrameFault, SeekTable, SegmentError};
use crate::manifest::Segment;

/// Bytes that a [`RangeReader`] needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Which segment.
    pub segment: u32,
    /// Offset in the segment's stored bytes.
    pub offset: u64,
    /// How many bytes, at most [`crate::stream::FRAME_BYTES_MAX`].
    pub length: usize,
}

/// Walks a range of the raw stream without doing input or output itself, so that blocking and asynchronous callers share
/// it: ask [`RangeReader::need`], fetch, give to [`RangeReader::supply`], until `need` is `None`. Memory: one frame,
/// compressed and raw, and one seek table.
#[derive(Debug)]
pub struct RangeReader {
    /// The segments that hold the range, in order.
    segments: std::vec::IntoIter<Segment>,
    /// What is still wanted, in raw bytes of the stream.
    wanted: Range<u64>,
    current: Option<Current>,
    frames: FrameDecoder,
}

#[derive(Debug)]
struct Current {
    facts: Segment,
    /// Known after the first supply of each segment.
    table: Option<(SeekTable, Range<usize>)>,
}

impl RangeReader {
    /// A reader of `length` raw bytes at `offset` of the stream that these segments (in order, without holes; others may
    /// be left out) are of.
    ///
    /// # Errors
    /// When the segments do not hold the range.
    pub fn new(segments: &[Segment], offset: u64, length: u64) -> Result<Self, SegmentError> {
        let end = offset.saturating_add(length);
        let absent = SegmentError::Range { offset, end };
        let mut reached = offset;
        let mut chosen = Vec::new();
        for segment in segments {
            let segment_end = segment.raw_offset.saturating_add(segment.raw_size);
            if reached >= end {
                break;
            }
            if segment_end <= reached {
                continue;
            }
            if segment.raw_offset > reached {
                return Err(absent);
            }
            reached = segment_end;
            chosen.push(segment.clone());
        }
        if reached < end || offset.checked_add(length).is_none() {
            return Err(absent);
        }
        let mut segments = chosen.into_iter();
        let current = segments.next().map(|facts| Current { facts, table: None });
        Ok(Self { segments, wanted: offset..end, current, frames: FrameDecoder::new()? })
    }

    /// What must be fetched next; `None` when all raw bytes were handed on.
    #[must_use]
    pub fn need(&self) -> Option<Need> {
        if self.wanted.start >= self.wanted.end {
            return None;
        }
        let Current { facts, table } = self.current.as_ref()?;
        let (offset, length) = match table {
            None => {
                let length = facts.size.min(SeekTable::TAIL_BYTES_MAX as u64);
                (facts.size.saturating_sub(length), length as usize)
            }
            Some((table, left)) => {
                let place = table.frames().get(left.start)?;
                (place.offset, place.size as usize)
            }
        };
        Some(Need { segment: facts.n, offset, length })
    }

    /// Takes the bytes of the last [`RangeReader::need`] and returns the raw bytes of the range that they hold: none for
    /// a seek table.
    ///
    /// # Errors
    /// When they are not what the segment's facts say, or cannot be decoded.
    pub fn supply(&mut self, bytes: &[u8]) -> Result<&[u8], SegmentError> {
        let needed = self.need().map_or(0, |n| n.length);
        let Some(current) = self.current.as_mut().filter(|_| needed == bytes.len() && needed > 0) else {
            return Err(SegmentError::Supplied { supplied: bytes.len(), needed });
        };
        let facts = &current.facts;
        let Some((table, left)) = &mut current.table else {
            let table = SeekTable::parse(bytes, facts.size)?;
            if table.raw_size() != facts.raw_size {
                return Err(SegmentError::Facts("raw size"));
            }
            let start = self.wanted.start.saturating_sub(facts.raw_offset);
            let left = table.covering(start..self.wanted.end.saturating_sub(facts.raw_offset));
            current.table = Some((table, left));
            return Ok(&[]);
        };
        let index = left.start;
        let place = *table.frames().get(index).ok_or(SegmentError::SeekTable("it has no such frame"))?;
        left.start = index.saturating_add(1);
        let begins = facts.raw_offset.saturating_add(place.raw_offset);
        if left.start >= left.end {
            self.current = self.segments.next().map(|facts| Current { facts, table: None });
        }
        let raw = self.frames.decode(bytes, place.raw_size as usize).map_err(|fault| fault.at(index))?;
        let from = self.wanted.start.saturating_sub(begins) as usize;
        let to = (self.wanted.end.saturating_sub(begins) as usize).min(raw.len());
        let part = raw.get(from..to).ok_or(FrameFault::RawSize.at(index))?;
        self.wanted.start = self.wanted.start.saturating_add(part.len() as u64);
        Ok(part)
    }
}

/// Where stored segments can be read by ranges.
pub trait SegmentSource {
    /// Fills `buf` with bytes of segment `n` from `offset`.
    ///
    /// # Errors
    /// When they cannot all be read.
    fn read_range(&mut self, n: u32, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl<F: FnMut(u32, u64, &mut [u8]) -> io::Result<()>> SegmentSource for F {
    fn read_range(&mut self, n: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self(n, offset, buf)
    }
}

/// [`RangeReader`] as a blocking [`Read`].
#[derive(Debug)]
pub struct StreamDecoder<S> {
    reader: RangeReader,
    source: S,
    stored: Vec<u8>,
    raw: Vec<u8>,
    taken: usize,
}

impl<S: SegmentSource> StreamDecoder<S> {
    /// As [`RangeReader::new`], over this source.
    ///
    /// # Errors
    /// As [`RangeReader::new`].
    pub fn new(segments: &[Segment], offset: u64, length: u64, source: S) -> Result<Self, SegmentError> {
        Ok(Self { reader: RangeReader::new(segments, offset, length)?, source, stored: Vec::new(), raw: Vec::new(), taken: 0 })
    }

    fn refill(&mut self) -> io::Result<()> {
        self.raw.clear();
        self.taken = 0;
        while self.raw.is_empty() {
            let Some(need) = self.reader.need() else { return Ok(()) };
            self.stored.resize(need.length, 0);
            self.source.read_range(need.segment, need.offset, &mut self.stored)?;
            let part = self.reader.supply(&self.stored).map_err(|error| {
                let message = format!("segment {}: {error}", need.segment);
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
            self.raw.extend_from_slice(part);
        }
        Ok(())
    }
}

impl<S: SegmentSource> Read for StreamDecoder<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.taken >= self.raw.len() {
            self.refill()?;
        }
        let mut ready = self.raw.get(self.taken..).unwrap_or_default();
        let count = ready.read(buf)?;
        self.taken = self.taken.saturating_add(count);
        Ok(count)
    }
}
