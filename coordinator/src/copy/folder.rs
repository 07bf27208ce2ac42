//! One folder of the first store, a case or the deployment, copied: what the copy lacks, and then the head that covers it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{CaseObject, LogName};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{Digest, Hasher, Timestamp};
use exhibit_proto::bounds::MANIFEST_BYTES_MAX;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::Second;
use super::compare::{Difference, Differences, Lag, is_foreign, shown};
use super::failed::Failed;
use super::heads::{Head, head_of};
use super::known::Foreign;
use super::missing::Noted;
use super::strangers::Strangers;
use super::told::{Telling, Told};
use crate::custody;
use crate::ledger::Ledger;
use crate::pace::Pace;
use crate::parts::Parts;
use crate::problem::Problem;
use crate::store::{Entry, Kind, Payload};

/// Objects and bytes that are copied in one go: for so long a disposal, and every other folder, waits.
const BATCH_OBJECTS: usize = 64;
const BATCH_BYTES: u64 = 16 << 20;
/// Of a low rate no more than so many seconds of it.
const BATCH_S: u64 = 2;
/// For so long a step compares before others have their turn.
const COMPARE_WITHIN: Duration = Duration::from_secs(2);
/// Objects up to this size are copied several at once, because what takes time is to ask for them.
const SMALL_BYTES: u64 = 256 << 10;
const SMALL_AT_ONCE: usize = 8;
/// Bytes of a copied object that are read back at once.
const READ_BACK_BYTES: u64 = 4 << 20;
/// The largest object that is copied, because it is in memory as a whole meanwhile: the largest manifest that is ever closed. Nothing
/// of ours is larger.
const COPIED_BYTES_MAX: u64 = MANIFEST_BYTES_MAX + (1 << 20);

/// What became of a look at a folder.
#[derive(Debug, Default)]
pub struct Looked {
    /// What is missing: it waits for a head, or could not be copied for a reason that another try does not change. What differs.
    pub left: Lag,
    /// What the copy alone has, and nothing of ours speaks of.
    pub foreign: Foreign,
    /// When the oldest object was written that is not in the copy and is not missing there either: a record that no head covers yet, or what
    /// is none of ours now.
    pub unsigned: Option<Timestamp>,
    /// Objects and bytes that were copied since somebody asked.
    pub copied: (u64, u64),
    /// The time that comparing took.
    pub comparing: Duration,
}

impl Looked {
    /// It is not copied now, and may be one day, without anybody having deleted it in the copy.
    fn leaves_out(&mut self, entry: &Entry) {
        self.unsigned = self.unsigned.into_iter().chain([entry.modified]).min();
    }
}

/// A folder that is being copied.
pub struct Folder<'a> {
    pub(super) parts: &'a Parts,
    pub(super) second: &'a Second,
    /// `cases/<case>` or `deployment`.
    pub name: String,
    /// What was found so far.
    pub looked: Looked,
    pub(super) head: Option<Head>,
    pub(super) ledger: OnceCell<Ledger>,
    pub(super) signed: Option<u64>,
    /// The last collection of which it was found that its destruction is certified, and that parts of it still lay in the copy.
    pub(super) undestroyed: Option<CollectionId>,
    differences: Differences<'a>,
    /// Records that are younger than the head, and heads: they wait for what is under them.
    waiting: Lag,
    asked_before: Timestamp,
    /// What was written before was in the copy.
    pub(super) covered: Timestamp,
    /// Records under the copy's own head before this look.
    pub(super) copied_to: OnceCell<u64>,
    pub(super) put_back: Noted,
    telling: Telling,
    strangers: Strangers,
}

impl<'a> Folder<'a> {
    /// Begins to copy what the copy lacks. Order, of which this is 1:
    ///
    /// 1. the head of the log is read: every object that its records speak of is durable in the first store by now
    /// 2. both stores are listed side by side; what is missing is written into the copy, create-only, and read back. Records that are
    ///    younger than that head wait for the next time
    /// 3. that head goes into the copy
    ///
    /// Died anywhere: the next look finds by listing what is missing. Until 3 the copy is what the head before says, and records
    /// after it.
    ///
    /// What was written before `asked_before` may have been in the copy: if it is missing, the copy is asked what became of it. What was written
    /// before `covered` was in it. What `told` remembers is not told again.
    ///
    /// In memory: a page of 1,000 names of each store (about 300 KiB) and 64 names for the batch. Of contents either eight objects of up
    /// to 256 KiB or one larger one, of 513 MiB at most, and what is read back of them, 4 MiB at a time.
    ///
    /// # Errors
    /// [`Failed`]: the same call may be repeated.
    pub async fn begin(
        parts: &'a Parts,
        second: &'a Second,
        name: String,
        (asked_before, covered): (Timestamp, Timestamp),
        told: &Arc<Told>,
    ) -> Result<Self, Failed> {
        let differences = Differences::below(&name, &*parts.store, &*second.store);
        let telling = Telling::of(told, &name);
        let mut folder = Self {
            parts,
            second,
            name,
            looked: Looked::default(),
            head: None,
            ledger: OnceCell::new(),
            signed: None,
            undestroyed: None,
            differences,
            waiting: Lag::default(),
            asked_before,
            covered,
            copied_to: OnceCell::new(),
            put_back: Noted::default(),
            telling,
            strangers: Strangers::of(parts),
        };
        if let Some(log) = folder.log() {
            let (head, wrong) = head_of(parts, &log).await?;
            folder.head = head;
            if wrong {
                let what = format!("'{}' in the store is no signed head of this log; no record of it is copied", shown(&log.checkpoint()));
                folder.source(&what).await;
            }
        }
        Ok(folder)
    }

    /// Copies one batch, so that others have their turn. True while there is more to do.
    ///
    /// # Errors
    /// [`Failed`]: then the folder is begun anew.
    pub async fn step(&mut self) -> Result<bool, Failed> {
        let size = self.head.as_ref().map_or(0, |(_, head)| head.size);
        let bytes_max = self.second.rate.map_or(BATCH_BYTES, |rate| rate.saturating_mul(BATCH_S).clamp(1, BATCH_BYTES));
        let (mut batch, begun) = (Batch::default(), Instant::now());
        while !batch.is_full(bytes_max) && begun.elapsed() < COMPARE_WITHIN {
            let asked = Instant::now();
            let difference = self.differences.next().await?;
            self.looked.comparing += asked.elapsed();
            match difference {
                None => {
                    self.put(batch).await?;
                    self.end().await?;
                    return Ok(false);
                }
                Some(Difference::Missing(entry)) if entry.size > COPIED_BYTES_MAX => {
                    if !self.is_strange(&entry).await? {
                        self.too_large(&entry).await;
                    }
                }
                Some(Difference::Missing(entry) | Difference::Head(entry, None)) if is_foreign(&entry.name) => self.stranger(&entry).await,
                Some(Difference::Missing(entry)) => {
                    if matches!(self.object(&entry.name), Some(CaseObject::Slot(n)) if n >= size) {
                        self.waiting.add(&entry);
                        self.looked.leaves_out(&entry);
                    } else if !self.is_strange(&entry).await? {
                        batch.add(entry);
                    }
                }
                Some(Difference::Head(entry, there)) => {
                    if there != Some(entry.size) {
                        self.waiting.add(&entry);
                    }
                }
                Some(Difference::Differs(entry, size)) => {
                    self.looked.left.differ = self.looked.left.differ.saturating_add(1);
                    let name = shown(&entry.name);
                    self.differs(&format!("'{name}' has {} bytes in the store and {size} in the copy", entry.size)).await;
                }
                Some(Difference::OnlyInCopy(entry)) => self.only_in_copy(&entry).await?,
            }
        }
        self.put(batch).await?;
        Ok(true)
    }

    async fn end(&mut self) -> Result<(), Failed> {
        let is_covered = self.looked.left.objects == 0;
        self.heads(is_covered).await?;
        let waiting = std::mem::take(&mut self.waiting);
        // With a head, the heads are there now. Records beyond them made the log grow, for which it is looked at again.
        if !is_covered || self.head.is_none() {
            self.looked.left.join(&waiting);
        }
        for (kind, what) in self.telling.end() {
            if self.parts.incident(self.concerned(kind).as_ref(), kind, &self.name, &what).await.is_told() {
                self.telling.told_rest(kind);
            }
        }
        Ok(())
    }

    async fn too_large(&mut self, entry: &Entry) {
        self.looked.left.add(entry);
        let (name, size) = (shown(&entry.name), entry.size);
        self.source(&format!(
            "'{name}' has {size} bytes in the store, and nothing of ours more than {COPIED_BYTES_MAX}; it was not copied"
        ))
        .await;
    }

    /// Tells of what has a name that could be ours and is none of ours; then it is not copied, and the head does not wait for it.
    async fn is_strange(&mut self, entry: &Entry) -> Result<bool, Failed> {
        let Some(why) = self.strangers.why(&entry.name).await? else { return Ok(false) };
        self.looked.leaves_out(entry);
        let (kind, name) = ("store-foreign", shown(&entry.name));
        // Why may say of how many records the log is, which changes with each incident, and would be told each time.
        let what = format!("'{name}' is none of ours");
        if self.telling.is_new(kind, &what) {
            let detail = format!("'{name}': {why}; it is not copied (docs/operations/stores.md says what to do)");
            if self.parts.incident(self.concerned(kind).as_ref(), kind, &self.name, &detail).await.is_told() {
                self.telling.told(kind, &what);
            }
        }
        Ok(true)
    }

    async fn stranger(&self, entry: &Entry) {
        let name = shown(&entry.name);
        let what = format!(
            "'{name}' is in the store, and nothing of ours has such a name; it is not copied (docs/operations/stores.md says what to do)"
        );
        self.tell("store-foreign", &what).await;
    }

    /// The folder's log; none of a folder that is no case's.
    pub(super) fn log(&self) -> Option<LogName> {
        if self.name == "deployment" { Some(LogName::Deployment) } else { self.case().map(LogName::Case) }
    }

    pub(super) fn case(&self) -> Option<CaseId> {
        self.name.strip_prefix("cases/")?.parse().ok()
    }

    pub(super) fn object(&self, name: &str) -> Option<CaseObject> {
        CaseObject::parse(name.strip_prefix(self.name.as_str())?.strip_prefix('/')?)
    }

    /// Writes a batch while nothing of the case is destroyed: what a disposal has destroyed, or is about to, must not come back.
    async fn put(&mut self, batch: Batch) -> Result<(), Failed> {
        if batch.entries.is_empty() {
            return Ok(());
        }
        for (entry, copied) in self.copy_all(batch).await? {
            if copied {
                let (objects, bytes) = self.looked.copied;
                self.looked.copied = (objects.saturating_add(1), bytes.saturating_add(entry.size));
            } else {
                self.looked.left.add(&entry);
            }
        }
        Ok(())
    }

    async fn copy_all(&self, batch: Batch) -> Result<Vec<(Entry, bool)>, Failed> {
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
        Pace::new(self.second.rate).moved(done.iter().map(|(entry, _)| entry.size).sum()).await;
        Ok(done)
    }

    /// Those that a disposal has destroyed, or is about to.
    pub(super) async fn disposed_of(&self, entries: impl Iterator<Item = &Entry>) -> Result<BTreeSet<String>, Failed> {
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
            Err(e) if e.kind() == Kind::NotFound => return self.vanished(entry, still).await,
            Err(e) => return Err(e.into()),
        };
        let digest = Digest::of(&bytes);
        if let Some(wanted) = self.digest_of(&entry.name).await?
            && wanted != digest
        {
            let name = shown(&entry.name);
            self.source(&format!("'{name}' reads back from the store with SHA-256 {digest}, and {wanted} was written; it was not copied"))
                .await;
            return Ok(false);
        }
        let was_there = self.was_there(entry).await?;
        let hidden = self.hidden(entry, was_there).await?;
        if !still.lasts() {
            return Err(Failed::Passing("the right to copy was lost while an object was read".to_owned()));
        }
        let stored = match copy.put_new(&entry.name, Payload::from(bytes), digest).await {
            Ok(stored) => stored,
            Err(e) if e.kind() == Kind::Conflict => {
                self.differs(&e.to_string()).await;
                return Ok(false);
            }
            Err(e) => return Err(e.into()),
        };
        if let Some(marker) = hidden {
            let version = escape_bounded(stored.version.as_deref().unwrap_or("unknown"), 80);
            let detail = format!(
                "'{}' was hidden in the copy {marker}: somebody deleted it there. It was put there again, as \
                 version '{version}' (docs/operations/stores.md says what to do)",
                shown(&entry.name)
            );
            self.parts.incident(self.case().as_ref(), "copy-marker", &self.name, &detail).await;
        } else if was_there && !stored.existed {
            self.note_put_back(&entry.name);
        }
        if self.read_back(entry).await? != digest {
            self.differs(&format!("'{}' was written into the copy and reads back differently", shown(&entry.name))).await;
            return Ok(false);
        }
        self.parts.metrics.copied(entry.size);
        Ok(true)
    }

    /// An object that was listed and is not there: neither store has it now, so no comparison would tell. Disposals wait for this batch,
    /// so what a record or the catalog speaks of was lost. True when nothing speaks of it.
    async fn vanished(&self, entry: &Entry, still: &custody::Standstill<'_>) -> Result<bool, Failed> {
        if self.digest_of(&entry.name).await?.is_none() {
            return Ok(true);
        }
        if !still.lasts() {
            return Err(Failed::Passing("the right to copy was lost while an object was looked for".to_owned()));
        }
        let name = shown(&entry.name);
        self.source(&format!("'{name}' was in the store when it was listed and is gone; it was not copied")).await;
        Ok(false)
    }

    /// What hides in the copy an object that was there before, in words; listings do not show it.
    async fn hidden(&self, entry: &Entry, was_there: bool) -> Result<Option<String>, Failed> {
        let is_asked = was_there || entry.modified < self.asked_before;
        let Some(s3) = self.second.store.attestable().filter(|_| is_asked) else { return Ok(None) };
        match s3.vault.versions_of(&entry.name).await {
            Ok(versions) => Ok(s3.vault.hidden_by(&versions)),
            Err(e) if e.kind() == Kind::Retry => Err(e.into()),
            // Not every store lists versions; 'store check' says what that means.
            Err(_) => Ok(None),
        }
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

    pub(super) async fn differs(&self, what: &str) {
        self.tell("copy-differs", &format!("{what} (docs/operations/stores.md says what to do)")).await;
    }

    async fn source(&self, what: &str) {
        self.tell("copy-source", what).await;
    }

    /// Tells what this look found, unless it was told before. The same difference has the same text. False when it could not be told.
    pub(super) async fn tell(&self, kind: &'static str, what: &str) -> bool {
        if !self.telling.is_new(kind, what) {
            return true;
        }
        let is_told = self.parts.incident(self.concerned(kind).as_ref(), kind, &self.name, what).await.is_told();
        if is_told {
            self.telling.told(kind, what);
        }
        is_told
    }

    /// The case in whose log it is told: what the store lost may be that log.
    fn concerned(&self, kind: &str) -> Option<CaseId> {
        self.case().filter(|_| kind != "store-lost")
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

    const fn is_full(&self, bytes_max: u64) -> bool {
        self.entries.len() >= BATCH_OBJECTS || self.bytes >= bytes_max
    }
}
