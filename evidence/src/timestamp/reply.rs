//! The reply: RFC 3161 `TimeStampResp` with a CMS `SignedData` (RFC 5652) over a `TSTInfo`, read and checked in itself.

use der::Tag;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use sha2::Digest as _;
use webpki::EndEntityCert;
use webpki::aws_lc_rs as algorithm;

use super::around::{self, Uncovered};
use super::asn1::{Cursor, context, number, time};
use super::certificate::Facts;
use super::request::{Request, SHA256};
use super::{TimestampError, malformed};
use crate::digest::Digest;
use crate::text::{escape_bounded, escape_bytes};
use crate::time::Timestamp;

/// The largest reply that is read or kept: one with four certificates has about 8 KiB.
pub const REPLY_BYTES_MAX: usize = 65_536;
/// Certificates of one token.
const CERTIFICATES_MAX: usize = 16;

const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const TST_INFO: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01, 0x04];
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
const SIGNING_CERTIFICATE_V2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x02, 0x2f];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03];
/// 1.2.840.113549.1.1.*: RSA by itself (the hash is the digest's) or with a hash.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4.3.*: ECDSA with a hash.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];

/// A reply with a token, read and not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    imprint: Option<Digest>,
    nonce: Option<u64>,
    time: Timestamp,
    accuracy_ns: Option<u64>,
    serial: String,
    policy: String,
    signed: Signed,
}

/// The hash of a certificate, and with what it was made.
type CertificateHash = (Hash, Vec<u8>);

/// The CMS part.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signed {
    content: Vec<u8>,
    certificates: Vec<Vec<u8>>,
    crls: Vec<Vec<u8>>,
    digest: Hash,
    signature_algorithm: Vec<u8>,
    signature: Vec<u8>,
    /// The signed attributes as a SET, which is what the signature covers.
    attributes: Vec<u8>,
    message_digest: Vec<u8>,
    certificate_hash: CertificateHash,
    /// Issuer (with tag and length) and serial number, where the signer is named so.
    signer: Option<(Vec<u8>, Vec<u8>)>,
    /// What the signature does not cover and nothing rests on.
    uncovered: Vec<Uncovered>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// From an `AlgorithmIdentifier`'s content.
    fn of(mut algorithm: Cursor<'_>) -> Result<Self, TimestampError> {
        let hash = match algorithm.take(Tag::ObjectIdentifier)? {
            id if id == SHA256 => Self::Sha256,
            id if id == SHA384 => Self::Sha384,
            id if id == SHA512 => Self::Sha512,
            _ => return Err(TimestampError::Malformed("the token uses a hash that is not SHA-256, SHA-384 or SHA-512".to_owned())),
        };
        no_parameters(algorithm)?;
        Ok(hash)
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Self::Sha384 => sha2::Sha384::digest(bytes).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
        }
    }
}

/// The rest of an `AlgorithmIdentifier` that takes no parameters: nothing, or NULL. No signature covers it, so nothing else is let through.
fn no_parameters(mut algorithm: Cursor<'_>) -> Result<(), TimestampError> {
    if algorithm.optional(Tag::Null)?.is_some_and(|null| !null.is_empty()) {
        return Err(malformed("an algorithm of the token has parameters"));
    }
    algorithm.finish()
}

impl Reply {
    /// Reads a reply (`.tsr`).
    ///
    /// # Errors
    /// [`TimestampError::Refused`] when the authority gives no token, [`TimestampError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, TimestampError> {
        if bytes.len() > REPLY_BYTES_MAX {
            return Err(malformed(format!("the reply has {} bytes, at most {REPLY_BYTES_MAX} are read", bytes.len())));
        }
        let mut reply = Cursor::of_sequence(bytes, "timestamp reply")?;
        let mut status = reply.sequence("reply status")?;
        let code = number(status.take(Tag::Integer)?, "reply status")?;
        if code > 1 {
            let said = status.optional(Tag::Sequence)?.map(shown_texts).unwrap_or_default();
            let bits = status.optional(Tag::BitString)?.map(|b| format!(", failure bits {}", escape_bytes_hex(b))).unwrap_or_default();
            return Err(TimestampError::Refused(format!("status {code}{bits}{said}")));
        }
        let around = around::status(code, status)?;
        let mut token = reply.sequence("token")?;
        reply.finish()?;
        if token.take(Tag::ObjectIdentifier)? != SIGNED_DATA {
            return Err(malformed("the token is not CMS SignedData"));
        }
        let mut signed = Signed::read(token.take(context(0))?)?;
        token.finish()?;
        signed.uncovered.extend(around);
        Self::of(signed)
    }

    fn of(signed: Signed) -> Result<Self, TimestampError> {
        let what = "TSTInfo";
        let content = signed.content.clone();
        let mut info = Cursor::of_sequence(&content, what)?;
        if number(info.take(Tag::Integer)?, what)? != 1 {
            return Err(malformed("TSTInfo is not of version 1"));
        }
        let policy = oid(info.take(Tag::ObjectIdentifier)?);
        let mut imprint = info.sequence(what)?;
        let hash = Hash::of(imprint.sequence(what)?);
        let digest = imprint.take(Tag::OctetString)?;
        let imprint = hash.is_ok_and(|h| h == Hash::Sha256).then(|| <[u8; 32]>::try_from(digest).ok().map(Digest::from_bytes)).flatten();
        let serial = escape_bytes_hex(info.take(Tag::Integer)?);
        let (tag, at) = info.any()?;
        if tag != Tag::GeneralizedTime {
            return Err(malformed("TSTInfo: genTime is no GeneralizedTime"));
        }
        let time = time(tag, at, what)?;
        let accuracy_ns = info.optional(Tag::Sequence)?.map(accuracy).transpose()?;
        let _ordering = info.optional(Tag::Boolean)?;
        let nonce = info.optional(Tag::Integer)?.map(|n| number(n, "nonce")).transpose()?;
        let _name = info.optional(context(0))?;
        if let Some(extensions) = info.optional(context(1))? {
            refuse_critical(extensions)?;
        }
        info.finish()?;
        Ok(Self { imprint, nonce, time, accuracy_ns, serial, policy, signed })
    }

    /// When the authority says that it saw the digest.
    #[must_use]
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// By how much the time may be off, in nanoseconds, where the token says so.
    #[must_use]
    pub const fn accuracy_ns(&self) -> Option<u64> {
        self.accuracy_ns
    }

    /// The token's serial number, hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The policy under which it was made, as dotted numbers.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// The SHA-256 of what the authority signed: two replies that have the same are one statement, whatever else lies in them.
    #[must_use]
    pub fn statement(&self) -> Digest {
        Digest::of(&self.signed.attributes)
    }

    /// CRLs that came inside the token.
    #[must_use]
    pub fn crls(&self) -> &[Vec<u8>] {
        &self.signed.crls
    }

    /// What lies in it that no signature covers and that nothing rests on. The other certificates are judged by themselves:
    /// [`Reply::check_certificates`], [`Reply::strangers`].
    #[must_use]
    pub fn uncovered(&self) -> &[Uncovered] {
        &self.signed.uncovered
    }

    /// The certificates of the token.
    pub(super) fn certificates(&self) -> &[Vec<u8>] {
        &self.signed.certificates
    }

    /// The token is over this SHA-256.
    ///
    /// # Errors
    /// [`TimestampError::Imprint`]
    pub fn is_over(&self, expected: Digest) -> Result<(), TimestampError> {
        if self.imprint == Some(expected) {
            return Ok(());
        }
        let found = self.imprint.map_or_else(|| "of no such digest".to_owned(), |d| d.to_string());
        Err(TimestampError::Imprint { expected, found })
    }

    /// The token is over the digest of this request and repeats its nonce.
    ///
    /// # Errors
    /// [`TimestampError::Imprint`], [`TimestampError::Nonce`]
    pub fn answers(&self, request: &Request) -> Result<(), TimestampError> {
        self.is_over(request.imprint)?;
        match self.nonce {
            Some(nonce) if nonce == request.nonce => Ok(()),
            Some(nonce) => Err(TimestampError::Nonce(format!("its nonce is {nonce}, the request has {}", request.nonce))),
            None => Err(TimestampError::Nonce("it has no nonce".to_owned())),
        }
    }

    /// The certificate that signed, by the hash in the signed attributes (ESSCertIDv2) and by the name in the signer.
    pub(super) fn signing_certificate(&self) -> Result<&[u8], TimestampError> {
        let (hash, expected) = &self.signed.certificate_hash;
        let wrong = |why: &str| TimestampError::Signature(why.to_owned());
        let found = self.signed.certificates.iter().find(|c| hash.digest(c) == *expected);
        let certificate =
            found.ok_or_else(|| wrong("the token does not have the certificate that its signing-certificate attribute names"))?;
        if let Some((issuer, serial)) = &self.signed.signer {
            let facts = Facts::read(certificate)?;
            if facts.issuer != issuer || facts.serial != serial {
                return Err(wrong("the signer is named otherwise than the certificate of the signing-certificate attribute"));
            }
        }
        Ok(certificate)
    }

    /// The token's own signature: the content has the digest that was signed, and the named certificate's key signed it.
    ///
    /// # Errors
    /// [`TimestampError::Signature`]; [`TimestampError::Malformed`] when the certificate cannot be read.
    pub fn verify_signature(&self) -> Result<(), TimestampError> {
        let signed = &self.signed;
        if signed.digest.digest(&signed.content) != signed.message_digest {
            return Err(TimestampError::Signature("the token's content is not what was signed".to_owned()));
        }
        let der = CertificateDer::from(self.signing_certificate()?);
        let certificate =
            EndEntityCert::try_from(&der).map_err(|e| malformed(format!("the authority's certificate cannot be read: {e}")))?;
        let candidates = signed.algorithms();
        if candidates.is_empty() {
            let used = oid(&signed.signature_algorithm);
            return Err(TimestampError::Signature(format!(
                "signatures of kind {used} are not supported: only RSA (PKCS #1) and ECDSA are"
            )));
        }
        if candidates.iter().any(|a| certificate.verify_signature(*a, &signed.attributes, &signed.signature).is_ok()) {
            return Ok(());
        }
        Err(TimestampError::Signature("the signature is not one of the authority's certificate".to_owned()))
    }
}

impl Signed {
    fn read(signed_data: &[u8]) -> Result<Self, TimestampError> {
        let what = "SignedData";
        let mut data = Cursor::of_sequence(signed_data, what)?;
        let version = number(data.take(Tag::Integer)?, what)?;
        if !(3..=5).contains(&version) {
            return Err(malformed("the token is SignedData of a version that a token cannot have"));
        }
        let mut uncovered = Vec::new();
        // RFC 5652, 5.1: 4 and 5 are for certificates and lists of other kinds, which are named below.
        if version != 3 {
            uncovered.push(Uncovered::usual(format!("the version {version} of its SignedData")));
        }
        let hashes = hashes(Cursor::new(data.take(Tag::Set)?, what)?, &mut uncovered)?;
        let mut content = data.sequence(what)?;
        if content.take(Tag::ObjectIdentifier)? != TST_INFO {
            return Err(malformed("the signed content is not a TSTInfo"));
        }
        let mut explicit = Cursor::new(content.take(context(0))?, what)?;
        content.finish()?;
        let content = explicit.take(Tag::OctetString)?.to_vec();
        explicit.finish()?;
        let (certificates, others) = list(data.optional(context(0))?, what)?;
        if others > 0 {
            uncovered.push(Uncovered::odd(format!("certificates of other kinds than X.509's ({others})")));
        }
        let (crls, others) = list(data.optional(context(1))?, what)?;
        if others > 0 {
            uncovered.push(Uncovered::usual(format!("revocation data that are no lists ({others})")));
        }
        let mut signers = Cursor::new(data.take(Tag::Set)?, "signer")?;
        data.finish()?;
        let mut signer = signers.sequence("signer")?;
        signers.finish().map_err(|_| malformed("the token has more than one signer"))?;
        let named = named(&mut signer, &mut uncovered)?;
        let digest = Hash::of(signer.sequence("signer")?)?;
        if !hashes.contains(&digest) {
            return Err(malformed("the token does not list the hash of its signer"));
        }
        let raw = if signer.next_is(context(0)) { signer.raw()? } else { return Err(malformed("the token has no signed attributes")) };
        let mut attributes = raw.to_vec();
        if let Some(tag) = attributes.first_mut() {
            *tag = 0x31;
        }
        let (message_digest, certificate_hash) = signed_attributes(Cursor::new(raw, "signed attributes")?.take(context(0))?)?;
        let mut algorithm = signer.sequence("signer")?;
        let signature_algorithm = algorithm.take(Tag::ObjectIdentifier)?.to_vec();
        // RSASSA-PSS has parameters, and is refused by its name later.
        if !matches!(signature_algorithm.strip_prefix(RSA), Some([0x0a])) {
            no_parameters(algorithm)?;
        }
        let signature = signer.take(Tag::OctetString)?.to_vec();
        if let Some(attributes) = signer.optional(context(1))? {
            uncovered.push(around::unsigned_attributes(attributes)?);
        }
        signer.finish()?;
        Ok(Self {
            content,
            certificates,
            crls,
            digest,
            signature_algorithm,
            signature,
            attributes,
            message_digest,
            certificate_hash,
            signer: named,
            uncovered,
        })
    }

    /// What the signature may be verified with: the curve of an ECDSA key is the certificate's.
    fn algorithms(&self) -> Vec<&'static dyn SignatureVerificationAlgorithm> {
        use algorithm::*;
        let id = &self.signature_algorithm;
        if let Some(kind) = id.strip_prefix(RSA) {
            return match (kind, self.digest) {
                ([0x01 | 0x0b], Hash::Sha256) => vec![RSA_PKCS1_2048_8192_SHA256],
                ([0x01 | 0x0c], Hash::Sha384) => vec![RSA_PKCS1_2048_8192_SHA384],
                ([0x01 | 0x0d], Hash::Sha512) => vec![RSA_PKCS1_2048_8192_SHA512],
                _ => Vec::new(),
            };
        }
        match (id.strip_prefix(ECDSA), self.digest) {
            (Some([0x02]), Hash::Sha256) => vec![ECDSA_P256_SHA256, ECDSA_P384_SHA256, ECDSA_P521_SHA256],
            (Some([0x03]), Hash::Sha384) => vec![ECDSA_P256_SHA384, ECDSA_P384_SHA384, ECDSA_P521_SHA384],
            (Some([0x04]), Hash::Sha512) => vec![ECDSA_P256_SHA512, ECDSA_P384_SHA512, ECDSA_P521_SHA512],
            _ => Vec::new(),
        }
    }
}

/// An issuer's name (with tag and length) and a serial number.
type IssuerAndSerial = (Vec<u8>, Vec<u8>);

/// The version of a signer and how it names itself: by issuer (with tag and length) and serial number, where it does so.
fn named(signer: &mut Cursor<'_>, uncovered: &mut Vec<Uncovered>) -> Result<Option<IssuerAndSerial>, TimestampError> {
    let version = number(signer.take(Tag::Integer)?, "signer")?;
    if !matches!(version, 1 | 3) {
        return Err(malformed("the token's signer is of a version that is neither 1 nor 3"));
    }
    let named = match signer.any()? {
        (Tag::Sequence, name) => {
            let mut name = Cursor::new(name, "signer")?;
            let named = (name.raw()?.to_vec(), name.take(Tag::Integer)?.to_vec());
            name.finish()?;
            Some(named)
        }
        // By its key's id (RFC 5652, section 5.3: `[0] IMPLICIT OCTET STRING`): the certificate is named by its hash in any case.
        (Tag::ContextSpecific { constructed: false, number: der::TagNumber(0) }, _) => None,
        _ => return Err(malformed("the token names its signer in neither way that there is")),
    };
    // RFC 5652, 5.3: 1 where it is named by issuer and number, 3 by the key.
    if named.is_some() != (version == 1) {
        uncovered.push(Uncovered::usual(format!("the version {version} of its signer")));
    }
    if named.is_none() {
        uncovered.push(Uncovered::usual("the key id that names its signer besides the hash"));
    }
    Ok(named)
}

/// The hashes that the token says it uses. Its one signer needs one of them; each may stand there once.
fn hashes(mut list: Cursor<'_>, uncovered: &mut Vec<Uncovered>) -> Result<Vec<Hash>, TimestampError> {
    let (mut hashes, mut unknown) = (Vec::new(), 0_usize);
    while !list.is_finished() {
        match Hash::of(list.sequence("SignedData")?) {
            Ok(hash) if hashes.contains(&hash) => return Err(malformed("the token lists a hash twice")),
            Ok(hash) => hashes.push(hash),
            Err(_) => unknown = unknown.saturating_add(1),
        }
    }
    let others = hashes.len().saturating_add(unknown).saturating_sub(1);
    if others > 0 {
        uncovered.push(Uncovered::usual(format!("hashes in its list that its signer does not use ({others})")));
    }
    Ok(hashes)
}

/// The values of a list of certificates or CRLs, whole; how many there are of other kinds than X.509's.
fn list(content: Option<&[u8]>, what: &'static str) -> Result<(Vec<Vec<u8>>, usize), TimestampError> {
    let mut values = Cursor::new(content.unwrap_or_default(), what)?;
    let (mut out, mut others) = (Vec::new(), 0_usize);
    while !values.is_finished() {
        let is_x509 = values.next_is(Tag::Sequence);
        let value = values.raw()?;
        if is_x509 {
            out.push(value.to_vec());
        } else {
            others = others.saturating_add(1);
        }
        if out.len() > CERTIFICATES_MAX {
            return Err(malformed(format!("the token has more than {CERTIFICATES_MAX} certificates or CRLs")));
        }
    }
    Ok((out, others))
}

/// The message digest, and the hash of the certificate that signed.
fn signed_attributes(content: &[u8]) -> Result<(Vec<u8>, CertificateHash), TimestampError> {
    let what = "signed attributes";
    let (mut list, mut digest, mut certificate, mut kind) = (Cursor::new(content, what)?, None, None, None);
    while !list.is_finished() {
        let mut attribute = list.sequence(what)?;
        let id = attribute.take(Tag::ObjectIdentifier)?;
        let mut values = Cursor::new(attribute.take(Tag::Set)?, what)?;
        if id == CONTENT_TYPE {
            kind = Some(values.take(Tag::ObjectIdentifier)?.to_vec());
        } else if id == MESSAGE_DIGEST {
            digest = Some(values.take(Tag::OctetString)?.to_vec());
        } else if id == SIGNING_CERTIFICATE_V2 {
            certificate = Some(ess_cert_id(values.sequence(what)?)?);
        }
    }
    if kind.as_deref() != Some(TST_INFO) {
        return Err(malformed("the signed content type is not TSTInfo"));
    }
    let digest = digest.ok_or_else(|| malformed("the token has no signed message digest"))?;
    let certificate = certificate.ok_or_else(|| malformed("the token does not name its certificate by ESSCertIDv2 (RFC 5816)"))?;
    Ok((digest, certificate))
}

/// The first `ESSCertIDv2` of a `SigningCertificateV2`: that of the signer. Without an algorithm it is SHA-256.
fn ess_cert_id(mut signing: Cursor<'_>) -> Result<CertificateHash, TimestampError> {
    let mut id = signing.sequence("signing certificate")?.sequence("signing certificate")?;
    let hash = if id.next_is(Tag::Sequence) { Hash::of(id.sequence("signing certificate")?)? } else { Hash::Sha256 };
    Ok((hash, id.take(Tag::OctetString)?.to_vec()))
}

/// `Accuracy`: seconds, and in implicit tags milliseconds and microseconds.
fn accuracy(content: &[u8]) -> Result<u64, TimestampError> {
    let mut parts = Cursor::new(content, "accuracy")?;
    let mut ns = 0_u64;
    while !parts.is_finished() {
        let unit = match parts.any()? {
            (Tag::Integer, n) => (n, 1_000_000_000),
            (Tag::ContextSpecific { constructed: false, number: der::TagNumber(0) }, n) => (n, 1_000_000),
            (Tag::ContextSpecific { constructed: false, number: der::TagNumber(1) }, n) => (n, 1_000),
            (tag, _) => return Err(malformed(format!("accuracy: unexpected {tag}"))),
        };
        ns = ns.saturating_add(number(unit.0, "accuracy")?.saturating_mul(unit.1));
    }
    Ok(ns)
}

fn refuse_critical(extensions: &[u8]) -> Result<(), TimestampError> {
    let mut list = Cursor::new(extensions, "TSTInfo")?;
    while !list.is_finished() {
        let mut extension = list.sequence("TSTInfo")?;
        let _id = extension.take(Tag::ObjectIdentifier)?;
        if extension.optional(Tag::Boolean)?.is_some_and(|b| b != [0]) {
            return Err(malformed("the token has a critical extension, which this program does not know"));
        }
    }
    Ok(())
}

fn shown_texts(content: &[u8]) -> String {
    let Ok(mut texts) = Cursor::new(content, "status text") else { return String::new() };
    let mut out = String::new();
    while let Ok((Tag::Utf8String, text)) = texts.any() {
        out.push_str(": ");
        out.push_str(&escape_bounded(&escape_bytes(text), 200));
    }
    out
}

fn escape_bytes_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().take(32).fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// An object identifier's content as dotted numbers.
pub(super) fn oid(content: &[u8]) -> String {
    der::asn1::ObjectIdentifier::from_bytes(content).map_or_else(|_| escape_bytes_hex(content), |id| id.to_string())
}
