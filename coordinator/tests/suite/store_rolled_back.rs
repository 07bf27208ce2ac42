//! A case whose newest records, tiles and evidence were hidden and whose older head was put on top, and a case whose next places were
//! taken, in a store that locks: whole coordinators go on with it, alone, two at once, and with a new catalog.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use exhibit_certs::Deployment;
use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::config::{Config, Paths};
use exhibit_coordinator::ledger::{Head, Keys, Ledger, Ledgers};
use exhibit_coordinator::reverify::{self, Depth};
use exhibit_coordinator::store::{LockMode, LockPolicy, RemoteSettings, RemoteStore, Store, list_all};
use exhibit_coordinator::{clock, reindex};
use exhibit_evidence::Digest;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::layout::{self, CaseObject, LogName};
use exhibit_evidence::log::Checkpoint;
use exhibit_evidence::record::{self, Hold, Record};
use exhibit_proto::responder::v1 as people;

use crate::custody_access;
use crate::support::moto::{self, Server};
use crate::support::soon;
use crate::support::world::{People, Place, World};

fn locked(server: &Server) -> RemoteSettings {
    RemoteSettings { lock: Some(LockPolicy { mode: LockMode::Compliance, days: 10 }), ..server.settings("d1") }
}

fn open(server: &Server) -> RemoteStore {
    RemoteStore::open(&locked(server)).expect("settings")
}

fn send(server: &Server, method: &str, object: &str, headers: &str, body: &str) {
    let (status, body) = server.send(method, &format!("/evidence/d1/{object}"), headers, body);
    assert!((200..300).contains(&status), "{method} {object}: {status} {body}");
}

/// A world with one sealed collection.
async fn collected(place: Place) -> (World, people::Case, CaseId) {
    let mut world = World::start_on(place).await;
    let (opened, job) = custody_access::collected(&mut world).await;
    assert_eq!(world.closed(&job.collection).await.state, "sealed");
    let case = opened.case_id.parse().expect("id");
    (world, opened, case)
}

async fn log_of(world: &World, case: &CaseId) -> Ledger {
    world.running().parts.ledgers.case(case).await.expect("log")
}

/// Markers on all that came after the first head, and that head on top. Gives how many records it covers.
async fn roll_back(server: &Server, case: &CaseId) -> u64 {
    let (store, log) = (open(server), LogName::Case(case.clone()));
    let versions = store.attestable().expect("versions").vault.versions_of(&log.checkpoint()).await.expect("listed");
    let first = versions.iter().rfind(|v| !v.marker).expect("a head").version.clone();
    let old = store.get_version(&log.checkpoint(), &first, 20_000).await.expect("read");
    let size = Checkpoint::parse_unverified(&old).expect("a head").size;
    let folder = format!("{}/", layout::case_folder(case));
    for entry in list_all(&store, &layout::case_folder(case), 1_000).await.expect("listed") {
        let object = CaseObject::parse(entry.name.strip_prefix(&folder).expect("of the case")).expect("ours");
        let is_later = match object {
            CaseObject::Slot(n) => n >= size,
            CaseObject::Tile(_) | CaseObject::Segment(..) | CaseObject::Manifest(..) => true,
            _ => false,
        };
        if is_later {
            send(server, "DELETE", &entry.name, "", "");
        }
    }
    send(server, "PUT", &log.checkpoint(), "", std::str::from_utf8(&old).expect("text"));
    size
}

/// The incidents of this kind that the catalog has.
async fn of_kind(world: &World, kind: &str) -> Vec<String> {
    world.incidents().await.into_iter().filter(|i| i.starts_with(&format!("{kind}: "))).collect()
}

/// How many records of a log tell of this kind.
async fn said(log: &Ledger, kind: &str) -> usize {
    let mut said = 0;
    for entry in log.entries(0, &|e| e.kind == "incident:v1", 1_000) {
        let envelope = log.read(entry.n).await.expect("reads");
        said += usize::from(matches!(Record::from_payload(envelope.unverified_payload()), Ok(Record::Incident(p)) if p.kind == kind));
    }
    said
}

/// Every record is there once, and the log continues what it was.
async fn continues(server: &Server, log: &Ledger, before: Head) {
    assert_eq!(log.root_at(before.size), Some(before.root));
    let vault = open(server).attestable().expect("versions").vault;
    for n in 0..log.size() {
        log.read(n).await.unwrap_or_else(|e| panic!("record {n}: {e}"));
        let versions = vault.versions_of(&log.name().slot(n)).await.expect("listed");
        assert_eq!(versions.iter().filter(|v| !v.marker).count(), 1, "nothing was written over record {n}: {versions:?}");
    }
}

async fn hold(world: &World, people: &mut People, opened: &people::Case) -> Result<(), tonic::Status> {
    let hold = Hold {
        case: opened.case_id.parse().expect("id"),
        predecessor: Digest::try_from(opened.case_opened_sha256.as_slice()).expect("digest"),
        collections: Vec::new(),
        too_late: Vec::new(),
        reason: "litigation".to_owned(),
        placed_by: world.me(),
        placed_at: clock::now(),
    };
    let record = record::sign(&hold, &world.admin.evidence).expect("small").as_bytes().to_vec();
    people.submit_record(people::SubmitRecordRequest { record }).await.map(|_| ())
}

async fn sound(world: &World, server: &Server) {
    let paths = Paths { deployment: PathBuf::from("deployment"), ..Paths::default() };
    let config = Config { paths, folder: world.dir.path().to_owned(), ..Config::default() };
    let report = reverify::run(&config, Arc::new(open(server)), Depth::All, None, clock::now).await.expect("runs");
    assert!(report.sound && report.cases.len() == 1 && report.cases[0].segments > 0, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_that_was_rolled_back_goes_on_after_a_restart_and_with_a_new_catalog() {
    let server = moto::start_with_lock();
    let (mut world, _, case) = collected(Place { remote: Some(locked(&server)), ..Place::default() }).await;
    let before = log_of(&world, &case).await.head();
    world.stop().await;
    let size = roll_back(&server, &case).await;
    assert!(size < before.size);
    world.restart().await;
    let log = log_of(&world, &case).await;
    let words = format!("an older head, of {size} records, was put on top of the one of {}", before.size);
    soon("it is told", async || of_kind(&world, "log-head").await.iter().any(|i| i.contains(&words))).await;
    soon("it is recorded", async || said(&log, "log-head").await == 1 && said(&log, "store-marker").await > 0).await;
    continues(&server, &log, before).await;
    drop(log);
    // Once, however often it is opened.
    world.restart().await;
    let log = log_of(&world, &case).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((of_kind(&world, "log-head").await.len(), said(&log, "log-head").await), (1, 1));
    let before = log.head();
    drop(log);
    world.stop().await;
    sound(&world, &server).await;

    // The same again, and the catalog is lost: nothing but the store says how long the log was.
    roll_back(&server, &case).await;
    let deployment = Deployment::load(&world.dir.path().join("deployment")).expect("deployment");
    let keys = Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() };
    let ledgers = Ledgers::new(Arc::new(open(&server)), keys);
    let catalog = SqliteCatalog::create(&world.dir.path().join("again.sqlite")).await.expect("catalog");
    let report = reindex::rebuild(&ledgers, &catalog, clock::now()).await.expect("made again");
    assert_eq!((report.cases, report.collections, report.streams), (1, 1, 1), "{:?}", report.problems);
    assert!(
        report.problems.is_empty() && report.answered.iter().any(|p| p.starts_with("log-head ") && p.contains("an older head")),
        "{report:?}"
    );
    continues(&server, &ledgers.case(&case).await.expect("log"), before).await;
    catalog.close().await;
    sound(&world, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_coordinators_that_live_through_it_go_on_and_the_next_one_tells_it() {
    let dir = tempfile::tempdir().expect("dir");
    let (server, database) = (moto::start_with_lock(), Scratch::start(dir.path()).await);
    let place = Place { database: Some(database.database("catalog").await), remote: Some(locked(&server)), ..Place::default() };
    let (mut world, opened, case) = collected(place).await;
    let (other, mut people_of_other) = world.another().await;
    let there = other.parts.ledgers.case(&case).await.expect("log");
    let before = there.head();
    roll_back(&server, &case).await;
    hold(&world, &mut people_of_other, &opened).await.expect("taken by the other");
    let mut people_here = world.people.clone();
    let log = log_of(&world, &case).await;
    assert!(log.size() > before.size && there.size() > before.size, "both know it");
    hold(&world, &mut people_here, &opened).await.expect("taken here");
    for log in [&log, &other.parts.ledgers.case(&case).await.expect("log")] {
        continues(&server, log, before).await;
    }
    assert!(of_kind(&world, "log").await.is_empty(), "{:?}", world.incidents().await);
    drop((log, there));
    other.stop().await;
    world.restart().await;
    let log = log_of(&world, &case).await;
    soon("it is told", async || of_kind(&world, "log-head").await.len() == 1).await;
    continues(&server, &log, before).await;
    drop(log);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_whose_next_places_are_taken_goes_on_and_says_so_without_end() {
    let server = moto::start_with_lock();
    let (mut world, opened, case) = collected(Place { remote: Some(locked(&server)), ..Place::default() }).await;
    let (log, next) = (log_of(&world, &case).await, log_of(&world, &case).await.size());
    for n in next..next + 12 {
        send(&server, "PUT", &log.name().slot(n), "If-None-Match: *\r\n", "squat");
    }
    let mut people_here = world.people.clone();
    hold(&world, &mut people_here, &opened).await.expect("taken");
    let squatted = log.name().slot(next);
    soon("it is told", async || of_kind(&world, "store-squatted").await.iter().any(|i| i.contains(&squatted))).await;
    soon("it is recorded", async || said(&log, "store-squatted").await > 0).await;
    assert!(!world.running().parts.measured().contains("exhibit_incidents_total 0\n"));
    // What says it takes such a place as well, and does not make the next one.
    let mut size = 0;
    soon("the log comes to rest", async || {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = log.size();
        std::mem::replace(&mut size, now) == now
    })
    .await;
    assert!(size < next + 12, "{size} records of {next}");
    drop(log);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_squat_in_a_folder_is_an_incident_at_once_and_ready_says_that_a_log_stands_still() {
    let (mut world, opened, case) = collected(Place::default()).await;
    let log = log_of(&world, &case).await;
    let squatted = world.store_dir().join(log.name().slot(log.size()));
    std::fs::write(&squatted, "squat").expect("written");
    let mut people_here = world.people.clone();
    for _ in 0..6 {
        let status = hold(&world, &mut people_here, &opened).await.expect_err("squatted");
        assert!(status.code() == tonic::Code::DataLoss && status.message().contains("take it away"), "{status}");
    }
    soon("it is told", async || !of_kind(&world, "log").await.is_empty()).await;
    let deployment = world.running().parts.deployment_log.clone();
    soon("the deployment's log has it", async || said(&deployment, "log").await == 1).await;
    assert_eq!(of_kind(&world, "log").await.len(), 1, "however often somebody runs into it");
    let port = world.running().http.expect("served").port();
    let ready = async || moto::request(port, "none", "GET", "/ready", "", "").expect("answers");
    soon("it is shown", async || ready().await.1.contains("1 logs take no record just now")).await;
    assert_eq!(ready().await.0, 200, "everybody else is served");
    std::fs::remove_file(&squatted).expect("taken away");
    hold(&world, &mut people_here, &opened).await.expect("goes on");
    soon("it is over", async || !ready().await.1.contains("take no record")).await;
    drop((log, deployment));
    world.stop().await;
}
