//! What the writer makes comes back, however it is split and wherever the parser is replaced by its snapshot; nothing
//! else is let in.

use proptest::prelude::*;

use super::*;
use crate::stream::pax::push_record;
use crate::stream::tar::{END_MARKER, encode, padding};

#[path = "hostile_tests.rs"]
mod hostile;

/// Keeps everything, and rebuilds the logical content from what it is given.
#[derive(Debug, Default)]
pub(super) struct Keep {
    pub begun: Vec<MemberHead>,
    pub ended: Vec<Member>,
    pub content: Vec<Vec<u8>>,
}

impl Sink for Keep {
    fn begin(&mut self, member: &MemberHead) {
        self.begun.push(member.clone());
        self.content.push(Vec::new());
    }
    fn data(&mut self, logical_offset: u64, bytes: &[u8]) {
        let content = self.content.last_mut().expect("begun");
        assert!(logical_offset >= content.len() as u64, "data goes forward");
        content.resize(logical_offset as usize, 0);
        content.extend_from_slice(bytes);
    }
    fn end(&mut self, member: &Member) {
        let content = self.content.last_mut().expect("begun");
        assert!(content.len() as u64 <= member.head.size);
        content.resize(member.head.size as usize, 0);
        self.ended.push(member.clone());
    }
}

/// A member and its logical content.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub head: MemberHead,
    pub content: Vec<u8>,
}

pub(super) fn plain(name: &[u8], kind: MemberKind) -> MemberHead {
    MemberHead {
        name: name.to_vec(),
        kind,
        size: 0,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: None,
        atime: None,
        ctime: None,
        target: None,
        xattrs: BTreeMap::new(),
        extents: None,
    }
}

pub(super) fn file(name: &[u8], content: &[u8]) -> Sample {
    Sample { head: MemberHead { size: content.len() as u64, ..plain(name, MemberKind::File) }, content: content.to_vec() }
}

impl Sample {
    /// The member in the stream, padding included.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let data = encode(&self.head.as_head(), out).expect("samples are good");
        match &self.head.extents {
            Some(extents) => extents.iter().for_each(|e| out.extend_from_slice(&self.content[e.offset as usize..e.end() as usize])),
            None => out.extend_from_slice(&self.content),
        }
        out.resize(out.len() + padding(data), 0);
    }

    fn sha256(&self) -> Option<Digest> {
        (self.head.kind == MemberKind::File).then(|| Digest::of(&self.content))
    }
}

pub(super) fn stream(samples: &[Sample]) -> Vec<u8> {
    let mut out = Vec::new();
    for sample in samples {
        sample.write(&mut out);
    }
    out.extend_from_slice(&END_MARKER);
    out
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => b'a'..=b'z', 1 => any::<u8>()].prop_map(|b| if matches!(b, 0 | b'/') { b'_' } else { b });
    let part = proptest::collection::vec(byte, 1..60).prop_filter("not a dot name", |p| p != b"." && p != b"..");
    proptest::collection::vec(part, 1..6).prop_map(|parts| parts.join(&b'/'))
}

fn file_time() -> impl Strategy<Value = Option<FileTime>> {
    let seconds = prop_oneof![any::<i64>(), 0..4_000_000_000_i64, -10..10_i64].prop_map(|s| s.max(i64::MIN + 1));
    proptest::option::of((seconds, prop_oneof![Just(0), 0..1_000_000_000_u32]).prop_map(|(s, ns)| FileTime { s, ns }))
}

fn id() -> impl Strategy<Value = u32> {
    prop_oneof![0..2000_u32, any::<u32>()]
}

fn sparse() -> impl Strategy<Value = Sample> {
    let ranges = proptest::collection::vec((0..6_usize, 1..4_usize), 0..6);
    // The file ends in a hole, or in a range that may end within a block.
    (ranges, 0..3000_usize, proptest::option::of(1..1500_usize)).prop_map(|(ranges, hole, last)| {
        let (mut content, mut extents) = (Vec::new(), Vec::new());
        let mut data = |content: &mut Vec<u8>, length: usize| {
            extents.push(Extent { offset: content.len() as u64, length: length as u64 });
            content.extend((0..length).map(|i| i as u8 | 1));
        };
        for (hole, length) in ranges {
            content.resize(content.len() + hole * BLOCK, 0);
            data(&mut content, length * BLOCK);
        }
        match last {
            Some(length) => data(&mut content, length),
            None => content.resize(content.len() + hole, 0),
        }
        let head = MemberHead { size: content.len() as u64, extents: Some(extents), ..plain(b"", MemberKind::File) };
        Sample { head, content }
    })
}

fn body() -> impl Strategy<Value = Sample> {
    let size = prop_oneof![0..2000_usize, Just(512), Just(1024)];
    let bytes = size.prop_flat_map(|n| proptest::collection::vec(any::<u8>(), n));
    let target = |kind| move |target| Sample { head: MemberHead { target: Some(target), ..plain(b"", kind) }, content: Vec::new() };
    prop_oneof![
        bytes.prop_map(|content| file(b"", &content)),
        sparse(),
        Just(Sample { head: plain(b"", MemberKind::Directory), content: Vec::new() }),
        name().prop_map(target(MemberKind::Hardlink)),
        proptest::collection::vec(1_u8..=255, 1..300).prop_map(target(MemberKind::Symlink)),
    ]
}

fn sample() -> impl Strategy<Value = Sample> {
    let xattrs = proptest::collection::btree_map("[a-zé.=%\n]{1,20}", proptest::collection::vec(any::<u8>(), 0..600), 0..4);
    let facts = (name(), 0..0o10_000_u32, (id(), id()), (file_time(), file_time(), file_time()), xattrs);
    (body(), facts).prop_map(|(mut sample, (name, mode, (uid, gid), (mtime, atime, ctime), xattrs))| {
        let kept = sample.head;
        sample.head = MemberHead { name, mode, uid, gid, mtime, atime, ctime, xattrs, ..kept };
        sample
    })
}

fn check(samples: &[Sample], kept: &Keep) {
    assert_eq!(kept.ended.len(), samples.len());
    let mut offset = 0;
    for (i, (sample, member)) in samples.iter().zip(&kept.ended).enumerate() {
        assert_eq!((&member.head, &kept.begun[i]), (&sample.head, &sample.head));
        assert_eq!(member.sha256, sample.sha256());
        assert_eq!(kept.content[i], sample.content);
        let mut bytes = Vec::new();
        sample.write(&mut bytes);
        assert_eq!((member.offset, member.length), (offset, bytes.len() as u64));
        offset += member.length;
    }
}

proptest! {
    #[test]
    fn members_come_back_whole(samples in proptest::collection::vec(sample(), 0..5)) {
        let (mut parser, mut kept) = (Parser::new(), Keep::default());
        parser.push(&stream(&samples), &mut kept).expect("own stream");
        parser.finish().expect("whole");
        check(&samples, &kept);
    }

    #[test]
    fn splits_and_restarts_change_nothing(
        samples in proptest::collection::vec(sample(), 1..4),
        pieces in proptest::collection::vec((1..1500_usize, any::<bool>()), 1..40),
    ) {
        let bytes = stream(&samples);
        let (mut parser, mut kept) = (Parser::new(), Keep::default());
        let (mut rest, mut pieces) = (&bytes[..], pieces.iter().cycle());
        while !rest.is_empty() {
            let (length, restart) = pieces.next().expect("cycle");
            let (piece, after) = rest.split_at((*length).min(rest.len()));
            parser.push(piece, &mut kept).expect("own stream");
            rest = after;
            prop_assert_eq!(parser.raw_offset(), (bytes.len() - rest.len()) as u64);
            if *restart {
                let state = parser.snapshot();
                parser = Parser::restore(&state).expect("own snapshot");
                prop_assert_eq!(parser.snapshot(), state);
            }
        }
        parser.finish().expect("whole");
        check(&samples, &kept);
    }

    #[test]
    fn one_member_is_read_by_its_location(samples in proptest::collection::vec(sample(), 1..5), pick: prop::sample::Index) {
        let bytes = stream(&samples);
        let (mut parser, mut all) = (Parser::new(), Keep::default());
        parser.push(&bytes, &mut all).expect("own stream");
        let wanted = pick.get(&all.ended);
        let (mut alone, mut kept) = (Parser::at(wanted.offset), Keep::default());
        let place = wanted.location();
        alone.push(&bytes[place.offset as usize..(place.offset + place.length) as usize], &mut kept).expect("a member");
        prop_assert!(alone.between_members());
        prop_assert_eq!(&kept.ended, &vec![wanted.clone()]);
    }
}

#[test]
fn every_byte_is_a_place_to_restart() {
    let mut sparse = file(b"files/sparse", &[0; 3000]);
    sparse.head.extents =
        Some(vec![Extent { offset: 512, length: 512 }, Extent { offset: 1024, length: 512 }, Extent { offset: 2048, length: 952 }]);
    sparse.content[512..1536].fill(7);
    sparse.content[2048..].fill(9);
    let mut rich = file(&[b"files/".to_vec(), vec![0xe9; 200]].concat(), &[5; 700]);
    rich.head.xattrs.insert("user.a".to_owned(), vec![0; 40]);
    let samples = [rich, sparse, Sample { head: plain(b"files/d", MemberKind::Directory), content: vec![] }, file(b"files/empty", b"")];
    let bytes = stream(&samples);
    let (mut parser, mut kept) = (Parser::new(), Keep::default());
    for byte in &bytes {
        parser = Parser::restore(&parser.snapshot()).expect("own snapshot");
        parser.push(&[*byte], &mut kept).expect("own stream");
    }
    let parser = Parser::restore(&parser.snapshot()).expect("own snapshot");
    parser.finish().expect("whole");
    check(&samples, &kept);
}

#[test]
fn a_great_hole_takes_no_memory() {
    // sha256sum of 1 GiB of zeros (`head -c 1G /dev/zero | sha256sum`).
    const GIB_OF_ZEROS: &str = "49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14";
    struct Last(Option<Member>);
    impl Sink for Last {
        fn end(&mut self, member: &Member) {
            self.0 = Some(member.clone());
        }
    }
    let head = MemberHead { size: 1 << 30, extents: Some(vec![]), ..plain(b"memory/ram", MemberKind::File) };
    let mut bytes = Vec::new();
    encode(&head.as_head(), &mut bytes).expect("good");
    let (mut parser, mut last) = (Parser::new(), Last(None));
    parser.push(&bytes, &mut last).expect("own stream");
    assert_eq!(last.0.and_then(|m| m.sha256).map(|d| d.to_string()).as_deref(), Some(GIB_OF_ZEROS));
    assert!(parser.held.capacity() + parser.again.capacity() <= 2 * KEPT_BYTES);
}
