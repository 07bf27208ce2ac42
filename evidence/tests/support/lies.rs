//! Rows of the table that need a key: every signature holds, but the statements do not fit each other or the bytes.

use exhibit_evidence::manifest::{CONTINUED_AT, Gap, Item, Kind, Line, Status};
use exhibit_evidence::record::*;
use exhibit_evidence::{Digest, EvidencePath};

use super::cases::{good_2, item, revoke, seam};
use super::faults::{Faults, Step};
use super::tamper::{Tampered, difference};
use super::{AGENT, ISSUER, LOG, RESPONDER, agent_id, case_opened};

/// What somebody with a key can do: every signature holds, but the statements do not fit each other or the bytes.
pub fn lies(cases: &mut Vec<Tampered>) {
    let good = good_2(&Faults::default()).objects;
    let mut add = |name: &str, says: &str, codes: &[&str], faults: Faults<'_>| {
        cases.push(Tampered::lie("good-2", (name, says), difference(&good, &good_2(&faults).objects), codes));
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
        "incident-of-no-case",
        "an incident that names no case stands in a case's log",
        &["record.wrong-case"],
        Faults {
            at: &|case, _, step| {
                if step == Step::Enrol {
                    let at = case.now();
                    let incident = Incident {
                        deployment: super::DEPLOYMENT.to_owned(),
                        case: None,
                        kind: "recovery".to_owned(),
                        about: "start".to_owned(),
                        detail: "tried again".to_owned(),
                        count: 1,
                        first_at: at,
                        last_at: at,
                    };
                    case.sign(&incident, LOG);
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
                    revoke(case, AGENT);
                }
            },
            ..with()
        },
    );
    add(
        "name-that-looks-like-another",
        "an admin enrols a second key under a name with a Cyrillic letter",
        &["record.not-authorized"],
        Faults {
            at: &|case, _, step| {
                if step == Step::Enrol {
                    case.enrol(super::STRANGER, super::ADMIN, "responder/ad\u{430}", &[Role::Approver], "admin");
                }
            },
            ..with()
        },
    );
    add(
        "agent-with-another-key",
        "whoever enrols agents put another key under an agent's name",
        &["record.not-authorized"],
        Faults {
            at: &|case, _, step| {
                if step == Step::Enrol {
                    let name = format!("agent/{}", agent_id(0));
                    case.enrol(super::STRANGER, ISSUER, &name, &[Role::Agent], "token");
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

fn seam_lies(add: Add<'_>) {
    let with = Faults::default;
    add(
        "seam-before-all",
        "a stream that was taken up again before its first segment",
        &["item.seam"],
        Faults { lines: &|lines| seam(lines, 0), ..with() },
    );
    add(
        "seam-unsaid",
        "an item across a seam that does not say so",
        &["item.seam"],
        Faults {
            stream: &|s| {
                s.file("files", b"/etc/long", &[b'x'; 5_000]);
                s.cut_at(s.raw.len() as u64 - 2_000);
            },
            lines: &|lines| seam(lines, 2),
            ..with()
        },
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
    let lines = |change: fn(&mut Item), n: u64| move |lines: &mut Vec<Line>| change(item(lines, n));
    let mut lie = |name: &str, says: &str, codes: &[&str], n: u64, change: fn(&mut Item)| {
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
    lie("item-attribute", "an item with an extended attribute that its member does not have", &["item.meta"], 1, |i| {
        if let Some(m) = &mut i.meta {
            m.xattrs.insert("security.capability".to_owned(), "AQAAAg==".to_owned());
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
    lie("item-continued-nowhere", "an item that says it lies across a seam, without one", &["item.seam"], 1, |i| {
        i.facts.insert(CONTINUED_AT.to_owned(), "1".to_owned());
    });
    seam_lies(add);
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
    add(
        "item-beneath-a-link",
        "a file beneath a symbolic link: who extracts the stream would write elsewhere",
        &["stream.tar"],
        Faults {
            stream: &|s| {
                s.symlink("files", b"/etc/d", b"/tmp");
                s.file("files", b"/etc/d/pwn", b"outside\n");
            },
            ..with()
        },
    );
    add(
        "item-link-to-nothing",
        "a hard link to a file that is not in the stream",
        &["item.link"],
        Faults {
            stream: &|s| {
                s.hardlink("files", b"/etc/second", b"/etc/nowhere");
            },
            ..with()
        },
    );
    add(
        "capture-empty",
        "a capture that was ordered and of which there is no item",
        &["capture.empty"],
        Faults {
            order: &|o| o.captures.push(CaptureSpec { name: "logs".to_owned(), params: std::collections::BTreeMap::new() }),
            ..with()
        },
    );
}
