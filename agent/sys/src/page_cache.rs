//! Asking how much of a file is in the page cache, so that a reader can leave it as it found it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The number of `cachestat(2)`, the same on every architecture. Linux 6.5 has it.
const SYS_CACHESTAT: libc::c_long = 451;

#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

/// `struct cachestat` of the kernel's user interface.
#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// How many pages of a file are in the page cache. Reads nothing in and changes nothing.
///
/// # Errors
/// What the kernel answers: `ENOSYS` before Linux 6.5, `EPERM` for files of others without privilege or under a seccomp
/// filter, `EOPNOTSUPP` for huge pages.
pub fn cached_pages(file: BorrowedFd<'_>) -> io::Result<u64> {
    // A length of zero means up to the end.
    let range = Range { offset: 0, length: 0 };
    let mut counts = Counts::default();
    // SAFETY: both structs have the layout of the kernel's interface and live for the whole call, which reads the first,
    // fills the second and keeps neither; the descriptor is borrowed, so it stays open.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut counts, 0_u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(counts.cached) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_file_that_was_just_read_is_cached() {
        let path = std::env::current_exe().expect("own path");
        let bytes = std::fs::read(&path).expect("read");
        let file = std::fs::File::open(&path).expect("open");
        match cached_pages(file.as_fd()) {
            Ok(pages) => assert!(pages > 0 && pages <= bytes.len() as u64 / 4096 + 1, "{pages}"),
            Err(e) => assert!(matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)), "{e}"),
        }
    }

    #[test]
    fn a_pipe_has_no_page_cache() {
        let (reader, _writer) = std::io::pipe().expect("pipe");
        assert!(cached_pages(reader.as_fd()).map_or(true, |pages| pages == 0));
    }
}
