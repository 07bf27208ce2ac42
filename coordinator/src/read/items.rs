//! Serving items: the manifest line, then the member's tar bytes, read by ranges from the segments that hold them. Of an encrypted
//! case the segments themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use exhibit_evidence::age::Recipients;
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::layout::{self, StreamNumber};
use exhibit_evidence::manifest::{Item, ItemId, Location, Segment};
use exhibit_evidence::record::Action;
use exhibit_evidence::stream::SEGMENT_BYTES_MAX;
use exhibit_evidence::stream::reader::{Member, Parser, Sink};
use exhibit_evidence::stream::segment::RangeReader;
use exhibit_proto::bounds::READ_BYTES_MAX;
use tokio::sync::mpsc;

use super::lines::{ListedItem, ManifestWalk};
use super::{Reader, damaged, record_access, streams_of};
use crate::catalog::{CollectionRow, PAGE_MAX, StreamRow};
use crate::custody::require_kept;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// An item begins.
    Item(ListedItem),
    /// The next bytes of its tar member.
    Tar(Bytes),
    /// A segment begins that holds a part of it and that only a recipient can read.
    Segment(Begins),
    /// The next bytes of that segment.
    SegmentData(Bytes),
}

/// The beginning of an encrypted segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begins {
    /// Which.
    pub facts: Segment,
    /// To whom it is encrypted.
    pub encrypted_to: Recipients,
    /// False when the reader has its bytes from the item before.
    pub follows: bool,
}

type Wanted = BTreeMap<CollectionId, BTreeMap<StreamNumber, BTreeSet<u64>>>;

/// Serves items into `out`, by collection, stream and number. The access is recorded first.
///
/// # Errors
/// [`Problem`]: [`Kind::NotFound`] for an item that is not there, [`Kind::Damaged`] when what is stored is not what was
/// received; the reader must then throw away the item that was being served.
pub async fn read_items(
    parts: Arc<Parts>,
    by: &Reader,
    (action, reason): (Action, &str),
    ids: Vec<ItemId>,
    out: mpsc::Sender<Served>,
) -> Result<()> {
    let mut wanted = Wanted::new();
    for id in &ids {
        wanted.entry(id.collection.clone()).or_default().entry(id.stream).or_default().insert(id.n);
    }
    let mut rows = Vec::with_capacity(wanted.len());
    let mut what: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for (collection, streams) in &wanted {
        let row = parts.catalog.collection(collection.clone()).await?;
        let row = row.ok_or_else(|| Problem::new(Kind::NotFound, format!("items: there is no collection {collection}")))?;
        let names = streams.iter().flat_map(|(stream, numbers)| numbers.iter().map(move |n| format!("{collection}.{stream}.{n}")));
        what.entry(row.case.clone()).or_default().extend(names);
        rows.push(row);
    }
    for row in &rows {
        require_kept(&parts, &row.case, std::iter::once(&row.collection)).await?;
    }
    record_access(&parts, by, action, reason, what).await?;
    for row in rows {
        let Some(mut streams) = wanted.remove(&row.collection) else { continue };
        for (stream, first) in streams_of(&parts, &row).await? {
            if let Some(numbers) = streams.remove(&stream.stream)
                && !serve_stream(&parts, &row, &stream, first, numbers, &out).await?
            {
                return Ok(());
            }
        }
        if let Some((stream, _)) = streams.pop_first() {
            return Err(Problem::new(Kind::NotFound, format!("items: {} has no stream {stream}", row.collection)));
        }
    }
    Ok(())
}

/// False when nobody listens any more.
async fn serve_stream(
    parts: &Parts,
    row: &CollectionRow,
    stream: &StreamRow,
    first: u64,
    mut numbers: BTreeSet<u64>,
    out: &mpsc::Sender<Served>,
) -> Result<bool> {
    let segments = segments_of(parts, row, stream).await?;
    let encrypted_to = crate::intake::encrypt_to(parts, &row.case).await?;
    let mut given = None;
    let mut walk = ManifestWalk::new(parts, row, stream);
    while let Some((item, line)) = walk.next_item().await? {
        if !numbers.remove(&item.n) {
            continue;
        }
        let id = ItemId { collection: row.collection.clone(), stream: stream.stream, n: item.n };
        let exhibit = if first > 0 { first.saturating_add(item.n) } else { 0 };
        if out.send(Served::Item(ListedItem { id: id.clone(), exhibit, line })).await.is_err() {
            return Ok(false);
        }
        let Some(location) = item.location else { continue };
        let go_on = if encrypted_to.is_none() {
            serve_member(parts, row, stream, &segments, &id, &item, out).await?
        } else {
            let place = Place { parts, row, stream, segments: &segments, encrypted_to: &encrypted_to };
            place.serve(location, &mut given, out).await?
        };
        if !go_on {
            return Ok(false);
        }
    }
    match numbers.pop_first() {
        Some(n) => Err(Problem::new(Kind::NotFound, format!("items: there is no item {}.{}.{n}", row.collection, stream.stream))),
        None => Ok(true),
    }
}

async fn segments_of(parts: &Parts, row: &CollectionRow, stream: &StreamRow) -> Result<Vec<Segment>> {
    let mut all: Vec<Segment> = Vec::new();
    loop {
        let from = all.last().map_or(0, |s| s.n.saturating_add(1));
        let page = parts.catalog.segments(row.collection.clone(), stream.stream, from, PAGE_MAX).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// Where the segments of an encrypted stream are.
struct Place<'a> {
    parts: &'a Parts,
    row: &'a CollectionRow,
    stream: &'a StreamRow,
    segments: &'a [Segment],
    encrypted_to: &'a Recipients,
}

impl Place<'_> {
    /// Gives the segments that hold a member, whole and as they are stored: only a recipient can find the member in them. The
    /// last one is not given again to the item after, which mostly lies in it too. False when nobody listens any more.
    async fn serve(&self, location: Location, given: &mut Option<u32>, out: &mpsc::Sender<Served>) -> Result<bool> {
        let (from, to) = (location.offset, location.offset.saturating_add(location.length));
        let holds = |s: &&Segment| s.raw_offset < to && s.raw_offset.saturating_add(s.raw_size) > from;
        for facts in self.segments.iter().filter(holds) {
            let follows = given.replace(facts.n) != Some(facts.n);
            let begins = Begins { facts: facts.clone(), encrypted_to: self.encrypted_to.clone(), follows };
            if out.send(Served::Segment(begins)).await.is_err() {
                return Ok(false);
            }
            if !follows {
                continue;
            }
            let name = layout::segment(&self.row.case, &self.row.collection, self.stream.stream, facts.n);
            let mut bytes = self.parts.store.get(&name, SEGMENT_BYTES_MAX as u64).await?;
            if bytes.len() as u64 != facts.size || exhibit_evidence::Digest::of(&bytes) != facts.sha256 {
                return Err(damaged(format!("'{name}' is not what its manifest names")));
            }
            while !bytes.is_empty() {
                let piece = bytes.split_to(bytes.len().min(READ_BYTES_MAX));
                if out.send(Served::SegmentData(piece)).await.is_err() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// The decoding of one member and the check of its content, moved to and from the threads that may be busy.
struct Reading {
    range: RangeReader,
    parser: Parser,
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    ended: Option<Member>,
    members: u32,
}

impl Sink for Seen {
    fn end(&mut self, member: &Member) {
        self.members = self.members.saturating_add(1);
        self.ended = Some(member.clone());
    }
}

async fn serve_member(
    parts: &Parts,
    row: &CollectionRow,
    stream: &StreamRow,
    segments: &[Segment],
    id: &ItemId,
    item: &Item,
    out: &mpsc::Sender<Served>,
) -> Result<bool> {
    let Some(location) = item.location else { return Ok(true) };
    let broken = |what: &dyn std::fmt::Display| damaged(format!("item {id}: {what}"));
    let range = RangeReader::new(segments, location.offset, location.length).map_err(|e| broken(&e))?;
    let mut reading = Reading { range, parser: Parser::new(), seen: Seen::default() };
    while let Some(need) = reading.range.need() {
        let name = layout::segment(&row.case, &row.collection, stream.stream, need.segment);
        let end = need.offset.saturating_add(need.length as u64);
        let stored = parts.store.get_range(&name, need.offset..end).await?;
        let work = tokio::task::spawn_blocking(move || {
            let raw = match reading.range.supply(&stored) {
                Ok(raw) => Bytes::copy_from_slice(raw),
                Err(e) => return Err(e.to_string()),
            };
            reading.parser.push(&raw, &mut reading.seen).map_err(|e| e.to_string())?;
            Ok((reading, raw))
        });
        let done = work.await.map_err(|e| Problem::new(Kind::Failed, format!("item {id}: reading ended badly: {e}")))?;
        let (back, mut raw) = done.map_err(|e| broken(&e))?;
        reading = back;
        while !raw.is_empty() {
            let piece = raw.split_to(raw.len().min(READ_BYTES_MAX));
            if out.send(Served::Tar(piece)).await.is_err() {
                return Ok(false);
            }
        }
    }
    let fits = reading.seen.members == 1
        && reading
            .seen
            .ended
            .is_some_and(|m| m.sha256 == item.sha256 && m.head.size == item.size && m.head.name == item.path.member_name(&item.capture));
    if fits { Ok(true) } else { Err(broken(&"what is stored does not have the digest, size and name that its manifest line states")) }
}
