//! `exhibit collect`: one signed order to many agents.

use exhibit_evidence::record::{Nonce, Order};
use exhibit_evidence::{AgentId, CaseId, Digest, OrderId};
use exhibit_proto::responder::v1 as pb;
use serde_json::json;

use crate::args::CollectArgs;
use crate::commands::{agents, cases, watch};
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
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
            predecessor: cases::opened_digest(&case)?,
            targets: batch,
            profile: args.profile.clone(),
            captures: captures.clone(),
            limits: limits.clone(),
            reason: args.reason.clone(),
            issued_by: connection.name(),
            issued_at: now,
            expires_at: now.plus_s(i64::try_from(args.expires).unwrap_or(i64::MAX)),
            nonce: Nonce { size: case.log_size, root },
        };
        let order = cases::sign(connection, &record)?;
        let accepted = connection.rpc().submit_order(pb::SubmitOrderRequest { order }).await?.into_inner();
        collections.extend(accepted.collections);
    }
    if args.watch {
        let ids = collections.into_iter().map(|c| c.collection).collect();
        return watch::follow(connection, pb::ListCollectionsRequest { collections: ids, ..Default::default() }, out).await;
    }
    let rows: Vec<_> = collections.iter().map(watch::to_json).collect();
    if out.is_json() {
        let orders: std::collections::BTreeSet<&str> = collections.iter().map(|c| c.order.as_str()).collect();
        out.object(&json!({"case": case_id, "orders": orders, "collections": rows}))?;
    } else {
        out.rows(&watch::COLUMNS, &rows)?;
        out.note(&format!("follow with: exhibit watch --case {case_id}"));
    }
    Ok(Code::Ok)
}
