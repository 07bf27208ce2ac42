//! Connecting to the coordinator.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::text::escape_bounded;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncBufReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// Where the coordinator is: `host:port`, `192.0.2.1:port` or `[2001:db8::1]:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    name: ServerName<'static>,
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an address: expected HOST:PORT, with an IPv6 address in brackets, like coordinator.example:7420 or [::1]:7420")]
pub struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;
    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(escape_bounded(text, 120));
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bracketed = host.strip_prefix('[').map(|h| h.strip_suffix(']').ok_or_else(bad)).transpose()?;
        // A colon is possible only in an IPv6 address, and that only in brackets.
        let host = match bracketed {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            None if !host.contains(':') => host,
            _ => return Err(bad()),
        };
        let port = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok()).flatten().filter(|p| *p != 0).ok_or_else(bad)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        Ok(Self { host: host.to_owned(), port, name })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

impl Address {
    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// Gives the TLS configuration for the next connection. It is asked each time, so that a renewed certificate is used
/// from the next connection on.
pub type ConfigSource = Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>;

/// What to connect to, and how to prove who we are.
#[derive(Clone)]
pub struct Target {
    /// Where.
    pub address: Address,
    /// TLS configuration; its first ALPN protocol is the one that the server must choose.
    pub tls: ConfigSource,
    /// Puts a TLS error into words.
    pub explain: fn(&rustls::Error) -> String,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.address)
    }
}

/// Sizes and times of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Bytes that one stream may receive unread.
    pub stream_window_bytes: u32,
    /// Bytes that all streams together may receive unread: what the connection may cost in memory.
    pub connection_window_bytes: u32,
    /// Time for name resolution, TCP, TLS and the server's first answer together.
    pub connect_timeout: Duration,
    /// A ping is sent after this much silence, also while no call is open.
    pub keepalive_interval: Duration,
    /// The connection is dead when the ping is not answered within this time.
    pub keepalive_timeout: Duration,
    /// Largest header list that is accepted, in bytes.
    pub header_list_bytes_max: u32,
}

impl Settings {
    /// For an agent: it receives orders and acknowledgements, and its memory is scarce.
    #[must_use]
    pub const fn small() -> Self {
        Self {
            stream_window_bytes: 128 << 10,
            connection_window_bytes: 256 << 10,
            connect_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            header_list_bytes_max: 16 << 10,
        }
    }

    /// For a responder, who downloads evidence.
    #[must_use]
    pub const fn bulk() -> Self {
        Self { stream_window_bytes: 16 << 20, connection_window_bytes: 32 << 20, ..Self::small() }
    }
}

/// What to do about a failed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectErrorKind {
    /// Nobody answered, or the connection broke: try again later.
    Unreachable,
    /// One of the two certificates is at fault: renew it, enrol again, or correct a clock, an address or a pin.
    /// Trying again without that is useless.
    Identity,
    /// Somebody answered who is not a coordinator.
    Protocol,
}

/// Why there is no connection: one sentence with the address, the cause and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot connect to the coordinator at {address}: {why}")]
pub struct ConnectError {
    kind: ConnectErrorKind,
    address: String,
    why: String,
}

impl ConnectError {
    /// What to do.
    #[must_use]
    pub const fn kind(&self) -> ConnectErrorKind {
        self.kind
    }

    fn new(kind: ConnectErrorKind, address: &Address, why: impl Into<String>) -> Self {
        Self { kind, address: address.to_string(), why: why.into() }
    }
}

/// Connects. Returns when the server has accepted the connection with our certificate; a refusal is an error here and
/// not of the first call. The channel connects again by itself at the next call after the connection was lost, with the
/// same checks; a caller that repeats calls waits between them.
///
/// # Errors
/// [`ConnectError`]
pub async fn connect(target: &Target, settings: &Settings) -> Result<Channel, ConnectError> {
    let address = &target.address;
    // The gRPC library sees plain bytes: TLS is ours. The authority is what the server sees as the host name.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| ConnectError::new(ConnectErrorKind::Protocol, address, e.to_string()))?
        .initial_stream_window_size(settings.stream_window_bytes)
        .initial_connection_window_size(settings.connection_window_bytes)
        .http2_keep_alive_interval(settings.keepalive_interval)
        .keep_alive_timeout(settings.keepalive_timeout)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(settings.header_list_bytes_max);
    let (connect_target, timeout) = (target.clone(), settings.connect_timeout);
    let connector = tower::service_fn(move |_| {
        let target = connect_target.clone();
        async move { open(&target, timeout).await.map(TokioIo::new) }
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|e| find_connect_error(&e).unwrap_or_else(|| ConnectError::new(ConnectErrorKind::Unreachable, address, chain_text(&e))))
}

/// One connection: resolve, TCP, TLS, and the server's first bytes.
async fn open(target: &Target, timeout: Duration) -> Result<TlsStream<TcpStream>, ConnectError> {
    let address = &target.address;
    let deadline = Instant::now() + timeout;
    let late = |stage: &str| {
        ConnectError::new(
            ConnectErrorKind::Unreachable,
            address,
            format!("no {stage} within {} s; is a firewall in between?", timeout.as_secs()),
        )
    };
    let tcp = timeout_at(deadline, dial(address)).await.map_err(|_| late("TCP connection"))??;
    // Small messages (heartbeats, acknowledgements) must not wait for more to send.
    let _ = tcp.set_nodelay(true);
    let config = (target.tls)();
    let alpn = config.alpn_protocols.first().cloned();
    let mut tls = timeout_at(deadline, TlsConnector::from(config).connect(address.name.clone(), tcp))
        .await
        .map_err(|_| late("TLS handshake"))?
        .map_err(|e| tls_error(target, &e, "during the TLS handshake"))?;
    if tls.get_ref().1.alpn_protocol() != alpn.as_deref() {
        return Err(ConnectError::new(ConnectErrorKind::Protocol, address, "it speaks TLS but not our protocol; is this the right port?"));
    }
    // In TLS 1.3 the client is done before the server has looked at the client's certificate. An HTTP/2 server speaks
    // first (its SETTINGS), so its first bytes say that it has accepted us; they stay in the buffer for HTTP/2.
    match timeout_at(deadline, tls.fill_buf()).await.map_err(|_| late("answer after the TLS handshake"))? {
        Ok([]) => Err(tls_error(target, &io::ErrorKind::UnexpectedEof.into(), "after the TLS handshake")),
        Ok(_) => Ok(tls),
        Err(e) => Err(tls_error(target, &e, "after the TLS handshake")),
    }
}

/// Tries every address of the name in the resolver's order.
async fn dial(address: &Address) -> Result<TcpStream, ConnectError> {
    let unreachable = |why: String| ConnectError::new(ConnectErrorKind::Unreachable, address, why);
    let found = tokio::net::lookup_host((address.host(), address.port()))
        .await
        .map_err(|e| unreachable(format!("cannot resolve the name '{}': {e}", address.host())))?;
    let mut failures: Vec<(SocketAddr, io::Error)> = Vec::new();
    for candidate in found.take(ADDRESSES_MAX) {
        match tokio::time::timeout(ADDRESS_TIMEOUT, TcpStream::connect(candidate)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(e)) => failures.push((candidate, e)),
            Err(_) => failures.push((candidate, io::ErrorKind::TimedOut.into())),
        }
    }
    if failures.is_empty() {
        return Err(unreachable(format!("the name '{}' has no address", address.host())));
    }
    let all: Vec<String> = failures.iter().map(|(at, e)| format!("{at}: {e}")).collect();
    Err(unreachable(format!("{}; is it running and listening there?", all.join("; "))))
}

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Time for one address, so that a dead first one leaves time for the next.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(4);

fn tls_error(target: &Target, error: &io::Error, when: &str) -> ConnectError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => {
            ConnectError::new(ConnectErrorKind::Protocol, &target.address, "it does not speak TLS; is this the right port?")
        }
        Some(tls) => ConnectError::new(ConnectErrorKind::Identity, &target.address, (target.explain)(tls)),
        None => ConnectError::new(
            ConnectErrorKind::Unreachable,
            &target.address,
            format!(
                "it closed the connection {when} ({error}); it may be starting and waiting for its store or database, overloaded, stopping, \
                 or limiting enrolments from this address"
            ),
        ),
    }
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |e: &&'a (dyn StdError + 'static)| (*e).source()).take(CAUSES_MAX)
}

/// Longest chain of causes that is followed.
const CAUSES_MAX: usize = 16;

/// The connection error inside another error, if there is one.
#[must_use]
pub fn find_connect_error(error: &(dyn StdError + 'static)) -> Option<ConnectError> {
    causes(error).find_map(|e| e.downcast_ref::<ConnectError>()).cloned()
}

/// The causes of an error, outermost first, without those that only repeat.
fn chain_text(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error).map(|e| escape_bounded(&e.to_string(), 300)) {
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

/// A failed call in words: the server's message, or why there was no connection.
#[must_use]
pub fn describe(status: &tonic::Status) -> String {
    if let Some(error) = find_connect_error(status) {
        return error.to_string();
    }
    let message = escape_bounded(status.message(), 1_000);
    let cause = status.source().map(chain_text).filter(|cause| !cause.is_empty() && *cause != message);
    match (message.is_empty(), cause) {
        (false, None) => message,
        (false, Some(cause)) => format!("{message}: {cause}"),
        (true, Some(cause)) => cause,
        (true, None) => format!("{:?}: {}", status.code(), status.code().description()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_all_kinds_round_trip() {
        for text in ["localhost:7443", "192.0.2.1:1", "[2001:db8::1]:65535", "a.example-corp.test:7443"] {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()).as_deref(), Ok(text));
        }
        for text in [
            "",
            "localhost",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "::1:7443",
            "[::1]",
            "[localhost]:1",
            "a b:1",
            "h:+1",
            ":1",
            "https://h:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_status_is_told_with_its_causes_and_without_escapes() {
        assert_eq!(describe(&tonic::Status::not_found("no case\x1b[2J")), "no case\\x1b[2J");
        let error = ConnectError::new(ConnectErrorKind::Identity, &"h:1".parse().expect("address"), "its certificate has expired");
        let mut status = tonic::Status::unavailable("tcp connect error");
        status.set_source(Arc::new(error));
        assert_eq!(describe(&status), "cannot connect to the coordinator at h:1: its certificate has expired");
        assert!(!describe(&tonic::Status::new(tonic::Code::Internal, "")).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_handled(text: String) {
            let _ = text.parse::<Address>();
        }
    }
}
