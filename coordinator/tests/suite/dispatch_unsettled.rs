//! Orders, and other records of people, that are in the log, or may be, and whose writing failed: whoever brought them hears that it is not known,
//! and the coordinator that runs takes them in.

use exhibit_coordinator::catalog::CatalogError;
use exhibit_coordinator::catalog::faulty::{Fault as CatalogFault, Faults as CatalogFaults};
use exhibit_coordinator::store::faulty::{Fault, Op};
use exhibit_coordinator::store::{Kind, RemoteStore, Store as _};
use exhibit_evidence::Digest;
use exhibit_evidence::custody::Fate;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{AgentId, CaseId, OrderId};
use exhibit_evidence::layout::{LogName, StreamNumber, segment};
use exhibit_evidence::record::{self, CaseClosed, Hold, Order};
use exhibit_proto::responder::v1 as people;
use exhibit_proto::transport::NEEDS_A_PERSON;
use tonic::{Code, Status};

use crate::custody_access::collected;
use crate::custody_disposal::Story;
use crate::store_lock_told::locked;
use crate::support::moto;
use crate::support::soon;
use crate::support::world::{self, Place, World};

async fn has(world: &World, order: &OrderId) -> bool {
    world.running().parts.catalog.order(order.clone()).await.expect("read").is_some()
}

fn is_in_log(world: &World, order: &Order) -> bool {
    let slots = world.store_dir().join("cases").join(order.case.to_string()).join("log/seq");
    let mut found = std::fs::read_dir(slots).expect("slots").map(|slot| std::fs::read(slot.expect("slot").path()).expect("read"));
    let record = world.sign(order).as_bytes().to_vec();
    found.any(|bytes| bytes == record)
}

/// The responder's enrolment is in the case's log before the faults begin, so the order is the next record.
async fn world_with_case(catalog: Option<CatalogFaults>) -> (World, people::Case, AgentId) {
    let mut world = Box::pin(World::start_on(Place { catalog_faults: catalog, ..Place::default() })).await;
    let agent = world::agent_id(&world.enroll("web-1").await);
    let case = world.open_case().await;
    (world, case, agent)
}

fn assert_not_known(refused: &Status, order: &Order) {
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let told = refused.message();
    assert!(told.contains("it is not known whether the order was given") && told.contains(order.order.as_str()), "{told}");
    assert!(told.contains("Do not give it again") && told.contains("exhibit collections --order"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_the_catalog_did_not_take_is_told_and_taken_in_without_a_start() {
    let faults = CatalogFaults::default();
    let (mut world, case, agent) = world_with_case(Some(faults.clone())).await;
    let order = world.order(&case, &[agent]);
    let readonly = CatalogError::Failed("attempt to write a readonly database".to_owned());
    faults.fail("add_order", 0, 2, CatalogFault::Before(readonly));
    let refused = world.submit(&world.sign(&order)).await.expect_err("not taken");
    assert_not_known(&refused, &order);
    assert!(refused.metadata().contains_key(NEEDS_A_PERSON), "{refused:?}");
    assert!(is_in_log(&world, &order) && !has(&world, &order.order).await);
    soon("it is taken in when the catalog takes it", async || has(&world, &order.order).await).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_whose_record_was_written_and_told_as_failed_is_taken_in_without_a_start() {
    let (mut world, _, agent) = world_with_case(None).await;
    for kind in [Kind::Retry, Kind::Denied, Kind::NotFound] {
        let case = world.open_case().await;
        let order = world.order(&case, std::slice::from_ref(&agent));
        let log = format!("cases/{}/log/", case.case_id);
        world.faults.fail(Op::PutNew, &format!("{log}seq/"), 0, 1, Fault::After(kind));
        if kind != Kind::Retry {
            // The look that follows finds it and can write no checkpoint over it.
            world.faults.fail(Op::PutHead, &log, 0, 1, Fault::Before(Kind::Retry));
        }
        let refused = world.submit(&world.sign(&order)).await.expect_err("not known");
        assert_not_known(&refused, &order);
        assert!(is_in_log(&world, &order) && !has(&world, &order.order).await, "{kind:?}");
        soon("it is taken in", async || has(&world, &order.order).await).await;
        world.faults.heal();
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_write_is_looked_at_before_it_is_answered() {
    let (mut world, case, agent) = world_with_case(None).await;
    let there = world.order(&case, std::slice::from_ref(&agent));
    world.faults.fail(Op::PutNew, &format!("cases/{}/log/seq/", case.case_id), 0, 1, Fault::After(Kind::Denied));
    world.submit(&world.sign(&there)).await.expect("it is in the log");
    assert!(has(&world, &there.order).await);
    world.faults.heal();

    let refused = world.order(&case, std::slice::from_ref(&agent));
    world.faults.fail(Op::PutNew, &format!("cases/{}/log/seq/", case.case_id), 0, 1, Fault::Before(Kind::Denied));
    let status = world.submit(&world.sign(&refused)).await.expect_err("refused");
    assert!(status.code() == Code::Internal && !status.message().contains("it is not known"), "{status:?}");
    assert!(!is_in_log(&world, &refused));
    world.stop().await;
}

fn hold(world: &World, case: &people::Case) -> Envelope {
    let hold = Hold {
        case: case.case_id.parse().expect("id"),
        predecessor: Digest::try_from(case.case_opened_sha256.as_slice()).expect("digest"),
        collections: Vec::new(),
        too_late: Vec::new(),
        reason: "litigation".to_owned(),
        placed_by: world.me(),
        placed_at: world::now(),
    };
    record::sign(&hold, &world.admin.evidence).expect("small")
}

async fn place(world: &mut World, hold: &Envelope) -> Result<people::SubmitRecordResponse, Status> {
    let request = people::SubmitRecordRequest { record: hold.as_bytes().to_vec() };
    world.people.submit_record(request).await.map(tonic::Response::into_inner)
}

async fn counts(world: &World, case: &people::Case, record: &Envelope) -> bool {
    let case: CaseId = case.case_id.parse().expect("id");
    world.running().parts.ledgers.case(&case).await.expect("log").find(&record.digest()).is_some()
}

fn slots(case: &people::Case) -> String {
    format!("cases/{}/log/seq/", case.case_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_whose_writing_was_refused_is_told_as_what_became_of_it() {
    let mut world = World::start().await;
    // Its record is there.
    let case = world.open_case().await;
    let there = hold(&world, &case);
    world.faults.fail(Op::PutNew, &slots(&case), 0, 1, Fault::After(Kind::Denied));
    place(&mut world, &there).await.expect("it is in the log");
    assert!(counts(&world, &case, &there).await);
    world.faults.heal();

    // It is not.
    let case = world.open_case().await;
    let refused = hold(&world, &case);
    world.faults.fail(Op::PutNew, &slots(&case), 0, 1, Fault::Before(Kind::Denied));
    let status = place(&mut world, &refused).await.expect_err("refused");
    assert!(status.code() == Code::Internal && !status.message().contains("it is not known"), "{status:?}");
    assert!(!counts(&world, &case, &refused).await);
    world.faults.heal();

    // Nobody knows: the look that follows is refused as well.
    let case = world.open_case().await;
    let unknown = hold(&world, &case);
    world.faults.fail(Op::PutNew, &slots(&case), 0, 1, Fault::After(Kind::Denied));
    world.faults.fail(Op::Get, &slots(&case), 0, 1, Fault::Before(Kind::Denied));
    let status = place(&mut world, &unknown).await.expect_err("not known");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let told = status.message();
    assert!(
        told.contains("it is not known whether the hold") && told.contains("exhibit case custody") && told.contains(&case.case_id),
        "{told}"
    );
    assert!(status.metadata().contains_key(NEEDS_A_PERSON), "{status:?}");
    assert!(!counts(&world, &case, &unknown).await);
    soon("it counts without a start", async || counts(&world, &case, &unknown).await).await;
    world.stop().await;
}

fn closing(world: &World, case: &people::Case) -> people::CloseCaseRequest {
    let closed = CaseClosed {
        case: case.case_id.parse().expect("id"),
        predecessor: Digest::try_from(case.case_opened_sha256.as_slice()).expect("digest"),
        reason: "done".to_owned(),
        closed_by: world.me(),
        closed_at: world::now(),
    };
    let closed = record::sign(&closed, &world.admin.evidence).expect("small");
    people::CloseCaseRequest { case_closed: closed.as_bytes().to_vec() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_the_end_of_its_case_takes_in_is_in_the_catalog_before_that_end() {
    let (mut world, case, agent) = world_with_case(None).await;
    let order = world.order(&case, &[agent]);
    world.faults.fail(Op::PutNew, &slots(&case), 0, 1, Fault::After(Kind::Retry));
    assert_not_known(&world.submit(&world.sign(&order)).await.expect_err("not known"), &order);
    assert!(!has(&world, &order.order).await);
    let request = closing(&world, &case);
    world.people.close_case(request).await.expect("closed");
    assert!(has(&world, &order.order).await, "no start looks for it once its case is closed");
    world.submit(&world.sign(&order)).await.expect("the same again is not refused");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_case_whose_end_may_be_in_its_log_is_told_and_closed_without_a_start() {
    let mut world = World::start().await;
    let case = world.open_case().await;
    let request = closing(&world, &case);
    world.faults.fail(Op::PutNew, &slots(&case), 0, 1, Fault::After(Kind::Denied));
    world.faults.fail(Op::Get, &slots(&case), 0, 1, Fault::Before(Kind::Denied));
    let status = world.people.close_case(request).await.expect_err("not known");
    assert!(status.code() == Code::Unavailable && status.message().contains("it is not known whether"), "{status:?}");
    let id: CaseId = case.case_id.parse().expect("id");
    let is_closed =
        async || world.running().parts.catalog.case(id.clone()).await.expect("read").is_some_and(|row| row.case_closed.is_some());
    assert!(!is_closed().await);
    soon("it is closed without a start", is_closed).await;
    world.stop().await;
}

/// Whoever approved was told to sign no other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disposal_whose_approval_is_found_later_is_carried_out_without_a_start() {
    let mut s = Box::pin(Story::on(Place::default(), 1)).await;
    let disposal = s.ask(0).await;
    let (n, _) = s.place_of_certificate().await;
    let slot = LogName::Case(s.case.clone()).slot(n);
    s.world.faults.fail(Op::PutNew, &slot, 0, 1, Fault::After(Kind::Denied));
    s.world.faults.fail(Op::Get, &slot, 0, 1, Fault::Before(Kind::Denied));
    let status = s.approve(disposal).await.expect_err("not known");
    assert!(status.code() == Code::Unavailable && status.message().contains("it is not known whether the approval"), "{status:?}");
    let collection = s.collections[0].0.clone();
    let is_destroyed = async || {
        let ledger = s.world.running().parts.ledgers.case(&s.case).await.expect("log");
        matches!(ledger.view().custody().fate(&collection), Fate::Destroyed { .. })
    };
    assert!(!is_destroyed().await);
    soon("it is destroyed and certified without a start", is_destroyed).await;
    s.world.stop().await;
}

/// The record that comes next takes it in before anybody looks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_another_record_takes_in_is_set_in_the_store_and_nobody_is_accused() {
    let server = moto::start_with_lock();
    let mut world = Box::pin(World::start_on(Place { remote: Some(locked(&server)), ..Place::default() })).await;
    let (case, job) = Box::pin(collected(&mut world)).await;
    assert_eq!(world.closed(&job.collection).await.state, "sealed");
    let vault = RemoteStore::open(&locked(&server)).expect("settings").attestable().expect("an S3 store").vault;
    let id: CaseId = case.case_id.parse().expect("id");
    let name = segment(&id, &job.collection, StreamNumber(1), 0);
    let version = vault.versions_of(&name).await.expect("listed").remove(0).version;

    let placed = hold(&world, &case);
    world.faults.fail(Op::PutNew, &slots(&case), 0, 1, Fault::After(Kind::Retry));
    let status = place(&mut world, &placed).await.expect_err("not known");
    assert!(status.code() == Code::Unavailable && status.message().contains("it is not known whether the hold"), "{status:?}");
    assert!(!counts(&world, &case, &placed).await);
    let request =
        people::ReadItemsRequest { items: vec![format!("{}.s1.0", job.collection)], reason: "x".to_owned(), action: "view".to_owned() };
    let mut items = world.people.read_items(request).await.expect("stream").into_inner();
    assert!(items.message().await.expect("served").is_some());
    assert!(counts(&world, &case, &placed).await, "the record of the access came behind it");

    soon("it is held", async || vault.lock_of(&name, &version).await.expect("looks").hold).await;
    soon("it is done", async || world.running().parts.catalog.standing("raising").await.expect("read").as_deref() == Some("{}")).await;
    let incidents = world.incidents().await;
    assert!(incidents.iter().all(|incident| !incident.starts_with("store-lock")), "{incidents:?}");
    world.stop().await;
}
