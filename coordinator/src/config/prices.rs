//! `[prices]`: what the store's provider takes.

use serde::Deserialize;

use crate::cost::{Price, Prices};

/// What the store's provider takes. An estimate of each collection is shown from it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PricesConfig {
    /// The currency.
    pub currency: String,
    /// 1,000 requests that write or list.
    pub writes_1000: String,
    /// 1,000 requests that read or look.
    pub reads_1000: String,
    /// One GiB kept for a month.
    pub gib_month: String,
}

impl Default for PricesConfig {
    fn default() -> Self {
        let [writes_1000, reads_1000, gib_month] = ["0.005", "0.0004", "0.025"].map(str::to_owned);
        Self { currency: "USD".to_owned(), writes_1000, reads_1000, gib_month }
    }
}

impl PricesConfig {
    /// What the keys say; `locked` when each object's lock is read back.
    ///
    /// # Errors
    /// The key, and what is wrong with its value.
    pub fn prices(&self, locked: bool) -> Result<Prices, (&'static str, String)> {
        if !(1..=8).contains(&self.currency.len()) || !self.currency.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(("prices.currency", "expected 1 to 8 letters, like \"EUR\"".to_owned()));
        }
        let price = |key: &'static str, text: &str| text.parse::<Price>().map_err(|why| (key, why.to_owned()));
        Ok(Prices {
            currency: self.currency.clone(),
            writes_1000: price("prices.writes_1000", &self.writes_1000)?,
            reads_1000: price("prices.reads_1000", &self.reads_1000)?,
            gib_month: price("prices.gib_month", &self.gib_month)?,
            locked,
        })
    }
}
