//! Arguments of `exhibit log` and `exhibit witness`.

use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs, Subcommand};
use exhibit_evidence::Digest;

/// Custody log commands.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// List the records of a log, each verified, and compare them with its signed head.
    Show {
        /// Whose log.
        #[command(flatten)]
        of: OfArgs,
        /// Show records from this number on. All are verified.
        #[arg(long, value_name = "N", default_value_t = 0)]
        from: u64,
    },
    /// Prove that a record is in a log. Writes a C2SP tlog-proof that is checked without the coordinator.
    Prove {
        /// Whose log.
        #[command(flatten)]
        of: OfArgs,
        /// The record, as `exhibit log show` numbers it.
        #[arg(long, value_name = "N")]
        record: u64,
        /// Against the head of so many records, instead of the newest one.
        #[arg(long, value_name = "SIZE", default_value_t = 0, hide_default_value = true)]
        size: u64,
        /// Write the proof to this new file instead of standard output; by custom it ends in .tlog-proof.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write the record itself to this new file: its bytes are what the proof is about.
        #[arg(long, value_name = "FILE")]
        record_out: Option<PathBuf>,
    },
    /// Prove that a log continues an earlier head of itself. Writes the text that C2SP tlog-witness asks for.
    Consistency {
        /// Whose log.
        #[command(flatten)]
        of: OfArgs,
        /// The earlier head: its number of records, and its root when you noted it.
        #[arg(long, value_name = "SIZE[:ROOT]", value_parser = parse_head)]
        from: (u64, Option<Digest>),
        /// The later head, instead of the newest one.
        #[arg(long, value_name = "SIZE", default_value_t = 0, hide_default_value = true)]
        to: u64,
        /// Write the proof to this new file instead of standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Give the coordinator a checkpoint that a witness cosigned elsewhere: `exhibit witness cosign --folder ... --out FILE`.
    Cosigned {
        /// Whose log.
        #[command(flatten)]
        of: OfArgs,
        /// The file that `exhibit witness cosign --out` wrote.
        #[arg(long, value_name = "FILE")]
        note: PathBuf,
    },
}

/// Which log.
#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("log").args(["case", "deployment"]).required(true)))]
pub struct OfArgs {
    /// The log of this case, as `exhibit case list` names it.
    #[arg(long)]
    pub case: Option<String>,
    /// The deployment's own log: keys, people, agents. Not for roles that are limited to cases.
    #[arg(long)]
    pub deployment: bool,
}

/// Witness commands.
#[derive(Debug, Subcommand)]
pub enum WitnessCommand {
    /// Make a witness: a folder with its key, for somebody outside the deployment. Prints the line for the coordinator's
    /// configuration and for `exhibit-verify --witness`.
    Init {
        /// New folder for key and memory. Keep it: a witness that forgets vouches for anything.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The witness's name, best like a web address without https://, e.g. counsel.example/witness.
        #[arg(long)]
        name: String,
        /// The deployment's anchor file, obtained on another way than from the coordinator.
        #[arg(long, value_name = "FILE")]
        anchor: PathBuf,
    },
    /// Check that logs continue what this witness saw last, remember them, and cosign them.
    Cosign(CosignArgs),
    /// Show what this witness saw last of each log, and its public key.
    Show {
        /// The witness's folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

/// What to cosign.
#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("what").args(["cases", "deployment", "all", "folder", "request", "bag"]).required(true).multiple(true)))]
pub struct CosignArgs {
    /// The witness's folder.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The log of this case, from the coordinator (repeatable).
    #[arg(long = "case", value_name = "CASE")]
    pub cases: Vec<String>,
    /// The deployment's own log, from the coordinator.
    #[arg(long)]
    pub deployment: bool,
    /// Every log that the coordinator has.
    #[arg(long, conflicts_with_all = ["cases", "deployment"])]
    pub all: bool,
    /// The log of the case in this bag, from the coordinator; and write to --out the proof that what is cosigned now continues what
    /// the bag holds, for `exhibit-verify BAG --witness KEY --consistency FILE`.
    #[arg(long = "for", value_name = "BAG", conflicts_with_all = ["cases", "deployment", "all", "folder", "request"], requires = "out")]
    pub bag: Option<PathBuf>,
    /// Without a coordinator: a copy of a case folder, or a bag.
    #[arg(long, value_name = "CASE_FOLDER", conflicts_with_all = ["cases", "deployment", "all"])]
    pub folder: Option<PathBuf>,
    /// Without a coordinator: a proof that `exhibit log consistency` wrote. Needs --log-enrolment.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cases", "deployment", "all", "folder"], requires = "log_enrolment")]
    pub request: Option<PathBuf>,
    /// The record that enrols the log key, `log/seq/<n>.dsse.json` of any case.
    #[arg(long, value_name = "FILE", requires = "request")]
    pub log_enrolment: Option<PathBuf>,
    /// Write to this new file: without a coordinator the cosigned checkpoint (standard output otherwise), with --for the proof.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cases", "deployment", "all"])]
    pub out: Option<PathBuf>,
}

fn parse_head(text: &str) -> Result<(u64, Option<Digest>), String> {
    let (size, root) = text.split_once(':').map_or((text, None), |(size, root)| (size, Some(root)));
    let size = size.parse().map_err(|_| format!("'{size}' is not a number of records"))?;
    Ok((size, root.map(|r| r.parse().map_err(|e: exhibit_evidence::digest::BadDigest| e.to_string())).transpose()?))
}
