//! What the holder of the writer's credentials does to a log in a store that keeps and locks versions: markers, older heads on top, and
//! something else under the name of the next record. The signed tree goes on, and each thing is named once.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::attest::Offline;
use exhibit_coordinator::clock;
use exhibit_coordinator::ledger::{DAMAGED, HEAD, Kind, Ledger, Ledgers, News, RECORD, SQUATTED};
use exhibit_coordinator::store::attest::{self, Pass, Task};
use exhibit_coordinator::store::faulty::{Fault, FaultyStore, Op};
use exhibit_coordinator::store::{self, LockMode, LockPolicy, RemoteSettings, RemoteStore, Store};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::Checkpoint;
use exhibit_evidence::record::{self, Incident};

use crate::support::deployment::{self, access, case, log_key, opening, verify_from_bytes};
use crate::support::moto::{self, Server};

/// A bucket that locks, and where in it the deployment lies.
struct Bucket {
    server: Arc<Server>,
    prefix: String,
}

impl Bucket {
    fn start() -> Self {
        Self { server: Arc::new(moto::start_with_lock()), prefix: "d1".to_owned() }
    }
}

/// The store as a process has it that remembers nothing.
fn opened(bucket: &Bucket) -> Arc<dyn Store> {
    let lock = Some(LockPolicy { mode: LockMode::Compliance, days: 10 });
    let settings = RemoteSettings { lock, ..bucket.server.settings(&bucket.prefix) };
    Arc::new(RemoteStore::open(&settings).expect("settings"))
}

/// The logs of the next process.
fn process(store: &Arc<dyn Store>) -> Arc<Ledgers> {
    Ledgers::new(Arc::clone(store), deployment::keys())
}

async fn case_log(ledgers: &Ledgers) -> Ledger {
    ledgers.case(&case()).await.unwrap_or_else(|e| panic!("{e}"))
}

fn name() -> LogName {
    LogName::Case(case())
}

/// A log of nine records, with a head of five.
async fn nine(ledgers: &Ledgers) -> Ledger {
    let log = case_log(ledgers).await;
    log.append(opening()).await.expect("appended");
    for n in 1..=4 {
        log.append(vec![access(n)]).await.expect("appended");
    }
    assert_eq!(log.size(), 9);
    log
}

fn send(bucket: &Bucket, method: &str, object: &str, headers: &str, body: &str) -> String {
    let (status, body) = bucket.server.send(method, &format!("/evidence/{}/{object}", bucket.prefix), headers, body);
    assert!((200..300).contains(&status), "{method} {object}: {status} {body}");
    body
}

/// Takes a name before the coordinator does, as the policy lets it.
fn squat(bucket: &Bucket, object: &str, content: &str) {
    send(bucket, "PUT", object, "If-None-Match: *\r\n", content);
}

/// Puts something on top of a head, as the policy lets it.
fn put_on_top(bucket: &Bucket, content: &[u8]) {
    send(bucket, "PUT", &name().checkpoint(), "", std::str::from_utf8(content).expect("text"));
}

/// What no policy lets: markers on the newest records and their tiles.
fn hide_the_end(bucket: &Bucket, sizes: std::ops::RangeInclusive<u64>) {
    for size in sizes {
        send(bucket, "DELETE", &name().slot(size - 1), "", "");
        send(bucket, "DELETE", &format!("{}/tile/0/000.p/{size}", name().folder()), "", "");
    }
}

fn head_of(log: &Ledger, size: u64) -> Vec<u8> {
    let origin = name().origin(deployment::NAME);
    Checkpoint { origin, size, root: log.root_at(size).expect("a root") }.sign(&log_key())
}

fn details(news: &[News], kind: &str) -> Vec<String> {
    news.iter().filter(|n| n.kind == kind).map(|n| n.detail.clone()).collect()
}

/// The record by which the coordinator says it.
fn said(news: &News) -> Envelope {
    let (deployment, detail) = (deployment::NAME.to_owned(), news.detail.clone());
    let (about, kind, at) = (news.log.folder(), news.kind.to_owned(), deployment::at(9));
    let p = Incident { deployment, case: Some(case()), kind, about, detail, count: 1, first_at: at, last_at: at };
    record::sign(&p, &log_key()).expect("small")
}

async fn versions(store: &Arc<dyn Store>, object: &str) -> usize {
    let vault = store.attestable().expect("versions").vault;
    vault.versions_of(object).await.expect("listed").iter().filter(|v| !v.marker).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rolled_back_in_a_locked_store_goes_on_where_it_was() {
    let bucket = Bucket::start();
    let store = opened(&bucket);
    let first = nine(&process(&store)).await;
    hide_the_end(&bucket, 6..=9);
    put_on_top(&bucket, &head_of(&first, 5));

    let store = opened(&bucket);
    let ledgers = process(&store);
    let log = case_log(&ledgers).await;
    assert_eq!((log.head(), log.published()), (first.head(), 9));
    let top = Checkpoint::parse_unverified(send(&bucket, "GET", &name().checkpoint(), "", "").as_bytes()).expect("a head");
    assert_eq!((top.size, top.root), (9, first.head().root), "the newest head lies on top again");
    let news = ledgers.known().news().take();
    let told = details(&news, HEAD);
    assert!(told.len() == 1 && told[0].contains("an older head, of 5 records, was put on top of the one of 9: version '"), "{news:?}");
    assert_eq!(log.append(vec![access(5), said(&news[0])]).await.expect("appended"), [9, 10]);
    for n in 0..11 {
        assert_eq!(versions(&store, &name().slot(n)).await, 1, "nothing was written over record {n}");
        log.read(n).await.expect("reads from beneath");
    }

    // It was said, so that nobody says it again, also after an ordinary end.
    let store = opened(&bucket);
    let ledgers = process(&store);
    assert_eq!(case_log(&ledgers).await.size(), 11);
    assert!(ledgers.known().news().take().is_empty());
    assert_eq!(verify_from_bytes(&store, &name()).await.len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_looks_free_under_a_marker_is_not_written_again() {
    let bucket = Bucket::start();
    let store = opened(&bucket);
    let (one, other) = (case_log(&process(&store)).await, case_log(&process(&opened(&bucket))).await);
    one.append(opening()).await.expect("appended");
    // The other does not know of it, and sees nothing.
    for n in 0..5 {
        send(&bucket, "DELETE", &name().slot(n), "", "");
    }
    assert_eq!(other.append(vec![opening()[0].clone()]).await.expect("there already"), [0]);
    assert_eq!(other.append(opening()).await.expect("there already"), [0, 1, 2, 3, 4]);
    assert_eq!(other.append(vec![access(1)]).await.expect("appended"), [5]);
    for n in 0..5 {
        assert_eq!(versions(&store, &name().slot(n)).await, 1, "record {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_head_on_top_of_a_head_closes_no_log() {
    let bucket = Bucket::start();
    let first = nine(&process(&opened(&bucket))).await;
    let of_another =
        Checkpoint { origin: LogName::Deployment.origin(deployment::NAME), size: 99, root: first.head().root }.sign(&log_key());
    let signed_by_another = Checkpoint { origin: name().origin(deployment::NAME), size: 99, root: first.head().root };
    let large = "x".repeat(70_000);
    for (junk, why) in [
        (b"junk".to_vec(), "not a signed checkpoint"),
        (large.into_bytes(), "larger than any head"),
        (of_another, "that of another log"),
        (signed_by_another.sign(&deployment::key(66)), "does not match the log key"),
    ] {
        put_on_top(&bucket, &junk);
        let ledgers = process(&opened(&bucket));
        assert_eq!(case_log(&ledgers).await.head(), first.head(), "{why}");
        let told = details(&ledgers.known().news().take(), HEAD);
        assert!(
            told.len() == 1 && told[0].contains("what is no head of this log was put in its place") && told[0].contains(why),
            "{told:?}"
        );
        let top = Checkpoint::verify(send(&bucket, "GET", &name().checkpoint(), "", "").as_bytes(), &log_key().public());
        assert_eq!(top.expect("signed again").size, 9, "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_squatted_place_is_written_past_and_the_oldest_record_of_it_counts() {
    let bucket = Bucket::start();
    let ledgers = process(&opened(&bucket));
    let log = case_log(&ledgers).await;
    log.append(opening()).await.expect("appended");
    let tile = format!("{}/tile/0/000.p/6", name().folder());
    let genuine = opening();
    squat(&bucket, &name().slot(5), "squat");
    squat(&bucket, &tile, "squat");
    squat(&bucket, &name().slot(6), std::str::from_utf8(genuine[3].as_bytes()).expect("text"));
    squat(&bucket, &name().slot(7), &"x".repeat(70_000));
    squat(&bucket, &name().slot(20), "squat");
    squat(&bucket, &format!("{}/seq/notes", name().folder()), "squat");
    for n in 1..=4 {
        assert_eq!(log.append(vec![access(n)]).await.unwrap_or_else(|e| panic!("{n}: {e}")), [u64::from(n) + 4]);
    }
    let told = details(&ledgers.known().news().take(), SQUATTED).join("\n");
    assert!([name().slot(5), name().slot(7), tile.clone()].iter().all(|object| told.contains(object)), "{told}");
    assert!(told.contains("it is record 3 once more") && told.contains("it is larger than any record"), "{told}");
    assert_eq!(ledgers.known().news().stuck(), 0);
    // Whoever downloads the newest versions has the records.
    for (n, record) in [(5, access(1)), (6, access(2)), (7, access(3))] {
        assert_eq!(send(&bucket, "GET", &name().slot(n), "", "").as_bytes(), record.as_bytes(), "record {n}");
    }
    // Somebody puts more on top: the next process comes to the same, and names each thing by its version until the log does.
    for object in [name().slot(5), tile, name().slot(1)] {
        send(&bucket, "PUT", &object, "", "more");
    }
    let store = opened(&bucket);
    let ledgers = process(&store);
    let again = case_log(&ledgers).await;
    assert_eq!(again.head(), log.head());
    let news = ledgers.known().news().take();
    let told = details(&news, SQUATTED);
    assert!(told.len() == 1 && told[0].contains(&name().slot(6)) && told[0].contains(&name().slot(20)), "{news:?}");
    for n in 0..9 {
        assert_eq!(again.read(n).await.expect("genuine").digest(), log.entry(n).expect("known").digest, "record {n}");
    }
    assert_eq!(again.append(vec![said(&news[0])]).await.expect("appended"), [9]);
    let ledgers = process(&opened(&bucket));
    assert_eq!(case_log(&ledgers).await.size(), 10);
    assert!(ledgers.known().news().take().is_empty(), "it was said");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_or_fails_at_a_squatted_place_leaves_one_record_there() {
    let retry = store::Kind::Retry;
    let faults = [Fault::Before(retry), Fault::After(retry), Fault::DieBefore, Fault::DieAfter];
    let (server, mut stories) = (Arc::new(moto::start_with_lock()), 0);
    for (object, is_there) in [("seq/0000000005", true), ("seq/0000000005", false), ("tile/0/000.p/6", true)] {
        for fault in faults {
            let shown = format!("{object} {is_there} {fault:?}");
            stories += 1;
            let bucket = Bucket { server: Arc::clone(&server), prefix: format!("d{stories}") };
            let faulty = FaultyStore::new(opened(&bucket));
            let store: Arc<dyn Store> = Arc::new(faulty.clone());
            let log = case_log(&process(&store)).await;
            log.append(opening()).await.expect("nothing fails yet");
            let squatted = if object.starts_with("seq") { name().slot(5) } else { format!("{}/{object}", name().folder()) };
            if is_there {
                squat(&bucket, &squatted, "squat");
            }
            faulty.faults.fail(Op::PutNew, object, 0, 1, fault);
            tokio::select! {
                appended = log.append(vec![access(1)]) => {
                    // A tile is created before it is seen that something lies there.
                    assert!(appended.is_err(), "{shown}: {appended:?}");
                }
                () = faulty.died() => {}
            }
            if !is_there {
                // It appears between: on top of the record that was written, or before it.
                send(&bucket, "PUT", &squatted, "", "squat");
            }
            let store = opened(&bucket);
            let again = case_log(&process(&store)).await;
            assert_eq!(again.append(vec![access(1)]).await.unwrap_or_else(|e| panic!("{shown}: {e}")), [5], "{shown}");
            assert_eq!(again.append(vec![access(2)]).await.unwrap_or_else(|e| panic!("{shown}: {e}")), [6], "{shown}");
            assert_eq!(verify_from_bytes(&store, &name()).await.len(), 7, "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_may_be_written_on_top_the_squat_is_named_with_what_helps() {
    let bucket = Bucket::start();
    let faulty = FaultyStore::new(opened(&bucket));
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    let ledgers = process(&store);
    let log = case_log(&ledgers).await;
    log.append(opening()).await.expect("appended");
    squat(&bucket, &name().slot(5), "squat");
    faulty.faults.fail(Op::PutNew, "seq/0000000005", 0, 3, Fault::Before(store::Kind::Denied));
    for _ in 0..3 {
        let e = log.append(vec![access(1)]).await.expect_err("the policy lets nothing be written there");
        assert!(e.kind() == Kind::Damaged && e.to_string().contains("record 5"), "{e}");
        assert!(e.to_string().contains("s3-squat.json") && e.to_string().contains("version '"), "{e}");
        assert_eq!(ledgers.known().news().stuck(), 1);
    }
    let news = ledgers.known().news().take();
    assert_eq!((details(&news, SQUATTED).len(), details(&news, DAMAGED).len()), (1, 1), "once each: {news:?}");
    assert_eq!(log.append(vec![access(1)]).await.expect("the policy was replaced"), [5]);
    assert_eq!((ledgers.known().news().stuck(), versions(&store, &name().slot(5)).await), (0, 2));
}

#[tokio::test]
async fn without_versions_a_squat_stops_the_log_says_what_helps_and_is_told_at_once() {
    let dir = tempfile::tempdir().expect("dir");
    let root = dir.path().join("store");
    let store: Arc<dyn Store> = Arc::new(store::LocalStore::create(&root).expect("new store"));
    let ledgers = process(&store);
    let log = case_log(&ledgers).await;
    log.append(opening()).await.expect("appended");
    let path = root.join(name().slot(5));
    std::fs::write(&path, "squat").expect("written");
    for _ in 0..2 {
        let e = log.append(vec![access(1)]).await.expect_err("squatted");
        assert!(e.kind() == Kind::Damaged && e.to_string().contains("record 5") && e.to_string().contains("take it away"), "{e}");
    }
    assert_eq!((details(&ledgers.known().news().take(), DAMAGED).len(), ledgers.known().news().stuck()), (1, 1), "told once");
    let e = process(&store).case(&case()).await.expect_err("squatted");
    assert!(e.kind() == Kind::Damaged && e.to_string().contains("take it away"), "{e}");
    // A record of this log once more is none of that place either.
    std::fs::write(&path, opening()[2].as_bytes()).expect("written");
    let e = log.append(vec![access(1)]).await.expect_err("squatted");
    assert!(e.to_string().contains("it is record 2 once more"), "{e}");
    std::fs::remove_file(&path).expect("taken away");
    assert_eq!(log.append(vec![access(1)]).await.expect("goes on"), [5]);
    assert_eq!(ledgers.known().news().stuck(), 0);
}

/// The policy for that time: heads as ever, and records and tiles only on a condition. Everything else is the writer's.
#[test]
fn the_policy_that_lets_a_log_go_on_reaches_the_log_alone() {
    let read = |text: &str| -> serde_json::Value { serde_json::from_str(text).expect("json") };
    let writer = read(include_str!("../../../deploy/policies/s3-writer.json"));
    let squat = read(include_str!("../../../deploy/policies/s3-squat.json"));
    let statements = |policy: &serde_json::Value| policy["Statement"].as_array().expect("statements").clone();
    let (writer, squat) = (statements(&writer), statements(&squat));
    assert_eq!((writer.len(), squat.len(), &writer[..3]), (4, 5, &squat[..3]));
    let without = |of: &serde_json::Value| -> Vec<String> {
        of["NotResource"].as_array().expect("names").iter().map(|v| v.as_str().expect("text").to_owned()).collect()
    };
    let more: Vec<String> = without(&squat[3]).into_iter().filter(|name| !without(&writer[3]).contains(name)).collect();
    let log = ["arn:aws:s3:::BUCKET/*log/seq/*", "arn:aws:s3:::BUCKET/*log/tile/*"];
    assert_eq!((more, &squat[3]["Condition"]), (log.map(str::to_owned).to_vec(), &writer[3]["Condition"]));
    assert!(squat[4]["Effect"] == "Deny" && squat[4]["Action"] == "s3:PutObject");
    assert_eq!(squat[4]["Resource"], serde_json::json!(log));
    assert_eq!(squat[4]["Condition"], serde_json::json!({ "Null": { "s3:if-none-match": "true", "s3:if-match": "true" } }));
}

/// What attestation by a command says that looks at all with the deployment's root key, and not with its coordinator.
async fn attested(bucket: &Bucket) -> attest::Report {
    let store = opened(bucket);
    attest::recall(&*store, "").await.expect("looked");
    let task = Task { begin: String::new(), repair: false, pause: Duration::ZERO, now: clock::now() };
    let pass = Pass::new(store.attestable().expect("versions"), task);
    let judge = Offline::new(Arc::clone(&store), Arc::new(deployment::keys()));
    pass.judged_by(judge).run().await.expect("looked")
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_tells_of_a_squat_calls_the_record_genuine_or_says_that_it_cannot_tell() {
    let bucket = Bucket::start();
    let ledgers = process(&opened(&bucket));
    // As every deployment has it that has a case.
    let deployments = ledgers.deployment().await.expect("log");
    deployments.append(vec![opening().remove(0)]).await.expect("appended");
    let log = case_log(&ledgers).await;
    log.append(opening()).await.expect("appended");
    squat(&bucket, &name().slot(5), "squat");
    assert_eq!(log.append(vec![access(1)]).await.expect("appended"), [5]);
    let store = opened(&bucket);
    let vault = store.attestable().expect("versions").vault;
    let versions = vault.versions_of(&name().slot(5)).await.expect("listed");
    let id = |latest: bool| versions.iter().find(|v| v.latest == latest).expect("two versions").version.clone();
    let (ours, squat) = (id(true), id(false));
    let right = |told: &str| told.contains(&format!("the genuine version is '{ours}'; it was put on top of '{squat}'"));

    let told = attest::recall(&*store, "").await.expect("looked");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].detail.contains("leave all of them") && !told[0].detail.contains("the genuine version is"), "{told:?}");
    case_log(&process(&store)).await;
    let told = attest::recall(&*store, "").await.expect("looked");
    assert!(told.len() == 1 && right(&told[0].detail), "the log was opened: {told:?}");
    let report = attested(&bucket).await;
    assert!(report.troubles.len() == 1 && report.troubles[0].kind == "store-version", "nor is the squat to be locked: {report:?}");
    assert!(right(&report.troubles[0].detail), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_to_which_nothing_is_added_gets_its_newest_head_on_top_again_and_is_told_of_once() {
    let bucket = Bucket::start();
    let store = opened(&bucket);
    let ledgers = process(&store);
    let log = nine(&ledgers).await;
    put_on_top(&bucket, &head_of(&log, 5));
    log.look_at_head().await.expect("looked");
    let top = Checkpoint::parse_unverified(send(&bucket, "GET", &name().checkpoint(), "", "").as_bytes()).expect("a head");
    assert_eq!((top.size, top.root, log.size()), (9, log.head().root, 9));
    assert_eq!(details(&ledgers.known().news().take(), HEAD).len(), 1);
    let heads = versions(&store, &name().checkpoint()).await;
    log.look_at_head().await.expect("looked");
    assert!(ledgers.known().news().take().is_empty());
    assert_eq!(versions(&store, &name().checkpoint()).await, heads, "nothing is written where nothing lies on top");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_first_to_a_squat_tells_it_and_nobody_again() {
    let bucket = Bucket::start();
    let ledgers = process(&opened(&bucket));
    let log = nine(&ledgers).await;
    assert!(!log.tells_squat(9).await.expect("looked"), "nothing lies there");
    squat(&bucket, &name().slot(9), "squat");
    squat(&bucket, &name().slot(20), "squat");
    for _ in 0..2 {
        assert!(log.tells_squat(9).await.expect("looked"));
    }
    assert!(!log.tells_squat(20).await.expect("looked"), "that is not the next place");
    assert_eq!(log.append(vec![access(5)]).await.expect("appended"), [9]);
    let told = details(&ledgers.known().news().take(), SQUATTED);
    assert!(told.len() == 1 && told[0].contains(&name().slot(9)) && !told[0].contains(&name().slot(20)), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_on_top_is_no_forgery() {
    let bucket = Bucket::start();
    nine(&process(&opened(&bucket))).await;
    let (again, forged) = (name().slot(3), name().slot(2));
    send(&bucket, "DELETE", &again, "", "");
    send(&bucket, "PUT", &again, "", std::str::from_utf8(opening()[3].as_bytes()).expect("text"));
    send(&bucket, "PUT", &forged, "", "forgery");
    let report = attested(&bucket).await;
    let told: Vec<&str> = report.troubles.iter().filter(|t| t.kind == "store-version").map(|t| t.detail.as_str()).collect();
    assert!(told.len() == 1 && told[0].contains(&forged) && !told[0].contains(&again), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_nobody_is_known_to_have_written_is_told_and_one_that_failed_is_not() {
    let bucket = Bucket::start();
    let faulty = FaultyStore::new(opened(&bucket));
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    let ledgers = process(&store);
    let log = case_log(&ledgers).await;
    log.append(opening()).await.expect("appended");
    faulty.faults.fail(Op::PutNew, "seq/0000000005", 0, 1, Fault::After(store::Kind::Retry));
    log.append(vec![access(1)]).await.expect_err("it is there, and that is not known");
    assert_eq!(log.append(vec![access(2)]).await.expect("appended"), [6]);
    assert!(details(&ledgers.known().news().take(), RECORD).is_empty(), "it is this process's own");

    squat(&bucket, &name().slot(7), std::str::from_utf8(access(3).as_bytes()).expect("text"));
    assert_eq!(log.append(vec![access(4)]).await.expect("appended"), [8]);
    let told = details(&ledgers.known().news().take(), RECORD);
    assert!(told.len() == 1 && told[0].contains(&name().slot(7)) && told[0].contains(&access(3).digest().to_string()), "{told:?}");
}
