//! Enrolment: what is pinned, what is kept, what a repeat does.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use exhibit_agent::clock;
use exhibit_agent::enroll::{self, EnrollError, Request};
use exhibit_certs::credential::Credential;
use exhibit_certs::enrol;
use exhibit_certs::issue::AGENT_LIFE;
use exhibit_certs::name::PeerName;
use exhibit_evidence::key::PublicKey;
use exhibit_evidence::record::Role;
use exhibit_evidence::{AgentId, Digest};
use exhibit_proto::agent::v1::{EnrollRequest, EnrollResponse};
use tonic::{Response, Status};

use crate::fake::Fake;
use crate::world::World;

/// The coordinator's side, as small as it can be: the token `good` works.
#[allow(clippy::result_large_err, reason = "the shape of a service method")]
pub fn enroll(world: &World, request: EnrollRequest) -> Result<Response<EnrollResponse>, Status> {
    let key = PublicKey::from_bytes(&request.evidence_key).map_err(|e| Status::invalid_argument(e.to_string()))?;
    if !enrol::verify_proof(&key, &request.tls_csr, &request.token, &request.proof) {
        return Err(Status::invalid_argument("the proof does not hold"));
    }
    if request.token != "good" {
        return Err(Status::permission_denied("the token has expired; ask for a new one with 'exhibit token create'"));
    }
    let agent = AgentId::of_key(&key.id());
    let name: PeerName = format!("spiffe://acme/agent/{agent}").parse().expect("name");
    let d = &world.new.deployment;
    let enrolment = d.issuer().enrol(&name, key, &[Role::Agent], "token", clock::wall()).expect("enrolment");
    let issued = d.issuing.issue_client(&request.tls_csr, &name, AGENT_LIFE, clock::wall()).expect("issued");
    Ok(Response::new(EnrollResponse {
        agent: agent.to_string(),
        tls_chain: issued.chain.iter().map(|c| c.to_vec()).collect(),
        tls_root: d.tls_root.to_vec(),
        anchor: serde_json::to_vec(&d.anchor).expect("json"),
        enrolments: [&d.issuer_enrolment, &enrolment].map(|e| e.as_bytes().to_vec()).to_vec(),
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_and_a_pin_make_an_agent_that_connects() {
    let world = Arc::new(World::new());
    let fake = Fake::start(&world).await;
    let home = tempfile::tempdir().expect("folder");
    let dir = home.path().join("agent");
    let pin = world.new.deployment.tls_root_sha256();
    let ask = |token, ca_sha256| Request { coordinator: &fake.address, ca_sha256, token, dir: &dir };

    let wrong_pin = enroll::enroll(&ask("good", Digest::of(b"other"))).await.expect_err("another root");
    assert!(matches!(&wrong_pin, EnrollError::Connect(_)) && wrong_pin.to_string().contains("--ca-sha256"), "{wrong_pin}");
    let expired = enroll::enroll(&ask("old", pin)).await.expect_err("expired");
    assert!(matches!(&expired, EnrollError::Refused(_)) && expired.to_string().contains("token"), "{expired}");
    assert!(!Credential::exists(&dir), "nothing was finished");

    let name = enroll::enroll(&ask("good", pin)).await.expect("enrolled");
    let credential = Credential::load(&dir).expect("credential");
    assert_eq!(credential.name().to_string(), name);
    let again = enroll::enroll(&ask("good", pin)).await.expect_err("one folder is one agent");
    assert!(matches!(again, EnrollError::Exists(_)));
    for entry in std::fs::read_dir(&dir).expect("folder") {
        let entry = entry.expect("entry");
        let secret = ["tls.pem", "evidence.key"].iter().any(|n| entry.file_name() == *n);
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
        assert!(!secret || mode == 0o600, "{entry:?} {mode:o}");
    }
    let config = exhibit_agent::config::Config::load(&dir).expect("configuration");
    assert_eq!(config.coordinators, std::slice::from_ref(&fake.address));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_there_becomes_the_agents_own_or_is_left_alone() {
    let world = Arc::new(World::new());
    let fake = Fake::start(&world).await;
    let home = tempfile::tempdir().expect("folder");
    let pin = world.new.deployment.tls_root_sha256();
    let (mine, foreign) = (home.path().join("mine"), home.path().join("foreign"));
    let mode = |dir: &std::path::Path| std::fs::metadata(dir).expect("folder").permissions().mode() & 0o777;
    for (dir, file) in [(&mine, "policy.toml"), (&foreign, "thesis.txt")] {
        std::fs::create_dir(dir).expect("folder");
        std::fs::write(dir.join(file), "").expect("written");
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("mode");
    }
    let ask = |dir| Request { coordinator: &fake.address, ca_sha256: pin, token: "good", dir };
    let refused = enroll::enroll(&ask(&foreign)).await.expect_err("somebody else's");
    assert!(matches!(&refused, EnrollError::NotEmpty(..)) && refused.to_string().contains("thesis.txt"), "{refused}");
    assert!(mode(&foreign) == 0o755 && std::fs::read_dir(&foreign).expect("folder").count() == 1, "nothing was touched");
    enroll::enroll(&ask(&mine)).await.expect("enrolled");
    assert_eq!(mode(&mine), 0o700);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_said_and_keeps_the_keys_for_the_next_try() {
    let world = Arc::new(World::new());
    let mut fake = Fake::reserve(&world).await;
    let home = tempfile::tempdir().expect("folder");
    let dir = home.path().join("agent");
    let address = fake.address.clone();
    let pin = world.new.deployment.tls_root_sha256();
    let ask = || Request { coordinator: &address, ca_sha256: pin, token: "good", dir: &dir };
    let error = enroll::enroll(&ask()).await.expect_err("nobody listens").to_string();
    assert!(error.contains(&address.to_string()), "{error}");
    fake.serve().await;
    enroll::enroll(&ask()).await.expect("the same command works now");
}
