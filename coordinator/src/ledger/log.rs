//! One log: recovery when it is opened, and the only way to add to it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::Digest;
use exhibit_evidence::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use exhibit_evidence::id::{CollectionId, OrderId};
use exhibit_evidence::layout::{LogName, StreamNumber};
use exhibit_evidence::log::Checkpoint;
use exhibit_evidence::record::{KeyRing, Record};
use tokio::sync::broadcast;

use super::heads::{self, Heads};
use super::news::HEAD;
use super::opening::{self, Opened};
use super::view::Place;
use super::{Entry, Head, Keys, Kind, Known, LedgerError, RECORDS_MAX, View};
use crate::audit::Audit;
use crate::replica::{Lease, Leases, Notice};
use crate::store::{Store, history};

/// Reads in flight while a log is opened: hides the round trips of a remote store within 16 x 64 KiB of memory.
pub(super) const READS_IN_FLIGHT: usize = 16;

/// How long an addition waits for other coordinators that add to the same log. One addition takes some writes to the store; a
/// coordinator that fell silent in the middle of one is waited for as long as its right lasts.
const RIGHT_WAIT: Duration = Duration::from_secs(75);

/// The name of the right to add to a log.
fn right_to(name: &LogName) -> String {
    format!("log:{}", name.folder())
}

/// True when no other coordinator added to a log since it had `size` records; false when that is not known.
pub(super) async fn is_as_known(leases: &Leases, name: &LogName, size: u64) -> Result<bool, LedgerError> {
    let Some(peers) = leases.peers() else { return Ok(true) };
    Ok(peers.mark(right_to(name)).await?.is_some_and(|known| known <= size))
}

/// Held by the one task, of all coordinators, that adds to a log.
pub(super) struct Alone<'a> {
    right: Lease,
    _here: tokio::sync::MutexGuard<'a, ()>,
}

impl Alone<'_> {
    /// The next write may begin.
    pub(super) fn still(&self) -> Result<(), LedgerError> {
        if self.right.lasts() {
            return Ok(());
        }
        let message = "the right to add to this log could not be kept: the catalog did not answer in time; what was written stays, the same call is repeated";
        Err(LedgerError::new(Kind::Retry, message))
    }
}

/// A handle to one open log. Cheap to clone; all clones are the same log.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Arc<Keys>,
    pub(super) name: LogName,
    /// Held by the one task that adds records or cosignatures. `view` is only changed under it, and only by what is durable.
    pub(super) writer: tokio::sync::Mutex<()>,
    pub(super) view: RwLock<View>,
    /// Other coordinators may add to this log as well.
    leases: Arc<Leases>,
    /// Size of the newest checkpoint that is known to be published.
    published: AtomicU64,
    /// Told the name whenever a checkpoint was published.
    grown: broadcast::Sender<LogName>,
    /// Told each record that this process added.
    audit: Audit,
    /// What is known of all logs, beside the store.
    pub(super) known: Arc<Known>,
    /// Size of the newest head that is known there.
    noted: AtomicU64,
    /// Records whose writing began, until it is known that they are in the log: one that failed may lie there all the same.
    tried: Mutex<HashSet<Digest>>,
}

/// What a log of a coordinator has around it.
#[derive(Debug)]
pub(super) struct Around {
    pub(super) leases: Arc<Leases>,
    pub(super) grown: broadcast::Sender<LogName>,
    pub(super) audit: Audit,
    pub(super) known: Arc<Known>,
}

impl Ledger {
    /// Opens a log and brings it in order, whatever an earlier process or somebody else left:
    ///
    /// 1. list the slots: they must be 0, 1, 2, ... without a hole. What a deletion hides of them is among them. What else lies there is
    ///    an incident, and only where the store keeps and locks versions it is written past
    /// 2. read the checkpoint; its signature must be this deployment's log key's. Where the store keeps versions the one of most records
    ///    counts, whatever lies on top of it
    /// 3. read every slot, verify it under the keys enrolled before it, add it to the tree; at the checkpoint's size
    ///    the root must be the checkpoint's. Of several versions the oldest counts that can be the record of its place
    /// 4. tiles that the checkpoint promises and that are gone, or were never made, are made again from the slots
    /// 5. slots after the checkpoint (a process died between slot and checkpoint): publish tiles and a checkpoint over them
    ///    with the same call that [`Ledger::append`] ends with, which also puts the newest head on top again
    ///
    /// An empty log is opened without writing anything. `known` is a head that was seen before by other means (a
    /// catalog, a backup), and so are those that witnesses cosigned: a log that does not continue them was rolled back, and
    /// nothing is written to it.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when slots are missing, altered or not to be trusted; the store's errors otherwise.
    pub async fn open(store: Arc<dyn Store>, name: LogName, keys: Arc<Keys>, known: Option<Head>) -> Result<Self, LedgerError> {
        let (leases, grown) = (Leases::of_one(), broadcast::Sender::new(1));
        let around = Around { leases, grown, audit: Audit::default(), known: Arc::default() };
        Self::read_all(store, name, keys, known, around).await
    }

    /// [`Ledger::open`] among other coordinators, of which none may add to the log meanwhile, with somebody who is told when it grows.
    pub(super) async fn open_among(store: Arc<dyn Store>, name: LogName, keys: Arc<Keys>, around: Around) -> Result<Self, LedgerError> {
        let right = around.leases.alone(&right_to(&name), RIGHT_WAIT).await?;
        // Before the store is looked at: what another coordinator publishes meanwhile is there before it is known.
        let known = around.known.head(&name).await?;
        let ledger = Self::read_all(store, name, keys, known, around).await?;
        right.give(Some(ledger.size())).await;
        Ok(ledger)
    }

    async fn read_all(
        store: Arc<dyn Store>,
        name: LogName,
        keys: Arc<Keys>,
        known: Option<Head>,
        Around { leases, grown, audit, known: all_known }: Around,
    ) -> Result<Self, LedgerError> {
        let Opened { view, published } = Box::pin(opening::read(&store, &name, &keys, (known, &*all_known))).await?;
        let inner = Inner {
            store,
            keys,
            name,
            writer: tokio::sync::Mutex::new(()),
            view: RwLock::new(view),
            leases,
            published: AtomicU64::new(published),
            grown,
            audit,
            known: all_known,
            noted: AtomicU64::new(known.map_or(0, |known| known.size)),
            tried: Mutex::default(),
        };
        let ledger = Self { inner: Arc::new(inner) };
        ledger.inner.tell_custody();
        ledger.inner.restore_tiles().await?;
        ledger.inner.publish().await?;
        Ok(ledger)
    }

    /// Adds records and gives their places. A record that is in the log already (same bytes) keeps its place and is not
    /// added again, so repeating a call is safe. All of them are verified before the first one is written. When this
    /// returns, the records and a checkpoint over them are durable. Dropping the future does not stop the work.
    ///
    /// # Errors
    /// [`Kind::Refused`], [`Kind::Conflict`]: nothing was written. Others: the first records may be in the log.
    pub async fn append(&self, envelopes: Vec<Envelope>) -> Result<Vec<u64>, LedgerError> {
        self.append_built(move |_| Ok(envelopes.clone())).await
    }

    /// [`Ledger::append`] with records that are made while nobody else can add any: for what depends on the log's
    /// content, like the next exhibit number. `build` must not block; it is called again on what the log then is, when a record
    /// turns up that this process did not know of.
    ///
    /// # Errors
    /// What `build` says (nothing was written then), and as [`Ledger::append`].
    pub async fn append_built<F>(&self, build: F) -> Result<Vec<u64>, LedgerError>
    where
        F: Fn(&View) -> Result<Vec<Envelope>, LedgerError> + Send + Sync + 'static,
    {
        let inner = Arc::clone(&self.inner);
        // Its own task: a caller that goes away must not leave a checkpoint in flight that lands after a newer one.
        let work = tokio::spawn(async move {
            let alone = inner.alone().await;
            if alone.is_err() {
                inner.known.note_use(&inner.name, &alone);
            }
            let alone = alone?;
            let written = loop {
                let built = build(&inner.view());
                let written = match built {
                    Ok(envelopes) => inner.write(envelopes, &alone).await,
                    Err(e) => Err(e),
                };
                // Outrun: what was built no longer follows from what the log says.
                if let Some(written) = written.transpose() {
                    break written;
                }
            };
            inner.done(alone, written.is_ok()).await;
            inner.known.note_use(&inner.name, &written);
            written
        });
        work.await.unwrap_or_else(|e| Err(LedgerError::new(Kind::Bug, format!("the writer of a log ended badly: {e}"))))
    }

    /// Adds enrolments that are not in this log yet, in the given order (from the root down).
    ///
    /// # Errors
    /// As [`Ledger::append`].
    pub async fn ensure_enrolled(&self, enrolments: Vec<Envelope>) -> Result<(), LedgerError> {
        if enrolments.iter().all(|e| self.find(&e.digest()).is_some()) {
            return Ok(());
        }
        self.append(enrolments).await.map(|_| ())
    }

    /// True when a record is in the log, or may be: its writing began, whatever was said of it.
    pub(crate) fn may_have(&self, digest: &Digest) -> bool {
        self.find(digest).is_some() || self.inner.tried().contains(digest)
    }

    /// Takes in what lies in the next places and this process does not know of, as a record does whose writing failed after the store had
    /// it, and publishes a checkpoint over it. Dropping the future does not stop the work.
    ///
    /// # Errors
    /// The store's and the catalog's; [`Kind::Damaged`] when what lies there is none of this log's.
    pub(crate) async fn look_for_more(&self) -> Result<(), LedgerError> {
        let inner = Arc::clone(&self.inner);
        // Its own task, as in `append_built`.
        let work = tokio::spawn(async move {
            let alone = inner.alone().await?;
            let looked = Box::pin(inner.take_more(&alone)).await;
            inner.done(alone, looked.is_ok()).await;
            looked
        });
        work.await.unwrap_or_else(|e| Err(LedgerError::new(Kind::Bug, format!("the look into a log ended badly: {e}"))))
    }

    /// Has the store lock a record that lies in the log and whose writing failed, as it does behind each write.
    ///
    /// # Errors
    /// As the store fails: then it is not known whether it is locked.
    pub(crate) async fn lock_again(&self, digest: &Digest) -> Result<(), LedgerError> {
        Box::pin(self.inner.lock_again(*digest)).await
    }

    /// Reads record `n` from the store.
    ///
    /// # Errors
    /// [`Kind::Bug`] when the log has no such record, [`Kind::Damaged`] when the store gives other bytes than before.
    pub async fn read(&self, n: u64) -> Result<Envelope, LedgerError> {
        let entry = self
            .entry(n)
            .ok_or_else(|| LedgerError::new(Kind::Bug, format!("the log '{}' has no record {n}", self.inner.name.folder())))?;
        self.inner.read_record(n, entry.digest).await
    }

    /// Reads the record with this digest; `None` when it is not in the log.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub async fn read_by_digest(&self, digest: &Digest) -> Result<Option<Envelope>, LedgerError> {
        match self.find(digest) {
            Some(n) => self.read(n).await.map(Some),
            None => Ok(None),
        }
    }

    /// Which log this is.
    #[must_use]
    pub fn name(&self) -> &LogName {
        &self.inner.name
    }

    /// The log as it is now; nothing is added while the guard lives, so keep it short and never across an `await`.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.inner.view()
    }

    /// Records in the log.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.view().size()
    }

    /// The tree's head over everything that is durable.
    #[must_use]
    pub fn head(&self) -> Head {
        self.view().head()
    }

    /// See [`View::root_at`].
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Digest> {
        self.view().root_at(size)
    }

    /// See [`View::find`].
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<u64> {
        self.view().find(digest)
    }

    /// A copy of the keys that are trusted after the last record.
    #[must_use]
    pub fn key_ring(&self) -> KeyRing {
        self.view().key_ring().clone()
    }

    /// See [`View::exhibits`].
    #[must_use]
    pub fn exhibits(&self) -> u64 {
        self.view().exhibits()
    }

    /// Record `n`'s facts.
    #[must_use]
    pub fn entry(&self, n: u64) -> Option<Entry> {
        self.view().entry(n).cloned()
    }

    /// Facts of the records from `from` on that `matches`, at most `limit`.
    #[must_use]
    pub fn entries(&self, from: u64, matches: &dyn Fn(&Entry) -> bool, limit: usize) -> Vec<Entry> {
        self.view().entries().iter().skip(usize::try_from(from).unwrap_or(usize::MAX)).filter(|e| matches(e)).take(limit).cloned().collect()
    }

    /// The case-opened record.
    #[must_use]
    pub fn case_opened(&self) -> Option<Entry> {
        self.view().case_opened().cloned()
    }

    /// The record of an order.
    #[must_use]
    pub fn order(&self, order: &OrderId) -> Option<Entry> {
        self.view().order(order).cloned()
    }

    /// The record that closed the case.
    #[must_use]
    pub fn case_closed(&self) -> Option<Entry> {
        self.view().case_closed().cloned()
    }

    /// The seal of a collection.
    #[must_use]
    pub fn seal_of(&self, collection: &CollectionId) -> Option<Entry> {
        self.view().seal_of(collection).cloned()
    }

    /// The refusal of a collection.
    #[must_use]
    pub fn refusal_of(&self, collection: &CollectionId) -> Option<Entry> {
        self.view().refusal_of(collection).cloned()
    }

    /// The receipt of a stream.
    #[must_use]
    pub fn receipt_of(&self, collection: &CollectionId, stream: StreamNumber) -> Option<Entry> {
        self.view().receipt_of(collection, stream).cloned()
    }

    /// The acquisition record of a stream.
    #[must_use]
    pub fn acquisition_of(&self, collection: &CollectionId, stream: StreamNumber) -> Option<Entry> {
        self.view().acquisition_of(collection, stream).cloned()
    }

    /// Reads what other coordinators added. A call that returned before this one began is seen, whichever coordinator it went to.
    ///
    /// # Errors
    /// The store's and the catalog's; [`Kind::Damaged`] when what was added cannot be from a coordinator of this deployment.
    pub async fn refresh(&self) -> Result<(), LedgerError> {
        self.inner.refresh().await
    }

    /// Looks whether the head that a reader gets is the newest one. What else lies on top of it is told, where the store keeps what is
    /// beneath, and the newest is signed again on top: a log to which nothing is added would show the same at each look.
    ///
    /// # Errors
    /// As the store fails; [`Kind::Damaged`] of what is no head, where the store keeps nothing beneath.
    pub async fn look_at_head(&self) -> Result<(), LedgerError> {
        self.inner.newest_head().await?;
        Box::pin(self.inner.sign_on_top()).await
    }

    /// Has told what lies in the log's next place and is none of its records. True when what lies in place `n` is told by the log itself, so
    /// that nobody else need tell it.
    ///
    /// # Errors
    /// As the store fails; [`Kind::Damaged`] when more lies there than can be looked at.
    pub async fn tells_squat(&self, n: u64) -> Result<bool, LedgerError> {
        Box::pin(self.inner.tells_squat(n)).await
    }

    /// True when its opening would find nothing left to do: its head is published, and the catalog knows that.
    pub(super) fn is_settled(&self) -> bool {
        let size = self.size();
        self.inner.published() >= size && self.inner.noted.load(Ordering::Acquire) >= size
    }

    /// True while somebody besides the registry holds this log or writes to it.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }
}

impl Inner {
    pub(super) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tried(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Size of the newest checkpoint that is known to be published.
    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Order of writes:
    ///
    /// 1. for each new record: its slot, create-only - from here on the record is in the log, whatever happens next
    /// 2. the tiles over all slots, create-only, also over those of an earlier call that failed before
    /// 3. one checkpoint over all of it
    ///
    /// A slot that failed but was written is found by the next call: the same record succeeds again. Another record finds the
    /// slot taken, by an earlier try that was reported as failed or by another coordinator: what is there is taken into the tree,
    /// and nothing more is written (`None`), because it may change what is to be written.
    async fn write(&self, envelopes: Vec<Envelope>, alone: &Alone<'_>) -> Result<Option<Vec<u64>>, LedgerError> {
        let new = self.admit(&envelopes)?;
        for envelope in &new {
            alone.still()?;
            let written = self.write_slot(envelope).await;
            if !matches!(written, Ok(true)) {
                // What others wrote may have been taken in all the same.
                self.tell_custody();
            }
            if !written? {
                return Ok(None);
            }
        }
        self.tell_custody();
        alone.still()?;
        self.publish().await?;
        let view = self.view();
        envelopes
            .iter()
            .map(|e| view.find(&e.digest()).ok_or_else(|| LedgerError::new(Kind::Bug, "a record that was written is not in the log")))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Waits until this task alone may add to the log, here and among all coordinators, and reads what others added.
    pub(super) async fn alone(&self) -> Result<Alone<'_>, LedgerError> {
        let here = self.writer.lock().await;
        self.known.check(&self.name)?;
        let right = self.leases.alone(&right_to(&self.name), RIGHT_WAIT).await?;
        if right.is_shared_out() && (right.mark() != Some(self.view().size()) || self.published() < self.view().size()) {
            self.catch_up().await?;
        }
        Ok(Alone { right, _here: here })
    }

    /// The work is done; when it failed, what is in the log is not known.
    pub(super) async fn done(&self, alone: Alone<'_>, whole: bool) {
        let size = self.view().size();
        alone.right.give(whole.then_some(size)).await;
    }

    /// Takes the records that lie in the next slots, and publishes what is not published yet.
    async fn take_more(&self, alone: &Alone<'_>) -> Result<(), LedgerError> {
        let taken = self.take_all(!alone.right.is_shared_out()).await;
        // What was taken before that failed counts as well.
        self.tell_custody();
        taken?;
        self.tried().retain(|digest| self.view().find(digest).is_none());
        alone.still()?;
        self.publish().await
    }

    /// Takes the records that other coordinators added, in the order of their slots, and their newest checkpoint. The caller holds
    /// `writer`. True when there were any.
    async fn catch_up(&self) -> Result<bool, LedgerError> {
        let before = self.view().size();
        let taken = self.take_all(false).await;
        let grew = self.view().size() > before;
        if grew {
            self.tell_custody();
        }
        taken?;
        let Some(newest) = self.newest_head().await? else { return Ok(grew) };
        // Slots that were added since the last look are read the next time.
        let root = self.view().root_at(newest.size);
        if root.is_some_and(|root| root != newest.root) {
            let what = format!("the first {} records are not those that were signed", newest.size);
            return Err(LedgerError::incident(&self.name.folder(), what));
        }
        if root.is_some() && newest.size > self.published() {
            self.published.store(newest.size, Ordering::Release);
            self.view.write().unwrap_or_else(PoisonError::into_inner).tiles_are_stored(newest.size);
        }
        Ok(grew)
    }

    /// The newest head in the store: the one that a reader gets, unless something was put on top of it. Then that is told, and the next
    /// head is written on top of it.
    async fn newest_head(&self) -> Result<Option<Head>, LedgerError> {
        let top = heads::read(&*self.store, &self.name, &self.keys).await;
        let is_older = match &top {
            Ok(top) => top.as_ref().map_or(0, |top| top.size) < self.published(),
            Err(e) => e.kind() == Kind::Damaged,
        };
        if !is_older || !history::is_kept(&*self.store) {
            return Ok(top?.map(|top| Head { size: top.size, root: top.root }));
        }
        let slots = self.view().size();
        let heads = Box::pin(Heads::look(&*self.store, &self.name, &self.keys, slots)).await?;
        let wrong = heads.wrong(&|size| self.view().root_at(size));
        if !wrong.is_empty() {
            self.known.news().tell(&self.name, HEAD, heads::words(&self.name, &wrong));
        }
        Ok(heads.newest())
    }

    /// Signs the newest head again where a reader gets an older one, or none.
    async fn sign_on_top(&self) -> Result<(), LedgerError> {
        if !self.is_covered().await? {
            return Ok(());
        }
        let alone = self.alone().await?;
        let signed = self.sign_alone(&alone).await;
        self.done(alone, signed.is_ok()).await;
        signed
    }

    async fn sign_alone(&self, alone: &Alone<'_>) -> Result<(), LedgerError> {
        // Whoever added to the log meanwhile wrote its head on top.
        if !self.is_covered().await? {
            return Ok(());
        }
        alone.still()?;
        let head = self.view().head();
        self.publish_head(head).await
    }

    /// Whether the head that a reader gets has fewer records than were published, where the store keeps what is beneath.
    async fn is_covered(&self) -> Result<bool, LedgerError> {
        if !history::is_kept(&*self.store) {
            return Ok(false);
        }
        match heads::read(&*self.store, &self.name, &self.keys).await {
            Ok(top) => Ok(top.map_or(0, |top| top.size) < self.published()),
            Err(e) if e.kind() == Kind::Damaged => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Reads what other coordinators added, where they may have.
    async fn refresh(&self) -> Result<(), LedgerError> {
        let Some(peers) = self.leases.peers() else { return Ok(()) };
        let known = peers.mark(right_to(&self.name)).await?;
        if known.is_some_and(|size| size <= self.view().size()) {
            return Ok(());
        }
        let _here = self.writer.lock().await;
        if self.catch_up().await? {
            let _ = self.grown.send(self.name.clone());
        }
        if known.is_none() {
            let size = self.view().size();
            peers.first_mark(right_to(&self.name), size).await?;
        }
        Ok(())
    }

    /// The records that are not in the log yet, each verified under the keys that the log has when its turn comes.
    fn admit(&self, envelopes: &[Envelope]) -> Result<Vec<Envelope>, LedgerError> {
        let view = self.view();
        let (mut new, mut seen, mut places) = (Vec::new(), HashSet::new(), HashSet::new());
        let mut ring = None;
        for envelope in envelopes {
            if view.find(&envelope.digest()).is_some() || !seen.insert(envelope.digest()) {
                continue;
            }
            let ring = ring.get_or_insert_with(|| view.key_ring().clone());
            let verified = ring.verify(envelope).map_err(|e| LedgerError::new(Kind::Refused, e.to_string()))?;
            if let Some(place) = Place::of(verified.record()).filter(Place::is_exclusive)
                && (view.at(&place).is_some() || !places.insert(place))
            {
                return Err(taken(verified.record()));
            }
            new.push(envelope.clone());
        }
        if view.size().saturating_add(new.len() as u64) > RECORDS_MAX {
            return Err(LedgerError::new(
                Kind::Refused,
                format!("the log '{}' is full: it has {} records", self.name.folder(), view.size()),
            ));
        }
        Ok(new)
    }

    pub(super) fn tell_recorded(&self, n: u64, envelope: &Envelope) {
        if let Some(entry) = self.view().entry(n) {
            self.audit.recorded(&self.name, entry, envelope);
        }
    }

    /// Takes what lies in the next slot, if it can be the record of it.
    pub(super) fn take_own(&self, envelope: &Envelope) -> Result<(), String> {
        self.view.write().unwrap_or_else(PoisonError::into_inner).take_own(&self.name, envelope).map(|_| ())
    }

    pub(super) fn take(&self, n: u64, envelope: &Envelope) -> Result<(), LedgerError> {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        view.take(envelope).map(|_| ()).map_err(|e| LedgerError::incident(&self.name.folder(), format!("record {n}: {e}")))
    }

    /// The store locks what it writes for this case by what its records say.
    fn tell_custody(&self) {
        let LogName::Case(case) = &self.name else { return };
        let protection = self.view().protection();
        self.store.protect(case, protection);
    }

    pub(super) async fn read_slot(&self, n: u64) -> Result<Envelope, LedgerError> {
        let bytes = self.store.get(&self.name.slot(n), ENVELOPE_BYTES_MAX as u64).await?;
        Envelope::parse(&bytes).map_err(|e| LedgerError::incident(&self.name.folder(), format!("record {n}: {e}")))
    }

    /// Publishes tiles and then a checkpoint over everything that is in the log, unless that was done.
    ///
    /// Order: 1. the tiles; 2. the checkpoint; 3. the catalog knows the head. Each begins when the one before is durable, and slots are so
    /// before all of them, so the catalog never knows of a record that an honest store has not: died before 3, it knows less, and is told
    /// when the log is opened again. It is a step of its own and no part of giving back the right, because marks need not survive the
    /// loss of power and this has to.
    async fn publish(&self) -> Result<(), LedgerError> {
        let head = self.view().head();
        if self.published() < head.size {
            self.publish_head(head).await?;
        }
        self.note(head).await;
        Ok(())
    }

    /// Tells the catalog how long the log is. That it does not hear it now is no error: the record is in the log, and the next one, or
    /// the next opening, tells it.
    async fn note(&self, head: Head) {
        if self.noted.load(Ordering::Acquire) >= head.size {
            return;
        }
        match self.known.keep(&self.name, head).await {
            Ok(()) => self.noted.store(head.size, Ordering::Release),
            Err(error) => {
                tracing::warn!(log = %self.name.folder(), %error, "the catalog does not know yet how long a log is; it is told with the next record");
            }
        }
    }

    async fn publish_head(&self, head: Head) -> Result<(), LedgerError> {
        self.write_tiles(head.size).await?;
        let checkpoint = Checkpoint { origin: self.name.origin(&self.keys.anchor.deployment), size: head.size, root: head.root };
        self.store.put_head(&self.name.checkpoint(), Bytes::from(checkpoint.sign(&self.keys.log))).await?;
        self.published.store(head.size, Ordering::Release);
        // Nobody listens where nothing is stamped.
        let _ = self.grown.send(self.name.clone());
        self.leases.outbox().send(Notice::grown(&self.name));
        Ok(())
    }
}

fn taken(record: &Record) -> LedgerError {
    LedgerError::new(Kind::Conflict, format!("another {} record is in the log in this one's place", record.type_name()))
}
