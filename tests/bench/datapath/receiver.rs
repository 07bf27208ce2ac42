//! An S3 server that is not the bottleneck: it hashes what it gets, compares, writes it to a file, syncs file and folder, and creates
//! only what is not there. It keeps its index in memory, looks at no signature and counts what it is asked: that is what a provider
//! would bill. Only for this benchmark: it forgets with its process and bounds nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

/// What was asked, by kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Requests {
    /// Objects written.
    pub put: u64,
    /// Reads of objects.
    pub get: u64,
    /// Looks at objects.
    pub head: u64,
    /// Pages of listings.
    pub list: u64,
    /// Bytes of objects that were written.
    pub bytes: u64,
}

#[derive(Default)]
struct Counts([AtomicU64; 5]);

/// The server; it serves until the process ends.
pub struct Receiver {
    port: u16,
    shared: Arc<Shared>,
    _folder: tempfile::TempDir,
}

struct Shared {
    folder: PathBuf,
    /// Size of each object; a name is here before its file is.
    objects: Mutex<BTreeMap<String, u64>>,
    counts: Counts,
    files: AtomicU64,
}

impl Receiver {
    /// Begins to serve on a free port of loopback.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let objects = Mutex::new(BTreeMap::new());
        let shared = Arc::new(Shared { folder: folder.path().to_owned(), objects, counts: Counts::default(), files: AtomicU64::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("address").port();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A connection that breaks is the client's business: it repeats what it asked.
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { port, shared, _folder: folder }
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it was asked so far.
    pub fn requests(&self) -> Requests {
        let [put, get, head, list, bytes] = std::array::from_fn(|n| self.shared.counts.0[n].load(Ordering::Relaxed));
        Requests { put, get, head, list, bytes }
    }
}

impl Requests {
    /// What was asked after `before`.
    pub const fn since(self, before: Self) -> Self {
        Self {
            put: self.put - before.put,
            get: self.get - before.get,
            head: self.head - before.head,
            list: self.list - before.list,
            bytes: self.bytes - before.bytes,
        }
    }

    /// All of them.
    pub const fn all(self) -> u64 {
        self.put + self.get + self.head + self.list
    }
}

struct Asked {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
}

/// Status line, further headers, body.
struct Answer(&'static str, String, Vec<u8>);

const TIMES: &str = "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n";

fn refused(status: &'static str, code: &str) -> Answer {
    Answer(status, String::new(), format!("<Error><Code>{code}</Code></Error>").into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        let two = |bytes: &mut std::str::Bytes<'_>| Some([bytes.next()?, bytes.next()?]);
        let code = (b == b'%').then(|| two(&mut bytes)).flatten();
        let code = code.and_then(|two| u8::from_str_radix(std::str::from_utf8(&two).ok()?, 16).ok());
        out.push(code.unwrap_or(b));
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let line = |reader: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    };
    let first = line(reader)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let header = line(reader)?;
        let Some((name, value)) = header.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = decoded(path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key));
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = pairs.map(|(name, value)| (decoded(name), decoded(value))).collect();
    Some(Asked { method, key, query, headers })
}

impl Shared {
    fn objects(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, kind: usize, by: u64) {
        self.counts.0[kind].fetch_add(by, Ordering::Relaxed);
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut writer = stream.try_clone().ok()?;
        let mut reader = BufReader::with_capacity(1 << 18, stream);
        loop {
            let asked = read_request(&mut reader)?;
            let length = asked.headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            let mut body = reader.by_ref().take(length);
            let answer = self.answer(&asked, &mut body);
            std::io::copy(&mut body, &mut std::io::sink()).ok()?;
            let Answer(status, headers, content) = answer.unwrap_or_else(|| refused("500 Internal Server Error", "InternalError"));
            let size = if asked.method == "HEAD" { String::new() } else { format!("Content-Length: {}\r\n", content.len()) };
            writer.write_all(format!("HTTP/1.1 {status}\r\n{headers}{size}\r\n").as_bytes()).ok()?;
            if asked.method != "HEAD" {
                writer.write_all(&content).ok()?;
            }
        }
    }

    fn answer(&self, asked: &Asked, body: &mut impl Read) -> Option<Answer> {
        match (asked.method.as_str(), asked.key.as_str()) {
            ("GET", "") => self.bucket(asked),
            ("PUT", key) => self.put(key, asked, body),
            ("GET" | "HEAD", key) => self.get(key, asked),
            ("DELETE", key) => {
                self.objects().remove(key);
                Some(Answer("204 No Content", String::new(), Vec::new()))
            }
            _ => Some(refused("405 Method Not Allowed", "MethodNotAllowed")),
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(key.replace('/', "!"))
    }

    fn put(&self, key: &str, asked: &Asked, body: &mut impl Read) -> Option<Answer> {
        self.count(0, 1);
        let only_new = asked.headers.get("if-none-match").is_some_and(|v| v == "*");
        let staged = self.folder.join(format!(".{}", self.files.fetch_add(1, Ordering::Relaxed)));
        let mut file = File::create(&staged).ok()?;
        let (mut hash, mut size, mut buffer) = (Context::new(&SHA256), 0, vec![0; 1 << 18]);
        loop {
            let n = body.read(&mut buffer).ok()?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            file.write_all(&buffer[..n]).ok()?;
            size += n as u64;
        }
        let sha256 = hex(hash.finish().as_ref());
        if asked.headers.get("x-amz-content-sha256").is_some_and(|said| *said != sha256) {
            return Some(refused("400 Bad Request", "XAmzContentSHA256Mismatch"));
        }
        file.sync_all().ok()?;
        {
            let mut objects = self.objects();
            if only_new && objects.contains_key(key) {
                let _ = std::fs::remove_file(&staged);
                return Some(refused("412 Precondition Failed", "PreconditionFailed"));
            }
            std::fs::rename(&staged, self.path(key)).ok()?;
            objects.insert(key.to_owned(), size);
        }
        File::open(&self.folder).ok()?.sync_all().ok()?;
        self.count(4, size);
        Some(Answer("200 OK", format!("ETag: \"{sha256}\"\r\n"), Vec::new()))
    }

    fn get(&self, key: &str, asked: &Asked) -> Option<Answer> {
        let head = asked.method == "HEAD";
        self.count(if head { 2 } else { 1 }, 1);
        let Some(size) = self.objects().get(key).copied() else { return Some(refused("404 Not Found", "NoSuchKey")) };
        let common = format!("{TIMES}ETag: \"{size}\"\r\n");
        if head {
            return Some(Answer("200 OK", format!("{common}Content-Length: {size}\r\n"), Vec::new()));
        }
        let content = std::fs::read(self.path(key)).ok()?;
        let range = asked.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
        let Some((from, to)) = range else { return Some(Answer("200 OK", common, content)) };
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().unwrap_or(usize::MAX));
        let to = to.min(content.len().saturating_sub(1));
        let Some(part) = content.get(from..=to) else { return Some(refused("416 Range Not Satisfiable", "InvalidRange")) };
        Some(Answer("206 Partial Content", format!("{common}Content-Range: bytes {from}-{to}/{size}\r\n"), part.to_vec()))
    }

    fn bucket(&self, asked: &Asked) -> Option<Answer> {
        let text = |text: String| Some(Answer("200 OK", "Content-Type: application/xml\r\n".to_owned(), text.into_bytes()));
        if asked.query.contains_key("versioning") {
            return text("<VersioningConfiguration/>".to_owned());
        }
        if asked.query.contains_key("object-lock") {
            return Some(refused("404 Not Found", "ObjectLockConfigurationNotFoundError"));
        }
        if asked.query.contains_key("versions") {
            return text("<ListVersionsResult><IsTruncated>false</IsTruncated></ListVersionsResult>".to_owned());
        }
        self.count(3, 1);
        text(self.listing(asked))
    }

    fn listing(&self, asked: &Asked) -> String {
        let word = |name: &str| asked.query.get(name).map_or("", String::as_str);
        let (prefix, delimiter) = (word("prefix"), word("delimiter"));
        let after = word("continuation-token").max(word("start-after"));
        let (mut out, mut folders, mut last, mut count, mut more) = (String::new(), Vec::<String>::new(), String::new(), 0, false);
        for (key, size) in self.objects().range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix)) {
            if key.as_str() <= after {
                continue;
            }
            let folder = (!delimiter.is_empty()).then(|| key[prefix.len()..].split_once(delimiter)).flatten();
            if let Some((folder, _)) = folder {
                let folder = format!("{prefix}{folder}{delimiter}");
                if folders.last() != Some(&folder) {
                    folders.push(folder);
                }
                continue;
            }
            if count == 1_000 {
                more = true;
                break;
            }
            count += 1;
            last.clone_from(key);
            let times = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>";
            let _ = write!(out, "<Contents><Key>{key}</Key>{times}<ETag>\"{size}\"</ETag><Size>{size}</Size></Contents>");
        }
        for folder in folders {
            let _ = write!(out, "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
        }
        let next = if more { format!("<NextContinuationToken>{last}</NextContinuationToken>") } else { String::new() };
        format!(
            "<ListBucketResult><Name>b</Name><Prefix>{prefix}</Prefix><KeyCount>{count}</KeyCount><IsTruncated>{more}</IsTruncated>{next}{out}</ListBucketResult>"
        )
    }
}
