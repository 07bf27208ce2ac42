//! What can go wrong with a log, by what to do about it.

use std::fmt;

use crate::catalog::CatalogError;
use crate::store::{self, StoreError};

/// What an error asks of whoever sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The store is disturbed: repeat the same call later. Some of the records may be in the log already; repeating is safe.
    Retry,
    /// The store does not let us.
    Denied,
    /// The store is full.
    Full,
    /// The log does not match its checkpoint, or holds what must not be there: an incident.
    Damaged,
    /// There is another record in the place of this one (a second seal of a collection, for instance).
    Conflict,
    /// The record is not signed by a key that may sign it here.
    Refused,
    /// A defect of this program.
    Bug,
}

impl Kind {
    /// A stable word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Denied => "denied",
            Self::Full => "full",
            Self::Damaged => "damaged",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            Self::Bug => "bug",
        }
    }
}

/// An error of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerError {
    kind: Kind,
    message: String,
    /// Why a store refuses whoever asks, if that is it.
    refused: Option<String>,
}

impl LedgerError {
    /// Makes an error; `message` says what was tried, what happened and what helps.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), refused: None }
    }

    /// Something is in the log, or missing from it, that cannot have come from this program.
    pub(super) fn incident(folder: &str, what: impl fmt::Display) -> Self {
        Self::new(
            Kind::Damaged,
            format!(
                "the log '{folder}' is not as it was written: {what} (this is an incident: keep the store as it is, run exhibit-verify on it and on a backup)"
            ),
        )
    }

    /// Under the name of the next record, or of a tile, lies what somebody else put there, and it cannot be written past.
    pub(super) fn squatted(folder: &str, object: impl fmt::Display, why: impl fmt::Display, remedy: &str) -> Self {
        Self::new(
            Kind::Damaged,
            format!(
                "the log '{folder}' cannot go on: in the place of {object} lies what is none of this deployment's: {why} (this is an incident: \
                 keep a copy of it, {remedy}, and repeat the call; docs/operations/stores.md says more)"
            ),
        )
    }

    /// The same in other words.
    #[must_use]
    pub(crate) fn said(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }

    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The error of a listing. Where that is refused, nothing may be concluded of the log: so it is [`Kind::Retry`] as of a store that does
    /// not hear us, and as there a person is needed. What is refused of one object is about that one.
    pub(super) fn unlisted(e: StoreError) -> Self {
        let is_refused = e.kind() == store::Kind::Denied;
        let told = Self::from(e);
        if is_refused { Self { kind: Kind::Retry, ..told } } else { told }
    }

    /// True when the store did not hear us, so that waiting alone will hardly help.
    pub(crate) const fn needs_a_person(&self) -> bool {
        self.refused.is_some()
    }

    /// Why the store refuses whoever asks, as [`StoreError::reason`]; none when it does not.
    pub(crate) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }
}

/// What helps against a squat where nothing can be written on top of it.
pub(super) const TAKE_AWAY: &str = "take it away";
/// What helps where a policy lets nothing be written on top of it.
pub(super) const LET_OVER: &str =
    "put deploy/policies/s3-squat.json in force until the log went on, or remove that version with the bucket owner's credentials";

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for LedgerError {}

impl From<CatalogError> for LedgerError {
    /// Of the catalog a log needs the right to be added to and the newest head that is known; both are asked for again.
    fn from(e: CatalogError) -> Self {
        Self::new(Kind::Retry, e.to_string())
    }
}

impl From<StoreError> for LedgerError {
    fn from(e: StoreError) -> Self {
        let kind = match e.kind() {
            store::Kind::Retry => Kind::Retry,
            store::Kind::Denied => Kind::Denied,
            store::Kind::Full => Kind::Full,
            // A slot that was listed is gone, or one that was read is another: both are somebody else's doing.
            store::Kind::Damaged | store::Kind::NotFound | store::Kind::Conflict => Kind::Damaged,
            store::Kind::Bug => Kind::Bug,
        };
        Self { refused: e.needs_a_person().then(|| e.reason()), ..Self::new(kind, e.to_string()) }
    }
}
