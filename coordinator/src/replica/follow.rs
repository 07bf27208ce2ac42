//! What other coordinators say, and what follows from it here.

use std::sync::Arc;

use exhibit_certs::name::PeerName;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::text::escape_bounded;
use tokio::sync::{broadcast, watch};

use super::{Notice, reenter};
use crate::catalog::State;
use crate::catalog::peers::{Heard, Peers};
use crate::dispatch::{self, Cut};
use crate::parts::Parts;
use crate::party;
use crate::problem::Result;

/// Listens until `stop` says so.
pub async fn follow(parts: Arc<Parts>, peers: Arc<dyn Peers>, mut stop: watch::Receiver<bool>) {
    let mut heard = peers.hear();
    // A connection that was made anew before anybody listened here.
    tokio::select! {
        () = reenter::enter_again(&parts, &peers) => {}
        _ = stop.wait_for(|s| *s) => return,
    }
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
            Ok(Heard::Gap) | Err(broadcast::error::RecvError::Lagged(_)) => {
                // First: newcomers wait for it.
                tokio::select! {
                    () = reenter::enter_again(&parts, &peers) => {}
                    _ = stop.wait_for(|s| *s) => return,
                }
                look_at_all(&parts).await;
            }
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
        Notice::Live { collection, agent, live, paused } => {
            // One that comes after the end would stay for good.
            let open = parts.progress.belongs_to(&collection, &agent)
                || dispatch::own(parts, &agent, &collection).await.is_ok_and(|row| matches!(row.state, State::Offered | State::Running));
            if open {
                parts.progress.heard(&collection, &agent, live, paused);
            }
        }
        Notice::Yield { collection } => parts.uploads.cut(&collection),
        Notice::Grown { case } => {
            let (parts, name) = (Arc::clone(parts), case.map_or(LogName::Deployment, LogName::Case));
            // Beside the others: somebody here may be adding to it, and a slow store would hold up every other notice.
            tokio::spawn(async move {
                if let Err(error) = parts.ledgers.follow(&name).await {
                    tracing::warn!(log = %name.folder(), %error, "new records of a log could not be read; they will be when it is used");
                }
            });
        }
        Notice::Revoked { name } => match is_revoked(parts, &name).await {
            Ok(true) => revoked(parts, &name),
            Ok(false) => {
                tracing::warn!(name = %escape_bounded(&name, 200), "a notice says that this peer is revoked, and the log does not");
            }
            Err(error) => tracing::warn!(%error, "whether a peer is revoked could not be read; it will be at its next call"),
        },
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

/// Notices are no more than hints: the deployment's log says who is revoked.
async fn is_revoked(parts: &Arc<Parts>, name: &str) -> Result<bool> {
    let log = parts.ledgers.deployment().await?;
    if let Some(key) = party::key_in(name) {
        return Ok(log.view().key_ring().holder(key).is_none());
    }
    let Ok(PeerName::Agent(_, agent)) = name.parse::<PeerName>() else { return Ok(false) };
    let row = parts.catalog.agent(agent).await?;
    Ok(row.is_some_and(|row| log.view().key_ring().holder(row.key).is_none()))
}

/// Ends what a revoked peer has here; this only makes it felt at once.
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
    parts.ledgers.follow_all().await;
    if let Err(error) = dispatch::follow_open(parts).await {
        tracing::warn!(%error, "what other coordinators changed could not be looked at; the timers will");
    }
}
