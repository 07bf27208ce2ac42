//! Several coordinators on one PostgreSQL: rights, life, notices.

use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::catalog::peers::{Heard, Peers};
use exhibit_coordinator::catalog::postgres::PostgresCatalog;
use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_coordinator::catalog::{Catalog as _, CatalogError};
use exhibit_coordinator::replica::{Leases, Outbox};
use exhibit_evidence::id::AgentId;

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(300);

/// This process as a coordinator on the catalog, as soon as the others see it live.
async fn peers(catalog: &PostgresCatalog) -> Arc<dyn Peers> {
    let peers = catalog.peers().expect("several can use it");
    while peers.take(format!("life of {}", peers.me()), LONG).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    peers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_is_one_coordinators_and_goes_on_when_it_ends() {
    let dir = tempfile::tempdir().expect("dir");
    let mut server = Scratch::start(dir.path()).await;
    let settings = server.database("catalog").await;
    let first = PostgresCatalog::create(&settings).await.expect("new");
    let second = PostgresCatalog::open(&settings).await.expect("the same");
    let (a, b) = (peers(&first).await, peers(&second).await);
    assert_ne!(a.me(), b.me());

    // Taken, refused to others and to itself, given back with a mark.
    let name = || "log:x".to_owned();
    let grant = a.take(name(), LONG).await.expect("asked").expect("free");
    assert_eq!(grant.mark, None);
    assert_eq!(b.take(name(), LONG).await, Ok(None));
    assert_eq!(a.take(name(), LONG).await, Ok(None));
    assert_eq!(b.renew(name(), grant.token, LONG).await, Ok(false), "not theirs");
    b.give(name(), grant.token, Some(9)).await.expect("passed over");
    assert_eq!(a.renew(name(), grant.token, LONG).await, Ok(true));
    a.give(name(), grant.token, Some(7)).await.expect("given");
    assert_eq!(b.mark(name()).await, Ok(Some(7)));
    let grant = b.take(name(), SHORT).await.expect("asked").expect("free");
    assert_eq!(grant.mark, Some(7));
    // Its time runs out: the mark of before says nothing any more.
    tokio::time::sleep(SHORT * 2).await;
    let taken = a.take(name(), LONG).await.expect("asked").expect("over");
    assert_eq!((taken.mark, b.renew(name(), grant.token, LONG).await), (None, Ok(false)));
    a.give(name(), taken.token, None).await.expect("given");
    assert_eq!(a.mark(name()).await, Ok(None));
    a.first_mark(name(), 3).await.expect("left");
    b.first_mark(name(), 4).await.expect("left already");
    assert_eq!(b.mark(name()).await, Ok(Some(3)));

    // Agents: where they are, and who came back.
    let agent = AgentId::new(1, [1; 10]);
    let at = async |of: &Arc<dyn Peers>| of.whereabouts(vec![agent.clone()]).await.expect("asked").get(&agent).copied();
    assert_eq!(a.enter(agent.clone(), [1; 16], LONG).await, Ok(false));
    assert_eq!(at(&b).await.map(|w| (w.replica, w.instance)), Some((a.me(), [1; 16])));
    assert_eq!(b.enter(agent.clone(), [2; 16], LONG).await, Ok(false), "a restart");
    assert_eq!(b.enter(agent.clone(), [2; 16], LONG).await, Ok(false), "the same again");
    a.leave(agent.clone(), [1; 16]).await.expect("nothing of ours");
    assert_eq!(at(&a).await.map(|w| w.replica), Some(b.me()));
    assert_eq!(a.enter(agent.clone(), [1; 16], LONG).await, Ok(true), "both live");
    a.leave(agent.clone(), [1; 16]).await.expect("left");
    assert_eq!(at(&b).await, None);

    // Notices reach everybody once, the longest ones too.
    let mut heard = b.hear();
    let long = "x".repeat(7_900);
    a.tell(vec!["one".to_owned(), long.clone()]).await.expect("told");
    let mut got = Vec::new();
    while got.len() < 2 {
        match tokio::time::timeout(Duration::from_secs(5), heard.recv()).await.expect("in time").expect("heard") {
            Heard::Notice(text) => got.push(text),
            Heard::Gap => {}
        }
    }
    assert_eq!(got, ["one".to_owned(), long]);
    assert!(a.clock_ahead_ns().await.expect("told").abs() < 1_000_000_000, "one machine, one clock");

    // A coordinator that is gone has no rights, whatever time they had left.
    b.take("log:y".to_owned(), LONG).await.expect("asked").expect("free");
    b.enter(agent.clone(), [2; 16], LONG).await.expect("entered");
    drop(b);
    second.close().await;
    drop(second);
    let waited = async { while !matches!(a.take("log:y".to_owned(), LONG).await, Ok(Some(_))) {} };
    tokio::time::timeout(Duration::from_secs(10), waited).await.expect("at once, not after its time");
    assert_eq!(at(&a).await, None, "nor agents");

    // Lost rows are entered again; of two processes the earlier one stays, of one process nothing is lost.
    b_is_back(&settings, &a, &agent).await;

    // The server restarts: rights are asked for again by themselves, and what was missed is said.
    let mut heard = a.hear();
    server.crash();
    assert!(matches!(a.take(name(), LONG).await, Err(CatalogError::Busy(_))));
    server.resume().await;
    let gap = async { while !matches!(heard.recv().await, Ok(Heard::Gap)) {} };
    tokio::time::timeout(Duration::from_secs(10), gap).await.expect("listens again");
    a.take(name(), LONG).await.expect("asked").expect("the crash took all rights");
    assert_eq!(a.is_settled().await, Ok(false), "nobody has entered its agents");
    a.enter_again(vec![(agent.clone(), [5; 16], LONG)]).await.expect("entered");
    assert_eq!(at(&a).await.map(|w| (w.replica, w.instance)), Some((a.me(), [5; 16])));
    a.entered().await.expect("said");
    let settled = async { while a.is_settled().await != Ok(true) {} };
    tokio::time::timeout(Duration::from_secs(20), settled).await.expect("after the time to come back");
}

async fn b_is_back(settings: &exhibit_coordinator::catalog::postgres::Settings, a: &Arc<dyn Peers>, agent: &AgentId) {
    let third = PostgresCatalog::open(settings).await.expect("the same");
    let b = peers(&third).await;
    assert_eq!(b.is_settled().await, Ok(true), "a new one has nothing to enter");
    b.enter(agent.clone(), [3; 16], LONG).await.expect("entered");
    a.enter_again(vec![(agent.clone(), [4; 16], LONG)]).await.expect("asked");
    let there = a.whereabouts(vec![agent.clone()]).await.expect("asked").get(agent).copied();
    assert_eq!(there.map(|w| w.replica), Some(b.me()), "who lives there keeps it, until it is decided");
    assert_eq!(a.win(agent.clone(), [4; 16], Duration::ZERO).await, Ok(false), "the later one");
    assert_eq!(a.win(agent.clone(), [4; 16], LONG).await, Ok(true), "the earlier one");
    assert_eq!(b.win(agent.clone(), [3; 16], SHORT).await, Ok(false));
    a.leave(agent.clone(), [4; 16]).await.expect("left");
    drop(b);
    third.close().await;
}

/// Many tasks of three coordinators add to a number that only the right guards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_right_guards_is_done_by_one_at_a_time() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Scratch::start(dir.path()).await;
    let settings = server.database("catalog").await;
    let mut catalogs = vec![PostgresCatalog::create(&settings).await.expect("new")];
    for _ in 0..2 {
        catalogs.push(PostgresCatalog::open(&settings).await.expect("the same"));
    }
    let guarded = Arc::new(std::sync::Mutex::new(0_u64));
    let mut tasks = tokio::task::JoinSet::new();
    for catalog in &catalogs {
        let leases = Leases::among(peers(catalog).await, Outbox::default());
        for _ in 0..4 {
            let (leases, guarded) = (Arc::clone(&leases), Arc::clone(&guarded));
            tasks.spawn(async move {
                for _ in 0..10 {
                    let lease = leases.alone("n", LONG).await.expect("its turn comes");
                    let before = *guarded.lock().expect("lock");
                    // What the one before left is what is there.
                    assert_eq!(lease.mark().unwrap_or(0), before);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    *guarded.lock().expect("lock") = before + 1;
                    assert!(lease.lasts());
                    lease.give(Some(before + 1)).await;
                }
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no two at once");
    }
    assert_eq!(*guarded.lock().expect("lock"), 120);
    // Tasks of one coordinator can have a right together; dropped by all, it is free for others.
    let [one, two] = [0, 1].map(|n| Leases::among(catalogs[n].peers().expect("peers"), Outbox::default()));
    let (x, y) = (one.shared("c", SHORT).await.expect("free"), one.shared("c", SHORT).await.expect("together"));
    assert!(Arc::ptr_eq(&x, &y) && two.shared("c", SHORT).await.is_err());
    drop((x, y));
    two.shared("c", Duration::from_secs(5)).await.expect("free again");
}

/// A right lasts a minute. What nobody uses any more is not waited for: the database hears of it as soon as it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_was_let_go_while_the_database_was_away_is_free_when_it_is_back() {
    let dir = tempfile::tempdir().expect("dir");
    let mut server = Scratch::start(dir.path()).await;
    let settings = server.database("catalog").await;
    let first = PostgresCatalog::create(&settings).await.expect("new");
    let second = PostgresCatalog::open(&settings).await.expect("the same");
    let one = Leases::among(peers(&first).await, Outbox::default());
    let two = Leases::among(peers(&second).await, Outbox::default());
    let soon = Duration::from_secs(20);
    let ours = one.shared("ours", soon).await.expect("free");
    let anybodys = one.shared("anybody's", soon).await.expect("free");
    let kept = one.alone("kept", soon).await.expect("free");
    // In order, so that the database remembers who had what.
    server.stop();
    drop((ours, anybodys));
    tokio::time::sleep(SHORT).await;
    server.resume().await;
    let again = one.shared("ours", soon).await.expect("nobody has to wait for what it let go of itself");
    assert!(again.lasts());
    two.shared("anybody's", soon).await.expect("nor another one");
    assert!(one.alone("kept", SHORT).await.is_err(), "somebody here still has it");
    drop(kept);
    one.alone("kept", soon).await.expect("until it is let go of");
}
