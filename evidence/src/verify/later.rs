//! Heads of more records than the history has, and what shows whether they continue it.
//!
//! A bag holds the history up to its export, so that somebody knows a longer one says nothing against it. Two things do: a proof
//! that begins with another history, and a witness who vouched for the longer head before this history says it was exported.

use super::chain::SLACK_S;
use crate::digest::Digest;
use crate::log::{Checkpoint, ConsistencyProof, Note, WitnessKey, earlier_root, verify_consistency};
use crate::time::Timestamp;

/// What a consistency proof shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// The later head continues this history, to its last record.
    Continues,
    /// The later head continues another history, which has this root where the proof begins.
    Another(Digest),
    /// The hashes do not lead to the later head.
    Nothing,
    /// The proof does not begin where this history ends.
    Elsewhere,
}

/// Judges a proof. `roots` has the history's root at each size, `head` is the later head and has more records.
pub(super) fn judge(roots: &[Digest], proof: &ConsistencyProof, head: &Checkpoint) -> Shown {
    let Some(ours) = usize::try_from(proof.old).ok().and_then(|n| roots.get(n)) else { return Shown::Elsewhere };
    let later = (head.size, &head.root);
    if verify_consistency((proof.old, ours), later, &proof.hashes).is_ok() {
        let is_whole = proof.old == roots.len().saturating_sub(1) as u64;
        return if is_whole { Shown::Continues } else { Shown::Elsewhere };
    }
    earlier_root(proof.old, later, &proof.hashes).map_or(Shown::Nothing, Shown::Another)
}

/// The first of the given witnesses who vouched for a longer head, and when, if that was before the last export that the history
/// records: a head that continues this history holds that record and cannot be older.
pub(super) fn before_the_export<'a>(
    note: &Note,
    witnesses: &'a [WitnessKey],
    exported: Option<Timestamp>,
) -> Option<(&'a WitnessKey, Timestamp)> {
    let vouched = |witness: &'a WitnessKey| {
        let time_s = witness.verify(note).ok()?.time_s;
        Some((witness, Timestamp::from_unix_s(i64::try_from(time_s).ok()?)))
    };
    let first = witnesses.iter().filter_map(vouched).min_by_key(|(_, at)| *at)?;
    exported.is_some_and(|exported| first.1.plus_s(SLACK_S) < exported).then_some(first)
}
