//! What a collection's memory is: one formula, used to choose the defaults, printed by `--explain-memory` and held by a
//! test.

use exhibit_evidence::stream::{FRAME_RAW_BYTES_MAX, SEGMENT_TARGET_BYTES};

/// How much of everything there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Complete segments that wait for their acknowledgement, not counting the one under construction.
    pub segments_in_flight: usize,
    /// Threads that compress.
    pub workers: usize,
}

impl Memory {
    /// The program, its TLS and HTTP/2 buffers, captures' tables and everything small.
    pub const BASE_BYTES: usize = 16 << 20;
    /// One segment with its manifest lines: cut when both together reach the target, so at most one frame above it.
    pub const SEGMENT_BYTES: usize = SEGMENT_TARGET_BYTES + FRAME_RAW_BYTES_MAX;
    /// One lane: a frame being filled or waiting, a frame being compressed, its compressed form (twice) and the compressor's
    /// own tables.
    pub const LANE_BYTES: usize = 4 * FRAME_RAW_BYTES_MAX + (1 << 20);

    /// The promise: at most this much in `triage`.
    pub const PROMISE_BYTES: usize = 48 << 20;

    /// What a host with this many processors gets by default.
    #[must_use]
    pub fn for_processors(processors: usize) -> Self {
        // One segment in flight besides the one under construction: while it is sent and stored the next one is built.
        Self { segments_in_flight: 1, workers: processors.clamp(1, 2) }
    }

    /// The most memory that a collection takes, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        Self::BASE_BYTES
            .saturating_add(self.segments_in_flight.saturating_add(1).saturating_mul(Self::SEGMENT_BYTES))
            .saturating_add(self.workers.saturating_mul(Self::LANE_BYTES))
    }

    /// The formula with its numbers, for people.
    #[must_use]
    pub fn explain(&self) -> String {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        format!(
            "memory = base + (segments_in_flight + 1) x segment + workers x lane\n\
             \x20      = {} MiB + ({} + 1) x {} MiB + {} x {} MiB = {} MiB at most while collecting\n\
             base     the program, TLS and HTTP/2 buffers, tables of captures (20 MiB at most when idle)\n\
             segment  {} MiB of frames and manifest lines, cut at most one frame ({} MiB) above that; one more is under construction\n\
             lane     raw and compressed frames on their way through one compressing thread, and its tables\n",
            mib(Self::BASE_BYTES),
            self.segments_in_flight,
            mib(Self::SEGMENT_BYTES),
            self.workers,
            mib(Self::LANE_BYTES),
            mib(self.bytes()),
            mib(SEGMENT_TARGET_BYTES),
            mib(FRAME_RAW_BYTES_MAX),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_keep_the_promise() {
        for processors in [1, 2, 64] {
            let memory = Memory::for_processors(processors);
            assert!(memory.bytes() <= Memory::PROMISE_BYTES, "{}", memory.explain());
            assert!(memory.explain().contains(&format!("= {} MiB at most", memory.bytes() >> 20)));
        }
    }
}
