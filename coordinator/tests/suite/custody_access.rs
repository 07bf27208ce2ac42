//! Who sees evidence is written down before they see it, and nobody sees what is not theirs.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::agent::{Agent, Job, file};
use crate::support::verdict;
use crate::support::world::World;
use exhibit_coordinator::read::{Reader, record_access};
use exhibit_coordinator::store::Kind;
use exhibit_coordinator::store::faulty::{Fault, Op};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::log::Checkpoint;
use exhibit_evidence::record::{Access, Action, Record, Role};
use exhibit_proto::log::v1 as logs;
use exhibit_proto::log::v1::log_service_client::LogServiceClient;
use exhibit_proto::responder::v1 as people;
use tonic::Code;

/// A case with one sealed collection of two items.
pub async fn collected(world: &mut World) -> (people::Case, Job) {
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let mut session = agent.session(&[]).await.expect("session");
    let (case, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    session.offer().await;
    session.reply(&job.collection, vec![]).await;
    let made = job.honest(&[file("system", "os-release", "NAME=Debian\n"), file("files", "/etc/passwd", "root:x:0:0::/root:/bin/sh\n")]);
    agent.send_all(&job, &made).await.expect("received");
    session.closed().await;
    (case, job)
}

fn reading(job: &Job, action: &str) -> people::ReadItemsRequest {
    people::ReadItemsRequest {
        items: vec![format!("{}.s1.1", job.collection)],
        reason: "compare with the backup".to_owned(),
        action: action.to_owned(),
    }
}

pub fn listing(job: &Job) -> people::ListItemsRequest {
    let collections = vec![job.collection.to_string()];
    people::ListItemsRequest { collections, reason: "see what there is".to_owned(), ..people::ListItemsRequest::default() }
}

/// What the case's checkpoint covers now, as it lies on the disk, and the access records among it.
fn accesses(world: &World, case: &str) -> (u64, Vec<(u64, Access)>) {
    let log = world.store_dir().join("cases").join(case).join("log");
    let head = Checkpoint::parse_unverified(&std::fs::read(log.join("checkpoint")).expect("checkpoint")).expect("head");
    let record = |n: u64| {
        let bytes = std::fs::read(log.join(format!("seq/{n:010}.dsse.json"))).expect("slot");
        Record::from_payload(Envelope::parse(&bytes).expect("envelope").unverified_payload()).expect("record")
    };
    let found = (0..head.size).filter_map(|n| if let Record::Access(p) = record(n) { Some((n, *p)) } else { None });
    (head.size, found.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_byte_waits_for_the_checkpoint_over_its_access() {
    let mut world = World::start().await;
    let (case, job) = collected(&mut world).await;
    let (before, none) = accesses(&world, &case.case_id);
    assert!(none.is_empty());
    // The slot is written at once, the checkpoint takes its time.
    world.faults.fail(Op::PutHead, &format!("{}/log/checkpoint", case.case_id), 0, 1, Fault::Delay(Duration::from_millis(1_500)));
    let mut stream = world.people.read_items(reading(&job, "download")).await.expect("stream").into_inner();
    let early = tokio::time::timeout(Duration::from_millis(900), stream.message()).await;
    assert!(early.is_err(), "served before the checkpoint: {early:?}");
    assert_eq!(accesses(&world, &case.case_id).0, before, "the checkpoint is not published yet");
    let first = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.expect("in time").expect("served");
    assert!(first.is_some());
    // At the first message it is there, with everything that it must say.
    let (size, found) = accesses(&world, &case.case_id);
    let (n, access) = found.first().expect("recorded");
    assert!(*n < size);
    assert_eq!(
        (access.action, access.reason.as_str(), access.by.as_str()),
        (Action::Download, "compare with the backup", world.me().as_str())
    );
    assert_eq!((access.what.as_slice(), found.len()), ([format!("{}.s1.1", job.collection)].as_slice(), 1));
    while stream.message().await.expect("served").is_some() {}
    verdict::sound(&world, &case.case_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_is_served_when_the_access_cannot_be_recorded() {
    let mut world = World::start().await;
    let (case, job) = collected(&mut world).await;
    let places = [(Op::PutNew, "/log/seq/"), (Op::PutNew, "/log/tile/"), (Op::PutHead, "/log/checkpoint")];
    for (op, name) in places {
        for fault in [Fault::Before(Kind::Retry), Fault::After(Kind::Retry), Fault::Before(Kind::Denied)] {
            world.faults.fail(op, &format!("{}{name}", case.case_id), 0, 1_000, fault);
            let mut items = world.people.list_items(listing(&job)).await.expect("stream").into_inner();
            let listed = items.message().await;
            assert!(listed.is_err(), "{op:?} {name} {fault:?}: listed {listed:?}");
            let mut bytes = world.people.read_items(reading(&job, "view")).await.expect("stream").into_inner();
            let served = bytes.message().await;
            assert!(served.is_err(), "{op:?} {name} {fault:?}: served {served:?}");
            world.faults.heal();
        }
    }
    let mut bytes = world.people.read_items(reading(&job, "view")).await.expect("stream").into_inner();
    assert!(bytes.message().await.expect("served").is_some());
    verdict::sound(&world, &case.case_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_without_a_reason_or_for_an_unknown_one() {
    let mut world = World::start().await;
    let (case, job) = collected(&mut world).await;
    for (reason, action, field) in [("", "view", "reason"), ("x", "", "action"), ("x", "list", "action"), ("x", "peek", "action")] {
        let request = people::ReadItemsRequest { reason: reason.to_owned(), ..reading(&job, action) };
        let status = world.people.read_items(request).await.map(|_| ()).expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(field), "{status}");
    }
    let status = world.people.list_items(people::ListItemsRequest { reason: String::new(), ..listing(&job) }).await.map(|_| ());
    assert_eq!(status.expect_err("refused").code(), Code::InvalidArgument);
    assert!(accesses(&world, &case.case_id).1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_end_at_the_case() {
    let mut world = World::start().await;
    let (case, job) = collected(&mut world).await;
    let other = world.open_case().await;
    let id: CaseId = other.case_id.parse().expect("id");
    let (eve, mut as_eve) = world.person("eve", &[Role::Custodian, Role::Responder], Some(vec![id.clone()])).await;
    let denied = |status: tonic::Status| assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    denied(as_eve.get_case(people::GetCaseRequest { case_id: case.case_id.clone() }).await.map(|_| ()).expect_err("another case"));
    denied(as_eve.list_items(listing(&job)).await.map(|_| ()).expect_err("another case"));
    denied(as_eve.read_items(reading(&job, "view")).await.map(|_| ()).expect_err("another case"));
    let cancel =
        people::CancelCollectionsRequest { collections: vec![job.collection.to_string()], order: String::new(), reason: "x".to_owned() };
    denied(as_eve.cancel_collections(cancel).await.map(|_| ()).expect_err("another case"));
    let only =
        people::ListCollectionsRequest { collections: vec![job.collection.to_string()], ..people::ListCollectionsRequest::default() };
    let watch = people::WatchCollectionsRequest { what: Some(only.clone()) };
    denied(as_eve.watch_collections(watch).await.map(|_| ()).expect_err("another case"));
    let mut seen = as_eve.list_collections(only).await.expect("stream").into_inner();
    assert!(seen.message().await.expect("listed").is_none(), "lists leave it out");
    // A case or an order that is named is no list: an empty answer would say that nothing was collected.
    let of = |case_id: &str, order: &str| people::ListCollectionsRequest {
        case_id: case_id.to_owned(),
        order: order.to_owned(),
        ..people::ListCollectionsRequest::default()
    };
    let order = world.collection(&job.collection).await.order;
    for named in [of(&case.case_id, ""), of("", &order)] {
        denied(as_eve.list_collections(named.clone()).await.map(|_| ()).expect_err("another case"));
        let watch = people::WatchCollectionsRequest { what: Some(named) };
        denied(as_eve.watch_collections(watch).await.map(|_| ()).expect_err("another case"));
    }
    let nowhere = [of(CaseId::new(7, [7; 10]).as_str(), ""), of("", exhibit_evidence::OrderId::new(7, [7; 10]).as_str())];
    for named in nowhere {
        let missing = world.people.list_collections(named).await.map(|_| ()).expect_err("there is none");
        assert_eq!(missing.code(), Code::NotFound, "{missing}");
    }
    // She may not open a case either, and hears what that takes; who is asked for help is somebody who can help in any case.
    let opened = exhibit_evidence::record::CaseOpened {
        case: CaseId::new(exhibit_coordinator::clock::now().unix_ms(), [9; 10]),
        deployment: "test".to_owned(),
        title: "t".to_owned(),
        legal_basis: "l".to_owned(),
        accountable: "a".to_owned(),
        opened_by: eve.name().to_string(),
        opened_at: exhibit_coordinator::clock::now(),
        two_person: false,
        encrypt_to: exhibit_evidence::age::Recipients::default(),
    };
    let opened = exhibit_evidence::record::sign(&opened, &eve.evidence).expect("small").as_bytes().to_vec();
    let refused = as_eve.open_case(people::OpenCaseRequest { case_opened: opened }).await.map(|_| ()).expect_err("limited");
    assert!(refused.message().ends_with("an admin gives it: exhibit person allow eve --role responder"), "{refused}");
    denied(refused);
    let (_, mut as_audrey) = world.person("audrey", &[Role::Auditor], None).await;
    let refused = as_audrey.submit_order(people::SubmitOrderRequest { order: Vec::new() }).await.map(|_| ()).expect_err("an auditor");
    assert!(refused.message().contains("/ada") && !refused.message().contains("/eve"), "{refused}");
    let mut cases = as_eve.list_cases(people::ListCasesRequest {}).await.expect("stream").into_inner();
    assert_eq!(cases.message().await.expect("listed").map(|c| c.case_id), Some(other.case_id.clone()));
    assert!(cases.message().await.expect("listed").is_none());
    let mut log = LogServiceClient::new(crate::support::world::channel(&eve, world.port).await.expect("connects"));
    for case_id in [case.case_id.clone(), String::new()] {
        let whole = case_id.is_empty();
        let refused = log.get_checkpoint(logs::GetCheckpointRequest { case_id, size: 0 }).await.map(|_| ()).expect_err("another log");
        assert_eq!(refused.message().contains("without a limit to cases"), whole, "{refused}");
        denied(refused);
    }
    log.get_checkpoint(logs::GetCheckpointRequest { case_id: other.case_id.clone(), size: 0 }).await.expect("the own case");

    // An order there, by the same key: refused before it reaches a log.
    let now = world.case(&case).await;
    let mut order = world.order(&now, std::slice::from_ref(&job.agent));
    order.issued_by = eve.name().to_string();
    let signed = exhibit_evidence::record::sign(&order, &eve.evidence).expect("small");
    denied(
        as_eve.submit_order(people::SubmitOrderRequest { order: signed.as_bytes().to_vec() }).await.map(|_| ()).expect_err("another case"),
    );

    // An admin adds the case; from then on, and with the record in the case's own log, she reads.
    let name = eve.name().clone();
    let here: CaseId = case.case_id.parse().expect("id");
    let more = world.admin.enroller().enrol_in(
        &name,
        eve.evidence.public(),
        (&[Role::Custodian], Some(vec![here])),
        "admin",
        exhibit_coordinator::clock::now(),
    );
    let enrolment = more.expect("small").as_bytes().to_vec();
    world.people.enroll_person(people::EnrollPersonRequest { enrolment, tls_csr: Vec::new() }).await.expect("allowed");
    let mut bytes = as_eve.read_items(reading(&job, "view")).await.expect("stream").into_inner();
    assert!(bytes.message().await.expect("served").is_some());
    verdict::sound(&world, &case.case_id);
    let (_, found) = accesses(&world, &case.case_id);
    assert_eq!(found.last().map(|(_, a)| a.by.clone()), Some(name.to_string()));
    let folder = world.store_dir().join("cases").join(&case.case_id);
    let grep = std::process::Command::new("grep").args(["-rlF", &other.case_id]).arg(folder).output().expect("grep");
    assert!(grep.stdout.is_empty(), "the other case's id does not appear in this case");

    // Revoked, she is out.
    let revocation = exhibit_evidence::record::Revocation {
        deployment: "test".to_owned(),
        key: eve.evidence.public().id(),
        predecessor: eve.enrolments.last().expect("own").digest(),
        reason: "left the company".to_owned(),
        revoked_at: exhibit_coordinator::clock::now(),
    };
    let revocation = exhibit_evidence::record::sign(&revocation, &world.admin.evidence).expect("small").as_bytes().to_vec();
    let done = world.people.revoke_person(people::RevokePersonRequest { revocation }).await.expect("revoked").into_inner();
    assert_eq!(done.name, name.to_string());
    as_eve.get_case(people::GetCaseRequest { case_id: other.case_id.clone() }).await.map(|_| ()).expect_err("cut off");
    let again = crate::support::world::channel(&eve, world.port).await.expect("the certificate still holds");
    let mut again = exhibit_proto::responder::v1::responder_service_client::ResponderServiceClient::new(again);
    denied(again.get_case(people::GetCaseRequest { case_id: other.case_id.clone() }).await.map(|_| ()).expect_err("no key of hers counts"));
}

/// Who was let in before the key was revoked is not let through afterwards: the case's log has the revocation before the next record.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_key_is_revoked_in_the_case_s_log_has_no_access_there() {
    let mut world = World::start().await;
    let (case, job) = collected(&mut world).await;
    let (grace, _) = world.person("grace", &[Role::Custodian], None).await;
    let reader = Reader { name: grace.name().to_string(), key: grace.evidence.public().id() };
    let id: CaseId = case.case_id.parse().expect("id");
    let what = || BTreeMap::from([(id.clone(), vec![format!("{}.s1.1", job.collection)])]);
    Box::pin(record_access(&world.running().parts, &reader, Action::View, "compare", what())).await.expect("her key counts");
    let (_, before) = accesses(&world, &case.case_id);
    assert_eq!(before.last().map(|(_, access)| access.by.clone()), Some(reader.name.clone()));
    world.revoke(&grace).await;
    let refused = Box::pin(record_access(&world.running().parts, &reader, Action::View, "compare", what())).await.expect_err("revoked");
    let said = format!("key {} was revoked: nothing is shown with it", reader.key);
    assert!(refused.to_string().contains(&said), "{refused}");
    assert_eq!(accesses(&world, &case.case_id).1.len(), before.len(), "no access is recorded that nobody had");
    verdict::sound(&world, &case.case_id);
}

/// The keys whose enrolments under a name lie in a case's log.
fn enrolled_in(world: &World, case: &str, name: &str) -> Vec<exhibit_evidence::key::KeyId> {
    let folder = world.store_dir().join("cases").join(case).join("log/seq");
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the log") {
        let bytes = std::fs::read(entry.expect("entry").path()).expect("slot");
        let record = Record::from_payload(Envelope::parse(&bytes).expect("envelope").unverified_payload()).expect("record");
        if let Record::Enrolment(p) = record
            && p.name == name
        {
            keys.push(p.key.id());
        }
    }
    keys
}

/// Rights are a key's: a second one under the same name neither lends its own to the first nor has those of the first, and goes on
/// when the first is revoked.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_reads_by_its_own_rights_and_not_by_those_of_another_of_the_same_name() {
    let mut world = World::start().await;
    let (case, job) = collected(&mut world).await;
    let (old, mut as_old) = world.person("grace", &[Role::Custodian], None).await;
    let (new, mut as_new) = world.person_in("grace-2", "grace", &[Role::Auditor], None).await;
    assert_eq!(old.name(), new.name());
    let me = as_new.whoami(people::WhoamiRequest { protocol_min: 1, protocol_max: 1 }).await.expect("me").into_inner();
    assert_eq!(me.roles, ["auditor"]);
    let refused = as_new.read_items(reading(&job, "view")).await.map(|_| ()).expect_err("an auditor's key");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let mut bytes = as_old.read_items(reading(&job, "view")).await.expect("stream").into_inner();
    assert!(bytes.message().await.expect("a custodian's key").is_some());
    // The verifier sees by what right it was read, and no right of another key.
    assert_eq!(enrolled_in(&world, &case.case_id, &old.name().to_string()), [old.evidence.public().id()]);
    verdict::sound(&world, &case.case_id);

    // The bag is signed by the key that reads, and by no other of the name.
    let export = |key: exhibit_evidence::key::KeyId| people::ExportCaseRequest {
        case_id: case.case_id.clone(),
        collections: Vec::new(),
        key: key.as_bytes().to_vec(),
        after: String::new(),
        reason: "handoff".to_owned(),
    };
    let mut lent = as_old.export_case(export(new.evidence.public().id())).await.expect("stream").into_inner();
    assert_eq!(lent.message().await.expect_err("another key").code(), Code::PermissionDenied);

    world.revoke(&old).await;
    let seen = people::GetCaseRequest { case_id: case.case_id.clone() };
    as_old.get_case(seen.clone()).await.map(|_| ()).expect_err("cut off");
    as_new.get_case(seen.clone()).await.expect("the other key goes on");
    let again = crate::support::world::channel(&old, world.port).await.expect("the certificate still holds");
    let mut again = exhibit_proto::responder::v1::responder_service_client::ResponderServiceClient::new(again);
    let refused = again.get_case(seen).await.map(|_| ()).expect_err("its key is revoked");
    assert!(refused.code() == Code::PermissionDenied && refused.message().contains("no key that is enrolled"), "{refused}");
    let said = ["its key was revoked at ", " (record ", " of the deployment's log)", "exhibit person request"];
    assert!(said.iter().all(|words| refused.message().contains(words)), "{refused}");
}
