//! Reading certificates.

use std::fmt::Write as _;
use std::net::IpAddr;

use exhibit_evidence::key::KeyId;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{Digest, Timestamp};
use x509_parser::extensions::GeneralName;

use crate::name::{BadName, DeploymentName, PeerName};

/// Largest certificate that is looked at, in bytes. Ours are below 1,000.
pub const CERTIFICATE_BYTES_MAX: usize = 16 << 10;

/// Most names that are looked at in one certificate.
const NAMES_MAX: usize = 64;

/// What this program uses of a certificate. Reading it verifies nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// First moment of validity.
    pub not_before: Timestamp,
    /// Last moment of validity.
    pub not_after: Timestamp,
    /// SHA-256 of the DER bytes.
    pub sha256: Digest,
    /// True for a certificate that may sign others.
    pub is_ca: bool,
    /// SubjectPublicKeyInfo, DER.
    pub public_der: Vec<u8>,
}

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// Not a certificate.
    #[error("not an X.509 certificate: {0}")]
    Malformed(String),
    /// It has no URI name, or several where one is expected.
    #[error("the certificate has {0} URI names: exactly one, of the form spiffe://<deployment>/<kind>/<name>, is expected")]
    UriCount(usize),
    /// Its URI name is not a peer's.
    #[error("the certificate names nobody: {0}")]
    Name(#[from] BadName),
    /// It is a CA certificate where a peer's is expected.
    #[error("a CA certificate cannot identify a peer")]
    IsCa,
    /// No certificate at all.
    #[error("no certificate was presented")]
    Missing,
}

/// Reads a certificate.
///
/// # Errors
/// [`BadCertificate::Malformed`]
pub fn read(der: &[u8]) -> Result<Facts, BadCertificate> {
    let malformed = |what: &str| BadCertificate::Malformed(what.to_owned());
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(BadCertificate::Malformed(format!("{} bytes, at most {CERTIFICATE_BYTES_MAX} are read", der.len())));
    }
    let (rest, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|e| BadCertificate::Malformed(escape_bounded(&e.to_string(), 120)))?;
    if !rest.is_empty() {
        return Err(malformed("bytes follow it"));
    }
    let mut facts = Facts {
        uris: Vec::new(),
        dns: Vec::new(),
        ips: Vec::new(),
        serial: hex(certificate.raw_serial()),
        not_before: Timestamp::from_unix_s(certificate.validity().not_before.timestamp()),
        not_after: Timestamp::from_unix_s(certificate.validity().not_after.timestamp()),
        sha256: Digest::of(der),
        is_ca: certificate.is_ca(),
        public_der: certificate.public_key().raw.to_vec(),
    };
    let names = certificate.subject_alternative_name().map_err(|_| malformed("its alternative names cannot be read"))?;
    for name in names.iter().flat_map(|n| &n.value.general_names).take(NAMES_MAX) {
        match name {
            GeneralName::URI(uri) => facts.uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => facts.dns.push((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => facts.ips.extend(ip(bytes)),
            _ => {}
        }
    }
    Ok(facts)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

impl Facts {
    /// The peer that the certificate names.
    ///
    /// # Errors
    /// [`BadCertificate`] unless it is an end certificate with exactly one URI name of our form; a person's may name an evidence key
    /// after it.
    pub fn peer(&self) -> Result<PeerName, BadCertificate> {
        if self.is_ca {
            return Err(BadCertificate::IsCa);
        }
        match self.uris.as_slice() {
            [uri] => Ok(uri.parse()?),
            [uri, _] if self.evidence_key().is_some() => match uri.parse::<PeerName>()? {
                person @ PeerName::Responder(..) => Ok(person),
                _ => Err(BadCertificate::UriCount(2)),
            },
            other => Err(BadCertificate::UriCount(other.len())),
        }
    }

    /// The evidence key that a person's certificate was issued beside: the one whose rights its holder has. `None` where the
    /// certificate names none; an agent's id follows from its key.
    #[must_use]
    pub fn evidence_key(&self) -> Option<KeyId> {
        let [_, key] = self.uris.as_slice() else { return None };
        key.strip_prefix(EVIDENCE_KEY_PREFIX)?.parse().ok()
    }
}

/// Start of the second URI name of a person's certificate, which names the person's evidence key.
pub const EVIDENCE_KEY_PREFIX: &str = "urn:exhibit:evidence-key:";

/// Start of the URI name by which a TLS root names the deployment's root evidence key.
pub const EVIDENCE_ROOT_PREFIX: &str = "urn:exhibit:evidence-root:";

/// What a TLS root says about its deployment: its two URI names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFacts {
    /// `spiffe://<deployment>`.
    pub deployment: DeploymentName,
    /// `urn:exhibit:evidence-root:<key id>`.
    pub evidence_root: Digest,
}

/// Reads what a TLS root says about its deployment.
///
/// # Errors
/// [`BadCertificate`] when it is not a root of ours.
pub fn read_root(der: &[u8]) -> Result<RootFacts, BadCertificate> {
    let facts = read(der)?;
    let malformed = |what: &str| BadCertificate::Malformed(what.to_owned());
    if !facts.is_ca {
        return Err(malformed("not a CA certificate"));
    }
    let [first, second] = facts.uris.as_slice() else {
        return Err(malformed("a TLS root has two URI names: the deployment and the evidence root"));
    };
    let deployment = first.strip_prefix("spiffe://").ok_or_else(|| malformed("its first URI name is not spiffe://<deployment>"))?;
    let evidence_root = second
        .strip_prefix(EVIDENCE_ROOT_PREFIX)
        .and_then(|hex| hex.parse().ok())
        .ok_or_else(|| malformed("its second URI name is not urn:exhibit:evidence-root:<key id>"))?;
    Ok(RootFacts { deployment: deployment.parse()?, evidence_root })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            proptest::prop_assert!(read(&bytes).is_err());
            proptest::prop_assert!(read_root(&bytes).is_err());
        }
    }
}
