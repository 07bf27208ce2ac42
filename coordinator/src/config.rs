//! The coordinator's configuration: one TOML file, read once, refused as a whole when anything in it is wrong.
//!
//! A wrong configuration ends the program with exit code 64 before anything is opened. Every key has a default, except
//! those of a store in a cloud; [`Config::documented`] writes a file with every key and its meaning.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use exhibit_evidence::log::{WITNESSES_MAX, WitnessKey};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::timestamp::Anchors;
use serde::Deserialize;

use crate::stamp::Authority;

pub(crate) use store::{CREDENTIALS, check_bucket, check_endpoint};
pub use store::{StoreConfig, StoreKind};

pub use audit::AuditConfig;
pub use catalog::{CATALOG_FILE, CatalogConfig};
pub use places::{COPY_AWAY, COPY_SECRET_AWAY};
pub use prices::PricesConfig;
pub use upkeep::{CopyConfig, Every, Rate, Sample, VerifyConfig};

/// The largest configuration file: the documented one has 5 KB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that an operator can choose. Paths are relative to the folder of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port for agents and people.
    pub listen: SocketAddr,
    /// Names and addresses under which the coordinator is reached; they stand in its server certificate.
    pub names: Vec<String>,
    /// Where things lie on this machine.
    pub paths: Paths,
    /// A catalog in PostgreSQL.
    pub catalog: CatalogConfig,
    /// Where evidence lies.
    pub store: StoreConfig,
    /// A copy in a second store.
    pub copy: CopyConfig,
    /// Regular verification of the store.
    pub verify: VerifyConfig,
    /// Bounds.
    pub limits: Limits,
    /// Certificate lifetimes.
    pub certificates: Certificates,
    /// Enrolment tokens.
    pub tokens: Tokens,
    /// What orders need.
    pub orders: Orders,
    /// Witnesses.
    pub witness: Witness,
    /// Timestamp authorities.
    pub timestamp: Vec<TimestampAuthority>,
    /// Health and metrics.
    pub http: Http,
    /// Events and metrics for others.
    pub audit: AuditConfig,
    /// What the store's provider takes.
    pub prices: PricesConfig,
    /// The program's own log.
    pub log: Log,
    /// Folder of the file; not a key.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Where things lie on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Folder with the deployment's keys and certificates.
    pub deployment: PathBuf,
    /// The catalog's file, unless the catalog is in PostgreSQL; `catalog.sqlite` without it.
    pub catalog: Option<PathBuf>,
}

/// Bounds. Each protects memory, descriptors or disk of the coordinator from its peers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once.
    pub connections_max: u32,
    /// Uploads at once.
    pub uploads_max: u32,
    /// Bytes of segments in memory at once, over all uploads.
    pub upload_bytes_max: u64,
    /// Bytes that must stay free in a local store.
    pub free_bytes_min: u64,
    /// Seconds after an order's deadline, or after a cancel, in which an agent may still send what it took.
    pub grace_s: u32,
}

/// Certificate lifetimes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Certificates {
    /// Hours that an agent's certificate is valid.
    pub agent_hours: u32,
}

/// Enrolment tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tokens {
    /// Longest life of a token in seconds.
    pub ttl_s_max: u64,
}

/// What orders need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Orders {
    /// Every order of every case needs a second person's approval.
    pub two_person: bool,
}

/// Witnesses: keys outside the deployment that vouch for the custody logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Witness {
    /// Keys whose cosignatures are accepted, as `exhibit witness init` prints them.
    pub keys: Vec<WitnessKey>,
}

/// A timestamp authority (RFC 3161).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestampAuthority {
    /// The name that its tokens have in the case.
    pub name: String,
    /// Where it answers.
    pub url: String,
    /// File with the root certificates that its tokens must lead to.
    pub ca: PathBuf,
    /// File with root certificates that its server's TLS certificate may lead to, besides the public ones.
    #[serde(default)]
    pub tls_ca: Option<PathBuf>,
    /// Where its revocation lists are.
    #[serde(default)]
    pub crls: Vec<String>,
    /// For one case at most one token in so many seconds.
    #[serde(default = "default_interval")]
    pub interval_s: u32,
}

const fn default_interval() -> u32 {
    300
}

/// Timestamp authorities that a deployment may have.
const AUTHORITIES_MAX: usize = 8;

/// Health and metrics, for machines that look after machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Where they are served, in plain HTTP and to everybody who reaches it; nowhere when it is not set.
    pub listen: Option<SocketAddr>,
}

/// The program's own log, on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives per module.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

/// The forms of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7420)),
            names: vec!["localhost".to_owned()],
            paths: Paths::default(),
            catalog: CatalogConfig::default(),
            store: StoreConfig::default(),
            copy: CopyConfig::default(),
            verify: VerifyConfig::default(),
            limits: Limits::default(),
            certificates: Certificates::default(),
            tokens: Tokens::default(),
            orders: Orders::default(),
            witness: Witness::default(),
            timestamp: Vec::new(),
            http: Http::default(),
            audit: AuditConfig::default(),
            prices: PricesConfig::default(),
            log: Log::default(),
            folder: PathBuf::new(),
        }
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self { deployment: PathBuf::from("."), catalog: None }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_max: 10_000, uploads_max: 256, upload_bytes_max: 512 << 20, free_bytes_min: 256 << 20, grace_s: 600 }
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self { agent_hours: 24 }
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self { ttl_s_max: 604_800 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Log {
    /// What is written, by level and module. The library that speaks to object stores tells each try of each request on `info`: where nothing
    /// more exact was asked for, the coordinator's own word that it waits is enough. A database's notices are about its tables.
    #[must_use]
    pub fn directives(&self) -> &str {
        if self.level.trim().eq_ignore_ascii_case("info") { "info,object_store=warn,sqlx::postgres::notice=warn" } else { &self.level }
    }
}

/// Why there is no usable configuration. The text names file, line, key, value and remedy where there are such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    text: String,
    exit: u8,
}

impl ConfigError {
    /// Something is wrong (EX_USAGE).
    const fn wrong(text: String) -> Self {
        Self { text, exit: 64 }
    }

    /// Others could change what this program relies on, or it may not be read (EX_NOPERM).
    const fn permission(text: String) -> Self {
        Self { text, exit: 77 }
    }

    /// The program's exit code for it: 64 for a wrong file, 77 for permissions.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        self.exit
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks a file; nothing else is opened.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let shown = escape_bounded(&path.to_string_lossy(), 200);
        let fail = |why: String| ConfigError::wrong(format!("{shown}: {why}"));
        let meta = std::fs::metadata(path).map_err(|e| fail(format!("cannot read the configuration: {e}")))?;
        if meta.len() > FILE_BYTES_MAX {
            return Err(fail(format!("{} bytes: a configuration has at most {FILE_BYTES_MAX}", meta.len())));
        }
        let text = std::fs::read(path).map_err(|e| fail(format!("cannot read the configuration: {e}")))?;
        let text = String::from_utf8(text).map_err(|_| fail("the file is not UTF-8 text".to_owned()))?;
        let mut config = Self::parse(&text).map_err(|e| ConfigError::wrong(format!("{shown}{}", e.text)))?;
        config.folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(config)
    }

    /// Reads and checks a text. Errors begin with `:<line>: `.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|e| ConfigError::wrong(explain(text, &e)))?;
        config.check().map_err(|(key, why)| ConfigError::wrong(format!(":{}: {key}: {why}", line_of_key(text, key))))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.names.is_empty() || self.names.len() > 64 {
            return Err((
                "names",
                format!("{} names: expected 1 to 64 names or addresses under which agents reach the coordinator", self.names.len()),
            ));
        }
        if let Err(e) = exhibit_certs::issue::ServerNames::parse(&self.names) {
            return Err(("names", e.to_string()));
        }
        let limits = &self.limits;
        within("limits.connections_max", u64::from(limits.connections_max), 1..1_000_001, "connections")?;
        within("limits.uploads_max", u64::from(limits.uploads_max), 1..10_001, "uploads")?;
        within("limits.upload_bytes_max", limits.upload_bytes_max, 32 << 20..(1 << 40) + 1, "bytes (32 MiB to 1 TiB)")?;
        within("limits.grace_s", u64::from(limits.grace_s), 1..86_401, "seconds")?;
        within("certificates.agent_hours", u64::from(self.certificates.agent_hours), 1..721, "hours")?;
        within("tokens.ttl_s_max", self.tokens.ttl_s_max, 60..604_801, "seconds")?;
        check_witnesses(&self.witness.keys).map_err(|why| ("witness.keys", why))?;
        self.check_authorities()?;
        self.audit.settings()?;
        self.prices.prices(false)?;
        check_level(&self.log.level).map_err(|why| ("log.level", why))?;
        if self.http.listen == Some(self.listen) && self.listen.port() != 0 {
            let why = format!("{} is what agents and people connect to (listen): name another port", self.listen);
            return Err(("http.listen", why));
        }
        self.check_catalog()?;
        self.store.check()?;
        self.copy.check(&self.store)
    }

    fn check_authorities(&self) -> Result<(), (&'static str, String)> {
        if self.timestamp.len() > AUTHORITIES_MAX {
            return Err(("timestamp.name", format!("{} authorities: expected at most {AUTHORITIES_MAX}", self.timestamp.len())));
        }
        for (n, authority) in self.timestamp.iter().enumerate() {
            let made = make_authority(authority, Anchors::default())?;
            if authority.tls_ca.is_some() && !made.speaks_tls() {
                let why =
                    format!("authority '{}' has no https:// address, so nothing would be checked with it: take it out", authority.name);
                return Err(("timestamp.tls_ca", why));
            }
            within("timestamp.interval_s", u64::from(authority.interval_s), 1..86_401, "seconds")?;
            if self.timestamp.iter().take(n).any(|earlier| earlier.name == authority.name) {
                return Err(("timestamp.name", format!("'{}' is the name of two authorities; each has its own", authority.name)));
            }
        }
        Ok(())
    }

    /// The configured timestamp authorities, with the roots read from their files.
    ///
    /// # Errors
    /// [`ConfigError`] when a file cannot be read or holds no certificate.
    pub fn authorities(&self) -> Result<Vec<Authority>, ConfigError> {
        let one = |authority: &TimestampAuthority| {
            let name = &authority.name;
            let root = format!("it holds the root certificate of authority '{name}' in PEM");
            let anchors = self.certificates("timestamp.ca", &authority.ca, &root, |pem| Anchors::parse(pem).map_err(|e| e.to_string()))?;
            let made = make_authority(authority, anchors).map_err(|(key, why)| ConfigError::wrong(format!("{key}: {why}")))?;
            let Some(file) = &authority.tls_ca else { return Ok(made) };
            let root = format!("it holds the root certificate of the https:// server of authority '{name}' in PEM");
            self.certificates("timestamp.tls_ca", file, &root, |pem| made.trusting(pem).map_err(|e| e.why))
        };
        self.timestamp.iter().map(one).collect()
    }

    /// What the certificates in a file that a key names are made into.
    fn certificates<T>(&self, key: &str, file: &Path, what: &str, read: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, ConfigError> {
        let path = self.resolve(file);
        let shown = escape_bounded(&path.to_string_lossy(), 200);
        let fail = |why: String| ConfigError::wrong(format!("{key}: {shown}: {why}; {what}"));
        let meta = std::fs::metadata(&path).map_err(|e| fail(e.to_string()))?;
        if meta.len() > FILE_BYTES_MAX {
            return Err(fail(format!("{} bytes: at most {FILE_BYTES_MAX}", meta.len())));
        }
        let bytes = std::fs::read(&path).map_err(|e| fail(e.to_string()))?;
        read(&bytes).map_err(fail)
    }

    /// A path of the configuration, seen from where the program runs.
    #[must_use]
    pub fn resolve(&self, path: &Path) -> PathBuf {
        // Through its components: a path of `.` would show in every message as `D/./log.key`.
        self.folder.join(path).components().collect()
    }

    /// The file that `init` writes: every key with its meaning, set to this configuration's values; `[copy]` and `[verify]` as they are
    /// by default, because `init` asks nothing about them.
    #[must_use]
    pub fn documented(&self) -> String {
        let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
        let path = |value: &Path| text(&value.to_string_lossy());
        let maybe = |key: &str, value: Option<String>, example: &str| match value {
            Some(value) => format!("{key} = {}", text(&value)),
            None => format!("# {key} = {}", text(example)),
        };
        let names = toml::Value::from(self.names.clone()).to_string();
        let (store, limits) = (&self.store, &self.limits);
        format!(
            include_str!("config.template.toml"),
            listen = text(&self.listen.to_string()),
            http = maybe("listen", self.http.listen.map(|l| l.to_string()), "127.0.0.1:7421"),
            names = names,
            deployment = path(&self.paths.deployment),
            catalog = maybe("catalog", self.paths.catalog.as_ref().map(|p| p.to_string_lossy().into_owned()), CATALOG_FILE),
            postgres = maybe("postgres", self.catalog.postgres.clone(), catalog::EXAMPLE),
            password_file =
                maybe("password_file", self.catalog.password_file.as_ref().map(|p| p.to_string_lossy().into_owned()), "catalog-password"),
            allow_unverified = self.catalog.dangerous_allow_unverified,
            kind = text(store.kind.as_str()),
            path = path(&store.path),
            bucket = text(&store.bucket),
            account = text(&store.account),
            prefix = text(&store.prefix),
            region = text(&store.region),
            endpoint = maybe("endpoint", store.endpoint.clone(), "https://s3.example.org"),
            allow_http = store.dangerous_allow_http,
            access_key_id = maybe("access_key_id", store.access_key_id.clone(), "id"),
            secret_file = maybe(
                "secret_access_key_file",
                store.secret_access_key_file.as_ref().map(|p| p.to_string_lossy().into_owned()),
                "s3-secret"
            ),
            credentials_file =
                maybe("credentials_file", store.credentials_file.as_ref().map(|p| p.to_string_lossy().into_owned()), "store-credentials"),
            lock = store::documented_lock(store.lock),
            encryption = store::documented_encryption(store.encryption.as_ref()),
            attest_hours = store.attest_hours,
            immutable = store.immutable,
            connections_max = limits.connections_max,
            uploads_max = limits.uploads_max,
            upload_bytes_max = limits.upload_bytes_max,
            free_bytes_min = limits.free_bytes_min,
            grace_s = limits.grace_s,
            agent_hours = self.certificates.agent_hours,
            ttl_s_max = self.tokens.ttl_s_max,
            two_person = self.orders.two_person,
            witness_keys = toml::Value::from(self.witness.keys.iter().map(ToString::to_string).collect::<Vec<_>>()),
            timestamps = self.timestamp.iter().map(documented_authority).collect::<String>(),
            syslog = audit::documented("syslog", self.audit.syslog.as_deref(), "tcp://127.0.0.1:601"),
            otlp = audit::documented("otlp", self.audit.otlp.as_deref(), "http://127.0.0.1:4318"),
            metrics_s = self.audit.metrics_s,
            currency = text(&self.prices.currency),
            writes_1000 = text(&self.prices.writes_1000),
            reads_1000 = text(&self.prices.reads_1000),
            gib_month = text(&self.prices.gib_month),
            level = text(&self.log.level),
            format = text(if self.log.format == LogFormat::Text { "text" } else { "json" }),
        )
    }
}

fn documented_authority(authority: &TimestampAuthority) -> String {
    let text = |value: &str| toml::Value::String(value.to_owned());
    let tls_ca = authority.tls_ca.as_ref().map_or_else(String::new, |file| format!("tls_ca = {}\n", text(&file.to_string_lossy())));
    format!(
        "[[timestamp]]\nname = {}\nurl = {}\nca = {}\n{tls_ca}crls = {}\ninterval_s = {}\n\n",
        text(&authority.name),
        text(&authority.url),
        text(&authority.ca.to_string_lossy()),
        toml::Value::from(authority.crls.clone()),
        authority.interval_s
    )
}

fn make_authority(config: &TimestampAuthority, anchors: Anchors) -> Result<Authority, (&'static str, String)> {
    let interval = std::time::Duration::from_secs(u64::from(config.interval_s));
    Authority::new(&config.name, &config.url, anchors, &config.crls, interval).map_err(|e| {
        let key = match e.key {
            "name" => "timestamp.name",
            "crls" => "timestamp.crls",
            _ => "timestamp.url",
        };
        (key, e.why)
    })
}

/// One key under two names would count as two witnesses, and two keys with one id would share a place in the store.
fn check_witnesses(keys: &[WitnessKey]) -> Result<(), String> {
    if keys.len() > WITNESSES_MAX {
        return Err(format!("{} keys: expected at most {WITNESSES_MAX}", keys.len()));
    }
    for (n, key) in keys.iter().enumerate() {
        if let Some(twin) = keys.iter().take(n).find(|k| k.id() == key.id() || k.key() == key.key()) {
            let (name, twin) = (escape_bounded(key.name(), 128), escape_bounded(twin.name(), 128));
            return Err(format!("'{name}' is the same key as '{twin}': each witness has a key of its own; take one of them out"));
        }
    }
    Ok(())
}

/// A bare word that is no level would be taken for the name of a module, and everything else would fall silent.
fn check_level(directives: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    let bad = directives.split(',').map(str::trim).find(|directive| !is_level(directive.rsplit('=').next().unwrap_or_default().trim()));
    let expected = "expected off, error, warn, info, debug or trace, or directives per module like info,exhibit_coordinator::store=debug";
    match bad {
        Some(bad) => Err(format!("'{}': {expected}", escape_bounded(bad, 60))),
        None if directives.len() > 1_000 => Err(format!("{} bytes: at most 1000", directives.len())),
        None => tracing_subscriber::EnvFilter::try_new(directives).map(drop).map_err(|_| expected.to_owned()),
    }
}

fn within(key: &'static str, value: u64, allowed: Range<u64>, unit: &str) -> Result<(), (&'static str, String)> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err((key, format!("{value} is out of range: expected {} to {} {unit}", allowed.start, allowed.end.saturating_sub(1))))
}

/// The reader's own error, with line, key and value.
fn explain(text: &str, e: &toml::de::Error) -> String {
    let message = e.message().trim().replace('\n', ", ");
    let Some(span) = e.span() else { return format!(": {message}") };
    let line = 1 + text.get(..span.start).unwrap_or(text).matches('\n').count();
    let shown = text.lines().nth(line - 1).unwrap_or_default().trim();
    format!(
        ":{line}: {message} in '{}' (compare with the comments that 'exhibit-coordinator init' writes)",
        escape_bounded(&without_secret(shown, message.starts_with("unknown field")), 120)
    )
}

/// A line for a message. What stands behind a key that we do not know, or that is named like a secret, may be one: it is not shown.
fn without_secret(line: &str, unknown: bool) -> String {
    const SECRETS: [&str; 5] = ["secret", "passw", "token", "credential", "private"];
    match line.split_once('=') {
        Some((key, _)) if unknown || SECRETS.iter().any(|word| key.to_ascii_lowercase().contains(word)) => format!("{key}= ..."),
        _ => catalog::without_password(line),
    }
}

/// The line of a key like `limits.uploads_max`; 1 when the file does not hold it.
fn line_of_key(text: &str, key: &str) -> usize {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut current = String::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[') {
            head.trim_matches(['[', ']']).trim().clone_into(&mut current);
        } else if current == table && line.split('=').next().is_some_and(|k| k.trim() == name) {
            return n + 1;
        }
    }
    1
}

mod audit;
mod catalog;
mod places;
mod prices;
mod store;
#[cfg(test)]
mod tests;
mod upkeep;
