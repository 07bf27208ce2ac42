//! One upload: from its opening to its finish, or to wherever it breaks off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::age::Recipients;
use exhibit_evidence::id::{AgentId, CaseId};
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::{FORMAT, Header};
use exhibit_evidence::record::{Order, Outcome};
use exhibit_evidence::text::one_line;
use futures::Stream;
use tokio::sync::mpsc;

use super::admission::Place;
use super::check::{BadUpload, StreamCheck};
use super::pieces::{bad, parts_of};
use super::{Answer, Finish, Opening, Piece, finish, turned_away};
use crate::catalog::{CollectionRow, Ending, State, Step, StreamRow, StreamState, Totals};
use crate::clock;
use crate::dispatch;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::replica;

/// False uploads of one collection after which it is closed with what arrived.
const STRIKES_MAX: u32 = 3;
/// Time for an agent to take an answer when many wait for it already.
pub(super) const ANSWER_TIME: Duration = Duration::from_mins(1);
/// Longest wait between two tries to write while an upload is paused.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// An upload that was let in.
pub struct Upload {
    pub(super) parts: Arc<Parts>,
    pub(super) row: CollectionRow,
    pub(super) order: Order,
    /// `None` when the stream is finished already.
    check: Option<StreamCheck>,
    next_segment: u32,
    pub(super) place: Place,
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
    // Whoever revoked it may have done so at another coordinator.
    if turned_away::known(parts, agent).await?.is_none_or(|row| row.revoked.is_some()) {
        return Err(Problem::new(Kind::Denied, format!("agent {agent} is unknown or revoked")));
    }
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
        State::Unapproved => {
            return Err(Problem::new(Kind::Denied, format!("collection: nobody approved the order of {}", row.collection)));
        }
        State::Running => row,
        State::Sealing | State::Closed(_) if ended => row,
        State::Sealing | State::Closed(_) => {
            let why = row.reason.clone().unwrap_or_default();
            return Err(Problem::new(Kind::NotNow, format!("collection: {} is closed ({}): {why}", row.collection, row.state.as_str())));
        }
    };
    let right = turned_away::right(parts, agent, &row.collection).await?;
    let place = parts.uploads.take(&row.collection, row.stream, right).await?;
    // Both are looked at again behind the place, which may have been waited for: another process may have connected, and an
    // end that is decided from here on finds the place and waits for its writes.
    only_the_connected(parts, agent, opening).await?;
    let now = dispatch::own(parts, agent, &opening.collection).await?;
    if now.stream != row.stream || (now.state != row.state && !ended) {
        return Err(Problem::new(Kind::Busy, format!("{} moved on just now; open the upload again", row.collection)));
    }
    // What custody says of the case by now is what the store locks its segments by.
    parts.ledgers.case(&row.case).await?;
    let (order, _) = dispatch::order_of(parts, &row).await?;
    let stream = parts.catalog.open_stream(empty_stream(&row, row.stream)).await?;
    let check = match stream.state {
        StreamState::Open => Some(restore(&row, &order, encrypt_to(parts, &row.case).await?, &stream)?),
        StreamState::Finished | StreamState::Received => None,
        StreamState::Void => return Err(Problem::new(Kind::NotNow, format!("stream: {} of {} was closed", stream.stream, row.collection))),
    };
    Ok(Upload { parts: Arc::clone(parts), row, order, check, next_segment: stream.next_segment, place })
}

/// Lets in only the process that is connected: two with one identity are an incident.
pub(super) async fn only_the_connected(parts: &Parts, agent: &AgentId, opening: &Opening) -> Result<()> {
    let connected = match parts.sessions.instance(agent) {
        Some(here) => Some(here),
        None => replica::instance_elsewhere(parts, agent).await?,
    };
    if connected.is_none_or(|live| live == opening.instance) {
        return Ok(());
    }
    let detail = format!("a process that is not the connected one tried to upload {}", opening.collection);
    parts.incident(None, "duplicate-identity", agent.as_str(), &detail).await;
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

/// To whom the streams of a case are encrypted, by its log.
pub(crate) async fn encrypt_to(parts: &Parts, case: &CaseId) -> Result<Recipients> {
    Ok(parts.ledgers.case(case).await?.view().custody().encrypt_to().clone())
}

/// The check of a stream as it stands in the catalog.
pub(crate) fn restore(row: &CollectionRow, order: &Order, encrypted_to: Recipients, stream: &StreamRow) -> Result<StreamCheck> {
    let header = Header {
        format: FORMAT.to_owned(),
        case: row.case.clone(),
        collection: row.collection.clone(),
        stream: stream.stream,
        agent: row.agent.clone(),
        order: row.order_digest,
        encrypted_to,
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
    pub(super) async fn or_cut<T>(&self, wait: impl Future<Output = T>) -> Result<T, Stop> {
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
        let receipt = match self.check.take() {
            None => self.or_cut(finish::conclude(&self.parts, &self.row)).await??,
            Some(check) => {
                let (check, last) = self.take_segments(check, pieces, answers).await?;
                self.finish(check, last.trailing, last.end, answers).await?
            }
        };
        self.say(answers, Answer::Done(receipt)).await
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
                Err(p) if waits(&p) => self.pause(&mut pauses, answers, &p.to_string()).await?,
                Err(p) => return Err(p.into()),
            }
        }
        self.resume(&pauses, answers).await?;
        Ok(self.or_cut(finish::conclude(&self.parts, &self.row)).await??)
    }

    pub(super) async fn pause(&self, pauses: &mut Pauses, answers: &mpsc::Sender<Answer>, why: &str) -> Result<(), Stop> {
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

    pub(super) async fn resume(&self, pauses: &Pauses, answers: &mpsc::Sender<Answer>) -> Result<(), Stop> {
        if pauses.count == 0 {
            return Ok(());
        }
        tracing::info!(collection = %self.row.collection, "upload goes on");
        self.parts.progress.pause(&self.row.collection, None);
        self.say(answers, Answer::Resume).await
    }

    /// Says something to an agent that listens; one that does not for [`ANSWER_TIME`] is as good as gone.
    pub(super) async fn say(&self, answers: &mpsc::Sender<Answer>, answer: Answer) -> Result<(), Stop> {
        match self.or_cut(tokio::time::timeout(ANSWER_TIME, answers.send(answer))).await? {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(gone()),
        }
    }

    /// Records that the agent broke the contract; after the third time the collection is closed with what arrived.
    async fn refuse(&self, bad: BadUpload, kind: Kind) -> Problem {
        let row = &self.row;
        self.parts.metrics.refused_upload();
        let strikes = self.parts.uploads.strike(&row.collection);
        let detail = format!("collection {} {} of agent {}: {bad}", row.collection, row.stream, row.agent);
        self.parts.incident(Some(&row.case), "false-upload", row.agent.as_str(), &detail).await;
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

/// True when the agent is to wait: the catalog cannot now, or a person must free space or give rights. The commit is
/// repeatable, and an agent that is told to wait need not send the segment again.
pub(super) const fn waits(problem: &Problem) -> bool {
    matches!(problem.kind(), Kind::Busy | Kind::Failed)
}

#[derive(Debug, Default)]
pub(super) struct Pauses {
    count: u32,
}

pub(super) fn ended() -> Stop {
    Stop::Problem(Problem::new(Kind::NotNow, "the upload was ended: another took its place, or the collection is closed"))
}

pub(super) fn gone() -> Stop {
    Stop::Problem(Problem::new(Kind::NotNow, "the agent went away"))
}

pub(super) fn stopping() -> Problem {
    Problem::new(Kind::Busy, "the coordinator is stopping")
}
