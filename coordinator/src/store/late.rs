//! A store that may be away while the coordinator runs: in a folder whose disk is not mounted, perhaps not yet or not any more, or with
//! credentials that are not there yet. The first call that finds it opens it; until then every call fails, as of a store that somebody must
//! see to. When something else stands in its place it is away again, and opened anew when it is back: what was known of one disk is not
//! believed of another. Nothing is made in the place of a folder: a copy there would lie under the disk, on the one that it is to outlive.
//! What may stand there is told by whoever knows the copy ([`Expected`]); until then what is there is only read.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use exhibit_evidence::{CaseId, Digest};

use super::attest::Attestable;
use super::{Answer, Kind, Page, Payload, Protection, Refusal, Store, StoreError, Stored, Trouble};

/// What may stand in the place of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expected {
    /// Nobody knows yet: what is there is read, and nothing is written or made.
    #[default]
    Unknown,
    /// No copy was ever begun in this place: what is there is opened, and an empty folder is made a store.
    Any,
    /// The copy with this mark, and nothing else.
    Marked(Bytes),
}

/// Opens the store, if it is one that is expected, or says why it is not there; `true` when it was open before. Blocks for a few file system
/// calls.
pub type Opening = Arc<dyn Fn(bool, &Expected) -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// What stands in the store's place now: the same as long as it is the same store; `None` when it is none. Blocks for a file system call.
pub type Standing = Arc<dyn Fn() -> Option<(u64, u64)> + Send + Sync>;

/// A store that may appear later, and go away.
#[derive(Clone)]
pub struct LateStore {
    inner: Arc<Inner>,
}

struct Inner {
    place: String,
    open: Opening,
    standing: Standing,
    state: Mutex<State>,
    /// Held by whoever opens it, so that it is opened once.
    opening: Mutex<()>,
}

#[derive(Default)]
struct State {
    store: Option<Arc<dyn Store>>,
    /// What stood in its place when it was opened.
    stood: Option<(u64, u64)>,
    was_open: bool,
    expected: Expected,
    /// What custody asked, for a store with locks of its own: the newest word for each case. Whatever is opened is told.
    asked: HashMap<CaseId, Protection>,
}

impl fmt::Debug for LateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LateStore({})", self.inner.place)
    }
}

impl LateStore {
    /// A store that is opened by `open` once that succeeds, and again when something else is `standing` in its place than was then; `place` is what
    /// [`Store::describe`] answers until then.
    #[must_use]
    pub fn new(place: String, open: Opening, standing: Standing) -> Self {
        Self { inner: Arc::new(Inner { place, open, standing, state: Mutex::default(), opening: Mutex::default() }) }
    }

    /// Opens it now. Blocks for a few file system calls.
    ///
    /// # Errors
    /// Why it is not there.
    pub fn open_now(&self) -> Result<(), StoreError> {
        self.inner.find().map(|_| ())
    }

    /// The store itself, opened by the first caller that finds it.
    async fn there(&self) -> Result<Arc<dyn Store>, StoreError> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || inner.find()).await {
            Ok(found) => found,
            Err(e) => Err(StoreError::bug(format!("opening {} ended badly: {e}", self.inner.place))),
        }
    }

    /// The store itself, to be written: only when somebody knows what may stand in its place.
    async fn known(&self) -> Result<Arc<dyn Store>, StoreError> {
        let is_unknown = self.inner.state().expected == Expected::Unknown;
        if is_unknown {
            let message = format!("{} is not known as the copy yet, so nothing is written there", self.inner.place);
            return Err(StoreError::new(
                Kind::Denied,
                message,
                "start the coordinator: it begins the copy, or takes up the one that is there",
            ));
        }
        self.there().await
    }

    fn opened(&self) -> Option<Arc<dyn Store>> {
        self.inner.state().store.clone()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self) -> Result<Arc<dyn Store>, StoreError> {
        if let Some(store) = self.same() {
            return Ok(store);
        }
        let _alone = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = self.same() {
            return Ok(store);
        }
        let (was_open, expected) = {
            let mut state = self.state();
            state.store = None;
            (state.was_open, state.expected.clone())
        };
        let store = (self.open)(was_open, &expected)?;
        let stood = (self.standing)();
        let mut state = self.state();
        if state.expected != expected {
            let message = format!("{}: another copy is expected there since a moment", self.place);
            return Err(StoreError::new(Kind::Retry, message, "it is tried again"));
        }
        for (case, protection) in &state.asked {
            store.protect(case, protection.clone());
        }
        state.store = Some(Arc::clone(&store));
        state.stood = stood;
        state.was_open = true;
        Ok(store)
    }

    /// The store that is open, if it is still the one that stands there.
    fn same(&self) -> Option<Arc<dyn Store>> {
        self.state().store.as_ref()?;
        // Looked at without the lock: a disk that does not answer must not keep those waiting who only ask.
        let stands = (self.standing)();
        let state = self.state();
        state.store.clone().filter(|_| stands.is_some() && stands == state.stood)
    }
}

impl Store for LateStore {
    fn describe(&self) -> String {
        let Some(store) = self.opened() else { return self.inner.place.clone() };
        store.describe()
    }

    fn put_new<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        Box::pin(async move {
            let store = self.known().await?;
            store.put_new(name, content, sha256).await
        })
    }

    fn put_head<'a>(&'a self, name: &'a str, content: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            let store = self.known().await?;
            store.put_head(name, content).await
        })
    }

    fn get<'a>(&'a self, name: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let store = self.there().await?;
            store.get(name, bytes_max).await
        })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let store = self.there().await?;
            store.get_range(name, range).await
        })
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, u64> {
        Box::pin(async move {
            let store = self.there().await?;
            store.size(name).await
        })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        Box::pin(async move {
            let store = self.there().await?;
            store.list(folder, after).await
        })
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            let store = self.there().await?;
            store.folders(folder).await
        })
    }

    /// What is not there is destroyed: that is believed only when the store was there afterwards as well.
    fn destroy<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let store = self.known().await?;
            store.destroy(name).await?;
            let after = self.there().await?;
            if Arc::ptr_eq(&store, &after) {
                return Ok(());
            }
            drop(store);
            after.destroy(name).await
        })
    }

    fn free_bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async move {
            let store = self.there().await?;
            store.free_bytes().await
        })
    }

    fn protect(&self, case: &CaseId, protection: Protection) {
        let mut state = self.inner.state();
        if let Some(store) = &state.store {
            store.protect(case, protection.clone());
        }
        state.asked.insert(case.clone(), protection);
    }

    /// When it is another one than before, what is open is opened anew: it may be the wrong one.
    fn require(&self, expected: Expected) {
        let mut state = self.inner.state();
        if state.expected != expected {
            state.expected = expected;
            state.store = None;
        }
    }

    fn troubles(&self) -> Vec<Trouble> {
        let Some(store) = self.opened() else { return Vec::new() };
        store.troubles()
    }

    fn refuses_writes(&self) -> Option<Refusal> {
        self.opened()?.refuses_writes()
    }

    fn hides(&self, name: &str) -> bool {
        self.opened().is_some_and(|store| store.hides(name))
    }

    fn foreign(&self, folder: &str) -> Vec<String> {
        let Some(store) = self.opened() else { return Vec::new() };
        store.foreign(folder)
    }

    fn get_version<'a>(&'a self, name: &'a str, version: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let store = self.there().await?;
            store.get_version(name, version, bytes_max).await
        })
    }

    fn choose(&self, name: &str, version: &str) {
        if let Some(store) = self.opened() {
            store.choose(name, version);
        }
    }

    fn put_over<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        Box::pin(async move {
            let store = self.known().await?;
            store.put_over(name, content, sha256).await
        })
    }

    fn attestable(&self) -> Option<Attestable> {
        self.opened()?.attestable()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::store::RemoteStore;

    /// What stands in the place: 0 nothing, otherwise one store for each number.
    fn late(standing: &Arc<AtomicU64>, opened: &Arc<Mutex<Vec<bool>>>) -> LateStore {
        let (seen, here, opened) = (Arc::clone(standing), Arc::clone(standing), Arc::clone(opened));
        let open = move |again: bool, _: &Expected| -> Result<Arc<dyn Store>, StoreError> {
            let there: Arc<dyn Store> = Arc::new(RemoteStore::memory());
            if seen.load(Ordering::Acquire) == 0 {
                return Err(StoreError::new(Kind::Denied, "not mounted", "mount it"));
            }
            opened.lock().expect("no panic").push(again);
            Ok(there)
        };
        let stands = move || Some(here.load(Ordering::Acquire)).filter(|n| *n > 0).map(|n| (n, 0));
        LateStore::new("a folder".to_owned(), Arc::new(open), Arc::new(stands))
    }

    async fn is_away(store: &LateStore) {
        let content = Bytes::from_static(b"1");
        for error in [
            store.get("a", 9).await.expect_err("away"),
            store.list("a", None).await.expect_err("away"),
            store.destroy("a").await.expect_err("away"),
            store.put_new("a", Payload::from(content.clone()), Digest::of(&content)).await.expect_err("away"),
        ] {
            assert_eq!(error.kind(), Kind::Denied, "absence would be another kind: {error}");
        }
    }

    #[tokio::test]
    async fn it_is_away_until_it_is_there_and_never_looks_empty() {
        let (standing, opened) = (Arc::new(AtomicU64::new(0)), Arc::default());
        let store = late(&standing, &opened);
        assert_eq!(store.describe(), "a folder");
        store.require(Expected::Any);
        is_away(&store).await;
        store.open_now().expect_err("away");
        standing.store(1, Ordering::Release);
        let content = Bytes::from_static(b"1");
        store.put_new("a", Payload::from(content.clone()), Digest::of(&content)).await.expect("opened");
        assert_eq!(store.get("a", 9).await, Ok(content));
        assert_eq!(*opened.lock().expect("no panic"), [false], "opened once");
    }

    #[tokio::test]
    async fn it_is_away_again_when_something_else_stands_there_and_opened_anew_when_it_is_back() {
        let (standing, opened) = (Arc::new(AtomicU64::new(1)), Arc::default());
        let store = late(&standing, &opened);
        store.require(Expected::Any);
        store.open_now().expect("there");
        store.put_head("a", Bytes::from_static(b"1")).await.expect("written");
        standing.store(0, Ordering::Release);
        is_away(&store).await;
        standing.store(2, Ordering::Release);
        assert_eq!(store.get("a", 9).await.expect_err("another one").kind(), Kind::NotFound);
        assert_eq!(*opened.lock().expect("no panic"), [false, true]);
    }

    #[tokio::test]
    async fn what_nobody_knows_is_read_and_not_written_and_opened_anew_when_another_one_is_expected() {
        let (standing, opened) = (Arc::new(AtomicU64::new(1)), Arc::default());
        let store = late(&standing, &opened);
        assert_eq!(store.get("a", 9).await.expect_err("nothing in it").kind(), Kind::NotFound);
        let content = Bytes::from_static(b"1");
        for error in [
            store.put_new("a", Payload::from(content.clone()), Digest::of(&content)).await.expect_err("unknown"),
            store.put_head("a", content.clone()).await.expect_err("unknown"),
            store.destroy("a").await.expect_err("unknown"),
        ] {
            assert!(error.kind() == Kind::Denied && error.message().contains("is not known as the copy yet"), "{error}");
        }
        for expected in [Expected::Any, Expected::Any, Expected::Marked(content.clone())] {
            store.require(expected);
            store.put_head("a", content.clone()).await.expect("written");
        }
        assert_eq!(*opened.lock().expect("no panic"), [false, true, true], "once for each that is expected");
    }
}
