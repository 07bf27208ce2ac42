//! The content of files that only a process still reaches: its program, and what it holds open after deletion.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use exhibit_evidence::stream::tar::EXTENTS_MAX;
use rustix::fs::{AtFlags, OFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;

use super::gather::kind_of;
use super::pieces::pieces;
use crate::capture::live::{put_absent, refusal};
use crate::capture::patience::{self, ENDED, Kept, NotDone};
use crate::capture::procfs;
use crate::capture::{Content, EvidencePath, Extent, Kind, Meta, NewItem, Output, Source, Status, Stop};
use crate::clock;

/// Holes of all files: half of what a stream can have, because whoever makes files without data must not keep the cores and images out
/// that come after them.
pub const HOLE_BYTES_MAX: u64 = exhibit_evidence::stream::reader::HOLE_BYTES_MAX / 2;

/// What may still be taken.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Most data of one file; holes do not count.
    pub file_bytes_max: u64,
    /// Bytes of data left for all files of this capture.
    pub left_bytes: u64,
    /// Bytes of holes left for all files of this capture.
    pub hole_bytes_left: u64,
    /// How long anything asked of one may take: looking one up among the mapped files waits for a lock of the process, and what
    /// lies behind a file system (a program, a server, a loop device on either) answers when it likes.
    pub patience: Duration,
    /// Threads that may still be left behind by it.
    pub stuck_left: u32,
}

impl Budget {
    /// Counts one that did not answer, and says so.
    fn late(&mut self) -> String {
        self.stuck_left = self.stuck_left.saturating_sub(1);
        not_answered(self.patience)
    }

    /// Why a file of `size` bytes, of which `data` will be read, is not taken.
    fn no_room(&self, size: u64, data: u64) -> Option<String> {
        let holes = size.saturating_sub(data);
        if data > self.file_bytes_max {
            let max = self.file_bytes_max;
            return Some(format!("{data} bytes of data in a file of {size} bytes: above the limit of {max} bytes a file (file_max)"));
        }
        if data > self.left_bytes {
            let left = self.left_bytes;
            return Some(format!("{data} bytes of data: the capture's limit for contents (total_max) has only {left} left"));
        }
        (holes > self.hole_bytes_left).then(|| {
            let left = self.hole_bytes_left;
            format!("{holes} bytes of holes: of those that this capture may take only {left} are left, the rest is for other captures")
        })
    }
}

/// What to add about the data of a file, where holes may be counted among it.
fn closed(extents: Option<&[Extent]>) -> &'static str {
    const CLOSED: &str = "; it is in at least 16384 pieces: of a file in more than that the smallest holes between them count as data";
    if extents.is_some_and(|e| e.len() >= EXTENTS_MAX) { CLOSED } else { "" }
}

fn not_answered(patience: Duration) -> String {
    let s = patience.as_secs();
    format!(
        "did not answer within {s} s: a lock of its process is held, or what its file system asks hangs (left behind, the capture went on)"
    )
}

/// A file to take through a magic link below `/proc/<pid>`.
pub struct Wanted<'a> {
    /// The item's path, e.g. `/proc/12/exe`.
    pub path: EvidencePath,
    /// `/proc/<pid>`, pinned, and the link below it.
    pub dir: &'a OwnedFd,
    pub link: &'a str,
    pub facts: BTreeMap<String, String>,
    /// The remote file system that it lies on.
    pub remote: Option<&'a str>,
}

/// Takes a file. Returns whether there is now an item with content for it.
///
/// Nothing here blocks on a fifo, device or terminal: the link is opened with O_PATH first, which opens nothing, and read
/// only if that is a regular file. Whatever is asked of the file is asked by a thread that can be left behind: neither the type
/// of its file system nor the mount table says truly who has to answer.
///
/// # Errors
/// [`Stop`] from the output.
pub fn take(out: &mut dyn Output, wanted: Wanted<'_>, budget: &mut Budget) -> Result<bool, Stop> {
    let started = out.now();
    let Wanted { path, dir, link, facts, remote } = wanted;
    let mut absent = |status: Status, reason: String, facts: &BTreeMap<String, String>| {
        let mut item = NewItem::new(path.clone(), Kind::Unknown, started, "open:proc-link").with_status(status, reason);
        item.facts.clone_from(facts);
        out.put(item, Content::None).map(|_| false)
    };
    if let Some(fs_type) = remote {
        return absent(
            Status::Skipped,
            format!("on a remote file system ({fs_type}): reading could hang and is not this host's evidence"),
            &facts,
        );
    }
    if budget.stuck_left == 0 {
        return absent(Status::Skipped, "not tried: too many files before did not answer".to_owned(), &facts);
    }
    let (opened, extents) = match open_in_time(dir, link, budget.patience) {
        Ok(opened) => opened,
        Err(NotOpened::Late) => {
            let reason = budget.late();
            return absent(Status::Error, reason, &facts);
        }
        Err(NotOpened::Kernel(e)) => {
            let (status, reason) = refusal(e);
            // The link was there when the process was read.
            let status = if status == Status::Missing { Status::Vanished } else { status };
            return absent(status, reason, &facts);
        }
        Err(NotOpened::Own) => {
            let reason = "not read: something is mounted over the agent's own folder in its procfs, through which it opens what it holds; \
                          nothing is mounted over this process";
            return absent(Status::Error, reason.to_owned(), &facts);
        }
        Err(NotOpened::Kind(kind)) => return absent(Status::Skipped, format!("not a regular file but {kind}"), &facts),
    };
    let size = opened.before.stx_size;
    // Holes cost nothing, whatever size a file gave itself: what will be read counts, holes between too many pieces among it.
    let data = extents.as_ref().map_or(size, |e| e.iter().fold(0_u64, |sum, e| sum.saturating_add(e.length)));
    if let Some(reason) = budget.no_room(size, data) {
        return absent(Status::Skipped, reason + closed(extents.as_deref()), &facts);
    }
    let holes = size.saturating_sub(data);
    budget.left_bytes = budget.left_bytes.saturating_sub(data);
    budget.hole_bytes_left = budget.hole_bytes_left.saturating_sub(holes);
    let meta = meta_of(&opened.before);
    let Ok(mut source) = Reading::new(opened, *budget, data) else { return absent(Status::Error, Errno::AGAIN.to_string(), &facts) };
    let mut item = NewItem::new(path, Kind::File, started, "open:proc-link");
    item.meta = Some(Box::new(meta));
    item.facts = facts;
    let put = out.put(item, Content::Source { size, extents, source: &mut source });
    if source.gone.is_some() {
        budget.stuck_left = budget.stuck_left.saturating_sub(1);
    }
    let status = put?;
    if status == Status::Skipped {
        // The order's limit had no room for it: nothing of it was taken.
        budget.left_bytes = budget.left_bytes.saturating_add(data);
        budget.hole_bytes_left = budget.hole_bytes_left.saturating_add(holes);
    }
    Ok(matches!(status, Status::Collected | Status::Partial | Status::ChangedDuringRead))
}

/// The build id of a program, without taking it.
///
/// # Errors
/// Why it did not answer: then nothing else should be asked of it.
pub fn build_id(dir: &OwnedFd, link: &str, budget: &mut Budget) -> Result<Option<String>, String> {
    let Ok(own) = dir.try_clone() else { return Ok(None) };
    if budget.stuck_left == 0 {
        return Ok(None);
    }
    let name = link.to_owned();
    let read = move || super::build_id::read(&open_regular(&own, &name).ok()?.file);
    match patience::within(budget.patience, read) {
        Ok(found) => Ok(found),
        Err(NotDone::Late) => Err(budget.late()),
        Err(NotDone::Ended | NotDone::NoThread) => Ok(None),
    }
}

/// Puts a record for a process's file that will not be taken.
pub fn put_skipped(out: &mut dyn Output, path: EvidencePath, reason: &str) -> Result<(), Stop> {
    let started = out.now();
    put_absent(out, path, Status::Skipped, reason, started, "none")
}

enum NotOpened {
    Late,
    Kernel(Errno),
    /// Something is mounted over the agent's own links to what it has open.
    Own,
    Kind(&'static str),
}

impl From<Errno> for NotOpened {
    fn from(e: Errno) -> Self {
        Self::Kernel(e)
    }
}

struct Opened {
    file: OwnedFd,
    before: Statx,
}

fn stat_fd(file: &OwnedFd) -> Result<Statx, Errno> {
    statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// [`open_regular`] and [`pieces`] on a thread that can be left behind.
fn open_in_time(dir: &OwnedFd, link: &str, limit: Duration) -> Result<(Opened, Option<Vec<Extent>>), NotOpened> {
    let (own, name) = (dir.try_clone().map_err(|_| Errno::MFILE)?, link.to_owned());
    let open = move || {
        let opened = open_regular(&own, &name)?;
        let (size, blocks) = (opened.before.stx_size, opened.before.stx_blocks);
        // Well before it counts as one that does not answer.
        let extents = if blocks.saturating_mul(512) >= size { None } else { pieces(&opened.file, size, limit / 2) };
        Ok((opened, extents))
    };
    match patience::within(limit, open) {
        Ok(opened) => opened,
        Err(NotDone::Late) => Err(NotOpened::Late),
        Err(NotDone::Ended) => Err(Errno::IO.into()),
        Err(NotDone::NoThread) => Err(Errno::AGAIN.into()),
    }
}

fn open_regular(dir: &OwnedFd, link: &str) -> Result<Opened, NotOpened> {
    let held = procfs::follow(dir, link, OFlags::PATH)?;
    let kind = kind_of(&stat_fd(&held)?);
    if kind != "file" {
        return Err(NotOpened::Kind(kind));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let reopen = |flags: OFlags| procfs::reopen(&held, flags).map_err(|e| if e == Errno::XDEV { NotOpened::Own } else { e.into() });
    let file = match reopen(flags | OFlags::NOATIME) {
        // NOATIME is for owners; without it the access time may change, as with any reader.
        Err(NotOpened::Kernel(Errno::PERM)) => reopen(flags)?,
        other => other?,
    };
    let before = stat_fd(&file)?;
    Ok(Opened { file, before })
}

/// A file that is being read.
struct Reading {
    file: Kept<OwnedFd>,
    before: Statx,
    patience: Duration,
    /// Time left for all reads together.
    left: Duration,
    /// Why nothing more is asked of it.
    gone: Option<String>,
}

/// Bytes of one read.
const READ_BYTES_MAX: usize = 1 << 20;
/// Bytes a second below which a file counts as one that does not answer: whoever serves it could answer each read at the last
/// moment. Disks are a hundred times faster.
const BYTES_PER_S_MIN: u64 = 1 << 20;

impl Reading {
    /// `data` are the bytes that will be asked for: a hole is no reason to wait.
    fn new(opened: Opened, budget: Budget, data: u64) -> Result<Self, NotDone> {
        let Opened { file, before } = opened;
        let patience = budget.patience;
        let left = patience.saturating_add(Duration::from_secs(data / BYTES_PER_S_MIN));
        Ok(Self { file: Kept::new(file, patience)?, before, patience, left, gone: None })
    }

    /// Asks something of the file; `None` when that did not answer, now or before.
    fn ask<R: Send + 'static>(&mut self, question: impl FnOnce(&mut OwnedFd) -> R + Send + 'static) -> Option<R> {
        if self.gone.is_some() {
            return None;
        }
        let begun = clock::monotonic();
        let answer = self.file.ask(question);
        self.left = self.left.saturating_sub(clock::monotonic().saturating_sub(begun));
        self.gone = match &answer {
            Err(NotDone::Late) => Some(not_answered(self.patience)),
            Err(NotDone::Ended | NotDone::NoThread) => Some(ENDED.to_owned()),
            Ok(_) => self.left.is_zero().then(|| "answers more slowly than 1 MiB a second: the rest was not waited for".to_owned()),
        };
        answer.ok()
    }
}

impl Source for Reading {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = buf.len().min(READ_BYTES_MAX);
        let read = move |file: &mut OwnedFd| {
            let mut bytes = vec![0; wanted];
            let count = rustix::io::pread(&*file, &mut bytes, offset)?;
            bytes.truncate(count);
            Ok::<_, Errno>(bytes)
        };
        let Some(read) = self.ask(read) else { return Err(io::Error::from(io::ErrorKind::TimedOut)) };
        let bytes = read?;
        buf.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidData)?.copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    fn after(&mut self) -> Option<(Status, String)> {
        if let Some(why) = &self.gone {
            return Some((Status::Partial, why.clone()));
        }
        let now = match self.ask(|file| stat_fd(file)) {
            Some(Ok(now)) => now,
            Some(Err(e)) => return Some((Status::Partial, format!("its state after reading is not known: {e}"))),
            None => return Some((Status::Partial, "its state after reading is not known: it did not answer".to_owned())),
        };
        let time = |s: &Statx| (s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec);
        if now.stx_size != self.before.stx_size {
            return Some((Status::ChangedDuringRead, format!("size went from {} to {} bytes", self.before.stx_size, now.stx_size)));
        }
        (time(&now) != time(&self.before)).then(|| (Status::ChangedDuringRead, "its modification time changed".to_owned()))
    }
}

fn meta_of(s: &Statx) -> Meta {
    let time = |t: rustix::fs::StatxTimestamp| Some(exhibit_evidence::time::FileTime { s: t.tv_sec, ns: t.tv_nsec });
    Meta {
        mode: u32::from(s.stx_mode) & 0o7777,
        uid: s.stx_uid,
        gid: s.stx_gid,
        ino: s.stx_ino,
        nlink: u64::from(s.stx_nlink),
        dev: [s.stx_dev_major, s.stx_dev_minor],
        rdev: None,
        blocks: s.stx_blocks,
        mtime: time(s.stx_mtime),
        atime: time(s.stx_atime),
        ctime: time(s.stx_ctime),
        btime: if s.stx_mask & StatxFlags::BTIME.bits() == 0 { None } else { time(s.stx_btime) },
        ..Meta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::evidence_path;
    use crate::capture::testing::Memory;

    /// 64 MiB of single pages, and as much of holes between them.
    #[test]
    fn holes_that_count_as_data_are_told_where_there_is_no_room() {
        let file = rustix::fs::memfd_create("spread", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        let folder = crate::capture::live::open_dir(rustix::fs::CWD, format!("/proc/{}", std::process::id())).expect("its folder");
        let link = format!("fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let reason_with = |pages: u64| {
            rustix::fs::ftruncate(&file, pages * 2 * 4096).expect("a size");
            for page in 0..pages {
                rustix::io::pwrite(&file, b"x", page * 2 * 4096).expect("write");
            }
            let patience = Duration::from_mins(1);
            let mut budget = Budget { file_bytes_max: 1, left_bytes: 1 << 40, hole_bytes_left: 1 << 40, patience, stuck_left: 1 };
            let wanted = Wanted { path: evidence_path("/it"), dir: &folder, link: &link, facts: BTreeMap::new(), remote: None };
            let mut out = Memory::default();
            assert!(!take(&mut out, wanted, &mut budget).expect("goes on"), "there is no room");
            out.puts[0].item.reason.clone().expect("a reason")
        };
        let few = reason_with(3);
        assert!(few.contains("file_max") && !few.contains("pieces"), "{few}");
        let many = reason_with(EXTENTS_MAX as u64 + 100);
        assert!(many.contains("file_max") && many.contains(&format!("in at least {EXTENTS_MAX} pieces")), "{many}");
    }
}
