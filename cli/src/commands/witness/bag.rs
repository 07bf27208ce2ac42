//! `exhibit witness cosign --for BAG`: cosigns the log as it is now, and writes the proof that it continues what the bag holds.
//!
//! A bag ends with the record of its own export, so no witness can have cosigned its last head before it was made.

use std::path::Path;

use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::{Checkpoint, ConsistencyProof, NOTE_BYTES_MAX};
use exhibit_evidence::text::escape_bounded;
use serde_json::json;

use super::{case_folder, cosigned, give_back, head_json, read};
use crate::commands::log;
use crate::connection::Connection;
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::witness::{BagHead, SameSize, Witness};

/// Cosigns, proves, writes the proof, and only then gives the cosignature to the coordinator: with the proof in hand a
/// coordinator that does not take it costs nothing.
pub async fn cosign(connection: &mut Connection, witness: &Witness, (bag, file): (&Path, &Path), out: &Output) -> Result<Code> {
    log::check_new(file)?;
    let (note, name) = head_of(witness, bag)?;
    let (_, _, enrolment) = log::checkpoint(connection, &name, 0).await?;
    let head =
        Checkpoint::verify(&note, &witness.log_key(&enrolment)?).map_err(|e| Failure::new(Code::Damaged, shown(bag, &e.to_string())))?;
    let held = BagHead { note, head };
    let done = cosigned(connection, witness, &name).await?;
    let done = done.ok_or_else(|| Failure::new(Code::Damaged, shown(bag, "the coordinator's log of this case has no records")))?;
    let (size, now) = (held.head.size, done.cosigned.checkpoint.size);
    let hashes = if size < now { log::consistency(connection, &name, size, now).await?.0.hashes } else { Vec::new() };
    let proof = ConsistencyProof { old: size, hashes, checkpoint: done.note.clone() };
    let same: Option<SameSize> = log::checkpoint(connection, &name, size).await.ok().map(|(note, head, _)| (note, head));
    let proof = witness.proof_for(&held, proof, &done, same.as_ref())?;
    log::write_new(file, &proof.to_bytes())?;

    let mut value = head_json(&done.cosigned);
    value["before"] = json!(done.before);
    value["bag_size"] = json!(size);
    value["proof"] = json!(file.display().to_string());
    if out.is_json() {
        out.object(&value)?;
    } else {
        let log = escape_bounded(&held.head.origin, 200);
        out.line(&format!("cosigned: {log} at {now} records (before: {}), which continue the {size} of the bag", done.before))?;
        out.line(&format!("written: {}", file.display()))?;
        let (bag, key, file) = (bag.display(), &witness.public, file.display());
        out.note(&format!("next: exhibit-verify {bag} --anchor ANCHOR --witness '{key}' --consistency {file}"));
    }
    give_back(connection, witness, &name, &done).await?;
    Ok(Code::Ok)
}

fn shown(bag: &Path, what: &str) -> String {
    format!("--for {}: {}", bag.display(), escape_bounded(what, 300))
}

/// The signed head in a bag, not verified yet, and which log of this witness's deployment it is of.
fn head_of(witness: &Witness, bag: &Path) -> Result<(Vec<u8>, LogName)> {
    let bad = |what: &str| {
        Failure::new(Code::Input, shown(bag, what)).hint("--for is a bag that `exhibit export` made, opened where it was encrypted")
    };
    let note = read(&case_folder(bag).join("log/checkpoint"), NOTE_BYTES_MAX as u64).map_err(|e| bad(&e))?;
    let head = Checkpoint::parse_unverified(&note).map_err(|e| bad(&e.to_string()))?;
    let deployment = &witness.anchor.deployment;
    let name = log_of(&head.origin, deployment);
    let name = name.ok_or_else(|| bad(&format!("its log '{}' is none of deployment '{deployment}'", escape_bounded(&head.origin, 200))))?;
    Ok((note, name))
}

/// The log with this name.
fn log_of(origin: &str, deployment: &str) -> Option<LogName> {
    let log = origin.strip_prefix("exhibit/")?.strip_prefix(deployment)?.strip_prefix('/')?;
    let name = match log.strip_prefix("case/") {
        Some(case) => LogName::Case(case.parse().ok()?),
        None => LogName::Deployment,
    };
    (name.origin(deployment) == origin).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_found_by_its_name() {
        let case = "case-01jd5c3v3h0000000000000000";
        let found = log_of(&format!("exhibit/test/case/{case}"), "test");
        assert!(matches!(found, Some(LogName::Case(id)) if id.to_string() == case));
        assert_eq!(log_of("exhibit/test/deployment", "test"), Some(LogName::Deployment));
        for bad in ["", "exhibit/test", "exhibit/test/", "exhibit/other/deployment", "exhibit/test/case/x", "exhibit/testy/deployment"] {
            assert_eq!(log_of(bad, "test"), None, "{bad}");
        }
    }
}
