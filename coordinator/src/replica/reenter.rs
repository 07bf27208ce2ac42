//! The database lost who is connected, or this coordinator was out of its sight: its agents are entered again.

use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::id::AgentId;

use super::{Notice, ends};
use crate::catalog::peers::Peers;
use crate::dispatch::{self, Cut, Instance};
use crate::parts::Parts;
use crate::problem::Result;

/// Tries of one connection; a lost one is made anew, and then all begins again.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// Enters all agents that are connected here again, and says that it was done.
pub async fn enter_again(parts: &Arc<Parts>, peers: &Arc<dyn Peers>) {
    for _ in 0..TRIES {
        match all(parts, peers).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "the agents that are connected here could not be entered; next try soon"),
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    tracing::warn!("the agents that are connected here could not be entered again: others call them offline");
}

/// Order: (1) the agents; (2) that they were entered, which lets newcomers in at the others; (3) what contradicts.
async fn all(parts: &Arc<Parts>, peers: &Arc<dyn Peers>) -> Result<()> {
    let living = parts.sessions.living();
    if !living.is_empty() {
        peers.enter_again(living.clone()).await?;
    }
    peers.entered().await?;
    let there = peers.whereabouts(living.iter().map(|(agent, ..)| agent.clone()).collect()).await?;
    for (agent, instance, since) in living {
        if !parts.sessions.is_online(&agent) {
            // It went away while it was being entered.
            ends(parts, &agent, instance).await;
            continue;
        }
        let Some(other) = there.get(&agent).filter(|other| other.replica != peers.me()) else { continue };
        let same = other.instance == instance;
        let (parts, peers) = (Arc::clone(parts), Arc::clone(peers));
        // Beside the others: a process that is silent takes seconds.
        tokio::spawn(async move { contest(&parts, &*peers, &agent, instance, (!same).then_some(since)).await });
    }
    Ok(())
}

/// The agent is connected elsewhere, too. The earlier of two living processes stays; `None`: it is the same one, and moved.
async fn contest(parts: &Arc<Parts>, peers: &dyn Peers, agent: &AgentId, instance: Instance, since: Option<Duration>) {
    let mut stays = Ok(false);
    if let Some(since) = since
        && parts.sessions.gives_sign_of_life(agent).await
    {
        stays = peers.win(agent.clone(), instance, since).await;
    }
    // What is here may be a newer session by now.
    if parts.sessions.instance(agent) != Some(instance) {
        return;
    }
    match stays {
        Ok(true) => {
            parts.leases.outbox().send(Notice::Moved { agent: agent.clone(), instance });
            dispatch::outlasted(parts, agent).await;
        }
        Ok(false) => {
            tracing::info!(%agent, "connected to another coordinator");
            parts.sessions.cut(agent, Cut::Replaced);
        }
        Err(error) => tracing::warn!(%agent, %error, "an agent is connected twice, and which came first could not be read"),
    }
}
