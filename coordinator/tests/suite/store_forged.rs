//! Genuine objects under forged ones and under deletions, and stores that cannot lock: what is exported, made again, verified, compared
//! and started on.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use exhibit_certs::Deployment;
use exhibit_coordinator::catalog::Catalog as _;
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::config::{Config, Paths};
use exhibit_coordinator::copy::Second;
use exhibit_coordinator::ledger::{Keys, Ledgers};
use exhibit_coordinator::reverify::{self, Depth, Schedule};
use exhibit_coordinator::serve::Upkeep;
use exhibit_coordinator::store::{
    Kind, LocalStore, LockMode, LockPolicy, Payload, RemoteSettings, RemoteStore, Store, StoreError, list_all, self_test,
};
use exhibit_coordinator::store::{attest, check};
use exhibit_coordinator::{clock, copy, reindex};
use exhibit_evidence::Digest;
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{self, LogName, StreamNumber};
use exhibit_proto::responder::v1 as people;

use crate::custody_access;
use crate::support::clouds;
use crate::support::moto::{self, Server};
use crate::support::soon;
use crate::support::world::{Place, World};

const POLICY: LockPolicy = LockPolicy { mode: LockMode::Compliance, days: 10 };
const S1: StreamNumber = StreamNumber(1);

fn locked(settings: RemoteSettings) -> RemoteSettings {
    RemoteSettings { lock: Some(POLICY), ..settings }
}

fn open(settings: &RemoteSettings) -> RemoteStore {
    RemoteStore::open(settings).expect("settings")
}

async fn put(store: &dyn Store, name: &str, content: &'static [u8]) {
    store.put_new(name, Payload::from_static(content), Digest::of(content)).await.expect("written");
}

/// A world with one sealed collection of one stream.
async fn collected(place: Place) -> (World, CaseId, CollectionId) {
    let mut world = World::start_on(place).await;
    let (opened, job) = custody_access::collected(&mut world).await;
    assert_eq!(world.closed(&job.collection).await.state, "sealed");
    (world, opened.case_id.parse().expect("id"), job.collection.clone())
}

/// What somebody does who holds the credentials: a marker, and other content on top of it.
fn forge(server: &Server, name: &str, content: &str) {
    let path = format!("/evidence/d1/{name}");
    assert_eq!(server.send("DELETE", &path, "", "").0, 204);
    assert_eq!(server.send("PUT", &path, "If-None-Match: *\r\n", content).0, 200);
}

/// What somebody does who holds the credentials and wants evidence gone: a marker on each object that is seen.
async fn hide(server: &Server, settings: &RemoteSettings, folder: &str) {
    let seen = list_all(&open(settings), folder, 1_000).await.expect("listed");
    assert!(!seen.is_empty(), "{folder}");
    for entry in seen {
        assert_eq!(server.send("DELETE", &format!("/evidence/d1/{}", entry.name), "", "").0, 204);
    }
}

async fn names(store: &dyn Store, folder: &str) -> Vec<String> {
    list_all(store, folder, 1_000).await.expect("listed").into_iter().map(|entry| entry.name).collect()
}

/// The objects of an export, each with its stated size and its bytes.
async fn exported(world: &mut World, case: &CaseId) -> Vec<(String, u64, Vec<u8>)> {
    use people::export_case_response::Kind as Part;
    let key = world.admin.evidence.public().id();
    let request = people::ExportCaseRequest {
        case_id: case.to_string(),
        collections: Vec::new(),
        key: key.as_bytes().to_vec(),
        after: String::new(),
        reason: "handoff".to_owned(),
    };
    let mut stream = world.people.export_case(request).await.expect("stream").into_inner();
    let mut objects: Vec<(String, u64, Vec<u8>)> = Vec::new();
    while let Some(part) = stream.message().await.expect("given") {
        match part.kind.expect("a part") {
            Part::Head(_) => {}
            Part::Object(object) => objects.push((object.name, object.size, Vec::new())),
            Part::Data(data) => objects.last_mut().expect("an object begins first").2.extend_from_slice(&data),
        }
    }
    objects
}

async fn made_again(world: &World, store: Arc<dyn Store>) -> (reindex::Report, SqliteCatalog) {
    let deployment = Deployment::load(&world.dir.path().join("deployment")).expect("deployment");
    let ledgers = Ledgers::new(store, Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() });
    let catalog = SqliteCatalog::create(&world.dir.path().join("again.sqlite")).await.expect("catalog");
    let report = reindex::rebuild(&ledgers, &catalog, clock::now()).await.expect("made again");
    (report, catalog)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_under_a_forgery_is_exported_whole_and_found_by_reindex() {
    let server = moto::start_with_lock();
    let settings = locked(server.settings("d1"));
    let (mut world, case, collection) = collected(Place { remote: Some(settings.clone()), ..Place::default() }).await;
    let segment = layout::segment(&case, &collection, S1, 0);
    let manifest = layout::manifest(&case, &collection, S1);
    forge(&server, &segment, "forgery");
    forge(&server, &manifest, "{}");

    let objects = exported(&mut world, &case).await;
    for (name, size, bytes) in &objects {
        assert_eq!(*size, bytes.len() as u64, "{name}");
    }
    let catalog = &world.running().parts.catalog;
    let wanted = [
        (segment, catalog.segments(collection.clone(), S1, 0, 1).await.expect("read").remove(0).sha256),
        (manifest, catalog.stream(collection.clone(), S1).await.expect("read").expect("row").manifest.expect("received").sha256),
    ];
    for (name, sha256) in wanted {
        let relative = name.strip_prefix(&format!("cases/{case}/")).expect("of the case");
        let (.., bytes) = objects.iter().find(|(name, ..)| name == relative).expect("given");
        assert_eq!(Digest::of(bytes), sha256, "{name} is the genuine one");
    }

    // Another process, which remembers nothing.
    let (report, again) = made_again(&world, Arc::new(open(&settings))).await;
    assert_eq!((report.streams, report.collections), (1, 1), "{:?}", report.problems);
    assert!(again.stream(collection, S1).await.expect("read").is_some());
    let told = report.answered.join("\n");
    assert!(report.problems.is_empty() && report.text().contains("The catalog is whole"), "{report:?}");
    assert!(told.contains("store-version") && told.contains("the genuine version is") && told.contains("manifest.jsonl"), "{told}");
    again.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_deletions_hide_is_exported_verified_found_by_reindex_and_started_on() {
    let server = moto::start_with_lock();
    let settings = locked(server.settings("d1"));
    let (mut world, case, collection) = collected(Place { remote: Some(settings.clone()), ..Place::default() }).await;
    let before = exported(&mut world, &case).await;
    hide(&server, &settings, &format!("cases/{case}")).await;
    let after = exported(&mut world, &case).await;
    for object in &before {
        assert!(after.contains(object), "{} is given as before", object.0);
    }
    let told = world.incidents().await;
    assert!(told.iter().any(|i| i.starts_with("store-marker: ") && i.contains(case.as_str())), "{told:?}");

    // All of it, for processes that remember nothing.
    world.stop().await;
    hide(&server, &settings, &format!("cases/{case}")).await;
    hide(&server, &settings, "deployment").await;
    assert!(names(&open(&settings), "").await.iter().all(|name| name.starts_with("probe/")), "nothing is seen");
    let (report, again) = made_again(&world, Arc::new(open(&settings))).await;
    assert_eq!((report.cases, report.collections, report.streams, report.agents), (1, 1, 1, 1), "{:?}", report.problems);
    assert!(report.problems.is_empty() && !report.answered.is_empty(), "{report:?}");
    assert!(report.answered.iter().all(|p| p.starts_with("store-marker ")), "{report:?}");
    again.close().await;

    let paths = Paths { deployment: PathBuf::from("deployment"), ..Paths::default() };
    let config = Config { paths, folder: world.dir.path().to_owned(), ..Config::default() };
    for depth in [Depth::All, Depth::Sample(1_000_000)] {
        let report = reverify::run(&config, Arc::new(open(&settings)), depth, None, clock::now).await.expect("runs");
        assert!(report.sound && report.cases.len() == 1 && report.cases[0].segments > 0, "{report:#?}");
        assert!(report.notes.iter().any(|note| note.starts_with(&format!("store-marker cases/{case}: "))), "{report:#?}");
        assert!(report.answered > 0 && report.text().contains("is not ours; it was passed over"), "{}", report.text());
    }

    // A log that is hidden as a whole is no empty one.
    world.restart().await;
    let request =
        people::ReadItemsRequest { items: vec![format!("{collection}.s1.0")], reason: "triage".to_owned(), action: "view".to_owned() };
    let mut items = world.people.read_items(request).await.expect("stream").into_inner();
    assert!(items.message().await.expect("what is hidden is served").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_seen_again_is_listed_once_and_read_as_it_was_created() {
    let server = moto::start_with_lock();
    let (first, later) = (open(&locked(server.settings("d1"))), open(&locked(server.settings("d1"))));
    let all = [0, 1, 2].map(|n| LogName::Deployment.slot(n));
    for name in &all {
        put(&first, name, b"genuine").await;
    }
    let path = |name: &str| format!("/evidence/d1/{name}");
    for name in &all[..2] {
        assert_eq!(server.send("DELETE", &path(name), "", "").0, 204);
    }
    assert_eq!(names(&later, "deployment/log").await, all[2..], "nobody looked yet");
    assert_eq!(attest::recall(&later, "deployment/").await.expect("looked").len(), 1);
    assert_eq!(names(&later, "deployment/log").await, all);
    assert_eq!(names(&later, "").await, all);
    assert!(later.hides(&all[0]) && !later.hides(&all[2]));
    assert_eq!(later.folders("deployment").await.expect("listed"), ["log"]);
    // The marker is taken away from one, and a forgery put on the other.
    let versions = later.attestable().expect("versions").vault.versions_of(&all[0]).await.expect("listed");
    let marker = versions.iter().find(|version| version.marker).expect("a marker");
    assert_eq!(server.send("DELETE", &format!("{}?versionId={}", path(&all[0]), marker.version), "", "").0, 204);
    assert_eq!(server.send("PUT", &path(&all[1]), "If-None-Match: *\r\n", "forgery").0, 200);
    assert_eq!(names(&later, "deployment/log").await, all);
    assert!(!later.hides(&all[0]) && !later.hides(&all[1]));
    for name in &all {
        assert_eq!(later.get(name, 100).await.expect("read"), "genuine", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduled_verification_finds_that_the_lock_was_switched_off_since_the_start() {
    let (server, dir) = (moto::start_with_lock(), tempfile::tempdir().expect("folder"));
    let results = dir.path().join("results.jsonl");
    let schedule = Schedule { every: Duration::from_secs(1), depth: Depth::All, rate: None, results: results.clone() };
    let upkeep = Upkeep { verify: Some(schedule), copy: None };
    let mut world = World::start_on(Place { remote: Some(locked(server.settings("d1"))), upkeep, ..Place::default() }).await;
    let ended = || std::fs::read_to_string(&results).is_ok_and(|text| text.contains("\"done\":true"));
    soon("a run ends", async || ended()).await;
    assert!(world.incidents().await.is_empty(), "{:?}", world.incidents().await);
    let versioning = |status: &str| {
        let body = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
        assert_eq!(server.send("PUT", "/evidence?versioning", "", &body).0, 200);
    };
    versioning("Suspended");
    let told = async || world.incidents().await.iter().any(|i| i.starts_with("store-bucket: ") && i.contains("versioning is off"));
    soon("the next run tells it", told).await;
    versioning("Enabled");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn into_a_copy_that_is_to_lock_and_cannot_nothing_is_copied_and_start_and_check_say_so() {
    let server = moto::start();
    let second = Arc::new(open(&locked(server.settings("d1"))));
    let copying = Second { store: Arc::clone(&second) as Arc<dyn Store>, every: Duration::from_hours(1), rate: None };
    let upkeep = Upkeep { copy: Some(copying), verify: None };
    let mut world = World::start_on(Place { upkeep, ..Place::default() }).await;
    let told = async || {
        let told = world.incidents().await;
        told.iter().any(|i| i.starts_with("copy-failed: the start-up test could not lock") && i.contains("has no Object Lock"))
    };
    soon("it is told at the start", told).await;
    let copied = names(&*second, "").await;
    assert!(copied.iter().all(|name| name.starts_with("probe/")), "{copied:?}");
    let first = LocalStore::open(&world.store_dir()).expect("store");
    let mut report = check::run(&first, None, clock::now()).await;
    copy::check(&mut report, Arc::new(first), Arc::clone(&second) as Arc<dyn Store>, Some(POLICY)).await;
    let line = report.checks.last().expect("checked");
    assert!(line.what == "copy" && line.state == check::State::Missing, "{line:?}");
    assert!(line.detail.contains("could not lock an object") && line.remedy.contains("Object Lock"), "{line:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_signed_manifest_names_is_not_exported_and_is_told() {
    let (mut world, case, collection) = collected(Place::default()).await;
    let junk = [(S1, 7), (StreamNumber(9), 0)].map(|(stream, n)| layout::segment(&case, &collection, stream, n));
    for name in &junk {
        let path = world.store_dir().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, b"junkseg").expect("written");
    }
    let objects = exported(&mut world, &case).await;
    let given = |name: &str| objects.iter().any(|(given, ..)| name.ends_with(given.as_str()));
    for genuine in [layout::segment(&case, &collection, S1, 0), layout::manifest(&case, &collection, S1)] {
        assert!(given(&genuine), "{genuine}");
    }
    for name in &junk {
        assert!(!given(name), "{name}");
    }
    let told = world.incidents().await;
    assert!(told.iter().any(|i| i.starts_with("store-foreign: ") && i.contains("no signed manifest")), "{told:?}");

    // Whoever exports is told as well, and so is who goes on with an export that had come past them.
    let request = people::ExportCaseRequest {
        case_id: case.to_string(),
        collections: Vec::new(),
        key: world.admin.evidence.public().id().as_bytes().to_vec(),
        after: "timestamps".to_owned(),
        reason: "handoff".to_owned(),
    };
    let mut stream = world.people.export_case(request).await.expect("stream").into_inner();
    let first = stream.message().await.expect("given").and_then(|part| part.kind);
    let Some(people::export_case_response::Kind::Head(head)) = first else { panic!("the head comes first") };
    let names = junk.map(|name| name.strip_prefix(&format!("cases/{case}/")).expect("of the case").to_owned());
    assert_eq!((head.foreign_objects, head.foreign_names), (2, names.to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_collection_without_its_streams_is_no_empty_one() {
    let (mut world, case, collection) = collected(Place::default()).await;
    world.stop().await;
    std::fs::remove_file(world.store_dir().join(layout::manifest(&case, &collection, S1))).expect("removed");
    let store = LocalStore::open(&world.store_dir()).expect("store");
    let (report, catalog) = made_again(&world, Arc::new(store)).await;
    assert!(report.problems.join("\n").contains("its manifest is missing"), "{:?}", report.problems);
    catalog.close().await;
    drop(catalog);
    let old = world.dir.path().join("catalog.sqlite");
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", old.display()));
    }
    std::fs::rename(world.dir.path().join("again.sqlite"), old).expect("renamed");
    world.restart().await;

    let request = people::ListItemsRequest {
        collections: vec![collection.to_string()],
        reason: "triage".to_owned(),
        ..people::ListItemsRequest::default()
    };
    let mut listed = world.people.list_items(request).await.expect("stream").into_inner();
    let status = listed.message().await.expect_err("not an empty list");
    assert!(status.message().contains("was sealed with") && status.message().contains("reindex"), "{status}");
    let request =
        people::ReadItemsRequest { items: vec![format!("{collection}.s1.0")], reason: "triage".to_owned(), action: "view".to_owned() };
    let mut read = world.people.read_items(request).await.expect("stream").into_inner();
    assert!(read.message().await.expect_err("nothing to read").message().contains("reindex"));
}

fn refused(e: &StoreError, remedy: &str) {
    assert!(e.kind() == Kind::Denied && e.remedy().contains(remedy), "{e}");
    assert!(e.message().starts_with("the start-up test could not lock an object"), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_start_on_a_store_that_cannot_lock_what_is_to_be_locked() {
    let server = moto::start();
    self_test(&open(&server.settings("d1"))).await.expect("nothing is to be locked");
    refused(&self_test(&open(&locked(server.settings("d1")))).await.expect_err("no Object Lock"), "has no Object Lock");
    let (_emulator, azure) = clouds::azure();
    let e = self_test(&open(&locked(azure))).await.expect_err("no version-level immutability");
    refused(&e, "has no version-level immutability");

    // Where it can, starting often leaves one probe, which is locked.
    let server = moto::start_with_lock();
    for _ in 0..2 {
        self_test(&open(&locked(server.settings("d1")))).await.expect("it locks");
    }
    let vault = open(&locked(server.settings("d1"))).attestable().expect("versions").vault;
    let versions = vault.versions_of("probe/lock").await.expect("listed");
    assert_eq!(versions.len(), 1, "{versions:?}");
    assert_eq!(vault.lock_of("probe/lock", &versions[0].version).await.expect("looks").mode, Some(LockMode::Compliance));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_marker_hides_in_the_store_is_in_the_copy_alone() {
    let server = moto::start_with_lock();
    let (first, second) = (open(&locked(server.settings("d1"))), open(&server.settings("second")));
    let (case, collection) = (CaseId::new(1, [2; 10]), CollectionId::from_digest(&Digest::of(b"x")));
    let (slot, name) = (LogName::Deployment.slot(0), &layout::segment(&case, &collection, S1, 0));
    for store in [&first, &second] {
        put(store, &slot, b"record").await;
        put(store, name, b"genuine").await;
    }
    let lag = copy::lag(&first, &second).await.expect("compared");
    assert_eq!((lag.objects, lag.only_in_copy), (0, 0), "{lag:?}");
    assert_eq!(server.send("DELETE", &format!("/evidence/d1/{name}"), "", "").0, 204);
    assert_eq!(first.get(name, 100).await.expect("whoever wrote it still reads it"), "genuine");
    let lag = copy::lag(&first, &second).await.expect("compared");
    assert_eq!((lag.objects, lag.only_in_copy), (0, 1), "{lag:?}");
    let mut report = check::run(&first, Some(POLICY), clock::now()).await;
    copy::check(&mut report, Arc::new(first.clone()), Arc::new(second.clone()), None).await;
    let line = report.checks.last().expect("checked");
    assert!(line.state == check::State::Missing && line.detail.contains("1 are in the copy alone"), "{line:?}");

    // Whoever looked reads it, copies it where it is missing, and calls it gone all the same; a copy that looked puts it there again.
    assert_eq!(attest::recall(&first, "").await.expect("looked").len(), 1);
    let third = open(&server.settings("third"));
    put(&third, &slot, b"record").await;
    for (one, other, expected) in [(&first, &second, (0, 1)), (&first, &third, (1, 0)), (&second, &first, (1, 0))] {
        let lag = copy::lag(one, other).await.expect("compared");
        assert_eq!((lag.objects, lag.only_in_copy), expected, "{lag:?}");
    }
}
