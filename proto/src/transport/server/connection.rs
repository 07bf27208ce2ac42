//! One connection: handshake, who it is, serving, end.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::http::{Extensions, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tonic::codegen::Service as _;
use tonic::service::Routes;

use super::registry::Entered;
use super::{Caller, ENROLL_STREAMS_MAX, ENROLL_WINDOW_BYTES, Limits, Peer, Shared};
use crate::transport::{ALPN_ENROLL, ALPN_MAIN};

/// A connection whose handshake is done and who is known.
pub(super) struct Accepted {
    io: TlsStream<TcpStream>,
    routes: Routes,
    extensions: Extensions,
    /// Its place among the peer's connections; none for an enrolment.
    entered: Option<Entered>,
    life: Duration,
    _permit: OwnedSemaphorePermit,
}

/// Does the handshake within its time. An error is the sentence to be logged.
pub(super) async fn handshake<N>(shared: &Arc<Shared<N>>, tcp: TcpStream, addr: SocketAddr) -> Result<Accepted, String>
where
    N: fmt::Display + Clone + Send + Sync + 'static,
{
    let deadline = Instant::now() + shared.limits.handshake_timeout;
    let late = || format!("no complete TLS handshake within {} s", shared.limits.handshake_timeout.as_secs_f32());
    // Small answers (acknowledgements, offers) must not wait for more to send.
    let _ = tcp.set_nodelay(true);
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp);
    let start = timeout_at(deadline, acceptor).await.map_err(|_| late())?.map_err(|e| tls_error(shared, &e))?;
    let enrolling = start.client_hello().alpn().is_some_and(|mut offered| offered.any(|p| p == ALPN_ENROLL));
    if enrolling && !shared.may_enroll(addr.ip()) {
        return Err("too many enrolments from this address; the limit recovers by itself".to_owned());
    }
    let (config, room) =
        if enrolling { ((shared.tls.enroll)(), &shared.enroll_connections) } else { ((shared.tls.main)(), &shared.connections) };
    let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
        return Err("the server has as many connections as it allows".to_owned());
    };
    let io = timeout_at(deadline, start.into_stream(config)).await.map_err(|_| late())?.map_err(|e| tls_error(shared, &e))?;
    let expected = if enrolling { ALPN_ENROLL } else { ALPN_MAIN };
    if io.get_ref().1.alpn_protocol() != Some(expected) {
        return Err("the peer offers no application protocol (ALPN); it is not a program of this system".to_owned());
    }
    let mut extensions = Extensions::new();
    extensions.insert(Caller { addr });
    if enrolling {
        let (routes, life) = (shared.services.enroll.clone(), shared.limits.enroll_lifetime);
        return Ok(Accepted { io, routes, extensions, entered: None, life, _permit: permit });
    }
    let chain = io.get_ref().1.peer_certificates().unwrap_or_default();
    let identity = (shared.tls.identify)(addr, chain)?;
    let entered = shared
        .registry
        .enter(identity.name.to_string(), addr, shared.limits.connections_per_peer_max)
        .map_err(|_| format!("{} has as many connections as one peer may have", identity.name))?;
    extensions.insert(Peer {
        name: identity.name,
        serial: identity.serial,
        leaf_sha256: identity.leaf_sha256,
        addr,
        connection: entered.id,
        end: Arc::clone(&entered.end),
    });
    let routes = shared.services.main.clone();
    Ok(Accepted { io, routes, extensions, entered: Some(entered), life: identity.valid_for, _permit: permit })
}

fn tls_error<N>(shared: &Shared<N>, error: &std::io::Error) -> String {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .map_or_else(|| format!("the connection broke during the TLS handshake: {error}"), |tls| (shared.tls.explain)(tls))
}

impl Accepted {
    /// Serves until the peer leaves, its certificate ends, it is disconnected, or the server stops.
    pub(super) async fn serve<N>(self, shared: &Arc<Shared<N>>) {
        let Self { io, routes, extensions, entered, life, _permit } = self;
        let spent = Arc::new(tokio::sync::Notify::new());
        let calls_left = entered.is_none().then(|| AtomicU32::new(ENROLL_CALLS_MAX));
        let service = PerConnection { routes, extensions, calls_left, spent: Arc::clone(&spent) };
        let connection = http2(&shared.limits, entered.is_none()).serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        let never = tokio::sync::Notify::new();
        let end = entered.as_ref().map_or(&never, |e| &*e.end);
        let mut stopping = shared.stopping.clone();
        // Cut short so that the sum of times cannot overflow; a connection of 30 days is asked to begin again.
        let expiry = sleep(life.min(LIFE_MAX));
        tokio::pin!(expiry);
        tokio::select! {
            // How a connection ends is the peer's business; the calls on it know what was left unfinished.
            _ = connection.as_mut() => return,
            () = end.notified() => return,
            () = spent.notified() => {}
            () = expiry => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
        // Asked to leave: no new calls, open ones may end within the grace. Whoever is disconnected goes at once.
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = connection.as_mut() => {}
            () = end.notified() => {}
            () = sleep_until(Instant::now() + shared.limits.grace) => {}
        }
    }
}

const LIFE_MAX: Duration = Duration::from_hours(30 * 24);

fn http2(limits: &Limits, enrolling: bool) -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_frame_size(limits.frame_bytes_max)
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_list_bytes_max)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    if enrolling {
        builder
            .initial_stream_window_size(ENROLL_WINDOW_BYTES)
            .initial_connection_window_size(ENROLL_WINDOW_BYTES)
            .max_frame_size(16_384)
            .max_concurrent_streams(ENROLL_STREAMS_MAX);
    }
    builder
}

/// The services of one connection: each request is told who sent it.
struct PerConnection {
    routes: Routes,
    extensions: Extensions,
    /// Calls that a stranger may still make on this connection; `None` for those who are known.
    calls_left: Option<AtomicU32>,
    /// Told when there is none left.
    spent: Arc<tokio::sync::Notify>,
}

/// Calls on one enrolment connection: an agent makes one, and one more for each answer that was lost. Connections are
/// limited by address, so this limits guesses.
const ENROLL_CALLS_MAX: u32 = 4;

impl hyper::service::Service<Request<Incoming>> for PerConnection {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(left) = &self.calls_left
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
        {
            self.spent.notify_one();
            let refused = Status::resource_exhausted("too many calls on this connection; connect again");
            return Box::pin(std::future::ready(Ok(refused.into_http())));
        }
        request.extensions_mut().extend(self.extensions.clone());
        // A router is always ready; a clone of it shares its routes.
        Box::pin(self.routes.clone().call(request))
    }
}
