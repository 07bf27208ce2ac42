//! Events for a SIEM and metrics for an OpenTelemetry Collector, as those who take them see them: rsyslog, which other people
//! wrote, and the protobuf definitions of OpenTelemetry.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use exhibit_coordinator::audit::{Collector, Settings};
use exhibit_evidence::record::Role;
use exhibit_proto::responder::v1 as people;
use serde_json::Value;

use crate::custody_access::{collected, listing};
use crate::support::world::{Place, World, enroll_with};

/// rsyslog on a free port, which writes what it understood of each message to a file.
struct Syslog {
    process: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Drop for Syslog {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Syslog {
    /// `tcp` or `udp`.
    fn start(way: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let port = match way {
            "udp" => std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port").local_addr(),
            _ => std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr(),
        };
        let port = port.expect("address").port();
        let place = dir.path().display().to_string();
        let conf = format!(
            "global(workDirectory=\"{place}\" maxMessageSize=\"16k\")\n\
             module(load=\"im{way}\")\n\
             input(type=\"im{way}\" port=\"{port}\" address=\"127.0.0.1\")\n\
             template(name=\"seen\" type=\"string\" string=\"%syslogfacility-text% %syslogseverity-text% %app-name% %msgid% %structured-data% %msg%\\n\")\n\
             action(type=\"omfile\" file=\"{place}/seen\" template=\"seen\" fileCreateMode=\"0644\")\n"
        );
        std::fs::write(dir.path().join("conf"), conf).expect("written");
        let process = Command::new("rsyslogd")
            .args(["-n", "-f", &format!("{place}/conf"), "-i", &format!("{place}/pid")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("rsyslogd does not start ({e}): tests/run installs it"));
        Self { process, dir, port }
    }

    fn seen(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("seen")).unwrap_or_default()
    }
}

/// A collector that is busy at first, and what it was sent.
#[derive(Default)]
struct Taken {
    logs: Vec<String>,
    metrics: Vec<String>,
    asked: u32,
}

type Shared = Arc<Mutex<Taken>>;

async fn collector(taken: Shared) -> String {
    let logs = async |State(taken): State<Shared>, body: String| {
        let mut taken = taken.lock().expect("lock");
        taken.asked += 1;
        if taken.asked == 1 {
            return (StatusCode::SERVICE_UNAVAILABLE, "busy");
        }
        taken.logs.push(body);
        (StatusCode::OK, "{\"partialSuccess\":{\"rejectedLogRecords\":\"1\",\"errorMessage\":\"one too many\"}}")
    };
    let metrics = async |State(taken): State<Shared>, body: String| {
        taken.lock().expect("lock").metrics.push(body);
        (StatusCode::OK, "{}")
    };
    let routes = Router::new().route("/v1/logs", post(logs)).route("/v1/metrics", post(metrics)).with_state(taken);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}

/// Reads each line as the message that it must be, by OpenTelemetry's own definitions; unknown fields and wrong types fail.
const JUDGE: &str = r"
import sys
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest as Logs
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest as Metrics
for line in sys.stdin:
    kind, text = line.split(' ', 1)
    message = json_format.Parse(text, Logs() if kind == 'logs' else Metrics())
    for resource in message.resource_logs if kind == 'logs' else []:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                assert record.time_unix_nano > 10**18 and record.severity_number > 0 and record.event_name and record.body.string_value
    for resource in message.resource_metrics if kind == 'metrics' else []:
        for scope in resource.scope_metrics:
            assert len(scope.metrics) > 10
            for metric in scope.metrics:
                assert metric.WhichOneof('data') and metric.description, metric
";

fn judged(taken: &Taken) {
    let mut judge = Command::new("python3").args(["-c", JUDGE]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python3");
    let lines = taken.logs.iter().map(|l| format!("logs {l}\n")).chain(taken.metrics.iter().map(|m| format!("metrics {m}\n")));
    let text: String = lines.collect();
    judge.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    let out = judge.wait_with_output().expect("ends");
    assert!(out.status.success(), "{}\n{text}", String::from_utf8_lossy(&out.stderr));
}

fn files_below(dir: &Path) -> Vec<String> {
    let keys = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    keys.filter(|path| path.extension().is_some_and(|e| e == "key")).filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..400 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not within 10 s: {what}");
}

/// What is to be heard of one small story.
const TOLD: [&str; 9] =
    ["started", "signed-in", "record", "denied", "enrolment-refused", "connection-refused", "incident", "stopped", "case-opened:v1"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_siem_hears_of_custody_refusals_and_incidents_and_no_secret() {
    let (syslog, taken) = (Syslog::start("tcp"), Shared::default());
    let otlp = Collector::new(&collector(Arc::clone(&taken)).await, Duration::from_millis(200)).expect("an address");
    let receiver = Some(format!("tcp://127.0.0.1:{}", syslog.port).parse().expect("an address"));
    let audit = Settings { syslog: receiver, otlp: Some(otlp) };
    let mut world = World::start_on(Place { audit, ..Place::default() }).await;

    let case = world.open_case().await;
    let (_, mut auditor) = world.person("eve", &[Role::Auditor], None).await;
    auditor.create_token(people::CreateTokenRequest::default()).await.expect_err("not hers");
    let token = world.token(1).await;
    let ca = exhibit_evidence::Digest::try_from(token.ca_sha256.as_slice()).expect("digest");
    let bad = format!("{}x", token.token);
    enroll_with(world.port, &bad, ca, &world.dir.path().join("bad"), "web\"1]").await.expect_err("no such token");
    drop(tokio::net::TcpStream::connect(("127.0.0.1", world.port)).await.expect("connects"));
    let id = case.case_id.parse().expect("id");
    world.running().parts.incident(Some(&id), "test-incident", "a \"subject\"]", "first\nsecond").await;
    world.running().parts.incident(Some(&id), "test-long", "a long one", &"y".repeat(600)).await;
    until("metrics are posted", || taken.lock().expect("lock").metrics.len() > 1).await;
    let (_, job) = collected(&mut world).await;
    world.people.list_items(listing(&job)).await.expect("listed");
    // The longest reason that there may be.
    let reason = "\"w".repeat(512);
    world.people.list_items(people::ListItemsRequest { reason: reason.clone(), ..listing(&job) }).await.expect("listed");
    // One of each post is refused, after the first was not taken at all.
    let refused = "exhibit_audit_events_total{receiver=\"otlp\",result=\"refused\"}";
    let is_refused = |text: String| text.lines().any(|l| l.starts_with(refused) && !l.ends_with(" 0"));
    until("events are posted", || is_refused(world.running().parts.measured())).await;
    let measured = world.running().parts.measured();
    world.stop().await;

    until("rsyslog has the end", || syslog.seen().contains(" stopped ")).await;
    let seen = syslog.seen();
    let taken = taken.lock().expect("lock");
    let posted = taken.logs.concat();
    for told in TOLD {
        assert!(seen.contains(told), "{told} in\n{seen}");
        assert!(posted.contains(told), "{told} in\n{posted}");
    }
    assert!(seen.lines().all(|l| l.contains("[exhibit@32473 deployment=\"test\"") && l.contains(" exhibit-coordinator ")), "{seen}");
    let incident = seen.lines().find(|l| l.contains(" incident ")).expect("an incident");
    assert!(
        incident.contains(" err ") && incident.contains("subject=\"a \\\"subject\\\"\\]\"") && incident.contains("\"] first"),
        "{incident}"
    );
    let denied = seen.lines().find(|l| l.contains(" denied ")).expect("a refusal");
    assert!(
        denied.contains("caller=\"spiffe://test/responder/eve\"") && denied.contains("CreateToken") && denied.contains("from=\"127.0.0.1:"),
        "{denied}"
    );
    let opened = seen.lines().find(|l| l.contains("case-opened:v1")).expect("a record");
    assert!(opened.contains(&format!("log=\"cases/{}/log\" n=\"", case.case_id)), "{opened}");

    // The coordinator signs for who reads, so the event itself names them.
    let read = seen.lines().find(|l| l.contains("kind=\"access:v1\"")).expect("an access");
    assert!(read.contains("by=\"spiffe://test/responder/") && read.contains("action=\"list\" reason=\"see what there is\""), "{read}");

    // A reason goes out whole; what is longer than any receiver is to get says that it was cut.
    assert!(seen.contains(&format!("reason=\"{}\"", reason.replace('"', "\\\""))), "{seen}");
    assert!(posted.contains(&Value::from(reason).to_string()), "{posted}");
    let long = seen.lines().find(|l| l.contains("subject=\"a long one\"")).expect("an incident");
    assert!(long.contains("yyy...\" shortened=\"yes\"] yyy"), "{long}");
    assert!(posted.contains("exhibit.shortened"), "{posted}");

    judged(&taken);
    let log: Value = serde_json::from_str(taken.logs.first().expect("logs")).expect("JSON");
    let attributes = &log["resourceLogs"][0]["resource"]["attributes"];
    assert!(attributes.to_string().contains("exhibit-coordinator"), "{attributes}");
    assert!(measured.contains("exhibit_audit_events_total{receiver=\"syslog\",result=\"sent\"}"), "{measured}");

    let all = format!("{seen}{posted}{}", taken.metrics.concat());
    let mut secrets = vec![bad.clone(), token.token.clone()];
    secrets.extend(files_below(&world.dir.path().join("deployment")));
    assert!(secrets.len() > 3, "keys of the deployment");
    for secret in secrets {
        let secret = secret.lines().find(|l| !l.starts_with("---")).unwrap_or(&secret);
        assert!(!all.contains(secret) && !all.contains("PRIVATE"), "a secret went out");
    }
    assert!(!taken.metrics.concat().contains(&case.case_id), "metrics name no case");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_siem_hears_datagrams_and_one_that_would_be_too_large_says_that_it_was_cut() {
    let syslog = Syslog::start("udp");
    let receiver = Some(format!("udp://127.0.0.1:{}", syslog.port).parse().expect("an address"));
    let audit = Settings { syslog: receiver, otlp: None };
    let mut world = World::start_on(Place { audit, ..Place::default() }).await;
    // Until rsyslogd listens, what is said waits.
    until("rsyslog hears", || syslog.seen().contains(" started ")).await;
    let case = world.open_case().await;
    let id = case.case_id.parse().expect("id");
    world.running().parts.incident(Some(&id), "test-incident", "a \"subject\"]", &"\u{4e2d}".repeat(600)).await;
    world.stop().await;

    until("rsyslog has the end", || syslog.seen().contains(" stopped ")).await;
    let seen = syslog.seen();
    for told in ["started", "signed-in", "record", "incident", "stopped", "case-opened:v1"] {
        assert!(seen.contains(told), "{told} in\n{seen}");
    }
    assert!(seen.lines().all(|l| l.contains("[exhibit@32473 deployment=\"test\"") && l.len() <= 1_400), "{seen}");
    let incident = seen.lines().find(|l| l.contains(" incident ")).expect("an incident");
    assert!(incident.contains("subject=\"a \\\"subject\\\"\\]\"") && incident.contains("...\" shortened=\"yes\"]"), "{incident}");
    let short = seen.lines().filter(|l| l.contains("shortened=")).count();
    assert_eq!(short, 1, "only what is too large is cut\n{seen}");
}
