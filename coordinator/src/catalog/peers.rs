//! What several coordinators over one catalog need of each other: the right to do something alone, notices, and who is
//! connected to which agent. Only a database that several can use at once gives it ([`super::Catalog::peers`]); a coordinator
//! that has its catalog to itself has every right already.
//!
//! # Contract
//! - Time is the database's: a coordinator whose clock is off neither keeps nor loses a right because of it.
//! - A right ends when its life is over, or at once when the process that holds it is gone from the database's sight.
//! - Nothing here must survive the loss of the database's power: what it says is asked for again.

use std::collections::BTreeMap;
use std::time::Duration;

use exhibit_evidence::id::AgentId;
use tokio::sync::broadcast;

use super::Answer;

/// Bytes of one notice, at most. PostgreSQL takes payloads of up to 8,000 bytes (NOTIFY).
pub const NOTICE_BYTES_MAX: usize = 7_900;

/// A right that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Names this taking of the right: who takes it later has another one.
    pub token: i64,
    /// What the one before left when it gave the right back; `None` when it did not come to that, or there was none.
    pub mark: Option<u64>,
}

/// Where an agent is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whereabouts {
    /// The coordinator.
    pub replica: i32,
    /// The agent's process.
    pub instance: [u8; 16],
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A notice of another coordinator.
    Notice(String),
    /// The connection was away: notices may have been missed.
    Gap,
}

/// See the module's contract.
pub trait Peers: Send + Sync + std::fmt::Debug + 'static {
    /// This process's number among the coordinators: random, not zero.
    fn me(&self) -> i32;

    /// Rights that were taken before this number changed may be others' by now: the connection was away that is this process's
    /// life to them.
    fn epoch(&self) -> u64;

    /// True when the others see this process live.
    fn is_seen(&self) -> Answer<'_, bool>;

    /// Takes the right of this name for `life`, if nobody has it (this process included). Busy as long as the others could not
    /// see this process live.
    fn take(&self, name: String, life: Duration) -> Answer<'_, Option<Grant>>;

    /// Makes the right last for `life` from now; false when it was lost.
    fn renew(&self, name: String, token: i64, life: Duration) -> Answer<'_, bool>;

    /// Gives the right back and leaves a mark, unless it was lost.
    fn give(&self, name: String, token: i64, mark: Option<u64>) -> Answer<'_, ()>;

    /// The mark of a right that nobody has now: what the last one left that gave it back properly. `None` when nobody did, or
    /// somebody has it.
    fn mark(&self, name: String) -> Answer<'_, Option<u64>>;

    /// Leaves a first mark where nobody ever had the right.
    fn first_mark(&self, name: String, mark: u64) -> Answer<'_, ()>;

    /// The agent's process is connected here now. True when it is one that another process had replaced less than `window` ago:
    /// then both live.
    fn enter(&self, agent: AgentId, instance: [u8; 16], window: Duration) -> Answer<'_, bool>;

    /// These processes are connected here since so long, whatever the database lost: entered again, but for agents that a living
    /// coordinator has by its own word.
    fn enter_again(&self, agents: Vec<(AgentId, [u8; 16], Duration)>) -> Answer<'_, ()>;

    /// All agents that are connected here were entered since the connection was made.
    fn entered(&self) -> Answer<'_, ()>;

    /// The agent's process is connected here since so long; false when no other process has its place, or an earlier one. True when
    /// it took the place of a later one.
    fn win(&self, agent: AgentId, instance: [u8; 16], since: Duration) -> Answer<'_, bool>;

    /// True when every living coordinator has entered its agents, and after a loss each had time to come back.
    fn is_settled(&self) -> Answer<'_, bool>;

    /// The agent's process is no longer connected here.
    fn leave(&self, agent: AgentId, instance: [u8; 16]) -> Answer<'_, ()>;

    /// Where these agents are connected, as far as the coordinator that said so lives.
    fn whereabouts(&self, agents: Vec<AgentId>) -> Answer<'_, BTreeMap<AgentId, Whereabouts>>;

    /// Tells all coordinators, this one included; each notice has at most [`NOTICE_BYTES_MAX`] bytes.
    fn tell(&self, notices: Vec<String>) -> Answer<'_, ()>;

    /// From now on, what all tell.
    fn hear(&self) -> broadcast::Receiver<Heard>;

    /// The database's wall clock minus this machine's, in nanoseconds, and how long it took to ask.
    fn clock_ahead_ns(&self) -> Answer<'_, i64>;
}
