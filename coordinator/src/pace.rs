//! Bytes in a second, at most: what works in the background leaves room for what somebody waits for.

use std::time::Duration;

/// Waits as long as the bytes that were moved ask for.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    rate: Option<u64>,
}

impl Pace {
    /// At most so many bytes a second; `None`: as fast as it goes.
    #[must_use]
    pub const fn new(rate: Option<u64>) -> Self {
        Self { rate }
    }

    /// So many bytes were moved.
    pub async fn moved(self, bytes: u64) {
        if let Some(rate) = self.rate {
            tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)).await;
        }
    }
}
