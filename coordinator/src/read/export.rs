//! Giving a case as it is stored, for a handoff. The access is recorded first, and the head that is given covers the record.
//!
//! What is given is what the head covers: later records, tiles and cosignatures stay out, so that what arrives is one
//! consistent case however long it takes and whoever else works on the case meanwhile. Nor is given what nothing that was signed names
//! in the folder of a sealed collection: it would make every bag unsound, and is told instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::key::KeyId;
use exhibit_evidence::layout::{self, CaseObject, LogName};
use exhibit_evidence::log::Tile;
use exhibit_evidence::record::{Action, READERS};
use exhibit_evidence::stream::SEGMENT_BYTES_MAX;
use exhibit_evidence::text::escape_bounded;
use exhibit_proto::bounds::READ_BYTES_MAX;
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::{Reader, record_access};
use crate::catalog::CollectionFilter;
use crate::dispatch::admit;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::seal::{Named, named};
use crate::store::{self, Entry, Store};

/// Objects read ahead of a slow reader: a remote store answers one at a time too slowly. 4 x 10 MiB at most.
const OBJECTS_AHEAD: usize = 4;
/// Larger objects (manifests) are read in pieces of this size.
const PIECE_BYTES: u64 = 4 << 20;
/// Objects that are named of those that are not given.
const FOREIGN_NAMED_MAX: usize = 5;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRequest {
    /// The case.
    pub case: CaseId,
    /// Only the evidence of these collections; of all when empty.
    pub collections: Vec<CollectionId>,
    /// The caller's evidence key.
    pub key: KeyId,
    /// Only objects whose names come after this one.
    pub after: String,
    /// Why.
    pub reason: String,
}

/// What is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exported {
    /// Comes first.
    Head {
        /// The signed head.
        checkpoint: Vec<u8>,
        /// Records that it covers.
        size: u64,
        /// Collections whose evidence is given.
        collections: Vec<CollectionId>,
        /// Timestamp authorities that [`stamp_bag`](crate::stamp::stamp_bag) is going to ask, in the order of their names.
        authorities: Vec<String>,
        /// For each of them, how many revocation lists are going to be kept with its token.
        revocation_lists: Vec<u32>,
        /// What is not given because nobody signed for it.
        foreign: Foreign,
    },
    /// An object begins.
    Object {
        /// Relative to the case's folder.
        name: String,
        /// Bytes.
        size: u64,
    },
    /// Its next bytes.
    Data(Bytes),
}

/// Objects in the folders of sealed collections that no signed manifest names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    /// How many.
    pub count: u64,
    /// The first of them, relative to the case's folder.
    pub names: Vec<String>,
}

/// Gives a case into `out`.
///
/// Order of writes: (1) the enrolment of the caller's key into the case's log, (2) the access record. Died between: the next
/// call does 2. Nothing is sent before both are in the log.
///
/// # Errors
/// [`Problem`]
pub async fn export_case(parts: Arc<Parts>, by: &Reader, request: ExportRequest, out: mpsc::Sender<Exported>) -> Result<()> {
    check_key(&parts, by, &request.case, request.key)?;
    let collections = collections(&parts, &request).await?;
    // What is given is what is listed: what somebody hid is evidence all the same.
    crate::attest::recall(&parts, &format!("{}/", layout::case_folder(&request.case))).await?;
    parts.ledgers.ensure_enrolled(&request.case, &[request.key]).await?;
    // A case in which nothing was ordered has a log, and somebody reads that.
    let mut what: Vec<String> = collections.iter().map(ToString::to_string).collect();
    if what.is_empty() {
        what.push(request.case.to_string());
    }
    record_access(&parts, by, Action::Export, &request.reason, BTreeMap::from([(request.case.clone(), what)])).await?;
    let ledger = parts.ledgers.case(&request.case).await?;
    let size = ledger.published();
    let checkpoint = ledger.checkpoint(size).await?;
    has_all_records(&parts, &request.case, size).await?;
    let mut authorities: Vec<(String, u32)> = parts.authorities.iter().map(|a| (a.name().to_string(), a.lists())).collect();
    authorities.sort();
    let (authorities, revocation_lists) = authorities.into_iter().unzip();
    let foreign = foreign(&parts, &request.case, &collections).await?;
    let head = Exported::Head { checkpoint, size, collections: collections.clone(), authorities, revocation_lists, foreign };
    if out.send(head).await.is_err() {
        return Ok(());
    }
    let case = layout::case_folder(&request.case);
    let beside = [LogName::Case(request.case.clone()).folder(), format!("{case}/timestamps")];
    let folders = collections.iter().map(|c| (format!("{case}/collections/{c}"), Some(c))).chain(beside.map(|folder| (folder, None)));
    let mut giving = Giving { parts: &parts, id: &request.case, case: &case, size, named: None, out: &out };
    for (folder, collection) in folders {
        giving.named = match collection {
            Some(collection) => named(&*parts.catalog, &request.case, collection).await?,
            None => None,
        };
        if !giving.folder(&folder, &request.after).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// The key that will sign must be the one that reads, of somebody who may read in the case.
fn check_key(parts: &Parts, by: &Reader, case: &CaseId, key: KeyId) -> Result<()> {
    let roles = parts.rights_of_key(&by.name, key).in_case(case);
    if key == by.key && READERS.iter().any(|role| roles.contains(role)) {
        return Ok(());
    }
    let name = &by.name;
    Err(Problem::new(
        Kind::Denied,
        format!(
            "key: {key} is not the evidence key of {name} that the certificate names, enrolled, not revoked, and of a responder or \
             custodian of the case"
        ),
    ))
}

/// The collections to give, in the order of their ids.
async fn collections(parts: &Parts, request: &ExportRequest) -> Result<Vec<CollectionId>> {
    admit::require_case(parts, &request.case).await?;
    let filter = CollectionFilter { case: Some(request.case.clone()), only: request.collections.clone(), ..CollectionFilter::default() };
    let mut found: Vec<CollectionId> = admit::select(parts, filter).await?.into_iter().map(|row| row.collection).collect();
    found.sort();
    match request.collections.iter().find(|id| found.binary_search(id).is_err()) {
        Some(missing) => Err(Problem::new(Kind::NotFound, format!("collections: {} has no collection {missing}", request.case))),
        None => Ok(found),
    }
}

/// What is not going to be given of these collections. Listed before anything is given, which costs a request for a thousand objects, so
/// that whoever goes on with an export that was interrupted learns of all of it too.
async fn foreign(parts: &Parts, case: &CaseId, collections: &[CollectionId]) -> Result<Foreign> {
    let (mut found, case_folder) = (Foreign::default(), layout::case_folder(case));
    for collection in collections {
        let Some(sealed) = named(&*parts.catalog, case, collection).await? else { continue };
        let (folder, mut after) = (format!("{case_folder}/collections/{collection}"), None::<String>);
        loop {
            let page = parts.store.list(&folder, after.as_deref()).await?;
            let more = page.more && !page.entries.is_empty();
            for Entry { name, .. } in page.entries {
                found.note(&case_folder, &name, &sealed);
                after = Some(name);
            }
            if !more {
                break;
            }
        }
    }
    Ok(found)
}

impl Foreign {
    fn note(&mut self, case_folder: &str, name: &str, sealed: &Named) {
        let Some(name) = name.strip_prefix(case_folder).and_then(|name| name.strip_prefix('/')) else { return };
        if CaseObject::parse(name).is_none_or(|object| sealed.allows(&object)) {
            return;
        }
        self.count = self.count.saturating_add(1);
        if self.names.len() < FOREIGN_NAMED_MAX {
            self.names.push(name.to_owned());
        }
    }
}

/// What is given is what is listed, so a record that the head covers and no listing has would be missing in the copy, which could not say
/// why. Whoever asks is told, and so is the log of the deployment: that of the case is the one with the hole.
async fn has_all_records(parts: &Parts, case: &CaseId, size: u64) -> Result<()> {
    let log = LogName::Case(case.clone());
    let Some(missing) = first_missing(&*parts.store, &log, size).await? else { return Ok(()) };
    let slot = log.slot(missing);
    match parts.store.size(&slot).await {
        // Another coordinator wrote it while the names were read.
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == store::Kind::NotFound => {}
        Err(e) => return Err(e.into()),
    }
    let what = format!(
        "record {missing} of {size}, '{slot}', is missing in the store: find out who deleted or hid it, and bring it back from a second store, \
         a backup or, where versions are kept, the version under its delete marker"
    );
    parts.incident(None, "store-lost", &layout::case_folder(case), &what).await;
    Err(Problem::new(Kind::Damaged, what))
}

/// The first record under a head of `size` that the store does not list.
async fn first_missing(store: &dyn Store, log: &LogName, size: u64) -> Result<Option<u64>> {
    let (folder, mut next, mut after) = (format!("{}/seq", log.folder()), 0, None::<String>);
    while next < size {
        let page = store.list(&folder, after.as_deref()).await?;
        let more = page.more && !page.entries.is_empty();
        for Entry { name, .. } in page.entries {
            // Whatever else lies between them is left out.
            next += u64::from(name == log.slot(next));
            after = Some(name);
        }
        if !more {
            break;
        }
    }
    Ok((next < size).then_some(next))
}

/// Whether the head of `size` records covers an object. The checkpoint itself is given with the head.
fn is_covered(object: &CaseObject, size: u64) -> bool {
    match object {
        CaseObject::Checkpoint => false,
        CaseObject::Slot(n) => *n < size,
        CaseObject::Tile(tile) => Tile::of(tile.layer(), tile.index(), size).is_some_and(|there| tile.width() <= there.width()),
        CaseObject::Cosigned(_, covers) | CaseObject::Timestamp(covers, _) => *covers <= size,
        CaseObject::Segment(..) | CaseObject::Manifest(..) => true,
    }
}

struct Giving<'a> {
    parts: &'a Parts,
    id: &'a CaseId,
    case: &'a str,
    size: u64,
    /// What the seal of the collection names that is being given; none where nothing can be said.
    named: Option<Named>,
    out: &'a mpsc::Sender<Exported>,
}

impl Giving<'_> {
    /// Gives a folder's objects; false when nobody listens any more.
    async fn folder(&self, folder: &str, after: &str) -> Result<bool> {
        let after = format!("{}/{after}", self.case);
        let mut from = after.starts_with(&format!("{folder}/")).then_some(after.clone());
        if from.is_none() && after.as_str() > folder {
            return Ok(true);
        }
        loop {
            let page = self.parts.store.list(folder, from.as_deref()).await?;
            from = page.entries.last().map(|e| e.name.clone());
            let (more, none) = (page.more, page.entries.is_empty());
            if !self.page(page.entries).await? {
                return Ok(false);
            }
            if !more || none {
                return Ok(true);
            }
        }
    }

    async fn page(&self, entries: Vec<Entry>) -> Result<bool> {
        let (mut covered, mut strangers) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            let Some(name) = entry.name.strip_prefix(self.case).and_then(|name| name.strip_prefix('/')).map(str::to_owned) else {
                continue;
            };
            let Some(object) = CaseObject::parse(&name).filter(|object| is_covered(object, self.size)) else { continue };
            if self.named.as_ref().is_none_or(|named| named.allows(&object)) {
                covered.push((name, entry));
            } else {
                strangers.push(entry.name);
            }
        }
        self.tell(&strangers).await;
        let mut reads = futures::stream::iter(covered)
            .map(|(name, entry)| async move {
                let entry = self.genuine(entry).await?;
                let small = entry.size <= SEGMENT_BYTES_MAX as u64;
                let whole = if small { Some(self.parts.store.get_range(&entry.name, 0..entry.size).await?) } else { None };
                Ok::<_, Problem>((name, entry, whole))
            })
            .buffered(OBJECTS_AHEAD);
        while let Some(read) = reads.next().await {
            let (name, entry, whole) = read?;
            if self.out.send(Exported::Object { name, size: entry.size }).await.is_err() {
                return Ok(false);
            }
            let sent = match whole {
                Some(bytes) => self.data(bytes).await,
                None => self.pieces(&entry).await?,
            };
            if !sent {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells what is not given because nobody signed for it.
    async fn tell(&self, strangers: &[String]) {
        let Some(first) = strangers.first().map(|name| escape_bounded(name, 200)) else { return };
        let beside = match strangers.len() {
            1 => String::new(),
            n => format!(" and {} more", n.saturating_sub(1)),
        };
        let what = format!(
            "'{first}'{beside}: the collection is sealed, and no signed manifest of it names this; an export leaves it out \
             (docs/operations/stores.md)"
        );
        self.parts.incident(Some(self.id), "store-foreign", self.case, &what).await;
    }

    /// With the size of the version that is read. A listing has that of the newest one, which somebody may have put on top.
    async fn genuine(&self, entry: Entry) -> Result<Entry> {
        if self.parts.store.attestable().is_none() {
            return Ok(entry);
        }
        let size = self.parts.store.size(&entry.name).await?;
        Ok(Entry { size, ..entry })
    }

    async fn pieces(&self, entry: &Entry) -> Result<bool> {
        let mut at = 0;
        while at < entry.size {
            let end = at.saturating_add(PIECE_BYTES).min(entry.size);
            if !self.data(self.parts.store.get_range(&entry.name, at..end).await?).await {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    async fn data(&self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(READ_BYTES_MAX));
            if self.out.send(Exported::Data(piece)).await.is_err() {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Payload, RemoteStore};
    use exhibit_evidence::Digest;

    #[tokio::test]
    async fn the_first_record_that_is_not_there_is_found() {
        let (store, log) = (RemoteStore::memory(), LogName::Case(CaseId::new(1, [2; 10])));
        for name in (0..1_500).filter(|n| *n != 1_200).map(|n| log.slot(n)).chain([format!("{}/seq/0000000003.x", log.folder())]) {
            store.put_new(&name, Payload::from_static(b"x"), Digest::of(b"x")).await.expect("written");
        }
        for (size, missing) in [(0, None), (1_200, None), (1_201, Some(1_200)), (1_500, Some(1_200))] {
            assert_eq!(first_missing(&store, &log, size).await.expect("listed"), missing, "{size}");
        }
        let empty = LogName::Deployment;
        assert_eq!(first_missing(&store, &empty, 1).await.expect("listed"), Some(0));
    }

    #[test]
    fn what_came_after_the_head_stays_out() {
        let covered = |name: &str| is_covered(&CaseObject::parse(name).expect("a name"), 300);
        for inside in [
            "log/seq/0000000299.dsse.json",
            "log/tile/0/000",
            "log/tile/0/000.p/7",
            "log/tile/0/001.p/44",
            "log/tile/1/000.p/1",
            "log/cosigned/0a1b2c3d/0000000300",
        ] {
            assert!(covered(inside), "{inside}");
        }
        for outside in [
            "log/checkpoint",
            "log/seq/0000000300.dsse.json",
            "log/tile/0/001",
            "log/tile/0/001.p/45",
            "log/tile/0/002.p/1",
            "log/tile/1/000.p/2",
            "log/cosigned/0a1b2c3d/0000000301",
        ] {
            assert!(!covered(outside), "{outside}");
        }
    }
}
