//! Reading pseudo files (/proc, /sys): their size is not known before, their content is made by the read itself and
//! may be endless, so they are read whole into a bounded buffer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use exhibit_evidence::manifest::{Kind, Status};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::{Content, NewItem, Output, Stop, evidence_path};

/// The largest pseudo file that is taken unless the capture says otherwise.
pub const PSEUDO_BYTES_MAX: usize = 1 << 20;

/// The content of a pseudo file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pseudo {
    /// What was read.
    pub bytes: Vec<u8>,
    /// True when there was more than the bound allowed.
    pub cut: bool,
}

/// Reads a pseudo file by path, at most `bytes_max` bytes.
///
/// # Errors
/// What the kernel said; [`status_of`] turns it into an item's status.
pub fn read_pseudo(path: &[u8], bytes_max: usize) -> io::Result<Pseudo> {
    read_pseudo_at(CWD, path, bytes_max)
}

/// Reads a pseudo file relative to an open folder, e.g. `/proc/<pid>`, which keeps meaning the same process.
///
/// # Errors
/// What the kernel said.
pub fn read_pseudo_at(folder: impl AsFd, name: &[u8], bytes_max: usize) -> io::Result<Pseudo> {
    // Non-blocking: some pseudo files (kmsg, trace_pipe) would wait for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: OwnedFd = openat(folder, name, flags, Mode::empty())?;
    read_to_bound(file.as_fd(), bytes_max)
}

fn read_to_bound(file: BorrowedFd<'_>, bytes_max: usize) -> io::Result<Pseudo> {
    const STEP: usize = 64 << 10;
    let mut out = Pseudo::default();
    let mut filled = 0_usize;
    while filled <= bytes_max {
        // One byte above the bound is asked for, so that "exactly full" and "more" can be told apart.
        let want = STEP.min(bytes_max.saturating_add(1).saturating_sub(filled)).max(1);
        out.bytes.resize(filled.saturating_add(want), 0);
        let got = match rustix::io::read(file, out.bytes.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(n) => n,
            Err(Errno::INTR) => 0,
            // A pipe-like file that has no more for now.
            Err(Errno::AGAIN) if filled > 0 => break,
            Err(e) => return Err(e.into()),
        };
        filled = filled.saturating_add(got);
    }
    out.cut = filled > bytes_max;
    out.bytes.truncate(filled.min(bytes_max));
    Ok(out)
}

/// Takes one pseudo file as an item of kind file, whatever becomes of it, and hands its bytes back for parsing
/// (empty when it could not be read).
///
/// # Errors
/// [`Stop`] from the output.
pub fn put_pseudo(out: &mut dyn Output, path: &[u8], bytes_max: usize) -> Result<Vec<u8>, Stop> {
    let item = NewItem::new(evidence_path(path), Kind::File, out.now(), "read");
    match read_pseudo(path, bytes_max) {
        Ok(Pseudo { bytes, cut: false }) => out.put(item, Content::Bytes(&bytes)).map(|_| bytes),
        Ok(Pseudo { bytes, cut: true }) => {
            let item = item.with_status(Status::Partial, format!("longer than {bytes_max} bytes: cut there"));
            out.put(item, Content::Bytes(&bytes)).map(|_| bytes)
        }
        Err(e) => {
            let (status, reason) = status_of(&e);
            out.put(item.with_status(status, reason), Content::None).map(|_| Vec::new())
        }
    }
}

/// The status and reason of an item that the kernel refused to give.
#[must_use]
pub fn status_of(error: &io::Error) -> (Status, String) {
    let status = match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NXIO | Errno::NODEV) => Status::Missing,
        Some(Errno::ACCESS | Errno::PERM) => Status::Denied,
        Some(Errno::SRCH | Errno::STALE) => Status::Vanished,
        _ => Status::Error,
    };
    (status, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_says_so() {
        let whole = read_pseudo(b"/proc/self/status", PSEUDO_BYTES_MAX).expect("own status");
        assert!(!whole.cut && whole.bytes.starts_with(b"Name:"));
        let cut = read_pseudo(b"/proc/self/status", 10).expect("own status");
        assert!(cut.cut && cut.bytes.len() == 10);
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("exact");
        std::fs::write(&path, [7; 10]).expect("write");
        let exact = read_pseudo(path.as_os_str().as_encoded_bytes(), 10).expect("read");
        assert!(!exact.cut && exact.bytes == [7; 10]);
    }

    #[test]
    fn errors_become_statuses() {
        let missing = read_pseudo(b"/proc/self/no-such", 10).expect_err("missing");
        assert_eq!(status_of(&missing).0, Status::Missing);
        assert_eq!(status_of(&Errno::SRCH.into()).0, Status::Vanished);
        assert_eq!(status_of(&Errno::ACCESS.into()).0, Status::Denied);
        assert_eq!(status_of(&Errno::IO.into()).0, Status::Error);
    }
}
