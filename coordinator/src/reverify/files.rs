//! What the verifier reads of a store.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use exhibit_evidence::layout::CaseObject;
use exhibit_evidence::verify::{CaseFiles, Entry, EntryKind};
use tokio::runtime::Handle;

use crate::pace::Pace;
use crate::store::{Store, StoreError};

/// Bytes of an object that are read at once.
const READ_BYTES: u64 = 1 << 20;

/// Dropped when nobody waits for the verifier any more: it runs in a thread of its own, which must end with its next read.
#[derive(Default)]
pub(super) struct GivenUp(pub(super) Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The objects of a case, or of the deployment, in the store, for the verifier, which knows no async.
pub(super) struct Files {
    pub(super) store: Arc<dyn Store>,
    /// With a slash at its end.
    pub(super) folder: String,
    pub(super) listed: Vec<(String, u64)>,
    /// The newest head of the log, where something else is what a reader gets.
    pub(super) head: Option<Bytes>,
    pub(super) pace: Pace,
    pub(super) runtime: Handle,
    pub(super) given_up: Arc<AtomicBool>,
}

impl CaseFiles for Files {
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> io::Result<()> {
        for (name, size) in &self.listed {
            let name = name.strip_prefix(&self.folder).unwrap_or(name);
            each(Entry { name: name.as_bytes(), size: *size, kind: EntryKind::File });
        }
        Ok(())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        self.still_wanted()?;
        if let Some(head) = self.head.as_ref().filter(|_| CaseObject::parse(name) == Some(CaseObject::Checkpoint)) {
            return Ok(Box::new(io::Cursor::new(head.clone())));
        }
        let name = format!("{}{name}", self.folder);
        let size = self.runtime.block_on(self.store.size(&name)).map_err(io::Error::other)?;
        Ok(Box::new(Object { files: self, name, at: 0, size, piece: Bytes::new() }))
    }
}

impl Files {
    fn still_wanted(&self) -> io::Result<()> {
        if self.given_up.load(Ordering::Acquire) { Err(io::Error::other("nobody waits for this any more")) } else { Ok(()) }
    }
}

struct Object<'a> {
    files: &'a Files,
    name: String,
    at: u64,
    size: u64,
    piece: Bytes,
}

impl Read for Object<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && self.at < self.size {
            self.files.still_wanted()?;
            let end = self.size.min(self.at.saturating_add(READ_BYTES));
            let work = async {
                let piece = self.files.store.get_range(&self.name, self.at..end).await?;
                self.files.pace.moved(piece.len() as u64).await;
                Ok::<_, StoreError>(piece)
            };
            self.piece = self.files.runtime.block_on(work).map_err(io::Error::other)?;
            self.at = end;
        }
        let count = out.len().min(self.piece.len());
        let piece = self.piece.split_to(count);
        out.get_mut(..count).unwrap_or_default().copy_from_slice(&piece);
        Ok(count)
    }
}
