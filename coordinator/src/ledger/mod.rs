//! The custody logs: one append-only Merkle log per case and one for the deployment, kept as objects of the store.
//!
//! ```text
//! <log>/seq/<n>.dsse.json          record n, create-only: the only thing that a record's place in the log depends on
//! <log>/tile/...                   the tree as C2SP tiles, create-only, written after the slots that they follow from
//! <log>/checkpoint                 the signed tree head, written after the slots and tiles that it covers
//! <log>/cosigned/<witness>/<size>  a head with the cosignature of a witness, create-only
//! ```
//!
//! Trust: the slots are as good as their signatures, the checkpoint commits to all of them. Whoever owns the store can
//! withhold the newest records of a log that nobody else has seen; they cannot alter, reorder or drop any other. The catalog has
//! seen each published head ([`Known`]), a witness those that it cosigned.

mod brief;
mod error;
mod heads;
mod known;
mod log;
mod look;
mod news;
mod opening;
mod proofs;
mod registry;
mod revocations;
mod slots;
mod tiles;
mod view;
mod witness;

use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::log::WitnessKey;

pub use brief::{Brief, Gone};
pub use error::{Kind, LedgerError};
pub use known::Known;
pub use log::Ledger;
pub use look::{Look, look, top};
pub use news::{DAMAGED, HEAD, News, Newsdesk, RECORD, SQUATTED};
pub use opening::settle;
pub use proofs::{Proof, ProofOf};
pub use registry::{LOGS_OPEN_MAX, Ledgers};
pub use view::{Entry, Head, View};

/// What a coordinator needs to keep logs.
#[derive(Debug)]
pub struct Keys {
    /// The deployment's name and root: every record is verified from here.
    pub anchor: Anchor,
    /// Signs checkpoints, receipts, seals and access records.
    pub log: SigningKey,
    /// Whose cosignatures are accepted; at most `exhibit_evidence::log::WITNESSES_MAX`.
    pub witnesses: Vec<WitnessKey>,
}

/// The most records of one log that are kept open: 1,000,000 x about 450 bytes of facts = 450 MB. A case of a thousand
/// hosts has five thousand.
pub const RECORDS_MAX: u64 = 1_000_000;
