//! Whatever happens to the agent, nobody stays stopped: the real program is killed in every phase of a capture of memory.

use std::io::BufRead as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Threads that count, so that a stop shows.
const BUSY: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static void *run(void *arg) { (void)arg; for (;;) { struct timespec t = { 0, 1000000 }; nanosleep(&t, 0); } }
int main(void) {
    memset(malloc(64 << 20), 7, 64 << 20);
    for (int n = 0; n < 20; n++) { pthread_t t; pthread_create(&t, 0, run, 0); }
    puts("ready"); fflush(stdout);
    for (;;) pause();
}
"#;

/// Killed and reaped when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn target(dir: &Path) -> Running {
    let (source, program) = (dir.join("busy.c"), dir.join("busy"));
    std::fs::write(&source, BUSY).expect("source");
    assert!(Command::new("gcc").args(["-w", "-pthread", "-o"]).arg(&program).arg(&source).status().expect("gcc").success());
    let mut child = Command::new(&program).stdout(Stdio::piped()).spawn().expect("started");
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("ready");
    Running(child)
}

/// The letters of the states of all threads.
fn states(pid: u32) -> String {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return String::new() };
    tasks
        .filter_map(Result::ok)
        .filter_map(|t| std::fs::read_to_string(t.path().join("stat")).ok())
        .filter_map(|s| s.rsplit(") ").next().and_then(|r| r.chars().next()))
        .collect()
}

fn agent(out: &Path, capture: &str) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exhibit-agent"));
    command.args(["collect", "--offline", "--read-rate", "8M", "--capture", capture, "--out"]).arg(out);
    Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("agent"))
}

#[allow(clippy::disallowed_methods, reason = "a test waits for other processes and measures time")]
fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[allow(clippy::disallowed_methods, reason = "a test lets time pass")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// All threads run, are not traced, and go on doing so.
fn runs_on(pid: u32, what: &str) {
    within(Duration::from_secs(2), what, || {
        let states = states(pid);
        states.len() == 21 && !states.contains(['t', 'T'])
    });
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    assert!(status.contains("TracerPid:\t0"), "{what}: {status}");
}

#[test]
fn killed_while_everything_stands() {
    let dir = tempfile::tempdir().expect("folder");
    let target = target(dir.path());
    let pid = target.0.id();
    for (n, signal) in ["KILL", "TERM", "INT"].into_iter().enumerate() {
        // At 8 MiB a second the copy takes longer than the test: the process stands until the agent is gone.
        let agent = agent(&dir.path().join(n.to_string()), &format!("process-memory:pid={pid},mode=atomic,deadline=120s"));
        within(Duration::from_secs(10), "it stands", || states(pid).chars().all(|c| c == 't'));
        wait(Duration::from_millis(300));
        assert!(states(pid).chars().all(|c| c == 't'), "it stands until the copy is done");
        let killed = Command::new("kill").args(["-s", signal, &agent.0.id().to_string()]).status().expect("kill");
        assert!(killed.success());
        runs_on(pid, &format!("after SIG{signal}"));
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test measures time")]
fn killed_at_any_moment_of_stopping() {
    let dir = tempfile::tempdir().expect("folder");
    let target = target(dir.path());
    let pid = target.0.id();
    // How long it takes from the start until it stands depends on the machine and what else it does: two thirds of the moments
    // lie before that, one third behind.
    let begin = Instant::now();
    let first = agent(&dir.path().join("first"), &format!("process-memory:pid={pid},mode=atomic,deadline=60s"));
    within(Duration::from_secs(30), "it stands", || states(pid).contains('t'));
    let until_it_stands = begin.elapsed();
    drop(first);
    runs_on(pid, "the first time");
    let mut seen_standing = 0;
    for n in 0..60_u32 {
        let mode = if n % 2 == 0 { "fast" } else { "atomic" };
        let mut agent = agent(&dir.path().join(n.to_string()), &format!("process-memory:pid={pid},mode={mode},deadline=60s"));
        wait(until_it_stands * n / 40);
        seen_standing += u32::from(states(pid).contains('t'));
        agent.0.kill().expect("killed");
        agent.0.wait().expect("reaped");
        runs_on(pid, &format!("killed at moment {n}, mode {mode}"));
    }
    println!("{seen_standing} of 60 times it was standing when the agent was killed");
    assert!(seen_standing > 0, "it was never killed in the middle");
}

#[test]
fn a_frozen_group_is_thawed_when_the_agent_is_killed() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let point = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).and_then(|l| l.split(' ').nth(1));
    let point = point.expect("this test needs cgroup v2: mount -t cgroup2 cgroup2 DIR");
    let name = format!("/exhibit-frozen-{}", std::process::id());
    let group = std::path::PathBuf::from(format!("{point}{name}"));
    std::fs::create_dir(&group).expect("this test needs to make a group of cgroup v2: run it as root");
    let dir = tempfile::tempdir().expect("folder");
    let target = target(dir.path());
    std::fs::write(group.join("cgroup.procs"), target.0.id().to_string()).expect("moved");
    let frozen = || std::fs::read_to_string(group.join("cgroup.events")).expect("events").contains("frozen 1");
    for n in 0..3_u64 {
        let mut agent = agent(&dir.path().join(n.to_string()), &format!("process-memory:cgroup={name},mode=atomic,deadline=120s"));
        within(Duration::from_secs(10), "it is frozen", frozen);
        wait(Duration::from_millis(100 * n));
        agent.0.kill().expect("killed");
        agent.0.wait().expect("reaped");
        within(Duration::from_secs(2), "it is thawed", || !frozen());
        runs_on(target.0.id(), "after the frost");
    }
    drop(target);
    within(Duration::from_secs(2), "the group is gone", || std::fs::remove_dir(&group).is_ok());
}

#[test]
fn all_takes_every_process_but_the_agent() {
    let dir = tempfile::tempdir().expect("folder");
    drop(target(dir.path()));
    let out = dir.path().join("out");
    // In a PID namespace of its own: the machine's other processes are not this test's to stop.
    let script = format!(
        "{busy} & {busy} & sleep 0.3; {agent} collect --offline --capture process-memory:all=true --out {out}; kill %1 %2",
        busy = dir.path().join("busy").display(),
        agent = env!("CARGO_BIN_EXE_exhibit-agent"),
        out = out.display(),
    );
    let done = Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "bash", "-c", &script]).output().expect("unshare");
    let manifest = std::fs::read_to_string(out.join("manifest.jsonl")).unwrap_or_else(|e| panic!("{e}: {done:?}"));
    let cores: Vec<&str> = manifest.lines().filter(|l| l.contains("/core\"")).collect();
    // The shell and the two programs; the agent is a child of the shell as well.
    assert_eq!(cores.len(), 3, "{cores:#?}");
    assert!(cores.iter().all(|l| l.contains("\"status\":\"collected\"")), "{cores:#?}");
    assert_eq!(cores.iter().filter(|l| l.contains("\"threads\":\"21\"")).count(), 2, "{cores:#?}");
}

/// What a policy keeps back of the environment is kept back of cores; an image says that it is not.
#[test]
fn a_policy_that_keeps_the_environment_back_reaches_cores_and_images() {
    let dir = tempfile::tempdir().expect("folder");
    let (policy, image, out) = (dir.path().join("policy.toml"), dir.path().join("disk.img"), dir.path().join("out"));
    std::fs::write(&policy, "redact_environ = [\"*TOKEN*\"]\n").expect("policy");
    std::fs::write(&image, vec![7; 64 << 10]).expect("image");
    let sleeper = Running(Command::new("/bin/sleep").arg("300").env("APP_TOKEN", "hunter2").spawn().expect("sleep"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_exhibit-agent"));
    command.args(["collect", "--offline", "--capture", &format!("process-memory:pid={},files=false", sleeper.0.id())]);
    command.args(["--capture", &format!("disk:path={}", image.display()), "--policy"]).arg(&policy).arg("--out").arg(&out);
    let done = command.output().expect("agent");
    let manifest = std::fs::read_to_string(out.join("manifest.jsonl")).unwrap_or_else(|e| panic!("{e}: {done:?}"));
    let line = |what: &str| manifest.lines().find(|l| l.contains(what)).unwrap_or_else(|| panic!("no {what}: {manifest}"));
    assert!(line("/core\"").contains("\"redacted_bytes\""), "{manifest}");
    assert!(line("disk.img\",").contains("\"not_redacted\""), "{manifest}");
}
