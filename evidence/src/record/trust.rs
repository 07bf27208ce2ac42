//! Who may sign what. Trust begins at the anchor and grows only by enrolments that were themselves verified; an order's
//! agent, the coordinator's intake and the offline verifier all use this one key ring.

use std::collections::{BTreeMap, BTreeSet};

use super::{BadRecord, Enrolment, Record, Role};
use crate::anchor::Anchor;
use crate::digest::Digest;
use crate::dsse::Envelope;
use crate::id::{AgentId, CaseId};
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

/// What a key or a name may do, and in which cases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rights(Vec<(BTreeSet<Role>, Option<BTreeSet<CaseId>>)>);

impl Rights {
    /// Rights that hold in every case.
    #[must_use]
    pub fn everywhere(roles: impl IntoIterator<Item = Role>) -> Self {
        Self(vec![(roles.into_iter().collect(), None)])
    }

    /// Rights that hold in some cases only.
    #[must_use]
    pub fn limited(roles: impl IntoIterator<Item = Role>, cases: impl IntoIterator<Item = CaseId>) -> Self {
        Self(vec![(roles.into_iter().collect(), Some(cases.into_iter().collect()))])
    }

    /// Adds what an enrolment gives.
    fn add(&mut self, p: &Enrolment) {
        let right = (p.roles.iter().copied().collect(), p.cases.as_ref().map(|c| c.iter().cloned().collect()));
        if !self.0.contains(&right) {
            self.0.push(right);
        }
    }

    /// The roles in any case at all.
    #[must_use]
    pub fn roles(&self) -> BTreeSet<Role> {
        self.0.iter().flat_map(|(roles, _)| roles.iter().copied()).collect()
    }

    /// The roles in a case.
    #[must_use]
    pub fn in_case(&self, case: &CaseId) -> BTreeSet<Role> {
        let here = |cases: &Option<BTreeSet<CaseId>>| cases.as_ref().is_none_or(|c| c.contains(case));
        self.0.iter().filter(|(_, cases)| here(cases)).flat_map(|(roles, _)| roles.iter().copied()).collect()
    }

    /// The cases in which a role holds; `None` when it holds in every case.
    #[must_use]
    pub fn cases_of(&self, role: Role) -> Option<BTreeSet<CaseId>> {
        let mut cases = BTreeSet::new();
        for (_, here) in self.0.iter().filter(|(roles, _)| roles.contains(&role)) {
            cases.extend(here.as_ref()?.iter().cloned());
        }
        Some(cases)
    }

    /// The roles that hold everywhere.
    #[must_use]
    pub fn unlimited(&self) -> BTreeSet<Role> {
        self.0.iter().filter(|(_, cases)| cases.is_none()).flat_map(|(roles, _)| roles.iter().copied()).collect()
    }
}

#[derive(Debug, Clone)]
struct Holder {
    key: PublicKey,
    name: String,
    /// All roles, wherever they hold.
    roles: BTreeSet<Role>,
    rights: Rights,
    /// Its enrolments, the first one first; the root has none.
    enrolments: Vec<Digest>,
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
        let holder = Holder {
            key: anchor.root_key,
            name: "root".to_owned(),
            roles: BTreeSet::new(),
            rights: Rights::default(),
            enrolments: Vec::new(),
            revoked: false,
        };
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

    /// What everything enrolled under a name and not revoked may do, all its keys together; nothing when the name holds no key. For
    /// what is known of a person by name alone; of somebody who acts, [`KeyRing::rights_of_key`] says what the key may.
    #[must_use]
    pub fn rights_of(&self, name: &str) -> Rights {
        Rights(self.holders.values().filter(|h| !h.revoked && h.name == name).flat_map(|h| h.rights.0.iter().cloned()).collect())
    }

    /// What a key may do: what its own enrolments say, and nothing of another key of the same name; nothing when it is revoked or
    /// was never enrolled.
    #[must_use]
    pub fn rights_of_key(&self, key: KeyId) -> Rights {
        self.holders.get(&key).filter(|h| !h.revoked).map(|h| h.rights.clone()).unwrap_or_default()
    }

    /// The keys that are enrolled under a name and not revoked.
    #[must_use]
    pub fn keys_of(&self, name: &str) -> Vec<KeyId> {
        self.holders.iter().filter(|(_, h)| !h.revoked && h.name == name).map(|(id, _)| *id).collect()
    }

    /// True when some key was ever enrolled under a name, revoked or not.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.holders.values().any(|h| h.name == name)
    }

    /// The name that a key is enrolled under, revoked or not: who somebody was does not end with the key.
    #[must_use]
    pub fn name_of(&self, key: KeyId) -> Option<&str> {
        self.holders.get(&key).map(|h| h.name.as_str())
    }

    /// True when a key was enrolled and is revoked.
    #[must_use]
    pub fn is_revoked(&self, key: KeyId) -> bool {
        self.holders.get(&key).is_some_and(|h| h.revoked)
    }

    /// The keys that have a role anywhere and are not revoked, with their names.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = (KeyId, &str)> {
        self.holders.iter().filter(move |(_, h)| !h.revoked && h.roles.contains(&role)).map(|(id, h)| (*id, h.name.as_str()))
    }

    /// The digest of the first enrolment record of a key.
    #[must_use]
    pub fn enrolment_of(&self, key: KeyId) -> Option<Digest> {
        self.holders.get(&key).and_then(|h| h.enrolments.first().copied())
    }

    fn authorize(&self, record: &Record, keyid: KeyId, holder: &Holder) -> Result<(), &'static str> {
        let need = |role: Role, why: &'static str| if holder.roles.contains(&role) { Ok(()) } else { Err(why) };
        let agent = |id: &str| {
            need(Role::Agent, "only an agent's key may sign it")?;
            named(holder, &format!("spiffe://{}/agent/{id}", self.deployment))
        };
        match record {
            Record::Refusal(p) => agent(p.agent.as_str()),
            Record::Acquisition(p) => agent(p.agent.as_str()),
            Record::Incident(p) if p.deployment != self.deployment => Err("it belongs to another deployment"),
            Record::Receipt(_)
            | Record::Seal(_)
            | Record::Access(_)
            | Record::Destruction(_)
            | Record::Incident(_)
            | Record::Stamped(_)
            | Record::NotStamped(_) => need(Role::Log, "only the coordinator's log key may sign it"),
            Record::Enrolment(p) => self.authorize_enrolment(p, keyid, holder),
            Record::Revocation(p) => {
                if p.deployment != self.deployment {
                    return Err("it belongs to another deployment");
                }
                let target = self.holders.get(&p.key).ok_or("it revokes a key that was never enrolled")?;
                if !target.enrolments.contains(&p.predecessor) {
                    return Err("its predecessor is not an enrolment of the key that it revokes");
                }
                self.may_manage(keyid, holder, &target.roles)
            }
            Record::CaseOpened(p) if p.deployment != self.deployment => Err("it belongs to another deployment"),
            _ => authorize_person(record, holder),
        }
    }

    fn authorize_enrolment(&self, p: &Enrolment, keyid: KeyId, holder: &Holder) -> Result<(), &'static str> {
        if p.deployment != self.deployment || !p.name.starts_with(&format!("spiffe://{}/", self.deployment)) {
            return Err("it belongs to another deployment");
        }
        if !p.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b":/.-_".contains(&b)) {
            return Err("its name has other characters than a-z 0-9 . - _: it could be taken for another one");
        }
        if p.predecessor.map_or(!holder.enrolments.is_empty(), |d| !holder.enrolments.contains(&d)) {
            return Err("its predecessor is not an enrolment of the key that signed it");
        }
        let agents = format!("spiffe://{}/agent/", self.deployment);
        let is_agent = p.roles.contains(&Role::Agent) || p.name.starts_with(&agents);
        if is_agent && (p.name != format!("{agents}{}", AgentId::of_key(&p.key.id())) || p.roles != [Role::Agent]) {
            return Err("an agent's name holds the id that follows from its key, and it has no other role");
        }
        let mut roles: BTreeSet<Role> = p.roles.iter().copied().collect();
        if let Some(cases) = &p.cases {
            if cases.is_empty() || cases.len() > Enrolment::CASES_MAX {
                return Err("it names no case, or more than 200");
            }
            if roles.contains(&Role::Admin) || !roles.is_subset(&PEOPLE) {
                return Err("only the roles of people who work on cases can be limited to cases");
            }
        }
        if let Some(known) = self.holders.get(&p.key.id()) {
            if known.name != p.name || known.revoked {
                return Err("the key is already enrolled under another name, or was revoked");
            }
            // Whoever adds to a key must be entitled to all that it has.
            roles.extend(&known.roles);
        }
        self.may_manage(keyid, holder, &roles)
    }

    /// The root manages every key, an issuer agents, an admin people.
    fn may_manage(&self, keyid: KeyId, holder: &Holder, roles: &BTreeSet<Role>) -> Result<(), &'static str> {
        let all_of = |allowed: &BTreeSet<Role>| !roles.is_empty() && roles.is_subset(allowed);
        if keyid == self.root
            || (holder.roles.contains(&Role::Issuer) && all_of(&BTreeSet::from([Role::Agent])))
            || (holder.roles.contains(&Role::Admin) && all_of(&PEOPLE))
        {
            Ok(())
        } else {
            Err("an issuer may manage only agents' keys, an admin only people's, and everything else only the root")
        }
    }

    fn apply(&mut self, record: &Record, digest: Digest) {
        match record {
            Record::Enrolment(p) => {
                let holder = self.holders.entry(p.key.id()).or_insert_with(|| Holder {
                    key: p.key,
                    name: p.name.clone(),
                    roles: BTreeSet::new(),
                    rights: Rights::default(),
                    enrolments: Vec::new(),
                    revoked: false,
                });
                holder.roles.extend(&p.roles);
                holder.rights.add(p);
                if !holder.enrolments.contains(&digest) {
                    holder.enrolments.push(digest);
                }
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

/// The roles that an admin gives to people.
static PEOPLE: std::sync::LazyLock<BTreeSet<Role>> =
    std::sync::LazyLock::new(|| BTreeSet::from([Role::Admin, Role::Responder, Role::Approver, Role::Custodian, Role::Auditor]));

fn named(holder: &Holder, name: &str) -> Result<(), &'static str> {
    if holder.name == name { Ok(()) } else { Err("it names another signer than the key's holder") }
}

/// The roles of which a person needs one, in the case that a record names, to sign it; none where no person signs it in a case.
#[must_use]
pub const fn roles_to_sign(record: &Record) -> &'static [Role] {
    match record {
        Record::CaseOpened(_) | Record::CaseClosed(_) | Record::Order(_) => &[Role::Responder],
        Record::Hold(_) => &[Role::Custodian, Role::Responder],
        Record::HoldReleased(_) | Record::Retention(_) | Record::Release(_) | Record::Transfer(_) | Record::Disposal(_) => {
            &[Role::Custodian]
        }
        Record::Approval(_) => &[Role::Approver],
        _ => &[],
    }
}

/// What people sign: each has the role in the case that the record names, and signs in the own name.
fn authorize_person(record: &Record, holder: &Holder) -> Result<(), &'static str> {
    const RESPONDER: &str = "only the key of a responder of this case may sign it";
    const CUSTODIAN: &str = "only the key of a custodian of this case may sign it";
    let (why, name) = match record {
        Record::CaseOpened(p) => (RESPONDER, &p.opened_by),
        Record::CaseClosed(p) => (RESPONDER, &p.closed_by),
        Record::Order(p) => (RESPONDER, &p.issued_by),
        Record::Hold(p) => ("only the key of a custodian or responder of this case may sign it", &p.placed_by),
        Record::HoldReleased(p) => (CUSTODIAN, &p.released_by),
        Record::Retention(p) => (CUSTODIAN, &p.set_by),
        Record::Release(p) => (CUSTODIAN, &p.released_by),
        Record::Transfer(p) => (CUSTODIAN, &p.received_by),
        Record::Disposal(p) => (CUSTODIAN, &p.requested_by),
        Record::Approval(p) => ("only the key of an approver of this case may sign it", &p.approved_by),
        _ => return Err("nobody may sign it"),
    };
    let roles = record.case().map(|case| holder.rights.in_case(case)).unwrap_or_default();
    if !roles_to_sign(record).iter().any(|r| roles.contains(r)) {
        return Err(why);
    }
    named(holder, name)
}
