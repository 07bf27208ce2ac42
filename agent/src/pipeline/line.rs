//! Lines of the manifest: one for each item, within what the format and the largest manifest allow.

use std::sync::atomic::Ordering;

use exhibit_evidence::EvidencePath;
use exhibit_evidence::manifest::{CONTINUED_AT, Item, Kind, Line, Status, Taken};

use super::bookmark::Point;
use super::content::Copied;
use super::data::{Data, Ending, Memory};
use super::taker::{Taker, may_mark};
use crate::capture::{Extent, NewItem, Stop};
use crate::clock;

/// After this many bytes of lines without raw data a small record is put, so that segments can be cut.
const LINES_WITHOUT_RAW_MAX: usize = 2 << 20;
/// What is kept free of the manifest for the lines of segments, of captures that are not begun, and the end.
const MANIFEST_RESERVE_BYTES: u64 = 16 << 20;

/// How many attributes of an item are nowhere, because its case is encrypted and it is not in the stream.
const XATTRS_LEFT_OUT: &str = "xattrs_left_out";

impl Taker {
    /// Writes an item's line.
    pub(super) fn record(&mut self, mut item: NewItem, ending: Ending) -> Result<Status, Stop> {
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
    /// those of what lies in it; of what does not, the line says how many are left out.
    fn close_attributes(&self, item: &mut NewItem, is_in_stream: bool) {
        let Some(meta) = item.meta.as_mut().filter(|m| self.encrypts && !m.xattrs.is_empty()) else { return };
        let count = meta.xattrs.len();
        meta.xattrs.clear();
        if !is_in_stream {
            item.facts.insert(XATTRS_LEFT_OUT.to_owned(), count.to_string());
        }
    }

    /// From three quarters of the largest manifest on, lines go without attributes and facts: whoever may write files on a
    /// host must not be able to fill the list with them before the rest is taken. Attributes stand in the stream.
    fn leaner(&self, mut line: Item) -> Item {
        if self.account.manifest_bytes >= self.manifest_bytes_max / 4 * 3 {
            if let Some(meta) = line.meta.as_mut().filter(|_| line.location.is_some()) {
                meta.xattrs.clear();
            }
            line.facts.retain(|name, _| name == CONTINUED_AT || name == XATTRS_LEFT_OUT);
        }
        line
    }

    /// Tens of thousands of items by record in a row leave nothing in the raw stream where a segment could end.
    pub(super) fn keep_segments_cuttable(&mut self) -> Result<(), Stop> {
        if self.frames.lines_since_raw() < LINES_WITHOUT_RAW_MAX {
            return Ok(());
        }
        let content = format!("{{\"items_before\":{}}}\n", self.account.items);
        let item = NewItem::record(&format!("items-by-record.{}.json", self.account.items), clock::now(), "count")
            .with_fact("purpose", "divides a long run of items without content, so that they can be sent");
        let size = content.len() as u64;
        let data = Data { size, extents: vec![Extent { offset: 0, length: size }], source: &mut Memory(content.as_bytes()), spare: true };
        self.put_data(item, data).map(drop)
    }
}

/// Brings an item into what the format allows, whatever the capture made of it: no component of a path may lead out of
/// the folder into which somebody extracts the stream, and a mode holds permission bits only.
pub(super) fn settle(item: &mut NewItem) {
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
    item.facts.retain(|name, _| name == CONTINUED_AT || name == XATTRS_LEFT_OUT);
    item.facts.insert("facts".to_owned(), "left out: the line was too long".to_owned());
    if let Some(meta) = &mut item.meta {
        meta.xattrs.clear();
        meta.flags.clear();
    }
    item.reason = item.reason.map(|r| exhibit_evidence::text::escape_bounded(&r, 1000));
    Line::Item(item).to_bytes().map_err(Stop::Fatal)
}

/// Status and reason after the copy. The capture's own word stands unless something worse turned out.
pub(super) fn judge(item: &mut NewItem, copied: &Copied, after: Option<(Status, String)>) {
    let mut reasons: Vec<String> = item.reason.take().into_iter().collect();
    let collected = |status| matches!(status, Status::Collected);
    if copied.ended_early {
        reasons.push("ended early: the file became shorter while it was read".to_owned());
        if collected(item.status) {
            item.status = Status::ChangedDuringRead;
        }
    }
    if let Some((status, reason)) = after {
        // A source that was not read whole because it became shorter may say that this is a part.
        let is_part = copied.ended_early && status == Status::Partial && item.status == Status::ChangedDuringRead;
        if collected(item.status) || is_part {
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
