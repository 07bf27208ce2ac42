//! The network namespaces of the host and who holds which socket: one walk over `/proc`.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;
use serde::Serialize;

use super::bound::MountTables;
use super::causes::Causes;
use super::sockets::Holder;
use super::stray::Strays;
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
/// Descriptors of namespaces that are remembered, and sockets through which one was found.
const DESCRIPTORS_MAX: usize = 64 << 10;
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

/// How a network namespace was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FoundBy {
    /// A process or thread lives in it.
    Process,
    /// Somebody has it open.
    Descriptor,
    /// It is mounted somewhere.
    Mount,
    /// Somebody holds a socket of it.
    Socket,
}

/// A descriptor of a process: of a namespace, or of a socket that belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Descriptor {
    pub pid: u32,
    pub fd: u32,
    /// The thread whose descriptor it is, where that has open files of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<u32>,
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
    /// Where it is mounted, for one without a process.
    pub bound: Option<String>,
    /// The process in whose mount namespace that is; none for the agent's own.
    pub bound_in: Option<u32>,
    pub found_by: FoundBy,
    /// An open handle for entering it; the reason when it could not be opened.
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
    /// Descriptors of namespaces, and sockets through which one was found, by its inode; sorted.
    descriptors: Vec<(u64, Descriptor)>,
    descriptors_cut: bool,
    /// By process: the thread through which it is read, where the first one has ended.
    pub through: BTreeMap<u32, u32>,
    /// Tables of mounts.
    pub mounts: MountTables,
    /// Sockets that are in no table of sockets.
    pub strays: Strays,
    /// Processes whose descriptors could not be listed, or not be looked at.
    pub refused: Causes,
    /// Processes of which not every thread with files or a namespace of its own was looked at.
    pub threads_cut: u64,
    /// What could not be seen of all processes together.
    pub view: View,
    /// Processes of which not everything was looked at, because something is mounted over it; see [`COVERED_MAX`].
    covered: Vec<(u32, Covered)>,
    covered_count: u64,
    /// Processes that did not tell in which namespace they live.
    unplaced: Causes,
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

    /// The place of a socket's first holder among all holders.
    #[must_use]
    pub fn first_holder(&self, inode: u64) -> Option<usize> {
        let at = self.holders.partition_point(|(i, ..)| *i < inode);
        self.holders.get(at).is_some_and(|(i, ..)| *i == inode).then_some(at)
    }

    /// How many holders there are.
    #[must_use]
    pub fn holders_count(&self) -> usize {
        self.holders.len()
    }

    /// Sockets that are held and not in a table, each with at most so many of its holders. `listed` has true at the place of the first
    /// holder of a socket that is in one.
    #[must_use]
    pub fn unlisted(&self, listed: &[bool], holders_max: usize) -> Vec<(u64, Vec<Descriptor>)> {
        let mut at = 0_usize;
        let mut found = Vec::new();
        for same in self.holders.chunk_by(|a, b| a.0 == b.0) {
            let is_listed = listed.get(at).copied().unwrap_or(false);
            at = at.saturating_add(same.len());
            if let (Some((inode, ..)), false) = (same.first(), is_listed) {
                let holders = same.iter().take(holders_max).map(|(_, pid, fd, thread)| Descriptor { pid: *pid, fd: *fd, thread: *thread });
                found.push((*inode, holders.collect()));
            }
        }
        found
    }

    /// The first descriptors by which a namespace is held, and how many more there are.
    #[must_use]
    pub fn held_by(&self, namespace: u64, count_max: usize) -> (Vec<Descriptor>, usize) {
        let from = self.descriptors.partition_point(|(n, _)| *n < namespace);
        let all = || self.descriptors.iter().skip(from).take_while(|(n, _)| *n == namespace);
        (all().take(count_max).map(|(_, d)| *d).collect(), all().count().saturating_sub(count_max))
    }

    /// What may be missing because of processes that were not looked at.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let covered = self.covered_count;
        let covered = (covered > 0).then(|| {
            format!(
                "{covered} processes were not looked at, or in part, because something is mounted over them or their threads: what they have may be missing"
            )
        });
        let mut all: Vec<String> = self.view.missing().chain(covered).collect();
        let mut say = |condition: bool, what: String| all.extend(condition.then_some(what));
        let (unplaced, refused, cut) = (self.unplaced.count(), self.refused.count(), self.threads_cut);
        let why = self.unplaced.told();
        say(unplaced > 0, format!("{unplaced} processes did not tell their network namespace, which may be missing ({why})"));
        // What a forged folder lacks says nothing of a process.
        let (is_sure, why) = (self.view.unsure.is_none(), self.refused.told());
        say(
            is_sure && refused > 0,
            format!(
                "the descriptors of {refused} processes could not be looked at ({why}): network namespaces that only they hold may be missing"
            ),
        );
        say(cut > 0, format!("{cut} processes have more threads, or more with files of their own, than were looked at"));
        say(
            self.holders_cut,
            "more holders of sockets than are remembered: some sockets seem to have none, and their namespaces may be missing".into(),
        );
        say(self.descriptors_cut, "more descriptors of network namespaces than are remembered: some may be missing".into());
        all.extend(self.mounts.missing());
        all.extend(self.strays.missing());
        all
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
            Err(e) => found.unplaced.add(e),
        }
    }
    for folder in NAMED {
        found.named(folder);
    }
    found.add_own();
    found.holders.sort_unstable();
    found.descriptors.sort_unstable();
    // Something that is mounted in the folder may have been met only now.
    found.view.again();
    Ok(found)
}

impl Found {
    /// The agent's own namespace where no process in it was found: netlink answers without one.
    fn add_own(&mut self) {
        if !self.namespaces.iter().any(|n| n.is_own) {
            let handle = Err("the agent lives in it: it is not entered".to_owned());
            let inode = self.own.unwrap_or(0);
            let own = Namespace {
                inode,
                is_own: true,
                process: None,
                thread: None,
                bound: None,
                bound_in: None,
                found_by: FoundBy::Process,
                handle,
            };
            self.namespaces.insert(0, own);
        }
    }

    /// A process: the sockets and the namespace of its first thread, or of another one where that has ended, and those of
    /// threads that have their own.
    fn process(&mut self, pid: u32, first: OwnedFd) {
        let (through, dir) = threads::living(&first, pid).map_or((None, first), |l| (Some(l.tid), l.dir));
        self.through.extend(through.map(|tid| (pid, tid)));
        let others = threads::others(&dir, through.unwrap_or(pid));
        self.mounts_of(pid, &dir);
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
            let (net, mounts) = (namespaces.get("net").copied(), namespaces.get("mnt").copied());
            if net.is_none() && mounts.is_none() {
                continue;
            }
            match thread_dir(tid) {
                Ok(thread) => {
                    if mounts.is_some() {
                        self.mounts_of(pid, &thread);
                    }
                    if let Some(inode) = net {
                        self.namespace(inode, pid, Some(tid), thread);
                    }
                }
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
            Err(e) => self.unplaced.add(e),
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
            self.unplaced.add(Errno::BADMSG);
            return;
        }
        let is_unsure = self.view.unsure.clone();
        let open = |dir: &OwnedFd| match &is_unsure {
            // It may lead to any device or server, and to open one may do something.
            Some(why) => Err(format!("not entered: {why}")),
            None => procfs::follow(dir, "ns/net", OFlags::RDONLY).map_err(|e| refusal(e).1),
        };
        match self.namespaces.iter_mut().find(|n| n.inode == inode) {
            // Somebody held it before who does not live in it.
            Some(known) if known.process.is_none() => {
                if known.handle.is_err() {
                    known.handle = open(&dir);
                }
                (known.process, known.thread, known.found_by) = (Some((pid, dir)), thread, FoundBy::Process);
                (known.bound, known.bound_in) = (None, None);
            }
            Some(_) => {}
            None => {
                let handle = open(&dir);
                let is_own = self.own == Some(inode);
                let process = Some((pid, dir));
                self.push(Namespace { inode, is_own, process, thread, bound: None, bound_in: None, found_by: FoundBy::Process, handle });
            }
        }
    }

    /// One that no process is known to live in; nothing where it is known already.
    pub fn without_process(&mut self, inode: u64, found_by: FoundBy, bound: Option<(String, u32)>, handle: Result<OwnedFd, String>) {
        let (bound, bound_in) = bound.unzip();
        if !self.knows(inode) {
            let is_own = self.own == Some(inode);
            self.push(Namespace { inode, is_own, process: None, thread: None, bound, bound_in, found_by, handle });
        }
    }

    /// Whether a namespace was found.
    #[must_use]
    pub fn knows(&self, inode: u64) -> bool {
        self.namespaces.iter().any(|n| n.inode == inode)
    }

    /// Remembers by whom a namespace is held.
    pub fn hold(&mut self, namespace: u64, by: Descriptor) {
        if self.descriptors.len() < DESCRIPTORS_MAX {
            self.descriptors.push((namespace, by));
        } else {
            self.descriptors_cut = true;
        }
    }

    /// What [`Self::hold`] added since is found only then.
    pub fn sort_descriptors(&mut self) {
        self.descriptors.sort_unstable();
    }

    /// A namespace that somebody has open. The kernel alone writes `net:[...]`: a path has a slash.
    fn descriptor(&mut self, inode: u64, by: Descriptor, fd_dir: &OwnedFd) {
        if inode == 0 || self.view.unsure.is_some() {
            return;
        }
        self.hold(inode, by);
        if self.knows(inode) {
            return;
        }
        let is_it = |leads: Vec<u8>| if bracketed(&leads, b"net") == Some(inode) { Ok(()) } else { Err(Errno::STALE) };
        // The descriptor may be another one's by now, and to open a device may do something: it is held first, and looked at.
        let opened = procfs::follow(fd_dir, &by.fd.to_string(), OFlags::PATH).and_then(|held| {
            procfs::own_link(&format!("fd/{}", held.as_raw_fd())).and_then(is_it)?;
            procfs::reopen(&held, OFlags::RDONLY)
        });
        match opened {
            // Closed since: who else holds it is met later, or was before.
            Err(Errno::NOENT | Errno::SRCH | Errno::STALE) => {}
            opened => self.without_process(inode, FoundBy::Descriptor, None, opened.map_err(|e| format!("not opened: {e}"))),
        }
    }

    /// The namespaces that are mounted in the mount namespace of a process or thread.
    fn mounts_of(&mut self, pid: u32, dir: &OwnedFd) {
        if self.view.unsure.is_some() {
            return;
        }
        for mount in self.mounts.read(dir) {
            if !self.knows(mount.namespace) {
                let handle = self.mounts.open(dir, &mount);
                let bound = Some((exhibit_evidence::text::escape_bytes(&mount.point), pid));
                self.without_process(mount.namespace, FoundBy::Mount, bound, handle);
            }
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
            // It ended meanwhile.
            Err(Errno::NOENT | Errno::SRCH) => return false,
            Err(e) => {
                self.refused.add(e);
                return false;
            }
        };
        let (mut any, mut is_covered) = (false, false);
        let mut refused = None;
        for fd in fds {
            let target = match link(&fd_dir, fd.to_string()) {
                Ok(target) => target,
                Err(Errno::XDEV) => {
                    is_covered = true;
                    continue;
                }
                // Closed since.
                Err(Errno::NOENT | Errno::SRCH) => continue,
                Err(e) => {
                    refused = Some(e);
                    continue;
                }
            };
            if let Some(namespace) = bracketed(&target, b"net") {
                self.descriptor(namespace, Descriptor { pid, fd, thread }, &fd_dir);
            }
            let Some(inode) = bracketed(&target, b"socket") else { continue };
            if self.holders.len() >= HOLDERS_MAX {
                self.holders_cut = true;
                continue;
            }
            any = true;
            self.holders.push((inode, pid, fd, thread));
        }
        if let Some(e) = refused {
            self.refused.add(e);
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
            if !self.knows(inode) {
                let (is_own, bound) = (self.own == Some(inode), Some(exhibit_evidence::text::escape_bytes(&path)));
                let (process, thread, bound_in, found_by) = (None, None, None, FoundBy::Mount);
                self.push(Namespace { inode, is_own, process, thread, bound, bound_in, found_by, handle: Ok(handle) });
            }
        }
    }
}
