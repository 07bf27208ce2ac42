//! Further coordinators over one deployment's store and PostgreSQL catalog.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fleet::{Agent, Fleet, replace_line};
use crate::process::{Running, wait_until};

/// Another coordinator of a fleet: its own folder and process, the same keys, store and catalog.
#[derive(Debug)]
pub struct Replica {
    dir: PathBuf,
    address: String,
    process: Option<Running>,
}

impl Fleet {
    /// Another coordinator, which does not run yet. The fleet's own has started once.
    ///
    /// # Panics
    /// When its folder cannot be made.
    #[must_use]
    pub fn replica(&self, name: &str) -> Replica {
        let (from, dir) = (self.coordinator_dir(), self.path().join(name));
        copy(&from, &dir, &|file| !matches!(file, "store" | "root" | "admin"));
        let config = dir.join("config.toml");
        replace_line(&config, "path", &format!("{:?}", from.join("store").display().to_string()));
        replace_line(&config, "listen", "\"127.0.0.1:0\"");
        Replica { dir, address: String::new(), process: None }
    }

    /// Starts it, at the same address as before (any free port the first time).
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_replica(&self, replica: &mut Replica) {
        let ready = replica.dir.join("ready");
        let _ = std::fs::remove_file(&ready);
        let mut command = self.program("exhibit-coordinator");
        command.arg("run").arg("--dir").arg(&replica.dir).arg("--ready-file").arg(&ready);
        let mut running = Running::start(&mut command, &replica.dir.with_extension("log"));
        wait_until(Duration::from_secs(40), "another coordinator listens", || {
            assert!(running.is_alive(), "a coordinator ended:\n{}", running.said());
            std::fs::read_to_string(&ready).is_ok_and(|t| t.contains(':'))
        });
        let port = std::fs::read_to_string(&ready).expect("ready file").trim().rsplit(':').next().expect("port").to_owned();
        replace_line(&replica.dir.join("config.toml"), "listen", &format!("\"127.0.0.1:{port}\""));
        replica.address = format!("localhost:{port}");
        replica.process = Some(running);
    }

    /// Tells people, and these agents from their next start on, of all coordinators.
    ///
    /// # Panics
    /// When a configuration cannot be written.
    pub fn tell_of(&self, replicas: &[Replica], agents: &mut [Agent]) {
        let mut all: Vec<String> = std::iter::once(self.address()).chain(replicas.iter().map(|r| r.address.clone())).collect();
        replace_line(&self.home().join("config.toml"), "coordinator", &format!("{all:?}"));
        for agent in agents {
            replace_line(&agent.dir.join("agent.toml"), "coordinators", &format!("{all:?}"));
            // Each begins with another one.
            all.rotate_left(1);
        }
    }
}

impl Replica {
    /// Ends it without warning.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Asks it to end; its exit code.
    ///
    /// # Panics
    /// When it does not run, or does not end.
    pub fn terminate(&mut self) -> i32 {
        self.process.take().expect("it runs").terminate()
    }

    /// What it said so far, over all its lives.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }
}

fn copy(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) {
    std::fs::create_dir(to).expect("folder");
    std::fs::set_permissions(to, std::fs::metadata(from).expect("folder").permissions()).expect("permissions");
    for entry in std::fs::read_dir(from).expect("folder").filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !wanted(&name) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        if entry.file_type().expect("type").is_dir() {
            copy(&source, &target, wanted);
        } else {
            std::fs::copy(&source, &target).expect("copied");
        }
    }
}
