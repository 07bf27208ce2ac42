//! The network namespaces of the host and who holds which socket: one walk over `/proc`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};

use super::sockets::Holder;
use crate::capture::live::{Lossless, SMALL_BYTES_MAX, link, names, numbers, open_dir, read_at};
use crate::capture::process::bracketed;
use crate::capture::{Output, Stop};

/// Holders that are remembered: 16 bytes each, 8 MiB in all.
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
    /// A process that lives in it, with its folder pinned.
    pub process: Option<(u32, OwnedFd)>,
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
    /// Socket inode, process, descriptor; sorted.
    holders: Vec<(u64, u32, u32)>,
    comms: BTreeMap<u32, Lossless>,
    pub holders_cut: bool,
    /// Processes whose descriptors could not be listed.
    pub refused: u64,
}

impl Found {
    /// Who holds a socket.
    #[must_use]
    pub fn holders(&self, inode: u64) -> Vec<Holder> {
        let from = self.holders.partition_point(|(i, ..)| *i < inode);
        let same = self.holders.iter().skip(from).take_while(|(i, ..)| *i == inode && inode != 0);
        same.map(|(_, pid, fd)| Holder { pid: *pid, fd: *fd, comm: self.comms.get(pid).cloned().unwrap_or_default() }).collect()
    }
}

/// Walks over all processes.
pub fn find(out: &mut dyn Output) -> Result<Found, Stop> {
    let mut found = Found::default();
    let listed = open_dir(rustix::fs::CWD, "/proc").and_then(|proc| numbers(proc, PIDS_MAX));
    let (pids, _) = listed.map_err(|e| Stop::Fatal(format!("listing /proc: {e}")))?;
    for pid in pids {
        out.checkpoint()?;
        // A process that ended meanwhile holds no socket any more.
        let Ok(dir) = open_dir(rustix::fs::CWD, format!("/proc/{pid}")) else { continue };
        found.holders_of(pid, &dir);
        let ns = link(&dir, "ns/net").ok().and_then(|t| bracketed(&t, b"net"));
        if let Some(inode) = ns.filter(|ns| !found.namespaces.iter().any(|n| n.inode == *ns)) {
            let handle = openat(&dir, "ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| e.to_string());
            found.push(Namespace { inode, process: Some((pid, dir)), bound: None, handle });
        }
    }
    for folder in NAMED {
        found.named(folder);
    }
    found.holders.sort_unstable();
    Ok(found)
}

impl Found {
    fn push(&mut self, namespace: Namespace) {
        if self.namespaces.len() < NAMESPACES_MAX {
            self.namespaces.push(namespace);
        } else {
            self.namespaces_left_out = self.namespaces_left_out.saturating_add(1);
        }
    }

    fn holders_of(&mut self, pid: u32, dir: &OwnedFd) {
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
            self.holders.push((inode, pid, fd));
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
                self.push(Namespace { inode: stat.stx_ino, process: None, bound, handle: Ok(handle) });
            }
        }
    }
}
