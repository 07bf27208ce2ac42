//! The disaster that a copy is for: the first store is gone, catalog included, and the copy takes its place.

use std::path::Path;
use std::time::Duration;

use exhibit_tests::{Finished, Fleet, wait_until};
use serde_json::Value;

/// The line about the copy in `store check`.
fn about_copy(fleet: &Fleet) -> Value {
    let mut command = fleet.program("exhibit-coordinator");
    let said = Finished::of(command.args(["store", "check", "--json", "--dir"]).arg(fleet.coordinator_dir()));
    let checks = said.json().remove(0)["checks"].take();
    checks.as_array().expect("checks").iter().find(|c| c["what"] == "copy").cloned().unwrap_or_default()
}

#[test]
fn the_copy_takes_the_place_of_a_store_that_is_gone() {
    let fleet = Fleet::prepare();
    let dir = fleet.coordinator_dir();
    let (config, copy) = (dir.join("config.toml"), fleet.path().join("copy"));
    fleet.copy_into(&copy);
    std::fs::remove_dir(&copy).expect("removed");
    std::os::unix::fs::symlink(dir.join("store"), &copy).expect("a link");
    let mut command = fleet.program("exhibit-coordinator");
    let refused = Finished::of(command.arg("run").arg("--dir").arg(&dir));
    assert!(refused.code != 0 && refused.stderr.contains("copy.store.path"), "the store itself: {}", refused.stderr);
    std::fs::remove_file(&copy).expect("removed");
    // A disk that is not mounted yet keeps no coordinator from starting, and nothing is made in its place.
    let mut command = fleet.program("exhibit-coordinator");
    let checked = Finished::of(command.arg("check-config").arg("--dir").arg(&dir)).ok();
    assert!(checked.stderr.contains("copy.store.path") && checked.stderr.contains("mount the disk"), "{}", checked.stderr);
    fleet.start_coordinator();
    wait_until(Duration::from_secs(30), "it is told", || fleet.coordinator_log().contains("copy-failed"));
    assert!(!copy.exists());
    std::fs::create_dir(&copy).expect("folder");
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", "system"]);
    let collection = ended["collection"].as_str().expect("id").to_owned();
    let items = fleet.items(&collection);
    // The access to the items is a record too.
    let head = |store: &Path| std::fs::read(store.join("cases").join(&case).join("log/checkpoint")).ok();
    wait_until(Duration::from_secs(30), "the copy has everything", || {
        head(&copy) == head(&dir.join("store")) && about_copy(&fleet)["detail"].as_str().is_some_and(|d| d.ends_with("everything is in it"))
    });
    assert_eq!(about_copy(&fleet)["state"], "holds");
    let _ = fleet.verify_at(&copy.join("cases").join(&case)).expect_sound();

    // The machine's disk is gone: store and catalog. The deployment's folder comes from its backup, and the copy becomes the store.
    fleet.kill_coordinator();
    std::fs::remove_dir_all(dir.join("store")).expect("gone");
    for entry in std::fs::read_dir(&dir).expect("list").filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with("catalog") {
            std::fs::remove_file(entry.path()).expect("gone");
        }
    }
    let text = std::fs::read_to_string(&config).expect("configuration");
    let text = text.split("\n[copy.store]").next().expect("before");
    std::fs::write(&config, text).expect("written");
    fleet.configure("path", &format!("\"{}\"", copy.display()));
    // What does not fit together is left out, and said by the exit code.
    std::fs::create_dir(copy.join("cases/junk")).expect("folder");
    std::fs::write(copy.join("cases/junk/object"), "none of ours").expect("written");
    let partly = Finished::of(fleet.program("exhibit-coordinator").arg("reindex").arg("--dir").arg(&dir));
    assert!(partly.code == 1 && partly.stderr.contains("what 1 problem names"), "{}", partly.stderr);
    // A folder without an object is none, as in a bucket.
    std::fs::remove_file(copy.join("cases/junk/object")).expect("removed");
    let reindex = Finished::of(fleet.program("exhibit-coordinator").arg("reindex").arg("--dir").arg(&dir)).ok();
    assert!(!reindex.text().contains("problems"), "{}", reindex.text());
    fleet.start_coordinator();
    assert_eq!(fleet.items(&collection), items, "the same items");
    let bag = fleet.path().join("bag");
    let _ = fleet.exhibit(&["export", "--case", &case, "--reason", "to the court", "--out", bag.to_str().expect("UTF-8")]).ok();
    let _ = fleet.verify_at(&bag).expect_sound();
    // And it goes on.
    fleet.wait_online(&agent);
    assert_eq!(fleet.collect(&case, &agent, &["--capture", "system"])["state"], "sealed");
    let _ = fleet.verify_at(&copy.join("cases").join(&case)).expect_sound();
}
