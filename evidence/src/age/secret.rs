//! The key schedule: who can learn a file's key, and what follows from it.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::keys::{Identity, Recipient};
use super::{AgeError, FILE_KEY_LEN, KEY_LEN, NONCE_LEN, TAG_LEN};

/// Bytes of a file's key under a recipient's.
pub(super) const WRAPPED_LEN: usize = FILE_KEY_LEN + TAG_LEN;
/// Bytes of the header's authentication code.
pub(super) const MAC_LEN: usize = 32;

const WRAP_INFO: &[u8] = b"age-encryption.org/v1/X25519";

pub(super) type FileKey = Zeroizing<[u8; FILE_KEY_LEN]>;

struct Len32;

impl KeyType for Len32 {
    fn len(&self) -> usize {
        KEY_LEN
    }
}

fn hkdf(secret: &[u8], salt: &[u8], info: &[u8]) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let mut out = Zeroizing::new([0; KEY_LEN]);
    Salt::new(HKDF_SHA256, salt).extract(secret).expand(&[info], Len32).and_then(|okm| okm.fill(&mut *out)).ok()?;
    Some(out)
}

/// A key of ChaCha20-Poly1305. Each is used with nonces that never repeat: it is of one file, or of one stanza.
pub(super) struct Aead(LessSafeKey);

impl Aead {
    fn new(key: &[u8; KEY_LEN]) -> Option<Self> {
        UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new).map(Self)
    }

    /// Encrypts in place; gives the tag.
    pub fn seal(&self, nonce: [u8; 12], bytes: &mut [u8]) -> Option<[u8; TAG_LEN]> {
        let tag = self.0.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), bytes).ok()?;
        tag.as_ref().try_into().ok()
    }

    /// Decrypts in place what ends in its tag; gives the plain bytes.
    pub fn open<'a>(&self, nonce: [u8; 12], bytes: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.0.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), bytes).ok()
    }
}

/// The key that wraps a file's key between an ephemeral key and a recipient. `None` for keys of low order.
fn wrap_key(own: &[u8; KEY_LEN], peer: &[u8; KEY_LEN], salt: &[u8]) -> Option<Aead> {
    let own = PrivateKey::from_private_key(&X25519, own).ok()?;
    let key = agree(&own, UnparsedPublicKey::new(&X25519, peer), (), |shared| hkdf(shared, salt, WRAP_INFO).ok_or(()));
    Aead::new(&*key.ok()?)
}

/// True when a secret can be shared with the holder of this key: one of low order gives zeros with every private key, because
/// all of them are multiples of the cofactor. So any one of them shows it.
pub(super) fn can_share(key: &[u8; KEY_LEN]) -> bool {
    let own = PrivateKey::from_private_key(&X25519, &[1; KEY_LEN]);
    own.is_ok_and(|own| agree(&own, UnparsedPublicKey::new(&X25519, key), (), |_| Ok(())).is_ok())
}

/// Wraps a file's key for a recipient with a fresh key of 32 random bytes: gives that key's public half, and the wrapped key.
pub(super) fn wrap(file_key: &FileKey, to: &Recipient, ephemeral: &[u8; KEY_LEN]) -> Result<([u8; KEY_LEN], [u8; WRAPPED_LEN]), AgeError> {
    let ephemeral = Identity::from_secret(Zeroizing::new(*ephemeral))?;
    let share = *ephemeral.recipient().as_bytes();
    let salt = [share, *to.as_bytes()].concat();
    let key = wrap_key(ephemeral.secret(), to.as_bytes(), &salt).ok_or(AgeError::Encrypt("a recipient's key is not usable"))?;
    let mut wrapped = [0; WRAPPED_LEN];
    let (body, tag) = wrapped.split_at_mut(FILE_KEY_LEN);
    body.copy_from_slice(&**file_key);
    tag.copy_from_slice(&key.seal([0; 12], body).ok_or(AgeError::Encrypt("a file's key could not be wrapped"))?);
    Ok((share, wrapped))
}

/// The file's key, if the stanza is for this identity.
pub(super) fn unwrap(share: &[u8; KEY_LEN], wrapped: &[u8; WRAPPED_LEN], identity: &Identity) -> Option<FileKey> {
    let salt = [*share, *identity.recipient().as_bytes()].concat();
    let key = wrap_key(identity.secret(), share, &salt)?;
    let mut wrapped = Zeroizing::new(*wrapped);
    let plain = key.open([0; 12], &mut *wrapped)?;
    let mut file_key = FileKey::default();
    file_key.copy_from_slice(plain.get(..FILE_KEY_LEN)?);
    Some(file_key)
}

fn mac_key(file_key: &FileKey) -> Option<hmac::Key> {
    hkdf(&**file_key, &[], b"header").map(|key| hmac::Key::new(hmac::HMAC_SHA256, &*key))
}

/// The code over the header's bytes.
pub(super) fn mac(file_key: &FileKey, header: &[u8]) -> Option<[u8; MAC_LEN]> {
    hmac::sign(&mac_key(file_key)?, header).as_ref().try_into().ok()
}

/// True when the code is the one over the header's bytes.
pub(super) fn mac_holds(file_key: &FileKey, header: &[u8], mac: &[u8; MAC_LEN]) -> bool {
    mac_key(file_key).is_some_and(|key| hmac::verify(&key, header, mac).is_ok())
}

/// The key of the payload after this nonce.
pub(super) fn payload_key(file_key: &FileKey, nonce: &[u8; NONCE_LEN]) -> Option<Aead> {
    Aead::new(&*hkdf(&**file_key, nonce, b"payload")?)
}
