//! Why a request was not carried out, by what the caller can do about it.

use std::fmt;

use exhibit_proto::convert::BadField;

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
    needs_a_person: bool,
}

/// Result of a work module.
pub type Result<T, E = Problem> = std::result::Result<T, E>;

impl Problem {
    /// Makes a problem.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), needs_a_person: false }
    }

    /// Shorthand for [`Kind::Invalid`].
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
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
        self.is_passing() && !self.needs_a_person
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
        Self { needs_a_person: e.needs_a_person(), ..Self::new(kind, e.to_string()) }
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
        Self { needs_a_person: e.needs_a_person(), ..Self::new(kind, e.to_string()) }
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
        Self::new(code, p.message)
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
        }
        for problem in [Problem::from(disturbed()), Problem::from(LedgerError::from(disturbed())), Problem::new(Kind::Busy, "busy")] {
            assert!(problem.is_passing() && problem.passes_soon(), "{problem:?}");
        }
        assert!(!Problem::from(StoreError::new(store::Kind::Denied, "403", "compare the rights")).passes_soon());
    }
}
