//! How to reach a store that is not a folder: one set of settings, three kinds.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpConnector as _, ReqwestConnector};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::encryption::Encryption;
use super::foreign::Foreign;
use super::lock::LockPolicy;
use super::patience::{ANSWERS_WITHIN, LISTS_WITHIN};
use super::vault::credentials::given;
use super::vault::{ListingConnector, LockingConnector, Signer, Vault};
use super::{Kind, StoreError, check_name};

/// The kinds of remote store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// An S3-compatible bucket.
    S3,
    /// A bucket of Google Cloud Storage.
    Google,
    /// A container of Azure Blob Storage.
    Azure,
}

/// How to reach a remote store.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteSettings {
    /// Whose.
    pub kind: RemoteKind,
    /// Bucket; on Azure the container.
    pub bucket: String,
    /// The storage account; Azure only.
    pub account: String,
    /// Prefix of all names within the bucket, without slashes at its ends; empty for none.
    pub prefix: String,
    /// Region; S3 only.
    pub region: String,
    /// Endpoint URL; `None` for the cloud's own.
    pub endpoint: Option<String>,
    /// Allows an endpoint without TLS: credentials and evidence then cross the network in the clear.
    pub allow_http: bool,
    /// Key id; S3 only.
    pub access_key_id: Option<String>,
    /// S3: the secret key; Azure: the account's key; Google: a service account's key file as JSON. `None` takes the
    /// machine's own credentials (environment, instance role, workload identity).
    pub secret: Option<String>,
    /// The lock of every object.
    pub lock: Option<LockPolicy>,
    /// Encryption of every object by the store; S3 only.
    pub encryption: Option<Encryption>,
}

impl std::fmt::Debug for RemoteSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteSettings")
            .field("kind", &self.kind)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// One segment of 16 MiB (twice the target) needs 0.5 Mbit/s to arrive within this. What asks little of a store is less patient:
/// [`ANSWERS_WITHIN`].
const REQUEST_TIMEOUT: Duration = Duration::from_mins(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Retries inside one call: three within half a minute, then the caller hears of it and decides.
const RETRIES_MAX: usize = 3;
const RETRY_WITHIN: Duration = Duration::from_secs(30);

/// Where Google is when nothing else is said, as `object_store` has it.
const GOOGLE: &str = "https://storage.googleapis.com";

/// A client, and the way to versions and locks: on S3 always, elsewhere where they are asked for.
pub(super) struct Built {
    pub(super) inner: Arc<dyn ObjectStore>,
    pub(super) vault: Option<Vault>,
    pub(super) description: String,
    /// What listings leave out.
    pub(super) foreign: Arc<Foreign>,
}

impl RemoteSettings {
    fn plain(&self) -> bool {
        self.endpoint.as_deref().is_some_and(|e| e.starts_with("http://"))
    }

    fn client(&self) -> ClientOptions {
        ClientOptions::new().with_allow_http(self.allow_http).with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT)
    }

    /// Makes the client; nothing is sent.
    pub(super) fn build(&self) -> Result<Built, StoreError> {
        if self.plain() && !self.allow_http {
            return Err(StoreError::new(
                Kind::Denied,
                "the store's endpoint is http://, so credentials and evidence would cross the network in the clear",
                "use https://, or set store.dangerous_allow_http = true on a network that you trust",
            ));
        }
        if self.encryption.is_some() && self.kind != RemoteKind::S3 {
            return Err(StoreError::new(
                Kind::Denied,
                "store.encryption is for S3: Google and Azure encrypt every object, with the key that their bucket or account is set to",
                "take out store.encryption and have its owner set the key as docs/operations/stores.md shows",
            ));
        }
        if !self.prefix.is_empty() {
            check_name(&self.prefix)?;
        }
        let foreign = Arc::<Foreign>::default();
        let built = match self.kind {
            RemoteKind::S3 => self.s3(&foreign),
            RemoteKind::Google => self.google(&foreign),
            RemoteKind::Azure => self.azure(&foreign),
        };
        let (inner, vault) = built.map_err(|e| {
            let told = e.to_string();
            // A key file that is JSON of another shape would be quoted: only the place is shown.
            let is_quoted = self.kind == RemoteKind::Google && self.secret.is_some();
            let place = told.rfind(" at line ").and_then(|at| told.get(at..)).unwrap_or_default();
            let why = if is_quoted { format!("the key file is not understood{place}") } else { told.clone() };
            let why = exhibit_evidence::text::escape_bounded(&why, 400);
            StoreError::new(Kind::Denied, format!("the store's settings do not work: {why}"), self.remedy())
        })?;
        Ok(Built { inner, vault, description: self.describe(), foreign })
    }

    /// What to look at when they make no client. Of what a file of credentials holds the client says only in its own words what is wrong.
    fn remedy(&self) -> &'static str {
        match (self.kind, &self.secret) {
            (RemoteKind::Google, Some(_)) => {
                "check [store] in the configuration; credentials_file names a service account's key file, as JSON and whole, as Google gives it"
            }
            (RemoteKind::Azure, Some(_)) => {
                "check [store] in the configuration; credentials_file names a file with the account's key, which is base64, and nothing else"
            }
            _ => "check [store] in the configuration",
        }
    }

    /// Versions and locks of a bucket at `address`, asked for with these credentials.
    fn vault(&self, signer: Signer, address: String) -> object_store::Result<Vault> {
        Ok(Vault {
            client: ReqwestConnector::default().connect(&self.client())?,
            signer,
            bucket: address,
            prefix: self.prefix.clone(),
            description: self.describe(),
            encryption: self.encryption.clone(),
            answers_within: ANSWERS_WITHIN,
            lists_within: LISTS_WITHIN,
            lists_slowly: Arc::default(),
            silence_told: Arc::default(),
            gives_up: None,
        })
    }

    fn describe(&self) -> String {
        let (what, own) = match self.kind {
            RemoteKind::S3 => (format!("bucket {}", self.bucket), "Amazon S3"),
            RemoteKind::Google => (format!("bucket {}", self.bucket), "Google Cloud Storage"),
            RemoteKind::Azure => (format!("container {} of account {}", self.bucket, self.account), "Azure"),
        };
        exhibit_evidence::text::escape_bounded(&format!("{what} at {}", self.endpoint.as_deref().unwrap_or(own)), 200)
    }

    fn s3(&self, foreign: &Arc<Foreign>) -> object_store::Result<(Arc<dyn ObjectStore>, Option<Vault>)> {
        // Over TLS the payload's signature would only hash it a second time: the checksum header has it already.
        let mut builder = if self.access_key_id.is_none() { AmazonS3Builder::from_env() } else { AmazonS3Builder::new() }
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_unsigned_payload(!self.plain())
            .with_virtual_hosted_style_request(false)
            .with_allow_http(self.allow_http)
            .with_client_options(self.client())
            .with_http_connector(listing(ReqwestConnector::default(), foreign, Some(&self.region)))
            .with_retry(retry());
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let (Some(id), Some(secret)) = (&self.access_key_id, &self.secret) {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        if let Some(encryption) = &self.encryption {
            builder = encryption.apply(builder)?;
        }
        // The first client is kept for its credentials alone.
        let (credentials, region) = (given(builder.clone().build()?.credentials()), self.region.clone());
        builder = builder.with_credentials(Arc::clone(&credentials));
        let signer = Signer::S3 { credentials, region, sign_payload: self.plain() };
        // The same address as the client's, which the environment may give as well; the bucket stands in the path.
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{}.amazonaws.com", self.region));
        let vault = self.vault(signer.clone(), format!("{}/{}", endpoint.trim_end_matches('/'), self.bucket))?;
        if self.lock.is_some() {
            builder = builder.with_http_connector(listing(LockingConnector(signer), foreign, Some(&self.region)));
        }
        let inner: Arc<dyn ObjectStore> = Arc::new(builder.build()?);
        Ok((inner, Some(vault)))
    }

    fn google(&self, foreign: &Arc<Foreign>) -> object_store::Result<(Arc<dyn ObjectStore>, Option<Vault>)> {
        let mut builder = if self.secret.is_none() { GoogleCloudStorageBuilder::from_env() } else { GoogleCloudStorageBuilder::new() }
            .with_bucket_name(&self.bucket)
            .with_client_options(self.client())
            .with_http_connector(listing(ReqwestConnector::default(), foreign, None))
            .with_retry(retry());
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        if let Some(key) = &self.secret {
            builder = builder.with_service_account_key(key);
        }
        let credentials = given(builder.clone().build()?.credentials());
        builder = builder.with_credentials(Arc::clone(&credentials));
        if self.lock.is_none() {
            return Ok((Arc::new(builder.build()?), None));
        }
        let signer = Signer::Google(credentials);
        let base = builder.get_config_value(&GoogleConfigKey::BaseUrl).or_else(|| self.base_in_key());
        let base = base.unwrap_or_else(|| GOOGLE.to_owned());
        let vault = self.vault(signer.clone(), format!("{}/storage/v1/b/{}", base.trim_end_matches('/'), self.bucket))?;
        Ok((Arc::new(builder.with_http_connector(listing(LockingConnector(signer), foreign, None)).build()?), Some(vault)))
    }

    /// A service account's key file may say where Google is; what is not of that form the client refused already.
    fn base_in_key(&self) -> Option<String> {
        let key: serde_json::Value = serde_json::from_str(self.secret.as_deref()?).ok()?;
        key.get("gcs_base_url")?.as_str().map(str::to_owned)
    }

    fn azure(&self, foreign: &Arc<Foreign>) -> object_store::Result<(Arc<dyn ObjectStore>, Option<Vault>)> {
        let mut builder = if self.secret.is_none() { MicrosoftAzureBuilder::from_env() } else { MicrosoftAzureBuilder::new() }
            .with_account(&self.account)
            .with_container_name(&self.bucket)
            .with_allow_http(self.allow_http)
            .with_client_options(self.client())
            .with_http_connector(listing(ReqwestConnector::default(), foreign, None))
            .with_retry(retry());
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        if let Some(key) = &self.secret {
            builder = builder.with_access_key(key);
        }
        let credentials = given(builder.clone().build()?.credentials());
        builder = builder.with_credentials(Arc::clone(&credentials));
        if self.lock.is_none() {
            return Ok((Arc::new(builder.build()?), None));
        }
        let signer = Signer::Azure { credentials, account: self.account.clone() };
        let service = builder.get_config_value(&AzureConfigKey::Endpoint);
        let service = service.unwrap_or_else(|| format!("https://{}.blob.core.windows.net", self.account));
        let vault = self.vault(signer.clone(), format!("{}/{}", service.trim_end_matches('/'), self.bucket))?;
        Ok((Arc::new(builder.with_http_connector(listing(LockingConnector(signer), foreign, None)).build()?), Some(vault)))
    }
}

/// Clients whose listings leave out what cannot be ours.
fn listing<C>(inner: C, foreign: &Arc<Foreign>, region: Option<&str>) -> ListingConnector<C> {
    ListingConnector { inner, foreign: Arc::clone(foreign), region: region.map(str::to_owned), goes_on_within: ANSWERS_WITHIN }
}

fn retry() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES_MAX, retry_timeout: RETRY_WITHIN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RemoteStore;
    use crate::store::tests::bucket_at;

    #[test]
    fn a_key_that_cannot_be_used_is_told_with_its_field() {
        for kind in [RemoteKind::Azure, RemoteKind::Google] {
            for secret in ["no such key!", r#""no such key!""#, r#"{"private_key":"no such key!","client_email":7}"#] {
                let secret = Some(secret.to_owned());
                let settings = RemoteSettings { kind, account: "exhibit".to_owned(), access_key_id: None, secret, ..bucket_at(9) };
                let e = RemoteStore::open(&settings).expect_err("no key");
                assert!(e.kind() == Kind::Denied && e.remedy().contains("credentials_file"), "{kind:?}: {e}");
                assert!(!e.to_string().contains("no such key!"), "{kind:?}: {e}");
            }
        }
    }
}
