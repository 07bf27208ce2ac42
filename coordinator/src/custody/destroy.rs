//! The one place where evidence is destroyed: what a custodian asked for and a second person approved.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
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
use crate::ledger::{self, LedgerError};
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
    cases: Mutex<BTreeSet<CaseId>>,
    one_at_a_time: tokio::sync::Mutex<()>,
    /// Until when the timers leave them alone.
    waiting: Mutex<Option<Instant>>,
}

impl Condemned {
    fn cases(&self) -> std::sync::MutexGuard<'_, BTreeSet<CaseId>> {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

/// Carries out every approved disposal of a case that is not finished, and gives the certificate of the one that `approval`
/// decided. The happy path and recovery are this one function. Order of writes, for each disposal:
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
pub(super) async fn finish(parts: &Arc<Parts>, case: &CaseId, approval: Option<Digest>) -> Result<Option<Envelope>> {
    parts.condemned.cases().insert(case.clone());
    let (task, of) = (Arc::clone(parts), case.clone());
    // Its own task: a caller that goes away does not stop what was decided.
    let work = tokio::spawn(async move { finish_all(&task, &of).await });
    work.await.unwrap_or_else(|e| Err(Problem::new(Kind::Failed, format!("the destruction ended badly: {e}"))))?;
    let ledger = parts.ledgers.case(case).await?;
    let Some(approval) = approval else { return Ok(None) };
    let certificate = ledger.view().custody().certificate_of(&approval);
    match certificate {
        Some(digest) => Ok(ledger.read_by_digest(&digest).await?),
        None => Ok(None),
    }
}

async fn finish_all(parts: &Parts, case: &CaseId) -> Result<()> {
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
        parts.condemned.cases().remove(case);
    }
    Ok(())
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
    *parts.condemned.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
                    parts.condemned.cases().insert(row.case.clone());
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(case = %row.case, %error, "a log could not be looked at for disposals; it will be again");
                    unseen.push(row.case.clone());
                }
            }
        }
    }
    let due: Vec<CaseId> = parts.condemned.cases().iter().cloned().collect();
    // The timers look at these.
    parts.condemned.cases().extend(unseen);
    let unfinished = finish_each(parts, &due).await;
    for (case, problem) in unfinished.iter().filter(|(_, problem)| problem.kind() == Kind::Damaged) {
        parts.incident(None, "recovery", "start", &format!("an approved disposal in case {case} is not finished: {problem}")).await;
    }
    Ok(due.len().saturating_sub(unfinished.len()) as u64)
}

/// Tries to finish what is due, each case by itself, and gives what is not finished. The timers leave that alone for the shortest of the waits:
/// what passes by itself does not wait for a person.
async fn finish_each(parts: &Arc<Parts>, due: &[CaseId]) -> Vec<(CaseId, Problem)> {
    let (mut unfinished, mut shortest) = (Vec::new(), PERSON_WAIT);
    for case in due {
        let Err(error) = finish(parts, case, None).await else { continue };
        let wait = if error.is_passing() { Duration::ZERO } else { PERSON_WAIT };
        tracing::warn!(%case, %error, wait_s = wait.as_secs(), "an approved disposal is not finished; it is tried again");
        shortest = shortest.min(wait);
        *parts.condemned.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + shortest);
        unfinished.push((case.clone(), error));
    }
    unfinished
}

/// From the timers: tries again, in a task of its own, what could not be finished. Nothing happens while one is at work.
pub fn finish_due(parts: &Arc<Parts>) {
    let due: Vec<CaseId> = parts.condemned.cases().iter().cloned().collect();
    let waiting = *parts.condemned.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    if due.is_empty() || waiting.is_some_and(|until| Instant::now() < until) || parts.condemned.one_at_a_time.try_lock().is_err() {
        return;
    }
    let parts = Arc::clone(parts);
    tokio::spawn(async move { finish_each(&parts, &due).await });
}
