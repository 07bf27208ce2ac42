//! `exhibit collect`: one signed order to many agents.

use std::collections::BTreeSet;

use exhibit_evidence::record::{Nonce, Order};
use exhibit_evidence::{AgentId, CaseId, Digest, OrderId};
use exhibit_proto::responder::v1 as pb;
use serde_json::json;

use crate::args::CollectArgs;
use crate::commands::opening::Opening;
use crate::commands::{agents, cases, watch};
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::units::{count, show_time};
use crate::{clock, order};

async fn targets(connection: &mut Connection, args: &CollectArgs) -> Result<Vec<AgentId>> {
    if !args.agents.is_empty() {
        return args.agents.iter().map(|a| parse_id(a)).collect();
    }
    let found = agents::list(connection, &args.labels).await?;
    let usable: Result<Vec<AgentId>> = found.iter().filter(|a| a.state != "revoked").map(|a| parse_id(&a.agent)).collect();
    match usable {
        Ok(list) if list.is_empty() => Err(Failure::new(Code::Input, "no agent matches").hint("exhibit agents")),
        other => other,
    }
}

/// Signs and submits the order, and follows it when asked.
pub async fn run(connection: &mut Connection, args: CollectArgs, out: &Output) -> Result<Code> {
    let case_id: CaseId = parse_id(&args.case)?;
    let captures = order::captures(&args)?;
    let limits = order::limits(&args)?;
    let targets = targets(connection, &args).await?;
    let opening = Opening::of(connection, &case_id).await?;
    out.note(&opening.told());
    let mut collections = Vec::new();
    for batch in order::batches(&targets) {
        let case = cases::get(connection, &case_id).await?;
        let now = clock::now();
        let random = clock::random_10().map_err(|e| Failure::new(Code::Failure, format!("cannot draw random bytes: {e}")))?;
        let root = Digest::try_from(case.log_root.as_slice())
            .map_err(|e| Failure::new(Code::Failure, format!("the coordinator's answer is unusable: {e}")))?;
        let record = Order {
            order: OrderId::new(now.unix_ms(), random),
            case: case_id.clone(),
            predecessor: opening.digest,
            targets: batch,
            profile: args.profile.clone(),
            captures: captures.clone(),
            limits: limits.clone(),
            legal_basis: args.legal_basis.clone().unwrap_or_else(|| opening.record.legal_basis.clone()),
            reason: args.reason.clone(),
            issued_by: connection.name(),
            issued_at: now,
            expires_at: now.plus_s(i64::try_from(args.expires).unwrap_or(i64::MAX)),
            nonce: Nonce { size: case.log_size, root },
        };
        let order = cases::sign(connection, &record)?;
        let sent = out.patiently(connection.rpc().submit_order(pb::SubmitOrderRequest { order })).await;
        let look = format!("exhibit collections --order {}", record.order);
        let accepted = sent.map_err(|status| Failure::from(status).unsure("the order was given", &look))?.into_inner();
        collections.extend(accepted.collections);
    }
    let orders: BTreeSet<String> = collections.iter().map(|c| c.order.clone()).collect();
    if out.is_json() {
        let rows: Vec<_> = collections.iter().map(watch::to_json).collect();
        let Opening { digest, record } = &opening;
        let head = json!({"case": case_id, "case_opened": digest, "encrypt_to": record.encrypt_to, "orders": orders, "collections": rows});
        out.object(&head)?;
    }
    let unapproved: BTreeSet<&str> = collections.iter().filter(|c| c.state == "unapproved").map(|c| c.order.as_str()).collect();
    for order in &unapproved {
        out.note(&format!(
            "waits for a second person; nothing reaches an agent before. An approver of the case: exhibit approve {order} --reason '...'"
        ));
    }
    if unapproved.is_empty() {
        say_who_is_offline(connection, &collections, args.expires, out).await?;
    }
    if args.watch {
        let what = match orders.first() {
            Some(order) if orders.len() == 1 => pb::ListCollectionsRequest { order: order.clone(), ..Default::default() },
            _ => pb::ListCollectionsRequest { collections: collections.into_iter().map(|c| c.collection).collect(), ..Default::default() },
        };
        return watch::follow(connection, what, out).await;
    }
    if !out.is_json() {
        watch::table(&collections, out)?;
        let follow: Vec<String> = orders.iter().map(|order| format!("exhibit watch --order {order}")).collect();
        out.note(&format!("follow with: {}", follow.join("; ")));
    }
    Ok(Code::Ok)
}

/// Names that fit into one line of a note.
const OFFLINE_SHOWN_MAX: usize = 10;

/// A collection of an agent that is not connected waits, for as long as the order lives: said before anybody waits with it.
async fn say_who_is_offline(connection: &mut Connection, collections: &[pb::Collection], expires_s: u64, out: &Output) -> Result<()> {
    if out.is_json() {
        return Ok(());
    }
    let known = agents::list(connection, &[]).await?;
    let offline: BTreeSet<&str> = known.iter().filter(|a| a.state == "offline").map(|a| a.agent.as_str()).collect();
    let waiting: Vec<String> =
        collections.iter().filter(|c| offline.contains(c.agent.as_str())).map(|c| watch::agent_name(c, true)).collect();
    if waiting.is_empty() {
        return Ok(());
    }
    let more = if waiting.len() > OFFLINE_SHOWN_MAX { ", ..." } else { "" };
    let shown: Vec<&str> = waiting.iter().take(OFFLINE_SHOWN_MAX).map(String::as_str).collect();
    let until = show_time(clock::now().plus_s(i64::try_from(expires_s).unwrap_or(i64::MAX)).unix_ns());
    let which = offline_words(waiting.len() as u64, collections.len() as u64);
    out.note(&format!("{which}, until {until} UTC: {}{more}", shown.join(", ")));
    Ok(())
}

fn offline_words(waiting: u64, all: u64) -> String {
    let (is, begin) = if waiting == 1 { ("is", "begins when its agent connects") } else { ("are", "begin when their agents connect") };
    format!("{waiting} of {} {is} offline and {begin}", count(all, "collection", "collections"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_offline_begins_and_several_begin() {
        assert_eq!(offline_words(1, 1), "1 of 1 collection is offline and begins when its agent connects");
        assert_eq!(offline_words(1, 3), "1 of 3 collections is offline and begins when its agent connects");
        assert_eq!(offline_words(2, 3), "2 of 3 collections are offline and begin when their agents connect");
    }
}
