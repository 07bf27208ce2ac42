//! A TCP proxy that does to connections what networks do: cuts, resets, stalls, slowness, half-closed connections, one
//! that still looks alive at one end only, a flipped byte, an outage.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// Which way bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the agent.
    Up,
    /// To the agent.
    Down,
}

/// What happens to the connection on which a certain byte passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Both ends see the connection closed.
    Cut,
    /// Both ends see it reset.
    Reset,
    /// Nothing passes on any connection for so long.
    Stall(Duration),
    /// At most so many bytes a second pass each way for so long.
    Throttle(u64, Duration),
    /// This way is closed, the other one stays open.
    HalfClose,
    /// The agent sees it closed; the coordinator sees it alive for so long.
    Orphan(Duration),
    /// One bit of the bytes is flipped.
    Flip,
    /// All connections are cut and new ones are cut at once, for so long.
    Outage(Duration),
}

/// A break that waits for its byte, counted over all connections of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetFault {
    /// Which way.
    pub way: Way,
    /// After so many bytes.
    pub at: u64,
    /// What happens.
    pub what: Break,
}

#[derive(Debug)]
struct Weather {
    faults: Vec<NetFault>,
    still_until: Instant,
    slow: Option<(u64, Instant)>,
    out_until: Instant,
}

#[derive(Debug)]
struct Shared {
    upstream: AtomicU16,
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
    weather: Mutex<Weather>,
    /// Counts outages: every connection that is older than the newest is cut.
    outages: watch::Sender<u64>,
}

/// The proxy; ends with its value.
#[derive(Debug)]
pub struct Proxy {
    /// Where agents connect to.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How one connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Cut,
    Reset,
    Orphan(Duration),
}

impl Proxy {
    /// Listens on a free port of loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let addr = listener.local_addr().expect("address");
        let now = Instant::now();
        let shared = Arc::new(Shared {
            upstream: AtomicU16::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            weather: Mutex::new(Weather { faults: Vec::new(), still_until: now, slow: None, out_until: now }),
            outages: watch::Sender::new(0),
        });
        let accepting = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((client, _)) = accepted {
                        running.spawn(connection(Arc::clone(&accepting), client));
                    },
                    Some(_) = running.join_next() => {}
                }
            }
        });
        Self { addr, shared, task }
    }

    /// Where connections go to; port 0 is nowhere.
    pub fn lead_to(&self, port: u16) {
        self.shared.upstream.store(port, Ordering::Release);
    }

    /// Adds breaks.
    pub fn arm(&self, faults: &[NetFault]) {
        self.shared.weather().faults.extend(faults);
    }

    /// All connections are cut and new ones are cut at once, for so long or until [`Proxy::heal`].
    pub fn outage(&self, time: Duration) {
        self.shared.outage(time);
    }

    /// Nothing breaks from now on. What was left half-open stays so for its time.
    pub fn heal(&self) {
        let now = Instant::now();
        *self.shared.weather() = Weather { faults: Vec::new(), still_until: now, slow: None, out_until: now };
    }

    /// Bytes that agents sent so far, TLS included.
    pub fn up_bytes(&self) -> u64 {
        self.shared.up.load(Ordering::Relaxed)
    }

    /// Bytes that agents were sent so far, TLS included.
    pub fn down_bytes(&self) -> u64 {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn weather(&self) -> std::sync::MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outage(&self, time: Duration) {
        self.weather().out_until = Instant::now() + time;
        self.outages.send_modify(|n| *n += 1);
    }

    /// The break that these bytes meet, and how many of them pass before it.
    fn meets(&self, way: Way, count: u64) -> Option<(Break, u64)> {
        let counter = if way == Way::Up { &self.up } else { &self.down };
        let before = counter.fetch_add(count, Ordering::Relaxed);
        let mut weather = self.weather();
        let index = weather.faults.iter().position(|f| f.way == way && f.at < before + count)?;
        let fault = weather.faults.remove(index);
        Some((fault.what, fault.at.saturating_sub(before)))
    }

    /// Waits while nothing passes, and as long as slowness asks for.
    async fn wait(&self, count: u64) {
        loop {
            let until = self.weather().still_until;
            if until <= Instant::now() {
                break;
            }
            // Short steps, because a heal moves the end.
            sleep_until(until.min(Instant::now() + Duration::from_millis(20))).await;
        }
        let slow = self.weather().slow;
        if let Some((per_s, until)) = slow
            && until > Instant::now()
        {
            sleep(Duration::from_secs_f64(count as f64 / per_s as f64)).await;
        }
    }
}

async fn connection(shared: Arc<Shared>, client: TcpStream) {
    shared.connections.fetch_add(1, Ordering::Relaxed);
    let mut outages = shared.outages.subscribe();
    outages.mark_unchanged();
    let port = shared.upstream.load(Ordering::Acquire);
    if port == 0 || shared.weather().out_until > Instant::now() {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let end = tokio::select! {
        // A direction that only ends leaves the other one open; one that breaks ends both.
        end = both(&shared, from_client, to_server, from_server, to_client) => end,
        _ = outages.changed() => (End::Cut, None),
    };
    match end {
        (End::Orphan(time), Some(kept)) => {
            sleep(time).await;
            drop(kept);
        }
        _ => drop(end),
    }
}

/// The sockets towards the coordinator, kept when the agent's are gone.
type Kept = (OwnedReadHalf, OwnedWriteHalf);

async fn both(
    shared: &Shared,
    mut from_client: OwnedReadHalf,
    mut to_server: OwnedWriteHalf,
    mut from_server: OwnedReadHalf,
    mut to_client: OwnedWriteHalf,
) -> (End, Option<Kept>) {
    let end = {
        let up = pump(shared, Way::Up, &mut from_client, &mut to_server);
        let down = pump(shared, Way::Down, &mut from_server, &mut to_client);
        tokio::pin!(up, down);
        let (mut up_open, mut down_open) = (true, true);
        loop {
            let ended = tokio::select! {
                end = &mut up, if up_open => { up_open = false; end }
                end = &mut down, if down_open => { down_open = false; end }
                else => Some(End::Cut),
            };
            if let Some(end) = ended {
                break end;
            }
        }
    };
    if end == End::Reset {
        for socket in [to_client.as_ref(), to_server.as_ref()] {
            let _ = socket.set_zero_linger();
        }
    }
    drop((from_client, to_client));
    (end, Some((from_server, to_server)))
}

/// Passes bytes one way. `None` when this way was closed in order and the other may go on.
async fn pump(shared: &Shared, way: Way, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> Option<End> {
    let mut buffer = vec![0_u8; 16 << 10];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return Some(End::Cut) };
        if count == 0 {
            let _ = to.shutdown().await;
            return None;
        }
        let bytes = &mut buffer[..count];
        let met = shared.meets(way, count as u64);
        let passed = met.map_or(count, |(_, passed)| (passed as usize).min(count));
        shared.wait(passed as u64).await;
        if to.write_all(&bytes[..passed]).await.is_err() {
            return Some(End::Cut);
        }
        match met.map(|(what, _)| what) {
            None => continue,
            Some(Break::Cut) => return Some(End::Cut),
            Some(Break::Reset) => return Some(End::Reset),
            Some(Break::Orphan(time)) => return Some(End::Orphan(time)),
            Some(Break::HalfClose) => {
                let _ = to.shutdown().await;
                return None;
            }
            Some(Break::Flip) => bytes[passed..].iter_mut().take(1).for_each(|b| *b ^= 0x10),
            Some(Break::Stall(time)) => shared.weather().still_until = Instant::now() + time,
            Some(Break::Throttle(per_s, time)) => shared.weather().slow = Some((per_s, Instant::now() + time)),
            Some(Break::Outage(time)) => {
                shared.outage(time);
                return Some(End::Cut);
            }
        }
        shared.wait((count - passed) as u64).await;
        if to.write_all(&bytes[passed..]).await.is_err() {
            return Some(End::Cut);
        }
    }
}
