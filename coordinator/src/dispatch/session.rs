//! One agent's session, from its hello to its end.

use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::id::{AgentId, CollectionId};
use exhibit_evidence::{Digest, Timestamp};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;

use super::sessions::Registered;
use super::{Duplicate, Inbound, Instance, Outbound, offers};
use crate::catalog::{AgentRow, Seen, State};
use crate::clock;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::replica;

/// An agent says something at least every 30 seconds; after three times that it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// How often a session is pinged: a dead connection is noticed, and the answer is the sign of life that a second
/// process with the same identity is measured against.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How often what an agent says about itself is kept.
const SEEN_EVERY_S: i64 = 30;
/// Difference of clocks that is worth a warning.
const CLOCK_OFF_NS: i64 = 60_000_000_000;

/// An agent's hello, checked.
#[derive(Debug, Clone)]
pub struct Hello {
    /// Protocol version in use.
    pub protocol: u32,
    /// Random for the life of the process.
    pub instance: Instance,
    /// Collections that the process works on.
    pub running: Vec<CollectionId>,
    /// What it says about itself; `at` and the clock offset are filled in here.
    pub seen: Seen,
    /// Its wall clock.
    pub wall_ns: i64,
}

/// Registers the session and gives it its welcome; [`run_session`] must follow.
///
/// # Errors
/// [`Problem`] when the agent is unknown or revoked, or another process of it is alive.
pub async fn begin(parts: &Arc<Parts>, agent: &AgentId, hello: &Hello, outbox: &mpsc::Sender<Outbound>) -> Result<Registered> {
    let row = parts.catalog.agent(agent.clone()).await?;
    let row = row.ok_or_else(|| Problem::new(Kind::Denied, format!("agent {agent} is not enrolled here; enrol it again")))?;
    if row.revoked.is_some() {
        return Err(Problem::new(Kind::Denied, format!("agent {agent} is revoked")));
    }
    replica::settled(parts, agent, hello.instance).await?;
    let refused = "a second process with this identity was refused while the first was alive";
    if replica::another_is_alive(parts, agent, hello.instance).await? {
        alarm(parts, agent, row.alarm.is_some(), refused).await;
        return Err(Problem::new(Kind::Denied, Duplicate.to_string()));
    }
    let registered = match parts.sessions.register(agent, hello.instance, outbox.clone()).await {
        Ok(registered) => registered,
        Err(duplicate) => {
            alarm(parts, agent, row.alarm.is_some(), refused).await;
            return Err(Problem::new(Kind::Denied, duplicate.to_string()));
        }
    };
    let mut place = Taken { parts, agent, session: registered.id, is_kept: false };
    begun(parts, agent, hello, &row, &registered).await?;
    place.is_kept = true;
    let welcome = Outbound::Welcome { protocol: hello.protocol, wall_ns: clock::now().unix_ns() };
    // The outbox is new and empty.
    let _ = outbox.try_send(welcome);
    tracing::info!(%agent, version = %hello.seen.version, running = hello.running.len(), "connected");
    Ok(registered)
}

/// A session that is registered and not begun. The agent may go away meanwhile, and whoever waited for the beginning with it: nobody would end
/// the session, and the agent would be called online until it came again.
struct Taken<'a> {
    parts: &'a Parts,
    agent: &'a AgentId,
    session: u64,
    is_kept: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.parts.sessions.remove(self.agent, self.session);
        }
    }
}

/// Keeps that the session began, here and among all coordinators.
async fn begun(parts: &Arc<Parts>, agent: &AgentId, hello: &Hello, row: &AgentRow, registered: &Registered) -> Result<()> {
    let returned = replica::begins(parts, agent, hello.instance).await?;
    if registered.returned || returned {
        alarm(
            parts,
            agent,
            row.alarm.is_some(),
            "a process came back after another one had taken its place: two processes use this identity",
        )
        .await;
    }
    let now = clock::now();
    let seen = Seen { at: Some(now), clock_offset_ns: now.unix_ns().saturating_sub(hello.wall_ns), ..hello.seen.clone() };
    if seen.clock_offset_ns.saturating_abs() > CLOCK_OFF_NS {
        tracing::warn!(%agent, offset_s = seen.clock_offset_ns / 1_000_000_000, "the agent's clock is far off");
    }
    parts.catalog.set_seen(agent.clone(), seen).await?;
    Ok(())
}

/// Another process was let in at another coordinator while this one could not be seen; it is ended.
pub(crate) async fn outlasted(parts: &Parts, agent: &AgentId) {
    let known = parts.catalog.agent(agent.clone()).await.is_ok_and(|row| row.is_some_and(|row| row.alarm.is_some()));
    let detail = "a second process with this identity came while the database was away; the first is alive, and the second was ended";
    alarm(parts, agent, known, detail).await;
}

async fn alarm(parts: &Parts, agent: &AgentId, known: bool, detail: &str) {
    if known {
        tracing::warn!(%agent, detail, "the alarm about this identity stands already");
        return;
    }
    parts.incident(None, "duplicate-identity", agent.as_str(), detail).await;
    if let Err(error) = parts.catalog.set_alarm(agent.clone(), Some(detail.to_owned())).await {
        tracing::error!(%agent, %error, "the alarm could not be kept");
    }
}

/// Serves a session until the agent goes away, falls silent or is cut.
pub async fn run_session<S>(
    parts: Arc<Parts>,
    agent: AgentId,
    hello: Hello,
    mut registered: Registered,
    outbox: mpsc::Sender<Outbound>,
    mut inbound: S,
) where
    S: Stream<Item = Result<Inbound>> + Unpin + Send,
{
    if let Err(error) = compare(&parts, &agent, &hello, registered.id).await {
        tracing::warn!(%agent, %error, "the agent's collections could not all be looked at; it is asked to connect again");
        over(&parts, &agent, &hello, registered.id).await;
        return;
    }
    let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
    let mut seen = hello.seen.clone();
    let mut kept_at = Timestamp::from_unix_ns(0);
    let mut number = 1_u64 << 32;
    let why = loop {
        tokio::select! {
            () = cut(&mut registered) => break "cut",
            _ = pings.tick() => {
                number += 1;
                if outbox.try_send(Outbound::Ping(number)).is_err() {
                    break "it does not take its messages";
                }
            }
            message = tokio::time::timeout(SILENCE_MAX, inbound.next()) => match message {
                Err(_) => break "silent",
                Ok(None) => break "it ended its session",
                // An agent that ends or is killed does not say goodbye.
                Ok(Some(Err(problem))) if problem.kind() == Kind::NotNow => break "the connection was lost",
                Ok(Some(Err(problem))) => {
                    tracing::warn!(%agent, %problem, "bad message in a session");
                    break "bad message";
                }
                Ok(Some(Ok(message))) => {
                    note_seen(&parts, &agent, &message, &mut seen, &mut kept_at, registered.id).await;
                    if let Inbound::Heartbeat { wall_ns, .. } = message {
                        // Nothing rests on it: an outbox that is full has more urgent things.
                        let _ = outbox.try_send(Outbound::Clock { wall_ns: clock::now().unix_ns(), heard_ns: wall_ns });
                    }
                    let is_reply = matches!(message, Inbound::Reply { .. });
                    if let Err(error) = handle(&parts, &agent, message).await {
                        tracing::warn!(%agent, %error, "an agent's message was not accepted");
                        // An answer is said once: the agent connects again, is offered the same and answers again.
                        if is_reply && matches!(error.kind(), Kind::Busy | Kind::Failed) {
                            break "its answer could not be kept";
                        }
                    }
                }
            }
        }
    };
    over(&parts, &agent, &hello, registered.id).await;
    tracing::info!(%agent, why, "session ended");
}

async fn over(parts: &Parts, agent: &AgentId, hello: &Hello, session: u64) {
    parts.sessions.remove(agent, session);
    // The same process may have another session here by now.
    if !parts.sessions.is_online(agent) {
        replica::ends(parts, agent, hello.instance).await;
    }
}

/// Compares what the agent says that it works on with what is open. Order: (1) the comparison; (2) from here on orders that
/// come are offered through this session; (3) those that came between are offered.
async fn compare(parts: &Arc<Parts>, agent: &AgentId, hello: &Hello, session: u64) -> Result<()> {
    offers::reconcile(parts, agent, &hello.running).await?;
    parts.sessions.compared(agent, session);
    offers::offer_waiting(parts, agent).await
}

/// Ends when the session must. The guard that `wait_for` gives must not live across a wait.
async fn cut(registered: &mut Registered) {
    let _ = registered.cut.wait_for(Option::is_some).await;
}

async fn note_seen(parts: &Parts, agent: &AgentId, message: &Inbound, seen: &mut Seen, kept_at: &mut Timestamp, id: u64) {
    let Inbound::Heartbeat { wall_ns, pong } = message else { return };
    if *pong != 0 {
        parts.sessions.pong(agent, id, *pong);
    }
    let now = clock::now();
    if now < kept_at.plus_s(SEEN_EVERY_S) {
        return;
    }
    seen.at = Some(now);
    seen.clock_offset_ns = now.unix_ns().saturating_sub(*wall_ns);
    match parts.catalog.set_seen(agent.clone(), seen.clone()).await {
        Ok(_) => *kept_at = now,
        Err(error) => tracing::warn!(%agent, %error, "what the agent says about itself could not be kept"),
    }
}

async fn handle(parts: &Arc<Parts>, agent: &AgentId, message: Inbound) -> Result<()> {
    match message {
        Inbound::Heartbeat { .. } => Ok(()),
        Inbound::Reply { collection, refusal: None } => offers::accept(parts, agent, &collection).await.map(|_| ()),
        Inbound::Reply { collection, refusal: Some(envelope) } => match offers::refuse(parts, agent, &collection, &envelope).await {
            Err(problem) if problem.kind() == Kind::Invalid || problem.kind() == Kind::Denied => {
                let detail = format!("agent {agent}: {problem}; record {}", Digest::of(envelope.as_bytes()));
                let case = offers::own(parts, agent, &collection).await.ok().map(|row| row.case);
                parts.incident(case.as_ref(), "bad-refusal", collection.as_str(), &detail).await;
                Err(problem)
            }
            other => other,
        },
        Inbound::Progress { collection, live } => {
            // Only what runs, or was offered and may be hindered, has an entry on the board: an agent cannot fill it with names.
            if parts.progress.belongs_to(&collection, agent)
                || matches!(offers::own(parts, agent, &collection).await?.state, State::Offered | State::Running)
            {
                parts.progress.say(&collection, agent, live);
            }
            Ok(())
        }
    }
}
