//! A folder of awkward files to collect, and the facts that must come back.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

/// Fills a folder: plain, empty, large (20 MB that do not compress), sparse (1 GiB), hard-linked, linked, attributed,
/// with old times and hostile names.
///
/// # Panics
/// When the file system does not let it.
pub fn awkward_tree(root: &Path) {
    awkward_tree_of(root, 20_000_000, 1 << 30);
}

/// [`awkward_tree`] with so many bytes that do not compress and a sparse file of this length, at least 64 KiB.
///
/// # Panics
/// When the file system does not let it.
pub fn awkward_tree_of(root: &Path, noise_bytes: usize, sparse_bytes: u64) {
    let write = |name: &[u8], content: &[u8]| {
        let path = root.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(&path, content).expect("file");
        path
    };
    let plain = write(b"plain.txt", b"hello\n");
    write(b"empty", b"");
    write(b"caf\xe9 latin-1", b"name is not UTF-8");
    write(b"line\nbreak\x1b[31m", b"name with control characters");
    write("snowman \u{2603}".as_bytes(), b"name in UTF-8");
    let deep = format!("{}/{}", vec!["d".repeat(60); 5].join("/"), "f".repeat(200));
    write(deep.as_bytes(), b"long name");
    // What does not compress: a xorshift sequence, the same in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = (0..noise_bytes / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    write(b"noise.bin", &noise);
    let sparse = std::fs::File::create(root.join("sparse")).expect("file");
    sparse.set_len(sparse_bytes).expect("length");
    sparse.write_all_at(b"begin", 0).expect("write");
    sparse.write_all_at(b"middle", sparse_bytes / 3).expect("write");
    std::fs::hard_link(&plain, root.join("hard link")).expect("link");
    std::os::unix::fs::symlink("/nowhere/at all", root.join("symlink")).expect("link");
    std::process::Command::new("setfattr").args(["-n", "user.note", "-v", "kept"]).arg(&plain).status().expect("setfattr");
    let old = std::fs::File::options().write(true).open(&plain).expect("open");
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    old.set_times(std::fs::FileTimes::new().set_modified(time)).expect("times");
    std::process::Command::new("mkfifo").arg(root.join("fifo")).status().expect("mkfifo");
}

/// For every regular file below a folder: (size, mtime seconds and nanoseconds, SHA-256 by a foreign program).
///
/// # Panics
/// When the folder cannot be read.
#[must_use]
pub fn tree_facts(root: &Path) -> BTreeMap<Vec<u8>, (u64, i64, i64, String)> {
    let mut facts = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("list").filter_map(Result::ok) {
            let meta = entry.path().symlink_metadata().expect("stat");
            if meta.is_dir() {
                folders.push(entry.path());
            } else if meta.is_file() {
                let out =
                    std::process::Command::new("openssl").args(["dgst", "-sha256", "-r"]).arg(entry.path()).output().expect("openssl");
                let digest = String::from_utf8_lossy(&out.stdout).trim_start_matches('\\').chars().take(64).collect();
                let name = entry.path().strip_prefix(root).expect("below").as_os_str().as_bytes().to_vec();
                facts.insert(name, (meta.len(), meta.mtime(), meta.mtime_nsec(), digest));
            }
        }
    }
    facts
}
