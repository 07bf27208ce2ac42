//! Syslog: RFC 5424 messages with structured data, over UDP (RFC 5426), TCP with octet counting (RFC 6587, 3.4.1) or a Unix
//! datagram socket. There is no TLS here: where the way to the SIEM is not trusted, a relay on this machine (rsyslog, syslog-ng,
//! Vector) speaks it.
//!
//! Written here because it is sixty lines, and the crates that know RFC 5424 know no octet counting or have not been looked
//! after for years.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use exhibit_evidence::text::{escape_bounded, one_line};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};
use tokio::sync::mpsc;

use super::{Event, Queued, Source, Tries};
use crate::metrics::SharedMetrics;

/// "log audit", RFC 5424 table 1.
const FACILITY: u8 = 13;
/// The SD-ID needs an enterprise number; this one is for documentation (RFC 5612), as the project has none of its own.
const SD_ID: &str = "exhibit@32473";
/// Connecting, and each write.
const STEP_WITHIN: Duration = Duration::from_secs(5);
/// A message by UDP. Receivers should take 2,048 bytes (RFC 5426, 3.2), but a datagram that is larger than what one packet of the
/// network carries goes in pieces, and is lost with any of them: 1,500 less the headers of IPv6 and UDP, and room for a tunnel.
const DATAGRAM_BYTES_MAX: usize = 1_400;
/// To what the texts of a message that is larger are cut, in characters. Digests stay whole (71), and so does the end of a SPIFFE name
/// that says who it is: `/responder/` and at most 63 characters.
const SHORTER_CHARS: [usize; 3] = [200, 100, 80];
/// A host on which nobody listens says so (ICMP) in this time, if it is near and nothing in between keeps that back.
const COMES_BACK_WITHIN: Duration = Duration::from_millis(100);

/// Where messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// Host and port.
    Udp(String),
    /// Host and port.
    Tcp(String),
    /// A datagram socket, `/dev/log` for example.
    Unix(PathBuf),
}

impl FromStr for Receiver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What stands before an @ may be a password.
        let shown = text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("...@{rest}"));
        let bad = || format!("'{}': expected udp://HOST:PORT, tcp://HOST:PORT or unix:/PATH", escape_bounded(&shown, 120));
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') && path.len() > 1 { Ok(Self::Unix(path.into())) } else { Err(bad()) };
        }
        let (scheme, place) = text.split_once("://").ok_or_else(bad)?;
        let (host, port) = place.rsplit_once(':').ok_or_else(bad)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        if host.is_empty() || !host.chars().all(plain) || port.parse::<u16>().map_or(true, |p| p == 0) {
            return Err(bad());
        }
        match scheme {
            "udp" => Ok(Self::Udp(place.to_owned())),
            "tcp" => Ok(Self::Tcp(place.to_owned())),
            _ => Err(bad()),
        }
    }
}

impl Receiver {
    const fn bytes_max(&self) -> usize {
        match self {
            Self::Udp(_) => DATAGRAM_BYTES_MAX,
            Self::Tcp(_) | Self::Unix(_) => usize::MAX,
        }
    }
}

impl std::fmt::Display for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Udp(place) => write!(f, "udp://{place}"),
            Self::Tcp(place) => write!(f, "tcp://{place}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One message.
pub(super) fn message(event: &Event, source: &Source) -> String {
    let time = event.at.to_string();
    // Nine digits of a second are ours, six are the most here.
    let time = time.get(..26).unwrap_or("-");
    let host: String = source.host.chars().filter(char::is_ascii_graphic).take(255).collect();
    let host = if host.is_empty() { "-".to_owned() } else { host };
    let (level, process, name) = (FACILITY * 8 + event.severity as u8, source.process, event.name);
    let mut out = format!("<{level}>1 {time}Z {host} exhibit-coordinator {process} {name} [{SD_ID} deployment=\"");
    value(&mut out, &source.deployment);
    for (key, text) in &event.fields {
        // A String takes everything.
        let _ = write!(out, "\" {key}=\"");
        value(&mut out, text);
    }
    if event.shortened {
        out.push_str("\" shortened=\"yes");
    }
    out.push_str("\"] ");
    out.push_str(&event.message);
    out
}

/// One message of at most so many bytes. Of one that would be larger every long text is cut, which `...` shows where it was, and it
/// says so itself; if that is not enough, its end is missing, where the sentence stands (RFC 5424, 6.1).
fn fitting(event: &Event, source: &Source, bytes_max: usize) -> String {
    let mut text = message(event, source);
    for chars_max in SHORTER_CHARS {
        if text.len() <= bytes_max {
            return text;
        }
        let mut shorter = event.clone();
        shorter.message = one_line(&event.message, chars_max);
        for (_, value) in &mut shorter.fields {
            *value = shortened(value, chars_max);
        }
        shorter.shortened = true;
        text = message(&shorter, source);
    }
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.truncate(end);
    text
}

/// A field's text in fewer characters: its beginning, but of a SPIFFE name its end, because the person or agent stands there.
fn shortened(text: &str, chars_max: usize) -> String {
    let too_many = text.chars().count().saturating_sub(chars_max);
    if too_many == 0 || !text.starts_with("spiffe://") {
        return one_line(text, chars_max);
    }
    let end: String = text.chars().skip(too_many.saturating_add(3)).collect();
    format!("...{end}")
}

/// RFC 5424, 6.3.3: these three are escaped, control characters were before.
fn value(out: &mut String, text: &str) {
    for c in text.chars() {
        if matches!(c, '"' | '\\' | ']') {
            out.push('\\');
        }
        out.push(c);
    }
}

enum Line {
    Udp {
        socket: UdpSocket,
        /// A message was sent, and nothing came back.
        tried: bool,
    },
    Tcp(TcpStream),
    Unix(UnixDatagram),
}

impl Line {
    async fn open(receiver: &Receiver) -> std::io::Result<Self> {
        Ok(match receiver {
            Receiver::Udp(place) => {
                let addresses: Vec<_> = tokio::net::lookup_host(place).await?.collect();
                let own = if addresses.first().is_some_and(std::net::SocketAddr::is_ipv6) { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(own).await?;
                socket.connect(&*addresses).await?;
                Self::Udp { socket, tried: false }
            }
            Receiver::Tcp(place) => Self::Tcp(TcpStream::connect(place).await?),
            Receiver::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Self::Unix(socket)
            }
        })
    }

    async fn send(&mut self, message: &str) -> std::io::Result<()> {
        match self {
            Self::Udp { socket, tried } => {
                // What came back of the messages before.
                refused(socket)?;
                socket.send(message.as_bytes()).await?;
                // Nobody acknowledges anything, but that nobody is there at all shows.
                if !std::mem::replace(tried, true) {
                    tokio::time::sleep(COMES_BACK_WITHIN).await;
                    refused(socket)?;
                }
                Ok(())
            }
            Self::Unix(socket) => socket.send(message.as_bytes()).await.map(drop),
            Self::Tcp(stream) => {
                // Receivers say nothing, so what can be read is the end of the connection.
                if matches!(stream.try_read(&mut [0; 1]), Ok(0)) {
                    return Err(std::io::ErrorKind::ConnectionReset.into());
                }
                stream.write_all(format!("{} {message}", message.len()).as_bytes()).await
            }
        }
    }
}

/// That a host or a port is not there, which a network said of an earlier datagram.
fn refused(socket: &UdpSocket) -> std::io::Result<()> {
    socket.take_error()?.map_or(Ok(()), Err)
}

async fn try_once(line: &mut Option<Line>, receiver: &Receiver, message: &str) -> std::io::Result<()> {
    let attempt = async {
        if line.is_none() {
            *line = Some(Line::open(receiver).await?);
        }
        match line {
            Some(line) => line.send(message).await,
            None => Ok(()),
        }
    };
    let done = tokio::time::timeout(STEP_WITHIN, attempt).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    if done.is_err() {
        // Half a message may have gone over a stream: the next one needs a new connection.
        *line = None;
    }
    done
}

/// Hands events over one by one until nobody is left who could say any. One that fails is repeated; the queue fills meanwhile.
pub(super) async fn run(receiver: Receiver, source: Source, mut queue: mpsc::Receiver<Queued>, metrics: SharedMetrics) {
    let (mut line, mut tries) = (None, Tries::new(receiver.to_string()));
    while let Some(queued) = queue.recv().await {
        match queued {
            Queued::Event(event) => {
                let message = fitting(&event, &source, receiver.bytes_max());
                while let Err(e) = try_once(&mut line, &receiver, &message).await {
                    tries.failed(&e.to_string()).await;
                }
                tries.worked();
                metrics.audit_events("syslog", "sent", 1);
            }
            Queued::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use exhibit_evidence::Timestamp;

    use super::super::Severity;
    use super::*;

    #[test]
    fn a_message_is_that_of_the_standard_and_nothing_in_it_ends_early() {
        let event = Event {
            at: Timestamp::from_unix_ns(1_700_000_000_123_456_789),
            name: "denied",
            severity: Severity::Warning,
            fields: vec![("caller", "a \"b\" ]c\\ä".to_owned()), ("method", "/x".to_owned())],
            message: "no".to_owned(),
            shortened: false,
        };
        let source = Source { host: "h 1\u{e4}.example".to_owned(), deployment: "d".to_owned(), process: 7 };
        assert_eq!(
            message(&event, &source),
            "<108>1 2023-11-14T22:13:20.123456Z h1.example exhibit-coordinator 7 denied [exhibit@32473 deployment=\"d\" caller=\"a \\\"b\\\" \\]c\\\\ä\" method=\"/x\"] no"
        );
    }

    #[test]
    fn what_is_larger_than_a_datagram_is_cut_and_says_so() {
        let source = Source { host: "h".repeat(255), deployment: "d".to_owned(), process: 7 };
        let digest = "0".repeat(71);
        let event = |text: &str| Event {
            at: Timestamp::from_unix_ns(1_700_000_000_123_456_789),
            name: "incident",
            severity: Severity::Error,
            fields: vec![("subject", text.to_owned()), ("detail", text.to_owned()), ("sha256", digest.clone())],
            message: text.to_owned(),
            shortened: false,
        };
        // Characters of one byte, of two, and such that become two.
        for c in ["a", "\u{e4}", "\""] {
            let event = event(&c.repeat(400));
            let text = fitting(&event, &source, DATAGRAM_BYTES_MAX);
            assert!(text.len() <= DATAGRAM_BYTES_MAX, "{c}: {} bytes", text.len());
            let (fields, sentence) = text.split_once("\"] ").expect("the fields are whole");
            assert!(fields.contains(&digest) && fields.ends_with(" shortened=\"yes"), "{c}: {fields}");
            assert!(sentence.ends_with("...") && fields.contains("...\" detail="), "{c}: {text}");
            assert_eq!(fitting(&event, &source, usize::MAX), message(&event, &source), "a stream takes it as it is");
            // A host's name and fields that leave no room: still no more bytes, and no half of a character.
            for bytes_max in 500..510 {
                assert!(fitting(&event, &source, bytes_max).len() <= bytes_max, "{c}");
            }
        }
        // The longest names that there are.
        let name = format!("spiffe://{}/responder/{}", "d".repeat(63), "p".repeat(63));
        for (caller, shown) in [(name.as_str(), &name[name.len() - 77..]), ("spiffe://d/responder/ada", "spiffe://d/responder/ada")] {
            let mut event = event(&"\"".repeat(400));
            event.fields.push(("caller", caller.to_owned()));
            let text = fitting(&event, &source, DATAGRAM_BYTES_MAX);
            assert!(text.contains(&format!("{shown}\" shortened=\"yes\"")), "{text}");
            assert!(text.len() <= DATAGRAM_BYTES_MAX);
        }
        // What was cut before, for every receiver, says it once.
        let cut = Event { shortened: true, ..event(&"a".repeat(400)) };
        for bytes_max in [DATAGRAM_BYTES_MAX, usize::MAX] {
            assert_eq!(fitting(&cut, &source, bytes_max).matches("\" shortened=\"yes\"] ").count(), 1);
            assert_eq!(fitting(&cut, &source, bytes_max).matches("shortened=").count(), 1);
        }
        let short = event("as it is");
        assert_eq!(fitting(&short, &source, DATAGRAM_BYTES_MAX), message(&short, &source));
    }

    /// Where nobody listens nothing was sent; whoever comes late hears it.
    #[tokio::test]
    async fn what_nobody_listens_to_waits_and_is_not_counted_as_sent() {
        let free = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let place = free.local_addr().expect("address");
        drop(free);
        let metrics = SharedMetrics::default();
        let settings = super::super::Settings { syslog: Some(Receiver::Udp(place.to_string())), otlp: None };
        let audit = super::super::Audit::start(&settings, &Source::own("test"), &metrics);
        audit.started(place, "a folder");
        let sent = || metrics.text().lines().any(|l| l == "exhibit_audit_events_total{receiver=\"syslog\",result=\"sent\"} 1");
        tokio::time::sleep(COMES_BACK_WITHIN * 4).await;
        assert!(!sent(), "{}", metrics.text());
        let receiver = UdpSocket::bind(place).await.expect("bound");
        let mut buffer = [0; 2_048];
        let length = receiver.recv(&mut buffer).await.expect("a message");
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        assert!(text.contains(" started ") && text.ends_with(&format!("the coordinator serves on {place}")), "{text}");
        audit.finish().await;
        assert!(sent(), "{}", metrics.text());
    }

    #[test]
    fn addresses() {
        for good in ["udp://127.0.0.1:514", "tcp://siem.example:6514", "tcp://[::1]:601", "unix:/dev/log"] {
            assert_eq!(good.parse::<Receiver>().map(|r| r.to_string()), Ok(good.to_owned()));
        }
        assert_eq!("unix:///dev/log".parse(), Ok(Receiver::Unix("/dev/log".into())));
        for bad in
            ["", "x", "udp://", "udp://h", "udp://h:0", "udp://h:70000", "tls://h:1", "unix:", "unix:dev/log", "udp://a b:1", "tcp://u@h:1"]
        {
            assert!(bad.parse::<Receiver>().is_err(), "{bad}");
        }
    }
}
