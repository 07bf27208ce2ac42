//! The two tables of sockets: all of all namespaces, and those that wait for peers once more by themselves.

use std::collections::BTreeSet;

use rustix::fs::AtFlags;

use super::Opened;
use super::namespaces::{Found, Namespace};
use super::netlink::Failure;
use super::sockets::{ASKS, Ask, BY_FAMILY, Socket, answer, request};
use super::text;
use crate::capture::live::LARGE_BYTES_MAX;
use crate::capture::procfs::{self, read_at};
use crate::capture::{Output, Status, Stop, Table};

/// The tables while they are made.
pub struct Tables {
    all: Table,
    listening: Table,
    problems: Vec<String>,
    not_offered: BTreeSet<String>,
    /// By the place of its first holder: the socket is in a table.
    pub listed: Vec<bool>,
}

impl Tables {
    /// With no rows.
    #[must_use]
    pub fn new(out: &dyn Output, found: &Found) -> Self {
        let table = |name: &str| {
            let mut table = Table::new(name, out.now(), "netlink:sock_diag");
            found.view.tell(&mut table);
            table
        };
        let listed = vec![false; found.holders_count()];
        Self { all: table("sockets"), listening: table("listening"), problems: Vec::new(), not_offered: BTreeSet::new(), listed }
    }

    /// Takes all sockets of a namespace.
    ///
    /// # Errors
    /// [`Stop`] from the output.
    pub fn take(&mut self, out: &mut dyn Output, found: &Found, namespace: &Namespace, opened: &mut Opened) -> Result<(), Stop> {
        for ask in ASKS.iter().filter(|a| a.only_if.is_none_or(|p| is_there(found, p))) {
            out.note(&format!("sockets: {} of namespace {}", ask.name, namespace.inode));
            let asked = match &opened.diag {
                Ok(_) => self.dump(out, found, namespace.inode, ask, opened)?,
                Err(reason) => Err(NotDumped::Failed(reason.clone())),
            };
            let Err(failure) = asked else { continue };
            let rows = fallback(namespace, ask);
            let instead = match (&rows, ask.text) {
                (Some(_), _) => "taken from the text table instead",
                (None, "") => "there is no text table of them",
                (None, _) if namespace.process.is_none() => "no text table of them could be read",
                (None, _) => "see the raw text tables",
            };
            match failure {
                // What stands in text is taken whole. Where there is no text either, sockets may be there that nothing shows.
                NotDumped::NotOffered if rows.is_some() => {
                    self.not_offered.insert(format!("{}: {instead}", ask.shown()));
                }
                NotDumped::NotOffered => self.problems.push(format!("{}: not offered by this kernel; {instead}", shown(ask, namespace))),
                NotDumped::Failed(reason) => self.problems.push(format!("{}: {reason}; {instead}", shown(ask, namespace))),
            }
            for row in rows.unwrap_or_default() {
                self.put(out, found, namespace.inode, row)?;
            }
        }
        Ok(())
    }

    fn dump(
        &mut self,
        out: &mut dyn Output,
        found: &Found,
        netns: u64,
        ask: &Ask,
        opened: &mut Opened,
    ) -> Result<Result<(), NotDumped>, Stop> {
        let failed = |why: String| Err(NotDumped::Failed(why));
        let Ok(diag) = &mut opened.diag else { return Ok(failed("no socket".into())) };
        let mut not_understood = 0_u64;
        let dumped = diag.dump(BY_FAMILY, &request(ask), &mut |_, payload| {
            let Some(socket) = answer(ask, payload) else {
                not_understood = not_understood.saturating_add(1);
                return Ok(());
            };
            self.put(out, found, netns, socket)
        });
        Ok(match dumped {
            Ok(_) if not_understood > 0 => failed(format!("{not_understood} answers were not understood")),
            Ok(d) if d.interrupted => failed("the table changed while it was dumped: rows may be missing or twice".into()),
            Ok(_) => Ok(()),
            // No module answers for this kind (sock_diag_rcv_msg, inet_diag_lock_handler).
            Err(Failure::Kernel(rustix::io::Errno::NOENT)) => Err(NotDumped::NotOffered),
            Err(Failure::Kernel(e)) => failed(e.to_string()),
            Err(Failure::Malformed(what)) => failed(what.to_owned()),
            Err(Failure::Stop(stop)) => return Err(stop),
        })
    }

    fn put(&mut self, out: &mut dyn Output, found: &Found, netns: u64, mut socket: Socket) -> Result<(), Stop> {
        socket.netns = netns;
        socket.holders = found.holders(socket.inode);
        if let Some(listed) = found.first_holder(socket.inode).and_then(|at| self.listed.get_mut(at)) {
            *listed = true;
        }
        let unconnected = socket.remote.as_ref().is_some_and(|r| r.port == 0);
        // UDP and raw sockets without a peer take what comes.
        if socket.state == "listen" || (unconnected && socket.state == "close" && socket.protocol != "tcp") {
            self.listening.row(out, &socket)?;
        }
        self.all.row(out, &socket)
    }

    /// Puts what is left of both. `ended` is what ended the taking before all was taken.
    ///
    /// # Errors
    /// [`Stop`] from the output.
    pub fn finish(self, out: &mut dyn Output, found: &Found, ended: Option<&Stop>) -> Result<(), Stop> {
        let Self { mut all, mut listening, problems: of_dumps, not_offered, .. } = self;
        // First, because of many problems only the first ones are said.
        let mut problems: Vec<String> = ended.map(super::unfinished).into_iter().collect();
        problems.extend(found.missing());
        problems.extend(of_dumps);
        if found.view.unsure.is_some() {
            problems.push("whether the kernel has sctp sockets is not known: they were not asked for".into());
        } else if found.refused.count() > 0 {
            problems.push("sockets of processes that did not let their descriptors be listed seem to have no holder".into());
        }
        let problem = (!problems.is_empty()).then(|| (Status::Partial, super::bounded(&problems)));
        if !not_offered.is_empty() {
            let text = not_offered.into_iter().collect::<Vec<_>>().join("; ");
            listening.fact("not_offered_by_kernel", text.as_str());
            all.fact("not_offered_by_kernel", text);
        }
        // Both, also when the collection is to end: what they have is in memory.
        let put = listening.finish(out, problem.clone());
        all.finish(out, problem).and(put).map(drop)
    }
}

/// Whether the kernel has what it shows at this path. What lies over `/proc` does not say so.
fn is_there(found: &Found, path: &str) -> bool {
    let Some(below) = path.strip_prefix("/proc/") else { return std::fs::symlink_metadata(path).is_ok() };
    let look = || procfs::root().and_then(|root| rustix::fs::statat(root, below, AtFlags::SYMLINK_NOFOLLOW));
    found.view.unsure.is_none() && look().is_ok()
}

/// Why sockets of one kind could not be dumped.
enum NotDumped {
    /// This kernel cannot be asked for them: the module that answers is not loaded.
    NotOffered,
    /// It was asked, and the answer is not whole.
    Failed(String),
}

fn shown(ask: &Ask, namespace: &Namespace) -> String {
    let whose =
        if namespace.is_own { "this host's own network namespace".to_owned() } else { format!("network namespace {}", namespace.inode) };
    format!("{} of {whose}", ask.shown())
}

fn fallback(namespace: &Namespace, ask: &Ask) -> Option<Vec<Socket>> {
    if !matches!(ask.name, "tcp" | "udp" | "raw" | "unix") {
        return None;
    }
    let (_, dir) = namespace.process.as_ref()?;
    let read = read_at(dir, format!("net/{}", ask.text), LARGE_BYTES_MAX).ok()?;
    Some(text::table(ask, &read.bytes))
}
