use std::convert::Infallible;
use std::io::{Read as _, Write as _};

use proptest::prelude::*;

use super::*;

fn raw_of(segment: &[u8]) -> Result<Vec<u8>, DecodeError<Infallible>> {
    let mut raw = Vec::new();
    let decoded = decode(segment, &mut |bytes| {
        raw.extend_from_slice(bytes);
        Ok(())
    })?;
    assert_eq!(decoded.raw_size, raw.len() as u64);
    Ok(raw)
}

fn error_of(segment: &[u8]) -> SegmentError {
    match raw_of(segment) {
        Err(DecodeError::Segment(error)) => error,
        other => panic!("accepted {} bytes", other.map_or(0, |raw| raw.len())),
    }
}

/// Bytes that compress a little: a counter with noise.
fn sample(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|i| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state.is_multiple_of(3) { state as u8 } else { (i / 7) as u8 }
        })
        .collect()
}

fn frame(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameCompressor::new(1).expect("level 1").compress(raw, &mut out).expect("compresses");
    out
}

/// Frames with what the table is to say of each, then the table.
fn assemble(frames: &[(Vec<u8>, u32)]) -> Vec<u8> {
    let mut out = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
    seek::push_table(&frames.iter().map(|(bytes, raw)| (bytes.len() as u32, *raw)).collect::<Vec<_>>(), &mut out);
    out
}

fn build(n: u32, raw_offset: u64, frames: &[&[u8]]) -> Built {
    let mut compressor = FrameCompressor::new(1).expect("level 1");
    let mut builder = SegmentBuilder::new(n, raw_offset);
    for raw in frames {
        builder.compress_frame(&mut compressor, raw).expect("fits");
    }
    builder.finish().expect("has frames")
}

#[test]
fn facts_fit_the_bytes() {
    let (a, b) = (sample(FRAME_RAW_BYTES_MAX, 1), sample(77, 2));
    let built = build(3, 1000, &[&a, &b]);
    assert_eq!((built.facts.n, built.facts.raw_offset, built.facts.raw_size), (3, 1000, (a.len() + b.len()) as u64));
    assert_eq!(check_facts(&built.facts, &built.bytes), Ok(()));
    assert_eq!(raw_of(&built.bytes), Ok([a.clone(), b.clone()].concat()));
    let mut by_hand = SegmentBuilder::with_buffer(3, 1000, vec![9; 100]);
    for raw in [&a, &b] {
        by_hand.push_frame(&frame(raw), raw.len()).expect("fits");
    }
    assert_eq!(by_hand.finish(), Ok(built.clone()));
    let mut longer = built.bytes.clone();
    longer.push(0);
    assert_eq!(check_facts(&built.facts, &longer), Err(SegmentError::Facts("size")));
    longer.pop();
    longer[5] ^= 1;
    assert_eq!(check_facts(&built.facts, &longer), Err(SegmentError::Facts("SHA-256")));
}

// Written by hand from the zstd seekable format's description (contrib/seekable_format of zstd, version 0.1.0).
#[test]
fn the_seek_table_byte_by_byte() {
    let mut out = Vec::new();
    seek::push_table(&[(0x0102, 0x0304), (5, 6)], &mut out);
    let expected = [
        0x5e, 0x2a, 0x4d, 0x18, 25, 0, 0, 0, // skippable frame, 2 * 8 + 9 bytes
        2, 1, 0, 0, 4, 3, 0, 0, // first frame
        5, 0, 0, 0, 6, 0, 0, 0, // second frame
        2, 0, 0, 0, 0, 0xb1, 0xea, 0x92, 0x8f, // two frames, no checksums, magic
    ];
    assert_eq!(out, expected);
}

#[test]
fn full_segments_stay_within_their_bounds() {
    let mut compressor = FrameCompressor::new(-7).expect("level");
    let mut noise = vec![0_u8; FRAME_RAW_BYTES_MAX];
    let mut state = 1_u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    let zeros = vec![0; FRAME_RAW_BYTES_MAX];
    for (raw, frames) in [(&noise[..], 4), (&zeros, SEGMENT_RAW_BYTES_MAX / FRAME_RAW_BYTES_MAX), (&[1][..], SEGMENT_FRAMES_MAX)] {
        let mut builder = SegmentBuilder::new(0, 0);
        let mut pushed = 0;
        while !builder.is_full() {
            builder.compress_frame(&mut compressor, raw).expect("is_full was asked");
            pushed += 1;
        }
        assert_eq!(pushed, frames);
        let built = builder.finish().expect("has frames");
        assert!(built.bytes.len() <= SEGMENT_BYTES_MAX);
        assert_eq!(decode::<Infallible>(&built.bytes, &mut |_| Ok(())), Ok(Decoded { raw_size: built.facts.raw_size, frames }));
    }
    // Whoever does not ask is refused, and the segment stays as it was.
    let mut builder = SegmentBuilder::new(0, 0);
    let mut error = None;
    while error.is_none() {
        error = builder.compress_frame(&mut compressor, &noise).err();
    }
    assert!(matches!(error, Some(SegmentError::TooLarge(_))));
    assert!(builder.finish().is_ok_and(|built| raw_of(&built.bytes).is_ok_and(|raw| raw.len() % FRAME_RAW_BYTES_MAX == 0)));
}

#[test]
fn writing_refuses_what_reading_would() {
    let mut compressor = FrameCompressor::new(3).expect("level 3");
    let mut out = b"before".to_vec();
    assert_eq!(compressor.compress(b"", &mut out), Err(FrameFault::RawSize.at(0)));
    assert_eq!(compressor.compress(&vec![0; FRAME_RAW_BYTES_MAX + 1], &mut out), Err(FrameFault::RawSize.at(0)));
    assert_eq!(out, b"before");
    assert!(FrameCompressor::new(22).is_err());
    assert_eq!(SegmentBuilder::new(0, 0).finish(), Err(SegmentError::Frames(0)));
    let mut builder = SegmentBuilder::new(0, u64::MAX - 1);
    assert_eq!(builder.push_frame(b"12", 2), Err(SegmentError::RawTooLarge(2)));
    assert_eq!(builder.push_frame(b"", 1), Err(FrameFault::Size.at(0)));
}

#[test]
fn one_compressor_makes_the_same_frame_again() {
    let (a, b) = (sample(5000, 3), sample(300_000, 4));
    let mut compressor = FrameCompressor::new(1).expect("level 1");
    let mut out = Vec::new();
    for raw in [&a, &b, &a] {
        compressor.compress(raw, &mut out).expect("compresses");
    }
    assert_eq!(out, [frame(&a), frame(&b), frame(&a)].concat());
}

#[test]
fn bombs_and_lies() {
    let raw = sample(5000, 5);
    let good = frame(&raw);
    let fault = |frames: &[(Vec<u8>, u32)]| error_of(&assemble(frames));
    let first = |fault: FrameFault| fault.at(0);
    // The table lies about the raw size.
    assert_eq!(fault(&[(good.clone(), 4999)]), first(FrameFault::ContentSize));
    assert_eq!(fault(&[(good.clone(), 0)]), first(FrameFault::RawSize));
    assert_eq!(fault(&[(good.clone(), FRAME_RAW_BYTES_MAX as u32 + 1)]), first(FrameFault::RawSize));
    // A bomb: 64 MiB of zeros in a few kilobytes.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).expect("compresses");
    assert_eq!(fault(&[(bomb.clone(), 64 << 20)]), first(FrameFault::RawSize));
    assert_eq!(fault(&[(bomb.clone(), 1 << 20)]), first(FrameFault::ContentSize));
    // The same with a header that states 1 MiB (descriptor 0x80: a window byte, then a content size of four bytes).
    let mut lying = bomb;
    assert_eq!(lying[4], 0x80);
    lying[6..10].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    assert_eq!(fault(&[(lying, 1 << 20)]), first(FrameFault::Data));
    // Less than is stated.
    let mut less = frame(&[7; 300]);
    less[5] += 1;
    assert_eq!(fault(&[(less, 301)]), first(FrameFault::Data));
    // No content size: a streaming encoder that does not know it.
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("encoder");
    encoder.write_all(&raw).expect("memory");
    assert_eq!(fault(&[(encoder.finish().expect("memory"), 5000)]), first(FrameFault::Header));
    // With a checksum.
    let mut context = zstd::bulk::Compressor::new(1).expect("context");
    context.include_checksum(true).expect("parameter");
    assert_eq!(fault(&[(context.compress(&raw).expect("compresses"), 5000)]), first(FrameFault::Header));
    // Something after the frame, two frames in one place, a skippable frame, half a frame.
    assert_eq!(fault(&[([&good[..], b"x"].concat(), 5000)]), first(FrameFault::Length));
    assert_eq!(fault(&[([&good[..], &good].concat(), 5000)]), first(FrameFault::Length));
    assert_eq!(fault(&[(vec![0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9], 1)]), first(FrameFault::Header));
    assert_eq!(fault(&[(good[..good.len() - 1].to_vec(), 5000)]), first(FrameFault::Length));
    assert_eq!(fault(&[(good[..3].to_vec(), 5000)]), first(FrameFault::Header));
    assert_eq!(fault(&[(good.clone(), 5000), (vec![0; FRAME_BYTES_MAX + 1], 5)]), FrameFault::Size.at(1));
    assert_eq!(raw_of(&assemble(&[(good, 5000)])), Ok(raw));
}

#[test]
fn seek_tables_that_lie() {
    let raw = sample(5000, 6);
    let good = assemble(&[(frame(&raw), 5000), (frame(&raw), 5000)]);
    let table = good.len() - seek::table_len(2);
    let code = |bytes: &[u8]| error_of(bytes).code();
    for cut in 0..good.len() {
        assert!(SeekTable::of_segment(&good[..cut]).is_err(), "{cut}");
    }
    // Each byte of the table but the frames' own numbers is fixed; those must fill the segment.
    for at in table..good.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            assert!(raw_of(&bad).is_err(), "byte {at}");
        }
    }
    // Frames that the table does not name, before, between and after; a table of none; a second table.
    let frames = &good[..table];
    assert_eq!(code(&[&good[..], b"x"].concat()), "segment-seek-table");
    assert_eq!(code(&[b"x", &good[..]].concat()), "segment-seek-table");
    let mut one = frames.to_vec();
    seek::push_table(&[(table as u32 / 2, 5000)], &mut one);
    assert_eq!(code(&one), "segment-seek-table");
    let mut none = frames.to_vec();
    seek::push_table(&[], &mut none);
    assert_eq!(code(&none), "segment-frames");
    assert_eq!(code(&[&good[..], &good[table..]].concat()), "segment-seek-table");
    assert_eq!(code(b""), "segment-seek-table");
    let many: Vec<_> = (0..=SEGMENT_FRAMES_MAX).map(|_| (frame(b"x"), 1)).collect();
    assert_eq!(code(&assemble(&many)), "segment-frames");
    let heavy: Vec<_> = (0..=128).map(|_| (frame(&vec![0; FRAME_RAW_BYTES_MAX]), 1 << 20)).collect();
    assert_eq!(code(&assemble(&heavy)), "segment-raw-size");
    assert_eq!(code(&vec![0; SEGMENT_BYTES_MAX + 1]), "segment-size");
}

#[test]
fn a_receiver_can_stop() {
    let built = build(0, 0, &[b"one", b"two"]);
    let mut seen = 0;
    let result = decode(&built.bytes, &mut |_| {
        seen += 1;
        Err("enough")
    });
    assert_eq!((result, seen), (Err(DecodeError::Stopped("enough")), 1));
}

/// A stream of several segments, and the source that counts what is read.
fn stored() -> (Vec<u8>, Vec<Built>) {
    let raw = sample(400_000, 7);
    let mut segments = Vec::new();
    let (mut at, mut n) = (0_usize, 0);
    while at < raw.len() {
        let end = raw.len().min(at + 90_001);
        let frames: Vec<&[u8]> = raw[at..end].chunks(20_000).collect();
        segments.push(build(n, at as u64, &frames));
        (at, n) = (end, n + 1);
    }
    (raw, segments)
}

#[test]
fn only_the_needed_frames_are_read() {
    let (raw, segments) = stored();
    let facts: Vec<Segment> = segments.iter().map(|s| s.facts.clone()).collect();
    let mut reads = Vec::new();
    let source = |n: u32, offset: u64, buf: &mut [u8]| {
        reads.push((n, offset, buf.len()));
        buf.copy_from_slice(&segments[n as usize].bytes[offset as usize..offset as usize + buf.len()]);
        Ok(())
    };
    let mut out = Vec::new();
    StreamDecoder::new(&facts, 105_000, 10, source).expect("in range").read_to_end(&mut out).expect("reads");
    assert_eq!(out, &raw[105_000..105_010]);
    // The table of segment 1 (here the whole small tail), then its first frame (raw bytes 90,001 to 110,001) alone.
    assert_eq!(reads.len(), 2);
    assert_eq!((reads[1].0, reads[1].1), (1, 0));
}

#[test]
fn ranges_that_are_not_there() {
    let (raw, segments) = stored();
    let facts: Vec<Segment> = segments.iter().map(|s| s.facts.clone()).collect();
    let absent =
        |segments: &[Segment], offset, length| matches!(RangeReader::new(segments, offset, length), Err(SegmentError::Range { .. }));
    assert!(
        absent(&facts, raw.len() as u64, 1) && absent(&facts, 0, raw.len() as u64 + 1) && absent(&facts, 1, u64::MAX) && absent(&[], 0, 1)
    );
    let with_hole = [facts[0].clone(), facts[2].clone()];
    assert!(absent(&with_hole, 89_000, 2000) && absent(&facts[1..], 0, 10));
    assert!(RangeReader::new(&with_hole, 0, 90_001).is_ok_and(|r| r.need().is_some()));
    assert!(RangeReader::new(&facts, 5, 0).is_ok_and(|r| r.need().is_none()));
}

#[test]
fn ranges_from_a_lying_store() {
    let (_, segments) = stored();
    let facts: Vec<Segment> = segments.iter().map(|s| s.facts.clone()).collect();
    let tail = |need: Need| segments[need.segment as usize].bytes[need.offset as usize..][..need.length].to_vec();
    let mut reader = RangeReader::new(&facts, 0, 100).expect("in range");
    let need = reader.need().expect("the table");
    assert_eq!(reader.supply(b"short"), Err(SegmentError::Supplied { supplied: 5, needed: need.length }));
    let mut other = facts.clone();
    other[0].raw_size += 1;
    other[1].raw_offset += 1;
    let mut lied = RangeReader::new(&other, 0, 100).expect("in range");
    assert_eq!(lied.supply(&tail(need)), Err(SegmentError::Facts("raw size")));
    assert_eq!(reader.supply(&tail(need)), Ok(&[][..]));
    let mut frame = tail(reader.need().expect("a frame"));
    frame[0] ^= 1;
    assert_eq!(reader.supply(&frame), Err(FrameFault::Header.at(0)));
}

proptest! {
    #[test]
    fn ranges_equal_the_whole(from: prop::sample::Index, length in 0..250_000_usize, buffer in 1..70_000_usize) {
        let (raw, segments) = stored();
        let facts: Vec<Segment> = segments.iter().map(|s| s.facts.clone()).collect();
        let from = from.index(raw.len());
        let to = raw.len().min(from + length);
        let source = |n: u32, offset: u64, buf: &mut [u8]| {
            buf.copy_from_slice(&segments[n as usize].bytes[offset as usize..offset as usize + buf.len()]);
            Ok(())
        };
        let mut decoder = StreamDecoder::new(&facts, from as u64, (to - from) as u64, source).expect("in range");
        let (mut out, mut piece) = (Vec::new(), vec![0; buffer]);
        loop {
            match decoder.read(&mut piece).expect("reads") {
                0 => break,
                n => out.extend_from_slice(&piece[..n]),
            }
        }
        prop_assert_eq!(&out, &raw[from..to]);
    }

    #[test]
    fn segments_round_trip(sizes in proptest::collection::vec(1..60_000_usize, 1..6), seed: u64, level in -7..=9_i32) {
        let raws: Vec<Vec<u8>> = sizes.iter().map(|n| sample(*n, seed)).collect();
        let mut compressor = FrameCompressor::new(level).expect("level");
        let mut builder = SegmentBuilder::new(0, 0);
        for raw in &raws {
            builder.compress_frame(&mut compressor, raw).expect("fits");
        }
        let built = builder.finish().expect("has frames");
        prop_assert_eq!(raw_of(&built.bytes), Ok(raws.concat()));
        let (mut raw, bytes) = (Vec::new(), built.bytes);
        let (sha256, decoded) = SegmentDecoder::new().expect("zstd").decode_and_hash::<Infallible>(&bytes, &mut |frame| {
            raw.extend_from_slice(frame);
            Ok(())
        });
        prop_assert_eq!((sha256, built.facts.sha256, raw), (Digest::of(&bytes), sha256, raws.concat()));
        prop_assert_eq!(decoded.map(|d| d.frames), Ok(sizes.len()));
    }

    #[test]
    fn any_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..600), size: u64) {
        prop_assert!(raw_of(&bytes).is_err());
        let _ = SeekTable::parse(&bytes, size);
        let mut framed = bytes.clone();
        framed.splice(..0, [0x28, 0xb5, 0x2f, 0xfd]);
        let _ = raw_of(&assemble(&[(framed, 300)]));
    }

    #[test]
    fn damaged_segments_are_handled(at: prop::sample::Index, value: u8, seed: u64) {
        let mut bytes = build(0, 0, &[&sample(9000, seed), &sample(200, seed)]).bytes;
        let at = at.index(bytes.len());
        bytes[at] = value;
        let mut raw_size = 0;
        let _ = decode::<Infallible>(&bytes, &mut |raw| {
            raw_size += raw.len();
            Ok(())
        });
        prop_assert!(raw_size <= 9200);
        let (sha256, _) = SegmentDecoder::new().expect("zstd").decode_and_hash::<Infallible>(&bytes, &mut |_| Ok(()));
        prop_assert_eq!(sha256, Digest::of(&bytes), "the digest is of the bytes, whatever they are");
    }
}
