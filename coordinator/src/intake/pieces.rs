//! Taking the messages of an upload apart: their order, and that what comes is what was announced.

use std::time::Duration;

use exhibit_evidence::manifest::Segment;
use exhibit_evidence::stream::{SEGMENT_BYTES_MAX, SEGMENT_RAW_BYTES_MAX};
use exhibit_proto::bounds::SEGMENT_MANIFEST_BYTES_MAX;
use futures::{Stream, StreamExt as _};

use super::Piece;
use super::check::BadUpload;
use super::tools::{SegmentBytes, Tools};
use super::upload::Stop;
use crate::problem::{Kind, Problem, Result};

/// Pieces of a manifest in the catalog.
const PART_BYTES: usize = 1 << 20;

pub(super) fn bad(field: &'static str, problem: impl Into<String>) -> BadUpload {
    BadUpload { field, problem: problem.into() }
}

pub(super) async fn next<S>(pieces: &mut S) -> Result<Piece, Stop>
where
    S: Stream<Item = Result<Piece>> + Unpin + Send,
{
    match pieces.next().await {
        Some(piece) => Ok(piece?),
        None => {
            Err(Problem::new(Kind::NotNow, "the upload ended without its finish; what was acknowledged is kept, open it again to go on")
                .into())
        }
    }
}

pub(super) fn check_start(announced: &Segment, manifest_bytes: u64, next_segment: u32) -> Result<(), BadUpload> {
    let bound = |field: &'static str, value: u64, max: u64| {
        if (1..=max).contains(&value) { Ok(()) } else { Err(bad(field, format!("{value}: expected 1 to {max}"))) }
    };
    if announced.n > next_segment {
        return Err(bad("segment_start.n", format!("{}: segment {} comes next", announced.n, next_segment)));
    }
    bound("segment_start.size", announced.size, SEGMENT_BYTES_MAX as u64)?;
    bound("segment_start.raw_size", announced.raw_size, SEGMENT_RAW_BYTES_MAX as u64)?;
    bound("segment_start.manifest_bytes", manifest_bytes, SEGMENT_MANIFEST_BYTES_MAX)
}

/// Longest wait for the next message of a segment that was begun.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// A segment as it came.
pub(super) struct Received {
    pub bytes: SegmentBytes,
    pub lines: Vec<u8>,
    pub bookmark: Vec<u8>,
}

/// Receives what was announced, not a byte more: data, then lines, then the end.
pub(super) async fn receive<S>(tools: &Tools, announced: &Segment, manifest_bytes: u64, pieces: &mut S) -> Result<Received, Stop>
where
    S: Stream<Item = Result<Piece>> + Unpin + Send,
{
    let mut bytes = tools.buffer(announced.size as usize);
    // Both were announced, bounded and waited for.
    let mut lines = Vec::with_capacity(manifest_bytes as usize);
    let bookmark = loop {
        let piece = tokio::time::timeout(IDLE_MAX, next(pieces)).await.map_err(|_| idle(announced))??;
        match piece {
            Piece::Data(data) => {
                if !lines.is_empty() {
                    return Err(bad("segment_data", "data after manifest lines").into());
                }
                fits(bytes.as_slice().len(), &data, announced.size, "segment_data")?;
                bytes.extend(&data);
            }
            Piece::Lines(more) => {
                fits(lines.len(), &more, manifest_bytes, "manifest_lines")?;
                lines.extend_from_slice(&more);
            }
            Piece::End(n, _) if n != announced.n => {
                return Err(bad("segment_end.n", format!("{n}: segment {} was begun", announced.n)).into());
            }
            Piece::End(_, said) => break said,
            Piece::Start(..) => return Err(bad("segment_start", "the segment before has not ended").into()),
            Piece::Finish(_) => return Err(bad("finish", "the last segment has not ended").into()),
        }
    };
    for (field, got, said) in [
        ("segment_start.size", bytes.as_slice().len() as u64, announced.size),
        ("segment_start.manifest_bytes", lines.len() as u64, manifest_bytes),
    ] {
        if got != said {
            return Err(bad(field, format!("{said} bytes were announced, {got} came")).into());
        }
    }
    Ok(Received { bytes, lines, bookmark })
}

fn idle(announced: &Segment) -> Stop {
    let why = format!(
        "segment {}: nothing came for {} s; what was acknowledged is kept, open the upload again to go on",
        announced.n,
        IDLE_MAX.as_secs()
    );
    Problem::new(Kind::Busy, why).into()
}

fn fits(there: usize, more: &[u8], announced: u64, field: &'static str) -> Result<(), BadUpload> {
    let total = there.saturating_add(more.len()) as u64;
    if more.is_empty() || total > announced {
        return Err(bad(field, format!("a message of {} bytes makes {total}, {announced} were announced", more.len())));
    }
    Ok(())
}

pub(crate) fn parts_of(lines: &[u8]) -> Vec<Vec<u8>> {
    lines.chunks(PART_BYTES).map(<[u8]>::to_vec).collect()
}
