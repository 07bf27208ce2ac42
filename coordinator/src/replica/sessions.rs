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

/// How long a newcomer waits at most until all coordinators said again which agents they have. One that needs longer ends the
/// later of two processes when it is there.
const SETTLED_WITHIN: Duration = Duration::from_secs(8);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Waits, after the database lost who is connected, until every coordinator has said it again: before that a copy of an agent's
/// identity would be taken for the only one. A process that was connected here before need not wait.
///
/// # Errors
/// When the catalog fails.
pub async fn settled(parts: &Parts, agent: &AgentId, instance: Instance) -> Result<()> {
    let Some(peers) = parts.leases.peers() else { return Ok(()) };
    if parts.sessions.knows(agent, instance) {
        return Ok(());
    }
    let give_up = tokio::time::Instant::now() + SETTLED_WITHIN;
    while !peers.is_settled().await? {
        if tokio::time::Instant::now() >= give_up {
            tracing::warn!(%agent, "another coordinator did not say in time which agents it has; this one is let in");
            return Ok(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

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
