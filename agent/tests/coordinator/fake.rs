//! A coordinator that stores what it is sent and breaks what it is told to break.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use exhibit_agent::clock;
use exhibit_certs::issue::AGENT_LIFE;
use exhibit_certs::name::PeerName;
use exhibit_certs::tls::{self, HotServer, ServerTls};
use exhibit_evidence::manifest::{Item, Line};
use exhibit_evidence::stream::reader::{Member, Parser, Sink};
use exhibit_evidence::stream::segment;
use exhibit_proto::agent::v1::agent_service_server::{AgentService, AgentServiceServer};
use exhibit_proto::agent::v1::enrollment_service_server::{EnrollmentService, EnrollmentServiceServer};
use exhibit_proto::agent::v1::*;
use exhibit_proto::transport::client::Address;
use exhibit_proto::transport::server::{self, ConnectionRegistry, Identity, Limits, Peer, Services};
use futures::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::world::World;

/// What goes wrong with one upload attempt.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The connection is cut after so many bytes.
    CutAfter(u64),
    /// A segment is stored, but the connection is cut instead of the acknowledgement.
    LoseAck,
    /// The call is answered with an error.
    Answer(tonic::Code),
    /// After the first segment: a pause, then on.
    Pause(Duration),
    /// Everything is received, but the connection is cut instead of the last word.
    LoseDone,
}

#[derive(Debug, Clone)]
pub struct Stored {
    pub start: SegmentStart,
    pub bytes: Vec<u8>,
    pub lines: Vec<u8>,
}

/// What the coordinator knows; survives a restart of its server.
#[derive(Default)]
pub struct Known {
    pub hellos: Vec<Hello>,
    pub replies: Vec<OfferReply>,
    pub heartbeats: Vec<Heartbeat>,
    /// What the coordinator's clock, asked during a session, is ahead of the machine's.
    pub clock_ahead_ns: i64,
    pub progress: Vec<Progress>,
    pub faults: VecDeque<Fault>,
    pub attempts: u32,
    pub stored: Vec<Stored>,
    pub last_lines: Vec<u8>,
    pub finish: Option<UploadFinish>,
    /// The collection that all of this is about; a new one begins empty.
    pub collection: String,
    pub finished: Vec<String>,
    /// Uploads that ended without a finish and without an error: what a careless coordinator would take for complete.
    pub clean_ends: u32,
    pub broken_ends: u32,
    pub renewals: u32,
    /// Keep only counts: for measuring the agent's memory with large streams.
    pub forget_bytes: bool,
    session: Option<mpsc::Sender<SessionResponse>>,
    peer: Option<Peer<PeerName>>,
}

type Shared = Arc<Mutex<Known>>;

#[derive(Clone)]
struct Service {
    known: Shared,
    world: Arc<World>,
}

pub struct Fake {
    pub known: Shared,
    pub world: Arc<World>,
    pub address: Address,
    addr: SocketAddr,
    stop: Option<(oneshot::Sender<()>, tokio::task::JoinHandle<()>)>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Fake {
    pub async fn start(world: &Arc<World>) -> Self {
        let mut fake = Self::reserve(world).await;
        fake.serve().await;
        fake
    }

    /// Knows its address but does not listen yet.
    pub async fn reserve(world: &Arc<World>) -> Self {
        let addr = TcpListener::bind("127.0.0.1:0").await.expect("port").local_addr().expect("address");
        let address = addr.to_string().parse().expect("address");
        Self { known: Shared::default(), world: Arc::clone(world), address, addr, stop: None }
    }

    pub async fn serve(&mut self) {
        let d = &self.world.new.deployment;
        let hot = Arc::new(HotServer::new(ServerTls::new(&d.server, &d.tls_root).expect("configuration")));
        let (main, enroll) = (Arc::clone(&hot), hot);
        let tls = server::Tls {
            main: Arc::new(move || Arc::clone(&main.current().main)),
            enroll: Arc::new(move || Arc::clone(&enroll.current().enroll)),
            identify: Arc::new(|_, chain| {
                let identity = tls::peer_from_certificates(chain).map_err(|e| e.to_string())?;
                let left = identity.not_after.unix_ns() - clock::wall().unix_ns();
                let valid_for = Duration::from_nanos(left.max(0) as u64);
                Ok(Identity { name: identity.name, serial: identity.serial, leaf_sha256: identity.leaf_sha256, valid_for })
            }),
            explain: tls::explain_tls_error,
            refused: Arc::new(|_, _| {}),
        };
        let service = Service { known: Arc::clone(&self.known), world: Arc::clone(&self.world) };
        let main = AgentServiceServer::new(service.clone()).max_decoding_message_size(exhibit_proto::bounds::MESSAGE_BYTES_MAX);
        let services = Services {
            main: tonic::service::Routes::new(main),
            enroll: tonic::service::Routes::new(EnrollmentServiceServer::new(service)),
        };
        let listener = listen(self.addr).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server::serve(listener, tls, services, Limits::default(), ConnectionRegistry::new(), async {
            let _ = stopped.await;
        }));
        self.stop = Some((stop, serving));
    }

    /// Ends the server as a crash does: every connection breaks.
    pub fn kill(&mut self) {
        if let Some((_stop, task)) = self.stop.take() {
            task.abort();
        }
        let mut known = self.known();
        known.session = None;
        if let Some(peer) = known.peer.take() {
            peer.disconnect();
        }
    }

    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("lock")
    }

    /// Waits until something is true of what is known.
    pub async fn until(&self, what: &str, condition: impl Fn(&Known) -> bool) {
        for _ in 0..12_000 {
            if condition(&self.known()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 120 s: {what}");
    }

    /// Sends to the newest session, once there is one.
    pub async fn say(&self, kind: session_response::Kind) {
        self.until("a session", |k| k.session.as_ref().is_some_and(|s| !s.is_closed())).await;
        let session = self.known().session.clone().expect("a session");
        session.send(SessionResponse { kind: Some(kind) }).await.expect("the session takes it");
    }

    pub fn disconnect(&self) {
        if let Some(peer) = &self.known().peer {
            peer.disconnect();
        }
    }

    /// Checks the stored stream as an intake would; gives its items and members with contents.
    pub fn check(&self) -> (Vec<Item>, Vec<(Member, Vec<u8>)>) {
        let known = self.known();
        let (mut parser, mut contents, mut manifest) = (Parser::new(), Contents::default(), Vec::new());
        for stored in &known.stored {
            assert_eq!(stored.start.size, stored.bytes.len() as u64);
            assert_eq!(stored.start.manifest_bytes, stored.lines.len() as u64);
            assert_eq!(stored.start.sha256, exhibit_evidence::Digest::of(&stored.bytes).as_bytes());
            segment::decode(&stored.bytes, &mut |raw: &[u8]| parser.push(raw, &mut contents)).expect("decodes");
            manifest.extend_from_slice(&stored.lines);
        }
        parser.finish().expect("the end marker");
        manifest.extend_from_slice(&known.last_lines);
        let finish = known.finish.as_ref().expect("finished");
        assert_eq!(finish.manifest_sha256, exhibit_evidence::Digest::of(&manifest).as_bytes());
        assert_eq!((finish.manifest_bytes, finish.segments as usize), (manifest.len() as u64, known.stored.len()));
        let lines: Vec<Line> = manifest.split_inclusive(|b| *b == b'\n').map(|l| Line::parse(l).expect("line")).collect();
        let items = lines.into_iter().filter_map(|l| if let Line::Item(item) = l { Some(*item) } else { None }).collect();
        (items, contents.ended)
    }
}

async fn listen(addr: SocketAddr) -> TcpListener {
    for _ in 0..200 {
        if let Ok(listener) = TcpListener::bind(addr).await {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the port does not become free");
}

#[derive(Default)]
struct Contents {
    current: Vec<u8>,
    ended: Vec<(Member, Vec<u8>)>,
}

impl Sink for Contents {
    fn data(&mut self, offset: u64, bytes: &[u8]) {
        self.current.resize(offset as usize, 0);
        self.current.extend_from_slice(bytes);
    }
    fn end(&mut self, member: &Member) {
        self.ended.push((member.clone(), std::mem::take(&mut self.current)));
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = Answers<SessionResponse>;
    type UploadStream = Answers<UploadResponse>;
    type TakeUpStream = Answers<TakeUpResponse>;

    async fn session(&self, request: Request<Streaming<SessionRequest>>) -> Result<Response<Self::SessionStream>, Status> {
        let peer = request.extensions().get::<Peer<PeerName>>().cloned();
        let mut inbound = request.into_inner();
        let Some(session_request::Kind::Hello(hello)) = inbound.message().await?.and_then(|m| m.kind) else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (outbox, messages) = mpsc::channel(16);
        let welcome = Welcome { protocol: 1, version: "fake".to_owned(), wall_ns: clock::wall().unix_ns() };
        outbox.try_send(SessionResponse { kind: Some(session_response::Kind::Welcome(welcome)) }).expect("room");
        let known = Arc::clone(&self.known);
        let clock_answers = outbox.clone();
        {
            let mut known = known.lock().expect("lock");
            known.hellos.push(hello);
            known.session = Some(outbox);
            known.peer = peer;
        }
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                let mut known = known.lock().expect("lock");
                match message.kind {
                    Some(session_request::Kind::OfferReply(reply)) => known.replies.push(reply),
                    Some(session_request::Kind::Heartbeat(heartbeat)) => {
                        let wall_ns = clock::wall().unix_ns() + known.clock_ahead_ns;
                        let answer = session_response::Kind::Clock(Clock { wall_ns, heard_ns: heartbeat.wall_ns });
                        let _ = clock_answers.try_send(SessionResponse { kind: Some(answer) });
                        known.heartbeats.push(heartbeat);
                    }
                    Some(session_request::Kind::Progress(progress)) => known.progress.push(progress),
                    Some(session_request::Kind::Hello(_)) | None => panic!("a second hello"),
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages).map(Ok))))
    }

    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Result<Response<Self::UploadStream>, Status> {
        let peer = request.extensions().get::<Peer<PeerName>>().cloned().expect("a peer");
        let mut inbound = request.into_inner();
        let Some(upload_request::Kind::Open(open)) = inbound.message().await?.and_then(|m| m.kind) else {
            return Err(Status::invalid_argument("no open"));
        };
        let (fault, status) = {
            let mut known = self.known.lock().expect("lock");
            known.attempts += 1;
            if known.collection != open.collection {
                known.collection.clone_from(&open.collection);
                known.stored.clear();
                known.finish = None;
            }
            assert_eq!(known.hellos.last().map(|h| h.instance.clone()), Some(open.instance.clone()));
            let fault = known.faults.pop_front();
            (fault, UploadStatus { next_segment: known.stored.len() as u32, finished: known.finish.is_some() })
        };
        if let Some(Fault::Answer(code)) = fault {
            return Err(Status::new(code, "as told"));
        }
        let (answers, waiting) = mpsc::channel(16);
        answers.try_send(answer(upload_response::Kind::Status(status))).expect("room");
        if status.finished {
            // Nothing more is to come: the agent may end its side as it likes.
            return Ok(Response::new(Box::pin(ReceiverStream::new(waiting).map(Ok))));
        }
        tokio::spawn(receive(Arc::clone(&self.known), inbound, answers, fault, peer));
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting).map(Ok))))
    }

    async fn take_up(&self, _: Request<TakeUpRequest>) -> Result<Response<Self::TakeUpStream>, Status> {
        Err(Status::failed_precondition("nothing to take up"))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let peer = request.extensions().get::<Peer<PeerName>>().cloned().expect("a peer");
        let csr = request.into_inner().tls_csr;
        let issued = self.world.new.deployment.issuing.issue_client(&csr, &peer.name, AGENT_LIFE, clock::wall()).expect("issued");
        self.known.lock().expect("lock").renewals += 1;
        Ok(Response::new(RenewResponse { tls_chain: issued.chain.iter().map(|c| c.to_vec()).collect() }))
    }
}

fn answer(kind: upload_response::Kind) -> UploadResponse {
    UploadResponse { kind: Some(kind) }
}

/// Takes one upload to its end, or to where its fault is.
async fn receive(
    known: Shared,
    mut inbound: Streaming<UploadRequest>,
    answers: mpsc::Sender<UploadResponse>,
    fault: Option<Fault>,
    peer: Peer<PeerName>,
) {
    let mut current: Option<Stored> = None;
    let (mut last_lines, mut received) = (Vec::new(), 0_u64);
    loop {
        let kind = match inbound.message().await {
            Ok(Some(message)) => message.kind.expect("a kind"),
            Ok(None) => return known.lock().expect("lock").clean_ends += 1,
            Err(_) => return known.lock().expect("lock").broken_ends += 1,
        };
        match kind {
            upload_request::Kind::Open(_) => panic!("a second open"),
            upload_request::Kind::SegmentStart(start) => {
                assert_eq!(start.n as usize, known.lock().expect("lock").stored.len(), "in order, and nothing twice");
                current = Some(Stored { start, bytes: Vec::new(), lines: Vec::new() });
            }
            upload_request::Kind::SegmentData(data) => {
                received += data.len() as u64;
                current.as_mut().expect("begun").bytes.extend_from_slice(&data);
            }
            upload_request::Kind::ManifestLines(lines) => {
                assert!(lines.ends_with(b"\n"), "whole lines");
                current.as_mut().map_or(&mut last_lines, |c| &mut c.lines).extend_from_slice(&lines);
            }
            upload_request::Kind::SegmentEnd(end) => {
                let mut stored = current.take().expect("begun");
                assert_eq!(end.n, stored.start.n);
                if known.lock().expect("lock").forget_bytes {
                    (stored.bytes, stored.lines) = (Vec::new(), Vec::new());
                }
                known.lock().expect("lock").stored.push(stored);
                if matches!(fault, Some(Fault::LoseAck)) {
                    return peer.disconnect();
                }
                if let (Some(Fault::Pause(time)), 0) = (fault, end.n) {
                    let _ = answers.send(answer(upload_response::Kind::Pause(Pause { reason: "full".to_owned() }))).await;
                    let _ = answers.send(answer(upload_response::Kind::Ack(SegmentAck { n: 0 }))).await;
                    // Nothing may come now.
                    let early = tokio::time::timeout(time, inbound.message()).await;
                    assert!(early.is_err(), "sent during a pause: {early:?}");
                    let _ = answers.send(answer(upload_response::Kind::Resume(Resume {}))).await;
                    continue;
                }
                let _ = answers.send(answer(upload_response::Kind::Ack(SegmentAck { n: end.n }))).await;
            }
            upload_request::Kind::Finish(finish) => {
                {
                    let mut known = known.lock().expect("lock");
                    known.finish = Some(finish);
                    let collection = known.collection.clone();
                    known.finished.push(collection);
                    known.last_lines = last_lines;
                }
                if matches!(fault, Some(Fault::LoseDone)) {
                    return peer.disconnect();
                }
                let _ = answers.send(answer(upload_response::Kind::Done(UploadDone::default()))).await;
                return;
            }
        }
        if let Some(Fault::CutAfter(bytes)) = fault
            && received >= bytes
        {
            return peer.disconnect();
        }
    }
}

#[tonic::async_trait]
impl EnrollmentService for Service {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        crate::enrolling::enroll(&self.world, request.into_inner())
    }
}
