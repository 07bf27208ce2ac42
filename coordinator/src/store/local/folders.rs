//! The folders above objects. They are a means of the file system and no part of the store: a bucket has none. So one without an object is in
//! no list, and one that was made for nothing is taken away again.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

use super::{DEPTH_MAX, Inner, KNOWN_FOLDERS_MAX, name_is_valid};

/// Tries to put an object into a folder that others take away, because it is empty still.
const TRIES_MAX: u32 = 5;

/// What tells a folder from another one that was made in its place. A number is soon given again, so when it was made counts as well, where the
/// file system knows that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    device: u64,
    inode: u64,
    at: Option<SystemTime>,
}

impl Made {
    fn of(folder: &Path) -> io::Result<Self> {
        let meta = std::fs::symlink_metadata(folder)?;
        Ok(Self { device: meta.dev(), inode: meta.ino(), at: meta.created().ok() })
    }
}

impl Inner {
    /// Makes the folders above an object, has `rename` put the object there, and gives the folder. Whoever finds a folder empty may take it
    /// away between the two: then it is made again. What was made for nothing goes again.
    pub(super) fn place(&self, name: &str, rename: impl Fn() -> io::Result<()>) -> io::Result<PathBuf> {
        let (mut made, mut tries) = (Vec::new(), 0_u32);
        loop {
            let tried = self.make_folders(name, &mut made).and_then(|folder| rename().map(|()| folder));
            // It holds something now and stays. That it was durable all the time is known only after that.
            let Err(error) = tried else { return self.make_folders(name, &mut made) };
            tries = tries.saturating_add(1);
            if error.kind() != io::ErrorKind::NotFound || tries >= TRIES_MAX {
                self.unmake(&made);
                return Err(error);
            }
            self.forget_folders(name);
        }
    }

    /// Makes the folders above an object and has each of them durable before it is used. Those that were not there are added to `made`.
    ///
    /// Another coordinator on the same folder may have taken one away that was empty, and made it anew, and not have it durable yet. Once the
    /// object lies in them nobody can: this is called after that in any case, and compares each with what is known. That costs one look at each.
    pub(super) fn make_folders(&self, name: &str, made: &mut Vec<PathBuf>) -> io::Result<PathBuf> {
        let mut folder = self.root.clone();
        let Some((above, _)) = name.rsplit_once('/') else { return Ok(folder) };
        for part in above.split('/') {
            let parent = folder.clone();
            folder.push(part);
            if self.is_durable(&folder) {
                continue;
            }
            // What is known was made durable after it was made last: nobody here takes it away between the two.
            let _alone = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => made.push(folder.clone()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            // Before the sync: what is put in its place after this look is not taken for it.
            let found = Made::of(&folder)?;
            self.sync_dir(&parent)?;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= KNOWN_FOLDERS_MAX {
                known.clear();
            }
            known.insert(folder.clone(), found);
        }
        Ok(folder)
    }

    /// Whether a folder is the one whose parent was synced after it was made.
    fn is_durable(&self, folder: &Path) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(folder).copied();
        known.is_some_and(|known| Made::of(folder).is_ok_and(|found| found == known))
    }

    /// Takes a folder away that has nothing in it; the system refuses any other.
    pub(super) fn remove_empty(&self, folder: &Path) -> io::Result<()> {
        let _alone = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(folder);
        std::fs::remove_dir(folder)
    }

    /// As far as they are empty. Those that stay do no harm.
    fn unmake(&self, made: &[PathBuf]) {
        for folder in made.iter().rev() {
            match self.remove_empty(folder) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return,
                _ => {}
            }
        }
    }

    fn forget_folders(&self, name: &str) {
        let path = self.path(name);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for folder in path.ancestors().skip(1).take_while(|folder| *folder != self.root) {
            known.remove(folder);
        }
    }

    /// Whether anything but folders lies in a folder, however deep. What cannot be looked into counts as something: whoever lists it says what
    /// is wrong with it.
    pub(super) fn holds_something(&self, folder: &str) -> bool {
        self.path(folder).read_dir().map_or_else(
            |e| !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
            |entries| self.is_something(folder, entries),
        )
    }

    fn is_something(&self, folder: &str, entries: std::fs::ReadDir) -> bool {
        let mut folders = Vec::new();
        for entry in entries {
            let Ok(entry) = entry else { return true };
            let raw = entry.file_name();
            match (raw.to_str().filter(|name| name_is_valid(name)), entry.file_type()) {
                (Some(name), Ok(kind)) if kind.is_dir() => folders.push(format!("{folder}/{name}")),
                _ => return true,
            }
        }
        let is_deep = folder.split('/').count() > DEPTH_MAX;
        folders.iter().any(|inside| is_deep || self.holds_something(inside))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::LocalStore;
    use super::*;

    #[test]
    fn what_was_made_for_a_refused_write_goes_again_and_nothing_else() {
        let dir = tempfile::tempdir().expect("folder");
        let store = LocalStore::create(&dir.path().join("store")).expect("store");
        let root = dir.path().join("store");
        std::fs::create_dir_all(root.join("a")).expect("made");
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        let refused = store.inner.place("a/b/c/object", full).expect_err("full");
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        assert!(root.join("a").exists() && !root.join("a/b").exists());
        // Another writer was there in the meantime.
        let beside = || std::fs::write(root.join("a/b/beside"), b"x").and_then(|()| full());
        store.inner.place("a/b/c/object", beside).expect_err("full");
        assert!(root.join("a/b/beside").exists() && !root.join("a/b/c").exists());
    }

    #[test]
    fn a_folder_that_another_coordinator_made_anew_is_made_durable_again() {
        let dir = tempfile::tempdir().expect("folder");
        let root = dir.path().join("store");
        let store = LocalStore::create(&root).expect("store");
        let folder = root.join("a/b");
        let known = || store.inner.known.lock().expect("no panic").get(&folder).copied();
        store.inner.make_folders("a/b/object", &mut Vec::new()).expect("made");
        let first = known().expect("durable");
        // Made while the old one is there, so that it has another number.
        std::fs::create_dir(root.join("a/new")).expect("made");
        std::fs::remove_dir(&folder).expect("empty");
        std::fs::rename(root.join("a/new"), &folder).expect("renamed");
        let now = Made::of(&folder).expect("there");
        assert_ne!(first, now);
        store.inner.place("a/b/object", || std::fs::write(folder.join("object"), b"x")).expect("placed");
        assert_eq!(known(), Some(now), "its parent was synced again");
        store.inner.make_folders("a/b/other", &mut Vec::new()).expect("there");
        assert_eq!(known(), Some(now));
    }

    #[test]
    fn a_folder_that_is_taken_away_in_between_is_made_again() {
        let dir = tempfile::tempdir().expect("folder");
        let root = dir.path().join("store");
        let store = LocalStore::create(&root).expect("store");
        let times = Cell::new(0_u32);
        let rename = || {
            times.set(times.get() + 1);
            if times.get() < TRIES_MAX {
                store.inner.remove_empty(&root.join("a/b"))?;
                std::fs::remove_dir(root.join("a"))?;
            }
            std::fs::write(root.join("a/b/object"), b"x")
        };
        let folder = store.inner.place("a/b/object", rename).expect("made again");
        assert!(folder == root.join("a/b") && folder.join("object").exists() && times.get() == TRIES_MAX);
        let gone = || Err(io::Error::from(io::ErrorKind::NotFound));
        store.inner.place("x/object", gone).expect_err("it ends");
        assert!(!root.join("x").exists());
        assert!(store.inner.usable().is_ok(), "no disk failed");
    }
}
