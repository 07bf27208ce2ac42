//! Writing a disk image as EWF-E01, as EnCase 6 does (*Expert Witness Compression Format specification*, J. Metz, libewf; the
//! layout was compared with what ewfacquirestream writes). One file, whatever its size: tables carry a base offset. EWF counts whole sectors,
//! so an image that is no whole number of 512 bytes is refused rather than padded.

use std::io::{self, Write as _};

use exhibit_evidence::Timestamp;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use md5::{Digest as _, Md5};
use sha1::Sha1;

use super::{Conversion, Made, Output};
use crate::exit::Result;

/// EWF's sectors, unless the disk has larger ones: whoever reads partition tables counts in the disk's.
pub const SECTOR_BYTES: u64 = 512;
/// A chunk is compressed by itself; the last one may be shorter.
const CHUNK_BYTES: usize = 32 << 10;
/// Chunks of one table: the limit of EnCase 1 to 6.
const TABLE_ENTRIES_MAX: usize = 16_375;
/// The bit of a table's entry that says that the chunk is compressed.
const COMPRESSED: u32 = 1 << 31;
const DESCRIPTOR_BYTES: u64 = 76;
const SIGNATURE: &[u8] = b"EVF\x09\x0d\x0a\xff\x00";
/// A chunk of zeros: most of a hole.
static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];
/// Written to the file at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Longest text of one field; EnCase takes fewer than 3,000 characters.
const FIELD_CHARS_MAX: usize = 2_900;

/// What stands in the file's header, in words of ours; anything is escaped to one line.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// The case.
    pub case_number: String,
    /// The exhibit.
    pub evidence_number: String,
    /// What it is.
    pub description: String,
    /// Who makes this copy.
    pub examiner: String,
    /// Digest of the exhibit, where it was, what to know.
    pub notes: String,
    /// When it was taken, by the host's clock.
    pub acquired: Option<Timestamp>,
    /// When this copy is made.
    pub now: Option<Timestamp>,
    /// It is a whole disk and not a partition or volume.
    pub physical: bool,
}

/// Why a size cannot be written as E01.
#[must_use]
pub fn refusal(size: u64) -> Option<String> {
    if size == 0 {
        return Some("it is empty: an E01 file has at least one sector".to_owned());
    }
    if !size.is_multiple_of(SECTOR_BYTES) {
        return Some(format!(
            "{size} bytes are not a multiple of {SECTOR_BYTES}: E01 counts whole sectors, and {} bytes would be lost or made up at its end",
            size % SECTOR_BYTES
        ));
    }
    let chunks = size.div_ceil(CHUNK_BYTES as u64);
    u32::try_from(chunks).is_err().then(|| format!("{chunks} chunks of {CHUNK_BYTES} bytes are more than an E01 file can number"))
}

/// What a file is made of.
#[derive(Debug, Clone, Default)]
pub struct Media {
    /// Bytes, which [`refusal`] has nothing against.
    pub size: u64,
    /// Bytes of a sector of the disk, where it is known.
    pub sector: Option<u64>,
    /// What it says of itself.
    pub what: Description,
    /// A random number that names the file.
    pub set: [u8; 16],
    /// Ranges that could not be read, as offset and length in bytes.
    pub bad: Vec<(u64, u64)>,
}

impl Media {
    /// Bytes of the sectors in which the file counts. What is said of the disk comes from its host.
    fn sector(&self) -> u64 {
        let fits = |n: &u64| n.is_power_of_two() && (SECTOR_BYTES..=CHUNK_BYTES as u64).contains(n) && self.size.is_multiple_of(*n);
        self.sector.filter(fits).unwrap_or(SECTOR_BYTES)
    }
}

/// The conversion.
pub struct E01 {
    media: Media,
    writer: Option<Writer>,
}

impl E01 {
    /// Nothing is written yet.
    pub const fn new(media: Media) -> Self {
        Self { media, writer: None }
    }

    fn begun(&mut self, out: &mut dyn Output) -> Result<Writer> {
        self.writer.take().map_or_else(|| Writer::new(&self.media, out), Ok)
    }
}

impl Conversion for E01 {
    fn write(&mut self, offset: u64, bytes: &[u8], out: &mut dyn Output) -> Result<()> {
        let mut writer = self.begun(out)?;
        writer.write(offset, bytes, out)?;
        self.writer = Some(writer);
        Ok(())
    }

    fn end(&mut self, _: u64, out: &mut dyn Output) -> Result<Made> {
        let (listed, beyond) = errors(&self.media.bad, self.media.sector());
        let size = self.begun(out)?.finish(listed.as_deref(), out)?;
        let mut notes = Vec::new();
        if listed.is_some() {
            notes.push("sectors that could not be read are zeros; the file lists them".to_owned());
        }
        if beyond > 0 {
            notes.push(format!(
                "{beyond} unreadable ranges lie beyond 2 TiB, where the format cannot list them: they are zeros, and gaps of the item"
            ));
        }
        Ok(Made { size, notes })
    }
}

/// A file in the making. Bytes come in order; what is skipped is zeros.
struct Writer {
    size: u64,
    volume: Vec<u8>,
    /// Bytes that are not in the file yet, and where they belong.
    buffer: Vec<u8>,
    buffered_at: u64,
    /// The chunk that is being filled.
    chunk: Vec<u8>,
    /// A whole chunk of zeros, compressed.
    zeros: Vec<u8>,
    /// Where the current `sectors` section begins, and its chunks.
    section_at: u64,
    entries: Vec<u32>,
    read: u64,
    md5: Md5,
    sha1: Sha1,
}

impl Writer {
    /// Begins a file.
    fn new(media: &Media, out: &mut dyn Output) -> Result<Self> {
        let Media { size, what, set, .. } = media;
        let (size, volume) = (*size, volume(*size, media.sector(), what.physical, *set));
        let mut writer = Self {
            size,
            buffer: Vec::with_capacity(BUFFER_BYTES + CHUNK_BYTES * 2),
            buffered_at: 0,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            zeros: deflate(&ZEROS),
            section_at: 0,
            entries: Vec::new(),
            read: 0,
            md5: Md5::new(),
            sha1: Sha1::new(),
            volume,
        };
        writer.append(SIGNATURE, out)?;
        // Segment 1 of 1.
        writer.append(&[1, 1, 0, 0, 0], out)?;
        let header2 = deflate(&header2(what));
        writer.section(b"header2", &header2, out)?;
        writer.section(b"header2", &header2, out)?;
        writer.section(b"header", &deflate(header(what).as_bytes()), out)?;
        let volume = writer.volume.clone();
        writer.section(b"volume", &volume, out)?;
        Ok(writer)
    }

    /// Takes bytes at an offset, which is never before what came.
    fn write(&mut self, offset: u64, mut bytes: &[u8], out: &mut dyn Output) -> Result<()> {
        self.zeros_to(offset, out)?;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            self.read += now.len() as u64;
            bytes = rest;
            if self.chunk.len() == CHUNK_BYTES {
                self.end_chunk(out)?;
            }
        }
        Ok(())
    }

    fn zeros_to(&mut self, offset: u64, out: &mut dyn Output) -> Result<()> {
        while self.read < offset {
            // Neither made nor looked at, only counted and hashed: a hole may be as large as the disk.
            if self.chunk.is_empty() && offset - self.read >= CHUNK_BYTES as u64 {
                self.read += CHUNK_BYTES as u64;
                self.zero_chunk(out)?;
                continue;
            }
            let count = (offset - self.read).min((CHUNK_BYTES - self.chunk.len()) as u64);
            self.chunk.resize(self.chunk.len() + count as usize, 0);
            self.read += count;
            if self.chunk.len() == CHUNK_BYTES {
                self.end_chunk(out)?;
            }
        }
        Ok(())
    }

    /// Ends the file; `errors` is the body of the section that lists what could not be read.
    fn finish(mut self, errors: Option<&[u8]>, out: &mut dyn Output) -> Result<u64> {
        let size = self.size;
        self.zeros_to(size, out)?;
        if !self.chunk.is_empty() {
            self.end_chunk(out)?;
        }
        if !self.entries.is_empty() {
            self.end_table(out)?;
        }
        let volume = std::mem::take(&mut self.volume);
        self.section(b"data", &volume, out)?;
        if let Some(errors) = errors {
            self.section(b"error2", errors, out)?;
        }
        let (md5, sha1) = (std::mem::take(&mut self.md5).finalize(), std::mem::take(&mut self.sha1).finalize());
        let mut digest = [md5.as_slice(), sha1.as_slice(), &[0; 40]].concat();
        seal(&mut digest);
        self.section(b"digest", &digest, out)?;
        let mut hash = [md5.as_slice(), &[0; 16]].concat();
        seal(&mut hash);
        self.section(b"hash", &hash, out)?;
        // The last section points at itself and has no size.
        let at = self.at();
        self.append(&descriptor(b"done", at, 0), out)?;
        self.flush(out)?;
        Ok(self.at())
    }

    /// Where the next byte comes.
    const fn at(&self) -> u64 {
        self.buffered_at + self.buffer.len() as u64
    }

    fn append(&mut self, bytes: &[u8], out: &mut dyn Output) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.flush(out) } else { Ok(()) }
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<()> {
        out.write(self.buffered_at, &self.buffer)?;
        self.buffered_at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn section(&mut self, name: &[u8], body: &[u8], out: &mut dyn Output) -> Result<()> {
        let size = DESCRIPTOR_BYTES + body.len() as u64;
        let next = self.at() + size;
        self.append(&descriptor(name, next, size), out)?;
        self.append(body, out)
    }

    /// Where the next chunk lies in its section, which is begun if it is the first.
    fn place(&mut self, out: &mut dyn Output) -> Result<u32> {
        if self.entries.is_empty() {
            self.section_at = self.at();
            // Size and next are written when they are known.
            self.append(&descriptor(b"sectors", 0, 0), out)?;
        }
        // A table's chunks are at most 512 MiB, so this fits 31 bits.
        Ok((self.at() - self.section_at) as u32)
    }

    /// A whole chunk of zeros.
    fn zero_chunk(&mut self, out: &mut dyn Output) -> Result<()> {
        let offset = self.place(out)?;
        self.md5.update(ZEROS.as_slice());
        self.sha1.update(ZEROS.as_slice());
        self.entries.push(offset | COMPRESSED);
        let zeros = std::mem::take(&mut self.zeros);
        self.append(&zeros, out)?;
        self.zeros = zeros;
        self.end_full_table(out)
    }

    fn end_chunk(&mut self, out: &mut dyn Output) -> Result<()> {
        if self.chunk == ZEROS {
            self.chunk.clear();
            return self.zero_chunk(out);
        }
        let offset = self.place(out)?;
        let chunk = std::mem::take(&mut self.chunk);
        self.md5.update(&chunk);
        self.sha1.update(&chunk);
        let packed = deflate(&chunk);
        if packed.len() < chunk.len() {
            self.entries.push(offset | COMPRESSED);
            self.append(&packed, out)?;
        } else {
            self.entries.push(offset);
            self.append(&chunk, out)?;
            self.append(&adler32(&chunk).to_le_bytes(), out)?;
        }
        self.chunk = chunk;
        self.chunk.clear();
        self.end_full_table(out)
    }

    fn end_full_table(&mut self, out: &mut dyn Output) -> Result<()> {
        if self.entries.len() >= TABLE_ENTRIES_MAX { self.end_table(out) } else { Ok(()) }
    }

    /// Ends a section of chunks and writes its table, twice.
    fn end_table(&mut self, out: &mut dyn Output) -> Result<()> {
        let end = self.at();
        self.flush(out)?;
        out.write(self.section_at, &descriptor(b"sectors", end, end - self.section_at))?;
        let entries = std::mem::take(&mut self.entries);
        let mut body = (entries.len() as u32).to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(&self.section_at.to_le_bytes());
        body.extend_from_slice(&[0; 4]);
        seal(&mut body);
        let mut offsets: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
        seal(&mut offsets);
        body.extend_from_slice(&offsets);
        self.section(b"table", &body, out)?;
        self.section(b"table2", &body, out)
    }
}

/// Name, next section, size, checksum.
fn descriptor(name: &[u8], next: u64, size: u64) -> Vec<u8> {
    let mut bytes = name.to_vec();
    bytes.resize(16, 0);
    bytes.extend_from_slice(&next.to_le_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.resize(72, 0);
    seal(&mut bytes);
    bytes
}

/// Appends the checksum of everything before.
fn seal(bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&adler32(bytes).to_le_bytes());
}

fn volume(size: u64, sector: u64, physical: bool, set: [u8; 16]) -> Vec<u8> {
    const PHYSICAL: u8 = 0x02;
    const IMAGE: u8 = 0x01;
    const FIXED: u8 = 0x01;
    let mut body = vec![0; 1048];
    let mut put = |at: usize, bytes: &[u8]| body[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[FIXED]);
    put(4, &(size.div_ceil(CHUNK_BYTES as u64) as u32).to_le_bytes());
    put(8, &(CHUNK_BYTES as u32 / sector as u32).to_le_bytes());
    put(12, &(sector as u32).to_le_bytes());
    put(16, &(size / sector).to_le_bytes());
    put(36, &[IMAGE | if physical { PHYSICAL } else { 0 }]);
    // Compression "fast"; errors are known to the sector.
    put(52, &[1]);
    put(56, &1_u32.to_le_bytes());
    put(64, &set);
    seal(&mut body);
    body
}

/// Ranges of sectors that could not be read, and how many of them do not stand in it: the section numbers sectors with 32 bits.
fn errors(bad: &[(u64, u64)], sector: u64) -> (Option<Vec<u8>>, usize) {
    let sectors = |(offset, length): &(u64, u64)| {
        let first = offset / sector;
        let count = (offset + length).div_ceil(sector) - first;
        Some([u32::try_from(first).ok()?.to_le_bytes(), u32::try_from(count).ok()?.to_le_bytes()].concat())
    };
    let ranges: Vec<Vec<u8>> = bad.iter().filter_map(sectors).collect();
    let beyond = bad.len().saturating_sub(ranges.len());
    if ranges.is_empty() {
        return (None, beyond);
    }
    let mut body = (ranges.len() as u32).to_le_bytes().to_vec();
    body.resize(516, 0);
    seal(&mut body);
    let mut entries = ranges.concat();
    seal(&mut entries);
    body.extend_from_slice(&entries);
    (Some(body), beyond)
}

/// Text for a field: one line without tabs, which separate fields.
fn field(text: &str) -> String {
    exhibit_evidence::text::one_line(&exhibit_evidence::text::escape(text), FIELD_CHARS_MAX)
}

const PROGRAM: &str = "exhibit";

fn fields(what: &Description) -> [String; 5] {
    [&what.description, &what.case_number, &what.evidence_number, &what.examiner, &what.notes].map(|t| field(t))
}

/// The header of EnCase 5 to 7: UTF-16, times in seconds.
fn header2(what: &Description) -> Vec<u8> {
    let [description, case, evidence, examiner, notes] = fields(what);
    let seconds = |t: Option<Timestamp>| t.map_or(String::new(), |t| (t.unix_ns() / 1_000_000_000).to_string());
    let (acquired, now) = (seconds(what.acquired), seconds(what.now));
    let text = format!(
        "3\nmain\na\tc\tn\te\tt\tmd\tsn\tav\tov\tm\tu\tp\tdc\n\
         {description}\t{case}\t{evidence}\t{examiner}\t{notes}\t\t\t{PROGRAM}\tLinux\t{acquired}\t{now}\t0\t\n\n\
         srce\n0\t1\np\tn\tid\tev\ttb\tlo\tpo\tah\tgu\taq\n0\t0\n\t\t\t\t\t-1\t-1\t\t\t\n\n\
         sub\n0\t1\np\tn\tid\tnu\tco\tgu\n0\t0\n\t\t\t\t1\t\n\n"
    );
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

/// The header of EnCase 4 and older, ASCII: what is beyond shows as a question mark, and stands whole in the other one.
fn header(what: &Description) -> String {
    let [description, case, evidence, examiner, notes] =
        fields(what).map(|t| t.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect::<String>());
    let (acquired, now) = (calendar(what.acquired), calendar(what.now));
    format!(
        "1\r\nmain\r\nc\tn\ta\te\tt\tav\tov\tm\tu\tp\r\n\
         {case}\t{evidence}\t{description}\t{examiner}\t{notes}\t{PROGRAM}\tLinux\t{acquired}\t{now}\t0\r\n\r\n"
    )
}

/// `2026 11 27 3 45 57`, UTC.
fn calendar(time: Option<Timestamp>) -> String {
    let Some(time) = time else { return String::new() };
    let text = time.to_string();
    let parts = text.split(['-', 'T', ':', '.']).take(6).map(|p| p.trim_start_matches('0'));
    parts.map(|p| if p.is_empty() { "0" } else { p }).collect::<Vec<_>>().join(" ")
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(bytes.len() / 2), Compression::fast());
    // Writing into memory cannot fail.
    let done: io::Result<Vec<u8>> = encoder.write_all(bytes).and_then(|()| encoder.finish());
    done.unwrap_or_default()
}

/// RFC 1950, section 8.2.
fn adler32(bytes: &[u8]) -> u32 {
    const MODULUS: u32 = 65_521;
    /// Most bytes after which neither sum can have overflowed.
    const RUN: usize = 5_552;
    let (mut a, mut b) = (1_u32, 0_u32);
    for run in bytes.chunks(RUN) {
        for byte in run {
            a += u32::from(*byte);
            b += a;
        }
        (a, b) = (a % MODULUS, b % MODULUS);
    }
    (b << 16) | a
}

#[cfg(test)]
#[path = "e01_tests.rs"]
mod tests;
