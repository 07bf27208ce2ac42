//! The custody log: what it accepts, what it answers, and what it finds when it is opened again.

use std::sync::Arc;

use crate::support::deployment::{self, access, case, enrolments, opening, order, receipt, seal, verify_from_bytes};
use exhibit_coordinator::ledger::{Kind, Ledger, Ledgers};
use exhibit_coordinator::store::faulty::{FaultyStore, Op};
use exhibit_coordinator::store::{LocalStore, RemoteStore, Store};
use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::layout::{LogName, StreamNumber};
use exhibit_evidence::log::Tree;
use exhibit_evidence::record::{self, Role};

fn log() -> LogName {
    LogName::Case(case())
}

async fn open(store: &Arc<dyn Store>) -> Ledger {
    Ledger::open(Arc::clone(store), log(), Arc::new(deployment::keys()), None).await.expect("opens")
}

async fn refusal(store: &Arc<dyn Store>) -> String {
    let e = Ledger::open(Arc::clone(store), log(), Arc::new(deployment::keys()), None).await.expect_err("is refused");
    assert_eq!(e.kind(), Kind::Damaged, "{e}");
    assert!(e.to_string().contains("incident"), "{e}");
    e.to_string()
}

fn memory() -> Arc<dyn Store> {
    Arc::new(RemoteStore::memory())
}

#[tokio::test]
async fn an_empty_log_is_opened_without_a_trace() {
    let faulty = FaultyStore::new(memory());
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    let ledger = open(&store).await;
    assert_eq!((ledger.size(), ledger.head().root, ledger.root_at(0)), (0, Tree::new().root(), Some(Tree::new().root())));
    assert!(faulty.faults.calls().iter().all(|(op, _)| !matches!(op, Op::PutNew | Op::PutHead)), "{:?}", faulty.faults.calls());
}

#[tokio::test]
async fn records_get_consecutive_places_and_one_checkpoint() {
    let faulty = FaultyStore::new(memory());
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    let ledger = open(&store).await;
    assert_eq!(ledger.append(opening()).await.expect("appended"), [0, 1, 2, 3, 4]);
    let heads = |f: &FaultyStore| f.faults.calls().iter().filter(|(op, _)| *op == Op::PutHead).count();
    assert_eq!(heads(&faulty), 1, "several records, one checkpoint");
    assert_eq!(ledger.append(vec![order(1).1]).await.expect("appended"), [5]);
    assert_eq!(heads(&faulty), 2);
    let digests = verify_from_bytes(&store, &log()).await;
    assert_eq!(digests.len(), 6);
    // Order of writes: every slot before the tile over it, that before the checkpoint that covers both.
    let writes: Vec<Op> = faulty.faults.calls().iter().map(|(op, _)| *op).filter(|op| matches!(op, Op::PutNew | Op::PutHead)).collect();
    assert_eq!(writes, [[Op::PutNew; 6].as_slice(), &[Op::PutHead, Op::PutNew, Op::PutNew, Op::PutHead]].concat());
}

/// Two writers that both believe to be alone, as after a crash of the database that gives the right to be.
#[tokio::test]
async fn what_is_built_follows_from_what_is_there_when_it_is_written() {
    let store = memory();
    let (one, two) = (open(&store).await, open(&store).await);
    one.append(opening()).await.expect("appended");
    let seen: Arc<std::sync::Mutex<Vec<u64>>> = Arc::default();
    let (told, second) = (Arc::clone(&seen), order(2).1);
    two.append(opening()).await.expect("takes over what is there");
    one.append(vec![order(1).1]).await.expect("appended");
    let built = two.append_built(move |view| {
        told.lock().expect("lock").push(view.size());
        Ok(vec![second.clone()])
    });
    assert_eq!(built.await.expect("appended"), [6]);
    assert_eq!(*seen.lock().expect("lock"), [5, 6], "built again when another record was there");
    assert_eq!(verify_from_bytes(&store, &log()).await.len(), 7);
}

#[tokio::test]
async fn a_record_is_added_once() {
    let store = memory();
    let ledger = open(&store).await;
    let mut twice = opening();
    twice.extend(opening());
    assert_eq!(ledger.append(twice).await.expect("appended"), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    assert_eq!(ledger.append(opening()).await.expect("again"), [0, 1, 2, 3, 4]);
    let again = open(&store).await;
    assert_eq!(again.append(vec![deployment::case_opened()]).await.expect("after a restart"), [4]);
    assert_eq!(verify_from_bytes(&store, &log()).await.len(), 5);
}

#[tokio::test]
async fn what_the_key_ring_does_not_trust_never_reaches_the_store() {
    let faulty = FaultyStore::new(memory());
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    let ledger = open(&store).await;
    let stranger = deployment::enrolment("responder/eve", &deployment::key(66), &[Role::Responder], &deployment::key(66), None);
    for (bad, why) in [
        (vec![deployment::case_opened()], "not enrolled"),
        (vec![enrolments()[0].clone(), stranger], "not enrolled"),
        (vec![enrolments()[1].clone(), seal(1, (1, 1))], "not enrolled"),
    ] {
        let e = ledger.append(bad).await.expect_err("refused");
        assert!(e.kind() == Kind::Refused && e.to_string().contains(why), "{e}");
    }
    assert!(faulty.faults.calls().iter().all(|(op, _)| *op != Op::PutNew), "all records are checked before the first is written");
    // An agent may not seal, whatever it signs.
    ledger.append(opening()).await.expect("appended");
    let Ok(record::Record::Seal(p)) = record::Record::from_payload(seal(1, (1, 1)).unverified_payload()) else { panic!("a seal") };
    let forged = record::sign(&*p, &deployment::agent_key()).expect("small");
    assert_eq!(ledger.append(vec![forged]).await.expect_err("refused").kind(), Kind::Refused);
}

#[tokio::test]
async fn places_that_can_be_taken_once_are() {
    let store = memory();
    let ledger = open(&store).await;
    ledger.append(opening()).await.expect("appended");
    ledger.append(vec![order(1).1, receipt(1, 1, 3), seal(1, (1, 3))]).await.expect("appended");
    for second in [receipt(1, 1, 4), seal(1, (1, 4))] {
        assert_eq!(ledger.append(vec![second]).await.expect_err("taken").kind(), Kind::Conflict);
    }
    // Two different ones in one call.
    let e = ledger.append(vec![order(2).1, receipt(2, 1, 1), receipt(2, 1, 2)]).await.expect_err("taken");
    assert_eq!(e.kind(), Kind::Conflict);
    assert_eq!(ledger.size(), 8, "nothing of a refused call is written");
    ledger.append(vec![receipt(1, 2, 4)]).await.expect("another stream is another place");
}

#[tokio::test]
async fn answers_what_recovery_asks() {
    let store = memory();
    let ledger = open(&store).await;
    ledger.append(opening()).await.expect("appended");
    let before = ledger.head();
    ledger.append(vec![order(1).1, order(2).1, receipt(1, 1, 3), seal(1, (1, 3))]).await.expect("appended");
    for ledger in [ledger, open(&store).await] {
        let c = deployment::collection(1);
        assert_eq!(ledger.root_at(before.size), Some(before.root));
        assert_eq!((ledger.root_at(ledger.size()), ledger.root_at(10)), (Some(ledger.head().root), None));
        assert_eq!(ledger.case_opened().map(|e| (e.n, e.digest)), Some((4, deployment::case_opened().digest())));
        assert_eq!(ledger.order(&order(2).0).map(|e| e.n), Some(6));
        assert_eq!(ledger.receipt_of(&c, StreamNumber(1)).map(|e| e.n), Some(7));
        assert_eq!(ledger.receipt_of(&c, StreamNumber(2)), None);
        assert_eq!(ledger.seal_of(&c).map(|e| (e.n, e.exhibits)), Some((8, (1, 3))));
        assert_eq!((ledger.acquisition_of(&c, StreamNumber(1)), ledger.refusal_of(&c)), (None, None));
        assert_eq!(ledger.exhibits(), 3);
        assert_eq!(ledger.find(&order(1).1.digest()), Some(5));
        assert_eq!(ledger.read(5).await.expect("there"), order(1).1);
        assert_eq!(ledger.read_by_digest(&Digest::of(b"no")).await, Ok(None));
        assert_eq!(ledger.read(9).await.expect_err("not there").kind(), Kind::Bug);
        assert_eq!(ledger.entries(0, &|e| e.kind == "order:v1", 10).len(), 2);
        assert_eq!(ledger.entries(6, &|e| e.kind == "order:v1", 10).len(), 1);
        assert!(ledger.key_ring().holder(deployment::log_key().public().id()).is_some());
    }
}

/// The numbers of a case have no holes and no doubles, however many collections end at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exhibit_numbers_are_given_under_the_writers_lock() {
    let store = memory();
    let ledger = open(&store).await;
    ledger.append(opening()).await.expect("appended");
    let work = (1..=20_u8).map(|n| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let count = u64::from(n % 4);
            ledger.append(vec![order(n).1, receipt(n, 1, count)]).await.expect("appended");
            ledger.append_built(move |view| Ok(vec![seal(n, (view.exhibits() + 1, count))])).await.expect("sealed");
        })
    });
    futures::future::join_all(work).await.into_iter().for_each(|r| r.expect("no panic"));
    let mut next = 1;
    for entry in ledger.entries(0, &|e| e.kind == "seal:v1", 100) {
        assert_eq!(entry.exhibits.0, next);
        next += entry.exhibits.1;
    }
    assert_eq!(next, ledger.exhibits() + 1);
    assert_eq!(verify_from_bytes(&store, &log()).await.len(), 5 + 60);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_writing() {
    let faulty = FaultyStore::new(memory());
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    let ledger = open(&store).await;
    faulty.faults.fail(Op::PutNew, "seq/", 0, 1, exhibit_coordinator::store::faulty::Fault::Delay(std::time::Duration::from_millis(50)));
    let waiting = ledger.append(opening());
    assert!(tokio::time::timeout(std::time::Duration::from_millis(5), waiting).await.is_err(), "still writing");
    // The next writer waits for the abandoned one.
    ledger.append(vec![order(1).1]).await.expect("appended");
    assert_eq!(verify_from_bytes(&store, &log()).await.len(), 6);
}

// ---- what an opened log refuses ----

async fn grown(dir: &std::path::Path) -> Arc<dyn Store> {
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(&dir.join("store")).expect("new store"));
    let ledger = open(&store).await;
    ledger.append(opening()).await.expect("appended");
    ledger.append((0..10).map(access).collect()).await.expect("appended");
    store
}

fn overwrite(path: &std::path::Path, bytes: &[u8]) {
    std::fs::remove_file(path).expect("remove");
    std::fs::write(path, bytes).expect("write");
}

#[tokio::test]
async fn missing_altered_added_and_swapped_records_are_incidents() {
    let dir = tempfile::tempdir().expect("dir");
    let store = grown(dir.path()).await;
    let path = |n: u64| dir.path().join("store").join(log().slot(n));
    let bytes = |n: u64| std::fs::read(path(n)).expect("read");

    let (seven, eight, last) = (bytes(7), bytes(8), bytes(14));
    std::fs::remove_file(path(14)).expect("remove");
    assert!(refusal(&store).await.contains("had 15 records and now has 14"));
    overwrite_new(&path(14), &last);

    std::fs::remove_file(path(7)).expect("remove");
    assert!(refusal(&store).await.contains("where record 7 is expected"));
    overwrite_new(&path(7), &eight);
    overwrite(&path(8), &seven);
    assert!(refusal(&store).await.contains("not those that were signed"), "two records changed places");
    overwrite(&path(7), &seven);
    overwrite(&path(8), &eight);

    for position in [0, 100, seven.len() / 2, seven.len() - 1] {
        let mut altered = seven.clone();
        altered[position] ^= 1;
        overwrite(&path(7), &altered);
        assert!(refusal(&store).await.contains("record 7"), "byte {position}");
    }
    // A record that is genuine, but another one.
    overwrite(&path(7), access(99).as_bytes());
    refusal(&store).await;
    overwrite(&path(7), &seven);

    let foreign = path(7).with_file_name("0000000007.dsse.json.bak");
    overwrite_new(&foreign, b"x");
    assert!(refusal(&store).await.contains(".bak"));
    std::fs::remove_file(&foreign).expect("remove");
    assert_eq!(open(&store).await.size(), 15, "restored, it opens");
}

fn overwrite_new(path: &std::path::Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("write");
}

#[tokio::test]
async fn a_checkpoint_of_somebody_else_is_an_incident() {
    let dir = tempfile::tempdir().expect("dir");
    let store = grown(dir.path()).await;
    let checkpoint = dir.path().join("store").join(log().checkpoint());
    let good = std::fs::read(&checkpoint).expect("read");
    let head = open(&store).await.head();
    let sign = |origin: String, size, key| exhibit_evidence::log::Checkpoint { origin, size, root: head.root }.sign(&key);
    let origin = log().origin(deployment::NAME);
    for (bad, words) in [
        (sign(origin.clone(), head.size, deployment::key(66)), "does not match the log key"),
        (sign(LogName::Deployment.origin(deployment::NAME), head.size, deployment::log_key()), "of another log"),
        (sign(origin.clone(), head.size + 1, deployment::log_key()), "had 16 records and now has 15"),
        (sign(origin, head.size - 1, deployment::log_key()), "not those that were signed"),
        (b"".to_vec(), "not a signed checkpoint"),
    ] {
        overwrite(&checkpoint, &bad);
        let e = refusal(&store).await;
        assert!(e.contains(words), "{words}: {e}");
    }
    overwrite(&checkpoint, &good);
    open(&store).await;
}

#[tokio::test]
async fn a_log_that_was_rolled_back_is_noticed_by_who_remembers() {
    let store = memory();
    let ledger = open(&store).await;
    ledger.append(opening()).await.expect("appended");
    let old = ledger.head();
    ledger.append(vec![order(1).1]).await.expect("appended");
    let new = ledger.head();
    let keys = Arc::new(deployment::keys());
    for known in [old, new] {
        Ledger::open(Arc::clone(&store), log(), Arc::clone(&keys), Some(known)).await.expect("continues what was known");
    }
    // The same log without its last record and with the old checkpoint, as a restored old backup would be.
    let shorter = memory();
    open(&shorter).await.append(opening()).await.expect("appended");
    let e = Ledger::open(Arc::clone(&shorter), log(), keys, Some(new)).await.expect_err("rolled back");
    assert_eq!(e.kind(), Kind::Damaged);
}

// ---- the registry ----

async fn deployed(store: &Arc<dyn Store>) -> Arc<Ledgers> {
    let ledgers = Ledgers::new(Arc::clone(store), deployment::keys());
    let deployment = ledgers.deployment().await.expect("opens");
    deployment.append(enrolments()).await.expect("appended");
    ledgers
}

#[tokio::test]
async fn chains_come_from_the_deployment_and_enter_a_case_once() {
    let store = memory();
    let ledgers = deployed(&store).await;
    let chain = ledgers.chain_of(deployment::agent_key().public().id()).await.expect("enrolled");
    assert_eq!(chain, [enrolments()[1].clone(), enrolments()[3].clone()]);
    let e = ledgers.chain_of(deployment::key(66).public().id()).await.expect_err("a stranger");
    assert_eq!(e.kind(), Kind::Refused);
    let needed = [deployment::log_key(), deployment::responder(), deployment::agent_key()].map(|k| k.public().id());
    for _ in 0..2 {
        ledgers.ensure_enrolled(&case(), &needed).await.expect("enrolled");
    }
    let log = ledgers.case(&case()).await.expect("opens");
    assert_eq!(log.size(), 4);
    log.append(vec![deployment::case_opened()]).await.expect("the responder's key is known here");
    verify_from_bytes(&store, &LogName::Deployment).await;
    verify_from_bytes(&store, &LogName::Case(case())).await;
}

#[tokio::test]
async fn the_registry_gives_one_log_and_closes_those_that_nobody_holds() {
    let store = memory();
    let ledgers = deployed(&store).await;
    let held = ledgers.case(&case()).await.expect("opens");
    let case_n = |n: usize| exhibit_evidence::CaseId::new(n as u64, [1; 10]);
    for n in 0..exhibit_coordinator::ledger::LOGS_OPEN_MAX + 10 {
        ledgers.case(&case_n(n)).await.expect("opens");
    }
    held.append(opening()).await.expect("appended");
    assert_eq!(ledgers.case(&case()).await.expect("open").size(), 5, "a log that is held is never opened twice");
}

#[tokio::test]
async fn opening_fails_once_and_not_for_ever() {
    let faulty = FaultyStore::new(memory());
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    drop(deployed(&store).await);
    faulty.faults.fail(
        Op::List,
        "deployment",
        0,
        1,
        exhibit_coordinator::store::faulty::Fault::Before(exhibit_coordinator::store::Kind::Retry),
    );
    let ledgers = Ledgers::new(store, deployment::keys());
    assert_eq!(ledgers.deployment().await.expect_err("disturbed").kind(), Kind::Retry);
    assert_eq!(ledgers.deployment().await.expect("again").size(), 4);
}

/// A first look at what one record costs on a real disk; printed, and bounded only against something absurd.
#[tokio::test]
async fn appending_to_a_local_store_takes_milliseconds() {
    let dir = tempfile::tempdir().expect("dir");
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(&dir.path().join("store")).expect("new store"));
    let ledger = open(&store).await;
    ledger.append(opening()).await.expect("appended");
    let start = tokio::time::Instant::now();
    let records = 200;
    for n in 0..records {
        ledger.append(vec![access(n)]).await.expect("appended");
    }
    let each = start.elapsed() / records;
    let batch: Vec<Envelope> = (records..2 * records).map(access).collect();
    let start = tokio::time::Instant::now();
    ledger.append(batch).await.expect("appended");
    eprintln!("append: {each:?} a record with its own checkpoint, {:?} a record in a batch of {records}", start.elapsed() / records);
    assert!(each < std::time::Duration::from_millis(250));
}
