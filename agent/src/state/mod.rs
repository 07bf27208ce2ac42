//! The agent's state folder: its identity (written by `exhibit_certs`), its lock, and which collections it finished.
//! Nothing outside this folder is ever written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use exhibit_certs::files::{self, Access, FileError};
use exhibit_evidence::{CollectionId, Timestamp};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use serde::{Deserialize, Serialize};

/// Which collections were received whole, kept until their orders have expired.
const FINISHED_FILE: &str = "finished.json";
/// Held while a process uses the identity.
const LOCK_FILE: &str = "lock";
/// Clocks may be set back by this much without a finished order becoming executable again.
const MARGIN_S: i64 = 86_400;
/// At one collection a minute this is a week; the ones that expire last are kept.
const FINISHED_MAX: usize = 10_000;

/// An open state folder. One process at a time has it.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    finished: BTreeMap<CollectionId, Timestamp>,
    known: BTreeSet<CollectionId>,
    /// How often a collection was begun, and when its order expires.
    begun: BTreeMap<CollectionId, (u32, Timestamp)>,
    /// The latest expiry of an order of which it is forgotten here whether it was executed.
    forgotten: Option<Timestamp>,
    _lock: std::os::fd::OwnedFd,
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process of this host uses the identity.
    #[error("{0} is in use by another exhibit-agent process: one identity runs once; stop the other process first")]
    InUse(PathBuf),
    /// The lock cannot be taken.
    #[error("{0}: {1}")]
    Lock(PathBuf, std::io::Error),
    /// A file is unreadable.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file of finished collections does not hold what it should.
    #[error("{0}: {1}; it keeps orders from being executed twice: restore it, or move it away if that is certain")]
    Finished(PathBuf, String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FinishedFile {
    format: String,
    /// Collection to the expiry of its order.
    finished: BTreeMap<CollectionId, Timestamp>,
    /// Collection to the number of times that it was begun and the expiry of its order.
    #[serde(default)]
    begun: BTreeMap<CollectionId, (u32, Timestamp)>,
    /// Orders that expire by then may have been executed: what is known of them was forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forgotten: Option<Timestamp>,
}

/// How often one order is executed on this host at most, whatever a coordinator offers.
pub const ATTEMPTS_MAX: u32 = 8;

const FORMAT: &str = "exhibit-agent-finished/1";

impl State {
    /// Takes the folder's lock and reads what was finished.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        files::check_folder(dir)?;
        let lock_path = dir.join(LOCK_FILE);
        let lock_error = |e: rustix::io::Errno| StateError::Lock(lock_path.clone(), e.into());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = open(&lock_path, flags, Mode::RUSR | Mode::WUSR).map_err(lock_error)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::InUse(dir.to_owned())),
            Err(e) => return Err(lock_error(e)),
        }
        let FinishedFile { finished, begun, forgotten, .. } = read_finished(&dir.join(FINISHED_FILE))?;
        let known = finished.keys().cloned().collect();
        Ok(Self { dir: dir.to_owned(), finished, known, begun, forgotten, _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files that an agent writes on its host while it collects, for the record of what it did there.
    #[must_use]
    pub fn writes(&self) -> Vec<String> {
        [FINISHED_FILE, LOCK_FILE]
            .map(|file| exhibit_evidence::text::escape_bounded(&self.dir.join(file).to_string_lossy(), 1_000))
            .to_vec()
    }

    /// Collections whose orders must not be executed again.
    #[must_use]
    pub const fn finished(&self) -> &BTreeSet<CollectionId> {
        &self.known
    }

    /// Where an order that expires by this moment may have been executed here before. What was finished is forgotten when its
    /// order has long expired by this host's clock; a clock that went ahead and was set back, across a restart of the host
    /// as well, must not make such an order new. `None` for a collection that is known to be begun and not finished.
    #[must_use]
    pub fn forgotten(&self, collection: &CollectionId) -> Option<Timestamp> {
        self.forgotten.filter(|_| !self.begun.contains_key(collection))
    }

    /// Remembers a finished collection, first in memory, then on disk (written beside, fsynced, renamed).
    /// When the disk write fails the collection is still remembered by this process, and the next call writes both.
    ///
    /// # Errors
    /// [`FileError`]
    pub fn remember(&mut self, collection: CollectionId, expires_at: Timestamp, now: Timestamp) -> Result<(), FileError> {
        self.begun.remove(&collection);
        self.finished.insert(collection, expires_at);
        for (_, expiry) in self.finished.extract_if(.., |_, expiry| expiry.plus_s(MARGIN_S) <= now) {
            self.forgotten = self.forgotten.max(Some(expiry));
        }
        while self.finished.len() > FINISHED_MAX {
            let Some(first) = self.finished.iter().min_by_key(|(_, expiry)| **expiry).map(|(id, _)| id.clone()) else { break };
            self.forgotten = self.forgotten.max(self.finished.remove(&first));
        }
        self.known = self.finished.keys().cloned().collect();
        self.write()
    }

    /// Remembers that a collection is begun, first on disk, then nowhere else: gives false, and writes nothing, when it was
    /// begun [`ATTEMPTS_MAX`] times before. An order is for one execution; a few more are for processes that die.
    ///
    /// # Errors
    /// [`FileError`]: the collection must not be begun.
    pub fn begin(&mut self, collection: &CollectionId, expires_at: Timestamp, now: Timestamp) -> Result<bool, FileError> {
        for (_, (_, expiry)) in self.begun.extract_if(.., |_, (_, expiry)| expiry.plus_s(MARGIN_S) <= now) {
            self.forgotten = self.forgotten.max(Some(expiry));
        }
        let attempts = self.begun.get(collection).map_or(0, |(n, _)| *n);
        if attempts >= ATTEMPTS_MAX {
            return Ok(false);
        }
        while self.begun.len() >= FINISHED_MAX {
            let Some(first) = self.begun.iter().min_by_key(|(_, (_, expiry))| *expiry).map(|(id, _)| id.clone()) else { break };
            self.forgotten = self.forgotten.max(self.begun.remove(&first).map(|(_, expiry)| expiry));
        }
        self.begun.insert(collection.clone(), (attempts.saturating_add(1), expires_at));
        self.write().map(|()| true)
    }

    fn write(&self) -> Result<(), FileError> {
        let file = FinishedFile {
            format: FORMAT.to_owned(),
            finished: self.finished.clone(),
            begun: self.begun.clone(),
            forgotten: self.forgotten,
        };
        // A map of texts always serialises.
        let bytes = serde_json::to_vec(&file).unwrap_or_default();
        files::replace(&self.dir.join(FINISHED_FILE), &bytes, Access::Private)
    }
}

/// Largest file: twice [`FINISHED_MAX`] entries of about 85 bytes.
const FILE_BYTES_MAX: usize = 4 << 20;

fn read_finished(path: &Path) -> Result<FinishedFile, StateError> {
    let bad = |why: String| StateError::Finished(path.to_owned(), why);
    let bytes = match crate::capture::read_pseudo(path.as_os_str().as_encoded_bytes(), FILE_BYTES_MAX) {
        Ok(file) if file.cut => return Err(bad("too large".to_owned())),
        Ok(file) => file.bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Ok(FinishedFile { format: FORMAT.to_owned(), finished: BTreeMap::new(), begun: BTreeMap::new(), forgotten: None });
        }
        Err(e) => return Err(bad(e.to_string())),
    };
    let file: FinishedFile = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if file.format != FORMAT {
        return Err(bad(format!("format '{}': expected '{FORMAT}'", exhibit_evidence::text::escape_bounded(&file.format, 40))));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_evidence::Digest;

    fn collection(n: u64) -> CollectionId {
        CollectionId::from_digest(&Digest::of(&n.to_le_bytes()))
    }

    #[test]
    fn what_was_finished_survives_the_process_and_is_forgotten_after_its_expiry() {
        let dir = tempfile::tempdir().expect("folder");
        let day = |n: i64| Timestamp::from_unix_s(n * 86_400);
        let mut state = State::open(dir.path()).expect("opens");
        assert!(matches!(State::open(dir.path()), Err(StateError::InUse(_))), "one identity runs once");
        state.remember(collection(1), day(10), day(9)).expect("writes");
        state.remember(collection(2), day(20), day(9)).expect("writes");
        drop(state);
        let mut state = State::open(dir.path()).expect("opens again");
        assert!(state.finished().contains(&collection(1)) && state.finished().contains(&collection(2)));
        state.remember(collection(3), day(30), day(12)).expect("writes");
        assert!(!state.finished().contains(&collection(1)), "its order expired more than a day ago");
        assert!(state.finished().contains(&collection(2)));
    }

    #[test]
    fn an_order_is_begun_a_few_times_and_no_more() {
        let dir = tempfile::tempdir().expect("folder");
        let day = |n: i64| Timestamp::from_unix_s(n * 86_400);
        for attempt in 0..ATTEMPTS_MAX + 2 {
            // Each in a process of its own.
            let mut state = State::open(dir.path()).expect("opens");
            assert_eq!(state.begin(&collection(1), day(10), day(9)).expect("writes"), attempt < ATTEMPTS_MAX, "{attempt}");
            assert!(state.begin(&collection(2 + u64::from(attempt)), day(10), day(9)).expect("writes"));
        }
        let mut state = State::open(dir.path()).expect("opens");
        assert!(state.begin(&collection(1), day(20), day(12)).expect("writes"), "forgotten when its order has long expired");
        state.remember(collection(1), day(20), day(12)).expect("writes");
        assert!(state.finished().contains(&collection(1)) && !state.begun.contains_key(&collection(1)));
    }

    #[test]
    fn a_clock_that_was_ahead_and_is_set_back_makes_no_finished_order_new() {
        let dir = tempfile::tempdir().expect("folder");
        let day = |n: i64| Timestamp::from_unix_s(n * 86_400);
        let mut state = State::open(dir.path()).expect("opens");
        state.remember(collection(1), day(10), day(9)).expect("writes");
        assert!(state.begin(&collection(2), day(11), day(9)).expect("writes"));
        // The clock goes a month ahead: what is known is forgotten, and that it is forgotten is not.
        state.remember(collection(3), day(40), day(39)).expect("writes");
        assert!(!state.finished().contains(&collection(1)));
        assert!(state.begin(&collection(4), day(40), day(39)).expect("writes"));
        drop(state);
        // The host starts again with its clock set back.
        let state = State::open(dir.path()).expect("opens again");
        assert!(state.forgotten(&collection(1)) >= Some(day(10)), "an order that expires by then is not new");
        assert_eq!(state.forgotten(&collection(5)), Some(day(11)), "and no later one is held against anybody");
        assert_eq!(state.forgotten(&collection(4)), None, "what was begun and not finished goes on");
    }

    #[test]
    fn a_damaged_memory_is_not_taken_for_an_empty_one() {
        let dir = tempfile::tempdir().expect("folder");
        std::fs::write(dir.path().join(FINISHED_FILE), "{\"format\":\"exhibit-agent-finished/1\"").expect("write");
        let error = State::open(dir.path()).expect_err("refused").to_string();
        assert!(error.contains(FINISHED_FILE), "{error}");
    }
}
