//! `exhibit-coordinator init`: makes a deployment, explicitly and once.
//!
//! ```text
//! D/root/             root keys: needed again only to renew the issuing CA, and when no admin is left; move them to a safe place
//! D/issuing, server, issuer.key, log.key, enrolments, tls-root.pem, anchor.json     (see exhibit_certs::deployment)
//! D/store/            evidence and logs, with the deployment log's first records    (local stores)
//! D/catalog.sqlite    the index, unless it is in PostgreSQL
//! D/admin/            the first admin's credential, usable as EXHIBIT_HOME
//! D/config.toml       written last: a folder without it is unfinished
//! ```

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use exhibit_certs::deployment::{NewDeployment, Params, Seeds};
use exhibit_certs::issue::ServerNames;
use exhibit_certs::{DeploymentName, PersonName};
use exhibit_evidence::layout::LogName;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{Digest, Timestamp};

use crate::catalog::CatalogPlace;
use crate::catalog::postgres::{PostgresCatalog, Settings};
use crate::config::{
    CATALOG_FILE, COPY_AWAY, COPY_SECRET_AWAY, CREDENTIALS, CatalogConfig, Config, Paths, StoreConfig, StoreKind, check_bucket,
    check_endpoint,
};
use crate::ledger::{Keys, Ledgers};
use crate::store::{self, Expected, Kind, LateStore, LocalStore, LockPolicy, RemoteStore, Store, StoreError};

/// The configuration file's name in a deployment's folder.
pub const CONFIG: &str = "config.toml";
/// The credential folder of the first admin.
pub const ADMIN: &str = "admin";

/// What the operator chooses.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Folder of the deployment; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The deployment's name: 1 to 63 characters of a-z 0-9 . -
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Address and port that the coordinator listens on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7420")]
    pub listen: SocketAddr,
    /// A name or address under which agents and people reach the coordinator; repeat for several
    #[arg(long = "host", value_name = "NAME_OR_IP", default_value = "localhost")]
    pub hosts: Vec<String>,
    /// Name of the first admin
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub admin: String,
    /// Where evidence lies: a folder in DIR, an S3-compatible bucket, Google Cloud Storage or Azure Blob Storage
    #[arg(long, value_name = "KIND", value_enum, default_value = "local")]
    pub store: StoreKind,
    /// Bucket of the store; on Azure the container
    #[arg(long, value_name = "BUCKET", required_if_eq_any([("store", "s3"), ("store", "google"), ("store", "azure")]))]
    pub bucket: Option<String>,
    /// Storage account of an Azure container
    #[arg(long, value_name = "NAME", required_if_eq("store", "azure"))]
    pub account: Option<String>,
    /// Prefix within the bucket
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    /// Region of an S3 bucket
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    pub region: String,
    /// Endpoint of a store that is not the cloud's own
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// Lets the endpoint be http://
    #[arg(long)]
    pub dangerous_allow_http: bool,
    /// Google: key file of a service account; Azure: file with the account's key. Without it the machine's own are used
    #[arg(long, value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
    /// Lock every object in the bucket: compliance:DAYS (nobody can take it off) or governance:DAYS
    #[arg(long, value_name = "MODE:DAYS")]
    pub lock: Option<LockPolicy>,
    /// Put the catalog into this PostgreSQL database instead of a file in DIR: postgres://USER@HOST/DATABASE?sslrootcert=FILE
    #[arg(long, value_name = "URL")]
    pub catalog_postgres: Option<String>,
    /// File that holds the password for it: one line, mode 0600
    #[arg(long, value_name = "FILE", requires = "catalog_postgres")]
    pub catalog_password_file: Option<PathBuf>,
    /// Lets a database on another machine be one that does not prove who it is, or speaks in the clear
    #[arg(long, requires = "catalog_postgres")]
    pub catalog_dangerous_allow_unverified: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Made {
    /// The deployment's name.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
    /// The anchor: what verifiers trust.
    pub anchor: PathBuf,
    /// Folder of the root keys.
    pub root: PathBuf,
    /// The first admin's folder, usable as EXHIBIT_HOME.
    pub admin_home: PathBuf,
    /// Where evidence lies.
    pub store: String,
    /// Where the catalog is.
    pub catalog: String,
    /// SHA-256 of the TLS root certificate: what agents are told to expect.
    pub ca_sha256: Digest,
    /// Where the coordinator will listen.
    pub listen: SocketAddr,
}

/// Why nothing was made, or not all of it. One sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitError {
    message: String,
    exit: u8,
}

impl InitError {
    fn usage(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), exit: 64 }
    }

    fn failed(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), exit: 1 }
    }

    fn not_written(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), exit: 73 }
    }

    /// The program's exit code for it: 64 for a wrong call (nothing was touched), 73 when something could not be written, 1
    /// otherwise.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        self.exit
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for InitError {}

/// Makes a deployment. Order, so that a crash at any point leaves a folder that nothing takes for a deployment:
///
/// 1. everything is checked and made in memory; the folder must be new or empty
/// 2. keys, certificates and anchor
/// 3. the store is made (local) or reached (a cloud's) and passes its start-up test; it must not hold a deployment
/// 4. the deployment log's first records: the enrolments of log key, issuer key and first admin; checkpoint
/// 5. the catalog
/// 6. the first admin's folder
/// 7. the configuration - from here on it is a deployment
///
/// # Errors
/// [`InitError`]. What fails before step 4 takes away again what it made, so that init can be run again; from then on the store may hold
/// records that only the keys in the folder can go on with, so both stay, and the message says what to do.
pub async fn run(options: &Options, now: Timestamp) -> Result<Made, InitError> {
    let config = configuration(options)?;
    let new = create(options, now)?;
    refuse_taken(&options.dir)?;
    refuse_taken_database(&config).await?;
    let unfinished = |e: &dyn fmt::Display| InitError::failed(unfinished(e, &options.dir));
    let not_written = |e: &dyn fmt::Display| InitError::not_written(self::unfinished(e, &options.dir));
    let was_there = options.dir.exists();
    new.write(&options.dir).map_err(|e| taken_back(InitError::not_written, &e, &options.dir, was_there))?;
    let back = |e: &dyn fmt::Display| taken_back(InitError::failed, e, &options.dir, was_there);
    let dir = std::fs::canonicalize(&options.dir).map_err(|e| back(&e))?;
    let config = Config { folder: dir.clone(), ..config };

    let store = open_store(&config, true).map_err(|e| back(&e))?;
    store::self_test(&*store).await.map_err(|e| back(&e))?;
    refuse_taken_store(&*store).await.map_err(|e| back(&e))?;
    let place = store.describe();
    let ca_sha256 = new.deployment.tls_root_sha256();
    begin_log(store, &new).await.map_err(|e| unfinished(&e))?;

    let catalog = config.catalog().map_err(|e| unfinished(&e))?;
    catalog.create().await.map_err(|e| unfinished(&e))?.close().await;

    let admin_home = dir.join(ADMIN);
    new.admin.write(&admin_home).map_err(|e| not_written(&e))?;
    let host = options.hosts.first().map_or("localhost", String::as_str);
    let client = client_config(host, options.listen.port());
    write_new(&admin_home.join(CONFIG), &client, 0o644).map_err(|e| not_written(&e))?;
    write_new(&dir.join(CONFIG), &config.documented(), 0o600).map_err(|e| not_written(&e))?;
    Ok(Made {
        name: options.name.clone(),
        config: dir.join(CONFIG),
        anchor: dir.join("anchor.json"),
        root: dir.join("root"),
        admin_home,
        store: place,
        catalog: catalog.describe(),
        ca_sha256,
        listen: options.listen,
        dir,
    })
}

/// Opens the store that a configuration names. `new` makes a local one; a store is never made otherwise.
///
/// # Errors
/// One sentence with its remedy.
pub fn open_store(config: &Config, new: bool) -> Result<Arc<dyn Store>, String> {
    if let Some(settings) = config.remote().map_err(|e| e.to_string())? {
        return Ok(Arc::new(RemoteStore::open(&settings).map_err(|e| e.to_string())?));
    }
    let path = config.resolve(&config.store.path);
    let store = if new { LocalStore::create(&path) } else { LocalStore::open(&path) }.map_err(|e| e.to_string())?;
    if config.store.immutable {
        store.make_immutable().map_err(|e| e.to_string())?;
    }
    Ok(Arc::new(store))
}

/// Opens the second store of a configuration, if it names one. A folder that is there and empty is made a store by whoever knows that no
/// copy was ever begun in it ([`Expected`]). One that is not there may be a disk that is not mounted: it is never made, and opened when it
/// appears. So is one whose disk is taken away later, and a store elsewhere whose file of credentials is not there yet. A folder that lies
/// in the store, or the store in it, is refused.
///
/// # Errors
/// One sentence with its remedy.
pub fn open_copy(config: &Config) -> Result<Option<Arc<dyn Store>>, String> {
    let Some(settings) = &config.copy.store else { return Ok(None) };
    if config.copy_secret_away().is_some() {
        return Ok(Some(Arc::new(copy_without_secret(config, settings))));
    }
    if let Some(remote) = config.remote_copy().map_err(|e| e.to_string())? {
        return Ok(Some(Arc::new(RemoteStore::open(&remote).map_err(|e| e.to_string())?)));
    }
    let path = config.resolve(&settings.path);
    let beside = (config.store.kind == StoreKind::Local).then(|| config.resolve(&config.store.path));
    let (place, immutable, folder) = (format!("local folder {}", shown(&path)), settings.immutable, path.clone());
    let (of_copy, of_store) = (path.clone(), beside.clone());
    let open = move |was_open: bool, expected: &Expected| open_copy_in(&of_copy, of_store.as_deref(), immutable, (was_open, expected));
    let copy = LateStore::new(place, Arc::new(open), Arc::new(move || LocalStore::standing(&folder)));
    if config.copy_away().is_some() {
        return Ok(Some(Arc::new(copy)));
    }
    if let Some(store) = &beside {
        apart(store, &path).map_err(|e| e.to_string())?;
    }
    // Whether a copy may be begun in an empty folder is not known here, and no reason not to start.
    let is_empty = std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty {
        copy.open_now().map_err(|e| e.to_string())?;
    }
    Ok(Some(Arc::new(copy)))
}

/// A copy elsewhere, which is opened as soon as the file of its credentials is there.
fn copy_without_secret(config: &Config, settings: &StoreConfig) -> LateStore {
    let place = format!("{} bucket '{}'", settings.kind.as_str(), escape_bounded(&settings.bucket, 80));
    let config = config.clone();
    let open = move |_: bool, _: &Expected| -> Result<Arc<dyn Store>, StoreError> {
        let unfit = |what: String| StoreError::new(Kind::Denied, format!("copy.store: {what}"), COPY_SECRET_AWAY);
        let remote = config.remote_copy().map_err(|e| unfit(e.to_string()))?;
        let remote = remote.ok_or_else(|| unfit("is a folder".to_owned()))?;
        Ok(Arc::new(RemoteStore::open(&remote)?))
    };
    LateStore::new(place, Arc::new(open), Arc::new(|| Some((0, 0))))
}

/// What helps when a copy's folder is empty that was not: a mount point without its disk looks so, and so does a new disk.
const COPY_EMPTY: &str = "mount the disk that it is on; nothing is made in its place; for a new copy name another folder";
/// What helps when another store is in a copy's folder: one that was begun under the disk, for example.
const COPY_OTHER: &str = "mount the disk that the copy is on; nothing is written here; for a new copy name another folder; \
                          docs/operations/stores.md says how a mark that was lost comes back";
/// What helps when a copy is to be begun.
const COPY_UNBEGUN: &str = "mount the disk, if it is to be on one, and start the coordinator: nothing else begins a copy";

/// The copy in a folder of this machine that must be there; `beside`: the store, where that is a folder too. `was_open`: this process had a
/// copy there before.
fn open_copy_in(
    path: &Path,
    beside: Option<&Path>,
    immutable: bool,
    (was_open, expected): (bool, &Expected),
) -> Result<Arc<dyn Store>, StoreError> {
    let unfit = |what: String, remedy: &str| StoreError::new(Kind::Denied, format!("copy.store.path: {}{what}", shown(path)), remedy);
    let mut entries = std::fs::read_dir(path).map_err(|e| unfit(format!(": {e}"), COPY_AWAY))?;
    if let Some(store) = beside {
        apart(store, path)?;
    }
    let is_empty = entries.next().is_none();
    if let Expected::Marked(mark) = expected {
        let found = LocalStore::peek(path, store::COPY_MARK, store::COPY_MARK_BYTES_MAX).map_err(|e| e.during("copy.store.path"))?;
        match found {
            Some(found) if *mark == found => {}
            Some(_) => return Err(unfit(" holds another copy than the one that was in it".to_owned(), COPY_OTHER)),
            None if is_empty => {}
            None => return Err(unfit(format!(" has no {}, and the copy that was in it has one", store::COPY_MARK), COPY_OTHER)),
        }
    }
    let opened = match (is_empty, expected) {
        (false, _) => LocalStore::open(path),
        (true, Expected::Any) if !was_open => LocalStore::create(path),
        (true, Expected::Unknown) if !was_open => return Err(unfit(" is empty: no copy was begun in it".to_owned(), COPY_UNBEGUN)),
        (true, _) => return Err(unfit(" is empty, and the copy was in it".to_owned(), COPY_EMPTY)),
    };
    // Only an object may be called absent.
    let store = opened.map_err(|e| match e.kind() {
        Kind::NotFound => unfit(" is not empty, and no store of this program".to_owned(), COPY_AWAY),
        _ => e.during("copy.store.path"),
    })?;
    if immutable {
        store.make_immutable()?;
    }
    Ok(Arc::new(store))
}

/// Two folders of which neither lies in the other, by whatever names and links they are reached.
fn apart(store: &Path, copy: &Path) -> Result<(), StoreError> {
    let unfit = |what: String| StoreError::new(Kind::Denied, what, "name a folder of its own, on another disk");
    let real = |path: &Path| {
        let followed = std::fs::canonicalize(path);
        followed.map_err(|e| unfit(format!("copy.store.path: cannot follow {}: {e}", shown(path))))
    };
    let (here, there) = (real(store)?, real(copy)?);
    if !here.starts_with(&there) && !there.starts_with(&here) {
        return Ok(());
    }
    Err(unfit(format!("copy.store.path: {} is {}, and the store is {}: one lies in the other", shown(copy), shown(&there), shown(&here))))
}

fn configuration(options: &Options) -> Result<Config, InitError> {
    // Checked here and not only with the configuration: the message must name the option, not a line of a file that is not
    // there yet.
    ServerNames::parse(&options.hosts).map_err(|e| InitError::usage(format!("--host: {e}")))?;
    if let Some(endpoint) = &options.endpoint {
        check_endpoint(endpoint, CREDENTIALS).map_err(|why| InitError::usage(format!("--endpoint: {why}")))?;
    }
    if options.endpoint.as_deref().is_some_and(|e| e.starts_with("http://")) && !options.dangerous_allow_http {
        return Err(InitError::usage(
            "--endpoint: is http://, so credentials and evidence would cross the network in the clear: use https://, or give \
             --dangerous-allow-http on a network that you trust",
        ));
    }
    if let Some(bucket) = &options.bucket {
        let endpoint = options.endpoint.as_deref();
        check_bucket(options.store, bucket, endpoint).map_err(|why| InitError::usage(format!("--bucket: {why}")))?;
    }
    let store = match options.store {
        StoreKind::Local => StoreConfig { lock: options.lock, prefix: options.prefix.clone(), ..StoreConfig::default() },
        kind => StoreConfig {
            kind,
            bucket: options.bucket.clone().unwrap_or_default(),
            account: options.account.clone().unwrap_or_default(),
            prefix: options.prefix.clone(),
            region: options.region.clone(),
            endpoint: options.endpoint.clone(),
            dangerous_allow_http: options.dangerous_allow_http,
            // The configuration will lie in another folder than the one that this was typed in.
            credentials_file: options.credentials_file.as_ref().map(std::path::absolute).transpose().map_err(InitError::usage)?,
            lock: options.lock,
            ..StoreConfig::default()
        },
    };
    let (catalog, file) = catalog_configuration(options)?;
    let paths = Paths { catalog: file, ..Paths::default() };
    let config = Config { listen: options.listen, names: options.hosts.clone(), store, paths, catalog, ..Config::default() };
    // The same check that every start makes: what init writes must be readable.
    Config::parse(&config.documented()).map_err(|e| InitError::usage(format!("the options do not make a configuration: {e}")))
}

/// A database or a file.
fn catalog_configuration(options: &Options) -> Result<(CatalogConfig, Option<PathBuf>), InitError> {
    let Some(postgres) = options.catalog_postgres.clone() else { return Ok((CatalogConfig::default(), Some(CATALOG_FILE.into()))) };
    let allow = options.catalog_dangerous_allow_unverified;
    // Checked here and not only with the configuration: the message must name the option.
    Settings::parse(&postgres, &options.dir, allow).map_err(|e| InitError::usage(format!("--catalog-postgres: {e}")))?;
    if let Some(file) = Settings::relative_file(&postgres) {
        let file = escape_bounded(&file, 200);
        return Err(InitError::usage(format!("--catalog-postgres: {file}: name it by its whole path, because DIR is not there yet")));
    }
    let absolute = |file: &PathBuf| std::path::absolute(file).map_err(|e| InitError::usage(format!("--catalog-password-file: {e}")));
    let password_file = options.catalog_password_file.as_ref().map(absolute).transpose()?;
    Ok((CatalogConfig { postgres: Some(postgres), password_file, dangerous_allow_unverified: allow }, None))
}

fn create(options: &Options, now: Timestamp) -> Result<NewDeployment, InitError> {
    let name: DeploymentName = options.name.parse().map_err(|e| InitError::usage(format!("--name: {e}")))?;
    let admin: PersonName = options.admin.parse().map_err(|e| InitError::usage(format!("--admin: {e}")))?;
    let server = ServerNames::parse(&options.hosts).map_err(|e| InitError::usage(format!("--host: {e}")))?;
    let seeds = Seeds::draw().map_err(InitError::failed)?;
    exhibit_certs::deployment::create(&Params { name, admin, server }, &seeds, now).map_err(InitError::failed)
}

/// Only an absent or empty folder is taken.
fn refuse_taken(dir: &Path) -> Result<(), InitError> {
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(InitError::usage(format!("--dir: cannot look into {}: {e}", shown(dir)))),
    };
    let names: Vec<String> = entries.by_ref().map_while(Result::ok).map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let dir = shown(dir);
    if let Some(key) = names.iter().find(|name| IDENTITY.contains(&name.as_str())) {
        return Err(InitError::usage(format!(
            "--dir: {dir} holds the identity of an agent or of a person ({key}); nothing was changed (name another folder)"
        )));
    }
    if let Some(other) = names.iter().find(|name| !is_ours(name)) {
        let other = escape_bounded(other, 80);
        return Err(InitError::usage(format!("--dir: {dir} is not empty (it holds {other}); name an empty or a new folder")));
    }
    Err(InitError::usage(if names.iter().any(|name| name == CONFIG) {
        format!("--dir: {dir} holds a deployment; nothing was changed (name another folder)")
    } else {
        format!(
            "--dir: {dir} holds what an interrupted init left, or a deployment whose {CONFIG} lies elsewhere; name another folder, or remove this one if no coordinator uses it"
        )
    }))
}

/// Only a database without a catalog is taken, and one that can be reached: found out before anything is made.
async fn refuse_taken_database(config: &Config) -> Result<(), InitError> {
    let CatalogPlace::Postgres(settings) = config.catalog().map_err(InitError::usage)? else { return Ok(()) };
    if PostgresCatalog::is_there(&settings).await.map_err(InitError::failed)? {
        return Err(InitError::usage(format!(
            "--catalog-postgres: {} holds a catalog; nothing was changed (name another database; if an interrupted init left it: DROP SCHEMA exhibit CASCADE)",
            settings.place()
        )));
    }
    Ok(())
}

/// What marks the folder of an agent or of a person.
const IDENTITY: [&str; 3] = ["evidence.key", "tls.pem", "enrolment.pending"];

/// What init itself makes, finished or not.
fn is_ours(name: &str) -> bool {
    const OURS: [&str; 11] =
        ["root", "issuing", "server", "issuer.key", "log.key", "enrolments", "tls-root.pem", "anchor.json", "store", ADMIN, CONFIG];
    name.starts_with("catalog.sqlite") || OURS.iter().any(|ours| *ours == name || name == format!(".{ours}.new"))
}

/// Takes away what init made itself, and says so; what cannot be taken away is [`unfinished`].
fn taken_back(kind: fn(String) -> InitError, e: &dyn fmt::Display, dir: &Path, was_there: bool) -> InitError {
    if !dir.exists() {
        return kind(unfinished(e, dir));
    }
    let removed = std::fs::read_dir(dir).and_then(|entries| {
        for entry in entries {
            let entry = entry?;
            if !is_ours(&entry.file_name().to_string_lossy()) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        // It stays where somebody else put something into it meanwhile.
        if was_there { Ok(()) } else { std::fs::remove_dir(dir) }
    });
    match removed {
        Ok(()) => kind(format!("{e}; what init had made in {} is taken away again: correct this and run init again", shown(dir))),
        Err(_) => kind(unfinished(e, dir)),
    }
}

/// What to do about a folder of which not everything was made; there may be none.
fn unfinished(e: &dyn fmt::Display, dir: &Path) -> String {
    if dir.exists() {
        format!("{e}; {} is unfinished: remove it and run init again", shown(dir))
    } else {
        format!("{e}; nothing was made: name a folder that can be made")
    }
}

/// Only a store without a deployment's log is taken. What lies in its place and is none is named: it would stand in the log's way.
async fn refuse_taken_store(store: &dyn Store) -> Result<(), String> {
    let (log, place) = (LogName::Deployment, store.describe());
    for name in [log.checkpoint(), log.slot(0)] {
        match store.size(&name).await {
            Ok(_) => {
                return Err(format!(
                    "{place} holds a deployment already, or what an interrupted init left of one ('{name}'): use another bucket or prefix"
                ));
            }
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    let listed = store.list(&log.folder(), None).await.map_err(|e| e.to_string())?;
    let Some(found) = listed.entries.first() else { return Ok(()) };
    Err(format!(
        "{place} holds '{}' where the deployment's log will lie, and no deployment: find out who put it there and remove it, or use another \
         bucket or prefix",
        escape_bounded(&found.name, 200)
    ))
}

async fn begin_log(store: Arc<dyn Store>, new: &NewDeployment) -> Result<(), String> {
    let deployment = &new.deployment;
    // The registry takes the key by value; the deployment keeps its own.
    let log =
        exhibit_evidence::key::SigningKey::from_text(&deployment.log_key.to_text()).ok_or("the log key does not survive its own text")?;
    let ledgers = Ledgers::new(store, Keys { anchor: deployment.anchor.clone(), log, witnesses: Vec::new() });
    let mut records = vec![deployment.log_enrolment.clone(), deployment.issuer_enrolment.clone()];
    records.extend(new.admin.enrolments.iter().cloned());
    ledgers.deployment().await.map_err(|e| e.to_string())?.append(records).await.map_err(|e| e.to_string())?;
    Ok(())
}

/// `HOST:PORT`, as people's configurations have it.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn client_config(host: &str, port: u16) -> String {
    let address = address(host, port);
    let port_note =
        if port == 0 { "# The coordinator takes a free port at each start: put the one that it prints here in place of 0.\n" } else { "" };
    format!(
        "# Where the coordinator listens: HOST:PORT. The host must be one of the names in the server's certificate.\n# Several coordinators are tried in turn: coordinator = [\"HOST:PORT\", \"HOST:PORT\"]\n{port_note}coordinator = \"{address}\"\n"
    )
}

/// Order: create, write, fsync, fsync of the folder. Never replaces anything.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("cannot write {}: {e}", shown(path));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(fail)
}

fn shown(path: &Path) -> String {
    escape_bounded(&path.to_string_lossy(), 200)
}

impl Made {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let (config, home, root, anchor) = (shown(&self.config), shown(&self.admin_home), shown(&self.root), shown(&self.anchor));
        format!(
            "Deployment '{name}' is made in {dir}.

  configuration     {config}
  evidence          {store}
  catalog           {catalog}
  first admin       {home}
  anchor            {anchor}
  root keys         {root}
  CA SHA-256        {ca}

Next:
  1. Start it:            exhibit-coordinator run --config {config}
  2. Use it:              export EXHIBIT_HOME={home}
  3. Enrol an agent:      exhibit token create
                          exhibit-agent enroll --coordinator HOST:{port} --ca-sha256 {ca} --token TOKEN --dir DIR
  4. Move {root} to a safe place that this machine cannot reach. The coordinator runs without it.
  5. Give the anchor to everybody who will verify evidence, by a way of its own: it never travels with evidence.
",
            name = self.name,
            dir = shown(&self.dir),
            store = self.store,
            catalog = self.catalog,
            ca = self.ca_sha256,
            port = if self.listen.port() == 0 { "PORT".to_owned() } else { self.listen.port().to_string() },
        )
    }
}
