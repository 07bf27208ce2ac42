//! The command line: one registry that makes the parser, the help and the completions.

pub mod custody;
pub mod handoff;
pub mod identity;
pub mod keeping;
pub mod person;
pub mod symbols;

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args as ClapArgs, Parser, Subcommand};
use exhibit_evidence::manifest::Status;
use exhibit_evidence::profile::Profile;

use crate::units::{
    parse_bytes, parse_duration_s, parse_label, parse_read_rate, parse_reason, parse_send_rate, parse_token_life_s, parse_until, parse_uses,
};

const AFTER_HELP: &str = "\
A first collection:
  exhibit case open --title 'Web server, suspicious login' --legal-basis 'Incident response policy 4.2' --accountable 'Head of security'
  exhibit agents
  exhibit collect --case CASE --agent AGENT --profile triage --reason 'login from unknown address' --watch
  exhibit items --collection COLLECTION --path '/etc/**' --reason 'compare with the golden image'
  exhibit get --collection COLLECTION --path '/etc/**' --out ./evidence --reason 'compare with the golden image'

Exit codes: 0 done · 1 failed · 2 a collection did not end as sealed, an item could not be had, or an
approved destruction is not finished · 64 wrong usage · 65 unusable input · 69 coordinator not reachable ·
73 cannot write here · 74 evidence damaged · 77 not permitted · 78 configuration · 130 Ctrl-C · 143 asked to end";

/// Collect evidence from running workloads, follow it, read it.
#[derive(Debug, Parser)]
#[command(name = "exhibit", version, about, after_help = AFTER_HELP, max_term_width = 120, propagate_version = true)]
pub struct Args {
    /// Folder with your identity and the coordinator's address, instead of the one that EXHIBIT_HOME names.
    // Read from the environment where it is used: clap would count it as an argument and show it in every usage line.
    #[arg(long, global = true, value_name = "DIR")]
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
    /// Open, list, show and close cases; their custody, holds and retention.
    #[command(subcommand)]
    Case(CaseCommand),
    /// List agents; label or revoke one.
    Agents(AgentsArgs),
    /// Make one-time tokens with which agents enrol.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Sign an order and send it: collect from one agent, from a label, or from all.
    Collect(Box<CollectArgs>),
    /// Look at an order that waits for a second person, and approve it. Without --reason it is only shown.
    Approve(ApproveArgs),
    /// Follow collections until all of them are closed. Exit code 2 when one did not end as sealed.
    Watch(WatchArgs),
    /// List collections.
    Collections(WhichArgs),
    /// List the items of collections. The listing is recorded in the case's log.
    Items(ItemsArgs),
    /// Write the content of one item to standard output. The reading is recorded in the case's log.
    Cat(CatArgs),
    /// Restore items as files, by id or by collection and path. The reading is recorded in the case's log.
    Get(GetArgs),
    /// Stop collections; what was taken so far is sealed as partial.
    Cancel(CancelArgs),
    /// Show a custody log, and prove what is in it.
    #[command(subcommand)]
    Log(custody::LogCommand),
    /// Hand the custody of a case from one custodian to another; both sign.
    #[command(subcommand)]
    Transfer(keeping::TransferCommand),
    /// Destroy evidence for good: a custodian asks, a second person approves.
    #[command(subcommand)]
    Dispose(keeping::DisposeCommand),
    /// Enrol people, give them roles, take keys away.
    #[command(subcommand)]
    Person(person::PersonCommand),
    /// Be a witness: vouch, with a key outside the deployment, that its logs are never rewritten.
    #[command(subcommand)]
    Witness(custody::WitnessCommand),
    /// Hand a case over: a signed bag with the evidence as it is stored, its whole log, documents, and steps to verify it without
    /// any program of ours. Recorded in the case's log.
    Export(handoff::ExportArgs),
    /// Make what memory analysts need beside an image.
    #[command(subcommand)]
    Symbols(symbols::SymbolsCommand),
    /// Print the trust anchor for the signed paper form.
    #[command(subcommand)]
    Anchor(handoff::AnchorCommand),
    /// List the profiles, or show one.
    Profiles(ProfilesArgs),
    /// Show who you are to the coordinator.
    Whoami,
    /// Print a completion script for your shell. bash: `exhibit completions bash > ~/.local/share/bash-completion/completions/exhibit`;
    /// zsh: into a folder of `$fpath`, as `_exhibit`; fish: `exhibit completions fish > ~/.config/fish/completions/exhibit.fish`.
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
        /// No agent obeys an order of this case before a second person, an approver, agreed: `exhibit approve ORDER`. It cannot
        /// be changed later.
        #[arg(long)]
        two_person: bool,
        /// Agents encrypt the contents of evidence to this age recipient before they send it (repeatable, up to 16; `age-keygen`
        /// makes one). Neither the coordinator nor the store can then read evidence, and nobody can give it back when all
        /// identities are lost: name at least two. It cannot be changed later. What stays readable to them, because completeness
        /// and custody are checked by it: the names, sizes, times, owners and SHA-256 of items, what could not be taken and why,
        /// and what hosts say of themselves. What the coordinator cannot check any more, a recipient checks: `exhibit-verify
        /// --identity FILE`.
        #[arg(long = "encrypt-to", value_name = "age1...")]
        // As texts: what is wrong with one is said without it where it is a secret that was pasted here.
        encrypt_to: Vec<String>,
    },
    /// List cases, newest first.
    List,
    /// Show one case.
    Show {
        /// The case, as `exhibit case list` names it.
        case: String,
    },
    /// Close a case: no further order is accepted. Orders that wait for an approval are cancelled first: `exhibit cancel`.
    Close {
        /// The case, as `exhibit case list` names it.
        case: String,
        /// Why.
        #[arg(long, value_parser = parse_reason)]
        reason: String,
    },
    /// Show the whole chain of custody: who ordered, took, received, saw, held, handed over and destroyed what, and who had it in
    /// which period. Every record is verified.
    Custody {
        /// The case.
        case: String,
        /// Draw the periods as a picture into this new file.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Put a hold on a case, or on some of its collections: nothing that it covers can be destroyed.
    Hold {
        /// The case.
        case: String,
        /// Only this collection (repeatable); the whole case, with what is still to come, when not given.
        #[arg(long = "collection", value_name = "COLLECTION")]
        collections: Vec<String>,
        /// Why; recorded.
        #[arg(long, value_parser = parse_reason)]
        reason: String,
    },
    /// Release a hold: what it alone covered can be destroyed again, when two persons agree.
    ReleaseHold {
        /// The case.
        case: String,
        /// The hold, as `exhibit case hold` and `exhibit case custody` name it: the record's SHA-256 or its number.
        #[arg(long, value_name = "RECORD")]
        hold: String,
        /// Why; recorded.
        #[arg(long, value_parser = parse_reason)]
        reason: String,
    },
    /// Promise to keep a case until a day. It can be moved later, never earlier: a slip of the year cannot be taken back.
    Retain {
        /// The case.
        case: String,
        /// Nothing of the case may be destroyed before: YYYY-MM-DD (its beginning, UTC) or a whole time as records write it.
        #[arg(long, value_name = "DAY", value_parser = parse_until)]
        until: exhibit_evidence::Timestamp,
        /// Why; recorded.
        #[arg(long, value_parser = parse_reason)]
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
        #[arg(value_name = "KEY=VALUE", value_parser = parse_label, required_unless_present = "clear")]
        labels: Vec<(String, String)>,
        /// Take all labels away.
        #[arg(long, conflicts_with = "labels")]
        clear: bool,
    },
    /// Revoke an agent's keys: it is cut off at once.
    Revoke {
        /// The agent.
        agent: String,
        /// Why.
        #[arg(long, value_parser = parse_reason)]
        reason: String,
    },
}

/// Token commands.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token. It is shown once.
    Create {
        /// How long it works, e.g. 15m, 24h; 60s to 7d.
        #[arg(long, default_value = "1h", value_parser = parse_token_life_s)]
        ttl: u64,
        /// How many agents may enrol with it, 1 to 1000.
        #[arg(long, default_value_t = 1, value_parser = parse_uses)]
        uses: u32,
        /// Label that the enrolled agents get (repeatable).
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
    },
}

/// An order.
#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("from").args(["agents", "labels", "all"]).required(true)))]
#[command(group(ArgGroup::new("what").args(["profile", "captures"]).required(true).multiple(true)))]
pub struct CollectArgs {
    /// The case.
    #[arg(long)]
    pub case: String,
    /// Collect from this agent (repeatable).
    #[arg(long = "agent", value_name = "AGENT")]
    pub agents: Vec<String>,
    /// Collect from all agents with this label (repeatable: all must match).
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Collect from every agent that is not revoked.
    #[arg(long)]
    pub all: bool,
    /// A named list of captures: see `exhibit profiles`.
    #[arg(long, value_parser = profile_names())]
    pub profile: Option<String>,
    /// A capture with parameters (repeatable, each capture once), e.g. `files:paths=/etc/**,max_size=10M`. A parameter that is a
    /// list is given several times: `files:paths=/etc/**,paths=/opt/**`. A comma inside a value is written `\,`; every other
    /// backslash belongs to the value. A parameter that is true or false can stand alone: `process-memory:all`. It cannot name a
    /// capture that --profile has.
    #[arg(long = "capture", value_name = "NAME[:KEY=VALUE,...]")]
    pub captures: Vec<String>,
    /// Sign captures, parameters and values too that this program does not know: for agents that are newer than it. Each agent checks
    /// the order itself, and refuses what it does not know.
    #[arg(long)]
    pub unchecked: bool,
    /// Why this is collected; recorded for the court.
    #[arg(long, value_parser = parse_reason)]
    pub reason: String,
    /// The legal basis of this order, where it is another or a narrower one than the case's.
    #[arg(long)]
    pub legal_basis: Option<String>,
    /// Follow until all collections are closed.
    #[arg(long)]
    pub watch: bool,
    /// The order may not be begun later than this from now.
    #[arg(long, default_value = "24h", value_parser = parse_duration_s)]
    pub expires: u64,
    /// Each collection is told to end after this time and is sealed as partial; what was taken by then is still sent, which
    /// takes its time.
    #[arg(long, value_parser = parse_duration_s)]
    pub deadline: Option<u64>,
    /// Each collection is told to end once about this many raw bytes were taken (10M and 10MiB are 10,485,760) and is sealed as
    /// partial. What is written at that moment, and the stream's own headers, come on top.
    #[arg(long, value_parser = parse_bytes)]
    pub max_bytes: Option<u64>,
    /// Processor budget on the host, percent of one processor.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=6400))]
    pub cpu_percent: Option<u32>,
    /// Most bytes a second read on the host, on average; at least 64K.
    #[arg(long, value_parser = parse_read_rate)]
    pub read_rate: Option<u64>,
    /// Most bytes a second sent by the host, on average; at least 1K. It does not stretch the deadline.
    #[arg(long, value_parser = parse_send_rate)]
    pub send_rate: Option<u64>,
}

/// An order to approve.
#[derive(Debug, ClapArgs)]
pub struct ApproveArgs {
    /// The order, as `exhibit collections` and `exhibit case custody` name it.
    pub order: String,
    /// Why you agree; recorded under your name. Without it the order is shown and nothing is signed.
    #[arg(long, value_parser = parse_reason)]
    pub reason: Option<String>,
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
#[command(group(ArgGroup::new("what").args(["collections", "case", "order"]).required(true).multiple(true)))]
pub struct WatchArgs {
    /// Collections.
    pub collections: Vec<String>,
    /// All of a case or an order.
    #[command(flatten)]
    pub which: WhichArgs,
}

/// Items of collections or of a case, and which of them.
#[derive(Debug, Default, ClapArgs)]
pub struct SelectArgs {
    /// Items of this collection (repeatable).
    #[arg(long = "collection", value_name = "COLLECTION")]
    pub collections: Vec<String>,
    /// Items of all collections of this case.
    #[arg(long)]
    pub case: Option<String>,
    /// Only paths that match (repeatable: one of them): `*` within a component, `**` across. A path as it is shown, escapes and
    /// all, matches itself.
    #[arg(long = "path", value_name = "GLOB")]
    pub paths: Vec<String>,
    /// Only this capture (repeatable).
    #[arg(long = "capture", value_name = "NAME")]
    pub captures: Vec<String>,
    /// Only this status (repeatable).
    #[arg(long = "status", value_name = "STATUS", value_parser = PossibleValuesParser::new(Status::ALL.map(Status::as_str)))]
    pub statuses: Vec<String>,
}

/// Which items.
#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("of").args(["collections", "case"]).required(true)))]
pub struct ItemsArgs {
    /// Whose, and which.
    #[command(flatten)]
    pub select: SelectArgs,
    /// Why, in your own words; recorded in the case's log before you see anything.
    #[arg(long, value_parser = parse_reason)]
    pub reason: String,
}

/// One item.
#[derive(Debug, ClapArgs)]
pub struct CatArgs {
    /// The item, as `exhibit items` prints it.
    pub item: String,
    /// Write the bytes as they are to a terminal, too. Without it a terminal gets control characters escaped; a file or a
    /// pipe always gets the bytes.
    #[arg(long)]
    pub raw: bool,
    /// Whose secret decrypts it.
    #[command(flatten)]
    pub identity: identity::IdentityArgs,
    /// Why, in your own words; recorded in the case's log before you see anything.
    #[arg(long, value_parser = parse_reason)]
    pub reason: String,
}

/// Items to restore.
#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("of").args(["items", "collections", "case"]).required(true)))]
pub struct GetArgs {
    /// The items, as `exhibit items` prints them.
    pub items: Vec<String>,
    /// Or all that match.
    #[command(flatten)]
    pub select: SelectArgs,
    /// Folder to restore into; made when absent. Existing files are never overwritten: they are named, and the others are
    /// restored. A file gets its name once its bytes are there and have their SHA-256.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Make another format of images of memory (`lime`, `elf`, `raw`) and disks (`raw`, `e01`); other items are restored as they are. The
    /// stored bytes are checked as always; the SHA-256 of what is made is printed.
    #[arg(long = "as", value_name = "FORMAT")]
    pub format: Option<crate::convert::Format>,
    /// Of an image of memory that was cut off while it was read (a deadline, a cancel) make a file of what is there, up to its last whole
    /// page; without it such an image is refused.
    #[arg(long, requires = "format")]
    pub cut_off: bool,
    /// Restore extended attributes as well (ACLs and capabilities need privilege).
    #[arg(long)]
    pub xattrs: bool,
    /// Restore owner and full mode as well (needs privilege).
    #[arg(long)]
    pub owner: bool,
    /// Whose secret decrypts it.
    #[command(flatten)]
    pub identity: identity::IdentityArgs,
    /// Why, in your own words; recorded in the case's log before you see anything.
    #[arg(long, value_parser = parse_reason)]
    pub reason: String,
}

/// What to cancel.
#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("what").args(["collections", "order"]).required(true)))]
pub struct CancelArgs {
    /// Collections.
    pub collections: Vec<String>,
    /// All collections of this order.
    #[arg(long)]
    pub order: Option<String>,
    /// Why; recorded.
    #[arg(long, value_parser = parse_reason)]
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
        #[arg(value_parser = profile_names())]
        name: String,
    },
}

/// The profiles that there are. The parser wants names that live as long as the program, and is made once.
fn profile_names() -> PossibleValuesParser {
    PossibleValuesParser::new(Profile::built_in().into_iter().map(|profile| -> &'static str { profile.name.leak() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_errors_name_what_is_missing_and_nothing_else() {
        let said = |args: &[&str]| Args::try_parse_from(args).expect_err("incomplete").to_string();
        let items = said(&["exhibit", "items", "--reason", "r"]);
        assert!(items.contains("--collection <COLLECTION>|--case <CASE>") && !items.contains("--home"), "{items}");
        let collect = said(&["exhibit", "collect", "--case", "c", "--reason", "r", "--profile", "triage"]);
        assert!(collect.contains("--agent <AGENT>|--label <KEY=VALUE>|--all"), "{collect}");
        let cancel = said(&["exhibit", "cancel", "--reason", "r"]);
        assert!(cancel.contains("COLLECTIONS|--order <ORDER>"), "{cancel}");
        // Nobody sees evidence without saying why.
        for read in [
            &["exhibit", "items", "--case", "c"][..],
            &["exhibit", "cat", "i"],
            &["exhibit", "get", "i", "--out", "x"],
            &["exhibit", "symbols", "build", "--collection", "c", "--out", "x.json"],
        ] {
            assert!(said(read).contains("--reason <REASON>"));
        }
        let symbols = said(&["exhibit", "symbols", "build", "--out", "x.json"]);
        assert!(symbols.contains("--collection <COLLECTION>|--from <DIR>"), "{symbols}");
        assert!(said(&["exhibit", "cat", "i", "--reason", " "]).contains("reason"));
        assert!(said(&["exhibit", "case", "retain", "c", "--until", "2030-02-31", "--reason", "r"]).contains("YYYY-MM-DD"));
        assert!(said(&["exhibit", "agents", "label", "agt"]).contains("KEY=VALUE"));
        assert!(said(&["exhibit", "get", "--out", "x", "--reason", "r"]).contains("--collection <COLLECTION>|--case <CASE>"));
        assert!(said(&["exhibit", "token", "create", "--uses", "0"]).contains("expected 1 to 1000"));
        for good in [
            &["exhibit", "get", "--collection", "c", "--collection", "d", "--path", "/a", "--path", "/b", "--out", "x", "--reason", "r"][..],
            &["exhibit", "items", "--case", "c", "--status", "missing", "--reason", "r"],
            &["exhibit", "watch", "--case", "c"],
            &["exhibit", "agents", "label", "agt", "--clear"],
        ] {
            Args::try_parse_from(good).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    #[test]
    fn the_registry_is_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
