//! `exhibit approve`: a second person looks at an order and agrees to it.

use std::collections::BTreeSet;

use exhibit_evidence::custody::State;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{Approval, Order, Record, Verified};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{CaseId, Digest, OrderId};
use exhibit_proto::responder::v1 as pb;
use serde_json::{Value, json};

use super::opening::Opening;
use super::{asker, cases, entitled, keeping, log, watch};
use crate::args::ApproveArgs;
use crate::clock;
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;

/// An order that is in the verified log of its case, and how custody stands there.
struct Found {
    case: CaseId,
    digest: Digest,
    order: Order,
    /// The key that signed it.
    key: KeyId,
    /// How its case was opened.
    opening: Opening,
    state: State,
    /// What its agents call their hosts, as the coordinator tells it; the agents' ids are what is signed.
    hosts: BTreeSet<String>,
}

async fn find(connection: &mut Connection, id: &OrderId) -> Result<Found> {
    let what = pb::ListCollectionsRequest { order: id.to_string(), ..Default::default() };
    let listed = watch::listed(connection, &what).await?;
    let unknown = || Failure::new(Code::Input, format!("there is no order {id} in a case of yours")).hint("exhibit collections");
    let hosts = listed.iter().map(|c| c.hostname.clone()).filter(|name| !name.is_empty()).collect();
    let case: CaseId = parse_id(&listed.first().ok_or_else(unknown)?.case_id)?;
    let (mut found, mut state, mut opening) = (None, State::default(), None);
    let mut each = |_: u64, verified: &Verified, _: &Envelope| -> Result<()> {
        Opening::look(&mut opening, &case, verified)?;
        // A record that breaks a rule has no effect, as everywhere.
        let _ = state.take(verified.digest(), verified.record());
        if let Record::Order(order) = verified.record()
            && order.order == *id
        {
            found.get_or_insert((verified.digest(), (**order).clone(), verified.keyid()));
        }
        Ok(())
    };
    log::read_all(connection, &LogName::Case(case.clone()), &mut each).await?;
    let (digest, order, key) = found.ok_or_else(|| Failure::new(Code::Damaged, format!("the log of {case} has no order {id}")))?;
    let follows = |opening: &Opening| opening.digest == order.predecessor;
    let opening = opening.filter(follows).ok_or_else(|| {
        let message = format!("{id} follows from another record than the one that opened {case}: its agents would go by that one");
        Failure::new(Code::Damaged, message).hint("do not approve it; whoever gave it orders anew: exhibit collect")
    })?;
    Ok(Found { case, digest, order, key, opening, state, hosts })
}

/// What an order asks for, from its signed record and whole: nobody agrees to what was cut off. It is escaped where it is shown.
fn to_json(found: &Found) -> Value {
    let o = &found.order;
    let captures: Vec<String> = o
        .captures
        .iter()
        .map(|c| {
            let params: Vec<String> = c.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
            if params.is_empty() { c.name.clone() } else { format!("{}:{}", c.name, params.join(",")) }
        })
        .collect();
    json!({
        "order": o.order.to_string(), "case": o.case.to_string(), "record": found.digest.to_string(),
        "ordered_by": o.issued_by, "ordered_at": o.issued_at, "expires_at": o.expires_at,
        "reason": o.reason, "legal_basis": o.legal_basis, "profile": o.profile, "captures": captures, "limits": o.limits,
        "case_opened_by": found.opening.record.opened_by, "encrypt_to": found.opening.record.encrypt_to,
        "agents": o.targets.iter().map(ToString::to_string).collect::<Vec<_>>(), "hosts": found.hosts,
    })
}

/// Shows an order, and approves it when a reason is given.
pub async fn run(connection: &mut Connection, args: ApproveArgs, out: &Output) -> Result<Code> {
    let id: OrderId = parse_id(&args.order)?;
    let found = find(connection, &id).await?;
    let waits = found.state.awaits_approval(&found.digest);
    let gone = if waits { asker::revoked(connection, found.key, out).await? } else { None };
    let by = escape_bounded(&found.order.issued_by, 200);
    let gone = gone.map(|when| format!("the key with which {by} gave {id} was {when}: nobody can approve it"));
    let others = waits && found.order.issued_by != connection.name();
    let lacking = if others { entitled::lacking(connection, ("approve it", "approver"), &found.case) } else { None };
    if args.reason.is_none() || !out.is_json() {
        let mut value = to_json(&found);
        if let Some(why) = gone.as_ref().or(lacking.as_ref().map(|failure| &failure.message)) {
            value["cannot_approve"] = json!(why);
        }
        cases::show(&value, out)?;
        out.note(&found.opening.told());
    }
    if !waits {
        let why = if found.state.two_person() { "is approved already" } else { "needs no approval: its case was opened for one person" };
        if args.reason.is_some() {
            return Err(Failure::new(Code::Input, format!("{id} {why}")).hint(format!("exhibit case custody {}", found.case)));
        }
        out.note(&format!("{id} {why}"));
        return Ok(Code::Ok);
    }
    if found.order.expires_at <= clock::now() {
        let message = format!("{id} expired at {}: nobody can approve it any more", found.order.expires_at);
        return Err(Failure::new(Code::Input, message).hint("its responder gives a new order: exhibit collect"));
    }
    if found.state.orders_to_approve(clock::now()).iter().all(|(record, _)| *record != found.digest) {
        let message = format!("{id} is at its end, cancelled or with its case closed: nobody can approve it any more");
        return Err(Failure::new(Code::Input, message).hint(format!("exhibit collections --order {id}")));
    }
    let gone = gone.map(|message| {
        let hint = format!("exhibit cancel --order {id} --reason '...'; a responder gives a new order: exhibit collect");
        Failure::new(Code::NotPermitted, message).hint(hint)
    });
    if let Some(failure) = gone.or(lacking) {
        if args.reason.is_some() {
            return Err(failure);
        }
        entitled::note_obstacle(&failure, out);
        return Ok(Code::Ok);
    }
    let Some(reason) = args.reason else {
        if found.order.issued_by == connection.name() {
            out.note("nothing is signed. You gave it yourself: another approver of the case agrees to it");
        } else {
            out.note(&format!("nothing is signed yet. If you agree: exhibit approve {id} --reason '...'"));
        }
        return Ok(Code::Ok);
    };
    if found.order.issued_by == connection.name() {
        return Err(Failure::new(Code::NotPermitted, format!("you gave {id} yourself: somebody else approves it"))
            .hint("an approver of the case; an admin gives the role: exhibit person allow NAME --role approver --case CASE"));
    }
    let (case, predecessor) = (found.case.clone(), found.digest);
    let approval = Approval { case, predecessor, reason, approved_by: connection.name(), approved_at: clock::now() };
    keeping::submit(connection, ("approval", "the order was approved", &found.case), &approval, out).await?;
    out.note(&format!("approved: it goes to its agents now; follow with: exhibit watch --order {id}"));
    Ok(Code::Ok)
}
