//! What happens to evidence after it was taken: `exhibit case custody|hold|release-hold|retain`, `exhibit transfer`. Its end is in
//! `dispose`.
//! People's records are signed here, with the own key; what they follow from is read from the case's verified log.

use std::collections::BTreeMap;
use std::path::Path;

use exhibit_evidence::custody::{History, Period, Row, picture};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::Checkpoint;
use exhibit_evidence::record::{Hold, HoldReleased, Predicate, Release, Retention, Transfer, Verified};
use exhibit_evidence::text::{escape_bounded, one_line};
use exhibit_evidence::{CaseId, CollectionId, Digest, Timestamp};
use exhibit_proto::responder::v1 as pb;
use serde_json::{Value, json};

use super::asker;
use super::cases::{show, sign};
use super::holder::{Holders, Stuck};
use super::log;
use super::waiting::{self, Askers, Waiting};
use crate::args::keeping::TransferCommand;
use crate::clock;
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::units::show_time;

/// The history of a case, every record verified and all of them under the newest head, with the keys of those who asked for something.
async fn history_and_askers(connection: &mut Connection, case: &CaseId) -> Result<(History, Askers, Checkpoint)> {
    let (mut history, mut askers) = (History::default(), Askers::default());
    let mut each = |n: u64, verified: &Verified, _: &Envelope| -> Result<()> {
        history.add(n, verified);
        askers.see(verified);
        Ok(())
    };
    let head = log::read_all(connection, &LogName::Case(case.clone()), &mut each).await?;
    Ok((history, askers, head))
}

/// [`history_and_askers`], for somebody who is about to do `what`, which takes `role`. More roles may read a log than may sign in it: who may not
/// even read hears of the one that helps.
pub(super) async fn history_to_sign(connection: &mut Connection, case: &CaseId, what: (&str, &str)) -> Result<History> {
    askers_to_sign(connection, case, what).await.map(|(history, _)| history)
}

/// [`history_to_sign`], with the keys of those who asked for something.
async fn askers_to_sign(connection: &mut Connection, case: &CaseId, (what, role): (&str, &str)) -> Result<(History, Askers)> {
    let me = connection.name();
    let read = history_and_askers(connection, case).await;
    read.map(|(history, askers, _)| (history, askers)).map_err(|failure| {
        if failure.code != Code::NotPermitted || !failure.message.contains("--role ROLE --case") {
            return failure;
        }
        let message = format!("{me} may not {what}: it needs role {role} in case {case}");
        let name = me.rsplit('/').next().unwrap_or(&me);
        let hint = format!("an admin gives it: exhibit person allow {name} --role {role} --case {case}");
        Failure::new(Code::NotPermitted, message).hint(hint)
    })
}

/// The case-opened record: what most records follow from.
pub(super) fn opened(history: &History) -> Result<Digest> {
    let first = history.rows().iter().find(|r| r.event == "case-opened");
    first.map(|r| r.record).ok_or_else(|| Failure::new(Code::Damaged, "the log of this case does not open it"))
}

/// What a record is, what comes true when it is taken (said when the connection is lost meanwhile), and whose case shows it.
pub type Sent<'a> = (&'a str, &'a str, &'a CaseId);

/// Characters of why a disposal is not finished, as the coordinator says it.
pub const UNFINISHED_CHARS_MAX: usize = 2_000;

/// The digest of the certificate that a disposal is finished, also of one that the coordinator could not read back now.
pub fn certificate_of(done: &pb::SubmitRecordResponse) -> Option<Digest> {
    if done.certificate.is_empty() {
        return Digest::try_from(done.certificate_sha256.as_slice()).ok();
    }
    Some(Digest::of(&done.certificate))
}

/// Sends a signed record and shows what became of it. Gives its digest as well.
pub async fn submit<P: Predicate>(
    connection: &mut Connection,
    (what, comes_true, case): Sent<'_>,
    predicate: &P,
    out: &Output,
) -> Result<(pb::SubmitRecordResponse, Digest)> {
    let record = sign(connection, predicate)?;
    let digest = Digest::of(&record);
    let sent = out.patiently(connection.rpc().submit_record(pb::SubmitRecordRequest { record })).await;
    let look = format!("exhibit case custody {case}");
    let done = sent.map_err(|status| Failure::from(status).unsure(comes_true, &look))?.into_inner();
    let mut value = json!({"record": digest.to_string(), "type": what, "n": done.n, "log_size": done.log_size});
    if let Some(certificate) = certificate_of(&done) {
        value["certificate"] = json!(certificate.to_string());
    }
    // A person hears it in a sentence of the command's.
    if !done.unfinished.is_empty() && out.is_json() {
        value["unfinished"] = json!(one_line(&done.unfinished, UNFINISHED_CHARS_MAX));
    }
    show(&value, out)?;
    Ok((done, digest))
}

/// Puts a hold on a case or on collections.
pub async fn hold(connection: &mut Connection, case: &CaseId, collections: &[String], reason: String, out: &Output) -> Result<()> {
    let history = history_to_sign(connection, case, ("place a hold", "custodian")).await?;
    let collections: Vec<CollectionId> = collections.iter().map(|c| parse_id(c)).collect::<Result<_>>()?;
    let too_late = if collections.is_empty() { history.state().condemned() } else { Vec::new() };
    let late: Vec<String> = too_late.iter().map(ToString::to_string).collect();
    let record = Hold {
        case: case.clone(),
        predecessor: opened(&history)?,
        collections,
        too_late,
        reason,
        placed_by: connection.name(),
        placed_at: clock::now(),
    };
    submit(connection, ("hold", "the hold stands", case), &record, out).await?;
    if !late.is_empty() {
        out.note(&format!(
            "TOO LATE for {}: the destruction was approved before and goes on; parts may be gone. The record says so. \
             exhibit case custody {case} names who asked and who approved",
            late.join(", ")
        ));
    }
    out.note(
        "nothing that it covers can be destroyed until a custodian releases it: exhibit case release-hold CASE --hold RECORD --reason ...",
    );
    Ok(())
}

/// Releases a hold.
pub async fn release_hold(connection: &mut Connection, case: &CaseId, hold: &str, reason: String, out: &Output) -> Result<()> {
    let history = history_to_sign(connection, case, ("release a hold", "custodian")).await?;
    let standing = history.state().holds();
    let row = history.rows().iter().find(|r| r.event == "hold" && (r.n.to_string() == hold || r.record.to_string() == hold));
    let Some(row) = row.filter(|r| standing.contains(&r.record)) else {
        let shown: Vec<String> = standing.iter().map(Digest::to_string).collect();
        let shown = if shown.is_empty() { "none stands".to_owned() } else { format!("these stand: {}", shown.join(", ")) };
        return Err(Failure::new(Code::Input, format!("--hold: '{}' is no hold that stands; {shown}", escape_bounded(hold, 80)))
            .hint(format!("exhibit case custody {case} shows who placed which, and why")));
    };
    let predecessor = row.record;
    let record = HoldReleased { case: case.clone(), predecessor, reason, released_by: connection.name(), released_at: clock::now() };
    submit(connection, ("hold-released", "the hold was released", case), &record, out).await?;
    Ok(())
}

/// Sets or moves the end of retention.
pub async fn retain(connection: &mut Connection, case: &CaseId, until: Timestamp, reason: String, out: &Output) -> Result<()> {
    let history = history_to_sign(connection, case, ("set a retention", "custodian")).await?;
    if let Some(before) = history.state().retained_until().filter(|before| until <= *before) {
        let message = format!("--until: the case is to be kept until {before} already, and retention is never shortened");
        return Err(Failure::new(Code::Input, message).hint("give a later day, or leave it as it is"));
    }
    if until <= clock::now() {
        return Err(Failure::new(Code::Input, format!("--until: {until} is past: nothing would be kept by it")));
    }
    let predecessor = history.state().retention_predecessor().map_or_else(|| opened(&history), Ok)?;
    let record = Retention { case: case.clone(), predecessor, until, reason, set_by: connection.name(), set_at: clock::now() };
    submit(connection, ("retention", "the retention was recorded", case), &record, out).await?;
    Ok(())
}

/// Runs a transfer command.
pub async fn transfer(connection: &mut Connection, command: TransferCommand, out: &Output) -> Result<Code> {
    match command {
        TransferCommand::Offer { case, to, reason } => {
            let case: CaseId = parse_id(&case)?;
            let history = history_to_sign(connection, &case, ("offer custody", "custodian")).await?;
            let predecessor = history.state().release_predecessor().map_or_else(|| opened(&history), Ok)?;
            let to = full_name(connection, &to);
            let record = Release { case: case.clone(), predecessor, to, reason, released_by: connection.name(), released_at: clock::now() };
            submit(connection, ("release", "custody was offered", &case), &record, out).await?;
            out.note(&format!("custody stays yours until it is accepted: exhibit transfer accept {case} --reason '...'"));
        }
        TransferCommand::Accept { case, reason } => {
            let case: CaseId = parse_id(&case)?;
            let (history, askers) = askers_to_sign(connection, &case, ("accept custody", "custodian")).await?;
            let me = connection.name();
            let Some((predecessor, to)) = history.state().offer() else {
                return Err(
                    Failure::new(Code::Input, format!("nobody offers the custody of {case}")).hint("exhibit transfer offer, as who has it")
                );
            };
            if to != me {
                let to = escape_bounded(to, 200);
                return Err(Failure::new(Code::NotPermitted, format!("the custody of {case} is offered to {to}, you are {me}")).hint(
                    format!("they accept it, or who has it offers it to you: exhibit transfer offer {case} --to NAME --reason '...'"),
                ));
            }
            if let Some(key) = askers.key(&predecessor)
                && let Some(when) = asker::revoked(connection, key, out).await?
            {
                let message = format!("the key that offered the custody of {case} was {when}: nobody can accept it");
                let hint = waiting::offer_again(&case, history.state().custodian());
                return Err(Failure::new(Code::NotPermitted, message).hint(hint));
            }
            let record = Transfer { case: case.clone(), predecessor, reason, received_by: me, received_at: clock::now() };
            submit(connection, ("transfer", "custody was accepted", &case), &record, out).await?;
        }
    }
    Ok(Code::Ok)
}

/// A person's name as records write it.
pub fn full_name(connection: &Connection, name: &str) -> String {
    if name.contains("://") { name.to_owned() } else { format!("spiffe://{}/responder/{name}", connection.deployment()) }
}

/// Shows the whole chain of custody, and draws it.
pub async fn custody(connection: &mut Connection, case: &CaseId, svg: Option<&Path>, out: &Output) -> Result<()> {
    let mut history = History::default();
    // Of each record what its signer signed: a script gets it whole, where the table cuts.
    let (mut signed, mut askers, mut holders) = (BTreeMap::<u64, Value>::new(), Askers::default(), Holders::default());
    let mut each = |n: u64, verified: &Verified, envelope: &Envelope| -> Result<()> {
        history.add(n, verified);
        askers.see(verified);
        holders.see(n, verified);
        if out.is_json() {
            signed.insert(n, log::row(n, verified, envelope)?);
        }
        Ok(())
    };
    let head = log::read_all(connection, &LogName::Case(case.clone()), &mut each).await?;
    let state = history.state();
    let stuck = Stuck::look(connection, state.custodian(), &holders).await?;
    if let Some(path) = svg {
        log::write_new(path, picture(&history, &head, clock::now(), stuck.as_ref().map(Stuck::what)).as_bytes())?;
        out.note(&format!("drawn: {}", path.display()));
    }
    let waiting = Waiting::look(connection, case, (state, &askers)).await?;
    if out.is_json() {
        let mut value = json!({
            "case": case.to_string(), "head": {"size": head.size, "root": head.root.to_string()},
            "rows": history.rows().iter().map(|row| whole(row, signed.get(&row.n))).collect::<Result<Vec<_>>>()?,
            "periods": history.periods(), "holds": state.holds(), "retained_until": state.retained_until(),
            "custodian": state.custodian(), "custodian_blocked": stuck.as_ref().map(Stuck::to_string),
            "offer": state.offer().map(|(record, to)| json!({"record": record, "to": to})),
        });
        waiting.add_to(&mut value);
        return out.object(&value);
    }
    let rows: Vec<_> = history.rows().iter().map(row).collect();
    let columns = [("record", "n"), ("when (UTC)", "when"), ("what", "what"), ("by", "by"), ("about", "about"), ("reason", "reason")];
    out.rows(&columns, &rows)?;
    out.line("")?;
    let mut sorted: Vec<&Period> = history.periods().iter().collect();
    sorted.sort_by_key(|p| &p.collection);
    let periods: Vec<_> = sorted.into_iter().map(period).collect();
    let columns = [
        ("collection", "collection"),
        ("from (UTC)", "from"),
        ("to (UTC)", "to"),
        ("custodian", "custodian"),
        ("storage", "storage"),
        ("hold", "hold"),
        ("kept until (UTC)", "until"),
    ];
    out.rows(&columns, &periods)?;
    for hold in state.holds() {
        out.note(&format!("a hold stands: record {hold}"));
    }
    if let Some((record, to)) = state.offer() {
        let why = waiting.offer_blocked().map_or_else(String::new, |why| format!("; it {why}"));
        out.note(&format!("custody is offered to {}: record {record}{why}", escape_bounded(to, 200)));
    }
    if let Some(stuck) = stuck {
        out.note(&format!("WARNING: {stuck}"));
    }
    waiting.say(case, out);
    out.note(&format!("{} records, each verified; head {}:{}; times are claims of whoever signed", head.size, head.size, head.root));
    Ok(())
}

/// A row with all that its record says: ids, digests, persons, reason, and the key that signed.
fn whole(row: &Row, signed: Option<&Value>) -> Result<Value> {
    let mut value = serde_json::to_value(row).map_err(|e| Failure::new(Code::Failure, e.to_string()))?;
    if let Some(signed) = signed {
        value["signer"] = signed["signer"].clone();
        value["keyid"] = signed["keyid"].clone();
        value["statement"] = signed["record"].clone();
    }
    Ok(value)
}

/// A name by its last part; the coordinator's parts are all the coordinator.
fn short(name: &str) -> &str {
    let mut parts = name.rsplit('/');
    let last = parts.next().unwrap_or(name);
    if parts.next() == Some("coordinator") { "coordinator" } else { last }
}

/// Characters of a reason in the table.
const REASON_SHOWN_MAX: usize = 300;

fn row(row: &Row) -> Value {
    let event = if row.problem.is_some() { format!("{} (no effect)", row.event) } else { row.event.to_owned() };
    let reason = row.problem.as_ref().map(|p| format!("breaks a rule: {p}")).or_else(|| row.reason.clone());
    let reason = reason.map(|reason| one_line(&reason, REASON_SHOWN_MAX));
    json!({"n": row.n, "when": show_time(row.at.unix_ns()), "what": event, "by": short(&row.by), "about": row.what, "reason": reason})
}

fn period(p: &Period) -> Value {
    let moment = |m: exhibit_evidence::custody::Moment| format!("{} (record {})", show_time(m.at.unix_ns()), m.n);
    json!({
        "collection": p.collection.as_str(), "from": moment(p.from), "to": p.to.map_or_else(|| "now".to_owned(), moment),
        "custodian": short(&p.custodian), "storage": p.storage.as_str(), "hold": if p.held { "yes" } else { "no" },
        "until": p.retained_until.map(|t| show_time(t.unix_ns())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_by_their_last_part() {
        assert_eq!(short("spiffe://acme/responder/grace"), "grace");
        assert_eq!(short("spiffe://acme/coordinator/log"), "coordinator");
        assert_eq!(short("grace"), "grace");
    }
}
