//! What can be measured of a running coordinator. `docs/operations/monitoring.md` lists every name; a test compares the two.
//!
//! Labels have few values, all of them ours: no name, path, case or key of anybody stands in a metric.

use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::Timestamp;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::copy::Lag;

/// Labels of one metric, in the order of their names.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Bounds of durations in seconds: from a local disk's sync to the store's last retry.
const SECONDS: [f64; 11] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

#[derive(Clone)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

/// All of them. Cloning the `Arc` shares them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    segments: Counter,
    segment_bytes: Counter,
    refused_uploads: Counter,
    closed: Family<Labels<1>, Counter>,
    incidents: Counter,
    seal_seconds: Histogram,
    store_operations: Family<Labels<3>, Counter>,
    store_seconds: Family<Labels<2>, Histogram, Durations>,
    store_bytes: Family<Labels<2>, Counter>,
    audit: Family<Labels<2>, Counter>,
    agents: Gauge,
    uploads: Gauge,
    paused: Gauge,
    chores: Gauge,
    copied_objects: Counter,
    copied_bytes: Counter,
    copy_objects: Gauge,
    copy_bytes: Gauge,
    copy_oldest: Gauge,
    copy_wrong: Gauge,
    copy_compared: Gauge,
    verify_ended: Gauge,
    verify_unsound: Gauge,
    memory: Gauge,
    files: Gauge,
}

impl std::fmt::Debug for Durations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Durations")
    }
}

/// What `increase()` in an alert must see at 0 before it happens for the first time.
const OBJECTS: [&str; 6] = ["segment", "manifest", "record", "tile", "checkpoint", "other"];
const OPERATIONS: [&str; 6] = ["put", "replace", "get", "head", "list", "destroy"];
const STORE_ALARMS: [&str; 3] = ["denied", "full", "damaged"];
const RECEIVERS: [&str; 2] = ["syslog", "otlp"];
const AUDIT_ALARMS: [&str; 2] = ["dropped", "refused"];

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("exhibit"),
            segments: Counter::default(),
            segment_bytes: Counter::default(),
            refused_uploads: Counter::default(),
            closed: Family::default(),
            incidents: Counter::default(),
            seal_seconds: Histogram::new(SECONDS),
            store_operations: Family::default(),
            store_seconds: Family::new_with_constructor(Durations),
            store_bytes: Family::default(),
            audit: Family::default(),
            agents: Gauge::default(),
            uploads: Gauge::default(),
            paused: Gauge::default(),
            chores: Gauge::default(),
            copied_objects: Counter::default(),
            copied_bytes: Counter::default(),
            copy_objects: Gauge::default(),
            copy_bytes: Gauge::default(),
            copy_oldest: Gauge::default(),
            copy_wrong: Gauge::default(),
            copy_compared: Gauge::default(),
            verify_ended: Gauge::default(),
            verify_unsound: Gauge::default(),
            memory: Gauge::default(),
            files: Gauge::default(),
        };
        metrics.register();
        metrics.begin_at_zero();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "The program", version);
        r.register("agents", "Agents that are connected to this coordinator", self.agents.clone());
        r.register("uploads", "Uploads that run here", self.uploads.clone());
        r.register("uploads_paused", "Uploads that wait for the store or the catalog, turned away or not", self.paused.clone());
        r.register("segments", "Segments that were verified, stored and acknowledged", self.segments.clone());
        r.register("segment_bytes", "Bytes of those segments, as stored", self.segment_bytes.clone());
        r.register("uploads_refused", "Uploads in which the agent broke the contract", self.refused_uploads.clone());
        r.register("collections_closed", "Collections that were closed here, by outcome", self.closed.clone());
        r.register("seal_seconds", "Time from the decision that a collection ends to its seal", self.seal_seconds.clone());
        r.register("incidents", "Incidents that this coordinator told", self.incidents.clone());
        r.register("store_operations", "Calls to the store, by operation, class of object and result", self.store_operations.clone());
        r.register("store_seconds", "Time of calls to the store", self.store_seconds.clone());
        r.register("store_bytes", "Bytes that went to the store and came from it", self.store_bytes.clone());
        r.register("audit_events", "Events for a SIEM, by receiver and what became of them", self.audit.clone());
        r.register("chores", "1 while this coordinator does the chores for all", self.chores.clone());
        r.register("copy_objects", "Objects that were copied into the second store", self.copied_objects.clone());
        r.register("copy_bytes", "Bytes of those objects", self.copied_bytes.clone());
        r.register("copy_missing_objects", "Objects that the second store lacks; -1: unknown", self.copy_objects.clone());
        r.register("copy_missing_bytes", "Their bytes", self.copy_bytes.clone());
        r.register("copy_oldest_seconds", "Unix time at which the oldest was written; 0: none, -1: unknown", self.copy_oldest.clone());
        r.register("copy_wrong_objects", "Objects that differ in the second store, or that only it has", self.copy_wrong.clone());
        r.register("copy_compared_seconds", "Unix time of the last whole comparison; 0: no copy, -1: none yet", self.copy_compared.clone());
        r.register("verify_ended_seconds", "Unix time at which the last scheduled verification ended; 0: none", self.verify_ended.clone());
        r.register("verify_unsound_cases", "Cases of it that do not hold", self.verify_unsound.clone());
        r.register("memory_bytes", "Resident memory of the process", self.memory.clone());
        r.register("open_files", "Open file descriptors of the process", self.files.clone());
    }

    fn begin_at_zero(&self) {
        for object in OBJECTS {
            for operation in OPERATIONS {
                for result in STORE_ALARMS {
                    drop(self.store_operations.get_or_create(&[("object", object), ("operation", operation), ("result", result)]));
                }
            }
        }
        for receiver in RECEIVERS {
            for result in AUDIT_ALARMS {
                drop(self.audit.get_or_create(&[("receiver", receiver), ("result", result)]));
            }
        }
    }

    /// A segment is durable.
    pub fn acknowledged(&self, bytes: u64) {
        self.segments.inc();
        self.segment_bytes.inc_by(bytes);
    }

    /// An agent broke the contract.
    pub fn refused_upload(&self) {
        self.refused_uploads.inc();
    }

    /// A collection was closed.
    pub fn closed(&self, outcome: &'static str, took: Duration) {
        self.closed.get_or_create(&[("outcome", outcome)]).inc();
        self.seal_seconds.observe(took.as_secs_f64());
    }

    /// An incident was told.
    pub fn incident(&self) {
        self.incidents.inc();
    }

    /// This coordinator does the chores, or does not any more.
    pub fn chores(&self, mine: bool) {
        self.chores.set(i64::from(mine));
    }

    /// An object was copied into the second store.
    pub fn copied(&self, bytes: u64) {
        self.copied_objects.inc();
        self.copied_bytes.inc_by(bytes);
    }

    /// How far the second store is behind.
    pub fn copy_behind(&self, lag: &Lag) {
        set(&self.copy_objects, lag.objects);
        set(&self.copy_bytes, lag.bytes);
        self.copy_oldest.set(lag.oldest.map_or(0, seconds));
        set(&self.copy_wrong, lag.differ.saturating_add(lag.only_in_copy));
    }

    /// Both stores were compared whole.
    pub fn copy_compared(&self, at: Timestamp) {
        self.copy_compared.set(seconds(at));
    }

    /// There is a second store, and nobody has compared it yet: that is not 0 missing objects.
    pub fn copy_unknown(&self) {
        for gauge in [&self.copy_objects, &self.copy_bytes, &self.copy_oldest, &self.copy_wrong, &self.copy_compared] {
            gauge.set(-1);
        }
    }

    /// Where the scheduled verification stands.
    pub fn verified(&self, ended: Option<Timestamp>, unsound: u64) {
        if let Some(ended) = ended {
            self.verify_ended.set(seconds(ended));
        }
        set(&self.verify_unsound, unsound);
    }

    /// A call to the store ended: `result` is `ok` or the kind of its error.
    pub fn store_call(&self, operation: &'static str, object: &'static str, result: &'static str, took: Duration) {
        self.store_operations.get_or_create(&[("object", object), ("operation", operation), ("result", result)]).inc();
        self.store_seconds.get_or_create(&[("object", object), ("operation", operation)]).observe(took.as_secs_f64());
    }

    /// Bytes went to the store (`out`) or came from it (`in`).
    pub fn store_bytes(&self, direction: &'static str, object: &'static str, bytes: u64) {
        self.store_bytes.get_or_create(&[("direction", direction), ("object", object)]).inc_by(bytes);
    }

    /// Events for a SIEM were handed over to a receiver (`sent`), could not wait for it any longer (`dropped`), or it did not take
    /// them (`refused`).
    pub fn audit_events(&self, receiver: &'static str, result: &'static str, count: u64) {
        self.audit.get_or_create(&[("receiver", receiver), ("result", result)]).inc_by(count);
    }

    /// What is so just now.
    pub fn now(&self, agents: usize, uploads: usize, paused: usize) {
        for (gauge, value) in [(&self.agents, agents), (&self.uploads, uploads), (&self.paused, paused)] {
            set(gauge, value as u64);
        }
        if let Some((memory, files)) = own_process() {
            self.memory.set(memory);
            self.files.set(files);
        }
    }

    /// The text that Prometheus reads: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // A String takes everything.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

const fn seconds(at: Timestamp) -> i64 {
    at.unix_ns() / 1_000_000_000
}

/// Resident bytes and open files of this process: proc(5), `statm` and `fd`.
fn own_process() -> Option<(i64, i64)> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = i64::try_from(rustix::param::page_size()).ok()?;
    // The descriptor that the listing itself is read by is one of them.
    let files = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some((pages.saturating_mul(page), i64::try_from(files).ok()?))
}

/// Shared metrics.
pub type SharedMetrics = Arc<Metrics>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_text_and_every_name_in_the_documentation() {
        let metrics = Metrics::default();
        metrics.acknowledged(7);
        metrics.closed("sealed", Duration::from_millis(20));
        metrics.store_call("put", "segment", "ok", Duration::from_millis(2));
        metrics.store_bytes("out", "segment", 7);
        metrics.now(3, 2, 1);
        let text = metrics.text();
        for line in [
            "exhibit_segments_total 1",
            "exhibit_segment_bytes_total 7",
            "exhibit_collections_closed_total{outcome=\"sealed\"} 1",
            "exhibit_store_operations_total{object=\"segment\",operation=\"put\",result=\"ok\"} 1",
            "exhibit_agents 3",
            "exhibit_uploads_paused 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        let page = include_str!("../../docs/operations/monitoring.md");
        for name in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).filter_map(|l| l.split(' ').next()) {
            assert!(page.contains(&format!("`{name}")), "{name} is not in docs/operations/monitoring.md");
        }
    }

    #[test]
    fn the_dashboard_shows_every_metric_and_the_alerts_are_those_of_the_page() {
        let text = Metrics::default().text();
        let dashboard = include_str!("../../deploy/monitoring/dashboard.json");
        for name in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).filter_map(|l| l.split(' ').next()) {
            assert!(dashboard.contains(name), "{name} is not on deploy/monitoring/dashboard.json");
        }
        let alerts = include_str!("../../deploy/monitoring/alerts.yml");
        let page = include_str!("../../docs/operations/monitoring.md");
        let alarming = page.lines().filter(|l| l.starts_with("| `exhibit_") && l.contains("**alert**"));
        for name in alarming.filter_map(|l| l.split('`').nth(1)) {
            assert!(alerts.contains(name), "{name} has no rule in deploy/monitoring/alerts.yml");
        }
        // A counter that appears with its first event never increases.
        for line in [
            "exhibit_store_operations_total{object=\"segment\",operation=\"put\",result=\"full\"} 0",
            "exhibit_audit_events_total{receiver=\"otlp\",result=\"dropped\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
