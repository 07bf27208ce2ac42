//! The catalog: queues, states, upload progress and search. An index and nothing more: everything that evidence rests
//! on lies in the store, and `reindex` makes a new catalog from there.
//!
//! # Contract (every backend; the conformance suite holds them to it)
//! - Every method is one transaction. When it returned `Ok`, its effect survives the loss of power; when it returned
//!   `Err` or its future was dropped, the effect happened whole or not at all, and the caller may repeat the call.
//! - Methods that insert are idempotent for an equal row: the second call is `Ok`; an unequal row under the same key
//!   is [`CatalogError::Conflict`].
//! - Reads see every write that returned before they began.
//! - Pages are ordered as documented and `after` is exclusive; `limit` is at most [`PAGE_MAX`].
//! - `Busy` means: nothing is wrong, repeat later. `Damaged` means: a row does not hold what this module writes.

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
#[cfg(any(test, feature = "test-support"))]
pub mod faulty;
pub mod peers;
mod place;
pub mod postgres;
mod rows;
pub mod sqlite;
pub mod transfer;

pub use place::{CatalogPlace, OpenCatalog};
pub use rows::*;

use std::collections::BTreeMap;
use std::sync::Arc;

use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::Segment;
use exhibit_evidence::{Digest, Timestamp};
use futures::future::BoxFuture;

/// Most rows in one page.
pub const PAGE_MAX: u32 = 1_000;

/// Why the catalog did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// Locked, or too slow just now: repeat later.
    #[error("the catalog is busy: {0}")]
    Busy(String),
    /// Another row stands under the same key, or the row is not in the state that the step needs.
    #[error("the catalog holds something else: {0}")]
    Conflict(String),
    /// A row does not hold what this program writes; `exhibit-coordinator reindex` makes a new catalog from the store.
    #[error("the catalog is damaged: {0}; stop the coordinator and run 'exhibit-coordinator reindex'")]
    Damaged(String),
    /// The database failed otherwise (disk full, file gone).
    #[error("the catalog failed: {0}")]
    Failed(String),
}

impl CatalogError {
    /// Puts where the catalog is in front.
    #[must_use]
    pub(crate) fn at(self, place: &str) -> Self {
        let placed = |text: String| format!("{place}: {text}");
        match self {
            Self::Busy(text) => Self::Busy(placed(text)),
            Self::Conflict(text) => Self::Conflict(placed(text)),
            Self::Damaged(text) => Self::Damaged(placed(text)),
            Self::Failed(text) => Self::Failed(placed(text)),
        }
    }
}

/// What every method returns.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, CatalogError>>;

/// A catalog that can be shared.
pub type SharedCatalog = Arc<dyn Catalog>;

/// See the module's contract.
pub trait Catalog: Send + Sync + std::fmt::Debug + 'static {
    // ---- tokens ----

    /// Keeps a token.
    fn add_token(&self, token: TokenRow) -> Answer<'_, ()>;

    /// Takes one use of the token for `keys` (a digest over the new agent's public keys), remembering that it belongs to
    /// `proposed`. The same token with the same keys gives the first agent again, also when the uses are used up, but not
    /// after the token expired (`expires_at <= now`).
    fn use_token(&self, token: Digest, keys: Digest, proposed: AgentId, now: Timestamp) -> Answer<'_, TokenUse>;

    // ---- agents ----

    /// Adds an agent. An agent with the same id, key and enrolment is left as it is (labels and seen facts untouched).
    fn add_agent(&self, agent: AgentRow) -> Answer<'_, ()>;
    /// One agent.
    fn agent(&self, agent: AgentId) -> Answer<'_, Option<AgentRow>>;
    /// Agents by id, ascending, that carry all of `labels`.
    fn agents(&self, labels: Labels, after: Option<AgentId>, limit: u32) -> Answer<'_, Vec<AgentRow>>;
    /// Replaces the labels; false when there is no such agent.
    fn set_labels(&self, agent: AgentId, labels: Labels) -> Answer<'_, bool>;
    /// Keeps what the agent said last; false when there is no such agent.
    fn set_seen(&self, agent: AgentId, seen: Seen) -> Answer<'_, bool>;
    /// Sets or clears the alarm; false when there is no such agent.
    fn set_alarm(&self, agent: AgentId, alarm: Option<String>) -> Answer<'_, bool>;
    /// Marks the agent as revoked; the first time and reason stay. False when there is no such agent.
    fn revoke_agent(&self, agent: AgentId, at: Timestamp, reason: String) -> Answer<'_, bool>;

    // ---- cases ----

    /// Adds a case.
    fn add_case(&self, case: CaseRow) -> Answer<'_, ()>;
    /// One case.
    fn case(&self, case: CaseId) -> Answer<'_, Option<CaseRow>>;
    /// Cases by id, descending (newest first).
    fn cases(&self, after: Option<CaseId>, limit: u32) -> Answer<'_, Vec<CaseRow>>;
    /// Marks the case as closed by this record; the first one stays. False when there is no such case.
    fn close_case(&self, case: CaseId, case_closed: Digest) -> Answer<'_, bool>;
    /// Collections of the case by state text ([`State::as_str`]), and exhibit numbers given so far (the sum of
    /// `exhibit_count`).
    fn case_counts(&self, case: CaseId) -> Answer<'_, (BTreeMap<String, u64>, u64)>;

    // ---- orders and collections ----

    /// Adds an order and all its collections in one transaction.
    fn add_order(&self, order: OrderRow, collections: Vec<CollectionRow>) -> Answer<'_, ()>;
    /// One order.
    fn order(&self, order: OrderId) -> Answer<'_, Option<OrderRow>>;
    /// One collection.
    fn collection(&self, collection: CollectionId) -> Answer<'_, Option<CollectionRow>>;
    /// Collections by (`queued_at`, id), descending (newest first). `after` is the last row of the page before.
    fn collections(&self, filter: CollectionFilter, after: Option<CollectionId>, limit: u32) -> Answer<'_, Vec<CollectionRow>>;
    /// Collections whose time has come: `unapproved`, `queued` or `offered` with `expires_at <= now`, `running` with
    /// `give_up_at <= now`. Oldest first, at most `limit`.
    fn due(&self, now: Timestamp, limit: u32) -> Answer<'_, Vec<CollectionRow>>;
    /// Collections in state `sealing`, by (`queued_at`, id) ascending. `after` is the last row of the page before, whatever became of it.
    fn sealing(&self, after: Option<CollectionId>, limit: u32) -> Answer<'_, Vec<CollectionRow>>;
    /// Changes a collection if its state is one of `from`; gives the row as it is afterwards, `None` when there is no
    /// such collection or it is in another state.
    fn change(&self, collection: CollectionId, from: Vec<State>, change: CollectionChange) -> Answer<'_, Option<CollectionRow>>;

    // ---- streams ----

    /// Adds a stream (state `open`, nothing received); an existing row under the same key is left as it is, whatever it
    /// holds, and returned.
    fn open_stream(&self, stream: StreamRow) -> Answer<'_, StreamRow>;
    /// One stream.
    fn stream(&self, collection: CollectionId, stream: StreamNumber) -> Answer<'_, Option<StreamRow>>;
    /// All streams of a collection, ascending.
    fn streams(&self, collection: CollectionId) -> Answer<'_, Vec<StreamRow>>;
    /// Commits a segment: its row, its manifest parts (appended), snapshot, totals, `received_to`, `next_segment + 1`.
    /// [`Step::NotNow`] when the stream is not open or waits for another segment.
    fn commit_segment(&self, commit: SegmentCommit) -> Answer<'_, Step>;
    /// Ends a stream: state `finished`. [`Step::NotNow`] when it is not open.
    fn finish_stream(&self, finish: StreamFinish) -> Answer<'_, Step>;
    /// `finished` to `received`: keeps the receipt and drops the manifest's parts. `Done` as well when it already is
    /// received with the same receipt.
    fn receive_stream(&self, collection: CollectionId, stream: StreamNumber, receipt: Digest) -> Answer<'_, Step>;
    /// `open` with no segment to `void`. `Done` as well when it already is void.
    fn void_stream(&self, collection: CollectionId, stream: StreamNumber) -> Answer<'_, Step>;
    /// Segments of a stream by number, ascending, from `from` on.
    fn segments(&self, collection: CollectionId, stream: StreamNumber, from: u32, limit: u32) -> Answer<'_, Vec<Segment>>;
    /// Manifest part `n` of a stream that is open or finished, numbered from 0 in the order in which they were added;
    /// `None` after the last.
    fn manifest_part(&self, collection: CollectionId, stream: StreamNumber, n: u32) -> Answer<'_, Option<Vec<u8>>>;

    // ---- logs ----

    /// The newest head of a log that is known to have been published; `log` is the log's folder in the store.
    fn published(&self, log: String) -> Answer<'_, Option<Published>>;
    /// Keeps a head that was published. A longer one that is known stays, and so does another one of the same size: which of two is
    /// right is for whoever compares them with the store.
    fn set_published(&self, log: String, head: Published) -> Answer<'_, ()>;

    // ---- incidents ----

    /// Keeps an incident.
    fn add_incident(&self, incident: IncidentRow) -> Answer<'_, ()>;
    /// The newest incidents first.
    fn incidents(&self, limit: u32) -> Answer<'_, Vec<IncidentRow>>;
    /// The incidents that no log has yet, by case, kind and subject, the oldest first.
    fn unlogged_incidents(&self, limit: u32) -> Answer<'_, Vec<UnloggedIncidents>>;
    /// The words of these, the oldest first: those after a number, each with its own.
    fn incident_details(&self, incidents: UnloggedIncidents, after: i64, limit: u32) -> Answer<'_, Vec<(i64, String)>>;
    /// A log has these now; what came since is not among them.
    fn incidents_logged(&self, incidents: UnloggedIncidents) -> Answer<'_, ()>;

    // ---- upkeep ----

    /// Where a chore stands: what was kept last under its name.
    fn standing(&self, chore: &'static str) -> Answer<'_, Option<String>>;
    /// Keeps where a chore stands, in the place of what was kept before.
    fn set_standing(&self, chore: &'static str, standing: String) -> Answer<'_, ()>;
    /// The same, as long as what is kept is still `before`; `None` where nothing is. False when it is something else, which stays.
    fn replace_standing(&self, chore: &'static str, before: Option<String>, standing: String) -> Answer<'_, bool>;

    /// What several coordinators on this catalog need of each other; `None` where only one can use it.
    fn peers(&self) -> Option<Arc<dyn peers::Peers>> {
        None
    }

    /// True while the catalog can read and write; otherwise the error says where it is.
    fn healthy(&self) -> Answer<'_, ()>;

    /// Why the catalog does not answer, for when it does not: found out beside what waits for it, in a second or so.
    fn silence(&self) -> BoxFuture<'_, CatalogError>;
}
