//! Sizes and captures as people write them: one grammar for the command lines of responder and agent, for the parameters
//! of an order and for an agent's policy.

use std::collections::BTreeMap;

use crate::parameters::{self, ParamKind};
use crate::profile::Profile;
use crate::record::CaptureSpec;
use crate::text::escape_bounded;

/// What [`bytes`] expects, for error messages.
pub const BYTES_EXPECTED: &str = "a number of bytes like 1048576, 64K, 10M, 2GiB or 1T (powers of 1,024; 10M and 10MiB are the same)";

/// Reads a number of bytes: digits, then nothing or `K`, `M`, `G`, `T`, each with or without `iB`. Powers of 1,024: `10M` and
/// `10MiB` are the same. `MB` is refused, because it could mean either. `None` when it is something else or above 2^64.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u32); 4] = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    let text = text.trim();
    let short = text.strip_suffix("iB").unwrap_or(text);
    let with_unit = UNITS.iter().find_map(|(unit, shift)| short.strip_suffix(unit).map(|digits| (digits.trim_end(), 1_u64 << shift)));
    // Without a unit nothing may have been cut off: `5iB` is no size.
    let (digits, factor) = with_unit.unwrap_or((text, 1));
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A number of bytes for people, to one digit: `17 B`, `1.5 KiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = None;
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1_024.0 {
            break;
        }
        value /= 1_024.0;
        unit = Some(next);
    }
    unit.map_or_else(|| format!("{bytes} B"), |unit| format!("{value:.1} {unit}"))
}

/// Reads `NAME[:KEY=VALUE,...]`. The same key several times makes a list. `\,` is a comma inside a value; every other
/// backslash stays, because patterns have escapes of their own (`\*`, `\xff`). A parameter that is true or false may be written without
/// a value: that is `true`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn capture(text: &str) -> Result<CaptureSpec, String> {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b.is_ascii_digit()) {
        return Err("a capture's name is made of a-z, 0-9 and -".to_owned());
    }
    let mut params: BTreeMap<String, String> = BTreeMap::new();
    for pair in split_at_commas(rest) {
        let (key, value) = match pair.split_once('=') {
            Some(pair) => pair,
            None if is_flag(name, &pair) => (pair.as_str(), "true"),
            None => return Err(no_value(&pair)),
        };
        if key.is_empty() || value.contains('\n') {
            return Err("a parameter needs a key, and a value of one line".to_owned());
        }
        params.entry(key.to_owned()).and_modify(|list| *list = format!("{list}\n{value}")).or_insert_with(|| value.to_owned());
    }
    Ok(CaptureSpec { name: name.to_owned(), params })
}

fn is_flag(capture: &str, name: &str) -> bool {
    parameters::of(capture).iter().any(|p| p.name == name && matches!(p.kind, ParamKind::Flag))
}

fn no_value(word: &str) -> String {
    let word = escape_bounded(word, 80);
    format!(
        "'{word}' has no value: a parameter is KEY=VALUE; only what is true or false can stand alone, as all (all=true) of process-memory"
    )
}

fn split_at_commas(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&',') => part.extend(chars.next()),
            ',' => parts.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
    }
    if !text.is_empty() {
        parts.push(part);
    }
    parts
}

/// The captures of one order: a profile's, then those given one by one. A capture stands in an order once: two lists of
/// parameters would have to be merged or one of them dropped, and either would surprise somebody.
///
/// # Errors
/// A sentence that names the capture that is there twice, where it comes from, and what to write instead.
pub fn captures(profile: Option<&Profile>, given: &[CaptureSpec]) -> Result<Vec<CaptureSpec>, String> {
    let mut specs = profile.map(Profile::captures).unwrap_or_default();
    let of_profile = specs.len();
    for spec in given {
        let name = escape_bounded(&spec.name, 40);
        match (specs.iter().position(|s| s.name == spec.name), profile) {
            (None, _) => specs.push(spec.clone()),
            (Some(at), Some(profile)) if at < of_profile => {
                return Err(format!(
                    "--capture {name} is in --profile {} already, and a capture stands in an order once: leave one of the two out, or \
                     give every capture by --capture without the profile, or order twice",
                    profile.name
                ));
            }
            (Some(_), _) => {
                return Err(format!(
                    "--capture {name} is given twice, and a capture stands in an order once: put both lists into one \
                     (--capture '{name}:KEY=VALUE,KEY=VALUE', where a key that is given again adds to its list), or order twice"
                ));
            }
        }
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_grammar_of_sizes() {
        for (text, expected) in [
            ("512", 512),
            ("64K", 64 << 10),
            ("10M", 10 << 20),
            ("10MiB", 10 << 20),
            ("2G", 2 << 30),
            ("1TiB", 1 << 40),
            (" 7 KiB ", 7 << 10),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for bad in ["", "K", "10MB", "10B", "5iB", "10m", "1X", "-5", "+5", "1.5M", "99999999T99", "99999999T", "é"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn captures_with_lists_commas_and_backslashes() {
        let spec = capture(r"files:paths=/etc/**,paths=/a\,b,max_size=10M").expect("good");
        assert_eq!((spec.params["paths"].as_str(), spec.params["max_size"].as_str()), ("/etc/**\n/a,b", "10M"));
        let spec = capture(r"files:paths=/x/bad\xff\xfe,paths=a\*b,paths=c\\d,paths=e\").expect("good");
        assert_eq!(spec.params["paths"], "/x/bad\\xff\\xfe\na\\*b\nc\\\\d\ne\\", "only a comma's backslash goes");
        assert!(capture("system").expect("good").params.is_empty());
        for bad in ["", ":x=1", "files:x", "files:=1", "Files", "files:a=b\nc"] {
            assert!(capture(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_parameter_that_is_true_or_false_can_stand_alone() {
        let spec = capture("process-memory:all,mode=atomic").expect("good");
        assert_eq!((spec.params["all"].as_str(), spec.params["mode"].as_str()), ("true", "atomic"));
        assert_eq!(capture("disk:all"), capture("disk:all=true"));
        assert_eq!(capture("process-memory:all=false").expect("good").params["all"], "false");
        for (bad, named) in [("process-memory:pid", "'pid'"), ("process-memory:al", "'al'"), ("unknown:all", "'all'"), ("files:x", "'x'")] {
            let error = capture(bad).expect_err(bad);
            assert!(error.starts_with(named) && error.contains("KEY=VALUE") && error.contains("all=true"), "{error}");
        }
    }

    #[test]
    fn a_capture_stands_in_an_order_once() {
        let triage = Profile::find("triage").expect("there");
        let given = |texts: &[&str]| texts.iter().map(|t| capture(t).expect("good")).collect::<Vec<_>>();
        let twice = captures(None, &given(&["files:paths=/etc/passwd", "files:paths=/etc/hostname"])).expect_err("twice");
        assert!(twice.contains("--capture files") && twice.contains("twice"), "{twice}");
        let both = captures(Some(&triage), &given(&["files:paths=/etc/passwd"])).expect_err("in the profile");
        assert!(both.contains("--capture files") && both.contains("--profile triage"), "{both}");
        assert_eq!(captures(None, &given(&["files", "system"])).expect("different").len(), 2);
        assert_eq!(captures(Some(&triage), &given(&["memory"])).expect("one more").len(), triage.captures.len() + 1);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_handled(text: String) {
            let _ = (bytes(&text), capture(&text));
        }
    }
}
