//! Two more S3 servers, by other hands than moto's, each for one test: started as a process on a free port with an empty bucket
//! `evidence` in a folder of its own, and ended with the test.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use exhibit_coordinator::store::RemoteSettings;

pub struct Server {
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    pub fn settings(&self, prefix: &str) -> RemoteSettings {
        // The only credentials that s3rver has; localbucket looks at none.
        let own = Some("S3RVER".to_owned());
        RemoteSettings { access_key_id: own.clone(), secret: own, ..super::s3_settings(self.port, prefix) }
    }

    /// The server's own log.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("said")).expect("its log")
    }

    /// Sizes of the objects whose names hold this.
    pub fn sizes(&self, part: &str) -> Vec<u64> {
        let (mut folders, mut sizes) = (vec![self.folder.path().join("evidence")], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
                let (path, meta) = (entry.path(), entry.metadata().expect("metadata"));
                if meta.is_dir() {
                    folders.push(path);
                } else if path.to_string_lossy().contains(part) {
                    sizes.push(meta.len());
                }
            }
        }
        sizes
    }

    fn start(program: &str, arguments: impl Fn(&str, &str) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("evidence")).expect("a bucket");
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("address").port();
        let process = Command::new(program)
            .args(arguments(&folder.path().to_string_lossy(), &port.to_string()))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("said")).expect("a file"))
            .spawn()
            .unwrap_or_else(|e| panic!("{program} does not start ({e}): tests/run installs it"));
        let mut server = Self { process, port, folder };
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            let ended = server.process.try_wait().expect("state");
            assert!(ended.is_none(), "{program} ended ({ended:?}): tests/run installs it");
            #[allow(clippy::disallowed_methods, reason = "waits for another process, which has no event to wait for")]
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{program} did not listen within 30 s");
    }
}

/// localbucket: many requests at once, creates by linking a finished file to its name. No versions.
pub fn localbucket() -> Server {
    Server::start("localbucket", |folder, port| ["--port", port, folder].map(str::to_owned).to_vec())
}

/// s3rver: looks at signatures and ignores If-None-Match on writes.
pub fn s3rver() -> Server {
    Server::start("s3rver", |folder, port| {
        ["-d", folder, "-a", "127.0.0.1", "-p", port, "--silent", "--no-vhost-buckets"].map(str::to_owned).to_vec()
    })
}
