//! The memory of one process: how long it stands, and how fast its memory is copied, against gcore in the same run. One JSON
//! line a run on standard output, a table on standard error. `cargo bench -p exhibit-tests --bench process_memory`.
//!
//! The process has 1 GiB of memory, half of it noise, and five threads that look at the clock every 200 us: the longest time
//! between two looks is what a user of it would notice. `idle` is the same over five seconds in which nothing happens: what the
//! machine itself does to it. `stopped_us` is what the agent says for how long a thread may have stood. gcore writes an ELF core to a file, uncompressed and without a digest; the
//! agent (offline, into a folder on the same disk) hashes, compresses and syncs.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

const RUNS: usize = 5;
const MIB: usize = 1024;

struct Heart {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Drop for Heart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Heart {
    fn start(dir: &Path) -> Self {
        let (source, program) = (dir.join("heartbeat.c"), dir.join("heartbeat"));
        std::fs::write(&source, include_str!("../../agent/src/capture/process_memory/tests/heartbeat.c")).expect("source");
        assert!(Command::new("gcc").args(["-O1", "-pthread", "-o"]).arg(&program).arg(&source).status().expect("gcc").success());
        let mut command = Command::new(&program);
        command.args([&MIB.to_string(), "5"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("heartbeat");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let mut heart = Self { child, out };
        assert_eq!(heart.line(), "ready");
        heart
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// The longest time between two beats since this was asked last, microseconds.
    fn longest_us(&mut self) -> u64 {
        self.child.stdin.as_mut().expect("piped").write_all(b"\n").expect("asked");
        self.line().parse().expect("a number")
    }
}

/// The longest gap and MiB a second while something runs.
fn measure(heart: &mut Heart, what: &mut Command) -> (u64, f64) {
    let _ = heart.longest_us();
    let begin = Instant::now();
    let done = what.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("runs");
    let seconds = begin.elapsed().as_secs_f64();
    assert!(done.success(), "{what:?}");
    (heart.longest_us(), MIB as f64 / seconds)
}

fn main() {
    // `cargo test --benches` and nextest call with --list or --test: there is nothing to test here.
    if std::env::args().any(|a| a == "--list" || a == "--test") {
        return;
    }
    let dir = tempfile::tempdir().expect("folder");
    let mut heart = Heart::start(dir.path());
    let pid = heart.child.id().to_string();
    let agent = exhibit_tests::programs().join("exhibit-agent");
    let mut rows: [Vec<(u64, f64)>; 3] = Default::default();
    let mut idle = Vec::new();
    let mut stopped = Vec::new();
    for run in 0..RUNS {
        let _ = heart.longest_us();
        std::thread::sleep(std::time::Duration::from_secs(5));
        idle.push(heart.longest_us());
        for (n, mode) in ["fast", "atomic"].into_iter().enumerate() {
            let out = dir.path().join(format!("{mode}-{run}"));
            let mut command = Command::new(&agent);
            let capture = format!("process-memory:pid={pid},mode={mode},deadline=60s");
            command.args(["collect", "--offline", "--capture", &capture, "--out"]).arg(&out);
            rows[n].push(measure(&mut heart, &mut command));
            if mode == "fast" {
                stopped.push(stopped_us(&out));
            }
            std::fs::remove_dir_all(&out).expect("removed");
        }
        let out = dir.path().join("gcore");
        rows[2].push(measure(&mut heart, Command::new("gcore").arg("-o").arg(&out).arg(&pid)));
        std::fs::remove_file(dir.path().join(format!("gcore.{pid}"))).expect("removed");
        let of = |n: usize| serde_json::json!({ "longest_stall_us": rows[n][run].0, "mib_per_s": rows[n][run].1.round() });
        let line = serde_json::json!({
            "bench": "process-memory", "run": run, "fast": of(0), "atomic": of(1), "gcore": of(2), "idle_us": idle[run], "stopped_us": stopped[run],
        });
        println!("{line}");
    }
    idle.sort_unstable();
    stopped.sort_unstable();
    eprintln!("\n1 GiB, 5 threads, {RUNS} runs: median (worst)\n             longest stall            MiB/s");
    for (name, row) in ["fast", "atomic", "gcore"].iter().zip(&mut rows) {
        row.sort_by_key(|(us, _)| *us);
        let (median_us, worst_us) = (row[RUNS / 2].0, row[RUNS - 1].0);
        let mut rates: Vec<f64> = row.iter().map(|(_, rate)| *rate).collect();
        rates.sort_by(f64::total_cmp);
        let (median, worst) = (rates[RUNS / 2], rates[0]);
        eprintln!("{name:<8} {:>9.2} ms ({:>8.2} ms)   {median:>6.0} ({worst:.0})", median_us as f64 / 1e3, worst_us as f64 / 1e3);
    }
    eprintln!("idle     {:>9.2} ms ({:>8.2} ms)", idle[RUNS / 2] as f64 / 1e3, idle[RUNS - 1] as f64 / 1e3);
    eprintln!(
        "stood    {:>9.2} ms ({:>8.2} ms)   in mode fast, as the agent says",
        stopped[RUNS / 2] as f64 / 1e3,
        stopped[RUNS - 1] as f64 / 1e3
    );
}

/// The fact of the core's line in the manifest.
fn stopped_us(out: &Path) -> u64 {
    let manifest = std::fs::read_to_string(out.join("manifest.jsonl")).expect("manifest");
    let mut lines = manifest.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    lines.find_map(|l| l["facts"]["stopped_us"].as_str()?.parse().ok()).expect("the core says it")
}
