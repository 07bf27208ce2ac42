//! Network namespaces that are mounted somewhere, in whatever mount namespace a process lives: nobody need live in them or have them
//! open. Every table of mounts is read once, as a process sees it from its root.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use super::causes::Causes;
use crate::capture::live::{SMALL_BYTES_MAX, lines, number};
use crate::capture::mounts::{Mounts, TABLE_BYTES_MAX};
use crate::capture::patience::{self, NotDone};
use crate::capture::process::bracketed;
use crate::capture::procfs::{self, link, read_at};

/// Tables that are read; a host with more mount namespaces than this says so.
const TABLES_MAX: usize = 8192;
/// On the way to a mount may lie the file system of a server, which answers when it likes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Threads that may be left behind by that.
const STUCK_MAX: u32 = 4;

/// A namespace that is mounted somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Its inode.
    pub namespace: u64,
    /// The kernel's id of the mount, which no other mount of the host has.
    id: u64,
    /// Where, from the root of the process.
    pub point: Vec<u8>,
}

/// The tables of mounts that were read.
#[derive(Debug, Default)]
pub struct MountTables {
    /// Mount namespace and root: who has another root is not shown what lies outside of it.
    read: BTreeSet<(u64, Vec<u8>)>,
    left_out: u64,
    cut: u64,
    failed: Causes,
    stuck: u32,
}

impl MountTables {
    /// The network namespaces that are mounted where a process or thread sees them; none where its table was read before.
    pub fn read(&mut self, dir: &OwnedFd) -> Vec<Bound> {
        // Who does not tell these does not tell its network namespace either, which is said.
        let namespace = link(dir, "ns/mnt").ok().and_then(|leads| bracketed(&leads, b"mnt"));
        let (Some(namespace), Ok(root)) = (namespace, link(dir, "root")) else { return Vec::new() };
        if self.read.contains(&(namespace, root.clone())) {
            return Vec::new();
        }
        if self.read.len() >= TABLES_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return Vec::new();
        }
        match read_at(dir, "mountinfo", TABLE_BYTES_MAX) {
            Ok(table) => {
                self.read.insert((namespace, root));
                self.cut = self.cut.saturating_add(u64::from(table.cut.is_some()));
                lines(&table.bytes).filter_map(bound).collect()
            }
            // It ended meanwhile.
            Err(Errno::NOENT | Errno::SRCH | Errno::INVAL) => Vec::new(),
            Err(e) => {
                self.failed.add(e);
                Vec::new()
            }
        }
    }

    /// Opens one.
    ///
    /// # Errors
    /// Why it could not be reached.
    pub fn open(&mut self, dir: &OwnedFd, mount: &Bound) -> Result<OwnedFd, String> {
        if self.stuck >= STUCK_MAX {
            return Err("not opened: too many paths to others before did not answer".to_owned());
        }
        let own = dir.try_clone().map_err(|e| format!("not opened: {e}"))?;
        let wanted = mount.clone();
        match patience::within(PATIENCE, move || reach(&own, &wanted)) {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(Errno::STALE)) => Err("not opened: something else lies there (mounted over it, or it was unmounted since)".to_owned()),
            Ok(Err(e)) => Err(format!("not opened: {e}")),
            Err(NotDone::Late) => {
                self.stuck = self.stuck.saturating_add(1);
                Err(format!("not opened: the path to it did not answer within {} s", PATIENCE.as_secs()))
            }
            Err(NotDone::Ended | NotDone::NoThread) => Err("not opened: no thread for it".to_owned()),
        }
    }

    /// What may be missing.
    pub fn missing(&self) -> Vec<String> {
        let failed = self.failed.count();
        let said = [
            (failed, format!("{failed} tables of mounts could not be read ({})", self.failed.told())),
            (self.cut, format!("{} tables of mounts are longer than {TABLE_BYTES_MAX} bytes, of which the rest was not read", self.cut)),
            (self.left_out, format!("the tables of mounts of {} processes were not read, after {TABLES_MAX} others", self.left_out)),
        ];
        let said = said.into_iter().filter(|(count, _)| *count > 0);
        said.map(|(_, what)| format!("{what}: network namespaces that are only mounted there may be missing")).collect()
    }
}

/// A line of a table that is about a network namespace.
fn bound(line: &[u8]) -> Option<Bound> {
    if !line.windows(6).any(|w| w == b" nsfs ") {
        return None;
    }
    let mounts = Mounts::parse(line);
    let mount = mounts.all().first().filter(|m| m.fs_type == b"nsfs")?;
    Some(Bound { namespace: bracketed(&mount.root, b"net")?, id: mount.id, point: mount.point.clone() })
}

/// Opens what is mounted at a path, from the root of a process, and only if it is that mount: its id is the kernel's word, and nobody
/// who serves a file system is asked what lies there.
fn reach(dir: &OwnedFd, mount: &Bound) -> Result<OwnedFd, Errno> {
    let root = procfs::follow(dir, "root", OFlags::PATH | OFlags::DIRECTORY)?;
    let path = mount.point.strip_prefix(b"/").unwrap_or(&mount.point);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let held = match openat2(&root, path, flags, Mode::empty(), how) {
        // Not offered, or not known to a filter. Wherever a link leads then, only this mount is opened.
        Err(Errno::NOSYS | Errno::PERM) => openat(&root, path, flags, Mode::empty())?,
        opened => opened?,
    };
    let info = read_at(procfs::root()?, format!("self/fdinfo/{}", held.as_raw_fd()), SMALL_BYTES_MAX)?;
    let id = lines(&info.bytes).find_map(|line| number::<u64>(line.strip_prefix(b"mnt_id:")?));
    if id != Some(mount.id) {
        return Err(Errno::STALE);
    }
    let file = procfs::reopen(&held, OFlags::RDONLY)?;
    if fstat(&file)?.st_ino == mount.namespace { Ok(file) } else { Err(Errno::STALE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_network_namespaces_are_meant() {
        let network = b"60 83 0:4 net:[4026532177] /tmp/a\\040b rw - nsfs nsfs rw";
        assert_eq!(bound(network), Some(Bound { namespace: 4_026_532_177, id: 60, point: b"/tmp/a b".to_vec() }));
        assert_eq!(bound(b"61 83 0:4 mnt:[4026532178] /run/x rw - nsfs nsfs rw"), None);
        // A path chooses its own name.
        assert_eq!(bound(b"62 83 8:1 / /net:[1] rw - ext4 nsfs rw"), None);
        assert_eq!(bound(b"not a mount - nsfs nsfs rw"), None);
    }
}
