//! `[audit]`: who outside is told of events and metrics.

use std::time::Duration;

use serde::Deserialize;

use super::within;
use crate::audit::{Collector, Settings};

/// Events and metrics for others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// A syslog server: `udp://HOST:PORT`, `tcp://HOST:PORT` or `unix:/PATH`.
    pub syslog: Option<String>,
    /// The address of an OpenTelemetry Collector that takes OTLP/HTTP.
    pub otlp: Option<String>,
    /// Seconds between two posts of metrics to it.
    pub metrics_s: u32,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { syslog: None, otlp: None, metrics_s: 60 }
    }
}

impl AuditConfig {
    /// What the keys say.
    ///
    /// # Errors
    /// The key, and what is wrong with its value.
    pub fn settings(&self) -> Result<Settings, (&'static str, String)> {
        within("audit.metrics_s", u64::from(self.metrics_s), 1..3_601, "seconds")?;
        let syslog = self.syslog.as_deref().map(str::parse).transpose().map_err(|why| ("audit.syslog", why))?;
        let every = Duration::from_secs(u64::from(self.metrics_s));
        let otlp = self.otlp.as_deref().map(|address| Collector::new(address, every)).transpose().map_err(|why| ("audit.otlp", why))?;
        Ok(Settings { syslog, otlp })
    }
}

pub(super) fn documented(key: &str, value: Option<&str>, example: &str) -> String {
    let (comment, value) = value.map_or(("# ", example), |value| ("", value));
    format!("{comment}{key} = {}", toml::Value::String(value.to_owned()))
}
