//! The parser's state as bytes, so that another process continues a stream where this one stopped.
//!
//! Everything that a head says follows from its raw bytes, so a snapshot is those bytes, how much of the member's body
//! has passed, the running hash, and what is remembered of the links before. Restoring parses the head again by the same code that parsed it first.
//!
//! Layout, integers little-endian: [`MAGIC`], u64 hole limit, u64 holes before this member, u64 raw offset of the member,
//! u64 body bytes passed, u32 and raw head bytes, u32 and hash state (empty when there is none),
//! u32 and 8 bytes for each symbolic link that has passed. It is valid for this
//! version of the program only and lives in the catalog, never in evidence.

use std::collections::BTreeSet;

use super::{Hasher, Ignore, Limits, Parser, SYMLINKS_MAX, State, Symlinks};

const MAGIC: &[u8; 8] = b"xhbpars3";

impl Parser {
    /// The parser's state at any byte of the stream: a few kilobytes for ordinary members, at most about 2 MiB. Empty,
    /// and not restorable, after an error.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        if self.failed.is_some() {
            return Vec::new();
        }
        let (passed, holes, hasher) = match &self.state {
            State::Body(body) => {
                let own = body.head.size.saturating_sub(body.data);
                (body.passed, self.holes.saturating_sub(own), body.hasher.as_ref().map(Hasher::snapshot).unwrap_or_default())
            }
            _ => (0, self.holes, Vec::new()),
        };
        let mut out = MAGIC.to_vec();
        for number in [self.limits.hole_bytes_max, holes, self.start, passed] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for bytes in [&self.held, &hasher] {
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        }
        let links = self.links.iter();
        out.extend_from_slice(&(links.len() as u32).to_le_bytes());
        links.for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
        out
    }

    /// Continues from a [`Parser::snapshot`]; `None` when the bytes are not one.
    #[must_use]
    pub fn restore(snapshot: &[u8]) -> Option<Self> {
        let rest = snapshot.strip_prefix(MAGIC)?;
        let (hole_bytes_max, rest) = number(rest)?;
        let (holes, rest) = number(rest)?;
        let (start, rest) = number(rest)?;
        let (passed, rest) = number(rest)?;
        let (held, rest) = bytes(rest)?;
        let (hasher, rest) = bytes(rest)?;
        let links = links(rest)?;
        let mut parser = Self::with_limits(Limits { hole_bytes_max });
        parser.holes = holes;
        parser.links = links;
        parser.start = start;
        parser.restoring = true;
        parser.push(held, &mut Ignore).ok()?;
        parser.restoring = false;
        if parser.start != start || parser.held != held {
            return None;
        }
        match &mut parser.state {
            State::Body(body) => {
                body.skip_to(passed)?;
                body.hasher = match &body.hasher {
                    Some(_) => Some(Hasher::restore(hasher).filter(|h| h.bytes() == body.hashed())?),
                    None if hasher.is_empty() => None,
                    None => return None,
                };
            }
            _ if passed == 0 && hasher.is_empty() => {}
            _ => return None,
        }
        Some(parser)
    }
}

impl super::Body {
    /// Moves to where `passed` bytes of the body have passed, short of its end.
    fn skip_to(&mut self, passed: u64) -> Option<()> {
        if passed >= self.data.checked_add(self.padding)? {
            return None;
        }
        while self.passed < passed.min(self.data) {
            let (_, room) = self.place();
            self.advance(room.min(passed.saturating_sub(self.passed)));
        }
        self.passed = passed;
        Some(())
    }

    /// How many bytes of logical content the hash has seen at this place: up to the next data byte.
    fn hashed(&self) -> u64 {
        match &self.head.extents {
            None => self.passed.min(self.data),
            Some(_) => self.place().0,
        }
    }
}

/// All that is left: a count and as many hashes, ascending and each once.
fn links(bytes: &[u8]) -> Option<Symlinks> {
    let (count, mut rest) = bytes.split_first_chunk()?;
    let count = u32::from_le_bytes(*count) as usize;
    if count > SYMLINKS_MAX || rest.len() != count.checked_mul(8)? {
        return None;
    }
    let mut hashes = BTreeSet::new();
    while !rest.is_empty() {
        let (hash, more) = number(rest)?;
        if hashes.last().is_some_and(|last| *last >= hash) {
            return None;
        }
        hashes.insert(hash);
        rest = more;
    }
    Some(Symlinks::from_hashes(hashes))
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*head), rest))
}

fn bytes(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}
