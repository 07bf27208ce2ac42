//! Makes one stream with the real tar and segment writers.

use std::collections::BTreeMap;

use exhibit_evidence::age::{Encryptor, Recipients, random_len};
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::*;
use exhibit_evidence::record::ManifestRef;
use exhibit_evidence::stream::segment::{FrameCompressor, SegmentBuilder};
use exhibit_evidence::stream::tar::{self, Extent, Head, HeadKind};
use exhibit_evidence::time::FileTime;
use exhibit_evidence::{CaseId, CollectionId, Digest, EvidencePath, Timestamp};

use super::agent_id;

/// Raw bytes per frame: small, so that a small stream has several.
const FRAME_RAW_BYTES: usize = 16 * 1024;

/// A stream that is being made.
pub struct Stream {
    header: Header,
    /// The raw tar so far.
    pub raw: Vec<u8>,
    /// Items with the raw offset at which they are complete.
    pub items: Vec<(u64, Item)>,
    cuts: Vec<u64>,
    mono_ns: u64,
    /// To whom segments are encrypted, where it is not to whom the header says.
    really_to: Option<Recipients>,
    /// Another segment comes without its agent's lines.
    undescribed: bool,
}

/// A stream that was made.
pub struct Built {
    pub manifest: Vec<u8>,
    pub segments: Vec<Vec<u8>>,
    pub totals: ManifestRef,
    pub encrypted: bool,
}

type Xattrs = BTreeMap<String, Vec<u8>>;

impl Stream {
    pub fn new(case: &CaseId, collection: &CollectionId, number: u32, agent: u8, order: Digest) -> Self {
        let header = Header {
            format: FORMAT.to_owned(),
            case: case.clone(),
            collection: collection.clone(),
            stream: StreamNumber(number),
            agent: agent_id(agent),
            order,
            encrypted_to: exhibit_evidence::age::Recipients::default(),
        };
        Self { header, raw: Vec::new(), items: Vec::new(), cuts: Vec::new(), mono_ns: 5_000_000_000, really_to: None, undescribed: false }
    }

    fn item(&mut self, capture: &str, path: &[u8], kind: Kind) -> Item {
        self.mono_ns += 1_000_000;
        let wall = Timestamp::from_unix_ns(1_768_471_260_000_000_000 + self.mono_ns as i64);
        Item {
            n: self.items.len() as u64,
            capture: capture.to_owned(),
            path: EvidencePath::new(path).expect("a path"),
            kind,
            status: Status::Collected,
            reason: None,
            size: 0,
            sha256: None,
            location: None,
            target: None,
            meta: None,
            gaps: Vec::new(),
            taken: Taken { start: wall, end: wall, mono_start_ns: self.mono_ns, mono_end_ns: self.mono_ns + 500_000 },
            method: "read".to_owned(),
            facts: BTreeMap::new(),
        }
    }

    fn meta(n: u64, mode: u32, xattrs: &Xattrs) -> Box<Meta> {
        use base64::Engine as _;
        let time = |ns| Some(FileTime { s: 1_760_000_000 + n as i64, ns });
        Box::new(Meta {
            mode,
            uid: 1_000,
            gid: 3_000_000,
            ino: 100 + n,
            nlink: 1,
            dev: [8, 1],
            rdev: None,
            blocks: 8,
            mtime: time(123_456_789),
            atime: time(1),
            ctime: time(0),
            btime: None,
            flags: Vec::new(),
            xattrs: xattrs.iter().map(|(k, v)| (k.clone(), base64::engine::general_purpose::STANDARD.encode(v))).collect(),
        })
    }

    /// Writes a member for an item and books the item.
    fn member(&mut self, mut item: Item, kind: HeadKind<'_>, mode: u32, xattrs: &Xattrs, data: &[u8]) -> &mut Item {
        let meta = Self::meta(item.n, mode, xattrs);
        let name = item.path.member_name(&item.capture);
        let (mtime, atime, ctime) = (meta.mtime, meta.atime, meta.ctime);
        let offset = self.raw.len() as u64;
        let head = Head { name: &name, kind, mode, uid: meta.uid, gid: meta.gid, mtime, atime, ctime, xattrs };
        let follow = tar::encode(&head, &mut self.raw).expect("a good member");
        assert_eq!(follow, data.len() as u64);
        self.raw.extend_from_slice(data);
        self.raw.resize(self.raw.len().next_multiple_of(512), 0);
        item.location = Some(Location { offset, length: self.raw.len() as u64 - offset });
        // Made records have no inode.
        item.meta = (item.kind != Kind::Record).then_some(meta);
        self.book(item)
    }

    fn book(&mut self, item: Item) -> &mut Item {
        self.items.push((self.raw.len() as u64, item));
        &mut self.items.last_mut().expect("just pushed").1
    }

    pub fn file(&mut self, capture: &str, path: &[u8], content: &[u8]) -> &mut Item {
        self.file_with(capture, path, content, &Xattrs::new())
    }

    pub fn file_with(&mut self, capture: &str, path: &[u8], content: &[u8], xattrs: &Xattrs) -> &mut Item {
        let kind = if path.starts_with(b"/") { Kind::File } else { Kind::Record };
        let mut item = self.item(capture, path, kind);
        item.size = content.len() as u64;
        item.sha256 = Some(Digest::of(content));
        self.member(item, HeadKind::File { size: content.len() as u64 }, 0o640, xattrs, content)
    }

    pub fn sparse(&mut self, capture: &str, path: &[u8], size: u64, parts: &[(u64, &[u8])]) -> &mut Item {
        let mut content = vec![0; size as usize];
        let mut data = Vec::new();
        let mut extents = Vec::new();
        for (offset, bytes) in parts {
            content[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
            // A data range is whole blocks, as a file system would report it.
            let length = (bytes.len() as u64).next_multiple_of(512).min(size - *offset);
            data.extend_from_slice(bytes);
            data.resize(data.len() + length as usize - bytes.len(), 0);
            extents.push(Extent { offset: *offset, length });
        }
        let mut item = self.item(capture, path, Kind::File);
        item.size = size;
        item.sha256 = Some(Digest::of(&content));
        self.member(item, HeadKind::Sparse { size, extents: &extents }, 0o600, &Xattrs::new(), &data)
    }

    pub fn directory(&mut self, capture: &str, path: &[u8]) -> &mut Item {
        let item = self.item(capture, path, Kind::Directory);
        self.member(item, HeadKind::Directory, 0o1777, &Xattrs::new(), b"")
    }

    pub fn symlink(&mut self, capture: &str, path: &[u8], target: &[u8]) -> &mut Item {
        let mut item = self.item(capture, path, Kind::Symlink);
        item.target = EvidencePath::new(target);
        self.member(item, HeadKind::Symlink { target }, 0o777, &Xattrs::new(), b"")
    }

    pub fn hardlink(&mut self, capture: &str, path: &[u8], first: &[u8]) -> &mut Item {
        let target = EvidencePath::new(first).expect("a path").member_name(capture);
        let mut item = self.item(capture, path, Kind::Hardlink);
        item.target = EvidencePath::new(target.clone());
        self.member(item, HeadKind::Hardlink { target: &target }, 0o640, &Xattrs::new(), b"")
    }

    pub fn by_record(&mut self, capture: &str, path: &[u8], kind: Kind, status: Status, reason: &str) -> &mut Item {
        let mut item = self.item(capture, path, kind);
        item.status = status;
        item.reason = (!reason.is_empty()).then(|| reason.to_owned());
        "lstat".clone_into(&mut item.method);
        self.book(item)
    }

    /// Encrypts its segments.
    pub fn encrypted_to(mut self, to: &Recipients) -> Self {
        self.header.encrypted_to = to.clone();
        self
    }

    /// Encrypts them to others than the header says.
    pub fn really_to(mut self, to: Recipients) -> Self {
        self.really_to = Some(to);
        self
    }

    /// Another segment comes without its agent's lines.
    pub fn and_one_undescribed(mut self) -> Self {
        self.undescribed = true;
        self
    }

    /// Ends a segment here.
    pub fn cut(&mut self) {
        self.cut_at(self.raw.len() as u64);
    }

    /// Ends a segment at a raw offset.
    pub fn cut_at(&mut self, offset: u64) {
        self.cuts.push(offset);
    }

    /// Makes the end marker, segments and manifest.
    pub fn finish(mut self, tweak: &dyn Fn(&mut Vec<Line>)) -> Built {
        self.raw.extend_from_slice(&tar::END_MARKER);
        self.build(true, tweak)
    }

    /// Makes what arrived when the agent died: `lost` raw bytes are missing at the end, and so are items in them.
    pub fn break_off(mut self, lost: usize) -> Built {
        self.raw.truncate(self.raw.len() - lost);
        let end = self.raw.len() as u64;
        self.items.retain(|(ready, _)| *ready <= end);
        self.build(false, &|_| {})
    }

    /// Makes segments and manifest of the raw bytes as they are.
    pub fn build(self, complete: bool, tweak: &dyn Fn(&mut Vec<Line>)) -> Built {
        let mut ends: Vec<u64> = self.cuts.iter().copied().filter(|c| *c < self.raw.len() as u64).collect();
        ends.push(self.raw.len() as u64);
        let encrypted = !self.header.encrypted_to.is_none();
        let to = self.really_to.clone().unwrap_or_else(|| self.header.encrypted_to.clone());
        let mut lines = vec![Line::Header(self.header)];
        let mut segments = Vec::new();
        let mut items = self.items.into_iter().peekable();
        let mut by_status = BTreeMap::new();
        let (mut start, mut stored_bytes, mut count) = (0_u64, 0_u64, 0_u64);
        let last = ends.len() - 1;
        for (n, end) in ends.into_iter().enumerate() {
            let (mut bytes, mut facts) = segment(n as u32, start, &self.raw[start as usize..end as usize]);
            if !to.is_none() {
                bytes = encrypt(&to, n as u8, &bytes);
                (facts.size, facts.sha256) = (bytes.len() as u64, Digest::of(&bytes));
            }
            stored_bytes += facts.size;
            lines.push(Line::Segment(facts));
            segments.push(bytes);
            while let Some((_, item)) = items.next_if(|(ready, _)| *ready <= end || n == last) {
                *by_status.entry(item.status).or_insert(0) += 1;
                count += 1;
                lines.push(Line::Item(Box::new(item)));
            }
            start = end;
        }
        if self.undescribed {
            let (n, bytes) = (segments.len() as u32, encrypt(&to, 99, b"nobody knows"));
            let (size, sha256) = (bytes.len() as u64, Digest::of(&bytes));
            lines.push(Line::Segment(Segment { n, size, sha256, raw_offset: start, raw_size: 0, seam: None }));
            stored_bytes += size;
            segments.push(bytes);
        }
        let end = End { complete, segments: segments.len() as u32, stored_bytes, raw_bytes: start, items: count, by_status };
        lines.push(Line::End(end.clone()));
        tweak(&mut lines);
        let manifest: Vec<u8> = lines.iter().flat_map(|l| l.to_bytes().expect("a short line")).collect();
        let totals = ManifestRef {
            sha256: Digest::of(&manifest),
            size: manifest.len() as u64,
            segments: end.segments,
            stored_bytes: end.stored_bytes,
            raw_bytes: end.raw_bytes,
            items: end.items,
            by_status: end.by_status,
        };
        Built { manifest, segments, totals, encrypted }
    }
}

/// With bytes in the place of random ones, so that a vector is the same in every run.
fn encrypt(to: &Recipients, seed: u8, plain: &[u8]) -> Vec<u8> {
    let random: Vec<u8> = (0..random_len(to.as_slice().len())).map(|n| Digest::of(&[seed, n as u8]).as_bytes()[0]).collect();
    let mut encryptor = Encryptor::new(to, &random, Vec::new()).expect("begins");
    encryptor.push(plain).expect("room");
    encryptor.finish().expect("ends")
}

fn segment(n: u32, raw_offset: u64, raw: &[u8]) -> (Vec<u8>, Segment) {
    let mut compressor = FrameCompressor::new(3).expect("a level");
    let mut builder = SegmentBuilder::new(n, raw_offset);
    for piece in raw.chunks(FRAME_RAW_BYTES) {
        let mut frame = Vec::new();
        compressor.compress(piece, &mut frame).expect("compresses");
        builder.push_frame(&frame, piece.len()).expect("within bounds");
    }
    let built = builder.finish().expect("has a frame");
    (built.bytes, built.facts)
}
