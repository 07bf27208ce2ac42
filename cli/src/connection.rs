//! The responder's identity in EXHIBIT_HOME and the authenticated connection to the coordinator.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use exhibit_certs::credential::Credential;
use exhibit_certs::enrol::Enroller;
use exhibit_certs::tls;
use exhibit_evidence::age::Identity;
use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::text::escape_bounded;
use exhibit_proto::log::v1::log_service_client::LogServiceClient;
use exhibit_proto::responder::v1 as pb;
use exhibit_proto::responder::v1::responder_service_client::ResponderServiceClient;
use exhibit_proto::transport::client;
use exhibit_proto::{bounds, version};
use serde::Deserialize;

use crate::exit::{Code, Failure, Result};

/// `config.toml` in EXHIBIT_HOME.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// `HOST:PORT` of the coordinator, or of several that are tried in turn.
    coordinator: OneOrMore,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn addresses(&self) -> &[String] {
        match self {
            Self::One(address) => std::slice::from_ref(address),
            Self::More(addresses) => addresses,
        }
    }
}

/// An open connection whose identity the coordinator has confirmed.
pub struct Connection {
    rpc: ResponderServiceClient<tonic::transport::Channel>,
    log: LogServiceClient<tonic::transport::Channel>,
    credential: Credential,
    address: String,
    whoami: pb::WhoamiResponse,
    home: PathBuf,
    /// What decrypts items of encrypted cases here.
    identities: Arc<[Identity]>,
    /// A person sees how long work goes on.
    watched: bool,
}

fn config_failure(message: String) -> Failure {
    Failure::new(Code::Config, message)
}

/// The message of a connection error names cause and remedy; a hint is for what it cannot know.
fn cannot_connect(e: &client::ConnectError) -> Failure {
    let failure = Failure::new(Code::Unavailable, e.to_string());
    match e.kind() {
        client::ConnectErrorKind::Unreachable => {
            failure.hint("check that the coordinator runs, and the address in EXHIBIT_HOME/config.toml")
        }
        client::ConnectErrorKind::Protocol => failure.hint("check the address in EXHIBIT_HOME/config.toml"),
        client::ConnectErrorKind::Identity => failure,
    }
}

/// `--home`, EXHIBIT_HOME, or `exhibit` in the user's configuration folder.
fn home_folder(given: Option<&Path>) -> Result<PathBuf> {
    let named = given.map(Path::to_path_buf).or_else(|| std::env::var_os("EXHIBIT_HOME").map(PathBuf::from));
    if let Some(path) = named {
        let empty = || config_failure("EXHIBIT_HOME is empty".to_owned()).hint("export EXHIBIT_HOME=DIR, or give --home DIR");
        return Some(path).filter(|p| !p.as_os_str().is_empty()).ok_or_else(empty);
    }
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".config")));
    base.map(|b| b.join("exhibit")).filter(|p| p.is_dir()).ok_or_else(|| {
        config_failure("no identity: EXHIBIT_HOME is not set".to_owned())
            .hint("export EXHIBIT_HOME=DIR, or give --home DIR, with the folder that you got from your admin")
    })
}

fn load_config(home: &Path) -> Result<Config> {
    let file = home.join("config.toml");
    let text = std::fs::read_to_string(&file).map_err(|e| {
        config_failure(format!("cannot read {}: {e}", file.display()))
            .hint("EXHIBIT_HOME must name the folder with your identity and config.toml")
    })?;
    // toml's error names line, column and key.
    toml::from_str(&text).map_err(|e| {
        config_failure(format!("{}: {}", file.display(), e.to_string().trim_end()))
            .hint("the file needs one line: coordinator = \"HOST:PORT\", or [\"HOST:PORT\", ...] for several")
    })
}

/// The anchor of the identity, without asking anybody.
pub fn own_anchor(home: Option<&Path>) -> Result<Anchor> {
    let home = home_folder(home)?;
    let credential = Credential::load(&home);
    Ok(credential.map_err(|e| unusable(&home, &e))?.anchor)
}

/// The folder is there, and what lies in it is no identity.
fn unusable(home: &Path, e: &dyn std::fmt::Display) -> Failure {
    config_failure(format!("the identity in {} cannot be used: {e}", home.display())).hint(
        "if another folder is yours: export EXHIBIT_HOME=DIR. Else bring it back from its backup, or make new keys for an admin to enrol: \
         exhibit person request --name NAME --dir NEW --anchor ANCHOR --out REQUEST",
    )
}

impl Connection {
    /// Loads the identity, connects to the first coordinator that answers, negotiates the protocol version.
    pub async fn open(home: Option<&Path>) -> Result<Self> {
        let home = home_folder(home)?;
        let config = load_config(&home)?;
        let no_address = || config_failure(format!("{}: coordinator names no address", home.join("config.toml").display()));
        let mut last = no_address();
        for address in config.coordinator.addresses() {
            match Self::open_at(&home, address).await {
                // Another one may be there.
                Err(failure) if failure.code == Code::Unavailable => last = failure,
                other => return other,
            }
        }
        Err(last)
    }

    async fn open_at(home: &Path, at: &str) -> Result<Self> {
        let credential = Credential::load(home).map_err(|e| unusable(home, &e))?;
        let tls_config = tls::client_config(&credential.tls, &credential.tls_root).map_err(|e| unusable(home, &e))?;
        let address: client::Address = at.parse().map_err(|e| {
            config_failure(format!("{}: coordinator = '{}': {e}", home.join("config.toml").display(), escape_bounded(at, 120)))
        })?;
        let target = client::Target { address, tls: Arc::new(move || Arc::clone(&tls_config)), explain: tls::explain_tls_error };
        let channel = client::connect(&target, &client::Settings::bulk()).await.map_err(|e| cannot_connect(&e))?;
        let log = LogServiceClient::new(channel.clone()).max_decoding_message_size(bounds::MESSAGE_BYTES_MAX);
        let mut rpc = ResponderServiceClient::new(channel).max_decoding_message_size(bounds::MESSAGE_BYTES_MAX);
        let whoami = rpc
            .whoami(pb::WhoamiRequest { protocol_min: version::MIN, protocol_max: version::MAX })
            .await
            .map_err(Failure::from)?
            .into_inner();
        let connection =
            Self { rpc, log, credential, address: at.to_owned(), whoami, home: home.to_owned(), identities: Arc::from([]), watched: false };
        connection.check_identity()?;
        Ok(connection)
    }

    /// Connects anew, with the same identity, after the connection was lost.
    pub async fn reopen(&mut self) -> Result<()> {
        let (identities, watched) = (Arc::clone(&self.identities), self.watched);
        *self = Self { identities, watched, ..Self::open(Some(&self.home)).await? };
        Ok(())
    }

    /// Whether a person watches, who is shown how long work goes on.
    pub const fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// See [`Connection::set_watched`].
    pub const fn is_watched(&self) -> bool {
        self.watched
    }

    /// From now on items of encrypted cases are decrypted with these.
    pub fn decrypt_with(&mut self, identities: Vec<Identity>) {
        self.identities = identities.into();
    }

    /// What decrypts items of encrypted cases.
    pub fn identities(&self) -> Arc<[Identity]> {
        Arc::clone(&self.identities)
    }

    /// The coordinator must be of the deployment that we signed up with: what we sign names it.
    fn check_identity(&self) -> Result<()> {
        let ours = &self.credential.anchor.deployment;
        if self.whoami.deployment != *ours {
            let theirs = escape_bounded(&self.whoami.deployment, 80);
            return Err(Failure::new(
                Code::NotPermitted,
                format!("the coordinator belongs to deployment '{theirs}', this identity to '{ours}'"),
            )
            .hint("check the address in EXHIBIT_HOME/config.toml, or use your identity of that deployment: --home DIR"));
        }
        if self.whoami.name != self.name() {
            let theirs = escape_bounded(&self.whoami.name, 120);
            return Err(Failure::new(Code::NotPermitted, format!("the coordinator sees '{theirs}', the identity is '{}'", self.name())));
        }
        Ok(())
    }

    /// The service.
    pub const fn rpc(&mut self) -> &mut ResponderServiceClient<tonic::transport::Channel> {
        &mut self.rpc
    }

    /// The service of the custody logs.
    pub const fn log_rpc(&mut self) -> &mut LogServiceClient<tonic::transport::Channel> {
        &mut self.log
    }

    /// What this identity trusts: the deployment's name and root key.
    pub const fn anchor(&self) -> &Anchor {
        &self.credential.anchor
    }

    /// The responder's evidence key.
    pub const fn evidence_key(&self) -> &SigningKey {
        &self.credential.evidence
    }

    /// This person as one that enrols others.
    pub fn enroller(&self) -> Enroller<'_> {
        self.credential.enroller()
    }

    /// The responder's SPIFFE-style URI.
    pub fn name(&self) -> String {
        self.credential.name().to_string()
    }

    /// The deployment.
    pub fn deployment(&self) -> &str {
        &self.credential.anchor.deployment
    }

    /// `HOST:PORT` as configured.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the coordinator said about us.
    pub const fn whoami(&self) -> &pb::WhoamiResponse {
        &self.whoami
    }
}

/// Parses an id that a person typed.
pub fn parse_id<T: std::str::FromStr>(text: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| Failure::new(Code::Input, e.to_string()).hint_from(LISTS_OF_IDS))
}

/// What a text that is no id was meant to be, and where those are listed.
const LISTS_OF_IDS: &[(&str, &str)] = &[
    ("is not a case id", "exhibit case list"),
    ("is not an order id", "exhibit collections"),
    ("is not a collection id", "exhibit collections"),
    ("is not an agent id", "exhibit agents"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_evidence::{AgentId, CaseId, CollectionId, OrderId};

    #[test]
    fn whoever_gives_no_id_hears_where_they_are() {
        let hint = |failure: Failure| failure.hint.expect("a hint");
        assert_eq!(hint(parse_id::<CaseId>("web-1").expect_err("no id")), "exhibit case list");
        assert_eq!(hint(parse_id::<OrderId>("").expect_err("no id")), "exhibit collections");
        assert_eq!(hint(parse_id::<CollectionId>("1").expect_err("no id")), "exhibit collections");
        assert_eq!(hint(parse_id::<AgentId>("web-1").expect_err("no id")), "exhibit agents");
    }
}
