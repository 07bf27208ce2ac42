//! What a court must trust: identifiers, digests, the segment format, the manifest, signed records, the case log and
//! their verification.
//!
//! This crate is pure. It opens no socket and no file, reads no clock, draws no random number and knows no wire
//! format: bytes, keys and `now` come in as arguments. The offline court tool and the coordinator run this same code.
//! The normative text of every format here is in `docs/format/`.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

// Sizes of evidence are 64-bit numbers that also index memory; a 32-bit build would cut them silently.
const _: () = assert!(usize::BITS == 64, "Exhibit supports 64-bit targets only");

pub mod age;
pub mod anchor;
pub mod bag;
pub mod custody;
pub mod digest;
pub mod dsse;
pub mod id;
mod json;
pub mod key;
pub mod layout;
pub mod log;
pub mod manifest;
pub mod parameters;
mod parsed;
pub mod path;
pub mod profile;
pub mod record;
pub mod stream;
pub mod text;
pub mod time;
pub mod timestamp;
pub mod verify;
pub mod written;

pub use digest::{Digest, Hasher};
pub use id::{AgentId, CaseId, CollectionId, OrderId};
pub use path::EvidencePath;
pub use time::Timestamp;
