//! A store of which little is asked, and that may fall silent: what looks at many of its names ends then.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{CaseId, Digest};

use super::attest::Attestable;
use super::patience::{ANSWERS_WITHIN, LISTS_WITHIN, Patience};
use super::{Answer, Expected, Page, Payload, Protection, Refusal, Store, Stored, Trouble};

/// The wrapper. Each call is waited for as long as [`ANSWERS_WITHIN`], a listing as long as [`LISTS_WITHIN`]; after one that was not answered
/// nothing more is asked. Not for evidence: of a large object over a slow line silence cannot be told.
#[derive(Debug)]
pub(crate) struct PatientStore {
    inner: Arc<dyn Store>,
    patience: Arc<Patience>,
}

impl PatientStore {
    /// Nothing was asked yet.
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, patience: Arc::default() }
    }

    /// A call to it was not answered.
    pub(crate) fn was_silent(&self) -> bool {
        self.patience.is_spent()
    }

    fn asked<'a, T: Send + 'a>(&'a self, tried: &'static str, name: &'a str, call: Answer<'a, T>) -> Answer<'a, T> {
        self.asked_within(ANSWERS_WITHIN, tried, name, call)
    }

    fn asked_within<'a, T: Send + 'a>(
        &'a self,
        within: Duration,
        tried: &'static str,
        name: &'a str,
        call: Answer<'a, T>,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let what = format!("{tried} '{}' in {}", escape_bounded(name, 200), self.inner.describe());
            self.patience.answer_within(within, &what, call).await
        })
    }
}

impl Store for PatientStore {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn put_new<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        self.asked("create", name, self.inner.put_new(name, content, sha256))
    }

    fn put_head<'a>(&'a self, name: &'a str, content: Bytes) -> Answer<'a, ()> {
        self.asked("replace", name, self.inner.put_head(name, content))
    }

    fn get<'a>(&'a self, name: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        self.asked("read", name, self.inner.get(name, bytes_max))
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> Answer<'a, Bytes> {
        self.asked("read", name, self.inner.get_range(name, range))
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, u64> {
        self.asked("look at", name, self.inner.size(name))
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        self.asked_within(LISTS_WITHIN, "list", folder, self.inner.list(folder, after))
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        self.asked_within(LISTS_WITHIN, "list the folders of", folder, self.inner.folders(folder))
    }

    fn destroy<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.asked("delete", name, self.inner.destroy(name))
    }

    fn free_bytes(&self) -> Answer<'_, Option<u64>> {
        self.inner.free_bytes()
    }

    fn protect(&self, case: &CaseId, protection: Protection) {
        self.inner.protect(case, protection);
    }

    fn require(&self, expected: Expected) {
        self.inner.require(expected);
    }

    fn troubles(&self) -> Vec<Trouble> {
        self.inner.troubles()
    }

    fn refuses_writes(&self) -> Option<Refusal> {
        self.inner.refuses_writes()
    }

    fn hides(&self, name: &str) -> bool {
        self.inner.hides(name)
    }

    fn foreign(&self, folder: &str) -> Vec<String> {
        self.inner.foreign(folder)
    }

    fn get_version<'a>(&'a self, name: &'a str, version: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        self.asked("read a version of", name, self.inner.get_version(name, version, bytes_max))
    }

    fn choose(&self, name: &str, version: &str) {
        self.inner.choose(name, version);
    }

    fn put_over<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        self.asked("write over", name, self.inner.put_over(name, content, sha256))
    }

    fn attestable(&self) -> Option<Attestable> {
        let found = self.inner.attestable()?;
        Some(Attestable { vault: found.vault.asked_with(&self.patience), ..found })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::store::faulty::{Fault, FaultyStore, Op};
    use crate::store::{Kind, RemoteStore, conformance};

    #[tokio::test]
    async fn it_is_a_store_like_any() {
        conformance::run(Arc::new(PatientStore::new(Arc::new(RemoteStore::memory()))), "suite").await;
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_call_that_was_not_answered_nothing_more_is_asked() {
        let inner = FaultyStore::new(Arc::new(RemoteStore::memory()));
        let faults = inner.faults.clone();
        faults.fail(Op::Get, "cases", 0, 1, Fault::DieBefore);
        let (store, begun) = (PatientStore::new(Arc::new(inner)), Instant::now());
        assert!(!store.was_silent());
        let silent = store.get("cases/x", 10).await.expect_err("silent");
        assert!(silent.kind() == Kind::Retry && silent.message().contains("no answer within 30 s"), "{silent}");
        let asked = faults.calls().len();
        for unasked in [store.get("cases/x", 10).await.map(|_| ()), store.folders("cases").await.map(|_| ())] {
            let unasked = unasked.expect_err("not asked");
            assert!(unasked.kind() == Kind::Retry && unasked.message().contains("was silent before"), "{unasked}");
        }
        assert_eq!(faults.calls().len(), asked);
        assert_eq!(begun.elapsed().as_secs(), ANSWERS_WITHIN.as_secs());
        assert!(store.was_silent());
    }

    /// All its pages are one call, and some stores look for the first word among everything that was deleted.
    #[tokio::test(start_paused = true)]
    async fn a_listing_is_waited_for_longer_and_not_without_end() {
        let inner = FaultyStore::new(Arc::new(RemoteStore::memory()));
        let faults = inner.faults.clone();
        faults.fail(Op::List, "cases", 0, 2, Fault::Delay(Duration::from_secs(119)));
        faults.fail(Op::List, "cases", 0, 1, Fault::DieBefore);
        let store = PatientStore::new(Arc::new(inner));
        assert!(store.folders("cases").await.expect("late").is_empty());
        assert!(store.list("cases", None).await.expect("late").entries.is_empty());
        let (begun, silent) = (Instant::now(), store.folders("cases").await.expect_err("silent"));
        assert!(silent.message().contains("no answer within 120 s"), "{silent}");
        assert_eq!(begun.elapsed().as_secs(), LISTS_WITHIN.as_secs());
    }
}
