//! Who may sign what. Trust begins at the anchor and grows only by enrolments that were themselves verified; an order's
//! agent, the coordinator's intake and the offline verifier all use this one key ring.

use std::collections::{BTreeMap, BTreeSet};

use super::{BadRecord, Enrolment, Record, Role};
use crate::anchor::Anchor;
use crate::digest::Digest;
use crate::dsse::Envelope;
use crate::id::AgentId;
use crate::key::{KeyId, PublicKey};

/// A record whose signature was checked against an enrolled key that may sign records of its type.
/// Made only by [`KeyRing::verify`].
#[derive(Debug, Clone)]
pub struct Verified {
    record: Record,
    digest: Digest,
    keyid: KeyId,
    signer: String,
}

impl Verified {
    /// The record.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Digest of the envelope.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The key that signed.
    #[must_use]
    pub const fn keyid(&self) -> KeyId {
        self.keyid
    }

    /// The name that the signing key is enrolled under; the root's is `root`.
    #[must_use]
    pub fn signer(&self) -> &str {
        &self.signer
    }
}

/// Why a record is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The key was never enrolled under this anchor.
    #[error("signed by key {0}, which is not enrolled under this anchor")]
    UnknownKey(KeyId),
    /// The signature does not hold: the record was altered, or signed by another key.
    #[error("the signature of key {0} does not match the record")]
    BadSignature(KeyId),
    /// The key was revoked before.
    #[error("signed by key {0} ({1}) after it was revoked")]
    Revoked(KeyId, String),
    /// The key's roles do not allow this type of record, or it names somebody else.
    #[error("{signer} may not sign this {record_type} record: {why}")]
    NotAuthorized {
        /// Name of the signer.
        signer: String,
        /// Type of the record.
        record_type: &'static str,
        /// The rule.
        why: &'static str,
    },
    /// The payload is no record.
    #[error(transparent)]
    BadRecord(#[from] BadRecord),
}

#[derive(Debug, Clone)]
struct Holder {
    key: PublicKey,
    name: String,
    roles: BTreeSet<Role>,
    enrolment: Option<Digest>,
    revoked: bool,
}

/// The keys that are trusted at one point of a log, with their names and roles.
#[derive(Debug, Clone)]
pub struct KeyRing {
    deployment: String,
    root: KeyId,
    holders: BTreeMap<KeyId, Holder>,
}

impl KeyRing {
    /// A ring that trusts only the anchor's root.
    #[must_use]
    pub fn new(anchor: &Anchor) -> Self {
        let root = anchor.root_key.id();
        let holder = Holder { key: anchor.root_key, name: "root".to_owned(), roles: BTreeSet::new(), enrolment: None, revoked: false };
        Self { deployment: anchor.deployment.clone(), root, holders: BTreeMap::from([(root, holder)]) }
    }

    /// Verifies an envelope: key known and not revoked, signature good, record well formed, signer allowed to make it.
    /// Enrolments and revocations take effect in the ring.
    ///
    /// # Errors
    /// [`TrustError`]
    pub fn verify(&mut self, envelope: &Envelope) -> Result<Verified, TrustError> {
        let keyid = envelope.keyid();
        let holder = self.holders.get(&keyid).ok_or(TrustError::UnknownKey(keyid))?;
        let payload = envelope.verified_payload(&holder.key).ok_or(TrustError::BadSignature(keyid))?;
        if holder.revoked {
            return Err(TrustError::Revoked(keyid, holder.name.clone()));
        }
        let record = Record::from_payload(payload)?;
        let signer = holder.name.clone();
        self.authorize(&record, keyid, holder).map_err(|why| TrustError::NotAuthorized {
            signer: signer.clone(),
            record_type: record.type_name(),
            why,
        })?;
        self.apply(&record, envelope.digest());
        Ok(Verified { record, digest: envelope.digest(), keyid, signer })
    }

    /// Name, roles and key of an enrolled, unrevoked key.
    #[must_use]
    pub fn holder(&self, key: KeyId) -> Option<(&str, &BTreeSet<Role>, &PublicKey)> {
        self.holders.get(&key).filter(|h| !h.revoked).map(|h| (h.name.as_str(), &h.roles, &h.key))
    }

    /// The roles of everything enrolled under a name and not revoked; empty when the name holds no key.
    #[must_use]
    pub fn roles_of(&self, name: &str) -> BTreeSet<Role> {
        self.holders.values().filter(|h| !h.revoked && h.name == name).flat_map(|h| h.roles.iter().copied()).collect()
    }

    /// The digest of the enrolment record of a key.
    #[must_use]
    pub fn enrolment_of(&self, key: KeyId) -> Option<Digest> {
        self.holders.get(&key).and_then(|h| h.enrolment)
    }

    fn authorize(&self, record: &Record, keyid: KeyId, holder: &Holder) -> Result<(), &'static str> {
        let need = |role: Role, why: &'static str| if holder.roles.contains(&role) { Ok(()) } else { Err(why) };
        let named = |name: &str| if holder.name == name { Ok(()) } else { Err("it names another signer than the key's holder") };
        let agent = |id: &str| {
            need(Role::Agent, "only an agent's key may sign it")?;
            named(&format!("spiffe://{}/agent/{id}", self.deployment))
        };
        match record {
            Record::CaseOpened(p) => {
                if p.deployment != self.deployment {
                    return Err("it belongs to another deployment");
                }
                need(Role::Responder, "only a responder's key may sign it").and_then(|()| named(&p.opened_by))
            }
            Record::CaseClosed(p) => need(Role::Responder, "only a responder's key may sign it").and_then(|()| named(&p.closed_by)),
            Record::Order(p) => need(Role::Responder, "only a responder's key may sign it").and_then(|()| named(&p.issued_by)),
            Record::Refusal(p) => agent(p.agent.as_str()),
            Record::Acquisition(p) => agent(p.agent.as_str()),
            Record::Receipt(_) | Record::Seal(_) | Record::Access(_) | Record::Stamped(_) | Record::NotStamped(_) => {
                need(Role::Log, "only the coordinator's log key may sign it")
            }
            Record::Incident(p) => {
                if p.deployment != self.deployment {
                    return Err("it belongs to another deployment");
                }
                need(Role::Log, "only the coordinator's log key may sign it")
            }
            Record::Enrolment(p) => self.authorize_enrolment(p, keyid, holder),
            Record::Revocation(p) => {
                if p.deployment != self.deployment {
                    return Err("it belongs to another deployment");
                }
                let target = self.holders.get(&p.key).ok_or("it revokes a key that was never enrolled")?;
                if target.enrolment != Some(p.predecessor) {
                    return Err("its predecessor is not the enrolment of the key that it revokes");
                }
                self.may_manage(keyid, holder, &target.roles)
            }
        }
    }

    fn authorize_enrolment(&self, p: &Enrolment, keyid: KeyId, holder: &Holder) -> Result<(), &'static str> {
        if p.deployment != self.deployment || !p.name.starts_with(&format!("spiffe://{}/", self.deployment)) {
            return Err("it belongs to another deployment");
        }
        if p.predecessor != holder.enrolment {
            return Err("its predecessor is not the enrolment of the key that signed it");
        }
        let agents = format!("spiffe://{}/agent/", self.deployment);
        let is_agent = p.roles.contains(&Role::Agent) || p.name.starts_with(&agents);
        if is_agent && (p.name != format!("{agents}{}", AgentId::of_key(&p.key.id())) || p.roles != [Role::Agent]) {
            return Err("an agent's name holds the id that follows from its key, and it has no other role");
        }
        if let Some(known) = self.holders.get(&p.key.id())
            && (known.name != p.name || known.revoked)
        {
            return Err("the key is already enrolled under another name, or was revoked");
        }
        self.may_manage(keyid, holder, &p.roles.iter().copied().collect())
    }

    /// The root manages every key, an issuer agents, an admin people.
    fn may_manage(&self, keyid: KeyId, holder: &Holder, roles: &BTreeSet<Role>) -> Result<(), &'static str> {
        let people = [Role::Admin, Role::Responder, Role::Approver, Role::Custodian, Role::Auditor];
        let all_of = |allowed: &[Role]| !roles.is_empty() && roles.iter().all(|r| allowed.contains(r));
        if keyid == self.root
            || (holder.roles.contains(&Role::Issuer) && all_of(&[Role::Agent]))
            || (holder.roles.contains(&Role::Admin) && all_of(&people))
        {
            Ok(())
        } else {
            Err("an issuer may manage only agents' keys, an admin only people's, and everything else only the root")
        }
    }

    fn apply(&mut self, record: &Record, digest: Digest) {
        match record {
            Record::Enrolment(p) => {
                self.holders.entry(p.key.id()).or_insert_with(|| Holder {
                    key: p.key,
                    name: p.name.clone(),
                    roles: p.roles.iter().copied().collect(),
                    enrolment: Some(digest),
                    revoked: false,
                });
            }
            Record::Revocation(p) => {
                if let Some(holder) = self.holders.get_mut(&p.key) {
                    holder.revoked = true;
                }
            }
            _ => {}
        }
    }
}
