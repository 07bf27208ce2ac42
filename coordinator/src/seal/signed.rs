//! What the seal of a collection names. Whoever may write into the store can put more into a collection's folder after it was sealed.

use std::collections::BTreeMap;

use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{CaseObject, StreamNumber};
use exhibit_evidence::record::{Record, Seal};

use crate::catalog::{Catalog, CatalogError};

/// The streams of a sealed collection, each with how many segments its signed manifest names; none where the catalog does not know
/// that, as after a `reindex` that found the stream damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    case: CaseId,
    collection: CollectionId,
    streams: BTreeMap<StreamNumber, Option<u32>>,
}

impl Named {
    /// What this seal names. `segments`: of how many segments the manifest is that a receipt names, where that is known.
    pub(crate) fn of(seal: &Seal, segments: &dyn Fn(StreamNumber, Digest) -> Option<u32>) -> Self {
        let streams = seal.streams.iter().map(|sealed| (sealed.stream, segments(sealed.stream, sealed.receipt))).collect();
        Self { case: seal.case.clone(), collection: seal.collection.clone(), streams }
    }

    /// Whether this is about that collection of that case.
    pub(crate) fn is_of(&self, case: &CaseId, collection: &CollectionId) -> bool {
        self.case == *case && self.collection == *collection
    }

    /// False for a segment or a manifest of this collection for which nobody signed.
    pub(crate) fn allows(&self, object: &CaseObject) -> bool {
        let (collection, stream, segment) = match object {
            CaseObject::Segment(collection, stream, n) => (collection, stream, Some(*n)),
            CaseObject::Manifest(collection, stream) => (collection, stream, None),
            _ => return true,
        };
        if *collection != self.collection {
            return true;
        }
        match (self.streams.get(stream), segment) {
            (None, _) => false,
            (Some(Some(count)), Some(n)) => n < *count,
            (Some(_), _) => true,
        }
    }
}

/// What the seal of a collection names. None when it is not sealed, or not one of this case: then nothing can be said.
pub(crate) async fn named(catalog: &dyn Catalog, case: &CaseId, collection: &CollectionId) -> Result<Option<Named>, CatalogError> {
    let row = catalog.collection(collection.clone()).await?.filter(|row| row.case == *case && row.state.is_closed());
    let Some(seal) = row.and_then(|row| row.seal).and_then(|bytes| read(&bytes)) else { return Ok(None) };
    let rows = catalog.streams(collection.clone()).await?;
    let segments = |stream: StreamNumber, receipt: Digest| {
        let row = rows.iter().find(|row| row.stream == stream && row.receipt == Some(receipt))?;
        row.manifest.as_ref().map(|manifest| manifest.segments)
    };
    Ok(Some(Named { case: case.clone(), collection: collection.clone(), ..Named::of(&seal, &segments) }))
}

/// The seal as the catalog keeps it, which has it from the log.
fn read(bytes: &[u8]) -> Option<Seal> {
    let envelope = Envelope::parse(bytes).ok()?;
    match Record::from_payload(envelope.unverified_payload()) {
        Ok(Record::Seal(seal)) => Some(*seal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_seal_names_is_allowed_and_what_is_not_known_is() {
        let id = |text: &str| CollectionId::from_digest(&Digest::of(text.as_bytes()));
        let streams = BTreeMap::from([(StreamNumber(1), Some(2)), (StreamNumber(3), None)]);
        let named = Named { case: CaseId::new(1, [2; 10]), collection: id("a"), streams };
        assert!(named.is_of(&CaseId::new(1, [2; 10]), &id("a")) && !named.is_of(&CaseId::new(1, [3; 10]), &id("a")));
        let segment = |s, n| CaseObject::Segment(id("a"), StreamNumber(s), n);
        let manifest = |s| CaseObject::Manifest(id("a"), StreamNumber(s));
        let other = CaseObject::Segment(id("b"), StreamNumber(9), 9);
        for there in [segment(1, 0), segment(1, 1), manifest(1), segment(3, 900), manifest(3), other, CaseObject::Slot(7)] {
            assert!(named.allows(&there), "{there}");
        }
        for strange in [segment(1, 2), segment(2, 0), manifest(2), segment(9, 0), manifest(9)] {
            assert!(!named.allows(&strange), "{strange}");
        }
    }
}
