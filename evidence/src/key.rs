//! Evidence-signing keys: Ed25519 (RFC 8032). They sign records and checkpoints and are never used for TLS.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

use crate::digest::Digest;

/// A key's name: SHA-256 of its 32 public bytes.
pub type KeyId = Digest;

/// A private key. Its Debug form shows only the key id; the seed is wiped from memory on drop.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// Makes a key from 32 bytes of good randomness, which the caller draws and wipes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Reads the text that [`SigningKey::to_text`] wrote; `None` when it is not one.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let body = text.trim_end().strip_prefix(PRIVATE_PREFIX)?;
        let seed = Zeroizing::new(STANDARD.decode(body).ok()?);
        Some(Self::from_seed(seed.as_slice().try_into().ok()?))
    }

    /// The key file's content: one line. It belongs in a file of mode 0600 and nowhere else.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(self.0.to_bytes());
        Zeroizing::new(format!("{PRIVATE_PREFIX}{}\n", STANDARD.encode(seed.as_slice())))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

const PRIVATE_PREFIX: &str = "exhibit-ed25519-seed-v1:";

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

/// A public key. Text form: base64 of its 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

/// Why a value is not an Ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 public key: expected base64 of 32 bytes that are a point of the curve and not of small order")]
pub struct BadKey;

impl PublicKey {
    /// Takes the 32 bytes of RFC 8032; points of small order are refused because they verify anything.
    ///
    /// # Errors
    /// [`BadKey`] when the bytes are not a usable point.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadKey> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| BadKey)?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| BadKey)?;
        if key.is_weak() { Err(BadKey) } else { Ok(Self(key)) }
    }

    /// The 32 bytes of RFC 8032.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The key's name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        Digest::of(self.0.as_bytes())
    }

    /// True when `signature` is this key's over `message` (strict: no malleable forms).
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = <&[u8; 64]>::try_from(signature) else { return false };
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.as_bytes()))
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(self.as_bytes()))
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        Self::from_bytes(&bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_like_rfc_8032() {
        // RFC 8032 section 7.1, test 1: empty message.
        let seed: Vec<u8> = (0..64)
            .step_by(2)
            .map(|i| u8::from_str_radix(&"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"[i..i + 2], 16).expect("hex"))
            .collect();
        let key = SigningKey::from_seed(seed.as_slice().try_into().expect("32 bytes"));
        let signature = key.sign(b"");
        assert_eq!(signature[..8], [0xe5, 0x56, 0x43, 0x00, 0xc3, 0x60, 0xac, 0x72]);
        assert!(key.public().verifies(b"", &signature));
        assert!(!key.public().verifies(b"x", &signature));
    }

    #[test]
    fn the_seed_is_not_shown_and_survives_its_file() {
        let key = SigningKey::from_seed(&[7; 32]);
        let text = key.to_text();
        assert!(!format!("{key:?}").contains(&text[24..40]));
        assert_eq!(SigningKey::from_text(&text).map(|k| k.public().id()), Some(key.public().id()));
        assert!(SigningKey::from_text("garbage").is_none());
    }

    #[test]
    fn small_order_points_are_refused() {
        let mut identity = [0_u8; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(&identity), Err(BadKey));
    }
}
