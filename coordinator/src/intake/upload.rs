//! One upload: from its opening to its finish, or to wherever it breaks off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::id::AgentId;
use exhibit_evidence::layout::{self, StreamNumber};
use exhibit_evidence::manifest::{FORMAT, Header, Segment};
use exhibit_evidence::record::{Order, Outcome};
use exhibit_evidence::text::one_line;
use exhibit_proto::bounds::SEGMENT_MANIFEST_BYTES_MAX;
use futures::Stream;
use tokio::sync::mpsc;

use super::admission::Place;
use super::check::{BadUpload, StreamCheck};
use super::pieces::{Received, bad, check_start, next, parts_of, receive};
use super::{Answer, Finish, Opening, Piece, finish};
use crate::catalog::{CollectionRow, Ending, SegmentCommit, State, Step, StreamRow, StreamState, Totals};
use crate::clock;
use crate::dispatch;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::store;

/// False uploads of one collection after which it is closed with what arrived.
const STRIKES_MAX: u32 = 3;
/// Longest wait between two tries to write while an upload is paused.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// A segment that was begun holds memory that others wait for, so it must come: within this time and what a slow link
/// needs for its bytes. An agent that was cut off for it goes on where it was.
const SEGMENT_TIME: Duration = Duration::from_secs(30);
/// The slowest sender that is waited for: half of the least send rate that an order may give.
const SEGMENT_BYTES_PER_S_MIN: u64 = 512;

/// An upload that was let in.
pub struct Upload {
    pub(super) parts: Arc<Parts>,
    pub(super) row: CollectionRow,
    pub(super) order: Order,
    /// `None` when the stream is finished already.
    check: Option<StreamCheck>,
    next_segment: u32,
    place: Place,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upload({} {})", self.row.collection, self.row.stream)
    }
}

/// Why an upload ended before its finish.
pub(super) enum Stop {
    /// The agent broke the contract.
    Bad(BadUpload),
    /// Another content under the same number.
    Other(BadUpload),
    /// Everything else.
    Problem(Problem),
}

impl From<BadUpload> for Stop {
    fn from(e: BadUpload) -> Self {
        Self::Bad(e)
    }
}

impl From<Problem> for Stop {
    fn from(e: Problem) -> Self {
        Self::Problem(e)
    }
}

/// Lets an upload in: the collection is the agent's and runs, the stream is the current one, the process is the one that
/// is connected. Continues where the catalog says that the stream stands.
///
/// # Errors
/// [`Problem`]
pub async fn open(parts: &Arc<Parts>, agent: &AgentId, opening: &Opening) -> Result<Upload> {
    let row = dispatch::own(parts, agent, &opening.collection).await?;
    only_the_connected(parts, agent, opening).await?;
    let row = if dispatch::is_next(&row, opening.stream) { dispatch::begin_next(parts, row).await? } else { row };
    if row.stream != opening.stream {
        let said = format!("stream: {}: the current stream of {} is {}", opening.stream, row.collection, row.stream);
        return Err(Problem::new(Kind::NotNow, said));
    }
    let known = parts.catalog.stream(row.collection.clone(), row.stream).await?;
    let ended = known.as_ref().is_some_and(|s| matches!(s.state, StreamState::Finished | StreamState::Received));
    let row = match row.state {
        State::Queued | State::Offered => dispatch::accept(parts, agent, &row.collection).await?,
        State::Running => row,
        State::Sealing | State::Closed(_) if ended => row,
        State::Sealing | State::Closed(_) => {
            let why = row.reason.clone().unwrap_or_default();
            return Err(Problem::new(Kind::NotNow, format!("collection: {} is closed ({}): {why}", row.collection, row.state.as_str())));
        }
    };
    let place = parts.uploads.take(&row.collection, row.stream).await?;
    let (order, _) = dispatch::order_of(parts, &row).await?;
    let stream = parts.catalog.open_stream(empty_stream(&row, row.stream)).await?;
    let check = match stream.state {
        StreamState::Open => Some(restore(&row, &order, &stream)?),
        StreamState::Finished | StreamState::Received => None,
        StreamState::Void => return Err(Problem::new(Kind::NotNow, format!("stream: {} of {} was closed", stream.stream, row.collection))),
    };
    Ok(Upload { parts: Arc::clone(parts), row, order, check, next_segment: stream.next_segment, place })
}

/// Lets in only the process that is connected: two with one identity are an incident.
pub(super) async fn only_the_connected(parts: &Parts, agent: &AgentId, opening: &Opening) -> Result<()> {
    if parts.sessions.instance(agent).is_none_or(|live| live == opening.instance) {
        return Ok(());
    }
    let detail = format!("a process that is not the connected one tried to upload {}", opening.collection);
    parts.incident("duplicate-identity", agent.as_str(), &detail).await;
    Err(Problem::new(Kind::Denied, "instance: another process of this agent is connected; only it may upload"))
}

/// A stream of which nothing has arrived.
pub(crate) fn empty_stream(row: &CollectionRow, stream: StreamNumber) -> StreamRow {
    let now = clock::now();
    StreamRow {
        collection: row.collection.clone(),
        stream,
        state: StreamState::Open,
        next_segment: 0,
        snapshot: Vec::new(),
        bookmark: Vec::new(),
        totals: Totals::default(),
        received_from: now,
        received_to: now,
        manifest: None,
        acquisition: None,
        receipt: None,
    }
}

/// The check of a stream as it stands in the catalog.
pub(crate) fn restore(row: &CollectionRow, order: &Order, stream: &StreamRow) -> Result<StreamCheck> {
    let header = Header {
        format: FORMAT.to_owned(),
        case: row.case.clone(),
        collection: row.collection.clone(),
        stream: stream.stream,
        agent: row.agent.clone(),
        order: row.order_digest,
    };
    let captures: BTreeSet<String> = order.captures.iter().map(|c| c.name.clone()).collect();
    let check = StreamCheck::restore(header, captures, &stream.snapshot);
    check.filter(|c| c.next_segment() == stream.next_segment).ok_or_else(|| {
        Problem::new(
            Kind::Damaged,
            format!(
                "the state of {} {} cannot be continued by this version; restart the agent to begin a new stream",
                row.collection, row.stream
            ),
        )
    })
}

impl Upload {
    /// Where the agent should begin.
    #[must_use]
    pub const fn status(&self) -> Answer {
        Answer::Status { next_segment: self.next_segment, finished: self.check.is_none() }
    }

    /// Takes pieces until the finish. An end of `pieces` before it is an upload that broke off, however the transport
    /// shows it: nothing but the finish makes a stream complete.
    ///
    /// # Errors
    /// What the agent is to be told.
    pub async fn run<S>(mut self, mut pieces: S, answers: mpsc::Sender<Answer>) -> Result<()>
    where
        S: Stream<Item = Result<Piece>> + Unpin + Send,
    {
        let taken = self.take_all(&mut pieces, &answers).await;
        // This upload holds its place until it is dropped, so nobody else's pause is taken away.
        self.parts.progress.pause(&self.row.collection, None);
        match taken {
            Ok(()) => Ok(()),
            Err(Stop::Problem(problem)) => Err(problem),
            Err(Stop::Bad(bad)) => Err(self.refuse(bad, Kind::Invalid).await),
            Err(Stop::Other(bad)) => Err(self.refuse(bad, Kind::Conflict).await),
        }
    }

    /// Waits for something, unless the upload is cut. Only waits for others are cut short: a segment that came whole is
    /// checked, stored and committed, so that whoever takes this place finds nothing stored that the catalog lacks.
    async fn or_cut<T>(&self, wait: impl Future<Output = T>) -> Result<T, Stop> {
        let mut cut = self.place.cut.clone();
        tokio::select! {
            done = wait => Ok(done),
            _ = cut.wait_for(|cut| *cut) => Err(ended()),
        }
    }

    async fn take_all<S>(&mut self, pieces: &mut S, answers: &mpsc::Sender<Answer>) -> Result<(), Stop>
    where
        S: Stream<Item = Result<Piece>> + Unpin + Send,
    {
        let Some(mut check) = self.check.take() else {
            let receipt = self.or_cut(finish::conclude(&self.parts, &self.row)).await??;
            self.say(answers, Answer::Done(receipt)).await?;
            return Ok(());
        };
        let mut trailing = Vec::new();
        loop {
            match self.or_cut(next(pieces)).await?? {
                Piece::Start(announced, manifest_bytes) => {
                    if !trailing.is_empty() {
                        return Err(bad("segment_start", "manifest lines came after the last segment").into());
                    }
                    check = self.segment(check, announced, manifest_bytes, pieces, answers).await?;
                }
                Piece::Lines(lines) => {
                    if trailing.len().saturating_add(lines.len()) as u64 > SEGMENT_MANIFEST_BYTES_MAX {
                        let why = format!("more than {SEGMENT_MANIFEST_BYTES_MAX} bytes after the last segment");
                        return Err(bad("manifest_lines", why).into());
                    }
                    trailing.extend_from_slice(&lines);
                }
                Piece::Finish(end) => {
                    let receipt = self.finish(check, trailing, *end, answers).await?;
                    self.say(answers, Answer::Done(receipt)).await?;
                    return Ok(());
                }
                Piece::Data(_) => return Err(bad("segment_data", "no segment was begun").into()),
                Piece::End(..) => return Err(bad("segment_end", "no segment was begun").into()),
            }
        }
    }

    /// Takes one segment.
    ///
    /// Order of writes: (1) the object in the store, create-only; (2) segment row, manifest lines, snapshot and counters
    /// in the catalog, one transaction; (3) the acknowledgement. Died after 1: the agent sends the segment again, the
    /// store finds the same content. Died after 2: the agent is told the next number. Neither happened: nothing is known
    /// of the segment, and the agent still has it.
    async fn segment<S>(
        &mut self,
        check: StreamCheck,
        announced: Segment,
        manifest_bytes: u64,
        pieces: &mut S,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<StreamCheck, Stop>
    where
        S: Stream<Item = Result<Piece>> + Unpin + Send,
    {
        check_start(&announced, manifest_bytes, &check)?;
        self.wait_for_room(announced.size.saturating_add(manifest_bytes), answers).await?;
        let held = announced.size.saturating_add(manifest_bytes);
        let _turn = self.or_cut(self.parts.uploads.turn(&self.row.agent)).await?;
        let _memory = self.or_cut(self.parts.uploads.bytes(held)).await?.ok_or_else(stopping)?;
        let limit = SEGMENT_TIME.saturating_add(Duration::from_secs(held / SEGMENT_BYTES_PER_S_MIN));
        let received = self.or_cut(tokio::time::timeout(limit, receive(&announced, manifest_bytes, pieces))).await?;
        let Received { bytes, lines, bookmark } = received.map_err(|_| too_slow(&announced, limit))??;
        if announced.n < check.next_segment() {
            self.repeated(&announced, &bytes).await?;
            self.say(answers, Answer::Ack(announced.n)).await?;
            return Ok(check);
        }
        let (check, bytes, lines) = self.verify(check, announced.clone(), bytes, lines).await?;
        self.put(&announced, bytes, answers).await?;
        let commit = SegmentCommit {
            collection: self.row.collection.clone(),
            stream: self.row.stream,
            segment: announced.clone(),
            manifest_parts: parts_of(&lines),
            snapshot: check.snapshot(),
            bookmark,
            totals: check.totals().clone(),
            at: clock::now(),
        };
        self.commit(commit, answers).await?;
        self.say(answers, Answer::Ack(announced.n)).await?;
        self.parts.progress.ring(&self.row.collection);
        Ok(check)
    }

    /// The whole check, on a thread that may be busy.
    async fn verify(
        &self,
        mut check: StreamCheck,
        announced: Segment,
        bytes: Vec<u8>,
        lines: Vec<u8>,
    ) -> Result<(StreamCheck, Vec<u8>, Vec<u8>), Stop> {
        let permit = self.parts.uploads.check().await.ok_or_else(stopping)?;
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let outcome = check.take_segment(&announced, &bytes, &lines);
            (outcome, check, bytes, lines)
        });
        let (outcome, check, bytes, lines) =
            work.await.map_err(|e| Problem::new(Kind::Failed, format!("the check of a segment ended badly: {e}")))?;
        outcome?;
        Ok((check, bytes, lines))
    }

    /// A segment that was acknowledged before: the same again is acknowledged again, anything else is a conflict.
    async fn repeated(&self, announced: &Segment, bytes: &[u8]) -> Result<(), Stop> {
        let known =
            self.parts.catalog.segments(self.row.collection.clone(), self.row.stream, announced.n, 1).await.map_err(Problem::from)?;
        let sha256 = exhibit_evidence::Digest::of(bytes);
        match known.first() {
            Some(known) if known.n == announced.n && known.sha256 == sha256 && known.size == bytes.len() as u64 => Ok(()),
            Some(known) if known.n == announced.n => Err(Stop::Other(BadUpload {
                field: "segment_start.sha256",
                problem: format!(
                    "segment {}: {sha256} was sent where {} is stored and acknowledged; nothing was overwritten",
                    announced.n, known.sha256
                ),
            })),
            _ => Err(Problem::new(Kind::Damaged, format!("the catalog lacks segment {} of {}", announced.n, self.row.collection)).into()),
        }
    }

    /// Waits, with the agent paused, until the store says that there is room.
    async fn wait_for_room(&self, bytes: u64, answers: &mpsc::Sender<Answer>) -> Result<(), Stop> {
        let need = bytes.saturating_add(self.parts.uploads.free_bytes_min());
        let mut pauses = Pauses::default();
        loop {
            match self.parts.store.free_bytes().await {
                Ok(Some(free)) if free < need => {
                    self.pause(&mut pauses, answers, &format!("the store has {free} bytes free, {need} are needed")).await?;
                }
                // A store that cannot tell will say so when it is full.
                Ok(_) | Err(_) => return self.resume(&pauses, answers).await,
            }
        }
    }

    async fn put(&self, announced: &Segment, bytes: Vec<u8>, answers: &mpsc::Sender<Answer>) -> Result<(), Stop> {
        let name = layout::segment(&self.row.case, &self.row.collection, self.row.stream, announced.n);
        let bytes = Bytes::from(bytes);
        let mut pauses = Pauses::default();
        loop {
            match self.parts.store.put_new(&name, bytes.clone().into(), announced.sha256).await {
                Ok(_) => return self.resume(&pauses, answers).await,
                Err(e) if e.kind() == store::Kind::Conflict => {
                    return Err(Stop::Other(BadUpload {
                        field: "segment_start.sha256",
                        problem: format!(
                            "segment {}: other content was stored under this number by an earlier try; nothing was overwritten",
                            announced.n
                        ),
                    }));
                }
                Err(e) if matches!(e.kind(), store::Kind::Retry | store::Kind::Full | store::Kind::Denied) => {
                    self.pause(&mut pauses, answers, &format!("the store does not take segments now: {e}")).await?;
                }
                Err(e) => return Err(Problem::from(e).into()),
            }
        }
    }

    async fn commit(&self, commit: SegmentCommit, answers: &mpsc::Sender<Answer>) -> Result<(), Stop> {
        let mut pauses = Pauses::default();
        loop {
            match self.parts.catalog.commit_segment(commit.clone()).await.map_err(Problem::from) {
                Ok(Step::Done) => return self.resume(&pauses, answers).await,
                Ok(Step::NotNow) => {
                    return Err(Problem::new(
                        Kind::NotNow,
                        format!("segment {}: the stream has moved on or was closed; open the upload again", commit.segment.n),
                    )
                    .into());
                }
                Err(p) if p.is_passing() => self.pause(&mut pauses, answers, &p.to_string()).await?,
                Err(p) => return Err(p.into()),
            }
        }
    }

    async fn finish(
        &self,
        mut check: StreamCheck,
        trailing: Vec<u8>,
        end: Finish,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<Vec<u8>, Stop> {
        let acquisition = match finish::verify_acquisition(&self.parts, &self.row, &self.order, &end.acquisition).await {
            Err(p) if matches!(p.kind(), Kind::Invalid | Kind::Denied) => return Err(bad("finish", p.to_string()).into()),
            other => other?,
        };
        let work = tokio::task::spawn_blocking(move || {
            let manifest = check.finish(&trailing, end.segments, end.manifest_sha256, end.manifest_bytes)?;
            if manifest != acquisition.manifest {
                return Err(BadUpload {
                    field: "acquisition.manifest",
                    problem: format!(
                        "the agent signed {} of {} bytes, the coordinator computed {} of {}",
                        acquisition.manifest.sha256, acquisition.manifest.size, manifest.sha256, manifest.size
                    ),
                });
            }
            Ok((manifest, trailing))
        });
        let (manifest, trailing) =
            work.await.map_err(|e| Problem::new(Kind::Failed, format!("the check of a manifest ended badly: {e}")))??;
        let mut pauses = Pauses::default();
        let commit = crate::catalog::StreamFinish {
            collection: self.row.collection.clone(),
            stream: self.row.stream,
            manifest_parts: parts_of(&trailing),
            manifest,
            acquisition: Some(end.acquisition.as_bytes().to_vec()),
            at: clock::now(),
        };
        loop {
            match self.parts.catalog.finish_stream(commit.clone()).await.map_err(Problem::from) {
                Ok(Step::Done) => break,
                Ok(Step::NotNow) => return Err(Problem::new(Kind::NotNow, "finish: the stream was closed; open the upload again").into()),
                Err(p) if p.is_passing() => self.pause(&mut pauses, answers, &p.to_string()).await?,
                Err(p) => return Err(p.into()),
            }
        }
        self.resume(&pauses, answers).await?;
        Ok(self.or_cut(finish::conclude(&self.parts, &self.row)).await??)
    }

    async fn pause(&self, pauses: &mut Pauses, answers: &mpsc::Sender<Answer>, why: &str) -> Result<(), Stop> {
        if pauses.count == 0 {
            tracing::warn!(collection = %self.row.collection, why, "upload paused");
            self.say(answers, Answer::Pause(one_line(why, 1_000))).await?;
        }
        self.parts.progress.pause(&self.row.collection, Some(format!("upload paused: {}", one_line(why, 800))));
        pauses.count = pauses.count.saturating_add(1);
        let wait = Duration::from_millis(100).saturating_mul(1 << pauses.count.min(10)).min(PAUSE_MAX);
        self.or_cut(tokio::time::sleep(wait)).await?;
        if answers.is_closed() { Err(gone()) } else { Ok(()) }
    }

    async fn resume(&self, pauses: &Pauses, answers: &mpsc::Sender<Answer>) -> Result<(), Stop> {
        if pauses.count == 0 {
            return Ok(());
        }
        self.parts.progress.pause(&self.row.collection, None);
        self.say(answers, Answer::Resume).await
    }

    async fn say(&self, answers: &mpsc::Sender<Answer>, answer: Answer) -> Result<(), Stop> {
        self.or_cut(answers.send(answer)).await?.map_err(|_| gone())
    }

    /// Records that the agent broke the contract; after the third time the collection is closed with what arrived.
    async fn refuse(&self, bad: BadUpload, kind: Kind) -> Problem {
        let row = &self.row;
        let strikes = self.parts.uploads.strike(&row.collection);
        let detail = format!("collection {} {} of agent {}: {bad}", row.collection, row.stream, row.agent);
        self.parts.incident("false-upload", row.agent.as_str(), &detail).await;
        if strikes >= STRIKES_MAX {
            let reason = format!("the agent's upload was refused {strikes} times, the last time because of {bad}");
            let ending = Ending { outcome: Outcome::Partial, reason: Some(one_line(&reason, 1_000)), refusal: None };
            if let Err(error) = dispatch::end(&self.parts, &row.collection, &[State::Running], ending).await {
                tracing::error!(collection = %row.collection, %error, "the collection could not be closed after false uploads");
            }
        }
        Problem::new(kind, bad.to_string())
    }
}

#[derive(Debug, Default)]
struct Pauses {
    count: u32,
}

fn too_slow(announced: &Segment, limit: Duration) -> Stop {
    let why = format!(
        "segment {} did not come within {} s; what was acknowledged is kept, open the upload again to go on",
        announced.n,
        limit.as_secs()
    );
    Problem::new(Kind::Busy, why).into()
}

fn ended() -> Stop {
    Stop::Problem(Problem::new(Kind::NotNow, "the upload was ended: another took its place, or the collection is closed"))
}

fn gone() -> Stop {
    Stop::Problem(Problem::new(Kind::NotNow, "the agent went away"))
}

fn stopping() -> Problem {
    Problem::new(Kind::Busy, "the coordinator is stopping")
}
