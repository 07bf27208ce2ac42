//! S3 servers by other hands than moto's. Each shows what the other two hide.
//!
//! | | moto | localbucket | s3rver |
//! |---|---|---|---|
//! | requests at once | one (in threads two writers of one name both win) | many | many |
//! | create-only | kept | kept | **ignored** |
//! | signatures | judged by our own code in front of it | not looked at | judged by its own code |
//! | versions, locks | yes | no | no |

use std::process::Command;
use std::sync::Arc;

use exhibit_coordinator::store::conformance::{self, Deviation, Promise};
use exhibit_coordinator::store::{LockMode, LockPolicy, RemoteSettings, RemoteStore};

use crate::support::agent::{Agent, Job, file};
use crate::support::world::{Place, World};
use crate::support::{moto, second};

/// Any bucket that cannot list versions.
const NO_VERSIONS: Deviation = Deviation {
    promise: Promise::Destruction,
    seen: "this store lacks a call of S3",
    reason: "it has no ListObjectVersions; a disposal, which must remove every version, is refused and stays open: nothing is lost",
};

const fn overwrites(promise: Promise, seen: &'static str) -> Deviation {
    Deviation { promise, seen, reason: "it ignores If-None-Match on a write: no evidence may ever lie there, so it is refused at start" }
}

/// What s3rver does otherwise. It stands here as the store that must be refused.
const OVERWRITES: [Deviation; 6] = [
    overwrites(Promise::CreateOnly, "the same again is success"),
    overwrites(Promise::OneWinner, "two winners of"),
    overwrites(Promise::SelfTest, "can be overwritten; evidence would not be safe here"),
    Deviation {
        promise: Promise::Reads,
        seen: "Requested 0..1, got 0..100000",
        reason: "it takes a range that ends at byte 0 for none and sends everything; the client notices, and nothing is read wrongly",
    },
    Deviation {
        promise: Promise::Listings,
        seen: "500 Internal Server Error",
        reason: "it answers 500 to the listing of a thousand objects, for a reason of its own; the client repeats, and then says so",
    },
    Deviation { promise: Promise::Destruction, seen: "405 MethodNotAllowed", ..NO_VERSIONS },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_s3_keeps_the_contract() {
    let server = second::localbucket();
    for prefix in ["", "below/here"] {
        let store = RemoteStore::open(&server.settings(prefix)).expect("settings");
        conformance::run_with(Arc::new(store), "suite", &[NO_VERSIONS]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_that_overwrites_is_known_by_exactly_that_and_refused_at_start() {
    let server = second::s3rver();
    let store = RemoteStore::open(&server.settings("")).expect("settings");
    conformance::run_with(Arc::new(store), "suite", &OVERWRITES).await;
    refused_at_start(&server);
}

/// The whole program: made with a folder, then told to use this server.
fn refused_at_start(server: &second::Server) {
    let program = || Command::new(env!("CARGO_BIN_EXE_exhibit-coordinator"));
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().join("d");
    let made = program().args(["init", "--name", "example.org", "--listen", "127.0.0.1:0", "--dir"]).arg(&dir).output().expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (file, settings) = (dir.join("config.toml"), server.settings(""));
    let secret = dir.join("secret");
    std::fs::write(&secret, settings.secret.unwrap_or_default()).expect("write");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("mode");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    let (endpoint, key) = (settings.endpoint.unwrap_or_default(), settings.access_key_id.unwrap_or_default());
    let bucket = format!(
        "[store]\nkind = \"s3\"\nbucket = \"evidence\"\nendpoint = \"{endpoint}\"\ndangerous_allow_http = true\naccess_key_id = \"{key}\"\nsecret_access_key_file = \"secret\"\n[limits]"
    );
    let (before, rest) = text.split_once("[store]").expect("the section");
    let (_, after) = rest.split_once("[limits]").expect("the next section");
    std::fs::write(&file, format!("{before}{bucket}{after}")).expect("write");
    for start in 0..2 {
        let out = program().args(["run", "--dir"]).arg(&dir).output().expect("it runs");
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "start {start}: {said}");
        assert!(said.contains("an object that exists can be overwritten; evidence would not be safe here"), "start {start}: {said}");
        assert!(
            said.contains("bucket evidence at http://127.0.0.1") && said.contains("use a store that honours create-only writes"),
            "{said}"
        );
        assert!(!said.contains("listens on"), "{said}");
    }
}

/// The rule by which a collection's cost is derived, against what a server was really asked: its own log of requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_derived_cost_is_what_the_server_was_asked() {
    let server = second::localbucket();
    let mut world = World::start_on(Place { remote: Some(server.settings("")), ..Place::default() }).await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let _session = agent.session(&[]).await.expect("session");
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let files = [file("system", "os-release", "NAME=Debian\n"), file("files", "/etc/passwd", "root:x:0:0\n")];
    let before = server.said().len();
    agent.send_all(&job, &job.honest(&files)).await.expect("received");
    let row = world.closed(&job.collection).await;
    let said = server.said().split_off(before);
    let cost = row.store_cost.expect("a bucket costs");
    let asked = |what: &str, below: &str| said.lines().filter(|l| l.contains(what) && l.contains(below)).count() as u64;
    let own = format!("/collections/{}/", job.collection);
    let (objects, slots) = (asked("\"PUT ", &own), asked("\"PUT ", "/log/seq/"));
    let (tiles, heads) = (asked("\"PUT ", "/log/tile/"), asked("\"PUT ", "/log/checkpoint"));
    // The agent's enrolment and its issuer's are copied into the case's log once for all of its collections: an addition of its own.
    let copied = 2 + 2;
    assert_eq!(cost.puts, objects + slots + tiles + heads - copied, "{cost:?}\n{said}");
    assert_eq!(cost.lists, asked("\"GET ", &format!("prefix=cases%2F{}%2Fcollections%2F{}", order.case, job.collection)), "{said}");
    assert_eq!(cost.reads, asked("\"GET ", &format!("/cases/{}/log/seq/", order.case)), "{said}");
    assert_eq!((asked("\"GET ", &own), asked("\"HEAD ", "")), (0, 0), "{said}");
    let lies: u64 = server.sizes(&own).iter().sum();
    assert_eq!(cost.bytes, lies);
    // 0.005 for 1,000 requests is 5,000 thousand-millionths for each, 0.0004 is 400.
    assert_eq!((cost.requests_nanos, cost.currency.as_str()), ((cost.puts + cost.lists) * 5_000 + cost.reads * 400, "USD"));
    world.stop().await;
}

/// The same of a store that keeps versions and locks them: each lock is read back, and the versions of each record's name are listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_derived_cost_of_a_locked_store_is_what_the_server_was_asked() {
    let server = moto::start_with_lock();
    let policy = LockPolicy { mode: LockMode::Compliance, days: 10 };
    let mut world =
        World::start_on(Place { remote: Some(RemoteSettings { lock: Some(policy), ..server.settings("") }), ..Place::default() }).await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let _session = agent.session(&[]).await.expect("session");
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let files = [file("system", "os-release", "NAME=Debian\n"), file("files", "/etc/passwd", "root:x:0:0\n")];
    let before = server.asked().len();
    agent.send_all(&job, &job.honest(&files)).await.expect("received");
    let row = world.closed(&job.collection).await;
    let said = server.asked().split_off(before);
    let cost = row.store_cost.expect("a bucket costs");
    // Of this case alone: attestation looks at the rest meanwhile.
    let asked = |method: &str, holds: &[&str]| {
        let own = |line: &&String| line.starts_with(method) && line.contains(&order.case.to_string());
        said.iter().filter(own).filter(|line| holds.iter().all(|part| line.contains(part))).count() as u64
    };
    // The agent's enrolment and its issuer's are copied into the case's log once for all of its collections: an addition of two records
    // of its own, with tile and checkpoint.
    let (copied, additions) = (2 + 2, 2);
    assert_eq!(cost.puts, asked("PUT ", &[]) - copied, "{cost:?}\n{said:#?}");
    let (slots, heads) = (asked("PUT ", &["/log/seq/"]), asked("PUT ", &["/log/checkpoint"]));
    assert_eq!((slots, heads), (3 + 2, additions + 1), "{said:#?}");
    let versions = asked("GET ", &["versions=", "prefix=", "seq"]);
    assert_eq!(versions, slots, "one look before each record\n{said:#?}");
    assert_eq!(cost.lists, asked("GET ", &["prefix="]) - 2, "{cost:?}\n{said:#?}");
    let (looks, gets) = (asked("HEAD ", &["versionId="]), asked("GET ", &["/log/seq/"]));
    assert_eq!(looks, asked("PUT ", &[]) - heads, "every object but the heads\n{said:#?}");
    assert_eq!(cost.reads, looks - (copied - 1) + gets, "{cost:?}\n{said:#?}");
    assert_eq!(cost.requests_nanos, (cost.puts + cost.lists) * 5_000 + cost.reads * 400);
    world.stop().await;
}
