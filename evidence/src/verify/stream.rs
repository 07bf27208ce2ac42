//! One stream against its manifest, read together: the next manifest lines are read when the parser reports a member,
//! so that neither the lines nor the members of a segment are ever held in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use super::encrypted;
use super::inventory::Inventory;
use super::item::About;
use super::lines::{Lines, NoLine};
use super::{CaseFiles, Cause, Code, Findings, read_bounded, unreadable};
use crate::age::{Form, Identity, Recipient};
use crate::digest::Digest;
use crate::layout::CaseObject;
use crate::manifest::{Across, BOOT_ID_BYTES_MAX, CONTINUED_AT, End, FORMAT, Header, Item, Line, Segment, Status};
use crate::stream::reader::{Linkable, Member, Parser, Sink};
use crate::stream::segment::SegmentDecoder;
use crate::stream::{Places, SEGMENT_BYTES_MAX};
use crate::text::escape_bounded;

pub(super) use super::chain::Job;

/// What was read of a stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub segments: u64,
    pub items: u64,
    pub by_status: BTreeMap<Status, u64>,
    pub items_verified: u64,
    pub items_unchecked: u64,
    pub raw_bytes_unread: u64,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    /// Recipients whose identity was given and did not open every segment.
    pub closed: BTreeSet<Recipient>,
}

/// Verifies one stream. `tick` hears the bytes and items of each step.
pub(super) fn verify(
    files: &dyn CaseFiles,
    job: &Job,
    identities: &[Identity],
    inventory: &mut Inventory,
    findings: &mut Findings,
    tick: &mut dyn FnMut(u64, u64),
) -> Tally {
    let manifest = CaseObject::Manifest(job.collection.clone(), job.stream).to_string();
    if inventory.take_manifest(&job.collection, job.stream).is_none() {
        findings.add(Code::ManifestMissing, &manifest, format!("stream {}.{} has a receipt and no manifest", job.collection, job.stream));
        return Tally::default();
    }
    let reader = match files.open(&manifest) {
        Ok(reader) => reader,
        Err(e) => {
            findings.add(unreadable(&e, Code::ManifestMissing), &manifest, format!("the manifest cannot be read: {e}"));
            return Tally::default();
        }
    };
    let mark = findings.mark();
    let walk = Walk {
        about: About { job, findings },
        // A byte more than was signed is enough to show that there is more.
        lines: Lines::new(Box::new(reader.take(job.manifest.size.saturating_add(1)))),
        manifest,
        unreadable: false,
        in_step: true,
        lost: None,
        altered: None,
        tally: Tally::default(),
        stated: Stated::default(),
        unverified: None,
        linkable: Linkable::default(),
        captures: BTreeSet::new(),
        across: Across::default(),
        opaque: (!job.encrypt_to.is_none() && identities.is_empty()).then(Places::default),
    };
    let (parser, buffer, plain) = (Some(Parser::new()), Vec::new(), Vec::new());
    Reading { files, identities, inventory, parser, decoder: None, buffer, plain, walk }.run(mark, tick)
}

/// Sums over the lines of the manifest, to be compared with its totals.
#[derive(Debug, Default)]
struct Stated {
    segments: u32,
    stored_bytes: u64,
    raw_bytes: u64,
    items: u64,
    by_status: BTreeMap<Status, u64>,
    /// The last segment is stated without raw bytes.
    ends_undescribed: bool,
}

/// The manifest side: hears of members from the parser and reads the lines that belong to them.
struct Walk<'a> {
    about: About<'a>,
    lines: Lines<'a>,
    manifest: String,
    /// A line could not be read: nothing after it is compared.
    unreadable: bool,
    /// The parser still sees the stream: members and items can be compared.
    in_step: bool,
    /// What first kept a part of the stream from being followed.
    lost: Option<Cause>,
    /// Where in the raw stream the last altered segment ends, and what was found about it.
    altered: Option<(u64, Cause)>,
    tally: Tally,
    stated: Stated,
    /// Count, first and last number of items that could not be compared.
    unverified: Option<(u64, u64, u64)>,
    /// What a hard link may name.
    linkable: Linkable,
    /// Captures that have an item.
    captures: BTreeSet<String>,
    /// Where the stream was taken up again.
    across: Across,
    /// Set when the contents cannot be read: the lines are checked by themselves.
    opaque: Option<Places>,
}

impl Walk<'_> {
    fn add(&mut self, code: Code, message: impl AsRef<str>) {
        self.about.findings.add(code, &self.manifest, message);
    }

    /// What is found about a place in the stream that an altered segment holds, or that goes on from one, follows from that.
    fn because_of_place(&mut self, offset: u64) {
        self.about.findings.because(self.altered.as_ref().filter(|(end, _)| offset < *end).map(|(_, cause)| cause.clone()));
    }

    fn because_of_nothing(&mut self) {
        self.about.findings.because(None);
    }

    fn next_line(&mut self) -> Option<Line> {
        if self.unreadable {
            return None;
        }
        let message = match self.lines.next() {
            Ok(line) => return Some(line),
            Err(NoLine::End) => "the manifest ends without its last line".to_owned(),
            Err(NoLine::Io(e)) => format!("the manifest cannot be read on: {e}"),
            Err(NoLine::Bad(n, e)) => format!("line {n}: {e}"),
        };
        self.unreadable = true;
        self.add(Code::ManifestMalformed, message);
        None
    }

    fn header(&mut self) {
        let Some(line) = self.next_line() else { return };
        let Line::Header(header) = line else {
            self.unreadable = true;
            self.add(Code::ManifestOrder, "the first line is not the header");
            return;
        };
        let job = self.about.job;
        let expected = Header {
            format: FORMAT.to_owned(),
            case: job.case.clone(),
            collection: job.collection.clone(),
            stream: job.stream,
            agent: job.agent.clone(),
            order: job.order,
            encrypted_to: job.encrypt_to.clone(),
        };
        if header != expected {
            let message = format!(
                "the header is of {} {}.{}, case {}, agent {}, order {}, encrypted to '{}'",
                escape_bounded(&header.format, 40),
                header.collection,
                header.stream,
                header.case,
                header.agent,
                header.order,
                header.encrypted_to
            );
            self.add(Code::ManifestHeader, message);
        }
    }

    /// Books an item line and checks the rules that need nothing else.
    fn book(&mut self, item: &Item) {
        let expected = self.stated.items;
        if item.n != expected {
            self.add(Code::ManifestOrder, format!("item {} stands where item {expected} belongs", item.n));
        }
        self.stated.items = item.n.saturating_add(1);
        self.tally.items = self.tally.items.saturating_add(1);
        let of_status = self.stated.by_status.entry(item.status).or_default();
        *of_status = of_status.saturating_add(1);
        if !self.captures.contains(&item.capture) {
            self.captures.insert(item.capture.clone());
        }
        let errors = self.errors();
        self.about.check_alone(item);
        if !self.across.item(item) {
            self.check_seam(item);
        }
        if item.location.is_none() {
            self.count_if_good(errors);
        }
    }

    fn errors(&self) -> u64 {
        self.about.findings.counts().0
    }

    /// Counts an item as verified when no error was added since there were so many.
    fn count_if_good(&mut self, errors_before: u64) {
        if self.errors() == errors_before {
            self.tally.items_verified = self.tally.items_verified.saturating_add(1);
        }
    }

    fn check_seam(&mut self, item: &Item) {
        let id = format!("{}.{}.{}", self.about.job.collection, self.about.job.stream, item.n);
        let said = if item.facts.contains_key(CONTINUED_AT) { "says that it does and does not" } else { "does and does not say so" };
        self.about.findings.add(Code::ItemSeam, id, format!("item {}: whether it lies across a seam: it {said}", item.n));
    }

    /// An item whose member was not seen.
    fn unmatched(&mut self, item: &Item) {
        if self.in_step {
            let id = format!("{}.{}.{}", self.about.job.collection, self.about.job.stream, item.n);
            let offset = item.location.map_or(0, |l| l.offset);
            let path = escape_bounded(&item.path.to_string(), 300);
            let message = format!("item {} ('{path}') is stated at offset {offset}, where no member of this segment is", item.n);
            self.because_of_place(offset);
            self.about.findings.add(Code::ItemWithoutMember, id, message);
            self.because_of_nothing();
        } else {
            let (count, first, _) = self.unverified.unwrap_or((0, item.n, item.n));
            self.unverified = Some((count.saturating_add(1), first, item.n));
        }
    }

    /// A hard link names a file that stands before it: without it, it has no content.
    fn check_link(&mut self, item: &Item) {
        // After a loss the file may have been in what is lost.
        if !self.linkable.pass(item) && self.lost.is_none() {
            let target = item.target.as_ref().map(ToString::to_string).unwrap_or_default();
            let shown = escape_bounded(&target, 300);
            let id = format!("{}.{}.{}", self.about.job.collection, self.about.job.stream, item.n);
            let message = format!("item {} is a hard link to '{shown}', which is no file with several names before it", item.n);
            self.about.findings.add(Code::ItemLink, id, message);
        }
    }

    /// Reads the item lines that are left for a segment; the line after them is kept for the caller.
    fn rest_of_segment(&mut self) {
        while let Some(line) = self.next_line() {
            let Line::Item(item) = line else {
                self.lines.hold(line);
                return;
            };
            self.book(&item);
            if item.location.is_some() && self.opaque.is_some() {
                self.alone(&item);
            } else if item.location.is_some() {
                self.unmatched(&item);
            }
        }
    }

    /// An item of a stream that cannot be read: its place follows that of the one before and ends in its segment.
    fn alone(&mut self, item: &Item) {
        self.tally.items_unchecked = self.tally.items_unchecked.saturating_add(1);
        if let Some(Err(problem)) = self.opaque.as_mut().map(|places| places.item(item)) {
            self.add(Code::ManifestOrder, problem);
        }
        self.check_link(item);
    }

    fn end(&mut self, end: &End) {
        let signed = self.about.job.manifest.clone();
        let sums = &self.stated;
        let stated = End {
            complete: self.about.job.agent_signed,
            segments: sums.segments,
            stored_bytes: sums.stored_bytes,
            raw_bytes: sums.raw_bytes,
            items: sums.items,
            by_status: sums.by_status.clone(),
        };
        // The agent leaves at least one item for each capture, also where it found nothing.
        let empty = self.about.job.captures.iter().filter(|c| self.about.job.agent_signed && !self.captures.contains(*c));
        let empty: Vec<String> = empty.map(|c| escape_bounded(c, 80)).collect();
        if !empty.is_empty() && self.lost.is_none() {
            self.add(Code::CaptureEmpty, format!("no item of: {}", empty.join(", ")));
        }
        if stated.segments == 0 {
            self.add(Code::ManifestOrder, "the stream has no segment");
        }
        if *end != stated {
            let message = format!("the last line states {}, the lines add up to {}", totals(end), totals(&stated));
            self.add(Code::ManifestTotals, message);
        }
        let receipt = End {
            complete: stated.complete,
            segments: signed.segments,
            stored_bytes: signed.stored_bytes,
            raw_bytes: signed.raw_bytes,
            items: signed.items,
            by_status: signed.by_status,
        };
        if receipt != stated {
            let message = format!("the receipt states {}, the lines add up to {}", totals(&receipt), totals(&stated));
            self.add(Code::ManifestTotals, message);
        }
    }
}

fn totals(end: &End) -> String {
    let by_status: Vec<String> = end.by_status.iter().map(|(status, n)| format!("{n} {}", status.as_str())).collect();
    format!(
        "{} stream, {} segments, {} stored bytes, {} raw bytes, {} items ({})",
        if end.complete { "whole" } else { "incomplete" },
        end.segments,
        end.stored_bytes,
        end.raw_bytes,
        end.items,
        by_status.join(", ")
    )
}

impl Sink for Walk<'_> {
    /// A member ended: the next item line with a location must be its item.
    fn end(&mut self, member: &Member) {
        while let Some(line) = self.next_line() {
            let Line::Item(item) = line else {
                self.lines.hold(line);
                break;
            };
            match item.location {
                Some(location) if location.offset > member.offset => {
                    // It belongs to a later member, so this member has no item.
                    self.lines.hold(Line::Item(item));
                    break;
                }
                Some(location) if location.offset < member.offset => {
                    self.book(&item);
                    self.unmatched(&item);
                }
                Some(_) => {
                    let errors = self.errors();
                    self.book(&item);
                    self.because_of_place(member.offset);
                    self.about.check_member(&item, member);
                    self.because_of_nothing();
                    self.check_link(&item);
                    self.count_if_good(errors);
                    return;
                }
                None => self.book(&item),
            }
        }
        if !self.unreadable {
            let name = escape_bounded(&crate::text::escape_bytes(&member.head.name), 300);
            self.because_of_place(member.offset);
            self.add(Code::ItemUnlisted, format!("the member '{name}' at offset {} has no item in its segment", member.offset));
            self.because_of_nothing();
        }
    }
}

/// The segment side: reads, decodes, parses.
struct Reading<'a, 'f> {
    files: &'f dyn CaseFiles,
    inventory: &'f mut Inventory,
    /// Gone when the stream could not be followed any more.
    parser: Option<Parser>,
    /// One zstd context for all segments, made for the first.
    decoder: Option<SegmentDecoder>,
    buffer: Vec<u8>,
    /// Of an encrypted segment: what `buffer` is swapped with.
    plain: Vec<u8>,
    identities: &'f [Identity],
    walk: Walk<'a>,
}

impl Reading<'_, '_> {
    fn run(mut self, mark: usize, tick: &mut dyn FnMut(u64, u64)) -> Tally {
        self.walk.header();
        while let Some(line) = self.walk.next_line() {
            match line {
                Line::Segment(facts) => {
                    let before = (self.walk.tally.stored_bytes, self.walk.tally.items);
                    self.segment(&facts);
                    self.walk.rest_of_segment();
                    let tally = &self.walk.tally;
                    tick(tally.stored_bytes.saturating_sub(before.0), tally.items.saturating_sub(before.1));
                }
                Line::Item(item) => {
                    self.walk.add(Code::ManifestOrder, format!("item {} stands before the first segment", item.n));
                    self.walk.book(&item);
                }
                Line::End(end) => {
                    self.walk.end(&end);
                    self.end_of_stream(end.complete);
                    break;
                }
                Line::Header(_) => {
                    self.walk.add(Code::ManifestOrder, "a second header");
                    self.walk.unreadable = true;
                }
            }
        }
        self.finish(mark)
    }

    fn segment(&mut self, facts: &Segment) {
        let job = self.walk.about.job;
        let name = CaseObject::Segment(job.collection.clone(), job.stream, facts.n).to_string();
        let walk = &mut self.walk;
        if facts.n != walk.stated.segments {
            let message = format!("segment {} stands where segment {} belongs", facts.n, walk.stated.segments);
            walk.add(Code::ManifestOrder, message);
        }
        if facts.raw_offset != walk.stated.raw_bytes {
            let message = format!(
                "segment {} is stated to begin at {} of the raw stream, the ones before it end at {}",
                facts.n, facts.raw_offset, walk.stated.raw_bytes
            );
            walk.about.findings.add(Code::SegmentRange, &name, message);
        }
        // Whoever reads the frames sees it; of those of an encrypted segment only the line tells.
        let undescribed = facts.raw_size == 0;
        let fits = if undescribed { !job.agent_signed } else { !walk.stated.ends_undescribed };
        if !fits && !job.encrypt_to.is_none() {
            let message = format!(
                "segment {} is stated with {} raw bytes: none have only the last segments of a stream that its agent did not end",
                facts.n, facts.raw_size
            );
            walk.about.findings.add(Code::SegmentRange, &name, message);
        }
        walk.stated.ends_undescribed = undescribed;
        walk.across.segment(facts);
        if facts.seam.as_ref().is_some_and(|seam| facts.n == 0 || seam.boot_id.len() > BOOT_ID_BYTES_MAX) {
            walk.about.findings.add(Code::ItemSeam, &name, format!("segment {} cannot have this seam", facts.n));
        }
        walk.stated.segments = facts.n.saturating_add(1);
        walk.stated.stored_bytes = walk.stated.stored_bytes.saturating_add(facts.size);
        walk.stated.raw_bytes = walk.stated.raw_bytes.saturating_add(facts.raw_size);
        if self.inventory.take_segment(&job.collection, job.stream, facts.n).is_none() {
            let message = format!("segment {} of {} bytes is not there", facts.n, facts.size);
            return self.lose(Code::SegmentMissing, &name, &message);
        }
        if let Err(e) = read_bounded(self.files, &name, SEGMENT_BYTES_MAX as u64, &mut self.buffer) {
            return self.lose(unreadable(&e, Code::SegmentMissing), &name, &format!("segment {} cannot be read: {e}", facts.n));
        }
        let (size, sha256) = (self.buffer.len() as u64, Digest::of(&self.buffer));
        let tally = &mut self.walk.tally;
        tally.segments = tally.segments.saturating_add(1);
        tally.stored_bytes = tally.stored_bytes.saturating_add(size);
        if size != facts.size || sha256 != facts.sha256 {
            let message =
                format!("stored are {size} bytes with SHA-256 {sha256}, the manifest states {} bytes with {}", facts.size, facts.sha256);
            self.walk.about.findings.add(Code::SegmentDigest, &name, message);
            let cause = Cause { code: Code::SegmentDigest, object: name.clone() };
            self.walk.altered = Some((facts.raw_offset.saturating_add(facts.raw_size), cause));
        }
        if job.encrypt_to.is_none() || self.open(facts, &name) {
            let begin = if self.parser.is_some() { facts.raw_offset } else { self.resume(facts) };
            self.decode(facts, &name, begin);
        }
    }

    /// Opens an encrypted segment in the buffer; false when there is nothing to decode.
    fn open(&mut self, facts: &Segment, name: &str) -> bool {
        let job = self.walk.about.job;
        let opened = if let Some(places) = &mut self.walk.opaque {
            places.segment(facts);
            Form::of(&self.buffer, job.encrypt_to.as_slice().len()).map(|_| false)
        } else {
            let closed = &mut self.walk.tally.closed;
            encrypted::open(&self.buffer, &job.encrypt_to, self.identities, &mut self.plain, closed).map(|()| true)
        };
        match opened {
            // Lines of the coordinator: the agent's were lost.
            Ok(_) if facts.raw_size == 0 && !job.agent_signed => {
                let message = format!("segment {} of {} bytes holds what no line describes", facts.n, facts.size);
                self.walk.about.findings.add(Code::SegmentUndescribed, name, message);
                false
            }
            Ok(decode) => {
                std::mem::swap(&mut self.buffer, &mut self.plain);
                decode
            }
            Err(e) => {
                self.walk.because_of_place(facts.raw_offset);
                self.lose(Code::SegmentEncryption, name, &format!("segment {}: {e}", facts.n));
                self.walk.because_of_nothing();
                false
            }
        }
    }

    /// After a loss, goes on with the first item that begins in this segment: damage to one segment leaves the items of
    /// the others verifiable. Returns the raw offset from which the stream is followed again.
    fn resume(&mut self, facts: &Segment) -> u64 {
        while let Some(line) = self.walk.next_line() {
            let Line::Item(item) = line else {
                self.walk.lines.hold(line);
                break;
            };
            match item.location {
                Some(location) if location.offset >= facts.raw_offset => {
                    self.walk.lines.hold(Line::Item(item));
                    self.parser = Some(Parser::at(location.offset));
                    self.walk.in_step = true;
                    return location.offset;
                }
                Some(_) => {
                    self.walk.book(&item);
                    self.walk.unmatched(&item);
                }
                None => self.walk.book(&item),
            }
        }
        facts.raw_offset
    }

    /// Decodes the segment in the buffer and feeds the parser with what lies at `begin` or after it.
    fn decode(&mut self, facts: &Segment, name: &str, begin: u64) {
        let decoder = match self.decoder.take().map_or_else(SegmentDecoder::new, Ok) {
            Ok(decoder) => self.decoder.insert(decoder),
            Err(e) => return self.lose(Code::SegmentFrames, name, &format!("this program could not decode it: {e}")),
        };
        let (parser, walk) = (&mut self.parser, &mut self.walk);
        // After a loss: raw bytes before the first whole member are not parsed.
        let mut skip = begin.saturating_sub(facts.raw_offset) as usize;
        let mut raw_size = 0_u64;
        let mut broken_tar = None;
        let decoded = decoder.decode(&self.buffer, &mut |raw: &[u8]| {
            let whole = raw.len();
            raw_size = raw_size.saturating_add(whole as u64);
            if raw_size > facts.raw_size {
                return Err(format!("it holds more than the stated {} raw bytes", facts.raw_size));
            }
            let raw = raw.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(whole);
            if let Some(p) = parser.as_mut()
                && let Err(e) = p.push(raw, walk)
            {
                broken_tar = Some(e.to_string());
                *parser = None;
            }
            Ok(())
        });
        self.walk.tally.raw_bytes = self.walk.tally.raw_bytes.saturating_add(raw_size);
        self.walk.because_of_place(facts.raw_offset);
        if let Some(e) = broken_tar {
            self.lose(Code::StreamTar, name, &escape_bounded(&e, 400));
        }
        match decoded {
            Ok(_) if raw_size == facts.raw_size => {}
            Ok(_) => {
                let message = format!("segment {} holds {raw_size} raw bytes, the manifest states {}", facts.n, facts.raw_size);
                self.walk.about.findings.add(Code::SegmentRange, name, message);
            }
            Err(e) if raw_size > facts.raw_size => self.lose(Code::SegmentRange, name, &escape_bounded(&e.to_string(), 300)),
            Err(e) => self.lose(Code::SegmentFrames, name, &format!("segment {}: {}", facts.n, escape_bounded(&e.to_string(), 300))),
        }
        self.walk.because_of_nothing();
    }

    /// Reports what ended the following of the stream; it is taken up again at the next segment.
    fn lose(&mut self, code: Code, object: &str, message: &str) {
        self.walk.about.findings.add(code, object, message);
        self.parser = None;
        self.walk.in_step = false;
        let altered = self.walk.altered.as_ref().map(|(_, cause)| cause).filter(|cause| cause.object == object);
        let cause = altered.cloned().unwrap_or_else(|| Cause { code, object: object.to_owned() });
        self.walk.lost.get_or_insert(cause);
    }

    fn end_of_stream(&mut self, complete: bool) {
        if let Some(places) = &self.walk.opaque {
            if let (true, Err(problem)) = (complete, places.end(self.walk.stated.raw_bytes)) {
                self.walk.add(Code::StreamEnd, problem);
            }
            return;
        }
        let Some(parser) = &self.parser else { return };
        if let Err(e) = parser.finish() {
            let code = if complete { Code::StreamEnd } else { Code::StreamCut };
            self.walk.add(code, escape_bounded(&e.to_string(), 300));
        }
    }

    fn finish(self, mark: usize) -> Tally {
        let Walk { about, lines, manifest, unreadable, mut tally, unverified, stated, lost, opaque, .. } = self.walk;
        tally.by_status = stated.by_status;
        let (job, findings) = (about.job, about.findings);
        if let Some((count, first, last)) = unverified {
            let message = format!(
                "{count} items of stream {}.{}, from number {first} to {last}, could not be compared with the stream",
                job.collection, job.stream
            );
            findings.because(lost);
            findings.add(Code::StreamUnverified, &manifest, message);
            findings.because(None);
        }
        if opaque.is_some() {
            tally.raw_bytes_unread = stated.raw_bytes;
            findings.add(Code::StreamEncrypted, &manifest, encrypted::unchecked(job, &tally));
        }
        match lines.finish() {
            Ok((sha256, size, more)) => {
                if sha256 != job.manifest.sha256 || size != job.manifest.size {
                    let stored = if size > job.manifest.size {
                        format!("more than {} bytes", job.manifest.size)
                    } else {
                        format!("{size} bytes with SHA-256 {sha256}")
                    };
                    let message =
                        format!("stored are {stored}, the receipt states {} bytes with {}", job.manifest.size, job.manifest.sha256);
                    findings.insert(mark, Code::ManifestDigest, &manifest, message);
                } else if more && !unreadable {
                    findings.add(Code::ManifestOrder, &manifest, "the manifest goes on after its last line");
                }
            }
            Err(e) => findings.insert(mark, Code::ManifestMissing, &manifest, format!("the manifest cannot be read on: {e}")),
        }
        tally
    }
}
