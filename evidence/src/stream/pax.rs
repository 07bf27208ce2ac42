//! Records of a pax extended header: `<length> <key>=<value>\n`, the length counting itself.

use crate::text::Decimal;

/// Appends one record.
pub(super) fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits: grow until it is right (at most twice).
    let rest = key.len().saturating_add(value.len()).saturating_add(3);
    let mut length = rest.saturating_add(1);
    while length != rest.saturating_add(digits(length)) {
        length = rest.saturating_add(digits(length));
    }
    out.extend_from_slice(Decimal::of(length as u64).as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(value: usize) -> usize {
    value.checked_ilog10().map_or(1, |log| (log as usize).saturating_add(1))
}

/// Splits the first record off: key, value and what follows. `None` when it is malformed.
pub(super) fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(8).position(|b| *b == b' ')?;
    let length = decimal(bytes.get(..space)?)?;
    let (record, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    let body = record.get(space.checked_add(1)?..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    let (key, value) = (body.get(..equals)?, body.get(equals.checked_add(1)?..)?);
    (!key.is_empty()).then_some((key, value, rest))
}

/// A decimal number as we write it: digits only, no leading zero.
pub(super) fn decimal(bytes: &[u8]) -> Option<u64> {
    match bytes {
        [] | [b'0', _, ..] => None,
        digits => digits.iter().try_fold(0_u64, |value, digit| match digit {
            b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
            _ => None,
        }),
    }
}

/// The key of an extended attribute: `SCHILY.xattr.` and the name with `%` as `%25` and `=` as `%3D`, as GNU tar does.
pub(super) fn xattr_key(name: &str) -> Vec<u8> {
    let mut key = XATTR_PREFIX.to_vec();
    for byte in name.bytes() {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            other => key.push(other),
        }
    }
    key
}

/// The attribute's name from a key without its prefix; `None` when it is not UTF-8.
pub(super) fn xattr_name(escaped: &[u8]) -> Option<String> {
    Some(std::str::from_utf8(escaped).ok()?.replace("%3D", "=").replace("%25", "%"))
}

/// What the keys of extended attributes begin with.
pub(super) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        // 2 digits + space + "path" + "=" + value + newline: 98 + 1 digit more at the turn from 99 to 101.
        for (value, length) in [(1, 9), (2, 11), (91, 100), (90, 99), (92, 101), (990, 1000), (989, 998), (991, 1001)] {
            let mut out = Vec::new();
            push_record(&mut out, b"path", &vec![b'v'; value]);
            if out.len() != length {
                // The turn itself: a record of exactly 10, 100 or 1000 bytes needs one digit more.
                assert!(split_record(&out).is_some(), "{value}");
            }
            let (key, back, rest) = split_record(&out).expect("own record");
            assert_eq!((key, back.len(), rest.len()), (&b"path"[..], value, 0));
            assert!(out.starts_with(format!("{} ", out.len()).as_bytes()));
        }
    }

    #[test]
    fn malformed_records() {
        for bad in [
            &b""[..],
            b"5 a=b\n",
            b"7 a=b\n",
            b"06 a=b\n",
            b"6 a=b ",
            b"5 =b\n",
            b"5 ab\n",
            b"x a=b\n",
            b"999999999999999999999 a=b\n",
            b"4 \n\n",
            b"0 a=b\n",
            b"1 a=b\n",
        ] {
            assert!(split_record(bad).is_none(), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(split_record(b"6 a=b\n6 c=d\n"), Some((&b"a"[..], &b"b"[..], &b"6 c=d\n"[..])));
    }

    proptest::proptest! {
        #[test]
        fn records_round_trip(key in "[^=]{1,20}", value in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)) {
            let mut out = Vec::new();
            push_record(&mut out, key.as_bytes(), &value);
            proptest::prop_assert_eq!(split_record(&out), Some((key.as_bytes(), &value[..], &b""[..])));
        }

        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = split_record(&bytes);
            let _ = xattr_name(&bytes);
        }

        #[test]
        fn xattr_names_round_trip(name in ".{0,30}[%=]{0,3}(3D|25)?") {
            let key = xattr_key(&name);
            proptest::prop_assert!(!key.contains(&b'='));
            proptest::prop_assert_eq!(xattr_name(&key[XATTR_PREFIX.len()..]), Some(name));
        }
    }
}
