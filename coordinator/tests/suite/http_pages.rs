//! Health, readiness and metrics, as a monitor asks for them.

use std::time::Duration;

use exhibit_coordinator::catalog::postgres::Settings;
use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_coordinator::catalog::{CatalogError, faulty};
use exhibit_coordinator::http::{ASKED_WITHIN, CONNECTIONS_MAX};
use exhibit_coordinator::store::Kind;
use exhibit_coordinator::store::faulty::{Fault, Op};
use sqlx::{ConnectOptions as _, Executor as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::agent::{Agent, Job, file};
use crate::support::soon;
use crate::support::world::{Place, World};

async fn page(world: &World, path: &str) -> (u16, String) {
    let address = world.running().http.expect("served");
    let answer = reqwest::get(format!("http://{address}{path}")).await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_learns_which_dependency_fails_and_what_was_done() {
    let mut world = World::start().await;
    assert_eq!(page(&world, "/health").await, (200, "alive\n".to_owned()));
    let (status, text) = page(&world, "/ready").await;
    assert_eq!((status, text.contains("\"ready\":true")), (200, true), "{text}");

    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let _session = agent.session(&[]).await.expect("session");
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let files = [file("system", "secret-name", "NAME=Debian\n"), file("files", "/etc/passwd", "root:x:0:0\n")];
    agent.send_all(&job, &job.honest(&files)).await.expect("received");
    let (status, text) = page(&world, "/metrics").await;
    assert_eq!(status, 200);
    for line in
        ["exhibit_agents 1", "exhibit_segments_total 3", "exhibit_collections_closed_total{outcome=\"sealed\"} 1", "exhibit_chores 1"]
    {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    assert!(text.contains("object=\"segment\",operation=\"put\",result=\"ok\"} 3"), "{text}");
    for secret in ["secret-name", "web-1", agent.id.as_str(), order.case.as_str(), "a case"] {
        assert!(!text.contains(secret), "'{secret}' is nobody's business");
    }

    // The store falls silent, then refuses.
    world.faults.fail(Op::List, "probe", 0, 1, Fault::Before(Kind::Denied));
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let (status, text) = page(&world, "/ready").await;
    assert_eq!(status, 503);
    assert!(
        text.contains("{\"name\":\"store\",\"ok\":false,\"problem\":") && text.contains("{\"name\":\"catalog\",\"ok\":true}"),
        "{text}"
    );

    // It can be read, and refuses what is written.
    world.faults.fail(Op::PutNew, "/log/", 0, 1_000, Fault::Before(Kind::Denied));
    world.try_open_case(false).await.expect_err("nothing can be recorded");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let (status, text) = page(&world, "/ready").await;
    assert!(status == 503 && text.contains("{\"name\":\"store\",\"ok\":false,\"problem\":\"writes are refused: "), "{status} {text}");
    world.faults.heal();
    world.open_case().await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let (status, text) = page(&world, "/ready").await;
    assert_eq!(status, 200, "{text}");
    world.stop().await;
}

/// Checks are done again after this.
async fn checked_again() {
    tokio::time::sleep(Duration::from_millis(2_100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_room_fails_until_there_is_room_also_when_nobody_writes() {
    let mut world = World::start().await;
    world.faults.fail(Op::PutNew, "/log/", 0, 1_000, Fault::Before(Kind::Full));
    world.faults.fail(Op::PutHead, "probe/", 0, 1_000, Fault::Before(Kind::Full));
    world.try_open_case(false).await.expect_err("nothing can be recorded");
    // Then nobody writes: it is tried, and refused.
    for _ in 0..3 {
        let (status, text) = page(&world, "/ready").await;
        assert!(status == 503 && text.contains("{\"name\":\"store\",\"ok\":false,\"problem\":\"writes are refused: "), "{status} {text}");
        checked_again().await;
    }
    world.faults.heal();
    soon("it is seen that there is room", async || page(&world, "/ready").await.0 == 200).await;

    // Less is free than the operator keeps back, and nobody has tried to write.
    world.free_bytes_min = 1 << 60;
    world.restart().await;
    let (status, text) = page(&world, "/ready").await;
    assert!(status == 503 && text.contains(" bytes free, 1152921504606846976 are needed (limits.free_bytes_min is "), "{status} {text}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_silent_is_named() {
    let mut world = World::start().await;
    world.faults.fail(Op::List, "probe", 0, 1, Fault::DieBefore);
    let (status, text) = page(&world, "/ready").await;
    assert!(status == 503 && text.contains("\"problem\":\"local folder ") && text.contains(": no answer within 3 s (see to"), "{text}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_one_cause_and_is_told_with_its_place() {
    let dir = tempfile::tempdir().expect("dir");
    let mut server = Scratch::start(dir.path()).await;
    let _ = server.database("catalog").await;
    let settings = Settings::parse(&server.tcp_address("catalog"), dir.path(), false).expect("address").with_password("Very-Secret");
    let mut world = World::start_on(Place { database: Some(settings), ..Place::default() }).await;
    soon("it serves", async || page(&world, "/ready").await.0 == 200).await;
    server.stop();
    let mut last = String::new();
    soon("why is told", async || {
        last = page(&world, "/ready").await.1;
        last.contains("Connection refused") && last.contains("{\"name\":\"peers\",\"ok\":false")
    })
    .await;
    let place = format!("the catalog failed: catalog.postgres: cannot use exhibit@127.0.0.1:{}/catalog: ", server.port());
    assert!(last.contains(&place) && last.contains("pg_isready"), "{last}");
    for name in ["clock", "peers"] {
        let unknown = format!("{{\"name\":\"{name}\",\"ok\":false,\"problem\":\"not known: the catalog does not answer\"}}");
        assert!(last.contains(&unknown), "{last}");
    }
    assert!(!last.contains("Very-Secret") && !last.contains("NTP"), "{last}");
    server.resume().await;
    soon("it goes on by itself", async || page(&world, "/ready").await.0 == 200).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_that_somebody_holds_is_busy_and_no_clock_is_wrong() {
    let mut world = World::start().await;
    let file = world.dir.path().join("catalog.sqlite");
    let mut other = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).connect().await.expect("opens");
    other.execute("BEGIN IMMEDIATE").await.expect("locked");
    let (status, text) = page(&world, "/ready").await;
    assert!(status == 503 && text.contains("\"problem\":\"the catalog is busy: ") && text.contains("catalog.sqlite"), "{status} {text}");
    assert!(text.contains("locked") && text.contains("{\"name\":\"clock\",\"ok\":true}"), "{text}");
    other.execute("ROLLBACK").await.expect("let go");
    soon("it goes on", async || page(&world, "/ready").await.0 == 200).await;
    world.stop().await;
}

/// When the catalog is away for longer, uploads end instead of being paused: that they wait must be seen nevertheless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_turned_away_because_the_catalog_is_away_waits_too() {
    let faults = faulty::Faults::default();
    let mut world = World::start_on(Place { catalog_faults: Some(faults.clone()), ..Place::default() }).await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let waiting = |text: &str, count: usize| text.lines().any(|line| line == format!("exhibit_uploads_paused {count}"));
    faults.fail("agent", 0, 1_000, faulty::Fault::Before(CatalogError::Busy("injected".to_owned())));
    for _ in 0..2 {
        assert!(agent.open(&job).await.is_err());
    }
    let (_, text) = page(&world, "/metrics").await;
    assert!(waiting(&text, 1), "{text}");
    faults.heal();
    let upload = agent.open(&job).await.expect("let in");
    let (_, text) = page(&world, "/metrics").await;
    assert!(waiting(&text, 0), "{text}");
    drop(upload);
    // Before it is known what the catalog will say, too.
    faults.fail("agent", 0, 1, faulty::Fault::Delay(Duration::from_secs(4)));
    let counted = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        page(&world, "/metrics").await.1
    };
    let (upload, text) = tokio::join!(agent.open(&job), counted);
    assert!(waiting(&text, 1), "{text}");
    upload.expect("let in late");
    let (_, text) = page(&world, "/metrics").await;
    assert!(waiting(&text, 0), "{text}");
    world.stop().await;
}

/// Who goes away before its session begins is not connected: nobody is there to end that session later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_gone_before_its_session_begins_is_not_online() {
    let faults = faulty::Faults::default();
    let mut world = World::start_on(Place { catalog_faults: Some(faults.clone()), ..Place::default() }).await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let id = agent.id.clone();
    faults.fail("set_seen", 0, 1, faulty::Fault::Delay(Duration::from_secs(4)));
    assert!(tokio::time::timeout(Duration::from_secs(1), agent.session(&[])).await.is_err(), "it waits for the catalog");
    assert!(world.running().parts.sessions.is_online(&id), "it is registered");
    drop(agent);
    soon("it is gone", async || !world.running().parts.sessions.is_online(&id)).await;
    world.stop().await;
}

/// Those who ask slowly or never take all the room there is, and not for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_and_a_question_has_its_time() {
    let mut world = World::start().await;
    let address = world.running().http.expect("served");
    let mut slow = Vec::new();
    for n in 0..CONNECTIONS_MAX {
        let mut connection = TcpStream::connect(address).await.expect("connects");
        // Every other one says nothing at all.
        if n % 2 == 0 {
            connection.write_all(b"GET /health HTTP/1.1\r\nHost: ").await.expect("written");
        }
        slow.push(connection);
    }
    let mut late = TcpStream::connect(address).await.expect("waits in the queue");
    late.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(1), late.read_to_end(&mut answer)).await.expect_err("there is no room");
    // Then they are cut, and whoever waited is answered; its connection is for this one question.
    tokio::time::timeout(ASKED_WITHIN * 2, late.read_to_end(&mut answer)).await.expect("in time").expect("an answer");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alive\n"), "{answer}");
    for mut connection in slow {
        let mut said = Vec::new();
        let ended = tokio::time::timeout(ASKED_WITHIN * 2, connection.read_to_end(&mut said)).await.expect("it is cut");
        // Closed or reset, with a refusal or without a word.
        assert!(ended.is_err() || !String::from_utf8_lossy(&said).contains(" 200 "), "{said:?}");
    }
    assert_eq!(page(&world, "/health").await.0, 200);
    world.stop().await;
}
