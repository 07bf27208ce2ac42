//! How long a store may be silent where little is asked of it. Evidence has another time (`settings`): a large object over a slow line
//! needs minutes, and there is no telling it from silence.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::Digest;

use super::{Kind, Payload, Store, StoreError, Stored};

/// How long a store may take over each call of the start-up test and of `store check`, until it begins to answer what it is asked of
/// versions and locks, and between two parts of such an answer, or of a listing. A few bytes go each way, so no line is too slow for it.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// How long it may take until it begins to answer what asks for a page of versions below a folder, once it was silent for
/// [`ANSWERS_WITHIN`] (not where somebody asks with [`Patience`]), and over a listing in `store check` of a copy: some stores look for a
/// page among everything that was deleted before the first word.
pub(super) const LISTS_WITHIN: Duration = Duration::from_mins(2);

/// For so long each call is waited for. After one that was not answered nothing more is asked: what asks many things of a store
/// that fell silent ends.
#[derive(Debug)]
pub(crate) struct Patience {
    within: Duration,
    spent: AtomicBool,
}

impl Default for Patience {
    fn default() -> Self {
        Self::of(ANSWERS_WITHIN)
    }
}

impl Patience {
    pub(super) const fn of(within: Duration) -> Self {
        Self { within, spent: AtomicBool::new(false) }
    }

    /// What the call answers, or that it did not in time: then a put may have happened, or may still happen. `asked` says what was asked,
    /// and where, behind "could not".
    pub(super) async fn answer<T>(&self, asked: &str, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.answer_within(self.within, asked, call).await
    }

    /// The same, for a call that is waited for as long as `within`.
    pub(super) async fn answer_within<T>(
        &self,
        within: Duration,
        asked: &str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if self.is_spent() {
            let message = format!("did not {asked}: the store was silent before");
            return Err(StoreError::new(Kind::Retry, message, REMEDY));
        }
        if let Ok(answered) = tokio::time::timeout(within, call).await {
            return answered;
        }
        self.spent.store(true, Ordering::Release);
        Err(silent(asked, within))
    }

    /// A call was not answered.
    pub(super) fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Acquire)
    }
}

const REMEDY: &str = "see to the store and the way to it: nothing came back, no error either";

/// The error of a store that did not answer.
pub(super) fn silent(asked: &str, within: Duration) -> StoreError {
    StoreError::new(Kind::Retry, format!("could not {asked}: no answer within {} s", within.as_secs_f64()), REMEDY)
}

/// The error of a store that began to answer and did not go on.
pub(super) fn stopped(asked: &str, within: Duration) -> StoreError {
    let message = format!("could not {asked}: its answer stopped, nothing more came within {} s", within.as_secs_f64());
    StoreError::new(Kind::Retry, message, "see to the store and the way to it: the answer began and did not go on, and there was no error")
}

/// A store of which little is asked, with so much patience.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) patience: &'a Patience,
}

impl Asked<'_> {
    fn what(&self, tried: &str, name: &str) -> String {
        format!("{tried} '{name}' in {}", self.store.describe())
    }

    pub(super) async fn create(&self, name: &str, content: &Bytes) -> Result<Stored, StoreError> {
        let put = self.store.put_new(name, Payload::from(content.clone()), Digest::of(content));
        self.patience.answer(&self.what("create", name), put).await
    }

    pub(super) async fn replace(&self, name: &str, content: Bytes) -> Result<(), StoreError> {
        self.patience.answer(&self.what("replace", name), self.store.put_head(name, content)).await
    }

    pub(super) async fn read(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
        self.patience.answer(&self.what("read", name), self.store.get(name, bytes_max)).await
    }

    /// One page.
    pub(super) async fn list(&self, folder: &str) -> Result<(), StoreError> {
        self.patience.answer(&self.what("list", folder), self.store.list(folder, None)).await.map(|_| ())
    }

    pub(super) async fn destroy(&self, name: &str) -> Result<(), StoreError> {
        self.patience.answer(&self.what("delete", name), self.store.destroy(name)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::clock;
    use crate::starting::{self, Awaited};
    use crate::store::check::{self, State};
    use crate::store::faulty::{Fault, FaultyStore, Op};
    use crate::store::tests::{answering, answering_late, bucket_at, mute_port};
    use crate::store::{RemoteStore, self_test, self_test_with};

    const SHORT: Duration = Duration::from_millis(300);
    /// Far below the time of a request, far above what a slow machine needs.
    const SOON: Duration = Duration::from_secs(20);

    /// A bucket at a server that takes connections and never says a word.
    async fn mute() -> RemoteStore {
        RemoteStore::open(&bucket_at(mute_port().await)).expect("settings")
    }

    #[tokio::test]
    async fn a_store_that_takes_connections_and_says_nothing_is_named_in_time() {
        let (store, begun) = (mute().await, Instant::now());
        let e = self_test_with(&store, &Patience::of(SHORT)).await.expect_err("silent");
        assert_eq!(e.kind(), Kind::Retry, "a start waits for it: {e}");
        for part in ["the start-up test could not write", "'probe/head' in bucket evidence at", "no answer within 0.3 s"] {
            assert!(e.message().contains(part), "{part}: {e}");
        }
        let report = check::run_with(&store, None, clock::now(), Patience::of(SHORT)).await;
        assert_eq!(report.state("create-only"), Some(State::Untested), "nobody saw that it creates twice: {}", report.text());
        assert!(report.checks.iter().all(|line| line.remedy == REMEDY) && !report.holds(), "{}", report.text());
        assert!(report.text().contains("no answer within 0.3 s"), "{}", report.text());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn what_is_asked_of_versions_and_locks_is_not_waited_for_longer() {
        let (store, begun) = (mute().await, Instant::now());
        let vault = store.attestable().expect("an S3 store").vault;
        // As attestation asks: tried again within the call, then it is an error.
        let of_attestation = crate::store::Vault { answers_within: SHORT, lists_within: SHORT * 2, ..vault.clone() };
        let e = of_attestation.lock_of("a", "1").await.expect_err("silent");
        assert!(e.kind() == Kind::Retry && e.message().contains("could not look at the lock of 'a' in bucket evidence at"), "{e}");
        assert!(e.message().contains("no answer within 0.3 s"), "{e}");
        let e = of_attestation.versions("", None).await.expect_err("silent");
        assert!(e.kind() == Kind::Retry && e.message().contains("could not list the versions in bucket evidence at"), "{e}");
        assert!(e.message().contains("no answer within 0.6 s"), "a page may take longer: {e}");
        // As `store check` asks: after one silence nothing more is asked.
        let of_check = vault.asked_with(&Arc::new(Patience::of(SHORT)));
        let e = of_check.posture().await.expect_err("silent");
        assert!(e.kind() == Kind::Retry && e.message().contains("no answer within 0.3 s"), "{e}");
        let e = of_check.lock_of("a", "1").await.expect_err("not asked");
        assert!(e.kind() == Kind::Retry && e.message().contains("the store was silent before"), "{e}");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_page_of_versions_that_takes_long_is_waited_for_but_not_by_who_has_little_patience() {
        let page = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 41\r\n\r\n<ListVersionsResult></ListVersionsResult>";
        let (settings, asked) = answering_late(page, SHORT * 3).await;
        let vault = RemoteStore::open(&settings).expect("settings").attestable().expect("an S3 store").vault;
        let vault = crate::store::Vault { answers_within: SHORT, lists_within: SOON, ..vault };
        let of_check = vault.asked_with(&Arc::new(Patience::of(SHORT)));
        let e = of_check.versions("", None).await.expect_err("not in time");
        assert!(e.message().contains("no answer within 0.3 s"), "{e}");
        let e = vault.posture().await.expect_err("it is no page, and not in time");
        assert!(e.message().contains("no answer within 0.3 s"), "{e}");
        let before = asked.load(Ordering::Acquire);
        assert!(vault.versions("", None).await.expect("waited for").versions.is_empty());
        assert_eq!(asked.load(Ordering::Acquire), before + 2, "a request may have been lost, so it was repeated soon");
        vault.versions("", None).await.expect("waited for");
        assert_eq!(asked.load(Ordering::Acquire), before + 3, "it is known to be slow");
    }

    #[tokio::test]
    async fn a_page_that_is_known_to_be_slow_is_asked_for_again_once_and_the_versions_of_a_name_are_not_waited_for_as_long() {
        let never = Duration::from_hours(1);
        let (settings, asked) = answering_late("", never).await;
        let vault = RemoteStore::open(&settings).expect("settings").attestable().expect("an S3 store").vault;
        let vault = crate::store::Vault { answers_within: SHORT, lists_within: SHORT * 2, ..vault };
        vault.lists_slowly.store(true, Ordering::Release);
        let e = vault.versions("cases/", None).await.expect_err("silent");
        assert!(e.message().contains("no answer within 0.6 s"), "{e}");
        assert_eq!(asked.load(Ordering::Acquire), 2, "the log says that it is tried again");
        let e = vault.versions_of("cases/a").await.expect_err("silent");
        assert!(e.message().contains("no answer within 0.3 s"), "{e}");
    }

    #[tokio::test]
    async fn a_late_refusal_does_not_make_a_store_one_that_lists_slowly() {
        let disturbed = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let (settings, asked) = answering_late(disturbed, SHORT * 3).await;
        let vault = RemoteStore::open(&settings).expect("settings").attestable().expect("an S3 store").vault;
        let vault = crate::store::Vault { answers_within: SHORT, lists_within: SOON, ..vault };
        let e = vault.versions("cases/", None).await.expect_err("disturbed");
        assert!(e.message().contains("503"), "{e}");
        assert!(asked.load(Ordering::Acquire) > 1 && !vault.lists_slowly.load(Ordering::Acquire), "it listed nothing");
    }

    #[tokio::test]
    async fn an_answer_that_begins_and_stops_is_not_waited_for_longer() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: 1000\r\n\r\n<Li";
        let (store, begun) = (RemoteStore::open(&answering(cut).await).expect("settings"), Instant::now());
        let vault = store.attestable().expect("an S3 store").vault;
        let vault = crate::store::Vault { answers_within: SHORT, ..vault };
        let e = vault.versions("", None).await.expect_err("cut");
        assert!(e.kind() == Kind::Retry && e.message().contains("could not list the versions in bucket evidence at"), "{e}");
        assert!(e.message().contains("its answer stopped, nothing more came within 0.3 s"), "{e}");
        assert!(vault.silence_told.load(Ordering::Acquire), "the log says that it waits, once");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }

    /// The creation happens and nobody hears of it: the next try finds its own content and goes on.
    #[tokio::test(start_paused = true)]
    async fn a_start_takes_up_its_own_creation_that_was_not_answered() {
        for fault in [Fault::DieAfter, Fault::DieBefore] {
            let store = FaultyStore::new(Arc::new(RemoteStore::memory()));
            store.faults.fail(Op::PutNew, "create-only", 0, 1, fault);
            let (awaited, begun) = (Awaited::default(), Instant::now());
            let passes = |e: &StoreError| e.kind() == Kind::Retry;
            let started = starting::patient(&awaited, "the store", passes, || self_test(&store));
            tokio::time::timeout(ANSWERS_WITHIN * 3, started).await.expect("in time").expect("the second try");
            assert!(begun.elapsed() >= ANSWERS_WITHIN && begun.elapsed() < ANSWERS_WITHIN * 2, "{:?}", begun.elapsed());
        }
    }
}
