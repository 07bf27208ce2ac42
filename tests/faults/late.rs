//! Things that happen at an unlucky moment: the deadline of a collection passes while a segment is being stored, and the
//! object appears after its upload is gone; an order comes while its agent connects.

use std::time::Duration;

use exhibit_coordinator::catalog::{Ending, State, faulty as catalog};
use exhibit_coordinator::dispatch;
use exhibit_coordinator::store::faulty::{Fault, Op};
use exhibit_evidence::record::{Limits, Outcome};

use crate::world::{Template, World};
use crate::{checks, heard};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_waits_for_what_is_being_written() {
    heard::listen(false);
    let template = Template::make(18 << 20).await;
    let mut world = World::start(&template).await;
    let (order, collection) = world.order().await;
    world.faults.store.fail(Op::PutNew, ".tar.zst", 1, 1, Fault::Delay(Duration::from_millis(1_500)));
    world.submit(&order).await.expect("admitted");
    let begun = |world: &World| world.faults.store.calls().iter().filter(|(_, name)| name.ends_with(".tar.zst")).count() == 2;
    while !begun(&world) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // As the timer does when time is up.
    let parts = std::sync::Arc::clone(&world.coordinator().running.parts);
    let ending = Ending { outcome: Outcome::Partial, reason: Some("time is up".to_owned()), refusal: None };
    let ended = dispatch::end(&parts, &collection, &[State::Running], ending).await.expect("ended");
    assert!(ended.is_some(), "it was running");
    parts.uploads.cut(&collection);
    drop(parts);
    let closed = async {
        while !world.row(&collection).await.is_some_and(|row| row.state.is_closed()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), closed).await.expect("it is closed");
    // Time for what would come late.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.end_agent(Duration::from_mins(1)).await, "the agent is free");
    let outcome = tokio::task::block_in_place(|| checks::sound(&world, &collection));
    assert_eq!(outcome, Ok(Some(Outcome::Partial)));
    tokio::task::block_in_place(|| checks::promises(&world, &collection)).expect("what was acknowledged is there");
}

/// The agent connects, and while the coordinator still compares what the agent said with what is open, an order comes and
/// is offered. What the agent began then must not be taken for something that an earlier process left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_in_the_moment_of_connecting_is_begun_once() {
    heard::listen(false);
    let template = Template::make(9 << 20).await;
    let mut world = World::start(&template).await;
    // Slow enough to be under way for a while.
    let (order, collection) = world.order_with(Limits { send_bytes_per_s: Some(4 << 20), ..Limits::default() }).await;
    let looks = |world: &World| world.faults.catalog.calls().iter().filter(|op| **op == "collections").count();
    let before = looks(&world);
    world.faults.catalog.fail("collections", 0, 3, catalog::Fault::Delay(Duration::from_millis(700)));
    // The agent connects again.
    world.restart().await;
    let id = world.agent_id();
    while looks(&world) == before || !world.coordinator().running.parts.sessions.is_online(&id) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.submit(&order).await.expect("admitted");
    let closed = async {
        while !world.row(&collection).await.is_some_and(|row| row.state.is_closed()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), closed).await.expect("it is closed");
    assert!(world.end_agent(Duration::from_mins(1)).await, "the agent is free");
    let stored = tokio::task::block_in_place(|| checks::check(&world, &collection)).expect("whole");
    assert_eq!(stored.streams, 1);
    let row = world.row(&collection).await.expect("row");
    assert_eq!(row.stream.0, 1, "it was begun once");
}
