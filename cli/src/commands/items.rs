//! `exhibit items`.

use base64::Engine as _;
use exhibit_evidence::manifest::{Item, Line, Status};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{CaseId, CollectionId};
use exhibit_proto::responder::v1 as pb;
use serde_json::{Value, json};

use crate::args::ItemsArgs;
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::units::show_bytes;

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
pub async fn run(connection: &mut Connection, args: ItemsArgs, out: &Output) -> Result<Code> {
    let collections = args.collections.iter().map(|c| parse_id::<CollectionId>(c).map(|c| c.to_string())).collect::<Result<_>>()?;
    let case_id = args.case.as_deref().map(parse_id::<CaseId>).transpose()?.map(|c| c.to_string()).unwrap_or_default();
    if let Some(bad) = args.statuses.iter().find(|s| Status::ALL.iter().all(|known| known.as_str() != s.as_str())) {
        let known: Vec<&str> = Status::ALL.iter().map(|s| s.as_str()).collect();
        return Err(Failure::new(Code::Usage, format!("--status '{}' is not one of: {}", escape_bounded(bad, 40), known.join(", "))));
    }
    let request = pb::ListItemsRequest {
        collections,
        case_id,
        path_glob: args.path.unwrap_or_default(),
        captures: args.captures,
        statuses: args.statuses,
        reason: args.reason,
    };
    let mut stream = connection.rpc().list_items(request).await?.into_inner();
    let mut count = 0_u64;
    while let Some(item) = stream.message().await? {
        let parsed = parse(&item)?;
        if out.is_json() {
            out.object(&to_json(&item, &parsed))?;
        } else {
            if count == 0 {
                out.line(&format!("{:<40} {:<9} {:<19} {:>10} {:<16} PATH", "ITEM", "CAPTURE", "STATUS", "SIZE", "SHA-256"))?;
            }
            let digest = parsed.sha256.map_or_else(|| "-".to_owned(), |d| d.to_string().chars().take(16).collect());
            let why = parsed.reason.as_deref().map(|r| format!("  ({})", escape_bounded(r, 120))).unwrap_or_default();
            out.line(&format!(
                "{:<40} {:<9} {:<19} {:>10} {digest:<16} {}{why}",
                item.item,
                escape_bounded(&parsed.capture, 20),
                parsed.status.as_str(),
                show_bytes(parsed.size),
                parsed.path
            ))?;
        }
        count += 1;
    }
    out.note(&format!("{count} items"));
    Ok(Code::Ok)
}
