//! What a log in the store is when it is opened: which of what lies there is its records, and what somebody put beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use exhibit_evidence::layout::{self, CaseObject, LogName};
use exhibit_evidence::log::{Layer, Tile, bundle_entries};
use exhibit_evidence::record::{Incident, KeyRing, Predicate as _, Record};
use exhibit_evidence::text::{escape_bounded, one_line};
use futures::{Stream, StreamExt as _, TryStreamExt as _};

use super::error::TAKE_AWAY;
use super::heads::{self, Heads};
use super::log::READS_IN_FLIGHT;
use super::news::{HEAD, News, SQUATTED};
use super::slots::{self, squat, squats};
use super::{Head, Keys, Known, LedgerError, RECORDS_MAX, View};
use crate::store::{self, Store, history, list_all};

/// Why what lies in a later place than the next one is no record.
const BEYOND: &str = "the log has not come to this place";
/// Objects that are named of those that lie where the log has not come to.
const NAMED_MAX: usize = 10;
/// Bytes of what the log's own records say of such things.
const NAMED_BYTES_MAX: usize = 1 << 20;

/// A log that was read.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) view: View,
    /// Records under the head that a reader gets; none when that is not the log's.
    pub(super) published: u64,
}

/// Reads a log: see [`super::Ledger::open`].
///
/// # Errors
/// [`super::Kind::Damaged`] when records are missing, altered or not to be trusted; the store's errors otherwise.
pub(super) async fn read(
    store: &Arc<dyn Store>,
    name: &LogName,
    keys: &Keys,
    known: (Option<Head>, &Known),
) -> Result<Opened, LedgerError> {
    let folder = name.folder();
    let seen = Box::pin(look_beneath(&**store, &folder)).await?;
    let opened = Box::pin(read_beneath(store, name, keys, known)).await;
    // Not before: which version of a record is the genuine one is known now.
    tell_on_top(&**store, &folder, seen).await;
    opened
}

async fn read_beneath(store: &Arc<dyn Store>, name: &LogName, keys: &Keys, known: (Option<Head>, &Known)) -> Result<Opened, LedgerError> {
    let examined = Box::pin(examine(store, name, keys, known)).await?;
    for News { kind, detail, .. } in examined.news() {
        known.1.news().tell(name, kind, detail);
    }
    // What a record of the log says already is told, and attestation need not find other words for it.
    known.1.news().remember(&examined.reading.told());
    let Examined { reading, heads } = examined;
    let view = reading.view;
    let published = heads.top.filter(|top| view.root_at(top.size) == Some(top.root)).map_or(0, |top| top.size);
    Ok(Opened { view, published })
}

/// A log that was read, of which nothing was told yet.
pub(super) struct Examined<'a> {
    reading: Reading<'a>,
    /// Its heads.
    pub(super) heads: Heads,
}

impl Examined<'_> {
    /// Records of it.
    pub(super) fn size(&self) -> u64 {
        self.reading.view.size()
    }

    /// What its records say.
    pub(super) fn into_view(self) -> View {
        self.reading.view
    }

    /// What is wrong with its heads, as far as no record of this log says it.
    pub(super) fn wrong_heads(&self) -> Vec<String> {
        self.reading.fresh(&self.heads.wrong(&|size| self.reading.view.root_at(size)))
    }

    /// What is to be told of it, as far as no record of this log does.
    pub(super) fn news(&self) -> Vec<News> {
        let (name, mut news) = (self.reading.name, Vec::new());
        let wrong = self.wrong_heads();
        if !wrong.is_empty() {
            news.push(News { log: name.clone(), kind: HEAD, detail: heads::words(name, &wrong) });
        }
        let found = self.reading.fresh(&self.reading.squats);
        if !found.is_empty() {
            news.push(News { log: name.clone(), kind: SQUATTED, detail: squats(&found) });
        }
        news
    }
}

/// Reads a log and finds out what of it is genuine, without writing anything and without telling anybody. What is hidden is to be looked
/// for before.
///
/// # Errors
/// As [`read`].
pub(super) async fn examine<'a>(
    store: &'a Arc<dyn Store>,
    name: &'a LogName,
    keys: &Keys,
    (known, all_known): (Option<Head>, &Known),
) -> Result<Examined<'a>, LedgerError> {
    let folder = name.folder();
    let twice = several_of(&**store, &folder).await?;
    let kept = history::is_kept(&**store);
    let listed = list_slots(&**store, name, kept).await?;
    let heads = Box::pin(Heads::look(&**store, name, keys, listed.count)).await?;
    if let Some(known) = known.filter(|known| known.size > listed.count) {
        let there = listed.hole(known.size).unwrap_or_else(|| format!("{} are there", listed.count));
        return Err(all_known.refuse(name, format!("{} records of it were published, and {there}", known.size)));
    }
    let mut marks: Vec<Head> = heads.newest().into_iter().collect();
    marks.extend(super::witness::newest_cosigned(&**store, name, keys).await?);
    let newest = marks.iter().map(|m| m.size).max().unwrap_or(0);
    if newest > listed.count {
        let what = listed.hole(newest).map_or_else(
            || format!("it had {newest} records and now has {}", listed.count),
            |hole| format!("it had {newest} records; {hole}"),
        );
        return Err(LedgerError::incident(&folder, what));
    }
    let settled = newest.max(known.map_or(0, |known| known.size));
    let mut reading = Reading::new(&**store, name, &keys.anchor);
    let mut reads = Box::pin(reads(store, name, listed.count, &twice));
    while let Some(read) = reads.try_next().await? {
        if !reading.take(read, settled, kept).await? {
            break;
        }
        let head = reading.view.head();
        if known.is_some_and(|known| known.size == head.size && known.root != head.root) {
            return Err(all_known.refuse(name, format!("its first {} records are not those that were published", head.size)));
        }
        if marks.iter().any(|m| m.size == head.size && m.root != head.root) {
            return Err(LedgerError::incident(&folder, format!("the first {} records are not those that were signed", head.size)));
        }
    }
    drop(reads);
    all_known.accept(name);
    let tiles = choose_tiles(&**store, name, &reading.view, &twice).await?;
    reading.squats.extend(tiles);
    reading.note_beyond(&listed);
    Ok(Examined { reading, heads })
}

/// Looks which versions of a log's records and tiles are the genuine ones, so that the store reads those, without writing anything:
/// for whoever reads the log without opening it. What is wrong with it otherwise is for the reader to find.
///
/// # Errors
/// When the store is disturbed.
pub async fn settle(store: &Arc<dyn Store>, name: &LogName, anchor: &Anchor) -> Result<(), LedgerError> {
    let twice = several_of(&**store, &name.folder()).await?;
    if twice.is_empty() {
        return Ok(());
    }
    let listed = list_slots(&**store, name, true).await?;
    let mut reading = Reading::new(&**store, name, anchor);
    let mut reads = Box::pin(reads(store, name, listed.count, &twice));
    while let Some(read) = reads.try_next().await? {
        if !reading.take(read, 0, true).await? {
            break;
        }
    }
    drop(reads);
    choose_tiles(&**store, name, &reading.view, &twice).await.map(|_| ())
}

/// What is under the name of a slot.
enum Read {
    Bytes(Bytes),
    /// Several versions.
    Several,
    TooLarge,
}

fn reads(store: &Arc<dyn Store>, name: &LogName, count: u64, twice: &BTreeSet<String>) -> impl Stream<Item = Result<Read, LedgerError>> {
    futures::stream::iter(0..count)
        .map(move |n| {
            let (store, slot) = (Arc::clone(store), name.slot(n));
            let several = twice.contains(&slot);
            async move {
                if several {
                    return Ok(Read::Several);
                }
                match store.get(&slot, ENVELOPE_BYTES_MAX as u64).await {
                    Ok(bytes) => Ok(Read::Bytes(bytes)),
                    Err(e) if e.kind() == store::Kind::Damaged => Ok(Read::TooLarge),
                    Err(e) => Err(LedgerError::from(e)),
                }
            }
        })
        .buffered(READS_IN_FLIGHT)
}

/// A log while it is read, from its first record on.
struct Reading<'a> {
    store: &'a dyn Store,
    name: &'a LogName,
    view: View,
    /// What this log's records say of what somebody put into it.
    named: String,
    squats: Vec<String>,
}

impl<'a> Reading<'a> {
    fn new(store: &'a dyn Store, name: &'a LogName, anchor: &Anchor) -> Self {
        Self { store, name, view: View::new(KeyRing::new(anchor)), named: String::new(), squats: Vec::new() }
    }

    /// Takes what was read of the next slot. False when it is no record, so that the log ends before it: only of such as no head covers
    /// (`settled` records are covered), and only in a store in which that can be written past (`kept`).
    async fn take(&mut self, read: Read, settled: u64, kept: bool) -> Result<bool, LedgerError> {
        let (n, name) = (self.view.size(), self.name);
        let incident = |why: String| LedgerError::incident(&name.folder(), format!("record {n}: {why}"));
        let parsed = match read {
            Read::Several => return self.take_one_of(n, settled).await,
            Read::Bytes(bytes) => Envelope::parse(&bytes).map_err(|e| e.to_string()),
            Read::TooLarge => Err("it is larger than any record".to_owned()),
        };
        let taken = match parsed {
            Ok(envelope) if n < settled => self.view.take(&envelope).map(|_| envelope).map_err(|e| e.to_string()),
            Ok(envelope) => self.view.take_own(name, &envelope).map(|_| envelope),
            Err(why) => Err(why),
        };
        match taken {
            Ok(envelope) => {
                self.note(&envelope);
                Ok(true)
            }
            Err(why) if n < settled => Err(incident(why)),
            Err(why) if !kept => Err(LedgerError::squatted(&name.folder(), format_args!("record {n}"), why, TAKE_AWAY)),
            Err(why) => {
                let versions = history::of(self.store, &name.slot(n)).await?.unwrap_or_default();
                self.squats.push(squat(&name.slot(n), versions.first(), &why));
                Ok(false)
            }
        }
    }

    /// [`Reading::take`] of a slot with several versions.
    async fn take_one_of(&mut self, n: u64, settled: u64) -> Result<bool, LedgerError> {
        let (store, name, view) = (self.store, self.name, &mut self.view);
        let versions = history::of(store, &name.slot(n)).await?.unwrap_or_default();
        let judged =
            slots::judge(store, (name, n), &versions, &mut |envelope: &Envelope| view.take_own(name, envelope).map(|_| ())).await?;
        let Some(envelope) = judged.record else {
            if n < settled {
                let why = format!("record {n}: none of its versions is a record of this place: {}", judged.squats.join("; "));
                return Err(LedgerError::incident(&name.folder(), one_line(&why, 1_000)));
            }
            self.squats.extend(judged.squats);
            return Ok(false);
        };
        self.squats.extend(judged.squats);
        self.note(&envelope);
        Ok(true)
    }

    /// Keeps what a record says of what somebody put into this log: that is told.
    fn note(&mut self, envelope: &Envelope) {
        let is_incident = self.view.entries().last().is_some_and(|entry| entry.kind == Incident::TYPE);
        if !is_incident || self.named.len() > NAMED_BYTES_MAX {
            return;
        }
        if let Ok(Record::Incident(p)) = Record::from_payload(envelope.unverified_payload())
            && matches!(p.kind.as_str(), HEAD | SQUATTED)
        {
            self.named.push_str(&p.detail);
            self.named.push('\n');
        }
    }

    /// Notes what lies where the log has not come to, and what is no name of a record.
    fn note_beyond(&mut self, listed: &Listed) {
        let size = self.view.size();
        // The first of them was looked at.
        for n in (size.saturating_add(1)..listed.count).take(NAMED_MAX) {
            self.squats.push(squat(&self.name.slot(n), None, BEYOND));
        }
        for stray in &listed.strays {
            let is_slot = matches!(layout::parse(stray), Some((_, CaseObject::Slot(_))));
            self.squats.push(squat(stray, None, if is_slot { BEYOND } else { "it is no name of the next record" }));
        }
    }

    /// What a record of this log says already of what somebody put into it.
    fn told(&self) -> Vec<String> {
        self.squats.iter().filter(|what| self.is_said(what)).cloned().collect()
    }

    /// Of a place that the log has not come to attestation may have said it, in words of its own.
    fn is_said(&self, what: &str) -> bool {
        let object = what.strip_suffix(BEYOND).and_then(|object| object.strip_suffix(": "));
        self.named.contains(object.unwrap_or(what))
    }

    /// What of these no record of this log says.
    fn fresh(&self, found: &[String]) -> Vec<String> {
        found.iter().filter(|what| !self.is_said(what)).cloned().collect()
    }
}

/// The names in the folder of the slots.
struct Listed {
    /// So many from the first on are there without a hole.
    count: u64,
    /// Some of the others.
    strays: Vec<String>,
}

impl Listed {
    /// Which of the first `size` records is missing from their midst, in words; none where they end too early.
    fn hole(&self, size: u64) -> Option<String> {
        let is_later = |stray: &String| matches!(layout::parse(stray), Some((_, CaseObject::Slot(n))) if n < size);
        self.strays.iter().any(is_later).then(|| format!("record {} is missing, and later ones are there", self.count))
    }
}

/// The slots, hidden ones too. Where the store keeps nothing beneath, any other name there is an incident; where it does, such names are
/// written past.
async fn list_slots(store: &dyn Store, name: &LogName, kept: bool) -> Result<Listed, LedgerError> {
    let folder = name.folder();
    let all = list_all(store, &format!("{folder}/seq"), RECORDS_MAX as usize).await.map_err(LedgerError::unlisted)?;
    let mut listed = Listed { count: 0, strays: Vec::new() };
    for entry in all {
        if entry.name == name.slot(listed.count) {
            listed.count = listed.count.saturating_add(1);
        } else if !kept {
            let found = escape_bounded(&entry.name, 200);
            return Err(LedgerError::incident(&folder, format!("where record {} is expected there is '{found}'", listed.count)));
        } else if listed.strays.len() < NAMED_MAX {
            listed.strays.push(entry.name);
        }
    }
    Ok(listed)
}

/// What somebody hid of a log is part of it: a log whose end is hidden would pass for a shorter one, and be written on from there.
async fn look_beneath(store: &dyn Store, folder: &str) -> Result<Vec<store::Trouble>, LedgerError> {
    match store::attest::recall(store, &format!("{folder}/")).await {
        Err(e) if e.says_nothing() => Err(e.into()),
        // That a store does not let its versions be listed is told by attestation, and nothing is written to the log.
        seen => Ok(seen.unwrap_or_default()),
    }
}

/// Says what was seen, with what the log now tells of it.
async fn tell_on_top(store: &dyn Store, folder: &str, seen: Vec<store::Trouble>) {
    let again = Box::pin(store::attest::recall_again(store, &format!("{folder}/"), seen.clone(), None)).await;
    for store::Trouble { kind, detail, .. } in again.unwrap_or(seen) {
        tracing::warn!(log = folder, kind, detail, "something lies beside what a log is made of");
    }
}

/// The objects of a log that have several versions.
async fn several_of(store: &dyn Store, folder: &str) -> Result<BTreeSet<String>, LedgerError> {
    match history::several(store, folder).await {
        Err(e) if e.says_nothing() => Err(e.into()),
        found => Ok(found.unwrap_or_default()),
    }
}

/// What the tiles of a log are, the incomplete ones as far as the log has come; 32 bytes for each record.
pub(super) type Tiles = BTreeMap<(Layer, u64), Vec<u8>>;

/// The tiles that the records of a log give.
pub(super) fn tiles_of(view: &View) -> Tiles {
    view.tiles().into_iter().map(|(tile, bytes)| ((tile.layer(), tile.index()), bytes)).collect()
}

/// Has the store read those versions of tiles that are what the records give, and names what lies beneath them.
async fn choose_tiles(store: &dyn Store, name: &LogName, view: &View, twice: &BTreeSet<String>) -> Result<Vec<String>, LedgerError> {
    let (mut found, folder) = (Vec::new(), format!("{}/", name.folder()));
    let tiles: Vec<(&String, Tile)> = twice.iter().filter_map(|n| Some((n, Tile::parse(n.strip_prefix(&folder)?)?))).collect();
    if tiles.is_empty() {
        return Ok(found);
    }
    let right = tiles_of(view);
    for (object, tile) in tiles {
        let mut beneath = Vec::new();
        for version in history::of(store, object).await?.unwrap_or_default() {
            let is_right = match store.get_version(object, &version.version, tile.bytes_max()).await {
                Ok(bytes) => is_right(&right, &tile, &bytes),
                Err(e) if matches!(e.kind(), store::Kind::Damaged | store::Kind::NotFound) => false,
                Err(e) => return Err(e.into()),
            };
            if is_right {
                store.choose(object, &version.version);
                found.append(&mut beneath);
                break;
            }
            beneath.push(squat(object, Some(&version), "it is not what the records give"));
        }
    }
    Ok(found)
}

/// Whether a tile is what the records give. An incomplete one begins as the later one in its place does.
pub(super) fn is_right(right: &Tiles, tile: &Tile, bytes: &[u8]) -> bool {
    let hashes = match tile.layer() {
        Layer::Hashes(_) => bytes.to_vec(),
        Layer::Entries => {
            let Some(entries) = bundle_entries(bytes) else { return false };
            entries.iter().flat_map(|(_, hash)| *hash.as_bytes()).collect()
        }
    };
    let layer = if tile.layer() == Layer::Entries { Layer::Hashes(0) } else { tile.layer() };
    let wanted = usize::try_from(tile.width().saturating_mul(32)).unwrap_or(usize::MAX);
    hashes.len() == wanted && right.get(&(layer, tile.index())).and_then(|all| all.get(..wanted)) == Some(hashes.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_missing_from_the_midst_is_named() {
        let log = LogName::Deployment;
        let listed = |strays: &[String]| Listed { count: 7, strays: strays.to_vec() };
        assert_eq!(listed(&[]).hole(12), None, "it ends too early");
        assert_eq!(listed(&[log.slot(99), format!("{}/seq/junk", log.folder())]).hole(12), None, "what lies beyond is none of its records");
        assert!(listed(&[log.slot(8)]).hole(12).is_some_and(|what| what.contains("record 7 is missing")));
    }
}
