//! Where SQLite differs: one connection writes, so a transaction locks everything and nothing needs to be locked by name.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;

use super::{Connection, Database, SqliteCatalog, map, shown};
use crate::catalog::CatalogError;
use crate::catalog::peers::Peers;

/// Takes the lock for writing at once: a transaction that reads first and then wants to write would fail, not wait.
pub const BEGIN: &str = "BEGIN IMMEDIATE";

/// Begins to read as of one moment.
pub const SNAPSHOT: &str = "BEGIN DEFERRED";

/// Of agents `a`: those that carry all labels of a JSON object, which stands between the two.
pub const HAS_LABELS: (&str, &str) = (
    " AND NOT EXISTS (SELECT 1 FROM json_each(",
    ") want WHERE NOT EXISTS (SELECT 1 FROM json_each(a.labels) have WHERE have.key = want.key AND have.value = want.value))",
);

/// Of collections: those whose ids a JSON array holds, which stands between the two.
pub const ONLY_COLLECTIONS: (&str, &str) = (" AND collection IN (SELECT value FROM json_each(", "))");

/// Stands behind `collections` where only open ones are asked for: they are few among many, which SQLite does not know, so it
/// would walk through all of them by age. The statement must name the open states as the index does.
pub const BY_OPEN: &str = " INDEXED BY collections_open";

/// A SELECT whose row nobody else changes until the transaction ends.
macro_rules! for_update {
    ($sql:literal) => {
        $sql
    };
}
pub(super) use for_update;

/// Lets one transaction at a time go on from here, of all that name the same thing.
#[expect(clippy::unused_async, reason = "one signature for both databases")]
pub async fn one_at_a_time(_: &mut Connection, _: &'static str) -> Result<(), CatalogError> {
    Ok(())
}

/// Only one coordinator can use a file.
pub const fn peers(_: &SqliteCatalog) -> Option<Arc<dyn Peers>> {
    None
}

/// Lets this transaction take as long as it needs. Nothing hurries a file.
#[expect(clippy::unused_async, reason = "one signature for both databases")]
pub async fn unhurried(_: &mut Connection) -> Result<(), CatalogError> {
    Ok(())
}

/// After many rows came at once. SQLite plans by its indexes alone.
#[expect(clippy::unused_async, reason = "one signature for both databases")]
pub async fn settle(_: &mut Connection) -> Result<(), CatalogError> {
    Ok(())
}

/// Where the catalog is, for errors.
pub fn place(catalog: &SqliteCatalog) -> String {
    shown(&catalog.path)
}

/// How long a read may take of which only is asked whether it is done at all.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// Why the catalog does not answer: whoever holds its lock for writing keeps nobody from reading.
pub async fn silence(catalog: &SqliteCatalog) -> CatalogError {
    let place = place(catalog);
    let read = sqlx::query("SELECT beats FROM health").fetch_one(catalog.readers());
    match tokio::time::timeout(LOOK_WITHIN, read).await {
        Ok(Ok(_)) => CatalogError::Busy(format!(
            "{place} can be read and not written, as when it is locked: another program holds it (a shell of sqlite3, a backup), or its \
             disk does not finish a write; 'fuser {place}' shows who has it open"
        )),
        Ok(Err(e)) => map(e).at(&place),
        Err(_) => CatalogError::Busy(format!(
            "{place} can be neither written nor read: see to its disk, and with 'fuser {place}' who has it open"
        )),
    }
}

/// How long an operation may take. A file answers or fails.
pub async fn patient<T>(work: impl Future<Output = Result<T, CatalogError>>) -> Result<T, CatalogError> {
    work.await
}

/// After an error of the disk SQLite has rolled back by itself, the driver does not know, and every further transaction of
/// that connection would fail.
pub const fn spoils(e: &CatalogError) -> bool {
    matches!(e, CatalogError::Failed(_) | CatalogError::Damaged(_))
}

/// Ends a connection; the pool makes a new one. Whether closing works does not matter: it is not used again.
pub async fn discard(connection: PoolConnection<Database>) {
    let _ = connection.close().await;
}
