//! What is done with evidence after it was taken: access, hold, retention, transfer, disposal. Version 1.
//! Field by field in `docs/format/records.md`; what these records do to each other is in [`crate::custody`].

use serde::{Deserialize, Serialize};

use super::{Predicate, Subject};
use crate::digest::Digest;
use crate::id::{CaseId, CollectionId};
use crate::time::Timestamp;

/// Longest reason of a record of this module, bytes; the shortest has one that is not white space.
pub const REASON_BYTES_MAX: usize = 1_024;

/// What somebody is about to do with evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// See what there is: names and facts of items, no content.
    List,
    /// Look at content on a screen.
    View,
    /// Take a copy of items away.
    Download,
    /// Take the case away as a package.
    Export,
    /// Read it to check it.
    Verify,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::List, Self::View, Self::Download, Self::Export, Self::Verify];

    /// The text used in records, on the wire and on screen.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::View => "view",
            Self::Download => "download",
            Self::Export => "export",
            Self::Verify => "verify",
        }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Action {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|a| a.as_str() == text)
            .ok_or_else(|| format!("'{}': expected list, view, download, export or verify", crate::text::escape_bounded(text, 40)))
    }
}

/// The roles of which one is needed in a case to read its evidence. An auditor reads its log and no evidence.
pub const READERS: [super::Role; 2] = [super::Role::Responder, super::Role::Custodian];

/// Somebody is about to read evidence. Signed by the coordinator, and in a published checkpoint before the first byte is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// The case.
    pub case: CaseId,
    /// The `case-opened` record.
    pub predecessor: Digest,
    /// Who (SPIFFE-style URI of the authenticated peer).
    pub by: String,
    /// What for.
    pub action: Action,
    /// The items, as item ids; collection ids for a list, an export or a verification.
    pub what: Vec<String>,
    /// Why, in that person's words.
    pub reason: String,
    /// Coordinator's clock.
    pub at: Timestamp,
}

/// Evidence must not be destroyed until this is released. Signed by a custodian or a responder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The case.
    pub case: CaseId,
    /// The `case-opened` record.
    pub predecessor: Digest,
    /// Only these collections; absent for the whole case, with what is still to come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collections: Vec<CollectionId>,
    /// Of a hold on the whole case: the collections that it comes too late for, because their destruction is approved and not
    /// certified. All of them, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub too_late: Vec<CollectionId>,
    /// Why.
    pub reason: String,
    /// Who (SPIFFE-style URI).
    pub placed_by: String,
    /// Clock of that person.
    pub placed_at: Timestamp,
}

/// A hold ends. Signed by a custodian.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldReleased {
    /// The case.
    pub case: CaseId,
    /// The `hold` record.
    pub predecessor: Digest,
    /// Why.
    pub reason: String,
    /// Who (SPIFFE-style URI).
    pub released_by: String,
    /// Clock of that person.
    pub released_at: Timestamp,
}

/// The case must be kept at least until a moment. It can be moved later, never earlier. Signed by a custodian.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The case.
    pub case: CaseId,
    /// The newest `retention` record; `case-opened` for the first.
    pub predecessor: Digest,
    /// Nothing of the case may be destroyed before.
    pub until: Timestamp,
    /// Why so long.
    pub reason: String,
    /// Who (SPIFFE-style URI).
    pub set_by: String,
    /// Clock of that person.
    pub set_at: Timestamp,
}

/// A custodian offers the custody of a case to another one; it stays with the first until that one accepts. A newer offer
/// takes the place of an older one. Signed by who gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The case.
    pub case: CaseId,
    /// The newest `transfer` record; `case-opened` before the first.
    pub predecessor: Digest,
    /// Who is to receive it (SPIFFE-style URI).
    pub to: String,
    /// Why.
    pub reason: String,
    /// Who gives (SPIFFE-style URI).
    pub released_by: String,
    /// Clock of that person.
    pub released_at: Timestamp,
}

/// Custody of a case has passed on. Signed by who receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// The case.
    pub case: CaseId,
    /// The `release` record that is accepted.
    pub predecessor: Digest,
    /// What the receiver found, in his own words: that it was verified, with which head.
    pub reason: String,
    /// Who receives (SPIFFE-style URI).
    pub received_by: String,
    /// Clock of that person.
    pub received_at: Timestamp,
}

/// A request to destroy collections. It does nothing until a second person approves it. Signed by the custodian.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disposal {
    /// The case.
    pub case: CaseId,
    /// The `case-opened` record.
    pub predecessor: Digest,
    /// What is to be destroyed, ascending by collection, each once.
    pub seals: Vec<SealedCollection>,
    /// Why, and on whose authority.
    pub reason: String,
    /// Who (SPIFFE-style URI).
    pub requested_by: String,
    /// Clock of that person.
    pub requested_at: Timestamp,
}

impl Disposal {
    /// Most collections of one request, so that the envelope fits into a log entry: 300 x 150 bytes x 4/3 = 60 KB.
    pub const SEALS_MAX: usize = 300;
}

/// A collection by its seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedCollection {
    /// The collection.
    pub collection: CollectionId,
    /// Its `seal` record.
    pub seal: Digest,
}

/// A second person agrees to what a record asks for. Signed by an approver who is not the one who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// The case.
    pub case: CaseId,
    /// The record that is approved: a `disposal`, or an `order` of a case that was opened for two persons.
    pub predecessor: Digest,
    /// Why.
    pub reason: String,
    /// Who (SPIFFE-style URI).
    pub approved_by: String,
    /// Clock of that person.
    pub approved_at: Timestamp,
}

/// Collections were destroyed: the certificate of a disposal. Signed by the coordinator after nothing of them was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destruction {
    /// The case.
    pub case: CaseId,
    /// The `approval` record.
    pub predecessor: Digest,
    /// The `disposal` record.
    pub disposal: Digest,
    /// What was destroyed, in the order of the disposal.
    pub collections: Vec<DestroyedCollection>,
    /// Coordinator's clock.
    pub destroyed_at: Timestamp,
}

/// What there was of a collection before it was destroyed, by its receipts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyedCollection {
    /// The collection.
    pub collection: CollectionId,
    /// Segments and manifests.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

macro_rules! follows {
    ($($record:ident $name:literal $subject:literal)*) => {
        $(impl Predicate for $record {
            const TYPE: &'static str = $name;
            fn subjects(&self) -> Vec<Subject> {
                vec![Subject::new($subject, self.predecessor)]
            }
        })*
    };
}

follows! {
    Access "access:v1" "case-opened"
    Hold "hold:v1" "case-opened"
    HoldReleased "hold-released:v1" "hold"
    Retention "retention:v1" "predecessor"
    Release "release:v1" "predecessor"
    Transfer "transfer:v1" "release"
    Disposal "disposal:v1" "case-opened"
    Approval "approval:v1" "approved"
    Destruction "destruction:v1" "approval"
}
