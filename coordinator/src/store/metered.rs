//! A store that counts: calls, their time, bytes.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::{CaseId, Digest};
use tokio::time::Instant;

use super::attest::Attestable;
use super::{Answer, Kind, Page, Payload, Protection, Refusal, Store, StoreError, Stored, Trouble};
use crate::metrics::SharedMetrics;

/// A refused write counts for so long when nobody writes any more: then it is for the next one to show.
const REFUSED_FOR: Duration = Duration::from_mins(1);

/// The wrapper. It changes nothing of what the store does.
#[derive(Debug)]
pub struct MeteredStore {
    inner: Arc<dyn Store>,
    /// What custody asks of the store it asks of its copy as well.
    copy: Option<Arc<dyn Store>>,
    metrics: SharedMetrics,
    /// The last write that was refused for a reason that lasts, or found no room, until one succeeds.
    refused: Mutex<Option<Refusal>>,
}

impl MeteredStore {
    /// Counts the calls to a store.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, copy: Option<Arc<dyn Store>>, metrics: SharedMetrics) -> Self {
        Self { inner, copy, metrics, refused: Mutex::default() }
    }

    fn note_write<T>(&self, bytes: u64, answer: &Result<T, StoreError>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(_) => *refused = None,
            Err(e) if e.kind() == Kind::Full => {
                // The largest of what found no room: what comes again needs that much.
                let before = refused.as_ref().and_then(|before| before.full).unwrap_or(0);
                *refused = Some(Refusal { why: e.to_string(), at: Instant::now(), full: Some(before.max(bytes)) });
            }
            Err(e) if e.needs_a_person() => *refused = Some(Refusal { why: e.to_string(), at: Instant::now(), full: None }),
            Err(_) => {}
        }
    }

    fn counted<'a, T: Send + 'a>(&'a self, operation: &'static str, name: &str, call: Answer<'a, T>) -> Answer<'a, T> {
        let object = class(name);
        Box::pin(async move {
            let begun = Instant::now();
            let answer = call.await;
            let result = answer.as_ref().map_or_else(|e: &StoreError| e.word(), |_| "ok");
            self.metrics.store_call(operation, object, result, begun.elapsed());
            answer
        })
    }

    fn read<'a>(&'a self, operation: &'static str, name: &'a str, call: Answer<'a, Bytes>) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let bytes = self.counted(operation, name, call).await?;
            self.metrics.store_bytes("in", class(name), bytes.len() as u64);
            Ok(bytes)
        })
    }
}

/// What an object is, by its name: `docs/format/layout.md`.
fn class(name: &str) -> &'static str {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    match file {
        _ if file.ends_with(".tar.zst") => "segment",
        "checkpoint" => "checkpoint",
        _ if folder.ends_with("/seq") => "record",
        _ if folder.contains("/tile/") => "tile",
        _ if file.starts_with("manifest") => "manifest",
        _ => "other",
    }
}

impl Store for MeteredStore {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn put_new<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        Box::pin(async move {
            let bytes = content.content_length() as u64;
            let answer = self.counted("put", name, self.inner.put_new(name, content, sha256)).await;
            self.note_write(bytes, &answer);
            let stored = answer?;
            self.metrics.store_bytes("out", class(name), bytes);
            Ok(stored)
        })
    }

    fn put_head<'a>(&'a self, name: &'a str, content: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            let bytes = content.len() as u64;
            let answer = self.counted("replace", name, self.inner.put_head(name, content)).await;
            self.note_write(bytes, &answer);
            answer
        })
    }

    fn get<'a>(&'a self, name: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        self.read("get", name, self.inner.get(name, bytes_max))
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> Answer<'a, Bytes> {
        self.read("get", name, self.inner.get_range(name, range))
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, u64> {
        self.counted("head", name, self.inner.size(name))
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        self.counted("list", folder, self.inner.list(folder, after))
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        self.counted("list", folder, self.inner.folders(folder))
    }

    fn destroy<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.counted("destroy", name, self.inner.destroy(name))
    }

    fn free_bytes(&self) -> Answer<'_, Option<u64>> {
        self.inner.free_bytes()
    }

    fn protect(&self, case: &CaseId, protection: Protection) {
        if let Some(copy) = &self.copy {
            copy.protect(case, protection.clone());
        }
        self.inner.protect(case, protection);
    }

    fn troubles(&self) -> Vec<Trouble> {
        self.inner.troubles()
    }

    fn refuses_writes(&self) -> Option<Refusal> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.as_ref().filter(|refusal| refusal.at.elapsed() < REFUSED_FOR).cloned()
    }

    fn hides(&self, name: &str) -> bool {
        self.inner.hides(name)
    }

    fn foreign(&self, folder: &str) -> Vec<String> {
        self.inner.foreign(folder)
    }

    fn get_version<'a>(&'a self, name: &'a str, version: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        self.read("get", name, self.inner.get_version(name, version, bytes_max))
    }

    fn choose(&self, name: &str, version: &str) {
        self.inner.choose(name, version);
    }

    /// That it is refused says nothing about other writes: a policy may well let nothing be written on top of anything.
    fn put_over<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        self.counted("put", name, self.inner.put_over(name, content, sha256))
    }

    fn attestable(&self) -> Option<Attestable> {
        self.inner.attestable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RemoteStore;
    use crate::store::faulty::{Fault, FaultyStore, Op};

    #[tokio::test(start_paused = true)]
    async fn a_refused_write_is_known_until_one_succeeds_or_nobody_writes() {
        // Whoever may not, and whoever is not heard.
        for fault in [Fault::Before(Kind::Denied), Fault::Unheard] {
            let inner = FaultyStore::new(Arc::new(RemoteStore::memory()));
            inner.faults.fail(Op::PutHead, "a/log/checkpoint", 0, 2, fault);
            let store = MeteredStore::new(Arc::new(inner), None, SharedMetrics::default());
            let write = async || store.put_head("a/log/checkpoint", Bytes::from_static(b"1")).await;
            assert_eq!(store.refuses_writes(), None);
            write().await.expect_err("refused");
            assert!(store.refuses_writes().is_some_and(|refusal| refusal.full.is_none()), "{fault:?}");
            tokio::time::advance(REFUSED_FOR).await;
            assert_eq!(store.refuses_writes(), None);
            write().await.expect_err("refused");
            assert!(store.refuses_writes().is_some(), "{fault:?}");
            write().await.expect("taken");
            assert_eq!(store.refuses_writes(), None);
        }
    }

    #[tokio::test]
    async fn what_found_no_room_is_known_with_its_size_until_a_write_succeeds() {
        let inner = FaultyStore::new(Arc::new(RemoteStore::memory()));
        inner.faults.fail(Op::PutHead, "a/log/checkpoint", 0, 2, Fault::Before(Kind::Full));
        let store = MeteredStore::new(Arc::new(inner), None, SharedMetrics::default());
        let write = async |content: &'static [u8]| store.put_head("a/log/checkpoint", Bytes::from_static(content)).await;
        // The larger one needs the room, whichever came last.
        for content in [&b"12345"[..], &b"1"[..]] {
            write(content).await.expect_err("full");
            let refusal = store.refuses_writes().expect("known");
            assert!(refusal.full == Some(5) && refusal.why.contains("injected fault"), "{refusal:?}");
        }
        write(&b"1"[..]).await.expect("taken");
        assert_eq!(store.refuses_writes(), None);
    }

    #[tokio::test]
    async fn a_write_that_a_disturbed_store_did_not_take_is_no_refused_one() {
        let inner = FaultyStore::new(Arc::new(RemoteStore::memory()));
        inner.faults.fail(Op::PutHead, "a/log/checkpoint", 0, 1, Fault::Before(Kind::Retry));
        let store = MeteredStore::new(Arc::new(inner), None, SharedMetrics::default());
        store.put_head("a/log/checkpoint", Bytes::from_static(b"1")).await.expect_err("disturbed");
        assert_eq!(store.refuses_writes(), None);
    }
}
