//! Programs of ours as child processes, ended by their own pid when the test ends, however it ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The folder that holds the built programs: that of the running test, one up from `deps`.
///
/// # Panics
/// When a program was not built; says how to build it.
#[must_use]
pub fn programs() -> PathBuf {
    if let Some(dir) = std::env::var_os("EXHIBIT_BIN") {
        return dir.into();
    }
    let exe = std::env::current_exe().expect("the test knows its own path");
    let dir = exe.ancestors().nth(2).expect("target/<profile>/deps").to_path_buf();
    for name in ["exhibit", "exhibit-agent", "exhibit-coordinator", "exhibit-verify"] {
        assert!(
            dir.join(name).is_file(),
            "{} is not built: run cargo build --workspace --bins with the same profile",
            dir.join(name).display()
        );
    }
    dir
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; -1 when ended by a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let out = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { code: out.status.code().unwrap_or(-1), stdout: out.stdout, stderr: String::from_utf8_lossy(&out.stderr).into_owned() }
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON Lines.
    ///
    /// # Panics
    /// When a line is not JSON.
    #[must_use]
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e} in: {l}"))).collect()
    }

    /// Insists on exit code 0.
    ///
    /// # Panics
    /// With everything the program said.
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self
    }
}

/// A program that runs until it is told to stop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program; what it says goes to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("log file");
        let err = file.try_clone().expect("log file");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(err).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, log: log.to_path_buf() }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it without warning (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM) and waits; its exit code.
    ///
    /// # Panics
    /// When it does not end within 20 seconds.
    pub fn terminate(&mut self) -> i32 {
        let _ = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        let mut code = None;
        wait_until(Duration::from_secs(20), "the program ends on SIGTERM", || {
            code = self.child.try_wait().ok().flatten();
            code.is_some()
        });
        code.and_then(|c| c.code()).unwrap_or(-1)
    }

    /// With what it ended by itself; none while it runs, -1 where a signal ended it.
    #[must_use]
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.try_wait().ok().flatten().map(|status| status.code().unwrap_or(-1))
    }

    /// True while it runs.
    #[must_use]
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// User and system time so far, threads that ended included, in seconds. The kernel counts nanoseconds and shows them
    /// rounded down to ticks of 10 ms (proc(5), `USER_HZ` is 100 on every Linux that we run on).
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The name in brackets may hold anything; utime and stime are the 12th and 13th fields after it.
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        let ticks: f64 = after_name.split(' ').skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
        ticks / 100.0
    }

    /// A value of /proc/PID/status in bytes, e.g. `VmHWM`.
    #[must_use]
    pub fn status_bytes(&self, key: &str) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = text.lines().find(|l| l.starts_with(&format!("{key}:")))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for a condition, looking often.
///
/// # Panics
/// When it does not come true in time.
#[allow(clippy::disallowed_methods, reason = "a test waits for other processes: there is nothing to be woken by")]
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !condition() {
        assert!(begin.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
