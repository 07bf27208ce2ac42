//! Durations and sizes as people write and read them.

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

/// Parses `512`, `64K`, `10M`, `10MiB`, `2G`, `1T` (powers of 1,024) into bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size: write 512, 64K, 10M, 2G or 1T (powers of 1,024)");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match text[digits.len()..].trim_end_matches("iB").trim_end_matches('B') {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err(bad()),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| *n > 0).ok_or_else(bad)
}

/// Parses `key=value`.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not a label: write key=value")),
    }
}

/// `1.5 GiB`.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `2026-11-23 10:00:00`, UTC; a dash for zero.
pub fn show_time(unix_ns: i64) -> String {
    if unix_ns == 0 {
        return "-".to_owned();
    }
    let text = exhibit_evidence::Timestamp::from_unix_ns(unix_ns).to_string();
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        assert_eq!(parse_duration_s("15m"), Ok(900));
        assert_eq!(parse_bytes("10MiB"), Ok(10 << 20));
        assert_eq!(parse_bytes("2G"), Ok(2 << 30));
        for bad in ["", "m", "-1m", "1", "0s", "9999999999999999999d", "1w", "é"] {
            assert!(parse_duration_s(bad).is_err(), "{bad}");
        }
        for bad in ["", "K", "1X", "-5", "99999999T99", "é"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert!(parse_label("=x").is_err());
        assert_eq!(show_bytes(1_536), "1.5 KiB");
    }
}
