//! Connections over real sockets with real certificates.

mod accepted;
mod bounds;
mod changes;
mod harness;
mod openssl;
mod refused;
