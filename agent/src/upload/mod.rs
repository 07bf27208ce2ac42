//! Sending one stream: segments in order, each kept in the window until the coordinator has made it durable. Any break
//! of the connection is followed by another try that continues where the coordinator says.
//!
//! A broken upload must never look like a finished one. The stream's end is an explicit message with the digest of the
//! whole manifest, and every attempt that ends otherwise resets its HTTP/2 stream ([`Abort`]).

mod pieces;
mod take_up;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::record::Record;
use exhibit_proto::agent::v1::agent_service_client::AgentServiceClient;
use exhibit_proto::agent::v1::{SegmentEnd, SegmentStart, UploadFinish, UploadOpen, UploadRequest, upload_request, upload_response};
use exhibit_proto::{bounds, transport};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::budget::{Rate, piece_bytes};
use crate::clock;
use crate::custody::{self, Statement};
use crate::pipeline::{Next, Outcome, Progress, Segment, StreamFacts, Window};
use crate::session::backoff::{Backoff, LONGEST_BUSY};

/// Everything that sending one stream needs.
pub struct Upload {
    /// Which stream.
    pub facts: StreamFacts,
    /// This process: the same as in the session's hello.
    pub instance: [u8; 16],
    /// What to send.
    pub window: Arc<Window>,
    /// Where to count.
    pub progress: Arc<Progress>,
    /// What the acquisition record says besides the outcome.
    pub statement: Statement,
    /// The agent's evidence key.
    pub key: Arc<SigningKey>,
    /// The send budget.
    pub send_bytes_per_s: Option<u64>,
    /// The newest connection, if there is one.
    pub connection: watch::Receiver<Option<Channel>>,
}

/// How sending ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The coordinator has the whole stream. The receipt is absent when it said so in an earlier attempt.
    Received(Option<Vec<u8>>),
    /// It makes no sense to go on; the coordinator closes what it has.
    GivenUp(String),
}

/// Why one attempt ended.
#[derive(Debug)]
enum Failure {
    /// The connection broke or the coordinator cannot now.
    Retry(String),
    /// The coordinator does not want it like this; a few repeats tell a passing condition from a lasting one.
    Rejected(String),
    /// No repeat can help.
    Final(String),
}

/// Rejections in a row, without any progress between them, after which a stream is given up.
const REJECTIONS_MAX: u32 = 8;
/// Messages between the sender and HTTP/2: at most this many pieces are in memory twice.
const OUTBOX: usize = 2;
/// Bytes of a segment in one message. Both sides copy a message into a fresh buffer; one that is larger than what the
/// C library's allocator serves from its heap is mapped, touched and unmapped each time.
const MESSAGE_BYTES: usize = 64 << 10;
/// Time for the first answer.
const STATUS_TIMEOUT: Duration = Duration::from_secs(30);
/// After the connection broke under the sender: time for the reason to arrive.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Resets the upload's stream when it is dropped before [`Abort::disarm`].
struct Abort(Option<tonic::CancellationHandle>);

impl Abort {
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Abort {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take() {
            handle.cancel();
        }
    }
}

impl Upload {
    /// Sends the stream to its end, through as many connections as it takes.
    pub async fn run(mut self) -> Ended {
        let mut backoff = Backoff::new(LONGEST_BUSY);
        let mut acquisition = None;
        let (mut rejections, mut reached) = (0_u32, 0_u32);
        loop {
            let Ok(channel) = self.connection.wait_for(Option::is_some).await.map(|c| c.clone()) else {
                return self.give_up("the agent ends".to_owned());
            };
            let Some(channel) = channel else { continue };
            let failure = match self.attempt(channel, &mut acquisition).await {
                Ok(receipt) => return Ended::Received(receipt),
                Err(failure) => failure,
            };
            if self.window.first() > reached {
                reached = self.window.first();
                rejections = 0;
                backoff.reset();
            }
            let collection = &self.facts.collection;
            match failure {
                Failure::Final(why) => return self.give_up(why),
                Failure::Rejected(why) => {
                    rejections = rejections.saturating_add(1);
                    tracing::warn!(%collection, rejections, "the coordinator does not take the upload: {why}");
                    if rejections >= REJECTIONS_MAX {
                        return self.give_up(why);
                    }
                }
                Failure::Retry(why) => tracing::info!(%collection, "the upload was interrupted and will continue: {why}"),
            }
            tokio::time::sleep(backoff.next(clock::random_u32())).await;
        }
    }

    fn give_up(&self, why: String) -> Ended {
        self.window.give_up();
        Ended::GivenUp(why)
    }

    /// One connection's worth. On success the receipt; everything unacknowledged stays in the window otherwise.
    async fn attempt(&self, channel: Channel, acquisition: &mut Option<Envelope>) -> Result<Option<Vec<u8>>, Failure> {
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let open =
            UploadOpen { collection: self.facts.collection.to_string(), stream: self.facts.stream, instance: self.instance.to_vec() };
        put(&outbox, upload_request::Kind::Open(open)).await?;
        let mut request = tonic::Request::new(ReceiverStream::new(messages));
        // Declared after the outbox, so dropped before it: the reset is asked for before the stream could end cleanly.
        let mut abort = Abort(Some(request.cancellation_handle()));
        let mut client = AgentServiceClient::new(channel).max_decoding_message_size(bounds::MESSAGE_BYTES_MAX);
        let response = tokio::time::timeout(STATUS_TIMEOUT, client.upload(request)).await.map_err(|_| no_answer())?;
        let mut inbound = response.map_err(|s| failure(&s))?.into_inner();
        let first = tokio::time::timeout(STATUS_TIMEOUT, inbound.message()).await.map_err(|_| no_answer())?;
        let Some(upload_response::Kind::Status(status)) = first.map_err(|s| failure(&s))?.and_then(|m| m.kind) else {
            return Err(Failure::Rejected("the first answer to an upload is not its status".to_owned()));
        };
        if status.finished {
            abort.disarm();
            return Ok(None);
        }
        let next = self.continue_at(status.next_segment)?;
        let (acked_in, acked) = watch::channel(next);
        let (paused_in, paused) = watch::channel(false);
        let receiving = self.receive(&mut inbound, &acked_in, &paused_in);
        let sending = self.send(&outbox, next, acked, paused, acquisition);
        tokio::pin!(receiving, sending);
        let mut sent = false;
        loop {
            tokio::select! {
                done = &mut receiving => {
                    let receipt = done?;
                    abort.disarm();
                    return Ok(Some(receipt));
                }
                result = &mut sending, if !sent => match result {
                    Ok(()) => sent = true,
                    // The coordinator's own word says more than a closed pipe.
                    Err(closed @ Failure::Retry(_)) => {
                        let last = tokio::time::timeout(LAST_WORDS, &mut receiving).await;
                        return Err(last.ok().and_then(Result::err).unwrap_or(closed));
                    }
                    Err(other) => return Err(other),
                }
            }
        }
    }

    /// Frees what the coordinator made durable. Said in the log at level debug with the segment's number; with `sending` it
    /// is the agent's own account of what was promised to it.
    fn acknowledged(&self, n: u32) {
        let freed = self.window.acknowledge(n);
        tracing::debug!(collection = %self.facts.collection, stream = self.facts.stream, segment = n, freed, "acknowledged");
    }

    /// What the coordinator has is freed; what it lacks must still be here.
    fn continue_at(&self, next: u32) -> Result<u32, Failure> {
        // Before anything is freed: what was never sent cannot be there, and what is there is not this stream's.
        let handed = self.window.handed();
        if next > handed {
            return Err(Failure::Final(format!("the coordinator says that it has {next} segments, {handed} were sent")));
        }
        if let Some(last) = next.checked_sub(1) {
            self.acknowledged(last);
        }
        let first = self.window.first();
        if next < first {
            return Err(Failure::Final(format!(
                "the coordinator asks for segment {next}, which it acknowledged before; the first one here is {first}"
            )));
        }
        Ok(next)
    }

    /// Takes acknowledgements until the stream is received whole.
    async fn receive(
        &self,
        inbound: &mut tonic::Streaming<exhibit_proto::agent::v1::UploadResponse>,
        acked: &watch::Sender<u32>,
        paused: &watch::Sender<bool>,
    ) -> Result<Vec<u8>, Failure> {
        loop {
            let message = inbound.message().await.map_err(|s| failure(&s))?;
            let Some(message) = message else { return Err(Failure::Retry("the coordinator ended the connection".to_owned())) };
            match message.kind {
                Some(upload_response::Kind::Ack(ack)) => {
                    self.acknowledged(ack.n);
                    acked.send_replace(self.window.first());
                }
                Some(upload_response::Kind::Done(done)) => {
                    self.check_receipt(&done.receipt);
                    return Ok(done.receipt);
                }
                Some(upload_response::Kind::Pause(pause)) => {
                    let why = exhibit_evidence::text::one_line(&pause.reason, bounds::REASON_BYTES_MAX);
                    tracing::warn!(collection = %self.facts.collection, "the coordinator asks for a pause: {why}");
                    paused.send_replace(true);
                }
                Some(upload_response::Kind::Resume(_)) => {
                    paused.send_replace(false);
                }
                // A later version may say more.
                Some(upload_response::Kind::Status(_)) | None => {}
            }
        }
    }

    /// The receipt's signer is not among the keys that this agent was given, so its signature is for the case log's
    /// readers to check. What it says is compared here: a coordinator that took something else is a loud error.
    fn check_receipt(&self, bytes: &[u8]) {
        let collection = &self.facts.collection;
        let record = Envelope::parse(bytes).map_err(|e| e.to_string());
        match record.and_then(|e| Record::from_payload(e.unverified_payload()).map_err(|e| e.to_string())) {
            Ok(Record::Receipt(receipt)) if receipt.collection == *collection && receipt.stream.0 == self.facts.stream => {}
            Ok(_) => tracing::error!(%collection, "the coordinator's receipt is for something else"),
            Err(e) => tracing::error!(%collection, "the coordinator's receipt is not one: {e}"),
        }
    }

    async fn send(
        &self,
        outbox: &mpsc::Sender<UploadRequest>,
        from: u32,
        mut acked: watch::Receiver<u32>,
        mut paused: watch::Receiver<bool>,
        acquisition: &mut Option<Envelope>,
    ) -> Result<(), Failure> {
        let mut rate = self.send_bytes_per_s.map(|per_s| Rate::new(per_s, clock::monotonic()));
        let mut next = from;
        loop {
            match self.window.next(next).await {
                Next::Segment(segment) => {
                    self.send_segment(outbox, &segment, &mut rate, &mut paused).await?;
                    next = next.saturating_add(1);
                }
                Next::Finished(outcome) => {
                    let all = outcome.manifest.segments;
                    acked.wait_for(|n| *n >= all).await.map_err(|_| closed())?;
                    return self.send_end(outbox, &outcome, acquisition).await;
                }
                Next::Failed(why) => return Err(Failure::Final(why)),
                Next::Gone => return Err(Failure::Final(format!("segment {next} was acknowledged before it was sent"))),
            }
        }
    }

    async fn send_segment(
        &self,
        outbox: &mpsc::Sender<UploadRequest>,
        segment: &Segment,
        rate: &mut Option<Rate>,
        paused: &mut watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        let facts = &segment.facts;
        tracing::debug!(collection = %self.facts.collection, stream = self.facts.stream, segment = facts.n, sha256 = %facts.sha256, "sending");
        let start = SegmentStart {
            n: facts.n,
            size: facts.size,
            sha256: facts.sha256.as_bytes().to_vec(),
            raw_offset: facts.raw_offset,
            raw_size: facts.raw_size,
            manifest_bytes: segment.lines.len() as u64,
        };
        // A pause begins between segments: the coordinator holds memory for one that was begun.
        paused.wait_for(|p| !*p).await.map_err(|_| closed())?;
        put(outbox, upload_request::Kind::SegmentStart(start)).await?;
        let piece = piece_bytes(self.send_bytes_per_s).min(MESSAGE_BYTES);
        for data in pieces::of_data(&segment.bytes, piece) {
            self.pay(rate, data.len()).await;
            put(outbox, upload_request::Kind::SegmentData(data)).await?;
        }
        for lines in pieces::of_lines(&segment.lines, piece) {
            self.pay(rate, lines.len()).await;
            put(outbox, upload_request::Kind::ManifestLines(lines)).await?;
        }
        put(outbox, upload_request::Kind::SegmentEnd(SegmentEnd { n: facts.n, bookmark: segment.bookmark.to_vec() })).await
    }

    /// Waits until so many bytes may be sent.
    async fn pay(&self, rate: &mut Option<Rate>, bytes: usize) {
        if let Some(rate) = rate {
            tokio::time::sleep(rate.take(clock::monotonic(), bytes as u64)).await;
        }
        self.progress.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Everything is acknowledged: the manifest's last line and the signed end. The record is signed once and sent the
    /// same in every attempt.
    async fn send_end(
        &self,
        outbox: &mpsc::Sender<UploadRequest>,
        outcome: &Outcome,
        acquisition: &mut Option<Envelope>,
    ) -> Result<(), Failure> {
        if acquisition.is_none() {
            let signed = custody::acquisition(&self.statement, outcome, &self.key);
            *acquisition = Some(signed.map_err(|e| Failure::Final(format!("the acquisition record cannot be signed: {e}")))?);
        }
        let signed = acquisition.as_ref().map(|e| e.as_bytes().to_vec()).unwrap_or_default();
        put(outbox, upload_request::Kind::ManifestLines(Bytes::from(outcome.end_line.clone()))).await?;
        let finish = UploadFinish {
            segments: outcome.manifest.segments,
            manifest_sha256: outcome.manifest.sha256.as_bytes().to_vec(),
            manifest_bytes: outcome.manifest.size,
            acquisition: signed,
        };
        put(outbox, upload_request::Kind::Finish(finish)).await
    }
}

async fn put(outbox: &mpsc::Sender<UploadRequest>, kind: upload_request::Kind) -> Result<(), Failure> {
    outbox.send(UploadRequest { kind: Some(kind) }).await.map_err(|_| closed())
}

fn closed() -> Failure {
    Failure::Retry("the connection was closed".to_owned())
}

fn no_answer() -> Failure {
    Failure::Retry(format!("no answer within {} s", STATUS_TIMEOUT.as_secs()))
}

fn failure(status: &tonic::Status) -> Failure {
    use tonic::Code;
    let why = transport::client::describe(status);
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Failure::Rejected(why),
        // Also a damaged store (data loss): the fault is not in what is sent, and what waits here may be the only copy. A
        // person repairs the store, or the collection's time is up and the coordinator says that it is closed.
        _ => Failure::Retry(why),
    }
}
