//! How much intake takes on at once. HTTP/2 windows and buffers are promises of memory: these are their sum.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use exhibit_evidence::id::{AgentId, CollectionId};
use exhibit_evidence::layout::StreamNumber;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::tools::Tools;
use super::turned_away::TurnedAway;
use crate::problem::{Kind, Problem, Result};
use crate::replica::Lease;

/// How long an upload waits for the one that it replaces.
const TAKE_OVER: Duration = Duration::from_secs(30);
/// Bytes that one permit of the byte budget stands for.
const PERMIT_BYTES: u64 = 64 << 10;

/// What intake may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Uploads at once; more are asked to come back.
    pub uploads_max: usize,
    /// Bytes of segments and manifest lines in memory at once, over all uploads. One upload holds one segment at a time:
    /// usually 4 MiB and its lines, at most 10 + 10 MiB; up to three are on their way at once.
    pub bytes_in_flight_max: u64,
    /// Segments that are checked at once; each keeps a processor busy.
    pub checks_max: usize,
    /// Bytes that must stay free in the store, where the store knows.
    pub free_bytes_min: u64,
    /// Seconds after an order's deadline, or after a cancel, in which an agent may still send what it took.
    pub grace_s: i64,
}

impl Default for Limits {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self { uploads_max: 256, bytes_in_flight_max: 512 << 20, checks_max: processors, free_bytes_min: 256 << 20, grace_s: 600 }
    }
}

type Key = (CollectionId, StreamNumber);

/// Held while an object of the stream is put, also when nobody waits for the put any more. True when nothing more may
/// be put, because the end of the collection is being written.
pub(super) type Writing = Arc<tokio::sync::Mutex<bool>>;

#[derive(Debug)]
struct Slot {
    cut: watch::Sender<bool>,
    lock: Arc<tokio::sync::Mutex<()>>,
    writing: Writing,
}

/// The uploads that run and the budgets that they share.
#[derive(Debug)]
pub struct Uploads {
    limits: Limits,
    slots: Mutex<HashMap<Key, Slot>>,
    /// How often a collection's upload was refused as false.
    strikes: Mutex<HashMap<CollectionId, u32>>,
    uploads: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    checks: Arc<Semaphore>,
    bytes_max: u64,
    /// Buffers and decoders of segments.
    pub(super) tools: Tools,
    /// Agents that have an upload: whose turn it is to send a segment.
    turns: Mutex<HashMap<AgentId, Arc<tokio::sync::Mutex<()>>>>,
    turned_away: TurnedAway,
}

/// An upload's place: held as long as it runs.
#[derive(Debug)]
pub struct Place {
    /// Becomes true when the upload must end.
    pub cut: watch::Receiver<bool>,
    pub(super) writing: Writing,
    /// No other coordinator writes objects of this collection.
    pub(super) right: Arc<Lease>,
    _alone: OwnedMutexGuard<()>,
    _permit: OwnedSemaphorePermit,
}

impl Default for Uploads {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Uploads {
    /// With these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        // At least one whole segment must fit, or nothing would ever move.
        let bytes = limits.bytes_in_flight_max.max(80 << 20) / PERMIT_BYTES;
        Self {
            limits,
            slots: Mutex::default(),
            strikes: Mutex::default(),
            uploads: Arc::new(Semaphore::new(limits.uploads_max.max(1))),
            bytes: Arc::new(Semaphore::new(bytes as usize)),
            checks: Arc::new(Semaphore::new(limits.checks_max.max(1))),
            bytes_max: bytes.saturating_mul(PERMIT_BYTES),
            turns: Mutex::default(),
            turned_away: TurnedAway::default(),
            tools: Tools::new(limits.checks_max.max(1)),
        }
    }

    /// Bytes that must stay free in the store.
    #[must_use]
    pub const fn free_bytes_min(&self) -> u64 {
        self.limits.free_bytes_min
    }

    /// Seconds after an order's deadline, or after a cancel, in which an agent may still send what it took.
    #[must_use]
    pub const fn grace_s(&self) -> i64 {
        self.limits.grace_s
    }

    /// Takes the place of this stream's upload; an older upload of it is cut first.
    ///
    /// # Errors
    /// [`Kind::Busy`] when there are too many uploads, or the older one does not end.
    pub(super) async fn take(&self, collection: &CollectionId, stream: StreamNumber, right: Arc<Lease>) -> Result<Place> {
        let (lock, cut, writing) = self.replace(&(collection.clone(), stream));
        let Ok(alone) = tokio::time::timeout(TAKE_OVER, lock.lock_owned()).await else {
            return Err(Problem::new(Kind::Busy, "the earlier upload of this stream has not ended yet; try again in a moment"));
        };
        // After the earlier one has ended: its permit is then free.
        let Ok(permit) = Arc::clone(&self.uploads).try_acquire_owned() else {
            return Err(Problem::new(Kind::Busy, format!("{} uploads run already; try again in a moment", self.limits.uploads_max)));
        };
        Ok(Place { cut, writing, right, _alone: alone, _permit: permit })
    }

    fn replace(&self, key: &Key) -> (Arc<tokio::sync::Mutex<()>>, watch::Receiver<bool>, Writing) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Slots whose upload has ended are forgotten here, so that their number follows that of the uploads.
        slots.retain(|k, slot| k == key || Arc::strong_count(&slot.lock) > 1 || Arc::strong_count(&slot.writing) > 1);
        let (cut, receiver) = watch::channel(false);
        let (lock, writing) = match slots.remove(key) {
            Some(old) => {
                old.cut.send_replace(true);
                (old.lock, old.writing)
            }
            None => Default::default(),
        };
        slots.insert(key.clone(), Slot { cut, lock: Arc::clone(&lock), writing: Arc::clone(&writing) });
        (lock, receiver, writing)
    }

    /// Waits until no object of the collection is being put, and lets none be put from now on. The collection must be past
    /// `running` in the catalog, so that no upload is let in afterwards.
    pub(crate) async fn end_writing(&self, collection: &CollectionId) {
        let writing: Vec<Writing> = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.iter().filter(|((id, _), _)| id == collection).map(|(_, slot)| Arc::clone(&slot.writing)).collect()
        };
        for writing in writing {
            *writing.lock().await = true;
        }
    }

    /// Ends all uploads of a collection.
    pub fn cut(&self, collection: &CollectionId) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in slots.iter().filter(|((id, _), _)| id == collection).map(|(_, slot)| slot) {
            slot.cut.send_replace(true);
        }
    }

    /// Uploads that run.
    #[must_use]
    pub fn open(&self) -> usize {
        self.limits.uploads_max.max(1).saturating_sub(self.uploads.available_permits())
    }

    /// An agent asked to upload, and the catalog answered or not; or it waits for the right to a collection, lost it, or got it.
    pub(super) fn note_asked(&self, agent: &AgentId, answered: bool) {
        if answered {
            self.turned_away.forget(agent);
        } else {
            self.turned_away.note(agent, Instant::now());
        }
    }

    /// Agents whose uploads were turned away because the catalog does not answer, or the right to write was still another upload's, and
    /// that come again; those that wait for it too.
    #[must_use]
    pub fn turned_away(&self) -> usize {
        self.turned_away.count(Instant::now())
    }

    /// Ends all uploads.
    pub fn cut_all(&self) {
        for slot in self.slots.lock().unwrap_or_else(PoisonError::into_inner).values() {
            slot.cut.send_replace(true);
        }
    }

    /// Waits until this agent may send a segment: one at a time, over all its uploads, so that no agent holds more than one
    /// segment's share of the memory that all share.
    pub(super) async fn turn(&self, agent: &AgentId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|known, turn| known == agent || Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(agent.clone()).or_default())
        };
        turn.lock_owned().await
    }

    /// Waits until this many bytes may be held.
    pub(super) async fn bytes(&self, count: u64) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(count.div_ceil(PERMIT_BYTES)).ok()?;
        Arc::clone(&self.bytes).acquire_many_owned(permits).await.ok()
    }

    /// Waits until this many bytes may be held, or all that there are if it is more.
    pub(crate) async fn share(&self, count: u64) -> Option<OwnedSemaphorePermit> {
        self.bytes(count.min(self.bytes_max)).await
    }

    /// Waits until a check may run.
    pub(super) async fn check(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.checks).acquire_owned().await.ok()
    }

    /// Counts a false upload; gives how many there were.
    pub(super) fn strike(&self, collection: &CollectionId) -> u32 {
        let mut strikes = self.strikes.lock().unwrap_or_else(PoisonError::into_inner);
        let count = strikes.entry(collection.clone()).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// Forgets a collection that is closed.
    pub fn forget(&self, collection: &CollectionId) {
        self.strikes.lock().unwrap_or_else(PoisonError::into_inner).remove(collection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn right() -> Arc<Lease> {
        crate::replica::Leases::of_one().shared("collection", Duration::ZERO).await.expect("alone")
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_upload_cuts_the_old_one_and_waits_for_its_end() {
        let uploads = Arc::new(Uploads::new(Limits { uploads_max: 2, ..Limits::default() }));
        let id = CollectionId::from_digest(&exhibit_evidence::Digest::of(b"c"));
        let mut first = uploads.take(&id, StreamNumber(1), right().await).await.expect("free");
        let (second, ()) = tokio::join!(uploads.take(&id, StreamNumber(1), right().await), async {
            first.cut.wait_for(|c| *c).await.expect("cut");
            drop(first);
        });
        let second = second.expect("taken over");
        assert!(!*second.cut.borrow());
        assert_eq!(
            uploads.take(&id, StreamNumber(1), right().await).await.map(|_| ()).map_err(|p| p.kind()),
            Err(Kind::Busy),
            "the second does not end"
        );
        let _other = uploads.take(&id, StreamNumber(2), right().await).await.expect("a second permit");
        assert_eq!(
            uploads.take(&id, StreamNumber(3), right().await).await.map(|_| ()).map_err(|p| p.kind()),
            Err(Kind::Busy),
            "no permit left"
        );
    }
}
