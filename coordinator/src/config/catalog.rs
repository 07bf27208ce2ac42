//! Where the catalog is: a file, or a database of PostgreSQL.

use std::path::PathBuf;

use serde::Deserialize;

use super::store::read_secret_line;
use super::{Config, ConfigError};
use crate::catalog::CatalogPlace;
use crate::catalog::postgres::Settings;

/// The catalog's file when the configuration names none.
pub const CATALOG_FILE: &str = "catalog.sqlite";
/// An address for the documented file.
pub(super) const EXAMPLE: &str = "postgres://exhibit@db.example.org/exhibit?sslmode=verify-full&sslrootcert=db-ca.pem";

/// A catalog in PostgreSQL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatalogConfig {
    /// `postgres://USER@HOST/DATABASE`, without a password.
    pub postgres: Option<String>,
    /// File that holds the password, one line, mode 0600.
    pub password_file: Option<PathBuf>,
    /// Lets a server on another machine be one that does not prove who it is, or speaks in the clear.
    pub dangerous_allow_unverified: bool,
}

impl Config {
    pub(super) fn check_catalog(&self) -> Result<(), (&'static str, String)> {
        let catalog = &self.catalog;
        let Some(address) = &catalog.postgres else {
            return match catalog.password_file {
                Some(_) => Err(("catalog.password_file", "belongs to catalog.postgres, which is not set: set both or neither".to_owned())),
                None => Ok(()),
            };
        };
        if self.paths.catalog.is_some() {
            let why = "paths.catalog names a file: a catalog is in one of the two, take the other key out ('exhibit-coordinator catalog export' and 'import' move it)";
            return Err(("catalog.postgres", why.to_owned()));
        }
        let settings = Settings::parse(address, &self.folder, catalog.dangerous_allow_unverified);
        settings.map(drop).map_err(|e| ("catalog.postgres", e.to_string()))
    }

    /// Where the catalog is, with the password read from its file. Nothing is opened.
    ///
    /// # Errors
    /// [`ConfigError`] when the password cannot be read or others can read it.
    pub fn catalog(&self) -> Result<CatalogPlace, ConfigError> {
        let Some(address) = &self.catalog.postgres else {
            return Ok(CatalogPlace::File(self.catalog_file()));
        };
        let settings = Settings::parse(address, &self.folder, self.catalog.dangerous_allow_unverified)
            .map_err(|e| ConfigError::wrong(format!("catalog.postgres: {e}")))?;
        Ok(CatalogPlace::Postgres(match &self.catalog.password_file {
            Some(file) => settings.with_password(&read_secret_line(&self.resolve(file), "the password of the catalog")?),
            None => settings,
        }))
    }

    /// The file of a catalog that is a file.
    #[must_use]
    pub fn catalog_file(&self) -> PathBuf {
        self.resolve(self.paths.catalog.as_deref().unwrap_or(CATALOG_FILE.as_ref()))
    }
}

/// A line of the file for a message: what stands between `//user:` and `@` is not shown.
pub(super) fn without_password(line: &str) -> String {
    let hidden = || {
        let (before, rest) = line.split_once("://")?;
        let (login, after) = rest.rsplit_once('@')?;
        let (user, _) = login.split_once(':')?;
        Some(format!("{before}://{user}:...@{after}"))
    };
    hidden().unwrap_or_else(|| line.to_owned())
}
