//! What only one program may do while no coordinator runs: a new catalog in the place of the old one, a new admin by the root key.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::error::map;
use super::settings::APPLICATION;
use super::{LOCK_SPACE, PostgresCatalog, Settings, dialect, first_connection};
use crate::catalog::CatalogError;

/// Who has just ended is still connected for a moment.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// The right to work without coordinators, e.g. to exchange the catalog: a lock that ends with the connection. Each connection of a
/// coordinator has a share of it, so none starts while somebody has it alone.
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
        for _ in 0..TRIES {
            if locked(&mut connection).await? {
                return Ok(Self { connection, settings });
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        Err(taken(&mut connection, &settings).await?)
    }

    /// Says whether the right lasted until now: as long as its connection does.
    ///
    /// # Errors
    /// [`CatalogError`] when the connection was lost, so that a coordinator may have started meanwhile.
    pub async fn confirm(&mut self) -> Result<(), CatalogError> {
        sqlx::query("SELECT 1").execute(&mut self.connection).await.map_err(map)?;
        Ok(())
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

    /// Puts the fresh catalog in the place of the one that is in use, which is kept as schema `exhibit_old`. One transaction, on the
    /// connection that has the right: it happened or it did not, and a second attempt begins with a new fresh catalog.
    ///
    /// # Errors
    /// [`CatalogError`]
    pub async fn exchange(mut self) -> Result<(), CatalogError> {
        let (schema, aside) = (self.settings.schema(), self.settings.clone().aside());
        let mut tx = self.connection.begin_with(dialect::BEGIN).await.map_err(map)?;
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

async fn locked(c: &mut PgConnection) -> Result<bool, CatalogError> {
    let lock = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, hashtext('exchange'))").bind(LOCK_SPACE);
    lock.fetch_one(c).await.map_err(map)
}

/// Takes a coordinator's share of the lock, which lasts as long as the connection; false while [`Alone`] has it.
pub(super) async fn shared(c: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock_shared($1, hashtext('exchange'))").bind(LOCK_SPACE).fetch_one(c).await
}

/// The same for a coordinator that starts.
pub(super) async fn share(c: &mut PgConnection, settings: &Settings) -> Result<(), CatalogError> {
    for _ in 0..TRIES {
        if shared(c).await.map_err(map)? {
            return Ok(());
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    let place = settings.place();
    Err(CatalogError::Failed(format!(
        "'exhibit-coordinator reindex', 'catalog import' or 'recover-admin' is at work in {place}: start again when it has ended"
    )))
}

/// Who has the lock. Coordinators are told by the name of their connections.
async fn taken(c: &mut PgConnection, settings: &Settings) -> Result<CatalogError, CatalogError> {
    let others: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1")
            .bind(APPLICATION)
            .fetch_one(c)
            .await
            .map_err(map)?;
    let place = settings.place();
    Ok(CatalogError::Failed(if others == 0 {
        format!("another program makes a new catalog in {place}, or an admin there: wait for it")
    } else {
        format!("a coordinator is connected to {place} ({others} connections): stop every coordinator that uses it first")
    }))
}
