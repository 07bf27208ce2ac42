//! One folder of the first store, a case or the deployment, copied: what the copy lacks, and then the head that covers it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{CaseObject, LogName};
use exhibit_evidence::log::{Checkpoint, NOTE_BYTES_MAX};
use exhibit_evidence::{Digest, Hasher};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;

use super::Second;
use super::compare::{Difference, Differences, Lag, is_gone, is_head, shown};
use crate::catalog::CatalogError;
use crate::custody;
use crate::pace::Pace;
use crate::parts::Parts;
use crate::problem::Problem;
use crate::store::{Entry, Kind, Payload, StoreError};

/// Objects and bytes that are copied in one go: for so long a disposal waits.
const BATCH_OBJECTS: usize = 64;
const BATCH_BYTES: u64 = 16 << 20;
/// Objects up to this size are copied several at once, because what takes time is to ask for them.
const SMALL_BYTES: u64 = 256 << 10;
const SMALL_AT_ONCE: usize = 8;
/// Bytes of a copied object that are read back at once.
const READ_BACK_BYTES: u64 = 4 << 20;
/// Heads that witnesses vouch for: one for each witness and size that was asked for.
const COSIGNED_MAX: usize = 1 << 20;

/// Why a folder was not copied whole.
#[derive(Debug)]
pub enum Failed {
    /// A store.
    Store(StoreError),
    /// The catalog, a log, a right.
    Own(String),
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(e) => e.fmt(f),
            Self::Own(e) => f.write_str(e),
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
        Self::Own(e.to_string())
    }
}

impl From<CatalogError> for Failed {
    fn from(e: CatalogError) -> Self {
        Self::Own(e.to_string())
    }
}

/// What became of a look at a folder.
#[derive(Debug, Default)]
pub struct Looked {
    /// What is missing and could not be copied, for a reason that another try does not change; what differs.
    pub left: Lag,
    /// The time that comparing took.
    pub comparing: Duration,
}

/// A folder that is being copied.
pub struct Folder<'a> {
    /// The coordinator.
    pub parts: &'a Parts,
    /// Where it is copied to.
    pub second: &'a Second,
    /// `cases/<case>` or `deployment`.
    pub name: &'a str,
}

impl Folder<'_> {
    /// Copies what the copy lacks. Order:
    ///
    /// 1. the head of the log is read: every object that its records speak of is durable in the first store by now
    /// 2. both stores are listed side by side; what is missing is written into the copy, create-only, and read back. Records that are
    ///    younger than that head wait for the next time
    /// 3. that head goes into the copy
    ///
    /// Died anywhere: the next look finds by listing what is missing. Until 3 the copy is what the head before says, and records
    /// after it.
    ///
    /// # Errors
    /// [`Failed`]: the same call may be repeated.
    pub async fn copy(&self) -> Result<Looked, Failed> {
        let log = self.log();
        let (first, copy) = (&*self.parts.store, &*self.second.store);
        let head = match &log {
            Some(log) => self.head_of(log).await?,
            None => None,
        };
        let size = head.as_ref().map_or(0, |(_, size)| *size);
        let Looked { mut left, mut comparing } = Looked::default();
        let mut batch = Batch::default();
        let mut differences = Differences::below(self.name, first, copy);
        loop {
            let asked = Instant::now();
            let difference = differences.next().await?;
            comparing += asked.elapsed();
            let Some(difference) = difference else { break };
            match difference {
                Difference::Missing(entry) => {
                    if matches!(self.object(&entry.name), Some(CaseObject::Slot(n)) if n >= size) {
                        continue;
                    }
                    batch.add(entry);
                    if batch.is_full() {
                        self.put(std::mem::take(&mut batch), &mut left).await?;
                    }
                }
                Difference::Differs(entry, size) => {
                    left.differ = left.differ.saturating_add(1);
                    let name = shown(&entry.name);
                    self.differs(&entry.name, &format!("'{name}' has {} bytes in the store and {size} in the copy", entry.size)).await;
                }
                Difference::OnlyInCopy(entry) => self.only_in_copy(&entry, &mut left).await?,
            }
        }
        self.put(batch, &mut left).await?;
        if let (Some(log), Some((head, size))) = (log, head)
            && left.objects == 0
        {
            self.put_cosigned(&log).await?;
            self.put_head(&log, head, size).await?;
        }
        Ok(Looked { left, comparing })
    }

    /// The folder's log; none of a folder that is no case's.
    fn log(&self) -> Option<LogName> {
        if self.name == "deployment" { Some(LogName::Deployment) } else { self.case().map(LogName::Case) }
    }

    fn case(&self) -> Option<CaseId> {
        self.name.strip_prefix("cases/")?.parse().ok()
    }

    fn object(&self, name: &str) -> Option<CaseObject> {
        CaseObject::parse(name.strip_prefix(self.name)?.strip_prefix('/')?)
    }

    /// The newest signed head and the records under it.
    async fn head_of(&self, log: &LogName) -> Result<Option<(Bytes, u64)>, Failed> {
        let bytes = match self.parts.store.get(&log.checkpoint(), NOTE_BYTES_MAX as u64).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // What is no head of ours is no head to the copy either: the ledger tells it, and records wait.
        let head = Checkpoint::verify(&bytes, &self.parts.ledgers.log_key().public()).ok();
        Ok(head.filter(|head| head.origin == log.origin(self.parts.deployment())).map(|head| (bytes, head.size)))
    }

    /// An older one never replaces a newer one.
    async fn put_head(&self, log: &LogName, head: Bytes, size: u64) -> Result<(), Failed> {
        let copy = &self.second.store;
        let there = match copy.get(&log.checkpoint(), NOTE_BYTES_MAX as u64).await {
            Ok(there) if there == head => return Ok(()),
            Ok(there) => Checkpoint::verify(&there, &self.parts.ledgers.log_key().public()).map_or(0, |head| head.size),
            Err(e) if e.kind() == Kind::NotFound => 0,
            Err(e) => return Err(e.into()),
        };
        if there < size {
            copy.put_head(&log.checkpoint(), head).await?;
        }
        Ok(())
    }

    /// Heads that witnesses vouch for may get one more witness's line.
    async fn put_cosigned(&self, log: &LogName) -> Result<(), Failed> {
        let (first, copy) = (&*self.parts.store, &*self.second.store);
        let folder = log.cosigned_folder();
        let there = crate::store::list_all(copy, &folder, COSIGNED_MAX).await?;
        for entry in crate::store::list_all(first, &folder, COSIGNED_MAX).await? {
            if !there.iter().any(|e| e.name == entry.name && e.size == entry.size) {
                copy.put_head(&entry.name, first.get(&entry.name, NOTE_BYTES_MAX as u64).await?).await?;
            }
        }
        Ok(())
    }

    /// Writes a batch while nothing of the case is destroyed: what a disposal has destroyed, or is about to, must not come back.
    async fn put(&self, batch: Batch, left: &mut Lag) -> Result<(), Failed> {
        if batch.entries.is_empty() {
            return Ok(());
        }
        let still = custody::standstill(self.parts).await?;
        let disposed = self.disposed_of(batch.entries.iter()).await?;
        let wanted = batch.entries.into_iter().filter(|entry| !disposed.contains(&entry.name));
        let (small, large): (Vec<Entry>, Vec<Entry>) = wanted.partition(|e| e.size <= SMALL_BYTES);
        let still_now = &still;
        let small = small.into_iter().map(|entry| async move { self.one(&entry, still_now).await.map(|done| (entry, done)) });
        let small = futures::stream::iter(small);
        let mut done: Vec<(Entry, bool)> = small.buffer_unordered(SMALL_AT_ONCE).try_collect().await?;
        for entry in large {
            let copied = self.one(&entry, &still).await?;
            done.push((entry, copied));
        }
        still.end().await;
        let bytes = done.iter().map(|(entry, _)| entry.size).sum();
        done.iter().filter(|(_, copied)| !copied).for_each(|(entry, _)| left.add(entry));
        Pace::new(self.second.rate).moved(bytes).await;
        Ok(())
    }

    /// Those that a disposal has destroyed, or is about to.
    async fn disposed_of(&self, entries: impl Iterator<Item = &Entry>) -> Result<BTreeSet<String>, Failed> {
        let of_collection = |entry: &Entry| match self.object(&entry.name) {
            Some(CaseObject::Segment(collection, ..) | CaseObject::Manifest(collection, _)) => Some((entry.name.clone(), collection)),
            _ => None,
        };
        let named: Vec<(String, CollectionId)> = entries.filter_map(of_collection).collect();
        let Some(case) = self.case().filter(|_| !named.is_empty()) else { return Ok(BTreeSet::new()) };
        let ledger = self.parts.ledgers.case(&case).await.map_err(Problem::from)?;
        Ok(named.into_iter().filter(|(_, collection)| custody::is_disposed_of(&ledger, collection)).map(|(name, _)| name).collect())
    }

    /// One object. False when it cannot be copied, which is then an incident.
    async fn one(&self, entry: &Entry, still: &custody::Standstill<'_>) -> Result<bool, Failed> {
        let (first, copy) = (&*self.parts.store, &*self.second.store);
        let bytes = match first.get(&entry.name, entry.size).await {
            Ok(bytes) => bytes,
            // A disposal on the way, or a loss: the next comparison tells.
            Err(e) if e.kind() == Kind::NotFound => return Ok(true),
            Err(e) => return Err(e.into()),
        };
        let digest = Digest::of(&bytes);
        if let Some(wanted) = self.digest_of(&entry.name).await?
            && wanted != digest
        {
            let name = shown(&entry.name);
            let detail =
                format!("'{name}' reads back from the store with SHA-256 {digest}, and {wanted} was acknowledged; it was not copied");
            self.parts.incident(self.case().as_ref(), "copy-source", self.name, &detail).await;
            return Ok(false);
        }
        if !still.lasts() {
            return Err(Failed::Own("the right to copy was lost while an object was read".to_owned()));
        }
        match copy.put_new(&entry.name, Payload::from(bytes), digest).await {
            Ok(_) => {}
            Err(e) if e.kind() == Kind::Conflict => {
                self.differs(&entry.name, &e.to_string()).await;
                return Ok(false);
            }
            Err(e) => return Err(e.into()),
        }
        if self.read_back(entry).await? != digest {
            self.differs(&entry.name, &format!("'{}' was written into the copy and reads back differently", shown(&entry.name))).await;
            return Ok(false);
        }
        self.parts.metrics.copied(entry.size);
        Ok(true)
    }

    /// What was acknowledged of a segment; the catalog may not know it yet.
    async fn digest_of(&self, name: &str) -> Result<Option<Digest>, Failed> {
        let Some(CaseObject::Segment(collection, stream, n)) = self.object(name) else { return Ok(None) };
        let segments = self.parts.catalog.segments(collection, stream, n, 1).await?;
        Ok(segments.into_iter().find(|segment| segment.n == n).map(|segment| segment.sha256))
    }

    async fn read_back(&self, entry: &Entry) -> Result<Digest, Failed> {
        let mut hasher = Hasher::new();
        let mut at = 0;
        while at < entry.size {
            let end = entry.size.min(at.saturating_add(READ_BACK_BYTES));
            hasher.update(&self.second.store.get_range(&entry.name, at..end).await?);
            at = end;
        }
        Ok(hasher.finish())
    }

    async fn differs(&self, name: &str, what: &str) {
        debug_assert!(!is_head(name), "heads are replaced");
        let detail = format!("{what} (docs/operations/stores.md says what to do)");
        self.parts.incident(self.case().as_ref(), "copy-differs", self.name, &detail).await;
    }

    /// The copy has what the store has not: a disposal that is not finished, or a loss.
    async fn only_in_copy(&self, entry: &Entry, left: &mut Lag) -> Result<(), Failed> {
        if !is_gone(&*self.parts.store, &entry.name).await? || !self.disposed_of(std::iter::once(entry)).await?.is_empty() {
            return Ok(());
        }
        left.only_in_copy = left.only_in_copy.saturating_add(1);
        let detail = format!(
            "'{}' is in the copy and not in the store any more: find out who deleted it, and bring it back from the copy",
            shown(&entry.name)
        );
        self.parts.incident(None, "store-lost", self.name, &detail).await;
        Ok(())
    }
}

/// Objects that are copied in one go.
#[derive(Debug, Default)]
struct Batch {
    entries: Vec<Entry>,
    bytes: u64,
}

impl Batch {
    fn add(&mut self, entry: Entry) {
        self.bytes = self.bytes.saturating_add(entry.size);
        self.entries.push(entry);
    }

    const fn is_full(&self) -> bool {
        self.entries.len() >= BATCH_OBJECTS || self.bytes >= BATCH_BYTES
    }
}
