//! Which versions of a log's parts are the genuine ones, for commands that run without the coordinator: from the deployment's root key and
//! what the store holds, by the same rule by which a log is opened. Nothing is written for it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::layout::{CaseObject, LogName};
use futures::future::BoxFuture;

use crate::ledger;
use crate::store::attest::Judge;
use crate::store::{Store, StoreError};

/// The judge of a store whose coordinator need not run.
#[derive(Debug)]
pub struct Offline {
    store: Arc<dyn Store>,
    anchor: Anchor,
    looked: Looked,
}

impl Offline {
    /// The judge of this store by this deployment's root key. What is hidden in it is to be recalled before.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, anchor: Anchor) -> Arc<Self> {
        Arc::new(Self { store, anchor, looked: Looked::default() })
    }
}

impl Judge for Offline {
    fn open<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.looked.settle(&self.store, log, &self.anchor).await })
    }

    /// What was published only the catalog says.
    fn squats<'a>(&'a self, _log: &'a LogName, _n: u64) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    fn unnamed<'a>(&'a self, _log: &'a LogName, _object: &'a CaseObject) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async { Ok(None) })
    }
}

/// The logs that were looked at in one pass, some 50 bytes each: each is read once, however many of its names have several versions.
#[derive(Debug, Default)]
pub(super) struct Looked(Mutex<BTreeSet<LogName>>);

impl Looked {
    /// Has the store know the genuine versions of a log, as far as it can be read.
    pub(super) async fn settle(&self, store: &Arc<dyn Store>, log: &LogName, anchor: &Anchor) {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(log.clone());
        if is_new && let Err(error) = Box::pin(ledger::settle(store, log, anchor)).await {
            tracing::warn!(log = %log.folder(), %error, "which versions of a log's objects are genuine could not be looked at");
        }
    }
}
