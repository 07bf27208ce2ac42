//! The catalog in one SQLite file.
//!
//! One connection writes (`BEGIN IMMEDIATE`, `synchronous=FULL`), a few read beside it (WAL). A lock file keeps a second
//! coordinator away from the same catalog.

mod dialect;
#[path = "../sql/mod.rs"]
#[allow(clippy::duplicate_mod, reason = "one text of SQL, compiled against each driver's types")]
mod sql;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use super::CatalogError;

/// The schema, one step a file; `PRAGMA user_version` counts the steps that a catalog has.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/sqlite/0001_first.sql"),
    include_str!("../migrations/sqlite/0002_bookmark.sql"),
    include_str!("../migrations/sqlite/0003_incidents.sql"),
    include_str!("../migrations/sqlite/0004_counts.sql"),
    include_str!("../migrations/sqlite/0005_unapproved.sql"),
    include_str!("../migrations/sqlite/0006_chores.sql"),
    include_str!("../migrations/sqlite/0007_published.sql"),
];
/// "exhb": tells our files from any other SQLite database.
const APPLICATION_ID: i64 = 0x6578_6862;
const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

// What `sql` is written against.
type Backend = SqliteCatalog;
type Connection = sqlx::SqliteConnection;
type Database = sqlx::Sqlite;
type Row = sqlx::sqlite::SqliteRow;

/// A catalog in a file. Cloning shares it.
#[derive(Clone)]
pub struct SqliteCatalog {
    writer: SqlitePool,
    readers: SqlitePool,
    path: PathBuf,
    /// Held by every clone, and so by every write that is still under way.
    _lock: Arc<File>,
}

impl std::fmt::Debug for SqliteCatalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SqliteCatalog({})", shown(&self.path))
    }
}

impl SqliteCatalog {
    /// Makes a new catalog file (mode 0600) and opens it.
    ///
    /// # Errors
    /// [`CatalogError::Conflict`] when the file exists; [`CatalogError::Failed`] otherwise.
    pub async fn create(path: &Path) -> Result<Self, CatalogError> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(CatalogError::Conflict(format!("{} exists", shown(path))));
            }
            Err(e) => return Err(CatalogError::Failed(format!("cannot create {}: {e}", shown(path)))),
        }
        Self::connect(path, true).await
    }

    /// Opens a catalog that [`SqliteCatalog::create`] made and brings its schema up to date.
    ///
    /// # Errors
    /// [`CatalogError::Failed`] when it is missing, held by another coordinator, or newer than this program;
    /// [`CatalogError::Damaged`] when it is no catalog.
    pub async fn open(path: &Path) -> Result<Self, CatalogError> {
        if !path.is_file() {
            return Err(CatalogError::Failed(format!(
                "there is no catalog {} (check the path in the configuration; 'exhibit-coordinator reindex' makes a new one from the store)",
                shown(path)
            )));
        }
        Self::connect(path, false).await
    }

    async fn connect(path: &Path, new: bool) -> Result<Self, CatalogError> {
        let lock = lock(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone())
            .await
            .map_err(map)?;
        migrate(&writer, path, new).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.read_only(true))
            .await
            .map_err(map)?;
        Ok(Self { writer, readers, path: path.to_owned(), _lock: Arc::new(lock) })
    }

    /// Ends all connections, which folds the write-ahead log into the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    const fn writers(&self) -> &SqlitePool {
        &self.writer
    }

    const fn readers(&self) -> &SqlitePool {
        &self.readers
    }
}

fn shown(path: &Path) -> String {
    exhibit_evidence::text::escape_bounded(&path.to_string_lossy(), 200)
}

/// How the error begins that says that somebody else has the catalog open.
pub(crate) const IN_USE: &str = "another coordinator is running on ";

pub(crate) fn lock(path: &Path) -> Result<File, CatalogError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&name);
    let file = open.map_err(|e| CatalogError::Failed(format!("cannot open the lock beside {}: {e}", shown(path))))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(CatalogError::Failed(format!(
            "{IN_USE}{} (stop it first; two on one catalog would corrupt each other's work)",
            shown(path)
        ))),
        Err(e) => Err(CatalogError::Failed(format!("cannot lock {}: {e}", shown(path)))),
    }
}

async fn migrate(pool: &SqlitePool, path: &Path, new: bool) -> Result<(), CatalogError> {
    let pragma = |row: sqlx::sqlite::SqliteRow| row.try_get::<i64, _>(0).map_err(map);
    let id = pragma(sqlx::query("PRAGMA application_id").fetch_one(pool).await.map_err(map)?)?;
    let version = pragma(sqlx::query("PRAGMA user_version").fetch_one(pool).await.map_err(map)?)?;
    if !new && id != APPLICATION_ID {
        // A crash while it was made leaves an empty file: nothing is lost by making it again.
        return Err(CatalogError::Damaged(format!("{} is not a catalog", shown(path))));
    }
    let known = MIGRATIONS.len() as i64;
    if !(0..=known).contains(&version) {
        return Err(CatalogError::Failed(format!(
            "{} has version {version}, this program knows versions up to {known} (start the newer program, or make a new catalog with 'exhibit-coordinator reindex')",
            shown(path)
        )));
    }
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.map_err(map)?;
    for step in MIGRATIONS.iter().skip(version as usize) {
        sqlx::raw_sql(*step).execute(&mut *tx).await.map_err(map)?;
    }
    let stamp = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {known};");
    sqlx::raw_sql(sqlx::AssertSqlSafe(stamp)).execute(&mut *tx).await.map_err(map)?;
    tx.commit().await.map_err(map)
}

/// What helps where a catalog may not be written.
const RIGHT: &str = "give the coordinator's user the right to write the catalog and its folder";

/// What the driver said, as what to do about it.
fn map(e: sqlx::Error) -> CatalogError {
    if let Some(db) = e.as_database_error() {
        return by_code(db.code().and_then(|c| c.parse::<i64>().ok()).unwrap_or(0), db.message().to_owned());
    }
    match e {
        sqlx::Error::PoolTimedOut => CatalogError::Busy("no connection became free within 30 s".to_owned()),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => CatalogError::Damaged(e.to_string()),
        other => CatalogError::Failed(other.to_string()),
    }
}

/// By the primary result code of SQLite (sqlite.org/rescode.html): the low byte of the extended one.
fn by_code(extended: i64, text: String) -> CatalogError {
    match extended & 0xff {
        5 | 6 => CatalogError::Busy(text),
        11 | 26 => CatalogError::Damaged(text),
        13 => CatalogError::Failed(format!("{text} (the disk that holds the catalog is full: free space on it)")),
        // No right; the file or one beside it cannot be opened.
        3 | 8 | 14 => CatalogError::Failed(format!("{text} ({RIGHT})")),
        // So SQLite tells as well that a file system became read-only under an open file.
        10 => CatalogError::Failed(format!(
            "{text} ({RIGHT}; where it has that, look whether the file system is mounted read-only, and in the kernel's log: the disk may report errors)"
        )),
        19 => CatalogError::Conflict(text),
        _ => CatalogError::Failed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_is_told_with_the_right_that_it_needs() {
        // SQLITE_READONLY, SQLITE_CANTOPEN, SQLITE_IOERR_WRITE.
        for code in [8, 14, 778] {
            let e = by_code(code, "said".to_owned()).at("/d/catalog.sqlite").to_string();
            assert!(e.starts_with("the catalog failed: /d/catalog.sqlite: said (") && e.contains(RIGHT), "{e}");
        }
        assert_eq!(by_code(261, "locked".to_owned()), CatalogError::Busy("locked".to_owned()), "SQLITE_BUSY_RECOVERY");
    }
}
