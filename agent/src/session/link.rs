//! One session, from hello to its end.

use std::time::Duration;

use exhibit_certs::credential::TlsIdentity;
use exhibit_certs::key::TlsKey;
use exhibit_evidence::text::escape_bounded;
use exhibit_proto::agent::v1::agent_service_client::AgentServiceClient;
use exhibit_proto::agent::v1::{Heartbeat, RenewRequest, SessionRequest, SessionResponse, session_request, session_response};
use exhibit_proto::{bounds, transport, version};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::backoff::Backoff;
use super::{Agent, Event, SessionEnd, stopped, wire};
use crate::{clock, custody};

/// The coordinator expects something at least every 30 seconds.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(20);
/// A few times a second at most.
const PROGRESS_EVERY: Duration = Duration::from_millis(400);
/// Time for the coordinator's welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for one renewal.
const RENEW_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages that wait to be sent.
const OUTBOX: usize = 16;
/// Oldest answer about the clock from which the difference is taken: it is off by at most half of this.
const CLOCK_ANSWER_NS_MAX: i64 = 2_000_000_000;
/// A renewal that failed is tried again after this; there are hours left.
const RENEW_AGAIN: Duration = Duration::from_mins(2);

impl Agent {
    /// Runs one session on a fresh connection.
    pub(super) async fn session(&mut self, channel: Channel, stop: &mut watch::Receiver<bool>, backoff: &mut Backoff) -> SessionEnd {
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let sent_at = clock::wall();
        // The outbox is new and empty.
        let _ = outbox.try_send(request(session_request::Kind::Hello(self.hello(sent_at))));
        let mut client = AgentServiceClient::new(channel.clone()).max_decoding_message_size(bounds::MESSAGE_BYTES_MAX);
        let opened = timeout(WELCOME_TIMEOUT, async {
            let mut inbound = client.session(ReceiverStream::new(messages)).await?.into_inner();
            let first = inbound.message().await?;
            Ok::<_, tonic::Status>((inbound, first))
        });
        let (inbound, first) = match opened.await {
            Err(_) => return SessionEnd::Lost(format!("the coordinator gave no welcome within {} s", WELCOME_TIMEOUT.as_secs())),
            Ok(Err(status)) => {
                return SessionEnd::Lost(format!("the coordinator refuses the session: {}", transport::client::describe(&status)));
            }
            Ok(Ok(opened)) => opened,
        };
        if let Err(why) = self.welcomed(first, sent_at) {
            return SessionEnd::Lost(why);
        }
        backoff.reset();
        self.connection.send_replace(Some(channel.clone()));
        for message in self.hindered.all() {
            send(&outbox, message);
        }
        let end = self.serve(inbound, &outbox, channel, stop).await;
        // The upload, if there is one, keeps its own handle of the connection as long as that works.
        self.connection.send_replace(None);
        end
    }

    fn welcomed(&mut self, first: Option<SessionResponse>, sent_at: exhibit_evidence::Timestamp) -> Result<(), String> {
        let Some(session_response::Kind::Welcome(welcome)) = first.and_then(|m| m.kind) else {
            return Err("the coordinator's first message is not its welcome".to_owned());
        };
        version::negotiate(welcome.protocol, welcome.protocol).map_err(|e| e.to_string())?;
        let offset_ns = self.measure(sent_at.unix_ns(), welcome.wall_ns);
        let server = escape_bounded(&welcome.version, 64);
        tracing::info!(agent = %self.id, server, offset_ms = offset_ns / 1_000_000, "connected");
        Ok(())
    }

    /// How far the coordinator's clock is ahead of ours, from an answer to something that we sent at `sent_ns`. Its clock was
    /// read somewhere between our two readings: the middle is off by at most half the round trip.
    fn measure(&self, sent_ns: i64, theirs_ns: i64) -> i64 {
        let middle = sent_ns / 2 + clock::wall().unix_ns() / 2;
        let offset_ns = theirs_ns.saturating_sub(middle);
        self.offset_ns.send_replace(Some(offset_ns));
        offset_ns
    }

    async fn serve(
        &mut self,
        mut inbound: Streaming<SessionResponse>,
        outbox: &mpsc::Sender<SessionRequest>,
        channel: Channel,
        stop: &mut watch::Receiver<bool>,
    ) -> SessionEnd {
        let every = |period| {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut heartbeats, mut progress) = (every(HEARTBEAT_EVERY), every(PROGRESS_EVERY));
        let mut renew_at = self.renew_due();
        loop {
            if self.may_end() {
                return SessionEnd::Stopped;
            }
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => self.handle(message, outbox),
                    Ok(None) => return SessionEnd::Lost("the coordinator ended the session".to_owned()),
                    Err(status) => return SessionEnd::Lost(format!("the connection was lost: {}", transport::client::describe(&status))),
                },
                Some(event) = self.events.recv() => {
                    if let Some(why) = self.take(event) {
                        return SessionEnd::Reconnect(why);
                    }
                    self.begin_next(outbox);
                }
                _ = heartbeats.tick() => {
                    send(outbox, heartbeat(0));
                    self.leave_what_hangs();
                }
                _ = progress.tick(), if self.running.is_some() => {
                    if let Some(message) = self.progress() {
                        send(outbox, message);
                    }
                }
                () = tokio::time::sleep_until(renew_at) => {
                    renew_at = Instant::now() + RENEW_AGAIN;
                    self.begin_renewal(channel.clone());
                }
                () = tokio::time::sleep_until(self.give_up_at.unwrap_or(renew_at)), if self.give_up_at.is_some() => {}
                () = stopped(stop), if !self.stopping => self.begin_stop(),
            }
        }
    }

    fn handle(&mut self, message: SessionResponse, outbox: &mpsc::Sender<SessionRequest>) {
        match message.kind {
            Some(session_response::Kind::Offer(offer)) => self.offered(offer, outbox),
            Some(session_response::Kind::Cancel(cancel)) => self.cancelled(&cancel.collection, &cancel.reason),
            Some(session_response::Kind::Closed(closed)) => self.closed(&closed.collection, &closed.seal),
            Some(session_response::Kind::Ping(number)) => send(outbox, heartbeat(number)),
            Some(session_response::Kind::Clock(answer)) => {
                let age_ns = clock::wall().unix_ns().saturating_sub(answer.heard_ns);
                // An answer that was long on its way, or a clock that was set meanwhile, says nothing.
                if (0..=CLOCK_ANSWER_NS_MAX).contains(&age_ns) {
                    self.measure(answer.heard_ns, answer.wall_ns);
                }
            }
            Some(session_response::Kind::Welcome(_)) => tracing::warn!("the coordinator welcomed twice"),
            // A later version may say more.
            None => {}
        }
    }

    /// When to ask for a new certificate: at two thirds of the old one's life.
    fn renew_due(&self) -> Instant {
        let jitter = clock::random::<1>().map_or(0, |[b]| b);
        let left_ns = self.parts.credential.tls.renew_at(jitter).unix_ns().saturating_sub(clock::wall().unix_ns());
        // At least a moment later, so that a clock that is far off cannot make this a loop.
        Instant::now() + Duration::from_nanos(u64::try_from(left_ns).unwrap_or(0)).max(Duration::from_secs(2))
    }

    fn begin_renewal(&self, channel: Channel) {
        let events = self.events_in.clone();
        tokio::spawn(async move {
            let result = timeout(RENEW_TIMEOUT, renew(channel)).await.unwrap_or_else(|_| Err("no answer".to_owned()));
            // Without the agent nobody needs the certificate.
            let _ = events.send(Event::Renewed(result.map(Box::new))).await;
        });
    }

    fn progress(&mut self) -> Option<SessionRequest> {
        let progress = self.running.as_mut()?.progress_message()?;
        Some(request(session_request::Kind::Progress(progress)))
    }
}

/// A new key, a request for it, the certificate. The old pair stays in use until the new one is on disk.
async fn renew(channel: Channel) -> Result<TlsIdentity, String> {
    let key = TlsKey::generate().map_err(|e| e.to_string())?;
    let tls_csr = key.request().map_err(|e| e.to_string())?;
    let mut client = AgentServiceClient::new(channel).max_decoding_message_size(bounds::MESSAGE_BYTES_MAX);
    let response = client.renew(RenewRequest { tls_csr }).await.map_err(|s| transport::client::describe(&s))?.into_inner();
    TlsIdentity::from_der(key, &response.tls_chain).map_err(|e| e.to_string())
}

pub(super) fn request(kind: session_request::Kind) -> SessionRequest {
    SessionRequest { kind: Some(kind) }
}

/// Sends if there is room. The outbox is full only when the connection does not take anything, and then it is about to
/// be lost; everything that matters is said again after the next hello.
pub(super) fn send(outbox: &mpsc::Sender<SessionRequest>, message: SessionRequest) {
    if outbox.try_send(message).is_err() {
        tracing::debug!("a message was not sent: the connection does not take any");
    }
}

fn heartbeat(pong: u64) -> SessionRequest {
    let cpu_ms = u64::try_from(clock::process_cpu().as_millis()).unwrap_or(u64::MAX);
    request(session_request::Kind::Heartbeat(Heartbeat {
        wall_ns: clock::wall().unix_ns(),
        rss_bytes: custody::resident_bytes(),
        cpu_ms,
        pong,
    }))
}

impl Agent {
    fn hello(&self, now: exhibit_evidence::Timestamp) -> exhibit_proto::agent::v1::Hello {
        wire::hello(&self.parts.tool, self.instance, self.running.as_ref().map(|r| r.collection.to_string()), now)
    }
}
