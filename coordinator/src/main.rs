//! `exhibit-coordinator`: arguments and configuration in, a running coordinator or one command, an exit code out.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use exhibit_certs::Deployment;
use exhibit_certs::issue::ServerNames;
use exhibit_certs::tls::HotServer;
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::config::{Config, ConfigError, LogFormat};
use exhibit_coordinator::{clock, init, intake, serve, store};
use exhibit_proto::transport::server;
use tokio::net::TcpListener;

const AFTER_HELP: &str = "\
A new deployment:
  exhibit-coordinator init --dir /srv/exhibit --name example --host coordinator.example --listen 0.0.0.0:7420
  exhibit-coordinator run --dir /srv/exhibit

Exit codes: 0 done · 1 failed · 64 wrong usage or configuration · 69 the address cannot be listened on";

/// Receives, verifies, seals and stores evidence.
#[derive(Debug, Parser)]
#[command(name = "exhibit-coordinator", version, about, after_help = AFTER_HELP, max_term_width = 120)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a deployment: keys, certificates, store, catalog, the first admin. Refuses a folder that is in use.
    Init(init::Options),
    /// Serve until SIGTERM or SIGINT.
    Run {
        /// The deployment's folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Write the address that is listened on to this file once it is.
        #[arg(long, value_name = "FILE")]
        ready_file: Option<PathBuf>,
    },
    /// Read the configuration and say whether it can be used.
    CheckConfig {
        /// The deployment's folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

/// EX_UNAVAILABLE: the address cannot be listened on.
const UNAVAILABLE: u8 = 69;

/// How a command failed: exit code and sentence.
struct Failure(u8, String);

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Self(ConfigError::EXIT, e.to_string())
    }
}

fn failed(e: impl std::fmt::Display) -> Failure {
    Failure(1, e.to_string())
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(ConfigError::EXIT) } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return report(&failed(e)),
    };
    let done = runtime.block_on(async {
        match args.command {
            Command::Init(options) => make(&options).await,
            Command::Run { dir, ready_file } => run(&dir, ready_file.as_deref()).await,
            Command::CheckConfig { dir } => Config::load(&dir.join(init::CONFIG)).map(|_| println!("usable")).map_err(Failure::from),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
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

async fn run(dir: &Path, ready_file: Option<&Path>) -> Result<(), Failure> {
    let config = Config::load(&dir.join(init::CONFIG))?;
    begin_log(&config);
    let mut deployment = Deployment::load(&config.resolve(&config.paths.deployment)).map_err(failed)?;
    let names: Vec<&str> = config.names.iter().map(String::as_str).collect();
    let names = ServerNames::parse(&names).map_err(|e| Failure(ConfigError::EXIT, format!("config.toml: names: {e}")))?;
    let folder = config.resolve(&config.paths.deployment);
    if deployment.renew_server(&folder, &names, clock::now()).map_err(failed)? {
        tracing::info!("the server certificate was renewed");
    }
    // The port first: a second coordinator or a foreign program is named before anything else is opened.
    let listener = TcpListener::bind(config.listen).await.map_err(|e| {
        let remedy = "stop what uses it (ss -ltnp shows it), or change 'listen' in config.toml";
        Failure(UNAVAILABLE, format!("cannot listen on {}: {e}; {remedy}", config.listen))
    })?;
    let store = init::open_store(&config, false).map_err(failed)?;
    store::self_test(&*store).await.map_err(failed)?;
    let catalog = SqliteCatalog::open(&config.resolve(&config.paths.catalog)).await.map_err(failed)?;
    let running = serve::start(serve::Setup {
        deployment,
        store,
        catalog: Arc::new(catalog),
        listener,
        intake: intake::Limits {
            uploads_max: config.limits.uploads_max as usize,
            bytes_in_flight_max: config.limits.upload_bytes_max,
            free_bytes_min: config.limits.free_bytes_min,
            ..intake::Limits::default()
        },
        connections: server::Limits { connections_max: config.limits.connections_max as usize, ..server::Limits::default() },
    })
    .await
    .map_err(failed)?;
    tracing::info!(address = %running.addr, "ready");
    if let Some(file) = ready_file {
        write_ready(file, &running.addr.to_string()).map_err(|e| failed(format!("cannot write {}: {e}", file.display())))?;
    }
    let renewing = tokio::spawn(renew_daily(folder, names, Arc::clone(&running.tls)));
    wait_for_end().await.map_err(failed)?;
    tracing::info!("stopping: open uploads are cut, what was acknowledged is durable");
    renewing.abort();
    running.stop().await;
    Ok(())
}

/// Renames into place, so that who waits for the file never reads half of it.
fn write_ready(file: &Path, address: &str) -> std::io::Result<()> {
    let staged = file.with_extension("new");
    let mut out = std::fs::File::create(&staged)?;
    writeln!(out, "{address}")?;
    std::fs::rename(&staged, file)
}

async fn renew_daily(folder: PathBuf, names: ServerNames, tls: Arc<HotServer>) {
    let mut day = tokio::time::interval(std::time::Duration::from_secs(86_400));
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
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.level).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match config.log.format {
        LogFormat::Json => builder.json().init(),
        _ => builder.init(),
    }
}
