//! The seek table of the zstd seekable format: a skippable frame at a segment's end.
//!
//! ```text
//! u32  0x184D2A5E     skippable frame, variant 0xE
//! u32  8 * frames + 9 bytes that follow
//! each frame:  u32 compressed bytes, u32 raw bytes
//! u32  frames
//! u8   0              descriptor: no per-frame checksums (each segment has a SHA-256), nothing reserved
//! u32  0x8F92EAB1     magic at the very end
//! ```
//! All integers little-endian.

use super::{FrameFault, SegmentError};
use crate::stream::{FRAME_BYTES_MAX, FRAME_RAW_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENT_FRAMES_MAX, SEGMENT_RAW_BYTES_MAX};

const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const HEADER_LEN: usize = 8;
const ENTRY_LEN: usize = 8;
const FOOTER_LEN: usize = 9;

/// Bytes of a table of that many frames.
pub(super) const fn table_len(frames: usize) -> usize {
    HEADER_LEN.saturating_add(ENTRY_LEN.saturating_mul(frames)).saturating_add(FOOTER_LEN)
}

pub(super) fn push_table(frames: &[(u32, u32)], out: &mut Vec<u8>) {
    let body = table_len(frames.len()).saturating_sub(HEADER_LEN) as u32;
    out.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
    out.extend_from_slice(&body.to_le_bytes());
    for (compressed, raw) in frames {
        out.extend_from_slice(&compressed.to_le_bytes());
        out.extend_from_slice(&raw.to_le_bytes());
    }
    out.extend_from_slice(&(frames.len() as u32).to_le_bytes());
    out.push(0);
    out.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
}

/// Where one frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePlace {
    /// Offset in the segment.
    pub offset: u64,
    /// Bytes in the segment, 1 to [`FRAME_BYTES_MAX`].
    pub size: u32,
    /// Offset of its raw bytes, counted from the segment's first raw byte.
    pub raw_offset: u64,
    /// Raw bytes, 1 to 1 MiB.
    pub raw_size: u32,
}

impl FramePlace {
    /// First byte of the segment after the frame.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.size as u64)
    }

    /// First raw byte after the frame, counted like `raw_offset`.
    #[must_use]
    pub const fn raw_end(&self) -> u64 {
        self.raw_offset.saturating_add(self.raw_size as u64)
    }
}

/// The frames of one segment, checked to fill it exactly from its first byte to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeekTable {
    frames: Vec<FramePlace>,
}

impl SeekTable {
    /// The longest table: read this many bytes from a segment's end (or the whole segment when it is shorter).
    pub const TAIL_BYTES_MAX: usize = table_len(SEGMENT_FRAMES_MAX);

    /// Reads the table from the last bytes of a segment of `segment_size` bytes. `tail` must be the end of the segment:
    /// [`SeekTable::TAIL_BYTES_MAX`] bytes of it, or more, or all.
    ///
    /// # Errors
    /// When there is no table, or its frames do not fill the segment exactly, or a bound is passed.
    pub fn parse(tail: &[u8], segment_size: u64) -> Result<Self, SegmentError> {
        if segment_size > SEGMENT_BYTES_MAX as u64 {
            return Err(SegmentError::TooLarge(segment_size));
        }
        let cut = SegmentError::SeekTable("the segment is too short for it");
        let (rest, footer) = tail.split_last_chunk::<FOOTER_LEN>().ok_or(cut.clone())?;
        let (count, flags) = footer.split_first_chunk::<4>().ok_or(cut.clone())?;
        match flags.split_first() {
            Some((descriptor, magic)) if magic == SEEKABLE_MAGIC.to_le_bytes() => {
                if *descriptor != 0 {
                    return Err(SegmentError::SeekTable("its descriptor is not 0"));
                }
            }
            _ => return Err(SegmentError::SeekTable("it does not end with the magic number 0x8F92EAB1")),
        }
        let count = u32::from_le_bytes(*count) as usize;
        if !(1..=SEGMENT_FRAMES_MAX).contains(&count) {
            return Err(SegmentError::Frames(count as u64));
        }
        let table_at = rest.len().checked_sub(HEADER_LEN.saturating_add(ENTRY_LEN.saturating_mul(count))).ok_or(cut.clone())?;
        let table = rest.get(table_at..).unwrap_or_default();
        let (header, entries) = table.split_at_checked(HEADER_LEN).ok_or(cut.clone())?;
        let expected = [SKIPPABLE_MAGIC.to_le_bytes(), ((table_len(count) - HEADER_LEN) as u32).to_le_bytes()].concat();
        if header != expected {
            return Err(SegmentError::SeekTable("its skippable frame does not begin where its length says"));
        }
        let frames_end = segment_size.checked_sub(table_len(count) as u64).ok_or(cut)?;
        Self::places(entries, frames_end)
    }

    /// [`SeekTable::parse`] of a whole segment.
    ///
    /// # Errors
    /// As [`SeekTable::parse`].
    pub fn of_segment(bytes: &[u8]) -> Result<Self, SegmentError> {
        Self::parse(bytes, bytes.len() as u64)
    }

    fn places(entries: &[u8], frames_end: u64) -> Result<Self, SegmentError> {
        let mut frames = Vec::with_capacity(entries.len() / ENTRY_LEN);
        let (mut offset, mut raw_offset) = (0_u64, 0_u64);
        for (index, entry) in entries.chunks_exact(ENTRY_LEN).enumerate() {
            let number = |at: usize| entry.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
            let (size, raw_size) = (number(0), number(4));
            if !(1..=FRAME_RAW_BYTES_MAX as u32).contains(&raw_size) {
                return Err(FrameFault::RawSize.at(index));
            }
            if !(1..=FRAME_BYTES_MAX as u32).contains(&size) {
                return Err(FrameFault::Size.at(index));
            }
            let place = FramePlace { offset, size, raw_offset, raw_size };
            (offset, raw_offset) = (place.end(), place.raw_end());
            frames.push(place);
        }
        if offset != frames_end {
            return Err(SegmentError::SeekTable("its frames do not fill the segment"));
        }
        if raw_offset > SEGMENT_RAW_BYTES_MAX as u64 {
            return Err(SegmentError::RawTooLarge(raw_offset));
        }
        Ok(Self { frames })
    }

    /// The frames in order; at least one.
    #[must_use]
    pub fn frames(&self) -> &[FramePlace] {
        &self.frames
    }

    /// Raw bytes of the segment.
    #[must_use]
    pub fn raw_size(&self) -> u64 {
        self.frames.last().map_or(0, FramePlace::raw_end)
    }

    /// Indexes of the frames that hold some of these raw bytes (counted from the segment's first).
    #[must_use]
    pub fn covering(&self, raw: std::ops::Range<u64>) -> std::ops::Range<usize> {
        let from = self.frames.partition_point(|f| f.raw_end() <= raw.start);
        let to = self.frames.partition_point(|f| f.raw_offset < raw.end);
        from..to.max(from)
    }
}
