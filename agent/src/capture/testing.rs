//! An output that keeps items in memory, for tests of captures.

use std::collections::BTreeMap;

use super::{Beside, Capture, Content, Kind, Moment, NewItem, Output, Params, Status, Stop};

/// An item as it was put.
#[derive(Debug)]
pub struct Put {
    pub item: NewItem,
    /// The status after reading.
    pub status: Status,
    /// The logical content, holes as zeros; `None` for items by record.
    pub content: Option<Vec<u8>>,
}

/// The output.
#[derive(Debug, Default)]
pub struct Memory {
    pub puts: Vec<Put>,
    pub commands: Vec<String>,
    /// Stop with a cancellation after so many items.
    pub cancel_after: Option<usize>,
    /// After so many items the collection is to end: as from the pipeline, records are taken and nothing else is.
    pub ends_after: Option<usize>,
    /// The capture said that it found nothing.
    pub nothing: bool,
}

impl Memory {
    /// Runs a capture with parameters and keeps what it put.
    pub fn run(capture: &dyn Capture, params: &[(&str, &str)]) -> Self {
        let values: BTreeMap<String, String> = params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let params = Params::new(capture.name(), values);
        params.check(capture.params()).expect("the test's parameters");
        let mut out = Self::default();
        match capture.run(&params, &mut out) {
            Err(Stop::Nothing(_)) => out.nothing = true,
            other => other.expect("the capture runs to its end"),
        }
        out
    }

    fn ends(&self) -> Result<(), Stop> {
        let is_over = self.ends_after.is_some_and(|n| self.puts.len() >= n);
        if is_over { Err(Stop::Deadline) } else { Ok(()) }
    }

    /// The item of a path.
    pub fn get(&self, path: &str) -> Option<&Put> {
        self.puts.iter().find(|p| p.item.path.as_bytes() == path.as_bytes())
    }

    /// The content of a path's item.
    pub fn content(&self, path: &str) -> &[u8] {
        self.get(path).unwrap_or_else(|| panic!("no item {path}")).content.as_deref().unwrap_or_else(|| panic!("{path} has no content"))
    }

    /// The rows of a table in all its parts.
    pub fn rows(&self, stem: &str) -> Vec<serde_json::Value> {
        let (first, prefix) = (format!("{stem}.jsonl"), format!("{stem}."));
        let parts = self.puts.iter().filter(|p| {
            let name = String::from_utf8_lossy(p.item.path.as_bytes());
            *name == *first
                || name.strip_prefix(&prefix).is_some_and(|r| r.strip_suffix(".jsonl").is_some_and(|n| n.parse::<u32>().is_ok()))
        });
        parts
            .flat_map(|p| p.content.as_deref().unwrap_or_default().split(|b| *b == b'\n').filter(|l| !l.is_empty()))
            .map(|line| serde_json::from_slice(line).expect("a row is one JSON object"))
            .collect()
    }
}

impl Output for Memory {
    fn put(&mut self, mut item: NewItem, content: Content<'_>) -> Result<Status, Stop> {
        if self.cancel_after.is_some_and(|n| self.puts.len() >= n) {
            return Err(Stop::Cancelled("the test".into()));
        }
        let ends = self.ends();
        if ends.is_err() && !matches!((item.kind, &content), (_, Content::None) | (Kind::Record, Content::Bytes(_))) {
            return ends.map(|()| Status::Skipped);
        }
        assert!(item.status == Status::Collected || item.reason.is_some(), "a status without a reason: {item:?}");
        let mut status = item.status;
        let mut beside = None;
        let content = match content {
            Content::None => None,
            Content::Bytes(bytes) => Some(bytes.to_vec()),
            Content::Source { size, extents, source } => {
                let mut all = vec![0; usize::try_from(size).expect("fits")];
                let ranges = extents.map_or_else(|| vec![(0, size)], |e| e.iter().map(|e| (e.offset, e.length)).collect());
                for (offset, length) in ranges {
                    let (mut at, end) = (offset, offset + length);
                    while at < end {
                        match source.read_at(at, &mut all[at as usize..end as usize]) {
                            Ok(0) => break,
                            Ok(n) => at += n as u64,
                            Err(_) if source.gone().is_some() => break,
                            Err(e) => panic!("{item:?}: {e}"),
                        }
                    }
                }
                if let Some((after, reason)) = source.after() {
                    status = after;
                    item.reason = Some(reason);
                }
                item.facts.extend(source.facts_after());
                beside = source.beside();
                Some(all)
            }
        };
        self.puts.push(Put { item, status, content });
        if let Some(Beside { item, content }) = beside {
            self.put(item, Content::Bytes(&content))?;
        }
        ends.map(|()| status)
    }

    fn checkpoint(&mut self) -> Result<(), Stop> {
        self.ends()
    }

    fn note(&mut self, _current: &str) {}

    fn now(&self) -> Moment {
        crate::clock::now()
    }

    fn ran(&mut self, command: String) {
        self.commands.push(command);
    }
}

/// Runs a test, named as the test program lists it, again in a mount namespace of its own, where `body` may mount what it likes.
pub fn in_own_mounts(test: &str, body: impl FnOnce()) {
    again(test, &[], body);
}

/// The same in a PID namespace of its own as well, with the `/proc` of the one around it, as in a container that was given that.
pub fn in_own_numbers(test: &str, body: impl FnOnce()) {
    again(test, &["--pid", "--fork"], body);
}

/// Gives the right to mount up, for this thread and those that it starts.
pub fn without_mounting() {
    with_mounting(false);
}

/// The same; `may` takes it back.
pub fn with_mounting(may: bool) {
    let mut sets = rustix::thread::capabilities(None).expect("capabilities");
    sets.effective.set(rustix::thread::CapabilitySet::SYS_ADMIN, may);
    rustix::thread::set_capabilities(None, sets).expect("set");
}

/// Mounts a `/proc` that keeps processes from who may not trace them, and gives that right up, and the one to mount.
pub fn hide_others() {
    use rustix::thread::CapabilitySet;
    // By default the kernel makes an exception of root's group: here of one that nobody is in.
    let options = c"hidepid=2,gid=54321";
    rustix::mount::mount("proc", "/proc", "proc", rustix::mount::MountFlags::empty(), options).expect("mount");
    let mut sets = rustix::thread::capabilities(None).expect("capabilities");
    sets.effective.remove(CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE);
    rustix::thread::set_capabilities(None, sets).expect("set");
}

fn again(test: &str, namespaces: &[&str], body: impl FnOnce()) {
    const INSIDE: &str = "EXHIBIT_TEST_IN_OWN_MOUNTS";
    if std::env::var_os(INSIDE).is_some() {
        body();
        return;
    }
    let program = std::env::current_exe().expect("this test program");
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).args(namespaces);
    command.arg(program).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let said = command.output().expect("unshare (util-linux)");
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success() && out.contains("1 passed"), "{test} makes mounts: run it as root\n{out}\n{err}");
}
