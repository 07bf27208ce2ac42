//! Arguments of `exhibit export` and `exhibit anchor`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::units::parse_reason;

/// What to hand over, and how.
#[derive(Debug, ClapArgs)]
pub struct ExportArgs {
    /// The case.
    #[arg(long)]
    pub case: String,
    /// Only the evidence of this collection (repeatable); of all when not given. The log always goes along whole, and the bag
    /// says which collections were left out.
    #[arg(long = "collection", value_name = "COLLECTION")]
    pub collections: Vec<String>,
    /// Why it is handed over, and to whom; recorded in the case's log before anything is read.
    #[arg(long, value_parser = parse_reason)]
    pub reason: String,
    /// The new folder of the bag. Until it is whole it is called DIR.partial: the same command again goes on from where it
    /// stopped.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Also restore the evidence as plain files, named by their exhibit numbers.
    #[arg(long)]
    pub expand: bool,
    /// Whose secret decrypts it, to check the contents and for `--expand`. The evidence in the bag stays encrypted as it is.
    #[command(flatten)]
    pub identity: super::identity::IdentityArgs,
    /// Encrypt the finished bag to this age recipient (repeatable): DIR.tar.age is written and nothing readable is left.
    #[arg(long = "recipient", value_name = "age1...")]
    pub recipients: Vec<String>,
    /// Encrypt it for the holder of this S/MIME certificate (PEM, RSA; repeatable): DIR.tar.age.FINGERPRINT.p7m is written beside
    /// it, which holds the key and which any mail program or openssl opens.
    #[arg(long = "recipient-cert", value_name = "FILE")]
    pub recipient_certificates: Vec<PathBuf>,
}

/// Anchor commands.
#[derive(Debug, Subcommand)]
pub enum AnchorCommand {
    /// Print the sheet with the deployment's trust anchor, for the signed paper form: it goes to the recipient on another
    /// way than the bag.
    Print {
        /// The anchor file, instead of the one in your identity's folder.
        #[arg(long, value_name = "FILE")]
        anchor: Option<PathBuf>,
        /// Write the sheet as PDF/A to this new file instead of text to standard output.
        #[arg(long, value_name = "FILE")]
        pdf: Option<PathBuf>,
    },
}
