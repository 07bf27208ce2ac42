//! A timestamp authority over `https://`: its server must be who the address says, and one that is not is a failure like any other,
//! recorded, and tried again.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::authority::Authority as Running;
use crate::support::world::{Place, World};
use exhibit_coordinator::config::Config;
use exhibit_coordinator::stamp::{Authority, NoToken};
use exhibit_evidence::Digest;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::record::{NotStamped, Record, Stamped};
use exhibit_evidence::timestamp::Request;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The root that is configured, one that nobody configured, and who has which certificate by which of them.
fn make_certificates(folder: &Path) {
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    let openssl = |args: String| {
        let done = Command::new("openssl").args(args.split(' ')).current_dir(folder).output().expect("openssl runs");
        assert!(done.status.success(), "{args}: {}", String::from_utf8_lossy(&done.stderr));
    };
    for root in ["ca", "other"] {
        openssl(format!("{new} -keyout {root}.key -out {root}.pem -subj /CN={root}"));
    }
    for (name, root, host) in [("good", "ca", "localhost"), ("stranger", "other", "localhost"), ("elsewhere", "ca", "tsa.example")] {
        openssl(format!(
            "{new} -CA {root}.pem -CAkey {root}.key -keyout {name}.key -out {name}.pem -subj /CN={name} -addext subjectAltName=DNS:{host} -addext basicConstraints=critical,CA:FALSE"
        ));
    }
}

fn tls(folder: &Path, name: &str) -> ServerConfig {
    let file = |ending: &str| std::fs::read(folder.join(format!("{name}.{ending}"))).expect("file");
    let certificate = CertificateDer::from_pem_slice(&file("pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(&file("key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let begun = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    begun.with_no_client_auth().with_single_cert(vec![certificate], key).expect("they fit")
}

/// Speaks TLS in front of an authority that does not, by a certificate that can be exchanged.
struct Front {
    folder: tempfile::TempDir,
    shown: Arc<Mutex<ServerConfig>>,
    port: u16,
    authority: Running,
}

impl Front {
    async fn start() -> Self {
        let (authority, folder) = (Running::start("p256"), tempfile::tempdir().expect("folder"));
        make_certificates(folder.path());
        std::fs::copy(authority.file("root.pem"), folder.path().join("root.pem")).expect("copied");
        let place: SocketAddr = authority.url().trim_start_matches("http://").trim_end_matches("/tsr").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let port = listener.local_addr().expect("address").port();
        let shown = Arc::new(Mutex::new(tls(folder.path(), "good")));
        tokio::spawn(accept(listener, Arc::clone(&shown), place));
        Self { folder, shown, port, authority }
    }

    fn show(&self, name: &str) {
        *self.shown.lock().expect("lock") = tls(self.folder.path(), name);
    }

    /// The authority as a configuration makes it.
    fn configured(&self, tls_ca: Option<&str>) -> Authority {
        let tls_ca = tls_ca.map_or_else(String::new, |file| format!("tls_ca = \"{file}\"\n"));
        let url = format!("https://localhost:{}/tsr", self.port);
        let text = format!("[[timestamp]]\nname = \"one\"\nurl = \"{url}\"\nca = \"root.pem\"\n{tls_ca}interval_s = 1\n");
        let config = Config { folder: self.folder.path().to_owned(), ..Config::parse(&text).expect("good") };
        config.authorities().expect("an authority").remove(0)
    }
}

async fn accept(listener: TcpListener, shown: Arc<Mutex<ServerConfig>>, place: SocketAddr) {
    while let Ok((near, _)) = listener.accept().await {
        let config: ServerConfig = shown.lock().expect("lock").clone();
        tokio::spawn(async move {
            // Whoever refuses the certificate is gone here.
            let Ok(mut near) = TlsAcceptor::from(Arc::new(config)).accept(near).await else { return };
            let Ok(mut far) = TcpStream::connect(place).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_the_authoritys_is_asked_nothing_and_the_reason_is_told() {
    let front = Front::start().await;
    let request = Request::new(Digest::of(b"a head"), 7);
    front.configured(Some("ca.pem")).ask(&request).await.expect("a token");
    assert_eq!(front.authority.asked(), 1);

    // Public authorities know nothing of the private one; a name by a root that is not the configured one; another's name.
    for (shown, tls_ca, word) in [
        ("good", None, "UnknownIssuer"),
        ("stranger", Some("ca.pem"), "UnknownIssuer"),
        ("elsewhere", Some("ca.pem"), "not valid for name"),
    ] {
        front.show(shown);
        let NoToken { code, message } = front.configured(tls_ca).ask(&request).await.expect_err(shown);
        assert_eq!(code, "unreachable", "{shown}: {message}");
        assert!(message.contains(word) && message.contains("timestamp.tls_ca"), "{shown}: {message}");
    }
    assert_eq!(front.authority.asked(), 1, "nothing is sent to a server that did not prove who it is");

    // Roots that are none are refused at the start.
    let text = "[[timestamp]]\nname = \"one\"\nurl = \"https://localhost/\"\nca = \"root.pem\"\ntls_ca = \"good.key\"\n";
    let config = Config { folder: front.folder.path().to_owned(), ..Config::parse(text).expect("good") };
    let e = config.authorities().expect_err("no certificate").to_string();
    assert!(e.starts_with("timestamp.tls_ca: ") && e.contains("there is no certificate in it") && e.contains("'one'"), "{e}");
}

/// What the log of a case says about its authority.
async fn told(world: &World, case: &CaseId) -> (Vec<NotStamped>, Vec<Stamped>) {
    let log = world.running().parts.ledgers.case(case).await.expect("log");
    let (mut failed, mut stamped) = (Vec::new(), Vec::new());
    for n in 0..log.size() {
        let envelope = log.read(n).await.expect("there");
        match Record::from_payload(envelope.unverified_payload()) {
            Ok(Record::NotStamped(p)) => failed.push(*p),
            Ok(Record::Stamped(p)) => stamped.push(*p),
            _ => {}
        }
    }
    (failed, stamped)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_certificate_is_recorded_and_tried_again_until_it_is_right() {
    let front = Front::start().await;
    front.show("stranger");
    let authorities = vec![front.configured(Some("ca.pem"))];
    let mut world = World::start_on(Place { authorities, ..Place::default() }).await;
    let case: CaseId = world.open_case().await.case_id.parse().expect("id");
    for round in 0.. {
        let (failed, stamped) = told(&world, &case).await;
        assert!(stamped.is_empty(), "{stamped:?}");
        if !failed.is_empty() {
            assert!(failed.iter().all(|f| f.code == "unreachable" && f.message.contains("UnknownIssuer")), "{failed:?}");
            break;
        }
        assert!(round < 300, "the failure is not recorded within 30 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    front.show("good");
    for round in 0.. {
        let (_, stamped) = told(&world, &case).await;
        if !stamped.is_empty() {
            break;
        }
        assert!(round < 300, "it is not tried again within 30 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.stop().await;
}
