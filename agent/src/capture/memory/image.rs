//! An image while it is read: a LiME file that is made of physical memory piece by piece, with a diary of when each piece was
//! read and what could not be.

use std::collections::BTreeMap;
use std::io;

use super::flags::{Class, Flags, is_huge_tail, withheld};
use super::iomem::Iomem;
use super::lime::{Layout, Place};
use super::physical::Physical;
use super::ranges::{PAGE, Range};
use super::smear::Smear;
use super::tables::Tables;
use crate::capture::Source;
use crate::clock;

/// Frames of huge pages: 2 MiB and 1 GiB on x86-64 and AArch64 with pages of 4 KiB.
const HUGE_FRAMES: [u64; 2] = [512, 512 * 512];
/// Frames whose flags are known at once: those of 4 MiB.
const WINDOW: u64 = 1024;
/// Pieces of the address space whose times are kept: 32 bytes each.
const PIECES_MAX: u64 = 16_384;
/// Smallest piece.
const PIECE_BYTES_MIN: u64 = 4 << 20;
/// Gaps that are told apart: 24 bytes each. More are counted.
const GAPS_MAX: usize = 32_768;
/// Distinct reasons that are told apart.
const REASONS_MAX: usize = 32;

/// When a piece was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The addresses.
    pub range: Range,
    /// CLOCK_MONOTONIC_RAW at its first and after its last read, nanoseconds.
    pub began_ns: u64,
    pub ended_ns: u64,
}

/// What is known of an image beside its bytes.
#[derive(Debug, Default)]
pub struct Diary {
    /// Pieces, ascending.
    pub pieces: Vec<Piece>,
    /// What is zeros in the image because it could not be had: addresses and the place in `reasons`. Ascending.
    pub gaps: Vec<(Range, u16)>,
    /// Why.
    pub reasons: Vec<String>,
    /// From this address on gaps are not told apart any more, so nothing there is known to be data.
    pub uncertain_from: Option<u64>,
    /// Reads that failed and were repeated with success.
    pub retried: u64,
}

/// What [`Diary::reasons`] begin with when the kernel answered with zeros instead of content.
pub const ZEROED: &str = "zeroed-by-kernel: ";
/// What [`Diary::reasons`] begin with where zeros were read and nothing says whether they are content.
pub const UNCERTAIN: &str = "uncertain: ";
/// The kernel's own map does not have the page, so it answered with zeros.
const NOT_MAPPED: &str = "not-mapped";
const TABLES_UNREADABLE: &str = "zeros, and the kernel's page tables that say whether it maps the page could not be read";

impl Diary {
    /// Writes a gap down, once: what is asked for again after a failure may begin in the one before.
    fn gap(&mut self, range: Range, reason: &str) {
        let range = Range { start: self.gaps.last().map_or(range.start, |(last, _)| range.start.max(last.end)), end: range.end };
        if range.is_empty() {
            return;
        }
        let reason = self.reason(reason);
        let full = self.gaps.len() >= GAPS_MAX;
        match self.gaps.last_mut() {
            Some((last, why)) if last.end == range.start && *why == reason => last.end = range.end,
            _ if full => drop(self.uncertain_from.get_or_insert(range.start)),
            _ => self.gaps.push((range, reason)),
        }
    }

    fn reason(&mut self, reason: &str) -> u16 {
        let known = self.reasons.iter().position(|r| r == reason);
        let found = known.unwrap_or_else(|| {
            let last = self.reasons.len().saturating_add(1) >= REASONS_MAX;
            self.reasons.push(if last { "not read: one of many reasons".to_owned() } else { reason.to_owned() });
            self.reasons.truncate(REASONS_MAX);
            self.reasons.len().saturating_sub(1)
        });
        found as u16
    }
}

/// The flags of the frames around the one that is read.
struct Window<'a> {
    flags: Option<&'a dyn Flags>,
    iomem: &'a Iomem,
    first: u64,
    /// Frames from `first` on that are known; `None` before the first look.
    known: Option<u64>,
    bytes: Vec<u8>,
    /// The first frame of the huge page that was looked at last, and its flags.
    head: Option<(u64, u64)>,
}

impl Window<'_> {
    /// Makes the flags of a frame known.
    fn look(&mut self, frame: u64) {
        let first = frame / WINDOW * WINDOW;
        if self.known.is_none() || self.first != first {
            self.first = first;
            self.known = Some(self.flags.and_then(|f| f.read(first, &mut self.bytes).ok()).unwrap_or(0) as u64);
        }
    }

    fn of(&self, frame: u64) -> Option<u64> {
        let n = frame.checked_sub(self.first).filter(|n| *n < self.known.unwrap_or(0))? as usize;
        let bytes = self.bytes.get(n.saturating_mul(8)..n.saturating_add(1).saturating_mul(8))?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Why the kernel may answer with zeros for a frame. Of a huge page that holds one poisoned page it gives nothing, but marks
    /// its first frame only (`is_page_hwpoison`).
    fn withheld(&mut self, frame: u64) -> Option<&'static str> {
        let flags = self.of(frame)?;
        withheld(flags)
            .or_else(|| HUGE_FRAMES.iter().filter(|_| is_huge_tail(flags)).find_map(|frames| withheld(self.head(frame / frames * frames))))
    }

    /// The flags of a huge page's first frame, which may lie far away.
    fn head(&mut self, frame: u64) -> u64 {
        if let Some(flags) = self.of(frame).or(self.head.filter(|(f, _)| *f == frame).map(|(_, flags)| flags)) {
            return flags;
        }
        let mut bytes = [0; 8];
        let got = self.flags.and_then(|f| f.read(frame, &mut bytes).ok()).unwrap_or(0);
        let flags = if got == 1 { u64::from_le_bytes(bytes) } else { 0 };
        self.head = Some((frame, flags));
        flags
    }

    fn class_of(&self, frame: u64) -> Class {
        self.of(frame).map_or(Class::Unknown, |f| Class::of(f, frame, self.iomem))
    }

    /// How much may be read in one go at an address: pages that the kernel may answer with zeros for the same reason, which is
    /// given, or pages without such a reason.
    fn stretch(&mut self, at: u64, want: u64) -> (u64, Option<&'static str>) {
        let frame = at / PAGE;
        self.look(frame);
        let flag = self.withheld(frame);
        let mut count = PAGE.saturating_sub(at % PAGE);
        let mut next = frame.saturating_add(1);
        while count < want && !next.is_multiple_of(WINDOW) && self.withheld(next) == flag {
            count = count.saturating_add(PAGE);
            next = next.saturating_add(1);
        }
        (want.min(count), flag)
    }
}

/// The image as a source of the pipeline.
pub struct Image<'a> {
    physical: &'a dyn Physical,
    tables: Option<&'a Tables>,
    layout: &'a Layout,
    smear: &'a mut Smear,
    window: Window<'a>,
    /// When what was read, and what was not.
    pub diary: Diary,
    piece_bytes: u64,
    pages: [u64; Class::ALL.len()],
    /// What was last found to be blank.
    blank: Range,
    list: &'static str,
}

/// What an image is made of.
pub struct From<'a> {
    /// The memory.
    pub physical: &'a dyn Physical,
    /// The kernel's page tables, where they are understood.
    pub tables: Option<&'a Tables>,
    /// The flags of its pages, where the kernel gives them.
    pub flags: Option<&'a dyn Flags>,
    /// Where the kernel lies in it.
    pub iomem: &'a Iomem,
}

impl<'a> Image<'a> {
    /// An image of what `layout` holds; `list` is the item in which its diary will stand.
    pub fn new(from: &From<'a>, layout: &'a Layout, smear: &'a mut Smear, list: &'static str) -> Self {
        let ranges = layout.ranges();
        let span = ranges.last().map_or(0, |l| l.end).saturating_sub(ranges.first().map_or(0, |f| f.start));
        let piece_bytes = (span / PIECES_MAX).next_multiple_of(PIECE_BYTES_MIN).max(PIECE_BYTES_MIN);
        let window =
            Window { flags: from.flags, iomem: from.iomem, first: 0, known: None, bytes: vec![0; WINDOW as usize * 8], head: None };
        let (physical, tables, diary, pages) = (from.physical, from.tables, Diary::default(), [0; Class::ALL.len()]);
        let blank = Range { start: 0, end: 0 };
        Self { physical, tables, layout, smear, window, diary, piece_bytes, pages, blank, list }
    }

    /// The piece that an address lies in: its times are those of its reads.
    fn enter(&mut self, at: u64) {
        let now = clock::monotonic().as_nanos() as u64;
        let same = self.diary.pieces.last().is_some_and(|p| p.range.start / self.piece_bytes == at / self.piece_bytes);
        if !same {
            self.diary.pieces.push(Piece { range: Range { start: at, end: at }, began_ns: now, ended_ns: now });
        }
    }

    fn leave(&mut self, until: u64) {
        let now = clock::monotonic().as_nanos() as u64;
        if let Some(piece) = self.diary.pieces.last_mut() {
            piece.range.end = until;
            piece.ended_ns = now;
        }
    }

    /// Reads at an address. An error means that nothing of `buf` can be had; when the pipeline then asks for less, it is for a
    /// unit, and that is written down.
    fn memory(&mut self, at: u64, left: u64, buf: &mut [u8]) -> io::Result<usize> {
        let asked = buf.len() as u64;
        // A new piece begins where it begins.
        let to_piece_end = self.piece_bytes.saturating_sub(at % self.piece_bytes);
        let (count, flag) = self.window.stretch(at, to_piece_end.min(left).min(asked));
        self.enter(at);
        let buf = buf.get_mut(..count as usize).unwrap_or_default();
        let page = asked <= left.min(PAGE.saturating_sub(at % PAGE));
        let error = match self.fetch(at, buf, page) {
            Ok(0) => io::Error::other("the kernel gives nothing here"),
            Ok(got) => {
                let got = got.min(buf.len());
                // What the flags call withheld may have come back since: each page is judged by itself.
                let alike = flag.map_or((false, got), |_| leading(at, buf.get(..got).unwrap_or_default()));
                let (withheld, got) = match flag.filter(|_| alike.0) {
                    Some(flag) => (Some(flag), alike.1),
                    None => self.unmapped(at, buf.get(..alike.1).unwrap_or_default()),
                };
                let end = at.saturating_add(got as u64);
                let Some(why) = withheld else {
                    self.read(at, buf.get(..got).unwrap_or_default());
                    self.leave(end);
                    return Ok(got);
                };
                self.blank = Range { start: at, end };
                io::Error::other(format!("{ZEROED}{why}"))
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => e,
        };
        if asked <= self.unit(at, left) {
            let end = at.saturating_add(asked);
            self.diary.gap(Range { start: at, end }, &error.to_string());
            self.leave(end);
        }
        Err(error)
    }

    /// Whether the first page of what was just read is zeros because the kernel does not map it, and bytes of the pages from there on
    /// that are alike in this. The tables are looked at after the reading, and for it only: they change.
    fn unmapped(&mut self, at: u64, bytes: &[u8]) -> (Option<&'static str>, usize) {
        let Some(tables) = self.tables else { return (None, bytes.len()) };
        let (mut first, mut taken, mut known) = (None, 0_usize, (Some(true), at));
        for page in pages(at, bytes) {
            let here = at.saturating_add(taken as u64);
            let zeros = is_blank(page);
            if zeros && here >= known.1 {
                let found = self.physical.address_of(here).and_then(|address| tables.walk(self.physical, address));
                let until = here.saturating_add(found.map_or(PAGE, |f| f.bytes));
                known = (found.map(|f| f.physical.is_some()), until);
            }
            let mapped = if zeros { known.0 } else { Some(true) };
            if *first.get_or_insert(mapped) != mapped {
                break;
            }
            taken = taken.saturating_add(page.len());
        }
        match first {
            Some(Some(false)) => (Some(NOT_MAPPED), taken),
            Some(None) => {
                let range = Range { start: at, end: at.saturating_add(taken as u64) };
                self.diary.gap(range, &format!("{UNCERTAIN}{TABLES_UNREADABLE}"));
                (None, taken)
            }
            _ => (None, taken),
        }
    }

    /// One page that fails is tried once more.
    fn fetch(&mut self, at: u64, buf: &mut [u8], page: bool) -> io::Result<usize> {
        let first = self.physical.read(at, buf);
        match first {
            Err(e) if page && e.kind() != io::ErrorKind::Interrupted => {
                let again = self.physical.read(at, buf).map_err(|_| e)?;
                self.diary.retried = self.diary.retried.saturating_add(1);
                Ok(again)
            }
            other => other,
        }
    }

    /// Bytes from an address to the end of what can only be had or not had together: a page, or pages found blank.
    fn unit(&self, at: u64, left: u64) -> u64 {
        let page = PAGE.saturating_sub(at % PAGE);
        let blank = self.blank.end.saturating_sub(at);
        left.min(if at >= self.blank.start && blank > 0 { blank } else { page })
    }

    fn read(&mut self, at: u64, bytes: &[u8]) {
        // A page counts where its first byte is read.
        for frame in at.div_ceil(PAGE)..at.saturating_add(bytes.len() as u64).div_ceil(PAGE) {
            if let Some(count) = self.pages.get_mut(self.window.class_of(frame).index()) {
                *count = count.saturating_add(1);
            }
        }
        let window = &self.window;
        self.smear.saw(at, bytes, |frame| window.class_of(frame));
    }
}

/// What was read at an address, page by page.
fn pages(at: u64, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let first = usize::try_from(PAGE.saturating_sub(at % PAGE)).unwrap_or(0).min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    std::iter::once(head).chain(rest.chunks(PAGE as usize))
}

/// Nothing but zeros. Compared as a whole: half of a host's memory may be.
fn is_blank(page: &[u8]) -> bool {
    static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
    ZEROS.get(..page.len()) == Some(page)
}

/// Whether the first page of what was read at an address is zeros, and bytes of the pages from there on that are alike in this.
fn leading(at: u64, bytes: &[u8]) -> (bool, usize) {
    let blank = pages(at, bytes).next().is_some_and(is_blank);
    (blank, pages(at, bytes).take_while(|page| is_blank(page) == blank).map(<[u8]>::len).sum())
}

impl Source for Image<'_> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.layout.place(offset) {
            None => Ok(0),
            Some(Place::Header { bytes, from }) => {
                let rest = bytes.get(from..).unwrap_or_default();
                let count = rest.len().min(buf.len());
                if let (Some(to), Some(from)) = (buf.get_mut(..count), rest.get(..count)) {
                    to.copy_from_slice(from);
                }
                Ok(count)
            }
            Some(Place::Memory { at, left }) => self.memory(at, left, buf),
        }
    }

    fn unit_end(&self, offset: u64) -> u64 {
        match self.layout.place(offset) {
            Some(Place::Header { from, .. }) => offset.saturating_add(super::lime::HEADER.saturating_sub(from as u64)),
            Some(Place::Memory { at, left }) => offset.saturating_add(self.unit(at, left)),
            None => offset.saturating_add(PAGE),
        }
    }

    fn gap_list(&self) -> Option<&str> {
        Some(self.list)
    }

    fn facts_after(&mut self) -> BTreeMap<String, String> {
        let classes = Class::ALL.iter().zip(&self.pages).filter(|(_, n)| **n > 0);
        classes.map(|(class, pages)| (format!("pages.{}", class.name()), pages.to_string())).collect()
    }
}
