use exhibit_evidence::EvidencePath;
use exhibit_evidence::id::{AgentId, CaseId, CollectionId};
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::{FORMAT, Gap, Kind, Location, Seam, Taken};
use exhibit_evidence::stream::segment::{FrameCompressor, SegmentBuilder};
use exhibit_evidence::stream::tar;
use proptest::prelude::*;

use super::*;

fn header() -> Header {
    Header {
        format: FORMAT.to_owned(),
        case: CaseId::new(1, [1; 10]),
        collection: CollectionId::from_digest(&Digest::of(b"c")),
        stream: StreamNumber(1),
        agent: AgentId::new(1, [1; 10]),
        order: Digest::of(b"order"),
        encrypted_to: exhibit_evidence::age::Recipients::default(),
    }
}

/// One that decodes beside the parser and one that does not, in turn.
fn decoder() -> Decoder {
    static TURN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    Decoder::new(TURN.fetch_xor(true, std::sync::atomic::Ordering::Relaxed)).expect("zstd")
}

fn captures() -> BTreeSet<String> {
    BTreeSet::from(["files".to_owned()])
}

fn record(n: u64, status: Status) -> Item {
    let start = Timestamp::from_unix_s(1);
    Item {
        n,
        capture: "files".to_owned(),
        path: EvidencePath::new(format!("/gone/{n}")).expect("path"),
        kind: Kind::Unknown,
        status,
        reason: Some("not there".to_owned()),
        size: 0,
        sha256: None,
        location: None,
        target: None,
        meta: None,
        gaps: Vec::new(),
        taken: Taken { start, end: start, mono_start_ns: 1, mono_end_ns: 1 },
        method: "openat2".to_owned(),
        facts: std::collections::BTreeMap::new(),
    }
}

fn line(line: Line) -> Vec<u8> {
    line.to_bytes().expect("short")
}

/// The raw tar of these files, and the segments that it makes when it is cut into frames of `frame` bytes, `per` each.
fn segments(contents: &[Vec<u8>], frame: usize, per: usize) -> Vec<(Segment, Vec<u8>)> {
    let mut raw = Vec::new();
    for (n, content) in contents.iter().enumerate() {
        let (name, xattrs) = (format!("files/d/{n}"), std::collections::BTreeMap::new());
        let head = tar::Head {
            name: name.as_bytes(),
            kind: tar::HeadKind::File { size: content.len() as u64 },
            mode: 0o600,
            uid: 1,
            gid: 2,
            mtime: None,
            atime: None,
            ctime: None,
            xattrs: &xattrs,
        };
        tar::encode(&head, &mut raw).expect("head");
        raw.extend_from_slice(content);
        raw.resize(raw.len() + tar::padding(content.len() as u64), 0);
    }
    raw.extend_from_slice(&tar::END_MARKER);
    let mut compressor = FrameCompressor::new(1).expect("zstd");
    let frames: Vec<&[u8]> = raw.chunks(frame).collect();
    let mut offset = 0;
    let build = |(n, frames): (usize, &[&[u8]])| {
        let mut builder = SegmentBuilder::new(n as u32, offset);
        for frame in frames {
            builder.compress_frame(&mut compressor, frame).expect("fits");
        }
        let built = builder.finish().expect("frames");
        offset += built.facts.raw_size;
        (built.facts, built.bytes)
    };
    frames.chunks(per).enumerate().map(build).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Segments that were stored without their lines are taken over, with a snapshot after each, and what is made of them
    /// passes the same check as an agent's lines would.
    #[test]
    fn what_is_adopted_says_what_is_there(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3_000), 1..6),
        frame in 300_usize..4_000,
        per in 1_usize..5,
    ) {
        let mut check = StreamCheck::new(header(), captures());
        let mut again = StreamCheck::new(header(), captures());
        let mut items = Vec::new();
        for (facts, bytes) in segments(&contents, frame, per) {
            let (computed, lines) = check.adopt_segment(&bytes, Timestamp::from_unix_s(5)).expect("honest bytes");
            prop_assert_eq!(&computed, &facts);
            again.take_segment(&mut decoder(), &facts, &bytes, &lines).expect("its own lines");
            items.extend(lines.split(|b| *b == b'\n').filter_map(|l| match Line::parse(l) {
                Ok(Line::Item(item)) => Some(item),
                _ => None,
            }));
            check = StreamCheck::restore(header(), captures(), &check.snapshot()).expect("own snapshot");
            prop_assert_eq!(check.totals(), again.totals());
        }
        prop_assert_eq!(items.len(), contents.len());
        for (item, content) in items.iter().zip(&contents) {
            prop_assert_eq!((item.status, item.size, item.sha256), (Status::Partial, content.len() as u64, Some(Digest::of(content))));
        }
    }

    #[test]
    fn any_bytes_are_handled(bytes: Vec<u8>, lines: Vec<u8>, raw_size in 0_u64..10_000) {
        let announced = Segment { n: 0, size: bytes.len() as u64, sha256: Digest::of(&bytes), raw_offset: 0, raw_size, seam: None };
        prop_assert!(StreamCheck::new(header(), captures()).take_segment(&mut decoder(), &announced, &bytes, &lines).is_err());
        prop_assert!(StreamCheck::new(header(), captures()).finish(&lines, 0, Digest::of(b""), 0).is_err());
        let _ = StreamCheck::restore(header(), captures(), &bytes);
    }

    #[test]
    fn a_changed_byte_of_the_lines_is_noticed(position in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let (facts, bytes) = segments(&[b"content".to_vec()], 100_000, 1).remove(0);
        let (_, lines) = StreamCheck::new(header(), captures()).adopt_segment(&bytes, Timestamp::from_unix_s(5)).expect("honest");
        let mut changed = lines.clone();
        changed[position.index(lines.len())] ^= 1 << bit;
        let mut check = StreamCheck::new(header(), captures());
        let taken = check.take_segment(&mut decoder(), &facts, &bytes, &changed);
        // What only the agent can know (a reason, a time) may change; then the manifest's digest is another one.
        if taken.is_ok() {
            let mut honest = StreamCheck::new(header(), captures());
            honest.take_segment(&mut decoder(), &facts, &bytes, &lines).expect("honest");
            prop_assert_ne!(check.manifest_ref().sha256, honest.manifest_ref().sha256);
        }
    }
}

/// The line of the segment in which an item across a seam ends was lost: what is made of it must pass all the same.
#[test]
fn what_is_adopted_after_a_seam_says_that_it_lies_across() {
    let parts = segments(&[vec![7; 5_000]], 1_000, 1);
    let mut check = StreamCheck::new(header(), captures());
    let copy = |check: &StreamCheck| StreamCheck::restore(header(), captures(), &check.snapshot()).expect("own snapshot");
    let mut said = 0;
    for (facts, bytes) in &parts {
        let (_, mut lines) = copy(&check).adopt_segment(bytes, Timestamp::from_unix_s(5)).expect("honest bytes, seam or not");
        if facts.n == 1 {
            let seam = Some(Seam { at: Timestamp::from_unix_s(4), boot_id: String::new() });
            lines = line(Line::Segment(Segment { seam, ..facts.clone() }));
        }
        said += String::from_utf8_lossy(&lines).matches(CONTINUED_AT).count();
        check.take_segment(&mut decoder(), facts, bytes, &lines).expect("passes");
    }
    assert!(parts.len() > 3 && said == 1, "{said} items of {} segments", parts.len());
}

#[test]
fn record_lines_obey_their_rules() {
    type Change = fn(&mut Item);
    let good = |status| record(0, status);
    let check = |item: &Item| member::check_line(item, &captures());
    for status in [Status::Missing, Status::Denied, Status::Skipped, Status::Vanished, Status::Error, Status::Partial] {
        assert_eq!(check(&good(status)), Ok(()), "{}", status.as_str());
    }
    let bad: [(&str, Change); 9] = [
        ("item.status", |i| i.status = Status::Collected),
        ("item.status", |i| i.status = Status::ChangedDuringRead),
        ("item.reason", |i| i.reason = None),
        ("item.reason", |i| i.reason = Some("  ".to_owned())),
        ("item.location", |i| i.size = 1),
        ("item.location", |i| i.sha256 = Some(Digest::of(b""))),
        ("item.gaps", |i| i.gaps = vec![Gap { offset: 0, length: 1, reason: "x".to_owned() }]),
        ("item.path", |i| i.path = EvidencePath::new("/a/../b").expect("path")),
        ("item.taken", |i| i.taken.mono_end_ns = 0),
    ];
    for (field, change) in bad {
        let mut item = good(Status::Missing);
        change(&mut item);
        assert_eq!(check(&item).map_err(|e| e.field), Err(field));
    }
    let mut socket = good(Status::Collected);
    socket.kind = Kind::Socket;
    assert_eq!(check(&socket), Ok(()), "a device is wholly told by its record");
}

#[test]
fn items_by_record_may_follow_the_last_segment() {
    let (facts, bytes) = segments(&[b"x".to_vec()], 100_000, 1).remove(0);
    let mut check = StreamCheck::new(header(), captures());
    let (_, lines) = StreamCheck::new(header(), captures()).adopt_segment(&bytes, Timestamp::from_unix_s(5)).expect("honest");
    check.take_segment(&mut decoder(), &facts, &bytes, &lines).expect("honest");
    let end = |items, by_status: &[(Status, u64)]| {
        line(Line::End(End {
            complete: true,
            segments: 1,
            stored_bytes: facts.size,
            raw_bytes: facts.raw_size,
            items,
            by_status: by_status.iter().copied().collect(),
        }))
    };
    let trailing = [line(Line::Item(Box::new(record(1, Status::Missing)))), end(2, &[(Status::Partial, 1), (Status::Missing, 1)])].concat();
    let whole = [lines.clone(), trailing.clone()].concat();
    let manifest = check.finish(&trailing, 1, Digest::of(&whole), whole.len() as u64).expect("agrees");
    assert_eq!((manifest.items, manifest.segments, manifest.sha256), (2, 1, Digest::of(&whole)));

    let mut counts_lie = StreamCheck::new(header(), captures());
    counts_lie.take_segment(&mut decoder(), &facts, &bytes, &lines).expect("honest");
    let trailing = end(2, &[(Status::Partial, 1)]);
    assert_eq!(counts_lie.finish(&trailing, 1, Digest::of(b""), 0).map_err(|e| e.field), Err("end.items"));
}

/// How many names a file had stands in the agent's line, which was lost: the link after it must not make the segment
/// unusable, because then the collection would never be closed.
#[test]
fn a_file_and_its_hard_link_are_adopted() {
    let xattrs = std::collections::BTreeMap::new();
    let mut raw = Vec::new();
    let mut member = |name: &[u8], kind, content: &[u8]| {
        let head = tar::Head { name, kind, mode: 0o600, uid: 1, gid: 2, mtime: None, atime: None, ctime: None, xattrs: &xattrs };
        tar::encode(&head, &mut raw).expect("head");
        raw.extend_from_slice(content);
        raw.resize(raw.len() + tar::padding(content.len() as u64), 0);
    };
    member(b"files/a", tar::HeadKind::File { size: 3 }, b"abc");
    member(b"files/b", tar::HeadKind::Hardlink { target: b"files/a" }, b"");
    let mut compressor = FrameCompressor::new(1).expect("zstd");
    let mut builder = SegmentBuilder::new(0, 0);
    builder.compress_frame(&mut compressor, &raw).expect("fits");
    let built = builder.finish().expect("frames");
    let mut check = StreamCheck::new(header(), captures());
    let (segment, lines) = check.adopt_segment(&built.bytes, Timestamp::from_unix_s(5)).expect("a file and its second name");
    assert_eq!(segment.n, 0);
    let kinds: Vec<Kind> = lines
        .split_inclusive(|b| *b == b'\n')
        .filter_map(|l| match Line::parse(l).expect("a line") {
            Line::Item(item) => Some(item.kind),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, [Kind::File, Kind::Hardlink]);
}

/// An encrypted stream: what shows is checked, what does not is neither checked nor claimed.
mod encrypted {
    use exhibit_evidence::age::{Encryptor, Identity, Recipients, random_len};

    use super::*;

    fn recipients() -> Recipients {
        let identity = |n| Identity::from_secret(zeroize::Zeroizing::new([n; 32])).expect("usable");
        vec![*identity(1).recipient(), *identity(2).recipient()].try_into().expect("two")
    }

    fn sealed_header() -> Header {
        Header { encrypted_to: recipients(), ..header() }
    }

    fn encrypt(bytes: &[u8]) -> Vec<u8> {
        let random: Vec<u8> = (0..random_len(2)).map(|n| Digest::of(&[n as u8]).as_bytes()[0]).collect();
        let mut encryptor = Encryptor::new(&recipients(), &random, Vec::new()).expect("begins");
        encryptor.push(bytes).expect("room");
        encryptor.finish().expect("ends")
    }

    fn file(n: u64, offset: u64, length: u64) -> Item {
        let content = Item {
            kind: Kind::File,
            status: Status::Collected,
            reason: None,
            sha256: Some(Digest::of(b"x")),
            size: 9,
            ..record(n, Status::Collected)
        };
        Item { location: Some(Location { offset, length }), ..content }
    }

    /// One segment of two members of 1,024 bytes and the end marker, with these lines.
    fn stream(stored: &[u8], items: &[Item]) -> Result<ManifestRef, BadUpload> {
        let facts = Segment { n: 0, size: stored.len() as u64, sha256: Digest::of(stored), raw_offset: 0, raw_size: 3 * 1_024, seam: None };
        let mut lines = [line(Line::Header(sealed_header())), line(Line::Segment(facts.clone()))].concat();
        for item in items {
            lines.extend(line(Line::Item(Box::new(item.clone()))));
        }
        let mut check = StreamCheck::new(sealed_header(), captures());
        check.take_segment(&mut decoder(), &facts, stored, &lines)?;
        let mut check = StreamCheck::restore(sealed_header(), captures(), &check.snapshot()).expect("its own");
        let t = check.totals().clone();
        let (items, by_status) = (t.items, t.by_status.clone());
        let end =
            line(Line::End(End { complete: true, segments: 1, stored_bytes: facts.size, raw_bytes: facts.raw_size, items, by_status }));
        let all = [lines, end.clone()].concat();
        check.finish(&end, 1, Digest::of(&all), all.len() as u64)
    }

    #[test]
    fn what_shows_is_checked() {
        let stored = encrypt(b"nobody here can read this");
        let good = [file(0, 0, 1_024), record(1, Status::Missing), file(2, 1_024, 1_024)];
        let manifest = stream(&stored, &good).expect("an honest agent");
        assert_eq!((manifest.items, manifest.raw_bytes, manifest.stored_bytes), (3, 3_072, stored.len() as u64));
        let plain = segments(&[vec![7; 100]], 1 << 20, 1).remove(0).1;
        for (bytes, field) in [(plain, "segment_data"), (encrypt(b""), "segment_data"), (stored[..40].to_vec(), "segment_data")] {
            assert_eq!(stream(&bytes, &good).expect_err("not encrypted").field, field);
        }
        let nothing = Segment { n: 0, size: stored.len() as u64, sha256: Digest::of(&stored), raw_offset: 0, raw_size: 0, seam: None };
        let lines = [line(Line::Header(sealed_header())), line(Line::Segment(nothing.clone()))].concat();
        let refused = StreamCheck::new(sealed_header(), captures()).take_segment(&mut decoder(), &nothing, &stored, &lines);
        assert_eq!(refused.expect_err("no raw bytes").field, "segment_start.raw_size");
        let digest = |item: Item| Item { sha256: None, ..item };
        let open = |item: Item| {
            let xattrs = [("security.selinux".to_owned(), "AQAAAg==".to_owned())].into();
            Item { meta: Some(Box::new(exhibit_evidence::manifest::Meta { xattrs, ..Default::default() })), ..item }
        };
        let lies: [(&[Item], &str); 8] = [
            (&[open(file(0, 0, 1_024))], "item.meta.xattrs"),
            (&[open(record(0, Status::Missing))], "item.meta.xattrs"),
            (&[file(0, 512, 1_024)], "item.location"),
            (&[file(0, 0, 1_000)], "item.location"),
            (&[file(0, 0, 4_096)], "item.location"),
            (&[file(0, 0, 1_024), file(1, 2_048, 512)], "item.location"),
            (&[digest(file(0, 0, 1_024))], "item.location"),
            (&[file(0, 0, 1_024)], "finish"),
        ];
        for (items, field) in lies {
            assert_eq!(stream(&stored, items).expect_err("a lie").field, field, "{items:?}");
        }
    }

    #[test]
    fn what_lost_its_lines_is_kept_and_not_described() {
        let stored = encrypt(b"nobody here can read this");
        let mut check = StreamCheck::new(sealed_header(), captures());
        for n in 0..2 {
            let (segment, lines) = check.adopt_segment(&stored, Timestamp::from_unix_s(5)).expect("an age file");
            assert_eq!((segment.n, segment.raw_size, segment.sha256), (n, 0, Digest::of(&stored)));
            assert_eq!(lines.split(|b| *b == b'\n').count(), if n == 0 { 3 } else { 2 });
            check = StreamCheck::restore(sealed_header(), captures(), &check.snapshot()).expect("its own");
        }
        assert_eq!((check.totals().items, check.totals().raw_bytes), (0, 0));
        assert!(check.adopt_segment(b"plain", Timestamp::from_unix_s(5)).is_err());
    }
}
