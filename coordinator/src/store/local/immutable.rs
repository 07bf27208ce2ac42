//! The immutable attribute (`chattr +i`, FS_IOC_SETFLAGS): the kernel then refuses to write, rename, link or remove the file,
//! also for root, until somebody with CAP_LINUX_IMMUTABLE takes the attribute off.
//!
//! Worth: it stops mistakes and programs that run as the coordinator's user without that capability. It does not stop root,
//! nor whoever holds the disk; so it is no lock, and nothing calls it one.

use std::fs::File;
use std::io;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::Inner;
use super::files::map;
use crate::store::{Kind, StoreError};

/// Sets or clears the attribute.
pub fn set(file: &File, on: bool) -> io::Result<()> {
    let flags = ioctl_getflags(file)?;
    let wanted = if on { flags | IFlags::IMMUTABLE } else { flags - IFlags::IMMUTABLE };
    if wanted == flags { Ok(()) } else { Ok(ioctl_setflags(file, wanted)?) }
}

/// Clears the attribute where there is one; a file system that knows none has nothing to clear.
pub fn clear(file: &File) -> io::Result<()> {
    match ioctl_getflags(file) {
        Ok(flags) if flags.contains(IFlags::IMMUTABLE) => set(file, false),
        _ => Ok(()),
    }
}

/// Tries on a staging file whether the attribute can be set, keeps the file, and can be taken off again. A crash in between
/// leaves an immutable staging file, which the next start clears.
pub fn probe(inner: &Inner) -> Result<(), StoreError> {
    let (file, path) = inner.stage("probe/immutable")?;
    let tried = set(&file, true);
    let kept = tried.is_ok() && std::fs::remove_file(&path).is_err();
    let undone = clear(&file).and_then(|()| if path.exists() { std::fs::remove_file(&path) } else { Ok(()) });
    undone.map_err(|e| map(&e, "remove", "probe/immutable"))?;
    if kept {
        return Ok(());
    }
    let why = tried.err().map_or_else(|| "a file with it could be removed".to_owned(), |e| e.to_string());
    Err(StoreError::new(
        Kind::Denied,
        format!("store.immutable is set and the immutable attribute does not work here: {why}"),
        "give the coordinator CAP_LINUX_IMMUTABLE (AmbientCapabilities= in its unit) on ext4, xfs or btrfs, or set store.immutable = false",
    ))
}
