//! The output that captures put their items into: numbers them, writes their tar members and their manifest lines.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::manifest::{CONTINUED_AT, Kind, Location, Meta, Status};
use exhibit_evidence::stream::reader::{HOLE_BYTES_MAX, MemberKind, Symlinks};
use exhibit_evidence::stream::tar::{self, HeadKind};
use exhibit_evidence::{EvidencePath, Hasher};

use super::Progress;
use super::bookmark::{self, Account, Draft, Passed, Pending, Point};
use super::content::{Copy, State};
use super::data::{BY_RECORD, Contents, Data, Ending, Lost, Member, Memory};
use super::frames::FrameWriter;
use super::header::{Simplified, headers};
use super::line::{judge, settle};
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
    /// Bytes below the limit that are kept for tables under construction.
    pub kept: u64,
    /// Once its capture was told that the collection is to end: until when the records that it has in memory are written.
    pub closing_until: Option<Duration>,
    /// The header of a member on its way into the stream.
    pub header: Vec<u8>,
}

/// Programs that are remembered by name for the footprint; captures run a handful.
const COMMANDS_MAX: usize = 256;
const COMMAND_CHARS_MAX: usize = 400;
/// What is kept free for headers, records and the end of the stream when the raw limit is checked.
const LIMIT_RESERVE_BYTES: u64 = 64 << 10;
/// What only records may use of the raw limit: a sixteenth, at most this. What lists the evidence must fit behind the evidence.
const RECORDS_RESERVE_BYTES_MAX: u64 = 16 << 20;
/// A hole is hashed by both sides at about 1.7 GB/s; beyond this a file's logical size is a trap, not evidence.
const HOLE_BYTES_PER_ITEM_MAX: u64 = 256 << 30;

/// How long a capture that was told to end may begin to put the records that it has in memory. They are some MiB; nothing is read meanwhile.
const CLOSING: Duration = Duration::from_secs(5);

/// Capacity that the buffer for headers keeps from one member to the next.
const HEADER_BYTES_KEPT: usize = 64 << 10;

/// A collection that was told to end is ended by its process; nobody takes it up.
pub(super) fn may_mark(account: &Account, control: &Control) -> bool {
    account.stopped.is_none() && control.check().is_ok()
}

/// What a capture puts after it was told to end holds what it had by then.
fn cut_by(item: &mut NewItem, stop: &Stop) {
    if !matches!(item.status, Status::Collected | Status::Partial) {
        return;
    }
    item.status = Status::Partial;
    let (said, why) = (item.reason.take().unwrap_or_default(), stop.to_string());
    item.reason = Some(match said.as_str() {
        "" => format!("not finished: {why}"),
        said if said.contains(&why) => said.to_owned(),
        said => format!("{said}; not finished: {why}"),
    });
}

/// What is not put any more is not taken, whatever its capture says of the parts that there would have been. A line that has no content
/// anyway says the same with or without a stop.
fn leave_out(item: &mut NewItem, content: &Content<'_>, stop: &Stop) {
    let has_member = !matches!(content, Content::None) || matches!(item.kind, Kind::Directory | Kind::Symlink);
    let is_lost = match item.status {
        Status::Collected => true,
        Status::Partial | Status::ChangedDuringRead => has_member,
        _ => false,
    };
    if is_lost {
        item.status = Status::Skipped;
        let said = item.reason.take().map_or_else(String::new, |said| format!("; {said}"));
        item.reason = Some(format!("not taken: {stop}{said}"));
    }
}

impl Output for Taker {
    fn put(&mut self, mut item: NewItem, content: Content<'_>) -> Result<Status, Stop> {
        settle(&mut item);
        self.kept = self.kept.saturating_sub(item.room.kept);
        if let Some(status) = self.passed_as(item.path.as_bytes(), item.meta.as_deref(), item.status) {
            return Ok(status);
        }
        if let Err(stop) = self.pace.cpu(&self.control) {
            return self.put_at_the_end(item, &content, stop);
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
                let spare = item.room.spare;
                self.put_data(item, Data { size, extents, source: &mut Memory(bytes), spare })?
            }
            Content::Source { size, extents, source } => {
                let whole = || vec![Extent { offset: 0, length: size }];
                let extents = tar::tidy_extents(extents.unwrap_or_else(whole), size);
                self.put_data(item, Data { size, extents, source, spare: false })?
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
        let told = self.pace.cpu(&self.control);
        if told.is_err() {
            self.hear();
        }
        told
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

    fn keep_room(&mut self, bytes: u64) -> bool {
        if bytes > self.room_left(LIMIT_RESERVE_BYTES) {
            let said = format!("{}: rows of its tables are left out: the limit of {} raw bytes", self.capture, self.raw_bytes_max);
            if !self.account.reasons.contains(&said) {
                self.account.reasons.push(said);
            }
            return false;
        }
        self.kept = self.kept.saturating_add(bytes);
        true
    }

    fn ran(&mut self, command: String) {
        if self.account.commands.len() < COMMANDS_MAX {
            self.account.commands.push(exhibit_evidence::text::escape_bounded(&command, COMMAND_CHARS_MAX));
        }
    }
}

impl Taker {
    /// Notes that the capture is told to end. Returns whether it was told before: then what it puts now ends where it was told.
    fn hear(&mut self) -> bool {
        let before = self.closing_until.is_some();
        self.closing_until.get_or_insert_with(|| clock::monotonic().saturating_add(CLOSING));
        before
    }

    /// Puts an item of a collection that is to end. A record is in memory, and there is no other time for it: it is written whole for
    /// a while. Nothing else is read any more. Returns the stop in any case.
    fn put_at_the_end(&mut self, mut item: NewItem, content: &Content<'_>, stop: Stop) -> Result<Status, Stop> {
        let was_told = self.hear();
        let in_time = self.closing_until.is_some_and(|until| clock::monotonic() < until) && self.control.may_close();
        match content {
            Content::Bytes(bytes) if in_time && item.kind == Kind::Record => {
                if was_told {
                    cut_by(&mut item, &stop);
                }
                self.put_beside(item, bytes, true)?;
            }
            _ => {
                leave_out(&mut item, content, &stop);
                self.record(item, BY_RECORD)?;
            }
        }
        Err(stop)
    }

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
        match self.header(&name, &item, kind) {
            Ok((_, simplified)) => {
                if let Some(refusal) = self.over_limit(self.header.len() as u64, false) {
                    return self.record(item.with_status(Status::Skipped, refusal), BY_RECORD);
                }
                if let Some(why) = self.against_name(&name, member_kind) {
                    return self.record(item.with_status(Status::Error, why), BY_RECORD);
                }
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
    fn header(&mut self, name: &[u8], item: &NewItem, kind: HeadKind<'_>) -> Result<(u64, Simplified), String> {
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

    pub(super) fn put_data(&mut self, mut item: NewItem, data: Data<'_>) -> Result<Status, Stop> {
        if !matches!(item.kind, Kind::File | Kind::Record) {
            item.kind = Kind::File;
        }
        item.target = None;
        // A manifest line cannot state a longer target, and whoever extracts the stream must not be led through a link: then
        // the content is taken once more.
        let first_name = item
            .inode
            .and_then(|inode| self.links.member(inode))
            .filter(|name| name.len() <= EvidencePath::BYTES_MAX && !self.symlinks.covers(name));
        if let Some(target) = first_name.map(<[u8]>::to_vec) {
            return self.put_hardlink(item, &target);
        }
        if let Some(refusal) = self.over_bounds(&data, item.room.kept) {
            return self.record(item.with_status(Status::Skipped, refusal), BY_RECORD);
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
        let (follows, simplified) = match self.header(&name, &item, kind) {
            Ok(parts) => parts,
            Err(why) => return self.record(item.with_status(Status::Error, why), BY_RECORD),
        };
        // Headers are bytes as well: of empty files there is nothing else. What is kept beside the limit is for those of records.
        let with_header = (self.header.len() as u64).saturating_add(follows);
        if !data.spare
            && let Some(refusal) = self.over_limit(with_header, false)
        {
            return self.record(item.with_status(Status::Skipped, refusal), BY_RECORD);
        }
        let offset = self.frames.raw_offset();
        self.write_header()?;
        let item = simplified.apply(item);
        let member = Member { name, offset, follows };
        let Data { size, extents, source, .. } = data;
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
        if stop.is_some() {
            self.hear();
        }
        let ending = Ending { size, sha256: Some(copied.sha256), location: Some(location), gaps: copied.gaps };
        // What lies beside it is known to this process only: between the two no other one may take the stream up.
        let again = self.again;
        self.again = again && beside.is_none();
        let recorded = self.record(item, ending);
        self.again = again;
        // Its line may be the one that fills the list of items, or the collection was told to end: what is kept free of the list has
        // room for the line of what lies beside it, which would otherwise be named in the item and be nowhere.
        let put = beside.map(|Beside { item, content }| self.put_beside(item, &content, stop.is_some()));
        let status = recorded?;
        put.transpose()?;
        stop.map_or(Ok(status), Err)
    }

    /// Puts what belongs to an item that is in the stream. It is in memory and there is no other time for it: told to end or
    /// not, it is written whole.
    fn put_beside(&mut self, item: NewItem, content: &[u8], is_told_to_end: bool) -> Result<Status, Stop> {
        let size = content.len() as u64;
        let data = Data { size, extents: vec![Extent { offset: 0, length: size }], source: &mut Memory(content), spare: true };
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

    /// Why this content is left out, if a limit says so. `kept` bytes of room were kept for it.
    fn over_bounds(&mut self, data: &Data<'_>, kept: u64) -> Option<String> {
        let stored = data.stored();
        // What other headers took of its room meanwhile comes from the part that is there for them.
        let is_promised = stored <= kept && stored <= self.room_left(LIMIT_RESERVE_BYTES / 2);
        if !is_promised && let Some(refusal) = self.over_limit(stored, data.spare) {
            return Some(refusal);
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

    /// Why so many bytes are left out, if the limit of raw bytes has no room for them. `spare`: they may use what is kept for
    /// records.
    fn over_limit(&mut self, bytes: u64, spare: bool) -> Option<String> {
        let for_records = if spare { 0 } else { (self.raw_bytes_max / 16).min(RECORDS_RESERVE_BYTES_MAX) };
        let left = self.room_left(LIMIT_RESERVE_BYTES.saturating_add(for_records));
        if bytes <= left {
            return None;
        }
        self.account.over_limit = self.account.over_limit.saturating_add(1);
        Some(format!("{bytes} bytes: only {left} of the collection's limit of {} raw bytes are left", self.raw_bytes_max))
    }

    /// Bytes below the limit that are kept for no table, and not reserved either.
    const fn room_left(&self, reserve: u64) -> u64 {
        let kept = self.kept.saturating_add(reserve);
        self.raw_bytes_max.saturating_sub(self.frames.raw_offset()).saturating_sub(kept)
    }

    /// A further name of a file that is in the stream costs its header and nothing else.
    fn put_hardlink(&mut self, item: NewItem, target: &[u8]) -> Result<Status, Stop> {
        let name = item.path.member_name(&self.capture);
        if let Some(why) = self.against_name(&name, MemberKind::Hardlink) {
            return self.record(item.with_status(Status::Error, why), BY_RECORD);
        }
        match self.header(&name, &item, HeadKind::Hardlink { target }) {
            Ok((_, simplified)) => {
                if let Some(refusal) = self.over_limit(self.header.len() as u64, false) {
                    return self.record(item.with_status(Status::Skipped, refusal), BY_RECORD);
                }
                let location = self.member()?;
                let mut item = simplified.apply(item);
                item.kind = Kind::Hardlink;
                item.target = Some(EvidencePath::truncating(target));
                self.record(item, Ending { location: Some(location), ..BY_RECORD })
            }
            Err(why) => self.record(item.with_status(Status::Error, why), BY_RECORD),
        }
    }
}
