//! `exhibit dispose`: the end of evidence. A custodian asks; a second person sees what is asked for, whole, and agrees. Nothing can
//! be taken back afterwards, so nothing is signed that was not shown and confirmed.

use std::collections::BTreeMap;

use exhibit_evidence::custody::{Fate, History, State};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{Approval, Disposal, Record, SealedCollection, Verified};
use exhibit_evidence::text::{escape_bounded, one_line};
use exhibit_evidence::{CaseId, CollectionId, Digest};
use exhibit_proto::responder::v1 as pb;
use serde_json::{Value, json};

use super::cases::show;
use super::confirm::confirmed;
use super::keeping::{UNFINISHED_CHARS_MAX, certificate_of, history_to_sign, opened, submit};
use super::{asker, entitled, log};
use crate::args::keeping::{ApproveDisposalArgs, DisposeCommand};
use crate::clock;
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::units::{count, show_bytes};

/// What a person types to agree.
const CONFIRMATION: &str = "destroy";

/// Runs a disposal command.
pub async fn run(connection: &mut Connection, command: DisposeCommand, out: &Output) -> Result<Code> {
    match command {
        DisposeCommand::Request { case, collections, all, reason } => {
            request(connection, &parse_id(&case)?, (&collections, all), reason, out).await?;
        }
        DisposeCommand::Approve(args) => return approve(connection, args, out).await,
    }
    Ok(Code::Ok)
}

/// Collections that are named in a text.
const NAMED_MAX: usize = 5;

/// What is said of collections of which nothing was ever received.
fn nothing_of(ids: &[&str]) -> String {
    let more = ids.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("nothing was received of {}{more}: nothing to destroy", ids.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", "))
}

/// Leaves out sealed collections of which nothing was ever received, such as those of an order that was cancelled before a host saw it:
/// no certificate is to say that they were destroyed.
fn without_empty(case: &CaseId, state: &State, wanted: Vec<CollectionId>, out: &Output) -> Result<Vec<CollectionId>> {
    let is_empty = |id: &CollectionId| state.seal_of(id).is_some() && !state.received(id);
    let (empty, left): (Vec<CollectionId>, Vec<CollectionId>) = wanted.into_iter().partition(is_empty);
    if empty.is_empty() {
        return Ok(left);
    }
    let message = nothing_of(&empty.iter().map(CollectionId::as_str).collect::<Vec<_>>());
    if left.is_empty() {
        return Err(Failure::new(Code::Input, message).hint(format!("exhibit collections --case {case}")));
    }
    out.note(&format!("left out: {message}"));
    Ok(left)
}

async fn request(connection: &mut Connection, case: &CaseId, (named, all): (&[String], bool), reason: String, out: &Output) -> Result<()> {
    let history = history_to_sign(connection, case, ("ask for a disposal", "custodian")).await?;
    let state = history.state();
    let mut wanted: Vec<CollectionId> = if all { state.disposable() } else { named.iter().map(|c| parse_id(c)).collect::<Result<_>>()? };
    wanted.sort_unstable();
    wanted.dedup();
    let wanted = without_empty(case, state, wanted, out)?;
    if wanted.is_empty() || wanted.len() > Disposal::SEALS_MAX {
        let message = format!("{} collections can be disposed of here: 1 to {} are possible at once", wanted.len(), Disposal::SEALS_MAX);
        return Err(Failure::new(Code::Input, message)
            .hint(format!("name them with --collection; those that are sealed: exhibit collections --case {case}")));
    }
    // Said here, before anything is signed; the coordinator decides again when it is approved.
    let held: Vec<&str> = wanted.iter().filter(|c| state.is_held(c)).map(CollectionId::as_str).collect();
    if !held.is_empty() {
        return Err(Failure::new(Code::NotPermitted, format!("under a hold: {}", held.join(", ")))
            .hint(format!("exhibit case custody {case} shows the holds")));
    }
    if let Some(until) = state.retained_until().filter(|until| clock::now() < *until) {
        return Err(Failure::new(Code::NotPermitted, format!("the case is to be kept until {until}"))
            .hint(format!("ask again then; who set it, and why: exhibit case custody {case}")));
    }
    let sealed = |collection: CollectionId| match state.seal_of(&collection) {
        Some(seal) => Ok(SealedCollection { collection, seal }),
        None => Err(Failure::new(Code::Input, format!("{collection} is not sealed, or not of this case"))
            .hint(format!("exhibit collections --case {case}"))),
    };
    let record = Disposal {
        case: case.clone(),
        predecessor: opened(&history)?,
        seals: wanted.into_iter().map(sealed).collect::<Result<_>>()?,
        reason,
        requested_by: connection.name(),
        requested_at: clock::now(),
    };
    let done = submit(connection, ("disposal", "the request was recorded", case), &record, out).await?;
    out.note(&format!("nothing is destroyed yet. Somebody else, as approver: exhibit dispose approve {case} --disposal {}", done.1));
    Ok(())
}

/// A request that stands in the verified log of its case, and how custody stands there.
struct Asked {
    history: History,
    record: Box<Disposal>,
    /// The key that signed it.
    key: KeyId,
    /// Items by collection, as the receipts count them.
    items: BTreeMap<CollectionId, u64>,
}

async fn find(connection: &mut Connection, case: &CaseId, disposal: &Digest) -> Result<Asked> {
    let (mut history, mut record, mut items) = (History::default(), None, BTreeMap::new());
    let mut each = |n: u64, verified: &Verified, _: &Envelope| -> Result<()> {
        history.add(n, verified);
        match verified.record() {
            Record::Receipt(p) => {
                let known: &mut u64 = items.entry(p.collection.clone()).or_default();
                *known = known.saturating_add(p.manifest.items);
            }
            Record::Disposal(p) if verified.digest() == *disposal => record = Some((p.clone(), verified.keyid())),
            _ => {}
        }
        Ok(())
    };
    log::read_all(connection, &LogName::Case(case.clone()), &mut each).await?;
    match record {
        Some((record, key)) if history.state().asked().contains(disposal) => Ok(Asked { history, record, key, items }),
        Some(_) if history.state().unfinished().iter().any(|due| due.disposal == *disposal) => {
            let message = format!("--disposal: {disposal} was approved already, and the destruction is not finished: it goes on by itself");
            Err(Failure::new(Code::Input, message).hint(format!("exhibit case custody {case} names who approved")))
        }
        _ => Err(Failure::new(Code::Input, format!("--disposal: {disposal} is no request of {case} that waits for an approval"))
            .hint(format!("exhibit case custody {case}"))),
    }
}

/// What would be destroyed, a row for each collection: nobody agrees to what was not shown.
fn rows(asked: &Asked, disposal: &Digest) -> Vec<Value> {
    let state = asked.history.state();
    let each = state.asked_for(disposal).unwrap_or_default().into_iter().map(|c| {
        json!({
            "collection": c.collection.as_str(), "host": asked.history.host(&c.collection), "on_hold": state.is_held(&c.collection),
            "items": asked.items.get(&c.collection).copied().unwrap_or_default(), "objects": c.objects, "bytes": c.bytes,
        })
    });
    each.collect()
}

fn sum(rows: &[Value], key: &str) -> u64 {
    rows.iter().filter_map(|row| row[key].as_u64()).fold(0, u64::saturating_add)
}

/// Shows the case, what would be destroyed, what protects it, who asked and why, and what stands in the way of an approval.
fn shown(asked: &Asked, disposal: &Digest, rows: &[Value], blocked: Option<&Failure>, out: &Output) -> Result<()> {
    let (p, state) = (&asked.record, asked.history.state());
    let case = asked.history.case();
    let mut value = json!({
        "case": p.case.to_string(), "title": case.map(|c| c.title.as_str()), "legal_basis": case.map(|c| c.legal_basis.as_str()),
        "disposal": disposal.to_string(), "asked_by": p.requested_by, "asked_at": p.requested_at, "reason": p.reason,
        "custodian": state.custodian(), "retained_until": state.retained_until(), "holds": state.holds(),
        "items": sum(rows, "items"), "objects": sum(rows, "objects"), "bytes": sum(rows, "bytes"),
        "cannot_approve": blocked.map(|failure| failure.message.as_str()),
    });
    if out.is_json() {
        value["collections"] = json!(rows);
        return out.object(&value);
    }
    if state.holds().is_empty() {
        value["holds"] = json!("none");
    }
    if state.retained_until().is_none() {
        value["retained_until"] = json!("no retention was set");
    }
    show(&value, out)?;
    let columns = [
        ("collection", "collection"),
        ("host", "host"),
        ("items", "items"),
        ("objects", "objects"),
        ("bytes", "bytes"),
        ("on hold", "on_hold"),
    ];
    out.rows(&columns, rows)?;
    // A request of an older version may name some.
    let empty: Vec<&str> = rows.iter().filter(|row| row["objects"] == 0).filter_map(|row| row["collection"].as_str()).collect();
    if !empty.is_empty() {
        out.note(&nothing_of(&empty));
    }
    Ok(())
}

/// Why nobody can approve a disposal as things stand; the coordinator decides.
pub(super) fn obstacle(case: &CaseId, state: &State, disposal: &Digest) -> Option<Failure> {
    if let (Some(by), Some(holder)) = (state.asked_by(disposal), state.custodian())
        && by != holder
    {
        let (by, holder) = (escape_bounded(by, 200), escape_bounded(holder, 200));
        let message = format!("{by} asked for it and has no custody any more: {holder} has, so the request is void");
        return Some(Failure::new(Code::NotPermitted, message).hint(format!("{holder} asks anew: exhibit dispose request {case}")));
    }
    let how = format!("exhibit case custody {case}");
    let collections = state.asked_for(disposal).unwrap_or_default();
    let ids = || collections.iter().map(|c| &c.collection);
    let held: Vec<&str> = ids().filter(|id| state.is_held(id)).map(CollectionId::as_str).collect();
    if !held.is_empty() {
        return Some(Failure::new(Code::NotPermitted, format!("under a hold: {}", held.join(", "))).hint(how));
    }
    let gone: Vec<&str> = ids().filter(|id| state.fate(id) != Fate::Kept).map(CollectionId::as_str).collect();
    if !gone.is_empty() {
        let message = format!("destroyed, or approved to be, by another request: {}", gone.join(", "));
        return Some(Failure::new(Code::NotPermitted, message).hint(how));
    }
    let until = state.retained_until().filter(|until| clock::now() < *until)?;
    Some(Failure::new(Code::NotPermitted, format!("the case is to be kept until {until}")).hint(how))
}

/// Why this person cannot approve it now. Said before anything is signed; the coordinator decides.
fn blocked(asked: &Asked, disposal: &Digest, connection: &Connection) -> Option<Failure> {
    let case = &asked.record.case;
    if asked.record.requested_by == connection.name() {
        let hint = format!("an approver of the case; an admin gives the role: exhibit person allow NAME --role approver --case {case}");
        return Some(Failure::new(Code::NotPermitted, "you asked for it yourself: somebody else approves it").hint(hint));
    }
    let lacking = entitled::lacking(connection, ("approve it", "approver"), case);
    lacking.or_else(|| obstacle(case, asked.history.state(), disposal))
}

/// What a script hears that did not say that somebody has looked.
fn unasked() -> Failure {
    let message = "nothing is signed: nobody can be asked here, and what is destroyed stays destroyed";
    Failure::new(Code::Usage, message).hint("look at it first, without --reason; a script then gives --yes")
}

/// Whoever asked is nobody any more.
fn asker_revoked(asked: &Asked, when: &str) -> Failure {
    let (case, by) = (&asked.record.case, escape_bounded(&asked.record.requested_by, 200));
    let hint = format!("a custodian asks for it anew with a key that counts: exhibit dispose request {case}; else all is kept");
    Failure::new(Code::NotPermitted, format!("the key with which {by} asked for it was {when}: nobody can approve it")).hint(hint)
}

/// Shows a disposal, and approves it when a reason is given and somebody confirms.
async fn approve(connection: &mut Connection, args: ApproveDisposalArgs, out: &Output) -> Result<Code> {
    let case: CaseId = parse_id(&args.case)?;
    let asked = find(connection, &case, &args.disposal).await?;
    let rows = rows(&asked, &args.disposal);
    let gone = asker::revoked(connection, asked.key, out).await?;
    let blocked = gone.map(|when| asker_revoked(&asked, &when)).or_else(|| blocked(&asked, &args.disposal, connection));
    if args.reason.is_none() || !out.is_json() {
        shown(&asked, &args.disposal, &rows, blocked.as_ref(), out)?;
    }
    let Some(reason) = args.reason else {
        match blocked {
            Some(failure) => entitled::note_obstacle(&failure, out),
            None => out.note(&format!(
                "nothing is signed yet. If you agree: exhibit dispose approve {case} --disposal {} --reason '...'",
                args.disposal
            )),
        }
        return Ok(Code::Ok);
    };
    if let Some(failure) = blocked {
        return Err(failure);
    }
    let there: Vec<&Value> = rows.iter().filter(|row| row["objects"] != 0).collect();
    let collections = count(there.len() as u64, "collection", "collections");
    let items = count(sum(&rows, "items"), "item", "items");
    let host = there.first().and_then(|row| row["host"].as_str()).map(|h| escape_bounded(h, 100)).unwrap_or_default();
    let host = if there.len() == 1 { format!(" of {host}") } else { String::new() };
    let what = format!("{collections}{host} with {items} ({})", show_bytes(sum(&rows, "bytes")));
    let question = format!("{what} will be destroyed for good. Type '{CONFIRMATION}' to approve it");
    confirmed(args.yes, &question, CONFIRMATION, unasked())?;
    let record =
        Approval { case: case.clone(), predecessor: args.disposal, reason, approved_by: connection.name(), approved_at: clock::now() };
    let comes_true = "the approval was recorded and the destruction has begun";
    let done = submit(connection, ("approval", comes_true, &case), &record, out).await?.0;
    let (code, said) = came_of(&case, &done);
    out.note(&said);
    Ok(code)
}

/// What came of an approval that stands. That the destruction is not finished is no failure of the approval, and not the end that was
/// asked for either.
fn came_of(case: &CaseId, done: &pb::SubmitRecordResponse) -> (Code, String) {
    let show = format!("exhibit log show --case {case}");
    match certificate_of(done) {
        Some(certificate) if done.certificate.is_empty() => {
            let said = format!("destroyed and certified; the certificate, record {certificate} of the case's log, could not be read now");
            return (Code::Ok, format!("{said}: ask again: {show}"));
        }
        Some(certificate) => return (Code::Ok, format!("destroyed; the certificate is record {certificate} of the case's log: {show}")),
        None => {}
    }
    let why = one_line(&done.unfinished, UNFINISHED_CHARS_MAX);
    let why = if why.is_empty() { why } else { format!(": {why}") };
    let n = done.n;
    (Code::Incomplete, format!("approved (record {n}); the destruction is not finished, it goes on by itself{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_received_is_named_up_to_a_bound() {
        assert_eq!(nothing_of(&["col-a"]), "nothing was received of col-a: nothing to destroy");
        let many = nothing_of(&["a", "b", "c", "d", "e", "f", "g"]);
        assert_eq!(many, "nothing was received of a, b, c, d, e and 2 more: nothing to destroy");
    }

    #[test]
    fn an_approval_that_stands_is_no_failure_and_says_what_is_left() {
        let case = CaseId::new(1, [1; 10]);
        let mut done = pb::SubmitRecordResponse { n: 11, log_size: 12, unfinished: "the copy\nis away".to_owned(), ..Default::default() };
        let said = "approved (record 11); the destruction is not finished, it goes on by itself";
        assert_eq!(came_of(&case, &done), (Code::Incomplete, format!("{said}: the copy\\nis away")));
        done.unfinished.clear();
        assert_eq!(came_of(&case, &done), (Code::Incomplete, said.to_owned()));
        done.certificate = b"certificate".to_vec();
        let (code, said) = came_of(&case, &done);
        assert!(code == Code::Ok && said.starts_with("destroyed; the certificate is record "), "{said}");
    }

    #[test]
    fn what_is_certified_is_destroyed_also_when_the_certificate_could_not_be_read() {
        let (case, certificate) = (CaseId::new(1, [1; 10]), Digest::of(b"certificate"));
        let certificate_sha256 = certificate.as_bytes().to_vec();
        let done = pb::SubmitRecordResponse { n: 11, log_size: 13, certificate_sha256, ..Default::default() };
        let (code, said) = came_of(&case, &done);
        let named = format!("destroyed and certified; the certificate, record {certificate} of the case's log, could not be read now");
        assert!(code == Code::Ok && said.starts_with(&named) && said.ends_with(&format!("exhibit log show --case {case}")), "{said}");
    }
}
