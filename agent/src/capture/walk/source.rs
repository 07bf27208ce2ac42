//! Reading one open file as evidence: where its data is, whether it changed meanwhile, and leaving the page cache as
//! it was found.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};

use exhibit_evidence::EvidencePath;
use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

use serde::{Deserialize, Serialize};

use super::inode::{Opener, Stat, stat};
use super::may_enter;
use crate::capture::mounts::Mounts;
use crate::capture::{Extent, Kind, Place, Source, Status};

/// Most data ranges of one sparse file that are kept apart; a file in more pieces is read whole, holes as zeros.
/// 8,192 x 16 bytes = 128 KiB, and about 330 KiB as text in the stream's sparse map.
const EXTENTS_MAX: usize = 8_192;

/// Pages that are asked about before reading, to learn whether somebody else has the file in the page cache.
const PROBES_MAX: u64 = 8;

/// Distance between them: beyond any read-ahead that a probe itself could start.
const PROBE_STEP_BYTES: u64 = 4 << 20;

/// Read pages are given back in steps of this size.
const DROP_STEP_BYTES: u64 = 8 << 20;

/// Bytes at the start and at the end of what was taken that are read again when a file grew.
const SAMPLE_BYTES: usize = 4 << 10;

/// Smaller files are never found unfinished by a later process: they are put into the stream between two marks.
const PLACE_BYTES_MIN: u64 = 64 << 10;

/// What it means when a file grew while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Growth {
    /// The file changed.
    IsChange,
    /// A log that was appended to; what was taken is still what it was, unless a second look says otherwise.
    IsNormal,
}

/// A regular file, opened, to be read up to the size that it had.
pub struct FileSource {
    file: OwnedFd,
    /// Where it is, if a later process may look for it there.
    path: Option<EvidencePath>,
    before: Stat,
    growth: Growth,
    /// True when nothing of the file was in the page cache: what is there after reading came in through us.
    drop_behind: bool,
    dropped_to: u64,
    head: Sample,
    tail: Sample,
    /// The first bytes, when they were looked at before they are taken.
    begin: Vec<u8>,
    facts: BTreeMap<String, String>,
}

/// A file as a later process of this agent finds it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePlace {
    path: EvidencePath,
    before: Stat,
    growth: Growth,
    head: Sample,
    tail: Sample,
}

impl FilePlace {
    /// Opens the file again: the same inode, at the same path, through no link. Whether it changed since it was opened
    /// first is judged at the end, as if there had been one process.
    ///
    /// # Errors
    /// Why the rest of it cannot be read, for the record.
    pub fn open(self) -> Result<FileSource, String> {
        let path = self.path.as_bytes();
        let no = |e: &io::Error| format!("after the agent's process ended it could not be opened again: {e}");
        // A dead file server may lie there now, and a look would wait for it.
        let mounts = Mounts::read().map_err(|e| no(&e))?;
        if let Some(mount) = mounts.holding(path).filter(|m| [m.dev.0, m.dev.1] != self.before.meta.dev && !may_enter(m, false)) {
            let fs = exhibit_evidence::text::escape_bytes(&mount.fs_type);
            return Err(format!("after the agent's process ended another file system ({fs}) was mounted over its path"));
        }
        let look = Opener::new().look_path(path).map_err(|e| no(&e))?;
        let (was, is) = (&self.before, &look.stat);
        if is.kind != Kind::File || is.inode() != was.inode() || is.meta.btime != was.meta.btime {
            return Err("after the agent's process ended another file was found at its path".to_owned());
        }
        let name = CString::new(path).map_err(|_| no(&Errno::INVAL.into()))?;
        let (file, ..) = look.open_file(rustix::fs::CWD, &name).map_err(|e| no(&e))?;
        let drop_behind = !is_cached(&file, was.size);
        Ok(FileSource {
            file,
            path: Some(self.path),
            before: self.before,
            growth: self.growth,
            drop_behind,
            dropped_to: 0,
            head: self.head,
            tail: self.tail,
            begin: Vec::new(),
            facts: BTreeMap::new(),
        })
    }
}

/// Bytes of a range as they were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sample {
    offset: u64,
    bytes: Vec<u8>,
    /// How many of `bytes` were seen, from the front.
    seen: usize,
}

impl Sample {
    fn new(offset: u64, length: usize) -> Self {
        Self { offset, bytes: vec![0; length], seen: 0 }
    }

    /// Keeps what of a read (which began at `offset`) continues the range.
    fn keep(&mut self, offset: u64, read: &[u8]) {
        let next = self.offset.saturating_add(self.seen as u64);
        let Some(skip) = next.checked_sub(offset).and_then(|s| usize::try_from(s).ok()) else { return };
        let fresh = read.get(skip..).unwrap_or_default();
        let room = self.bytes.get_mut(self.seen..).unwrap_or_default();
        let count = fresh.len().min(room.len());
        if let (Some(to), Some(from)) = (room.get_mut(..count), fresh.get(..count)) {
            to.copy_from_slice(from);
            self.seen = self.seen.saturating_add(count);
        }
    }

    /// True when the range still holds the bytes that were seen.
    fn still_there(&self, file: &OwnedFd) -> bool {
        let mut again = vec![0_u8; self.seen];
        let mut filled = 0;
        while let Some(room) = again.get_mut(filled..).filter(|r| !r.is_empty()) {
            match pread(file, room, self.offset.saturating_add(filled as u64)) {
                Ok(0) => return false,
                Ok(n) => filled = filled.saturating_add(n),
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        self.bytes.get(..self.seen) == Some(again.as_slice())
    }
}

impl FileSource {
    /// Takes a file that was opened for reading. `before` is what the kernel said when it was opened.
    #[must_use]
    pub fn new(file: OwnedFd, before: Stat, growth: Growth) -> Self {
        let drop_behind = before.size > 0 && !is_cached(&file, before.size);
        let sample = if growth == Growth::IsNormal { SAMPLE_BYTES.min(usize::try_from(before.size).unwrap_or(SAMPLE_BYTES)) } else { 0 };
        let tail = before.size.saturating_sub(sample as u64);
        Self {
            file,
            path: None,
            growth,
            drop_behind,
            dropped_to: 0,
            head: Sample::new(0, sample),
            tail: Sample::new(tail, sample),
            begin: Vec::new(),
            facts: BTreeMap::new(),
            before,
        }
    }

    /// Says where the file is, so that a later process may go on reading it.
    #[must_use]
    pub fn at(mut self, path: &[u8]) -> Self {
        self.path = EvidencePath::new(path).filter(|_| self.before.size > PLACE_BYTES_MIN);
        self
    }

    /// How a later process finds it, if it may look for it.
    #[must_use]
    pub fn file_place(&self) -> Option<FilePlace> {
        let (path, before) = (self.path.clone()?, self.before.clone());
        Some(FilePlace { path, before, growth: self.growth, head: self.head.clone(), tail: self.tail.clone() })
    }

    /// Reads the first `count` bytes, not beyond the size, into a buffer that is kept: what is looked at here is what will
    /// be taken, and most files are read once that way. No bytes when they cannot be read. Once a file.
    pub fn look_at_begin(&mut self, count: usize, mut buffer: Vec<u8>) -> &[u8] {
        buffer.resize(usize::try_from(self.before.size).unwrap_or(usize::MAX).min(count), 0);
        let got = loop {
            match pread(&self.file, buffer.as_mut_slice(), 0) {
                Err(Errno::INTR) => {}
                got => break got.unwrap_or(0),
            }
        };
        buffer.truncate(got);
        self.begin = buffer;
        &self.begin
    }

    /// Gives the buffer of [`FileSource::look_at_begin`] back.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.begin
    }

    /// Reads what [`FileSource::look_at_begin`] did not.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let kept = usize::try_from(offset).ok().and_then(|at| self.begin.get(at..)).unwrap_or_default();
        let count = kept.len().min(buf.len());
        match (buf.get_mut(..count), kept.get(..count)) {
            (Some(to), Some(from)) if count > 0 => to.copy_from_slice(from),
            _ => return Ok(pread(&self.file, buf, offset)?),
        }
        Ok(count)
    }

    /// The size when it was opened.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.before.size
    }

    /// Where the data is, if the file has holes. `None` also for a file in too many pieces.
    #[must_use]
    pub fn extents(&self) -> Option<Vec<Extent>> {
        // Fewer blocks than bytes: holes, or compression, or data kept in the inode. The next calls tell.
        if self.before.meta.blocks.saturating_mul(512) >= self.before.size {
            return None;
        }
        data_extents(&self.file, self.before.size)
    }

    fn give_back(&mut self, to: u64, all: bool) {
        if !self.drop_behind || (!all && to.saturating_sub(self.dropped_to) < DROP_STEP_BYTES) {
            return;
        }
        // Advice only: pages that somebody mapped or dirtied meanwhile stay. The last call covers the whole file, because
        // the kernel keeps a large page that reaches beyond the end of a step.
        let (from, length) = if all { (0, None) } else { (self.dropped_to, NonZeroU64::new(to.saturating_sub(self.dropped_to))) };
        let _ = fadvise(&self.file, from, length, Advice::DontNeed);
        self.dropped_to = to;
    }
}

impl Source for FileSource {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.read(offset, buf)?;
        let read = buf.get(..count).unwrap_or_default();
        self.head.keep(offset, read);
        self.tail.keep(offset, read);
        self.give_back(offset.saturating_add(count as u64), false);
        Ok(count)
    }

    fn after(&mut self) -> Option<(Status, String)> {
        let verdict = match stat(self.file.as_fd()) {
            Ok(after) => self.compare(&after),
            Err(e) => Some((Status::ChangedDuringRead, format!("it could not be asked again whether the file changed: {e}"))),
        };
        self.give_back(self.before.size, true);
        verdict
    }

    fn facts_after(&mut self) -> BTreeMap<String, String> {
        std::mem::take(&mut self.facts)
    }

    fn place(&self) -> Option<Place> {
        self.file_place().map(|place| Place::File(Box::new(place)))
    }
}

impl FileSource {
    fn compare(&mut self, after: &Stat) -> Option<(Status, String)> {
        let (was, is) = (&self.before, after);
        if was.meta.nlink > 0 && is.meta.nlink == 0 {
            self.facts.insert("unlinked".into(), "while it was read".into());
        }
        let mut changed = Vec::new();
        if was.size != is.size {
            changed.push(format!("size ({} to {} bytes)", was.size, is.size));
        }
        if was.meta.mtime != is.meta.mtime {
            changed.push("mtime".into());
        }
        if was.meta.ctime != is.meta.ctime {
            changed.push("ctime".into());
        }
        if changed.is_empty() {
            return None;
        }
        if self.growth == Growth::IsNormal && is.size > was.size {
            if self.head.still_there(&self.file) && self.tail.still_there(&self.file) {
                self.facts.insert("grew_to".into(), is.size.to_string());
                return None;
            }
            changed.push("content within what was taken".into());
        }
        Some((Status::ChangedDuringRead, format!("changed while it was read: {}", changed.join(", "))))
    }
}

/// True when something of the file is already in the page cache, or when that cannot be known.
fn is_cached(file: &OwnedFd, size: u64) -> bool {
    exhibit_agent_sys::page_cache::cached_pages(file.as_fd()).map_or_else(|_| seems_cached(file, size), |pages| pages > 0)
}

/// The same for kernels before 6.5, by asking a few pages whether they could be read without waiting. The question
/// itself starts a fetch, so a page may seem cached that was not; then pages stay that could have been given back.
fn seems_cached(file: &OwnedFd, size: u64) -> bool {
    let probes = (size.saturating_sub(1) / PROBE_STEP_BYTES).saturating_add(1).min(PROBES_MAX);
    let step = size / probes.max(1);
    (0..probes).any(|n| {
        let mut byte = [0_u8];
        let at = step.saturating_mul(n);
        // EAGAIN: it would have to be fetched. Any other answer, an error included, is no leave to drop pages.
        preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) != Err(Errno::AGAIN)
    })
}

fn data_extents(file: &OwnedFd, size: u64) -> Option<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut at = 0_u64;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // A hole up to the end.
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        if start >= size {
            break;
        }
        let end = seek(file, SeekFrom::Hole(start)).ok()?.min(size);
        // The file may change between the calls: never stand still.
        if end <= start || start < at || extents.len() >= EXTENTS_MAX {
            return None;
        }
        extents.push(Extent { offset: start, length: end.saturating_sub(start) });
        at = end;
    }
    let whole = matches!(extents.as_slice(), [only] if only.offset == 0 && only.length == size);
    (!whole).then_some(extents)
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
