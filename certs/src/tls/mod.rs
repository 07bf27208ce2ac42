//! TLS configurations of both ends: TLS 1.3 only, mutual authentication, no resumption (a resumed session would skip
//! the check of a revoked or expired certificate).

mod client;
mod explain;
mod server;

pub use client::{HotClient, PinnedRoot, client_config, enroll_client_config};
pub use explain::{explain, explain_tls_error};
pub use server::{HotServer, ServerTls, enroll_server_config, server_config};

use std::sync::Arc;

use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::{Digest, Timestamp};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;

use crate::name::PeerName;
use crate::x509::{self, BadCertificate};

/// ALPN protocol of everything but enrolment: gRPC over HTTP/2.
pub const ALPN_MAIN: &[u8] = b"h2";
/// ALPN protocol of enrolment: HTTP/2 without a client certificate, where only enrolment is served.
pub const ALPN_ENROLL: &[u8] = b"exhibit-enroll/1";

/// Why there is no TLS configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTlsConfig {
    /// The library refuses the parts.
    #[error("cannot set up TLS: {0}")]
    Refused(String),
    /// The root certificate.
    #[error("TLS root certificate: {0}")]
    Root(#[from] BadCertificate),
}

fn refused(error: impl ToString) -> BadTlsConfig {
    BadTlsConfig::Refused(error.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn root_store(root: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, BadTlsConfig> {
    let mut store = RootCertStore::empty();
    store.add(root.clone()).map_err(refused)?;
    Ok(Arc::new(store))
}

/// A TLS root and an anchor that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnchor {
    /// The root certificate.
    #[error("TLS root certificate: {0}")]
    Root(#[from] BadCertificate),
    /// Two evidence roots.
    #[error("the TLS root certificate vouches for evidence root {certificate}, the anchor holds {anchor}: one of the two was exchanged")]
    OtherKey {
        /// In the certificate.
        certificate: Digest,
        /// In the anchor.
        anchor: Digest,
    },
    /// Two deployments.
    #[error("the TLS root certificate is of deployment '{certificate}', the anchor of '{anchor}'")]
    OtherDeployment {
        /// In the certificate.
        certificate: String,
        /// In the anchor.
        anchor: String,
    },
}

/// Checks that a TLS root vouches for an anchor. With a pinned root, the anchor is pinned too.
///
/// # Errors
/// [`BadAnchor`]
pub fn check_anchor(root: &[u8], anchor: &Anchor) -> Result<(), BadAnchor> {
    let facts = x509::read_root(root)?;
    let key = anchor.root_key.id();
    if facts.evidence_root != key {
        return Err(BadAnchor::OtherKey { certificate: facts.evidence_root, anchor: key });
    }
    if facts.deployment.as_str() != anchor.deployment {
        return Err(BadAnchor::OtherDeployment {
            certificate: facts.deployment.to_string(),
            anchor: exhibit_evidence::text::escape_bounded(&anchor.deployment, 80),
        });
    }
    Ok(())
}

/// Who is at the other end of a verified connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name in the certificate.
    pub name: PeerName,
    /// The evidence key that a person's certificate names.
    pub evidence_key: Option<KeyId>,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate.
    pub leaf_sha256: Digest,
    /// Until when it is valid.
    pub not_after: Timestamp,
}

/// Reads the peer from the certificates of a TLS session, leaf first. The session has verified them.
///
/// # Errors
/// [`BadCertificate`]
pub fn peer_from_certificates(chain: &[CertificateDer<'_>]) -> Result<Identity, BadCertificate> {
    let facts = x509::read(chain.first().ok_or(BadCertificate::Missing)?)?;
    let (name, evidence_key) = (facts.peer()?, facts.evidence_key());
    Ok(Identity { name, evidence_key, serial: facts.serial, leaf_sha256: facts.sha256, not_after: facts.not_after })
}

#[cfg(test)]
mod tests;
