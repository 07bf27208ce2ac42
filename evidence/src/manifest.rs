//! The manifest: JSON Lines that name every item of a stream, its facts and where it lies.
//!
//! Line 1 is a `header`. Then, for each segment in order, one `segment` line followed by the `item` lines of the items
//! whose tar member ends in that segment. Items without a member (missing, denied, devices by record, ...) may stand
//! after any segment. The last line is `end` with the totals. Every line is one JSON object in UTF-8, at most
//! [`LINE_BYTES_MAX`] bytes, ended by `\n`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::age::Recipients;
use crate::digest::Digest;
use crate::id::{AgentId, CaseId, CollectionId};
use crate::layout::StreamNumber;
use crate::path::EvidencePath;
use crate::time::{FileTime, Timestamp};

/// Version text in the header.
pub const FORMAT: &str = "exhibit-manifest/1";

/// The longest line in bytes, newline included. Bounds a reader's memory; the largest real line is a path
/// (32,768 bytes, base64 and escaped) with its xattrs (at most 64 KiB of values per inode on Linux file systems).
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub enum Line {
    /// The first line.
    Header(Header),
    /// A segment of the stream.
    Segment(Segment),
    /// An item.
    Item(Box<Item>),
    /// The last line.
    End(End),
}

/// Which stream of which collection this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// The case.
    pub case: CaseId,
    /// The collection.
    pub collection: CollectionId,
    /// The stream within the collection.
    pub stream: StreamNumber,
    /// The agent that took it.
    pub agent: AgentId,
    /// SHA-256 of the order's envelope.
    pub order: Digest,
    /// To whom the agent encrypted each segment: the case's recipients. Left out where segments are not encrypted.
    #[serde(default, skip_serializing_if = "Recipients::is_none")]
    pub encrypted_to: Recipients,
}

/// A segment of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Number within the stream, from 0.
    pub n: u32,
    /// Bytes as stored.
    pub size: u64,
    /// SHA-256 of the bytes as stored.
    pub sha256: Digest,
    /// Where the segment's decompressed bytes begin in the raw stream.
    pub raw_offset: u64,
    /// How many decompressed bytes it holds.
    pub raw_size: u64,
    /// Set when another process made this segment than the one before.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub seam: Option<Seam>,
}

/// Where a stream was taken up again after the agent's process had ended. What stands before it was read by the earlier
/// process; an item whose member lies across it has the fact [`CONTINUED_AT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seam {
    /// Wall clock of the host when the new process took the stream up.
    pub at: Timestamp,
    /// `boot_id` of the kernel under which the stream was begun: with another one now, monotonic clocks before and after
    /// cannot be compared. At most [`BOOT_ID_BYTES_MAX`] bytes.
    pub boot_id: String,
}

/// Longest [`Seam::boot_id`]; the kernel's is 36.
pub const BOOT_ID_BYTES_MAX: usize = 64;

/// Name of the fact that every item across a seam has: the offset in its content from which the later process read.
pub const CONTINUED_AT: &str = "continued_at";

/// [`Item::method`] of what the coordinator described from a stored segment, because the agent's lines of it were lost.
pub const METHOD_ADOPTED: &str = "adopted-by-coordinator";

/// Whether the items around a [`Seam`] say so: a member that lies across it belongs to an item with [`CONTINUED_AT`], and
/// no other item claims to be one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Across(Option<u64>);

impl Across {
    /// Hears of the next segment.
    pub const fn segment(&mut self, segment: &Segment) {
        if segment.seam.is_some() {
            self.0 = Some(segment.raw_offset);
        }
    }

    /// Hears of the next item; false when it says something else about the seam than its place does.
    #[must_use]
    pub fn item(&self, item: &Item) -> bool {
        self.lies(item) == item.facts.contains_key(CONTINUED_AT)
    }

    /// True when the item's member lies across the last seam.
    #[must_use]
    pub fn lies(&self, item: &Item) -> bool {
        self.0.is_some_and(|at| item.location.is_some_and(|l| l.offset < at && at < l.offset.saturating_add(l.length)))
    }
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Taken whole.
    Collected,
    /// Taken in part; `gaps` or `reason` say what is not there.
    Partial,
    /// Taken, but it changed while it was read.
    ChangedDuringRead,
    /// Not there.
    Missing,
    /// The host refused to give it.
    Denied,
    /// Left out by the order, the profile or the host's policy; `reason` says which rule.
    Skipped,
    /// Was there when the capture began and went away.
    Vanished,
    /// Failed otherwise; `reason` says how.
    Error,
}

impl Status {
    /// All values, in the order of the specification.
    pub const ALL: [Self; 8] =
        [Self::Collected, Self::Partial, Self::ChangedDuringRead, Self::Missing, Self::Denied, Self::Skipped, Self::Vanished, Self::Error];

    /// The text used in manifests, on the wire and on screen.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Collected => "collected",
            Self::Partial => "partial",
            Self::ChangedDuringRead => "changed-during-read",
            Self::Missing => "missing",
            Self::Denied => "denied",
            Self::Skipped => "skipped",
            Self::Vanished => "vanished",
            Self::Error => "error",
        }
    }
}

/// What kind of thing an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file, or bytes read from a pseudo file.
    File,
    /// A directory (its own metadata, not its content).
    Directory,
    /// A symbolic link; `target` holds where it points.
    Symlink,
    /// Another name of an item already in this stream; `target` holds that item's member name.
    Hardlink,
    /// A block device, by record.
    BlockDevice,
    /// A character device, by record.
    CharDevice,
    /// A named pipe, by record.
    Fifo,
    /// A socket, by record.
    Socket,
    /// A record that the capture made itself (JSON Lines unless the name says otherwise).
    Record,
    /// Nothing could be determined (for example a missing path).
    Unknown,
}

/// One captured thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Number within the stream, from 0, without holes. The item's id is `<collection>.<stream>.<n>`.
    pub n: u64,
    /// The capture that took it: `system`, `process`, `network`, `files`, `logs`, ...
    pub capture: String,
    /// Where it was on the host, or the name of a made record.
    pub path: EvidencePath,
    /// What kind of thing it is.
    pub kind: Kind,
    /// What became of it.
    pub status: Status,
    /// Why, in words, whenever the status is not `collected`.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Logical size in bytes of what was taken (holes and filled gaps included).
    pub size: u64,
    /// SHA-256 of the logical content (holes and filled gaps count as zeros). Absent when there is no content.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Where the tar member lies in the raw stream. Absent for items by record.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Symlink or hard link target.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub target: Option<EvidencePath>,
    /// The inode's metadata, where there is an inode.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub meta: Option<Box<Meta>>,
    /// Byte ranges of the logical content that could not be read and were filled with zeros.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// When the taking began and ended.
    pub taken: Taken,
    /// How: the system call, file or tool, e.g. `read`, `netlink:sock_diag`.
    pub method: String,
    /// Further facts of the capture, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

/// A member's place in the raw (decompressed) stream: the range is itself a valid tar without end marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// Offset of the member's first header block (the pax header where there is one), a multiple of 512.
    pub offset: u64,
    /// Bytes from there to the end of the member's padding, a multiple of 512.
    pub length: u64,
}

/// An unreadable range of an item's logical content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// Offset in the logical content.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// Why.
    pub reason: String,
}

/// Metadata of an inode, as `statx(2)`, `ioctl_iflags(2)` and `listxattr(2)` gave it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// Permission bits with set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Inode number.
    pub ino: u64,
    /// Number of hard links.
    pub nlink: u64,
    /// Major and minor number of the device that holds the inode.
    pub dev: [u32; 2],
    /// Major and minor number of the device that the inode is, for device nodes.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub rdev: Option<[u32; 2]>,
    /// Blocks of 512 bytes that are allocated.
    pub blocks: u64,
    /// Last change of content.
    #[serde(deserialize_with = "crate::json::nullable")]
    pub mtime: Option<FileTime>,
    /// Last access, as found before reading.
    #[serde(deserialize_with = "crate::json::nullable")]
    pub atime: Option<FileTime>,
    /// Last change of the inode.
    #[serde(deserialize_with = "crate::json::nullable")]
    pub ctime: Option<FileTime>,
    /// Birth, where the file system keeps it.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub btime: Option<FileTime>,
    /// Names of inode flags that are set, e.g. `immutable`, `append`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Extended attributes (ACLs and capabilities among them): name to base64 of the value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

/// The host's clocks at start and end: claims of the host, never more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// Wall clock at the start.
    pub start: Timestamp,
    /// Wall clock at the end.
    pub end: Timestamp,
    /// CLOCK_MONOTONIC_RAW at the start, nanoseconds since boot.
    pub mono_start_ns: u64,
    /// CLOCK_MONOTONIC_RAW at the end.
    pub mono_end_ns: u64,
}

/// Totals, last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// True when the agent ended the stream itself; false when the coordinator closed what had arrived.
    pub complete: bool,
    /// Number of segments.
    pub segments: u32,
    /// Bytes of all segments as stored.
    pub stored_bytes: u64,
    /// Bytes of the raw stream.
    pub raw_bytes: u64,
    /// Number of items.
    pub items: u64,
    /// Items per status; statuses with none are left out.
    pub by_status: BTreeMap<Status, u64>,
}

/// What a line of a file has; a longer one costs a copy.
const LINE_BYTES_USUAL: usize = 1 << 10;

/// Refuses a length, newline included, that no line may have.
fn within(length: usize) -> Result<(), String> {
    if length <= LINE_BYTES_MAX {
        return Ok(());
    }
    Err(format!("a manifest line of {length} bytes: at most {LINE_BYTES_MAX} are allowed"))
}

/// Compares what is written with bytes that are there already, without keeping it: what is still to come of them.
struct Same<'a>(&'a [u8]);

impl std::io::Write for Same<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(std::io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Line {
    /// The line's bytes, newline included.
    ///
    /// # Errors
    /// When the line would be longer than [`LINE_BYTES_MAX`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(LINE_BYTES_USUAL);
        serde_json::to_writer(&mut bytes, self).map_err(|e| e.to_string())?;
        bytes.push(b'\n');
        within(bytes.len())?;
        Ok(bytes)
    }

    /// An item's fields are read straight into an item: reading the tag first, as for the other lines, would build every
    /// value twice. What this form of reading would let pass is refused when the line does not print back the same.
    fn read(bytes: &[u8]) -> serde_json::Result<Self> {
        let Some(fields) = bytes.strip_prefix(br#"{"line":"item","#) else { return serde_json::from_slice(bytes) };
        let mut object = Vec::with_capacity(fields.len().saturating_add(1));
        object.push(b'{');
        object.extend_from_slice(fields);
        serde_json::from_slice(&object).map(Self::Item)
    }

    /// Parses one line, with or without its newline. There is one text per line: what does not print back the same (spaces,
    /// another order, `null` for a field that is left out, a loosely written time) is refused, so that no two readers
    /// can see two manifests.
    ///
    /// # Errors
    /// A sentence that names what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        within(text.len().saturating_add(1))?;
        let line = Self::read(bytes).map_err(|e| format!("not a manifest line: {e}"))?;
        let mut rest = Same(text);
        if serde_json::to_writer(&mut rest, &line).is_err() || !rest.0.is_empty() {
            return Err(format!(
                "not the one form that this format writes: {}",
                crate::text::escape_bounded(&String::from_utf8_lossy(bytes), 200)
            ));
        }
        Ok(line)
    }
}

/// An item's id: `<collection>.<stream>.<n>`, e.g. `col-01jd....s1.17`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId {
    /// The collection.
    pub collection: CollectionId,
    /// The stream.
    pub stream: StreamNumber,
    /// The item's number in the stream's manifest.
    pub n: u64,
}

impl std::fmt::Display for ItemId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.collection, self.stream, self.n)
    }
}

impl std::str::FromStr for ItemId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || -> Option<Self> {
            let mut parts = text.split('.');
            let id = Self {
                collection: parts.next()?.parse().ok()?,
                stream: StreamNumber(parts.next()?.strip_prefix('s')?.parse().ok()?),
                n: parts.next()?.parse().ok()?,
            };
            (parts.next().is_none() && id.to_string() == text).then_some(id)
        };
        parsed().ok_or_else(|| {
            format!(
                "'{}' is not an item id: expected <collection>.s<stream>.<number>, as `exhibit items` prints it",
                crate::text::escape_bounded(text, 80)
            )
        })
    }
}
