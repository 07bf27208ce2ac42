//! What rests on keys that were revoked: the place of a record in the log says what came after a revocation, whatever it says of its time.
//!
//! What such a key signs afterwards is not trusted at all ([`Code::RecordRevokedKey`]) and does not come here. Here is what it asked for,
//! or agreed to, before: who goes on with it afterwards does so although everybody could know.

use std::collections::BTreeMap;

use super::SLACK_S;
use crate::digest::Digest;
use crate::key::KeyId;
use crate::record::{Record, Revocation, Verified};
use crate::time::Timestamp;
use crate::verify::{Code, Findings};

/// An order or a disposal.
#[derive(Debug)]
struct Asked {
    what: &'static str,
    key: KeyId,
    /// The key of the first approval.
    approved: Option<KeyId>,
    /// Reported once.
    told: bool,
}

/// What a person's key signed.
#[derive(Debug)]
struct Signed {
    object: Box<str>,
    kind: &'static str,
    /// When, by the record's own words.
    at: Timestamp,
}

/// The keys that this log revokes, what people's keys signed, and the orders and disposals that rest on keys: some 150 bytes each.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    /// With the place of the revocation.
    keys: BTreeMap<KeyId, u64>,
    /// By the keys of people that this log has not revoked so far.
    signed: BTreeMap<KeyId, Vec<Signed>>,
    asked: BTreeMap<Digest, Asked>,
}

impl Revoked {
    /// Takes the trusted record at place `n`.
    pub fn see(&mut self, object: &str, n: u64, verified: &Verified, findings: &mut Findings) {
        if let Some(at) = signed_at(verified.record()) {
            let signed = Signed { object: object.into(), kind: verified.record().type_name(), at };
            self.signed.entry(verified.keyid()).or_default().push(signed);
        }
        match verified.record() {
            Record::Revocation(p) => {
                self.keys.entry(p.key).or_insert(n);
                self.signed_later(n, p, findings);
            }
            Record::Order(_) => self.asks(verified, "order"),
            Record::Disposal(_) => self.asks(verified, "disposal"),
            Record::Approval(p) => self.approves(object, &p.predecessor, verified.keyid(), findings),
            Record::Acquisition(p) => self.rests(object, "acquisition", &p.predecessor, findings),
            // That of a stream which no agent signed follows from the order itself.
            Record::Receipt(p) => self.rests(object, "receipt", &p.predecessor, findings),
            Record::Destruction(p) => self.rests(object, "certificate of destruction", &p.disposal, findings),
            _ => {}
        }
    }

    /// A revocation may stand in this log long after it was given. What stands before it and was signed before it is as good as ever; what
    /// says of itself that it was signed later is told.
    fn signed_later(&mut self, n: u64, p: &Revocation, findings: &mut Findings) {
        for signed in self.signed.remove(&p.key).unwrap_or_default() {
            if signed.at > p.revoked_at.plus_s(SLACK_S) {
                let kind = signed.kind.split(':').next().unwrap_or_default();
                let message = format!(
                    "the {kind} record is dated {} and signed by key {}, which was revoked at {} by record {n}, further down",
                    signed.at, p.key, p.revoked_at
                );
                findings.add(Code::RecordAfterRevocation, &signed.object, message);
            }
        }
    }

    /// The key that signed an order or a disposal, and the place of its revocation, if this log has one.
    pub fn signer_of(&self, asked: &Digest) -> Option<(KeyId, u64)> {
        let key = self.asked.get(asked)?.key;
        self.keys.get(&key).map(|at| (key, *at))
    }

    fn asks(&mut self, verified: &Verified, what: &'static str) {
        let asked = Asked { what, key: verified.keyid(), approved: None, told: false };
        self.asked.entry(verified.digest()).or_insert(asked);
    }

    fn approves(&mut self, object: &str, approved: &Digest, by: KeyId, findings: &mut Findings) {
        let Some(asked) = self.asked.get_mut(approved) else { return };
        if let Some(at) = self.keys.get(&asked.key) {
            let (what, key) = (asked.what, asked.key);
            asked.told = true;
            let message = format!("the {what} that it approves was signed by key {key}, which record {at} revoked before");
            findings.add(Code::ApprovalRevokedKey, object, message);
        }
        asked.approved.get_or_insert(by);
    }

    fn rests(&mut self, object: &str, what: &str, on: &Digest, findings: &mut Findings) {
        let Some(asked) = self.asked.get_mut(on).filter(|asked| !asked.told) else { return };
        let keys = [(Some(asked.key), "signed"), (asked.approved, "approved")];
        let revoked = keys.into_iter().find_map(|(key, did)| Some((key?, did, self.keys.get(&key?)?)));
        let Some((key, did, at)) = revoked else { return };
        asked.told = true;
        let message = format!("the {} that this {what} rests on was {did} by key {key}, which record {at} revoked before", asked.what);
        findings.add(Code::ChainRevokedKey, object, message);
    }
}

/// When a person signed a record, by its own words; `None` for what programs sign.
fn signed_at(record: &Record) -> Option<Timestamp> {
    Some(match record {
        Record::CaseOpened(p) => p.opened_at,
        Record::CaseClosed(p) => p.closed_at,
        Record::Order(p) => p.issued_at,
        Record::Hold(p) => p.placed_at,
        Record::HoldReleased(p) => p.released_at,
        Record::Retention(p) => p.set_at,
        Record::Release(p) => p.released_at,
        Record::Transfer(p) => p.received_at,
        Record::Disposal(p) => p.requested_at,
        Record::Approval(p) => p.approved_at,
        Record::Enrolment(p) => p.enrolled_at,
        Record::Revocation(p) => p.revoked_at,
        _ => return None,
    })
}
