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

/// Waits until something is so, looking 600 times, 50 ms apart.
pub async fn soon(what: &str, mut is: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("not in time: {what}");
}
