//! Killing the agent or the coordinator in the middle leaves no half-truth.

use std::time::Duration;

use exhibit_tests::{Agent, Fleet, wait_until};

/// About 60 MB that do not compress, and a send budget that makes the collection last some seconds.
fn slow_source() -> (tempfile::TempDir, Vec<String>) {
    let source = tempfile::tempdir().expect("folder");
    exhibit_tests::awkward_tree(source.path());
    for copy in ["noise-2.bin", "noise-3.bin"] {
        std::fs::copy(source.path().join("noise.bin"), source.path().join(copy)).expect("copy");
    }
    let capture = format!("files:paths={}/**", source.path().display());
    (source, vec!["--capture".to_owned(), capture, "--send-rate".to_owned(), "8M".to_owned()])
}

fn begin(fleet: &Fleet, case: &str, agent: &Agent, what: &[String]) -> String {
    let what: Vec<&str> = what.iter().map(String::as_str).collect();
    let collection = fleet.order(case, agent, &what);
    wait_until(Duration::from_mins(1), "some segments are stored", || {
        fleet.collection(&collection)["stored_bytes"].as_u64().unwrap_or(0) > 8_000_000
    });
    collection
}

#[test]
fn a_killed_coordinator_continues_where_it_was() {
    let (source, what) = slow_source();
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let collection = begin(&fleet, &case, &agent, &what);
    fleet.kill_coordinator();
    fleet.start_coordinator();
    let ended = fleet.wait_closed(&collection, Duration::from_secs(90));
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", fleet.coordinator_log());
    assert_eq!(ended["streams"], 1, "the same stream went on: {ended}");
    let _ = fleet.verify(&case).expect_sound();
    // The digests are those of the source.
    let want = exhibit_tests::tree_facts(source.path());
    for item in fleet.items(&collection).iter().filter(|i| i["kind"] == "file") {
        let name = item["path"].as_str().expect("path").rsplit('/').next().expect("name").to_owned();
        if let Some((size, _, _, digest)) = want.get(name.as_bytes()) {
            assert_eq!((item["size"].as_u64(), item["sha256"].as_str()), (Some(*size), Some(digest.as_str())), "{name}");
        }
    }
}

#[test]
fn a_killed_agent_goes_on_in_the_same_stream() {
    let (source, what) = slow_source();
    let fleet = Fleet::start();
    let mut agent = fleet.agent();
    let case = fleet.open_case();
    let collection = begin(&fleet, &case, &agent, &what);
    for more in [20_000_000, 35_000_000] {
        agent.kill();
        agent.restart();
        let stored = || fleet.collection(&collection)["stored_bytes"].as_u64().unwrap_or(0);
        wait_until(Duration::from_mins(1), "it goes on", || stored() > more);
    }
    let ended = fleet.wait_closed(&collection, Duration::from_mins(2));
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", fleet.coordinator_log());
    assert_eq!(ended["streams"], 1, "the same stream went on: {ended}\n{}", fleet.coordinator_log());
    let _ = fleet.verify(&case).expect_sound();
    let items = fleet.items(&collection);
    let want = exhibit_tests::tree_facts(source.path());
    let mut compared = 0;
    for item in items.iter().filter(|i| i["kind"] == "file") {
        let name = item["path"].as_str().expect("path").rsplit('/').next().expect("name").to_owned();
        if let Some((size, _, _, digest)) = want.get(name.as_bytes()) {
            assert_eq!((item["size"].as_u64(), item["sha256"].as_str()), (Some(*size), Some(digest.as_str())), "{name}");
            compared += 1;
        }
    }
    assert!(compared >= 3, "{compared} files compared");
    assert!(items.iter().any(|i| i["facts"]["continued_at"].is_string()), "the file in which it was killed says so");
    let manifest =
        std::fs::read_to_string(fleet.case_dir(&case).join(format!("collections/{collection}/s1/manifest.jsonl"))).expect("manifest");
    assert_eq!(manifest.lines().filter(|l| l.contains("\"seam\"")).count(), 2);
}

#[test]
fn what_cannot_be_read_again_begins_a_new_stream_and_the_first_is_kept() {
    let what = ["--capture", "process", "--capture", "system", "--send-rate", "2M"];
    let fleet = Fleet::start();
    let mut agent = fleet.agent();
    let case = fleet.open_case();
    let collection = fleet.order(&case, &agent, &what);
    wait_until(Duration::from_mins(1), "it runs", || fleet.collection(&collection)["state"] == "running");
    agent.kill();
    agent.restart();
    let ended = fleet.wait_closed(&collection, Duration::from_mins(2));
    assert!(ended["state"] == "sealed" || ended["state"] == "partial", "{ended}\n{}", fleet.coordinator_log());
    let _ = fleet.verify(&case).expect_sound();
    let items = fleet.items(&collection);
    assert!(items.iter().any(|i| i["id"].as_str().is_some_and(|id| id.contains(".s2."))), "the second attempt is whole");
}

#[test]
fn an_agent_that_never_comes_back_leaves_a_partial_collection() {
    let (_source, mut what) = slow_source();
    what.extend(["--deadline".to_owned(), "10s".to_owned()]);
    let fleet = Fleet::prepare();
    fleet.configure("grace_s", "5");
    fleet.start_coordinator();
    let mut agent = fleet.agent();
    let case = fleet.open_case();
    let collection = begin(&fleet, &case, &agent, &what);
    agent.kill();
    let ended = fleet.wait_closed(&collection, Duration::from_mins(1));
    assert_eq!(ended["state"], "partial", "{ended}\n{}", fleet.coordinator_log());
    assert!(ended["reason"].as_str().is_some_and(|r| !r.is_empty()));
    let _ = fleet.verify(&case).expect_sound();
}

#[test]
fn cancel_keeps_what_was_taken() {
    let (_source, what) = slow_source();
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let collection = begin(&fleet, &case, &agent, &what);
    let _ = fleet.exhibit(&["cancel", &collection, "--reason", "enough"]).ok();
    let ended = fleet.wait_closed(&collection, Duration::from_mins(1));
    assert_eq!(ended["state"], "partial", "{ended}\n{}", fleet.coordinator_log());
    assert!(!fleet.items(&collection).is_empty());
    let _ = fleet.verify(&case).expect_sound();
}

#[test]
fn sigterm_ends_both_politely_and_nothing_is_lost() {
    let (_source, what) = slow_source();
    let fleet = Fleet::start();
    let mut agent = fleet.agent();
    let case = fleet.open_case();
    let collection = begin(&fleet, &case, &agent, &what);
    assert_eq!(fleet.terminate_coordinator(), 0);
    fleet.start_coordinator();
    let ended = fleet.wait_closed(&collection, Duration::from_secs(90));
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", fleet.coordinator_log());
    assert_eq!(agent.terminate(), 0);
    let _ = fleet.verify(&case).expect_sound();
}

/// Its host may never come back: what was taken is signed and sent in the time that there is, and the order is at its end.
#[test]
fn an_agent_that_is_told_to_end_signs_what_it_has() {
    let (_source, what) = slow_source();
    let fleet = Fleet::start();
    let mut agent = fleet.agent();
    let case = fleet.open_case();
    let collection = begin(&fleet, &case, &agent, &what);
    assert_eq!(agent.terminate(), 0);
    let ended = fleet.wait_closed(&collection, Duration::from_secs(10));
    assert!(ended["state"] == "partial" && ended["reason"].as_str().is_some_and(|r| r.contains("stopped on its host")), "{ended}");
    let verdict = fleet.verify(&case).expect_sound();
    let found = &verdict.report["collections"][0];
    assert!(found["items"].as_u64() > Some(0) && found["items_unsigned"] == 0, "the agent vouches for all of it: {found}");
    // The next process finds nothing to go on with.
    agent.restart();
    fleet.wait_online(&agent);
    assert_eq!(fleet.collection(&collection)["state"], "partial");
}
