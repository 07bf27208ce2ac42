//! Clocks that jump in the middle of a collection. What is long is measured by clocks that do not jump, or has room for
//! an hour; only a deadline that the coordinator keeps for an agent that may be gone follows the coordinator's wall clock.

use std::time::Duration;

use exhibit_agent::clock::shift as agent_clock;
use exhibit_coordinator::clock::shift as coordinator_clock;
use exhibit_evidence::record::{Limits, Outcome};

use crate::world::{Template, World};
use crate::{checks, heard};

const HOUR_S: i64 = 3_600;

/// A collection in whose middle `jump` happens; how it ended.
async fn through(limits: Limits, jump: impl FnOnce()) -> (World, exhibit_evidence::id::CollectionId, Outcome) {
    heard::listen(false);
    let template = Template::make(18 << 20).await;
    let world = World::start(&template).await;
    // Slow enough to be caught in the middle.
    let (order, collection) = world.order_with(Limits { send_bytes_per_s: Some(8 << 20), ..limits }).await;
    world.submit(&order).await.expect("admitted");
    while world.proxy.up_bytes() < 9 << 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    jump();
    let mut outcome = None;
    for _ in 0..6_000 {
        outcome = world.row(&collection).await.and_then(|row| match row.state {
            exhibit_coordinator::catalog::State::Closed(outcome) => Some(outcome),
            _ => None,
        });
        if outcome.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (world, collection, outcome.expect("it is closed within a minute"))
}

/// Nothing is lost and nothing expires; nor when the coordinator starts again under the new time.
async fn unharmed(jump: impl FnOnce(), restart: bool) {
    let (mut world, collection, outcome) = through(Limits::default(), jump).await;
    assert_eq!(outcome, Outcome::Sealed);
    assert!(world.end_agent(Duration::from_mins(1)).await, "the agent is free");
    let stored = tokio::task::block_in_place(|| checks::check(&world, &collection)).expect("whole");
    assert_eq!(stored.streams, 1);
    if restart {
        world.restart().await;
        assert!(world.row(&collection).await.is_some_and(|row| row.state.is_closed()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinators_clock_jumps_ahead() {
    unharmed(|| coordinator_clock::set(HOUR_S), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinators_clock_jumps_back() {
    // It would not start with a clock so far behind its own records, and says so; one that runs goes on.
    unharmed(|| coordinator_clock::set(-HOUR_S), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_clock_jumps_ahead() {
    unharmed(|| agent_clock::set(HOUR_S), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_clock_jumps_back() {
    unharmed(|| agent_clock::set(-HOUR_S), true).await;
}

/// The coordinator's clock passes the deadline and its grace at once. It cannot know that the agent, which measures the
/// deadline by a clock that does not jump, still has time: the collection ends with what arrived, and nothing that was
/// acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_beyond_the_deadline_ends_with_what_arrived() {
    let limits = Limits { deadline_s: Some(600), ..Limits::default() };
    let (mut world, collection, outcome) = through(limits, || coordinator_clock::set(HOUR_S)).await;
    assert_eq!(outcome, Outcome::Partial);
    assert!(world.end_agent(Duration::from_mins(1)).await, "the agent is free");
    assert_eq!(tokio::task::block_in_place(|| checks::sound(&world, &collection)), Ok(Some(Outcome::Partial)));
    tokio::task::block_in_place(|| checks::promises(&world, &collection)).expect("what was acknowledged is there");
}
