//! Destruction needs two people and nothing that stands against it; it survives its own interruption at every step.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::time::Duration;

use crate::store_lock_told::locked;
use crate::support::agent::{Agent, Job, file};
use crate::support::moto;
use crate::support::verdict;
use crate::support::world::{People, Place, World};
use exhibit_certs::Credential;
use exhibit_coordinator::store::Kind;
use exhibit_coordinator::store::faulty::{Fault, Op};
use exhibit_coordinator::{clock, custody};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{self, *};
use exhibit_evidence::verify::Verdict;
use exhibit_evidence::{Digest, Timestamp};
use exhibit_proto::responder::v1 as people;
use tonic::Code;

/// A person with a connection.
pub(crate) struct Someone {
    credential: Credential,
    rpc: People,
}

impl Someone {
    async fn new(world: &mut World, name: &str, roles: &[Role]) -> Self {
        let (credential, rpc) = world.person(name, roles, None).await;
        Self { credential, rpc }
    }

    fn name(&self) -> String {
        self.credential.name().to_string()
    }

    async fn submit<P: Predicate>(&mut self, predicate: &P) -> Result<(Digest, people::SubmitRecordResponse), tonic::Status> {
        let envelope = record::sign(predicate, &self.credential.evidence).expect("small");
        let request = people::SubmitRecordRequest { record: envelope.as_bytes().to_vec() };
        Ok((envelope.digest(), self.rpc.submit_record(request).await?.into_inner()))
    }

    async fn reconnect(&mut self, world: &World) {
        let channel = crate::support::world::channel(&self.credential, world.port).await.expect("connects");
        self.rpc = People::new(channel);
    }
}

/// A case with sealed collections, a custodian and an approver.
pub(crate) struct Story {
    pub(crate) world: World,
    pub(crate) case: CaseId,
    opened: Digest,
    pub(crate) collections: Vec<(CollectionId, Digest)>,
    cora: Someone,
    ben: Someone,
}

impl Story {
    async fn new(count: usize) -> Self {
        Self::on(Place::default(), count).await
    }

    /// In a world whose catalog or store is elsewhere.
    pub(crate) async fn on(place: Place, count: usize) -> Self {
        let mut world = World::start_on(place).await;
        let (case, opened, collections) = Self::collected(&mut world, "web-1", count).await;
        let cora = Someone::new(&mut world, "cora", &[Role::Custodian]).await;
        let ben = Someone::new(&mut world, "ben", &[Role::Approver]).await;
        Self { world, case, opened, collections, cora, ben }
    }

    /// A new case with sealed collections of a new agent.
    async fn collected(world: &mut World, agent: &str, count: usize) -> (CaseId, Digest, Vec<(CollectionId, Digest)>) {
        let credential = world.enroll(agent).await;
        let mut agent = Agent::new(credential, world.port, 1).await;
        let mut session = agent.session(&[]).await.expect("session");
        let opened = world.open_case().await;
        let mut collections = Vec::new();
        for _ in 0..count {
            let case = world.case(&opened).await;
            let order = world.order(&case, std::slice::from_ref(&agent.id));
            let envelope = world.sign(&order);
            world.submit(&envelope).await.expect("admitted");
            let job = Job::new(&order, &envelope, &agent.id, 1);
            session.offer().await;
            session.reply(&job.collection, vec![]).await;
            let files = [file("system", "os-release", "NAME=Debian\n"), file("files", "/etc/passwd", "root:x:0:0::/root:/bin/sh\n")];
            agent.send_all(&job, &job.honest(&files)).await.expect("received");
            let seal = session.closed().await.seal;
            collections.push((job.collection, Digest::of(&seal)));
        }
        let case = opened.case_id.parse().expect("id");
        (case, Digest::try_from(opened.case_opened_sha256.as_slice()).expect("digest"), collections)
    }

    fn disposal(&self, of: usize, by: String) -> Disposal {
        let (collection, seal) = self.collections[of].clone();
        Disposal {
            case: self.case.clone(),
            predecessor: self.opened,
            seals: vec![SealedCollection { collection, seal }],
            reason: "decision 12".to_owned(),
            requested_by: by,
            requested_at: clock::now(),
        }
    }

    fn approval(&self, of: Digest, by: String) -> Approval {
        Approval { case: self.case.clone(), predecessor: of, reason: "checked".to_owned(), approved_by: by, approved_at: clock::now() }
    }

    pub(crate) async fn ask(&mut self, of: usize) -> Digest {
        let disposal = self.disposal(of, self.cora.name());
        self.cora.submit(&disposal).await.expect("asked").0
    }

    pub(crate) async fn approve(&mut self, of: Digest) -> Result<people::SubmitRecordResponse, tonic::Status> {
        let approval = self.approval(of, self.ben.name());
        Ok(self.ben.submit(&approval).await?.1)
    }

    /// Approves a disposal that cannot be finished yet: the approval stands, and it is said why. Gives that.
    pub(crate) async fn approve_unfinished(&mut self, of: Digest) -> String {
        let done = self.approve(of).await.expect("an approval that is in the log is not refused");
        assert!(done.certificate.is_empty() && !done.unfinished.is_empty(), "{done:?}");
        done.unfinished
    }

    /// Where Ben's approval comes next in the case's log, and the name of the certificate after it: whoever approves stands in the log then.
    pub(crate) async fn place_of_certificate(&self) -> (u64, String) {
        let parts = &self.world.running().parts;
        parts.ledgers.ensure_enrolled(&self.case, &[self.ben.credential.evidence.public().id()]).await.expect("enrolled");
        let size = parts.ledgers.case(&self.case).await.expect("log").size();
        (size, LogName::Case(self.case.clone()).slot(size + 1))
    }

    /// What is left of a collection on the disk.
    fn objects(&self, of: usize) -> usize {
        let folder =
            self.world.store_dir().join("cases").join(self.case.as_str()).join("collections").join(self.collections[of].0.as_str());
        let listed = std::process::Command::new("find").arg(folder).args(["-type", "f"]).output().expect("find");
        String::from_utf8_lossy(&listed.stdout).lines().count()
    }

    /// The verdict and the codes of what was found.
    fn verdict(&self) -> (Verdict, Vec<&'static str>) {
        let report = verdict::report(&self.world, self.case.as_str(), true);
        let mut codes: Vec<_> = report.findings.kept().iter().map(|f| f.code.as_str()).collect();
        codes.dedup();
        (report.verdict, codes)
    }

    /// Waits until the disposal of a collection has its certificate.
    pub(crate) async fn certified(&self, of: usize) {
        for _ in 0..200 {
            let ledger = self.world.running().parts.ledgers.case(&self.case).await.expect("log");
            let fate = ledger.view().custody().fate(&self.collections[of].0);
            // The record is in the log before the head that covers it is published.
            if matches!(fate, exhibit_evidence::custody::Fate::Destroyed { .. }) && ledger.published() == ledger.size() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not certified");
    }
}

fn code<T>(result: Result<T, tonic::Status>) -> Code {
    result.map(|_| ()).expect_err("refused").code()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_and_nothing_that_stands_against_it() {
    let mut s = Story::new(2).await;
    let (case, opened) = (s.case.clone(), s.opened);
    let hold = Hold {
        case: case.clone(),
        predecessor: opened,
        collections: Vec::new(),
        too_late: Vec::new(),
        reason: "litigation".to_owned(),
        placed_by: s.cora.name(),
        placed_at: clock::now(),
    };
    let (hold, _) = s.cora.submit(&hold).await.expect("held");
    let disposal = s.ask(0).await;
    assert_eq!(code(s.approve(disposal).await), Code::FailedPrecondition, "a hold stands");
    // Also for the next process, and for a catalog that was made again: holds are in the log.
    s.world.restart().await;
    s.cora.reconnect(&s.world).await;
    s.ben.reconnect(&s.world).await;
    assert_eq!(code(s.approve(disposal).await), Code::FailedPrecondition, "a hold stands after a restart");

    let retention = |until: Timestamp, predecessor: Digest, by: String| Retention {
        case: case.clone(),
        predecessor,
        until,
        reason: "policy".to_owned(),
        set_by: by,
        set_at: clock::now(),
    };
    let until = clock::now().plus_s(2);
    let (first, _) = s.cora.submit(&retention(until, opened, s.cora.name())).await.expect("kept");
    let earlier = retention(until.plus_s(-1), first, s.cora.name());
    assert_eq!(code(s.cora.submit(&earlier).await), Code::InvalidArgument, "never earlier");
    let released = HoldReleased {
        case: case.clone(),
        predecessor: hold,
        reason: "settled".to_owned(),
        released_by: s.cora.name(),
        released_at: clock::now(),
    };
    s.cora.submit(&released).await.expect("released");
    assert_eq!(code(s.cora.submit(&HoldReleased { reason: "again".to_owned(), ..released }).await), Code::FailedPrecondition);
    assert_eq!(code(s.approve(disposal).await), Code::FailedPrecondition, "retention has not ended");
    // Dating it later does not help.
    let dated = Approval { approved_at: until.plus_s(60), ..s.approval(disposal, s.ben.name()) };
    assert_eq!(code(s.ben.submit(&dated).await), Code::FailedPrecondition);
    tokio::time::sleep(Duration::from_millis(2_100)).await;

    // The custodian alone is not enough, nor is an approver who asked, nor a name that is not the signer's.
    let own = s.approval(disposal, s.cora.name());
    let refused = s.cora.submit(&own).await.expect_err("no approver");
    let who = format!("an approver of this case may sign it (case {case}; who has it there: spiffe://test/responder/ada, {}", s.ben.name());
    let how = "); an admin gives the role: exhibit person allow cora --role approver";
    let said = refused.message().contains(&who) && refused.message().contains(how);
    assert!(refused.code() == Code::PermissionDenied && said, "{refused}");
    let lent = s.approval(disposal, s.cora.name());
    let refused = s.ben.submit(&lent).await.expect_err("another's name");
    assert!(refused.code() == Code::PermissionDenied && !refused.message().contains("person allow"), "no role is missing: {refused}");
    let mut both = Someone::new(&mut s.world, "both", &[Role::Custodian, Role::Approver]).await;
    let asked = s.disposal(1, both.name());
    let (asked, _) = both.submit(&asked).await.expect("asked");
    let alone = s.approval(asked, both.name());
    assert_eq!(code(both.submit(&alone).await), Code::PermissionDenied);
    let elsewhere = s.disposal(1, both.name());
    assert_eq!(code(s.cora.submit(&elsewhere).await), Code::PermissionDenied, "somebody else's name");
    let (whole, verdict) = (s.objects(0), s.verdict().0);
    assert_eq!((whole > 1, verdict), (true, Verdict::Sound));

    let done = s.approve(disposal).await.expect("destroyed");
    let certificate = Envelope::parse(&done.certificate).expect("certificate");
    assert!(
        matches!(Record::from_payload(certificate.unverified_payload()), Ok(Record::Destruction(p)) if p.collections[0].objects == whole as u64)
    );
    assert_eq!((s.objects(0), s.objects(1)), (0, whole));
    assert_eq!(s.verdict(), (Verdict::Sound, vec!["disposal.done"]));
    // Nothing of it is served any more, and a hold comes too late; the other collection is there.
    let read = |of: usize| people::ReadItemsRequest {
        items: vec![format!("{}.s1.0", s.collections[of].0)],
        reason: "x".to_owned(),
        action: "view".to_owned(),
    };
    let mut gone = s.world.people.read_items(read(0)).await.expect("stream").into_inner();
    let status = gone.message().await.expect_err("gone");
    assert!(status.code() == Code::NotFound && status.message().contains("was destroyed at"), "{status}");
    let mut there = s.world.people.read_items(read(1)).await.expect("stream").into_inner();
    assert!(there.message().await.expect("served").is_some());
    let late = Hold {
        case: case.clone(),
        predecessor: opened,
        collections: vec![s.collections[0].0.clone()],
        too_late: Vec::new(),
        reason: "late".to_owned(),
        placed_by: s.cora.name(),
        placed_at: clock::now(),
    };
    assert_eq!(code(s.cora.submit(&late).await), Code::InvalidArgument);
}

/// A key that was revoked asks for nothing any more. What was approved before goes to its end: parts of it may be gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_key_asked_for_is_kept() {
    let mut s = Story::new(2).await;
    let (waits, approved) = (s.ask(0).await, s.ask(1).await);
    let whole = s.objects(0);
    s.world.faults.fail(Op::Destroy, "/00000000.tar.zst", 0, 1_000_000, Fault::Before(Kind::Retry));
    s.approve_unfinished(approved).await;
    s.world.revoke(&s.cora.credential).await;
    let refused = s.approve(waits).await.expect_err("revoked");
    let said = ["was revoked since", "/cora", "exhibit dispose request"];
    assert!(refused.code() == Code::FailedPrecondition && said.iter().all(|w| refused.message().contains(w)), "{refused}");
    s.world.faults.heal();
    s.world.restart().await;
    s.ben.reconnect(&s.world).await;
    for _ in 0..200 {
        if s.objects(1) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((s.objects(0), s.objects(1)), (whole, 0));
    // Somebody whose key counts asks anew.
    let mut dan = Someone::new(&mut s.world, "dan", &[Role::Custodian]).await;
    let anew = s.disposal(0, dan.name());
    let (anew, _) = dan.submit(&anew).await.expect("asked");
    assert!(!s.approve(anew).await.expect("destroyed").certificate.is_empty());
    assert_eq!((s.objects(0), s.objects(1)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn custody_passes_only_between_those_who_sign() {
    let mut s = Story::new(1).await;
    let mut dan = Someone::new(&mut s.world, "dan", &[Role::Custodian]).await;
    let (case, cora_name, dan_name) = (s.case.clone(), s.cora.name(), dan.name());
    let offer = |to: String, predecessor: Digest, by: String| Release {
        case: case.clone(),
        predecessor,
        to,
        reason: "to the legal department".to_owned(),
        released_by: by,
        released_at: clock::now(),
    };
    let (to_ben, to_dan) = (offer(s.ben.name(), s.opened, s.cora.name()), offer(dan.name(), s.opened, s.cora.name()));
    let accept = |predecessor: Digest, by: String| Transfer {
        case: case.clone(),
        predecessor,
        reason: "sound".to_owned(),
        received_by: by,
        received_at: clock::now(),
    };
    let refused = s.cora.submit(&to_ben).await.expect_err("no custodian");
    let how = format!("no custodian in case {case}; an admin gives the role: exhibit person allow ben --role custodian --case {case}");
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains(&how), "{refused}");
    // A name that is nobody's is no matter of a role: who could be meant is said.
    let to_nobody = offer("spiffe://test/responder/nobody".to_owned(), s.opened, s.cora.name());
    let refused = s.cora.submit(&to_nobody).await.expect_err("nobody");
    let said = ["to: nobody is enrolled as spiffe://test/responder/nobody", "/dan", "exhibit person enroll REQUEST --role custodian"];
    let said = said.iter().all(|words| refused.message().contains(words)) && !refused.message().contains("person allow");
    assert!(refused.code() == Code::InvalidArgument && said && !refused.message().contains("/cora"), "{refused}");
    let (offered, _) = s.cora.submit(&to_dan).await.expect("offered");
    let by_cora = accept(offered, cora_name.clone());
    assert_eq!(code(s.cora.submit(&by_cora).await), Code::PermissionDenied, "offered to somebody else");
    let by_dan = accept(offered, dan.name());
    let (taken, first) = dan.submit(&by_dan).await.expect("accepted");
    assert_eq!(dan.submit(&by_dan).await.expect("the same again").1.n, first.n);
    let again = Release { predecessor: taken, ..to_dan.clone() };
    assert_eq!(code(s.cora.submit(&again).await), Code::PermissionDenied, "she gave it away");
    let ask = s.disposal(0, cora_name.clone());
    assert_eq!(code(s.cora.submit(&ask).await), Code::PermissionDenied, "only who has it may dispose of it");
    let back = offer(cora_name, taken, dan_name);
    dan.submit(&back).await.expect("offered back");
    assert_eq!(s.verdict().0, Verdict::Sound);
}

/// Whoever has a stolen key gives custody to nobody, before the first transfer and after it; and custody is not stuck.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_key_offered_is_accepted_by_nobody() {
    let mut s = Story::new(1).await;
    let mut dan = Someone::new(&mut s.world, "dan", &[Role::Custodian]).await;
    let mut eve = Someone::new(&mut s.world, "eve", &[Role::Custodian]).await;
    let case = s.case.clone();
    let offer = |to: String, predecessor: Digest, by: String| Release {
        case: case.clone(),
        predecessor,
        to,
        reason: "to the archive".to_owned(),
        released_by: by,
        released_at: clock::now(),
    };
    let accept = |predecessor: Digest, by: String| Transfer {
        case: case.clone(),
        predecessor,
        reason: "sound".to_owned(),
        received_by: by,
        received_at: clock::now(),
    };
    let by_cora = offer(dan.name(), s.opened, s.cora.name());
    let (offered, _) = s.cora.submit(&by_cora).await.expect("offered");
    s.world.revoke(&s.cora.credential).await;
    let by_dan = accept(offered, dan.name());
    let refused = dan.submit(&by_dan).await.expect_err("revoked");
    let said = ["/cora", "was revoked since (record ", "nobody can accept it; another custodian", "exhibit transfer offer"];
    assert!(refused.code() == Code::FailedPrecondition && said.iter().all(|w| refused.message().contains(w)), "{refused}");
    // Any other custodian offers in her place, and custody passes.
    let by_eve = offer(dan.name(), s.opened, eve.name());
    let (offered, _) = eve.submit(&by_eve).await.expect("offered");
    let by_dan = accept(offered, dan.name());
    let (taken, first) = dan.submit(&by_dan).await.expect("accepted");
    // The one who has it is revoked with an offer that stands.
    let by_dan_to_eve = offer(eve.name(), taken, dan.name());
    let (offered, _) = dan.submit(&by_dan_to_eve).await.expect("offered");
    s.world.revoke(&dan.credential).await;
    let by_eve = accept(offered, eve.name());
    let refused = eve.submit(&by_eve).await.expect_err("revoked");
    let said = ["/dan has custody", "a new key under that name"];
    assert!(refused.code() == Code::FailedPrecondition && said.iter().all(|w| refused.message().contains(w)), "{refused}");
    // Nobody else hands over or disposes of it, and whoever tries hears the way out.
    let fay = Someone::new(&mut s.world, "fay", &[Role::Custodian]).await;
    let not_hers = offer(fay.name(), taken, eve.name());
    let ask = s.disposal(0, eve.name());
    for refused in [eve.submit(&not_hers).await.expect_err("not hers"), eve.submit(&ask).await.expect_err("not hers")] {
        let said =
            ["/dan has custody, not ", "every key of spiffe://test/responder/dan was revoked: an admin enrols a new key under that name"];
        assert!(refused.code() == Code::PermissionDenied && said.iter().all(|w| refused.message().contains(w)), "{refused}");
    }
    // A new key under that name hands over.
    let (credential, rpc) = s.world.person_in("dan-2", "dan", &[Role::Custodian], None).await;
    let mut new_dan = Someone { credential, rpc };
    let not_hers = offer(new_dan.name(), taken, eve.name());
    assert_eq!(code(eve.submit(&not_hers).await), Code::PermissionDenied, "custody is not hers to give");
    let anew = offer(eve.name(), taken, new_dan.name());
    let (offered, _) = new_dan.submit(&anew).await.expect("offered again");
    let by_eve = accept(offered, eve.name());
    let (_, last) = eve.submit(&by_eve).await.expect("accepted");
    assert!(last.n > first.n);
    assert_eq!(s.verdict().0, Verdict::Sound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destruction_that_is_interrupted_is_finished_at_every_step() {
    // What fails, after how many of its calls worked, and whether it happened nevertheless.
    let places = [
        (Op::Destroy, "/00000000.tar.zst", 0),
        (Op::Destroy, "/manifest.jsonl", 0),
        (Op::List, "/collections/", 0),
        (Op::List, "/collections/", 1),
        // The approval takes the first slot and head, the certificate the second.
        (Op::PutNew, "/log/seq/", 1),
        (Op::PutNew, "/log/tile/", 1),
        (Op::PutHead, "/log/checkpoint", 1),
    ];
    let faults = [Fault::Before(Kind::Retry), Fault::After(Kind::Retry)];
    let mut s = Story::new(places.len() * faults.len()).await;
    let mut of = 0;
    for (op, name, skip) in places {
        for fault in faults {
            let shown = format!("{op:?} {name} {skip} {fault:?}");
            let disposal = s.ask(of).await;
            // Whoever approved before stands in the case's log already, so that the calls can be counted.
            let keys = [s.ben.credential.evidence.public().id()];
            s.world.running().parts.ledgers.ensure_enrolled(&s.case, &keys).await.expect("enrolled");
            s.world.faults.fail(op, name, skip, 1_000_000, fault);
            // The fault of the first slots and heads is behind the approval: it stands, whatever failed.
            let why = s.approve_unfinished(disposal).await;
            assert!(why.lines().count() == 1, "{shown}: {why}");
            // The process ends here; the next one finds it in the log.
            s.world.stop().await;
            let (_, codes) = s.verdict();
            // What failed last but happened is the head over the certificate: then it is finished already.
            let finished = op == Op::PutHead && fault == Fault::After(Kind::Retry);
            let due = if finished { "disposal.done" } else { "disposal.unfinished" };
            assert!(codes.contains(&due) || codes.contains(&"log.slot-beyond"), "{shown}: {codes:?}");
            s.world.faults.heal();
            s.world.restart().await;
            s.certified(of).await;
            assert_eq!((s.objects(of), s.verdict()), (0, (Verdict::Sound, vec!["disposal.done"])), "{shown}");
            s.cora.reconnect(&s.world).await;
            s.ben.reconnect(&s.world).await;
            of += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destruction_that_fails_goes_on_without_anybody_asking() {
    let mut s = Story::new(1).await;
    let disposal = s.ask(0).await;
    s.world.faults.fail(Op::Destroy, "/manifest.jsonl", 0, 1_000_000, Fault::Before(Kind::Retry));
    // The approval stands, and whoever gave it hears that and what is left; the same again is no refusal either.
    let approval = s.approval(disposal, s.ben.name());
    let (digest, first) = s.ben.submit(&approval).await.expect("in the log");
    let (_, again) = s.ben.submit(&approval).await.expect("the same again");
    for done in [&first, &again] {
        assert!(done.n == first.n && done.certificate.is_empty() && !done.unfinished.is_empty(), "{done:?}");
    }
    let entry = s.world.running().parts.ledgers.case(&s.case).await.expect("log").entry(first.n).expect("the record that was named");
    assert_eq!((entry.kind, entry.digest), (Approval::TYPE, digest));
    assert_eq!(s.objects(0), 1);
    // A hold on the whole case cannot save it any more, and says so or is not taken.
    let mut hold = Hold {
        case: s.case.clone(),
        predecessor: s.opened,
        collections: Vec::new(),
        too_late: Vec::new(),
        reason: "a claim was announced".to_owned(),
        placed_by: s.cora.name(),
        placed_at: clock::now(),
    };
    let refused = s.cora.submit(&hold).await.expect_err("it says nothing of what is being destroyed");
    assert!(refused.message().contains(s.collections[0].0.as_str()), "{refused}");
    hold.too_late = vec![s.collections[0].0.clone()];
    s.cora.submit(&hold).await.expect("the rest of the case is held");
    s.world.faults.heal();
    s.certified(0).await;
    assert_eq!((s.objects(0), s.verdict()), (0, (Verdict::Sound, vec!["disposal.done"])));
}

/// The lock is the reason, whatever the store advises about credentials.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_has_not_ended_is_the_reason_why_an_approved_disposal_is_not_finished() {
    let server = moto::start_with_lock();
    let mut s = Story::on(Place { remote: Some(locked(&server)), ..Place::default() }, 1).await;
    let disposal = s.ask(0).await;
    let why = s.approve_unfinished(disposal).await;
    let said = ["its lock is ", "the destruction waits for that day", "afterwards the coordinator's credentials need the right to delete"];
    assert!(said.iter().all(|words| why.contains(words)) && !why.contains("compare what the credentials may do"), "{why}");
    // To wait for a lock is what was decided: no start tells it as an incident.
    s.world.restart().await;
    assert_eq!(custody::recover(&s.world.running().parts).await.expect("it is left to the timers"), 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let incidents = s.world.incidents().await;
    assert!(!incidents.iter().any(|told| told.starts_with("recovery: ")), "{incidents:?}");
    s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disposal_that_cannot_be_finished_at_a_start_holds_up_no_other_case() {
    let mut s = Story::new(1).await;
    s.world.faults.fail(Op::Destroy, "/manifest.jsonl", 0, 1_000_000, Fault::Before(Kind::Denied));
    let disposal = s.ask(0).await;
    s.approve_unfinished(disposal).await;
    let before = s.case.clone();
    (s.case, s.opened, s.collections) = Story::collected(&mut s.world, "web-2", 1).await;
    let disposal = s.ask(0).await;
    s.approve_unfinished(disposal).await;
    s.world.stop().await;
    // The one that comes first is still refused, by a store that says nothing of a lock.
    s.world.faults.heal();
    let refused = before.clone().min(s.case.clone());
    s.world.faults.fail(Op::Destroy, &format!("{refused}/collections/"), 0, 1_000_000, Fault::Before(Kind::Denied));
    s.world.restart().await;
    let parts = &s.world.running().parts;
    custody::recover(parts).await.expect("it is left to the timers");
    let mut unfinished = Vec::new();
    for case in [&before, &s.case] {
        if !parts.ledgers.case(case).await.expect("log").view().custody().unfinished().is_empty() {
            unfinished.push(case.clone());
        }
    }
    assert_eq!(unfinished, [refused]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let incidents = s.world.incidents().await;
    assert!(!incidents.iter().any(|told| told.starts_with("recovery: ")), "{incidents:?}");
}

/// What passes by itself is tried again at once, and takes nobody along who waits for a lock or a person.
#[tokio::test(flavor = "multi_thread")]
async fn a_disposal_that_waits_for_a_person_is_not_tried_with_one_that_waits_for_the_store() {
    let mut s = Story::new(1).await;
    let away = s.case.clone();
    s.world.faults.fail(Op::Destroy, &format!("{away}/collections/"), 0, 1_000_000, Fault::Before(Kind::Retry));
    let disposal = s.ask(0).await;
    s.approve_unfinished(disposal).await;
    (s.case, s.opened, s.collections) = Story::collected(&mut s.world, "web-2", 1).await;
    s.world.faults.fail(Op::Destroy, &format!("{}/collections/", s.case), 0, 1_000_000, Fault::Before(Kind::Denied));
    let disposal = s.ask(0).await;
    s.approve_unfinished(disposal).await;
    let refused = s.case.clone();
    // Nor with one whose store does not know who asks, though nothing may be concluded of the object then.
    (s.case, s.opened, s.collections) = Story::collected(&mut s.world, "web-3", 1).await;
    s.world.faults.fail(Op::Destroy, &format!("{}/collections/", s.case), 0, 1_000_000, Fault::Unheard);
    let disposal = s.ask(0).await;
    s.approve_unfinished(disposal).await;
    let waiting = [refused, s.case.clone()];
    let tried = |case: &CaseId| {
        let calls = s.world.faults.calls();
        calls.iter().filter(|(op, name)| *op == Op::Destroy && name.contains(case.as_str())).count()
    };
    let more_of_away = async |more: usize| {
        let before = tried(&away);
        for _ in 0..600 {
            if tried(&away) >= before + more {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("what passes is tried every few seconds");
    };
    // By the call of who approved and by the timers; once more where they looked just before it was noted that it waits.
    more_of_away(4).await;
    let settled = waiting.each_ref().map(tried);
    assert!(settled.iter().all(|count| (2..=3).contains(count)), "{settled:?}");
    more_of_away(2).await;
    assert_eq!(waiting.each_ref().map(tried), settled);
    s.world.stop().await;
}

/// Nothing of the destruction is undone because its certificate cannot be read back at that moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_disposal_that_is_certified_is_told_as_finished_though_its_certificate_cannot_be_read() {
    let mut s = Story::new(1).await;
    let disposal = s.ask(0).await;
    let (size, slot) = s.place_of_certificate().await;
    s.world.faults.fail(Op::Get, &slot, 0, 1_000_000, Fault::Before(Kind::Retry));
    let approval = s.approval(disposal, s.ben.name());
    let (_, done) = s.ben.submit(&approval).await.expect("in the log");
    assert!(done.n == size && done.certificate.is_empty() && done.unfinished.is_empty(), "{done:?}");
    assert_eq!((done.certificate_sha256.len(), s.objects(0)), (32, 0), "{done:?}");
    s.world.faults.heal();
    let (_, again) = s.ben.submit(&approval).await.expect("the same again");
    assert_eq!(Digest::of(&again.certificate).as_bytes().as_slice(), again.certificate_sha256);
    assert_eq!(again.certificate_sha256, done.certificate_sha256);
    assert_eq!(s.verdict(), (Verdict::Sound, vec!["disposal.done"]));
}

/// That does not pass, and whoever approved must not take it for a moment's silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_altered_when_it_is_read_back_is_an_error_and_an_incident() {
    let mut s = Story::new(1).await;
    let disposal = s.ask(0).await;
    let (_, slot) = s.place_of_certificate().await;
    s.world.faults.fail(Op::Get, &slot, 0, 1_000_000, Fault::Corrupt);
    let approval = s.approval(disposal, s.ben.name());
    let refused = s.ben.submit(&approval).await.expect_err("damage");
    let said = "all is destroyed and certified, and the certificate, record ";
    assert!(refused.code() == Code::DataLoss && refused.message().starts_with(said), "{refused:?}");
    assert_eq!(s.objects(0), 0);
    let incidents = s.world.incidents().await;
    assert!(incidents.iter().any(|told| told.starts_with("log: ") && told.contains(said)), "{incidents:?}");
    s.world.faults.heal();
    assert!(!s.ben.submit(&approval).await.expect("the same again").1.certificate.is_empty());
    s.world.stop().await;
}
