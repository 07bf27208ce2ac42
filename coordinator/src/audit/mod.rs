//! Events for a SIEM: what was written into a custody log, who was refused, who came, incidents, start and stop. Each goes to
//! syslog, to an OpenTelemetry Collector, or to both, as the operator chose.
//!
//! The custody logs are the truth, and this is a notice of them: an event may be lost (a queue is full, a process dies between
//! record and notice), nothing ever waits for one, and what was dropped is counted in `exhibit_audit_events`. Events name cases,
//! agents and people; they hold no secret and no evidence.

mod otlp;
mod otlp_metrics;
mod syslog;

use std::sync::Arc;
use std::time::Duration;

use exhibit_certs::PeerName;
use exhibit_evidence::Timestamp;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{Access, Predicate as _, REASON_BYTES_MAX, Record};
use exhibit_evidence::text::one_line;
use tokio::sync::{mpsc, oneshot};

use crate::clock;
use crate::ledger::Entry;
use crate::metrics::SharedMetrics;

pub use otlp::Collector;
pub(crate) use otlp::post_metrics;
pub use syslog::Receiver;

/// Events that wait for one receiver, of at most some 2 KB each, 6 KB where somebody reads for the longest reason that there may be: 8 to
/// 24 MB. A log of a thousand hosts' collections grows by five thousand records in as many minutes.
const QUEUE_EVENTS_MAX: usize = 4_096;
/// The longest value of a field and the longest sentence, in characters. What is longer is cut, and the event says so.
const TEXT_CHARS_MAX: usize = 400;
/// The longest reason for which somebody read evidence: whole, with every byte of it escaped.
const REASON_CHARS_MAX: usize = 4 * REASON_BYTES_MAX;
/// How long the last events may take when the coordinator stops.
const FINISH_WITHIN: Duration = Duration::from_secs(3);
/// A receiver that does not answer is tried again after so long, then after twice as long, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Where events go; nowhere by default.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// A syslog server.
    pub syslog: Option<Receiver>,
    /// An OpenTelemetry Collector.
    pub otlp: Option<Collector>,
}

/// How much an event matters; the numbers are those of RFC 5424.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// An incident.
    Error = 3,
    /// Somebody was refused.
    Warning = 4,
    /// Custody went on.
    Notice = 5,
    /// Somebody came.
    Info = 6,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// A stable word for its kind: docs/operations/monitoring.md lists them.
    pub name: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// Names (letters and `_`) and values; values are one line of bounded length.
    pub fields: Vec<(&'static str, String)>,
    /// One sentence.
    pub message: String,
    /// A text of it was cut: told as its last field, `shortened` with the value `yes`.
    pub shortened: bool,
}

impl Event {
    fn new(name: &'static str, severity: Severity, message: &str) -> Self {
        let (message, shortened) = bounded(message, TEXT_CHARS_MAX);
        Self { at: clock::now(), name, severity, fields: Vec::new(), message, shortened }
    }

    fn with(self, key: &'static str, value: impl std::fmt::Display) -> Self {
        self.with_text(key, &value.to_string(), TEXT_CHARS_MAX)
    }

    fn with_text(mut self, key: &'static str, value: &str, chars_max: usize) -> Self {
        let (value, cut) = bounded(value, chars_max);
        self.fields.push((key, value));
        self.shortened |= cut;
        self
    }

    fn with_some(self, key: &'static str, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// What strangers and loops can cause as often as they like.
    const fn is_noise(&self) -> bool {
        matches!(self.severity, Severity::Warning | Severity::Info)
    }
}

/// A text in one line of so many characters, and whether it was cut for that.
fn bounded(text: &str, chars_max: usize) -> (String, bool) {
    let whole = one_line(text, usize::MAX);
    let cut = whole.chars().count() > chars_max;
    (if cut { one_line(&whole, chars_max) } else { whole }, cut)
}

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The machine's name.
    pub host: String,
    /// The deployment's name.
    pub deployment: String,
    /// Process id: with the host it tells one coordinator from another.
    pub process: u32,
}

impl Source {
    /// This process.
    #[must_use]
    pub fn own(deployment: &str) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { host, deployment: deployment.to_owned(), process: std::process::id() }
    }
}

enum Queued {
    Event(Arc<Event>),
    /// Everything before this was handed over.
    Flush(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Sink {
    name: &'static str,
    queue: mpsc::Sender<Queued>,
}

/// The way to the receivers. Cloning shares it; the default tells nobody.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sinks: Vec<Sink>,
    metrics: SharedMetrics,
}

impl Audit {
    /// Starts what the settings name; must be called within a runtime. The tasks end with the last clone.
    #[must_use]
    pub fn start(settings: &Settings, source: &Source, metrics: &SharedMetrics) -> Self {
        let mut sinks = Vec::new();
        let mut queue = |name: &'static str| {
            let (queue, waiting) = mpsc::channel(QUEUE_EVENTS_MAX);
            sinks.push(Sink { name, queue });
            waiting
        };
        if let Some(receiver) = &settings.syslog {
            tokio::spawn(syslog::run(receiver.clone(), source.clone(), queue("syslog"), Arc::clone(metrics)));
        }
        if let Some(collector) = &settings.otlp {
            tokio::spawn(otlp::run(collector.clone(), source.clone(), queue("otlp"), Arc::clone(metrics)));
        }
        if sinks.is_empty() {
            return Self::default();
        }
        Self(Some(Arc::new(Inner { sinks, metrics: Arc::clone(metrics) })))
    }

    /// Hands an event on, or counts it as dropped; never waits. What anybody can cause gets only half of the queue.
    fn say(&self, event: impl FnOnce() -> Event) {
        let Some(inner) = &self.0 else { return };
        let event = Arc::new(event());
        for sink in &inner.sinks {
            let crowded = event.is_noise() && sink.queue.capacity() <= QUEUE_EVENTS_MAX / 2;
            if crowded || sink.queue.try_send(Queued::Event(Arc::clone(&event))).is_err() {
                inner.metrics.audit_events(sink.name, "dropped", 1);
            }
        }
    }

    /// Waits until what was said is handed over, but not longer than some seconds.
    pub async fn finish(&self) {
        let Some(inner) = &self.0 else { return };
        let one = async |sink: &Sink| {
            let (done, waiting) = oneshot::channel();
            if sink.queue.send(Queued::Flush(done)).await.is_ok() {
                let _ = waiting.await;
            }
        };
        let all = futures::future::join_all(inner.sinks.iter().map(one));
        if tokio::time::timeout(FINISH_WITHIN, all).await.is_err() {
            tracing::warn!("the last audit events could not be handed over");
        }
    }

    /// A record, which this envelope holds, is in a custody log.
    pub(crate) fn recorded(&self, log: &LogName, entry: &Entry, envelope: &Envelope) {
        self.say(|| {
            let access = access_in(entry, envelope);
            let about = match &access {
                Some(access) => format!("record {} of {}: {} {}", entry.n, log.folder(), access.by, access.action.as_str()),
                None => format!("record {} of {} is {}", entry.n, log.folder(), entry.kind),
            };
            let event = Event::new("record", Severity::Notice, &about);
            let event = match &access {
                Some(Access { by, action, reason, .. }) => {
                    let event = event.with("by", by).with("action", action.as_str());
                    event.with_text("reason", reason, REASON_CHARS_MAX)
                }
                None => event,
            };
            event
                .with("log", log.folder())
                .with("n", entry.n)
                .with("kind", entry.kind)
                .with("sha256", entry.digest)
                .with("signed_by", entry.keyid)
                .with_some("order", entry.order.as_ref())
                .with_some("collection", entry.collection.as_ref())
                .with_some("agent", entry.agent.as_ref())
                .with_some("key", entry.key)
                .with_some("outcome", entry.outcome.map(exhibit_evidence::record::Outcome::as_str))
        });
    }

    /// A call was refused for who made it.
    pub(crate) fn denied(&self, caller: &str, from: Option<&str>, method: &str, cause: &str) {
        self.say(|| {
            Event::new("denied", Severity::Warning, &format!("{caller} may not call {method}: {cause}"))
                .with("caller", caller)
                .with_some("from", from)
                .with("method", method)
                .with("cause", cause)
        });
    }

    /// An incident was told.
    pub(crate) fn incident(&self, case: Option<&exhibit_evidence::CaseId>, kind: &str, subject: &str, detail: &str) {
        self.say(|| {
            let event = Event::new("incident", Severity::Error, detail);
            event.with("kind", kind).with("subject", subject).with_some("case", case).with("detail", detail)
        });
    }

    /// A peer proved who it is.
    pub(crate) fn signed_in(&self, name: &PeerName, key: Option<KeyId>, from: std::net::SocketAddr, serial: &str) {
        self.say(|| {
            let event = Event::new("signed-in", Severity::Info, &format!("{name} connected from {from}"));
            event.with("peer", name).with("from", from).with("certificate", serial).with_some("key", key)
        });
    }

    /// A connection did not come to be; `left_out` were not told before it.
    pub(crate) fn connection_refused(&self, from: std::net::SocketAddr, why: &str, left_out: u64) {
        self.say(|| {
            let event = Event::new("connection-refused", Severity::Warning, &format!("a connection from {from} was refused: {why}"));
            event.with("from", from).with("cause", why).with("left_out", left_out)
        });
    }

    /// A machine or person was not enrolled.
    pub(crate) fn enrolment_refused(&self, from: &str, hostname: &str, cause: &str) {
        self.say(|| {
            let event = Event::new("enrolment-refused", Severity::Warning, &format!("an enrolment from {from} was refused: {cause}"));
            event.with("from", from).with("hostname", hostname).with("cause", cause)
        });
    }

    /// The coordinator serves.
    pub(crate) fn started(&self, address: std::net::SocketAddr, store: &str) {
        self.say(|| {
            let event = Event::new("started", Severity::Notice, &format!("the coordinator serves on {address}"));
            event.with("address", address).with("store", store).with("version", env!("CARGO_PKG_VERSION"))
        });
    }

    /// It ends in order.
    pub(crate) fn stopped(&self) {
        self.say(|| Event::new("stopped", Severity::Notice, "the coordinator stopped in order"));
    }
}

/// Who is about to read evidence and why: the coordinator signs for them, so the key alone does not say it.
fn access_in(entry: &Entry, envelope: &Envelope) -> Option<Access> {
    if entry.kind != Access::TYPE {
        return None;
    }
    match Record::from_payload(envelope.unverified_payload()) {
        Ok(Record::Access(access)) => Some(*access),
        _ => None,
    }
}

/// Pauses between tries, and one line of the log when a receiver falls silent and when it is back.
struct Tries {
    receiver: String,
    pause: Duration,
}

impl Tries {
    fn new(receiver: String) -> Self {
        Self { receiver, pause: PAUSE_MIN }
    }

    async fn failed(&mut self, why: &str) {
        if self.pause == PAUSE_MIN {
            let why = one_line(why, TEXT_CHARS_MAX);
            tracing::warn!(receiver = %self.receiver, why, "audit events cannot be handed over; they wait, and are dropped when too many do");
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn worked(&mut self) {
        if self.pause != PAUSE_MIN {
            tracing::info!(receiver = %self.receiver, "audit events are handed over again");
            self.pause = PAUSE_MIN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_whole_and_what_is_cut_says_so() {
        for c in ["a", "\u{4e2d}", "\u{1}", "\"", "\u{e000}", "\u{85}"] {
            let reason = c.repeat(REASON_BYTES_MAX / c.len());
            let whole = one_line(&reason, usize::MAX);
            let event = Event::new("record", Severity::Notice, "x").with_text("reason", &reason, REASON_CHARS_MAX);
            assert_eq!((event.fields, event.shortened), (vec![("reason", whole)], false), "{c:?}");
        }
        let (fits, long) = ("a".repeat(TEXT_CHARS_MAX), "a".repeat(TEXT_CHARS_MAX + 1));
        let event = |message: &str, cause: &str| Event::new("denied", Severity::Warning, message).with("cause", cause).with("method", "/x");
        assert!(!event(&fits, &fits).shortened);
        for (message, cause) in [(&long, &fits), (&fits, &long)] {
            let event = event(message, cause);
            assert!(event.shortened, "{event:?}");
            let told = [&event.message, &event.fields[0].1].into_iter().filter(|text| text.ends_with("...")).count();
            assert_eq!(told, 1, "{event:?}");
        }
    }

    /// Nobody waits for a receiver that is away: what anybody can cause gets half of the queue, custody the rest, and when it comes
    /// back it hears what waited, in order.
    #[tokio::test]
    async fn a_flood_of_refusals_leaves_room_for_custody_and_drops_are_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("log");
        let syslog = Some(format!("unix:{}", socket.display()).parse().expect("an address"));
        let metrics = SharedMetrics::default();
        let audit = Audit::start(&Settings { syslog, otlp: None }, &Source::own("test"), &metrics);
        let address = ([127, 0, 0, 1], 7_420).into();
        audit.started(address, "a folder");
        for _ in 0..3 * QUEUE_EVENTS_MAX {
            audit.denied("eve", None, "/x", "no");
        }
        audit.incident(None, "k", "s", "d");
        let dropped = format!(
            "exhibit_audit_events_total{{receiver=\"syslog\",result=\"dropped\"}} {}",
            3 * QUEUE_EVENTS_MAX - QUEUE_EVENTS_MAX / 2 + 1
        );
        assert!(metrics.text().lines().any(|l| l == dropped), "{dropped} in\n{}", metrics.text());
        let receiver = tokio::net::UnixDatagram::bind(&socket).expect("bound");
        let (mut buffer, mut names) = (vec![0; 4_096], Vec::new());
        while names.last().is_none_or(|name| name != "incident") {
            let length = receiver.recv(&mut buffer).await.expect("a message");
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            names.push(text.split(' ').nth(5).unwrap_or_default().to_owned());
        }
        assert_eq!((names.first().map(String::as_str), names.len()), (Some("started"), QUEUE_EVENTS_MAX / 2 + 1));
        audit.finish().await;
    }
}
