//! The check of one stream: everything that an agent sends is computed again here and compared, segment by segment, in
//! memory that does not grow with the stream. Pure: no clock, no store, no socket. CPU-bound: call it off the async
//! threads.
//!
//! For a segment: announced size and digest are the bytes'; it continues where the segment before ended; its frames and
//! seek table agree (`stream::segment`); its raw bytes continue the tar (`stream::reader`); each member that ends in it
//! has, in the same order, an item line that says the same name, size, digest, kind and place; its segment line says
//! what was computed. Of an encrypted stream less can be checked: see `encrypted`.

use std::collections::{BTreeSet, VecDeque};

use exhibit_evidence::Timestamp;
use exhibit_evidence::digest::{Digest, Hasher};
use exhibit_evidence::manifest::{Across, BOOT_ID_BYTES_MAX, CONTINUED_AT, End, Header, Item, LINE_BYTES_MAX, Line, Segment, Status};
use exhibit_evidence::record::ManifestRef;
use exhibit_evidence::stream::Places;
use exhibit_evidence::stream::reader::{Linkable, Member, Parser, Sink};
use exhibit_evidence::stream::segment::DecodeError;
use exhibit_evidence::text::escape_bounded;
use exhibit_proto::bounds::MANIFEST_BYTES_MAX;

use super::member::{self, MemberFacts};
use super::tools::Decoder;
use crate::catalog::Totals;

/// Most tar members that may end in one segment. Each is remembered (170 bytes, so 45 MB at most) until its item line is
/// compared. The item lines of one segment have at most 10 MiB and a line some 300 bytes: honest agents stay below.
const MEMBERS_PER_SEGMENT_MAX: usize = 262_144;

/// Why an upload is refused: the field, what it said and what was found. The agent broke the contract; what was
/// acknowledged before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadUpload {
    /// The field of the message or line.
    pub field: &'static str,
    /// Value and expectation, escaped.
    pub problem: String,
}

pub(super) fn bad<T>(field: &'static str, problem: impl Into<String>) -> Result<T, BadUpload> {
    Err(BadUpload { field, problem: problem.into() })
}

fn differs<T: PartialEq + std::fmt::Display>(field: &'static str, said: &T, computed: &T) -> Result<(), BadUpload> {
    if said == computed { Ok(()) } else { bad(field, format!("the agent says {said}, the coordinator computed {computed}")) }
}

/// The state of one stream's check after its last good segment.
pub struct StreamCheck {
    header: Header,
    captures: BTreeSet<String>,
    header_seen: bool,
    parser: Parser,
    next_segment: u32,
    raw_offset: u64,
    manifest: Hasher,
    totals: Totals,
    /// Captures that have an item.
    captures_seen: BTreeSet<String>,
    /// What a hard link may name.
    linkable: Linkable,
    /// Where the stream was taken up again by a later process.
    across: Across,
    /// Of a stream that is encrypted: what its lines keep by themselves, instead of the parser.
    places: Places,
}

impl std::fmt::Debug for StreamCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamCheck({} {} next {})", self.header.collection, self.header.stream, self.next_segment)
    }
}

/// What is kept of the check between segments, and across restarts. Lives in the catalog only.
#[derive(serde::Serialize, serde::Deserialize)]
struct Snapshot {
    version: u32,
    header_seen: bool,
    parser: Vec<u8>,
    next_segment: u32,
    raw_offset: u64,
    manifest: Vec<u8>,
    totals: (u64, u64, u64, Vec<(Status, u64)>),
    captures_seen: BTreeSet<String>,
    linkable: Linkable,
    across: Across,
    #[serde(default)]
    places: Places,
}

/// Version of [`Snapshot`]; a change of this, of the parser's or of the hasher's state makes old ones unreadable, and
/// the agent then begins a new stream.
const SNAPSHOT_VERSION: u32 = 3;

impl StreamCheck {
    /// The check of a stream of which nothing has arrived. `header` is what its manifest must begin with, `captures`
    /// what was ordered.
    #[must_use]
    pub fn new(header: Header, captures: BTreeSet<String>) -> Self {
        Self {
            header,
            captures,
            header_seen: false,
            parser: Parser::new(),
            next_segment: 0,
            raw_offset: 0,
            manifest: Hasher::new(),
            totals: Totals::default(),
            captures_seen: BTreeSet::new(),
            linkable: Linkable::default(),
            across: Across::default(),
            places: Places::default(),
        }
    }

    /// The state, to be continued by [`StreamCheck::restore`].
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let t = &self.totals;
        let snapshot = Snapshot {
            version: SNAPSHOT_VERSION,
            header_seen: self.header_seen,
            parser: self.parser.snapshot(),
            next_segment: self.next_segment,
            raw_offset: self.raw_offset,
            manifest: self.manifest.snapshot(),
            totals: (t.items, t.raw_bytes, t.stored_bytes, t.by_status.iter().map(|(s, n)| (*s, *n)).collect()),
            captures_seen: self.captures_seen.clone(),
            linkable: self.linkable.clone(),
            across: self.across,
            places: self.places,
        };
        serde_json::to_vec(&snapshot).unwrap_or_default()
    }

    /// Continues a check; `None` when the snapshot is not one of this version. An empty snapshot is the beginning.
    #[must_use]
    pub fn restore(header: Header, captures: BTreeSet<String>, snapshot: &[u8]) -> Option<Self> {
        if snapshot.is_empty() {
            return Some(Self::new(header, captures));
        }
        let s: Snapshot = serde_json::from_slice(snapshot).ok().filter(|s: &Snapshot| s.version == SNAPSHOT_VERSION)?;
        let (items, raw_bytes, stored_bytes, by_status) = s.totals;
        Some(Self {
            header,
            captures,
            header_seen: s.header_seen,
            parser: Parser::restore(&s.parser)?,
            next_segment: s.next_segment,
            raw_offset: s.raw_offset,
            manifest: Hasher::restore(&s.manifest)?,
            totals: Totals { items, raw_bytes, stored_bytes, by_status: by_status.into_iter().collect() },
            captures_seen: s.captures_seen,
            linkable: s.linkable,
            across: s.across,
            places: s.places,
        })
    }

    /// The segment that must come next.
    #[must_use]
    pub const fn next_segment(&self) -> u32 {
        self.next_segment
    }

    /// Where its raw bytes must begin.
    #[must_use]
    pub const fn raw_offset(&self) -> u64 {
        self.raw_offset
    }

    /// Totals so far.
    #[must_use]
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Checks a whole segment with its manifest lines and takes it. After an error the state is no longer usable: the
    /// caller goes back to the last snapshot.
    ///
    /// # Errors
    /// [`BadUpload`] names what does not agree.
    pub(super) fn take_segment(&mut self, decoder: &mut Decoder, announced: &Segment, bytes: &[u8], lines: &[u8]) -> Result<(), BadUpload> {
        if announced.n != self.next_segment {
            return bad("segment_start.n", format!("{}: segment {} comes next", announced.n, self.next_segment));
        }
        differs("segment_start.raw_offset", &announced.raw_offset, &self.raw_offset)?;
        differs("segment_start.size", &announced.size, &(bytes.len() as u64))?;
        let mut ended = Ended::default();
        if self.is_encrypted() {
            return self.take_encrypted(announced, bytes, lines);
        }
        let (sha256, raw_size) = self.decode(decoder, bytes, announced.raw_size, &mut ended);
        differs("segment_start.sha256", &announced.sha256, &sha256)?;
        let raw_size = raw_size?;
        differs("segment_start.raw_size", &announced.raw_size, &raw_size)?;
        let computed = Segment {
            n: announced.n,
            size: bytes.len() as u64,
            sha256: announced.sha256,
            raw_offset: self.raw_offset,
            raw_size,
            seam: None,
        };
        self.take_segment_lines(&computed, lines, ended)
    }

    /// The second half of a segment's check: its lines against what was computed.
    fn take_segment_lines(&mut self, computed: &Segment, lines: &[u8], mut ended: Ended) -> Result<(), BadUpload> {
        self.take_lines(lines, Some(computed), &mut ended.members)?;
        if let Some(member) = ended.members.front() {
            let at = member.location.offset;
            return bad("manifest_lines", format!("segment {}: the member at raw offset {at} ends in it and has no item line", computed.n));
        }
        self.next_segment =
            self.next_segment.checked_add(1).ok_or(BadUpload { field: "segment_start.n", problem: "too many segments".to_owned() })?;
        self.raw_offset = self.raw_offset.saturating_add(computed.raw_size);
        self.totals.raw_bytes = self.raw_offset;
        self.totals.stored_bytes = self.totals.stored_bytes.saturating_add(computed.size);
        Ok(())
    }

    /// Takes a segment that lies in the store without lines of its agent (the coordinator died between storing it and
    /// committing the lines, and the agent did not come back). Everything that the bytes themselves say is computed;
    /// the lines that are made say plainly what is not known. Gives the segment's facts and the lines.
    ///
    /// # Errors
    /// [`BadUpload`] when the bytes do not continue the stream.
    pub fn adopt_segment(&mut self, bytes: &[u8], at: Timestamp) -> Result<(Segment, Vec<u8>), BadUpload> {
        let mut ended = Ended { keep: true, ..Ended::default() };
        if self.is_encrypted() {
            return self.adopt_encrypted(bytes);
        }
        let mut decoder = Decoder::new(false).or_else(|e| bad("segment_data", e.to_string()))?;
        let (sha256, raw_size) = self.decode(&mut decoder, bytes, u64::MAX, &mut ended);
        let (n, size, raw_offset) = (self.next_segment, bytes.len() as u64, self.raw_offset);
        let facts = Segment { n, size, sha256, raw_offset, raw_size: raw_size?, seam: None };
        let mut lines = Vec::new();
        let mut push = |line: &Line| match line.to_bytes() {
            Ok(bytes) => {
                lines.extend_from_slice(&bytes);
                Ok(())
            }
            Err(e) => bad("manifest_lines", e),
        };
        if !self.header_seen {
            push(&Line::Header(self.header.clone()))?;
        }
        push(&Line::Segment(facts.clone()))?;
        for (n, member) in (self.totals.items..).zip(&ended.adopted) {
            let mut item = member::adopted(n, member, at)?;
            if self.across.lies(&item) {
                item.facts.insert(CONTINUED_AT.to_owned(), "not known: the agent's own line was lost".to_owned());
            }
            push(&Line::Item(Box::new(item)))?;
        }
        self.take_segment_lines(&facts, &lines, ended)?;
        Ok((facts, lines))
    }

    /// Checks the lines after the last segment and the announced end; gives the whole manifest's facts.
    ///
    /// # Errors
    /// [`BadUpload`] names what does not agree.
    pub fn finish(&mut self, lines: &[u8], segments: u32, sha256: Digest, size: u64) -> Result<ManifestRef, BadUpload> {
        if self.next_segment == 0 {
            return bad("finish.segments", "a stream has at least one segment (the tar's end marker)");
        }
        differs("finish.segments", &segments, &self.next_segment)?;
        if self.is_encrypted() {
            self.places.end(self.raw_offset).or_else(|e| bad("finish", e))?;
        } else {
            self.parser.finish().or_else(|e| bad("segment_data", format!("the tar is not complete: {e}")))?;
        }
        let Some(end) = self.take_lines(lines, None, &mut VecDeque::new())? else {
            return bad("manifest_lines", "the manifest has no end line");
        };
        if !end.complete {
            return bad("end.complete", "false: an agent ends its stream itself or not at all");
        }
        self.compare_end(&end)?;
        if let Some(capture) = self.captures.difference(&self.captures_seen).next() {
            return bad("finish", format!("capture '{capture}' was ordered and has no item, not even one that says why"));
        }
        let manifest = self.manifest_ref();
        differs("finish.manifest_bytes", &size, &manifest.size)?;
        differs("finish.manifest_sha256", &sha256, &manifest.sha256)?;
        Ok(manifest)
    }

    fn manifest_ref(&self) -> ManifestRef {
        ManifestRef {
            sha256: self.manifest.clone().finish(),
            size: self.manifest.bytes(),
            segments: self.next_segment,
            stored_bytes: self.totals.stored_bytes,
            raw_bytes: self.totals.raw_bytes,
            items: self.totals.items,
            by_status: self.totals.by_status.clone(),
        }
    }

    fn decode(&mut self, decoder: &mut Decoder, bytes: &[u8], announced_raw: u64, ended: &mut Ended) -> (Digest, Result<u64, BadUpload>) {
        let mut raw_seen = 0_u64;
        let parser = &mut self.parser;
        let mut take = |raw: &[u8]| {
            raw_seen = raw_seen.saturating_add(raw.len() as u64);
            if raw_seen > announced_raw {
                return bad("segment_start.raw_size", format!("the agent says {announced_raw}, the frames hold more"));
            }
            parser.push(raw, ended).or_else(|e| bad("segment_data", format!("the tar is not well formed: {e}")))?;
            if ended.members.len() > MEMBERS_PER_SEGMENT_MAX {
                return bad("segment_data", format!("more than {MEMBERS_PER_SEGMENT_MAX} members end in one segment"));
            }
            Ok(())
        };
        let (sha256, decoded) = decoder.run(bytes, &mut take);
        let raw_size = match decoded {
            Ok(decoded) => Ok(decoded.raw_size),
            Err(DecodeError::Stopped(bad)) => Err(bad),
            Err(DecodeError::Segment(error)) => bad("segment_data", format!("{} ({})", error, error.code())),
        };
        (sha256, raw_size)
    }

    /// Takes manifest lines: with a segment, first its line and then item lines; after the last segment item lines and
    /// the end line, which is given back.
    fn take_lines(
        &mut self,
        bytes: &[u8],
        segment: Option<&Segment>,
        members: &mut VecDeque<MemberFacts>,
    ) -> Result<Option<End>, BadUpload> {
        if self.manifest.bytes().saturating_add(bytes.len() as u64) > MANIFEST_BYTES_MAX {
            return bad("manifest_lines", format!("the manifest would be larger than {MANIFEST_BYTES_MAX} bytes"));
        }
        let mut segment_due = segment;
        let mut end = None;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            if !line.ends_with(b"\n") || line.len() > LINE_BYTES_MAX {
                return bad(
                    "manifest_lines",
                    format!("a line of {} bytes: whole lines of at most {LINE_BYTES_MAX} are allowed", line.len()),
                );
            }
            if end.is_some() {
                return bad("manifest_lines", "lines after the end line");
            }
            let parsed = Line::parse(line).or_else(|e| bad("manifest_lines", escape_bounded(&e, 300)))?;
            match (parsed, segment_due) {
                (Line::Header(header), _) => self.take_header(&header)?,
                _ if !self.header_seen => return bad("manifest_lines", "the first line is not the header"),
                (Line::Segment(said), Some(computed)) => {
                    compare_segment(&said, computed)?;
                    self.across.segment(&said);
                    segment_due = None;
                }
                (Line::Segment(_), None) => return bad("manifest_lines", "a segment line that belongs to no segment"),
                (_, Some(computed)) => return bad("manifest_lines", format!("the line of segment {} does not come first", computed.n)),
                (Line::Item(item), None) => self.take_item(&item, members)?,
                (Line::End(_), None) if segment.is_some() => return bad("manifest_lines", "the end line comes before the end"),
                (Line::End(said), None) => end = Some(said),
            }
            self.manifest.update(line);
        }
        match segment_due {
            Some(computed) => bad("manifest_lines", format!("the line of segment {} is missing", computed.n)),
            None => Ok(end),
        }
    }

    fn take_header(&mut self, said: &Header) -> Result<(), BadUpload> {
        if self.header_seen {
            return bad("manifest_lines", "a second header line");
        }
        if *said != self.header {
            let shown = |h: &Header| format!("{} {} {} {} {} order {}", h.format, h.case, h.collection, h.stream, h.agent, h.order);
            return bad("header", format!("the agent says {}, expected {}", escape_bounded(&shown(said), 400), shown(&self.header)));
        }
        self.header_seen = true;
        Ok(())
    }

    fn take_item(&mut self, item: &Item, members: &mut VecDeque<MemberFacts>) -> Result<(), BadUpload> {
        differs("item.n", &item.n, &self.totals.items)?;
        member::check_line(item, &self.captures)?;
        if !self.across.item(item) {
            let rule = "an item has it exactly when its member lies across the seam of its stream";
            return bad("item.facts.continued_at", format!("item {}: {rule}", item.n));
        }
        if self.is_encrypted() {
            self.take_encrypted_item(item)?;
        } else if let Some(said) = item.location {
            let Some(computed) = members.pop_front() else {
                return bad("item.location", format!("item {}: no member of the tar ends here that has no item line yet", item.n));
            };
            member::compare(item, said, &computed)?;
        }
        if item.location.is_some() && !self.linkable.pass(item) {
            return bad("item.target", format!("item {}: a hard link to what is no file with several names before it", item.n));
        }
        if !self.captures_seen.contains(&item.capture) {
            self.captures_seen.insert(item.capture.clone());
        }
        self.totals.items = self.totals.items.saturating_add(1);
        let count = self.totals.by_status.entry(item.status).or_default();
        *count = count.saturating_add(1);
        Ok(())
    }

    fn compare_end(&self, end: &End) -> Result<(), BadUpload> {
        differs("end.segments", &end.segments, &self.next_segment)?;
        differs("end.stored_bytes", &end.stored_bytes, &self.totals.stored_bytes)?;
        differs("end.raw_bytes", &end.raw_bytes, &self.totals.raw_bytes)?;
        differs("end.items", &end.items, &self.totals.items)?;
        if end.by_status != self.totals.by_status {
            return bad(
                "end.by_status",
                format!("the agent says {:?}, the coordinator counted {:?}", end.by_status, self.totals.by_status),
            );
        }
        Ok(())
    }
}

fn compare_segment(said: &Segment, computed: &Segment) -> Result<(), BadUpload> {
    differs("segment.n", &said.n, &computed.n)?;
    differs("segment.size", &said.size, &computed.size)?;
    differs("segment.sha256", &said.sha256, &computed.sha256)?;
    differs("segment.raw_offset", &said.raw_offset, &computed.raw_offset)?;
    differs("segment.raw_size", &said.raw_size, &computed.raw_size)?;
    match &said.seam {
        Some(_) if said.n == 0 => bad("segment.seam", "a stream cannot be taken up again before its first segment"),
        Some(seam) if seam.boot_id.len() > BOOT_ID_BYTES_MAX => {
            bad("segment.seam.boot_id", format!("{} bytes: at most {BOOT_ID_BYTES_MAX} are allowed", seam.boot_id.len()))
        }
        _ => Ok(()),
    }
}

/// The members that ended since the last look.
#[derive(Default)]
struct Ended {
    members: VecDeque<MemberFacts>,
    /// Keep the members themselves as well, to make lines of them.
    keep: bool,
    adopted: Vec<Member>,
}

impl Sink for Ended {
    fn end(&mut self, member: &Member) {
        // One more than allowed is enough to be noticed; the rest of the frame must not grow it further.
        if self.members.len() <= MEMBERS_PER_SEGMENT_MAX {
            self.members.push_back(MemberFacts::of(member));
            if self.keep {
                self.adopted.push(member.clone());
            }
        }
    }
}

mod encrypted;

#[cfg(test)]
mod tests;
