//! What strangers and peers can cost.

use std::time::Duration;

use exhibit_certs::tls::enroll_client_config;
use exhibit_proto::agent::v1::EnrollRequest;
use exhibit_proto::agent::v1::enrollment_service_client::EnrollmentServiceClient;
use exhibit_proto::transport::client::ConnectErrorKind;
use exhibit_proto::transport::server::Limits;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::harness::*;

#[tokio::test]
async fn silent_strangers_are_cut_and_others_are_served_meanwhile() {
    let new = deployment_at("acme", now());
    let limits =
        Limits { handshake_timeout: Duration::from_millis(800), handshakes_max: 8, handshakes_per_address_max: 8, ..Limits::default() };
    let server = start(&new, limits).await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpStream::connect(server.addr).await.expect("connects"));
    }
    let begun = Instant::now();
    let channel = dial(&server.addr.to_string(), mutual(&new, &agent(&new, now()))).await.expect("served");
    whoami(channel).await.expect("served");
    assert!(begun.elapsed() < Duration::from_millis(700), "did not wait for the strangers: {:?}", begun.elapsed());
    for mut tcp in silent {
        let end = timeout(Duration::from_secs(5), tcp.read(&mut [0; 1])).await.expect("cut in time");
        assert!(matches!(end, Ok(0) | Err(_)), "closed, nothing was sent");
    }
    assert_eq!(server.refused.lock().expect("lock").iter().filter(|why| why.contains("no complete TLS handshake")).count(), 6);
}

#[tokio::test]
async fn a_half_sent_hello_is_silence_too() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() }).await;
    let mut tcp = TcpStream::connect(server.addr).await.expect("connects");
    // The head of a TLS record that announces 512 bytes of a ClientHello, and no more.
    tokio::io::AsyncWriteExt::write_all(&mut tcp, &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.expect("write");
    let end = timeout(Duration::from_secs(5), tcp.read(&mut [0; 1])).await.expect("cut in time");
    assert!(matches!(end, Ok(0) | Err(_)));
}

#[tokio::test]
async fn one_address_cannot_take_all_handshakes() {
    let new = deployment_at("acme", now());
    let limits = Limits { handshakes_per_address_max: 2, ..Limits::default() };
    let server = start(&new, limits).await;
    let _silent = [TcpStream::connect(server.addr).await.expect("connects"), TcpStream::connect(server.addr).await.expect("connects")];
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = dial(&server.addr.to_string(), mutual(&new, &agent(&new, now()))).await.expect_err("no room");
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
    assert!(server.refusal().await.contains("too many handshakes from this address"));
}

#[tokio::test]
async fn enrolments_are_limited_per_address() {
    let new = deployment_at("acme", now());
    let limits = Limits { enroll_burst: 2, enroll_interval: Duration::from_millis(400), ..Limits::default() };
    let server = start(&new, limits).await;
    let (config, _) = enroll_client_config(pin(&new)).expect("configuration");
    let address = server.addr.to_string();
    for _ in 0..2 {
        dial(&address, config.clone()).await.expect("within the burst");
    }
    let error = dial(&address, config.clone()).await.expect_err("over the burst");
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
    assert!(error.to_string().contains("limiting enrolments") && error.to_string().contains("starting and waiting"), "{error}");
    assert!(server.refusal().await.contains("too many enrolments"));
    dial(&address, mutual(&new, &agent(&new, now()))).await.expect("the other door is open");
    tokio::time::sleep(Duration::from_millis(500)).await;
    dial(&address, config).await.expect("after the interval");
}

#[tokio::test]
async fn one_enrolment_connection_guesses_few_times() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits::default()).await;
    let (config, _) = enroll_client_config(pin(&new)).expect("configuration");
    let channel = dial(&server.addr.to_string(), config).await.expect("connects");
    let mut answered = 0;
    for _ in 0..50 {
        match EnrollmentServiceClient::new(channel.clone()).enroll(EnrollRequest::default()).await {
            Ok(_) => answered += 1,
            Err(_) => break,
        }
    }
    assert_eq!(answered, 4);
}

#[tokio::test]
async fn an_enrolment_connection_does_not_stay() {
    let new = deployment_at("acme", now());
    let limits = Limits {
        enroll_lifetime: Duration::from_millis(200),
        grace: Duration::from_millis(200),
        enroll_connections_max: 1,
        ..Limits::default()
    };
    let server = start(&new, limits).await;
    let (config, _) = enroll_client_config(pin(&new)).expect("configuration");
    let _first = dial(&server.addr.to_string(), config.clone()).await.expect("connects");
    assert!(dial(&server.addr.to_string(), config.clone()).await.is_err(), "the only place is taken");
    tokio::time::sleep(Duration::from_millis(700)).await;
    dial(&server.addr.to_string(), config).await.expect("the place is free again");
}

#[tokio::test]
async fn connections_are_limited_in_all_and_per_peer() {
    let new = deployment_at("acme", now());
    let limits = Limits { connections_max: 3, connections_per_peer_max: 2, ..Limits::default() };
    let server = start(&new, limits).await;
    let address = server.addr.to_string();
    let config = mutual(&new, &agent(&new, now()));
    let _kept = [dial(&address, config.clone()).await.expect("first"), dial(&address, config.clone()).await.expect("second")];
    assert!(dial(&address, config).await.is_err());
    assert!(server.refusal().await.contains("as many connections as one peer may have"));
    assert_eq!(server.registry.connections().len(), 2);
    let admin = mutual(&new, &new.admin.tls);
    let _third = dial(&address, admin.clone()).await.expect("another peer");
    assert!(dial(&address, admin).await.is_err());
    assert!(server.refused.lock().expect("lock").iter().any(|why| why.contains("as many connections as it allows")));
}

/// Runs in a process of its own, because it takes all file descriptors away.
#[tokio::test]
#[ignore = "started by a_lack_of_file_descriptors_is_waited_out"]
async fn child_without_file_descriptors() {
    let new = deployment_at("acme", now());
    let server = start(&new, Limits::default()).await;
    let config = mutual(&new, &agent(&new, now()));
    whoami(dial(&server.addr.to_string(), config.clone()).await.expect("before")).await.expect("before");
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    // One descriptor for the client; none is left for the server's end.
    taken.pop();
    let tcp = TcpStream::connect(server.addr).await.expect("the kernel accepts");
    let before = cpu_ticks();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spent = cpu_ticks() - before;
    taken.clear();
    assert!(spent < 40, "waited instead of spinning: {spent} ticks of 10 ms in 2 s");
    drop(tcp);
    whoami(dial(&server.addr.to_string(), config).await.expect("after")).await.expect("after");
    println!("waited it out");
}

fn cpu_ticks() -> u64 {
    // Opening needs a descriptor, so this one is kept open from the start.
    use std::io::{Read as _, Seek as _};
    use std::sync::{Mutex, OnceLock};
    static STAT: OnceLock<Mutex<std::fs::File>> = OnceLock::new();
    let file = STAT.get_or_init(|| Mutex::new(std::fs::File::open("/proc/self/stat").expect("opened while there were descriptors")));
    let mut file = file.lock().expect("lock");
    file.rewind().expect("seek");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    let fields: Vec<&str> = text.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

#[test]
fn a_lack_of_file_descriptors_is_waited_out() {
    let exe = std::env::current_exe().expect("test program");
    let output = std::process::Command::new("prlimit")
        .args(["--nofile=48:48", "--"])
        .arg(exe)
        .args(["--exact", "bounds::child_without_file_descriptors", "--ignored", "--nocapture"])
        .output()
        .expect("prlimit of util-linux");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("waited it out"), "{text}");
}
