//! The agent's own statements: who and what it is, and the signed acquisition record of a stream.

use std::collections::BTreeMap;
use std::io;

use exhibit_evidence::dsse::{BadEnvelope, Envelope};
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::record::{self, Acquisition, Clocks, Footprint, Host, Nonce, Tool};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{Digest, Hasher};
use rustix::io::Errno;
use serde::Deserialize;
use tokio::sync::watch;

use crate::capture::{Moment, own_program, own_status, read_pseudo};
use crate::clock;
use crate::pipeline::{Outcome, StreamFacts};

/// Longest text that a host says about itself.
const TEXT_CHARS_MAX: usize = 255;
const FILE_BYTES_MAX: usize = 64 << 10;
/// Why the agent cannot say what it is.
const NOT_SHOWN: &str =
    "what lies at /proc is no procfs that shows this process: run it with CAP_SYS_ADMIN, or with its own procfs at /proc";
/// cloud-init keeps some tens of kilobytes there.
const INSTANCE_BYTES_MAX: usize = 256 << 10;

/// The host as it describes itself, read anew for each collection.
#[must_use]
pub fn host() -> Host {
    let uname = rustix::system::uname();
    let text = |c: &std::ffi::CStr| bounded(&c.to_string_lossy());
    let kernel = [uname.sysname(), uname.release(), uname.version(), uname.machine()].map(text).join(" ");
    Host {
        hostname: text(uname.nodename()),
        machine_id: line_of(b"/etc/machine-id"),
        boot_id: boot_id(),
        kernel: bounded(&kernel),
        os: os_name(),
        hardware: hardware(),
        cloud: cloud(),
    }
}

/// What the firmware says: the files of /sys/class/dmi/id that tell one machine, or one cloud instance, from another.
fn hardware() -> BTreeMap<String, String> {
    let names = ["sys_vendor", "product_name", "product_uuid", "product_serial", "board_asset_tag", "chassis_asset_tag"];
    let said = |name: &str| Some((name.to_owned(), line_of(format!("/sys/class/dmi/id/{name}").as_bytes())?));
    names.into_iter().filter_map(said).collect()
}

/// The standard part of what cloud-init keeps of the instance. Its secrets are in another file, which is not read.
#[derive(Default, Deserialize)]
struct InstanceData {
    #[serde(default)]
    v1: Option<StandardData>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StandardData {
    cloud_name: Option<String>,
    cloud_id: Option<String>,
    platform: Option<String>,
    subplatform: Option<String>,
    region: Option<String>,
    availability_zone: Option<String>,
    instance_id: Option<String>,
}

fn cloud() -> BTreeMap<String, String> {
    read_pseudo(b"/run/cloud-init/instance-data.json", INSTANCE_BYTES_MAX).map(|file| instance(&file.bytes)).unwrap_or_default()
}

fn instance(json: &[u8]) -> BTreeMap<String, String> {
    // Written by whoever started the machine, so that anything may stand there; what is no such document says nothing.
    let Ok(InstanceData { v1: Some(v1) }) = serde_json::from_slice(json) else { return BTreeMap::new() };
    let fields = [
        ("cloud_name", v1.cloud_name),
        ("cloud_id", v1.cloud_id),
        ("platform", v1.platform),
        ("subplatform", v1.subplatform),
        ("region", v1.region),
        ("availability_zone", v1.availability_zone),
        ("instance_id", v1.instance_id),
    ];
    let said = |(name, text): (&str, Option<String>)| Some((name.to_owned(), bounded(&text?))).filter(|(_, text)| !text.is_empty());
    fields.into_iter().filter_map(said).collect()
}

/// `boot_id` of the running kernel, at most 64 bytes; empty where it cannot be read.
#[must_use]
pub fn boot_id() -> String {
    line_of(b"/proc/sys/kernel/random/boot_id").unwrap_or_default().chars().filter(char::is_ascii).take(64).collect()
}

/// Kernel release and machine, as the session's hello says them.
#[must_use]
pub fn kernel_release() -> String {
    let uname = rustix::system::uname();
    bounded(&format!("{} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy()))
}

fn bounded(text: &str) -> String {
    escape_bounded(text.trim(), TEXT_CHARS_MAX)
}

fn line_of(path: &[u8]) -> Option<String> {
    let file = read_pseudo(path, FILE_BYTES_MAX).ok()?;
    let text = String::from_utf8_lossy(&file.bytes);
    text.lines().next().map(bounded).filter(|l| !l.is_empty())
}

fn os_name() -> Option<String> {
    let file = read_pseudo(b"/etc/os-release", FILE_BYTES_MAX).or_else(|_| read_pseudo(b"/usr/lib/os-release", FILE_BYTES_MAX)).ok()?;
    let text = String::from_utf8_lossy(&file.bytes).into_owned();
    let value = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(bounded(value.trim_matches(['"', '\''])))
}

/// This program, with the digest of the binary that really runs (also after the file was replaced, and whatever root mounted over
/// /proc).
///
/// # Errors
/// When /proc/self/exe cannot be read, in the agent's own procfs or in what looks like one.
pub fn tool() -> io::Result<Tool> {
    use std::io::Read as _;
    let program = own_program().map_err(|e| if e == Errno::STALE { io::Error::other(NOT_SHOWN) } else { e.into() })?;
    let mut file = std::fs::File::from(program);
    let mut hasher = Hasher::new();
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hasher.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Tool { name: "exhibit-agent".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), sha256: hasher.finish() })
}

/// Numbers of /proc/self/status by key, in KiB or units as the kernel writes them.
fn own_numbers() -> BTreeMap<String, u64> {
    let bytes = own_status().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let number = |rest: &str| rest.split_whitespace().next().and_then(|n| n.parse().ok());
    text.lines().filter_map(|line| line.split_once(':')).filter_map(|(key, rest)| Some((key.to_owned(), number(rest)?))).collect()
}

/// Resident memory now, bytes.
#[must_use]
pub fn resident_bytes() -> u64 {
    own_numbers().get("VmRSS").copied().unwrap_or(0).saturating_mul(1024)
}

/// What this process used so far. `commands` are the programs that captures ran, `wrote` the files that were written.
#[must_use]
pub fn footprint(commands: Vec<String>, wrote: Vec<String>) -> Footprint {
    Footprint {
        pid: std::process::id(),
        rss_peak_bytes: own_numbers().get("VmHWM").copied().unwrap_or(0).saturating_mul(1024),
        cpu_ms: u64::try_from(clock::process_cpu().as_millis()).unwrap_or(u64::MAX),
        commands,
        wrote,
    }
}

/// What an acquisition record needs besides the outcome.
#[derive(Debug, Clone)]
pub struct Statement {
    /// The stream.
    pub facts: StreamFacts,
    /// The order's nonce.
    pub nonce: Nonce,
    /// This program.
    pub tool: Tool,
    /// The coordinator's clock minus the host's when the collection began, if it was measured.
    pub offset_at_start_ns: Option<i64>,
    /// The same as measured last.
    pub offset_ns: watch::Receiver<Option<i64>>,
    /// Files that the agent wrote.
    pub wrote: Vec<String>,
}

/// Signs the acquisition record of a finished stream.
///
/// # Errors
/// [`BadEnvelope::TooLarge`] cannot occur: every list in it is bounded.
pub fn acquisition(statement: &Statement, outcome: &Outcome, key: &SigningKey) -> Result<Envelope, BadEnvelope> {
    let clocks = |m: Moment, offset_ns| Clocks { wall: m.wall, mono_ns: m.mono_ns, offset_ns };
    let record = Acquisition {
        case: statement.facts.case.clone(),
        collection: statement.facts.collection.clone(),
        stream: StreamNumber(statement.facts.stream),
        agent: statement.facts.agent.clone(),
        predecessor: statement.facts.order,
        nonce: statement.nonce.clone(),
        host: host(),
        tool: statement.tool.clone(),
        started: clocks(outcome.started, statement.offset_at_start_ns),
        ended: clocks(outcome.ended, *statement.offset_ns.borrow()),
        complete: outcome.complete,
        reason: outcome.reason.clone(),
        manifest: outcome.manifest.clone(),
        footprint: footprint(bounded_commands(outcome.commands.clone()), statement.wrote.clone()),
    };
    record::sign(&record, key)
}

/// A record fits into 64 KiB: the commands get at most a third of it.
fn bounded_commands(mut commands: Vec<String>) -> Vec<String> {
    const BYTES_MAX: usize = 16 << 10;
    let mut bytes = 0_usize;
    let all = commands.len();
    let kept = commands
        .iter()
        .take_while(|c| {
            bytes = bytes.saturating_add(c.len());
            bytes <= BYTES_MAX
        })
        .count();
    commands.truncate(kept);
    if kept < all {
        commands.push(format!("and {} more", all.saturating_sub(kept)));
    }
    commands
}

/// Digest of the empty tree: the nonce of a collection that no case log asked for.
#[must_use]
pub fn empty_nonce() -> Nonce {
    // RFC 6962 section 2.1: the hash of an empty list is the hash of an empty string.
    Nonce { size: 0, root: Digest::of(b"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_and_the_binary_are_described() {
        let host = host();
        assert!(!host.hostname.is_empty() && host.boot_id.len() == 36 && host.kernel.starts_with("Linux "), "{host:?}");
        let tool = tool().expect("own binary");
        assert_eq!(tool.sha256, Digest::of(&std::fs::read("/proc/self/exe").expect("own binary")));
        let footprint = footprint(vec!["x".to_owned()], Vec::new());
        assert!(footprint.rss_peak_bytes >= resident_bytes() / 2 && footprint.pid == std::process::id());
    }

    /// A folder over /proc does not say what this program is.
    #[test]
    fn what_root_mounted_over_proc_does_not_choose_the_tools_digest() {
        crate::capture::testing::in_own_mounts("custody::tests::what_root_mounted_over_proc_does_not_choose_the_tools_digest", || {
            let meant = Digest::of(&std::fs::read("/proc/self/exe").expect("own binary"));
            let forged = tempfile::tempdir().expect("folder");
            std::fs::create_dir(forged.path().join("self")).expect("folder");
            std::fs::write(forged.path().join("self/exe"), "another program").expect("file");
            std::fs::write(forged.path().join("self/status"), "VmRSS:\t1 kB\n").expect("file");
            rustix::mount::mount_bind(forged.path(), "/proc").expect("mount");
            assert_eq!(std::fs::read("/proc/self/exe").expect("read"), b"another program", "the folder is shown");
            assert_eq!(tool().expect("own binary").sha256, meant);
            assert!(resident_bytes() > 1024, "{}", resident_bytes());
        });
    }

    /// Without a procfs of its own the agent does not say that another file is itself.
    #[test]
    fn where_no_procfs_shows_the_agent_it_does_not_say_what_it_is() {
        use crate::capture::testing::{in_own_mounts, without_mounting};
        in_own_mounts("custody::tests::where_no_procfs_shows_the_agent_it_does_not_say_what_it_is", || {
            let forged = tempfile::tempdir().expect("folder");
            std::fs::create_dir(forged.path().join("self")).expect("folder");
            std::fs::write(forged.path().join("self/exe"), "another program").expect("file");
            rustix::mount::mount_bind(forged.path(), "/proc").expect("mount");
            without_mounting();
            let why = tool().expect_err("it is another program").to_string();
            assert!(why.contains("CAP_SYS_ADMIN"), "{why}");
        });
    }

    #[test]
    fn a_flood_of_commands_still_fits_a_record() {
        let commands = bounded_commands(vec!["c".repeat(400); 300]);
        assert!(commands.len() == 41 && commands.last().is_some_and(|c| c == "and 260 more"));
    }

    #[test]
    fn what_the_cloud_said_is_taken_from_a_document_that_anybody_may_have_written() {
        let json = br#"{"ds": {"meta_data": {"x": [1]}}, "v1": {"cloud_name": "aws", "region": "eu-west-1\n\u001b[2J", "instance_id": null,
            "availability_zone": "", "unknown": {"a": 1}}}"#;
        let said = instance(json);
        assert_eq!(said.keys().map(String::as_str).collect::<Vec<_>>(), ["cloud_name", "region"]);
        assert!(said["cloud_name"] == "aws" && !said["region"].contains('\u{1b}') && !said["region"].contains('\n'), "{said:?}");
        for bad in [&b""[..], b"[]", b"{\"v1\": 7}", b"{\"v1\": {\"region\": {}}}", b"{}", b"\xff"] {
            assert!(instance(bad).is_empty());
        }
        let long = format!(r#"{{"v1": {{"region": "{}"}}}}"#, "x".repeat(100_000));
        assert!(instance(long.as_bytes())["region"].len() <= 4 * TEXT_CHARS_MAX);
    }

    proptest::proptest! {
        #[test]
        fn whatever_stands_there_is_bounded_and_fit_to_be_shown(
            json in proptest::collection::vec(proptest::num::u8::ANY, 0..100),
            text in "(.|\n|\x1b){0,20}",
            times in 1_usize..200,
        ) {
            let written = serde_json::json!({ "v1": { "region": text.repeat(times) } }).to_string();
            for json in [json, written.into_bytes()] {
                let said = instance(&json);
                proptest::prop_assert!(said.values().all(|t| t.chars().count() <= TEXT_CHARS_MAX && !t.contains(['\n', '\x1b'])));
            }
        }
    }
}
