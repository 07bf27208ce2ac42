//! What is recorded about trusted time. Field by field in `docs/format/records.md`.

use serde::{Deserialize, Serialize};

use super::{Predicate, Subject};
use crate::digest::Digest;
use crate::id::CaseId;
use crate::time::Timestamp;

/// A timestamp authority stamped a head of this log, and the coordinator verified the token. Signed by the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamped {
    /// The case; absent in the deployment's log.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub case: Option<CaseId>,
    /// The `case-opened` record; in the deployment's log its first record.
    pub predecessor: Digest,
    /// The authority, by the name that its objects have.
    pub authority: String,
    /// Records in the head that was stamped.
    pub size: u64,
    /// Its root.
    pub root: Digest,
    /// SHA-256 of `timestamps/<size>.checkpoint`: what the token is over.
    pub checkpoint: Digest,
    /// SHA-256 of the request.
    pub request: Digest,
    /// SHA-256 of the reply.
    pub reply: Digest,
    /// SHA-256 of each CRL that was fetched then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crls: Vec<Digest>,
    /// Why a CRL that should have been fetched was not.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub crl_problem: Option<String>,
    /// The token's time.
    pub time: Timestamp,
    /// The token's serial number, hexadecimal.
    pub serial: String,
    /// Coordinator's clock.
    pub received_at: Timestamp,
}

impl Predicate for Stamped {
    const TYPE: &'static str = "timestamp:v1";
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::new("checkpoint", self.checkpoint)]
    }
}

/// A timestamp authority gave no token for a head of this log that could be kept. Signed by the coordinator; it is logged
/// once for each head and authority, however often it is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotStamped {
    /// The case; absent in the deployment's log.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub case: Option<CaseId>,
    /// The `case-opened` record; in the deployment's log its first record.
    pub predecessor: Digest,
    /// The authority.
    pub authority: String,
    /// Records in the head that was to be stamped.
    pub size: u64,
    /// Its root.
    pub root: Digest,
    /// A stable word: `unreachable`, `malformed`, `refused`, `imprint`, `nonce`, `signature`, `purpose`, `validity`,
    /// `untrusted`, `revoked`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// Coordinator's clock.
    pub failed_at: Timestamp,
}

impl Predicate for NotStamped {
    const TYPE: &'static str = "timestamp-failed:v1";
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::new("case-opened", self.predecessor)]
    }
}
