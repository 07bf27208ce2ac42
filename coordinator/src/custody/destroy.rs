//! The one place where evidence is destroyed: what a custodian asked for and a second person approved.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use exhibit_evidence::custody::{Fate, Unfinished};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout;
use exhibit_evidence::record::{self, Destruction};
use exhibit_evidence::{Digest, text::escape_bounded};
use tokio::time::Instant;

use crate::catalog::PAGE_MAX;
use crate::clock;
use crate::copy;
use crate::ledger::{self, Ledger, LedgerError};
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::replica::Lease;
use crate::store::{self, Store, StoreError};

/// How long a disposal waits for one that another coordinator carries out.
const DISPOSAL_WAIT: std::time::Duration = std::time::Duration::from_secs(30);
/// Somebody who waits for a right asks for it within this time again.
const LET_GO: Duration = Duration::from_millis(300);
/// Time before a disposal is tried again that a person has to make possible: one whose objects the store itself locks, for
/// example.
const PERSON_WAIT: Duration = Duration::from_mins(10);
/// What a disposal needs when nothing in the store keeps the object any more.
const AFTERWARDS: &str =
    "afterwards the coordinator's credentials need the right to delete, for disposals alone (docs/operations/stores.md)";

/// Cases with a disposal that is approved and not finished, and the lock under which one is carried out. Memory only: the logs
/// know, and [`recover`] reads them at start.
#[derive(Debug, Default)]
pub struct Condemned {
    /// And until when the timers leave one alone that waits for a person.
    cases: Mutex<BTreeMap<CaseId, Option<Instant>>>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl Condemned {
    fn cases(&self) -> MutexGuard<'_, BTreeMap<CaseId, Option<Instant>>> {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something of a case is to be destroyed. One that waits already goes on waiting.
    pub(crate) fn add(&self, case: &CaseId) {
        self.cases().entry(case.clone()).or_default();
    }

    /// What the timers are to try now: each case at its own time.
    fn due(&self) -> Vec<CaseId> {
        let now = Instant::now();
        self.cases().iter().filter(|(_, until)| until.is_none_or(|until| until <= now)).map(|(case, _)| case.clone()).collect()
    }

    /// A try failed: gives how long the timers leave the case alone. What passes soon does not wait, but one that waits for a person
    /// (a lock, for example) goes on waiting, whatever passes beside: [`wait_no_longer`] ends that when a copy is back. Another try may
    /// have finished the case meanwhile: then nothing waits.
    fn failed(&self, case: &CaseId, passes_soon: bool) -> Duration {
        let mut cases = self.cases();
        let Some(until) = cases.get_mut(case) else { return Duration::ZERO };
        if passes_soon && until.is_none() {
            return Duration::ZERO;
        }
        *until = Some(Instant::now() + PERSON_WAIT);
        PERSON_WAIT
    }

    /// Nothing of a case is left to be destroyed.
    fn finished(&self, case: &CaseId) {
        self.cases().remove(case);
    }

    fn wait_no_longer(&self) {
        self.cases().values_mut().for_each(|until| *until = None);
    }
}

/// The certificate of a disposal that is finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// The digest of the record.
    pub digest: Digest,
    /// The record; `None` when it could not be read back now, which changes nothing of what is certified.
    pub envelope: Option<Envelope>,
}

/// While it lives nothing is destroyed, at any coordinator.
pub(crate) struct Standstill<'a> {
    here: tokio::sync::MutexGuard<'a, ()>,
    alone: Lease,
    shared_out: bool,
}

impl Standstill<'_> {
    /// False when another coordinator may have begun to destroy: nothing is written any more.
    pub(crate) fn lasts(&self) -> bool {
        self.alone.lasts()
    }

    /// Lets disposals go on, and gives another coordinator's the time to see it.
    pub(crate) async fn end(self) {
        let Self { here, alone, shared_out } = self;
        alone.give(None).await;
        drop(here);
        if shared_out {
            tokio::time::sleep(LET_GO).await;
        }
    }
}

/// Waits until no disposal is carried out, and keeps those that come waiting, for a moment: a copy that was begun before one must
/// have arrived when that one looks for what is to be destroyed.
///
/// # Errors
/// When another coordinator's disposal takes longer, or the catalog does not answer.
pub(crate) async fn standstill(parts: &Parts) -> Result<Standstill<'_>> {
    let here = parts.condemned.one_at_a_time.lock().await;
    let alone = parts.leases.alone("disposal", DISPOSAL_WAIT).await?;
    let shared_out = alone.is_shared_out();
    Ok(Standstill { here, alone, shared_out })
}

/// Carries out every approved disposal of a case that is not finished, and gives the log that has the certificates. The happy path and
/// recovery are this one function. Order of writes, for each disposal:
///
/// 1. (before the call) its approval is in the log, under a checkpoint: from here on nothing can take it back
/// 2. every object below the folder of each collection is destroyed in the order of the names, so that a stream's segments
///    go first and its manifest last: what is left is named by it
/// 3. the folders are listed again: they must be empty. Where there is a copy in a second store, 2 and 3 are done there as well, if it
///    is the known copy, before and afterwards: what is not in another one is not destroyed. While it is away, 2 is not begun either
/// 4. the certificate (`destruction`) into the log, under a checkpoint
///
/// Died, or failed, anywhere: the next call begins at 2 again, and destroying what is gone is success. Between 1 and 4 nothing
/// of these collections is served, and the verifier says that the disposal is not finished. A key that is revoked after the approval
/// stops nothing: both were right to say what they said then, and parts may be gone.
pub(super) async fn finish(parts: &Arc<Parts>, case: &CaseId) -> Result<Ledger> {
    parts.condemned.add(case);
    let (task, of) = (Arc::clone(parts), case.clone());
    // Its own task: a caller that goes away does not stop what was decided.
    let work = tokio::spawn(async move { finish_all(&task, &of).await });
    work.await.unwrap_or_else(|e| Err(Problem::new(Kind::Failed, format!("the destruction ended badly: {e}"))))
}

/// The certificate of the disposal that `approval` decided, of a case that [`finish`] is done with.
///
/// # Errors
/// What lies in its place is not what was written, or the coordinator has a defect: an incident, and all is destroyed and certified.
pub(super) async fn certified(parts: &Parts, ledger: &Ledger, (case, approval): (&CaseId, &Digest)) -> Result<Option<Certified>> {
    let certificate = ledger.view().custody().certificate_of(approval);
    let Some(digest) = certificate else { return Ok(None) };
    let envelope = match ledger.read_by_digest(&digest).await {
        Ok(envelope) => envelope,
        // The store does not say now.
        Err(error) if matches!(error.kind(), ledger::Kind::Retry | ledger::Kind::Denied | ledger::Kind::Full) => {
            tracing::warn!(%case, certificate = %digest, %error, "a disposal is finished and certified, and the certificate could not be read back");
            None
        }
        Err(error) => {
            let why = format!("all is destroyed and certified, and the certificate, record {digest}, cannot be read back: {error}");
            parts.incident(Some(case), ledger::DAMAGED, &ledger.name().folder(), &why).await;
            return Err(Problem::from(error).said(why));
        }
    };
    Ok(Some(Certified { digest, envelope }))
}

async fn finish_all(parts: &Parts, case: &CaseId) -> Result<Ledger> {
    let _one = parts.condemned.one_at_a_time.lock().await;
    let _alone = parts.leases.alone("disposal", DISPOSAL_WAIT).await?;
    let ledger = parts.ledgers.case(case).await?;
    let due: Vec<Unfinished> = ledger.view().custody().unfinished();
    for disposal in due {
        for destroyed in &disposal.collections {
            require_copy(parts).await?;
            destroy_in(parts, &*parts.store, None, (case, &destroyed.collection)).await?;
            require_copy(parts).await?;
            if let Some(second) = &parts.copy {
                let place = second.store.describe();
                destroy_in(parts, &*second.store, Some(&place), (case, &destroyed.collection)).await?;
            }
            require_copy(parts).await?;
        }
        let certificate = Destruction {
            case: case.clone(),
            predecessor: disposal.approval,
            disposal: disposal.disposal,
            collections: disposal.collections,
            destroyed_at: clock::now(),
        };
        let signed = record::sign(&certificate, parts.ledgers.log_key())
            .map_err(|e| Problem::from(LedgerError::new(ledger::Kind::Bug, format!("destruction record: {e}"))))?;
        ledger.append(vec![signed]).await?;
        let count = certificate.collections.len();
        tracing::warn!(%case, disposal = %certificate.disposal, count, "collections destroyed and certified");
    }
    // One that was approved while this ran waits for the lock with its own call, which may fail: then the timers must know.
    if ledger.view().custody().unfinished().is_empty() {
        parts.condemned.finished(case);
    }
    Ok(ledger)
}

/// Where there is to be a copy, it is there and the known one.
async fn require_copy(parts: &Parts) -> Result<()> {
    if let Some(second) = &parts.copy {
        copy::require_known(&*parts.store, &*second.store).await?;
    }
    Ok(())
}

/// Steps 2 and 3 for one collection. What the store keeps from being destroyed is told with the lock that does, and without the store's
/// own advice: credentials that may do more would not help before the lock ends.
async fn destroy_in(parts: &Parts, store: &dyn Store, copy_in: Option<&str>, (case, collection): (&CaseId, &CollectionId)) -> Result<()> {
    let Err(Refused { object, problem }) = destroy_collection(store, case, collection).await else { return Ok(()) };
    let Some((object, said)) = object else { return Err(problem) };
    let Some(store) = store.attestable().filter(crate::store::attest::Attestable::locks) else { return Err(problem) };
    let Some((is_held, why)) = store.keeps(&object).await else { return Err(problem) };
    let why = format!("'{}': {why}", escape_bounded(&object, 200));
    if is_held {
        crate::attest::tell_waiting(parts, case, &why, copy_in).await;
    }
    Err(Problem::new(problem.kind(), format!("{why} (the store says: {said}); {AFTERWARDS}")))
}

/// Why a collection is not destroyed, and the object that the store keeps, where it refused one, with what it said.
struct Refused {
    object: Option<(String, String)>,
    problem: Problem,
}

impl From<StoreError> for Refused {
    fn from(e: StoreError) -> Self {
        Self { object: None, problem: e.into() }
    }
}

/// Destroys the objects of one collection. Uploads of it cannot run: it is sealed.
async fn destroy_collection(store: &dyn Store, case: &CaseId, collection: &CollectionId) -> std::result::Result<(), Refused> {
    let folder = format!("{}/collections/{collection}", layout::case_folder(case));
    let mut last = None;
    loop {
        let page = store.list(&folder, None).await?;
        let Some(first) = page.entries.first().map(|e| e.name.clone()) else { return Ok(()) };
        if last.as_ref() == Some(&first) {
            let shown = escape_bounded(&first, 200);
            let problem = Problem::new(Kind::Failed, format!("'{shown}' was destroyed and is still listed in {}", store.describe()));
            return Err(Refused { object: None, problem });
        }
        for entry in &page.entries {
            if let Err(e) = store.destroy(&entry.name).await {
                let object = (e.kind() == store::Kind::Denied).then(|| (entry.name.clone(), e.message().to_owned()));
                return Err(Refused { object, problem: e.into() });
            }
        }
        last = Some(first);
    }
}

/// Destroys what still lies in a copy of a collection whose destruction is certified.
///
/// # Errors
/// [`Kind::NotNow`] when it is not certified; otherwise as the copy does not let go of it.
pub(crate) async fn destroy_rest(parts: &Parts, copy: &dyn Store, case: &CaseId, collection: &CollectionId) -> Result<()> {
    let _one = parts.condemned.one_at_a_time.lock().await;
    let _alone = parts.leases.alone("disposal", DISPOSAL_WAIT).await?;
    let ledger = parts.ledgers.case(case).await?;
    let is_certified = matches!(ledger.view().custody().fate(collection), Fate::Destroyed { .. });
    if !is_certified {
        return Err(Problem::new(Kind::NotNow, format!("the destruction of {collection} is not certified")));
    }
    let place = copy.describe();
    destroy_in(parts, copy, Some(&place), (case, collection)).await
}

/// What a disposal waited for, a person may have done: the timers try it again now.
pub(crate) fn wait_no_longer(parts: &Parts) {
    parts.condemned.wait_no_longer();
}

/// At start: finds in the logs what an earlier process was destroying, and finishes what can be finished; gives in how many cases. What cannot be
/// (a lock has not ended, a copy is away) is left to the timers and holds up no other case: only damage is an incident. Repeatable.
///
/// # Errors
/// When the catalog cannot be read; a log that cannot be opened is reported where it is used, and left out here.
pub async fn recover(parts: &Arc<Parts>) -> Result<u64> {
    let (mut after, mut unseen) = (None, Vec::new());
    loop {
        let page = parts.catalog.cases(after, PAGE_MAX).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.case.clone());
        for row in &page {
            match parts.ledgers.case(&row.case).await {
                Ok(ledger) if !ledger.view().custody().unfinished().is_empty() => {
                    parts.condemned.add(&row.case);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(case = %row.case, %error, "a log could not be looked at for disposals; it will be again");
                    unseen.push(row.case.clone());
                }
            }
        }
    }
    let due: Vec<CaseId> = parts.condemned.cases().keys().cloned().collect();
    // The timers look at these.
    for case in &unseen {
        parts.condemned.add(case);
    }
    let unfinished = finish_each(parts, &due).await;
    for (case, problem) in unfinished.iter().filter(|(_, problem)| problem.kind() == Kind::Damaged) {
        parts.incident(None, "recovery", "start", &format!("an approved disposal in case {case} is not finished: {problem}")).await;
    }
    Ok(due.len().saturating_sub(unfinished.len()) as u64)
}

/// Tries to finish what is due, each case by itself, and gives what is not finished.
async fn finish_each(parts: &Arc<Parts>, due: &[CaseId]) -> Vec<(CaseId, Problem)> {
    let mut unfinished = Vec::new();
    for case in due {
        let Err(error) = finish(parts, case).await else { continue };
        let wait = parts.condemned.failed(case, error.passes_soon());
        tracing::warn!(%case, %error, wait_s = wait.as_secs(), "an approved disposal is not finished; it is tried again");
        unfinished.push((case.clone(), error));
    }
    unfinished
}

/// From the timers: tries again, in a task of its own, what could not be finished. Nothing happens while one is at work.
pub fn finish_due(parts: &Arc<Parts>) {
    let due = parts.condemned.due();
    if due.is_empty() || parts.condemned.one_at_a_time.try_lock().is_err() {
        return;
    }
    let parts = Arc::clone(parts);
    tokio::spawn(async move { finish_each(&parts, &due).await });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_case_is_tried_at_its_own_time() {
        let condemned = Condemned::default();
        let (locked, away) = (CaseId::new(1, [1; 10]), CaseId::new(1, [2; 10]));
        let (both, only_away) = ([locked.clone(), away.clone()], [away.clone()]);
        for case in &both {
            condemned.add(case);
        }
        assert_eq!(condemned.due(), both);
        assert_eq!((condemned.failed(&locked, false), condemned.failed(&away, true)), (PERSON_WAIT, Duration::ZERO));
        condemned.add(&locked);
        assert_eq!(condemned.due(), only_away, "what passes by itself does not wait, and what is locked waits all the same");
        tokio::time::advance(PERSON_WAIT).await;
        assert_eq!(condemned.due(), both);
        // Its lock stands; that the copy is away as well now makes it no sooner.
        assert_eq!((condemned.failed(&locked, true), condemned.failed(&away, true)), (PERSON_WAIT, Duration::ZERO));
        assert_eq!(condemned.due(), only_away);
        condemned.wait_no_longer();
        assert_eq!(condemned.due(), both, "a person, or the copy that is back, ends all waits");
        assert_eq!(condemned.failed(&locked, true), Duration::ZERO, "whether its lock stands is asked anew");
        condemned.failed(&locked, false);
        condemned.finished(&locked);
        condemned.add(&locked);
        assert_eq!(condemned.due(), both, "a later disposal does not wait for an earlier one's reason");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_is_noted_after_another_try_finished_the_case_keeps_nothing_waiting() {
        let (condemned, cases) = (Condemned::default(), [CaseId::new(1, [1; 10])]);
        condemned.add(&cases[0]);
        condemned.finished(&cases[0]);
        assert_eq!(condemned.failed(&cases[0], false), Duration::ZERO);
        assert!(condemned.due().is_empty(), "it is finished");
        condemned.add(&cases[0]);
        assert_eq!(condemned.due(), cases, "a later disposal is tried at once");
    }
}
