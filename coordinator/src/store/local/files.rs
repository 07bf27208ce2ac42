//! Single steps on files, and what the system's errors mean.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;

use super::super::{BLOCK_BYTES, Kind, StoreError};

pub fn open_object(name: &str, path: &Path) -> Result<(File, u64), StoreError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
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

/// Smaller contents go through the page cache.
const DIRECT_BYTES_MIN: usize = 256 << 10;

/// Writes bytes at the file's position. Large contents that lie right in memory go past the page cache, where the file
/// system allows it (`open(2)`, `O_DIRECT`): they are synced next and not read soon, and copying them into fresh pages
/// costs more than everything else that is done with them.
pub fn write_bytes(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    let fits = bytes.len() >= DIRECT_BYTES_MIN && bytes.as_ptr().align_offset(BLOCK_BYTES) == 0;
    // The position is a multiple of a block only at the start.
    if fits && file.stream_position()? == 0 && set_direct(file, true).is_ok() {
        while let Some(blocks) = rest.get(..rest.len() / BLOCK_BYTES * BLOCK_BYTES).filter(|b| !b.is_empty()) {
            match file.write(blocks) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    rest = rest.get(count..).unwrap_or_default();
                    if !count.is_multiple_of(BLOCK_BYTES) {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // This file system or disk wants something else: the page cache takes everything.
                Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => break,
                Err(e) => return Err(e),
            }
        }
        set_direct(file, false)?;
    }
    file.write_all(rest)
}

fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    let wanted = if direct { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT };
    Ok(rustix::fs::fcntl_setfl(file, wanted)?)
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
    let told = StoreError::new(kind, message, remedy);
    // The kernel's own word: nobody stands between who could say it in its place.
    if kind == Kind::Denied { told.coded() } else { told }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Around the block and around the least size, well placed in memory and not, on the disk and in memory.
    #[test]
    fn what_is_written_past_the_cache_is_what_was_given() {
        for dir in [tempfile::tempdir(), tempfile::tempdir_in("/dev/shm")] {
            let dir = dir.expect("folder");
            let mut memory: Vec<u8> =
                (0..DIRECT_BYTES_MIN as u32 + 3 * BLOCK_BYTES as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let from = memory.as_ptr().align_offset(BLOCK_BYTES);
            memory.rotate_right(from);
            for (shift, len) in
                [(0, 0), (0, 100), (0, DIRECT_BYTES_MIN - 1), (0, DIRECT_BYTES_MIN), (0, DIRECT_BYTES_MIN + 1), (1, DIRECT_BYTES_MIN + 77)]
            {
                let bytes = &memory[from + shift..from + shift + len];
                let path = dir.path().join(format!("{shift}-{len}"));
                let mut file = File::create_new(&path).expect("create");
                write_bytes(&mut file, bytes).expect("write");
                write_bytes(&mut file, b"tail").expect("more of the same content");
                file.sync_all().expect("sync");
                assert!(std::fs::read(&path).expect("read") == [bytes, b"tail"].concat(), "{shift} {len}");
            }
        }
    }
}
