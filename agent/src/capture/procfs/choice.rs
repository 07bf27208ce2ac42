//! What lies at `/proc`, and whether it is looked through instead of a procfs of the agent's own.
//!
//! A procfs shows the PID namespace of who made it (`fs/proc/root.c`). Its link `self` leads to the reader's number in that
//! namespace, and to nothing for a reader who has none there, that is, who is in a namespace around or beside it
//! (`fs/proc/self.c`). `NSpid` in `status` lists the numbers of a process from the namespace of that procfs inward to its own
//! (`fs/proc/array.c`). So a procfs that shows the agent under several numbers, of which the last is its own, is one of a
//! namespace around the agent's: a container was given the host's `/proc` to look at. Around the initial namespace there is
//! none, so nobody can give such a one to an agent there: whatever says so is not believed.
//!
//! Whether something is a procfs at all is asked of the agent's table of mounts, through a procfs that nobody else can have made: the
//! name of the file system there is the kernel's word. `statfs(2)` and inode numbers are not: the server of a 9p file system chooses
//! both. Where the agent has no such procfs nothing better can be asked, and that is told.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, openat};
use rustix::io::Errno;

use crate::capture::live::{self, SMALL_BYTES_MAX, lines, number};
use crate::capture::mounts::Mounts;
use crate::capture::process::parse;

/// Bytes of the table of mounts that are looked through, line by line: 100,000 mounts (`fs.mount-max`) of 600 bytes.
const TABLE_BYTES_MAX: u64 = 64 << 20;

/// `PROC_SUPER_MAGIC` (`include/uapi/linux/magic.h`).
const PROC: u64 = 0x9fa0;
/// The inode number of the root of every procfs (`PROC_ROOT_INO`, `include/linux/proc_ns.h`).
const ROOT_INODE: u64 = 1;
/// Where `ns/pid` of a process in the initial PID namespace leads (`PROC_PID_INIT_INO`, the same header).
const INITIAL: &[u8] = b"pid:[4026531836]";

/// What `/proc` is for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A procfs of its own PID namespace.
    Own,
    /// A procfs of a PID namespace around its own.
    Around,
    /// A procfs in which it has no number, or not the one that it should have.
    Other,
    /// No procfs.
    Forged,
    /// Something of which the table of mounts does not say what it is.
    Untold,
    /// Nothing that could be opened.
    Nothing,
}

impl Shown {
    /// In words, where it is not what it should be.
    #[must_use]
    pub const fn told(self) -> Option<&'static str> {
        match self {
            Self::Own => None,
            Self::Around => Some("the procfs of a PID namespace around the agent's, with other numbers"),
            Self::Other => Some("the procfs of a PID namespace that the agent is not in, or is covered in part"),
            Self::Forged => Some("no procfs"),
            Self::Untold => Some("not known: the agent's table of mounts does not say what lies there"),
            Self::Nothing => Some("nothing that could be opened"),
        }
    }

    /// Whether it is looked through although there is a procfs of the agent's own: a container was given it for that.
    #[must_use]
    pub const fn is_given(self, is_initial: bool) -> bool {
        matches!(self, Self::Around) && !is_initial
    }
}

/// What lies at `/proc` now.
#[derive(Debug)]
pub struct Seen {
    /// What it is for this process.
    pub shown: Shown,
    held: Result<OwnedFd, Errno>,
}

impl Seen {
    /// Looks. `by`: a procfs that nobody else can have made.
    #[must_use]
    pub fn now(by: Option<&OwnedFd>) -> Self {
        // Only pinned: what is no procfs may be a server that does not answer. Whoever asks for a directory (O_DIRECTORY) has an
        // automount mounted first, and waits for that.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = openat(CWD, "/proc", flags, Mode::empty());
        let shown = match &held {
            Ok(dir) => Look::at(dir, by).map_or(Shown::Untold, |look| look.shown(std::process::id())),
            Err(_) => Shown::Nothing,
        };
        Self { shown, held }
    }

    /// The folder that was looked at, whatever is at `/proc` by now, so that it can be listed.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn opened(self) -> Result<OwnedFd, Errno> {
        live::open_dir(self.held?, ".")
    }
}

/// What was seen of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// It lies on a procfs.
    pub is_procfs: bool,
    /// It has the inode number of the root of one.
    pub is_root: bool,
    /// Where its `self` leads.
    pub number: Option<u32>,
    /// `NSpid` of that process; none where the kernel does not tell.
    pub numbers: Vec<u64>,
}

impl Look {
    /// Looks. `by`: a procfs that nobody else can have made; without one the file system itself is asked what it is. `None`: the table
    /// of mounts does not say.
    #[must_use]
    pub fn at(dir: &OwnedFd, by: Option<&OwnedFd>) -> Option<Self> {
        let (is_procfs, is_whole) = match by {
            Some(by) => mounted(by, dir)?,
            None => (fstatfs(dir).is_ok_and(|s| s.f_type as u64 == PROC), true),
        };
        // What is no procfs can be anybody's server: nothing in it is touched.
        if !is_procfs {
            return Some(Self::default());
        }
        let guards = super::can_guard(dir);
        let open = |path: &str, flags: OFlags| super::opened(dir.as_fd(), path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, guards);
        let leads = open("self", OFlags::PATH).and_then(|held| live::link(held, "")).ok();
        let number = leads.and_then(|leads| number::<u32>(&leads));
        let status = number.and_then(|n| open(&format!("{n}/status"), OFlags::RDONLY | OFlags::NONBLOCK).ok());
        let status = status.and_then(|file| live::read_fd(file, SMALL_BYTES_MAX).ok());
        Some(Self {
            is_procfs: true,
            is_root: is_whole && fstat(dir).is_ok_and(|s| s.st_ino == ROOT_INODE),
            number,
            numbers: status.map(|read| parse::status(&read.bytes).ns_pids).unwrap_or_default(),
        })
    }

    /// What that means for the process of the number `own` in its own PID namespace.
    #[must_use]
    pub fn shown(&self, own: u32) -> Shown {
        if !self.is_procfs {
            return Shown::Forged;
        }
        let Some(number) = self.number else { return Shown::Other };
        match self.numbers.as_slice() {
            [] | [_] if number == own => Shown::Own,
            [first, .., last] if self.is_root && *first == u64::from(number) && *last == u64::from(own) => Shown::Around,
            _ => Shown::Other,
        }
    }
}

/// What the agent's table of mounts, read through `by`, says of a folder that is held: whether it lies on a procfs, and whether that is
/// shown from its root. `None`: it has no such mount, or cannot be read.
fn mounted(by: &OwnedFd, dir: &OwnedFd) -> Option<(bool, bool)> {
    let guards = super::can_guard(by);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |path: &str| super::opened(by.as_fd(), path, flags, guards).ok();
    let info = live::read_fd(open(&format!("self/fdinfo/{}", dir.as_raw_fd()))?, SMALL_BYTES_MAX).ok()?;
    let id = lines(&info.bytes).find_map(|line| number::<u64>(line.strip_prefix(b"mnt_id:")?.trim_ascii()))?;
    let mut table = BufReader::new(File::from(open("self/mountinfo")?).take(TABLE_BYTES_MAX));
    let start = format!("{id} ");
    let mut line = Vec::new();
    loop {
        line.clear();
        if table.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        if line.starts_with(start.as_bytes()) {
            let mounts = Mounts::parse(&line);
            let mount = mounts.by_id(id)?;
            return Some((mount.fs_type == b"proc", mount.root == b"/"));
        }
    }
}

/// Whether this process is in the initial PID namespace, by a procfs that nobody else can have made.
#[must_use]
pub fn is_initial(own: &OwnedFd) -> bool {
    live::link(own, "self/ns/pid").is_ok_and(|leads| leads == INITIAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::testing::in_own_mounts;

    #[test]
    fn a_procfs_that_was_given_is_told_from_one_that_was_put_there() {
        let look = |number: Option<u32>, numbers: &[u64]| Look { is_procfs: true, is_root: true, number, numbers: numbers.to_vec() };
        for (seen, shown) in [
            (look(Some(7), &[7]), Shown::Own),
            (look(Some(7), &[]), Shown::Own),
            (look(Some(4_711), &[4_711, 7]), Shown::Around),
            (look(Some(4_711), &[4_711, 12, 7]), Shown::Around),
            // The same number in both is no proof of one namespace.
            (look(Some(7), &[7, 7]), Shown::Around),
            (look(Some(4_711), &[4_711, 8]), Shown::Other),
            (look(Some(4_711), &[12, 7]), Shown::Other),
            (look(Some(4_711), &[4_711]), Shown::Other),
            (look(Some(4_711), &[]), Shown::Other),
            (look(None, &[]), Shown::Other),
            (Look { is_root: false, ..look(Some(4_711), &[4_711, 7]) }, Shown::Other),
            (Look { is_procfs: false, ..look(Some(4_711), &[4_711, 7]) }, Shown::Forged),
            (Look { is_procfs: false, ..look(Some(7), &[7]) }, Shown::Forged),
        ] {
            assert_eq!(seen.shown(7), shown, "{seen:?}");
            assert_eq!(shown.told().is_none(), shown == Shown::Own);
        }
        assert!(Shown::Around.is_given(false));
        assert!(!Shown::Around.is_given(true), "around the initial namespace there is none");
        for other in [Shown::Own, Shown::Other, Shown::Forged, Shown::Untold, Shown::Nothing] {
            assert!(!other.is_given(false), "{other:?}");
        }
    }

    /// The server of an automount over `/proc` need not answer: nobody has asked it for anything.
    #[test]
    fn an_automount_over_proc_does_not_hold_the_agent_up() {
        use std::os::unix::process::CommandExt as _;
        in_own_mounts("capture::procfs::choice::tests::an_automount_over_proc_does_not_hold_the_agent_up", || {
            // The group of processes that serves it never waits for it.
            let mut server = std::process::Command::new("sleep").arg("60").process_group(0).spawn().expect("sleep");
            let (_requests, to_server) = std::io::pipe().expect("pipe");
            let options = format!("fd={},pgrp={},minproto=5,maxproto=5,direct", to_server.as_raw_fd(), server.id());
            let options = std::ffi::CString::new(options).expect("options");
            let made = rustix::mount::mount("none", "/proc", "autofs", rustix::mount::MountFlags::empty(), options.as_c_str());
            let (tell, told) = std::sync::mpsc::channel();
            let looking = std::thread::spawn(move || tell.send(Seen::now(None).shown));
            let shown = told.recv_timeout(std::time::Duration::from_secs(10));
            // While somebody waits there, whoever unmounts it waits too.
            if made.is_ok() && shown.is_ok() {
                rustix::mount::unmount("/proc", rustix::mount::UnmountFlags::DETACH).expect("unmounted");
            }
            server.kill().expect("killed");
            server.wait().expect("reaped");
            // A kernel that has no automounts holds nobody up.
            if made != Err(Errno::NODEV) {
                assert_eq!((made, shown), (Ok(()), Ok(Shown::Forged)), "it waited");
                looking.join().expect("it came back").expect("told");
            }
        });
    }

    /// What a file system says of itself does not count where the table of mounts can be asked.
    #[test]
    fn the_table_of_mounts_tells_what_a_folder_lies_on() {
        let held = |path: &str| openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("a folder");
        let proc = held("/proc");
        assert_eq!(mounted(&proc, &proc), Some((true, true)));
        assert_eq!(mounted(&proc, &held("/proc/self")).map(|m| m.0), Some(true));
        assert_eq!(mounted(&proc, &held("/")).map(|m| m.0), Some(false));
        assert_eq!(Look::at(&held("/"), Some(&proc)), Some(Look::default()));
        // A folder that shows no table vouches for nothing.
        assert_eq!(Look::at(&proc, Some(&held("/"))), None);
    }
}
