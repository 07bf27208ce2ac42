//! The open files of a process: those of its first thread, and those of threads that have a table of their own.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::gather::{NAMES_MAX, is_deleted, kind_of, look};
use super::parse;
use super::row::{Fd, Row};
use crate::capture::Status;
use crate::capture::live::{Lossless, Problem, SMALL_BYTES_MAX, numbers};
use crate::capture::procfs::{link, open_dir, read_at};
use crate::capture::threads::Others;

/// Open files listed in the process's own row; a row stays below about 2 MiB.
pub const FDS_IN_ROW_MAX: usize = 4096;
/// Open files looked at per process; the rest is counted.
pub const FDS_MAX: usize = 65_536;
/// Bytes of what is kept of them: an ordinary one takes some 200, but whoever owns the process chooses the paths.
const FDS_BYTES_MAX: usize = 4 << 20;
/// Lines of fdinfo kept over all open files of a process (about 1.5 MiB).
const EXTRA_LINES_MAX: usize = 16_384;

/// Lists the open files of a process below one of its folders: the first into its row, the rest is given back.
pub fn all(dir: &OwnedFd, row: &mut Row, others: &Others) -> Vec<Fd> {
    if let Some(why) = &others.left_out {
        row.problems.push(Problem { what: "task".into(), status: Status::Partial, reason: why.clone() });
    }
    let mut listing = Listing { row, more: Vec::new(), bytes: 0, extra_room: EXTRA_LINES_MAX };
    listing.table(dir, None);
    for tid in &others.files {
        // A thread that ended meanwhile has no files any more.
        if let Ok(thread) = open_dir(dir, format!("task/{tid}")) {
            listing.table(&thread, Some(*tid));
        }
    }
    let Listing { row, more, .. } = listing;
    row.fds_left_out = row.fds_total.saturating_sub(row.fds.len() as u64).saturating_sub(more.len() as u64);
    row.fds_elsewhere = more.len() as u64;
    more
}

struct Listing<'a> {
    row: &'a mut Row,
    more: Vec<Fd>,
    bytes: usize,
    extra_room: usize,
}

impl Listing<'_> {
    fn table(&mut self, dir: &OwnedFd, thread: Option<u32>) {
        let opened = open_dir(dir, "fd").and_then(|fd| Ok((numbers(&fd, NAMES_MAX)?.0, fd)));
        let (listed, fd_dir) = match opened {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::SRCH) if thread.is_some() => return,
            Err(e) => return self.row.problems.push(Problem::new("fd", e)),
        };
        let info_dir = open_dir(dir, "fdinfo");
        if let Err(e) = &info_dir {
            self.row.problems.push(Problem::new("fdinfo", *e));
        }
        self.row.fds_total = self.row.fds_total.saturating_add(listed.len() as u64);
        for n in listed {
            let kept = self.row.fds.len().saturating_add(self.more.len());
            if kept >= FDS_MAX || self.bytes > FDS_BYTES_MAX {
                return;
            }
            let fd = one_fd(&fd_dir, info_dir.as_ref().ok(), n);
            self.keep(Fd { thread, ..fd });
        }
    }

    fn keep(&mut self, mut fd: Fd) {
        let kept = fd.extra.len().min(self.extra_room);
        fd.extra_left_out = fd.extra_left_out.saturating_add(fd.extra.len().saturating_sub(kept));
        fd.extra.truncate(kept);
        self.extra_room = self.extra_room.saturating_sub(kept);
        self.bytes = self.bytes.saturating_add(size_of::<Fd>()).saturating_add(fd.target.as_ref().map_or(0, |t| t.0.len()));
        if self.row.fds.len() < FDS_IN_ROW_MAX {
            self.row.fds.push(fd);
        } else {
            self.more.push(fd);
        }
    }
}

fn one_fd(fd_dir: &OwnedFd, info_dir: Option<&OwnedFd>, n: u32) -> Fd {
    let name = n.to_string();
    let mut problem = None;
    let target = link(fd_dir, name.as_str()).map_err(|e| problem = Some(format!("link: {e}"))).ok();
    let stat = look(fd_dir, name.as_str()).map_err(|e| problem = Some(format!("statx: {e}"))).ok();
    let info = info_dir
        .and_then(|d| read_at(d, name.as_str(), SMALL_BYTES_MAX).map_err(|e| problem = Some(format!("fdinfo: {e}"))).ok())
        .map(|r| parse::fdinfo(&r.bytes))
        .unwrap_or_default();
    Fd {
        fd: n,
        thread: None,
        kind: stat.as_ref().map(kind_of),
        dev: stat.map(|s| [s.stx_dev_major, s.stx_dev_minor]),
        ino: stat.map(|s| s.stx_ino),
        nlink: stat.map(|s| u64::from(s.stx_nlink)),
        size: stat.map(|s| s.stx_size),
        pos: info.pos,
        flags: info.flags,
        mode: info.flags.map(access_mode),
        mnt_id: info.mnt_id,
        deleted: target.as_ref().zip(stat.as_ref()).is_some_and(|(t, s)| is_deleted(t, s)),
        item: None,
        extra: info.extra,
        extra_left_out: info.extra_left_out,
        target: target.map(Lossless),
        problem,
    }
}

const fn access_mode(flags: u32) -> &'static str {
    // O_PATH (010000000) opens neither for reading nor for writing.
    match (flags & 0o10_000_000 != 0, flags & 3) {
        (true, _) => "path",
        (false, 0) => "r",
        (false, 1) => "w",
        (false, 2) => "rw",
        (false, _) => "none",
    }
}
