//! Orders: what a responder signed, checked from the pinned anchor before anything runs. The coordinator is only the
//! messenger; nothing is believed because it said so.

pub mod policy;
mod verify;

#[cfg(test)]
mod tests;

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::{AgentId, CollectionId, Digest, Timestamp, record};

pub use policy::Policy;
pub use verify::{Accepted, Context, verify};

/// An offer as it came, its fields parsed but nothing verified.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The collection that the coordinator names.
    pub collection: CollectionId,
    /// The order.
    pub order: Envelope,
    /// The case-opened record that the order names.
    pub case_opened: Envelope,
    /// Enrolments from the root to the order's signer.
    pub enrolments: Vec<Envelope>,
    /// Enrolments from the root to the key that signed the case-opened record, where it is another one than the order's.
    pub opener_enrolments: Vec<Envelope>,
    /// A second person's approval.
    pub approval: Option<Envelope>,
    /// Enrolments from the root to the approval's signer.
    pub approver_enrolments: Vec<Envelope>,
    /// The stream to send.
    pub stream: u32,
    /// An earlier process of this agent began it and left a bookmark.
    pub continues: bool,
}

/// Why an order is not executed: the stable word in the refusal record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// It may not be begun any more.
    Expired,
    /// It names other agents.
    NotATarget,
    /// A signature does not hold, or its key is not enrolled under the anchor.
    BadSignature,
    /// The signer may not order this.
    NotAuthorized,
    /// A second person must approve it, and nobody did, or not rightly.
    NotApproved,
    /// This host's policy does not allow it.
    Policy,
    /// It was executed before.
    Replayed,
    /// The host's clock and the order's times do not fit together.
    Clock,
    /// It asks for something that this agent cannot do.
    Unsupported,
    /// A record or a value is not what it should be.
    Malformed,
}

impl Code {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotATarget => "not-a-target",
            Self::BadSignature => "bad-signature",
            Self::NotAuthorized => "not-authorized",
            Self::NotApproved => "not-approved",
            Self::Policy => "policy",
            Self::Replayed => "replayed",
            Self::Clock => "clock",
            Self::Unsupported => "unsupported",
            Self::Malformed => "malformed",
        }
    }
}

/// A refusal before it is signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Refused {
    /// The stable word.
    pub code: Code,
    /// What is wrong and what would help.
    pub message: String,
}

impl Refused {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The record to be signed.
    #[must_use]
    pub fn record(&self, collection: CollectionId, agent: AgentId, order: Digest, now: Timestamp) -> record::Refusal {
        record::Refusal {
            collection,
            agent,
            predecessor: order,
            code: self.code.as_str().to_owned(),
            message: exhibit_evidence::text::one_line(&self.message, MESSAGE_CHARS_MAX),
            refused_at: now,
        }
    }
}

/// Longest message of a refusal.
const MESSAGE_CHARS_MAX: usize = 1_000;
