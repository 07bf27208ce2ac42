//! What a store can do beyond objects: versions, locks and what the bucket is set to. Hand-written requests, because
//! `object_store` has no calls for them; which ones says each cloud's dialect.
//!
//! Trust: the answers are the store's word. They are bounded and parsed, and never believed about content.

mod azure;
pub(super) mod credentials;
mod date;
mod dialect;
mod google;
mod listing;
mod look;
mod proof;
pub(super) mod refusal;
mod s3;
mod signing;
mod versions;
mod wordless;
mod xml;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::Timestamp;
use exhibit_evidence::text::escape_bounded;
use futures::TryStreamExt as _;
use http::Method;
use object_store::client::{HttpClient, HttpErrorKind, HttpRequest};
use tokio::time::Instant;

use super::encryption::{Encrypted, Encryption};
use super::lock::LockMode;
use super::patience::{self, Patience};
use super::{Kind, StoreError};
use crate::clock;
use credentials::NotGiven;
use dialect::{Ask, Dialect, Reply, Setting, Words, header};
use refusal::Said;

pub(super) use listing::ListingConnector;
pub(super) use look::Looked;
pub(super) use signing::{LockingConnector, Signer};
pub use versions::{Cursor, Version};

/// A page of 1,000 versions has half a megabyte, on Azure, which says more of each, one and a half; but whoever may write can make names
/// of 1,024 characters of which each is escaped with six.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Tries of one request within one call, with a second between them: all of these requests may be repeated.
const TRIES_MAX: usize = 3;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// What the bucket says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posture {
    /// Old versions are kept.
    pub versioned: bool,
    /// Versions can be locked: Object Lock, object retention or version-level immutability is on.
    pub lockable: bool,
}

/// The versions and locks of a bucket.
#[derive(Debug, Clone)]
pub struct Vault {
    pub(super) client: HttpClient,
    pub(super) signer: Signer,
    /// The bucket's URL without a slash at its end.
    pub(super) bucket: String,
    pub(super) prefix: String,
    pub(super) description: String,
    /// What the store is asked to encrypt objects with; S3 only.
    pub(super) encryption: Option<Encryption>,
    /// Time until the store begins to answer one request, and between two parts of its answer.
    pub(super) answers_within: Duration,
    /// Time until it begins to answer what asks for a page of the versions below a folder, where that is longer: after a first silence,
    /// and from then on once it needed longer.
    pub(super) lists_within: Duration,
    /// It needed longer for a page.
    pub(super) lists_slowly: Arc<AtomicBool>,
    /// That it did not answer was told, and it has not answered since.
    pub(super) silence_told: Arc<AtomicBool>,
    /// How long a call is waited for with all its tries, where that has an end of its own.
    pub(super) gives_up: Option<Arc<Patience>>,
}

impl Vault {
    /// Where it is; holds no secret.
    #[must_use]
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// The same, for one who asks with this patience.
    pub(super) fn asked_with(&self, patience: &Arc<Patience>) -> Self {
        Self { gives_up: Some(Arc::clone(patience)), ..self.clone() }
    }

    fn dialect(&self) -> &'static dyn Dialect {
        self.signer.dialect()
    }

    /// Words for people, by whose store it is.
    pub(super) fn words(&self) -> &'static Words {
        self.dialect().words()
    }

    /// True when the store says of an object what it is encrypted with.
    pub(super) const fn tells_encryption(&self) -> bool {
        matches!(self.signer, Signer::S3 { .. })
    }

    fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    fn request(&self, path: &str, ask: &Ask) -> Result<HttpRequest, StoreError> {
        let pairs = ask.query.iter().map(|(k, v)| format!("{}={}", dialect::encoded(k, ""), dialect::encoded(v, "")));
        let query = pairs.collect::<Vec<String>>().join("&");
        let mut builder = http::Request::builder().method(ask.method.clone()).uri(format!("{}{path}?{query}", self.bucket));
        for (name, value) in &ask.headers {
            builder = builder.header(*name, value.as_str());
        }
        builder.body(ask.body.clone().into()).map_err(|e| StoreError::bug(format!("a request to the store: {e}")))
    }

    /// One request about an object, or about what lies `below` the bucket, repeated within bounds while the store or the way to
    /// it is disturbed.
    async fn ask(&self, tried: &str, name: Option<&str>, below: &str, ask: Ask) -> Result<Reply, StoreError> {
        let path = name.map_or_else(|| below.to_owned(), |name| self.dialect().path(&self.key(name)));
        let answer = Box::pin(self.repeated(tried, name, &path, &ask));
        let answer = match &self.gives_up {
            Some(patience) => patience.answer(&format!("{tried} {}", self.place(name)), answer).await,
            None => answer.await,
        };
        answer.map_err(|e| e.asked(tried))
    }

    async fn repeated(&self, tried: &str, name: Option<&str>, path: &str, ask: &Ask) -> Result<Reply, StoreError> {
        let (mut tries, begun) = (0, Instant::now());
        loop {
            tries += 1;
            // What gives out the credentials is asked again within this already.
            let request = self.signed(path, ask).await?;
            let within = self.begins_within(ask, tries);
            match self.once(tried, name, request, within, ask).await {
                // Once in any case: the log says so. Whoever is refused is refused again.
                Err(e) if e.is_passing() && tries < TRIES_MAX && (tries < 2 || begun.elapsed() < self.lists_within) => {
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                Err(e) if e.is_wordless() && ask.method == Method::HEAD => return self.in_words(tried, name, path, ask).await,
                other => return other,
            }
        }
    }

    /// A request that was lost is soon repeated; only then a page is waited for longer.
    fn begins_within(&self, ask: &Ask, tries: usize) -> Duration {
        let is_patient = ask.lists && (tries > 1 || self.lists_slowly.load(Ordering::Acquire));
        if is_patient { self.lists_within.max(self.answers_within) } else { self.answers_within }
    }

    async fn signed(&self, path: &str, ask: &Ask) -> Result<HttpRequest, StoreError> {
        let mut request = self.request(path, ask)?;
        let signed = self.signer.sign(&mut request).await;
        signed.map_err(|e| NotGiven::of(&e).told(&format!("sign a request to {}", self.description)))?;
        Ok(request)
    }

    /// What a request is about, in words.
    fn place(&self, name: Option<&str>) -> String {
        match name {
            Some(name) => format!("'{}' in {}", escape_bounded(name, 200), self.description),
            None => self.description.clone(),
        }
    }

    /// The error of a request that was not answered, or not to its end, in the words of `how`; the first one in a row is told at once,
    /// because it is tried again.
    fn unanswered(&self, how: fn(&str, Duration) -> StoreError, asked: &str, within: Duration) -> StoreError {
        let silent = how(asked, within);
        if !self.silence_told.swap(true, Ordering::AcqRel) {
            tracing::warn!(why = %silent, "waiting: it is tried again");
        }
        silent
    }

    /// Sends a request, which the store is to begin to answer within this time.
    async fn once(&self, tried: &str, name: Option<&str>, request: HttpRequest, within: Duration, ask: &Ask) -> Result<Reply, StoreError> {
        let place = || self.place(name);
        let away = |why: String| {
            let why = escape_bounded(&why, 400);
            StoreError::new(Kind::Retry, format!("could not {tried} {}: {why}", place()), "check the way to the store; it is tried again")
        };
        let (asked, sent) = (|| format!("{tried} {}", place()), Instant::now());
        let begun = tokio::time::timeout(within, self.client.execute(request)).await;
        let Ok(reply) = begun else { return Err(self.unanswered(patience::silent, &asked(), within)) };
        let is_late = within > self.answers_within && sent.elapsed() > self.answers_within;
        let reply = reply.map_err(|e| match e.kind() {
            HttpErrorKind::Decode => StoreError::new(Kind::Denied, format!("could not {tried} {}: {e}", place()), self.is_it()),
            _ => away(e.to_string()),
        })?;
        let (parts, body) = reply.into_parts();
        if is_late && parts.status.is_success() {
            self.lists_slowly.store(true, Ordering::Release);
        }
        if ask.right.is_some() && parts.status.is_success() && look::is_of_object(&parts.headers, &ask.etag) {
            return Ok(Reply::none(parts.headers));
        }
        let (mut out, mut stream) = (Vec::new(), body.bytes_stream());
        loop {
            let next = tokio::time::timeout(self.answers_within, stream.try_next()).await;
            let Ok(chunk) = next else { return Err(self.unanswered(patience::stopped, &asked(), self.answers_within)) };
            let Some(chunk) = chunk.map_err(|e| away(e.to_string()))? else { break };
            if out.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
                return Err(StoreError::new(
                    Kind::Damaged,
                    format!("could not {tried} {}: an endless answer", place()),
                    "use another store",
                ));
            }
            out.extend_from_slice(&chunk);
        }
        self.silence_told.store(false, Ordering::Release);
        if parts.status.is_success() {
            return Ok(Reply::new(parts.headers, Bytes::from(out)));
        }
        let misplaced = refusal::misplaced(&ask.method, parts.status, &parts.headers, self.signer.region());
        let said = misplaced.unwrap_or_else(|| {
            let (code, message) = self.dialect().said(&parts.headers, &out);
            Said { code, message, is_expired: refusal::is_expired(&out) }
        });
        let status = parts.status.as_u16();
        if ask.right.is_some() && self.dialect().lacks(status, &said) {
            return Ok(Reply::none(parts.headers));
        }
        if ask.right.is_some() && look::is_page(status, &said) {
            return Err(look::unsaid(&format!("could not {}", asked()), status));
        }
        let refused = self.refusal((status, &said), &format!("could not {}", asked()), name, ask.right);
        // Where something was to be changed no other refusal of a proxy or a firewall may pass for one of the store either.
        let changes = ask.method != Method::HEAD && ask.method != Method::GET;
        Err(if changes { refusal::by_code(refused, Some(status), &said) } else { refused })
    }

    /// What the store says that an object is encrypted with; S3 only.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such object.
    pub async fn encryption_of(&self, name: &str) -> Result<Encrypted, StoreError> {
        let reply = self.ask("look at the encryption of", Some(name), "", Ask::new(Method::HEAD)).await?;
        let text = |key: &str| header(&reply.headers, key).to_owned();
        Ok(Encrypted {
            with: text("x-amz-server-side-encryption"),
            key: text("x-amz-server-side-encryption-aws-kms-key-id"),
            bucket_key: text("x-amz-server-side-encryption-bucket-key-enabled").eq_ignore_ascii_case("true"),
        })
    }

    /// What the configuration asks for.
    #[must_use]
    pub const fn encryption(&self) -> Option<&Encryption> {
        self.encryption.as_ref()
    }

    /// Sets mode and end of one version's retention. `bypass` asks the store to let governance be weakened: only
    /// [`super::check`] does, to see that it is refused.
    ///
    /// # Errors
    /// [`Kind::Denied`] when the store refuses.
    pub async fn retain(&self, name: &str, version: &str, mode: LockMode, until: Timestamp, bypass: bool) -> Result<(), StoreError> {
        let ask = self.dialect().retain(version, mode, until, bypass);
        self.ask("set the retention of", Some(name), "", ask).await.map(|_| ())
    }

    /// Sets or takes off the legal hold of one version.
    ///
    /// # Errors
    /// [`Kind::Denied`] when the store refuses.
    pub async fn hold(&self, name: &str, version: &str, on: bool) -> Result<(), StoreError> {
        self.ask("set the legal hold of", Some(name), "", self.dialect().hold(version, on)).await.map(|_| ())
    }

    /// Deletes one version, or, without one, asks that what is newest be no longer seen. One that is not there is success.
    ///
    /// # Errors
    /// [`Kind::Denied`] when the store refuses, because of a lock for example.
    pub(super) async fn delete(&self, name: &str, version: Option<&str>) -> Result<(), StoreError> {
        gone_is_done(self.try_delete(name, version, false).await)
    }

    /// The same; with `bypass` also what governance locks, as far as the store lets itself be asked for that.
    ///
    /// # Errors
    /// As [`Vault::delete`], and [`Kind::NotFound`] when the store says that it is not there.
    pub(super) async fn try_delete(&self, name: &str, version: Option<&str>, bypass: bool) -> Result<(), StoreError> {
        if let Some(ask) = version.filter(|_| bypass).and_then(|version| self.dialect().unlock(version)) {
            // Whether it was refused, the deletion shows; not so where nobody came to say whether it may be done, or said it without a word.
            if let Err(e) = self.ask("take the retention off", Some(name), "", ask).await
                && (e.says_nothing() || e.is_wordless())
            {
                return Err(e);
            }
        }
        match (self.delete_once(name, version, bypass).await, version) {
            (Err(e), Some(version)) if self.dialect().refuses_current(e.message()) => self.delete_current(name, version).await,
            (done, _) => done,
        }
    }

    async fn delete_once(&self, name: &str, version: Option<&str>, bypass: bool) -> Result<(), StoreError> {
        self.ask("delete", Some(name), "", self.dialect().delete(version, bypass)).await.map(|_| ())
    }

    /// Where the current version cannot be deleted by its id it is made an older one first. Not when it is locked: a deletion
    /// that will be refused must not hide anything.
    async fn delete_current(&self, name: &str, version: &str) -> Result<(), StoreError> {
        let seen = self.lock_of(name, version).await?;
        if seen.hold || seen.until.is_some_and(|until| until > clock::now()) {
            let message = format!("could not delete '{}' in {}: it is locked: {seen}", escape_bounded(name, 200), self.description);
            return Err(StoreError::new(Kind::Denied, message, "wait until its day, or for the release of its hold"));
        }
        gone_is_done(self.delete_once(name, None, false).await)?;
        self.delete_once(name, Some(version), false).await
    }

    /// What the bucket says of its versions and its lock.
    ///
    /// # Errors
    /// [`Kind::Denied`] when it may not be asked.
    pub async fn posture(&self) -> Result<Posture, StoreError> {
        let versioned = self.is_on(Setting::Versions, "ask for the versioning of").await?;
        let lockable = match self.is_on(Setting::Locks, "ask for the lock of").await {
            // S3 says 404 ObjectLockConfigurationNotFoundError where there is none.
            Err(e) if e.kind() == Kind::NotFound => false,
            other => other?,
        };
        Ok(Posture { versioned, lockable })
    }

    async fn is_on(&self, what: Setting, tried: &str) -> Result<bool, StoreError> {
        let reply = self.ask(tried, None, "", self.dialect().setting(what)).await?;
        self.read(self.dialect().is_on(what, &reply))
    }

    /// The error of a put with a lock in a bucket that has none; `None` when it has, or is not to be asked.
    pub(super) async fn cannot_lock(&self, name: &str) -> Option<StoreError> {
        let posture = self.posture().await.ok()?;
        let message = format!("could not lock '{}' in {}", escape_bounded(name, 200), self.description);
        (!posture.versioned || !posture.lockable).then(|| StoreError::new(Kind::Denied, message, self.words().cannot_lock))
    }

    fn is_it(&self) -> String {
        format!("is this a store of the kind that store.kind names ({})?", self.words().cloud)
    }

    fn read<T>(&self, answer: Result<T, String>) -> Result<T, StoreError> {
        answer.map_err(|why| {
            let (cloud, why) = (self.words().cloud, escape_bounded(&why, 200));
            StoreError::new(
                Kind::Denied,
                format!("{} answers with what is not an answer of {cloud}: {why}", self.description),
                self.is_it(),
            )
        })
    }

    /// An error answer of the store, in our kinds.
    fn refusal(&self, (status, said): (u16, &Said), tried: &str, name: Option<&str>, right: Option<&str>) -> StoreError {
        let message = format!("{tried}: {status} {} {}", escape_bounded(&said.code, 80), escape_bounded(&said.message, 300));
        let message = message.trim_end().to_owned();
        if let Some(told) = refusal::of_said(said, Some(status), &message) {
            return told;
        }
        match status {
            404 if matches!(said.code.as_str(), "NoSuchBucket" | "ContainerNotFound") => {
                StoreError::new(Kind::Denied, message, "check bucket or container, account, region and endpoint in [store]")
            }
            404 => {
                name.map_or_else(|| StoreError::new(Kind::NotFound, message.clone(), "it is not set on the bucket"), StoreError::not_found)
            }
            501 => {
                let remedy = format!("this store lacks a call of {}: docs/operations/stores.md says which are needed", self.words().cloud);
                StoreError::new(Kind::Denied, message, remedy)
            }
            408 | 429 | 500..=599 => StoreError::new(Kind::Retry, message, "check the store; it is tried again"),
            _ => {
                let remedy = match right {
                    Some(right) => format!("give the credentials the right {right}: {}", self.words().use_policy),
                    None => "compare what the credentials may do with docs/operations/stores.md".to_owned(),
                };
                let denied = StoreError::new(Kind::Denied, message, remedy);
                if matches!(status, 400 | 403) && said.code.is_empty() { denied.wordless() } else { denied }
            }
        }
    }
}

/// What is not there needs not be deleted.
fn gone_is_done(deleted: Result<(), StoreError>) -> Result<(), StoreError> {
    match deleted {
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        other => other,
    }
}
