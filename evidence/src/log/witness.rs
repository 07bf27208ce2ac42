//! Witnesses: keys outside the deployment that vouch for one history of a log. C2SP tlog-cosignature, the Ed25519 form
//! `cosignature/v1`: the witness signs, with a time, a checkpoint that continues everything that it signed of that log before.
//!
//! ```text
//! cosignature/v1\ntime <seconds since 1970>\n<text of the checkpoint>
//! ```

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::ED25519;
use super::note::{Note, Signature, is_key_name, key_id};
use super::{BadCheckpoint, Checkpoint};
use crate::key::{PublicKey, SigningKey};

/// The most witnesses of a deployment: with their lines a checkpoint stays far below the largest note.
pub const WITNESSES_MAX: usize = 16;
/// The type byte of cosignature/v1 in signed-note.
const COSIGNATURE_V1: u8 = 4;
/// A witness's name is shorter, so that sixteen lines fit into a note.
const NAME_BYTES_MAX: usize = 128;

/// Why a text is not the public key of a witness.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a witness key: {0}; expected NAME+8 hexadecimal characters+BASE64, as `exhibit witness init` prints it")]
pub struct BadWitnessKey(&'static str);

/// A witness's name and public key. Text form: the verifier key of C2SP signed-note.
#[derive(Clone, PartialEq, Eq)]
pub struct WitnessKey {
    name: String,
    key: PublicKey,
}

/// A checkpoint that a witness vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosigned {
    /// The head. Only the witness's signature was checked, not the log's.
    pub checkpoint: Checkpoint,
    /// When the witness signed, by its clock: seconds since 1970.
    pub time_s: u64,
    /// Its line.
    pub signature: Signature,
}

/// Why a note is no head that a witness vouches for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCosigned {
    /// It is no checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] BadCheckpoint),
    /// No line of this witness.
    #[error("witness '{0}' did not cosign it")]
    NoLine(String),
    /// A line in the witness's name and with its key's id, whose signature is wrong.
    #[error("the cosignature of witness '{0}' does not hold")]
    BadSignature(String),
}

impl WitnessKey {
    /// Names a key. The name is best a name of the witness's own that looks like a web address without scheme.
    ///
    /// # Errors
    /// [`BadWitnessKey`] when the name is empty, longer than 128 bytes or holds white space, control characters or a plus
    /// sign.
    pub fn new(name: &str, key: PublicKey) -> Result<Self, BadWitnessKey> {
        if !is_key_name(name) || name.len() > NAME_BYTES_MAX {
            return Err(BadWitnessKey("a name has 1 to 128 bytes, no spaces and no plus sign"));
        }
        Ok(Self { name: name.to_owned(), key })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The id in its signature lines, in hexadecimal: the name of its folder in a log.
    #[must_use]
    pub fn id(&self) -> String {
        hex(self.key_id())
    }

    fn key_id(&self) -> [u8; 4] {
        key_id(&self.name, COSIGNATURE_V1, self.key.as_bytes())
    }

    /// Reads a note and checks this witness's cosignature; with several of them the newest that holds counts. The log's
    /// signature is not checked.
    ///
    /// # Errors
    /// [`NotCosigned`]
    pub fn verify(&self, note: &Note) -> Result<Cosigned, NotCosigned> {
        let checkpoint = Checkpoint::of(note)?;
        let mut lines = note.signatures.iter().filter(|s| s.name == self.name && s.key_id == self.key_id()).peekable();
        if lines.peek().is_none() {
            return Err(NotCosigned::NoLine(self.name.clone()));
        }
        let holds = |signature: &Signature| {
            let (time, bytes) = signature.bytes.split_first_chunk::<8>()?;
            let time_s = Some(u64::from_be_bytes(*time)).filter(|t| i64::try_from(*t).is_ok())?;
            self.key.verifies(message(&note.text, time_s).as_bytes(), bytes).then(|| (time_s, signature.clone()))
        };
        let newest = lines.filter_map(holds).max_by_key(|(time_s, _)| *time_s);
        let (time_s, signature) = newest.ok_or_else(|| NotCosigned::BadSignature(self.name.clone()))?;
        Ok(Cosigned { checkpoint, time_s, signature })
    }
}

/// Makes the witness's signature line over a checkpoint. Whoever calls this has checked that the checkpoint continues
/// what was cosigned before, and has made that durable.
#[must_use]
pub fn cosign(checkpoint: &Checkpoint, witness: &WitnessKey, key: &SigningKey, time_s: u64) -> Signature {
    let mut bytes = time_s.to_be_bytes().to_vec();
    bytes.extend_from_slice(&key.sign(message(&checkpoint.text(), time_s).as_bytes()));
    Signature { name: witness.name.clone(), key_id: witness.key_id(), bytes }
}

fn message(text: &str, time_s: u64) -> String {
    format!("cosignature/v1\ntime {time_s}\n{text}")
}

/// The verifier key (C2SP signed-note) of a log, for other programs: `<origin>+<id>+<base64>`.
#[must_use]
pub fn log_verifier_key(origin: &str, key: &PublicKey) -> String {
    verifier_key(origin, ED25519, key)
}

fn verifier_key(name: &str, kind: u8, key: &PublicKey) -> String {
    let bytes: Vec<u8> = std::iter::once(kind).chain(*key.as_bytes()).collect();
    format!("{name}+{}+{}", hex(key_id(name, kind, key.as_bytes())), STANDARD.encode(bytes))
}

fn hex(id: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(id))
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&verifier_key(&self.name, COSIGNATURE_V1, &self.key))
    }
}

impl fmt::Debug for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WitnessKey {
    type Err = BadWitnessKey;

    fn from_str(text: &str) -> Result<Self, BadWitnessKey> {
        // Base64 may hold plus signs, a name may not.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(BadWitnessKey("it has not three parts"));
        };
        let bytes = STANDARD.decode(key).map_err(|_| BadWitnessKey("the third part is not base64"))?;
        let key = match bytes.split_first() {
            Some((&COSIGNATURE_V1, key)) => PublicKey::from_bytes(key).map_err(|_| BadWitnessKey("it holds no Ed25519 public key"))?,
            Some((&ED25519, _)) => return Err(BadWitnessKey("it is the key of a log, not of a witness")),
            _ => return Err(BadWitnessKey("its type is not cosignature/v1 (4)")),
        };
        let witness = Self::new(name, key)?;
        if witness.id() == id { Ok(witness) } else { Err(BadWitnessKey("the second part does not follow from the others")) }
    }
}

impl serde::Serialize for WitnessKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_string())
    }
}

impl<'de> serde::Deserialize<'de> for WitnessKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn witness() -> (WitnessKey, SigningKey) {
        let key = SigningKey::from_seed(&[9; 32]);
        (WitnessKey::new("counsel.example/witness", key.public()).expect("a name"), key)
    }

    fn cosigned(time_s: u64) -> Note {
        let (witness, key) = witness();
        let checkpoint = Checkpoint { origin: "exhibit/d/case/x".to_owned(), size: 12, root: Digest::of(b"r") };
        let mut note = checkpoint.signed_note(&SigningKey::from_seed(&[5; 32]));
        note.signatures.push(cosign(&checkpoint, &witness, &key, time_s));
        note
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (witness, _) = witness();
        let log = SigningKey::from_seed(&[5; 32]).public();
        let note = cosigned(1_700_000_000);
        assert_eq!(witness.verify(&note).map(|c| (c.checkpoint.size, c.time_s)), Ok((12, 1_700_000_000)));
        let bytes = note.to_bytes();
        assert!(Checkpoint::verify(&bytes, &log).is_ok(), "other signatures do not disturb");
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[i] ^= 1 << bit;
                let both = Note::parse(&bytes).is_ok_and(|n| witness.verify(&n).is_ok() && Checkpoint::verify_note(&n, &log).is_ok());
                assert!(!both, "byte {i} bit {bit}");
            }
        }
    }

    #[test]
    fn the_newest_cosignature_that_holds_counts() {
        let (witness, _) = witness();
        let mut note = cosigned(10);
        note.signatures.push(cosigned(20).signatures[1].clone());
        let mut forged = cosigned(30).signatures[1].clone();
        forged.bytes[20] ^= 1;
        note.signatures.push(forged.clone());
        assert_eq!(witness.verify(&note).map(|c| c.time_s), Ok(20));
        note.signatures = vec![note.signatures[0].clone(), forged];
        assert!(matches!(witness.verify(&note), Err(NotCosigned::BadSignature(_))));
        note.signatures.truncate(1);
        assert!(matches!(witness.verify(&note), Err(NotCosigned::NoLine(_))));
        assert!(witness.verify(&cosigned(1 << 63)).is_err(), "the specification bounds the time");
    }

    #[test]
    fn keys_have_one_text() {
        let (witness, key) = witness();
        let text = witness.to_string();
        assert_eq!(text.parse(), Ok(witness.clone()));
        assert!(text.starts_with(&format!("counsel.example/witness+{}+B", witness.id())), "{text}");
        let log = log_verifier_key("exhibit/d/case/x", &key.public());
        for bad in ["", "a+b", &text.replace("counsel", "councel"), &text[..text.len() - 4], &log, &format!("{text}+"), "a b+00000000+BA=="]
        {
            assert!(bad.parse::<WitnessKey>().is_err(), "{bad}");
        }
        for bad in ["", "a b", "a+b", "a\n", &"x".repeat(129)] {
            assert!(WitnessKey::new(bad, key.public()).is_err(), "{bad}");
        }
        assert!(WitnessKey::new(&"x".repeat(128), key.public()).is_ok());
    }

    #[test]
    fn sixteen_witnesses_fit_into_a_note() {
        let checkpoint = Checkpoint { origin: format!("exhibit/{}/case/x", "d".repeat(200)), size: u64::MAX, root: Digest::of(b"r") };
        let mut note = checkpoint.signed_note(&SigningKey::from_seed(&[5; 32]));
        for seed in 0..WITNESSES_MAX as u8 {
            let key = SigningKey::from_seed(&[seed; 32]);
            let witness = WitnessKey::new(&"w".repeat(128), key.public()).expect("a name");
            note.signatures.push(cosign(&checkpoint, &witness, &key, 1));
        }
        assert!(Note::parse(&note.to_bytes()).is_ok());
    }
}
