//! The peer: `by-hand.sh`, the best pipeline of ordinary programs that also hashes at both ends.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::data::{Data, need_space};

/// A pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// One read of the file, piped to hash and compressor.
    Tee,
    /// Hash and compressor each read the file.
    Twice,
    /// `tar` of the folder, then as `Tee`.
    Tar,
    /// `tar | zstd -1` into a local file: no network, no hash.
    Local,
}

impl Peer {
    /// How it is called in the figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tee => "tee openssl-dgst | zstd -1 -T0 | socat mTLS",
            Self::Twice => "openssl-dgst & zstd -1 -T0 | socat mTLS",
            Self::Tar => "tar | tee openssl-dgst | zstd -1 -T0 | socat mTLS",
            Self::Local => "tar | zstd -1 -T0 > file",
        }
    }

    /// Those that can take the data.
    pub const fn of(data: &Data) -> &'static [Self] {
        if data.files.len() == 1 { &[Self::Tee, Self::Twice] } else { &[Self::Tar, Self::Local] }
    }

    const fn argument(self) -> &'static str {
        match self {
            Self::Tee => "tee",
            Self::Twice => "twice",
            Self::Tar => "tar",
            Self::Local => "local",
        }
    }

    /// Runs it once; seconds until the receiver has synced what it got.
    pub fn run(self, data: &Data, work: &Path) -> f64 {
        data.warm();
        std::fs::create_dir_all(work).expect("work folder");
        need_space(work, data.bytes);
        // Free a moment ago; the receiver says so when it is not any more, and the script ends.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/datapath/by-hand.sh");
        let out = Command::new(script)
            .arg(self.argument())
            .arg(work)
            .arg(port.to_string())
            .arg(&data.root)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .expect("by-hand.sh");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "by-hand.sh {}: {} {said}", self.argument(), out.status);
        let words: Vec<&str> = said.split_whitespace().collect();
        assert!(words.len() == 4 && words[2] == words[3], "the two ends disagree: {said}");
        words[0].parse().expect("seconds")
    }
}
