//! Which version of an object is the genuine one, where it is not the one that a reader gets who names none.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use crate::store::lock::is_replaced;
use crate::store::{PAGE_ENTRIES_MAX, Version};

/// Version ids that are remembered, of about 200 bytes each with their names. Beyond it those that this process wrote are forgotten,
/// and their newest version is read; of those that lie under another the first ones stay, and attestation tells of the rest.
const KNOWN_VERSIONS_MAX: usize = 16_384;
/// Hidden objects that are remembered, of about 250 bytes each: 64 MiB. Whoever hides objects hides all of them, so these are as many
/// as two terabytes of evidence have; attestation tells of the rest.
const HIDDEN_MAX: usize = 1 << 18;

/// Which version of an object is the one that was created. A reader who names none gets the newest, and whoever may delete can
/// put another one on top, or hide all of them.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What this process wrote.
    written: HashMap<String, String>,
    /// What was found under something newer.
    covered: HashMap<String, String>,
    /// What whoever knows the content found to be the genuine one: of a log's parts, whose names somebody else can take first, the first
    /// version need not be it.
    chosen: HashMap<String, String>,
    /// What was found under a deletion, so that nobody sees it who names no version. In the order in which it is listed.
    hidden: BTreeMap<String, String>,
}

impl Known {
    pub(super) fn note_written(&mut self, name: &str, version: String) {
        if self.written.len() >= KNOWN_VERSIONS_MAX {
            self.written.clear();
        }
        self.written.insert(name.to_owned(), version);
    }

    /// The genuine version of a name, on which others or a deletion lie. False when there is no room for it.
    pub(super) fn note_beneath(&mut self, genuine: &Version, is_hidden: bool) -> bool {
        let Version { name, version, .. } = genuine;
        let chosen = self.chosen.get(name).cloned();
        if is_hidden {
            return self.note_hidden(name, chosen.as_ref().unwrap_or(version));
        }
        self.hidden.remove(name);
        if chosen.is_some() {
            return true;
        }
        // Of what is replaced the newest is read.
        is_replaced(name) || self.note_covered(name, version)
    }

    /// The genuine version of a name by its content. Beyond the bound the last ones are not remembered: what is read of them is still
    /// compared with the signed log.
    pub(super) fn choose(&mut self, name: &str, version: &str) {
        if self.chosen.len() >= KNOWN_VERSIONS_MAX && !self.chosen.contains_key(name) {
            return;
        }
        self.chosen.insert(name.to_owned(), version.to_owned());
        if let Some(hidden) = self.hidden.get_mut(name) {
            version.clone_into(hidden);
        }
    }

    pub(super) fn chosen_version(&self, name: &str) -> Option<String> {
        self.chosen.get(name).cloned()
    }

    fn note_covered(&mut self, name: &str, version: &str) -> bool {
        if self.covered.len() >= KNOWN_VERSIONS_MAX && !self.covered.contains_key(name) {
            return false;
        }
        self.covered.insert(name.to_owned(), version.to_owned());
        true
    }

    fn note_hidden(&mut self, name: &str, version: &str) -> bool {
        if self.hidden.len() >= HIDDEN_MAX && !self.hidden.contains_key(name) {
            return false;
        }
        self.hidden.insert(name.to_owned(), version.to_owned());
        true
    }

    /// A listing shows this name: the deletion was taken away, or something lies on top of it. What was created once is still read
    /// from its genuine version.
    pub(super) fn note_seen(&mut self, name: &str) {
        if let Some(version) = self.hidden.remove(name)
            && !is_replaced(name)
        {
            self.note_covered(name, &version);
        }
    }

    /// What is destroyed.
    pub(super) fn forget(&mut self, name: &str) {
        self.written.remove(name);
        self.covered.remove(name);
        self.chosen.remove(name);
        self.hidden.remove(name);
    }

    /// What was hidden is not there any more, or is a head that was written again.
    pub(super) fn forget_hidden(&mut self, name: &str) {
        self.hidden.remove(name);
    }

    /// The version to read. None of a head, whose newest one is read as long as there is one to be seen.
    pub(super) fn version_of(&self, name: &str) -> Option<String> {
        let hidden = self.hidden.get(name).filter(|_| !is_replaced(name));
        self.chosen.get(name).or_else(|| self.covered.get(name)).or(hidden).or_else(|| self.written.get(name)).cloned()
    }

    pub(super) fn hidden_version(&self, name: &str) -> Option<String> {
        self.hidden.get(name).cloned()
    }

    pub(super) fn is_covered(&self, name: &str) -> bool {
        self.covered.contains_key(name) || self.chosen.contains_key(name)
    }

    pub(super) fn hides(&self, name: &str) -> bool {
        self.hidden.contains_key(name)
    }

    pub(super) fn hides_nothing(&self) -> bool {
        self.hidden.is_empty()
    }

    /// Hidden names below a folder with their versions, after one name and before another, at most one more than a page has.
    pub(super) fn hidden_below(&self, folder: &str, after: Option<&str>, end: Option<&str>) -> Vec<(String, String)> {
        let begin = begin_of(folder);
        let after = after.filter(|after| *after >= begin.as_str());
        let from = after.map_or(Bound::Included(begin.as_str()), Bound::Excluded);
        self.hidden
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(&begin) && end.is_none_or(|end| name.as_str() < end))
            .take(PAGE_ENTRIES_MAX + 1)
            .map(|(name, version)| (name.clone(), version.clone()))
            .collect()
    }

    /// The folders directly below one in which hidden objects lie, sorted.
    pub(super) fn hidden_folders(&self, folder: &str) -> Vec<String> {
        let begin = begin_of(folder);
        let below = self.hidden.range::<str, _>((Bound::Included(begin.as_str()), Bound::Unbounded)).map(|(name, _)| name);
        let mut folders: Vec<String> = Vec::new();
        for name in below.take_while(|name| name.starts_with(&begin)) {
            let rest = name.get(begin.len()..).unwrap_or_default();
            if let Some((folder, _)) = rest.split_once('/')
                && folders.last().is_none_or(|last| last != folder)
            {
                folders.push(folder.to_owned());
            }
        }
        folders
    }
}

/// How the names below a folder begin.
fn begin_of(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("{folder}/") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_evidence::Timestamp;

    fn version(name: &str) -> Version {
        let (name, version) = (name.to_owned(), "genuine".to_owned());
        Version { name, version, marker: false, latest: false, modified: Timestamp::from_unix_s(1) }
    }

    #[test]
    fn what_was_found_under_another_version_is_kept_and_what_finds_no_room_is_told() {
        let mut known = Known::default();
        for n in 0..KNOWN_VERSIONS_MAX {
            assert!(known.note_covered(&format!("cases/{n}"), "genuine"));
        }
        assert!(!known.note_covered("cases/one-more", "genuine"));
        assert!(known.note_covered("cases/0", "another"), "one that is there finds its place again");
        assert_eq!(known.covered.get("cases/0").map(String::as_str), Some("another"));
        assert_eq!(known.covered.len(), KNOWN_VERSIONS_MAX);
        known.covered.remove("cases/1");
        assert!(known.note_covered("cases/one-more", "genuine"), "one that was destroyed makes room");
    }

    #[test]
    fn what_was_chosen_by_its_content_is_read_whatever_lies_on_top_and_whatever_was_first() {
        let (mut known, slot) = (Known::default(), "cases/a/log/seq/0");
        assert!(known.note_beneath(&version(slot), false));
        known.choose(slot, "chosen");
        assert_eq!((known.version_of(slot).as_deref(), known.is_covered(slot)), (Some("chosen"), true));
        // Who looks at versions alone takes the first one for the genuine one.
        assert!(known.note_beneath(&version(slot), false) && known.note_beneath(&version(slot), true));
        assert_eq!((known.version_of(slot).as_deref(), known.hidden_version(slot).as_deref()), (Some("chosen"), Some("chosen")));
        known.forget(slot);
        assert_eq!((known.chosen_version(slot), known.version_of(slot)), (None, None));
    }

    #[test]
    fn what_is_hidden_is_listed_in_its_place_until_it_is_seen() {
        let mut known = Known::default();
        let names = ["cases/a/log/checkpoint", "cases/a/log/seq/0", "cases/a/log/seq/1", "cases/ab/x", "cases/b/x", "deployment/x"];
        for name in names {
            assert!(known.note_beneath(&version(name), true));
        }
        let below = |known: &Known, folder: &str, after: Option<&str>, end: Option<&str>| {
            known.hidden_below(folder, after, end).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(below(&known, "", None, None), names);
        assert_eq!(below(&known, "cases/a", None, None), names[..3], "and not those of another case whose name begins so");
        assert_eq!(below(&known, "cases/a", Some("cases/a/log/seq/0"), None), names[2..3]);
        assert_eq!(below(&known, "cases/a", Some("cases/a"), Some("cases/a/log/seq/1")), names[..2]);
        assert!(below(&known, "cases/a", Some("cases/zz"), None).is_empty() && below(&known, "cases/c", None, None).is_empty());
        assert_eq!(known.hidden_folders("cases"), ["a", "ab", "b"]);
        assert_eq!(known.hidden_folders(""), ["cases", "deployment"]);
        assert!(known.hidden_folders("cases/ab").is_empty());
        // A head is read as it is now, as long as there is one; what was created once, from the version that was found.
        assert_eq!((known.version_of(names[0]), known.hidden_version(names[0]).as_deref()), (None, Some("genuine")));
        assert_eq!(known.version_of(names[1]).as_deref(), Some("genuine"));
        known.note_seen(names[1]);
        assert_eq!((known.hides(names[1]), known.version_of(names[1]).as_deref()), (false, Some("genuine")));
        known.note_seen(names[0]);
        assert!(!known.hides(names[0]) && known.version_of(names[0]).is_none());
        assert!(known.note_beneath(&version(names[0]), false) && !known.is_covered(names[0]), "an older head is none to be read");
        known.forget(names[2]);
        assert!(below(&known, "cases/a", None, None).is_empty());
    }
}
