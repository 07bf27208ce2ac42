//! The agent against a coordinator that is only played: real sockets, real certificates, and faults on demand.

mod enrolling;
mod fake;
mod idle;
mod orders;
mod resume;
mod world;
