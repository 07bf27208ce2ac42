//! Two coordinators over one PostgreSQL and one store: an agent and people may be connected to either.

use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_coordinator::serve::Running;
use exhibit_evidence::record::Role;
use exhibit_proto::responder::v1 as people;

use crate::support::agent::{self, Agent, Job, file};
use crate::support::deployment::close_logs;
use crate::support::verdict;
use crate::support::world::{People, Place, World, channel};

fn files() -> Vec<agent::File> {
    let big: Vec<u8> = (0..5_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    vec![file("system", "os-release", "NAME=Debian\n"), file("files", "/var/big", big), file("files", "/etc/group", "root:x:0:\n")]
}

async fn state_of(people: &mut People, collection: &str) -> String {
    let request = people::ListCollectionsRequest { collections: vec![collection.to_owned()], ..people::ListCollectionsRequest::default() };
    let mut rows = people.list_collections(request).await.expect("listed").into_inner();
    rows.message().await.expect("row").expect("is there").state
}

async fn soon(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_not_matter_to_which_coordinator_who_is_connected() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Scratch::start(dir.path()).await;
    let mut world = World::start_on(Place { database: Some(server.database("catalog").await), ..Place::default() }).await;
    let (other, mut people_of_other) = world.another().await;

    // The agent is at the first, the order comes to the second, which knows at once what the first wrote.
    let credential = world.enroll("web-1").await;
    let mut at_first = Agent::new(credential, world.port, 1).await;
    let mut session = at_first.session(&[]).await.expect("session");
    let case = world.open_case().await;
    let order = world.order(&case, std::slice::from_ref(&at_first.id));
    let envelope = world.sign(&order);
    people_of_other.submit_order(people::SubmitOrderRequest { order: envelope.as_bytes().to_vec() }).await.expect("admitted");
    let offer = session.offer().await;
    let job = Job::new(&order, &envelope, &at_first.id, 1);
    assert_eq!(offer.collection, job.collection.to_string());
    session.reply(&job.collection, vec![]).await;
    soon("the second sees that it runs", async || state_of(&mut people_of_other, job.collection.as_str()).await == "running").await;
    let online = async |people: &mut People| {
        let mut agents = people.list_agents(people::ListAgentsRequest::default()).await.expect("listed").into_inner();
        agents.message().await.expect("row").expect("one").state
    };
    assert_eq!(online(&mut people_of_other).await, "online");

    // An upload begins at the first and goes on at the second: the same process, its session too.
    let made = job.honest(&files());
    let mut upload = at_first.open(&job).await.expect("let in");
    for part in &made.parts[..2] {
        upload.segment(part).await.expect("acknowledged");
    }
    let mut at_second = Agent::new(Arc::clone(&at_first.credential), other.addr.port(), 1).await;
    let mut second_session = at_second.session(std::slice::from_ref(&job.collection)).await.expect("session");
    assert!(session.next().await.is_none(), "the older session of the process ends");
    let goes_on = at_second.open(&job).await.expect("let in while the first upload is open");
    assert_eq!((goes_on.status.next_segment, goes_on.status.finished), (2, false));
    drop(goes_on);
    assert!(upload.answer().await.is_err(), "the first upload was ended");
    at_second.send_all(&job, &made).await.expect("received");
    second_session.closed().await;
    assert_eq!(state_of(&mut world.people, job.collection.as_str()).await, "sealed");
    assert_eq!(online(&mut world.people).await, "online");

    another_process_is_refused_wherever_it_comes(&world, &mut second_session, &at_second).await;
    what_is_revoked_is_revoked_everywhere(&mut world, &other).await;
    both_write(&mut world, &mut people_of_other).await;
    verdict::sound(&world, &case.case_id);

    a_clock_that_jumps_ends_nothing(&mut world).await;

    // One goes: the other does the chores, and what only one may do.
    other.stop().await;
    let (case, order, envelope) = world.ordered(std::slice::from_ref(&at_first.id)).await;
    let mut agent = Agent::new(Arc::clone(&at_first.credential), world.port, 1).await;
    let mut session = agent.session(&[]).await.expect("session");
    session.offer().await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    agent.send_all(&job, &job.honest(&files())).await.expect("received");
    assert_eq!(world.closed(&job.collection).await.state, "sealed");
    verdict::sound(&world, &case.case_id);
    world.stop().await;
}

/// PostgreSQL crashes and forgets who is connected: the coordinators have not, and a copy of the agent's folder gets in nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_of_the_database_a_connected_agent_is_still_the_only_one() {
    let dir = tempfile::tempdir().expect("dir");
    let mut server = Scratch::start(dir.path()).await;
    let mut world = World::start_on(Place { database: Some(server.database("catalog").await), ..Place::default() }).await;
    let (other, mut people_of_other) = world.another().await;
    let credential = Arc::new(world.enroll("web-1").await);
    let mut genuine = Agent::new(Arc::clone(&credential), world.port, 1).await;
    let mut session = genuine.session(&[]).await.expect("session");
    // What a session asks the catalog at its beginning is answered: without the answer it ends, and the agent comes again.
    let quiet = tokio::time::timeout(Duration::from_secs(2), session.receive_pings()).await;
    assert!(quiet.is_err(), "the session ended by itself");
    server.crash();
    server.resume().await;

    let mut clone = Agent::new(Arc::clone(&credential), other.addr.port(), 9).await;
    // While nobody knows anything the copy may be told to come again; it is never let in.
    let refused = async {
        loop {
            let refused = clone.session(&[]).await.err().expect("the genuine one lives");
            if refused.message().contains("another process with this agent's identity") {
                break;
            }
            assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        refused = tokio::time::timeout(Duration::from_secs(30), refused) => refused.expect("in time"),
        () = session.receive_pings() => panic!("the genuine one was ended"),
    }
    soon("the second sees the agent of the first", async || {
        let agents = people_of_other.list_agents(people::ListAgentsRequest::default()).await;
        let Ok(agents) = agents else { return false };
        agents.into_inner().message().await.is_ok_and(|row| row.is_some_and(|row| row.state == "online"))
    })
    .await;
    other.stop().await;
    world.stop().await;
}

/// The agent's process at the second answers for itself; then it falls silent.
async fn another_process_is_refused_wherever_it_comes(world: &World, living: &mut agent::Session, at: &Agent) {
    let mut thief = Agent::new(Arc::clone(&at.credential), world.port, 9).await;
    let refused = tokio::select! {
        refused = thief.session(&[]) => refused.err().expect("the other process lives"),
        () = living.receive_pings() => panic!("the living one was ended"),
    };
    assert!(refused.message().contains("another process with this agent's identity"), "{refused}");
    assert!(world.incidents().await.iter().any(|i| i.starts_with("duplicate-identity")), "{:?}", world.incidents().await);
}

async fn what_is_revoked_is_revoked_everywhere(world: &mut World, other: &Running) {
    let (credential, _) = world.person("eve", &[Role::Responder], None).await;
    let mut eve = People::new(channel(&credential, other.addr.port()).await.expect("connects"));
    let whoami = async |eve: &mut People| eve.whoami(people::WhoamiRequest { protocol_min: 1, protocol_max: 1 }).await;
    whoami(&mut eve).await.expect("enrolled at the first, known to the second");
    let agent = Arc::new(world.enroll("web-2").await);
    let mut at_second = Agent::new(Arc::clone(&agent), other.addr.port(), 1).await;
    let mut session = at_second.session(&[]).await.expect("session");
    let request = people::RevokeAgentRequest { agent: at_second.id.to_string(), reason: "stolen".to_owned() };
    world.people.revoke_agent(request).await.expect("revoked at the first");
    assert!(session.next().await.is_none(), "its session at the second ends");
    let refused = async || Agent::new(Arc::clone(&agent), other.addr.port(), 1).await.session(&[]).await.is_err();
    soon("it does not come in again", refused).await;
}

/// The process's clock is a day ahead of the database's: nobody is served, and no order expires.
async fn a_clock_that_jumps_ends_nothing(world: &mut World) {
    let agent = crate::support::world::agent_id(&world.enroll("web-4").await);
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent)).await;
    let collection = Job::new(&order, &envelope, &agent, 1).collection.clone();
    exhibit_coordinator::clock::shift::set(86_400);
    let whoami = async |people: &mut People| people.whoami(people::WhoamiRequest { protocol_min: 1, protocol_max: 1 }).await.err();
    let away =
        async || whoami(&mut world.people).await.is_some_and(|e| e.code() == tonic::Code::Unavailable && e.message().contains("clock"));
    soon("it serves nobody", away).await;
    // Time enough for the timers to end what a day ends.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    exhibit_coordinator::clock::shift::set(0);
    soon("it serves again", async || whoami(&mut world.people).await.is_none()).await;
    assert_eq!(world.collection(&collection).await.state, "queued");
    let request = people::CancelCollectionsRequest { order: order.order.to_string(), reason: "over".to_owned(), ..Default::default() };
    world.people.cancel_collections(request).await.expect("cancelled");
}

/// Records in a case's log, as the list of cases says.
async fn listed_size(people: &mut People, case: &people::Case) -> Option<u64> {
    let mut cases = people.list_cases(people::ListCasesRequest::default()).await.expect("listed").into_inner();
    while let Some(row) = cases.message().await.expect("row") {
        if row.case_id == case.case_id {
            return Some(row.log_size);
        }
    }
    None
}

/// Cases opened and orders given at both at once: one deployment, no number given twice.
async fn both_write(world: &mut World, people_of_other: &mut People) {
    let case = world.open_case().await;
    let agent = world.enroll("web-3").await;
    let id = crate::support::world::agent_id(&agent);
    let mut collections = Vec::new();
    for round in 0..3 {
        let orders = [0, 1].map(|_| world.order(&case, std::slice::from_ref(&id)));
        let orders = orders.map(|order| {
            let envelope = world.sign(&order);
            collections.push(Job::new(&order, &envelope, &id, 1).collection.clone());
            envelope
        });
        let [mine, theirs] = orders.map(|order| people::SubmitOrderRequest { order: order.as_bytes().to_vec() });
        let (mine, theirs) = tokio::join!(world.people.submit_order(mine), people_of_other.submit_order(theirs));
        mine.expect("admitted here");
        theirs.expect("admitted there");
        let here = world.case(&case).await.log_size;
        let there = people_of_other.get_case(people::GetCaseRequest { case_id: case.case_id.clone() }).await.expect("case").into_inner();
        assert_eq!((here, there.log_size), (here, here), "round {round}: both know all records");
    }
    // The first has closed the log when the second adds to it: its lists are of now nevertheless.
    close_logs(&world.running().parts.ledgers).await;
    let order = world.order(&case, std::slice::from_ref(&id));
    let envelope = world.sign(&order);
    collections.push(Job::new(&order, &envelope, &id, 1).collection.clone());
    let request = people::SubmitOrderRequest { order: envelope.as_bytes().to_vec() };
    people_of_other.submit_order(request).await.expect("admitted there");
    assert_eq!(listed_size(&mut world.people, &case).await, listed_size(people_of_other, &case).await);
    // One coordinator cancels what the other admitted.
    let request = people::CancelCollectionsRequest {
        collections: collections.iter().map(ToString::to_string).collect(),
        reason: "the test is over".to_owned(),
        ..people::CancelCollectionsRequest::default()
    };
    people_of_other.cancel_collections(request).await.expect("cancelled");
    for collection in &collections {
        assert_eq!(world.closed(collection).await.state, "cancelled");
    }
    verdict::sound(world, &case.case_id);
}
