//! The table of tampered cases: `tests/vectors/tampered.json`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exhibit_evidence::manifest::{Gap, Kind, Line, Status};
use exhibit_evidence::record::*;
use exhibit_evidence::verify::Options;
use exhibit_evidence::{Digest, EvidencePath};
use serde::{Deserialize, Serialize};

use super::cases::{good_1, good_2, item};
use super::faults::{Faults, Step};
use super::{AGENT, ISSUER, LOG, Objects, RESPONDER, ROOT, STRANGER, agent_id, case_opened, key};

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
    /// Done in order.
    pub edits: Vec<Edit>,
    /// Codes that must be found; others may be as well.
    pub codes: Vec<String>,
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
        Options { complete: self.complete, expected }
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
fn difference(from: &Objects, to: &Objects) -> Vec<Edit> {
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
    lies(&mut cases);
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
    add("checkpoint-signature-flipped", "a byte of the head's signature", flip("log/checkpoint", -10), &["log.checkpoint-signature"]);
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

/// What somebody with a key can do: every signature holds, but the statements do not fit each other or the bytes.
fn lies(cases: &mut Vec<Tampered>) {
    let good = good_2(&Faults::default()).objects;
    let mut add = |name: &str, says: &str, codes: &[&str], faults: Faults<'_>| {
        cases.push(Tampered {
            name: name.to_owned(),
            says: says.to_owned(),
            base: "good-2".to_owned(),
            complete: false,
            expect: None,
            edits: difference(&good, &good_2(&faults).objects),
            codes: codes.iter().map(|c| (*c).to_owned()).collect(),
        });
    };
    log_lies(&mut add);
    record_lies(&mut add);
    manifest_lies(&mut add);
    item_lies(&mut add);
    for case in cases.iter_mut().filter(|c| c.codes == ["order.open"]) {
        case.complete = true;
    }
}

type Add<'a> = &'a mut dyn FnMut(&str, &str, &[&str], Faults<'_>);

fn log_lies(add: Add<'_>) {
    let with = Faults::default;
    add(
        "head-of-another-case",
        "the log key signed the head under another case's name",
        &["log.checkpoint-origin"],
        Faults { checkpoint: Some(&|case| case.checkpoint_as("exhibit/vectors/case/other", LOG)), ..with() },
    );
    add(
        "head-by-another-key",
        "the head signed by an enrolled key that is no log key",
        &["log.checkpoint-signature"],
        Faults {
            checkpoint: Some(&|case| {
                let origin = exhibit_evidence::layout::LogName::Case(case.id.clone()).origin(super::DEPLOYMENT);
                case.checkpoint_as(&origin, ISSUER);
            }),
            ..with()
        },
    );
    add("case-never-opened", "no case-opened record", &["case.not-opened", "case.not-first"], Faults { skip: &[Step::Open], ..with() });
    add(
        "case-opened-twice",
        "two case-opened records",
        &["case.opened-twice"],
        Faults {
            at: &|case, _, step| {
                if step == Step::Enrol {
                    let at = case.now();
                    let again = case_opened(&case.id, "Another title", at);
                    case.sign(&again, RESPONDER);
                }
            },
            ..with()
        },
    );
    add(
        "case-closed-wrongly",
        "case-closed follows from another record",
        &["case.closed"],
        Faults {
            at: &|case, _, step| {
                if step == Step::End {
                    close(case, Digest::of(b"another"));
                }
            },
            ..with()
        },
    );
    add(
        "order-after-close",
        "an order after the case was closed",
        &["order.after-close"],
        Faults {
            at: &|case, _, step| {
                if step == Step::Enrol {
                    close(case, case.opened);
                }
            },
            ..with()
        },
    );
    add(
        "record-of-unknown-type",
        "a record of a version to come",
        &["record.unknown-type"],
        Faults {
            at: &|case, _, step| {
                if step == Step::Enrol {
                    let payload = br#"{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"urn:exhibit:record:order:v9","predicate":{}}"#;
                    case.sign_raw(payload, RESPONDER);
                }
            },
            ..with()
        },
    );
    add(
        "record-by-a-revoked-key",
        "the agent's key was revoked before its acquisition",
        &["record.revoked-key"],
        Faults {
            at: &|case, _, step| {
                if step == Step::Order {
                    let revocation = Revocation {
                        deployment: super::DEPLOYMENT.to_owned(),
                        key: key(AGENT).public().id(),
                        predecessor: case.enrolment_of(AGENT),
                        reason: "the host was rebuilt".to_owned(),
                        revoked_at: case.now(),
                    };
                    case.sign(&revocation, ROOT);
                }
            },
            ..with()
        },
    );
}

fn close(case: &mut super::Case, predecessor: Digest) {
    let closed = CaseClosed {
        case: case.id.clone(),
        predecessor,
        reason: "over".to_owned(),
        closed_by: super::responder_name(),
        closed_at: case.now(),
    };
    case.sign(&closed, RESPONDER);
}

fn record_lies(add: Add<'_>) {
    let with = Faults::default;
    let other = exhibit_evidence::CaseId::new(1, [9; 10]);
    add(
        "receipt-of-another-case",
        "a receipt names another case",
        &["record.wrong-case"],
        Faults { receipt: &|r| r.case = other.clone(), ..with() },
    );
    add(
        "order-of-another-case",
        "an order follows from another case-opened",
        &["order.predecessor"],
        Faults { order: &|o| o.predecessor = Digest::of(b"another"), ..with() },
    );
    add(
        "order-nonce",
        "an order carries a head that never was",
        &["order.nonce"],
        Faults { order: &|o| o.nonce.root = Digest::of(b"no"), ..with() },
    );
    add(
        "order-future-nonce",
        "an order carries a head of the future",
        &["order.nonce"],
        Faults { order: &|o| o.nonce.size += 5, ..with() },
    );
    add(
        "order-names-agent-twice",
        "an order names one agent twice",
        &["order.malformed"],
        Faults { order: &|o| o.targets.push(agent_id(0)), ..with() },
    );
    add(
        "order-repeated",
        "the same order id used again",
        &["order.malformed", "order.open"],
        Faults {
            at: &|case, _, step| {
                if step == Step::End {
                    case.order(1, &[0], &["system"], &|_| {});
                }
            },
            ..with()
        },
    );
    add(
        "order-without-end",
        "an order whose collection never ended, where completeness is asked for",
        &["order.open"],
        Faults {
            at: &|case, _, step| {
                if step == Step::End {
                    case.order(2, &[0], &["system"], &|_| {});
                }
            },
            ..with()
        },
    );
    add(
        "refusal-of-no-order",
        "a refusal of an order that is not in the log",
        &["chain.order"],
        Faults { refusal: &|r| r.predecessor = Digest::of(b"another"), ..with() },
    );
    add(
        "not-a-target",
        "an acquisition by an agent that the order does not name",
        &["chain.target"],
        Faults { order: &|o| o.targets = vec![agent_id(1)], ..with() },
    );
    add(
        "another-collection",
        "a refusal under another collection's id",
        &["chain.collection"],
        Faults { refusal: &|r| r.collection = exhibit_evidence::CollectionId::from_digest(&Digest::of(b"another")), ..with() },
    );
    add(
        "receipt-of-no-collection",
        "a receipt for a collection that nobody ordered",
        &["chain.order"],
        Faults { receipt: &|r| r.collection = exhibit_evidence::CollectionId::from_digest(&Digest::of(b"another")), ..with() },
    );
    add(
        "sealed-twice",
        "a second seal",
        &["chain.repeated"],
        Faults {
            at: &|case, order, step| {
                if let (Step::Seal, Some(order)) = (step, order) {
                    case.seal(order, 0, Outcome::Failed, Some("again"), &[], None, &|_| {});
                }
            },
            ..with()
        },
    );
    add(
        "refused-after-seal",
        "a refusal after the seal",
        &["chain.after-seal"],
        Faults {
            at: &|case, order, step| {
                if let (Step::Seal, Some(order)) = (step, order) {
                    case.refuse(order, 0, &|_| {});
                }
            },
            ..with()
        },
    );
    add(
        "acquisition-nonce",
        "an acquisition repeats another nonce",
        &["acquisition.nonce"],
        Faults { acquisition: &|a| a.nonce.size = 1, ..with() },
    );
    add(
        "acquisition-without-reason",
        "an acquisition that is not complete and does not say why",
        &["acquisition.reason", "seal.outcome"],
        Faults { acquisition: &|a| a.complete = false, ..with() },
    );
    add(
        "receipt-predecessor",
        "a receipt follows from another record",
        &["receipt.predecessor"],
        Faults { receipt: &|r| r.predecessor = Digest::of(b"another"), ..with() },
    );
    add(
        "receipt-denies-agent",
        "a receipt says that the agent did not sign",
        &["receipt.predecessor"],
        Faults { receipt: &|r| r.agent_signed = false, ..with() },
    );
    add(
        "receipt-invents-agent",
        "a receipt says that the agent signed, but it did not",
        &["receipt.predecessor"],
        Faults { skip: &[Step::Acquisition], receipt: &|r| r.agent_signed = true, ..with() },
    );
    add(
        "receipt-of-another-manifest",
        "receipt and acquisition name different manifests",
        &["receipt.manifest"],
        Faults { acquisition: &|a| a.manifest.sha256 = Digest::of(b"another"), ..with() },
    );
    add(
        "receipt-left-out",
        "sealed without a receipt",
        &["receipt.missing", "seal.outcome", "object.unaccounted"],
        Faults { skip: &[Step::Receipt], ..with() },
    );
    add(
        "seal-predecessor",
        "a seal follows from another record",
        &["seal.predecessor"],
        Faults { seal: &|s| s.predecessor = Digest::of(b"another"), ..with() },
    );
    add(
        "seal-outcome",
        "a collection with evidence closed as failed",
        &["seal.outcome"],
        Faults {
            seal: &|s| {
                s.outcome = Outcome::Failed;
                s.reason = Some("nothing arrived".to_owned());
            },
            ..with()
        },
    );
    add(
        "seal-without-reason",
        "a partial seal without a reason",
        &["seal.outcome"],
        Faults { seal: &|s| s.outcome = Outcome::Partial, ..with() },
    );
    add("seal-leaves-out-stream", "a seal that leaves out a stream", &["seal.streams"], Faults { seal: &|s| s.streams.clear(), ..with() });
    add(
        "seal-names-another-receipt",
        "a seal names another receipt",
        &["seal.streams"],
        Faults { seal: &|s| s.streams[0].receipt = Digest::of(b"another"), ..with() },
    );
    add("seal-numbers-begin-late", "exhibit numbers begin at 2", &["seal.exhibits"], Faults { seal: &|s| s.exhibit_first = 2, ..with() });
    add(
        "seal-numbers-too-many",
        "more exhibit numbers than items",
        &["seal.exhibits"],
        Faults { seal: &|s| s.exhibit_count += 1, ..with() },
    );
}

fn manifest_lies(add: Add<'_>) {
    let with = Faults::default;
    add(
        "manifest-of-another-order",
        "a manifest's header names another order",
        &["manifest.header"],
        Faults {
            lines: &|lines| {
                if let Some(Line::Header(h)) = lines.first_mut() {
                    h.order = Digest::of(b"another");
                }
            },
            ..with()
        },
    );
    add(
        "manifest-without-header",
        "no header line",
        &["manifest.order"],
        Faults {
            lines: &|lines| {
                lines.remove(0);
            },
            ..with()
        },
    );
    add(
        "manifest-without-end",
        "no end line",
        &["manifest.malformed"],
        Faults {
            lines: &|lines| {
                lines.pop();
            },
            ..with()
        },
    );
    add(
        "manifest-goes-on",
        "a line after the end line",
        &["manifest.order"],
        Faults { lines: &|lines| lines.push(lines[1].clone()), ..with() },
    );
    add("item-number-hole", "an item number is left out", &["manifest.order"], Faults { lines: &|lines| item(lines, 3).n = 7, ..with() });
    add(
        "item-removed",
        "an item line is left out",
        &["item.unlisted", "manifest.order", "manifest.totals"],
        Faults { lines: &|lines| lines.retain(|l| !matches!(l, Line::Item(i) if i.n == 1)), ..with() },
    );
    add(
        "item-in-wrong-segment",
        "an item line before its segment",
        &["manifest.order"],
        Faults {
            lines: &|lines| {
                let at = lines.iter().position(|l| matches!(l, Line::Item(i) if i.n == 0)).expect("there");
                let line = lines.remove(at);
                lines.insert(1, line);
            },
            ..with()
        },
    );
    add(
        "item-too-early",
        "an item line one segment before its member ends",
        &["item.without-member", "item.unlisted"],
        Faults {
            lines: &|lines| {
                let at = lines.iter().position(|l| matches!(l, Line::Segment(s) if s.n == 1)).expect("there");
                lines.swap(at, at + 1);
            },
            ..with()
        },
    );
    add(
        "totals",
        "the end line counts one item more",
        &["manifest.totals"],
        Faults {
            lines: &|lines| {
                if let Some(Line::End(e)) = lines.last_mut() {
                    e.items += 1;
                }
            },
            ..with()
        },
    );
    add(
        "receipt-totals",
        "receipt and acquisition state other totals than the manifest",
        &["manifest.totals"],
        Faults { acquisition: &|a| a.manifest.raw_bytes += 1, receipt: &|r| r.manifest.raw_bytes += 1, ..with() },
    );
    add(
        "not-complete",
        "an end line that says the stream was broken off, under the agent's signature",
        &["manifest.totals"],
        Faults {
            lines: &|lines| {
                if let Some(Line::End(e)) = lines.last_mut() {
                    e.complete = false;
                }
            },
            ..with()
        },
    );
    add(
        "segment-range",
        "a segment line with another raw offset",
        &["segment.range"],
        Faults {
            lines: &|lines| {
                if let Some(Line::Segment(s)) = lines.iter_mut().find(|l| matches!(l, Line::Segment(s) if s.n == 1)) {
                    s.raw_offset += 512;
                }
            },
            ..with()
        },
    );
    add(
        "segment-raw-size",
        "a segment line with a smaller raw size",
        &["segment.range"],
        Faults {
            lines: &|lines| {
                if let Some(Line::Segment(s)) = lines.get_mut(1) {
                    s.raw_size -= 512;
                }
            },
            ..with()
        },
    );
    add(
        "tar-damaged",
        "a byte of a tar header is wrong in what was signed",
        &["stream.tar", "stream.unverified"],
        Faults { raw: Some(&|raw| raw[0] ^= 1), ..with() },
    );
    add(
        "tar-without-end",
        "no end marker in a stream that is signed as whole",
        &["stream.end"],
        Faults { raw: Some(&|raw| raw.truncate(raw.len() - 1024)), ..with() },
    );
    add(
        "tar-goes-on",
        "something after the end marker",
        &["stream.tar"],
        Faults { raw: Some(&|raw| raw.extend_from_slice(b"hidden")), ..with() },
    );
}

fn item_lies(add: Add<'_>) {
    let with = Faults::default;
    let lines = |change: fn(&mut exhibit_evidence::manifest::Item), n: u64| move |lines: &mut Vec<Line>| change(item(lines, n));
    let mut lie = |name: &str, says: &str, codes: &[&str], n: u64, change: fn(&mut exhibit_evidence::manifest::Item)| {
        add(name, says, codes, Faults { lines: &lines(change, n), ..with() });
    };
    lie("item-digest", "an item with another SHA-256", &["item.digest"], 1, |i| i.sha256 = Some(Digest::of(b"another")));
    lie("item-without-digest", "an item with content and no SHA-256", &["item.digest"], 1, |i| i.sha256 = None);
    lie("item-size", "an item with another size", &["item.size"], 1, |i| i.size += 1);
    lie("item-length", "an item with another length in the stream", &["item.size"], 1, |i| {
        if let Some(l) = &mut i.location {
            l.length += 512;
        }
    });
    lie("item-offset", "an item at another place", &["item.without-member", "item.unlisted"], 1, |i| {
        if let Some(l) = &mut i.location {
            l.offset += 512;
        }
    });
    lie("item-name", "an item under another path", &["item.name"], 1, |i| i.path = EvidencePath::new("/etc/shadow").expect("path"));
    lie("item-capture", "an item under another capture", &["item.name"], 1, |i| "system".clone_into(&mut i.capture));
    lie("item-kind", "a file stated as a directory", &["item.kind"], 1, |i| i.kind = Kind::Directory);
    lie("item-target", "a file with a link target", &["item.kind"], 1, |i| i.target = EvidencePath::new("/etc"));
    lie("item-owner", "an item with another owner than its member", &["item.meta"], 1, |i| {
        if let Some(m) = &mut i.meta {
            m.uid = 0;
        }
    });
    lie("item-time", "an item with another modification time than its member", &["item.meta"], 1, |i| {
        if let Some(m) = &mut i.meta {
            m.mtime = None.or(m.ctime);
        }
    });
    lie("item-without-reason", "a denied item without a reason", &["item.status"], 3, |i| i.reason = None);
    lie("item-nothing-taken", "an item by record that claims to be taken whole", &["item.status"], 3, |i| {
        i.status = Status::Collected;
        i.reason = None;
    });
    lie("item-digest-of-nothing", "an item by record with a SHA-256", &["item.digest"], 3, |i| i.sha256 = Some(Digest::of(b"")));
    lie("item-size-of-nothing", "an item by record with a size", &["item.size"], 3, |i| i.size = 9);
    lie("item-whole-with-gap", "an item taken whole with a gap", &["item.status"], 2, |i| {
        i.gaps = vec![Gap { offset: 0, length: 10, reason: "read error".to_owned() }];
    });
    lie("item-gap-outside", "a gap beyond the content", &["item.gaps"], 2, |i| {
        i.status = Status::Partial;
        i.reason = Some("read errors".to_owned());
        i.gaps = vec![Gap { offset: 4_999, length: 2, reason: "read error".to_owned() }];
    });
    lie("item-times", "an item whose taking ended before it began", &["item.times"], 1, |i| i.taken.mono_end_ns = 1);
    add(
        "item-not-ordered",
        "an item of a capture that was not ordered",
        &["item.not-ordered"],
        Faults {
            stream: &|s| {
                s.file("memory", b"/proc/kcore", b"not asked for\n");
            },
            ..with()
        },
    );
}
