//! The threads of a process that its first one does not speak for. `/proc/<pid>` answers as the first thread, and that one
//! may have ended before the others (`pthread_exit`), and any other may have files and namespaces of its own
//! (`unshare(CLONE_FILES)`, `unshare(CLONE_NEWNET)`, `setns`).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use exhibit_agent_sys::memory::shares_descriptors;
use rustix::io::Errno;

use super::live::{SMALL_BYTES_MAX, numbers};
use super::process::bracketed;
use super::process::parse;
use super::procfs::{self, link, open_dir, read_at};

/// Threads of a process that are looked at.
const THREADS_MAX: usize = 8192;
/// Tables of open files of one process that are told apart.
const TABLES_MAX: usize = 64;
/// Open files that are compared where the kernel does not say who shares its table.
const COMPARED_MAX: usize = 4096;

/// Namespaces that a thread can have for itself. Its user and PID namespace are those of its process: the kernel lets no thread
/// beside others change them (setns(2), unshare(2)).
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "uts"];

/// A thread through which a process is read.
#[derive(Debug)]
pub struct Living {
    /// Its number.
    pub tid: u32,
    /// `/proc/<tid>`, pinned: unlike `task/<tid>` it has all files of a process.
    pub dir: OwnedFd,
}

/// A living thread of a process whose first thread has no memory any more. `None` when that one has (or when nobody may
/// know), and when there is no other: a kernel thread, a process that ended. `dir` is `/proc/<pid>`, pinned.
#[must_use]
pub fn living(dir: &OwnedFd, pid: u32) -> Option<Living> {
    if !matches!(link(dir, "exe"), Err(Errno::NOENT)) {
        return None;
    }
    let task = open_dir(dir, "task").ok()?;
    let (tids, _) = numbers(&task, THREADS_MAX).ok()?;
    tids.into_iter().filter(|tid| *tid != pid).find_map(|tid| {
        link(&task, format!("{tid}/exe")).ok()?;
        let own = procfs::process(tid).ok()?;
        // The number may have been given away since: it is a thread of this process if it says so while the process is there.
        let said = parse::status(&read_at(&own, "status", SMALL_BYTES_MAX).ok()?.bytes);
        let same = said.tgid == Some(u64::from(pid)) && read_at(dir, "stat", SMALL_BYTES_MAX).is_ok();
        same.then_some(Living { tid, dir: own })
    })
}

/// What threads have for themselves.
#[derive(Debug, Default)]
pub struct Others {
    /// One thread of each further table of open files.
    pub files: Vec<u32>,
    /// Threads in other namespaces than the process, and the inodes of those that differ by their kind.
    pub elsewhere: Vec<(u32, BTreeMap<&'static str, u64>)>,
    /// What was not looked at, if something was not.
    pub left_out: Option<String>,
    /// Something is mounted over what was to be looked at: there may be more files and namespaces.
    pub covered: bool,
}

/// Finds the threads whose open files or namespaces are not those of `first`, the thread through which the process is
/// read. `dir` is a folder of the process.
#[must_use]
pub fn others(dir: &OwnedFd, first: u32) -> Others {
    let mut found = Others::default();
    let listed = open_dir(dir, "task").and_then(|task| Ok((numbers(&task, THREADS_MAX)?, task)));
    let ((tids, more), task) = match listed {
        Ok(listed) => listed,
        // A thread that ended meanwhile, and a process that may not be looked at, have nothing to add.
        Err(e) => return Others { covered: e == Errno::XDEV, ..found },
    };
    let mut covered = false;
    let own = if tids.len() > 1 { namespaces(&task, first, &mut covered) } else { BTreeMap::new() };
    let mut tables = 0_u64;
    for tid in tids.into_iter().filter(|tid| *tid != first) {
        let mut differ = namespaces(&task, tid, &mut covered);
        differ.retain(|kind, inode| own.get(kind) != Some(inode));
        if !differ.is_empty() {
            found.elsewhere.push((tid, differ));
        }
        let known = std::iter::once(first).chain(found.files.iter().copied()).any(|other| same_files(&task, tid, other, &mut covered));
        if known || !has_files(&task, tid, &mut covered) {
            continue;
        }
        if found.files.len() < TABLES_MAX {
            found.files.push(tid);
        } else {
            tables = tables.saturating_add(1);
        }
    }
    if more {
        found.left_out = Some(format!("threads beyond {THREADS_MAX} may have files and namespaces of their own: not looked at"));
    } else if tables > 0 {
        found.left_out = Some(format!("{tables} threads have open files of their own beyond {TABLES_MAX} that were looked at"));
    }
    found.covered = covered;
    found
}

/// What was got; sets the flag where something is mounted over it.
fn seen<T>(got: Result<T, Errno>, covered: &mut bool) -> Option<T> {
    *covered |= matches!(got, Err(Errno::XDEV));
    got.ok()
}

/// The namespaces of a thread by kind; without those that this kernel does not have.
fn namespaces(task: &OwnedFd, tid: u32, covered: &mut bool) -> BTreeMap<&'static str, u64> {
    let mut inode = |kind: &'static str| {
        let target = seen(link(task, format!("{tid}/ns/{kind}")), covered)?;
        bracketed(&target, kind.strip_suffix("_for_children").unwrap_or(kind).as_bytes())
    };
    NAMESPACES.iter().filter_map(|kind| Some((*kind, inode(kind)?))).collect()
}

fn has_files(task: &OwnedFd, tid: u32, covered: &mut bool) -> bool {
    let listed = open_dir(task, format!("{tid}/fd")).and_then(|fd| numbers(fd, 1));
    seen(listed, covered).is_some_and(|(some, _)| !some.is_empty())
}

/// Whether two threads use one table of open files. Where the kernel does not tell (built without kcmp(2), or the folder of processes
/// has the numbers of another namespace), two tables that show the same count as one.
fn same_files(task: &OwnedFd, one: u32, other: u32, covered: &mut bool) -> bool {
    // kcmp(2) takes numbers of the agent's own namespace.
    let told = if procfs::has_own_numbers() { shares_descriptors(one, other).ok() } else { None };
    told.unwrap_or_else(|| {
        let mut shown = |tid: u32| {
            let fd = seen(open_dir(task, format!("{tid}/fd")), covered)?;
            let (all, _) = numbers(&fd, COMPARED_MAX).ok()?;
            Some(all.into_iter().map(|n| (n, seen(link(&fd, n.to_string()), covered))).collect::<Vec<_>>())
        };
        // One that ended, or that may not be looked at, is nothing of its own.
        shown(one).is_none_or(|one| Some(one) == shown(other))
    })
}
