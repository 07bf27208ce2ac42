//! The coordinator: receives, verifies, seals, stores and shows evidence.
//!
//! `rpc` converts and calls; `intake`, `dispatch`, `seal`, `enroll`, `read` and `custody` do the work; `catalog`, `store` and
//! `ledger` keep. `authz` is one table and is asked in one place.

#![forbid(unsafe_code)]

pub mod attest;
pub mod audit;
pub mod authz;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod copy;
pub mod cost;
pub mod custody;
pub mod dispatch;
pub mod enroll;
mod filled;
pub mod http;
pub mod incidents;
pub mod init;
pub mod intake;
pub mod ledger;
pub mod metrics;
mod pace;
pub mod parts;
pub mod party;
pub mod problem;
pub mod progress;
pub mod read;
pub mod recover;
pub mod reindex;
pub mod replica;
mod retry;
pub mod reverify;
pub mod rpc;
pub mod seal;
pub mod serve;
mod several;
pub mod stamp;
pub mod starting;
pub mod store;
pub mod upkeep;
