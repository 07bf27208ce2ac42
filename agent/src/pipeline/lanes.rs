//! Compression: each lane is a thread with its own compressor. Frames enter and leave a lane in order.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use exhibit_evidence::stream::segment::FrameCompressor;

use super::bookmark::Point;
use super::frames::{FRAME_BYTES, LaneIn, RawFrame};
use super::level::Level;

/// A compressed frame on its way to the assembler.
#[derive(Debug)]
pub(super) struct PackedFrame {
    /// The zstd frame; empty when there was no raw data, only lines.
    pub frame: Vec<u8>,
    pub raw_bytes: usize,
    pub lines: Vec<u8>,
    pub point: Option<Box<Point>>,
}

/// One lane as the assembler sees it.
#[derive(Debug)]
pub(super) struct LaneOut {
    pub frames: Receiver<PackedFrame>,
    pub empty: Sender<Vec<u8>>,
}

/// The lanes as the assembler sees them.
pub(super) struct Lanes {
    pub outs: Vec<LaneOut>,
    pub level: Arc<Level>,
}

/// Starts the lanes.
///
/// # Errors
/// When a thread or a compressor cannot be made.
pub(super) fn start(count: usize, level: &Arc<Level>) -> io::Result<(Vec<LaneIn>, Vec<LaneOut>)> {
    let (mut ins, mut outs) = (Vec::new(), Vec::new());
    for n in 0..count.max(1) {
        let (raw_in, raw_out) = sync_channel::<RawFrame>(1);
        let (packed_in, packed_out) = sync_channel::<PackedFrame>(1);
        let (empty_raw_in, empty_raw_out) = channel::<Vec<u8>>();
        let (empty_packed_in, empty_packed_out) = channel::<Vec<u8>>();
        let compressor = FrameCompressor::new(level.now()).map_err(|e| io::Error::other(e.to_string()))?;
        let lane = Lane {
            compressor,
            level: Arc::clone(level),
            used: level.now(),
            raw: raw_out,
            empty_raw: empty_raw_in,
            packed: packed_in,
            empty_packed: empty_packed_out,
        };
        // It ends by itself when either neighbour is gone.
        std::thread::Builder::new().name(format!("compress-{n}")).stack_size(512 << 10).spawn(move || lane.run())?;
        ins.push(LaneIn { frames: raw_in, empty: empty_raw_out });
        outs.push(LaneOut { frames: packed_out, empty: empty_packed_in });
    }
    Ok((ins, outs))
}

struct Lane {
    compressor: FrameCompressor,
    level: Arc<Level>,
    used: i32,
    raw: Receiver<RawFrame>,
    empty_raw: Sender<Vec<u8>>,
    packed: SyncSender<PackedFrame>,
    empty_packed: Receiver<Vec<u8>>,
}

impl Lane {
    /// Runs until either neighbour is gone.
    fn run(mut self) {
        crate::budget::step_back();
        while let Ok(RawFrame { mut raw, lines, point }) = self.raw.recv() {
            let mut frame = self.empty_packed.try_recv().unwrap_or_default();
            frame.clear();
            let level = self.level.now();
            if level != self.used && self.compressor.set_level(level).is_ok() {
                self.used = level;
            }
            if !raw.is_empty() && self.compressor.compress(&raw, &mut frame).is_err() {
                // Compression of a buffer into a large enough one fails only when memory is gone. Ending the lane makes the
                // assembler see a stream without its end, which is never taken for a complete one.
                return;
            }
            let raw_bytes = raw.len();
            raw.resize(FRAME_BYTES, 0);
            let _ = self.empty_raw.send(raw);
            if self.packed.send(PackedFrame { frame, raw_bytes, lines, point }).is_err() {
                return;
            }
        }
    }
}
