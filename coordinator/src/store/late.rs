//! A store whose folder was not there when the coordinator started: a disk that is not mounted, perhaps not yet. The first call that finds it
//! opens it; until then every call fails, as of a store that somebody must see to. Nothing is made in the place of the folder: a copy there would
//! lie under the disk, on the one that it is to outlive.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use exhibit_evidence::{CaseId, Digest};
use tokio::sync::OnceCell;

use super::attest::Attestable;
use super::{Answer, Page, Payload, Protection, Store, StoreError, Stored, Trouble};

/// Opens the store, or says why it is not there. Blocks for a few file system calls.
pub type Opening = Arc<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// A folder that may appear later. It has no locks of its own, so that nothing is lost of what custody asked before.
pub struct LateStore {
    place: String,
    open: Opening,
    opened: OnceCell<Arc<dyn Store>>,
}

impl fmt::Debug for LateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LateStore({})", self.place)
    }
}

impl LateStore {
    /// A store that is opened by `open` once that succeeds; `place` is what [`Store::describe`] answers until then.
    #[must_use]
    pub fn new(place: String, open: Opening) -> Self {
        Self { place, open, opened: OnceCell::new() }
    }

    /// The store itself, opened by the first caller that finds it.
    async fn there(&self) -> Result<&dyn Store, StoreError> {
        let opening = || async {
            let open = Arc::clone(&self.open);
            match tokio::task::spawn_blocking(move || open()).await {
                Ok(opened) => opened,
                Err(e) => Err(StoreError::bug(format!("opening {} ended badly: {e}", self.place))),
            }
        };
        let store = self.opened.get_or_try_init(opening).await?;
        Ok(&**store)
    }

    fn opened(&self) -> Option<&dyn Store> {
        let store = self.opened.get()?;
        Some(&**store)
    }
}

impl Store for LateStore {
    fn describe(&self) -> String {
        let Some(store) = self.opened() else { return self.place.clone() };
        store.describe()
    }

    fn put_new<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        Box::pin(async move { self.there().await?.put_new(name, content, sha256).await })
    }

    fn put_head<'a>(&'a self, name: &'a str, content: Bytes) -> Answer<'a, ()> {
        Box::pin(async move { self.there().await?.put_head(name, content).await })
    }

    fn get<'a>(&'a self, name: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        Box::pin(async move { self.there().await?.get(name, bytes_max).await })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> Answer<'a, Bytes> {
        Box::pin(async move { self.there().await?.get_range(name, range).await })
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, u64> {
        Box::pin(async move { self.there().await?.size(name).await })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        Box::pin(async move { self.there().await?.list(folder, after).await })
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(async move { self.there().await?.folders(folder).await })
    }

    fn destroy<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.there().await?.destroy(name).await })
    }

    fn free_bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async move { self.there().await?.free_bytes().await })
    }

    fn protect(&self, case: &CaseId, protection: Protection) {
        if let Some(store) = self.opened() {
            store.protect(case, protection);
        }
    }

    fn troubles(&self) -> Vec<Trouble> {
        let Some(store) = self.opened() else { return Vec::new() };
        store.troubles()
    }

    fn refuses_writes(&self) -> Option<String> {
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
        Box::pin(async move { self.there().await?.get_version(name, version, bytes_max).await })
    }

    fn choose(&self, name: &str, version: &str) {
        if let Some(store) = self.opened() {
            store.choose(name, version);
        }
    }

    fn put_over<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        Box::pin(async move { self.there().await?.put_over(name, content, sha256).await })
    }

    fn attestable(&self) -> Option<Attestable> {
        self.opened()?.attestable()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::store::{Kind, RemoteStore};

    #[tokio::test]
    async fn it_is_away_until_it_is_there_and_never_looks_empty() {
        let is_there = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_there);
        let open = move || -> Result<Arc<dyn Store>, StoreError> {
            let there: Arc<dyn Store> = Arc::new(RemoteStore::memory());
            if seen.load(Ordering::Acquire) { Ok(there) } else { Err(StoreError::new(Kind::Denied, "not mounted", "mount it")) }
        };
        let store = LateStore::new("a folder".to_owned(), Arc::new(open));
        assert_eq!(store.describe(), "a folder");
        let content = Bytes::from_static(b"1");
        for error in [
            store.get("a", 9).await.expect_err("away"),
            store.list("a", None).await.expect_err("away"),
            store.destroy("a").await.expect_err("away"),
            store.put_new("a", Payload::from(content.clone()), Digest::of(&content)).await.expect_err("away"),
        ] {
            assert_eq!(error.kind(), Kind::Denied, "absence would be another kind: {error}");
        }
        is_there.store(true, Ordering::Release);
        store.put_new("a", Payload::from(content.clone()), Digest::of(&content)).await.expect("opened");
        assert_eq!(store.get("a", 9).await, Ok(content));
    }
}
