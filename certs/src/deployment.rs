//! A deployment: what `exhibit-coordinator init` makes and what the coordinator loads at every start.
//!
//! | path | mode | content | who holds it could |
//! |---|---|---|---|
//! | `root/tls.pem` | 0600 | TLS root key and certificate, 10 years | impersonate every party of the deployment on the wire |
//! | `root/evidence.key` | 0600 | root evidence key | enrol any key under any name |
//! | `issuing/tls.pem` | 0600 | issuing CA key and certificate, 2 years | impersonate every party on the wire |
//! | `server/tls.pem` | 0600 | the coordinator's server key and chain, 90 days | impersonate the coordinator on the wire |
//! | `issuer.key` | 0600 | issuer evidence key | enrol agents' evidence keys, nobody else's |
//! | `log.key` | 0600 | log evidence key | sign checkpoints, receipts, seals |
//! | `enrolments/issuer.dsse.json`, `log.dsse.json` | 0644 | their enrolments, signed by the root | - |
//! | `tls-root.pem` | 0644 | TLS root certificate; its SHA-256 is what agents pin | - |
//! | `anchor.json` | 0644 | the anchor; written last: a folder without it is unfinished | - |
//!
//! `root/` is needed only to make a deployment, every two years for a new issuing CA ([`renew_issuing`]), and when no admin's key is
//! left ([`root_key`]): move it to a safe place after init. Everything else works without it. None of these keys can sign an order.

use std::fmt;
use std::path::Path;

use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::dsse::{BadEnvelope, Envelope};
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::record::Role;
use exhibit_evidence::{Digest, Timestamp};
use rustls::pki_types::CertificateDer;

use crate::credential::{
    ANCHOR, BadIdentity, Credential, ENROLMENTS, EVIDENCE, TLS, TLS_ROOT, TlsIdentity, anchor_bytes, certificates, read_anchor, read_root,
    read_signing_key,
};
use crate::enrol::{self, Enroller};
use crate::files::{self, Access, FileError};
use crate::issue::{Authority, IssueError, PERSON_LIFE, ServerNames};
use crate::key::{TlsKey, certificate_pem};
use crate::name::{BadName, DeploymentName, PartName, PeerName, PersonName};
use crate::random::Seed;
use crate::rotation::renew_at;
use crate::tls::check_anchor;

/// What the operator chooses.
#[derive(Debug, Clone)]
pub struct Params {
    /// The deployment's name.
    pub name: DeploymentName,
    /// The first admin.
    pub admin: PersonName,
    /// Names and addresses of the coordinator.
    pub server: ServerNames,
}

/// Seeds of the evidence keys, from the caller's randomness.
pub struct Seeds {
    /// Root key.
    pub root: Seed,
    /// Issuer key.
    pub issuer: Seed,
    /// Log key.
    pub log: Seed,
    /// The first admin's key.
    pub admin: Seed,
}

impl fmt::Debug for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seeds")
    }
}

impl Seeds {
    /// Draws all of them.
    ///
    /// # Errors
    /// [`crate::random::NoRandomness`]
    pub fn draw() -> Result<Self, crate::random::NoRandomness> {
        let seed = crate::random::seed;
        Ok(Self { root: seed()?, issuer: seed()?, log: seed()?, admin: seed()? })
    }
}

/// Why no deployment was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A certificate.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A record.
    #[error(transparent)]
    Record(#[from] BadEnvelope),
    /// A name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// What was made does not hold together.
    #[error(transparent)]
    Identity(#[from] BadIdentity),
    /// A key.
    #[error(transparent)]
    Key(#[from] crate::key::BadTlsKey),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Roles of the first admin: whoever makes a deployment can use it at once; roles are divided by enrolling others.
pub const FIRST_ADMIN_ROLES: [Role; 5] = [Role::Admin, Role::Responder, Role::Approver, Role::Custodian, Role::Auditor];

/// A deployment with its root keys, before it is written.
pub struct NewDeployment {
    /// What the coordinator loads.
    pub deployment: Deployment,
    /// TLS root with its key.
    pub root: Authority,
    /// Root evidence key.
    pub root_evidence: SigningKey,
    /// The first admin's credential.
    pub admin: Credential,
}

impl fmt::Debug for NewDeployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewDeployment").field("deployment", &self.deployment).field("admin", &self.admin).finish_non_exhaustive()
    }
}

/// A deployment without its root keys: what a running coordinator needs.
pub struct Deployment {
    /// Its name.
    pub name: DeploymentName,
    /// Trust root of evidence.
    pub anchor: Anchor,
    /// Trust root of TLS.
    pub tls_root: CertificateDer<'static>,
    /// Issues agents', people's and the server's certificates.
    pub issuing: Authority,
    /// The coordinator's server identity.
    pub server: TlsIdentity,
    /// Signs checkpoints, receipts, seals and access records.
    pub log_key: SigningKey,
    /// Enrolment of the log key.
    pub log_enrolment: Envelope,
    /// Enrols agents.
    pub issuer_key: SigningKey,
    /// Enrolment of the issuer key.
    pub issuer_enrolment: Envelope,
}

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deployment").field("name", &self.name).field("server", &self.server).finish_non_exhaustive()
    }
}

/// Makes a deployment in memory. Nothing is written.
///
/// # Errors
/// [`CreateError`]
pub fn create(params: &Params, seeds: &Seeds, now: Timestamp) -> Result<NewDeployment, CreateError> {
    let name = &params.name;
    let root_evidence = SigningKey::from_seed(&seeds.root);
    let anchor = enrol::anchor(name, root_evidence.public());
    let root = Authority::root(name, &root_evidence.public().id(), now)?;
    let issuing = root.issue_issuing(name, now)?;
    let server = issuing.issue_server(name, &params.server, now)?;

    let enroller = Enroller { key: &root_evidence, enrolment: None };
    let part = |text: &str| Ok::<_, BadName>(PeerName::Coordinator(name.clone(), text.parse::<PartName>()?));
    let (issuer_key, log_key) = (SigningKey::from_seed(&seeds.issuer), SigningKey::from_seed(&seeds.log));
    let issuer_enrolment = enroller.enrol(&part("issuer")?, issuer_key.public(), &[Role::Issuer], "init", now)?;
    let log_enrolment = enroller.enrol(&part("log")?, log_key.public(), &[Role::Log], "init", now)?;

    let admin_name = PeerName::Responder(name.clone(), params.admin.clone());
    let admin_key = SigningKey::from_seed(&seeds.admin);
    let admin_enrolment = enroller.enrol(&admin_name, admin_key.public(), &FIRST_ADMIN_ROLES, "init", now)?;
    let admin_tls = issuing.issue_person_for(&TlsKey::generate()?, (&admin_name, admin_key.public().id()), PERSON_LIFE, now)?;
    let tls_root = root.certificate().clone();
    let admin = Credential::new(anchor.clone(), tls_root.clone(), admin_tls, admin_key, vec![admin_enrolment])?;

    let deployment =
        Deployment { name: name.clone(), anchor, tls_root, issuing, server, log_key, log_enrolment, issuer_key, issuer_enrolment };
    Ok(NewDeployment { deployment, root, root_evidence, admin })
}

impl NewDeployment {
    /// Writes the deployment's folder. The folder may exist if it is empty. Order: secrets, enrolments, TLS root, the
    /// anchor last. After a crash the folder holds no anchor: nothing loads it, and init refuses it until it is removed.
    ///
    /// # Errors
    /// [`FileError`]; [`FileError::Exists`] or [`FileError::Content`] when something is there already.
    pub fn write(&self, dir: &Path) -> Result<(), FileError> {
        files::create_folder(dir)?;
        require_empty(dir)?;
        let deployment = &self.deployment;
        let root = dir.join(ROOT);
        files::create_folder(&root)?;
        files::create(&root.join(TLS), authority_pem(&self.root).as_bytes(), Access::Private)?;
        files::create(&root.join(EVIDENCE), self.root_evidence.to_text().as_bytes(), Access::Private)?;
        for (folder, text) in [(ISSUING, authority_pem(&deployment.issuing)), (SERVER, deployment.server.to_pem())] {
            files::create_folder(&dir.join(folder))?;
            files::create(&dir.join(folder).join(TLS), text.as_bytes(), Access::Private)?;
        }
        files::create(&dir.join(ISSUER_KEY), deployment.issuer_key.to_text().as_bytes(), Access::Private)?;
        files::create(&dir.join(LOG_KEY), deployment.log_key.to_text().as_bytes(), Access::Private)?;
        let enrolments = dir.join(ENROLMENTS);
        files::create_folder(&enrolments)?;
        files::create(&enrolments.join(ISSUER_ENROLMENT), deployment.issuer_enrolment.as_bytes(), Access::Public)?;
        files::create(&enrolments.join(LOG_ENROLMENT), deployment.log_enrolment.as_bytes(), Access::Public)?;
        files::create(&dir.join(TLS_ROOT), certificate_pem(&deployment.tls_root).as_bytes(), Access::Public)?;
        files::create(&dir.join(ANCHOR), &anchor_bytes(&deployment.anchor)?, Access::Public)
    }
}

fn require_empty(dir: &Path) -> Result<(), FileError> {
    if dir.join(ANCHOR).exists() {
        return Err(FileError::content(dir, "holds a deployment already; it is never overwritten"));
    }
    let mut entries = std::fs::read_dir(dir).map_err(|source| FileError::Io { action: "list", path: dir.to_owned(), source })?;
    if entries.next().is_some() {
        return Err(FileError::content(
            dir,
            "is not empty and holds no finished deployment; choose an empty folder, or remove what an interrupted init left",
        ));
    }
    Ok(())
}

fn authority_pem(authority: &Authority) -> zeroize::Zeroizing<String> {
    let mut text = authority.key().to_pem();
    text.push_str(&certificate_pem(authority.certificate()));
    text
}

/// Reads a CA's `tls.pem`.
fn read_authority(path: &Path) -> Result<Authority, FileError> {
    let bytes = files::read_private(path)?;
    let key = TlsKey::from_pem(&bytes).map_err(|e| FileError::content(path, e))?;
    let certificate = certificates(&bytes)
        .map_err(|e| FileError::content(path, e))?
        .into_iter()
        .next()
        .ok_or_else(|| FileError::content(path, "holds no certificate"))?;
    Authority::new(certificate, key).map_err(|e| FileError::content(path, e))
}

impl Deployment {
    /// True when the folder holds a finished deployment.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join(ANCHOR).exists()
    }

    /// Reads a deployment's folder and checks its parts against each other. `root/` is not looked at.
    ///
    /// # Errors
    /// [`FileError`], which names the file.
    pub fn load(dir: &Path) -> Result<Self, FileError> {
        if dir.is_dir() && !Self::exists(dir) {
            return Err(FileError::content(dir, "holds no deployment (no anchor.json); make one with: exhibit-coordinator init"));
        }
        let anchor = read_anchor(dir)?;
        let tls_root = read_root(dir)?;
        check_anchor(&tls_root, &anchor).map_err(|e| FileError::content(&dir.join(TLS_ROOT), e))?;
        let name: DeploymentName = anchor.deployment.parse().map_err(|e| FileError::content(&dir.join(ANCHOR), e))?;
        let issuing = read_authority(&dir.join(ISSUING).join(TLS))?;
        let server_path = dir.join(SERVER).join(TLS);
        let server = TlsIdentity::from_pem(&files::read_private(&server_path)?).map_err(|e| FileError::content(&server_path, e))?;
        let keyed = |key: &str, enrolment: &str, part: &str| {
            let signing = read_signing_key(&dir.join(key))?;
            let path = dir.join(ENROLMENTS).join(enrolment);
            let envelope = Envelope::parse(&files::read(&path)?).map_err(|e| FileError::content(&path, e))?;
            let part = part.parse::<PartName>().map_err(|e| FileError::content(&path, e))?;
            let holder = PeerName::Coordinator(name.clone(), part);
            enrol::verify_holder(&anchor, std::slice::from_ref(&envelope), &signing.public(), &holder)
                .map_err(|e| FileError::content(&path, e))?;
            Ok::<_, FileError>((signing, envelope))
        };
        let (log_key, log_enrolment) = keyed(LOG_KEY, LOG_ENROLMENT, "log")?;
        let (issuer_key, issuer_enrolment) = keyed(ISSUER_KEY, ISSUER_ENROLMENT, "issuer")?;
        Ok(Self { name, anchor, tls_root, issuing, server, log_key, log_enrolment, issuer_key, issuer_enrolment })
    }

    /// Renews the server certificate when two thirds of its life are over, when it comes from an earlier issuing CA or
    /// when it lacks one of the names; says whether it did. Called at every start and once a day.
    ///
    /// # Errors
    /// [`CreateError`]; the old certificate stays in use then.
    pub fn renew_server(&mut self, dir: &Path, names: &ServerNames, now: Timestamp) -> Result<bool, CreateError> {
        let facts = self.server.facts();
        let issued_here = self.server.chain().get(1) == Some(self.issuing.certificate());
        if issued_here && names.are_in(facts) && now < renew_at(facts.not_before, facts.not_after, 0) {
            return Ok(false);
        }
        let server = self.issuing.issue_server(&self.name, names, now)?;
        files::replace(&dir.join(SERVER).join(TLS), server.to_pem().as_bytes(), Access::Private)?;
        self.server = server;
        Ok(true)
    }

    /// SHA-256 of the TLS root certificate: what agents are told to expect (`--ca-sha256`).
    #[must_use]
    pub fn tls_root_sha256(&self) -> Digest {
        Digest::of(&self.tls_root)
    }

    /// Whoever enrols agents.
    #[must_use]
    pub const fn issuer(&self) -> Enroller<'_> {
        Enroller { key: &self.issuer_key, enrolment: Some(&self.issuer_enrolment) }
    }
}

/// Makes a new issuing CA with the root key, which is brought back for this to `root_dir`.
///
/// # Errors
/// [`CreateError`]
pub fn renew_issuing(dir: &Path, root_dir: &Path, now: Timestamp) -> Result<(), CreateError> {
    let anchor = read_anchor(dir)?;
    let name: DeploymentName = anchor.deployment.parse()?;
    let root_path = root_dir.join(TLS);
    let root = read_authority(&root_path)?;
    if *root.certificate() != read_root(dir)? {
        return Err(FileError::content(&root_path, "is the root of another deployment").into());
    }
    let issuing = root.issue_issuing(&name, now)?;
    files::replace(&dir.join(ISSUING).join(TLS), authority_pem(&issuing).as_bytes(), Access::Private)?;
    Ok(())
}

/// The root evidence key from `root_dir`, where it is brought back for this. It enrols and revokes every key.
///
/// # Errors
/// [`FileError`]; also when it is another deployment's.
pub fn root_key(root_dir: &Path, anchor: &Anchor) -> Result<SigningKey, FileError> {
    let path = root_dir.join(EVIDENCE);
    let key = read_signing_key(&path)?;
    if key.public() != anchor.root_key {
        return Err(FileError::content(
            &path,
            format!("is not the root key of deployment '{}', which its anchor names", anchor.deployment),
        ));
    }
    Ok(key)
}

const ROOT: &str = "root";
const ISSUING: &str = "issuing";
const SERVER: &str = "server";
const ISSUER_KEY: &str = "issuer.key";
const LOG_KEY: &str = "log.key";
const ISSUER_ENROLMENT: &str = "issuer.dsse.json";
const LOG_ENROLMENT: &str = "log.dsse.json";

#[cfg(test)]
mod tests;
