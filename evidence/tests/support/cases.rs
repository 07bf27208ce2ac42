//! The good cases.

use std::collections::BTreeMap;

use exhibit_evidence::manifest::{CONTINUED_AT, Gap, Kind, Line, Seam, Status};
use exhibit_evidence::record::*;
use exhibit_evidence::{CaseId, CollectionId};

use super::faults::{Faults, Step};
use super::stream::{Built, Stream};
use super::{Case, Ordered, responder_name};

/// Bytes that do not compress to nothing, the same every time.
pub fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        (x >> 24) as u8
    })
    .take(len)
    .collect()
}

/// Every kind of item, in two segments, with one file lying across the cut.
fn rich_stream(case: &CaseId, collection: &CollectionId, order: &Ordered, agent: u8) -> Built {
    let mut s = Stream::new(case, collection, 1, agent, order.digest);
    s.file("system", b"identity.jsonl", b"{\"hostname\":\"web-1\"}\n");
    s.directory("files", b"/tmp");
    s.file("files", b"/etc/hostname", b"web-1\n");
    s.file("files", b"/etc/empty", b"");
    s.file("files", b"/srv/caf\xe9/\xff\xfe.bin", b"not UTF-8\n");
    s.file("files", "/srv/żółć/\u{202e}txt.exe".as_bytes(), b"a name that turns around\n");
    let long = [b"/srv/".to_vec(), vec![b'n'; 255], b"/".to_vec(), vec![b'm'; 255]].concat();
    s.file("files", &long, b"a long name\n");
    s.sparse("files", b"/var/lib/sparse.img", 1 << 20, &[(4_096, b"island"), (524_288, &noise(7, 700))]);
    s.symlink("files", b"/etc/localtime", b"/usr/share/zoneinfo/Etc/UTC");
    if let Some(meta) = &mut s.file("files", b"/srv/first", b"two names\n").meta {
        meta.nlink = 2;
    }
    s.hardlink("files", b"/srv/second", b"/srv/first");
    let xattrs = BTreeMap::from([
        ("security.selinux".to_owned(), b"system_u:object_r:etc_t:s0\0".to_vec()),
        ("user.a=b%c".to_owned(), b"\xff\x00\n".to_vec()),
    ]);
    s.file_with("files", b"/etc/labelled", b"labelled\n", &xattrs);
    s.by_record("files", b"/etc/shadow", Kind::File, Status::Denied, "open: permission denied");
    s.by_record("files", b"/var/log/app-*.log", Kind::Unknown, Status::Missing, "nothing matches");
    s.by_record("files", b"/run/app.sock", Kind::Socket, Status::Collected, "");
    s.by_record("files", b"/dev/sda", Kind::BlockDevice, Status::Collected, "");
    s.by_record("files", b"/mnt/share", Kind::Directory, Status::Skipped, "remote file system (nfs4)");
    let begins = s.raw.len() as u64;
    // The agent's process ended after the first segment, and the next one read on.
    let item = s.file("files", b"/var/lib/big.bin", &noise(3, 60_000));
    let header = item.location.map_or(0, |l| l.length) - 60_000_u64.next_multiple_of(512);
    item.facts.insert(CONTINUED_AT.to_owned(), (30_000 - header).to_string());
    s.cut_at(begins + 30_000);
    let mut holed = noise(5, 12_288);
    holed[4_096..8_192].fill(0);
    let item = s.file("logs", b"/var/log/syslog", &holed);
    item.status = Status::ChangedDuringRead;
    item.reason = Some("grew by 112 bytes while it was read".to_owned());
    item.gaps = vec![Gap { offset: 4_096, length: 4_096, reason: "read: input/output error".to_owned() }];
    s.by_record("process", b"/proc/812/exe", Kind::File, Status::Vanished, "the process ended");
    s.file("process", b"table.jsonl", b"{\"pid\":1,\"comm\":\"init\"}\n");
    s.by_record("network", b"firewall.jsonl", Kind::Record, Status::Error, "netlink: not supported");
    s.finish(&|lines| seam(lines, 1))
}

pub fn small_stream(case: &CaseId, collection: &CollectionId, order: &Ordered, agent: u8, number: u32) -> Stream {
    let mut s = Stream::new(case, collection, number, agent, order.digest);
    s.file("system", b"identity.jsonl", b"{\"hostname\":\"app-1\"}\n");
    s.file("files", b"/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n");
    s.cut();
    s.file("files", b"/var/lib/data", &noise(9, 5_000));
    s.by_record("files", b"/etc/shadow", Kind::File, Status::Denied, "open: permission denied");
    s
}

/// `good-1`: three hosts, two orders. One collection is sealed whole, one refused, one ends as partial because the
/// agent died, and the second order's collection has a broken stream and a whole one.
pub fn good_1() -> Case {
    let keep = |_: &mut Order| {};
    let mut case = Case::open(1, "Intrusion on the web tier");
    for agent in 0..3 {
        case.enrol_agent(agent);
    }
    let first = case.order(1, &[0, 1, 2], &["system", "files", "logs", "process", "network"], &keep);
    let refusal = case.refuse(&first, 1, &|_| {});
    case.seal(&first, 1, Outcome::Refused, Some("policy: the host does not allow 'process'"), &[], Some(refusal), &|_| {});

    let web = Case::collection(&first, 0);
    let built = rich_stream(&case.id.clone(), &web, &first, 0);
    whole(&mut case, &first, 0, 1, &built, &[]);

    let app = Case::collection(&first, 2);
    let broken = small_stream(&case.id.clone(), &app, &first, 2, 1).break_off(2_000);
    case.put(&app, 1, &broken);
    let receipt = case.receipt(&first, 2, 1, None, &broken, &|_| {});
    case.seal(&first, 2, Outcome::Partial, Some("the agent stopped answering"), &[(1, receipt, broken.totals.items)], None, &|_| {});
    access(&mut case, &web);
    incident(&mut case);

    let second = case.order(2, &[2], &["system", "files"], &keep);
    let again = Case::collection(&second, 2);
    let broken = small_stream(&case.id.clone(), &again, &second, 2, 1).break_off(100);
    case.put(&again, 1, &broken);
    let receipt = case.receipt(&second, 2, 1, None, &broken, &|_| {});
    let built = small_stream(&case.id.clone(), &again, &second, 2, 2).finish(&|_| {});
    whole(&mut case, &second, 2, 2, &built, &[(1, receipt, broken.totals.items)]);

    let closed = CaseClosed {
        case: case.id.clone(),
        predecessor: case.opened,
        reason: "everything was collected".to_owned(),
        closed_by: responder_name(),
        closed_at: case.now(),
    };
    case.sign(&closed, super::RESPONDER);
    revoke(&mut case, super::AGENT);
    case.checkpoint();
    case
}

/// The root revokes a key, as the log says from here on.
pub fn revoke(case: &mut Case, holder: u8) {
    revoke_as_of(case, holder, 0);
}

/// [`revoke`], dated by so many seconds later (or, below zero, earlier): it was given then, and stands here only now.
pub fn revoke_as_of(case: &mut Case, holder: u8, by_s: i64) {
    let revocation = Revocation {
        deployment: super::DEPLOYMENT.to_owned(),
        key: super::key(holder).public().id(),
        predecessor: case.enrolment_of(holder),
        reason: "the host was rebuilt".to_owned(),
        revoked_at: case.now().plus_s(by_s),
    };
    case.sign(&revocation, super::ROOT);
}

/// Stores a whole stream and its acquisition, receipt and seal.
pub fn whole(
    case: &mut Case,
    order: &Ordered,
    agent: u8,
    number: u32,
    built: &Built,
    before: &[(u32, exhibit_evidence::Digest, u64)],
) -> exhibit_evidence::Digest {
    let collection = Case::collection(order, agent);
    case.put(&collection, number, built);
    let acquisition = case.acquire(order, agent, number, built, &|_| {});
    let receipt = case.receipt(order, agent, number, Some(acquisition), built, &|_| {});
    let mut streams = before.to_vec();
    streams.push((number, receipt, built.totals.items));
    case.seal(order, agent, Outcome::Sealed, None, &streams, None, &|_| {})
}

fn access(case: &mut Case, collection: &CollectionId) {
    let access = Access {
        case: case.id.clone(),
        predecessor: case.opened,
        by: responder_name(),
        action: Action::View,
        what: vec![format!("{collection}.s1.2")],
        reason: "first look".to_owned(),
        at: case.now(),
    };
    case.sign(&access, super::LOG);
}

fn incident(case: &mut Case) {
    let at = case.now();
    let incident = Incident {
        deployment: super::DEPLOYMENT.to_owned(),
        case: Some(case.id.clone()),
        kind: "false-upload".to_owned(),
        about: super::agent_id(1).to_string(),
        detail: "segment 1: the digest announced is not that of its bytes".to_owned(),
        count: 2,
        first_at: at,
        last_at: at.plus_s(1),
    };
    case.sign(&incident, super::LOG);
}

/// `good-2`, the smallest whole case: one order, two targets of which one refuses, one stream of two segments. Faults
/// change what its parties do, so that every signature still holds and only the statements are wrong.
pub fn good_2(faults: &Faults<'_>) -> Case {
    let mut case = if faults.skips(Step::Open) { Case::unopened(2) } else { Case::open(2, "Small case") };
    (faults.at)(&mut case, None, Step::Open);
    case.enrol_agent(0);
    case.enrol_agent(1);
    (faults.at)(&mut case, None, Step::Enrol);
    let order = case.order(1, &[0, 1], &["system", "files"], faults.order);
    (faults.at)(&mut case, Some(&order), Step::Order);

    let collection = Case::collection(&order, 0);
    let mut stream = small_stream(&case.id.clone(), &collection, &order, 0, 1);
    (faults.stream)(&mut stream);
    let built = match faults.raw {
        Some(raw) => {
            stream.raw.extend_from_slice(&exhibit_evidence::stream::tar::END_MARKER);
            raw(&mut stream.raw);
            stream.build(true, faults.lines)
        }
        None => stream.finish(faults.lines),
    };
    case.put(&collection, 1, &built);
    let acquisition = (!faults.skips(Step::Acquisition)).then(|| case.acquire(&order, 0, 1, &built, faults.acquisition));
    (faults.at)(&mut case, Some(&order), Step::Acquisition);
    let mut streams = Vec::new();
    if !faults.skips(Step::Receipt) {
        let receipt = case.receipt(&order, 0, 1, acquisition, &built, faults.receipt);
        streams.push((1, receipt, built.totals.items));
    }
    (faults.at)(&mut case, Some(&order), Step::Receipt);
    if !faults.skips(Step::Seal) {
        case.seal(&order, 0, Outcome::Sealed, None, &streams, None, faults.seal);
    }
    (faults.at)(&mut case, Some(&order), Step::Seal);
    let refusal = case.refuse(&order, 1, faults.refusal);
    case.seal(&order, 1, Outcome::Refused, Some("policy"), &[], Some(refusal), &|_| {});
    (faults.at)(&mut case, Some(&order), Step::End);
    match faults.checkpoint {
        Some(checkpoint) => checkpoint(&mut case),
        None => case.checkpoint(),
    }
    case
}

/// Changes one item line.
/// Says that segment `n` was made by a later process than the one before it.
pub fn seam(lines: &mut [Line], n: u32) {
    let segment = lines.iter_mut().find_map(|l| if let Line::Segment(s) = l { Some(s).filter(|s| s.n == n) } else { None });
    let at = exhibit_evidence::Timestamp::from_unix_s(1_767_323_046);
    segment.expect("there").seam = Some(Seam { at, boot_id: "6f1c2c0e-5b5f-4a53-9d53-0d8f6a2f8a11".to_owned() });
}

pub fn item(lines: &mut [Line], n: u64) -> &mut exhibit_evidence::manifest::Item {
    lines
        .iter_mut()
        .find_map(|line| match line {
            Line::Item(item) if item.n == n => Some(&mut **item),
            _ => None,
        })
        .expect("the item is there")
}
