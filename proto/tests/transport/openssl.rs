//! What another TLS library thinks of our certificates and our server.

use std::path::Path;
use std::process::{Command, Stdio};

use exhibit_proto::transport::server::Limits;

use crate::harness::*;

fn openssl(dir: &Path, args: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(args).current_dir(dir).stdin(Stdio::null()).output().expect("the openssl program");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_chains_verify_and_say_what_they_should() {
    let new = deployment_at("acme", now());
    let dir = tempfile::tempdir().expect("temp");
    let path = dir.path();
    new.write(&path.join("d")).expect("written");
    new.admin.write(&path.join("home")).expect("written");
    let (ok, text) = openssl(
        path,
        &[
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-verify_ip",
            "127.0.0.1",
            "-CAfile",
            "d/tls-root.pem",
            "-untrusted",
            "d/issuing/tls.pem",
            "d/server/tls.pem",
        ],
    );
    assert!(ok, "{text}");
    let (ok, text) = openssl(
        path,
        &["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "home/tls-root.pem", "-untrusted", "home/tls.pem", "home/tls.pem"],
    );
    // The leaf is the first certificate of the file, and the issuing CA is among the untrusted ones.
    assert!(ok, "{text}");
    let (ok, text) =
        openssl(path, &["verify", "-purpose", "sslserver", "-CAfile", "d/tls-root.pem", "-untrusted", "d/issuing/tls.pem", "home/tls.pem"]);
    assert!(!ok, "a client's certificate is no server's: {text}");

    let (_, root) = openssl(path, &["x509", "-in", "d/tls-root.pem", "-noout", "-text"]);
    let key = new.root_evidence.public().id();
    for expected in [
        "CA:TRUE, pathlen:1",
        "URI:spiffe://acme",
        &format!("URI:urn:exhibit:evidence-root:{key}"),
        "ecdsa-with-SHA384",
        "Certificate Sign, CRL Sign",
    ] {
        assert!(root.contains(expected), "{expected}\n{root}");
    }
    let (_, issuing) = openssl(path, &["x509", "-in", "d/issuing/tls.pem", "-noout", "-text"]);
    assert!(issuing.contains("CA:TRUE, pathlen:0"), "{issuing}");
    let (_, admin) = openssl(path, &["x509", "-in", "home/tls.pem", "-noout", "-text"]);
    for expected in
        ["CA:FALSE", "URI:spiffe://acme/responder/ana", "TLS Web Client Authentication", "Subject: CN = ana", "Digital Signature"]
    {
        assert!(admin.contains(expected), "{expected}\n{admin}");
    }
    assert!(!admin.contains("TLS Web Server Authentication"), "{admin}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_client_connects_with_a_certificate_and_only_with_tls_1_3() {
    let new = deployment_at("acme", now());
    let dir = tempfile::tempdir().expect("temp");
    new.admin.write(&dir.path().join("home")).expect("written");
    let server = start(&new, Limits::default()).await;
    let address = server.addr.to_string();
    let path = dir.path().to_owned();
    let with = [
        "s_client",
        "-connect",
        &address,
        "-CAfile",
        "home/tls-root.pem",
        "-verify_return_error",
        "-verify_ip",
        "127.0.0.1",
        "-alpn",
        "h2",
    ];
    let identity = ["-cert", "home/tls.pem", "-cert_chain", "home/tls.pem", "-key", "home/tls.pem"];
    let run = |more: Vec<&str>| {
        let args: Vec<String> = with.iter().copied().chain(more).map(str::to_owned).collect();
        let path = path.clone();
        async move {
            tokio::task::spawn_blocking(move || openssl(&path, &args.iter().map(String::as_str).collect::<Vec<_>>())).await.expect("ran")
        }
    };
    let (ok, text) = run(identity.to_vec()).await;
    assert!(ok && text.contains("TLSv1.3") && text.contains("ALPN protocol: h2") && text.contains("Verify return code: 0"), "{text}");
    assert!(!text.contains("New, TLSv1.3, Cipher is (NONE)"), "{text}");
    assert!(server.refused.lock().expect("lock").is_empty(), "{:?}", server.refused.lock().expect("lock"));
    let (ok, text) = run(identity.iter().copied().chain(["-tls1_2"]).collect()).await;
    assert!(!ok && text.contains("alert protocol version"), "{text}");
    assert!(server.refusal().await.contains("does not speak TLS 1.3"), "{}", server.refusal().await);
}
