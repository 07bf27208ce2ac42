//! What lies in a store beside its folders: objects directly in it or among the cases, and folders that nothing of ours has. No case's
//! listing shows them.

use exhibit_evidence::text::escape_bounded;

use crate::store::{Kind, Store, StoreError};

/// The folders that a store of ours has.
const FOLDERS: [&str; 3] = ["cases", "deployment", "probe"];
/// Names that are given back; whoever makes more is found by these.
const NAMED_MAX: usize = 100;
/// Sorts behind whatever of ours lies in a folder.
const BEHIND: &str = "zzzzzzzzzzzzzzzz";

/// The names of what lies beside the folders, a folder's with a slash at its end, escaped and quoted. What is inside of a folder is passed over, at
/// one page of a listing for each. To be asked before anything else is listed: a listing forgets what an earlier one left out.
///
/// # Errors
/// [`Kind::Retry`].
pub(crate) async fn strangers(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    for folder in ["", "cases"] {
        match beside(store, folder, &mut found).await {
            Ok(()) => {}
            Err(e) if e.kind() == Kind::Retry => return Err(e),
            // A folder that cannot be listed, or what stands in the place of an object: what is wrong in a case's folder is found where that
            // one is listed.
            Err(error) => tracing::info!(folder, %error, "what lies beside the folders of the store was not looked for"),
        }
    }
    // What cannot be ours by its letters is left out of a listing and remembered. Below the folders others tell it.
    let is_beside = |name: &&String| match name.strip_prefix("cases/") {
        Some(rest) => !rest.contains('/'),
        None => !name.starts_with("deployment/"),
    };
    found.extend(store.foreign("").iter().filter(is_beside).cloned());
    found.sort_unstable();
    found.dedup();
    found.truncate(NAMED_MAX);
    Ok(found.iter().map(|name| format!("'{}'", escape_bounded(name, 200))).collect())
}

async fn beside(store: &dyn Store, folder: &str, found: &mut Vec<String>) -> Result<(), StoreError> {
    let above = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut after = None::<String>;
    // Twice as many as are named: those of the other folder are among them.
    while found.len() < 2 * NAMED_MAX {
        let page = store.list(folder, after.as_deref()).await?;
        for entry in &page.entries {
            let Some(rest) = entry.name.strip_prefix(&above) else { continue };
            let stranger = match rest.split_once('/') {
                // What a folder among the cases is, is said where that one is looked at.
                Some((inside, _)) if folder.is_empty() && !FOLDERS.contains(&inside) => format!("{inside}/"),
                Some(_) => continue,
                None => entry.name.clone(),
            };
            if found.last() != Some(&stranger) {
                found.push(stranger);
            }
        }
        let Some(last) = page.entries.last().filter(|_| page.more) else { return Ok(()) };
        let inside = last.name.strip_prefix(&above).and_then(|rest| rest.split_once('/'));
        // Past the rest of the folder in which the page ended.
        let behind = inside.map(|(inside, _)| format!("{above}{inside}/{BEHIND}"));
        after = Some(behind.filter(|behind| *behind > last.name).unwrap_or_else(|| last.name.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{LocalStore, PAGE_ENTRIES_MAX};

    #[tokio::test]
    async fn what_lies_beside_the_folders_is_found_however_much_lies_in_them() {
        let dir = tempfile::tempdir().expect("folder");
        let root = dir.path().join("store");
        let store = LocalStore::create(&root).expect("store");
        let mut names: Vec<String> = ["junk", "zz", "cases/junk", "cases/zz", "cases/b/x", "other/a", "other/b", "probe/x", "deployment/x"]
            .map(str::to_owned)
            .to_vec();
        names.extend((0..PAGE_ENTRIES_MAX + 5).map(|n| format!("cases/a/{n:05}")));
        for name in &names {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, b"x").expect("written");
        }
        assert_eq!(strangers(&store).await.expect("listed"), ["'cases/junk'", "'cases/zz'", "'junk'", "'other/'", "'zz'"]);
        // A disk has its own; what else nothing of ours can be called hides nothing of the rest.
        for name in ["lost+found", "a b", "cases/a b"] {
            std::fs::create_dir(root.join(name)).expect("made");
        }
        std::fs::write(root.join("cases/B"), b"x").expect("written");
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).expect("link");
        std::os::unix::fs::symlink("/etc", root.join("cases/link")).expect("link");
        let found = strangers(&store).await.expect("listed");
        let due = ["'a b/'", "'cases/B'", "'cases/junk'", "'cases/link'", "'cases/zz'", "'junk'", "'link'", "'other/'", "'zz'"];
        assert_eq!(found, due);
    }
}
