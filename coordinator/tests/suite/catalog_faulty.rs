//! The catalog that fails on purpose: it keeps the contract while nothing fails, and fails as it says.

use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::catalog::faulty::{Fault, FaultyCatalog, WRITES};
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::catalog::{Catalog, CatalogError, IncidentRow, conformance};
use exhibit_evidence::Timestamp;

fn incident(n: i64) -> IncidentRow {
    IncidentRow::new(Timestamp::from_unix_s(n), None, "k", "s", "d".to_owned())
}

async fn faulty(dir: &tempfile::TempDir) -> FaultyCatalog {
    FaultyCatalog::new(Arc::new(SqliteCatalog::create(&dir.path().join("catalog.sqlite")).await.expect("new")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_while_nothing_fails() {
    let dir = tempfile::tempdir().expect("dir");
    let catalog = faulty(&dir).await;
    conformance::run(Arc::new(catalog.clone())).await;
    let calls = catalog.faults.calls();
    let never: Vec<_> = WRITES.iter().filter(|w| !calls.contains(w)).collect();
    assert!(never.is_empty(), "these are no methods, or the suite does not call them: {never:?}");
}

#[tokio::test]
async fn each_fault_does_what_it_says() {
    let dir = tempfile::tempdir().expect("dir");
    let catalog = faulty(&dir).await;
    let busy = CatalogError::Busy("injected".to_owned());
    let kept = async || catalog.incidents(100).await.expect("read").len();
    catalog.faults.fail("add_incident", 1, 1, Fault::Before(busy.clone()));
    catalog.add_incident(incident(1)).await.expect("the first one works");
    assert_eq!((catalog.add_incident(incident(2)).await, kept().await), (Err(busy.clone()), 1));
    catalog.faults.fail("add_incident", 0, 1, Fault::After(busy.clone()));
    assert_eq!((catalog.add_incident(incident(3)).await, kept().await), (Err(busy), 2));
    catalog.faults.fail("add_incident", 0, 1, Fault::Delay(Duration::from_millis(50)));
    let begun = tokio::time::Instant::now();
    catalog.add_incident(incident(4)).await.expect("done late");
    assert!(begun.elapsed() >= Duration::from_millis(50));
    for (fault, count) in [(Fault::DieBefore, 3), (Fault::DieAfter, 4)] {
        catalog.faults.fail("add_incident", 0, 1, fault);
        tokio::select! {
            answer = catalog.add_incident(incident(5)) => panic!("a dead process got an answer: {answer:?}"),
            () = async { catalog.died().await; tokio::time::sleep(Duration::from_millis(50)).await } => {}
        }
        assert_eq!(kept().await, count);
    }
    catalog.faults.fail_at_random(7, 1_000);
    assert!(catalog.add_incident(incident(6)).await.is_err());
    catalog.faults.heal();
    catalog.add_incident(incident(7)).await.expect("healed");
}
