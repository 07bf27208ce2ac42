//! Revocations in a case's log. A key is revoked in the deployment's log, which nobody has who is given a case: what that one says of the
//! people's keys that stand in the case is copied into it, before the next record that somebody asks for, and so before each export.
//!
//! An agent's key is left out: what it signed before may wait here to be sealed, and would not be taken after the copy.

use std::collections::{BTreeMap, BTreeSet};

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::record::{Enrolment, KeyRing, Predicate as _, Record, Revocation, Role};

use super::{Entry, Kind, Ledger, LedgerError, Ledgers, View};

/// Keys that one admin enrolled, or somebody whom that one enrolled, and that are copied with the admin's revocation: 500 records of 2 KiB
/// at most. Of an admin with more the revocation stays in the deployment's log alone.
const LED_MAX: usize = 500;

/// What is to be copied, in the order in which it verifies: all enrolments come before the first revocation.
#[derive(Debug, Default)]
struct Copies {
    enrolments: Vec<Envelope>,
    /// By their places in the deployment's log: whoever revoked may have been revoked later.
    revocations: BTreeMap<u64, Envelope>,
    /// The keys that the enrolments are of.
    keys: BTreeSet<KeyId>,
}

impl Copies {
    fn enrol(&mut self, chain: Vec<Envelope>) {
        for link in chain {
            if self.enrolments.contains(&link) {
                continue;
            }
            if let Ok(Record::Enrolment(p)) = Record::from_payload(link.unverified_payload()) {
                self.keys.insert(p.key.id());
            }
            self.enrolments.push(link);
        }
    }

    fn into_order(self) -> Vec<Envelope> {
        self.enrolments.into_iter().chain(self.revocations.into_values()).collect()
    }
}

impl Ledgers {
    /// Copies into a case's log the revocations of people's keys that stand in it, each once. With a revocation go the enrolments that it
    /// needs, and those of everybody who still counts by the revoked key's word: after the copy nothing that it signed is taken there.
    ///
    /// Order of writes: (1) the enrolments, (2) the revocations, in the order of the deployment's log. Died between: the next call does
    /// what is missing. What the case's log would not take, because whoever signed it is revoked there, is left out.
    ///
    /// # Errors
    /// As [`Ledgers::get`] and [`Ledger::append`].
    pub async fn ensure_revoked(&self, case: &CaseId) -> Result<(), LedgerError> {
        let log = self.case(case).await?;
        if log.case_opened().is_none() {
            return Ok(());
        }
        let deployment = self.deployment().await?;
        let revoked = deployment.entries(0, &|e| e.kind == Revocation::TYPE, usize::MAX);
        if revoked.is_empty() {
            return Ok(());
        }
        let ring = log.key_ring();
        let mut copies = Copies::default();
        let mut left: Vec<Entry> = revoked;
        loop {
            let next = left.iter().position(|e| e.key.is_some_and(|key| is_due(&ring, &copies, key)));
            let Some(at) = next else { break };
            let entry = left.remove(at);
            let (Some(key), envelope) = (entry.key, deployment.read(entry.n).await?) else { continue };
            if self.with_it(&deployment, case, (key, &entry, &envelope), &mut copies).await? {
                copies.revocations.insert(entry.n, envelope);
            }
        }
        let copies = copies.into_order();
        if taken(&log.view(), &copies).is_empty() {
            return Ok(());
        }
        // Under the writer's lock: somebody else may have copied the same meanwhile.
        log.append_built(move |view| Ok(taken(view, &copies))).await.map(|_| ())
    }

    /// Adds the enrolments that must stand before a revocation; false when there are too many.
    async fn with_it(
        &self,
        deployment: &Ledger,
        case: &CaseId,
        (key, entry, envelope): (KeyId, &Entry, &Envelope),
        copies: &mut Copies,
    ) -> Result<bool, LedgerError> {
        let led = led_by(&deployment.view(), key);
        let keys: BTreeSet<KeyId> = led.iter().filter_map(|e| e.key).collect();
        if keys.len() > LED_MAX {
            let led = keys.len();
            tracing::warn!(%case, %key, led, "the revocation of an admin's key is not copied into the case's log: too many people count by it");
            return Ok(false);
        }
        let Ok(Record::Revocation(p)) = Record::from_payload(envelope.unverified_payload()) else {
            return Err(LedgerError::new(Kind::Damaged, format!("record {} of the deployment's log is not a revocation", entry.n)));
        };
        copies.enrol(self.chain_to(deployment, p.predecessor).await?);
        // The root revokes without an enrolment. Of others all count that make them an admin, and the first one may not.
        for own in deployment.entries(0, &|e| e.kind == Enrolment::TYPE && e.key == Some(entry.keyid), usize::MAX) {
            let chain = self.chain_to(deployment, own.digest).await?;
            if own_is(&chain, |p| p.roles.contains(&Role::Admin)) {
                copies.enrol(chain);
            }
        }
        let ring = deployment.key_ring();
        for of in led {
            let chain = self.chain_to(deployment, of.digest).await?;
            // Of an admin each one may be what an enrolment of somebody else follows from.
            let is_admin = of.key.and_then(|key| ring.holder(key)).is_some_and(|(_, roles, _)| roles.contains(&Role::Admin));
            if is_admin || own_is(&chain, |p| p.holds_in(case)) {
                copies.enrol(chain);
            }
        }
        Ok(true)
    }
}

/// True when the last enrolment of a chain is as asked.
fn own_is(chain: &[Envelope], is: impl Fn(&Enrolment) -> bool) -> bool {
    let own = chain.last().map(|own| Record::from_payload(own.unverified_payload()));
    matches!(own, Some(Ok(Record::Enrolment(p))) if is(&p))
}

/// True for a person's key that counts in the case's log, or is going to by what is copied.
fn is_due(case: &KeyRing, copies: &Copies, key: KeyId) -> bool {
    let of_people = |roles: &BTreeSet<Role>| !roles.iter().any(|role| matches!(role, Role::Agent | Role::Issuer | Role::Log));
    match case.holder(key) {
        Some((_, roles, _)) => of_people(roles),
        None => copies.keys.contains(&key) && !case.is_revoked(key),
    }
}

/// The enrolments of those who count now, signed by a key or by somebody who was enrolled by it.
fn led_by(deployment: &View, key: KeyId) -> Vec<Entry> {
    let (mut by, mut led) = (BTreeSet::from([key]), Vec::new());
    for entry in deployment.entries().iter().filter(|e| e.kind == Enrolment::TYPE && e.key != Some(key)) {
        let Some(of) = entry.key.filter(|_| by.contains(&entry.keyid)) else { continue };
        by.insert(of);
        if deployment.key_ring().holder(of).is_some() {
            led.push(entry.clone());
        }
    }
    led
}

/// What a log lacks of these records and takes.
fn taken(view: &View, copies: &[Envelope]) -> Vec<Envelope> {
    let mut ring = view.key_ring().clone();
    let lacks = |envelope: &&Envelope| view.find(&envelope.digest()).is_none() && ring.verify(envelope).is_ok();
    copies.iter().filter(lacks).cloned().collect()
}
