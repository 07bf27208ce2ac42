//! Accepting connections: one port, two kinds. A client that offers the ALPN protocol of enrolment gets a connection
//! without a client certificate on which only enrolment is served; everybody else must prove who they are first.
//!
//! What strangers can cost is bounded: pending handshakes (in all and per address) and their time, connections (in all
//! and per peer), enrolments per address, streams and headers per connection.

mod connection;
mod limit;
mod registry;

pub use registry::ConnectionRegistry;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use exhibit_evidence::Digest;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::service::Routes;

use limit::Buckets;

/// Gives the TLS configuration for the next connection. It is asked each time, so that a new certificate or root counts
/// from the next connection on.
pub type ConfigSource = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Reads who the peer at an address is from the certificates that the handshake has verified, leaf first.
pub type Identify<N> = Arc<dyn Fn(SocketAddr, &[CertificateDer<'static>]) -> Result<Identity<N>, String> + Send + Sync>;

/// Told about every connection that was refused: from where, and why. It must not block.
pub type Refused = Arc<dyn Fn(SocketAddr, &str) + Send + Sync>;

/// TLS and names. `N` is the type of a peer's name.
pub struct Tls<N> {
    /// Configuration with client authentication.
    pub main: ConfigSource,
    /// Configuration for enrolment.
    pub enroll: ConfigSource,
    /// Reads the peer's name.
    pub identify: Identify<N>,
    /// Puts a TLS error into words.
    pub explain: fn(&rustls::Error) -> String,
    /// Told about every refused connection; [`log_refused`] logs them.
    pub refused: Refused,
}

impl<N> Clone for Tls<N> {
    fn clone(&self) -> Self {
        Self {
            main: Arc::clone(&self.main),
            enroll: Arc::clone(&self.enroll),
            identify: Arc::clone(&self.identify),
            explain: self.explain,
            refused: Arc::clone(&self.refused),
        }
    }
}

impl<N> fmt::Debug for Tls<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// Who a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity<N> {
    /// The name.
    pub name: N,
    /// Serial number of the certificate, hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate.
    pub leaf_sha256: Digest,
    /// How long the certificate remains valid. The connection is closed then: open calls get [`Limits::grace`] to end.
    pub valid_for: Duration,
}

/// The authenticated peer of a request: an extension of every request on a main connection.
#[derive(Debug, Clone)]
pub struct Peer<N> {
    /// The name.
    pub name: N,
    /// Serial number of the certificate, hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate.
    pub leaf_sha256: Digest,
    /// Where the connection comes from.
    pub addr: SocketAddr,
    /// Number of the connection within this process.
    pub connection: u64,
    end: Arc<Notify>,
}

impl<N> Peer<N> {
    /// Ends this connection with everything on it.
    pub fn disconnect(&self) {
        self.end.notify_one();
    }
}

/// Where a request comes from: an extension of every request, also of enrolments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The address.
    pub addr: SocketAddr,
}

/// What is served.
#[derive(Debug, Clone)]
pub struct Services {
    /// To authenticated peers.
    pub main: Routes,
    /// To whoever wants to enrol.
    pub enroll: Routes,
}

/// Bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time for a whole TLS handshake.
    pub handshake_timeout: Duration,
    /// Handshakes at once; further connections wait in the kernel's queue. One costs about 30 KiB.
    pub handshakes_max: usize,
    /// Handshakes at once from one address (one /64 network).
    pub handshakes_per_address_max: usize,
    /// Connections at once; further ones are closed. An idle one costs about 45 KiB.
    pub connections_max: usize,
    /// Connections at once with one peer's name.
    pub connections_per_peer_max: usize,
    /// Enrolment connections at once.
    pub enroll_connections_max: usize,
    /// Enrolment connections from one address at once, before the interval counts.
    pub enroll_burst: u32,
    /// One more enrolment connection from one address per this time.
    pub enroll_interval: Duration,
    /// Life of an enrolment connection.
    pub enroll_lifetime: Duration,
    /// Addresses whose enrolments are counted.
    pub addresses_max: usize,
    /// Bytes that one stream may send unread.
    pub stream_window_bytes: u32,
    /// Bytes that one connection may send unread. Enrolment connections get [`ENROLL_WINDOW_BYTES`] instead.
    pub connection_window_bytes: u32,
    /// Largest HTTP/2 frame.
    pub frame_bytes_max: u32,
    /// Calls at once on one connection.
    pub streams_max: u32,
    /// Largest header list of a request.
    pub header_list_bytes_max: u32,
    /// A ping is sent this often.
    pub keepalive_interval: Duration,
    /// The connection is dead when a ping is not answered within this time.
    pub keepalive_timeout: Duration,
    /// Time for open calls to end when the server stops or a certificate ends.
    pub grace: Duration,
}

/// What an enrolment connection may send unread: strangers get the smallest window that HTTP/2 knows, and a request fits.
pub const ENROLL_WINDOW_BYTES: u32 = 65_535;
/// Calls at once on an enrolment connection.
pub const ENROLL_STREAMS_MAX: u32 = 4;

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            handshakes_max: 512,
            handshakes_per_address_max: 128,
            connections_max: 20_000,
            connections_per_peer_max: 16,
            enroll_connections_max: 64,
            enroll_burst: 20,
            enroll_interval: Duration::from_secs(3),
            enroll_lifetime: Duration::from_secs(30),
            addresses_max: 4_096,
            stream_window_bytes: 16 << 20,
            connection_window_bytes: 32 << 20,
            frame_bytes_max: 1 << 20,
            streams_max: 64,
            header_list_bytes_max: 16 << 10,
            keepalive_interval: Duration::from_mins(1),
            keepalive_timeout: Duration::from_secs(20),
            grace: Duration::from_secs(10),
        }
    }
}

/// Everything that the tasks of one server share.
pub(super) struct Shared<N> {
    pub(super) tls: Tls<N>,
    pub(super) services: Services,
    pub(super) limits: Limits,
    pub(super) registry: ConnectionRegistry,
    pub(super) connections: Arc<Semaphore>,
    pub(super) enroll_connections: Arc<Semaphore>,
    enrolments: Mutex<Buckets>,
    pending: Mutex<HashMap<IpAddr, usize>>,
    started: Instant,
    /// True when the server stops.
    pub(super) stopping: watch::Receiver<bool>,
}

impl<N> Shared<N> {
    pub(super) fn may_enroll(&self, ip: IpAddr) -> bool {
        self.enrolments.lock().unwrap_or_else(PoisonError::into_inner).take(ip, self.started.elapsed())
    }

    pub(super) fn refuse(&self, addr: SocketAddr, why: &str) {
        (self.tls.refused)(addr, why);
    }
}

/// Accepts and serves connections until `shutdown` ends. Then nothing new is accepted, open calls get
/// [`Limits::grace`] to end, and what is left is cut.
///
/// Errors of single connections are told to [`Tls::refused`]. When accepting itself fails (no file descriptors, no
/// memory) the loop waits, up to a second, and goes on: connections that exist are not touched.
pub async fn serve<N>(
    listener: TcpListener,
    tls: Tls<N>,
    services: Services,
    limits: Limits,
    registry: ConnectionRegistry,
    shutdown: impl Future<Output = ()>,
) where
    N: fmt::Display + Clone + Send + Sync + 'static,
{
    let (stop, stopping) = watch::channel(false);
    let handshakes = Arc::new(Semaphore::new(limits.handshakes_max.clamp(1, Semaphore::MAX_PERMITS)));
    let shared = Arc::new(Shared {
        tls,
        services: Services { main: services.main.prepare(), enroll: services.enroll.prepare() },
        registry,
        connections: Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS))),
        enroll_connections: Arc::new(Semaphore::new(limits.enroll_connections_max.clamp(1, Semaphore::MAX_PERMITS))),
        enrolments: Mutex::new(Buckets::new(limits.enroll_burst, limits.enroll_interval, limits.addresses_max)),
        pending: Mutex::new(HashMap::new()),
        started: Instant::now(),
        stopping,
        limits,
    });
    let mut tasks = JoinSet::new();
    tokio::pin!(shutdown);
    {
        // Kept across turns of the loop, so that a task that ends does not cut a pause short.
        let accepting = accept(&listener, &handshakes);
        tokio::pin!(accepting);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                // Finished tasks are taken out, or the set would grow for ever.
                Some(_) = tasks.join_next() => {}
                (tcp, addr, permit) = &mut accepting => {
                    accepting.set(accept(&listener, &handshakes));
                    begin(&mut tasks, &shared, tcp, addr, permit);
                }
            }
        }
    }
    // Whoever comes now is refused by the kernel instead of waiting for nobody.
    drop(listener);
    let _ = stop.send(true);
    // Connections end by themselves within the grace; a second more for those that are being cut.
    let all = async { while tasks.join_next().await.is_some() {} };
    let _ = timeout(limits.grace + Duration::from_secs(1), all).await;
    tasks.shutdown().await;
}

/// The next connection, once there is room for its handshake.
async fn accept(listener: &TcpListener, handshakes: &Arc<Semaphore>) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed, so there is always a permit in the end.
    let permit = Arc::clone(handshakes).acquire_owned().await.ok();
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        match listener.accept().await {
            Ok((tcp, addr)) => return (tcp, addr, permit),
            // The connection was gone before it was accepted; the next one may be fine.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(e) => {
                tracing::warn!(
                    error = %e,
                    pause_ms = pause.as_millis() as u64,
                    "cannot accept connections, waiting; if the limit of open files is the cause, raise LimitNOFILE"
                );
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

fn begin<N>(tasks: &mut JoinSet<()>, shared: &Arc<Shared<N>>, tcp: TcpStream, addr: SocketAddr, permit: Option<OwnedSemaphorePermit>)
where
    N: fmt::Display + Clone + Send + Sync + 'static,
{
    let Some(pending) = Pending::enter(shared, addr.ip()) else {
        shared.refuse(addr, "too many handshakes from this address at once");
        return;
    };
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        let accepted = connection::handshake(&shared, tcp, addr).await;
        // The handshake is over: make room for the next before serving this one.
        drop((permit, pending));
        match accepted {
            Ok(accepted) => accepted.serve(&shared).await,
            Err(why) => shared.refuse(addr, &why),
        }
    });
}

/// A pending handshake's count in its address' row.
struct Pending<N> {
    shared: Arc<Shared<N>>,
    origin: IpAddr,
}

impl<N> Pending<N> {
    fn enter(shared: &Arc<Shared<N>>, ip: IpAddr) -> Option<Self> {
        let origin = limit::origin(ip);
        let mut table = shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        // Rows exist only for pending handshakes, so the table is as bounded as they are.
        let count = table.entry(origin).or_insert(0);
        if *count >= shared.limits.handshakes_per_address_max.max(1) {
            return None;
        }
        *count += 1;
        drop(table);
        Some(Self { shared: Arc::clone(shared), origin })
    }
}

impl<N> Drop for Pending<N> {
    fn drop(&mut self) {
        let mut table = self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = table.get_mut(&self.origin) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                table.remove(&self.origin);
            }
        }
    }
}

/// A receiver of [`Tls::refused`] that logs refusals, as bounded as [`tell_refused`].
#[must_use]
pub fn log_refused() -> Refused {
    tell_refused(|_, _, _| {})
}

/// A receiver of [`Tls::refused`] that logs refusals and tells them on, at most [`REFUSALS_LOGGED_MAX`] in ten seconds, so that a
/// stranger cannot fill the log; how many were left out is said with the next one.
#[must_use]
pub fn tell_refused(tell: impl Fn(SocketAddr, &str, u64) + Send + Sync + 'static) -> Refused {
    let (started, window) = (Instant::now(), Mutex::new(LogWindow::default()));
    Arc::new(move |addr, why| {
        let admitted = window.lock().unwrap_or_else(PoisonError::into_inner).admit(started.elapsed());
        if let Some(left_out) = admitted {
            tracing::warn!(peer = %addr, why, left_out, "connection refused");
            tell(addr, why, left_out);
        }
    })
}

/// Refused connections that are logged in ten seconds.
pub const REFUSALS_LOGGED_MAX: u32 = 20;
const LOG_WINDOW: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct LogWindow {
    from: Duration,
    logged: u32,
    left_out: u64,
}

impl LogWindow {
    /// `None` when this one is not logged, else how many were not since the last that was.
    fn admit(&mut self, now: Duration) -> Option<u64> {
        if now.saturating_sub(self.from) >= LOG_WINDOW {
            (self.from, self.logged) = (now, 0);
        }
        if self.logged >= REFUSALS_LOGGED_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_does_not_fill_the_log() {
        let mut window = LogWindow::default();
        let logged = (0..1_000).filter(|_| window.admit(Duration::from_secs(3)).is_some()).count();
        assert_eq!(logged, 20);
        assert_eq!(window.admit(Duration::from_secs(9)), None);
        assert_eq!(window.admit(Duration::from_secs(10)), Some(981));
        assert_eq!(window.admit(Duration::from_secs(10)), Some(0));
    }
}
