//! Captures: what takes evidence. A capture knows how to find things on a host and hands the pipeline readers plus
//! facts; it never hashes, compresses, sends or writes anything itself.
//!
//! # Writing one
//! One file (or folder) `capture/<name>.rs` with a type that implements [`Capture`], one line in
//! [`registry::REGISTRY`], its parameters in the table of [`exhibit_evidence::parameters`], so that an order is checked against
//! them before it is signed and before anything runs. Rules:
//! - Everything found becomes an item: collected, or with a status and a reason. Nothing is silently skipped.
//! - Everything read from the host is hostile: bounded, never interpreted by a shell, escaped when shown.
//! - Long loops that put nothing call [`Output::checkpoint`]; reads of pseudo files are bounded ([`read_pseudo`]).
//! - Tables are made with [`Table`], which splits them so that memory stays bounded.

pub mod disk;
pub mod files;
mod left;
mod live;
pub mod logs;
pub mod memory;
pub mod mounts;
pub mod network;
mod patience;
mod place;
pub mod process;
pub mod process_memory;
mod procfs;
mod pseudo;
pub mod registry;
pub mod restricted;
pub mod system;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod threads;
pub mod walk;

use std::collections::BTreeMap;
use std::io;

pub use exhibit_evidence::EvidencePath;
pub use exhibit_evidence::manifest::{Kind, Meta, Status};
pub(crate) use exhibit_evidence::parameters::units;
pub use exhibit_evidence::parameters::{BadParam, Param, Params};
pub use exhibit_evidence::stream::tar::Extent;
use exhibit_evidence::time::FileTime;
pub use place::Place;
pub(crate) use procfs::{own_program, own_status, renew};
pub use pseudo::{PSEUDO_BYTES_MAX, Pseudo, put_pseudo, read_pseudo, read_pseudo_at, status_of};
use serde::{Deserialize, Serialize};
pub use table::{TABLE_PART_BYTES_MAX, Table};

pub use crate::clock::Moment;
use crate::order::Policy;

/// One kind of evidence and the way to take it. Made by its constructor in [`registry::REGISTRY`] for one collection.
pub trait Capture: Send {
    /// The name in orders, member names and manifests: `[a-z0-9-]`, at most 32 bytes.
    fn name(&self) -> &'static str;

    /// The parameters that an order may give, each once. An order with another name or a value that does not parse is
    /// refused before anything runs. They stand in one table with those of all captures, for the responder's program too.
    fn params(&self) -> &'static [Param] {
        exhibit_evidence::parameters::of(self.name())
    }

    /// Checks what the table of parameters cannot say: patterns, names of classes. Called with parameters that the table
    /// holds good, and looks at nothing of the host: a wrong order is refused before anything runs.
    ///
    /// # Errors
    /// A sentence that names the parameter, its value, and what is expected.
    fn check(&self, _params: &Params) -> Result<(), String> {
        Ok(())
    }

    /// Hears what this host's policy does not give, before [`Capture::run`].
    ///
    /// # Errors
    /// A sentence when the policy cannot be used: nothing is collected then.
    fn restrict(&mut self, _policy: &Policy) -> Result<(), String> {
        Ok(())
    }

    /// Takes everything. Runs on the capture thread and may block; waits only inside [`Output`].
    ///
    /// # Errors
    /// [`Stop`]: what [`Output`] returned (pass it on unchanged), or [`Stop::Fatal`] when the capture as a whole cannot
    /// go on. A failure of one item is not an error: put the item with its status and reason and continue.
    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop>;

    /// True when what it reads is still there, as it was, for a later process: then a stream that broke off in it is taken
    /// up, and everything that is in the stream already is passed over. Memory and processes are never the same again.
    fn reads_again(&self) -> bool {
        false
    }
}

/// Where a capture puts what it found. All methods block; there is one capture thread.
pub trait Output {
    /// Puts one item: its content into the stream, its line into the manifest. Returns the item's final status, which
    /// differs from the given one when content could not be read whole. Blocks while budgets or the upload window are
    /// exhausted.
    ///
    /// # Errors
    /// [`Stop`] when the collection is to end. The item was still recorded as far as it was taken; return at once.
    fn put(&mut self, item: NewItem, content: Content<'_>) -> Result<Status, Stop>;

    /// The status under which an earlier process of this agent put the item of this path and inode into this stream, if
    /// one did: `put` would pass over it, and to ask first saves opening it.
    fn already(&self, _path: &[u8], _meta: &Meta) -> Option<Status> {
        None
    }

    /// When the collection began: by the first process, if this one took the stream up.
    fn began(&self) -> Moment {
        self.now()
    }

    /// Asks whether to go on; waits while the processor budget is exhausted.
    ///
    /// # Errors
    /// [`Stop`] when the collection is to end; return it at once.
    fn checkpoint(&mut self) -> Result<(), Stop>;

    /// Says what is being worked on, for the progress display. Cheap; any text, it is escaped and cut by the receiver.
    fn note(&mut self, current: &str);

    /// Says that about so many raw bytes are to come, for the progress display: a large image knows its size before.
    fn expect(&mut self, _bytes: u64) {}

    /// The host's clocks.
    fn now(&self) -> Moment;

    /// Keeps room below the limit of the order for a table that grows while other things are put: whatever is put until then
    /// leaves it free. The item that takes it says so ([`NewItem::room`]). False when there is not so much: nothing more is kept
    /// then, and what the room was for must be left out.
    fn keep_room(&mut self, _bytes: u64) -> bool {
        true
    }

    /// Records that a program was run (its argument vector, joined with spaces): part of the agent's footprint.
    fn ran(&mut self, command: String);

    /// Whether this host's policy keeps values of environment variables back (`redact_environ`).
    fn redacts_environment(&self) -> bool {
        false
    }
}

/// A capture with the parameters of an order.
pub type Chosen = (Box<dyn Capture>, Params);

/// What a capture says about one item. The pipeline adds number, digest, size, gaps, location and end time.
#[derive(Debug, Clone)]
pub struct NewItem {
    /// Where it is on the host (absolute), or the name of a record that the capture makes (no leading slash).
    pub path: EvidencePath,
    /// What it is.
    pub kind: Kind,
    /// What became of it so far: [`Status::Collected`] unless the capture already knows better.
    pub status: Status,
    /// Why, whenever `status` is not `collected`.
    pub reason: Option<String>,
    /// Target of a symbolic link.
    pub target: Option<EvidencePath>,
    /// The inode's metadata, where there is an inode.
    pub meta: Option<Box<Meta>>,
    /// The inode of a file with several names, as it was when it was opened: a further name becomes a hard link in the
    /// stream when nothing of this differs.
    pub inode: Option<InodeState>,
    /// When the taking began.
    pub started: Moment,
    /// How: the system call, file or tool, e.g. `read`, `netlink:sock_diag`.
    pub method: &'static str,
    /// What of the order's limit it may use.
    pub room: Room,
    /// Further facts by name. They are display text, not content: at most a few KiB in all.
    pub facts: BTreeMap<String, String>,
}

/// What of an order's limit an item may use. What says which evidence was taken and which was not must not be lost because the
/// evidence filled the limit, so a part is kept for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Bytes that [`Output::keep_room`] kept for it, and that are free from here on.
    pub kept: u64,
    /// It may use what is kept for records. Holds for content in memory only.
    pub spare: bool,
}

/// An inode and when it last changed. A number alone does not name a file: it is used again after the file is gone, and
/// the file may have been written between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InodeState {
    /// Device and number.
    pub inode: (u64, u64),
    /// When it was made, where the file system knows.
    pub btime: Option<FileTime>,
    /// When content or inode last changed; nobody can set it.
    pub ctime: Option<FileTime>,
    /// When the content last changed.
    pub mtime: Option<FileTime>,
    /// Bytes.
    pub size: u64,
}

impl NewItem {
    /// An item that is about to be taken, status [`Status::Collected`].
    #[must_use]
    pub fn new(path: EvidencePath, kind: Kind, started: Moment, method: &'static str) -> Self {
        Self {
            path,
            kind,
            status: Status::Collected,
            reason: None,
            target: None,
            meta: None,
            inode: None,
            started,
            method,
            room: Room::default(),
            facts: BTreeMap::new(),
        }
    }

    /// A record that the capture makes itself. `name` is made of `[A-Za-z0-9._/-]`, starts with no slash and is never
    /// taken from the host.
    #[must_use]
    pub fn record(name: &str, started: Moment, method: &'static str) -> Self {
        Self { room: Room { kept: 0, spare: true }, ..Self::new(evidence_path(name), Kind::Record, started, method) }
    }

    /// The same with a status and the reason for it.
    #[must_use]
    pub fn with_status(mut self, status: Status, reason: impl Into<String>) -> Self {
        self.status = status;
        self.reason = Some(reason.into());
        self
    }

    /// The same with one fact more.
    #[must_use]
    pub fn with_fact(mut self, name: &str, value: impl Into<String>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}

/// A path from bytes that the host gave. NUL cannot occur in them and the kernel bounds the length; should either ever
/// happen, the path is cut there rather than lost.
#[must_use]
pub fn evidence_path(bytes: impl AsRef<[u8]>) -> EvidencePath {
    EvidencePath::truncating(bytes.as_ref())
}

/// What an item holds.
pub enum Content<'a> {
    /// Nothing: a directory or symbolic link (which becomes a member), a device, socket or fifo, or something that could
    /// not be taken (items by record only).
    None,
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// A file or device.
    Source {
        /// Logical size at the start. More is not read; less becomes a gap.
        size: u64,
        /// Where the data is when the file has holes, sorted and disjoint; holes are neither read nor sent.
        extents: Option<Vec<Extent>>,
        /// The bytes.
        source: &'a mut dyn Source,
    },
}

/// A reader by position. The pipeline turns errors into gaps that it narrows to units ([`Source::unit_end`]), and an early end
/// into a gap and the status `changed-during-read`.
pub trait Source {
    /// Reads at an offset, as `pread(2)`: a short count is not the end, 0 is.
    ///
    /// # Errors
    /// What the kernel said. `Interrupted` is retried by the pipeline.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Where the unit ends that `offset` lies in: what cannot be read is narrowed to whole units. Greater than `offset`. Pages of
    /// 4 KiB, unless the source knows better (sectors; pages that lie elsewhere in the content).
    fn unit_end(&self, offset: u64) -> u64 {
        const PAGE: u64 = 4096;
        offset.saturating_sub(offset % PAGE).saturating_add(PAGE)
    }

    /// The item in which this source lists by itself all that it could not read, if it does. Then reading goes on when there
    /// are more gaps than a manifest line holds.
    fn gap_list(&self) -> Option<&str> {
        None
    }

    /// Called once after the last read: what turned out about the file, e.g. that it changed while it was read.
    fn after(&mut self) -> Option<(Status, String)> {
        None
    }

    /// How a later process finds this source again and goes on reading; `None` when it cannot.
    fn place(&self) -> Option<Place> {
        None
    }

    /// Why nothing more can be read, once that is clear: the rest is then one gap, instead of one failure after the other.
    fn gone(&self) -> Option<&str> {
        None
    }

    /// Called once after [`Source::after`]: facts that only reading could tell, added to the item's.
    fn facts_after(&mut self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Called once after [`Source::facts_after`]: a record that belongs to what was read and is put right after it, as the one
    /// that [`Source::gap_list`] names. It comes from the source and not from the capture because a later process may
    /// finish the reading, and that one has only the source.
    fn beside(&mut self) -> Option<Beside> {
        None
    }
}

/// A record that a source makes while it is read.
pub struct Beside {
    /// Its item; a record.
    pub item: NewItem,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// Why a collection or a capture ends before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Stop {
    /// A responder or the operator of this host asked for it.
    #[error("{0}")]
    Cancelled(String),
    /// The order's or the policy's deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// A limit of the order or of the policy was reached.
    #[error("limit reached: {0}")]
    Limit(String),
    /// The capture cannot go on; other captures still run.
    #[error("{0}")]
    Fatal(String),
    /// The capture ran to its end, and the collection is no success: it found nothing of what was ordered, or it left the host
    /// in a state that people have to know of. Its items say so.
    #[error("{0}")]
    Nothing(String),
}

impl From<BadParam> for Stop {
    fn from(e: BadParam) -> Self {
        Self::Fatal(e.to_string())
    }
}
