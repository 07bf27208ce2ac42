//! What the logs and the catalog say of an object: its digest before it is copied, and whether it ever was one of ours when the copy
//! alone has it.
//!
//! Whoever may write into the copy must not be able to put an accusation into a custody log: that the store lost something is said
//! only of what a signed record, a signed head or the catalog speaks of.

use exhibit_evidence::Digest;
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{CaseObject, StreamNumber, TimestampFile};
use exhibit_evidence::log::{Layer, Tile};
use exhibit_evidence::record::{Predicate as _, Record, Stamped};

use super::compare::{is_gone, read_head, shown};
use super::failed::Failed;
use super::folder::Folder;
use super::heads::verified;
use crate::custody;
use crate::ledger::{self, Ledger};
use crate::problem::{Kind, Problem};
use crate::store::Entry;

/// Names that one message has.
const NAMED_MAX: usize = 5;

/// Objects of the copy that neither a log nor the catalog knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    /// How many.
    pub count: u64,
    /// Some of them.
    pub named: Vec<String>,
    /// A sum over them that others, as many as these, would change.
    pub sum: u64,
}

impl Foreign {
    fn add(&mut self, entry: &Entry) {
        self.count = self.count.saturating_add(1);
        if self.named.len() < NAMED_MAX {
            self.named.push(shown(&entry.name));
        }
        let digest = Digest::of(format!("{} {}", entry.size, entry.name).as_bytes());
        self.sum = self.sum.wrapping_add(u64::from_le_bytes(digest.as_bytes().first_chunk().copied().unwrap_or_default()));
    }
}

impl Folder<'_> {
    /// This folder's log, opened on first use.
    pub(super) async fn ledger(&self) -> Result<&Ledger, Failed> {
        let log = self.log().ok_or_else(|| Failed::Own(Problem::new(Kind::NotFound, format!("'{}' has no log", shown(&self.name)))))?;
        let opening = || async { self.parts.ledgers.get(&log).await.map_err(Problem::from) };
        Ok(self.ledger.get_or_try_init(opening).await?)
    }

    /// What was acknowledged of a segment, received of a manifest, or taken into the log. None of what nothing speaks of (yet).
    pub(super) async fn digest_of(&self, name: &str) -> Result<Option<Digest>, Failed> {
        match self.object(name) {
            Some(CaseObject::Segment(collection, stream, n)) => {
                let segments = self.parts.catalog.segments(collection, stream, n, 1).await?;
                Ok(segments.into_iter().find(|segment| segment.n == n).map(|segment| segment.sha256))
            }
            Some(CaseObject::Manifest(collection, stream)) => self.manifest_digest(collection, stream).await,
            Some(CaseObject::Slot(n)) => Ok(self.ledger().await?.entry(n).map(|entry| entry.digest)),
            _ => Ok(None),
        }
    }

    async fn manifest_digest(&self, collection: CollectionId, stream: StreamNumber) -> Result<Option<Digest>, Failed> {
        let ledger = self.ledger().await?;
        let Some(receipt) = ledger.receipt_of(&collection, stream) else {
            // Written before its receipt is.
            let row = self.parts.catalog.stream(collection, stream).await?;
            return Ok(row.and_then(|row| row.manifest).map(|manifest| manifest.sha256));
        };
        let envelope = ledger.read(receipt.n).await.map_err(Problem::from)?;
        if let Ok(Record::Receipt(receipt)) = Record::from_payload(envelope.unverified_payload()) {
            return Ok(Some(receipt.manifest.sha256));
        }
        let what = format!("record {} of '{}' is no receipt any more", receipt.n, shown(&self.name));
        Err(Failed::Own(Problem::new(Kind::Damaged, what)))
    }

    /// The copy has what the store has not: a disposal that is not finished, a loss, or what never was ours.
    pub(super) async fn only_in_copy(&mut self, entry: &Entry) -> Result<(), Failed> {
        if !is_gone(&*self.parts.store, &entry.name).await? {
            return Ok(());
        }
        let case = self.case();
        let is_ours = match &case {
            Some(case) => self.parts.catalog.case(case.clone()).await?.is_some(),
            None => self.log().is_some(),
        };
        if is_ours && !self.disposed_of(std::iter::once(entry)).await?.is_empty() {
            return self.undestroyed(entry).await;
        }
        self.looked.left.only_in_copy = self.looked.left.only_in_copy.saturating_add(1);
        if !self.is_known(entry, case.as_ref()).await? {
            self.looked.foreign.add(entry);
            return Ok(());
        }
        let detail = format!(
            "'{}' is in the copy and not in the store any more: find out who deleted it, and bring it back from the copy",
            shown(&entry.name)
        );
        self.tell("store-lost", &detail).await;
        Ok(())
    }

    /// What a disposal is about to destroy is left to it. What is certified to be destroyed, and still lies here because something else
    /// stood in the place of the copy then, or somebody brought it back, is told and destroyed. What the copy does not let go of is told,
    /// and keeps nothing else from being copied.
    async fn undestroyed(&mut self, entry: &Entry) -> Result<(), Failed> {
        let (Some(CaseObject::Segment(collection, ..) | CaseObject::Manifest(collection, _)), Some(case)) =
            (self.object(&entry.name), self.case())
        else {
            return Ok(());
        };
        if self.undestroyed.as_ref() == Some(&collection) {
            return Ok(());
        }
        let ledger = self.ledger().await?;
        let destroyed = ledger.view().custody().disposal_of(&collection).and_then(|gone| gone.destroyed);
        let Some((at, certificate)) = destroyed else { return Ok(()) };
        let what = format!(
            "{collection} was certified as destroyed at {at} (record {certificate}), and parts of it are in the copy: something else stood in \
             the copy's place then, or somebody brought them back. They are destroyed there now"
        );
        // In this order: nobody would hear of it afterwards. What could not be told is left to the next look.
        let is_gone = self.tell("copy-undestroyed", &what).await && self.destroy_rest(&case, &collection).await?;
        if !is_gone {
            self.looked.left.only_in_copy = self.looked.left.only_in_copy.saturating_add(1);
        }
        self.undestroyed = Some(collection);
        Ok(())
    }

    /// False when the copy does not let go of it, which is told then.
    async fn destroy_rest(&self, case: &CaseId, collection: &CollectionId) -> Result<bool, Failed> {
        match custody::destroy_rest(self.parts, &*self.second.store, case, collection).await {
            Ok(()) => {
                tracing::warn!(%case, %collection, "the rest of a destroyed collection was destroyed in the copy");
                Ok(true)
            }
            Err(e) if e.is_passing() => Err(e.into()),
            Err(e) => {
                self.tell("copy-undestroyed", &format!("{collection} could not be destroyed in the copy: {e}")).await;
                Ok(false)
            }
        }
    }

    /// True when a signed head, a record or the catalog speaks of it.
    async fn is_known(&mut self, entry: &Entry, case: Option<&CaseId>) -> Result<bool, Failed> {
        match self.object(&entry.name) {
            // Our own head under a name that nobody gave it would pass for one that was cosigned.
            None | Some(CaseObject::Cosigned(..)) => Ok(false),
            Some(CaseObject::Checkpoint) => Ok(self.records_signed().await? > 0),
            Some(CaseObject::Slot(n)) => Ok(n < self.records_signed().await?),
            // A bundle of entries is written when it is full, or when its case closes.
            Some(CaseObject::Tile(tile)) if tile.layer() == Layer::Entries && !tile.is_full() => Ok(false),
            Some(CaseObject::Tile(tile)) => Ok(Tile::of(tile.layer(), tile.index(), self.records_signed().await?) == Some(tile)),
            Some(CaseObject::Timestamp(size, file)) => self.is_stamped(size, &file).await,
            Some(CaseObject::Segment(collection, stream, n)) => {
                let of_case = self.is_of_case(&collection, case).await?;
                Ok(of_case && self.parts.catalog.segments(collection, stream, n, 1).await?.iter().any(|segment| segment.n == n))
            }
            Some(CaseObject::Manifest(collection, stream)) => {
                let of_case = self.is_of_case(&collection, case).await?;
                Ok(of_case && self.parts.catalog.stream(collection, stream).await?.is_some_and(|row| row.manifest.is_some()))
            }
        }
    }

    async fn is_of_case(&self, collection: &CollectionId, case: Option<&CaseId>) -> Result<bool, Failed> {
        let row = self.parts.catalog.collection(collection.clone()).await?;
        Ok(row.is_some_and(|row| Some(&row.case) == case))
    }

    /// Only what a record of a token speaks of: the token, and the head that it stamps.
    async fn is_stamped(&mut self, size: u64, file: &TimestampFile) -> Result<bool, Failed> {
        let signed = self.records_signed().await?;
        if size == 0 || size > signed {
            return Ok(false);
        }
        match self.ledger().await {
            Ok(ledger) => {
                let speaks_of_it = |e: &ledger::Entry| {
                    let (by, at) = e.stamped.as_ref().filter(|_| e.kind == Stamped::TYPE)?;
                    let is_meant = match file {
                        TimestampFile::Checkpoint => true,
                        TimestampFile::Reply(authority) => authority.as_str() == &**by,
                        TimestampFile::Request(_) | TimestampFile::Crl(..) => false,
                    };
                    Some(is_meant && *at == size)
                };
                Ok(!ledger.entries(0, &|e| speaks_of_it(e) == Some(true), 1).is_empty())
            }
            Err(Failed::Own(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Records under the largest signed head of this log that either store has.
    async fn records_signed(&mut self) -> Result<u64, Failed> {
        if let Some(signed) = self.signed {
            return Ok(signed);
        }
        let there = match self.log() {
            Some(log) => read_head(&*self.second.store, &log.checkpoint()).await?.and_then(|bytes| verified(self.parts, &log, &bytes)),
            None => None,
        };
        let here = self.head.as_ref().map(|(_, head)| head.size);
        let signed = there.map(|head| head.size).into_iter().chain(here).max().unwrap_or(0);
        self.signed = Some(signed);
        Ok(signed)
    }
}
