//! Freezing the file systems that are mounted from a device while it is read (`freeze=true` in the order).

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use exhibit_agent_sys::freeze::{self, Ended, Frozen};

use super::usage::Usage;
use crate::capture::live::open_dir;

/// Longest time for which an order may freeze a file system: everybody who writes on the host waits that long.
pub const MOST_S_MAX: u64 = 300;
/// Without a word in the order.
pub const MOST_S_DEFAULT: u64 = 30;

/// Frozen file systems of one device, and how far the reading was when the first was thawed.
#[derive(Default)]
pub struct Freezes {
    held: Vec<(String, Frozen)>,
    /// File systems that could not be frozen, and why.
    refused: Vec<String>,
    /// The offset up to which all were frozen.
    over_at: Option<u64>,
    most: Duration,
}

impl Freezes {
    /// Freezes everything that is mounted read-write from the device. One that cannot be frozen is said, and then the others
    /// are not kept frozen either: it would be for nothing.
    #[must_use]
    pub fn begin(usage: &Usage, most: Duration) -> Self {
        let mut freezes = Self { most, ..Self::default() };
        let mut done = Vec::new();
        for mount in usage.writable() {
            let point = mount.point.0.as_slice();
            let shown = super::shown(point);
            let opened = open_dir(rustix::fs::CWD, point).map_err(|e| std::io::Error::from(e).to_string());
            let result = opened.and_then(|dir| {
                let system = rustix::fs::fstat(&dir).map_err(|e| std::io::Error::from(e).to_string())?.st_dev;
                if done.contains(&system) {
                    return Ok(None);
                }
                if let Some(why) = needed_by_agent(system) {
                    return Err(why);
                }
                done.push(system);
                freeze::freeze(dir.as_fd(), most).map(Some).map_err(|e| e.to_string())
            });
            match result {
                Ok(frozen) => freezes.held.extend(frozen.map(|f| (shown, f))),
                Err(why) => freezes.refused.push(format!("{shown}: {why}")),
            }
        }
        if usage.writable().next().is_none() {
            freezes.refused.push("nothing on it is mounted read-write in the agent's mount namespace".to_owned());
        }
        if !freezes.refused.is_empty() {
            freezes.held.clear();
        }
        freezes
    }

    /// True when something is frozen.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Why nothing is frozen, if something should be.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        (!self.refused.is_empty()).then(|| format!("not frozen: {}", self.refused.join("; ")))
    }

    /// Called before a read at an offset: remembers where the freeze ended.
    pub fn look(&mut self, offset: u64) {
        if self.over_at.is_none() && self.held.iter().any(|(_, f)| f.is_over()) {
            self.over_at = Some(offset);
        }
    }

    /// Thaws, and says in facts what the freezing was worth.
    pub fn end(&mut self) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        if self.held.is_empty() {
            facts.insert("freeze".to_owned(), "ended with the agent's process that began the reading".to_owned());
            return facts;
        }
        let (mut points, mut problems, mut whole) = (Vec::new(), Vec::new(), self.over_at.is_none());
        for (point, frozen) in self.held.drain(..) {
            match frozen.thaw() {
                Ok(ended) => whole &= ended == Ended::Asked,
                Err(e) => problems.push(format!("{point}: {e}")),
            }
            points.push(point);
        }
        let points = points.join(", ");
        if whole {
            facts.insert("freeze".to_owned(), format!("frozen while it was read: {points}"));
            facts.insert("consistency".to_owned(), format!("consistent: frozen while it was read, mounted read-write at {points}"));
        } else {
            let to = self.over_at.map_or_else(|| "the end or shortly before it".to_owned(), |at| format!("about byte {at}"));
            facts.insert("freeze".to_owned(), format!("frozen up to {to}, until the {} s were over: {points}", self.most.as_secs()));
        }
        if !problems.is_empty() {
            facts.insert("freeze_problem".to_owned(), problems.join("; "));
        }
        facts
    }
}

/// The agent writes to some file systems itself, and would wait for its own thaw.
fn needed_by_agent(system: u64) -> Option<String> {
    let is = |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.dev() == system);
    for place in ["/", "/var", "/var/log", "/var/lib", "/tmp", "/run", "/etc"] {
        if is(Path::new(place)) {
            return Some(format!("it holds {place}, to which the host's own services and the agent write"));
        }
    }
    let exe = std::fs::read_link("/proc/self/exe").ok().filter(|p| is(p));
    let open = || {
        let files = std::fs::read_dir("/proc/self/fd").ok()?.filter_map(Result::ok).map(|e| e.path());
        files.filter(|f| std::fs::metadata(f).is_ok_and(|m| m.is_file() && m.dev() == system)).find_map(|f| std::fs::read_link(f).ok())
    };
    let file = exe.or_else(open)?;
    Some(format!("it holds {}, which the agent uses", super::shown(file.as_os_str().as_bytes())))
}
