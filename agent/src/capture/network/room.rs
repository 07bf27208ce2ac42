//! How many network namespaces are looked into. Each is held by open files for as long as the capture runs, and the kernel gives the
//! agent only so many: somebody who keeps a thousand namespaces must not use up those for the host's own.

use std::collections::BTreeSet;

use rustix::process::{Resource, getrlimit};

/// Namespaces that are looked into, however many files the agent may have open.
const NAMESPACES_MAX: usize = 4096;
/// Open files for each: itself, a process in it, and two netlink sockets.
const FILES_EACH: u64 = 4;
/// Open files that are kept for the walk and for the rest of the agent.
const FILES_FREE: u64 = 128;
/// Namespaces without room that are told apart.
const LEFT_OUT_MAX: usize = 16 << 10;
/// Of them, those that are named.
const NAMED_MAX: usize = 8;

/// The room, and who had none.
#[derive(Debug)]
pub struct Room {
    /// So many are looked into.
    pub namespaces: usize,
    left_out: BTreeSet<u64>,
    is_cut: bool,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(getrlimit(Resource::Nofile).current)
    }
}

impl Room {
    /// That of an agent that may have so many files open.
    #[must_use]
    pub fn of(files: Option<u64>) -> Self {
        let places = files.map_or(u64::MAX, |files| files.saturating_sub(FILES_FREE) / FILES_EACH);
        let namespaces = usize::try_from(places).unwrap_or(usize::MAX).clamp(1, NAMESPACES_MAX);
        Self { namespaces, left_out: BTreeSet::new(), is_cut: false }
    }

    /// There was none for this one.
    pub fn leave_out(&mut self, inode: u64) {
        if self.left_out.len() < LEFT_OUT_MAX {
            self.left_out.insert(inode);
        } else {
            self.is_cut |= !self.left_out.contains(&inode);
        }
    }

    /// There was room after all.
    pub fn let_in(&mut self, inode: u64) {
        self.left_out.remove(&inode);
    }

    /// What is missing.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let (count, room) = (self.left_out.len(), self.namespaces);
        let named = self.left_out.iter().take(NAMED_MAX).map(u64::to_string).collect::<Vec<_>>().join(", ");
        let at_least = if self.is_cut { "at least " } else { "" };
        let remedy = if room < NAMESPACES_MAX { "; let the agent have more files open (RLIMIT_NOFILE, LimitNOFILE=)" } else { "" };
        (count > 0).then(|| {
            format!(
                "{at_least}{count} network namespaces were not looked into, after {room} others (among them {named}): what is in them is \
                 missing{remedy}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_kept_for_the_rest_of_the_agent() {
        for (files, namespaces) in [(Some(1024), 224), (Some(100), 1), (Some(1 << 20), NAMESPACES_MAX), (None, NAMESPACES_MAX)] {
            assert_eq!(Room::of(files).namespaces, namespaces, "{files:?}");
        }
    }

    #[test]
    fn who_had_no_room_is_counted_once_and_not_without_end() {
        let mut room = Room::of(Some(1024));
        assert_eq!(room.missing(), None);
        for inode in [7, 7, 9, 7] {
            room.leave_out(inode);
        }
        room.let_in(9);
        let said = room.missing().expect("something");
        assert!(said.starts_with("1 network namespaces were not looked into, after 224 others (among them 7)"), "{said}");
        assert!(said.contains("RLIMIT_NOFILE"), "{said}");
        (0..=LEFT_OUT_MAX as u64).for_each(|inode| room.leave_out(inode));
        assert!(room.missing().is_some_and(|said| said.starts_with(&format!("at least {LEFT_OUT_MAX} "))));
    }
}
