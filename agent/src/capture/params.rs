//! Parameters of a capture: text by name in the order, checked against the capture's table before anything runs.

use std::collections::BTreeMap;

use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::written;

/// One parameter that a capture understands.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    /// Its name in orders: `[a-z0-9_]`.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: ParamKind,
    /// One sentence for people, with the default.
    pub help: &'static str,
}

/// What the value of a parameter looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// Any text of one line.
    Text,
    /// One entry per line; empty lines are ignored.
    List,
    /// A whole number.
    Number,
    /// Bytes, as [`written::bytes`] reads them.
    Bytes,
    /// A time span: a whole number of seconds, optionally with `s`, `m`, `h` or `d`.
    Seconds,
    /// `true` or `false`.
    Flag,
}

/// A parameter that an order may not give, or whose value is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("capture '{capture}', parameter '{name}': {problem}")]
pub struct BadParam {
    capture: String,
    name: String,
    problem: String,
}

/// The parameters of one capture in one order.
#[derive(Debug, Clone, Default)]
pub struct Params {
    capture: String,
    values: BTreeMap<String, String>,
}

/// Most bytes of one value: lists of globs are the longest. A whole order is at most 64 KiB anyway.
const VALUE_BYTES_MAX: usize = 48 << 10;

impl Params {
    /// Takes parameters as an order gives them; [`Params::check`] decides whether they are any good.
    #[must_use]
    pub fn new(capture: &str, values: BTreeMap<String, String>) -> Self {
        Self { capture: capture.to_owned(), values }
    }

    /// Checks every parameter against the capture's table.
    ///
    /// # Errors
    /// The first [`BadParam`].
    pub fn check(&self, known: &[Param]) -> Result<(), BadParam> {
        for (name, value) in &self.values {
            let Some(param) = known.iter().find(|p| p.name == name) else {
                let names: Vec<&str> = known.iter().map(|p| p.name).collect();
                let remedy = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
                return Err(self.bad(name, format!("this capture has no such parameter; {remedy}")));
            };
            if value.len() > VALUE_BYTES_MAX {
                return Err(self.bad(name, format!("{} bytes: at most {VALUE_BYTES_MAX} are allowed", value.len())));
            }
            match param.kind {
                ParamKind::Text if value.contains('\n') => return Err(self.bad(name, "one line is expected")),
                ParamKind::Text | ParamKind::List => {}
                ParamKind::Number => drop(self.number(name)?),
                ParamKind::Bytes => drop(self.bytes(name)?),
                ParamKind::Seconds => drop(self.seconds(name)?),
                ParamKind::Flag => drop(self.flag(name, false)?),
            }
        }
        Ok(())
    }

    /// A text, if given.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The entries of a list; `None` when the parameter is not given, so that a default can be told from an empty list.
    #[must_use]
    pub fn list(&self, name: &str) -> Option<Vec<&str>> {
        Some(self.values.get(name)?.lines().map(str::trim).filter(|l| !l.is_empty()).collect())
    }

    /// A whole number, if given.
    ///
    /// # Errors
    /// [`BadParam`]
    pub fn number(&self, name: &str) -> Result<Option<u64>, BadParam> {
        self.amount(name, |text| scaled(text, &[]), "a whole number")
    }

    /// A number of bytes, if given.
    ///
    /// # Errors
    /// [`BadParam`]
    pub fn bytes(&self, name: &str) -> Result<Option<u64>, BadParam> {
        self.amount(name, units::bytes, written::BYTES_EXPECTED)
    }

    /// A time span in seconds, if given.
    ///
    /// # Errors
    /// [`BadParam`]
    pub fn seconds(&self, name: &str) -> Result<Option<u64>, BadParam> {
        self.amount(name, units::seconds, "a time span like 90, 90s, 15m, 6h or 30d")
    }

    /// A flag, or `default` when it is not given.
    ///
    /// # Errors
    /// [`BadParam`]
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, BadParam> {
        match self.text(name).map(str::trim) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(self.expected(name, "true or false")),
        }
    }

    fn amount(&self, name: &str, read: impl Fn(&str) -> Option<u64>, expected: &str) -> Result<Option<u64>, BadParam> {
        let Some(text) = self.text(name) else { return Ok(None) };
        read(text).map(Some).ok_or_else(|| self.expected(name, expected))
    }

    fn expected(&self, name: &str, what: &str) -> BadParam {
        let shown = escape_bounded(self.text(name).unwrap_or_default(), 80);
        self.bad(name, format!("'{shown}': expected {what}"))
    }

    fn bad(&self, name: &str, problem: impl Into<String>) -> BadParam {
        BadParam { capture: escape_bounded(&self.capture, 40), name: escape_bounded(name, 40), problem: problem.into() }
    }
}

/// Units of [`ParamKind::Seconds`].
const TIME_UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];

/// Amounts with units, as the policy file writes them too.
pub(crate) mod units {
    pub use exhibit_evidence::written::bytes;

    /// A time span in seconds.
    pub fn seconds(text: &str) -> Option<u64> {
        super::scaled(text, &super::TIME_UNITS)
    }
}

/// A whole number with an optional unit.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let (digits, factor) = units.iter().find_map(|(u, f)| text.strip_suffix(u).map(|d| (d.trim_end(), *f))).unwrap_or((text, 1));
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse::<u64>().ok().and_then(|v| v.checked_mul(factor)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Param] = &[
        Param { name: "size_max", kind: ParamKind::Bytes, help: "" },
        Param { name: "age", kind: ParamKind::Seconds, help: "" },
        Param { name: "count", kind: ParamKind::Number, help: "" },
        Param { name: "globs", kind: ParamKind::List, help: "" },
        Param { name: "deep", kind: ParamKind::Flag, help: "" },
        Param { name: "word", kind: ParamKind::Text, help: "" },
    ];

    fn params(name: &str, value: &str) -> Params {
        Params::new("files", BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn values_are_read_as_their_kind_says() {
        assert_eq!(params("size_max", "20MiB").bytes("size_max"), Ok(Some(20 << 20)));
        assert_eq!(params("size_max", "20M").bytes("size_max"), Ok(Some(20 << 20)));
        assert_eq!(params("size_max", " 7 KiB ").bytes("size_max"), Ok(Some(7 << 10)));
        assert_eq!(params("age", "30d").seconds("age"), Ok(Some(2_592_000)));
        assert_eq!(params("age", "90").seconds("age"), Ok(Some(90)));
        assert_eq!(params("age", "90").seconds("other"), Ok(None));
        assert_eq!(params("globs", "/etc/**\n\n /x \n").list("globs"), Some(vec!["/etc/**", "/x"]));
        assert_eq!(params("deep", "true").flag("deep", false), Ok(true));
        assert_eq!(params("deep", "true").flag("other", true), Ok(true));
    }

    #[test]
    fn a_bad_value_is_named_before_anything_runs() {
        for (name, value) in [
            ("size_max", "20MB"),
            ("size_max", "-1"),
            ("size_max", "99999999999TiB"),
            ("age", "soon"),
            ("count", "1.5"),
            ("count", ""),
            ("deep", "yes"),
            ("word", "two\nlines"),
            ("sise_max", "1"),
        ] {
            let error = params(name, value).check(TABLE).expect_err(value).to_string();
            assert!(error.contains("files") && error.contains(name), "{error}");
        }
        assert_eq!(params("size_max", "20MiB").check(TABLE), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_handled(name: String, value: String) {
            let _ = params(&name, &value).check(TABLE);
            for known in TABLE {
                let _ = params(known.name, &value).check(TABLE);
            }
        }
    }
}
