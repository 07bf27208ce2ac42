//! Becoming an agent: keys are made here, a one-time token says that somebody wanted this, a pinned certificate says who
//! answers.

use std::path::Path;

use exhibit_certs::credential::{Credential, Pending, TlsIdentity};
use exhibit_certs::files::{self, Access, FileError};
use exhibit_certs::{enrol, random, tls};
use exhibit_evidence::Digest;
use exhibit_evidence::anchor::Anchor;
use exhibit_proto::agent::v1::enrollment_service_client::EnrollmentServiceClient;
use exhibit_proto::agent::v1::{EnrollRequest, EnrollResponse, ProtocolRange};
use exhibit_proto::transport::client::{self, Address, ConnectError, Target};
use exhibit_proto::{bounds, convert, version};

use crate::{config, custody};

/// What is asked for.
#[derive(Debug)]
pub struct Request<'a> {
    /// Where.
    pub coordinator: &'a Address,
    /// SHA-256 of the deployment's TLS root certificate, from a source that is trusted.
    pub ca_sha256: Digest,
    /// The one-time token.
    pub token: &'a str,
    /// The state folder to be made.
    pub dir: &'a Path,
}

/// Why there is no new identity. What is on disk lets the same command continue.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The folder holds an identity.
    #[error(
        "{0} holds an identity already: one folder is one agent; choose another folder, or remove this one if the agent is gone for good"
    )]
    Exists(std::path::PathBuf),
    /// The folder holds something else.
    #[error("{0} is not empty (it holds {1}): name a new or an empty folder, which then belongs to this agent alone")]
    NotEmpty(std::path::PathBuf, String),
    /// A file cannot be written or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// No connection, or not to the pinned deployment.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The coordinator says no.
    #[error("the coordinator refuses the enrolment: {0}")]
    Refused(String),
    /// The answer is not what it should be.
    #[error("the coordinator's answer is not usable: {0}")]
    Answer(String),
    /// Keys cannot be made.
    #[error("keys cannot be made: {0}")]
    Key(String),
}

/// Enrols and writes the state folder. Returns the new agent's name.
///
/// Order: (1) the keys, in one file of mode 0600; (2) the request; (3) `agent.toml`; (4) the credential, its anchor last.
/// Died after 1 or 2: the same command with the same token asks for the same identity again. Died in 3 or 4: likewise, as
/// long as the token lives; `run` refuses the unfinished folder.
///
/// # Errors
/// [`EnrollError`]
pub async fn enroll(request: &Request<'_>) -> Result<String, EnrollError> {
    if Credential::exists(request.dir) {
        return Err(EnrollError::Exists(request.dir.to_owned()));
    }
    own_folder(request.dir)?;
    let key_error = |e: &dyn std::fmt::Display| EnrollError::Key(e.to_string());
    let seed = random::seed().map_err(|e| key_error(&e))?;
    let pending = Pending::take_up(request.dir, &seed)?;
    let csr = pending.tls.request().map_err(|e| key_error(&e))?;
    let proof = enrol::sign_proof(&pending.evidence, &csr, request.token);
    let (config, pinned) = tls::enroll_client_config(request.ca_sha256).map_err(|e| key_error(&e))?;
    let target =
        Target { address: request.coordinator.clone(), tls: std::sync::Arc::new(move || config.clone()), explain: tls::explain_tls_error };
    let channel = client::connect(&target, &client::Settings::small()).await?;
    let message = EnrollRequest {
        protocol: Some(ProtocolRange { min: version::MIN, max: version::MAX }),
        token: request.token.to_owned(),
        tls_csr: csr,
        evidence_key: pending.evidence.public().as_bytes().to_vec(),
        proof: proof.to_vec(),
        hostname: custody::host().hostname,
    };
    let mut service = EnrollmentServiceClient::new(channel).max_decoding_message_size(bounds::MESSAGE_BYTES_MAX);
    let response = service.enroll(message).await.map_err(|s| EnrollError::Refused(client::describe(&s)))?.into_inner();
    let root = pinned.get().ok_or_else(|| EnrollError::Answer("no certificate was verified".to_owned()))?;
    let credential = credential(pending, root, &response)?;
    files::replace(&request.dir.join(config::FILE), config::text(request.coordinator).as_bytes(), Access::Private)?;
    Pending::finish(&credential, request.dir)?;
    Ok(credential.name().to_string())
}

/// What an agent's folder may hold before its identity is finished: what its owner wrote beforehand, and the rest of an
/// enrolment that broke off.
const BEFOREHAND: [&str; 7] =
    [crate::order::policy::FILE, config::FILE, "enrolment.pending", "tls.pem", "evidence.key", "enrolments", "tls-root.pem"];

/// Makes a folder that is there already the agent's own: nothing of others in it, and closed to others.
fn own_folder(dir: &Path) -> Result<(), EnrollError> {
    use std::os::unix::fs::PermissionsExt as _;
    let io = |action, source| FileError::Io { action, path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        // It is made with its mode.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io("look into", e).into()),
    };
    for entry in entries {
        let name = entry.map_err(|e| io("look into", e))?.file_name();
        let ours = name.to_str().is_some_and(|n| BEFOREHAND.contains(&n) || BEFOREHAND.iter().any(|b| n == format!(".{b}.new")));
        if !ours {
            return Err(EnrollError::NotEmpty(dir.to_owned(), exhibit_evidence::text::escape_bounded(&name.to_string_lossy(), 80)));
        }
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(|e| io("set the mode of", e).into())
}

/// The credential, every part of it checked against the pinned root.
fn credential(
    pending: Pending,
    root: rustls::pki_types::CertificateDer<'static>,
    response: &EnrollResponse,
) -> Result<Credential, EnrollError> {
    let answer = |e: &dyn std::fmt::Display| EnrollError::Answer(e.to_string());
    let identity = TlsIdentity::from_der(pending.tls.clone(), &response.tls_chain).map_err(|e| answer(&e))?;
    let anchor = Anchor::parse(&response.anchor).map_err(|e| answer(&e))?;
    let enrolments = convert::envelopes("enrolments", &response.enrolments).map_err(|e| answer(&e))?;
    let credential = Credential::new(anchor, root, identity, pending.evidence, enrolments).map_err(|e| answer(&e))?;
    match credential.name().agent() {
        Some(id) if id.as_str() == response.agent => Ok(credential),
        _ => Err(EnrollError::Answer(format!(
            "it names {} and certifies {}",
            exhibit_evidence::text::escape_bounded(&response.agent, 60),
            credential.name()
        ))),
    }
}

/// Most bytes of a token.
pub const TOKEN_BYTES_MAX: usize = 200;

/// Checks a token's form, wherever it came from.
///
/// # Errors
/// A sentence; it never shows the token.
pub fn check_token(text: &str) -> Result<&str, String> {
    let token = text.trim();
    if token.is_empty() {
        return Err("the token is empty".to_owned());
    }
    if token.len() > TOKEN_BYTES_MAX || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("not a token: at most {TOKEN_BYTES_MAX} printable ASCII characters without spaces are expected"));
    }
    Ok(token)
}
