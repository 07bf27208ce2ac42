//! The record with which a case was opened, as the case's log holds it. Orders follow from it, and agents encrypt to the recipients
//! that it names: whoever signs has looked at the record itself, and takes nobody's word for its digest.

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::{Tree, verify_consistency};
use exhibit_evidence::record::{CaseOpened, KeyRing, Record, Verified};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{CaseId, Digest};
use exhibit_proto::log::v1 as pb;

use super::log;
use crate::connection::Connection;
use crate::exit::{Code, Failure, Result};

/// Most records that are read on the way to it: enrolments of the keys that sign first.
const RECORDS_MAX: u64 = 10_000;
/// Records that are asked for at first: the enrolments of one who was enrolled by an admin, and the record itself.
const ASKED_FIRST: u64 = 4;

/// How a case was opened.
pub struct Opening {
    /// Digest of the record: what orders and the record that closes the case follow from.
    pub digest: Digest,
    /// The record.
    pub record: CaseOpened,
}

impl Opening {
    /// Reads the beginning of the case's log up to the record. It is verified under the anchor, and it is the first of the history
    /// whose newest head the coordinator signs: to show another one to somebody, it has to sign two histories.
    pub async fn of(connection: &mut Connection, case: &CaseId) -> Result<Self> {
        let name = LogName::Case(case.clone());
        let (found, begin) = Self::first(connection, &name, case).await?;
        let (proof, _, head) = log::consistency(connection, &name, begin.size(), 0).await?;
        verify_consistency((begin.size(), &begin.root()), (head.size, &head.root), &proof.hashes)
            .map_err(|_| damaged(format!("the log of {case} does not begin with the records that the coordinator gave")))?;
        Ok(found)
    }

    async fn first(connection: &mut Connection, name: &LogName, case: &CaseId) -> Result<(Self, Tree)> {
        let (mut ring, mut tree, mut found) = (KeyRing::new(connection.anchor()), Tree::new(), None);
        loop {
            let (from, limit) = (tree.size(), asked(tree.size()));
            let end = from.saturating_add(limit);
            if limit == 0 {
                break;
            }
            let request = pb::ListRecordsRequest { case_id: log::wire_name(name), from, limit };
            let mut stream = connection.log_rpc().list_records(request).await?.into_inner();
            while tree.size() < end
                && let Some(record) = stream.message().await?
            {
                let bad = |e: String| damaged(format!("record {} of {case}: {}", record.n, escape_bounded(&e, 300)));
                if record.n != tree.size() {
                    return Err(bad(format!("the coordinator gave it where {} is due", tree.size())));
                }
                tree.append(&record.envelope);
                let envelope = Envelope::parse(&record.envelope).map_err(|e| bad(e.to_string()))?;
                let verified = ring.verify(&envelope).map_err(|e| bad(e.to_string()))?;
                Self::look(&mut found, case, &verified)?;
                if let Some(found) = found {
                    return Ok((found, tree));
                }
            }
            if tree.size() < end {
                // There are no more.
                break;
            }
        }
        Err(damaged(format!("the log of {case} has no record that opens it")))
    }

    /// Looks at the next record of a log that is read from its beginning. The first one that opens the case does; later ones have no
    /// effect, and before it only keys can stand.
    pub fn look(found: &mut Option<Self>, case: &CaseId, verified: &Verified) -> Result<()> {
        if found.is_some() {
            return Ok(());
        }
        match verified.record() {
            Record::Enrolment(_) | Record::Revocation(_) => Ok(()),
            Record::CaseOpened(opened) if opened.case == *case => {
                *found = Some(Self { digest: verified.digest(), record: (**opened).clone() });
                Ok(())
            }
            other => {
                let message = format!("in the log of {case} a record of type {} stands where the case is to be opened", other.type_name());
                Err(damaged(message))
            }
        }
    }

    /// What whoever signs for the case is told: who can read what is taken.
    pub fn told(&self) -> String {
        let CaseOpened { title, opened_by, opened_at, encrypt_to, .. } = &self.record;
        let who = format!("case '{}', opened by {} at {opened_at}", escape_bounded(title, 80), escape_bounded(opened_by, 200));
        if encrypt_to.is_none() {
            format!("{who}: contents are not encrypted, the coordinator and its store can read them")
        } else {
            format!("{who}: contents are encrypted to {encrypt_to}")
        }
    }
}

/// How many records are asked for when so many were read. The coordinator reads each from its store before it sends it, and ahead of whoever
/// takes them, so a long log is not asked for whole: at most twice what is needed is read.
fn asked(read: u64) -> u64 {
    read.max(ASKED_FIRST).min(RECORDS_MAX.saturating_sub(read))
}

fn damaged(message: String) -> Failure {
    Failure::new(Code::Damaged, message).hint("sign nothing in this case; verify it with exhibit-verify, and ask the deployment's operator")
}

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_evidence::Timestamp;
    use exhibit_evidence::age::{Identity, Recipients};
    use exhibit_evidence::anchor::{Anchor, FORMAT};
    use exhibit_evidence::key::SigningKey;
    use exhibit_evidence::record::{CaseClosed, Enrolment, Role, sign};

    #[test]
    fn a_long_log_is_not_asked_for_whole() {
        for needed in 1..=RECORDS_MAX {
            let mut read = 0;
            while read < needed {
                let next = asked(read);
                assert!(next > 0, "{needed}: it is found");
                read += next;
            }
            assert!(read <= ASKED_FIRST.max(2 * needed) && read <= RECORDS_MAX, "{needed}: {read} are read");
        }
        assert_eq!(asked(RECORDS_MAX), 0);
    }

    /// A second responder of the case may sign such a record too, and a coordinator may show it: it has no effect.
    #[test]
    fn the_first_record_opens_the_case_and_nothing_stands_before_it() {
        let (root, ann) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let (case, name, now) = (CaseId::new(1, [1; 10]), "spiffe://acme/responder/ann".to_owned(), Timestamp::from_unix_s(1_800_000_000));
        let mut ring = KeyRing::new(&Anchor { format: FORMAT.to_owned(), deployment: "acme".to_owned(), root_key: root.public() });
        let enrolment = Enrolment {
            deployment: "acme".to_owned(),
            name: name.clone(),
            key: ann.public(),
            roles: vec![Role::Responder],
            cases: None,
            predecessor: None,
            method: "admin".to_owned(),
            enrolled_at: now,
        };
        let to = Identity::read_from(&mut &b"AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0"[..], None);
        let to = Recipients::try_from(vec![*to.expect("an identity")[0].recipient()]).expect("one");
        let genuine = CaseOpened {
            case: case.clone(),
            deployment: "acme".to_owned(),
            title: "t".to_owned(),
            legal_basis: "l".to_owned(),
            accountable: "a".to_owned(),
            opened_by: name.clone(),
            opened_at: now,
            two_person: false,
            encrypt_to: to.clone(),
        };
        let (predecessor, reason) = (Digest::of(b"x"), "r".to_owned());
        let closed = CaseClosed { case: case.clone(), predecessor, reason, closed_by: name, closed_at: now };
        let mut verified = |envelope: &Envelope| ring.verify(envelope).expect("signed");
        let keys = verified(&sign(&enrolment, &root).expect("small"));
        let opened = verified(&sign(&genuine, &ann).expect("small"));
        let swapped = verified(&sign(&CaseOpened { encrypt_to: Recipients::default(), ..genuine }, &ann).expect("small"));
        let closed = verified(&sign(&closed, &ann).expect("small"));

        let mut found = None;
        for record in [&keys, &opened, &swapped, &closed] {
            Opening::look(&mut found, &case, record).expect("in order");
        }
        let found = found.expect("opened");
        assert_eq!((found.digest, &found.record.encrypt_to), (opened.digest(), &to));
        assert!(found.told().contains(&format!("encrypted to {to}")), "{}", found.told());
        for (wrong, of) in [(&closed, &case), (&opened, &CaseId::new(2, [2; 10]))] {
            let failure = Opening::look(&mut None, of, wrong).expect_err("nothing was opened");
            assert_eq!(failure.code, Code::Damaged);
        }
    }
}
