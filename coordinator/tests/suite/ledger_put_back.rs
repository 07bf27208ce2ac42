//! A folder of the store that an operator put back to an older state: it holds together in itself, and the catalog knows better.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::audit::Audit;
use exhibit_coordinator::catalog::faulty::{self, FaultyCatalog};
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::catalog::{CatalogError, Published, SharedCatalog};
use exhibit_coordinator::config::{Config, Paths};
use exhibit_coordinator::ledger::{Kind, Known, Ledgers};
use exhibit_coordinator::replica::Leases;
use exhibit_coordinator::reverify::{self, Depth};
use exhibit_coordinator::store::faulty::{Fault, FaultyStore, Op};
use exhibit_coordinator::store::{self, LocalStore, RemoteStore, Store};
use exhibit_coordinator::{incidents, reindex};
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::Record;

use crate::support::agent::Agent;
use crate::support::deployment::{self, access, case, opening};
use crate::support::world::{self, World};

/// The logs of the next process over the same store and catalog.
fn process(store: &Arc<dyn Store>, catalog: &SharedCatalog) -> Arc<Ledgers> {
    let known = Known::of(Arc::clone(catalog));
    Ledgers::among(Arc::clone(store), deployment::keys(), Leases::of_one(), Audit::default(), known)
}

async fn new_catalog(dir: &Path, name: &str) -> SharedCatalog {
    Arc::new(SqliteCatalog::create(&dir.join(name)).await.expect("new"))
}

fn log() -> String {
    LogName::Case(case()).folder()
}

/// Every file below a folder, with its bytes.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("below").to_owned();
                all.insert(name, std::fs::read(&path).expect("file"));
            }
        }
    }
    all
}

/// What an operator does with a copy of last week's.
fn put_back(folder: &Path, state: &BTreeMap<PathBuf, Vec<u8>>) {
    std::fs::remove_dir_all(folder).expect("removed");
    for (name, bytes) in state {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        std::fs::write(path, bytes).expect("written");
    }
}

#[tokio::test]
async fn a_log_that_was_put_back_is_refused_until_it_is_whole_again() {
    let dir = tempfile::tempdir().expect("dir");
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(&dir.path().join("store")).expect("new store"));
    let catalog = new_catalog(dir.path(), "catalog.sqlite").await;
    let folder = dir.path().join("store").join(format!("cases/{}", case()));
    let first = process(&store, &catalog);
    let ledger = first.case(&case()).await.expect("opens");
    ledger.append(opening()).await.expect("appended");
    let older = tree(&folder);
    ledger.append(vec![access(1), access(2)]).await.expect("appended");
    let (newer, head) = (tree(&folder), ledger.head());
    let known = Published { size: head.size, root: head.root };
    assert_eq!((head.size, catalog.published(log()).await), (7, Ok(Some(known))));

    put_back(&folder, &older);
    let next = process(&store, &catalog);
    for _ in 0..2 {
        let e = next.case(&case()).await.expect_err("put back");
        let words = ["7 records of it were published, and 5 are there", "nothing is added to it", "exhibit-coordinator reindex"];
        assert!(e.kind() == Kind::Damaged && words.iter().all(|w| e.to_string().contains(w)), "{e}");
    }
    assert_eq!(tree(&folder), older, "nothing was written");
    incidents::keep_refused_logs(&catalog, &next).await;
    incidents::keep_refused_logs(&catalog, &next).await;
    let told: Vec<_> = catalog.incidents(10).await.expect("read").into_iter().map(|i| (i.kind, i.subject, i.case)).collect();
    assert_eq!(told, [("log-put-back".to_owned(), log(), None)], "once");

    // As long as it was, with other records: what somebody wrote who does not ask the catalog.
    let other = Ledgers::new(Arc::clone(&store), deployment::keys());
    other.case(&case()).await.expect("opens").append(vec![access(8), access(9)]).await.expect("appended");
    let e = process(&store, &catalog).case(&case()).await.expect_err("another history");
    assert!(e.kind() == Kind::Damaged && e.to_string().contains("its first 7 records are not those that were published"), "{e}");
    // Gone as a whole: without the catalog it would be a log that nobody has begun.
    std::fs::remove_dir_all(&folder).expect("removed");
    let e = process(&store, &catalog).case(&case()).await.expect_err("gone");
    assert!(e.to_string().contains("and 0 are there"), "{e}");

    // The missing records are back: the same process goes on.
    std::fs::create_dir(&folder).expect("made");
    put_back(&folder, &newer);
    let again = next.case(&case()).await.expect("whole again");
    again.append(vec![access(3)]).await.expect("appended");
    assert!(next.known().untold().is_empty() && catalog.published(log()).await.expect("read").is_some_and(|k| k.size == 8));
}

#[tokio::test]
async fn an_open_log_takes_nothing_from_the_moment_that_it_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let (store, catalog): (Arc<dyn Store>, _) = (Arc::new(RemoteStore::memory()), new_catalog(dir.path(), "catalog.sqlite").await);
    let ledgers = process(&store, &catalog);
    let ledger = ledgers.case(&case()).await.expect("opens");
    ledger.append(opening()).await.expect("appended");
    let name = LogName::Case(case());
    let _ = ledgers.known().refuse(&name, "a verification says so");
    for _ in 0..2 {
        let e = ledger.append(vec![access(1)]).await.expect_err("refused");
        assert!(e.kind() == Kind::Damaged && e.to_string().contains("a verification says so"), "{e}");
        assert_eq!(ledgers.case(&case()).await.expect_err("refused").kind(), Kind::Damaged);
    }
    assert_eq!(ledger.size(), 5);
    ledgers.known().accept(&name);
    ledger.append(vec![access(1)]).await.expect("mended");
}

#[tokio::test]
async fn a_catalog_that_knows_less_is_no_alarm() {
    let dir = tempfile::tempdir().expect("dir");
    let store: Arc<dyn Store> = Arc::new(RemoteStore::memory());
    let catalog = new_catalog(dir.path(), "catalog.sqlite").await;
    process(&store, &catalog).case(&case()).await.expect("opens").append(opening()).await.expect("appended");
    // An older backup of the catalog, or one that was not told: here by somebody who does not tell it.
    let other = Ledgers::new(Arc::clone(&store), deployment::keys());
    let head = {
        let log = other.case(&case()).await.expect("opens");
        log.append(vec![access(1)]).await.expect("appended");
        log.head()
    };
    assert!(catalog.published(log()).await.expect("read").is_some_and(|k| k.size == 5));
    let opened = process(&store, &catalog).case(&case()).await.expect("opens");
    assert_eq!((opened.head(), catalog.published(log()).await.expect("read").map(|k| k.size)), (head, Some(6)), "told when it is opened");

    // A new catalog begins with what the store shows.
    let fresh = new_catalog(dir.path(), "fresh.sqlite").await;
    let reader = Ledgers::new(Arc::clone(&store), deployment::keys());
    reindex::rebuild(&reader, &*fresh, deployment::at(0)).await.expect("rebuilt");
    assert_eq!(fresh.published(log()).await, Ok(Some(Published { size: head.size, root: head.root })));
    process(&store, &fresh).case(&case()).await.expect("opens");
}

/// The catalog is told last. Whatever fails or dies in between, the next process opens the log, and then both know the same.
#[tokio::test]
async fn no_crash_lets_the_catalog_know_more_than_the_store() {
    let dir = tempfile::tempdir().expect("dir");
    let busy = || CatalogError::Busy("injected".to_owned());
    let retry = store::Kind::Retry;
    let places = [(Op::PutNew, "seq/"), (Op::PutNew, "tile/"), (Op::PutHead, "checkpoint")];
    let in_store = places.into_iter().flat_map(|(op, name)| {
        [Fault::Before(retry), Fault::After(retry), Fault::DieBefore, Fault::DieAfter].map(|fault| Broken::Store(op, name, fault))
    });
    let in_catalog = [faulty::Fault::Before(busy()), faulty::Fault::After(busy()), faulty::Fault::DieBefore, faulty::Fault::DieAfter];
    for (n, broken) in in_store.chain(in_catalog.map(Broken::Catalog)).enumerate() {
        let shown = format!("{broken:?}");
        let faulty_store = FaultyStore::new(Arc::new(RemoteStore::memory()));
        let faulty_catalog = FaultyCatalog::new(new_catalog(dir.path(), &format!("{n}.sqlite")).await);
        let store: Arc<dyn Store> = Arc::new(faulty_store.clone());
        let catalog: SharedCatalog = Arc::new(faulty_catalog.clone());
        let ledger = process(&store, &catalog).case(&case()).await.expect("opens");
        ledger.append(opening()).await.expect("nothing fails yet");
        match broken {
            Broken::Store(op, name, fault) => faulty_store.faults.fail(op, name, 0, 1, fault),
            Broken::Catalog(fault) => faulty_catalog.faults.fail("set_published", 0, 1, fault),
        }
        tokio::select! {
            // What the caller hears is another test's matter; that the catalog is busy is nothing to it.
            appended = ledger.append(vec![access(1), access(2)]) => {
                assert!(appended.is_ok() || shown.starts_with("Store"), "{shown}: {appended:?}");
            }
            () = faulty_store.died() => {}
            () = faulty_catalog.died() => {}
        }
        let known = catalog.published(log()).await.expect("read").expect("the opening is known");
        let next = process(&store, &catalog).case(&case()).await.unwrap_or_else(|e| panic!("{shown}: {e}"));
        let head = next.head();
        assert!(known.size <= head.size && next.root_at(known.size) == Some(known.root), "{shown}");
        let told = catalog.published(log()).await.expect("read");
        assert_eq!(told, Some(Published { size: head.size, root: head.root }), "{shown}");
    }
}

#[derive(Debug)]
enum Broken {
    Store(Op, &'static str, Fault),
    Catalog(faulty::Fault),
}

/// The incidents in the deployment's log of this kind: what each is about.
async fn in_deployment_log(world: &World, kind: &str) -> Vec<String> {
    let log = &world.running().parts.deployment_log;
    let mut about = Vec::new();
    for entry in log.entries(0, &|e| e.kind == "incident:v1", 100) {
        let envelope = log.read(entry.n).await.expect("reads");
        let Ok(Record::Incident(p)) = Record::from_payload(envelope.unverified_payload()) else { panic!("an incident") };
        if p.kind == kind {
            about.push(p.about);
        }
    }
    about
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_does_not_go_on_with_a_case_that_was_put_back() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let agent = Agent::new(credential, world.port, 1).await.id.clone();
    let case = world.open_case().await;
    let folder = world.store_dir().join("cases").join(&case.case_id).join("log");
    let older = tree(&folder);
    let order = world.sign(&world.order(&case, std::slice::from_ref(&agent)));
    world.submit(&order).await.expect("admitted");
    world.stop().await;
    let newer = tree(&folder);
    assert!(newer.len() > older.len());

    put_back(&folder, &older);
    world.restart().await;
    let next = world.sign(&world.order(&case, std::slice::from_ref(&agent)));
    let status = world.submit(&next).await.expect_err("refused");
    assert!(status.code() == tonic::Code::DataLoss && status.message().contains("was put back to an older state"), "{status}");
    let name = format!("cases/{}/log", case.case_id);
    let mut told = Vec::new();
    for _ in 0..200 {
        told = in_deployment_log(&world, "log-put-back").await;
        if !told.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(told, [name], "in the deployment's log, because nothing is added to this one");
    world.stop().await;
    assert_eq!(tree(&folder), older);

    // Whoever verifies the store hears it, too.
    let paths = Paths { deployment: PathBuf::from("deployment"), ..Paths::default() };
    let config = Config { paths, folder: world.dir.path().to_owned(), ..Config::default() };
    let verify = async || {
        let store = Arc::new(LocalStore::open(&world.store_dir()).expect("store"));
        reverify::run(&config, store, Depth::Sample(1_000_000), None, world::now).await.expect("runs")
    };
    let report = verify().await;
    assert!(!report.sound && report.cases[0].put_back, "{report:#?}");
    assert!(report.text().contains("was put back to an older state") && report.text().contains("log.expected"), "{}", report.text());

    put_back(&folder, &newer);
    // A partial tile that the checkpoint needs is named, and changes nothing.
    let size = newer.keys().filter(|name| name.starts_with("seq")).count();
    std::fs::remove_file(folder.join(format!("tile/0/000.p/{size}"))).expect("there was one");
    let report = verify().await;
    assert!(report.sound && report.cases[0].notes.iter().any(|n| n.contains("log.tile-missing")), "{report:#?}");
    assert!(report.text().contains("worth knowing"), "{}", report.text());
    world.restart().await;
    let id = case.case_id.parse().expect("id");
    let ledger = world.running().parts.ledgers.case(&id).await.expect("whole again");
    assert!(ledger.size() >= size as u64);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_verifies_the_store_hears_what_is_wrong_with_the_deployment_s_log() {
    let mut world = World::start().await;
    world.open_case().await;
    let folder = world.store_dir().join("deployment");
    let older = tree(&folder);
    world.enroll("web-1").await;
    world.stop().await;
    let newer = tree(&folder);
    assert!(newer.len() > older.len());
    let paths = Paths { deployment: PathBuf::from("deployment"), ..Paths::default() };
    let config = Config { paths, folder: world.dir.path().to_owned(), ..Config::default() };
    let verify = async || {
        let store = Arc::new(LocalStore::open(&world.store_dir()).expect("store"));
        reverify::run(&config, store, Depth::Sample(1_000_000), None, world::now).await.expect("runs")
    };
    let report = verify().await;
    assert!(report.sound && report.deployment.as_ref().is_some_and(|log| log.sound), "{report:#?}");

    put_back(&folder, &older);
    let report = verify().await;
    let found = report.deployment.as_ref().expect("looked at");
    assert!(!report.sound && found.put_back && report.cases.iter().all(|case| case.sound), "{report:#?}");
    let text = report.text();
    let words = ["deployment/log: NOT SOUND", "log.expected", "was put back to an older state", "exhibit-verify --deployment"];
    assert!(words.iter().all(|w| text.contains(w)), "{text}");

    std::fs::remove_dir_all(&folder).expect("removed");
    let report = verify().await;
    assert!(!report.sound && report.deployment.as_ref().is_some_and(|log| log.gone), "{report:#?}");

    std::fs::create_dir(&folder).expect("made");
    put_back(&folder, &newer);
    let record = folder.join("log/seq/0000000000.dsse.json");
    let kept = std::fs::read(&record).expect("record");
    std::fs::remove_file(&record).and_then(|()| std::fs::write(&record, b"{}")).expect("altered");
    let report = verify().await;
    assert!(report.deployment.as_ref().is_some_and(|log| !log.sound && !log.put_back), "{report:#?}");
    std::fs::remove_file(&record).and_then(|()| std::fs::write(&record, kept)).expect("mended");
    assert!(verify().await.sound);
}
