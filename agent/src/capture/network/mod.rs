//! The `network` capture: sockets with their holders, neighbours, routes, rules, links and addresses of every network
//! namespace, the kernel's text tables, firewall rules, and the resolver's configuration.

mod namespaces;
mod netlink;
mod routing;
mod sockets;
#[cfg(test)]
mod tests;
mod text;
mod tools;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::net::netlink::SOCK_DIAG;

use self::namespaces::{Found, Namespace};
use self::netlink::{Failure, Netlink};
use self::sockets::{ASKS, Ask, Socket};
use super::live::{LARGE_BYTES_MAX, SMALL_BYTES_MAX, names, put_absent, put_read, read, take, words};
use super::procfs::{self, open_dir, read_at};
use super::{Capture, Content, Kind, NewItem, Output, Params, Status, Stop, Table, evidence_path};

/// The capture; see the module.
#[derive(Debug, Default, Clone, Copy)]
pub struct Network;

impl Network {
    /// For the registry.
    #[must_use]
    pub fn boxed() -> Box<dyn Capture> {
        Box::new(Self)
    }
}

/// Configuration of name resolution, raw.
const FILES: [&str; 6] =
    ["/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/etc/host.conf", "/etc/gai.conf"];

/// Files read from one folder below `/proc/<pid>/net`.
const NET_FILES_MAX: usize = 1024;
/// Folders below it that hold tables.
const NET_FOLDERS: [&str; 6] = ["stat", "vlan", "bonding", "sctp", "netfilter", "dev_snmp6"];

impl Capture for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        let sock_diag = params.flag("sock_diag", true)?;
        let run_tools = params.flag("tools", true)?;
        let modules_before = modules();
        out.note("holders of sockets");
        let found = namespaces::find(out)?;
        found.put_covered(out)?;
        let mut opened: Vec<Opened> = found.namespaces.iter().map(|n| Opened::new(n, sock_diag)).collect();
        sockets(out, &found, &mut opened)?;
        routing(out, &found, &mut opened)?;
        for namespace in &found.namespaces {
            texts(out, &found, namespace)?;
        }
        firewall(out, &found, run_tools)?;
        namespace_list(out, &found, &opened)?;
        for file in FILES {
            resolver_file(out, file)?;
        }
        footprint(out, &modules_before)?;
        match found.view.missing().next().filter(|_| found.view.unsure.is_some()) {
            Some(why) => Err(Stop::Nothing(why)),
            None => Ok(()),
        }
    }
}

/// The netlink sockets of one namespace, each with the reason why it is not there.
struct Opened {
    diag: Result<Netlink, String>,
    route: Result<Netlink, String>,
}

impl Opened {
    fn new(namespace: &Namespace, sock_diag: bool) -> Self {
        let open = || {
            let diag = if sock_diag {
                Netlink::open(Some(SOCK_DIAG)).map_err(|e| e.to_string())
            } else {
                Err("sock_diag=false in the order".into())
            };
            Self { diag, route: Netlink::open(None).map_err(|e| e.to_string()) }
        };
        // A netlink socket belongs to the namespace of the thread that opens it and may be used from any other.
        let opened = match &namespace.handle {
            _ if namespace.is_own => Ok(open()),
            Ok(handle) => tools::inside(Some(handle), open),
            Err(e) => Err(e.clone()),
        };
        opened.unwrap_or_else(|e| Self { diag: Err(e.clone()), route: Err(e) })
    }
}

fn enter(namespace: &Namespace) -> Option<&OwnedFd> {
    if namespace.is_own { None } else { namespace.handle.as_ref().ok() }
}

/// All sockets of all namespaces, and those that wait for peers once more by themselves.
fn sockets(out: &mut dyn Output, found: &Found, opened: &mut [Opened]) -> Result<(), Stop> {
    let mut all = Table::new("sockets", out.now(), "netlink:sock_diag");
    let mut listening = Table::new("listening", out.now(), "netlink:sock_diag");
    found.view.tell(&mut all);
    found.view.tell(&mut listening);
    // First, because of many problems only the first ones are said.
    let mut problems = found.missing();
    let mut not_offered: BTreeSet<String> = BTreeSet::new();
    for (namespace, opened) in found.namespaces.iter().zip(opened.iter_mut()) {
        for ask in ASKS.iter().filter(|a| a.only_if.is_none_or(|p| is_there(found, p))) {
            out.note(&format!("sockets: {} of namespace {}", ask.name, namespace.inode));
            let asked = match &opened.diag {
                Ok(_) => dump_sockets(out, found, namespace.inode, ask, opened, &mut all, &mut listening)?,
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
                    not_offered.insert(format!("{}: {instead}", ask.shown()));
                }
                NotDumped::NotOffered => problems.push(format!("{}: not offered by this kernel; {instead}", shown(ask, namespace))),
                NotDumped::Failed(reason) => problems.push(format!("{}: {reason}; {instead}", shown(ask, namespace))),
            }
            for row in rows.unwrap_or_default() {
                put_socket(out, found, namespace.inode, row, &mut all, &mut listening)?;
            }
        }
    }
    if found.holders_cut {
        problems.push("more holders of sockets than are remembered: some sockets seem to have none".into());
    }
    if found.view.unsure.is_some() {
        problems.push("whether the kernel has sctp sockets is not known: they were not asked for".into());
    } else if found.refused > 0 {
        problems.push(format!("{} processes did not let their descriptors be listed: their sockets seem to have no holder", found.refused));
    }
    if found.threads_cut > 0 {
        problems.push(format!("{} processes have more threads, or more with files of their own, than were looked at", found.threads_cut));
    }
    let problem = (!problems.is_empty()).then(|| (Status::Partial, bounded(&problems)));
    if !not_offered.is_empty() {
        let text = not_offered.into_iter().collect::<Vec<_>>().join("; ");
        listening.fact("not_offered_by_kernel", text.as_str());
        all.fact("not_offered_by_kernel", text);
    }
    listening.finish(out, problem.clone())?;
    all.finish(out, problem).map(drop)
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

/// At most a few KiB of reasons.
fn bounded(problems: &[String]) -> String {
    let shown = problems.iter().take(16).cloned().collect::<Vec<_>>().join("; ");
    match problems.len().checked_sub(16) {
        Some(more) if more > 0 => format!("{shown}; and {more} more"),
        _ => shown,
    }
}

fn dump_sockets(
    out: &mut dyn Output,
    found: &Found,
    netns: u64,
    ask: &Ask,
    opened: &mut Opened,
    all: &mut Table,
    listening: &mut Table,
) -> Result<Result<(), NotDumped>, Stop> {
    let failed = |why: String| Err(NotDumped::Failed(why));
    let Ok(diag) = &mut opened.diag else { return Ok(failed("no socket".into())) };
    let mut not_understood = 0_u64;
    let dumped = diag.dump(sockets::BY_FAMILY, &sockets::request(ask), &mut |_, payload| {
        let Some(socket) = sockets::answer(ask, payload) else {
            not_understood = not_understood.saturating_add(1);
            return Ok(());
        };
        put_socket(out, found, netns, socket, all, listening)
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

fn put_socket(
    out: &mut dyn Output,
    found: &Found,
    netns: u64,
    mut socket: Socket,
    all: &mut Table,
    listening: &mut Table,
) -> Result<(), Stop> {
    socket.netns = netns;
    socket.holders = found.holders(socket.inode);
    let unconnected = socket.remote.as_ref().is_some_and(|r| r.port == 0);
    // UDP and raw sockets without a peer take what comes.
    if socket.state == "listen" || (unconnected && socket.state == "close" && socket.protocol != "tcp") {
        listening.row(out, &socket)?;
    }
    all.row(out, &socket)
}

fn fallback(namespace: &Namespace, ask: &Ask) -> Option<Vec<Socket>> {
    if !matches!(ask.name, "tcp" | "udp" | "raw" | "unix") {
        return None;
    }
    let (_, dir) = namespace.process.as_ref()?;
    let read = read_at(dir, format!("net/{}", ask.text), LARGE_BYTES_MAX).ok()?;
    Some(text::table(ask, &read.bytes))
}

fn routing(out: &mut dyn Output, found: &Found, opened: &mut [Opened]) -> Result<(), Stop> {
    for dump in routing::DUMPS {
        let mut table = Table::new(dump.name, out.now(), "netlink:route");
        found.view.tell(&mut table);
        let mut problems = found.missing();
        for (namespace, opened) in found.namespaces.iter().zip(opened.iter_mut()) {
            out.note(&format!("{} of namespace {}", dump.name, namespace.inode));
            let route = match &mut opened.route {
                Ok(route) => route,
                Err(reason) => {
                    problems.push(format!("namespace {}: {reason}", namespace.inode));
                    continue;
                }
            };
            let answer = dump.request.saturating_sub(2);
            let dumped = route.dump(dump.request, &dump.payload(), &mut |kind, payload| {
                if kind == answer { table.row(out, &routing::row(dump, namespace.inode, payload)) } else { Ok(()) }
            });
            match dumped {
                Ok(d) if d.interrupted => problems.push(format!("namespace {}: changed while it was dumped", namespace.inode)),
                Ok(_) => {}
                // This kernel has no such table.
                Err(Failure::Kernel(rustix::io::Errno::OPNOTSUPP)) => {
                    problems.push(format!("namespace {}: not offered by this kernel", namespace.inode));
                }
                Err(Failure::Kernel(e)) => problems.push(format!("namespace {}: {e}", namespace.inode)),
                Err(Failure::Malformed(what)) => problems.push(format!("namespace {}: {what}", namespace.inode)),
                Err(Failure::Stop(stop)) => return Err(stop),
            }
        }
        table.finish(out, (!problems.is_empty()).then(|| (Status::Partial, bounded(&problems))))?;
    }
    Ok(())
}

/// The raw text tables of a namespace, through a process that lives in it.
fn texts(out: &mut dyn Output, found: &Found, namespace: &Namespace) -> Result<(), Stop> {
    let started = out.now();
    let Some((pid, dir)) = &namespace.process else {
        if !namespace.is_own {
            return Ok(());
        }
        let reason = "no process in the agent's own network namespace could be looked at: its text tables were not read";
        return put_absent(out, evidence_path("/proc/self/net"), Status::Error, reason, started, "read");
    };
    let of = namespace.thread.map_or_else(|| format!("/proc/{pid}"), |tid| format!("/proc/{pid}/task/{tid}"));
    let mut facts = BTreeMap::from([("netns".to_owned(), namespace.inode.to_string())]);
    if found.view.unsure.is_some() {
        facts.extend(found.view.facts().map(|(name, value)| (name.to_owned(), value)));
    }
    let folder = |out: &mut dyn Output, below: &str, must: bool| -> Result<(), Stop> {
        let at = format!("net{below}");
        let listed = open_dir(dir, at.as_str()).and_then(|d| Ok((names(&d, NET_FILES_MAX)?, d)));
        let ((entries, more), folder) = match listed {
            Ok(listed) => listed,
            Err(e) if must => {
                let (status, reason) = super::live::refusal(e);
                return put_absent(out, evidence_path(format!("{of}/{at}")), status, reason, started, "read");
            }
            // A table that this kernel or namespace does not have.
            Err(_) => return Ok(()),
        };
        for name in entries {
            out.checkpoint()?;
            let begun = out.now();
            let mut path = format!("{of}/{at}/").into_bytes();
            path.extend_from_slice(&name);
            let opened = procfs::open_at(&folder, name.as_slice());
            let is_folder = |f: &OwnedFd| rustix::fs::fstat(f).is_ok_and(|s| s.st_mode & 0o170_000 == 0o040_000);
            // Folders that hold tables are named in NET_FOLDERS; the others hold knobs and other protocols' inner state.
            if opened.as_ref().is_ok_and(is_folder) {
                continue;
            }
            let result = opened.and_then(|file| super::live::read_fd(file, LARGE_BYTES_MAX));
            put_read(out, evidence_path(&path), &result, begun, facts.clone())?;
        }
        if more {
            let reason = format!("more than {NET_FILES_MAX} files: the rest was left out");
            put_absent(out, evidence_path(format!("{of}/{at}")), Status::Partial, reason, started, "read")?;
        }
        Ok(())
    };
    folder(out, "", true)?;
    if namespace.is_own && rustix::fs::statat(dir, "net/nf_conntrack", AtFlags::SYMLINK_NOFOLLOW).is_err() {
        let reason = "connection tracking is not loaded, or this kernel has no text table of it (its netlink table is not read yet)";
        put_absent(out, evidence_path(format!("{of}/net/nf_conntrack")), Status::Missing, reason, started, "stat")?;
    }
    for below in NET_FOLDERS {
        folder(out, &format!("/{below}"), false)?;
    }
    Ok(())
}

/// Firewall rules of each namespace by the host's own programs.
fn firewall(out: &mut dyn Output, found: &Found, allowed: bool) -> Result<(), Stop> {
    // A list that anybody may have made does not say that there are no rules.
    let functions = if allowed && found.view.unsure.is_none() { tools::kernel_functions() } else { None };
    for tool in tools::TOOLS {
        for namespace in &found.namespaces {
            out.checkpoint()?;
            let started = out.now();
            let name = if namespace.is_own { tool.record.to_owned() } else { format!("netns-{}/{}", namespace.inode, tool.record) };
            let item = NewItem::record(&name, started, "run").with_fact("netns", namespace.inode.to_string());
            let absent = |status, reason: &str| item.clone().with_status(status, reason);
            if !allowed {
                out.put(absent(Status::Skipped, "tools=false in the order"), Content::None)?;
                continue;
            }
            if functions.as_ref().is_some_and(|f| !tool.only_if.iter().any(|wanted| f.contains(wanted))) {
                let missing = tool.only_if.join(", ");
                let reason =
                    format!("the running kernel has no such rules (none of {missing} in /proc/kallsyms), and asking would load them");
                out.put(absent(Status::Missing, &reason), Content::None)?;
                continue;
            }
            let Some(program) = tools::find(tool.program) else {
                let reason = format!("{} is not installed in /usr/sbin, /sbin, /usr/bin or /bin", tool.program);
                out.put(absent(Status::Missing, &reason), Content::None)?;
                continue;
            };
            out.note(&format!("{} in namespace {}", tool.program, namespace.inode));
            out.ran(std::iter::once(program.as_str()).chain(tool.arguments.iter().copied()).collect::<Vec<_>>().join(" "));
            let item = item.clone().with_fact("program", &*program);
            match tools::run(&program, tool.arguments, enter(namespace), tools::PATIENCE) {
                Ok(outcome) => put_outcome(out, item, &outcome)?,
                Err(reason) => drop(out.put(item.with_status(Status::Error, reason), Content::None)?),
            }
        }
    }
    Ok(())
}

fn put_outcome(out: &mut dyn Output, mut item: NewItem, outcome: &tools::Outcome) -> Result<(), Stop> {
    let errors = exhibit_evidence::text::escape_bytes(&outcome.stderr);
    if !errors.is_empty() {
        item = item.with_fact("stderr", errors.as_str());
    }
    if let Some(code) = outcome.code {
        item = item.with_fact("exit_code", code.to_string());
    }
    let problem = if outcome.timed_out {
        Some("did not end within 10 s and was killed".to_owned())
    } else if outcome.cut {
        Some("printed more than 16 MiB and was killed".to_owned())
    } else if let Some(signal) = outcome.signal {
        Some(format!("ended by signal {signal}"))
    } else {
        outcome.code.filter(|c| *c != 0).map(|c| format!("ended with exit code {c}: {errors}"))
    };
    let content = if outcome.stdout.is_empty() && problem.is_some() { Content::None } else { Content::Bytes(&outcome.stdout) };
    if let Some(problem) = problem {
        let status = if outcome.stdout.is_empty() { Status::Error } else { Status::Partial };
        item = item.with_status(status, problem);
    }
    out.put(item, content).map(drop)
}

#[derive(serde::Serialize)]
struct NamespaceRow<'a> {
    inode: u64,
    own: bool,
    process: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread: Option<u32>,
    bound: Option<&'a str>,
    problem: Option<&'a str>,
}

fn namespace_list(out: &mut dyn Output, found: &Found, opened: &[Opened]) -> Result<(), Stop> {
    let mut table = Table::new("namespaces", out.now(), "read:/proc");
    found.view.tell(&mut table);
    for (namespace, opened) in found.namespaces.iter().zip(opened) {
        let unnumbered = (namespace.inode == 0).then_some("its number could not be told");
        let problem = opened.route.as_ref().err().map(String::as_str).or(unnumbered);
        let process = namespace.process.as_ref().map(|(pid, _)| *pid);
        let row = NamespaceRow {
            inode: namespace.inode,
            own: namespace.is_own,
            process,
            thread: namespace.thread,
            bound: namespace.bound.as_deref(),
            problem,
        };
        table.row(out, &row)?;
    }
    let left = found.namespaces_left_out;
    let mut problems = found.missing();
    problems.extend((left > 0).then(|| format!("{left} namespaces were left out")));
    table.finish(out, (!problems.is_empty()).then(|| (Status::Partial, problems.join("; ")))).map(drop)
}

/// `/etc/resolv.conf` is often a link: the link and what it points to are both evidence.
fn resolver_file(out: &mut dyn Output, path: &str) -> Result<(), Stop> {
    let started = out.now();
    let Ok(target) = super::live::link(rustix::fs::CWD, path) else {
        return take(out, path, SMALL_BYTES_MAX).map(drop);
    };
    let mut item = NewItem::new(evidence_path(path), Kind::Symlink, started, "readlink");
    item.target = Some(evidence_path(&target));
    out.put(item, Content::None)?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let result = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).and_then(|f| super::live::read_fd(f, SMALL_BYTES_MAX));
    let resolved = std::fs::canonicalize(path).map_or_else(|_| target.clone(), |p| p.into_os_string().into_encoded_bytes());
    if FILES.iter().any(|f| f.as_bytes() == resolved) {
        return Ok(());
    }
    put_read(out, evidence_path(&resolved), &result, started, BTreeMap::from([("reached_through".to_owned(), path.to_owned())]))
}

fn modules() -> BTreeSet<Vec<u8>> {
    let text = read("/proc/modules", LARGE_BYTES_MAX).map(|r| r.bytes).unwrap_or_default();
    super::live::lines(&text).filter_map(|l| words(l).next()).map(<[u8]>::to_vec).collect()
}

#[derive(serde::Serialize)]
struct Footprint {
    /// Kernel modules that are loaded now and were not when the capture began; most likely because it asked.
    modules_loaded: Vec<String>,
}

fn footprint(out: &mut dyn Output, before: &BTreeSet<Vec<u8>>) -> Result<(), Stop> {
    let started = out.now();
    let modules_loaded = modules().difference(before).map(|m| exhibit_evidence::text::escape_bytes(m)).collect();
    super::live::put_json(out, "footprint.json", &Footprint { modules_loaded }, started, "read:/proc/modules")
}
