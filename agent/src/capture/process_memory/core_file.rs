//! A core file as something to be read by position: the header from memory, the segments from the process.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::access::{Failed, Reader};
use super::elf::Header;
use super::layout::Layout;
use super::regions::{PAGE, Regions};
use super::stop::Stands;
use crate::capture::{Source, Status};

/// Unreadable ranges that are listed; further ones are counted.
const UNREADABLE_MAX: usize = 16_384;

/// Addresses that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Why.
    pub reason: Arc<str>,
}

/// The file.
pub struct CoreFile {
    header: Header,
    /// The plan, behind the header.
    pub layout: Layout,
    /// The mappings.
    pub regions: Arc<Regions>,
    reader: Reader,
    /// The item in which everything unreadable is listed.
    list: String,
    /// What failed last, by offset: it is asked for once, not page by page.
    failed: Option<(u64, u64)>,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
    /// Bytes of all unreadable ranges, and ranges that are not listed.
    pub unreadable_bytes: u64,
    /// See above.
    pub unreadable_left_out: u64,
    /// Where in the file the process ended or ran another program.
    gone_at: Option<u64>,
    /// Whether the process is meant to stand while it is read, and from where on it did not.
    held: Option<Stands>,
    moved_at: Option<u64>,
    memory_bytes: u64,
}

impl CoreFile {
    /// Puts the parts together. `layout` is not shifted yet.
    #[must_use]
    pub fn new(header: Header, layout: Layout, regions: Arc<Regions>, reader: Reader, list: String, held: Option<Stands>) -> Self {
        let layout = layout.shift(header.bytes());
        Self {
            header,
            layout,
            regions,
            reader,
            list,
            failed: None,
            unreadable: Vec::new(),
            unreadable_bytes: 0,
            unreadable_left_out: 0,
            gone_at: None,
            held,
            moved_at: None,
            memory_bytes: 0,
        }
    }

    /// The name of the item that lists everything unreadable.
    #[must_use]
    pub fn details(&self) -> &str {
        &self.list
    }

    fn begin(&self) -> u64 {
        self.header.bytes().next_multiple_of(PAGE)
    }

    fn failure(&mut self, offset: u64, address: u64, segment_end: u64, asked: u64, failed: Failed) -> io::Result<usize> {
        if failed.gone {
            self.gone_at = Some(offset);
            self.unread(address, segment_end, "the process ended or ran another program");
            return Ok(0);
        }
        let rest = segment_end.saturating_sub(address);
        let bytes = failed.bytes.min(rest);
        self.failed = Some((offset, offset.saturating_add(bytes)));
        // A larger read is tried again, smaller.
        if asked <= bytes {
            self.unread(address, address.saturating_add(asked), &failed.error.to_string());
        }
        Err(failed.error)
    }

    fn unread(&mut self, start: u64, end: u64, reason: &str) {
        self.unreadable_bytes = self.unreadable_bytes.saturating_add(end.saturating_sub(start));
        let full = self.unreadable.len() >= UNREADABLE_MAX;
        let same = self.unreadable.last_mut().filter(|last| *last.reason == *reason);
        let reason = match same {
            Some(last) if last.end == start => {
                last.end = end;
                return;
            }
            Some(last) => Arc::clone(&last.reason),
            None => Arc::from(reason),
        };
        if full {
            self.unreadable_left_out = self.unreadable_left_out.saturating_add(1);
        } else {
            self.unreadable.push(Unreadable { start, end, reason });
        }
    }
}

impl Source for CoreFile {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let begin = self.begin();
        if offset < begin {
            let count = buf.len().min(begin.saturating_sub(offset) as usize);
            self.header.read_at(offset, buf.get_mut(..count).unwrap_or_default(), &self.layout, &self.regions);
            return Ok(count);
        }
        if self.gone_at.is_some() {
            return Ok(0);
        }
        let pieces = self.layout.pieces(offset, buf.len());
        let Some((address, first)) = pieces.first().copied() else { return Ok(0) };
        let count = pieces.iter().map(|(_, length)| *length).fold(0, usize::saturating_add).min(buf.len());
        match self.reader.fill(pieces, buf.get_mut(..count).unwrap_or_default()) {
            Ok(got) => {
                self.memory_bytes = self.memory_bytes.saturating_add(got as u64);
                if self.moved_at.is_none() && self.held.as_ref().is_some_and(|stands| !stands()) {
                    self.moved_at = Some(offset);
                }
                Ok(got)
            }
            Err(failed) => {
                let end = self.layout.at(offset).map_or(0, |s| s.start.saturating_add(s.bytes));
                // What is asked for beyond this segment fails for reasons of its own.
                self.failure(offset, address, end, first as u64, failed)
            }
        }
    }

    fn unit_end(&self, offset: u64) -> u64 {
        match self.failed {
            Some((from, to)) if from <= offset && offset < to => to,
            _ => offset.saturating_sub(offset % PAGE).saturating_add(PAGE),
        }
    }

    fn gap_list(&self) -> Option<&str> {
        Some(&self.list)
    }

    fn after(&mut self) -> Option<(Status, String)> {
        if let Some(offset) = self.gone_at {
            let read = self.memory_bytes;
            let why = format!(
                "the process ended or ran another program while it was read: {read} bytes of memory, up to offset {offset} of the core, were read before"
            );
            return Some((Status::Partial, why));
        }
        let offset = self.moved_at?;
        Some((
            Status::ChangedDuringRead,
            format!("the process was released before the copy was done (deadline): from offset {offset} on it was running"),
        ))
    }

    fn facts_after(&mut self) -> BTreeMap<String, String> {
        let counts = self.reader.counts;
        let mut facts = BTreeMap::new();
        for (name, bytes) in [
            ("read_from_memory", counts.memory),
            ("read_from_swap", counts.swapped),
            ("read_from_files", counts.files),
            ("unreadable", self.unreadable_bytes),
        ] {
            if bytes > 0 || name == "read_from_memory" {
                facts.insert(format!("{name}_bytes"), bytes.to_string());
            }
        }
        facts
    }
}
