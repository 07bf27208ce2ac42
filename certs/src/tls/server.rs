//! The coordinator's end.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

use super::{ALPN_ENROLL, ALPN_MAIN, BadTlsConfig, provider, refused, root_store};
use crate::credential::TlsIdentity;
use crate::name::{DeploymentName, PeerName};
use crate::x509;

/// Configuration for everything but enrolment: a client certificate under the root that names an agent or a person of
/// the deployment is required.
///
/// # Errors
/// [`BadTlsConfig`]
pub fn server_config(identity: &TlsIdentity, root: &CertificateDer<'static>) -> Result<Arc<ServerConfig>, BadTlsConfig> {
    let inner = WebPkiClientVerifier::builder_with_provider(root_store(root)?, provider()).build().map_err(refused)?;
    let deployment = x509::read_root(root)?.deployment;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?
        .with_client_cert_verifier(Arc::new(PeerVerifier { inner, deployment }));
    let config = builder.with_single_cert(identity.chain().to_vec(), identity.key().private_der()).map_err(refused)?;
    Ok(finish(config, ALPN_MAIN))
}

/// Configuration for enrolment: no client certificate; the chain ends with the root, so that the agent can compare it
/// with its pin.
///
/// # Errors
/// [`BadTlsConfig`]
pub fn enroll_server_config(identity: &TlsIdentity, root: &CertificateDer<'static>) -> Result<Arc<ServerConfig>, BadTlsConfig> {
    let mut chain = identity.chain().to_vec();
    chain.push(root.clone());
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, identity.key().private_der())
        .map_err(refused)?;
    Ok(finish(config, ALPN_ENROLL))
}

fn finish(mut config: ServerConfig, alpn: &[u8]) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// The two configurations of one port.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// With client authentication.
    pub main: Arc<ServerConfig>,
    /// For enrolment.
    pub enroll: Arc<ServerConfig>,
}

impl ServerTls {
    /// Both from one identity.
    ///
    /// # Errors
    /// [`BadTlsConfig`]
    pub fn new(identity: &TlsIdentity, root: &CertificateDer<'static>) -> Result<Self, BadTlsConfig> {
        Ok(Self { main: server_config(identity, root)?, enroll: enroll_server_config(identity, root)? })
    }
}

/// The configurations in use, exchangeable while connections are being accepted.
#[derive(Debug)]
pub struct HotServer(ArcSwap<ServerTls>);

impl HotServer {
    /// Starts with a configuration.
    #[must_use]
    pub fn new(tls: ServerTls) -> Self {
        Self(ArcSwap::from_pointee(tls))
    }

    /// The configurations for the next connection.
    #[must_use]
    pub fn current(&self) -> Arc<ServerTls> {
        self.0.load_full()
    }

    /// Makes configurations from a new identity and, if that succeeds, uses them from the next connection on.
    ///
    /// # Errors
    /// [`BadTlsConfig`]; the old ones stay in use.
    pub fn replace(&self, identity: &TlsIdentity, root: &CertificateDer<'static>) -> Result<(), BadTlsConfig> {
        self.0.store(Arc::new(ServerTls::new(identity, root)?));
        Ok(())
    }
}

/// webpki's verification, and then the name: a certificate that names nobody here is refused in the handshake, where
/// the client still learns about it.
#[derive(Debug)]
struct PeerVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    deployment: DeploymentName,
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let name = x509::read(end_entity).and_then(|facts| facts.peer());
        match name {
            Ok(name) if name.deployment() == &self.deployment && !matches!(name, PeerName::Coordinator(..)) => Ok(verified),
            _ => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
