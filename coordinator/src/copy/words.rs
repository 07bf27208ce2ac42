//! What the copier says: how far the copy is behind, what failed, what somebody else put there.

use std::collections::BTreeMap;
use std::time::Duration;

use exhibit_evidence::id::CaseId;
use tokio::time::Instant;

use super::compare::{Lag, shown};
use super::failed::Failed;
use super::known::Foreign;
use super::told::Told;
use super::{Copier, LATER, START, STORE, identity};
use crate::custody;
use crate::parts::Parts;
use crate::store::Kind;

/// A store that is away for so long is an incident.
const AWAY: Duration = Duration::from_mins(10);
/// It is told again after so long.
const AWAY_AGAIN: Duration = Duration::from_hours(1);

/// What the copy alone has and neither a log nor the catalog knows.
#[derive(Debug, Default)]
pub(super) struct Foreigners {
    /// As the last whole look at each folder counted and summed them: a folder that is not looked at in a comparison, or could not be, still has
    /// its own.
    counts: BTreeMap<String, (u64, u64)>,
    /// The newest look that found some, for examples.
    newest: Foreign,
    told: (u64, u64),
}

impl Foreigners {
    /// A whole look at a folder found so many.
    pub(super) fn found(&mut self, folder: &str, foreign: Foreign) {
        if foreign.count == 0 {
            self.counts.remove(folder);
            return;
        }
        self.counts.insert(folder.to_owned(), (foreign.count, foreign.sum));
        self.newest = foreign;
    }

    /// Others than these folders have none.
    pub(super) fn keep_folders(&mut self, keeps: impl Fn(&str) -> bool) {
        self.counts.retain(|folder, _| keeps(folder));
    }

    /// How many there are, and some of them, when that is not what was told last. Whoever told it says so ([`Foreigners::remember`]).
    fn news(&mut self) -> Option<(u64, &Foreign)> {
        let now = self.all();
        if now.0 == 0 {
            self.told = now;
        }
        (now != self.told).then_some((now.0, &self.newest))
    }

    /// What there is now was told.
    fn remember(&mut self) {
        self.told = self.all();
    }

    fn all(&self) -> (u64, u64) {
        let add = |(count, sum): (u64, u64), more: &(u64, u64)| (count.saturating_add(more.0), sum.wrapping_add(more.1));
        self.counts.values().fold((0, 0), add)
    }
}

/// Tells that something is not copied, unless the same reason was told of it already.
async fn tell_failed(parts: &Parts, told: &Told, what: &str, reason: &str, (case, about): (Option<CaseId>, &str), detail: &str) {
    if told.is_new(what, "copy-failed", reason) && parts.incident(case.as_ref(), "copy-failed", about, detail).await.is_told() {
        told.remember(what, "copy-failed", reason);
    }
}

/// The case whose folder this is.
fn case_of(folder: &str) -> Option<CaseId> {
    folder.strip_prefix("cases/").and_then(|case| case.parse().ok())
}

impl Copier<'_> {
    /// Tells what was found when every folder of a comparison was looked at.
    pub(super) async fn end_pass(&mut self) {
        if !self.comparing.is_empty() || !self.waiting.is_empty() || self.open.iter().any(|job| job.whole) {
            return;
        }
        let Some(begun) = self.pass.take() else { return };
        self.asked_before = begun;
        let left = self.behind();
        let (put_back, only_in_copy) = (self.was_gone.count, left.only_in_copy);
        tracing::info!(left = left.objects, differ = left.differ, only_in_copy, put_back, "the copy was compared with the store");
        self.tell_put_back().await;
        self.keep_covered(begun, &left).await;
        if self.unmarked {
            self.mark(&left).await;
        }
        let Some((count, newest)) = self.foreign.news() else { return };
        let detail = format!(
            "{count} objects are in the copy that the store has not and that neither a log nor the catalog knows, like '{}': find out who \
             wrote them there (docs/operations/stores.md)",
            newest.named.join("', '")
        );
        if self.parts.incident(None, "copy-foreign", &self.second.store.describe(), &detail).await.is_told() {
            self.foreign.remember();
        }
    }

    /// It succeeded. After failures that is worth a line, for whoever read of them; and what waits for the copy is tried again.
    pub(super) fn goes_on(&mut self, what: &str) {
        if self.retries.succeeded(what) {
            tracing::info!(folder = what, place = %self.second.store.describe(), "the copy goes on");
            custody::wait_no_longer(self.parts);
        }
    }

    /// A copy that an earlier version made has its mark once it was found to hold what the store holds.
    async fn mark(&mut self, left: &Lag) {
        if left.objects == 0 && left.differ == 0 {
            match identity::settle(&*self.parts.store, &*self.second.store).await {
                Ok(()) => {
                    self.unmarked = false;
                    tracing::info!(place = %self.second.store.describe(), "the copy holds what the store holds, and has its mark now");
                    return;
                }
                Err(error) => tracing::warn!(%error, "the copy could not be marked"),
            }
        }
        self.whole = self.whole.min(Instant::now() + LATER);
    }

    fn behind(&self) -> Lag {
        let mut all = Lag::default();
        self.lags.iter().flat_map(BTreeMap::values).for_each(|lag| all.join(lag));
        all
    }

    pub(super) fn tell_behind(&self) {
        if self.lags.is_some() {
            self.parts.metrics.copy_behind(&self.behind());
        }
    }

    /// What another try does not mend is an incident, once for each reason until it succeeds, and so is a store that refuses whoever asks, or
    /// is away for long. True when a store is away, or does not hear us.
    pub(super) async fn failed(&mut self, what: &str, wait: Duration, e: &Failed) -> bool {
        tracing::warn!(folder = what, error = %e, again_in_s = wait.as_secs(), "the copy was not made");
        let place = self.second.store.describe();
        // That other folders are copied meanwhile must not hide it. Of a store that is away for all there is a word of its own.
        if e.is_passing() && !e.is_unheard() && what != START && self.retries.lasts(what) {
            let detail = format!("'{}' could not be copied into {place}, however often it was tried: {e}", shown(what));
            tell_failed(self.parts, &self.told, what, "lasting", (case_of(what), what), &detail).await;
        }
        match e {
            Failed::Passing(_) => {}
            Failed::Store(error) if e.is_unheard() => {
                self.away.0.get_or_insert_with(Instant::now);
                let detail = format!("{error}; so nothing is copied into {place} until then, and evidence is in the first store");
                // Whichever folder met it first: it is the same for all.
                tell_failed(self.parts, &self.told, STORE, &e.reason(), (None, place.as_str()), &detail).await;
                return true;
            }
            Failed::Store(e) if e.kind() == Kind::Retry => {
                let since = self.away.0.get_or_insert_with(Instant::now).elapsed();
                if since >= AWAY && self.away.1.is_none_or(|told| told.elapsed() >= AWAY_AGAIN) {
                    let detail = format!("nothing could be copied into {place} for {} minutes: {e}", since.as_secs() / 60);
                    if self.parts.incident(None, "copy-away", &place, &detail).await.is_told() {
                        self.away.1 = Some(Instant::now());
                    }
                }
                return true;
            }
            Failed::Store(error) => {
                // Whichever folder met it first, as above.
                if self.told.is_new_anywhere("copy-failed", &e.reason()) {
                    // Which of the two it is the words of a store do not say.
                    let detail = format!("{error}; so it is not copied into {place}, and evidence is in the first store");
                    tell_failed(self.parts, &self.told, what, &e.reason(), (None, place.as_str()), &detail).await;
                }
            }
            Failed::Own(error) => {
                let detail = format!("'{}' is not copied into {place}: {error}", shown(what));
                tell_failed(self.parts, &self.told, what, &e.reason(), (case_of(what), what), &detail).await;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_foreign_is_told_once_whichever_folder_was_looked_at_when() {
        let foreign = |count: u64| Foreign { count, named: vec!["x".to_owned()], sum: count };
        let mut all = Foreigners::default();
        let tell = |all: &mut Foreigners| {
            let count = all.news().map(|(count, _)| count);
            all.remember();
            count
        };
        assert!(all.news().is_none(), "nothing is nothing new");
        all.found("cases/a", foreign(20));
        all.found("cases/b", foreign(1));
        for _ in 0..2 {
            assert_eq!(all.news().map(|(count, _)| count), Some(21), "as long as it could not be told");
        }
        assert_eq!(tell(&mut all), Some(21));
        // The next comparison looks at one of them alone: the other one failed, or its log grew just then.
        all.keep_folders(|_| true);
        all.found("cases/b", foreign(1));
        assert!(all.news().is_none());
        all.found("cases/a", foreign(20));
        assert!(all.news().is_none());
        all.found("cases/a", foreign(19));
        assert_eq!(tell(&mut all), Some(20), "another number");
        all.found("cases/a", Foreign { sum: 7, ..foreign(19) });
        assert_eq!(tell(&mut all), Some(20), "as many, and others");
        all.keep_folders(|name| name == "cases/a");
        all.found("cases/a", Foreign::default());
        assert!(all.news().is_none() && all.counts.is_empty(), "they are gone");
        all.found("cases/a", foreign(20));
        assert_eq!(tell(&mut all), Some(20), "and came back");
    }
}
