//! Arguments of `exhibit symbols`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use crate::units::{parse_address, parse_reason};

/// Symbol commands.
#[derive(Debug, Subcommand)]
pub enum SymbolsCommand {
    /// Make the symbol file that volatility3 needs for an image, from what the host's own kernel said of itself: no package of a vendor,
    /// no internet. Where the host hid its symbols, they are read from the image.
    Build(BuildArgs),
}

/// Where the parts are, and where the file goes.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("of").args(["collection", "from"]).required(true)))]
pub struct BuildArgs {
    /// The collection with the capture `memory`. Only what is needed is read from the coordinator; the reading is recorded in the case's
    /// log.
    #[arg(long, value_name = "COLLECTION", requires = "reason")]
    pub collection: Option<String>,
    /// A folder that `exhibit get` restored, or one with `kallsyms`, `vmlinux` (BTF), `vmcoreinfo.txt`, `version`, `memory.lime`.
    #[arg(long, value_name = "DIR", conflicts_with = "reason")]
    pub from: Option<PathBuf>,
    /// The file to make: `.json`, or `.json.gz`. Put it below `DIR/linux/` or `DIR/` and give volatility3 `-s DIR`.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// This image instead of the one in the folder (LiME).
    #[arg(long, value_name = "FILE", requires = "from")]
    pub image: Option<PathBuf>,
    /// This `/sys/kernel/btf/vmlinux` instead of the one in the folder.
    #[arg(long, value_name = "FILE", requires = "from")]
    pub btf: Option<PathBuf>,
    /// This `/proc/kallsyms` instead of the one in the folder.
    #[arg(long, value_name = "FILE", requires = "from")]
    pub kallsyms: Option<PathBuf>,
    /// This text of VMCOREINFO, or notes with it, instead of the one in the folder.
    #[arg(long, value_name = "FILE", requires = "from")]
    pub vmcoreinfo: Option<PathBuf>,
    /// The VMCOREINFO that lies at this physical address of the image (`0x...`), of several that an error named.
    #[arg(long, value_name = "ADDRESS", requires = "from", conflicts_with = "vmcoreinfo", value_parser = parse_address)]
    pub vmcoreinfo_at: Option<u64>,
    /// This `/proc/version` instead of the one in the folder.
    #[arg(long, value_name = "FILE", requires = "from")]
    pub banner: Option<PathBuf>,
    /// Whose secret decrypts it.
    #[command(flatten)]
    pub identity: super::identity::IdentityArgs,
    /// Why, in your own words; recorded in the case's log before anything is read.
    #[arg(long, value_parser = parse_reason)]
    pub reason: Option<String>,
}
