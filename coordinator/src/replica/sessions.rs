//! Agents that are connected to another coordinator: who lives, and who took whose place.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::id::AgentId;
use tokio::sync::broadcast;

use super::Notice;
use crate::dispatch::{Instance, PROOF_OF_LIFE, RETURN_WINDOW};
use crate::parts::Parts;
use crate::problem::Result;

/// Signs of life that agents' sessions at other coordinators gave.
#[derive(Debug)]
pub struct Proofs(broadcast::Sender<AgentId>);

impl Default for Proofs {
    fn default() -> Self {
        Self(broadcast::Sender::new(1_024))
    }
}

impl Proofs {
    /// One came.
    pub fn came(&self, agent: AgentId) {
        // Nobody may be waiting any more.
        let _ = self.0.send(agent);
    }
}

/// Time for the question and the answer to pass through the database, besides the agent's own.
const ON_THE_WAY: Duration = Duration::from_secs(1);

/// True when another process of this agent is connected to another coordinator and gives a sign of life.
///
/// # Errors
/// When the catalog fails.
pub async fn another_is_alive(parts: &Arc<Parts>, agent: &AgentId, instance: Instance) -> Result<bool> {
    match instance_elsewhere(parts, agent).await? {
        Some(there) if there != instance => {}
        _ => return Ok(false),
    }
    let mut proofs = parts.proofs.0.subscribe();
    parts.leases.outbox().send(Notice::Prove { agent: agent.clone() });
    let proved = async {
        loop {
            match proofs.recv().await {
                Ok(who) if who == *agent => return true,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return false,
            }
        }
    };
    Ok(tokio::time::timeout(PROOF_OF_LIFE + ON_THE_WAY, proved).await.unwrap_or(false))
}

/// The agent's process that is connected to another coordinator.
///
/// # Errors
/// When the catalog fails.
pub async fn instance_elsewhere(parts: &Parts, agent: &AgentId) -> Result<Option<Instance>> {
    let Some(peers) = parts.leases.peers() else { return Ok(None) };
    let there = peers.whereabouts(vec![agent.clone()]).await?.remove(agent);
    Ok(there.filter(|there| there.replica != peers.me()).map(|there| there.instance))
}

/// The agent's process is connected here from now on; a session of it elsewhere is ended. True when the process is one that
/// another had replaced a short time ago.
///
/// # Errors
/// When the catalog fails.
pub async fn begins(parts: &Parts, agent: &AgentId, instance: Instance) -> Result<bool> {
    let Some(peers) = parts.leases.peers() else { return Ok(false) };
    let returned = peers.enter(agent.clone(), instance, RETURN_WINDOW).await?;
    parts.leases.outbox().send(Notice::Moved { agent: agent.clone(), instance });
    Ok(returned)
}

/// The agent's process is no longer connected here. That it could not be said is no error: who asks later finds a process that
/// gives no sign of life.
pub async fn ends(parts: &Parts, agent: &AgentId, instance: Instance) {
    let Some(peers) = parts.leases.peers() else { return };
    if let Err(error) = peers.leave(agent.clone(), instance).await {
        tracing::debug!(%agent, %error, "that the agent's session ended could not be told");
    }
}

/// Which of these agents are connected, to any coordinator.
///
/// # Errors
/// When the catalog fails.
pub async fn online(parts: &Parts, agents: Vec<AgentId>) -> Result<HashSet<AgentId>> {
    let mut here: HashSet<AgentId> = agents.iter().filter(|agent| parts.sessions.is_online(agent)).cloned().collect();
    if let Some(peers) = parts.leases.peers() {
        let elsewhere = peers.whereabouts(agents).await?;
        here.extend(elsewhere.into_iter().filter(|(_, there)| there.replica != peers.me()).map(|(agent, _)| agent));
    }
    Ok(here)
}
