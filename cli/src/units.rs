//! Durations and sizes as people write and read them.

use std::collections::BTreeMap;

use exhibit_evidence::written;

/// Parses `90s`, `15m`, `24h`, `7d` into seconds.
pub fn parse_duration_s(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a duration: write 90s, 15m, 24h or 7d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| *n > 0).ok_or_else(bad)
}

/// Parses a size of at least one byte; [`written::bytes`] is the grammar.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    written::bytes(text).filter(|n| *n > 0).ok_or_else(|| format!("'{text}' is not a size: write {}", written::BYTES_EXPECTED))
}

fn at_least(text: &str, min: u64, why: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        rate if rate < min => Err(format!("expected at least {} a second: {why}", show_bytes(min))),
        rate => Ok(rate),
    }
}

/// Parses bytes a second that the host reads; the bound is the coordinator's.
pub fn parse_read_rate(text: &str) -> Result<u64, String> {
    at_least(text, 64 << 10, "a slower collection holds the agent up for every other order")
}

/// Parses bytes a second that the host sends; the bound is the coordinator's.
pub fn parse_send_rate(text: &str) -> Result<u64, String> {
    at_least(text, 1 << 10, "a slower upload is not waited for")
}

/// Parses how long a token works; the bounds are the coordinator's.
pub fn parse_token_life_s(text: &str) -> Result<u64, String> {
    Some(parse_duration_s(text)?).filter(|s| (60..=604_800).contains(s)).ok_or_else(|| "expected 60s to 7d".to_owned())
}

/// Parses how many agents may use a token; the bounds are the coordinator's.
pub fn parse_uses(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|n| (1..=1_000).contains(n)).ok_or_else(|| "expected 1 to 1000 agents".to_owned())
}

/// Parses an address as errors show it: `0x1f000`.
pub fn parse_address(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    number.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(|| format!("'{text}' is not an address: write 0x1f000"))
}

/// Parses `key=value`.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not a label: write key=value")),
    }
}

/// Labels by key. A key that is given twice is a mistake, not a choice.
pub fn label_map(labels: &[(String, String)]) -> crate::exit::Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (key, value) in labels {
        if let Some(other) = map.insert(key.clone(), value.clone()).filter(|other| other != value) {
            let shown = exhibit_evidence::text::escape_bounded(&format!("{key}={other} and {key}={value}"), 200);
            return Err(crate::exit::Failure::new(crate::exit::Code::Usage, format!("{shown}: a label has one value")));
        }
    }
    Ok(map)
}

/// `1 item`, `2 items`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// `1.5 GiB`.
pub fn show_bytes(bytes: u64) -> String {
    written::size(bytes)
}

/// Thousand-millionths of a currency's unit as an amount: `0.00006`.
pub fn show_price(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `2026-11-23 10:00:00`, UTC; a dash for zero.
pub fn show_time(unix_ns: i64) -> String {
    if unix_ns == 0 {
        return "-".to_owned();
    }
    let text = exhibit_evidence::Timestamp::from_unix_ns(unix_ns).to_string();
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

/// A reason of a person: something in it, at most 1,024 bytes.
pub fn parse_reason(text: &str) -> Result<String, String> {
    let most = exhibit_evidence::record::REASON_BYTES_MAX;
    if text.len() > most {
        return Err(format!("a reason of {} bytes: say in 1 to {most} why; it is recorded", text.len()));
    }
    if text.trim().is_empty() {
        let what = if text.is_empty() { "no reason" } else { "only white space" };
        return Err(format!("{what}: say in 1 to {most} bytes why; it is recorded"));
    }
    Ok(text.to_owned())
}

/// A day (its beginning, UTC), or a whole time as records write it.
pub fn parse_until(text: &str) -> Result<exhibit_evidence::Timestamp, String> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00.000000000Z") } else { text.to_owned() };
    whole.parse().map_err(|_| format!("'{}': expected YYYY-MM-DD, e.g. 2031-12-31", exhibit_evidence::text::escape_bounded(text, 40)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_no_reason() {
        assert_eq!(parse_reason("court order 7"), Ok("court order 7".to_owned()));
        let long = "x".repeat(1_025);
        for (text, said) in [("", "no reason: say"), (" \t", "only white space: say"), (long.as_str(), "a reason of 1025 bytes: say")] {
            let why = parse_reason(text).expect_err("no reason");
            assert!(why.starts_with(said), "{why}");
        }
    }

    #[test]
    fn addresses_are_hexadecimal() {
        assert_eq!(parse_address("0x1f000"), Ok(0x1f000));
        for bad in ["1f000", "4096", "0x", "0x+1", "0xg", "0x10000000000000000", ""] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_people_write() {
        assert_eq!(parse_duration_s("15m"), Ok(900));
        assert_eq!(parse_bytes("10MiB"), Ok(10 << 20));
        assert_eq!(parse_bytes("2G"), Ok(2 << 30));
        for bad in ["", "m", "-1m", "1", "0s", "9999999999999999999d", "1w", "é"] {
            assert!(parse_duration_s(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", "K", "1X", "10MB", "-5", "99999999T99", "é"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert!(parse_label("=x").is_err());
        for (text, good) in [("1", false), ("63K", false), ("64K", true), ("10M", true)] {
            assert_eq!(parse_read_rate(text).is_ok(), good, "{text}");
        }
        assert!(parse_send_rate("1023").is_err() && parse_send_rate("1K").is_ok());
        assert!(parse_token_life_s("59s").is_err() && parse_token_life_s("8d").is_err() && parse_token_life_s("7d").is_ok());
        assert!(parse_uses("0").is_err() && parse_uses("1001").is_err() && parse_uses("1000").is_ok());
        let label = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert!(label_map(&[label("a", "1"), label("a", "2")]).is_err());
        assert_eq!(label_map(&[label("a", "1"), label("a", "1"), label("b", "2")]).expect("good").len(), 2);
        assert_eq!((count(1, "item", "items"), count(0, "item", "items")), ("1 item".to_owned(), "0 items".to_owned()));
        assert_eq!(show_bytes(1_536), "1.5 KiB");
    }
}
