//! What happens to connections when something changes under them.

use std::time::Duration;

use exhibit_proto::agent::v1::agent_service_client::AgentServiceClient;
use exhibit_proto::agent::v1::*;
use exhibit_proto::transport::client::{self, Settings};
use exhibit_proto::transport::server::Limits;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::harness::*;

/// An open session and the means to keep it open.
async fn session(channel: Channel) -> (mpsc::Sender<SessionRequest>, Streaming<SessionResponse>) {
    let (send, receive) = mpsc::channel(4);
    send.send(SessionRequest::default()).await.expect("room");
    let mut stream = AgentServiceClient::new(channel).session(ReceiverStream::new(receive)).await.expect("session").into_inner();
    stream.message().await.expect("answer").expect("answer");
    (send, stream)
}

async fn ends(mut stream: Streaming<SessionResponse>) -> bool {
    timeout(Duration::from_secs(5), async { while let Ok(Some(_)) = stream.message().await {} }).await.is_ok()
}

#[tokio::test]
async fn a_new_server_certificate_counts_from_the_next_connection_on() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits::default()).await;
    let config = mutual(&new, &agent(&new, now()));
    let old = dial(&server.addr.to_string(), config.clone()).await.expect("connects");
    assert_eq!(server_serial(server.addr, config.clone()).await, new.deployment.server.facts().serial);
    let renewed = new.deployment.issuing.issue_server(&new.deployment.name, &names(), now()).expect("issued");
    server.hot.replace(&renewed, &new.deployment.tls_root).expect("swapped");
    assert_eq!(server_serial(server.addr, config).await, renewed.facts().serial);
    whoami(old).await.expect("connections that exist go on");
}

async fn server_serial(addr: std::net::SocketAddr, config: std::sync::Arc<rustls::ClientConfig>) -> String {
    let tcp = tokio::net::TcpStream::connect(addr).await.expect("connects");
    let name = rustls::pki_types::ServerName::from(addr.ip());
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.expect("handshake");
    let chain = tls.get_ref().1.peer_certificates().expect("chain");
    exhibit_certs::x509::read(&chain[0]).expect("certificate").serial
}

#[tokio::test]
async fn a_disconnected_peer_is_cut_at_once_and_others_are_not() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits::default()).await;
    let address = server.addr.to_string();
    let (tell, dropped) = oneshot::channel();
    *server.small.session_dropped.lock().expect("lock") = Some(tell);
    let (_keep, stream) = session(dial(&address, mutual(&new, &agent(&new, now()))).await.expect("connects")).await;
    let (other_keep, mut other) = session(dial(&address, mutual(&new, &new.admin.tls)).await.expect("connects")).await;
    let name = format!("spiffe://acme/agent/{AGENT}");
    assert_eq!(server.registry.connections().len(), 2);
    assert_eq!(server.registry.disconnect(&name), 1);
    assert!(ends(stream).await, "the peer notices");
    timeout(Duration::from_secs(5), dropped).await.expect("the handler's stream is dropped too").expect("told");
    other_keep.send(SessionRequest::default()).await.expect("room");
    other.message().await.expect("others go on").expect("others go on");
    for _ in 0..100 {
        if server.registry.connections().len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(server.registry.connections().len(), 1);
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let new = deployment_at("acme", now());
    let limits = Limits { grace: Duration::from_millis(200), ..Limits::default() };
    let server = start_with(&new, limits, Duration::from_millis(300)).await;
    let (_keep, stream) = session(dial(&server.addr.to_string(), mutual(&new, &agent(&new, now()))).await.expect("connects")).await;
    assert!(ends(stream).await);
}

#[tokio::test]
async fn stopping_ends_open_calls_after_the_grace() {
    let new = deployment_at("acme", now());
    let limits = Limits { grace: Duration::from_millis(300), ..Limits::default() };
    let mut server = start(&new, limits).await;
    let address = server.addr.to_string();
    let (_keep, stream) = session(dial(&address, mutual(&new, &agent(&new, now()))).await.expect("connects")).await;
    server.stop.take().expect("running").send(()).expect("running");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let late = dial(&address, mutual(&new, &agent(&new, now()))).await.expect_err("nothing new while the old ends");
    assert!(late.to_string().contains("refused"), "{late}");
    assert!(ends(stream).await);
    timeout(Duration::from_secs(5), server.task).await.expect("in time").expect("no panic");
    assert!(dial(&address, mutual(&new, &agent(&new, now()))).await.is_err());
}

#[tokio::test]
async fn a_channel_connects_again_with_the_newest_certificate() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits::default()).await;
    let (first, second) = (agent(&new, now()), agent(&new, now()));
    let hot = std::sync::Arc::new(exhibit_certs::tls::HotClient::new(mutual(&new, &first)));
    let mut target = target(&server.addr.to_string(), mutual(&new, &first));
    let source = std::sync::Arc::clone(&hot);
    target.tls = std::sync::Arc::new(move || source.current());
    let channel = client::connect(&target, &Settings::small()).await.expect("connects");
    assert_eq!(whoami(channel.clone()).await.expect("answers")[1], first.facts().serial);
    hot.replace(&second, &new.deployment.tls_root).expect("swapped");
    assert_eq!(whoami(channel.clone()).await.expect("answers")[1], first.facts().serial, "the connection that exists stays");
    server.registry.disconnect(&first.name().to_string());
    let mut serial = None;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Ok(facts) = whoami(channel.clone()).await {
            serial = Some(facts[1].clone());
            break;
        }
    }
    assert_eq!(serial.as_deref(), Some(&*second.facts().serial));
}

#[tokio::test]
async fn a_later_failure_is_told_with_its_reason() {
    let new = deployment_at("acme", now());
    let mut server = start(&new, Limits { grace: Duration::from_millis(100), ..Limits::default() }).await;
    let channel = dial(&server.addr.to_string(), mutual(&new, &agent(&new, now()))).await.expect("connects");
    whoami(channel.clone()).await.expect("answers");
    server.stop.take().expect("running").send(()).expect("running");
    timeout(Duration::from_secs(5), server.task).await.expect("in time").expect("no panic");
    let mut text = String::new();
    for _ in 0..20 {
        let status = whoami(channel.clone()).await.expect_err("nobody is there");
        text = client::describe(&status);
        if text.contains("is it running") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{text}");
}
