//! The details of custody in the reader's language. The log states them in English sentences around data; here the fixed words are
//! put into French, and names, ids, digests and moments stay as they are written.

use exhibit_evidence::custody::Row;
use exhibit_evidence::manifest::Status;
use exhibit_evidence::record::Role;
use exhibit_evidence::verify::Severity;

use super::words::counted;
use crate::document::Language;

/// How details begin, by event: the first that fits counts.
const BEGINNINGS: [(&str, &str, &str); 6] = [
    ("hold-released", "hold ", "gel "),
    ("retention", "until ", "jusqu'au "),
    ("release", "offered to ", "proposée à "),
    ("transfer", "accepts offer ", "accepte l'offre "),
    ("approval", "approves record ", "approuve l'enregistrement "),
    ("approval", "approves ", "approuve "),
];

/// What a record of custody is about, in words. What is not known stays as the log has it.
pub fn detail(l: Language, row: &Row) -> String {
    let french = match l {
        Language::En => None,
        Language::Fr => french(row.event, &row.what),
    };
    french.unwrap_or_else(|| row.what.clone())
}

fn french(event: &str, what: &str) -> Option<String> {
    match event {
        "hold" | "disposal" => Some(covered(what)),
        "destruction" => destroyed(what),
        _ => BEGINNINGS.iter().filter(|(of, ..)| *of == event).find_map(|(_, en, fr)| Some(format!("{fr}{}", what.strip_prefix(en)?))),
    }
}

/// `the whole case, too late for col-...`, or the collections: ids, which no words are in.
fn covered(what: &str) -> String {
    let whole = |names: &str| if names == "the whole case" { "toute l'affaire".to_owned() } else { names.to_owned() };
    match what.split_once(", too late for ") {
        Some((names, late)) => format!("{}, trop tard pour {late}", whole(names)),
        None => whole(what),
    }
}

/// `2 collections, 5 objects, 349184 bytes destroyed`.
fn destroyed(what: &str) -> Option<String> {
    let mut parts = what.strip_suffix(" bytes destroyed")?.split(", ");
    let mut number = || -> Option<u64> { parts.next()?.split(' ').next()?.parse().ok() };
    let (collections, objects, bytes) = (number()?, number()?, number()?);
    let count = |n, one, many| counted(Language::Fr, n, ("", ""), (one, many));
    Some(format!(
        "{}, {}, {} détruits",
        count(collections, "collecte", "collectes"),
        count(objects, "objet", "objets"),
        count(bytes, "octet", "octets")
    ))
}

/// What a key may do, in a word.
pub const fn role(l: Language, role: Role) -> &'static str {
    match role {
        Role::Issuer => l.pick("issuer", "émetteur"),
        Role::Log => l.pick("log", "journal"),
        Role::Admin => l.pick("admin", "administrateur"),
        Role::Responder => l.pick("responder", "intervenant"),
        Role::Approver => l.pick("approver", "approbateur"),
        Role::Custodian => l.pick("custodian", "gardien"),
        Role::Auditor => l.pick("auditor", "auditeur"),
        Role::Agent => "agent",
    }
}

/// How many items were taken in a way, or why not: `7 collected`, `7 prélevés`.
pub fn status(l: Language, status: Status, n: u64) -> String {
    let en = status.as_str();
    let fr = match status {
        Status::Collected => ("prélevé", "prélevés"),
        Status::Partial => ("partiel", "partiels"),
        Status::ChangedDuringRead => ("modifié pendant la lecture", "modifiés pendant la lecture"),
        Status::Missing => ("absent", "absents"),
        Status::Denied => ("refusé", "refusés"),
        Status::Skipped => ("écarté", "écartés"),
        Status::Vanished => ("disparu en cours de route", "disparus en cours de route"),
        Status::Error => ("en erreur", "en erreur"),
    };
    counted(l, n, (en, en), fr)
}

/// How much a finding weighs, in a word.
pub const fn severity(l: Language, severity: Severity) -> &'static str {
    match severity {
        Severity::Error => l.pick("error", "erreur"),
        Severity::Warning => l.pick("warning", "avertissement"),
        Severity::Note => l.pick("note", "remarque"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use exhibit_certs::enrol::{Enroller, anchor};
    use exhibit_evidence::custody::History;
    use exhibit_evidence::key::SigningKey;
    use exhibit_evidence::record::{
        self, Approval, DestroyedCollection, Destruction, Disposal, Hold, HoldReleased, KeyRing, Predicate, Release, Retention,
        SealedCollection, Transfer,
    };
    use exhibit_evidence::{CaseId, CollectionId, Digest, Timestamp};

    use super::super::facts::CUSTODY_EVENTS;
    use super::super::words::done;
    use super::*;

    const BOB: &str = "spiffe://acme/responder/bob";

    /// A log in the making, whose records break rules and make rows all the same.
    struct Log {
        ring: KeyRing,
        history: History,
        n: u64,
        keys: [SigningKey; 2],
    }

    impl Log {
        fn new() -> Self {
            let [root, person, log] = [1, 2, 3].map(|n| SigningKey::from_seed(&[n; 32]));
            let mut ring = KeyRing::new(&anchor(&"acme".parse().expect("name"), root.public()));
            let enroller = Enroller { key: &root, enrolment: None };
            for (name, key, roles) in [
                (BOB, &person, &[Role::Responder, Role::Approver, Role::Custodian][..]),
                ("spiffe://acme/coordinator/log", &log, &[Role::Log][..]),
            ] {
                let name = name.parse().expect("name");
                let enrolment = enroller.enrol(&name, key.public(), roles, "init", at()).expect("small");
                ring.verify(&enrolment).expect("enrolled");
            }
            Self { ring, history: History::default(), n: 0, keys: [person, log] }
        }

        fn add(&mut self, predicate: &impl Predicate, by: usize) {
            let signed = record::sign(predicate, &self.keys[by]).expect("small");
            self.history.add(self.n, &self.ring.verify(&signed).expect("may sign it"));
            self.n += 1;
        }
    }

    fn at() -> Timestamp {
        Timestamp::from_unix_s(1_800_000_000)
    }

    /// A row of each kind of detail.
    fn rows() -> Vec<Row> {
        let (case, predecessor, by) = (CaseId::new(7, [7; 10]), Digest::of(b"before"), BOB.to_owned());
        let reason = "until the whole case is settled".to_owned();
        let [one, two] = [b"1", b"2"].map(|b| CollectionId::from_digest(&Digest::of(b)));
        let mut log = Log::new();
        for (collections, too_late) in [(vec![], vec![]), (vec![one.clone()], vec![]), (vec![], vec![one.clone(), two.clone()])] {
            let (case, reason, placed_by) = (case.clone(), reason.clone(), by.clone());
            log.add(&Hold { case, predecessor, collections, too_late, reason, placed_by, placed_at: at() }, 0);
        }
        let (c, r, b) = (|| case.clone(), || reason.clone(), || by.clone());
        log.add(&HoldReleased { case: c(), predecessor, reason: r(), released_by: b(), released_at: at() }, 0);
        log.add(&Retention { case: c(), predecessor, until: at(), reason: r(), set_by: b(), set_at: at() }, 0);
        log.add(&Release { case: c(), predecessor, to: b(), reason: r(), released_by: b(), released_at: at() }, 0);
        log.add(&Transfer { case: c(), predecessor, reason: r(), received_by: b(), received_at: at() }, 0);
        let seals = [&one, &two].map(|c| SealedCollection { collection: c.clone(), seal: predecessor }).to_vec();
        log.add(&Disposal { case: c(), predecessor, seals, reason: r(), requested_by: b(), requested_at: at() }, 0);
        log.add(&Approval { case: c(), predecessor, reason: r(), approved_by: b(), approved_at: at() }, 0);
        for gone in [vec![&one], vec![&one, &two]] {
            let collections = gone.into_iter().map(|c| DestroyedCollection { collection: c.clone(), objects: 1, bytes: 512 }).collect();
            log.add(&Destruction { case: c(), predecessor, disposal: predecessor, collections, destroyed_at: at() }, 1);
        }
        let mut rows = log.history.rows().to_vec();
        let mut of_an_order = rows.iter().find(|row| row.event == "approval").expect("a row").clone();
        "approves ord-01hf7yat00zzzzzzzzzzzzzzzz".clone_into(&mut of_an_order.what);
        rows.push(of_an_order);
        rows
    }

    #[test]
    fn no_fixed_word_of_a_detail_stays_english() {
        const ENGLISH: [&str; 15] = [
            "whole",
            "case",
            "late",
            "hold",
            "until",
            "offer ",
            "offered",
            "accepts",
            "approves",
            "record",
            "collection",
            "object",
            "byte",
            "destroyed",
            " for ",
        ];
        let rows = rows();
        let kinds: BTreeSet<&str> = rows.iter().map(|row| row.event).collect();
        assert_eq!(kinds, CUSTODY_EVENTS.into_iter().collect::<BTreeSet<_>>(), "a row of each kind of record that the documents show");
        for row in &rows {
            assert_eq!(detail(Language::En, row), row.what);
            let fr = detail(Language::Fr, row);
            let left: Vec<_> = ENGLISH.into_iter().filter(|word| fr.contains(word)).collect();
            // The ids of a request are data alone.
            assert!(left.is_empty() && (fr != row.what || fr.starts_with("col-")), "{left:?} in {}: {fr}", row.event);
            assert!(!row.what.contains(BOB) || fr.ends_with(BOB), "data stays: {fr}");
            let event = done(Language::Fr, row.event);
            assert!(event != row.event || row.event == "destruction", "{event}");
        }
    }

    #[test]
    fn details_are_said_as_french_is() {
        let of = |event, what| french(event, what).unwrap_or_default();
        assert_eq!(of("destruction", "1 collection, 2 objects, 349184 bytes destroyed"), "1 collecte, 2 objets, 349184 octets détruits");
        assert_eq!(of("hold", "the whole case, too late for col-1, col-2"), "toute l'affaire, trop tard pour col-1, col-2");
        assert_eq!(of("approval", "approves ord-1"), "approuve ord-1");
        assert_eq!(french("destruction", "something new"), None);
        for one in [Role::Issuer, Role::Log, Role::Admin, Role::Responder, Role::Approver, Role::Custodian, Role::Auditor] {
            assert_ne!(role(Language::Fr, one), role(Language::En, one));
            assert_eq!(role(Language::En, one), format!("{one:?}").to_lowercase());
        }
        for one in Status::ALL {
            let (en, fr) = (status(Language::En, one, 2), status(Language::Fr, one, 2));
            assert_eq!(en, format!("2 {}", one.as_str()));
            assert!(fr.starts_with("2 ") && fr != en && !fr.contains(one.as_str()), "{fr}");
        }
        assert_eq!(status(Language::Fr, Status::Collected, 26_799), "26799 prélevés");
        for one in [Severity::Error, Severity::Warning, Severity::Note] {
            assert_ne!(severity(Language::Fr, one), one.as_str());
            assert_eq!(severity(Language::En, one), one.as_str());
        }
    }
}
