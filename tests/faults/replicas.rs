//! Three coordinators over one PostgreSQL and one S3 server, agents with uploads running, and every few seconds something dies:
//! a coordinator without warning, one in order, the database, or the store, which stands still, or is away while a coordinator dies.
//!
//! Meanwhile whichever does the chores keeps a copy in a second store, which must be the case in the end as well.
//!
//! `EXHIBIT_FAULT_SEED` chooses the run, `EXHIBIT_SOAK_S` its length in seconds.
#![allow(clippy::disallowed_methods, reason = "a random moment is a wait, and the run has a length")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_coordinator::copy::{Lag, lag};
use exhibit_coordinator::store::{LocalStore, OBJECT_BYTES_MAX, Store, StoreError, list_all};
use exhibit_tests::{Agent, Finished, Fleet, Replica, is_quick};
use serde_json::Value;

use crate::checks::contents_of;
use crate::plan::Dice;
use crate::s3::Breaking;

/// One segment and a rest for each agent: several collections are made in a run.
const NOISE_BYTES: usize = 9 << 20;
/// Bytes of a collection that an agent sends in a second: eight of them are what the S3 server, a Python program, takes.
const SEND_RATE: &str = "2M";
/// A collection ends within this time after the last fault: a right of a coordinator that nobody saw die lasts a minute.
const CLOSED_WITHIN: Duration = Duration::from_mins(3);
/// The copy in a second store is whole within this time.
const COPIED_WITHIN: Duration = Duration::from_mins(5);
/// Objects below one folder of the store in a run.
const OBJECTS_MAX: usize = 1 << 20;
/// Nobody holds a right for longer that nobody uses.
const RIGHT_LIFE: Duration = Duration::from_secs(75);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// The three, the database and the store.
struct Storm {
    fleet: Fleet,
    others: Vec<Replica>,
    server: Scratch,
    store: Breaking,
    runtime: tokio::runtime::Runtime,
    dice: Dice,
    done: BTreeMap<&'static str, u32>,
}

fn pause(time: Duration) {
    std::thread::sleep(time);
}

impl Storm {
    fn begin(seed: u64, database: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let (server, store) = runtime.block_on(async {
            let server = Scratch::start(database).await;
            server.database("catalog").await;
            (server, Breaking::start().await)
        });
        let (mut arguments, environment) = store.arguments();
        arguments.extend(["--catalog-postgres".to_owned(), server.tcp_address("catalog")]);
        let fleet = Fleet::prepare_in(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &environment);
        fleet.copy_into(&fleet.path().join("copy"));
        fleet.start_coordinator();
        let mut others = vec![fleet.replica("second"), fleet.replica("third")];
        for other in &mut others {
            fleet.start_replica(other);
        }
        Self { fleet, others, server, store, runtime, dice: Dice::new(seed), done: BTreeMap::new() }
    }

    fn agents(&self, count: usize) -> Vec<Agent> {
        let mut agents: Vec<Agent> = (0..count).map(|_| self.fleet.agent()).collect();
        self.fleet.tell_of(&self.others, &mut agents);
        for agent in &mut agents {
            agent.kill();
            agent.restart();
        }
        agents
    }

    fn kill(&mut self, which: usize) {
        match which {
            0 => self.fleet.kill_coordinator(),
            n => self.others[n - 1].kill(),
        }
    }

    fn start(&mut self, which: usize) {
        match which {
            0 => self.fleet.start_coordinator(),
            n => self.fleet.start_replica(&mut self.others[n - 1]),
        }
    }

    fn terminate(&mut self, which: usize) {
        let code = if which == 0 { self.fleet.terminate_coordinator() } else { self.others[which - 1].terminate() };
        assert_eq!(code, 0, "{}", self.logs());
    }

    /// Something dies, and comes back after a moment.
    fn strike(&mut self) {
        let time = self.dice.ms(1, 1_500);
        let which = self.dice.below(3) as usize;
        let what = match self.dice.below(10) {
            0 => {
                self.server.crash();
                pause(time);
                self.runtime.block_on(self.server.resume());
                "the database crashed"
            }
            1 => {
                self.terminate(which);
                self.start(which);
                "restarted in order"
            }
            2 => {
                self.store.stand_still(true);
                pause(time * 2);
                self.store.stand_still(false);
                "the store stood still"
            }
            3 => {
                self.store.away();
                pause(time * 2);
                self.store.back();
                "the store was restarted"
            }
            4 | 5 => {
                self.store.away();
                self.kill(which);
                pause(time);
                self.store.back();
                self.start(which);
                "killed while the store was away"
            }
            _ => {
                self.kill(which);
                pause(time);
                self.start(which);
                "killed"
            }
        };
        *self.done.entry(what).or_default() += 1;
    }

    fn listed(&self, case: &str) -> Vec<Value> {
        let answer = self.fleet.exhibit(&["collections", "--case", case]);
        if answer.code == 0 { answer.json() } else { Vec::new() }
    }

    /// The collections of a case once all of them are closed.
    fn closed(&self, case: &str) -> Vec<Value> {
        let open = |c: &Value| matches!(c["state"].as_str(), Some("queued" | "offered" | "running" | "ending"));
        let ending = Instant::now();
        loop {
            let listed = self.listed(case);
            if !listed.is_empty() && !listed.iter().any(open) {
                return listed;
            }
            assert!(ending.elapsed() < CLOSED_WITHIN, "not all are closed: {listed:#?}\n{}", self.logs());
            pause(Duration::from_millis(100));
        }
    }

    /// Beside the chores, which somebody always does, no coordinator that lives has a right for long that nobody uses. What a dead
    /// one had is anybody's.
    fn no_right_is_stuck(&self) {
        let sql = "DO $$ BEGIN
            FOR i IN 1..{tries} LOOP
                IF NOT EXISTS (SELECT FROM exhibit.rights JOIN pg_locks ON locktype = 'advisory' AND objsubid = 2 AND objid::bigint = holder
                               WHERE name <> 'chores') THEN
                    RETURN;
                END IF;
                PERFORM pg_sleep(0.1);
            END LOOP;
            RAISE EXCEPTION 'stuck: %', (SELECT string_agg(name, ', ') FROM exhibit.rights WHERE holder IS NOT NULL);
        END $$";
        let tries = RIGHT_LIFE.as_millis() / 100;
        self.runtime.block_on(self.server.run("catalog", &sql.replace("{tries}", &tries.to_string())));
    }

    /// The folder of a case in the copy, once everything has arrived there.
    fn copied(&self, case: &str) -> PathBuf {
        let (first, folder) = (self.store.store(), self.fleet.path().join("copy"));
        let copy = LocalStore::open(&folder).expect("a store");
        let head = format!("cases/{case}/log/checkpoint");
        let begun = Instant::now();
        loop {
            let (lag, here, there) = self.runtime.block_on(async {
                (lag(&first, &copy).await.expect("listed"), first.get(&head, 1 << 14).await.expect("head"), copy.get(&head, 1 << 14).await)
            });
            if lag == Lag::default() && there.is_ok_and(|there| there == here) {
                return folder.join("cases").join(case);
            }
            assert!(begun.elapsed() < COPIED_WITHIN, "the copy is not whole: {lag:?}\n{}", self.logs());
            pause(Duration::from_millis(200));
        }
    }

    /// Objects and bytes of the store once the copy has the same, which is read from both and not asked of the copy: a log that grows
    /// just now is copied a moment later.
    fn same_bytes(&self) -> (usize, u64) {
        let (first, copy) = (self.store.store(), LocalStore::open(&self.fleet.path().join("copy")).expect("a store"));
        let begun = Instant::now();
        loop {
            match self.runtime.block_on(walked(&first, &copy)) {
                Ok(same) => return same,
                Err(why) => assert!(begun.elapsed() < COPIED_WITHIN, "the copy is not the store: {why}\n{}", self.logs()),
            }
            pause(Duration::from_millis(200));
        }
    }

    /// The catalog comes back from the store alone, and nothing in there contradicts anything else.
    fn reindexed(&mut self) -> Value {
        (0..3).for_each(|which| self.terminate(which));
        let mut command = self.fleet.program("exhibit-coordinator");
        let done = Finished::of(command.args(["reindex", "--replace", "--json", "--dir"]).arg(self.fleet.coordinator_dir())).ok();
        done.json().remove(0)
    }

    fn logs(&self) -> String {
        let others: Vec<String> = self.others.iter().map(Replica::said).collect();
        format!("{}\n{}", self.fleet.coordinator_log(), others.join("\n--\n"))
    }
}

/// Walks both stores, one object of each in memory: how much is the same, or the first thing that is not.
async fn walked(first: &dyn Store, copy: &dyn Store) -> Result<(usize, u64), String> {
    let said = |e: StoreError| e.to_string();
    let (mut objects, mut bytes) = (0, 0);
    for folder in ["cases", "deployment"] {
        let here: BTreeSet<String> = list_all(first, folder, OBJECTS_MAX).await.map_err(said)?.into_iter().map(|e| e.name).collect();
        let there: BTreeSet<String> = list_all(copy, folder, OBJECTS_MAX).await.map_err(said)?.into_iter().map(|e| e.name).collect();
        if let Some(name) = here.symmetric_difference(&there).next() {
            return Err(format!("'{name}' is in one of them alone"));
        }
        for name in here {
            let ours = first.get(&name, OBJECT_BYTES_MAX).await.map_err(said)?;
            if copy.get(&name, OBJECT_BYTES_MAX).await.map_err(said)? != ours {
                return Err(format!("'{name}' has other bytes in the copy"));
            }
            (objects, bytes) = (objects + 1, bytes + ours.len() as u64);
        }
    }
    Ok((objects, bytes))
}

#[test]
fn three_coordinators_die_and_nothing_is_lost() {
    let seed = number("EXHIBIT_FAULT_SEED", 1);
    let length = Duration::from_secs(number("EXHIBIT_SOAK_S", if is_quick() { 10 } else { 30 }));
    let database = tempfile::tempdir().expect("temporary folder");
    let mut storm = Storm::begin(seed, database.path());
    let agents = storm.agents(if is_quick() { 3 } else { 8 });
    let case = storm.fleet.open_case();
    let source = tempfile::tempdir().expect("temporary folder");
    exhibit_tests::awkward_tree_of(source.path(), NOISE_BYTES, 200 << 10);
    let facts = exhibit_tests::tree_facts(source.path()).into_iter().map(|(name, (size, _, _, sha256))| (name, (size, sha256))).collect();

    let capture = format!("files:paths={}/**", source.path().display());
    let begun = Instant::now();
    let mut admitted = 0;
    // Two agents after the other have an order, and something dies after each.
    for some in agents.chunks(2).cycle().take_while(|_| begun.elapsed() < length) {
        let mut what = vec!["collect", "--case", &case, "--reason", "test", "--capture", &capture, "--send-rate", SEND_RATE];
        what.extend(some.iter().flat_map(|agent| ["--agent", &agent.id]));
        // A coordinator may die under it: then it was admitted or not, and the case knows.
        if storm.fleet.exhibit(&what).code == 0 {
            admitted += some.len();
        }
        pause(storm.dice.ms(1, 500));
        storm.strike();
    }
    let (struck, ending) = (begun.elapsed(), Instant::now());
    let collections = storm.closed(&case);
    let ended = ending.elapsed();
    assert!(collections.len() >= admitted, "{} of {admitted} collections that were ordered are there", collections.len());
    let ids: BTreeSet<&str> = collections.iter().map(|c| c["collection"].as_str().expect("id")).collect();
    assert_eq!(ids.len(), collections.len(), "seed {seed}: a collection is listed twice");
    storm.no_right_is_stuck();

    let copy = tempfile::tempdir().expect("temporary folder");
    storm.runtime.block_on(storm.store.download(&format!("cases/{case}"), copy.path()));
    let logs = storm.logs();
    for collection in &collections {
        assert_eq!(collection["state"], "sealed", "seed {seed}: {collection}\n{logs}");
        let folder = copy.path().join("collections").join(collection["collection"].as_str().expect("id"));
        contents_of(&folder, source.path(), &facts).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{logs}"));
    }
    let (in_copy, copying) = (storm.copied(&case), ending.elapsed());
    for folder in [copy.path().to_owned(), in_copy] {
        let verdict = storm.fleet.verify_at(&folder);
        assert_eq!(verdict.code, 0, "seed {seed}: {}: {:#}\n{logs}", folder.display(), verdict.report);
    }
    let (objects, bytes) = storm.same_bytes();
    assert!(objects > collections.len() && bytes > 0, "{objects} objects, {bytes} bytes");
    assert!(!logs.contains(": incident kind="), "seed {seed}: what was done to them is no incident\n{logs}");
    let again = storm.reindexed();
    let found = (again["collections"].as_u64(), again["unsealed"].as_u64(), again["problem_count"].as_u64());
    assert_eq!(found, (Some(collections.len() as u64), Some(0), Some(0)), "seed {seed}: {again:#}");
    eprintln!(
        "seed {seed}: {} collections of {} agents sealed and sound; {:?} within {struck:?}; all closed {ended:?} after the last, all copied {copying:?}: \
         {objects} objects, {bytes} bytes are the same in both",
        collections.len(),
        agents.len(),
        storm.done,
    );
}
