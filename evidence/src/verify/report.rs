//! What a verification returns: the verdict, what was checked, and the findings.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::Findings;
use crate::age::{Recipient, Recipients};
use crate::bag::View;
use crate::digest::Digest;
use crate::id::{AgentId, CaseId, CollectionId};
use crate::manifest::Status;
use crate::record::Outcome;
use crate::time::Timestamp;

/// The result in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything that is claimed was checked and holds; there may be notes.
    Sound,
    /// The same of what shows without a recipient's key. There is evidence whose contents were not checked, because they are
    /// encrypted and no recipient's identity was given.
    SoundAsFarAsReadable,
    /// There is at least one error or warning.
    Unsound,
}

impl Verdict {
    /// The text used in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::SoundAsFarAsReadable => "sound-as-far-as-readable",
            Self::Unsound => "unsound",
        }
    }

    /// True when nothing speaks against the case; contents that are encrypted may not have been checked.
    #[must_use]
    pub const fn is_sound(self) -> bool {
        !matches!(self, Self::Unsound)
    }
}

/// Everything that a verification found out. All texts in it come from verified records but were chosen by people and
/// hosts: escape them before showing them.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The result.
    pub verdict: Verdict,
    /// The bag that the case came in, if it did and says what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bag: Option<BagSummary>,
    /// The case, from its verified case-opened record.
    pub case: Option<CaseSummary>,
    /// What was verified is the deployment's own log.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deployment_log: bool,
    /// There is evidence whose contents are encrypted, and no recipient's identity was given.
    #[serde(skip)]
    pub unread: bool,
    /// The recipients with whose identities all contents of an encrypted case were opened, as far as its segments are there. Whose
    /// identity failed at a segment is not among them, and what those can open whose identity was not given is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub opened_with: Vec<Recipient>,
    /// The deployment that the anchor names.
    pub deployment: String,
    /// The verified head of the history.
    pub checkpoint: Option<Head>,
    /// For each witness that was asked for the newest head that it vouches for and that is of this history, or continues it, if any.
    pub witnesses: Vec<Witnessed>,
    /// Every timestamp in the case whose token could be read, by size and authority.
    pub timestamps: Vec<TimestampSummary>,
    /// What shows by when the last records were there; absent where no root was given, and where nothing is to be stamped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_stamped: Option<LastStamped>,
    /// Every collection that an order of the case asked for, in the order of exhibit numbers; those without come last.
    pub collections: Vec<CollectionSummary>,
    /// What was read.
    pub counts: Counts,
    /// What was found.
    #[serde(flatten)]
    pub findings: Findings,
}

/// What a bag says about itself, and what was read of it.
#[derive(Debug, Clone, Serialize)]
pub struct BagSummary {
    /// Who signed for it.
    pub exported_by: String,
    /// When, by that person's clock.
    pub exported_at: Timestamp,
    /// Why.
    pub reason: String,
    /// The key that signs.
    pub key: Digest,
    /// True when that key's signature holds and the key may sign a handoff.
    pub signed: bool,
    /// Collections that were left out by choice.
    pub left_out: Vec<CollectionId>,
    /// Timestamps over its tag manifest whose token could be read, by authority.
    pub timestamps: Vec<TimestampSummary>,
    /// Files of the payload that the manifests name.
    pub payload_files: u64,
    /// Other files that the tag manifest names.
    pub tag_files: u64,
    /// What was made of the case, by the bag's own word; absent where it does not say, so that nothing of it can be missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<Vec<View>>,
}

/// What the case is.
#[derive(Debug, Clone, Serialize)]
pub struct CaseSummary {
    /// The case.
    pub id: CaseId,
    /// Its short name.
    pub title: String,
    /// The legal basis.
    pub legal_basis: String,
    /// Who answers for it.
    pub accountable: String,
    /// Who opened it.
    pub opened_by: String,
    /// When, by the opener's clock.
    pub opened_at: Timestamp,
    /// When it was closed, by the closer's clock.
    pub closed_at: Option<Timestamp>,
    /// Each order needs a second person's approval.
    pub two_person: bool,
    /// To whom the contents of its evidence are encrypted.
    #[serde(skip_serializing_if = "Recipients::is_none")]
    pub encrypt_to: Recipients,
}

/// A tree head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Head {
    /// Records.
    pub size: u64,
    /// Merkle root.
    pub root: Digest,
    /// The log key that signed it.
    pub key: Digest,
}

/// What a witness vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Witnessed {
    /// The witness's name.
    pub witness: String,
    /// Records of the newest head of this history that it cosigned, or of a later one that is proved to continue it; absent when
    /// there is none.
    pub size: Option<u64>,
    /// When it did, by its clock.
    pub at: Option<Timestamp>,
}

/// A timestamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimestampSummary {
    /// The object with the reply.
    pub object: String,
    /// The name that the deployment gave the authority.
    pub authority: String,
    /// Records of the head that it covers.
    pub size: u64,
    /// The place of the `timestamp` record; absent when none speaks of it.
    pub record: Option<u64>,
    /// The token's time.
    pub time: Timestamp,
    /// By how much it may be off, in nanoseconds, where the token says so.
    pub accuracy_ns: Option<u64>,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Policy, dotted numbers.
    pub policy: String,
    /// Whom it is believed under; absent when it is not, or when no root was given.
    pub trust: Option<TimestampTrust>,
}

/// Why a timestamp is believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimestampTrust {
    /// SHA-256 of the root certificate that was given.
    pub anchor: Digest,
    /// The name in the authority's certificate.
    pub signer: String,
    /// First and last moment of that certificate; it is judged at the token's time.
    pub valid: [Timestamp; 2],
    /// When the newest CRL of its issuer was made that was looked at; absent when there was none and nothing was checked.
    pub crl_made: Option<Timestamp>,
}

/// A moment that a trusted timestamp gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// The moment, with the accuracy that the token states already counted.
    pub at: Timestamp,
    /// The object with the token.
    pub object: String,
}

/// What trusted timestamps say of the last records, and so of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastStamped {
    /// The last record that is no access, no enrolment and not about timestamps.
    pub record: u64,
    /// For each root above a token that covers it the earliest one; of a bag its own timestamps count too. Empty when there is none.
    pub by: Vec<Bound>,
}

/// Between which moments a collection lies, by trusted timestamps alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sandwich {
    /// Its acquisitions were signed after this: they repeat a head that holds the record of this token.
    pub not_before: Option<Bound>,
    /// Its acquisitions were signed, and so all was read, before this.
    pub acquired_before: Option<Bound>,
    /// It was sealed before this.
    pub sealed_before: Option<Bound>,
}

/// The end of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Disposed {
    /// When, by the coordinator's clock.
    pub at: Timestamp,
    /// The `destruction` record.
    pub certificate: Digest,
}

/// One collection.
#[derive(Debug, Clone, Serialize)]
pub struct CollectionSummary {
    /// The collection.
    pub id: CollectionId,
    /// The agent.
    pub agent: AgentId,
    /// The order's envelope.
    pub order: Digest,
    /// The host's name as it described itself in its signed acquisition; cut to 100 characters and escaped.
    pub host: Option<String>,
    /// How it ended; absent while it is open.
    pub outcome: Option<Outcome>,
    /// True when its order needs an approval and has none, so that nothing of it runs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unapproved: bool,
    /// Why, where the outcome is not `sealed`; cut to 300 characters and escaped.
    pub reason: Option<String>,
    /// When it was sealed, by the coordinator's clock.
    pub sealed_at: Option<Timestamp>,
    /// Trusted time.
    pub trusted_time: Sandwich,
    /// First and last exhibit number.
    pub exhibits: Option<[u64; 2]>,
    /// True when its evidence is not in this copy by choice.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub left_out: bool,
    /// Streams that were verified.
    pub streams: u32,
    /// Items in their manifests.
    pub items: u64,
    /// Items whose content was compared with the stream and is what was signed, or whose record holds by itself where there
    /// is no content.
    pub items_verified: u64,
    /// Items whose content was not checked because it is encrypted and no recipient's identity was given.
    #[serde(skip_serializing_if = "is_zero")]
    pub items_unchecked: u64,
    /// Raw bytes of segments that were not decrypted, as their manifests state them; they are not among those read.
    #[serde(skip_serializing_if = "is_zero")]
    pub raw_bytes_unread: u64,
    /// Items of streams that the agent never signed: that they left the host like this is the coordinator's word alone.
    pub items_unsigned: u64,
    /// Items by how they were taken.
    pub by_status: BTreeMap<Status, u64>,
    /// Raw (decompressed) bytes read.
    pub raw_bytes: u64,
    /// Stored bytes read.
    pub stored_bytes: u64,
    /// When it was destroyed and by which certificate; absent while it is kept, and where nothing of it was ever received. Its items are
    /// then not verified.
    pub disposed: Option<Disposed>,
}

/// What was read in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Records of the log, those that are missing included.
    pub records: u64,
    /// Records whose signature and signer were verified.
    pub records_verified: u64,
    /// Streams read.
    pub streams: u64,
    /// Segments read.
    pub segments: u64,
    /// Items read from manifests.
    pub items: u64,
    /// Items that were found good: see [`CollectionSummary::items_verified`].
    pub items_verified: u64,
    /// Items whose content was not checked: see [`CollectionSummary::items_unchecked`].
    #[serde(skip_serializing_if = "is_zero")]
    pub items_unchecked: u64,
    /// Raw bytes that were not decrypted: see [`CollectionSummary::raw_bytes_unread`].
    #[serde(skip_serializing_if = "is_zero")]
    pub raw_bytes_unread: u64,
    /// Raw (decompressed) bytes read.
    pub raw_bytes: u64,
    /// Bytes of segments as stored.
    pub stored_bytes: u64,
    /// Objects in the case folder.
    pub objects: u64,
    /// Tiles of the log among them; they follow from the records, so that a copy may have none.
    pub tiles: u64,
    /// Requests for timestamps among them that no authority answered, as `timestamp-failed` records say.
    #[serde(skip_serializing_if = "is_zero")]
    pub requests_unanswered: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Serialize for Findings {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let (errors, warnings, notes) = self.counts();
        let mut map = s.serialize_map(Some(5))?;
        map.serialize_entry("errors", &errors)?;
        map.serialize_entry("warnings", &warnings)?;
        map.serialize_entry("notes", &notes)?;
        map.serialize_entry("findings", self.kept())?;
        map.serialize_entry("findings_left_out", &self.left_out())?;
        map.end()
    }
}
