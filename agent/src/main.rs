//! `exhibit-agent`: wiring only.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use exhibit_agent::args::{CheckPolicyArgs, Cli, CollectArgs, Command, EnrollArgs, RunArgs};
use exhibit_agent::budget::Control;
use exhibit_agent::capture::Stop;
use exhibit_agent::config::Config;
use exhibit_agent::enroll::{EnrollError, check_token, enroll};
use exhibit_agent::exit::Exit;
use exhibit_agent::order::{Policy, policy};
use exhibit_agent::pipeline::{Memory, Progress};
use exhibit_agent::session::{Agent, Parts};
use exhibit_agent::state::State;
use exhibit_agent::{clock, custody, enroll as enrolment, offline};
use exhibit_certs::credential::Credential;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Open files at most. The child that thaws what the agent froze closes as many (`exhibit_agent_sys`).
const FILES_MAX: u64 = 65_536;

/// A command that did not do what was asked.
struct Failure(Exit, String);

impl Failure {
    fn usage(why: impl ToString) -> Self {
        Self(Exit::Usage, why.to_string())
    }
}

fn main() -> ExitCode {
    // First of all: later there are threads.
    let _ = exhibit_agent_sys::allocator::bound_allocator();
    raise_files();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let help = !e.use_stderr();
            let _ = e.print();
            return if help { Exit::Ok.into() } else { Exit::Usage.into() };
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("EXHIBIT_LOG").unwrap_or_else(|_| "info".into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).with_target(false).init();
    let result = match cli.command {
        _ if cli.explain_memory => {
            print!("{}", Memory::for_processors(processors()).explain());
            Ok(Exit::Ok)
        }
        Some(Command::Enroll(args)) => on_runtime(do_enroll(&args)),
        Some(Command::Run(args)) => on_runtime(run(args)),
        Some(Command::Collect(args)) => on_runtime(collect(&args)),
        Some(Command::CheckPolicy(args)) => check_policy(&args),
        None => Err(Failure::usage("nothing to do: see exhibit-agent --help")),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(Failure(exit, why)) => {
            eprintln!("exhibit-agent: {why}");
            exit.into()
        }
    }
}

/// Raises the limit of open files: who has a thousand of something open on this host must not use up what the agent needs to look at all
/// others. Not beyond what it can need: some programs, which inherit it, close every number below it one by one.
fn raise_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(FILES_MAX).min(FILES_MAX);
    if limit.current.is_some_and(|current| current < wanted) {
        // Where it stays low, captures say what they could not open.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

/// Runs a command to its end. Nothing that still waits (for a name server, for a read that never returns) keeps the process.
fn on_runtime(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = runtime()?;
    let done = runtime.block_on(command);
    runtime.shutdown_background();
    done
}

/// One thread for everything that waits, and one, when needed, for name resolution.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .thread_stack_size(512 << 10)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .map_err(|e| Failure(Exit::Failed, format!("cannot start: {e}")))
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn check_policy(args: &CheckPolicyArgs) -> Result<Exit, Failure> {
    if args.print {
        print!("{}", policy::DEFAULT_TEXT);
        return Ok(Exit::Ok);
    }
    let file = args.file.clone().unwrap_or_default();
    std::fs::metadata(&file).map_err(|e| Failure::usage(format!("policy {}: {e}", file.display())))?;
    Policy::load(&file).map_err(Failure::usage)?;
    println!("{}: good", file.display());
    Ok(Exit::Ok)
}

async fn do_enroll(args: &EnrollArgs) -> Result<Exit, Failure> {
    let token = token(&args.token)?;
    let token = check_token(&token).map_err(Failure::usage)?;
    let request = enrolment::Request { coordinator: &args.coordinator, ca_sha256: args.ca_sha256, token, dir: &args.dir };
    match enroll(&request).await {
        Ok(name) => {
            println!("enrolled as {name}; start it with: exhibit-agent run --dir {}", args.dir.display());
            Ok(Exit::Ok)
        }
        Err(e) => {
            use exhibit_proto::transport::client::ConnectErrorKind;
            let exit = match &e {
                EnrollError::Exists(_) | EnrollError::NotEmpty(..) => Exit::Usage,
                EnrollError::Refused(_) | EnrollError::Answer(_) => Exit::Refused,
                EnrollError::Connect(c) if c.kind() != ConnectErrorKind::Unreachable => Exit::Refused,
                _ => Exit::Failed,
            };
            Err(Failure(exit, e.to_string()))
        }
    }
}

/// The token itself, or where it is.
fn token(given: &str) -> Result<String, Failure> {
    let read = |mut from: Box<dyn std::io::Read>, what: &str| {
        let mut text = String::new();
        let read = from.as_mut().take(4096).read_to_string(&mut text);
        read.map(|_| text).map_err(|e| Failure::usage(format!("the token cannot be read from {what}: {e}")))
    };
    match given.strip_prefix('@') {
        Some(path) => {
            let file = std::fs::File::open(path).map_err(|e| Failure::usage(format!("the token cannot be read from {path}: {e}")))?;
            read(Box::new(file), path)
        }
        None if given == "-" => read(Box::new(std::io::stdin()), "standard input"),
        None => Ok(given.to_owned()),
    }
}

/// Hears SIGTERM and SIGINT from now on: `hear` is applied to the value at each. Two in such quick succession that the first was not received
/// yet are one for the kernel already.
fn stop_signals<T: Send + Sync + 'static>(none: T, hear: impl Fn(&mut T) + Send + 'static) -> Result<watch::Receiver<T>, Failure> {
    let cannot = |e: std::io::Error| Failure(Exit::Failed, format!("signals cannot be received: {e}"));
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(cannot)?, signal(SignalKind::interrupt()).map_err(cannot)?);
    let (stop, stopped) = watch::channel(none);
    tokio::spawn(async move {
        loop {
            let received = tokio::select! {
                received = terminate.recv() => received,
                received = interrupt.recv() => received,
            };
            if received.is_none() || stop.is_closed() {
                return;
            }
            stop.send_modify(&hear);
        }
    });
    Ok(stopped)
}

/// Obeys signals, of which it is given the count: at the first a collection ends, at the second nothing is waited for any more. They may
/// have come before anybody looked.
async fn obey(mut signals: watch::Receiver<u32>, control: Arc<Control>) {
    let told = signals.wait_for(|count| *count > 0).await.is_ok();
    if !told {
        return;
    }
    control.stop(Stop::Cancelled("the operator stopped it".to_owned()));
    let told_again = signals.wait_for(|count| *count > 1).await.is_ok();
    if told_again {
        control.at_once();
    }
}

async fn run(args: RunArgs) -> Result<Exit, Failure> {
    if !Credential::exists(&args.dir) {
        return Err(Failure::usage(format!(
            "{} holds no finished identity: run 'exhibit-agent enroll --dir {}' first",
            args.dir.display(),
            args.dir.display()
        )));
    }
    let config = Config::load(&args.dir).map_err(Failure::usage)?;
    let state = State::open(&args.dir).map_err(Failure::usage)?;
    let credential = Credential::load(&args.dir).map_err(Failure::usage)?;
    let policy = args.policy.unwrap_or(config.policy);
    // Said at the start, not only at the first order.
    Policy::load(&policy).map_err(Failure::usage)?;
    let tool = custody::tool().map_err(|e| Failure(Exit::Failed, format!("/proc/self/exe: {e}")))?;
    let coordinators = if args.coordinators.is_empty() { config.coordinators } else { args.coordinators };
    let parts = Parts { state, credential, coordinators, policy, memory: config.memory, tool };
    let agent = Agent::new(parts).map_err(Failure::usage)?;
    tracing::info!(agent = %agent.id(), version = env!("CARGO_PKG_VERSION"), "started");
    agent.run(stop_signals(false, |told| *told = true)?).await;
    Ok(Exit::Ok)
}

async fn collect(args: &CollectArgs) -> Result<Exit, Failure> {
    let (captures, limits) = args.specs().map_err(Failure::usage)?;
    let policy = Policy::load(&policy_path(args)).map_err(Failure::usage)?;
    let credential = args.dir.as_deref().map(Credential::load).transpose().map_err(Failure::usage)?;
    let identity = credential.as_ref().and_then(|c| c.name().agent().cloned().map(|id| (id, &c.evidence)));
    let deadline = clock::monotonic().checked_add(Duration::from_secs(policy.budget(&limits).deadline_s));
    let control = Arc::new(Control::new(deadline));
    let signals = stop_signals(0_u32, |count| *count = count.saturating_add(1))?;
    tokio::spawn(obey(signals, Arc::clone(&control)));
    let request = offline::Request {
        captures,
        profile: args.profile.clone(),
        limits,
        reason: args.reason.clone(),
        out: &args.out,
        policy: &policy,
        state: args.dir.as_deref(),
        identity,
        memory: Memory::for_processors(processors()),
    };
    let summary = offline::collect(request, control, Arc::new(Progress::default())).await.map_err(|e| {
        let exit =
            if matches!(e, offline::OfflineError::Request(_) | offline::OfflineError::Folder(..)) { Exit::Usage } else { Exit::Failed };
        Failure(exit, e.to_string())
    })?;
    let json = serde_json::to_string(&summary).map_err(|e| Failure(Exit::Failed, e.to_string()))?;
    println!("{json}");
    Ok(if summary.complete { Exit::Ok } else { Exit::Partial })
}

fn policy_path(args: &CollectArgs) -> PathBuf {
    match (&args.policy, &args.dir) {
        (Some(policy), _) => policy.clone(),
        (None, Some(dir)) => dir.join(policy::FILE),
        (None, None) => Path::new("/etc/exhibit").join(policy::FILE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_as_far_as_it_is_of_use() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).expect("lowered");
        raise_files();
        let raised = getrlimit(Resource::Nofile);
        assert_eq!((raised.current, raised.maximum), (Some(maximum.unwrap_or(FILES_MAX).min(FILES_MAX)), maximum));
        raise_files();
        assert_eq!(getrlimit(Resource::Nofile).current, raised.current);
    }

    #[test]
    fn two_signals_that_came_before_anybody_looked_are_two() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            for (count, may_close) in [(1_u32, true), (2, false), (3, false)] {
                let (sender, signals) = watch::channel(count);
                drop(sender);
                let control = Arc::new(Control::new(None));
                let obeying = obey(signals, Arc::clone(&control));
                tokio::time::timeout(Duration::from_secs(5), obeying).await.expect("heard");
                assert_eq!((control.check().is_err(), control.may_close()), (true, may_close));
            }
        });
    }
}
