//! A real PostgreSQL server for tests: the installed programs, a folder of its own, and an end with the value.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};

use super::Settings;

/// Where Debian and its relatives put each version's programs.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The role that owns everything in the scratch server.
const ROLE: &str = "exhibit";
/// Waits until a standby has what is committed before that is acknowledged.
const IN_STEP: &str = "DO $$ BEGIN
    FOR i IN 1..300 LOOP
        IF EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync') THEN
            RETURN;
        END IF;
        PERFORM pg_stat_clear_snapshot();
        PERFORM pg_sleep(0.1);
    END LOOP;
    RAISE EXCEPTION 'no standby follows';
END $$";
/// Until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A server that listens on a unix socket and on a loopback port, syncs what it commits, and ends with the value.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    programs: PathBuf,
    port: u16,
    user: Option<(u32, u32)>,
    server: Option<Child>,
}

impl Scratch {
    /// Makes a cluster in a folder, which must be empty, and starts it.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start: tests cannot go on.
    pub async fn start(folder: &Path) -> Self {
        let programs = programs().unwrap_or_else(|| panic!("no PostgreSQL in {VERSIONS}: install the package postgresql"));
        let user = rustix::process::geteuid().is_root().then(unprivileged);
        let mut scratch = Self { folder: folder.to_owned(), programs, port: free_port().expect("a free port"), user, server: None };
        scratch.own(folder);
        let made = scratch
            .program("initdb")
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--username", ROLE, "--pgdata"])
            .arg(scratch.data())
            .stdout(Stdio::null())
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        scratch.resume().await;
        scratch
    }

    /// Another server in an empty folder, which follows this one. From now on nothing is acknowledged here that is not on its disk.
    ///
    /// # Panics
    /// When it cannot be made or does not follow.
    pub async fn standby(&self, folder: &Path) -> Self {
        let port = free_port().expect("a free port");
        let mut standby = Self { folder: folder.to_owned(), programs: self.programs.clone(), port, user: self.user, server: None };
        standby.own(folder);
        let copied = standby
            .program("pg_basebackup")
            .args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--username", ROLE, "--host"])
            .arg(&self.folder)
            .args(["--port", &self.port.to_string(), "--pgdata"])
            .arg(standby.data())
            .output()
            .expect("pg_basebackup runs");
        assert!(copied.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&copied.stderr));
        standby.resume().await;
        self.run("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        self.run("postgres", "SELECT pg_reload_conf()").await;
        self.run("postgres", IN_STEP).await;
        standby
    }

    /// Makes the primary of a standby.
    ///
    /// # Panics
    /// When it cannot become one.
    pub async fn promote(&self) {
        self.run("postgres", "DO $$ BEGIN IF NOT pg_promote() THEN RAISE EXCEPTION 'it is no primary'; END IF; END $$").await;
    }

    /// Starts the server again after [`Scratch::stop`] or [`Scratch::crash`].
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn resume(&mut self) {
        assert!(self.server.is_none(), "it runs");
        let log = std::fs::File::create(self.folder.join("log")).expect("log");
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.folder).args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        // The defaults otherwise, fsync included; only what costs memory in vain is small.
        command.args(["-c", "shared_buffers=32MB", "-c", "max_connections=60"]);
        self.server = Some(command.stdout(Stdio::null()).stderr(log).spawn().expect("postgres runs"));
        let begun = tokio::time::Instant::now();
        while let Err(e) = self.options("postgres").connect().await {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < START_TIMEOUT, "PostgreSQL does not answer: {e}\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it in order: connections are cut, what was committed is on the disk.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Ends it as a crash does: nothing is written any more, the next start recovers.
    pub fn crash(&mut self) {
        self.end(Signal::QUIT);
    }

    /// Ends it without a word (SIGKILL); its processes see that and end as well.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Its loopback port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// A new, empty database.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn database(&self, name: &str) -> Settings {
        self.run("postgres", &format!("CREATE DATABASE {name}")).await;
        self.settings(name)
    }

    /// How to reach a database of that name.
    ///
    /// # Panics
    /// Never: the address is ours.
    #[must_use]
    pub fn settings(&self, name: &str) -> Settings {
        Settings::parse(&self.address(name), Path::new("/"), false).expect("an address")
    }

    /// The address of a database, by its unix socket.
    #[must_use]
    pub fn address(&self, name: &str) -> String {
        format!("postgres://{ROLE}@localhost/{name}?host={}&port={}", self.folder.display(), self.port)
    }

    /// The address of a database, by the loopback port.
    #[must_use]
    pub fn tcp_address(&self, name: &str) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{name}", self.port)
    }

    /// Runs statements as the owner of everything.
    ///
    /// # Panics
    /// When they fail.
    pub async fn run(&self, database: &str, sql: &str) {
        let mut connection = self.options(database).connect().await.expect("connected");
        connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Gives a file of the server's folder to its user, readable by nobody else.
    ///
    /// # Panics
    /// When it cannot.
    pub fn adopt(&self, file: &str) {
        let path = self.folder.join(file);
        if let Some((user, group)) = self.user {
            std::os::unix::fs::chown(&path, Some(user), Some(group)).expect("chown");
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.folder).port(self.port).username(ROLE).database(database)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// PostgreSQL refuses to run as root, and its folder must be its user's.
    fn own(&self, folder: &Path) {
        std::fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("chmod");
        if let Some((user, group)) = self.user {
            std::os::unix::fs::chown(folder, Some(user), Some(group)).expect("chown");
        }
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        // Not where the test stands: that folder may be closed to the server's user.
        command.current_dir(&self.folder).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut server) = self.server.take() else { return };
        if let Some(pid) = Pid::from_raw(server.id() as i32) {
            let _ = kill_process(pid, signal);
        }
        let _ = server.wait();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.crash();
    }
}

/// The programs of the newest version.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS).ok()?.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Some(Path::new(VERSIONS).join(versions.max()?.to_string()).join("bin"))
}

/// The user that the package made.
fn unprivileged() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("the package's user postgres");
    let number = |n: usize| line.split(':').nth(n).and_then(|n| n.parse().ok()).expect("a number");
    (number(2), number(3))
}

fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
