//! The versions of an object, for whoever knows which of them is the genuine one. A name counts as free where it has none, and not
//! because a deletion hides them: a creation succeeds on top of one.

use std::collections::BTreeSet;

use super::attest::Attestable;
use super::lock::is_replaced;
use super::vault::{Cursor, Version};
use super::{Kind, Store, StoreError};

/// Versions of one name that are listed, of some 300 bytes each. Nobody of ours makes more than a few; somebody who makes more is not
/// to push the genuine one out of sight, so beyond it nothing is said.
const VERSIONS_MAX: usize = 64_000;
/// Pages that are turned for the newest versions of a name: a million.
const PAGES_MAX: usize = 1_000;
/// Names with several versions, of some 100 bytes each.
const NAMES_MAX: usize = 100_000;

/// The store, where it keeps versions and locks them: only then an older one is worth more than what lies on top.
fn keeping(store: &dyn Store) -> Option<Attestable> {
    store.attestable().filter(Attestable::locks)
}

/// Whether what was written once lies under whatever is written or deleted later.
pub(crate) fn is_kept(store: &dyn Store) -> bool {
    keeping(store).is_some()
}

/// The versions of an object that are no deletions, the oldest first; `None` where versions are not kept and locked.
///
/// # Errors
/// [`Kind::Damaged`] when there are so many that the oldest cannot be told; as the store fails.
pub(crate) async fn of(store: &dyn Store, name: &str) -> Result<Option<Vec<Version>>, StoreError> {
    let Some(found) = keeping(store) else { return Ok(None) };
    let (mut versions, mut next): (Vec<Version>, Option<Cursor>) = (Vec::new(), None);
    loop {
        let page = Box::pin(found.vault.versions(name, next.as_ref())).await?;
        // The name itself is the first of all names that begin with it.
        let beyond = page.versions.iter().any(|v| v.name != name);
        versions.extend(page.versions.into_iter().filter(|v| v.name == name));
        if versions.len() > VERSIONS_MAX {
            return Err(StoreError::new(
                Kind::Damaged,
                format!("'{name}' has more than {VERSIONS_MAX} versions"),
                "somebody writes there: replace the credentials, then remove those that are not locked with the bucket owner's",
            ));
        }
        next = page.next;
        if beyond || next.is_none() {
            break;
        }
    }
    found.vault.newest_first(&mut versions);
    versions.retain(|v| !v.marker);
    versions.reverse();
    Ok(Some(versions))
}

/// The newest versions of an object that are no deletions, the newest first; `None` where versions are not kept and locked.
///
/// # Errors
/// As the store fails.
pub(crate) async fn newest(store: &dyn Store, name: &str, most: usize) -> Result<Option<Vec<Version>>, StoreError> {
    let Some(found) = keeping(store) else { return Ok(None) };
    let (mut versions, mut next): (Vec<Version>, Option<Cursor>) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let page = Box::pin(found.vault.versions(name, next.as_ref())).await?;
        let beyond = page.versions.iter().any(|v| v.name != name);
        versions.extend(page.versions.into_iter().filter(|v| v.name == name && !v.marker));
        found.vault.newest_first(&mut versions);
        // Where the newest comes first the rest of the list is older than all of these.
        let full = versions.len() > most && found.vault.lists_newest_first();
        versions.truncate(most);
        next = page.next;
        if beyond || full || next.is_none() {
            break;
        }
    }
    Ok(Some(versions))
}

/// The objects below a folder that have several versions which are no deletions; heads, which have one for each record, are left out.
/// None where versions are not kept and locked.
///
/// # Errors
/// As the store fails.
pub(crate) async fn several(store: &dyn Store, folder: &str) -> Result<BTreeSet<String>, StoreError> {
    let mut names = BTreeSet::new();
    let Some(found) = keeping(store) else { return Ok(names) };
    let (begin, mut last, mut next) = (format!("{folder}/"), String::new(), None);
    loop {
        let page = Box::pin(found.vault.versions(&begin, next.as_ref())).await?;
        // The versions of one name come one after another, over the end of a page as well.
        for version in page.versions.into_iter().filter(|v| !v.marker && !is_replaced(&v.name)) {
            if last == version.name {
                if names.len() < NAMES_MAX {
                    names.insert(version.name);
                }
            } else {
                last = version.name;
            }
        }
        next = page.next;
        if next.is_none() {
            return Ok(names);
        }
    }
}
