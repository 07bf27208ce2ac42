//! The agent's and the responder's end.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use exhibit_evidence::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::{ALPN_ENROLL, ALPN_MAIN, BadTlsConfig, provider, refused, root_store};
use crate::credential::TlsIdentity;

/// Configuration with a client certificate. The server must hold a certificate under the deployment's root (and no
/// other) for the name or address that is connected to.
///
/// # Errors
/// [`BadTlsConfig`]
pub fn client_config(identity: &TlsIdentity, root: &CertificateDer<'static>) -> Result<Arc<ClientConfig>, BadTlsConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?
        .with_root_certificates(root_store(root)?)
        .with_client_auth_cert(identity.chain().to_vec(), identity.key().private_der())
        .map_err(refused)?;
    Ok(finish(config, ALPN_MAIN))
}

/// Configuration for enrolment, before the agent has any certificate or root. The server's chain must contain the
/// certificate with the given SHA-256, and must verify under it (signatures, dates, purpose, name).
///
/// # Errors
/// [`BadTlsConfig`]
pub fn enroll_client_config(ca_sha256: Digest) -> Result<(Arc<ClientConfig>, PinnedRoot), BadTlsConfig> {
    let root = PinnedRoot(Arc::default());
    let verifier = PinVerifier { pin: ca_sha256, root: root.clone(), provider: provider() };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?
        // The pin replaces a root store; the chain is verified under the pinned certificate all the same.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok((finish(config, ALPN_ENROLL), root))
}

fn finish(mut config: ClientConfig, alpn: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// The root certificate that matched the pin, once a handshake has verified it.
#[derive(Debug, Clone)]
pub struct PinnedRoot(Arc<OnceLock<CertificateDer<'static>>>);

impl PinnedRoot {
    /// The certificate; `None` until a connection was made.
    #[must_use]
    pub fn get(&self) -> Option<CertificateDer<'static>> {
        self.0.get().cloned()
    }
}

/// The configuration in use, exchangeable after a renewal. Connections that exist keep theirs.
#[derive(Debug)]
pub struct HotClient(ArcSwap<ClientConfig>);

impl HotClient {
    /// Starts with a configuration.
    #[must_use]
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self(ArcSwap::new(config))
    }

    /// The configuration for the next connection.
    #[must_use]
    pub fn current(&self) -> Arc<ClientConfig> {
        self.0.load_full()
    }

    /// Makes a configuration from a new identity and, if that succeeds, uses it from the next connection on.
    ///
    /// # Errors
    /// [`BadTlsConfig`]; the old one stays in use.
    pub fn replace(&self, identity: &TlsIdentity, root: &CertificateDer<'static>) -> Result<(), BadTlsConfig> {
        self.0.store(client_config(identity, root)?);
        Ok(())
    }
}

/// No certificate of the presented chain has the pinned digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the coordinator's TLS root is not the expected one: expected SHA-256 {pin}, and the chain it presented ends with {presented}. Check --ca-sha256 and the address; if both are right, somebody is in between"
)]
pub struct PinMismatch {
    pin: Digest,
    presented: Digest,
}

#[derive(Debug)]
struct PinVerifier {
    pin: Digest,
    root: PinnedRoot,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(root) = intermediates.iter().find(|der| Digest::of(der) == self.pin) else {
            let presented = Digest::of(intermediates.last().unwrap_or(end_entity));
            let mismatch = PinMismatch { pin: self.pin, presented };
            return Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(mismatch)))));
        };
        let root = root.clone().into_owned();
        let store = root_store(&root).map_err(|e| Error::General(e.to_string()))?;
        let verified = WebPkiServerVerifier::builder_with_provider(store, Arc::clone(&self.provider))
            .build()
            .map_err(|e| Error::General(e.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        // A second connection finds the same bytes: they have the same digest.
        let _ = self.root.0.set(root);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // The configuration offers TLS 1.3 only.
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
