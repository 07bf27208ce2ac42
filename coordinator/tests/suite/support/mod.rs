//! What several tests need.

pub mod agent;
#[allow(dead_code, reason = "the end-to-end scenarios use all of it")]
#[path = "../../../../tests/harness/authority.rs"]
pub mod authority;
pub mod clouds;
pub mod deployment;
#[allow(dead_code, reason = "the fault suite uses all of it")]
pub mod moto;
pub mod second;
pub mod verdict;
pub mod world;

pub use moto::settings as s3_settings;
