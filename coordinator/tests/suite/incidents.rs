//! Incidents become signed records of the log that they concern.

use std::time::Duration;

use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::catalog::{Catalog as _, CatalogError, faulty};
use exhibit_coordinator::incidents::{self, Reported};
use exhibit_coordinator::ledger::{Keys, Ledgers};
use exhibit_coordinator::store::LocalStore;
use exhibit_coordinator::store::faulty::{Fault, Op};
use exhibit_evidence::record::{Incident, Record};
use exhibit_evidence::verify::{Code, Verdict};
use tonic::Code as GrpcCode;

use crate::support::agent::{Agent, File, Job, file};
use crate::support::verdict;
use crate::support::world::{self, Place, World};

/// The incidents that a log holds.
async fn logged(world: &World, case: Option<&str>) -> Vec<Incident> {
    let parts = &world.running().parts;
    let log = match case {
        Some(case) => parts.ledgers.case(&case.parse().expect("id")).await.expect("log"),
        None => parts.deployment_log.clone(),
    };
    let mut found = Vec::new();
    for entry in log.entries(0, &|e| e.kind == "incident:v1", 100) {
        let envelope = log.read(entry.n).await.expect("reads");
        let Ok(Record::Incident(p)) = Record::from_payload(envelope.unverified_payload()) else { panic!("an incident") };
        found.push(*p);
    }
    found
}

fn files() -> Vec<File> {
    vec![file("system", "os-release", "NAME=Debian\n"), file("files", "/etc/passwd", "root\n")]
}

async fn lie(agent: &mut Agent, job: &Job) {
    let mut made = job.honest(&files());
    made.parts[0].bytes[40] ^= 1;
    let mut upload = agent.open(job).await.expect("let in");
    upload.push(&made.parts[0]).await;
    let status = upload.answer().await.expect_err("a lie");
    assert_eq!(status.code(), GrpcCode::InvalidArgument, "{status}");
}

async fn until_logged(world: &World, case: &str, count: usize) -> Vec<Incident> {
    for _ in 0..200 {
        let found = logged(world, Some(case)).await;
        if found.len() >= count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{count} incidents were expected in the log: {:?}", logged(world, Some(case)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_become_signed_incidents_that_outlive_the_catalog() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let case = order.case.to_string();
    lie(&mut agent, &job).await;
    // The timers write it, without being asked.
    let [first] = until_logged(&world, &case, 1).await.try_into().expect("one");
    assert_eq!((first.kind.as_str(), first.about.as_str(), first.count), ("false-upload", agent.id.as_str(), 1));
    assert!(first.case.as_ref() == Some(&order.case) && first.detail.contains(job.collection.as_str()), "{first:?}");
    lie(&mut agent, &job).await;
    agent.send_all(&job, &job.honest(&files())).await.expect("honest at last");
    assert_eq!(world.closed(&job.collection).await.state, "sealed");

    // What repeats itself within the hour waits: a liar must not be able to fill the log.
    incidents::record(&world.running().parts).await.expect("recorded");
    assert_eq!(logged(&world, Some(&case)).await.len(), 1);
    let report = verdict::report(&world, &case, true);
    assert_eq!(report.verdict, Verdict::Sound, "{:#?}", report.findings);
    let told: Vec<_> = report.findings.kept().iter().filter(|f| f.code == Code::CaseIncident).collect();
    assert!(told.len() == 1 && told[0].message.contains("false-upload"), "{told:?}");

    // It concerns no case.
    world.running().parts.incident(None, "recovery", "start", "tried").await;
    incidents::record(&world.running().parts).await.expect("recorded");
    let deployment = logged(&world, None).await;
    assert!(deployment.len() == 1 && deployment[0].case.is_none() && deployment[0].kind == "recovery", "{deployment:?}");

    world.stop().await;
    let (store, fresh) = (world.store_dir(), world.dir.path().join("fresh.sqlite"));
    let deployment = exhibit_certs::deployment::Deployment::load(&world.dir.path().join("deployment")).expect("deployment");
    let store = std::sync::Arc::new(LocalStore::open(&store).expect("store"));
    let ledgers = Ledgers::new(store, Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() });
    let catalog = SqliteCatalog::create(&fresh).await.expect("catalog");
    let report = exhibit_coordinator::reindex::rebuild(&ledgers, &catalog, world::now()).await.expect("rebuilt");
    assert_eq!(report.problem_count, 0, "{report:?}");
    let mut kinds: Vec<_> = catalog.incidents(10).await.expect("read").into_iter().map(|i| (i.kind, i.logged)).collect();
    kinds.sort();
    assert_eq!(kinds, [("false-upload".to_owned(), true), ("recovery".to_owned(), true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_process_logged_and_did_not_note_is_not_logged_twice() {
    let mut world = World::start().await;
    let case = world.open_case().await.case_id;
    let id = case.parse().expect("id");
    world.running().parts.incident(Some(&id), "store-damaged", "col-x", "segment 1 is gone").await;
    let parts = &world.running().parts;
    let [group] = parts.catalog.unlogged_incidents(10).await.expect("read").try_into().expect("one");
    incidents::record(parts).await.expect("recorded");
    assert_eq!(logged(&world, Some(&case)).await.len(), 1);
    // The note is lost: as the row was before.
    parts.catalog.add_incident(group.newest.clone()).await.expect("kept");
    world.restart().await;
    let parts = &world.running().parts;
    // The coordinator does the same when it starts: whoever comes first.
    let mut left = parts.catalog.unlogged_incidents(10).await.expect("read");
    for _ in 0..100 {
        if left.is_empty() {
            break;
        }
        incidents::record(parts).await.expect("recorded");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        left = parts.catalog.unlogged_incidents(10).await.expect("read");
    }
    assert_eq!(left, Vec::new());
    assert_eq!(logged(&world, Some(&case)).await.len(), 1, "the same bytes are the same record");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_tells_something_hears_what_became_of_it() {
    let faults = faulty::Faults::default();
    let mut world = World::start_on(Place { catalog_faults: Some(faults.clone()), ..Place::default() }).await;
    faults.fail("add_incident", 0, 1, faulty::Fault::Before(CatalogError::Busy("injected".to_owned())));
    let parts = &world.running().parts;
    assert_eq!(parts.incident(None, "k", "s", "d").await, Reported::Failed);
    for _ in 1..50 {
        assert_eq!(parts.incident(None, "k", "s", "d").await, Reported::Told);
    }
    assert_eq!(parts.incident(None, "k", "s", "d").await, Reported::Limited, "more than a minute's worth");
    assert_eq!(parts.incident(None, "k", "another", "d").await, Reported::Told);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_store_refuses_whoever_asks_is_not_written_to_every_second() {
    let mut world = World::start().await;
    let tried = || {
        let calls = world.faults.calls();
        calls.iter().filter(|(op, name)| *op == Op::PutNew && name.starts_with("deployment/log/seq/")).count()
    };
    world.faults.fail(Op::PutNew, "deployment/log/seq/", 0, 1_000_000, Fault::Unheard);
    let before = tried();
    assert!(world.running().parts.incident(None, "recovery", "start", "tried").await.is_told());
    for _ in 0..200 {
        if tried() > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(tried() > before, "the timers write it, without being asked");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(tried(), before + 1, "it waits for a person");
    assert_eq!(logged(&world, None).await.len(), 0);
    world.stop().await;
}
