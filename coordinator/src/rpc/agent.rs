//! `exhibit.agent.v1.AgentService`.

use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::Digest;
use exhibit_evidence::id::AgentId;
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::Segment;
use exhibit_evidence::text::{escape_bounded, one_line};
use exhibit_proto::agent::v1::agent_service_server::AgentService;
use exhibit_proto::agent::v1::{self as wire, session_request, session_response, take_up_response, upload_request, upload_response};
use exhibit_proto::bounds::{BOOKMARK_BYTES_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX};
use exhibit_proto::convert::{BadField, bounded, digest, envelope, id, required, text};
use exhibit_proto::version;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{ANSWERS_WAITING_MAX, Answers, caller};
use crate::authz::Caller;
use crate::catalog::Seen;
use crate::dispatch::{self, Hello, Inbound, Instance, OUTBOX_MESSAGES_MAX, Outbound};
use crate::intake::{self, Answer, Finish, Opening, Piece};
use crate::parts::Parts;
use crate::problem::{Kind, Problem};
use crate::progress::Live;

/// Time for the first message of a stream.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// Most collections in a hello.
const RUNNING_MAX: usize = 64;
/// Most captures in a hello.
const CAPTURES_MAX: usize = 64;

pub(crate) struct Agents(pub(super) Arc<Parts>);

fn agent<T>(request: &Request<T>) -> Result<AgentId, Status> {
    match caller(request)? {
        Caller::Agent(agent) => Ok(agent),
        _ => Err(Status::permission_denied("this is for agents")),
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = Answers<wire::SessionResponse>;
    type UploadStream = Answers<wire::UploadResponse>;
    type TakeUpStream = Answers<wire::TakeUpResponse>;

    async fn session(&self, request: Request<Streaming<wire::SessionRequest>>) -> Result<Response<Self::SessionStream>, Status> {
        let agent = agent(&request)?;
        let mut inbound = request.into_inner();
        let hello = match first(&mut inbound).await?.kind {
            Some(session_request::Kind::Hello(hello)) => hello_from(hello)?,
            _ => return Err(Status::invalid_argument("field kind: the first message of a session is hello")),
        };
        let (outbox, messages) = mpsc::channel(OUTBOX_MESSAGES_MAX);
        let registered = dispatch::begin(&self.0, &agent, &hello, &outbox).await?;
        let inbound = inbound.map(|message| match message {
            Ok(message) => inbound_from(message).map_err(Problem::from),
            Err(status) => Err(lost(&status)),
        });
        tokio::spawn(dispatch::run_session(Arc::clone(&self.0), agent, hello, registered, outbox, Box::pin(inbound)));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages).map(|message| Ok(outbound_to(message))))))
    }

    async fn upload(&self, request: Request<Streaming<wire::UploadRequest>>) -> Result<Response<Self::UploadStream>, Status> {
        let agent = agent(&request)?;
        let mut inbound = request.into_inner();
        let opening = match first(&mut inbound).await?.kind {
            Some(upload_request::Kind::Open(open)) => Opening {
                collection: id("collection", &open.collection)?,
                stream: StreamNumber(open.stream),
                instance: instance(&open.instance)?,
            },
            _ => return Err(Status::invalid_argument("field kind: the first message of an upload is open")),
        };
        let upload = intake::open(&self.0, &agent, &opening).await?;
        let (answers, waiting) = mpsc::channel(ANSWERS_WAITING_MAX);
        let (last, ending) = tokio::sync::oneshot::channel();
        // The channel is new and empty.
        let _ = answers.try_send(upload.status());
        let pieces = inbound.map(|message| match message {
            Ok(message) => piece_from(message).map_err(Problem::from),
            Err(status) => Err(lost(&status)),
        });
        tokio::spawn(async move {
            let outcome = upload.run(Box::pin(pieces), answers).await;
            if let Err(problem) = &outcome {
                tracing::info!(%agent, collection = %opening.collection, stream = %opening.stream, %problem, "upload ended early");
            }
            let _ = last.send(outcome);
        });
        // After the last answer comes how it ended: nothing, or the status.
        let ended = futures::stream::once(ending).filter_map(|outcome| async move {
            match outcome {
                Ok(Ok(())) => None,
                Ok(Err(problem)) => Some(Err(Status::from(problem))),
                Err(_) => Some(Err(Status::internal("the upload ended badly"))),
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting).map(|answer| Ok(answer_to(answer))).chain(ended))))
    }

    async fn take_up(&self, request: Request<wire::TakeUpRequest>) -> Result<Response<Self::TakeUpStream>, Status> {
        let agent = agent(&request)?;
        let asked = request.into_inner();
        let opening = Opening {
            collection: id("collection", &asked.collection)?,
            stream: StreamNumber(asked.stream),
            instance: instance(&asked.instance)?,
        };
        let (standing, manifest) = intake::take_up(&self.0, &agent, &opening).await?;
        let standing =
            wire::Standing { next_segment: standing.next_segment, bookmark: standing.bookmark, manifest_bytes: standing.manifest_bytes };
        let say = |kind| wire::TakeUpResponse { kind: Some(kind) };
        let first = futures::stream::once(async move { Ok(say(take_up_response::Kind::Standing(standing))) });
        let rest = ReceiverStream::new(manifest)
            .map(move |part| part.map(|bytes| say(take_up_response::Kind::Manifest(bytes))).map_err(Status::from));
        Ok(Response::new(Box::pin(first.chain(rest))))
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::RenewResponse>, Status> {
        let agent = agent(&request)?;
        let issued = crate::enroll::renew(&self.0, &agent, &request.into_inner().tls_csr).await?;
        Ok(Response::new(wire::RenewResponse { tls_chain: issued.chain.iter().map(|c| c.to_vec()).collect() }))
    }
}

async fn first<T>(inbound: &mut Streaming<T>) -> Result<T, Status> {
    match tokio::time::timeout(FIRST_MESSAGE, inbound.message()).await {
        Ok(message) => message?.ok_or_else(|| Status::invalid_argument("the stream ended before its first message")),
        Err(_) => Err(Status::deadline_exceeded("the first message did not come within 10 s")),
    }
}

fn lost(status: &Status) -> Problem {
    Problem::new(Kind::NotNow, format!("the connection broke: {}", escape_bounded(&status.to_string(), 300)))
}

fn instance(bytes: &[u8]) -> Result<Instance, BadField> {
    bytes.try_into().map_err(|_| BadField { field: "instance", problem: format!("{} bytes: expected 16", bytes.len()) })
}

fn hello_from(hello: wire::Hello) -> Result<Hello, Status> {
    let protocol = required("protocol", hello.protocol)?;
    let protocol = version::negotiate(protocol.min, protocol.max).map_err(|e| Status::failed_precondition(e.to_string()))?;
    bounded("running", hello.running.len(), RUNNING_MAX)?;
    bounded("captures", hello.captures.len(), CAPTURES_MAX)?;
    let claim = |field, value: &str, max| text(field, value, max).map(|t| escape_bounded(&t, max));
    Ok(Hello {
        protocol,
        instance: instance(&hello.instance)?,
        running: hello.running.iter().map(|c| id("running", c)).collect::<Result<_, _>>()?,
        wall_ns: hello.wall_ns,
        seen: Seen {
            at: None,
            hostname: claim("hostname", &hello.hostname, NAME_BYTES_MAX)?,
            version: claim("version", &hello.version, 64)?,
            kernel: claim("kernel", &hello.kernel, NAME_BYTES_MAX)?,
            os: claim("os", &hello.os, NAME_BYTES_MAX)?,
            boot_id: claim("boot_id", &hello.boot_id, 64)?,
            build: if hello.build_sha256.is_empty() { None } else { Some(digest("build_sha256", &hello.build_sha256)?) },
            clock_offset_ns: 0,
            captures: hello.captures.iter().map(|c| claim("captures", c, 64)).collect::<Result<_, _>>()?,
        },
    })
}

fn inbound_from(message: wire::SessionRequest) -> Result<Inbound, BadField> {
    match required("kind", message.kind)? {
        session_request::Kind::Hello(_) => Err(BadField { field: "kind", problem: "a second hello".to_owned() }),
        session_request::Kind::Heartbeat(beat) => Ok(Inbound::Heartbeat { wall_ns: beat.wall_ns, pong: beat.pong }),
        session_request::Kind::OfferReply(reply) => Ok(Inbound::Reply {
            collection: id("collection", &reply.collection)?,
            refusal: if reply.refusal.is_empty() { None } else { Some(envelope("refusal", &reply.refusal)?) },
        }),
        session_request::Kind::Progress(p) => Ok(Inbound::Progress {
            collection: id("collection", &p.collection)?,
            live: Live {
                capture: escape_bounded(&text("capture", &p.capture, 64)?, 64),
                items: p.items,
                raw_bytes: p.raw_bytes,
                expected_raw_bytes: p.expected_raw_bytes,
                current: escape_bounded(&text("current", &p.current, 512)?, 512),
            },
        }),
    }
}

fn outbound_to(message: Outbound) -> wire::SessionResponse {
    let kind = match message {
        Outbound::Welcome { protocol, wall_ns } => {
            session_response::Kind::Welcome(wire::Welcome { protocol, version: env!("CARGO_PKG_VERSION").to_owned(), wall_ns })
        }
        Outbound::Offer {
            collection,
            order,
            enrolments,
            case_opened,
            stream,
            continues,
            approval,
            opener: opener_enrolments,
            approver: approver_enrolments,
        } => {
            let collection = collection.to_string();
            session_response::Kind::Offer(wire::Offer {
                collection,
                order,
                enrolments,
                case_opened,
                stream,
                continues,
                approval,
                approver_enrolments,
                opener_enrolments,
            })
        }
        Outbound::Cancel { collection, reason } => {
            session_response::Kind::Cancel(wire::Cancel { collection, reason: one_line(&reason, REASON_BYTES_MAX) })
        }
        Outbound::Closed { collection, seal } => session_response::Kind::Closed(wire::Closed { collection: collection.to_string(), seal }),
        Outbound::Ping(number) => session_response::Kind::Ping(number),
        Outbound::Clock { wall_ns, heard_ns } => session_response::Kind::Clock(wire::Clock { wall_ns, heard_ns }),
    };
    wire::SessionResponse { kind: Some(kind) }
}

fn piece_from(message: wire::UploadRequest) -> Result<Piece, BadField> {
    Ok(match required("kind", message.kind)? {
        upload_request::Kind::Open(_) => return Err(BadField { field: "kind", problem: "a second open".to_owned() }),
        upload_request::Kind::SegmentStart(s) => Piece::Start(
            Segment {
                n: s.n,
                size: s.size,
                sha256: digest("segment_start.sha256", &s.sha256)?,
                raw_offset: s.raw_offset,
                raw_size: s.raw_size,
                seam: None,
            },
            s.manifest_bytes,
        ),
        upload_request::Kind::SegmentData(bytes) => Piece::Data(bytes),
        upload_request::Kind::ManifestLines(bytes) => Piece::Lines(bytes),
        upload_request::Kind::SegmentEnd(end) => {
            bounded("segment_end.bookmark", end.bookmark.len(), BOOKMARK_BYTES_MAX)?;
            Piece::End(end.n, end.bookmark)
        }
        upload_request::Kind::Finish(f) => Piece::Finish(Box::new(Finish {
            segments: f.segments,
            manifest_sha256: Digest::try_from(f.manifest_sha256.as_slice())
                .map_err(|_| BadField { field: "finish.manifest_sha256", problem: "expected 32 bytes".to_owned() })?,
            manifest_bytes: f.manifest_bytes,
            acquisition: envelope("finish.acquisition", &f.acquisition)?,
        })),
    })
}

fn answer_to(answer: Answer) -> wire::UploadResponse {
    let kind = match answer {
        Answer::Status { next_segment, finished } => upload_response::Kind::Status(wire::UploadStatus { next_segment, finished }),
        Answer::Ack(n) => upload_response::Kind::Ack(wire::SegmentAck { n }),
        Answer::Done(receipt) => upload_response::Kind::Done(wire::UploadDone { receipt }),
        Answer::Pause(reason) => upload_response::Kind::Pause(wire::Pause { reason }),
        Answer::Resume => upload_response::Kind::Resume(wire::Resume {}),
    };
    wire::UploadResponse { kind: Some(kind) }
}
