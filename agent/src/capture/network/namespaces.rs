//! The network namespaces of the host and who holds which socket: one walk over `/proc`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;

use super::sockets::Holder;
use super::view::View;
use crate::capture::live::{Lossless, SMALL_BYTES_MAX, names, numbers, put_absent, refusal};
use crate::capture::process::bracketed;
use crate::capture::procfs::{self, link, open_dir, read_at};
use crate::capture::{Output, Stop, evidence_path, threads};

/// Holders that are remembered: 24 bytes each, 12 MiB in all.
const HOLDERS_MAX: usize = 512 << 10;
/// Namespaces that are looked into; a host with more containers than this says so.
const NAMESPACES_MAX: usize = 4096;
const PIDS_MAX: usize = 4 << 20;
const FDS_MAX: usize = 1 << 20;
/// Processes with something mounted over them that get an item; all are counted.
const COVERED_MAX: usize = 300;
/// Where `ip netns` and Docker keep namespaces that no process need live in.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// What something is mounted over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Covered {
    /// The process, or what its first thread has.
    Process,
    /// A further thread, or what that has.
    Thread,
}

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    /// 0 for the agent's own where that could not be told.
    pub inode: u64,
    /// The agent itself lives in it: it need not be entered.
    pub is_own: bool,
    /// A process that lives in it, with its folder pinned; the folder of a thread where the first one does not live in it.
    pub process: Option<(u32, OwnedFd)>,
    /// That thread.
    pub thread: Option<u32>,
    /// Where it is bound, for one without a process.
    pub bound: Option<String>,
    /// An open handle for entering it; `None` with the reason when it could not be opened.
    pub handle: Result<OwnedFd, String>,
}

/// What the walk found.
#[derive(Debug, Default)]
pub struct Found {
    pub namespaces: Vec<Namespace>,
    /// That of the agent.
    pub own: Option<u64>,
    pub namespaces_left_out: u64,
    /// Socket inode, process, descriptor, and the thread if it has files of its own; sorted.
    holders: Vec<(u64, u32, u32, Option<u32>)>,
    comms: BTreeMap<u32, Lossless>,
    pub holders_cut: bool,
    /// Processes whose descriptors could not be listed.
    pub refused: u64,
    /// Processes of which not every thread with files or a namespace of its own was looked at.
    pub threads_cut: u64,
    /// What could not be seen of all processes together.
    pub view: View,
    /// Processes of which not everything was looked at, because something is mounted over it; see [`COVERED_MAX`].
    covered: Vec<(u32, Covered)>,
    covered_count: u64,
    /// Processes that did not tell in which namespace they live.
    unplaced: u64,
}

impl Found {
    /// Who holds a socket.
    #[must_use]
    pub fn holders(&self, inode: u64) -> Vec<Holder> {
        let from = self.holders.partition_point(|(i, ..)| *i < inode);
        let same = self.holders.iter().skip(from).take_while(|(i, ..)| *i == inode && inode != 0);
        let comm = |pid| self.comms.get(pid).cloned().unwrap_or_default();
        same.map(|(_, pid, fd, thread)| Holder { pid: *pid, fd: *fd, thread: *thread, comm: comm(pid) }).collect()
    }

    /// What may be missing because of processes that were not looked at.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let (covered, unplaced) = (self.covered_count, self.unplaced);
        let covered = (covered > 0).then(|| {
            format!(
                "{covered} processes were not looked at, or in part, because something is mounted over them or their threads: what they have may be missing"
            )
        });
        let unplaced = (unplaced > 0).then(|| format!("{unplaced} processes did not tell their network namespace: it may be missing"));
        self.view.missing().chain(covered).chain(unplaced).collect()
    }

    /// Puts an item for each process that something is mounted over.
    ///
    /// # Errors
    /// [`Stop`] from the output.
    pub fn put_covered(&self, out: &mut dyn Output) -> Result<(), Stop> {
        for (pid, what) in &self.covered {
            let started = out.now();
            let (status, of_process) = refusal(Errno::XDEV);
            let reason = match what {
                Covered::Process => of_process,
                Covered::Thread => {
                    "something is mounted over its threads, or over what one of them has: what that thread has may be missing".to_owned()
                }
            };
            put_absent(out, evidence_path(format!("/proc/{pid}/ns/net")), status, reason, started, "readlink")?;
        }
        Ok(())
    }
}

/// Walks over all processes. The agent's own namespace is among those that are found, whatever the walk shows.
pub fn find(out: &mut dyn Output) -> Result<Found, Stop> {
    // Not by the path `/proc`: a link there that root made would pass another namespace off as the agent's own, which is not entered.
    // Read anew for each capture, because the agent may look through another folder of processes by then.
    let own = procfs::own_link("ns/net").ok().and_then(|target| bracketed(&target, b"net"));
    let listed = procfs::listed(PIDS_MAX).map(|(pids, _)| pids);
    let view = View::look(listed.as_ref().map(Vec::len).map_err(|e| *e));
    let mut found = Found { own, view, ..Found::default() };
    for pid in listed.unwrap_or_default() {
        out.checkpoint()?;
        match procfs::process(pid) {
            Ok(dir) => found.process(pid, dir),
            // A process that ended meanwhile holds no socket any more.
            Err(Errno::NOENT | Errno::SRCH) => {}
            Err(Errno::XDEV) => found.cover(pid, Covered::Process),
            Err(_) => found.unplaced = found.unplaced.saturating_add(1),
        }
    }
    for folder in NAMED {
        found.named(folder);
    }
    found.add_own();
    found.holders.sort_unstable();
    Ok(found)
}

impl Found {
    /// The agent's own namespace where no process in it was found: netlink answers without one.
    fn add_own(&mut self) {
        if !self.namespaces.iter().any(|n| n.is_own) {
            let handle = Err("the agent lives in it: it is not entered".to_owned());
            let inode = self.own.unwrap_or(0);
            self.namespaces.insert(0, Namespace { inode, is_own: true, process: None, thread: None, bound: None, handle });
        }
    }

    /// A process: the sockets and the namespace of its first thread, or of another one where that has ended, and those of
    /// threads that have their own.
    fn process(&mut self, pid: u32, first: OwnedFd) {
        let (through, dir) = threads::living(&first, pid).map_or((None, first), |l| (Some(l.tid), l.dir));
        let others = threads::others(&dir, through.unwrap_or(pid));
        let mut is_covered = self.holders_of(pid, None, &dir);
        let mut is_thread_covered = others.covered;
        self.threads_cut = self.threads_cut.saturating_add(u64::from(others.left_out.is_some()));
        let thread_dir = |tid: u32| open_dir(&dir, format!("task/{tid}"));
        // A thread that ended meanwhile holds nothing any more.
        for tid in others.files {
            match thread_dir(tid) {
                Ok(thread) => is_thread_covered |= self.holders_of(pid, Some(tid), &thread),
                Err(e) => is_thread_covered |= e == Errno::XDEV,
            }
        }
        for (tid, namespaces) in others.elsewhere {
            let Some(inode) = namespaces.get("net").copied() else { continue };
            match thread_dir(tid) {
                Ok(thread) => self.namespace(inode, pid, Some(tid), thread),
                Err(e) => is_thread_covered |= e == Errno::XDEV,
            }
        }
        match link(&dir, "ns/net") {
            Ok(target) => {
                if let Some(inode) = bracketed(&target, b"net") {
                    self.namespace(inode, pid, through, dir);
                }
            }
            Err(Errno::NOENT | Errno::SRCH) => {}
            Err(Errno::XDEV) => is_covered = true,
            Err(_) => self.unplaced = self.unplaced.saturating_add(1),
        }
        if is_covered {
            self.cover(pid, Covered::Process);
        } else if is_thread_covered {
            self.cover(pid, Covered::Thread);
        }
    }

    fn cover(&mut self, pid: u32, what: Covered) {
        self.covered_count = self.covered_count.saturating_add(1);
        if self.covered.len() < COVERED_MAX {
            self.covered.push((pid, what));
        }
    }

    fn namespace(&mut self, inode: u64, pid: u32, thread: Option<u32>, dir: OwnedFd) {
        // No namespace has the number 0, which stands for the agent's own where that is not known.
        if inode == 0 {
            self.unplaced = self.unplaced.saturating_add(1);
        } else if !self.namespaces.iter().any(|n| n.inode == inode) {
            let handle = match &self.view.unsure {
                // It may lead to any device or server, and to open one may do something.
                Some(why) => Err(format!("not entered: {why}")),
                None => procfs::follow(&dir, "ns/net", OFlags::RDONLY).map_err(|e| refusal(e).1),
            };
            self.push(Namespace { inode, is_own: self.own == Some(inode), process: Some((pid, dir)), thread, bound: None, handle });
        }
    }

    fn push(&mut self, namespace: Namespace) {
        if self.namespaces.len() < NAMESPACES_MAX {
            self.namespaces.push(namespace);
        } else {
            self.namespaces_left_out = self.namespaces_left_out.saturating_add(1);
        }
    }

    /// Says whether something is mounted over what was asked for.
    fn holders_of(&mut self, pid: u32, thread: Option<u32>, dir: &OwnedFd) -> bool {
        let ((fds, _), fd_dir) = match open_dir(dir, "fd").and_then(|d| Ok((numbers(&d, FDS_MAX)?, d))) {
            Ok(listed) => listed,
            Err(Errno::XDEV) => return true,
            Err(_) => {
                self.refused = self.refused.saturating_add(1);
                return false;
            }
        };
        let (mut any, mut is_covered) = (false, false);
        for fd in fds {
            let target = link(&fd_dir, fd.to_string());
            is_covered |= matches!(target, Err(Errno::XDEV));
            let Some(inode) = target.ok().and_then(|t| bracketed(&t, b"socket")) else { continue };
            if self.holders.len() >= HOLDERS_MAX {
                self.holders_cut = true;
                return is_covered;
            }
            any = true;
            self.holders.push((inode, pid, fd, thread));
        }
        if any && let Ok(comm) = read_at(dir, "comm", SMALL_BYTES_MAX) {
            self.comms.insert(pid, Lossless::from(comm.bytes.strip_suffix(b"\n").unwrap_or(&comm.bytes)));
        }
        is_covered
    }

    fn named(&mut self, folder: &str) {
        let Ok((entries, _)) = open_dir(rustix::fs::CWD, folder).and_then(|d| names(d, NAMESPACES_MAX)) else { return };
        for name in entries {
            let mut path = format!("{folder}/").into_bytes();
            path.extend_from_slice(&name);
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(handle) = openat(rustix::fs::CWD, path.as_slice(), flags, Mode::empty()) else { continue };
            let Ok(stat) = statx(&handle, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS) else { continue };
            // A file left over from an unmounted namespace lies on the tmpfs around it: entering it fails and says so.
            let inode = stat.stx_ino;
            if !self.namespaces.iter().any(|n| n.inode == inode) {
                let bound = Some(exhibit_evidence::text::escape_bytes(&path));
                self.push(Namespace { inode, is_own: self.own == Some(inode), process: None, thread: None, bound, handle: Ok(handle) });
            }
        }
    }
}
