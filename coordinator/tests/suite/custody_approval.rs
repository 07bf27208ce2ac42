//! In a case that was opened for two persons an order reaches no agent before another one approved it, whatever fails meanwhile.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::time::Duration;

use crate::support::agent::{Agent, Job, file};
use crate::support::verdict;
use crate::support::world::{People, World};
use exhibit_certs::{Credential, Deployment};
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::catalog::{Catalog as _, State};
use exhibit_coordinator::ledger::{Keys, Ledgers};
use exhibit_coordinator::store::faulty::{Fault, Op};
use exhibit_coordinator::store::{Kind, LocalStore};
use exhibit_coordinator::{clock, reindex};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::record::{self, *};
use exhibit_evidence::verify::Verdict;
use exhibit_evidence::{CaseId, Timestamp};
use exhibit_proto::responder::v1 as people;
use tonic::Code;

fn approval(order: &Order, envelope: &Envelope, by: &Credential, at: Timestamp) -> Vec<u8> {
    let record = Approval {
        case: order.case.clone(),
        predecessor: envelope.digest(),
        reason: "the works council was heard".to_owned(),
        approved_by: by.name().to_string(),
        approved_at: at,
    };
    record::sign(&record, &by.evidence).expect("small").as_bytes().to_vec()
}

async fn submit(rpc: &mut People, record: Vec<u8>) -> Result<(), tonic::Status> {
    rpc.submit_record(people::SubmitRecordRequest { record }).await.map(drop)
}

/// The state that a catalog which is made again from the store gives.
async fn reindexed(world: &World, job: &Job) -> State {
    let dir = tempfile::tempdir().expect("folder");
    let store = std::sync::Arc::new(LocalStore::open(&world.store_dir()).expect("store"));
    let deployment = Deployment::load(&world.dir.path().join("deployment")).expect("deployment");
    let ledgers = Ledgers::new(store, Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() });
    let catalog = SqliteCatalog::create(&dir.path().join("again.sqlite")).await.expect("catalog");
    let report = reindex::rebuild(&ledgers, &catalog, clock::now()).await.expect("rebuilt");
    assert_eq!(report.problems, Vec::<String>::new());
    catalog.collection(job.collection.clone()).await.expect("read").expect("there").state
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_reaches_an_agent_before_a_second_person_agreed() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let session = agent.session(&[]).await.expect("session");
    let (ben, mut as_ben) = world.person("ben", &[Role::Approver], None).await;
    let elsewhere: CaseId = world.open_case().await.case_id.parse().expect("id");
    let (eve, mut as_eve) = world.person("eve", &[Role::Approver], Some(vec![elsewhere])).await;
    let case = world.try_open_case(true).await.expect("opened");
    assert!(case.two_person);
    let order = world.order(&case, std::slice::from_ref(&agent.id));
    let envelope = world.sign(&order);
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let made = world.submit(&envelope).await.expect("admitted").collections.remove(0);
    let command = format!("exhibit approve {}", order.order);
    assert!(made.state == "unapproved" && made.reason.contains(&command), "{made:?}");

    // Not the one who ordered, not an approver of another case, not before the order.
    let now = clock::now();
    let own = approval(&order, &envelope, &world.admin, now);
    assert_eq!(submit(&mut world.people, own).await.expect_err("the responder").code(), Code::PermissionDenied);
    assert_eq!(submit(&mut as_eve, approval(&order, &envelope, &eve, now)).await.expect_err("elsewhere").code(), Code::PermissionDenied);
    let early = submit(&mut as_ben, approval(&order, &envelope, &ben, order.issued_at.plus_s(-1))).await.expect_err("before it");
    assert!(early.code() == Code::InvalidArgument && early.message().contains("before what it approves"), "{early}");

    // An agent that connects now is offered nothing, from this process, the next one, and a catalog that was made again.
    drop(session);
    world.restart().await;
    let mut session = agent.session(&[]).await.expect("session");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(world.collection(&job.collection).await.state, "unapproved");
    // An upload that nobody offered is refused too: an agent in other hands gains nothing.
    let files = [file("files", "/etc/passwd", "root:x:0:0::/root:/bin/sh\n"), file("system", "os-release", "NAME=Debian\n")];
    let refused = agent.send_all(&job, &job.honest(&files)).await.expect_err("unapproved");
    assert!(refused.message().contains("nobody approved"), "{refused}");

    // The log has the approval, and the process dies before anybody hears of it.
    let mut as_ben = reconnected(&ben, &world).await;
    let keys = [ben.evidence.public().id()];
    world.running().parts.ledgers.ensure_enrolled(&order.case, &keys).await.expect("enrolled");
    world.faults.fail(Op::PutHead, "/log/checkpoint", 0, 1_000_000, Fault::After(Kind::Retry));
    let cut = submit(&mut as_ben, approval(&order, &envelope, &ben, clock::now())).await.expect_err("cut");
    assert_eq!(cut.code(), Code::Unavailable, "{cut}");
    drop(session);
    world.stop().await;
    assert_eq!(reindexed(&world, &job).await, State::Queued);
    world.faults.heal();
    world.restart().await;
    session = agent.session(&[]).await.expect("session");
    let offer = session.offer().await;
    let given = Envelope::parse(&offer.approval).expect("an envelope");
    assert_eq!((given.keyid(), offer.approver_enrolments.is_empty()), (keys[0], false));
    session.reply(&job.collection, vec![]).await;
    agent.send_all(&job, &job.honest(&files)).await.expect("received");
    let _ = session.closed_after_again(&offer).await;
    let again = submit(&mut reconnected(&ben, &world).await, approval(&order, &envelope, &ben, clock::now())).await;
    assert_eq!(again.expect_err("approved already").code(), Code::FailedPrecondition);
    world.stop().await;
    let report = verdict::report(&world, order.case.as_str(), true);
    assert_eq!(report.verdict, Verdict::Sound, "{:#?}", report.findings.kept());
    assert!(report.case.is_some_and(|case| case.two_person));
}

async fn reconnected(credential: &Credential, world: &World) -> People {
    People::new(crate::support::world::channel(credential, world.port).await.expect("connects"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_nobody_approves_ends_like_any_other() {
    let mut world = World::start().await;
    let agent = crate::support::world::agent_id(&world.enroll("web-1").await);
    let (ben, mut as_ben) = world.person("ben", &[Role::Approver], None).await;
    let case = world.try_open_case(true).await.expect("opened");
    let mut order = world.order(&case, std::slice::from_ref(&agent));
    order.expires_at = clock::now().plus_s(2);
    let envelope = world.sign(&order);
    let expiring = world.submit(&envelope).await.expect("admitted").collections.remove(0);
    let other = world.order(&case, std::slice::from_ref(&agent));
    let cancelled = world.sign(&other);
    let cancelled = world.submit(&cancelled).await.expect("admitted").collections.remove(0);
    let request =
        people::CancelCollectionsRequest { collections: vec![cancelled.collection], order: String::new(), reason: "a mistake".to_owned() };
    let stopped = world.people.cancel_collections(request).await.expect("cancelled").into_inner().collections.remove(0);
    let stopped = world.closed(&stopped.collection.parse().expect("id")).await;
    assert_eq!(stopped.state, "cancelled");
    world.stop().await;
    let job = Job::new(&order, &envelope, &agent, 1);
    assert_eq!(reindexed(&world, &job).await, State::Unapproved, "the log says that it waits");
    // From now on this deployment takes only such cases.
    world.two_person = true;
    world.restart().await;
    let ended = world.closed(&expiring.collection.parse().expect("id")).await;
    assert!(ended.state == "expired" && ended.reason.contains("nobody had approved"), "{ended:?}");
    as_ben = {
        drop(as_ben);
        reconnected(&ben, &world).await
    };
    let late = submit(&mut as_ben, approval(&order, &envelope, &ben, clock::now())).await.expect_err("too late");
    assert!(late.code() == Code::FailedPrecondition && late.message().contains("expired"), "{late}");
    let plain = world.try_open_case(false).await.expect_err("one person is not enough");
    assert!(plain.code() == Code::PermissionDenied && plain.message().contains("--two-person"), "{plain}");
    world.try_open_case(true).await.expect("two are");
    world.stop().await;
    assert_eq!(verdict::report(&world, order.case.as_str(), true).verdict, Verdict::Sound);
}

/// The approval stands in the log, and the call that brought it fails: the order runs all the same, without a restart. A case is not
/// closed over an order that waits; what is cancelled, and a case that is closed, take no approval any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_approval_whose_call_was_cut_lets_the_order_run() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let mut session = agent.session(&[]).await.expect("session");
    let (ben, mut as_ben) = world.person("ben", &[Role::Approver], None).await;
    let case = world.try_open_case(true).await.expect("opened");
    let order = world.order(&case, std::slice::from_ref(&agent.id));
    let envelope = world.sign(&order);
    world.submit(&envelope).await.expect("admitted");
    world.running().parts.ledgers.ensure_enrolled(&order.case, &[ben.evidence.public().id()]).await.expect("enrolled");
    world.faults.fail(Op::PutHead, "/log/checkpoint", 0, 1, Fault::Before(Kind::Retry));
    let cut = submit(&mut as_ben, approval(&order, &envelope, &ben, clock::now())).await.expect_err("cut");
    assert_eq!(cut.code(), Code::Unavailable, "{cut}");
    // Within the seconds that a message is waited for.
    let offer = session.offer().await;
    assert!(!offer.approval.is_empty());

    let late = world.order(&case, std::slice::from_ref(&agent.id));
    let waits = world.sign(&late);
    world.submit(&waits).await.expect("admitted");
    let closed = exhibit_evidence::record::CaseClosed {
        case: order.case.clone(),
        predecessor: order.predecessor,
        reason: "over".to_owned(),
        closed_by: world.me(),
        closed_at: clock::now(),
    };
    let closed = record::sign(&closed, &world.admin.evidence).expect("small").as_bytes().to_vec();
    let request = people::CloseCaseRequest { case_closed: closed };
    let early = world.people.close_case(request.clone()).await.expect_err("an order waits");
    assert!(early.code() == Code::FailedPrecondition && early.message().contains(late.order.as_str()), "{early}");
    let cancel = people::CancelCollectionsRequest { order: late.order.to_string(), reason: "over".to_owned(), ..Default::default() };
    let now = world.people.cancel_collections(cancel).await.expect("cancelled").into_inner().collections;
    assert_eq!(now.iter().map(|c| c.state.as_str()).collect::<Vec<_>>(), ["cancelled"], "its seal is waited for");
    let ended = submit(&mut as_ben, approval(&late, &waits, &ben, clock::now())).await.expect_err("cancelled");
    assert!(ended.code() == Code::FailedPrecondition && ended.message().contains("at its end"), "{ended}");
    world.people.close_case(request).await.expect("closed");
    let refused = submit(&mut as_ben, approval(&late, &waits, &ben, clock::now())).await.expect_err("closed");
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("is closed"), "{refused}");
}

/// Whose key is revoked has given no order that waits: nobody approves it, and no agent is given it.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_a_revoked_key_is_neither_approved_nor_offered() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let (ben, mut as_ben) = world.person("ben", &[Role::Approver], None).await;
    let (rita, mut as_rita) = world.person("rita", &[Role::Responder], None).await;
    let two = world.try_open_case(true).await.expect("opened");
    let one = world.open_case().await;
    let mut orders = Vec::new();
    for case in [&two, &two, &one] {
        let case = world.case(case).await;
        let mut order = world.order(&case, std::slice::from_ref(&agent.id));
        order.issued_by = rita.name().to_string();
        let envelope = record::sign(&order, &rita.evidence).expect("small");
        as_rita.submit_order(people::SubmitOrderRequest { order: envelope.as_bytes().to_vec() }).await.expect("admitted");
        orders.push((order, envelope));
    }
    let (order, envelope) = &orders[1];
    submit(&mut as_ben, approval(order, envelope, &ben, clock::now())).await.expect("approved");
    world.revoke(&rita).await;
    let (order, envelope) = &orders[0];
    let refused = submit(&mut as_ben, approval(order, envelope, &ben, clock::now())).await.expect_err("revoked");
    let how = format!("exhibit cancel --order {}", order.order);
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("was revoked since"), "{refused}");
    assert!(refused.message().contains(&how), "{refused}");
    // Nobody is asked to approve it any more, and the record that says why is named.
    let job = Job::new(order, envelope, &agent.id, 1);
    let listed = world.collection(&job.collection).await;
    let said = ["can be approved by nobody", "was revoked (record ", &how].map(|words| listed.reason.contains(words));
    assert!(listed.state == "unapproved" && said == [true; 3] && !listed.reason.contains("exhibit approve"), "{listed:?}");
    // The agent comes: what waited for it, approved or in no need of it, has its end in the log.
    let _session = agent.session(&[]).await.expect("session");
    for (order, envelope) in &orders[1..] {
        let job = Job::new(order, envelope, &agent.id, 1);
        let ended = world.closed(&job.collection).await;
        assert!(ended.state == "cancelled" && ended.reason.contains("was revoked before the agent began"), "{ended:?}");
    }
    world.stop().await;
    assert_eq!(verdict::report(&world, &one.case_id, true).verdict, Verdict::Sound);
}

/// An approval rests on the approver's key just as the order does on the responder's.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_approver_was_revoked_is_not_offered() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let (ben, mut as_ben) = world.person("ben", &[Role::Approver], None).await;
    let case = world.try_open_case(true).await.expect("opened");
    let order = world.order(&case, std::slice::from_ref(&agent.id));
    let envelope = world.sign(&order);
    world.submit(&envelope).await.expect("admitted");
    submit(&mut as_ben, approval(&order, &envelope, &ben, clock::now())).await.expect("approved");
    world.revoke(&ben).await;
    let _session = agent.session(&[]).await.expect("session");
    let ended = world.closed(&Job::new(&order, &envelope, &agent.id, 1).collection).await;
    assert!(ended.state == "cancelled" && ended.reason.contains("who approved the order"), "{ended:?}");
}

/// How often a case's log revokes a key.
fn revocations_of(world: &World, case: &str, key: exhibit_evidence::key::KeyId) -> usize {
    let folder = world.store_dir().join("cases").join(case).join("log/seq");
    let revokes = |entry: std::io::Result<std::fs::DirEntry>| {
        let bytes = std::fs::read(entry.expect("entry").path()).expect("slot");
        let record = Record::from_payload(Envelope::parse(&bytes).expect("envelope").unverified_payload()).expect("record");
        matches!(record, Record::Revocation(p) if p.key == key)
    };
    std::fs::read_dir(folder).expect("the log").filter(std::result::Result::is_ok).map(revokes).filter(|is| *is).count()
}

/// Whoever gets a copy of a case has no other log: what that one says of the people of this case goes with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_in_every_copy_of_the_case() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let agent = Agent::new(credential, world.port, 1).await;
    let (ben, mut as_ben) = world.person("ben", &[Role::Approver], None).await;
    let (rita, mut as_rita) = world.person("rita", &[Role::Responder], None).await;
    let (sam, _) = world.person("sam", &[Role::Responder], None).await;
    let case = world.try_open_case(true).await.expect("opened");
    let mut order = world.order(&case, std::slice::from_ref(&agent.id));
    order.issued_by = rita.name().to_string();
    let envelope = record::sign(&order, &rita.evidence).expect("small");
    as_rita.submit_order(people::SubmitOrderRequest { order: envelope.as_bytes().to_vec() }).await.expect("admitted");
    for gone in [&rita, &sam] {
        world.revoke(gone).await;
    }
    assert_eq!(revocations_of(&world, &case.case_id, rita.evidence.public().id()), 0);
    let request = people::ExportCaseRequest {
        case_id: case.case_id.clone(),
        collections: Vec::new(),
        key: world.admin.evidence.public().id().as_bytes().to_vec(),
        after: String::new(),
        reason: "handoff".to_owned(),
    };
    for _ in 0..2 {
        let mut stream = world.people.export_case(request.clone()).await.expect("stream").into_inner();
        while stream.message().await.expect("given").is_some() {}
        assert_eq!(revocations_of(&world, &case.case_id, rita.evidence.public().id()), 1, "once, before the head that is given");
    }
    assert_eq!(revocations_of(&world, &case.case_id, sam.evidence.public().id()), 0, "never had to do with this case");
    // Nobody approves it, and the message still knows whose it was.
    let refused = submit(&mut as_ben, approval(&order, &envelope, &ben, clock::now())).await.expect_err("revoked");
    assert!(refused.message().contains("rita") && refused.message().contains("was revoked since"), "{refused}");
    let job = Job::new(&order, &envelope, &agent.id, 1);
    assert_eq!(reindexed(&world, &job).await, State::Unapproved);
    let report = verdict::report(&world, &case.case_id, false);
    assert_eq!(report.verdict, Verdict::Sound, "{:#?}", report.findings);
}
