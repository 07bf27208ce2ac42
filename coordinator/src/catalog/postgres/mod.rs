//! The catalog in a PostgreSQL database, which several coordinators may share.
//!
//! Everything lies in one schema of its own. Each write is one transaction under READ COMMITTED whose first statement locks
//! the row that decides (see `sql`). A server that is restarted, fails over or is lost shows as [`CatalogError::Busy`] until
//! it answers again: connections are made anew by themselves.

mod alone;
mod connected;
mod dialect;
mod error;
mod first;
mod peers;
mod schema;
#[cfg(any(test, feature = "test-support"))]
pub mod scratch;
mod settings;
#[path = "../sql/mod.rs"]
#[allow(clippy::duplicate_mod, reason = "one text of SQL, compiled against each driver's types")]
mod sql;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Connection as _, PgConnection};

pub use alone::Alone;
pub use settings::{Settings, SettingsError};

use super::CatalogError;
use error::map;
use first::first_connection;
use peers::PostgresPeers;
use schema::Making;

/// Connections of one coordinator at most. PostgreSQL allows 100 in all by default.
const CONNECTIONS_MAX: u32 = 16;
/// How long a caller waits for a connection, a new one included, before it is told that the catalog is busy.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// "exhb": tells our schema from any other, and our advisory locks from those of other programs.
const APPLICATION_ID: i64 = 0x6578_6862;
/// The same number where PostgreSQL wants 32 bits.
const LOCK_SPACE: i32 = APPLICATION_ID as i32;

// What `sql` is written against.
type Backend = PostgresCatalog;
type Connection = PgConnection;
type Database = sqlx::Postgres;
type Row = sqlx::postgres::PgRow;

/// A catalog in a PostgreSQL database. Cloning shares it.
#[derive(Clone)]
pub struct PostgresCatalog {
    pool: PgPool,
    settings: Arc<Settings>,
    /// Begun when somebody asks: a program that only looks at the catalog is no coordinator.
    peers: Arc<OnceLock<Arc<PostgresPeers>>>,
}

impl std::fmt::Debug for PostgresCatalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresCatalog({})", self.settings.place())
    }
}

impl PostgresCatalog {
    /// Makes a new catalog in a database that has none, and opens it.
    ///
    /// # Errors
    /// [`CatalogError::Conflict`] when there is one; [`CatalogError::Failed`] when the server cannot be reached or used.
    pub async fn create(settings: &Settings) -> Result<Self, CatalogError> {
        Self::connect(settings, Making::New).await
    }

    /// Opens a catalog that [`PostgresCatalog::create`] made and brings its schema up to date. Of several coordinators that
    /// start at once one does it and the others wait.
    ///
    /// # Errors
    /// [`CatalogError::Failed`] when the server cannot be reached or used, when there is no catalog, or a newer one than this
    /// program knows; [`CatalogError::Damaged`] when the schema is not one of ours.
    pub async fn open(settings: &Settings) -> Result<Self, CatalogError> {
        Self::connect(settings, Making::Existing).await
    }

    /// True when the database holds a catalog.
    ///
    /// # Errors
    /// [`CatalogError::Failed`] when the server cannot be reached, or the schema is not one of ours.
    pub async fn is_there(settings: &Settings) -> Result<bool, CatalogError> {
        let mut first = first_connection(&settings.clone().called("exhibit-coordinator check")).await?;
        let there = schema::version(&mut first, settings).await?.is_some();
        let _ = first.close().await;
        Ok(there)
    }

    async fn connect(settings: &Settings, making: Making) -> Result<Self, CatalogError> {
        let mut first = first_connection(settings).await?;
        // What works alone makes a catalog beside the coordinators'; all other programs share the lock that it has.
        let shares = settings.is_shared();
        if shares {
            alone::share(&mut first, settings).await?;
        }
        schema::prepare(&mut first, settings, making).await?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .min_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    let may = !shares || alone::shared(connection).await?;
                    if may { Ok(()) } else { Err(sqlx::Error::Protocol("another program works alone on the catalog".to_owned())) }
                })
            })
            .connect_lazy_with(settings.session());
        // The pool has its share before the first connection gives its own back.
        drop(pool.acquire().await.map_err(map)?);
        let _ = first.close().await;
        Ok(Self { pool, settings: Arc::new(settings.clone()), peers: Arc::default() })
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The connections, for tests that look at the server.
    #[cfg(any(test, feature = "test-support"))]
    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }

    const fn writers(&self) -> &PgPool {
        &self.pool
    }

    const fn readers(&self) -> &PgPool {
        &self.pool
    }
}
