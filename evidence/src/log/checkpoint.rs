//! Signed tree heads: C2SP tlog-checkpoint inside a C2SP signed note. The log's own signature (Ed25519) comes first;
//! cosignatures of witnesses may follow.
//!
//! ```text
//! <origin>\n<size, decimal>\n<root, base64>\n\n— <origin> <base64 of 4-byte key id and signature>\n
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::note::{Note, Signature, key_id};
use crate::digest::Digest;
use crate::key::{PublicKey, SigningKey};

/// A tree head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: see [`crate::layout::LogName::origin`].
    pub origin: String,
    /// Entries in the tree.
    pub size: u64,
    /// RFC 6962 root.
    pub root: Digest,
}

/// Why bytes are not a trusted checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCheckpoint {
    /// Not the note's shape.
    #[error("not a signed checkpoint: {0}")]
    Malformed(&'static str),
    /// The signature does not hold under the log's key.
    #[error("the checkpoint's signature does not match the log key {0}")]
    BadSignature(Digest),
}

/// The type byte of Ed25519 in signed-note.
pub(super) const ED25519: u8 = 1;

impl Checkpoint {
    /// The text that log and witnesses sign: origin, size and root, each line with its newline.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.as_bytes()))
    }

    /// Signs the tree head. The key's name is the origin.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        self.signed_note(key).to_bytes()
    }

    /// [`Checkpoint::sign`], to which cosignatures can be added.
    #[must_use]
    pub fn signed_note(&self, key: &SigningKey) -> Note {
        let text = self.text();
        let key_id = key_id(&self.origin, ED25519, key.public().as_bytes());
        let bytes = key.sign(text.as_bytes()).to_vec();
        Note { text, signatures: vec![Signature { name: self.origin.clone(), key_id, bytes }] }
    }

    /// Reads a checkpoint without trusting it, to learn its origin and size.
    ///
    /// # Errors
    /// [`BadCheckpoint::Malformed`]
    pub fn parse_unverified(bytes: &[u8]) -> Result<Self, BadCheckpoint> {
        let note = Note::parse(bytes).map_err(|e| BadCheckpoint::Malformed(e.0))?;
        Self::of(&note)
    }

    /// The checkpoint that a note holds, without trusting it.
    ///
    /// # Errors
    /// [`BadCheckpoint::Malformed`] when the text is not three lines, or the first signature is not by the log's name.
    pub fn of(note: &Note) -> Result<Self, BadCheckpoint> {
        use BadCheckpoint::Malformed;
        let lines: Vec<&str> = note.text.split('\n').collect();
        let [origin, size, root, ""] = lines.as_slice() else {
            return Err(Malformed("expected origin, size, root, an empty line and signature lines"));
        };
        let size: u64 = size.parse().ok().filter(|n: &u64| n.to_string() == *size).ok_or(Malformed("the size is not a decimal number"))?;
        let root = STANDARD
            .decode(root)
            .ok()
            .and_then(|r| Digest::try_from(r.as_slice()).ok())
            .ok_or(Malformed("the root is not base64 of 32 bytes"))?;
        if note.signatures.first().is_none_or(|s| s.name != *origin) {
            return Err(Malformed("the first signature line is not by the log's own name"));
        }
        Ok(Self { origin: (*origin).to_owned(), size, root })
    }

    /// Reads a checkpoint and checks its log's signature. Other signatures, of witnesses, are not looked at.
    ///
    /// # Errors
    /// [`BadCheckpoint`]
    pub fn verify(bytes: &[u8], key: &PublicKey) -> Result<Self, BadCheckpoint> {
        let note = Note::parse(bytes).map_err(|e| BadCheckpoint::Malformed(e.0))?;
        Self::verify_note(&note, key)
    }

    /// [`Checkpoint::verify`] of a note that was read already.
    ///
    /// # Errors
    /// [`BadCheckpoint`]
    pub fn verify_note(note: &Note, key: &PublicKey) -> Result<Self, BadCheckpoint> {
        let checkpoint = Self::of(note)?;
        let id = key_id(&checkpoint.origin, ED25519, key.as_bytes());
        let first = note.signatures.first().filter(|s| s.key_id == id && key.verifies(note.text.as_bytes(), &s.bytes));
        if first.is_some() { Ok(checkpoint) } else { Err(BadCheckpoint::BadSignature(key.id())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = SigningKey::from_seed(&[5; 32]);
        let checkpoint = Checkpoint { origin: "exhibit/d/case/x".to_owned(), size: 12, root: Digest::of(b"r") };
        let note = checkpoint.sign(&key);
        assert_eq!(Checkpoint::verify(&note, &key.public()).as_ref(), Ok(&checkpoint));
        for i in 0..note.len() {
            for bit in 0..8 {
                let mut bytes = note.clone();
                bytes[i] ^= 1 << bit;
                assert!(Checkpoint::verify(&bytes, &key.public()).is_err(), "byte {i} bit {bit}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = Checkpoint::parse_unverified(&bytes);
        }
    }
}
