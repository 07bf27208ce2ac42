//! Why something was not copied, by whether another try mends it.

use crate::catalog::CatalogError;
use crate::problem::Problem;
use crate::store::{Kind, StoreError};

const SEE_TO_IT: &str = "a store refuses whoever asks: see to that";

/// Why a folder was not copied whole.
#[derive(Debug)]
pub enum Failed {
    /// A store.
    Store(StoreError),
    /// The catalog, a log, a right: the same call may succeed later.
    Passing(String),
    /// The catalog or a log, and another try does not mend it.
    Own(Problem),
}

impl Failed {
    /// True when another try may succeed without anybody doing anything.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Passing(_) => true,
            Self::Store(e) => e.kind() == Kind::Retry,
            Self::Own(_) => false,
        }
    }

    /// True when a store refuses whoever asks: it is tried again as one that is away, but waiting alone will hardly help.
    pub(super) const fn is_unheard(&self) -> bool {
        matches!(self, Self::Store(e) if e.says_nothing() && e.needs_a_person())
    }

    /// What the reason is in substance, as [`StoreError::reason`].
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Store(e) => e.reason(),
            Self::Own(e) => format!("own: {:?}", e.kind()),
            Self::Passing(_) => "passing".to_owned(),
        }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(e) => e.fmt(f),
            Self::Own(e) => e.fmt(f),
            Self::Passing(e) => f.write_str(e),
        }
    }
}

impl From<StoreError> for Failed {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

impl From<Problem> for Failed {
    fn from(e: Problem) -> Self {
        if e.passes_soon() {
            return Self::Passing(e.to_string());
        }
        // In the words of a log, whose store refuses whoever asks.
        if e.is_passing() { Self::Store(StoreError::unheard(e.to_string(), SEE_TO_IT)) } else { Self::Own(e) }
    }
}

impl From<CatalogError> for Failed {
    fn from(e: CatalogError) -> Self {
        Problem::from(e).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_refuses_whoever_asks_is_tried_again_and_is_none_that_is_away() {
        let unheard = || StoreError::unheard("could not list: 401", "renew the credentials");
        let of_log = || Problem::from(crate::ledger::LedgerError::from(unheard()));
        for e in [Failed::from(unheard()), Failed::from(Problem::from(unheard())), Failed::from(of_log())] {
            assert!(e.is_unheard() && e.is_passing() && e.reason().starts_with("denied: "), "{e:?}");
            assert!(e.to_string().contains("401"), "{e}");
        }
        let disturbed = || StoreError::new(Kind::Retry, "could not list: 503", "it is tried again");
        for e in [Failed::from(disturbed()), Failed::from(Problem::from(disturbed()))] {
            assert!(!e.is_unheard() && e.is_passing(), "{e:?}");
        }
        let denied = Failed::from(StoreError::new(Kind::Denied, "could not list: 403", "compare the rights"));
        assert!(!denied.is_unheard() && !denied.is_passing(), "{denied:?}");
    }

    #[test]
    fn a_reason_is_another_one_when_something_else_is_to_be_done() {
        let store = |kind, message: &str, remedy: &str| Failed::Store(StoreError::new(kind, message, remedy)).reason();
        let refused = store(Kind::Denied, "could not write 'a': request 17", "check the credentials");
        assert_eq!(refused, store(Kind::Denied, "could not write 'b': request 18", "check the credentials"));
        assert_ne!(refused, store(Kind::Denied, "it holds another deployment", "name a bucket that is empty"));
        assert_ne!(refused, store(Kind::Full, "could not write 'a'", "check the credentials"));
        let own = |kind, message: &str| Failed::from(Problem::new(kind, message)).reason();
        let damaged = own(crate::problem::Kind::Damaged, "record 7");
        assert_eq!(damaged, own(crate::problem::Kind::Damaged, "record 8"));
        assert_ne!(damaged, own(crate::problem::Kind::Failed, "record 7"));
    }
}
