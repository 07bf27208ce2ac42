//! What the copy lost: an object that was in it and is not any more. It is copied again, and told: whoever deletes there would go unseen
//! otherwise.
//!
//! What was in the copy is known by two things, neither of which somebody without the log's key can make up:
//!
//! - its own signed head of a log. It is put there when everything that its records speak of is there, so each of these records, and what they
//!   say was received, was in the copy. It outlasts a restart, and goes when somebody deletes it.
//! - when a comparison of everything began that left nothing out of the copy: what was written before was in it. The catalog keeps that, with
//!   the copy's place. The clock of a store may be another one than ours, so an hour is left out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use exhibit_evidence::Timestamp;
use exhibit_evidence::layout::CaseObject;
use tokio::time::Instant;

use super::compare::{Lag, read_head, shown};
use super::failed::Failed;
use super::folder::Folder;
use super::heads::verified;
use super::{Copier, Second};
use crate::parts::Parts;
use crate::several;
use crate::store::Entry;

/// The name under which the catalog keeps how far the copy came.
const CHORE: &str = "copy";
/// What the clocks of a store and of this machine may be apart.
const CLOCKS_APART_S: i64 = 3_600;
/// Between two words about what was put back lies so much time while a comparison is not done: whoever deletes all would fill a log otherwise.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// Objects that were gone from the copy and were put there again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PutBack {
    /// How many.
    pub(super) count: u64,
    /// The first one.
    first: String,
}

impl PutBack {
    fn add(&mut self, name: &str) {
        if self.count == 0 {
            self.first = shown(name);
        }
        self.count = self.count.saturating_add(1);
    }

    /// These as well.
    pub(super) fn join(&mut self, other: Self) {
        if self.count == 0 {
            self.first = other.first;
        }
        self.count = self.count.saturating_add(other.count);
    }
}

/// What was put back while a folder is being copied; several objects are at once.
#[derive(Debug, Default)]
pub(super) struct Noted(Mutex<PutBack>);

impl Noted {
    fn add(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(name);
    }

    /// What was noted since somebody asked.
    pub(super) fn take(&self) -> PutBack {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How far the copy came, as the catalog keeps it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Covered {
    /// Where the copy lies.
    place: String,
    /// What was written before was in it.
    before: Timestamp,
}

impl Folder<'_> {
    /// Whether an object that the copy lacks was in it. To be asked before it is put there.
    pub(super) async fn was_there(&self, entry: &Entry) -> Result<bool, Failed> {
        if entry.modified < self.covered {
            return Ok(true);
        }
        match self.object(&entry.name) {
            Some(CaseObject::Slot(n)) => Ok(n < self.copied_to().await?),
            Some(CaseObject::Segment(collection, stream, _) | CaseObject::Manifest(collection, stream)) => {
                let copied_to = self.copied_to().await?;
                if copied_to == 0 {
                    return Ok(false);
                }
                match self.ledger().await {
                    Ok(ledger) => Ok(ledger.receipt_of(&collection, stream).is_some_and(|receipt| receipt.n < copied_to)),
                    // A log that nobody can open keeps no evidence from being copied.
                    Err(Failed::Own(_)) => Ok(false),
                    Err(e) => Err(e),
                }
            }
            // Tiles are made again where the store lost them, and tokens come when an authority answers.
            _ => Ok(false),
        }
    }

    /// It was there, was gone, and is there again.
    pub(super) fn note_put_back(&self, name: &str) {
        tracing::warn!(object = %shown(name), "an object was gone from the copy; it was put there again");
        self.put_back.add(name);
    }

    /// Records under the copy's own head; its head is put there last, so it says what was there before this look.
    async fn copied_to(&self) -> Result<u64, Failed> {
        let asking = || async {
            let Some(log) = self.log() else { return Ok::<u64, Failed>(0) };
            let there = read_head(&*self.second.store, &log.checkpoint()).await?;
            Ok(there.and_then(|bytes| verified(self.parts, &log, &bytes)).map_or(0, |head| head.size))
        };
        Ok(*self.copied_to.get_or_try_init(asking).await?)
    }
}

/// Before when all was in the copy, as a comparison found that began then. `uncovered`: since when it may have missed something.
fn covered_by(begun: Timestamp, uncovered: Option<Timestamp>) -> Timestamp {
    uncovered.into_iter().fold(begun.plus_s(-CLOCKS_APART_S), Timestamp::min)
}

/// Keeps how far the copy came. That it cannot be kept is no reason not to copy.
async fn write_covered(parts: &Parts, second: &Second, before: Timestamp) {
    let covered = Covered { place: second.store.describe(), before };
    let kept = match serde_json::to_string(&covered) {
        Ok(text) => parts.catalog.set_standing(CHORE, text).await.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    if let Err(error) = kept {
        tracing::warn!(error, "how far the copy came could not be kept; the next comparison keeps it");
    }
}

impl Copier<'_> {
    /// How far the copy came before this process began. That it cannot be read is no reason not to copy: less is told then.
    pub(super) async fn recall_covered(&mut self) {
        let kept = match self.parts.catalog.standing(CHORE).await {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(%error, "how far the copy came before could not be read: what is gone from it may be copied again without a word");
                return;
            }
        };
        let kept = kept.and_then(|text| serde_json::from_str::<Covered>(&text).ok());
        let place = self.second.store.describe();
        self.covered = kept.filter(|kept| kept.place == place).map_or(self.covered, |kept| kept.before);
    }

    /// A comparison that began then is done and left so much. Records that no head covers yet are not in the copy, and not left either.
    pub(super) async fn keep_covered(&mut self, begun: Timestamp, left: &Lag) {
        let before = covered_by(begun, self.uncovered);
        if left.objects > 0 || before <= self.covered {
            return;
        }
        self.covered = before;
        write_covered(self.parts, self.second, self.covered).await;
    }

    /// The copy holds nothing yet, whatever lay in its place before.
    pub(super) async fn covers_nothing(&mut self) {
        self.covered = Timestamp::from_unix_s(0);
        write_covered(self.parts, self.second, self.covered).await;
    }

    /// Tells what was put back while it is being copied: a comparison may take days, and what is only in memory is lost with this process.
    pub(super) async fn tell_put_back_meanwhile(&mut self) {
        if self.told_gone.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
            self.tell_put_back().await;
        }
    }

    /// Tells what was put back. What could not be told is told later, with what comes meanwhile.
    pub(super) async fn tell_put_back(&mut self) {
        let PutBack { count, first } = &self.was_gone;
        if *count == 0 {
            return;
        }
        let detail = format!(
            "{} gone from the copy, '{first}' the first: it was there, and was put there again; find out who deleted there \
             (docs/operations/stores.md)",
            several::count(*count, "object")
        );
        self.told_gone = Some(Instant::now());
        if self.parts.incident(None, "copy-missing", &self.second.store.describe(), &detail).await.is_told() {
            self.was_gone = PutBack::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_in_the_hour_before_a_comparison_was_not_surely_in_the_copy() {
        let at = Timestamp::from_unix_s;
        // A store whose clock is some minutes behind dates what it takes after the comparison began before that.
        assert_eq!(covered_by(at(10_000), None), at(6_400));
        assert_eq!(covered_by(at(10_000), Some(at(9_000))), at(6_400));
        assert_eq!(covered_by(at(10_000), Some(at(5_000))), at(5_000), "what no head covered yet");
        assert_eq!(covered_by(at(10_000), Some(at(0))), at(0), "a folder of which not all was seen");
    }

    #[test]
    fn the_first_one_is_the_example_and_all_are_counted() {
        let noted = Noted::default();
        for name in ["cases/a/log/seq/1", "cases/a/log/seq/2"] {
            noted.add(name);
        }
        let mut all = PutBack::default();
        all.join(noted.take());
        assert_eq!(noted.take(), PutBack::default());
        noted.add("cases/b/x");
        all.join(noted.take());
        assert_eq!(all, PutBack { count: 3, first: "cases/a/log/seq/1".to_owned() });
    }
}
