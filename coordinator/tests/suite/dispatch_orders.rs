//! Orders: which are admitted, and every way in which a collection can end without being whole.

use crate::support::verdict;
use std::time::Duration;

use crate::support::agent::{Agent, Job, file};
use crate::support::world::{self, World};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::record::{self, CaseClosed, Order, Refusal};
use exhibit_evidence::{Digest, Timestamp};
use exhibit_proto::agent::v1::session_response;
use exhibit_proto::responder::v1 as people;
use tonic::Code;

async fn world_and_agent() -> (World, Agent) {
    let mut world = Box::pin(World::start()).await;
    let credential = world.enroll("web-1").await;
    let agent = Agent::new(credential, world.port, 1).await;
    (world, agent)
}

type Change = fn(&mut Order);

fn cancel(job: &Job) -> people::CancelCollectionsRequest {
    people::CancelCollectionsRequest {
        collections: vec![job.collection.to_string()],
        order: String::new(),
        reason: "no longer needed".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_do_not_hold_are_refused_with_their_field() {
    let (mut world, agent) = world_and_agent().await;
    let stranger = world.enroll("web-2").await;
    let (case, other_case) = (world.open_case().await, world.open_case().await);
    let good = world.order(&case, std::slice::from_ref(&agent.id));
    let changes: [(&str, Code, Change); 9] = [
        ("expires_at", Code::InvalidArgument, |o| {
            o.issued_at = o.issued_at.plus_s(-7_200);
            o.expires_at = o.issued_at.plus_s(3_600);
        }),
        ("issued_at", Code::InvalidArgument, |o| {
            o.issued_at = o.issued_at.plus_s(3_000);
            o.expires_at = o.issued_at.plus_s(3_600);
        }),
        ("targets", Code::NotFound, |o| o.targets = vec![exhibit_evidence::AgentId::new(1, [9; 10])]),
        ("targets", Code::InvalidArgument, |o| o.targets.clear()),
        ("captures", Code::InvalidArgument, |o| o.captures.clear()),
        ("reason", Code::InvalidArgument, |o| o.reason = String::new()),
        ("predecessor", Code::InvalidArgument, |o| o.predecessor = Digest::of(b"another case")),
        ("nonce", Code::InvalidArgument, |o| o.nonce.root = Digest::of(b"another log")),
        ("order: spiffe://test/responder/ada may not sign", Code::PermissionDenied, |o| {
            o.issued_by = "spiffe://test/responder/eve".to_owned();
        }),
    ];
    for (field, code, change) in changes {
        let mut order = good.clone();
        change(&mut order);
        let signed = world.sign(&order);
        let status = world.submit(&signed).await.expect_err(field);
        assert_eq!(status.code(), code, "{field}: {status}");
        assert!(status.message().starts_with(field), "{field}: {status}");
    }
    // The other case's log never had this head, and the record names another case.
    let mut order = good.clone();
    order.case = other_case.case_id.parse().expect("id");
    let signed = world.sign(&order);
    assert!(world.submit(&signed).await.expect_err("wrong case").message().starts_with("predecessor"));
    // Signed by an agent's key, by a key that nobody knows, changed after it was signed, no envelope at all.
    let by_agent = record::sign(&good, &stranger.evidence).expect("small");
    assert!(
        world.submit(&by_agent).await.expect_err("an agent").message().contains("only the key of a responder of this case may sign it")
    );
    let unknown = exhibit_evidence::key::SigningKey::from_seed(&[77; 32]);
    let by_nobody = record::sign(&good, &unknown).expect("small");
    assert!(world.submit(&by_nobody).await.expect_err("nobody").message().contains("not enrolled"));
    let retargeted = retarget(&world.sign(&good), &agent.id, &world::agent_id(&stranger));
    assert!(world.submit(&retargeted).await.expect_err("changed").message().contains("does not match the record"));
    let garbage = people::SubmitOrderRequest { order: b"{}".to_vec() };
    assert_eq!(world.people.submit_order(garbage).await.expect_err("garbage").code(), Code::InvalidArgument);
    assert_eq!(world.case(&case).await.collections.len(), 0, "nothing came of them");
    // The good one is accepted, once.
    let signed = world.sign(&good);
    let first = world.submit(&signed).await.expect("good");
    let again = world.submit(&signed).await.expect("repeated");
    assert_eq!(first, again);
    let mut same_id = good.clone();
    same_id.reason = "another".to_owned();
    let signed = world.sign(&same_id);
    assert_eq!(world.submit(&signed).await.expect_err("same id").code(), Code::AlreadyExists);
    closed_case_takes_no_order(&mut world, &case, &agent).await;
}

/// The same envelope with another target in its payload.
fn retarget(envelope: &Envelope, from: &exhibit_evidence::AgentId, to: &exhibit_evidence::AgentId) -> Envelope {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let payload = String::from_utf8(envelope.unverified_payload().to_vec()).expect("JSON");
    let text = String::from_utf8(envelope.as_bytes().to_vec()).expect("JSON");
    let changed = STANDARD.encode(payload.replace(from.as_str(), to.as_str()));
    Envelope::parse(text.replace(&STANDARD.encode(&payload), &changed).as_bytes()).expect("well formed")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_is_closed_once_whoever_comes_second() {
    let mut world = World::start().await;
    let case = world.open_case().await;
    let closing = |reason: &str| CaseClosed {
        case: case.case_id.parse().expect("id"),
        predecessor: Digest::try_from(case.case_opened_sha256.as_slice()).expect("digest"),
        reason: reason.to_owned(),
        closed_by: world.me(),
        closed_at: world::now(),
    };
    let requests: Vec<_> = (0..8).map(|n| record::sign(&closing(&format!("reason {n}")), &world.admin.evidence).expect("small")).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for signed in requests {
        let mut people = world.people.clone();
        tasks.spawn(async move { people.close_case(people::CloseCaseRequest { case_closed: signed.as_bytes().to_vec() }).await });
    }
    let answers = tasks.join_all().await;
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 1, "{answers:?}");
    verdict::sound(&world, case.case_id.as_str());
}

async fn closed_case_takes_no_order(world: &mut World, case: &people::Case, agent: &Agent) {
    let closed = CaseClosed {
        case: case.case_id.parse().expect("id"),
        predecessor: Digest::try_from(case.case_opened_sha256.as_slice()).expect("digest"),
        reason: "settled".to_owned(),
        closed_by: world.me(),
        closed_at: world::now(),
    };
    let signed = record::sign(&closed, &world.admin.evidence).expect("small");
    let request = people::CloseCaseRequest { case_closed: signed.as_bytes().to_vec() };
    assert_eq!(world.people.close_case(request.clone()).await.expect("closed").into_inner().state, "closed");
    world.people.close_case(request).await.expect("repeatable");
    let now = world.case(case).await;
    let order = world.order(&now, std::slice::from_ref(&agent.id));
    let signed = world.sign(&order);
    let status = world.submit(&signed).await.expect_err("closed");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_verified_and_sealed() {
    let (mut world, mut agent) = world_and_agent().await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let mut session = agent.session(&[]).await.expect("session");
    session.offer().await;
    let mut refusal = Refusal {
        collection: job.collection.clone(),
        agent: agent.id.clone(),
        predecessor: Digest::of(b"another order"),
        code: "policy".to_owned(),
        message: "captures = [\"system\"] on this host".to_owned(),
        refused_at: world::now(),
    };
    let false_one = record::sign(&refusal, &agent.credential.evidence).expect("small");
    session.reply(&job.collection, false_one.as_bytes().to_vec()).await;
    refusal.predecessor = envelope.digest();
    let signed = record::sign(&refusal, &agent.credential.evidence).expect("small");
    session.reply(&job.collection, signed.as_bytes().to_vec()).await;
    session.closed().await;
    let row = world.closed(&job.collection).await;
    assert_eq!((row.state.as_str(), row.reason.as_str()), ("refused", "policy: captures = [\"system\"] on this host"));
    assert!(world.incidents().await.iter().any(|i| i.starts_with("bad-refusal")));
    verdict::sound(&world, order.case.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_nobody_begins_expires() {
    let (mut world, agent) = world_and_agent().await;
    let case = world.open_case().await;
    let mut order = world.order(&case, std::slice::from_ref(&agent.id));
    order.expires_at = Timestamp::from_unix_ns(world::now().unix_ns()).plus_s(2);
    let envelope = world.sign(&order);
    world.submit(&envelope).await.expect("admitted");
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let row = world.closed(&job.collection).await;
    assert_eq!(row.state, "expired");
    verdict::sound(&world, order.case.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_cancelled_and_what_runs_ends_as_partial() {
    let (mut world, mut agent) = world_and_agent().await;
    let (case, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let waiting = Job::new(&order, &envelope, &agent.id, 1);
    world.people.cancel_collections(cancel(&waiting)).await.expect("cancelled");
    assert_eq!(world.closed(&waiting.collection).await.state, "cancelled");
    world.people.cancel_collections(cancel(&waiting)).await.expect("repeatable");

    let now = world.case(&case).await;
    let order = world.order(&now, std::slice::from_ref(&agent.id));
    let envelope = world.sign(&order);
    world.submit(&envelope).await.expect("admitted");
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let mut session = agent.session(&[]).await.expect("session");
    session.offer().await;
    session.reply(&job.collection, vec![]).await;
    let made = job.honest(&[file("system", "os-release", "x"), file("files", "/etc/passwd", "y")]);
    let mut upload = agent.open(&job).await.expect("let in");
    upload.segment(&made.parts[0]).await.expect("first");
    world.people.cancel_collections(cancel(&job)).await.expect("asked");
    let Some(session_response::Kind::Cancel(asked)) = session.next().await else { panic!("expected a cancel") };
    assert!(asked.reason.contains("no longer needed"), "{}", asked.reason);
    for part in &made.parts[1..] {
        upload.segment(part).await.expect("the rest");
    }
    let mut acquisition = job.acquisition(&made.manifest);
    acquisition.complete = false;
    acquisition.reason = Some("cancelled".to_owned());
    let signed = agent.sign_acquisition(&acquisition);
    upload.finish(&made, &signed).await.expect("received");
    assert_eq!(world.closed(&job.collection).await.state, "partial");
    verdict::sound(&world, case.case_id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_process_begins_again_and_both_streams_are_kept() {
    let (mut world, mut agent) = world_and_agent().await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let first = Job::new(&order, &envelope, &agent.id, 1);
    let mut session = agent.session(&[]).await.expect("session");
    session.offer().await;
    let mut upload = agent.open(&first).await.expect("let in");
    upload.segment(&first.honest(&[file("system", "a", "first try")]).parts[0]).await.expect("first");
    drop((session, upload));
    tokio::time::sleep(Duration::from_millis(300)).await;

    let mut agent = Agent::new(agent.credential, world.port, 2).await;
    let mut session = agent.session(&[]).await.expect("a new process");
    let offer = session.offer().await;
    assert_eq!((offer.collection, offer.stream), (first.collection.to_string(), 2));
    assert_eq!(agent.open(&first).await.map(|_| ()).expect_err("the old stream").code(), Code::FailedPrecondition);
    let second = Job::new(&order, &envelope, &agent.id, 2);
    agent.send_all(&second, &second.honest(&[file("system", "a", "second try"), file("files", "/b", "b")])).await.expect("received");
    let row = world.closed(&first.collection).await;
    assert_eq!((row.state.as_str(), row.items, row.streams, row.exhibit_count), ("sealed", 3, 2, 3));
    verdict::sound(&world, order.case.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_one_identity_raise_an_alarm() {
    let (mut world, mut agent) = world_and_agent().await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let mut session = agent.session(&[]).await.expect("the first");
    session.offer().await;
    session.reply(&job.collection, vec![]).await;
    let alive = tokio::spawn(async move {
        // Answers pings as long as it lives.
        session.next().await;
        session
    });
    let mut clone = Agent::new(agent_credential(&agent), world.port, 2).await;
    let status = clone.session(&[]).await.map(|_| ()).expect_err("the second is refused");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("another process with this agent's identity"), "{status}");
    assert_eq!(clone.open(&job).await.map(|_| ()).expect_err("nor may it upload").code(), Code::PermissionDenied);
    agent.open(&job).await.expect("the first still may");
    let row = world.running().parts.catalog.agent(agent.id.clone()).await.expect("catalog").expect("agent");
    assert!(row.alarm.is_some());
    assert!(world.incidents().await.iter().any(|i| i.starts_with("duplicate-identity")));
    alive.abort();
}

fn agent_credential(agent: &Agent) -> exhibit_certs::Credential {
    let c = &agent.credential;
    exhibit_certs::Credential::new(
        c.anchor.clone(),
        c.tls_root.clone(),
        c.tls.clone(),
        exhibit_evidence::key::SigningKey::from_text(&c.evidence.to_text()).expect("key"),
        c.enrolments.clone(),
    )
    .expect("the same")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_no_agent_has_is_refused_at_once() {
    let (mut world, mut agent) = world_and_agent().await;
    let mut session = agent.session(&[]).await.expect("session");
    let case = world.open_case().await;
    let mut order = world.order(&case, std::slice::from_ref(&agent.id));
    order.captures[0].name = "telepathy".to_owned();
    let signed = world.sign(&order);
    let status = world.submit(&signed).await.expect_err("no such capture");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("'telepathy'") && status.message().contains("files, system"), "{status}");
    // Where one agent has it, the other refuses for itself. One that never connected has said nothing.
    let never_seen = world::agent_id(&world.enroll("web-2").await);
    order.captures[0].name = "files".to_owned();
    order.captures.truncate(1);
    order.targets.push(never_seen.clone());
    let signed = world.sign(&order);
    world.submit(&signed).await.expect("one has it");
    session.offer().await;
    let case = world.case(&case).await;
    let mut unknown = world.order(&case, &[never_seen]);
    unknown.captures[0].name = "telepathy".to_owned();
    let signed = world.sign(&unknown);
    world.submit(&signed).await.expect("nobody can say");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collection_waits_for_is_said_as_it_is() {
    let (mut world, mut agent) = world_and_agent().await;
    let case = world.open_case().await;
    let order = world.order(&case, std::slice::from_ref(&agent.id));
    let signed = world.sign(&order);
    let offline = world.submit(&signed).await.expect("admitted").collections.remove(0);
    assert_eq!((offline.state.as_str(), offline.reason.as_str()), ("queued", "waits for the agent to connect"));
    let first = Job::new(&order, &signed, &agent.id, 1);
    let mut session = agent.session(&[]).await.expect("session");
    session.offer().await;
    // To an agent that is there it is offered before the responder has the answer.
    let case = world.case(&case).await;
    let order = world.order(&case, std::slice::from_ref(&agent.id));
    let signed = world.sign(&order);
    let online = world.submit(&signed).await.expect("admitted").collections.remove(0);
    assert_eq!((online.state.as_str(), online.reason.as_str()), ("offered", "offered to the agent, no answer yet"));
    session.offer().await;
    session.reply(&first.collection, vec![]).await;
    while world.collection(&first.collection).await.state != "running" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = Job::new(&order, &signed, &agent.id, 1);
    let waits = world.collection(&second.collection).await;
    assert!(
        waits.state == "offered" && waits.reason.contains("busy with") && waits.reason.contains(first.collection.as_str()),
        "{waits:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hinders_an_agent_is_the_reason_of_its_collection() {
    let (mut world, mut agent) = world_and_agent().await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let mut session = agent.session(&[]).await.expect("session");
    session.offer().await;
    session.hindered(&job.collection, "not begun: no space\x1b[2J left").await;
    let row = loop {
        let row = world.collection(&job.collection).await;
        if row.reason.contains("the agent says") {
            break row;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let says = "offered to the agent; the agent says: not begun: no space\\x1b[2J left";
    assert_eq!((row.state.as_str(), row.reason.as_str()), ("offered", says));
    // It begins: whatever it says next is what it does.
    session.reply(&job.collection, vec![]).await;
    session.hindered(&job.collection, "").await;
    while !world.collection(&job.collection).await.reason.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_is_told_to_whoever_asks_and_whoever_watches() {
    let (mut world, agent) = world_and_agent().await;
    let (case, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    world.free_bytes_min = 1 << 60;
    world.restart().await;
    let mut agent = Agent::new(agent.credential, world.port, 1).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let mut session = agent.session(&[]).await.expect("session");
    session.offer().await;
    session.reply(&job.collection, vec![]).await;
    let made = job.honest(&[file("system", "a", "x"), file("files", "/b", "y")]);
    let upload = agent.open(&job).await.expect("let in");
    upload.push(&made.parts[0]).await;
    let what =
        people::ListCollectionsRequest { collections: vec![job.collection.to_string()], ..people::ListCollectionsRequest::default() };
    let mut watched =
        world.people.watch_collections(people::WatchCollectionsRequest { what: Some(what) }).await.expect("watches").into_inner();
    let paused = loop {
        let row = tokio::time::timeout(Duration::from_mins(1), watched.message()).await.expect("in time").expect("row").expect("open");
        if row.reason.contains("paused") {
            break row;
        }
    };
    assert!(paused.state == "running" && paused.reason.contains("bytes free"), "{paused:?}");
    assert_eq!(world.collection(&job.collection).await.reason, paused.reason);
    // The agent goes away: nothing is paused any more.
    drop((upload, session, watched));
    while !world.collection(&job.collection).await.reason.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // With room it goes on from where it was.
    world.free_bytes_min = 0;
    world.restart().await;
    let mut agent = Agent::new(agent.credential, world.port, 1).await;
    let session = agent.session(std::slice::from_ref(&job.collection)).await.expect("session");
    agent.send_all(&job, &made).await.expect("received");
    assert_eq!(world.closed(&job.collection).await.state, "sealed");
    drop(session);
    verdict::sound(&world, case.case_id.as_str());
}
