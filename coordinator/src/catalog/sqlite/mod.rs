//! The catalog in one SQLite file.
//!
//! One connection writes (`BEGIN IMMEDIATE`, `synchronous=FULL`), a few read beside it (WAL). Every write runs in its
//! own task, so that a caller that goes away cannot roll it back half-way through unseen. A lock file keeps a second
//! coordinator away from the same catalog.

mod agents;
mod cases;
mod decode;
mod incidents;
mod streams;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::Segment;
use exhibit_evidence::{Digest, Timestamp};
use futures::future::BoxFuture;
use rustix::fs::FlockOperation;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Row as _, SqliteConnection};

use super::*;

/// The schema, one step a file; `PRAGMA user_version` counts the steps that a catalog has.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_first.sql"),
    include_str!("../migrations/0002_bookmark.sql"),
    include_str!("../migrations/0003_incidents.sql"),
    include_str!("../migrations/0004_unapproved.sql"),
];
/// "exhb": tells our files from any other SQLite database.
const APPLICATION_ID: i64 = 0x6578_6862;
const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// A catalog in a file. Cloning shares it.
#[derive(Clone)]
pub struct SqliteCatalog {
    writer: SqlitePool,
    readers: SqlitePool,
    path: PathBuf,
    lock: Arc<File>,
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
        Ok(Self { writer, readers, path: path.to_owned(), lock: Arc::new(lock) })
    }

    /// Ends all connections, which folds the write-ahead log into the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// One write transaction in a task of its own. Order: BEGIN IMMEDIATE, the work, COMMIT (synced); an error of the
    /// work rolls everything back, a lost answer of COMMIT is an error whose effect may have happened.
    ///
    /// After an error of the disk the connection is closed and the next write makes a new one: SQLite has then rolled back
    /// by itself, the driver does not know, and every further transaction of that connection would fail.
    fn write<'a, T, F>(&'a self, work: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, CatalogError>> + Send + 'static,
    {
        let (pool, lock) = (self.writer.clone(), Arc::clone(&self.lock));
        Box::pin(async move {
            let task = tokio::spawn(async move {
                let _lock = lock;
                let mut connection = pool.acquire().await.map_err(map)?;
                let done = transaction(&mut connection, work).await;
                if matches!(done, Err(CatalogError::Failed(_) | CatalogError::Damaged(_))) {
                    // Whether closing works does not matter: it is not used again.
                    let _ = connection.close().await;
                }
                done
            });
            task.await.unwrap_or_else(|e| Err(CatalogError::Failed(format!("a write ended badly: {e}"))))
        })
    }

    /// One read.
    fn read<'a, T, F>(&'a self, work: F) -> Answer<'a, T>
    where
        T: Send + 'a,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, CatalogError>> + Send + 'a,
    {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(map)?;
            work(&mut connection).await
        })
    }
}

async fn transaction<T, F>(connection: &mut SqliteConnection, work: F) -> Result<T, CatalogError>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, CatalogError>>,
{
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(map)?;
    let value = work(&mut tx).await?;
    tx.commit().await.map_err(map)?;
    Ok(value)
}

fn shown(path: &Path) -> String {
    exhibit_evidence::text::escape_bounded(&path.to_string_lossy(), 200)
}

pub(crate) fn lock(path: &Path) -> Result<File, CatalogError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&name);
    let file = open.map_err(|e| CatalogError::Failed(format!("cannot open the lock beside {}: {e}", shown(path))))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(CatalogError::Failed(format!(
            "another coordinator is running on {} (stop it first; two on one catalog would corrupt each other's work)",
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

/// What the driver said, as what to do about it.
fn map(e: sqlx::Error) -> CatalogError {
    if let Some(db) = e.as_database_error() {
        // Primary result codes of SQLite (sqlite.org/rescode.html): the low byte of the extended code.
        let code = db.code().and_then(|c| c.parse::<i64>().ok()).unwrap_or(0) & 0xff;
        let text = db.message().to_owned();
        return match code {
            5 | 6 => CatalogError::Busy(text),
            11 | 26 => CatalogError::Damaged(text),
            13 => CatalogError::Failed(format!("{text} (the disk that holds the catalog is full: free space on it)")),
            8 => CatalogError::Failed(format!("{text} (give the coordinator's user the right to write the catalog and its folder)")),
            19 => CatalogError::Conflict(text),
            _ => CatalogError::Failed(text),
        };
    }
    match e {
        sqlx::Error::PoolTimedOut => CatalogError::Busy("no connection became free within 30 s".to_owned()),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => CatalogError::Damaged(e.to_string()),
        other => CatalogError::Failed(other.to_string()),
    }
}

/// A number that SQLite can hold; anything above is a defect of the caller, told instead of wrapped.
fn int(value: u64) -> Result<i64, CatalogError> {
    i64::try_from(value).map_err(|_| CatalogError::Failed(format!("{value} is too large for the catalog")))
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, CatalogError> {
    serde_json::to_string(value).map_err(|e| CatalogError::Failed(e.to_string()))
}

fn blob(digest: Digest) -> Vec<u8> {
    digest.as_bytes().to_vec()
}

/// Decides what an insert that found its key taken means.
fn same<T: PartialEq>(there: &T, wanted: &T, what: &str) -> Result<(), CatalogError> {
    if there == wanted { Ok(()) } else { Err(CatalogError::Conflict(format!("another {what} stands under the same key"))) }
}

fn page(limit: u32) -> i64 {
    i64::from(limit.min(PAGE_MAX))
}

impl Catalog for SqliteCatalog {
    fn add_token(&self, token: TokenRow) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(agents::add_token(c, token)))
    }
    fn use_token(&self, token: Digest, keys: Digest, proposed: AgentId, now: Timestamp) -> Answer<'_, TokenUse> {
        self.write(move |c| Box::pin(agents::use_token(c, token, keys, proposed, now)))
    }
    fn add_agent(&self, agent: AgentRow) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(agents::add(c, agent)))
    }
    fn agent(&self, agent: AgentId) -> Answer<'_, Option<AgentRow>> {
        self.read(move |c| Box::pin(agents::one(c, agent)))
    }
    fn agents(&self, labels: Labels, after: Option<AgentId>, limit: u32) -> Answer<'_, Vec<AgentRow>> {
        self.read(move |c| Box::pin(agents::some(c, labels, after, limit)))
    }
    fn set_labels(&self, agent: AgentId, labels: Labels) -> Answer<'_, bool> {
        self.write(move |c| Box::pin(agents::set_labels(c, agent, labels)))
    }
    fn set_seen(&self, agent: AgentId, seen: Seen) -> Answer<'_, bool> {
        self.write(move |c| Box::pin(agents::set_seen(c, agent, seen)))
    }
    fn set_alarm(&self, agent: AgentId, alarm: Option<String>) -> Answer<'_, bool> {
        self.write(move |c| Box::pin(agents::set_alarm(c, agent, alarm)))
    }
    fn revoke_agent(&self, agent: AgentId, at: Timestamp, reason: String) -> Answer<'_, bool> {
        self.write(move |c| Box::pin(agents::revoke(c, agent, at, reason)))
    }
    fn add_case(&self, case: CaseRow) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(cases::add(c, case)))
    }
    fn case(&self, case: CaseId) -> Answer<'_, Option<CaseRow>> {
        self.read(move |c| Box::pin(cases::one(c, case)))
    }
    fn cases(&self, after: Option<CaseId>, limit: u32) -> Answer<'_, Vec<CaseRow>> {
        self.read(move |c| Box::pin(cases::some(c, after, limit)))
    }
    fn close_case(&self, case: CaseId, case_closed: Digest) -> Answer<'_, bool> {
        self.write(move |c| Box::pin(cases::close(c, case, case_closed)))
    }
    fn case_counts(&self, case: CaseId) -> Answer<'_, (BTreeMap<String, u64>, u64)> {
        self.read(move |c| Box::pin(cases::counts(c, case)))
    }
    fn add_order(&self, order: OrderRow, collections: Vec<CollectionRow>) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(cases::add_order(c, order, collections)))
    }
    fn order(&self, order: OrderId) -> Answer<'_, Option<OrderRow>> {
        self.read(move |c| Box::pin(cases::order(c, order)))
    }
    fn collection(&self, collection: CollectionId) -> Answer<'_, Option<CollectionRow>> {
        self.read(move |c| Box::pin(cases::collection(c, collection)))
    }
    fn collections(&self, filter: CollectionFilter, after: Option<CollectionId>, limit: u32) -> Answer<'_, Vec<CollectionRow>> {
        self.read(move |c| Box::pin(cases::collections(c, filter, after, limit)))
    }
    fn due(&self, now: Timestamp, limit: u32) -> Answer<'_, Vec<CollectionRow>> {
        self.read(move |c| Box::pin(cases::due(c, now, limit)))
    }
    fn sealing(&self, limit: u32) -> Answer<'_, Vec<CollectionRow>> {
        self.read(move |c| Box::pin(cases::sealing(c, limit)))
    }
    fn change(&self, collection: CollectionId, from: Vec<State>, change: CollectionChange) -> Answer<'_, Option<CollectionRow>> {
        self.write(move |c| Box::pin(cases::change(c, collection, from, change)))
    }
    fn open_stream(&self, stream: StreamRow) -> Answer<'_, StreamRow> {
        self.write(move |c| Box::pin(streams::open(c, stream)))
    }
    fn stream(&self, collection: CollectionId, stream: StreamNumber) -> Answer<'_, Option<StreamRow>> {
        self.read(move |c| Box::pin(streams::one(c, collection, stream)))
    }
    fn streams(&self, collection: CollectionId) -> Answer<'_, Vec<StreamRow>> {
        self.read(move |c| Box::pin(streams::all(c, collection)))
    }
    fn commit_segment(&self, commit: SegmentCommit) -> Answer<'_, Step> {
        self.write(move |c| Box::pin(streams::commit(c, commit)))
    }
    fn finish_stream(&self, finish: StreamFinish) -> Answer<'_, Step> {
        self.write(move |c| Box::pin(streams::finish(c, finish)))
    }
    fn receive_stream(&self, collection: CollectionId, stream: StreamNumber, receipt: Digest) -> Answer<'_, Step> {
        self.write(move |c| Box::pin(streams::receive(c, collection, stream, receipt)))
    }
    fn void_stream(&self, collection: CollectionId, stream: StreamNumber) -> Answer<'_, Step> {
        self.write(move |c| Box::pin(streams::void(c, collection, stream)))
    }
    fn segments(&self, collection: CollectionId, stream: StreamNumber, from: u32, limit: u32) -> Answer<'_, Vec<Segment>> {
        self.read(move |c| Box::pin(streams::segments(c, collection, stream, from, limit)))
    }
    fn manifest_part(&self, collection: CollectionId, stream: StreamNumber, n: u32) -> Answer<'_, Option<Vec<u8>>> {
        self.read(move |c| Box::pin(streams::manifest_part(c, collection, stream, n)))
    }
    fn add_incident(&self, incident: IncidentRow) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(incidents::add(c, incident)))
    }
    fn incidents(&self, limit: u32) -> Answer<'_, Vec<IncidentRow>> {
        self.read(move |c| Box::pin(incidents::newest(c, limit)))
    }
    fn unlogged_incidents(&self, limit: u32) -> Answer<'_, Vec<UnloggedIncidents>> {
        self.read(move |c| Box::pin(incidents::unlogged(c, limit)))
    }
    fn incidents_logged(&self, incidents: UnloggedIncidents) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(incidents::logged(c, incidents)))
    }
    fn healthy(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            self.write(|c| {
                Box::pin(async move {
                    sqlx::query("UPDATE health SET beats = beats + 1").execute(c).await.map_err(map)?;
                    Ok(())
                })
            })
            .await?;
            self.read(|c| {
                Box::pin(async move {
                    sqlx::query("SELECT beats FROM health").fetch_one(c).await.map_err(map)?;
                    Ok(())
                })
            })
            .await
        })
    }
}
