//! Which inodes are already in the stream, so that their further names become hard links instead of copies.

use std::collections::HashMap;

/// Inodes with several names by (device, inode), bounded in bytes. When it is full further ones are stored again: more
/// bytes, never less evidence.
#[derive(Debug, Default)]
pub(super) struct Links {
    members: HashMap<(u64, u64), Box<[u8]>>,
    bytes: usize,
}

/// About 10,000 names.
const BYTES_MAX: usize = 1 << 20;
/// What an entry costs besides its name.
const ENTRY_BYTES: usize = 48;

impl Links {
    /// The member that holds this inode's content.
    pub fn member(&self, inode: (u64, u64)) -> Option<&[u8]> {
        self.members.get(&inode).map(|name| &**name)
    }

    /// Remembers where an inode's content is.
    pub fn remember(&mut self, inode: (u64, u64), member: &[u8]) {
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
        let mut links = Links::default();
        for n in 0..100_000 {
            links.remember((1, n), &[b'x'; 100]);
        }
        assert!(links.bytes <= BYTES_MAX && links.members.len() == BYTES_MAX / 148);
        assert_eq!(links.member((1, 0)), Some(&[b'x'; 100][..]));
        assert_eq!(links.member((1, 99_999)), None);
    }
}
