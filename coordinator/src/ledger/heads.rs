//! The signed heads of a log, where the store keeps what was replaced. Whoever may write heads can put an older one on top, or anything
//! else; the newest genuine one lies beneath, and is known by its signature and its size, never by its time.

use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::{Checkpoint, NOTE_BYTES_MAX};
use exhibit_evidence::text::escape_bounded;
use futures::{StreamExt as _, TryStreamExt as _};

use super::log::READS_IN_FLIGHT;
use super::{Head, Keys, LedgerError};
use crate::several;
use crate::store::{self, Store, Version, history};

/// Versions that are read in any case, so that something on top is found after heads were written on it again. One has 330 bytes.
const LOOKED_AT: usize = 64;
/// Versions that are read at most, where those on top are of fewer records than lie there. Beyond it the records speak for themselves.
const LOOKED_AT_MAX: usize = 1_024;

/// The head of a log and what lies on top of it.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// What a reader gets, if it is a head of this log.
    pub(super) top: Option<Checkpoint>,
    /// Those that this deployment's key signed for this log, the newest written first.
    signed: Vec<Signed>,
    /// What is none, in words.
    junk: Vec<String>,
}

#[derive(Debug)]
struct Signed {
    head: Head,
    /// Its version.
    id: String,
    /// The same in words.
    version: String,
}

/// What one version is.
enum Is {
    Head(Checkpoint),
    Junk(String),
    Gone,
}

/// Words of a head that is of another history than the newest one.
pub(super) const CONTRADICTS: &str = "contradicts the newest one";

impl Heads {
    /// Looks at the head of a log of which `slots` records are there.
    ///
    /// # Errors
    /// [`super::Kind::Damaged`] when what lies there is no head of this log, and the store keeps nothing beneath.
    pub(super) async fn look(store: &dyn Store, name: &LogName, keys: &Keys, slots: u64) -> Result<Self, LedgerError> {
        match history::newest(store, &name.checkpoint(), LOOKED_AT_MAX).await {
            Ok(Some(versions)) => Self::among(store, (name, keys), versions, slots).await,
            Err(e) if e.says_nothing() => Err(e.into()),
            // That versions cannot be listed is told by attestation.
            Ok(None) | Err(_) => Ok(Self { top: read(store, name, keys).await?, ..Self::default() }),
        }
    }

    async fn among(store: &dyn Store, (name, keys): (&LogName, &Keys), versions: Vec<Version>, slots: u64) -> Result<Self, LedgerError> {
        let mut heads = Self::default();
        let mut reads = futures::stream::iter(versions.into_iter().enumerate())
            .map(|(at, version)| async move { Ok::<_, LedgerError>((at, is(store, (name, keys), &version).await?, version)) })
            .buffered(READS_IN_FLIGHT);
        while let Some((at, is, version)) = reads.try_next().await? {
            let words = format!("version '{}' of {}", escape_bounded(&version.version, 80), version.modified);
            match is {
                Is::Head(checkpoint) => {
                    let head = Head { size: checkpoint.size, root: checkpoint.root };
                    heads.signed.push(Signed { head, id: version.version, version: words });
                    if at == 0 {
                        heads.top = Some(checkpoint);
                    }
                }
                Is::Junk(why) => heads.junk.push(format!("{words}: {why}")),
                Is::Gone => {}
            }
            if at.saturating_add(1) >= LOOKED_AT && heads.newest().is_some_and(|newest| newest.size >= slots) {
                break;
            }
        }
        Ok(heads)
    }

    /// The one of most records.
    pub(super) fn newest(&self) -> Option<Head> {
        let signed = self.signed.iter().map(|signed| signed.head).max_by_key(|head| head.size);
        signed.or_else(|| self.top.as_ref().map(|top| Head { size: top.size, root: top.root }))
    }

    /// The version of the newest head, where something else is what a reader gets.
    pub(super) fn beneath(&self) -> Option<&str> {
        let newest = self.newest()?;
        if self.top.as_ref().is_some_and(|top| top.size == newest.size && top.root == newest.root) {
            return None;
        }
        self.signed.iter().find(|signed| signed.head == newest).map(|signed| signed.id.as_str())
    }

    /// What is to be told: heads on top of such as have more records, those that are of another history than `root_at` says, and what is
    /// no head at all. Each is named by its version.
    pub(super) fn wrong(&self, root_at: &dyn Fn(u64) -> Option<exhibit_evidence::Digest>) -> Vec<String> {
        let (mut wrong, mut largest) = (Vec::new(), 0);
        for Signed { head: Head { size, root }, version, .. } in self.signed.iter().rev() {
            if *size < largest {
                wrong.push(format!("an older head, of {size} records, was put on top of the one of {largest}: {version}"));
            }
            if root_at(*size).is_some_and(|is| is != *root) {
                wrong.push(format!("a head of {size} records that {CONTRADICTS} is signed with this log's key: {version}"));
            }
            largest = largest.max(*size);
        }
        wrong.extend(self.junk.iter().map(|junk| format!("what is no head of this log was put in its place: {junk}")));
        wrong
    }
}

/// What is told of them.
pub(super) fn words(name: &LogName, wrong: &[String]) -> String {
    let wrong = several::listed(wrong, 0, "; ", several::DETAIL_BYTES);
    format!(
        "'{}': {wrong}; the head of most records counts, and is signed again on top (docs/operations/stores.md says what to do)",
        name.checkpoint()
    )
}

async fn is(store: &dyn Store, (name, keys): (&LogName, &Keys), version: &Version) -> Result<Is, LedgerError> {
    let bytes = match store.get_version(&name.checkpoint(), &version.version, NOTE_BYTES_MAX as u64).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == store::Kind::NotFound => return Ok(Is::Gone),
        Err(e) if e.kind() == store::Kind::Damaged => return Ok(Is::Junk("it is larger than any head".to_owned())),
        Err(e) => return Err(e.into()),
    };
    Ok(parse(&bytes, name, keys).map_or_else(Is::Junk, Is::Head))
}

/// The head that a reader gets, of a store that keeps nothing beneath it.
///
/// # Errors
/// [`super::Kind::Damaged`] when what lies there is none of this log.
pub(super) async fn read(store: &dyn Store, name: &LogName, keys: &Keys) -> Result<Option<Checkpoint>, LedgerError> {
    let bytes = match store.get(&name.checkpoint(), NOTE_BYTES_MAX as u64).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == store::Kind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    parse(&bytes, name, keys).map(Some).map_err(|why| LedgerError::incident(&name.folder(), why))
}

fn parse(bytes: &[u8], name: &LogName, keys: &Keys) -> Result<Checkpoint, String> {
    let checkpoint = Checkpoint::verify(bytes, &keys.log.public()).map_err(|e| e.to_string())?;
    if checkpoint.origin == name.origin(&keys.anchor.deployment) {
        return Ok(checkpoint);
    }
    let origin = escape_bounded(&checkpoint.origin, 200);
    Err(format!("its checkpoint is that of another log, '{origin}'"))
}
