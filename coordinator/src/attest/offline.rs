//! Which versions of a log's parts are the genuine ones, what lies in a record's place and is none, and whether its newest head lies on
//! top, for commands that run without the coordinator: from the deployment's keys and what the store holds, by the functions by which a
//! log is opened. Nothing is written for it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::layout::{CaseObject, LogName};
use futures::future::BoxFuture;

use crate::ledger::{self, Keys, LedgerError, Look};
use crate::several;
use crate::store::attest::Judge;
use crate::store::{Kind, Store, StoreError};

/// How often a log is read for what lies beyond its end: it may have grown since, and must not be read again for every object there.
const LOOKS_MAX: u32 = 2;

/// The judge of a store whose coordinator need not run.
#[derive(Debug)]
pub struct Offline {
    store: Arc<dyn Store>,
    keys: Arc<Keys>,
    looked: Looked,
    /// The log that was asked for last: the names of one come one after another.
    last: Mutex<Option<Seen>>,
}

/// What was seen of a log.
#[derive(Debug, Clone)]
struct Seen {
    log: LogName,
    /// Of how many records the head is that a reader gets; none where that is no head of this log.
    top: Option<u64>,
    /// The log as an opening finds it, where it was read and can be.
    look: Option<Arc<Look>>,
    /// How often it was read.
    looks: u32,
}

impl Offline {
    /// The judge of this store by this deployment's keys. What is hidden in it is to be recalled before.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, keys: Arc<Keys>) -> Arc<Self> {
        Arc::new(Self { store, keys, looked: Looked::default(), last: Mutex::default() })
    }

    fn last(&self) -> MutexGuard<'_, Option<Seen>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn seen(&self, log: &LogName) -> Result<Seen, StoreError> {
        let last = self.last().clone();
        if let Some(seen) = last.filter(|seen| seen.log == *log) {
            return Ok(seen);
        }
        let top = match ledger::top(&*self.store, log, &self.keys).await {
            Ok(top) => top,
            Err(e) if e.kind() == ledger::Kind::Retry => return Err(later(&e)),
            Err(error) => {
                tracing::warn!(log = %log.folder(), %error, "the head of a log could not be read");
                None
            }
        };
        let seen = Seen { log: log.clone(), top, look: None, looks: 0 };
        *self.last() = Some(seen.clone());
        Ok(seen)
    }

    /// The log as an opening finds it; none when nobody could open it, which whoever verifies it says. `again` where it may have grown.
    async fn look(&self, log: &LogName, again: bool) -> Result<Option<Arc<Look>>, StoreError> {
        let mut seen = self.seen(log).await?;
        if seen.looks > 0 && (!again || seen.looks >= LOOKS_MAX) {
            return Ok(seen.look);
        }
        seen.look = match Box::pin(ledger::look(&self.store, log, &self.keys, None)).await {
            Ok(look) => Some(Arc::new(look)),
            Err(e) if e.kind() == ledger::Kind::Retry => return Err(later(&e)),
            Err(error) => {
                tracing::warn!(log = %log.folder(), %error, "a log could not be read; 'store verify' says what is wrong with it");
                None
            }
        };
        seen.looks = seen.looks.saturating_add(1);
        *self.last() = Some(seen.clone());
        Ok(seen.look)
    }

    async fn why_squat(&self, log: &LogName, n: u64) -> Result<Option<String>, StoreError> {
        if self.seen(log).await?.top.is_some_and(|size| n < size) {
            return Ok(None);
        }
        let mut size = 0;
        for again in [false, true] {
            match self.look(log, again).await? {
                Some(look) if look.is_beside(&log.slot(n)) => size = look.size,
                _ => return Ok(None),
            }
        }
        Ok(Some(format!("the log has {size} records and does not go on with it")))
    }

    async fn wrong_heads(&self, log: &LogName) -> Result<Option<String>, StoreError> {
        // Where nothing lies beyond it, the head that a reader gets is the newest.
        if let Some(size) = self.seen(log).await?.top {
            match self.store.size(&log.slot(size)).await {
                Err(e) if e.kind() == Kind::NotFound => return Ok(None),
                Err(e) if e.kind() == Kind::Retry => return Err(e),
                _ => {}
            }
        }
        let wrong = self.look(log, false).await?.map(|look| look.wrong_heads.clone()).unwrap_or_default();
        Ok((!wrong.is_empty()).then(|| several::listed(&wrong, 0, "; ", several::DETAIL_BYTES)))
    }
}

/// That the store is disturbed says nothing about an object.
fn later(e: &LedgerError) -> StoreError {
    StoreError::new(Kind::Retry, e.to_string(), "run it again")
}

impl Judge for Offline {
    fn open<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.looked.settle(&self.store, log, &self.keys.anchor).await })
    }

    fn squats<'a>(&'a self, log: &'a LogName, n: u64) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(self.why_squat(log, n))
    }

    fn heads<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(self.wrong_heads(log))
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
