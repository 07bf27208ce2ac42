//! What lies in the first store under a name that could be ours, and is none of ours: it is not copied. The judge is that of attestation,
//! `reindex` and exports.
//!
//! Evidence that is missing in the copy is worse than junk in it. So what cannot be told is copied: what lies in the folder of a collection
//! that is not sealed yet, or in that of a case that the catalog does not know; and whatever the catalog has as acknowledged or received,
//! though no seal names it.

use std::sync::Arc;

use exhibit_evidence::layout::{self, CaseObject, LogName};

use super::failed::Failed;
use crate::attest;
use crate::catalog::{CatalogError, SharedCatalog};
use crate::parts::Parts;
use crate::store::StoreError;
use crate::store::attest::Judge;

/// Tells what is none of ours in the first store.
#[derive(Debug)]
pub(super) struct Strangers {
    judge: Arc<dyn Judge>,
    catalog: SharedCatalog,
}

impl Strangers {
    /// By what the logs and the catalog of this coordinator say.
    pub(super) fn of(parts: &Parts) -> Self {
        Self { judge: attest::judge_of_store(parts), catalog: Arc::clone(&parts.catalog) }
    }

    /// Why an object of the first store is none of ours, in words for a message. None when it is ours, or when that cannot be told; of a
    /// name that nothing of ours has others say so.
    ///
    /// # Errors
    /// [`Failed`]: the same call may be repeated.
    pub(super) async fn why(&self, name: &str) -> Result<Option<String>, Failed> {
        let Some((log, object)) = layout::parse(name) else { return Ok(None) };
        let Some(why) = self.judge.unnamed(&log, &object).await.map_err(passing)? else { return Ok(None) };
        Ok(if self.is_kept(&log, &object).await? { None } else { Some(why) })
    }

    /// Whether an object is copied although nothing that was signed names it.
    async fn is_kept(&self, log: &LogName, object: &CaseObject) -> Result<bool, CatalogError> {
        match object {
            CaseObject::Segment(collection, stream, n) => {
                let segments = self.catalog.segments(collection.clone(), *stream, *n, 1).await?;
                Ok(segments.iter().any(|segment| segment.n == *n))
            }
            CaseObject::Manifest(collection, stream) => {
                let row = self.catalog.stream(collection.clone(), *stream).await?;
                Ok(row.is_some_and(|row| row.manifest.is_some()))
            }
            _ => match log {
                LogName::Deployment => Ok(false),
                // How many records a log has that the catalog does not know cannot be told.
                LogName::Case(case) => Ok(self.catalog.case(case.clone()).await?.is_none()),
            },
        }
    }
}

/// That the catalog does not answer is no word about a store that is away.
fn passing(e: StoreError) -> Failed {
    if e.is_passing() { Failed::Passing(e.to_string()) } else { Failed::Store(e) }
}
