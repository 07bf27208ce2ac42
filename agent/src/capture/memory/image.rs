//! An image while it is read: a LiME file that is made of physical memory piece by piece, with a diary of when each piece was
//! read and what could not be.

use std::collections::BTreeMap;
use std::io;

use super::diary::{Diary, Piece, UNCERTAIN, ZEROED};
use super::flags::{Class, Flags};
use super::iomem::Iomem;
use super::lime::{Layout, Place};
use super::physical::Physical;
use super::ranges::{PAGE, Range};
use super::smear::Smear;
use super::tables::Tables;
use super::window::{Window, is_dangerous};
use crate::capture::Source;
use crate::clock;

/// Pieces of the address space whose times are kept: 32 bytes each.
const PIECES_MAX: u64 = 16_384;
/// Smallest piece.
const PIECE_BYTES_MIN: u64 = 4 << 20;

/// The kernel's own map does not have the page, so it answered with zeros.
const NOT_MAPPED: &str = "not-mapped";
const TABLES_UNREADABLE: &str = "zeros, and the kernel's page tables that say whether it maps the page could not be read";

/// The image as a source of the pipeline.
pub struct Image<'a> {
    physical: &'a dyn Physical,
    tables: Option<&'a Tables>,
    layout: &'a Layout,
    smear: &'a mut Smear,
    window: Window<'a>,
    withholds: bool,
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
    /// Poisoned and offline pages can be asked for; see [`super::window::withholds`].
    pub withholds: bool,
}

impl<'a> Image<'a> {
    /// An image of what `layout` holds; `list` is the item in which its diary will stand.
    pub fn new(from: &From<'a>, layout: &'a Layout, smear: &'a mut Smear, list: &'static str) -> Self {
        let ranges = layout.ranges();
        let span = ranges.last().map_or(0, |l| l.end).saturating_sub(ranges.first().map_or(0, |f| f.start));
        let piece_bytes = (span / PIECES_MAX).next_multiple_of(PIECE_BYTES_MIN).max(PIECE_BYTES_MIN);
        let (window, withholds) = (Window::new(from.flags, from.iomem), from.withholds);
        let (physical, tables, diary, pages) = (from.physical, from.tables, Diary::default(), [0; Class::ALL.len()]);
        let blank = Range { start: 0, end: 0 };
        Self { physical, tables, layout, smear, window, withholds, diary, piece_bytes, pages, blank, list }
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
        let error = match self.allowed(at, count, flag).and_then(|()| self.fetch(at, buf, page)) {
            Ok(0) => io::Error::other("the kernel gives nothing here"),
            Ok(got) => {
                let (why, got) = self.judge(at, buf.get(..got.min(buf.len())).unwrap_or_default(), flag);
                let end = at.saturating_add(got as u64);
                let Some(why) = why else {
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
            self.diary.gap(self.layout.ranges(), Range { start: at, end }, &error.to_string());
            self.leave(end);
        }
        Err(error)
    }

    /// Refuses pages that could stop the machine.
    fn allowed(&mut self, at: u64, count: u64, flag: Option<&'static str>) -> io::Result<()> {
        match flag.filter(|flag| !self.withholds && is_dangerous(flag)) {
            None => Ok(()),
            Some(flag) => {
                self.blank = Range { start: at, end: at.saturating_add(count) };
                Err(io::Error::other(format!("not read: {flag}, and this kernel or source is not known to spare such pages")))
            }
        }
    }

    /// Whether what was just read begins with zeros that the kernel gave instead of content, and why; and bytes of the pages from there
    /// on that are alike in this. What the flags call withheld may have come back since: each page is judged by itself.
    fn judge(&mut self, at: u64, bytes: &[u8], flag: Option<&'static str>) -> (Option<&'static str>, usize) {
        let (blank, alike) = flag.map_or((false, bytes.len()), |_| leading(at, bytes));
        if blank {
            return (flag, alike);
        }
        let bytes = bytes.get(..alike).unwrap_or(bytes);
        match self.turned(at, bytes) {
            (None, taken) => self.unmapped(at, bytes.get(..taken).unwrap_or(bytes)),
            turned => turned,
        }
    }

    /// The same by flags that came up between the look at them and the reading: they are looked at again after it, where there are
    /// zeros.
    fn turned(&mut self, at: u64, bytes: &[u8]) -> (Option<&'static str>, usize) {
        let before: usize = pages(at, bytes).take_while(|page| !is_blank(page)).map(<[u8]>::len).sum();
        if before == bytes.len() {
            return (None, before);
        }
        let frame = |offset: usize| at.saturating_add(offset as u64) / PAGE;
        let (first, last) = (frame(before), frame(bytes.len().saturating_sub(1)));
        self.window.look_again(first, last.saturating_sub(first).saturating_add(1));
        let (mut found, mut taken) = (None, 0_usize);
        for page in pages(at, bytes) {
            let flag = if is_blank(page) { self.window.withheld(frame(taken)) } else { None };
            if *found.get_or_insert(flag) != flag {
                break;
            }
            taken = taken.saturating_add(page.len());
        }
        (found.flatten(), taken)
    }

    /// The same by the kernel's page tables: it does not map the page. They are looked at after the reading, and for zeros only: they
    /// change.
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
                self.diary.gap(self.layout.ranges(), range, &format!("{UNCERTAIN}{TABLES_UNREADABLE}"));
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
