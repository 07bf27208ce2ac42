//! What is opened and read of a process while it stands: its memory, its mappings, its auxiliary vector. The open files
//! belong to the memory that it has at this moment; when it runs another program they answer no more, so that two programs
//! are never mixed.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::pages::Pages;
use super::regions::Regions;
use crate::capture::live::{SMALL_BYTES_MAX, numbers};
use crate::capture::process::parse;
use crate::capture::procfs::{open_at, open_dir, read_at};

/// What was opened and read.
pub struct Looked {
    /// `/proc/<pid>/mem`.
    pub memory: OwnedFd,
    /// `/proc/<pid>/pagemap`, or why it cannot be had.
    pub pages: Result<Pages, Errno>,
    /// `/proc/<pid>/maps`, open: of the same program it tells later what is mapped then.
    pub maps: OwnedFd,
    /// What it said.
    pub regions: Regions,
    /// `/proc/<pid>/auxv`, raw; empty when it cannot be had.
    pub auxv: Vec<u8>,
    /// Where its environment lies, if the kernel tells.
    pub environment: Option<(u64, u64)>,
}

/// Opens and reads. A process whose first thread ended is asked through one of the others.
///
/// # Errors
/// What the kernel said; [`Errno::NOENT`] when there is no memory any more.
pub fn look(dir: &OwnedFd) -> Result<Looked, Errno> {
    let first = look_in(dir);
    if !matches!(first, Err(Errno::NOENT | Errno::SRCH)) {
        return first;
    }
    let task = open_dir(dir, "task")?;
    for tid in numbers(&task, 64)?.0 {
        if let Ok(looked) = open_dir(&task, tid.to_string()).and_then(|thread| look_in(&thread)) {
            return Ok(looked);
        }
    }
    first
}

fn look_in(dir: &OwnedFd) -> Result<Looked, Errno> {
    let memory = open_at(dir, "mem")?;
    let maps = open_at(dir, "maps")?;
    let pages = open_at(dir, "pagemap").map(Pages::new);
    let regions = Regions::read(&maps)?;
    if regions.list().is_empty() {
        return Err(Errno::NOENT);
    }
    let auxv = read_at(dir, "auxv", SMALL_BYTES_MAX).map(|r| r.bytes).unwrap_or_default();
    let stat = read_at(dir, "stat", SMALL_BYTES_MAX).ok().and_then(|r| parse::stat(&r.bytes));
    Ok(Looked { memory, pages, maps, regions, auxv, environment: stat.and_then(|s| s.environment) })
}
