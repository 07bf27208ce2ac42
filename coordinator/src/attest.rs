//! Keeps looking whether the store still holds what was written, locked as it should be: at the start, then every
//! `store.attest_hours`, and for one case at once when custody asks for more or less of it.

mod keeping;
mod kept;
mod offline;
mod refusals;
mod squats;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use exhibit_evidence::id::CaseId;
use exhibit_evidence::{Digest, layout};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::incidents::Reported;
use crate::parts::Parts;
use crate::store::attest::{self, Attestable, Judge, Pass, Report, Task};
use crate::store::{StoreError, Trouble};
use crate::{clock, custody};
use keeping::{Keeping, Lasting};
pub use offline::Offline;
use refusals::Refusals;
use squats::Logs;

/// Time between two requests of a pass: a million objects take six hours, and 0.40 USD where a thousand requests cost
/// 0.0004.
const PAUSE: Duration = Duration::from_millis(20);
/// Time before a pass that the store interrupted goes on.
const TRY_AGAIN: Duration = Duration::from_mins(1);

/// For so long the same trouble is not told again.
const SAME: Duration = Duration::from_mins(2);
/// Troubles that are remembered; beyond, all are forgotten, and may be told again earlier.
const TOLD_MAX: usize = 4_096;

/// Cases whose locks are to be looked at soon. Memory only: of those that custody asked more for the catalog knows (`custody::raising`), and a
/// pass over everything finds what else a dead process forgot.
#[derive(Debug, Default)]
pub struct Desk {
    told: Mutex<HashMap<(String, String), (Digest, Instant)>>,
    cases: Mutex<BTreeSet<CaseId>>,
    wake: Notify,
    /// Held while the catalog is told which cases are to be looked at.
    pub(crate) raising: tokio::sync::Mutex<()>,
    /// Read while custody of a case changes, between the catalog's note of it and the record: whoever looks at a case waits for both.
    pub(crate) changing: tokio::sync::RwLock<()>,
    /// Held while something is told that is told once.
    lasting: tokio::sync::Mutex<()>,
    /// Why stores refused to be looked at.
    refusals: Refusals,
    /// Held while that is told, or forgotten.
    refusing: tokio::sync::Mutex<()>,
}

impl Desk {
    /// Custody of a case changed: its objects are to be locked for longer, held, or no longer held.
    pub fn ask(&self, case: &CaseId) {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner).insert(case.clone());
        self.wake.notify_one();
    }

    /// True when the same was told a short time ago: two passes at once see the same.
    fn was_told(&self, kind: &str, trouble: &Trouble) -> bool {
        self.was_told_within(kind, trouble, SAME)
    }

    fn was_told_within(&self, kind: &str, trouble: &Trouble, within: Duration) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = told.get(&(kind.to_owned(), trouble.subject.clone()));
        last.is_some_and(|(detail, at)| *detail == Digest::of(trouble.detail.as_bytes()) && at.elapsed() < within)
    }

    fn note_told(&self, kind: &str, trouble: &Trouble) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        told.insert((kind.to_owned(), trouble.subject.clone()), (Digest::of(trouble.detail.as_bytes()), Instant::now()));
    }

    fn take(&self) -> Option<CaseId> {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner).pop_first()
    }
}

/// Looks at cases of which this coordinator was asked to, until `stop` says so. A store without versions has nothing to look
/// at. Beside [`run_all`], which may take hours: a hold must not wait for it. What both set is the same.
pub async fn run_asked(parts: Arc<Parts>, mut stop: watch::Receiver<bool>) {
    let stores = attestable(&parts);
    tokio::select! {
        () = of_cases(&parts, &stores) => {}
        _ = stop.wait_for(|s| *s) => {}
    }
}

/// Looks at everything, now and again after each `every`, until `stop` says so. Of several coordinators one does it.
pub async fn run_all(parts: Arc<Parts>, every: Duration, mut stop: watch::Receiver<bool>) {
    let stores = attestable(&parts);
    tokio::select! {
        _ = futures::future::join_all(stores.iter().map(|looked_at| of_all(&parts, looked_at, every))) => {}
        _ = stop.wait_for(|s| *s) => {}
    }
}

/// A store that is looked at, and whether it is the copy: what somebody did there is no word about the evidence itself.
struct LookedAt {
    store: Attestable,
    is_copy: bool,
}

/// The store and its copy, those that have versions.
fn attestable(parts: &Parts) -> Vec<LookedAt> {
    let copy = parts.copy.as_ref().and_then(|second| second.store.attestable());
    let first = parts.store.attestable().map(|store| LookedAt { store, is_copy: false });
    first.into_iter().chain(copy.map(|store| LookedAt { store, is_copy: true })).collect()
}

/// The kind of an incident in the copy, by what it is called in the store.
fn in_copy(kind: &'static str) -> &'static str {
    match kind {
        "store-marker" => "copy-marker",
        "store-version" => "copy-version",
        "store-lock" => "copy-lock",
        attest::HELD => "copy-held",
        "store-bucket" => "copy-bucket",
        "store-foreign" => "copy-foreign",
        "store-squatted" => "copy-squatted",
        _ => "copy-unattested",
    }
}

/// Tells what is wrong with the store, or with its copy in `place`: by kind and word, so that nobody takes one for the other.
async fn tell(parts: &Parts, trouble: &Trouble, copy_in: Option<&str>) -> Reported {
    let case = concerned(parts, &trouble.subject).await;
    match copy_in {
        None => parts.incident(case.as_ref(), trouble.kind, &trouble.subject, &trouble.detail).await,
        Some(place) => {
            let detail = format!("in the copy, {place}, and not in the store itself: {}", trouble.detail);
            parts.incident(case.as_ref(), in_copy(trouble.kind), &trouble.subject, &detail).await
        }
    }
}

/// The case in whose log it is told. Somebody may write into the folder of a case that nobody opened, which has no log.
async fn concerned(parts: &Parts, subject: &str) -> Option<CaseId> {
    let case: CaseId = subject.strip_prefix("cases/")?.parse().ok()?;
    let known = parts.catalog.case(case.clone()).await.is_ok_and(|row| row.is_some());
    known.then_some(case)
}

async fn of_cases(parts: &Arc<Parts>, stores: &[LookedAt]) {
    if stores.is_empty() {
        return;
    }
    left(parts).await.iter().for_each(|case| parts.attesting.ask(case));
    loop {
        while let Some(case) = parts.attesting.take() {
            // Before the log is read: custody that changes from here on has another number.
            let (asked, opened, is_awaited) = {
                let _settled = parts.attesting.changing.write().await;
                let number = custody::raising::number(parts, &case).await;
                (number, parts.ledgers.case(&case).await, parts.unsettled.changes_locks(&case))
            };
            // What custody says now, whichever coordinator wrote it: a hold must not be taken off by what was known before.
            if let Err(error) = opened {
                tracing::warn!(%case, %error, "the log of a case could not be read; its locks in the store are left as they are");
                continue;
            }
            for looked_at in stores {
                let begin = format!("{}/", layout::case_folder(&case));
                let Some(report) = pass(parts, looked_at, &begin).await else { continue };
                let (set, released, copy) = (report.set_again, report.holds_released, looked_at.is_copy);
                tracing::info!(%case, set, released, copy, "the locks of a case were looked at");
            }
            let done = match asked {
                // A change that may be in the log counts later; then they are looked at once more.
                Ok(Some(_)) if is_awaited => Ok(()),
                Ok(Some(number)) => custody::raising::ended(parts, &case, number).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                tracing::warn!(%case, %error, "that the locks of a case were looked at could not be kept; they are looked at again at the next start");
            }
        }
        parts.attesting.wake.notified().await;
    }
}

/// Cases of which custody asked more than the store was told, because a process ended in between.
async fn left(parts: &Parts) -> Vec<CaseId> {
    loop {
        match custody::raising::left(parts).await {
            Ok(cases) => return cases,
            Err(error) => tracing::warn!(%error, "which cases are to be locked for longer could not be read; next try in a minute"),
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

async fn of_all(parts: &Arc<Parts>, looked_at: &LookedAt, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Their locks are weaker than they should be, and nobody made them so.
        for case in left(parts).await {
            match parts.ledgers.case(&case).await {
                Ok(_) => drop(pass(parts, looked_at, &format!("{}/", layout::case_folder(&case))).await),
                Err(error) => tracing::warn!(%case, %error, "the log of a case could not be read; its locks are looked at with all others"),
            }
        }
        let Some(report) = pass(parts, looked_at, "").await else { continue };
        let (objects, set, copy) = (report.objects, report.set_again, looked_at.is_copy);
        let place = looked_at.store.vault.describe();
        tracing::info!(objects, set, troubles = report.troubles.len(), copy, place, "the store was attested");
        report.to_release.iter().filter_map(|case| case.parse().ok()).for_each(|case| parts.attesting.ask(&case));
    }
}

/// What becomes of a pass that the store interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interrupted {
    /// Nothing was promised of a store without locks, and not every one can list its versions: it was heard, and says no.
    GivenUp,
    /// It goes on, and a person is told: waiting alone will not help, also where it is the credentials that are refused.
    Told,
    /// It goes on.
    Waits,
}

impl Interrupted {
    fn by(e: &StoreError, locks: bool) -> Self {
        match (e.is_passing(), locks) {
            (true, _) => Self::Waits,
            (false, true) => Self::Told,
            // What was found before it is told at the end of the pass, which goes on once there are credentials.
            (false, false) if e.says_nothing() => Self::Waits,
            (false, false) => Self::GivenUp,
        }
    }
}

/// One pass with its incidents. A store that fails interrupts it; it goes on where it stood. None when the store does not let itself be
/// looked at, and need not.
async fn pass(parts: &Arc<Parts>, looked_at: &LookedAt, begin: &str) -> Option<Report> {
    let LookedAt { store, is_copy } = looked_at;
    let copy_in = is_copy.then(|| store.vault.describe());
    let task = Task { begin: begin.to_owned(), repair: true, pause: PAUSE, now: clock::now() };
    let keeper = Arc::new(Keeping { parts: Arc::clone(parts), copy_in: copy_in.map(str::to_owned) });
    let mut pass = Pass::new(store.clone(), task).judged_by(judge(parts, *is_copy)).kept_by(keeper);
    // An earlier process may have told of a refusal. One over a case sees little: what others were refused may last, and is not for it to end.
    let mut was_refused = begin.is_empty();
    let report = loop {
        match Box::pin(go_on(parts, &mut pass, (store.vault.describe(), copy_in), &mut was_refused)).await {
            Ok(report) => break report,
            Err(e) => {
                let (place, then) = (store.vault.describe(), Interrupted::by(&e, store.locks()));
                if then == Interrupted::GivenUp {
                    tracing::warn!(error = %e, place, "the versions in the store cannot be looked at; 'store check' says what that means");
                    return None;
                }
                if then == Interrupted::Told {
                    // Which says it, and not each minute.
                    refusals::tell_refused(parts, place, &e, copy_in).await;
                    was_refused = true;
                } else {
                    tracing::warn!(error = %e, place, "the store could not be attested; it goes on in a minute");
                }
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    };
    if was_refused || begin.is_empty() {
        refusals::looked_at(parts, store.vault.describe(), copy_in).await;
    }
    let (lasting, news): (Vec<Trouble>, Vec<Trouble>) = report.troubles.iter().cloned().partition(|t| keeping::lasts(t.kind));
    tell_news(parts, &news, copy_in).await;
    let seen = if begin.is_empty() { Lasting::All } else { Lasting::OfCase };
    keeping::tell_lasting(parts, &lasting, copy_in, seen).await;
    Some(report)
}

/// Looks until the end, or until the store fails. What it refuses once a page went through is a new refusal: whole passes take hours.
async fn go_on(
    parts: &Parts,
    pass: &mut Pass,
    (place, copy_in): (&str, Option<&str>),
    was_refused: &mut bool,
) -> Result<Report, StoreError> {
    while !pass.is_through() {
        pass.step().await?;
        if *was_refused {
            // With the next page once more, when that could not be kept.
            *was_refused = !refusals::looked_at(parts, place, copy_in).await;
        }
    }
    pass.run().await
}

/// Tells once for each reason that a store refuses what `kind` is called after, at `place`, until [`not_refused`].
pub(crate) async fn tell_refusal(parts: &Parts, (kind, place): (&'static str, &str), reason: &str, detail: &str) {
    let trouble = Trouble { kind, subject: place.to_owned(), detail: detail.to_owned() };
    refusals::tell_once(parts, &trouble, reason, None).await;
}

/// No store refuses it any more.
pub(crate) async fn not_refused(parts: &Parts, kind: &str, place: &str) {
    refusals::ended(parts, kind, place).await;
}

/// Tells once why a disposal waits that was approved: the store, or its copy in `copy_in`, keeps what is to be destroyed.
pub(crate) async fn tell_waiting(parts: &Parts, case: &CaseId, why: &str, copy_in: Option<&str>) {
    let subject = format!("cases/{case}");
    let detail = format!("an approved disposal waits: {why}");
    keeping::tell_lasting(parts, &[Trouble { kind: attest::HELD, subject, detail }], copy_in, Lasting::Waits).await;
}

/// Tells once of each case that the catalog lacks and that could not be taken in. `all` of them were looked for: what is no more among them is
/// told when it comes again.
pub(crate) async fn tell_lacking(parts: &Parts, lacking: &[Trouble], all: bool) {
    let seen = if all { Lasting::AllLacking } else { Lasting::Lacking };
    keeping::tell_lasting(parts, lacking, None, seen).await;
}

/// Who says what is a record in the store, or in its copy.
fn judge(parts: &Parts, is_copy: bool) -> Arc<dyn Judge> {
    let second = parts.copy.as_ref().filter(|_| is_copy);
    let store = second.map_or(&parts.store, |second| &second.store);
    Arc::new(Logs::new(Arc::clone(&parts.ledgers), Arc::clone(&parts.catalog), Arc::clone(store), second.is_some()))
}

/// Who says what is none of ours in the store: attestation, and the copy, which leaves it out.
pub(crate) fn judge_of_store(parts: &Parts) -> Arc<dyn Judge> {
    judge(parts, false)
}

/// Tells what was not told a short time ago.
async fn tell_news(parts: &Parts, troubles: &[Trouble], copy_in: Option<&str>) {
    for trouble in troubles {
        let kind = if copy_in.is_some() { in_copy(trouble.kind) } else { trouble.kind };
        if !parts.attesting.was_told(kind, trouble) && tell(parts, trouble, copy_in).await.is_told() {
            parts.attesting.note_told(kind, trouble);
        }
    }
}

/// Before what goes by listings, and cannot wait for the next pass: looks at the versions of all names that begin so, so that what
/// somebody hid or covered is listed and read, and tells who did what. A store that does not let its versions be listed is told of by
/// the passes.
///
/// # Errors
/// When the store is disturbed.
pub async fn recall(parts: &Parts, begin: &str) -> Result<(), StoreError> {
    let looked = async {
        let seen = Box::pin(attest::recall(&*parts.store, begin)).await?;
        Box::pin(attest::recall_again(&*parts.store, begin, seen, Some(judge(parts, false)))).await
    };
    match looked.await {
        Ok(troubles) => tell_news(parts, &troubles, None).await,
        Err(e) if e.kind() == crate::store::Kind::Retry => return Err(e),
        Err(error) => tracing::warn!(%error, "the versions in the store cannot be looked at before it is read"),
    }
    Ok(())
}

/// Before the store is verified on its schedule: whether it still locks, as it did at the start, and [`recall`] of all of it.
///
/// # Errors
/// When the store is disturbed.
pub async fn again(parts: &Parts) -> Result<(), StoreError> {
    // As the passes name it, which take it back.
    let place = parts.store.attestable().map_or_else(|| parts.store.describe(), |found| found.vault.describe().to_owned());
    let (troubles, refused) = match Box::pin(attest::still_locks(&*parts.store)).await {
        Ok(looked) => looked,
        Err(e) => {
            // Between two passes nobody else would say it.
            if e.needs_a_person() {
                refusals::tell_refused(parts, &place, &e, None).await;
            }
            return Err(e);
        }
    };
    if let Some(e) = &refused {
        refusals::tell_refused(parts, &place, e, None).await;
    }
    let (lasting, news): (Vec<Trouble>, Vec<Trouble>) = troubles.into_iter().partition(|trouble| keeping::lasts(trouble.kind));
    tell_news(parts, &news, None).await;
    keeping::tell_lasting(parts, &lasting, None, Lasting::Probe).await;
    recall(parts, "").await
}

/// From the timers: what the store could not do as it should, beyond the error that a caller got.
pub async fn tell_troubles(parts: &Parts) {
    tell_of_writes(parts, parts.store.troubles(), None).await;
    let Some(second) = &parts.copy else { return };
    tell_of_writes(parts, second.store.troubles(), Some(&second.store.describe())).await;
}

/// What may not be read behind a write lasts, and each write meets it.
async fn tell_of_writes(parts: &Parts, troubles: Vec<Trouble>, copy_in: Option<&str>) {
    for trouble in troubles {
        if keeping::lasts(trouble.kind) {
            keeping::tell_lasting(parts, &[trouble], copy_in, Lasting::Written).await;
        } else {
            tell(parts, &trouble, copy_in).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Kind;

    #[test]
    fn whoever_is_refused_is_told_and_a_store_without_locks_is_given_up_only_when_it_was_heard() {
        let unheard = StoreError::unheard("401", "renew the credentials");
        let denied = StoreError::new(Kind::Denied, "403", "compare the rights");
        let disturbed = StoreError::new(Kind::Retry, "503", "it is tried again");
        assert!(unheard.says_nothing(), "it is no word on an object");
        for (e, with_locks, without) in [
            (unheard, Interrupted::Told, Interrupted::Waits),
            (denied, Interrupted::Told, Interrupted::GivenUp),
            (disturbed, Interrupted::Waits, Interrupted::Waits),
        ] {
            assert_eq!((Interrupted::by(&e, true), Interrupted::by(&e, false)), (with_locks, without), "{e}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_passes_at_once_tell_the_same_once() {
        let desk = Desk::default();
        let trouble = |detail: &str| Trouble { kind: "store-marker", subject: "cases/x".to_owned(), detail: detail.to_owned() };
        assert!(!desk.was_told("store-marker", &trouble("a")));
        desk.note_told("store-marker", &trouble("a"));
        assert!(desk.was_told("store-marker", &trouble("a")));
        assert!(
            !desk.was_told("copy-marker", &trouble("a")) && !desk.was_told("store-marker", &trouble("b")),
            "another place, another object"
        );
        tokio::time::advance(SAME).await;
        assert!(!desk.was_told("store-marker", &trouble("a")), "the next pass tells it again");
    }
}
