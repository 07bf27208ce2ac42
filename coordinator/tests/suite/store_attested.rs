//! What attestation says of what is none of ours, whatever lock it carries, and of logs of which the head, or everything, is gone.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::sync::Arc;
use std::time::Duration;

use exhibit_certs::Deployment;
use exhibit_coordinator::attest::Offline;
use exhibit_coordinator::clock;
use exhibit_coordinator::ledger::Keys;
use exhibit_coordinator::store::attest::{self, Pass, Task};
use exhibit_coordinator::store::{LockMode, LockPolicy, RemoteSettings, RemoteStore, Store, list_all};
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{self, LogName, StreamNumber};

use crate::custody_access;
use crate::support::moto::{self, Server};
use crate::support::soon;
use crate::support::world::{Place, World};

fn locked(server: &Server) -> RemoteSettings {
    RemoteSettings { lock: Some(LockPolicy { mode: LockMode::Compliance, days: 10 }), ..server.settings("d1") }
}

/// A world with one sealed collection.
async fn collected(settings: &RemoteSettings) -> (World, CaseId, CollectionId) {
    let mut world = World::start_on(Place { remote: Some(settings.clone()), ..Place::default() }).await;
    let (opened, job) = custody_access::collected(&mut world).await;
    assert_eq!(world.closed(&job.collection).await.state, "sealed");
    (world, opened.case_id.parse().expect("id"), job.collection.clone())
}

fn send(server: &Server, method: &str, object: &str, headers: &str, body: &str) {
    let (status, body) = server.send(method, &format!("/evidence/d1/{object}"), headers, body);
    assert!((200..300).contains(&status), "{method} {object}: {status} {body}");
}

/// What somebody writes who locks it for as long as we would.
fn write_locked(server: &Server, object: &str) {
    let until = clock::now().plus_s(11 * 86_400).to_string();
    let lock = format!(
        "x-amz-object-lock-mode: COMPLIANCE\r\nx-amz-object-lock-retain-until-date: {}Z\r\nx-amz-sdk-checksum-algorithm: SHA256\r\n",
        &until[..19]
    );
    send(server, "PUT", object, &format!("If-None-Match: *\r\n{lock}"), "junk");
}

/// What `store attest` says, as a process that remembers nothing.
async fn attested(world: &World, settings: &RemoteSettings) -> attest::Report {
    let store: Arc<dyn Store> = Arc::new(RemoteStore::open(settings).expect("settings"));
    attest::recall(&*store, "").await.expect("looked");
    let deployment = Deployment::load(&world.dir.path().join("deployment")).expect("deployment");
    let keys = Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() };
    let task = Task { begin: String::new(), repair: false, pause: Duration::ZERO, now: clock::now() };
    let pass = Pass::new(store.attestable().expect("versions"), task);
    pass.judged_by(Offline::new(Arc::clone(&store), Arc::new(keys))).run().await.expect("looked")
}

/// All that a report says of one kind, what does not fit into its sentence too.
fn said(report: &attest::Report, kind: &str) -> String {
    let sentences = report.troubles.iter().filter(|t| t.kind == kind).map(|t| t.detail.clone());
    let lists = report.lists.iter().filter(|l| l.kind == kind).flat_map(|l| l.objects.clone());
    sentences.chain(lists).collect::<Vec<String>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_that_is_locked_as_ours_is_not_taken_for_ours() {
    let server = moto::start_with_lock();
    let settings = locked(&server);
    let (mut world, case, collection) = collected(&settings).await;
    world.stop().await;
    let report = attested(&world, &settings).await;
    assert!(report.troubles.is_empty(), "{report:#?}");

    let (store, log) = (RemoteStore::open(&settings).expect("settings"), LogName::Case(case.clone()));
    let segment = |stream, n| layout::segment(&case, &collection, StreamNumber(stream), n);
    // The first records were written at once, so that the log never had every incomplete tile.
    let there: Vec<String> = list_all(&store, &log.folder(), 1_000).await.expect("listed").into_iter().map(|e| e.name).collect();
    let narrow = (1..9).map(|width| format!("{}/tile/0/000.p/{width}", log.folder())).find(|name| !there.contains(name));
    let beyond = format!("{}/tile/0/999", log.folder());
    let manifest = layout::manifest(&case, &collection, StreamNumber(9));
    let junk = [segment(1, 7), segment(9, 0), manifest, beyond, narrow.expect("a name that is free")];
    for name in &junk {
        write_locked(&server, name);
    }
    let report = attested(&world, &settings).await;
    let (foreign, lock) = (said(&report, "store-foreign"), said(&report, "store-lock"));
    for name in &junk {
        assert!(foreign.contains(&format!("'{name}'")) && !lock.contains(name.as_str()), "{name}: {report:#?}");
    }
    for words in
        ["it is not what was created here, though it carries a lock", "no signed manifest", "not what the records give", "not there"]
    {
        assert!(foreign.contains(words), "{words}: {report:#?}");
    }
    assert!(!foreign.contains(&segment(1, 0)) && report.troubles.len() == 1, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_head_or_all_of_which_is_gone_is_named() {
    let server = moto::start();
    let settings = server.settings("d1");
    let (mut world, case, _) = collected(&settings).await;
    world.stop().await;
    let report = attested(&world, &settings).await;
    assert!(report.troubles.is_empty(), "{report:#?}");

    let log = LogName::Case(case.clone());
    send(&server, "DELETE", &log.checkpoint(), "", "");
    let report = attested(&world, &settings).await;
    let told: Vec<(&str, &str)> = report.troubles.iter().map(|t| (t.kind, t.subject.as_str())).collect();
    assert_eq!(told, [("log-head", format!("cases/{case}").as_str())], "{report:#?}");
    assert!(said(&report, "log-head").contains("its signed head is gone"), "{report:#?}");

    let store = RemoteStore::open(&settings).expect("settings");
    for entry in list_all(&store, "deployment", 1_000).await.expect("listed") {
        send(&server, "DELETE", &entry.name, "", "");
    }
    let report = attested(&world, &settings).await;
    let words = said(&report, "log-head");
    assert!(report.troubles.len() == 2 && words.contains("nothing of the deployment's own log is there"), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_a_record_that_was_signed_is_named() {
    let server = moto::start_with_lock();
    let governed = LockPolicy { mode: LockMode::Governance, days: 10 };
    let settings = RemoteSettings { lock: Some(governed), ..server.settings("d1") };
    let (mut world, case, _) = collected(&settings).await;
    world.stop().await;
    let report = attested(&world, &settings).await;
    assert!(report.troubles.is_empty(), "{report:#?}");

    // With the right to bypass, of the last record nothing is left, and nothing lies on top of anything.
    let store = RemoteStore::open(&settings).expect("settings");
    let seq = format!("{}/seq", LogName::Case(case.clone()).folder());
    let last = list_all(&store, &seq, 1_000).await.expect("listed").pop().expect("a record").name;
    for version in store.attestable().expect("versions").vault.versions_of(&last).await.expect("listed") {
        let of_version = format!("{last}?versionId={}", version.version);
        send(&server, "DELETE", &of_version, "x-amz-bypass-governance-retention: true\r\n", "");
    }
    let report = attested(&world, &settings).await;
    let words = said(&report, "log-head");
    assert!(words.contains("nobody can open this log") && words.contains(" records and now has "), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_runs_tells_of_one_squat_once_and_of_junk_that_it_is_none_of_ours() {
    let server = moto::start_with_lock();
    let settings = locked(&server);
    let (mut world, case, collection) = collected(&settings).await;
    let parts = Arc::clone(&world.running().parts);
    let log = parts.ledgers.case(&case).await.expect("log");
    let squatted = log.name().slot(log.size());
    send(&server, "PUT", &squatted, "If-None-Match: *\r\n", "squat");
    write_locked(&server, &layout::segment(&case, &collection, StreamNumber(1), 7));
    let told = async |kind: &str| world.incidents().await.into_iter().filter(|i| i.starts_with(kind)).collect::<Vec<String>>();
    for _ in 0..2 {
        parts.attesting.ask(&case);
        soon("it is told", async || told("store-squatted: ").await.iter().any(|i| i.contains(&squatted))).await;
        soon("junk is told", async || told("store-foreign: ").await.iter().any(|i| i.contains("though it carries a lock"))).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let (squats, foreign) = (told("store-squatted: ").await, told("store-foreign: ").await);
    assert_eq!(squats.len(), 1, "{squats:?}");
    assert!(foreign.iter().all(|i| !i.contains("it is not locked")), "{foreign:?}");
    drop((log, parts));
    world.stop().await;
}
