//! Limits per address, in bounded tables.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Whose limit it is: an IPv4 address, or the /64 network of an IPv6 address (one customer has at least that many).
pub(super) fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Token buckets by origin. Moments are durations since any fixed start.
#[derive(Debug)]
pub(super) struct Buckets {
    burst: u32,
    refill: Duration,
    origins_max: usize,
    table: HashMap<IpAddr, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: u32,
    /// When the last token was added.
    at: Duration,
}

impl Buckets {
    /// `burst` at once, then one per `refill`; at most `origins_max` origins are remembered.
    pub(super) fn new(burst: u32, refill: Duration, origins_max: usize) -> Self {
        Self { burst, refill: refill.max(Duration::from_millis(1)), origins_max, table: HashMap::new() }
    }

    /// Takes a token; false when there is none.
    pub(super) fn take(&mut self, ip: IpAddr, now: Duration) -> bool {
        let ip = origin(ip);
        if !self.table.contains_key(&ip) && self.table.len() >= self.origins_max && !self.make_room(now) {
            return false;
        }
        let (burst, refill) = (self.burst, self.refill);
        let bucket = self.table.entry(ip).or_insert(Bucket { tokens: burst, at: now });
        bucket.add(burst, refill, now);
        let taken = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        taken
    }

    /// Forgets origins whose bucket is full again. When a flood from many origins keeps all of them busy, newcomers
    /// are refused: that is the limit doing its work.
    fn make_room(&mut self, now: Duration) -> bool {
        let (burst, refill) = (self.burst, self.refill);
        self.table.retain(|_, bucket| {
            bucket.add(burst, refill, now);
            bucket.tokens < burst
        });
        self.table.len() < self.origins_max
    }
}

impl Bucket {
    fn add(&mut self, burst: u32, refill: Duration, now: Duration) {
        let passed = now.saturating_sub(self.at);
        let new = u32::try_from(passed.as_millis() / refill.as_millis().max(1)).unwrap_or(u32::MAX);
        self.at = if self.tokens.saturating_add(new) >= burst { now } else { self.at.saturating_add(refill.saturating_mul(new)) };
        self.tokens = self.tokens.saturating_add(new).min(burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_then_one_per_interval() {
        let mut buckets = Buckets::new(3, 10 * S, 100);
        let ip = "192.0.2.1".parse().expect("ip");
        let taken: Vec<bool> = (0..5).map(|_| buckets.take(ip, S)).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert!(!buckets.take(ip, 10 * S));
        assert!(buckets.take(ip, 11 * S));
        assert!(!buckets.take(ip, 12 * S));
        assert!(buckets.take("192.0.2.2".parse().expect("ip"), 12 * S), "another address has its own bucket");
    }

    #[test]
    fn one_network_is_one_origin() {
        let mut buckets = Buckets::new(1, S, 100);
        assert!(buckets.take("2001:db8::1".parse().expect("ip"), S));
        assert!(!buckets.take("2001:db8::ffff".parse().expect("ip"), S));
        assert!(buckets.take("::ffff:192.0.2.1".parse().expect("ip"), S));
        assert!(!buckets.take("192.0.2.1".parse().expect("ip"), S), "a mapped address is the same");
    }

    #[test]
    fn the_table_is_bounded_and_recovers() {
        let mut buckets = Buckets::new(2, S, 10);
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        for n in 0..10 {
            assert!(buckets.take(ip(n), S));
        }
        assert!(!buckets.take(ip(10), S));
        assert_eq!(buckets.table.len(), 10);
        assert!(buckets.take(ip(10), 3 * S), "full buckets are forgotten");
    }
}
