//! What the catalog keeps of what was told, read and changed while other coordinators change it too.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::catalog::{Catalog, CatalogError};

/// Tries of a change where somebody else is quicker each time.
pub(super) const TRIES_MAX: usize = 16;

/// What a text of the catalog says.
pub(super) fn parsed<T: DeserializeOwned + Default>(text: Option<&str>) -> T {
    // What cannot be read was not written by this version.
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What is kept under this name.
pub(super) async fn read<T: DeserializeOwned + Default>(catalog: &dyn Catalog, name: &'static str) -> Result<T, CatalogError> {
    Ok(parsed(catalog.standing(name).await?.as_deref()))
}

/// Puts `after` in the place of what was read. False when somebody else changed it since; that stays.
pub(super) async fn replace<T: Serialize + Sync>(
    catalog: &dyn Catalog,
    name: &'static str,
    before: Option<String>,
    after: &T,
) -> Result<bool, CatalogError> {
    let text = serde_json::to_string(after).map_err(|e| CatalogError::Failed(e.to_string()))?;
    catalog.replace_standing(name, before, text).await
}

/// Changes what is kept under this name, once more on what somebody else made of it meanwhile.
pub(super) async fn change<T, F>(catalog: &dyn Catalog, name: &'static str, change: F) -> Result<(), CatalogError>
where
    T: Serialize + DeserializeOwned + Default + Clone + PartialEq + Send + Sync,
    F: Fn(&mut T) + Send + Sync,
{
    for _ in 0..TRIES_MAX {
        let before = catalog.standing(name).await?;
        let was: T = parsed(before.as_deref());
        let mut after = was.clone();
        change(&mut after);
        if after == was || replace(catalog, name, before, &after).await? {
            return Ok(());
        }
    }
    Err(CatalogError::Busy(format!("what is kept as '{name}' is changed by others all the time")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::catalog::sqlite::SqliteCatalog;

    #[tokio::test(flavor = "multi_thread")]
    async fn no_change_is_lost_and_none_comes_back_whoever_changes_at_the_same_time() {
        let dir = tempfile::tempdir().expect("folder");
        let catalog = Arc::new(SqliteCatalog::create(&dir.path().join("catalog.sqlite")).await.expect("catalog"));
        let adds = (0..8_u32).map(|n| {
            let catalog = Arc::clone(&catalog);
            tokio::spawn(async move { change(&*catalog, "refused", |all: &mut BTreeSet<u32>| all.extend([n])).await })
        });
        for added in futures::future::join_all(adds).await {
            added.expect("ends").expect("kept");
        }
        assert_eq!(read::<BTreeSet<u32>>(&*catalog, "refused").await.expect("read"), (0..8).collect());

        let late = catalog.standing("refused").await.expect("read");
        change(&*catalog, "refused", BTreeSet::<u32>::clear).await.expect("kept");
        assert!(!replace(&*catalog, "refused", late, &BTreeSet::from([1])).await.expect("asked"), "it was forgotten meanwhile");
        assert_eq!(read::<BTreeSet<u32>>(&*catalog, "refused").await.expect("read"), BTreeSet::new());
    }
}
