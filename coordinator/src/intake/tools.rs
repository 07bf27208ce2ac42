//! Buffers and decoders that are used again. To touch a fresh buffer of 4 MiB for the first time costs as much as to fill
//! it, and to make a zstd context as much as to decode a small frame.

use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use exhibit_evidence::Digest;
use exhibit_evidence::stream::segment::{DecodeError, Decoded, SegmentDecoder, SegmentError};

use super::check::BadUpload;
use crate::store::BLOCK_BYTES;

/// Buffers that are kept, over all uploads, and the largest that is: 24 MiB in all.
const BUFFERS_KEPT: usize = 4;
const BUFFER_BYTES_KEPT: usize = 6 << 20;

/// The bytes of a segment. The first one lies at a multiple of [`BLOCK_BYTES`] in memory, so that a store can hand them to a
/// disk as they are.
#[derive(Debug)]
pub(super) struct SegmentBytes {
    whole: Vec<u8>,
    from: usize,
}

impl SegmentBytes {
    fn new(mut whole: Vec<u8>, room: usize) -> Self {
        whole.clear();
        whole.reserve(room.saturating_add(BLOCK_BYTES));
        let from = Some(whole.as_ptr().align_offset(BLOCK_BYTES)).filter(|n| *n < BLOCK_BYTES).unwrap_or(0);
        whole.resize(from, 0);
        Self { whole, from }
    }

    /// Appends; more than the room that was asked for costs the place in memory, nothing else.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.whole.extend_from_slice(bytes);
    }

    pub fn as_slice(&self) -> &[u8] {
        self.whole.get(self.from..).unwrap_or_default()
    }

    /// The segment to be stored, and the buffer to be given back when it is.
    pub fn into_bytes(self) -> (Bytes, Bytes) {
        let whole = Bytes::from(self.whole);
        (whole.slice(self.from..), whole)
    }
}

/// What all uploads share.
#[derive(Debug)]
pub(super) struct Tools {
    buffers: Mutex<Vec<Vec<u8>>>,
    decoders: Mutex<Vec<Decoder>>,
    processors: usize,
}

impl Tools {
    pub fn new(processors: usize) -> Self {
        Self { buffers: Mutex::default(), decoders: Mutex::default(), processors }
    }

    /// A buffer for a segment of so many bytes.
    pub fn buffer(&self, room: usize) -> SegmentBytes {
        let kept = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        SegmentBytes::new(kept.unwrap_or_default(), room)
    }

    /// Keeps a buffer that nobody looks at any more.
    pub fn give_back(&self, buffer: Bytes) {
        if !buffer.is_unique() {
            return;
        }
        let buffer = Vec::from(buffer);
        let mut kept = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.capacity() <= BUFFER_BYTES_KEPT && kept.len() < BUFFERS_KEPT {
            kept.push(buffer);
        }
    }

    /// A decoder. There are never more of them than checks at once.
    pub fn decoder(&self) -> Result<Decoder, SegmentError> {
        let kept = self.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // With two processors the other one is busy with what comes in and goes out.
        kept.map_or_else(|| Decoder::new(self.processors > 2), Ok)
    }

    pub fn keep(&self, decoder: Decoder) {
        let mut kept = self.decoders.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < self.processors {
            kept.push(decoder);
        }
    }
}

/// Decodes segments and hashes what is stored.
#[derive(Debug)]
pub(super) struct Decoder {
    segments: SegmentDecoder,
    /// Frames on their way from the decoding thread to the parser.
    frames: Vec<Vec<u8>>,
    beside: bool,
}

/// Frames that are decoded ahead of the parser: 1 MiB each at most.
const FRAMES_AHEAD: usize = 2;

type Take<'a> = dyn FnMut(&[u8]) -> Result<(), BadUpload> + 'a;

impl Decoder {
    /// `beside`: hash the stored bytes and decode the frames on threads beside the parser's.
    pub fn new(beside: bool) -> Result<Self, SegmentError> {
        Ok(Self { segments: SegmentDecoder::new()?, frames: Vec::new(), beside })
    }

    /// The digest of the stored bytes, and what they hold; `take` gets the raw bytes in order.
    pub fn run(&mut self, bytes: &[u8], take: &mut Take<'_>) -> (Digest, Result<Decoded, DecodeError<BadUpload>>) {
        if !self.beside {
            // One frame after the other: each is hashed while it is still in the processor's cache.
            return self.segments.decode_and_hash(bytes, take);
        }
        std::thread::scope(|scope| {
            let digest = scope.spawn(|| Digest::of(bytes));
            let decoded = self.run_beside(bytes, take);
            (digest.join().unwrap_or_else(|_| Digest::of(bytes)), decoded)
        })
    }

    fn run_beside(&mut self, bytes: &[u8], take: &mut Take<'_>) -> Result<Decoded, DecodeError<BadUpload>> {
        let (full_in, full) = sync_channel::<Vec<u8>>(FRAMES_AHEAD);
        let (empty_in, empty) = channel::<Vec<u8>>();
        for frame in self.frames.drain(..) {
            let _ = empty_in.send(frame);
        }
        let segments = &mut self.segments;
        std::thread::scope(|scope| {
            let decoding = scope.spawn(move || {
                let decoded = segments.decode(bytes, &mut |raw: &[u8]| {
                    let mut frame = empty.try_recv().unwrap_or_default();
                    frame.clear();
                    frame.extend_from_slice(raw);
                    full_in.send(frame)
                });
                (decoded, empty)
            });
            let mut stopped = None;
            while let Ok(frame) = full.recv() {
                if let Err(bad) = take(&frame) {
                    stopped = Some(bad);
                    break;
                }
                let _ = empty_in.send(frame);
            }
            drop((full, empty_in));
            match (stopped, decoding.join()) {
                (Some(bad), _) => Err(DecodeError::Stopped(bad)),
                (None, Ok((Ok(decoded), empty))) => {
                    self.frames.extend(empty.try_iter());
                    Ok(decoded)
                }
                (None, Ok((Err(DecodeError::Segment(error)), _))) => Err(DecodeError::Segment(error)),
                (None, Ok((Err(DecodeError::Stopped(_)), _)) | Err(_)) => {
                    Err(DecodeError::Stopped(BadUpload { field: "segment_data", problem: "decoding it ended badly".to_owned() }))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_begin_at_a_block() {
        let tools = Tools::new(2);
        for round in 0..3 {
            let mut bytes = tools.buffer(100_000);
            bytes.extend(&vec![round; 60_000]);
            bytes.extend(&vec![9; 40_000]);
            assert_eq!(bytes.as_slice().as_ptr().align_offset(BLOCK_BYTES), 0);
            assert_eq!((bytes.as_slice().len(), bytes.as_slice()[0], bytes.as_slice()[99_999]), (100_000, round, 9));
            let (segment, whole) = bytes.into_bytes();
            assert_eq!(segment.len(), 100_000);
            tools.give_back(whole.clone());
            assert!(tools.buffers.lock().expect("lock").is_empty(), "somebody still looks at it");
            drop(segment);
            tools.give_back(whole);
            assert_eq!(tools.buffers.lock().expect("lock").len(), 1);
        }
        tools.give_back(Bytes::from(vec![0; BUFFER_BYTES_KEPT + 1]));
        assert_eq!(tools.buffers.lock().expect("lock").len(), 1, "too large to keep");
    }
}
