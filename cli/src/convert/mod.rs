//! Evidence in the formats that other programs read, made while it arrives: the stored bytes stay as they are, and the digest of the
//! manifest is checked over them as always. What is made gets its name only then.
//!
//! One file a target format. A format takes the content in order and writes wherever it likes in one file.

pub mod e01;
mod elf;
mod raw;

use exhibit_evidence::manifest::{Gap, Item, Kind};

use crate::exit::{Code, Failure, Result};
use crate::memory::PAGE_BYTES;
use crate::memory::lime::{self, HEADER_BYTES, Piece, Range};
use crate::units::show_bytes;

pub use elf::Companions;

/// A format that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// LiME version 1, as memory is stored: its bytes are the item's.
    Lime,
    /// An ELF core file, for drgn, crash and volatility3.
    Elf,
    /// A disk as an Expert Witness file (EnCase 6), for sleuthkit, libewf and EnCase. Only whole sectors of 512 bytes.
    E01,
    /// Every byte at the offset of its address; of a disk: its bytes are the item's.
    Raw,
}

impl Format {
    /// Whether such content has this format.
    pub const fn fits(self, content: Content) -> bool {
        matches!((self, content), (Self::Raw, _) | (Self::Lime | Self::Elf, Content::Memory) | (Self::E01, Content::Disk))
    }

    /// The word on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lime => "lime",
            Self::Elf => "elf",
            Self::E01 => "e01",
            Self::Raw => "raw",
        }
    }
}

/// What an item holds, as far as formats go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An image of memory, in LiME.
    Memory,
    /// The content of a disk.
    Disk,
}

impl Content {
    /// What an item holds; none when it has no other format.
    pub fn of(item: &Item) -> Option<Self> {
        if item.kind != Kind::File && item.kind != Kind::Record || item.location.is_none() {
            return None;
        }
        match item.capture.as_str() {
            "memory" if item.path.as_bytes().ends_with(b".lime") => Some(Self::Memory),
            // Tables and copies of sectors are records.
            "disk" if item.kind == Kind::File => Some(Self::Disk),
            _ => None,
        }
    }
}

/// A file that is being made: written anywhere, read back where something of it decides about the rest.
pub trait Output {
    /// Writes a piece.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Reads what was written; false where nothing was.
    fn read(&self, offset: u64, into: &mut [u8]) -> bool;
}

/// What was made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Bytes of the file; behind the last that was written stands a hole.
    pub size: u64,
    /// What its reader should know.
    pub notes: Vec<String>,
}

/// Makes a format out of content that arrives in order. Nothing is written for holes.
pub trait Conversion {
    /// Takes the next piece of the content; between the end of the one before and `offset` lies a hole.
    fn write(&mut self, offset: u64, bytes: &[u8], out: &mut dyn Output) -> Result<()>;

    /// Takes the end of content that has `size` bytes.
    fn end(&mut self, size: u64, out: &mut dyn Output) -> Result<Made>;
}

/// Bytes of an item that could not be read on the host: zeros in every format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// How many.
    pub bytes: u64,
    /// True when a manifest line could not hold all ranges: its last one then reaches to the end, and some of that was read.
    pub at_most: bool,
}

impl Unread {
    /// Those of an item, from its manifest line.
    pub fn of(item: &Item) -> Self {
        Self::among(&item.gaps, item.size)
    }

    /// Those in front of where an item was cut off: its last gap is what is behind.
    fn before(item: &Item, cut: u64) -> Self {
        Self::among(item.gaps.split_last().map_or(&[][..], |(_, before)| before), cut)
    }

    fn among(gaps: &[Gap], size: u64) -> Self {
        let bytes = gaps.iter().fold(0_u64, |sum, gap| sum.saturating_add(gap.length)).min(size);
        Self { bytes, at_most: gaps.iter().any(|gap| gap.reason.contains("or more unreadable ranges")) }
    }
}

/// Where an image was cut off: the collection was told to end (a deadline, a cancel) while it was read, and nothing of what is behind
/// was. By the words of the agent's pipeline (`agent/src/pipeline/content.rs`, `line.rs`).
pub fn cut_at(item: &Item) -> Option<u64> {
    let is_told_to_end = item.reason.as_deref().is_some_and(|reason| reason.contains("not read to the end: "));
    let rest = item.gaps.last().filter(|gap| gap.offset.saturating_add(gap.length) >= item.size)?;
    (is_told_to_end && rest.reason.starts_with("not read: ")).then_some(rest.offset)
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.at_most { "up to " } else { "" }, crate::units::show_bytes(self.bytes))
    }
}

/// What a format needs to know beside the content.
#[derive(Debug, Default)]
pub struct About {
    /// What stands beside an image of memory.
    pub companions: Companions,
    /// What an E01 file says of itself.
    pub media: e01::Media,
    /// What of the content is zeros that nobody read.
    pub unread: Unread,
    /// Where an image of memory was cut off: what is behind is left out.
    pub cut: Option<u64>,
}

impl About {
    /// The same of content that `item` has.
    pub fn of(item: &Item, content: Content, companions: Companions, media: e01::Media) -> Self {
        let cut = cut_at(item).filter(|_| content == Content::Memory);
        let unread = cut.map_or_else(|| Unread::of(item), |cut| Unread::before(item, cut));
        Self { companions, media, unread, cut }
    }
}

impl From<Companions> for About {
    fn from(companions: Companions) -> Self {
        Self { companions, ..Self::default() }
    }
}

/// Why an item cannot have a format, and the one to ask for instead, as far as that is clear before a byte of it arrives.
/// `cut_off`: of an image that was cut off what is there is wanted.
pub fn refusal(format: Format, content: Content, item: &Item, cut_off: bool) -> Option<String> {
    if content == Content::Memory
        && !cut_off
        && let Some(at) = cut_at(item)
    {
        let (at, size) = (show_bytes(at), show_bytes(item.size));
        return Some(format!("the image was cut off, {at} of its {size} were read; --cut-off makes a file of the memory that was"));
    }
    match (format, content) {
        (Format::E01, Content::Disk) => e01::refusal(item.size).map(|why| format!("{why}; --as raw writes it as it is")),
        (Format::Raw, Content::Memory) => raw::refusal(&item.facts).map(|why| format!("{why}; --as elf has no such limit")),
        _ => None,
    }
}

/// What makes a format of some content, and the name of the result.
///
/// # Errors
/// Content that has no such format.
pub fn conversion(format: Format, content: Content, name: &[u8], about: impl Into<About>) -> Result<(Box<dyn Conversion>, Vec<u8>)> {
    let About { companions, media, unread, cut } = about.into();
    let stem = name.strip_suffix(b".lime").unwrap_or(name);
    let named = |ending: &[u8]| [stem, ending].concat();
    match (format, content) {
        (Format::Lime, Content::Memory) => Ok((Box::new(Lime(Memory::new(cut))), name.to_vec())),
        (Format::Elf, Content::Memory) => Ok((Box::new(elf::Elf::new(Memory::new(cut), companions)), named(b".elf"))),
        (Format::Raw, Content::Memory) => Ok((Box::new(raw::Raw::new(Memory::new(cut), unread)), named(b".raw"))),
        (Format::Raw, Content::Disk) => Ok((Box::new(Same), name.to_vec())),
        (Format::E01, Content::Memory) => {
            Err(Failure::new(Code::Usage, "memory has no format 'e01'").hint("--as elf, or --as lime as it is stored"))
        }
        (Format::E01, Content::Disk) => Ok((Box::new(e01::E01::new(media)), [name, b".E01"].concat())),
        (Format::Lime | Format::Elf, Content::Disk) => {
            Err(Failure::new(Code::Usage, format!("a disk has no format '{}'", format.as_str())).hint("--as raw"))
        }
    }
}

/// Writes memory, but for pages of zeros: most of what is free is, and a hole reads the same.
fn sparsely(out: &mut dyn Output, mut at: u64, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let page = (PAGE_BYTES - at % PAGE_BYTES) as usize;
        let is_zero = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
        let first_zero = is_zero(bytes.get(..page).unwrap_or(bytes));
        // As many pages as are of one sort.
        let mut take = page.min(bytes.len());
        while take < bytes.len() {
            let next = bytes.get(take..).unwrap_or_default();
            let next = next.get(..PAGE_BYTES as usize).unwrap_or(next);
            if is_zero(next) != first_zero {
                break;
            }
            take += next.len();
        }
        let (now, rest) = bytes.split_at_checked(take).unwrap_or((bytes, &[]));
        if !first_zero {
            out.write(at, now)?;
        }
        at = at.saturating_add(take as u64);
        bytes = rest;
    }
    Ok(())
}

/// The content as it is.
struct Same;

impl Conversion for Same {
    fn write(&mut self, offset: u64, bytes: &[u8], out: &mut dyn Output) -> Result<()> {
        out.write(offset, bytes)
    }

    fn end(&mut self, size: u64, _: &mut dyn Output) -> Result<Made> {
        Ok(Made { size, notes: Vec::new() })
    }
}

/// LiME as it is; that it is such is checked. Of an image that was cut off the last header says what is there.
struct Lime(Memory);

impl Conversion for Lime {
    fn write(&mut self, offset: u64, bytes: &[u8], out: &mut dyn Output) -> Result<()> {
        out.write(offset, bytes)?;
        self.0.take(offset, bytes, |_, _| Ok(()))
    }

    fn end(&mut self, size: u64, out: &mut dyn Output) -> Result<Made> {
        /// Where a header has the last address.
        const LAST: u64 = 16;
        let ranges = self.0.end(size, |_, _| Ok(()))?;
        let notes = self.0.notes(&ranges, size);
        let (Some(last), Some(_)) = (ranges.last(), self.0.cut) else { return Ok(Made { size, notes }) };
        let header = HEADER_BYTES as u64;
        let made = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(header).saturating_add(range.len));
        out.write(made - last.len - header + LAST, &(last.end() - 1).to_le_bytes())?;
        Ok(Made { size: made, notes })
    }
}

/// An image of memory that arrives: pieces of ranges come out. A hole in the content is zeros of memory.
#[derive(Debug, Default)]
struct Memory {
    parser: lime::Parser,
    next: u64,
    /// From here on nothing of the content was read: what stands there is no memory, and no header either.
    cut: Option<u64>,
}

/// Zeros that stand for a hole.
static ZEROS: [u8; 65_536] = [0; 65_536];

impl Memory {
    /// One of which nothing arrived yet.
    fn new(cut: Option<u64>) -> Self {
        Self { cut, ..Self::default() }
    }

    /// Hands on the pieces; true stands for one of zeros, which need not be written.
    fn take(&mut self, offset: u64, bytes: &[u8], mut to: impl FnMut(Piece<'_>, bool) -> Result<()>) -> Result<()> {
        let end = self.cut.unwrap_or(u64::MAX);
        let room = end.saturating_sub(offset).min(bytes.len() as u64) as usize;
        let (offset, bytes) = (offset.min(end), bytes.get(..room).unwrap_or_default());
        while self.next < offset {
            let zeros = ZEROS.get(..(offset - self.next).min(ZEROS.len() as u64) as usize).unwrap_or_default();
            self.next = self.next.saturating_add(zeros.len() as u64);
            self.feed(zeros, true, &mut to)?;
        }
        self.next = offset.saturating_add(bytes.len() as u64);
        self.feed(bytes, false, &mut to)
    }

    fn feed(&mut self, mut bytes: &[u8], zeros: bool, to: &mut impl FnMut(Piece<'_>, bool) -> Result<()>) -> Result<()> {
        while !bytes.is_empty() {
            if let Some(piece) = self.parser.next(&mut bytes)? {
                to(piece, zeros)?;
            }
        }
        Ok(())
    }

    /// The ranges, once the content ended after `size` bytes.
    fn end(&mut self, size: u64, to: impl FnMut(Piece<'_>, bool) -> Result<()>) -> Result<Vec<Range>> {
        self.take(size, &[], to)?;
        let parser = std::mem::take(&mut self.parser);
        Ok(if self.cut.is_some() { parser.finish_cut()? } else { parser.finish()? })
    }

    /// What the reader of a file has to know that was made of so many ranges of an image of `size` bytes.
    fn notes(&self, ranges: &[Range], size: u64) -> Vec<String> {
        let cut = self.cut.zip(ranges.last()).map(|(cut, last)| {
            let (memory, end) = (ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.len)), last.end());
            let (read, size, memory) = (show_bytes(cut), show_bytes(size), show_bytes(memory));
            format!(
                "the image was cut off: {read} of its {size} were read, and only the {memory} of memory below {end:#x} that they hold are in this file"
            )
        });
        cut.into_iter().collect()
    }
}

#[cfg(test)]
pub mod tests;
