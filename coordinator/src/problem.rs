//! Why a request was not carried out, by what the caller can do about it.

use std::fmt;

use exhibit_proto::convert::BadField;
use exhibit_proto::transport::NEEDS_A_PERSON;
use tonic::metadata::MetadataValue;

use crate::catalog::CatalogError;
use crate::ledger::{self, LedgerError};
use crate::store::{self, StoreError};

/// What the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Send something else: a field is wrong.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// The caller may not do this.
    Denied,
    /// Not in this state; the message says which would do.
    NotNow,
    /// Something else stands under the same name.
    Conflict,
    /// Repeat later.
    Busy,
    /// What is stored is not what was stored: an incident.
    Damaged,
    /// A defect of the coordinator, or its surroundings need a person.
    Failed,
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    message: String,
    /// Why a store refuses whoever asks, if that is it.
    refused: Option<String>,
    /// A store has no room.
    is_full: bool,
    /// It passes when somebody has seen to what is no store.
    is_stuck: bool,
}

/// Result of a work module.
pub type Result<T, E = Problem> = std::result::Result<T, E>;

impl Problem {
    /// Makes a problem.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), refused: None, is_full: false, is_stuck: false }
    }

    /// Of a call whose record is in its log, or may be, and whose row the catalog does not have: whoever called does not know what became of
    /// it, as when a store fails. What says that another row is there stays as it is.
    #[must_use]
    pub(crate) fn unfinished(self, what: &str) -> Self {
        if self.kind == Kind::Conflict {
            return self;
        }
        let is_stuck = self.is_stuck || self.kind != Kind::Busy;
        Self { kind: Kind::Busy, message: format!("{what}: {}", self.message), is_stuck, ..self }
    }

    /// Shorthand for [`Kind::Invalid`].
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// The same in other words: what is to be done about it stays, and whether somebody must see to it.
    #[must_use]
    pub(crate) fn said(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }

    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// True when the same call may succeed later without anybody doing anything here.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self.kind, Kind::Busy)
    }

    /// True when it is soon to be tried again: it passes, and no store refuses whoever asks, with credentials that expired for example.
    #[must_use]
    pub const fn passes_soon(&self) -> bool {
        self.is_passing() && self.refused.is_none()
    }

    /// As [`Problem::refused`], also of a store that has no room: what a store does not take until a person has seen to it.
    #[must_use]
    pub fn lasting(&self) -> Option<&str> {
        self.refused().or(self.is_full.then_some("a store has no room"))
    }

    /// Why a store refuses whoever asks, as [`StoreError::reason`]: that lasts until a person has seen to it. None when none does.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl From<BadField> for Problem {
    fn from(e: BadField) -> Self {
        Self::new(Kind::Invalid, e.to_string())
    }
}

impl From<CatalogError> for Problem {
    fn from(e: CatalogError) -> Self {
        let kind = match e {
            CatalogError::Busy(_) => Kind::Busy,
            CatalogError::Conflict(_) => Kind::Conflict,
            CatalogError::Damaged(_) => Kind::Damaged,
            CatalogError::Failed(_) => Kind::Failed,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(e: StoreError) -> Self {
        let kind = match e.kind() {
            store::Kind::Retry | store::Kind::Full => Kind::Busy,
            store::Kind::Damaged | store::Kind::Conflict => Kind::Damaged,
            store::Kind::NotFound => Kind::NotFound,
            store::Kind::Denied | store::Kind::Bug => Kind::Failed,
        };
        let is_full = e.kind() == store::Kind::Full;
        Self { refused: e.needs_a_person().then(|| e.reason()), is_full, ..Self::new(kind, e.to_string()) }
    }
}

impl From<LedgerError> for Problem {
    fn from(e: LedgerError) -> Self {
        let kind = match e.kind() {
            ledger::Kind::Retry | ledger::Kind::Full => Kind::Busy,
            ledger::Kind::Damaged => Kind::Damaged,
            ledger::Kind::Conflict => Kind::Conflict,
            ledger::Kind::Refused => Kind::Invalid,
            ledger::Kind::Denied | ledger::Kind::Bug => Kind::Failed,
        };
        let is_full = e.kind() == ledger::Kind::Full;
        Self { refused: e.refused().map(str::to_owned), is_full, ..Self::new(kind, e.to_string()) }
    }
}

impl From<Problem> for tonic::Status {
    fn from(p: Problem) -> Self {
        let code = match p.kind {
            Kind::Invalid => tonic::Code::InvalidArgument,
            Kind::NotFound => tonic::Code::NotFound,
            Kind::Denied => tonic::Code::PermissionDenied,
            Kind::NotNow => tonic::Code::FailedPrecondition,
            Kind::Conflict => tonic::Code::AlreadyExists,
            Kind::Busy => tonic::Code::Unavailable,
            Kind::Damaged => tonic::Code::DataLoss,
            Kind::Failed => tonic::Code::Internal,
        };
        // The code says to a program that it may ask again; to a person it is no use to do so until somebody has seen to the store.
        let needs_a_person = p.is_passing() && (p.is_full || p.is_stuck || !p.passes_soon());
        let mut status = Self::new(code, p.message);
        if needs_a_person {
            status.metadata_mut().insert(NEEDS_A_PERSON, MetadataValue::from_static("true"));
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_refuses_whoever_asks_passes_but_not_soon() {
        let unheard = || StoreError::unheard("could not list: 401", "renew the credentials");
        let disturbed = || StoreError::new(store::Kind::Retry, "could not list: 503", "it is tried again");
        let said = LedgerError::from(unheard()).said("whether something lies there cannot be seen");
        for problem in [Problem::from(unheard()), Problem::from(LedgerError::from(unheard())), Problem::from(said)] {
            assert!(problem.is_passing() && !problem.passes_soon(), "{problem:?}");
            assert_eq!(problem.refused(), Some("denied: renew the credentials"), "without what changes with each try");
        }
        for problem in [Problem::from(disturbed()), Problem::from(LedgerError::from(disturbed())), Problem::new(Kind::Busy, "busy")] {
            assert!(problem.is_passing() && problem.passes_soon() && problem.refused().is_none(), "{problem:?}");
        }
        assert!(!Problem::from(StoreError::new(store::Kind::Denied, "403", "compare the rights")).passes_soon());
        let full = || StoreError::new(store::Kind::Full, "could not create: 507", "free space");
        for problem in [Problem::from(full()), Problem::from(LedgerError::from(full()))] {
            assert!(problem.is_passing() && problem.refused().is_none() && problem.lasting().is_some(), "{problem:?}");
        }
        assert_eq!(Problem::from(unheard()).lasting(), Some("denied: renew the credentials"));
        assert_eq!(Problem::from(disturbed()).lasting(), None);
    }

    #[test]
    fn a_status_says_whether_somebody_must_see_to_it() {
        let of_store = |e: StoreError| tonic::Status::from(Problem::from(e));
        let of_log = |e: StoreError| tonic::Status::from(Problem::from(LedgerError::from(e)));
        for (e, is_told) in [
            (StoreError::unheard("could not list: 401", "renew the credentials"), true),
            (StoreError::new(store::Kind::Full, "could not create: 507", "free space"), true),
            (StoreError::new(store::Kind::Retry, "could not list: 503", "it is tried again"), false),
        ] {
            for status in [of_store(e.clone()), of_log(e.clone())] {
                assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
                assert_eq!(status.metadata().contains_key(NEEDS_A_PERSON), is_told, "{status:?}");
            }
            let said = tonic::Status::from(Problem::from(e).said("in other words"));
            assert_eq!((said.message(), said.metadata().contains_key(NEEDS_A_PERSON)), ("in other words", is_told));
        }
        assert!(!tonic::Status::from(Problem::new(Kind::Busy, "busy")).metadata().contains_key(NEEDS_A_PERSON));
    }
}
