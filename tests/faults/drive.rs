//! One run: an order, a plan of faults, the end of the faults, the end of the collection.

use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::catalog::{CatalogError, faulty as catalog};
use exhibit_coordinator::store::{Kind, faulty as store};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CollectionId;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::checks::{self, Stored};
use crate::plan::Fault;
use crate::world::{Faults, Template, World};

/// Faults stop after this time, those too that found nothing to break.
const FAULTS_FOR: Duration = Duration::from_secs(6);
/// A collection that has not ended so long after the faults is stuck. The longest wait of either program is 15 seconds.
const STUCK_AFTER: Duration = Duration::from_mins(2);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a run was like.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// What is in the store.
    pub stored: Stored,
    /// From the order to the end of the collection.
    pub time: Duration,
    /// From the end of the faults to the end of the collection; zero when the collection ended first.
    pub recovery: Duration,
    /// Bytes that the agent sent, TLS and everything included.
    pub sent_bytes: u64,
    /// Connections that the agent made.
    pub connections: u64,
    /// Calls of store and catalog before the order was submitted.
    pub calls_before: (usize, usize),
}

/// What the driver does when the agent has sent enough.
#[derive(Debug)]
enum Step {
    Crash(Duration),
    StoreOutage(Kind, Duration),
    CatalogOutage(Duration),
}

/// [`run`] in a world of its own; a panic is a failed run like any other.
pub async fn in_new_world(template: &Arc<Template>, faults: &[Fault]) -> Result<Done, String> {
    let (template, faults) = (Arc::clone(template), faults.to_vec());
    let task = tokio::spawn(async move {
        let mut world = World::start(&template).await;
        run(&mut world, &faults).await
    });
    task.await.unwrap_or_else(|e| Err(e.to_string()))
}

/// Runs a plan and checks everything.
pub async fn run(world: &mut World, faults: &[Fault]) -> Result<Done, String> {
    let (order, collection) = world.order().await;
    let calls_before = (world.faults.store.calls().len(), world.faults.catalog.calls().len());
    let sent_before = world.proxy.up_bytes();
    let mut steps = arm(world, faults);
    let begun = Instant::now();
    let until = begun + FAULTS_FOR;
    submit(world, &order).await?;
    let mut closed = follow(world, &collection, &mut steps, until).await;
    heal(world);
    let healed = Instant::now();
    if closed.is_none() {
        closed = follow(world, &collection, &mut Vec::new(), healed + STUCK_AFTER).await;
    }
    let Some(ended) = closed else {
        let row = world.row(&collection).await;
        let (state, reason) = row.map_or_else(Default::default, |r| (format!("{:?}", r.state), r.reason));
        return Err(format!("stuck: {STUCK_AFTER:?} after the faults it is {state} ({reason:?})"));
    };
    if world.coordinator.is_none() {
        world.restart().await;
    }
    if !world.end_agent(Duration::from_mins(1)).await {
        return Err("the agent still works on the closed collection".to_owned());
    }
    let stored = tokio::task::block_in_place(|| checks::check(world, &collection))?;
    Ok(Done {
        stored,
        time: ended - begun,
        recovery: ended.saturating_duration_since(healed),
        sent_bytes: world.proxy.up_bytes() - sent_before,
        connections: world.proxy.connections(),
        calls_before,
    })
}

/// Nothing fails from now on.
fn heal(world: &World) {
    world.faults.store.heal();
    world.faults.catalog.heal();
    world.proxy.heal();
}

/// Gives the faults to whom they concern; what depends on the agent's bytes is left for [`follow`], the last first.
fn arm(world: &World, faults: &[Fault]) -> Vec<(u64, Step)> {
    let Faults { store, catalog } = &world.faults;
    let sent = world.proxy.up_bytes();
    let mut steps = Vec::new();
    for fault in faults {
        match fault.clone() {
            Fault::Net(mut net) => {
                net.at += if net.way == crate::proxy::Way::Up { sent } else { world.proxy.down_bytes() };
                world.proxy.arm(&[net]);
            }
            Fault::Store(op, names, skip, times, fault) => store.fail(op, names, skip, times, fault),
            Fault::Catalog(op, skip, times, fault) => catalog.fail(op, skip, times, fault),
            Fault::Crash(at, down) => steps.push((sent + at, Step::Crash(down))),
            Fault::StoreOutage(at, kind, time) => steps.push((sent + at, Step::StoreOutage(kind, time))),
            Fault::CatalogOutage(at, time) => steps.push((sent + at, Step::CatalogOutage(time))),
            Fault::Noise(seed, per_mille) => {
                store.fail_at_random(seed, per_mille);
                catalog.fail_at_random(seed, per_mille);
            }
        }
    }
    steps.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    steps
}

/// A responder repeats the same order until it is taken.
async fn submit(world: &mut World, order: &Envelope) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..200 {
        let died = {
            tokio::select! {
                done = world.submit(order) => match done {
                    Ok(()) => return Ok(()),
                    Err(e) => { last = e; false }
                },
                () = world.coordinator().died() => true,
            }
        };
        if died {
            world.restart().await;
        } else {
            sleep(Duration::from_millis(50)).await;
        }
    }
    Err(format!("the order is not taken: {last}"))
}

/// Follows the collection and does what the plan says until it is closed; when it was.
async fn follow(world: &mut World, collection: &CollectionId, steps: &mut Vec<(u64, Step)>, until: Instant) -> Option<Instant> {
    loop {
        let died = {
            tokio::select! {
                () = world.coordinator().died() => true,
                () = sleep(LOOK_EVERY) => false,
            }
        };
        if died {
            world.restart().await;
        }
        if world.row(collection).await.is_some_and(|row| row.state.is_closed()) {
            return Some(Instant::now());
        }
        if Instant::now() >= until {
            return None;
        }
        if steps.last().is_some_and(|(at, _)| world.proxy.up_bytes() >= *at)
            && let Some((_, step)) = steps.pop()
        {
            take(world, step).await;
        }
    }
}

async fn take(world: &mut World, step: Step) {
    let Faults { store, catalog } = world.faults.clone();
    match step {
        Step::Crash(down) => {
            world.crash();
            sleep(down).await;
            world.restart().await;
        }
        Step::StoreOutage(kind, time) => {
            for op in [store::Op::PutNew, store::Op::PutHead] {
                store.fail(op, "", 0, u32::MAX, store::Fault::Before(kind));
            }
            wait(world, time).await;
            store.heal();
        }
        Step::CatalogOutage(time) => {
            for op in catalog::WRITES {
                catalog.fail(op, 0, u32::MAX, catalog::Fault::Before(CatalogError::Busy("injected".to_owned())));
            }
            wait(world, time).await;
            catalog.heal();
        }
    }
}

/// Waits, and starts the coordinator again when it dies meanwhile.
async fn wait(world: &mut World, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        let died = {
            let left = until.saturating_duration_since(Instant::now());
            timeout(left, world.coordinator().died()).await.is_ok()
        };
        if died {
            world.restart().await;
        }
    }
    sleep_until(until).await;
}
