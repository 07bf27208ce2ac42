//! `exhibit witness`: init, cosign, show.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use exhibit_certs::files;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::{Checkpoint, ConsistencyProof, NOTE_BYTES_MAX, Plan, Tile};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{CaseId, Timestamp};
use exhibit_proto::responder::v1 as pb;
use serde_json::{Value, json};

use crate::args::custody::{CosignArgs, WitnessCommand};
use crate::clock;
use crate::commands::log;
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::witness::{self, Done, Source, Witness};

mod bag;

/// Records of a case folder that are looked at for the enrolment of its log key.
const ENROLMENTS_LOOKED_AT: u64 = 64;

/// Runs a witness command.
pub async fn run(home: Option<&Path>, command: WitnessCommand, out: &Output) -> Result<Code> {
    match command {
        WitnessCommand::Init { dir, name, anchor } => {
            let anchor = files::read(&anchor).map_err(|e| Failure::new(Code::Input, format!("--anchor: {e}")))?;
            let seed = clock::random_32().map_err(|e| Failure::new(Code::Failure, format!("cannot draw random bytes: {e}")))?;
            let public = witness::init(&dir, &name, &anchor, &seed)?;
            if out.is_json() {
                out.object(&json!({"witness": public.name(), "key": public.to_string(), "dir": dir.display().to_string()}))?;
            } else {
                out.line(&public.to_string())?;
                out.note(&format!(
                    "next, in the coordinator's config.toml. Where it has a section [witness] already, add \"{public}\" to the list 'keys' that \
                     stands there (a second [witness], or a second 'keys', is refused):\n  keys = [\"KEY THAT IS THERE\", \"{public}\"]\n\
                     Where it has none, add at its end:\n  [witness]\n  keys = [\"{public}\"]\n\
                     then 'exhibit-coordinator check-config', and start it again. Verifiers: exhibit-verify --witness '{public}'"
                ));
            }
        }
        WitnessCommand::Show { dir } => {
            let witness = Witness::open(&dir)?;
            let rows: Vec<Value> = witness.all_seen()?.iter().map(head_json).collect();
            if out.is_json() {
                return out.object(&json!({"witness": witness.public.to_string(), "seen": rows})).map(|()| Code::Ok);
            }
            out.note(&witness.public.to_string());
            out.rows(&[("log", "log"), ("records", "size"), ("cosigned", "cosigned_at"), ("root", "root")], &rows)?;
        }
        WitnessCommand::Cosign(args) => return cosign(home, args, out).await,
    }
    Ok(Code::Ok)
}

fn head_json(seen: &exhibit_evidence::log::Cosigned) -> Value {
    let at = Timestamp::from_unix_s(i64::try_from(seen.time_s).unwrap_or(i64::MAX));
    json!({"log": seen.checkpoint.origin, "size": seen.checkpoint.size, "root": seen.checkpoint.root.to_string(), "cosigned_at": at.to_string()})
}

async fn cosign(home: Option<&Path>, args: CosignArgs, out: &Output) -> Result<Code> {
    let witness = Witness::open(&args.dir)?;
    let offline = match (&args.folder, &args.request) {
        (Some(folder), _) => Some(from_folder(&witness, &case_folder(folder))?),
        (None, Some(request)) => {
            let bytes = files::read(request).map_err(|e| Failure::new(Code::Input, format!("--request: {e}")))?;
            let proof = ConsistencyProof::parse(&bytes).map_err(|e| Failure::new(Code::Input, format!("--request: {e}")))?;
            let path = args.log_enrolment.as_deref().unwrap_or(request);
            Some((proof, files::read(path).map_err(|e| Failure::new(Code::Input, format!("--log-enrolment: {e}")))?))
        }
        (None, None) => None,
    };
    if let Some((proof, enrolment)) = offline {
        let log_key = witness.log_key(&enrolment)?;
        // Before the memory goes on: a signature that cannot be given away is of no use.
        args.out.as_deref().map_or(Ok(()), log::check_new)?;
        let done = witness.cosign(&proof, &log_key, Source::Given, clock::now())?;
        let mut value = head_json(&done.cosigned);
        value["checkpoint"] = json!(String::from_utf8_lossy(&done.note));
        log::give(&done.note, args.out.as_deref(), out, &value)?;
        return Ok(Code::Ok);
    }
    let mut connection = Connection::open(home).await?;
    if let (Some(bag), Some(file)) = (&args.bag, &args.out) {
        return bag::cosign(&mut connection, &witness, (bag.as_path(), file.as_path()), out).await;
    }
    let names = logs(&mut connection, &args).await?;
    let several = names.len() > 1;
    let mut code = Code::Ok;
    for name in names {
        match from_coordinator(&mut connection, &witness, &name).await {
            Ok(Some(done)) => report(&done, out)?,
            Ok(None) => out.note(&format!("{}: no records yet", name.origin(&witness.anchor.deployment))),
            // The other logs are cosigned nevertheless: one that was rewritten must not hide them.
            Err(failure) if several => {
                code = worse(code, failure.code);
                let _ = out.failure(&failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(code)
}

/// How a run over several logs ends: a refusal, or damage, is never hidden by what fails after it.
fn worse(so_far: Code, next: Code) -> Code {
    if so_far == Code::Damaged || next == Code::Ok { so_far } else { next }
}

fn report(done: &Done, out: &Output) -> Result<()> {
    let mut value = head_json(&done.cosigned);
    value["before"] = json!(done.before);
    if out.is_json() {
        return out.object(&value);
    }
    let (log, size) = (escape_bounded(&done.cosigned.checkpoint.origin, 200), done.cosigned.checkpoint.size);
    out.line(&format!("cosigned: {log} at {size} records (before: {})", done.before))
}

async fn logs(connection: &mut Connection, args: &CosignArgs) -> Result<Vec<LogName>> {
    let mut names = Vec::new();
    if args.all || args.deployment {
        names.push(LogName::Deployment);
    }
    for case in &args.cases {
        names.push(LogName::Case(parse_id::<CaseId>(case)?));
    }
    if args.all {
        let mut stream = connection.rpc().list_cases(pb::ListCasesRequest {}).await?.into_inner();
        while let Some(case) = stream.message().await? {
            names.push(LogName::Case(parse_id::<CaseId>(&case.case_id)?));
        }
    }
    Ok(names)
}

/// Asks for the newest head and the proof that it continues what was seen, cosigns, and gives it back.
async fn from_coordinator(connection: &mut Connection, witness: &Witness, name: &LogName) -> Result<Option<Done>> {
    let Some(done) = cosigned(connection, witness, name).await? else { return Ok(None) };
    give_back(connection, witness, name, &done).await?;
    Ok(Some(done))
}

/// Asks for the newest head and the proof that it continues what was seen, and cosigns it. Nothing is given back.
async fn cosigned(connection: &mut Connection, witness: &Witness, name: &LogName) -> Result<Option<Done>> {
    let origin = name.origin(&witness.anchor.deployment);
    let seen = witness.seen(&origin)?.map_or(0, |s| s.checkpoint.size);
    let held = witness.seen_file(&origin);
    let asked = log::checkpoint(connection, name, 0).await;
    let (note, head, enrolment) = asked.map_err(|failure| put_back(failure, (seen > 0).then_some(held.as_path())))?;
    if (head.size, seen) == (0, 0) {
        return Ok(None);
    }
    let (proof, enrolment) = if head.size < seen {
        // No proof can lead there; the witness says so and keeps the head.
        (ConsistencyProof { old: seen, hashes: Vec::new(), checkpoint: note }, enrolment)
    } else {
        let (proof, enrolment, _) = log::consistency(connection, name, seen, 0).await?;
        (proof, enrolment)
    };
    match witness.cosign(&proof, &witness.log_key(&enrolment)?, Source::Coordinator, clock::now()) {
        Ok(done) => Ok(Some(done)),
        Err(refused) if refused.code == Code::Damaged && seen > 0 && head.size > seen => {
            Err(another_head(connection, witness, name, seen).await.unwrap_or(refused))
        }
        Err(refused) => Err(refused),
    }
}

/// What the coordinator says of a log that it found to be put back, and so shows to nobody.
const PUT_BACK: &str = "was put back to an older state";

/// The coordinator noticed by itself that a log was put back, and showed no head. `held` is the file with the head that was cosigned last.
fn put_back(failure: Failure, held: Option<&Path>) -> Failure {
    if failure.code != Code::Damaged || !failure.message.contains(PUT_BACK) {
        return failure;
    }
    let what = match held {
        Some(held) => format!("what a copy of the log lacks: exhibit-verify FOLDER --anchor ANCHOR --held {}", held.display()),
        None => "this witness has cosigned nothing of this log, so it cannot say what is missing".to_owned(),
    };
    failure.hint(format!(
        "nothing was cosigned, and no head was shown that could be kept: keep the witness's folder, and tell whoever answers for the case; {what}"
    ))
}

/// The refusal of the coordinator's own head of the size that was seen, where that is another one: two signed heads of one size
/// say which of the two it is, a rewritten log or a damaged proof.
async fn another_head(connection: &mut Connection, witness: &Witness, name: &LogName, seen: u64) -> Option<Failure> {
    let (checkpoint, _, enrolment) = log::checkpoint(connection, name, seen).await.ok()?;
    let request = ConsistencyProof { old: seen, hashes: Vec::new(), checkpoint };
    witness.cosign(&request, &witness.log_key(&enrolment).ok()?, Source::Coordinator, clock::now()).err()
}

/// Gives the coordinator what was cosigned. When it does not take it, the cosignature is good nevertheless, and is kept here.
async fn give_back(connection: &mut Connection, witness: &Witness, name: &LogName, done: &Done) -> Result<()> {
    let given = log::submit(connection, name, done.note.clone()).await;
    given.map(drop).map_err(|failure| not_taken(failure, witness, done))
}

/// What is said of a cosignature that the coordinator did not take.
fn not_taken(failure: Failure, witness: &Witness, done: &Done) -> Failure {
    let head = &done.cosigned.checkpoint;
    let (log, size, kept) = (escape_bounded(&head.origin, 200), head.size, witness.seen_file(&head.origin));
    let kept = kept.display();
    if failure.message.contains(log::UNKNOWN_WITNESS) {
        let message = format!(
            "{log} was cosigned at {size} records, and the coordinator did not take the cosignature: this witness does not stand in its \
             configuration"
        );
        let key = &witness.public;
        return Failure::new(Code::Failure, message).hint(format!(
            "the operator adds \"{key}\" to 'keys' below [witness] in the coordinator's config.toml and starts it again; then repeat this \
             command. The cosigned checkpoint is kept as {kept}, for exhibit-verify --held"
        ));
    }
    let why = failure.message.strip_prefix("--note: ").unwrap_or(&failure.message);
    let message = format!("{log} was cosigned at {size} records, and the coordinator did not take the cosignature: {why}");
    let next = format!("repeat this command: it gives the same cosignature again, which is kept as {kept}");
    let hint = failure.hint.map_or_else(|| next.clone(), |hint| format!("{hint}; then {next}"));
    Failure::new(failure.code, message).hint(hint)
}

/// Where a case lies: in the folder itself, or in `data` of a bag.
fn case_folder(folder: &Path) -> PathBuf {
    let payload = folder.join("data");
    if payload.join("log/checkpoint").is_file() && !folder.join("log").exists() { payload } else { folder.to_owned() }
}

/// The newest head of a case folder and the proof that it continues what was seen, made of the folder's tiles.
fn from_folder(witness: &Witness, folder: &Path) -> Result<(ConsistencyProof, Vec<u8>)> {
    let bad = |what: String| {
        Failure::new(Code::Input, format!("{}: {what}", folder.display()))
            .hint("--folder is a whole copy of a case's folder (log/checkpoint, log/seq, log/tile) of the deployment whose anchor this witness has")
    };
    let checkpoint = read(&folder.join("log/checkpoint"), NOTE_BYTES_MAX as u64).map_err(&bad)?;
    let head = Checkpoint::parse_unverified(&checkpoint).map_err(|e| bad(e.to_string()))?;
    let old = witness.seen(&head.origin)?.map_or(0, |s| s.checkpoint.size);
    let mut hashes = Vec::new();
    if let Some(plan) = Plan::consistency(old, head.size) {
        let mut tiles: BTreeMap<Tile, Vec<u8>> = BTreeMap::new();
        for tile in plan.tiles() {
            tiles.insert(tile, read(&folder.join("log").join(tile.to_string()), tile.bytes_max()).map_err(&bad)?);
        }
        hashes = plan.build(&|tile| tiles.get(tile).map(Vec::as_slice)).map_err(|e| bad(e.to_string()))?;
    }
    for n in 0..ENROLMENTS_LOOKED_AT.min(head.size) {
        let record = read(&folder.join(format!("log/seq/{n:010}.dsse.json")), 65_535).map_err(&bad)?;
        if witness.log_key(&record).is_ok() {
            return Ok((ConsistencyProof { old, hashes, checkpoint }, record));
        }
    }
    Err(bad("none of its first records enrols a log key under this witness's anchor".to_owned()))
}

fn read(path: &Path, bytes_max: u64) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    if bytes.len() as u64 > bytes_max { Err(format!("{}: it has more than {bytes_max} bytes", path.display())) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_the_coordinator_found_put_back_is_compared_with_what_was_seen() {
        let hint = |failure, held: Option<&str>| put_back(failure, held.map(Path::new)).hint;
        let refused = || Failure::new(Code::Damaged, "the log 'cases/c' was put back to an older state, or another one: 3 records");
        let said = hint(refused(), Some("W/seen/ab")).expect("a hint");
        assert!(said.contains("nothing was cosigned") && said.ends_with("--held W/seen/ab"), "{said}");
        assert!(hint(refused(), None).is_some_and(|said| said.contains("has cosigned nothing of this log")));
        assert_eq!(hint(Failure::new(Code::Damaged, "a tile is missing"), Some("W/seen/ab")), None);
    }

    #[test]
    fn a_refusal_is_not_hidden_by_what_fails_after_it() {
        let end = |codes: &[Code]| codes.iter().fold(Code::Ok, |so_far, next| worse(so_far, *next));
        assert_eq!(end(&[]), Code::Ok);
        assert_eq!(end(&[Code::Damaged, Code::Unavailable]), Code::Damaged);
        assert_eq!(end(&[Code::Input, Code::Damaged, Code::Input]), Code::Damaged);
        assert_eq!(end(&[Code::Input, Code::Ok]), Code::Input);
    }
}
