//! A primary of PostgreSQL dies without a word, its synchronous standby takes over, and the address moves with it, while two
//! coordinators work and an upload runs: what was acknowledged is there, and all go on by themselves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_tests::{Agent, Finished, Fleet, Replica, wait_until};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::checks::contents_of;

/// One segment and half of another: the upload runs when the primary dies.
const NOISE_BYTES: usize = 12 << 20;
const SEND_RATE: &str = "2M";
/// All is closed within this time after the primary died; it takes seconds on a machine that has nothing else to do.
const CLOSED_WITHIN: Duration = Duration::from_mins(1);

/// Somebody who lives does the chores, by what the server itself sees. Rights are not replicated: this one was taken here.
const CHORES_ARE_DONE: &str = "DO $$ BEGIN
    FOR i IN 1..600 LOOP
        IF EXISTS (SELECT FROM exhibit.rights JOIN pg_locks ON locktype = 'advisory' AND objsubid = 2 AND granted AND objid::bigint = holder
                   WHERE name = 'chores' AND until > clock_timestamp()) THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.1);
    END LOOP;
    RAISE EXCEPTION 'nobody does the chores';
END $$";

/// The address that moves with the primary. While nobody has it, who connects waits, as for any machine that is not there; who was
/// connected when it moved is cut.
struct Address {
    port: u16,
    holder: Arc<AtomicU16>,
}

impl Address {
    async fn of(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let holder = Arc::new(AtomicU16::new(port));
        let (own, shared) = (listener.local_addr().expect("address").port(), Arc::clone(&holder));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, Arc::clone(&shared)));
            }
        });
        Self { port: own, holder }
    }

    /// Port 0 is nobody's.
    fn move_to(&self, port: u16) {
        self.holder.store(port, Ordering::Release);
    }
}

async fn carry(mut near: TcpStream, holder: Arc<AtomicU16>) {
    let holds = || holder.load(Ordering::Acquire);
    while holds() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let port = holds();
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let moved = async {
        while holds() == port {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        () = moved => {}
    }
}

/// Everything that runs.
struct World {
    runtime: tokio::runtime::Runtime,
    primary: Scratch,
    standby: Scratch,
    address: Address,
    fleet: Fleet,
    second: Replica,
    _folders: [tempfile::TempDir; 2],
}

impl World {
    fn begin() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("temporary folder"));
        let (primary, standby, address) = runtime.block_on(async {
            let primary = Scratch::start(folders[0].path()).await;
            primary.database("catalog").await;
            let standby = primary.standby(folders[1].path()).await;
            let address = Address::of(primary.port()).await;
            (primary, standby, address)
        });
        let place = primary.tcp_address("catalog").replace(&format!(":{}/", primary.port()), &format!(":{}/", address.port));
        let fleet = Fleet::prepare_with(&["--catalog-postgres", &place]);
        fleet.start_coordinator();
        let mut second = fleet.replica("second");
        fleet.start_replica(&mut second);
        Self { runtime, primary, standby, address, fleet, second, _folders: folders }
    }

    fn fail_over(&mut self) {
        self.primary.kill();
        self.address.move_to(0);
        self.runtime.block_on(self.standby.promote());
        self.address.move_to(self.standby.port());
    }

    fn logs(&self) -> String {
        format!("{}\n--\n{}", self.fleet.coordinator_log(), self.second.said())
    }

    fn closed(&self, collection: &str) -> Value {
        let closed = self.fleet.wait_closed(collection, CLOSED_WITHIN);
        assert_eq!(closed["state"], "sealed", "{closed}\n{}", self.logs());
        closed
    }

    fn cases(&self) -> BTreeSet<String> {
        let listed = self.fleet.exhibit(&["case", "list"]).ok().json();
        listed.iter().map(|c| c["case"].as_str().expect("id").to_owned()).collect()
    }

    /// The catalog comes back from the store alone, and nothing in there contradicts anything else.
    fn reindexed(&mut self) -> Value {
        let codes = (self.fleet.terminate_coordinator(), self.second.terminate());
        assert_eq!(codes, (0, 0), "{}", self.logs());
        let mut command = self.fleet.program("exhibit-coordinator");
        let done = Finished::of(command.args(["reindex", "--replace", "--json", "--dir"]).arg(self.fleet.coordinator_dir())).ok();
        done.json().remove(0)
    }
}

#[test]
fn a_standby_takes_over_while_an_upload_runs_and_nothing_is_lost() {
    let mut world = World::begin();
    let mut agents: Vec<Agent> = vec![world.fleet.agent()];
    world.fleet.tell_of(std::slice::from_ref(&world.second), &mut agents);
    for agent in &mut agents {
        agent.kill();
        agent.restart();
    }
    let case = world.fleet.open_case();
    let source = tempfile::tempdir().expect("temporary folder");
    exhibit_tests::awkward_tree_of(source.path(), NOISE_BYTES, 200 << 10);
    let facts = exhibit_tests::tree_facts(source.path()).into_iter().map(|(name, (size, _, _, sha256))| (name, (size, sha256))).collect();
    let capture = format!("files:paths={}/**", source.path().display());
    let first = world.fleet.order(&case, &agents[0], &["--capture", &capture, "--send-rate", SEND_RATE]);
    let folder = world.fleet.case_dir(&case).join("collections").join(&first);
    wait_until(Duration::from_secs(40), "a segment is stored", || folder.join("s1/00000000.tar.zst").exists());

    // What is acknowledged in the last moment is there afterwards.
    let late = world.fleet.open_case();
    #[allow(clippy::disallowed_methods, reason = "how long it took is told")]
    let begun = Instant::now();
    world.fail_over();
    let took_over = begun.elapsed();
    world.closed(&first);
    eprintln!("the standby took over within {took_over:?}; the upload that ran was sealed {:?} after the primary died", begun.elapsed());
    assert_eq!(world.cases(), BTreeSet::from([case.clone(), late.clone()]));
    world.runtime.block_on(world.standby.run("catalog", CHORES_ARE_DONE));

    // New work on the new primary.
    let second = world.fleet.order(&case, &agents[0], &["--capture", "system"]);
    world.closed(&second);
    let listed = world.fleet.exhibit(&["collections", "--case", &case]).ok().json();
    let ids: Vec<&str> = listed.iter().map(|c| c["collection"].as_str().expect("id")).collect();
    assert_eq!((ids.len(), BTreeSet::from_iter(ids)), (2, BTreeSet::from([first.as_str(), second.as_str()])), "{listed:#?}");

    let logs = world.logs();
    contents_of(&folder, source.path(), &facts).unwrap_or_else(|e| panic!("{e}\n{logs}"));
    for case in [&case, &late] {
        let verdict = world.fleet.verify(case);
        assert_eq!(verdict.code, 0, "{:#}\n{logs}", verdict.report);
    }
    assert!(!logs.contains(": incident kind="), "a database that moves is no incident\n{logs}");
    let again = world.reindexed();
    let found = (again["cases"].as_u64(), again["collections"].as_u64(), again["unsealed"].as_u64(), again["problem_count"].as_u64());
    assert_eq!(found, (Some(2), Some(2), Some(0), Some(0)), "{again:#}");
}
