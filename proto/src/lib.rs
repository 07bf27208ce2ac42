//! What the parties say to each other: the generated messages, the protocol version, the bounds of every message, and
//! the conversions between wire and domain.
//!
//! Generated code is checked in under `src/gen`; `tests/generated.rs` makes it anew from `exhibit/` and fails on any
//! difference (set `EXHIBIT_REGENERATE=1` to write it).

pub mod bounds;
pub mod convert;
#[cfg(any(feature = "client", feature = "server"))]
pub mod transport;
pub mod version;

/// Generated from `exhibit/agent/v1/agent.proto`.
pub mod agent {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction, reason = "generated")]
    pub mod v1 {
        include!("gen/exhibit.agent.v1.rs");
    }
}

/// Generated from `exhibit/log/v1/log.proto`.
pub mod log {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction, reason = "generated")]
    pub mod v1 {
        include!("gen/exhibit.log.v1.rs");
    }
}

/// Generated from `exhibit/responder/v1/responder.proto`.
pub mod responder {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction, reason = "generated")]
    pub mod v1 {
        include!("gen/exhibit.responder.v1.rs");
    }
}

/// The serialised descriptors of every file, for tests over all methods and for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");
