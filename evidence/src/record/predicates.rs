//! The predicates, version 1. Field by field in `docs/format/records.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Predicate, Subject};
use crate::age::Recipients;
use crate::digest::Digest;
use crate::id::{AgentId, CaseId, CollectionId, OrderId};
use crate::key::{KeyId, PublicKey};
use crate::layout::StreamNumber;
use crate::manifest::Status;
use crate::time::Timestamp;

fn about(name: &str, text: &str) -> Vec<Subject> {
    vec![Subject::new(name, Digest::of(text.as_bytes()))]
}

/// A case begins. Signed by a responder; the first record of its log after the keys it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseOpened {
    /// The case.
    pub case: CaseId,
    /// The deployment that holds it.
    pub deployment: String,
    /// A short name for people.
    pub title: String,
    /// The legal basis of the collection, in the words of the person responsible.
    pub legal_basis: String,
    /// The person who answers for the case.
    pub accountable: String,
    /// The responder who opened it (SPIFFE-style URI).
    pub opened_by: String,
    /// Clock of the opener.
    pub opened_at: Timestamp,
    /// No agent obeys an order of this case before a second person approved it; left out when one person is enough.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub two_person: bool,
    /// To whom agents encrypt the contents of evidence before they send it; left out when they do not.
    #[serde(default, skip_serializing_if = "Recipients::is_none")]
    pub encrypt_to: Recipients,
}

impl Predicate for CaseOpened {
    const TYPE: &'static str = "case-opened:v1";
    fn subjects(&self) -> Vec<Subject> {
        about("case", self.case.as_str())
    }
}

/// No further order is accepted for a case. Signed by a responder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseClosed {
    /// The case.
    pub case: CaseId,
    /// The `case-opened` record.
    pub predecessor: Digest,
    /// Why.
    pub reason: String,
    /// Who (SPIFFE-style URI).
    pub closed_by: String,
    /// Clock of the closer.
    pub closed_at: Timestamp,
}

impl Predicate for CaseClosed {
    const TYPE: &'static str = "case-closed:v1";
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::new("case-opened", self.predecessor)]
    }
}

/// A responder's instruction. Signed by the responder; the agent executes nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The order.
    pub order: OrderId,
    /// Its case.
    pub case: CaseId,
    /// The case's `case-opened` record.
    pub predecessor: Digest,
    /// The agents that are to execute it, each once.
    pub targets: Vec<AgentId>,
    /// The name of the profile that the captures came from, if they did.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What to capture.
    pub captures: Vec<CaptureSpec>,
    /// Limits for each collection.
    pub limits: Limits,
    /// The legal basis of this order, in the words of the person responsible: the case's, or a narrower one.
    pub legal_basis: String,
    /// Why this is collected.
    pub reason: String,
    /// The responder (SPIFFE-style URI).
    pub issued_by: String,
    /// Clock of the responder.
    pub issued_at: Timestamp,
    /// After this the order may not be begun.
    pub expires_at: Timestamp,
    /// The case log's newest checkpoint that the responder saw: nothing that carries it is older than it.
    pub nonce: Nonce,
}

impl Order {
    /// Most targets of one order, so that the envelope fits into a log entry: 1,000 x (31 + 3) x 4/3 = 45 KB.
    pub const TARGETS_MAX: usize = 1_000;
    /// Most captures of one order.
    pub const CAPTURES_MAX: usize = 64;
}

impl Predicate for Order {
    const TYPE: &'static str = "order:v1";
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::new("case-opened", self.predecessor)]
    }
}

/// A tree head that ties a record to a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nonce {
    /// Records in the tree.
    pub size: u64,
    /// Its RFC 6962 root.
    pub root: Digest,
}

/// One capture of an order: its name and parameters (`docs/operations/captures.md` lists them).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureSpec {
    /// `system`, `process`, `network`, `files`, `logs`.
    pub name: String,
    /// Parameters by name. A list is written with one entry per line (`\n`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
}

/// What a collection may use on its host. A missing value means the agent's own default from its policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Seconds from acceptance until the collection ends as partial.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
    /// Raw bytes that may be taken in all.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub raw_bytes_max: Option<u64>,
    /// Percent of one processor (200 = two processors).
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// Bytes per second read from files and devices.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub read_bytes_per_s: Option<u64>,
    /// Bytes per second sent to the coordinator.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub send_bytes_per_s: Option<u64>,
}

/// An agent's signed refusal of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// The collection that does not take place.
    pub collection: CollectionId,
    /// The agent.
    pub agent: AgentId,
    /// The order's envelope.
    pub predecessor: Digest,
    /// A stable word: `expired`, `not-a-target`, `bad-signature`, `not-authorized`, `not-approved`, `policy`, `replayed`, `clock`,
    /// `unsupported`, `malformed`.
    pub code: String,
    /// What the agent says about it.
    pub message: String,
    /// Clock of the agent.
    pub refused_at: Timestamp,
}

impl Predicate for Refusal {
    const TYPE: &'static str = "refusal:v1";
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::new("order", self.predecessor)]
    }
}

/// An agent's statement of what it took. Signed by the agent before it has any receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acquisition {
    /// The case.
    pub case: CaseId,
    /// The collection.
    pub collection: CollectionId,
    /// The stream.
    pub stream: StreamNumber,
    /// The agent.
    pub agent: AgentId,
    /// The order's envelope.
    pub predecessor: Digest,
    /// The order's nonce, repeated: this was signed after that tree head existed.
    pub nonce: Nonce,
    /// The host, as it describes itself.
    pub host: Host,
    /// The program that took it.
    pub tool: Tool,
    /// Clocks at the start.
    pub started: Clocks,
    /// Clocks at the end.
    pub ended: Clocks,
    /// True when every capture ran to its end; false when a limit, a deadline or a cancel cut the collection short.
    pub complete: bool,
    /// What cut it short.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The stream's manifest, which names every segment and item.
    pub manifest: ManifestRef,
    /// What the agent itself did to the host.
    pub footprint: Footprint,
}

impl Predicate for Acquisition {
    const TYPE: &'static str = "acquisition:v1";
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::new("manifest.jsonl", self.manifest.sha256)]
    }
}

/// A manifest by digest, with its totals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRef {
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// Segments it names.
    pub segments: u32,
    /// Bytes of all segments as stored.
    pub stored_bytes: u64,
    /// Bytes of the raw stream.
    pub raw_bytes: u64,
    /// Items it names.
    pub items: u64,
    /// Items per status.
    pub by_status: BTreeMap<Status, u64>,
}

/// A host, by its own claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// `uname -n`.
    pub hostname: String,
    /// /etc/machine-id.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// `uname -srvm`.
    pub kernel: String,
    /// PRETTY_NAME of /etc/os-release.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// What the firmware says of the machine (/sys/class/dmi/id), by the kernel's names: `sys_vendor`, `product_name`,
    /// `product_uuid`, `product_serial`, `board_asset_tag`, `chassis_asset_tag`. Clouds put their instance's id there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hardware: BTreeMap<String, String>,
    /// What the cloud said to the machine when it started, as cloud-init keeps it: `cloud_name`, `region`,
    /// `availability_zone`, `instance_id` and others of its standard names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cloud: BTreeMap<String, String>,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Name, e.g. `exhibit-agent`.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 of the running binary.
    pub sha256: Digest,
}

/// A host's clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clocks {
    /// Wall clock.
    pub wall: Timestamp,
    /// CLOCK_MONOTONIC_RAW, nanoseconds.
    pub mono_ns: u64,
    /// The coordinator's clock minus the host's, as the agent measured it (nanoseconds); absent when it did not.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub offset_ns: Option<i64>,
}

/// What the agent used and touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Footprint {
    /// The agent's process id.
    pub pid: u32,
    /// Highest resident memory in bytes.
    pub rss_peak_bytes: u64,
    /// Processor time, milliseconds.
    pub cpu_ms: u64,
    /// Programs that were run, with their arguments (fixed ones only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// Files that the agent wrote (its own state folder only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrote: Vec<String>,
}

/// The coordinator's statement that it verified and durably stored a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The case.
    pub case: CaseId,
    /// The collection.
    pub collection: CollectionId,
    /// The stream.
    pub stream: StreamNumber,
    /// The `acquisition` record, or the order where the agent never signed one.
    pub predecessor: Digest,
    /// False when the agent never signed for this stream: the coordinator alone vouches for what arrived.
    pub agent_signed: bool,
    /// True when the coordinator could not read the contents, which are encrypted to the case's recipients: it verified the
    /// segments as stored (size, SHA-256, order) and the rules that the manifest's lines keep by themselves, and nothing in
    /// the segments. Left out when it decoded and re-hashed everything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contents_unverified: bool,
    /// The manifest as the coordinator computed it.
    pub manifest: ManifestRef,
    /// First byte received (coordinator's clock).
    pub received_from: Timestamp,
    /// Last byte made durable (coordinator's clock).
    pub received_to: Timestamp,
}

impl Predicate for Receipt {
    const TYPE: &'static str = "receipt:v1";
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::new("manifest.jsonl", self.manifest.sha256)]
    }
}

/// How a collection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything that was ordered arrived or has a stated reason, and was verified.
    Sealed,
    /// What arrived was verified and kept; the rest is missing for `reason`.
    Partial,
    /// The agent refused.
    Refused,
    /// Nothing usable arrived.
    Failed,
    /// A responder cancelled it before anything arrived.
    Cancelled,
    /// The order expired before the agent began.
    Expired,
}

impl Outcome {
    /// The text used in records, on the wire and on screen.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Partial => "partial",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// Closes a collection. Signed by the coordinator; exactly one per collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// The case.
    pub case: CaseId,
    /// The collection.
    pub collection: CollectionId,
    /// The agent.
    pub agent: AgentId,
    /// The order's envelope.
    pub order: Digest,
    /// The last receipt, or the refusal, or the order: what this follows from.
    pub predecessor: Digest,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, whenever the outcome is not `sealed`.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Every stream of the collection that is kept, by its receipt.
    pub streams: Vec<SealedStream>,
    /// Exhibit number of the first item; the others follow in the order of streams and manifest lines. Numbers of a
    /// case begin at 1 and have no holes.
    pub exhibit_first: u64,
    /// How many exhibit numbers are used: the items of all streams.
    pub exhibit_count: u64,
    /// Coordinator's clock.
    pub sealed_at: Timestamp,
}

impl Predicate for Seal {
    const TYPE: &'static str = "seal:v1";
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::new("predecessor", self.predecessor)]
    }
}

/// A stream that a seal keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedStream {
    /// The stream.
    pub stream: StreamNumber,
    /// Its `receipt` record.
    pub receipt: Digest,
}

/// Something that must not happen was noticed. Signed by the coordinator; in the log of the case that it concerns, else in
/// that of the deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incident {
    /// The deployment.
    pub deployment: String,
    /// The case that it concerns.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub case: Option<CaseId>,
    /// A stable word, e.g. `duplicate-identity`, `false-upload`, `store-damaged`.
    pub kind: String,
    /// Whom or what it is about: an id, or a place.
    pub about: String,
    /// The newest of them in words.
    pub detail: String,
    /// How many of this kind about this were noticed in that time; at least 1.
    pub count: u64,
    /// When the first of them was (coordinator's clock).
    pub first_at: Timestamp,
    /// When the last of them was (coordinator's clock).
    pub last_at: Timestamp,
}

impl Predicate for Incident {
    const TYPE: &'static str = "incident:v1";
    fn subjects(&self) -> Vec<Subject> {
        about("about", &self.about)
    }
}

/// What a key may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// May enrol agents. Held by the coordinator.
    Issuer,
    /// Signs checkpoints, receipts, seals and access records. Held by the coordinator.
    Log,
    /// May enrol people.
    Admin,
    /// Opens cases and signs orders.
    Responder,
    /// Signs approvals.
    Approver,
    /// Keeps evidence: holds, retention, transfer, disposal.
    Custodian,
    /// Reads the log.
    Auditor,
    /// Signs acquisitions and refusals of one agent.
    Agent,
}

/// A key gets a name and roles. Signed by the root, by an issuer (agents only) or by an admin (people only).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// The deployment.
    pub deployment: String,
    /// Who holds the key (SPIFFE-style URI): `spiffe://<deployment>/agent/<agent id>`, `/responder/<name>`, `/coordinator/<part>`.
    pub name: String,
    /// The evidence key.
    pub key: PublicKey,
    /// What it may sign.
    pub roles: Vec<Role>,
    /// The cases in which a person has these roles; absent for every case. A further enrolment of the same key under the same
    /// name adds to what it has; only a revocation takes away.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub cases: Option<Vec<CaseId>>,
    /// The predecessor: the enrolment of the key that signs this one; absent when the root signs.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<Digest>,
    /// How the holder proved who it is: `init`, `token`, `admin`, `recovery`.
    pub method: String,
    /// Clock of the signer.
    pub enrolled_at: Timestamp,
}

impl Enrolment {
    /// Most cases of one enrolment: 200 x 34 bytes x 4/3 = 9 KB of a log entry.
    pub const CASES_MAX: usize = 200;

    /// True when the roles hold in this case.
    #[must_use]
    pub fn holds_in(&self, case: &CaseId) -> bool {
        self.cases.as_ref().is_none_or(|cases| cases.contains(case))
    }
}

impl Predicate for Enrolment {
    const TYPE: &'static str = "enrolment:v1";
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::new(self.name.clone(), self.key.id())]
    }
}

/// A key must not be trusted for anything logged after this. Signed by the root, an issuer or an admin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// The deployment.
    pub deployment: String,
    /// The key.
    pub key: KeyId,
    /// Its enrolment.
    pub predecessor: Digest,
    /// Why.
    pub reason: String,
    /// Clock of the signer.
    pub revoked_at: Timestamp,
}

impl Predicate for Revocation {
    const TYPE: &'static str = "revocation:v1";
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::new("key", self.key)]
    }
}
