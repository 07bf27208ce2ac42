//! What a collection's memory is: one formula, used to choose the defaults, printed by `--explain-memory` and held by a
//! test.

use exhibit_evidence::stream::SEGMENT_TARGET_BYTES;

use super::frames::FRAME_BYTES;

/// How much of everything there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Complete segments that wait for their acknowledgement, not counting the one under construction.
    pub segments_in_flight: usize,
    /// Threads that compress; the capture thread is the first.
    pub workers: usize,
}

impl Memory {
    /// The program, its TLS and HTTP/2 buffers and everything small.
    pub const BASE_BYTES: usize = (12 << 20) + (512 << 10);
    /// The tables of a capture at work. Most have none to speak of; a test takes `memory` through the most scattered memory that
    /// it tells apart. `network` may take more, where half a million open sockets are held, and `process-memory`, where a process has
    /// thousands of threads: 4.5 MiB of registers, kept once, what is known of each thread, and 1 MiB of pages that are kept of the moment of the stop. Where it has as many
    /// mappings as are told apart, what is mapped now (16 bytes each, 1 MiB) is beside that, twice while it is read.
    pub const TABLES_BYTES: usize = 4 << 20;
    /// One segment with its manifest lines: cut when both together reach the target, so at most one frame above it.
    pub const SEGMENT_BYTES: usize = SEGMENT_TARGET_BYTES + FRAME_BYTES;
    /// One compressing thread: five frames and the compressor's own tables. The capture thread has one raw frame and four
    /// compressed ones (in making, two on their way, one with the assembler); a lane two raw ones (waiting, being compressed) and
    /// three compressed ones (in making, on its way, with the assembler).
    pub const LANE_BYTES: usize = 5 * FRAME_BYTES + (2 << 20);

    /// The promise: at most this much in `triage`.
    pub const PROMISE_BYTES: usize = 48 << 20;

    /// What a host with this many processors gets by default.
    #[must_use]
    pub fn for_processors(processors: usize) -> Self {
        // What is on its way, being checked and being stored, besides the one under construction: on a line of 80 ms round
        // trip this carries 100 MB/s.
        Self { segments_in_flight: 4, workers: processors.clamp(1, 2) }
    }

    /// The most memory that a collection takes, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        Self::BASE_BYTES
            .saturating_add(Self::TABLES_BYTES)
            .saturating_add(self.segments_in_flight.saturating_add(1).saturating_mul(Self::SEGMENT_BYTES))
            .saturating_add(self.workers.saturating_mul(Self::LANE_BYTES))
    }

    /// The formula with its numbers, for people.
    #[must_use]
    pub fn explain(&self) -> String {
        let mib = |bytes: usize| format!("{}", bytes as f64 / f64::from(1 << 20));
        format!(
            "memory = base + tables + (segments_in_flight + 1) x segment + workers x compress\n\
             \x20      = {} MiB + {} MiB + ({} + 1) x {} MiB + {} x {} MiB = {} MiB at most while collecting\n\
             base     the program, TLS and HTTP/2 buffers\n\
             tables   of the capture at work (of process-memory up to 11 MiB more, for a process with thousands of threads and mappings; of\n\
             \x20        network up to 17 MiB more, where half a million open sockets are held)\n\
             segment  {} MiB of frames and manifest lines, cut at most one frame ({} MiB) above that; one more is under construction\n\
             compress raw and compressed frames on their way through one compressing thread, and its tables\n",
            mib(Self::BASE_BYTES),
            mib(Self::TABLES_BYTES),
            self.segments_in_flight,
            mib(Self::SEGMENT_BYTES),
            self.workers,
            mib(Self::LANE_BYTES),
            mib(self.bytes()),
            mib(SEGMENT_TARGET_BYTES),
            mib(FRAME_BYTES),
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
            assert!(memory.explain().contains(&format!("= {} MiB at most", memory.bytes() as f64 / f64::from(1 << 20))));
        }
    }
}
