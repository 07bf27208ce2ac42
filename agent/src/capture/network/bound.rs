//! Network namespaces that are mounted somewhere, in whatever mount namespace a process lives: nobody need live in them or have them
//! open. Every table of mounts is read once, as a process sees it from its root.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, fstat, openat, openat2, statx};
use rustix::io::Errno;

use super::causes::Causes;
use super::patient::Patient;
use crate::capture::live::{SMALL_BYTES_MAX, lines, number};
use crate::capture::mounts::{Mounts, TABLE_BYTES_MAX};
use crate::capture::process::bracketed;
use crate::capture::procfs::{self, link, read_at};

/// Tables that are read; a host with more mount namespaces than this says so.
const TABLES_MAX: usize = 8192;

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
    read: BTreeSet<(u64, Root)>,
    left_out: u64,
    cut: u64,
    failed: Causes,
    /// Roots that did not answer, or were not asked because others did not.
    silent: u64,
    /// On the way to a mount, and to a root, may lie the file system of a server, which answers when it likes.
    roots: Patient,
    opens: Patient,
}

/// The root of a process. Its path is no name for it: a folder that is gone, and what lies under another mount, have the path of
/// another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Root {
    mount: u64,
    device: (u32, u32),
    inode: u64,
    /// When it was made, where the file system knows: an inode number is given away again.
    made: (i64, u32),
}

impl Root {
    fn of(dir: &OwnedFd) -> Result<Self, Errno> {
        let held = procfs::follow(dir, "root", OFlags::PATH | OFlags::DIRECTORY)?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(&held, "", flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
        let is_made = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let made = if is_made { (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec) } else { (0, 0) };
        let mount = mount_id(&held)?.ok_or(Errno::BADMSG)?;
        Ok(Self { mount, device: (stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino, made })
    }
}

/// The kernel's id of the mount on which something lies.
fn mount_id(held: &OwnedFd) -> Result<Option<u64>, Errno> {
    let info = read_at(procfs::root()?, format!("self/fdinfo/{}", held.as_raw_fd()), SMALL_BYTES_MAX)?;
    Ok(lines(&info.bytes).find_map(|line| number::<u64>(line.strip_prefix(b"mnt_id:")?)))
}

/// The network namespace that is mounted where something lies, by the kernel's list of the agent's own mounts; `None` for anything else.
/// A descriptor that was opened through a mount shows its path, and not the namespace.
///
/// # Errors
/// Without a procfs that tells; [`Errno::OVERFLOW`]: not in so much of the list as is read.
pub fn mounted(held: &OwnedFd) -> Result<Option<u64>, Errno> {
    let Some(id) = mount_id(held)? else { return Err(Errno::NOTSUP) };
    let table = read_at(procfs::root()?, "self/mountinfo", TABLE_BYTES_MAX)?;
    let found = lines(&table.bytes).filter_map(bound).find(|mount| mount.id == id);
    if found.is_none() && table.cut.is_some() { Err(Errno::OVERFLOW) } else { Ok(found.map(|mount| mount.namespace)) }
}

impl MountTables {
    /// The network namespaces that are mounted where a process or thread sees them; none where its table was read before.
    ///
    /// # Errors
    /// [`Errno::XDEV`] alone: something is mounted over what was to be looked at.
    pub fn read(&mut self, dir: &OwnedFd) -> Result<Vec<Bound>, Errno> {
        let Some(key) = self.key(dir)? else { return Ok(Vec::new()) };
        if self.read.contains(&key) {
            return Ok(Vec::new());
        }
        if self.read.len() >= TABLES_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return Ok(Vec::new());
        }
        match read_at(dir, "mountinfo", TABLE_BYTES_MAX) {
            Ok(table) => {
                self.read.insert(key);
                self.cut = self.cut.saturating_add(u64::from(table.cut.is_some()));
                Ok(lines(&table.bytes).filter_map(bound).collect())
            }
            // It ended meanwhile.
            Err(Errno::INVAL) => Ok(Vec::new()),
            Err(e) => self.not_read(e).map(|()| Vec::new()),
        }
    }

    /// Whose table it is.
    fn key(&mut self, dir: &OwnedFd) -> Result<Option<(u64, Root)>, Errno> {
        let namespace = match link(dir, "ns/mnt") {
            Ok(leads) => bracketed(&leads, b"mnt"),
            Err(Errno::XDEV) => return Err(Errno::XDEV),
            // Who does not tell it does not tell its network namespace either, which is said.
            Err(_) => None,
        };
        let Some(namespace) = namespace else { return Ok(None) };
        let own = match dir.try_clone() {
            Ok(own) => own,
            Err(e) => return self.not_read(Errno::from_io_error(&e).unwrap_or(Errno::IO)).map(|()| None),
        };
        match self.roots.ask(move || Root::of(&own)) {
            Ok(Ok(root)) => Ok(Some((namespace, root))),
            Ok(Err(e)) => self.not_read(e).map(|()| None),
            Err(_) => {
                self.silent = self.silent.saturating_add(1);
                Ok(None)
            }
        }
    }

    fn not_read(&mut self, why: Errno) -> Result<(), Errno> {
        match why {
            Errno::XDEV => return Err(why),
            // It ended meanwhile.
            Errno::NOENT | Errno::SRCH => {}
            _ => self.failed.add(why),
        }
        Ok(())
    }

    /// Opens one.
    ///
    /// # Errors
    /// Why it could not be reached.
    pub fn open(&mut self, dir: &OwnedFd, mount: &Bound) -> Result<OwnedFd, String> {
        let own = dir.try_clone().map_err(|e| format!("not opened: {e}"))?;
        let wanted = mount.clone();
        match self.opens.ask(move || reach(&own, &wanted)) {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(Errno::STALE)) => Err("not opened: something else lies there (mounted over it, or it was unmounted since)".to_owned()),
            Ok(Err(e)) => Err(format!("not opened: {e}")),
            Err(why) => Err(format!("not opened: the path to it: {why}")),
        }
    }

    /// What may be missing.
    pub fn missing(&self) -> Vec<String> {
        let failed = self.failed.count();
        let said = [
            (failed, format!("{failed} tables of mounts could not be read ({})", self.failed.told())),
            (self.cut, format!("{} tables of mounts are longer than {TABLE_BYTES_MAX} bytes, of which the rest was not read", self.cut)),
            (self.silent, format!("{} roots of processes did not answer, or were not asked because others did not", self.silent)),
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
    if mount_id(&held)? != Some(mount.id) {
        return Err(Errno::STALE);
    }
    let file = procfs::reopen(&held, OFlags::RDONLY)?;
    if fstat(&file)?.st_ino == mount.namespace { Ok(file) } else { Err(Errno::STALE) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::capture::process_memory::tests::programs::{Target, compile};

    /// Makes a folder its root; with a third argument it removes that folder afterwards.
    const ROOTED: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int parent = open(argv[1], O_PATH | O_DIRECTORY);
    if (parent < 0 || fchdir(parent) || chroot(argv[2])) return 1;
    if (argc > 3 && unlinkat(parent, argv[2], AT_REMOVEDIR)) return 2;
    printf("ready\n"); fflush(stdout);
    for (;;) pause();
}
"#;

    /// The root of one process must not pass for that of another one because their paths read the same.
    #[test]
    fn a_root_is_told_from_another_one_of_the_same_path() {
        let (dir, roots) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let program = compile(dir.path(), "rooted", ROOTED, &[]);
        let start = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command.arg(roots.path()).args(arguments);
            Target::start(command)
        };
        std::fs::create_dir(roots.path().join("a")).expect("folder");
        let decoy = start(&["a", "gone"]);
        std::fs::create_dir(roots.path().join("a (deleted)")).expect("folder");
        let (meant, same) = (start(&["a (deleted)"]), start(&["a (deleted)"]));
        let shown = |target: &Target| std::fs::read_link(format!("/proc/{}/root", target.pid())).expect("link");
        assert_eq!(shown(&decoy), shown(&meant), "the paths read the same");
        let mut tables = MountTables::default();
        let mut count = |target: &Target| {
            tables.read(&procfs::process(target.pid()).expect("there")).expect("nothing over it");
            tables.read.len()
        };
        assert_eq!((count(&decoy), count(&meant), count(&same), count(&decoy)), (1, 2, 2, 2));
        assert_eq!(tables.missing(), Vec::<String>::new());
    }

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
