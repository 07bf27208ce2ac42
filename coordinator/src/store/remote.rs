//! The store on S3 and everything that `object_store` reaches: one adapter, the same contract.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::Digest;
use futures::TryStreamExt as _;
use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, RetryConfig,
};

use super::{Answer, Entry, Kind, OBJECT_BYTES_MAX, PAGE_ENTRIES_MAX, Page, Payload, Store, StoreError, Stored, check_name, digest_of};

/// How to reach an S3-compatible store.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// Bucket.
    pub bucket: String,
    /// Prefix of all names within the bucket, without slashes at its ends; empty for none.
    pub prefix: String,
    /// Region.
    pub region: String,
    /// Endpoint URL; `None` for Amazon's own.
    pub endpoint: Option<String>,
    /// Allows an endpoint without TLS: credentials and evidence then cross the network in the clear.
    pub allow_http: bool,
    /// Key id; `None` takes the machine's own credentials (environment, instance role).
    pub access_key_id: Option<String>,
    /// Secret key.
    pub secret_access_key: Option<String>,
}

impl std::fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Settings")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// One segment of 16 MiB (twice the target) needs 0.5 Mbit/s to arrive within this.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Retries inside one call: three within half a minute, then the caller hears of it and decides.
const RETRIES_MAX: usize = 3;
const RETRY_WITHIN: Duration = Duration::from_secs(30);

/// A store behind `object_store`.
#[derive(Debug, Clone)]
pub struct RemoteStore {
    inner: Arc<dyn ObjectStore>,
    prefix: String,
    description: String,
}

impl RemoteStore {
    /// Any store of the `object_store` crate that honours `PutMode::Create` and is strongly consistent.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: &str, description: &str) -> Self {
        Self { inner, prefix: prefix.to_owned(), description: description.to_owned() }
    }

    /// A store in memory, for tests: gone with the process.
    #[cfg(any(test, feature = "test-support"))]
    #[must_use]
    pub fn memory() -> Self {
        Self::new(Arc::new(object_store::memory::InMemory::new()), "", "memory")
    }

    /// An S3-compatible bucket. Nothing is sent yet: [`super::self_test`] finds out whether it works.
    ///
    /// # Errors
    /// [`Kind::Denied`] when the settings do not make a client.
    pub fn s3(settings: &S3Settings) -> Result<Self, StoreError> {
        let plain = settings.endpoint.as_deref().is_some_and(|e| e.starts_with("http://"));
        if plain && !settings.allow_http {
            return Err(StoreError::new(
                Kind::Denied,
                "the store's endpoint is http://, so credentials and evidence would cross the network in the clear",
                "use https://, or set store.dangerous_allow_http = true on a network that you trust",
            ));
        }
        if !settings.prefix.is_empty() {
            check_name(&settings.prefix)?;
        }
        let client =
            ClientOptions::new().with_allow_http(settings.allow_http).with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
        let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES_MAX, retry_timeout: RETRY_WITHIN };
        // Over TLS the payload's signature would only hash it a second time: the checksum header has it already.
        let mut builder = if settings.access_key_id.is_none() { AmazonS3Builder::from_env() } else { AmazonS3Builder::new() }
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_unsigned_payload(!plain)
            .with_allow_http(settings.allow_http)
            .with_client_options(client)
            .with_retry(retry);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let (Some(id), Some(secret)) = (&settings.access_key_id, &settings.secret_access_key) {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        let inner = builder.build().map_err(|e| {
            StoreError::new(Kind::Denied, format!("the store's settings do not work: {e}"), "check [store] in the configuration")
        })?;
        let place = settings.endpoint.as_deref().unwrap_or("Amazon S3");
        let description = exhibit_evidence::text::escape_bounded(&format!("bucket {} at {place}", settings.bucket), 200);
        Ok(Self::new(Arc::new(inner), &settings.prefix, &description))
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
        use object_store::Error as E;
        let message =
            format!("could not {tried} '{name}' in {}: {}", self.description, exhibit_evidence::text::escape_bounded(&e.to_string(), 600));
        match e {
            E::NotFound { .. } => StoreError::not_found(name),
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
            _ => generic(&e.to_string(), message),
        }
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
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
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
        self.inner.head(&self.path(name)).await.map(|meta| meta.size).map_err(|e| self.map(&e, "look at", name))
    }

    /// Order: 1. one create-only PUT with its SHA-256, durable when answered. 2. If the name is taken, the content that
    /// is there is read back whole and hashed: our own earlier try (sent, stored, answer lost) is success.
    async fn create(&self, name: &str, content: Payload, sha256: Digest) -> Result<Stored, StoreError> {
        let size = content.content_length() as u64;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let e = match self.inner.put_opts(&self.path(name), content, options).await {
            Ok(result) => return Ok(Stored { existed: false, version: result.version }),
            Err(e) => e,
        };
        if !matches!(e, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) {
            return Err(self.map(&e, "create", name));
        }
        if self.head(name).await? != size {
            return Err(StoreError::conflict(name));
        }
        let there = self.read(name, None, size).await?;
        if Digest::of(&there) == sha256 { Ok(Stored { existed: true, version: None }) } else { Err(StoreError::conflict(name)) }
    }
}

fn too_short(name: &str, size: u64, end: u64) -> StoreError {
    StoreError::new(Kind::Damaged, format!("'{name}' has {size} bytes, {end} are expected"), "the object was cut: look at its versions")
}

/// An error without a type of its own: status and words of the store are all there is. Only what follows the status is
/// the store's; before it stand names and addresses, which may hold any word or number.
fn generic(error: &str, message: String) -> StoreError {
    let said = error.split_once("status code: ").map_or(error, |(_, said)| said).to_lowercase();
    let holds = |words: &[&str]| words.iter().any(|w| said.contains(w));
    if said.starts_with("507") || holds(&["insufficientstorage", "quotaexceeded", "quota exceeded", "xminiostoragefull", "no space left"]) {
        return StoreError::new(Kind::Full, message, "free space in the store or raise its quota");
    }
    if holds(&["nosuchbucket", "invalidbucketname", "permanentredirect", "authorizationheadermalformed"]) {
        return StoreError::new(Kind::Denied, message, "check bucket, region and endpoint in [store] of the configuration");
    }
    StoreError::new(Kind::Retry, message, "check the way to the store; the same call is repeated")
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
            self.inner.put(&self.path(name), content.into()).await.map(|_| ()).map_err(|e| self.map(&e, "replace", name))
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
            let prefix = self.path(folder);
            let mut stream = match after {
                Some(after) => self.inner.list_with_offset(Some(&prefix), &self.path(after)),
                None => self.inner.list(Some(&prefix)),
            };
            let mut entries = Vec::new();
            while let Some(meta) = stream.try_next().await.map_err(|e| self.map(&e, "list", folder))? {
                if entries.len() == PAGE_ENTRIES_MAX {
                    return Ok(Page { entries, more: true });
                }
                if let Some(name) = self.name(&meta.location) {
                    entries.push(Entry { name, size: meta.size });
                }
            }
            Ok(Page { entries, more: false })
        })
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            if !folder.is_empty() {
                check_name(folder)?;
            }
            let listed = self.inner.list_with_delimiter(Some(&self.path(folder))).await.map_err(|e| self.map(&e, "list", folder))?;
            let mut names: Vec<String> = listed.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect();
            names.sort_unstable();
            Ok(names)
        })
    }

    fn destroy<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            check_name(name)?;
            match self.inner.delete(&self.path(name)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(self.map(&e, "destroy", name)),
            }
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
