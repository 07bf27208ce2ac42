//! SHA-256, the identity of evidence (FIPS 180-4).

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;
use sha2::digest::common::hazmat::SerializableState;

/// A SHA-256 value. Text form: 64 lower-case hexadecimal characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a SHA-256: expected 64 lower-case hexadecimal characters")]
pub struct BadDigest(String);

impl Digest {
    /// Bytes in a digest.
    pub const LEN: usize = 32;

    /// Hashes one buffer.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Wraps a digest that was computed elsewhere.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw value.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = BadDigest;
    fn try_from(bytes: &[u8]) -> Result<Self, BadDigest> {
        bytes.try_into().map(Self).map_err(|_| BadDigest(format!("{} bytes", bytes.len())))
    }
}

impl FromStr for Digest {
    type Err = BadDigest;
    fn from_str(text: &str) -> Result<Self, BadDigest> {
        const NONE: u8 = 0xff;
        let nibble = |b: u8| match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            _ => NONE,
        };
        let (mut out, mut seen) = ([0_u8; 32], 0);
        for (slot, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            if let [high, low] = pair {
                let (high, low) = (nibble(*high), nibble(*low));
                seen |= high | low;
                *slot = (high << 4) | low;
            }
        }
        if text.len() == 64 && seen != NONE { Ok(Self(out)) } else { Err(BadDigest(crate::text::escape_bounded(text, 80))) }
    }
}

impl Digest {
    /// The text form. A manifest has one a line, so not by the formatting machinery of the standard library, byte by byte.
    fn text(&self) -> [u8; 2 * Self::LEN] {
        let mut text = [0; 2 * Self::LEN];
        let letter = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            if let [high, low] = pair {
                (*high, *low) = (letter(byte >> 4), letter(byte & 15));
            }
        }
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::parsed::parsed(d)
    }
}

/// A running SHA-256 whose state can be stored with a segment and continued by another process.
#[derive(Clone)]
pub struct Hasher {
    state: sha2::Sha256,
    bytes: u64,
}

impl Default for Hasher {
    fn default() -> Self {
        Self { state: sha2::Sha256::new(), bytes: 0 }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({} bytes)", self.bytes)
    }
}

impl Hasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
    }

    /// Adds `count` zero bytes (a hole, or a gap that was filled).
    pub fn update_zeros(&mut self, count: u64) {
        static ZEROS: [u8; 65_536] = [0; 65_536];
        let mut left = count;
        while left > 0 {
            let step = left.min(ZEROS.len() as u64);
            if let Some(zeros) = ZEROS.get(..step as usize) {
                self.update(zeros);
            }
            left -= step;
        }
    }

    /// Bytes seen so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of everything seen so far.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }

    /// The running state, to be continued with [`Hasher::restore`]. Opaque and valid for this version of the program
    /// only: it lives in the catalog, never in evidence.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = self.bytes.to_le_bytes().to_vec();
        out.extend_from_slice(&self.state.serialize());
        out
    }

    /// Continues from a [`Hasher::snapshot`]; `None` when the bytes are not one.
    #[must_use]
    pub fn restore(snapshot: &[u8]) -> Option<Self> {
        let (count, state) = snapshot.split_first_chunk::<8>()?;
        let bytes = u64::from_le_bytes(*count);
        // The state holds the chaining value and then the number of whole blocks. A damaged number would overflow when the
        // hash is finished.
        let blocks = state.get(32..)?.first_chunk().map(|b| u64::from_le_bytes(*b))?;
        if bytes > BYTES_MAX || blocks != bytes / 64 {
            return None;
        }
        let state = state.try_into().ok()?;
        Some(Self { state: sha2::Sha256::deserialize(&state).ok()?, bytes })
    }
}

/// More than any content: SHA-256 counts bits in 64 bits (FIPS 180-4).
const BYTES_MAX: u64 = 1 << 60;

#[cfg(test)]
mod tests {
    use super::*;

    // FIPS 180-4 example: SHA-256("abc").
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn known_answer_and_text_form() {
        assert_eq!(Digest::of(b"abc").to_string(), ABC);
        assert_eq!(ABC.parse::<Digest>(), Ok(Digest::of(b"abc")));
        assert!(ABC.to_uppercase().parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn a_stored_state_continues_to_the_same_digest() {
        for cut in [0, 1, 63, 64, 65, 1000] {
            let data: Vec<u8> = (0..2000_u32).map(|i| i as u8).collect();
            let mut first = Hasher::new();
            first.update(&data[..cut]);
            let mut second = Hasher::restore(&first.snapshot()).expect("own snapshot");
            second.update(&data[cut..]);
            assert_eq!((second.bytes(), second.finish()), (2000, Digest::of(&data)));
        }
        assert!(Hasher::restore(b"short").is_none());
    }

    #[test]
    fn zeros_are_bytes() {
        let mut h = Hasher::new();
        h.update_zeros(200_000);
        assert_eq!(h.finish(), Digest::of(&vec![0; 200_000]));
    }
}
