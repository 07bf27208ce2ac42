//! Records: signed statements in a custody log. A record is a DSSE envelope around an in-toto Statement v1 whose
//! predicate is one of ours; `predicateType` names it and its version. Version 1 of a predicate never changes.

mod custody;
mod predicates;
mod stamped;
mod trust;

pub use custody::*;
pub use predicates::*;
pub use stamped::{NotStamped, Stamped};
pub use trust::{KeyRing, Rights, TrustError, Verified, roles_to_sign};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::dsse::{BadEnvelope, Envelope};
use crate::key::SigningKey;

/// `_type` of an in-toto Statement v1.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// Start of every predicate type of ours; followed by the name and version, e.g. `order:v1`.
pub const PREDICATE_PREFIX: &str = "urn:exhibit:record:";

/// A kind of record.
pub trait Predicate: Serialize + for<'de> Deserialize<'de> {
    /// The predicate type without [`PREDICATE_PREFIX`].
    const TYPE: &'static str;
    /// What the record is about: in-toto subjects.
    fn subjects(&self) -> Vec<Subject>;
}

/// An in-toto subject: a name and its digests by algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Name of the thing.
    pub name: String,
    /// Always one entry, `sha256`.
    pub digest: BTreeMap<String, Digest>,
}

impl Subject {
    /// A subject with a SHA-256.
    #[must_use]
    pub fn new(name: impl Into<String>, sha256: Digest) -> Self {
        Self { name: name.into(), digest: BTreeMap::from([("sha256".to_owned(), sha256)]) }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement<P> {
    #[serde(rename = "_type")]
    statement_type: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: P,
}

/// Why a payload is not a record of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// The JSON does not have the statement's shape or the predicate's fields.
    #[error("not a record: {0}")]
    Malformed(String),
    /// A predicate type that this version does not know.
    #[error("unknown record type '{0}': a newer program may read it")]
    UnknownType(String),
}

/// Signs a predicate into an envelope.
///
/// # Errors
/// [`BadEnvelope`] when the record would be too large for the log.
pub fn sign<P: Predicate>(predicate: &P, key: &SigningKey) -> Result<Envelope, BadEnvelope> {
    let statement = Statement {
        statement_type: STATEMENT_TYPE.to_owned(),
        subject: predicate.subjects(),
        predicate_type: format!("{PREDICATE_PREFIX}{}", P::TYPE),
        predicate,
    };
    let payload = serde_json::to_vec(&statement).map_err(|e| BadEnvelope::Malformed(e.to_string()))?;
    Envelope::sign(payload, key)
}

fn decode<P: Predicate>(payload: &[u8]) -> Result<P, BadRecord> {
    let statement: Statement<P> = serde_json::from_slice(payload).map_err(|e| BadRecord::Malformed(e.to_string()))?;
    crate::json::objects_are_objects(payload, &statement).map_err(BadRecord::Malformed)?;
    if statement.statement_type != STATEMENT_TYPE {
        return Err(BadRecord::Malformed("_type is not an in-toto Statement v1".to_owned()));
    }
    if statement.subject != statement.predicate.subjects() {
        return Err(BadRecord::Malformed("the subjects do not follow from the predicate".to_owned()));
    }
    Ok(statement.predicate)
}

macro_rules! records {
    ($($variant:ident),* $(,)?) => {
        /// Any record of version 1.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each variant is documented on its predicate type")]
        pub enum Record { $($variant(Box<$variant>)),* }

        impl Record {
            /// The types of all records of version 1; each has a schema in `docs/format/schemas`.
            pub const TYPES: &'static [&'static str] = &[$(<$variant as Predicate>::TYPE),*];

            /// Reads a statement; the caller has verified the signature or only shows the result.
            ///
            /// # Errors
            /// [`BadRecord`] when it is not a record of a known type.
            pub fn from_payload(payload: &[u8]) -> Result<Self, BadRecord> {
                #[derive(Deserialize)]
                struct Peek {
                    #[serde(rename = "predicateType")]
                    predicate_type: String,
                }
                let peek: Peek = serde_json::from_slice(payload).map_err(|e| BadRecord::Malformed(e.to_string()))?;
                let name = peek.predicate_type.strip_prefix(PREDICATE_PREFIX).unwrap_or_default();
                $(if name == <$variant as Predicate>::TYPE { return Ok(Self::$variant(Box::new(decode(payload)?))); })*
                Err(BadRecord::UnknownType(crate::text::escape_bounded(&peek.predicate_type, 80)))
            }

            /// The record's type and version, e.g. `order:v1`.
            #[must_use]
            pub const fn type_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => <$variant as Predicate>::TYPE),* }
            }
        }

        $(impl From<$variant> for Record { fn from(p: $variant) -> Self { Self::$variant(Box::new(p)) } })*
    };
}

records!(
    CaseOpened,
    CaseClosed,
    Order,
    Refusal,
    Acquisition,
    Receipt,
    Seal,
    Access,
    Incident,
    Hold,
    HoldReleased,
    Retention,
    Release,
    Transfer,
    Disposal,
    Approval,
    Destruction,
    Enrolment,
    Revocation,
    Stamped,
    NotStamped,
);

impl Record {
    /// The case that a record names; `None` where it names none.
    #[must_use]
    pub const fn case(&self) -> Option<&crate::id::CaseId> {
        Some(match self {
            Self::CaseOpened(p) => &p.case,
            Self::CaseClosed(p) => &p.case,
            Self::Order(p) => &p.case,
            Self::Acquisition(p) => &p.case,
            Self::Receipt(p) => &p.case,
            Self::Seal(p) => &p.case,
            Self::Access(p) => &p.case,
            Self::Hold(p) => &p.case,
            Self::HoldReleased(p) => &p.case,
            Self::Retention(p) => &p.case,
            Self::Release(p) => &p.case,
            Self::Transfer(p) => &p.case,
            Self::Disposal(p) => &p.case,
            Self::Approval(p) => &p.case,
            Self::Destruction(p) => &p.case,
            Self::Stamped(p) => return p.case.as_ref(),
            Self::NotStamped(p) => return p.case.as_ref(),
            Self::Incident(p) => return p.case.as_ref(),
            Self::Refusal(_) | Self::Enrolment(_) | Self::Revocation(_) => return None,
        })
    }
}
