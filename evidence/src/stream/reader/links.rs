//! Links of a stream. Nothing may come beneath a symbolic link: a reader that follows links while it extracts would write
//! outside its folder. A hard link must name a file that stands before it: else it has no content.

use std::collections::BTreeSet;

use super::{Fault, MemberKind};
use crate::digest::Digest;
use crate::manifest::{Item, Kind, METHOD_ADOPTED};

/// The most symbolic links in one stream: their names are remembered, 8 bytes each, and are part of every snapshot.
pub const SYMLINKS_MAX: usize = 1 << 18;

/// The first 8 bytes of a name's SHA-256. A chance collision only refuses a member that was fine, and with the most links
/// and a hundred million names that happens once in a million streams; nobody can use one to get a member through.
#[must_use]
pub fn name_hash(name: &[u8]) -> u64 {
    Digest::of(name).as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// Names of the symbolic links that have passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symlinks(BTreeSet<u64>);

impl Symlinks {
    /// Looks at the next member and remembers it when it is a link.
    ///
    /// # Errors
    /// When it has the name of a link, or one of its folders has; when there are more than [`SYMLINKS_MAX`] links.
    pub fn pass(&mut self, name: &[u8], kind: MemberKind) -> Result<(), Fault> {
        let name = name.strip_suffix(b"/").unwrap_or(name);
        if self.covers(name) {
            return Err(Fault::BelowLink);
        }
        if kind == MemberKind::Symlink {
            if self.0.len() >= SYMLINKS_MAX {
                return Err(Fault::Links);
            }
            self.0.insert(name_hash(name));
        }
        Ok(())
    }

    /// True when this name, or a folder that it lies in, is one of the links.
    #[must_use]
    pub fn covers(&self, name: &[u8]) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let folders = name.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        folders.chain([name.len()]).filter_map(|end| name.get(..end)).any(|part| self.0.contains(&name_hash(part)))
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.0.iter().copied()
    }

    pub(super) fn from_hashes(hashes: BTreeSet<u64>) -> Self {
        Self(hashes)
    }
}

/// The most files that hard links may name: the first of a stream that have several names on their host.
pub const LINKABLE_MAX: usize = 1 << 16;

/// Files that a later hard link may name.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Linkable(BTreeSet<u64>);

impl Linkable {
    /// Looks at the next item that has a member. False when it is a hard link to what is no file with several names among
    /// the first [`LINKABLE_MAX`] before it. Of an adopted file nobody knows how many names it had: it counts as one.
    pub fn pass(&mut self, item: &Item) -> bool {
        match (item.kind, &item.target) {
            (Kind::File, _) if self.0.len() < LINKABLE_MAX && has_names(item) => {
                self.0.insert(name_hash(&item.path.member_name(&item.capture)));
                true
            }
            (Kind::Hardlink, Some(target)) => self.0.contains(&name_hash(target.as_bytes())),
            (Kind::Hardlink, None) => false,
            _ => true,
        }
    }
}

fn has_names(item: &Item) -> bool {
    item.method == METHOD_ADOPTED || item.meta.as_ref().is_some_and(|m| m.nlink > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_beneath_a_link() {
        let mut links = Symlinks::default();
        let mut pass = |name: &[u8], kind| links.pass(name, kind);
        assert_eq!(pass(b"files/d/before", MemberKind::File), Ok(()));
        assert_eq!(pass(b"files/d", MemberKind::Symlink), Ok(()));
        for name in [&b"files/d/pwn"[..], b"files/d/a/b", b"files/d", b"files/d/"] {
            assert_eq!(pass(name, MemberKind::File), Err(Fault::BelowLink), "{name:?}");
            assert_eq!(pass(name, MemberKind::Symlink), Err(Fault::BelowLink), "{name:?}");
        }
        for name in [&b"files/dd"[..], b"files/d2/x", b"logs/d/x", b"files"] {
            assert_eq!(pass(name, MemberKind::Directory), Ok(()), "{name:?}");
        }
    }
}
