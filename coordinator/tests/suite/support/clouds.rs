//! Azurite, the emulator of Azure Blob Storage, for one test: started as a process on a free port and ended with the test. With a
//! front where versions and locks are to be there.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use exhibit_coordinator::store::{RemoteKind, RemoteSettings};

pub struct Emulator {
    process: Child,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("address").port()
}

fn run(port: u16, program: &str, args: &[&str]) -> Emulator {
    let process = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut process = process.unwrap_or_else(|e| panic!("{program} does not start ({e}): tests/run installs it"));
    for _ in 0..600 {
        let ended = process.try_wait().expect("state");
        assert!(ended.is_none(), "{program} ended ({ended:?}): tests/run installs it");
        if answers(port) {
            return Emulator { process };
        }
        #[allow(clippy::disallowed_methods, reason = "waits for another process, which has no event to wait for")]
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{program} did not answer within 30 s");
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let asked = write!(stream, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    let mut answer = [0; 5];
    asked.is_ok() && stream.read_exact(&mut answer).is_ok() && answer == *b"HTTP/"
}

/// The account and key that Azurite has when it is told none; both are published with it.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes a container with a Shared Key signature, for which `object_store` has no call.
const PUT_CONTAINER: &str = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
port, account, key, container = sys.argv[1:]
date = email.utils.formatdate(usegmt=True)
headers = {"x-ms-date": date, "x-ms-version": "2021-12-02"}
resource = f"/{account}/{account}/{container}\nrestype:container"
lines = ["PUT", "", "", "", "", "", "", "", "", "", "", ""] + [f"{k}:{v}" for k, v in sorted(headers.items())] + [resource]
mac = hmac.new(base64.b64decode(key), "\n".join(lines).encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(mac).decode()}"
urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{account}/{container}?restype=container", method="PUT", headers=headers))
"#;

/// Azurite with an empty container `evidence`.
pub fn azure() -> (Emulator, RemoteSettings) {
    let (emulator, port) = azurite();
    (emulator, settings(port))
}

/// Versions and locks in front of Azurite, by the reference of Azure's REST API.
const FRONT: &str = include_str!("azure.py");

/// Azurite, and what stands in front of it.
pub struct Front {
    _processes: [Emulator; 2],
    port: u16,
}

impl Front {
    /// A request about an object as somebody makes it who has the account's key: the status.
    pub fn send(&self, method: &str, name: &str, query: &str, headers: &str, body: &str) -> u16 {
        let path = format!("/{ACCOUNT}/evidence/{name}{query}");
        let authorization = format!("SharedKey {ACCOUNT}:Signature=0");
        super::moto::request(self.port, &authorization, method, &path, headers, body).expect("the front answers").0
    }
}

/// Azurite with an empty container `evidence` that has version-level immutability, and where a held blob cannot be written again.
pub fn azure_with_lock() -> (Front, RemoteSettings) {
    azure_where_a_held_blob_is("refused")
}

/// The same with the other reading of what a legal hold forbids: `covered` by a new version.
pub fn azure_where_a_held_blob_is(written_again: &str) -> (Front, RemoteSettings) {
    let (azurite, upstream) = azurite();
    let (port, upstream) = (free_port(), upstream.to_string());
    let front = run(port, "python3", &["-c", FRONT, &port.to_string(), &upstream, ACCOUNT, KEY, "evidence", written_again]);
    (Front { _processes: [front, azurite], port }, settings(port))
}

fn azurite() -> (Emulator, u16) {
    let port = free_port();
    let number = port.to_string();
    let args = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", &number];
    let emulator = run(port, "azurite-blob", &args);
    let made = Command::new("python3").args(["-c", PUT_CONTAINER, &number, ACCOUNT, KEY, "evidence"]).output().expect("python3 starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (emulator, port)
}

fn settings(port: u16) -> RemoteSettings {
    RemoteSettings {
        kind: RemoteKind::Azure,
        account: ACCOUNT.to_owned(),
        endpoint: Some(format!("http://127.0.0.1:{port}/{ACCOUNT}")),
        access_key_id: None,
        secret: Some(KEY.to_owned()),
        ..super::s3_settings(port, "below/here")
    }
}
