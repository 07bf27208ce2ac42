//! Seeded runs: many different plans of faults against the whole way of a collection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use exhibit_agent::pipeline::Memory;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::drive::{self, Done};
use crate::plan::{Fault, plan};
use crate::world::{MEMORY, Template};
use crate::{heard, proxy};

/// Seeds that every change is tried with.
const SEEDS: u64 = 500;
/// With `tests/run --quick`.
const SEEDS_QUICK: u64 = 60;
/// Four full segments and a rest.
const NOISE_BYTES: usize = 18 << 20;
/// What the agent sends about.
const SENT_BYTES: u64 = 18_900_000;
/// Runs at once: most of a run is waiting.
const AT_ONCE: usize = 16;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// What all runs together were like.
#[derive(Default)]
struct Sum {
    done: Vec<Done>,
    single: Vec<u64>,
    kinds: BTreeMap<String, u32>,
    failed: Vec<String>,
}

impl Sum {
    fn print(&mut self, what: &str, time: Duration) {
        let ms = |mut all: Vec<Duration>| {
            all.sort_unstable();
            let at = |percent: usize| all.get((all.len() * percent / 100).min(all.len().saturating_sub(1))).map_or(0, Duration::as_millis);
            format!("median {} ms, 99 % {} ms, longest {} ms", at(50), at(99), at(100))
        };
        eprintln!("{what}: {} runs in {} s, {} failed", self.done.len() + self.failed.len(), time.as_secs(), self.failed.len());
        eprintln!("  from order to end: {}", ms(self.done.iter().map(|d| d.time).collect()));
        eprintln!("  from the end of the faults: {}", ms(self.done.iter().map(|d| d.recovery).filter(|t| !t.is_zero()).collect()));
        self.single.sort_unstable();
        eprintln!("  sent again after a single fault: at most {} bytes in {} runs", self.single.last().unwrap_or(&0), self.single.len());
        eprintln!("  connections: {}; faults: {:?}", self.done.iter().map(|d| d.connections).sum::<u64>(), self.kinds);
    }
}

fn kind(fault: &Fault) -> String {
    match fault {
        Fault::Net(proxy::NetFault { what, .. }) => format!("{what:?}").split('(').next().unwrap_or_default().to_lowercase(),
        other => format!("{other:?}").split('(').next().unwrap_or_default().to_lowercase(),
    }
}

async fn one(template: &Arc<Template>, seed: u64, sum: &Mutex<Sum>) {
    let faults = plan(seed, SENT_BYTES);
    let outcome = drive::in_new_world(template, &faults).await.and_then(|done| {
        // Of what is sent beyond the evidence, TLS and HTTP/2 take less than 1 %, a connection less than 64 KiB.
        let fixed = done.stored.bytes + done.stored.bytes / 100 + done.connections * (64 << 10);
        let again = done.sent_bytes.saturating_sub(fixed);
        // Noise is one entry of a plan and many faults.
        if faults.len() == 1 && !matches!(faults[0], Fault::Noise(..)) {
            sum.lock().expect("lock").single.push(again);
            if again > (MEMORY.segments_in_flight * Memory::SEGMENT_BYTES) as u64 {
                return Err(format!("{again} bytes were sent again after a single fault: more than one window"));
            }
        }
        if done.stored.streams != 1 {
            return Err(format!("the agent lived and made {} streams", done.stored.streams));
        }
        Ok(done)
    });
    let mut sum = sum.lock().expect("lock");
    for fault in &faults {
        *sum.kinds.entry(kind(fault)).or_default() += 1;
    }
    match outcome {
        Ok(done) => sum.done.push(done),
        Err(why) => {
            let text = format!("EXHIBIT_FAULT_SEED={seed}\n  plan: {faults:#?}\n  {why}");
            eprintln!("{text}");
            sum.failed.push(text);
        }
    }
}

/// Runs seeds until there are none, or the time is up.
async fn all(what: &str, seeds: impl Iterator<Item = u64>, until: Option<Instant>) {
    let replay = number("EXHIBIT_FAULT_SEED");
    heard::listen(replay.is_some());
    let template = Template::make(NOISE_BYTES).await;
    let (sum, places) = (Arc::new(Mutex::new(Sum::default())), Arc::new(Semaphore::new(AT_ONCE)));
    let begun = Instant::now();
    let seeds: Box<dyn Iterator<Item = u64>> = if let Some(seed) = replay { Box::new(std::iter::once(seed)) } else { Box::new(seeds) };
    let mut runs = tokio::task::JoinSet::new();
    for seed in seeds {
        let place = Arc::clone(&places).acquire_owned().await.expect("open");
        if until.is_some_and(|u| Instant::now() >= u) {
            break;
        }
        let (template, sum) = (Arc::clone(&template), Arc::clone(&sum));
        runs.spawn(async move {
            one(&template, seed, &sum).await;
            drop(place);
        });
        while runs.try_join_next().is_some() {}
    }
    while runs.join_next().await.is_some() {}
    let mut sum = sum.lock().expect("lock");
    sum.print(what, begun.elapsed());
    assert!(sum.failed.is_empty(), "{} of {} runs failed:\n{}", sum.failed.len(), sum.failed.len() + sum.done.len(), sum.failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeds() {
    let count = number("EXHIBIT_FAULT_SEEDS").unwrap_or(if exhibit_tests::is_quick() { SEEDS_QUICK } else { SEEDS });
    all("seeds", 1..=count, None).await;
}

/// `tests/run --soak [SECONDS]`: the seeds beyond those of every change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as it is told to: tests/run --soak"]
async fn soak() {
    let seconds = number("EXHIBIT_SOAK_S").unwrap_or(1_800);
    all("soak", SEEDS + 1.., Some(Instant::now() + Duration::from_secs(seconds))).await;
}
