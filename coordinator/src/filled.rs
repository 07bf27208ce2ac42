//! Whether a catalog holds what the store does, before a coordinator runs on it. An empty one over a full store answers "nothing found" to
//! everybody, tells agents that they are not enrolled, and does not know how long the logs were; a wrong database name is enough.
//!
//! Only a catalog that nobody ever used is looked at. One that was is behind the store for a moment whenever a process dies between two
//! writes, which is no reason not to start; and one that was made from the store is what the store gives.

use exhibit_evidence::CaseId;
use exhibit_evidence::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::{Checkpoint, NOTE_BYTES_MAX};
use exhibit_evidence::record::{KeyRing, Record, Role};
use exhibit_evidence::text::escape_bounded;

use crate::catalog::{Catalog, CatalogError, Labels};
use crate::ledger::Ledgers;
use crate::problem::{Kind, Problem, Result};
use crate::store::{self, StoreError};

/// The name of the mark that a catalog was used, or made from the store.
const MARK: &str = "filled";
/// Folders that have the name of a case and are looked into: two reads of each that is none. Of more the catalog is refused, because a
/// case may be among the rest.
const FOLDERS_MAX: usize = 1_000;
/// Records of keys before the one that opened the case; a case has some ten of them.
const KEYS_MAX: u64 = 64;

/// What lies among the cases and is none of this deployment's.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    count: usize,
    /// The first one, escaped.
    example: String,
}

impl Foreign {
    fn add(&mut self, folder: &str) {
        if self.count == 0 {
            self.example = escape_bounded(folder, 80);
        }
        self.count = self.count.saturating_add(1);
    }

    /// What an incident says of it; `None` where there is nothing.
    pub(crate) fn text(&self) -> Option<String> {
        (self.count > 0).then(|| {
            format!(
                "folders among the cases hold no log of this deployment ({}), like 'cases/{}': the new catalog knows nothing of them; find out \
                 who wrote there (docs/operations/stores.md)",
                self.count, self.example
            )
        })
    }
}

/// Refuses a catalog that was never used and is empty, while the deployment's log or the store has what it would know; of the store the
/// names of the cases are listed. Nothing is written into the catalog, so that an import still finds it empty: whoever goes on with it
/// marks it ([`note`]), so that it is asked once only. What others put among the cases is no reason to refuse it, and is given back.
///
/// # Errors
/// [`Kind::Failed`] when it is refused; otherwise as catalog and store fail.
pub(crate) async fn check(catalog: &dyn Catalog, ledgers: &Ledgers) -> Result<Foreign> {
    if catalog.standing(MARK).await?.is_some() || !is_empty(catalog).await? {
        return Ok(Foreign::default());
    }
    let agents = ledgers.deployment().await?.key_ring().with_role(Role::Agent).count();
    if agents > 0 {
        return Err(refused(&format!("agents are enrolled in the deployment's log ({agents})")));
    }
    no_cases(ledgers).await
}

/// Marks a catalog as one that may be run on, however little is in it.
///
/// # Errors
/// [`CatalogError`]
pub(crate) async fn note(catalog: &dyn Catalog) -> Result<(), CatalogError> {
    if catalog.standing(MARK).await?.is_some() {
        return Ok(());
    }
    catalog.set_standing(MARK, "yes".to_owned()).await
}

async fn is_empty(catalog: &dyn Catalog) -> Result<bool, CatalogError> {
    Ok(catalog.cases(None, 1).await?.is_empty() && catalog.agents(Labels::new(), None, 1).await?.is_empty())
}

/// Refuses when the store has a case. Anybody who may write into it can put something among the cases, which is no case by that.
async fn no_cases(ledgers: &Ledgers) -> Result<Foreign> {
    let (mut foreign, mut looked) = (Foreign::default(), 0_usize);
    for folder in ledgers.store().folders("cases").await? {
        if let Ok(case) = folder.parse::<CaseId>() {
            if looked >= FOLDERS_MAX {
                return Err(refused(&format!("the store has objects of more than {FOLDERS_MAX} folders that could be cases")));
            }
            looked += 1;
            if is_case(ledgers, &case).await? {
                return Err(refused(&format!("the store has objects of cases, like {case}")));
            }
        }
        foreign.add(&folder);
    }
    Ok(foreign)
}

/// Whether a folder has the log of a case: a head that the deployment's log key signed for it, or the record that opened it behind the
/// keys that it needs. Neither can be copied from elsewhere. Nothing is written, and nothing told.
///
/// # Errors
/// As the store fails.
pub(crate) async fn is_case(ledgers: &Ledgers, case: &CaseId) -> Result<bool> {
    let (store, log) = (ledgers.store(), LogName::Case(case.clone()));
    if let Some(head) = there(store.get(&log.checkpoint(), NOTE_BYTES_MAX as u64).await)? {
        let signed = Checkpoint::verify(&head, &ledgers.log_key().public());
        if signed.is_ok_and(|head| head.origin == log.origin(&ledgers.anchor().deployment)) {
            return Ok(true);
        }
    }
    let mut keys = KeyRing::new(ledgers.anchor());
    for n in 0..KEYS_MAX {
        let Some(bytes) = there(store.get(&log.slot(n), ENVELOPE_BYTES_MAX as u64).await)? else { return Ok(false) };
        let Ok(envelope) = Envelope::parse(&bytes) else { return Ok(false) };
        let Ok(verified) = keys.verify(&envelope) else { return Ok(false) };
        match verified.record() {
            Record::CaseOpened(opened) => return Ok(opened.case == *case),
            Record::Enrolment(_) | Record::Revocation(_) => {}
            _ => return Ok(false),
        }
    }
    Ok(false)
}

/// What was read; `None` where there is nothing, or something that is larger than any of ours.
fn there<T>(read: Result<T, StoreError>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(e) if matches!(e.kind(), store::Kind::NotFound | store::Kind::Damaged) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn refused(there: &str) -> Problem {
    Problem::new(
        Kind::Failed,
        format!(
            "the catalog is empty and was never used, but {there}: it would say that there is nothing. If the deployment has another catalog, \
             correct catalog.postgres or paths.catalog in the configuration; if it is lost, stop every coordinator and run \
             'exhibit-coordinator reindex --replace', which fills it from the store, or 'exhibit-coordinator catalog import FILE' from an export \
             (docs/operations/catalog.md)"
        ),
    )
}
