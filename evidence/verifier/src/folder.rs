//! A case folder or a bag on a disk, read without following anything that could lead out of it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use exhibit_evidence::bag;
use exhibit_evidence::log::{Checkpoint, NOTE_BYTES_MAX};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::verify::{CaseFiles, Entry, EntryKind};

/// Deepest folder below the given one that is entered; a case in a bag needs six.
const DEPTH_MAX: usize = 16;

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// A case as it is stored.
    Case,
    /// A case as it was handed over.
    Bag,
}

/// An opened folder.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    holds: Holds,
}

impl Folder {
    /// Checks that the path looks like a case folder or a bag; the error is a whole message.
    pub fn open(path: &Path) -> Result<Self, String> {
        let shown = escape_bounded(&path.to_string_lossy(), 300);
        let bad = |why: &str, remedy: &str| format!("exhibit-verify: '{shown}': {why}\n{remedy}");
        let remedy = "Give the folder of one case (it contains 'log' and, when something was collected, 'collections') or a bag (it contains 'data').";
        let closed = |e: &io::Error| bad(&e.to_string(), "Verify as a user who may read the folder, or a copy that you own.");
        let root = path.canonicalize().map_err(|e| if is_denied(&e) { closed(&e) } else { bad(&e.to_string(), remedy) })?;
        if !root.is_dir() {
            return Err(match packed(&root) {
                Some((why, how)) => bad(why, &how),
                None => bad("not a folder", remedy),
            });
        }
        if root.extension().is_some_and(|ending| ending == "partial") && fs::symlink_metadata(root.join(bag::TAG_MANIFEST)).is_err() {
            return Err(bad(
                "a bag that is not finished: its export was interrupted",
                "Run the same 'exhibit export' again, which goes on from there, and verify the folder that it makes; or remove this one, and the file of the same name that ends in .journal.",
            ));
        }
        let log = fs::symlink_metadata(root.join("log"));
        if let Some(e) = log.as_ref().err().filter(|e| is_denied(e)) {
            return Err(closed(e));
        }
        let is_folder = |meta: io::Result<fs::Metadata>| meta.is_ok_and(|m| m.is_dir());
        if is_folder(log) {
            return Ok(Self { root, holds: Holds::Case });
        }
        // Any one is enough: the others may be what was taken away.
        let has = |name: &str| fs::symlink_metadata(root.join(name)).is_ok();
        if [bag::BAGIT, bag::TAG_MANIFEST, bag::DESCRIPTION].iter().any(|name| has(name))
            || is_folder(fs::symlink_metadata(root.join("data/log")))
        {
            return Ok(Self { root, holds: Holds::Bag });
        }
        if is_folder(fs::symlink_metadata(root.join("cases"))) {
            return Err(bad(
                "this is a whole store, not one case",
                "Give one of the folders below 'cases'; each is verified by itself, and 'deployment' with --deployment.",
            ));
        }
        Err(bad("neither a case folder (it has no folder 'log') nor a bag (it has no bagit.txt)", remedy))
    }

    /// What it holds.
    pub const fn holds(&self) -> Holds {
        self.holds
    }

    /// True when the head of the log calls it a deployment's own one, and nothing of a case is beside it.
    pub fn is_deployment(&self) -> bool {
        let of_case = fs::symlink_metadata(self.root.join("collections")).is_ok();
        self.holds == Holds::Case && !of_case && self.origin().is_some_and(|o| o.starts_with("exhibit/") && o.ends_with("/deployment"))
    }

    /// What the head of the log calls it, unverified.
    fn origin(&self) -> Option<String> {
        let mut bytes = Vec::new();
        let head = open_plain(&self.root.join("log/checkpoint")).ok()?;
        head.take(NOTE_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
        Some(Checkpoint::parse_unverified(&bytes).ok()?.origin)
    }

    /// True when a canonical path lies inside.
    pub fn contains(&self, canonical: &Path) -> bool {
        canonical.starts_with(&self.root)
    }

    /// The folder's path for people.
    pub fn shown(&self) -> String {
        escape_bounded(&self.root.to_string_lossy(), 300)
    }

    fn list_folder(&self, folder: &Path, depth: usize, each: &mut dyn FnMut(Entry<'_>)) -> io::Result<Vec<PathBuf>> {
        let mut below = Vec::new();
        for entry in fs::read_dir(folder).map_err(|e| at(folder, &e))? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path).map_err(|e| at(&path, &e))?;
            let kind = match meta.file_type() {
                t if t.is_file() => EntryKind::File,
                t if t.is_dir() && depth < DEPTH_MAX => EntryKind::Folder { empty: is_empty(&path)? },
                _ => EntryKind::Other,
            };
            let name = path.strip_prefix(&self.root).map_err(io::Error::other)?;
            each(Entry { name: name.as_os_str().as_encoded_bytes(), size: meta.len(), kind });
            if matches!(kind, EntryKind::Folder { .. }) {
                below.push(path);
            }
        }
        Ok(below)
    }
}

impl CaseFiles for Folder {
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> io::Result<()> {
        let mut folders = vec![(self.root.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let below = self.list_folder(&folder, depth, each)?;
            folders.extend(below.into_iter().map(|path| (path, depth + 1)));
        }
        Ok(())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(open_plain(&self.root.join(name))?))
    }
}

/// What a file is that holds a case and has to be opened first, and how.
fn packed(file: &Path) -> Option<(&'static str, String)> {
    /// The first line of every age file (<https://c2sp.org/age>).
    const AGE: &[u8] = b"age-encryption.org/v1\n";
    /// Where POSIX has the magic of a tar member's header.
    const USTAR: std::ops::Range<usize> = 257..262;
    let mut begin = Vec::new();
    open_plain(file).ok()?.take(512).read_to_end(&mut begin).ok()?;
    let shown = escape_bounded(&file.to_string_lossy(), 300);
    if begin.starts_with(AGE) {
        let how = format!(
            "Decrypt and unpack it first, into an empty folder, with the identity of one of its recipients:\n  age --decrypt --identity KEY.txt '{shown}' | tar -x\nthen verify the folder that this makes. With a certificate instead, 'openssl cms -decrypt' makes KEY.txt from the file that ends in .p7m."
        );
        return Some(("an encrypted bag", how));
    }
    let tar = begin.get(USTAR).is_some_and(|magic| magic == b"ustar");
    tar.then(|| {
        (
            "a bag in one file",
            format!("Unpack it first, into an empty folder:\n  tar -x -f '{shown}'\nthen verify the folder that this makes."),
        )
    })
}

/// Opens a plain file read-only. The file that was opened must be the one that the path itself (not a link's target)
/// named, so that a link that is put there meanwhile is not followed.
fn open_plain(path: &Path) -> io::Result<File> {
    let named = fs::symlink_metadata(path)?;
    if !named.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let file = open_without_waiting(path)?;
    if !same_file(&named, &file.metadata()?) {
        return Err(io::Error::other("it was replaced while it was opened"));
    }
    Ok(file)
}

/// A pipe that is put in the file's place meanwhile must not make this wait for a writer.
#[cfg(target_os = "linux")]
fn open_without_waiting(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    /// `O_NONBLOCK` of Linux (asm-generic/fcntl.h; the same on x86-64 and arm64).
    const O_NONBLOCK: i32 = 0o4000;
    File::options().read(true).custom_flags(O_NONBLOCK).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_without_waiting(path: &Path) -> io::Result<File> {
    File::open(path)
}

fn is_denied(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::PermissionDenied
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder).map_err(|e| at(folder, &e))?.next().is_none())
}

/// An error that names the folder which it is about.
fn at(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("'{}': {e}", escape_bounded(&path.to_string_lossy(), 300)))
}

#[cfg(unix)]
fn same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    a.dev() == b.dev() && a.ino() == b.ino()
}

#[cfg(not(unix))]
fn same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    b.is_file() && a.len() == b.len()
}

/// Reads a whole file of bounded size.
pub fn read_small(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_plain(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}
