//! The agent's memory: idle, and during a triage of this whole host. The bounds are promises, not speed.

use std::time::Duration;

use exhibit_tests::{Fleet, is_quick};

const MIB: u64 = 1 << 20;
/// Pages of its own file that an optimised agent has in memory, at most.
const PROGRAM_MAX: u64 = 12 * MIB;

#[test]
fn the_agent_stays_small_during_triage() {
    if is_quick() {
        eprintln!("left out with --quick");
        return;
    }
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let idle = agent.process().status_bytes("VmRSS").expect("status");
    assert!(idle <= 20 * MIB, "idle: {} MiB", idle / MIB);
    let case = fleet.open_case();
    let collection = fleet.order(&case, &agent, &["--profile", "triage"]);
    let ended = fleet.wait_closed(&collection, Duration::from_mins(5));
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", fleet.coordinator_log());
    // The pages of the program's own file count with those that a shipped one has: without optimisation it has twice as many.
    let program = agent.process().status_bytes("RssFile").expect("status");
    let whole = agent.process().status_bytes("VmHWM").expect("status");
    let peak = whole - program + program.min(PROGRAM_MAX);
    eprintln!(
        "{} items, {} raw bytes, {} stored; idle {:.1} MiB, peak {:.1} MiB (program {:.1} of {:.1}), coordinator peak {:.1} MiB",
        ended["items"],
        ended["raw_bytes"],
        ended["stored_bytes"],
        idle as f64 / MIB as f64,
        peak as f64 / MIB as f64,
        program as f64 / MIB as f64,
        whole as f64 / MIB as f64,
        fleet.coordinator_memory("VmHWM") as f64 / MIB as f64
    );
    assert!(peak <= 48 * MIB, "triage: {} MiB", peak / MIB);
    let _ = fleet.verify(&case).expect_sound();
    let items = fleet.items(&collection);
    for capture in ["network", "process", "system", "logs", "files"] {
        assert!(items.iter().any(|i| i["capture"] == capture && i["status"] == "collected"), "{capture}");
    }
    assert!(
        items.iter().all(|i| i["status"] == "collected" || i["reason"].as_str().is_some_and(|r| !r.is_empty())),
        "every status has its reason"
    );
}
