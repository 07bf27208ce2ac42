//! The memory of processes is ordered, streamed, sealed, verified and restored; gdb opens what `exhibit get` wrote, and the
//! agent stays small whatever the process looks like.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use exhibit_tests::{Finished, Fleet};

const MIB: u64 = 1 << 20;

/// Threads that wait and a marker in the heap; with an argument also so many mappings, next to each other and not alike.
const PROGRAM: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
char *marker;
static void *waiter(void *arg) { for (;;) pause(); }
int main(int argc, char **argv) {
    marker = malloc(4096); strcpy(marker, "ORDERED-AND-SEALED");
    int count = argc > 1 ? atoi(argv[1]) : 0;
    for (int n = 0; n < count; n++) {
        int prot = n % 2 ? PROT_READ | PROT_WRITE : PROT_READ;
        char *page = mmap(0, 8192, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED) { perror("mmap"); return 1; }
        if (n % 2) page[0] = 1;
    }
    for (long n = 0; n < 4; n++) { pthread_t t; pthread_create(&t, 0, waiter, (void *)n); }
    puts("ready"); fflush(stdout);
    for (;;) pause();
}
"#;

struct Target(Child);

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Target {
    fn start(program: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(program).args(args).stdout(Stdio::piped()).spawn().expect("started");
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("ready");
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

fn compile(dir: &Path) -> PathBuf {
    let (source, program) = (dir.join("target.c"), dir.join("target"));
    std::fs::write(&source, PROGRAM).expect("source");
    assert!(Command::new("gcc").args(["-g", "-w", "-pthread", "-o"]).arg(&program).arg(&source).status().expect("gcc").success());
    program
}

#[test]
fn gdb_opens_what_was_ordered_sealed_and_restored() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path());
    let target = Target::start(&program, &[]);
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", &format!("process-memory:pid={}", target.pid())]);
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", fleet.coordinator_log());
    let _ = fleet.verify(&case).expect_sound();
    let items = fleet.items(ended["collection"].as_str().expect("id"));
    let path = format!("/proc/{}/core", target.pid());
    let core = items.iter().find(|i| i["path"] == path.as_str()).expect("the core");
    assert_eq!(core["status"], "collected", "{core}");
    let out = dir.path().join("restored");
    let id = core["id"].as_str().expect("id");
    let _ = fleet.exhibit(&["get", "--out", out.to_str().expect("UTF-8"), "--reason", "test", id]).ok();
    let restored = out.join("process-memory").join(path.trim_start_matches('/'));
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-q", "-ex", "info threads", "-ex", "x/s marker", "-ex", "bt", "-se"])
        .arg(&program)
        .arg("-c")
        .arg(&restored);
    let said = Finished::of(gdb.env("HOME", "/nonexistent"));
    let text = said.text();
    assert!(
        text.matches("LWP ").count() >= 5 && text.contains("ORDERED-AND-SEALED") && text.contains("in main ("),
        "{text}{}",
        said.stderr
    );
    // The host's policy reaches what its orders make: the environment is kept back, and the item says so.
    std::fs::write(agent.dir.join("policy.toml"), "redact_environ = [\"*TOKEN*\"]\n").expect("policy");
    let ended = fleet.collect(&case, &agent, &["--capture", &format!("process-memory:pid={},files=false", target.pid())]);
    let items = fleet.items(ended["collection"].as_str().expect("id"));
    let core = items.iter().find(|i| i["path"] == path.as_str()).expect("the core");
    assert!(core["status"] == "partial" && core["facts"]["redacted_bytes"].is_string(), "{core}");
    assert!(core["reason"].as_str().is_some_and(|r| r.contains("redact_environ")), "{core}");
    let _ = fleet.verify(&case).expect_sound();
}

#[test]
fn the_agent_stays_small_whatever_the_process_looks_like() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path());
    let target = Target::start(&program, &["60000"]);
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", &format!("process-memory:pid={}", target.pid())]);
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", fleet.coordinator_log());
    let peak = agent.process().status_bytes("VmHWM").expect("status");
    eprintln!("60,000 mappings: agent peak {:.1} MiB", peak as f64 / MIB as f64);
    assert!(peak <= 48 * MIB, "{} MiB", peak / MIB);
    let items = fleet.items(ended["collection"].as_str().expect("id"));
    let core = items.iter().find(|i| i["path"].as_str().is_some_and(|p| p.ends_with("/core"))).expect("the core");
    // A table of 60,000 mappings takes a busy machine so long that the process is not kept standing for it.
    let late = core["reason"].as_str().is_some_and(|r| r.starts_with("the mappings are of a moment after the registers"));
    assert!(core["status"] == "collected" || late, "{core}");
    assert!(core["facts"]["mappings"].as_str().and_then(|n| n.parse::<u32>().ok()) > Some(30_000), "{core}");
}
