//! The places that a configuration names on this machine, looked at before anything is opened: what is not there, and what
//! others could change, is named with its line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use exhibit_evidence::text::escape_bounded;

use super::{Config, ConfigError, FILE_BYTES_MAX, StoreKind, line_of_key};

use crate::catalog::CatalogPlace;

/// What helps when the folder of a copy is not there. Whoever makes one on the path of a disk that is not mounted has a copy on the first disk.
pub const COPY_AWAY: &str = "mount the disk that it is on; only for a new copy make an empty folder, on that disk and not where it is mounted; the coordinator uses it when it is there";

/// What helps when the file with the credentials of a copy is not there.
pub const COPY_SECRET_AWAY: &str = "put the credentials of the copy into that file, mode 0600; the coordinator uses it when it is there";

impl Config {
    /// Looks at the file itself, the deployment's folder, the store, its copy (unless its folder or its file of credentials is not there: [`Config::copy_away`],
    /// [`Config::copy_secret_away`]) and, unless it is about to be made anew, the catalog if it is a file; a database is not asked.
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
        if self.copy_secret_away().is_none() {
            let _ = self.remote_copy()?;
        }
        if let Some(copy) = self.copy_folder().filter(|_| self.copy_away().is_none()) {
            look.folder("copy.store.path", &copy, "name a folder, on another disk than the store")?;
        }
        match self.store.kind {
            StoreKind::Local => look.folder("store.path", &self.resolve(&self.store.path), "a store is made by 'exhibit-coordinator init'"),
            StoreKind::S3 | StoreKind::Google | StoreKind::Azure => self.remote().map(|_| ()),
        }
    }

    fn copy_folder(&self) -> Option<PathBuf> {
        let copy = self.copy.store.as_ref().filter(|copy| copy.kind == StoreKind::Local)?;
        Some(self.resolve(&copy.path))
    }

    /// The folder of a copy on this machine, when it is not there. That keeps no coordinator from starting: evidence is in the first store, and
    /// must not wait for the disk of the second.
    #[must_use]
    pub fn copy_away(&self) -> Option<PathBuf> {
        self.copy_folder().filter(|path| is_away(path))
    }

    /// The file with the credentials of a copy elsewhere, when it is not there. That keeps no coordinator from starting either. One that may
    /// not be read, or that others can read, does.
    #[must_use]
    pub fn copy_secret_away(&self) -> Option<PathBuf> {
        let copy = self.copy.store.as_ref().filter(|copy| copy.kind != StoreKind::Local)?;
        let file = copy.secret_access_key_file.as_ref().or(copy.credentials_file.as_ref())?;
        Some(self.resolve(file)).filter(|path| is_away(path))
    }
}

fn is_away(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|e| e.kind() != std::io::ErrorKind::PermissionDenied)
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
