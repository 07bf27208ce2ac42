//! Proofs about a log, made of a few tiles and checked before they are given away.

use std::collections::BTreeMap;

use bytes::Bytes;
use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::log::{Checkpoint, Plan, Tile, leaf_hash, verify_consistency, verify_inclusion};
use futures::{StreamExt as _, TryStreamExt as _};

use super::log::READS_IN_FLIGHT;
use super::{Kind, Ledger, LedgerError};

/// A proof that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// RFC 6962 hashes.
    pub hashes: Vec<Digest>,
    /// The signed checkpoint that they lead to: the published one with its cosignatures, or one of an earlier size.
    pub checkpoint: Vec<u8>,
    /// Records that the checkpoint covers.
    pub size: u64,
}

/// What is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofOf {
    /// That this record is in the log.
    Record(u64),
    /// That the log continues its head of this size.
    Head(u64),
}

impl Ledger {
    /// Records that the newest published checkpoint covers.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.inner.published()
    }

    /// Proves something against the head of `size` records; 0 means the published checkpoint. It reads two tiles a level
    /// at most, and for a record its slot.
    ///
    /// # Errors
    /// [`Kind::Refused`] when there is no such record or head, [`Kind::Damaged`] when tiles or slot are not what they were.
    pub async fn prove(&self, what: ProofOf, size: u64) -> Result<Proof, LedgerError> {
        let published = self.published();
        let size = if size == 0 { published } else { size };
        let refuse = |why: String| Err(LedgerError::new(Kind::Refused, why));
        if size > published {
            return refuse(format!("size: {size}: the newest checkpoint of this log covers {published} records"));
        }
        let plan = match what {
            ProofOf::Record(n) => Plan::inclusion(n, size).ok_or(("record", n)),
            ProofOf::Head(old) => Plan::consistency(old, size).ok_or(("from", old)),
        };
        let plan = match plan {
            Ok(plan) => plan.in_tree(published),
            Err((field, n)) => return refuse(format!("{field}: {n}: the head of this proof covers {size} records")),
        };
        let tiles = self.read_tiles(&plan).await?;
        let incident = |what: String| LedgerError::incident(&self.name().folder(), what);
        let hashes = plan.build(&|tile| tiles.get(tile).map(|b| &b[..])).map_err(|e| incident(e.to_string()))?;
        let root = self.root_at(size).ok_or_else(|| LedgerError::new(Kind::Bug, "a published head is not in the log"))?;
        let holds = match what {
            ProofOf::Record(n) => verify_inclusion(leaf_hash(self.read(n).await?.as_bytes()), n, size, &hashes, &root),
            ProofOf::Head(old) => {
                let old_root = self.root_at(old).ok_or_else(|| LedgerError::new(Kind::Bug, "an old head is not in the log"))?;
                verify_consistency((old, &old_root), (size, &root), &hashes)
            }
        };
        holds.map_err(|_| incident("its tiles are not what the records give".to_owned()))?;
        Ok(Proof { hashes, checkpoint: self.checkpoint(size).await?, size })
    }

    /// The signed checkpoint of the first `size` records, at most as many as the published one covers, with the
    /// cosignatures that are known.
    ///
    /// # Errors
    /// [`Kind::Refused`] when there is no such head; the store's.
    pub async fn checkpoint(&self, size: u64) -> Result<Vec<u8>, LedgerError> {
        let root = self.root_at(size).filter(|_| size <= self.published());
        let root =
            root.ok_or_else(|| LedgerError::new(Kind::Refused, format!("size: {size}: no checkpoint of this log covers so many records")))?;
        let inner = &self.inner;
        let checkpoint = Checkpoint { origin: inner.name.origin(&inner.keys.anchor.deployment), size, root };
        let mut note = checkpoint.signed_note(&inner.keys.log);
        note.signatures.extend(inner.cosignatures(&checkpoint).await?);
        Ok(note.to_bytes())
    }

    /// The enrolment of the key that signs this log's checkpoints: what a witness verifies under the anchor.
    ///
    /// # Errors
    /// [`Kind::Refused`] while the log is empty; as [`Ledger::read`].
    pub async fn log_enrolment(&self) -> Result<Envelope, LedgerError> {
        let key = self.inner.keys.log.public().id();
        let n = self.view().enrolment_of(key).map(|e| e.n);
        match n {
            Some(n) => self.read(n).await,
            None => Err(LedgerError::new(Kind::Refused, "this log has no records yet")),
        }
    }

    async fn read_tiles(&self, plan: &Plan) -> Result<BTreeMap<Tile, Bytes>, LedgerError> {
        futures::stream::iter(plan.tiles())
            .map(|tile| async move {
                let bytes = self.inner.store.get(&self.inner.name.tile(&tile), tile.bytes_max()).await?;
                Ok::<_, LedgerError>((tile, bytes))
            })
            .buffered(READS_IN_FLIGHT)
            .try_collect()
            .await
    }
}
