//! A good case with timestamps, and what can be done to them. The tokens are openssl's and are checked in below
//! `tests/vectors/timestamps`, with the keys of their authorities, which protect nothing. A token that no longer fits, because
//! the case changed, is made again by openssl when vectors are written.

use std::path::PathBuf;
use std::process::Command;

use exhibit_evidence::Digest;
use exhibit_evidence::layout::{CaseObject, TimestampFile};
use exhibit_evidence::log::Checkpoint;
use exhibit_evidence::record::{NotStamped, Outcome, Stamped};
use exhibit_evidence::timestamp::{Anchors, Reply, Request};

use super::cases::small_stream;
use super::tamper::{Edit, Tampered, difference};
use super::{Case, LOG, Objects, key, vectors};

fn folder() -> PathBuf {
    vectors().join("timestamps")
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|e| panic!("tests/vectors/timestamps/{name}: {e}"))
}

/// The root of one of the authorities.
pub fn root(authority: &str) -> Anchors {
    Anchors::parse(&read(&format!("{authority}/root.pem"))).expect("a root")
}

/// The token that is checked in under this name, if it answers the request.
fn stored(name: &str, request: &Request) -> Option<Vec<u8>> {
    let bytes = std::fs::read(folder().join("tokens").join(name)).ok()?;
    Reply::parse(&bytes).ok()?.answers(request).ok()?;
    Some(bytes)
}

/// A token by a certificate of an authority. With `purpose_is_wrong` openssl would not sign, so it signs another way.
fn token(authority: &str, certificate: &str, name: &str, request: &Request) -> Vec<u8> {
    if let Some(bytes) = stored(name, request) {
        return bytes;
    }
    assert!(std::env::var_os("EXHIBIT_WRITE_VECTORS").is_some(), "token {name} is over another head: write the vectors anew");
    let made = made(authority, certificate, request);
    std::fs::create_dir_all(folder().join("tokens")).expect("folder");
    std::fs::write(folder().join("tokens").join(name), made).expect("written");
    stored(name, request).expect("openssl answers the request")
}

/// A token by an authority's own certificate that openssl makes now.
pub fn fresh(authority: &str, request: &Request) -> Vec<u8> {
    made(authority, "tsa", request)
}

fn made(authority: &str, certificate: &str, request: &Request) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let run =
        |program: &str, args: &[&str]| assert!(Command::new(program).args(args).status().expect("runs").success(), "{program} {args:?}");
    run("cp", &["-r", &folder().join(authority).display().to_string(), &path("a")]);
    std::fs::write(path("q"), request.to_der()).expect("written");
    let script = folder().join("../../authority/authority.sh").display().to_string();
    let signs = if certificate == "plain" { "tsa" } else { certificate };
    run(&script, &["reply", &path("a"), signs, &path("q"), &path("r")]);
    if certificate == "plain" {
        run(&script, &["resign", &path("a"), "plain", &path("r"), &path("r2")]);
        std::fs::rename(path("r2"), path("r")).expect("renamed");
    }
    std::fs::read(path("r")).expect("a reply")
}

/// What is done differently with the last token of `alpha`.
pub struct How<'a> {
    /// Who makes it, and the name of the token: authority, certificate, name.
    pub by: (&'a str, &'a str, &'a str),
    pub request: &'a dyn Fn(Request) -> Request,
    pub reply: &'a dyn Fn(Vec<u8>) -> Vec<u8>,
    pub record: &'a dyn Fn(&mut Stamped),
    /// Nothing is stamped after the seal.
    pub none: bool,
    /// Seconds by which the records between the tokens are dated ahead.
    pub ahead: i64,
}

impl Default for How<'_> {
    fn default() -> Self {
        Self { by: ("alpha", "tsa", "alpha-2.tsr"), request: &|r| r, reply: &|r| r, record: &|_| {}, none: false, ahead: 0 }
    }
}

fn object(size: u64, file: TimestampFile) -> String {
    CaseObject::Timestamp(size, file).to_string()
}

/// Stamps a head that the case has or had. `named` is the authority's name in the case.
pub fn stamp(case: &mut Case, head: &Checkpoint, named: &str, how: &How<'_>) {
    let (name, checkpoint) = (named.parse().expect("a name"), head.sign(&key(LOG)));
    let request = Request::new(Digest::of(&checkpoint), 0x8877_6655_4433_2211 ^ head.size);
    let (authority, certificate, token_name) = how.by;
    let reply = (how.reply)(token(authority, certificate, token_name, &request));
    let request = (how.request)(request);
    let read_back = Reply::parse(&reply);
    let crl = read(&format!("{authority}/crl.der"));
    let mut stamped = Stamped {
        case: Some(case.id.clone()),
        predecessor: case.opened,
        authority: named.to_owned(),
        size: head.size,
        root: head.root,
        checkpoint: Digest::of(&checkpoint),
        request: Digest::of(&request.to_der()),
        reply: Digest::of(&reply),
        crls: vec![Digest::of(&crl)],
        crl_problem: None,
        time: read_back.as_ref().map_or_else(|_| case.now(), Reply::time),
        serial: read_back.as_ref().map_or("00", |r| r.serial()).to_owned(),
        received_at: case.now(),
    };
    // Tokens are real: what comes after one is not dated before it.
    case.clock = case.clock.max(stamped.time.unix_ns() / 1_000_000_000);
    (how.record)(&mut stamped);
    let name: exhibit_evidence::layout::AuthorityName = name;
    for (file, bytes) in [
        (TimestampFile::Checkpoint, checkpoint),
        (TimestampFile::Request(name.clone()), request.to_der()),
        (TimestampFile::Reply(name.clone()), reply),
        (TimestampFile::Crl(name, 0), crl),
    ] {
        case.objects.insert(object(head.size, file), bytes);
    }
    case.sign(&stamped, LOG);
}

/// `good-4`: `alpha` stamps the case before it orders anything, `beta` fails then; both stamp it after the seal.
pub fn good_4(how: &How<'_>) -> Case {
    let mut case = Case::open(4, "Stamped case");
    case.enrol_agent(0);
    let head = case.head();
    stamp(&mut case, &head, "alpha", &How { by: ("alpha", "tsa", "alpha-1.tsr"), ..How::default() });
    let failed = NotStamped {
        case: Some(case.id.clone()),
        predecessor: case.opened,
        authority: "beta".to_owned(),
        size: head.size,
        root: head.root,
        code: "unreachable".to_owned(),
        message: "no answer: connection refused".to_owned(),
        failed_at: case.now(),
    };
    case.sign(&failed, LOG);
    case.clock += how.ahead;
    let order = case.order(1, &[0], &["system", "files"], &|_| {});
    let collection = Case::collection(&order, 0);
    let built = small_stream(&case.id.clone(), &collection, &order, 0, 1).finish(&|_| {});
    case.put(&collection, 1, &built);
    let acquisition = case.acquire(&order, 0, 1, &built, &|_| {});
    let receipt = case.receipt(&order, 0, 1, Some(acquisition), &built, &|_| {});
    case.seal(&order, 0, Outcome::Sealed, None, &[(1, receipt, built.totals.items)], None, &|_| {});
    case.clock -= how.ahead;
    if !how.none {
        let head = case.head();
        stamp(&mut case, &head, "alpha", how);
        stamp(&mut case, &head, "beta", &How { by: ("beta", "tsa", "beta-2.tsr"), ..How::default() });
    }
    case.checkpoint();
    case
}

/// Size of the head that is stamped last.
pub fn last_size(objects: &Objects) -> u64 {
    objects.keys().rev().find_map(|n| n.strip_prefix("timestamps/")?.get(..10)?.parse().ok()).expect("stamped")
}

pub fn stamps(cases: &mut Vec<Tampered>) {
    let good = good_4(&How::default()).objects;
    let size = last_size(&good);
    let mut add = |name: &str, says: &str, edits: Vec<Edit>, codes: &[&str]| {
        cases.push(Tampered {
            name: name.to_owned(),
            says: says.to_owned(),
            base: "good-4".to_owned(),
            complete: false,
            expect: None,
            witnesses: Vec::new(),
            held: Vec::new(),
            timestamp_anchors: vec!["alpha".to_owned(), "beta".to_owned()],
            timestamps_required: 2,
            identities: Vec::new(),
            edits,
            codes: codes.iter().map(|c| (*c).to_owned()).collect(),
        });
    };
    let alpha: exhibit_evidence::layout::AuthorityName = "alpha".parse().expect("a name");
    let of = |file: TimestampFile| object(size, file);
    let flip = |object: String, at: i64| vec![Edit::Flip { object, at, with: 1 }];
    let (reply, request) = (of(TimestampFile::Reply(alpha.clone())), of(TimestampFile::Request(alpha.clone())));
    let (head, crl) = (of(TimestampFile::Checkpoint), of(TimestampFile::Crl(alpha.clone(), 0)));
    let at_time = good[&reply].windows(4).position(|w| w == b"2026").map_or(200, |at| at as i64 + 9);
    add("timestamp-flipped", "a digit of the time in a token", flip(reply.clone(), at_time), &["timestamp.altered", "timestamp.required"]);
    add("timestamp-request-flipped", "a byte of a request", flip(request, 40), &["timestamp.altered"]);
    add("timestamp-crl-flipped", "a byte of a revocation list", flip(crl, 60), &["timestamp.altered"]);
    add("timestamp-head-flipped", "a letter of a stamped head", flip(head.clone(), 3), &["timestamp.checkpoint", "timestamp.required"]);
    add("timestamp-gone", "a token that was removed", vec![Edit::Delete { object: reply }], &["timestamp.missing", "timestamp.required"]);
    let other = Checkpoint { root: Digest::of(b"another history"), ..Checkpoint::parse_unverified(&good[&head]).expect("a head") };
    let b64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, other.sign(&key(LOG)));
    add("timestamp-head-forked", "a stamped head of another history", vec![Edit::Put { object: head, b64 }], &["log.forked"]);
    let none = difference(&good, &good_4(&How { none: true, ..How::default() }).objects);
    add("timestamp-none-since", "nothing was stamped after the seal", none, &["timestamp.required"]);

    // With the log key: the records fit what lies there, and the authority did not say it.
    let mut lie = |name: &str, says: &str, codes: &[&str], how: How<'_>| add(name, says, difference(&good, &good_4(&how).objects), codes);
    let with = How::default;
    let cut_signature = |mut bytes: Vec<u8>| {
        *bytes.last_mut().expect("bytes") ^= 1;
        bytes
    };
    lie("timestamp-forged", "a token whose signature was altered", &["timestamp.signature"], How { reply: &cut_signature, ..with() });
    let at_time = |mut bytes: Vec<u8>| {
        let at = bytes.windows(4).position(|w| w == b"2026").expect("a time");
        bytes[at + 3] = b'5';
        bytes
    };
    lie("timestamp-backdated", "a token with the year before", &["timestamp.signature"], How { reply: &at_time, ..with() });
    let first = |_| read("tokens/alpha-1.tsr");
    lie("timestamp-of-another-head", "the token of an earlier head", &["timestamp.imprint"], How { reply: &first, ..with() });
    let nonce = |r: Request| Request { nonce: r.nonce ^ 1, ..r };
    lie("timestamp-another-nonce", "a token that answers another request", &["timestamp.nonce"], How { request: &nonce, ..with() });
    let garbage = |_| b"not DER".to_vec();
    lie("timestamp-garbage", "something else in a token's place", &["timestamp.malformed"], How { reply: &garbage, ..with() });
    let refusal = |_| vec![0x30, 0x05, 0x30, 0x03, 0x02, 0x01, 0x02];
    lie("timestamp-refusal", "a refusal in a token's place", &["timestamp.malformed"], How { reply: &refusal, ..with() });
    for (name, says, code, by) in [
        ("timestamp-untrusted", "a token of an authority that nobody named", "timestamp.untrusted", ("gamma", "tsa", "gamma.tsr")),
        ("timestamp-expired", "a token by a certificate that had expired before", "timestamp.validity", ("alpha", "old", "old.tsr")),
        ("timestamp-purpose", "a token by a certificate that is not for timestamps", "timestamp.purpose", ("alpha", "plain", "plain.tsr")),
        ("timestamp-revoked", "a token by a key that was stolen", "timestamp.revoked", ("alpha", "stolen", "stolen.tsr")),
    ] {
        lie(name, says, &[code, "timestamp.required"], How { by, ..with() });
    }
    let later = |p: &mut Stamped| p.time = p.time.plus_s(-3_600);
    lie(
        "timestamp-record-time",
        "a record that states another time than the token",
        &["timestamp.record"],
        How { record: &later, ..with() },
    );
    let nobodys = |p: &mut Stamped| p.case = None;
    lie("timestamp-of-no-case", "a record that names no case", &["record.wrong-case"], How { record: &nobodys, ..with() });
    let head = |p: &mut Stamped| p.root = Digest::of(b"another history");
    lie("timestamp-record-head", "a record of a head that this log never had", &["timestamp.record"], How { record: &head, ..with() });
}
