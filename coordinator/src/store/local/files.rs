//! Single steps on files, and what the system's errors mean.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::super::{Kind, StoreError};

pub fn open_object(name: &str, path: &Path) -> Result<(File, u64), StoreError> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let file = opened.map_err(|e| match Errno::from_io_error(&e) {
        Some(Errno::NOENT | Errno::NOTDIR) => StoreError::not_found(name),
        Some(Errno::LOOP) => foreign(name),
        _ => map(&e, "open", name),
    })?;
    let meta = file.metadata().map_err(|e| map(&e, "look at", name))?;
    if meta.is_dir() {
        return Err(StoreError::not_found(name));
    }
    if !meta.is_file() {
        return Err(foreign(name));
    }
    Ok((file, meta.len()))
}

pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // Not every file system knows the flag; a hard link is create-only everywhere.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        Err(e) => Err(e.into()),
    }
}

pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub fn shown(path: &Path) -> String {
    exhibit_evidence::text::escape_bounded(&path.to_string_lossy(), 200)
}

pub fn foreign(name: &str) -> StoreError {
    let shown = exhibit_evidence::text::escape_bounded(name, 200);
    StoreError::new(
        Kind::Damaged,
        format!("'{shown}' is in the store and was not written by this program"),
        "find out where it comes from, then move it away",
    )
}

pub fn too_large(name: &str, size: u64, max: u64) -> StoreError {
    StoreError::new(
        Kind::Damaged,
        format!("'{name}' has {size} bytes, at most {max} are expected"),
        "the object was replaced: compare it with a backup",
    )
}

pub fn too_short(name: &str, size: u64, end: u64) -> StoreError {
    StoreError::new(Kind::Damaged, format!("'{name}' has {size} bytes, {end} are expected"), "the object was cut: compare it with a backup")
}

/// What the file system said, as what to do about it.
pub fn map(e: &io::Error, tried: &str, name: &str) -> StoreError {
    let name = exhibit_evidence::text::escape_bounded(name, 200);
    let message = format!("could not {tried} '{name}': {e}");
    let (kind, remedy) = match Errno::from_io_error(e) {
        Some(Errno::NOSPC) => (Kind::Full, "free space on the store's disk or move the store to a larger one"),
        Some(Errno::DQUOT | Errno::FBIG) => (Kind::Full, "raise the quota of the coordinator's user"),
        Some(Errno::ACCESS | Errno::PERM) => (Kind::Denied, "give the coordinator's user the right to read and write the store's folder"),
        Some(Errno::ROFS) => {
            (Kind::Denied, "the file system is mounted read-only: mount it writable, or look in the kernel's log why it was remounted")
        }
        Some(Errno::IO | Errno::UCLEAN) => (Kind::Damaged, "the disk reports an error: check it and the kernel's log"),
        Some(Errno::NOENT) => (Kind::Damaged, "a folder of the store vanished: restore it from a backup"),
        Some(Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG) => {
            (Kind::Bug, "an object stands where a folder is needed; please report it with this text")
        }
        Some(Errno::MFILE | Errno::NFILE) => (Kind::Retry, "raise the limit of open files (LimitNOFILE)"),
        _ => (Kind::Retry, "try again; if it stays, look in the kernel's log"),
    };
    StoreError::new(kind, message, remedy)
}
