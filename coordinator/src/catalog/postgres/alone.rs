//! What only one program may do while no coordinator runs: a new catalog in the place of the old one, a new admin by the root key.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::error::map;
use super::settings::APPLICATION;
use super::{LOCK_SPACE, PostgresCatalog, Settings, dialect, first_connection};
use crate::catalog::CatalogError;

/// The right to work without coordinators, e.g. to exchange the catalog: a lock that ends with the connection.
#[derive(Debug)]
pub struct Alone {
    connection: PgConnection,
    settings: Settings,
}

impl Alone {
    /// Takes the right.
    ///
    /// # Errors
    /// [`CatalogError::Failed`] when a coordinator is connected or another program has the right.
    pub async fn take(settings: &Settings) -> Result<Self, CatalogError> {
        let settings = settings.clone().called("exhibit-coordinator alone");
        let mut connection = first_connection(&settings).await?;
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, hashtext('exchange'))")
            .bind(LOCK_SPACE)
            .fetch_one(&mut connection)
            .await
            .map_err(map)?;
        if !locked {
            return Err(CatalogError::Failed(format!(
                "another program makes a new catalog in {}, or an admin there: wait for it",
                settings.place()
            )));
        }
        wait_for_others(&mut connection, &settings).await?;
        Ok(Self { connection, settings })
    }

    /// The right keeps no coordinator from starting: says whether one did.
    ///
    /// # Errors
    /// [`CatalogError::Failed`] when a coordinator is connected; [`CatalogError`] when the server cannot be asked.
    pub async fn confirm(&mut self) -> Result<(), CatalogError> {
        refuse_others(&mut self.connection, &self.settings).await
    }

    /// An empty catalog beside the one that is in use; what an interrupted attempt left there is removed.
    ///
    /// # Errors
    /// [`CatalogError`]
    pub async fn fresh(&mut self) -> Result<PostgresCatalog, CatalogError> {
        let aside = self.settings.clone().aside();
        self.run(format!("DROP SCHEMA IF EXISTS {} CASCADE", aside.schema())).await?;
        PostgresCatalog::create(&aside).await
    }

    /// Puts the fresh catalog in the place of the one that is in use, which is kept as schema `exhibit_old`. One transaction:
    /// it happened or it did not, and a second attempt begins with a new fresh catalog.
    ///
    /// # Errors
    /// [`CatalogError`]
    pub async fn exchange(mut self) -> Result<(), CatalogError> {
        let (schema, aside) = (self.settings.schema(), self.settings.clone().aside());
        let mut tx = self.connection.begin_with(dialect::BEGIN).await.map_err(map)?;
        refuse_others(&mut tx, &self.settings).await?;
        let there: bool =
            sqlx::query_scalar("SELECT to_regnamespace($1) IS NOT NULL").bind(schema).fetch_one(&mut *tx).await.map_err(map)?;
        let keep = format!("DROP SCHEMA IF EXISTS {schema}_old CASCADE; ALTER SCHEMA {schema} RENAME TO {schema}_old; ");
        let steps = format!("{}ALTER SCHEMA {} RENAME TO {schema}", if there { &keep } else { "" }, aside.schema());
        sqlx::raw_sql(AssertSqlSafe(steps)).execute(&mut *tx).await.map_err(map)?;
        tx.commit().await.map_err(map)
    }

    async fn run(&mut self, sql: String) -> Result<(), CatalogError> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection).await.map_err(map)?;
        Ok(())
    }
}

/// A coordinator that has just ended is still seen for a moment.
async fn wait_for_others(c: &mut PgConnection, settings: &Settings) -> Result<(), CatalogError> {
    for _ in 0..20 {
        if refuse_others(c, settings).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refuse_others(c, settings).await
}

/// Coordinators are told by the name of their connections, of which each keeps one open.
async fn refuse_others(c: &mut PgConnection, settings: &Settings) -> Result<(), CatalogError> {
    let others: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1")
            .bind(APPLICATION)
            .fetch_one(c)
            .await
            .map_err(map)?;
    if others == 0 {
        return Ok(());
    }
    Err(CatalogError::Failed(format!(
        "a coordinator is connected to {} ({others} connections): stop every coordinator that uses it first",
        settings.place()
    )))
}
