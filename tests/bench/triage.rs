//! Triage of this whole host, end to end over mutual TLS into the local store, sealed and verified: seconds, processor
//! time and memory. Prints one JSON line a run on stdout and a table on stderr. `cargo bench -p exhibit-tests --bench triage`.
//!
//! Peer: `acquire` (PyPI) with its default profile in the same run, where it is installed; and for orientation UAC 3.3.0
//! `ir_triage` as measured on another 2-core virtual machine: 318 s, 98 MB.

use std::time::{Duration, Instant};

use exhibit_tests::{Fleet, Running};

const RUNS: usize = 3;
const UAC_SECONDS: f64 = 318.0;

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn main() {
    // `cargo test --benches` and nextest call with --list or --test: there is nothing to test here.
    if std::env::args().any(|a| a == "--list" || a == "--test") {
        return;
    }
    let fleet = Fleet::start();
    let agent = fleet.agent();
    std::thread::sleep(Duration::from_secs(2));
    let idle_rss = agent.process().status_bytes("VmRSS").unwrap_or(0);
    let idle_cpu = idle_cpu_percent(agent.process());
    let mut seconds = Vec::new();
    for run in 0..RUNS {
        let case = fleet.open_case();
        let cpu_before = agent.process().cpu_seconds();
        let begin = Instant::now();
        let collection = fleet.order(&case, &agent, &["--profile", "triage"]);
        let ended = fleet.wait_closed(&collection, Duration::from_mins(10));
        let took = begin.elapsed().as_secs_f64();
        seconds.push(took);
        let verified = fleet.verify(&case).code == 0;
        let line = serde_json::json!({
            "bench": "triage", "run": run, "seconds": round(took), "state": ended["state"], "verified": verified, "items": ended["items"],
            "raw_mib": mib(ended["raw_bytes"].as_u64().unwrap_or(0)), "stored_mib": mib(ended["stored_bytes"].as_u64().unwrap_or(0)),
            "agent_cpu_s": round(agent.process().cpu_seconds() - cpu_before),
            "agent_peak_rss_mib": mib(agent.process().status_bytes("VmHWM").unwrap_or(0)), "agent_idle_rss_mib": mib(idle_rss),
            "agent_idle_cpu_percent": idle_cpu, "coordinator_peak_rss_mib": mib(fleet.coordinator_memory("VmHWM")),
            "peer": "UAC 3.3.0 ir_triage (published)", "peer_seconds": UAC_SECONDS, "ratio_to_peer": round(took / UAC_SECONDS),
        });
        println!("{line}");
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    eprintln!("\ntriage of this host      median {median:.2} s (min {:.2}, max {:.2})", seconds[0], seconds[seconds.len() - 1]);
    eprintln!("agent idle               {:.1} MiB, {idle_cpu:.3} % of one processor", mib(idle_rss));
    eprintln!("agent peak               {:.1} MiB", mib(agent.process().status_bytes("VmHWM").unwrap_or(0)));
    match acquire() {
        Some(peer) => eprintln!("acquire, default profile {peer:.2} s (ratio {:.2})", median / peer),
        None => eprintln!("acquire                  not installed (pip install acquire)"),
    }
    eprintln!("UAC 3.3.0 ir_triage      {UAC_SECONDS:.0} s as published (ratio {:.3})", median / UAC_SECONDS);
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn mib(bytes: u64) -> f64 {
    round(bytes as f64 / f64::from(1 << 20))
}

/// Percent of one processor that an idle agent uses, over ten seconds. A tick is 10 ms, so 0.1 % is one tick.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn idle_cpu_percent(process: &Running) -> f64 {
    let before = process.cpu_seconds();
    std::thread::sleep(Duration::from_secs(10));
    (process.cpu_seconds() - before) / 10.0 * 100.0
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn acquire() -> Option<f64> {
    let out = tempfile::tempdir().ok()?;
    let begin = Instant::now();
    let done = std::process::Command::new("acquire")
        .args(["local", "-p", "default", "--force-fallback", "-ot", "tar", "--compress", "-o"])
        .arg(out.path())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .ok()?;
    done.success().then(|| begin.elapsed().as_secs_f64())
}
