//! Segments: frames of a stream, followed by the seek table that finds them.
//!
//! A segment is a file in the zstd seekable format: any zstd reader decompresses it, a seekable reader finds one frame
//! without the rest. [`SegmentBuilder`] makes one, [`SegmentDecoder`] checks and decodes one from a peer that may lie,
//! [`SeekTable`] with [`RangeReader`] or [`StreamDecoder`] reads a part of a stream by ranges.

mod frame;
mod range;
mod seek;

pub use frame::FrameCompressor;
pub use range::{Need, RangeReader, SegmentSource, StreamDecoder};
pub use seek::{FramePlace, SeekTable};

use super::{FRAME_BYTES_MAX, FRAME_RAW_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENT_FRAMES_MAX, SEGMENT_RAW_BYTES_MAX, SEGMENT_TARGET_BYTES};
use crate::digest::{Digest, Hasher};
use crate::manifest::Segment;
use frame::FrameDecoder;

/// What is wrong with a segment or with the wish to read from one. The set is closed; [`SegmentError::code`] is stable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// More than [`SEGMENT_BYTES_MAX`].
    #[error("a segment of {0} bytes: at most {SEGMENT_BYTES_MAX} are allowed")]
    TooLarge(u64),
    /// More raw bytes than [`SEGMENT_RAW_BYTES_MAX`].
    #[error("a segment of {0} raw bytes: at most {SEGMENT_RAW_BYTES_MAX} are allowed")]
    RawTooLarge(u64),
    /// Number of frames out of bounds.
    #[error("a segment of {0} frames: 1 to {SEGMENT_FRAMES_MAX} are allowed")]
    Frames(u64),
    /// The seek table is not one.
    #[error("the seek table at the segment's end is malformed: {0}")]
    SeekTable(&'static str),
    /// A frame is not what its place in the seek table says, or cannot be decoded.
    #[error("frame {index}: {fault}")]
    Frame {
        /// Which frame, from 0.
        index: usize,
        /// What is wrong.
        fault: FrameFault,
    },
    /// The segment's facts and its bytes differ.
    #[error("the segment's {0} is not what its manifest line says")]
    Facts(&'static str),
    /// The wished range is not in the given segments.
    #[error("the segments do not hold raw bytes {offset} to {end}")]
    Range {
        /// First byte.
        offset: u64,
        /// First byte after.
        end: u64,
    },
    /// Something was supplied that was not asked for.
    #[error("{supplied} bytes were supplied where {needed} were needed")]
    Supplied {
        /// What came.
        supplied: usize,
        /// What was asked for.
        needed: usize,
    },
    /// The compressor failed or was given an impossible level.
    #[error("zstd: {0}")]
    Compressor(String),
}

impl SegmentError {
    /// A stable name of the kind of fault, for findings, metrics and tests.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "segment-size",
            Self::RawTooLarge(_) => "segment-raw-size",
            Self::Frames(_) => "segment-frames",
            Self::SeekTable(_) => "segment-seek-table",
            Self::Frame { .. } => "segment-frame",
            Self::Facts(_) => "segment-facts",
            Self::Range { .. } => "segment-range",
            Self::Supplied { .. } => "segment-supplied",
            Self::Compressor(_) => "segment-compressor",
        }
    }
}

/// What is wrong with one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// Raw size out of bounds.
    #[error("1 to {FRAME_RAW_BYTES_MAX} raw bytes are allowed")]
    RawSize,
    /// Compressed size out of bounds.
    #[error("1 to {FRAME_BYTES_MAX} compressed bytes are allowed")]
    Size,
    /// Not a zstd frame, or one with a dictionary, a checksum or reserved bits.
    #[error("not a zstd frame of the prescribed form (no dictionary, no checksum, content size present)")]
    Header,
    /// The header's content size is not that of the seek table.
    #[error("its header states another raw size than the seek table")]
    ContentSize,
    /// The frame ends before or after its place in the seek table.
    #[error("it does not end where the seek table says")]
    Length,
    /// The compressed data is damaged, or holds more or less than the header says.
    #[error("its data cannot be decoded to the size that it states")]
    Data,
}

impl FrameFault {
    const fn at(self, index: usize) -> SegmentError {
        SegmentError::Frame { index, fault: self }
    }
}

/// Collects frames into one segment.
#[derive(Debug)]
pub struct SegmentBuilder {
    n: u32,
    raw_offset: u64,
    raw_size: u64,
    bytes: Vec<u8>,
    /// Bytes of frames that are kept elsewhere.
    elsewhere: usize,
    /// Compressed and raw size of each frame.
    frames: Vec<(u32, u32)>,
    /// Of `bytes`. A frame is hashed when it comes, while the processor still has it in its cache: hashed at the end, all of
    /// them came from memory again, which took half as long again.
    stored: Hasher,
}

/// A finished segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The bytes to be stored.
    pub bytes: Vec<u8>,
    /// What the manifest says of them.
    pub facts: Segment,
}

impl SegmentBuilder {
    /// A builder of segment `n`, whose first raw byte is at `raw_offset` of the stream.
    #[must_use]
    pub fn new(n: u32, raw_offset: u64) -> Self {
        Self { n, raw_offset, raw_size: 0, bytes: Vec::new(), elsewhere: 0, frames: Vec::new(), stored: Hasher::new() }
    }

    /// The same with a buffer to reuse (its content is dropped, its capacity kept).
    #[must_use]
    pub fn with_buffer(n: u32, raw_offset: u64, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self { bytes: buffer, ..Self::new(n, raw_offset) }
    }

    /// Appends a frame that [`FrameCompressor::compress`] made of `raw_len` bytes.
    ///
    /// # Errors
    /// When the frame or the segment would be out of bounds, which does not happen while [`SegmentBuilder::is_full`] is
    /// asked before each frame. The segment is then as it was.
    pub fn push_frame(&mut self, frame: &[u8], raw_len: usize) -> Result<(), SegmentError> {
        self.check_room(self.len(), frame.len(), raw_len)?;
        self.bytes.extend_from_slice(frame);
        self.stored.update(frame);
        self.note(frame.len(), raw_len);
        Ok(())
    }

    /// Counts a frame whose bytes the caller keeps itself, to encrypt them. [`SegmentBuilder::rest`] ends such a segment.
    ///
    /// # Errors
    /// As [`SegmentBuilder::push_frame`].
    pub fn count_frame(&mut self, frame_len: usize, raw_len: usize) -> Result<(), SegmentError> {
        self.check_room(self.len(), frame_len, raw_len)?;
        self.elsewhere = self.elsewhere.saturating_add(frame_len);
        self.note(frame_len, raw_len);
        Ok(())
    }

    /// Compresses `raw` straight into the segment as one frame.
    ///
    /// # Errors
    /// As [`SegmentBuilder::push_frame`], and when zstd fails.
    pub fn compress_frame(&mut self, compressor: &mut FrameCompressor, raw: &[u8]) -> Result<(), SegmentError> {
        let (before, len) = (self.bytes.len(), self.len());
        compressor.compress(raw, &mut self.bytes)?;
        let frame_len = self.bytes.len().saturating_sub(before);
        if let Err(error) = self.check_room(len, frame_len, raw.len()) {
            self.bytes.truncate(before);
            return Err(error);
        }
        self.stored.update(self.bytes.get(before..).unwrap_or_default());
        self.note(frame_len, raw.len());
        Ok(())
    }

    /// May a frame come after the first `len` bytes?
    fn check_room(&self, len: usize, frame_len: usize, raw_len: usize) -> Result<(), SegmentError> {
        if !(1..=FRAME_RAW_BYTES_MAX).contains(&raw_len) {
            return Err(FrameFault::RawSize.at(self.frames.len()));
        }
        if !(1..=FRAME_BYTES_MAX).contains(&frame_len) {
            return Err(FrameFault::Size.at(self.frames.len()));
        }
        if self.frames.len() >= SEGMENT_FRAMES_MAX {
            return Err(SegmentError::Frames(self.frames.len() as u64 + 1));
        }
        let raw = self.raw_size.saturating_add(raw_len as u64);
        if raw > SEGMENT_RAW_BYTES_MAX as u64 || self.raw_offset.checked_add(raw).is_none() {
            return Err(SegmentError::RawTooLarge(raw));
        }
        let total = len.saturating_add(frame_len).saturating_add(seek::table_len(self.frames.len().saturating_add(1)));
        if total > SEGMENT_BYTES_MAX {
            return Err(SegmentError::TooLarge(total as u64));
        }
        Ok(())
    }

    fn note(&mut self, frame_len: usize, raw_len: usize) {
        self.frames.push((frame_len as u32, raw_len as u32));
        self.raw_size = self.raw_size.saturating_add(raw_len as u64);
    }

    /// Compressed bytes so far, without the seek table.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len() + self.elsewhere
    }

    /// True when no frame is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Raw bytes so far.
    #[must_use]
    pub const fn raw_size(&self) -> u64 {
        self.raw_size
    }

    /// True when the segment must be finished before another frame: it has reached its target, or one more frame could
    /// pass a bound.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len() >= SEGMENT_TARGET_BYTES || self.is_at_bound()
    }

    /// True when one more frame could pass a bound of the format.
    #[must_use]
    pub const fn is_at_bound(&self) -> bool {
        self.len() + FRAME_BYTES_MAX + seek::table_len(SEGMENT_FRAMES_MAX) > SEGMENT_BYTES_MAX
            || self.frames.len() >= SEGMENT_FRAMES_MAX
            || self.raw_size.saturating_add(FRAME_RAW_BYTES_MAX as u64) > SEGMENT_RAW_BYTES_MAX as u64
    }

    /// Appends the seek table and ends the digest of the whole.
    ///
    /// # Errors
    /// When there is no frame.
    pub fn finish(mut self) -> Result<Built, SegmentError> {
        let (frames_len, mut stored) = (self.bytes.len(), std::mem::take(&mut self.stored));
        let built = self.rest()?;
        stored.update(built.bytes.get(frames_len..).unwrap_or_default());
        let (size, sha256) = (built.bytes.len() as u64, stored.finish());
        Ok(Built { facts: Segment { size, sha256, ..built.facts }, ..built })
    }

    /// What of the segment's bytes is not kept elsewhere, ended with the seek table. Its facts are without size and digest: these
    /// are of what is stored, which whoever keeps the bytes makes of all of them.
    ///
    /// # Errors
    /// When there is no frame.
    pub fn rest(self) -> Result<Built, SegmentError> {
        let Self { n, raw_offset, raw_size, mut bytes, elsewhere: _, frames, stored: _ } = self;
        if frames.is_empty() {
            return Err(SegmentError::Frames(0));
        }
        seek::push_table(&frames, &mut bytes);
        let facts = Segment { n, size: 0, sha256: Digest::of(&[]), raw_offset, raw_size, seam: None };
        Ok(Built { bytes, facts })
    }
}

/// What a segment held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Raw bytes.
    pub raw_size: u64,
    /// Frames.
    pub frames: usize,
}

/// Why [`decode`] stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError<E> {
    /// The segment is not one.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The receiver of the raw bytes did not want to go on.
    #[error("{0}")]
    Stopped(E),
}

/// Decodes segments, with one zstd context and one frame buffer (1 MiB) for all of them.
#[derive(Debug)]
pub struct SegmentDecoder {
    frames: FrameDecoder,
}

impl SegmentDecoder {
    /// A decoder.
    ///
    /// # Errors
    /// When zstd has no memory for its context.
    pub fn new() -> Result<Self, SegmentError> {
        Ok(Self { frames: FrameDecoder::new()? })
    }

    /// Checks a whole segment and hands its raw bytes on, frame by frame. The seek table is checked first, each frame
    /// before its bytes are handed on; nothing in the segment is left unaccounted.
    ///
    /// # Errors
    /// When the bytes are not a segment, or with what `on_raw` returned.
    pub fn decode<E>(&mut self, bytes: &[u8], on_raw: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<Decoded, DecodeError<E>> {
        self.decode_frames(bytes, &mut |_| (), on_raw)
    }

    /// [`SegmentDecoder::decode`], and the digest of the bytes, whatever they are. Each frame is hashed just before it is decoded, so
    /// it comes from memory once.
    pub fn decode_and_hash<E>(
        &mut self,
        bytes: &[u8],
        on_raw: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> (Digest, Result<Decoded, DecodeError<E>>) {
        let mut stored = Hasher::new();
        let decoded = self.decode_frames(bytes, &mut |frame| stored.update(frame), on_raw);
        // All frames lie before the seek table, one behind the other. Where decoding stopped, the rest has not been looked at.
        let rest = usize::try_from(stored.bytes()).unwrap_or(usize::MAX);
        stored.update(bytes.get(rest..).unwrap_or_default());
        (stored.finish(), decoded)
    }

    fn decode_frames<E>(
        &mut self,
        bytes: &[u8],
        on_frame: &mut dyn FnMut(&[u8]),
        on_raw: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Decoded, DecodeError<E>> {
        let table = SeekTable::of_segment(bytes)?;
        for (index, place) in table.frames().iter().enumerate() {
            let (from, to) = (place.offset as usize, place.end() as usize);
            let frame = bytes.get(from..to).ok_or(FrameFault::Length.at(index))?;
            on_frame(frame);
            let raw = self.frames.decode(frame, place.raw_size as usize).map_err(|fault| fault.at(index))?;
            on_raw(raw).map_err(DecodeError::Stopped)?;
        }
        Ok(Decoded { raw_size: table.raw_size(), frames: table.frames().len() })
    }
}

/// [`SegmentDecoder::decode`] for a single segment.
///
/// # Errors
/// As [`SegmentDecoder::decode`].
pub fn decode<E>(bytes: &[u8], on_raw: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<Decoded, DecodeError<E>> {
    SegmentDecoder::new()?.decode(bytes, on_raw)
}

/// Compares stored bytes with what a manifest says of them: size and digest. (The raw size shows when decoding.)
///
/// # Errors
/// The first fact that differs.
pub fn check_facts(facts: &Segment, bytes: &[u8]) -> Result<(), SegmentError> {
    if facts.size != bytes.len() as u64 {
        return Err(SegmentError::Facts("size"));
    }
    if facts.sha256 != Digest::of(bytes) {
        return Err(SegmentError::Facts("SHA-256"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
