//! What an earlier process left is taken up once the store lets it be, whoever has to see to that.

use crate::support::soon;
use crate::support::world::World;
use exhibit_coordinator::store::Kind;
use exhibit_coordinator::store::faulty::{Fault, Op};

fn tries(world: &World) -> usize {
    world.faults.calls().iter().filter(|(op, name)| *op == Op::List && name == "cases").count()
}

async fn told(world: &World) -> usize {
    world.incidents().await.iter().filter(|incident| incident.starts_with("recovery: ")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_the_store_refuses_is_one_incident_and_is_tried_until_it_is_done() {
    let mut world = World::start().await;
    let kept = async |world: &World| world.running().parts.catalog.standing("refused").await.expect("read").unwrap_or_default();
    for (is_refused, times) in [(true, 1), (true, 1), (false, 1), (true, 2)] {
        world.stop().await;
        let before = tries(&world);
        world.faults.heal();
        if is_refused {
            world.faults.fail(Op::List, "cases", 0, 1_000, Fault::Before(Kind::Denied));
        }
        world.restart().await;
        soon("it is looked at", async || if is_refused { tries(&world) > before + 1 } else { kept(&world).await == "{}" }).await;
        assert_eq!(told(&world).await, times, "{is_refused}: {:?}", world.incidents().await);
    }
    world.faults.heal();
    soon("it goes on by itself", async || kept(&world).await == "{}").await;
    world.stop().await;
}
