//! `exhibit-coordinator`: arguments and configuration in, a running coordinator or one command, an exit code out.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use exhibit_certs::Deployment;
use exhibit_certs::deployment::CreateError;
use exhibit_certs::files::FileError;
use exhibit_certs::issue::ServerNames;
use exhibit_certs::tls::HotServer;
use exhibit_coordinator::catalog::SharedCatalog;
use exhibit_coordinator::config::{COPY_AWAY, COPY_SECRET_AWAY, Config, ConfigError, LogFormat, Rate, StoreKind};
use exhibit_coordinator::ledger::Keys;
use exhibit_coordinator::starting::{self, Awaited};
use exhibit_coordinator::store::{Beside, Claim, Store, StoreError};
use exhibit_coordinator::{attest, clock, copy, init, intake, recover, reindex, reverify, serve, store, upkeep};
use exhibit_proto::transport::server;
use tokio::net::TcpListener;

/// It keeps freed memory for some seconds instead of giving it back to the kernel at once: whatever comes in passes through
/// four fresh buffers, and to touch a page for the first time costs more than to copy it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const AFTER_HELP: &str = "\
A new deployment:
  exhibit-coordinator init --dir /srv/exhibit --name example --host coordinator.example --listen 0.0.0.0:7420
  exhibit-coordinator run --dir /srv/exhibit

The last admin's key is lost or stolen (with the root key, while no coordinator runs):
  exhibit-coordinator recover-admin REQUEST --dir /srv/exhibit --root ROOT --out ANSWER --revoke NAME --reason '...'

Is evidence safe where it lies?
  exhibit-coordinator store check --dir /srv/exhibit             what the store refuses, tried on a probe
  exhibit-coordinator store attest --dir /srv/exhibit            every version and lock (S3)
  exhibit-coordinator store verify --dir /srv/exhibit --sample 1%    digests from the bytes

Exit codes:
  0   done
  1   failed: the message says what and what helps
  64  wrong usage or configuration; nothing was opened
  69  the address is in use or cannot be listened on
  73  a file could not be written, or is there already
  77  permission: a file may not be read, or may be read or written by others";

/// The program's exit codes, as sysexits.h names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Failed = 1,
    Usage = 64,
    Unavailable = 69,
    CannotCreate = 73,
    Permission = 77,
}

/// Receives, verifies, seals and stores evidence.
#[derive(Debug, Parser)]
#[command(name = "exhibit-coordinator", version, about, after_help = AFTER_HELP, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a deployment: keys, certificates, store, catalog, the first admin. Refuses a folder that is in use.
    Init(Box<init::Options>),
    /// Serve until SIGTERM or SIGINT.
    Run {
        #[command(flatten)]
        place: Place,
        /// Write the address that is listened on to this file once it is
        #[arg(long, value_name = "FILE")]
        ready_file: Option<PathBuf>,
    },
    /// Make somebody an admin with the root key, and revoke keys: when the last admin's key is lost or stolen. No coordinator of
    /// the deployment may run.
    RecoverAdmin {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        options: recover::Options,
    },
    /// Make the catalog anew from the store alone. The coordinator must not run. Exit code 1 when something in the store does not
    /// fit together: the catalog is made, and lacks what the report names.
    Reindex {
        #[command(flatten)]
        place: Place,
        /// Replace a catalog that is in PostgreSQL already; it is kept as schema exhibit_old. A file is replaced anyway, and
        /// kept as .old
        #[arg(long)]
        replace: bool,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Look after the catalog: bring its schema up to date, move it between SQLite and PostgreSQL.
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Prove what the store refuses, read it again, attest its versions and locks
    #[command(subcommand)]
    Store(StoreCommand),
    /// Read the configuration, look at the places that it names, and say whether it can be used.
    CheckConfig {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
enum CatalogCommand {
    /// Bring the schema up to date, as every start does; make an empty catalog where there is none.
    Migrate(OnCatalog),
    /// Write all rows as lines of JSON, to be imported elsewhere. A catalog in a file must not be in use.
    Export {
        /// The file, which must not exist, or '-' for standard output
        file: PathBuf,
        #[command(flatten)]
        on: OnCatalog,
    },
    /// Fill an empty catalog of either kind from an export: all of it or nothing. Makes the catalog where there is none.
    Import {
        /// The file that an export wrote
        file: PathBuf,
        #[command(flatten)]
        on: OnCatalog,
    },
}

#[derive(Debug, Args)]
struct OnCatalog {
    #[command(flatten)]
    place: Place,
    /// Print one JSON object instead of text (on standard error if the export is on standard output)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Try on a probe what an enemy with the coordinator's credentials would try, and say what the store does not refuse.
    /// With a [copy.store], the same of the second store, whether the copy holds, and how far it is behind. Exit code 1 when
    /// anything is missing.
    Check {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Look at every version in an S3 store, and in its copy: what lies on top of another, is marked as deleted or is not locked.
    /// Changes nothing; the coordinator does the same every store.attest_hours and repairs. Exit code 1 when something is wrong.
    Attest {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Read the store and verify it from its bytes. Goes on where an interrupted run ended; the result of each case is kept in
    /// store-verify.jsonl beside the configuration. A case that the catalog or an earlier run knows and the store has not is
    /// missed. Exit code 1 when something does not hold.
    Verify {
        #[command(flatten)]
        place: Place,
        /// Read all evidence, decode and hash every item; of encrypted cases, which only their recipients decode, hash every segment
        /// as it is stored
        #[arg(long, conflicts_with = "sample")]
        all: bool,
        /// Read all logs and manifests, and this share of the segments, another one each time
        #[arg(long, value_name = "SHARE", default_value = "1%")]
        sample: reverify::Depth,
        /// Read at most so much in a second: like 20MiB/s, or a number of bytes
        #[arg(long, value_name = "RATE")]
        rate: Option<Rate>,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
}

/// Where the deployment is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The deployment's folder, which holds config.toml
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Place {
    /// Reads the configuration and looks at the places that it names; `with_catalog` unless that is about to be made.
    fn load(&self, with_catalog: bool) -> Result<Config, Failure> {
        let file = match (&self.config, &self.dir) {
            (Some(file), _) => file.clone(),
            (None, Some(dir)) => dir.join(init::CONFIG),
            (None, None) => return Err(Failure(Exit::Usage as u8, "name the deployment with --config or --dir".to_owned())),
        };
        let config = Config::load(&file)?;
        config.check_places(&file, with_catalog)?;
        Ok(config)
    }
}

/// How a command failed: exit code and sentence.
struct Failure(u8, String);

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Self(e.exit_code(), e.to_string())
    }
}

impl From<FileError> for Failure {
    fn from(e: FileError) -> Self {
        let exit = match &e {
            FileError::TooOpen { .. } => Exit::Permission,
            FileError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::Failed,
        };
        Self(exit as u8, e.to_string())
    }
}

impl From<CreateError> for Failure {
    fn from(e: CreateError) -> Self {
        match e {
            CreateError::File(e) => e.into(),
            other => failed(other),
        }
    }
}

fn failed(e: impl std::fmt::Display) -> Failure {
    Failure(Exit::Failed as u8, e.to_string())
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return report(&failed(format!("the runtime cannot start: {e}"))),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Init(options) => make(&options).await,
            Command::Run { place, ready_file } => run(&place.load(true)?, ready_file.as_deref()).await,
            Command::RecoverAdmin { place, options } => recover_admin(&place.load(true)?, &options).await,
            Command::Reindex { place, replace, json } => make_catalog(&place.load(false)?, replace, json).await,
            Command::Catalog(command) => keep_up(command).await,
            Command::Store(command) => look_at_store(command).await,
            Command::CheckConfig { place } => place.load(true).map(|config| say_usable(&config)),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn say_usable(config: &Config) {
    println!("the configuration can be used");
    if config.store.kind != StoreKind::Local {
        println!("the store was not asked: 'exhibit-coordinator store check' asks it");
    }
    if let Some(copy) = config.copy_away() {
        let copy = exhibit_evidence::text::escape_bounded(&copy.to_string_lossy(), 200);
        eprintln!("copy.store.path: {copy} is not there, so nothing would be copied: {COPY_AWAY}");
    }
    if let Some(file) = config.copy_secret_away() {
        let file = exhibit_evidence::text::escape_bounded(&file.to_string_lossy(), 200);
        eprintln!("copy.store: {file} is not there, so nothing would be copied: {COPY_SECRET_AWAY}");
    }
}

fn report(failure: &Failure) -> ExitCode {
    eprintln!("exhibit-coordinator: {}", failure.1);
    ExitCode::from(failure.0)
}

async fn make(options: &init::Options) -> Result<(), Failure> {
    let made = init::run(options, clock::now()).await.map_err(|e| Failure(e.exit_code(), e.to_string()))?;
    let text = if options.json { serde_json::to_string(&made).map_err(failed)? } else { made.text() };
    println!("{text}");
    Ok(())
}

async fn recover_admin(config: &Config, options: &recover::Options) -> Result<(), Failure> {
    begin_log(config);
    let done = recover::run(config, options, clock::now()).await.map_err(|e| Failure(e.exit_code(), e.to_string()))?;
    let text = if options.json { serde_json::to_string(&done).map_err(failed)? } else { done.text() };
    println!("{text}");
    Ok(())
}

async fn make_catalog(config: &Config, replace: bool, json: bool) -> Result<(), Failure> {
    begin_log(config);
    let report = reindex::run(config, replace, clock::now()).await.map_err(failed)?;
    let text = if json { serde_json::to_string(&report).map_err(failed)? } else { report.text() };
    println!("{text}");
    if report.problem_count > 0 {
        let (count, name) = (report.problem_count, if report.problem_count == 1 { "problem names" } else { "problems name" });
        return Err(failed(format!(
            "the catalog was made again without what {count} {name}; the report says which: run exhibit-verify on those cases before a coordinator runs on it"
        )));
    }
    Ok(())
}

async fn keep_up(command: CatalogCommand) -> Result<(), Failure> {
    let (command, OnCatalog { place, json }) = match command {
        CatalogCommand::Migrate(on) => (upkeep::Command::Migrate, on),
        CatalogCommand::Export { file, on } => (upkeep::Command::Export(file), on),
        CatalogCommand::Import { file, on } => (upkeep::Command::Import(file), on),
    };
    let config = place.load(false)?;
    begin_log(&config);
    let done = upkeep::run(&config.catalog()?, &command).await.map_err(|e| Failure(e.exit_code(), e.to_string()))?;
    let text = if json { serde_json::to_string(&done).map_err(failed)? } else { done.text() };
    // Standard output may be the export.
    if command == upkeep::Command::Export("-".into()) {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
    Ok(())
}

/// Answers with the report on standard output; what does not hold is exit code 1 with a sentence.
async fn look_at_store(command: StoreCommand) -> Result<(), Failure> {
    let (StoreCommand::Check { place, json } | StoreCommand::Attest { place, json } | StoreCommand::Verify { place, json, .. }) = &command;
    let config = place.load(false)?;
    begin_log(&config);
    let opened = init::open_store(&config, false).map_err(failed)?;
    let shown = |text: String, value: Result<String, serde_json::Error>| -> Result<(), Failure> {
        println!("{}", if *json { value.map_err(failed)? } else { text });
        Ok(())
    };
    let sound = match &command {
        StoreCommand::Check { .. } => {
            let mut report = store::check::run(&*opened, config.store.lock, clock::now()).await;
            if let Some(second) = init::open_copy(&config).map_err(failed)? {
                let lock = config.copy.store.as_ref().and_then(|store| store.lock);
                copy::check(&mut report, Arc::clone(&opened), second, lock).await;
            }
            shown(report.text(), serde_json::to_string(&report))?;
            report.holds()
        }
        StoreCommand::Attest { .. } => {
            // A copy that cannot be asked must not pass for one without versions.
            let _ = config.remote_copy()?;
            let second = init::open_copy(&config).map_err(failed)?;
            let report = attest_both(opened, second, keys_of(&config)).await?;
            shown(report.text(), serde_json::to_string(&report))?;
            report.is_whole()
        }
        StoreCommand::Verify { all, sample, rate, .. } => {
            let depth = if *all { reverify::Depth::All } else { *sample };
            let report = reverify::run(&config, opened, depth, rate.map(|rate| rate.0), clock::now).await.map_err(failed)?;
            shown(report.text(), serde_json::to_string(&report))?;
            report.sound
        }
    };
    if sound { Ok(()) } else { Err(failed("the store is not as it should be; the report says what and what helps")) }
}

/// What attestation saw in the store, and in its copy where that has versions.
#[derive(serde::Serialize)]
struct Attested {
    #[serde(flatten)]
    store: Option<store::attest::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    copy: Option<store::attest::Report>,
}

impl Attested {
    fn text(&self) -> String {
        let both = [("Store", self.store.as_ref()), ("Copy", self.copy.as_ref())];
        let lines = both.into_iter().filter_map(|(name, report)| report.map(|r| format!("{name}: {}", r.text().trim_end())));
        lines.collect::<Vec<String>>().join("\n")
    }

    fn is_whole(&self) -> bool {
        [&self.store, &self.copy].into_iter().flatten().all(|report| report.troubles.is_empty())
    }
}

/// The deployment's keys, by which the records and heads of its logs are told from what somebody put beside them. Without them nothing is
/// called genuine there.
fn keys_of(config: &Config) -> Option<Arc<Keys>> {
    match Deployment::load(&config.resolve(&config.paths.deployment)) {
        Ok(deployment) => Some(Arc::new(Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() })),
        Err(error) => {
            tracing::warn!(%error, "the deployment's keys cannot be read: which version of a record or head is the genuine one cannot be told");
            None
        }
    }
}

async fn attest_both(
    first: Arc<dyn store::Store>,
    second: Option<Arc<dyn store::Store>>,
    keys: Option<Arc<Keys>>,
) -> Result<Attested, Failure> {
    if first.attestable().is_none() && second.as_ref().is_none_or(|second| second.attestable().is_none()) {
        return Err(failed("only an S3 store, or one with store.lock, has versions to attest; see 'store check'"));
    }
    let (mut attested, now) = (Attested { store: None, copy: None }, clock::now());
    for (store, report, is_copy) in [(Some(first), &mut attested.store, false), (second, &mut attested.copy, true)] {
        let Some((store, attestable)) = store.and_then(|store| store.attestable().map(|found| (store, found))) else { continue };
        let task = store::attest::Task { begin: String::new(), repair: false, pause: std::time::Duration::ZERO, now };
        let mut pass = store::attest::Pass::new(attestable, task);
        if let Some(keys) = &keys {
            // A log whose end is hidden would pass for a shorter one.
            store::attest::recall(&*store, "").await.map_err(failed)?;
            let keys = Arc::clone(keys);
            pass = pass.judged_by(if is_copy { attest::Offline::of_copy(store, keys) } else { attest::Offline::new(store, keys) });
        }
        *report = Some(Box::pin(pass.run()).await.map_err(failed)?);
    }
    Ok(attested)
}

async fn run(config: &Config, ready_file: Option<&Path>) -> Result<(), Failure> {
    begin_log(config);
    let mut ending = std::pin::pin!(wait_for_end());
    let begun = tokio::select! {
        // First, so that signals are heard before anything is waited for.
        biased;
        ended = &mut ending => {
            ended.map_err(failed)?;
            tracing::info!("stopped before anybody was served");
            return Ok(());
        }
        begun = Box::pin(begin(config)) => begun?,
    };
    let Begun { running, place, folder, names, claim } = begun;
    tracing::info!(address = %running.addr, store = %place, "ready");
    if let Some(file) = ready_file {
        let cannot = |e| Failure(Exit::CannotCreate as u8, format!("cannot write {}: {e}", file.display()));
        write_ready(file, &running.addr.to_string()).map_err(cannot)?;
    }
    println!("exhibit-coordinator listens on {}", running.addr);
    let renewing = tokio::spawn(renew_daily(folder, names, Arc::clone(&running.tls)));
    ending.await.map_err(failed)?;
    tracing::info!("stopping: open uploads are cut, what was acknowledged is durable");
    renewing.abort();
    running.stop().await;
    drop(claim);
    Ok(())
}

/// A coordinator that serves, and what its process needs besides.
struct Begun {
    running: serve::Running,
    /// The store, for the log.
    place: String,
    /// The deployment's folder.
    folder: PathBuf,
    /// The names in the server's certificate.
    names: ServerNames,
    /// Nobody with a catalog in a file serves from this folder beside this one, and where this one's is in a file nobody at all; kept until
    /// everything has ended. Two catalogs in PostgreSQL it does not tell apart.
    claim: Option<Claim>,
}

/// Opens everything and starts to serve; a store that is disturbed is waited for.
async fn begin(config: &Config) -> Result<Begun, Failure> {
    let folder = config.resolve(&config.paths.deployment);
    let mut deployment = Deployment::load(&folder)?;
    let authorities = config.authorities()?;
    let prices = config.prices.prices(config.store.lock.is_some());
    let prices = prices.map_err(|(key, why)| Failure(Exit::Usage as u8, format!("{key}: {why}")))?;
    let prices = Some(prices).filter(|_| config.store.kind != StoreKind::Local);
    let audit = config.audit.settings().map_err(|(key, why)| Failure(Exit::Usage as u8, format!("{key}: {why}")))?;
    let names = ServerNames::parse(&config.names).map_err(|e| Failure(Exit::Usage as u8, format!("names: {e}")))?;
    if deployment.renew_server(&folder, &names, clock::now())? {
        tracing::info!("the server certificate was renewed");
    }
    let connections_max = raise_files(config.limits.connections_max as usize);
    // The port first: a second coordinator or a foreign program is named before anything else is opened.
    let listener = listen("listen", config.listen).await?;
    let http = match config.http.listen {
        Some(address) => Some(listen("http.listen", address).await?),
        None => None,
    };
    let awaited = Awaited::default();
    let opening = Box::pin(open_alone(config, &awaited));
    let ((store, copy, catalog), claim) = starting::attended(&awaited, (&listener, http.as_ref()), opening).await?;
    let place = store.describe();
    let running = Box::pin(serve::start(serve::Setup {
        deployment,
        store,
        catalog,
        listener,
        intake: intake::Limits {
            uploads_max: config.limits.uploads_max as usize,
            bytes_in_flight_max: config.limits.upload_bytes_max,
            free_bytes_min: config.limits.free_bytes_min,
            grace_s: i64::from(config.limits.grace_s),
            ..intake::Limits::default()
        },
        connections: server::Limits { connections_max, ..server::Limits::default() },
        rules: serve::Rules {
            agent_hours: config.certificates.agent_hours,
            token_life_s_max: config.tokens.ttl_s_max,
            attest_hours: config.store.attest_hours,
            two_person: config.orders.two_person,
        },
        witnesses: config.witness.keys.clone(),
        authorities,
        http,
        upkeep: serve::Upkeep {
            copy: copy.map(|store| copy::Second { store, every: config.copy.every.0, rate: Some(config.copy.rate.0) }),
            verify: config.verification(),
        },
        audit,
        prices,
    }))
    .await
    .map_err(failed)?;
    Ok(Begun { running, place, folder, names, claim })
}

/// Store, its copy, and the catalog.
type Opened = (Arc<dyn Store>, Option<Arc<dyn Store>>, SharedCatalog);

/// A lock beside the catalog keeps a second coordinator away from that one only: a restored machine or a copied folder has another catalog, and
/// the same store. Of catalogs in PostgreSQL this keeps no two apart.
async fn open_alone(config: &Config, awaited: &Awaited) -> Result<(Opened, Option<Claim>), Failure> {
    let opened = Box::pin(open_all(config, awaited)).await?;
    if config.store.kind != StoreKind::Local {
        return Ok((opened, None));
    }
    let beside = if config.catalog.postgres.is_some() { Beside::InPostgres } else { Beside::Nobody };
    let claim = Claim::take(&config.resolve(&config.store.path), &config.folder, beside).await.map_err(failed)?;
    Ok((opened, Some(claim)))
}

/// Store, copy and catalog. The store keeps what it promises, or nothing is opened.
async fn open_all(config: &Config, awaited: &Awaited) -> Result<Opened, Failure> {
    let first = init::open_store(config, false).map_err(failed)?;
    let passes = StoreError::is_passing;
    let tested = starting::patient(awaited, "the store", passes, || store::self_test(&*first)).await;
    tested.map_err(|e| if passes(&e) { failed(starting::given_up(&e)) } else { failed(e) })?;
    let copy = init::open_copy(config).map_err(failed)?;
    let place = config.catalog()?;
    // Asked once: who opens it waits for a server that is starting. Whoever comes meanwhile is not to.
    let catalog = starting::patient(awaited, "the catalog", |_| false, || place.open()).await.map_err(failed)?;
    Ok((first, copy, catalog.shared()))
}

async fn listen(key: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|e| {
        let (exit, remedy) = match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                (Exit::Unavailable, format!("find out what uses it ('ss -ltnp sport = :{}') and stop it", address.port()))
            }
            std::io::ErrorKind::PermissionDenied => (Exit::Permission, "a port below 1024 needs CAP_NET_BIND_SERVICE".to_owned()),
            _ => (Exit::Unavailable, "is it an address of this machine?".to_owned()),
        };
        Failure(exit as u8, format!("cannot listen on {address}: {e}; {remedy}, or change '{key}' in the configuration"))
    })
}

/// Raises the limit of open files as far as it may be, and gives how many connections then leave enough for the store, the
/// catalog and the log: strangers who connect must not keep evidence from being written.
fn raise_files(wanted: usize) -> usize {
    const RESERVED: u64 = 256;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = usize::try_from(files.saturating_sub(RESERVED.min(files / 2)).max(1)).unwrap_or(usize::MAX);
    if room < wanted {
        tracing::warn!(
            files,
            connections = room,
            "fewer connections than limits.connections_max: raise the limit of open files (LimitNOFILE)"
        );
    }
    wanted.min(room)
}

/// Renames into place, so that who waits for the file never reads half of it.
fn write_ready(file: &Path, address: &str) -> std::io::Result<()> {
    let staged = file.with_extension("new");
    let mut out = std::fs::File::create(&staged)?;
    writeln!(out, "{address}")?;
    std::fs::rename(&staged, file)
}

async fn renew_daily(folder: PathBuf, names: ServerNames, tls: Arc<HotServer>) {
    let mut day = tokio::time::interval(std::time::Duration::from_hours(24));
    day.tick().await;
    loop {
        day.tick().await;
        let renewed = Deployment::load(&folder)
            .map_err(|e| e.to_string())
            .and_then(|mut d| d.renew_server(&folder, &names, clock::now()).map(|yes| (yes, d)).map_err(|e| e.to_string()));
        match renewed {
            Ok((true, d)) => match tls.replace(&d.server, &d.tls_root) {
                Ok(()) => tracing::info!("the server certificate was renewed"),
                Err(error) => tracing::error!(%error, "the renewed server certificate cannot be used; the old one stays"),
            },
            Ok((false, _)) => {}
            Err(error) => tracing::error!(%error, "the server certificate could not be renewed; it will be tried again tomorrow"),
        }
    }
}

async fn wait_for_end() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn begin_log(config: &Config) {
    let filter =
        tracing_subscriber::EnvFilter::try_new(config.log.directives()).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match config.log.format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.init(),
    }
}
