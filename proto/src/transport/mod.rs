//! Connections between the parties: the only place that knows how gRPC is carried. Every type of the gRPC library that
//! concerns connections stays behind [`client`] and [`server`], because the library has a successor.
//!
//! TLS configurations come in from outside; what is decided here is how a connection begins, how long it may take, how
//! many there may be, and how it ends.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod server;

/// Metadata of a status "unavailable" that does not pass by itself: a store that is full, or that refuses the coordinator. Who asks by
/// program may repeat the call all the same; to a person the message says what helps.
pub const NEEDS_A_PERSON: &str = "exhibit-needs-a-person";
/// ALPN protocol of connections that carry every service but enrolment.
pub const ALPN_MAIN: &[u8] = b"h2";
/// ALPN protocol of connections that carry enrolment only and have no client certificate.
pub const ALPN_ENROLL: &[u8] = b"exhibit-enroll/1";
