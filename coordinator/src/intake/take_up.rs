//! Gives an agent's new process what it needs to go on with the stream of an earlier one.

use std::sync::Arc;

use exhibit_evidence::id::AgentId;
use exhibit_evidence::layout;
use exhibit_proto::bounds::DATA_BYTES_MAX;
use futures::Stream;

use super::Opening;
use super::upload::only_the_connected;
use crate::catalog::{State, StreamState};
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

/// Where the stream stands, and its manifest so far. An upload of it that still runs is ended first: a segment that it
/// has received whole is committed, so the answer holds until this process uploads.
///
/// # Errors
/// [`Kind::NotNow`] when the stream cannot be taken up; the agent then begins the next one.
pub async fn take_up(
    parts: &Arc<Parts>,
    agent: &AgentId,
    opening: &Opening,
) -> Result<(Standing, impl Stream<Item = Result<Vec<u8>>> + Send + use<>)> {
    let row = dispatch::own(parts, agent, &opening.collection).await?;
    only_the_connected(parts, agent, opening).await?;
    let cannot = |why: String| Problem::new(Kind::NotNow, format!("{} {} cannot be taken up: {why}", row.collection, opening.stream));
    if row.stream != opening.stream || !matches!(row.state, State::Queued | State::Offered | State::Running) {
        return Err(cannot(format!("the collection is {} and its stream is {}", row.state.as_str(), row.stream)));
    }
    let place = parts.uploads.take(&row.collection, row.stream).await?;
    let stream = parts.catalog.stream(row.collection.clone(), row.stream).await?;
    let Some(stream) = stream.filter(|s| s.state == StreamState::Open && s.next_segment > 0 && !s.bookmark.is_empty()) else {
        return Err(cannot("it has no bookmark".to_owned()));
    };
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
    let read = futures::stream::unfold((Arc::clone(parts), 0_u32), move |(parts, n)| {
        let (collection, stream) = (row.collection.clone(), row.stream);
        async move {
            if n >= parts_count {
                return None;
            }
            let part = parts.catalog.manifest_part(collection, stream, n).await.map_err(Problem::from);
            let part = part.and_then(|p| p.ok_or_else(|| Problem::new(Kind::Failed, "the manifest so far became shorter")));
            debug_assert!(part.as_ref().is_ok_and(|p| p.len() <= DATA_BYTES_MAX));
            Some((part, (parts, n.saturating_add(1))))
        }
    });
    Ok((standing, read))
}
