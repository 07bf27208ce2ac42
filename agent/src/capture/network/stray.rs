//! Sockets that processes hold and that are in no table of a namespace that was found. Most were never bound, or are of a kind that the
//! kernel does not list. But whoever makes a network namespace, listens in it and goes back leaves one that no process lives in, that
//! nobody need have open and that is mounted nowhere: only the socket leads to it.
//!
//! So these sockets are asked to which namespace they belong. For that the agent has a copy of the descriptor (`pidfd_getfd(2)`) for a
//! few microseconds. Nothing is read from the socket, written to it or set, and the process is not stopped. What it changes: if the
//! process closes the socket in those microseconds it is closed by the agent, as much later. That is little against a listener that
//! nobody sees, and only sockets that are in no table are asked. Closing may wait (`SO_LINGER`), so a thread does it that can be left
//! behind.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use exhibit_agent_sys::socket::network_namespace;
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::again::{AGAIN_ALL_MAX, AGAIN_EACH_MAX, Again, Gone};
use super::namespaces::{Descriptor, Found, FoundBy};
use super::patient::Patient;
use crate::capture::process::bracketed;
use crate::capture::procfs::{self, link};
use crate::capture::{Output, Stop};

/// Sockets that are asked.
const ASKED_MAX: usize = 32 << 10;
/// Holders of one through which it is tried.
const HOLDERS_MAX: usize = 64;
/// Descriptors that are looked at again for sockets that were moved: 32 bytes each.
const GONE_MAX: usize = 32 << 10;
/// Sockets that are named; all are counted.
const EXAMPLES_MAX: usize = 4;
/// `PIDFD_THREAD` (Linux 6.9): of a thread that is not the first of its process.
const OF_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(0o200);

/// Sockets that did not tell to which namespace they belong.
#[derive(Debug, Default)]
pub struct Strays {
    count: u64,
    reasons: BTreeMap<String, u64>,
    examples: Vec<String>,
}

impl Strays {
    fn untold(&mut self, inode: u64, by: Option<&Descriptor>, reason: &str) {
        self.count = self.count.saturating_add(1);
        let times = self.reasons.entry(reason.to_owned()).or_default();
        *times = times.saturating_add(1);
        if let Some(by) = by.filter(|_| self.examples.len() < EXAMPLES_MAX) {
            self.examples.push(format!("socket {inode} of process {}", by.pid));
        }
    }

    /// What may be missing.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let reasons = self.reasons.iter().map(|(reason, times)| format!("{times} times: {reason}")).collect::<Vec<_>>().join(", ");
        let (count, examples) = (self.count, self.examples.join(", "));
        (count > 0).then(|| {
            format!(
                "{count} sockets that processes hold are in no table and did not tell their network namespace, which may be missing: {examples} \
                 ({reasons})"
            )
        })
    }
}

/// Finds the namespaces of such sockets. `listed` as in [`Found::next_unlisted`].
///
/// # Errors
/// [`Stop`] from the output.
pub fn find(out: &mut dyn Output, found: &mut Found, listed: &[bool]) -> Result<(), Stop> {
    // What a forged folder shows of holders may be made up: that is said.
    if found.view.unsure.is_some() {
        return Ok(());
    }
    out.note("sockets that are in no table");
    let mut search = Search { asker: Asker::new(), new: BTreeSet::new(), gone: Vec::new() };
    let ended = search.all(out, found, listed);
    // Also when told to end: what was found until then stands in a table.
    found.sort_descriptors();
    ended
}

struct Search {
    asker: Asker,
    /// Namespaces to which a socket led.
    new: BTreeSet<u64>,
    gone: Vec<Gone>,
}

impl Search {
    fn all(&mut self, out: &mut dyn Output, found: &mut Found, listed: &[bool]) -> Result<(), Stop> {
        let (mut place, mut asked) = (0, 0_usize);
        while let Some((inode, places)) = found.next_unlisted(place, listed) {
            place = places.end;
            out.checkpoint()?;
            asked = asked.saturating_add(1);
            if asked > ASKED_MAX {
                let by = found.holder_at(places.start);
                found.strays.untold(inode, by.as_ref(), &format!("not asked, after {ASKED_MAX} others"));
            } else {
                self.one(found, inode, places);
            }
        }
        self.again(out, found)
    }

    fn one(&mut self, found: &mut Found, inode: u64, places: Range<usize>) {
        let mut untold = (places.len() > HOLDERS_MAX).then(|| format!("none of {HOLDERS_MAX} descriptors told, of more than that"));
        let holders: Vec<Descriptor> = places.take(HOLDERS_MAX).filter_map(|at| found.holder_at(at)).collect();
        for by in &holders {
            let tid = thread_of(found, by);
            match self.asker.through(tid, *by, inode) {
                Ok(namespace) => return self.belongs(found, inode, *by, namespace),
                Err(why) if is_held(tid, by.fd, inode) => untold = Some(why),
                Err(_) => {}
            }
        }
        let has_room = self.gone.len().saturating_add(holders.len()) <= GONE_MAX;
        let untold = untold.or_else(|| (!has_room).then(|| format!("not looked for again, after {GONE_MAX} others")));
        match untold {
            Some(why) => found.strays.untold(inode, holders.first(), &why),
            None => self.gone.extend(holders.into_iter().map(|by| Gone { tid: thread_of(found, &by), inode, by })),
        }
    }

    fn belongs(&mut self, found: &mut Found, inode: u64, by: Descriptor, handle: OwnedFd) {
        match fstat(&handle).map(|stat| stat.st_ino) {
            Ok(namespace) => {
                if found.wants(namespace) {
                    found.without_process(namespace, FoundBy::Socket, None, Ok(handle));
                    self.new.insert(namespace);
                }
                if self.new.contains(&namespace) {
                    found.hold(namespace, by);
                }
            }
            Err(e) => found.strays.untold(inode, Some(&by), &e.to_string()),
        }
    }

    /// Whoever had a socket by a descriptor that leads elsewhere by now has closed it, or moved it to another one. Each such process is
    /// looked at once for all its sockets.
    fn again(&mut self, out: &mut dyn Output, found: &mut Found) -> Result<(), Stop> {
        let mut gone = std::mem::take(&mut self.gone);
        gone.sort_unstable_by_key(|g| (g.tid, g.inode));
        gone.dedup_by_key(|g| (g.tid, g.inode));
        let mut untold = Untold::default();
        let ended = self.each_again(out, found, &gone, &mut untold);
        // Only now: another process that had the same socket may have told.
        for (inode, (by, why)) in &untold.sockets {
            found.strays.untold(*inode, Some(by), why);
        }
        ended
    }

    fn each_again(&mut self, out: &mut dyn Output, found: &mut Found, gone: &[Gone], untold: &mut Untold) -> Result<(), Stop> {
        let (mut done, mut left) = (BTreeSet::new(), AGAIN_ALL_MAX);
        for of_thread in gone.chunk_by(|a, b| a.tid == b.tid) {
            let wanted: Vec<u64> = of_thread.iter().map(|g| g.inode).filter(|inode| !done.contains(inode)).collect();
            let Some(first) = of_thread.first().filter(|_| !wanted.is_empty()) else { continue };
            let share = left.min(AGAIN_EACH_MAX);
            let mut again = Again::new(&wanted, share);
            again.process(out, first)?;
            left = left.saturating_sub(share.saturating_sub(again.left));
            for one in of_thread.iter().filter(|g| wanted.binary_search(&g.inode).is_ok()) {
                let Some((tid, by)) = again.met.get(&one.inode).copied() else {
                    if let Some(why) = &again.unsure {
                        untold.add(one.inode, one.by, why);
                    }
                    continue;
                };
                match self.asker.through(tid, by, one.inode) {
                    Ok(namespace) => {
                        done.insert(one.inode);
                        untold.sockets.remove(&one.inode);
                        self.belongs(found, one.inode, by, namespace);
                    }
                    Err(why) => untold.add(one.inode, by, &format!("moved to another descriptor: {why}")),
                }
            }
        }
        Ok(())
    }
}

/// Sockets that may be held and did not tell yet, each with the first reason.
#[derive(Default)]
struct Untold {
    sockets: BTreeMap<u64, (Descriptor, Arc<str>)>,
    /// Each of them once: they are few, and the sockets many.
    reasons: BTreeSet<Arc<str>>,
}

impl Untold {
    fn add(&mut self, inode: u64, by: Descriptor, why: &str) {
        let known = self.reasons.get(why).cloned();
        let reason = known.unwrap_or_else(|| {
            let new: Arc<str> = Arc::from(why);
            self.reasons.insert(Arc::clone(&new));
            new
        });
        self.sockets.entry(inode).or_insert((by, reason));
    }
}

/// The thread through which a descriptor is reached.
fn thread_of(found: &Found, by: &Descriptor) -> u32 {
    by.thread.or_else(|| found.through.get(&by.pid).copied()).unwrap_or(by.pid)
}

struct Asker {
    /// Why nothing is asked.
    foreign: Option<String>,
    /// Asks and closes.
    patient: Patient,
}

impl Asker {
    fn new() -> Self {
        Self { foreign: procfs::foreign(), patient: Patient::default() }
    }

    fn through(&mut self, tid: u32, by: Descriptor, inode: u64) -> Result<OwnedFd, String> {
        if let Some(why) = &self.foreign {
            return Err(why.clone());
        }
        let flags = if tid == by.pid { PidfdFlags::empty() } else { OF_THREAD };
        self.patient.ask(move || namespace_of(tid, flags, by.fd, inode))?.map_err(|e| e.to_string())
    }
}

/// The namespace of the socket `inode`, which is the descriptor `fd` of a thread.
fn namespace_of(tid: u32, flags: PidfdFlags, fd: u32, inode: u64) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(tid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    let process = pidfd_open(pid, flags)?;
    let socket = pidfd_getfd(&process, fd, PidfdGetfdFlags::empty())?;
    // The descriptor may be another one's by now, and the number another process's.
    let stat = fstat(&socket)?;
    if stat.st_mode & 0o170_000 != 0o140_000 || stat.st_ino != inode {
        return Err(Errno::BADF);
    }
    network_namespace(socket.as_fd()).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

/// Whether a thread still holds a socket by that descriptor, or may.
fn is_held(tid: u32, fd: u32, inode: u64) -> bool {
    match procfs::process(tid).and_then(|dir| link(dir, format!("fd/{fd}"))) {
        Ok(leads) => bracketed(&leads, b"socket") == Some(inode),
        Err(e) => !matches!(e, Errno::NOENT | Errno::SRCH),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn memory() -> crate::capture::testing::Memory {
        crate::capture::testing::Memory::default()
    }

    /// A socket that was moved to another descriptor after the walk is found there.
    #[test]
    fn a_socket_that_was_moved_is_found_again() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("socket");
        let inode = fstat(&socket).expect("stat").st_ino;
        let tid = std::process::id();
        let by = Descriptor { pid: tid, fd: u32::MAX, thread: None };
        let fd = u32::try_from(socket.as_raw_fd()).expect("a descriptor");
        let gone = |tid, inode| Gone { tid, inode, by };
        // One number is no socket's: it was closed, and that is sure.
        let wanted = [0, inode];
        let mut again = Again::new(&wanted, AGAIN_EACH_MAX);
        again.process(&mut memory(), &gone(tid, inode)).expect("looked");
        assert_eq!(again.met, BTreeMap::from([(inode, (tid, Descriptor { fd, ..by }))]));
        assert!(again.unsure.is_none() && again.left < AGAIN_EACH_MAX, "{:?}", again.unsure);
        let mut again = Again::new(&wanted, 0);
        again.process(&mut memory(), &gone(tid, inode)).expect("looked");
        assert!(again.unsure.is_some() && again.met.is_empty());
        let mut found = Found::default();
        let both = vec![gone(tid, 0), gone(tid, inode)];
        let mut search = Search { asker: Asker::new(), new: BTreeSet::new(), gone: both };
        search.again(&mut memory(), &mut found).expect("looked");
        assert_eq!((found.namespaces.len(), found.strays.count), (1, 0), "{:?}", found.strays);
        let own = std::fs::read_link("/proc/self/ns/net").expect("link");
        assert_eq!(bracketed(own.as_os_str().as_encoded_bytes(), b"net"), found.namespaces.first().map(|n| n.inode));
        // The thread by which it was held ended: its process goes on with the same files.
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let ended = child.id();
        child.wait().expect("reaped");
        let mut again = Again::new(&wanted, AGAIN_EACH_MAX);
        again.process(&mut memory(), &gone(ended, inode)).expect("looked");
        assert_eq!(again.met.get(&inode).map(|(tid, by)| (*tid, by.fd)), Some((tid, fd)));
    }

    /// Two processes had a socket that was moved: that nothing is known of the first does not keep the second from being asked.
    #[test]
    fn what_one_process_does_not_tell_another_may() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("socket");
        let inode = fstat(&socket).expect("stat").st_ino;
        let by = Descriptor { pid: std::process::id(), fd: u32::MAX, thread: None };
        let mut search = Search { asker: Asker::new(), new: BTreeSet::new(), gone: Vec::new() };
        let (mut found, mut untold) = (Found::default(), Untold::default());
        untold.add(inode, by, "unsure");
        untold.add(7, by, "unsure");
        let gone = [Gone { tid: by.pid, inode, by }];
        search.each_again(&mut memory(), &mut found, &gone, &mut untold).expect("looked");
        assert_eq!(untold.sockets.keys().copied().collect::<Vec<_>>(), [7]);
        assert_eq!((found.namespaces.len(), untold.reasons.len()), (1, 1));
    }
}
