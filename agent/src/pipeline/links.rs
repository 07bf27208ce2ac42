//! Which files are already in the stream, so that their further names become hard links instead of copies. A file is the
//! same when its inode is and nothing of it has changed since it was opened; anything else is read again.

use std::collections::HashMap;

use crate::capture::InodeState;

/// Files with several names, bounded in bytes. When it is full further ones are stored again: more
/// bytes, never less evidence.
#[derive(Debug, Default)]
pub(super) struct Links {
    members: HashMap<InodeState, Box<[u8]>>,
    bytes: usize,
}

/// About 5,000 names.
const BYTES_MAX: usize = 1 << 20;
/// What an entry costs besides its name.
const ENTRY_BYTES: usize = 128;

impl Links {
    /// The member that holds this file's content.
    pub fn member(&self, inode: InodeState) -> Option<&[u8]> {
        self.members.get(&inode).map(|name| &**name)
    }

    /// Remembers where a file's content is. Only for what was taken whole and did not change meanwhile.
    pub fn remember(&mut self, inode: InodeState, member: &[u8]) {
        let cost = member.len().saturating_add(ENTRY_BYTES);
        if self.bytes.saturating_add(cost) <= BYTES_MAX && self.members.insert(inode, member.into()).is_none() {
            self.bytes = self.bytes.saturating_add(cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        let file = |n| InodeState { inode: (1, n), btime: None, ctime: None, mtime: None, size: 0 };
        let mut links = Links::default();
        for n in 0..100_000 {
            links.remember(file(n), &[b'x'; 100]);
        }
        assert!(links.bytes <= BYTES_MAX && links.members.len() == BYTES_MAX / (100 + ENTRY_BYTES));
        assert_eq!(links.member(file(0)), Some(&[b'x'; 100][..]));
        assert_eq!(links.member(file(99_999)), None);
        assert_eq!(links.member(InodeState { size: 1, ..file(0) }), None, "another size is another file");
    }
}
