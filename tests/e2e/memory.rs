//! The agent's memory: idle, and during a triage of this whole host. The bounds are promises, not speed.

use std::time::Duration;

use exhibit_tests::{Fleet, is_quick};

const MIB: u64 = 1 << 20;

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
    let program = agent.process().status_bytes("RssFile").expect("status");
    let peak = agent.process().status_bytes("VmHWM").expect("status");
    eprintln!(
        "{} items, {} raw bytes, {} stored; idle {:.1} MiB, peak {:.1} MiB (of it the program {:.1}), coordinator peak {:.1} MiB",
        ended["items"],
        ended["raw_bytes"],
        ended["stored_bytes"],
        idle as f64 / MIB as f64,
        peak as f64 / MIB as f64,
        program as f64 / MIB as f64,
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
