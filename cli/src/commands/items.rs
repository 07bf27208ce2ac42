//! `exhibit items`.

use base64::Engine as _;
use exhibit_evidence::manifest::{Item, Line};
use exhibit_evidence::profile::Profile;
use exhibit_evidence::text::{escape_bounded, one_line};
use exhibit_evidence::{CaseId, CollectionId};
use exhibit_proto::responder::v1 as pb;
use serde_json::{Value, json};

use super::get::kind_name;
use super::watch;
use crate::args::{ItemsArgs, SelectArgs};
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::units::{count, show_bytes};

/// The manifest line of an item that the coordinator sent.
pub fn parse(item: &pb::Item) -> Result<Item> {
    match Line::parse(&item.manifest_line) {
        Ok(Line::Item(parsed)) => Ok(*parsed),
        Ok(_) => Err(Failure::new(Code::Damaged, format!("item {}: its manifest line is not an item's", escape_bounded(&item.item, 80)))),
        Err(e) => Err(Failure::new(Code::Damaged, format!("item {}: {e}", escape_bounded(&item.item, 80)))),
    }
}

/// An item as JSON: the facts most asked for first, then the whole manifest line.
fn to_json(item: &pb::Item, parsed: &Item) -> Value {
    let path = parsed.path.as_bytes();
    let mut value = json!({
        "id": item.item, "collection": item.item.split('.').next(), "exhibit": (item.exhibit > 0).then_some(item.exhibit),
        "capture": parsed.capture, "path": std::str::from_utf8(path).map_or_else(|_| parsed.path.to_string(), str::to_owned),
        "kind": parsed.kind, "status": parsed.status, "size": parsed.size, "sha256": parsed.sha256, "reason": parsed.reason,
        "target": parsed.target, "gaps": parsed.gaps, "taken": parsed.taken, "method": parsed.method, "meta": parsed.meta, "facts": parsed.facts,
    });
    if std::str::from_utf8(path).is_err() {
        value["path_b64"] = json!(base64::engine::general_purpose::STANDARD.encode(path));
    }
    value
}

/// Asks for items; the access is recorded before the first one arrives.
pub async fn list(connection: &mut Connection, select: &SelectArgs, reason: &str) -> Result<tonic::Streaming<pb::Item>> {
    let collections = select.collections.iter().map(|c| parse_id::<CollectionId>(c).map(|c| c.to_string())).collect::<Result<_>>()?;
    let case_id = select.case.as_deref().map(parse_id::<CaseId>).transpose()?.map(|c| c.to_string()).unwrap_or_default();
    let request = pb::ListItemsRequest {
        collections,
        case_id,
        path_globs: select.paths.clone(),
        captures: select.captures.clone(),
        statuses: select.statuses.clone(),
        reason: reason.to_owned(),
    };
    Ok(connection.rpc().list_items(request).await?.into_inner())
}

/// Lists items.
pub async fn run(connection: &mut Connection, args: ItemsArgs, out: &Output) -> Result<Code> {
    let mut stream = list(connection, &args.select, &args.reason).await?;
    let mut found = 0_u64;
    while let Some(item) = stream.message().await? {
        let parsed = parse(&item)?;
        if out.is_json() {
            out.object(&to_json(&item, &parsed))?;
        } else {
            if found == 0 {
                out.line(&row("ITEM", "CAPTURE", "KIND", "STATUS", "SIZE", "SHA-256 BEGINS", "PATH"))?;
            }
            out.line(&shown(&item, &parsed))?;
        }
        found += 1;
    }
    // Asked before anything is counted: of a case that is refused nothing is said but the refusal.
    let gone = match &args.select.case {
        Some(case) => destroyed(connection, case, out).await?,
        None => Vec::new(),
    };
    let known = |name: &String| Profile::built_in().iter().any(|p| p.captures.iter().any(|c| c.name == *name));
    if found == 0
        && let Some(unknown) = args.select.captures.iter().find(|name| !known(name))
    {
        out.note(&format!("no item is of a capture '{}'; 'exhibit profiles' lists the usual ones", escape_bounded(unknown, 40)));
    }
    out.note(&count(found, "item", "items"));
    for note in &gone {
        out.note(note);
    }
    Ok(Code::Ok)
}

/// What is to be said of collections that were destroyed, which have no items any more: nobody is to think that there were none.
async fn destroyed(connection: &mut Connection, case: &str, out: &Output) -> Result<Vec<String>> {
    if out.is_json() {
        return Ok(Vec::new());
    }
    let what = pb::ListCollectionsRequest { case_id: case.to_owned(), ..Default::default() };
    let listed = watch::listed(connection, &what).await?;
    let gone = listed.iter().filter(|c| c.disposed.is_some());
    Ok(gone.map(|c| format!("not listed: {} is {}: {}", c.collection, c.state, one_line(&c.reason, 600))).collect())
}

fn row(item: &str, capture: &str, kind: &str, status: &str, size: &str, sha256: &str, path: &str) -> String {
    format!("{item:<40} {capture:<9} {kind:<12} {status:<19} {size:>10} {sha256:<16} {path}")
}

fn shown(item: &pb::Item, parsed: &Item) -> String {
    let digest = parsed.sha256.map_or_else(|| "-".to_owned(), |d| d.to_string().chars().take(16).collect());
    let target = parsed.target.as_ref().map(|t| format!(" -> {t}")).unwrap_or_default();
    let why = parsed.reason.as_deref().map(|r| format!("  ({})", escape_bounded(r, 120))).unwrap_or_default();
    row(
        &item.item,
        &escape_bounded(&parsed.capture, 20),
        &kind_name(parsed.kind),
        parsed.status.as_str(),
        &show_bytes(parsed.size),
        &digest,
        &format!("{}{target}{why}", parsed.path),
    )
}
