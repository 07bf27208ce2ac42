//! An S3 server for one test: moto, started as a process on a free port and ended with the test.
//!
//! It takes one request at a time: moto looks whether a name is taken and stores afterwards, so that in its usual threads
//! two racing writers of one name could both win, which no store may allow. It has a thread for each connection all the same: a
//! client may open one more than it uses, and with one thread everybody would wait for that.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use exhibit_coordinator::store::{RemoteKind, RemoteSettings};

/// The credentials that it takes.
pub const KEY_ID: &str = "id";
pub const SECRET: &str = "very-secret";

/// How to reach one on this port.
pub fn settings(port: u16, prefix: &str) -> RemoteSettings {
    RemoteSettings {
        kind: RemoteKind::S3,
        bucket: "evidence".to_owned(),
        account: String::new(),
        prefix: prefix.to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        allow_http: true,
        access_key_id: Some(KEY_ID.to_owned()),
        secret: Some(SECRET.to_owned()),
        lock: None,
        encryption: None,
    }
}

pub struct Server {
    process: Child,
    port: u16,
}

impl Server {
    pub fn settings(&self, prefix: &str) -> RemoteSettings {
        settings(self.port, prefix)
    }

    /// How to reach one that was started as Google's.
    pub fn google_settings(&self, prefix: &str) -> RemoteSettings {
        let port = self.port;
        let key = format!(
            r#"{{"gcs_base_url": "http://127.0.0.1:{port}", "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}}"#
        );
        RemoteSettings { kind: RemoteKind::Google, secret: Some(key), endpoint: None, ..settings(port, prefix) }
    }

    /// The port that it listens on.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Makes one more bucket, with these header lines.
    pub fn put_bucket(&self, bucket: &str, headers: &str) -> Option<()> {
        self.try_send("PUT", &format!("/{bucket}"), headers, "").filter(|(code, _)| *code == 200).map(|_| ())
    }

    /// A request as somebody makes it who has the credentials, which moto does not look at: status and body.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        self.try_send(method, path, headers, body).expect("the S3 server answers")
    }

    /// The last 10,000 requests, each with its method and what it was for (`GET /evidence?versions...`).
    pub fn asked(&self) -> Vec<String> {
        self.send("GET", "/-/asked", "", "").1.lines().map(str::to_owned).collect()
    }

    /// From now on a request whose path and query contain this is refused for want of rights; an empty word ends that.
    pub fn refuse(&self, word: &str) {
        assert_eq!(self.send("GET", &format!("/-/refuse?{word}"), "", "").0, 200);
    }

    fn try_send(&self, method: &str, path: &str, headers: &str, body: &str) -> Option<(u16, String)> {
        // Without the header it would take the request for a stranger's and refuse it for that reason alone.
        let signed = "AWS4-HMAC-SHA256 Credential=id/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        request(self.port, signed, method, path, headers, body)
    }
}

/// A request as somebody makes it who has the credentials: status and body.
pub fn request(port: u16, authorization: &str, method: &str, path: &str, headers: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let rest = format!("Authorization: {authorization}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}{rest}\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// moto looks at no signature, so this does in front of it, from the specification of Signature Version 4: headers, query, payload
/// and checksum. Requests that carry `Signature=0` are the test's own, and pass.
const SERVE: &str = r#"
import base64, hashlib, hmac, io, resource, sys, urllib.parse
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

SECRET = sys.argv[2]
# Large objects are files, each with a descriptor.
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
moto = DomainDispatcherApplication(create_backend_app)

def wrong(env, body):
    auth = env.get("HTTP_AUTHORIZATION", "")
    if not auth or auth.endswith("Signature=0"):
        return None
    fields = dict(part.strip().split("=", 1) for part in auth[len("AWS4-HMAC-SHA256 "):].split(","))
    key_id, day, region, service, end = fields["Credential"].split("/")
    header = lambda n: env.get(n.upper().replace("-", "_")) if n in ("content-type", "content-length") else env.get("HTTP_" + n.upper().replace("-", "_"))
    names = fields["SignedHeaders"].split(";")
    unsigned = [k for k in env if k.startswith("HTTP_X_AMZ_") and k[5:].lower().replace("_", "-") not in names]
    if unsigned:
        return f"not signed: {unsigned}"
    payload = header("x-amz-content-sha256")
    if payload != "UNSIGNED-PAYLOAD" and payload != hashlib.sha256(body).hexdigest():
        return "XAmzContentSHA256Mismatch"
    checksum = header("x-amz-checksum-sha256")
    if checksum and checksum != base64.b64encode(hashlib.sha256(body).digest()).decode():
        return "BadDigest"
    quote = lambda text: urllib.parse.quote(text, safe="-_.~")
    path, _, query = env["RAW_URI"].partition("?")
    pairs = sorted((quote(k), quote(v)) for k, v in urllib.parse.parse_qsl(query, keep_blank_values=True))
    canonical = [env["REQUEST_METHOD"], path, "&".join(f"{k}={v}" for k, v in pairs)]
    canonical += [f"{n}:{' '.join(header(n).split())}" for n in names] + ["", ";".join(names), payload]
    scope = f"{day}/{region}/{service}/{end}"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", header("x-amz-date"), scope, hashlib.sha256("\n".join(canonical).encode()).hexdigest()])
    key = ("AWS4" + SECRET).encode()
    for part in (day, region, service, end):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    good = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    return None if good == fields["Signature"] else "SignatureDoesNotMatch"

def checked(env, start):
    body = env["wsgi.input"].read(int(env.get("CONTENT_LENGTH") or 0))
    env["wsgi.input"] = io.BytesIO(body)
    why = wrong(env, body)
    if why is None:
        return moto(env, start)
    start("403 Forbidden", [("Content-Type", "application/xml")])
    return [f"<Error><Code>{why}</Code><Message>{why}</Message></Error>".encode()]
"#;

/// Google Cloud Storage in front of it.
const GOOGLE: &str = include_str!("google.py");
/// The start of whichever is asked for.
const RUN: &str = r#"
import collections, threading
app, turn = google if sys.argv[3] == "google" else checked, threading.Lock()
asked = collections.deque(maxlen=10_000)
to_refuse = [""]

def in_turn(env, start):
    env["wsgi.input"] = io.BytesIO(env["wsgi.input"].read(int(env.get("CONTENT_LENGTH") or 0)))
    said = []
    with turn:
        if env["RAW_URI"] == "/-/asked":
            listed = "\n".join(asked).encode()
            start("200 OK", [("Content-Length", str(len(listed)))])
            return [listed]
        if env["RAW_URI"].startswith("/-/refuse?"):
            to_refuse[0] = env["RAW_URI"].partition("?")[2]
            start("200 OK", [("Content-Length", "0")])
            return [b""]
        asked.append(env["REQUEST_METHOD"] + " " + env["RAW_URI"])
        if to_refuse[0] and to_refuse[0] in env["RAW_URI"]:
            denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            start("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(denied)))])
            return [b"" if env["REQUEST_METHOD"] == "HEAD" else denied]
        body = b"".join(app(env, lambda status, headers, exc_info=None: said.append((status, list(headers)))))
    status, headers = said[-1]
    if not any(name.lower() == "content-length" for name, _ in headers):
        headers.append(("Content-Length", str(len(body))))
    start(status, headers)
    return [body]

run_simple("127.0.0.1", int(sys.argv[1]), in_turn, threaded=True)
"#;

/// Starts the server with an empty bucket `evidence`.
pub fn start() -> Server {
    serve("evidence", "", "s3")
}

/// Starts the server with an empty bucket `evidence`, spoken to as Google Cloud Storage is: a translation of the XML API by its
/// reference (preconditions, generations, locks), and of what the JSON API says of locks, without its sign-in. Amazon's own headers
/// are refused.
pub fn start_as_google() -> Server {
    serve("evidence", "", "google")
}

/// As [`start_as_google`], with a bucket that has versions and object retention.
pub fn start_as_google_with_lock() -> Server {
    serve("evidence", "x-goog-bucket-object-lock-enabled: true\r\n", "google")
}

/// Starts the server with an empty bucket `evidence` that has versions and Object Lock.
pub fn start_with_lock() -> Server {
    serve("evidence", "x-amz-bucket-object-lock-enabled: true\r\n", "s3")
}

fn serve(bucket: &str, headers: &str, dialect: &str) -> Server {
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("address").port();
    let process = Command::new("python3")
        .args(["-c", &[SERVE, GOOGLE, RUN].concat(), &port.to_string(), SECRET, dialect])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 starts");
    let mut server = Server { process, port };
    for _ in 0..600 {
        if server.put_bucket(bucket, headers).is_some() {
            return server;
        }
        let ended = server.process.try_wait().expect("state");
        assert!(ended.is_none(), "the S3 server ended ({ended:?}): is moto installed? tests/run installs it");
        #[allow(clippy::disallowed_methods, reason = "waits for another process, which has no event to wait for")]
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the S3 server did not answer within 30 s");
}
