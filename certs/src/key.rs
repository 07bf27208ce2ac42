//! TLS keys (ECDSA P-256 and, for the root, P-384) and the PEM texts that hold them. They authenticate connections and
//! never sign evidence.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _, SignatureAlgorithm};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize as _, Zeroizing};

/// A private TLS key. Its Debug form shows nothing of it; its bytes are wiped on drop.
pub struct TlsKey {
    pkcs8: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
}

/// Why a TLS key cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTlsKey {
    /// Not a key of a kind that is used here.
    #[error("not a private key in PKCS #8 form of the kind ECDSA P-256 or P-384")]
    Unreadable,
    /// The library could not make one.
    #[error("cannot make a key: {0}")]
    NotMade(String),
}

impl TlsKey {
    /// Makes a P-256 key.
    ///
    /// # Errors
    /// [`BadTlsKey::NotMade`] when the system has no randomness.
    pub fn generate() -> Result<Self, BadTlsKey> {
        Self::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// Makes a P-384 key, for a root that lives ten years.
    pub(crate) fn generate_root() -> Result<Self, BadTlsKey> {
        Self::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)
    }

    fn generate_for(algorithm: &'static SignatureAlgorithm) -> Result<Self, BadTlsKey> {
        let pair = KeyPair::generate_for(algorithm).map_err(|e| BadTlsKey::NotMade(e.to_string()))?;
        Ok(Self::from_pair(pair))
    }

    fn from_pair(mut pair: KeyPair) -> Self {
        let key = Self { pkcs8: Zeroizing::new(pair.serialized_der().to_vec()), public: pair.subject_public_key_info() };
        pair.zeroize();
        key
    }

    /// Reads a PKCS #8 key.
    ///
    /// # Errors
    /// [`BadTlsKey::Unreadable`]
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, BadTlsKey> {
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(der)).map_err(|_| BadTlsKey::Unreadable)?;
        if !(pair.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) || pair.is_compatible(&rcgen::PKCS_ECDSA_P384_SHA384)) {
            return Err(BadTlsKey::Unreadable);
        }
        Ok(Self::from_pair(pair))
    }

    /// Reads the first private key of a PEM text.
    ///
    /// # Errors
    /// [`BadTlsKey::Unreadable`]
    pub fn from_pem(pem: &[u8]) -> Result<Self, BadTlsKey> {
        match PrivateKeyDer::from_pem_slice(pem) {
            Ok(PrivateKeyDer::Pkcs8(mut der)) => {
                let key = Self::from_pkcs8(der.secret_pkcs8_der());
                der.zeroize();
                key
            }
            _ => Err(BadTlsKey::Unreadable),
        }
    }

    /// PEM text of the private key.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem("PRIVATE KEY", &self.pkcs8)
    }

    /// The public key as an X.509 SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn public_der(&self) -> &[u8] {
        &self.public
    }

    /// A PKCS #10 request (DER) that proves possession of the key. It names nobody: whoever issues sets all fields.
    ///
    /// # Errors
    /// [`BadTlsKey`] when the library refuses.
    pub fn request(&self) -> Result<Vec<u8>, BadTlsKey> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "exhibit certificate request");
        let mut pair = self.pair()?;
        let request = params.serialize_request(&pair).map_err(|e| BadTlsKey::NotMade(e.to_string()));
        pair.zeroize();
        Ok(request?.der().to_vec())
    }

    /// The key for the library that signs. The caller wipes it.
    pub(crate) fn pair(&self) -> Result<KeyPair, BadTlsKey> {
        KeyPair::try_from(&PrivatePkcs8KeyDer::from(self.pkcs8.as_slice())).map_err(|_| BadTlsKey::Unreadable)
    }

    /// The key for rustls, which keeps only its own parsed form.
    pub(crate) fn private_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }
}

impl Clone for TlsKey {
    fn clone(&self) -> Self {
        Self { pkcs8: self.pkcs8.clone(), public: self.public.clone() }
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsKey(public key {})", exhibit_evidence::Digest::of(&self.public))
    }
}

/// PEM text (RFC 7468) of DER bytes.
pub(crate) fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so every index is a character boundary.
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// PEM text of a certificate.
#[must_use]
pub fn certificate_pem(der: &[u8]) -> String {
    pem("CERTIFICATE", der).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_pem_and_stay_out_of_debug() {
        let key = TlsKey::generate().expect("randomness");
        let text = key.to_pem();
        assert!(text.lines().all(|l| l.len() <= 64));
        let back = TlsKey::from_pem(text.as_bytes()).expect("own text");
        assert_eq!(back.public_der(), key.public_der());
        let shown = format!("{key:?}");
        assert!(text.lines().filter(|l| !l.starts_with('-')).all(|l| !shown.contains(l)), "{shown}");
        assert!(shown.len() < 100);
    }

    #[test]
    fn other_keys_and_garbage_are_refused() {
        assert_eq!(TlsKey::from_pem(b"hello").unwrap_err(), BadTlsKey::Unreadable);
        let ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("randomness");
        assert_eq!(TlsKey::from_pkcs8(ed.serialized_der()).unwrap_err(), BadTlsKey::Unreadable);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            proptest::prop_assert!(TlsKey::from_pem(&bytes).is_err());
            proptest::prop_assert!(TlsKey::from_pkcs8(&bytes).is_err());
        }
    }
}
