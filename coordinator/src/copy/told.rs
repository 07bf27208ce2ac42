//! What was told already. A difference lasts, and every look finds it again; it is told once, and again when it has changed or was
//! gone for a whole look. Otherwise there would be no end: what is told becomes a record, the record makes the log grow, and a log
//! that grew is a reason to look.
//!
//! In memory only: after a restart, or at another coordinator, what lasts is told once more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use exhibit_evidence::Digest;

use super::compare::shown;

/// Differences of one kind in one folder that are told one by one; of the rest their number is told. Below what
/// [`crate::incidents::Recent`] lets pass in a minute, so none is lost there.
const NAMED_MAX: usize = 40;
/// Differences that are remembered, of all folders, about 150 bytes each with what is around them. Beyond, all are forgotten, and may
/// be told again earlier.
const REMEMBERED_MAX: usize = 1 << 16;

/// What was told of each folder, by kind.
#[derive(Debug, Default)]
pub struct Told(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    folders: BTreeMap<String, BTreeMap<&'static str, Kept>>,
    named: usize,
}

#[derive(Debug, Default)]
struct Kept {
    named: BTreeSet<Digest>,
    rest: Rest,
}

/// Differences that are not told one by one: how many, and a sum over them that another one would change.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Rest {
    count: u64,
    sum: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Noted {
    New,
    Known,
    NoRoom,
}

impl Told {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when this is to be told of a folder: it was not before, or not since it was forgotten.
    pub(super) fn is_new(&self, folder: &str, kind: &'static str, what: &str) -> bool {
        self.note(folder, kind, Digest::of(what.as_bytes())) == Noted::New
    }

    fn note(&self, folder: &str, kind: &'static str, what: Digest) -> Noted {
        let mut memory = self.memory();
        let kept = memory.folders.get(folder).and_then(|kinds| kinds.get(kind));
        if kept.is_some_and(|kept| kept.named.contains(&what)) {
            return Noted::Known;
        }
        if kept.is_some_and(|kept| kept.named.len() >= NAMED_MAX) {
            return Noted::NoRoom;
        }
        if memory.named >= REMEMBERED_MAX {
            *memory = Memory::default();
        }
        memory.named = memory.named.saturating_add(1);
        memory.folders.entry(folder.to_owned()).or_default().entry(kind).or_default().named.insert(what);
        Noted::New
    }

    /// A folder is as it should be, or can be copied again.
    pub(super) fn forget(&self, folder: &str) {
        self.keep_folders(|name| name != folder);
    }

    /// Forgets what was told of other folders than these.
    pub(super) fn keep_folders(&self, keeps: impl Fn(&str) -> bool) {
        let mut memory = self.memory();
        memory.folders.retain(|folder, _| keeps(folder));
        memory.count();
    }

    /// A look at a folder found this, and nothing else. Gives the kinds of which there are more than were told one by one, if that is
    /// new.
    fn found(&self, folder: &str, found: &BTreeMap<&'static str, Found>) -> Vec<&'static str> {
        let mut memory = self.memory();
        let mut changed = Vec::new();
        if let Some(kinds) = memory.folders.get_mut(folder) {
            kinds.retain(|kind, kept| {
                let Some(found) = found.get(kind) else { return false };
                kept.named.retain(|what| found.named.contains(what));
                if kept.rest != found.rest && found.rest.count > 0 {
                    changed.push(*kind);
                }
                kept.rest = found.rest;
                true
            });
            if kinds.is_empty() {
                memory.folders.remove(folder);
            }
        }
        memory.count();
        changed
    }
}

impl Memory {
    fn count(&mut self) {
        self.named = self.folders.values().flat_map(BTreeMap::values).map(|kept| kept.named.len()).sum();
    }
}

/// What one look at a folder finds, against what was told before.
#[derive(Debug)]
pub struct Telling {
    told: Arc<Told>,
    folder: String,
    found: Mutex<BTreeMap<&'static str, Found>>,
}

#[derive(Debug, Default)]
struct Found {
    named: BTreeSet<Digest>,
    rest: Rest,
    /// One of the rest, as an example.
    last: String,
}

impl Telling {
    pub(super) fn of(told: &Arc<Told>, folder: &str) -> Self {
        Self { told: Arc::clone(told), folder: folder.to_owned(), found: Mutex::default() }
    }

    /// True when this is to be told. `what` must be the same for the same difference.
    pub(super) fn is_new(&self, kind: &'static str, what: &str) -> bool {
        let digest = Digest::of(what.as_bytes());
        let noted = self.told.note(&self.folder, kind, digest);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let found = found.entry(kind).or_default();
        if noted == Noted::NoRoom {
            found.rest.count = found.rest.count.saturating_add(1);
            // In whatever order they come.
            found.rest.sum ^= u64::from_le_bytes(digest.as_bytes().first_chunk().copied().unwrap_or_default());
            what.clone_into(&mut found.last);
        } else {
            found.named.insert(digest);
        }
        noted == Noted::New
    }

    /// The look is over, and was a whole one: what it did not find is forgotten. Gives what is to be told of those that were not told
    /// one by one, with their kinds.
    pub(super) fn end(&self) -> Vec<(&'static str, String)> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let more = self.told.found(&self.folder, &found);
        let text = |kind: &&'static str| {
            let found = found.get(kind)?;
            let (count, folder) = (found.rest.count, shown(&self.folder));
            Some((*kind, format!("{count} more of these are in '{folder}' and not told one by one; one of them: {}", found.last)))
        };
        more.iter().filter_map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(told: &Arc<Told>, found: &[String]) -> (Vec<String>, Vec<(&'static str, String)>) {
        let telling = Telling::of(told, "cases/a");
        let new = found.iter().filter(|what| telling.is_new("copy-differs", what)).cloned().collect();
        (new, telling.end())
    }

    fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("object {n}")).collect()
    }

    #[test]
    fn what_lasts_is_told_once_and_what_came_back_again() {
        let told = Arc::new(Told::default());
        let (a, b) = (vec!["a has 1 byte".to_owned()], vec!["a has 2 bytes".to_owned()]);
        assert_eq!(look(&told, &a).0, a);
        for _ in 0..3 {
            assert_eq!(look(&told, &a).0, Vec::<String>::new(), "it lasts");
        }
        assert_eq!(look(&told, &b).0, b, "it changed");
        assert_eq!(look(&told, &[]).0, Vec::<String>::new());
        assert_eq!(look(&told, &b).0, b, "it was gone");
        assert_eq!(told.memory().named, 1);
        // A look that did not come to its end forgets nothing, and tells nothing twice.
        let half = Telling::of(&told, "cases/a");
        assert!(half.is_new("copy-differs", "c") && half.is_new("store-lost", "c"), "another kind is another matter");
        drop(half);
        assert_eq!(look(&told, &[b[0].clone(), "c".to_owned()]).0, Vec::<String>::new());
        assert!(told.is_new("cases/b", "copy-failed", "own") && !told.is_new("cases/b", "copy-failed", "own"));
        told.forget("cases/b");
        assert!(told.is_new("cases/b", "copy-failed", "own"));
        told.keep_folders(|name| name == "cases/a");
        assert!(told.is_new("cases/b", "copy-failed", "own") && look(&told, &b).0.is_empty());
    }

    #[test]
    fn of_many_the_number_is_told_and_memory_is_bounded() {
        let told = Arc::new(Told::default());
        let (new, more) = look(&told, &numbered(0..NAMED_MAX + 2));
        assert_eq!((new.len(), more.len()), (NAMED_MAX, 1));
        assert!(more[0].1.starts_with("2 more of these are in 'cases/a'"), "{more:?}");
        let mut backwards = numbered(0..NAMED_MAX + 2);
        backwards.reverse();
        assert_eq!(look(&told, &backwards), (Vec::new(), Vec::new()), "the same in another order");
        let (new, more) = look(&told, &numbered(0..NAMED_MAX + 3));
        assert_eq!((new.len(), more.len()), (0, 1), "one more");
        let (new, more) = look(&told, &numbered(2..NAMED_MAX + 3));
        assert_eq!((new.len(), more.len()), (0, 0), "two are gone, and their places are free from the next look on: {more:?}");
        assert_eq!(look(&told, &numbered(2..NAMED_MAX + 3)).0.len(), 2);
        for n in 0..REMEMBERED_MAX {
            assert!(told.is_new(&format!("cases/{n}"), "copy-differs", "x"));
        }
        assert!(told.memory().named <= REMEMBERED_MAX);
    }
}
