//! A whole coordinator on loopback with real certificates, a person and agents that speak the real protocol.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use exhibit_certs::credential::{Credential, Pending, TlsIdentity};
use exhibit_certs::deployment::{self, Deployment};
use exhibit_certs::issue::ServerNames;
use exhibit_certs::tls::{HotClient, client_config, enroll_client_config, explain_tls_error};
use exhibit_certs::{enrol, random};
use exhibit_coordinator::catalog::SharedCatalog;
use exhibit_coordinator::catalog::faulty::{self, FaultyCatalog};
use exhibit_coordinator::catalog::postgres::{PostgresCatalog, Settings};
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::config::PricesConfig;
use exhibit_coordinator::ledger::{Keys, Ledgers};
use exhibit_coordinator::problem::Problem;
use exhibit_coordinator::serve::{self, Running, Setup};
use exhibit_coordinator::stamp::Authority;
use exhibit_coordinator::store::faulty::{Faults, FaultyStore};
use exhibit_coordinator::store::{LocalStore, RemoteSettings, RemoteStore, Store};
use exhibit_coordinator::{audit, clock, intake};
use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::record::{self, CaptureSpec, CaseOpened, Limits, Nonce, Order, Revocation, Role};
use exhibit_evidence::{Digest, Timestamp};
use exhibit_proto::agent::v1 as wire;
use exhibit_proto::agent::v1::enrollment_service_client::EnrollmentServiceClient;
use exhibit_proto::responder::v1 as people;
use exhibit_proto::responder::v1::responder_service_client::ResponderServiceClient;
use exhibit_proto::transport::{client, server};
use tonic::transport::Channel;

pub type People = ResponderServiceClient<Channel>;

pub struct World {
    pub dir: tempfile::TempDir,
    pub place: Place,
    pub running: Option<Running>,
    pub admin: Credential,
    pub people: People,
    pub port: u16,
    /// What fails in the store; shared with the processes to come.
    pub faults: Faults,
    /// What the next start asks of the store: with more than any disk has, every upload waits for room.
    pub free_bytes_min: u64,
    /// What the next start wants of every case and order.
    pub two_person: bool,
}

/// Where catalog and store are.
#[derive(Default)]
pub struct Place {
    /// The database, where several coordinators share it; without one each has a file.
    pub database: Option<Settings>,
    /// The catalog's file, where it is not the first one any more.
    pub catalog_file: Option<PathBuf>,
    /// What fails in the catalog.
    pub catalog_faults: Option<faulty::Faults>,
    /// The store, when it is not a folder.
    pub remote: Option<RemoteSettings>,
    /// What is done in the background for it.
    pub upkeep: serve::Upkeep,
    /// Who is told of events and metrics.
    pub audit: audit::Settings,
    /// Timestamp authorities.
    pub authorities: Vec<Authority>,
}

fn sub(dir: &tempfile::TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}

async fn run(dir: &tempfile::TempDir, place: &Place, port: u16, rules: (u64, bool), faults: &Faults) -> Running {
    try_run(dir, place, port, rules, faults).await.expect("starts")
}

async fn try_run(
    dir: &tempfile::TempDir,
    place: &Place,
    port: u16,
    (free_bytes_min, two_person): (u64, bool),
    faults: &Faults,
) -> Result<Running, Problem> {
    let deployment = Deployment::load(&sub(dir, "deployment")).expect("deployment");
    let store: Arc<dyn Store> = match &place.remote {
        Some(settings) => Arc::new(RemoteStore::open(settings).expect("store")),
        None => Arc::new(LocalStore::open(&sub(dir, "store")).expect("store")),
    };
    let store: Arc<dyn Store> = Arc::new(FaultyStore::with(store, faults.clone()));
    let catalog: SharedCatalog = if let Some(settings) = &place.database {
        Arc::new(PostgresCatalog::open(settings).await.expect("catalog"))
    } else {
        let file = place.catalog_file.clone().unwrap_or_else(|| sub(dir, "catalog.sqlite"));
        Arc::new(SqliteCatalog::open(&file).await.expect("catalog"))
    };
    let catalog: SharedCatalog = match &place.catalog_faults {
        Some(faults) => Arc::new(FaultyCatalog::with(catalog, faults.clone())),
        None => catalog,
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("port");
    let connections = server::Limits { grace: Duration::from_secs(1), ..server::Limits::default() };
    let setup = Setup {
        deployment,
        store,
        catalog,
        listener,
        intake: intake::Limits { free_bytes_min, ..intake::Limits::default() },
        connections,
        rules: serve::Rules { two_person, ..serve::Rules::default() },
        witnesses: Vec::new(),
        authorities: place.authorities.clone(),
        http: Some(tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("port")),
        upkeep: place.upkeep.clone(),
        audit: place.audit.clone(),
        prices: place.remote.as_ref().map(|r| PricesConfig::default().prices(r.lock.is_some()).expect("prices")),
    };
    Box::pin(serve::start(setup)).await
}

pub async fn channel(credential: &Credential, port: u16) -> Result<Channel, String> {
    let hot = Arc::new(HotClient::new(client_config(&credential.tls, &credential.tls_root).map_err(|e| e.to_string())?));
    let target = client::Target {
        address: format!("localhost:{port}").parse().expect("address"),
        tls: Arc::new(move || hot.current()),
        explain: explain_tls_error,
    };
    client::connect(&target, &client::Settings::bulk()).await.map_err(|e| e.to_string())
}

impl World {
    pub async fn start() -> Self {
        Self::start_on(Place::default()).await
    }

    /// The first coordinator of a world whose catalog or store is elsewhere.
    pub async fn start_on(place: Place) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let params = deployment::Params {
            name: "test".parse().expect("name"),
            admin: "ada".parse().expect("name"),
            server: ServerNames::parse(&["localhost", "127.0.0.1"]).expect("names"),
        };
        let seeds = deployment::Seeds::draw().expect("random");
        let new = deployment::create(&params, &seeds, clock::now()).expect("deployment");
        new.write(&sub(&dir, "deployment")).expect("written");
        let store: Arc<dyn Store> = match &place.remote {
            Some(settings) => Arc::new(RemoteStore::open(settings).expect("store")),
            None => Arc::new(LocalStore::create(&sub(&dir, "store")).expect("store")),
        };
        match &place.database {
            Some(settings) => PostgresCatalog::create(settings).await.expect("catalog").close().await,
            None => drop(SqliteCatalog::create(&sub(&dir, "catalog.sqlite")).await.expect("catalog")),
        }
        let admin = new.admin;
        let deployment = Deployment::load(&sub(&dir, "deployment")).expect("deployment");
        let ledgers = Ledgers::new(store, Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() });
        let mut enrolments = vec![deployment.log_enrolment, deployment.issuer_enrolment];
        enrolments.extend(admin.enrolments.iter().cloned());
        ledgers.deployment().await.expect("log").append(enrolments).await.expect("enrolled");
        drop(ledgers);
        let faults = Faults::default();
        let running = run(&dir, &place, 0, (0, false), &faults).await;
        let port = running.addr.port();
        let people = ResponderServiceClient::new(channel(&admin, port).await.expect("connects"));
        Self { dir, place, running: Some(running), admin, people, port, faults, free_bytes_min: 0, two_person: false }
    }

    /// Another coordinator over the same store and database, and a person's connection to it.
    pub async fn another(&self) -> (Running, People) {
        let running = run(&self.dir, &self.place, 0, (0, self.two_person), &self.faults).await;
        let people = ResponderServiceClient::new(channel(&self.admin, running.addr.port()).await.expect("connects"));
        (running, people)
    }

    /// Stops the coordinator and starts another one over the same store and catalog, on the same port.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.running = Some(run(&self.dir, &self.place, self.port, (self.free_bytes_min, self.two_person), &self.faults).await);
        self.people = ResponderServiceClient::new(channel(&self.admin, self.port).await.expect("connects"));
    }

    /// Starts a coordinator that was stopped, over what `place` says now; why not, when it refuses.
    pub async fn try_start(&mut self) -> Result<(), String> {
        let rules = (self.free_bytes_min, self.two_person);
        match try_run(&self.dir, &self.place, self.port, rules, &self.faults).await {
            Ok(running) => self.running = Some(running),
            Err(e) => {
                // Other tasks may hold the catalog for a moment; its lock must be free for the next one.
                tokio::time::sleep(Duration::from_millis(200)).await;
                return Err(e.to_string());
            }
        }
        self.people = ResponderServiceClient::new(channel(&self.admin, self.port).await.expect("connects"));
        Ok(())
    }

    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            let catalog = Arc::clone(&running.parts.catalog);
            running.stop().await;
            // Other tasks may hold the catalog for a moment; its lock must be free for the next one.
            for _ in 0..100 {
                if Arc::strong_count(&catalog) == 1 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("runs")
    }

    pub fn store_dir(&self) -> PathBuf {
        sub(&self.dir, "store")
    }

    pub fn anchor(&self) -> Anchor {
        self.admin.anchor.clone()
    }

    pub fn me(&self) -> String {
        self.admin.name().to_string()
    }

    pub async fn token(&mut self, uses: u32) -> people::CreateTokenResponse {
        let request = people::CreateTokenRequest { ttl_s: 0, uses, labels: BTreeMap::from([("site".to_owned(), "lab".to_owned())]) };
        self.people.create_token(request).await.expect("token").into_inner()
    }

    /// Enrols an agent over the real enrolment port.
    pub async fn enroll(&mut self, name: &str) -> Credential {
        let token = self.token(1).await;
        let dir = sub(&self.dir, name);
        enroll_with(self.port, &token.token, Digest::try_from(token.ca_sha256.as_slice()).expect("digest"), &dir, name)
            .await
            .expect("enrolled")
    }

    /// Enrols a person as people are enrolled: own keys, an admin's signature, a certificate from the coordinator.
    pub async fn person(&mut self, name: &str, roles: &[Role], cases: Option<Vec<CaseId>>) -> (Credential, People) {
        self.person_in(name, name, roles, cases).await
    }

    /// [`World::person`] with keys that lie in a folder of another name: one person may have several.
    pub async fn person_in(&mut self, folder: &str, name: &str, roles: &[Role], cases: Option<Vec<CaseId>>) -> (Credential, People) {
        let name: exhibit_certs::PeerName = format!("spiffe://test/responder/{name}").parse().expect("name");
        let pending = Pending::take_up(&sub(&self.dir, folder), &random::seed().expect("random")).expect("keys");
        let enrolment = self.admin.enroller().enrol_in(&name, pending.evidence.public(), (roles, cases), "admin", clock::now());
        let request = people::EnrollPersonRequest {
            enrolment: enrolment.expect("small").as_bytes().to_vec(),
            tls_csr: pending.tls.request().expect("request"),
        };
        let made = self.people.enroll_person(request).await.expect("enrolled").into_inner();
        let tls = TlsIdentity::from_der(pending.tls, &made.tls_chain).expect("certificate");
        let chain = made.enrolments.iter().map(|e| Envelope::parse(e).expect("envelope")).collect();
        let root = exhibit_certs::credential::certificate(made.tls_root);
        let credential = Credential::new(self.anchor(), root, tls, pending.evidence, chain).expect("fits");
        let people = ResponderServiceClient::new(channel(&credential, self.port).await.expect("connects"));
        (credential, people)
    }

    /// Revokes a person's key, as an admin does.
    pub async fn revoke(&mut self, person: &Credential) {
        let revocation = Revocation {
            deployment: "test".to_owned(),
            key: person.evidence.public().id(),
            predecessor: person.enrolments.last().expect("own").digest(),
            reason: "stolen".to_owned(),
            revoked_at: clock::now(),
        };
        let revocation = record::sign(&revocation, &self.admin.evidence).expect("small").as_bytes().to_vec();
        self.people.revoke_person(people::RevokePersonRequest { revocation }).await.expect("revoked");
    }

    pub async fn open_case(&mut self) -> people::Case {
        self.try_open_case(false).await.expect("opened")
    }

    pub async fn try_open_case(&mut self, two_person: bool) -> Result<people::Case, tonic::Status> {
        let opened = CaseOpened {
            case: CaseId::new(clock::now().unix_ms(), clock::random()),
            deployment: "test".to_owned(),
            title: "a case".to_owned(),
            legal_basis: "works agreement, section 4".to_owned(),
            accountable: "A. Lovelace".to_owned(),
            opened_by: self.me(),
            opened_at: clock::now(),
            two_person,
            encrypt_to: exhibit_evidence::age::Recipients::default(),
        };
        let envelope = record::sign(&opened, &self.admin.evidence).expect("small");
        let request = people::OpenCaseRequest { case_opened: envelope.as_bytes().to_vec() };
        self.people.open_case(request).await.map(tonic::Response::into_inner)
    }

    pub async fn case(&mut self, case: &people::Case) -> people::Case {
        self.people.get_case(people::GetCaseRequest { case_id: case.case_id.clone() }).await.expect("case").into_inner()
    }

    pub fn order(&self, case: &people::Case, targets: &[AgentId]) -> Order {
        let now = clock::now();
        Order {
            order: OrderId::new(now.unix_ms(), clock::random()),
            case: case.case_id.parse().expect("id"),
            predecessor: Digest::try_from(case.case_opened_sha256.as_slice()).expect("digest"),
            targets: targets.to_vec(),
            profile: None,
            captures: ["system", "files"].map(|name| CaptureSpec { name: name.to_owned(), params: BTreeMap::new() }).to_vec(),
            limits: Limits::default(),
            legal_basis: "works agreement, section 4".to_owned(),
            reason: "suspicion of theft".to_owned(),
            issued_by: self.me(),
            issued_at: now,
            expires_at: now.plus_s(3_600),
            nonce: Nonce { size: case.log_size, root: Digest::try_from(case.log_root.as_slice()).expect("digest") },
        }
    }

    pub fn sign(&self, order: &Order) -> Envelope {
        record::sign(order, &self.admin.evidence).expect("small")
    }

    pub async fn submit(&mut self, order: &Envelope) -> Result<people::SubmitOrderResponse, tonic::Status> {
        self.people.submit_order(people::SubmitOrderRequest { order: order.as_bytes().to_vec() }).await.map(tonic::Response::into_inner)
    }

    /// Opens a case and submits an order for these agents.
    pub async fn ordered(&mut self, agents: &[AgentId]) -> (people::Case, Order, Envelope) {
        let case = self.open_case().await;
        let order = self.order(&case, agents);
        let envelope = self.sign(&order);
        self.submit(&envelope).await.expect("admitted");
        (case, order, envelope)
    }

    pub async fn collection(&mut self, id: &CollectionId) -> people::Collection {
        let request = people::ListCollectionsRequest { collections: vec![id.to_string()], ..people::ListCollectionsRequest::default() };
        let mut stream = self.people.list_collections(request).await.expect("listed").into_inner();
        stream.message().await.expect("row").expect("is there")
    }

    /// Waits until the collection is closed.
    pub async fn closed(&mut self, id: &CollectionId) -> people::Collection {
        for _ in 0..300 {
            let row = self.collection(id).await;
            if !["unapproved", "queued", "offered", "running", "ending"].contains(&row.state.as_str()) {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not closed: {:?}", self.collection(id).await);
    }

    pub async fn incidents(&self) -> Vec<String> {
        self.running()
            .parts
            .catalog
            .incidents(100)
            .await
            .expect("incidents")
            .into_iter()
            .map(|i| format!("{}: {}", i.kind, i.detail))
            .collect()
    }
}

pub async fn enroll_with(port: u16, token: &str, ca: Digest, dir: &std::path::Path, hostname: &str) -> Result<Credential, String> {
    let pending = Pending::take_up(dir, &random::seed().expect("random")).map_err(|e| e.to_string())?;
    let csr = pending.tls.request().map_err(|e| e.to_string())?;
    let proof = enrol::sign_proof(&pending.evidence, &csr, token);
    let (config, pinned) = enroll_client_config(ca).map_err(|e| e.to_string())?;
    let target = client::Target {
        address: format!("localhost:{port}").parse().expect("address"),
        tls: Arc::new(move || Arc::clone(&config)),
        explain: explain_tls_error,
    };
    let channel = client::connect(&target, &client::Settings::small()).await.map_err(|e| e.to_string())?;
    let request = wire::EnrollRequest {
        protocol: Some(wire::ProtocolRange { min: 1, max: 1 }),
        token: token.to_owned(),
        tls_csr: csr,
        evidence_key: pending.evidence.public().as_bytes().to_vec(),
        proof: proof.to_vec(),
        hostname: hostname.to_owned(),
    };
    let response = EnrollmentServiceClient::new(channel).enroll(request).await.map_err(|s| s.message().to_owned())?.into_inner();
    let tls = TlsIdentity::from_der(pending.tls.clone(), &response.tls_chain).map_err(|e| e.to_string())?;
    let anchor = Anchor::parse(&response.anchor)?;
    let enrolments = response.enrolments.iter().map(|e| Envelope::parse(e).expect("envelope")).collect();
    Credential::new(anchor, pinned.get().expect("seen"), tls, pending.evidence, enrolments).map_err(|e| e.to_string())
}

pub fn agent_id(credential: &Credential) -> AgentId {
    credential.name().agent().expect("an agent").clone()
}

pub fn now() -> Timestamp {
    clock::now()
}
