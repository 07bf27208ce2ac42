//! All of a guest's memory: our agent, which hashes, compresses, encrypts, sends, and waits for what was verified and stored,
//! beside AVML, which copies it to a local disk. One JSON line a run of both, and the medians. Everything is emulated: the rates
//! compare programs on this machine, they are not those of hardware.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::time::{Duration, Instant};

use exhibit_evidence::dsse::Envelope;
use exhibit_tests::{Fleet, GuestPlan, kit};
use serde_json::{Value, json};

const RUNS: usize = 3;
const MIB: f64 = (1 << 20) as f64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--list" || a == "--test") {
        return;
    }
    let memory_mib = if args.iter().any(|a| a == "--quick") { 192 } else { 512 };
    let disk = tempfile::NamedTempFile::new().expect("file");
    disk.as_file().set_len(u64::from(memory_mib + 64) << 20).expect("size");
    let mut plan = GuestPlan { memory_mib, ..GuestPlan::default() };
    plan.modules.push("virtio_blk".to_owned());
    plan.disks.push(disk.path().to_path_buf());
    plan.programs.push(kit().join("avml/bin/avml"));
    for run in 0..RUNS {
        let copy = "avml acquire --source /proc/kcore /dev/vda\nsync\n";
        let stamp = |word: &str| format!("echo \"{word} {run} $(cut -d' ' -f1 /proc/uptime)\"\n");
        plan.scenario.extend([stamp("AVML").as_str(), copy, &stamp("AVMLEND")]);
    }
    let fleet = Fleet::start();
    let (guest, agent) = fleet.guest_agent(plan);
    let time = |key: &str| guest.told(key)[0].parse::<f64>().expect("seconds");
    let peers: Vec<f64> = (0..RUNS).map(|n| time(&format!("AVMLEND {n}")) - time(&format!("AVML {n}"))).collect();
    let mut rates = Vec::new();
    for (run, peer_s) in peers.iter().enumerate() {
        let case = fleet.open_case();
        let before = fleet.coordinator_cpu_seconds();
        let begin = Instant::now();
        let collection = fleet.order_for(&case, &agent, &["--capture", "memory:priority=false"]);
        let ended = fleet.wait_closed(&collection, Duration::from_mins(10));
        let seconds = begin.elapsed().as_secs_f64();
        assert_eq!(ended["state"], "sealed", "{ended}");
        let items = fleet.items(&collection);
        let image = items.iter().find(|i| i["path"] == "memory.lime").expect("the image");
        let bytes = image["size"].as_f64().expect("size");
        let taken = |key: &str| image["taken"][key].as_f64().expect("clock");
        let reading = (taken("mono_end_ns") - taken("mono_start_ns")) / 1e9;
        let footprint = footprint(&fleet.case_dir(&case));
        let (rate, peer) = (bytes / MIB / reading, bytes / MIB / peer_s);
        rates.push((rate, peer));
        let gib = bytes / 1024.0 / MIB;
        println!(
            "{}",
            json!({
                "bench": "memory", "data": "guest", "run": run, "gib": gib, "mib_per_s": rate, "peer": "avml", "peer_mib_per_s": peer,
                "ratio_to_peer": rate / peer, "order_to_seal_s": seconds, "agent_cpu_ms_since_start": footprint["cpu_ms"],
                "coordinator_cpu_s_per_gib": (fleet.coordinator_cpu_seconds() - before) / gib,
                "agent_rss_mib": footprint["rss_peak_bytes"].as_f64().unwrap_or(0.0) / MIB,
            })
        );
    }
    rates.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let (rate, peer) = rates[RUNS / 2];
    eprintln!(
        "memory of a guest of {memory_mib} MiB, emulated: {rate:.1} MiB/s, AVML to a local disk {peer:.1} MiB/s, ratio {:.2}",
        rate / peer
    );
}

/// What the acquisition record says of the agent.
fn footprint(case: &std::path::Path) -> Value {
    let slots = std::fs::read_dir(case.join("log/seq")).expect("slots").filter_map(Result::ok);
    let payloads = slots.map(|s| Envelope::parse(&std::fs::read(s.path()).expect("slot")).expect("an envelope"));
    let statements = payloads.filter_map(|e| serde_json::from_slice::<Value>(e.unverified_payload()).ok());
    let found = statements.map(|s| s["predicate"]["footprint"].clone()).find(|f| !f.is_null());
    found.expect("an acquisition")
}
