//! What the catalog knows of the store: the cases that must be there, and how long their logs must be.

use exhibit_evidence::layout::LogName;
use exhibit_evidence::text::escape_bounded;

use crate::catalog::{Catalog, CatalogError, CatalogPlace, PAGE_MAX, Published, sqlite};
use crate::config::Config;

/// What the catalog knows.
pub(crate) struct Catalogued {
    /// Each case that it has, and the newest head of its log that was published.
    pub(crate) cases: Vec<(String, Option<Published>)>,
    /// The newest head of the deployment's log that was published.
    pub(crate) deployment: Option<Published>,
}

/// Why a catalog was not asked that is in use, which is as it should be: whoever reads this did no harm and has nothing to mend.
pub(super) const IN_USE: &str = "the coordinator that runs has it";

/// What the catalog knows, or why it was not asked. It is opened as by every other command; one in a file belongs to whoever has it open.
pub(super) async fn known_to_catalog(config: &Config) -> Result<Catalogued, String> {
    let place = config.catalog().map_err(|e| e.to_string())?;
    // That there is none is as it should be where a copy is verified.
    if let CatalogPlace::File(path) = &place
        && !path.is_file()
    {
        return Err(format!("there is none at {}, as there is none of a copy", escape_bounded(&path.to_string_lossy(), 120)));
    }
    let open = place.open().await.map_err(|e| if is_in_use(&e) { IN_USE.to_owned() } else { e.to_string() })?;
    let catalog = open.shared();
    let known = catalogued(&*catalog).await;
    drop(catalog);
    open.close().await;
    known.map_err(|e| e.to_string())
}

fn is_in_use(e: &CatalogError) -> bool {
    matches!(e, CatalogError::Failed(why) if why.contains(sqlite::IN_USE))
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
