//! What a stream is worth in twenty years: readers that are not ours open it. GNU tar, the zstd tool, Python's tarfile
//! and a third-party reader of the zstd seekable format.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use exhibit_evidence::Digest;
use exhibit_evidence::stream::segment::{Built, FrameCompressor, SegmentBuilder};
use exhibit_evidence::stream::tar::{END_MARKER, Extent, Head, HeadKind, encode, padding};
use exhibit_evidence::time::FileTime;

/// What a member should be after extraction.
#[derive(Default)]
struct Expected {
    name: Vec<u8>,
    content: Option<Vec<u8>>,
    directory: bool,
    target: Option<Vec<u8>>,
    same_as: Option<Vec<u8>>,
    mode: u32,
    ids: (u32, u32),
    mtime: Option<FileTime>,
    xattrs: BTreeMap<String, Vec<u8>>,
    extents: Option<Vec<Extent>>,
}

impl Expected {
    fn write(&self, out: &mut Vec<u8>) {
        let content = self.content.as_deref().unwrap_or_default();
        let kind = match (&self.target, &self.same_as, &self.extents) {
            (Some(target), _, _) => HeadKind::Symlink { target },
            (_, Some(target), _) => HeadKind::Hardlink { target },
            (_, _, Some(extents)) => HeadKind::Sparse { size: content.len() as u64, extents },
            _ if self.directory => HeadKind::Directory,
            _ => HeadKind::File { size: content.len() as u64 },
        };
        let (uid, gid) = self.ids;
        let (atime, ctime) = (self.mtime.map(|t| FileTime { s: t.s + 1, ns: 1 }), self.mtime.map(|t| FileTime { s: t.s + 2, ns: 2 }));
        let head = Head { name: &self.name, kind, mode: self.mode, uid, gid, mtime: self.mtime, atime, ctime, xattrs: &self.xattrs };
        let data = encode(&head, out).expect("a good head");
        match &self.extents {
            Some(extents) => {
                for e in extents {
                    out.extend_from_slice(&content[e.offset as usize..e.end() as usize]);
                }
            }
            None => out.extend_from_slice(content),
        }
        out.resize(out.len() + padding(data), 0);
    }
}

/// One of everything.
fn members() -> Vec<Expected> {
    let time = |s, ns| Some(FileTime { s, ns });
    let file = |name: &[u8], content: Vec<u8>| Expected {
        name: name.to_vec(),
        content: Some(content),
        mode: 0o640,
        mtime: time(1_700_000_000, 123_456_789),
        ..Expected::default()
    };
    let long = [&b"files/"[..], &[b'l'; 200], b"/", &[b'm'; 150]].concat();
    let not_utf8 = [&b"files/caf\xe9-"[..], &[0xff; 120]].concat();
    let deep = [&b"files"[..], &b"/0123456789012345678901234567890123456789".repeat(40)].concat();
    let mut sparse = vec![0_u8; 3 << 20];
    let extents = vec![Extent { offset: 4096, length: 5120 }, Extent { offset: 1 << 20, length: 4096 }];
    for extent in &extents {
        sparse[extent.offset as usize..extent.end() as usize].fill(b's');
    }
    let mut sparse_to_the_end = vec![0_u8; (1 << 20) + 10];
    sparse_to_the_end[1 << 20..].fill(b'e');
    let xattrs = BTreeMap::from([
        ("user.plain".to_owned(), b"value".to_vec()),
        ("user.bytes".to_owned(), vec![0, 1, b'\n', 0xff, b'=', b' ']),
        ("user.a=b%c".to_owned(), b"name".to_vec()),
    ]);
    vec![
        Expected { name: b"files".to_vec(), directory: true, mode: 0o755, mtime: time(1_600_000_000, 1), ..Expected::default() },
        Expected {
            name: b"files/sub/".to_vec(),
            directory: true,
            mode: 0o1777,
            mtime: time(1_500_000_000, 999_999_999),
            ..Expected::default()
        },
        file(b"files/small", b"hello\n".to_vec()),
        file(b"files/empty", Vec::new()),
        file(b"files/block", vec![b'b'; 512]),
        file(b"files/new\nline \xc2\xb7 \xe2\x80\xae\\ tab\t", b"odd".to_vec()),
        Expected { mode: 0o4755, ids: (3_000_000, 4_000_000_000), mtime: time(-86_400, 250_000_000), ..file(&not_utf8, b"latin".to_vec()) },
        file(&long, b"long".to_vec()),
        file(&deep, b"deep".to_vec()),
        Expected { xattrs, ..file(b"files/attributes", b"x".to_vec()) },
        Expected { extents: Some(extents), ..file(b"files/sparse", sparse) },
        Expected {
            extents: Some(vec![Extent { offset: 1 << 20, length: 10 }]),
            ..file(&[&not_utf8[..], b"-sparse"].concat(), sparse_to_the_end)
        },
        Expected { extents: Some(vec![]), ..file(b"files/all-hole", vec![0; 1 << 20]) },
        file(b"logs/big", (0..9_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
        Expected {
            name: b"files/link".to_vec(),
            target: Some(b"/etc/../nowhere".to_vec()),
            mode: 0o777,
            mtime: time(1, 5),
            ..Expected::default()
        },
        Expected { name: b"files/far".to_vec(), target: Some([b"t/".repeat(80), vec![0xe9]].concat()), mode: 0o777, ..Expected::default() },
        Expected { name: b"files/again".to_vec(), same_as: Some(b"files/small".to_vec()), mode: 0o640, ..Expected::default() },
        Expected { name: b"logs/far-again".to_vec(), same_as: Some(long), mode: 0o640, ..Expected::default() },
    ]
}

fn raw_stream(members: &[Expected]) -> Vec<u8> {
    let mut raw = Vec::new();
    for member in members {
        member.write(&mut raw);
    }
    raw.extend_from_slice(&END_MARKER);
    raw
}

/// Segments of the raw stream: frames of uneven size, a segment after every two or three mebibytes.
fn segments(raw: &[u8]) -> Vec<Built> {
    let mut compressor = FrameCompressor::new(1).expect("level 1");
    let mut done = Vec::new();
    let mut builder = SegmentBuilder::new(0, 0);
    let mut at = 0;
    for frame in raw.chunks(777_777) {
        if builder.raw_size() > 2 << 20 {
            let next = SegmentBuilder::new(done.len() as u32 + 1, at);
            done.push(std::mem::replace(&mut builder, next).finish().expect("frames"));
        }
        builder.compress_frame(&mut compressor, frame).expect("fits");
        at += frame.len() as u64;
    }
    done.push(builder.finish().expect("frames"));
    done
}

struct Bench {
    dir: tempfile::TempDir,
    members: Vec<Expected>,
    raw: Vec<u8>,
    segments: Vec<Built>,
}

impl Bench {
    /// Writes the segments and the whole stream (`stream.tar.zst`) into a folder on the file system of the build, which
    /// unlike a temporary one keeps extended attributes.
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("folder");
        let members = members();
        let raw = raw_stream(&members);
        let segments = segments(&raw);
        assert!(segments.len() > 2, "several segments");
        for segment in &segments {
            fs::write(dir.path().join(format!("{:08}.tar.zst", segment.facts.n)), &segment.bytes).expect("write");
        }
        let whole: Vec<u8> = segments.iter().flat_map(|s| s.bytes.clone()).collect();
        fs::write(dir.path().join("stream.tar.zst"), whole).expect("write");
        Self { dir, members, raw, segments }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Runs a program that must be there and must succeed without a word of complaint. Returns what it printed.
fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}: this test needs that program"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{command:?}: {}\n{complaints}", output.status);
    output.stdout
}

#[test]
fn zstd_takes_each_segment_and_the_whole() {
    let bench = Bench::new();
    for segment in &bench.segments {
        run(Command::new("zstd").args(["-q", "-t"]).arg(bench.path(&format!("{:08}.tar.zst", segment.facts.n))));
    }
    run(Command::new("zstd").args(["-q", "-t"]).arg(bench.path("stream.tar.zst")));
    assert!(run(Command::new("zstd").args(["-q", "-d", "-c"]).arg(bench.path("stream.tar.zst"))) == bench.raw);
}

/// True when the folder's file system takes attributes of users.
fn keeps_xattrs(dir: &Path) -> bool {
    rustix::fs::setxattr(dir, "user.exhibit.probe", b"1", rustix::fs::XattrFlags::empty()).is_ok()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn check_extracted(root: &Path, member: &Expected, xattrs: bool) {
    let path = root.join(OsStr::from_bytes(&member.name));
    let meta = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if let Some(target) = &member.target {
        assert_eq!(fs::read_link(&path).expect("a link").as_os_str().as_bytes(), target);
    }
    if let Some(first) = &member.same_as {
        let first = fs::metadata(root.join(OsStr::from_bytes(first))).expect("the first name");
        assert_eq!((meta.ino(), meta.nlink()), (first.ino(), 2), "{}", path.display());
    }
    assert_eq!(meta.is_dir(), member.directory);
    if let Some(content) = &member.content {
        assert!(fs::read(&path).expect("a file") == *content, "{}", path.display());
        assert_eq!(meta.permissions().mode() & 0o7777, member.mode, "{}", path.display());
        if is_root() {
            assert_eq!((meta.uid(), meta.gid()), member.ids, "{}", path.display());
        }
    }
    if let Some(mtime) = member.mtime {
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (mtime.s, i64::from(mtime.ns)), "{}", path.display());
    }
    if member.extents.is_some() {
        assert!(meta.blocks() * 512 < meta.size() / 2, "{} lost its holes: {} blocks", path.display(), meta.blocks());
    }
    for (name, value) in member.xattrs.iter().filter(|_| xattrs) {
        let mut buffer = vec![0; 4096];
        let length = rustix::fs::getxattr(&path, name.as_str(), &mut buffer).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(&buffer[..length], value, "{name}");
    }
}

#[test]
fn gnu_tar_extracts_everything_as_it_was() {
    let bench = Bench::new();
    let xattrs = keeps_xattrs(bench.dir.path());
    if !xattrs {
        println!("extended attributes are not checked: the file system of {} keeps none", bench.dir.path().display());
    }
    for locale in ["C", "C.UTF-8"] {
        let root = bench.path(&format!("out-{locale}"));
        fs::create_dir(&root).expect("folder");
        let stream = bench.path("stream.tar.zst");
        let ids = if is_root() { "--same-owner" } else { "--no-same-owner" };
        let mut tar = Command::new("tar");
        // A time before 1970 is worth a warning to tar, and is restored. Here a folder's members do not all stand
        // together, so tar must wait to the end with the times of folders.
        tar.env("LC_ALL", locale)
            .args(["--zstd", "-x", "-P", "-p", ids, "--delay-directory-restore", "--warning=no-timestamp", "-f"])
            .arg(&stream)
            .arg("-C")
            .arg(&root);
        if xattrs {
            tar.args(["--xattrs", "--xattrs-include=*"]);
        }
        run(&mut tar);
        for member in &bench.members {
            check_extracted(&root, member, xattrs);
        }
    }
}

/// Prints one line a member: name (hex), type, size, mtime, atime, ctime, uid, gid, mode, link (hex), SHA-256, xattrs.
const PYTHON_TARFILE: &str = r#"
import hashlib, os, subprocess, sys, tarfile
path, module = sys.argv[1], sys.argv[2]
if module == "zstandard":
    import zstandard
    source = zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), read_across_frames=True)
else:
    source = subprocess.Popen(["zstd", "-q", "-d", "-c", path], stdout=subprocess.PIPE).stdout
raw = path + "." + module + ".tar"
with open(raw, "wb") as out:
    while piece := source.read(1 << 20):
        out.write(piece)
hexed = lambda text: os.fsencode(text).hex()
with tarfile.open(raw, encoding="utf-8", errors="surrogateescape") as tar:
    for m in tar:
        digest = "-"
        if m.isreg():
            digest = hashlib.sha256(tar.extractfile(m).read()).hexdigest()
        times = [m.pax_headers.get(key, "-") for key in ("mtime", "atime", "ctime")]
        xattrs = ",".join(f"{hexed(k[13:])}:{hexed(v)}" for k, v in sorted(m.pax_headers.items()) if k.startswith("SCHILY.xattr."))
        print("|".join([hexed(m.name), m.type.decode(), str(m.size), *times, str(m.uid), str(m.gid), "%o" % m.mode, hexed(m.linkname), digest, xattrs]))
"#;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|nibble| char::from_digit(u32::from(nibble), 16)).collect()
}

fn python_has(module: &str) -> bool {
    Command::new("python3").args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

#[test]
fn pythons_tarfile_sees_the_same() {
    let bench = Bench::new();
    let module = if python_has("zstandard") { "zstandard" } else { "cli" };
    println!("decompressed with {module}");
    let stdout = run(Command::new("python3").args(["-c", PYTHON_TARFILE]).arg(bench.path("stream.tar.zst")).arg(module));
    let seen: Vec<String> = String::from_utf8(stdout).expect("text").lines().map(str::to_owned).collect();
    let expected: Vec<String> = bench.members.iter().map(python_line).collect();
    for (seen, expected) in seen.iter().zip(&expected) {
        assert_eq!(seen, expected);
    }
    assert_eq!(seen.len(), expected.len());
}

fn python_line(member: &Expected) -> String {
    let (flag, link) = match (&member.target, &member.same_as, member.directory) {
        (Some(target), _, _) => ('2', target.clone()),
        (_, Some(target), _) => ('1', target.clone()),
        (_, _, true) => ('5', Vec::new()),
        _ => ('0', Vec::new()),
    };
    let time = |more: i64, ns: Option<u32>| {
        member.mtime.map_or("-".to_owned(), |t| FileTime { s: t.s + more, ns: ns.unwrap_or(t.ns) }.to_string())
    };
    let escaped = |name: &str| name.replace('%', "%25").replace('=', "%3D");
    let xattrs: BTreeMap<String, &Vec<u8>> = member.xattrs.iter().map(|(name, value)| (escaped(name), value)).collect();
    let xattrs: Vec<String> = xattrs.iter().map(|(name, value)| format!("{}:{}", hex(name.as_bytes()), hex(value))).collect();
    [
        hex(member.name.strip_suffix(b"/").unwrap_or(&member.name)),
        flag.to_string(),
        member.content.as_ref().map_or(0, Vec::len).to_string(),
        time(0, None),
        time(1, Some(1)),
        time(2, Some(2)),
        member.ids.0.to_string(),
        member.ids.1.to_string(),
        format!("{:o}", member.mode),
        hex(&link),
        member.content.as_ref().map_or("-".to_owned(), |c| Digest::of(c).to_string()),
        xattrs.join(","),
    ]
    .join("|")
}

const PYTHON_SEEKABLE: &str = r#"
import sys, pyzstd
with pyzstd.SeekableZstdFile(sys.argv[1], "r") as f:
    frames, _, raw_size = f.seek_table_info
    f.seek(int(sys.argv[2]))
    print(frames, raw_size, f.read(int(sys.argv[3])).hex())
"#;

#[test]
fn a_third_party_reader_finds_the_frames() {
    if !python_has("pyzstd") {
        println!("skipped: the Python module pyzstd is not installed (pip install pyzstd)");
        return;
    }
    let bench = Bench::new();
    for segment in &bench.segments {
        let path = bench.path(&format!("{:08}.tar.zst", segment.facts.n));
        let at = segment.facts.raw_size - 100;
        let stdout = run(Command::new("python3").args(["-W", "ignore", "-c", PYTHON_SEEKABLE]).arg(path).arg(at.to_string()).arg("64"));
        let from = (segment.facts.raw_offset + at) as usize;
        let frames = segment.facts.raw_size.div_ceil(777_777);
        let expected = format!("{frames} {} {}", segment.facts.raw_size, hex(&bench.raw[from..from + 64]));
        assert_eq!(String::from_utf8(stdout).expect("text").trim(), expected);
    }
}

/// Files above 8 GiB, plain and sparse, followed by a small one. The data is a hole in the tar file itself, so this costs
/// neither time nor space where the file system keeps holes.
#[test]
fn sizes_above_eight_gibibytes() {
    const DATA: u64 = (9 << 30) + 5;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("folder");
    let path = dir.path().join("huge.tar");
    let mut file = fs::File::create(&path).expect("create");
    let mut at = 0;
    let extents = [Extent { offset: 1 << 40, length: DATA }];
    let kinds = [HeadKind::File { size: DATA }, HeadKind::Sparse { size: (1 << 40) + DATA, extents: &extents }, HeadKind::File { size: 0 }];
    for (kind, name) in kinds.into_iter().zip([&b"memory/plain"[..], b"memory/sparse", b"memory/after"]) {
        use std::io::{Seek as _, SeekFrom, Write as _};
        let none = BTreeMap::new();
        let head = Head { name, kind, mode: 0o600, uid: 0, gid: 0, mtime: None, atime: None, ctime: None, xattrs: &none };
        let mut bytes = Vec::new();
        let data = encode(&head, &mut bytes).expect("good");
        file.seek(SeekFrom::Start(at)).expect("seek");
        file.write_all(&bytes).expect("write");
        at += bytes.len() as u64 + data + padding(data) as u64;
    }
    file.set_len(at + 1024).expect("length");
    let listed = run(Command::new("tar").args(["--numeric-owner", "--full-time", "--utc", "-tvf"]).arg(&path));
    let line = |size: u64, name: &str| format!("-rw------- 0/0 {size:>15} 1970-01-01 00:00:00 memory/{name}\n");
    let expected = [line(DATA, "plain"), line((1 << 40) + DATA, "sparse"), line(0, "after")].concat();
    let squeezed = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(squeezed(&String::from_utf8_lossy(&listed)), squeezed(&expected));
    let script = "import sys,tarfile\nfor m in tarfile.open(sys.argv[1]): print(m.name, m.size)";
    let seen = run(Command::new("python3").args(["-c", script]).arg(&path));
    let expected = format!("memory/plain {DATA}\nmemory/sparse {}\nmemory/after 0\n", (1_u64 << 40) + DATA);
    assert_eq!(String::from_utf8_lossy(&seen), expected);
}
