//! The case in a bag that was made here, as the verifier reads it. No link is followed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use exhibit_evidence::verify::{CaseFiles, Entry, EntryKind};

/// A folder with a case.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl CaseFiles for Folder {
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> io::Result<()> {
        walk(&self.0, &mut |path, meta| {
            let kind = if meta.is_file() {
                EntryKind::File
            } else if meta.is_dir() {
                EntryKind::Folder { empty: fs::read_dir(path)?.next().is_none() }
            } else {
                EntryKind::Other
            };
            let name = path.strip_prefix(&self.0).map_err(io::Error::other)?;
            each(Entry { name: name.as_os_str().as_encoded_bytes(), size: meta.len(), kind });
            Ok(())
        })
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        let path = self.0.join(name);
        if !fs::symlink_metadata(&path)?.is_file() {
            return Err(io::Error::other("it is not a plain file"));
        }
        Ok(Box::new(File::open(path)?))
    }
}

/// Calls `each` for everything below a folder, folders before what is in them.
pub fn walk(root: &Path, each: &mut dyn FnMut(&Path, &fs::Metadata) -> io::Result<()>) -> io::Result<()> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            each(&path, &meta)?;
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(())
}
