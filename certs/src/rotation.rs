//! When to renew.

use exhibit_evidence::Timestamp;

/// When a certificate should be renewed: after two thirds of its life, earlier by up to a twelfth of it so that a fleet
/// that was enrolled at once does not renew at once. `jitter` is a random number from 0 to 255 that the caller keeps
/// for the life of the certificate. The result always lies between the two ends of the life.
#[must_use]
pub fn renew_at(not_before: Timestamp, not_after: Timestamp, jitter: u8) -> Timestamp {
    let (from, to) = (i128::from(not_before.unix_ns()), i128::from(not_after.unix_ns()));
    let life = (to - from).max(0);
    let early = life / 12 * i128::from(jitter) / 255;
    let at = from + life / 3 * 2 - early;
    // `at` lies between two i64 values.
    Timestamp::from_unix_ns(i64::try_from(at).unwrap_or_else(|_| not_before.unix_ns()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_renewed_after_sixteen_hours_or_up_to_two_earlier() {
        let from = Timestamp::from_unix_s(1_700_000_000);
        let to = from.plus_s(86_400);
        assert_eq!(renew_at(from, to, 0), from.plus_s(57_600));
        assert_eq!(renew_at(from, to, 255), from.plus_s(57_600 - 7_200));
        assert_eq!(renew_at(to, from, 7), to, "a reversed life is due at its start");
    }

    proptest::proptest! {
        #[test]
        fn stays_inside_the_life(a: i64, b: i64, jitter: u8) {
            let (from, to) = (Timestamp::from_unix_ns(a.min(b)), Timestamp::from_unix_ns(a.max(b)));
            let at = renew_at(from, to, jitter);
            proptest::prop_assert!(from <= at && at <= to);
        }
    }
}
