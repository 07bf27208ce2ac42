//! The raw stream's end of the pipeline: fills frames and hands them on to be compressed.

use super::bookmark::Point;
use super::lanes::{LanesIn, RawFrame};
use crate::capture::Stop;

/// Cuts the raw stream into frames.
#[derive(Debug)]
pub(super) struct FrameWriter {
    lanes: LanesIn,
    buffer: Vec<u8>,
    filled: usize,
    lines: Vec<u8>,
    lines_since_raw: usize,
    raw_offset: u64,
}

/// Raw bytes of a frame. Half of what the format allows: zstd is not slower on it, the ratio differs by less than a
/// hundredth, and a lane takes half the memory.
pub(super) const FRAME_BYTES: usize = 512 << 10;

/// A frame is handed on early when this many bytes of manifest lines have come together with it.
const LINES_BYTES_MAX: usize = 256 << 10;

impl FrameWriter {
    /// A writer that continues a raw stream of `raw_offset` bytes.
    pub fn new(lanes: LanesIn, raw_offset: u64) -> Self {
        Self { lanes, buffer: vec![0; FRAME_BYTES], filled: 0, lines: Vec::new(), lines_since_raw: 0, raw_offset }
    }

    /// Bytes of the raw stream so far.
    pub const fn raw_offset(&self) -> u64 {
        self.raw_offset
    }

    /// Bytes of lines since the last raw byte: the assembler can cut a segment only where there is raw data.
    pub const fn lines_since_raw(&self) -> usize {
        self.lines_since_raw
    }

    /// Room in the current frame, at least one byte. A full frame is handed on only when more is to follow, so that the
    /// line of an item that ends exactly with the frame still travels with it.
    pub fn space(&mut self) -> Result<&mut [u8], Stop> {
        if self.is_full() {
            self.end_frame(None)?;
        }
        Ok(self.buffer.get_mut(self.filled..).unwrap_or_default())
    }

    /// Counts bytes that were written into [`FrameWriter::space`] and returns them.
    pub fn advance(&mut self, count: usize) -> &[u8] {
        let from = self.filled;
        self.filled = self.filled.saturating_add(count).min(FRAME_BYTES);
        let count = self.filled.saturating_sub(from);
        self.raw_offset = self.raw_offset.saturating_add(count as u64);
        self.lines_since_raw = 0;
        self.buffer.get(from..self.filled).unwrap_or_default()
    }

    /// Appends bytes to the raw stream.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let count = space.len().min(bytes.len());
            let (now, rest) = bytes.split_at_checked(count).unwrap_or((bytes, &[]));
            if let Some(slot) = space.get_mut(..count) {
                slot.copy_from_slice(now);
            }
            self.advance(count);
            bytes = rest;
        }
        Ok(())
    }

    /// Appends zeros to the raw stream.
    pub fn write_zeros(&mut self, mut count: u64) -> Result<(), Stop> {
        while count > 0 {
            let space = self.space()?;
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(space.len());
            if let Some(slot) = space.get_mut(..step) {
                slot.fill(0);
            }
            self.advance(step);
            count = count.saturating_sub(step as u64);
        }
        Ok(())
    }

    /// Adds a manifest line to the frame that holds the last raw byte so far.
    pub fn line(&mut self, line: &[u8]) -> Result<(), Stop> {
        self.lines.extend_from_slice(line);
        self.lines_since_raw = self.lines_since_raw.saturating_add(line.len());
        if self.lines.len() >= LINES_BYTES_MAX { self.end_frame(None) } else { Ok(()) }
    }

    /// True when the frame has no room.
    pub const fn is_full(&self) -> bool {
        self.filled >= FRAME_BYTES
    }

    /// True between two items when the frame should end here: few small files then lie across the end of a frame, where a
    /// stream cannot be taken up.
    pub const fn is_due(&self) -> bool {
        self.filled >= FRAME_BYTES / 4 * 3 || self.lines.len() >= LINES_BYTES_MAX / 2
    }

    /// Hands on what there is; the lanes end when the writer is dropped.
    pub fn finish(mut self) -> Result<u64, Stop> {
        if self.filled > 0 || !self.lines.is_empty() {
            self.end_frame(None)?;
        }
        Ok(self.raw_offset)
    }

    /// Hands the frame on as it is.
    pub fn end_frame(&mut self, point: Option<Box<Point>>) -> Result<(), Stop> {
        self.hand_on(point, false)
    }

    /// Hands the frame on as it is, to be sent without waiting for more: nothing more comes for a while.
    pub fn cut(&mut self, point: Option<Box<Point>>) -> Result<(), Stop> {
        self.hand_on(point, true)
    }

    fn hand_on(&mut self, point: Option<Box<Point>>, cut: bool) -> Result<(), Stop> {
        // Frames of one capture have about as many lines each.
        let more = Vec::with_capacity(self.lines.len());
        let lines = std::mem::replace(&mut self.lines, more);
        let filled = std::mem::take(&mut self.filled);
        let handed = self.lanes.hand_on(RawFrame { raw: std::mem::take(&mut self.buffer), filled, lines, point, cut });
        let gone = handed.is_none();
        // A whole buffer in any case: what is written after the stream was given up goes nowhere, but it must have a place.
        self.buffer = handed.unwrap_or_else(|| vec![0; FRAME_BYTES]);
        if gone { Err(Stop::Cancelled("the stream was given up".to_owned())) } else { Ok(()) }
    }
}
