//! The way of segments through an upload, in three stages that run at once: one segment is received while the one before
//! it is checked and the one before that is made durable. Each stage takes them in order, so acknowledgements come in order
//! and the check's state is one chain. At most [`SEGMENTS_AT_ONCE`] are held by one upload.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::layout;
use exhibit_evidence::manifest::Segment;
use exhibit_proto::bounds::SEGMENT_MANIFEST_BYTES_MAX;
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::check::{BadUpload, StreamCheck};
use super::pieces::{Received, bad, check_start, next, parts_of, receive};
use super::tools::SegmentBytes;
use super::upload::{Pauses, Stop, Upload, gone, stopping, waits};
use super::{Answer, Finish, Piece};
use crate::catalog::{SegmentCommit, Step, Totals};
use crate::clock;
use crate::problem::{Kind, Problem, Result};
use crate::store;

/// Segments that one upload holds: received, checked, made durable.
const SEGMENTS_AT_ONCE: usize = 3;

/// A segment that was begun holds memory that others wait for, so it must come: within this time and what a slow link
/// needs for its bytes. An agent that was cut off for it goes on where it was.
const SEGMENT_TIME: Duration = Duration::from_secs(30);
/// The slowest sender that is waited for: half of the least send rate that an order may give.
const SEGMENT_BYTES_PER_S_MIN: u64 = 512;

/// What stands between two stages. The permits are given back when the segment is durable.
struct Arrived {
    announced: Segment,
    received: Received,
    held: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// A segment on its way into the store.
struct Checked {
    announced: Segment,
    bytes: SegmentBytes,
    /// `None` for one that was acknowledged before.
    new: Option<New>,
    held: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// What is committed with a segment.
struct New {
    lines: Vec<u8>,
    bookmark: Vec<u8>,
    snapshot: Vec<u8>,
    totals: Totals,
}

/// How a put ended.
type StorePut = std::result::Result<store::Stored, store::StoreError>;

/// What comes after the last segment.
pub(super) struct Last {
    pub trailing: Vec<u8>,
    pub end: Finish,
}

impl Upload {
    /// Takes all segments of the stream, until its finish.
    pub(super) async fn take_segments<S>(
        &self,
        check: StreamCheck,
        pieces: &mut S,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<(StreamCheck, Last), Stop>
    where
        S: Stream<Item = Result<Piece>> + Unpin + Send,
    {
        let (arrived_in, arrived) = mpsc::channel(SEGMENTS_AT_ONCE);
        let (checked_in, checked) = mpsc::channel(SEGMENTS_AT_ONCE);
        let first = check.next_segment();
        let (last, check, stored) = futures::join!(
            self.receive_all(first, pieces, arrived_in, answers),
            self.check_all(check, arrived, checked_in),
            self.store_all(checked, answers),
        );
        // A later stage that fails ends the ones before it: its word says why.
        stored?;
        let check = check?;
        Ok((check, last?))
    }

    /// First stage: takes the messages apart. What one upload may hold, what its agent may, and what all may, are waited
    /// for before the first byte of a segment.
    async fn receive_all<S>(
        &self,
        first: u32,
        pieces: &mut S,
        to: mpsc::Sender<Arrived>,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<Last, Stop>
    where
        S: Stream<Item = Result<Piece>> + Unpin + Send,
    {
        let room = Arc::new(Semaphore::new(SEGMENTS_AT_ONCE));
        let (mut next_segment, mut trailing) = (first, Vec::new());
        loop {
            let piece = tokio::select! {
                piece = self.or_cut(next(pieces)) => piece??,
                () = to.closed() => return Err(gone()),
            };
            match piece {
                Piece::Start(announced, manifest_bytes) => {
                    if !trailing.is_empty() {
                        return Err(bad("segment_start", "manifest lines came after the last segment").into());
                    }
                    check_start(&announced, manifest_bytes, next_segment)?;
                    next_segment = next_segment.max(announced.n.saturating_add(1));
                    let arriving = self.receive_one(announced, manifest_bytes, &room, pieces, answers);
                    let arrived = tokio::select! {
                        arrived = arriving => arrived?,
                        () = to.closed() => return Err(gone()),
                    };
                    to.send(arrived).await.map_err(|_| gone())?;
                }
                Piece::Lines(lines) => {
                    if trailing.len().saturating_add(lines.len()) as u64 > SEGMENT_MANIFEST_BYTES_MAX {
                        let why = format!("more than {SEGMENT_MANIFEST_BYTES_MAX} bytes after the last segment");
                        return Err(bad("manifest_lines", why).into());
                    }
                    trailing.extend_from_slice(&lines);
                }
                Piece::Finish(end) => return Ok(Last { trailing, end: *end }),
                Piece::Data(_) => return Err(bad("segment_data", "no segment was begun").into()),
                Piece::End(..) => return Err(bad("segment_end", "no segment was begun").into()),
            }
        }
    }

    async fn receive_one<S>(
        &self,
        announced: Segment,
        manifest_bytes: u64,
        room: &Arc<Semaphore>,
        pieces: &mut S,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<Arrived, Stop>
    where
        S: Stream<Item = Result<Piece>> + Unpin + Send,
    {
        let bytes = announced.size.saturating_add(manifest_bytes);
        self.wait_for_room(bytes, answers).await?;
        let place = self.or_cut(Arc::clone(room).acquire_owned()).await?.map_err(|_| stopping())?;
        let _turn = self.or_cut(self.parts.uploads.turn(&self.row.agent)).await?;
        let memory = self.or_cut(self.parts.uploads.bytes(bytes)).await?.ok_or_else(stopping)?;
        let limit = SEGMENT_TIME.saturating_add(Duration::from_secs(bytes / SEGMENT_BYTES_PER_S_MIN));
        let received =
            self.or_cut(tokio::time::timeout(limit, receive(&self.parts.uploads.tools, &announced, manifest_bytes, pieces))).await?;
        let received = received.map_err(|_| too_slow(&announced, limit))??;
        Ok(Arrived { announced, received, held: (place, memory) })
    }

    /// Second stage: the whole check, on threads that may be busy.
    async fn check_all(
        &self,
        mut check: StreamCheck,
        mut from: mpsc::Receiver<Arrived>,
        to: mpsc::Sender<Checked>,
    ) -> Result<StreamCheck, Stop> {
        loop {
            let arrived = tokio::select! {
                arrived = from.recv() => arrived,
                // The stage behind failed: nothing that is checked now could be kept.
                () = to.closed() => None,
            };
            let Some(Arrived { announced, received, held }) = arrived else { return Ok(check) };
            let Received { bytes, lines, bookmark } = received;
            let checked = if announced.n < check.next_segment() {
                Checked { announced, bytes, new: None, held }
            } else {
                let permit = self.parts.uploads.check().await.ok_or_else(stopping)?;
                let tools = &self.parts.uploads.tools;
                let mut decoder = tools.decoder().map_err(|e| Problem::new(Kind::Failed, format!("a segment cannot be decoded: {e}")))?;
                let work = tokio::task::spawn_blocking(move || {
                    let _permit = permit;
                    let outcome = check.take_segment(&mut decoder, &announced, bytes.as_slice(), &lines);
                    let new = outcome.map(|()| New { snapshot: check.snapshot(), totals: check.totals().clone(), lines, bookmark });
                    (new, check, announced, bytes, decoder)
                });
                let (new, state, announced, bytes, decoder) =
                    work.await.map_err(|e| Problem::new(Kind::Failed, format!("the check of a segment ended badly: {e}")))?;
                tools.keep(decoder);
                check = state;
                Checked { announced, bytes, new: Some(new?), held }
            };
            if to.send(checked).await.is_err() {
                return Ok(check);
            }
        }
    }

    /// Third stage, segment by segment.
    ///
    /// Order of writes: (1) the object in the store, create-only; (2) segment row, manifest lines, snapshot, bookmark and
    /// counters in the catalog, one transaction; (3) the acknowledgement. Died after 1: the agent sends the segment again,
    /// the store finds the same content. Died after 2: the agent is told the next number. Neither happened: nothing is
    /// known of the segment, and the agent still has it. Of the segments behind it in the earlier stages nothing was
    /// written.
    async fn store_all(&self, mut from: mpsc::Receiver<Checked>, answers: &mpsc::Sender<Answer>) -> Result<(), Stop> {
        while let Some(Checked { announced, bytes, new, held }) = from.recv().await {
            let Some(New { lines, bookmark, snapshot, totals }) = new else {
                self.repeated(&announced, bytes.as_slice()).await?;
                drop((bytes, held));
                self.say(answers, Answer::Ack(announced.n)).await?;
                continue;
            };
            let (bytes, buffer) = bytes.into_bytes();
            self.put(&announced, bytes, answers).await?;
            self.parts.uploads.tools.give_back(buffer);
            let (n, size) = (announced.n, announced.size);
            let commit = SegmentCommit {
                collection: self.row.collection.clone(),
                stream: self.row.stream,
                segment: announced,
                manifest_parts: parts_of(&lines),
                snapshot,
                bookmark,
                totals,
                at: clock::now(),
            };
            self.commit(commit, answers).await?;
            // Given back before the agent hears it: one that does not listen holds nothing that others wait for.
            drop(held);
            self.parts.metrics.acknowledged(size);
            self.say(answers, Answer::Ack(n)).await?;
            self.parts.progress.ring(&self.row.collection);
        }
        Ok(())
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

    async fn put(&self, announced: &Segment, bytes: Bytes, answers: &mpsc::Sender<Answer>) -> Result<(), Stop> {
        let name = layout::segment(&self.row.case, &self.row.collection, self.row.stream, announced.n);
        let mut pauses = Pauses::default();
        loop {
            match self.put_once(&name, bytes.clone(), announced.sha256).await? {
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

    /// One put, in a task of its own: an upload that is cut ends, what it began to write does not, and the end of the
    /// collection waits for it. Otherwise the object could appear after the stream's objects were counted.
    async fn put_once(&self, name: &str, bytes: Bytes, sha256: exhibit_evidence::Digest) -> Result<StorePut, Stop> {
        let writing = Arc::clone(&self.place.writing).lock_owned().await;
        if *writing {
            return Err(Problem::new(Kind::NotNow, "the end of the collection is being written").into());
        }
        if !self.place.right.lasts() {
            // It ends here and comes again: until then it is one of those that wait.
            self.parts.uploads.note_asked(&self.row.agent, false);
            return Err(
                Problem::new(Kind::Busy, "the right to write the collection's objects could not be kept; open the upload again").into()
            );
        }
        let (store, name, right) = (Arc::clone(&self.parts.store), name.to_owned(), Arc::clone(&self.place.right));
        let put = tokio::spawn(async move {
            let put = store.put_new(&name, bytes.into(), sha256).await;
            drop((writing, right));
            put
        });
        put.await.map_err(|e| Problem::new(Kind::Failed, format!("a write to the store ended badly: {e}")).into())
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
                Err(p) if waits(&p) => self.pause(&mut pauses, answers, &p.to_string()).await?,
                Err(p) => return Err(p.into()),
            }
        }
    }
}

fn too_slow(announced: &Segment, limit: Duration) -> Stop {
    let why = format!(
        "segment {} did not come within {} s; what was acknowledged is kept, open the upload again to go on",
        announced.n,
        limit.as_secs()
    );
    Problem::new(Kind::Busy, why).into()
}
