//! Who reaches what, over real connections; and how peers come in and are put out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::support::agent::{Agent, Job};
use crate::support::world::{self, World};
use exhibit_certs::deployment;
use exhibit_certs::issue::ServerNames;
use exhibit_coordinator::authz::TABLE;
use exhibit_evidence::Digest;
use exhibit_proto::agent::v1 as wire;
use exhibit_proto::agent::v1::agent_service_client::AgentServiceClient;
use exhibit_proto::responder::v1 as people;
use exhibit_proto::responder::v1::responder_service_client::ResponderServiceClient;
use exhibit_proto::transport::client;
use prost::Message as _;
use tonic::Code;

#[test]
fn every_rpc_has_a_line_and_every_line_an_rpc() {
    let files = prost_types::FileDescriptorSet::decode(exhibit_proto::DESCRIPTORS).expect("descriptors");
    let mut methods: BTreeSet<String> = BTreeSet::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                methods.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    let table: BTreeSet<String> = TABLE.iter().map(|(path, ..)| (*path).to_owned()).collect();
    assert_eq!(table.len(), TABLE.len(), "a method stands twice in the table");
    let missing: Vec<_> = methods.difference(&table).collect();
    assert!(missing.is_empty(), "rpcs without a line in coordinator/src/authz.rs: {missing:?}");
    let extra: Vec<_> = table.difference(&methods).filter(|m| !m.starts_with("/grpc.health.v1.Health/")).collect();
    assert!(extra.is_empty(), "lines without an rpc: {extra:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_of_peers_do_not_reach_each_others_services() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let as_agent = world::channel(&credential, world.port).await.expect("connects");
    let mut wrong = ResponderServiceClient::new(as_agent);
    let status = wrong.list_cases(people::ListCasesRequest {}).await.map(|_| ()).expect_err("an agent");
    assert_eq!((status.code(), status.message().ends_with("it is for people")), (Code::PermissionDenied, true), "{status}");
    let as_person = world::channel(&world.admin, world.port).await.expect("connects");
    let mut wrong = AgentServiceClient::new(as_person);
    let status = wrong.renew(wire::RenewRequest { tls_csr: vec![] }).await.map(|_| ()).expect_err("a person");
    assert_eq!((status.code(), status.message().ends_with("it is for agents")), (Code::PermissionDenied, true), "{status}");
    let me = world.people.whoami(people::WhoamiRequest { protocol_min: 1, protocol_max: 1 }).await.expect("me").into_inner();
    assert_eq!((me.name.as_str(), me.deployment.as_str(), me.protocol), ("spiffe://test/responder/ada", "test", 1));
    assert!(me.roles.contains(&"responder".to_owned()) && me.limits.is_empty());
    let status = world.people.whoami(people::WhoamiRequest { protocol_min: 7, protocol_max: 9 }).await.expect_err("too new");
    assert!(status.message().contains("7 to 9"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_deployments_certificate_does_not_get_in() {
    let world = World::start().await;
    let params = deployment::Params {
        name: "test".parse().expect("name"),
        admin: "ada".parse().expect("name"),
        server: ServerNames::parse(&["localhost"]).expect("names"),
    };
    let other = deployment::create(&params, &deployment::Seeds::draw().expect("random"), world::now()).expect("deployment");
    // Its certificate under our root: the handshake fails. It trusts our server, so the refusal is the server's.
    let config = exhibit_certs::tls::client_config(&other.admin.tls, &world.admin.tls_root).expect("config");
    let target = client::Target {
        address: format!("localhost:{}", world.port).parse().expect("address"),
        tls: Arc::new(move || Arc::clone(&config)),
        explain: exhibit_certs::tls::explain_tls_error,
    };
    assert!(client::connect(&target, &client::Settings::small()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_work_once_and_a_repeat_gets_the_same_identity() {
    let mut world = World::start().await;
    let token = world.token(1).await;
    let ca = Digest::try_from(token.ca_sha256.as_slice()).expect("digest");
    let enroll = async |token: &str, folder: &str| {
        let dir = world.dir.path().join(folder);
        world::enroll_with(world.port, token, ca, &dir, "web").await
    };
    let first = enroll(&token.token, "a").await.expect("enrolled");
    let again = enroll(&token.token, "a").await.expect("the answer was lost; the same keys ask again");
    assert_eq!(first.name(), again.name());
    assert!(enroll(&token.token, "b").await.expect_err("used").contains("already used"));
    assert!(enroll("exhibit-token-00", "c").await.expect_err("unknown").contains("not a token of this deployment"));
    let agents = world.running().parts.catalog.agents(std::collections::BTreeMap::from([("site".to_owned(), "lab".to_owned())]), None, 10);
    assert_eq!(agents.await.expect("agents").len(), 1);
    // Renewal is for the certificate's own name.
    let channel = world::channel(&first, world.port).await.expect("connects");
    let key = exhibit_certs::TlsKey::generate().expect("key");
    let renewed =
        AgentServiceClient::new(channel).renew(wire::RenewRequest { tls_csr: key.request().expect("csr") }).await.expect("renewed");
    let identity = exhibit_certs::TlsIdentity::from_der(key, &renewed.into_inner().tls_chain).expect("identity");
    let der = identity.chain()[0].clone();
    assert_eq!(&exhibit_certs::tls::peer_from_certificates(&[der]).expect("peer").name, first.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_is_cut_at_once_and_stays_out() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let mut session = agent.session(&[]).await.expect("session");
    let (case, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    session.offer().await;
    let revoke = people::RevokeAgentRequest { agent: agent.id.to_string(), reason: "stolen".to_owned() };
    let row = world.people.revoke_agent(revoke.clone()).await.expect("revoked").into_inner();
    assert_eq!(row.state, "revoked");
    let ended = tokio::time::timeout(Duration::from_secs(5), session.next()).await.expect("at once");
    assert!(ended.is_none(), "{ended:?}");
    let row = world.closed(&job.collection).await;
    assert_eq!(row.state, "failed");
    assert!(row.reason.contains("revoked: stolen"), "{}", row.reason);
    let status = agent.open(&job).await.map(|_| ()).expect_err("out");
    assert!(status.code() == Code::Unauthenticated || status.code() == Code::Unavailable, "{status}");
    world.people.revoke_agent(revoke).await.expect("repeatable");
    let now = world.case(&case).await;
    let order = world.order(&now, std::slice::from_ref(&agent.id));
    let signed = world.sign(&order);
    assert!(world.submit(&signed).await.expect_err("revoked").message().contains("is revoked"));
    world.restart().await;
    let mut again = Agent::new(agent.credential, world.port, 1).await;
    assert_eq!(again.session(&[]).await.map(|_| ()).expect_err("still out").code(), Code::Unauthenticated);
}
