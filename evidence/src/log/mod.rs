//! The custody log: an append-only Merkle tree over the envelopes of a case (RFC 6962 hashing), whose head is a signed
//! checkpoint (C2SP tlog-checkpoint, a C2SP signed note).

mod checkpoint;
mod merkle;

pub use checkpoint::{BadCheckpoint, Checkpoint};
pub use merkle::Tree;
