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

use exhibit_agent_sys::socket::network_namespace;
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::namespaces::{Descriptor, Found, FoundBy};
use super::patient::Patient;
use crate::capture::live::numbers;
use crate::capture::process::bracketed;
use crate::capture::procfs::{self, link, open_dir};
use crate::capture::{Output, Stop};

/// Sockets that are asked.
const ASKED_MAX: usize = 32 << 10;
/// Holders of one through which it is tried.
const HOLDERS_MAX: usize = 64;
/// Descriptors that are looked at again for sockets that were moved: 32 bytes each.
const GONE_MAX: usize = 32 << 10;
/// Descriptors of one process that are looked at again.
const AGAIN_MAX: usize = 64 << 10;
/// The same of all processes together, each time counted: some seconds.
const AGAIN_ALL_MAX: usize = 4 << 20;
/// How often, where they change meanwhile.
const LOOKS_MAX: usize = 8;
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

/// A descriptor by which a socket was held and is not any more.
struct Gone {
    tid: u32,
    inode: u64,
    by: Descriptor,
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
        let (mut done, mut left) = (BTreeSet::new(), AGAIN_ALL_MAX);
        for of_thread in gone.chunk_by(|a, b| a.tid == b.tid) {
            out.checkpoint()?;
            let Some(tid) = of_thread.first().map(|g| g.tid) else { continue };
            let looked = look_again(tid, of_thread, &mut left);
            for one in of_thread {
                if done.contains(&one.inode) {
                    continue;
                }
                match &looked {
                    Looked::Ended => {}
                    Looked::Unsure(why) => {
                        done.insert(one.inode);
                        found.strays.untold(one.inode, Some(&one.by), why);
                    }
                    Looked::At(moved) => {
                        let Some(fd) = moved.get(&one.inode) else { continue };
                        done.insert(one.inode);
                        let by = Descriptor { fd: *fd, ..one.by };
                        match self.asker.through(tid, by, one.inode) {
                            Ok(namespace) => self.belongs(found, one.inode, by, namespace),
                            Err(why) => found.strays.untold(one.inode, Some(&by), &format!("moved to another descriptor: {why}")),
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The thread through which a descriptor is reached.
fn thread_of(found: &Found, by: &Descriptor) -> u32 {
    by.thread.or_else(|| found.through.get(&by.pid).copied()).unwrap_or(by.pid)
}

/// What a process holds by now of the sockets that it held.
#[derive(Debug, PartialEq, Eq)]
enum Looked {
    Ended,
    /// They may be held or not.
    Unsure(String),
    /// The descriptors of those that it holds, by the socket.
    At(BTreeMap<u64, u32>),
}

/// Looks until the descriptors stay the same meanwhile. `gone` is sorted by socket; `left` is how many descriptors may be looked at.
fn look_again(tid: u32, gone: &[Gone], left: &mut usize) -> Looked {
    let mut moved = BTreeMap::new();
    for _ in 0..LOOKS_MAX {
        if *left == 0 {
            return Looked::Unsure(format!("not looked for again, after {AGAIN_ALL_MAX} descriptors"));
        }
        match look(tid, gone, &mut moved, left) {
            Ok(true) => return Looked::At(moved),
            Ok(false) => {}
            Err(Errno::NOENT | Errno::SRCH) => return Looked::Ended,
            Err(e) => return Looked::Unsure(format!("its descriptors could not be looked at again: {e}")),
        }
    }
    // What was met is no less sure.
    if gone.iter().all(|g| moved.contains_key(&g.inode)) {
        return Looked::At(moved);
    }
    Looked::Unsure("closed, or moved to another descriptor: those of its process change too quickly to tell".to_owned())
}

/// One look; says whether everything stayed the same meanwhile.
fn look(tid: u32, gone: &[Gone], moved: &mut BTreeMap<u64, u32>, left: &mut usize) -> Result<bool, Errno> {
    let folder = procfs::process(tid).and_then(|dir| open_dir(dir, "fd"))?;
    let (fds, more) = numbers(&folder, AGAIN_MAX)?;
    *left = left.saturating_sub(fds.len());
    // Of the agent itself the looking alone opens and closes some.
    let is_own = tid == std::process::id();
    let mut is_same = !more;
    for fd in &fds {
        match link(&folder, fd.to_string()) {
            Ok(leads) => {
                let socket = bracketed(&leads, b"socket");
                if let Some(inode) = socket.filter(|inode| gone.binary_search_by_key(inode, |g| g.inode).is_ok()) {
                    moved.insert(inode, *fd);
                }
            }
            Err(Errno::NOENT) => is_same = false,
            Err(e) => return Err(e),
        }
    }
    // A folder that was listed is listed anew only where it is opened anew.
    let again = procfs::process(tid).and_then(|dir| open_dir(dir, "fd"))?;
    Ok(is_own || (is_same && numbers(&again, AGAIN_MAX)?.0 == fds))
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

    /// A socket that was moved to another descriptor after the walk is found there.
    #[test]
    fn a_socket_that_was_moved_is_found_again() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("socket");
        let inode = fstat(&socket).expect("stat").st_ino;
        let tid = std::process::id();
        let by = Descriptor { pid: tid, fd: u32::MAX, thread: None };
        let fd = u32::try_from(socket.as_raw_fd()).expect("a descriptor");
        let gone = |inode| Gone { tid, inode, by };
        let mut left = 1_000;
        // One number is no socket's.
        let both = [gone(0), gone(inode)];
        assert_eq!(look_again(tid, &both, &mut left), Looked::At(BTreeMap::from([(inode, fd)])));
        assert!(matches!(look_again(tid, &both, &mut 0), Looked::Unsure(_)) && left < 1_000);
        let mut found = Found::default();
        let mut search = Search { asker: Asker::new(), new: BTreeSet::new(), gone: both.into() };
        search.again(&mut crate::capture::testing::Memory::default(), &mut found).expect("looked");
        assert_eq!((found.namespaces.len(), found.strays.count), (1, 0), "{:?}", found.strays);
        let own = std::fs::read_link("/proc/self/ns/net").expect("link");
        assert_eq!(bracketed(own.as_os_str().as_encoded_bytes(), b"net"), found.namespaces.first().map(|n| n.inode));
    }

    /// A process that ended holds nothing.
    #[test]
    fn who_ended_holds_nothing_any_more() {
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let tid = child.id();
        child.wait().expect("reaped");
        let gone = [Gone { tid, inode: 7, by: Descriptor { pid: tid, fd: 3, thread: None } }];
        assert_eq!(look_again(tid, &gone, &mut 1_000), Looked::Ended);
    }
}
