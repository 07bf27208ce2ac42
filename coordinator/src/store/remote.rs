//! The store on S3 and everything that `object_store` reaches: one adapter, the same contract.

mod beneath;
mod known;
mod over;
mod strangers;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use exhibit_evidence::{CaseId, Digest};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use known::Known;

use super::attest::Attestable;
use super::foreign::Foreign;
use super::lock::{Lock, Locks, Protection, is_replaced};
use super::settings::RemoteSettings;
use super::vault::credentials::NotGiven;
use super::vault::{Vault, Version, refusal};
use super::{
    Answer, Entry, Kind, OBJECT_BYTES_MAX, PAGE_ENTRIES_MAX, PROBE_HEAD, PROBE_PLACE, PROBE_SLOT, Page, Payload, Store, StoreError, Stored,
    Trouble, check_name, digest_of,
};
use crate::clock;

/// Pages of versions of one name that are destroyed in one call: a million versions.
const DESTROY_ROUNDS_MAX: usize = 1_000;
/// Troubles that wait to be asked for; more are dropped, because the log has them already.
const TROUBLES_MAX: usize = 100;
/// What listings try.
const LIST: &str = "list";
/// What helps where a listing is refused.
const MAY_LIST: &str = "check that the credentials may list (s3:ListBucket on the bucket itself; on Google storage.objects.list, on Azure blobs/read): docs/operations/stores.md";
/// Folders that are told of, for each kind of trouble; of more the daily look at every version tells.
const TOLD_UNLOCKED_MAX: usize = 4_096;
/// The kind of a lock that is not as it should be.
const UNLOCKED: &str = "store-lock";

/// A store behind `object_store`.
#[derive(Debug, Clone)]
pub struct RemoteStore {
    inner: Arc<dyn ObjectStore>,
    prefix: String,
    description: String,
    /// Versions and locks, where the store has them.
    vault: Option<Vault>,
    /// What every object is locked by, when it is.
    locks: Option<Arc<Locks>>,
    known: Arc<Mutex<Known>>,
    troubles: Arc<Mutex<Vec<Trouble>>>,
    /// Folders of which it was told that an object could not be locked, and those of which it was told that its lock may not be read.
    told_unlocked: Arc<Mutex<HashMap<&'static str, HashSet<String>>>>,
    /// What listings leave out.
    foreign: Arc<Foreign>,
}

impl RemoteStore {
    /// Any store of the `object_store` crate that honours `PutMode::Create` and is strongly consistent.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: &str, description: &str) -> Self {
        Self {
            inner,
            prefix: prefix.to_owned(),
            description: description.to_owned(),
            vault: None,
            locks: None,
            known: Arc::default(),
            troubles: Arc::default(),
            told_unlocked: Arc::default(),
            foreign: Arc::default(),
        }
    }

    /// A store in memory, for tests: gone with the process.
    #[cfg(any(test, feature = "test-support"))]
    #[must_use]
    pub fn memory() -> Self {
        Self::new(Arc::new(object_store::memory::InMemory::new()), "", "memory")
    }

    /// The store that the settings name. Nothing is sent yet: [`super::self_test`] finds out whether it works.
    ///
    /// # Errors
    /// [`Kind::Denied`] when the settings do not make a client.
    pub fn open(settings: &RemoteSettings) -> Result<Self, StoreError> {
        let built = settings.build()?;
        let store = Self::new(built.inner, &settings.prefix, &built.description);
        let holds_heads = built.vault.as_ref().is_some_and(|vault| !vault.words().hold_keeps_name);
        let locks = settings.lock.map(|policy| Arc::new(Locks::new(policy, holds_heads)));
        Ok(Self { vault: built.vault, locks, foreign: built.foreign, ..store })
    }

    fn path(&self, name: &str) -> Path {
        match (self.prefix.is_empty(), name.is_empty()) {
            (true, _) => Path::from(name),
            (false, true) => Path::from(self.prefix.as_str()),
            (false, false) => Path::from(format!("{}/{name}", self.prefix)),
        }
    }

    /// Our name of an object of the store; `None` for what lies outside the prefix.
    fn name(&self, path: &Path) -> Option<String> {
        let text: &str = path.as_ref();
        let rest = if self.prefix.is_empty() { text } else { text.strip_prefix(&self.prefix)?.strip_prefix('/')? };
        Some(rest.to_owned())
    }

    fn map(&self, e: &object_store::Error, tried: &str, name: &str) -> StoreError {
        if let Some(why) = NotGiven::in_error(e) {
            return why.told(&format!("{tried} '{name}' in {}", self.description));
        }
        let error = e.to_string();
        let message = format!("could not {tried} '{name}' in {}: {}", self.description, refusal::shown(&error));
        if let Some(told) = refusal::of_error(&error, &message) {
            return told;
        }
        refusal::by_code_in(&error, by_type(e, &error, message, (tried, name))).asked(tried)
    }

    async fn read(&self, name: &str, range: Option<Range<u64>>, bytes_max: u64) -> Result<Bytes, StoreError> {
        if let Some(range) = &range {
            if range.is_empty() {
                self.head(name).await?;
                return Ok(Bytes::new());
            }
            if range.end - range.start > bytes_max {
                return Err(StoreError::bug(format!("a read of bytes {}..{} of '{name}'", range.start, range.end)));
            }
        }
        let version = self.known().version_of(name);
        match self.read_version(name, version, range.clone(), bytes_max).await {
            Err(e) if e.kind() == Kind::NotFound => match self.look_beneath(name).await? {
                Some(hidden) => self.read_version(name, Some(hidden), range, bytes_max).await,
                None => Err(e),
            },
            read => read,
        }
    }

    async fn read_version(
        &self,
        name: &str,
        version: Option<String>,
        range: Option<Range<u64>>,
        bytes_max: u64,
    ) -> Result<Bytes, StoreError> {
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), version, ..GetOptions::default() };
        let result = match self.inner.get_opts(&self.path(name), options).await {
            Ok(result) => result,
            Err(e) => {
                let mapped = self.map(&e, "read", name);
                // A store says "range not satisfiable" in its own way: ask it for the size to tell a cut object from trouble.
                if let (Some(range), Kind::Retry) = (&range, mapped.kind())
                    && let Ok(size) = self.head(name).await
                    && range.end > size
                {
                    return Err(too_short(name, size, range.end));
                }
                return Err(mapped);
            }
        };
        let size = result.meta.size;
        let wanted = range.as_ref().map_or(size, |r| r.end - r.start);
        if wanted > bytes_max {
            return Err(StoreError::new(
                Kind::Damaged,
                format!("'{name}' has {size} bytes, at most {bytes_max} are expected"),
                "the object was replaced: look at its versions",
            ));
        }
        // Chunk by chunk, so that a store that lies about the size cannot fill the memory.
        let mut out = Vec::with_capacity(wanted as usize);
        let mut stream = result.into_stream();
        while let Some(chunk) = stream.try_next().await.map_err(|e| self.map(&e, "read", name))? {
            if (out.len() as u64).saturating_add(chunk.len() as u64) > wanted {
                return Err(StoreError::new(
                    Kind::Damaged,
                    format!("'{name}': the store sent more than the {wanted} bytes asked for"),
                    "use another store",
                ));
            }
            out.extend_from_slice(&chunk);
        }
        if (out.len() as u64) < wanted {
            return Err(too_short(name, size.min(out.len() as u64), wanted));
        }
        Ok(Bytes::from(out))
    }

    async fn head(&self, name: &str) -> Result<u64, StoreError> {
        let version = self.known().version_of(name);
        match self.look(name, version).await {
            Err(e) if e.kind() == Kind::NotFound => match self.look_beneath(name).await? {
                Some(hidden) => Ok(self.look(name, Some(hidden)).await?.size),
                None => Err(e),
            },
            looked => Ok(looked?.size),
        }
    }

    /// The size of what a reader gets: of an object under another version the listing has that one's.
    async fn listed_size(&self, name: &str, listed: u64) -> Result<u64, StoreError> {
        if !self.known().is_covered(name) {
            return Ok(listed);
        }
        match self.head(name).await {
            Err(e) if e.kind() == Kind::NotFound => Ok(listed),
            other => other,
        }
    }

    async fn look(&self, name: &str, version: Option<String>) -> Result<ObjectMeta, StoreError> {
        let path = self.path(name);
        let options = GetOptions { head: true, version: version.clone(), ..GetOptions::default() };
        let refused = match self.inner.get_opts(&path, options).await {
            Ok(result) => return Ok(result.meta),
            Err(e) => e,
        };
        let mapped = self.map(&refused, "look at", name);
        if !is_wordless(&refused) {
            return Err(mapped);
        }
        // An answer to HEAD has no body. One byte is asked for, because that answer says whether it is who asks that is refused; what it
        // does not say either is no word on the object.
        let options = GetOptions { range: Some(GetRange::Bounded(0..1)), version, ..GetOptions::default() };
        let Some(said) = self.inner.get_opts(&path, options).await.err().filter(|e| !is_wordless(e)) else {
            return Err(refusal::unclear(mapped.message()));
        };
        let said = self.map(&said, "look at", name);
        Err(if said.says_nothing() && said.needs_a_person() { said } else { mapped })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock that a version written now is to have.
    fn lock_now(&self, name: &str) -> Option<Lock> {
        // The probes of every start are no evidence.
        self.locks.as_ref().filter(|_| !matches!(name, PROBE_HEAD | PROBE_SLOT | PROBE_PLACE)).map(|locks| locks.of(name, clock::now()).0)
    }

    /// Reads the lock of a version back, sets what it lacks, and reads it again. The store's answer to a put does not say
    /// whether it took the lock.
    async fn ensure_locked(&self, name: &str, version: Option<&str>, want: &Lock) -> Result<(), StoreError> {
        let done = match (&self.vault, version) {
            (Some(vault), Some(version)) => super::attest::ensure(vault, name, version, want, 1).await.map(|_| ()),
            (vault, _) => Err(StoreError::new(
                Kind::Denied,
                format!("{}: '{name}' was written and has no version, so nothing locks it", self.description),
                vault.as_ref().map_or("this store cannot lock: use another one", |vault| vault.words().cannot_lock),
            )),
        };
        if let Err(e) = &done
            && e.kind() != Kind::Retry
        {
            let kind = if e.is_unread() { super::attest::UNATTESTED } else { UNLOCKED };
            if self.is_news(kind, name) {
                self.note_trouble(kind, name, e.to_string());
            }
        }
        done
    }

    /// Whether to tell that an object could not be locked. What is told becomes a record, which cannot be locked either: so of each
    /// part of a log, and of each stream, it is told once in the life of a process. That a lock may not be read is given to whoever tells it
    /// as often as it happens: the catalog knows whether it was told, and whether it could be read since.
    fn is_news(&self, kind: &'static str, name: &str) -> bool {
        if kind == super::attest::UNATTESTED {
            let (subject, troubles) = (self.subject(name), self.troubles.lock().unwrap_or_else(PoisonError::into_inner));
            return !troubles.iter().any(|trouble| trouble.kind == kind && trouble.subject == subject);
        }
        let mut told = self.told_unlocked.lock().unwrap_or_else(PoisonError::into_inner);
        // Each kind by itself: that locks cannot be read is not to leave unsaid that one is missing.
        let of_kind = told.entry(kind).or_default();
        of_kind.len() < TOLD_UNLOCKED_MAX && of_kind.insert(kept_with(name))
    }

    /// One subject for all objects of a case: where nothing can be locked, each of them says so.
    fn subject(&self, name: &str) -> String {
        super::attest::case_of(name).unwrap_or_else(|| self.description.clone())
    }

    fn note_trouble(&self, kind: &'static str, name: &str, detail: String) {
        self.note(Trouble { kind, subject: self.subject(name), detail });
    }

    fn note(&self, trouble: Trouble) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.len() < TROUBLES_MAX {
            troubles.push(trouble);
        }
    }

    /// Writes an object again under its name.
    async fn replace(&self, name: &str, content: Bytes) -> Result<(), StoreError> {
        // Its versions are locked as well: the heads that were signed once stay, whoever deletes or overwrites. They are
        // not read back one by one, because attestation looks at the newest and the records under them are locked each.
        let options = locked(self.lock_now(name));
        self.inner.put_opts(&self.path(name), content.into(), options).await.map_err(|e| self.map(&e, "replace", name))?;
        self.known().forget_hidden(name);
        Ok(())
    }

    /// One page of what is seen without naming versions.
    async fn seen(&self, folder: &str, after: Option<&str>) -> Result<Page, StoreError> {
        let prefix = self.path(folder);
        if after.is_none() {
            self.foreign.forget_below(&self.key_below(folder));
        }
        let mut stream = match after {
            Some(after) => self.inner.list_with_offset(Some(&prefix), &self.path(after)),
            None => self.inner.list(Some(&prefix)),
        };
        let mut entries = Vec::new();
        while let Some(meta) = stream.try_next().await.map_err(|e| self.map(&e, LIST, folder))? {
            if entries.len() == PAGE_ENTRIES_MAX {
                return Ok(Page { entries, more: true });
            }
            if let Some(name) = self.name(&meta.location).filter(|name| self.can_be_ours(name)) {
                let size = self.listed_size(&name, meta.size).await?;
                entries.push(Entry { name, size, modified: beneath::modified(&meta) });
            }
        }
        Ok(Page { entries, more: false })
    }

    /// Takes a hold off a head that is never to have one; false when there was none, or it stays. Attestation does the same, but a log
    /// is not to stand still until then.
    async fn free_head(&self, name: &str) -> bool {
        let may = self.locks.as_ref().is_some_and(|locks| is_replaced(name) && locks.bears_no_hold(name));
        let Some(vault) = self.vault.as_ref().filter(|_| may) else { return false };
        let Some(version) = self.look(name, None).await.ok().and_then(|there| there.version) else { return false };
        // Whatever cannot be read of its retention.
        let is_held = vault.read_lock(name, &version, false).await.is_ok_and(|looked| looked.seen.hold);
        if !is_held || vault.hold(name, &version, false).await.is_err() {
            return false;
        }
        let detail =
            format!("'{name}' had a legal hold and could not be replaced; it was taken off (docs/operations/stores.md says what to do)");
        self.note_trouble(UNLOCKED, name, detail);
        true
    }

    /// Clouds have words of their own for a lock that they cannot give; so the bucket is asked.
    async fn why_not_locked(&self, lock: Option<Lock>, name: &str) -> Option<StoreError> {
        match (&self.vault, lock) {
            (Some(vault), Some(_)) => vault.cannot_lock(name).await,
            _ => None,
        }
    }

    /// Deletes every version by its id. With a marker alone, what was to be destroyed would still be there.
    async fn destroy_versions(&self, vault: &Vault, name: &str) -> Result<(), StoreError> {
        let mut left = vault.versions_of(name).await?;
        let mut rounds = 0;
        // Each round takes a page of them, which need not be a full one: what counts is that what was deleted does not come again.
        while !left.is_empty() {
            for version in &left {
                // Where versions were never kept the one that there is has the id "null".
                let id = Some(version.version.as_str()).filter(|id| *id != "null");
                vault.delete(name, id).await?;
            }
            let tried: HashSet<String> = left.into_iter().map(|version| version.version).collect();
            left = vault.versions_of(name).await?;
            rounds += 1;
            if rounds > DESTROY_ROUNDS_MAX || left.iter().any(|version| tried.contains(&version.version)) {
                return Err(StoreError::new(
                    Kind::Denied,
                    format!("'{name}' is still in {} after it was deleted", self.description),
                    "look for a lock or a retention of the store itself on this object",
                ));
            }
        }
        Ok(())
    }

    /// Order: 1. one create-only PUT with its SHA-256 and its lock, durable when answered. 2. If the name is taken, the
    /// content that is there is read back whole and hashed: our own earlier try (sent, stored, answer lost) is success.
    /// 3. The lock is read back by the version's id, and set where it is missing.
    ///
    /// Died between 1 and 3: the put is repeated, and 2 leads to 3 again; what nobody repeats attestation finds.
    async fn create(&self, name: &str, content: Payload, sha256: Digest) -> Result<Stored, StoreError> {
        let size = content.content_length() as u64;
        let lock = self.lock_now(name);
        let options = PutOptions { mode: PutMode::Create, ..locked(lock) };
        let stored = match self.inner.put_opts(&self.path(name), content, options).await {
            Ok(result) => Stored { existed: false, version: result.version },
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                let there = match self.look(name, None).await {
                    // Azure also says "conflict" of what it cannot do.
                    Err(e) if e.kind() == Kind::NotFound => return Err(self.why_not_locked(lock, name).await.unwrap_or(e)),
                    other => other?,
                };
                if there.size != size {
                    return Err(StoreError::conflict(name));
                }
                let bytes = self.read_version(name, there.version.clone(), None, size).await?;
                if Digest::of(&bytes) != sha256 {
                    return Err(StoreError::conflict(name));
                }
                Stored { existed: true, version: there.version }
            }
            Err(e) => {
                let mapped = self.map(&e, "create", name);
                let refused = mapped.kind() == Kind::Retry && is_refused(&said(&e.to_string()));
                let why = if refused { self.why_not_locked(lock, name).await } else { None };
                return Err(why.unwrap_or(mapped));
            }
        };
        if let Some(lock) = lock {
            self.ensure_locked(name, stored.version.as_deref(), &lock).await?;
        }
        // Reading by version is a right of its own (s3:GetObjectVersion), which whoever asks for locks has given.
        if let (Some(_), Some(version)) = (&self.locks, stored.version.clone()) {
            self.known().note_written(name, version);
        }
        Ok(stored)
    }
}

/// What an object is told together with: the part of a log, like `deployment/log/seq`, or the folder of a stream.
fn kept_with(name: &str) -> String {
    if let Some((folder, rest)) = name.split_once("/log/") {
        let part = rest.split('/').next().unwrap_or_default();
        return format!("{folder}/log/{part}");
    }
    name.rsplit_once('/').map_or(name, |(folder, _)| folder).to_owned()
}

fn locked(lock: Option<Lock>) -> PutOptions {
    let mut options = PutOptions::default();
    if let Some(lock) = lock {
        options.extensions.insert(Arc::new(lock));
    }
    options
}

fn too_short(name: &str, size: u64, end: u64) -> StoreError {
    StoreError::new(Kind::Damaged, format!("'{name}' has {size} bytes, {end} are expected"), "the object was cut: look at its versions")
}

/// Status and words of the store, in lower case. Only what follows the status is the store's; before it stand names and
/// addresses, which may hold any word or number.
fn said(error: &str) -> String {
    error.split_once("status code: ").map_or(error, |(_, said)| said).to_lowercase()
}

/// The store says that the bucket is not there, or on Azure the container. It does so with the status of an absent object,
/// and to HEAD, whose answer has no body, with nothing else.
fn is_without_bucket(said: &str) -> bool {
    said.contains("<code>nosuchbucket</code>") || said.contains("<code>containernotfound</code>")
}

/// The store looked at the request and does not do it.
fn is_refused(said: &str) -> bool {
    said.starts_with('4') || said.starts_with("501")
}

/// The error by its type, where it is not about who asks.
fn by_type(e: &object_store::Error, error: &str, message: String, (tried, name): (&str, &str)) -> StoreError {
    use object_store::Error as E;
    match e {
        // A bucket that is not there is no absence of the object.
        E::NotFound { .. } if !is_without_bucket(&said(error)) => StoreError::not_found(name),
        E::AlreadyExists { .. } => StoreError::conflict(name),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => StoreError::new(
            Kind::Denied,
            message,
            "check the credentials and what they may do: read, write and list; delete only where disposal is meant to work",
        ),
        E::NotImplemented { .. } | E::NotSupported { .. } | E::UnknownConfigurationKey { .. } => {
            StoreError::new(Kind::Denied, message, "this store lacks something that is needed: use another one")
        }
        E::InvalidPath { .. } | E::JoinError { .. } => StoreError::bug(message),
        _ if tried == LIST => refused_listing(error, &message).unwrap_or_else(|| generic(error, message)),
        _ => generic(error, message),
    }
}

/// An error without a type of its own: status and words of the store are all there is.
fn generic(error: &str, message: String) -> StoreError {
    let said = said(error);
    let holds = |words: &[&str]| words.iter().any(|w| said.contains(w));
    if said.starts_with("507") || holds(&["insufficientstorage", "quotaexceeded", "quota exceeded", "xminiostoragefull", "no space left"]) {
        return StoreError::new(Kind::Full, message, "free space in the store or raise its quota");
    }
    if holds(&["missing object lock configuration", "missing objectlockconfiguration"]) {
        return StoreError::new(
            Kind::Denied,
            message,
            "store.lock is set and the bucket has no Object Lock: switch it on, or make a bucket that has it (docs/operations/stores.md)",
        );
    }
    if is_without_bucket(&said) {
        return StoreError::new(
            Kind::Denied,
            message,
            "there is no such bucket (on Azure: container): make it, or correct bucket, account, region and endpoint in [store] of the configuration",
        );
    }
    if holds(&["invalidbucketname", "permanentredirect", "authorizationheadermalformed"]) {
        return StoreError::new(Kind::Denied, message, "check bucket, region and endpoint in [store] of the configuration");
    }
    StoreError::new(Kind::Retry, message, "check the way to the store; the same call is repeated")
}

/// A refusal without a word of the store itself: what gives out its credentials is told by its own.
fn is_wordless(e: &object_store::Error) -> bool {
    NotGiven::in_error(e).is_none() && refusal::is_wordless(&e.to_string())
}

/// The error of a listing that the store refuses, which has no type of its own either: only its status tells it from one that is
/// disturbed. None of one that is; where [`generic`] knows better, in its words.
fn refused_listing(error: &str, message: &str) -> Option<StoreError> {
    let status = refusal::status(error).filter(|status| (400..500).contains(status) && !matches!(status, 408 | 429))?;
    let told = generic(error, message.to_owned());
    // In these words S3 says "too slow", which others say with the status 408.
    if told.kind() != Kind::Retry || said(error).contains("<code>requesttimeout</code>") {
        return Some(told);
    }
    let remedy = if status == 403 { MAY_LIST } else { "compare [store] of the configuration with docs/operations/stores.md" };
    Some(StoreError::new(Kind::Denied, message, remedy))
}

impl Store for RemoteStore {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn put_new<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        Box::pin(async move {
            check_name(name)?;
            debug_assert_eq!(digest_of(&content), sha256, "the caller's digest of {name}");
            self.create(name, content, sha256).await
        })
    }

    fn put_head<'a>(&'a self, name: &'a str, content: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            check_name(name)?;
            if content.len() > 65_536 {
                return Err(StoreError::bug(format!("a replaceable object of {} bytes: at most 65536 are allowed", content.len())));
            }
            let done = self.replace(name, content.clone()).await;
            let is_refused = done.as_ref().is_err_and(|e| e.kind() != Kind::Retry);
            if is_refused && self.free_head(name).await {
                return self.replace(name, content).await;
            }
            done
        })
    }

    fn get<'a>(&'a self, name: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        Box::pin(async move {
            check_name(name)?;
            self.read(name, None, bytes_max).await
        })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> Answer<'a, Bytes> {
        Box::pin(async move {
            check_name(name)?;
            self.read(name, Some(range), OBJECT_BYTES_MAX).await
        })
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, u64> {
        Box::pin(async move {
            check_name(name)?;
            self.head(name).await
        })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        Box::pin(async move {
            if !folder.is_empty() {
                check_name(folder)?;
            }
            let seen = self.seen(folder, after).await?;
            self.with_hidden(folder, after, seen).await
        })
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            if !folder.is_empty() {
                check_name(folder)?;
            }
            self.foreign.forget_folders(&self.key_below(folder));
            let listed = self.inner.list_with_delimiter(Some(&self.path(folder))).await.map_err(|e| self.map(&e, LIST, folder))?;
            let mut names: Vec<String> = listed.common_prefixes.iter().filter_map(|p| self.folder_name(p)).collect();
            names.extend(self.known().hidden_folders(folder));
            names.sort_unstable();
            names.dedup();
            Ok(names)
        })
    }

    fn destroy<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            check_name(name)?;
            if let Some(vault) = &self.vault {
                self.destroy_versions(vault, name).await?;
            } else {
                match self.inner.delete(&self.path(name)).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(e) => return Err(self.map(&e, "destroy", name)),
                }
            }
            self.known().forget(name);
            // The store's answer is not believed alone.
            match self.head(name).await {
                Err(e) if e.kind() == Kind::NotFound => Ok(()),
                Err(e) => Err(e),
                Ok(_) => Err(StoreError::new(
                    Kind::Denied,
                    format!("'{name}' is still in {} after it was deleted", self.description),
                    "look for a lock or a retention of the store itself on this object",
                )),
            }
        })
    }

    fn free_bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async { Ok(None) })
    }

    fn protect(&self, case: &CaseId, protection: Protection) {
        if let Some(locks) = &self.locks {
            locks.protect(case, protection);
        }
    }

    fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = std::mem::take(&mut *self.troubles.lock().unwrap_or_else(PoisonError::into_inner));
        troubles.extend(self.strangers());
        troubles
    }

    fn hides(&self, name: &str) -> bool {
        self.known().hides(name)
    }

    fn foreign(&self, folder: &str) -> Vec<String> {
        self.foreign.below(&self.key_below(folder)).iter().map(|key| self.shown_name(key).to_owned()).collect()
    }

    fn get_version<'a>(&'a self, name: &'a str, version: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        Box::pin(async move {
            check_name(name)?;
            self.read_version(name, Some(version.to_owned()), None, bytes_max).await
        })
    }

    fn choose(&self, name: &str, version: &str) {
        self.known().choose(name, version);
    }

    fn put_over<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        Box::pin(async move {
            check_name(name)?;
            debug_assert_eq!(digest_of(&content), sha256, "the caller's digest of {name}");
            self.write_over(name, content).await
        })
    }

    fn attestable(&self) -> Option<Attestable> {
        let (known, locks) = (Arc::clone(&self.known), self.locks.is_some());
        let covered = move |genuine: &Version, is_seen: bool| {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            // Without locks nothing says that a deletion was not meant.
            known.note_beneath(genuine, locks && !is_seen)
        };
        let known = Arc::clone(&self.known);
        let chosen = move |name: &str| known.lock().unwrap_or_else(PoisonError::into_inner).chosen_version(name);
        let store = self.clone();
        let read = move |name: String, version: String, bytes_max: u64| -> Answer<'static, Bytes> {
            let store = store.clone();
            Box::pin(async move { store.read_version(&name, Some(version), None, bytes_max).await })
        };
        let (covered, chosen, read) = (Arc::new(covered), Arc::new(chosen), Arc::new(read));
        Some(Attestable { vault: self.vault.clone()?, locks: self.locks.clone(), covered, chosen, read })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::attest::UNATTESTED;

    #[test]
    fn locks_that_cannot_be_read_leave_room_to_tell_of_those_that_are_not_there() {
        let store = RemoteStore::memory();
        for n in 0..=TOLD_UNLOCKED_MAX {
            let name = format!("cases/{n}/x");
            if store.is_news(UNATTESTED, &name) {
                store.note_trouble(UNATTESTED, &name, "403".to_owned());
            }
        }
        assert_eq!(store.troubles().len(), 1, "one for each place, until it is given to whoever tells it");
        assert!(store.is_news(UNATTESTED, "cases/more/x"), "which knows whether it was told");
        assert!(store.is_news(UNLOCKED, "cases/more/x"));
        assert!(!store.is_news(UNLOCKED, "cases/more/y"), "once for each folder");
    }

    #[tokio::test]
    async fn that_objects_cannot_be_locked_is_told_once_of_each_part_of_a_log_and_each_stream() {
        let policy = crate::store::LockPolicy { mode: crate::store::LockMode::Compliance, days: 1 };
        // It keeps no versions, so nothing can be locked.
        let store = RemoteStore { locks: Some(Arc::new(Locks::new(policy, false))), ..RemoteStore::memory() };
        let told = async |name: String| {
            let e = store.put_new(&name, Payload::from_static(b"x"), Digest::of(b"x")).await.expect_err("not locked");
            assert_eq!(e.kind(), Kind::Denied, "{e}");
            store.troubles().len()
        };
        assert_eq!(told("deployment/log/seq/0000000000.dsse.json".to_owned()).await, 1);
        for n in 1..20 {
            assert_eq!(told(format!("deployment/log/seq/{n:010}.dsse.json")).await, 0, "a record of it must not make the next one");
        }
        assert_eq!(told("deployment/log/tile/0/000".to_owned()).await, 1, "another part");
        assert_eq!(told("cases/c/log/seq/0000000000.dsse.json".to_owned()).await, 1, "another log");
        for (n, news) in [(0, 1), (1, 0)] {
            assert_eq!(told(format!("cases/c/collections/x/s1/{n:08}.tar.zst")).await, news, "a stream once");
        }
    }

    #[tokio::test]
    async fn a_listing_that_is_refused_is_no_store_that_is_disturbed() {
        const NO_RIGHT: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 61\r\n\r\n\
            <Error><Code>AccessDenied</Code><Message>no</Message></Error>";
        const ODD: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        const NOWHERE: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 61\r\n\r\n\
            <Error><Code>NoSuchBucket</Code><Message>no</Message></Error>";
        for (answer, remedy) in [(NO_RIGHT, "s3:ListBucket"), (ODD, "[store]"), (NOWHERE, "there is no such bucket")] {
            let store = RemoteStore::open(&crate::store::tests::answering(answer).await).expect("settings");
            for e in [
                store.list("cases", None).await.map(|_| ()).expect_err("not listed"),
                store.folders("cases").await.map(|_| ()).expect_err("not listed"),
            ] {
                assert!(e.kind() == Kind::Denied && !e.says_nothing() && e.word() == "denied", "{e}");
                assert!(e.remedy().contains(remedy) && e.message().contains("could not list 'cases'"), "{e}");
            }
        }
        for passing in ["408 Request Timeout", "429 Too Many Requests", "500 Internal Server Error", "503 Slow Down"] {
            let error = format!("Generic S3 error: x - Server returned non-2xx status code: {passing}: ");
            assert_eq!(refused_listing(&error, "x"), None, "{passing}");
        }
        assert_eq!(refused_listing("Generic S3 error: connection reset", "x"), None);
    }

    #[test]
    fn a_number_in_an_address_is_no_status() {
        let kind = |error: &str| generic(error, error.to_owned()).kind();
        let at =
            "Generic S3 error: Error performing PUT http://127.0.0.1:35507/quotaexceeded/507 in 2ms - Server returned non-2xx status code:";
        assert_eq!(kind(&format!("{at} 416 Range Not Satisfiable: <Code>InvalidRange</Code>")), Kind::Retry);
        assert_eq!(kind(&format!("{at} 507 Insufficient Storage: ")), Kind::Full);
        assert_eq!(kind(&format!("{at} 403 Forbidden: <Code>QuotaExceeded</Code>")), Kind::Full);
        assert_eq!(kind(&format!("{at} 400 Bad Request: <Code>InvalidBucketName</Code>")), Kind::Denied);
        assert_eq!(kind("Generic S3 error: connection reset"), Kind::Retry);
        let listed = |error: &str| refused_listing(&format!("{at} {error}"), "x").map(|e| e.kind());
        assert_eq!(listed("403 Forbidden: <Code>AccessDenied</Code>"), Some(Kind::Denied));
        assert_eq!(listed("403 Forbidden: <Code>QuotaExceeded</Code>"), Some(Kind::Full), "where it is known better");
        assert_eq!(listed("400 Bad Request: <Code>RequestTimeout</Code>"), Some(Kind::Retry));
        assert!(!is_without_bucket(&said(&format!("{at} 404 Not Found: <Code>NoSuchKey</Code><Key>nosuchbucket</Key>"))));
    }
}
