//! The places that a configuration names on this machine, looked at before anything is opened: what is not there, and what
//! others could change, is named with its line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use exhibit_evidence::text::escape_bounded;

use super::{Config, ConfigError, FILE_BYTES_MAX, StoreKind, line_of_key};

use crate::catalog::CatalogPlace;

impl Config {
    /// Looks at the file itself, the deployment's folder, the store, its copy and, unless it is about to be made anew, the catalog if it is a
    /// file; a database is not asked.
    /// Changes nothing.
    ///
    /// # Errors
    /// [`ConfigError`]: exit code 77 when others may write what this program relies on, 64 when something is not there.
    pub fn check_places(&self, file: &Path, with_catalog: bool) -> Result<(), ConfigError> {
        let text = std::fs::read(file).ok().filter(|t| t.len() as u64 <= FILE_BYTES_MAX).unwrap_or_default();
        let look = Look { file, text: &String::from_utf8_lossy(&text) };
        look.closed_to_others(None, file)?;
        look.folder("paths.deployment", &self.resolve(&self.paths.deployment), "it is made by 'exhibit-coordinator init'")?;
        match self.catalog()? {
            CatalogPlace::File(path) if with_catalog => {
                look.plain_file("paths.catalog", &path, "it is made again by 'exhibit-coordinator reindex'")?;
            }
            CatalogPlace::File(_) | CatalogPlace::Postgres(_) => {}
        }
        let _ = self.authorities()?;
        let _ = self.remote_copy()?;
        if let Some(copy) = self.copy.store.as_ref().filter(|copy| copy.kind == StoreKind::Local) {
            look.folder("copy.store.path", &self.resolve(&copy.path), "make it, on another disk than the store")?;
        }
        match self.store.kind {
            StoreKind::Local => look.folder("store.path", &self.resolve(&self.store.path), "a store is made by 'exhibit-coordinator init'"),
            StoreKind::S3 | StoreKind::Google | StoreKind::Azure => self.remote().map(|_| ()),
        }
    }
}

struct Look<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Look<'_> {
    /// `file:line: key: `, as every error of the configuration begins.
    fn at(&self, key: Option<&str>) -> String {
        let file = shown(self.file);
        key.map_or_else(|| format!("{file}: "), |key| format!("{file}:{}: {key}: ", line_of_key(self.text, key)))
    }

    fn folder(&self, key: &str, path: &Path, remedy: &str) -> Result<(), ConfigError> {
        if !self.meta(key, path, remedy)?.is_dir() {
            return Err(ConfigError::wrong(format!("{}{} is no folder; {remedy}", self.at(Some(key)), shown(path))));
        }
        self.closed_to_others(Some(key), path)
    }

    fn plain_file(&self, key: &str, path: &Path, remedy: &str) -> Result<(), ConfigError> {
        if self.meta(key, path, remedy)?.is_file() {
            return Ok(());
        }
        Err(ConfigError::wrong(format!("{}{} is no plain file; {remedy}", self.at(Some(key)), shown(path))))
    }

    fn meta(&self, key: &str, path: &Path, remedy: &str) -> Result<std::fs::Metadata, ConfigError> {
        std::fs::metadata(path).map_err(|e| {
            let text = format!("{}{}: {e}; {remedy}", self.at(Some(key)), shown(path));
            if e.kind() == std::io::ErrorKind::PermissionDenied { ConfigError::permission(text) } else { ConfigError::wrong(text) }
        })
    }

    /// Who may write here may exchange keys, evidence or the place where evidence goes.
    fn closed_to_others(&self, key: Option<&str>, path: &Path) -> Result<(), ConfigError> {
        let mode = std::fs::metadata(path).map_or(0, |meta| meta.permissions().mode()) & 0o7777;
        if mode & 0o022 == 0 {
            return Ok(());
        }
        let path = shown(path);
        Err(ConfigError::permission(format!(
            "{}{path} can be written by other users (mode {mode:04o}): run: chmod go-w {path}",
            self.at(key)
        )))
    }
}

fn shown(path: &Path) -> String {
    escape_bounded(&path.to_string_lossy(), 200)
}
