//! OpenTelemetry: events as logs, metrics as metrics, by OTLP/HTTP in its JSON form
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>), with the HTTP client that is here anyway. The official crates would bring a
//! pipeline of their own beside the queue and the counters that there are.

use std::time::Duration;

use exhibit_evidence::text::one_line;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::otlp_metrics;
use super::{Event, Queued, Severity, Source, TEXT_CHARS_MAX, Tries};
use crate::metrics::SharedMetrics;

/// Events of one post.
const BATCH_EVENTS_MAX: usize = 256;
/// An event waits so long for others to go with.
const GATHER: Duration = Duration::from_millis(500);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// An OpenTelemetry Collector.
#[derive(Debug, Clone)]
pub struct Collector {
    /// Without `/v1/...`.
    endpoint: String,
    http: reqwest::Client,
    /// Between two posts of metrics.
    pub metrics_every: Duration,
}

impl Collector {
    /// A collector at `endpoint`: scheme, host, port and a path where it is behind one.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn new(endpoint: &str, metrics_every: Duration) -> Result<Self, String> {
        let instead = "the collector is asked without credentials: have one on this machine or in its network that needs none, and give \
                       it those of whatever it sends on to";
        crate::config::check_endpoint(endpoint, instead)?;
        let endpoint = endpoint.trim_end_matches('/');
        if let Some(signal) = ["/v1/logs", "/v1/metrics", "/v1/traces"].into_iter().find(|signal| endpoint.ends_with(signal)) {
            return Err(format!("ends in {signal}, which is added to it: take it out"));
        }
        let http = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("exhibit-coordinator/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { endpoint: endpoint.to_owned(), http, metrics_every })
    }

    /// Posts one message; how many of its parts the collector refused.
    async fn post(&self, path: &str, rejected: &str, body: &Value) -> Result<u64, Failure> {
        let again = |why: String| Failure { again: true, why };
        let send = self.http.post(format!("{}{path}", self.endpoint)).header("content-type", "application/json").body(body.to_string());
        let mut response = send.send().await.map_err(|e| again(e.to_string()))?;
        let status = response.status().as_u16();
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| again(e.to_string()))? {
            if answer.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
                break;
            }
            answer.extend_from_slice(&chunk);
        }
        if !response.status().is_success() {
            let said = one_line(&String::from_utf8_lossy(&answer), 200);
            // The specification's list of what may be sent again.
            return Err(Failure { again: matches!(status, 429 | 502..=504), why: format!("HTTP status {status} {said}") });
        }
        let Some(said) = understood(&answer) else {
            let said = one_line(&String::from_utf8_lossy(&answer), 200);
            return Err(Failure {
                again: false,
                why: format!("HTTP status {status}, and what it says is no answer of a collector: {said}"),
            });
        };
        // 64-bit numbers are strings in protobuf's JSON, and some write them as numbers.
        let partial = &said["partialSuccess"];
        let count = &partial[rejected];
        let count = count.as_u64().or_else(|| count.as_str().and_then(|n| n.parse().ok())).unwrap_or_default();
        if count > 0 {
            let why = one_line(partial["errorMessage"].as_str().unwrap_or_default(), TEXT_CHARS_MAX);
            tracing::warn!(collector = %self.endpoint, path, count, why, "the OpenTelemetry Collector refused a part of what it was sent");
        }
        Ok(count)
    }
}

/// The answer to a post that was taken: an object in JSON, or nothing. Anything else is somebody else's: a portal, a wrong port.
fn understood(answer: &[u8]) -> Option<Value> {
    if answer.trim_ascii().is_empty() {
        return Some(Value::Null);
    }
    serde_json::from_slice::<Value>(answer).ok().filter(Value::is_object)
}

struct Failure {
    again: bool,
    why: String,
}

fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// Resource and scope, as the semantic conventions name them.
fn about(source: &Source) -> (Value, Value) {
    let instance = format!("{}:{}", source.host, source.process);
    let resource = [
        ("service.name", "exhibit-coordinator"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance.as_str()),
        ("host.name", source.host.as_str()),
        ("exhibit.deployment", source.deployment.as_str()),
    ];
    let resource: Vec<Value> = resource.iter().map(|(key, value)| attribute(key, value)).collect();
    (json!({ "attributes": resource }), json!({"name": "exhibit", "version": env!("CARGO_PKG_VERSION")}))
}

/// Severity by the table in the data model of logs.
const fn severity(severity: Severity) -> (u8, &'static str) {
    match severity {
        Severity::Error => (17, "ERROR"),
        Severity::Warning => (13, "WARN"),
        Severity::Notice => (10, "INFO2"),
        Severity::Info => (9, "INFO"),
    }
}

fn log_record(event: &Event) -> Value {
    let (number, text) = severity(event.severity);
    let at = event.at.unix_ns().max(0).to_string();
    let shortened = event.shortened.then(|| attribute("exhibit.shortened", "yes"));
    let fields = event.fields.iter().map(|(key, value)| attribute(&format!("exhibit.{key}"), value));
    let attributes: Vec<Value> = fields.chain(shortened).collect();
    json!({
        "timeUnixNano": at,
        "observedTimeUnixNano": at,
        "severityNumber": number,
        "severityText": text,
        "eventName": format!("exhibit.{}", event.name),
        "body": {"stringValue": event.message},
        "attributes": attributes,
    })
}

fn logs(source: &Source, records: &[Value]) -> Value {
    let (resource, scope) = about(source);
    json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{"scope": scope, "logRecords": records}]}]})
}

/// Posts everything that is measured, as it stands in the OpenMetrics text.
pub(crate) async fn post_metrics(collector: &Collector, source: &Source, text: &str, since_ns: i64, now_ns: i64) -> Result<(), String> {
    let (resource, scope) = about(source);
    let metrics = otlp_metrics::from_text(text, since_ns, now_ns);
    let body = json!({"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"scope": scope, "metrics": metrics}]}]});
    // A later post says all of it again, so a failed one is not repeated.
    collector.post("/v1/metrics", "rejectedDataPoints", &body).await.map(drop).map_err(|e| e.why)
}

/// Gathers events and posts them until nobody is left who could say any.
pub(super) async fn run(collector: Collector, source: Source, mut queue: mpsc::Receiver<Queued>, metrics: SharedMetrics) {
    let mut tries = Tries::new(collector.endpoint.clone());
    while let Some(first) = queue.recv().await {
        let (batch, flushed) = gather(first, &mut queue).await;
        if !batch.is_empty() {
            hand_over(&collector, &logs(&source, &batch), batch.len() as u64, &mut tries, &metrics).await;
        }
        if let Some(done) = flushed {
            let _ = done.send(());
        }
    }
}

async fn gather(first: Queued, queue: &mut mpsc::Receiver<Queued>) -> (Vec<Value>, Option<oneshot::Sender<()>>) {
    let until = Instant::now() + GATHER;
    let (mut batch, mut next) = (Vec::new(), Some(first));
    while let Some(queued) = next {
        match queued {
            Queued::Event(event) => batch.push(log_record(&event)),
            Queued::Flush(done) => return (batch, Some(done)),
        }
        if batch.len() >= BATCH_EVENTS_MAX {
            break;
        }
        next = tokio::time::timeout_at(until, queue.recv()).await.unwrap_or(None);
    }
    (batch, None)
}

async fn hand_over(collector: &Collector, body: &Value, events: u64, tries: &mut Tries, metrics: &SharedMetrics) {
    loop {
        match collector.post("/v1/logs", "rejectedLogRecords", body).await {
            Ok(refused) => {
                tries.worked();
                let refused = refused.min(events);
                metrics.audit_events("otlp", "refused", refused);
                metrics.audit_events("otlp", "sent", events - refused);
                return;
            }
            Err(Failure { again: true, why }) => tries.failed(&why).await,
            Err(Failure { why, .. }) => {
                tracing::warn!(collector = %collector.endpoint, why, events, "the OpenTelemetry Collector refused audit events");
                metrics.audit_events("otlp", "refused", events);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_collector_s_answer_counts_as_one() {
        for answer in ["", " ", "{}", "{\"partialSuccess\":{}}"] {
            assert!(understood(answer.as_bytes()).is_some(), "{answer}");
        }
        for answer in ["<html>Welcome</html>", "OK", "[]", "\"\"", "{\"partialSuccess\":{\"rejectedLogRecords"] {
            assert!(understood(answer.as_bytes()).is_none(), "{answer}");
        }
    }
}
