//! From an order to a running collection: admission, offers, answers, cancels, lost agents and timers.

pub mod admit;
pub mod bounds;
pub mod cases;
mod offers;
pub mod orders;
mod recover;
mod session;
mod sessions;
mod signers;
mod timers;

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CollectionId;

use crate::progress::Live;

pub use offers::{Unoffered, accept, approved, begin_next, cancel, cancel_all, end, is_next, offer, order_of, own};
pub(crate) use offers::{follow, follow_open};
pub use recover::{approved_orders, cases_without_rows, finished_streams, orders_without_collections};
pub(crate) use session::outlasted;
pub use session::{Hello, begin, run_session};
pub use sessions::{Cut, Duplicate, Instance, OUTBOX_MESSAGES_MAX, Sessions};
pub(crate) use sessions::{PROOF_OF_LIFE, RETURN_WINDOW};
pub use timers::{FINISHED_EVERY_TICKS, look_at_timers, run_timers};

/// What the coordinator says to an agent's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound {
    /// First message.
    Welcome {
        /// Protocol version in use.
        protocol: u32,
        /// The coordinator's wall clock.
        wall_ns: i64,
    },
    /// An order to execute.
    Offer {
        /// The collection.
        collection: CollectionId,
        /// The order's envelope.
        order: Vec<u8>,
        /// The chain of the key that signed it.
        enrolments: Vec<Vec<u8>>,
        /// The case-opened record.
        case_opened: Vec<u8>,
        /// The stream to send.
        stream: u32,
        /// An earlier process began it and left a bookmark.
        continues: bool,
        /// A second person's approval; empty where none is needed.
        approval: Vec<u8>,
        /// The chain of the key that signed the approval.
        approver: Vec<Vec<u8>>,
        /// Enrolments from the root to the opener of the case, where another one signed the order.
        opener: Vec<Vec<u8>>,
    },
    /// Stop; finish what was taken.
    Cancel {
        /// The collection.
        collection: String,
        /// Why.
        reason: String,
    },
    /// The collection is closed.
    Closed {
        /// The collection.
        collection: CollectionId,
        /// The seal's envelope.
        seal: Vec<u8>,
    },
    /// Answer at once with this number.
    Ping(u64),
    /// Answer to a heartbeat: our clock, and the agent's as the heartbeat said it.
    Clock {
        /// Our wall clock.
        wall_ns: i64,
        /// The agent's.
        heard_ns: i64,
    },
}

/// What an agent's session says to the coordinator, after its hello.
#[derive(Debug)]
pub enum Inbound {
    /// It lives.
    Heartbeat {
        /// Its wall clock.
        wall_ns: i64,
        /// Number of the ping that this answers, or zero.
        pong: u64,
    },
    /// Answer to an offer.
    Reply {
        /// The collection.
        collection: CollectionId,
        /// The signed refusal, or none when the order is being executed.
        refusal: Option<Envelope>,
    },
    /// How far a collection is.
    Progress {
        /// The collection.
        collection: CollectionId,
        /// As the agent says.
        live: Live,
    },
}
