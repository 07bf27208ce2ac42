//! Three coordinators over one PostgreSQL and one store, agents with uploads running, and every few seconds something dies:
//! a coordinator without warning, one in order, or the database.
//!
//! `EXHIBIT_FAULT_SEED` chooses the run, `EXHIBIT_SOAK_S` its length in seconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_tests::{Agent, Fleet, Replica, is_quick};

use crate::checks::contents_of;
use crate::plan::Dice;

/// One segment and a rest for each agent: several collections are made in a run.
const NOISE_BYTES: usize = 9 << 20;
/// A collection ends within this time after the last fault: a right of a coordinator that nobody saw die lasts a minute.
const CLOSED_WITHIN: Duration = Duration::from_mins(3);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// The three, and the database.
struct Storm {
    fleet: Fleet,
    others: Vec<Replica>,
    server: Scratch,
    runtime: tokio::runtime::Runtime,
    dice: Dice,
    done: BTreeMap<&'static str, u32>,
}

impl Storm {
    /// Something dies, and comes back after a moment.
    #[allow(clippy::disallowed_methods, reason = "a random moment is a wait")]
    fn strike(&mut self) {
        let pause = self.dice.ms(1, 1_500);
        let which = self.dice.below(3) as usize;
        let what = match (self.dice.below(8), which) {
            (0, _) => {
                self.server.crash();
                std::thread::sleep(pause);
                self.runtime.block_on(self.server.resume());
                "the database crashed"
            }
            (1, 0) => {
                assert_eq!(self.fleet.terminate_coordinator(), 0, "{}", self.fleet.coordinator_log());
                self.fleet.start_coordinator();
                "restarted in order"
            }
            (1, n) => {
                assert_eq!(self.others[n - 1].terminate(), 0, "{}", self.others[n - 1].said());
                self.fleet.start_replica(&mut self.others[n - 1]);
                "restarted in order"
            }
            (_, 0) => {
                self.fleet.kill_coordinator();
                std::thread::sleep(pause);
                self.fleet.start_coordinator();
                "killed"
            }
            (_, n) => {
                self.others[n - 1].kill();
                std::thread::sleep(pause);
                self.fleet.start_replica(&mut self.others[n - 1]);
                "killed"
            }
        };
        *self.done.entry(what).or_default() += 1;
    }

    fn logs(&self) -> String {
        let others: Vec<String> = self.others.iter().map(Replica::said).collect();
        format!("{}\n{}", self.fleet.coordinator_log(), others.join("\n--\n"))
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a random moment is a wait, and the run has a length")]
fn three_coordinators_die_and_nothing_is_lost() {
    let seed = number("EXHIBIT_FAULT_SEED", 1);
    let length = Duration::from_secs(number("EXHIBIT_SOAK_S", if is_quick() { 10 } else { 30 }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    let database = tempfile::tempdir().expect("temporary folder");
    let server = runtime.block_on(async {
        let server = Scratch::start(database.path()).await;
        server.database("catalog").await;
        server
    });
    let fleet = Fleet::prepare_with(&["--catalog-postgres", &server.tcp_address("catalog")]);
    fleet.start_coordinator();
    let mut others = vec![fleet.replica("second"), fleet.replica("third")];
    for other in &mut others {
        fleet.start_replica(other);
    }
    let mut agents: Vec<Agent> = (0..if is_quick() { 3 } else { 8 }).map(|_| fleet.agent()).collect();
    fleet.tell_of(&others, &mut agents);
    for agent in &mut agents {
        agent.kill();
        agent.restart();
    }
    let case = fleet.open_case();
    let source = tempfile::tempdir().expect("temporary folder");
    exhibit_tests::awkward_tree_of(source.path(), NOISE_BYTES, 200 << 10);
    let facts = exhibit_tests::tree_facts(source.path()).into_iter().map(|(name, (size, _, _, sha256))| (name, (size, sha256))).collect();

    let mut storm = Storm { fleet, others, server, runtime, dice: Dice::new(seed), done: BTreeMap::new() };
    let capture = format!("files:paths={}/**", source.path().display());
    let begun = Instant::now();
    let mut orders = 0;
    while begun.elapsed() < length {
        for agent in &agents {
            // A coordinator may die under it: then it was admitted or not, and the case knows.
            let what = ["collect", "--case", &case, "--agent", &agent.id, "--reason", "test", "--capture", &capture, "--send-rate", "3M"];
            orders += u32::from(storm.fleet.exhibit(&what).code == 0);
        }
        for _ in 0..3 {
            std::thread::sleep(storm.dice.ms(200, 1_500));
            storm.strike();
        }
    }
    let struck = begun.elapsed();
    let listed = || {
        let answer = storm.fleet.exhibit(&["collections", "--case", &case]);
        if answer.code == 0 { answer.json() } else { Vec::new() }
    };
    let open = || listed().iter().filter(|c| matches!(c["state"].as_str(), Some("queued" | "offered" | "running"))).count();
    let ending = Instant::now();
    while listed().is_empty() || open() > 0 {
        assert!(ending.elapsed() < CLOSED_WITHIN, "seed {seed}: {} are not closed: {:#?}\n{}", open(), listed(), storm.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
    let collections = listed();
    assert!(collections.len() >= orders as usize, "{} of {orders} admitted orders have a collection", collections.len());
    for collection in &collections {
        assert_eq!(collection["state"], "sealed", "seed {seed}: {collection}\n{}", storm.logs());
        let folder = storm.fleet.case_dir(&case).join("collections").join(collection["collection"].as_str().expect("id"));
        contents_of(&folder, source.path(), &facts).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", storm.logs()));
    }
    let verdict = storm.fleet.verify(&case);
    assert_eq!(verdict.code, 0, "seed {seed}: {:#}\n{}", verdict.report, storm.logs());
    eprintln!(
        "seed {seed}: {} collections of {} agents sealed and sound; {:?} within {struck:?}; all closed {:?} after the last",
        collections.len(),
        agents.len(),
        storm.done,
        ending.elapsed()
    );
}
