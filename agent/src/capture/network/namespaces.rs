//! The network namespaces of the host and who holds which socket: one walk over `/proc`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};

use super::sockets::Holder;
use crate::capture::live::{Lossless, SMALL_BYTES_MAX, names, numbers, refusal};
use crate::capture::process::bracketed;
use crate::capture::procfs::{self, link, open_dir, read_at};
use crate::capture::{Output, Stop, threads};

/// Holders that are remembered: 24 bytes each, 12 MiB in all.
const HOLDERS_MAX: usize = 512 << 10;
/// Namespaces that are looked into; a host with more containers than this says so.
const NAMESPACES_MAX: usize = 4096;
const PIDS_MAX: usize = 4 << 20;
const FDS_MAX: usize = 1 << 20;
/// Where `ip netns` and Docker keep namespaces that no process need live in.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    pub inode: u64,
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
    pub namespaces_left_out: u64,
    /// Socket inode, process, descriptor, and the thread if it has files of its own; sorted.
    holders: Vec<(u64, u32, u32, Option<u32>)>,
    comms: BTreeMap<u32, Lossless>,
    pub holders_cut: bool,
    /// Processes whose descriptors could not be listed.
    pub refused: u64,
    /// Processes of which not every thread with files or a namespace of its own was looked at.
    pub threads_cut: u64,
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
}

/// Walks over all processes.
pub fn find(out: &mut dyn Output) -> Result<Found, Stop> {
    let mut found = Found::default();
    let (pids, _) = procfs::listed(PIDS_MAX).map_err(|e| Stop::Fatal(format!("listing /proc: {e}")))?;
    for pid in pids {
        out.checkpoint()?;
        // A process that ended meanwhile holds no socket any more.
        let Ok(dir) = procfs::process(pid) else { continue };
        found.process(pid, dir);
    }
    for folder in NAMED {
        found.named(folder);
    }
    found.holders.sort_unstable();
    Ok(found)
}

impl Found {
    /// A process: the sockets and the namespace of its first thread, or of another one where that has ended, and those of
    /// threads that have their own.
    fn process(&mut self, pid: u32, first: OwnedFd) {
        let (through, dir) = threads::living(&first, pid).map_or((None, first), |l| (Some(l.tid), l.dir));
        self.holders_of(pid, None, &dir);
        let others = threads::others(&dir, through.unwrap_or(pid));
        self.threads_cut = self.threads_cut.saturating_add(u64::from(others.left_out.is_some()));
        let thread_dir = |tid: u32| open_dir(&dir, format!("task/{tid}"));
        // A thread that ended meanwhile holds nothing any more.
        for tid in others.files {
            if let Ok(thread) = thread_dir(tid) {
                self.holders_of(pid, Some(tid), &thread);
            }
        }
        for (tid, namespaces) in others.elsewhere {
            let Some(inode) = namespaces.get("net").copied() else { continue };
            if let Ok(thread) = thread_dir(tid) {
                self.namespace(inode, pid, Some(tid), thread);
            }
        }
        if let Some(inode) = link(&dir, "ns/net").ok().and_then(|t| bracketed(&t, b"net")) {
            self.namespace(inode, pid, through, dir);
        }
    }

    fn namespace(&mut self, inode: u64, pid: u32, thread: Option<u32>, dir: OwnedFd) {
        if !self.namespaces.iter().any(|n| n.inode == inode) {
            let handle = procfs::follow(&dir, "ns/net", OFlags::RDONLY).map_err(|e| refusal(e).1);
            self.push(Namespace { inode, process: Some((pid, dir)), thread, bound: None, handle });
        }
    }

    fn push(&mut self, namespace: Namespace) {
        if self.namespaces.len() < NAMESPACES_MAX {
            self.namespaces.push(namespace);
        } else {
            self.namespaces_left_out = self.namespaces_left_out.saturating_add(1);
        }
    }

    fn holders_of(&mut self, pid: u32, thread: Option<u32>, dir: &OwnedFd) {
        let Ok((fd_dir, (fds, _))) = open_dir(dir, "fd").and_then(|d| Ok((numbers(&d, FDS_MAX)?, d))).map(|(n, d)| (d, n)) else {
            self.refused = self.refused.saturating_add(1);
            return;
        };
        let mut any = false;
        for fd in fds {
            let Some(inode) = link(&fd_dir, fd.to_string()).ok().and_then(|t| bracketed(&t, b"socket")) else { continue };
            if self.holders.len() >= HOLDERS_MAX {
                self.holders_cut = true;
                return;
            }
            any = true;
            self.holders.push((inode, pid, fd, thread));
        }
        if any && let Ok(comm) = read_at(dir, "comm", SMALL_BYTES_MAX) {
            self.comms.insert(pid, Lossless::from(comm.bytes.strip_suffix(b"\n").unwrap_or(&comm.bytes)));
        }
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
            if !self.namespaces.iter().any(|n| n.inode == stat.stx_ino) {
                let bound = Some(exhibit_evidence::text::escape_bytes(&path));
                self.push(Namespace { inode: stat.stx_ino, process: None, thread: None, bound, handle: Ok(handle) });
            }
        }
    }
}
