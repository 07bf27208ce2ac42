//! `exhibit log`: show, prove, consistency, cosigned. What comes from the coordinator is verified here.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exhibit_certs::files::{self, Access, FileError};
use exhibit_evidence::CaseId;
use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::{Checkpoint, ConsistencyProof, InclusionProof, Tree, leaf_hash, verify_consistency, verify_inclusion};
use exhibit_evidence::record::{KeyRing, Record, Verified};
use exhibit_evidence::text::escape_bounded;
use exhibit_proto::log::v1 as pb;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::args::custody::{LogCommand, OfArgs};
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::witness::log_key;

/// Runs a log command.
pub async fn run(connection: &mut Connection, command: LogCommand, out: &Output) -> Result<Code> {
    match command {
        LogCommand::Show { of, from } => show(connection, &of, from, out).await?,
        LogCommand::Prove { of, record, size, out: file, record_out } => {
            // Before anything is written: of two files one must not stand alone because the other's name is taken.
            for path in [&file, &record_out].into_iter().flatten() {
                check_new(path)?;
            }
            if file.is_some() && file == record_out {
                return Err(Failure::new(Code::Usage, "--out and --record-out name the same file"));
            }
            let (proof, envelope) = prove(connection, &of, record, size).await?;
            if let Some(path) = &record_out {
                write_new(path, &envelope)?;
            }
            give(
                &proof.to_bytes(),
                file.as_deref(),
                out,
                &json!({"record": record, "hashes": hashes(&proof.hashes), "checkpoint": text(&proof.checkpoint)}),
            )?;
        }
        LogCommand::Consistency { of, from: (from, root), to, out: file } => {
            let log = name(&of)?;
            let (proof, _, head) = consistency(connection, &log, from, to).await?;
            check_old(connection, &log, (from, root), &head, &proof).await?;
            let value = json!({"from": from, "to": head.size, "root": head.root.to_string(), "hashes": hashes(&proof.hashes), "checkpoint": text(&proof.checkpoint)});
            give(&proof.to_bytes(), file.as_deref(), out, &value)?;
        }
        LogCommand::Cosigned { of, note } => {
            let bytes = files::read(&note).map_err(|e| Failure::new(Code::Input, format!("--note: {e}")))?;
            let witnesses = submit(connection, &name(&of)?, bytes).await.map_err(|failure| failure.hint_from(UNKNOWN))?;
            let shown: Vec<String> = witnesses.iter().map(|w| escape_bounded(w, 128)).collect();
            if out.is_json() {
                out.object(&json!({"witnesses": witnesses}))?;
            } else {
                out.line(&format!("kept: cosignature of {}", shown.join(", ")))?;
            }
        }
    }
    Ok(Code::Ok)
}

/// The log that is meant.
fn name(of: &OfArgs) -> Result<LogName> {
    match &of.case {
        Some(case) => Ok(LogName::Case(parse_id::<CaseId>(case)?)),
        None => Ok(LogName::Deployment),
    }
}

/// How the coordinator is told which log.
pub fn wire_name(log: &LogName) -> String {
    match log {
        LogName::Case(case) => case.to_string(),
        LogName::Deployment => String::new(),
    }
}

/// A signed head from the coordinator, verified under the anchor and of the size that was asked for, unless that is 0: note,
/// head, enrolment of its key.
fn verified(
    connection: &Connection,
    log: &LogName,
    size: u64,
    checkpoint: Option<pb::Checkpoint>,
) -> Result<(Vec<u8>, Checkpoint, Vec<u8>)> {
    let checkpoint = checkpoint.ok_or_else(|| Failure::new(Code::Failure, "the coordinator's answer has no checkpoint"))?;
    let key = log_key(connection.anchor(), &checkpoint.log_enrolment)?;
    let head = Checkpoint::verify(&checkpoint.note, &key).map_err(|e| damaged(e.to_string()))?;
    let origin = log.origin(connection.deployment());
    if head.origin != origin {
        let shown = escape_bounded(&head.origin, 120);
        return Err(damaged(format!("the coordinator gave a checkpoint of log '{shown}' for '{origin}'")));
    }
    check_size(size, head.size)?;
    Ok((checkpoint.note, head, checkpoint.log_enrolment))
}

/// A head of another size is no answer; 0 asks for the newest one.
fn check_size(asked: u64, given: u64) -> Result<()> {
    if asked == 0 || asked == given {
        return Ok(());
    }
    Err(damaged(format!("the coordinator gave the head of {given} records, but that of {asked} was asked for")))
}

/// The coordinator calls the size of a head `size`; here it was given as another option.
fn sized_by(option: &str, status: tonic::Status) -> Failure {
    let mut failure = Failure::from(status);
    if let Some(rest) = failure.message.strip_prefix("--size: ") {
        failure.message = format!("{option}: {rest}");
    }
    failure
}

/// The newest head, or that of `size` records.
pub async fn checkpoint(connection: &mut Connection, log: &LogName, size: u64) -> Result<(Vec<u8>, Checkpoint, Vec<u8>)> {
    let request = pb::GetCheckpointRequest { case_id: wire_name(log), size };
    let answer = connection.log_rpc().get_checkpoint(request).await?.into_inner();
    verified(connection, log, size, Some(answer))
}

/// A consistency proof as the coordinator gives it, with the enrolment of the log key and the later head. Only the head is
/// verified: what the proof begins at is for whoever remembers it.
pub async fn consistency(
    connection: &mut Connection,
    log: &LogName,
    from: u64,
    to: u64,
) -> Result<(ConsistencyProof, Vec<u8>, Checkpoint)> {
    let request = pb::ProveConsistencyRequest { case_id: wire_name(log), from, to };
    let answer = connection.log_rpc().prove_consistency(request).await.map_err(|e| sized_by("--to", e))?.into_inner();
    let hashes = digests(&answer.hashes)?;
    let (checkpoint, head, enrolment) = verified(connection, log, to, answer.checkpoint)?;
    Ok((ConsistencyProof { old: from, hashes, checkpoint }, enrolment, head))
}

/// What the coordinator says when it knows no witness of a note.
pub const UNKNOWN_WITNESS: &str = "is of a witness that this coordinator knows";
const UNKNOWN: &[(&str, &str)] = &[(
    UNKNOWN_WITNESS,
    "the operator adds the line in the witness's witness.vkey to 'keys' below [witness] in the coordinator's config.toml and starts it again",
)];

/// Gives the coordinator a cosigned checkpoint; the witnesses that it knew.
pub async fn submit(connection: &mut Connection, log: &LogName, note: Vec<u8>) -> Result<Vec<String>> {
    let request = pb::AddCosignaturesRequest { case_id: wire_name(log), note };
    Ok(connection.log_rpc().add_cosignatures(request).await?.into_inner().witnesses)
}

/// The earlier head is the one that the caller noted, or else the one that the coordinator signs now.
async fn check_old(
    connection: &mut Connection,
    log: &LogName,
    from: (u64, Option<Digest>),
    head: &Checkpoint,
    proof: &ConsistencyProof,
) -> Result<()> {
    let root = match from {
        (0, _) => Digest::of(b""),
        (_, Some(root)) => root,
        (size, None) => checkpoint(connection, log, size).await?.1.root,
    };
    verify_consistency((from.0, &root), (head.size, &head.root), &proof.hashes).map_err(|_| {
        let message = format!("the head of {} records does not continue the head {}:{root}", head.size, from.0);
        Failure::new(Code::Damaged, message).hint("the log was rewritten since that head was noted, or the head is of another log")
    })
}

async fn prove(connection: &mut Connection, of: &OfArgs, n: u64, size: u64) -> Result<(InclusionProof, Vec<u8>)> {
    let log = name(of)?;
    let answer = connection.log_rpc().prove_record(pb::ProveRecordRequest { case_id: wire_name(&log), n, size }).await?.into_inner();
    let hashes = digests(&answer.hashes)?;
    let (checkpoint, head, _) = verified(connection, &log, size, answer.checkpoint)?;
    let request = pb::ListRecordsRequest { case_id: wire_name(&log), from: n, limit: 1 };
    let record = connection.log_rpc().list_records(request).await?.into_inner().message().await?;
    let envelope = record.filter(|r| r.n == n).map(|r| r.envelope).unwrap_or_default();
    verify_inclusion(leaf_hash(&envelope), n, head.size, &hashes, &head.root).map_err(|e| damaged(format!("record {n}: {e}")))?;
    Ok((InclusionProof { index: n, hashes, checkpoint }, envelope))
}

/// Reads a log to its newest signed head. Every record is verified under the anchor and handed to `each`, and all of them
/// together are those that the head signs; only when this has returned is that known of any.
pub async fn read_all(
    connection: &mut Connection,
    log: &LogName,
    each: &mut dyn FnMut(u64, &Verified, &Envelope) -> Result<()>,
) -> Result<Checkpoint> {
    let (_, head, _) = checkpoint(connection, log, 0).await?;
    let (mut ring, mut tree) = (KeyRing::new(connection.anchor()), Tree::new());
    // Of an empty log nothing is asked for: no limit is what 0 means there.
    let mut stream = match head.size {
        0 => None,
        limit => {
            let request = pb::ListRecordsRequest { case_id: wire_name(log), from: 0, limit };
            Some(connection.log_rpc().list_records(request).await?.into_inner())
        }
    };
    let bar = progress(connection, head.size);
    while let Some(stream) = &mut stream
        && let Some(record) = stream.message().await?
    {
        check_next(record.n, tree.size(), head.size)?;
        tree.append(&record.envelope);
        bar.inc(1);
        let bad = |e: String| damaged(format!("record {}: {}", record.n, escape_bounded(&e, 300)));
        let envelope = Envelope::parse(&record.envelope).map_err(|e| bad(e.to_string()))?;
        let verified = ring.verify(&envelope).map_err(|e| bad(e.to_string()))?;
        each(record.n, &verified, &envelope)?;
    }
    bar.finish_and_clear();
    if (tree.size(), tree.root()) != (head.size, head.root) {
        return Err(damaged(format!("the records are not those that the head of {} records signs", head.size)));
    }
    Ok(head)
}

/// What the coordinator gave is not what was signed.
fn damaged(message: String) -> Failure {
    Failure::new(Code::Damaged, message).hint(
        "sign nothing by it. Whoever has the store verifies the log there: exhibit-verify FOLDER --anchor ANCHOR; a head that a witness or a \
         paper form holds shows whether the log was rewritten",
    )
}

/// Records from which on the reading of a log is shown: fewer are there at once.
const RECORDS_SHOWN_FROM: u64 = 1_000;

fn progress(connection: &Connection, records: u64) -> ProgressBar {
    if records < RECORDS_SHOWN_FROM || !connection.is_watched() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(records);
    if let Ok(style) = ProgressStyle::with_template("reading and verifying the log: {pos} of {len} records, {eta} left") {
        bar.set_style(style);
    }
    bar
}

async fn show(connection: &mut Connection, of: &OfArgs, from: u64, out: &Output) -> Result<()> {
    let mut rows = Vec::new();
    let mut each = |n: u64, verified: &Verified, envelope: &Envelope| -> Result<()> {
        let row = row(n, verified, envelope)?;
        if n >= from {
            if out.is_json() { out.object(&row)? } else { rows.push(row) }
        }
        Ok(())
    };
    let head = read_all(connection, &name(of)?, &mut each).await?;
    if !out.is_json() {
        out.rows(&[("n", "n"), ("type", "type"), ("signer", "signer"), ("about", "about"), ("sha256", "sha256")], &rows)?;
        out.note(&format!("{} records, each verified; head {}:{}", head.size, head.size, head.root));
    }
    Ok(())
}

/// Records come in order, and end where the head does.
fn check_next(n: u64, due: u64, size: u64) -> Result<()> {
    let wrong = if n >= size {
        format!("the coordinator gave record {n}; the head signs {size} records")
    } else if n != due {
        format!("the coordinator gave record {n} where {due} is due")
    } else {
        return Ok(());
    };
    Err(damaged(wrong))
}

/// A record as JSON: number, signer, key, digest, and what it says.
pub fn row(n: u64, verified: &Verified, envelope: &Envelope) -> Result<Value> {
    let bad = |e: String| damaged(format!("record {n}: {}", escape_bounded(&e, 300)));
    let statement: Value = serde_json::from_slice(envelope.unverified_payload()).map_err(|e| bad(e.to_string()))?;
    let record = verified.record();
    Ok(json!({
        "n": n, "type": record.type_name(), "signer": verified.signer(), "keyid": envelope.keyid().to_string(), "about": about(record),
        "sha256": envelope.digest().to_string(), "record": statement["predicate"],
    }))
}

/// What a record is about, in a word.
fn about(record: &Record) -> String {
    match record {
        Record::CaseOpened(p) => p.title.clone(),
        Record::CaseClosed(p) => p.reason.clone(),
        Record::Order(p) => p.order.to_string(),
        Record::Refusal(p) => p.collection.to_string(),
        Record::Acquisition(p) => format!("{} {}", p.collection, p.stream),
        Record::Receipt(p) => format!("{} {}", p.collection, p.stream),
        Record::Seal(p) => format!("{} {:?}", p.collection, p.outcome).to_lowercase(),
        Record::Access(p) => format!("{} by {}", p.action, p.by),
        Record::Incident(p) => format!("{}: {}", p.kind, p.about),
        Record::Stamped(p) => format!("{} records stamped by {} at {}", p.size, p.authority, p.time),
        Record::NotStamped(p) => format!("{} records not stamped by {}: {}", p.size, p.authority, p.code),
        Record::Hold(p) => p.reason.clone(),
        Record::HoldReleased(p) => format!("hold {}", p.predecessor),
        Record::Retention(p) => format!("until {}", p.until),
        Record::Release(p) => format!("to {}", p.to),
        Record::Transfer(p) => format!("by {}", p.received_by),
        Record::Disposal(p) => format!("{} collections", p.seals.len()),
        Record::Approval(p) => p.predecessor.to_string(),
        Record::Destruction(p) => format!("{} collections", p.collections.len()),
        Record::Enrolment(p) => p.name.clone(),
        Record::Revocation(p) => p.key.to_string(),
    }
}

fn digests(hashes: &[Vec<u8>]) -> Result<Vec<Digest>> {
    let all = hashes.iter().take(65).map(|h| Digest::try_from(h.as_slice())).collect::<std::result::Result<Vec<_>, _>>();
    all.ok().filter(|h| h.len() <= 64).ok_or_else(|| Failure::new(Code::Failure, "the coordinator's answer is no proof"))
}

fn hashes(hashes: &[Digest]) -> Vec<String> {
    hashes.iter().map(|h| STANDARD.encode(h.as_bytes())).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Writes a proof to a new file or to standard output.
pub fn give(bytes: &[u8], file: Option<&Path>, out: &Output, value: &Value) -> Result<()> {
    if let Some(path) = file {
        write_new(path, bytes)?;
        if !out.is_json() {
            return out.line(&format!("written: {}", path.display()));
        }
    }
    // Every line of it was checked: base64, numbers, and the names of log and witnesses without control characters.
    if out.is_json() { out.object(value) } else { out.line(text(bytes).trim_end_matches('\n')) }
}

/// Checks that a new file can be made there, and leaves nothing.
pub fn check_new(path: &Path) -> Result<()> {
    write_new(path, b"")?;
    files::remove(path).map_err(|e| Failure::new(Code::CannotCreate, e.to_string()))
}

/// Makes a new file.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    files::create(path, bytes, Access::Public).map_err(|e| {
        let failure = Failure::new(Code::CannotCreate, e.to_string());
        if matches!(e, FileError::Exists { .. }) { failure.hint("name a new file") } else { failure }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_another_size_are_none() {
        assert!(check_size(0, 7).is_ok() && check_size(7, 7).is_ok());
        let failure = check_size(5, 7).expect_err("another");
        assert_eq!(failure.code, Code::Damaged);
        assert!(failure.message.contains("head of 7 records") && failure.message.contains("that of 5"), "{}", failure.message);
        assert!(check_next(0, 0, 1).is_ok());
        for (n, due, size) in [(0, 0, 0), (1, 1, 1), (2, 1, 3), (0, 1, 3)] {
            assert_eq!(check_next(n, due, size).expect_err("out of place").code, Code::Damaged);
        }
    }

    #[test]
    fn the_option_that_was_given_is_named() {
        let status = |text: &str| tonic::Status::invalid_argument(text);
        assert_eq!(sized_by("--to", status("size: 9: the newest covers 4")).message, "--to: 9: the newest covers 4");
        assert_eq!(sized_by("--to", status("from: 9: no")).message, "--from: 9: no");
    }

    #[test]
    fn whether_a_file_can_be_made_is_known_before() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("note");
        check_new(&path).expect("free");
        check_new(&path).expect("nothing was left");
        std::fs::write(&path, b"x").expect("written");
        assert_eq!(check_new(&path).expect_err("there").code, Code::CannotCreate);
        assert_eq!(std::fs::read(&path).expect("there"), b"x");
        assert_eq!(check_new(&dir.path().join("none/note")).expect_err("no folder").code, Code::CannotCreate);
    }
}
