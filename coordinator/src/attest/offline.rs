//! Which versions of a log's parts are the genuine ones, what lies in a record's place and is none, and whether its newest head lies on
//! top, which tiles and segments nothing signed gives or names, which head is gone, and which log nobody can open, for commands that run without the coordinator: from the deployment's keys and what the store holds, by the functions by which a
//! log is opened. Nothing is written for it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use exhibit_evidence::Digest;
use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{CaseObject, LogName};
use exhibit_evidence::log::Tile;
use exhibit_evidence::record::Record;
use futures::future::BoxFuture;

use crate::ledger::{self, Keys, LedgerError, Look};
use crate::seal::Named;
use crate::several;
use crate::store::attest::Judge;
use crate::store::{Kind, Store, StoreError};

/// How often a log is read for what lies beyond its end: it may have grown since, and must not be read again for every object there.
const LOOKS_MAX: u32 = 2;
/// How often a log is read at once that cannot be opened: one that grows while it is read looks as if its end was missing.
const TRIES_MAX: u32 = 5;

/// After a record its head is written within this time.
const HEAD_FOLLOWS: Duration = Duration::from_secs(1);

/// The judge of a store whose coordinator need not run.
#[derive(Debug)]
pub struct Offline {
    store: Arc<dyn Store>,
    keys: Arc<Keys>,
    looked: Looked,
    /// The log that was asked for last: the names of one come one after another.
    last: Mutex<Option<Seen>>,
    /// The sealed collection that was asked for last.
    sealed: Mutex<Option<Named>>,
    /// It is the copy, into which heads come after all that they cover.
    is_copy: bool,
}

/// What was seen of a log.
#[derive(Debug, Clone)]
struct Seen {
    log: LogName,
    /// Of how many records the head is that a reader gets; none where that is no head of this log.
    top: Option<u64>,
    /// The log as an opening finds it, where it was read and can be.
    look: Option<Arc<Look>>,
    /// Why nobody can open it, as far as that is sure.
    refused: Option<String>,
    /// How often it was read.
    looks: u32,
}

impl Offline {
    /// The judge of this store by this deployment's keys. What is hidden in it is to be recalled before.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, keys: Arc<Keys>) -> Arc<Self> {
        Self::judge(store, keys, false)
    }

    /// As [`Offline::new`], of the copy in a second store.
    #[must_use]
    pub fn of_copy(store: Arc<dyn Store>, keys: Arc<Keys>) -> Arc<Self> {
        Self::judge(store, keys, true)
    }

    fn judge(store: Arc<dyn Store>, keys: Arc<Keys>, is_copy: bool) -> Arc<Self> {
        Arc::new(Self { store, keys, looked: Looked::default(), last: Mutex::default(), sealed: Mutex::default(), is_copy })
    }

    fn sealed(&self) -> MutexGuard<'_, Option<Named>> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
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
        let seen = Seen { log: log.clone(), top, look: None, refused: None, looks: 0 };
        *self.last() = Some(seen.clone());
        Ok(seen)
    }

    /// The log as an opening finds it; none when nobody could open it, which is said with its head. `again` where it may have grown.
    async fn look(&self, log: &LogName, again: bool) -> Result<Option<Arc<Look>>, StoreError> {
        let mut seen = self.seen(log).await?;
        if seen.looks > 0 && (!again || seen.looks >= LOOKS_MAX) {
            return Ok(seen.look);
        }
        (seen.look, seen.refused) = self.open_or_why(log).await?;
        seen.looks = seen.looks.saturating_add(1);
        *self.last() = Some(seen.clone());
        Ok(seen.look)
    }

    /// The log as an opening finds it, or why nobody can open it: the same twice in a row, so that it is not because it grew meanwhile.
    async fn open_or_why(&self, log: &LogName) -> Result<(Option<Arc<Look>>, Option<String>), StoreError> {
        let mut before = None::<String>;
        for _ in 0..TRIES_MAX {
            let why = match Box::pin(ledger::look(&self.store, log, &self.keys, None)).await {
                Ok(look) => return Ok((Some(Arc::new(look)), None)),
                Err(e) if e.kind() == ledger::Kind::Retry => return Err(later(&e)),
                Err(e) => e.to_string(),
            };
            if before.as_ref() == Some(&why) {
                tracing::warn!(log = %log.folder(), error = %why, "a log cannot be opened; 'store verify' says what is wrong with it");
                return Ok((None, Some(why)));
            }
            before = Some(why);
            tokio::time::sleep(HEAD_FOLLOWS).await;
        }
        tracing::warn!(log = %log.folder(), error = ?before, "a log grew whenever it was read, and could not be looked at");
        Ok((None, None))
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
        if self.reaches_beyond(log, n).await? {
            return Ok(None);
        }
        Ok(Some(format!("the log has {} and does not go on with it", several::count(size, "record"))))
    }

    /// Whether the head that a reader gets now is of more records than that: the log may have grown since it was read.
    async fn reaches_beyond(&self, log: &LogName, size: u64) -> Result<bool, StoreError> {
        match ledger::top(&*self.store, log, &self.keys).await {
            Ok(top) => Ok(top.is_some_and(|top| top > size)),
            Err(e) if e.kind() == ledger::Kind::Retry => Err(later(&e)),
            Err(_) => Ok(false),
        }
    }

    async fn why_strange(&self, log: &LogName, object: &CaseObject) -> Result<Option<String>, StoreError> {
        match object {
            CaseObject::Tile(tile) => self.wrong_tile(log, tile).await,
            CaseObject::Segment(collection, ..) | CaseObject::Manifest(collection, _) => self.unsealed(log, collection, object).await,
            CaseObject::Checkpoint | CaseObject::Slot(_) | CaseObject::Cosigned(..) | CaseObject::Timestamp(..) => Ok(None),
        }
    }

    /// Why a tile is none: it is not what the records give, or there are none of which it could be.
    async fn wrong_tile(&self, log: &LogName, tile: &Tile) -> Result<Option<String>, StoreError> {
        let bytes = match self.store.get(&log.tile(tile), tile.bytes_max()).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == Kind::Damaged => return Ok(Some("it is larger than a tile of its name".to_owned())),
            Err(e) if e.kind() == Kind::Retry => return Err(e),
            // Destroyed since it was listed, or not to be read, which 'store verify' says.
            Err(_) => return Ok(None),
        };
        let mut size = 0;
        for again in [false, true] {
            let Some(look) = self.look(log, again).await? else { return Ok(None) };
            match look.gives(tile, &bytes) {
                Some(true) => return Ok(None),
                Some(false) => return Ok(Some("it is a tile and not what the records give".to_owned())),
                None => size = look.size,
            }
        }
        if self.reaches_beyond(log, size).await? {
            return Ok(None);
        }
        Ok(Some(format!("it is a tile over records that are not there: the log has {}", several::count(size, "record"))))
    }

    /// Why nothing that was signed names an object in the folder of a collection. What was sealed stays so; of what was not nothing is said.
    async fn unsealed(&self, log: &LogName, collection: &CollectionId, object: &CaseObject) -> Result<Option<String>, StoreError> {
        let LogName::Case(case) = log else { return Ok(None) };
        let known = self.sealed().as_ref().filter(|known| known.is_of(case, collection)).map(|known| known.allows(object));
        let allowed = match known {
            Some(allowed) => allowed,
            None => match self.named(log, case, collection).await? {
                Some(found) => {
                    let allowed = found.allows(object);
                    *self.sealed() = Some(found);
                    allowed
                }
                None => true,
            },
        };
        Ok((!allowed).then(|| "the collection is sealed, and no signed manifest of it names this".to_owned()))
    }

    /// What the seal of a collection names, from the records of its log.
    async fn named(&self, log: &LogName, case: &CaseId, collection: &CollectionId) -> Result<Option<Named>, StoreError> {
        let Some(look) = self.look(log, false).await? else { return Ok(None) };
        let Some((n, digest)) = look.view.seal_of(collection).map(|entry| (entry.n, entry.digest)) else { return Ok(None) };
        let Some(Record::Seal(seal)) = self.record(log, n, digest).await? else { return Ok(None) };
        let mut segments: HashMap<Digest, u32> = HashMap::new();
        for sealed in &seal.streams {
            let Some(n) = look.view.find(&sealed.receipt) else { continue };
            if let Some(Record::Receipt(receipt)) = self.record(log, n, sealed.receipt).await? {
                segments.insert(sealed.receipt, receipt.manifest.segments);
            }
        }
        let named = Named::of(&seal, &|_, receipt| segments.get(&receipt).copied());
        Ok(Some(named).filter(|named| named.is_of(case, collection)))
    }

    /// Record `n` of a log, which was verified when the log was read; none where something else lies there now.
    async fn record(&self, log: &LogName, n: u64, digest: Digest) -> Result<Option<Record>, StoreError> {
        match self.store.get(&log.slot(n), ENVELOPE_BYTES_MAX as u64).await {
            Ok(bytes) => {
                let envelope = Envelope::parse(&bytes).ok().filter(|envelope| envelope.digest() == digest);
                Ok(envelope.and_then(|envelope| Record::from_payload(envelope.unverified_payload()).ok()))
            }
            Err(e) if e.kind() == Kind::Retry => Err(e),
            Err(_) => Ok(None),
        }
    }

    async fn why_headless(&self, log: &LogName) -> Result<Option<String>, StoreError> {
        if self.is_copy || self.has(&log.checkpoint()).await? {
            return Ok(None);
        }
        tokio::time::sleep(HEAD_FOLLOWS).await;
        if self.has(&log.checkpoint()).await? {
            return Ok(None);
        }
        let has_records = self.has(&log.slot(0)).await?;
        Ok(Some(match log {
            _ if has_records => {
                "its signed head is gone: only the catalog or a witness knows how long the log was; 'store verify' says more".to_owned()
            }
            LogName::Deployment => {
                "nothing of the deployment's own log is there, though there are cases: bring it back from the second store or a backup"
                    .to_owned()
            }
            LogName::Case(_) => {
                "the case has no log: what lies in its folder was put there by somebody else, or its log was taken away".to_owned()
            }
        }))
    }

    async fn has(&self, object: &str) -> Result<bool, StoreError> {
        match self.store.size(object).await {
            Err(e) if e.kind() == Kind::NotFound => Ok(false),
            Err(e) if e.kind() == Kind::Retry => Err(e),
            Ok(_) | Err(_) => Ok(true),
        }
    }

    async fn wrong_heads(&self, log: &LogName) -> Result<Option<String>, StoreError> {
        let Some(look) = self.look(log, false).await? else { return self.why_refused(log).await };
        // Where nothing lies beyond it, the head that a reader gets is the newest.
        if let Some(size) = self.seen(log).await?.top {
            match self.store.size(&log.slot(size)).await {
                Err(e) if e.kind() == Kind::NotFound => return Ok(None),
                Err(e) if e.kind() == Kind::Retry => return Err(e),
                _ => {}
            }
        }
        let wrong = &look.wrong_heads;
        Ok((!wrong.is_empty()).then(|| several::listed(wrong, 0, "; ", several::DETAIL_BYTES)))
    }

    /// Why nobody can open a log that was looked at. Of a copy nothing is said: what a head covers there may still be on its way, and the
    /// comparison of both stores finds what is missing.
    async fn why_refused(&self, log: &LogName) -> Result<Option<String>, StoreError> {
        let refused = self.seen(log).await?.refused.filter(|_| !self.is_copy);
        Ok(refused.map(|why| format!("nobody can open this log: {why}; 'store verify' says more, the rest of it is not judged here")))
    }
}

/// That the store is disturbed, or refuses whoever asks, says nothing about an object.
fn later(e: &LedgerError) -> StoreError {
    if e.needs_a_person() {
        return StoreError::unheard(e.to_string(), "the store refuses whoever asks: see to that, and run it again");
    }
    StoreError::new(Kind::Retry, e.to_string(), "run it again")
}

impl Judge for Offline {
    fn custody<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async move {
            // What is wrong with a log that nobody could read is told by itself; then the policy alone is compared.
            if let (LogName::Case(case), Some(look)) = (log, self.look(log, false).await?) {
                self.store.protect(case, look.view.protection());
            }
            Ok(None)
        })
    }

    fn open<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.looked.settle(&self.store, log, &self.keys.anchor).await })
    }

    fn squats<'a>(&'a self, log: &'a LogName, n: u64) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(self.why_squat(log, n))
    }

    fn heads<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(self.wrong_heads(log))
    }

    fn unnamed<'a>(&'a self, log: &'a LogName, object: &'a CaseObject) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(self.why_strange(log, object))
    }

    fn headless<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(self.why_headless(log))
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
