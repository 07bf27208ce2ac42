//! Which second store is the copy. A mount point without its disk, another disk in its place or a bucket that was emptied looks like a copy
//! that is far behind: evidence would be copied under the disk, and called destroyed while it still lies on it. So a copy is known by a mark,
//! and by nothing else:
//!
//! ```text
//! second store   probe/copy-mark      {"deployment": SHA-256 of the deployment log's first record, "id": 32 random bytes}
//! first store    probe/copy-<place>   the same bytes; place: the first 16 characters of the SHA-256 of where the second store is
//! ```
//!
//! Both are created once. In a place of which a mark is remembered nothing else is taken for the copy; a new copy has a new place, which
//! somebody writes into the configuration. The memory is in the first store, because catalogs are made again from it.

use bytes::Bytes;
use exhibit_evidence::Digest;
use exhibit_evidence::layout::LogName;

use crate::clock;
use crate::store::{self, COPY_MARK, COPY_MARK_BYTES_MAX, Expected, Kind, Payload, Store, StoreError};

/// What helps when something else is in the place of the copy.
const OTHER: &str = "bring the copy back to its place, or write another place for a new copy into [copy.store]; nothing is written here; \
                     docs/operations/stores.md says how a mark that was lost comes back";

#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    deployment: Digest,
    id: Digest,
}

/// What a second store is to this deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// The copy that the first store remembers.
    Known,
    /// It has a mark of this deployment, and none is remembered for its place: it lay elsewhere, or its beginning was cut short.
    Marked,
    /// A copy of this deployment without a mark, as earlier versions made them. It gets one when everything is in it.
    Unmarked,
    /// Nothing was copied there yet, and none is remembered for its place.
    New,
}

/// What was found in the place of the copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) identity: Identity,
    /// No record was copied there yet.
    pub(super) is_new: bool,
}

/// Looks what the second store is, without writing into it. `begins`: the caller may begin a copy there, so that an empty folder may be
/// made a store.
///
/// # Errors
/// [`Kind::Denied`] when it is not the copy, and none may be begun there; otherwise as a store cannot be read.
pub(super) async fn of(first: &dyn Store, copy: &dyn Store, begins: bool) -> Result<Found, StoreError> {
    let slot = LogName::Deployment.slot(0);
    let ours = first.get(&slot, store::OBJECT_BYTES_MAX).await?;
    let place = copy.describe();
    let remembered = read(first, &memory_of(&place)).await?;
    let unknown = if begins { Expected::Any } else { Expected::Unknown };
    copy.require(remembered.clone().map_or(unknown, Expected::Marked));
    let mark = read(copy, COPY_MARK).await?;
    // One that is open now may say more of where it is.
    let opened = copy.describe();
    let remembered = if opened == place { remembered } else { read(first, &memory_of(&opened)).await? };
    let theirs = match copy.get(&slot, store::OBJECT_BYTES_MAX).await {
        Ok(theirs) => Some(theirs),
        Err(e) if e.kind() == Kind::NotFound => None,
        Err(e) => return Err(e),
    };
    let deployment = Digest::of(&ours);
    let is_anothers = |mark: &Bytes| !serde_json::from_slice::<Mark>(mark).is_ok_and(|mark| mark.deployment == deployment);
    if theirs.as_ref().is_some_and(|theirs| *theirs != ours) || mark.as_ref().is_some_and(is_anothers) {
        let remedy = "name an empty bucket, prefix or folder in [copy.store], or this deployment's own copy";
        return Err(unfit(copy, "holds another deployment", remedy));
    }
    let identity = match (remembered, mark) {
        (Some(remembered), Some(mark)) if remembered == mark => Identity::Known,
        (Some(_), Some(_)) => return Err(unfit(copy, "is another copy than the one that was in its place", OTHER)),
        (Some(_), None) => return Err(unfit(copy, "has no probe/copy-mark, and the copy that was in its place has one", OTHER)),
        (None, Some(_)) => Identity::Marked,
        (None, None) if theirs.is_some() => Identity::Unmarked,
        (None, None) => Identity::New,
    };
    Ok(Found { identity, is_new: theirs.is_none() })
}

/// From now on it is the known copy of its place. Order:
///
/// 1. the mark into the copy, create-only; one that is there stays
/// 2. the same bytes into the first store, create-only
/// 3. nothing else may stand in its place; its mark is read again
///
/// Died between 1 and 2: the next call finds the mark and goes on. Of two at once the mark of the faster one counts.
///
/// # Errors
/// [`Kind::Denied`] when another one was remembered for its place meanwhile; otherwise as a store fails.
pub(super) async fn settle(first: &dyn Store, copy: &dyn Store) -> Result<(), StoreError> {
    let mark = match read(copy, COPY_MARK).await? {
        Some(mark) => mark,
        None => begin(first, copy).await?,
    };
    let memory = memory_of(&copy.describe());
    if let Err(e) = first.put_new(&memory, Payload::from(mark.clone()), Digest::of(&mark)).await {
        let is_other = e.kind() == Kind::Conflict;
        return Err(if is_other { unfit(copy, "is another copy than the one that was in its place", OTHER) } else { e });
    }
    copy.require(Expected::Marked(mark.clone()));
    let there = read(copy, COPY_MARK).await?;
    if there.as_ref() == Some(&mark) { Ok(()) } else { Err(unfit(copy, "has another mark than a moment ago", OTHER)) }
}

async fn begin(first: &dyn Store, copy: &dyn Store) -> Result<Bytes, StoreError> {
    let ours = first.get(&LogName::Deployment.slot(0), store::OBJECT_BYTES_MAX).await?;
    let mark = Mark { deployment: Digest::of(&ours), id: Digest::of(&clock::random::<32>()) };
    let text = serde_json::to_vec(&mark).map_err(|e| StoreError::bug(format!("the mark of a copy cannot be written: {e}")))?;
    let mark = Bytes::from(text);
    match copy.put_new(COPY_MARK, Payload::from(mark.clone()), Digest::of(&mark)).await {
        Ok(_) => Ok(mark),
        // Another coordinator was faster.
        Err(e) if e.kind() == Kind::Conflict => read(copy, COPY_MARK).await?.ok_or(e),
        Err(e) => Err(e),
    }
}

/// Before something is called destroyed there: this is the copy, and nothing else is taken for it from now on.
///
/// # Errors
/// [`Kind::Retry`] while no copy is known in this place, [`Kind::Denied`] when this is another one; otherwise as a store cannot be read.
pub(crate) async fn require_known(first: &dyn Store, copy: &dyn Store) -> Result<(), StoreError> {
    let mark = read(copy, COPY_MARK).await?;
    match (read(first, &memory_of(&copy.describe())).await?, mark) {
        (Some(remembered), Some(mark)) if remembered == mark => {
            copy.require(Expected::Marked(mark));
            Ok(())
        }
        (Some(_), _) => Err(unfit(copy, "is not the copy that was in its place", OTHER)),
        (None, _) => {
            let message = format!("{} is not known as the copy yet, so nothing is destroyed there", copy.describe());
            Err(StoreError::new(
                Kind::Retry,
                message,
                "it is when everything was copied into it once; what keeps it from that is told as copy-failed",
            ))
        }
    }
}

/// The name under which the first store remembers the copy in a place.
fn memory_of(place: &str) -> String {
    let place = Digest::of(place.as_bytes()).to_string();
    format!("probe/copy-{}", place.get(..16).unwrap_or(&place))
}

async fn read(store: &dyn Store, name: &str) -> Result<Option<Bytes>, StoreError> {
    match store.get(name, COPY_MARK_BYTES_MAX).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn unfit(copy: &dyn Store, why: &str, remedy: &str) -> StoreError {
    StoreError::new(Kind::Denied, format!("{} {why}", copy.describe()), remedy)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::faulty::{Fault, FaultyStore, Op};
    use crate::store::{LocalStore, RemoteStore};

    async fn put(store: &dyn Store, name: &str, content: &'static [u8]) {
        store.put_new(name, Payload::from_static(content), Digest::of(content)).await.expect("written");
    }

    async fn deployment() -> RemoteStore {
        let first = RemoteStore::memory();
        put(&first, &LogName::Deployment.slot(0), b"ours").await;
        first
    }

    async fn found(first: &dyn Store, copy: &dyn Store) -> Identity {
        of(first, copy, true).await.expect("looked").identity
    }

    #[tokio::test]
    async fn a_copy_is_known_by_the_mark_that_is_remembered_for_its_place() {
        let (first, dir) = (deployment().await, tempfile::tempdir().expect("folder"));
        let copy = LocalStore::create(&dir.path().join("copy")).expect("store");
        assert_eq!(found(&first, &copy).await, Identity::New);
        assert_eq!(require_known(&first, &copy).await.expect_err("not yet").kind(), Kind::Retry);
        for _ in 0..2 {
            settle(&first, &copy).await.expect("known");
            assert_eq!(found(&first, &copy).await, Identity::Known);
        }
        require_known(&first, &copy).await.expect("known");

        // Moved, and one that was begun in its place.
        std::fs::rename(dir.path().join("copy"), dir.path().join("moved")).expect("moved");
        let moved = LocalStore::open(&dir.path().join("moved")).expect("store");
        assert_eq!(found(&first, &moved).await, Identity::Marked);
        let empty = LocalStore::create(&dir.path().join("copy")).expect("store");
        for _ in 0..2 {
            for refused in [of(&first, &empty, true).await.map(|_| ()), require_known(&first, &empty).await] {
                let refused = refused.expect_err("another one");
                assert!(refused.kind() == Kind::Denied && refused.remedy() == OTHER, "{refused}");
            }
            // The second time one that holds all that the copy holds, and no mark.
            let _ = empty.put_new(&LogName::Deployment.slot(0), Payload::from_static(b"ours"), Digest::of(b"ours")).await;
        }
        begin(&first, &empty).await.expect("marked");
        let refused = of(&first, &empty, true).await.expect_err("another mark");
        assert!(refused.message().contains("is another copy than the one"), "{refused}");
        settle(&first, &empty).await.expect_err("the place is taken");
    }

    #[tokio::test]
    async fn a_beginning_that_was_cut_short_goes_on_and_of_two_at_once_one_mark_counts() {
        let first = Arc::new(deployment().await);
        let dying = FaultyStore::new(Arc::clone(&first) as Arc<dyn Store>);
        dying.faults.fail(Op::PutNew, "probe/copy-", 0, 1, Fault::Before(Kind::Retry));
        let copy = RemoteStore::memory();
        settle(&dying, &copy).await.expect_err("cut short");
        assert_eq!(found(&*first, &copy).await, Identity::Marked);
        let mark = copy.get(COPY_MARK, COPY_MARK_BYTES_MAX).await.expect("marked");
        let (one, other) = tokio::join!(settle(&*first, &copy), settle(&*first, &copy));
        one.and(other).expect("both");
        assert_eq!(copy.get(COPY_MARK, COPY_MARK_BYTES_MAX).await, Ok(mark));
        assert_eq!(found(&*first, &copy).await, Identity::Known);

        let (first, copy) = (deployment().await, RemoteStore::memory());
        let (one, other) = tokio::join!(settle(&first, &copy), settle(&first, &copy));
        one.and(other).expect("both");
        assert_eq!(found(&first, &copy).await, Identity::Known);
    }

    #[tokio::test]
    async fn a_copy_without_a_mark_is_told_from_anothers() {
        let (first, copy, other) = (deployment().await, RemoteStore::memory(), RemoteStore::memory());
        put(&copy, &LogName::Deployment.slot(0), b"ours").await;
        assert_eq!(found(&first, &copy).await, Identity::Unmarked);
        // One that another deployment began, and copied nothing into yet.
        put(&other, &LogName::Deployment.slot(0), b"theirs").await;
        let theirs = RemoteStore::memory();
        settle(&other, &theirs).await.expect("theirs");
        for anothers in [&other, &theirs] {
            let refused = of(&first, anothers, true).await.expect_err("another deployment");
            assert!(refused.message().contains("holds another deployment"), "{refused}");
        }
    }
}
