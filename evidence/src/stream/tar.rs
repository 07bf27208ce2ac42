//! Writing the raw stream: POSIX pax tar, one fixed form per member.
//!
//! There is exactly one way to write a given member, so that the reader can refuse every other one: which facts go into
//! the ustar block and which into pax records, and in what order, follows from the facts alone.

use std::collections::BTreeMap;

use super::pax::{push_record, xattr_key};
use super::ustar::{BLOCK, Fields, OCTAL_7_MAX, OCTAL_11_MAX, flag};
use crate::path::EvidencePath;
use crate::time::FileTime;

/// What ends a stream: two blocks of zeros. Nothing follows.
pub const END_MARKER: [u8; 1024] = [0; 1024];

/// The longest member name: a path and the name of its capture.
pub const NAME_BYTES_MAX: usize = EvidencePath::BYTES_MAX + 64;

/// The longest symlink target. (A hard link's target is a member name.)
pub const TARGET_BYTES_MAX: usize = EvidencePath::BYTES_MAX;

/// The most bytes of one member's pax records. Holds a name, a target and the extended attributes of any ordinary inode.
pub const PAX_BYTES_MAX: usize = 1 << 20;

/// The most data ranges of a sparse file; [`tidy_extents`] gets below it by storing small holes as zeros.
pub const EXTENTS_MAX: usize = 16_384;

/// The largest logical size of a file: 1 PiB.
pub const SIZE_MAX: u64 = 1 << 50;

/// The most bytes in the name of an extended attribute: 255 (`XATTR_NAME_MAX` of Linux), of which each may be escaped as
/// `\\xNN`, with some room.
pub const XATTR_NAME_BYTES_MAX: usize = 1_024;

/// A member to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// Member name: relative, `/`-separated, no component empty, `.` or `..`. A directory's may end in one slash.
    pub name: &'a [u8],
    /// What it is.
    pub kind: HeadKind<'a>,
    /// Permission bits with set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of content.
    pub mtime: Option<FileTime>,
    /// Last access.
    pub atime: Option<FileTime>,
    /// Last change of the inode.
    pub ctime: Option<FileTime>,
    /// Extended attributes: name to value.
    pub xattrs: &'a BTreeMap<String, Vec<u8>>,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind<'a> {
    /// A file whose bytes all follow.
    File {
        /// Bytes that follow.
        size: u64,
    },
    /// A file with holes: only the data ranges follow.
    Sparse {
        /// Logical size, holes included.
        size: u64,
        /// The data ranges: sorted, not empty, not overlapping, within `size`, on block boundaries (the last may end at
        /// `size`), at most [`EXTENTS_MAX`]. [`tidy_extents`] makes such.
        extents: &'a [Extent],
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points, as it is.
        target: &'a [u8],
    },
    /// Another name of a file that is already in the stream.
    Hardlink {
        /// The member name of that file.
        target: &'a [u8],
    },
}

/// A data range of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// Offset in the logical file.
    pub offset: u64,
    /// Length in bytes, not 0.
    pub length: u64,
}

impl Extent {
    /// The first byte after the range, saturating.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// Why a member cannot be written, or is refused by the reader.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// The name is not a clean relative path.
    #[error(
        "member name '{0}': expected a relative path of 1 to {NAME_BYTES_MAX} bytes without NUL and without empty, '.' or '..' components"
    )]
    Name(String),
    /// The link's target is unusable.
    #[error("link target '{0}': expected 1 to {TARGET_BYTES_MAX} bytes without NUL; a hard link names a member")]
    Target(String),
    /// Bits outside 0o7777.
    #[error("mode {0:o}: expected permission bits only, at most 7777")]
    Mode(u32),
    /// A time with a second's worth of nanoseconds, or outside what the text form holds.
    #[error("{0} is not a valid time: nanoseconds below 1,000,000,000 and seconds that fit 64 bits are expected")]
    Time(&'static str),
    /// The size is out of bounds.
    #[error("a file of {0} bytes: at most {SIZE_MAX} are allowed")]
    Size(u64),
    /// The data ranges are not sorted, overlap, are empty, leave the file or are not on block boundaries.
    #[error("data range {index} of a sparse file is empty, out of order, overlapping, beyond the file's end or not on multiples of 512")]
    Extents {
        /// Which one, from 0.
        index: usize,
    },
    /// Too many data ranges.
    #[error("a sparse file with {0} data ranges: at most {EXTENTS_MAX} are allowed; merge the nearest ones")]
    TooManyExtents(usize),
    /// An extended attribute's name is unusable.
    #[error("extended attribute '{0}': expected a name of 1 to {XATTR_NAME_BYTES_MAX} bytes without NUL")]
    XattrName(String),
    /// Names and attributes are too much together.
    #[error("names and extended attributes of {0} bytes: at most {PAX_BYTES_MAX} are allowed for one member")]
    PaxTooLarge(usize),
}

/// Appends the member's headers to `out`, with the sparse map where there is one. Returns how many bytes of data must
/// follow; after them come [`padding`] zeros.
///
/// # Errors
/// When a fact is outside the format's bounds; `out` is then as it was.
pub fn encode(head: &Head<'_>, out: &mut Vec<u8>) -> Result<u64, BadHead> {
    check(head)?;
    let map = match head.kind {
        HeadKind::Sparse { size, extents } => sparse_map(size, extents),
        _ => Vec::new(),
    };
    let data = match head.kind {
        HeadKind::File { size } => size,
        HeadKind::Sparse { extents, .. } => extents.iter().map(|e| e.length).fold(0, u64::saturating_add),
        _ => 0,
    };
    let stored = data.saturating_add(map.len() as u64);
    let mut records = Vec::with_capacity(256);
    push_records(head, stored, &mut records);
    if records.len() > PAX_BYTES_MAX {
        return Err(BadHead::PaxTooLarge(records.len()));
    }
    if !records.is_empty() {
        let size = records.len() as u64;
        let fields = Fields { name: PAX_NAME, mode: 0o644, uid: 0, gid: 0, size, mtime: 0, flag: flag::PAX, link: b"" };
        out.extend_from_slice(&fields.to_block());
        out.extend_from_slice(&records);
        out.resize(out.len().saturating_add(padding(size)), 0);
    }
    out.extend_from_slice(&main_block(head, stored));
    out.extend_from_slice(&map);
    Ok(data)
}

/// Zeros that follow this many bytes of data (the sparse map may be counted in or not: it fills whole blocks).
#[must_use]
pub const fn padding(data_bytes: u64) -> usize {
    ((BLOCK as u64 - data_bytes % BLOCK as u64) % BLOCK as u64) as usize
}

/// Makes data ranges as some file system gave them into what [`encode`] accepts: within `size`, widened to blocks, sorted,
/// merged where they touch or overlap, and no more than [`EXTENTS_MAX`], for which the smallest holes become data (they read as
/// zeros, so the content stays the same).
#[must_use]
pub fn tidy_extents(mut extents: Vec<Extent>, size: u64) -> Vec<Extent> {
    extents.sort_unstable();
    let mut tidy: Vec<Extent> = Vec::new();
    for extent in extents {
        if extent.length == 0 || extent.offset >= size {
            continue;
        }
        let block = BLOCK as u64;
        let start = extent.offset / block * block;
        let end = extent.end().min(size).div_ceil(block).saturating_mul(block).min(size);
        match tidy.last_mut() {
            Some(last) if last.end() >= start => last.length = last.length.max(end.saturating_sub(last.offset)),
            _ => tidy.push(Extent { offset: start, length: end.saturating_sub(start) }),
        }
    }
    let excess = tidy.len().saturating_sub(EXTENTS_MAX);
    if excess == 0 {
        return tidy;
    }
    // The holes between neighbours, smallest first; the first `excess` of them are closed.
    let mut holes: Vec<(u64, u64)> =
        tidy.iter().zip(tidy.iter().skip(1)).map(|(a, b)| (b.offset.saturating_sub(a.end()), b.offset)).collect();
    holes.sort_unstable();
    let closed: std::collections::BTreeSet<u64> = holes.into_iter().take(excess).map(|(_, before)| before).collect();
    let mut few: Vec<Extent> = Vec::with_capacity(EXTENTS_MAX);
    for extent in tidy {
        match few.last_mut() {
            Some(last) if closed.contains(&extent.offset) => last.length = extent.end().saturating_sub(last.offset),
            _ => few.push(extent),
        }
    }
    few
}

/// True for a name that tar members may have.
#[must_use]
pub fn is_member_name(name: &[u8], directory: bool) -> bool {
    let path = if directory { name.strip_suffix(b"/").unwrap_or(name) } else { name };
    name.len() <= NAME_BYTES_MAX && !name.contains(&0) && path.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

fn shown(bytes: &[u8]) -> String {
    crate::text::escape_bounded(&String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes)), 200)
}

fn check(head: &Head<'_>) -> Result<(), BadHead> {
    if !is_member_name(head.name, matches!(head.kind, HeadKind::Directory)) {
        return Err(BadHead::Name(shown(head.name)));
    }
    if head.mode > 0o7777 {
        return Err(BadHead::Mode(head.mode));
    }
    for (time, name) in [(head.mtime, "mtime"), (head.atime, "atime"), (head.ctime, "ctime")] {
        // What does not read back is not written: the text form is the only full one.
        if time.is_some_and(|t| !t.has_text()) {
            return Err(BadHead::Time(name));
        }
    }
    if let Some(name) = head.xattrs.keys().find(|n| n.is_empty() || n.len() > XATTR_NAME_BYTES_MAX || n.contains('\0')) {
        return Err(BadHead::XattrName(shown(name.as_bytes())));
    }
    match head.kind {
        HeadKind::File { size } if size > SIZE_MAX => Err(BadHead::Size(size)),
        HeadKind::Sparse { size, extents } => check_extents(size, extents),
        HeadKind::Symlink { target } if target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) => {
            Err(BadHead::Target(shown(target)))
        }
        HeadKind::Hardlink { target } if !is_member_name(target, false) => Err(BadHead::Target(shown(target))),
        _ => Ok(()),
    }
}

fn check_extents(size: u64, extents: &[Extent]) -> Result<(), BadHead> {
    if size > SIZE_MAX {
        return Err(BadHead::Size(size));
    }
    if extents.len() > EXTENTS_MAX {
        return Err(BadHead::TooManyExtents(extents.len()));
    }
    // GNU tar stores each range in whole blocks, others store them without padding: on block boundaries both are the same.
    let block = BLOCK as u64;
    let mut free_from = 0;
    for (index, extent) in extents.iter().enumerate() {
        let end = extent.offset.checked_add(extent.length).filter(|end| *end == size || (*end < size && end.is_multiple_of(block)));
        match end {
            Some(end) if extent.length > 0 && extent.offset >= free_from && extent.offset.is_multiple_of(block) => free_from = end,
            _ => return Err(BadHead::Extents { index }),
        }
    }
    Ok(())
}

/// True when the ustar block holds the name whole, so that no pax record is needed.
fn fits_block(name: &[u8]) -> bool {
    name.len() <= 100 && name.is_ascii()
}

/// GNU sparse 1.0: the number of entries, then offset and length of each, one number a line, padded to a block. A last
/// entry of length 0 at the end gives readers the size of a file that ends in a hole; we always write it.
fn sparse_map(size: u64, extents: &[Extent]) -> Vec<u8> {
    use std::fmt::Write as _;
    let mut map = format!("{}\n", extents.len().saturating_add(1));
    for extent in extents {
        let _ = writeln!(map, "{}\n{}", extent.offset, extent.length);
    }
    let _ = writeln!(map, "{size}\n0");
    let mut map = map.into_bytes();
    map.resize(map.len().saturating_add(padding(map.len() as u64)), 0);
    map
}

fn push_records(head: &Head<'_>, stored: u64, out: &mut Vec<u8>) {
    let sparse_size = match head.kind {
        HeadKind::Sparse { size, .. } => Some(size),
        _ => None,
    };
    if sparse_size.is_none() && !fits_block(head.name) {
        push_record(out, b"path", head.name);
    }
    if let HeadKind::Symlink { target } | HeadKind::Hardlink { target } = head.kind
        && !fits_block(target)
    {
        push_record(out, b"linkpath", target);
    }
    // A sparse member's size stays in the block (base-256): Python's tarfile mistakes a `size` record for the logical one.
    if sparse_size.is_none() && stored > OCTAL_11_MAX {
        push_record(out, b"size", stored.to_string().as_bytes());
    }
    for (id, key) in [(head.uid, &b"uid"[..]), (head.gid, b"gid")] {
        if id > OCTAL_7_MAX {
            push_record(out, key, id.to_string().as_bytes());
        }
    }
    for (time, key) in [(head.mtime, &b"mtime"[..]), (head.atime, b"atime"), (head.ctime, b"ctime")] {
        if let Some(time) = time {
            push_record(out, key, time.text().as_str().as_bytes());
        }
    }
    if let Some(size) = sparse_size {
        push_record(out, b"GNU.sparse.major", b"1");
        push_record(out, b"GNU.sparse.minor", b"0");
        push_record(out, b"GNU.sparse.name", head.name);
        push_record(out, b"GNU.sparse.realsize", size.to_string().as_bytes());
    }
    for (name, value) in head.xattrs {
        push_record(out, &xattr_key(name), value);
    }
}

fn main_block(head: &Head<'_>, stored: u64) -> [u8; BLOCK] {
    let small = |id: u32| if id > OCTAL_7_MAX { 0 } else { id };
    let (flag, link) = match head.kind {
        HeadKind::File { .. } | HeadKind::Sparse { .. } => (flag::FILE, &b""[..]),
        HeadKind::Directory => (flag::DIRECTORY, &b""[..]),
        HeadKind::Symlink { target } => (flag::SYMLINK, target),
        HeadKind::Hardlink { target } => (flag::HARDLINK, target),
    };
    let sparse = matches!(head.kind, HeadKind::Sparse { .. });
    // A reader that does not know sparse files must not take the map and the data for the file.
    let prefixed = if sparse { [SPARSE_PREFIX, head.name].concat() } else { Vec::new() };
    Fields {
        name: if sparse { &prefixed } else { head.name },
        mode: head.mode,
        uid: small(head.uid),
        gid: small(head.gid),
        size: if !sparse && stored > OCTAL_11_MAX { 0 } else { stored },
        mtime: head.mtime.and_then(|t| u64::try_from(t.s).ok()).filter(|s| *s <= OCTAL_11_MAX).unwrap_or(0),
        flag,
        link,
    }
    .to_block()
}

/// Name of the pax header's own block, for readers that do not know pax.
const PAX_NAME: &[u8] = b"PaxHeaders/exhibit";
/// What the block's name of a sparse member begins with, as GNU tar does.
const SPARSE_PREFIX: &[u8] = b"GNUSparseFile.0/";

#[cfg(test)]
mod tests;
