//! Arguments of `exhibit person`.

use std::path::PathBuf;

use clap::Subcommand;
use clap::builder::PossibleValuesParser;

use crate::units::parse_reason;

/// Roles that an admin can give.
pub const ROLES: [&str; 5] = ["admin", "responder", "approver", "custodian", "auditor"];

/// People. In this order: the new person asks, an admin enrols, the person accepts. The private keys never leave their folder.
#[derive(Debug, Subcommand)]
pub enum PersonCommand {
    /// As the new person: make your keys, and a request for an admin. No coordinator is needed.
    Request {
        /// Your name in the deployment: a-z, 0-9, dot, dash, underscore.
        #[arg(long)]
        name: String,
        /// New folder for your identity; this is what EXHIBIT_HOME names later.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The deployment's anchor file, obtained from your admin by a way that you trust.
        #[arg(long, value_name = "FILE")]
        anchor: PathBuf,
        /// Write the request to this new file. It holds no secret.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// As an admin: enrol somebody who made a request. Compare the key with that person first, by telephone or in person.
    Enroll {
        /// The file with the request.
        request: PathBuf,
        /// What the person may do (repeatable).
        #[arg(long = "role", value_name = "ROLE", required = true, value_parser = PossibleValuesParser::new(ROLES))]
        roles: Vec<String>,
        /// In this case only (repeatable); in every case when not given.
        #[arg(long = "case", value_name = "CASE")]
        cases: Vec<String>,
        /// Write the answer for the person to this new file. It holds no secret.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Do not ask when somebody is enrolled under this name already: for scripts, where somebody has looked before.
        #[arg(long)]
        yes: bool,
    },
    /// As the new person: take the admin's answer into your folder.
    Accept {
        /// The file with the answer.
        answer: PathBuf,
        /// The folder that `request` made.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The deployment's anchor file, as for `request`.
        #[arg(long, value_name = "FILE")]
        anchor: PathBuf,
    },
    /// As an admin: give somebody who is enrolled more roles, or the same in more cases. It is added to what the key has.
    Allow {
        /// The person's name.
        name: String,
        /// Which key of the person, as `exhibit person list` names it; needed when there are several, for rights belong to a key.
        #[arg(long, value_name = "KEY")]
        key: Option<exhibit_evidence::Digest>,
        /// What the person may do (repeatable).
        #[arg(long = "role", value_name = "ROLE", required = true, value_parser = PossibleValuesParser::new(ROLES))]
        roles: Vec<String>,
        /// In this case only (repeatable); in every case when not given.
        #[arg(long = "case", value_name = "CASE")]
        cases: Vec<String>,
    },
    /// As an admin: revoke all keys of a person, or one of them. What they signed stays; nothing they sign from now on is accepted,
    /// and whoever connects with their certificate is nobody.
    Revoke {
        /// The person's name.
        name: String,
        /// Only this key, as `exhibit person list` names it; all keys of the person when not given.
        #[arg(long, value_name = "KEY")]
        key: Option<exhibit_evidence::Digest>,
        /// Why; recorded.
        #[arg(long, value_parser = parse_reason)]
        reason: String,
    },
    /// List who is enrolled, with roles and cases.
    List,
}
