//! The catalog in PostgreSQL: its contract, and what is special to a server that several coordinators share.

use std::sync::Arc;

use exhibit_coordinator::catalog::conformance;
use exhibit_coordinator::catalog::postgres::PostgresCatalog;
use exhibit_coordinator::catalog::postgres::scratch::Scratch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Scratch::start(dir.path()).await;
    let catalog = PostgresCatalog::create(&server.database("catalog").await).await.expect("new");
    conformance::run(Arc::new(catalog)).await;
}
