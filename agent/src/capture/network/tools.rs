//! Programs of the host that are run for what no kernel interface serves well: firewall rules. Fixed argument vectors, no
//! shell, no environment, a time-out and a bound on what they print.
//!
//! A program of a suspect host may lie. What it printed is recorded as what it printed; the path that was run is a fact.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::capture::procfs;

/// How long a program may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of its output: about 150,000 rules.
const STDOUT_BYTES_MAX: u64 = 16 << 20;
const STDERR_BYTES_MAX: u64 = 4 << 10;

/// A program that may be run.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The record's name.
    pub record: &'static str,
    pub program: &'static str,
    pub arguments: &'static [&'static str],
    /// Functions of the kernel of which one must exist: without them there are no rules, and running the program would load
    /// the module. `/sys/module` cannot tell, because most built-in code has no folder there.
    pub only_if: &'static [&'static str],
}

const NF_TABLES: &str = "nf_tables_newrule";
const IPTABLES: &str = "ipt_do_table";
const IP6TABLES: &str = "ip6t_do_table";
const IPSET: &str = "ip_set_type_register";

/// All of them.
pub const TOOLS: &[Tool] = &[
    Tool { record: "nftables.json", program: "nft", arguments: &["-j", "list", "ruleset"], only_if: &[NF_TABLES] },
    Tool { record: "iptables-save.txt", program: "iptables-save", arguments: &["-c"], only_if: &[IPTABLES, NF_TABLES] },
    Tool { record: "ip6tables-save.txt", program: "ip6tables-save", arguments: &["-c"], only_if: &[IP6TABLES, NF_TABLES] },
    Tool { record: "ipset.xml", program: "ipset", arguments: &["list", "-output", "xml"], only_if: &[IPSET] },
];

/// Which of the functions above the running kernel has, modules and built-in code alike. `None` when it does not say: then
/// the programs are run, since rules that are overlooked are worse than a module that is loaded.
#[must_use]
pub fn kernel_functions() -> Option<BTreeSet<&'static str>> {
    // Not by the path: what lies over `/proc` may say that there are no rules.
    let file = procfs::root().and_then(|root| procfs::open_at(root, "kallsyms")).ok()?;
    functions_in(BufReader::with_capacity(64 << 10, File::from(file).take(SYMBOLS_BYTES_MAX)))
}

/// About 250,000 symbols of 60 bytes are usual.
const SYMBOLS_BYTES_MAX: u64 = 256 << 20;

/// Lines `<address> <type> <name>[\t[<module>]]`; any text at all must be there for an answer.
fn functions_in(mut symbols: impl BufRead) -> Option<BTreeSet<&'static str>> {
    let mut found = BTreeSet::new();
    let mut any = false;
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut symbols).take(4096).read_until(b'\n', &mut line) {
            Ok(0) => return any.then_some(found),
            Ok(_) => {}
            Err(_) => return None,
        }
        let Some(name) = crate::capture::live::words(&line).nth(2) else { continue };
        any = true;
        if let Some(wanted) = [NF_TABLES, IPTABLES, IP6TABLES, IPSET].into_iter().find(|w| w.as_bytes() == name) {
            found.insert(wanted);
        }
    }
}

/// Where programs are looked for, absolute, in this order.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Finds a program.
#[must_use]
pub fn find(program: &str) -> Option<String> {
    FOLDERS.iter().map(|f| format!("{f}/{program}")).find(|p| std::fs::metadata(p).is_ok_and(|m| m.is_file()))
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Exit code; `None` when it ended by a signal.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// It printed more than the bound and was killed.
    pub cut: bool,
    pub timed_out: bool,
}

/// Runs a program, in a network namespace if one is given.
///
/// # Errors
/// When it could not be started.
pub fn run(program: &str, arguments: &[&str], netns: Option<&OwnedFd>, patience: Duration) -> Result<Outcome, String> {
    let mut child = spawn(program, arguments, netns)?;
    let pidfd = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok());
    let kill = |fd: &Option<OwnedFd>| fd.as_ref().map(|fd| pidfd_send_signal(fd, Signal::KILL));
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else { return Err("no pipe to it".into()) };
    let (give, taken) = sync_channel(1);
    let waiter = move || {
        let errors = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.take(STDERR_BYTES_MAX).read_to_end(&mut bytes);
            bytes
        });
        let mut outcome = Outcome::default();
        let _ = stdout.take(STDOUT_BYTES_MAX.saturating_add(1)).read_to_end(&mut outcome.stdout);
        if outcome.stdout.len() as u64 > STDOUT_BYTES_MAX {
            outcome.cut = true;
            outcome.stdout.truncate(STDOUT_BYTES_MAX as usize);
            let _ = child.kill();
        }
        if let Ok(status) = child.wait() {
            (outcome.code, outcome.signal) = (status.code(), status.signal());
        }
        outcome.stderr = errors.ok().and_then(|e| e.join().ok()).unwrap_or_default();
        let _ = give.send(outcome);
    };
    std::thread::Builder::new().stack_size(128 << 10).spawn(waiter).map_err(|e| {
        kill(&pidfd);
        format!("no thread to wait for it: {e}")
    })?;
    match taken.recv_timeout(patience) {
        Ok(outcome) => Ok(outcome),
        Err(RecvTimeoutError::Disconnected) => Err("the thread that waited for it ended".into()),
        Err(RecvTimeoutError::Timeout) => {
            kill(&pidfd);
            // Killed, it ends at once unless it hangs in the kernel; then the waiting thread is left behind with it.
            let mut outcome = taken.recv_timeout(Duration::from_secs(2)).unwrap_or_default();
            outcome.timed_out = true;
            Ok(outcome)
        }
    }
}

fn spawn(program: &str, arguments: &[&str], netns: Option<&OwnedFd>) -> Result<Child, String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    inside(netns, move || command.spawn().map_err(|e| format!("starting it: {e}")))?
}

/// Calls a function on a thread that has entered a network namespace; the thread ends with it, so that no other work of
/// the agent ever runs there. Without a namespace it is simply called.
///
/// # Errors
/// When the thread or the namespace cannot be had.
pub fn inside<T: Send>(netns: Option<&OwnedFd>, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    let Some(netns) = netns else { return Ok(work()) };
    std::thread::scope(|scope| {
        let enter = move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|e| format!("entering the namespace: {e}"))?;
            Ok(work())
        };
        let thread = std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, enter).map_err(|e| e.to_string())?;
        thread.join().unwrap_or_else(|_| Err("the thread failed".to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_built_in_code_and_modules_are_found() {
        let text = b"0000 t nf_tables_newrule\nffff T ipt_do_table\t[ip_tables]\n0000 t not_ip6t_do_table\n";
        assert_eq!(functions_in(&text[..]), Some(BTreeSet::from([NF_TABLES, IPTABLES])));
        assert_eq!(functions_in(&b""[..]), None);
    }
}
