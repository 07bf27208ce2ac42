//! What is done to locks is told before it is undone, whenever the coordinator ends; and what keeps evidence for longer than anybody
//! here asked is told once and stays.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use exhibit_coordinator::clock;
use exhibit_coordinator::store::attest::{Attestable, Keeper, Pass, Task};
use exhibit_coordinator::store::{
    Kind, LockMode, LockPolicy, Payload, Protection, RemoteSettings, RemoteStore, Seen, Store, StoreError, Trouble, Vault,
};
use exhibit_evidence::Digest;
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{self, LogName, StreamNumber};
use exhibit_evidence::record::{self, Hold, HoldReleased};
use exhibit_proto::responder::v1 as people;
use futures::future::BoxFuture;

use crate::custody_access;
use crate::support::moto::{self, Server};
use crate::support::soon;
use crate::support::world::{Place, World};

const DAY_S: i64 = 86_400;

pub(crate) fn locked(server: &Server) -> RemoteSettings {
    RemoteSettings { lock: Some(LockPolicy { mode: LockMode::Compliance, days: 10 }), ..server.settings("d1") }
}

fn looked_at(settings: &RemoteSettings) -> Attestable {
    RemoteStore::open(settings).expect("settings").attestable().expect("an S3 store")
}

/// The genuine version of an object, and its lock.
async fn seen(vault: &Vault, name: &str) -> (String, Seen) {
    let version = vault.versions_of(name).await.expect("listed").pop().expect("a version").version;
    let lock = vault.lock_of(name, &version).await.expect("looks");
    (version, lock)
}

/// A lock for one day that a right can take off: moto lets it be set, which S3 does not.
async fn weaken(vault: &Vault, name: &str) {
    let (version, _) = seen(vault, name).await;
    vault.retain(name, &version, LockMode::Governance, clock::now().plus_s(DAY_S), true).await.expect("moto lets it");
    assert_eq!(seen(vault, name).await.1.mode, Some(LockMode::Governance));
}

/// Notes what it is to keep, and how the lock was then.
#[derive(Debug)]
struct Notes {
    store: Attestable,
    name: String,
    refuses: bool,
    kept: Mutex<Vec<(Trouble, Option<LockMode>)>>,
}

impl Keeper for Notes {
    fn awaits<'a>(&'a self, _case: &'a CaseId) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async { Ok(false) })
    }

    fn keep(&self, troubles: Vec<Trouble>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let (_, lock) = seen(&self.store.vault, &self.name).await;
            self.kept.lock().expect("lock").extend(troubles.into_iter().map(|trouble| (trouble, lock.mode)));
            if self.refuses { Err(StoreError::new(Kind::Retry, "the catalog is away", "again")) } else { Ok(()) }
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_mended_before_what_was_found_is_kept() {
    let server = moto::start_with_lock();
    let settings = locked(&server);
    let (store, name) = (RemoteStore::open(&settings).expect("settings"), LogName::Deployment.slot(0));
    store.put_new(&name, Payload::from_static(b"record"), Digest::of(b"record")).await.expect("written");
    let looked = looked_at(&settings);
    weaken(&looked.vault, &name).await;
    for refuses in [true, false] {
        let notes = Arc::new(Notes { store: looked.clone(), name: name.clone(), refuses, kept: Mutex::default() });
        let keeper: Arc<dyn Keeper> = Arc::<Notes>::clone(&notes);
        let task = Task { begin: String::new(), repair: true, pause: Duration::ZERO, now: clock::now() };
        let report = Pass::new(looked.clone(), task).kept_by(keeper).run().await;
        {
            let kept = notes.kept.lock().expect("lock");
            let (trouble, mode) = kept.first().expect("kept");
            assert!(
                trouble.kind == "store-lock" && trouble.detail.contains(&name) && trouble.detail.contains("it is set again"),
                "{trouble:?}"
            );
            assert_eq!((kept.len(), *mode), (1, Some(LockMode::Governance)), "it was kept while the lock was weak");
        }
        let (_, lock) = seen(&looked.vault, &name).await;
        if refuses {
            assert_eq!((report.expect_err("not kept").kind(), lock.mode), (Kind::Retry, Some(LockMode::Governance)));
        } else {
            let report = report.expect("kept");
            assert_eq!((report.set_again, report.troubles.len(), lock.mode), (1, 0, Some(LockMode::Compliance)), "{report:?}");
        }
    }
}

/// A store, a case with one collection in it, and the names of that one's objects.
async fn stored(server: &Server) -> (RemoteStore, CaseId, CollectionId, [String; 3]) {
    let store = RemoteStore::open(&locked(server)).expect("settings");
    let (case, collection) = (CaseId::new(1, [2; 10]), CollectionId::from_digest(&Digest::of(b"collection")));
    let segment = |n| layout::segment(&case, &collection, StreamNumber(1), n);
    let names = [segment(0), segment(1), layout::manifest(&case, &collection, StreamNumber(1))];
    for name in &names {
        store.put_new(name, Payload::from_static(b"evidence"), Digest::of(b"evidence")).await.expect("written");
    }
    (store, case, collection, names)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_something_that_is_to_be_destroyed_is_named_object_by_object() {
    let server = moto::start_with_lock();
    let (store, case, collection, [held, ours, longer]) = stored(&server).await;
    let looked = store.attestable().expect("an S3 store");
    for (name, is_held) in [(&held, true), (&longer, false)] {
        let (version, _) = seen(&looked.vault, name).await;
        if is_held {
            looked.vault.hold(name, &version, true).await.expect("set");
        } else {
            looked.vault.retain(name, &version, LockMode::Compliance, clock::now().plus_s(4_000 * DAY_S), false).await.expect("set");
        }
    }
    let waits = "an approved disposal waits for it";
    for is_condemned in [false, true] {
        let condemned: BTreeSet<CollectionId> = is_condemned.then(|| collection.clone()).into_iter().collect();
        store.protect(&case, Protection { condemned, ..Protection::default() });
        let task = Task { begin: String::new(), repair: false, pause: Duration::ZERO, now: clock::now() };
        let report = Pass::new(looked.clone(), task).run().await.expect("looked");
        assert!(report.troubles.len() == 1 && report.troubles[0].kind == "store-held", "{report:?}");
        let text = report.text();
        assert!(text.contains(&held) && text.contains(&longer), "{text}");
        assert!(!text.contains(&ours), "its lock is the one that was asked for: {text}");
        assert_eq!(text.matches(waits).count(), if is_condemned { 2 } else { 0 }, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_of_somebody_else_is_seen_by_the_pass_as_well_that_sets_the_lock_beside_it_again() {
    let server = moto::start_with_lock();
    let (store, case, _, [name, ..]) = stored(&server).await;
    store.protect(&case, Protection::default());
    let looked = store.attestable().expect("an S3 store");
    let (version, _) = seen(&looked.vault, &name).await;
    weaken(&looked.vault, &name).await;
    looked.vault.hold(&name, &version, true).await.expect("set");
    let mut told: Vec<Vec<Trouble>> = Vec::new();
    for set_again in [1, 0] {
        let keeper: Arc<dyn Keeper> = Arc::new(Notes { store: looked.clone(), name: name.clone(), refuses: false, kept: Mutex::default() });
        let task = Task { begin: String::new(), repair: true, pause: Duration::ZERO, now: clock::now() };
        let report = Pass::new(looked.clone(), task).kept_by(keeper).run().await.expect("kept");
        assert_eq!(report.set_again, set_again, "{report:?}");
        told.push(report.troubles);
    }
    assert!(told[0].len() == 1 && told[0][0].kind == "store-held" && told[0][0].detail.contains(&name), "{told:?}");
    assert_eq!(told[0], told[1], "the same, so that it is told once");
}

/// A world with one sealed collection, its case, the name of its segment, and the digest of the record that opened the case.
async fn collected(server: &Server) -> (World, CaseId, String, Digest) {
    let mut world = World::start_on(Place { remote: Some(locked(server)), ..Place::default() }).await;
    let (opened, job) = custody_access::collected(&mut world).await;
    assert_eq!(world.closed(&job.collection).await.state, "sealed");
    let case: CaseId = opened.case_id.parse().expect("id");
    let segment = layout::segment(&case, &job.collection, StreamNumber(1), 0);
    (world, case, segment, Digest::try_from(opened.case_opened_sha256.as_slice()).expect("digest"))
}

async fn submit<P: record::Predicate>(world: &mut World, predicate: &P) -> Digest {
    let envelope = record::sign(predicate, &world.admin.evidence).expect("small");
    let request = people::SubmitRecordRequest { record: envelope.as_bytes().to_vec() };
    world.people.submit_record(request).await.expect("taken");
    envelope.digest()
}

async fn hold(world: &mut World, case: &CaseId, predecessor: Digest) -> Digest {
    let (placed_by, placed_at, reason) = (world.me(), clock::now(), "litigation".to_owned());
    let (case, collections, too_late) = (case.clone(), Vec::new(), Vec::new());
    submit(world, &Hold { case, predecessor, collections, too_late, reason, placed_by, placed_at }).await
}

async fn told(world: &World, kind: &str) -> Vec<String> {
    world.incidents().await.into_iter().filter(|i| i.starts_with(&format!("{kind}: "))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_weakened_is_told_although_the_coordinator_ends_when_it_is_set_again() {
    let server = moto::start_with_lock();
    let (mut world, _, segment, _) = collected(&server).await;
    let vault = looked_at(&locked(&server)).vault;
    world.stop().await;
    weaken(&vault, &segment).await;
    world.restart().await;
    soon("it is set again", async || seen(&vault, &segment).await.1.mode == Some(LockMode::Compliance)).await;
    world.stop().await;
    world.restart().await;
    let incidents = told(&world, "store-lock").await;
    assert!(incidents.len() == 1 && incidents[0].contains(&segment) && incidents[0].contains("GOVERNANCE"), "{incidents:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_was_taken_off_while_no_coordinator_ran_is_told_and_set_again() {
    let server = moto::start_with_lock();
    let (mut world, case, segment, opened) = collected(&server).await;
    let vault = looked_at(&locked(&server)).vault;
    let placed = hold(&mut world, &case, opened).await;
    let record = LogName::Case(case.clone()).slot(0);
    for name in [&segment, &record] {
        soon("it is held", async || seen(&vault, name).await.1.hold).await;
    }
    soon("it is done", async || world.running().parts.catalog.standing("raising").await.expect("read").as_deref() == Some("{}")).await;
    assert_eq!(told(&world, "store-lock").await, [""; 0]);
    world.stop().await;
    let (version, _) = seen(&vault, &segment).await;
    vault.hold(&segment, &version, false).await.expect("taken off");
    world.restart().await;
    soon("it is held again", async || seen(&vault, &segment).await.1.hold).await;
    let incidents = told(&world, "store-lock").await;
    assert!(incidents.len() == 1 && incidents[0].contains(&segment) && incidents[0].contains("legal hold"), "{incidents:?}");

    // Custody's own release, cut off before the store was told: the next coordinator takes the hold off, and nobody is blamed.
    let (released_by, released_at, reason) = (world.me(), clock::now(), "settled".to_owned());
    submit(&mut world, &HoldReleased { case: case.clone(), predecessor: placed, reason, released_by, released_at }).await;
    world.stop().await;
    world.restart().await;
    for name in [&segment, &record] {
        soon("it is free", async || !seen(&vault, name).await.1.hold).await;
    }
    assert_eq!(told(&world, "store-held").await, [""; 0]);
    assert_eq!(told(&world, "store-lock").await.len(), 1, "{:?}", world.incidents().await);
    world.stop().await;
}

/// How often it was asked whether the bucket locks.
fn looks(server: &Server) -> usize {
    server.asked().iter().filter(|asked| asked.contains("?object-lock")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_refuses_is_one_incident_however_often_the_coordinator_starts_until_it_could_be_attested() {
    let server = moto::start_with_lock();
    let mut world = World::start_on(Place { remote: Some(locked(&server)), ..Place::default() }).await;
    world.stop().await;
    let kept = async |world: &World| world.running().parts.catalog.standing("refused").await.expect("read").unwrap_or_default();
    for times in [1, 2] {
        server.refuse("object-lock");
        for start in 0..3 {
            let before = looks(&server);
            world.restart().await;
            soon("it is refused", async || looks(&server) > before && kept(&world).await.len() > 2).await;
            // What one start tells is told by then.
            tokio::time::sleep(Duration::from_secs(2)).await;
            let incidents = told(&world, "store-unattested").await;
            assert!(incidents.len() == times && incidents[0].contains("AccessDenied"), "start {start}: {incidents:?}");
            world.stop().await;
        }
        server.refuse("");
        world.restart().await;
        soon("it is attested", async || kept(&world).await == "{}").await;
        assert_eq!(told(&world, "store-unattested").await.len(), times, "{:?}", world.incidents().await);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_may_not_be_read_is_one_incident_however_often_the_coordinator_starts() {
    let server = moto::start_with_lock();
    let (mut world, _, segment, _) = collected(&server).await;
    for (is_refused, times) in [(true, 1), (true, 1), (false, 1), (true, 2)] {
        await_pass(&world).await;
        world.stop().await;
        server.refuse(if is_refused { &segment } else { "" });
        world.restart().await;
        soon("a pass comes to its end", async || is_passed(&world).await).await;
        let incidents = told(&world, "store-unattested").await;
        assert!(incidents.len() == times && incidents.iter().all(|i| i.contains(&segment)), "{is_refused}: {incidents:?}");
    }
    world.stop().await;
}

/// Something that no pass sees, which the next one over everything therefore forgets at its end.
const NOWHERE: &str = "store-held cases/nowhere";

async fn lasting(world: &World) -> serde_json::Map<String, serde_json::Value> {
    let text = world.running().parts.catalog.standing("held").await.expect("read").unwrap_or_else(|| "{}".to_owned());
    serde_json::from_str(&text).expect("an object")
}

/// From now on it shows when a pass over everything came to its end.
async fn await_pass(world: &World) {
    let mut lasting = lasting(world).await;
    lasting.insert(NOWHERE.to_owned(), serde_json::json!([Digest::of(b"nowhere").to_string()]));
    let text = serde_json::Value::Object(lasting).to_string();
    world.running().parts.catalog.set_standing("held", text).await.expect("kept");
}

async fn is_passed(world: &World) -> bool {
    !lasting(world).await.contains_key(NOWHERE)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_refuses_after_a_page_went_through_is_a_new_refusal() {
    let server = moto::start_with_lock();
    let mut world = World::start_on(Place { remote: Some(locked(&server)), ..Place::default() }).await;
    world.stop().await;
    // So many names that a pass needs a second page; what begins so is none of its business.
    for n in 0..1_000 {
        assert_eq!(server.send("PUT", &format!("/evidence/d1/probe/x{n:04}"), "", "x").0, 200);
    }
    let refusals = async |world: &World| {
        let text = world.running().parts.catalog.standing("refused").await.expect("read").unwrap_or_else(|| "{}".to_owned());
        let kept: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("an object");
        kept.values().filter_map(|reasons| reasons.as_array().map(Vec::len)).sum::<usize>()
    };
    for (refused, times) in [("object-lock", 1), ("key-marker", 2), ("object-lock", 3)] {
        server.refuse(refused);
        world.restart().await;
        soon("it is told", async || told(&world, "store-unattested").await.len() == times).await;
        soon("it is kept", async || refusals(&world).await >= 1).await;
        if refused == "key-marker" {
            assert_eq!(refusals(&world).await, 1, "the first page went through: what was refused before is over");
            // A pass over a case has one page, and is no word about the second one of the pass over everything.
            let case: CaseId = world.open_case().await.case_id.parse().expect("id");
            let listed = || server.asked().iter().filter(|asked| asked.contains("versions") && asked.contains(case.as_str())).count();
            let before = listed();
            world.running().parts.attesting.ask(&case);
            soon("the case is looked at", async || listed() > before).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(refusals(&world).await, 1, "what is refused lasts");
        }
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_and_a_longer_lock_of_somebody_else_are_told_once_and_stay() {
    let server = moto::start_with_lock();
    let (mut world, case, segment, _) = collected(&server).await;
    let vault = looked_at(&locked(&server)).vault;
    world.stop().await;
    let collection = segment.split('/').nth(3).expect("a collection").parse().expect("its id");
    let other = layout::manifest(&case, &collection, StreamNumber(1));
    let ((held, _), (longer, _)) = (seen(&vault, &segment).await, seen(&vault, &other).await);
    vault.hold(&segment, &held, true).await.expect("set");
    vault.retain(&other, &longer, LockMode::Compliance, clock::now().plus_s(4_000 * DAY_S), false).await.expect("set");
    for _ in 0..2 {
        world.restart().await;
        soon("both are told", async || {
            let incidents = told(&world, "store-held").await;
            incidents.iter().any(|i| i.contains(&segment) && i.contains(&other))
        })
        .await;
        let incidents = told(&world, "store-held").await;
        assert!(incidents.len() == 1 && incidents[0].contains("custody did not place"), "{incidents:?}");
        // The passes of this start come to their end.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(told(&world, "store-held").await.len(), 1, "told once: {:?}", world.incidents().await);
        assert!(seen(&vault, &segment).await.1.hold, "it may be a court's");
        world.stop().await;
    }
}
