//! That the store refuses whoever looks at it lasts until a person has seen to it, and every try of every pass meets it, after every start.
//! It is an incident once for each reason, until the store could be looked at: the catalog keeps which, for all coordinators. This program's
//! own log says it once for each reason after a start, and again after an hour. Where the catalog does not say whether it was told, it is
//! told: once an hour.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use exhibit_evidence::Digest;
use tokio::time::Instant;

use super::{in_copy, kept, tell};
use crate::catalog::{Catalog, CatalogError};
use crate::incidents::Reported;
use crate::parts::Parts;
use crate::store::{StoreError, Trouble};

/// What an incident of it is called.
pub(super) const KIND: &str = "store-unattested";
/// A reason that lasts is said again after so long.
const AGAIN: Duration = Duration::from_hours(1);
/// Reasons that are remembered; beyond, all are forgotten, and may be said again earlier. There are few: what was asked and what helps are
/// texts of this program.
const TOLD_MAX: usize = 256;
/// The name under which the catalog keeps which refusals are incidents already.
const CHORE: &str = "refused";
/// Places that are kept there, and reasons of each; beyond, they are forgotten, and may be told again.
const KEPT_MAX: usize = 64;

/// A refusal: what an incident of it is called, where, and why.
#[derive(Debug, Clone, Copy)]
struct Refusal<'a> {
    kind: &'a str,
    place: &'a str,
    reason: &'a str,
}

impl Refusal<'_> {
    fn key(self) -> (String, String, String) {
        (self.kind.to_owned(), self.place.to_owned(), self.reason.to_owned())
    }
}

/// What was said of a refusal here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// It is an incident, and the catalog knows.
    Known,
    /// It is an incident, which the catalog could not keep.
    Unkept,
    /// It was told, and the catalog took neither question nor incident.
    InDoubt,
}

/// What is to be done about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// It is told.
    Tell,
    /// It was told, and is only to be kept.
    Keep,
    /// This program's own log says that it lasts.
    Log,
    Nothing,
}

#[derive(Debug, Default)]
struct Memory {
    /// What was said last of each refusal, and when.
    said: HashMap<(String, String, String), (Said, Instant)>,
    /// Kinds and places that could be looked at, which the catalog could not keep: what it has of them is old.
    unforgotten: BTreeSet<(String, String)>,
}

/// What was said here.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Memory>);

impl Refusals {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done, by whether the catalog knows of it; none where it does not say.
    fn due(&self, refusal: Refusal<'_>, known: Option<bool>) -> Due {
        let memory = self.memory();
        let last = memory.said.get(&refusal.key()).filter(|(_, at)| at.elapsed() < AGAIN).map(|(said, _)| *said);
        match (known, last) {
            (Some(true), None) => Due::Log,
            (Some(false), Some(Said::Unkept)) => Due::Keep,
            // Whatever was said here: somebody could look at the store since.
            (Some(false), _) | (None, None) => Due::Tell,
            (Some(true) | None, Some(_)) => Due::Nothing,
        }
    }

    fn note(&self, refusal: Refusal<'_>, said: Said) {
        let mut memory = self.memory();
        if memory.said.len() >= TOLD_MAX {
            memory.said.clear();
        }
        memory.said.insert(refusal.key(), (said, Instant::now()));
    }

    /// The place could be looked at; whether the catalog keeps that as well is not known yet.
    fn end(&self, kind: &str, place: &str) {
        let mut memory = self.memory();
        memory.said.retain(|(of_kind, at, _), _| of_kind != kind || at != place);
        if memory.unforgotten.len() < TOLD_MAX {
            memory.unforgotten.insert((kind.to_owned(), place.to_owned()));
        }
    }

    fn is_unforgotten(&self, kind: &str, place: &str) -> bool {
        self.memory().unforgotten.contains(&(kind.to_owned(), place.to_owned()))
    }

    fn forgotten(&self, kind: &str, place: &str) {
        self.memory().unforgotten.remove(&(kind.to_owned(), place.to_owned()));
    }
}

fn kind_in(kind: &'static str, copy_in: Option<&str>) -> &'static str {
    if copy_in.is_some() { in_copy(kind) } else { kind }
}

/// The reasons that are incidents, as digests, by kind and place.
type Kept = BTreeMap<String, BTreeSet<Digest>>;

fn kept_as(kind: &str, place: &str) -> String {
    format!("{kind} {place}")
}

/// Whether this is an incident since the place could be looked at, by what the catalog has.
fn is_kept(text: Option<&str>, refusal: Refusal<'_>) -> bool {
    let reason = Digest::of(refusal.reason.as_bytes());
    kept::parsed::<Kept>(text).get(&kept_as(refusal.kind, refusal.place)).is_some_and(|reasons| reasons.contains(&reason))
}

/// This is an incident now. Not where somebody could look at the store since `before` was read, which was before it was told: that is not to
/// be overwritten. False then. What others keep of other places meanwhile, or of other reasons, stays beside it.
async fn keep_told(catalog: &dyn Catalog, before: Option<String>, refusal: Refusal<'_>) -> Result<bool, CatalogError> {
    let key = kept_as(refusal.kind, refusal.place);
    let was = kept::parsed::<Kept>(before.as_deref()).remove(&key).unwrap_or_default();
    let mut before = before;
    for _ in 0..kept::TRIES_MAX {
        let mut told = kept::parsed::<Kept>(before.as_deref());
        if told.len() >= KEPT_MAX && !told.contains_key(&key) {
            told.clear();
        }
        let reasons = told.entry(key.clone()).or_default();
        if !was.is_subset(reasons) {
            return Ok(false);
        }
        if reasons.len() >= KEPT_MAX {
            reasons.clear();
        }
        reasons.insert(Digest::of(refusal.reason.as_bytes()));
        if kept::replace(catalog, CHORE, before, &told).await? {
            return Ok(true);
        }
        before = catalog.standing(CHORE).await?;
    }
    Ok(false)
}

/// The place could be looked at.
async fn forget(catalog: &dyn Catalog, kind: &str, place: &str) -> Result<(), CatalogError> {
    kept::change(catalog, CHORE, |told: &mut Kept| drop(told.remove(&kept_as(kind, place)))).await
}

/// What the catalog has, without what could not be taken out of it when the place could be looked at.
async fn read(catalog: &dyn Catalog, refusals: &Refusals, refusal: Refusal<'_>) -> Result<Option<String>, CatalogError> {
    let Refusal { kind, place, .. } = refusal;
    if refusals.is_unforgotten(kind, place) {
        forget(catalog, kind, place).await?;
        refusals.forgotten(kind, place);
    }
    catalog.standing(CHORE).await
}

/// Tells that the store in `place`, or its copy in `copy_in`, refuses whoever looks at it.
pub(super) async fn tell_refused(parts: &Parts, place: &str, e: &StoreError, copy_in: Option<&str>) {
    let trouble = Trouble { kind: KIND, subject: place.to_owned(), detail: e.to_string() };
    tell_once(parts, &trouble, &e.reason(), copy_in).await;
}

/// Tells of a refusal once for each reason, until [`ended`].
///
/// Order: (1) the incident; (2) the catalog knows that this reason is one. Died in between, the next start tells it once more.
pub(super) async fn tell_once(parts: &Parts, trouble: &Trouble, reason: &str, copy_in: Option<&str>) {
    // Two passes at once see the same.
    let _here = parts.attesting.refusing.lock().await;
    let (refusals, place) = (&parts.attesting.refusals, trouble.subject.as_str());
    let refusal = Refusal { kind: kind_in(trouble.kind, copy_in), place, reason };
    let before = read(&*parts.catalog, refusals, refusal).await;
    let known = before.as_ref().ok().map(|text| is_kept(text.as_deref(), refusal));
    let due = refusals.due(refusal, known);
    match due {
        Due::Nothing => return,
        Due::Log => {
            let (kind, why) = (refusal.kind, trouble.detail.as_str());
            tracing::warn!(kind, place, why, "a store still refuses this, as an incident says; it goes on by itself");
            refusals.note(refusal, Said::Known);
            return;
        }
        Due::Keep => {}
        Due::Tell => {
            if let Err(error) = &before {
                tracing::warn!(place, %error, "whether a refusal was told could not be read: it is told, at most once an hour");
            }
            match tell(parts, trouble, copy_in).await {
                Reported::Told => {}
                Reported::Failed if before.is_err() => {
                    refusals.note(refusal, Said::InDoubt);
                    return;
                }
                Reported::Failed | Reported::Limited => return,
            }
        }
    }
    match keep(&*parts.catalog, before, refusal).await {
        Ok(true) => refusals.note(refusal, Said::Known),
        // The next try looks what became of it, and tells once more rather than not at all.
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(%error, "that a refusal was told could not be kept; it may be told again");
            if due == Due::Tell {
                refusals.note(refusal, Said::Unkept);
            }
        }
    }
}

/// As [`keep_told`], also where nothing could be read before.
async fn keep(catalog: &dyn Catalog, before: Result<Option<String>, CatalogError>, refusal: Refusal<'_>) -> Result<bool, CatalogError> {
    let before = match before {
        Ok(before) => before,
        Err(_) => catalog.standing(CHORE).await?,
    };
    keep_told(catalog, before, refusal).await
}

/// The store in `place` could be looked at: what it refuses from now on is told at once. False when the catalog could not keep that, which
/// is to be repeated.
pub(super) async fn looked_at(parts: &Parts, place: &str, copy_in: Option<&str>) -> bool {
    ended(parts, kind_in(KIND, copy_in), place).await
}

/// What was refused there is not refused any more.
pub(super) async fn ended(parts: &Parts, kind: &str, place: &str) -> bool {
    // Whoever tells of a refusal is not to keep it after this.
    let _here = parts.attesting.refusing.lock().await;
    let refusals = &parts.attesting.refusals;
    refusals.end(kind, place);
    let done = forget(&*parts.catalog, kind, place).await;
    match &done {
        Ok(()) => refusals.forgotten(kind, place),
        Err(error) => tracing::warn!(kind, place, %error, "that a store refuses nothing any more could not be kept yet; it is repeated"),
    }
    done.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::faulty::{Fault, Faults, FaultyCatalog};
    use crate::catalog::sqlite::SqliteCatalog;

    const fn refusal<'a>(kind: &'a str, place: &'a str, reason: &'a str) -> Refusal<'a> {
        Refusal { kind, place, reason }
    }

    async fn is_known(catalog: &dyn Catalog, refusal: Refusal<'_>) -> bool {
        is_kept(catalog.standing(CHORE).await.expect("read").as_deref(), refusal)
    }

    async fn keep_now(catalog: &dyn Catalog, refusal: Refusal<'_>) {
        let before = catalog.standing(CHORE).await.expect("read");
        assert!(keep_told(catalog, before, refusal).await.expect("kept"));
    }

    #[tokio::test]
    async fn a_reason_stays_told_after_a_restart_until_the_store_could_be_looked_at() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("catalog.sqlite");
        let (expired, denied) = (refusal(KIND, "a", "expired"), refusal(KIND, "a", "denied"));
        let in_copy = refusal("copy-unattested", "a", "denied");
        let catalog = SqliteCatalog::create(&file).await.expect("catalog");
        assert!(!is_known(&catalog, expired).await);
        keep_now(&catalog, expired).await;
        keep_now(&catalog, in_copy).await;
        catalog.close().await;
        drop(catalog);

        let catalog = SqliteCatalog::open(&file).await.expect("the next process");
        for (refusal, is) in [(expired, true), (denied, false), (in_copy, true), (refusal(KIND, "b", "expired"), false)] {
            assert_eq!(is_known(&catalog, refusal).await, is, "{refusal:?}");
        }
        keep_now(&catalog, denied).await;
        assert!(is_known(&catalog, expired).await, "what comes by turns is told once");
        let late = catalog.standing(CHORE).await.expect("read");
        forget(&catalog, KIND, "a").await.expect("kept");
        for (refusal, is) in [(denied, false), (in_copy, true)] {
            assert_eq!(is_known(&catalog, refusal).await, is, "{refusal:?}");
        }
        assert!(!keep_told(&catalog, late, denied).await.expect("asked"), "another coordinator could look at the store meanwhile");
        assert!(!is_known(&catalog, denied).await, "so it is told when it comes back");

        keep_now(&catalog, expired).await;
        let early = catalog.standing(CHORE).await.expect("read");
        let others = [refusal(KIND, "c", "denied"), refusal(KIND, "a", "gone")];
        for other in others {
            keep_now(&catalog, other).await;
        }
        assert!(keep_told(&catalog, early, denied).await.expect("kept"), "others told something else meanwhile");
        for refusal in [expired, denied, others[0], others[1]] {
            assert!(is_known(&catalog, refusal).await, "{refusal:?}");
        }
        for n in 0..3 * KEPT_MAX {
            let n = n.to_string();
            keep_now(&catalog, refusal(KIND, &n, "denied")).await;
            keep_now(&catalog, refusal(KIND, "a", &n)).await;
        }
        let kept: Kept = kept::read(&catalog, CHORE).await.expect("read");
        assert!(kept.len() <= KEPT_MAX && kept.values().all(|reasons| reasons.len() <= KEPT_MAX), "bounded");
    }

    #[tokio::test]
    async fn what_could_not_be_forgotten_hides_nothing_that_is_refused_later() {
        let dir = tempfile::tempdir().expect("folder");
        let inner = SqliteCatalog::create(&dir.path().join("catalog.sqlite")).await.expect("catalog");
        let faults = Faults::default();
        let catalog = FaultyCatalog::with(std::sync::Arc::new(inner), faults.clone());
        let (refusals, expired) = (Refusals::default(), refusal(KIND, "a", "expired"));
        keep_now(&catalog, expired).await;
        refusals.end(KIND, "a");
        faults.fail("replace_standing", 0, 2, Fault::Before(CatalogError::Busy("away".to_owned())));
        assert!(forget(&catalog, KIND, "a").await.is_err());
        assert!(read(&catalog, &refusals, expired).await.is_err(), "in doubt, so it is told");
        let text = read(&catalog, &refusals, expired).await.expect("read");
        assert!(!is_kept(text.as_deref(), expired) && !refusals.is_unforgotten(KIND, "a"), "{text:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_says_it_once_an_hour_and_what_the_catalog_does_not_know_is_told() {
        let refusals = Refusals::default();
        let (expired, denied) = (refusal(KIND, "a", "expired"), refusal(KIND, "a", "denied"));
        for known in [Some(false), None] {
            assert_eq!(refusals.due(expired, known), Due::Tell);
        }
        assert_eq!(refusals.due(expired, Some(true)), Due::Log, "after a start");
        refusals.note(expired, Said::Known);
        for _ in 0..59 {
            assert_eq!(refusals.due(expired, Some(true)), Due::Nothing);
            tokio::time::advance(Duration::from_mins(1)).await;
        }
        assert_eq!(refusals.due(expired, Some(false)), Due::Tell, "another coordinator could look at the store since");
        assert_eq!(refusals.due(expired, None), Due::Nothing, "in doubt once an hour");
        for other in [denied, refusal(KIND, "b", "expired"), refusal("copy-unattested", "a", "expired")] {
            assert_eq!(refusals.due(other, None), Due::Tell, "{other:?}");
        }
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!((refusals.due(expired, Some(true)), refusals.due(expired, None)), (Due::Log, Due::Tell), "an hour later");

        for (said, due) in [(Said::Unkept, Due::Keep), (Said::InDoubt, Due::Tell)] {
            refusals.note(denied, said);
            assert_eq!((refusals.due(denied, Some(false)), refusals.due(denied, None)), (due, Due::Nothing), "{said:?}");
        }
        refusals.note(refusal(KIND, "b", "denied"), Said::Known);
        refusals.end(KIND, "a");
        assert_eq!(refusals.due(denied, None), Due::Tell, "it could be looked at in between");
        assert_eq!(refusals.due(refusal(KIND, "b", "denied"), None), Due::Nothing);
        for n in 0..3 * TOLD_MAX {
            refusals.note(refusal(KIND, &n.to_string(), "denied"), Said::Known);
        }
        assert!(refusals.memory().said.len() <= TOLD_MAX);
    }
}
