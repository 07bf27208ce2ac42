//! Cosignatures: accepted only from configured witnesses, over heads that this log has, and never replaced.

use bytes::Bytes;
use exhibit_evidence::Digest;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::{Checkpoint, Cosigned, NOTE_BYTES_MAX, NotCosigned, Note, Signature, WitnessKey};

use super::log::{Alone, Inner};
use super::{Head, Keys, Kind, Ledger, LedgerError, RECORDS_MAX};
use crate::store::{self, Payload};

impl Ledger {
    /// Takes a checkpoint of this log with cosignatures. Those of configured witnesses are verified and kept, others are
    /// passed over. Gives the names of the witnesses whose cosignatures are there now. May be repeated; a witness's first
    /// cosignature over a head stays.
    ///
    /// 1. each cosignature in its own object, create-only
    /// 2. the checkpoint with all of them, when it is the published one
    ///
    /// # Errors
    /// [`Kind::Refused`] when the note is no head of this log, or no configured witness signed it; the store's.
    pub async fn add_cosignatures(&self, note: Note) -> Result<Vec<String>, LedgerError> {
        let inner = std::sync::Arc::clone(&self.inner);
        // Its own task, as for appends: the checkpoint must not be replaced by a call that nobody waits for any more.
        let work = tokio::spawn(async move {
            let alone = inner.alone().await?;
            let added = inner.add_cosignatures(&note, &alone).await;
            inner.done(alone, added.is_ok()).await;
            added
        });
        work.await.unwrap_or_else(|e| Err(LedgerError::new(Kind::Bug, format!("the writer of a log ended badly: {e}"))))
    }
}

/// The newest head that each witness cosigned, as far as this log's own key signed it too. What else lies there is for a
/// verifier to judge.
pub(super) async fn newest_cosigned(store: &dyn store::Store, name: &LogName, keys: &Keys) -> Result<Vec<Head>, LedgerError> {
    let folder = name.cosigned_folder();
    let mut heads = Vec::new();
    for witness in store.folders(&folder).await.map_err(LedgerError::unlisted)? {
        // Sizes have ten digits in names, so the last one is the largest.
        let listed = store::list_all(store, &format!("{folder}/{witness}"), RECORDS_MAX as usize).await.map_err(LedgerError::unlisted)?;
        let Some(newest) = listed.last() else { continue };
        let bytes = match store.get(&newest.name, NOTE_BYTES_MAX as u64).await {
            Ok(bytes) => bytes,
            // It is larger than any head: nobody of ours wrote it.
            Err(e) if e.kind() == store::Kind::Damaged => continue,
            Err(e) => return Err(e.into()),
        };
        let note = Note::parse(&bytes).ok();
        let checkpoint = note.and_then(|note| Checkpoint::verify_note(&note, &keys.log.public()).ok());
        if let Some(c) = checkpoint.filter(|c| c.origin == name.origin(&keys.anchor.deployment)) {
            heads.push(Head { size: c.size, root: c.root });
        }
    }
    Ok(heads)
}

impl Inner {
    async fn add_cosignatures(&self, note: &Note, alone: &Alone<'_>) -> Result<Vec<String>, LedgerError> {
        let refuse = |why: String| LedgerError::new(Kind::Refused, format!("note: {why}"));
        let checkpoint = Checkpoint::verify_note(note, &self.keys.log.public()).map_err(|e| refuse(e.to_string()))?;
        let origin = self.name.origin(&self.keys.anchor.deployment);
        if checkpoint.origin != origin {
            return Err(refuse(format!("it is a checkpoint of another log than '{origin}'")));
        }
        if self.view().root_at(checkpoint.size) != Some(checkpoint.root) {
            // Its own key signed this head: records were taken away since, or the key is in other hands.
            let have = self.view().size();
            let what = format!(
                "its key signed a head of {} records that is not in it (it has {have}); a witness holds that head",
                checkpoint.size
            );
            return Err(LedgerError::incident(&self.name.folder(), what));
        }
        if checkpoint.size > self.published() {
            return Err(LedgerError::new(Kind::Conflict, "note: its head is not published yet; try again in a moment"));
        }
        let mut cosigned: Vec<(&WitnessKey, Cosigned)> = Vec::new();
        for witness in &self.keys.witnesses {
            match witness.verify(note) {
                Ok(found) => cosigned.push((witness, found)),
                // Damaged on its way, or made by somebody else in that name: nothing of such a note is kept.
                Err(e @ NotCosigned::BadSignature(_)) => return Err(refuse(e.to_string())),
                Err(_) => {}
            }
        }
        if cosigned.is_empty() {
            let known: Vec<&str> = self.keys.witnesses.iter().map(WitnessKey::name).collect();
            let known = if known.is_empty() { "none is configured (witness.keys)".to_owned() } else { known.join(", ") };
            return Err(refuse(format!("no cosignature in it is of a witness that this coordinator knows: {known}")));
        }
        for (witness, cosigned) in &cosigned {
            self.keep(witness, cosigned).await?;
        }
        alone.still()?;
        if checkpoint.size == self.published() {
            let mut note = checkpoint.signed_note(&self.keys.log);
            note.signatures.extend(self.cosignatures(&checkpoint).await?);
            let (name, bytes) = (self.name.checkpoint(), Bytes::from(note.to_bytes()));
            // Whoever repeats what is there must not cost the log's writers a write.
            if self.store.get(&name, NOTE_BYTES_MAX as u64).await.ok().as_ref() != Some(&bytes) {
                self.store.put_head(&name, bytes).await?;
            }
        }
        Ok(cosigned.into_iter().map(|(w, _)| w.name().to_owned()).collect())
    }

    async fn keep(&self, witness: &WitnessKey, cosigned: &Cosigned) -> Result<(), LedgerError> {
        let mut note = cosigned.checkpoint.signed_note(&self.keys.log);
        note.signatures.push(cosigned.signature.clone());
        let bytes = Bytes::from(note.to_bytes());
        let (name, digest) = (self.name.cosigned(witness, cosigned.checkpoint.size), Digest::of(&bytes));
        match self.store.put_new(&name, Payload::from(bytes), digest).await {
            Ok(_) => Ok(()),
            // Cosigned at another time before: that one stays, if it is one.
            Err(e) if e.kind() == store::Kind::Conflict => match self.cosignature(witness, &cosigned.checkpoint).await? {
                Some(_) => Ok(()),
                None => Err(LedgerError::incident(&self.name.folder(), format!("the cosignature '{name}' was there and is gone"))),
            },
            Err(e) => Err(e.into()),
        }
    }

    /// The cosignatures over a head that are kept, of configured witnesses, in their order.
    pub(super) async fn cosignatures(&self, checkpoint: &Checkpoint) -> Result<Vec<Signature>, LedgerError> {
        let mut out = Vec::new();
        for witness in &self.keys.witnesses {
            out.extend(self.cosignature(witness, checkpoint).await?);
        }
        Ok(out)
    }

    async fn cosignature(&self, witness: &WitnessKey, checkpoint: &Checkpoint) -> Result<Option<Signature>, LedgerError> {
        let name = self.name.cosigned(witness, checkpoint.size);
        let bytes = match self.store.get(&name, NOTE_BYTES_MAX as u64).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == store::Kind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let cosigned = Note::parse(&bytes).ok().and_then(|note| witness.verify(&note).ok()).filter(|c| c.checkpoint == *checkpoint);
        let incident = || LedgerError::incident(&self.name.folder(), format!("'{name}' is no cosignature over this log's head"));
        cosigned.map(|c| Some(c.signature)).ok_or_else(incident)
    }
}
