//! A deployment with one agent in this process: the coordinator's and the agent's libraries over a real folder and a
//! real catalog, talking over real mutual TLS through the proxy.
//!
//! A template (deployment, enrolled agent, open case) is made once and copied for each run. The coordinator has a
//! runtime of its own: to drop that runtime is the nearest thing to the death of its process.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use exhibit_agent::custody;
use exhibit_agent::pipeline::Memory;
use exhibit_agent::session::{Agent, Parts};
use exhibit_agent::state::State;
use exhibit_certs::credential::Credential;
use exhibit_certs::deployment::{self, Deployment};
use exhibit_certs::issue::ServerNames;
use exhibit_coordinator::catalog::faulty::{self as catalog, FaultyCatalog};
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::catalog::{CollectionRow, SharedCatalog};
use exhibit_coordinator::dispatch;
use exhibit_coordinator::ledger::{Keys, Ledgers};
use exhibit_coordinator::serve::{self, Running, Setup};
use exhibit_coordinator::store::faulty::{self as store, FaultyStore};
use exhibit_coordinator::store::{LocalStore, Store};
use exhibit_coordinator::{audit, clock, enroll, intake};
use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::record::{self, CaptureSpec, CaseOpened, Limits, Nonce, Order, Tool};
use exhibit_proto::transport::server;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::checks::Facts;
use crate::proxy::Proxy;

/// Two segments are on their way at once, so that one may break while the next is received.
pub const MEMORY: Memory = Memory { segments_in_flight: 2, workers: 1 };

/// What every run begins with.
pub struct Template {
    dir: tempfile::TempDir,
    /// What is collected.
    pub source: tempfile::TempDir,
    /// For every regular file of it, by path below it: its size and digest.
    pub facts: Facts,
    case: CaseId,
    tool: Tool,
}

/// A folder that costs no disk writes where the machine has one: what a process leaves behind when it dies is the same.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(dir) = tempfile::tempdir_in(memory)
    {
        return dir;
    }
    tempfile::tempdir().expect("temporary folder")
}

/// Copies a folder with the rights of what is in it.
fn copy_all(from: &Path, to: &Path) {
    let mode = from.metadata().expect("stat").permissions().mode();
    std::fs::DirBuilder::new().recursive(true).mode(mode & 0o7777).create(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("list").filter_map(Result::ok) {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copy");
        }
    }
}

impl Template {
    /// With a source of about so many bytes that do not compress.
    pub async fn make(noise_bytes: usize) -> Arc<Self> {
        let dir = folder();
        let params = deployment::Params {
            name: "test".parse().expect("name"),
            admin: "ada".parse().expect("name"),
            server: ServerNames::parse(&["localhost", "127.0.0.1"]).expect("names"),
        };
        let new = deployment::create(&params, &deployment::Seeds::draw().expect("random"), clock::now()).expect("deployment");
        new.write(&dir.path().join("deployment")).expect("written");
        new.admin.write(&dir.path().join("admin")).expect("written");
        let store: Arc<dyn Store> = Arc::new(LocalStore::create(&dir.path().join("store")).expect("store"));
        SqliteCatalog::create(&dir.path().join("catalog.sqlite")).await.expect("catalog").close().await;
        let d = Deployment::load(&dir.path().join("deployment")).expect("deployment");
        let ledgers = Ledgers::new(store, Keys { anchor: d.anchor, log: d.log_key, witnesses: Vec::new() });
        let mut enrolments = vec![d.log_enrolment, d.issuer_enrolment];
        enrolments.extend(new.admin.enrolments.iter().cloned());
        ledgers.deployment().await.expect("log").append(enrolments).await.expect("enrolled");
        drop(ledgers);
        let case = enroll_and_open(dir.path(), &new.admin).await;
        let source = tempfile::tempdir().expect("temporary folder");
        exhibit_tests::awkward_tree_of(source.path(), noise_bytes, 200 << 10);
        let facts = exhibit_tests::tree_facts(source.path()).into_iter().map(|(name, (size, _, _, sha256))| (name, (size, sha256)));
        let facts = facts.collect();
        Arc::new(Self { dir, source, facts, case, tool: custody::tool().expect("own binary") })
    }
}

/// A coordinator over the folder enrols an agent and opens a case.
async fn enroll_and_open(dir: &Path, admin: &Credential) -> CaseId {
    let coordinator = Coordinator::start(dir, &Faults::default()).await.expect("the first coordinator starts");
    let parts = Arc::clone(&coordinator.running.parts);
    let me = admin.name().to_string();
    let (token, _) = enroll::create_token(&parts, &me, 3_600, 1, BTreeMap::new()).await.expect("token");
    let request = exhibit_agent::enroll::Request {
        coordinator: &format!("127.0.0.1:{}", coordinator.port()).parse().expect("address"),
        ca_sha256: Deployment::load(&dir.join("deployment")).expect("deployment").tls_root_sha256(),
        token: &token,
        dir: &dir.join("agent"),
    };
    exhibit_agent::enroll::enroll(&request).await.expect("enrolled");
    let opened = CaseOpened {
        case: CaseId::new(clock::now().unix_ms(), clock::random()),
        deployment: "test".to_owned(),
        title: "a case".to_owned(),
        legal_basis: "a test".to_owned(),
        accountable: "the tester".to_owned(),
        opened_by: me.clone(),
        opened_at: clock::now(),
        two_person: false,
        encrypt_to: exhibit_evidence::age::Recipients::default(),
    };
    let envelope = record::sign(&opened, &admin.evidence).expect("small");
    dispatch::cases::open(&parts, &me, &envelope).await.expect("opened");
    drop(parts);
    coordinator.sqlite.close().await;
    opened.case
}

/// What is to fail in store and catalog.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Of the store.
    pub store: store::Faults,
    /// Of the catalog.
    pub catalog: catalog::Faults,
}

/// A coordinator that runs in its own runtime.
pub struct Coordinator {
    runtime: Option<tokio::runtime::Runtime>,
    /// Its parts.
    pub running: Running,
    /// Its store.
    pub store: FaultyStore,
    /// Its catalog.
    pub catalog: FaultyCatalog,
    /// The catalog beneath, for looking without being counted.
    pub sqlite: SqliteCatalog,
}

impl Coordinator {
    /// Starts over the folder, with the faults that are planned.
    async fn start(dir: &Path, faults: &Faults) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let dir = dir.to_owned();
        let faults = faults.clone();
        let started = runtime.spawn(async move {
            let local: Arc<dyn Store> = Arc::new(LocalStore::open(&dir.join("store")).map_err(|e| e.to_string())?);
            let sqlite = SqliteCatalog::open(&dir.join("catalog.sqlite")).await.map_err(|e| e.to_string())?;
            let beneath: SharedCatalog = Arc::new(sqlite.clone());
            let (store, catalog) = (FaultyStore::with(local, faults.store), FaultyCatalog::with(beneath, faults.catalog));
            let setup = Setup {
                deployment: Deployment::load(&dir.join("deployment")).map_err(|e| e.to_string())?,
                store: Arc::new(store.clone()),
                catalog: Arc::new(catalog.clone()),
                listener: tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?,
                intake: intake::Limits { free_bytes_min: 0, ..intake::Limits::default() },
                connections: server::Limits { grace: Duration::from_secs(1), ..server::Limits::default() },
                rules: serve::Rules::default(),
                witnesses: Vec::new(),
                authorities: Vec::new(),
                http: None,
                upkeep: serve::Upkeep::default(),
                audit: audit::Settings::default(),
                prices: None,
            };
            // A process that dies while it starts answers nothing.
            let running = tokio::select! {
                running = serve::start(setup) => running.map_err(|e| e.to_string())?,
                () = store.died() => return Err("died".to_owned()),
                () = catalog.died() => return Err("died".to_owned()),
            };
            Ok((running, store, catalog, sqlite))
        });
        match started.await.expect("starting does not panic") {
            Ok((running, store, catalog, sqlite)) => Ok(Self { runtime: Some(runtime), running, store, catalog, sqlite }),
            Err(e) => {
                runtime.shutdown_background();
                Err(e)
            }
        }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.running.addr.port()
    }

    /// Waits until an operation came that never answers: the process is to die there.
    pub async fn died(&self) {
        tokio::select! {
            () = self.store.died() => {}
            () = self.catalog.died() => {}
        }
    }
}

/// Ends as a process dies: nothing is told to anybody, every task stops where it is.
impl Drop for Coordinator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One run's world.
pub struct World {
    dir: tempfile::TempDir,
    /// What it was copied from.
    pub template: Arc<Template>,
    /// Between agent and coordinator.
    pub proxy: Proxy,
    /// The coordinator, unless it is dead just now.
    pub coordinator: Option<Coordinator>,
    /// What is to fail; outlives a coordinator.
    pub faults: Faults,
    admin: Credential,
    agent: Option<(JoinHandle<()>, watch::Sender<bool>)>,
}

impl World {
    /// Copies the template and starts the coordinator and the agent, which finds it.
    pub async fn start(template: &Arc<Template>) -> Self {
        let dir = folder();
        let (from, to) = (template.dir.path().to_owned(), dir.path().to_owned());
        tokio::task::spawn_blocking(move || copy_all(&from, &to)).await.expect("copied");
        let faults = Faults::default();
        let coordinator = Coordinator::start(dir.path(), &faults).await.expect("starts");
        let proxy = Proxy::start().await;
        proxy.lead_to(coordinator.port());
        let admin = Credential::load(&dir.path().join("admin")).expect("admin");
        let mut world = Self { dir, template: Arc::clone(template), proxy, coordinator: Some(coordinator), faults, admin, agent: None };
        world.start_agent();
        let id = world.agent_id();
        while !world.coordinator().running.parts.sessions.is_online(&id) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world
    }

    fn start_agent(&mut self) {
        let dir = self.dir.path().join("agent");
        let parts = Parts {
            state: State::open(&dir).expect("state"),
            credential: Credential::load(&dir).expect("credential"),
            coordinators: vec![self.proxy.addr.to_string().parse().expect("address")],
            policy: dir.join("policy.toml"),
            memory: MEMORY,
            tool: self.template.tool.clone(),
        };
        let (stop, stopped) = watch::channel(false);
        self.agent = Some((tokio::spawn(Agent::new(parts).expect("agent").run(stopped)), stop));
    }

    /// The agent's id.
    pub fn agent_id(&self) -> AgentId {
        Credential::load(&self.dir.path().join("agent")).expect("credential").name().agent().expect("an agent").clone()
    }

    /// The coordinator that runs.
    pub fn coordinator(&self) -> &Coordinator {
        self.coordinator.as_ref().expect("the coordinator runs")
    }

    /// The anchor.
    pub fn anchor(&self) -> &Anchor {
        &self.admin.anchor
    }

    /// The store's folder.
    pub fn store_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The case.
    pub fn case(&self) -> &CaseId {
        &self.template.case
    }

    /// A signed order for the source, and the collection that it will be.
    pub async fn order(&self) -> (Envelope, CollectionId) {
        self.order_with(Limits::default()).await
    }

    /// [`World::order`] with limits.
    pub async fn order_with(&self, limits: Limits) -> (Envelope, CollectionId) {
        let parts = &self.coordinator().running.parts;
        let ledger = parts.ledgers.case(self.case()).await.expect("log");
        let now = clock::now();
        let paths = format!("{}/**", self.template.source.path().display());
        let order = Order {
            order: OrderId::new(now.unix_ms(), clock::random()),
            case: self.case().clone(),
            predecessor: ledger.case_opened().expect("opened").digest,
            targets: vec![self.agent_id()],
            profile: None,
            captures: vec![CaptureSpec { name: "files".to_owned(), params: BTreeMap::from([("paths".to_owned(), paths)]) }],
            limits,
            legal_basis: "works agreement, section 4".to_owned(),
            reason: "a test".to_owned(),
            issued_by: self.admin.name().to_string(),
            issued_at: now,
            expires_at: now.plus_s(3_600),
            nonce: Nonce { size: ledger.size(), root: ledger.head().root },
        };
        let envelope = record::sign(&order, &self.admin.evidence).expect("small");
        let collection = CollectionId::of(&envelope.digest(), &self.agent_id());
        (envelope, collection)
    }

    /// Submits an order once; it may be repeated.
    pub async fn submit(&self, order: &Envelope) -> Result<(), String> {
        let Some(coordinator) = &self.coordinator else { return Err("there is no coordinator".to_owned()) };
        let (parts, me, order) = (Arc::clone(&coordinator.running.parts), self.admin.name().to_string(), order.clone());
        // In the coordinator's own runtime, so that it ends with it.
        let done = coordinator
            .runtime
            .as_ref()
            .expect("runs")
            .spawn(async move { dispatch::admit::submit(&parts, &me, &order).await.map(|_| ()) });
        match done.await {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// The collection's row, looked at beneath the faults; `None` while there is none, or no coordinator.
    pub async fn row(&self, collection: &CollectionId) -> Option<CollectionRow> {
        use exhibit_coordinator::catalog::Catalog as _;
        self.coordinator.as_ref()?.sqlite.collection(collection.clone()).await.ok().flatten()
    }

    /// Drops the coordinator; connections break.
    pub fn crash(&mut self) {
        self.proxy.lead_to(0);
        self.coordinator = None;
    }

    /// Starts a coordinator over what the last one left. A process that dies at its start is started again.
    pub async fn restart(&mut self) {
        self.crash();
        let mut last = String::new();
        for _ in 0..500 {
            match Coordinator::start(self.dir.path(), &self.faults).await {
                Ok(coordinator) => {
                    self.proxy.lead_to(coordinator.port());
                    self.coordinator = Some(coordinator);
                    return;
                }
                // The dead one's last write holds the lock for a moment; or a fault met the start.
                Err(e) => last = e,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the coordinator does not start again: {last}");
    }

    /// Tells the agent to end; true when it did within the limit, which it does only if nothing keeps it.
    pub async fn end_agent(&mut self, limit: Duration) -> bool {
        let Some((task, stop)) = self.agent.take() else { return true };
        stop.send_replace(true);
        let abort = task.abort_handle();
        let ended = tokio::time::timeout(limit, task).await.is_ok();
        abort.abort();
        ended
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((task, _)) = self.agent.take() {
            task.abort();
        }
    }
}
