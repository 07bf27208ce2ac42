//! The secret of a recipient, for what an encrypted case holds.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use clap::Args;
use exhibit_evidence::age::{Identity, holds_secret};

use crate::exit::{Code, Failure, Result};

/// Which identities decrypt.
#[derive(Debug, Default, Clone, Args)]
pub struct IdentityArgs {
    /// Of an encrypted case: the age identity file of a recipient, as `age-keygen` makes it, which nobody but its owner can read
    /// (repeatable). A pipe will do: `--identity <(age -d key.age)` gives one that a passphrase protects and leaves nothing on a
    /// disk. It is read here and goes nowhere: the coordinator sends what is stored, and this program decrypts and checks it.
    #[arg(long = "identity", value_name = "FILE")]
    pub identities: Vec<PathBuf>,
}

impl IdentityArgs {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read, that others can read too, or that is none; nothing of it is shown.
    pub fn read(&self) -> Result<Vec<Identity>> {
        let all = self.identities.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
        Ok(all.into_iter().flatten().collect())
    }
}

fn read(path: &Path) -> Result<Vec<Identity>> {
    let cannot = |why: String| Failure::new(Code::Input, format!("--identity {}: {why}", path.display()));
    let file = match File::open(path) {
        Err(_) if holds_secret(&path.to_string_lossy()) => {
            return Err(Failure::new(Code::Input, "--identity: this is a secret itself, not the name of a file")
                .hint("give the name of the file that it stands in; others may have seen it here: make a new identity"));
        }
        opened => opened.map_err(|e| cannot(e.to_string()))?,
    };
    let metadata = file.metadata().map_err(|e| cannot(e.to_string()))?;
    let kind = metadata.file_type();
    let mode = (kind.is_file() || kind.is_fifo()).then(|| metadata.mode());
    Identity::read_from(&mut &file, mode).map_err(|e| cannot(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_was_given_as_a_file_is_not_shown() {
        let secret = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
        let failure = IdentityArgs { identities: vec![PathBuf::from(secret)] }.read().expect_err("no file");
        let shown = format!("{} {:?}", failure.message, failure.hint);
        assert!(shown.contains("secret itself") && !shown.contains("1EGT"), "{shown}");
        let failure = IdentityArgs { identities: vec![PathBuf::from("/dev/zero")] }.read().expect_err("endless");
        assert!(failure.message.contains("/dev/zero"), "{}", failure.message);
    }
}
