//! Enrolment: how a key gets a name. Records are signed here; the wire is elsewhere.

use exhibit_evidence::CaseId;
use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::dsse::{BadEnvelope, Envelope};
use exhibit_evidence::key::{PublicKey, SigningKey};
use exhibit_evidence::record::{self, Enrolment, KeyRing, Record, Role};
use exhibit_evidence::{Digest, Timestamp};

use crate::name::{DeploymentName, PeerName};

/// Most enrolment records in a chain.
pub const CHAIN_MAX: usize = 8;

/// A key that enrols others: the root, the coordinator's issuer key or an admin's key.
pub struct Enroller<'a> {
    /// Its key.
    pub key: &'a SigningKey,
    /// Its own enrolment; `None` for the root.
    pub enrolment: Option<&'a Envelope>,
}

impl Enroller<'_> {
    /// Signs an enrolment record. Whether this key may enrol that one is decided by whoever verifies it
    /// ([`KeyRing`]): issuers enrol agents, admins people, the root everybody.
    ///
    /// # Errors
    /// [`BadEnvelope`]
    pub fn enrol(&self, name: &PeerName, key: PublicKey, roles: &[Role], method: &str, now: Timestamp) -> Result<Envelope, BadEnvelope> {
        self.enrol_in(name, key, (roles, None), method, now)
    }

    /// [`Enroller::enrol`] with roles that hold in some cases only.
    ///
    /// # Errors
    /// [`BadEnvelope`]
    pub fn enrol_in(
        &self,
        name: &PeerName,
        key: PublicKey,
        (roles, cases): (&[Role], Option<Vec<CaseId>>),
        method: &str,
        now: Timestamp,
    ) -> Result<Envelope, BadEnvelope> {
        let enrolment = Enrolment {
            deployment: name.deployment().to_string(),
            name: name.to_string(),
            key,
            roles: roles.to_vec(),
            cases,
            predecessor: self.enrolment.map(Envelope::digest),
            method: method.to_owned(),
            enrolled_at: now,
        };
        record::sign(&enrolment, self.key)
    }
}

/// The bytes that the evidence key signs in an enrolment request: they tie the TLS key, the evidence key and the token
/// to each other, so that none can be exchanged on the way.
#[must_use]
pub fn proof_message(tls_request: &[u8], token: &str) -> Vec<u8> {
    let mut message = b"exhibit enroll v1\n".to_vec();
    message.extend_from_slice(Digest::of(tls_request).as_bytes());
    message.extend_from_slice(token.as_bytes());
    message
}

/// Signs the proof of an enrolment request.
#[must_use]
pub fn sign_proof(key: &SigningKey, tls_request: &[u8], token: &str) -> [u8; 64] {
    key.sign(&proof_message(tls_request, token))
}

/// Checks the proof of an enrolment request.
#[must_use]
pub fn verify_proof(key: &PublicKey, tls_request: &[u8], token: &str, proof: &[u8]) -> bool {
    key.verifies(&proof_message(tls_request, token), proof)
}

/// Why a chain of enrolments does not carry a key to a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadChain {
    /// Too many records.
    #[error("{0} enrolment records: at most {CHAIN_MAX} are possible")]
    TooLong(usize),
    /// One of them does not verify.
    #[error("enrolment record {number} of {count} does not verify under the anchor: {why}")]
    Record {
        /// Which, from 1.
        number: usize,
        /// Of how many.
        count: usize,
        /// Why.
        why: String,
    },
    /// One of them is not an enrolment.
    #[error("record {0} of the enrolment chain is of another type")]
    NotEnrolment(usize),
    /// The key is not enrolled by them.
    #[error("the enrolment records do not enrol key {key} as {name}")]
    OtherKey {
        /// The key.
        key: Digest,
        /// The name that was expected.
        name: String,
    },
}

/// Verifies a chain of enrolments from the anchor and returns the ring that they make.
///
/// # Errors
/// [`BadChain`]
pub fn verify_chain(anchor: &Anchor, chain: &[Envelope]) -> Result<KeyRing, BadChain> {
    if chain.len() > CHAIN_MAX {
        return Err(BadChain::TooLong(chain.len()));
    }
    let mut ring = KeyRing::new(anchor);
    for (i, envelope) in chain.iter().enumerate() {
        let verified = ring.verify(envelope).map_err(|e| BadChain::Record { number: i + 1, count: chain.len(), why: e.to_string() })?;
        if !matches!(verified.record(), Record::Enrolment(_)) {
            return Err(BadChain::NotEnrolment(i + 1));
        }
    }
    Ok(ring)
}

/// [`verify_chain`], and the key must be enrolled under the name.
///
/// # Errors
/// [`BadChain`]
pub fn verify_holder(anchor: &Anchor, chain: &[Envelope], key: &PublicKey, name: &PeerName) -> Result<KeyRing, BadChain> {
    let ring = verify_chain(anchor, chain)?;
    match ring.holder(key.id()) {
        Some((holder, _, _)) if holder == name.to_string() => Ok(ring),
        _ => Err(BadChain::OtherKey { key: key.id(), name: name.to_string() }),
    }
}

/// The anchor of a deployment.
#[must_use]
pub fn anchor(deployment: &DeploymentName, root_key: PublicKey) -> Anchor {
    Anchor { format: exhibit_evidence::anchor::FORMAT.to_owned(), deployment: deployment.to_string(), root_key }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_one_request_and_one_token() {
        let key = SigningKey::from_seed(&[1; 32]);
        let proof = sign_proof(&key, b"request", "token");
        assert!(verify_proof(&key.public(), b"request", "token", &proof));
        assert!(!verify_proof(&key.public(), b"Request", "token", &proof));
        assert!(!verify_proof(&key.public(), b"request", "Token", &proof));
        assert!(!verify_proof(&SigningKey::from_seed(&[2; 32]).public(), b"request", "token", &proof));
        assert!(!verify_proof(&key.public(), b"request", "token", &proof[..63]));
    }

    #[test]
    fn chains_carry_a_key_to_exactly_one_name() {
        let [root, issuer, agent] = [1, 2, 3].map(|n| SigningKey::from_seed(&[n; 32]));
        let deployment: DeploymentName = "acme".parse().expect("name");
        let anchor = anchor(&deployment, root.public());
        let name = |text: &str| text.parse::<PeerName>().expect("name");
        let now = Timestamp::from_unix_s(1_700_000_000);
        let issuer_name = name("spiffe://acme/coordinator/issuer");
        let first =
            Enroller { key: &root, enrolment: None }.enrol(&issuer_name, issuer.public(), &[Role::Issuer], "init", now).expect("small");
        let enroller = Enroller { key: &issuer, enrolment: Some(&first) };
        let agent_name = name(&format!("spiffe://acme/agent/{}", exhibit_evidence::AgentId::of_key(&agent.public().id())));
        let second = enroller.enrol(&agent_name, agent.public(), &[Role::Agent], "token", now).expect("small");
        let chain = [first.clone(), second.clone()];
        assert!(verify_holder(&anchor, &chain, &agent.public(), &agent_name).is_ok());
        let other = name("spiffe://acme/agent/agt-01hf7yat00zzzzzzzzzzzzzzz0");
        assert!(matches!(verify_holder(&anchor, &chain, &agent.public(), &other), Err(BadChain::OtherKey { .. })));
        assert!(matches!(verify_holder(&anchor, &[second], &agent.public(), &agent_name), Err(BadChain::Record { number: 1, .. })));
        // An issuer enrols agents only.
        let person = enroller.enrol(&name("spiffe://acme/responder/eve"), agent.public(), &[Role::Admin], "admin", now).expect("small");
        assert!(matches!(verify_chain(&anchor, &[first, person]), Err(BadChain::Record { number: 2, .. })));
    }
}
