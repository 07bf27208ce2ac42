//! The heads of a folder's log, which are written again under their names: copied last, and only forward.

use bytes::Bytes;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::{Checkpoint, NOTE_BYTES_MAX};

use super::compare::{read_head, shown};
use super::folder::{Failed, Folder};
use crate::parts::Parts;
use crate::store::list_all;

/// Heads that witnesses vouch for: one for each witness and size that was asked for.
const COSIGNED_MAX: usize = 1 << 20;

/// A head as its bytes and as what they say.
pub(super) type Head = (Bytes, Checkpoint);

/// The newest signed head of a log, and whether something lies in its place that is none.
pub(super) async fn head_of(parts: &Parts, log: &LogName) -> Result<(Option<Head>, bool), Failed> {
    let Some(bytes) = read_head(&*parts.store, &log.checkpoint()).await? else { return Ok((None, false)) };
    // What is no head of ours is no head to the copy either: records wait.
    let head = verified(parts, log, &bytes);
    let wrong = head.is_none();
    Ok((head.map(|head| (bytes, head)), wrong))
}

/// What a head says, if this deployment signed it for this log.
pub(super) fn verified(parts: &Parts, log: &LogName, bytes: &[u8]) -> Option<Checkpoint> {
    let head = Checkpoint::verify(bytes, &parts.ledgers.log_key().public()).ok()?;
    (head.origin == log.origin(parts.deployment())).then_some(head)
}

impl Folder<'_> {
    /// Copies the heads when everything under them is there.
    pub(super) async fn put_heads(&mut self) -> Result<(), Failed> {
        let Some(log) = self.log() else { return Ok(()) };
        let Some((head, says)) = self.head.clone() else { return Ok(()) };
        self.put_cosigned(&log).await?;
        self.put_head(&log, head, says).await
    }

    /// An older one never replaces a newer one. What is in its place and no head of this log is told and replaced; where it is one, and
    /// contradicts ours, both are evidence and stay.
    async fn put_head(&mut self, log: &LogName, head: Bytes, says: Checkpoint) -> Result<(), Failed> {
        let (copy, name) = (&*self.second.store, log.checkpoint());
        if let Some(there) = read_head(copy, &name).await? {
            if there == head {
                return Ok(());
            }
            match verified(self.parts, log, &there) {
                None => {
                    let what = format!("'{}' in the copy was no signed head of this log; it was replaced by the store's", shown(&name));
                    self.differs(&what).await;
                }
                Some(there) if there.size > says.size => return self.ahead(log, &there).await,
                Some(there) if there.size == says.size && there.root != says.root => {
                    self.looked.left.differ = self.looked.left.differ.saturating_add(1);
                    let what = format!("'{}' is signed over {} records in both, and not over the same ones", shown(&name), says.size);
                    self.differs(&what).await;
                    return Ok(());
                }
                // Older, or without a witness that vouched for it since.
                Some(_) => {}
            }
        }
        copy.put_head(&name, head).await?;
        Ok(())
    }

    /// The copy's head is of more records than ours was when it was read: another coordinator copied a newer one, or the store's log was
    /// cut back.
    async fn ahead(&mut self, log: &LogName, there: &Checkpoint) -> Result<(), Failed> {
        let (now, _) = head_of(self.parts, log).await?;
        let size = now.map_or(0, |(_, head)| head.size);
        if size < there.size {
            self.looked.left.differ = self.looked.left.differ.saturating_add(1);
            let detail = format!(
                "'{}' in the copy is a signed head of {} records, that of the store of {size}: the store's log was cut back; find out who \
                 did it, and bring it back from the copy",
                shown(&log.checkpoint()),
                there.size
            );
            self.parts.incident(None, "store-lost", &self.name, &detail).await;
        }
        Ok(())
    }

    /// Heads that witnesses vouch for. Each is created once in the store, so another size in the copy is somebody else's doing.
    async fn put_cosigned(&self, log: &LogName) -> Result<(), Failed> {
        let (first, copy) = (&*self.parts.store, &*self.second.store);
        let folder = log.cosigned_folder();
        let there = list_all(copy, &folder, COSIGNED_MAX).await?;
        for entry in list_all(first, &folder, COSIGNED_MAX).await? {
            let size = there.iter().find(|e| e.name == entry.name).map(|e| e.size);
            if size == Some(entry.size) {
                continue;
            }
            if let Some(size) = size {
                let (name, ours) = (shown(&entry.name), entry.size);
                let what = format!("'{name}' had {size} bytes in the copy and {ours} in the store; it was replaced");
                self.differs(&what).await;
            }
            copy.put_head(&entry.name, first.get(&entry.name, NOTE_BYTES_MAX as u64).await?).await?;
        }
        Ok(())
    }
}
