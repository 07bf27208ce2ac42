//! Names that nothing of ours ever has, which somebody else wrote into the store.

use object_store::path::Path;

use super::RemoteStore;
use crate::store::{Trouble, foreign, name_is_valid};

impl RemoteStore {
    /// How the names below a folder begin, as the store has them.
    pub(super) fn key_below(&self, folder: &str) -> String {
        let path = self.path(folder);
        let path: &str = path.as_ref();
        if path.is_empty() { String::new() } else { format!("{path}/") }
    }

    /// A name as the store has it, without our prefix.
    pub(super) fn shown_name<'a>(&self, key: &'a str) -> &'a str {
        if self.prefix.is_empty() {
            return key;
        }
        key.strip_prefix(&self.prefix).and_then(|name| name.strip_prefix('/')).unwrap_or(key)
    }

    /// Whether a listed name can be one of ours. Of a cloud most others do not come as far as here.
    pub(super) fn can_be_ours(&self, name: &str) -> bool {
        let valid = name_is_valid(name);
        if !valid {
            self.foreign.note(&self.path_of(name));
        }
        valid
    }

    fn path_of(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    /// The last component of a folder, if it can be one of ours.
    pub(super) fn folder_name(&self, folder: &Path) -> Option<String> {
        let name = folder.filename()?;
        if name_is_valid(name) {
            return Some(name.to_owned());
        }
        let key: &str = folder.as_ref();
        self.foreign.note(&format!("{key}/"));
        None
    }

    /// What listings left out since the last call.
    pub(super) fn strangers(&self) -> Option<Trouble> {
        let news: Vec<String> = self.foreign.news().iter().map(|key| self.shown_name(key).to_owned()).collect();
        foreign::trouble(&self.description, &news)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use object_store::{ObjectStore as _, PutOptions};

    use super::*;
    use crate::store::{Payload, Store as _, list_all};

    #[tokio::test]
    async fn names_that_are_none_of_ours_are_left_out_and_told_once() {
        let inner = Arc::new(InMemory::new());
        for name in ["d/cases/a/x", "d/cases/a/Other", "d/cases/B/x", "d/cases/ä/x", "other/cases/c/X"] {
            let path = Path::parse(name).expect("a path");
            inner.put_opts(&path, Payload::from_static(b"x"), PutOptions::default()).await.expect("written");
        }
        let store = RemoteStore::new(inner, "d", "memory");
        let listed = list_all(&store, "cases", 10).await.expect("listed");
        assert_eq!(listed.into_iter().map(|entry| entry.name).collect::<Vec<_>>(), ["cases/a/x"]);
        assert_eq!(store.folders("cases").await.expect("listed"), ["a"]);
        assert_eq!(store.foreign("cases/a"), ["cases/a/Other"]);
        assert_eq!(store.foreign(""), ["cases/B/", "cases/B/x", "cases/a/Other", "cases/ä/", "cases/ä/x"]);
        let told = store.troubles();
        assert!(told.len() == 1 && told[0].kind == "store-foreign" && told[0].detail.contains("'cases/a/Other'"), "{told:?}");
        list_all(&store, "cases", 10).await.expect("listed");
        assert!(store.troubles().is_empty(), "they were told");
        assert_eq!(store.foreign("cases/a").len(), 1);
    }
}
