//! From header bytes to a [`MemberHead`]. Only what would be ambiguous is refused here; that the rest has the prescribed
//! form is settled by writing the head again.

use std::collections::BTreeMap;

use super::{Fault, MemberHead, MemberKind};
use crate::stream::pax::{XATTR_PREFIX, decimal, split_record, xattr_name};
use crate::stream::tar::{EXTENTS_MAX, Extent};
use crate::stream::ustar::{BLOCK, Fields, flag};
use crate::time::FileTime;

/// A head that is complete but for the sparse map.
#[derive(Debug)]
pub(super) struct Draft {
    pub head: MemberHead,
    /// Bytes that follow the headers, sparse map included.
    pub stored: u64,
    pub sparse: bool,
}

#[derive(Default)]
struct Records {
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<FileTime>,
    atime: Option<FileTime>,
    ctime: Option<FileTime>,
    sparse_major: Option<u64>,
    sparse_minor: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

fn key_text(key: &[u8]) -> String {
    crate::text::escape_bounded(&String::from_utf8_lossy(key.get(..100).unwrap_or(key)), 100)
}

impl Records {
    fn parse(mut bytes: &[u8]) -> Result<Self, Fault> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = split_record(bytes).ok_or(Fault::PaxRecord)?;
            records.take(key, value)?;
            bytes = rest;
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        if let Some(escaped) = key.strip_prefix(XATTR_PREFIX) {
            let name = xattr_name(escaped).ok_or_else(|| Fault::PaxKey(key_text(key)))?;
            return match self.xattrs.insert(name, value.to_vec()) {
                None => Ok(()),
                Some(_) => Err(Fault::PaxTwice(key_text(key))),
            };
        }
        match key {
            b"path" => once(&mut self.path, key, Some(value.to_vec())),
            b"linkpath" => once(&mut self.linkpath, key, Some(value.to_vec())),
            b"size" => once(&mut self.size, key, decimal(value)),
            b"uid" => once(&mut self.uid, key, decimal(value)),
            b"gid" => once(&mut self.gid, key, decimal(value)),
            b"mtime" => once(&mut self.mtime, key, time(value)),
            b"atime" => once(&mut self.atime, key, time(value)),
            b"ctime" => once(&mut self.ctime, key, time(value)),
            b"GNU.sparse.major" => once(&mut self.sparse_major, key, decimal(value)),
            b"GNU.sparse.minor" => once(&mut self.sparse_minor, key, decimal(value)),
            b"GNU.sparse.name" => once(&mut self.sparse_name, key, Some(value.to_vec())),
            b"GNU.sparse.realsize" => once(&mut self.sparse_size, key, decimal(value)),
            _ => Err(Fault::PaxKey(key_text(key))),
        }
    }
}

fn once<T>(slot: &mut Option<T>, key: &[u8], value: Option<T>) -> Result<(), Fault> {
    if slot.is_some() {
        return Err(Fault::PaxTwice(key_text(key)));
    }
    *slot = Some(value.ok_or_else(|| Fault::PaxValue(key_text(key)))?);
    Ok(())
}

fn time(value: &[u8]) -> Option<FileTime> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn id(record: Option<u64>, field: u32, key: &str) -> Result<u32, Fault> {
    record.map_or(Ok(field), |v| u32::try_from(v).map_err(|_| Fault::PaxValue(key.to_owned())))
}

impl Draft {
    /// Puts the header block and its pax records together.
    pub(super) fn new(fields: Fields<'_>, pax: &[u8]) -> Result<Self, Fault> {
        let records = Records::parse(pax)?;
        let kind = match fields.flag {
            flag::FILE => MemberKind::File,
            flag::DIRECTORY => MemberKind::Directory,
            flag::SYMLINK => MemberKind::Symlink,
            flag::HARDLINK => MemberKind::Hardlink,
            other => return Err(Fault::Type(other)),
        };
        let sparse = match (records.sparse_major, records.sparse_minor, &records.sparse_name, records.sparse_size) {
            (None, None, None, None) => false,
            (Some(1), Some(0), Some(_), Some(_)) if kind == MemberKind::File => true,
            _ => return Err(Fault::PaxValue("GNU.sparse".to_owned())),
        };
        let stored = records.size.unwrap_or(fields.size);
        let is_link = matches!(kind, MemberKind::Symlink | MemberKind::Hardlink);
        let head = MemberHead {
            name: records.sparse_name.or(records.path).unwrap_or_else(|| fields.name.to_vec()),
            kind,
            size: match (kind, records.sparse_size) {
                (MemberKind::File, Some(size)) => size,
                (MemberKind::File, None) => stored,
                _ => 0,
            },
            mode: fields.mode,
            uid: id(records.uid, fields.uid, "uid")?,
            gid: id(records.gid, fields.gid, "gid")?,
            mtime: records.mtime,
            atime: records.atime,
            ctime: records.ctime,
            target: is_link.then(|| records.linkpath.unwrap_or_else(|| fields.link.to_vec())),
            xattrs: records.xattrs,
            extents: None,
        };
        Ok(Self { head, stored, sparse })
    }
}

/// The map's number of entries; the first line must lie in the first block.
fn entries(map: &[u8]) -> Result<u64, Fault> {
    let line = map.split(|b| *b == b'\n').next().unwrap_or_default();
    let count = decimal(line).ok_or(Fault::SparseMap("the number of entries is unreadable"))?;
    match count {
        0 => Err(Fault::SparseMap("it has no entry")),
        count if count > EXTENTS_MAX as u64 + 1 => Err(Fault::SparseMapSize(count)),
        count => Ok(count),
    }
}

/// Decides, with the number of newlines that it holds, whether a map is all there. Bounds it by the way: 2 numbers of at
/// most 20 digits for each entry.
pub(super) fn map_is_complete(map: &[u8], newlines: u64) -> Result<bool, Fault> {
    let lines = entries(map)?.saturating_mul(2).saturating_add(1);
    let bytes_max = lines.saturating_mul(21).next_multiple_of(BLOCK as u64);
    match newlines {
        n if n == lines => Ok(true),
        n if n > lines => Err(Fault::SparseMap("it holds more numbers than it says")),
        _ if map.len() as u64 >= bytes_max => Err(Fault::SparseMap("its numbers are too long")),
        _ => Ok(false),
    }
}

/// Reads a complete map. The last entry must be the file's end with length 0; it is not an extent.
pub(super) fn parse_map(map: &[u8], size: u64) -> Result<Vec<Extent>, Fault> {
    let unreadable = Fault::SparseMap("a number is unreadable");
    let mut lines = map.split(|b| *b == b'\n').skip(1);
    let mut extents = Vec::new();
    for _ in 0..entries(map)? {
        let mut number = || lines.next().and_then(decimal).ok_or_else(|| unreadable.clone());
        extents.push(Extent { offset: number()?, length: number()? });
    }
    if extents.pop() != Some(Extent { offset: size, length: 0 }) {
        return Err(Fault::SparseMap("its last entry is not the file's end"));
    }
    Ok(extents)
}
