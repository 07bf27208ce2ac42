//! Signed tree heads: C2SP tlog-checkpoint inside a C2SP signed note with one Ed25519 signature.
//!
//! ```text
//! <origin>\n<size, decimal>\n<root, base64>\n\n— <key name> <base64 of 4-byte key hash and signature>\n
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::digest::{Digest, Hasher};
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

/// The largest checkpoint in bytes.
const BYTES_MAX: usize = 16_384;

/// C2SP signed-note: first four bytes of SHA-256(name || 0x0A || 0x01 || public key); 0x01 is Ed25519.
fn key_hash(name: &str, key: &PublicKey) -> [u8; 4] {
    let mut hasher = Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(b"\n\x01");
    hasher.update(key.as_bytes());
    let [a, b, c, d, ..] = *hasher.finish().as_bytes();
    [a, b, c, d]
}

impl Checkpoint {
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.as_bytes()))
    }

    /// Signs the tree head. The key's name is the origin.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let text = self.text();
        let mut blob = key_hash(&self.origin, &key.public()).to_vec();
        blob.extend_from_slice(&key.sign(text.as_bytes()));
        format!("{text}\n\u{2014} {} {}\n", self.origin, STANDARD.encode(blob)).into_bytes()
    }

    /// Reads a checkpoint without trusting it, to learn its origin and size.
    ///
    /// # Errors
    /// [`BadCheckpoint::Malformed`]
    pub fn parse_unverified(bytes: &[u8]) -> Result<Self, BadCheckpoint> {
        Self::split(bytes).map(|(checkpoint, _)| checkpoint)
    }

    fn split(bytes: &[u8]) -> Result<(Self, Vec<u8>), BadCheckpoint> {
        use BadCheckpoint::Malformed;
        if bytes.len() > BYTES_MAX {
            return Err(Malformed("larger than 16384 bytes"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("not UTF-8"))?;
        let lines: Vec<&str> = text.split('\n').collect();
        let [origin, size, root, "", signature, ""] = lines.as_slice() else {
            return Err(Malformed("expected origin, size, root, an empty line and one signature line"));
        };
        let size: u64 = size.parse().ok().filter(|n: &u64| n.to_string() == *size).ok_or(Malformed("the size is not a decimal number"))?;
        let root = STANDARD
            .decode(root)
            .ok()
            .and_then(|r| Digest::try_from(r.as_slice()).ok())
            .ok_or(Malformed("the root is not base64 of 32 bytes"))?;
        let blob = signature
            .strip_prefix("\u{2014} ")
            .and_then(|rest| rest.strip_prefix(origin))
            .and_then(|rest| rest.strip_prefix(' '))
            .and_then(|b64| STANDARD.decode(b64).ok())
            .ok_or(Malformed("the signature line is not by the log's own name"))?;
        Ok((Self { origin: (*origin).to_owned(), size, root }, blob))
    }

    /// Reads a checkpoint and checks its signature.
    ///
    /// # Errors
    /// [`BadCheckpoint`]
    pub fn verify(bytes: &[u8], key: &PublicKey) -> Result<Self, BadCheckpoint> {
        let (checkpoint, blob) = Self::split(bytes)?;
        let bad = BadCheckpoint::BadSignature(key.id());
        let (hash, signature) = blob.split_first_chunk::<4>().ok_or(BadCheckpoint::Malformed("the signature is too short"))?;
        if *hash != key_hash(&checkpoint.origin, key) || !key.verifies(checkpoint.text().as_bytes(), signature) {
            return Err(bad);
        }
        Ok(checkpoint)
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
