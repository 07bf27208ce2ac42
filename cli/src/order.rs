//! Making an order: what the responder asked for becomes a signed record that agents obey.

use std::collections::{BTreeMap, BTreeSet};

use exhibit_evidence::record::{CaptureSpec, Limits, Order};

use crate::args::CollectArgs;
use crate::exit::{Code, Failure, Result};

/// Parses `NAME[:KEY=VALUE,...]`. The same key several times makes a list; `\,` is a comma and `\\` a backslash.
pub fn parse_capture(text: &str) -> Result<CaptureSpec> {
    let bad = |problem: &str| {
        Failure::new(Code::Usage, format!("--capture '{}': {problem}", exhibit_evidence::text::escape_bounded(text, 200)))
            .hint("write NAME or NAME:KEY=VALUE,KEY=VALUE, for example --capture 'files:paths=/etc/**,max_size=10M'")
    };
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b.is_ascii_digit()) {
        return Err(bad("a capture's name is made of a-z, 0-9 and -"));
    }
    let mut params: BTreeMap<String, String> = BTreeMap::new();
    for pair in split_unescaped(rest) {
        let (key, value) = pair.split_once('=').ok_or_else(|| bad("a parameter is KEY=VALUE"))?;
        if key.is_empty() || value.contains('\n') {
            return Err(bad("a parameter needs a key, and a value of one line"));
        }
        params.entry(key.to_owned()).and_modify(|list| *list = format!("{list}\n{value}")).or_insert_with(|| value.to_owned());
    }
    Ok(CaptureSpec { name: name.to_owned(), params })
}

fn split_unescaped(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = parts.len() - 1;
        match c {
            '\\' => parts[last].push(chars.next().unwrap_or('\\')),
            ',' => parts.push(String::new()),
            c => parts[last].push(c),
        }
    }
    parts
}

/// The captures of a command line: a profile's, then those given one by one. One given by name replaces the profile's.
pub fn captures(args: &CollectArgs) -> Result<Vec<CaptureSpec>> {
    let mut specs = match &args.profile {
        Some(name) => crate::commands::profiles::find(name)?.captures(),
        None => Vec::new(),
    };
    for text in &args.captures {
        let spec = parse_capture(text)?;
        match specs.iter_mut().find(|s| s.name == spec.name) {
            Some(existing) => *existing = spec,
            None => specs.push(spec),
        }
    }
    if specs.len() > Order::CAPTURES_MAX {
        return Err(Failure::new(Code::Usage, format!("{} captures: an order holds at most {}", specs.len(), Order::CAPTURES_MAX)));
    }
    Ok(specs)
}

/// The limits of a command line; what it does not say, the profile does.
pub fn limits(args: &CollectArgs) -> Result<Limits> {
    let base = match &args.profile {
        Some(name) => crate::commands::profiles::find(name)?.limits,
        None => Limits::default(),
    };
    Ok(Limits {
        deadline_s: args.deadline.or(base.deadline_s),
        raw_bytes_max: args.max_bytes.or(base.raw_bytes_max),
        cpu_percent: args.cpu_percent.or(base.cpu_percent),
        read_bytes_per_s: args.read_rate.or(base.read_bytes_per_s),
        send_bytes_per_s: args.send_rate.or(base.send_bytes_per_s),
    })
}

/// Splits targets into orders of at most [`Order::TARGETS_MAX`], each agent once.
pub fn batches<T: Ord + Clone>(targets: &[T]) -> Vec<Vec<T>> {
    let unique: BTreeSet<T> = targets.iter().cloned().collect();
    unique.into_iter().collect::<Vec<_>>().chunks(Order::TARGETS_MAX).map(<[T]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_with_lists_and_commas() {
        let spec = parse_capture(r"files:paths=/etc/**,paths=/a\,b,max_size=10M").expect("good");
        assert_eq!(spec.name, "files");
        assert_eq!(spec.params["paths"], "/etc/**\n/a,b");
        assert_eq!(spec.params["max_size"], "10M");
        assert!(parse_capture("system").expect("good").params.is_empty());
        for bad in ["", ":x=1", "files:x", "files:=1", "Files", "files:a=b\nc"] {
            assert_eq!(parse_capture(bad).expect_err(bad).code, Code::Usage, "{bad}");
        }
    }

    #[test]
    fn large_fleets_become_several_orders() {
        let targets: Vec<u32> = (0..2_500).chain(0..10).collect();
        let sizes: Vec<usize> = batches(&targets).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_handled(text: String) {
            let _ = parse_capture(&text);
        }
    }
}
