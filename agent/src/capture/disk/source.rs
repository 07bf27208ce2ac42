//! A block device as a source of evidence: large reads while all goes well, single sectors where it does not.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::bad::BadSectors;
use super::drive::{Drive, Geometry, Identity, Node};
use super::frozen::Freezes;
use super::patience::is_stuck;
use crate::capture::{Beside, NewItem, Place, Source, Status, evidence_path};
use crate::clock;

/// One read of the device. Without the kernel's read-ahead a device is asked once for each of these; larger ones are not
/// faster on what was measured, and the memory is the capture's.
const READ_BYTES: usize = 1 << 20;
/// Memory that is read into begins at a multiple of this: what any device's DMA asks for.
const ALIGNMENT: usize = 4096;
/// A read that takes longer is noted: a disk that tries again by itself, a path that went away and came back.
const SLOW: Duration = Duration::from_secs(2);
/// After so many bytes in a row that failed, sectors are tried once: a part of the disk is gone, not a sector.
const TRY_AGAIN_WITHIN_BYTES: u64 = 512 << 10;

/// What of the reading a later process needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    size: u64,
    sector: u32,
    tries: u32,
    direct: bool,
    /// From this byte on it was read through the page cache, which was asked for otherwise: not everything can be read past it.
    #[serde(default)]
    cached_from: Option<u64>,
    /// Sectors written before the reading began.
    changed: Option<u64>,
    bad: BadSectors,
    slow: Slow,
    /// Name of the item with the list.
    list: String,
    /// A file system on it was frozen when the reading began.
    frozen: bool,
    /// What may write to it is known, and said.
    #[serde(default)]
    in_use: bool,
}

/// Reads that took long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Slow {
    count: u64,
    longest_ms: u64,
    longest_at: u64,
}

/// How a later process finds a device again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicePlace {
    identity: Identity,
    progress: Progress,
}

impl DevicePlace {
    /// Opens the device again.
    ///
    /// # Errors
    /// Why the rest of it cannot be read, for the record.
    pub fn open(self) -> Result<DeviceSource<Node>, String> {
        let node = Node::open_again(&self.identity, self.progress.direct)?;
        let restarted = node.identity().is_none_or(|now| now.boot_id != self.identity.boot_id);
        let mut source = DeviceSource::resume(node, self.progress);
        if restarted {
            source.doubt = Some("the host was restarted while it was read; whether it was written to meanwhile cannot be told".to_owned());
        }
        Ok(source)
    }
}

/// The source.
pub struct DeviceSource<D> {
    drive: D,
    progress: Progress,
    /// Room for one read, and where in it aligned memory begins.
    buffer: Vec<u8>,
    aligned: usize,
    /// What of the device is in the buffer.
    window: (u64, usize),
    /// Up to here only what is asked for is read: something in it failed.
    narrow_to: u64,
    /// Why nothing more can be read.
    gone: Option<String>,
    /// A read did not come back.
    hangs: bool,
    /// Why the bytes may not be of one state, beside what the counters say.
    doubt: Option<String>,
    freezes: Freezes,
    /// Sectors that were written while it was read, as far as the kernel counts them; known after the reading.
    written: Option<u64>,
}

impl<D: Drive> DeviceSource<D> {
    /// A source of all bytes that a drive has now. Each sector that fails is read `tries` times in all. `list` is the name of
    /// the item that lists what could not be read.
    #[must_use]
    pub fn new(drive: D, tries: u32, list: String) -> Self {
        let Geometry { size, logical_sector, .. } = *drive.geometry();
        let (changed, direct) = (drive.changed(), drive.is_direct());
        let (bad, slow) = (BadSectors::default(), Slow::default());
        let (sector, tries, cached_from, frozen, in_use) = (logical_sector, tries.max(1), None, false, false);
        Self::resume(drive, Progress { size, sector, tries, direct, cached_from, changed, bad, slow, list, frozen, in_use })
    }

    /// What the kernel said of the drive when it was opened.
    pub fn geometry(&self) -> &Geometry {
        self.drive.geometry()
    }

    fn resume(drive: D, progress: Progress) -> Self {
        let buffer = vec![0_u8; READ_BYTES.saturating_add(ALIGNMENT)];
        let aligned = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let freezes = Freezes::default();
        Self {
            drive,
            progress,
            buffer,
            aligned,
            window: (0, 0),
            narrow_to: 0,
            gone: None,
            hangs: false,
            doubt: None,
            freezes,
            written: None,
        }
    }

    /// Says whether its `consistency` names already what may write to it; else that it was written to is said there.
    pub const fn in_use(&mut self, in_use: bool) {
        self.progress.in_use = in_use;
    }

    /// Holds what is frozen until the reading is over.
    pub fn hold(&mut self, freezes: Freezes) {
        self.progress.frozen = freezes.holds();
        // What was waiting to be written came to the disk with the freezing.
        self.progress.changed = self.drive.changed();
        self.freezes = freezes;
    }

    /// What could not be read.
    #[must_use]
    pub const fn bad(&self) -> &BadSectors {
        &self.progress.bad
    }

    /// The drive again.
    #[cfg(test)]
    pub fn into_drive(self) -> D {
        self.drive
    }

    fn sector(&self) -> u64 {
        u64::from(self.progress.sector).max(1)
    }

    /// What of the buffered bytes lies at an offset.
    fn buffered(&self, offset: u64) -> &[u8] {
        let (start, length) = self.window;
        let Some(skip) = offset.checked_sub(start).and_then(|s| usize::try_from(s).ok()).filter(|s| *s < length) else { return &[] };
        let from = self.aligned.saturating_add(skip);
        self.buffer.get(from..self.aligned.saturating_add(length)).unwrap_or_default()
    }

    /// Reads whole sectors around a range into the buffer; how long it took is watched.
    fn load(&mut self, start: u64, length: usize) -> io::Result<usize> {
        let part = self.aligned..self.aligned.saturating_add(length.min(READ_BYTES));
        self.window = (start, 0);
        let begun = clock::monotonic();
        let result = loop {
            match self.drive.pread(start, &mut self.buffer, part.clone()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let took = clock::monotonic().saturating_sub(begun);
        if took >= SLOW {
            self.progress.slow.note(start, took);
        }
        let got = result?;
        self.window = (start, got.min(length));
        Ok(got)
    }

    /// Loads, and goes through the page cache from the first refusal on: not everything can be read past it.
    fn load_any(&mut self, start: u64, length: usize) -> io::Result<usize> {
        match self.load(start, length) {
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::INVAL | Errno::OPNOTSUPP)) && self.drive.through_cache() => {
                self.progress.direct = false;
                self.progress.cached_from = Some(start);
                self.load(start, length)
            }
            result => result,
        }
    }

    /// A single sector, tried again.
    fn load_sector(&mut self, start: u64, length: usize) -> io::Result<usize> {
        // A sector may be asked for in two parts, where the stream's buffer ends.
        if let Some(e) = self.progress.bad.failed_last(start) {
            return Err(e);
        }
        let hopeless = self.progress.bad.run_to(start) >= TRY_AGAIN_WITHIN_BYTES;
        let tries = if hopeless { 1 } else { self.progress.tries };
        let mut tried = 1_u32;
        loop {
            match self.load_any(start, length) {
                Ok(got) => {
                    if tried > 1 {
                        self.progress.bad.recovered();
                    }
                    return Ok(got);
                }
                Err(e) if self.is_gone(&e) => return Err(e),
                Err(_) if tried < tries => tried = tried.saturating_add(1),
                Err(e) => {
                    let length = (length as u64).min(self.progress.size.saturating_sub(start));
                    self.progress.bad.add(start, length, &e, tried);
                    return Err(e);
                }
            }
        }
    }

    /// Why a read did not come back, once one did not.
    pub fn hangs(&self) -> Option<&str> {
        self.gone.as_deref().filter(|_| self.hangs)
    }

    /// Finds out whether an error is the end of the device rather than of a sector.
    fn is_gone(&mut self, error: &io::Error) -> bool {
        if is_stuck(error) {
            self.hangs = true;
            self.gone = Some(format!("the device hangs: {error}, and nothing more was read of it"));
            return true;
        }
        let says = match self.drive.size() {
            Err(e) => Some(format!("the device is gone ({e})")),
            Ok(0) if self.progress.size > 0 => Some("the device is gone (it has no bytes any more)".to_owned()),
            Ok(_) => {
                matches!(Errno::from_io_error(error), Some(Errno::NODEV | Errno::NXIO)).then(|| format!("the device is gone ({error})"))
            }
        };
        if let Some(why) = says {
            self.gone = Some(why);
        }
        self.gone.is_some()
    }

    /// Brings the bytes at an offset into the buffer.
    fn fetch(&mut self, offset: u64, want: usize) -> io::Result<usize> {
        let sector = self.sector();
        let start = offset.saturating_sub(offset % sector);
        let end = self.progress.size.div_ceil(sector).saturating_mul(sector);
        if start >= self.narrow_to {
            let length = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX).min(READ_BYTES);
            match self.load_any(start, length) {
                Err(e) if !self.is_gone(&e) => self.narrow_to = start.saturating_add(length as u64),
                result => return result,
            }
        }
        let until = offset.saturating_add(want as u64).div_ceil(sector).saturating_mul(sector).min(end);
        let length = usize::try_from(until.saturating_sub(start)).unwrap_or(usize::MAX).min(READ_BYTES);
        if length as u64 <= sector {
            return self.load_sector(start, length);
        }
        let result = self.load_any(start, length);
        if let Err(e) = &result {
            // Found out here, the rest is one gap; otherwise each sector is asked for.
            self.is_gone(e);
        }
        result
    }
}

impl<D: Drive> Source for DeviceSource<D> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(why) = &self.gone {
            return Err(io::Error::other(why.clone()));
        }
        let size = self.progress.size;
        if offset >= size || buf.is_empty() {
            return Ok(0);
        }
        if self.buffered(offset).is_empty() {
            self.freezes.look(offset);
            self.fetch(offset, buf.len())?;
            if self.buffered(offset).is_empty() {
                // The kernel says "no more" of a device that was pulled as well as of one that shrank: its size tells them apart.
                let error = io::Error::other("the device had no more bytes");
                if !self.is_gone(&error) {
                    self.gone = Some(format!("the device ends at byte {offset}; it had {size} when it was opened"));
                }
                return Err(error);
            }
        }
        let room = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let from = self.buffered(offset);
        let count = from.len().min(buf.len()).min(room);
        if let (Some(to), Some(from)) = (buf.get_mut(..count), from.get(..count)) {
            to.copy_from_slice(from);
        }
        self.drive.give_back(offset.saturating_add(count as u64), false);
        Ok(count)
    }

    fn unit_end(&self, offset: u64) -> u64 {
        let sector = self.sector();
        offset.saturating_sub(offset % sector).saturating_add(sector)
    }

    fn gap_list(&self) -> Option<&str> {
        Some(&self.progress.list)
    }

    fn gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    fn after(&mut self) -> Option<(Status, String)> {
        self.drive.give_back(self.progress.size, true);
        let mut reasons: Vec<String> = self.doubt.take().into_iter().collect();
        if let Some(why) = &self.gone {
            reasons.push(why.clone());
        } else {
            match self.drive.size() {
                Ok(now) if now == self.progress.size => {}
                Ok(now) => reasons.push(format!("its size changed while it was read ({} to {now} bytes)", self.progress.size)),
                Err(e) => reasons.push(format!("it could not be asked again for its size: {e}")),
            }
        }
        // A counter that began anew: another kernel runs, which is said above.
        self.written = self.progress.changed.zip(self.drive.changed()).and_then(|(was, now)| now.checked_sub(was));
        if let Some(sectors) = self.written.filter(|n| *n > 0) {
            reasons.push(format!("{sectors} sectors of 512 bytes were written to it while it was read"));
        }
        (!reasons.is_empty()).then(|| (Status::ChangedDuringRead, reasons.join("; ")))
    }

    fn place(&self) -> Option<Place> {
        let identity = self.drive.identity()?.clone();
        let progress = self.progress.clone();
        progress.bad.fits_place().then(|| Place::Device(Box::new(DevicePlace { identity, progress })))
    }

    fn facts_after(&mut self) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        facts.insert("read".to_owned(), self.progress.how());
        if !self.progress.bad.is_empty() {
            facts.insert("bad_sectors".to_owned(), self.progress.bad.summary());
        }
        let Slow { count, longest_ms, longest_at } = self.progress.slow;
        if count > 0 {
            let text = format!("{count} reads took {} s or longer, the longest {longest_ms} ms (at byte {longest_at})", SLOW.as_secs());
            facts.insert("slow_reads".to_owned(), text);
        }
        if let Some(sectors) = self.written.filter(|n| *n > 0 && !self.progress.in_use) {
            let text = format!("inconsistent: {sectors} sectors of 512 bytes were written to it while it was read");
            facts.insert("consistency".to_owned(), text);
        }
        facts.extend(self.freezes.end(self.progress.frozen, self.written));
        facts
    }

    fn beside(&mut self) -> Option<Beside> {
        let bad = &self.progress.bad;
        if bad.bytes() == 0 {
            return None;
        }
        let started = clock::now();
        let mut item = NewItem::new(evidence_path(&self.progress.list), crate::capture::Kind::Record, started, "pread");
        if let Some(cut) = bad.cut() {
            item = item.with_status(Status::Partial, cut);
        }
        Some(Beside { item, content: bad.rows(self.sector()) })
    }
}

impl Progress {
    /// How it was read, for the fact.
    fn how(&self) -> String {
        match (self.direct, self.cached_from.filter(|from| *from > 0)) {
            (true, _) => "past the page cache (O_DIRECT)".to_owned(),
            (false, None) => "through the page cache".to_owned(),
            (false, Some(from)) => format!("past the page cache (O_DIRECT) up to byte {from}, through the page cache from there on"),
        }
    }
}

impl Slow {
    fn note(&mut self, at: u64, took: Duration) {
        self.count = self.count.saturating_add(1);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if ms > self.longest_ms {
            (self.longest_ms, self.longest_at) = (ms, at);
        }
    }
}
