//! Every version of every object, as the store lists them.

use exhibit_evidence::Timestamp;
use exhibit_evidence::text::escape_bounded;

use super::super::{Kind, StoreError};
use super::Vault;
use super::dialect::Ask;

/// Version ids that S3 makes have 32 to 100 characters; Google's are numbers, Azure's times.
const VERSION_BYTES_MAX: usize = 1_024;
/// Where a listing goes on is a name and a version, or a token of some hundred bytes, and goes into an address.
const CURSOR_BYTES_MAX: usize = 8_192;
/// Pages that are turned for one name, until there are this many versions of it or no more.
const PAGES_OF_NAME_MAX: usize = 1_000;
const VERSIONS_OF_NAME_MIN: usize = 1_000;

/// One version of an object, or a marker that stands for its deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Our name of the object; what lies outside our prefix is not listed.
    pub name: String,
    /// The store's id of the version; `null` where the bucket kept none.
    pub version: String,
    /// It is a delete marker; only S3 has them.
    pub marker: bool,
    /// It is what a reader gets who asks for no version.
    pub latest: bool,
    /// When the store wrote it.
    pub modified: Timestamp,
}

/// Where a listing goes on: name and version, or the store's own token in the place of the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub(super) key: String,
    pub(super) version: String,
}

/// One page of versions, by name; within a name as [`Vault::newest_first`] says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionPage {
    /// At most a thousand.
    pub versions: Vec<Version>,
    /// Where the next page begins, when there is one.
    pub next: Option<Cursor>,
}

/// A version as a cloud's listing says it, not yet looked at.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: String,
    pub(super) version: String,
    pub(super) marker: bool,
    pub(super) latest: bool,
    pub(super) modified: Option<Timestamp>,
}

/// A page as a cloud's listing says it.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) found: Vec<Found>,
    pub(super) next: Option<Cursor>,
}

impl Vault {
    /// One page of the versions whose names begin with `begin`.
    ///
    /// # Errors
    /// [`Kind::Denied`] when they may not be listed.
    pub async fn versions(&self, begin: &str, after: Option<&Cursor>) -> Result<VersionPage, StoreError> {
        let prefix = if begin.is_empty() && self.prefix.is_empty() { String::new() } else { self.key(begin) };
        let (below, ask) = self.dialect().list(&prefix, after);
        // The versions of one name are no search among all that was deleted.
        let lists = begin.is_empty() || begin.ends_with('/');
        let reply = self.ask("list the versions in", None, below, Ask { lists, ..ask }).await?;
        let Listed { found, next } = self.read(self.dialect().page(&reply))?;
        let versions = found.into_iter().filter_map(|found| self.version(found).transpose()).collect::<Result<Vec<_>, _>>()?;
        let too_long = |next: &Cursor| next.key.len().saturating_add(next.version.len()) > CURSOR_BYTES_MAX;
        if (next.is_some() && next.as_ref() == after) || next.as_ref().is_some_and(too_long) {
            return Err(self.endless());
        }
        Ok(VersionPage { versions, next })
    }

    /// All versions and markers of one object, at most some thousand of them.
    ///
    /// # Errors
    /// As [`Vault::versions`].
    pub async fn versions_of(&self, name: &str) -> Result<Vec<Version>, StoreError> {
        let mut found: Vec<Version> = Vec::new();
        let mut next: Option<Cursor> = None;
        // Azure may give a short page, or an empty one, and say that it goes on: the current version may be on the next.
        for _ in 0..PAGES_OF_NAME_MAX {
            let page = self.versions(name, next.as_ref()).await?;
            // The name itself is the first of all names that begin with it.
            let beyond = page.versions.iter().any(|v| v.name != name);
            found.extend(page.versions.into_iter().filter(|v| v.name == name));
            if beyond || page.next.is_none() || found.len() >= VERSIONS_OF_NAME_MIN {
                return Ok(found);
            }
            next = page.next;
        }
        Err(self.endless())
    }

    fn endless(&self) -> StoreError {
        StoreError::new(Kind::Damaged, format!("{}: the list of versions does not end", self.description), "use another store")
    }

    /// Brings the versions of one name into the order in which S3 lists them: the newest first. Google counts generations
    /// upwards and Azure names versions by their time, but only that they are written later makes them later.
    pub(in crate::store) fn newest_first(&self, versions: &mut [Version]) {
        if !self.dialect().has_markers() {
            let number = |v: &Version| (v.latest, v.modified, v.version.len(), v.version.clone());
            versions.sort_by_cached_key(|v| std::cmp::Reverse(number(v)));
        }
    }

    /// True where a listing gives the newest version of a name first.
    pub(in crate::store) fn lists_newest_first(&self) -> bool {
        self.dialect().has_markers()
    }

    /// What hides an object whose versions these are, in words: a marker, or that none of them is current.
    #[must_use]
    pub fn hidden_by(&self, versions: &[Version]) -> Option<String> {
        let mut markers = versions.iter().filter(|v| v.marker);
        if let Some(marker) = markers.next() {
            let older = markers.count();
            let older = if older > 0 { format!(" and {older} older ones") } else { String::new() };
            return Some(format!("under the delete marker '{}' of {}{older}", escape_bounded(&marker.version, 80), marker.modified));
        }
        let hidden = !self.dialect().has_markers() && !versions.is_empty() && !versions.iter().any(|v| v.latest);
        hidden.then(|| "because it was deleted without naming a version: none of them is current".to_owned())
    }

    fn version(&self, found: Found) -> Result<Option<Version>, StoreError> {
        let Found { key, version, marker, latest, modified } = found;
        let name =
            if self.prefix.is_empty() { Some(key.as_str()) } else { key.strip_prefix(&self.prefix).and_then(|k| k.strip_prefix('/')) };
        let Some(name) = name.map(str::to_owned) else { return Ok(None) };
        let (Some(modified), true) = (modified, (1..=VERSION_BYTES_MAX).contains(&version.len())) else {
            let message = format!("{} lists a version without its id or time", self.description);
            return Err(StoreError::new(Kind::Damaged, message, "use another store"));
        };
        Ok(Some(Version { name, version, marker, latest, modified }))
    }
}
