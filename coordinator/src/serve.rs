//! A running coordinator: the parts put together, recovery, timers, the listener, the orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use exhibit_certs::Deployment;
use exhibit_certs::tls::{HotServer, ServerTls, explain_tls_error, peer_from_certificates};
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::log::WitnessKey;
use exhibit_proto::agent::v1::agent_service_server::AgentServiceServer;
use exhibit_proto::responder::v1::responder_service_server::ResponderServiceServer;
use exhibit_proto::transport::server::{self, ConnectionRegistry};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::audit::{self, Audit, Collector, Source};
use crate::catalog::SharedCatalog;
use crate::clock;
use crate::cost::Prices;
use crate::dispatch::{self, Sessions};
use crate::filled::Foreign;
use crate::intake::{self, Uploads};
use crate::ledger::{self, Keys, Known, Ledger, LedgerError, Ledgers};
use crate::metrics::SharedMetrics;
use crate::parts::{Issuing, Parts, Revoked};
use crate::party::Party;
use crate::problem::{Kind, Problem, Result};
use crate::progress::Progress;
use crate::replica::{self, Leases, Outbox, Waiting};
use crate::rpc;
use crate::seal::Sealer;
use crate::stamp::Authority;
use crate::starting::{self, Awaited};
use crate::store::{MeteredStore, Store};

/// How far the clock may be behind the deployment's own records.
const CLOCK_BEHIND_S_MAX: i64 = 300;
/// How far it may be from the clock of the database that several coordinators share.
const CLOCKS_APART_NS_MAX: i64 = 5_000_000_000;

/// What a coordinator is made of.
#[derive(Debug)]
pub struct Setup {
    /// Keys and certificates.
    pub deployment: Deployment,
    /// Evidence and logs.
    pub store: Arc<dyn Store>,
    /// The index.
    pub catalog: SharedCatalog,
    /// Where it listens, bound.
    pub listener: TcpListener,
    /// What intake may use.
    pub intake: intake::Limits,
    /// What connections may use.
    pub connections: server::Limits,
    /// What the operator chose.
    pub rules: Rules,
    /// Witnesses whose cosignatures are accepted.
    pub witnesses: Vec<WitnessKey>,
    /// Timestamp authorities, each with a name of its own.
    pub authorities: Vec<Authority>,
    /// Where health and metrics are served, bound; `None`: nowhere.
    pub http: Option<TcpListener>,
    /// What is done in the background for what lies in the store.
    pub upkeep: Upkeep,
    /// Who is told of events and metrics.
    pub audit: audit::Settings,
    /// What the store's provider takes; `None` for a store that nobody bills.
    pub prices: Option<Prices>,
}

/// What is done in the background for what lies in the store.
#[derive(Debug, Clone, Default)]
pub struct Upkeep {
    /// A copy in a second store.
    pub copy: Option<crate::copy::Second>,
    /// Regular verification.
    pub verify: Option<crate::reverify::Schedule>,
}

/// What the operator chose: lifetimes, and how many persons an order needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Hours that an agent's certificate is valid.
    pub agent_hours: u32,
    /// Longest life of an enrolment token, seconds.
    pub token_life_s_max: u64,
    /// Hours between two looks at every version in the store.
    pub attest_hours: u32,
    /// Cases, and orders in them, are taken only where every order needs a second person's approval.
    pub two_person: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { agent_hours: 24, token_life_s_max: *crate::enroll::TOKEN_LIFE_S.end(), attest_hours: 24, two_person: false }
    }
}

/// A coordinator that serves.
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Where health and metrics are served.
    pub http: Option<SocketAddr>,
    /// Its parts.
    pub parts: Arc<Parts>,
    /// Its TLS configuration, to be replaced when the server certificate was renewed.
    pub tls: Arc<HotServer>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({})", self.addr)
    }
}

/// Starts: keys and log are looked at, what an earlier process left undone is taken up, then the port is served.
///
/// # Errors
/// [`Problem`] with what is wrong and what helps.
pub async fn start(setup: Setup) -> Result<Running> {
    let Setup { deployment, store, catalog, listener, intake, connections, rules, witnesses, authorities, http, upkeep, audit, prices } =
        setup;
    let addr = listener.local_addr().map_err(|e| Problem::new(Kind::Failed, format!("the listener has no address: {e}")))?;
    check_clock(&deployment)?;
    let tls = ServerTls::new(&deployment.server, &deployment.tls_root).map_err(|e| Problem::new(Kind::Failed, e.to_string()))?;
    let tls = Arc::new(HotServer::new(tls));
    let registry = ConnectionRegistry::new();
    let (leases, waiting) = among(&catalog);
    clocks_agree(&leases).await?;
    let awaited = Awaited::default();
    let begun = async {
        let unfilled = || Box::pin(refuse_unfilled(&deployment, &store, &catalog, &leases, &witnesses));
        let foreign = starting::patient(&awaited, "store and catalog", Problem::passes_soon, unfilled).await.map_err(waited_for)?;
        let (chosen, among) = ((intake, rules, witnesses, authorities), (leases, &audit, prices, &awaited));
        let parts = assemble(deployment, (store, upkeep), catalog, chosen, registry.clone(), among).await?;
        Ok::<_, Problem>((foreign, parts))
    };
    let (foreign, parts) = starting::attended(&awaited, (&listener, http.as_ref()), Box::pin(begun)).await?;
    crate::filled::note(&*parts.catalog).await?;
    if let Some(what) = foreign.text() {
        parts.incident(None, "store-foreign", &parts.store.describe(), &what).await;
    }
    let (stop, stopping) = watch::channel(false);
    let together = together(&parts, waiting, &stopping);
    parts.load_revoked().await?;
    let http_addr = http.as_ref().and_then(|listener| listener.local_addr().ok());
    let measuring = audit.otlp.map(|to| tokio::spawn(post_metrics(Arc::clone(&parts), to, stopping.clone())));
    let http = http.map(|listener| tokio::spawn(crate::http::serve(listener, Arc::clone(&parts), stopping.clone())));
    let serving = serve(Arc::clone(&parts), Arc::clone(&tls), listener, connections, registry, stopping);
    parts.audit.started(addr, &parts.store.describe());
    let telling = Arc::clone(&parts);
    let task = tokio::spawn(async move {
        serving.await;
        for task in together {
            let _ = task.await;
        }
        telling.audit.stopped();
        telling.audit.finish().await;
        if let Some(measuring) = measuring {
            let _ = measuring.await;
        }
        if let Some(http) = http {
            http.abort();
        }
    });
    Ok(Running { addr, http: http_addr, parts, tls, stop, task })
}

impl Running {
    /// Stops in order: health says so, uploads and sessions are ended (what was acknowledged is durable), open calls get
    /// their grace, the port is closed.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the server ended badly");
        }
    }
}

/// Posts what is measured until the coordinator stops, and then once more: the last numbers are not lost.
async fn post_metrics(parts: Arc<Parts>, to: Collector, mut stopping: watch::Receiver<bool>) {
    let (source, since) = (Source::own(parts.deployment()), clock::now().unix_ns());
    let mut silent = false;
    loop {
        let last = tokio::time::timeout(to.metrics_every, stopping.wait_for(|stop| *stop)).await.is_ok();
        let posted = audit::post_metrics(&to, &source, &parts.measured(), since, clock::now().unix_ns()).await;
        match &posted {
            Err(why) if !silent => tracing::warn!(why, "metrics cannot be posted to the OpenTelemetry Collector"),
            Ok(()) if silent => tracing::info!("metrics are posted to the OpenTelemetry Collector again"),
            _ => {}
        }
        silent = posted.is_err();
        if last {
            return;
        }
    }
}

/// A clock that is behind would make certificates and records that lie in the past.
fn check_clock(deployment: &Deployment) -> Result<()> {
    use exhibit_evidence::record::Record;
    let now = clock::now();
    let made = match Record::from_payload(deployment.log_enrolment.unverified_payload()) {
        Ok(Record::Enrolment(e)) => e.enrolled_at,
        _ => {
            return Err(Problem::new(
                Kind::Damaged,
                "enrolments/log.dsse.json is not an enrolment record; restore the deployment folder from its backup",
            ));
        }
    };
    if now.plus_s(CLOCK_BEHIND_S_MAX) < made {
        let message = format!("this machine's clock says {now}, but the deployment was made at {made}; set the clock and start again");
        return Err(Problem::new(Kind::Failed, message));
    }
    Ok(())
}

/// This process among the coordinators on its catalog.
fn among(catalog: &SharedCatalog) -> (Arc<Leases>, Option<Waiting>) {
    match catalog.peers() {
        Some(peers) => {
            let (outbox, waiting) = Outbox::new();
            (Leases::among(peers, outbox), Some(waiting))
        }
        None => (Leases::of_one(), None),
    }
}

/// What is said of what a start waited for in vain.
fn waited_for(problem: Problem) -> Problem {
    if problem.passes_soon() { Problem::new(problem.kind(), starting::given_up(&problem)) } else { problem }
}

/// All coordinators on a catalog must agree on the time, which records and deadlines are written with: the database's is what
/// they are measured by.
async fn clocks_agree(leases: &Leases) -> Result<()> {
    match clocks_apart(leases).await? {
        None => Ok(()),
        Some(apart) => Err(Problem::new(Kind::Failed, format!("{apart}, and start again"))),
    }
}

/// By how much they differ and what helps; `None` when they agree.
pub(crate) async fn clocks_apart(leases: &Leases) -> Result<Option<String>> {
    let Some(peers) = leases.peers() else { return Ok(None) };
    let ahead_ns = peers.clock_ahead_ns().await?;
    if ahead_ns.saturating_abs() <= CLOCKS_APART_NS_MAX {
        return Ok(None);
    }
    Ok(Some(apart_in_words(ahead_ns)))
}

/// `ahead_ns`: the database's clock minus this machine's.
fn apart_in_words(ahead_ns: i64) -> String {
    let which = if ahead_ns > 0 { "behind" } else { "ahead of" };
    format!(
        "this machine's clock is {} s {which} the one of the PostgreSQL server, at most {} are allowed; set the clocks (NTP)",
        ahead_ns.unsigned_abs() / 1_000_000_000,
        CLOCKS_APART_NS_MAX / 1_000_000_000
    )
}

/// What listens to the other coordinators, and tells them.
fn together(parts: &Arc<Parts>, waiting: Option<Waiting>, stopping: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
    let (Some(peers), Some(waiting)) = (parts.leases.peers(), waiting) else { return Vec::new() };
    vec![
        tokio::spawn(waiting.run(Arc::clone(peers), stopping.clone())),
        tokio::spawn(replica::follow(Arc::clone(parts), Arc::clone(peers), stopping.clone())),
    ]
}

/// Refuses an empty catalog over a full store before anything is written into it, the newest heads of logs among it: an import takes an
/// empty one only. So it looks by logs that no catalog stands behind.
async fn refuse_unfilled(
    deployment: &Deployment,
    store: &Arc<dyn Store>,
    catalog: &SharedCatalog,
    leases: &Arc<Leases>,
    witnesses: &[WitnessKey],
) -> Result<Foreign> {
    // The logs take their key by value.
    let log = SigningKey::from_text(&deployment.log_key.to_text())
        .ok_or_else(|| Problem::new(Kind::Failed, "the log key does not survive its own text; restore log.key from its backup"))?;
    let keys = Keys { anchor: deployment.anchor.clone(), log, witnesses: witnesses.to_vec() };
    let ledgers = Ledgers::among(Arc::clone(store), keys, Arc::clone(leases), Audit::default(), Known::default());
    crate::filled::check(&**catalog, &ledgers).await
}

/// The deployment's log; that it is refused is kept for when it can be written to again.
async fn open_deployment_log(ledgers: &Ledgers, catalog: &SharedCatalog, awaited: &Awaited) -> Result<Ledger> {
    let passes = |e: &LedgerError| e.kind() == ledger::Kind::Retry && !e.needs_a_person();
    let opened = starting::patient(awaited, "the store, for the deployment's log", passes, || ledgers.deployment()).await;
    if opened.is_err() {
        crate::incidents::keep_refused_logs(catalog, ledgers).await;
    }
    opened.map_err(|e| if passes(&e) { waited_for(e.into()) } else { e.into() })
}

async fn assemble(
    deployment: Deployment,
    (store, upkeep): (Arc<dyn Store>, Upkeep),
    catalog: SharedCatalog,
    (intake, rules, witnesses, authorities): (intake::Limits, Rules, Vec<WitnessKey>, Vec<Authority>),
    registry: ConnectionRegistry,
    (leases, audit, prices, awaited): (Arc<Leases>, &audit::Settings, Option<Prices>, &Awaited),
) -> Result<Arc<Parts>> {
    let metrics = SharedMetrics::default();
    let audit = Audit::start(audit, &Source::own(deployment.name.as_str()), &metrics);
    let Upkeep { copy, verify } = upkeep;
    let second = copy.as_ref().map(|copy| Arc::clone(&copy.store));
    let store: Arc<dyn Store> = Arc::new(MeteredStore::new(store, second, Arc::clone(&metrics)));
    let anchor = serde_json::to_vec_pretty(&deployment.anchor).map_err(|e| Problem::new(Kind::Failed, e.to_string()))?;
    let log_key = deployment.log_key.public().id();
    let keys = Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses };
    let known = Known::of(Arc::clone(&catalog));
    let ledgers = Ledgers::among(Arc::clone(&store), keys, Arc::clone(&leases), audit.clone(), known);
    let deployment_log = open_deployment_log(&ledgers, &catalog, awaited).await?;
    for key in [log_key, deployment.issuer_key.public().id()] {
        if deployment_log.key_ring().holder(key).is_none() {
            let message =
                format!("key {key} of the coordinator is not enrolled in the deployment's log; is this the store of another deployment?");
            return Err(Problem::new(Kind::Failed, message));
        }
    }
    let issuing = Issuing {
        authority: deployment.issuing,
        tls_root: deployment.tls_root.to_vec(),
        key: deployment.issuer_key,
        enrolment: deployment.issuer_enrolment,
        deployment: deployment.name,
        anchor,
        rules,
    };
    Ok(Arc::new(Parts {
        catalog,
        store,
        copy,
        verify,
        metrics,
        audit,
        prices,
        ledgers,
        deployment_log,
        issuing,
        progress: Progress::new(leases.outbox().clone()),
        leases,
        out_of_time: AtomicBool::new(false),
        proofs: replica::Proofs::default(),
        sessions: Sessions::default(),
        unoffered: dispatch::Unoffered::default(),
        untaken: dispatch::cases::Untaken::default(),
        unsettled: dispatch::orders::Unsettled::default(),
        uploads: Uploads::new(intake),
        authorities,
        sealer: Sealer::default(),
        condemned: crate::custody::Condemned::default(),
        attesting: crate::attest::Desk::default(),
        disconnect: Box::new(move |name| {
            registry.disconnect(name);
        }),
        revoked: Revoked::default(),
        recent_incidents: crate::incidents::Recent::default(),
        recorded_incidents: crate::incidents::Recorded::default(),
    }))
}

async fn serve(
    parts: Arc<Parts>,
    tls: Arc<HotServer>,
    listener: TcpListener,
    limits: server::Limits,
    registry: ConnectionRegistry,
    stopping: watch::Receiver<bool>,
) {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServiceServer<rpc::Agents>>().await;
    health.set_serving::<ResponderServiceServer<rpc::Responders>>().await;
    let services = rpc::services(&parts, health_service);
    let timers = tokio::spawn(dispatch::run_timers(Arc::clone(&parts), stopping.clone()));
    let chores = tokio::spawn(replica::run_chores(Arc::clone(&parts), stopping.clone()));
    let attesting = tokio::spawn(crate::attest::run_asked(Arc::clone(&parts), stopping.clone()));
    let mut stop = stopping.clone();
    let for_end = Arc::clone(&parts);
    let shutdown = async move {
        let _ = stop.wait_for(|s| *s).await;
        health.set_not_serving::<AgentServiceServer<rpc::Agents>>().await;
        health.set_not_serving::<ResponderServiceServer<rpc::Responders>>().await;
        for_end.uploads.cut_all();
        for_end.sessions.cut_all();
        for_end.progress.end_watches();
    };
    server::serve(listener, transport_tls(&tls, &parts.audit), services, limits, registry, shutdown).await;
    let _ = timers.await;
    let _ = chores.await;
    let _ = attesting.await;
    parts.sealer.idle(Duration::from_secs(10)).await;
}

fn transport_tls(tls: &Arc<HotServer>, audit: &Audit) -> server::Tls<Party> {
    let (main, enroll) = (Arc::clone(tls), Arc::clone(tls));
    let (signed_in, refused) = (audit.clone(), audit.clone());
    server::Tls {
        main: Arc::new(move || Arc::clone(&main.current().main)),
        enroll: Arc::new(move || Arc::clone(&enroll.current().enroll)),
        identify: Arc::new(move |from, chain| {
            let identity = peer_from_certificates(chain).map_err(|e| e.to_string())?;
            signed_in.signed_in(&identity.name, identity.evidence_key, from, &identity.serial);
            let left_ns = identity.not_after.unix_ns().saturating_sub(clock::now().unix_ns());
            Ok(server::Identity {
                name: Party { name: identity.name, key: identity.evidence_key },
                serial: identity.serial,
                leaf_sha256: identity.leaf_sha256,
                valid_for: Duration::from_nanos(u64::try_from(left_ns).unwrap_or(0)),
            })
        }),
        explain: explain_tls_error,
        refused: server::tell_refused(move |from, why, left_out| refused.connection_refused(from, why, left_out)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn only_what_passes_by_waiting_was_waited_for() {
        let disturbed = StoreError::new(crate::store::Kind::Retry, "could not list: 503", "it is tried again");
        let said = waited_for(disturbed.into()).to_string();
        assert!(said.contains("503") && said.contains("it was tried again for 300 s"), "{said}");
        let said = waited_for(StoreError::unheard("could not list: 401", "renew the credentials").into()).to_string();
        assert!(said.contains("renew the credentials") && !said.contains("tried again"), "{said}");
    }

    #[test]
    fn whose_clock_is_ahead_is_said_without_a_sign() {
        let said = apart_in_words(-599_500_000_000);
        assert!(said.starts_with("this machine's clock is 599 s ahead of the one of the PostgreSQL server"), "{said}");
        let said = apart_in_words(6_000_000_000);
        assert!(said.starts_with("this machine's clock is 6 s behind the one of the PostgreSQL server"), "{said}");
    }
}
