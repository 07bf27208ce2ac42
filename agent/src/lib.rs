//! The agent: takes evidence on a workload on a signed order and streams it to the coordinator.
//!
//! It obeys responders, not the coordinator; it writes nothing to the host but its own state folder; and it does all
//! of it in memory that is bounded by a formula (`exhibit-agent --explain-memory`).
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod args;
pub mod budget;
pub mod capture;
pub mod clock;
pub mod config;
pub mod custody;
pub mod enroll;
pub mod exit;
pub mod offline;
pub mod order;
pub mod pipeline;
pub mod session;
pub mod state;
pub mod upload;
