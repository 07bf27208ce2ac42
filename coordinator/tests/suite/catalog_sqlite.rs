//! The catalog in SQLite: its contract, and what is special to a file.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::catalog::{Catalog, CatalogError, IncidentRow, conformance};
use exhibit_evidence::Timestamp;

fn incident(n: i64) -> IncidentRow {
    IncidentRow::new(Timestamp::from_unix_s(n), None, "k", "s", "d".to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let dir = tempfile::tempdir().expect("dir");
    let catalog = SqliteCatalog::create(&dir.path().join("catalog.sqlite")).await.expect("new");
    conformance::run(Arc::new(catalog)).await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart_and_private() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("catalog.sqlite");
    let catalog = SqliteCatalog::create(&path).await.expect("new");
    catalog.add_incident(incident(1)).await.expect("kept");
    for entry in std::fs::read_dir(dir.path()).expect("list") {
        let entry = entry.expect("entry");
        assert_eq!(entry.metadata().expect("meta").permissions().mode() & 0o077, 0, "{:?}", entry.path());
    }
    // No close: what a killed process leaves is copied away while it still runs.
    let copy = tempfile::tempdir().expect("dir");
    for name in ["catalog.sqlite", "catalog.sqlite-wal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).expect("copy");
    }
    let after = SqliteCatalog::open(&copy.path().join("catalog.sqlite")).await.expect("opens");
    assert_eq!(after.incidents(10).await, Ok(vec![incident(1)]));
    catalog.close().await;
    assert!(!dir.path().join("catalog.sqlite-wal").exists(), "closing leaves one file");
}

#[tokio::test]
async fn a_second_coordinator_is_refused_and_the_first_goes_on() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("catalog.sqlite");
    let first = SqliteCatalog::create(&path).await.expect("new");
    let Err(CatalogError::Failed(e)) = SqliteCatalog::open(&path).await else { panic!("two at once") };
    assert!(e.contains("another coordinator is running"), "{e}");
    first.add_incident(incident(1)).await.expect("goes on");
    first.close().await;
    drop(first);
    SqliteCatalog::open(&path).await.expect("free again");
}

#[tokio::test]
async fn missing_existing_foreign_and_newer_files_are_named() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("catalog.sqlite");
    let Err(CatalogError::Failed(e)) = SqliteCatalog::open(&path).await else { panic!("nothing is there") };
    assert!(e.contains("reindex"), "{e}");
    assert!(!path.exists(), "opening makes nothing");
    std::fs::write(&path, b"this is not a database, and long enough to be looked at as one by the library that reads it.......")
        .expect("write");
    assert!(matches!(SqliteCatalog::open(&path).await, Err(CatalogError::Damaged(_))));
    assert!(matches!(SqliteCatalog::create(&path).await, Err(CatalogError::Conflict(_))));
    std::fs::write(&path, b"").expect("write");
    assert!(matches!(SqliteCatalog::open(&path).await, Err(CatalogError::Damaged(_))), "an empty file is no catalog");
    std::fs::remove_file(&path).expect("remove");
    let catalog = SqliteCatalog::create(&path).await.expect("new");
    catalog.close().await;
    drop(catalog);
    // SQLite file format, section 1.3: user_version is the big-endian number at offset 60.
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[63] = 99;
    std::fs::write(&path, bytes).expect("write");
    let Err(CatalogError::Failed(e)) = SqliteCatalog::open(&path).await else { panic!("a newer catalog") };
    assert!(e.contains("version 99"), "{e}");
}

#[tokio::test]
async fn a_damaged_row_is_damage_and_not_a_default() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("catalog.sqlite");
    let catalog = SqliteCatalog::create(&path).await.expect("new");
    let agent = exhibit_coordinator::catalog::AgentRow {
        agent: exhibit_evidence::AgentId::new(1, [1; 10]),
        key: exhibit_evidence::Digest::of(b"k"),
        enrolment: exhibit_evidence::Digest::of(b"e"),
        enrolled_at: Timestamp::from_unix_s(1),
        labels: [("marker".to_owned(), "UNIQUE-LABEL".to_owned())].into(),
        revoked: None,
        alarm: None,
        seen: exhibit_coordinator::catalog::Seen::default(),
    };
    catalog.add_agent(agent.clone()).await.expect("new");
    catalog.close().await;
    drop(catalog);
    let mut bytes = std::fs::read(&path).expect("read");
    let at = bytes.windows(8).position(|w| w == b"{\"marker").expect("the label's JSON");
    bytes[at] = b'?';
    std::fs::write(&path, bytes).expect("write");
    let catalog = SqliteCatalog::open(&path).await.expect("opens");
    let Err(CatalogError::Damaged(e)) = catalog.agent(agent.agent).await else { panic!("damage") };
    assert!(e.contains("labels"), "{e}");
}

#[tokio::test]
async fn what_is_wrong_with_it_is_told_with_the_file() {
    use sqlx::{ConnectOptions as _, Executor as _};
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("catalog.sqlite");
    let catalog = SqliteCatalog::create(&path).await.expect("new");
    let mut other = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).connect().await.expect("opens");
    let file = path.display().to_string();
    other.execute("BEGIN IMMEDIATE").await.expect("locked");
    let e = catalog.silence().await;
    assert!(matches!(&e, CatalogError::Busy(said) if said.contains(&file) && said.contains("locked")), "{e}");
    other.execute("ROLLBACK").await.expect("let go");
    catalog.healthy().await.expect("it is free");
    other.execute("DROP TABLE health").await.expect("dropped");
    let e = catalog.healthy().await.expect_err("nothing to write").to_string();
    assert!(e.contains(&file), "{e}");
}

/// What one acknowledged row costs; printed, and bounded only against something absurd.
#[tokio::test]
async fn a_write_takes_milliseconds() {
    let dir = tempfile::tempdir().expect("dir");
    let catalog = SqliteCatalog::create(&dir.path().join("catalog.sqlite")).await.expect("new");
    let start = tokio::time::Instant::now();
    for n in 0..200 {
        catalog.add_incident(incident(n)).await.expect("kept");
    }
    let each = start.elapsed() / 200;
    eprintln!("catalog: {each:?} a synced write");
    assert!(each < std::time::Duration::from_millis(250));
}
