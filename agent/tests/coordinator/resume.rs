//! A stream through broken connections: the same bytes arrive, once, and no break looks like an end.

use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::manifest::Status;
use exhibit_evidence::record::Record;
use exhibit_proto::agent::v1::{Cancel, session_response};

use crate::fake::{Fake, Fault};
use crate::world::{Ordered, World, files_below, noise};

const FILE_BYTES: usize = 5 << 20;
const FILES: u64 = 6;

/// 30 MiB that do not compress: four segments.
fn evidence() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("folder");
    for n in 0..FILES {
        std::fs::write(dir.path().join(format!("{n}.bin")), noise(FILE_BYTES, n)).expect("written");
    }
    dir
}

fn whole(fake: &Fake, world: &World, ordered: &Ordered) {
    let (items, members) = fake.check();
    for n in 0..FILES {
        let name = format!("/{n}.bin");
        let item = items.iter().find(|i| i.path.as_bytes().ends_with(name.as_bytes())).expect("the file's item");
        assert_eq!((item.status, item.sha256), (Status::Collected, Some(Digest::of(&noise(FILE_BYTES, n)))));
        let (_, content) = members.iter().find(|(m, _)| Some(m.location()) == item.location).expect("its member");
        assert_eq!(content[..], noise(FILE_BYTES, n)[..]);
    }
    let known = fake.known();
    let acquisition = Envelope::parse(&known.finish.as_ref().expect("finished").acquisition).expect("envelope");
    let verified = world.key_ring().verify(&acquisition).expect("signed by the agent");
    let Record::Acquisition(record) = verified.record() else { panic!("{verified:?}") };
    assert_eq!(record.predecessor, ordered.envelope.digest());
    assert_eq!((&record.nonce, &record.collection.to_string()), (&ordered.order.nonce, &ordered.collection()));
    assert!(record.complete && record.manifest.items == items.len() as u64 && record.started.offset_ns.is_some());
    assert_eq!(record.tool.sha256, Digest::of(&std::fs::read("/proc/self/exe").expect("own binary")));
    assert_eq!(known.clean_ends, 0, "a broken upload looked like a finished one");
}

async fn through(faults: &[Fault]) {
    let world = Arc::new(World::new());
    let dir = evidence();
    let fake = Fake::start(&world).await;
    fake.known().faults.extend(faults.iter().copied());
    let agent = world.start(&fake.address);
    let ordered = world.order(files_below(dir.path()), |_| {});
    fake.say(session_response::Kind::Offer(ordered.offer.clone())).await;
    fake.until("the finish", |k| k.finish.is_some()).await;
    // A last word that was lost is asked for again.
    fake.until("every fault", |k| k.faults.is_empty() && k.attempts > faults.len() as u32).await;
    whole(&fake, &world, &ordered);
    assert!(fake.known().replies.iter().all(|r| r.refusal.is_empty()));
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_in_the_middle_of_segments() {
    through(&[Fault::CutAfter(0), Fault::CutAfter(1 << 20), Fault::CutAfter(9 << 20), Fault::CutAfter(300_000)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_acknowledgements_and_a_lost_last_word() {
    through(&[Fault::LoseAck, Fault::LoseAck, Fault::LoseDone]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_cannot_now() {
    let answers = [tonic::Code::Unavailable, tonic::Code::ResourceExhausted, tonic::Code::Internal, tonic::Code::FailedPrecondition];
    let faults: Vec<Fault> = answers.into_iter().map(Fault::Answer).chain([Fault::Pause(Duration::from_millis(400))]).collect();
    let world = Arc::new(World::new());
    let dir = evidence();
    let fake = Fake::start(&world).await;
    fake.known().faults.extend(faults);
    let agent = world.start(&fake.address);
    let ordered = world.order(files_below(dir.path()), |_| {});
    fake.say(session_response::Kind::Offer(ordered.offer.clone())).await;
    fake.until("the finish", |k| k.finish.is_some()).await;
    whole(&fake, &world, &ordered);
    assert_eq!(fake.known().attempts, 5);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_dies_and_comes_back() {
    let world = Arc::new(World::new());
    let dir = evidence();
    let mut fake = Fake::start(&world).await;
    let agent = world.start(&fake.address);
    // Slow enough to be caught in the middle.
    let ordered = world.order(files_below(dir.path()), |o| o.limits.send_bytes_per_s = Some(20 << 20));
    fake.say(session_response::Kind::Offer(ordered.offer.clone())).await;
    fake.until("the first segment", |k| !k.stored.is_empty()).await;
    fake.kill();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let before = fake.known().hellos.len();
    fake.serve().await;
    fake.until("a new session", |k| k.hellos.len() > before).await;
    let running = fake.known().hellos.last().expect("hello").running.clone();
    assert_eq!(running, [ordered.collection()], "the same process says what it works on");
    fake.until("the finish", |k| k.finish.is_some()).await;
    whole(&fake, &world, &ordered);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_never_taken_is_given_up_and_the_agent_lives() {
    let world = Arc::new(World::new());
    let dir = evidence();
    let fake = Fake::start(&world).await;
    fake.known().faults.extend([Fault::Answer(tonic::Code::InvalidArgument); 8]);
    let agent = world.start(&fake.address);
    let ordered = world.order(files_below(dir.path()), |_| {});
    fake.say(session_response::Kind::Offer(ordered.offer.clone())).await;
    fake.until("eight attempts", |k| k.attempts == 8).await;
    // It connects anew, which says that nobody works on the collection; what was offered before would be offered again.
    fake.until("a second hello", |k| k.hellos.len() == 2).await;
    let why = |k: &crate::fake::Known| k.progress.iter().any(|p| p.capture.is_empty() && p.current.contains("given up, to be begun again"));
    fake.until("why it was given up", why).await;
    let next = world.order(files_below(dir.path()), |_| {});
    fake.say(session_response::Kind::Offer(next.offer.clone())).await;
    fake.until("the finish", |k| k.finish.is_some()).await;
    whole(&fake, &world, &next);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_sends_what_there_is_as_not_complete() {
    let world = Arc::new(World::new());
    let dir = evidence();
    let fake = Fake::start(&world).await;
    let agent = world.start(&fake.address);
    let ordered = world.order(files_below(dir.path()), |o| o.limits.read_bytes_per_s = Some(4 << 20));
    fake.say(session_response::Kind::Offer(ordered.offer.clone())).await;
    fake.until("progress", |k| k.progress.iter().any(|p| p.raw_bytes > 1 << 20)).await;
    fake.say(session_response::Kind::Cancel(Cancel { collection: ordered.collection(), reason: "enough".to_owned() })).await;
    fake.until("the finish", |k| k.finish.is_some()).await;
    let (items, _) = fake.check();
    assert!(items.iter().any(|i| i.status != Status::Collected && i.reason.as_ref().is_some_and(|r| r.contains("enough"))));
    let acquisition = Envelope::parse(&fake.known().finish.as_ref().expect("finished").acquisition).expect("envelope");
    match world.key_ring().verify(&acquisition).expect("signed").record() {
        Record::Acquisition(record) => assert!(!record.complete && record.reason.as_ref().is_some_and(|r| r.contains("enough"))),
        other => panic!("{other:?}"),
    }
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_told_to_end_finishes_with_what_it_has() {
    let world = Arc::new(World::new());
    let dir = evidence();
    let fake = Fake::start(&world).await;
    let agent = world.start(&fake.address);
    let ordered = world.order(files_below(dir.path()), |o| o.limits.read_bytes_per_s = Some(4 << 20));
    fake.say(session_response::Kind::Offer(ordered.offer.clone())).await;
    fake.until("progress", |k| k.progress.iter().any(|p| p.raw_bytes > 1 << 20)).await;
    agent.end().await;
    assert!(fake.known().finish.is_some());
    fake.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_stays_inside_its_rate() {
    let world = Arc::new(World::new());
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("x"), noise(3 << 20, 1)).expect("written");
    let fake = Fake::start(&world).await;
    let agent = world.start(&fake.address);
    let ordered = world.order(files_below(dir.path()), |o| o.limits.send_bytes_per_s = Some(2 << 20));
    let begin = exhibit_agent::clock::monotonic();
    fake.say(session_response::Kind::Offer(ordered.offer.clone())).await;
    fake.until("the finish", |k| k.finish.is_some()).await;
    let seconds = exhibit_agent::clock::monotonic().saturating_sub(begin).as_secs_f64();
    assert!(seconds > 3.0 / 2.0 - 0.2, "3 MiB at 2 MiB/s took {seconds} s");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_are_compared_while_a_collection_runs() {
    const AHEAD_NS: i64 = 5_000_000_000;
    let world = Arc::new(World::new());
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("x"), noise(3 << 20, 1)).expect("written");
    let fake = Fake::start(&world).await;
    let agent = world.start(&fake.address);
    let ordered = world.order(files_below(dir.path()), |o| o.limits.send_bytes_per_s = Some(2 << 20));
    fake.say(session_response::Kind::Offer(ordered.offer.clone())).await;
    fake.until("the start", |k| !k.replies.is_empty()).await;
    // The host's clock is set back, or the coordinator's forward: it is asked again long before the stream is sent.
    fake.known().clock_ahead_ns = AHEAD_NS;
    fake.say(session_response::Kind::Ping(7)).await;
    fake.until("the finish", |k| k.finish.is_some()).await;
    let acquisition = Envelope::parse(&fake.known().finish.as_ref().expect("finished").acquisition).expect("envelope");
    let verified = world.key_ring().verify(&acquisition).expect("signed by the agent");
    let Record::Acquisition(record) = verified.record() else { panic!("{verified:?}") };
    let (started, ended) = (record.started.offset_ns.expect("measured"), record.ended.offset_ns.expect("measured"));
    assert!(started.abs() < AHEAD_NS / 5 && (ended - AHEAD_NS).abs() < AHEAD_NS / 5, "{started} {ended}");
    agent.end().await;
}
