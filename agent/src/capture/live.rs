//! What the captures of live state (`system`, `process`, `network`) share: bytes in JSON without loss, reads that keep
//! what they got, and the small grammar of `/proc` texts.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use serde::{Serialize, Serializer};

use super::{Content, EvidencePath, Kind, Moment, NewItem, Output, Status, Stop, evidence_path, status_of};

/// Bound for a pseudo file whose size grows with the host (maps, tables of sockets).
pub const LARGE_BYTES_MAX: usize = 16 << 20;
/// Bound for a pseudo file of a few lines.
pub const SMALL_BYTES_MAX: usize = 1 << 20;
/// First size of a read buffer: most pseudo files are smaller than a page.
const READ_BYTES: usize = 8 << 10;
/// Largest single read.
const READ_BYTES_MAX: usize = 256 << 10;

/// Bytes in JSON without loss: a string when they are UTF-8, else `{"b64": ..., "shown": ...}` as in evidence paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lossless(pub Vec<u8>);

impl Serialize for Lossless {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return s.serialize_str(text);
        }
        let mut map = s.serialize_map(Some(2))?;
        map.serialize_entry("b64", &STANDARD.encode(&self.0))?;
        map.serialize_entry("shown", &exhibit_evidence::text::escape_bytes(&self.0))?;
        map.end()
    }
}

impl From<&[u8]> for Lossless {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// What one read of a pseudo file gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The bytes, at most as many as were allowed.
    pub bytes: Vec<u8>,
    /// Why it ended before the file did, if it did: the bound, or an error in the middle.
    pub cut: Option<String>,
}

impl Read {
    /// The bytes without trailing newlines and blanks.
    #[must_use]
    pub fn trimmed(&self) -> &[u8] {
        self.bytes.trim_ascii_end()
    }
}

/// Opens for reading below `dir`, so that neither a fifo, a terminal nor a link planted as last component can hold or
/// mislead the agent.
pub fn open_at(dir: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, path, flags, Mode::empty())
}

/// Reads at most `bytes_max` bytes of an open file. An error after the first byte keeps what came before it.
pub fn read_fd(file: impl AsFd, bytes_max: usize) -> Result<Read, Errno> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut filled = 0_usize;
    let mut cut = None;
    loop {
        // One byte above the bound is asked for, so that "exactly full" and "more" can be told apart.
        let room = bytes_max.saturating_add(1).saturating_sub(filled);
        let step = filled.clamp(READ_BYTES, READ_BYTES_MAX).min(room);
        bytes.resize(filled.saturating_add(step), 0);
        match rustix::io::read(&file, bytes.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(n) => filled = filled.saturating_add(n),
            Err(Errno::INTR) => {}
            Err(e) if filled == 0 => return Err(e),
            Err(e) => {
                cut = Some(format!("reading stopped after {filled} bytes: {e}"));
                break;
            }
        }
        if filled > bytes_max {
            filled = bytes_max;
            cut = Some(format!("longer than {bytes_max} bytes: cut there"));
            break;
        }
    }
    bytes.truncate(filled);
    bytes.shrink_to_fit();
    Ok(Read { bytes, cut })
}

/// [`open_at`] and [`read_fd`].
pub fn read_at(dir: impl AsFd, path: impl rustix::path::Arg, bytes_max: usize) -> Result<Read, Errno> {
    read_fd(open_at(dir, path)?, bytes_max)
}

/// Reads an absolute path.
pub fn read(path: &str, bytes_max: usize) -> Result<Read, Errno> {
    read_at(rustix::fs::CWD, path, bytes_max)
}

/// The trimmed content of a small pseudo file, if it can be had.
#[must_use]
pub fn text(path: &str) -> Option<Lossless> {
    read(path, SMALL_BYTES_MAX).ok().map(|r| Lossless(r.trimmed().to_vec()))
}

/// A problem with one field of a row, so that an absent value is never silent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Which file or call.
    pub what: String,
    /// As in items.
    pub status: Status,
    /// The kernel's words.
    pub reason: String,
}

impl Problem {
    /// From an error of the kernel.
    #[must_use]
    pub fn new(what: impl Into<String>, error: Errno) -> Self {
        let (status, reason) = refusal(error);
        Self { what: what.into(), status, reason }
    }
}

/// [`status_of`] for rustix errors.
#[must_use]
pub fn refusal(error: Errno) -> (Status, String) {
    // Only what is opened below a folder of processes asks the kernel not to cross a mount.
    if error == Errno::XDEV {
        return (Status::Error, "something is mounted over it: what is read there is not the process".to_owned());
    }
    status_of(&error.into())
}

/// Puts a thing that could not be taken, by record.
pub fn put_absent(
    out: &mut dyn Output,
    at: EvidencePath,
    status: Status,
    reason: impl Into<String>,
    started: Moment,
    method: &'static str,
) -> Result<(), Stop> {
    out.put(NewItem::new(at, Kind::Unknown, started, method).with_status(status, reason), Content::None).map(drop)
}

/// Puts what a read gave: the bytes (`collected`, or `partial` when cut), or the refusal.
pub fn put_read(
    out: &mut dyn Output,
    at: EvidencePath,
    result: &Result<Read, Errno>,
    started: Moment,
    facts: BTreeMap<String, String>,
) -> Result<(), Stop> {
    match result {
        Ok(read) => {
            let mut item = NewItem::new(at, Kind::File, started, "read");
            if let Some(cut) = &read.cut {
                item = item.with_status(Status::Partial, cut);
            }
            item.facts = facts;
            out.put(item, Content::Bytes(&read.bytes)).map(drop)
        }
        Err(e) => {
            let (status, reason) = refusal(*e);
            let mut item = NewItem::new(at, Kind::Unknown, started, "read").with_status(status, reason);
            item.facts = facts;
            out.put(item, Content::None).map(drop)
        }
    }
}

/// Reads an absolute path, puts it as an item of that path and hands the bytes back (empty when refused).
pub fn take(out: &mut dyn Output, at: &str, bytes_max: usize) -> Result<Vec<u8>, Stop> {
    let started = out.now();
    let result = read(at, bytes_max);
    put_read(out, evidence_path(at), &result, started, BTreeMap::new())?;
    Ok(result.map(|r| r.bytes).unwrap_or_default())
}

/// Puts a made record of one JSON value.
pub fn put_json(out: &mut dyn Output, name: &str, value: &impl Serialize, started: Moment, method: &'static str) -> Result<(), Stop> {
    let mut bytes = serde_json::to_vec(value).map_err(|e| Stop::Fatal(format!("making the record {name}: {e}")))?;
    bytes.push(b'\n');
    out.put(NewItem::record(name, started, method), Content::Bytes(&bytes)).map(drop)
}

/// Names in a directory, at most `names_max`, sorted; the flag says that there were more.
pub fn names(dir: impl AsFd, names_max: usize) -> Result<(Vec<Vec<u8>>, bool), Errno> {
    let mut found = Vec::new();
    let mut more = false;
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if found.len() >= names_max {
            more = true;
            break;
        }
        found.push(name.to_vec());
    }
    found.sort_unstable();
    Ok((found, more))
}

/// The numeric names in a directory, sorted: processes, threads, descriptors.
pub fn numbers(dir: impl AsFd, names_max: usize) -> Result<(Vec<u32>, bool), Errno> {
    let mut found = Vec::new();
    let mut more = false;
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let Some(n) = number::<u32>(entry.file_name().to_bytes()) else { continue };
        if found.len() >= names_max {
            more = true;
            break;
        }
        found.push(n);
    }
    found.sort_unstable();
    Ok((found, more))
}

/// Opens a directory for listing, without following a link in the last component.
pub fn open_dir(dir: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(dir, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Where a symbolic link points, as bytes.
pub fn link(dir: impl AsFd, path: impl rustix::path::Arg) -> Result<Vec<u8>, Errno> {
    rustix::fs::readlinkat(dir, path, Vec::new()).map(std::ffi::CString::into_bytes)
}

/// A number in text, as /proc writes it.
pub fn number<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes.trim_ascii()).ok()?.parse().ok()
}

/// A hexadecimal number without prefix.
#[must_use]
pub fn hex(bytes: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(bytes.trim_ascii()).ok()?, 16).ok()
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// The words of a line.
pub fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty())
}

/// The lines of a text, without their ends, without empty ones.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').filter(|l| !l.is_empty())
}

/// Splits at the first occurrence of a byte.
#[must_use]
pub fn split_at_byte(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let i = bytes.iter().position(|b| *b == at)?;
    Some((bytes.get(..i)?, bytes.get(i.checked_add(1)?..)?))
}
