//! One run of the product: real processes, a new deployment each time, so that memory and processor time are this run's.

use std::time::{Duration, Instant};

use exhibit_tests::{Agent, DelayProxy, Finished, Fleet};

use crate::data::{Data, need_space};
use crate::receiver::{Receiver, Requests};

/// How often the coordinator's log is looked at for the end of a collection. Looking every 2 ms took a fiftieth of the processors
/// from what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A run that takes longer hangs.
const RUN_MAX: Duration = Duration::from_mins(30);

/// How the product is run.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Agents that collect the same data at once.
    pub agents: usize,
    /// Round trip between agent and coordinator.
    pub rtt: Duration,
    /// Prove the case afterwards; takes as long as reading it.
    pub verify: bool,
    /// Store into an S3 server on loopback instead of a folder.
    pub s3: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self { agents: 1, rtt: Duration::ZERO, verify: false, s3: false }
    }
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Seconds from the start of the command `exhibit collect` until the coordinator logged the last collection as closed:
    /// seal durable in the case's log, row committed.
    pub seconds: f64,
    /// Of these, the command line's own: start, connection, signature, the coordinator's answer.
    pub command_s: f64,
    /// Processor time of the agents together.
    pub agent_cpu_s: f64,
    /// Processor time of the coordinator.
    pub coordinator_cpu_s: f64,
    /// Peak resident memory (`VmHWM`) of the agent that took most, in MiB.
    pub agent_rss_mib: f64,
    /// Peak resident memory of the coordinator, in MiB.
    pub coordinator_rss_mib: f64,
    /// What the S3 server was asked from the order to the seal, the order's own records included.
    pub requests: Option<Requests>,
    /// Processor time of the S3 server.
    pub server_cpu_s: f64,
}

/// Collects the data once, end to end.
pub fn run(data: &Data, setting: Setting) -> Run {
    data.warm();
    let server = setting.s3.then(Receiver::start);
    let endpoint = server.as_ref().map(Receiver::endpoint);
    let fleet = match &endpoint {
        Some(endpoint) => Fleet::prepare_with(&["--store", "s3", "--bucket", "bench", "--endpoint", endpoint, "--dangerous-allow-http"]),
        None => Fleet::prepare(),
    };
    fleet.start_coordinator();
    let stored_at_most = if data.name == "sparse" { 64 << 20 } else { data.bytes };
    need_space(fleet.path(), stored_at_most * setting.agents as u64);
    let mut agents: Vec<Agent> = (0..setting.agents).map(|_| fleet.agent()).collect();
    let line = (!setting.rtt.is_zero()).then(|| lengthen(&fleet, &mut agents, setting.rtt));
    let case = fleet.open_case();
    let before: f64 = agents.iter().map(|a| a.process().cpu_seconds()).sum();
    let coordinator_before = fleet.coordinator_cpu_seconds();
    let (asked_before, own_before) = (server.as_ref().map(Receiver::requests).unwrap_or_default(), own_cpu_seconds());

    let begin = Instant::now();
    let collections = order(&fleet, &case, &agents, data);
    let command_s = begin.elapsed().as_secs_f64();
    wait_closed(&fleet, &collections);
    let seconds = begin.elapsed().as_secs_f64();

    let requests = server.as_ref().map(|s| s.requests().since(asked_before));
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let run = Run {
        seconds,
        command_s,
        agent_cpu_s: agents.iter().map(|a| a.process().cpu_seconds()).sum::<f64>() - before,
        coordinator_cpu_s: fleet.coordinator_cpu_seconds() - coordinator_before,
        agent_rss_mib: agents.iter().filter_map(|a| a.process().status_bytes("VmHWM")).max().map_or(0.0, mib),
        coordinator_rss_mib: mib(fleet.coordinator_memory("VmHWM")),
        requests,
        // The server is threads of this process, which else only waits and looks at the log.
        server_cpu_s: if setting.s3 { own_cpu_seconds() - own_before } else { 0.0 },
    };
    drop(line);
    check(&fleet, &collections, data);
    if setting.verify && setting.s3 {
        // There is no folder to verify: the store is read again.
        let mut command = fleet.program("exhibit-coordinator");
        let _ = Finished::of(command.args(["store", "verify", "--all", "--dir"]).arg(fleet.coordinator_dir())).ok();
    } else if setting.verify {
        let _ = fleet.verify(&case).expect_sound();
    }
    run
}

/// Processor time of this process, threads that ended included, in seconds.
fn own_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Puts a long line before the coordinator; the agents come back through it.
fn lengthen(fleet: &Fleet, agents: &mut [Agent], rtt: Duration) -> DelayProxy {
    let line = DelayProxy::start(&fleet.address(), rtt);
    for agent in agents {
        agent.connect_through(&line.address());
        let _ = agent.terminate();
        agent.restart();
        fleet.wait_online(agent);
    }
    line
}

/// Sends one order for all agents; their collections.
fn order(fleet: &Fleet, case: &str, agents: &[Agent], data: &Data) -> Vec<String> {
    // Limits are for hosts; here everything is wanted.
    let capture = format!("files:paths={},max_size=1024GiB,max_total=1024GiB", data.pattern());
    let mut args = vec!["collect", "--case", case, "--reason", "benchmark", "--capture", &capture];
    for agent in agents {
        args.extend(["--agent", &agent.id]);
    }
    let made = fleet.exhibit(&args).ok().json();
    let collections = made[0]["collections"].as_array().expect("collections");
    collections.iter().map(|c| c["collection"].as_str().expect("collection").to_owned()).collect()
}

/// Waits for the coordinator's word `closed` on every collection. Its log is asked, not `exhibit watch`, which shows
/// changes up to 0.2 s late and takes processor time.
fn wait_closed(fleet: &Fleet, collections: &[String]) {
    let begin = Instant::now();
    loop {
        let log = fleet.coordinator_log();
        let closed = |id: &String| log.lines().any(|l| l.contains(" closed ") && l.contains(id.as_str()));
        if collections.iter().all(closed) {
            return;
        }
        assert!(begin.elapsed() < RUN_MAX, "not closed after {RUN_MAX:?}: {log}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Insists that everything was taken and sealed, and that the digest of a large file is what another program says.
fn check(fleet: &Fleet, collections: &[String], data: &Data) {
    for id in collections {
        let ended = fleet.collection(id);
        assert_eq!(ended["state"], "sealed", "{ended}");
        let taken = ended["by_status"]["collected"].as_u64().expect("collected");
        assert!(taken >= data.files.len() as u64, "{taken} items collected of {} files: {ended}", data.files.len());
        let raw = ended["raw_bytes"].as_u64().expect("raw_bytes");
        assert!(data.name == "sparse" || raw >= data.bytes, "{raw} bytes came of {}: {ended}", data.bytes);
        if data.is_one_file() {
            let path = data.root.to_str().expect("a path in UTF-8");
            let listed = fleet.exhibit(&["items", "--collection", id, "--path", path, "--reason", "benchmark"]).ok().json();
            let item = listed.first().unwrap_or_else(|| panic!("{path} is not among the items"));
            assert_eq!(item["sha256"], data.sha256(), "{item}");
        }
    }
}
