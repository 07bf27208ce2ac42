//! Compression: the capture thread packs a frame itself, or hands it to a lane that has nothing to do. Each lane is a thread
//! with its own compressor. The order of frames is the order of [`Next`], so nobody needs a buffer to sort them in.
//!
//! A frame that was just read and hashed still lies in the cache of the capture thread's processor; to pack it on another
//! one costs half as much again. So lanes get what they can take at once, and never a frame to wait for.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};

use exhibit_evidence::stream::segment::FrameCompressor;

use super::bookmark::Point;
use super::frames::FRAME_BYTES;
use super::level::Level;

/// A raw frame, with the manifest lines of the items whose member ends in it.
#[derive(Debug, Default)]
pub(super) struct RawFrame {
    /// A whole buffer, of which the first `filled` bytes count.
    pub raw: Vec<u8>,
    pub filled: usize,
    pub lines: Vec<u8>,
    /// Where the capture thread stands after it, if the stream can be taken up there.
    pub point: Option<Box<Point>>,
    /// The segment ends with it.
    pub cut: bool,
}

/// A compressed frame on its way to the assembler.
#[derive(Debug)]
pub(super) struct PackedFrame {
    /// The zstd frame; empty when there was no raw data, only lines.
    pub frame: Vec<u8>,
    pub raw_bytes: usize,
    pub lines: Vec<u8>,
    pub point: Option<Box<Point>>,
    pub cut: bool,
}

/// Where the assembler gets the next frame of the stream.
#[derive(Debug)]
enum Next {
    /// The capture thread packed it.
    Here(PackedFrame),
    /// It comes out of this lane.
    Lane(usize),
}

/// Frames that are on their way to the assembler besides the one that it waits for. Enough that the capture thread goes on
/// while a lane finishes the frame before.
const AHEAD: usize = 2;

/// The compressing threads as the capture thread sees them.
#[derive(Debug)]
pub(super) struct LanesIn {
    lanes: Vec<LaneIn>,
    turn: usize,
    own: Packer,
    next: SyncSender<Next>,
    empty: Receiver<Vec<u8>>,
}

#[derive(Debug)]
struct LaneIn {
    frames: SyncSender<RawFrame>,
    empty: Receiver<Vec<u8>>,
}

/// The compressing threads as the assembler sees them.
#[derive(Debug)]
pub(super) struct LanesOut {
    pub level: Arc<Level>,
    lanes: Vec<LaneOut>,
    next: Receiver<Next>,
    empty: Sender<Vec<u8>>,
}

#[derive(Debug)]
struct LaneOut {
    frames: Receiver<PackedFrame>,
    empty: Sender<Vec<u8>>,
}

/// Starts the lanes: with the capture thread, `workers` threads compress.
///
/// # Errors
/// When a thread or a compressor cannot be made.
pub(super) fn start(workers: usize) -> io::Result<(LanesIn, LanesOut)> {
    let level = Arc::new(Level::new());
    let (next_in, next_out) = sync_channel(AHEAD);
    let (empty_in, empty_out) = channel();
    let own = Packer::new(&level)?;
    let mut ins = LanesIn { lanes: Vec::new(), turn: 0, own, next: next_in, empty: empty_out };
    let mut outs = LanesOut { level: Arc::clone(&level), lanes: Vec::new(), next: next_out, empty: empty_in };
    for n in 1..workers {
        let (raw_in, raw_out) = sync_channel::<RawFrame>(1);
        let (packed_in, packed_out) = sync_channel::<PackedFrame>(1);
        let (empty_raw_in, empty_raw_out) = channel::<Vec<u8>>();
        let (empty_packed_in, empty_packed_out) = channel::<Vec<u8>>();
        let lane =
            Lane { packer: Packer::new(&level)?, raw: raw_out, empty_raw: empty_raw_in, packed: packed_in, empty_packed: empty_packed_out };
        // It ends by itself when either neighbour is gone.
        std::thread::Builder::new().name(format!("compress-{n}")).stack_size(512 << 10).spawn(move || lane.run())?;
        ins.lanes.push(LaneIn { frames: raw_in, empty: empty_raw_out });
        outs.lanes.push(LaneOut { frames: packed_out, empty: empty_packed_in });
    }
    Ok((ins, outs))
}

impl LanesIn {
    /// Hands a frame on; gives a whole buffer for the next one. `None` when nobody takes frames any more.
    pub fn hand_on(&mut self, mut frame: RawFrame) -> Option<Vec<u8>> {
        for _ in 0..self.lanes.len() {
            let n = self.turn;
            let lane = self.lanes.get(n)?;
            self.turn = n.saturating_add(1).checked_rem(self.lanes.len()).unwrap_or(0);
            match lane.frames.try_send(frame) {
                Ok(()) => {
                    self.own.level.taken();
                    let fresh = lane.empty.try_recv().unwrap_or_else(|_| vec![0; FRAME_BYTES]);
                    self.next.send(Next::Lane(n)).ok()?;
                    return Some(fresh);
                }
                Err(TrySendError::Full(back)) => frame = back,
                Err(TrySendError::Disconnected(_)) => return None,
            }
        }
        self.own.level.crowded();
        let (packed, raw) = self.own.pack(frame, self.empty.try_recv().unwrap_or_default())?;
        self.next.send(Next::Here(packed)).ok()?;
        Some(raw)
    }
}

impl LanesOut {
    /// Waits for the next frame; `take` gets it. The stream's frames are over when this gives false.
    ///
    /// # Errors
    /// What `take` returned, or `lost` when a lane ended without the frame that it was given.
    pub fn take_next<E>(&self, lost: E, take: impl FnOnce(PackedFrame) -> Result<Vec<u8>, E>) -> Result<bool, E> {
        let Ok(next) = self.next.recv() else { return Ok(false) };
        let (packed, empty) = match next {
            Next::Here(packed) => (packed, &self.empty),
            Next::Lane(n) => {
                let lane = self.lanes.get(n).and_then(|lane| Some((lane.frames.recv().ok()?, &lane.empty)));
                let Some(found) = lane else { return Err(lost) };
                found
            }
        };
        // The buffer goes back to where it came from.
        let _ = empty.send(take(packed)?);
        Ok(true)
    }
}

#[derive(Debug)]
struct Packer {
    compressor: FrameCompressor,
    level: Arc<Level>,
    used: i32,
}

impl Packer {
    fn new(level: &Arc<Level>) -> io::Result<Self> {
        let used = level.now();
        let compressor = FrameCompressor::new(used).map_err(|e| io::Error::other(e.to_string()))?;
        Ok(Self { compressor, level: Arc::clone(level), used })
    }

    /// Packs a frame into `frame`; gives the raw buffer back. `None` when it cannot: compression of a buffer into a large
    /// enough one fails only when memory is gone. Whoever gives up then makes the assembler see a stream without its end,
    /// which is never taken for a complete one.
    fn pack(&mut self, raw: RawFrame, mut frame: Vec<u8>) -> Option<(PackedFrame, Vec<u8>)> {
        let RawFrame { raw, filled, lines, point, cut } = raw;
        frame.clear();
        let level = self.level.now();
        if level != self.used && self.compressor.set_level(level).is_ok() {
            self.used = level;
        }
        let content = raw.get(..filled).unwrap_or_default();
        if !content.is_empty() {
            self.compressor.compress(content, &mut frame).ok()?;
        }
        Some((PackedFrame { frame, raw_bytes: content.len(), lines, point, cut }, raw))
    }
}

struct Lane {
    packer: Packer,
    raw: Receiver<RawFrame>,
    empty_raw: Sender<Vec<u8>>,
    packed: SyncSender<PackedFrame>,
    empty_packed: Receiver<Vec<u8>>,
}

impl Lane {
    /// Runs until either neighbour is gone.
    fn run(mut self) {
        crate::budget::step_back();
        while let Ok(frame) = self.raw.recv() {
            let empty = self.empty_packed.try_recv().unwrap_or_default();
            let Some((packed, raw)) = self.packer.pack(frame, empty) else { return };
            let _ = self.empty_raw.send(raw);
            if self.packed.send(packed).is_err() {
                return;
            }
        }
    }
}
