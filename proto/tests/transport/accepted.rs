//! What works.

use exhibit_certs::tls::{check_anchor, enroll_client_config};
use exhibit_proto::agent::v1::enrollment_service_client::EnrollmentServiceClient;
use exhibit_proto::agent::v1::*;
use exhibit_proto::transport::server::Limits;

use crate::harness::*;

#[tokio::test]
async fn an_agent_is_known_by_its_certificate() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits::default()).await;
    let identity = agent(&new, now());
    let channel = dial(&server.addr.to_string(), mutual(&new, &identity)).await.expect("connects");
    let facts = whoami(channel).await.expect("answers");
    assert_eq!(facts[0], format!("spiffe://acme/agent/{AGENT}"));
    assert_eq!(facts[1], identity.facts().serial);
    assert_eq!(facts[2], identity.facts().sha256.to_string());
    assert!(facts[3].starts_with("127.0.0.1:"));
    assert!(server.refused.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn the_first_admin_connects_by_dns_name() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits::default()).await;
    let address = format!("localhost:{}", server.addr.port());
    let channel = dial(&address, mutual(&new, &new.admin.tls)).await.expect("connects");
    assert_eq!(whoami(channel).await.expect("answers")[0], "spiffe://acme/responder/ana");
}

#[tokio::test]
async fn enrolment_needs_no_certificate_and_yields_the_pinned_root() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits::default()).await;
    let (config, pinned) = enroll_client_config(pin(&new)).expect("configuration");
    assert!(pinned.get().is_none());
    let channel = dial(&server.addr.to_string(), config).await.expect("connects");
    let answer = EnrollmentServiceClient::new(channel).enroll(EnrollRequest::default()).await.expect("answers").into_inner();
    assert_eq!(answer.agent, "127.0.0.1");
    let root = pinned.get().expect("verified");
    assert_eq!(root, new.deployment.tls_root);
    check_anchor(&root, &new.deployment.anchor).expect("the root vouches for the anchor");
    assert!(check_anchor(&root, &deployment_at("acme", now()).deployment.anchor).is_err(), "and for no other");
}
