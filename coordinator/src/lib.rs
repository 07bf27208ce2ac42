//! The coordinator: receives, verifies, seals, stores and shows evidence.
//!
//! `rpc` converts and calls; `intake`, `dispatch`, `seal`, `enroll` and `read` do the work; `catalog`, `store` and
//! `ledger` keep. `authz` is one table and is asked in one place.

#![forbid(unsafe_code)]

pub mod catalog;
