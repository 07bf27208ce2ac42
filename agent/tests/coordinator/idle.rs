//! The program itself: what it takes while it waits and while it collects, and how it ends.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use exhibit_agent::config;
use exhibit_agent::pipeline::Memory;
use exhibit_evidence::profile::Profile;
use exhibit_proto::agent::v1::session_response;
use tokio::process::{Child, Command};

use crate::fake::Fake;
use crate::world::{World, files_below, noise};

const IDLE_BYTES_MAX: u64 = 20 << 20;

fn agent(world: &World, fake: &Fake) -> Child {
    std::fs::write(world.dir().join(config::FILE), config::text(&fake.address)).expect("written");
    Command::new(env!("CARGO_BIN_EXE_exhibit-agent"))
        .args(["run", "--dir"])
        .arg(world.dir())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("starts")
}

/// A number of /proc/<pid>/status, bytes.
fn status(child: &Child, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", child.id().expect("runs"))).expect("status");
    let line = text.lines().find_map(|l| l.strip_prefix(key)).expect(key);
    line.trim_start_matches(':').split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).expect("a number") << 10
}

async fn end(mut child: Child) {
    let pid = rustix::process::Pid::from_raw(child.id().expect("runs") as i32).expect("pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    let code = tokio::time::timeout(Duration::from_secs(30), child.wait()).await.expect("ends").expect("waited");
    assert_eq!(code.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_its_promises_idle_collecting_and_after() {
    let world = Arc::new(World::new());
    let fake = Fake::start(&world).await;
    fake.known().forget_bytes = true;
    let child = agent(&world, &fake);
    fake.until("a session", |k| !k.hellos.is_empty()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let idle = status(&child, "VmRSS");

    // The worst case: nothing compresses, so segments are as large as they get.
    let dir = tempfile::tempdir().expect("folder");
    for n in 0..12 {
        std::fs::write(dir.path().join(n.to_string()), noise(8 << 20, n)).expect("written");
    }
    fake.say(session_response::Kind::Offer(world.order(files_below(dir.path()), |_| {}).offer)).await;
    fake.until("the finish", |k| k.finish.is_some()).await;
    let worst = status(&child, "VmHWM");
    let triage = Profile::find("triage").expect("profile").captures();
    fake.say(session_response::Kind::Offer(world.order(triage, |_| {}).offer)).await;
    fake.until("the finish of triage", |k| k.finished.len() == 2).await;
    let peak = status(&child, "VmHWM");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = status(&child, "VmRSS");
    let mib = |b: u64| b as f64 / f64::from(1 << 20);
    println!("idle {:.1} MiB, incompressible {:.1} MiB, triage {:.1} MiB, after {:.1} MiB", mib(idle), mib(worst), mib(peak), mib(after));
    assert!(idle <= IDLE_BYTES_MAX, "idle: {idle} bytes");
    assert!(peak <= Memory::PROMISE_BYTES as u64, "collecting: {peak} bytes");
    assert!(after <= IDLE_BYTES_MAX, "after a collection: {after} bytes");
    end(child).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_with_the_same_identity_is_refused() {
    let world = Arc::new(World::new());
    let fake = Fake::start(&world).await;
    let first = agent(&world, &fake);
    fake.until("a session", |k| !k.hellos.is_empty()).await;
    let second = Command::new(env!("CARGO_BIN_EXE_exhibit-agent")).args(["run", "--dir"]).arg(world.dir()).output().await.expect("ran");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(64), "{said}");
    assert!(said.contains("in use by another"), "{said}");
    end(first).await;
}
