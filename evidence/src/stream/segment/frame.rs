//! One zstd frame: made from at most 1 MiB, decoded into a buffer of exactly the stated size.

use std::fmt;
use std::io::Cursor;

use zstd::bulk::{Compressor, Decompressor};

use super::{FrameFault, SegmentError};
use crate::stream::FRAME_RAW_BYTES_MAX;

/// Makes frames with one zstd context. One per thread; not for concurrent use.
pub struct FrameCompressor {
    context: Compressor<'static>,
}

impl fmt::Debug for FrameCompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameCompressor")
    }
}

/// Levels that keep memory small on the host: negative ones are faster, 1 is the default of the project.
const LEVELS: std::ops::RangeInclusive<i32> = -7..=19;

impl FrameCompressor {
    /// A compressor of this zstd level, from -7 to 19.
    ///
    /// # Errors
    /// When the level is another, or zstd has no memory.
    pub fn new(level: i32) -> Result<Self, SegmentError> {
        if !LEVELS.contains(&level) {
            return Err(SegmentError::Compressor(format!("compression level {level}: -7 to 19 are allowed")));
        }
        let failed = |e: std::io::Error| SegmentError::Compressor(e.to_string());
        let mut context = Compressor::new(level).map_err(failed)?;
        context.include_contentsize(true).map_err(failed)?;
        context.include_checksum(false).map_err(failed)?;
        context.include_dictid(false).map_err(failed)?;
        Ok(Self { context })
    }

    /// Another zstd level from the next frame on.
    ///
    /// # Errors
    /// As [`FrameCompressor::new`].
    pub fn set_level(&mut self, level: i32) -> Result<(), SegmentError> {
        if !LEVELS.contains(&level) {
            return Err(SegmentError::Compressor(format!("compression level {level}: -7 to 19 are allowed")));
        }
        self.context.set_compression_level(level).map_err(|e| SegmentError::Compressor(e.to_string()))
    }

    /// Appends one frame made of `raw` (1 byte to [`FRAME_RAW_BYTES_MAX`]) to `out`.
    ///
    /// # Errors
    /// When `raw` is empty or too long, or zstd fails; `out` is then as it was.
    pub fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), SegmentError> {
        if !(1..=FRAME_RAW_BYTES_MAX).contains(&raw.len()) {
            return Err(FrameFault::RawSize.at(0));
        }
        let before = out.len();
        out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        let mut tail = Cursor::new(&mut *out);
        tail.set_position(before as u64);
        let result = self.context.compress_to_buffer(raw, &mut tail);
        if let Err(error) = result {
            out.truncate(before);
            return Err(SegmentError::Compressor(error.to_string()));
        }
        Ok(())
    }
}

/// Decodes frames with one zstd context into one buffer.
pub(super) struct FrameDecoder {
    context: Decompressor<'static>,
    raw: Vec<u8>,
}

impl fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameDecoder")
    }
}

impl FrameDecoder {
    pub(super) fn new() -> Result<Self, SegmentError> {
        let context = Decompressor::new().map_err(|e| SegmentError::Compressor(e.to_string()))?;
        Ok(Self { context, raw: Vec::new() })
    }

    /// Decodes exactly one frame that must hold exactly `raw_size` bytes. Nothing is allocated or decoded before header,
    /// length and bound are checked.
    pub(super) fn decode(&mut self, frame: &[u8], raw_size: usize) -> Result<&[u8], FrameFault> {
        if !(1..=FRAME_RAW_BYTES_MAX).contains(&raw_size) {
            return Err(FrameFault::RawSize);
        }
        if content_size(frame).ok_or(FrameFault::Header)? != raw_size as u64 {
            return Err(FrameFault::ContentSize);
        }
        if zstd::zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
            return Err(FrameFault::Length);
        }
        if self.raw.len() < raw_size {
            self.raw.resize(raw_size, 0);
        }
        let buffer = self.raw.get_mut(..raw_size).ok_or(FrameFault::RawSize)?;
        match self.context.decompress_to_buffer(frame, buffer) {
            Ok(size) if size == raw_size => Ok(buffer),
            _ => Err(FrameFault::Data),
        }
    }
}

/// The content size that a frame's header states (RFC 8878, section 3.1.1.1). `None` when it is no zstd frame or not of
/// our form: a dictionary, a checksum, a reserved bit, an absent content size, or a window above 1 MiB, which common
/// decoders may refuse for want of memory.
fn content_size(frame: &[u8]) -> Option<u64> {
    let rest = frame.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
    let (descriptor, rest) = rest.split_first()?;
    let single_segment = descriptor & 0x20 != 0;
    // Bits 4 (unused) and 3 (reserved), 2 (checksum), 1 and 0 (dictionary).
    if descriptor & 0x1f != 0 {
        return None;
    }
    let rest = if single_segment {
        rest
    } else {
        let (window, rest) = rest.split_first()?;
        if window_bytes(*window) > FRAME_RAW_BYTES_MAX as u64 {
            return None;
        }
        rest
    };
    match descriptor >> 6 {
        0 if single_segment => rest.first().map(|b| u64::from(*b)),
        0 => None,
        1 => rest.first_chunk().map(|b| u64::from(u16::from_le_bytes(*b)) + 256),
        2 => rest.first_chunk().map(|b| u64::from(u32::from_le_bytes(*b))),
        _ => rest.first_chunk().map(|b| u64::from_le_bytes(*b)),
    }
}

/// The window size that a window descriptor states (RFC 8878, section 3.1.1.1.2): below 2^42.
fn window_bytes(descriptor: u8) -> u64 {
    let base = 1_u64 << (10 + (descriptor >> 3));
    base + base / 8 * u64::from(descriptor & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_sizes() {
        // zstd -b prints 512 KiB windows for level 1; 0x50 is its descriptor: exponent 10, mantissa 0.
        assert_eq!((window_bytes(0), window_bytes(0x50), window_bytes(0x51)), (1 << 10, 1 << 20, (1 << 20) + (1 << 17)));
        assert_eq!(window_bytes(0xff), (1 << 41) + 7 * (1 << 38));
    }

    #[test]
    fn a_wide_window_is_refused_before_anything_is_decoded() {
        // Magic, descriptor (content size of 4 bytes), window, content size 3, then one last raw block "abc".
        let frame = |window: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0x80, window][..], &[3, 0, 0, 0], &[0x19, 0, 0], b"abc"].concat();
        let mut decoder = FrameDecoder::new().expect("zstd");
        assert_eq!(decoder.decode(&frame(0x50), 3).expect("1 MiB"), b"abc");
        for window in [0x51, 0x90, 0xff] {
            assert_eq!(decoder.decode(&frame(window), 3), Err(FrameFault::Header), "{window:#x}");
        }
    }
}
