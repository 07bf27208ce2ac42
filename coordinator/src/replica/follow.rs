//! What other coordinators say, and what follows from it here.

use std::sync::Arc;

use exhibit_certs::name::PeerName;
use exhibit_evidence::layout::LogName;
use tokio::sync::{broadcast, watch};

use super::Notice;
use crate::catalog::peers::{Heard, Peers};
use crate::dispatch::{self, Cut};
use crate::parts::Parts;

/// Listens until `stop` says so.
pub async fn follow(parts: Arc<Parts>, peers: Arc<dyn Peers>, mut stop: watch::Receiver<bool>) {
    let mut heard = peers.hear();
    loop {
        let heard = tokio::select! {
            heard = heard.recv() => heard,
            _ = stop.wait_for(|s| *s) => return,
        };
        match heard {
            Ok(Heard::Notice(text)) => match Notice::parse(&text) {
                Some((from, notice)) if from != peers.me() => take(&parts, notice).await,
                // Our own, or one that a newer version sends.
                _ => {}
            },
            Ok(Heard::Gap) | Err(broadcast::error::RecvError::Lagged(_)) => look_at_all(&parts).await,
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

async fn take(parts: &Arc<Parts>, notice: Notice) {
    match notice {
        Notice::Changed { collection } => {
            if let Err(error) = dispatch::follow(parts, &collection).await {
                tracing::warn!(%collection, %error, "a change by another coordinator could not be followed; the timers will");
            }
        }
        Notice::Live { collection, agent, live, paused } => parts.progress.heard(&collection, &agent, live, paused),
        Notice::Yield { collection } => parts.uploads.cut(&collection),
        Notice::Grown { case } => {
            let name = case.map_or(LogName::Deployment, LogName::Case);
            if let Err(error) = parts.ledgers.follow(&name).await {
                tracing::warn!(log = %name.folder(), %error, "new records of a log could not be read; they will be when it is used");
            }
        }
        Notice::Revoked { name } => revoked(parts, &name),
        Notice::Moved { agent, instance } => {
            // The newer session is elsewhere. The same process may have come back here since: it then says so itself.
            if parts.sessions.instance(&agent).is_some() {
                tracing::info!(%agent, same_process = parts.sessions.instance(&agent) == Some(instance), "connected to another coordinator");
                parts.sessions.cut(&agent, Cut::Replaced);
            }
        }
        Notice::Prove { agent } => {
            let parts = Arc::clone(parts);
            tokio::spawn(async move {
                if parts.sessions.gives_sign_of_life(&agent).await {
                    parts.leases.outbox().send(Notice::Alive { agent });
                }
            });
        }
        Notice::Alive { agent } => parts.proofs.came(agent),
    }
}

/// Ends what a revoked peer has here. That it is revoked stands in the log and the catalog; this only makes it felt at once.
fn revoked(parts: &Arc<Parts>, name: &str) {
    if let Ok(PeerName::Agent(_, agent)) = name.parse::<PeerName>() {
        parts.revoked.add(agent.clone());
        parts.sessions.cut(&agent, Cut::Revoked);
    }
    (parts.disconnect)(name);
}

/// Notices were missed.
async fn look_at_all(parts: &Arc<Parts>) {
    if let Err(error) = parts.load_revoked().await {
        tracing::warn!(%error, "revoked agents could not be looked at");
    }
    for agent in parts.sessions.agents().into_iter().filter(|agent| parts.revoked.contains(agent)) {
        revoked(parts, &parts.agent_name(&agent));
    }
    if let Err(error) = dispatch::follow_open(parts).await {
        tracing::warn!(%error, "what other coordinators changed could not be looked at; the timers will");
    }
}
