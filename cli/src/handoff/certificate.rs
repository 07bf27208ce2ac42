//! Recipients who have an S/MIME certificate: what they are to open is enclosed for its key (CMS EnvelopedData, RFC 5652).

use std::path::{Path, PathBuf};

use aws_lc_rs::cipher::{AES_256, AES_256_KEY_LEN, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use cms::cert::IssuerAndSerialNumber;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::enveloped_data::{EncryptedContentInfo, EnvelopedData, KeyTransRecipientInfo, RecipientIdentifier, RecipientInfo, RecipientInfos};
use exhibit_evidence::Digest;
use exhibit_evidence::text::escape_bounded;
use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, OctetString, SetOfVec};
use x509_cert::der::{Any, Decode as _, DecodePem as _, Encode as _};
use x509_cert::ext::pkix::KeyUsage;
use x509_cert::spki::AlgorithmIdentifierOwned;

use crate::clock;
use crate::exit::{Code, Failure, Result};

/// RFC 5652 section 4 and 6.
const ID_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ID_ENVELOPED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.3");
/// RFC 3565.
const AES_256_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.42");
/// RFC 8017 appendix A.1 and A.2.1.
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSAES_OAEP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7");
/// RSAES-OAEP-params with SHA-256 as hash and in MGF1, DER.
const OAEP_SHA256: [u8; 49] = [
    0x30, 0x2f, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0xa1, 0x1c, 0x30,
    0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03,
    0x04, 0x02, 0x01, 0x05, 0x00,
];
/// The largest file that is read as a certificate.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The holder of a certificate.
pub struct Holder {
    certificate: Certificate,
    sha256: Digest,
    key: OaepPublicEncryptingKey,
}

/// Reads certificates: each must be valid now and for an RSA key with which keys may be enclosed.
pub fn holders(paths: &[PathBuf]) -> Result<Vec<Holder>> {
    paths.iter().map(|path| holder(path).map_err(|why| refused(path, &why))).collect()
}

fn refused(path: &Path, why: &str) -> Failure {
    Failure::new(Code::Input, format!("--recipient-cert {}: {why}", path.display()))
        .hint("give the recipient's certificate for encryption, as PEM; or ask for an age recipient and use --recipient")
}

fn holder(path: &Path) -> std::result::Result<Holder, String> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text));
    read.map_err(|e| e.to_string())?;
    let certificate =
        Certificate::from_pem(&text).map_err(|e| format!("this is no certificate in PEM: {}", escape_bounded(&e.to_string(), 120)))?;
    let body = &certificate.tbs_certificate;
    let (from, until) = (body.validity.not_before, body.validity.not_after);
    let now = u64::try_from(clock::now().unix_ns() / 1_000_000_000).unwrap_or(0);
    if now < from.to_unix_duration().as_secs() || now > until.to_unix_duration().as_secs() {
        return Err(format!("it is valid from {from} to {until}, not now"));
    }
    let usage = body.get::<KeyUsage>().map_err(|e| e.to_string())?;
    if usage.is_some_and(|(_, usage)| !usage.key_encipherment()) {
        return Err("its key usage does not allow to enclose keys (keyEncipherment)".to_owned());
    }
    let public = &body.subject_public_key_info;
    if public.algorithm.oid != RSA_ENCRYPTION {
        return Err(format!("its key is not RSA (algorithm {})", public.algorithm.oid));
    }
    let key = public.to_der().map_err(|e| e.to_string())?;
    let key = PublicEncryptingKey::from_der(&key).ok().and_then(|key| OaepPublicEncryptingKey::new(key).ok());
    let key = key.ok_or("its RSA key cannot be used: it needs 2,048 to 8,192 bits")?;
    let sha256 = Digest::of(&certificate.to_der().map_err(|e| e.to_string())?);
    Ok(Holder { certificate, sha256, key })
}

impl Holder {
    /// The first 16 hexadecimal characters of the SHA-256 of the certificate.
    pub fn fingerprint(&self) -> String {
        self.sha256.to_string().chars().take(16).collect()
    }

    /// Encloses a short content so that only the holder of the certificate's key opens it: AES-256-CBC under a new key, that
    /// under RSAES-OAEP with SHA-256 (RFC 8551 section 2.3 and 2.7). DER.
    pub fn enclose(&self, content: &[u8]) -> Result<Vec<u8>> {
        self.envelope(content).map_err(|why| Failure::new(Code::Failure, format!("cannot enclose the key for a certificate: {why}")))
    }

    fn envelope(&self, content: &[u8]) -> std::result::Result<Vec<u8>, String> {
        let mut key = [0_u8; AES_256_KEY_LEN];
        rand::fill(&mut key).map_err(|e| e.to_string())?;
        let (encrypted, iv) = encrypt(&key, content)?;
        let der = |e: x509_cert::der::Error| e.to_string();
        let oaep = AlgorithmIdentifierOwned { oid: RSAES_OAEP, parameters: Some(Any::from_der(&OAEP_SHA256).map_err(der)?) };
        let body = &self.certificate.tbs_certificate;
        let recipient = KeyTransRecipientInfo {
            version: CmsVersion::V0,
            rid: RecipientIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: body.issuer.clone(),
                serial_number: body.serial_number.clone(),
            }),
            key_enc_alg: oaep,
            enc_key: OctetString::new(self.wrap(&key)?).map_err(der)?,
        };
        let iv = OctetString::new(iv).and_then(|iv| Any::encode_from(&iv)).map_err(der)?;
        let data = EnvelopedData {
            version: CmsVersion::V0,
            originator_info: None,
            recip_infos: RecipientInfos(SetOfVec::try_from(vec![RecipientInfo::Ktri(recipient)]).map_err(der)?),
            encrypted_content: EncryptedContentInfo {
                content_type: ID_DATA,
                content_enc_alg: AlgorithmIdentifierOwned { oid: AES_256_CBC, parameters: Some(iv) },
                encrypted_content: Some(OctetString::new(encrypted).map_err(der)?),
            },
            unprotected_attrs: None,
        };
        let content = Any::encode_from(&data).map_err(der)?;
        ContentInfo { content_type: ID_ENVELOPED_DATA, content }.to_der().map_err(der)
    }

    fn wrap(&self, key: &[u8]) -> std::result::Result<Vec<u8>, String> {
        let mut wrapped = vec![0; self.key.ciphertext_size()];
        let wrote = self.key.encrypt(&OAEP_SHA256_MGF1SHA256, key, &mut wrapped, None).map_err(|e| e.to_string())?.len();
        wrapped.truncate(wrote);
        Ok(wrapped)
    }
}

/// AES-256-CBC with padding: the encrypted bytes and the initialisation vector.
fn encrypt(key: &[u8], content: &[u8]) -> std::result::Result<(Vec<u8>, Vec<u8>), String> {
    let failed = |e: aws_lc_rs::error::Unspecified| e.to_string();
    let cipher = UnboundCipherKey::new(&AES_256, key).and_then(PaddedBlockEncryptingKey::cbc_pkcs7).map_err(failed)?;
    let mut bytes = content.to_vec();
    match cipher.encrypt(&mut bytes).map_err(failed)? {
        aws_lc_rs::cipher::DecryptionContext::Iv128(iv) => {
            let iv: &[u8; 16] = iv.as_ref();
            Ok((bytes, iv.to_vec()))
        }
        _ => Err("the cipher gave no vector".to_owned()),
    }
}
