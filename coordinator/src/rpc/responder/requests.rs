//! Requests of people, checked.

use std::collections::BTreeMap;

use exhibit_evidence::Digest;
use exhibit_evidence::manifest::ItemId;
use exhibit_evidence::record::Action;
use exhibit_evidence::text::escape_bounded;
use exhibit_proto::bounds::{IDS_MAX, LABEL_BYTES_MAX, LABELS_MAX, READ_ITEMS_MAX, REASON_BYTES_MAX};
use exhibit_proto::convert::{BadField, bounded, id, required_text};
use exhibit_proto::responder::v1 as wire;

use crate::catalog::{CollectionFilter, CollectionRow, Labels};
use crate::dispatch::admit;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::read::ExportRequest;

/// Labels: at most 32, of a small alphabet.
pub(super) fn labels(labels: BTreeMap<String, String>) -> Result<Labels, BadField> {
    bounded("labels", labels.len(), LABELS_MAX)?;
    let fits = |text: &str| {
        !text.is_empty() && text.len() <= LABEL_BYTES_MAX && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b))
    };
    for (key, value) in &labels {
        if !fits(key) || !fits(value) {
            let shown = escape_bounded(&format!("{key}={value}"), 140);
            let problem = format!("'{shown}': keys and values are 1 to {LABEL_BYTES_MAX} characters of A-Z a-z 0-9 . _ / -");
            return Err(BadField { field: "labels", problem });
        }
    }
    Ok(labels.into_iter().collect())
}

fn ids<T: std::str::FromStr>(field: &'static str, texts: &[String]) -> Result<Vec<T>, BadField>
where
    T::Err: std::fmt::Display,
{
    bounded(field, texts.len(), IDS_MAX)?;
    texts.iter().map(|text| id(field, text)).collect()
}

/// What to list or watch.
pub(super) fn collection_filter(request: wire::ListCollectionsRequest) -> Result<CollectionFilter, BadField> {
    Ok(CollectionFilter {
        case: if request.case_id.is_empty() { None } else { Some(id("case_id", &request.case_id)?) },
        order: if request.order.is_empty() { None } else { Some(id("order", &request.order)?) },
        only: ids("collections", &request.collections)?,
        ..CollectionFilter::default()
    })
}

/// Collections by id, or all of an order or of a case (`field` says which): one of the two, not both.
pub(super) fn some_collections(field: &'static str, all_of: &str, only: Vec<String>) -> Result<CollectionFilter, BadField> {
    if all_of.is_empty() == only.is_empty() {
        return Err(BadField { field, problem: "give either collections or this, and not both".to_owned() });
    }
    let mut filter = CollectionFilter { only: ids("collections", &only)?, ..CollectionFilter::default() };
    match (all_of.is_empty(), field) {
        (true, _) => {}
        (false, "order") => filter.order = Some(id(field, all_of)?),
        (false, _) => filter.case = Some(id(field, all_of)?),
    }
    Ok(filter)
}

/// The collections of a filter; naming one that is not there is an error.
pub(super) async fn found(parts: &Parts, filter: CollectionFilter) -> Result<Vec<CollectionRow>> {
    if let Some(case) = &filter.case {
        admit::require_case(parts, case).await?;
    }
    let only = filter.only.clone();
    let order = filter.order.clone();
    let rows = admit::select(parts, filter).await?;
    if let Some(missing) = only.iter().find(|id| rows.iter().all(|row| row.collection != **id)) {
        return Err(Problem::new(Kind::NotFound, format!("collections: there is no collection {missing}")));
    }
    match order {
        Some(order) if rows.is_empty() => Err(Problem::new(Kind::NotFound, format!("order: there is no order {order}"))),
        _ => Ok(rows),
    }
}

/// What items are read for: everything but listing.
pub(super) fn reading(text: &str) -> Result<Action, BadField> {
    match text.parse() {
        Ok(Action::List) => Err(BadField { field: "action", problem: "'list': reading is view, download, export or verify".to_owned() }),
        Ok(action) => Ok(action),
        Err(problem) => Err(BadField { field: "action", problem }),
    }
}

/// Item ids, 1 to 10,000.
pub(super) fn item_ids(texts: &[String]) -> Result<Vec<ItemId>, BadField> {
    if texts.is_empty() {
        return Err(BadField { field: "items", problem: "name at least one item".to_owned() });
    }
    bounded("items", texts.len(), READ_ITEMS_MAX)?;
    texts.iter().map(|text| text.parse().map_err(|problem| BadField { field: "items", problem })).collect()
}

/// What to give for a handoff.
pub(super) fn export(request: wire::ExportCaseRequest) -> Result<ExportRequest, BadField> {
    let key = Digest::try_from(request.key.as_slice());
    Ok(ExportRequest {
        case: id("case_id", &request.case_id)?,
        collections: ids("collections", &request.collections)?,
        key: key.map_err(|_| BadField { field: "key", problem: "expected the 32 bytes of a key's id".to_owned() })?,
        after: request.after,
        reason: required_text("reason", &request.reason, REASON_BYTES_MAX)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_choices_are_checked() {
        let one = |k: &str, v: &str| labels(BTreeMap::from([(k.to_owned(), v.to_owned())]));
        assert!(one("role", "web/eu-1").is_ok());
        for (k, v) in [("", "x"), ("x", ""), ("x", "a b"), ("ż", "x")] {
            assert!(one(k, v).is_err(), "{k}={v}");
        }
        assert!(labels((0..33).map(|i| (format!("k{i}"), "v".to_owned())).collect()).is_err());
        assert!(some_collections("order", "", vec![]).is_err());
        assert!(some_collections("order", "ord-01hf7yat00zzzzzzzzzzzzzzzz", vec!["col-01hf7yat00zzzzzzzzzzzzzzzz".to_owned()]).is_err());
        assert!(reading("view").is_ok() && ["", "list", "View", "read"].iter().all(|text| reading(text).is_err()));
        assert!(item_ids(&[]).is_err());
        assert!(item_ids(&["col-01hf7yat00zzzzzzzzzzzzzzzz.s1.3".to_owned()]).is_ok());
    }
}
