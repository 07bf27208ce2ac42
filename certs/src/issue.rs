//! Issuing certificates. Whoever asks supplies a public key and nothing else: every field is set here.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use exhibit_evidence::key::KeyId;
use exhibit_evidence::{Digest, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroize as _;

use crate::credential::TlsIdentity;
use crate::key::{BadTlsKey, TlsKey};
use crate::name::{DeploymentName, PartName, PeerName};
use crate::random::{NoRandomness, serial};
use crate::x509::{self, EVIDENCE_KEY_PREFIX, EVIDENCE_ROOT_PREFIX};

/// Life of an agent's certificate.
pub const AGENT_LIFE: Duration = Duration::from_hours(24);
/// Life of a person's certificate.
pub const PERSON_LIFE: Duration = Duration::from_hours(365 * 24);
/// Life of the coordinator's server certificate.
pub const SERVER_LIFE: Duration = Duration::from_hours(90 * 24);
/// Life of the issuing CA.
pub const ISSUING_LIFE: Duration = Duration::from_hours(2 * 365 * 24);
/// Life of the root.
pub const ROOT_LIFE: Duration = Duration::from_hours(3_652 * 24);
/// Certificates begin this long before they are made, for clocks that are behind.
pub const BACKDATE: Duration = Duration::from_mins(5);

/// Largest certificate request that is looked at, in bytes.
pub const REQUEST_BYTES_MAX: usize = 4_096;
/// Most names and addresses of a server certificate.
pub const SERVER_NAMES_MAX: usize = 32;

/// Why no certificate was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The request is at fault. Whoever sent it must send another.
    #[error("bad certificate request: {0}")]
    BadRequest(&'static str),
    /// The CA is at fault: it has expired or its files do not belong together.
    #[error("the certificate authority cannot issue: {0}")]
    Authority(String),
    /// A name for the server certificate is no DNS name.
    #[error("'{0}' is not a DNS name or IP address for the server certificate")]
    ServerName(String),
    /// The key is at fault.
    #[error(transparent)]
    Key(#[from] BadTlsKey),
    /// The system has no randomness.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

fn refused(error: rcgen::Error) -> IssueError {
    IssueError::Authority(error.to_string())
}

/// A CA certificate with its key: the root or an issuing CA.
#[derive(Clone)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    key: TlsKey,
    facts: x509::Facts,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority(certificate {})", self.facts.sha256)
    }
}

/// A new certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub leaf: CertificateDer<'static>,
    /// What stands in it.
    pub facts: x509::Facts,
    /// Leaf and issuing CA: what the holder presents.
    pub chain: Vec<CertificateDer<'static>>,
}

/// DNS names and addresses under which the coordinator is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerNames {
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
}

impl ServerNames {
    /// Sorts texts into names and addresses.
    ///
    /// # Errors
    /// [`IssueError::ServerName`] for an empty list, too many entries or one that is neither.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, IssueError> {
        let mut names = Self::default();
        if texts.is_empty() || texts.len() > SERVER_NAMES_MAX {
            return Err(IssueError::ServerName(format!("{} names (1 to {SERVER_NAMES_MAX} are possible)", texts.len())));
        }
        for text in texts {
            let text = text.as_ref();
            if let Ok(ip) = text.parse() {
                names.ips.push(ip);
            } else if rustls::pki_types::DnsName::try_from(text).is_ok() && !text.ends_with('.') {
                names.dns.push(text.to_ascii_lowercase());
            } else {
                return Err(IssueError::ServerName(exhibit_evidence::text::escape_bounded(text, 120)));
            }
        }
        Ok(names)
    }

    /// True when a certificate holds all of these.
    #[must_use]
    pub fn are_in(&self, facts: &x509::Facts) -> bool {
        self.dns.iter().all(|d| facts.dns.contains(d)) && self.ips.iter().all(|ip| facts.ips.contains(ip))
    }

    fn alternative_names(&self) -> Result<Vec<SanType>, IssueError> {
        let mut names = Vec::new();
        for dns in &self.dns {
            names.push(SanType::DnsName(dns.as_str().try_into().map_err(|_| IssueError::ServerName(dns.clone()))?));
        }
        names.extend(self.ips.iter().copied().map(SanType::IpAddress));
        Ok(names)
    }
}

impl Authority {
    /// A CA from its certificate and key.
    ///
    /// # Errors
    /// [`IssueError::Authority`] when they do not belong together or the certificate is no CA's.
    pub fn new(certificate: CertificateDer<'static>, key: TlsKey) -> Result<Self, IssueError> {
        let facts = x509::read(&certificate).map_err(|e| IssueError::Authority(e.to_string()))?;
        if !facts.is_ca {
            return Err(IssueError::Authority("its certificate is not a CA certificate".to_owned()));
        }
        if facts.public_der != key.public_der() {
            return Err(IssueError::Authority("its private key does not belong to its certificate".to_owned()));
        }
        Ok(Self { certificate, key, facts })
    }

    /// The CA's certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What stands in it.
    #[must_use]
    pub const fn facts(&self) -> &x509::Facts {
        &self.facts
    }

    pub(crate) const fn key(&self) -> &TlsKey {
        &self.key
    }

    /// Issues a client certificate for the key in a PKCS #10 request (DER). The request's signature is checked, its
    /// names, attributes and extensions are ignored.
    ///
    /// # Errors
    /// [`IssueError::BadRequest`] for the sender; the others are this side's.
    pub fn issue_client(&self, request: &[u8], name: &PeerName, life: Duration, now: Timestamp) -> Result<Issued, IssueError> {
        let public = request_key(request)?;
        self.client(&public, (name, None), life, now)
    }

    /// [`Authority::issue_client`] for a person: the certificate names the person's evidence key as well. Whoever connects with it
    /// has the rights of that key, and is nobody once it is revoked, whatever other keys the name has.
    ///
    /// # Errors
    /// As [`Authority::issue_client`].
    pub fn issue_person(
        &self,
        request: &[u8],
        (name, evidence): (&PeerName, KeyId),
        life: Duration,
        now: Timestamp,
    ) -> Result<Issued, IssueError> {
        let public = request_key(request)?;
        self.client(&public, (name, Some(evidence)), life, now)
    }

    /// [`Authority::issue_person`] for a key that was made here (the first admin's).
    ///
    /// # Errors
    /// [`IssueError`]
    pub fn issue_person_for(
        &self,
        key: &TlsKey,
        (name, evidence): (&PeerName, KeyId),
        life: Duration,
        now: Timestamp,
    ) -> Result<TlsIdentity, IssueError> {
        let public = SubjectPublicKeyInfo::from_der(key.public_der()).map_err(|_| BadTlsKey::Unreadable)?;
        let issued = self.client(&public, (name, Some(evidence)), life, now)?;
        TlsIdentity::new(key.clone(), issued.chain).map_err(|e| IssueError::Authority(e.to_string()))
    }

    fn client(
        &self,
        public: &impl PublicKeyData,
        (name, evidence): (&PeerName, Option<KeyId>),
        life: Duration,
        now: Timestamp,
    ) -> Result<Issued, IssueError> {
        let mut params = leaf_params(name.short());
        params.subject_alt_names = vec![uri(&name.to_string())?];
        if let Some(key) = evidence {
            params.subject_alt_names.push(uri(&format!("{EVIDENCE_KEY_PREFIX}{key}"))?);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, public, life, now)
    }

    /// Makes a key and issues the coordinator's server certificate for it.
    ///
    /// # Errors
    /// [`IssueError`]
    pub fn issue_server(&self, deployment: &DeploymentName, names: &ServerNames, now: Timestamp) -> Result<TlsIdentity, IssueError> {
        let key = TlsKey::generate()?;
        let public = SubjectPublicKeyInfo::from_der(key.public_der()).map_err(|_| BadTlsKey::Unreadable)?;
        let part: PartName = "server".parse().map_err(|_| IssueError::ServerName("server".to_owned()))?;
        let mut params = leaf_params("coordinator");
        params.subject_alt_names = names.alternative_names()?;
        params.subject_alt_names.push(uri(&PeerName::Coordinator(deployment.clone(), part).to_string())?);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issued = self.sign(params, &public, SERVER_LIFE, now)?;
        TlsIdentity::new(key, issued.chain).map_err(|e| IssueError::Authority(e.to_string()))
    }

    /// Makes an issuing CA under this root.
    ///
    /// # Errors
    /// [`IssueError`]
    pub fn issue_issuing(&self, deployment: &DeploymentName, now: Timestamp) -> Result<Self, IssueError> {
        let key = TlsKey::generate()?;
        let public = SubjectPublicKeyInfo::from_der(key.public_der()).map_err(|_| BadTlsKey::Unreadable)?;
        let params = ca_params("Exhibit issuing CA", &Digest::of(key.public_der()), deployment, 0);
        let issued = self.sign(params, &public, ISSUING_LIFE, now)?;
        Self::new(issued.leaf, key)
    }

    /// Makes a root that names the deployment and its root evidence key.
    ///
    /// # Errors
    /// [`IssueError`]
    pub fn root(deployment: &DeploymentName, evidence_root: &Digest, now: Timestamp) -> Result<Self, IssueError> {
        let key = TlsKey::generate_root()?;
        let mut params = ca_params("Exhibit root", evidence_root, deployment, 1);
        params.subject_alt_names = vec![uri(&format!("spiffe://{deployment}"))?, uri(&format!("{EVIDENCE_ROOT_PREFIX}{evidence_root}"))?];
        (params.not_before, params.not_after) = (instant(now, BACKDATE, false)?, instant(now, ROOT_LIFE, true)?);
        params.serial_number = Some(SerialNumber::from_slice(&serial()?));
        let mut pair = key.pair()?;
        let certificate = params.self_signed(&pair).map_err(refused);
        pair.zeroize();
        Self::new(certificate?.into(), key)
    }

    /// Signs; the life is cut at the CA's own end, because a certificate that outlives its issuer is useless then.
    fn sign(
        &self,
        mut params: CertificateParams,
        public: &impl PublicKeyData,
        life: Duration,
        now: Timestamp,
    ) -> Result<Issued, IssueError> {
        if now >= self.facts.not_after || now < self.facts.not_before {
            return Err(IssueError::Authority(format!(
                "its own certificate is valid from {} to {}, and now is {now}; check this machine's clock, or make a new issuing CA with the root key",
                self.facts.not_before, self.facts.not_after
            )));
        }
        params.not_before = instant(now, BACKDATE, false)?;
        params.not_after = instant(now, life, true)?.min(second(self.facts.not_after)?);
        params.serial_number = Some(SerialNumber::from_slice(&serial()?));
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, WipedPair(self.key.pair()?)).map_err(refused)?;
        let leaf: CertificateDer<'static> = params.signed_by(public, &issuer).map_err(refused)?.into();
        let facts = x509::read(&leaf).map_err(|e| IssueError::Authority(e.to_string()))?;
        Ok(Issued { chain: vec![leaf.clone(), self.certificate.clone()], leaf, facts })
    }
}

/// A signing key of the library that is wiped when the signature is made.
struct WipedPair(rcgen::KeyPair);

impl Drop for WipedPair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for WipedPair {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        PublicKeyData::algorithm(&self.0)
    }
}

impl rcgen::SigningKey for WipedPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        rcgen::SigningKey::sign(&self.0, message)
    }
}

/// The public key of a request: well formed, P-256, signed by itself, and nothing behind it.
fn request_key(request: &[u8]) -> Result<SubjectPublicKeyInfo, IssueError> {
    if request.len() > REQUEST_BYTES_MAX {
        return Err(IssueError::BadRequest("larger than 4096 bytes"));
    }
    let (rest, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(request)
        .map_err(|_| IssueError::BadRequest("not a PKCS #10 request in DER form"))?;
    if !rest.is_empty() {
        return Err(IssueError::BadRequest("bytes follow it"));
    }
    let public = SubjectPublicKeyInfo::from_der(parsed.certification_request_info.subject_pki.raw)
        .map_err(|_| IssueError::BadRequest("its public key is of an unknown kind; ECDSA P-256 is expected"))?;
    if PublicKeyData::algorithm(&public) != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(IssueError::BadRequest("its public key is not ECDSA P-256"));
    }
    parsed.verify_signature().map_err(|_| IssueError::BadRequest("its signature does not match its public key"))?;
    Ok(public)
}

fn uri(text: &str) -> Result<SanType, IssueError> {
    Ok(SanType::URI(text.try_into().map_err(|_| IssueError::Authority("a name that is not ASCII".to_owned()))?))
}

fn leaf_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Never the CA's subject: OpenSSL takes a leaf whose subject is its issuer's for self-signed.
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

/// A CA's subject holds the beginning of a key digest: two CAs never share a subject, so that a certificate of another
/// deployment of the same name is seen as that, and not as a broken signature.
fn ca_params(title: &str, key: &Digest, deployment: &DeploymentName, path_length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    let short: String = key.to_string().chars().take(16).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, deployment.as_str());
    params.distinguished_name.push(DnType::CommonName, format!("{title} {short}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn second(at: Timestamp) -> Result<OffsetDateTime, IssueError> {
    OffsetDateTime::from_unix_timestamp(at.unix_ns().div_euclid(1_000_000_000))
        .map_err(|_| IssueError::Authority(format!("the time {at} cannot stand in a certificate")))
}

fn instant(now: Timestamp, by: Duration, later: bool) -> Result<OffsetDateTime, IssueError> {
    let by = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
    second(now.plus_s(if later { by } else { by.saturating_neg() }))
}

#[cfg(test)]
mod tests;
