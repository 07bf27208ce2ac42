//! A long line: a TCP proxy on loopback that hands everything on later, at full bandwidth.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Largest piece that is read at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that are on the line at once, in one direction: 1 GiB in the worst case, so the line itself never is the limit
/// (80 ms at 10 GB/s are 800 MB).
const PIECES_MAX: usize = 4096;

/// Delays each direction of every connection by the same time and does not limit how much is under way. It ends when it
/// is dropped; connections end with their ends.
#[derive(Debug)]
pub struct DelayProxy {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

/// What was read, and when it may arrive; an empty piece is the end.
type Piece = (Instant, Vec<u8>);

impl DelayProxy {
    /// A proxy before `target` (`host:port`), with half of the round trip `rtt` in each direction.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(target: &str, rtt: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let (address, over, delay) = (listener.local_addr().expect("address"), Arc::new(AtomicBool::new(false)), rtt / 2);
        let (target, ended) = (target.to_owned(), Arc::clone(&over));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(near) = near else { continue };
                // Nobody there: the near end sees a connection that ends at once.
                let Ok(far) = TcpStream::connect(&target) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    carry(from.try_clone().expect("socket"), to.try_clone().expect("socket"), delay);
                }
            }
        });
        Self { address, over }
    }

    /// Where it listens, as `localhost:port`: the name that the coordinator's certificate holds.
    #[must_use]
    pub fn address(&self) -> String {
        format!("localhost:{}", self.address.port())
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

/// One direction: a thread that reads and notes the time, a thread that waits and writes.
fn carry(from: TcpStream, to: TcpStream, delay: Duration) {
    let _ = to.set_nodelay(true);
    let (line_in, line_out) = sync_channel::<Piece>(PIECES_MAX);
    std::thread::spawn(move || read(from, &line_in, delay));
    std::thread::spawn(move || write(to, &line_out));
}

#[allow(clippy::disallowed_methods, reason = "the delay is real time")]
fn read(mut from: TcpStream, line: &SyncSender<Piece>, delay: Duration) {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let count = from.read(&mut buffer).unwrap_or(0);
        let piece = buffer.get(..count).unwrap_or_default().to_vec();
        if line.send((Instant::now() + delay, piece)).is_err() || count == 0 {
            // A writer that is gone: whoever sends is told by a closed connection, not by silence.
            let _ = from.shutdown(Shutdown::Read);
            return;
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the delay is real time")]
fn write(mut to: TcpStream, line: &Receiver<Piece>) {
    while let Ok((due, piece)) = line.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if piece.is_empty() || to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the delay is real time")]
    fn what_goes_in_comes_out_later_and_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let target = listener.local_addr().expect("address").to_string();
        let echo = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("accept");
            let mut all = Vec::new();
            peer.read_to_end(&mut all).expect("read");
            peer.write_all(&all).expect("write");
        });
        let proxy = DelayProxy::start(&target, Duration::from_millis(100));
        let begin = Instant::now();
        let mut near = TcpStream::connect(proxy.address).expect("connect");
        let sent: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        near.write_all(&sent).expect("write");
        near.shutdown(Shutdown::Write).expect("shutdown");
        let mut received = Vec::new();
        near.read_to_end(&mut received).expect("read");
        assert!(received == sent, "{} bytes of {} came back, or others", received.len(), sent.len());
        assert!(begin.elapsed() >= Duration::from_millis(100), "a round trip takes its time");
        echo.join().expect("the echo ended well");
    }
}
