//! Who is turned away, with what words, on both sides.

use std::sync::Arc;

use exhibit_certs::credential::TlsIdentity;
use exhibit_certs::deployment::NewDeployment;
use exhibit_certs::tls::{client_config, enroll_client_config};
use exhibit_certs::{PeerName, TlsKey};
use exhibit_proto::agent::v1::agent_service_client::AgentServiceClient;
use exhibit_proto::agent::v1::enrollment_service_client::EnrollmentServiceClient;
use exhibit_proto::agent::v1::*;
use exhibit_proto::transport::client::{ConnectError, ConnectErrorKind};
use exhibit_proto::transport::server::Limits;
use rustls::ClientConfig;

use crate::harness::*;

/// Connects with a configuration that must be refused; gives the client's error and the server's words.
async fn refused(new: &NewDeployment, config: Arc<ClientConfig>) -> (ConnectError, String) {
    let server = start(new, Limits::default()).await;
    let error = dial(&server.addr.to_string(), config).await.expect_err("refused");
    (error, server.refusal().await)
}

#[tokio::test]
async fn no_certificate() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits::default()).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(new.deployment.tls_root.clone()).expect("root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut plain = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    plain.alpn_protocols = vec![b"h2".to_vec()];
    let error = dial(&server.addr.to_string(), Arc::new(plain)).await.expect_err("refused");
    assert_eq!(error.kind(), ConnectErrorKind::Identity);
    assert!(error.to_string().contains("requires a client certificate"), "{error}");
    assert!(server.refusal().await.contains("no client certificate"));
}

#[tokio::test]
async fn a_certificate_of_another_deployment() {
    let new = deployment_at("acme", now());
    let other = deployment_at("acme", now());
    let config = client_config(&agent(&other, now()), &new.deployment.tls_root).expect("configuration");
    let (error, server) = refused(&new, config).await;
    assert_eq!(error.kind(), ConnectErrorKind::Identity);
    assert!(error.to_string().contains("belongs to another deployment"), "{error}");
    assert!(server.contains("not issued under this deployment's TLS root"), "{server}");
}

#[tokio::test]
async fn an_expired_certificate() {
    let then = now().plus_s(-10 * DAY_S);
    let new = deployment_at("acme", then);
    let (error, server) = refused(&new, mutual(&new, &agent(&new, then))).await;
    assert_eq!(error.kind(), ConnectErrorKind::Identity);
    assert!(error.to_string().contains("expired"), "{error}");
    assert!(server.contains("expired at") && server.contains("clock"), "{server}");
}

#[tokio::test]
async fn a_certificate_of_the_future() {
    let new = deployment_at("acme", now());
    let (error, server) = refused(&new, mutual(&new, &agent(&new, now().plus_s(DAY_S)))).await;
    assert!(error.to_string().contains("not valid yet"), "{error}");
    assert!(server.contains("valid only from"), "{server}");
}

#[tokio::test]
async fn an_expired_server() {
    let then = now().plus_s(-100 * DAY_S);
    let new = deployment_at("acme", then);
    let server = start(&new, Limits::default()).await;
    let error = dial(&server.addr.to_string(), mutual(&new, &agent(&new, now()))).await.expect_err("refused");
    assert_eq!(error.kind(), ConnectErrorKind::Identity);
    assert!(error.to_string().contains("the peer's certificate expired at"), "{error}");
}

#[tokio::test]
async fn a_server_of_another_deployment() {
    let (new, other) = (deployment_at("acme", now()), deployment_at("acme", now()));
    let server = start(&other, Limits::default()).await;
    let error = dial(&server.addr.to_string(), mutual(&new, &agent(&new, now()))).await.expect_err("refused");
    assert!(error.to_string().contains("not issued under this deployment's TLS root"), "{error}");
}

#[tokio::test]
async fn a_server_under_another_name() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits::default()).await;
    // The same server, reached under an address that its certificate does not name.
    let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.expect("port");
    let address = listener.local_addr().expect("address").to_string();
    let to = server.addr;
    let proxy = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.expect("accept");
        let mut far = tokio::net::TcpStream::connect(to).await.expect("connect");
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    let error = dial(&address, mutual(&new, &agent(&new, now()))).await.expect_err("refused");
    assert!(error.to_string().contains("is not for '127.0.0.2' but for"), "{error}");
    assert!(error.to_string().contains("localhost"), "{error}");
    proxy.abort();
}

/// A certificate of the deployment's own CA with a URI name of the test's choice.
fn forged(new: &NewDeployment, uris: &[&str]) -> Arc<ClientConfig> {
    let dir = tempfile::tempdir().expect("temp");
    new.write(&dir.path().join("d")).expect("written");
    let pem = std::fs::read_to_string(dir.path().join("d/issuing/tls.pem")).expect("CA");
    let ca = rcgen::KeyPair::from_pem(&pem).expect("CA key");
    let issuer = rcgen::Issuer::from_ca_cert_der(new.deployment.issuing.certificate(), ca).expect("CA");
    let key = rcgen::KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "somebody");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().expect("ASCII"))).collect();
    let leaf = params.signed_by(&key, &issuer).expect("signed");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(new.deployment.tls_root.clone()).expect("root");
    let chain = vec![leaf.der().clone(), new.deployment.issuing.certificate().clone()];
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("key");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn certificates_that_name_nobody_here() {
    let new = deployment_at("acme", now());
    let two = [&*format!("spiffe://acme/agent/{AGENT}"), "spiffe://acme/responder/ana"];
    let foreign = format!("spiffe://other/agent/{AGENT}");
    for uris in [&[][..], &["https://acme/agent"], &["spiffe://acme/admin/ana"], &two, &[&*foreign]] {
        let (error, server) = refused(&new, forged(&new, uris)).await;
        assert_eq!(error.kind(), ConnectErrorKind::Identity, "{uris:?}");
        assert!(error.to_string().contains("names nobody whom it serves"), "{uris:?}: {error}");
        assert!(server.contains("neither an agent nor a person of this deployment"), "{uris:?}: {server}");
    }
}

#[tokio::test]
async fn a_coordinators_name_and_a_servers_certificate_are_no_clients() {
    let new = deployment_at("acme", now());
    let name: PeerName = "spiffe://acme/coordinator/server".parse().expect("name");
    let (error, _) = refused(&new, mutual(&new, &client_identity(&new, &name, now()))).await;
    assert!(error.to_string().contains("names nobody whom it serves"), "{error}");
    let (error, server) = refused(&new, mutual(&new, &new.deployment.server)).await;
    assert!(error.to_string().contains("for another purpose"), "{error}");
    assert!(server.contains("for another purpose"), "{server}");
}

#[tokio::test]
async fn another_protocol() {
    let new = deployment_at("acme", now());
    for alpn in [vec![b"http/1.1".to_vec()], vec![]] {
        let mut config = (*mutual(&new, &agent(&new, now()))).clone();
        config.alpn_protocols = alpn.clone();
        let (error, server) = refused(&new, Arc::new(config)).await;
        assert!(server.contains("not a program of this system"), "{alpn:?}: {server}");
        assert_ne!(error.to_string(), "", "{alpn:?}");
    }
}

#[tokio::test]
async fn each_door_serves_only_its_own() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits::default()).await;
    let address = server.addr.to_string();
    let (config, _) = enroll_client_config(pin(&new)).expect("configuration");
    let channel = dial(&address, config).await.expect("connects");
    let status = AgentServiceClient::new(channel).renew(RenewRequest::default()).await.expect_err("not served");
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    let channel = dial(&address, mutual(&new, &agent(&new, now()))).await.expect("connects");
    let status = EnrollmentServiceClient::new(channel).enroll(EnrollRequest::default()).await.expect_err("not served");
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    // A certificate holder who asks for both doors gets the one without authority.
    let mut both = (*mutual(&new, &agent(&new, now()))).clone();
    both.alpn_protocols = vec![b"exhibit-enroll/1".to_vec(), b"h2".to_vec()];
    let channel = dial(&address, Arc::new(both)).await.expect("connects");
    assert_eq!(whoami(channel).await.expect_err("not served").code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn a_root_that_is_not_the_pinned_one() {
    let (new, other) = (deployment_at("acme", now()), deployment_at("acme", now()));
    let server = start(&other, Limits::default()).await;
    let (config, pinned) = enroll_client_config(pin(&new)).expect("configuration");
    let error = dial(&server.addr.to_string(), config).await.expect_err("refused");
    assert_eq!(error.kind(), ConnectErrorKind::Identity);
    assert!(error.to_string().contains(&pin(&new).to_string()) && error.to_string().contains(&pin(&other).to_string()), "{error}");
    assert!(error.to_string().contains("--ca-sha256"), "{error}");
    assert!(pinned.get().is_none());
}

#[tokio::test]
async fn a_copied_root_in_another_chain() {
    // Somebody presents the right root, which is public, behind a leaf of an own CA.
    let (new, other) = (deployment_at("acme", now()), deployment_at("acme", now()));
    let server = start(&other, Limits::default()).await;
    let mut chain = other.deployment.server.chain().to_vec();
    chain.push(new.deployment.tls_root.clone());
    let dir = tempfile::tempdir().expect("temp");
    other.write(&dir.path().join("d")).expect("written");
    let key = TlsKey::from_pem(&std::fs::read(dir.path().join("d/server/tls.pem")).expect("key")).expect("key");
    let liar = TlsIdentity::new(key, chain).expect("leaf and key belong together");
    server.hot.replace(&liar, &new.deployment.tls_root).expect("configuration");
    let (config, pinned) = enroll_client_config(pin(&new)).expect("configuration");
    let error = dial(&server.addr.to_string(), config).await.expect_err("refused");
    assert!(error.to_string().contains("not issued under this deployment's TLS root"), "{error}");
    assert!(pinned.get().is_none());
}

#[tokio::test]
async fn nobody_and_no_tls_at_the_address() {
    let new = deployment_at("acme", now());
    let config = mutual(&new, &agent(&new, now()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address").to_string();
    let plain = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("accept");
        tokio::io::AsyncWriteExt::write_all(&mut tcp, b"SSH-2.0-OpenSSH_9.2\r\n").await.expect("write");
        tcp
    });
    let error = dial(&address, Arc::clone(&config)).await.expect_err("no TLS");
    assert_eq!(error.kind(), ConnectErrorKind::Protocol);
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    drop(plain.await);
    let error = dial(&address, config).await.expect_err("nobody");
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
    assert!(error.to_string().contains("refused") && error.to_string().contains(&address), "{error}");
}
