//! What the walk over processes cannot show: where `/proc` is no procfs that shows the agent, or lists nobody, or hides the processes
//! of others. Tables that follow from such a walk are no whole ones, however much stands in them.

use rustix::io::Errno;

use crate::capture::process::hidepid;
use crate::capture::{Table, procfs};

/// A process of this number is there as long as its PID namespace.
const FIRST: u32 = 1;

/// The folder of processes, as one walk over it can be believed.
#[derive(Debug, Default)]
pub struct View {
    /// Why what it shows is not what there is; then nothing in it is opened that leads out of it.
    pub unsure: Option<String>,
    /// Why it does not show the agent the processes of others.
    hides: Option<String>,
    /// Which one it is.
    facts: Vec<(&'static str, String)>,
}

impl View {
    /// Looks. `listed` is how many processes it lists.
    #[must_use]
    pub fn look(listed: Result<usize, Errno>) -> Self {
        let mut view = Self { facts: procfs::facts(), ..Self::default() };
        view.unsure = match listed {
            Err(e) => Some(format!("/proc could not be listed: {e}")),
            Ok(_) if matches!(procfs::open_links(), Err(Errno::STALE)) => {
                let shown = view.facts.iter().find(|(name, _)| *name == "proc_shows").map(|(_, shown)| shown.as_str());
                Some(format!("/proc is {}", shown.unwrap_or("not the agent's, or was not when it was opened")))
            }
            Ok(0) => Some("/proc lists no process".to_owned()),
            Ok(_) => None,
        };
        if view.unsure.is_none() {
            view.hides = hides();
        }
        view.facts.extend(view.hides.iter().map(|why| ("hidepid", why.clone())));
        view
    }

    /// Asks once more which folder it was: what is mounted in the agent's own is met on the way.
    pub fn again(&mut self) {
        let now: Vec<(&'static str, String)> = procfs::facts();
        self.facts.retain(|(name, _)| !now.iter().any(|(other, _)| other == name));
        self.facts.extend(now);
    }

    /// What may be missing in all that follows from the walk.
    pub fn missing(&self) -> impl Iterator<Item = String> {
        let unsure = self.unsure.as_ref().map(|why| {
            format!(
                "{why}: which other network namespaces there are, and who holds which socket, is not known; what it shows of that may be made up"
            )
        });
        let hides = self.hides.as_ref();
        let hidden = hides.map(|why| format!("{why}; the network namespaces of others, and the sockets that they hold, may be missing"));
        unsure.into_iter().chain(hidden)
    }

    /// Which folder of processes it was, for the items that come of it.
    pub fn facts(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.facts.iter().cloned()
    }

    /// The same for a table.
    pub fn tell(&self, table: &mut Table) {
        for (name, value) in self.facts() {
            table.fact(name, value);
        }
    }
}

/// Why the agent is not shown the processes of others; `None` where it is.
fn hides() -> Option<String> {
    hidepid::told().or_else(|| {
        // Also where the table of mounts tells nothing. The kernel says it in two ways: not there, or, of a folder that somebody with
        // more rights has looked at lately, not permitted (`fs/proc/base.c`).
        let is_withheld = matches!(procfs::process(FIRST), Err(Errno::NOENT | Errno::PERM));
        is_withheld.then(|| "/proc does not show the agent process 1, which is always there (hidepid)".to_owned())
    })
}
