//! The network namespaces of the host and who holds which socket: one walk over `/proc`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use super::bound::MountTables;
use super::causes::Causes;
use super::open::{by_descriptor, by_name};
use super::patient::Patient;
use super::room::Room;
use super::sockets::Holder;
use super::stray::Strays;
use super::view::View;
use crate::capture::live::{Lossless, SMALL_BYTES_MAX, names, numbers, put_absent, refusal};
use crate::capture::process::bracketed;
use crate::capture::procfs::{self, link, open_dir, read_at};
use crate::capture::{Output, Stop, evidence_path, threads};

/// Holders that are remembered: 24 bytes each, 12 MiB in all.
const HOLDERS_MAX: usize = 512 << 10;
/// Names that are looked at in one of the folders of [`NAMED`].
const NAMES_MAX: usize = 4096;
const PIDS_MAX: usize = 4 << 20;
const FDS_MAX: usize = 1 << 20;
/// After so many descriptors is asked whether to go on.
const FDS_AT_ONCE: usize = 4096;
/// Descriptors of namespaces that are remembered, and sockets through which one was found.
const DESCRIPTORS_MAX: usize = 64 << 10;
/// Processes with something mounted over them that get an item; all are counted.
const COVERED_MAX: usize = 300;
/// Paths of mounts that are remembered.
const PATHS_BYTES_MAX: usize = 1 << 20;
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
    /// For how many there is room.
    pub room: Room,
    /// Socket inode, process, descriptor, and the thread if it has files of its own; sorted.
    holders: Vec<(u64, u32, u32, Option<u32>)>,
    comms: BTreeMap<u32, Lossless>,
    pub holders_cut: bool,
    /// Descriptors of namespaces, and sockets through which one was found, by its inode; sorted.
    descriptors: Vec<(u64, Descriptor)>,
    descriptors_cut: bool,
    /// By process: the thread through which it is read, where the first one has ended.
    pub through: BTreeMap<u32, u32>,
    /// Processes, and threads, with more descriptors than are looked at.
    fds_cut: u64,
    /// Opens what descriptors and names lead to: either may be on the file system of a server.
    opens: Patient,
    names: Patient,
    /// Of the paths of mounts.
    paths_bytes: usize,
    /// Names in the folders of [`NAMED`] that could not be looked at.
    unseen_names: u64,
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

    /// The next socket, from a place among all holders on, that is held and not in a table, and the places of its holders. `listed` has true
    /// at the place of the first holder of a socket that is in one.
    #[must_use]
    pub fn next_unlisted(&self, from: usize, listed: &[bool]) -> Option<(u64, Range<usize>)> {
        let mut at = from;
        for same in self.holders.get(from..)?.chunk_by(|a, b| a.0 == b.0) {
            let places = at..at.saturating_add(same.len());
            let is_listed = listed.get(at).copied().unwrap_or(false);
            at = places.end;
            if let (Some((inode, ..)), false) = (same.first(), is_listed) {
                return Some((*inode, places));
            }
        }
        None
    }

    /// The holder at a place among all holders.
    #[must_use]
    pub fn holder_at(&self, place: usize) -> Option<Descriptor> {
        self.holders.get(place).map(|(_, pid, fd, thread)| Descriptor { pid: *pid, fd: *fd, thread: *thread })
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
        let mut all: Vec<String> = self.view.missing().chain(covered).chain(self.room.missing()).collect();
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
        let (fds_cut, unseen) = (self.fds_cut, self.unseen_names);
        say(
            fds_cut > 0,
            format!("{fds_cut} processes or threads have more than {FDS_MAX} descriptors, of which the rest was not looked at"),
        );
        say(unseen > 0, format!("{unseen} names in {} could not be looked at: network namespaces may be missing", NAMED.join(" or ")));
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
            Ok(dir) => found.process(out, pid, dir)?,
            // A process that ended meanwhile holds no socket any more.
            Err(Errno::NOENT | Errno::SRCH) => {}
            Err(Errno::XDEV) => found.cover(pid, Covered::Process),
            Err(e) => found.unplaced.add(e),
        }
    }
    for folder in NAMED {
        out.checkpoint()?;
        found.named(out, folder)?;
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
    fn process(&mut self, out: &mut dyn Output, pid: u32, first: OwnedFd) -> Result<(), Stop> {
        let (through, dir) = threads::living(&first, pid).map_or((None, first), |l| (Some(l.tid), l.dir));
        self.through.extend(through.map(|tid| (pid, tid)));
        let others = threads::others(&dir, through.unwrap_or(pid));
        let mut is_covered = self.mounts_of(out, pid, &dir)?;
        is_covered |= self.holders_of(out, pid, None, &dir)?;
        let mut is_thread_covered = others.covered;
        self.threads_cut = self.threads_cut.saturating_add(u64::from(others.left_out.is_some()));
        let thread_dir = |tid: u32| open_dir(&dir, format!("task/{tid}"));
        // A thread that ended meanwhile holds nothing any more.
        for tid in others.files {
            match thread_dir(tid) {
                Ok(thread) => is_thread_covered |= self.holders_of(out, pid, Some(tid), &thread)?,
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
                        is_thread_covered |= self.mounts_of(out, pid, &thread)?;
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
        Ok(())
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
        if let Some(known) = self.namespaces.iter_mut().find(|n| n.inode == inode) {
            let better = if known.handle.is_err() { open(&dir).ok() } else { None };
            // Somebody held it before who does not live in it; or who did has ended.
            if known.process.is_none() || better.is_some() {
                (known.process, known.thread, known.found_by) = (Some((pid, dir)), thread, FoundBy::Process);
                (known.bound, known.bound_in) = (None, None);
            }
            if let Some(handle) = better {
                known.handle = Ok(handle);
            }
        } else {
            let handle = open(&dir);
            let is_own = self.own == Some(inode);
            let process = Some((pid, dir));
            self.push(Namespace { inode, is_own, process, thread, bound: None, bound_in: None, found_by: FoundBy::Process, handle });
        }
    }

    /// One that no process is known to live in. Of one that is known it is the handle that counts, if there is none yet.
    pub fn without_process(
        &mut self,
        inode: u64,
        found_by: FoundBy,
        bound: Option<(String, Option<u32>)>,
        handle: Result<OwnedFd, String>,
    ) {
        match self.namespaces.iter_mut().find(|n| n.inode == inode) {
            Some(known) if known.handle.is_err() && handle.is_ok() => known.handle = handle,
            Some(_) => {}
            None => {
                let is_own = self.own == Some(inode);
                let (bound, bound_in) = bound.map_or((None, None), |(path, pid)| (Some(self.kept(path)), pid));
                self.push(Namespace { inode, is_own, process: None, thread: None, bound, bound_in, found_by, handle });
            }
        }
    }

    /// The path of a mount, if there is room for it.
    fn kept(&mut self, path: String) -> String {
        let bytes = self.paths_bytes.saturating_add(path.len());
        if bytes > PATHS_BYTES_MAX {
            return format!("a path of {} bytes, left out after {PATHS_BYTES_MAX} bytes of others", path.len());
        }
        self.paths_bytes = bytes;
        path
    }

    /// Whether a handle of a namespace is of use: there is room for it, and none by which it can be entered is known.
    pub fn wants(&mut self, inode: u64) -> bool {
        match self.namespaces.iter().find(|n| n.inode == inode) {
            Some(known) => known.handle.is_err() && !known.is_own,
            None if self.own == Some(inode) || self.namespaces.len() < self.room.namespaces => true,
            None => {
                self.room.leave_out(inode);
                false
            }
        }
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
        if !self.wants(inode) {
            return;
        }
        let opened = match fd_dir.try_clone() {
            Ok(dir) => self.opens.ask(move || by_descriptor(&dir, by.fd, inode)),
            Err(e) => Err(e.to_string()),
        };
        let handle = match opened {
            // Closed since: who else holds it is met later, or was before.
            Ok(Err(Errno::NOENT | Errno::SRCH | Errno::STALE)) => return,
            Ok(opened) => opened.map_err(|e| format!("not opened: {e}")),
            Err(why) => Err(format!("not opened: {why}")),
        };
        self.without_process(inode, FoundBy::Descriptor, None, handle);
    }

    /// The namespaces that are mounted in the mount namespace of a process or thread. Says whether something is mounted over what was
    /// asked for.
    fn mounts_of(&mut self, out: &mut dyn Output, pid: u32, dir: &OwnedFd) -> Result<bool, Stop> {
        if self.view.unsure.is_some() {
            return Ok(false);
        }
        // The only error is that something is mounted over it.
        let Ok(mounts) = self.mounts.read(dir) else { return Ok(true) };
        for mount in mounts {
            out.checkpoint()?;
            if self.wants(mount.namespace) {
                let handle = self.mounts.open(dir, &mount);
                let bound = Some((exhibit_evidence::text::escape_bytes(&mount.point), Some(pid)));
                self.without_process(mount.namespace, FoundBy::Mount, bound, handle);
            }
        }
        Ok(false)
    }

    fn push(&mut self, namespace: Namespace) {
        let is_free = namespace.is_own || self.namespaces.len() < self.room.namespaces;
        if is_free || (namespace.process.is_some() && self.make_room()) {
            self.room.let_in(namespace.inode);
            self.namespaces.push(namespace);
        } else {
            self.room.leave_out(namespace.inode);
        }
    }

    /// Who has a process takes the place of one that has none: of those anybody can keep thousands at little cost.
    fn make_room(&mut self) -> bool {
        let Some(at) = self.namespaces.iter().rposition(|n| n.process.is_none() && !n.is_own) else { return false };
        let without = self.namespaces.remove(at);
        self.room.leave_out(without.inode);
        true
    }

    /// Says whether something is mounted over what was asked for.
    fn holders_of(&mut self, out: &mut dyn Output, pid: u32, thread: Option<u32>, dir: &OwnedFd) -> Result<bool, Stop> {
        let ((fds, more), fd_dir) = match open_dir(dir, "fd").and_then(|d| Ok((numbers(&d, FDS_MAX)?, d))) {
            Ok(listed) => listed,
            Err(Errno::XDEV) => return Ok(true),
            // It ended meanwhile.
            Err(Errno::NOENT | Errno::SRCH) => return Ok(false),
            Err(e) => {
                self.refused.add(e);
                return Ok(false);
            }
        };
        self.fds_cut = self.fds_cut.saturating_add(u64::from(more));
        let (mut any, mut is_covered) = (false, false);
        let mut refused = None;
        for (at, fd) in fds.into_iter().enumerate() {
            if at % FDS_AT_ONCE == FDS_AT_ONCE - 1 {
                out.checkpoint()?;
            }
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
        Ok(is_covered)
    }

    fn named(&mut self, out: &mut dyn Output, folder: &'static str) -> Result<(), Stop> {
        let (entries, more) = match self.names.ask(move || open_dir(CWD, folder).and_then(|dir| names(dir, NAMES_MAX))) {
            Ok(Ok(listed)) => listed,
            // Most hosts have none.
            Ok(Err(_)) => return Ok(()),
            Err(_) => (Vec::new(), true),
        };
        self.unseen_names = self.unseen_names.saturating_add(u64::from(more));
        for name in entries {
            out.checkpoint()?;
            let mut path = format!("{folder}/").into_bytes();
            path.extend_from_slice(&name);
            let asked = path.clone();
            match self.names.ask(move || by_name(&asked)) {
                Ok(Ok(Some((inode, handle)))) => {
                    if self.wants(inode) {
                        let bound = Some((exhibit_evidence::text::escape_bytes(&path), None));
                        self.without_process(inode, FoundBy::Mount, bound, Ok(handle));
                    }
                }
                // A file left over from an unmounted namespace, or nothing any more.
                Ok(Ok(None) | Err(Errno::NOENT)) => {}
                Ok(Err(_)) | Err(_) => self.unseen_names = self.unseen_names.saturating_add(1),
            }
        }
        Ok(())
    }
}
