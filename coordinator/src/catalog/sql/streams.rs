//! Streams, their segments and the manifest that grows with them.

use exhibit_evidence::Digest;
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::Segment;

use super::{Connection, blob, decode, int, json, map, page};
use crate::catalog::{CatalogError, SegmentCommit, Step, StreamFinish, StreamRow, StreamState};

type Result<T> = std::result::Result<T, CatalogError>;

pub async fn open(c: &mut Connection, row: StreamRow) -> Result<StreamRow> {
    let manifest = row.manifest.as_ref().map(json).transpose()?;
    sqlx::query(
        "INSERT INTO streams (collection, stream, state, next_segment, snapshot, items, raw_bytes, stored_bytes, by_status, received_from,
           received_to, manifest, acquisition, receipt, bookmark)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT DO NOTHING",
    )
    .bind(row.collection.as_str())
    .bind(i64::from(row.stream.0))
    .bind(row.state.as_str())
    .bind(i64::from(row.next_segment))
    .bind(&row.snapshot)
    .bind(int(row.totals.items)?)
    .bind(int(row.totals.raw_bytes)?)
    .bind(int(row.totals.stored_bytes)?)
    .bind(json(&row.totals.by_status)?)
    .bind(row.received_from.unix_ns())
    .bind(row.received_to.unix_ns())
    .bind(manifest)
    .bind(&row.acquisition)
    .bind(row.receipt.map(blob))
    .bind(&row.bookmark)
    .execute(&mut *c)
    .await
    .map_err(map)?;
    let there = one(c, row.collection, row.stream).await?;
    there.ok_or_else(|| CatalogError::Failed("a stream that was written is not there".to_owned()))
}

pub async fn one(c: &mut Connection, collection: CollectionId, stream: StreamNumber) -> Result<Option<StreamRow>> {
    let row = sqlx::query("SELECT * FROM streams WHERE collection = $1 AND stream = $2")
        .bind(collection.as_str())
        .bind(i64::from(stream.0))
        .fetch_optional(c)
        .await
        .map_err(map)?;
    row.as_ref().map(decode::stream).transpose()
}

pub async fn all(c: &mut Connection, collection: CollectionId) -> Result<Vec<StreamRow>> {
    let rows = sqlx::query("SELECT * FROM streams WHERE collection = $1 ORDER BY stream")
        .bind(collection.as_str())
        .fetch_all(c)
        .await
        .map_err(map)?;
    rows.iter().map(decode::stream).collect()
}

/// 1. the stream's row, only if it is open and waits for this segment; 2. the segment; 3. the manifest's parts.
///
/// One transaction: all of it or nothing.
pub async fn commit(c: &mut Connection, commit: SegmentCommit) -> Result<Step> {
    let updated = sqlx::query(
        "UPDATE streams SET next_segment = next_segment + 1, snapshot = $4, items = $5, raw_bytes = $6, stored_bytes = $7, by_status = $8,
           received_to = $9, bookmark = $10 WHERE collection = $1 AND stream = $2 AND state = 'open' AND next_segment = $3",
    )
    .bind(commit.collection.as_str())
    .bind(i64::from(commit.stream.0))
    .bind(i64::from(commit.segment.n))
    .bind(&commit.snapshot)
    .bind(int(commit.totals.items)?)
    .bind(int(commit.totals.raw_bytes)?)
    .bind(int(commit.totals.stored_bytes)?)
    .bind(json(&commit.totals.by_status)?)
    .bind(commit.at.unix_ns())
    .bind(&commit.bookmark)
    .execute(&mut *c)
    .await
    .map_err(map)?;
    if updated.rows_affected() == 0 {
        return Ok(Step::NotNow);
    }
    sqlx::query("INSERT INTO segments (collection, stream, n, size, sha256, raw_offset, raw_size) VALUES ($1, $2, $3, $4, $5, $6, $7)")
        .bind(commit.collection.as_str())
        .bind(i64::from(commit.stream.0))
        .bind(i64::from(commit.segment.n))
        .bind(int(commit.segment.size)?)
        .bind(blob(commit.segment.sha256))
        .bind(int(commit.segment.raw_offset)?)
        .bind(int(commit.segment.raw_size)?)
        .execute(&mut *c)
        .await
        .map_err(map)?;
    add_parts(c, &commit.collection, commit.stream, &commit.manifest_parts).await?;
    Ok(Step::Done)
}

async fn add_parts(c: &mut Connection, collection: &CollectionId, stream: StreamNumber, parts: &[Vec<u8>]) -> Result<()> {
    for part in parts {
        sqlx::query(
            "INSERT INTO manifest_parts (collection, stream, n, bytes)
             SELECT $1, $2, coalesce(max(n) + 1, 0), $3 FROM manifest_parts WHERE collection = $1 AND stream = $2",
        )
        .bind(collection.as_str())
        .bind(i64::from(stream.0))
        .bind(part)
        .execute(&mut *c)
        .await
        .map_err(map)?;
    }
    Ok(())
}

pub async fn finish(c: &mut Connection, finish: StreamFinish) -> Result<Step> {
    let updated = sqlx::query(
        "UPDATE streams SET state = 'finished', manifest = $3, acquisition = $4, received_to = $5
         WHERE collection = $1 AND stream = $2 AND state = 'open'",
    )
    .bind(finish.collection.as_str())
    .bind(i64::from(finish.stream.0))
    .bind(json(&finish.manifest)?)
    .bind(&finish.acquisition)
    .bind(finish.at.unix_ns())
    .execute(&mut *c)
    .await
    .map_err(map)?;
    if updated.rows_affected() == 0 {
        return Ok(Step::NotNow);
    }
    add_parts(c, &finish.collection, finish.stream, &finish.manifest_parts).await?;
    Ok(Step::Done)
}

pub async fn receive(c: &mut Connection, collection: CollectionId, stream: StreamNumber, receipt: Digest) -> Result<Step> {
    let updated =
        sqlx::query("UPDATE streams SET state = 'received', receipt = $3 WHERE collection = $1 AND stream = $2 AND state = 'finished'")
            .bind(collection.as_str())
            .bind(i64::from(stream.0))
            .bind(blob(receipt))
            .execute(&mut *c)
            .await
            .map_err(map)?;
    if updated.rows_affected() == 0 {
        let there = one(c, collection, stream).await?;
        let done = there.is_some_and(|s| s.state == StreamState::Received && s.receipt == Some(receipt));
        return Ok(if done { Step::Done } else { Step::NotNow });
    }
    sqlx::query("DELETE FROM manifest_parts WHERE collection = $1 AND stream = $2")
        .bind(collection.as_str())
        .bind(i64::from(stream.0))
        .execute(c)
        .await
        .map_err(map)?;
    Ok(Step::Done)
}

pub async fn void(c: &mut Connection, collection: CollectionId, stream: StreamNumber) -> Result<Step> {
    let updated = sqlx::query(
        "UPDATE streams SET state = 'void' WHERE collection = $1 AND stream = $2 AND (state = 'void' OR (state = 'open' AND next_segment = 0))",
    )
    .bind(collection.as_str())
    .bind(i64::from(stream.0))
    .execute(c)
    .await
    .map_err(map)?;
    Ok(if updated.rows_affected() == 1 { Step::Done } else { Step::NotNow })
}

pub async fn segments(c: &mut Connection, collection: CollectionId, stream: StreamNumber, from: u32, limit: u32) -> Result<Vec<Segment>> {
    let rows = sqlx::query("SELECT * FROM segments WHERE collection = $1 AND stream = $2 AND n >= $3 ORDER BY n LIMIT $4")
        .bind(collection.as_str())
        .bind(i64::from(stream.0))
        .bind(i64::from(from))
        .bind(page(limit))
        .fetch_all(c)
        .await
        .map_err(map)?;
    rows.iter().map(decode::segment).collect()
}

pub async fn manifest_part(c: &mut Connection, collection: CollectionId, stream: StreamNumber, n: u32) -> Result<Option<Vec<u8>>> {
    let row = sqlx::query("SELECT bytes FROM manifest_parts WHERE collection = $1 AND stream = $2 AND n = $3")
        .bind(collection.as_str())
        .bind(i64::from(stream.0))
        .bind(i64::from(n))
        .fetch_optional(c)
        .await
        .map_err(map)?;
    row.as_ref().map(|r| decode::get(r, "bytes")).transpose()
}
