//! Why something was not copied, by whether another try mends it.

use crate::catalog::CatalogError;
use crate::problem::Problem;
use crate::store::{Kind, StoreError};

/// Why a folder was not copied whole.
#[derive(Debug)]
pub enum Failed {
    /// A store.
    Store(StoreError),
    /// The catalog, a log, a right: the same call may succeed later.
    Passing(String),
    /// The catalog or a log, and another try does not mend it.
    Own(String),
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
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(e) => e.fmt(f),
            Self::Passing(e) | Self::Own(e) => f.write_str(e),
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
        if e.is_passing() { Self::Passing(e.to_string()) } else { Self::Own(e.to_string()) }
    }
}

impl From<CatalogError> for Failed {
    fn from(e: CatalogError) -> Self {
        Problem::from(e).into()
    }
}
