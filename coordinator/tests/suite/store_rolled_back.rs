//! A case whose newest records, tiles and evidence were hidden and whose older head was put on top, and a case whose next places were
//! taken, in a store that locks: whole coordinators go on with it, alone, two at once, and with a new catalog.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use exhibit_certs::Deployment;
use exhibit_coordinator::attest::Offline;
use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::catalog::{Catalog as _, Published};
use exhibit_coordinator::config::{Config, Paths};
use exhibit_coordinator::ledger::{Head, Keys, Ledger, Ledgers};
use exhibit_coordinator::reverify::{self, Depth};
use exhibit_coordinator::store::attest::{self, Pass, Task};
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

/// The first head of a log, and how many records it covers.
async fn first_head(server: &Server, log: &LogName) -> (String, u64) {
    let store = open(server);
    let versions = store.attestable().expect("versions").vault.versions_of(&log.checkpoint()).await.expect("listed");
    let first = versions.iter().rfind(|v| !v.marker).expect("a head").version.clone();
    let old = store.get_version(&log.checkpoint(), &first, 20_000).await.expect("read");
    let size = Checkpoint::parse_unverified(&old).expect("a head").size;
    (String::from_utf8(old.to_vec()).expect("text"), size)
}

/// The lines by which somebody locks what he writes, as ours is.
fn lock_headers() -> String {
    let until = clock::now().plus_s(11 * 86_400).to_string();
    format!(
        "x-amz-object-lock-mode: COMPLIANCE\r\nx-amz-object-lock-retain-until-date: {}Z\r\nx-amz-sdk-checksum-algorithm: SHA256\r\n",
        &until[..19]
    )
}

/// Markers on all that came after the first head, and that head on top. Gives how many records it covers.
async fn roll_back(server: &Server, case: &CaseId) -> u64 {
    let (store, log) = (open(server), LogName::Case(case.clone()));
    let (old, size) = first_head(server, &log).await;
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
    send(server, "PUT", &log.checkpoint(), "", &old);
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

/// What `store verify` says, as a process that remembers nothing.
async fn verified(world: &World, server: &Server, depth: Depth) -> reverify::Report {
    let paths = Paths { deployment: PathBuf::from("deployment"), ..Paths::default() };
    let config = Config { paths, folder: world.dir.path().to_owned(), ..Config::default() };
    reverify::run(&config, Arc::new(open(server)), depth, None, clock::now).await.expect("runs")
}

async fn sound(world: &World, server: &Server) {
    let report = verified(world, server, Depth::All).await;
    assert!(report.sound && report.cases.len() == 1 && report.cases[0].segments > 0, "{report:#?}");
    assert!(report.deployment.as_ref().is_some_and(|log| log.sound), "{report:#?}");
}

fn keys(world: &World) -> Keys {
    let deployment = Deployment::load(&world.dir.path().join("deployment")).expect("deployment");
    Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() }
}

/// What `store attest` says, as a process that remembers nothing.
async fn attested(world: &World, server: &Server) -> attest::Report {
    let store: Arc<dyn Store> = Arc::new(open(server));
    attest::recall(&*store, "").await.expect("looked");
    let task = Task { begin: String::new(), repair: false, pause: Duration::ZERO, now: clock::now() };
    let pass = Pass::new(store.attestable().expect("versions"), task);
    let judge = Offline::new(Arc::clone(&store), Arc::new(keys(world)));
    pass.judged_by(judge).run().await.expect("looked")
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

/// `store verify` and `store attest` while no coordinator runs, and `reindex` of the same bytes.
#[tokio::test(flavor = "multi_thread")]
async fn verify_and_attest_name_what_reindex_names_and_find_what_is_wrong() {
    let server = moto::start_with_lock();
    let (mut world, _, case) = collected(Place { remote: Some(locked(&server)), ..Place::default() }).await;
    let head = log_of(&world, &case).await.head();
    world.stop().await;
    let (log, depths) = (LogName::Case(case.clone()), [Depth::All, Depth::Sample(1_000_000)]);
    let (report, attestation) = (verified(&world, &server, Depth::All).await, attested(&world, &server).await);
    assert!(report.sound && report.answered == 0 && attestation.troubles.is_empty(), "{report:#?} {attestation:#?}");
    let named = |report: &reverify::Report, kind: &str, words: &str| {
        report.notes.iter().any(|note| note.starts_with(&format!("{kind} cases/{case}/log: ")) && note.contains(words))
    };

    // An older head, locked as ours are.
    let (old, size) = first_head(&server, &log).await;
    send(&server, "PUT", &log.checkpoint(), &lock_headers(), &old);
    let older = format!("an older head, of {size} records, was put on top of the one of {}: version '", head.size);
    let attestation = attested(&world, &server).await;
    let told: Vec<&str> = attestation.troubles.iter().map(|t| t.kind).collect();
    assert!(told == ["log-head"] && attestation.troubles[0].detail.contains(&older), "{attestation:#?}");
    for depth in depths {
        let report = verified(&world, &server, depth).await;
        assert!(report.sound && report.answered == 1 && named(&report, "log-head", &older), "{report:#?}");
    }

    // What is no head on top of that, and what is no record in the next place and far beyond it.
    send(&server, "PUT", &log.checkpoint(), "", "not a head\n");
    let squats = [log.slot(head.size), log.slot(head.size + 50)];
    send(&server, "PUT", &squats[0], "If-None-Match: *\r\n", "squat");
    send(&server, "PUT", &squats[1], &format!("If-None-Match: *\r\n{}", lock_headers()), &"x".repeat(70_000));
    for depth in depths {
        let report = verified(&world, &server, depth).await;
        assert!(report.sound && report.cases[0].findings.is_empty() && report.answered == 2, "{report:#?}");
        assert!(named(&report, "log-head", "what is no head of this log") && named(&report, "log-head", &older), "{report:#?}");
        assert!(squats.iter().all(|name| named(&report, "store-squatted", &format!("'{name}'"))), "{report:#?}");
    }
    let attestation = attested(&world, &server).await;
    let of = |kind: &str| attestation.troubles.iter().filter(|t| t.kind == kind).map(|t| t.detail.as_str()).collect::<String>();
    assert!(of("log-head").contains("what is no head of this log") && of("log-head").contains(&older), "{attestation:#?}");
    for name in &squats {
        assert!(of("store-squatted").contains(name) && !of("store-lock").contains(name), "{attestation:#?}");
    }

    // A head of another history, by whoever has the log's key: that is nothing to go on past.
    let keys = keys(&world);
    let origin = log.origin(&keys.anchor.deployment);
    let forked = Checkpoint { origin: origin.clone(), size: head.size - 1, root: Digest::of(b"another") }.sign(&keys.log);
    send(&server, "PUT", &log.checkpoint(), "", std::str::from_utf8(&forked).expect("text"));
    let report = verified(&world, &server, Depth::All).await;
    let found = report.cases[0].findings.join(" ");
    assert!(!report.sound && found.contains("log-head: a head of ") && found.contains("contradicts the newest one"), "{report:#?}");

    // Records below the newest head are gone: what lies far beyond is no excuse for it.
    let longer = Checkpoint { origin, size: head.size + 3, root: Digest::of(b"longer") }.sign(&keys.log);
    send(&server, "PUT", &log.checkpoint(), "", std::str::from_utf8(&longer).expect("text"));
    let report = verified(&world, &server, Depth::All).await;
    assert!(!report.sound && report.cases[0].findings.iter().any(|f| f.starts_with("log.slot-missing ")), "{report:#?}");
}

/// Cut back as a whole, with all its versions, which only the catalog knows.
#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_a_log_that_is_shorter_than_the_catalog_knows_whatever_lies_beyond() {
    let server = moto::start_with_lock();
    let (mut world, _, case) = collected(Place { remote: Some(locked(&server)), ..Place::default() }).await;
    let head = log_of(&world, &case).await.head();
    world.stop().await;
    let log = LogName::Case(case.clone());
    for n in head.size..head.size + 3 {
        send(&server, "PUT", &log.slot(n), "If-None-Match: *\r\n", "squat");
    }
    sound(&world, &server).await;
    let catalog = SqliteCatalog::open(&world.dir.path().join("catalog.sqlite")).await.expect("catalog");
    let known = Published { size: head.size + 2, root: Digest::of(b"gone") };
    catalog.set_published(log.folder(), known).await.expect("kept");
    catalog.close().await;
    drop(catalog);
    let report = verified(&world, &server, Depth::All).await;
    assert!(!report.sound && !report.cases[0].sound, "{report:#?}");
    let found = report.cases[0].findings.join(" ");
    assert!(found.contains("log.") && found.contains(&format!("{} records", head.size + 2)), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_runs_attests_the_heads_and_tells_an_older_one_once() {
    let server = moto::start_with_lock();
    let (mut world, _, case) = collected(Place { remote: Some(locked(&server)), ..Place::default() }).await;
    let log = log_of(&world, &case).await;
    let before = log.head();
    let (old, size) = first_head(&server, log.name()).await;
    send(&server, "PUT", &log.name().checkpoint(), &lock_headers(), &old);
    for _ in 0..2 {
        world.running().parts.attesting.ask(&case);
        soon("it is recorded", async || said(&log, "log-head").await == 1).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let told = of_kind(&world, "log-head").await;
    assert!(told.len() == 1 && told[0].contains(&format!("an older head, of {size} records, was put on top")), "{told:?}");
    assert_eq!(said(&log, "log-head").await, 1);
    continues(&server, &log, before).await;
    drop(log);
    world.stop().await;
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
