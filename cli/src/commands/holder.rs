//! Whether whoever has custody of a case can still act: handing it over, and asking for a disposal, take a key that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::record::{Record, Role, Verified};
use exhibit_evidence::text::escape_bounded;

use super::asker;
use crate::connection::Connection;
use crate::exit::Result;

/// The keys of people by their names, and which of them were revoked, as one log says it.
#[derive(Debug, Default)]
pub struct Holders {
    keys: BTreeMap<String, BTreeSet<KeyId>>,
    revoked: BTreeMap<KeyId, u64>,
}

impl Holders {
    /// Takes a verified record of the log.
    pub fn see(&mut self, n: u64, verified: &Verified) {
        match verified.record() {
            Record::Enrolment(p) if !p.roles.contains(&Role::Agent) => {
                self.keys.entry(p.name.clone()).or_default().insert(p.key.id());
            }
            Record::Revocation(p) => {
                self.revoked.entry(p.key).or_insert(n);
            }
            _ => {}
        }
    }

    /// The last record that revoked a key of somebody of whom none counts any more; `None` where one counts, or nobody has the name.
    fn nobody_since(&self, name: &str) -> Option<u64> {
        let records: Option<Vec<u64>> = self.keys.get(name)?.iter().map(|key| self.revoked.get(key).copied()).collect();
        records?.into_iter().max()
    }
}

/// That nobody can hand over a case, because no key of whoever has it counts.
#[derive(Debug)]
pub struct Stuck(String);

impl Stuck {
    /// Looks whether a case is stuck with `holder`. Who may not read the deployment's log hears what the case's own says, which has a
    /// copy of a revocation from the next record on.
    pub async fn look(connection: &mut Connection, holder: Option<&str>, case_log: &Holders) -> Result<Option<Self>> {
        let Some(holder) = holder else { return Ok(None) };
        let mut people = Holders::default();
        let mut each = |n: u64, verified: &Verified, _: &Envelope| -> Result<()> {
            people.see(n, verified);
            Ok(())
        };
        let is_read = asker::read_deployment(connection, &mut each).await?;
        let (people, log) =
            if is_read { (&people, "the deployment's log") } else { (case_log, "the case's log, which may lack a newer key") };
        Ok(Self::of(holder, people, log))
    }

    fn of(holder: &str, people: &Holders, log: &str) -> Option<Self> {
        let n = people.nobody_since(holder)?;
        Some(Self(format!("every key of {} was revoked (last by record {n} of {log})", escape_bounded(holder, 200))))
    }

    /// What is so, without the way out.
    pub fn what(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: nobody can hand over or ask for a disposal; an admin enrols a new key under that name for whoever hands over in their \
             place: exhibit person request, then exhibit person enroll",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use exhibit_evidence::Digest;

    use super::*;

    #[test]
    fn custody_is_stuck_when_the_last_key_of_a_name_is_gone() {
        let (first, second) = (Digest::of(b"first"), Digest::of(b"second"));
        let mut people = Holders { keys: BTreeMap::from([("hal".to_owned(), BTreeSet::from([first, second]))]), ..Holders::default() };
        let stuck = |people: &Holders, name: &str| Stuck::of(name, people, "the log").map(|stuck| stuck.to_string());
        assert_eq!(stuck(&people, "hal"), None);
        people.revoked.insert(second, 9);
        assert_eq!(stuck(&people, "hal"), None, "the other one counts");
        people.revoked.insert(first, 4);
        let said = stuck(&people, "hal").expect("stuck");
        assert!(said.starts_with("every key of hal was revoked (last by record 9 of the log): "), "{said}");
        assert!(said.contains("an admin enrols a new key under that name") && said.contains("exhibit person request"), "{said}");
        assert_eq!(stuck(&people, "nobody"), None);
    }
}
