//! The secret of a recipient, for what an encrypted case holds.

use std::path::PathBuf;

use clap::Args;
use exhibit_evidence::age::Identity;

use crate::exit::{Code, Failure, Result};

/// Which identities decrypt.
#[derive(Debug, Default, Clone, Args)]
pub struct IdentityArgs {
    /// Of an encrypted case: the age identity file of a recipient, as `age-keygen` makes it (repeatable). It is read here and goes
    /// nowhere: the coordinator sends what is stored, and this program decrypts and checks it.
    #[arg(long = "identity", value_name = "FILE")]
    pub identities: Vec<PathBuf>,
}

impl IdentityArgs {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read or is none; nothing of it is shown.
    pub fn read(&self) -> Result<Vec<Identity>> {
        let mut all = Vec::new();
        for path in &self.identities {
            let cannot = |why: String| Failure::new(Code::Input, format!("--identity {}: {why}", path.display()));
            let text = std::fs::read(path).map(zeroize::Zeroizing::new).map_err(|e| cannot(e.to_string()))?;
            all.extend(Identity::read_file(&text).map_err(|e| cannot(e.to_string()))?);
        }
        Ok(all)
    }
}
