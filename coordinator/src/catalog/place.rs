//! Where a catalog is, and an open one, of either kind.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::postgres::{PostgresCatalog, Settings};
use super::sqlite::SqliteCatalog;
use super::transfer::{Moved, TransferError};
use super::{CatalogError, SharedCatalog};

/// Where a configuration says that the catalog is.
#[derive(Debug, Clone)]
pub enum CatalogPlace {
    /// A file of SQLite.
    File(PathBuf),
    /// A database of PostgreSQL.
    Postgres(Settings),
}

/// An open catalog.
#[derive(Debug, Clone)]
pub enum OpenCatalog {
    /// In a file.
    Sqlite(SqliteCatalog),
    /// In a database.
    Postgres(PostgresCatalog),
}

impl CatalogPlace {
    /// Makes a new, empty catalog.
    ///
    /// # Errors
    /// [`CatalogError::Conflict`] when there is one.
    pub async fn create(&self) -> Result<OpenCatalog, CatalogError> {
        Ok(match self {
            Self::File(path) => OpenCatalog::Sqlite(SqliteCatalog::create(path).await?),
            Self::Postgres(settings) => OpenCatalog::Postgres(PostgresCatalog::create(settings).await?),
        })
    }

    /// Opens a catalog and brings its schema up to date.
    ///
    /// # Errors
    /// [`CatalogError::Failed`] when there is none, or it cannot be reached.
    pub async fn open(&self) -> Result<OpenCatalog, CatalogError> {
        Ok(match self {
            Self::File(path) => OpenCatalog::Sqlite(SqliteCatalog::open(path).await?),
            Self::Postgres(settings) => OpenCatalog::Postgres(PostgresCatalog::open(settings).await?),
        })
    }

    /// [`CatalogPlace::open`], or [`CatalogPlace::create`] where there is none; true when it was made.
    ///
    /// # Errors
    /// [`CatalogError`]
    pub async fn open_or_create(&self) -> Result<(OpenCatalog, bool), CatalogError> {
        let there = match self {
            Self::File(path) => path.exists(),
            Self::Postgres(settings) => PostgresCatalog::is_there(settings).await?,
        };
        Ok(if there { (self.open().await?, false) } else { (self.create().await?, true) })
    }

    /// For people; never a password.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::File(path) => exhibit_evidence::text::escape_bounded(&path.to_string_lossy(), 200),
            Self::Postgres(settings) => format!("PostgreSQL {}", settings.place()),
        }
    }
}

impl OpenCatalog {
    /// The catalog as the rest of the program sees it.
    #[must_use]
    pub fn shared(&self) -> SharedCatalog {
        match self {
            Self::Sqlite(catalog) => Arc::new(catalog.clone()),
            Self::Postgres(catalog) => Arc::new(catalog.clone()),
        }
    }

    /// Ends all connections.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(catalog) => catalog.close().await,
            Self::Postgres(catalog) => catalog.close().await,
        }
    }

    /// See [`SqliteCatalog::export`].
    ///
    /// # Errors
    /// [`TransferError`]
    pub async fn export(&self, out: &mut (dyn Write + Send)) -> Result<Moved, TransferError> {
        match self {
            Self::Sqlite(catalog) => catalog.export(out).await,
            Self::Postgres(catalog) => catalog.export(out).await,
        }
    }

    /// See [`SqliteCatalog::import`].
    ///
    /// # Errors
    /// [`TransferError`]
    pub async fn import(&self, input: &mut (dyn BufRead + Send)) -> Result<Moved, TransferError> {
        match self {
            Self::Sqlite(catalog) => catalog.import(input).await,
            Self::Postgres(catalog) => catalog.import(input).await,
        }
    }
}
