//! The floor: the work that no design can leave out, done in this process with every processor busy and nobody waiting.
//!
//! On the host: read from the page cache, SHA-256 of the raw bytes, zstd level 1 in frames of 1 MiB, SHA-256 of the
//! segment, AES-256-GCM in TLS records of 16 KiB, the copy into the kernel. At the coordinator: the copy out of the
//! kernel, opening the records, SHA-256 of the segment, decompression, SHA-256 of the raw bytes again. It is the
//! product's own code where the product has it (frames, segments, digests) and its libraries where it does not (AEAD).
//!
//! Left out, because a design may hide or shrink it: everything about threads, messages, HTTP/2, tar, manifests, storing
//! and fsync. Each thread takes the next piece of the data and carries it from one end to the other over its own
//! loopback connection, so the rate is that of all work divided by all processors: no pipeline of the same pieces can be
//! faster on this machine.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use exhibit_evidence::Digest;
use exhibit_evidence::stream::FRAME_RAW_BYTES_MAX;
use exhibit_evidence::stream::segment::{FrameCompressor, SegmentBuilder, SegmentDecoder};

use crate::data::Data;

/// What the agent uses.
const LEVEL: i32 = 1;
/// Largest TLS record (RFC 8446, 5.1).
const RECORD_BYTES: usize = 16 << 10;
/// Records that are in the socket at once: less than its buffer, so that one thread can be both ends.
const RECORDS_AT_ONCE: usize = 4;
/// Raw bytes of one large file that a thread takes at once.
const PIECE_BYTES: u64 = 2 << 20;
/// Small files that a thread takes at once.
const PIECE_FILES: usize = 64;

/// One run of the floor.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    /// Seconds from the first to the last byte.
    pub seconds: f64,
    /// Bytes after compression.
    pub stored_bytes: u64,
}

/// Carries the data once.
pub fn run(data: &Data) -> Floor {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let (next, stored) = (AtomicUsize::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut carrier = Carrier::new();
                while carrier.take(data, next.fetch_add(1, Ordering::Relaxed)) {}
                stored.fetch_add(carrier.end(), Ordering::Relaxed);
            });
        }
    });
    Floor { seconds: begin.elapsed().as_secs_f64(), stored_bytes: stored.into_inner() }
}

/// One thread's state: buffers are kept, as in a product that reuses them.
struct Carrier {
    compressor: FrameCompressor,
    decoder: SegmentDecoder,
    key: LessSafeKey,
    near: TcpStream,
    far: TcpStream,
    frame: Vec<u8>,
    segment: SegmentBuilder,
    received: Vec<u8>,
    /// One TLS record: its content and the tag.
    record: Vec<u8>,
    records: u64,
    stored: u64,
    /// What was hashed at the near end, frame by frame of the segment: contents, each with its place and digest. The far
    /// end hashes them again, and that they are equal shows that the whole was done.
    hashed: Vec<Vec<(Range<usize>, Digest)>>,
}

impl Carrier {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (far, _) = listener.accept().expect("accept");
        near.set_nodelay(true).expect("socket option");
        Self {
            compressor: FrameCompressor::new(LEVEL).expect("zstd"),
            decoder: SegmentDecoder::new().expect("zstd"),
            key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("key")),
            near,
            far,
            frame: Vec::with_capacity(FRAME_RAW_BYTES_MAX),
            segment: SegmentBuilder::new(0, 0),
            received: Vec::new(),
            record: vec![0; RECORD_BYTES + 16],
            records: 0,
            stored: 0,
            hashed: vec![Vec::new()],
        }
    }

    /// Takes piece `n` of the data; false when there is none.
    fn take(&mut self, data: &Data, n: usize) -> bool {
        if data.is_one_file() {
            let from = n as u64 * PIECE_BYTES;
            if from < data.bytes {
                self.part(data, from, (from + PIECE_BYTES).min(data.bytes));
            }
            return from < data.bytes;
        }
        let files = data.files.iter().skip(n * PIECE_FILES).take(PIECE_FILES);
        let mut any = false;
        for path in files {
            any = true;
            self.small_file(path);
        }
        any
    }

    fn part(&mut self, data: &Data, from: u64, to: u64) {
        let file = File::open(&data.root).expect("data");
        let mut at = from;
        while at < to {
            let count = (to - at).min(FRAME_RAW_BYTES_MAX as u64) as usize;
            self.frame.resize(count, 0);
            file.read_exact_at(&mut self.frame, at).expect("data");
            self.hash(0..count);
            self.pack();
            at += count as u64;
        }
    }

    /// A small file is looked at, opened, read, hashed by itself, and has a tar header and padding.
    fn small_file(&mut self, path: &std::path::Path) {
        let mut file = File::open(path).expect("data");
        let size = file.metadata().expect("metadata").len() as usize;
        let padded = size.div_ceil(512) * 512;
        if self.frame.len() + 512 + padded > FRAME_RAW_BYTES_MAX {
            self.pack();
        }
        let mut header = [0_u8; 512];
        let name = path.as_os_str().as_encoded_bytes();
        let shown = name.len().min(100);
        header[..shown].copy_from_slice(&name[name.len() - shown..]);
        self.frame.extend_from_slice(&header);
        let at = self.frame.len();
        self.frame.resize(at + size, 0);
        file.read_exact(&mut self.frame[at..]).expect("data");
        self.hash(at..at + size);
        self.frame.resize(at + padded, 0);
    }

    /// Hashes one content, or a part of one, in the frame.
    fn hash(&mut self, place: Range<usize>) {
        let digest = Digest::of(&self.frame[place.clone()]);
        self.hashed.last_mut().expect("a frame").push((place, digest));
    }

    /// Compresses the frame into the segment; sends the segment when it is full.
    fn pack(&mut self) {
        self.segment.compress_frame(&mut self.compressor, &self.frame).expect("frame");
        self.frame.clear();
        self.hashed.push(Vec::new());
        if self.segment.is_full() {
            self.carry();
        }
    }

    fn carry(&mut self) {
        let built = std::mem::replace(&mut self.segment, SegmentBuilder::new(0, 0)).finish().expect("segment");
        self.stored += built.bytes.len() as u64;
        self.received.clear();
        for batch in built.bytes.chunks(RECORD_BYTES * RECORDS_AT_ONCE) {
            self.cross(batch);
        }
        assert_eq!(Digest::of(&self.received), built.facts.sha256, "the segment arrived");
        let mut frames = self.hashed.iter();
        let mut on_raw = |raw: &[u8]| -> Result<(), ()> {
            let hashed = frames.next().ok_or(())?;
            if hashed.iter().all(|(place, digest)| Digest::of(&raw[place.clone()]) == *digest) { Ok(()) } else { Err(()) }
        };
        self.decoder.decode(&self.received, &mut on_raw).expect("the same bytes at either end");
        self.hashed = vec![Vec::new()];
        self.segment = SegmentBuilder::with_buffer(0, 0, built.bytes);
    }

    /// Seals, sends, receives and opens a few records.
    fn cross(&mut self, batch: &[u8]) {
        let first = self.records;
        for plain in batch.chunks(RECORD_BYTES) {
            let (body, tag) = self.record.split_at_mut(plain.len());
            body.copy_from_slice(plain);
            let made: Tag = self.key.seal_in_place_separate_tag(nonce(self.records), Aad::empty(), body).expect("seal");
            tag[..16].copy_from_slice(made.as_ref());
            self.near.write_all(&self.record[..plain.len() + 16]).expect("loopback");
            self.records += 1;
        }
        for (n, plain) in (first..).zip(batch.chunks(RECORD_BYTES)) {
            let record = &mut self.record[..plain.len() + 16];
            self.far.read_exact(record).expect("loopback");
            let opened = self.key.open_in_place(nonce(n), Aad::empty(), record).expect("open");
            self.received.extend_from_slice(opened);
        }
    }

    /// Sends what is left; the stored bytes of this thread.
    fn end(mut self) -> u64 {
        if !self.frame.is_empty() {
            self.pack();
        }
        if !self.segment.is_empty() {
            self.carry();
        }
        self.stored
    }
}

fn nonce(n: u64) -> Nonce {
    let mut bytes = [0_u8; NONCE_LEN];
    bytes[4..].copy_from_slice(&n.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
