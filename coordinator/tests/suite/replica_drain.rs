//! What a stop and an outage of the database look like from outside: who watches is told to go on elsewhere, who uploads is counted.

use std::time::Duration;

use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_proto::responder::v1 as people;

use crate::support::agent::{Agent, Job, file};
use crate::support::soon;
use crate::support::world::{Place, World};

/// An open call would hold the stop up for all of its grace, and end without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_when_it_stops_is_told_to_go_on_elsewhere() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let agent = Agent::new(credential, world.port, 1).await;
    let (_, order, _) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let what = people::ListCollectionsRequest { order: order.order.to_string(), ..people::ListCollectionsRequest::default() };
    let request = people::WatchCollectionsRequest { what: Some(what) };
    let mut watched = world.people.watch_collections(request).await.expect("watched").into_inner();
    let first = watched.message().await.expect("a row").expect("it is open");
    assert_eq!(first.state, "queued");
    let (told, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(10), watched.message()), world.stop());
    let told = told.expect("at once").expect_err("it did not end");
    assert!(
        told.code() == tonic::Code::Unavailable && told.message().starts_with("the coordinator is stopping: watching goes on"),
        "{told}"
    );
}

/// Rights end with the database, and uploads with them: from then on they are counted as those that wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_the_database_took_the_right_from_waits_at_once() {
    let dir = tempfile::tempdir().expect("dir");
    let mut server = Scratch::start(dir.path()).await;
    let mut world = World::start_on(Place { database: Some(server.database("catalog").await), ..Place::default() }).await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let _session = agent.session(&[]).await.expect("session");
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let big: Vec<u8> = (0..5_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let made = job.honest(&[file("system", "os-release", "NAME=Debian\n"), file("files", "/var/big", big)]);
    let mut upload = agent.open(&job).await.expect("let in");
    upload.segment(&made.parts[0]).await.expect("acknowledged");
    let paused = |world: &World| world.running().parts.measured().lines().any(|line| line == "exhibit_uploads_paused 1");
    assert!(!paused(&world));
    server.crash();
    let peers = world.running().parts.leases.peers().expect("several").clone();
    let before = peers.epoch();
    soon("the loss is noticed", async || peers.epoch() != before).await;
    // The right is gone: the upload ends, and its agent is one that waits although it has not come again.
    let refused = tokio::time::timeout(Duration::from_secs(2), upload.segment(&made.parts[1])).await.expect("at once");
    refused.expect_err("nothing more is written");
    assert!(paused(&world), "{}", world.running().parts.measured());
    server.resume().await;
    let goes_on = soon_open(&mut agent, &job).await;
    assert!(!paused(&world));
    drop(goes_on);
    world.stop().await;
}

/// The upload as soon as the coordinator lets it in again.
async fn soon_open(agent: &mut Agent, job: &Job) -> crate::support::agent::Upload {
    for _ in 0..300 {
        if let Ok(upload) = agent.open(job).await {
            return upload;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not let in");
}
