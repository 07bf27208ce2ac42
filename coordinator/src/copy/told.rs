//! What was told already. A difference lasts, and every look finds it again; it is told once, and again when it has changed or was
//! gone for a whole look. Otherwise there would be no end: what is told becomes a record, the record makes the log grow, and a log
//! that grew is a reason to look.
//!
//! Remembered is only what was told: what the catalog did not take, or a limit swallowed, is told by the next look.
//!
//! In memory only: after a restart, or at another coordinator, what lasts is told once more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use exhibit_evidence::Digest;

use super::compare::shown;

/// Differences of one kind in one folder that are told one by one, give or take those that are told at the same moment; of the rest
/// their number is told. Below what [`crate::incidents::Recent`] lets pass in a minute, so one look loses none there.
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
    /// Differences in it, and at least one for each kind of each folder.
    kept: usize,
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

    /// True when this is to be told of a folder: it was not before, or not since it was forgotten. Whoever told it says so
    /// ([`Told::remember`]).
    pub(super) fn is_new(&self, folder: &str, kind: &'static str, what: &str) -> bool {
        self.note(folder, kind, &Digest::of(what.as_bytes())) == Noted::New
    }

    /// True when this is told of no folder.
    pub(super) fn is_new_anywhere(&self, kind: &'static str, what: &str) -> bool {
        let what = Digest::of(what.as_bytes());
        let memory = self.memory();
        !memory.folders.values().filter_map(|kinds| kinds.get(kind)).any(|kept| kept.named.contains(&what))
    }

    fn note(&self, folder: &str, kind: &'static str, what: &Digest) -> Noted {
        let memory = self.memory();
        match memory.folders.get(folder).and_then(|kinds| kinds.get(kind)) {
            Some(kept) if kept.named.contains(what) => Noted::Known,
            Some(kept) if kept.named.len() >= NAMED_MAX => Noted::NoRoom,
            _ => Noted::New,
        }
    }

    /// This was told.
    pub(super) fn remember(&self, folder: &str, kind: &'static str, what: &str) {
        let mut memory = self.memory();
        if memory.kept >= REMEMBERED_MAX {
            *memory = Memory::default();
        }
        memory.kept = memory.kept.saturating_add(1);
        memory.folders.entry(folder.to_owned()).or_default().entry(kind).or_default().named.insert(Digest::of(what.as_bytes()));
    }

    /// The number of those that are not told one by one was told.
    fn remember_rest(&self, folder: &str, kind: &'static str, rest: Rest) {
        let mut memory = self.memory();
        memory.folders.entry(folder.to_owned()).or_default().entry(kind).or_default().rest = rest;
        memory.count();
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

    /// A look at a folder found this, and nothing else. Gives the kinds of which there are more than were told one by one, if that was
    /// not told.
    fn found(&self, folder: &str, found: &BTreeMap<&'static str, Found>) -> Vec<&'static str> {
        let mut memory = self.memory();
        if let Some(kinds) = memory.folders.get_mut(folder) {
            kinds.retain(|kind, kept| {
                let Some(found) = found.get(kind) else { return false };
                kept.named.retain(|what| found.named.contains(what));
                if found.rest.count == 0 {
                    kept.rest = Rest::default();
                }
                !kept.named.is_empty() || kept.rest.count > 0
            });
            if kinds.is_empty() {
                memory.folders.remove(folder);
            }
        }
        memory.count();
        let kinds = memory.folders.get(folder);
        let told = |kind: &'static str| kinds.and_then(|kinds| kinds.get(kind)).map(|kept| kept.rest).unwrap_or_default();
        let untold = found.iter().filter(|(kind, found)| found.rest.count > 0 && found.rest != told(kind));
        untold.map(|(kind, _)| *kind).collect()
    }
}

impl Memory {
    fn count(&mut self) {
        self.kept = self.folders.values().flat_map(BTreeMap::values).map(|kept| kept.named.len().max(1)).sum();
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

    /// True when this is to be told. `what` must be the same for the same difference. Whoever told it says so ([`Telling::told`]).
    pub(super) fn is_new(&self, kind: &'static str, what: &str) -> bool {
        let digest = Digest::of(what.as_bytes());
        let noted = self.told.note(&self.folder, kind, &digest);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let found = found.entry(kind).or_default();
        // While nothing can be told none has a place in the memory; what this look found is bounded all the same.
        if noted == Noted::Known || (noted == Noted::New && found.named.len() < NAMED_MAX) {
            found.named.insert(digest);
            return noted == Noted::New;
        }
        found.rest.count = found.rest.count.saturating_add(1);
        // In whatever order they come.
        found.rest.sum ^= u64::from_le_bytes(digest.as_bytes().first_chunk().copied().unwrap_or_default());
        what.clone_into(&mut found.last);
        false
    }

    /// This was told.
    pub(super) fn told(&self, kind: &'static str, what: &str) {
        self.told.remember(&self.folder, kind, what);
    }

    /// The number of those of a kind that were not told one by one was told.
    pub(super) fn told_rest(&self, kind: &'static str) {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = found.get(kind) {
            self.told.remember_rest(&self.folder, kind, found.rest);
        }
    }

    /// The look is over, and was a whole one: what it did not find is forgotten. Gives what is to be told of those that were not told
    /// one by one, with their kinds. Whoever told it says so ([`Telling::told_rest`]).
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

    /// A look of which everything that is new is told.
    fn look(told: &Arc<Told>, found: &[String]) -> (Vec<String>, Vec<(&'static str, String)>) {
        look_and_tell(told, found, |_| true)
    }

    /// A look of which only some of what is new can be told; `None`: the number of the rest.
    fn look_and_tell(
        told: &Arc<Told>,
        found: &[String],
        works: impl Fn(Option<&str>) -> bool,
    ) -> (Vec<String>, Vec<(&'static str, String)>) {
        let telling = Telling::of(told, "cases/a");
        let mut new = Vec::new();
        for what in found {
            if telling.is_new("copy-differs", what) {
                new.push(what.clone());
                if works(Some(what.as_str())) {
                    telling.told("copy-differs", what);
                }
            }
        }
        let more = telling.end();
        for (kind, _) in more.iter().filter(|_| works(None)) {
            telling.told_rest(kind);
        }
        (new, more)
    }

    fn tell(told: &Told, folder: &str, kind: &'static str, what: &str) -> bool {
        let is_new = told.is_new(folder, kind, what);
        told.remember(folder, kind, what);
        is_new
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
        assert_eq!(told.memory().kept, 1);
        // A look that did not come to its end forgets nothing, and tells nothing twice.
        let half = Telling::of(&told, "cases/a");
        assert!(half.is_new("copy-differs", "c") && half.is_new("store-lost", "c"), "another kind is another matter");
        half.told("copy-differs", "c");
        drop(half);
        assert_eq!(look(&told, &[b[0].clone(), "c".to_owned()]).0, Vec::<String>::new());
        assert!(tell(&told, "cases/b", "copy-failed", "own") && !tell(&told, "cases/b", "copy-failed", "own"));
        assert!(!told.is_new_anywhere("copy-failed", "own") && told.is_new_anywhere("copy-failed", "other"));
        told.forget("cases/b");
        assert!(told.is_new_anywhere("copy-failed", "own"));
        assert!(tell(&told, "cases/b", "copy-failed", "own"));
        told.keep_folders(|name| name == "cases/a");
        assert!(tell(&told, "cases/b", "copy-failed", "own") && look(&told, &b).0.is_empty());
    }

    #[test]
    fn what_could_not_be_told_is_told_by_the_next_look() {
        let told = Arc::new(Told::default());
        let all = numbered(0..NAMED_MAX + 2);
        for _ in 0..3 {
            let (new, more) = look_and_tell(&told, &all, |_| false);
            assert_eq!((new.len(), more.len()), (NAMED_MAX, 1), "no more than one look tells, and nothing is taken for told");
            assert_eq!(told.memory().kept, 0);
        }
        let (new, _) = look_and_tell(&told, &all, |what| what.is_some_and(|what| what != "object 7"));
        assert_eq!(new.len(), NAMED_MAX);
        let (new, more) = look(&told, &all);
        assert_eq!((new, more.len()), (vec!["object 7".to_owned()], 1), "what was lost, and the number of the rest");
        assert!(more[0].1.starts_with("2 more of these"), "{more:?}");
        assert_eq!(look(&told, &all), (Vec::new(), Vec::new()));
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
            assert!(tell(&told, &format!("cases/{n}"), "copy-differs", "x"));
        }
        assert!(told.memory().kept <= REMEMBERED_MAX);
    }
}
