//! The custody log: an append-only Merkle tree over the envelopes of a case (RFC 6962 hashing), whose head is a signed
//! checkpoint (C2SP tlog-checkpoint, a C2SP signed note), kept as C2SP tlog-tiles, with C2SP proofs and cosignatures.

mod checkpoint;
mod merkle;
mod note;
mod proof;
mod tiles;
mod witness;

pub use checkpoint::{BadCheckpoint, Checkpoint};
pub use merkle::{Tree, leaf_hash};
pub use note::{BadNote, NOTE_BYTES_MAX, Note, Signature};
pub use proof::{BadProof, ConsistencyProof, InclusionProof, MissingTile, Plan, earlier_root, verify_consistency, verify_inclusion};
pub(crate) use tiles::complete_root;
pub use tiles::{BUNDLE_BYTES_MAX, Layer, TILE_BYTES, TILE_WIDTH, Tile, Tiler, bundle_entries, hash_tiles, put_in_bundle};
pub use witness::{BadWitnessKey, Cosigned, NotCosigned, WITNESSES_MAX, WitnessKey, cosign, log_verifier_key};
