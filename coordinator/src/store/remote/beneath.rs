//! What nobody sees who names no version: read and listed all the same, where locks keep what lies under a deletion.

use exhibit_evidence::Timestamp;
use futures::StreamExt as _;
use object_store::ObjectMeta;

use super::RemoteStore;
use crate::store::{Entry, Kind, PAGE_ENTRIES_MAX, Page, StoreError, attest};

/// Hidden objects of a page that are looked at together.
const LOOKS_IN_FLIGHT: usize = 16;

impl RemoteStore {
    /// The version of an object that a deletion hides; of one that was not known to be hidden the versions are looked at.
    ///
    /// # Errors
    /// [`StoreError::says_nothing`]: whether something is there is not known then. A store that does not let its versions be listed has told so
    /// to attestation, and what cannot be seen there counts as absent.
    pub(super) async fn look_beneath(&self, name: &str) -> Result<Option<String>, StoreError> {
        let remembered = self.known().hidden_version(name);
        if remembered.is_some() || self.locks.is_none() {
            return Ok(remembered);
        }
        match Box::pin(attest::recall(self, name)).await {
            Ok(troubles) => {
                for trouble in troubles {
                    self.note(trouble);
                }
            }
            Err(e) if e.says_nothing() => return Err(e),
            Err(_) => {}
        }
        let found = self.known().hidden_version(name);
        Ok(found)
    }

    /// A page of what is seen, with what is hidden between its names.
    pub(super) async fn with_hidden(&self, folder: &str, after: Option<&str>, seen: Page) -> Result<Page, StoreError> {
        if self.known().hides_nothing() {
            return Ok(seen);
        }
        {
            let mut known = self.known();
            for entry in &seen.entries {
                known.note_seen(&entry.name);
            }
        }
        let end = seen.entries.last().filter(|_| seen.more).map(|entry| entry.name.clone());
        let hidden = loop {
            let names = self.known().hidden_below(folder, after, end.as_deref());
            let wanted = names.len();
            let there = self.still_there(names).await?;
            if there.len() == wanted {
                break there;
            }
        };
        let Page { mut entries, more } = seen;
        entries.extend(hidden);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let more = more || entries.len() > PAGE_ENTRIES_MAX;
        entries.truncate(PAGE_ENTRIES_MAX);
        Ok(Page { entries, more })
    }

    /// Hidden objects as a listing has them. Those that are gone, because another coordinator destroyed them, are forgotten.
    async fn still_there(&self, hidden: Vec<(String, String)>) -> Result<Vec<Entry>, StoreError> {
        let mut looks = futures::stream::iter(hidden)
            .map(|(name, version)| async move { (self.look(&name, Some(version)).await, name) })
            .buffered(LOOKS_IN_FLIGHT);
        let mut there = Vec::new();
        while let Some((looked, name)) = looks.next().await {
            match looked {
                Ok(meta) => there.push(Entry { name, size: meta.size, modified: modified(&meta) }),
                Err(e) if e.kind() == Kind::NotFound => self.known().forget_hidden(&name),
                Err(e) => return Err(e),
            }
        }
        Ok(there)
    }
}

/// When the store wrote an object.
pub(super) fn modified(meta: &ObjectMeta) -> Timestamp {
    Timestamp::from_unix_ns(meta.last_modified.timestamp_nanos_opt().unwrap_or(0))
}
