//! Orders, collections and streams of one case.

use std::collections::BTreeMap;

use exhibit_evidence::Digest;
use exhibit_evidence::custody::{Fate, State as Custody};
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{self, StreamNumber};
use exhibit_evidence::manifest::Segment;
use exhibit_evidence::record::{ManifestRef, Order, Outcome, Receipt, Record, Refusal, Seal};
use exhibit_evidence::text::one_line;

use super::Report;
use super::rebuild::Trouble;
use super::stream::segments;
use crate::catalog::{
    ByStatus, Catalog, CollectionRow, Ending, OrderRow, SegmentCommit, State, StreamFinish, StreamRow, StreamState, Totals,
};
use crate::dispatch::admit::waiting;
use crate::store::Store;

/// What a case's log says, by collection.
#[derive(Default)]
pub struct CaseRecords {
    orders: Vec<(Digest, Vec<u8>, Order)>,
    refusals: BTreeMap<CollectionId, (Vec<u8>, Refusal)>,
    acquisitions: BTreeMap<(CollectionId, StreamNumber), Vec<u8>>,
    receipts: BTreeMap<(CollectionId, StreamNumber), (Digest, Receipt)>,
    seals: BTreeMap<CollectionId, (Vec<u8>, Seal)>,
}

impl CaseRecords {
    /// Sorts a record in. The first one in its place counts, as everywhere.
    pub fn take(&mut self, digest: Digest, bytes: Vec<u8>, record: Record) {
        match record {
            Record::Order(p) => self.orders.push((digest, bytes, *p)),
            Record::Refusal(p) => {
                self.refusals.entry(p.collection.clone()).or_insert((bytes, *p));
            }
            Record::Acquisition(p) => {
                self.acquisitions.entry((p.collection.clone(), p.stream)).or_insert(bytes);
            }
            Record::Receipt(p) => {
                self.receipts.entry((p.collection.clone(), p.stream)).or_insert((digest, *p));
            }
            Record::Seal(p) => {
                self.seals.entry(p.collection.clone()).or_insert((bytes, *p));
            }
            _ => {}
        }
    }

    /// Writes the rows: each order with its collections, then their streams.
    pub async fn write(
        self,
        store: &dyn Store,
        catalog: &dyn Catalog,
        (case, custody): (&CaseId, &Custody),
        report: &mut Report,
    ) -> Result<(), Trouble> {
        for (digest, envelope, order) in &self.orders {
            let mut rows = Vec::with_capacity(order.targets.len());
            for agent in &order.targets {
                let collection = CollectionId::of(digest, agent);
                let mut row = blank(case, order, *digest, agent.clone(), collection);
                self.describe(store, custody, &mut row).await?;
                report.unsealed += u64::from(!row.state.is_closed());
                rows.push(row);
            }
            let row = OrderRow {
                order: order.order.clone(),
                digest: *digest,
                envelope: envelope.clone(),
                case: case.clone(),
                issued_by: order.issued_by.clone(),
                profile: order.profile.clone(),
                expires_at: order.expires_at,
                admitted_at: order.issued_at,
            };
            report.collections += rows.len() as u64;
            catalog.add_order(row, rows).await?;
            report.orders += 1;
        }
        self.write_streams(store, catalog, (case, custody), report).await
    }

    /// Where the collection stands, by what the log and the store hold.
    async fn describe(&self, store: &dyn Store, custody: &Custody, row: &mut CollectionRow) -> Result<(), Trouble> {
        let received: Vec<&Receipt> = self.receipts.range(of(&row.collection)).map(|(_, (_, receipt))| receipt).collect();
        if let Some(last) = received.last() {
            row.stream = last.stream;
        }
        row.started_at = received.first().map(|r| r.received_from);
        let refusal = self.refusals.get(&row.collection);
        if let Some((bytes, seal)) = self.seals.get(&row.collection) {
            row.state = State::Closed(seal.outcome);
            row.reason.clone_from(&seal.reason);
            row.ended_at = Some(seal.sealed_at);
            row.totals = sum(received.iter().map(|r| &r.manifest));
            (row.exhibit_first, row.exhibit_count) = (seal.exhibit_first, seal.exhibit_count);
            row.seal = Some(bytes.clone());
        } else if let Some((bytes, refusal)) = refusal {
            let reason = Some(one_line(&format!("{}: {}", refusal.code, refusal.message), 1_000));
            row.state = State::Sealing;
            row.ending = Some(Ending { outcome: Outcome::Refused, reason, refusal: Some(bytes.clone()) });
        } else if !received.is_empty() {
            // A receipt is written only while the collection's end is: it is written again. Whether it is `sealed` or
            // `partial` follows from the streams.
            let reason = Some("the catalog was made again before the collection was sealed".to_owned());
            row.state = State::Sealing;
            row.ending = Some(Ending { outcome: Outcome::Partial, reason, refusal: None });
        } else if custody.awaits_approval(&row.order_digest) {
            let (state, reason) = waiting(&row.order, true);
            (row.state, row.reason) = (state, Some(reason));
        } else {
            let folder = format!("{}/collections/{}", layout::case_folder(&row.case), row.collection);
            let numbers = store.folders(&folder).await?;
            let used = numbers.iter().filter_map(|n| n.strip_prefix('s')?.parse::<u32>().ok()).max().unwrap_or(0);
            row.stream = StreamNumber(used.saturating_add(1));
            row.reason = Some("waits for the agent to connect; the catalog was made again".to_owned());
        }
        Ok(())
    }

    async fn write_streams(
        &self,
        store: &dyn Store,
        catalog: &dyn Catalog,
        (case, custody): (&CaseId, &Custody),
        report: &mut Report,
    ) -> Result<(), Trouble> {
        for ((collection, stream), (digest, receipt)) in &self.receipts {
            // What was destroyed, or is being destroyed, has no streams any more; its log says what there was.
            if custody.fate(collection) != Fate::Kept {
                continue;
            }
            if catalog.collection(collection.clone()).await?.is_none() {
                report.problem(format!("{collection}: there is a receipt and no order that makes this collection"));
                continue;
            }
            let acquisition = self.acquisitions.get(&(collection.clone(), *stream)).cloned().filter(|_| receipt.agent_signed);
            match segments(store, case, collection, *stream, &receipt.manifest).await {
                Ok(found) => {
                    report.segments += found.segments.len() as u64;
                    report.strangers(&found.strangers);
                    write_stream(catalog, receipt, *digest, acquisition, found.segments).await?;
                    report.streams += 1;
                }
                Err(Trouble::Damaged(what)) => report.problem(format!("{collection} {stream}: {what}")),
                Err(fatal) => return Err(fatal),
            }
        }
        self.strange_streams(store, (case, custody), report).await
    }

    /// Names the streams of sealed collections that have no receipt: whatever was received was sealed with one.
    async fn strange_streams(&self, store: &dyn Store, (case, custody): (&CaseId, &Custody), report: &mut Report) -> Result<(), Trouble> {
        for collection in self.seals.keys().filter(|collection| custody.fate(collection) == Fate::Kept) {
            let folder = format!("{}/collections/{collection}", layout::case_folder(case));
            let mut strangers = store.folders(&folder).await?;
            strangers.retain(|name| !self.receipts.range(of(collection)).any(|((_, stream), _)| stream.to_string() == *name));
            for name in &mut strangers {
                *name = format!("{folder}/{name}/");
            }
            report.strangers(&strangers);
        }
        Ok(())
    }
}

fn of(collection: &CollectionId) -> std::ops::RangeInclusive<(CollectionId, StreamNumber)> {
    (collection.clone(), StreamNumber(0))..=(collection.clone(), StreamNumber(u32::MAX))
}

fn blank(case: &CaseId, order: &Order, digest: Digest, agent: exhibit_evidence::AgentId, collection: CollectionId) -> CollectionRow {
    CollectionRow {
        collection,
        order: order.order.clone(),
        order_digest: digest,
        case: case.clone(),
        agent,
        profile: order.profile.clone(),
        state: State::Queued,
        reason: None,
        ending: None,
        cancel: None,
        stream: StreamNumber(1),
        queued_at: order.issued_at,
        started_at: None,
        ended_at: None,
        expires_at: order.expires_at,
        give_up_at: None,
        totals: Totals::default(),
        exhibit_first: 0,
        exhibit_count: 0,
        seal: None,
    }
}

fn sum<'a>(manifests: impl Iterator<Item = &'a ManifestRef>) -> Totals {
    let mut totals = Totals { by_status: ByStatus::new(), ..Totals::default() };
    for manifest in manifests {
        totals.items = totals.items.saturating_add(manifest.items);
        totals.raw_bytes = totals.raw_bytes.saturating_add(manifest.raw_bytes);
        totals.stored_bytes = totals.stored_bytes.saturating_add(manifest.stored_bytes);
        for (status, count) in &manifest.by_status {
            let sum = totals.by_status.entry(*status).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
    totals
}

/// The same steps that an upload takes, so that the rows cannot differ from those of one.
async fn write_stream(
    catalog: &dyn Catalog,
    receipt: &Receipt,
    digest: Digest,
    acquisition: Option<Vec<u8>>,
    segments: Vec<Segment>,
) -> Result<(), Trouble> {
    let (collection, stream) = (receipt.collection.clone(), receipt.stream);
    let row = StreamRow {
        collection: collection.clone(),
        stream,
        state: StreamState::Open,
        next_segment: 0,
        snapshot: Vec::new(),
        bookmark: Vec::new(),
        totals: Totals::default(),
        received_from: receipt.received_from,
        received_to: receipt.received_to,
        manifest: None,
        acquisition: None,
        receipt: None,
    };
    catalog.open_stream(row).await?;
    let totals = sum(std::iter::once(&receipt.manifest));
    for segment in segments {
        let commit = SegmentCommit {
            collection: collection.clone(),
            stream,
            segment,
            manifest_parts: Vec::new(),
            snapshot: Vec::new(),
            bookmark: Vec::new(),
            totals: totals.clone(),
            at: receipt.received_to,
        };
        catalog.commit_segment(commit).await?;
    }
    let finish = StreamFinish {
        collection: collection.clone(),
        stream,
        manifest_parts: Vec::new(),
        manifest: receipt.manifest.clone(),
        acquisition,
        at: receipt.received_to,
    };
    catalog.finish_stream(finish).await?;
    catalog.receive_stream(collection, stream, digest).await?;
    Ok(())
}
