//! Looking at one name without touching what is behind it, and everything the kernel knows about its inode.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exhibit_evidence::time::FileTime;
use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags, ResolveFlags, StatxFlags, StatxTimestamp, openat, openat2, statx};
use rustix::io::Errno;
use rustix::path::DecInt;

use crate::capture::{InodeState, Kind, Meta, procfs};

/// Most bytes of one extended attribute's value; the kernel's own XATTR_SIZE_MAX.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Most bytes of all values of one inode: with base64 (4/3) they still fit into a manifest line (1 MiB) together with the
/// longest path.
const XATTRS_BYTES_MAX: usize = 256 << 10;

/// Name of the fact that says which extended attributes could not be had.
pub const XATTRS_FACT: &str = "xattrs";

/// Facts about an inode, of `statx(2)`, or of `fstat(2)` where a seccomp filter forbids that.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Logical size.
    pub size: u64,
    /// The kernel's id of the mount, where it says so (Linux 5.8).
    pub mount: Option<u64>,
    /// Everything else.
    pub meta: Meta,
}

impl Stat {
    /// Device and inode number.
    #[must_use]
    pub fn inode(&self) -> (u64, u64) {
        let [major, minor] = self.meta.dev;
        ((u64::from(major) << 32) | u64::from(minor), self.meta.ino)
    }

    /// The inode and when it last changed.
    #[must_use]
    pub fn state(&self) -> InodeState {
        let Meta { btime, ctime, mtime, .. } = self.meta;
        InodeState { inode: self.inode(), btime, ctime, mtime, size: self.size }
    }

    /// The later of the times of the last change of content and of the inode, in seconds. The second cannot be set
    /// back with `touch`.
    #[must_use]
    pub fn changed_s(&self) -> i64 {
        let seconds = |t: Option<FileTime>| t.map_or(i64::MIN, |t| t.s);
        seconds(self.meta.mtime).max(seconds(self.meta.ctime))
    }
}

/// Asks for the facts of an open file.
///
/// # Errors
/// What the kernel said.
pub fn stat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    match statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT, mask) {
        Ok(found) => Ok(of_statx(&found)),
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::fstat(fd).map(|found| of_fstat(&found)).map_err(Into::into),
        Err(e) => Err(e.into()),
    }
}

fn of_statx(found: &rustix::fs::Statx) -> Stat {
    let time = |t: StatxTimestamp| Some(FileTime { s: t.tv_sec, ns: t.tv_nsec.min(999_999_999) });
    let mask = StatxFlags::from_bits_retain(found.stx_mask);
    let kind = kind_of(FileType::from_raw_mode(u32::from(found.stx_mode)));
    let device = matches!(kind, Kind::BlockDevice | Kind::CharDevice);
    let meta = Meta {
        mode: u32::from(found.stx_mode) & 0o7777,
        uid: found.stx_uid,
        gid: found.stx_gid,
        ino: found.stx_ino,
        nlink: u64::from(found.stx_nlink),
        dev: [found.stx_dev_major, found.stx_dev_minor],
        rdev: device.then_some([found.stx_rdev_major, found.stx_rdev_minor]),
        blocks: found.stx_blocks,
        mtime: time(found.stx_mtime),
        atime: time(found.stx_atime),
        ctime: time(found.stx_ctime),
        btime: if mask.contains(StatxFlags::BTIME) { time(found.stx_btime) } else { None },
        flags: attribute_names(found.stx_attributes.bits()),
        xattrs: BTreeMap::new(),
    };
    let mount = mask.contains(StatxFlags::MNT_ID).then_some(found.stx_mnt_id);
    Stat { kind, size: found.stx_size, mount, meta }
}

#[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "the widths of stat's fields differ between targets")]
fn of_fstat(found: &rustix::fs::Stat) -> Stat {
    let time = |s: i64, ns: u64| Some(FileTime { s, ns: ns.min(999_999_999) as u32 });
    let numbers = |dev: u64| [rustix::fs::major(dev), rustix::fs::minor(dev)];
    let kind = kind_of(FileType::from_raw_mode(found.st_mode));
    let device = matches!(kind, Kind::BlockDevice | Kind::CharDevice);
    let meta = Meta {
        mode: found.st_mode & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
        ino: found.st_ino,
        nlink: u64::from(found.st_nlink),
        dev: numbers(found.st_dev),
        rdev: device.then(|| numbers(found.st_rdev)),
        blocks: found.st_blocks as u64,
        mtime: time(found.st_mtime, found.st_mtime_nsec as u64),
        atime: time(found.st_atime, found.st_atime_nsec as u64),
        ctime: time(found.st_ctime, found.st_ctime_nsec as u64),
        ..Meta::default()
    };
    Stat { kind, size: found.st_size as u64, mount: None, meta }
}

/// The kind of item of a file type.
#[must_use]
pub const fn kind_of(file_type: FileType) -> Kind {
    match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::Unknown => Kind::Unknown,
    }
}

/// Names of the attributes that `statx(2)` reports.
fn attribute_names(bits: u64) -> Vec<String> {
    const NAMES: [(u64, &str); 7] = [
        (0x4, "compressed"),
        (0x10, "immutable"),
        (0x20, "append"),
        (0x40, "nodump"),
        (0x800, "encrypted"),
        (0x0010_0000, "verity"),
        (0x0020_0000, "dax"),
    ];
    NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_owned()).collect()
}

/// Names of inode flags (`chattr(1)`) that say something about the file; how a file system stores it is left out.
fn flag_names(flags: IFlags) -> impl Iterator<Item = &'static str> {
    const NAMES: [(u32, &str); 16] = [
        (0x1, "secure-delete"),
        (0x2, "undelete"),
        (0x4, "compressed"),
        (0x8, "sync"),
        (0x10, "immutable"),
        (0x20, "append"),
        (0x40, "nodump"),
        (0x80, "noatime"),
        (0x800, "encrypted"),
        (0x4000, "journal-data"),
        (0x0001_0000, "dirsync"),
        (0x0010_0000, "verity"),
        (0x0080_0000, "nocow"),
        (0x0200_0000, "dax"),
        (0x2000_0000, "project-inherit"),
        (0x4000_0000, "casefold"),
    ];
    let bits = flags.bits();
    NAMES.into_iter().filter(move |(bit, _)| bits & bit != 0).map(|(_, name)| name)
}

/// One name that was looked at: its inode is pinned, nothing was opened for reading.
pub struct Look {
    /// A handle that only names the inode (O_PATH).
    pub handle: OwnedFd,
    /// What the kernel says about it.
    pub stat: Stat,
    /// See [`Opener`].
    links: Option<Arc<Links>>,
}

/// The folder of this process's links to its open files (`/proc/self/fd`).
#[derive(Debug)]
struct Links {
    folder: OwnedFd,
    /// Nobody but the kernel can have made it.
    is_vouched: bool,
}

/// Opens names one at a time, never through a link.
#[derive(Debug, Clone)]
pub struct Opener {
    /// Why `openat2(2)` is not used, if it is not.
    pub without_openat2: Option<String>,
    /// Where there are such links. Opened once: to find them anew costs more than to open most files.
    links: Option<Arc<Links>>,
}

impl Opener {
    /// Finds out whether `openat2(2)` works here.
    #[must_use]
    pub fn new() -> Self {
        let probe =
            openat2(rustix::fs::CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        // Not by the path `/proc`: root can mount a folder over it with links to other files.
        let links = procfs::open_links().ok().map(|(folder, is_vouched)| Arc::new(Links { folder, is_vouched }));
        Self { without_openat2: probe.err().map(|e| io::Error::from(e).to_string()), links }
    }

    /// Looks at a name in a directory. `crosses` says that the mount table has something mounted there; otherwise a
    /// mount that appeared meanwhile is refused by the kernel (EXDEV), where `openat2` works.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn look(&self, folder: BorrowedFd<'_>, name: &CStr, crosses: bool) -> io::Result<Look> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = loop {
            let opened = if self.without_openat2.is_some() {
                openat(folder, name, flags, Mode::empty())
            } else {
                let mut resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                resolve.set(ResolveFlags::NO_XDEV, !crosses);
                openat2(folder, name, flags, Mode::empty(), resolve)
            };
            match opened {
                Err(Errno::INTR) => {}
                opened => break opened?,
            }
        };
        let stat = stat(handle.as_fd())?;
        Ok(Look { handle, stat, links: self.links.clone() })
    }

    /// Looks at an absolute path that should hold no link before its last name.
    ///
    /// # Errors
    /// What the kernel said; `ELOOP` when there is a link on the way, where `openat2` works.
    pub fn look_path(&self, path: &[u8]) -> io::Result<Look> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = if self.without_openat2.is_some() {
            openat(rustix::fs::CWD, path, flags, Mode::empty())?
        } else {
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve)?
        };
        let stat = stat(handle.as_fd())?;
        Ok(Look { handle, stat, links: self.links.clone() })
    }
}

impl Default for Opener {
    fn default() -> Self {
        Self::new()
    }
}

impl Look {
    /// Opens the inode by this process's link to it; `ENOENT` without /proc, `ESTALE` when the link led to another one: where the agent
    /// has no procfs of its own, root may have put anything at /proc.
    fn open_link(&self, extra: OFlags) -> io::Result<(OwnedFd, bool, Stat)> {
        let links = self.links.as_ref().ok_or(Errno::NOENT)?;
        let opened = open_without_atime(&links.folder, DecInt::from_fd(self.handle.as_fd()).as_c_str(), extra)?;
        self.same(opened)
    }

    /// What was opened, with what the kernel says about it, if it is what was looked at.
    fn same(&self, (file, atime): (OwnedFd, bool)) -> io::Result<(OwnedFd, bool, Stat)> {
        let stat = stat(file.as_fd())?;
        if self.is(stat.inode()) { Ok((file, atime, stat)) } else { Err(Errno::STALE.into()) }
    }

    /// Whether an error says that there is no link of this process to what it has open, or one that leads elsewhere. Where others can
    /// have made the links, no error is the file's own.
    fn is_of_link(&self, e: &io::Error) -> bool {
        let is_vouched = self.links.as_ref().is_some_and(|links| links.is_vouched);
        !is_vouched || matches!(Errno::from_io_error(e), Some(Errno::NOENT | Errno::STALE))
    }

    /// Whether this is the inode that was looked at. Some layered file systems give a file another number when it is written to for the
    /// first time: then it is asked for anew.
    fn is(&self, inode: (u64, u64)) -> bool {
        inode == self.stat.inode() || stat(self.handle.as_fd()).is_ok_and(|now| now.inode() == inode)
    }

    /// Opens the directory that was looked at, for reading its names; and whether its access time may change by that.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open_directory(&self) -> io::Result<OwnedFd> {
        // By the link of this process: opening "." would ask for the right to search it as well, and its names need only
        // the right to read.
        match self.open_link(OFlags::DIRECTORY) {
            Err(e) if self.is_of_link(&e) => {
                open_without_atime(self.handle.as_fd(), c".", OFlags::DIRECTORY | OFlags::NOFOLLOW).map(|(fd, _)| fd)
            }
            opened => opened.map(|(fd, ..)| fd),
        }
    }

    /// Opens the regular file that was looked at, for reading: the same inode, even when the name was given to another
    /// meanwhile. The flag says that reading may change its access time; with what the kernel says about it now.
    ///
    /// # Errors
    /// What the kernel said; `ESTALE` when the name had to be opened again (no /proc here, or a false one) and had changed hands.
    pub fn open_file(&self, folder: BorrowedFd<'_>, name: &CStr) -> io::Result<(OwnedFd, bool, Stat)> {
        match self.open_link(OFlags::NONBLOCK) {
            // By name again, and the same inode or nothing.
            Err(e) if self.is_of_link(&e) => self.same(open_without_atime(folder, name, OFlags::NONBLOCK | OFlags::NOFOLLOW)?),
            opened => opened,
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn link_target(&self) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.handle, c"", Vec::new())?.into_bytes())
    }

    /// The inode's metadata with its extended attributes; adds facts, among them what could not be had. `open` is the file
    /// opened for reading, if it is; inode flags need it.
    #[must_use]
    pub fn metadata(&self, open: Option<BorrowedFd<'_>>, facts: &mut BTreeMap<String, String>) -> Meta {
        let mut meta = self.stat.meta.clone();
        if let Some(flags) = open.and_then(|fd| rustix::fs::ioctl_getflags(fd).ok()) {
            for name in flag_names(flags) {
                if !meta.flags.iter().any(|known| known == name) {
                    meta.flags.push(name.to_owned());
                }
            }
        }
        if let Some(id) = self.stat.mount {
            facts.insert("mount".into(), id.to_string());
        }
        let mut read = read_xattrs(self.handle.as_fd(), open, &mut meta.xattrs);
        if open.is_none() && (read.is_ok() || !meta.xattrs.is_empty()) && !self.is_where_its_path_leads() {
            meta.xattrs.clear();
            read = Err("not read: /proc/self/fd does not lead to what this process has open".to_owned());
        }
        if let Err(problem) = read {
            facts.insert(XATTRS_FACT.into(), problem);
        }
        meta
    }

    /// Whether the path by which attributes are asked for leads here: root can mount a folder over /proc, with links to other files.
    fn is_where_its_path_leads(&self) -> bool {
        rustix::fs::stat(own_link(self.handle.as_fd()).as_str()).is_ok_and(|found| self.is(of_fstat(&found).inode()))
    }
}

/// The path of this process's link to one of its open files. In a true procfs it leads to the inode itself.
fn own_link(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// O_NOATIME is for owners and privileged processes only; without it, reading may set the access time.
fn open_without_atime(folder: impl AsFd, name: impl rustix::path::Arg + Copy, extra: OFlags) -> io::Result<(OwnedFd, bool)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | extra;
    loop {
        match openat(&folder, name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::INTR) => {}
            Err(Errno::PERM) => return Ok((openat(&folder, name, flags, Mode::empty())?, true)),
            opened => return Ok((opened?, false)),
        }
    }
}

/// Reads all extended attributes. The error is a text for the record: which could not be had, and why.
fn read_xattrs(handle: BorrowedFd<'_>, open: Option<BorrowedFd<'_>>, into: &mut BTreeMap<String, String>) -> Result<(), String> {
    let link = if open.is_none() { own_link(handle) } else { String::new() };
    // The calls for open files refuse O_PATH handles; the link leads to the same inode, also where it is itself a link.
    let names = |list: &mut [u8]| match open {
        Some(fd) => rustix::fs::flistxattr(fd, list),
        None => rustix::fs::listxattr(link.as_str(), list),
    };
    // Most files have none or a few; the largest list that the kernel gives is 64 KiB.
    let (mut few, mut many) = ([0_u8; 512], Vec::new());
    let mut list = few.as_mut_slice();
    let mut listed = names(list);
    if listed == Err(Errno::RANGE) {
        many.resize(XATTR_BYTES_MAX, 0);
        list = many.as_mut_slice();
        listed = names(list);
    }
    let length = match listed {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(e) => return Err(format!("not listed: {}", io::Error::from(e))),
    };
    let mut total = 0_usize;
    let mut problems = Vec::new();
    let mut value = Vec::new();
    for name in list.get(..length).unwrap_or_default().split(|b| *b == 0).filter(|n| !n.is_empty()) {
        value.resize(XATTR_BYTES_MAX, 0);
        let got = match open {
            Some(fd) => rustix::fs::fgetxattr(fd, name, value.as_mut_slice()),
            None => rustix::fs::getxattr(link.as_str(), name, value.as_mut_slice()),
        };
        // A manifest and a pax header hold text: a name that is none is written escaped, and that is said.
        let shown = exhibit_evidence::text::escape_bytes(name);
        let key = std::str::from_utf8(name).map_or_else(
            |_| {
                problems.push(format!("{shown}: its name is not UTF-8 and stands escaped"));
                shown.clone()
            },
            str::to_owned,
        );
        match got {
            Ok(length) if total.saturating_add(length) <= XATTRS_BYTES_MAX => {
                total = total.saturating_add(length);
                if into.insert(key, STANDARD.encode(value.get(..length).unwrap_or_default())).is_some() {
                    problems.push(format!("{shown}: two attributes have this name once it is escaped; one is left out"));
                }
            }
            Ok(length) => problems.push(format!("{shown}: {length} bytes left out, more than {XATTRS_BYTES_MAX} in all")),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(e) => problems.push(format!("{shown}: {}", io::Error::from(e))),
        }
        if problems.len() >= 8 {
            problems.push("and possibly more".into());
            break;
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links that lead nowhere and that somebody put there say nothing of a file; those of a true procfs do.
    #[test]
    fn an_error_of_a_link_that_others_can_have_made_is_not_the_files() {
        let files = tempfile::tempdir().expect("folder");
        std::fs::write(files.path().join("meant"), "meant").expect("file");
        let bad = tempfile::tempdir().expect("folder");
        for fd in 0..1024 {
            // A loop: ELOOP.
            std::os::unix::fs::symlink(fd.to_string(), bad.path().join(fd.to_string())).expect("link");
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = |path: &std::path::Path| openat(rustix::fs::CWD, path, flags, Mode::empty()).expect("folder");
        let dir = held(files.path());
        for is_vouched in [false, true] {
            let links = Some(Arc::new(Links { folder: held(bad.path()), is_vouched }));
            let look = Opener { without_openat2: None, links }.look(dir.as_fd(), c"meant", false).expect("a look");
            assert_eq!(look.open_file(dir.as_fd(), c"meant").is_ok(), !is_vouched);
        }
    }

    /// What it says of an open file is of that file.
    #[test]
    fn a_file_that_is_opened_comes_with_its_size_of_now() {
        let files = tempfile::tempdir().expect("folder");
        let path = files.path().join("grows");
        std::fs::write(&path, "1").expect("file");
        let dir = openat(rustix::fs::CWD, files.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("folder");
        let look = Opener::new().look(dir.as_fd(), c"grows", false).expect("a look");
        std::fs::write(&path, "123").expect("file");
        let (_, _, now) = look.open_file(dir.as_fd(), c"grows").expect("opened");
        assert_eq!((look.stat.size, now.size), (1, 3));
    }
}
