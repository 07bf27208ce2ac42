//! Opens network namespaces, and nothing else: to open a device may do something, and what lies on a server may never be opened. It
//! is held first, which asks nobody, and looked at.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, openat};
use rustix::io::Errno;

use super::bound;
use crate::capture::process::bracketed;
use crate::capture::procfs;

/// `NSFS_MAGIC` (`include/uapi/linux/magic.h`).
const NSFS: u64 = 0x6e73_6673;

/// Opens the namespace to which a descriptor leads. `fd_dir` is the folder of descriptors.
///
/// # Errors
/// What the kernel said; [`Errno::STALE`]: the descriptor is another one's by now.
pub fn by_descriptor(fd_dir: &OwnedFd, fd: u32, inode: u64) -> Result<OwnedFd, Errno> {
    let held = procfs::follow(fd_dir, &fd.to_string(), OFlags::PATH)?;
    if leads_to(&held)? != Some(inode) {
        return Err(Errno::STALE);
    }
    procfs::reopen(&held, OFlags::RDONLY)
}

/// Opens the namespace that is mounted at a path, and tells its number; `None`: no network namespace lies there.
///
/// # Errors
/// What the kernel said.
pub fn by_name(path: &[u8]) -> Result<Option<(u64, OwnedFd)>, Errno> {
    let held = openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&held)?;
    let is_file = stat.st_mode & 0o170_000 == 0o100_000;
    if !is_file || fstatfs(&held)?.f_type as u64 != NSFS {
        return Ok(None);
    }
    // Where there is no procfs that tells, the file system's word is all that there is.
    if bound::mounted(&held).is_ok_and(|inode| inode != Some(stat.st_ino)) {
        return Ok(None);
    }
    if let Ok(file) = procfs::reopen(&held, OFlags::RDONLY) {
        return Ok(Some((stat.st_ino, file)));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty())?;
    let found = fstat(&file)?;
    let is_same = (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino);
    Ok(is_same.then_some((stat.st_ino, file)))
}

/// The number of the network namespace that is held; `None` for anything else. The kernel alone writes `net:[...]`: a path has a slash.
fn leads_to(held: &OwnedFd) -> Result<Option<u64>, Errno> {
    Ok(bracketed(&procfs::own_link(&format!("fd/{}", held.as_raw_fd()))?, b"net"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::testing::in_own_mounts;

    fn own_netns() -> u64 {
        let link = std::fs::read_link("/proc/self/ns/net").expect("a link");
        bracketed(link.as_os_str().as_encoded_bytes(), b"net").expect("a number")
    }

    #[test]
    fn only_network_namespaces_are_opened() {
        in_own_mounts("capture::network::open::tests::only_network_namespaces_are_opened", || {
            let place = tempfile::NamedTempFile::new().expect("file");
            let path = place.path().as_os_str().as_encoded_bytes();
            assert!(by_name(path).expect("looked at").is_none(), "a file that is left over");
            assert!(by_name(b"/dev/null").expect("looked at").is_none(), "a device");
            rustix::mount::mount_bind("/proc/self/ns/uts", place.path()).expect("mount");
            assert!(by_name(path).expect("looked at").is_none(), "another namespace");
            rustix::mount::mount_bind("/proc/self/ns/net", place.path()).expect("mount");
            let (inode, file) = by_name(path).expect("looked at").expect("the namespace");
            assert_eq!(fstat(&file).expect("stat").st_ino, inode);
            assert_eq!(own_netns(), inode);
            assert_eq!(by_name(b"/nonexistent").map(|_| ()), Err(Errno::NOENT));
        });
    }
}
