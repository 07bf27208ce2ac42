//! The `process` capture: every process with its threads, open files, mappings, credentials, limits and namespaces, the
//! raw files of `/proc/<pid>`, the program of every process and what is open although deleted.
//!
//! Nothing is stopped, traced or signalled. What a process says of itself (`cmdline`, `environ`, its name) is its claim.

mod build_id;
pub mod container;
mod content;
mod environ;
mod fds;
pub(super) mod gather;
mod hidden;
mod maps;
pub(super) mod parse;
mod reader;
mod row;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use globset::GlobSet;
use rustix::fs::Statx;
use rustix::io::Errno;

use self::content::{Budget, Wanted};
use self::gather::{Gathered, OF_FIRST, Plan, RAW, TABLE_BYTES_MAX};
pub use self::parse::bracketed;
use self::reader::{Answer, PATIENCE, Reader, STUCK_MAX};
use self::row::{Fd, Row};
use super::live::{Lossless, Read, SMALL_BYTES_MAX, lines, numbers, open_dir, put_read, read, read_at, refusal};
use super::mounts::{Class, Mounts};
use super::{Capture, Content, Kind, Moment, NewItem, Output, Param, ParamKind, Params, Status, Stop, Table, evidence_path};
use crate::order::Policy;

/// Sockets whose owners are remembered: 24 bytes each, 12 MiB in all.
const SOCKETS_MAX: usize = 512 << 10;
/// Distinct programs and deleted files remembered.
const FILES_MAX: usize = 65_536;
/// Processes listed: the kernel's own limit (PID_MAX_LIMIT).
const PIDS_MAX: usize = 4 << 20;

/// The capture; see the module.
#[derive(Debug, Default, Clone)]
pub struct Process {
    /// Environment variables whose values this host does not give.
    redacted: GlobSet,
}

impl Process {
    /// For the registry.
    #[must_use]
    pub fn boxed() -> Box<dyn Capture> {
        Box::new(Self::default())
    }
}

const PARAMS: &[Param] = &[
    Param { name: "environ", kind: ParamKind::Flag, help: "take the environment of each process, which may hold secrets (default true)" },
    Param {
        name: "smaps",
        kind: ParamKind::Flag,
        help: "take smaps and smaps_rollup, which hold up large processes while read (default false)",
    },
    Param { name: "exe", kind: ParamKind::Flag, help: "take the program file of every process, each distinct file once (default true)" },
    Param {
        name: "deleted",
        kind: ParamKind::Flag,
        help: "take files that are open or mapped although deleted, memfds among them (default true)",
    },
    Param {
        name: "hidden",
        kind: ParamKind::Flag,
        help: "look for processes that /proc does not list, by asking for every number (default true)",
    },
    Param { name: "file_max", kind: ParamKind::Bytes, help: "largest program or deleted file that is taken (default 512MiB)" },
    Param { name: "total_max", kind: ParamKind::Bytes, help: "bytes of all programs and deleted files together (default 8GiB)" },
];

impl Capture for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn restrict(&mut self, policy: &Policy) -> Result<(), String> {
        self.redacted = policy.redacted_variables()?;
        Ok(())
    }

    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        let mut run = Run::new(params, out)?;
        run.redacted = self.redacted.clone();
        let plan = Plan { redacts: !self.redacted.is_empty(), ..plan(params, out)? };
        let mut reader = Reader::new(plan, PATIENCE);
        let listed = open_dir(rustix::fs::CWD, "/proc").and_then(|proc| numbers(proc, PIDS_MAX));
        let pids = match listed {
            Ok((pids, _)) if !pids.is_empty() => pids,
            Ok(_) => return Err(Stop::Fatal("/proc lists no process: is it mounted?".to_owned())),
            Err(e) => return Err(Stop::Fatal(format!("listing /proc: {e}"))),
        };
        for pid in &pids {
            run.process(out, &mut reader, *pid)?;
        }
        if params.flag("hidden", true)? {
            let groups = hidden::Groups::read(out)?;
            let scan = hidden::scan(&hidden::Real, out, &pids, &groups, hidden::Ranges::of_host())?;
            hidden::put(out, &scan, &groups)?;
            for pid in scan.hidden.keys() {
                run.process(out, &mut reader, *pid)?;
            }
        }
        run.finish(out)
    }
}

/// What to read of each process; says once, by item, what is left out for all of them.
fn plan(params: &Params, out: &mut dyn Output) -> Result<Plan, Stop> {
    let environ = params.flag("environ", true)?;
    let smaps = params.flag("smaps", false)?;
    let mut plan = Plan::default();
    content::put_skipped(out, evidence_path("/proc/*/numa_maps"), "left out: reading it holds up large processes")?;
    for file in RAW {
        let by_order = match file.name {
            "environ" if !environ => Some("left out by the parameter environ=false"),
            "smaps" | "smaps_rollup" if !smaps => Some("left out unless the order says smaps=true: reading holds up large processes"),
            _ => None,
        };
        if let Some(reason) = by_order {
            plan.without.push(file.name);
            content::put_skipped(out, evidence_path(format!("/proc/*/{}", file.name)), reason)?;
            continue;
        }
        // A file that this kernel was built without, or a label without a security module: the same for every process.
        let started = out.now();
        if let Err(e @ (Errno::NOENT | Errno::INVAL)) = read(&format!("/proc/self/{}", file.name), SMALL_BYTES_MAX) {
            plan.without.push(file.name);
            let item = NewItem::new(evidence_path(format!("/proc/*/{}", file.name)), Kind::Unknown, started, "read")
                .with_status(Status::Missing, format!("this kernel does not offer it: {e}"));
            out.put(item, Content::None)?;
        }
    }
    Ok(plan)
}

/// Names under which the kernel shows memory that is shared without a file (`shmem_zero_setup`, System V).
const SHARED_MEMORY: [&[u8]; 2] = [b"/dev/zero", b"/SYSV"];

/// Major, minor, inode, modification time: what makes a program or deleted file distinct.
type FileId = (u32, u32, u64, i64, u32);

struct Run {
    table: Table,
    more_fds: Option<Table>,
    take_exe: bool,
    take_deleted: bool,
    budget: Budget,
    /// Files already taken, or refused, and the path of their item.
    files: BTreeMap<FileId, Option<String>>,
    /// Build ids of programs.
    build_ids: BTreeMap<FileId, Option<String>>,
    mount_namespaces: BTreeSet<u64>,
    /// Remote mounts of all namespaces: mount ids are unique on the host.
    remote_by_id: BTreeMap<u64, String>,
    remote_by_dev: BTreeMap<(u32, u32), String>,
    /// The device of the agent's own root: a host that runs from a remote root can only be read from there.
    root_dev: Option<(u32, u32)>,
    /// Socket inode, process, descriptor, and the thread if it has files of its own.
    sockets: Vec<(u64, u32, u32, Option<u32>)>,
    sockets_cut: bool,
    processes: u64,
    redacted: GlobSet,
}

impl Run {
    fn new(params: &Params, out: &mut dyn Output) -> Result<Self, Stop> {
        Ok(Self {
            table: Table::new("table", out.now(), "read:/proc"),
            more_fds: None,
            take_exe: params.flag("exe", true)?,
            take_deleted: params.flag("deleted", true)?,
            budget: Budget {
                file_bytes_max: params.bytes("file_max")?.unwrap_or(512 << 20),
                left_bytes: params.bytes("total_max")?.unwrap_or(8 << 30),
                patience: PATIENCE,
                stuck_left: STUCK_MAX,
            },
            files: BTreeMap::new(),
            build_ids: BTreeMap::new(),
            mount_namespaces: BTreeSet::new(),
            remote_by_id: BTreeMap::new(),
            remote_by_dev: BTreeMap::new(),
            root_dev: rustix::fs::stat("/").ok().map(|s| (rustix::fs::major(s.st_dev), rustix::fs::minor(s.st_dev))),
            sockets: Vec::new(),
            sockets_cut: false,
            processes: 0,
            redacted: GlobSet::empty(),
        })
    }

    /// Reads a process and puts what came of it.
    fn process(&mut self, out: &mut dyn Output, reader: &mut Reader, pid: u32) -> Result<(), Stop> {
        out.checkpoint()?;
        out.note(&format!("process {pid}"));
        let started = out.now();
        match reader.read(pid) {
            Answer::Taken(gathered) => self.taken(out, *gathered, started),
            Answer::Refused(e) => self.refused(out, pid, e, started),
            Answer::Stuck => {
                let reason = "did not answer within 10 s: a lock that its files need is held (left behind, the capture went on)";
                self.lost(out, pid, "stuck", Status::Error, reason, started)
            }
            Answer::GivenUp => {
                self.lost(out, pid, "stuck", Status::Skipped, "not read: too many processes before it did not answer", started)
            }
        }
    }

    /// Puts everything of one process: contents first, because its row names their items, then the raw files, the row.
    fn taken(&mut self, out: &mut dyn Output, gathered: Gathered, started: Moment) -> Result<(), Stop> {
        let Gathered { dir, mut row, raw, mut more_fds, exe } = gathered;
        let pid = row.pid;
        self.processes = self.processes.saturating_add(1);
        self.mountinfo(out, &dir, &row)?;
        if let Some(stat) = exe {
            self.exe(out, &dir, &mut row, &stat)?;
        }
        for fd in row.fds.iter_mut().chain(more_fds.iter_mut()) {
            self.open_file(out, &dir, pid, fd)?;
        }
        self.mapped_files(out, &dir, &mut row)?;
        let gone = row.status == "vanished";
        for (name, mut result) in raw {
            if let Ok(read) = &mut result
                && name == "environ"
            {
                self.redact(read);
            }
            let through = row.read_through.filter(|_| !OF_FIRST.contains(&name));
            let facts = through.map(|tid| ("read_through".to_owned(), tid.to_string())).into_iter().collect();
            put_read(out, evidence_path(format!("/proc/{pid}/{name}")), &result, started, facts)?;
        }
        if gone {
            let item = NewItem::new(evidence_path(format!("/proc/{pid}")), Kind::Unknown, started, "read")
                .with_status(Status::Vanished, "the process ended while it was being read; its row holds what came before");
            out.put(item, Content::None)?;
        }
        if !more_fds.is_empty() {
            let now = out.now();
            let table = self.more_fds.get_or_insert_with(|| Table::new("fds", now, "read:/proc"));
            for fd in &more_fds {
                table.row(out, &FdRow { pid, fd })?;
            }
        }
        self.table.row(out, &row)
    }

    /// What the host's policy does not give of an environment. The item says so: it is not what the process has.
    fn redact(&self, read: &mut Read) {
        if self.redacted.is_empty() {
            return;
        }
        let (bytes, count) = environ::redact(&read.bytes, &self.redacted);
        if count > 0 {
            read.bytes = bytes;
            let said = format!("the values of {count} variables are replaced by length and SHA-256: this host's policy (redact_environ)");
            read.cut = Some(read.cut.take().map_or(said.clone(), |cut| format!("{said}; {cut}")));
        }
    }

    /// The raw mount table, once for each distinct mount namespace.
    fn mountinfo(&mut self, out: &mut dyn Output, dir: &std::os::fd::OwnedFd, row: &Row) -> Result<(), Stop> {
        let Some(ns) = row.namespaces.get("mnt").copied() else { return Ok(()) };
        if self.mount_namespaces.contains(&ns) {
            return Ok(());
        }
        let started = out.now();
        let result = read_at(dir, "mountinfo", TABLE_BYTES_MAX);
        if let Ok(table) = &result {
            self.mount_namespaces.insert(ns);
            // Line by line: a namespace can have tens of thousands.
            for mount in lines(&table.bytes).flat_map(|line| Mounts::parse(line).all().to_vec()) {
                if !matches!(mount.class, Class::Remote | Class::Trigger) || self.root_dev == Some(mount.dev) {
                    continue;
                }
                let fs_type = exhibit_evidence::text::escape_bytes(&mount.fs_type);
                self.remote_by_id.insert(mount.id, fs_type.clone());
                self.remote_by_dev.insert(mount.dev, fs_type);
            }
        }
        let facts = BTreeMap::from([("mnt_ns".to_owned(), ns.to_string())]);
        put_read(out, evidence_path(format!("/proc/{}/mountinfo", row.pid)), &result, started, facts)
    }

    fn exe(&mut self, out: &mut dyn Output, dir: &std::os::fd::OwnedFd, row: &mut Row, stat: &Statx) -> Result<(), Stop> {
        let Some(exe) = &mut row.exe else { return Ok(()) };
        let id = file_id(stat);
        let dev = (stat.stx_dev_major, stat.stx_dev_minor);
        let known = stat.stx_mask & rustix::fs::StatxFlags::MNT_ID.bits() != 0;
        let remote = if known { self.remote_by_id.get(&stat.stx_mnt_id) } else { self.remote_by_dev.get(&dev) }.cloned();
        let mut silent = None;
        exe.build_id = match self.build_ids.get(&id) {
            Some(known) => known.clone(),
            None if remote.is_none() && self.build_ids.len() < FILES_MAX => {
                let found = content::build_id(dir, "exe", &mut self.budget).unwrap_or_else(|why| {
                    silent = Some(why);
                    None
                });
                self.build_ids.insert(id, found.clone());
                found
            }
            None => None,
        };
        if !self.take_exe {
            return Ok(());
        }
        if let Some(item) = self.files.get(&id) {
            exe.item.clone_from(item);
            return Ok(());
        }
        let path = format!("/proc/{}/exe", row.pid);
        let mut facts = BTreeMap::from([
            ("exe_path".to_owned(), exhibit_evidence::text::escape_bytes(&exe.path.0)),
            ("deleted".to_owned(), exe.deleted.to_string()),
        ]);
        if let Some(Lossless(comm)) = &row.comm {
            facts.insert("comm".to_owned(), exhibit_evidence::text::escape_bytes(comm));
        }
        if let Some(why) = silent {
            let item = NewItem::new(evidence_path(&path), Kind::Unknown, out.now(), "open:proc-link").with_status(Status::Error, why);
            out.put(NewItem { facts, ..item }, Content::None)?;
        } else {
            let wanted = Wanted { path: evidence_path(&path), dir, link: "exe", facts, remote: remote.as_deref() };
            exe.item = content::take(out, wanted, &mut self.budget)?.then_some(path);
        }
        self.remember(id, exe.item.clone());
        Ok(())
    }

    fn open_file(&mut self, out: &mut dyn Output, dir: &std::os::fd::OwnedFd, pid: u32, fd: &mut Fd) -> Result<(), Stop> {
        if let Some(inode) = fd.target.as_ref().and_then(|t| bracketed(&t.0, b"socket")) {
            if self.sockets.len() < SOCKETS_MAX { self.sockets.push((inode, pid, fd.fd, fd.thread)) } else { self.sockets_cut = true }
        }
        let (Some(target), Some([major, minor]), Some(ino)) = (&fd.target, fd.dev, fd.ino) else { return Ok(()) };
        if !self.take_deleted || !fd.deleted || fd.kind != Some("file") {
            return Ok(());
        }
        // Of an open file no modification time is part of its identity: it may be written right now.
        let id = (major, minor, ino, i64::MIN, 0);
        if let Some(item) = self.files.get(&id) {
            fd.item.clone_from(item);
            return Ok(());
        }
        let link = fd.thread.map_or_else(|| format!("fd/{}", fd.fd), |tid| format!("task/{tid}/fd/{}", fd.fd));
        let path = format!("/proc/{pid}/{link}");
        let facts = BTreeMap::from([("target".to_owned(), exhibit_evidence::text::escape_bytes(&target.0))]);
        let remote = fd.mnt_id.map_or_else(|| self.remote_by_dev.get(&(major, minor)), |m| self.remote_by_id.get(&m)).map(String::as_str);
        let wanted = Wanted { path: evidence_path(&path), dir, link: &link, facts, remote };
        fd.item = content::take(out, wanted, &mut self.budget)?.then_some(path);
        self.remember(id, fd.item.clone());
        Ok(())
    }

    /// Deleted files that are mapped: a library or program that was injected and unlinked, whose descriptor may be closed.
    fn mapped_files(&mut self, out: &mut dyn Output, dir: &std::os::fd::OwnedFd, row: &mut Row) -> Result<(), Stop> {
        let Row { pid, exe, maps: Some(maps), .. } = row else { return Ok(()) };
        if !self.take_deleted {
            return Ok(());
        }
        for file in &mut maps.files {
            let Some(range) = file.map_file.clone() else { continue };
            let [major, minor] = file.dev;
            let program = exe.as_ref().filter(|e| e.dev == file.dev && e.ino == file.ino).and_then(|e| e.item.clone());
            let id = (major, minor, file.ino, i64::MIN, 0);
            if let Some(item) = program.map(Some).or_else(|| self.files.get(&id).cloned()) {
                file.item = item;
                continue;
            }
            let path = format!("/proc/{pid}/map_files/{range}");
            if SHARED_MEMORY.iter().any(|name| file.path.0.starts_with(name)) {
                content::put_skipped(out, evidence_path(&path), "memory that processes share, not a file: part of their memory")?;
                self.remember(id, None);
                continue;
            }
            let link = format!("map_files/{range}");
            let facts = BTreeMap::from([("target".to_owned(), exhibit_evidence::text::escape_bytes(&file.path.0))]);
            let remote = self.remote_by_dev.get(&(major, minor)).map(String::as_str);
            let wanted = Wanted { path: evidence_path(&path), dir, link: &link, facts, remote };
            file.item = content::take(out, wanted, &mut self.budget)?.then_some(path);
            self.remember(id, file.item.clone());
        }
        Ok(())
    }

    fn remember(&mut self, id: FileId, item: Option<String>) {
        // Beyond the bound a file is taken again rather than lost.
        if self.files.len() < FILES_MAX {
            self.files.insert(id, item);
        }
    }

    fn refused(&mut self, out: &mut dyn Output, pid: u32, error: Errno, started: Moment) -> Result<(), Stop> {
        match refusal(error) {
            (Status::Missing | Status::Vanished, _) => {
                self.lost(out, pid, "vanished", Status::Vanished, "the process ended between listing and reading", started)
            }
            (Status::Denied, reason) => self.lost(out, pid, "denied", Status::Denied, &reason, started),
            (status, reason) => self.lost(out, pid, "error", status, &reason, started),
        }
    }

    /// A process of which nothing is known but its number.
    fn lost(
        &mut self,
        out: &mut dyn Output,
        pid: u32,
        word: &'static str,
        status: Status,
        reason: &str,
        started: Moment,
    ) -> Result<(), Stop> {
        self.processes = self.processes.saturating_add(1);
        let item = NewItem::new(evidence_path(format!("/proc/{pid}")), Kind::Unknown, started, "read").with_status(status, reason);
        out.put(item, Content::None)?;
        self.table.row(out, &Row { pid, status: word, ..Row::default() })
    }

    fn finish(mut self, out: &mut dyn Output) -> Result<(), Stop> {
        self.table.finish(out, None)?;
        if let Some(table) = self.more_fds {
            table.finish(out, None)?;
        }
        self.sockets.sort_unstable();
        let mut owners = Table::new("socket-owners", out.now(), "read:/proc");
        for same in self.sockets.chunk_by(|a, b| a.0 == b.0) {
            let Some((inode, ..)) = same.first() else { continue };
            let holders = same.iter().map(|(_, pid, fd, thread)| Holder { pid: *pid, fd: *fd, thread: *thread }).collect();
            owners.row(out, &Owners { inode: *inode, holders })?;
        }
        let cut =
            self.sockets_cut.then(|| (Status::Partial, format!("more than {SOCKETS_MAX} open sockets: the rest is only in the table")));
        owners.finish(out, cut).map(drop)
    }
}

#[derive(serde::Serialize)]
struct FdRow<'a> {
    pid: u32,
    #[serde(flatten)]
    fd: &'a Fd,
}

#[derive(serde::Serialize)]
struct Owners {
    inode: u64,
    holders: Vec<Holder>,
}

#[derive(serde::Serialize)]
struct Holder {
    pid: u32,
    fd: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread: Option<u32>,
}

const fn file_id(s: &Statx) -> FileId {
    (s.stx_dev_major, s.stx_dev_minor, s.stx_ino, s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec)
}
