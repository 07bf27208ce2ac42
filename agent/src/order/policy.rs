//! The host's own policy: what the owner of this host allows, whoever orders. A file that the agent reads and no peer
//! can change.

use std::path::Path;

use exhibit_evidence::record::Limits;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Deserializer};

use crate::budget::Budget;
use crate::capture::units;

/// The policy file's name in the state folder.
pub const FILE: &str = "policy.toml";

/// The text of a policy file that changes nothing, with every key documented. `exhibit-agent check-policy --print` shows it.
pub const DEFAULT_TEXT: &str = include_str!("policy.default.toml");

/// What this host allows. Every key may be left out; [`DEFAULT_TEXT`] documents them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Captures that may run; none = every one.
    pub captures: Option<Vec<String>>,
    /// Paths that are never given, as globs. They appear in the manifest as skipped.
    pub deny_paths: Vec<String>,
    /// Environment variables, as globs over their names, whose values are replaced by length and digest.
    pub redact_environ: Vec<String>,
    /// Raw bytes of one collection.
    #[serde(deserialize_with = "bytes")]
    pub raw_bytes_max: u64,
    /// Percent of one processor.
    pub cpu_percent_max: Option<u32>,
    /// Bytes per second read; none = no limit.
    #[serde(deserialize_with = "optional_bytes")]
    pub read_bytes_per_s_max: Option<u64>,
    /// Bytes per second sent; none = no limit.
    #[serde(deserialize_with = "optional_bytes")]
    pub send_bytes_per_s_max: Option<u64>,
    /// Seconds that a collection may take.
    #[serde(deserialize_with = "seconds")]
    pub deadline_max: u64,
    /// Seconds between an order's issue and its expiry.
    #[serde(deserialize_with = "seconds")]
    pub order_life_max: u64,
    /// Which orders are obeyed at all.
    pub orders: Orders,
    /// What applies when an order says nothing.
    pub defaults: Defaults,
}

/// Which orders this host obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Orders {
    /// Only those that a second person approved, whatever their case says.
    pub two_person: bool,
}

/// Limits for orders that give none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Percent of one processor.
    pub cpu_percent: Option<u32>,
    /// Bytes per second read.
    #[serde(deserialize_with = "optional_bytes")]
    pub read_bytes_per_s: Option<u64>,
    /// Bytes per second sent.
    #[serde(deserialize_with = "optional_bytes")]
    pub send_bytes_per_s: Option<u64>,
    /// Seconds that a collection may take.
    #[serde(deserialize_with = "optional_seconds")]
    pub deadline: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            captures: None,
            deny_paths: Vec::new(),
            redact_environ: Vec::new(),
            raw_bytes_max: 1 << 40,
            cpu_percent_max: None,
            read_bytes_per_s_max: None,
            send_bytes_per_s_max: None,
            deadline_max: 7 * 86_400,
            order_life_max: 30 * 86_400,
            orders: Orders::default(),
            defaults: Defaults::default(),
        }
    }
}

/// A policy file that cannot be used. Nothing is collected then: an unreadable policy may forbid anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct BadPolicy {
    path: String,
    problem: String,
}

const FILE_BYTES_MAX: usize = 1 << 20;

/// What this host allows is for its administrator to say: nobody else may be able to write the file.
fn check_owner(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(meta) = std::fs::metadata(path) else { return Ok(()) };
    let (own, mode) = (rustix::process::geteuid().as_raw(), meta.mode() & 0o7777);
    if meta.uid() != 0 && meta.uid() != own {
        return Err(format!("belongs to user {}: it must belong to root or to the agent's user; chown it", meta.uid()));
    }
    if mode & 0o022 != 0 {
        return Err(format!("may be written by others (mode {mode:04o}); chmod go-w it"));
    }
    Ok(())
}

impl Policy {
    /// Reads a policy file; one that does not exist is the default policy.
    ///
    /// # Errors
    /// [`BadPolicy`] names file, line and key.
    pub fn load(path: &Path) -> Result<Self, BadPolicy> {
        let bad = |problem: String| BadPolicy { path: path.display().to_string(), problem };
        check_owner(path).map_err(bad)?;
        match crate::capture::read_pseudo(path.as_os_str().as_encoded_bytes(), FILE_BYTES_MAX) {
            Ok(file) if file.cut => Err(bad(format!("larger than {FILE_BYTES_MAX} bytes"))),
            Ok(file) => Self::parse(&String::from_utf8(file.bytes).map_err(|_| bad("not UTF-8 text".to_owned()))?).map_err(bad),
            // Only "not found" means that there is none.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(bad(format!("cannot be read: {e}"))),
        }
    }

    /// Parses a policy file's text.
    ///
    /// # Errors
    /// A sentence with line and key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = toml::from_str(text).map_err(|e| explain(text, &e))?;
        policy.denied_paths()?;
        policy.redacted_variables()?;
        for name in policy.captures.iter().flatten() {
            if crate::capture::registry::find(name).is_none() {
                return Err(format!(
                    "captures: there is no capture '{}'; there are {}",
                    exhibit_evidence::text::escape_bounded(name, 40),
                    crate::capture::registry::names().join(", ")
                ));
            }
        }
        if policy.cpu_percent_max == Some(0) || policy.defaults.cpu_percent == Some(0) {
            return Err("cpu_percent: at least 1".to_owned());
        }
        Ok(policy)
    }

    /// The paths that are never given. `*` and `?` do not cross a `/`, `**` does.
    ///
    /// # Errors
    /// A sentence that names the glob.
    pub fn denied_paths(&self) -> Result<GlobSet, String> {
        let mut set = GlobSetBuilder::new();
        for glob in &self.deny_paths {
            let shown = exhibit_evidence::text::escape_bounded(glob, 100);
            if !glob.starts_with('/') && !glob.starts_with("**/") {
                return Err(format!("deny_paths: '{shown}' must begin with / or **/"));
            }
            let glob = GlobBuilder::new(glob).literal_separator(true).build();
            set.add(glob.map_err(|e| format!("deny_paths: '{shown}': {}", e.kind()))?);
        }
        set.build().map_err(|e| format!("deny_paths: {e}"))
    }

    /// The environment variables whose values are not given. Capitals and small letters are the same.
    ///
    /// # Errors
    /// A sentence that names the glob.
    pub fn redacted_variables(&self) -> Result<GlobSet, String> {
        let mut set = GlobSetBuilder::new();
        for glob in &self.redact_environ {
            let shown = exhibit_evidence::text::escape_bounded(glob, 100);
            let glob = GlobBuilder::new(glob).case_insensitive(true).build();
            set.add(glob.map_err(|e| format!("redact_environ: '{shown}': {}", e.kind()))?);
        }
        set.build().map_err(|e| format!("redact_environ: {e}"))
    }

    /// Whether a capture may run here.
    #[must_use]
    pub fn allows(&self, capture: &str) -> bool {
        self.captures.as_ref().is_none_or(|names| names.iter().any(|n| n == capture))
    }

    /// The limits of one collection: the order's where it gives one, else the default; never more than this host allows.
    #[must_use]
    pub fn budget(&self, limits: &Limits) -> Budget {
        let narrow = |asked: Option<u64>, default: Option<u64>, max: Option<u64>| match (asked.or(default), max) {
            (Some(value), Some(max)) => Some(value.min(max)),
            (value, max) => value.or(max),
        };
        let defaults = &self.defaults;
        let percent = |p: Option<u32>| p.map(u64::from);
        Budget {
            cpu_percent: narrow(percent(limits.cpu_percent), percent(defaults.cpu_percent), percent(self.cpu_percent_max))
                .map(|p| u32::try_from(p).unwrap_or(u32::MAX)),
            read_bytes_per_s: narrow(limits.read_bytes_per_s, defaults.read_bytes_per_s, self.read_bytes_per_s_max),
            send_bytes_per_s: narrow(limits.send_bytes_per_s, defaults.send_bytes_per_s, self.send_bytes_per_s_max),
            raw_bytes_max: limits.raw_bytes_max.unwrap_or(u64::MAX).min(self.raw_bytes_max),
            deadline_s: limits.deadline_s.or(defaults.deadline).unwrap_or(u64::MAX).min(self.deadline_max),
        }
    }
}

/// The reader's error as one sentence with line and text: it goes into the signed refusal.
fn explain(text: &str, e: &toml::de::Error) -> String {
    let message = e.message().trim().replace('\n', ", ");
    let Some(before) = e.span().and_then(|span| text.get(..span.start)) else { return message };
    let line = before.matches('\n').count();
    let shown = text.lines().nth(line).unwrap_or_default().trim();
    format!("line {}: {message} in '{}'", line.saturating_add(1), exhibit_evidence::text::escape_bounded(shown, 120))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Number(u64),
    Text(String),
}

fn amount<'de, D: Deserializer<'de>>(d: D, read: fn(&str) -> Option<u64>, expected: &str) -> Result<u64, D::Error> {
    let value = match Amount::deserialize(d).map_err(|_| serde::de::Error::custom(format!("expected {expected}")))? {
        Amount::Number(n) => Some(n),
        Amount::Text(text) => read(&text),
    };
    value.ok_or_else(|| serde::de::Error::custom(format!("expected {expected}")))
}

fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    amount(d, units::bytes, exhibit_evidence::written::BYTES_EXPECTED)
}

fn optional_bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    bytes(d).map(Some)
}

fn seconds<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    amount(d, units::seconds, "a time span like 90, \"15m\", \"6h\" or \"30d\"")
}

fn optional_seconds<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    seconds(d).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_text_is_the_default_policy() {
        assert_eq!(Policy::parse(DEFAULT_TEXT), Ok(Policy::default()));
        // And every key stands in it, commented out with a value that parses.
        let all: String = DEFAULT_TEXT.lines().map(|l| l.strip_prefix("#= ").unwrap_or(l)).collect::<Vec<_>>().join("\n");
        let policy = Policy::parse(&all).expect("every documented key parses");
        assert!(policy.captures.is_some() && policy.cpu_percent_max.is_some() && policy.defaults.deadline.is_some());
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (text, needle) in [
            ("raw_bytes_max = \"1GB\"", "line 1"),
            ("\ncpu_percent_maxx = 5", "cpu_percent_maxx"),
            ("captures = [\"memory-of-elephants\"]", "memory-of-elephants"),
            ("deny_paths = [\"/a[\"]", "/a["),
            ("deny_paths = [\"home/**\"]", "home/**"),
            ("redact_environ = [\"*[SECRET\"]", "redact_environ"),
            ("cpu_percent_max = 0", "cpu_percent"),
            ("[defaults]\ndeadline = \"soon\"", "line 2"),
        ] {
            let error = Policy::parse(text).expect_err(text);
            assert!(error.contains(needle), "{text}: {error}");
        }
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join(FILE);
        assert_eq!(Policy::load(&path), Ok(Policy::default()));
        std::fs::write(&path, "captures = 7").expect("write");
        assert!(Policy::load(&path).expect_err("bad").to_string().contains(FILE));
        assert!(Policy::load(dir.path()).is_err(), "a folder is not a policy");
    }

    #[test]
    fn an_order_can_narrow_but_not_widen() {
        let policy = Policy::parse(
            "cpu_percent_max = 50\nraw_bytes_max = \"1GiB\"\ndeadline_max = \"1h\"\nread_bytes_per_s_max = \"10MiB\"\n[defaults]\ncpu_percent = 25\nsend_bytes_per_s = 1000",
        )
        .expect("parses");
        let silent = policy.budget(&Limits::default());
        assert_eq!((silent.cpu_percent, silent.send_bytes_per_s, silent.read_bytes_per_s), (Some(25), Some(1000), Some(10 << 20)));
        assert_eq!((silent.raw_bytes_max, silent.deadline_s), (1 << 30, 3600));
        let greedy = Limits {
            cpu_percent: Some(800),
            raw_bytes_max: Some(u64::MAX),
            deadline_s: Some(60),
            read_bytes_per_s: Some(1),
            send_bytes_per_s: Some(5000),
        };
        let budget = policy.budget(&greedy);
        assert_eq!((budget.cpu_percent, budget.raw_bytes_max, budget.deadline_s), (Some(50), 1 << 30, 60));
        assert_eq!((budget.read_bytes_per_s, budget.send_bytes_per_s), (Some(1), Some(5000)));
    }

    #[test]
    fn a_policy_that_others_may_write_is_none() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, "cpu_percent_max = 50\n").expect("write");
        for (mode, good) in [(0o644, true), (0o600, true), (0o664, false), (0o666, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
            let loaded = Policy::load(&path).map(|_| ()).map_err(|e| e.to_string());
            assert_eq!(loaded.is_ok(), good, "{mode:o}");
            assert!(good || loaded.is_err_and(|e| e.contains("policy.toml") && e.contains("chmod go-w")), "{mode:o}");
        }
    }
}
