//! The command line: one registry that makes the parser, the help and the completions.

use clap::{Args as ClapArgs, Parser, Subcommand};
use std::path::PathBuf;

use crate::units::{parse_bytes, parse_duration_s, parse_label};

const AFTER_HELP: &str = "\
A first collection:
  exhibit case open --title 'Web server, suspicious login' --legal-basis 'Incident response policy 4.2' --accountable 'Head of security'
  exhibit agents
  exhibit collect --case CASE --agent AGENT --profile triage --reason 'login from unknown address' --watch
  exhibit items --collection COLLECTION --path '/etc/**'
  exhibit get ITEM --out ./evidence --reason 'compare with the golden image'

Exit codes: 0 done · 1 failed · 2 a collection did not end as sealed, or an item could not be had · 64 wrong usage ·
65 unusable input · 69 coordinator not reachable · 73 cannot write here · 74 evidence damaged · 77 not permitted ·
78 configuration";

/// Collect evidence from running workloads, follow it, read it.
#[derive(Debug, Parser)]
#[command(name = "exhibit", version, about, after_help = AFTER_HELP, max_term_width = 120, propagate_version = true)]
pub struct Args {
    /// Folder with your identity and the coordinator's address.
    #[arg(long, env = "EXHIBIT_HOME", global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Print JSON (one object, or one object a line) instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open, list, show and close cases.
    #[command(subcommand)]
    Case(CaseCommand),
    /// List agents; label or revoke one.
    Agents(AgentsArgs),
    /// Make one-time tokens with which agents enrol.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Sign an order and send it: collect from one agent, from a label, or from all.
    Collect(Box<CollectArgs>),
    /// Follow collections until all of them are closed. Exit code 2 when one did not end as sealed.
    Watch(WatchArgs),
    /// List collections.
    Collections(WhichArgs),
    /// List the items of collections. The listing is recorded in the case's log.
    Items(ItemsArgs),
    /// Write the content of one item to standard output. The reading is recorded in the case's log.
    Cat(CatArgs),
    /// Restore items as files. The reading is recorded in the case's log.
    Get(GetArgs),
    /// Stop collections; what was taken so far is sealed as partial.
    Cancel(CancelArgs),
    /// List the profiles, or show one.
    Profiles(ProfilesArgs),
    /// Show who you are to the coordinator.
    Whoami,
    /// Print a completion script for your shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Case commands.
#[derive(Debug, Subcommand)]
pub enum CaseCommand {
    /// Open a case.
    Open {
        /// A short name for people.
        #[arg(long)]
        title: String,
        /// The legal basis of the collection, in the words of the person responsible.
        #[arg(long, default_value = "not stated")]
        legal_basis: String,
        /// The person who answers for the case; yourself when not given.
        #[arg(long)]
        accountable: Option<String>,
    },
    /// List cases, newest first.
    List,
    /// Show one case.
    Show {
        /// The case.
        case: String,
    },
    /// Close a case: no further order is accepted.
    Close {
        /// The case.
        case: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
}

/// Agent listing and management.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentsArgs {
    /// Only agents with this label (repeatable: all must match).
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Manage instead of list.
    #[command(subcommand)]
    pub command: Option<AgentsCommand>,
}

/// Agent management.
#[derive(Debug, Subcommand)]
pub enum AgentsCommand {
    /// Set an agent's labels (they replace the old ones).
    Label {
        /// The agent.
        agent: String,
        /// Labels.
        #[arg(value_name = "KEY=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
    },
    /// Revoke an agent's keys: it is cut off at once.
    Revoke {
        /// The agent.
        agent: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
}

/// Token commands.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token. It is shown once.
    Create {
        /// How long it works, e.g. 15m, 24h.
        #[arg(long, default_value = "1h", value_parser = parse_duration_s)]
        ttl: u64,
        /// How many agents may enrol with it.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        uses: u32,
        /// Label that the enrolled agents get (repeatable).
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
    },
}

/// An order.
#[derive(Debug, ClapArgs)]
pub struct CollectArgs {
    /// The case.
    #[arg(long)]
    pub case: String,
    /// Collect from this agent (repeatable).
    #[arg(long = "agent", value_name = "AGENT", required_unless_present_any = ["labels", "all"])]
    pub agents: Vec<String>,
    /// Collect from all agents with this label (repeatable: all must match).
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label, conflicts_with = "agents")]
    pub labels: Vec<(String, String)>,
    /// Collect from every agent that is not revoked.
    #[arg(long, conflicts_with_all = ["agents", "labels"])]
    pub all: bool,
    /// A named list of captures: see `exhibit profiles`.
    #[arg(long, required_unless_present = "captures")]
    pub profile: Option<String>,
    /// A capture with parameters (repeatable), e.g. `files:paths=/etc/**,max_size=10M`. A parameter that is a list is given
    /// several times: `files:paths=/etc/**,paths=/opt/**`. A comma inside a value is written `\,`.
    #[arg(long = "capture", value_name = "NAME[:KEY=VALUE,...]")]
    pub captures: Vec<String>,
    /// Why this is collected; recorded for the court.
    #[arg(long)]
    pub reason: String,
    /// Follow until all collections are closed.
    #[arg(long)]
    pub watch: bool,
    /// The order may not be begun later than this from now.
    #[arg(long, default_value = "24h", value_parser = parse_duration_s)]
    pub expires: u64,
    /// Each collection ends as partial after this time.
    #[arg(long, value_parser = parse_duration_s)]
    pub deadline: Option<u64>,
    /// Most raw bytes of each collection.
    #[arg(long, value_parser = parse_bytes)]
    pub max_bytes: Option<u64>,
    /// Processor budget on the host, percent of one processor.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=6400))]
    pub cpu_percent: Option<u32>,
    /// Most bytes a second read on the host.
    #[arg(long, value_parser = parse_bytes)]
    pub read_rate: Option<u64>,
    /// Most bytes a second sent by the host.
    #[arg(long, value_parser = parse_bytes)]
    pub send_rate: Option<u64>,
}

/// Which collections.
#[derive(Debug, Default, ClapArgs)]
pub struct WhichArgs {
    /// Only of this case.
    #[arg(long)]
    pub case: Option<String>,
    /// Only of this order.
    #[arg(long)]
    pub order: Option<String>,
}

/// What to follow.
#[derive(Debug, ClapArgs)]
pub struct WatchArgs {
    /// Collections.
    #[arg(required_unless_present_any = ["case", "order"])]
    pub collections: Vec<String>,
    /// All of a case or an order.
    #[command(flatten)]
    pub which: WhichArgs,
}

/// Which items.
#[derive(Debug, ClapArgs)]
pub struct ItemsArgs {
    /// Items of this collection (repeatable).
    #[arg(long = "collection", value_name = "COLLECTION", required_unless_present = "case")]
    pub collections: Vec<String>,
    /// Items of all collections of this case.
    #[arg(long)]
    pub case: Option<String>,
    /// Only paths that match: `*` within a component, `**` across.
    #[arg(long, value_name = "GLOB")]
    pub path: Option<String>,
    /// Only this capture (repeatable).
    #[arg(long = "capture", value_name = "NAME")]
    pub captures: Vec<String>,
    /// Only this status (repeatable), e.g. collected, missing, denied.
    #[arg(long = "status", value_name = "STATUS")]
    pub statuses: Vec<String>,
    /// Why; recorded in the case's log.
    #[arg(long, default_value = "not stated")]
    pub reason: String,
}

/// One item.
#[derive(Debug, ClapArgs)]
pub struct CatArgs {
    /// The item, as `exhibit items` prints it.
    pub item: String,
    /// Why; recorded in the case's log.
    #[arg(long, default_value = "not stated")]
    pub reason: String,
}

/// Items to restore.
#[derive(Debug, ClapArgs)]
pub struct GetArgs {
    /// The items, as `exhibit items` prints them.
    #[arg(required = true)]
    pub items: Vec<String>,
    /// Folder to restore into; made when absent. Existing files are never overwritten.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Restore extended attributes as well (ACLs and capabilities need privilege).
    #[arg(long)]
    pub xattrs: bool,
    /// Restore owner and full mode as well (needs privilege).
    #[arg(long)]
    pub owner: bool,
    /// Why; recorded in the case's log.
    #[arg(long, default_value = "not stated")]
    pub reason: String,
}

/// What to cancel.
#[derive(Debug, ClapArgs)]
pub struct CancelArgs {
    /// Collections.
    #[arg(required_unless_present = "order")]
    pub collections: Vec<String>,
    /// All collections of this order.
    #[arg(long, conflicts_with = "collections")]
    pub order: Option<String>,
    /// Why; recorded.
    #[arg(long)]
    pub reason: String,
}

/// Profiles.
#[derive(Debug, ClapArgs)]
pub struct ProfilesArgs {
    /// Show one instead of listing.
    #[command(subcommand)]
    pub command: Option<ProfilesCommand>,
}

/// Profile commands.
#[derive(Debug, Subcommand)]
pub enum ProfilesCommand {
    /// List the names.
    List,
    /// Show the captures and parameters of one.
    Show {
        /// The profile.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
