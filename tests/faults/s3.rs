//! An S3 server that breaks: moto, with a proxy in front, because moto forgets everything when it is started again. What a
//! client sees of a restart is the proxy's doing: connections that end in the middle, new ones that nobody serves.

use std::path::Path;
use std::time::Duration;

use exhibit_coordinator::store::{RemoteStore, Store as _, list_all};
use rustix::process::{Pid, Signal, kill_process};

use crate::proxy::Proxy;

#[allow(dead_code, reason = "the coordinator's suite uses all of it")]
#[path = "../../coordinator/tests/suite/support/moto.rs"]
mod moto;

/// Objects of one case in a run: some hundred collections of a few objects each.
const OBJECTS_MAX: usize = 1 << 20;

/// The server and the way to it.
pub struct Breaking {
    server: moto::Server,
    proxy: Proxy,
}

impl Breaking {
    /// Starts both.
    pub async fn start() -> Self {
        let server = moto::start();
        let proxy = Proxy::start().await;
        proxy.lead_to(server.port());
        Self { server, proxy }
    }

    /// The arguments with which a deployment is made on it, and the environment that holds the credentials.
    pub fn arguments(&self) -> (Vec<String>, [(&'static str, &'static str); 2]) {
        let endpoint = format!("http://{}", self.proxy.addr);
        let arguments = ["--store", "s3", "--bucket", "evidence", "--dangerous-allow-http", "--endpoint", &endpoint];
        (arguments.map(str::to_owned).to_vec(), [("AWS_ACCESS_KEY_ID", moto::KEY_ID), ("AWS_SECRET_ACCESS_KEY", moto::SECRET)])
    }

    /// All connections end at once, and no new one is served until `serve` is called.
    pub fn away(&self) {
        self.proxy.outage(Duration::from_hours(1));
    }

    /// It is served again.
    pub fn back(&self) {
        self.proxy.heal();
    }

    /// It stands still, or goes on: connections stay open and nobody answers.
    pub fn stand_still(&self, still: bool) {
        let pid = Pid::from_raw(i32::try_from(self.server.pid()).expect("a pid")).expect("a pid");
        kill_process(pid, if still { Signal::STOP } else { Signal::CONT }).expect("the server lives");
    }

    /// The store, past the proxy.
    pub fn store(&self) -> RemoteStore {
        RemoteStore::open(&self.server.settings("")).expect("settings")
    }

    /// Copies everything below a folder of the store, past the proxy.
    pub async fn download(&self, folder: &str, to: &Path) {
        let store = self.store();
        for entry in list_all(&store, folder, OBJECTS_MAX).await.expect("listed") {
            let bytes = store.get(&entry.name, entry.size).await.expect("read");
            let path = to.join(entry.name.strip_prefix(folder).expect("below").trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().expect("above")).expect("folder");
            std::fs::write(path, bytes).expect("written");
        }
    }
}
