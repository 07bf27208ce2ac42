//! `exhibit case`: open, list, show, close.

use exhibit_evidence::age::{AgeError, Recipient, Recipients};
use exhibit_evidence::record::{self, CaseClosed, CaseOpened};
use exhibit_evidence::{CaseId, Digest};
use exhibit_proto::responder::v1::{self as pb};
use serde_json::{Value, json};

use super::keeping;
use super::opening::Opening;
use crate::args::CaseCommand;
use crate::clock;
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::{Output, cell};
use crate::units::show_time;

/// A case as JSON.
pub fn to_json(case: &pb::Case) -> Value {
    json!({
        "case": case.case_id, "title": case.title, "state": case.state, "legal_basis": case.legal_basis, "accountable": case.accountable,
        "opened_by": case.opened_by, "opened_at": exhibit_evidence::Timestamp::from_unix_ns(case.opened_at_ns).to_string(),
        "collections": case.collections, "exhibits": case.exhibits, "two_person": case.two_person, "encrypt_to": case.encrypt_to, "log_size": case.log_size, "log_root": hex(&case.log_root),
    })
}

fn hex(bytes: &[u8]) -> Option<String> {
    Digest::try_from(bytes).ok().map(|d| d.to_string())
}

/// Signs a record with the responder's own key.
pub fn sign<P: record::Predicate>(connection: &Connection, predicate: &P) -> Result<Vec<u8>> {
    let envelope = record::sign(predicate, connection.evidence_key()).map_err(|e| Failure::new(Code::Usage, e.to_string()))?;
    Ok(envelope.as_bytes().to_vec())
}

/// Runs a case command.
pub async fn run(connection: &mut Connection, command: CaseCommand, out: &Output) -> Result<Code> {
    match command {
        CaseCommand::Open { title, legal_basis, accountable, two_person, encrypt_to } => {
            let encrypt_to = recipients(&encrypt_to)?;
            open(connection, (title, legal_basis, accountable), (two_person, encrypt_to), out).await?;
        }
        CaseCommand::List => {
            let mut stream = connection.rpc().list_cases(pb::ListCasesRequest {}).await?.into_inner();
            let (mut rows, mut damaged) = (Vec::new(), false);
            while let Some(case) = stream.message().await? {
                damaged |= case.state == "damaged";
                let mut row = to_json(&case);
                if !out.is_json() {
                    row["opened_at"] = json!(show_time(case.opened_at_ns));
                }
                rows.push(row);
            }
            out.rows(
                &[
                    ("case", "case"),
                    ("state", "state"),
                    ("opened", "opened_at"),
                    ("collections", "collections"),
                    ("exhibits", "exhibits"),
                    ("title", "title"),
                ],
                &rows,
            )?;

            if damaged {
                out.note("the log of a case is not as it was written; why: exhibit case show CASE. The others go on");
            }
        }
        CaseCommand::Show { case } => {
            let case_id: CaseId = parse_id(&case)?;
            let case = get(connection, &case_id).await?;
            show(&to_json(&case), out)?;
        }
        CaseCommand::Close { case, reason } => {
            let case_id: CaseId = parse_id(&case)?;
            let opening = Opening::of(connection, &case_id).await?;
            let record =
                CaseClosed { case: case_id, predecessor: opening.digest, reason, closed_by: connection.name(), closed_at: clock::now() };
            let case_closed = sign(connection, &record)?;
            let sent = out.patiently(connection.rpc().close_case(pb::CloseCaseRequest { case_closed })).await;
            let look = format!("exhibit case show {}", record.case);
            let case = sent.map_err(|status| Failure::from(status).unsure("the case was closed", &look))?.into_inner();
            show(&to_json(&case), out)?;
        }
        CaseCommand::Custody { case, svg } => keeping::custody(connection, &parse_id(&case)?, svg.as_deref(), out).await?,
        CaseCommand::Hold { case, collections, reason } => keeping::hold(connection, &parse_id(&case)?, &collections, reason, out).await?,
        CaseCommand::ReleaseHold { case, hold, reason } => keeping::release_hold(connection, &parse_id(&case)?, &hold, reason, out).await?,
        CaseCommand::Retain { case, until, reason } => keeping::retain(connection, &parse_id(&case)?, until, reason, out).await?,
    }
    Ok(Code::Ok)
}

/// The recipients of a case as they were given.
fn recipients(given: &[String]) -> Result<Recipients> {
    if given.is_empty() {
        return Ok(Recipients::default());
    }
    let all = given.iter().map(|text| text.parse::<Recipient>()).collect::<std::result::Result<Vec<Recipient>, AgeError>>();
    all.and_then(Recipients::try_from).map_err(|e| Failure::new(Code::Input, format!("--encrypt-to: {e}")))
}

async fn open(
    connection: &mut Connection,
    (title, legal_basis, accountable): (String, String, Option<String>),
    (two_person, encrypt_to): (bool, Recipients),
    out: &Output,
) -> Result<()> {
    let now = clock::now();
    let random = clock::random_10().map_err(|e| Failure::new(Code::Failure, format!("cannot draw random bytes: {e}")))?;
    let record = CaseOpened {
        case: CaseId::new(now.unix_ms(), random),
        deployment: connection.deployment().to_owned(),
        title,
        legal_basis,
        accountable: accountable.unwrap_or_else(|| connection.name()),
        opened_by: connection.name(),
        opened_at: now,
        two_person,
        encrypt_to,
    };
    let record_is_encrypted = !record.encrypt_to.is_none();
    let case_opened = sign(connection, &record)?;
    let sent = out.patiently(connection.rpc().open_case(pb::OpenCaseRequest { case_opened })).await;
    let look = format!("exhibit case show {}", record.case);
    let case = sent.map_err(|status| Failure::from(status).unsure("the case was opened", &look))?.into_inner();
    show(&to_json(&case), out)?;
    if record_is_encrypted {
        out.note(
            "contents of evidence will be encrypted: keep the identities of the recipients safe, nothing can be read without one of them",
        );
    }
    out.note(&format!("next: exhibit collect --case {} --agent AGENT --profile triage --reason '...' --watch", case.case_id));
    Ok(())
}

/// The newest state of a case.
pub async fn get(connection: &mut Connection, case: &CaseId) -> Result<pb::Case> {
    Ok(connection.rpc().get_case(pb::GetCaseRequest { case_id: case.to_string() }).await?.into_inner())
}

/// Shows one object: JSON, or its fields one a line.
pub fn show(value: &Value, out: &Output) -> Result<()> {
    if out.is_json() {
        return out.object(value);
    }
    let Some(map) = value.as_object() else { return Ok(()) };
    let width = map.keys().map(String::len).max().unwrap_or(0);
    for (key, value) in map.iter().filter(|(_, v)| !v.is_null()) {
        out.line(&format!("{:<width$}  {}", key.replace('_', " "), cell(value)))?;
    }
    Ok(())
}
