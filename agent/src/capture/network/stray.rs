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
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use exhibit_agent_sys::socket::network_namespace;
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::namespaces::{Descriptor, Found, FoundBy};
use crate::capture::patience::{Kept, NotDone};
use crate::capture::process::bracketed;
use crate::capture::procfs::{self, link};
use crate::capture::{Output, Stop};

/// Sockets that are asked.
const ASKED_MAX: usize = 32 << 10;
/// Holders of one through which it is tried.
const HOLDERS_MAX: usize = 4;
const PATIENCE: Duration = Duration::from_secs(5);
/// Threads that may be left behind.
const STUCK_MAX: u32 = 4;
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

/// Finds the namespaces of such sockets. `listed` as in [`Found::unlisted`].
///
/// # Errors
/// [`Stop`] from the output.
pub fn find(out: &mut dyn Output, found: &mut Found, listed: &[bool]) -> Result<(), Stop> {
    // What a forged folder shows of holders may be made up: that is said.
    if found.view.unsure.is_some() {
        return Ok(());
    }
    out.note("sockets that are in no table");
    let mut asker = Asker::new();
    let mut new = BTreeSet::new();
    for (at, (inode, holders)) in found.unlisted(listed, HOLDERS_MAX).into_iter().enumerate() {
        out.checkpoint()?;
        let answer =
            if at < ASKED_MAX { asker.ask(found, inode, &holders) } else { Answer::Untold(format!("not asked, after {ASKED_MAX} others")) };
        match answer {
            Answer::Gone => {}
            Answer::Untold(reason) => found.strays.untold(inode, holders.first(), &reason),
            Answer::Belongs(by, handle) => match fstat(&handle).map(|stat| stat.st_ino) {
                Ok(namespace) => {
                    if !found.knows(namespace) {
                        found.without_process(namespace, FoundBy::Socket, None, Ok(handle));
                        new.insert(namespace);
                    }
                    if new.contains(&namespace) {
                        found.hold(namespace, by);
                    }
                }
                Err(e) => found.strays.untold(inode, Some(&by), &e.to_string()),
            },
        }
    }
    found.sort_descriptors();
    Ok(())
}

enum Answer {
    Belongs(Descriptor, OwnedFd),
    /// Nobody who held it does.
    Gone,
    Untold(String),
}

struct Asker {
    /// Asks and closes; the reason when nothing is asked.
    thread: Result<Kept<()>, String>,
    stuck: u32,
}

impl Asker {
    fn new() -> Self {
        let thread = match procfs::foreign() {
            Some(why) => Err(why),
            None => Self::thread(),
        };
        Self { thread, stuck: 0 }
    }

    fn thread() -> Result<Kept<()>, String> {
        Kept::new((), PATIENCE).map_err(|_| "no thread for it".to_owned())
    }

    fn ask(&mut self, found: &Found, inode: u64, holders: &[Descriptor]) -> Answer {
        let mut untold = None;
        for by in holders {
            let tid = by.thread.or_else(|| found.through.get(&by.pid).copied()).unwrap_or(by.pid);
            match self.through(tid, *by, inode) {
                Ok(namespace) => return Answer::Belongs(*by, namespace),
                Err(why) if is_held(tid, by.fd, inode) => untold = Some(why),
                Err(_) => {}
            }
        }
        untold.map_or(Answer::Gone, Answer::Untold)
    }

    fn through(&mut self, tid: u32, by: Descriptor, inode: u64) -> Result<OwnedFd, String> {
        let thread = match &mut self.thread {
            Ok(thread) => thread,
            Err(why) => return Err(why.clone()),
        };
        let flags = if tid == by.pid { PidfdFlags::empty() } else { OF_THREAD };
        match thread.ask(move |()| namespace_of(tid, flags, by.fd, inode)) {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(NotDone::Late) => {
                self.stuck = self.stuck.saturating_add(1);
                let why = format!("it did not answer within {} s", PATIENCE.as_secs());
                self.thread =
                    if self.stuck < STUCK_MAX { Self::thread() } else { Err("not asked: too many others did not answer".to_owned()) };
                Err(why)
            }
            Err(NotDone::Ended | NotDone::NoThread) => Err("no thread for it".to_owned()),
        }
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
