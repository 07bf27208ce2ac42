//! Offers and their answers, replays, renewal, and a coordinator that is found again.

use std::sync::Arc;
use std::time::Duration;

use exhibit_agent::clock;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::record::{Record, Refusal};
use exhibit_proto::agent::v1::{Closed, session_response};

use crate::fake::Fake;
use crate::world::{Ordered, World, files_below};

/// The agent's signed refusal of an order.
async fn refusal(fake: &Fake, world: &World, ordered: &Ordered) -> Refusal {
    let collection = ordered.collection();
    let of = |k: &crate::fake::Known| k.replies.iter().rev().find(|r| r.collection == collection && !r.refusal.is_empty()).cloned();
    fake.until("a refusal", |k| of(k).is_some()).await;
    let reply = of(&fake.known()).expect("a refusal");
    let envelope = Envelope::parse(&reply.refusal).expect("envelope");
    match world.key_ring().verify(&envelope).expect("signed by the agent").record() {
        Record::Refusal(refusal) => (**refusal).clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_signed_and_name_the_order() {
    let world = Arc::new(World::new());
    let dir = tempfile::tempdir().expect("folder");
    let fake = Fake::start(&world).await;
    let agent = world.start(&fake.address);
    let expired = world.order(files_below(dir.path()), |o| o.expires_at = clock::wall().plus_s(-1));
    let elsewhere = world.order(files_below(dir.path()), |o| o.targets = vec![exhibit_evidence::AgentId::new(1, [1; 10])]);
    let mut unsigned = world.order(files_below(dir.path()), |_| {});
    unsigned.offer.order = b"{\"payload\":\"\"}".to_vec();
    for (ordered, code) in [(&expired, "expired"), (&elsewhere, "not-a-target"), (&unsigned, "malformed")] {
        fake.say(session_response::Kind::Offer(ordered.offer.clone())).await;
        let refusal = refusal(&fake, &world, ordered).await;
        assert_eq!(refusal.code, code);
        assert_eq!(refusal.predecessor, exhibit_evidence::Digest::of(&ordered.offer.order));
        assert_eq!(refusal.agent, world.agent);
    }
    std::fs::write(world.dir().join("policy.toml"), "captures = [\"network\"]").expect("written");
    let forbidden = world.order(files_below(dir.path()), |_| {});
    fake.say(session_response::Kind::Offer(forbidden.offer.clone())).await;
    assert_eq!(refusal(&fake, &world, &forbidden).await.code, "policy");
    std::fs::write(world.dir().join("policy.toml"), "captures = 7").expect("written");
    let unreadable = world.order(files_below(dir.path()), |_| {});
    fake.say(session_response::Kind::Offer(unreadable.offer.clone())).await;
    let refusal = refusal(&fake, &world, &unreadable).await;
    assert!(refusal.code == "policy" && refusal.message.contains("policy.toml") && refusal.message.contains("line 1"), "{refusal:?}");
    assert_eq!(fake.known().attempts, 0, "nothing was sent");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_executed_once_also_after_a_restart() {
    let world = Arc::new(World::new());
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("x"), b"x").expect("written");
    let fake = Fake::start(&world).await;
    let agent = world.start(&fake.address);
    let ordered = world.order(files_below(dir.path()), |_| {});
    let offer = || session_response::Kind::Offer(ordered.offer.clone());
    fake.say(offer()).await;
    fake.until("the finish", |k| k.finish.is_some()).await;
    fake.say(session_response::Kind::Closed(Closed { collection: ordered.collection(), seal: Vec::new() })).await;
    fake.until("accepted", |k| k.replies.iter().any(|r| r.refusal.is_empty())).await;
    // The done message and the next offer race; the finished collection is on disk soon.
    while !std::fs::read_to_string(world.dir().join("finished.json")).is_ok_and(|t| t.contains(&ordered.collection())) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fake.say(offer()).await;
    assert_eq!(refusal(&fake, &world, &ordered).await.code, "replayed");
    agent.end().await;
    let hellos = fake.known().hellos.len();
    let agent = world.start(&fake.address);
    fake.until("the new process", |k| k.hellos.len() > hellos).await;
    fake.known().replies.clear();
    fake.say(offer()).await;
    assert_eq!(refusal(&fake, &world, &ordered).await.code, "replayed");
    let known = fake.known().hellos.clone();
    assert_ne!(known[0].instance, known[known.len() - 1].instance);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_collection_at_a_time_and_none_is_forgotten() {
    let world = Arc::new(World::new());
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("x"), vec![7; 2 << 20]).expect("written");
    let fake = Fake::start(&world).await;
    let agent = world.start(&fake.address);
    let slow = world.order(files_below(dir.path()), |o| o.limits.read_bytes_per_s = Some(4 << 20));
    let next = world.order(files_below(dir.path()), |_| {});
    fake.say(session_response::Kind::Offer(slow.offer.clone())).await;
    fake.say(session_response::Kind::Offer(next.offer.clone())).await;
    // The same offer again is answered again, not begun again.
    fake.say(session_response::Kind::Offer(slow.offer.clone())).await;
    fake.until("two answers", |k| k.replies.len() >= 2).await;
    assert!(fake.known().replies.iter().take(2).all(|r| r.collection == slow.collection() && r.refusal.is_empty()));
    fake.until("both", |k| k.finished == [slow.collection(), next.collection()]).await;
    assert!(fake.known().replies.iter().any(|r| r.collection == next.collection() && r.refusal.is_empty()));
    fake.check();
    agent.end().await;
}

/// An agent that cannot begin says so, in the next session again, and begins once it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hinders_a_collection_is_said() {
    let world = Arc::new(World::new());
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("x"), b"x").expect("written");
    let fake = Fake::start(&world).await;
    let agent = world.start(&fake.address);
    // A folder stands where the agent writes down what it begins.
    let blocked = world.dir().join("finished.json");
    std::fs::create_dir(&blocked).expect("folder");
    let ordered = world.order(files_below(dir.path()), |_| {});
    let offer = || session_response::Kind::Offer(ordered.offer.clone());
    fake.say(offer()).await;
    let said = |k: &crate::fake::Known| {
        let of_it = k.progress.iter().filter(|p| p.collection == ordered.collection() && p.capture.is_empty());
        of_it.filter(|p| p.current.starts_with("not begun: that it is could not be written down")).count()
    };
    fake.until("why it is not begun", |k| said(k) == 1).await;
    fake.disconnect();
    fake.until("the same in the next session", |k| k.hellos.len() >= 2 && said(k) >= 2).await;
    assert!(fake.known().replies.is_empty(), "it did not begin");
    std::fs::remove_dir(&blocked).expect("removed");
    fake.say(offer()).await;
    fake.until("the finish", |k| k.finish.is_some()).await;
    fake.check();
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_starts_late_is_found_within_seconds() {
    let world = Arc::new(World::new());
    let mut fake = Fake::reserve(&world).await;
    let agent = world.start(&fake.address);
    tokio::time::sleep(Duration::from_millis(500)).await;
    fake.serve().await;
    let begin = clock::monotonic();
    fake.until("a session", |k| !k.hellos.is_empty()).await;
    assert!(clock::monotonic().saturating_sub(begin) < Duration::from_secs(8));
    let hello = fake.known().hellos[0].clone();
    assert!(hello.captures.iter().any(|c| c == "files") && hello.boot_id.len() == 36 && hello.build_sha256.len() == 32);
    fake.say(session_response::Kind::Ping(77)).await;
    fake.until("the answer to a ping", |k| k.heartbeats.iter().any(|h| h.pong == 77 && h.rss_bytes > 0)).await;
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_in_time_and_used() {
    let world = Arc::new(World::with_certificate_life(Duration::from_secs(9)));
    let before = std::fs::read(world.dir().join("tls.pem")).expect("tls.pem");
    let fake = Fake::start(&world).await;
    let agent = world.start(&fake.address);
    fake.until("a renewal and a second session", |k| k.renewals == 1 && k.hellos.len() >= 2).await;
    assert_ne!(std::fs::read(world.dir().join("tls.pem")).expect("tls.pem"), before);
    // Past the end of the first one.
    tokio::time::sleep(Duration::from_secs(5)).await;
    fake.disconnect();
    fake.until("a third session with the new certificate", |k| k.hellos.len() >= 3).await;
    assert_eq!(fake.known().renewals, 1, "the next one is due in hours");
    agent.end().await;
}
