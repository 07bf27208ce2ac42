//! Streams and segments: evidence on its way and at rest.
//!
//! A stream is one POSIX pax tar ([`tar`] writes it, [`reader`] reads it from peers that may lie), compressed as
//! independent zstd frames and cut into [`segment`]s that each end with their own seek table. The segments of a stream,
//! concatenated, are a file that `tar --zstd -x` opens. `docs/format/stream.md` is the normative text.

mod places;
pub mod reader;
pub mod segment;
pub mod tar;

mod pax;
mod ustar;

pub use places::Places;

/// The most raw bytes in one zstd frame. Bounds the memory that reading any one item takes.
pub const FRAME_RAW_BYTES_MAX: usize = 1 << 20;

/// The most bytes of one compressed frame: zstd's own worst case for incompressible data (one 256th more).
pub const FRAME_BYTES_MAX: usize = FRAME_RAW_BYTES_MAX + FRAME_RAW_BYTES_MAX / 256;

/// A segment is full when it holds this many compressed bytes or more. Of the memory that an agent may take, small segments
/// make more that can be on their way at once, which is what a long line needs; each costs its store a sync or a request.
pub const SEGMENT_TARGET_BYTES: usize = 4 << 20;

/// The most bytes of a stored segment: the target, one frame that did not compress (1 MiB and a little) and the seek
/// table, rounded up. The wire contract has the same bound.
pub const SEGMENT_BYTES_MAX: usize = 10 << 20;

/// The most raw bytes in one segment. Highly compressible data would otherwise put hundreds of gibibytes into one: this
/// bounds the work that one acknowledgement stands for, and what a hostile segment can cost.
pub const SEGMENT_RAW_BYTES_MAX: usize = 128 << 20;

/// The most frames in one segment, so that a seek table is at most 8 + 1,024 * 8 + 9 bytes.
pub const SEGMENT_FRAMES_MAX: usize = 1024;
