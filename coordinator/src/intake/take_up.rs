//! Gives an agent's new process what it needs to go on with the stream of an earlier one.

use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::id::AgentId;
use exhibit_evidence::layout;
use tokio::sync::mpsc;

use super::upload::{encrypt_to, only_the_connected, restore};
use super::{Opening, turned_away};
use crate::catalog::{CollectionRow, State, StreamState};
use crate::dispatch;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::store;

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// First segment that is not there.
    pub next_segment: u32,
    /// The agent's bookmark of the one before.
    pub bookmark: Vec<u8>,
    /// Bytes of the manifest so far.
    pub manifest_bytes: u64,
}

/// Bytes of the manifest in one message: over the slowest line that an order may ask for one takes no longer than the agent
/// waits for it.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces that wait for the agent.
const PIECES_WAITING: usize = 2;
/// Time for an agent to take a piece.
const PIECE_TIME: Duration = Duration::from_mins(1);
/// What is counted for a part of the manifest and its pieces in memory.
const MEMORY_BYTES: u64 = (1 << 20) + (64 << 10);
/// Time for an earlier answer to this agent to end.
const TURN_TIME: Duration = Duration::from_secs(10);
/// Time for the whole answer, besides what a slow line needs for its bytes: it holds memory that others wait for.
const TIME: Duration = Duration::from_mins(2);
const BYTES_PER_S_MIN: u64 = 1_024;

/// Where the stream stands, and its manifest so far. An upload of it that still runs is ended first: a segment that it
/// has received whole is committed, so the answer holds until this process uploads.
///
/// # Errors
/// [`Kind::NotNow`] when the stream cannot be taken up; the agent then begins the next one.
pub async fn take_up(parts: &Arc<Parts>, agent: &AgentId, opening: &Opening) -> Result<(Standing, mpsc::Receiver<Result<Vec<u8>>>)> {
    let row = dispatch::own(parts, agent, &opening.collection).await?;
    only_the_connected(parts, agent, opening).await?;
    let cannot = |why: String| Problem::new(Kind::NotNow, format!("{} {} cannot be taken up: {why}", row.collection, opening.stream));
    if row.stream != opening.stream || !matches!(row.state, State::Queued | State::Offered | State::Running) {
        return Err(cannot(format!("the collection is {} and its stream is {}", row.state.as_str(), row.stream)));
    }
    let right = turned_away::right(parts, agent, &row.collection).await?;
    let place = parts.uploads.take(&row.collection, row.stream, right).await?;
    // The place may have been waited for, and another process may have connected meanwhile.
    only_the_connected(parts, agent, opening).await?;
    // One answer at a time for one agent: each reads the whole manifest.
    let turn = tokio::time::timeout(TURN_TIME, parts.uploads.turn(agent)).await;
    let turn = turn.map_err(|_| Problem::new(Kind::Busy, "this agent is being answered already; try again in a moment"))?;
    let stream = parts.catalog.stream(row.collection.clone(), row.stream).await?;
    let Some(stream) = stream.filter(|s| s.state == StreamState::Open && s.next_segment > 0 && !s.bookmark.is_empty()) else {
        return Err(cannot("it has no bookmark".to_owned()));
    };
    let (order, _) = dispatch::order_of(parts, &row).await?;
    // An upload would end with this, after all has been read again.
    restore(&row, &order, encrypt_to(parts, &row.case).await?, &stream).map_err(|e| cannot(e.to_string()))?;
    // Stored and never committed: nothing else can be stored under this number, and the agent does not know what it was.
    let next = layout::segment(&row.case, &row.collection, row.stream, stream.next_segment);
    match parts.store.size(&next).await {
        Err(e) if e.kind() == store::Kind::NotFound => {}
        Ok(_) => return Err(cannot(format!("segment {} lies in the store and was never acknowledged", stream.next_segment))),
        Err(e) => return Err(e.into()),
    }
    let mut manifest_bytes = 0_u64;
    let mut parts_count = 0_u32;
    while let Some(part) = parts.catalog.manifest_part(row.collection.clone(), row.stream, parts_count).await? {
        manifest_bytes = manifest_bytes.saturating_add(part.len() as u64);
        parts_count = parts_count.saturating_add(1);
    }
    tracing::info!(%agent, collection = %row.collection, stream = %row.stream, segment = stream.next_segment, "a later process takes the stream up");
    let standing = Standing { next_segment: stream.next_segment, bookmark: stream.bookmark, manifest_bytes };
    // Only this agent's connected process could add to the stream now, and it waits for this answer.
    drop(place);
    let (pieces, waiting) = mpsc::channel(PIECES_WAITING);
    let parts = Arc::clone(parts);
    tokio::spawn(async move {
        let _turn = turn;
        let time = TIME.saturating_add(Duration::from_secs(manifest_bytes / BYTES_PER_S_MIN));
        tokio::select! {
            () = send(&parts, row, parts_count, &pieces) => {}
            // The agent went away: nothing may wait for it.
            () = pieces.closed() => {}
            () = tokio::time::sleep(time) => {}
        }
    });
    Ok((standing, waiting))
}

/// Sends the manifest's parts, within the memory that all share.
async fn send(parts: &Parts, row: CollectionRow, parts_count: u32, pieces: &mpsc::Sender<Result<Vec<u8>>>) {
    let Some(_memory) = parts.uploads.share(MEMORY_BYTES).await else { return };
    for n in 0..parts_count {
        let part = parts.catalog.manifest_part(row.collection.clone(), row.stream, n).await.map_err(Problem::from);
        let part = match part.and_then(|p| p.ok_or_else(|| Problem::new(Kind::Failed, "the manifest so far became shorter"))) {
            Ok(part) => part,
            Err(problem) => {
                let _ = tokio::time::timeout(PIECE_TIME, pieces.send(Err(problem))).await;
                return;
            }
        };
        for piece in part.chunks(PIECE_BYTES) {
            if !matches!(tokio::time::timeout(PIECE_TIME, pieces.send(Ok(piece.to_vec()))).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}
