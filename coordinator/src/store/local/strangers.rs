//! Names in the folder that nothing of ours ever has: whoever may write there can make any, and a disk has one of its own.

use std::ffi::OsStr;

use super::{Inner, LocalStore};
use crate::store::{Trouble, foreign};

/// The folder in which a check of the file system puts what it found, at the root of each disk.
const OF_THE_DISK: &str = "lost+found";

/// How the names below a folder begin.
pub(super) fn below(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("{folder}/") }
}

impl Inner {
    /// A listing leaves this child of a folder out.
    pub(super) fn leave_out(&self, folder: &str, child: &OsStr, is_folder: bool) {
        if folder.is_empty() && is_folder && child == OF_THE_DISK {
            return;
        }
        let slash = if is_folder { "/" } else { "" };
        self.foreign.note(&format!("{}{}{slash}", below(folder), child.to_string_lossy()));
    }
}

impl LocalStore {
    /// What listings left out since the last call.
    pub(super) fn strangers(&self, place: &str) -> Option<Trouble> {
        foreign::trouble(place, &self.inner.foreign.news())
    }
}
