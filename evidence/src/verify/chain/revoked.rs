//! What rests on keys that were revoked: the place of a record in the log says what came after a revocation, whatever it says of its time.
//!
//! What such a key signs afterwards is not trusted at all ([`Code::RecordRevokedKey`]) and does not come here. Here is what it asked for,
//! or agreed to, before: who goes on with it afterwards does so although everybody could know.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::key::KeyId;
use crate::record::{Record, Verified};
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

/// The keys that this log revokes, and the orders and disposals that rest on keys: some 150 bytes each.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    /// With the place of the revocation.
    keys: BTreeMap<KeyId, u64>,
    asked: BTreeMap<Digest, Asked>,
}

impl Revoked {
    /// Takes the trusted record at place `n`.
    pub fn see(&mut self, object: &str, n: u64, verified: &Verified, findings: &mut Findings) {
        match verified.record() {
            Record::Revocation(p) => {
                self.keys.entry(p.key).or_insert(n);
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
