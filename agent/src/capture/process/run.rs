//! One run of the capture: what came of each process, and what is remembered from one to the next.

use std::collections::{BTreeMap, BTreeSet};

use globset::GlobSet;
use rustix::io::Errno;

use super::content::{Budget, HOLE_BYTES_MAX};
use super::environ;
use super::gather::{Gathered, OF_FIRST};
use super::hidepid;
use super::reader::{Answer, PATIENCE, Reader, STUCK_MAX};
use super::row::{Fd, Row};
use crate::capture::left::ASIDE_MAX;
use crate::capture::live::{Read, put_read, refusal};
use crate::capture::procfs;
use crate::capture::{Content, Kind, Moment, NewItem, Output, Params, Status, Stop, Table, evidence_path};

/// Sockets whose owners are remembered: 24 bytes each, 12 MiB in all.
pub(super) const SOCKETS_MAX: usize = 512 << 10;
/// Major, minor, inode, modification time: what makes a program or deleted file distinct.
pub(super) type FileId = (u32, u32, u64, i64, u32);

/// See the module.
pub(super) struct Run {
    pub(super) table: Table,
    pub(super) more_fds: Option<Table>,
    pub(super) take_exe: bool,
    pub(super) take_deleted: bool,
    pub(super) budget: Budget,
    /// Files already taken, or refused, and the path of their item.
    pub(super) files: BTreeMap<FileId, Option<String>>,
    /// Build ids of programs.
    pub(super) build_ids: BTreeMap<FileId, Option<String>>,
    pub(super) mount_namespaces: BTreeSet<u64>,
    /// Remote mounts of all namespaces: mount ids are unique on the host.
    pub(super) remote_by_id: BTreeMap<u64, String>,
    pub(super) remote_by_dev: BTreeMap<(u32, u32), String>,
    /// The device of the agent's own root: a host that runs from a remote root can only be read from there.
    pub(super) root_dev: Option<(u32, u32)>,
    /// Socket inode, process, descriptor, and the thread if it has files of its own.
    pub(super) sockets: Vec<(u64, u32, u32, Option<u32>)>,
    pub(super) sockets_cut: bool,
    pub(super) processes: u64,
    /// Processes that are to have a row, and those of them that have one.
    pub(super) meant: u64,
    rows: u64,
    /// Processes that are tried again after all others.
    aside: Vec<u32>,
    pub(super) redacted: GlobSet,
    /// Why what is read need not be of this host's processes, if that is so.
    pub(super) forged: Option<String>,
    /// Which processes the agent is not shown.
    pub(super) hidepid: Option<String>,
}

impl Run {
    pub(super) fn new(params: &Params, out: &mut dyn Output) -> Result<Self, Stop> {
        let mut table = Table::new("table", out.now(), "read:/proc");
        for (name, value) in procfs::facts() {
            table.fact(name, value);
        }
        let hidepid = hidepid::told();
        if let Some(told) = &hidepid {
            table.fact("hidepid", told.clone());
        }
        Ok(Self {
            table,
            more_fds: None,
            take_exe: params.flag("exe", true)?,
            take_deleted: params.flag("deleted", true)?,
            budget: Budget {
                file_bytes_max: params.bytes("file_max")?.unwrap_or(512 << 20),
                left_bytes: params.bytes("total_max")?.unwrap_or(8 << 30),
                hole_bytes_left: HOLE_BYTES_MAX,
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
            meant: 0,
            rows: 0,
            aside: Vec::new(),
            redacted: GlobSet::empty(),
            forged: super::forged(),
            hidepid,
        })
    }

    /// Reads a process and puts what came of it.
    pub(super) fn process(&mut self, out: &mut dyn Output, reader: &mut Reader, pid: u32) -> Result<(), Stop> {
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
            Answer::Aside if self.aside.len() < ASIDE_MAX => {
                self.aside.push(pid);
                Ok(())
            }
            Answer::Aside => self.passed_over(out, pid, started),
        }
    }

    /// Tries those that were put aside once more: others may have answered meanwhile. At the very end come those of whose owner
    /// others were late.
    pub(super) fn again(&mut self, out: &mut dyn Output, reader: &mut Reader) -> Result<(), Stop> {
        for last in [false, true] {
            reader.last = last;
            for pid in std::mem::take(&mut self.aside) {
                self.process(out, reader, pid)?;
            }
        }
        for pid in std::mem::take(&mut self.aside) {
            let started = out.now();
            self.passed_over(out, pid, started)?;
        }
        Ok(())
    }

    fn passed_over(&mut self, out: &mut dyn Output, pid: u32, started: Moment) -> Result<(), Stop> {
        let reason = "not read: too many processes do not answer in time; what places are left are for those that look as if they would";
        self.lost(out, pid, "stuck", Status::Skipped, reason, started)
    }

    /// Puts everything of one process: contents first, because its row names their items, then the raw files, the row.
    fn taken(&mut self, out: &mut dyn Output, mut gathered: Gathered, started: Moment) -> Result<(), Stop> {
        self.processes = self.processes.saturating_add(1);
        let put = self.contents(out, &mut gathered, started);
        // Told to end in the middle of it: what the row says was read before.
        let Gathered { row, more_fds, .. } = gathered;
        if !more_fds.is_empty() {
            let now = out.now();
            let table = self.more_fds.get_or_insert_with(|| Table::new("fds", now, "read:/proc"));
            for fd in &more_fds {
                table.row_at_hand(out, &FdRow { pid: row.pid, fd });
            }
        }
        self.row(out, &row).and(put)
    }

    fn row(&mut self, out: &mut dyn Output, row: &Row) -> Result<(), Stop> {
        self.rows = self.rows.saturating_add(1);
        self.table.row(out, row)
    }

    fn contents(&mut self, out: &mut dyn Output, gathered: &mut Gathered, started: Moment) -> Result<(), Stop> {
        let Gathered { dir, row, raw, more_fds, exe } = gathered;
        let pid = row.pid;
        self.mountinfo(out, dir, row)?;
        if let Some(stat) = exe {
            self.exe(out, dir, row, stat)?;
        }
        for fd in row.fds.iter_mut().chain(more_fds.iter_mut()) {
            self.open_file(out, dir, pid, fd)?;
        }
        self.mapped_files(out, dir, row)?;
        let gone = row.status == "vanished";
        for (name, mut result) in std::mem::take(raw) {
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
        Ok(())
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

    pub(super) fn refused(&mut self, out: &mut dyn Output, pid: u32, error: Errno, started: Moment) -> Result<(), Stop> {
        match refusal(error) {
            (Status::Missing | Status::Vanished, _) => match hidepid::unseen(pid, self.hidepid.as_deref()) {
                Some(reason) => self.lost(out, pid, "denied", Status::Denied, &reason, started),
                None => self.lost(out, pid, "vanished", Status::Vanished, "the process ended between listing and reading", started),
            },
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
        let put = out.put(item, Content::None).map(drop);
        self.row(out, &Row { pid, status: word, ..Row::default() }).and(put)
    }

    /// Puts the tables. `ended`: why the capture is not at its end, if it was told to end; then they hold what it had by then.
    pub(super) fn finish(mut self, out: &mut dyn Output, ended: Option<&Stop>) -> Result<(), Stop> {
        // What is mounted in the agent's own procfs is met on the way.
        for (name, value) in procfs::facts() {
            self.table.fact(name, value);
        }
        let doubts: Vec<String> = self.forged.iter().chain(&self.hidepid).cloned().chain(procfs::met()).collect();
        let without = self.meant.saturating_sub(self.rows);
        let ended = ended.map(|stop| format!("{without} of {} processes were not read: {stop}", self.meant));
        if ended.is_some() {
            self.table.fact("not_reached", without.to_string());
        }
        let partial = |problems: Vec<String>| (!problems.is_empty()).then(|| (Status::Partial, problems.join("; ")));
        let table = self.table.finish(out, partial(doubts.iter().chain(&ended).cloned().collect())).map(drop);
        let fds = self.more_fds.map_or(Ok(0), |fds| fds.finish(out, partial(ended.iter().cloned().collect()))).map(drop);
        self.sockets.sort_unstable();
        let mut owners = Table::new("socket-owners", out.now(), "read:/proc");
        for same in self.sockets.chunk_by(|a, b| a.0 == b.0) {
            let Some((inode, ..)) = same.first() else { continue };
            let holders = same.iter().map(|(_, pid, fd, thread)| Holder { pid: *pid, fd: *fd, thread: *thread }).collect();
            owners.row_at_hand(out, &Owners { inode: *inode, holders });
        }
        let cut = self.sockets_cut.then(|| format!("more than {SOCKETS_MAX} open sockets: the rest is only in the table"));
        let owners = owners.finish(out, partial(doubts.into_iter().chain(cut).chain(ended).collect())).map(drop);
        table.and(fds).and(owners)
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
