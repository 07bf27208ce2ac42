//! Where the database is and who we are there. The password is in here and in nothing that is shown.

use std::fmt;
use std::path::Path;
use std::str::FromStr as _;

use exhibit_evidence::text::escape_bounded;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// The schema of a catalog.
const SCHEMA: &str = "exhibit";
/// The schema of one that is being made.
const ASIDE: &str = "exhibit_new";
/// What a connection calls itself in `pg_stat_activity`.
pub(super) const APPLICATION: &str = "exhibit-coordinator";
/// Parameters of the address that mean something here.
const PARAMETERS: [&str; 6] = ["host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey"];

/// How to reach a database, checked.
#[derive(Clone)]
pub struct Settings {
    options: Box<PgConnectOptions>,
    place: String,
    schema: &'static str,
    application: &'static str,
}

/// Never the password.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({})", self.place)
    }
}

/// Why an address cannot be used: what is wrong and what to write instead, never the address itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl Settings {
    /// Reads `postgres://USER@HOST[:PORT]/DATABASE[?parameters]`. Parameters: `host` (the folder of a unix socket), `port`,
    /// `sslmode`, and the files `sslrootcert`, `sslcert` and `sslkey`, relative to `folder`.
    ///
    /// Other machines must prove who they are (`sslmode=verify-full`, the default there, or `verify-ca`), unless
    /// `allow_unverified`.
    ///
    /// # Errors
    /// [`SettingsError`]
    pub fn parse(address: &str, folder: &Path, allow_unverified: bool) -> Result<Self, SettingsError> {
        let wrong = |why: &str| SettingsError(why.to_owned());
        let expected = "expected postgres://USER@HOST/DATABASE?sslmode=verify-full&sslrootcert=FILE";
        let url = reqwest::Url::parse(address).map_err(|e| SettingsError(format!("{e}: {expected}")))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(SettingsError(format!("is no postgres:// address: {expected}")));
        }
        if url.password().is_some() {
            return Err(wrong("holds a password: take it out, and put it into a file of its own (catalog.password_file, mode 0600)"));
        }
        if url.username().is_empty() || url.host_str().unwrap_or_default().is_empty() || url.path().trim_start_matches('/').is_empty() {
            return Err(SettingsError(format!("names no user, host or database: {expected}")));
        }
        if let Some((key, _)) = url.query_pairs().find(|(key, _)| !PARAMETERS.contains(&&**key)) {
            let (key, known) = (escape_bounded(&key, 60), PARAMETERS.join(", "));
            return Err(SettingsError(format!("parameter '{key}' is not known here: expected {known}")));
        }
        let mut options = PgConnectOptions::from_str(address).map_err(|e| SettingsError(escape_bounded(&e.to_string(), 200)))?;
        for (key, value) in url.query_pairs() {
            let file = folder.join(&*value);
            options = match &*key {
                "sslrootcert" => options.ssl_root_cert(file),
                "sslcert" => options.ssl_client_cert(file),
                "sslkey" => options.ssl_client_key(file),
                _ => options,
            };
        }
        let here = options.get_socket().is_some() || is_loopback(options.get_host());
        if !url.query_pairs().any(|(key, _)| key == "sslmode") {
            options = options.ssl_mode(if here { PgSslMode::Prefer } else { PgSslMode::VerifyFull });
        }
        if options.get_socket().is_some() {
            options = options.ssl_mode(PgSslMode::Disable);
        }
        if !here && !allow_unverified && !matches!(options.get_ssl_mode(), PgSslMode::VerifyFull | PgSslMode::VerifyCa) {
            return Err(wrong(
                "lets another machine pass for the database, or the network read along: use sslmode=verify-full with sslrootcert, or set catalog.dangerous_allow_unverified = true on a network that you trust",
            ));
        }
        let place = place(&options);
        Ok(Self { options: Box::new(options), place, schema: SCHEMA, application: APPLICATION })
    }

    /// A file that an address names by a path that depends on where the program stands.
    #[must_use]
    pub fn relative_file(address: &str) -> Option<String> {
        let url = reqwest::Url::parse(address).ok()?;
        let mut files = url.query_pairs().filter(|(key, _)| matches!(&**key, "sslrootcert" | "sslcert" | "sslkey"));
        files.find(|(_, file)| Path::new(&**file).is_relative()).map(|(_, file)| file.into_owned())
    }

    /// The same with a password.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        *self.options = self.options.clone().password(password);
        self
    }

    /// `USER@HOST:PORT/DATABASE`, for people.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The schema that holds the tables.
    pub(super) const fn schema(&self) -> &'static str {
        self.schema
    }

    /// The place beside it, where a new catalog is made.
    pub(super) const fn aside(mut self) -> Self {
        self.schema = ASIDE;
        self
    }

    /// The same, for connections that are not a coordinator's.
    pub(super) const fn called(mut self, application: &'static str) -> Self {
        self.application = application;
        self
    }

    /// True for connections to the catalog that coordinators use.
    pub(super) fn is_shared(&self) -> bool {
        self.application == APPLICATION && self.schema == SCHEMA
    }

    /// What every connection begins with: tables are found in our schema alone, nothing waits for ever, and what is committed
    /// is on the disk.
    pub(super) fn session(&self) -> PgConnectOptions {
        PgConnectOptions::clone(&self.options).application_name(self.application).options([
            ("search_path", self.schema),
            ("statement_timeout", "30000"),
            ("lock_timeout", "10000"),
            ("idle_in_transaction_session_timeout", "60000"),
            ("synchronous_commit", "on"),
        ])
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn place(options: &PgConnectOptions) -> String {
    let host = options.get_socket().map_or_else(|| options.get_host().to_owned(), |socket| socket.display().to_string());
    let text = format!("{}@{host}:{}/{}", options.get_username(), options.get_port(), options.get_database().unwrap_or_default());
    escape_bounded(&text, 300)
}
