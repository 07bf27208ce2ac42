//! Segments that lie in the store and that the catalog does not know: stored, and then the process died before the
//! commit; or the catalog was lost. They were verified before they were stored, and nothing can delete them: they become
//! part of the stream, with lines that say what is not known any more. One that is encrypted gets a line with its size and digest
//! alone: nobody here can read what is in it.

use std::sync::Arc;

use exhibit_evidence::layout::{self, StreamNumber};
use exhibit_evidence::stream::SEGMENT_BYTES_MAX;

use crate::catalog::{CollectionRow, SegmentCommit, Step, StreamRow};
use crate::clock;
use crate::dispatch;
use crate::intake::{empty_stream, encrypt_to, parts_of, restore};
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::store;

/// Makes rows for streams of the collection that have a folder in the store and no row.
pub(super) async fn streams_without_rows(parts: &Parts, row: &CollectionRow) -> Result<()> {
    let first = layout::stream_folder(&row.case, &row.collection, StreamNumber(1));
    let Some((folder, _)) = first.rsplit_once('/') else { return Ok(()) };
    let known = parts.catalog.streams(row.collection.clone()).await?;
    for name in parts.store.folders(folder).await? {
        let number = name.strip_prefix('s').and_then(|n| n.parse().ok()).filter(|n: &u32| *n > 0 && format!("s{n}") == name);
        let Some(number) = number.map(StreamNumber) else {
            return Err(Problem::new(Kind::Damaged, format!("the store holds '{folder}/{name}', which is no stream")));
        };
        if known.iter().all(|s| s.stream != number) {
            parts.catalog.open_stream(empty_stream(row, number)).await?;
        }
    }
    Ok(())
}

/// Takes over the stored segments that follow the last committed one.
///
/// Order of writes: one catalog transaction per segment, as for a segment that an agent sends; repeatable.
pub(super) async fn segments_after(parts: &Arc<Parts>, row: &CollectionRow, mut stream: StreamRow) -> Result<StreamRow> {
    loop {
        let name = layout::segment(&row.case, &row.collection, stream.stream, stream.next_segment);
        let bytes = match parts.store.get(&name, SEGMENT_BYTES_MAX as u64).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == store::Kind::NotFound => return Ok(stream),
            Err(e) => return Err(e.into()),
        };
        let (order, _) = dispatch::order_of(parts, row).await?;
        let mut check = restore(row, &order, encrypt_to(parts, &row.case).await?, &stream)?;
        let at = clock::now();
        let work = tokio::task::spawn_blocking(move || check.adopt_segment(&bytes, at).map(|(segment, lines)| (check, segment, lines)));
        let done = work.await.map_err(|e| Problem::new(Kind::Failed, format!("the check of a segment ended badly: {e}")))?;
        let (check, segment, lines) = done
            .map_err(|e| Problem::new(Kind::Damaged, format!("'{name}' was never acknowledged and does not continue its stream: {e}")))?;
        tracing::warn!(object = %name, "a stored segment that was not in the catalog was taken over");
        let commit = SegmentCommit {
            collection: row.collection.clone(),
            stream: stream.stream,
            segment,
            manifest_parts: parts_of(&lines),
            snapshot: check.snapshot(),
            // The agent did not say where it stood after what it never heard to be kept.
            bookmark: Vec::new(),
            totals: check.totals().clone(),
            at,
        };
        if parts.catalog.commit_segment(commit).await? == Step::NotNow {
            return Err(Problem::new(Kind::Busy, format!("{} {} moved on while it was being closed", row.collection, stream.stream)));
        }
        let now = parts.catalog.stream(row.collection.clone(), stream.stream).await?;
        stream = now.ok_or_else(|| Problem::new(Kind::Damaged, format!("the catalog lost {} {}", row.collection, stream.stream)))?;
    }
}
