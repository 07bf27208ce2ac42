//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use exhibit_evidence::Digest;
use exhibit_evidence::record::{CaptureSpec, Limits};
use exhibit_evidence::{profile::Profile, written};
use exhibit_proto::transport::client::Address;

use crate::capture::units;

/// Takes evidence on this host when a responder orders it.
///
/// Exit codes: 0 done; 1 failed, trying again may help; 2 the collection ended early, what was taken is kept; 3 refused,
/// trying again does not help; 64 unusable options, configuration, policy or state folder.
#[derive(Debug, Parser)]
#[command(name = "exhibit-agent", version, arg_required_else_help = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// Print how much memory a collection takes, and end.
    #[arg(long)]
    pub explain_memory: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make keys and get an identity with a one-time token.
    Enroll(EnrollArgs),
    /// Connect and wait for orders.
    Run(RunArgs),
    /// Collect into a local folder, without a coordinator.
    Collect(CollectArgs),
    /// Check the host's policy file, or print one with every key documented.
    CheckPolicy(CheckPolicyArgs),
}

/// Options of `enroll`.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    /// The coordinator.
    #[arg(long, value_name = "HOST:PORT")]
    pub coordinator: Address,
    /// SHA-256 of the deployment's TLS root certificate, as `exhibit token create` shows it.
    #[arg(long, value_name = "HEX")]
    pub ca_sha256: Digest,
    /// The one-time token. `-` reads it from standard input, `@FILE` from a file. On a command line it is visible in the
    /// process list while the command runs.
    #[arg(long, env = "EXHIBIT_TOKEN", hide_env_values = true)]
    pub token: String,
    /// The state folder to make (mode 0700).
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The state folder that `enroll` made.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Where the coordinator is, instead of `coordinators` in agent.toml (repeatable).
    #[arg(long = "coordinator", value_name = "HOST:PORT")]
    pub coordinators: Vec<Address>,
    /// The host's policy file, instead of `policy` in agent.toml.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

/// Options of `collect`.
#[derive(Debug, Args)]
pub struct CollectArgs {
    /// Says that this collection goes into a folder on this host.
    #[arg(long, required = true)]
    pub offline: bool,
    /// A named list of captures, e.g. `triage`.
    #[arg(long, required_unless_present = "captures")]
    pub profile: Option<String>,
    /// A capture with parameters (repeatable), as in `exhibit collect`.
    #[arg(long = "capture", value_name = "NAME[:KEY=VALUE,...]", value_parser = written::capture)]
    pub captures: Vec<CaptureSpec>,
    /// The new folder for the stream. Put it on removable or remote storage: writing to the host's disks overwrites
    /// deleted evidence.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Why this is collected.
    #[arg(long, default_value = "")]
    pub reason: String,
    /// The state folder of an enrolled agent, whose key then signs the acquisition record and whose policy applies.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The host's policy file.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Percent of one processor, at least 1.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub cpu_percent: Option<u32>,
    /// Bytes per second to read, e.g. 50M (M is 1,048,576).
    #[arg(long, value_parser = parse_bytes)]
    pub read_rate: Option<u64>,
    /// Raw bytes to take at most, e.g. 10G (G is 1,073,741,824).
    #[arg(long, value_parser = parse_bytes)]
    pub max_bytes: Option<u64>,
    /// End after this time, e.g. 10m.
    #[arg(long, value_parser = parse_seconds)]
    pub deadline: Option<u64>,
}

/// Options of `check-policy`.
#[derive(Debug, Args)]
pub struct CheckPolicyArgs {
    /// Print a policy file with every key documented.
    #[arg(long)]
    pub print: bool,
    /// The file to check.
    #[arg(required_unless_present = "print")]
    pub file: Option<PathBuf>,
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    units::bytes(text).ok_or_else(|| format!("expected {}", written::BYTES_EXPECTED))
}

fn parse_seconds(text: &str) -> Result<u64, String> {
    units::seconds(text).ok_or_else(|| "expected a time span like 90, 15m or 6h".to_owned())
}

impl CollectArgs {
    /// The captures: a profile's, and those given one by one.
    ///
    /// # Errors
    /// A sentence when there is no such profile, or a capture is there twice.
    pub fn specs(&self) -> Result<(Vec<CaptureSpec>, Limits), String> {
        let profile = match &self.profile {
            Some(name) => Some(
                Profile::find(name).ok_or_else(|| format!("there is no profile '{}'", exhibit_evidence::text::escape_bounded(name, 40)))?,
            ),
            None => None,
        };
        let specs = written::captures(profile.as_ref(), &self.captures)?;
        let mut limits = profile.map(|p| p.limits).unwrap_or_default();
        limits.cpu_percent = self.cpu_percent.or(limits.cpu_percent);
        limits.read_bytes_per_s = self.read_rate.or(limits.read_bytes_per_s);
        limits.raw_bytes_max = self.max_bytes.or(limits.raw_bytes_max);
        limits.deadline_s = self.deadline.or(limits.deadline_s);
        Ok((specs, limits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["exhibit-agent", "collect", "--profile", "triage", "--out", "x"]).is_err(), "--offline is said");
    }

    #[test]
    fn no_processor_time_at_all_is_no_limit() {
        let with = |percent| {
            Cli::try_parse_from(["exhibit-agent", "collect", "--offline", "--profile", "triage", "--out", "x", "--cpu-percent", percent])
        };
        assert!(with("0").is_err() && with("1").is_ok());
    }

    #[test]
    fn a_capture_is_given_once_and_sizes_are_those_of_exhibit() {
        let parse = |extra: &[&str]| {
            let args = [&["exhibit-agent", "collect", "--offline", "--out", "x"], extra].concat();
            match Cli::try_parse_from(args).map(|cli| cli.command) {
                Ok(Some(Command::Collect(args))) => args,
                other => panic!("{other:?}"),
            }
        };
        let (specs, limits) = parse(&["--capture", "files:paths=/a", "--max-bytes", "10M"]).specs().expect("good");
        assert_eq!((specs.len(), limits.raw_bytes_max), (1, Some(10 << 20)));
        assert!(parse(&["--capture", "files:paths=/a", "--capture", "files:paths=/b"]).specs().is_err());
        assert!(parse(&["--profile", "triage", "--capture", "files:paths=/b"]).specs().is_err_and(|e| e.contains("triage")));
    }
}
