//! What somebody else writes into the store: names that are none of ours, and what takes a record's place. It stops nothing, is named,
//! and is neither locked nor copied. And a record that is gone is named by an export.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use exhibit_certs::Deployment;
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::config::{Config, Paths};
use exhibit_coordinator::copy::{self, Second};
use exhibit_coordinator::ledger::{Keys, Ledgers};
use exhibit_coordinator::reverify::{self, Depth};
use exhibit_coordinator::serve::Upkeep;
use exhibit_coordinator::store::{LocalStore, LockMode, LockPolicy, RemoteSettings, RemoteStore, Store, Vault, list_all};
use exhibit_coordinator::{clock, reindex};
use exhibit_evidence::id::CaseId;
use exhibit_evidence::layout::{self, LogName, StreamNumber};
use exhibit_proto::responder::v1 as people;

use crate::custody_access;
use crate::support::moto::{self, Server};
use crate::support::soon;
use crate::support::world::{Place, World};

const POLICY: LockPolicy = LockPolicy { mode: LockMode::Compliance, days: 10 };

fn locked(server: &Server) -> RemoteSettings {
    RemoteSettings { lock: Some(POLICY), ..server.settings("d1") }
}

fn open(settings: &RemoteSettings) -> RemoteStore {
    RemoteStore::open(settings).expect("settings")
}

/// A world with one collection.
async fn collected(place: Place) -> (World, CaseId) {
    let mut world = World::start_on(place).await;
    let (opened, job) = custody_access::collected(&mut world).await;
    assert_eq!(world.closed(&job.collection).await.state, "sealed");
    (world, opened.case_id.parse().expect("id"))
}

async fn is_told(world: &World, kind: &str, what: &str) -> bool {
    world.incidents().await.iter().any(|i| i.starts_with(kind) && i.contains(what))
}

/// As somebody does it who has the credentials, and no program that looks at names.
fn write(server: &Server, name: &str) {
    assert_eq!(server.send("PUT", &format!("/evidence/d1/{name}"), "", "junk").0, 200, "{name}");
}

/// How hard the first version of an object is locked.
async fn mode(vault: &Vault, name: &str) -> Option<LockMode> {
    let first = vault.versions_of(name).await.expect("listed").pop().expect("a version").version;
    vault.lock_of(name, &first).await.expect("looks").mode
}

/// Names that nothing of ours has, some of which no listing of `object_store` takes.
fn strangers(case: &CaseId) -> [String; 8] {
    let folder = layout::case_folder(case);
    [
        "cases//x".to_owned(),
        "cases/not-a-case/x".to_owned(),
        "deployment//x".to_owned(),
        format!("{folder}/../../etc"),
        format!("{folder}/collections//y"),
        format!("{folder}/log/seq/0000000099.dsse.json/"),
        format!("{folder}/Notes.txt"),
        format!("{folder}/notes.txt"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_none_of_ours_stop_nothing_and_are_named_and_never_locked() {
    let server = moto::start_with_lock();
    let settings = locked(&server);
    let (mut world, case) = collected(Place { remote: Some(settings.clone()), ..Place::default() }).await;
    for name in &strangers(&case) {
        write(&server, name);
    }
    // The next start looks at everything, and locks what is ours.
    world.restart().await;
    for name in &strangers(&case) {
        soon(name, async || is_told(&world, "store-foreign: ", &format!("'{name}'")).await).await;
    }
    let vault = open(&settings).attestable().expect("versions").vault;
    // An address with '..' in it is another one on its way.
    for name in strangers(&case).iter().filter(|name| !name.contains("..")) {
        assert_eq!(mode(&vault, name).await, None, "{name}");
    }
    assert_eq!(mode(&vault, &LogName::Case(case.clone()).slot(0)).await, Some(LockMode::Compliance));
    world.stop().await;

    let listed = list_all(&open(&settings), &layout::case_folder(&case), 1_000).await.expect("listed");
    let odd: Vec<&str> = listed.iter().map(|e| e.name.as_str()).filter(|name| strangers(&case).iter().any(|s| s == name)).collect();
    assert_eq!(odd, [format!("cases/{case}/notes.txt")], "the others cannot be ours, whatever they are");

    let deployment = Deployment::load(&world.dir.path().join("deployment")).expect("deployment");
    let keys = Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() };
    let catalog = SqliteCatalog::create(&world.dir.path().join("again.sqlite")).await.expect("catalog");
    let report = reindex::rebuild(&Ledgers::new(Arc::new(open(&settings)), keys), &catalog, clock::now()).await.expect("made again");
    catalog.close().await;
    assert_eq!((report.cases, report.collections, report.streams), (1, 1, 1), "{:?}", report.problems);
    let told = report.problems.join("\n");
    for name in ["'cases//'", "'cases/not-a-case'", &format!("'cases/{case}/log/seq/0000000099.dsse.json/'")] {
        assert!(told.contains(name), "{name}: {told}");
    }

    let paths = Paths { deployment: PathBuf::from("deployment"), ..Paths::default() };
    let config = Config { paths, folder: world.dir.path().to_owned(), ..Config::default() };
    let report = reverify::run(&config, Arc::new(open(&settings)), Depth::All, None, clock::now).await.expect("runs to its end");
    let found = report.cases.iter().find(|found| found.case == case.as_str()).expect("the case");
    assert!(!report.sound && !found.sound && found.segments > 0, "{report:#?}");
    for name in strangers(&case).iter().filter_map(|name| name.strip_prefix(&format!("cases/{case}/"))) {
        assert!(found.findings.iter().any(|finding| finding.contains(name)), "{name}: {report:#?}");
    }
    assert!(report.notes.iter().any(|note| note.contains("'cases//'")), "{report:#?}");
    assert!(report.cases.iter().any(|found| found.case == "not-a-case" && !found.sound), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_none_of_ours_is_not_copied_and_the_rest_is() {
    let (server, dir) = (moto::start(), tempfile::tempdir().expect("folder"));
    let second = Arc::new(LocalStore::create(&dir.path().join("copy")).expect("store"));
    let copying = Second { store: Arc::clone(&second) as Arc<dyn Store>, every: Duration::from_secs(1), rate: None };
    let upkeep = Upkeep { copy: Some(copying), verify: None };
    let (mut world, case) = collected(Place { remote: Some(server.settings("d1")), upkeep, ..Place::default() }).await;
    for name in &strangers(&case) {
        write(&server, name);
    }
    // Its records make the log grow, so that its folder is looked at.
    let request =
        people::ListItemsRequest { case_id: case.to_string(), reason: "triage".to_owned(), ..people::ListItemsRequest::default() };
    let _ = world.people.list_items(request).await;
    let other = world.open_case().await;
    let first = open(&server.settings("d1"));
    soon("the copy is whole", async || {
        let has = second.size(&LogName::Case(other.case_id.parse().expect("id")).slot(0)).await.is_ok();
        has && copy::lag(&first, &*second).await.expect("compared") == copy::Lag::default()
    })
    .await;
    soon("it is told", async || is_told(&world, "store-foreign: ", "notes.txt").await).await;
    assert!(!is_told(&world, "copy-failed", "").await, "{:?}", world.incidents().await);
    let copied = list_all(&*second, "cases", 10_000).await.expect("listed");
    let strange: Vec<_> = copied.iter().filter(|entry| strangers(&case).contains(&entry.name)).collect();
    assert!(strange.is_empty() && !copied.is_empty(), "{strange:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_a_record_s_place_is_named_and_not_locked_and_a_record_that_lost_its_lock_is() {
    let server = moto::start_with_lock();
    let settings = locked(&server);
    let (mut world, case) = collected(Place { remote: Some(settings.clone()), ..Place::default() }).await;
    let (parts, log) = (Arc::clone(&world.running().parts), LogName::Case(case.clone()));
    let vault = open(&settings).attestable().expect("versions").vault;
    // Not the very next one, which the record of the incident takes.
    let squatted = log.slot(parts.ledgers.case(&case).await.expect("log").size() + 9);
    write(&server, &squatted);
    // moto lets a lock be shortened, which S3 does not.
    let (record, tomorrow) = (log.slot(0), clock::now().plus_s(86_400).to_string());
    let version = vault.versions_of(&record).await.expect("listed").pop().expect("a version").version;
    let shorter = format!("<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>{}Z</RetainUntilDate></Retention>", &tomorrow[..19]);
    let path = format!("/evidence/d1/{record}?retention&versionId={version}");
    assert_eq!(server.send("PUT", &path, "", &shorter).0, 200);
    assert_eq!(mode(&vault, &record).await, Some(LockMode::Governance));

    parts.attesting.ask(&case);
    soon("it is told", async || is_told(&world, "store-squatted: ", &format!("'{squatted}'")).await).await;
    assert!(is_told(&world, "store-squatted: ", "it is no signed record").await, "{:?}", world.incidents().await);
    assert_eq!(mode(&vault, &squatted).await, None);
    assert_eq!(mode(&vault, &record).await, Some(LockMode::Compliance), "what is genuine is locked again");
    drop(parts);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_signed_names_beside_sealed_evidence_is_named_and_never_locked() {
    let server = moto::start_with_lock();
    let settings = locked(&server);
    let mut world = World::start_on(Place { remote: Some(settings.clone()), ..Place::default() }).await;
    let (opened, job) = custody_access::collected(&mut world).await;
    assert_eq!(world.closed(&job.collection).await.state, "sealed");
    let case: CaseId = opened.case_id.parse().expect("id");
    let segment = |stream, n| layout::segment(&case, &job.collection, StreamNumber(stream), n);
    let tile = format!("{}/tile/0/999", LogName::Case(case.clone()).folder());
    let junk = [segment(1, 7), segment(9, 0), layout::manifest(&case, &job.collection, StreamNumber(9)), tile];
    for name in &junk {
        write(&server, name);
    }
    let parts = Arc::clone(&world.running().parts);
    parts.attesting.ask(&case);
    for name in &junk {
        soon(name, async || is_told(&world, "store-foreign: ", &format!("'{name}'")).await).await;
    }
    let vault = open(&settings).attestable().expect("versions").vault;
    for name in &junk {
        assert_eq!(mode(&vault, name).await, None, "{name}");
    }
    assert_eq!(mode(&vault, &segment(1, 0)).await, Some(LockMode::Compliance));
    drop(parts);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_names_the_record_that_is_missing_in_the_store() {
    let (mut world, case) = collected(Place::default()).await;
    let slot = LogName::Case(case.clone()).slot(2);
    std::fs::remove_file(world.store_dir().join(&slot)).expect("removed");
    let request = people::ExportCaseRequest {
        case_id: case.to_string(),
        collections: Vec::new(),
        key: world.admin.evidence.public().id().as_bytes().to_vec(),
        after: String::new(),
        reason: "handoff".to_owned(),
    };
    let status = match world.people.export_case(request).await {
        Err(status) => status,
        Ok(stream) => stream.into_inner().message().await.expect_err("nothing is given"),
    };
    assert_eq!(status.code(), tonic::Code::DataLoss, "{status}");
    assert!(status.message().contains("record 2 of") && status.message().contains(&slot), "{status}");
    soon("it is told", async || is_told(&world, "store-lost: ", &slot).await).await;
}
