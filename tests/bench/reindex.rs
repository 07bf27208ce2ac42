//! How long a catalog that is lost takes to come back from the store.

use std::time::{Duration, Instant};

use exhibit_tests::{Finished, Fleet};

/// Files of one collection.
const FILES: u32 = 10_000;

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
#[test]
#[ignore = "a measurement of minutes"]
fn reindex_rate() {
    let (fleet, source) = (Fleet::start(), tempfile::tempdir().expect("folder"));
    for n in 0..FILES {
        std::fs::write(source.path().join(format!("f{n}")), format!("file {n}\n").repeat(40)).expect("written");
    }
    let agent = fleet.agent();
    let capture = format!("files:paths={}/**", source.path().display());
    let mut items = 0;
    println!("{:>12} {:>10} {:>10} {:>12} {:>14}", "collections", "items", "seconds", "items/s", "collections/s");
    for collections in [4_u32, 16] {
        for _ in 0..collections {
            let ended = fleet.collect(&fleet.open_case(), &agent, &["--capture", &capture]);
            assert_eq!(ended["state"], "sealed", "{ended}");
            items += ended["items"].as_u64().expect("items");
        }
        let _ = fleet.terminate_coordinator();
        let mut command = fleet.program("exhibit-coordinator");
        command.args(["reindex", "--json", "--dir"]).arg(fleet.coordinator_dir());
        let begun = Instant::now();
        let report = Finished::of(&mut command).ok().json();
        let seconds = begun.elapsed().as_secs_f64();
        let found = report[0]["collections"].as_u64().expect("collections");
        println!("{found:>12} {items:>10} {seconds:>10.2} {:>12.0} {:>14.1}", items as f64 / seconds, found as f64 / seconds);
        assert_eq!(report[0]["problem_count"], 0, "{}", report[0]);
        std::thread::sleep(Duration::from_millis(100));
        fleet.start_coordinator();
        fleet.wait_online(&agent);
    }
}
