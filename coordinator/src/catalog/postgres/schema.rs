//! The schema in PostgreSQL: made, brought up to date and recognised, one coordinator at a time.

use sqlx::{Connection as _, PgConnection, Row as _};

use super::error::map;
use super::{APPLICATION_ID, Settings};
use crate::catalog::CatalogError;

/// The schema, one step a file; `schema_version` counts the steps that a catalog has.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/postgres/0001_first.sql"),
    include_str!("../migrations/postgres/0002_replicas.sql"),
    include_str!("../migrations/postgres/0003_chores.sql"),
    include_str!("../migrations/postgres/0004_settled.sql"),
    include_str!("../migrations/postgres/0005_published.sql"),
];

/// The oldest server that is tried.
const SERVER_VERSION_MIN: i32 = 13;

/// What a caller expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Making {
    /// No catalog: it is made.
    New,
    /// A catalog.
    Existing,
}

/// Makes or checks the schema and applies the steps that it lacks.
///
/// One transaction under an advisory lock: of several programs that start at once one does the work, the others find it done.
pub async fn prepare(c: &mut PgConnection, settings: &Settings, making: Making) -> Result<(), CatalogError> {
    check_server(c, settings).await?;
    let mut tx = c.begin_with(super::dialect::BEGIN).await.map_err(map)?;
    super::dialect::unhurried(&mut tx).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(APPLICATION_ID).execute(&mut *tx).await.map_err(map)?;
    let known = MIGRATIONS.len() as i64;
    let version = match (version(&mut tx, settings).await?, making) {
        (None, Making::New) => begin(&mut tx, settings).await?,
        (Some(version), Making::Existing) => version,
        (Some(_), Making::New) => {
            return Err(CatalogError::Conflict(format!("{} holds a catalog: name another database", settings.place())));
        }
        (None, Making::Existing) => {
            return Err(CatalogError::Failed(format!(
                "there is no catalog in {} (check catalog.postgres in the configuration; 'exhibit-coordinator reindex' makes a new one from the store)",
                settings.place()
            )));
        }
    };
    if !(0..=known).contains(&version) {
        return Err(CatalogError::Failed(format!(
            "the catalog in {} has version {version}, this program knows versions up to {known} (start the newer program, or make a new catalog with 'exhibit-coordinator reindex --replace')",
            settings.place()
        )));
    }
    for step in MIGRATIONS.iter().skip(version as usize) {
        sqlx::raw_sql(*step).execute(&mut *tx).await.map_err(map)?;
    }
    sqlx::query("UPDATE schema_version SET version = $1").bind(known).execute(&mut *tx).await.map_err(map)?;
    tx.commit().await.map_err(map)
}

/// The version of the catalog that is there. The search path names only our schema.
pub async fn version(c: &mut PgConnection, settings: &Settings) -> Result<Option<i64>, CatalogError> {
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)")
        .bind(settings.schema())
        .fetch_one(&mut *c)
        .await
        .map_err(map)?;
    if tables == 0 {
        return Ok(None);
    }
    let foreign = || {
        CatalogError::Failed(format!(
            "schema '{}' in {} holds something else than a catalog: name a database of its own in catalog.postgres",
            settings.schema(),
            settings.place()
        ))
    };
    let ours: bool = sqlx::query_scalar("SELECT to_regclass('schema_version') IS NOT NULL").fetch_one(&mut *c).await.map_err(map)?;
    if !ours {
        return Err(foreign());
    }
    let rows = sqlx::query("SELECT application_id, version FROM schema_version").fetch_all(c).await.map_err(map)?;
    let [row] = rows.as_slice() else { return Err(foreign()) };
    if row.try_get::<i64, _>("application_id").map_err(map)? != APPLICATION_ID {
        return Err(foreign());
    }
    row.try_get("version").map(Some).map_err(map)
}

async fn begin(c: &mut PgConnection, settings: &Settings) -> Result<i64, CatalogError> {
    let make = format!(
        "CREATE SCHEMA IF NOT EXISTS {};
         CREATE TABLE schema_version (application_id BIGINT NOT NULL, version BIGINT NOT NULL);
         INSERT INTO schema_version VALUES ({APPLICATION_ID}, 0);",
        settings.schema()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(make)).execute(c).await.map_err(map)?;
    Ok(0)
}

/// What the promises of the catalog rest on.
async fn check_server(c: &mut PgConnection, settings: &Settings) -> Result<(), CatalogError> {
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int / 10000 AS version, current_setting('server_encoding') AS encoding,
           current_setting('fsync') AS fsync",
    )
    .fetch_one(c)
    .await
    .map_err(map)?;
    let wrong = |what: String| Err(CatalogError::Failed(format!("catalog.postgres: {}: {what}", settings.place())));
    let version: i32 = row.try_get("version").map_err(map)?;
    if version < SERVER_VERSION_MIN {
        return wrong(format!("PostgreSQL {version}: {SERVER_VERSION_MIN} or newer is needed"));
    }
    let encoding: String = row.try_get("encoding").map_err(map)?;
    if encoding != "UTF8" {
        return wrong(format!("the database's encoding is {encoding}: make one with ENCODING 'UTF8'"));
    }
    if row.try_get::<String, _>("fsync").map_err(map)? == "off" {
        return wrong("the server runs with fsync = off, so what it said to have stored may be lost: turn it on".to_owned());
    }
    Ok(())
}
