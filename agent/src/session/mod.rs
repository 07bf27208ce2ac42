//! The standing connection to the coordinator: hello, offers, cancels, progress, renewal; and the one collection that
//! may run meanwhile.
//!
//! The agent reconnects by itself for ever. A collection does not notice: its segments wait in their window, its upload
//! continues on the next connection.

pub mod backoff;
mod collecting;
mod hindered;
mod link;
mod wire;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use exhibit_certs::credential::{Credential, TlsIdentity};
use exhibit_certs::tls::{self, HotClient};
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::record::Tool;
use exhibit_evidence::{AgentId, CollectionId};
use exhibit_proto::transport::client::{self, Address, Target};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use crate::capture::Stop;
use crate::order::Offer;
use crate::pipeline::Memory;
use crate::state::State;
use crate::{clock, upload};
use backoff::Backoff;
use collecting::Running;
use hindered::Hindered;

/// What an agent process is made of.
#[derive(Debug)]
pub struct Parts {
    /// The state folder, locked.
    pub state: State,
    /// The identity in it.
    pub credential: Credential,
    /// Where coordinators are, tried in turn.
    pub coordinators: Vec<Address>,
    /// The policy file.
    pub policy: PathBuf,
    /// Memory of a collection.
    pub memory: Memory,
    /// This program.
    pub tool: Tool,
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The credential names a responder or a coordinator.
    #[error("the identity in this folder is {0}, not an agent's")]
    NotAnAgent(String),
    /// The TLS parts are unusable.
    #[error(transparent)]
    Tls(#[from] tls::BadTlsConfig),
    /// The evidence key could not be copied.
    #[error("the evidence key in this folder is unusable")]
    Key,
    /// No randomness.
    #[error("the system's random number generator failed")]
    Random,
    /// No coordinator is known.
    #[error("no coordinator is known: give --coordinator HOST:PORT or set 'coordinators' in agent.toml")]
    NoCoordinator,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    parts: Parts,
    id: AgentId,
    key: Arc<SigningKey>,
    tls: Arc<HotClient>,
    /// Random for the life of the process.
    instance: [u8; 16],
    /// The coordinator's clock minus ours, as measured last.
    offset_ns: watch::Sender<Option<i64>>,
    running: Option<Running>,
    waiting: VecDeque<Offer>,
    /// What was offered and does not run, and why.
    hindered: Hindered,
    connection: watch::Sender<Option<Channel>>,
    events_in: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    stopping: bool,
    /// When a running collection is left as it is after that.
    give_up_at: Option<tokio::time::Instant>,
}

/// What the agent's own tasks report.
#[derive(Debug)]
enum Event {
    /// A collection's upload ended.
    Ended(CollectionId, upload::Ended),
    /// A renewal ended.
    Renewed(Result<Box<TlsIdentity>, String>),
}

/// Why a session ended.
#[derive(Debug, PartialEq, Eq)]
enum SessionEnd {
    /// The agent is to end.
    Stopped,
    /// Connect again at once.
    Reconnect(&'static str),
    /// Connect again after a wait.
    Lost(String),
}

/// Orders that wait for the running collection. More stay with the coordinator, which offers them again.
const WAITING_MAX: usize = 64;
/// Time for a running collection to send what it has when the agent is told to end.
const STOP_GRACE: Duration = Duration::from_secs(20);

impl Agent {
    /// Prepares an agent; nothing runs yet.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn new(parts: Parts) -> Result<Self, StartError> {
        if parts.coordinators.is_empty() {
            return Err(StartError::NoCoordinator);
        }
        let name = parts.credential.name();
        let id = name.agent().cloned().ok_or_else(|| StartError::NotAnAgent(name.to_string()))?;
        let key = SigningKey::from_text(&parts.credential.evidence.to_text()).ok_or(StartError::Key)?;
        let tls = HotClient::new(tls::client_config(&parts.credential.tls, &parts.credential.tls_root)?);
        let (events_in, events) = mpsc::channel(8);
        Ok(Self {
            id,
            key: Arc::new(key),
            tls: Arc::new(tls),
            instance: clock::random().ok_or(StartError::Random)?,
            offset_ns: watch::Sender::new(None),
            running: None,
            waiting: VecDeque::new(),
            hindered: Hindered::default(),
            connection: watch::Sender::new(None),
            events_in,
            events,
            stopping: false,
            give_up_at: None,
            parts,
        })
    }

    /// The agent's id.
    #[must_use]
    pub const fn id(&self) -> &AgentId {
        &self.id
    }

    /// Serves until `stop` says to end; a running collection then finishes with what it has, as far as time allows.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut backoff = Backoff::new(backoff::LONGEST);
        let mut turn = 0_usize;
        loop {
            let Some(address) = self.parts.coordinators.get(turn).cloned() else { return };
            turn = turn.saturating_add(1).checked_rem(self.parts.coordinators.len()).unwrap_or(0);
            let (target, settings) = (self.target(address), client::Settings::small());
            let connected = tokio::select! {
                connected = client::connect(&target, &settings) => connected,
                () = stopped(&mut stop), if !self.stopping => { self.begin_stop(); continue }
            };
            let why = match connected {
                Ok(channel) => match self.session(channel, &mut stop, &mut backoff).await {
                    SessionEnd::Stopped => return,
                    SessionEnd::Reconnect(why) => {
                        tracing::info!("connecting again: {why}");
                        continue;
                    }
                    SessionEnd::Lost(why) => why,
                },
                Err(e) => e.to_string(),
            };
            if self.may_end() {
                return;
            }
            backoff.limit(if self.running.is_some() { backoff::LONGEST_BUSY } else { backoff::LONGEST });
            let wait = backoff.next(clock::random_u32());
            tracing::warn!(next_try_ms = wait.as_millis() as u64, "{why}");
            tokio::select! {
                () = self.idle(wait) => {}
                () = stopped(&mut stop), if !self.stopping => self.begin_stop(),
            }
            if self.may_end() {
                return;
            }
        }
    }

    /// Waits, and keeps taking what the agent's own tasks report.
    async fn idle(&mut self, wait: Duration) {
        let until = tokio::time::Instant::now() + wait;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                Some(event) = self.events.recv() => drop(self.take(event)),
            }
        }
    }

    fn target(&self, address: Address) -> Target {
        let tls = Arc::clone(&self.tls);
        Target { address, tls: Arc::new(move || tls.current()), explain: tls::explain_tls_error }
    }

    /// Told to end, and nothing runs or the time for it is over: what the coordinator did not get stays on the host, and
    /// the next process goes on where that stands.
    fn may_end(&self) -> bool {
        self.stopping && (self.running.is_none() || self.give_up_at.is_some_and(|at| tokio::time::Instant::now() >= at))
    }

    /// The agent is told to end: nothing new is begun, what runs finishes with what it has.
    fn begin_stop(&mut self) {
        self.stopping = true;
        self.give_up_at = Some(tokio::time::Instant::now() + STOP_GRACE);
        self.waiting.clear();
        tracing::info!(collecting = self.running.is_some(), "told to end; a running collection is finished with what it has");
        if let Some(running) = &self.running {
            running.control.stop(Stop::Cancelled("the agent was stopped on its host".to_owned()));
        }
    }

    /// Takes what a task reports; says whether the session should begin anew.
    fn take(&mut self, event: Event) -> Option<&'static str> {
        match event {
            Event::Ended(collection, ended) => return self.collection_ended(&collection, ended),
            Event::Renewed(Ok(identity)) => match self.use_renewed(*identity) {
                Ok(()) => return Some("the certificate was renewed"),
                Err(why) => tracing::error!("the renewed certificate cannot be used: {why}"),
            },
            Event::Renewed(Err(why)) => tracing::warn!("the certificate could not be renewed now: {why}"),
        }
        None
    }

    /// Order: the file (atomic), then memory. A crash between leaves the new certificate for the next start.
    fn use_renewed(&mut self, identity: TlsIdentity) -> Result<(), String> {
        let dir = self.parts.state.dir().to_owned();
        self.parts.credential.replace_tls(&dir, identity).map_err(|e| e.to_string())?;
        self.tls.replace(&self.parts.credential.tls, &self.parts.credential.tls_root).map_err(|e| e.to_string())
    }
}

/// Ends when the agent is told to end; never when the teller is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|s| *s).await.is_err() {
        std::future::pending::<()>().await;
    }
}
