//! What is the agent's own and never evidence: its keys above all. Whoever may read a case must not thereby hold the key
//! that signs for the host.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::capture::NewItem;

/// Device, as major and minor number, and inode.
type Inode = ([u32; 2], u64);

/// The agent's own folders, by path, and the files in them, by inode: another name of a key (a hard link, a bind mount)
/// is the key as well.
#[derive(Debug, Clone, Default)]
pub struct Own {
    folders: Vec<Vec<u8>>,
    inodes: BTreeSet<Inode>,
}

/// A state folder holds about ten files.
const FILES_MAX: usize = 1_000;

impl Own {
    /// The folders, each with the files that lie in it now. One that cannot be read is known by its path.
    #[must_use]
    pub fn of(folders: &[&Path]) -> Self {
        let mut own = Self::default();
        for folder in folders {
            let real = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
            own.folders.push(real.as_os_str().as_bytes().to_vec());
            let files = std::fs::read_dir(&real).into_iter().flatten().take(FILES_MAX).filter_map(Result::ok);
            own.inodes.extend(files.filter_map(|f| f.metadata().ok()).filter(std::fs::Metadata::is_file).map(|m| {
                let dev = m.dev();
                ([rustix::fs::major(dev), rustix::fs::minor(dev)], m.ino())
            }));
        }
        own
    }

    /// True when the item lies in one of the folders or is one of their files.
    #[must_use]
    pub fn holds(&self, item: &NewItem) -> bool {
        let path = item.path.as_bytes();
        let below = |folder: &Vec<u8>| path.strip_prefix(folder.as_slice()).is_some_and(|rest| rest.starts_with(b"/"));
        self.folders.iter().any(below) || item.meta.as_ref().is_some_and(|m| self.inodes.contains(&(m.dev, m.ino)))
    }
}
