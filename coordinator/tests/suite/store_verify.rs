//! `store verify` reads the bytes again: it finds what changed, and an interrupted run is gone on with.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_coordinator::config::{Config, Paths};
use exhibit_coordinator::reverify::{self, Depth, RESULTS, Report, Schedule};
use exhibit_coordinator::serve::Upkeep;
use exhibit_coordinator::store::LocalStore;
use exhibit_evidence::id::CaseId;

use crate::custody_access::collected;
use crate::support::world::{self, Place, World};

const EVERY_SEGMENT: Depth = Depth::Sample(1_000_000);

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_in_the_store_is_found_and_an_interrupted_run_goes_on() {
    let mut world = World::start().await;
    let (case, job) = collected(&mut world).await;
    let other = world.open_case().await;

    let paths = Paths { deployment: PathBuf::from("deployment"), ..Paths::default() };
    let config = Config { paths, folder: world.dir.path().to_owned(), ..Config::default() };
    let store_dir = world.store_dir();
    let verify = async |depth: Depth| -> Report {
        let store = Arc::new(LocalStore::open(&store_dir).expect("store"));
        reverify::run(&config, store, depth, Some(1 << 30), world::now).await.expect("runs")
    };
    // The coordinator runs meanwhile.
    for depth in [EVERY_SEGMENT, Depth::All] {
        let report = verify(depth).await;
        assert!(report.sound && report.cases.len() == 2 && report.resumed == 0, "{report:#?}");
        assert_eq!(report.cases.iter().map(|c| c.segments).sum::<u64>(), 3, "{report:#?}");
        assert!(report.notes.len() == 1 && report.text().contains("The catalog was not asked"), "it is in use: {}", report.text());
        assert!(report.text().contains("did no harm") && !report.text().contains("corrupt"), "{}", report.text());
        assert_eq!(report.notes[0].matches(". ").count(), 0, "one sentence: {}", report.notes[0]);
    }
    // A run that died before its last line, or in the middle of one.
    let kept = world.dir.path().join(RESULTS);
    let text = std::fs::read_to_string(&kept).expect("results");
    let (whole, _) = text.trim_end().rsplit_once("\n{\"deployment\"").expect("the run ended");
    // It could not decode everything; nor can who goes on say that everything was.
    let (before, after) = whole.rsplit_once("\"findings\":[]").expect("a line");
    let unread = format!("{before}\"findings\":[],\"items_unchecked\":7{after}");
    std::fs::write(&kept, format!("{unread}\n{{\"case\": \"cut")).expect("written");
    assert_eq!(verify(EVERY_SEGMENT).await.resumed, 0, "one of another depth stands by itself");
    let report = verify(Depth::All).await;
    assert!(report.sound && report.cases.is_empty() && report.resumed == 2, "{report:#?}");
    assert!(report.text().contains("The contents of 7 items were not decoded"), "{}", report.text());
    assert_eq!(verify(Depth::All).await.resumed, 0, "that run has its end");

    let segment = store_dir.join(format!("cases/{}/collections/{}/s1/00000000.tar.zst", case.case_id, job.collection));
    let mut bytes = std::fs::read(&segment).expect("segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&segment).and_then(|()| std::fs::write(&segment, bytes)).expect("altered");
    for (depth, words) in [(EVERY_SEGMENT, "is not what its manifest names"), (Depth::All, "segment.")] {
        let report = verify(depth).await;
        let found = report.cases.iter().find(|c| c.case == case.case_id).expect("the case");
        assert!(!report.sound && !found.sound && found.findings.iter().any(|f| f.contains(words)), "{report:#?}");
        assert!(report.text().contains("NOT SOUND") && report.text().contains("exhibit-verify"), "{}", report.text());
    }

    // What is wrong with one case does not keep the others from being read.
    let record = store_dir.join(format!("cases/{}/log/seq/0000000000.dsse.json", case.case_id));
    std::fs::remove_file(&record).and_then(|()| std::fs::write(&record, vec![b' '; 70_000])).expect("inflated");
    std::fs::create_dir(store_dir.join("cases/0")).and_then(|()| std::fs::write(store_dir.join("cases/0/x"), b"x")).expect("no case");
    for depth in [EVERY_SEGMENT, Depth::All] {
        let report = verify(depth).await;
        let sound: Vec<(&str, bool)> = report.cases.iter().map(|c| (c.case.as_str(), c.sound)).collect();
        assert_eq!(sound, [("0", false), (&*case.case_id, false), (&*other.case_id, true)], "{report:#?}");
        assert!(report.text().contains("'cases/0' is not a case"), "{}", report.text());
    }
    std::fs::remove_dir_all(store_dir.join("cases/0")).expect("removed");

    // A case that is gone as a whole: earlier runs know it, and so does the catalog once the coordinator has let go of it.
    std::fs::remove_dir_all(store_dir.join("cases").join(&other.case_id)).expect("gone");
    let gone = |report: &Report, who: &str| {
        let found = report.cases.iter().find(|c| c.case == other.case_id).expect("the case");
        assert!(!report.sound && !found.sound && found.findings.iter().any(|f| f.contains(who)), "{report:#?}");
    };
    gone(&verify(Depth::All).await, "an earlier run saw it");
    world.stop().await;
    std::fs::remove_file(&kept).expect("removed");
    let report = verify(EVERY_SEGMENT).await;
    gone(&report, "the catalog has it");
    assert!(report.text().starts_with("1 case, ") && report.text().contains("; 1 case gone"), "{}", report.text());
    assert!(report.notes.is_empty() && report.cases.len() == 2, "{report:#?}");
    assert_eq!("0.5%".parse(), Ok(Depth::Sample(5_000)));
    assert!(["", "0%", "101%", "1", "x%"].iter().all(|bad| bad.parse::<Depth>().is_err()));
}

/// A run over the store of a world whose coordinator was stopped.
pub(crate) async fn verified(world: &World) -> Report {
    let paths = Paths { deployment: PathBuf::from("deployment"), ..Paths::default() };
    let config = Config { paths, folder: world.dir.path().to_owned(), ..Config::default() };
    let store = Arc::new(LocalStore::open(&world.store_dir()).expect("store"));
    reverify::run(&config, store, Depth::All, None, world::now).await.expect("runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_an_object_is_no_case_whatever_an_earlier_version_took_it_for() {
    let mut world = World::start().await;
    world.open_case().await;
    world.stop().await;
    // What a disk that was full once left, and what was written of it.
    let ghost = CaseId::new(1, [7; 10]).to_string();
    std::fs::create_dir_all(world.store_dir().join(format!("cases/{ghost}/log/seq"))).expect("folders");
    let line = |gone: bool, findings: &[&str]| {
        let at = world::now();
        serde_json::json!({ "case": ghost, "at": at, "sound": false, "segments": 0, "bytes": 0, "findings": findings, "gone": gone })
    };
    let neither =
        ["log.checkpoint-missing log/checkpoint: there is no log/checkpoint", "case.not-opened log: no valid case-opened record was found"];
    let gone = ["nothing of it is in the store, and an earlier run saw it: a whole case is never destroyed; find out who deleted it"];
    let (begun, done) = (serde_json::json!({ "run": world::now(), "depth": "All" }), serde_json::json!({ "done": true }));
    let kept = [&begun, &line(false, &neither), &done, &begun, &line(true, &gone), &done].map(ToString::to_string).join("\n");
    std::fs::write(world.dir.path().join(RESULTS), kept).expect("written");
    for _ in 0..2 {
        let report = verified(&world).await;
        assert!(report.sound && report.cases.len() == 1 && !report.text().contains(&ghost), "{}", report.text());
    }
    // That the catalog had it once is no mistake of ours.
    let had = ["nothing of it is in the store, and the catalog has it: a whole case is never destroyed"];
    std::fs::write(world.dir.path().join(RESULTS), format!("{begun}\n{}\n{done}\n", line(true, &had))).expect("written");
    let report = verified(&world).await;
    assert!(!report.sound && report.text().contains(&ghost), "{}", report.text());

    // A copy has no catalog, and needs none.
    std::fs::remove_file(world.dir.path().join(RESULTS)).expect("removed");
    std::fs::rename(world.dir.path().join("catalog.sqlite"), world.dir.path().join("elsewhere")).expect("moved");
    let report = verified(&world).await;
    assert!(report.sound && report.text().contains("there is none of a copy"), "{}", report.text());
    assert!(!report.text().contains("reindex"), "{}", report.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_never_were_are_not_said_to_be_missing() {
    let mut world = World::start().await;
    let case = world.open_case().await;
    world.stop().await;
    let log = world.store_dir().join(format!("cases/{}/log", case.case_id));
    std::fs::write(log.join("seq/0000000099.dsse.json"), b"junk").expect("written");
    let paths = Paths { deployment: PathBuf::from("deployment"), ..Paths::default() };
    let config = Config { paths, folder: world.dir.path().to_owned(), ..Config::default() };
    let store = Arc::new(LocalStore::open(&world.store_dir()).expect("store"));
    let report = reverify::run(&config, store, Depth::All, None, world::now).await.expect("runs");
    let found = report.cases[0].findings.join("\n");
    assert!(!report.sound && found.contains("to 98, after the ") && !found.contains("98 are missing"), "{report:#?}");
}

/// The cases that have a line in a file of results, and how often a run ended there.
fn lines(file: &std::path::Path) -> (Vec<String>, usize) {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let all: Vec<serde_json::Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let cases = all.iter().filter_map(|l| l["case"].as_str().map(str::to_owned)).collect();
    (cases, all.iter().filter(|l| l["done"] == true).count())
}

async fn soon(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduled_run_goes_on_at_another_coordinator_and_tells_what_it_finds() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Scratch::start(dir.path()).await;
    let mut world = World::start_on(Place { database: Some(server.database("catalog").await), ..Place::default() }).await;
    let mut cases = Vec::new();
    for _ in 0..3 {
        cases.push(world.open_case().await.case_id);
    }
    cases.sort();
    let record = world.store_dir().join(format!("cases/{}/log/seq/0000000001.dsse.json", cases[0]));
    let kept = std::fs::read(&record).expect("record");
    std::fs::remove_file(&record).and_then(|()| std::fs::write(&record, b"{}")).expect("altered");

    // So slow that a case takes seconds.
    let schedule = |name: &str, rate: u64| {
        let results = world_file(&world, name);
        Upkeep { verify: Some(Schedule { every: Duration::from_hours(1), depth: Depth::All, rate: Some(rate), results }), copy: None }
    };
    let (slow, fast) = (schedule("slow.jsonl", 1 << 13), schedule("fast.jsonl", 1 << 30));
    world.place.upkeep = slow;
    world.restart().await;
    let first = world_file(&world, "slow.jsonl");
    soon("the first case is verified", async || !lines(&first).0.is_empty()).await;
    // It stops at once, although the verifier's thread is at work.
    tokio::time::timeout(Duration::from_secs(15), world.stop()).await.expect("stops");
    let (done, ended) = lines(&first);
    assert!((1..3).contains(&done.len()) && ended == 0, "{done:?}");

    world.place.upkeep = fast;
    world.restart().await;
    let second = world_file(&world, "fast.jsonl");
    soon("the run ends", async || lines(&second).1 == 1).await;
    let (rest, _) = lines(&second);
    let mut all = [done, rest].concat();
    // It may have died between the line and what the catalog says.
    all.dedup();
    assert_eq!(all, cases, "the second coordinator did what the first one had not");
    let told = world.incidents().await;
    assert!(told.iter().any(|i| i.starts_with("store-verify: ")), "{told:?}");
    soon("it is counted", async || {
        let metrics = world.running().parts.metrics.text();
        metrics.lines().any(|l| l == "exhibit_verify_unsound_cases 1") && !metrics.contains("exhibit_verify_ended_seconds 0")
    })
    .await;
    // The next start knows that it is not time yet.
    std::fs::remove_file(&record).and_then(|()| std::fs::write(&record, kept)).expect("mended");
    world.restart().await;
    soon("it is known", async || world.running().parts.metrics.text().contains("exhibit_verify_unsound_cases 1")).await;
    assert_eq!(lines(&second).1, 1);
    world.stop().await;
}

fn world_file(world: &World, name: &str) -> PathBuf {
    world.dir.path().join(name)
}
