//! Health, readiness and metrics, as a monitor asks for them.

use std::time::Duration;

use exhibit_coordinator::store::Kind;
use exhibit_coordinator::store::faulty::{Fault, Op};

use crate::support::agent::{Agent, Job, file};
use crate::support::world::World;

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
    world.stop().await;
}
