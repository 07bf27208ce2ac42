//! A start over a store that is away: the program waits for it, says so to whoever asks, and ends when it is told to. What a person must
//! see to ends it at once.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use exhibit_coordinator::store::faulty::{Fault, Op};
use tokio::io::{AsyncReadExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::support::world::World;
use crate::support::{moto, soon};

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_exhibit-coordinator"));
    program.env("AWS_ACCESS_KEY_ID", moto::KEY_ID).env("AWS_SECRET_ACCESS_KEY", moto::SECRET);
    program
}

/// A deployment whose store is an S3 server.
struct Deployment {
    dir: PathBuf,
    /// Where agents and people go.
    port: u16,
    /// Where monitors go.
    http: u16,
}

impl Deployment {
    fn make(server: &moto::Server, dir: &Path) -> Self {
        let made = Self { dir: dir.join("d"), port: free_port(), http: free_port() };
        let mut init = program();
        init.args(["init", "--name", "example.org", "--store", "s3", "--bucket", "evidence", "--dangerous-allow-http", "--endpoint"]);
        init.arg(format!("http://127.0.0.1:{}", server.port())).arg("--listen").arg(format!("127.0.0.1:{}", made.port));
        let done = init.arg("--dir").arg(&made.dir).output().expect("it runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        made.change("[http]\n", &format!("[http]\nlisten = \"127.0.0.1:{}\"\n", made.http));
        made
    }

    fn change(&self, from: &str, to: &str) {
        let file = self.dir.join("config.toml");
        let text = std::fs::read_to_string(&file).expect("the configuration");
        assert!(text.contains(from), "{from} in\n{text}");
        std::fs::write(file, text.replace(from, to)).expect("written");
    }

    fn start(&self) -> Coordinator {
        let log = std::fs::File::create(self.dir.join("log")).expect("a file");
        let process = program().arg("run").arg("--dir").arg(&self.dir).stdout(Stdio::null()).stderr(log).spawn().expect("it runs");
        Coordinator(process)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).expect("its log")
    }

    async fn page(&self, path: &str) -> (u16, String) {
        match reqwest::get(format!("http://127.0.0.1:{}{path}", self.http)).await {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
            Err(e) => (0, e.to_string()),
        }
    }
}

struct Coordinator(Child);

impl Coordinator {
    fn terminate(&self) {
        let done = Command::new("kill").arg("-TERM").arg(self.0.id().to_string()).status().expect("kill runs");
        assert!(done.success());
    }

    async fn ended(&mut self, within: Duration) -> ExitStatus {
        for _ in 0..within.as_millis() / 50 {
            if let Some(status) = self.0.try_wait().expect("its state") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it has not ended within {within:?}");
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From now on `port` leads to the server.
async fn open_the_way(port: u16, server: u16) {
    let way = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = way.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", server)).await.expect("it is there");
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_waited_for_and_sigterm_ends_the_wait() {
    let (server, home, away) = (moto::start(), tempfile::tempdir().expect("dir"), free_port());
    let deployment = Deployment::make(&server, home.path());
    deployment.change(&format!("http://127.0.0.1:{}", server.port()), &format!("http://127.0.0.1:{away}"));

    let mut coordinator = deployment.start();
    soon("it waits", async || deployment.said().contains("waiting: it is tried again for up to 300 s")).await;
    let (status, text) = deployment.page("/ready").await;
    assert!(
        status == 503 && text.contains("\"name\":\"serving\",\"ok\":false") && text.contains("waiting for the store: "),
        "{status} {text}"
    );
    assert_eq!(deployment.page("/health").await, (200, "alive\n".to_owned()));
    // Whoever comes is sent to another coordinator instead of being kept.
    let mut agent = TcpStream::connect(("127.0.0.1", deployment.port)).await.expect("it listens");
    let closed = tokio::time::timeout(Duration::from_secs(5), agent.read(&mut [0; 1])).await.expect("at once");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    coordinator.terminate();
    let status = coordinator.ended(Duration::from_secs(5)).await;
    assert!(status.success() && deployment.said().contains("stopped before anybody was served"), "{status} {}", deployment.said());

    let mut coordinator = deployment.start();
    soon("it waits again", async || deployment.said().contains("waiting: ")).await;
    open_the_way(away, server.port()).await;
    soon("it serves", async || deployment.page("/ready").await.0 == 200).await;
    assert!(deployment.said().contains("no longer waiting"), "{}", deployment.said());
    coordinator.terminate();
    assert!(coordinator.ended(Duration::from_secs(20)).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_pass_ends_the_start_at_once() {
    let (server, home) = (moto::start(), tempfile::tempdir().expect("dir"));
    let deployment = Deployment::make(&server, home.path());
    deployment.change("bucket = \"evidence\"", "bucket = \"absent\"");
    let status = deployment.start().ended(Duration::from_secs(30)).await;
    let said = deployment.said();
    assert!(status.code() == Some(1) && said.contains("there is no such bucket") && !said.contains("waiting"), "{status} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_whoever_asks_for_a_log_ends_the_start_at_once() {
    let mut world = World::start().await;
    world.stop().await;
    world.faults.fail(Op::Get, "deployment/log/", 0, 1_000_000, Fault::Unheard);
    let start = tokio::time::timeout(Duration::from_secs(30), Box::pin(world.try_start()));
    let why = start.await.expect("at once").expect_err("not heard");
    assert!(why.contains("injected fault") && !why.contains("it was tried again"), "{why}");
    world.faults.heal();
    Box::pin(world.try_start()).await.expect("it is heard again");
    world.stop().await;
}
