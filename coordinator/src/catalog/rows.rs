//! Rows of the catalog. Times are the coordinator's clock unless the field says otherwise.

use std::collections::BTreeMap;

use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::key::KeyId;
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::{Segment, Status};
use exhibit_evidence::record::{ManifestRef, Outcome};
use exhibit_evidence::{Digest, Timestamp};

/// Labels of an agent, set by people.
pub type Labels = BTreeMap<String, String>;
/// Items per status; statuses with none are left out.
pub type ByStatus = BTreeMap<Status, u64>;

/// A one-time enrolment token. Only its digest is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// SHA-256 of the token's text.
    pub sha256: Digest,
    /// Labels that agents enrolled with it get.
    pub labels: Labels,
    /// How many more agents may enrol with it.
    pub uses_left: u32,
    /// After this it is worth nothing.
    pub expires_at: Timestamp,
    /// Who made it (SPIFFE-style URI).
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
}

/// What [`super::Catalog::use_token`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenUse {
    /// A use was taken for the proposed agent.
    Taken {
        /// Labels of the token.
        labels: Labels,
    },
    /// The same token and keys were used before: the agent of that time. No further use was taken.
    Repeated {
        /// The agent that was made then.
        agent: AgentId,
        /// Labels of the token.
        labels: Labels,
    },
    /// No such token.
    Unknown,
    /// Expired at this time.
    Expired(Timestamp),
    /// All uses are taken.
    UsedUp,
}

/// An enrolled agent. What it says about itself is a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    /// The agent.
    pub agent: AgentId,
    /// Its evidence key.
    pub key: KeyId,
    /// Its enrolment record.
    pub enrolment: Digest,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// Labels set by people.
    pub labels: Labels,
    /// When and why it was revoked.
    pub revoked: Option<(Timestamp, String)>,
    /// A standing alarm about its identity, in words (two processes with one identity).
    pub alarm: Option<String>,
    /// What it said last.
    pub seen: Seen,
}

/// What an agent said about itself with its last hello or heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// When the coordinator heard it; `None` when never.
    pub at: Option<Timestamp>,
    /// Host name.
    pub hostname: String,
    /// Version of the program.
    pub version: String,
    /// Kernel.
    pub kernel: String,
    /// Operating system.
    pub os: String,
    /// boot_id.
    pub boot_id: String,
    /// SHA-256 of the running binary.
    pub build: Option<Digest>,
    /// The coordinator's clock minus the agent's, nanoseconds.
    pub clock_offset_ns: i64,
    /// Captures that it can run.
    pub captures: Vec<String>,
}

/// A case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseRow {
    /// The case.
    pub case: CaseId,
    /// Title, as opened.
    pub title: String,
    /// Legal basis, as opened.
    pub legal_basis: String,
    /// Accountable person, as opened.
    pub accountable: String,
    /// Who opened it (SPIFFE-style URI).
    pub opened_by: String,
    /// When, by the opener's clock.
    pub opened_at: Timestamp,
    /// The `case-opened` envelope.
    pub case_opened: Digest,
    /// The `case-closed` envelope, once closed.
    pub case_closed: Option<Digest>,
}

/// An order that was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRow {
    /// The order.
    pub order: OrderId,
    /// SHA-256 of its envelope.
    pub digest: Digest,
    /// Its envelope's bytes.
    pub envelope: Vec<u8>,
    /// Its case.
    pub case: CaseId,
    /// Who signed it (SPIFFE-style URI).
    pub issued_by: String,
    /// Profile, when it had one.
    pub profile: Option<String>,
    /// After this it may not be begun.
    pub expires_at: Timestamp,
    /// When it was admitted.
    pub admitted_at: Timestamp,
}

/// Where a collection stands. `sealing` is the short stretch in which its end is being written: the outcome is
/// decided, kept in [`CollectionRow::ending`], and whoever finds the row (after a crash too) writes it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Its order waits for a second person's approval.
    Unapproved,
    /// Waits for the agent's session.
    Queued,
    /// Was offered to the agent's session; no answer yet.
    Offered,
    /// The agent accepted.
    Running,
    /// The end is being written.
    Sealing,
    /// Closed: a seal record exists.
    Closed(Outcome),
}

impl State {
    /// All values.
    pub const ALL: [Self; 11] = [
        Self::Unapproved,
        Self::Queued,
        Self::Offered,
        Self::Running,
        Self::Sealing,
        Self::Closed(Outcome::Sealed),
        Self::Closed(Outcome::Partial),
        Self::Closed(Outcome::Refused),
        Self::Closed(Outcome::Failed),
        Self::Closed(Outcome::Cancelled),
        Self::Closed(Outcome::Expired),
    ];

    /// The text kept in the catalog.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unapproved => "unapproved",
            Self::Queued => "queued",
            Self::Offered => "offered",
            Self::Running => "running",
            Self::Sealing => "sealing",
            Self::Closed(outcome) => outcome.as_str(),
        }
    }

    /// Reads [`State::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// True once a seal record exists.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

/// How a collection is about to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// How.
    pub outcome: Outcome,
    /// Why, whenever it is not `sealed`.
    pub reason: Option<String>,
    /// The agent's signed refusal (envelope bytes), for `refused`.
    pub refusal: Option<Vec<u8>>,
}

/// A collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionRow {
    /// The collection.
    pub collection: CollectionId,
    /// Its order.
    pub order: OrderId,
    /// SHA-256 of the order's envelope.
    pub order_digest: Digest,
    /// Its case.
    pub case: CaseId,
    /// Its agent.
    pub agent: AgentId,
    /// Profile of the order.
    pub profile: Option<String>,
    /// Where it stands.
    pub state: State,
    /// Why, when it did not end as sealed; or what it waits for.
    pub reason: Option<String>,
    /// The end that is being written; present exactly in state `sealing`.
    pub ending: Option<Ending>,
    /// A responder asked to cancel it, with these words; the agent finishes what it has.
    pub cancel: Option<String>,
    /// The stream of the current attempt, from 1.
    pub stream: StreamNumber,
    /// When the order was admitted.
    pub queued_at: Timestamp,
    /// When the agent accepted.
    pub started_at: Option<Timestamp>,
    /// When it was closed.
    pub ended_at: Option<Timestamp>,
    /// Not begun by then: `expired`.
    pub expires_at: Timestamp,
    /// Running and not finished by then: closed with what arrived. Set when it starts.
    pub give_up_at: Option<Timestamp>,
    /// Totals, once it is closed.
    pub totals: Totals,
    /// First exhibit number, once it is closed and has items.
    pub exhibit_first: u64,
    /// Exhibit numbers used.
    pub exhibit_count: u64,
    /// The seal record's envelope bytes, once it is closed.
    pub seal: Option<Vec<u8>>,
}

impl CollectionRow {
    /// Its end is decided and being written, and its agent never began.
    #[must_use]
    pub fn ends_unbegun(&self) -> bool {
        self.state == State::Sealing && self.started_at.is_none()
    }
}

/// Counts over items and bytes that were verified and made durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Items.
    pub items: u64,
    /// Bytes of the raw stream.
    pub raw_bytes: u64,
    /// Bytes as stored.
    pub stored_bytes: u64,
    /// Items by status.
    pub by_status: ByStatus,
}

/// What changes in a collection; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CollectionChange {
    /// New state.
    pub state: Option<State>,
    /// New reason (`Some(None)` clears it).
    pub reason: Option<Option<String>>,
    /// New ending (`Some(None)` clears it).
    pub ending: Option<Option<Ending>>,
    /// Cancel request.
    pub cancel: Option<String>,
    /// New current stream.
    pub stream: Option<StreamNumber>,
    /// Start.
    pub started_at: Option<Timestamp>,
    /// End.
    pub ended_at: Option<Timestamp>,
    /// Give-up time.
    pub give_up_at: Option<Timestamp>,
    /// Totals.
    pub totals: Option<Totals>,
    /// First exhibit number and how many.
    pub exhibits: Option<(u64, u64)>,
    /// Seal record.
    pub seal: Option<Vec<u8>>,
}

/// Which collections; empty fields do not restrict. All given fields must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CollectionFilter {
    /// Of this case.
    pub case: Option<CaseId>,
    /// Of this order.
    pub order: Option<OrderId>,
    /// On this agent.
    pub agent: Option<AgentId>,
    /// Only these (at most 1,000), when not empty.
    pub only: Vec<CollectionId>,
    /// Only those that are not closed.
    pub open: bool,
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamState {
    /// Takes segments.
    Open,
    /// Ended and verified (by the agent's finish, or closed by the coordinator): the manifest is whole in the catalog
    /// and is being written to the store and the log.
    Finished,
    /// Manifest and receipt are written; the manifest's parts are gone from the catalog.
    Received,
    /// Nothing arrived; it is not part of the seal.
    Void,
}

impl StreamState {
    /// The text kept in the catalog.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Finished => "finished",
            Self::Received => "received",
            Self::Void => "void",
        }
    }

    /// Reads [`StreamState::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Open, Self::Finished, Self::Received, Self::Void].into_iter().find(|s| s.as_str() == text)
    }
}

/// One attempt at a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRow {
    /// The collection.
    pub collection: CollectionId,
    /// Its number.
    pub stream: StreamNumber,
    /// Where it stands.
    pub state: StreamState,
    /// The first segment that is not there.
    pub next_segment: u32,
    /// Intake's state after the last committed segment (parser, digests, counters); opaque here.
    pub snapshot: Vec<u8>,
    /// The agent's bookmark of the last committed segment; empty when the stream could not be taken up there.
    pub bookmark: Vec<u8>,
    /// Totals of what is committed.
    pub totals: Totals,
    /// First byte received.
    pub received_from: Timestamp,
    /// Last byte made durable.
    pub received_to: Timestamp,
    /// The whole manifest, once the stream is finished.
    pub manifest: Option<ManifestRef>,
    /// The agent's acquisition record (envelope bytes), once finished by the agent.
    pub acquisition: Option<Vec<u8>>,
    /// The receipt record's digest, once received.
    pub receipt: Option<Digest>,
}

/// What one acknowledged segment changes, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentCommit {
    /// The collection.
    pub collection: CollectionId,
    /// The stream; it must be open and its `next_segment` must equal `segment.n`.
    pub stream: StreamNumber,
    /// The segment.
    pub segment: Segment,
    /// Manifest bytes that this segment adds, in pieces of at most 1 MiB; the pieces need not end at line ends.
    pub manifest_parts: Vec<Vec<u8>>,
    /// Intake's state after it.
    pub snapshot: Vec<u8>,
    /// The agent's bookmark, empty for none.
    pub bookmark: Vec<u8>,
    /// Totals after it.
    pub totals: Totals,
    /// When it became durable.
    pub at: Timestamp,
}

/// What the end of a stream changes, in one transaction: the state becomes `finished`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFinish {
    /// The collection.
    pub collection: CollectionId,
    /// The stream; it must be open.
    pub stream: StreamNumber,
    /// The last manifest bytes, in pieces of at most 1 MiB.
    pub manifest_parts: Vec<Vec<u8>>,
    /// The whole manifest.
    pub manifest: ManifestRef,
    /// The agent's acquisition record, when it signed one.
    pub acquisition: Option<Vec<u8>>,
    /// When.
    pub at: Timestamp,
}

/// Something that an operator should look at: kept, listed, never deleted by the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncidentRow {
    /// When.
    pub at: Timestamp,
    /// The case that it concerns.
    pub case: Option<CaseId>,
    /// A stable word, e.g. `duplicate-identity`, `false-upload`, `store-damaged`.
    pub kind: String,
    /// Whom or what it is about (an id).
    pub subject: String,
    /// In words, escaped.
    pub detail: String,
    /// How many alike the row stands for, at least 1.
    pub count: u64,
    /// Whether a log has it already.
    pub logged: bool,
}

impl IncidentRow {
    /// One incident that no log has yet.
    #[must_use]
    pub fn new(at: Timestamp, case: Option<CaseId>, kind: &str, subject: &str, detail: String) -> Self {
        Self { at, case, kind: kind.to_owned(), subject: subject.to_owned(), detail, count: 1, logged: false }
    }
}

/// Incidents of one kind about one subject that no log has yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnloggedIncidents {
    /// The newest of them; `count` is the sum of all.
    pub newest: IncidentRow,
    /// When the oldest was.
    pub first_at: Timestamp,
    /// Up to which row they go.
    pub up_to: i64,
}

/// The head of a log, as it was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Records in the log.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Digest,
}

/// Result of a step that only the right state allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Done.
    Done,
    /// The row was not in the required state; nothing changed.
    NotNow,
}
