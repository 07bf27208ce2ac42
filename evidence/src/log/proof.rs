//! Proofs about the tree: which hashes they need and in which tiles those lie, their verification, and their texts
//! (C2SP tlog-proof for one record, the request of C2SP tlog-witness for two heads).
//!
//! A proof has at most 64 hashes and is made of at most two tiles a level: a log of 100,000 records has three levels.

use std::collections::BTreeSet;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::merkle::node_hash;
use super::note::NOTE_BYTES_MAX;
use super::tiles::{TILE_WIDTH, Tile, complete_root};
use crate::digest::Digest;

/// Hashes of a proof: no tree of 2^63 entries needs more.
const HASHES_MAX: usize = 64;
/// The largest text of a proof: 64 hashes, the note, and a line or two.
const TEXT_BYTES_MAX: usize = NOTE_BYTES_MAX + HASHES_MAX * 45 + 1_024;

/// A proof that does not hold, or is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadProof {
    /// The text is not one of the form.
    #[error("not a proof: {0}")]
    Malformed(&'static str),
    /// The hashes do not lead to the root.
    #[error("the hashes of the proof do not lead to the signed root")]
    DoesNotHold,
}

/// A tile that a proof needs and that is not there, or is too short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("tile '{0}' is needed for the proof and is missing or too short")]
pub struct MissingTile(pub Tile);

/// What a proof is made of: for each of its hashes the complete subtrees that give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    size: u64,
    hashes: Vec<Vec<Node>>,
}

/// The root of 2^`level` entries, number `index` of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    level: u32,
    index: u64,
}

impl Plan {
    /// For the proof that entry `n` is in the tree of `size` entries (RFC 6962 section 2.1.1); `None` when it is not.
    #[must_use]
    pub fn inclusion(n: u64, size: u64) -> Option<Self> {
        let (mut begin, mut end) = (0, (n < size).then_some(size)?);
        let mut ranges = Vec::new();
        while end - begin > 1 {
            let middle = begin + split(end - begin);
            if n < middle {
                ranges.push(middle..end);
                end = middle;
            } else {
                ranges.push(begin..middle);
                begin = middle;
            }
        }
        Some(Self::new(size, ranges))
    }

    /// For the proof that the tree of `new` entries begins with the tree of `old` ones (RFC 6962 section 2.1.2); empty when
    /// `old` is zero or `new`, `None` when it is more.
    #[must_use]
    pub fn consistency(old: u64, new: u64) -> Option<Self> {
        let (mut begin, mut end) = (0, (old <= new).then_some(new)?);
        let mut ranges = Vec::new();
        while old > 0 && end != old {
            let middle = begin + split(end - begin);
            if old <= middle {
                ranges.push(middle..end);
                end = middle;
            } else {
                ranges.push(begin..middle);
                begin = middle;
            }
        }
        if begin > 0 {
            ranges.push(begin..end);
        }
        Some(Self::new(new, ranges))
    }

    fn new(size: u64, ranges: Vec<Range<u64>>) -> Self {
        Self { size, hashes: ranges.into_iter().rev().map(nodes).collect() }
    }

    /// The same proof, made of the tiles of a later tree of `size` entries: an earlier one may never have had tiles of its
    /// own.
    #[must_use]
    pub fn in_tree(mut self, size: u64) -> Self {
        self.size = self.size.max(size);
        self
    }

    /// The tiles that are needed, each once.
    #[must_use]
    pub fn tiles(&self) -> BTreeSet<Tile> {
        self.hashes.iter().flatten().map(|node| node.place(self.size).0).collect()
    }

    /// The hashes of the proof. `tile` gives the bytes of a tile.
    ///
    /// # Errors
    /// [`MissingTile`]
    pub fn build<'a>(&self, tile: &dyn Fn(&Tile) -> Option<&'a [u8]>) -> Result<Vec<Digest>, MissingTile> {
        let mut out = Vec::with_capacity(self.hashes.len());
        for parts in &self.hashes {
            let mut hash = None;
            for node in parts.iter().rev() {
                let left = node.read(self.size, tile)?;
                hash = Some(hash.map_or(left, |right| node_hash(&left, &right)));
            }
            out.extend(hash);
        }
        Ok(out)
    }
}

impl Node {
    /// The tile that holds this node's hashes in a tree of `size` entries, and which of its hashes.
    fn place(self, size: u64) -> (Tile, Range<usize>) {
        let (level, below) = (self.level / 8, self.level % 8);
        let first = self.index << below;
        let at = (first % TILE_WIDTH) as usize;
        (Tile::holding(level as u8, first, size), at..at + (1 << below))
    }

    fn read<'a>(self, size: u64, tile: &dyn Fn(&Tile) -> Option<&'a [u8]>) -> Result<Digest, MissingTile> {
        let (name, hashes) = self.place(size);
        let part = tile(&name).and_then(|bytes| bytes.get(hashes.start * 32..hashes.end * 32)).ok_or(MissingTile(name))?;
        let row: Vec<Digest> = part.as_chunks::<32>().0.iter().map(|h| Digest::from_bytes(*h)).collect();
        Ok(complete_root(&row))
    }
}

/// The complete subtrees of a range whose beginning is where a tree splits, left to right.
fn nodes(range: Range<u64>) -> Vec<Node> {
    let (mut begin, mut out) = (range.start, Vec::new());
    while begin < range.end {
        let level = (range.end - begin).ilog2();
        out.push(Node { level, index: begin >> level });
        begin += 1 << level;
    }
    out
}

/// RFC 6962: the largest power of two below `n`, for `n` above one.
const fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// Checks that the entry with this leaf hash is number `n` of the tree of `size` entries with this root (RFC 9162 section
/// 2.1.3.2).
///
/// # Errors
/// [`BadProof::DoesNotHold`]
pub fn verify_inclusion(leaf: Digest, n: u64, size: u64, hashes: &[Digest], root: &Digest) -> Result<(), BadProof> {
    let (mut at, mut last) = (n, size.checked_sub(1).filter(|last| n <= *last).ok_or(BadProof::DoesNotHold)?);
    let mut hash = leaf;
    for sibling in hashes {
        if last == 0 {
            return Err(BadProof::DoesNotHold);
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            skip_to_right_child(&mut at, &mut last);
        } else {
            hash = node_hash(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if last == 0 && hash == *root { Ok(()) } else { Err(BadProof::DoesNotHold) }
}

/// Checks that the tree of `new` begins with the tree of `old` (RFC 9162 section 2.1.4.2). Every tree begins with the empty
/// one.
///
/// # Errors
/// [`BadProof::DoesNotHold`]
pub fn verify_consistency(old: (u64, &Digest), new: (u64, &Digest), hashes: &[Digest]) -> Result<(), BadProof> {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    let holds = |yes| if yes { Ok(()) } else { Err(BadProof::DoesNotHold) };
    if old_size == 0 || old_size == new_size {
        return holds(hashes.is_empty() && (old_size == 0 || old_root == new_root));
    }
    if old_size > new_size || hashes.len() > HASHES_MAX {
        return holds(false);
    }
    let (first, rest) = match hashes {
        rest if old_size.is_power_of_two() => (old_root, rest),
        [first, rest @ ..] => (first, rest),
        [] => return holds(false),
    };
    holds(roots_of((old_size, new_size), *first, rest) == Some((*old_root, *new_root)))
}

/// The root of the earlier tree of `old_size` entries that a consistency proof shows where it leads to the later one: whoever has
/// another root there has another history. `None` where it does not lead there, and for 2^k entries, whose root no proof holds.
#[must_use]
pub fn earlier_root(old_size: u64, new: (u64, &Digest), hashes: &[Digest]) -> Option<Digest> {
    let (new_size, new_root) = new;
    if old_size == 0 || old_size >= new_size || old_size.is_power_of_two() || hashes.len() > HASHES_MAX {
        return None;
    }
    let (first, rest) = hashes.split_first()?;
    roots_of((old_size, new_size), *first, rest).filter(|(_, leads_to)| leads_to == new_root).map(|(old_root, _)| old_root)
}

/// Both roots that a proof gives, from the hash that it begins with; `None` when it has too many hashes or too few. The old tree
/// has entries, and fewer than the new one.
fn roots_of((old_size, new_size): (u64, u64), first: Digest, rest: &[Digest]) -> Option<(Digest, Digest)> {
    let (mut at, mut last) = (old_size - 1, new_size - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut old_hash, mut new_hash) = (first, first);
    for sibling in rest {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            skip_to_right_child(&mut at, &mut last);
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some((old_hash, new_hash))
}

/// At the right edge of a tree that is not complete, nodes without a sibling are the same as their parent.
const fn skip_to_right_child(at: &mut u64, last: &mut u64) {
    while *at & 1 == 0 && *at != 0 {
        *at >>= 1;
        *last >>= 1;
    }
}

/// That a record is in a log: C2SP tlog-proof, `.tlog-proof`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// Number of the record, from 0.
    pub index: u64,
    /// From the leaf's sibling up.
    pub hashes: Vec<Digest>,
    /// The signed checkpoint, as it is.
    pub checkpoint: Vec<u8>,
}

impl InclusionProof {
    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        write(&format!("{PROOF}\nindex {}", self.index), &self.hashes, &self.checkpoint)
    }

    /// Reads a file; a line `extra` is passed over, because nothing vouches for it. Nothing is verified.
    ///
    /// # Errors
    /// [`BadProof::Malformed`]
    pub fn parse(bytes: &[u8]) -> Result<Self, BadProof> {
        let (mut lines, checkpoint) = read(bytes)?;
        if lines.first() != Some(&PROOF) {
            return Err(BadProof::Malformed("the first line is not c2sp.org/tlog-proof@v1"));
        }
        lines.remove(0);
        if lines.first().and_then(|l| l.strip_prefix("extra ")).is_some_and(|b64| STANDARD.decode(b64).is_ok()) {
            lines.remove(0);
        }
        let index = number(&lines, "index ").ok_or(BadProof::Malformed("no line 'index NUMBER'"))?;
        Ok(Self { index, hashes: hashes_of(lines.get(1..).unwrap_or_default())?, checkpoint })
    }
}

/// That a head continues an earlier one: the body of a C2SP tlog-witness add-checkpoint request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// Size of the earlier head.
    pub old: u64,
    /// RFC 6962 consistency proof.
    pub hashes: Vec<Digest>,
    /// The signed checkpoint, as it is.
    pub checkpoint: Vec<u8>,
}

impl ConsistencyProof {
    /// The text's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        write(&format!("old {}", self.old), &self.hashes, &self.checkpoint)
    }

    /// Reads a text. Nothing is verified.
    ///
    /// # Errors
    /// [`BadProof::Malformed`]
    pub fn parse(bytes: &[u8]) -> Result<Self, BadProof> {
        let (lines, checkpoint) = read(bytes)?;
        let old = number(&lines, "old ").ok_or(BadProof::Malformed("the first line is not 'old NUMBER'"))?;
        Ok(Self { old, hashes: hashes_of(lines.get(1..).unwrap_or_default())?, checkpoint })
    }
}

const PROOF: &str = "c2sp.org/tlog-proof@v1";

fn write(head: &str, hashes: &[Digest], checkpoint: &[u8]) -> Vec<u8> {
    let mut out = format!("{head}\n");
    for hash in hashes {
        out.push_str(&STANDARD.encode(hash.as_bytes()));
        out.push('\n');
    }
    out.push('\n');
    let mut out = out.into_bytes();
    out.extend_from_slice(checkpoint);
    out
}

/// The lines before the first empty one, and the bytes after it.
fn read(bytes: &[u8]) -> Result<(Vec<&str>, Vec<u8>), BadProof> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(BadProof::Malformed("it is too large"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BadProof::Malformed("not UTF-8"))?;
    let (head, checkpoint) = text.split_once("\n\n").ok_or(BadProof::Malformed("no empty line before a checkpoint"))?;
    Ok((head.split('\n').collect(), checkpoint.as_bytes().to_vec()))
}

fn number(lines: &[&str], prefix: &str) -> Option<u64> {
    let digits = lines.first()?.strip_prefix(prefix)?;
    digits.parse().ok().filter(|n: &u64| n.to_string() == digits)
}

fn hashes_of(lines: &[&str]) -> Result<Vec<Digest>, BadProof> {
    if lines.len() > HASHES_MAX {
        return Err(BadProof::Malformed("it has more than 64 hashes"));
    }
    let hash = |line: &&str| STANDARD.decode(line).ok().and_then(|h| Digest::try_from(h.as_slice()).ok());
    lines.iter().map(hash).collect::<Option<Vec<_>>>().ok_or(BadProof::Malformed("a line is not base64 of 32 bytes"))
}

#[cfg(test)]
mod tests;
