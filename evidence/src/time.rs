//! Times. The evidence core never reads a clock; it formats and compares what it is given.

use std::fmt;
use std::str::FromStr;

use crate::text::{Decimal, digits};

/// A point in UTC, nanoseconds since 1970, of a clock that is named where the value is used.
/// Text form: RFC 3339 with nine fractional digits and `Z`, e.g. `2026-11-23T10:00:00.000000000Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Why a text is not a timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a time: expected RFC 3339 in UTC, like 2026-11-23T10:00:00.000000000Z")]
pub struct BadTimestamp(String);

const NANOS: i64 = 1_000_000_000;

/// Days since 1970-01-01 to (year, month, day), proleptic Gregorian.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // H. Hinnant, "chrono-Compatible Low-Level Date Algorithms": eras of 400 years that begin on 1 March.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = year - i64::from(month <= 2);
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = (month + 9) % 12;
    let doy = (153 * mp + 2) / 5 + day - 1;
    era * 146_097 + (yoe * 365 + yoe / 4 - yoe / 100 + doy) - 719_468
}

impl Timestamp {
    /// From nanoseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_unix_ns(ns: i64) -> Self {
        Self(ns)
    }

    /// From seconds since 1970, saturating at the ends of the range (years 1677 and 2262).
    #[must_use]
    pub const fn from_unix_s(s: i64) -> Self {
        Self(s.saturating_mul(NANOS))
    }

    /// Nanoseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn unix_ns(self) -> i64 {
        self.0
    }

    /// Milliseconds since 1970, zero before.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        if self.0 < 0 { 0 } else { (self.0 / 1_000_000) as u64 }
    }

    /// This time plus seconds, saturating.
    #[must_use]
    pub const fn plus_s(self, s: i64) -> Self {
        Self(self.0.saturating_add(s.saturating_mul(NANOS)))
    }
}

/// A number in decimal digits, with leading zeros or without; no digits at all are zero.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

impl Timestamp {
    /// The text form: always 30 bytes, because the years that 64 bits of nanoseconds reach have four digits.
    fn text(self) -> [u8; 30] {
        let (s, ns) = (self.0.div_euclid(NANOS), self.0.rem_euclid(NANOS));
        let (year, month, day) = civil_from_days(s.div_euclid(86_400));
        let tod = s.rem_euclid(86_400);
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        let fields =
            [(0..4, year), (5..7, month), (8..10, day), (11..13, tod / 3600), (14..16, tod / 60 % 60), (17..19, tod % 60), (20..29, ns)];
        for (range, number) in fields {
            digits(text.get_mut(range).unwrap_or_default(), number as u64);
        }
        text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = BadTimestamp;
    fn from_str(text: &str) -> Result<Self, BadTimestamp> {
        let bad = || BadTimestamp(crate::text::escape_bounded(text, 60));
        let number =
            |range: std::ops::Range<usize>| text.as_bytes().get(range).and_then(number).and_then(|n| i64::try_from(n).ok()).ok_or_else(bad);
        if text.len() != 30 {
            return Err(bad());
        }
        let days = days_from_civil(number(0..4)?, number(5..7)?, number(8..10)?);
        let s = days * 86_400 + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
        let ns = s.checked_mul(NANOS).and_then(|t| t.checked_add(number(20..29).ok()?)).ok_or_else(bad)?;
        // One text per time: what does not print back the same (a 31 February, a second 60, another separator) is refused.
        let value = Self(ns);
        if value.text() == text.as_bytes() { Ok(value) } else { Err(bad()) }
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::parsed::parsed(d)
    }
}

/// A file's time as the kernel gave it: seconds (any sign and size) and nanoseconds since 1970.
/// Text form as in pax headers: `1764000000.123456789`; before 1970 the seconds are negative and the nanoseconds still
/// count forward, written as the decimal value, e.g. `-0.5` is second -1 and 500,000,000 ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Whole seconds, rounded towards minus infinity.
    pub s: i64,
    /// Nanoseconds after `s`, below 1,000,000,000.
    pub ns: u32,
}

/// The text form of a [`FileTime`]: a sign, 19 digits, a point and nine digits at most.
pub(crate) struct FileTimeText {
    bytes: [u8; 32],
    len: usize,
}

impl FileTimeText {
    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }

    fn push(&mut self, more: &[u8]) {
        let end = self.len.saturating_add(more.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(more);
            self.len = end;
        }
    }
}

impl FileTime {
    /// True when the text form reads back as this time.
    pub(crate) const fn has_text(self) -> bool {
        // Of a whole second, the text is a sign and a number that must fit 64 bits.
        self.ns < 1_000_000_000 && !(self.s == i64::MIN && self.ns == 0)
    }

    pub(crate) fn text(self) -> FileTimeText {
        let (whole, fraction) = match (self.s, self.ns) {
            (s, ns) if s >= 0 || ns == 0 => (s.unsigned_abs(), ns),
            // -1 s + 0.25 s is written -0.75.
            (s, ns) => ((s + 1).unsigned_abs(), 1_000_000_000_u32.saturating_sub(ns)),
        };
        let mut text = FileTimeText { bytes: [0; 32], len: 0 };
        if self.s < 0 {
            text.push(b"-");
        }
        text.push(Decimal::of(whole).as_bytes());
        let mut part = *b".000000000";
        digits(part.get_mut(1..).unwrap_or_default(), u64::from(fraction));
        text.push(&part);
        text
    }
}

impl fmt::Display for FileTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl FromStr for FileTime {
    type Err = BadTimestamp;
    fn from_str(text: &str) -> Result<Self, BadTimestamp> {
        let bad = || BadTimestamp(crate::text::escape_bounded(text, 60));
        let bytes = text.as_bytes();
        let (negative, bytes) = bytes.strip_prefix(b"-").map_or((false, bytes), |rest| (true, rest));
        let point = bytes.iter().position(|b| *b == b'.').unwrap_or(bytes.len());
        let (whole, fraction) = bytes.split_at_checked(point).ok_or_else(bad)?;
        let fraction = fraction.strip_prefix(b".").unwrap_or_default();
        if whole.is_empty() || fraction.len() > 9 {
            return Err(bad());
        }
        let whole = number(whole).and_then(|n| i64::try_from(n).ok()).ok_or_else(bad)?;
        let ns = number(fraction).ok_or_else(bad)? as u32 * 10_u32.pow(9 - fraction.len() as u32);
        Ok(match (negative, ns) {
            (false, _) => Self { s: whole, ns },
            (true, 0) => Self { s: -whole, ns: 0 },
            (true, _) => Self { s: -whole - 1, ns: 1_000_000_000 - ns },
        })
    }
}

impl serde::Serialize for FileTime {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.text().as_str())
    }
}

impl<'de> serde::Deserialize<'de> for FileTime {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::parsed::parsed(d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        assert_eq!(Timestamp::from_unix_s(0).to_string(), "1970-01-01T00:00:00.000000000Z");
        // `date -u -d @1709210096 -Is` (a leap day)
        assert_eq!(Timestamp::from_unix_s(1_709_210_096).to_string(), "2024-02-29T12:34:56.000000000Z");
        assert_eq!(Timestamp::from_unix_ns(-1).to_string(), "1969-12-31T23:59:59.999999999Z");
        for bad in [
            "2026-02-30T00:00:00.000000000Z",
            "2026-02-03 00:00:00.000000000Z",
            "2026-02-03T00:00:60.000000000Z",
            "2026-02-03T00:00:00.00000000+Z",
            "",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn text_round_trips(ns: i64) {
            let t = Timestamp::from_unix_ns(ns);
            proptest::prop_assert_eq!(t.to_string().parse::<Timestamp>(), Ok(t));
            let (s, part) = (t.unix_ns().div_euclid(NANOS), t.unix_ns().rem_euclid(NANOS));
            let (y, m, d) = civil_from_days(s.div_euclid(86_400));
            let tod = s.rem_euclid(86_400);
            let text = format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}.{part:09}Z", tod / 3600, tod / 60 % 60, tod % 60);
            proptest::prop_assert_eq!(t.to_string(), text);
        }

        #[test]
        fn file_time_is_what_the_standard_library_would_write(s: i64, ns in 0_u32..1_000_000_000, whole: bool) {
            let ns = if whole { 0 } else { ns };
            let expected = if s >= 0 || ns == 0 {
                format!("{s}.{ns:09}")
            } else {
                format!("-{}.{:09}", (s + 1).unsigned_abs(), 1_000_000_000 - ns)
            };
            proptest::prop_assert_eq!(FileTime { s, ns }.to_string(), expected);
        }

        #[test]
        fn file_time_round_trips(s in -(1_i64 << 60)..(1_i64 << 60), ns in 0_u32..1_000_000_000) {
            let t = FileTime { s, ns };
            proptest::prop_assert_eq!(t.to_string().parse::<FileTime>(), Ok(t));
        }

        #[test]
        fn a_file_time_has_a_text_when_it_reads_back(s: i64, ns: u32, seconds in 0..4, parts in 0..4) {
            let t = FileTime {
                s: match seconds { 0 => i64::MIN, 1 => i64::MIN + 1, 2 => i64::MAX, _ => s },
                ns: match parts { 0 => 0, 1 => 999_999_999, 2 => 1_000_000_000, _ => ns },
            };
            proptest::prop_assert_eq!(t.has_text(), t.to_string().parse::<FileTime>() == Ok(t));
        }

        #[test]
        fn any_text_is_handled(text: String) {
            let _ = text.parse::<Timestamp>();
            let _ = text.parse::<FileTime>();
        }
    }
}
