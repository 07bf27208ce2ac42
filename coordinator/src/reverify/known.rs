//! What the catalog knows of the store: the cases that must be there, and how long their logs must be.

use exhibit_evidence::layout::LogName;

use crate::catalog::{Catalog, CatalogError, PAGE_MAX, Published};
use crate::config::Config;

/// What the catalog knows.
pub(crate) struct Catalogued {
    /// Each case that it has, and the newest head of its log that was published.
    pub(crate) cases: Vec<(String, Option<Published>)>,
    /// The newest head of the deployment's log that was published.
    pub(crate) deployment: Option<Published>,
}

/// What the catalog knows. It is opened as by every other command; one in a file belongs to whoever has it open.
pub(super) async fn known_to_catalog(config: &Config) -> Result<Catalogued, String> {
    let open = config.catalog().map_err(|e| e.to_string())?.open().await.map_err(|e| e.to_string())?;
    let catalog = open.shared();
    let known = catalogued(&*catalog).await;
    drop(catalog);
    open.close().await;
    known.map_err(|e| e.to_string())
}

/// Every case of a catalog, and how long it knows the logs to be.
///
/// # Errors
/// [`CatalogError`]
pub(crate) async fn catalogued(catalog: &dyn Catalog) -> Result<Catalogued, CatalogError> {
    let deployment = catalog.published(LogName::Deployment.folder()).await?;
    let (mut cases, mut after) = (Vec::new(), None);
    loop {
        let page = catalog.cases(after.take(), PAGE_MAX).await?;
        let Some(last) = page.last() else { return Ok(Catalogued { cases, deployment }) };
        after = Some(last.case.clone());
        for row in page {
            let (case, log) = (row.case.to_string(), LogName::Case(row.case));
            cases.push((case, catalog.published(log.folder()).await?));
        }
    }
}
