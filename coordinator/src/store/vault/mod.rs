//! What S3 can do beyond objects: versions, locks and what the bucket is set to. Hand-written requests, because `object_store`
//! has no calls for them (S3 API reference: HeadObject, PutObjectRetention, PutObjectLegalHold, ListObjectVersions,
//! DeleteObject, GetBucketVersioning, GetObjectLockConfiguration).
//!
//! Trust: the answers are the store's word. They are bounded and parsed, and never believed about content.

mod signing;
mod versions;
mod xml;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{Digest, Timestamp};
use futures::TryStreamExt as _;
use http::{HeaderMap, Method};
use object_store::client::{HttpClient, HttpErrorKind, HttpRequest};

use super::encryption::{Encrypted, Encryption};
use super::lock::{LockMode, Seen, parse_time, seconds_text};
use super::{Kind, StoreError};

pub(super) use signing::{LockingConnector, Signer};
pub use versions::{Cursor, Version};

/// A page of 1,000 versions has half a megabyte.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Tries of one request within one call, with a second between them: all of these requests may be repeated.
const TRIES_MAX: usize = 3;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// What the bucket says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posture {
    /// Old versions are kept.
    pub versioned: bool,
    /// Object Lock is on.
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
    /// What the store is asked to encrypt objects with.
    pub(super) encryption: Option<Encryption>,
}

struct Ask<'a> {
    method: Method,
    /// Our name of an object; `None` for the bucket.
    name: Option<&'a str>,
    query: &'a [(&'a str, &'a str)],
    headers: &'a [(&'static str, &'a str)],
    body: Bytes,
}

struct Reply {
    headers: HeaderMap,
    body: Bytes,
}

/// Leaves everything as it is that RFC 3986 calls unreserved.
fn encoded(text: &str, keep: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || keep.as_bytes().contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

impl Vault {
    /// Where it is; holds no secret.
    #[must_use]
    pub fn describe(&self) -> &str {
        &self.description
    }

    fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    fn request(&self, ask: &Ask<'_>) -> Result<HttpRequest, StoreError> {
        let path = ask.name.map_or_else(String::new, |name| format!("/{}", encoded(&self.key(name), "/")));
        let query: Vec<String> = ask.query.iter().map(|(k, v)| format!("{}={}", encoded(k, ""), encoded(v, ""))).collect();
        let mut builder = http::Request::builder().method(ask.method.clone()).uri(format!("{}{path}?{}", self.bucket, query.join("&")));
        if !ask.body.is_empty() {
            // Requests that change a lock are refused without a checksum of their body.
            builder = builder
                .header("x-amz-sdk-checksum-algorithm", "SHA256")
                .header("x-amz-checksum-sha256", STANDARD.encode(Digest::of(&ask.body).as_bytes()))
                .header("content-type", "application/xml");
        }
        for (name, value) in ask.headers {
            builder = builder.header(*name, *value);
        }
        builder.body(ask.body.clone().into()).map_err(|e| StoreError::bug(format!("a request to the store: {e}")))
    }

    /// One request, repeated within bounds while the store or the way to it is disturbed.
    async fn ask(&self, tried: &str, ask: Ask<'_>) -> Result<Reply, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.once(tried, &ask).await {
                Err(e) if e.kind() == Kind::Retry && tries < TRIES_MAX => tokio::time::sleep(BETWEEN_TRIES).await,
                other => return other,
            }
        }
    }

    async fn once(&self, tried: &str, ask: &Ask<'_>) -> Result<Reply, StoreError> {
        let place = || match ask.name {
            Some(name) => format!("'{}' in {}", escape_bounded(name, 200), self.description),
            None => self.description.clone(),
        };
        let away = |why: String| {
            let why = escape_bounded(&why, 400);
            StoreError::new(Kind::Retry, format!("could not {tried} {}: {why}", place()), "check the way to the store; it is tried again")
        };
        let mut request = self.request(ask)?;
        self.signer.sign(&mut request).await.map_err(|e| {
            let why = escape_bounded(&e.to_string(), 400);
            StoreError::new(
                Kind::Denied,
                format!("could not sign a request to {}: {why}", self.description),
                "check the store's credentials",
            )
        })?;
        let reply = self.client.execute(request).await.map_err(|e| match e.kind() {
            HttpErrorKind::Decode => StoreError::new(Kind::Denied, format!("could not {tried} {}: {e}", place()), "is this an S3 store?"),
            _ => away(e.to_string()),
        })?;
        let (parts, body) = reply.into_parts();
        let (mut out, mut stream) = (Vec::new(), body.bytes_stream());
        while let Some(chunk) = stream.try_next().await.map_err(|e| away(e.to_string()))? {
            if out.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
                return Err(StoreError::new(
                    Kind::Damaged,
                    format!("could not {tried} {}: an endless answer", place()),
                    "use another store",
                ));
            }
            out.extend_from_slice(&chunk);
        }
        if parts.status.is_success() {
            return Ok(Reply { headers: parts.headers, body: Bytes::from(out) });
        }
        Err(refusal(parts.status.as_u16(), &out, tried, &place(), ask.name))
    }

    /// What the store says of the lock of one version, or of the newest.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such version.
    pub async fn lock_of(&self, name: &str, version: &str) -> Result<Seen, StoreError> {
        let query = [("versionId", version)];
        let ask = Ask { method: Method::HEAD, name: Some(name), query: &query, headers: &[], body: Bytes::new() };
        let reply = self.ask("look at the lock of", ask).await?;
        let text = |key: &str| reply.headers.get(key).and_then(|v| v.to_str().ok()).unwrap_or_default();
        Ok(Seen {
            mode: LockMode::from_s3(text("x-amz-object-lock-mode")),
            until: parse_time(text("x-amz-object-lock-retain-until-date")),
            hold: text("x-amz-object-lock-legal-hold") == "ON",
        })
    }

    /// What the store says that an object is encrypted with.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such object.
    pub async fn encryption_of(&self, name: &str) -> Result<Encrypted, StoreError> {
        let ask = Ask { method: Method::HEAD, name: Some(name), query: &[], headers: &[], body: Bytes::new() };
        let reply = self.ask("look at the encryption of", ask).await?;
        let text = |key: &str| reply.headers.get(key).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
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
        let (mode, until) = (mode.as_s3(), seconds_text(until));
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"
        );
        let query = [("retention", ""), ("versionId", version)];
        let ask = Ask { method: Method::PUT, name: Some(name), query: &query, headers: bypassing(bypass), body: body.into() };
        self.ask("set the retention of", ask).await.map(|_| ())
    }

    /// Sets or takes off the legal hold of one version.
    ///
    /// # Errors
    /// [`Kind::Denied`] when the store refuses.
    pub async fn hold(&self, name: &str, version: &str, on: bool) -> Result<(), StoreError> {
        let status = if on { "ON" } else { "OFF" };
        let body = format!("<LegalHold xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>{status}</Status></LegalHold>");
        let query = [("legal-hold", ""), ("versionId", version)];
        let ask = Ask { method: Method::PUT, name: Some(name), query: &query, headers: &[], body: body.into() };
        self.ask("set the legal hold of", ask).await.map(|_| ())
    }

    /// Deletes one version, or, without one, asks for a delete marker.
    ///
    /// # Errors
    /// [`Kind::Denied`] when the store refuses, because of a lock for example.
    pub(super) async fn delete(&self, name: &str, version: Option<&str>, bypass: bool) -> Result<(), StoreError> {
        let with = [("versionId", version.unwrap_or_default())];
        let query: &[(&str, &str)] = if version.is_some() { &with } else { &[] };
        let ask = Ask { method: Method::DELETE, name: Some(name), query, headers: bypassing(bypass), body: Bytes::new() };
        match self.ask("delete", ask).await {
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// What the bucket says of its versions and its lock.
    ///
    /// # Errors
    /// [`Kind::Denied`] when it may not be asked.
    pub async fn posture(&self) -> Result<Posture, StoreError> {
        let get = |query| Ask { method: Method::GET, name: None, query, headers: &[], body: Bytes::new() };
        let versioning = self.ask("ask for the versioning of", get(&[("versioning", "")])).await?;
        let versioned = self.parse(&versioning)?.get("Status") == "Enabled";
        let lockable = match self.ask("ask for the lock of", get(&[("object-lock", "")])).await {
            Ok(reply) => self.parse(&reply)?.get("ObjectLockEnabled") == "Enabled",
            // S3 says 404 ObjectLockConfigurationNotFoundError where there is none.
            Err(e) if e.kind() == Kind::NotFound => false,
            Err(e) => return Err(e),
        };
        Ok(Posture { versioned, lockable })
    }

    fn parse(&self, reply: &Reply) -> Result<xml::Node, StoreError> {
        xml::parse(&reply.body).map_err(|why| {
            let why = escape_bounded(&why, 200);
            StoreError::new(
                Kind::Denied,
                format!("{} answers with what is not an answer of S3: {why}", self.description),
                "is this an S3 store?",
            )
        })
    }
}

const fn bypassing(yes: bool) -> &'static [(&'static str, &'static str)] {
    if yes { &[("x-amz-bypass-governance-retention", "true")] } else { &[] }
}

/// An error answer of the store, in our kinds.
fn refusal(status: u16, body: &[u8], tried: &str, place: &str, name: Option<&str>) -> StoreError {
    let (code, said) = xml::parse(body).map(|e| (e.get("Code").to_owned(), e.get("Message").to_owned())).unwrap_or_default();
    let message = format!("could not {tried} {place}: {status} {} {}", escape_bounded(&code, 80), escape_bounded(&said, 300));
    let message = message.trim_end().to_owned();
    match status {
        404 if code == "NoSuchBucket" => StoreError::new(Kind::Denied, message, "check bucket, region and endpoint in [store]"),
        404 => name.map_or_else(|| StoreError::new(Kind::NotFound, message.clone(), "it is not set on the bucket"), StoreError::not_found),
        501 => StoreError::new(Kind::Denied, message, "this store lacks a call of S3: docs/operations/stores.md says which are needed"),
        408 | 429 | 500..=599 => StoreError::new(Kind::Retry, message, "check the store; it is tried again"),
        _ => StoreError::new(Kind::Denied, message, "compare what the credentials may do with docs/operations/stores.md"),
    }
}
