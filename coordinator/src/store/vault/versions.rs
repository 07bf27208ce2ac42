//! Every version of every object, as the store lists them.

use bytes::Bytes;
use exhibit_evidence::Timestamp;
use http::Method;

use super::super::lock::parse_time;
use super::super::{Kind, StoreError};
use super::{Ask, Vault, xml};

/// Version ids that S3 makes have 32 to 100 characters.
const VERSION_BYTES_MAX: usize = 1_024;

/// One version of an object, or a marker that stands for its deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Our name of the object; what lies outside our prefix is not listed.
    pub name: String,
    /// The store's id of the version; `null` where the bucket kept none.
    pub version: String,
    /// It is a delete marker.
    pub marker: bool,
    /// It is what a reader gets who asks for no version.
    pub latest: bool,
    /// When the store wrote it.
    pub modified: Timestamp,
}

/// Where a listing goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    key: String,
    version: String,
}

/// One page of versions: by name, the newest of a name first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionPage {
    /// At most a thousand.
    pub versions: Vec<Version>,
    /// Where the next page begins, when there is one.
    pub next: Option<Cursor>,
}

impl Vault {
    /// One page of the versions whose names begin with `begin`.
    ///
    /// # Errors
    /// [`Kind::Denied`] when they may not be listed.
    pub async fn versions(&self, begin: &str, after: Option<&Cursor>) -> Result<VersionPage, StoreError> {
        let prefix = if begin.is_empty() && self.prefix.is_empty() { String::new() } else { self.key(begin) };
        let mut query = vec![("versions", ""), ("prefix", &*prefix), ("max-keys", "1000")];
        if let Some(after) = after {
            query.extend([("key-marker", &*after.key), ("version-id-marker", &*after.version)]);
        }
        let ask = Ask { method: Method::GET, name: None, query: &query, headers: &[], body: Bytes::new() };
        let reply = self.ask("list the versions in", ask).await?;
        let root = self.parse(&reply)?;
        let versions = root.children.iter().filter_map(|node| self.version(node).transpose()).collect::<Result<Vec<_>, _>>()?;
        let next = (root.get("IsTruncated") == "true")
            .then(|| Cursor { key: root.get("NextKeyMarker").to_owned(), version: root.get("NextVersionIdMarker").to_owned() });
        if next.is_some() && next.as_ref() == after {
            return Err(StoreError::new(
                Kind::Damaged,
                format!("{}: the list of versions does not end", self.description),
                "use another store",
            ));
        }
        Ok(VersionPage { versions, next })
    }

    /// All versions and markers of one object, at most a page of them.
    ///
    /// # Errors
    /// As [`Vault::versions`].
    pub async fn versions_of(&self, name: &str) -> Result<Vec<Version>, StoreError> {
        // The name itself is the first of all names that begin with it.
        let mut page = self.versions(name, None).await?.versions;
        page.retain(|v| v.name == name);
        Ok(page)
    }

    fn version(&self, node: &xml::Node) -> Result<Option<Version>, StoreError> {
        let marker = match node.name.as_str() {
            "Version" => false,
            "DeleteMarker" => true,
            _ => return Ok(None),
        };
        let key = node.get("Key");
        let name = if self.prefix.is_empty() { Some(key) } else { key.strip_prefix(&self.prefix).and_then(|k| k.strip_prefix('/')) };
        let Some(name) = name else { return Ok(None) };
        let version = node.get("VersionId");
        let (Some(modified), true) = (parse_time(node.get("LastModified")), (1..=VERSION_BYTES_MAX).contains(&version.len())) else {
            let message = format!("{} lists a version without its id or time", self.description);
            return Err(StoreError::new(Kind::Damaged, message, "use another store"));
        };
        Ok(Some(Version { name: name.to_owned(), version: version.to_owned(), marker, latest: node.get("IsLatest") == "true", modified }))
    }
}
