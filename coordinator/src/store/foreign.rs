//! Names in a store that nothing of ours ever has: whoever may write into it can make any. They are left out of every listing, and
//! remembered, so that whoever lists can say so.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use exhibit_evidence::text::escape_bounded;

use super::Trouble;
use crate::several;

/// Names that are remembered, of 1,024 characters each at most: a megabyte, or four of the longest characters. Whoever makes more of
/// them is found all the same, by the first ones.
const NAMED_MAX: usize = 1_000;
/// Azure's bound for a name, and S3's and Google's in bytes.
const NAME_CHARS_MAX: usize = 1_024;

/// What is told of names that the listings of a store in `place` left out, if there are any.
pub(super) fn trouble(place: &str, names: &[String]) -> Option<Trouble> {
    if names.is_empty() {
        return None;
    }
    let named: Vec<String> = names.iter().map(|name| format!("'{}'", escape_bounded(name, 200))).collect();
    let detail = format!(
        "nothing of ours ever has such a name, it was left out: {} (docs/operations/stores.md says what to do)",
        several::listed(&named, 0, ", ", several::DETAIL_BYTES)
    );
    Some(Trouble { kind: "store-foreign", subject: place.to_owned(), detail })
}

/// What listings left out.
#[derive(Debug, Default)]
pub(super) struct Foreign(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// As the last listing of each folder found them; of a folder that cannot be ours its name, which ends in a slash.
    there: BTreeSet<String>,
    /// Those that were told, or are about to be, so that each is told once in the life of a process.
    told: BTreeSet<String>,
    /// Not told yet.
    news: Vec<String>,
}

impl Foreign {
    /// A listing left this one out.
    pub(super) fn note(&self, name: &str) {
        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
        let mut seen = self.seen();
        if seen.told.len() < NAMED_MAX && seen.told.insert(name.clone()) {
            seen.news.push(name.clone());
        }
        if seen.there.len() < NAMED_MAX {
            seen.there.insert(name);
        }
    }

    /// Those whose names begin so.
    pub(super) fn below(&self, begin: &str) -> Vec<String> {
        self.seen().there.iter().filter(|name| name.starts_with(begin)).cloned().collect()
    }

    /// Names that begin so are listed anew.
    pub(super) fn forget_below(&self, begin: &str) {
        self.seen().there.retain(|name| !name.starts_with(begin));
    }

    /// The folders below are listed anew.
    pub(super) fn forget_folders(&self, begin: &str) {
        self.seen().there.retain(|name| !(name.starts_with(begin) && name.ends_with('/')));
    }

    /// Those that were not told yet; now they are.
    pub(super) fn news(&self) -> Vec<String> {
        std::mem::take(&mut self.seen().news)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_told_once_and_there_as_long_as_a_listing_finds_it() {
        let foreign = Foreign::default();
        for name in ["d/cases//", "d/cases/a/X", "d/cases/a//x", "d/cases/b/Y"] {
            foreign.note(name);
            foreign.note(name);
        }
        assert_eq!(foreign.news().len(), 4);
        assert_eq!(foreign.below("d/cases/a/"), ["d/cases/a//x", "d/cases/a/X"]);
        foreign.forget_below("d/cases/a/");
        assert!(foreign.below("d/cases/a/").is_empty());
        foreign.forget_folders("d/cases/");
        assert_eq!(foreign.below(""), ["d/cases/b/Y"]);
        foreign.note("d/cases/a/X");
        assert_eq!((foreign.below("d/cases/a/").len(), foreign.news().len()), (1, 0), "it is there again, and was told");
    }

    #[test]
    fn memory_is_bounded_whatever_is_there() {
        let foreign = Foreign::default();
        for n in 0..3 * NAMED_MAX {
            foreign.note(&format!("{n}{}", "ä".repeat(5_000)));
        }
        assert_eq!((foreign.below("").len(), foreign.news().len()), (NAMED_MAX, NAMED_MAX));
        assert!(foreign.below("").iter().all(|name| name.chars().count() == NAME_CHARS_MAX));
        foreign.note("one more");
        assert!(foreign.news().is_empty() && !foreign.below("").contains(&"one more".to_owned()));
        foreign.forget_below("0");
        foreign.note("one more");
        assert_eq!(foreign.below("one"), ["one more"], "what is gone makes room");
    }
}
