//! `good-7`: a case whose contents are encrypted to two recipients, and what its parties can do wrong. Most of it shows to
//! everybody; what is encrypted to others, or is not what its line says, to a recipient alone.

use exhibit_evidence::Digest;
use exhibit_evidence::age::{Identity, Recipients};
use exhibit_evidence::manifest::Line;
use exhibit_evidence::record::{CaseOpened, Outcome};

use super::cases::{good_2, item, small_stream, whole};
use super::faults::Faults;
use super::stream::Stream;
use super::tamper::{Edit, Tampered, difference};
use super::{Case, RESPONDER, case_opened};

/// The identity in `tests/vectors/identities/<n>.txt`. Its secret is public: it protects nothing.
pub fn identity(n: u8) -> Identity {
    Identity::from_secret(zeroize::Zeroizing::new([n; 32])).expect("usable")
}

/// That file, as `age` reads it.
pub fn identity_file(n: u8) -> Vec<u8> {
    let mut text = identity(n).reveal().expect("writable").as_bytes().to_vec();
    text.push(b'\n');
    text
}

pub fn recipients(of: &[u8]) -> Recipients {
    of.iter().map(|n| *identity(*n).recipient()).collect::<Vec<_>>().try_into().expect("different")
}

/// What is done otherwise than in the good case.
pub struct How<'a> {
    /// The agent ended its stream.
    pub ended: bool,
    /// Segments are encrypted, as the case demands.
    pub encrypted: bool,
    /// The receipt says that contents were verified.
    pub claims: bool,
    /// Changes what is captured, or to whom it is encrypted; digests and totals follow.
    pub stream: &'a dyn Fn(Stream) -> Stream,
    /// Changes the manifest; its digest follows.
    pub lines: &'a dyn Fn(&mut Vec<Line>),
}

impl Default for How<'_> {
    fn default() -> Self {
        Self { ended: true, encrypted: true, claims: false, stream: &|s| s, lines: &|_| {} }
    }
}

/// A case that is encrypted to identities 1 and 2, with one stream.
pub fn good_7(how: &How<'_>) -> Case {
    let mut case = Case::unopened(7);
    let at = case.now();
    let to = recipients(&[1, 2]);
    let opened = CaseOpened { encrypt_to: to.clone(), ..case_opened(&case.id, "Readable to two", at) };
    case.opened = case.sign(&opened, RESPONDER);
    case.enrol_agent(0);
    let order = case.order(1, &[0], &["system", "files"], &|_| {});
    let collection = Case::collection(&order, 0);
    let stream = small_stream(&case.id.clone(), &collection, &order, 0, 1);
    let stream = (how.stream)(if how.encrypted { stream.encrypted_to(&to) } else { stream });
    if how.ended {
        let mut built = stream.finish(how.lines);
        if how.claims {
            built.encrypted = false;
        }
        whole(&mut case, &order, 0, 1, &built, &[]);
    } else {
        let built = stream.build(false, how.lines);
        case.put(&collection, 1, &built);
        let receipt = case.receipt(&order, 0, 1, None, &built, &|_| {});
        let streams = [(1, receipt, built.totals.items)];
        case.seal(&order, 0, Outcome::Partial, Some("the agent was lost"), &streams, None, &|_| {});
    }
    case.checkpoint();
    case
}

pub fn lies(cases: &mut Vec<Tampered>) {
    let good = good_7(&How::default()).objects;
    let segment = good.keys().find(|name| name.ends_with("/00000000.tar.zst")).expect("there").clone();
    let mut add = |name: &str, says: &str, edits: Vec<Edit>, holders: &[&str], codes: &[&str]| {
        let identities = holders.iter().map(|holder| (*holder).to_owned()).collect();
        cases.push(Tampered { identities, ..Tampered::lie("good-7", (name, says), edits, codes) });
    };
    let flip = |at| vec![Edit::Flip { object: segment.clone(), at, with: 1 }];
    add("encrypted-segment-flipped", "the last byte of an encrypted segment", flip(-1), &[], &["segment.digest"]);
    add("encrypted-header-flipped", "a byte of an encrypted segment's header", flip(40), &["1"], &["segment.digest", "segment.encryption"]);

    let mut lie = |name: &str, says: &str, holders: &[&str], codes: &[&str], how: How<'_>| {
        add(name, says, difference(&good, &good_7(&how).objects), holders, codes);
    };
    let with = How::default;
    let plain = ["receipt.contents", "manifest.header", "segment.encryption"];
    lie("encrypted-not-at-all", "a case that demands it is not encrypted", &[], &plain, How { encrypted: false, ..with() });
    let claims = How { claims: true, ..with() };
    lie("encrypted-and-verified", "a receipt says of encrypted contents that they were verified", &[], &["receipt.contents"], claims);
    let code = ["segment.encryption"];
    let one: &dyn Fn(Stream) -> Stream = &|s| s.really_to(recipients(&[1]));
    lie("encrypted-to-fewer", "segments are encrypted to one of two recipients", &[], &code, How { stream: one, ..with() });
    let others: &dyn Fn(Stream) -> Stream = &|s| s.really_to(recipients(&[4, 5]));
    lie("encrypted-to-others", "segments are encrypted to two other recipients", &["1"], &code, How { stream: others, ..with() });
    let half: &dyn Fn(Stream) -> Stream = &|s| s.really_to(recipients(&[1, 5]));
    lie("encrypted-to-half", "another takes the place of the second recipient", &["2"], &code, How { stream: half, ..with() });
    lie("encrypted-to-half-of-both", "the same, looked at by both", &["1", "2"], &code, How { stream: half, ..with() });
    let moved: &dyn Fn(&mut Vec<Line>) = &|lines| {
        if let Some(location) = &mut item(lines, 1).location {
            location.offset += 512;
        }
    };
    let order = ["manifest.order"];
    lie("encrypted-item-moved", "an item is stated behind its place", &[], &order, How { lines: moved, ..with() });
    let bare: &dyn Fn(&mut Vec<Line>) = &|lines| item(lines, 1).sha256 = None;
    lie("encrypted-item-without-digest", "a file in an encrypted stream has no digest", &[], &order, How { lines: bare, ..with() });
    let nothing: &dyn Fn(&mut Vec<Line>) = &|lines| {
        for line in lines {
            if let Line::Segment(facts) = line {
                facts.raw_size = if facts.n == 1 { 0 } else { facts.raw_size };
            }
        }
    };
    let says = "a segment of an encrypted stream that its agent ended is stated without raw bytes";
    lie("encrypted-segment-of-nothing", says, &[], &["segment.range"], How { lines: nothing, ..with() });
    let other: &dyn Fn(&mut Vec<Line>) = &|lines| item(lines, 1).sha256 = Some(Digest::of(b"another"));
    lie(
        "encrypted-item-digest",
        "an encrypted file is another than its line says",
        &["2"],
        &["item.digest"],
        How { lines: other, ..with() },
    );

    let small = good_2(&Faults::default()).objects;
    let doubts = good_2(&Faults { receipt: &|r| r.contents_unverified = true, ..Faults::default() }).objects;
    let row = ("contents-not-verified", "a receipt says of contents that nobody encrypted that they were not verified");
    cases.push(Tampered::lie("good-2", row, difference(&small, &doubts), &["receipt.contents"]));
    cases.push(open_attributes());
}

fn open_attributes() -> Tampered {
    let open: &dyn Fn(&mut Vec<Line>) = &|lines| {
        if let Some(meta) = &mut item(lines, 1).meta {
            meta.xattrs.insert("security.selinux".to_owned(), "AQAAAg==".to_owned());
        }
    };
    let edits = difference(&good_7(&How::default()).objects, &good_7(&How { lines: open, ..How::default() }).objects);
    let row = ("encrypted-item-attributes", "an extended attribute stands in a line of an encrypted stream");
    Tampered::lie("good-7", row, edits, &["item.attributes"])
}
