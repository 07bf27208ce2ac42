//! Nothing that was acknowledged is lost, whoever dies, and nothing that was stored is forgotten.

use crate::support::agent::{self, Agent, Job, file};
use crate::support::verdict;
use crate::support::world::World;
use exhibit_coordinator::catalog::State;
use exhibit_evidence::layout::{self, StreamNumber};

fn files() -> Vec<agent::File> {
    // A member that spans several frames, so that a restart falls into its middle.
    let big: Vec<u8> = (0..5_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    vec![file("system", "os-release", "NAME=Debian\n"), file("files", "/var/big", big), file("files", "/etc/group", "root:x:0:\n")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_coordinator_goes_on_with_the_next_segment() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let made = job.honest(&files());
    let mut upload = agent.open(&job).await.expect("let in");
    for part in &made.parts[..2] {
        upload.segment(part).await.expect("acknowledged");
    }
    // A third one is under way when the coordinator stops.
    upload.start(&made.parts[2].facts, made.parts[2].lines.len()).await;
    world.restart().await;

    let mut agent = Agent::new(agent.credential, world.port, 1).await;
    let upload = agent.open(&job).await.expect("let in again");
    assert_eq!((upload.status.next_segment, upload.status.finished), (2, false));
    drop(upload);
    agent.send_all(&job, &made).await.expect("received");
    assert_eq!(world.closed(&job.collection).await.state, "sealed");
    world.restart().await;
    let row = world.collection(&job.collection).await;
    assert_eq!((row.state.as_str(), row.items), ("sealed", 3));
    verdict::sound(&world, order.case.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_decided_is_written_after_a_restart() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let made = job.honest(&files());
    let mut upload = agent.open(&job).await.expect("let in");
    for part in &made.parts[..2] {
        upload.segment(part).await.expect("acknowledged");
    }
    // The row says that it ends; the process dies before anything of the end is written.
    let catalog = std::sync::Arc::clone(&world.running().parts.catalog);
    let change = exhibit_coordinator::catalog::CollectionChange {
        state: Some(State::Sealing),
        ending: Some(Some(exhibit_coordinator::catalog::Ending {
            outcome: exhibit_evidence::record::Outcome::Partial,
            reason: Some("the test said so".to_owned()),
            refusal: None,
        })),
        ..exhibit_coordinator::catalog::CollectionChange::default()
    };
    catalog.change(job.collection.clone(), vec![State::Running], change).await.expect("changed").expect("was running");
    drop(catalog);
    world.restart().await;
    let row = world.closed(&job.collection).await;
    assert_eq!((row.state.as_str(), row.items, row.reason.as_str()), ("partial", 2, "the test said so"));
    verdict::sound(&world, order.case.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_was_stored_and_not_committed_is_taken_over() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let made = job.honest(&files());
    let mut upload = agent.open(&job).await.expect("let in");
    upload.segment(&made.parts[0]).await.expect("acknowledged");
    drop(upload);
    // What a process that died between store and catalog leaves: the object, verified and stored, and no row.
    let parts = std::sync::Arc::clone(&world.running().parts);
    for part in &made.parts[1..3] {
        let name = layout::segment(&order.case, &job.collection, StreamNumber(1), part.facts.n);
        parts.store.put_new(&name, bytes::Bytes::from(part.bytes.clone()).into(), part.facts.sha256).await.expect("stored");
    }
    let ending = exhibit_coordinator::catalog::Ending {
        outcome: exhibit_evidence::record::Outcome::Partial,
        reason: Some("the agent did not come back".to_owned()),
        refusal: None,
    };
    exhibit_coordinator::dispatch::end(&parts, &job.collection, &[State::Running], ending).await.expect("ended");
    drop(parts);
    let row = world.closed(&job.collection).await;
    assert_eq!((row.state.as_str(), row.items, row.by_status.get("partial")), ("partial", 3, Some(&2)));
    verdict::sound(&world, order.case.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hears_no_answer_to_its_finish_asks_again() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    let made = job.honest(&files());
    let receipt = agent.send_all(&job, &made).await.expect("received");
    world.restart().await;
    let mut agent = Agent::new(agent.credential, world.port, 1).await;
    assert_eq!(agent.send_all(&job, &made).await.map_err(|s| s.to_string()), Ok(receipt), "the same receipt, nothing is sent again");
    let mut session = agent.session(std::slice::from_ref(&job.collection)).await.expect("session");
    assert_eq!(session.closed().await.collection, job.collection.to_string(), "what it still works on is told to be closed");
}
