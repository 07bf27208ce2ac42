//! How agents come in and go out: tokens, enrolment, renewal, revocation.

pub mod people;

use std::sync::Arc;

use exhibit_certs::enrol::{Enroller, verify_proof};
use exhibit_certs::issue::{IssueError, Issued, REQUEST_BYTES_MAX};
use exhibit_certs::name::PeerName;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::AgentId;
use exhibit_evidence::key::{KeyId, PublicKey};
use exhibit_evidence::record::{self, Outcome, Revocation, Role};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{Digest, Timestamp};

use crate::catalog::{AgentRow, CollectionFilter, Ending, Labels, Seen, State, TokenRow, TokenUse};
use crate::clock;
use crate::dispatch::{self, Cut, admit, orders};
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

/// Shortest and longest life of a token, seconds.
pub const TOKEN_LIFE_S: std::ops::RangeInclusive<u64> = 60..=604_800;
/// Most agents that one token enrols.
pub const TOKEN_USES_MAX: u32 = 1_000;
/// Longest token text that is looked at.
pub const TOKEN_BYTES_MAX: usize = 200;
/// What a token begins with, so that people and secret scanners know one.
const TOKEN_PREFIX: &str = "exhibit-token-";

/// Makes a one-time token: 256 random bits. Only its SHA-256 is kept.
///
/// # Errors
/// [`Problem`]
pub async fn create_token(parts: &Parts, by: &str, life_s: u64, uses: u32, labels: Labels) -> Result<(String, Timestamp)> {
    let longest = parts.issuing.rules.token_life_s_max.min(*TOKEN_LIFE_S.end());
    if life_s < *TOKEN_LIFE_S.start() || life_s > longest {
        return Err(Problem::invalid(format!("ttl_s: {life_s}: expected {} to {longest}", TOKEN_LIFE_S.start())));
    }
    if uses == 0 || uses > TOKEN_USES_MAX {
        return Err(Problem::invalid(format!("uses: {uses}: expected 1 to {TOKEN_USES_MAX}")));
    }
    // A digest's text form is the hexadecimal one.
    let token = format!("{TOKEN_PREFIX}{}", Digest::from_bytes(clock::random()));
    let now = clock::now();
    let expires_at = now.plus_s(life_s as i64);
    let row =
        TokenRow { sha256: Digest::of(token.as_bytes()), labels, uses_left: uses, expires_at, created_by: by.to_owned(), created_at: now };
    parts.catalog.add_token(row).await?;
    tracing::info!(by = %escape_bounded(by, 200), uses, %expires_at, "enrolment token made");
    Ok((token, expires_at))
}

/// A request to enrol, sizes checked.
#[derive(Clone)]
pub struct Request {
    /// The token as sent.
    pub token: String,
    /// PKCS #10 for the TLS key.
    pub tls_csr: Vec<u8>,
    /// The evidence key.
    pub key: PublicKey,
    /// Signature by the evidence key.
    pub proof: Vec<u8>,
    /// Host name, a claim.
    pub hostname: String,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request(key {})", self.key.id())
    }
}

/// What an enrolled agent gets.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// Its id.
    pub agent: AgentId,
    /// Its certificate.
    pub certificate: Issued,
    /// Enrolments from the root to its key.
    pub chain: Vec<Envelope>,
}

/// Enrols an agent.
///
/// Order of writes: (1) one use of the token, tied to the evidence key, in the catalog; (2) the enrolment record in the
/// deployment's log; (3) the agent in the catalog; (4) the answer. Died in between, or the answer was lost: the same
/// token and key are let through again and get the same agent. A key that is enrolled already keeps its agent: that is
/// how an agent whose certificate has ended comes back, with a new token.
///
/// # Errors
/// [`Problem`]; about tokens it says no more than a holder of the token may know.
pub async fn enroll(parts: &Arc<Parts>, request: &Request) -> Result<Enrolled> {
    let issuing = &parts.issuing;
    if !verify_proof(&request.key, &request.tls_csr, &request.token, &request.proof) {
        return Err(Problem::new(Kind::Denied, "proof: the evidence key's signature does not hold over this request and token"));
    }
    let key = request.key.id();
    let known = enrolled_as(parts, key).await?;
    let now = clock::now();
    let proposed = match &known {
        Some(agent) => agent.clone(),
        None => AgentId::of_key(&key),
    };
    let used = parts.catalog.use_token(Digest::of(request.token.as_bytes()), key, proposed.clone(), now).await?;
    let (agent, labels) = match used {
        TokenUse::Taken { labels } => (proposed, labels),
        TokenUse::Repeated { agent, labels } => (agent, labels),
        TokenUse::Unknown => {
            return Err(Problem::new(
                Kind::Denied,
                "token: not a token of this deployment, or mistyped; ask an admin for one ('exhibit token create')",
            ));
        }
        TokenUse::Expired(at) => return Err(Problem::new(Kind::Denied, format!("token: expired at {at}; ask an admin for another one"))),
        TokenUse::UsedUp => return Err(Problem::new(Kind::Denied, "token: already used; ask an admin for another one")),
    };
    let name = PeerName::Agent(issuing.deployment.clone(), agent.clone());
    // The certificate first: it is made in memory, and a bad request must not leave a record.
    let certificate = issuing.authority.issue_client(&request.tls_csr, &name, issuing.agent_life(), now).map_err(issue_problem)?;
    if known.is_none() {
        let enroller = Enroller { key: &issuing.key, enrolment: Some(&issuing.enrolment) };
        let record =
            enroller.enrol(&name, request.key, &[Role::Agent], "token", now).map_err(|e| Problem::new(Kind::Failed, e.to_string()))?;
        parts.ledgers.deployment().await?.append(vec![record]).await?;
    }
    let chain = parts.ledgers.chain_of(key).await?;
    let enrolment = chain.last().map_or(key, Envelope::digest);
    let row = AgentRow {
        agent: agent.clone(),
        key,
        enrolment,
        enrolled_at: now,
        labels,
        revoked: None,
        alarm: None,
        seen: Seen { hostname: request.hostname.clone(), ..Seen::default() },
    };
    parts.catalog.add_agent(row).await?;
    tracing::info!(%agent, %key, hostname = %escape_bounded(&request.hostname, 100), "agent enrolled");
    Ok(Enrolled { agent, certificate, chain })
}

/// The agent that holds a key already; a key of somebody else is refused.
async fn enrolled_as(parts: &Parts, key: KeyId) -> Result<Option<AgentId>> {
    let ledger = parts.ledgers.deployment().await?;
    let Some(_) = ledger.key_ring().enrolment_of(key) else { return Ok(None) };
    let ring = ledger.key_ring();
    let Some((name, _, _)) = ring.holder(key) else {
        return Err(Problem::new(
            Kind::Denied,
            "evidence_key: this key was revoked; delete the agent's state folder and enrol with new keys",
        ));
    };
    match name.parse::<PeerName>() {
        Ok(PeerName::Agent(_, agent)) => Ok(Some(agent)),
        _ => Err(Problem::new(Kind::Denied, "evidence_key: this key belongs to a person or to the coordinator")),
    }
}

fn issue_problem(e: IssueError) -> Problem {
    match e {
        IssueError::BadRequest(_) => Problem::invalid(format!("tls_csr: {e}")),
        other => Problem::new(Kind::Failed, other.to_string()),
    }
}

/// Renews an agent's certificate: for the name of the certificate that it connected with, and no other.
///
/// # Errors
/// [`Problem`]
pub async fn renew(parts: &Parts, agent: &AgentId, tls_csr: &[u8]) -> Result<Issued> {
    if tls_csr.len() > REQUEST_BYTES_MAX {
        return Err(Problem::invalid(format!("tls_csr: {} bytes, at most {REQUEST_BYTES_MAX} are allowed", tls_csr.len())));
    }
    let row = parts.catalog.agent(agent.clone()).await?;
    if row.is_none_or(|row| row.revoked.is_some()) {
        return Err(Problem::new(Kind::Denied, format!("agent {agent} is unknown or revoked")));
    }
    let name = PeerName::Agent(parts.issuing.deployment.clone(), agent.clone());
    let issued = parts.issuing.authority.issue_client(tls_csr, &name, parts.issuing.agent_life(), clock::now()).map_err(issue_problem)?;
    tracing::info!(%agent, not_after = %issued.facts.not_after, "certificate renewed");
    Ok(issued)
}

/// Revokes an agent: nothing that its key signs is accepted any more, and it is cut off at once.
///
/// Order of writes: (1) the revocation in the deployment's log; (2) the catalog; (3) memory, sessions, uploads,
/// connections; (4) its open collections end with what arrived. Died after 1: the admin's repeat, and the next start,
/// which reads the log's key ring, do the rest.
///
/// # Errors
/// [`Problem`]
pub async fn revoke(parts: &Arc<Parts>, by: &str, agent: &AgentId, reason: &str) -> Result<AgentRow> {
    let row = parts.catalog.agent(agent.clone()).await?;
    let row = row.ok_or_else(|| Problem::new(Kind::NotFound, format!("agent: there is no agent {agent}")))?;
    let now = clock::now();
    let words = escape_bounded(&format!("{reason} (by {by})"), 1_200);
    let ledger = parts.ledgers.deployment().await?;
    if ledger.key_ring().holder(row.key).is_some() {
        let revocation = Revocation {
            deployment: parts.deployment().to_owned(),
            key: row.key,
            predecessor: row.enrolment,
            reason: words.clone(),
            revoked_at: now,
        };
        let signed = record::sign(&revocation, &parts.issuing.key).map_err(|e| Problem::new(Kind::Failed, e.to_string()))?;
        let digest = signed.digest();
        let not_known = format!(
            "agent: it is not known whether {agent} was revoked: the record may be in the deployment's log, and then it counts when that is \
             read anew. Mend what failed and revoke the agent again: that is safe; exhibit agents shows it"
        );
        orders::written(&ledger, &digest, ledger.append(vec![signed]).await, &not_known).await?;
    }
    parts.catalog.revoke_agent(agent.clone(), now, words.clone()).await?;
    parts.revoked.add(agent.clone());
    parts.sessions.cut(agent, Cut::Revoked);
    let open = admit::select(parts, CollectionFilter { agent: Some(agent.clone()), open: true, ..CollectionFilter::default() }).await?;
    for row in &open {
        parts.uploads.cut(&row.collection);
    }
    parts.disconnect_everywhere(&parts.agent_name(agent));
    for row in &open {
        let ending = Ending { outcome: Outcome::Failed, reason: Some(format!("the agent was revoked: {words}")), refusal: None };
        dispatch::end(parts, &row.collection, &[State::Unapproved, State::Queued, State::Offered, State::Running], ending).await?;
    }
    tracing::warn!(%agent, by = %escape_bounded(by, 200), "agent revoked");
    let row = parts.catalog.agent(agent.clone()).await?;
    row.ok_or_else(|| Problem::new(Kind::NotFound, format!("agent: there is no agent {agent}")))
}
