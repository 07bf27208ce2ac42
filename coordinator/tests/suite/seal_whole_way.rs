//! From an order to a sealed collection, with the public verifier's verdict at the end.

use std::time::Duration;

use crate::support::agent::{self, Agent, Job, file};
use crate::support::world::World;
use crate::support::{soon, verdict};
use exhibit_coordinator::catalog::{CollectionRow, Ending, OrderRow, State};
use exhibit_coordinator::store::Kind;
use exhibit_coordinator::store::faulty::{Fault, Op};
use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{CollectionId, OrderId};
use exhibit_evidence::record::{Outcome, Record};
use exhibit_proto::responder::v1 as people;
use exhibit_proto::responder::v1::read_items_response;

fn files() -> Vec<agent::File> {
    vec![
        file("system", "os-release", "NAME=Debian\n"),
        file("files", "/etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        file("files", "/var/big", (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_becomes_a_sealed_collection() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let mut session = agent.session(&[]).await.expect("session");
    let (case, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);

    let offer = session.offer().await;
    assert_eq!((offer.collection.as_str(), offer.stream), (job.collection.to_string().as_str(), 1));
    assert_eq!(offer.order, envelope.as_bytes());
    let chain: Vec<Envelope> = offer.enrolments.iter().map(|e| Envelope::parse(e).expect("envelope")).collect();
    let mut ring = exhibit_certs::enrol::verify_chain(&world.anchor(), &chain).expect("the signer's chain");
    ring.verify(&Envelope::parse(&offer.case_opened).expect("envelope")).expect("case-opened");
    ring.verify(&Envelope::parse(&offer.order).expect("envelope")).expect("order");
    session.reply(&job.collection, vec![]).await;

    let made = job.honest(&files());
    let receipt = agent.send_all(&job, &made).await.expect("received");
    let Ok(Record::Receipt(receipt)) = Record::from_payload(Envelope::parse(&receipt).expect("envelope").unverified_payload()) else {
        panic!("not a receipt")
    };
    assert!(receipt.agent_signed);
    assert_eq!(receipt.manifest, made.manifest);
    let closed = session.closed().await;
    let Ok(Record::Seal(seal)) = Record::from_payload(Envelope::parse(&closed.seal).expect("envelope").unverified_payload()) else {
        panic!("not a seal")
    };
    assert_eq!((seal.outcome, seal.exhibit_first, seal.exhibit_count), (Outcome::Sealed, 1, 3));

    let row = world.closed(&job.collection).await;
    assert_eq!((row.state.as_str(), row.items, row.exhibit_first, row.exhibit_count), ("sealed", 3, 1, 3));
    let case = world.case(&case).await;
    assert_eq!((case.exhibits, case.collections.get("sealed")), (3, Some(&1)));

    items_are_listed_and_read(&mut world, &job).await;
    verdict::sound(&world, &case.case_id);
}

async fn items_are_listed_and_read(world: &mut World, job: &Job) {
    let request = people::ListItemsRequest {
        collections: vec![job.collection.to_string()],
        path_globs: vec!["/etc/*".to_owned()],
        reason: "review".to_owned(),
        ..people::ListItemsRequest::default()
    };
    let mut listed = world.people.list_items(request).await.expect("listed").into_inner();
    let first = listed.message().await.expect("row").expect("one item");
    assert_eq!((first.item, first.exhibit), (format!("{}.s1.1", job.collection), 2));
    assert!(listed.message().await.expect("end").is_none(), "the glob takes one item only");

    let before = world.running().parts.ledgers.case(&job.order.case).await.expect("log").size();
    let ids = [2, 1].map(|n| format!("{}.s1.{n}", job.collection)).to_vec();
    let mut reading = world
        .people
        .read_items(people::ReadItemsRequest { items: ids, reason: "review".to_owned(), action: "view".to_owned() })
        .await
        .expect("read")
        .into_inner();
    let mut contents: Vec<Vec<u8>> = Vec::new();
    while let Some(message) = reading.message().await.expect("message") {
        match message.kind.expect("kind") {
            read_items_response::Kind::Item(_) => contents.push(Vec::new()),
            read_items_response::Kind::Segment(_) | read_items_response::Kind::SegmentData(_) => panic!("the case is not encrypted"),
            read_items_response::Kind::TarData(bytes) => contents.last_mut().expect("an item first").extend_from_slice(&bytes),
        }
    }
    for (tar, file) in contents.iter().zip(&files()[1..]) {
        let at = tar.len() - file.content.len() - exhibit_evidence::stream::tar::padding(file.content.len() as u64);
        assert_eq!(&tar[at..at + file.content.len()], file.content, "{}", file.path);
    }
    assert_eq!(contents.len(), 2);
    let log = world.running().parts.ledgers.case(&job.order.case).await.expect("log");
    assert_eq!(log.size(), before + 1, "one access record");
    let missing = people::ReadItemsRequest {
        items: vec![format!("{}.s1.99", job.collection)],
        reason: "review".to_owned(),
        action: "download".to_owned(),
    };
    let mut reading = world.people.read_items(missing).await.expect("stream").into_inner();
    assert_eq!(reading.message().await.expect_err("no such item").code(), tonic::Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_that_changed_in_the_store_is_not_served_as_evidence() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let (_case, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    agent.send_all(&job, &job.honest(&files())).await.expect("received");
    world.closed(&job.collection).await;
    let name = exhibit_evidence::layout::segment(&job.order.case, &job.collection, exhibit_evidence::layout::StreamNumber(1), 1);
    let path = world.store_dir().join(name);
    let mut bytes = std::fs::read(&path).expect("segment");
    bytes[20] ^= 1;
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, bytes).expect("altered");
    let request = people::ReadItemsRequest {
        items: vec![format!("{}.s1.1", job.collection)],
        reason: "review".to_owned(),
        action: "view".to_owned(),
    };
    let mut reading = world.people.read_items(request).await.expect("stream").into_inner();
    let status = loop {
        match reading.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("altered evidence was served to its end"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::DataLoss, "{status}");
    assert!(status.message().contains("do not use this copy"), "{status}");
}

/// Cancels an order that nobody took up, whose end the store refuses to be looked at for. Gives its collection and that one's folder.
async fn refused_end(world: &mut World, agent: &Agent) -> (Job, String) {
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let folder = format!("/collections/{}", job.collection);
    world.faults.fail(Op::List, &folder, 0, 1_000, Fault::Before(Kind::Denied));
    let (collections, reason) = (vec![job.collection.to_string()], "no longer needed".to_owned());
    let cancel = people::CancelCollectionsRequest { collections, order: String::new(), reason };
    world.people.cancel_collections(cancel).await.expect("cancelled");
    (job, folder)
}

fn tries(world: &World, folder: &str) -> usize {
    world.faults.calls().iter().filter(|(op, name)| *op == Op::List && name.ends_with(folder)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_the_store_refuses_is_tried_later_each_time_and_goes_on_by_itself() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let agent = Agent::new(credential, world.port, 1).await;
    let (job, folder) = refused_end(&mut world, &agent).await;
    soon("it is tried", async || tries(&world, &folder) > 0).await;
    let before = tries(&world, &folder);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let after = tries(&world, &folder);
    assert!(after - before <= 2, "after 5 s and then after 10, not each second: {before}, {after}");
    soon("it is tried again", async || tries(&world, &folder) > before).await;
    let row = world.collection(&job.collection).await;
    assert_eq!(row.state, "ending");
    assert!(row.reason.contains("cannot be sealed until somebody has seen to a store"), "{}", row.reason);

    world.faults.heal();
    soon("it goes on", async || world.collection(&job.collection).await.state == "cancelled").await;
    let row = world.collection(&job.collection).await;
    assert!(!row.reason.contains("cannot be sealed"), "{}", row.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_that_wait_keep_no_place_from_others() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let agent = Agent::new(credential, world.port, 1).await;
    let mut folders = Vec::new();
    // More than are written at once.
    for _ in 0..6 {
        folders.push(refused_end(&mut world, &agent).await.1);
    }
    soon("all are tried", async || folders.iter().all(|folder| tries(&world, folder) > 0)).await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let (collections, reason) = (vec![job.collection.to_string()], "no longer needed".to_owned());
    let cancel = people::CancelCollectionsRequest { collections, order: String::new(), reason };
    let begun = tokio::time::Instant::now();
    world.people.cancel_collections(cancel).await.expect("cancelled");
    soon("it is closed", async || world.collection(&job.collection).await.state == "cancelled").await;
    assert!(begun.elapsed() < Duration::from_secs(4), "not behind those that wait 5 s and more: {:?}", begun.elapsed());
    let begun = tokio::time::Instant::now();
    world.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "a stop waits for no end that waits: {:?}", begun.elapsed());
}

/// More ends than are begun in one tick, of an older case than any that is opened afterwards, each of which fails for a reason that no store
/// gave and that does not pass.
async fn failing_ends(world: &mut World, agent: &Agent) {
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    world.faults.fail(Op::List, &format!("cases/{}/collections/", job.order.case), 0, 100_000, Fault::Before(Kind::Bug));
    let catalog = &world.running().parts.catalog;
    let row = catalog.collection(job.collection.clone()).await.expect("read").expect("there");
    let order = catalog.order(row.order.clone()).await.expect("read").expect("there");
    let digest = Digest::of(b"another order");
    let order = OrderRow { order: OrderId::from_digest(&digest), digest, ..order };
    let ending = Ending { outcome: Outcome::Cancelled, reason: Some("no longer needed".to_owned()), refusal: None };
    let end = |n: u32| CollectionRow {
        collection: CollectionId::from_digest(&Digest::of(&n.to_le_bytes())),
        order: order.order.clone(),
        order_digest: digest,
        state: State::Sealing,
        ending: Some(ending.clone()),
        ..row.clone()
    };
    let ends = (0..450).map(end).collect();
    catalog.add_order(order.clone(), ends).await.expect("kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_ends_that_fail_keep_no_later_one_from_being_written() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let agent = Agent::new(credential, world.port, 1).await;
    failing_ends(&mut world, &agent).await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    // The first try follows the cancellation at once; the next ones are the timers'.
    let folder = format!("/collections/{}", job.collection);
    world.faults.fail(Op::List, &folder, 0, 2, Fault::Before(Kind::Retry));
    let (collections, reason) = (vec![job.collection.to_string()], "no longer needed".to_owned());
    let cancel = people::CancelCollectionsRequest { collections, order: String::new(), reason };
    world.people.cancel_collections(cancel).await.expect("cancelled");
    soon("it is closed", async || world.collection(&job.collection).await.state == "cancelled").await;
    assert!(tries(&world, &folder) >= 3, "it failed twice");
    world.stop().await;
}
