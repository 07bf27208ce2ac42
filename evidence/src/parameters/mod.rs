//! Parameters of captures: text by name in the order, checked against one table by the responder's program before an order is signed,
//! and by the agent before anything runs.

mod table;

use std::collections::BTreeMap;

pub use table::{CAPTURES, LOG_CLASSES};

use crate::record::CaptureSpec;
use crate::text::escape_bounded;
use crate::written;

/// A capture as far as orders are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// Its parameters.
    pub params: &'static [Param],
    /// Of these at least one must be given, as a list that is not empty or as `true`.
    pub one_of: &'static [&'static str],
}

/// The parameters of a capture; none of one that is not known.
#[must_use]
pub fn of(capture: &str) -> &'static [Param] {
    CAPTURES.iter().find(|d| d.name == capture).map_or(&[], |d| d.params)
}

/// Checks the captures of an order against what this version knows. An agent of another version may know more, or less; it checks
/// again, patterns in full.
///
/// # Errors
/// A sentence that names the capture, the parameter, its value and what is allowed.
pub fn check(specs: &[CaptureSpec]) -> Result<(), String> {
    for spec in specs {
        let name = escape_bounded(&spec.name, 40);
        let Some(definition) = CAPTURES.iter().find(|d| d.name == spec.name) else {
            let known: Vec<&str> = CAPTURES.iter().map(|d| d.name).collect();
            return Err(format!("there is no capture '{name}'; there are {}", known.join(", ")));
        };
        let params = Params::new(&spec.name, spec.params.clone());
        params.check(definition.params).map_err(|e| e.to_string())?;
        let says = |name: &&str| match definition.params.iter().find(|p| p.name == *name).map(|p| p.kind) {
            Some(ParamKind::Flag) => params.flag(name, false) == Ok(true),
            _ => params.list(name).is_some_and(|entries| !entries.is_empty()),
        };
        if !definition.one_of.is_empty() && !definition.one_of.iter().any(says) {
            return Err(format!("capture '{name}': it must be told what to take: give at least one of {}", definition.one_of.join(", ")));
        }
    }
    Ok(())
}

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
    /// One of these words.
    Word(&'static [&'static str]),
    /// One entry per line; empty lines are ignored.
    List(Entry),
    /// A whole number within these bounds, both included.
    Number {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// Bytes, as [`written::bytes`] reads them.
    Bytes,
    /// A time span within these bounds: a whole number of seconds, optionally with `s`, `m`, `h` or `d`.
    Seconds {
        /// The shortest.
        min: u64,
        /// The longest.
        max: u64,
    },
    /// `true` or `false`.
    Flag,
}

/// What one entry of a list looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Anything.
    Any,
    /// One of these words.
    Word(&'static [&'static str]),
    /// The number of a process.
    Number,
    /// An absolute path.
    Path,
    /// A pattern of absolute paths, options in brackets in front of it, or a comment that begins with `#`. Only how it begins is
    /// checked here; the agent parses it.
    Pattern,
    /// The beginning of an identifier.
    Id {
        /// Characters that it has at least.
        chars_min: usize,
    },
}

impl Entry {
    /// What is expected, if this is none.
    fn refuses(self, text: &str) -> Option<String> {
        let is_pattern = |text: &str| {
            let pattern = text.strip_prefix('[').map_or(Some(text), |rest| rest.split_once(']').map(|(_, pattern)| pattern.trim()));
            text.starts_with('#') || pattern.is_some_and(|p| p.starts_with('/') || p.starts_with("%%"))
        };
        let expected = match self {
            Self::Word(words) if !words.contains(&text) => words.join(", "),
            Self::Number if !text.parse::<u32>().is_ok_and(|n| n > 0) => "the number of a process".to_owned(),
            Self::Path if !text.starts_with('/') => "an absolute path".to_owned(),
            Self::Pattern if !is_pattern(text) => {
                "a pattern of absolute paths like /etc/cron*/**, options in front like [max_size=1MiB newer_than=30d] /tmp/**".to_owned()
            }
            Self::Id { chars_min } if text.len() < chars_min => format!("at least {chars_min} characters of its id"),
            _ => return None,
        };
        Some(expected)
    }
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
                ParamKind::Word(words) if !words.contains(&value.trim()) => return Err(self.expected(name, &words.join(" or "))),
                ParamKind::Word(_) => {}
                ParamKind::List(entry) => self.entries(name, entry)?,
                ParamKind::Number { min, max } => self.within(name, self.number(name)?, min, max, "")?,
                ParamKind::Bytes => drop(self.bytes(name)?),
                ParamKind::Seconds { min, max } => self.within(name, self.seconds(name)?, min, max, "s")?,
                ParamKind::Flag => drop(self.flag(name, false)?),
            }
        }
        Ok(())
    }

    fn entries(&self, name: &str, entry: Entry) -> Result<(), BadParam> {
        for text in self.list(name).unwrap_or_default() {
            if let Some(expected) = entry.refuses(text) {
                return Err(self.bad(name, format!("'{}': expected {expected}", escape_bounded(text, 80))));
            }
        }
        Ok(())
    }

    fn within(&self, name: &str, value: Option<u64>, min: u64, max: u64, unit: &str) -> Result<(), BadParam> {
        match value {
            Some(value) if !(min..=max).contains(&value) => Err(self.expected(name, &format!("{min}{unit} to {max}{unit}"))),
            _ => Ok(()),
        }
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
pub mod units {
    pub use crate::written::bytes;

    /// A time span in seconds.
    #[must_use]
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
        Param { name: "age", kind: ParamKind::Seconds { min: 1, max: 2_592_000 }, help: "" },
        Param { name: "count", kind: ParamKind::Number { min: 1, max: 50 }, help: "" },
        Param { name: "globs", kind: ParamKind::List(Entry::Pattern), help: "" },
        Param { name: "deep", kind: ParamKind::Flag, help: "" },
        Param { name: "word", kind: ParamKind::Word(&["fast", "atomic"]), help: "" },
        Param { name: "pid", kind: ParamKind::List(Entry::Number), help: "" },
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
        for (name, value, allowed) in [
            ("size_max", "20MB", "10MiB"),
            ("size_max", "-1", "10MiB"),
            ("size_max", "99999999999TiB", "10MiB"),
            ("age", "soon", "15m"),
            ("age", "31d", "1s to 2592000s"),
            ("count", "1.5", "a whole number"),
            ("count", "", "a whole number"),
            ("count", "51", "1 to 50"),
            ("deep", "yes", "true or false"),
            ("word", "slow", "fast or atomic"),
            ("pid", "7\nsshd", "the number of a process"),
            ("globs", "[max_size=1MiB] etc/**", "/etc/cron*/**"),
            ("sise_max", "1", "size_max, age, count"),
        ] {
            let error = params(name, value).check(TABLE).expect_err(value).to_string();
            assert!(error.contains("files") && error.contains(name) && error.contains(allowed), "{error}");
        }
        for (name, value) in
            [("size_max", "20MiB"), ("word", "atomic"), ("globs", "# all\n[max_size=1MiB] %%users.homedir%%/x\n/y"), ("count", "50")]
        {
            assert_eq!(params(name, value).check(TABLE), Ok(()), "{name}={value}");
        }
    }

    #[test]
    fn an_order_is_checked_as_a_whole() {
        let checked = |texts: &[&str]| check(&texts.iter().map(|t| written::capture(t).expect("written well")).collect::<Vec<_>>());
        for (text, said) in [
            ("sockets", "there is no capture 'sockets'; there are network, process,"),
            ("network:tolls=false", "capture 'network', parameter 'tolls': this capture has no such parameter; it has sock_diag, tools"),
            ("process-memory:mode=slow,all=true", "parameter 'mode': 'slow': expected fast or atomic"),
            ("process-memory:all=false", "give at least one of pid, name, container, cgroup, all"),
            ("disk:content=false", "give at least one of path, all"),
            ("logs:classes=audit,classes=audits", "parameter 'classes': 'audits': expected audit, auth,"),
        ] {
            let error = checked(&["system", text]).expect_err(text);
            assert!(error.contains(said), "{error}");
        }
        assert_eq!(checked(&["process-memory:pid=7", "disk:all=true", "logs", "files:paths=/etc/**"]), Ok(()));
        for profile in crate::profile::Profile::built_in() {
            assert_eq!(check(&profile.captures()), Ok(()), "{}", profile.name);
        }
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
