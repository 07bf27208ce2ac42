//! Recipients and identities, and their texts (Bech32, BIP 173).

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{AgeError, KEY_LEN, RECIPIENTS_MAX, secret};
use crate::text::escape_bounded;

const RECIPIENT_HRP: Hrp = Hrp::parse_unchecked("age");
const IDENTITY_HRP: Hrp = Hrp::parse_unchecked("age-secret-key-");
/// An identity file is a few lines; a larger one is another file by mistake.
const FILE_BYTES_MAX: usize = 64 << 10;
/// How the text of every identity begins.
const SECRET: &str = "age-secret-key-";
/// 2^255 - 19, the number below which keys of X25519 are written; the least byte comes first.
const PRIME: [u8; KEY_LEN] = {
    let mut bytes = [0xff; KEY_LEN];
    bytes[0] = 0xed;
    bytes[31] = 0x7f;
    bytes
};

fn decode(text: &str, hrp: Hrp) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let parsed = CheckedHrpstring::new::<Bech32>(text).ok().filter(|p| p.hrp() == hrp)?;
    let mut key = Zeroizing::new([0; KEY_LEN]);
    let mut bytes = parsed.byte_iter();
    for slot in key.iter_mut() {
        *slot = bytes.next()?;
    }
    bytes.next().is_none().then_some(key)
}

/// True when a secret identity stands in the text, whatever it was given as: such a text is shown nowhere.
#[must_use]
pub fn holds_secret(text: &str) -> bool {
    text.to_ascii_lowercase().contains(SECRET)
}

/// Somebody to whom a case is encrypted: an X25519 public key, written `age1...`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Recipient([u8; KEY_LEN]);

impl Recipient {
    pub(super) const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl FromStr for Recipient {
    type Err = AgeError;
    fn from_str(text: &str) -> Result<Self, AgeError> {
        if holds_secret(text) {
            return Err(AgeError::Secret);
        }
        let shown = || escape_bounded(text, 80);
        let key = decode(text, RECIPIENT_HRP).filter(|_| !text.bytes().any(|b| b.is_ascii_uppercase()));
        let key = key.ok_or_else(|| AgeError::Recipient(shown()))?;
        // What is encrypted to a key that is written in another way, age looks for under the one way, and opens nothing.
        let is_canonical = key.iter().rev().lt(PRIME.iter().rev());
        if !is_canonical || !secret::can_share(&key) {
            return Err(AgeError::Unusable(shown()));
        }
        // A key has one text: one with other bits behind the last byte is none, for age as well.
        let recipient = Self(*key);
        if recipient.to_string() == text { Ok(recipient) } else { Err(AgeError::Recipient(shown())) }
    }
}

impl TryFrom<String> for Recipient {
    type Error = AgeError;
    fn try_from(text: String) -> Result<Self, AgeError> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.to_string()
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_lower_to_fmt::<Bech32, _>(f, RECIPIENT_HRP, &self.0).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The recipients of a case, in the order of its case-opened record: none, or 1 to [`RECIPIENTS_MAX`], each once. A field that
/// is there names at least one; where there are none it is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Recipient>", into = "Vec<Recipient>")]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// True when the case is not encrypted.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The recipients.
    #[must_use]
    pub fn as_slice(&self) -> &[Recipient] {
        &self.0
    }
}

impl TryFrom<Vec<Recipient>> for Recipients {
    type Error = AgeError;
    fn try_from(list: Vec<Recipient>) -> Result<Self, AgeError> {
        let once: std::collections::BTreeSet<&Recipient> = list.iter().collect();
        if !(1..=RECIPIENTS_MAX).contains(&list.len()) || once.len() != list.len() {
            let problem = format!("{} recipients, {} different: expected 1 to {RECIPIENTS_MAX}, each once", list.len(), once.len());
            return Err(AgeError::Recipients(problem));
        }
        Ok(Self(list))
    }
}

impl From<Recipients> for Vec<Recipient> {
    fn from(recipients: Recipients) -> Self {
        recipients.0
    }
}

impl fmt::Display for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, recipient) in self.0.iter().enumerate() {
            write!(f, "{}{recipient}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The secret of a recipient, written `AGE-SECRET-KEY-1...`. It shows itself nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    secret: Zeroizing<[u8; KEY_LEN]>,
    recipient: Recipient,
}

impl Identity {
    /// From the 32 secret bytes.
    ///
    /// # Errors
    /// When the cryptography refuses them.
    pub fn from_secret(secret: Zeroizing<[u8; KEY_LEN]>) -> Result<Self, AgeError> {
        let bad = AgeError::Identity("the secret key is not usable");
        let key = PrivateKey::from_private_key(&X25519, &*secret).map_err(|_| bad.clone())?;
        let public = key.compute_public_key().map_err(|_| bad.clone())?;
        let recipient = public.as_ref().try_into().map(Recipient).map_err(|_| bad)?;
        Ok(Self { secret, recipient })
    }

    /// Reads an identity file that the caller has opened, a pipe as well, and no more of it than one can have. `mode` is given where
    /// the system says who else can read it; it is the owner alone, as for every private key.
    ///
    /// # Errors
    /// [`AgeError::File`], and [`AgeError::Identity`], which repeats nothing of the file.
    pub fn read_from(from: &mut dyn Read, mode: Option<u32>) -> Result<Vec<Self>, AgeError> {
        if let Some(mode) = mode.map(|m| m & 0o7777).filter(|m| m & 0o077 != 0) {
            return Err(AgeError::File(format!("it holds a secret and has mode {mode:04o}: others can reach it; run: chmod 600 FILE")));
        }
        // Room for all of it beforehand, so that growing leaves no copy of a secret behind.
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX.saturating_add(1)));
        let most = FILE_BYTES_MAX as u64 + 1;
        from.take(most).read_to_end(&mut text).map_err(|e| AgeError::File(e.to_string()))?;
        Self::read_file(&text)
    }

    /// Reads the text of an identity file: one identity a line, empty lines and lines that begin with `#` besides.
    ///
    /// # Errors
    /// [`AgeError::Identity`], which repeats nothing of the file.
    pub(super) fn read_file(text: &[u8]) -> Result<Vec<Self>, AgeError> {
        let problem = AgeError::Identity(
            "not an age identity file: expected lines that begin with AGE-SECRET-KEY-1, as `age-keygen` writes them (protected, plugin and SSH keys are not read: decrypt the file first)",
        );
        let text = std::str::from_utf8(text).ok().filter(|t| t.len() <= FILE_BYTES_MAX).ok_or_else(|| problem.clone())?;
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let identities: Vec<Self> = lines.map(|line| line.parse().map_err(|_| problem.clone())).collect::<Result<_, _>>()?;
        if identities.is_empty() { Err(problem) } else { Ok(identities) }
    }

    /// To whom what it opens was encrypted.
    #[must_use]
    pub const fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// The text that opens what it can open, as `age-keygen` writes it: for handing a key to whom it was made for.
    ///
    /// # Errors
    /// [`AgeError::Identity`] when it cannot be written; never for a real one.
    pub fn reveal(&self) -> Result<Zeroizing<String>, AgeError> {
        let text = bech32::encode_upper::<Bech32>(IDENTITY_HRP, self.secret.as_slice());
        text.map(Zeroizing::new).map_err(|_| AgeError::Identity("the secret key cannot be written"))
    }

    pub(super) fn secret(&self) -> &[u8; KEY_LEN] {
        &self.secret
    }
}

impl FromStr for Identity {
    type Err = AgeError;
    fn from_str(text: &str) -> Result<Self, AgeError> {
        let key = decode(text, IDENTITY_HRP).filter(|_| !text.bytes().any(|b| b.is_ascii_lowercase()));
        let identity = Self::from_secret(key.ok_or(AgeError::Identity("not AGE-SECRET-KEY-1 and 58 characters"))?)?;
        // As of a recipient: a secret has one text, for age as well.
        let is_its_text = identity.reveal()?.as_str() == text;
        is_its_text.then_some(identity).ok_or(AgeError::Identity("not the one text of this secret: bits are set behind its last byte"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(of {})", self.recipient)
    }
}
