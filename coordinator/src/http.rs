//! For machines that look after machines: does it live, does it serve, and if not, why; and its metrics. Plain HTTP without
//! any secret or evidence, on an address of its own that the operator chooses; off unless it is.

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

/// A dependency that does not answer within this is away.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// Checks are done again after so long: who asks more often is told the same, so that asking cannot wear anything out.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Connections at once, each with a buffer of at most 16 KiB and an answer of some 100 KB: 8 MB. Monitors come one by one.
pub const CONNECTIONS_MAX: usize = 64;
/// A question is asked in this time, counted from the connection.
pub const ASKED_WITHIN: Duration = Duration::from_secs(5);
/// After this time a connection ends, whether its answer was taken or not: the question, the checks of whoever asked before and its
/// own ([`CHECK_TIMEOUT`] each), and time to take the answer.
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

/// The answer to `/ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// True when agents and people are served.
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
    let serving = Check { name: "serving", ok: false, problem: Some(why) };
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
    let (parts, serving) = (&ops.parts, serving(ops));
    let (catalog, storage, time, peers) = tokio::join!(catalog(parts), storage(parts), time(parts), peers(parts));
    let checks = vec![serving, catalog, storage, time, peers];
    let now = Readiness { ready: checks.iter().all(|check| check.ok), checks, notes: notes(parts) };
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
    Check { name: "serving", ok: stopping.is_none(), problem: stopping }
}

async fn within(name: &'static str, check: impl Future<Output = Result<(), String>>) -> Check {
    let late = || Err(format!("no answer within {} s", CHECK_TIMEOUT.as_secs()));
    let problem = tokio::time::timeout(CHECK_TIMEOUT, check).await.unwrap_or_else(|_| late()).err();
    Check { name, ok: problem.is_none(), problem }
}

async fn catalog(parts: &Parts) -> Check {
    within("catalog", async { parts.catalog.healthy().await.map_err(|e| e.to_string()) }).await
}

/// One small listing: to a question for one object a bucket that is gone answers like one that lacks it. And whether the
/// last write was refused; one that is only late, or for which there is no room, uploads say when they pause.
async fn storage(parts: &Parts) -> Check {
    let works = async {
        parts.store.list("probe", None).await.map_err(|e| e.to_string())?;
        parts.store.refuses_writes().map_or(Ok(()), |why| Err(format!("writes are refused: {why}")))
    };
    within("store", works).await
}

/// Among several coordinators: whether the others see this one, without which it has no rights.
async fn peers(parts: &Parts) -> Check {
    let seen = async {
        let Some(peers) = parts.leases.peers() else { return Ok(()) };
        match peers.is_seen().await {
            Ok(true) => Ok(()),
            Ok(false) => Err("the connection to PostgreSQL by which others see this coordinator is being made".to_owned()),
            Err(e) => Err(e.to_string()),
        }
    };
    within("peers", seen).await
}

async fn time(parts: &Parts) -> Check {
    let agree = async {
        match crate::serve::clocks_apart(&parts.leases).await {
            Ok(None) => Ok(()),
            Ok(Some(apart)) => Err(format!("{apart}; nobody is served until they agree, then it goes on by itself")),
            Err(e) => Err(e.to_string()),
        }
    };
    within("clock", agree).await
}
