//! How people come in and go out. An admin signs; the coordinator checks, logs, and issues the certificate for TLS.

use exhibit_certs::issue::{Issued, PERSON_LIFE, REQUEST_BYTES_MAX};
use exhibit_certs::name::PeerName;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::record::{Enrolment, KeyRing, Record, Revocation, Role};
use exhibit_evidence::text::{escape_bounded, written};

use super::issue_problem;
use crate::clock;
use crate::dispatch::orders;
use crate::ledger::{self, LedgerError};
use crate::parts::Parts;
use crate::party;
use crate::problem::{Kind, Problem, Result};

/// Enrols a person's key, or adds to its rights; with a request, issues a certificate. Gives the enrolments that lead to the key.
///
/// Order of writes: (1) the record in the deployment's log; (2) the answer. Died in between, or the answer was lost: the same
/// call again gives another certificate for the same key and name.
///
/// # Errors
/// [`Problem`]
pub async fn enroll(parts: &Parts, by: &str, envelope: &Envelope, tls_csr: &[u8]) -> Result<(Option<Issued>, Vec<Envelope>)> {
    let log = parts.ledgers.deployment().await?;
    let verified = log.key_ring().verify(envelope).map_err(|e| Problem::new(Kind::Denied, format!("enrolment: {e}")))?;
    let Record::Enrolment(p) = verified.record() else {
        return Err(Problem::invalid(format!("enrolment: a record of type {} enrols nobody", verified.record().type_name())));
    };
    if verified.signer() != by {
        let signer = escape_bounded(verified.signer(), 200);
        return Err(Problem::new(Kind::Denied, format!("enrolment: signed by {signer}, sent by {by}: only its signer may send it")));
    }
    let Ok(name @ PeerName::Responder(..)) = p.name.parse::<PeerName>() else {
        return Err(Problem::invalid(format!("enrolment: '{}' is not a person's name", escape_bounded(&p.name, 200))));
    };
    check_cases(parts, p).await?;
    if tls_csr.len() > REQUEST_BYTES_MAX {
        return Err(Problem::invalid(format!("tls_csr: {} bytes, at most {REQUEST_BYTES_MAX} are allowed", tls_csr.len())));
    }
    if tls_csr.is_empty() && log.key_ring().holder(p.key.id()).is_none() {
        return Err(Problem::invalid("tls_csr: this key is new, so the person needs a certificate as well"));
    }
    // The certificate first: it is made in memory, and a bad request must not leave a record.
    let person = (&name, p.key.id());
    let issue = || parts.issuing.authority.issue_person(tls_csr, person, PERSON_LIFE, clock::now()).map_err(issue_problem);
    let certificate = if tls_csr.is_empty() { None } else { Some(issue()?) };
    let not_known = format!(
        "enrolment: it is not known whether {name} was enrolled so: the record may be in the deployment's log, and then it counts when that is \
         read anew. Mend what failed, look first: exhibit person list; and enrol again where that does not show it"
    );
    orders::written(&log, &envelope.digest(), log.append(vec![envelope.clone()]).await, &not_known).await?;
    tracing::warn!(person = %name, roles = ?p.roles, limited = p.cases.is_some(), by = %escape_bounded(by, 200), "person enrolled");
    Ok((certificate, parts.ledgers.chain_of(p.key.id()).await?))
}

/// The cases exist, and none would have more enrolments of this key than an order can carry.
async fn check_cases(parts: &Parts, p: &Enrolment) -> Result<()> {
    for case in p.cases.iter().flatten() {
        crate::dispatch::admit::require_case(parts, case).await?;
        if parts.deployment_log.key_ring().holder(p.key.id()).is_some() {
            let have = parts.ledgers.chain_in(p.key.id(), case).await?.len();
            if have >= exhibit_proto::bounds::ENROLMENTS_MAX {
                return Err(Problem::new(
                    Kind::NotNow,
                    format!("cases: key {} has {have} enrolments for {case} already; enrol a new key", p.key.id()),
                ));
            }
        }
    }
    Ok(())
}

/// Takes a signed revocation of a person's key: nothing that it signs is accepted any more, and whoever is connected with its
/// certificate is cut off; other keys of the name go on. The key of the last admin is not revoked here: nobody could enrol anybody afterwards without the root key.
///
/// Order of writes: (1) the record in the deployment's log; (2) the connections. Repeating it is success.
///
/// # Errors
/// [`Problem`]
pub async fn revoke(parts: &Parts, by: &str, envelope: &Envelope) -> Result<String> {
    let log = parts.ledgers.deployment().await?;
    let verified = log.key_ring().verify(envelope).map_err(|e| Problem::new(Kind::Denied, format!("revocation: {e}")))?;
    let Record::Revocation(p) = verified.record() else {
        return Err(Problem::invalid(format!("revocation: a record of type {} revokes nothing", verified.record().type_name())));
    };
    if verified.signer() != by {
        let signer = escape_bounded(verified.signer(), 200);
        return Err(Problem::new(Kind::Denied, format!("revocation: signed by {signer}, sent by {by}: only its signer may send it")));
    }
    check_reason(p)?;
    let name = log.key_ring().holder(p.key).map(|(name, ..)| name.to_owned());
    another_admin_stays(&log.key_ring(), p.key)?;
    let (signed, key) = (envelope.clone(), p.key);
    // Two admins may revoke each other at the same moment: only the log's writer can tell who was first.
    let revoked = log
        .append_built(move |view| {
            another_admin_stays(view.key_ring(), key).map_err(|p| LedgerError::new(ledger::Kind::Refused, p.to_string()))?;
            Ok(vec![signed.clone()])
        })
        .await;
    let not_known = format!(
        "revocation: it is not known whether {key} was revoked: the record may be in the deployment's log, and then it counts when that is read \
         anew. Mend what failed, look first: exhibit person list; and revoke it again where that does not show it"
    );
    orders::written(&log, &envelope.digest(), revoked, &not_known).await?;
    let Some(name) = name else { return Ok(String::new()) };
    parts.disconnect_everywhere(&party::known_by(&name, key));
    tracing::warn!(person = %escape_bounded(&name, 200), key = %p.key, by = %escape_bounded(by, 200), "a person's key was revoked");
    Ok(name)
}

fn another_admin_stays(ring: &KeyRing, key: KeyId) -> Result<()> {
    let mut admins = ring.with_role(Role::Admin);
    let Some((_, last)) = admins.next().filter(|(first, _)| *first == key) else { return Ok(()) };
    if admins.next().is_some() {
        return Ok(());
    }
    let last = escape_bounded(last, 200);
    Err(Problem::new(
        Kind::NotNow,
        format!(
            "key: {key} of {last} is the last key of an admin: without it nobody can enrol or revoke people any more. Enrol another admin \
             first ('exhibit person enroll REQUEST --role admin --out ANSWER'). If the key is lost or stolen, whoever has the deployment's \
             root key replaces it at once: 'exhibit-coordinator recover-admin'"
        ),
    ))
}

fn check_reason(p: &Revocation) -> Result<()> {
    written(&p.reason, exhibit_proto::bounds::REASON_BYTES_MAX).map_err(|why| Problem::invalid(format!("reason: {why}")))
}
