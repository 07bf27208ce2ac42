//! A deployment with one agent, and orders for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use exhibit_agent::pipeline::Memory;
use exhibit_agent::session::{Agent, Parts};
use exhibit_agent::state::State;
use exhibit_agent::{clock, custody};
use exhibit_certs::credential::{Credential, TlsIdentity};
use exhibit_certs::deployment::{self, NewDeployment, Params, Seeds};
use exhibit_certs::issue::ServerNames;
use exhibit_certs::key::TlsKey;
use exhibit_certs::name::PeerName;
use exhibit_certs::random;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::record::{CaptureSpec, CaseOpened, KeyRing, Limits, Nonce, Order, Role, sign};
use exhibit_evidence::{AgentId, CaseId, CollectionId, Digest, OrderId};
use exhibit_proto::agent::v1;
use exhibit_proto::transport::client::Address;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub struct World {
    pub new: NewDeployment,
    pub agent: AgentId,
    pub state: tempfile::TempDir,
    pub chain: Vec<Envelope>,
}

/// An order, ready to be offered.
pub struct Ordered {
    pub order: Order,
    pub envelope: Envelope,
    pub offer: v1::Offer,
}

impl Ordered {
    pub fn collection(&self) -> String {
        self.offer.collection.clone()
    }
}

impl World {
    pub fn new() -> Self {
        Self::with_certificate_life(std::time::Duration::from_hours(24))
    }

    /// A deployment, and an agent whose first certificate lives so long.
    pub fn with_certificate_life(life: std::time::Duration) -> Self {
        let now = clock::wall();
        let server = ServerNames::parse(&["localhost", "127.0.0.1"]).expect("names");
        let params = Params { name: "acme".parse().expect("name"), admin: "ann".parse().expect("name"), server };
        let new = deployment::create(&params, &Seeds::draw().expect("randomness"), now).expect("deployment");
        let evidence = SigningKey::from_seed(&random::seed().expect("randomness"));
        let agent = AgentId::of_key(&evidence.public().id());
        let name: PeerName = format!("spiffe://acme/agent/{agent}").parse().expect("name");
        let d = &new.deployment;
        let enrolment = d.issuer().enrol(&name, evidence.public(), &[Role::Agent], "token", now).expect("enrolment");
        let chain = vec![d.issuer_enrolment.clone(), enrolment];
        let key = TlsKey::generate().expect("key");
        let issued = d.issuing.issue_client(&key.request().expect("request"), &name, life, now).expect("issued");
        let tls = TlsIdentity::new(key, issued.chain).expect("identity");
        let credential = Credential::new(d.anchor.clone(), d.tls_root.clone(), tls, evidence, chain.clone()).expect("credential");
        let state = tempfile::tempdir().expect("folder");
        credential.write(&state.path().join("agent")).expect("written");
        Self { new, agent, state, chain }
    }

    pub fn dir(&self) -> PathBuf {
        self.state.path().join("agent")
    }

    /// Starts an agent in this process.
    pub fn start(&self, coordinator: &Address) -> Process {
        let parts = Parts {
            state: State::open(&self.dir()).expect("state"),
            credential: Credential::load(&self.dir()).expect("credential"),
            coordinators: vec![coordinator.clone()],
            policy: self.dir().join("policy.toml"),
            memory: Memory { segments_in_flight: 1, workers: 1 },
            tool: custody::tool().expect("own binary"),
        };
        let (stop, stopped) = watch::channel(false);
        Process { task: tokio::spawn(Agent::new(parts).expect("agent").run(stopped)), stop }
    }

    pub fn key_ring(&self) -> KeyRing {
        let mut ring = KeyRing::new(&self.new.deployment.anchor);
        for envelope in self.chain.iter().chain(&self.new.admin.enrolments) {
            ring.verify(envelope).expect("enrolment");
        }
        ring
    }

    /// A signed order for the agent; `change` makes it another one before it is signed.
    pub fn order(&self, captures: Vec<CaptureSpec>, change: impl FnOnce(&mut Order)) -> Ordered {
        let (now, admin) = (clock::wall(), &self.new.admin);
        let case = CaseId::new(now.unix_ms(), clock::random().expect("randomness"));
        let opened = CaseOpened {
            case: case.clone(),
            deployment: "acme".to_owned(),
            title: "t".to_owned(),
            legal_basis: "l".to_owned(),
            accountable: "a".to_owned(),
            opened_by: admin.name().to_string(),
            opened_at: now,
            two_person: false,
            encrypt_to: exhibit_evidence::age::Recipients::default(),
        };
        let opened = sign(&opened, &admin.evidence).expect("small");
        let mut order = Order {
            order: OrderId::new(now.unix_ms(), clock::random().expect("randomness")),
            case,
            predecessor: opened.digest(),
            targets: vec![self.agent.clone()],
            profile: None,
            captures,
            limits: Limits::default(),
            legal_basis: "works agreement, section 4".to_owned(),
            reason: "test".to_owned(),
            issued_by: admin.name().to_string(),
            issued_at: now,
            expires_at: now.plus_s(3600),
            nonce: Nonce { size: 7, root: Digest::of(b"root") },
        };
        change(&mut order);
        let envelope = sign(&order, &admin.evidence).expect("small");
        let bytes = |e: &Envelope| e.as_bytes().to_vec();
        let offer = v1::Offer {
            collection: CollectionId::of(&envelope.digest(), &self.agent).to_string(),
            order: bytes(&envelope),
            enrolments: admin.enrolments.iter().map(bytes).collect(),
            case_opened: bytes(&opened),
            stream: 1,
            continues: false,
            approval: Vec::new(),
            approver_enrolments: Vec::new(),
            opener_enrolments: Vec::new(),
        };
        Ordered { order, envelope, offer }
    }
}

/// An agent in this process.
pub struct Process {
    pub task: JoinHandle<()>,
    pub stop: watch::Sender<bool>,
}

impl Process {
    pub async fn end(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(std::time::Duration::from_secs(30), self.task).await.expect("ends by itself").expect("without panic");
    }
}

/// A capture of one folder's files.
pub fn files_below(dir: &Path) -> Vec<CaptureSpec> {
    let params = BTreeMap::from([("paths".to_owned(), format!("{}/**", dir.display()))]);
    vec![CaptureSpec { name: "files".to_owned(), params }]
}

/// Bytes that do not compress.
pub fn noise(length: usize, seed: u64) -> Arc<[u8]> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}
