//! One coordinator with a catalog in a file serves from a folder, alone; or those do whose catalogs are in PostgreSQL. Whether that is one
//! catalog nobody looks at here: nothing that a database holds tells it for sure from one that was restored from it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use exhibit_evidence::text::escape_bounded;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tokio::time::Instant;

use super::STAGING;
use super::files::{map, shown};
use crate::store::{Kind, StoreError};

/// The file in the staging folder. Nothing else locks it, so commands beside a running coordinator go on working.
pub(super) const FILE: &str = "run";
/// How long a coordinator that is ending is waited for.
const WAIT: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(100);
/// What is read of the words of whoever has it: a number, a machine's name and a path.
const HOLDER_BYTES_MAX: usize = 500;

/// Who else may serve from the folder at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nobody: the catalog is a file of this coordinator's own.
    Nobody,
    /// Those whose catalogs are in PostgreSQL as well. They are to have the same one, which is not looked at.
    InPostgres,
}

impl Beside {
    const fn lock(self) -> FlockOperation {
        match self {
            Self::Nobody => FlockOperation::NonBlockingLockExclusive,
            Self::InPostgres => FlockOperation::NonBlockingLockShared,
        }
    }
}

/// The right of a coordinator to serve from a folder. It ends with the process, however that ends.
#[derive(Debug)]
pub struct Claim {
    _file: File,
}

impl Claim {
    /// Takes it in the folder of a store that is open; `configuration` is the folder that the next one is told of. Waits a few seconds for a
    /// coordinator that is ending, and says so.
    ///
    /// # Errors
    /// [`Kind::Denied`] when a coordinator keeps it that may not serve beside this one; otherwise what the file system said.
    pub async fn take(root: &Path, configuration: &Path, beside: Beside) -> Result<Self, StoreError> {
        let path = root.join(STAGING).join(FILE);
        let fail = |e: io::Error| map(&e, "lock the store for one coordinator", &path.to_string_lossy());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(fail)?;
        let (until, mut is_told) = (Instant::now() + WAIT, false);
        loop {
            match rustix::fs::flock(&file, beside.lock()) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(e) => return Err(fail(e.into())),
            }
            if Instant::now() >= until {
                return Err(taken(root, &file));
            }
            if !is_told {
                tracing::warn!(store = %shown(root), wait_s = WAIT.as_secs(), "waiting: another coordinator serves from this store; is it ending?");
                is_told = true;
            }
            tokio::time::sleep(AGAIN).await;
        }
        sign(&file, configuration, beside);
        Ok(Self { _file: file })
    }
}

/// For people: the lock holds without it, so a full disk is no reason not to serve. Of several the last that began is named.
fn sign(file: &File, configuration: &Path, beside: Beside) {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let which = match beside {
        Beside::Nobody => "",
        Beside::InPostgres => "of those with a catalog in PostgreSQL this one began last and may have ended: ",
    };
    let text = format!("{which}process {} on {machine} with the configuration in {}\n", std::process::id(), configuration.display());
    if let Err(error) = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0)) {
        tracing::debug!(%error, "the lock of the store does not say who has it");
    }
}

fn taken(root: &Path, file: &File) -> StoreError {
    let mut bytes = vec![0; HOLDER_BYTES_MAX];
    let count = file.read_at(&mut bytes, 0).unwrap_or(0);
    bytes.truncate(count);
    let holder = escape_bounded(String::from_utf8_lossy(&bytes).trim(), HOLDER_BYTES_MAX);
    let who = if holder.is_empty() { "another coordinator".to_owned() } else { format!("another coordinator ({holder})") };
    StoreError::new(
        Kind::Denied,
        format!(
            "{who} serves from the store in {}, with another catalog than this one: each would take the other's records for a stranger's",
            shown(root)
        ),
        "end the one that is not to run, a restored machine or a copied folder for example; several coordinators on one store share a catalog in PostgreSQL",
    )
}

#[cfg(test)]
mod tests {
    use super::super::LocalStore;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_coordinator_is_refused_and_hears_of_the_first_and_others_may_open_the_store() {
        let dir = tempfile::tempdir().expect("folder");
        let root = dir.path().join("store");
        let store = LocalStore::create(&root).expect("store");
        let first = Claim::take(&root, Path::new("/srv/one"), Beside::Nobody).await.expect("free");
        let refused = Claim::take(&root, Path::new("/srv/two"), Beside::Nobody).await.expect_err("taken");
        let said = [format!("process {} on ", std::process::id()), "/srv/one".to_owned()];
        assert!(refused.kind() == Kind::Denied && said.iter().all(|words| refused.message().contains(words)), "{refused}");
        assert!(!refused.message().contains("/srv/two"), "{refused}");
        drop(LocalStore::open(&root).expect("a command beside it"));
        // A sweep that took the file away would let two in.
        drop((store, first));
        let _store = LocalStore::open(&root).expect("alone");
        assert!(root.join(STAGING).join(FILE).exists());
        Claim::take(&root, Path::new("/srv/two"), Beside::Nobody).await.expect("free again");
    }

    #[tokio::test(start_paused = true)]
    async fn those_with_a_catalog_in_postgres_serve_together_and_with_nobody_else() {
        let dir = tempfile::tempdir().expect("folder");
        let root = dir.path().join("store");
        let _store = LocalStore::create(&root).expect("store");
        let first = Claim::take(&root, Path::new("/srv/one"), Beside::InPostgres).await.expect("free");
        let second = Claim::take(&root, Path::new("/srv/two"), Beside::InPostgres).await.expect("the same catalog");
        drop(first);
        let refused = Claim::take(&root, Path::new("/srv/restored"), Beside::Nobody).await.expect_err("one is left");
        let place = root.display().to_string();
        let words = ["with a catalog in PostgreSQL", "began last and may have ended: process ", "/srv/two", place.as_str()];
        let said = words.iter().all(|w| refused.message().contains(w));
        assert!(refused.kind() == Kind::Denied && said && refused.remedy().contains("end the one"), "{refused}");
        drop(second);
        let alone = Claim::take(&root, Path::new("/srv/restored"), Beside::Nobody).await.expect("free again");
        let refused = Claim::take(&root, Path::new("/srv/one"), Beside::InPostgres).await.expect_err("taken");
        assert!(refused.message().contains("/srv/restored") && !refused.message().contains("began last"), "{refused}");
        drop(alone);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_ending_is_waited_for() {
        let dir = tempfile::tempdir().expect("folder");
        let root = dir.path().join("store");
        let _store = LocalStore::create(&root).expect("store");
        let first = Claim::take(&root, Path::new("/srv/one"), Beside::Nobody).await.expect("free");
        let ending = async move {
            tokio::time::sleep(WAIT / 2).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(Claim::take(&root, Path::new("/srv/one"), Beside::Nobody), ending);
        second.expect("the first one has ended");
    }
}
