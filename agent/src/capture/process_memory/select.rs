//! Which processes an order means.

use std::os::fd::OwnedFd;

use exhibit_evidence::text::{escape_bounded, escape_bytes};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::io::Errno;

use crate::capture::Params;
use crate::capture::live::{SMALL_BYTES_MAX, lines, split_at_byte};
use crate::capture::process::container::of_cgroup;
use crate::capture::process::parse::{self, Stat};
use crate::capture::procfs::{self, link, read_at};
use crate::capture::threads;

/// The shortest beginning of a container's id that is enough.
const CONTAINER_CHARS_MIN: usize = 8;

/// What an order names.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Every process.
    pub all: bool,
    /// Numbers, as the agent sees them.
    pub pids: Vec<u32>,
    names: GlobSet,
    containers: Vec<String>,
    /// Control groups, as in `/proc/<pid>/cgroup`; those below them too.
    pub cgroups: Vec<String>,
}

impl Wanted {
    /// Every process.
    #[must_use]
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Reads the parameters.
    ///
    /// # Errors
    /// A sentence that names the parameter.
    pub fn new(params: &Params) -> Result<Self, String> {
        let list = |name: &str| params.list(name).unwrap_or_default();
        let shown = |text: &str| escape_bounded(text, 80);
        let mut wanted = Self { all: params.flag("all", false).map_err(|e| e.to_string())?, ..Self::default() };
        for text in list("pid") {
            let pid = text.parse::<u32>().ok().filter(|pid| *pid > 0);
            wanted.pids.push(pid.ok_or_else(|| format!("parameter 'pid', '{}': expected the number of a process", shown(text)))?);
        }
        let mut names = GlobSetBuilder::new();
        for text in list("name") {
            let glob = GlobBuilder::new(&stars_only(text)).build();
            names.add(glob.map_err(|e| format!("parameter 'name', '{}': {}", shown(text), e.kind()))?);
        }
        wanted.names = names.build().map_err(|e| format!("parameter 'name': {e}"))?;
        for text in list("container") {
            if text.len() < CONTAINER_CHARS_MIN {
                return Err(format!(
                    "parameter 'container', '{}': expected at least {CONTAINER_CHARS_MIN} characters of its id",
                    shown(text)
                ));
            }
            wanted.containers.push(text.to_owned());
        }
        for text in list("cgroup") {
            let path = text.trim_end_matches('/');
            // One spelling for each group: processes are compared with it by their text.
            let plain = path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
            if !text.starts_with('/') || !plain {
                return Err(format!("parameter 'cgroup', '{}': expected a path as in /proc/<pid>/cgroup", shown(text)));
            }
            wanted.cgroups.push(path.to_owned());
        }
        let nothing = !wanted.all && wanted.pids.is_empty() && wanted.names.is_empty() && wanted.containers.is_empty();
        if nothing && wanted.cgroups.is_empty() {
            return Err("which processes? give pid, name, container, cgroup or all=true".to_owned());
        }
        Ok(wanted)
    }

    /// Whether a process has to be looked at to tell whether it is meant: its number does not tell.
    #[must_use]
    pub fn looks(&self) -> bool {
        !self.names.is_empty() || !self.containers.is_empty() || !self.cgroups.is_empty()
    }

    /// Whether something is mounted over what would tell whether a process is meant.
    #[must_use]
    pub fn is_untold(&self, candidate: &Candidate) -> bool {
        let of_groups = !self.containers.is_empty() || !self.cgroups.is_empty();
        (candidate.is_name_covered && !self.names.is_empty()) || (candidate.are_groups_covered && of_groups)
    }

    /// Whether a process that nobody looked at may be meant, by its number alone.
    #[must_use]
    pub fn may_mean(&self, pid: u32) -> bool {
        self.all || self.looks() || self.pids.contains(&pid)
    }

    /// Why a process is meant, if it is.
    #[must_use]
    pub fn why(&self, candidate: &Candidate) -> Option<&'static str> {
        let group = |path: &str, wanted: &str| path.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if self.pids.contains(&candidate.pid) {
            return Some("pid");
        }
        if !self.names.is_empty() && candidate.names.iter().any(|name| self.names.is_match(name)) {
            return Some("name");
        }
        if let Some(id) = &candidate.container
            && self.containers.iter().any(|wanted| id.starts_with(wanted))
        {
            return Some("container");
        }
        if candidate.groups.iter().any(|path| self.cgroups.iter().any(|wanted| group(path, wanted))) {
            return Some("cgroup");
        }
        self.all.then_some("all")
    }
}

/// A pattern in which only `*` and `?` mean more than themselves: names hold brackets, braces and backslashes.
fn stars_only(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Two of them would mean whole folders.
            '*' if pattern.ends_with('*') => {}
            '[' | ']' | '{' | '}' | '\\' => pattern.extend(['[', c, ']']),
            c => pattern.push(c),
        }
    }
    pattern
}

/// A process as far as it is needed to tell whether it is meant.
#[derive(Debug, Default)]
pub struct Candidate {
    /// Its number.
    pub pid: u32,
    /// `/proc/<pid>/stat`.
    pub stat: Stat,
    names: Vec<String>,
    container: Option<String>,
    groups: Vec<String>,
    /// Something is mounted over the link to its program.
    is_name_covered: bool,
    /// Something is mounted over the list of its groups.
    are_groups_covered: bool,
}

impl Candidate {
    /// Its control groups, as in `/proc/<pid>/cgroup`.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Opens its folder and looks.
    ///
    /// # Errors
    /// When it is gone or hidden.
    pub fn open(pid: u32) -> Result<(Self, OwnedFd), Errno> {
        let dir = procfs::process(pid)?;
        let stat = parse::stat(&read_at(&dir, "stat", SMALL_BYTES_MAX)?.bytes).unwrap_or_default();
        let cgroup = read_at(&dir, "cgroup", SMALL_BYTES_MAX);
        let are_groups_covered = matches!(cgroup, Err(Errno::XDEV));
        let cgroup = cgroup.map(|r| r.bytes).unwrap_or_default();
        let path_of = |line| split_at_byte(line, b':').and_then(|(_, rest)| split_at_byte(rest, b':')).map(|(_, path)| path);
        let groups = lines(&cgroup).filter_map(path_of).filter_map(|p| String::from_utf8(p.to_vec()).ok()).collect();
        let mut names = vec![escape_bytes(&stat.comm)];
        let living = threads::living(&dir, pid);
        let exe = link(living.as_ref().map_or(&dir, |l| &l.dir), "exe");
        let is_name_covered = matches!(exe, Err(Errno::XDEV));
        if let Ok(exe) = exe {
            let exe = exe.strip_suffix(b" (deleted)").unwrap_or(&exe);
            names.extend(exe.rsplit(|b| *b == b'/').next().map(escape_bytes));
        }
        let container = of_cgroup(&cgroup).map(|c| c.id);
        Ok((Self { pid, stat, names, container, groups, is_name_covered, are_groups_covered }, dir))
    }
}

/// The process that a thread belongs to, by the thread's folder; `None` for the first thread, whose number is the process's, and where it
/// is not told.
#[must_use]
pub fn leader(dir: &OwnedFd, number: u32) -> Option<u32> {
    let status = parse::status(&read_at(dir, "status", SMALL_BYTES_MAX).ok()?.bytes);
    status.tgid.and_then(|tgid| u32::try_from(tgid).ok()).filter(|tgid| *tgid > 0 && *tgid != number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn wanted(key: &str, value: &str) -> Result<Wanted, String> {
        Wanted::new(&Params::new("process-memory", BTreeMap::from([(key.to_owned(), value.to_owned())])))
    }

    #[test]
    fn each_way_of_naming_finds_its_own() {
        let id = "0123456789abcdef".repeat(4);
        let candidate = Candidate {
            pid: 12,
            names: vec!["worker".into(), "worker-daemon".into()],
            container: Some(id.clone()),
            groups: vec!["/system.slice/a.service".into()],
            ..Candidate::default()
        };
        for (key, value, found) in [
            ("pid", "7\n12", Some("pid")),
            ("pid", "1", None),
            ("name", "worker-d*", Some("name")),
            ("name", "work", None),
            ("container", "01234567", Some("container")),
            ("container", "1234567890", None),
            ("cgroup", "/system.slice", Some("cgroup")),
            ("cgroup", "/system.slice/a.service/", Some("cgroup")),
            ("cgroup", "/system", None),
            ("all", "true", Some("all")),
        ] {
            assert_eq!(wanted(key, value).expect(key).why(&candidate), found, "{key}={value}");
        }
    }

    #[test]
    fn only_stars_and_question_marks_mean_more_than_themselves() {
        for (name, pattern, found) in [
            ("[kworker/0:9]", "[kworker/0:9]", true),
            ("k", "[kworker/0:9]", false),
            ("[kworker/0:9]", "[kworker/*]", true),
            ("[kworker/0:9]", "?kworker/**", true),
            ("a{b,c}", "a{b,c}", true),
            ("ab", "a{b,c}", false),
            ("a\\\\n!", "a\\\\n!", true),
            ("a[b", "a[b", true),
            ("a]b", "a]?", true),
            ("ab", "a**", true),
        ] {
            let candidate = Candidate { names: vec![name.into()], ..Candidate::default() };
            assert_eq!(wanted("name", pattern).expect(pattern).why(&candidate).is_some(), found, "{name} {pattern}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused_before_anything_runs() {
        for (key, value) in [
            ("pid", "0"),
            ("pid", "self"),
            ("container", "abc"),
            ("cgroup", "system.slice"),
            ("cgroup", "//a"),
            ("cgroup", "/./a"),
            ("cgroup", "/a/../b"),
            ("all", "false"),
        ] {
            let error = wanted(key, value).expect_err(value);
            assert!(error.contains(key) || error.contains("which processes"), "{error}");
        }
    }

    #[test]
    fn this_process_is_found() {
        let (candidate, _) = Candidate::open(std::process::id()).expect("own folder");
        assert!(!candidate.names.is_empty() && !candidate.stat.kernel_thread());
        assert!(matches!(Candidate::open(u32::MAX >> 2), Err(Errno::NOENT)));
    }
}
