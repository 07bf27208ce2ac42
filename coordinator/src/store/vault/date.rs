//! Dates as HTTP writes them (RFC 9110, 5.6.7), which is how Azure wants and gives the end of a retention.

use exhibit_evidence::Timestamp;

use super::super::lock::{parse_time, seconds_text};

/// 1970-01-01 was a Thursday.
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY_NS: i64 = 86_400 * 1_000_000_000;

/// The date, in whole seconds.
pub(super) fn text(t: Timestamp) -> String {
    let digits = seconds_text(t);
    let part = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default();
    let weekday = DAYS.get(t.unix_ns().div_euclid(DAY_NS).rem_euclid(7) as usize).unwrap_or(&"");
    let month: usize = part(5..7).parse().unwrap_or(1);
    let month = MONTHS.get(month.saturating_sub(1)).unwrap_or(&"");
    format!("{weekday}, {} {month} {} {} GMT", part(8..10), part(0..4), part(11..19))
}

/// A date of the store; its weekday is not looked at.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let parts: Vec<&str> = text.split(' ').collect();
    let [_, day, month, year, time, "GMT"] = parts.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| name == month)?.saturating_add(1);
    // Every other length is refused here, every other content there.
    (day.len() == 2 && year.len() == 4 && time.len() == 8).then(|| parse_time(&format!("{year}-{month:02}-{day}T{time}Z")))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_and_read() {
        for (s, written) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT"),
        ] {
            let t = Timestamp::from_unix_s(s);
            assert_eq!((text(t).as_str(), parse(written)), (written, Some(t)));
        }
        for bad in ["", "GMT", "Sun, 06 Nov 1994 08:49:37 UTC", "Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 31 Feb 2024 00:00:00 GMT"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("Sunday, 06-Nov-94 08:49:37 GMT"), None);
        assert_eq!(parse("Sun, ää Nov 1994 08:49:37 GMT"), None);
    }

    proptest::proptest! {
        #[test]
        fn every_second_comes_back_and_a_date_has_one_text(
            s in -9_000_000_000_i64..9_000_000_000,
            near in "[A-Z][a-z]{2}, [0-3][0-9] (Jan|Feb|Dec) [0-9]{4} [0-2][0-9]:[0-9]{2}:[0-9]{2} GMT",
            any in ".{0,40}",
        ) {
            let t = Timestamp::from_unix_s(s);
            proptest::prop_assert_eq!((parse(&text(t)), parse_time(&seconds_text(t))), (Some(t), Some(t)));
            let _ = parse_time(&any);
            let after_weekday = |date: &str| date.split_once(' ').map(|(_, rest)| rest.to_owned());
            for given in [near, any] {
                if let Some(t) = parse(&given) {
                    proptest::prop_assert_eq!(after_weekday(&text(t)), after_weekday(&given));
                }
            }
        }
    }
}
