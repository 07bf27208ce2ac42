//! `[store]`: where evidence lies, and how hard it is kept there.

use std::fmt;
use std::path::{Path, PathBuf};

use exhibit_evidence::text::escape_bounded;
use serde::Deserialize;

use super::{Config, ConfigError, within};
use crate::store::{Encryption, LOCK_DAYS_MAX, LockMode, LockPolicy, RemoteKind, RemoteSettings, name_is_valid};

/// The key file of a Google service account has 2.3 KB; the others are one line.
const SECRET_BYTES_MAX: u64 = 16 << 10;

/// Where evidence lies.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `local`, `s3`, `google` or `azure`.
    pub kind: StoreKind,
    /// Folder of a local store.
    pub path: PathBuf,
    /// Bucket; on Azure the container.
    pub bucket: String,
    /// Storage account; Azure only.
    pub account: String,
    /// Prefix of all names in the bucket.
    pub prefix: String,
    /// Region of the bucket.
    pub region: String,
    /// Endpoint of a store that is not the cloud's own.
    pub endpoint: Option<String>,
    /// Lets the endpoint be http://.
    pub dangerous_allow_http: bool,
    /// Key id; without it the machine's own credentials are used.
    pub access_key_id: Option<String>,
    /// File that holds the secret key, one line, mode 0600.
    pub secret_access_key_file: Option<PathBuf>,
    /// Google: a service account's key file. Azure: a file with the account's key. Mode 0600.
    pub credentials_file: Option<PathBuf>,
    /// The lock of every object; not of a local store.
    pub lock: Option<LockPolicy>,
    /// Encryption of every object by the store; S3 only.
    pub encryption: Option<Encryption>,
    /// Hours between two looks at every version in the store.
    pub attest_hours: u32,
    /// Gives the files of a local store the immutable attribute.
    pub immutable: bool,
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.kind == StoreKind::Local { self.path.display().to_string() } else { self.bucket.clone() };
        write!(f, "StoreConfig({:?} {place})", self.kind)
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            kind: StoreKind::Local,
            path: PathBuf::from("store"),
            bucket: String::new(),
            account: String::new(),
            prefix: String::new(),
            region: "us-east-1".to_owned(),
            endpoint: None,
            dangerous_allow_http: false,
            access_key_id: None,
            secret_access_key_file: None,
            credentials_file: None,
            lock: None,
            encryption: None,
            attest_hours: 24,
            immutable: false,
        }
    }
}

/// The kinds of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A folder of this machine.
    Local,
    /// An S3-compatible bucket.
    S3,
    /// A bucket of Google Cloud Storage.
    Google,
    /// A container of Azure Blob Storage.
    Azure,
}

impl StoreKind {
    /// As the configuration writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::S3 => "s3",
            Self::Google => "google",
            Self::Azure => "azure",
        }
    }

    const fn remote(self) -> Option<RemoteKind> {
        match self {
            Self::Local => None,
            Self::S3 => Some(RemoteKind::S3),
            Self::Google => Some(RemoteKind::Google),
            Self::Azure => Some(RemoteKind::Azure),
        }
    }
}

type Wrong = (&'static str, String);

impl StoreConfig {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        within("store.attest_hours", u64::from(self.attest_hours), 1..8_761, "hours")?;
        if let Some(lock) = self.lock {
            within("store.lock", u64::from(lock.days), 1..u64::from(LOCK_DAYS_MAX) + 1, "days")?;
        }
        self.check_lock()?;
        if self.kind == StoreKind::Local {
            if !self.prefix.is_empty() {
                return wrong("store.prefix", "is for a bucket or container: for a local store name another folder in store.path");
            }
            return if self.path.as_os_str().is_empty() { wrong("store.path", "is empty: name a folder") } else { Ok(()) };
        }
        if self.kind != StoreKind::Azure && !self.account.is_empty() {
            return wrong("store.account", "is for azure: take it out");
        }
        if self.bucket.is_empty() {
            return wrong("store.bucket", "is empty: name the bucket (on Azure the container) of the store");
        }
        if !self.prefix.is_empty() && !name_is_valid(&self.prefix) {
            let shown = escape_bounded(&self.prefix, 120);
            return Err((
                "store.prefix",
                format!("'{shown}': expected folders of a-z 0-9 . _ - with a single / between them, none of which begins with a dot"),
            ));
        }
        if self.kind == StoreKind::Azure && self.account.is_empty() {
            let shown = self.endpoint.as_deref().filter(|e| check_endpoint(e, CREDENTIALS).is_ok()).map(|e| escape_bounded(e, 120));
            let beside = shown.map(|e| format!(", and the account is not taken from store.endpoint '{e}'")).unwrap_or_default();
            return Err((
                "store.account",
                format!("is empty{beside}: name the storage account of the container, like account = \"myaccount\""),
            ));
        }
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint, CREDENTIALS).map_err(|why| ("store.endpoint", why))?;
        }
        if self.endpoint.as_deref().is_some_and(|e| e.starts_with("http://")) && !self.dangerous_allow_http {
            return wrong(
                "store.endpoint",
                "is http://, so credentials and evidence would cross the network in the clear: use https://, or set store.dangerous_allow_http = true on a network that you trust",
            );
        }
        self.check_credentials()?;
        check_bucket(self.kind, &self.bucket, self.endpoint.as_deref()).map_err(|why| ("store.bucket", why))
    }

    fn check_credentials(&self) -> Result<(), Wrong> {
        if self.access_key_id.is_some() != self.secret_access_key_file.is_some() {
            return wrong("store.access_key_id", "access_key_id and secret_access_key_file belong together: set both or neither");
        }
        match self.kind {
            StoreKind::S3 if self.credentials_file.is_some() => {
                wrong("store.credentials_file", "is for google and azure: an s3 store has access_key_id and secret_access_key_file")
            }
            StoreKind::Google | StoreKind::Azure if self.access_key_id.is_some() => {
                wrong("store.access_key_id", "is for s3: google and azure have credentials_file")
            }
            _ => Ok(()),
        }
    }

    /// A lock that is asked for and cannot be had must not be thought of as there.
    fn check_lock(&self) -> Result<(), Wrong> {
        if self.kind == StoreKind::Local && self.lock.is_some() {
            return wrong("store.lock", "is for s3, google and azure: for a local store there is store.immutable");
        }
        if self.encryption.is_some() && self.kind != StoreKind::S3 {
            return wrong(
                "store.encryption",
                "is for s3: google and azure encrypt every object with the key that bucket or account is set to, and a folder with what its disk has",
            );
        }
        if self.immutable && self.kind != StoreKind::Local {
            return wrong("store.immutable", "is for a local store: every other one has store.lock");
        }
        Ok(())
    }
}

/// The name is a part of every address that is asked: one that such a store cannot have would lead elsewhere. Some stores that speak as S3
/// does have names that Amazon gives no more; `endpoint` says whether it is one.
pub fn check_bucket(kind: StoreKind, bucket: &str, endpoint: Option<&str>) -> Result<(), String> {
    if kind == StoreKind::S3 && endpoint.is_some_and(is_not_amazons) {
        return check_bucket_elsewhere(bucket);
    }
    let (what, bytes_max, beside, spoken) = match kind {
        StoreKind::Local => return Ok(()),
        StoreKind::S3 => ("bucket", 63, "-.", "a-z 0-9 - ."),
        // A name of more than 63 is a domain's, in parts of at most 63.
        StoreKind::Google => ("bucket", 222, "-._", "a-z 0-9 - . _"),
        StoreKind::Azure => ("container", 63, "-", "a-z 0-9 -"),
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = (3..=bytes_max).contains(&bucket.len())
        && bucket.chars().all(|c| plain(c) || beside.contains(c))
        && bucket.starts_with(plain)
        && bucket.ends_with(plain)
        && bucket.split('.').all(|part| (1..=63).contains(&part.len()))
        && !(kind == StoreKind::Azure && bucket.contains("--"));
    let is_reserved = kind == StoreKind::S3 && is_reserved(bucket);
    if good && !is_reserved {
        return Ok(());
    }
    let shown = escape_bounded(bucket, 120);
    let is_one_elsewhere = kind == StoreKind::S3 && check_bucket_elsewhere(bucket).is_ok();
    let instead = if is_one_elsewhere { "; if another store than Amazon's has it, name that store's endpoint" } else { "" };
    if good && is_reserved {
        let (begins, ends) = (RESERVED_BEGINS.join(" "), RESERVED_ENDS.join(" "));
        return Err(format!(
            "'{shown}' is no name of a bucket: Amazon gives none that is an IP address, begins with one of {begins} or ends with one of {ends}{instead}"
        ));
    }
    let apart = if kind == StoreKind::Azure { "hyphens" } else { "dots" };
    Err(format!(
        "'{shown}' is no name of a {what}: expected 3 to {bytes_max} of {spoken}, a letter or digit first and last, and no two {apart} together{instead}"
    ))
}

/// What Amazon keeps for names of other things, or for nobody.
const RESERVED_BEGINS: [&str; 3] = ["xn--", "sthree-", "amzn-s3-demo-"];
const RESERVED_ENDS: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];

fn is_reserved(bucket: &str) -> bool {
    let is_address = bucket.split('.').count() == 4 && bucket.chars().all(|c| c == '.' || c.is_ascii_digit());
    is_address || RESERVED_BEGINS.iter().any(|begin| bucket.starts_with(begin)) || RESERVED_ENDS.iter().any(|end| bucket.ends_with(end))
}

/// What Amazon gave once as well. Nothing in such a name means anything in an address.
fn check_bucket_elsewhere(bucket: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric();
    let good = (3..=255).contains(&bucket.len())
        && bucket.chars().all(|c| plain(c) || "-._".contains(c))
        && bucket.starts_with(plain)
        && bucket.ends_with(plain)
        && !bucket.contains("..");
    if good {
        return Ok(());
    }
    let shown = escape_bounded(bucket, 120);
    Err(format!(
        "'{shown}' is no name of a bucket: expected 3 to 255 of A-Z a-z 0-9 - . _, a letter or digit first and last, and no two dots together"
    ))
}

/// Amazon's domains: of its regions, of those in China, and of its sovereign cloud in Europe.
const AMAZONS: [&str; 3] = ["amazonaws.com", "amazonaws.com.cn", "amazonaws.eu"];

fn is_not_amazons(endpoint: &str) -> bool {
    let host = reqwest::Url::parse(endpoint).ok().and_then(|url| url.host_str().map(|host| host.trim_end_matches('.').to_owned()));
    host.is_some_and(|host| AMAZONS.iter().all(|own| host != *own && !host.ends_with(&format!(".{own}"))))
}

/// Where a store's credentials belong.
pub const CREDENTIALS: &str = "credentials are access_key_id with secret_access_key_file, or credentials_file";

/// An endpoint is shown in errors, logs, incidents and on `/ready`, so it may hold nothing that is a secret. The message does
/// not show it; it ends with `instead`, which says where a secret belongs.
pub fn check_endpoint(endpoint: &str, instead: &str) -> Result<(), String> {
    let expected = "is no address: expected https://HOST, with :PORT and a path where they are needed";
    let url = reqwest::Url::parse(endpoint).map_err(|_| expected)?;
    if !matches!(url.scheme(), "https" | "http") || url.host_str().unwrap_or_default().is_empty() {
        return Err(expected.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("holds a name, a password or a query beside the address, and would be shown: take it out; {instead}"));
    }
    Ok(())
}

fn wrong(key: &'static str, why: &str) -> Result<(), Wrong> {
    Err((key, why.to_owned()))
}

pub(super) fn documented_lock(lock: Option<LockPolicy>) -> String {
    let (comment, lock) = lock.map_or(("# ", LockPolicy { mode: LockMode::Compliance, days: 365 }), |lock| ("", lock));
    let mode = lock.mode.as_s3().to_lowercase();
    format!("{comment}lock = {{ mode = \"{mode}\", days = {} }}", lock.days)
}

pub(super) fn documented_encryption(encryption: Option<&Encryption>) -> String {
    match encryption {
        None => "# encryption = { kind = \"sse-s3\" }".to_owned(),
        Some(Encryption::SseS3 {}) => "encryption = { kind = \"sse-s3\" }".to_owned(),
        Some(Encryption::SseKms { key, bucket_key }) => {
            let key = key.as_ref().map(|key| format!(", key = {}", toml::Value::String(key.clone()))).unwrap_or_default();
            format!("encryption = {{ kind = \"sse-kms\"{key}, bucket_key = {bucket_key} }}")
        }
    }
}

impl Config {
    /// The settings of a store that is not a folder, with the secret read from its file; `None` for a folder.
    ///
    /// # Errors
    /// [`ConfigError`] when the secret cannot be read or others can read it.
    pub fn remote(&self) -> Result<Option<RemoteSettings>, ConfigError> {
        self.remote_of(&self.store, "the store's secret")
    }

    /// [`Config::remote`] of either store; `secret` names its secret in errors.
    pub(super) fn remote_of(&self, store: &StoreConfig, secret: &str) -> Result<Option<RemoteSettings>, ConfigError> {
        let Some(kind) = store.kind.remote() else { return Ok(None) };
        let file = store.secret_access_key_file.as_ref().or(store.credentials_file.as_ref());
        // The key file of a Google service account is JSON.
        let read = if kind == RemoteKind::Google { read_secret } else { read_secret_line };
        let secret = file.map(|p| read(&self.resolve(p), secret)).transpose()?;
        Ok(Some(RemoteSettings {
            kind,
            bucket: store.bucket.clone(),
            account: store.account.clone(),
            prefix: store.prefix.clone(),
            region: store.region.clone(),
            endpoint: store.endpoint.clone(),
            allow_http: store.dangerous_allow_http,
            access_key_id: store.access_key_id.clone(),
            secret,
            lock: store.lock,
            encryption: store.encryption.clone(),
        }))
    }
}

/// [`read_secret`] of one that is a line: of two, both would go out as one secret, and the store or the database would say only that it is
/// wrong.
pub(super) fn read_secret_line(path: &Path, what: &str) -> Result<String, ConfigError> {
    let secret = read_secret(path, what)?;
    match secret.lines().count() {
        1 if !secret.contains('\r') => Ok(secret),
        0 => Err(not_a_line(path, what, "is empty")),
        _ => Err(not_a_line(path, what, "has more than one line")),
    }
}

fn not_a_line(path: &Path, what: &str, why: &str) -> ConfigError {
    let shown = escape_bounded(&path.to_string_lossy(), 200);
    ConfigError::wrong(format!("{shown}: {why}: write {what} into it, one line and nothing else"))
}

/// Reads a secret that nobody else may read; `what` names it in errors.
fn read_secret(path: &Path, what: &str) -> Result<String, ConfigError> {
    use std::os::unix::fs::PermissionsExt as _;
    let shown = escape_bounded(&path.to_string_lossy(), 200);
    let fail = |why: String| ConfigError::wrong(format!("{shown}: {why}"));
    let meta = std::fs::metadata(path).map_err(|e| fail(format!("cannot read {what}: {e}")))?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(fail(format!("holds a secret and has mode {:04o}: run: chmod 600 {shown}", meta.permissions().mode() & 0o7777)));
    }
    if meta.len() > SECRET_BYTES_MAX {
        return Err(fail(format!("{} bytes: {what} has at most {SECRET_BYTES_MAX}", meta.len())));
    }
    let text = std::fs::read_to_string(path).map_err(|e| fail(format!("cannot read {what}: {e}")))?;
    Ok(text.trim().to_owned())
}
