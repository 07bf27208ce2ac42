//! `[verify]` and `[copy]`: what the coordinator does in the background for what lies in the store.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use exhibit_evidence::text::escape_bounded;
use serde::Deserialize;

use super::store::StoreConfig;
use super::{Config, ConfigError, StoreKind, within};
use crate::reverify::{Depth, RESULTS, Schedule};
use crate::store::RemoteSettings;

/// A length of time as the configuration writes it: a whole number with `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Every(pub Duration);

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = || {
            let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
            let seconds = match unit {
                "m" => 60,
                "h" => 3_600,
                "d" => 86_400,
                _ => return None,
            };
            Some(Duration::from_secs(number.parse::<u32>().ok().filter(|n| *n > 0)?.checked_mul(seconds)?.into()))
        };
        parsed().map(Self).ok_or_else(|| {
            format!("'{}' is no length of time: expected a whole number above 0 with m, h or d, like \"12h\" or \"7d\"", shown(&text))
        })
    }
}

/// Bytes in a second as the configuration writes them: a whole number with `KiB/s`, `MiB/s` or `GiB/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(pub u64);

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let units = [("KiB/s", 1_u64 << 10), ("MiB/s", 1 << 20), ("GiB/s", 1 << 30)];
        let parsed = units.iter().find_map(|(unit, bytes)| {
            let number = text.strip_suffix(unit)?.trim_end().parse::<u32>().ok().filter(|n| *n > 0)?;
            Some(u64::from(number) * bytes)
        });
        parsed.map(Self).ok_or_else(|| {
            format!("'{}' is no rate: expected a whole number above 0 with KiB/s, MiB/s or GiB/s, like \"20MiB/s\"", shown(&text))
        })
    }
}

impl std::str::FromStr for Rate {
    type Err = String;

    /// As on the command line: as in the configuration, or a number of bytes.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<u64>() {
            Ok(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Self::try_from(text.to_owned()).map_err(|why| format!("{why}, or a number of bytes")),
        }
    }
}

/// How much of the evidence is verified: `all`, or a share of the segments like `1%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Sample(pub Depth);

impl TryFrom<String> for Sample {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(Depth::All));
        }
        text.parse().map(Self).map_err(|why| format!("'{}': {why}, or all", shown(&text)))
    }
}

fn shown(text: &str) -> String {
    escape_bounded(text, 40)
}

/// Regular verification of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyConfig {
    /// From the end of a run to the beginning of the next; not set: only by hand.
    pub every: Option<Every>,
    /// How much of the evidence.
    pub sample: Sample,
    /// Bytes read in a second, at most.
    pub rate: Rate,
}

impl Default for VerifyConfig {
    fn default() -> Self {
        Self { every: None, sample: Sample(Depth::Sample(10_000)), rate: Rate(20 << 20) }
    }
}

/// A copy in a second store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CopyConfig {
    /// The second store; not set: there is none.
    pub store: Option<StoreConfig>,
    /// How often both are compared whole.
    pub every: Every,
    /// Bytes copied in a second, at most.
    pub rate: Rate,
}

impl Default for CopyConfig {
    fn default() -> Self {
        Self { store: None, every: Every(Duration::from_hours(6)), rate: Rate(50 << 20) }
    }
}

impl CopyConfig {
    /// The keys of the second store are named as they stand in the file.
    pub(super) fn check(&self, first: &StoreConfig) -> Result<(), (&'static str, String)> {
        within("copy.every", self.every.0.as_secs(), 60..31_536_001, "seconds (1m to 365d)")?;
        let Some(store) = &self.store else { return Ok(()) };
        store.check().map_err(|(key, why)| (in_copy(key), why))?;
        if ![first.attest_hours, StoreConfig::default().attest_hours].contains(&store.attest_hours) {
            return Err((
                in_copy("store.attest_hours"),
                "both stores are looked at every store.attest_hours: set that, and take this out".to_owned(),
            ));
        }
        let place = |s: &StoreConfig| match s.kind {
            StoreKind::Local => (plain(&s.path).to_string_lossy().into_owned(), String::new(), None),
            StoreKind::S3 | StoreKind::Google | StoreKind::Azure => {
                let endpoint = s.endpoint.as_deref().map(|e| e.trim_end_matches('/').to_owned());
                (format!("{} {}", s.account, s.bucket), s.prefix.clone(), endpoint)
            }
        };
        if store.kind == first.kind && place(store) == place(first) {
            return Err((in_copy("store.kind"), "is the store itself: a copy lies elsewhere".to_owned()));
        }
        Ok(())
    }
}

/// A path without `.`, `..` and slashes that change nothing. Links are followed when the stores are opened.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(plain.components().next_back(), Some(Component::Normal(_))) => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// The name of a key of `[store]` in `[copy.store]`.
fn in_copy(key: &'static str) -> &'static str {
    match key {
        "store.path" => "copy.store.path",
        "store.bucket" => "copy.store.bucket",
        "store.account" => "copy.store.account",
        "store.prefix" => "copy.store.prefix",
        "store.endpoint" => "copy.store.endpoint",
        "store.access_key_id" => "copy.store.access_key_id",
        "store.credentials_file" => "copy.store.credentials_file",
        "store.lock" => "copy.store.lock",
        "store.attest_hours" => "copy.store.attest_hours",
        "store.immutable" => "copy.store.immutable",
        _ => "copy.store.kind",
    }
}

impl Config {
    /// When the store is verified, if it is.
    #[must_use]
    pub fn verification(&self) -> Option<Schedule> {
        let every = self.verify.every?.0;
        Some(Schedule { every, depth: self.verify.sample.0, rate: Some(self.verify.rate.0), results: self.resolve(RESULTS.as_ref()) })
    }

    /// As [`Config::remote`], of the second store.
    ///
    /// # Errors
    /// [`ConfigError`] when its secret cannot be read or others can read it.
    pub fn remote_copy(&self) -> Result<Option<RemoteSettings>, ConfigError> {
        self.copy.store.as_ref().map_or(Ok(None), |store| self.remote_of(store, "the copy's secret"))
    }
}
