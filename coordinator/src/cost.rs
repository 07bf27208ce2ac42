//! What a collection costs its owner in a bucket, at the prices that the operator wrote down.
//!
//! It is **derived** from what lies in the store, by the rule below, and not counted call by call: so it is the same after a crash, on
//! every coordinator and after `reindex`, and the least that the collection cost. A test compares the rule with what an S3 server was
//! really asked by one coordinator. Not in it: what other coordinators read of the logs that grew, what was repeated because the store failed, the order's and the case's own records, enrolments and revocations that are copied
//! into a case's log and what is read of the deployment's log for them, timestamps, later reads, attestation, and what a copy in a second
//! store costs.

use std::fmt;
use std::str::FromStr;

use crate::catalog::StreamRow;
use crate::store::PAGE_ENTRIES_MAX;

/// Writes per addition to a log besides its records: the last tile and the checkpoint. Every 256th record fills a tile and makes
/// two or three more.
const PER_ADDITION: u64 = 2;

/// An amount of money in thousand-millionths of the currency's unit: a request costs less than a millionth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Price(u64);

impl Price {
    /// From thousand-millionths.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// In thousand-millionths.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// This for `count` of `per`; at most what the type holds.
    fn of(self, count: u64, per: u64) -> u64 {
        let all = u128::from(self.0).saturating_mul(u128::from(count)) / u128::from(per.max(1));
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

impl FromStr for Price {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected an amount like \"0.005\", with at most 9 digits before and after the point";
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(part) {
            return Err(EXPECTED);
        }
        let whole: u64 = whole.parse().map_err(|_| EXPECTED)?;
        let part: u64 = format!("{part:0<9}").parse().map_err(|_| EXPECTED)?;
        Ok(Self(whole.saturating_mul(1_000_000_000).saturating_add(part)))
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// What a provider takes. The defaults are examples of the size of such prices, not a claim about any provider's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    /// The currency, as people write it.
    pub currency: String,
    /// 1,000 requests that write or list.
    pub writes_1000: Price,
    /// 1,000 requests that read or look.
    pub reads_1000: Price,
    /// One GiB kept for a month.
    pub gib_month: Price,
    /// The store keeps and locks versions: each new object's lock is read back, and the versions under the name of a record are listed
    /// before it is written. One more request each.
    pub locked: bool,
}

/// Requests and bytes of one collection, and what they cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Requests that write objects.
    pub puts: u64,
    /// Requests that list them.
    pub lists: u64,
    /// Requests that read or look.
    pub reads: u64,
    /// Bytes that lie in the store: segments and manifests.
    pub bytes: u64,
    /// All requests, once, in thousand-millionths.
    pub requests_nanos: u64,
    /// The bytes, each month, in thousand-millionths.
    pub month_nanos: u64,
}

/// The cost of a collection with these streams. Each stream: its segments and its manifest, a listing that compares them,
/// acquisition and receipt in one addition to the log, and the receipt read for the agent that finished it. Then a listing for
/// streams that nobody knows of, and the seal in an addition of its own, and read back.
#[must_use]
pub fn of(streams: &[StreamRow], prices: &Prices) -> Cost {
    // The seal and what publishes it.
    let mut cost = Cost { puts: 1 + PER_ADDITION, lists: 1, reads: 1, ..Cost::default() };
    let (mut additions, mut records) = (1_u64, 1_u64);
    for stream in streams {
        let Some(manifest) = &stream.manifest else { continue };
        let objects = u64::from(manifest.segments).saturating_add(1);
        let signed = u64::from(stream.acquisition.is_some());
        cost.puts = cost.puts.saturating_add(objects).saturating_add(1 + signed + PER_ADDITION);
        cost.reads += signed;
        cost.lists = cost.lists.saturating_add(objects.div_ceil(PAGE_ENTRIES_MAX as u64));
        cost.bytes = cost.bytes.saturating_add(manifest.stored_bytes).saturating_add(manifest.size);
        additions += 1;
        records = records.saturating_add(1 + signed);
    }
    if prices.locked {
        // Checkpoints are replaced, and not read back one by one.
        cost.reads = cost.reads.saturating_add(cost.puts).saturating_sub(additions);
        // A name is free when no version lies under it: a page of them for each record, which is asked for as a listing.
        cost.lists = cost.lists.saturating_add(records);
    }
    let writes = prices.writes_1000.of(cost.puts.saturating_add(cost.lists), 1_000);
    cost.requests_nanos = writes.saturating_add(prices.reads_1000.of(cost.reads, 1_000));
    cost.month_nanos = prices.gib_month.of(cost.bytes, 1 << 30);
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (text, nanos) in [("0.005", 5_000_000), ("0.0004", 400_000), ("1", 1_000_000_000), ("0", 0), ("12.000000001", 12_000_000_001)] {
            assert_eq!(text.parse(), Ok(Price(nanos)), "{text}");
            assert_eq!(Price(nanos).to_string(), text);
        }
        for bad in ["", ".", ".5", "1.", "-1", "1e3", "0.0000000001", "1,5", " 1", "9999999999"] {
            assert!(bad.parse::<Price>().is_err(), "{bad}");
        }
        assert_eq!((Price(5_000_000).of(3, 1_000), Price(u64::MAX).of(u64::MAX, 1)), (15_000, u64::MAX));
    }
}
