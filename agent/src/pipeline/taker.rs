//! The output that captures put their items into: numbers them, writes their tar members and their manifest lines.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use exhibit_evidence::manifest::{CONTINUED_AT, Gap, Item, Kind, Line, Location, Meta, Status, Taken};
use exhibit_evidence::stream::reader::{HOLE_BYTES_MAX, MemberKind, Symlinks};
use exhibit_evidence::stream::tar::{self, Head, HeadKind};
use exhibit_evidence::{Digest, EvidencePath, Hasher};

use super::Progress;
use super::bookmark::{self, Account, Draft, Passed, Pending, Point};
use super::content::{Copied, Copy, State};
use super::frames::FrameWriter;
use super::links::Links;
use super::own::Own;
use crate::budget::{Budget, Control, Pace};
use crate::capture::{Beside, Content, Extent, Moment, NewItem, Output, Source, Stop};
use crate::clock;

/// State of the capture thread.
pub(super) struct Taker {
    pub frames: FrameWriter,
    pub control: Arc<Control>,
    pub pace: Pace,
    pub progress: Arc<Progress>,
    pub raw_bytes_max: u64,
    pub capture: String,
    /// What it counted so far.
    pub account: Account,
    /// What an earlier process put into the stream for this capture.
    pub passed: Passed,
    /// A later process can take the stream up in this capture.
    pub again: bool,
    pub links: Links,
    /// Paths that this host's policy does not give.
    pub denied: globset::GlobSet,
    /// What is the agent's own.
    pub own: Own,
    /// The stream is encrypted to the recipients of its case.
    pub encrypts: bool,
    /// Largest manifest.
    pub manifest_bytes_max: u64,
    /// Symbolic links in the stream so far: nothing may follow beneath one.
    pub symlinks: Symlinks,
    /// The header of a member on its way into the stream.
    pub header: Vec<u8>,
}

/// Programs that are remembered by name for the footprint; captures run a handful.
const COMMANDS_MAX: usize = 256;
const COMMAND_CHARS_MAX: usize = 400;
/// After this many bytes of lines without raw data a small record is put, so that segments can be cut.
const LINES_WITHOUT_RAW_MAX: usize = 2 << 20;
/// What is kept free of the manifest for the lines of segments, of captures that are not begun, and the end.
const MANIFEST_RESERVE_BYTES: u64 = 16 << 20;
/// What is kept free for headers, records and the end of the stream when the raw limit is checked.
const LIMIT_RESERVE_BYTES: u64 = 64 << 10;
/// A hole is hashed by both sides at about 1.7 GB/s; beyond this a file's logical size is a trap, not evidence.
const HOLE_BYTES_PER_ITEM_MAX: u64 = 256 << 30;

/// Capacity that the buffer for headers keeps from one member to the next.
const HEADER_BYTES_KEPT: usize = 64 << 10;

/// What is known of an item when its line is written.
struct Ending {
    size: u64,
    sha256: Option<Digest>,
    location: Option<Location>,
    gaps: Vec<Gap>,
}

const BY_RECORD: Ending = Ending { size: 0, sha256: None, location: None, gaps: Vec::new() };

/// A content as the tar writer needs it.
struct Data<'a> {
    size: u64,
    extents: Vec<Extent>,
    source: &'a mut dyn Source,
}

impl Data<'_> {
    fn stored(&self) -> u64 {
        self.extents.iter().map(|e| e.length).fold(0, u64::saturating_add)
    }

    fn is_sparse(&self) -> bool {
        self.stored() < self.size
    }
}

/// A content of which a part may be in the stream.
struct Contents {
    size: u64,
    extents: Vec<Extent>,
    done: State,
}

/// A member whose header is in the stream.
struct Member {
    name: Vec<u8>,
    offset: u64,
    /// Bytes of data that follow the header.
    follows: u64,
}

/// What cannot be read any more.
struct Lost(String);

impl Source for Lost {
    fn read_at(&mut self, _: u64, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other(self.0.clone()))
    }
    fn after(&mut self) -> Option<(Status, String)> {
        Some((Status::Partial, self.0.clone()))
    }
}

/// A collection that was told to end is ended by its process; nobody takes it up.
fn may_mark(account: &Account, control: &Control) -> bool {
    account.stopped.is_none() && control.check().is_ok()
}

struct Memory<'a>(&'a [u8]);

impl Source for Memory<'_> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|o| self.0.get(o..)).unwrap_or_default();
        let count = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }
}

impl Output for Taker {
    fn put(&mut self, mut item: NewItem, content: Content<'_>) -> Result<Status, Stop> {
        settle(&mut item);
        if let Some(status) = self.passed_as(item.path.as_bytes(), item.meta.as_deref(), item.status) {
            return Ok(status);
        }
        if let Err(stop) = self.pace.cpu(&self.control) {
            if item.status == Status::Collected {
                item = item.with_status(Status::Skipped, format!("not taken: {stop}"));
            }
            self.record(item, BY_RECORD)?;
            return Err(stop);
        }
        if self.own.holds(&item) {
            item.facts.clear();
            return self.record(item.with_status(Status::Skipped, "the agent's own keys and state are not given"), BY_RECORD);
        }
        if self.is_denied(&item) {
            item.meta = None;
            item.facts.clear();
            if let Some(status) = self.passed_as(item.path.as_bytes(), None, Status::Skipped) {
                return Ok(status);
            }
            return self.record(item.with_status(Status::Skipped, "this host's policy does not give this path"), BY_RECORD);
        }
        let status = match content {
            Content::None => self.put_without_content(item)?,
            Content::Bytes(bytes) => {
                let size = bytes.len() as u64;
                let extents = if size == 0 { Vec::new() } else { vec![Extent { offset: 0, length: size }] };
                self.put_data(item, Data { size, extents, source: &mut Memory(bytes) })?
            }
            Content::Source { size, extents, source } => {
                let whole = || vec![Extent { offset: 0, length: size }];
                let extents = tar::tidy_extents(extents.unwrap_or_else(whole), size);
                self.put_data(item, Data { size, extents, source })?
            }
        };
        self.keep_segments_cuttable()?;
        Ok(status)
    }

    fn already(&self, path: &[u8], meta: &Meta) -> Option<Status> {
        self.passed_as(path, Some(meta), Status::Collected)
    }

    fn began(&self) -> Moment {
        self.account.started.unwrap_or_else(clock::now)
    }

    fn checkpoint(&mut self) -> Result<(), Stop> {
        self.pace.cpu(&self.control)
    }

    fn note(&mut self, current: &str) {
        self.progress.set_note(current);
    }

    fn expect(&mut self, bytes: u64) {
        let all = self.frames.raw_offset().saturating_add(bytes);
        self.progress.expected_raw_bytes.fetch_max(all, std::sync::atomic::Ordering::Relaxed);
    }

    fn now(&self) -> Moment {
        clock::now()
    }

    fn ran(&mut self, command: String) {
        if self.account.commands.len() < COMMANDS_MAX {
            self.account.commands.push(exhibit_evidence::text::escape_bounded(&command, COMMAND_CHARS_MAX));
        }
    }
}

impl Taker {
    /// Directories and symbolic links that were taken become members; everything else without content is by record.
    fn put_without_content(&mut self, item: NewItem) -> Result<Status, Stop> {
        let name = item.path.member_name(&self.capture);
        let taken = matches!(item.status, Status::Collected | Status::Partial | Status::ChangedDuringRead);
        let kind = match (item.kind, &item.target) {
            (Kind::Directory, None) if taken => HeadKind::Directory,
            (Kind::Symlink, Some(target)) if taken => HeadKind::Symlink { target: target.as_bytes() },
            _ => return self.record(item, BY_RECORD),
        };
        let member_kind = if item.kind == Kind::Symlink { MemberKind::Symlink } else { MemberKind::Directory };
        if let Some(why) = self.against_name(&name, member_kind) {
            return self.record(item.with_status(Status::Error, why), BY_RECORD);
        }
        match self.headers(&name, &item, kind) {
            Ok((_, simplified)) => {
                let location = self.member()?;
                self.record(simplified.apply(item), Ending { location: Some(location), ..BY_RECORD })
            }
            Err(why) => self.record(item.with_status(Status::Error, why), BY_RECORD),
        }
    }

    /// Why no member of this name may be written: whoever extracts the stream would be led elsewhere. It happens when a
    /// path was a link when one capture or pattern saw it, and something else for the next.
    fn against_name(&mut self, name: &[u8], kind: MemberKind) -> Option<String> {
        let refused = self.symlinks.pass(name, kind).err()?;
        Some(format!("not taken: {refused}"))
    }

    /// The member's header bytes, into the buffer for them, and how many data bytes follow.
    fn headers(&mut self, name: &[u8], item: &NewItem, kind: HeadKind<'_>) -> Result<(u64, Simplified), String> {
        self.header.clear();
        headers(name, item, kind, &mut self.header)
    }

    fn write_header(&mut self) -> Result<(), Stop> {
        self.frames.write(&self.header)?;
        // Only an inode with large attributes has more.
        self.header.clear();
        self.header.shrink_to(HEADER_BYTES_KEPT);
        Ok(())
    }

    fn member(&mut self) -> Result<Location, Stop> {
        let offset = self.frames.raw_offset();
        self.write_header()?;
        Ok(Location { offset, length: self.frames.raw_offset().saturating_sub(offset) })
    }

    fn put_data(&mut self, mut item: NewItem, data: Data<'_>) -> Result<Status, Stop> {
        if !matches!(item.kind, Kind::File | Kind::Record) {
            item.kind = Kind::File;
        }
        item.target = None;
        if let Some(refusal) = self.over_bounds(&data) {
            return self.record(item.with_status(Status::Skipped, refusal), BY_RECORD);
        }
        // A manifest line cannot state a longer target, and whoever extracts the stream must not be led through a link: then
        // the content is taken once more.
        let first_name = item
            .inode
            .and_then(|inode| self.links.member(inode))
            .filter(|name| name.len() <= EvidencePath::BYTES_MAX && !self.symlinks.covers(name));
        if let Some(target) = first_name.map(<[u8]>::to_vec) {
            return self.put_hardlink(item, &target);
        }
        let name = item.path.member_name(&self.capture);
        if let Some(why) = self.against_name(&name, MemberKind::File) {
            return self.record(item.with_status(Status::Error, why), BY_RECORD);
        }
        let kind = if data.is_sparse() {
            HeadKind::Sparse { size: data.size, extents: &data.extents }
        } else {
            HeadKind::File { size: data.size }
        };
        let (follows, simplified) = match self.headers(&name, &item, kind) {
            Ok(parts) => parts,
            Err(why) => return self.record(item.with_status(Status::Error, why), BY_RECORD),
        };
        let offset = self.frames.raw_offset();
        self.write_header()?;
        let item = simplified.apply(item);
        let member = Member { name, offset, follows };
        let Data { size, extents, source } = data;
        self.copy_data(item, &member, Contents { size, extents, done: State::default() }, source)
    }

    /// Copies a content whose header is in the stream, and writes its line.
    fn copy_data(&mut self, mut item: NewItem, member: &Member, contents: Contents, source: &mut dyn Source) -> Result<Status, Stop> {
        let Contents { size, extents, done } = contents;
        let (draft, ranges) = if self.again && source.place().is_some() {
            (Some(Arc::new(Draft::of(&item))), Arc::new(extents.iter().map(|e| (e.offset, e.length)).collect()))
        } else {
            (None, Arc::default())
        };
        let (account, control) = (&self.account, &self.control);
        let mark = |state: &State, source: &dyn Source| {
            let item = Arc::clone(draft.as_ref().filter(|_| state.over.is_none() && may_mark(account, control))?);
            // An error without a number cannot be told to a later process.
            let error = state.error.as_ref().map(|e| e.raw_os_error().ok_or(())).transpose().ok()?;
            let (extents, hasher, gaps, place) = (Arc::clone(&ranges), state.hasher.snapshot(), state.gaps.clone(), source.place()?);
            let pending = Pending { item, offset: member.offset, size, extents, hasher, gaps, read: state.read, error, place };
            Some(Box::new(Point { account: account.clone(), pending: Some(pending) }))
        };
        let (frames, pace, progress) = (&mut self.frames, &mut self.pace, &*self.progress);
        let mut copy = Copy { frames, pace, control, progress, mark: &mark };
        let copied = copy.run(done, size, &extents, source)?;
        self.frames.write_zeros(tar::padding(member.follows) as u64)?;
        let location = Location { offset: member.offset, length: self.frames.raw_offset().saturating_sub(member.offset) };
        judge(&mut item, &copied, source.after());
        item.facts.extend(source.facts_after());
        let beside = source.beside();
        if let Some(inode) = item.inode.filter(|_| item.status == Status::Collected && copied.gaps.is_empty() && copied.stop.is_none()) {
            self.links.remember(inode, &member.name);
        }
        let stop = copied.stop;
        let ending = Ending { size, sha256: Some(copied.sha256), location: Some(location), gaps: copied.gaps };
        // What lies beside it is known to this process only: between the two no other one may take the stream up.
        let again = self.again;
        self.again = again && beside.is_none();
        let recorded = self.record(item, ending);
        self.again = again;
        let status = recorded?;
        if let Some(Beside { item, content }) = beside {
            self.put_beside(item, &content, stop.is_some())?;
        }
        stop.map_or(Ok(status), Err)
    }

    /// Puts what belongs to an item that is in the stream. It is in memory and there is no other time for it: told to end or
    /// not, it is written whole.
    fn put_beside(&mut self, item: NewItem, content: &[u8], is_told_to_end: bool) -> Result<Status, Stop> {
        let size = content.len() as u64;
        let data = Data { size, extents: vec![Extent { offset: 0, length: size }], source: &mut Memory(content) };
        if !is_told_to_end {
            return self.put_data(item, data);
        }
        let control = std::mem::replace(&mut self.control, Arc::new(Control::new(None)));
        let pace = std::mem::replace(&mut self.pace, Pace::new(&Budget::UNLIMITED));
        let again = std::mem::replace(&mut self.again, false);
        let status = self.put_data(item, data);
        (self.control, self.pace, self.again) = (control, pace, again);
        status
    }

    /// Goes on with the item in which an earlier process stopped. The announced number of bytes comes in every case.
    ///
    /// # Errors
    /// [`Stop`]; the item was recorded.
    pub fn finish_pending(&mut self, pending: Pending) -> Result<(), Stop> {
        let extents = bookmark::extents_of(&pending);
        let Pending { item, offset, size, hasher, gaps, read, error, place, .. } = pending;
        let mut item = item.item();
        let hasher = Hasher::restore(&hasher).ok_or_else(|| Stop::Fatal("the bookmark is damaged".to_owned()))?;
        item.facts.insert(CONTINUED_AT.to_owned(), hasher.bytes().to_string());
        let mut done = State { hasher, gaps, read, error: error.map(std::io::Error::from_raw_os_error), ..State::default() };
        let denied = self.is_denied(&item).then(|| "this host's policy does not give this path any more".to_owned());
        let opened = denied.map_or_else(|| place.open(), Err);
        let (mut found_again, mut lost);
        let source: &mut dyn Source = match opened {
            Ok(found) => {
                found_again = found;
                &mut *found_again
            }
            Err(why) => {
                done.over = Some(format!("not read: {why}"));
                lost = Lost(why);
                &mut lost
            }
        };
        let path = item.path.clone();
        let follows = extents.iter().map(|e| e.length).fold(0, u64::saturating_add);
        let member = Member { name: path.member_name(&self.capture), offset, follows };
        let meta = item.meta.clone();
        let status = self.copy_data(item, &member, Contents { size, extents, done }, source);
        if let Ok(status) = &status {
            self.passed.add(path.as_bytes(), meta.as_deref(), *status);
        }
        status.map(drop)
    }

    fn is_denied(&self, item: &NewItem) -> bool {
        let path = item.path.as_bytes();
        !self.denied.is_empty() && path.starts_with(b"/") && self.denied.is_match(Path::new(OsStr::from_bytes(path)))
    }

    /// The status of an item that an earlier process put into the stream. One that is to be put as something else than
    /// collected (an obstacle on the way) is another item than the one of the same path that was collected.
    fn passed_as(&self, path: &[u8], meta: Option<&Meta>, status: Status) -> Option<Status> {
        if self.passed.is_empty() {
            return None;
        }
        self.passed.of(path, meta).find(|passed| status == Status::Collected || *passed == status)
    }

    /// Why this content is left out, if a limit says so.
    fn over_bounds(&mut self, data: &Data<'_>) -> Option<String> {
        let stored = data.stored();
        let left = self.raw_bytes_max.saturating_sub(self.frames.raw_offset()).saturating_sub(LIMIT_RESERVE_BYTES);
        if stored > left {
            self.account.over_limit = self.account.over_limit.saturating_add(1);
            return Some(format!("{stored} bytes: only {left} of the collection's limit of {} raw bytes are left", self.raw_bytes_max));
        }
        let holes = data.size.saturating_sub(stored);
        let together = self.account.holes.saturating_add(holes);
        if holes > HOLE_BYTES_PER_ITEM_MAX || together > HOLE_BYTES_MAX {
            return Some(format!(
                "a sparse file with {holes} bytes of holes: at most {HOLE_BYTES_PER_ITEM_MAX} in one file and {HOLE_BYTES_MAX} in one stream are taken"
            ));
        }
        self.account.holes = together;
        None
    }

    fn put_hardlink(&mut self, mut item: NewItem, target: &[u8]) -> Result<Status, Stop> {
        let name = item.path.member_name(&self.capture);
        if let Some(why) = self.against_name(&name, MemberKind::Hardlink) {
            return self.record(item.with_status(Status::Error, why), BY_RECORD);
        }
        item.kind = Kind::Hardlink;
        match self.headers(&name, &item, HeadKind::Hardlink { target }) {
            Ok((_, simplified)) => {
                let location = self.member()?;
                let mut item = simplified.apply(item);
                item.target = Some(EvidencePath::truncating(target));
                self.record(item, Ending { location: Some(location), ..BY_RECORD })
            }
            Err(why) => self.record(item.with_status(Status::Error, why), BY_RECORD),
        }
    }

    /// Writes an item's line.
    fn record(&mut self, mut item: NewItem, ending: Ending) -> Result<Status, Stop> {
        let end = clock::now();
        let by_record_only = ending.location.is_none()
            && matches!(item.status, Status::Collected | Status::ChangedDuringRead)
            && !matches!(item.kind, Kind::BlockDevice | Kind::CharDevice | Kind::Fifo | Kind::Socket);
        if by_record_only {
            item.status = Status::Partial;
            item.reason.get_or_insert_with(|| "only this record of it was taken".to_owned());
        }
        self.close_attributes(&mut item, ending.location.is_some());
        let status = item.status;
        if matches!(status, Status::Collected | Status::Partial | Status::ChangedDuringRead) {
            self.account.taken = self.account.taken.saturating_add(1);
        }
        // Whoever gives a status other than `collected` without saying why still leaves a reason behind.
        let said = item.reason.take().filter(|r| !r.trim().is_empty());
        let reason = said.or_else(|| (status != Status::Collected).then(|| status.as_str().to_owned())).map(bounded_reason);
        let line = Item {
            n: self.account.items,
            capture: self.capture.clone(),
            path: item.path,
            kind: item.kind,
            status,
            reason,
            size: ending.size,
            sha256: ending.sha256,
            location: ending.location,
            target: item.target,
            meta: item.meta,
            gaps: ending.gaps,
            taken: Taken {
                start: item.started.wall,
                end: end.wall,
                mono_start_ns: item.started.mono_ns,
                mono_end_ns: end.mono_ns.max(item.started.mono_ns),
            },
            method: item.method.to_owned(),
            facts: item.facts,
        };
        let bytes = to_line(self.leaner(line))?;
        self.account.manifest_bytes = self.account.manifest_bytes.saturating_add(bytes.len() as u64);
        self.account.items = self.account.items.saturating_add(1);
        let count = self.account.by_status.entry(status).or_insert(0);
        *count = count.saturating_add(1);
        self.progress.items.store(self.account.items, Ordering::Relaxed);
        self.progress.raw_bytes.store(self.frames.raw_offset(), Ordering::Relaxed);
        self.frames.line(&bytes)?;
        if self.again && self.frames.is_due() {
            let marked = may_mark(&self.account, &self.control);
            self.frames.end_frame(marked.then(|| Box::new(Point { account: self.account.clone(), pending: None })))?;
        }
        if self.account.manifest_bytes >= self.manifest_bytes_max.saturating_sub(MANIFEST_RESERVE_BYTES) {
            return Err(Stop::Limit(format!(
                "the list of items has {} bytes, the most that one collection may have",
                self.account.manifest_bytes
            )));
        }
        Ok(status)
    }

    /// Of an encrypted case what lines say stays readable, and attributes may hold anything. The stream, which is not readable, has
    /// those of what lies in it; of what does not, the line says that they are left out.
    fn close_attributes(&self, item: &mut NewItem, is_in_stream: bool) {
        let Some(meta) = item.meta.as_mut().filter(|m| self.encrypts && !m.xattrs.is_empty()) else { return };
        let count = meta.xattrs.len();
        meta.xattrs.clear();
        if is_in_stream {
            return;
        }
        item.facts.insert("xattrs_left_out".to_owned(), count.to_string());
        if item.status == Status::Collected {
            item.status = Status::Partial;
            item.reason.get_or_insert_with(|| "extended attributes left out: they would be readable, and the case is encrypted".to_owned());
        }
    }

    /// From three quarters of the largest manifest on, lines go without attributes and facts: whoever may write files on a
    /// host must not be able to fill the list with them before the rest is taken. Attributes stand in the stream.
    fn leaner(&self, mut line: Item) -> Item {
        if self.account.manifest_bytes >= self.manifest_bytes_max / 4 * 3 {
            if let Some(meta) = line.meta.as_mut().filter(|_| line.location.is_some()) {
                meta.xattrs.clear();
            }
            line.facts.retain(|name, _| name == CONTINUED_AT);
        }
        line
    }

    /// Tens of thousands of items by record in a row leave nothing in the raw stream where a segment could end.
    fn keep_segments_cuttable(&mut self) -> Result<(), Stop> {
        if self.frames.lines_since_raw() < LINES_WITHOUT_RAW_MAX {
            return Ok(());
        }
        let content = format!("{{\"items_before\":{}}}\n", self.account.items);
        let item = NewItem::record(&format!("items-by-record.{}.json", self.account.items), clock::now(), "count")
            .with_fact("purpose", "divides a long run of items without content, so that they can be sent");
        let size = content.len() as u64;
        let data = Data { size, extents: vec![Extent { offset: 0, length: size }], source: &mut Memory(content.as_bytes()) };
        self.put_data(item, data).map(drop)
    }
}

/// Brings an item into what the format allows, whatever the capture made of it: no component of a path may lead out of
/// the folder into which somebody extracts the stream, and a mode holds permission bits only.
fn settle(item: &mut NewItem) {
    if let Some(meta) = &mut item.meta {
        meta.mode &= 0o7777;
    }
    let path = item.path.as_bytes();
    let rest = path.strip_prefix(b"/").unwrap_or(path);
    if rest.is_empty() || rest.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b"..")) {
        return;
    }
    let mut clean: Vec<u8> = Vec::with_capacity(path.len());
    for part in rest.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        if !clean.is_empty() || path.starts_with(b"/") {
            clean.push(b'/');
        }
        clean.extend_from_slice(if part == b".." { b"%2e%2e" } else { part });
    }
    if clean.is_empty() {
        clean.push(b'/');
    }
    let shown = exhibit_evidence::text::escape_bounded(&item.path.to_string(), 1000);
    item.facts.insert("path_as_given".to_owned(), shown);
    item.path = EvidencePath::truncating(&clean);
}

/// Reasons are for people and bounded by the format to 4,096 bytes.
fn bounded_reason(reason: String) -> String {
    const BYTES_MAX: usize = 4_000;
    if reason.len() <= BYTES_MAX {
        return reason;
    }
    let mut end = BYTES_MAX;
    while !reason.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    format!("{} ...", reason.get(..end).unwrap_or_default())
}

/// The line's bytes; a line that is too long loses its longest optional parts rather than the item.
fn to_line(item: Item) -> Result<Vec<u8>, Stop> {
    let line = Line::Item(Box::new(item));
    if let Ok(bytes) = line.to_bytes() {
        return Ok(bytes);
    }
    let Line::Item(mut item) = line else { return Err(Stop::Fatal("an item's line is none".to_owned())) };
    // Readers compare this one with the place of the seam.
    item.facts.retain(|name, _| name == CONTINUED_AT);
    item.facts.insert("facts".to_owned(), "left out: the line was too long".to_owned());
    if let Some(meta) = &mut item.meta {
        meta.xattrs.clear();
        meta.flags.clear();
    }
    item.reason = item.reason.map(|r| exhibit_evidence::text::escape_bounded(&r, 1000));
    Line::Item(item).to_bytes().map_err(Stop::Fatal)
}

/// Status and reason after the copy. The capture's own word stands unless something worse turned out.
fn judge(item: &mut NewItem, copied: &Copied, after: Option<(Status, String)>) {
    let mut reasons: Vec<String> = item.reason.take().into_iter().collect();
    let collected = |status| matches!(status, Status::Collected);
    if copied.ended_early {
        reasons.push("ended early: the file became shorter while it was read".to_owned());
        if collected(item.status) {
            item.status = Status::ChangedDuringRead;
        }
    }
    if let Some((status, reason)) = after {
        if collected(item.status) {
            item.status = status;
        }
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if let Some(error) = &copied.error {
        reasons.push(format!("unreadable ranges: {error}"));
        item.status = if copied.read == 0 { crate::capture::status_of(error).0 } else { Status::Partial };
    }
    if let Some(stop) = &copied.stop {
        reasons.push(format!("not read to the end: {stop}"));
        item.status = Status::Partial;
    }
    if !reasons.is_empty() {
        item.reason = Some(reasons.join("; "));
    }
}

/// What had to be left out of a tar header, and so is left out of the manifest's metadata too: both say the same.
struct Simplified {
    times: bool,
    xattrs: bool,
    why: String,
}

impl Simplified {
    fn apply(self, mut item: NewItem) -> NewItem {
        let Self { times, xattrs, why } = self;
        if !times && !xattrs {
            return item;
        }
        if let Some(meta) = &mut item.meta {
            if times {
                (meta.mtime, meta.atime, meta.ctime) = (None, None, None);
            }
            if xattrs {
                meta.xattrs.clear();
            }
        }
        let reason = item.reason.take().map_or(why.clone(), |r| format!("{r}; {why}"));
        let status = if item.status == Status::Collected { Status::Partial } else { item.status };
        item.with_status(status, reason)
    }
}

/// Appends the member's header bytes; how many data bytes follow.
fn headers(name: &[u8], item: &NewItem, kind: HeadKind<'_>, out: &mut Vec<u8>) -> Result<(u64, Simplified), String> {
    let none = Meta::default();
    let meta = item.meta.as_deref();
    let known = meta.unwrap_or(&none);
    let decode = |text: &String| base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    let xattrs: BTreeMap<String, Vec<u8>> = known.xattrs.iter().map(|(name, value)| (name.clone(), decode(value))).collect();
    let head = Head {
        name,
        kind,
        mode: meta.map_or(0o600, |m| m.mode & 0o7777),
        uid: known.uid,
        gid: known.gid,
        mtime: known.mtime,
        atime: known.atime,
        ctime: known.ctime,
        xattrs: &xattrs,
    };
    let first = match tar::encode(&head, out) {
        Ok(follows) => return Ok((follows, Simplified { times: false, xattrs: false, why: String::new() })),
        Err(first) => first,
    };
    // Impossible attributes or times of a damaged or hostile file system must cost neither the content nor each other.
    let no_xattrs = BTreeMap::new();
    for (times, xattrs, what) in [(false, true, "attributes"), (true, false, "times"), (true, true, "times and attributes")] {
        let mut bare = if times { Head { mtime: None, atime: None, ctime: None, ..head } } else { head };
        if xattrs {
            bare.xattrs = &no_xattrs;
        }
        if let Ok(follows) = tar::encode(&bare, out) {
            return Ok((follows, Simplified { times, xattrs, why: format!("{what} left out: {first}") }));
        }
    }
    Err(format!("not taken: {first}"))
}
