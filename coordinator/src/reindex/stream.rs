//! One stream: what its signed manifest names, and what else lies in its folder.

use std::collections::BTreeMap;

use exhibit_evidence::digest::Hasher;
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{self, StreamNumber};
use exhibit_evidence::manifest::{LINE_BYTES_MAX, Line, Segment};
use exhibit_evidence::record::ManifestRef;

use super::rebuild::Trouble;
use crate::store::{self, Store, list_all};

/// Bytes of a manifest read at once.
const READ_BYTES: u64 = 4 << 20;
/// Segments and manifest of one stream: at 8 MiB each this is 8 TiB.
const OBJECTS_MAX: usize = 1 << 20;

/// What the folder of a stream holds.
pub struct Found {
    /// The segments that the manifest names.
    pub segments: Vec<Segment>,
    /// Names of whatever else lies there, in their order: nobody signed for it.
    pub strangers: Vec<String>,
}

/// The segments that a stream's manifest names, after the manifest was found to be the one that the receipt names and
/// every segment to be there in its size. Their content is left to the verifier. What else somebody put there changes nothing.
pub async fn segments(
    store: &dyn Store,
    case: &CaseId,
    collection: &CollectionId,
    stream: StreamNumber,
    manifest: &ManifestRef,
) -> Result<Found, Trouble> {
    let name = layout::manifest(case, collection, stream);
    let segments = read_manifest(store, &name, manifest).await?;
    let mut there: BTreeMap<String, u64> = list_all(store, &layout::stream_folder(case, collection, stream), OBJECTS_MAX)
        .await?
        .into_iter()
        .map(|e| (e.name, e.size))
        .collect();
    there.remove(&name);
    for segment in &segments {
        let name = layout::segment(case, collection, stream, segment.n);
        let listed = there.remove(&name);
        match read_size(store, &name, listed, segment.size).await? {
            Some(size) if size == segment.size => {}
            Some(size) => {
                let what = format!("segment {} has {size} bytes, its manifest says {}", segment.n, segment.size);
                return Err(instead(store, &name, what).await);
            }
            None => return Err(Trouble::Damaged(format!("segment {} is missing", segment.n))),
        }
    }
    Ok(Found { segments, strangers: there.into_keys().collect() })
}

/// The size of what is read under a name. A listing has the newest versions, and none of what a marker hides.
async fn read_size(store: &dyn Store, name: &str, listed: Option<u64>, expected: u64) -> Result<Option<u64>, Trouble> {
    if listed == Some(expected) {
        return Ok(listed);
    }
    match store.size(name).await {
        Ok(size) => Ok(Some(size)),
        Err(e) if e.kind() == store::Kind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Something else is there than what was received; with the version that lies beneath it, where the store has one.
async fn instead(store: &dyn Store, name: &str, what: String) -> Trouble {
    let Some(found) = store.attestable() else { return Trouble::Damaged(what) };
    match found.beneath(name).await {
        Some(beneath) => Trouble::Damaged(format!("{what}; {beneath}")),
        None => Trouble::Damaged(what),
    }
}

async fn read_manifest(store: &dyn Store, name: &str, expected: &ManifestRef) -> Result<Vec<Segment>, Trouble> {
    let size = match store.size(name).await {
        Ok(size) => size,
        Err(e) if e.kind() == store::Kind::NotFound => return Err(Trouble::Damaged("its manifest is missing".to_owned())),
        Err(e) => return Err(e.into()),
    };
    if size != expected.size {
        let what = format!("its manifest has {size} bytes, the receipt says {}", expected.size);
        return Err(instead(store, name, what).await);
    }
    let (mut hasher, mut rest, mut segments, mut at) = (Hasher::new(), Vec::new(), Vec::new(), 0);
    while at < size {
        let end = size.min(at.saturating_add(READ_BYTES));
        let bytes = store.get_range(name, at..end).await?;
        hasher.update(&bytes);
        rest.extend_from_slice(&bytes);
        at = end;
        let mut begin = 0;
        while let Some(length) = rest.get(begin..).unwrap_or_default().iter().position(|b| *b == b'\n') {
            let line = rest.get(begin..begin + length).unwrap_or_default();
            segments.extend(segment_of(line)?);
            begin += length + 1;
        }
        rest.drain(..begin);
        if rest.len() > LINE_BYTES_MAX {
            return Err(Trouble::Damaged("its manifest holds a line without an end".to_owned()));
        }
    }
    if hasher.finish() != expected.sha256 || !rest.is_empty() {
        return Err(instead(store, name, "its manifest is not the one that the receipt names".to_owned()).await);
    }
    Ok(segments)
}

/// Item lines, which are nearly all of them, are only recognised: the verifier reads them.
fn segment_of(line: &[u8]) -> Result<Option<Segment>, Trouble> {
    if line.starts_with(br#"{"line":"item""#) {
        return Ok(None);
    }
    match Line::parse(line) {
        Ok(Line::Segment(segment)) => Ok(Some(segment)),
        Ok(_) => Ok(None),
        Err(e) => Err(Trouble::Damaged(format!("its manifest: {e}"))),
    }
}
