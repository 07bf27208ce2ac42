//! Bookmarks: where the agent's reading stands at the end of a segment, so that a later process of this agent can go on
//! when this one dies. A bookmark travels with its segment and is kept by the coordinator, which cannot read anything
//! into it: the agent signs it and takes it back only with its own signature, and the manifest so far only when its digest
//! is the one in the bookmark. Nothing of it is written to the host. In an encrypted case it is encrypted as well, to a key that
//! only this agent can make: the state of a digest in the middle of a file may hold some bytes of the file.

use std::sync::Arc;

use exhibit_evidence::age::{self, Encryptor, Identity, Recipients};
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::manifest::{Gap, Kind, Line, Meta, Status};
use exhibit_evidence::stream::reader::{MemberKind, Symlinks};
use exhibit_evidence::{Digest, EvidencePath, Hasher};
use exhibit_proto::bounds::BOOKMARK_BYTES_MAX;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{ByStatus, StreamFacts};
use crate::capture::{Extent, Moment, NewItem, Place, Stop};
use crate::clock;

/// What the capture thread has counted so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    /// The capture that runs, by its place in the order of volatility, and what stood before it began.
    pub capture: usize,
    pub items_before: u64,
    pub taken_before: u64,
    pub items: u64,
    pub by_status: ByStatus,
    /// Items of which something was taken.
    pub taken: u64,
    /// Bytes of holes: a stream may hold only so many.
    pub holes: u64,
    /// Items that were left out because the raw limit would have been exceeded.
    pub over_limit: u64,
    pub manifest_bytes: u64,
    /// Why the collection is not complete.
    pub reasons: Vec<String>,
    /// What ended it early.
    pub stopped: Option<Stop>,
    /// Programs that were run.
    pub commands: Vec<String>,
    /// When the first capture began, and under which kernel.
    pub started: Option<Moment>,
    pub boot_id: String,
}

/// An item of which the header and a part of the content are in the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pending {
    pub item: Arc<Draft>,
    /// Where its member begins in the raw stream.
    pub offset: u64,
    pub size: u64,
    /// Where its data is, as `[offset, length]`.
    pub extents: Arc<Vec<(u64, u64)>>,
    /// State of the digest of its content so far.
    pub hasher: Vec<u8>,
    pub gaps: Vec<Gap>,
    pub read: u64,
    /// Number of the first read error.
    pub error: Option<i32>,
    pub place: Place,
}

/// What was known of an item when its reading began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    pub path: EvidencePath,
    pub kind: Kind,
    pub status: Status,
    pub reason: Option<String>,
    pub meta: Option<Box<Meta>>,
    pub started: Moment,
    pub facts: std::collections::BTreeMap<String, String>,
}

impl Draft {
    pub fn of(item: &NewItem) -> Self {
        let NewItem { path, kind, status, reason, meta, started, facts, .. } = item.clone();
        Self { path, kind, status, reason, meta, started, facts }
    }

    /// The item again. Only files that are read with `pread(2)` are ever pending.
    pub fn item(&self) -> NewItem {
        let Self { path, kind, status, reason, meta, started, facts } = self.clone();
        let (target, inode) = (None, None);
        NewItem { path, kind, status, reason, target, meta, inode, started, method: "pread", room: crate::capture::Room::default(), facts }
    }
}

pub(super) fn extents_of(pending: &Pending) -> Vec<Extent> {
    pending.extents.iter().map(|(offset, length)| Extent { offset: *offset, length: *length }).collect()
}

/// Where the capture thread stands at the end of a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Point {
    pub account: Account,
    pub pending: Option<Pending>,
}

/// Where the assembler stands at the end of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bookmark {
    version: u32,
    /// The stream that it is of: digest of its facts.
    stream: Digest,
    segments: u32,
    raw_offset: u64,
    stored_bytes: u64,
    /// State of the manifest's digest.
    manifest: Vec<u8>,
    point: Point,
}

/// Version of [`Bookmark`]; of another one nothing is taken up.
const VERSION: u32 = 2;
const SIGNED_AS: &[u8] = b"exhibit bookmark v1\n";
const ENCRYPTED_AS: &[u8] = b"exhibit bookmark encryption v1\n";
const SIGNATURE_BYTES: usize = 64;

/// What a stream is taken up from.
#[derive(Debug)]
pub struct TakenUp {
    /// The first segment to make.
    pub segment: u32,
    pub(super) raw_offset: u64,
    pub(super) stored_bytes: u64,
    pub(super) manifest: Hasher,
    pub(super) point: Point,
    pub(super) passed: Passed,
    pub(super) symlinks: Symlinks,
}

/// Signs a bookmark; empty when it would be too large, and then nobody takes the stream up from here.
pub(super) fn write(facts: &StreamFacts, at: (u32, u64, u64), manifest: &Hasher, point: Point, key: &SigningKey) -> Vec<u8> {
    let (segments, raw_offset, stored_bytes) = at;
    let bookmark =
        Bookmark { version: VERSION, stream: digest_of(facts), segments, raw_offset, stored_bytes, manifest: manifest.snapshot(), point };
    let Ok(mut json) = serde_json::to_vec(&bookmark) else { return Vec::new() };
    if !facts.encrypt_to.is_none() {
        let Some(encrypted) = encrypt(&json, facts, key) else { return Vec::new() };
        json = encrypted;
    }
    let mut out = key.sign(&[SIGNED_AS, &json].concat()).to_vec();
    out.extend_from_slice(&json);
    if out.len() > BOOKMARK_BYTES_MAX { Vec::new() } else { out }
}

/// The key to which bookmarks of a stream are encrypted. It follows from a signature that is made for nothing else and shown to
/// nobody, so no key need be kept, and a later process with the same evidence key has it.
fn own_identity(facts: &StreamFacts, key: &SigningKey) -> Option<Identity> {
    let signature = Zeroizing::new(key.sign(&[ENCRYPTED_AS, digest_of(facts).as_bytes()].concat()));
    Identity::from_secret(Zeroizing::new(*Digest::of(&*signature).as_bytes())).ok()
}

fn encrypt(json: &[u8], facts: &StreamFacts, key: &SigningKey) -> Option<Vec<u8>> {
    let to = Recipients::try_from(vec![*own_identity(facts, key)?.recipient()]).ok()?;
    let mut encryptor = Encryptor::new(&to, &clock::random_bytes(age::random_len(1))?, Vec::new()).ok()?;
    encryptor.push(json).ok()?;
    encryptor.finish().ok()
}

fn decrypt(bytes: &[u8], facts: &StreamFacts, key: &SigningKey) -> Option<Vec<u8>> {
    let mut json = Vec::new();
    age::decrypt(bytes, 1, &[own_identity(facts, key)?], &mut json).ok()?;
    Some(json)
}

fn digest_of(facts: &StreamFacts) -> Digest {
    // The recipients are the case's, and the order names the case.
    let StreamFacts { case, collection, stream, agent, order, .. } = facts;
    Digest::of(format!("{case} {collection} {stream} {agent} {order}").as_bytes())
}

/// Reads a bookmark and the manifest so far.
#[derive(Debug)]
pub struct Reader {
    bookmark: Bookmark,
    capture: String,
    hasher: Hasher,
    line: Vec<u8>,
    passed: Passed,
    symlinks: Symlinks,
}

impl Reader {
    /// Begins with the bookmark. `captures` are the order's, in order of volatility.
    ///
    /// # Errors
    /// Why the stream cannot be taken up.
    pub fn new(facts: &StreamFacts, next_segment: u32, bytes: &[u8], captures: &[&str], key: &SigningKey) -> Result<Self, String> {
        let (signature, json) = bytes.split_at_checked(SIGNATURE_BYTES).ok_or("the bookmark is too short")?;
        if !key.public().verifies(&[SIGNED_AS, json].concat(), signature) {
            return Err("the bookmark does not have this agent's signature".to_owned());
        }
        let json =
            if facts.encrypt_to.is_none() { json.to_vec() } else { decrypt(json, facts, key).ok_or("the bookmark cannot be decrypted")? };
        let bookmark: Bookmark = serde_json::from_slice(&json).map_err(|e| format!("the bookmark is of another version: {e}"))?;
        if bookmark.version != VERSION || bookmark.stream != digest_of(facts) || bookmark.segments != next_segment {
            return Err("the bookmark is of another stream, segment or version".to_owned());
        }
        let capture = captures.get(bookmark.point.account.capture).ok_or("the bookmark names a capture that was not ordered")?;
        let capture = (*capture).to_owned();
        Ok(Self { bookmark, capture, hasher: Hasher::new(), line: Vec::new(), passed: Passed::default(), symlinks: Symlinks::default() })
    }

    /// Takes more of the manifest.
    ///
    /// # Errors
    /// When it is not the one that this agent wrote.
    pub fn manifest(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.hasher.update(bytes);
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.ends_with(b"\n") {
                let line = Line::parse(&self.line)?;
                self.line.clear();
                if let Line::Item(item) = line
                    && item.capture == self.capture
                {
                    if self.passed.0.len() >= PASSED_MAX {
                        return Err(format!("more than {PASSED_MAX} items of '{}' are in it", self.capture));
                    }
                    self.passed.remember(item.path.as_bytes(), item.meta.as_deref(), item.status);
                    if item.location.is_some() && item.kind == Kind::Symlink {
                        let name = item.path.member_name(&item.capture);
                        self.symlinks.pass(&name, MemberKind::Symlink).map_err(|e| e.to_string())?;
                    }
                }
            } else if self.line.len() > exhibit_evidence::manifest::LINE_BYTES_MAX {
                return Err("the manifest so far has a line that is too long".to_owned());
            }
        }
        Ok(())
    }

    /// Ends with the manifest.
    ///
    /// # Errors
    /// When the manifest is not the one that this agent wrote.
    pub fn finish(mut self) -> Result<TakenUp, String> {
        let manifest = Hasher::restore(&self.bookmark.manifest).ok_or("the bookmark is damaged")?;
        if manifest.clone().finish() != self.hasher.finish() || !self.line.is_empty() {
            return Err("the manifest so far is not the one that this agent wrote".to_owned());
        }
        self.passed.settle();
        let Bookmark { segments, raw_offset, stored_bytes, point, .. } = self.bookmark;
        let (passed, symlinks) = (self.passed, self.symlinks);
        Ok(TakenUp { segment: segments, raw_offset, stored_bytes, manifest, point, passed, symlinks })
    }
}

/// Most items that a later process remembers while it passes over them: 4 MiB. With more, the next stream is begun.
const PASSED_MAX: usize = 1 << 18;

/// The items of one capture that are in the stream already: 16 bytes for each. An item with an inode is known by path and
/// inode: what lies at a path now may be another file than the one that was taken there. One without is known by path.
#[derive(Debug, Default)]
pub(super) struct Passed(Vec<[u8; 16]>);

impl Passed {
    /// 120 bits of SHA-256 over path and inode, so that nobody finds two that are taken for one; then the status. The
    /// device is left out: its number may be another after a restart of the host.
    fn entry(path: &[u8], meta: Option<&Meta>, status: Status) -> [u8; 16] {
        let mut hasher = Hasher::new();
        hasher.update(path);
        if let Some(meta) = meta {
            // No path holds a zero byte.
            hasher.update(&[0]);
            hasher.update(&meta.ino.to_le_bytes());
            if let Some(btime) = meta.btime {
                hasher.update(&btime.s.to_le_bytes());
                hasher.update(&btime.ns.to_le_bytes());
            }
        }
        let mut entry = [0; 16];
        for (to, from) in entry.iter_mut().zip(hasher.finish().as_bytes()) {
            *to = *from;
        }
        if let Some(last) = entry.last_mut() {
            *last = Status::ALL.iter().position(|s| *s == status).unwrap_or_default() as u8;
        }
        entry
    }

    pub fn remember(&mut self, path: &[u8], meta: Option<&Meta>, status: Status) {
        self.0.push(Self::entry(path, meta, status));
    }

    /// Adds one later.
    pub fn add(&mut self, path: &[u8], meta: Option<&Meta>, status: Status) {
        let entry = Self::entry(path, meta, status);
        let at = self.0.partition_point(|e| *e < entry);
        self.0.insert(at, entry);
    }

    fn settle(&mut self) {
        self.0.sort_unstable();
        self.0.dedup();
    }

    /// True when no earlier process put anything in.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The statuses that the items of this path and inode have.
    pub fn of(&self, path: &[u8], meta: Option<&Meta>) -> impl Iterator<Item = Status> + '_ {
        let first = Self::entry(path, meta, Status::Collected);
        let from = self.0.partition_point(|e| *e < first);
        let same = move |e: &&[u8; 16]| e.split_last().map(|(_, path)| path) == first.split_last().map(|(_, path)| path);
        let statuses = self.0.get(from..).unwrap_or_default().iter().take_while(same);
        statuses.filter_map(|e| e.last().and_then(|status| Status::ALL.get(usize::from(*status)).copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_is_known_by_path_and_status() {
        let mut passed = Passed::default();
        for (path, status) in [("/b", Status::Denied), ("/a", Status::Collected), ("/a", Status::Error)] {
            passed.remember(path.as_bytes(), None, status);
        }
        let inode = |ino, s| Meta { ino, btime: Some(exhibit_evidence::time::FileTime { s, ns: 0 }), ..Meta::default() };
        passed.remember(b"/a", Some(&inode(7, 1)), Status::Partial);
        passed.settle();
        assert_eq!(passed.of(b"/a", None).collect::<Vec<_>>(), [Status::Collected, Status::Error]);
        assert_eq!(passed.of(b"/b", None).collect::<Vec<_>>(), [Status::Denied]);
        assert_eq!(passed.of(b"/c", None).count(), 0);
        assert_eq!(passed.of(b"/a", Some(&inode(7, 1))).collect::<Vec<_>>(), [Status::Partial]);
        assert_eq!(passed.of(b"/a", Some(&inode(8, 1))).count(), 0, "another file");
        assert_eq!(passed.of(b"/a", Some(&inode(7, 2))).count(), 0, "the number was used again");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>, signed: bool) {
            let key = SigningKey::from_seed(&[1; 32]);
            let agent = exhibit_evidence::AgentId::new(1, [1; 10]);
            let order = Digest::of(b"order");
            let case = exhibit_evidence::CaseId::new(1, [2; 10]);
            let facts = StreamFacts { case, collection: exhibit_evidence::CollectionId::of(&order, &agent), stream: 1, agent, order, encrypt_to: Recipients::default() };
            let own = write(&facts, (1, 512, 9), &Hasher::new(), Point::default(), &key);
            let bookmark = if signed { &own } else { &bytes };
            match Reader::new(&facts, 1, bookmark, &["files"], &key) {
                Ok(mut reader) => {
                    let _ = reader.manifest(&bytes);
                    proptest::prop_assert!(signed && (bytes.is_empty() || reader.finish().is_err()));
                }
                Err(_) => proptest::prop_assert!(!signed),
            }
        }
    }

    #[test]
    fn only_the_own_bookmark_of_the_same_stream_is_taken() {
        let key = SigningKey::from_seed(&[1; 32]);
        let agent = exhibit_evidence::AgentId::new(1, [1; 10]);
        let order = Digest::of(b"order");
        let case = exhibit_evidence::CaseId::new(1, [2; 10]);
        let facts = StreamFacts {
            case,
            collection: exhibit_evidence::CollectionId::of(&order, &agent),
            stream: 1,
            agent,
            order,
            encrypt_to: Recipients::default(),
        };
        let mut manifest = Hasher::new();
        let header = Line::Header(facts.header()).to_bytes().expect("short");
        manifest.update(&header);
        let good = write(&facts, (3, 512, 100), &manifest, Point::default(), &key);
        let read = |facts: &StreamFacts, n, bytes: &[u8], manifest: &[u8]| -> Result<u32, String> {
            let mut reader = Reader::new(facts, n, bytes, &["files"], &key)?;
            reader.manifest(manifest)?;
            reader.finish().map(|up| up.segment)
        };
        assert_eq!(read(&facts, 3, &good, &header), Ok(3));
        let encrypted_to = Recipients::try_from(vec![*own_identity(&facts, &key).expect("a key").recipient()]).expect("one");
        let sealed_facts = StreamFacts { encrypt_to: encrypted_to, ..facts.clone() };
        let sealed = write(&sealed_facts, (3, 512, 100), &manifest, Point::default(), &key);
        assert_eq!(read(&sealed_facts, 3, &sealed, &header), Ok(3));
        assert!(sealed.get(64..).is_some_and(|b| b.starts_with(b"age-encryption.org/v1")) && read(&facts, 3, &sealed, &header).is_err());
        assert!(read(&sealed_facts, 3, &good, &header).is_err(), "not encrypted");
        assert!(read(&facts, 2, &good, &header).is_err(), "another segment");
        assert!(read(&StreamFacts { stream: 2, ..facts.clone() }, 3, &good, &header).is_err(), "another stream");
        assert!(read(&facts, 3, &good, b"").is_err(), "another manifest");
        let other = write(&facts, (3, 512, 100), &manifest, Point::default(), &SigningKey::from_seed(&[2; 32]));
        assert!(read(&facts, 3, &other, &header).is_err(), "another key");
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert!(read(&facts, 3, &bytes, &header).is_err(), "byte {at}");
        }
    }
}
