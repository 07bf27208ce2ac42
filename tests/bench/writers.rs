//! Records a second and the time of one append, for one writer and for eight at once, on a local disk and on an S3 server.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use exhibit_coordinator::ledger::Ledger;
use exhibit_coordinator::store::{LocalStore, RemoteKind, RemoteSettings, RemoteStore, Store};
use exhibit_evidence::id::CaseId;
use exhibit_evidence::layout::LogName;

use super::{access, keys, opening};

/// An S3 server of its own (moto, in memory): its own time is most of what is measured, a real one is a network away.
struct Moto(Child, u16);

impl Moto {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(command.spawn().expect("moto_server is installed: tests/run does it"), port);
        exhibit_tests::wait_until(Duration::from_secs(30), "the S3 server answers", || server.make_bucket().is_some());
        server
    }

    fn make_bucket(&self) -> Option<()> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "PUT /evidence HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", self.1).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains(" 200 ").then_some(())
    }

    fn store(&self) -> Arc<dyn Store> {
        let settings = RemoteSettings {
            kind: RemoteKind::S3,
            account: String::new(),
            lock: None,
            encryption: None,
            bucket: "evidence".to_owned(),
            prefix: String::new(),
            region: "us-east-1".to_owned(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.1)),
            allow_http: true,
            access_key_id: Some("id".to_owned()),
            secret: Some("secret".to_owned()),
        };
        Arc::new(RemoteStore::open(&settings).expect("settings"))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
async fn measure(name: &str, store: &Arc<dyn Store>, writers: u64, records: u64) {
    let log = LogName::Case(CaseId::new(2, [u8::try_from(writers).expect("few"); 10]));
    let ledger = Ledger::open(Arc::clone(store), log, keys(), None).await.expect("opens");
    ledger.append(opening()).await.expect("appended");
    let begun = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                for n in 0..records / writers {
                    let (envelope, begun) = (access(writer * records + n), Instant::now());
                    ledger.append(vec![envelope]).await.expect("appended");
                    times.push(begun.elapsed().as_micros());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("ends"));
    }
    let elapsed = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{name:>8} {writers:>8} {:>10.0} {:>10} {:>10} {:>10}", times.len() as f64 / elapsed, at(50), at(99), at(100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn one_writer_and_eight() {
    println!("{:>8} {:>8} {:>10} {:>10} {:>10} {:>10}", "store", "writers", "records/s", "p50, us", "p99, us", "max, us");
    let dir = tempfile::tempdir().expect("dir");
    let local: Arc<dyn Store> = Arc::new(LocalStore::create(&dir.path().join("store")).expect("store"));
    let moto = Moto::start();
    for (name, store, records) in [("local", local, 1_024), ("s3", moto.store(), 256)] {
        for writers in [1, 8] {
            measure(name, &store, writers, records).await;
        }
    }
}
