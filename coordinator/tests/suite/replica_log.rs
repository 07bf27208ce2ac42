//! What it costs to add to a log to which several coordinators add: reads of what is new, however long the log is.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::audit::Audit;
use exhibit_coordinator::catalog::SharedCatalog;
use exhibit_coordinator::catalog::postgres::PostgresCatalog;
use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_coordinator::ledger::{Known, Ledgers};
use exhibit_coordinator::replica::{Leases, Outbox};
use exhibit_coordinator::store::faulty::{Faults, FaultyStore, Op};
use exhibit_coordinator::store::{RemoteStore, Store};
use exhibit_evidence::layout::LogName;

use crate::support::deployment::{self, access, case, opening};

/// The logs of one of several processes, and what it asks of the store.
async fn process(catalog: &SharedCatalog, store: &Arc<dyn Store>) -> (Arc<Ledgers>, Faults) {
    let peers = catalog.peers().expect("several can use it");
    // Until the others see it live.
    while peers.take(format!("life of {}", peers.me()), Duration::from_mins(1)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let store = FaultyStore::new(Arc::clone(store));
    let asked = store.faults.clone();
    let (leases, known) = (Leases::among(peers, Outbox::default()), Known::of(Arc::clone(catalog)));
    (Ledgers::among(Arc::new(store), deployment::keys(), leases, Audit::default(), known), asked)
}

/// What was read or listed since so many calls.
fn reads(asked: &Faults, since: usize) -> Vec<String> {
    let calls = asked.calls().into_iter().skip(since);
    calls.filter(|(op, _)| matches!(op, Op::Get | Op::Size | Op::List)).map(|(_, name)| name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_addition_reads_what_others_added_since_and_nothing_else() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Scratch::start(dir.path()).await;
    let settings = server.database("catalog").await;
    let first: SharedCatalog = Arc::new(PostgresCatalog::create(&settings).await.expect("new"));
    let second: SharedCatalog = Arc::new(PostgresCatalog::open(&settings).await.expect("the same"));
    let store: Arc<dyn Store> = Arc::new(RemoteStore::memory());
    let (one, asked) = process(&first, &store).await;
    let (two, _) = process(&second, &store).await;
    let (log, name) = (one.case(&case()).await.expect("opens"), LogName::Case(case()));
    log.append(opening()).await.expect("appended");
    log.append((0..40).map(access).collect()).await.expect("appended");

    // Who was the last to add knows the log.
    let since = asked.calls().len();
    log.append(vec![access(100)]).await.expect("appended");
    one.case(&case()).await.expect("is open");
    assert_eq!(reads(&asked, since), Vec::<String>::new());

    // Another one added: its record is read, whether there is one more, and the head.
    let n = log.size();
    let other = two.case(&case()).await.expect("opens");
    assert_eq!(other.append(vec![access(101)]).await, Ok(vec![n]));
    let since = asked.calls().len();
    assert_eq!(log.append(vec![access(102)]).await, Ok(vec![n + 1]), "on top of what the other added");
    assert_eq!(reads(&asked, since), [name.slot(n), name.slot(n + 1), name.checkpoint()]);
    let other = two.case(&case()).await.expect("is open");
    assert_eq!((other.size(), other.head()), (log.size(), log.head()), "one history");
}
