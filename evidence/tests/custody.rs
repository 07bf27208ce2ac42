//! Custody periods: whatever happens in a case, and however clocks jump, there is no gap and no overlap.

mod support;

use std::collections::BTreeMap;

use exhibit_evidence::custody::{Fate, History, Period};
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::log::Checkpoint;
use exhibit_evidence::record::{self, *};
use exhibit_evidence::{AgentId, CaseId, CollectionId, Digest, Timestamp};
use proptest::prelude::*;
use support::{ADMIN, DEPLOYMENT, LOG, RESPONDER, ROOT, key, name, responder_name};

const CUSTODIANS: [u8; 2] = [20, 21];
const APPROVER: u8 = 22;

fn person(seed: u8) -> String {
    name(&format!("responder/p{seed}"))
}

#[derive(Debug, Clone)]
enum Event {
    Receipt(u8),
    Seal(u8),
    Hold(Option<u8>),
    ReleaseHold,
    Retain(u8),
    HandOver,
    Dispose(u8),
    Destroy,
    Access,
}

fn event() -> impl Strategy<Value = Event> {
    let n = 0..3_u8;
    prop_oneof![
        n.clone().prop_map(Event::Receipt),
        n.clone().prop_map(Event::Seal),
        proptest::option::of(n.clone()).prop_map(Event::Hold),
        Just(Event::ReleaseHold),
        (1..200_u8).prop_map(Event::Retain),
        Just(Event::HandOver),
        n.prop_map(Event::Dispose),
        Just(Event::Destroy),
        Just(Event::Access),
    ]
}

/// A log in the making. What a rule forbids is tried all the same and must change nothing.
struct Log {
    ring: KeyRing,
    history: History,
    n: u64,
    clock: i64,
    case: CaseId,
    opened: Digest,
    receipts: BTreeMap<u8, Digest>,
    streams: u32,
}

impl Log {
    fn new() -> Self {
        let case = CaseId::new(1_768_471_200_000, [1; 10]);
        let ring = KeyRing::new(&support::anchor());
        let opened = Digest::of(b"");
        let mut log =
            Self { ring, history: History::default(), n: 0, clock: 1_768_471_200, case, opened, receipts: BTreeMap::new(), streams: 0 };
        let admin = log.enrol(ADMIN, ROOT, "responder/root-admin", Role::Admin, None);
        log.enrol(LOG, ROOT, "coordinator/log", Role::Log, None);
        log.enrol(RESPONDER, ADMIN, "responder/ada", Role::Responder, Some(admin));
        for (seed, role) in [(CUSTODIANS[0], Role::Custodian), (CUSTODIANS[1], Role::Custodian), (APPROVER, Role::Approver)] {
            log.enrol(seed, ADMIN, &format!("responder/p{seed}"), role, Some(admin));
        }
        let at = log.at();
        let opened = support::case_opened(&log.case, "A <case> & more", at);
        log.opened = log.sign(&opened, RESPONDER);
        log
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_unix_s(self.clock)
    }

    fn sign<P: Predicate>(&mut self, predicate: &P, seed: u8) -> Digest {
        let envelope = record::sign(predicate, &key(seed)).expect("small");
        let verified = self.ring.verify(&envelope).expect("the signer may");
        self.history.add(self.n, &verified);
        self.n += 1;
        envelope.digest()
    }

    fn enrol(&mut self, seed: u8, by: u8, rest: &str, role: Role, predecessor: Option<Digest>) -> Digest {
        let enrolment = Enrolment {
            deployment: DEPLOYMENT.to_owned(),
            name: name(rest),
            key: key(seed).public(),
            roles: vec![role],
            cases: None,
            predecessor,
            method: "admin".to_owned(),
            enrolled_at: self.at(),
        };
        self.sign(&enrolment, by)
    }

    fn collection(n: u8) -> CollectionId {
        CollectionId::from_digest(&Digest::of(&[n]))
    }

    fn holder(&self) -> u8 {
        let holder = self.history.state().custodian().map(str::to_owned);
        CUSTODIANS.into_iter().find(|c| holder == Some(person(*c))).unwrap_or(CUSTODIANS[0])
    }

    fn does(&mut self, event: &Event) {
        let (case, opened, at, reason) = (self.case.clone(), self.opened, self.at(), "a test".to_owned());
        match event {
            Event::Receipt(n) if self.history.state().seal_of(&Self::collection(*n)).is_none() => self.receipt(*n),
            Event::Seal(n) => self.seal(*n),
            Event::Hold(of) => {
                let collections = of.iter().map(|n| Self::collection(*n)).collect();
                let by = person(CUSTODIANS[0]);
                let too_late = if of.is_none() { self.history.state().condemned() } else { Vec::new() };
                self.sign(&Hold { case, predecessor: opened, collections, too_late, reason, placed_by: by, placed_at: at }, CUSTODIANS[0]);
            }
            Event::ReleaseHold => {
                let predecessor = self.history.state().holds().first().copied().unwrap_or(opened);
                let by = person(CUSTODIANS[1]);
                self.sign(&HoldReleased { case, predecessor, reason, released_by: by, released_at: at }, CUSTODIANS[1]);
            }
            Event::Retain(days) => {
                let predecessor = self.history.state().retention_predecessor().expect("opened");
                let until = Timestamp::from_unix_s(1_768_471_200 + i64::from(*days));
                let by = person(CUSTODIANS[0]);
                self.sign(&Retention { case, predecessor, until, reason, set_by: by, set_at: at }, CUSTODIANS[0]);
            }
            Event::HandOver => {
                let from = self.holder();
                let to = CUSTODIANS[usize::from(from == CUSTODIANS[0])];
                let predecessor = self.history.state().release_predecessor().expect("opened");
                let release = Release {
                    case: case.clone(),
                    predecessor,
                    to: person(to),
                    reason: reason.clone(),
                    released_by: person(from),
                    released_at: at,
                };
                let predecessor = self.sign(&release, from);
                self.sign(&Transfer { case, predecessor, reason, received_by: person(to), received_at: at }, to);
            }
            Event::Dispose(n) => self.dispose(*n),
            Event::Destroy => self.destroy(),
            Event::Access => {
                let what = vec![Self::collection(0).to_string()];
                self.sign(&Access { case, predecessor: opened, by: responder_name(), action: Action::List, what, reason, at }, LOG);
            }
            Event::Receipt(_) => {}
        }
    }

    fn receipt(&mut self, n: u8) {
        self.streams += 1;
        let manifest = ManifestRef {
            sha256: Digest::of(&[n]),
            size: 100,
            segments: 2,
            stored_bytes: 1_000,
            raw_bytes: 2_000,
            items: 3,
            by_status: BTreeMap::new(),
        };
        let receipt = Receipt {
            case: self.case.clone(),
            collection: Self::collection(n),
            stream: StreamNumber(self.streams),
            predecessor: self.opened,
            agent_signed: false,
            contents_unverified: false,
            manifest,
            received_from: self.at(),
            received_to: self.at(),
        };
        let digest = self.sign(&receipt, LOG);
        self.receipts.insert(n, digest);
    }

    fn seal(&mut self, n: u8) {
        let Some(predecessor) = self.receipts.get(&n).copied() else { return };
        if self.history.state().seal_of(&Self::collection(n)).is_some() {
            return;
        }
        let seal = Seal {
            case: self.case.clone(),
            collection: Self::collection(n),
            agent: AgentId::of_key(&key(16).public().id()),
            order: self.opened,
            predecessor,
            outcome: Outcome::Partial,
            reason: Some("a test".to_owned()),
            streams: Vec::new(),
            exhibit_first: 1,
            exhibit_count: 3,
            sealed_at: self.at(),
        };
        self.sign(&seal, LOG);
    }

    fn dispose(&mut self, n: u8) {
        if let Some(disposal) = self.ask(n) {
            self.approve(disposal);
        }
    }

    /// Asks that a collection be destroyed, if it is sealed.
    fn ask(&mut self, n: u8) -> Option<Digest> {
        let seal = self.history.state().seal_of(&Self::collection(n))?;
        let by = self.holder();
        let disposal = Disposal {
            case: self.case.clone(),
            predecessor: self.opened,
            seals: vec![SealedCollection { collection: Self::collection(n), seal }],
            reason: "a test".to_owned(),
            requested_by: person(by),
            requested_at: self.at(),
        };
        Some(self.sign(&disposal, by))
    }

    fn approve(&mut self, predecessor: Digest) {
        let approval = Approval {
            case: self.case.clone(),
            predecessor,
            reason: "a test".to_owned(),
            approved_by: person(APPROVER),
            approved_at: self.at(),
        };
        self.sign(&approval, APPROVER);
    }

    fn destroy(&mut self) {
        for due in self.history.state().unfinished() {
            let certificate = Destruction {
                case: self.case.clone(),
                predecessor: due.approval,
                disposal: due.disposal,
                collections: due.collections,
                destroyed_at: self.at(),
            };
            self.sign(&certificate, LOG);
        }
    }
}

fn without_gap_or_overlap(log: &Log) {
    for n in 0..3 {
        let collection = Log::collection(n);
        let periods: Vec<&Period> = log.history.periods().iter().filter(|p| p.collection == collection).collect();
        let first = log.history.rows().iter().find(|r| r.event == "receipt" && r.what.starts_with(collection.as_str()));
        assert_eq!(periods.first().map(|p| p.from.n), first.map(|r| r.n), "it begins with the first receipt");
        for pair in periods.windows(2) {
            let [a, b] = pair else { unreachable!() };
            assert_eq!(a.to, Some(b.from), "one ends where the next begins");
            let facts = |p: &Period| (p.custodian.clone(), p.storage, p.held, p.retained_until);
            assert_ne!(facts(a), facts(b), "something changed");
        }
        for period in &periods {
            assert!(period.to.is_none_or(|to| to.n > period.from.n && to.at >= period.from.at), "{period:?}");
        }
        let destroyed = matches!(log.history.state().fate(&collection), Fate::Destroyed { .. });
        assert_eq!(periods.last().is_some_and(|p| p.to.is_some()), destroyed, "only destruction ends it");
        if let (Some(last), false) = (periods.last(), destroyed) {
            let state = log.history.state();
            assert_eq!(
                (last.held, last.retained_until),
                (state.is_held(&collection), state.retained_until()),
                "the last one is what holds now"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn periods_have_no_gap_and_no_overlap(events in proptest::collection::vec((event(), -100..200_i64), 0..40)) {
        let mut log = Log::new();
        for (event, step) in &events {
            log.clock += step;
            log.does(event);
        }
        without_gap_or_overlap(&log);
        let head = Checkpoint { origin: "exhibit/acme/case/x".to_owned(), size: 7, root: Digest::of(b"root") };
        let svg = exhibit_evidence::custody::picture(&log.history, &head, log.at(), None);
        prop_assert!(svg.contains("A &lt;case&gt; &amp; more") && svg.ends_with("</svg>\n"));
        let from = format!("generated at {} from checkpoint 7:{} of exhibit/acme/case/x", log.at(), head.root);
        prop_assert!(svg.contains(&from));
        prop_assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
        prop_assert!(!svg.contains("WARNING"));
        let warned = exhibit_evidence::custody::picture(&log.history, &head, log.at(), Some("no key of <hal>"));
        prop_assert!(warned.contains(">WARNING: no key of &lt;hal&gt;</text>"));
    }
}

#[test]
fn a_record_without_effect_is_shown_as_one() {
    let mut log = Log::new();
    log.does(&Event::Receipt(0));
    log.does(&Event::Seal(0));
    log.does(&Event::Hold(None));
    log.does(&Event::Dispose(0));
    let approval = log.history.rows().last().expect("a row");
    assert_eq!((approval.event, approval.problem.is_some()), ("approval", true));
    assert!(log.history.state().unfinished().is_empty());
    assert_eq!(log.history.periods().len(), 3, "arriving, sealed, held");
}

#[test]
fn what_somebody_asked_for_who_gave_custody_away_cannot_be_approved() {
    for handed_over in [false, true] {
        let mut log = Log::new();
        log.does(&Event::Receipt(0));
        log.does(&Event::Seal(0));
        let disposal = log.ask(0).expect("sealed");
        if handed_over {
            log.does(&Event::HandOver);
        }
        log.approve(disposal);
        assert_eq!(log.history.state().unfinished().is_empty(), handed_over);
        assert_eq!(log.history.rows().last().expect("a row").problem.is_some(), handed_over);
    }
}

/// A disposal may name what never had anything: it ends like the others, and is told as destroyed nowhere.
#[test]
fn what_was_never_received_is_not_counted_as_destroyed() {
    let mut log = Log::new();
    log.does(&Event::Receipt(0));
    log.does(&Event::Seal(0));
    log.receipts.insert(1, log.opened);
    log.does(&Event::Seal(1));
    let (there, empty) = (Log::collection(0), Log::collection(1));
    assert!(log.history.state().received(&there) && !log.history.state().received(&empty));
    let mut ids = vec![there.clone(), empty.clone()];
    ids.sort_unstable();
    let seal_of = |collection: CollectionId| {
        let seal = log.history.state().seal_of(&collection).expect("sealed");
        SealedCollection { collection, seal }
    };
    let disposal = Disposal {
        case: log.case.clone(),
        predecessor: log.opened,
        seals: ids.into_iter().map(seal_of).collect(),
        reason: "a test".to_owned(),
        requested_by: person(CUSTODIANS[0]),
        requested_at: log.at(),
    };
    let disposal = log.sign(&disposal, CUSTODIANS[0]);
    log.approve(disposal);
    log.does(&Event::Destroy);
    let state = log.history.state();
    assert!([&there, &empty].iter().all(|id| matches!(state.fate(id), Fate::Destroyed { .. })), "the rules are as they were");
    assert_eq!(state.disposed().map(|(id, _)| id.clone()).collect::<Vec<_>>(), [there]);
    assert_eq!(log.history.rows().last().map(|row| row.what.as_str()), Some("1 collection, 3 objects, 1100 bytes destroyed"));
}

/// The payloads of the custody records of the good case.
fn payloads() -> &'static [Vec<u8>] {
    static ONCE: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(made);
    &ONCE
}

fn made() -> Vec<Vec<u8>> {
    let case = support::custody::good_5(&support::custody::Lies::default());
    let slots = case.objects.iter().filter(|(name, _)| name.starts_with("log/seq/"));
    slots.map(|(_, bytes)| exhibit_evidence::dsse::Envelope::parse(bytes).expect("good").unverified_payload().to_vec()).collect()
}

/// Writes a record of custody again; `None` for another one.
fn again(record: &Record) -> Option<Vec<u8>> {
    let key = key(LOG);
    let envelope = match record {
        Record::Access(p) => record::sign(&**p, &key),
        Record::Hold(p) => record::sign(&**p, &key),
        Record::HoldReleased(p) => record::sign(&**p, &key),
        Record::Retention(p) => record::sign(&**p, &key),
        Record::Release(p) => record::sign(&**p, &key),
        Record::Transfer(p) => record::sign(&**p, &key),
        Record::Disposal(p) => record::sign(&**p, &key),
        Record::Approval(p) => record::sign(&**p, &key),
        Record::Destruction(p) => record::sign(&**p, &key),
        Record::Enrolment(p) => record::sign(&**p, &key),
        _ => return None,
    };
    Some(envelope.expect("small").unverified_payload().to_vec())
}

#[test]
fn records_are_read_as_they_were_written() {
    let mut kinds = std::collections::BTreeSet::new();
    for payload in payloads() {
        let record = Record::from_payload(payload).expect("good");
        if let Some(written) = again(&record) {
            assert_eq!(&written, payload, "{}", record.type_name());
            kinds.insert(record.type_name());
        }
    }
    assert_eq!(kinds.len(), 10, "{kinds:?}");
}

proptest! {
    /// What was altered is refused, or is another record that is written as it is read; nothing panics.
    #[test]
    fn altered_payloads_are_refused_or_read(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut payload = which.get(payloads()).clone();
        let at = at.index(payload.len());
        payload[at] = byte;
        if let Ok(record) = Record::from_payload(&payload)
            && let Some(written) = again(&record)
        {
            prop_assert_eq!(Record::from_payload(&written), Ok(record));
        }
    }
}
