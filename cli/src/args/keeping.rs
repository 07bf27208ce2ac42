//! Arguments of `exhibit transfer` and `exhibit dispose`.

use clap::{ArgGroup, Args, Subcommand};

use crate::units::parse_reason;

/// Transfer commands.
#[derive(Debug, Subcommand)]
pub enum TransferCommand {
    /// Offer the custody of a case. It stays yours until the other one accepts; a new offer takes the place of an old one.
    Offer {
        /// The case.
        case: String,
        /// Who is to receive it: a custodian of the case, by name.
        #[arg(long, value_name = "NAME")]
        to: String,
        /// Why; recorded.
        #[arg(long, value_parser = parse_reason)]
        reason: String,
    },
    /// Accept the custody that is offered to you. Verify the case first, and say what you found.
    Accept {
        /// The case.
        case: String,
        /// What you found, e.g. that exhibit-verify called it sound, with which head; recorded.
        #[arg(long, value_parser = parse_reason)]
        reason: String,
    },
}

/// Disposal commands.
#[derive(Debug, Subcommand)]
pub enum DisposeCommand {
    /// Ask for the destruction of sealed collections. Nothing is destroyed before a second person approves.
    #[command(group(ArgGroup::new("what").args(["collections", "all"]).required(true)))]
    Request {
        /// The case.
        case: String,
        /// This collection (repeatable).
        #[arg(long = "collection", value_name = "COLLECTION")]
        collections: Vec<String>,
        /// Every sealed collection of the case of which something was received, at most 300.
        #[arg(long)]
        all: bool,
        /// Why, and on whose authority; recorded.
        #[arg(long, value_parser = parse_reason)]
        reason: String,
    },
    /// Look at a disposal that somebody else asked for, and approve it. Without --reason it is only shown, with what stands in the way.
    Approve(ApproveDisposalArgs),
}

/// Which disposal to approve. It is shown whole and has to be confirmed; then the evidence is destroyed at once, for good. Its
/// history stays, with a certificate.
#[derive(Debug, Args)]
pub struct ApproveDisposalArgs {
    /// The case.
    pub case: String,
    /// The request, as `exhibit case custody` names it: the record's SHA-256. Its whole text is needed: nobody should destroy
    /// evidence by a slip.
    #[arg(long, value_name = "SHA256")]
    pub disposal: exhibit_evidence::Digest,
    /// Why; recorded. Without it nothing is signed.
    #[arg(long, value_parser = parse_reason)]
    pub reason: Option<String>,
    /// Do not ask: for scripts, where somebody has looked before.
    #[arg(long, requires = "reason")]
    pub yes: bool,
}
