//! The adapter for object stores in memory and against an S3 server, and the wrapper that fails.

use crate::support;
use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::clock;
use exhibit_coordinator::store::attest::{Pass, Task};
use exhibit_coordinator::store::check::{self, State};
use exhibit_coordinator::store::faulty::{Fault, FaultyStore, Op};
use exhibit_coordinator::store::{
    Encryption, Kind, LockMode, LockPolicy, Payload, RemoteKind, RemoteSettings, RemoteStore, Store, conformance, self_test,
};
use exhibit_evidence::Digest;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_contract() {
    conformance::run(Arc::new(RemoteStore::memory()), "suite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_failing_wrapper_keeps_the_contract_while_nothing_fails() {
    conformance::run(Arc::new(FaultyStore::new(Arc::new(RemoteStore::memory()))), "suite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_keeps_the_contract() {
    let server = support::moto::start_with_lock();
    server.put_bucket("plain", "").expect("a bucket without versions");
    let plain = RemoteSettings { bucket: "plain".to_owned(), ..server.settings("") };
    for settings in [plain, server.settings("below/here")] {
        let store = RemoteStore::open(&settings).expect("settings");
        conformance::run(Arc::new(store.clone()), "suite").await;
        // What was destroyed left no version and no marker, and what there is takes more than one page.
        let task = Task { begin: String::new(), repair: false, pause: Duration::ZERO, now: clock::now() };
        let seen = Pass::new(store.attestable().expect("an S3 store"), task).run().await.expect("attested");
        let of_the_suite = match seen.lists.as_slice() {
            [only] if only.kind == "store-foreign" => only.count,
            _ => 0,
        };
        assert!(of_the_suite > 1_000 && seen.versions >= of_the_suite && seen.troubles.len() == 1, "{seen:#?}");
    }
    let absent = RemoteStore::open(&RemoteSettings { bucket: "no-such-bucket".to_owned(), ..server.settings("") }).expect("settings");
    let e = self_test(&absent).await.expect_err("no bucket");
    assert!(e.kind() == Kind::Denied && e.remedy().contains("make it"), "{:?} {e}", e.kind());
    assert!(e.message().starts_with("the start-up test could not write") && e.message().contains("bucket no-such-bucket at"), "{e}");
    for e in [absent.get("a", 10).await.expect_err("no bucket"), absent.folders("cases").await.expect_err("no bucket")] {
        assert!(e.kind() == Kind::Denied && e.remedy().contains("make it"), "an absent bucket is no absent object: {e}");
    }
}

/// With every object, locked or not; a server that takes the words and does nothing is refused at start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_encrypts_as_it_is_told_or_is_refused() {
    let server = support::moto::start_with_lock();
    let kms = Encryption::SseKms { key: Some("arn:aws:kms:us-east-1:111122223333:key/evidence".to_owned()), bucket_key: true };
    let lock = Some(LockPolicy { mode: LockMode::Compliance, days: 1 });
    for (place, asked, lock) in [("plain", Encryption::SseS3 {}, None), ("locked", Encryption::SseS3 {}, lock), ("kms", kms, lock)] {
        let settings = RemoteSettings { encryption: Some(asked.clone()), lock, ..server.settings(place) };
        let store = RemoteStore::open(&settings).expect("settings");
        self_test(&store).await.unwrap_or_else(|e| panic!("{place}: {e}"));
        let content = b"evidence";
        store.put_new("cases/a", Payload::from(content.to_vec()), Digest::of(content)).await.expect("written");
        let vault = store.attestable().expect("an S3 store").vault;
        let seen = vault.encryption_of("cases/a").await.expect("looked at");
        assert_eq!(asked.compare(&seen), Ok(()), "{place}");
        assert_eq!(&store.get("cases/a", 100).await.expect("read")[..], content);
        let report = check::run(&store, lock, clock::now()).await;
        assert_eq!(report.state("encryption"), Some(State::Holds), "{}", report.text());
        assert!(report.text().contains(&asked.to_string()), "{}", report.text());
    }
    // Nothing is asked for, and nothing is missed.
    let report = check::run(&RemoteStore::open(&server.settings("none")).expect("settings"), None, clock::now()).await;
    assert_eq!(report.state("encryption"), Some(State::Holds), "{}", report.text());

    let deaf = support::second::localbucket();
    let settings = RemoteSettings { encryption: Some(Encryption::SseS3 {}), ..deaf.settings("") };
    let e = self_test(&RemoteStore::open(&settings).expect("settings")).await.expect_err("it does not encrypt");
    assert!(e.kind() == Kind::Denied && e.message().contains("asked for was AES256, the store says nothing"), "{e}");
    let azure = RemoteSettings { kind: RemoteKind::Azure, account: "exhibit".to_owned(), ..settings };
    let e = RemoteStore::open(&azure).expect_err("not there");
    assert!(e.message().contains("store.encryption is for S3"), "{e}");
}

#[tokio::test]
async fn a_server_that_is_away_is_to_be_retried() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = listener.local_addr().expect("address").port();
    drop(listener);
    let store = RemoteStore::open(&support::s3_settings(port, "")).expect("settings");
    let e = store.get("a", 10).await.expect_err("nobody listens");
    assert_eq!(e.kind(), Kind::Retry, "{e}");
}

#[test]
fn plain_http_needs_a_dangerous_word_and_secrets_are_not_shown() {
    let settings = RemoteSettings { allow_http: false, ..support::s3_settings(9, "") };
    let e = RemoteStore::open(&settings).expect_err("http");
    assert!(e.kind() == Kind::Denied && e.remedy().contains("dangerous_allow_http"), "{e}");
    let store = RemoteStore::open(&support::s3_settings(9, "")).expect("settings");
    for shown in [format!("{settings:?}"), format!("{store:?}"), store.describe()] {
        assert!(!shown.contains("very-secret"), "{shown}");
    }
}

/// A store on which a second creation succeeds, as some gateways do on versioned buckets.
#[derive(Debug)]
struct Forgetful(RemoteStore);

impl Store for Forgetful {
    fn describe(&self) -> String {
        "forgetful".to_owned()
    }
    fn put_new<'a>(
        &'a self,
        name: &'a str,
        content: Payload,
        _: Digest,
    ) -> exhibit_coordinator::store::Answer<'a, exhibit_coordinator::store::Stored> {
        Box::pin(async move {
            let bytes: Vec<u8> = content.iter().flat_map(|b| b.to_vec()).collect();
            self.0.put_head(name, bytes.into()).await?;
            Ok(exhibit_coordinator::store::Stored { existed: false, version: None })
        })
    }
    fn put_head<'a>(&'a self, name: &'a str, content: bytes::Bytes) -> exhibit_coordinator::store::Answer<'a, ()> {
        self.0.put_head(name, content)
    }
    fn get<'a>(&'a self, name: &'a str, bytes_max: u64) -> exhibit_coordinator::store::Answer<'a, bytes::Bytes> {
        self.0.get(name, bytes_max)
    }
    fn get_range<'a>(&'a self, name: &'a str, range: std::ops::Range<u64>) -> exhibit_coordinator::store::Answer<'a, bytes::Bytes> {
        self.0.get_range(name, range)
    }
    fn size<'a>(&'a self, name: &'a str) -> exhibit_coordinator::store::Answer<'a, u64> {
        self.0.size(name)
    }
    fn list<'a>(
        &'a self,
        folder: &'a str,
        after: Option<&'a str>,
    ) -> exhibit_coordinator::store::Answer<'a, exhibit_coordinator::store::Page> {
        self.0.list(folder, after)
    }
    fn folders<'a>(&'a self, folder: &'a str) -> exhibit_coordinator::store::Answer<'a, Vec<String>> {
        self.0.folders(folder)
    }
    fn destroy<'a>(&'a self, name: &'a str) -> exhibit_coordinator::store::Answer<'a, ()> {
        self.0.destroy(name)
    }
    fn free_bytes(&self) -> exhibit_coordinator::store::Answer<'_, Option<u64>> {
        self.0.free_bytes()
    }
}

#[tokio::test]
async fn a_store_that_overwrites_is_refused_at_every_start() {
    let store = Forgetful(RemoteStore::memory());
    for start in 0..3 {
        let e = self_test(&store).await.expect_err("it overwrites");
        assert!(e.kind() == Kind::Denied && e.message().contains("can be overwritten"), "start {start}: {e}");
    }
}

#[tokio::test]
async fn the_start_up_test_names_the_step_that_failed() {
    for (op, name, kind, words) in [
        (Op::PutHead, "probe/head", Kind::Full, "could not write to the store"),
        (Op::PutHead, "probe/head", Kind::Denied, "could not write to the store"),
        (Op::Get, "probe/head", Kind::Retry, "could not read back"),
        (Op::PutNew, "probe/create-only", Kind::Denied, "could not create an object"),
    ] {
        let store = FaultyStore::new(Arc::new(RemoteStore::memory()));
        store.faults.fail(op, name, 0, 1, Fault::Before(kind));
        let e = self_test(&store).await.expect_err("it fails");
        assert!(e.kind() == kind && e.message().contains(words), "{op:?}: {e}");
        self_test(&store).await.expect("healed");
    }
    let store = FaultyStore::new(Arc::new(RemoteStore::memory()));
    store.faults.fail(Op::Get, "probe/head", 0, 1, Fault::Corrupt);
    assert_eq!(self_test(&store).await.expect_err("altered").kind(), Kind::Damaged);
}

#[tokio::test]
async fn faults_come_as_planned() {
    let store = FaultyStore::new(Arc::new(RemoteStore::memory()));
    let put = |name: &'static str| store.put_new(name, Payload::from_static(b"abcd"), Digest::of(b"abcd"));
    store.faults.fail(Op::PutNew, "b", 1, 1, Fault::Before(Kind::Retry));
    store.faults.fail(Op::PutNew, "c", 0, 1, Fault::After(Kind::Retry));
    put("b1").await.expect("skipped");
    put("b2").await.expect_err("before");
    assert_eq!(store.size("b2").await.expect_err("not applied").kind(), Kind::NotFound);
    put("c1").await.expect_err("after");
    assert_eq!(store.size("c1").await.expect("applied"), 4);
    assert!(put("c1").await.expect("the retry").existed);
    store.faults.fail(Op::Get, "c1", 0, 1, Fault::Short);
    assert_eq!(store.get("c1", 10).await.expect("short").len(), 3);
    assert_eq!(store.get("c1", 10).await.expect("whole").len(), 4);
    let outcomes = |seed| async move {
        let store = FaultyStore::new(Arc::new(RemoteStore::memory()));
        store.faults.fail_at_random(seed, 300);
        let mut out = Vec::new();
        for i in 0..100 {
            out.push(store.put_new(&format!("o{i}"), Payload::from_static(b"x"), Digest::of(b"x")).await.is_ok());
        }
        out
    };
    let first = outcomes(1).await;
    assert_eq!(first, outcomes(1).await, "one seed, one story");
    assert!(first.iter().any(|ok| *ok) && first.iter().any(|ok| !ok));
}
