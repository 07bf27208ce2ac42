//! The heads of a folder's log, which are written again under their names: copied last, and only forward.

use bytes::Bytes;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::{Checkpoint, NOTE_BYTES_MAX};

use super::compare::{Difference, Differences, is_foreign, read_head, shown};
use super::failed::Failed;
use super::folder::Folder;
use crate::parts::Parts;

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
    /// Looks at the copy's head whatever is missing there, and copies the heads when everything under them is there.
    pub(super) async fn heads(&mut self, is_covered: bool) -> Result<(), Failed> {
        let Some(log) = self.log() else { return Ok(()) };
        let Some((head, says)) = self.head.clone() else { return Ok(()) };
        if is_covered {
            self.put_cosigned(&log).await?;
        }
        if self.is_behind(&log, &head, &says).await? && is_covered {
            self.second.store.put_head(&log.checkpoint(), head).await?;
        }
        Ok(())
    }

    /// True when the store's head belongs in the place of the copy's. An older one never replaces a newer one. What is there and no
    /// head of this log is told and replaced. What the log's own key signed there and contradicts our records is evidence, as ours is,
    /// and stays however much the log grows.
    async fn is_behind(&mut self, log: &LogName, head: &Bytes, says: &Checkpoint) -> Result<bool, Failed> {
        let name = log.checkpoint();
        let Some(bytes) = read_head(&*self.second.store, &name).await? else { return Ok(true) };
        if bytes == *head {
            return Ok(false);
        }
        let Some(there) = verified(self.parts, log, &bytes) else {
            let what = format!("'{}' in the copy was no signed head of this log; the store's takes its place", shown(&name));
            self.differs(&what).await;
            return Ok(true);
        };
        if there.size > says.size {
            self.ahead(log, &there).await?;
            return Ok(false);
        }
        // Of as many records: without a witness that vouched for it since.
        let ours = if there.size == says.size { Some(says.root) } else { self.ledger().await?.root_at(there.size) };
        let Some(ours) = ours else {
            // Another coordinator added to the log this moment.
            let what = format!("'{}' has a head of {} records that are not read yet", shown(&name), there.size);
            return Err(Failed::Passing(what));
        };
        if there.root == ours {
            return Ok(true);
        }
        self.looked.left.differ = self.looked.left.differ.saturating_add(1);
        let what = format!(
            "'{}' in the copy is signed with this log's key over {} records, and those are not the first {} of the store: the log was \
             forked. Both heads are evidence, and the copy's stays as it is",
            shown(&name),
            there.size,
            there.size
        );
        self.differs(&what).await;
        Ok(false)
    }

    /// The copy's head is of more records than ours was when it was read: another coordinator copied a newer one, or the store's log was
    /// cut back.
    async fn ahead(&mut self, log: &LogName, there: &Checkpoint) -> Result<(), Failed> {
        let (now, _) = head_of(self.parts, log).await?;
        if now.map_or(0, |(_, head)| head.size) < there.size {
            self.looked.left.differ = self.looked.left.differ.saturating_add(1);
            // Of how many records ours is changes with each incident, and would be told each time.
            let detail = format!(
                "'{}' in the copy is a signed head of {} records, that of the store is of fewer: the store's log was cut back; find out \
                 who did it, and bring it back from the copy",
                shown(&log.checkpoint()),
                there.size
            );
            self.tell("store-lost", &detail).await;
        }
        Ok(())
    }

    /// Heads that witnesses vouch for: one for each witness and size that was asked for, so both listings are walked side by side, a page
    /// of each in memory. Each is created once in the store, so another size in the copy is somebody else's doing.
    async fn put_cosigned(&self, log: &LogName) -> Result<(), Failed> {
        let (first, copy) = (&*self.parts.store, &*self.second.store);
        let mut differences = Differences::below(&log.cosigned_folder(), first, copy);
        while let Some(difference) = differences.next().await? {
            // What only the copy has was looked at with the rest of the folder.
            let Difference::Head(entry, there) = difference else { continue };
            if is_foreign(&entry.name) {
                continue;
            }
            if let Some(size) = there {
                let (name, ours) = (shown(&entry.name), entry.size);
                let what = format!("'{name}' had {size} bytes in the copy and {ours} in the store; it was replaced");
                self.differs(&what).await;
            }
            copy.put_head(&entry.name, first.get(&entry.name, NOTE_BYTES_MAX as u64).await?).await?;
        }
        Ok(())
    }
}
