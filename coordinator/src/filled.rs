//! Whether a catalog holds what the store does, before a coordinator runs on it. An empty one over a full store answers "nothing found" to
//! everybody, tells agents that they are not enrolled, and does not know how long the logs were; a wrong database name is enough.
//!
//! Only a catalog that nobody ever used is looked at. One that was is behind the store for a moment whenever a process dies between two
//! writes, which is no reason not to start; and one that was made from the store is what the store gives.

use exhibit_evidence::record::Role;

use crate::catalog::{Catalog, CatalogError, Labels};
use crate::ledger::Ledger;
use crate::problem::{Kind, Problem, Result};
use crate::store::Store;

/// The name of the mark that a catalog was used, or made from the store.
const MARK: &str = "filled";

/// Refuses a catalog that was never used and is empty, while the deployment's log or the store has what it would know. Any other one is
/// marked, so that it is asked once only: of the store one page of a listing at the most.
///
/// # Errors
/// [`Kind::Failed`] when it is refused; otherwise as catalog and store fail.
pub(crate) async fn check(catalog: &dyn Catalog, store: &dyn Store, log: &Ledger) -> Result<()> {
    if catalog.standing(MARK).await?.is_some() {
        return Ok(());
    }
    if is_empty(catalog).await?
        && let Some(there) = left_out(store, log).await?
    {
        return Err(refused(&there));
    }
    note(catalog).await?;
    Ok(())
}

/// Marks a catalog as one that may be run on, however little is in it.
///
/// # Errors
/// [`CatalogError`]
pub(crate) async fn note(catalog: &dyn Catalog) -> Result<(), CatalogError> {
    catalog.set_standing(MARK, "yes".to_owned()).await
}

async fn is_empty(catalog: &dyn Catalog) -> Result<bool, CatalogError> {
    Ok(catalog.cases(None, 1).await?.is_empty() && catalog.agents(Labels::new(), None, 1).await?.is_empty())
}

/// What an empty catalog leaves out, in words; `None` in a new deployment.
async fn left_out(store: &dyn Store, log: &Ledger) -> Result<Option<String>> {
    let agents = log.key_ring().with_role(Role::Agent).count();
    if agents > 0 {
        return Ok(Some(format!("agents are enrolled in the deployment's log ({agents})")));
    }
    let cases = store.list("cases", None).await?;
    Ok((!cases.entries.is_empty()).then(|| "the store has objects of cases".to_owned()))
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
