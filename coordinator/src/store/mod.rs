//! Where evidence and logs lie: named objects that are created once and never changed.
//!
//! Trust: whoever owns the store can delete and withhold objects, and everything that they delete or alter is found by
//! the digests and the signed log. They cannot make evidence that verifies.

pub mod attest;
pub mod check;
mod creation;
mod encryption;
mod error;
mod foreign;
pub(crate) mod history;
mod late;
mod local;
mod lock;
mod metered;
mod patience;
mod patient;
mod remote;
mod settings;
mod vault;

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
#[cfg(any(test, feature = "test-support"))]
pub mod faulty;

use std::ops::Range;

use bytes::Bytes;
use exhibit_evidence::{CaseId, Digest, Timestamp};
use futures::future::BoxFuture;
pub use object_store::PutPayload as Payload;

pub(crate) use creation::{can_write, creates_only};
pub use encryption::{Encrypted, Encryption};
pub use error::{Kind, StoreError};
pub use late::{Expected, LateStore, Opening, Standing};
pub use local::{Beside, Claim, LocalStore};
pub use lock::{LOCK_DAYS_MAX, Lock, LockMode, LockPolicy, Protection, Seen};
pub use metered::MeteredStore;
pub use patience::ANSWERS_WITHIN;
use patience::Asked;
pub(crate) use patience::Patience;
pub(crate) use patient::PatientStore;
pub use remote::RemoteStore;
pub use settings::{RemoteKind, RemoteSettings};
pub use vault::{Posture, Vault, Version};

/// What every operation answers with.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Entries of one page of a listing, the most that S3 gives at once.
pub const PAGE_ENTRIES_MAX: usize = 1_000;

/// The longest name: 1,024 bytes is S3's bound for a key.
pub const NAME_BYTES_MAX: usize = 1_024;

/// The largest object: a segment is bounded far below it, a manifest of ten million items stays below it.
pub const OBJECT_BYTES_MAX: u64 = 5 << 30;

/// A large content whose bytes begin at a multiple of this in memory can be handed to a disk without a copy. 4 KiB serve
/// every disk of today; on another one the content is copied as any other.
pub const BLOCK_BYTES: usize = 4_096;

/// What every start writes to try the store.
const PROBE_HEAD: &str = "probe/head";
const PROBE_SLOT: &str = "probe/create-only";
/// What every start tries the lock on, where there is one to be. It stays locked, as evidence does.
const PROBE_LOCK: &str = "probe/lock";
/// What tells two stores apart. It has a head's name, because policies let nothing else be written again.
const PROBE_PLACE: &str = "probe/log/checkpoint";
/// What the copy in a second store is known by (`copy::identity`), and the largest of it.
pub(crate) const COPY_MARK: &str = "probe/copy-mark";
pub(crate) const COPY_MARK_BYTES_MAX: u64 = 1_024;

/// An object store. The contract, which `conformance::run` checks on every backend and wrapper:
///
/// - **Names** are those of `exhibit_evidence::layout`: `/`-separated components of `[a-z0-9._-]`, none of them `.` or
///   `..` or beginning with `.`; anything else is refused as [`Kind::Bug`] before the backend is asked.
/// - **Retries.** A backend may retry inside one call within its own time limit. After that the caller decides by the
///   error's [`Kind`]: [`Kind::Retry`] means that the same call may be repeated as it is. After *any* error of a `put`
///   the write may nevertheless have happened or may still happen; every `put` is therefore safe to repeat.
/// - **Durability.** When a `put` answers `Ok`, the object survives the loss of power of the machine that holds it.
/// - **Consistency.** After a `put` answered `Ok`, every later `get`, `size` and `list` by anyone sees it.
/// - **Concurrency.** All methods may be called at once from any task. Of several `put_new` for one name with
///   different content exactly one succeeds. Calls to `put_head` for one name must not overlap: the ledger holds a lock.
/// - **Cancellation.** Dropping a future gives up waiting, not the write: treat it like an error.
/// - **Absence.** Only [`Kind::NotFound`] means that an object is not there. No other error may be read as absence.
/// - **Destruction.** Only [`Store::destroy`] removes anything, and only `custody::destroy` calls it, on a disposal that two
///   people signed. On S3, and on Google and Azure with a lock, it removes every version; elsewhere a store that keeps old versions
///   keeps them, and whoever owns it must let them expire.
/// - **Locks.** Where the store is told to lock, an object is locked when `put_new` answers `Ok`.
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    /// One line for logs and errors: where this store is. Holds no secret.
    fn describe(&self) -> String;

    /// Creates an object whose content has the digest `sha256` (computed by the caller).
    /// When the name is taken by the same content, that is success with [`Stored::existed`]: the caller's own earlier
    /// try. When it is taken by other content, it is [`Kind::Conflict`], and the first content stays.
    fn put_new<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored>;

    /// Replaces the one kind of object that may be replaced (a checkpoint), atomically: a reader sees the old or the
    /// new bytes, whole. At most 64 KiB.
    fn put_head<'a>(&'a self, name: &'a str, content: Bytes) -> Answer<'a, ()>;

    /// Reads a whole object of at most `bytes_max` bytes; a larger one is [`Kind::Damaged`].
    fn get<'a>(&'a self, name: &'a str, bytes_max: u64) -> Answer<'a, Bytes>;

    /// Reads exactly the bytes of `range`; a range that reaches beyond the end is [`Kind::Damaged`]. An empty range
    /// answers with no bytes if the object exists.
    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> Answer<'a, Bytes>;

    /// The size of an object in bytes.
    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, u64>;

    /// One page of the objects below `folder` at any depth, in byte order of their names, at most
    /// [`PAGE_ENTRIES_MAX`], beginning after the name `after`. A folder that does not exist is empty. Objects that a deletion hides
    /// from whoever names no version are among them, as far as they were found ([`attest::recall`]). Names that nothing of ours ever has
    /// are left out by a store that others can write into, and told ([`Store::foreign`]).
    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> Answer<'a, Page>;

    /// The names of the folders directly below `folder` (last component only), sorted; of those alone that hold an object. A folder that does
    /// not exist has none. What is no name of ours is left out as in [`Store::list`].
    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>>;

    /// Removes an object for good, folders that become empty included. One that is not there is success: the caller's own
    /// earlier try. When it answers `Ok` the removal survives the loss of power, and no later call sees the object. Nothing may
    /// be written below the same folder at the same time.
    fn destroy<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;

    /// Bytes that can still be written, where the store knows (a local disk); `None` where it does not.
    fn free_bytes(&self) -> Answer<'_, Option<u64>>;

    /// What custody asks for a case's objects from now on; the newest word counts. Where the store has no locks of its own
    /// there is nothing to do.
    fn protect(&self, _case: &CaseId, _protection: Protection) {}

    /// What may stand in its place from now on, for a store in whose place something else may stand: a folder whose disk is not mounted.
    fn require(&self, _expected: Expected) {}

    /// What went wrong since the last call that the operator must hear of, beyond the error that a caller got; bounded.
    fn troubles(&self) -> Vec<Trouble> {
        Vec::new()
    }

    /// Why writes are refused, for a reason that a person must see to or because there is no room, as far as somebody kept watch.
    fn refuses_writes(&self) -> Option<Refusal> {
        None
    }

    /// True for an object that is listed and read although a deletion hides it from whoever names no version.
    fn hides(&self, _name: &str) -> bool {
        false
    }

    /// What the last listings left out below a folder, bounded; of a folder that cannot be ours its name, which ends in a slash. The names
    /// are somebody else's: to be escaped before they are shown.
    fn foreign(&self, _folder: &str) -> Vec<String> {
        Vec::new()
    }

    /// Reads one version of an object, of at most `bytes_max` bytes; a larger one is [`Kind::Damaged`]. Only of a store that is
    /// [`Store::attestable`].
    fn get_version<'a>(&'a self, name: &'a str, _version: &'a str, _bytes_max: u64) -> Answer<'a, Bytes> {
        Box::pin(async move { Err(StoreError::not_found(name)) })
    }

    /// From now on this version of an object is the one that is read and looked after, whatever lies on top of it or beneath: whoever
    /// knows what it must say found it.
    fn choose(&self, _name: &str, _version: &str) {}

    /// Writes on top of what somebody else put under a name before us, as long as that is what a reader sees there: whoever writes
    /// between makes it [`Kind::Conflict`], and so does a store that keeps no versions and locks them. What lies there stays beneath.
    /// Only the ledger calls it, after it looked at every version.
    fn put_over<'a>(&'a self, name: &'a str, _content: Payload, _sha256: Digest) -> Answer<'a, Stored> {
        Box::pin(async move { Err(StoreError::conflict(name)) })
    }

    /// Versions and locks, where the store has them.
    fn attestable(&self) -> Option<attest::Attestable> {
        None
    }
}

/// A write that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the store said, and what helps.
    pub why: String,
    /// When.
    pub at: tokio::time::Instant,
    /// Bytes of what found no room; `None` where it was refused for another reason.
    pub full: Option<u64>,
}

/// Something about the store that is an incident.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Trouble {
    /// A stable word for the kind.
    pub kind: &'static str,
    /// What it is about: an object, a folder or the bucket.
    pub subject: String,
    /// What was seen, and what helps.
    pub detail: String,
}

impl Trouble {
    /// True of what somebody put on or under an object and what is passed over, because the genuine version is still there and is read.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.kind, attest::VERSION | attest::MARKER)
    }
}

/// How a `put_new` ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// True when the same content was already there.
    pub existed: bool,
    /// The store's version id, where it has one.
    pub version: Option<String>,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Full name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was written, by the store's clock; as precise as the store says.
    pub modified: Timestamp,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Objects in byte order of their names.
    pub entries: Vec<Entry>,
    /// True when more may follow: ask again with the last name as `after`.
    pub more: bool,
}

/// Lists everything below a folder, at most `entries_max` objects; more is [`Kind::Damaged`].
///
/// # Errors
/// As [`Store::list`].
pub async fn list_all(store: &dyn Store, folder: &str, entries_max: usize) -> Result<Vec<Entry>, StoreError> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let after = all.last().map(|e| e.name.clone());
        let page = store.list(folder, after.as_deref()).await?;
        let (more, none) = (page.more, page.entries.is_empty());
        all.extend(page.entries);
        if all.len() > entries_max {
            return Err(StoreError::new(
                Kind::Damaged,
                format!("'{folder}' holds more than {entries_max} objects"),
                "look for objects that do not belong there",
            ));
        }
        if !more || none {
            return Ok(all);
        }
    }
}

/// Checks at start that this store keeps the two promises that everything rests on: it can be written, and a name that
/// is taken cannot be written again with other content. And that it locks, where it is to. Fixed probe objects are used, so
/// that starting often leaves nothing behind:
///
/// 1. `probe/head` is replaced and read back: the store is there, writable and not full.
///    On S3 with `store.encryption`: the store says that it encrypted it so.
/// 2. `probe/create-only` is created with content A (or found with it).
/// 3. `probe/create-only` is created with content B: this must be refused.
/// 4. With `store.lock`: `probe/lock` is created (or found), has a version, and that version's lock reads back.
///
/// Each call is waited for as long as [`ANSWERS_WITHIN`]. What was not answered may have happened nevertheless: the test can be repeated
/// after any of its steps.
///
/// # Errors
/// [`Kind::Denied`] when the store lets both creations succeed or locks nothing; [`Kind::Retry`] when it is silent; otherwise what the
/// store answered, with the step named.
pub async fn self_test(store: &dyn Store) -> Result<(), StoreError> {
    self_test_with(store, &Patience::default()).await
}

async fn self_test_with(store: &dyn Store, patience: &Patience) -> Result<(), StoreError> {
    creates_only(store, patience).await?;
    can_lock(store, patience).await
}

/// The last part of [`self_test`], which is asked of a copy as well. One that cannot lock would take every object and lock none, or
/// refuse every one.
pub(crate) async fn can_lock(store: &dyn Store, patience: &Patience) -> Result<(), StoreError> {
    if !store.attestable().is_some_and(|found| found.locks()) {
        return Ok(());
    }
    let put = Asked { store, patience }.create(PROBE_LOCK, &Bytes::from_static(b"lock\n")).await;
    put.map(|_| ()).map_err(|e| e.during("the start-up test could not lock an object, as its lock in the configuration asks"))
}

/// True when both are one store, by whatever names they are reached: what is written into the second is then read from the first.
///
/// # Errors
/// As a store cannot be written or read.
pub async fn is_same(first: &dyn Store, second: &dyn Store) -> Result<bool, StoreError> {
    let mark = Bytes::copy_from_slice(&crate::clock::random::<32>());
    let during = "the test whether the copy is the store itself";
    second.put_head(PROBE_PLACE, mark.clone()).await.map_err(|e| e.during(during))?;
    match first.get(PROBE_PLACE, 64).await {
        Ok(there) => Ok(there == mark),
        Err(e) if e.kind() == Kind::NotFound => Ok(false),
        Err(e) => Err(e.during(during)),
    }
}

/// True when every component of the name is one that `exhibit_evidence::layout` could write.
pub(crate) fn name_is_valid(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.split('/').all(|part| {
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        })
}

fn check_name(name: &str) -> Result<(), StoreError> {
    if name_is_valid(name) {
        return Ok(());
    }
    let shown = exhibit_evidence::text::escape_bounded(name, 120);
    Err(StoreError::bug(format!("'{shown}' is not an object name: expected components of [a-z0-9._-] that do not begin with a dot")))
}

fn digest_of(content: &Payload) -> Digest {
    let mut hasher = exhibit_evidence::Hasher::new();
    content.iter().for_each(|bytes| hasher.update(bytes));
    hasher.finish()
}

#[cfg(test)]
mod tests;
