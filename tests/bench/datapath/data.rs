//! The data: made from seeds once, kept below `target/bench/`, the same in every run.
//!
//! Nothing here may depend on what happens to lie on a machine, so that two machines speak of the same bytes. The one
//! exception are binaries: code that a generator makes up compresses like nothing real. They come from the Rust
//! toolchain that builds the project, whose libraries are the same wherever that version is installed.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In the folder's name: a change of what is generated makes a new folder.
const VERSION: u32 = 1;
/// Kept free besides what is about to be written.
const SPARE_BYTES: u64 = 2 << 30;
/// At least so much is cut to pieces for the mix and the small files.
const POOL_BYTES: usize = 64 << 20;
/// A page of memory.
const PAGE: usize = 4096;

/// Files that are collected together.
#[derive(Debug, Clone)]
pub struct Data {
    /// `mix`, `logs`, `random`, `small` or `sparse`.
    pub name: &'static str,
    /// What an order names: a file, or all beneath a folder.
    pub root: PathBuf,
    /// The files, in order.
    pub files: Vec<PathBuf>,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Data {
    /// Bytes of all files in GiB.
    pub fn gib(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 30)
    }

    /// What zstd level 1 makes of it in frames of 1 MiB, least and most: outside of it the data is not what its name says,
    /// and figures of two machines cannot be compared.
    pub fn compression(&self) -> Range<f64> {
        match self.name {
            "mix" => 2.8..3.3,
            "logs" => 4.2..4.8,
            "random" => 0.99..1.01,
            _ => 1.0..f64::MAX,
        }
    }

    /// True for one large file.
    pub fn is_one_file(&self) -> bool {
        self.files == [self.root.clone()]
    }

    /// SHA-256 of one large file as openssl says, looked up once.
    pub fn sha256(&self) -> String {
        let kept = self.root.with_extension("sha256");
        if !kept.exists() {
            // Past the page cache: the holes of a large file would push everything else out of it.
            let script = "dd if=\"$0\" bs=16M iflag=nocache status=none | openssl dgst -sha256 -r";
            let out = Command::new("sh").args(["-c", script]).arg(&self.root).output().expect("sh");
            assert!(out.status.success(), "openssl dgst: {}", String::from_utf8_lossy(&out.stderr));
            std::fs::write(&kept, &out.stdout[..64]).expect("digest");
        }
        std::fs::read_to_string(kept).expect("digest")
    }

    /// The pattern for the capture `files`.
    pub fn pattern(&self) -> String {
        let root = self.root.display();
        if self.is_one_file() { root.to_string() } else { format!("{root}/**") }
    }

    /// Reads everything once: all runs begin with the data in the page cache, so that no run pays for the disk and none
    /// finds what another one left there. (The agent gives pages back that were not cached before it came.)
    ///
    /// Not the sparse file: reading its holes would fill the page cache with zeros and take minutes.
    pub fn warm(&self) {
        if self.name == "sparse" {
            return;
        }
        let mut buffer = vec![0_u8; 1 << 20];
        for path in &self.files {
            let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            while file.read(&mut buffer).expect("read") > 0 {}
        }
    }
}

/// Insists on room for `bytes` and something more on the file system of `folder`.
pub fn need_space(folder: &Path, bytes: u64) {
    let stat = rustix::fs::statvfs(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let (free, need) = (stat.f_bavail * stat.f_frsize, bytes + SPARE_BYTES);
    assert!(free >= need, "{} has {} MiB free, {} MiB are needed", folder.display(), free >> 20, need >> 20);
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, without visible pattern.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Appends `count` bytes, rounded up to eight.
    fn noise(&mut self, count: usize, out: &mut Vec<u8>) {
        (0..count.div_ceil(8)).for_each(|_| out.extend_from_slice(&self.next().to_le_bytes()));
    }

    /// About normal, mean 0 and deviation 1: the sum of twelve uniform numbers.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next() as f64 / u64::MAX as f64).sum::<f64>() - 6.0
    }
}

/// What makes the data, with the folder that keeps it.
pub struct Shelf {
    folder: PathBuf,
    /// Real code and real text to cut pieces from; read or made at first use.
    pools: Option<(Vec<u8>, Vec<u8>)>,
}

impl Shelf {
    /// Below `folder`.
    pub fn new(folder: &Path) -> Self {
        let folder = folder.join(format!("data-{VERSION}"));
        std::fs::create_dir_all(&folder).expect("folder for the data");
        Self { folder, pools: None }
    }

    /// Memory-like: runs of 4 to 64 pages, of 100 pages 30 zero, 50 of programs, 10 of text, 10 random.
    pub fn mix(&mut self, seed: u64, bytes: u64) -> Data {
        self.one("mix", seed, bytes, |pools, random, out| {
            let pages = 4 + random.below(61);
            match random.below(100) {
                0..30 => out.resize(out.len() + pages * PAGE, 0),
                30..80 => out.extend_from_slice(piece(&pools.0, random, pages * PAGE)),
                80..90 => out.extend_from_slice(piece(&pools.1, random, pages * PAGE)),
                _ => random.noise(pages * PAGE, out),
            }
        })
    }

    /// Text logs of several services.
    pub fn logs(&mut self, seed: u64, bytes: u64) -> Data {
        let mut time_us = 1_773_000_000_000_000_u64;
        self.one("logs", seed, bytes, move |_, random, out| log_lines(random, &mut time_us, out))
    }

    /// What does not compress.
    pub fn random(&mut self, seed: u64, bytes: u64) -> Data {
        self.one("random", seed, bytes, |_, random, out| random.noise(1 << 20, out))
    }

    /// One file, filled in steps.
    fn one(
        &mut self,
        name: &'static str,
        seed: u64,
        bytes: u64,
        mut step: impl FnMut(&(Vec<u8>, Vec<u8>), &mut Random, &mut Vec<u8>),
    ) -> Data {
        let path = self.folder.join(format!("{name}-{seed}-{}mib", bytes >> 20));
        if !path.exists() {
            eprintln!("making {}", path.display());
            need_space(&self.folder, bytes);
            let half_made = path.with_extension("part");
            let mut file = File::create(&half_made).expect("data file");
            let mut random = Random(seed);
            let (mut left, mut buffer) = (bytes, Vec::new());
            let pools = self.pools();
            while left > 0 {
                buffer.clear();
                while buffer.len() < 4 << 20 {
                    step(pools, &mut random, &mut buffer);
                }
                let count = left.min(buffer.len() as u64);
                file.write_all(&buffer[..count as usize]).expect("data file");
                left -= count;
            }
            file.sync_all().expect("data file");
            std::fs::rename(half_made, &path).expect("data file");
        }
        Data { name, files: vec![path.clone()], root: path, bytes }
    }

    /// A tree like /etc and /usr/share: sizes log-normal, half below 2 KB, nine of ten below 12 KB, 100 files a folder; of
    /// 100 files 75 text, 15 code, 10 compressed already.
    pub fn small(&mut self, count: usize) -> Data {
        let root = self.folder.join(format!("small-{count}"));
        if !root.exists() {
            eprintln!("making {}", root.display());
            need_space(&self.folder, count as u64 * 10_000);
            let half_made = root.with_extension("part");
            let _ = std::fs::remove_dir_all(&half_made);
            let mut random = Random(4);
            let pools = self.pools();
            for n in 0..count {
                let size = ((2_000.0_f64.ln() + 1.4 * random.normal()).exp() as usize).clamp(16, 512 << 10);
                let mut content = Vec::new();
                match random.below(100) {
                    0..75 => content.extend_from_slice(piece(&pools.1, &mut random, size)),
                    75..90 => content.extend_from_slice(piece(&pools.0, &mut random, size)),
                    _ => random.noise(size, &mut content),
                }
                let folder = half_made.join(format!("package-{:03}", n / 100));
                if n % 100 == 0 {
                    std::fs::create_dir_all(&folder).expect("folder");
                }
                std::fs::write(folder.join(format!("file-{n:05}.conf")), &content[..size]).expect("data file");
            }
            rustix::fs::syncfs(File::open(&half_made).expect("folder")).expect("sync");
            std::fs::rename(half_made, &root).expect("folder");
        }
        let mut files = Vec::new();
        for folder in sorted(&root) {
            files.extend(sorted(&folder));
        }
        assert_eq!(files.len(), count, "{} was changed: remove it", root.display());
        let bytes = files.iter().map(|f| f.metadata().expect("metadata").len()).sum();
        Data { name: "small", root, files, bytes }
    }

    /// One file of `bytes` that is nearly all hole: 16 pieces of 1 MiB, evenly.
    pub fn sparse(&mut self, bytes: u64) -> Data {
        let path = self.folder.join(format!("sparse-{}gib", bytes >> 30));
        if !path.exists() {
            let half_made = path.with_extension("part");
            let file = File::create(&half_made).expect("data file");
            file.set_len(bytes).expect("length");
            let mut random = Random(5);
            for n in 0..16 {
                let mut noise = Vec::new();
                random.noise(1 << 20, &mut noise);
                std::os::unix::fs::FileExt::write_all_at(&file, &noise, n * (bytes / 16)).expect("data file");
            }
            file.sync_all().expect("data file");
            std::fs::rename(half_made, &path).expect("data file");
        }
        Data { name: "sparse", files: vec![path.clone()], root: path, bytes }
    }

    fn pools(&mut self) -> &(Vec<u8>, Vec<u8>) {
        self.pools.get_or_insert_with(|| {
            let (mut random, mut time_us, mut text) = (Random(6), 1_772_000_000_000_000, Vec::new());
            while text.len() < POOL_BYTES {
                log_lines(&mut random, &mut time_us, &mut text);
            }
            (code(), text)
        })
    }
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder).expect("list").map(|e| e.expect("entry").path()).collect();
    found.sort();
    found
}

/// `count` bytes from anywhere in a pool, at a page.
fn piece<'a>(pool: &'a [u8], random: &mut Random, count: usize) -> &'a [u8] {
    let at = random.below((pool.len() - count) / PAGE) * PAGE;
    &pool[at..at + count]
}

/// The compiler's own libraries: code, constants and tables of a large program.
fn code() -> Vec<u8> {
    let out = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc is installed");
    let lib = Path::new(String::from_utf8_lossy(&out.stdout).trim()).join("lib");
    let mut pool = Vec::new();
    for path in sorted(&lib).iter().filter(|p| p.metadata().is_ok_and(|m| m.is_file() && m.len() > 1 << 20)) {
        let _ = File::open(path).expect("library").read_to_end(&mut pool).expect("library");
    }
    assert!(pool.len() >= POOL_BYTES, "no libraries of the compiler in {}", lib.display());
    pool
}

const HOSTS: [&str; 6] = ["web-01", "web-02", "db-01", "cache-01", "queue-01", "auth-01"];
const PATHS: [&str; 8] =
    ["/api/v1/orders/", "/api/v1/users/", "/static/app.js?v=", "/login?next=", "/search?q=", "/img/", "/health?n=", "/api/v2/items/"];
const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0.0.0 Safari/537.36",
    "curl/8.14.1",
    "kube-probe/1.33",
];
const MESSAGES: [&str; 5] = [
    "slow query: SELECT id, state, total FROM orders WHERE customer = $1 ORDER BY created_at DESC",
    "connection reset by peer while reading the response header from upstream",
    "session opened for user deploy(uid=1001) by (uid=0)",
    "cache miss for key",
    "checkpoint complete: wrote buffers",
];

/// A few dozen lines.
fn log_lines(random: &mut Random, time_us: &mut u64, out: &mut Vec<u8>) {
    let mut line = String::new();
    for _ in 0..32 {
        line.clear();
        *time_us += random.next() % 20_000;
        let (second, us) = (*time_us / 1_000_000, *time_us % 1_000_000);
        let (day, hour, minute) = (1 + second / 86_400 % 28, second / 3600 % 24, second / 60 % 60);
        let host = random.pick(&HOSTS);
        let _ = write!(line, "2026-03-{day:02}T{hour:02}:{minute:02}:{:02}.{us:06}Z {host} ", second % 60);
        let (bits, more) = (random.next(), random.next());
        if random.below(10) < 7 {
            request(random, bits, more, &mut line);
        } else {
            let message = random.pick(&MESSAGES);
            let _ = writeln!(line, "app[{}]: level=info request={bits:016x} {message} ({})", 2_000 + (bits & 7), bits >> 52);
        }
        out.extend_from_slice(line.as_bytes());
    }
}

/// What a web server says of a request; as many different things in it as in a real one.
fn request(random: &mut Random, bits: u64, more: u64, line: &mut String) {
    let (path, agent) = (random.pick(&PATHS), random.pick(&AGENTS));
    let status = random.pick(&[200, 200, 200, 200, 304, 404, 500]);
    let (process, page, bytes, ms) = (900 + (bits & 3), bits >> 48, bits >> 24 & 0x3fff, bits >> 40 & 255);
    let _ = write!(line, "nginx[{process}]: 10.20.{}.{} - - \"GET {path}{page} HTTP/1.1\" ", bits >> 8 & 15, bits >> 16 & 255);
    let _ = write!(line, "{status} {bytes} \"{agent}\" rt=0.{ms:03} id={:016x} ", random.next());
    let _ = writeln!(line, "up=10.30.{}.{}:{} sid={:08x}", more & 255, more >> 8 & 255, 8_000 + (more >> 16 & 1023), more >> 32);
}
