//! A deployment with its coordinator and agents.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

use crate::authority::Authority;
use crate::guest::{Guest, GuestPlan};
use crate::process::{Finished, Running, programs, wait_until};

/// A deployment in a temporary folder.
#[derive(Debug)]
pub struct Fleet {
    dir: tempfile::TempDir,
    bin: PathBuf,
    environment: Vec<(String, String)>,
    coordinator: Mutex<Option<Running>>,
    address: Mutex<String>,
}

/// An enrolled agent and its process.
#[derive(Debug)]
pub struct Agent {
    /// Its id.
    pub id: String,
    /// Its state folder.
    pub dir: PathBuf,
    process: Running,
    bin: PathBuf,
}

/// What the verifier said.
#[derive(Debug)]
pub struct Verdict {
    /// Its exit code: 0 sound, 1 findings, 2 unusable.
    pub code: i32,
    /// Its JSON report.
    pub report: Value,
    /// The codes of its findings of severity `error`.
    pub errors: Vec<String>,
}

impl Verdict {
    /// Insists on a sound case.
    ///
    /// # Panics
    /// With the findings.
    #[allow(clippy::must_use_candidate, clippy::return_self_not_must_use, reason = "an assertion")]
    pub fn expect_sound(self) -> Self {
        assert_eq!(self.code, 0, "{:#}", self.report);
        self
    }
}

impl Fleet {
    /// Makes a deployment and starts its coordinator.
    ///
    /// # Panics
    /// When something does not start.
    #[must_use]
    pub fn start() -> Self {
        let fleet = Self::prepare();
        fleet.start_coordinator();
        fleet
    }

    /// Makes a deployment; nothing runs yet.
    ///
    /// # Panics
    /// When init fails.
    #[must_use]
    pub fn prepare() -> Self {
        Self::prepare_with(&[])
    }

    /// [`Fleet::prepare`] with more arguments for init.
    ///
    /// # Panics
    /// When init fails.
    #[must_use]
    pub fn prepare_with(more: &[&str]) -> Self {
        Self::prepare_in(more, &[])
    }

    /// [`Fleet::prepare_with`], where every program has these variables in its environment.
    ///
    /// # Panics
    /// When init fails.
    #[must_use]
    pub fn prepare_in(more: &[&str], environment: &[(&str, &str)]) -> Self {
        let fleet = Self {
            dir: tempfile::tempdir().expect("temporary folder"),
            bin: programs(),
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            coordinator: Mutex::new(None),
            address: Mutex::new("127.0.0.1:0".to_owned()),
        };
        let dir = fleet.coordinator_dir();
        let args = ["--name", "test", "--listen", "127.0.0.1:0", "--host", "localhost", "--host", "127.0.0.1", "--admin", "responder"];
        let _ = Finished::of(fleet.program("exhibit-coordinator").arg("init").arg("--dir").arg(dir).args(args).args(more)).ok();
        fleet
    }

    /// The deployment's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The coordinator's folder.
    #[must_use]
    pub fn coordinator_dir(&self) -> PathBuf {
        self.path().join("coordinator")
    }

    /// The folder with the first responder's identity.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.coordinator_dir().join("admin")
    }

    /// The anchor file.
    #[must_use]
    pub fn anchor(&self) -> PathBuf {
        self.coordinator_dir().join("anchor.json")
    }

    /// The folder of a case in the store.
    #[must_use]
    pub fn case_dir(&self, case: &str) -> PathBuf {
        self.coordinator_dir().join("store/cases").join(case)
    }

    /// Does something while a byte in the middle of a collection's first segment is another one in the store.
    ///
    /// # Panics
    /// When there is no such segment.
    pub fn while_damaged<T>(&self, case: &str, collection: &str, work: impl FnOnce() -> T) -> T {
        let segment = self.case_dir(case).join("collections").join(collection).join("s1/00000000.tar.zst");
        let good = std::fs::read(&segment).expect("segment");
        // What is stored may not be written to.
        let write = |bytes: &[u8]| {
            std::fs::remove_file(&segment).expect("removed");
            std::fs::write(&segment, bytes).expect("written");
        };
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        write(&bad);
        let done = work();
        write(&good);
        done
    }

    /// `host:port` of the running coordinator.
    ///
    /// # Panics
    /// Never in practice: the lock is not poisoned.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.lock().expect("lock").clone()
    }

    /// A command for one of our programs.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env("EXHIBIT_HOME", self.home()).env_remove("RUST_LOG");
        // An S3 server of a test takes any, and nothing else asks for them.
        command.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "very-secret");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Sets a key of the coordinator's configuration; `value` as TOML.
    ///
    /// # Panics
    /// When there is no such key.
    pub fn configure(&self, key: &str, value: &str) {
        replace_line(&self.coordinator_dir().join("config.toml"), key, value);
    }

    /// Lets the coordinator keep a copy of its store in this folder, which is made.
    ///
    /// # Panics
    /// When something cannot be written.
    pub fn copy_into(&self, folder: &Path) {
        std::fs::create_dir(folder).expect("folder");
        let file = self.coordinator_dir().join("config.toml");
        let text = std::fs::read_to_string(&file).expect("configuration");
        let section = format!("\n[copy.store]\nkind = \"local\"\npath = \"{}\"\n", folder.display());
        std::fs::write(file, text + &section).expect("written");
    }

    /// Adds a timestamp authority to the configuration, with a token a second at most.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn add_authority(&self, authority: &Authority, name: &str) {
        let file = self.coordinator_dir().join("config.toml");
        let mut text = std::fs::read_to_string(&file).expect("configuration");
        let (url, crl, root) = (authority.url(), authority.crl(), authority.file("root.pem"));
        let root = root.display();
        let section = format!("\n[[timestamp]]\nname = \"{name}\"\nurl = \"{url}\"\nca = \"{root}\"\ncrls = [\"{crl}\"]\ninterval_s = 1\n");
        text.push_str(&section);
        std::fs::write(file, text).expect("written");
    }

    /// Starts the coordinator on the address that it had before (any free port the first time).
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_coordinator(&self) {
        let ready = self.path().join("ready");
        let _ = std::fs::remove_file(&ready);
        let log = self.path().join("coordinator.log");
        let mut command = self.program("exhibit-coordinator");
        command.arg("run").arg("--dir").arg(self.coordinator_dir()).arg("--ready-file").arg(&ready);
        let mut running = Running::start(&mut command, &log);
        wait_until(Duration::from_secs(20), "the coordinator listens", || {
            assert!(running.is_alive(), "the coordinator ended:\n{}", running.said());
            std::fs::read_to_string(&ready).is_ok_and(|t| t.contains(':'))
        });
        let port = std::fs::read_to_string(&ready).expect("ready file").trim().rsplit(':').next().expect("port").to_owned();
        *self.address.lock().expect("lock") = format!("localhost:{port}");
        let people = self.home().join("config.toml");
        // Who was told of several coordinators keeps them.
        if !std::fs::read_to_string(&people).is_ok_and(|text| text.contains(&format!("localhost:{port}\""))) {
            replace_line(&people, "coordinator", &format!("\"localhost:{port}\""));
        }
        // A restart must come back at the same place.
        replace_line(&self.coordinator_dir().join("config.toml"), "listen", &format!("\"127.0.0.1:{port}\""));
        *self.coordinator.lock().expect("lock") = Some(running);
    }

    /// Ends the coordinator without warning.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_coordinator(&self) {
        self.coordinator.lock().expect("lock").take().expect("the coordinator runs").kill();
    }

    /// Asks the coordinator to end; its exit code.
    ///
    /// # Panics
    /// When it does not run or does not end.
    #[must_use]
    pub fn terminate_coordinator(&self) -> i32 {
        self.coordinator.lock().expect("lock").take().expect("the coordinator runs").terminate()
    }

    /// The coordinator's process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn coordinator_pid(&self) -> u32 {
        self.coordinator.lock().expect("lock").as_ref().expect("the coordinator runs").pid()
    }

    /// Resident and peak memory of the coordinator in bytes.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn coordinator_memory(&self, key: &str) -> u64 {
        self.coordinator.lock().expect("lock").as_ref().expect("the coordinator runs").status_bytes(key).expect("status")
    }

    /// Processor time of the coordinator so far, in seconds: see [`Running::cpu_seconds`].
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn coordinator_cpu_seconds(&self) -> f64 {
        self.coordinator.lock().expect("lock").as_ref().expect("the coordinator runs").cpu_seconds()
    }

    /// What the coordinator said so far.
    #[must_use]
    pub fn coordinator_log(&self) -> String {
        std::fs::read_to_string(self.path().join("coordinator.log")).unwrap_or_default()
    }

    /// Runs `exhibit` with `--json`.
    #[must_use]
    pub fn exhibit(&self, args: &[&str]) -> Finished {
        Finished::of(self.program("exhibit").arg("--json").args(args))
    }

    /// Makes a token: (token, CA digest).
    ///
    /// # Panics
    /// When refused.
    #[must_use]
    pub fn token(&self, extra: &[&str]) -> (String, String) {
        let made = self.exhibit(&[&["token", "create"], extra].concat()).ok().json();
        (text(&made[0], "token"), text(&made[0], "ca_sha256"))
    }

    /// Enrols an agent into a new folder; does not start it.
    ///
    /// # Panics
    /// When a token cannot be made.
    #[must_use]
    pub fn enroll(&self, name: &str) -> (PathBuf, Finished) {
        let (token, ca) = self.token(&[]);
        let dir = self.path().join(name);
        let mut command = self.program("exhibit-agent");
        command.arg("enroll").args(["--coordinator", &self.address(), "--ca-sha256", &ca, "--token", &token]).arg("--dir").arg(&dir);
        (dir, Finished::of(&mut command))
    }

    /// Enrols and starts an agent and waits until it is online.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn agent(&self) -> Agent {
        let number = std::fs::read_dir(self.path())
            .expect("list")
            .filter_map(Result::ok)
            .filter(|e| e.file_name().to_string_lossy().starts_with("agent-"))
            .count();
        self.agent_named(&format!("agent-{number}"))
    }

    /// [`Fleet::agent`] in a folder of this name.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn agent_named(&self, name: &str) -> Agent {
        let before: Vec<String> = self.agents().iter().map(|a| text(a, "agent")).collect();
        let (dir, enrolled) = self.enroll(name);
        let _ = enrolled.ok();
        let id = self.agents().iter().map(|a| text(a, "agent")).find(|a| !before.contains(a)).expect("the enrolled agent is listed");
        let agent = Agent { id, process: run_agent(&self.bin, &dir), dir, bin: self.bin.clone() };
        self.wait_online(&agent);
        agent
    }

    /// Boots a guest in which an agent of this deployment runs, after the plan's scenario, and waits until it is online; its id.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn guest_agent(&self, mut plan: GuestPlan) -> (Guest, String) {
        let before: Vec<String> = self.agents().iter().map(|a| text(a, "agent")).collect();
        let (dir, enrolled) = self.enroll(&format!("guest-{}", before.len()));
        let _ = enrolled.ok();
        let id = self.agents().iter().map(|a| text(a, "agent")).find(|a| !before.contains(a)).expect("the enrolled agent is listed");
        plan.programs.push(self.bin.join("exhibit-agent"));
        plan.files.push((dir, "/agent".to_owned()));
        plan.scenario.push_str("\nexhibit-agent run --dir /agent &\necho \"GUEST agent $!\"\n");
        let mut guest = Guest::boot(&plan);
        guest.wait_for("GUEST done", Duration::from_mins(2));
        wait_until(Duration::from_mins(1), "the guest's agent is online", || {
            self.agents().iter().any(|a| a["agent"] == id.as_str() && a["state"] == "online")
        });
        (guest, id)
    }

    /// Waits until the coordinator sees the agent.
    ///
    /// # Panics
    /// When it does not within 20 seconds.
    pub fn wait_online(&self, agent: &Agent) {
        wait_until(Duration::from_secs(20), "the agent is online", || {
            self.agents().iter().any(|a| a["agent"] == agent.id.as_str() && a["state"] == "online")
        });
    }

    /// All agents.
    ///
    /// # Panics
    /// When the listing fails.
    #[must_use]
    pub fn agents(&self) -> Vec<Value> {
        self.exhibit(&["agents"]).ok().json()
    }

    /// Opens a case; its id.
    ///
    /// # Panics
    /// When refused.
    #[must_use]
    pub fn open_case(&self) -> String {
        let made = self.exhibit(&["case", "open", "--title", "Test", "--legal-basis", "test", "--accountable", "the tester"]).ok().json();
        text(&made[0], "case")
    }

    /// Orders a collection and does not wait; its id.
    ///
    /// # Panics
    /// When refused.
    #[must_use]
    pub fn order(&self, case: &str, agent: &Agent, what: &[&str]) -> String {
        self.order_for(case, &agent.id, what)
    }

    /// [`Fleet::order`] for an agent by its id.
    ///
    /// # Panics
    /// When refused.
    #[must_use]
    pub fn order_for(&self, case: &str, agent: &str, what: &[&str]) -> String {
        let args = [&["collect", "--case", case, "--agent", agent, "--reason", "test"], what].concat();
        let made = self.exhibit(&args).ok().json();
        text(&made[0]["collections"][0], "collection")
    }

    /// Waits until a collection is closed; its last state.
    ///
    /// # Panics
    /// When it is not closed within the limit.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "a test waits for other processes: there is nothing to be woken by")]
    pub fn wait_closed(&self, collection: &str, limit: Duration) -> Value {
        let mut last = Value::Null;
        let begin = std::time::Instant::now();
        while matches!(last["state"].as_str(), Some("unapproved" | "queued" | "offered" | "running" | "ending") | None) {
            assert!(begin.elapsed() < limit, "collection {collection} is not closed within {limit:?}: {last}\n{}", self.coordinator_log());
            std::thread::sleep(Duration::from_millis(20));
            last = self.collection(collection);
        }
        last
    }

    /// One collection as it is now; null when the coordinator does not answer.
    #[must_use]
    pub fn collection(&self, collection: &str) -> Value {
        let listed = self.exhibit(&["collections"]);
        if listed.code != 0 {
            return Value::Null;
        }
        listed.json().into_iter().find(|c| c["collection"] == collection).unwrap_or_default()
    }

    /// Orders a collection and waits until it is closed; its last state.
    ///
    /// # Panics
    /// When it is not closed within two minutes.
    #[must_use]
    pub fn collect(&self, case: &str, agent: &Agent, what: &[&str]) -> Value {
        let collection = self.order(case, agent, what);
        self.wait_closed(&collection, Duration::from_mins(2))
    }

    /// The items of a collection.
    ///
    /// # Panics
    /// When the listing fails.
    #[must_use]
    pub fn items(&self, collection: &str) -> Vec<Value> {
        self.exhibit(&["items", "--collection", collection, "--reason", "test"]).ok().json()
    }

    /// Runs the offline verifier on a case of the store.
    #[must_use]
    pub fn verify(&self, case: &str) -> Verdict {
        self.verify_at(&self.case_dir(case))
    }

    /// Runs the offline verifier on a folder.
    #[must_use]
    pub fn verify_at(&self, folder: &Path) -> Verdict {
        let done = Finished::of(self.program("exhibit-verify").arg(folder).arg("--anchor").arg(self.anchor()).arg("--json"));
        let report: Value =
            serde_json::from_slice(&done.stdout).unwrap_or_else(|_| Value::String(format!("{}{}", done.text(), done.stderr)));
        let errors =
            report["findings"].as_array().into_iter().flatten().filter(|f| f["severity"] == "error").map(|f| text(f, "code")).collect();
        Verdict { code: done.code, report, errors }
    }
}

fn run_agent(bin: &Path, dir: &Path) -> Running {
    let mut command = Command::new(bin.join("exhibit-agent"));
    command.arg("run").arg("--dir").arg(dir).env_remove("RUST_LOG");
    // With its own account of what it sends and what is acknowledged to it.
    command.env("EXHIBIT_LOG", "info,exhibit_agent::upload=debug");
    Running::start(&mut command, &dir.with_extension("log"))
}

impl Agent {
    /// Ends the agent's process without warning.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks the agent to end; its exit code.
    pub fn terminate(&mut self) -> i32 {
        self.process.terminate()
    }

    /// Starts the agent's process again.
    pub fn restart(&mut self) {
        self.process = run_agent(&self.bin, &self.dir);
    }

    /// Makes the agent look for its coordinator at another address, e.g. that of a [`crate::DelayProxy`], from its next
    /// start on.
    ///
    /// # Panics
    /// When its configuration cannot be written.
    pub fn connect_through(&self, address: &str) {
        replace_line(&self.dir.join("agent.toml"), "coordinators", &format!("[\"{address}\"]"));
    }

    /// Its process.
    #[must_use]
    pub const fn process(&self) -> &Running {
        &self.process
    }
}

/// The text of a key.
///
/// # Panics
/// When it is not there.
fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}

/// Replaces the value of the first `key = ...` in a TOML file; `value` as TOML.
pub(crate) fn replace_line(file: &Path, key: &str, value: &str) {
    let old = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let is_key = |line: &str| line.split_once('=').is_some_and(|(k, _)| k.trim() == key);
    let at = old.lines().position(is_key).unwrap_or_else(|| panic!("{}: no line {key} =", file.display()));
    let new: String = old.lines().enumerate().map(|(n, l)| if n == at { format!("{key} = {value}\n") } else { format!("{l}\n") }).collect();
    std::fs::write(file, new).expect("write");
}
