//! The end of one stream: its manifest becomes an object, its objects are counted once more, and the log says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use exhibit_evidence::digest::Hasher;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::layout;
use exhibit_evidence::manifest::{End, Line};
use exhibit_evidence::record::{self, Acquisition, ManifestRef, Receipt, Record};
use exhibit_proto::bounds::MANIFEST_BYTES_MAX;

use crate::catalog::{CollectionRow, PAGE_MAX, Step, StreamFinish, StreamRow, StreamState};
use crate::ledger::{self, LedgerError};
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::store::{Payload, list_all};

/// The agent's acquisition record of a stream, where it signed one. Its signature was verified when it arrived.
pub(super) fn acquisition(stream: &StreamRow) -> Option<Acquisition> {
    let envelope = Envelope::parse(stream.acquisition.as_deref()?).ok()?;
    match Record::from_payload(envelope.unverified_payload()) {
        Ok(Record::Acquisition(a)) => Some(*a),
        _ => None,
    }
}

fn damaged(row: &CollectionRow, stream: &StreamRow, what: impl std::fmt::Display) -> Problem {
    Problem::new(Kind::Damaged, format!("{} {}: {what}", row.collection, stream.stream))
}

/// Steps 1 and 2 of [`super::close`] for one stream.
pub(super) async fn receive(parts: &Arc<Parts>, row: &CollectionRow, stream: StreamRow) -> Result<()> {
    let stream = if stream.state == StreamState::Open { super::adopt::segments_after(parts, row, stream).await? } else { stream };
    let stream = match stream.state {
        StreamState::Open if stream.next_segment == 0 => {
            parts.catalog.void_stream(row.collection.clone(), stream.stream).await?;
            return Ok(());
        }
        StreamState::Open => end_incomplete(parts, row, stream).await?,
        StreamState::Finished => stream,
        StreamState::Received | StreamState::Void => return Ok(()),
    };
    let manifest = stream.manifest.clone().ok_or_else(|| damaged(row, &stream, "it is finished and has no manifest"))?;
    put_manifest(parts, row, &stream, &manifest).await?;
    compare_objects(parts, row, &stream, &manifest).await?;
    let receipt = log_receipt(parts, row, &stream, manifest).await?;
    match parts.catalog.receive_stream(row.collection.clone(), stream.stream, receipt).await? {
        Step::Done => Ok(()),
        Step::NotNow => Err(damaged(row, &stream, "the catalog holds another receipt")),
    }
}

/// Makes the manifest's object. It is put in one piece, so it is in memory as a whole for a moment: within the memory that
/// uploads and ends share.
async fn put_manifest(parts: &Arc<Parts>, row: &CollectionRow, stream: &StreamRow, manifest: &ManifestRef) -> Result<()> {
    let stopping = || Problem::new(Kind::Busy, "the coordinator is stopping");
    let _memory = parts.uploads.share(manifest.size).await.ok_or_else(stopping)?;
    let content = manifest_parts(parts, row, stream).await?;
    let (sha256, size) = digest(&content);
    if (sha256, size) != (manifest.sha256, manifest.size) {
        let what = format!(
            "the catalog's manifest is {sha256} of {size} bytes, verified was {} of {}; run 'exhibit-coordinator reindex'",
            manifest.sha256, manifest.size
        );
        return Err(damaged(row, stream, what));
    }
    let name = layout::manifest(&row.case, &row.collection, stream.stream);
    parts.store.put_new(&name, content.into_iter().collect::<Payload>(), sha256).await?;
    Ok(())
}

/// Ends a stream for an agent that did not: what arrived is whole up to its last segment.
async fn end_incomplete(parts: &Parts, row: &CollectionRow, stream: StreamRow) -> Result<StreamRow> {
    let t = &stream.totals;
    let end = End {
        complete: false,
        segments: stream.next_segment,
        stored_bytes: t.stored_bytes,
        raw_bytes: t.raw_bytes,
        items: t.items,
        by_status: t.by_status.clone(),
    };
    let line = Line::End(end).to_bytes().map_err(|e| damaged(row, &stream, e))?;
    let mut hasher = hash_parts(parts, row, &stream).await?;
    hasher.update(&line);
    let manifest = ManifestRef {
        size: hasher.bytes(),
        sha256: hasher.finish(),
        segments: stream.next_segment,
        stored_bytes: t.stored_bytes,
        raw_bytes: t.raw_bytes,
        items: t.items,
        by_status: t.by_status.clone(),
    };
    let finish = StreamFinish {
        collection: row.collection.clone(),
        stream: stream.stream,
        manifest_parts: vec![line],
        manifest,
        acquisition: None,
        at: stream.received_to,
    };
    // NotNow: the agent's own finish, or a commit, came first. The row is read again and decides.
    let step = parts.catalog.finish_stream(finish).await?;
    let now = parts.catalog.stream(row.collection.clone(), stream.stream).await?;
    match now {
        Some(now) if now.state == StreamState::Finished && (step == Step::Done || now.acquisition.is_some()) => Ok(now),
        _ => Err(Problem::new(Kind::Busy, format!("{} {} moved on while it was being closed", row.collection, stream.stream))),
    }
}

/// The running digest of a manifest that is not ended, one part in memory at a time.
async fn hash_parts(parts: &Parts, row: &CollectionRow, stream: &StreamRow) -> Result<Hasher> {
    let (mut hasher, mut n) = (Hasher::new(), 0_u32);
    while let Some(part) = parts.catalog.manifest_part(row.collection.clone(), stream.stream, n).await? {
        hasher.update(&part);
        n = n.saturating_add(1);
    }
    Ok(hasher)
}

async fn manifest_parts(parts: &Parts, row: &CollectionRow, stream: &StreamRow) -> Result<Vec<Bytes>> {
    let (mut content, mut size, mut n) = (Vec::new(), 0_u64, 0_u32);
    while let Some(part) = parts.catalog.manifest_part(row.collection.clone(), stream.stream, n).await? {
        size = size.saturating_add(part.len() as u64);
        if size > MANIFEST_BYTES_MAX.saturating_add(1 << 20) {
            return Err(damaged(row, stream, "the catalog's manifest is larger than any that was accepted"));
        }
        content.push(Bytes::from(part));
        n = n.saturating_add(1);
    }
    Ok(content)
}

fn digest(content: &[Bytes]) -> (exhibit_evidence::Digest, u64) {
    let mut hasher = Hasher::new();
    for part in content {
        hasher.update(part);
    }
    let size = hasher.bytes();
    (hasher.finish(), size)
}

/// Lists the stream's objects and compares names and sizes with what was acknowledged: nothing less, nothing more.
async fn compare_objects(parts: &Parts, row: &CollectionRow, stream: &StreamRow, manifest: &ManifestRef) -> Result<()> {
    let mut expected = BTreeMap::from([(layout::manifest(&row.case, &row.collection, stream.stream), manifest.size)]);
    let mut from = 0;
    loop {
        let page = parts.catalog.segments(row.collection.clone(), stream.stream, from, PAGE_MAX).await?;
        let Some(last) = page.last() else { break };
        from = last.n.saturating_add(1);
        expected.extend(page.iter().map(|s| (layout::segment(&row.case, &row.collection, stream.stream, s.n), s.size)));
    }
    if expected.len() as u64 != u64::from(manifest.segments) + 1 {
        return Err(damaged(row, stream, format!("the catalog lists {} segments, the manifest {}", expected.len() - 1, manifest.segments)));
    }
    let folder = layout::stream_folder(&row.case, &row.collection, stream.stream);
    let found = list_all(parts.store.as_ref(), &folder, expected.len().saturating_add(1_000)).await?;
    for entry in &found {
        match expected.remove(&entry.name) {
            Some(size) if size == entry.size => {}
            Some(size) => {
                return Err(damaged(
                    row,
                    stream,
                    format!("the store's '{}' has {} bytes, acknowledged were {size}", entry.name, entry.size),
                ));
            }
            None => return Err(damaged(row, stream, format!("the store holds '{}', which was never acknowledged", entry.name))),
        }
    }
    match expected.into_keys().next() {
        Some(missing) => Err(damaged(row, stream, format!("the store does not list '{missing}', which was acknowledged"))),
        None => Ok(()),
    }
}

/// Logs acquisition and receipt, each once; gives the receipt's digest.
async fn log_receipt(
    parts: &Arc<Parts>,
    row: &CollectionRow,
    stream: &StreamRow,
    manifest: ManifestRef,
) -> Result<exhibit_evidence::Digest> {
    let acquisition = match stream.acquisition.as_deref() {
        Some(bytes) => Some(Envelope::parse(bytes).map_err(|e| damaged(row, stream, format!("the catalog's acquisition: {e}")))?),
        None => None,
    };
    if let Some(acquisition) = &acquisition {
        parts.ledgers.ensure_enrolled(&row.case, &[acquisition.keyid()]).await?;
    }
    let receipt = Receipt {
        case: row.case.clone(),
        collection: row.collection.clone(),
        stream: stream.stream,
        predecessor: acquisition.as_ref().map_or(row.order_digest, Envelope::digest),
        agent_signed: acquisition.is_some(),
        contents_unverified: !crate::intake::encrypt_to(parts, &row.case).await?.is_none(),
        manifest,
        received_from: stream.received_from,
        received_to: stream.received_to,
    };
    let ledger = parts.ledgers.case(&row.case).await?;
    let ledgers = Arc::clone(&parts.ledgers);
    ledger
        .append_built(move |view| {
            if view.receipt_of(&receipt.collection, receipt.stream).is_some() {
                return Ok(Vec::new());
            }
            let signed = record::sign(&receipt, ledgers.log_key())
                .map_err(|e| LedgerError::new(ledger::Kind::Bug, format!("receipt of {} {}: {e}", receipt.collection, receipt.stream)))?;
            Ok(acquisition.iter().cloned().chain([signed]).collect())
        })
        .await?;
    let entry = ledger.receipt_of(&row.collection, stream.stream);
    entry.map(|e| e.digest).ok_or_else(|| damaged(row, stream, "the log lacks its receipt"))
}
