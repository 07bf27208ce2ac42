//! For machines that look after machines: does it live, does it serve, and if not, why; and its metrics. Plain HTTP without
//! any secret or evidence, on an address of its own that the operator chooses; off unless it is.

mod checks;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::parts::Parts;
use crate::starting::Awaited;

/// Checks are done again after so long: who asks more often is told the same, so that asking cannot wear anything out.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Connections at once, each with a buffer of at most 16 KiB and an answer of some 100 KB: 8 MB. Monitors come one by one.
pub const CONNECTIONS_MAX: usize = 64;
/// A question is asked in this time, counted from the connection.
pub const ASKED_WITHIN: Duration = Duration::from_secs(5);
/// After this time a connection ends, whether its answer was taken or not: the question, the checks of whoever asked before and its
/// own (3 seconds each), and time to take the answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
const BUFFER_BYTES_MAX: usize = 16 << 10;
/// Pause when no connection can be accepted, e.g. because no file can be opened any more.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// One dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// `serving`, `catalog`, `store`, `clock` or `peers`.
    pub name: &'static str,
    /// True when it works.
    pub ok: bool,
    /// What is wrong, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Check {
    const fn new(name: &'static str, problem: Option<String>) -> Self {
        Self { name, ok: problem.is_none(), problem }
    }
}

/// The answer to `/ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// True when agents and people are served and nothing that this needs fails: everything that is asked for can be done.
    pub ready: bool,
    /// Each dependency.
    pub checks: Vec<Check>,
    /// What a person must see to while everybody else is served: logs that take no record.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Debug)]
struct Ops {
    parts: Arc<Parts>,
    stopping: watch::Receiver<bool>,
    last: tokio::sync::Mutex<Option<(Instant, Readiness)>>,
}

/// Serves until `stopping` has been said and the coordinator has ended (the listener's task is then aborted): who asks while
/// it stops hears that it does.
pub async fn serve(listener: TcpListener, parts: Arc<Parts>, stopping: watch::Receiver<bool>) {
    let ops = Arc::new(Ops { parts, stopping, last: tokio::sync::Mutex::default() });
    let routes: Router =
        Router::new().route("/health", get(async || "alive\n")).route("/ready", get(ready)).route("/metrics", get(metrics)).with_state(ops);
    match accept_all(&listener, &routes).await {}
}

/// The same while a coordinator starts: it lives, and does not serve yet. For ever where there is no listener.
pub(crate) async fn serve_starting(listener: Option<&TcpListener>, awaited: &Awaited) -> Infallible {
    let Some(listener) = listener else { return std::future::pending().await };
    let routes: Router = Router::new().route("/health", get(async || "alive\n")).route("/ready", get(starting)).with_state(awaited.clone());
    accept_all(listener, &routes).await
}

async fn starting(State(awaited): State<Awaited>) -> impl IntoResponse {
    let why = awaited
        .now()
        .map_or_else(|| "the coordinator is starting".to_owned(), |what| format!("the coordinator is starting, and waiting for {what}"));
    let serving = Check::new("serving", Some(why));
    (StatusCode::SERVICE_UNAVAILABLE, Json(Readiness { ready: false, checks: vec![serving], notes: Vec::new() }))
}

async fn accept_all(listener: &TcpListener, routes: &Router) -> Infallible {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed, so there is always a permit in the end.
        let permit = Arc::clone(&room).acquire_owned().await;
        match listener.accept().await {
            Ok((tcp, _)) => {
                let routes = routes.clone();
                tokio::spawn(async move {
                    answer(tcp, routes).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for health or metrics cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection, one question. How it ends is the monitor's business.
async fn answer(tcp: TcpStream, routes: Router) {
    let mut server = Builder::new(TokioExecutor::new()).http1_only();
    server.http1().timer(TokioTimer::new()).header_read_timeout(ASKED_WITHIN).keep_alive(false).max_buf_size(BUFFER_BYTES_MAX);
    let connection = server.serve_connection(TokioIo::new(tcp), TowerToHyperService::new(routes));
    let _ = tokio::time::timeout(ANSWERED_WITHIN, connection).await;
}

async fn ready(State(ops): State<Arc<Ops>>) -> impl IntoResponse {
    let readiness = readiness(&ops).await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

async fn metrics(State(ops): State<Arc<Ops>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], ops.parts.measured())
}

async fn readiness(ops: &Ops) -> Readiness {
    let mut last = ops.last.lock().await;
    if let Some((at, known)) = &*last
        && at.elapsed() < CHECK_EVERY
        && !*ops.stopping.borrow()
    {
        return known.clone();
    }
    let mut checks = vec![serving(ops)];
    checks.extend(checks::all(&ops.parts).await);
    let now = Readiness { ready: checks.iter().all(|check| check.ok), checks, notes: notes(&ops.parts) };
    *last = Some((Instant::now(), now.clone()));
    now
}

/// Without names: whoever asks here need not know which cases there are.
fn notes(parts: &Parts) -> Vec<String> {
    let stuck = parts.ledgers.known().news().stuck();
    let words = || format!("{stuck} logs take no record just now: incidents of the kind 'log' or 'log-put-back' say which, and what helps");
    if stuck > 0 { vec![words()] } else { Vec::new() }
}

fn serving(ops: &Ops) -> Check {
    let stopping = ops.stopping.borrow().then(|| "the coordinator is stopping: agents and people go to another one".to_owned());
    Check::new("serving", stopping)
}
