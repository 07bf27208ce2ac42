//! Walking manifests: from the store once a stream is received, from the catalog before.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use exhibit_evidence::digest::Hasher;
use exhibit_evidence::layout;
use exhibit_evidence::manifest::{Item, ItemId, LINE_BYTES_MAX, Line, Status};
use exhibit_evidence::record::Action;
use tokio::sync::mpsc;

use super::paths::Paths;
use super::{Reader, damaged, record_access, streams_of};
use crate::catalog::{CollectionRow, StreamRow, StreamState};
use crate::custody::require_kept;
use crate::parts::Parts;
use crate::problem::{Problem, Result};

/// Bytes of a manifest that are read in one go.
const CHUNK_BYTES: u64 = 1 << 20;

/// Which items; empty fields do not restrict.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    paths: Paths,
    captures: BTreeSet<String>,
    statuses: BTreeSet<Status>,
}

impl Filter {
    /// Builds a filter.
    ///
    /// # Errors
    /// [`Problem`] that names the field.
    pub fn new(path_globs: &[String], captures: &[String], statuses: &[String]) -> Result<Self> {
        let paths = Paths::new(path_globs)?;
        let mut wanted = BTreeSet::new();
        for text in statuses {
            let status = Status::ALL.into_iter().find(|s| s.as_str() == text);
            let known = || Status::ALL.map(Status::as_str).join(", ");
            let shown = exhibit_evidence::text::escape_bounded(text, 60);
            wanted.insert(status.ok_or_else(|| Problem::invalid(format!("statuses: '{shown}' is none of {}", known())))?);
        }
        Ok(Self { paths, captures: captures.iter().cloned().collect(), statuses: wanted })
    }

    fn takes(&self, item: &Item) -> bool {
        (self.captures.is_empty() || self.captures.contains(&item.capture))
            && (self.statuses.is_empty() || self.statuses.contains(&item.status))
            && self.paths.takes(&item.path)
    }
}

/// An item as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedItem {
    /// Its id.
    pub id: ItemId,
    /// Its exhibit number, zero before sealing.
    pub exhibit: u64,
    /// Its manifest line, without newline.
    pub line: Bytes,
}

/// Lists items into `out` until all are listed or nobody listens. The access is recorded first.
///
/// # Errors
/// [`Problem`]
pub async fn list_items(
    parts: Arc<Parts>,
    by: &Reader,
    reason: &str,
    rows: Vec<CollectionRow>,
    filter: Filter,
    out: mpsc::Sender<ListedItem>,
) -> Result<()> {
    let mut what: std::collections::BTreeMap<_, Vec<String>> = std::collections::BTreeMap::new();
    for row in &rows {
        what.entry(row.case.clone()).or_default().push(row.collection.to_string());
    }
    for row in &rows {
        require_kept(&parts, &row.case, std::iter::once(&row.collection)).await?;
    }
    record_access(&parts, by, Action::List, reason, what).await?;
    for row in &rows {
        for (stream, first) in streams_of(&parts, row).await? {
            let mut walk = ManifestWalk::new(&parts, row, &stream);
            while let Some((item, line)) = walk.next_item().await? {
                if !filter.takes(&item) {
                    continue;
                }
                let id = ItemId { collection: row.collection.clone(), stream: stream.stream, n: item.n };
                let exhibit = if first > 0 { first.saturating_add(item.n) } else { 0 };
                if out.send(ListedItem { id, exhibit, line }).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Reads a stream's manifest item by item in flat memory, and checks it against its receipt at the end.
pub(super) struct ManifestWalk<'a> {
    parts: &'a Parts,
    row: &'a CollectionRow,
    stream: &'a StreamRow,
    buffer: Vec<u8>,
    taken: usize,
    /// Bytes read so far, or parts when they come from the catalog.
    position: u64,
    hasher: Option<Hasher>,
    ended: bool,
}

impl<'a> ManifestWalk<'a> {
    pub(super) fn new(parts: &'a Parts, row: &'a CollectionRow, stream: &'a StreamRow) -> Self {
        Self { parts, row, stream, buffer: Vec::new(), taken: 0, position: 0, hasher: Some(Hasher::new()), ended: false }
    }

    /// The next item and its line without newline; `None` after the last.
    pub(super) async fn next_item(&mut self) -> Result<Option<(Box<Item>, Bytes)>> {
        while let Some(line) = self.next_line().await? {
            match Line::parse(&line) {
                Ok(Line::Item(item)) => return Ok(Some((item, line))),
                Ok(_) => {}
                Err(e) => return Err(damaged(format!("the manifest of {} {}: {e}", self.row.collection, self.stream.stream))),
            }
        }
        Ok(None)
    }

    async fn next_line(&mut self) -> Result<Option<Bytes>> {
        loop {
            let left = &self.buffer[self.taken..];
            let left_bytes = left.len();
            if let Some(end) = left.iter().position(|b| *b == b'\n') {
                let line = Bytes::copy_from_slice(&left[..end]);
                self.taken += end + 1;
                return Ok(Some(line));
            }
            if left_bytes > LINE_BYTES_MAX {
                return Err(damaged(format!(
                    "the manifest of {} {} holds a line that is too long",
                    self.row.collection, self.stream.stream
                )));
            }
            if self.ended {
                self.check_whole()?;
                return if left_bytes == 0 {
                    Ok(None)
                } else {
                    Err(damaged(format!("the manifest of {} {} is cut", self.row.collection, self.stream.stream)))
                };
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<()> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let more = if let (Some(manifest), StreamState::Received) = (&self.stream.manifest, self.stream.state) {
            let end = self.position.saturating_add(CHUNK_BYTES).min(manifest.size);
            if self.position >= end {
                None
            } else {
                let name = layout::manifest(&self.row.case, &self.row.collection, self.stream.stream);
                let bytes = self.parts.store.get_range(&name, self.position..end).await?;
                self.position = end;
                Some(bytes)
            }
        } else {
            let n = self.position as u32;
            self.position += 1;
            self.parts.catalog.manifest_part(self.row.collection.clone(), self.stream.stream, n).await?.map(Bytes::from)
        };
        match more {
            Some(bytes) => {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(&bytes);
                }
                self.buffer.extend_from_slice(&bytes);
            }
            None => self.ended = true,
        }
        Ok(())
    }

    /// The whole manifest has passed: it must be the one of the receipt.
    fn check_whole(&mut self) -> Result<()> {
        let (Some(manifest), StreamState::Received, Some(hasher)) = (&self.stream.manifest, self.stream.state, self.hasher.take()) else {
            return Ok(());
        };
        let found = hasher.finish();
        if found == manifest.sha256 {
            return Ok(());
        }
        Err(damaged(format!(
            "the manifest of {} {} has SHA-256 {found}, its receipt says {}",
            self.row.collection, self.stream.stream, manifest.sha256
        )))
    }
}
