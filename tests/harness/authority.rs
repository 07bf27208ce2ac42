//! A timestamp authority on loopback: openssl behind a small HTTP server, honest or not.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// What an authority does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// As it should.
    Honestly,
    /// Not at all: the connection ends.
    Nothing,
    /// A token over another digest.
    AnotherImprint,
    /// A token with another nonce.
    AnotherNonce,
    /// A token whose signature was altered.
    AlteredSignature,
    /// By this certificate of its folder, see [`Authority::issue`].
    By(&'static str),
    /// By a certificate that openssl itself would not sign with.
    ForcedBy(&'static str),
}

/// A running authority; it ends when it is dropped.
#[derive(Debug)]
pub struct Authority {
    dir: tempfile::TempDir,
    address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
}

fn script(dir: &Path, args: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/authority/authority.sh");
    let done = Command::new(script).arg(args[0]).arg(dir).args(&args[1..]).output().expect("bash and openssl are needed (tests/run)");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Authority {
    /// Makes keys and certificates (`rsa`, `p256`, `p384`) and listens.
    ///
    /// # Panics
    /// When openssl is not there.
    #[must_use]
    pub fn start(algorithm: &str) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        script(dir.path(), &["make", algorithm, "Test Authority"]);
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let authority = Self {
            address: listener.local_addr().expect("address"),
            answers: Arc::new(Mutex::new(Answers::Honestly)),
            asked: Arc::default(),
            over: Arc::default(),
            dir,
        };
        let (folder, over) = (authority.dir.path().to_owned(), Arc::clone(&authority.over));
        let (answers, asked) = (Arc::clone(&authority.answers), Arc::clone(&authority.asked));
        std::thread::spawn(move || {
            for connection in listener.incoming().filter_map(Result::ok) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let how = *answers.lock().expect("lock");
                // A peer that goes away is not this server's concern.
                let _ = serve(connection, &folder, how, &asked);
            }
        });
        authority
    }

    /// From now on it answers so.
    ///
    /// # Panics
    /// Never in practice: the lock is not poisoned.
    pub fn answer(&self, how: Answers) {
        *self.answers.lock().expect("lock") = how;
    }

    /// How often it was asked for a token.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    /// A file of its folder: `root.pem`, `tsa.pem`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes another certificate: extensions `tsa`, `soft` or `plain`, and from when until when (`YYYYMMDDhhmmssZ`).
    pub fn issue(&self, extensions: &str, name: &str, dates: &[&str]) {
        script(self.dir.path(), &[&["issue", extensions, name], dates].concat());
    }

    /// Its honest answer to a request in a file.
    ///
    /// # Panics
    /// When there is no such file, or openssl does not take it.
    #[must_use]
    pub fn reply_to(&self, query: &Path) -> Vec<u8> {
        reply(self.dir.path(), std::fs::read(query).expect("a request"), Answers::Honestly)
    }

    /// Where it answers requests.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/tsr", self.address)
    }

    /// Where its revocation list is.
    #[must_use]
    pub fn crl(&self) -> String {
        format!("http://{}/crl", self.address)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(connection: TcpStream, dir: &Path, how: Answers, asked: &AtomicU32) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let (mut first, mut length) = (String::new(), 0_usize);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.to_ascii_lowercase().split_once(':') {
            Some(("content-length", n)) => length = n.trim().parse().unwrap_or(0),
            Some(_) => {}
            None => break,
        }
    }
    let mut query = vec![0; length.min(4_096)];
    reader.read_exact(&mut query)?;
    if first.starts_with("GET /crl ") {
        return write(connection, "application/pkix-crl", &std::fs::read(dir.join("crl.der"))?);
    }
    asked.fetch_add(1, Ordering::Relaxed);
    if how == Answers::Nothing {
        return Ok(());
    }
    write(connection, "application/timestamp-reply", &reply(dir, query, how))
}

fn write(mut connection: TcpStream, kind: &str, body: &[u8]) -> std::io::Result<()> {
    write!(connection, "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    connection.write_all(body)
}

fn reply(dir: &Path, mut query: Vec<u8>, how: Answers) -> Vec<u8> {
    let end = query.len();
    match how {
        // The digest's bytes come after their tag and length, the nonce's last byte stands before `certReq`.
        Answers::AnotherImprint => {
            let at = query.windows(2).position(|w| w == [0x04, 0x20]).expect("a SHA-256") + 10;
            query[at] ^= 1;
        }
        Answers::AnotherNonce => query[end - 4] ^= 1,
        _ => {}
    }
    let path = |name: &str| dir.join(name).display().to_string();
    std::fs::write(path("query"), query).expect("written");
    let certificate = if let Answers::By(name) = how { name } else { "tsa" };
    script(dir, &["reply", certificate, &path("query"), &path("reply")]);
    if let Answers::ForcedBy(name) = how {
        script(dir, &["resign", name, &path("reply"), &path("forced")]);
        std::fs::rename(path("forced"), path("reply")).expect("renamed");
    }
    let mut bytes = std::fs::read(path("reply")).expect("openssl answered");
    if how == Answers::AlteredSignature {
        *bytes.last_mut().expect("bytes") ^= 1;
    }
    bytes
}
