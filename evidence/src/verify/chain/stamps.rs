//! What the log says about timestamps: which head was stamped by whom, and what failed.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::record::{NotStamped, Record, Stamped};
use crate::text::escape_bounded;
use crate::time::Timestamp;
use crate::verify::{Code, Findings};

/// A token that is believed, and what it says about places in the log.
#[derive(Debug, Clone)]
pub(in crate::verify) struct Token {
    /// Records that it covers.
    pub size: u64,
    /// The place of its own record.
    pub record: Option<u64>,
    /// The root that it is believed under.
    pub anchor: Digest,
    /// Its time, less and plus the accuracy that it states.
    pub earliest: Timestamp,
    pub latest: Timestamp,
    pub object: String,
}

/// A failure that is recorded: where, and what it says.
#[derive(Debug)]
pub(in crate::verify) struct Failure {
    pub object: String,
    pub message: String,
}

/// What is recorded about timestamps.
#[derive(Debug, Default)]
pub(in crate::verify) struct Stamps {
    /// Size and authority, the place of the record and what it says.
    pub tokens: BTreeMap<(u64, String), (u64, Box<Stamped>)>,
    /// Size and authority of heads for which a token was asked for and none came.
    pub failed: BTreeMap<(u64, String), Failure>,
    /// For each authority the size that its last failure was about, unless a token came afterwards.
    pub failing: BTreeMap<String, u64>,
    /// Place of the last record that is to be stamped: neither an access nor about timestamps, nor, in a case, an enrolment.
    pub last: Option<u64>,
    /// It is the deployment's log, of which enrolments are the substance.
    deployment: bool,
}

impl Stamps {
    pub fn new(deployment: bool) -> Self {
        Self { deployment, ..Self::default() }
    }

    /// Takes a record about timestamps. `opened` is the record that it must follow from, if there is one.
    pub fn add(&mut self, object: &str, n: u64, record: &Record, opened: Option<Digest>, roots: &[Digest], findings: &mut Findings) {
        match record {
            Record::Stamped(p) => self.stamped(object, n, p, opened, roots, findings),
            Record::NotStamped(p) => self.failed(object, p, opened, roots, findings),
            _ => {}
        }
    }

    /// Takes notice of any record.
    pub fn see(&mut self, n: u64, record: &Record) {
        // An export writes an access, and the enrolment of who exports, right before it: no token can be over them yet.
        let is_key = matches!(record, Record::Enrolment(_)) && !self.deployment;
        if !is_key && !matches!(record, Record::Access(_) | Record::Stamped(_) | Record::NotStamped(_)) {
            self.last = Some(n);
        }
    }

    fn stamped(&mut self, object: &str, n: u64, p: &Stamped, opened: Option<Digest>, roots: &[Digest], findings: &mut Findings) {
        check_head(object, (p.predecessor, p.size, p.root), opened, roots, findings);
        self.failing.remove(&p.authority);
        let key = (p.size, p.authority.clone());
        if self.tokens.contains_key(&key) {
            let authority = escape_bounded(&p.authority, 40);
            let message = format!("a token of '{authority}' over the head of {} records is already recorded", p.size);
            findings.add(Code::TimestampRecord, object, message);
            return;
        }
        self.tokens.insert(key, (n, Box::new(p.clone())));
    }

    fn failed(&mut self, object: &str, p: &NotStamped, opened: Option<Digest>, roots: &[Digest], findings: &mut Findings) {
        check_head(object, (p.predecessor, p.size, p.root), opened, roots, findings);
        self.failing.insert(p.authority.clone(), p.size);
        let (authority, code, why) = (escape_bounded(&p.authority, 40), escape_bounded(&p.code, 40), escape_bounded(&p.message, 300));
        let message = format!("'{authority}' gave no token over the head of {} records by {}: {code}: {why}", p.size, p.failed_at);
        self.failed.insert((p.size, p.authority.clone()), Failure { object: object.to_owned(), message });
    }
}

/// The head is one that this log had before the record; `roots` ends with the root before it.
fn check_head(
    object: &str,
    (predecessor, size, root): (Digest, u64, Digest),
    opened: Option<Digest>,
    roots: &[Digest],
    findings: &mut Findings,
) {
    if usize::try_from(size).ok().filter(|n| *n > 0).and_then(|n| roots.get(n)) != Some(&root) {
        let message = format!("it names the head of {size} records with root {root}, which this log did not have before it");
        findings.add(Code::TimestampRecord, object, message);
    }
    if opened.is_some_and(|opened| opened != predecessor) {
        findings.add(
            Code::TimestampRecord,
            object,
            format!("it follows from record {predecessor}, which is not this log's first one or case-opened"),
        );
    }
}
