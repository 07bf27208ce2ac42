//! Locked evidence, and what somebody tries who holds the coordinator's own credentials.
//!
//! moto is not S3, which has to be known to read this: it lets the lock of a version be shortened and turned into governance,
//! lets everybody bypass governance, and ignores locks on multipart uploads (none are used here). S3 refuses the first two and
//! asks for a right for the third; here they are found and undone instead. It checks neither signatures nor checksums: that is
//! done in front of it (`support::moto`).
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::store::attest::{Pass, Report, Task};
use exhibit_coordinator::store::check::{self, State};
use exhibit_coordinator::store::{Kind, LockMode, LockPolicy, Payload, Protection, RemoteSettings, RemoteStore, Store, StoreError, Stored};
use exhibit_coordinator::{clock, copy};
use exhibit_evidence::Digest;
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{self, Hold, HoldReleased};
use exhibit_proto::responder::v1 as people;

use crate::custody_access::collected;
use crate::support::moto::{self, Server};
use crate::support::world::{Place, World};

const POLICY: LockPolicy = LockPolicy { mode: LockMode::Compliance, days: 10 };

fn locked(server: &Server) -> RemoteSettings {
    RemoteSettings { lock: Some(POLICY), ..server.settings("d1") }
}

fn open(settings: &RemoteSettings) -> RemoteStore {
    RemoteStore::open(settings).expect("settings")
}

async fn put(store: &dyn Store, name: &str, content: &[u8]) -> Result<Stored, StoreError> {
    store.put_new(name, Payload::from(content.to_vec()), Digest::of(content)).await
}

async fn pass(store: &RemoteStore, repair: bool) -> Report {
    pass_over(store, "", repair).await
}

async fn pass_over(store: &RemoteStore, begin: &str, repair: bool) -> Report {
    let task = Task { begin: begin.to_owned(), repair, pause: Duration::ZERO, now: clock::now() };
    Pass::new(store.attestable().expect("an S3 store"), task).run().await.expect("attested")
}

fn kinds(report: &Report) -> Vec<&'static str> {
    report.troubles.iter().map(|t| t.kind).collect()
}

fn retention(mode: &str, until: &str) -> String {
    format!("<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_locked_stays_and_what_lies_on_top_is_told_and_passed_over() {
    let server = moto::start_with_lock();
    let store = open(&locked(&server));
    let (case, collection) = (CaseId::new(1, [2; 10]), CollectionId::from_digest(&Digest::of(b"held")));
    let name = format!("cases/{case}/collections/{collection}/s1/00000000.tar.zst");
    let far = clock::now().plus_s(40 * 86_400);
    store.protect(
        &case,
        Protection { until: Some(far), held: false, held_collections: BTreeSet::from([collection]), ..Protection::default() },
    );
    let written = put(&store, &name, b"genuine").await.expect("written");
    let version = written.version.expect("versions are kept");
    assert_eq!(put(&store, &name, b"genuine").await.expect("again").version.as_ref(), Some(&version), "the same version is meant");
    let slot = "deployment/log/seq/0000000000.dsse.json";
    let slot_version = put(&store, slot, b"record").await.expect("written").version.expect("version");

    let stranger = RemoteSettings { secret: Some("another".to_owned()), ..locked(&server) };
    let e = put(&open(&stranger), "cases/x", b"x").await.expect_err("signatures are looked at");
    assert!(e.needs_a_person() && e.word() == "denied" && !e.to_string().contains("another"), "{e}");

    // As custody and the policy ask, each by its own version.
    let vault = store.attestable().expect("an S3 store").vault;
    let seen = vault.lock_of(&name, &version).await.expect("looks");
    assert_eq!((seen.mode, seen.hold), (Some(LockMode::Compliance), true));
    assert!(seen.until.is_some_and(|until| until.plus_s(1) >= far), "the case's retention is the later one: {seen}");
    let seen = vault.lock_of(slot, &slot_version).await.expect("looks");
    assert_eq!((seen.mode, seen.hold), (Some(LockMode::Compliance), false));
    let ten_days = clock::now().plus_s(10 * 86_400);
    assert!(seen.until.is_some_and(|until| until <= ten_days.plus_s(2) && until.plus_s(120) >= ten_days), "{seen}");
    assert_eq!(kinds(&pass(&store, false).await), [""; 0], "all is well");

    // The holder of the credentials: the version stays, with a bypass as well, and the name is taken.
    let (path, at) = (format!("/evidence/d1/{name}"), |path: &str, version: &str| format!("{path}?versionId={version}"));
    let bypass = "x-amz-bypass-governance-retention: true\r\n";
    for headers in ["", bypass] {
        assert_eq!(
            server.send("DELETE", &at(&path, &version), headers, "").0,
            403,
            "the lock; the same credentials get their marker below"
        );
    }
    assert_eq!(put(&store, &name, b"forgery").await.expect_err("taken").kind(), Kind::Conflict);
    let e = store.destroy(&name).await.expect_err("locked");
    assert!(e.kind() == Kind::Denied && e.message().contains("403"), "{e}");
    // moto lets the lock be shortened, which S3 does not.
    let tomorrow = clock::now().plus_s(86_400).to_string();
    let shorter = retention("GOVERNANCE", &format!("{}Z", &tomorrow[..19]));
    let slot_path = format!("/evidence/d1/{slot}?retention&versionId={slot_version}");
    assert_eq!(server.send("PUT", &slot_path, "", &shorter).0, 200);
    // A marker hides the genuine version, the name is free, and a forgery is created on top.
    assert_eq!(server.send("DELETE", &path, "", "").0, 204);
    assert_eq!(server.send("PUT", &path, "If-None-Match: *\r\n", "forgery").0, 200);

    // Who wrote it reads by version. A later process is deceived until it has looked, and then never again.
    assert_eq!(store.get(&name, 100).await.expect("read"), "genuine");
    let later = open(&locked(&server));
    assert_eq!(later.get(&name, 100).await.expect("read"), "forgery");
    let looked = pass(&later, false).await;
    assert_eq!(kinds(&looked), ["store-lock", "store-marker", "store-version"], "{looked:#?}");
    assert_eq!(later.get(&name, 100).await.expect("read"), "genuine");
    assert_eq!(later.size(&name).await.expect("size"), 7);
    let told = looked.troubles.iter().find(|t| t.kind == "store-version").expect("told");
    assert!(told.subject == format!("cases/{case}") && told.detail.contains(&version) && told.detail.contains(&name), "{told:?}");

    // Locks are set again, and what was done to them is told once.
    later.protect(&case, Protection { until: Some(far), held: true, ..Protection::default() });
    let repaired = pass(&later, true).await;
    assert!(repaired.set_again > 0 && kinds(&repaired).contains(&"store-lock"), "{repaired:#?}");
    let again = pass(&later, true).await;
    assert_eq!((again.set_again, kinds(&again)), (0, vec!["store-marker", "store-version"]));
    let seen = vault.lock_of(slot, &slot_version).await.expect("looks");
    assert!(seen.mode == Some(LockMode::Compliance) && seen.until.is_some_and(|until| until.plus_s(3_600) >= ten_days), "{seen}");
    // Custody released the hold.
    later.protect(&case, Protection { until: Some(far), ..Protection::default() });
    let all = pass(&later, true).await;
    assert!(all.holds_released == 0 && all.to_release.contains(case.as_str()), "what this process knows may be old: {all:?}");
    assert!(vault.lock_of(&name, &version).await.expect("looks").hold);
    assert_eq!(pass_over(&later, &format!("cases/{case}/"), true).await.holds_released, 1);
    assert!(!vault.lock_of(&name, &version).await.expect("looks").hold);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_cannot_lock_is_named_before_anything_is_believed() {
    let server = moto::start();
    let store = open(&locked(&server));
    let e = put(&store, "cases/x/object", b"x").await.expect_err("no lock");
    assert!(e.kind() == Kind::Denied && e.remedy().contains("has no Object Lock"), "{e}");
    assert_eq!(store.size("cases/x/object").await.expect_err("not written").kind(), Kind::NotFound);
    assert_eq!(kinds(&pass(&store, true).await), ["store-bucket"]);
    let report = check::run(&open(&server.settings("")), None, clock::now()).await;
    assert_eq!(report.state("create-only"), Some(State::Holds));
    for what in ["versioning", "object-lock", "lock", "overwrite", "delete-marker"] {
        assert_eq!(report.state(what), Some(State::Missing), "{}", report.text());
    }
    let remedy = &report.checks.iter().find(|c| c.what == "overwrite").expect("checked").remedy;
    assert!(remedy.contains("deploy/policies/s3-writer.json"), "{remedy}");

    // The same as a second store: its lock is tried too, and the store itself is no copy of it.
    let first = open(&server.settings("first"));
    put(&first, &LogName::Deployment.slot(0), b"record").await.expect("written");
    let mut report = report;
    copy::check(&mut report, Arc::new(first.clone()), Arc::new(store), Some(POLICY)).await;
    let found = (report.state("copy:create-only"), report.state("copy:write"), report.state("copy"));
    assert_eq!(found, (Some(State::Holds), Some(State::Missing), Some(State::Missing)), "nothing is copied into it\n{}", report.text());
    copy::check(&mut report, Arc::new(first), Arc::new(open(&server.settings("first"))), None).await;
    let last = report.checks.last().expect("checked");
    assert!(last.state == State::Missing && last.detail.contains("is the store itself"), "{last:?}");
}

/// The whole program: its exit code, its table, and that no secret is in anything that it prints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_checked_attested_and_read_by_commands_that_tell_no_secret() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = moto::start_with_lock();
    let dir = tempfile::tempdir().expect("dir");
    let folder = dir.path().join("d");
    let endpoint = server.settings("").endpoint.expect("endpoint");
    let run = |args: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_exhibit-coordinator"))
            .env("AWS_ACCESS_KEY_ID", "id")
            .env("AWS_SECRET_ACCESS_KEY", "very-secret")
            .args(args)
            .arg("--dir")
            .arg(&folder)
            .arg("--json")
            .output()
            .expect("runs");
        let (said, log) = (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned());
        assert!(!said.contains("very-secret") && !log.contains("very-secret"), "{said}{log}");
        (out.status.code(), serde_json::from_str::<serde_json::Value>(&said).unwrap_or_default(), log)
    };
    let place = ["--store", "s3", "--bucket", "evidence", "--lock", "compliance:1", "--dangerous-allow-http", "--endpoint", &endpoint];
    let (code, _, log) = run(&[&["init", "--name", "example.org"], &place[..]].concat());
    assert_eq!(code, Some(0), "{log}");
    // From now on with a secret of its own file, and a log that says everything.
    let (file, secret) = (folder.join("config.toml"), folder.join("secret"));
    std::fs::write(&secret, "very-secret\n").expect("write");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let text = std::fs::read_to_string(&file).expect("written by init");
    let text = text
        .replace("# access_key_id = \"id\"", "access_key_id = \"id\"")
        .replace("# secret_access_key_file = \"s3-secret\"", "secret_access_key_file = \"secret\"");
    std::fs::write(&file, text.replace("level = \"info\"", "level = \"trace\"")).expect("write");

    let (code, report, log) = run(&["store", "check"]);
    let state = |what: &str| report["checks"].as_array().and_then(|c| c.iter().find(|c| c["what"] == what)).map(|c| c["state"].clone());
    for what in ["create-only", "versioning", "object-lock", "lock", "held-overwrite", "delete-version", "bypass-delete"] {
        assert_eq!(state(what), Some("holds".into()), "{report:#} {log}");
    }
    // The first two are moto's own; the others are what a policy must take away, and moto has none.
    for what in ["shorten", "bypass-shorten", "overwrite", "delete-marker"] {
        assert_eq!(state(what), Some("missing".into()), "{report:#}");
    }
    assert!(code == Some(1) && log.contains("the store is not as it should be"), "{log}");
    let (code, report, log) = run(&["store", "attest"]);
    assert_eq!((code, report["troubles"].as_array().map(Vec::len)), (Some(0), Some(0)), "{report:#} {log}");
    assert!(report["locks_read"].as_u64() > Some(3), "{report:#}");
    let (code, report, log) = run(&["store", "verify", "--all"]);
    assert_eq!((code, report["sound"].as_bool()), (Some(0), Some(true)), "{report:#} {log}");
}

/// A coordinator on a locked bucket: custody's holds reach the objects, a forgery becomes a signed incident of its case and is
/// not served.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_reaches_the_store_and_a_forgery_becomes_an_incident() {
    let server = moto::start_with_lock();
    let mut world = World::start_on(Place { remote: Some(locked(&server)), ..Place::default() }).await;
    let (opened, job) = collected(&mut world).await;
    let case: CaseId = opened.case_id.parse().expect("id");
    let name = format!("cases/{case}/collections/{}/s1/00000000.tar.zst", job.collection);
    let vault = open(&locked(&server)).attestable().expect("an S3 store").vault;
    let version = vault.versions_of(&name).await.expect("listed").remove(0).version;
    assert!(!vault.lock_of(&name, &version).await.expect("looks").hold);
    let (me, predecessor) = (world.me(), Digest::try_from(opened.case_opened_sha256.as_slice()).expect("digest"));
    let (placed_by, placed_at, reason) = (me.clone(), clock::now(), "litigation".to_owned());
    let hold = Hold {
        case: case.clone(),
        predecessor,
        collections: vec![job.collection.clone()],
        too_late: Vec::new(),
        reason,
        placed_by,
        placed_at,
    };
    let hold = submit(&mut world, &hold).await;
    until(async || vault.lock_of(&name, &version).await.expect("looks").hold).await;
    let (released_by, released_at, reason) = (me, clock::now(), "settled".to_owned());
    submit(&mut world, &HoldReleased { case: case.clone(), predecessor: hold, reason, released_by, released_at }).await;
    until(async || !vault.lock_of(&name, &version).await.expect("looks").hold).await;
    assert!(world.incidents().await.is_empty(), "{:?}", world.incidents().await);

    let path = format!("/evidence/d1/{name}");
    assert_eq!((server.send("DELETE", &path, "", "").0, server.send("PUT", &path, "If-None-Match: *\r\n", "forgery").0), (204, 200));
    world.restart().await;
    until(async || world.incidents().await.iter().any(|i| i.starts_with("store-version: ") && i.contains(&name))).await;
    let log = world.running().parts.ledgers.case(&case).await.expect("log");
    until(async || log.entries(0, &|e| e.kind == "incident:v1", 10).len() == 2).await;
    let request = people::ReadItemsRequest { items: vec![format!("{}.s1.0", job.collection)], reason: "x".into(), action: "view".into() };
    let mut items = world.people.read_items(request).await.expect("stream").into_inner();
    assert!(items.message().await.expect("the genuine version is served").is_some());
}

/// A hold that was taken in the moment in which the coordinator ended: the next one sets what was left, and nobody is said to have weakened it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_hold_left_to_be_locked_is_locked_at_the_next_start_without_an_incident() {
    let server = moto::start_with_lock();
    let mut world = World::start_on(Place { remote: Some(locked(&server)), ..Place::default() }).await;
    let (opened, _) = collected(&mut world).await;
    let case: CaseId = opened.case_id.parse().expect("id");
    let vault = open(&locked(&server)).attestable().expect("an S3 store").vault;
    // Looked at after all objects of the collection.
    let name = LogName::Case(case.clone()).slot(0);
    let version = vault.versions_of(&name).await.expect("listed").remove(0).version;
    let (placed_by, predecessor) = (world.me(), Digest::try_from(opened.case_opened_sha256.as_slice()).expect("digest"));
    let (too_late, placed_at, reason) = (Vec::new(), clock::now(), "litigation".to_owned());
    submit(&mut world, &Hold { case, predecessor, collections: Vec::new(), too_late, reason, placed_by, placed_at }).await;
    world.stop().await;
    assert!(!vault.lock_of(&name, &version).await.expect("looks").hold, "it ended before it came to this");

    world.restart().await;
    until(async || vault.lock_of(&name, &version).await.expect("looks").hold).await;
    until(async || world.running().parts.catalog.standing("raising").await.expect("read").as_deref() == Some("{}")).await;
    // The pass over everything takes a second or two more.
    for _ in 0..60 {
        let incidents = world.incidents().await;
        assert!(incidents.is_empty(), "{incidents:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn submit<P: record::Predicate>(world: &mut World, predicate: &P) -> Digest {
    let envelope = record::sign(predicate, &world.admin.evidence).expect("small");
    let request = people::SubmitRecordRequest { record: envelope.as_bytes().to_vec() };
    world.people.submit_record(request).await.expect("taken");
    envelope.digest()
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not come within 20 s");
}

/// The policies that are shipped: what the writer's denies, and that a disposal reaches collections alone. Whether a store obeys
/// them is for `store check` to show, because moto knows no conditions.
#[test]
fn the_shipped_policies_give_no_way_to_take_evidence_away() {
    const AWAY: [&str; 4] = ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention", "s3:PutBucketVersioning"];
    let words = |value: &serde_json::Value| -> Vec<String> {
        value.as_array().map_or_else(|| vec![value.clone()], Clone::clone).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    for (file, text) in [
        ("s3-writer.json", include_str!("../../../deploy/policies/s3-writer.json")),
        ("s3-disposal.json", include_str!("../../../deploy/policies/s3-disposal.json")),
    ] {
        let policy: serde_json::Value = serde_json::from_str(text).expect(file);
        let statements = policy["Statement"].as_array().expect("statements");
        let of = |effect: &'static str, action: &'static str| {
            statements.iter().filter(move |s| s["Effect"] == effect && words(&s["Action"]).iter().any(|a| a == action))
        };
        for action in AWAY {
            assert!(of("Deny", action).count() == 1, "{file} denies {action}");
            for allowed in of("Allow", action) {
                assert_eq!(
                    (file, words(&allowed["Resource"])),
                    ("s3-disposal.json", vec!["arn:aws:s3:::BUCKET/*cases/*/collections/*".to_owned()])
                );
            }
        }
        let overwrite = of("Deny", "s3:PutObject").next().expect("writes without If-None-Match");
        assert_eq!(overwrite["Condition"]["Null"]["s3:if-none-match"], "true");
        let replaced = ["arn:aws:s3:::BUCKET/*log/checkpoint", "arn:aws:s3:::BUCKET/*log/cosigned/*", "arn:aws:s3:::BUCKET/*probe/head"];
        assert_eq!(words(&overwrite["NotResource"]), replaced, "{file}: what is replaced, and nothing else");
    }
}
