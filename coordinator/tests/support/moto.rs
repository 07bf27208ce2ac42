//! An S3 server for one test: moto, started as a process on a free port and ended with the test.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use exhibit_coordinator::store::S3Settings;

pub struct Server {
    process: Child,
    port: u16,
}

impl Server {
    pub fn settings(&self, prefix: &str) -> S3Settings {
        super::s3_settings(self.port, prefix)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts the server with an empty bucket `evidence`; `None` when the program is not installed.
pub fn start() -> Option<Server> {
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("address").port();
    let process = Command::new("moto_server")
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut server = Server { process, port };
    for _ in 0..600 {
        if put_bucket(port).is_some() {
            return Some(server);
        }
        // Installed through a version manager that has no such program: the shim ends at once.
        if server.process.try_wait().expect("state").is_some() {
            return None;
        }
        #[allow(clippy::disallowed_methods, reason = "waits for another process, which has no event to wait for")]
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("moto_server did not answer within 30 s");
}

fn put_bucket(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "PUT /evidence HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(())
}
