//! A core file as something to be read by position: the header from memory, the segments from the process.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::access::{Failed, GONE};
use super::elf::Header;
use super::given_back::GivenBack;
use super::layout::{Layout, Planned};
use super::reader::Reader;
use super::regions::{PAGE, Regions};
use super::stop::Stands;
use super::unmapped::UNMAPPED;
use crate::capture::{Source, Status};

/// Why the environment is not given.
pub const WITHHELD: &str = "the environment, which this host's policy keeps back (redact_environ)";
/// What the fact says where nobody knows.
const VANISHED_UNKNOWN: &str = "not known: the table of mappings could not be read whole once more";
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

/// Addresses that are not given by this host's policy: they are never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withheld {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// The environment is not where it was put, so everything is withheld in which it can be.
    pub moved: bool,
}

impl Withheld {
    /// Cuts pieces of memory off where what is withheld begins. How many bytes of the first piece are withheld, if it begins
    /// there.
    fn cut(self, pieces: &mut Vec<(u64, usize)>) -> Option<u64> {
        let reach = |address: u64, length: usize| address < self.end && address.saturating_add(length as u64) > self.start;
        let at = pieces.iter().position(|(address, length)| reach(*address, *length))?;
        let (address, length) = pieces.get_mut(at)?;
        let before = self.start.saturating_sub(*address);
        let withheld = self.end.saturating_sub(*address);
        *length = usize::try_from(before).unwrap_or(usize::MAX).min(*length);
        pieces.truncate(at.saturating_add(usize::from(before > 0)));
        (at == 0 && before == 0).then_some(withheld)
    }
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
    /// What is not given.
    pub withheld: Option<Withheld>,
    /// Whether it is known what was not mapped any more before its pages were looked at.
    pub vanished_known: bool,
    /// Bytes of that.
    pub vanished_bytes: u64,
    /// Of those, in mappings of files that had a name and that the process could not write.
    pub vanished_of_files_bytes: u64,
    /// Of those, in mappings that are named like a device's.
    pub vanished_doubtful_bytes: u64,
    /// Bytes of unreadable ranges that were not mapped any more, with small holes between pages that were closed.
    unmapped_bytes: u64,
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
            withheld: None,
            vanished_known: true,
            vanished_bytes: 0,
            vanished_of_files_bytes: 0,
            vanished_doubtful_bytes: 0,
            unmapped_bytes: 0,
        }
    }

    /// Takes over what was found of memory that was not mapped any more before its pages were looked at.
    pub fn set_vanished(&mut self, vanished: &GivenBack, is_known: bool) {
        self.vanished_known = is_known;
        self.vanished_bytes = vanished.bytes();
        self.vanished_of_files_bytes = vanished.of_files;
        self.vanished_doubtful_bytes = vanished.doubtful;
    }

    /// Pages that were there when it was planned and are no more.
    #[must_use]
    pub const fn given_back(&self) -> &GivenBack {
        &self.reader.given_back
    }

    /// Bytes that had a page or were a file's when it was planned, and were given back before they were read: at least so many, where
    /// small holes between pages were closed; of addresses, where pages could not be looked at.
    #[must_use]
    pub fn given_back_bytes(&self) -> u64 {
        self.given_back().bytes()
    }

    /// What the item says of memory that was given back. What is a gap makes it partial, as every gap does.
    fn lost(&self) -> Option<(Status, String)> {
        let (read, before, of_files) = (self.given_back_bytes(), self.vanished_bytes, self.vanished_of_files_bytes);
        let status = if self.unmapped_bytes > 0 { Status::Partial } else { Status::ChangedDuringRead };
        let mut why = Vec::new();
        if (read > 0 || self.unmapped_bytes > 0) && self.reader.sees_pages() {
            let at_least = if self.given_back().is_at_least() { "at least " } else { "" };
            why.push(format!("{at_least}{read} bytes that it had in memory or mapped from files were given back before they were read"));
        } else if self.unmapped_bytes > 0 {
            why.push(format!("{read} bytes of addresses were given back before they were read: how many of them had pages is not known"));
        }
        if before > 0 {
            let doubtful = match self.vanished_doubtful_bytes {
                0 => String::new(),
                n => format!(" and {n} named like a device's memory, which is never taken"),
            };
            why.push(format!(
                "{before} bytes of addresses, {of_files} of them of files with a name that it could not write{doubtful}, were not mapped any more when their pages were looked at: how many of them had pages is not known"
            ));
        }
        let details = &self.list;
        (!why.is_empty()).then(|| (status, format!("the process gave memory back after it was stopped: {} ({details})", why.join("; "))))
    }

    /// The name of the item that lists everything unreadable.
    #[must_use]
    pub fn details(&self) -> &str {
        &self.list
    }

    /// Whether the rest was given up, because the thread that reads did not come back.
    #[must_use]
    pub const fn is_stuck(&self) -> bool {
        self.reader.stuck
    }

    fn begin(&self) -> u64 {
        self.header.bytes().next_multiple_of(PAGE)
    }

    /// A read of `asked` bytes that failed in its first piece of memory, which is as given.
    fn failure(&mut self, offset: u64, piece: (u64, usize), segment_end: u64, asked: u64, failed: Failed) -> io::Result<usize> {
        let (address, length) = piece;
        if failed.gone {
            self.gone_at = Some(offset);
            self.unread(address, segment_end, GONE);
            let behind = self.layout.segments.iter().filter(|s| s.stored && s.start >= segment_end);
            let behind: Vec<(u64, u64)> = behind.map(|s| (s.start, s.start.saturating_add(s.bytes))).collect();
            for (start, end) in behind {
                self.unread(start, end, GONE);
            }
            return Err(failed.error);
        }
        // Of the pieces and holes behind it nothing is known yet.
        let bytes = failed.bytes.min(length as u64);
        self.failed = Some((offset, offset.saturating_add(bytes)));
        // A larger read is tried again, smaller: what lies beyond fails for reasons of its own, if it does. What is told here is what
        // becomes a gap of the item.
        if asked <= bytes {
            self.unread(address, address.saturating_add(asked), &failed.error.to_string());
        }
        Err(failed.error)
    }

    fn unread(&mut self, start: u64, end: u64, reason: &str) {
        self.unreadable_bytes = self.unreadable_bytes.saturating_add(end.saturating_sub(start));
        if reason == UNMAPPED {
            self.unmapped_bytes = self.unmapped_bytes.saturating_add(end.saturating_sub(start));
            self.reader.given_back.count_unmapped(start, end);
        }
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

/// Cuts pieces to so many bytes together. Returns how many they are.
fn cut(pieces: &mut Vec<(u64, usize)>, bytes: u64) -> usize {
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    let most = left;
    pieces.retain_mut(|(_, length)| {
        *length = (*length).min(left);
        left = left.saturating_sub(*length);
        *length > 0
    });
    most.saturating_sub(left)
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
            return Err(io::Error::other(GONE));
        }
        let mut pieces = self.layout.pieces(offset, buf.len());
        if let Some(bytes) = self.withheld.and_then(|w| w.cut(&mut pieces)) {
            // Memory between the segments has no place in the file: what is withheld ends with its segment there.
            let rest = self.layout.at(offset).map_or(0, |s| s.offset.saturating_add(s.bytes).saturating_sub(offset));
            self.failed = Some((offset, offset.saturating_add(bytes.min(rest))));
            return Err(io::Error::other(WITHHELD));
        }
        if pieces.is_empty() {
            return Ok(0);
        }
        let count = match self.layout.planned(offset) {
            Planned::Data(until) => cut(&mut pieces, until.saturating_sub(offset)).min(buf.len()),
            Planned::Nothing(until) => {
                // Nothing was there when it was planned; a stream with few holes asks for it all the same.
                let count = buf.len().min(usize::try_from(until.saturating_sub(offset)).unwrap_or(usize::MAX));
                buf.get_mut(..count).unwrap_or_default().fill(0);
                return Ok(count);
            }
        };
        match self.reader.fill(&pieces, buf.get_mut(..count).unwrap_or_default()) {
            Ok(got) => {
                self.memory_bytes = self.memory_bytes.saturating_add(got as u64);
                if self.moved_at.is_none() && self.held.as_ref().is_some_and(|stands| !stands()) {
                    self.moved_at = Some(offset);
                }
                Ok(got)
            }
            Err(failed) => {
                let end = self.layout.at(offset).map_or(0, |s| s.start.saturating_add(s.bytes));
                let first = pieces.first().copied().unwrap_or_default();
                self.failure(offset, first, end, buf.len() as u64, failed)
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

    fn gone(&self) -> Option<&str> {
        self.gone_at.map(|_| GONE)
    }

    fn after(&mut self) -> Option<(Status, String)> {
        if let Some(offset) = self.gone_at {
            let read = self.memory_bytes;
            let why = format!("{GONE} while it was read: {read} bytes of memory, up to offset {offset} of the core, were read before");
            return Some((Status::Partial, why));
        }
        let lost = self.lost();
        let Some(offset) = self.moved_at else { return lost };
        let why = format!("the process was released before the copy was done (deadline): from offset {offset} on it was running");
        let (status, lost) = lost.unwrap_or((Status::ChangedDuringRead, String::new()));
        Some((status, if lost.is_empty() { why } else { format!("{why}; {lost}") }))
    }

    fn facts_after(&mut self) -> BTreeMap<String, String> {
        let counts = self.reader.counts();
        let mut facts = BTreeMap::new();
        for (name, bytes) in [
            ("read_from_memory", counts.memory),
            ("read_from_swap", counts.swapped),
            ("read_from_files", counts.files),
            ("unreadable", self.unreadable_bytes),
            ("given_back", self.given_back_bytes()),
            ("vanished", self.vanished_bytes),
            ("vanished_of_files", self.vanished_of_files_bytes),
            ("vanished_doubtful", self.vanished_doubtful_bytes),
        ] {
            if bytes > 0 || name == "read_from_memory" {
                facts.insert(format!("{name}_bytes"), bytes.to_string());
            }
        }
        if !self.vanished_known {
            facts.insert("vanished_bytes".to_owned(), VANISHED_UNKNOWN.to_owned());
        }
        if self.reader.lost() > 0 {
            facts.insert("mappings_without_answer".to_owned(), self.reader.lost().to_string());
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is asked for never touches what is withheld, is a beginning of what was to be read, and ends only there.
        #[test]
        fn nothing_withheld_is_asked_for(start in 0_u64..40, bytes in 1_u64..20, from in 0_u64..40, lengths in proptest::collection::vec(1_usize..9, 1..6)) {
            let mut at = from;
            let whole: Vec<(u64, usize)> = lengths.iter().map(|l| { let piece = (at, *l); at += *l as u64 + 1; piece }).collect();
            let mut cut = whole.clone();
            let refused = Withheld { start, end: start + bytes, moved: false }.cut(&mut cut);
            let all = |pieces: &[(u64, usize)]| pieces.iter().flat_map(|(a, l)| *a..a + *l as u64).collect::<Vec<u64>>();
            let free: Vec<u64> = all(&whole).into_iter().take_while(|a| *a < start || *a >= start + bytes).collect();
            prop_assert_eq!(all(&cut), free);
            prop_assert!(cut.iter().all(|(_, l)| *l > 0));
            prop_assert_eq!(refused, (from >= start && from < start + bytes).then(|| start + bytes - from));
        }
    }
}
