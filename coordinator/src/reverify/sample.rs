//! A share of a case's evidence, drawn anew with each run, against the manifests that the case's log names.

use exhibit_evidence::Digest;
use exhibit_evidence::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{self, LogName};
use exhibit_evidence::record::{ManifestRef, Record};
use exhibit_evidence::stream::SEGMENT_BYTES_MAX;
use exhibit_evidence::text::escape_bounded;

use super::work::{OBJECTS_MAX, Work};
use super::{CaseResult, Left, Records};
use crate::ledger::Look;
use crate::reindex;
use crate::store::{Kind, StoreError, list_all};

impl Work {
    /// Each manifest that a receipt of the log names, whole, and a share of its segments; and by names whatever no record accounts for of
    /// the objects that were listed before.
    pub(super) async fn sample(
        &self,
        share: u32,
        (look, objects): (Option<&Look>, &[crate::store::Entry]),
        result: &mut CaseResult,
    ) -> Result<(), StoreError> {
        let LogName::Case(case) = &self.log else { return Ok(()) };
        let slots = list_all(&*self.store, &format!("{}/seq", self.log.folder()), OBJECTS_MAX).await?;
        let (mut records, mut left) = (Records::default(), Left::default());
        for slot in slots.into_iter().filter(|slot| look.is_none_or(|look| !look.is_beside(&slot.name))) {
            let Some(bytes) = result.read(self.store.get(&slot.name, ENVELOPE_BYTES_MAX as u64).await)? else { continue };
            let Ok(envelope) = Envelope::parse(&bytes) else { continue };
            // What is no record the verifier has named above.
            let Ok(record) = Record::from_payload(envelope.unverified_payload()) else { continue };
            records.take(case, envelope.digest(), &record);
            let Record::Receipt(receipt) = record else { continue };
            let folder = layout::stream_folder(case, &receipt.collection, receipt.stream);
            // Gone as a whole: it was not left out above, so the verifier has named it, unless a disposal explains it.
            if self.store.list(&folder, None).await?.entries.is_empty() {
                continue;
            }
            self.sample_stream(case, (&receipt.collection, receipt.stream), &receipt.manifest, share, result).await?;
        }
        for object in objects {
            left.note(&records, object);
        }
        for finding in left.findings(None) {
            result.fail(finding);
        }
        Ok(())
    }

    async fn sample_stream(
        &self,
        case: &CaseId,
        (collection, stream): (&CollectionId, layout::StreamNumber),
        manifest: &ManifestRef,
        share: u32,
        result: &mut CaseResult,
    ) -> Result<(), StoreError> {
        let segments = match reindex::segments(&*self.store, case, collection, stream, manifest).await {
            Ok(found) => {
                for name in found.strangers.iter().filter(|name| layout::parse(name).is_some()) {
                    result.fail(format!("{collection} {stream}: '{}' is not in the manifest", escape_bounded(name, 200)));
                }
                found.segments
            }
            Err(reindex::Trouble::Damaged(why)) => {
                result.fail(format!("{collection} {stream}: {why}"));
                return Ok(());
            }
            Err(reindex::Trouble::Fatal(why)) => {
                return Err(StoreError::new(Kind::Retry, why, "run the same command again: it goes on where it ended"));
            }
        };
        self.pace.moved(manifest.size).await;
        result.bytes = result.bytes.saturating_add(manifest.size);
        for segment in segments {
            let name = layout::segment(case, collection, stream, segment.n);
            let drawn = Digest::of(format!("{}{name}", self.seed).as_bytes());
            let drawn = drawn.as_bytes().first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            if (u64::from(drawn) * 1_000_000) >> 32 >= u64::from(share) {
                continue;
            }
            let Some(bytes) = result.read(self.store.get(&name, SEGMENT_BYTES_MAX as u64).await)? else { continue };
            (result.segments, result.bytes) = (result.segments.saturating_add(1), result.bytes.saturating_add(bytes.len() as u64));
            if Digest::of(&bytes) != segment.sha256 {
                result.fail(format!("'{name}' is not what its manifest names"));
            }
            self.pace.moved(bytes.len() as u64).await;
        }
        Ok(())
    }
}
