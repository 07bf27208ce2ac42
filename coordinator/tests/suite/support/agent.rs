//! A small agent that can lie.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exhibit_certs::credential::Credential;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{AgentId, CollectionId};
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::{End, FORMAT, Header, Item, Kind, Line, Location, Segment, Status, Taken};
use exhibit_evidence::record::{self, Acquisition, Clocks, Footprint, Host, ManifestRef, Order, Tool};
use exhibit_evidence::stream::segment::{FrameCompressor, SegmentBuilder};
use exhibit_evidence::stream::tar;
use exhibit_evidence::{Digest, EvidencePath, Timestamp};
use exhibit_proto::agent::v1::agent_service_client::AgentServiceClient;
use exhibit_proto::agent::v1::{self as wire, session_request, session_response, upload_request, upload_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status as GrpcStatus, Streaming};

/// One segment and what goes with it.
#[derive(Clone)]
pub struct Part {
    pub facts: Segment,
    pub bytes: Vec<u8>,
    pub lines: Vec<u8>,
}

/// A stream that is ready to be sent.
#[derive(Clone)]
pub struct Made {
    pub parts: Vec<Part>,
    pub trailing: Vec<u8>,
    pub manifest: ManifestRef,
}

pub struct File {
    pub capture: &'static str,
    pub path: &'static str,
    pub content: Vec<u8>,
}

pub fn file(capture: &'static str, path: &'static str, content: impl Into<Vec<u8>>) -> File {
    File { capture, path, content: content.into() }
}

fn taken() -> Taken {
    let now = Timestamp::from_unix_s(1_800_000_000);
    Taken { start: now, end: now, mono_start_ns: 1, mono_end_ns: 2 }
}

pub fn item(n: u64, capture: &str, path: &str) -> Item {
    Item {
        n,
        capture: capture.to_owned(),
        path: EvidencePath::new(path.as_bytes()).expect("path"),
        kind: Kind::File,
        status: Status::Collected,
        reason: None,
        size: 0,
        sha256: None,
        location: None,
        target: None,
        meta: None,
        gaps: Vec::new(),
        taken: taken(),
        method: "read".to_owned(),
        facts: BTreeMap::new(),
    }
}

fn line(line: Line) -> Vec<u8> {
    line.to_bytes().expect("short")
}

/// Encodes a head whose name our own writer may refuse: `..` is written over a harmless name of the same length.
fn encode_any_name(head: &tar::Head, raw: &mut Vec<u8>) {
    let harmless = String::from_utf8_lossy(head.name).replace("..", "xx");
    let start = raw.len();
    tar::encode(&tar::Head { name: harmless.as_bytes(), ..*head }, raw).expect("head");
    if harmless.as_bytes() == head.name {
        return;
    }
    let block = &mut raw[start..];
    assert!(block.len() == 512 && head.name.len() < 100, "one ustar block");
    block[..head.name.len()].copy_from_slice(head.name);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Makes a stream of one segment per file, and one with the end marker. `tweak` may change what an item line says,
/// `name` what its tar member is called.
pub fn make(header: Header, files: &[File], tweak: &dyn Fn(&mut Item), name: &dyn Fn(&File) -> Vec<u8>) -> Made {
    let mut parts: Vec<Part> = Vec::new();
    let mut lines = line(Line::Header(header));
    let (mut raw_offset, mut manifest, mut by_status) = (0_u64, Vec::new(), BTreeMap::new());
    let mut compressor = FrameCompressor::new(1).expect("zstd");
    for (n, file) in files.iter().map(Some).chain([None]).enumerate() {
        let mut raw = Vec::new();
        let mut items = Vec::new();
        if let Some(file) = file {
            let xattrs = BTreeMap::new();
            let member = name(file);
            let head = tar::Head {
                name: &member,
                kind: tar::HeadKind::File { size: file.content.len() as u64 },
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: None,
                atime: None,
                ctime: None,
                xattrs: &xattrs,
            };
            encode_any_name(&head, &mut raw);
            raw.extend_from_slice(&file.content);
            raw.resize(raw.len() + tar::padding(file.content.len() as u64), 0);
            let mut said = item(n as u64, file.capture, file.path);
            said.size = file.content.len() as u64;
            said.sha256 = Some(Digest::of(&file.content));
            said.location = Some(Location { offset: raw_offset, length: raw.len() as u64 });
            tweak(&mut said);
            *by_status.entry(said.status).or_insert(0) += 1;
            items.push(said);
        } else {
            raw.extend_from_slice(&tar::END_MARKER);
        }
        let mut builder = SegmentBuilder::new(n as u32, raw_offset);
        for chunk in raw.chunks(1 << 20) {
            builder.compress_frame(&mut compressor, chunk).expect("fits");
        }
        let built = builder.finish().expect("frames");
        raw_offset += raw.len() as u64;
        lines.extend(line(Line::Segment(built.facts.clone())));
        for item in items {
            lines.extend(line(Line::Item(Box::new(item))));
        }
        manifest.extend_from_slice(&lines);
        parts.push(Part { facts: built.facts, bytes: built.bytes, lines: std::mem::take(&mut lines) });
    }
    let end = End {
        complete: true,
        segments: parts.len() as u32,
        stored_bytes: parts.iter().map(|p| p.facts.size).sum(),
        raw_bytes: raw_offset,
        items: files.len() as u64,
        by_status: by_status.clone(),
    };
    let trailing = line(Line::End(end.clone()));
    manifest.extend_from_slice(&trailing);
    let manifest = ManifestRef {
        sha256: Digest::of(&manifest),
        size: manifest.len() as u64,
        segments: end.segments,
        stored_bytes: end.stored_bytes,
        raw_bytes: end.raw_bytes,
        items: end.items,
        by_status,
    };
    Made { parts, trailing, manifest }
}

/// What the fake agent knows of a collection.
#[derive(Clone)]
pub struct Job {
    pub collection: CollectionId,
    pub order: Order,
    pub order_digest: Digest,
    pub agent: AgentId,
    pub stream: u32,
}

impl Job {
    pub fn new(order: &Order, envelope: &Envelope, agent: &AgentId, stream: u32) -> Self {
        let order_digest = envelope.digest();
        Self { collection: CollectionId::of(&order_digest, agent), order: order.clone(), order_digest, agent: agent.clone(), stream }
    }

    pub fn header(&self) -> Header {
        Header {
            format: FORMAT.to_owned(),
            case: self.order.case.clone(),
            collection: self.collection.clone(),
            stream: StreamNumber(self.stream),
            agent: self.agent.clone(),
            order: self.order_digest,
            encrypted_to: exhibit_evidence::age::Recipients::default(),
        }
    }

    pub fn honest(&self, files: &[File]) -> Made {
        make(self.header(), files, &|_| {}, &|f| EvidencePath::new(f.path.as_bytes()).expect("path").member_name(f.capture))
    }

    pub fn acquisition(&self, manifest: &ManifestRef) -> Acquisition {
        let clocks = Clocks { wall: super::world::now(), mono_ns: 1, offset_ns: None };
        Acquisition {
            case: self.order.case.clone(),
            collection: self.collection.clone(),
            stream: StreamNumber(self.stream),
            agent: self.agent.clone(),
            predecessor: self.order_digest,
            nonce: self.order.nonce.clone(),
            host: Host {
                hostname: "web-1".to_owned(),
                machine_id: None,
                boot_id: "b".to_owned(),
                kernel: "Linux".to_owned(),
                os: None,
                hardware: std::collections::BTreeMap::new(),
                cloud: std::collections::BTreeMap::new(),
            },
            tool: Tool { name: "exhibit-agent".to_owned(), version: "0.1.0".to_owned(), sha256: Digest::of(b"binary") },
            started: clocks,
            ended: clocks,
            complete: true,
            reason: None,
            manifest: manifest.clone(),
            footprint: Footprint { pid: 1, rss_peak_bytes: 1, cpu_ms: 1, commands: vec![], wrote: vec![] },
        }
    }
}

pub struct Agent {
    pub credential: Arc<Credential>,
    pub id: AgentId,
    pub instance: [u8; 16],
    pub client: AgentServiceClient<Channel>,
}

pub struct Session {
    pub send: mpsc::Sender<wire::SessionRequest>,
    pub receive: Streaming<wire::SessionResponse>,
}

pub struct Upload {
    pub send: mpsc::Sender<wire::UploadRequest>,
    pub receive: Streaming<wire::UploadResponse>,
    pub status: wire::UploadStatus,
}

impl Agent {
    pub async fn new(credential: impl Into<Arc<Credential>>, port: u16, process: u8) -> Self {
        let credential = credential.into();
        let channel = super::world::channel(&credential, port).await.expect("connects");
        let id = super::world::agent_id(&credential);
        Self { credential, id, instance: [process; 16], client: AgentServiceClient::new(channel) }
    }

    pub async fn session(&mut self, running: &[CollectionId]) -> Result<Session, GrpcStatus> {
        let (send, messages) = mpsc::channel(16);
        let hello = wire::Hello {
            protocol: Some(wire::ProtocolRange { min: 1, max: 1 }),
            version: "0.1.0".to_owned(),
            build_sha256: vec![],
            hostname: "web-1".to_owned(),
            kernel: "6.1".to_owned(),
            os: "Debian".to_owned(),
            boot_id: "b".to_owned(),
            wall_ns: super::world::now().unix_ns(),
            instance: self.instance.to_vec(),
            running: running.iter().map(ToString::to_string).collect(),
            captures: vec!["files".to_owned(), "system".to_owned()],
        };
        send.send(wire::SessionRequest { kind: Some(session_request::Kind::Hello(hello)) }).await.expect("open");
        let receive = self.client.session(ReceiverStream::new(messages)).await?.into_inner();
        let mut session = Session { send, receive };
        match session.next().await {
            Some(session_response::Kind::Welcome(_)) => Ok(session),
            other => panic!("expected a welcome, got {other:?}"),
        }
    }

    pub async fn open(&mut self, job: &Job) -> Result<Upload, GrpcStatus> {
        let (send, messages) = mpsc::channel(16);
        let open = wire::UploadOpen { collection: job.collection.to_string(), stream: job.stream, instance: self.instance.to_vec() };
        send.send(wire::UploadRequest { kind: Some(upload_request::Kind::Open(open)) }).await.expect("open");
        let mut receive = self.client.upload(ReceiverStream::new(messages)).await?.into_inner();
        match receive.message().await?.and_then(|m| m.kind) {
            Some(upload_response::Kind::Status(status)) => Ok(Upload { send, receive, status }),
            other => panic!("expected a status, got {other:?}"),
        }
    }

    pub fn sign_acquisition(&self, acquisition: &Acquisition) -> Envelope {
        record::sign(acquisition, &self.credential.evidence).expect("small")
    }

    /// Sends a stream from the segment that the coordinator asks for to its end; gives the receipt.
    pub async fn send_all(&mut self, job: &Job, made: &Made) -> Result<Vec<u8>, GrpcStatus> {
        let mut upload = self.open(job).await?;
        if upload.status.finished {
            return match upload.answer().await? {
                upload_response::Kind::Done(done) => Ok(done.receipt),
                other => panic!("expected a receipt, got {other:?}"),
            };
        }
        for part in made.parts.iter().skip(upload.status.next_segment as usize) {
            upload.segment(part).await?;
        }
        let acquisition = self.sign_acquisition(&job.acquisition(&made.manifest));
        upload.finish(made, &acquisition).await
    }
}

impl Session {
    /// The next message; pings are answered on the way.
    pub async fn next(&mut self) -> Option<session_response::Kind> {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(20), self.receive.message()).await.expect("in time").ok()??;
            match message.kind? {
                session_response::Kind::Ping(n) => self.pong(n).await,
                other => return Some(other),
            }
        }
    }

    /// Answers pings until the session ends.
    pub async fn receive_pings(&mut self) {
        while let Ok(Some(message)) = self.receive.message().await {
            if let Some(session_response::Kind::Ping(n)) = message.kind {
                self.pong(n).await;
            }
        }
    }

    pub async fn pong(&self, n: u64) {
        let beat = wire::Heartbeat { wall_ns: super::world::now().unix_ns(), pong: n, ..wire::Heartbeat::default() };
        let _ = self.send.send(wire::SessionRequest { kind: Some(session_request::Kind::Heartbeat(beat)) }).await;
    }

    pub async fn offer(&mut self) -> wire::Offer {
        match self.next().await {
            Some(session_response::Kind::Offer(offer)) => offer,
            other => panic!("expected an offer, got {other:?}"),
        }
    }

    pub async fn reply(&self, collection: &CollectionId, refusal: Vec<u8>) {
        let reply = wire::OfferReply { collection: collection.to_string(), refusal };
        self.send.send(wire::SessionRequest { kind: Some(session_request::Kind::OfferReply(reply)) }).await.expect("open");
    }

    /// Says why a collection does not run.
    pub async fn hindered(&self, collection: &CollectionId, why: &str) {
        let progress = wire::Progress { collection: collection.to_string(), current: why.to_owned(), ..wire::Progress::default() };
        self.send.send(wire::SessionRequest { kind: Some(session_request::Kind::Progress(progress)) }).await.expect("open");
    }

    pub async fn closed(&mut self) -> wire::Closed {
        match self.next().await {
            Some(session_response::Kind::Closed(closed)) => closed,
            other => panic!("expected that it is closed, got {other:?}"),
        }
    }

    /// As [`Self::closed`], where the same offer may come once more: the coordinator began again while it was answered.
    pub async fn closed_after_again(&mut self, offer: &wire::Offer) -> wire::Closed {
        match self.next().await {
            Some(session_response::Kind::Closed(closed)) => closed,
            Some(session_response::Kind::Offer(again)) => {
                assert_eq!((&again.collection, &again.order), (&offer.collection, &offer.order), "it is the same one");
                self.closed().await
            }
            other => panic!("expected that it is closed, got {other:?}"),
        }
    }
}

impl Upload {
    pub async fn put(&self, kind: upload_request::Kind) {
        // A refused upload closes its end; what it said is read from the answers.
        let _ = self.send.send(wire::UploadRequest { kind: Some(kind) }).await;
    }

    pub async fn start(&self, facts: &Segment, manifest_bytes: usize) {
        let start = wire::SegmentStart {
            n: facts.n,
            size: facts.size,
            sha256: facts.sha256.as_bytes().to_vec(),
            raw_offset: facts.raw_offset,
            raw_size: facts.raw_size,
            manifest_bytes: manifest_bytes as u64,
        };
        self.put(upload_request::Kind::SegmentStart(start)).await;
    }

    /// Sends a segment without waiting for the answer.
    pub async fn push(&self, part: &Part) {
        self.start(&part.facts, part.lines.len()).await;
        for chunk in part.bytes.chunks(1 << 20) {
            self.put(upload_request::Kind::SegmentData(Bytes::copy_from_slice(chunk))).await;
        }
        for chunk in part.lines.chunks(1 << 20) {
            self.put(upload_request::Kind::ManifestLines(Bytes::copy_from_slice(chunk))).await;
        }
        self.put(upload_request::Kind::SegmentEnd(wire::SegmentEnd { n: part.facts.n, bookmark: Vec::new() })).await;
    }

    pub async fn segment(&mut self, part: &Part) -> Result<(), GrpcStatus> {
        self.push(part).await;
        match self.answer().await? {
            upload_response::Kind::Ack(ack) if ack.n == part.facts.n => Ok(()),
            other => panic!("expected an acknowledgement, got {other:?}"),
        }
    }

    pub async fn answer(&mut self) -> Result<upload_response::Kind, GrpcStatus> {
        let message = tokio::time::timeout(Duration::from_secs(20), self.receive.message()).await.expect("in time")?;
        message.and_then(|m| m.kind).ok_or_else(|| GrpcStatus::cancelled("the coordinator ended the upload without a word"))
    }

    pub async fn finish(&mut self, made: &Made, acquisition: &Envelope) -> Result<Vec<u8>, GrpcStatus> {
        self.put(upload_request::Kind::ManifestLines(Bytes::from(made.trailing.clone()))).await;
        let finish = wire::UploadFinish {
            segments: made.parts.len() as u32,
            manifest_sha256: made.manifest.sha256.as_bytes().to_vec(),
            manifest_bytes: made.manifest.size,
            acquisition: acquisition.as_bytes().to_vec(),
        };
        self.put(upload_request::Kind::Finish(finish)).await;
        match self.answer().await? {
            upload_response::Kind::Done(done) => Ok(done.receipt),
            other => panic!("expected a receipt, got {other:?}"),
        }
    }
}
