//! What a party holds to prove who it is: a TLS key with its certificate, an evidence key with its enrolments, and the
//! trust roots. A person's lies in `EXHIBIT_HOME`, an agent's in its state folder.
//!
//! | file | mode | content |
//! |---|---|---|
//! | `tls.pem` | 0600 | the TLS private key, then its certificate chain, leaf first: one file, so that both are exchanged in one step |
//! | `evidence.key` | 0600 | the evidence key's seed |
//! | `enrolments/<nn>.dsse.json` | 0644 | enrolment records from the root to this key, in the order in which they verify |
//! | `tls-root.pem` | 0644 | the deployment's TLS root |
//! | `anchor.json` | 0644 | the anchor; written last: a folder without it is unfinished |

use std::fmt;
use std::path::{Path, PathBuf};

use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::{Digest, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use crate::enrol::{self, BadChain};
use crate::files::{self, Access, FileError};
use crate::key::{BadTlsKey, TlsKey, certificate_pem};
use crate::name::PeerName;
use crate::rotation::renew_at;
use crate::tls::{BadAnchor, check_anchor};
use crate::x509::{self, BadCertificate};

/// Most certificates in a chain.
pub const CHAIN_MAX: usize = 4;

/// A TLS key and the certificate chain for it.
#[derive(Clone)]
pub struct TlsIdentity {
    key: TlsKey,
    chain: Vec<CertificateDer<'static>>,
    facts: x509::Facts,
    name: PeerName,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsIdentity({}, serial {}, until {})", self.name, self.facts.serial, self.facts.not_after)
    }
}

/// Why parts do not make an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// Number of certificates.
    #[error("a chain of {0} certificates: 1 to {CHAIN_MAX} are possible")]
    ChainLength(usize),
    /// A certificate.
    #[error(transparent)]
    Certificate(#[from] BadCertificate),
    /// Key and certificate are of two identities.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The key.
    #[error(transparent)]
    Key(#[from] BadTlsKey),
    /// The PEM text.
    #[error("not PEM text with a private key and its certificates: {0}")]
    Pem(String),
    /// The root does not belong to the anchor.
    #[error(transparent)]
    Anchor(#[from] BadAnchor),
    /// The enrolments.
    #[error(transparent)]
    Chain(#[from] BadChain),
    /// A person's certificate that was issued beside another evidence key.
    #[error("the certificate does not name the evidence key {0}, whose rights its holder would need: ask an admin to enrol you anew")]
    EvidenceKey(Digest),
    /// Two deployments.
    #[error("the certificate is of deployment '{certificate}', the anchor of '{anchor}'")]
    Deployment {
        /// In the certificate.
        certificate: String,
        /// In the anchor.
        anchor: String,
    },
}

impl TlsIdentity {
    /// An identity from a key and its chain, leaf first.
    ///
    /// # Errors
    /// [`BadIdentity`] when they do not belong together. Dates are not looked at here: an expired identity can be
    /// loaded, shown and renewed.
    pub fn new(key: TlsKey, chain: Vec<CertificateDer<'static>>) -> Result<Self, BadIdentity> {
        let leaf = chain.first().ok_or(BadIdentity::ChainLength(0))?;
        if chain.len() > CHAIN_MAX {
            return Err(BadIdentity::ChainLength(chain.len()));
        }
        let facts = x509::read(leaf)?;
        let name = facts.peer()?;
        if facts.public_der != key.public_der() {
            return Err(BadIdentity::KeyMismatch);
        }
        Ok(Self { key, chain, facts, name })
    }

    /// An identity from a key and DER certificates as they came over the wire.
    ///
    /// # Errors
    /// [`BadIdentity`]
    pub fn from_der<B: AsRef<[u8]>>(key: TlsKey, chain: &[B]) -> Result<Self, BadIdentity> {
        if chain.len() > CHAIN_MAX {
            return Err(BadIdentity::ChainLength(chain.len()));
        }
        Self::new(key, chain.iter().map(|der| CertificateDer::from(der.as_ref().to_vec())).collect())
    }

    /// Reads `tls.pem`.
    ///
    /// # Errors
    /// [`BadIdentity`]
    pub fn from_pem(text: &[u8]) -> Result<Self, BadIdentity> {
        Self::new(TlsKey::from_pem(text)?, certificates(text)?)
    }

    /// Content of `tls.pem`.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let key = self.key.to_pem();
        let chain: String = self.chain.iter().map(|c| certificate_pem(c)).collect();
        let mut text = Zeroizing::new(String::with_capacity(key.len() + chain.len()));
        text.push_str(&key);
        text.push_str(&chain);
        text
    }

    /// Who this is.
    #[must_use]
    pub const fn name(&self) -> &PeerName {
        &self.name
    }

    /// What stands in the certificate.
    #[must_use]
    pub const fn facts(&self) -> &x509::Facts {
        &self.facts
    }

    /// The certificates, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(crate) const fn key(&self) -> &TlsKey {
        &self.key
    }

    /// When to renew: see [`renew_at`].
    #[must_use]
    pub fn renew_at(&self, jitter: u8) -> Timestamp {
        renew_at(self.facts.not_before, self.facts.not_after, jitter)
    }
}

/// A certificate from DER bytes as they came over the wire; what they are is checked where they are used.
#[must_use]
pub fn certificate(der: Vec<u8>) -> CertificateDer<'static> {
    CertificateDer::from(der)
}

/// Certificates of a PEM text.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadIdentity> {
    CertificateDer::pem_slice_iter(text)
        .take(CHAIN_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|e| BadIdentity::Pem(exhibit_evidence::text::escape_bounded(&e.to_string(), 120)))
}

/// Everything a party holds.
pub struct Credential {
    /// Trust root of evidence.
    pub anchor: Anchor,
    /// Trust root of TLS.
    pub tls_root: CertificateDer<'static>,
    /// TLS key and certificate.
    pub tls: TlsIdentity,
    /// Evidence key.
    pub evidence: SigningKey,
    /// Enrolment records from the root to the evidence key.
    pub enrolments: Vec<Envelope>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("tls", &self.tls).field("evidence", &self.evidence.public().id()).finish_non_exhaustive()
    }
}

impl Credential {
    /// A credential whose parts were checked against each other: the TLS root names the anchor's key, the certificate
    /// and the enrolments name the same party in the anchor's deployment, and a person's certificate names the evidence key.
    ///
    /// # Errors
    /// [`BadIdentity`]
    pub fn new(
        anchor: Anchor,
        tls_root: CertificateDer<'static>,
        tls: TlsIdentity,
        evidence: SigningKey,
        enrolments: Vec<Envelope>,
    ) -> Result<Self, BadIdentity> {
        check_anchor(&tls_root, &anchor)?;
        if tls.name().deployment().as_str() != anchor.deployment {
            return Err(BadIdentity::Deployment {
                certificate: tls.name().deployment().to_string(),
                anchor: exhibit_evidence::text::escape_bounded(&anchor.deployment, 80),
            });
        }
        let key = evidence.public();
        enrol::verify_holder(&anchor, &enrolments, &key, tls.name())?;
        if tls.name().responder().is_some() && tls.facts().evidence_key() != Some(key.id()) {
            return Err(BadIdentity::EvidenceKey(key.id()));
        }
        Ok(Self { anchor, tls_root, tls, evidence, enrolments })
    }

    /// Who this is.
    #[must_use]
    pub const fn name(&self) -> &PeerName {
        self.tls.name()
    }

    /// This party as one that enrols others: an admin enrols people.
    #[must_use]
    pub fn enroller(&self) -> enrol::Enroller<'_> {
        enrol::Enroller { key: &self.evidence, enrolment: self.enrolments.last() }
    }

    /// True when the folder holds a finished credential.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join(ANCHOR).exists()
    }

    /// Writes the folder. Order: folder, secrets, enrolments, TLS root, and the anchor last, which marks it as finished.
    /// A folder that a crash left unfinished is completed by calling this again; a finished one is never touched.
    ///
    /// # Errors
    /// [`FileError`]
    pub fn write(&self, dir: &Path) -> Result<(), FileError> {
        files::create_folder(dir)?;
        let anchor = dir.join(ANCHOR);
        if Self::exists(dir) {
            return Err(FileError::Exists { path: anchor });
        }
        files::replace(&dir.join(TLS), self.tls.to_pem().as_bytes(), Access::Private)?;
        files::replace(&dir.join(EVIDENCE), self.evidence.to_text().as_bytes(), Access::Private)?;
        write_enrolments(&dir.join(ENROLMENTS), &self.enrolments)?;
        files::replace(&dir.join(TLS_ROOT), certificate_pem(&self.tls_root).as_bytes(), Access::Public)?;
        files::create(&anchor, &anchor_bytes(&self.anchor)?, Access::Public)
    }

    /// Reads a folder and checks its parts against each other.
    ///
    /// # Errors
    /// [`FileError`], which names the file.
    pub fn load(dir: &Path) -> Result<Self, FileError> {
        let anchor = read_anchor(dir)?;
        let tls_root = read_root(dir)?;
        let path = dir.join(TLS);
        let tls = TlsIdentity::from_pem(&files::read_private(&path)?).map_err(|e| FileError::content(&path, e))?;
        let evidence = read_signing_key(&dir.join(EVIDENCE))?;
        let enrolments = read_enrolments(&dir.join(ENROLMENTS))?;
        Self::new(anchor, tls_root, tls, evidence, enrolments)
            .map_err(|e| FileError::content(dir, format!("the files of this folder do not belong together: {e}")))
    }

    /// Exchanges the TLS identity in the folder and here after a renewal. It must name the same party.
    ///
    /// # Errors
    /// [`FileError`]; the old identity stays in use then.
    pub fn replace_tls(&mut self, dir: &Path, tls: TlsIdentity) -> Result<(), FileError> {
        let path = dir.join(TLS);
        if tls.name() != self.tls.name() {
            return Err(FileError::content(&path, format!("a renewal for {} instead of {}", tls.name(), self.tls.name())));
        }
        files::replace(&path, tls.to_pem().as_bytes(), Access::Private)?;
        self.tls = tls;
        Ok(())
    }
}

/// The two keys of an enrolment that is under way. They are on disk before the request is sent, so that a repeat after a
/// crash or a lost answer asks for the same identity, and the one-time token is not wasted.
pub struct Pending {
    /// The TLS key.
    pub tls: TlsKey,
    /// The evidence key.
    pub evidence: SigningKey,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending(evidence key {})", self.evidence.public().id())
    }
}

impl Pending {
    /// Takes up the keys of an earlier try from the folder, or makes new ones from `seed` and writes them.
    ///
    /// # Errors
    /// [`FileError`]; [`FileError::Exists`] when the folder holds a finished credential.
    pub fn take_up(dir: &Path, seed: &[u8; 32]) -> Result<Self, FileError> {
        files::create_folder(dir)?;
        if Credential::exists(dir) {
            return Err(FileError::Exists { path: dir.join(ANCHOR) });
        }
        let path = dir.join(PENDING);
        match files::read_private(&path) {
            Ok(bytes) => Self::parse(&bytes).ok_or_else(|| {
                FileError::content(&path, "not the keys of an unfinished enrolment; remove the file and ask for a new token")
            }),
            Err(e) if e.is_not_found() => {
                let tls = TlsKey::generate().map_err(|e| FileError::content(&path, e))?;
                let pending = Self { tls, evidence: SigningKey::from_seed(seed) };
                files::replace(&path, pending.to_text().as_bytes(), Access::Private)?;
                Ok(pending)
            }
            Err(e) => Err(e),
        }
    }

    /// Writes the finished credential and forgets the pending keys. Order: the credential (anchor last), then the
    /// removal; a crash between leaves a file that nobody reads again.
    ///
    /// # Errors
    /// [`FileError`]
    pub fn finish(credential: &Credential, dir: &Path) -> Result<(), FileError> {
        credential.write(dir)?;
        files::remove(&dir.join(PENDING))
    }

    fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}{}", *self.evidence.to_text(), *self.tls.to_pem()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (evidence, tls) = text.split_once('\n')?;
        Some(Self { tls: TlsKey::from_pem(tls.as_bytes()).ok()?, evidence: SigningKey::from_text(evidence)? })
    }
}

pub(crate) const ANCHOR: &str = "anchor.json";
pub(crate) const TLS_ROOT: &str = "tls-root.pem";
pub(crate) const TLS: &str = "tls.pem";
pub(crate) const EVIDENCE: &str = "evidence.key";
pub(crate) const ENROLMENTS: &str = "enrolments";
const PENDING: &str = "enrolment.pending";

pub(crate) fn anchor_bytes(anchor: &Anchor) -> Result<Vec<u8>, FileError> {
    let mut bytes = serde_json::to_vec_pretty(anchor).map_err(|e| FileError::content(Path::new(ANCHOR), e))?;
    bytes.push(b'\n');
    Ok(bytes)
}

pub(crate) fn read_anchor(dir: &Path) -> Result<Anchor, FileError> {
    let path = dir.join(ANCHOR);
    let bytes = files::read(&path)?;
    Anchor::parse(&bytes).map_err(|e| FileError::content(&path, e))
}

pub(crate) fn read_root(dir: &Path) -> Result<CertificateDer<'static>, FileError> {
    let path = dir.join(TLS_ROOT);
    let certificates = certificates(&files::read(&path)?).map_err(|e| FileError::content(&path, e))?;
    match <[_; 1]>::try_from(certificates) {
        Ok([root]) => Ok(root),
        Err(other) => Err(FileError::content(&path, format!("expected one certificate in PEM form, found {}", other.len()))),
    }
}

pub(crate) fn read_signing_key(path: &Path) -> Result<SigningKey, FileError> {
    let bytes = files::read_private(path)?;
    std::str::from_utf8(&bytes)
        .ok()
        .and_then(SigningKey::from_text)
        .ok_or_else(|| FileError::content(path, "not an evidence key: expected one line that begins with exhibit-ed25519-seed-v1:"))
}

pub(crate) fn write_enrolments(dir: &Path, enrolments: &[Envelope]) -> Result<(), FileError> {
    files::create_folder(dir)?;
    for (i, envelope) in enrolments.iter().enumerate() {
        files::replace(&enrolment_path(dir, i), envelope.as_bytes(), Access::Public)?;
    }
    Ok(())
}

/// Reads `00.dsse.json`, `01.dsse.json` and so on, up to the first number that is missing.
pub(crate) fn read_enrolments(dir: &Path) -> Result<Vec<Envelope>, FileError> {
    let mut enrolments = Vec::new();
    for i in 0..enrol::CHAIN_MAX {
        let path = enrolment_path(dir, i);
        match files::read(&path) {
            Ok(bytes) => enrolments.push(Envelope::parse(&bytes).map_err(|e| FileError::content(&path, e))?),
            Err(e) if e.is_not_found() && i > 0 => break,
            Err(e) => return Err(e),
        }
    }
    Ok(enrolments)
}

fn enrolment_path(dir: &Path, i: usize) -> PathBuf {
    dir.join(format!("{i:02}.dsse.json"))
}

#[cfg(test)]
mod tests;
