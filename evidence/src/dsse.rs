//! Signed envelopes: DSSE v1 (github.com/secure-systems-lab/dsse, `protocol.md`) with one Ed25519 signature.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::key::{KeyId, PublicKey, SigningKey};

/// The only payload type of Exhibit's envelopes.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// The largest envelope in bytes: what one entry of a C2SP tlog-tiles bundle can hold.
pub const ENVELOPE_BYTES_MAX: usize = 65_535;

/// A parsed envelope together with the exact bytes it came from. Its digest is over those bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    bytes: Vec<u8>,
    payload: Vec<u8>,
    keyid: KeyId,
    signature: Vec<u8>,
}

/// Why bytes are not an envelope of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEnvelope {
    /// Larger than [`ENVELOPE_BYTES_MAX`].
    #[error("envelope of {0} bytes: at most 65535 are allowed")]
    TooLarge(usize),
    /// Not JSON of the DSSE shape.
    #[error("not a DSSE envelope: {0}")]
    Malformed(String),
    /// JSON of the right shape but not in the one form that this format writes.
    #[error("the envelope is not in canonical form (one line, fields payload, payloadType, signatures, then keyid, sig)")]
    NotCanonical,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    keyid: String,
    sig: String,
}

/// The bytes that a DSSE signature covers (pre-authentication encoding).
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// Signs a payload.
    ///
    /// # Errors
    /// [`BadEnvelope::TooLarge`] when the result would not fit into a log entry.
    pub fn sign(payload: Vec<u8>, key: &SigningKey) -> Result<Self, BadEnvelope> {
        let signature = key.sign(&pae(PAYLOAD_TYPE, &payload)).to_vec();
        let keyid = key.public().id();
        let wire = Wire {
            payload: STANDARD.encode(&payload),
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures: vec![WireSignature { keyid: keyid.to_string(), sig: STANDARD.encode(&signature) }],
        };
        let bytes = serde_json::to_vec(&wire).map_err(|e| BadEnvelope::Malformed(e.to_string()))?;
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(BadEnvelope::TooLarge(bytes.len()));
        }
        Ok(Self { bytes, payload, keyid, signature })
    }

    /// Parses an envelope; nothing is verified yet.
    ///
    /// # Errors
    /// [`BadEnvelope`]: too large, of another shape, or not the canonical bytes of what it says.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadEnvelope> {
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(BadEnvelope::TooLarge(bytes.len()));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|e| BadEnvelope::Malformed(e.to_string()))?;
        let malformed = |what: &str| BadEnvelope::Malformed(what.to_owned());
        if wire.payload_type != PAYLOAD_TYPE {
            return Err(malformed("payloadType is not application/vnd.in-toto+json"));
        }
        let [signature] = wire.signatures.as_slice() else {
            return Err(malformed("expected exactly one signature"));
        };
        let payload = STANDARD.decode(&wire.payload).map_err(|_| malformed("payload is not base64"))?;
        let sig = STANDARD.decode(&signature.sig).map_err(|_| malformed("sig is not base64"))?;
        let keyid = signature.keyid.parse().map_err(|_| malformed("keyid is not a SHA-256"))?;
        let canonical = serde_json::to_vec(&wire).map_err(|e| BadEnvelope::Malformed(e.to_string()))?;
        if canonical != bytes {
            return Err(BadEnvelope::NotCanonical);
        }
        Ok(Self { bytes: canonical, payload, keyid, signature: sig })
    }

    /// The exact bytes, as stored and as logged.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of [`Envelope::as_bytes`]: how other records name this one.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// The key that claims to have signed.
    #[must_use]
    pub const fn keyid(&self) -> KeyId {
        self.keyid
    }

    /// The payload, not yet verified. For display and for finding the key; decide on nothing from it.
    #[must_use]
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, if `key` is the named key and its signature holds.
    #[must_use]
    pub fn verified_payload(&self, key: &PublicKey) -> Option<&[u8]> {
        (key.id() == self.keyid && key.verifies(&pae(PAYLOAD_TYPE, &self.payload), &self.signature)).then_some(&self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pae_is_the_specifications_example() {
        // DSSE protocol.md, test vector "hello world".
        assert_eq!(pae("http://example.com/HelloWorld", b"hello world"), b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = SigningKey::from_seed(&[3; 32]);
        let envelope = Envelope::sign(b"{\"a\":1}".to_vec(), &key).expect("small");
        assert_eq!(Envelope::parse(envelope.as_bytes()).as_ref(), Ok(&envelope));
        for i in 0..envelope.as_bytes().len() {
            for bit in 0..8 {
                let mut bytes = envelope.as_bytes().to_vec();
                bytes[i] ^= 1 << bit;
                let accepted = Envelope::parse(&bytes).is_ok_and(|e| e.verified_payload(&key.public()).is_some());
                assert!(!accepted, "byte {i} bit {bit}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = Envelope::parse(&bytes);
        }
    }
}
