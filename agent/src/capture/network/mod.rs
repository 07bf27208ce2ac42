//! The `network` capture: sockets with their holders, neighbours, routes, rules, links and addresses of every network
//! namespace, the kernel's text tables, firewall rules, and the resolver's configuration.

mod again;
mod bound;
mod causes;
mod namespaces;
mod netlink;
mod open;
mod patient;
mod resolver;
mod room;
mod routing;
mod sockets;
mod stray;
mod tables;
#[cfg(test)]
mod tests;
mod text;
mod tools;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::net::netlink::SOCK_DIAG;

use self::namespaces::{Descriptor, Found, FoundBy, Namespace};
use self::netlink::{Failure, Netlink};
use self::tables::Tables;
use super::live::{LARGE_BYTES_MAX, names, put_absent, put_read, read, words};
use super::procfs::{self, open_dir};
use super::{Capture, Content, NewItem, Output, Params, Status, Stop, Table, evidence_path};

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
        // Before the walk: whatever else is found and held, the host's own sockets can be asked for.
        let mut own = Some(Opened::here(sock_diag));
        let mut found = namespaces::find(out)?;
        found.put_covered(out)?;
        let mut opened: Vec<Opened> = found.namespaces.iter().map(|n| Opened::first(n, &mut own, sock_diag)).collect();
        let taken = sockets(out, &mut found, &mut opened, sock_diag);
        // At once, and also when told to end: it says what the other tables are of.
        let listed = namespace_list(out, &found, &opened);
        taken.and(listed)?;
        routing(out, &found, &mut opened)?;
        for namespace in &found.namespaces {
            texts(out, &found, namespace)?;
        }
        firewall(out, &found, run_tools)?;
        resolver::take(out)?;
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
        // A netlink socket belongs to the namespace of the thread that opens it and may be used from any other.
        let opened = match &namespace.handle {
            _ if namespace.is_own => Ok(Self::here(sock_diag)),
            Ok(handle) => tools::inside(Some(handle), || Self::here(sock_diag)),
            Err(e) => Err(e.clone()),
        };
        opened.unwrap_or_else(|e| Self { diag: Err(e.clone()), route: Err(e) })
    }

    /// The same, where those of the agent's own namespace were opened before.
    fn first(namespace: &Namespace, own: &mut Option<Self>, sock_diag: bool) -> Self {
        let before = if namespace.is_own { own.take() } else { None };
        before.unwrap_or_else(|| Self::new(namespace, sock_diag))
    }

    /// In the namespace of this thread.
    fn here(sock_diag: bool) -> Self {
        let diag =
            if sock_diag { Netlink::open(Some(SOCK_DIAG)).map_err(|e| e.to_string()) } else { Err("sock_diag=false in the order".into()) };
        Self { diag, route: Netlink::open(None).map_err(|e| e.to_string()) }
    }
}

fn enter(namespace: &Namespace) -> Option<&OwnedFd> {
    if namespace.is_own { None } else { namespace.handle.as_ref().ok() }
}

/// The sockets of all namespaces, and of those to which only a socket that is in none of the tables leads.
fn sockets(out: &mut dyn Output, found: &mut Found, opened: &mut Vec<Opened>, sock_diag: bool) -> Result<(), Stop> {
    let mut tables = Tables::new(out, found);
    let taken = take_sockets(out, found, opened, sock_diag, &mut tables);
    // Told to end, what was dumped until then is there.
    let put = tables.finish(out, found, taken.as_ref().err());
    taken.and(put)
}

fn take_sockets(
    out: &mut dyn Output,
    found: &mut Found,
    opened: &mut Vec<Opened>,
    sock_diag: bool,
    tables: &mut Tables,
) -> Result<(), Stop> {
    // One that could not be opened may be opened yet, through a socket of it.
    let is_put_off: Vec<bool> = found.namespaces.iter().map(|n| !n.is_own && n.handle.is_err()).collect();
    for ((namespace, opened), put_off) in found.namespaces.iter().zip(opened.iter_mut()).zip(&is_put_off) {
        if !put_off {
            tables.take(out, found, namespace, opened)?;
        }
    }
    stray::find(out, found, &tables.listed)?;
    let known = opened.len();
    opened.extend(found.namespaces.iter().skip(known).map(|n| Opened::new(n, sock_diag)));
    for (at, (namespace, opened)) in found.namespaces.iter().zip(opened.iter_mut()).enumerate() {
        let put_off = is_put_off.get(at).copied();
        if put_off == Some(true) {
            *opened = Opened::new(namespace, sock_diag);
        }
        if put_off != Some(false) {
            tables.take(out, found, namespace, opened)?;
        }
    }
    Ok(())
}

/// Why a table is not whole when its making was ended.
fn unfinished(stop: &Stop) -> String {
    format!("ended before every namespace was asked: {stop}")
}

/// At most a few KiB of reasons.
fn bounded(problems: &[String]) -> String {
    let shown = problems.iter().take(16).cloned().collect::<Vec<_>>().join("; ");
    match problems.len().checked_sub(16) {
        Some(more) if more > 0 => format!("{shown}; and {more} more"),
        _ => shown,
    }
}

fn routing(out: &mut dyn Output, found: &Found, opened: &mut [Opened]) -> Result<(), Stop> {
    for dump in routing::DUMPS {
        let mut table = Table::new(dump.name, out.now(), "netlink:route");
        found.view.tell(&mut table);
        let mut problems = found.missing();
        let mut ended = None;
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
                Err(Failure::Kernel(Errno::OPNOTSUPP)) => {
                    problems.push(format!("namespace {}: not offered by this kernel", namespace.inode));
                }
                Err(Failure::Kernel(e)) => problems.push(format!("namespace {}: {e}", namespace.inode)),
                Err(Failure::Malformed(what)) => problems.push(format!("namespace {}: {what}", namespace.inode)),
                Err(Failure::Stop(stop)) => {
                    problems.insert(0, unfinished(&stop));
                    ended = Some(stop);
                    break;
                }
            }
        }
        // Told to end, what was dumped until then is there.
        let put = table.finish(out, (!problems.is_empty()).then(|| (Status::Partial, bounded(&problems))));
        ended.map_or(Ok(()), Err).and(put)?;
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
    /// The process in whose mount namespace that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    bound_in: Option<u32>,
    found_by: FoundBy,
    /// Descriptors of processes: of the namespace, or of the sockets through which it was found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    held_by: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_by_left_out: Option<usize>,
    problem: Option<&'a str>,
}

/// Descriptors in one row.
const HELD_BY_MAX: usize = 64;

fn namespace_list(out: &mut dyn Output, found: &Found, opened: &[Opened]) -> Result<(), Stop> {
    let mut table = Table::new("namespaces", out.now(), "read:/proc");
    found.view.tell(&mut table);
    let mut opened = opened.iter();
    for namespace in &found.namespaces {
        let unnumbered = (namespace.inode == 0).then_some("its number could not be told");
        // Where the end came before it was opened, none.
        let problem = match opened.next() {
            Some(opened) => opened.route.as_ref().err().map(String::as_str),
            None => Some("not looked into: the collection was ended before"),
        };
        let problem = problem.or(unnumbered);
        let process = namespace.process.as_ref().map(|(pid, _)| *pid);
        let (held_by, left_out) = found.held_by(namespace.inode, HELD_BY_MAX);
        let row = NamespaceRow {
            inode: namespace.inode,
            own: namespace.is_own,
            process,
            thread: namespace.thread,
            bound: namespace.bound.as_deref(),
            bound_in: namespace.bound_in,
            found_by: namespace.found_by,
            held_by,
            held_by_left_out: (left_out > 0).then_some(left_out),
            problem,
        };
        table.row_at_hand(out, &row);
    }
    let problems = found.missing();
    table.finish(out, (!problems.is_empty()).then(|| (Status::Partial, problems.join("; ")))).map(drop)
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
