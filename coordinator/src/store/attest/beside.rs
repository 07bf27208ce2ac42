//! What lies beside the genuine version of an object, or which versions there are where that one cannot be told.

use exhibit_evidence::dsse::ENVELOPE_BYTES_MAX;
use exhibit_evidence::layout::CaseObject;
use exhibit_evidence::text::escape_bounded;

use super::{NAMED_MAX, Pass, VERSION};
use crate::store::vault::Version;
use crate::store::{Kind, StoreError};

/// Versions of one name whose content is read: the coordinator itself makes one or two. Of more, somebody else made most.
const READ_MAX: usize = 8;

impl Pass {
    /// Of a part of a log with several versions of which nobody could say which one is genuine: whether they differ, which is told. None is
    /// said to lie on top, because whoever takes that away may take the log's own record away.
    pub(super) async fn is_undecided(
        &mut self,
        name: &str,
        object: &CaseObject,
        (first, all): (&Version, &[&Version]),
    ) -> Result<bool, StoreError> {
        let others: Vec<&Version> = all.iter().copied().filter(|v| v.version != first.version).collect();
        let differs = !self.forged(object, first, &others).await?.is_empty();
        if differs {
            self.tell(VERSION, name, undecided(all));
        }
        Ok(differs)
    }

    /// Those of these versions that differ from the genuine one. A coordinator writes a part of a log again where a deletion hid it, and
    /// that is no forgery: it is the same content.
    pub(super) async fn forged<'a>(
        &self,
        object: &CaseObject,
        genuine: &Version,
        others: &[&'a Version],
    ) -> Result<Vec<&'a Version>, StoreError> {
        let bytes_max = match object {
            CaseObject::Slot(_) => ENVELOPE_BYTES_MAX as u64,
            CaseObject::Tile(tile) => tile.bytes_max(),
            _ => return Ok(others.to_vec()),
        };
        if others.is_empty() || others.len() > READ_MAX {
            return Ok(others.to_vec());
        }
        let Some(content) = self.content(genuine, bytes_max).await? else { return Ok(others.to_vec()) };
        let mut forged = Vec::new();
        for version in others {
            if self.content(version, bytes_max).await?.as_ref() != Some(&content) {
                forged.push(*version);
            }
        }
        Ok(forged)
    }

    /// What a version holds; none when it cannot be read, or is larger than any part of a log.
    async fn content(&self, version: &Version, bytes_max: u64) -> Result<Option<bytes::Bytes>, StoreError> {
        tokio::time::sleep(self.task.pause).await;
        match (self.store.read)(version.name.clone(), version.version.clone(), bytes_max).await {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == Kind::Retry => Err(e),
            Err(_) => Ok(None),
        }
    }
}

fn listed(versions: &[&Version]) -> String {
    let named = versions.iter().map(|v| format!("'{}' of {}", escape_bounded(&v.version, 80), v.modified));
    named.take(NAMED_MAX).collect::<Vec<_>>().join(", ")
}

/// What lies on top of the genuine version of an object and beneath it, in words.
pub(super) fn beside(genuine: &Version, above: &[&Version], beneath: &[&Version]) -> String {
    let mut what = format!("the genuine version is '{}'", escape_bounded(&genuine.version, 80));
    for (place, versions) in [("on top of it lie", above), ("it was put on top of", beneath)] {
        if !versions.is_empty() {
            what = format!("{what}; {place} {}", listed(versions));
        }
    }
    what
}

fn undecided(all: &[&Version]) -> String {
    format!("which of its versions is the genuine one only its log can tell, which was not read here; leave all of them: {}", listed(all))
}

#[cfg(test)]
mod tests {
    use exhibit_evidence::Timestamp;

    use super::*;

    #[test]
    fn where_the_genuine_version_is_not_known_none_is_called_so() {
        let version = |id: &str| Version {
            name: "deployment/log/seq/0000000000.dsse.json".to_owned(),
            version: id.to_owned(),
            marker: false,
            latest: false,
            modified: Timestamp::from_unix_s(1),
        };
        let (one, other) = (version("one"), version("other"));
        let words = undecided(&[&one, &other]);
        assert!(words.contains("'one' of ") && words.contains("'other' of ") && words.contains("leave all of them"), "{words}");
        assert!(!words.contains("the genuine version is") && !words.contains("on top"), "{words}");
        let words = beside(&one, &[], &[&other]);
        assert!(words.starts_with("the genuine version is 'one'; it was put on top of 'other'"), "{words}");
    }
}
