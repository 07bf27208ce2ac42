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
        if self.spent.load(Ordering::Acquire) {
            let message = format!("did not {asked}: the store was silent before");
            return Err(StoreError::new(Kind::Retry, message, REMEDY));
        }
        if let Ok(answered) = tokio::time::timeout(self.within, call).await {
            return answered;
        }
        self.spent.store(true, Ordering::Release);
        Err(silent(asked, self.within))
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

    pub(super) async fn destroy(&self, name: &str) -> Result<(), StoreError> {
        self.patience.answer(&self.what("delete", name), self.store.destroy(name)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;
    use crate::clock;
    use crate::starting::{self, Awaited};
    use crate::store::check::{self, State};
    use crate::store::faulty::{Fault, FaultyStore, Op};
    use crate::store::tests::{answering, bucket_at};
    use crate::store::{RemoteStore, self_test, self_test_with};

    const SHORT: Duration = Duration::from_millis(300);
    /// Far below the time of a request, far above what a slow machine needs.
    const SOON: Duration = Duration::from_secs(20);

    /// A bucket at a server that takes connections and never says a word.
    async fn mute() -> RemoteStore {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                kept.push(connection);
            }
        });
        RemoteStore::open(&bucket_at(port)).expect("settings")
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
        assert_eq!(report.state("create-only"), Some(State::Missing), "{}", report.text());
        assert!(report.text().contains("no answer within 0.3 s"), "{}", report.text());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn what_is_asked_of_versions_and_locks_is_not_waited_for_longer() {
        let (store, begun) = (mute().await, Instant::now());
        let vault = store.attestable().expect("an S3 store").vault;
        // As attestation asks: tried again within the call, then it is an error.
        let of_attestation = crate::store::Vault { answers_within: SHORT, ..vault.clone() };
        let e = of_attestation.versions("", None).await.expect_err("silent");
        assert!(e.kind() == Kind::Retry && e.message().contains("could not list the versions in bucket evidence at"), "{e}");
        assert!(e.message().contains("no answer within 0.3 s"), "{e}");
        // As `store check` asks: after one silence nothing more is asked.
        let of_check = vault.asked_with(&Arc::new(Patience::of(SHORT)));
        let e = of_check.posture().await.expect_err("silent");
        assert!(e.kind() == Kind::Retry && e.message().contains("no answer within 0.3 s"), "{e}");
        let e = of_check.lock_of("a", "1").await.expect_err("not asked");
        assert!(e.kind() == Kind::Retry && e.message().contains("the store was silent before"), "{e}");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
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
