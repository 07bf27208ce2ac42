//! Agents whose uploads were turned away because the catalog did not answer, or that wait for the right to write, which another upload
//! has or had. Whoever looks after the coordinator must see them as they see paused uploads: with a catalog that is away for longer,
//! rights end, so uploads do too, and there is nothing left to be paused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use exhibit_evidence::id::{AgentId, CollectionId};
use tokio::time::Instant;

use crate::catalog::{AgentRow, CatalogError};
use crate::parts::Parts;
use crate::problem::Result;
use crate::replica::{self, Lease};

/// An agent tries again within 5 seconds, and a catalog that is away takes as long to say so: one that did not come back in this time
/// waits no more.
const COMES_BACK_WITHIN: Duration = Duration::from_mins(1);
/// A catalog that works answers in milliseconds; whoever waits for longer is counted before it is known what the catalog will say.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// Agents that are remembered, 100 bytes each; more are not counted.
const REMEMBERED_MAX: usize = 4_096;

/// When each was turned away last.
#[derive(Debug, Default)]
pub(super) struct TurnedAway(Mutex<HashMap<AgentId, Instant>>);

impl TurnedAway {
    /// Its upload was turned away.
    pub(super) fn note(&self, agent: &AgentId, now: Instant) {
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        agents.retain(|_, at| now.duration_since(*at) < COMES_BACK_WITHIN);
        if agents.len() < REMEMBERED_MAX || agents.contains_key(agent) {
            agents.insert(agent.clone(), now);
        }
    }

    /// The catalog answered.
    pub(super) fn forget(&self, agent: &AgentId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(agent);
    }

    /// How many wait.
    pub(super) fn count(&self, now: Instant) -> usize {
        let agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        agents.values().filter(|at| now.duration_since(**at) < COMES_BACK_WITHIN).count()
    }
}

/// What the catalog knows of an agent that wants to upload. While the answer takes long, and after there was none, it is one of those
/// that wait.
///
/// # Errors
/// As [`crate::catalog::Catalog::agent`].
pub(super) async fn known(parts: &Parts, agent: &AgentId) -> Result<Option<AgentRow>, CatalogError> {
    let mut asked = parts.catalog.agent(agent.clone());
    let known = if let Ok(known) = tokio::time::timeout(ANSWERS_WITHIN, &mut asked).await {
        known
    } else {
        parts.uploads.note_asked(agent, false);
        asked.await
    };
    parts.uploads.note_asked(agent, !matches!(known, Err(CatalogError::Busy(_))));
    known
}

/// The right to write a collection's objects, for an agent that is about to send some. While it waits for the right, and after it was told
/// to come again because of it, it is one of those that wait.
///
/// # Errors
/// As [`replica::collection`].
pub(super) async fn right(parts: &Arc<Parts>, agent: &AgentId, collection: &CollectionId) -> Result<Arc<Lease>> {
    if let Ok(right) = replica::collection_at_once(parts, collection).await {
        return Ok(right);
    }
    parts.uploads.note_asked(agent, false);
    let right = replica::collection(parts, collection).await?;
    parts.uploads.note_asked(agent, true);
    Ok(right)
}

#[cfg(test)]
mod tests {
    use exhibit_evidence::key::SigningKey;

    use super::*;

    fn agent(n: u8) -> AgentId {
        AgentId::of_key(&SigningKey::from_seed(&[n; 32]).public().id())
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_waits_until_it_is_let_in_or_stays_away() {
        let away = TurnedAway::default();
        away.note(&agent(1), Instant::now());
        away.note(&agent(1), Instant::now());
        away.note(&agent(2), Instant::now());
        assert_eq!(away.count(Instant::now()), 2);
        away.forget(&agent(1));
        assert_eq!(away.count(Instant::now()), 1);
        tokio::time::advance(COMES_BACK_WITHIN).await;
        assert_eq!(away.count(Instant::now()), 0);
        away.note(&agent(3), Instant::now());
        assert_eq!(away.0.lock().expect("lock").len(), 1, "who stays away is forgotten");
    }
}
