//! The catalog is an index: thrown away, it comes back from the store alone.

use exhibit_tests::{Finished, Fleet};

#[test]
fn a_lost_catalog_is_rebuilt_from_the_store() {
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", "system"]);
    let collection = ended["collection"].as_str().expect("id").to_owned();
    let before = (fleet.exhibit(&["case", "show", &case]).ok().json(), fleet.items(&collection));
    assert_eq!(fleet.terminate_coordinator(), 0);
    let dir = fleet.coordinator_dir();
    let mut lost = 0;
    for entry in std::fs::read_dir(&dir).expect("list").filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with("catalog") {
            let gone = if entry.path().is_dir() { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) };
            gone.expect("remove");
            lost += 1;
        }
    }
    assert!(lost > 0, "the catalog is a file named catalog*");
    let _ = Finished::of(fleet.program("exhibit-coordinator").arg("reindex").arg("--dir").arg(&dir)).ok();
    fleet.start_coordinator();
    let after = (fleet.exhibit(&["case", "show", &case]).ok().json(), fleet.items(&collection));
    assert_eq!(after.1, before.1, "the same items");
    for key in ["case", "title", "legal_basis", "accountable", "state", "exhibits"] {
        assert_eq!(after.0[0][key], before.0[0][key], "{key}");
    }
    let listed = fleet.collection(&collection);
    for key in ["state", "order", "agent", "items", "exhibit_first", "exhibit_count"] {
        assert_eq!(listed[key], ended[key], "{key}");
    }
    // And it goes on: the same agent collects again.
    fleet.wait_online(&agent);
    assert_eq!(fleet.collect(&case, &agent, &["--capture", "network"])["state"], "sealed");
    let _ = fleet.verify(&case).expect_sound();
}
