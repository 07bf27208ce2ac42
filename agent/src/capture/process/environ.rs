//! Values of environment variables that a host's policy does not give: replaced by their length and SHA-256, so that it can be
//! said later whether a value was the one that is known, without having given it away.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use exhibit_evidence::Digest;
use globset::GlobSet;

/// Replaces the values of variables whose names match, in `/proc/<pid>/environ` as it was read. Returns the new bytes and how
/// many values were replaced. Everything else stays as it is.
#[must_use]
pub fn redact(bytes: &[u8], names: &GlobSet) -> (Vec<u8>, u64) {
    let (mut out, mut count) = (Vec::with_capacity(bytes.len()), 0_u64);
    for (n, entry) in bytes.split(|b| *b == 0).enumerate() {
        if n > 0 {
            out.push(0);
        }
        let equals = entry.iter().position(|b| *b == b'=');
        let parts = equals.and_then(|at| Some((entry.get(..at)?, entry.get(at.checked_add(1)?..)?)));
        match parts.filter(|(name, _)| names.is_match(Path::new(OsStr::from_bytes(name)))) {
            Some((name, value)) => {
                out.extend_from_slice(name);
                out.extend_from_slice(format!("=<{} bytes, SHA-256 {}>", value.len(), Digest::of(value)).as_bytes());
                count = count.saturating_add(1);
            }
            None => out.extend_from_slice(entry),
        }
    }
    (out, count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::order::Policy;

    fn names(globs: &str) -> GlobSet {
        Policy::parse(&format!("redact_environ = [{globs}]")).expect("policy").redacted_variables().expect("globs")
    }

    #[test]
    fn only_the_values_of_named_variables_go() {
        let environ = b"PATH=/bin\0API_TOKEN=abc=def\0my_secret=\0TOKENS\0\xff_SECRET_\xfe=x\0";
        let (out, count) = redact(environ, &names("\"*TOKEN*\", \"*SECRET*\""));
        let digest = |v: &[u8]| Digest::of(v).to_string();
        let expected = [
            b"PATH=/bin\0".to_vec(),
            format!("API_TOKEN=<7 bytes, SHA-256 {}>\0my_secret=<0 bytes, SHA-256 {}>\0TOKENS\0", digest(b"abc=def"), digest(b""))
                .into_bytes(),
            b"\xff_SECRET_\xfe".to_vec(),
            format!("=<1 bytes, SHA-256 {}>\0", digest(b"x")).into_bytes(),
        ]
        .concat();
        assert_eq!((String::from_utf8_lossy(&out), count), (String::from_utf8_lossy(&expected), 3));
    }

    proptest! {
        #[test]
        fn without_names_nothing_changes(bytes: Vec<u8>) {
            prop_assert_eq!(redact(&bytes, &names("")), (bytes, 0));
        }

        #[test]
        fn no_value_of_a_named_variable_remains(value in "[a-z]{20,40}", before: Vec<u8>) {
            let mut environ = before;
            environ.extend_from_slice(format!("\0X_SECRET={value}\0").as_bytes());
            let (out, count) = redact(&environ, &names("\"*secret\""));
            prop_assert!(count >= 1 && !out.windows(value.len()).any(|w| w == value.as_bytes()));
        }
    }
}
