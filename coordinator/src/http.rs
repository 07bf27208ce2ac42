//! For machines that look after machines: does it live, does it serve, and if not, why; and its metrics. Plain HTTP without
//! any secret or evidence, on an address of its own that the operator chooses; off unless it is.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::parts::Parts;

/// A dependency that does not answer within this is away.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// Checks are done again after so long: who asks more often is told the same, so that asking cannot wear anything out.
const CHECK_EVERY: Duration = Duration::from_secs(2);

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
    let routes =
        Router::new().route("/health", get(async || "alive\n")).route("/ready", get(ready)).route("/metrics", get(metrics)).with_state(ops);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "health and metrics are not served any more");
    }
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
    let now = Readiness { ready: checks.iter().all(|check| check.ok), checks };
    *last = Some((Instant::now(), now.clone()));
    now
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

/// One small listing: to a question for one object a bucket that is gone answers like one that lacks it. Of a store that can
/// be read and not written, uploads say so when they pause.
async fn storage(parts: &Parts) -> Check {
    within("store", async { parts.store.list("probe", None).await.map(|_| ()).map_err(|e| e.to_string()) }).await
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
    within("clock", async { crate::serve::clocks_agree(&parts.leases).await.map_err(|e| e.to_string()) }).await
}
