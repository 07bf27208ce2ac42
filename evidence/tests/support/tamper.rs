//! The table of tampered cases: `tests/vectors/tampered.json`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exhibit_evidence::Digest;
use exhibit_evidence::log::{Note, WitnessKey};
use exhibit_evidence::timestamp::Anchors;
use exhibit_evidence::verify::Options;
use serde::{Deserialize, Serialize};

use super::cases::good_1;
use super::{AGENT, Objects, STRANGER, key};

/// The whole file.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
pub struct Table {
    pub format: String,
    pub cases: Vec<Tampered>,
}

/// One tampered case.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Tampered {
    /// Unique name.
    pub name: String,
    /// What was done, in words.
    pub says: String,
    /// The good case that the edits start from.
    pub base: String,
    /// `--complete`
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub complete: bool,
    /// `--expect`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// `--witness`; all of them are required.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<String>,
    /// Base64 of checkpoints for `--held`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<String>,
    /// `--timestamp-anchor`: the roots of these authorities, `tests/vectors/timestamps/<name>/root.pem`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timestamp_anchors: Vec<String>,
    /// `--timestamps-required`
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timestamps_required: usize,
    /// `--identity`: of these recipients, `tests/vectors/identities/<name>.txt`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// Done in order.
    pub edits: Vec<Edit>,
    /// Codes that must be found; others may be as well.
    pub codes: Vec<String>,
}

impl Tampered {
    /// A lie in a good case, found without anything from outside it.
    pub fn lie(base: &str, (name, says): (&str, &str), edits: Vec<Edit>, codes: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            says: says.to_owned(),
            base: base.to_owned(),
            complete: false,
            expect: None,
            witnesses: Vec::new(),
            held: Vec::new(),
            timestamp_anchors: Vec::new(),
            timestamps_required: 0,
            identities: Vec::new(),
            edits,
            codes: codes.iter().map(|c| (*c).to_owned()).collect(),
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's interface")]
const fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// One change to the objects of a case.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Edit {
    /// Exclusive-or of the byte at `at` (from the end when negative) with `with`.
    Flip { object: String, at: i64, with: u8 },
    /// Keep the first `size` bytes.
    Truncate { object: String, size: usize },
    /// Add bytes at the end.
    Append { object: String, b64: String },
    /// Remove the object.
    Delete { object: String },
    /// Exchange the contents of two objects.
    Swap { object: String, other: String },
    /// Store these bytes, whether or not the object exists.
    Put { object: String, b64: String },
    /// Copy an object to another name.
    Copy { object: String, to: String },
    /// Replace the object by a symbolic link (only on a disk).
    Symlink { object: String, target: String },
}

impl Tampered {
    pub fn options(&self) -> Options {
        let expected = self.expect.as_ref().map(|text| {
            let (size, root) = text.split_once(':').expect("SIZE:ROOT");
            (size.parse().expect("number"), root.parse().expect("digest"))
        });
        let witnesses: Vec<WitnessKey> = self.witnesses.iter().map(|w| w.parse().expect("a witness key")).collect();
        let note = |b64: &String| Note::parse(&STANDARD.decode(b64).expect("base64")).expect("a note");
        Options {
            deployment: false,
            complete: self.complete,
            expected,
            witnesses_required: witnesses.len(),
            witnesses,
            held: self.held.iter().map(note).collect(),
            consistency: Vec::new(),
            is_bag: false,
            timestamp_anchors: self.timestamp_anchors.iter().fold(Anchors::default(), |mut all, name| {
                all.extend(super::stamps::root(name));
                all
            }),
            timestamps_required: self.timestamps_required,
            identities: self.identities.iter().map(|name| super::encrypted::identity(name.parse().expect("a number"))).collect(),
            left_out: Vec::new(),
        }
    }

    /// True when it needs a disk.
    pub fn needs_disk(&self) -> bool {
        self.edits.iter().any(|e| matches!(e, Edit::Symlink { .. }))
    }
}

/// Does the edits, as a reader of the table in any language must.
pub fn apply(objects: &mut Objects, edits: &[Edit]) {
    let bytes = |b64: &str| STANDARD.decode(b64).expect("base64");
    for edit in edits {
        match edit {
            Edit::Flip { object, at, with } => {
                let content = objects.get_mut(object).unwrap_or_else(|| panic!("no {object}"));
                let at = if *at < 0 { content.len() - at.unsigned_abs() as usize } else { *at as usize };
                content[at] ^= with;
            }
            Edit::Truncate { object, size } => objects.get_mut(object).unwrap_or_else(|| panic!("no {object}")).truncate(*size),
            Edit::Append { object, b64 } => objects.get_mut(object).unwrap_or_else(|| panic!("no {object}")).extend(bytes(b64)),
            Edit::Delete { object } => assert!(objects.remove(object).is_some(), "no {object}"),
            Edit::Swap { object, other } => {
                let (a, b) = (objects[object].clone(), objects[other].clone());
                objects.insert(object.clone(), b);
                objects.insert(other.clone(), a);
            }
            Edit::Put { object, b64 } => {
                objects.insert(object.clone(), bytes(b64));
            }
            Edit::Copy { object, to } => {
                let copy = objects[object].clone();
                objects.insert(to.clone(), copy);
            }
            Edit::Symlink { object, .. } => {
                objects.remove(object);
            }
        }
    }
}

/// Edits that make one case of another.
pub fn difference(from: &Objects, to: &Objects) -> Vec<Edit> {
    let gone = from.keys().filter(|name| !to.contains_key(*name)).map(|name| Edit::Delete { object: name.clone() });
    let changed = to
        .iter()
        .filter(|(name, bytes)| from.get(*name) != Some(*bytes))
        .map(|(name, bytes)| Edit::Put { object: name.clone(), b64: STANDARD.encode(bytes) });
    gone.chain(changed).collect()
}

/// Makes the table.
pub fn table() -> Table {
    let mut cases = Vec::new();
    bytes_and_objects(&mut cases);
    super::lies::lies(&mut cases);
    super::logs::logs(&mut cases);
    super::stamps::stamps(&mut cases);
    super::custody::lies(&mut cases);
    super::approvals::lies(&mut cases);
    super::bags::bags(&mut cases);
    super::encrypted::lies(&mut cases);
    super::retained::lies(&mut cases);
    Table { format: "exhibit-tampered/1".to_owned(), cases }
}

fn slot(n: u64) -> String {
    exhibit_evidence::layout::CaseObject::Slot(n).to_string()
}

/// What somebody with access to the store or a copy can do: no key is needed.
fn bytes_and_objects(cases: &mut Vec<Tampered>) {
    let good = good_1();
    let objects = &good.objects;
    let records = good.records();
    let named = |suffix: &str, nth: usize| objects.keys().filter(|n| n.ends_with(suffix)).nth(nth).expect("exists").clone();
    // The stream with two segments and the most items: the one of web-1.
    let rich = objects.iter().filter(|(n, _)| n.ends_with("manifest.jsonl")).max_by_key(|(_, b)| b.len()).expect("exists").0.clone();
    let in_rich = |name: &str| rich.replace("manifest.jsonl", name);
    let (first, second) = (in_rich("00000000.tar.zst"), in_rich("00000001.tar.zst"));
    let mut add = |name: &str, says: &str, edits: Vec<Edit>, codes: &[&str]| {
        cases.push(Tampered {
            name: name.to_owned(),
            says: says.to_owned(),
            base: "good-1".to_owned(),
            complete: false,
            expect: None,
            witnesses: Vec::new(),
            held: Vec::new(),
            timestamp_anchors: Vec::new(),
            timestamps_required: 0,
            identities: Vec::new(),
            edits,
            codes: codes.iter().map(|c| (*c).to_owned()).collect(),
        });
    };
    let flip = |object: &str, at: i64| vec![Edit::Flip { object: object.to_owned(), at, with: 1 }];
    let delete = |object: &str| vec![Edit::Delete { object: object.to_owned() }];
    let append = |object: &str, bytes: &[u8]| vec![Edit::Append { object: object.to_owned(), b64: STANDARD.encode(bytes) }];
    let put = |object: &str, bytes: &[u8]| vec![Edit::Put { object: object.to_owned(), b64: STANDARD.encode(bytes) }];
    let swap = |a: &str, b: &str| vec![Edit::Swap { object: a.to_owned(), other: b.to_owned() }];
    let copy = |a: &str, b: &str| vec![Edit::Copy { object: a.to_owned(), to: b.to_owned() }];
    let truncate = |a: &str, size: usize| vec![Edit::Truncate { object: a.to_owned(), size }];

    add(
        "segment-magic-flipped",
        "the first byte of a segment",
        flip(&first, 0),
        &["segment.digest", "segment.frames", "stream.unverified"],
    );
    add("segment-content-flipped", "a byte of compressed content", flip(&first, 700), &["segment.digest"]);
    add("segment-seek-table-flipped", "a byte of the seek table", flip(&first, -12), &["segment.digest", "segment.frames"]);
    add(
        "segment-cut",
        "the last byte of a segment removed",
        truncate(&second, objects[&second].len() - 1),
        &["segment.digest", "segment.frames"],
    );
    add("segment-emptied", "a segment of no bytes", truncate(&second, 0), &["segment.digest", "segment.frames"]);
    add("segment-longer", "a byte added to a segment", append(&second, b"\0"), &["segment.digest", "segment.frames"]);
    add(
        "segment-frame-added",
        "another zstd frame added to a segment",
        append(&second, &zstd_frame()),
        &["segment.digest", "segment.frames"],
    );
    add("segment-deleted", "a segment removed", delete(&second), &["segment.missing", "stream.unverified"]);
    add("segments-swapped", "two segments exchanged", swap(&first, &second), &["segment.digest"]);
    add("segment-added", "a copy of a segment under the next number", copy(&first, &in_rich("00000002.tar.zst")), &["object.unaccounted"]);
    add("stream-added", "a stream that nobody signed", copy(&rich, &rich.replace("/s1/", "/s7/")), &["object.unaccounted"]);
    add("manifest-flipped", "a byte in a manifest line", flip(&rich, 900), &["manifest.digest"]);
    add(
        "manifest-cut",
        "the last line of a manifest cut in its middle",
        truncate(&rich, objects[&rich].len() - 20),
        &["manifest.digest", "manifest.malformed"],
    );
    add("manifest-emptied", "a manifest of no bytes", truncate(&rich, 0), &["manifest.digest", "manifest.malformed"]);
    add("manifest-longer", "a line added to a manifest", append(&rich, b"{}\n"), &["manifest.digest"]);
    add("manifest-newline", "an empty line added to a manifest", append(&rich, b"\n"), &["manifest.digest"]);
    add("manifest-deleted", "a manifest removed", delete(&rich), &["manifest.missing", "object.unaccounted"]);
    add(
        "manifests-swapped",
        "the manifests of two streams exchanged",
        swap(&rich, &named("s2/manifest.jsonl", 0)),
        &["manifest.digest", "manifest.header"],
    );
    add("checkpoint-deleted", "the signed head removed", delete("log/checkpoint"), &["log.checkpoint-missing"]);
    add("checkpoint-origin-flipped", "a letter of the head's first line", flip("log/checkpoint", 3), &["log.checkpoint-malformed"]);
    // A place where the changed byte is base64 as well, so that only the signature can tell.
    let head = &objects["log/checkpoint"];
    let in_head = (10..60_i64).find(|at| (head[head.len() - *at as usize] ^ 1).is_ascii_alphanumeric()).expect("base64");
    add("checkpoint-signature-flipped", "a byte of the head's signature", flip("log/checkpoint", -in_head), &["log.checkpoint-signature"]);
    add("checkpoint-longer", "a line added to the head", append("log/checkpoint", b"x\n"), &["log.checkpoint-malformed"]);
    // A place where the changed byte is base64 as well, so that only the signature can tell.
    let letter = (400..800).find(|at| (objects[&slot(8)][*at as usize] ^ 1).is_ascii_alphanumeric()).expect("base64");
    add("record-flipped", "a byte in the middle of a record", flip(&slot(8), letter), &["record.signature", "log.root"]);
    add("record-signature-flipped", "a byte of a record's signature", flip(&slot(8), -20), &["record.signature", "log.root"]);
    add("record-brace-flipped", "the last byte of a record", flip(&slot(8), -1), &["record.malformed", "log.root"]);
    add("record-newline", "a newline added to a record", append(&slot(8), b"\n"), &["record.malformed", "log.root"]);
    add("record-emptied", "a record of no bytes", truncate(&slot(8), 0), &["record.malformed", "log.root"]);
    add("record-deleted", "a record in the middle removed", delete(&slot(9)), &["log.slot-missing"]);
    add("last-record-deleted", "the last record removed", delete(&slot(records - 1)), &["log.slot-missing"]);
    add("first-record-deleted", "the first enrolment removed", delete(&slot(0)), &["log.slot-missing", "record.unknown-key"]);
    add("records-swapped", "two records exchanged", swap(&slot(9), &slot(10)), &["log.root"]);
    add("record-added", "a record added after the signed head", copy(&slot(records - 1), &slot(records)), &["log.slot-beyond"]);
    add(
        "record-far-away",
        "a record added far after the signed head",
        copy(&slot(2), &slot(1_000_000)),
        &["log.slot-beyond", "log.slot-missing"],
    );
    add("object-added", "a file in the case folder", put("notes.txt", b"hello"), &["object.unknown"]);
    add("object-added-deep", "a file beside the records", put("log/seq/0000000001.dsse.json~", b""), &["object.unknown"]);
    add("object-renamed", "a segment under a name in capitals", copy(&first, &first.replace(".tar.zst", ".TAR.ZST")), &["object.unknown"]);
    let link = Edit::Symlink { object: first.clone(), target: "/dev/null".to_owned() };
    add("segment-linked", "a segment replaced by a symbolic link", vec![link], &["object.not-a-file", "segment.missing"]);

    let resigned = |n: u64, seed: u8| {
        let envelope = exhibit_evidence::dsse::Envelope::parse(&objects[&slot(n)]).expect("good");
        let again = exhibit_evidence::dsse::Envelope::sign(envelope.unverified_payload().to_vec(), &key(seed)).expect("small");
        put(&slot(n), again.as_bytes())
    };
    add(
        "record-by-a-stranger",
        "the order signed again by a key that nobody enrolled",
        resigned(8, STRANGER),
        &["record.unknown-key", "log.root"],
    );
    add("record-by-another-holder", "the order signed again by an agent's key", resigned(8, AGENT), &["record.not-authorized", "log.root"]);
    let root = Digest::of(b"another history");
    add("another-history", "nothing changed, but another head is expected", Vec::new(), &["log.expected"]);
    if let Some(case) = cases.last_mut() {
        case.expect = Some(format!("5:{root}"));
    }
}

fn zstd_frame() -> Vec<u8> {
    let mut out = Vec::new();
    exhibit_evidence::stream::segment::FrameCompressor::new(3).expect("a level").compress(b"extra", &mut out).expect("compresses");
    out
}
