//! Which agent is connected: one live session per agent. A new session of the same process replaces the old one; a
//! second process with the same identity is an alarm.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use exhibit_evidence::id::AgentId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Outbound;

/// Messages that may wait for a session to take them. Offers are at most 64 KiB of order and eight enrolments, so a
/// session that does not read costs at most some 8 MiB before it is cut.
pub const OUTBOX_MESSAGES_MAX: usize = 64;

/// How long the older of two processes has to answer a ping before it counts as dead.
pub(crate) const PROOF_OF_LIFE: Duration = Duration::from_secs(5);

/// How long a message may wait for a session that is behind.
const DELIVERY: Duration = Duration::from_secs(20);

/// A process that comes back within this time after another process took its place is not a restart: both live.
pub(crate) const RETURN_WINDOW: Duration = Duration::from_mins(10);

/// Random for the life of an agent process.
pub type Instance = [u8; 16];

/// Why a session is ended from this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// A newer session of the same agent took its place.
    Replaced,
    /// The agent was revoked.
    Revoked,
    /// It does not take its messages.
    NotReading,
    /// The coordinator stops.
    Draining,
}

#[derive(Debug)]
struct Live {
    id: u64,
    instance: Instance,
    outbox: mpsc::Sender<Outbound>,
    cut: watch::Sender<Option<Cut>>,
    pong: watch::Sender<u64>,
    /// What the agent said that it works on was compared with what is open.
    compared: bool,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    instance: Instance,
    /// Since when it speaks for the agent here.
    since: Instant,
    before: Option<(Instance, Instant)>,
}

#[derive(Debug, Default)]
struct State {
    live: HashMap<AgentId, Live>,
    /// The process that was seen last, and the one before it with the time when it was replaced. Two small entries per
    /// enrolled agent.
    last: HashMap<AgentId, Last>,
    next_id: u64,
}

/// The registry.
#[derive(Debug, Default)]
pub struct Sessions {
    state: Mutex<State>,
}

/// A session's own end of its entry.
#[derive(Debug)]
pub struct Registered {
    /// Number of the session; see [`Sessions::remove`].
    pub id: u64,
    /// Becomes `Some` when the session must end.
    pub cut: watch::Receiver<Option<Cut>>,
    /// Set when this process took the place of another one that then must have been alive still.
    pub returned: bool,
}

/// The agent's other process is alive: this one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "another process with this agent's identity is connected and alive; stop one of them, and if there should be only one, revoke the agent and enrol it again"
)]
pub struct Duplicate;

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a session. An older session of the same process is replaced; an older one of another process is asked
    /// for a sign of life first.
    ///
    /// # Errors
    /// [`Duplicate`] when the other process gave one.
    pub async fn register(&self, agent: &AgentId, instance: Instance, outbox: mpsc::Sender<Outbound>) -> Result<Registered, Duplicate> {
        if let Some(rival) = self.rival(agent, instance)
            && rival.answers().await
        {
            return Err(Duplicate);
        }
        let mut state = self.lock();
        let now = Instant::now();
        let returned = state.note_process(agent, instance, now);
        state.next_id += 1;
        let id = state.next_id;
        let (cut, cut_receiver) = watch::channel(None);
        let live = Live { id, instance, outbox, cut, pong: watch::Sender::new(0), compared: false };
        if let Some(old) = state.live.insert(agent.clone(), live) {
            old.cut.send_replace(Some(Cut::Replaced));
        }
        Ok(Registered { id, cut: cut_receiver, returned })
    }

    /// The live session of another process, with a ping number for it.
    fn rival(&self, agent: &AgentId, instance: Instance) -> Option<Rival> {
        self.asked(agent, |old| old.instance != instance)
    }

    fn asked(&self, agent: &AgentId, which: impl Fn(&Live) -> bool) -> Option<Rival> {
        let mut state = self.lock();
        state.next_id += 1;
        let ping = state.next_id;
        let old = state.live.get(agent).filter(|old| which(old))?;
        Some(Rival { outbox: old.outbox.clone(), pong: old.pong.subscribe(), ping })
    }

    /// Asks the agent's session for a sign of life; false when there is no session, or none came in time.
    pub async fn gives_sign_of_life(&self, agent: &AgentId) -> bool {
        match self.asked(agent, |_| true) {
            Some(session) => session.answers().await,
            None => false,
        }
    }

    /// What the agent said in its hello was compared with what is open: offers may be sent through this session.
    pub fn compared(&self, agent: &AgentId, id: u64) {
        if let Some(live) = self.lock().live.get_mut(agent).filter(|l| l.id == id) {
            live.compared = true;
        }
    }

    /// True when the agent is connected and its hello was compared. What is offered before could be begun at once, and the
    /// comparison with the older hello would take it for something that a lost process had begun.
    #[must_use]
    pub fn takes_offers(&self, agent: &AgentId) -> bool {
        self.lock().live.get(agent).is_some_and(|l| l.compared)
    }

    /// The session answered a ping.
    pub fn pong(&self, agent: &AgentId, id: u64, number: u64) {
        if let Some(live) = self.lock().live.get(agent).filter(|l| l.id == id) {
            live.pong.send_replace(number);
        }
    }

    /// Removes a session that ended; a newer one of the same agent stays.
    pub fn remove(&self, agent: &AgentId, id: u64) {
        let mut state = self.lock();
        if state.live.get(agent).is_some_and(|l| l.id == id) {
            state.live.remove(agent);
        }
    }

    /// Sends a message to the agent's session. False when there is none; one that does not take messages is cut.
    pub fn send(&self, agent: &AgentId, message: Outbound) -> bool {
        let state = self.lock();
        let Some(live) = state.live.get(agent) else { return false };
        match live.outbox.try_send(message) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                live.cut.send_replace(Some(Cut::NotReading));
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// As [`Sessions::send`], but waits a while for a session that is behind: for offers, of which there may be many.
    pub async fn deliver(&self, agent: &AgentId, message: Outbound) -> bool {
        let Some((outbox, cut)) = self.lock().live.get(agent).map(|l| (l.outbox.clone(), l.cut.clone())) else { return false };
        match outbox.send_timeout(message, DELIVERY).await {
            Ok(()) => true,
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                cut.send_replace(Some(Cut::NotReading));
                false
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => false,
        }
    }

    /// Ends the agent's session, if there is one.
    pub fn cut(&self, agent: &AgentId, why: Cut) {
        if let Some(live) = self.lock().live.remove(agent) {
            live.cut.send_replace(Some(why));
        }
    }

    /// The agents that are connected here.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentId> {
        self.lock().live.keys().cloned().collect()
    }

    /// Ends all sessions.
    pub fn cut_all(&self) {
        for (_, live) in self.lock().live.drain() {
            live.cut.send_replace(Some(Cut::Draining));
        }
    }

    /// The process that is connected as this agent.
    #[must_use]
    pub fn instance(&self, agent: &AgentId) -> Option<Instance> {
        self.lock().live.get(agent).map(|l| l.instance)
    }

    /// The processes that are connected, and since when each is known here.
    #[must_use]
    pub fn living(&self) -> Vec<(AgentId, Instance, Duration)> {
        let (state, now) = (self.lock(), Instant::now());
        let since = |agent: &AgentId| state.last.get(agent).map_or(Duration::ZERO, |last| now.duration_since(last.since));
        state.live.iter().map(|(agent, live)| (agent.clone(), live.instance, since(agent))).collect()
    }

    /// True when this process was the last that spoke for the agent here.
    #[must_use]
    pub fn knows(&self, agent: &AgentId, instance: Instance) -> bool {
        self.lock().last.get(agent).is_some_and(|last| last.instance == instance)
    }

    /// True while the agent is connected.
    #[must_use]
    pub fn is_online(&self, agent: &AgentId) -> bool {
        self.lock().live.contains_key(agent)
    }
}

impl State {
    /// Remembers which process speaks for the agent; true when it is one that another had replaced a short time ago.
    fn note_process(&mut self, agent: &AgentId, instance: Instance, now: Instant) -> bool {
        let Some(last) = self.last.get(agent).copied() else {
            self.last.insert(agent.clone(), Last { instance, since: now, before: None });
            return false;
        };
        if last.instance == instance {
            return false;
        }
        self.last.insert(agent.clone(), Last { instance, since: now, before: Some((last.instance, now)) });
        last.before.is_some_and(|(older, at)| older == instance && now.duration_since(at) < RETURN_WINDOW)
    }
}

/// The live session of another process, and the number of the ping that it is asked.
struct Rival {
    outbox: mpsc::Sender<Outbound>,
    pong: watch::Receiver<u64>,
    ping: u64,
}

impl Rival {
    async fn answers(mut self) -> bool {
        // A full outbox may be a moment's; the ping that is on its way then asks the same.
        if let Err(mpsc::error::TrySendError::Closed(_)) = self.outbox.try_send(Outbound::Ping(self.ping)) {
            return false;
        }
        // Any answer from now on is a sign of life: when several processes ask at once, each waits for the next one.
        tokio::time::timeout(PROOF_OF_LIFE, self.pong.changed()).await.is_ok_and(|answer| answer.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> AgentId {
        AgentId::new(1, [1; 10])
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_process_replaces_its_own_session() {
        let sessions = Sessions::default();
        let (outbox, _inbox) = mpsc::channel(4);
        let mut first = sessions.register(&agent(), [1; 16], outbox.clone()).await.expect("alone");
        let second = sessions.register(&agent(), [1; 16], outbox).await.expect("same process");
        assert_eq!(*first.cut.wait_for(Option::is_some).await.expect("cut"), Some(Cut::Replaced));
        sessions.remove(&agent(), first.id);
        assert!(sessions.is_online(&agent()), "the end of the old session does not remove the new one");
        sessions.remove(&agent(), second.id);
        assert!(!sessions.is_online(&agent()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_process_is_refused_while_the_first_answers_and_let_in_when_it_does_not() {
        let sessions = Sessions::default();
        let (outbox, mut inbox) = mpsc::channel(4);
        let first = sessions.register(&agent(), [1; 16], outbox).await.expect("alone");
        let (other, _other_inbox) = mpsc::channel(4);
        let id = agent();
        let (attempt, ()) = tokio::join!(sessions.register(&id, [2; 16], other.clone()), async {
            let Some(Outbound::Ping(n)) = inbox.recv().await else { panic!("expected a ping") };
            sessions.pong(&agent(), first.id, n);
        });
        assert_eq!(attempt.map(|_| ()), Err(Duplicate));
        // Now the first is silent.
        let second = sessions.register(&agent(), [2; 16], other).await.expect("the first is dead");
        assert!(!second.returned);
        sessions.remove(&agent(), second.id);
        let (again, _again_inbox) = mpsc::channel(4);
        assert!(sessions.register(&agent(), [1; 16], again).await.expect("nobody is there").returned, "the first process lives after all");
    }

    #[tokio::test]
    async fn a_session_that_does_not_read_is_cut() {
        let sessions = Sessions::default();
        let (outbox, _inbox) = mpsc::channel(1);
        let session = sessions.register(&agent(), [1; 16], outbox).await.expect("alone");
        assert!(sessions.send(&agent(), Outbound::Ping(1)));
        assert!(!sessions.send(&agent(), Outbound::Ping(2)));
        assert_eq!(*session.cut.borrow(), Some(Cut::NotReading));
        sessions.cut(&agent(), Cut::Revoked);
        assert!(!sessions.send(&agent(), Outbound::Ping(3)));
    }
}
