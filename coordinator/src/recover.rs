//! `exhibit-coordinator recover-admin`: a new admin by the root key, when the last admin's key is lost or stolen. It is the one
//! thing besides `init` that people need that key for. What is done stands in the deployment's log, signed by the root.

use std::path::PathBuf;
use std::sync::Arc;

use exhibit_certs::deployment::root_key;
use exhibit_certs::enrol::Enroller;
use exhibit_certs::issue::PERSON_LIFE;
use exhibit_certs::person::{self, Answer, Asked, Request};
use exhibit_certs::{Deployment, PersonName, files};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::{KeyId, SigningKey};
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{self, REASON_BYTES_MAX, Revocation, Role};
use exhibit_evidence::text::{escape_bounded, written};
use exhibit_evidence::{Digest, Timestamp};

use crate::catalog::postgres::{Alone, PostgresCatalog};
use crate::catalog::sqlite::SqliteCatalog;
use crate::catalog::{Catalog, CatalogError, CatalogPlace};
use crate::config::Config;
use crate::init;
use crate::ledger::{Head, Keys, Ledger, Ledgers};

/// What the operator chooses.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The new admin's request: `exhibit person request --name NAME --dir DIR --anchor anchor.json --out REQUEST`, on their own
    /// machine. Compare the key that this command shows with the one that the person reads out
    #[arg(value_name = "REQUEST")]
    pub request: PathBuf,
    /// The folder `root` that `init` made, brought back from where it is kept. Take it away again afterwards
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// New file for the answer, which the person takes with `exhibit person accept`
    #[arg(long, value_name = "ANSWER")]
    pub out: PathBuf,
    /// Revoke every key of this person, but for the one in the request (repeatable). A stolen key is good until this is done
    #[arg(long = "revoke", value_name = "NAME")]
    pub revoke: Vec<PersonName>,
    /// Why; recorded with each revocation
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Recovered {
    /// The new admin.
    pub name: String,
    /// The key that is an admin's now.
    pub key: KeyId,
    /// Keys that are revoked now.
    pub revoked: Vec<Revoked>,
    /// The file for the new admin.
    pub answer: PathBuf,
    /// Records in the deployment's log.
    pub log_size: u64,
}

/// A key that nothing is accepted from any more.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Revoked {
    /// Whose it was.
    pub name: String,
    /// The key.
    pub key: KeyId,
}

impl Recovered {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![format!("{} is an admin with key {}", self.name, self.key)];
        lines.extend(self.revoked.iter().map(|r| format!("revoked: key {} of {}", r.key, r.name)));
        lines.push(format!("the deployment's log has {} records now; all of this stands there, signed by the root key", self.log_size));
        lines.push(
            "if this is not the key that the person read out to you, run this command again with their request, and --revoke".to_owned(),
        );
        lines.push("take the folder with the root key back to its safe place, and start the coordinator".to_owned());
        lines.push(format!(
            "the person: exhibit person accept {} --dir DIR --anchor anchor.json",
            escape_bounded(&self.answer.to_string_lossy(), 200)
        ));
        lines.join("\n")
    }
}

/// Why it was not done, or not all of it: one sentence with its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverError {
    message: String,
    exit: u8,
}

impl RecoverError {
    /// The answer's file could not be written, or is there already.
    fn not_written(message: String) -> Self {
        Self { message, exit: 73 }
    }

    /// The program's exit code for it: 73 when the answer could not be written or is there already, 1 otherwise.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        self.exit
    }
}

impl From<String> for RecoverError {
    fn from(message: String) -> Self {
        Self { message, exit: 1 }
    }
}

impl std::fmt::Display for RecoverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RecoverError {}

/// Why the catalog cannot be had. That a coordinator runs is not a failure of the catalog.
fn not_free(e: CatalogError) -> String {
    match e {
        CatalogError::Failed(why) => format!("nothing was done, because the catalog cannot be had: {why}"),
        other => other.to_string(),
    }
}

/// What keeps coordinators away while the log is written: one that runs would not hear of it.
enum Hold {
    /// A catalog in a file is held by whoever opened it.
    File(SqliteCatalog),
    /// In a database no coordinator starts meanwhile.
    Database(Alone),
}

impl Hold {
    /// Gives as well how long the catalog knows the deployment's log to be.
    async fn take(place: &CatalogPlace) -> Result<(Self, Option<Head>), CatalogError> {
        match place {
            CatalogPlace::File(path) => {
                let catalog = SqliteCatalog::open(path).await?;
                let known = known_head(&catalog).await?;
                Ok((Self::File(catalog), known))
            }
            CatalogPlace::Postgres(settings) => {
                // In another database than the coordinators' none would be seen.
                if !PostgresCatalog::is_there(settings).await? {
                    let place = settings.place();
                    return Err(CatalogError::Failed(format!("there is no catalog in {place}: check catalog.postgres")));
                }
                // Asked before: what works alone keeps everybody from the catalog. What came since is in the store, too.
                let catalog = PostgresCatalog::open(settings).await?;
                let known = known_head(&catalog).await;
                catalog.close().await;
                let known = known?;
                Ok((Self::Database(Alone::take(settings).await?), known))
            }
        }
    }

    async fn end(self) -> Result<(), String> {
        match self {
            Self::File(catalog) => {
                catalog.close().await;
                Ok(())
            }
            Self::Database(mut alone) => alone.confirm().await.map_err(|e| {
                format!("all was recorded, but while it was, this happened: {e}; a coordinator that started then may not know of it: stop it, and run the same command again")
            }),
        }
    }
}

async fn known_head(catalog: &dyn Catalog) -> Result<Option<Head>, CatalogError> {
    let known = catalog.published(LogName::Deployment.folder()).await?;
    Ok(known.map(|known| Head { size: known.size, root: known.root }))
}

/// Makes the person of a request an admin, and revokes the keys of others. No coordinator of the deployment may run: one that does
/// would not hear of it. It is refused then, and none starts meanwhile.
///
/// Order of writes: (1) enrolment, then revocations, into the deployment's log; (2) the answer's file. Died in between: the same
/// command does what is missing and makes the answer.
///
/// # Errors
/// [`RecoverError`]. Everything is checked before anything is written.
pub async fn run(config: &Config, options: &Options, now: Timestamp) -> Result<Recovered, RecoverError> {
    check_reason(&options.reason)?;
    if options.out.exists() {
        let file = escape_bounded(&options.out.to_string_lossy(), 200);
        return Err(RecoverError::not_written(format!("--out: {file} exists; name a new file")));
    }
    let deployment = Deployment::load(&config.resolve(&config.paths.deployment)).map_err(|e| e.to_string())?;
    let asked = Request::open(&options.request, &deployment.name).map_err(|e| e.to_string())?;
    let root = root_key(&options.root, &deployment.anchor).map_err(|e| format!("--root: {e}"))?;
    let issued = deployment.issuing.issue_person(&asked.tls_csr, (&asked.name, asked.key.id()), PERSON_LIFE, now);
    let issued = issued.map_err(|e| format!("REQUEST: tls_csr: {e}"))?;
    let place = config.catalog().map_err(|e| e.to_string())?;
    let (hold, known) = Hold::take(&place).await.map_err(not_free)?;
    let done = record_all(config, &deployment, (&asked, options), (&root, known), now).await;
    let ended = hold.end().await;
    let (revoked, chain, log_size) = done?;
    ended?;
    let tls: Vec<&[u8]> = issued.chain.iter().map(AsRef::as_ref).collect();
    let enrolments: Vec<&[u8]> = chain.iter().map(Envelope::as_bytes).collect();
    let host = config.names.first().map_or("localhost", String::as_str);
    let answer = Answer::new(&init::address(host, config.listen.port()), &tls, &deployment.tls_root, &enrolments);
    let bytes = person::to_file(&answer).map_err(|e| e.to_string())?;
    files::create(&options.out, &bytes, files::Access::Public)
        .map_err(|e| RecoverError::not_written(format!("--out: {e}; run the same command again")))?;
    Ok(Recovered { name: asked.name.to_string(), key: asked.key.id(), revoked, answer: options.out.clone(), log_size })
}

/// Step 1. Gives what is revoked, the enrolments that lead to the new key, and the log's size.
async fn record_all(
    config: &Config,
    deployment: &Deployment,
    (asked, options): (&Asked, &Options),
    (root, known): (&SigningKey, Option<Head>),
    now: Timestamp,
) -> Result<(Vec<Revoked>, Vec<Envelope>, u64), String> {
    let store = init::open_store(config, false)?;
    // Whoever opens a log takes the key by value; the deployment keeps its own.
    let keys = || -> Result<Keys, String> {
        let log = SigningKey::from_text(&deployment.log_key.to_text()).ok_or("the log key does not survive its own text")?;
        Ok(Keys { anchor: deployment.anchor.clone(), log, witnesses: Vec::new() })
    };
    // Nothing is added to a log that was put back to an older state.
    Ledger::open(Arc::clone(&store), LogName::Deployment, Arc::new(keys()?), known).await.map_err(|e| e.to_string())?;
    let ledgers = Ledgers::new(store, keys()?);
    let log = ledgers.deployment().await.map_err(|e| e.to_string())?;
    let ring = log.key_ring();
    let mut records = Vec::new();
    if !ring.holder(asked.key.id()).is_some_and(|(name, roles, _)| name == asked.name.to_string() && roles.contains(&Role::Admin)) {
        let enroller = Enroller { key: root, enrolment: None };
        records.push(enroller.enrol(&asked.name, asked.key, &[Role::Admin], "recovery", now).map_err(|e| e.to_string())?);
    }
    let mut revoked = Vec::new();
    for name in &options.revoke {
        let name = format!("spiffe://{}/responder/{name}", deployment.name);
        let keys: Vec<KeyId> = ring.keys_of(&name).into_iter().filter(|key| *key != asked.key.id()).collect();
        // One whose keys are all revoked is what an interrupted run left.
        if !ring.knows(&name) {
            return Err(format!("--revoke: nobody was ever enrolled as {name}"));
        }
        for key in keys {
            let predecessor = ring.enrolment_of(key).ok_or_else(|| format!("key {key} has no enrolment"))?;
            records.push(revocation(deployment, (key, predecessor), &options.reason, now, root)?);
            revoked.push(Revoked { name: name.clone(), key });
        }
    }
    log.append(records).await.map_err(|e| e.to_string())?;
    let chain = ledgers.chain_of(asked.key.id()).await.map_err(|e| e.to_string())?;
    Ok((revoked, chain, log.size()))
}

fn revocation(
    deployment: &Deployment,
    (key, predecessor): (KeyId, Digest),
    reason: &str,
    now: Timestamp,
    root: &SigningKey,
) -> Result<Envelope, String> {
    let record = Revocation { deployment: deployment.name.to_string(), key, predecessor, reason: reason.to_owned(), revoked_at: now };
    record::sign(&record, root).map_err(|e| e.to_string())
}

fn check_reason(reason: &str) -> Result<(), String> {
    written(reason, REASON_BYTES_MAX).map_err(|why| format!("--reason: {why}"))
}
