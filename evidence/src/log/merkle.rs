//! RFC 6962 section 2.1: leaf hash SHA-256(0x00 || entry), node hash SHA-256(0x01 || left || right).

use crate::digest::{Digest, Hasher};

/// The hash of one entry: SHA-256 over a zero byte and the entry.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Digest {
    let mut h = Hasher::new();
    h.update(&[0]);
    h.update(entry);
    h.finish()
}

/// The hash of a node: SHA-256 over a byte of one and the hashes of its children.
pub(super) fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let mut h = Hasher::new();
    h.update(&[1]);
    h.update(left.as_bytes());
    h.update(right.as_bytes());
    h.finish()
}

/// A growing tree that keeps only its right edge: one hash per complete subtree, at most 64 of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// Roots of the complete subtrees, widest first; their sizes are the set bits of `size`.
    edge: Vec<Digest>,
}

impl Tree {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of entries.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends an entry. O(log n) hashes at worst, two on average.
    pub fn append(&mut self, entry: &[u8]) {
        self.append_hash(leaf_hash(entry));
    }

    /// Appends an entry by its [`leaf_hash`].
    pub fn append_hash(&mut self, leaf: Digest) {
        let mut hash = leaf;
        let mut carry = self.size;
        while carry & 1 == 1 {
            if let Some(left) = self.edge.pop() {
                hash = node_hash(&left, &hash);
            }
            carry >>= 1;
        }
        self.edge.push(hash);
        self.size = self.size.saturating_add(1);
    }

    /// The tree's root; of the empty tree SHA-256 of nothing.
    #[must_use]
    pub fn root(&self) -> Digest {
        let mut right_to_left = self.edge.iter().rev();
        let Some(last) = right_to_left.next() else { return Digest::of(b"") };
        right_to_left.fold(*last, |acc, left| node_hash(left, &acc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962 section 2.1 as written: split at the largest power of two below n.
    fn by_definition(entries: &[Vec<u8>]) -> Digest {
        match entries {
            [] => Digest::of(b""),
            [one] => leaf_hash(one),
            many => {
                let k = 1 << (usize::BITS - 1 - (many.len() - 1).leading_zeros());
                node_hash(&by_definition(&many[..k]), &by_definition(&many[k..]))
            }
        }
    }

    #[test]
    fn equals_the_definition_for_every_size() {
        let entries: Vec<Vec<u8>> = (0..130_u32).map(|i| i.to_le_bytes().to_vec()).collect();
        let mut tree = Tree::new();
        for n in 0..=entries.len() {
            assert_eq!((tree.size(), tree.root()), (n as u64, by_definition(&entries[..n])), "{n}");
            if let Some(entry) = entries.get(n) {
                tree.append(entry);
            }
        }
    }

    #[test]
    fn known_root() {
        // certificate-transparency-go, merkle tree test vectors: the one-entry tree over the empty string.
        let mut tree = Tree::new();
        tree.append(b"");
        assert_eq!(tree.root().to_string(), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    }
}
