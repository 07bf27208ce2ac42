//! Where PostgreSQL differs: several coordinators write at once, and the server can stop answering.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{ConnectOptions as _, Connection as _};

use super::error::unreachable;
use super::peers::PostgresPeers;
use super::{CONNECTIONS_MAX, Connection, Database, PostgresCatalog, Settings, map};
use crate::catalog::CatalogError;
use crate::catalog::peers::Peers;

/// Said in full: an operator may have chosen other defaults for the server or the role.
pub const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Begins to read as of one moment.
pub const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Of agents `a`: those that carry all labels of a JSON object, which stands between the two.
pub const HAS_LABELS: (&str, &str) = (" AND a.labels::jsonb @> (", ")::jsonb");

/// Of collections: those whose ids a JSON array holds, which stands between the two.
pub const ONLY_COLLECTIONS: (&str, &str) = (" AND collection IN (SELECT json_array_elements_text((", ")::json))");

/// Stands behind `collections` where only open ones are asked for. PostgreSQL knows that they are few.
pub const BY_OPEN: &str = "";

/// A SELECT whose row nobody else changes until the transaction ends.
macro_rules! for_update {
    ($sql:literal) => {
        concat!($sql, " FOR UPDATE")
    };
}
pub(super) use for_update;

/// Lets one transaction at a time go on from here, of all that name the same thing.
pub async fn one_at_a_time(c: &mut Connection, what: &'static str) -> Result<(), CatalogError> {
    // Two numbers: the space of locks with one number is for the schema.
    let lock = sqlx::query("SELECT pg_advisory_xact_lock($1, hashtext($2))").bind(super::LOCK_SPACE).bind(what);
    lock.execute(c).await.map_err(map)?;
    Ok(())
}

/// This process among the coordinators on the database.
#[expect(clippy::unnecessary_wraps, reason = "one signature for both databases")]
pub fn peers(catalog: &PostgresCatalog) -> Option<Arc<dyn Peers>> {
    let peers = catalog.peers.get_or_init(|| Arc::new(PostgresPeers::begin(&catalog.pool)));
    Some(Arc::clone(peers) as Arc<dyn Peers>)
}

/// Lets this transaction take as long as it needs.
pub async fn unhurried(c: &mut Connection) -> Result<(), CatalogError> {
    sqlx::raw_sql("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
        .execute(c)
        .await
        .map_err(map)?;
    Ok(())
}

/// After many rows came at once: PostgreSQL plans by what it knows of them, and would find out only in a minute.
pub async fn settle(c: &mut Connection) -> Result<(), CatalogError> {
    // Named, because without names the server warns of each of its own tables that this role may not look at.
    let own = "SELECT string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_tables WHERE schemaname = current_schema()";
    let Some(own) = sqlx::query_scalar::<_, Option<String>>(own).fetch_one(&mut *c).await.map_err(map)? else { return Ok(()) };
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("ANALYZE {own}"))).execute(c).await.map_err(map)?;
    Ok(())
}

/// Where the catalog is, for errors; never a password.
pub fn place(catalog: &PostgresCatalog) -> String {
    catalog.settings.place().to_owned()
}

/// How long the server may take to let somebody in who only looks why it does not answer.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// Why the catalog does not answer. The pool tries again and keeps to itself why it gets no connection, so one is made beside it.
pub async fn silence(catalog: &PostgresCatalog) -> CatalogError {
    let place = place(catalog);
    let session = Settings::clone(&catalog.settings).called("exhibit-coordinator check").session();
    let looked = async { session.connect().await?.close().await };
    match tokio::time::timeout(LOOK_WITHIN, looked).await {
        Ok(Ok(())) => {
            let used = (catalog.pool.size() as usize).saturating_sub(catalog.pool.num_idle());
            CatalogError::Busy(format!(
                "{place} takes connections and does not do the work in time ({used} of this coordinator's {CONNECTIONS_MAX} connections are in \
                 use): look on the server for locks (pg_stat_activity), a synchronous standby that is away (pg_stat_replication), and its disk"
            ))
        }
        Ok(Err(e)) => unreachable(&place, &e),
        Err(_) => CatalogError::Busy(format!(
            "{place} lets nobody in within {} s: see to the server, and to what lies between (firewall, network)",
            LOOK_WITHIN.as_secs()
        )),
    }
}

/// How long an operation may take. The server ends a statement earlier (see [`super::Settings`]); this is for a server or a
/// network that says nothing any more.
const PATIENCE: Duration = Duration::from_secs(45);

/// Gives up on a server that does not answer; whether the work was done is not known then.
pub async fn patient<T>(work: impl Future<Output = Result<T, CatalogError>>) -> Result<T, CatalogError> {
    let late = || CatalogError::Busy(format!("PostgreSQL did not answer within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(late()))
}

/// A connection that was lost, ended or is too slow is told as busy, and is not used again; after a conflict it is sound.
pub const fn spoils(e: &CatalogError) -> bool {
    !matches!(e, CatalogError::Conflict(_))
}

/// Ends a connection without a word, because nobody may be there to hear it; the pool makes a new one.
#[expect(clippy::unused_async, reason = "one signature for both databases")]
pub async fn discard(connection: PoolConnection<Database>) {
    drop(connection.detach());
}
