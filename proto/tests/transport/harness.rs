//! A deployment, a server on loopback with two small services, and clients.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use exhibit_certs::credential::TlsIdentity;
use exhibit_certs::deployment::{self, NewDeployment, Params, Seeds};
use exhibit_certs::issue::{AGENT_LIFE, ServerNames};
use exhibit_certs::tls::{self, HotServer, ServerTls};
use exhibit_certs::{PeerName, TlsKey};
use exhibit_evidence::{Digest, Timestamp};
use exhibit_proto::agent::v1::agent_service_client::AgentServiceClient;
use exhibit_proto::agent::v1::agent_service_server::{AgentService, AgentServiceServer};
use exhibit_proto::agent::v1::enrollment_service_server::{EnrollmentService, EnrollmentServiceServer};
use exhibit_proto::agent::v1::*;
use exhibit_proto::transport::client::{self, ConnectError, Settings, Target};
use exhibit_proto::transport::server::{self, Caller, ConnectionRegistry, Identity, Limits, Peer, Services};
use rustls::ClientConfig;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

#[allow(clippy::disallowed_methods, reason = "certificates are checked against the real clock")]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp::from_unix_ns(i64::try_from(since.as_nanos()).expect("before 2262"))
}

pub const DAY_S: i64 = 86_400;

pub fn names() -> ServerNames {
    ServerNames::parse(&["localhost", "127.0.0.1"]).expect("names")
}

pub fn deployment_at(name: &str, at: Timestamp) -> NewDeployment {
    let params = Params { name: name.parse().expect("name"), admin: "ana".parse().expect("name"), server: names() };
    deployment::create(&params, &Seeds::draw().expect("randomness"), at).expect("deployment")
}

pub const AGENT: &str = "agt-01hf7yat00zzzzzzzzzzzzzzzz";

/// An agent's TLS identity, issued at a moment.
pub fn agent(new: &NewDeployment, at: Timestamp) -> TlsIdentity {
    let name = format!("spiffe://{}/agent/{AGENT}", new.deployment.name).parse().expect("name");
    client_identity(new, &name, at)
}

pub fn client_identity(new: &NewDeployment, name: &PeerName, at: Timestamp) -> TlsIdentity {
    let key = TlsKey::generate().expect("randomness");
    let request = key.request().expect("request");
    let issued = new.deployment.issuing.issue_client(&request, name, AGENT_LIFE, at).expect("issued");
    TlsIdentity::new(key, issued.chain).expect("belongs together")
}

/// What a handler was dropped by, when a connection ends under it.
pub struct OnDrop(pub Option<oneshot::Sender<()>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            let _ = tell.send(());
        }
    }
}

#[derive(Clone, Default)]
pub struct Small {
    /// Given to the next session; told when that session's stream is dropped.
    pub session_dropped: Arc<Mutex<Option<oneshot::Sender<()>>>>,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Small {
    type SessionStream = Answer<SessionResponse>;
    type UploadStream = Answer<UploadResponse>;
    type TakeUpStream = Answer<TakeUpResponse>;

    async fn session(&self, request: Request<Streaming<SessionRequest>>) -> Result<Response<Self::SessionStream>, Status> {
        let guard = OnDrop(self.session_dropped.lock().expect("lock").take());
        // Answers each message with a ping, and never ends by itself.
        let stream = request.into_inner().map(move |message| {
            let _guard = &guard;
            message.map(|_| SessionResponse { kind: Some(session_response::Kind::Ping(1)) })
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn upload(&self, _: Request<Streaming<UploadRequest>>) -> Result<Response<Self::UploadStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn take_up(&self, _: Request<TakeUpRequest>) -> Result<Response<Self::TakeUpStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    /// Answers with what the transport says about the caller.
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let peer = request.extensions().get::<Peer<PeerName>>().ok_or_else(|| Status::internal("no peer"))?;
        assert_eq!(request.extensions().get::<Caller>(), Some(&Caller { addr: peer.addr }));
        let facts = [peer.name.to_string(), peer.serial.clone(), peer.leaf_sha256.to_string(), peer.addr.to_string()];
        Ok(Response::new(RenewResponse { tls_chain: facts.map(String::into_bytes).to_vec() }))
    }
}

#[tonic::async_trait]
impl EnrollmentService for Small {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        assert!(request.extensions().get::<Peer<PeerName>>().is_none(), "nobody is authenticated here");
        let caller = request.extensions().get::<Caller>().ok_or_else(|| Status::internal("no caller"))?;
        Ok(Response::new(EnrollResponse { agent: caller.addr.ip().to_string(), ..Default::default() }))
    }
}

/// A running server; it stops when this is dropped.
pub struct Server {
    pub addr: SocketAddr,
    pub hot: Arc<HotServer>,
    pub registry: ConnectionRegistry,
    pub refused: Arc<Mutex<Vec<String>>>,
    pub small: Small,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: tokio::task::JoinHandle<()>,
}

/// How long certificates are said to be valid by default.
const LONG: Duration = Duration::from_hours(1);

pub async fn start(new: &NewDeployment, limits: Limits) -> Server {
    start_with(new, limits, LONG).await
}

pub async fn start_with(new: &NewDeployment, limits: Limits, valid_for: Duration) -> Server {
    let hot = Arc::new(HotServer::new(ServerTls::new(&new.deployment.server, &new.deployment.tls_root).expect("configuration")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let addr = listener.local_addr().expect("address");
    let (refused, small, registry) = (Arc::new(Mutex::new(Vec::new())), Small::default(), ConnectionRegistry::new());
    let (main, enroll, told) = (Arc::clone(&hot), Arc::clone(&hot), Arc::clone(&refused));
    let tls = server::Tls {
        main: Arc::new(move || Arc::clone(&main.current().main)),
        enroll: Arc::new(move || Arc::clone(&enroll.current().enroll)),
        identify: Arc::new(move |_, chain| {
            let identity = tls::peer_from_certificates(chain).map_err(|e| e.to_string())?;
            Ok(Identity { name: identity.name, serial: identity.serial, leaf_sha256: identity.leaf_sha256, valid_for })
        }),
        explain: tls::explain_tls_error,
        refused: Arc::new(move |_, why| told.lock().expect("lock").push(why.to_owned())),
    };
    let services = Services {
        main: tonic::service::Routes::new(AgentServiceServer::new(small.clone())),
        enroll: tonic::service::Routes::new(EnrollmentServiceServer::new(small.clone())),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = server::serve(listener, tls, services, limits, registry.clone(), async {
        let _ = stopped.await;
    });
    Server { addr, hot, registry, refused, small, stop: Some(stop), task: tokio::spawn(serving) }
}

impl Server {
    /// The only refusal so far, waited for.
    pub async fn refusal(&self) -> String {
        for _ in 0..500 {
            if let Some(why) = self.refused.lock().expect("lock").first() {
                return why.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing was refused");
    }
}

pub fn target(addr: &str, config: Arc<ClientConfig>) -> Target {
    Target { address: addr.parse().expect("address"), tls: Arc::new(move || Arc::clone(&config)), explain: tls::explain_tls_error }
}

pub fn mutual(new: &NewDeployment, identity: &TlsIdentity) -> Arc<ClientConfig> {
    tls::client_config(identity, &new.deployment.tls_root).expect("configuration")
}

pub async fn dial(addr: &str, config: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
    client::connect(&target(addr, config), &Settings::small()).await
}

/// What the server thinks who is calling: name, serial, digest, address.
pub async fn whoami(channel: Channel) -> Result<Vec<String>, Status> {
    let answer = AgentServiceClient::new(channel).renew(RenewRequest::default()).await?.into_inner();
    Ok(answer.tls_chain.into_iter().map(|text| String::from_utf8(text).expect("text")).collect())
}

pub fn pin(new: &NewDeployment) -> Digest {
    new.deployment.tls_root_sha256()
}
