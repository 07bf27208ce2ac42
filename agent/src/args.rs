//! The command line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use exhibit_evidence::Digest;
use exhibit_evidence::record::{CaptureSpec, Limits};
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
    #[arg(long = "capture", value_name = "NAME[:KEY=VALUE,...]", value_parser = parse_capture)]
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
    /// Bytes per second to read, e.g. 50MiB.
    #[arg(long, value_parser = parse_bytes)]
    pub read_rate: Option<u64>,
    /// Raw bytes to take at most, e.g. 10GiB.
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
    units::bytes(text).ok_or_else(|| "expected a number of bytes like 1048576, 64KiB or 2GiB".to_owned())
}

fn parse_seconds(text: &str) -> Result<u64, String> {
    units::seconds(text).ok_or_else(|| "expected a time span like 90, 15m or 6h".to_owned())
}

/// `NAME` or `NAME:KEY=VALUE,KEY=VALUE`. A key given again adds an entry to a list; `\,` is a comma inside a value.
fn parse_capture(text: &str) -> Result<CaptureSpec, String> {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let mut params: BTreeMap<String, String> = BTreeMap::new();
    for pair in split_unescaped(rest) {
        let (key, value) = pair.split_once('=').ok_or("a parameter is KEY=VALUE")?;
        if key.is_empty() || value.contains('\n') {
            return Err("a parameter needs a key, and a value of one line".to_owned());
        }
        params.entry(key.to_owned()).and_modify(|list| *list = format!("{list}\n{value}")).or_insert_with(|| value.to_owned());
    }
    Ok(CaptureSpec { name: name.to_owned(), params })
}

fn split_unescaped(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => part.push(chars.next().unwrap_or('\\')),
            ',' => parts.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
    }
    if !text.is_empty() {
        parts.push(part);
    }
    parts
}

impl CollectArgs {
    /// The captures: a profile's, then those given one by one; one given by name replaces the profile's.
    ///
    /// # Errors
    /// A sentence when there is no such profile.
    pub fn specs(&self) -> Result<(Vec<CaptureSpec>, Limits), String> {
        let (mut specs, mut limits) = match &self.profile {
            Some(name) => {
                let profile = exhibit_evidence::profile::Profile::find(name)
                    .ok_or_else(|| format!("there is no profile '{}'", exhibit_evidence::text::escape_bounded(name, 40)))?;
                (profile.captures(), profile.limits)
            }
            None => (Vec::new(), Limits::default()),
        };
        for spec in &self.captures {
            specs.retain(|s| s.name != spec.name);
            specs.push(spec.clone());
        }
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
    fn captures_with_lists_and_commas() {
        let spec = parse_capture(r"files:paths=/etc/**,paths=/a\,b,deep=true").expect("good");
        assert_eq!((spec.params["paths"].as_str(), spec.params["deep"].as_str()), ("/etc/**\n/a,b", "true"));
        assert!(parse_capture("system").expect("good").params.is_empty());
        assert!(parse_capture("files:x").is_err() && parse_capture("files:=1").is_err());
    }
}
