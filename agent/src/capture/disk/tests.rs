//! The capture on real loop devices; without the right to make one (an unprivileged run) these tests only say so.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::capture::testing::Memory;

/// A loop device that goes when it is dropped.
struct Loop {
    node: String,
    _dir: tempfile::TempDir,
    file: PathBuf,
}

fn run(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok()?;
    assert!(out.status.success() || program == "losetup", "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// An image with this content as a loop device with sectors of so many bytes.
fn loop_device(content: &[u8], sector: &str) -> Loop {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("disk.img");
    std::fs::write(&file, content).expect("image");
    attach(dir, file, sector)
}

fn attach(dir: tempfile::TempDir, file: PathBuf, sector: &str) -> Loop {
    let path = file.to_str().expect("text");
    let node = run("losetup", &["--find", "--show", "--sector-size", sector, path]);
    Loop { node: node.expect("a loop device: these tests need them, and the right to attach them"), _dir: dir, file }
}

/// An ext4 file system of so many MiB on a loop device, mounted; `more` are arguments of its maker.
fn mounted(mib: u64, more: &[&str]) -> (Loop, Mounted) {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("fs.img");
    std::fs::File::create(&path).and_then(|f| f.set_len(mib << 20)).expect("image");
    let _ = run("mkfs.ext4", &[&["-q"], more, &[path.to_str().expect("text")]].concat());
    let (point, device) = (tempfile::tempdir().expect("folder"), attach(dir, path, "512"));
    let point = Mounted(point.keep());
    let _ = run("mount", &[&device.node, point.path()]);
    (device, point)
}

/// Where a file system is mounted until it is dropped, also when the test fails: the next run would find the device in use.
struct Mounted(PathBuf);

impl Mounted {
    fn path(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--quiet").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.node]).status();
    }
}

fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(count)
    .collect()
}

fn layout_of(out: &Memory, label: &str) -> serde_json::Value {
    serde_json::from_slice(out.content(&format!("{label}/layout.json"))).expect("JSON")
}

fn name_of(node: &str) -> &str {
    node.strip_prefix("/dev/").expect("in /dev")
}

#[test]
fn a_device_is_taken_byte_for_byte_in_either_sector_size() {
    let content = noise(5 << 20);
    for sector in ["512", "4096"] {
        let device = loop_device(&content, sector);
        for direct in ["true", "false"] {
            let out = Memory::run(&Disk, &[("path", &device.node), ("direct", direct)]);
            let put = out.get(&device.node).expect("the device");
            assert_eq!((put.status, put.content.as_deref() == Some(&content[..])), (Status::Collected, true), "{:?}", put.item);
            assert_eq!(put.item.facts["read"].contains("O_DIRECT"), direct == "true", "{:?}", put.item.facts);
            assert_eq!(put.item.facts["sector_bytes"], sector);
            assert!(put.item.facts["consistency"].ends_with("not mounted, no swap, nothing lies on it"), "{:?}", put.item.facts);
            assert!(put.item.meta.as_ref().is_some_and(|m| m.rdev.is_some()));
            let label = name_of(&device.node);
            assert_eq!(out.content(&format!("{label}/first-sectors.bin")), &content[..1 << 20]);
            assert_eq!(out.content(&format!("{label}/last-sectors.bin")), &content[4 << 20..]);
            let layout = layout_of(&out, label);
            assert_eq!((layout["size"].as_u64(), layout["geometry"]["logical_sector"].to_string()), (Some(5 << 20), sector.to_owned()));
            assert!(out.rows("disks").iter().any(|r| r["name"] == label && r["class"] == "loop"));
        }
    }
}

#[test]
fn reading_through_the_page_cache_leaves_it_as_it_was() {
    let device = loop_device(&noise(16 << 20), "512");
    let cached = || {
        let node = std::fs::File::open(&device.node).expect("open");
        let pages = exhibit_agent_sys::page_cache::cached_pages(node.as_fd());
        // Only a kernel before 6.5 does not tell.
        assert!(pages.as_ref().err().is_none_or(|e| e.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error())), "{pages:?}");
        pages.ok()
    };
    if cached().is_none() {
        return;
    }
    let taken = || {
        // The kernel looked for partitions when it was made: dropped, so that nothing is there.
        let node = std::fs::File::open(&device.node).expect("open");
        rustix::fs::fadvise(&node, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        drop(node);
        let before = cached();
        let out = Memory::run(&Disk, &[("path", &device.node), ("direct", "false")]);
        assert_eq!(out.get(&device.node).map(|p| p.status), Some(Status::Collected));
        (before, cached())
    };
    // Programs of other tests look at every disk that there is, in the same page cache.
    let seen: Vec<_> = std::iter::repeat_with(taken).take(20).take_while(|seen| *seen != (Some(0), Some(0))).collect();
    assert!(seen.len() < 20, "{seen:?}");
}

#[test]
fn an_image_file_is_taken_with_its_holes_and_says_who_uses_it() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("disk.img");
    let file = std::fs::File::create(&path).expect("image");
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(100_000), 20 << 20).expect("write");
    file.set_len(40 << 20).expect("length");
    let name = path.to_str().expect("text");
    let out = Memory::run(&Disk, &[("path", name)]);
    let put = out.get(name).expect("the image");
    assert_eq!((put.status, put.content.as_deref() == Some(&std::fs::read(&path).expect("read")[..])), (Status::Collected, true));
    assert!(put.item.facts["consistency"].ends_with("not mounted, no swap, nothing lies on it"), "{:?}", put.item.facts);
    let shown = attach(dir, path.clone(), "512");
    let out = Memory::run(&Disk, &[("path", name), ("content", "false")]);
    let put = out.get(name).expect("the image");
    assert_eq!(put.status, Status::Skipped);
    let layout =
        out.puts.iter().find(|p| p.item.path.to_string().ends_with("/layout.json")).and_then(|p| p.content.clone()).expect("layout");
    let layout: serde_json::Value = serde_json::from_slice(&layout).expect("JSON");
    assert_eq!(layout["usage"]["shown_by"][0], name_of(&shown.node), "{layout:#}");
}

/// An output for which a file grows between its opening and its reading.
struct Growing<'a>(Memory, &'a Path);

impl Output for Growing<'_> {
    fn put(&mut self, item: NewItem, content: Content<'_>) -> Result<Status, Stop> {
        if item.kind == Kind::File && matches!(content, Content::Source { .. }) {
            let mut file = std::fs::OpenOptions::new().append(true).open(self.1).expect("open");
            std::io::Write::write_all(&mut file, &[7; 512]).expect("append");
        }
        self.0.put(item, content)
    }

    fn checkpoint(&mut self) -> Result<(), Stop> {
        self.0.checkpoint()
    }

    fn note(&mut self, current: &str) {
        self.0.note(current);
    }

    fn now(&self) -> crate::capture::Moment {
        self.0.now()
    }

    fn ran(&mut self, command: String) {
        self.0.ran(command);
    }
}

#[test]
fn an_image_that_changed_while_it_was_read_is_not_called_unwritten() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("grow.img");
    std::fs::write(&path, noise(8192)).expect("image");
    let name = path.to_str().expect("text");
    let params = Params::new("disk", [("path".to_owned(), name.to_owned())].into());
    let mut out = Growing(Memory::default(), &path);
    Disk.run(&params, &mut out).expect("it runs");
    let put = out.0.get(name).expect("the image");
    assert_eq!(put.status, Status::ChangedDuringRead);
    let said = &put.item.facts["consistency"];
    assert!(said.starts_with("inconsistent: changed while it was read: size (8192 to 8704 bytes)"), "{said}");
    // Where something is known to write to it, that is said, and stays.
    let look = crate::capture::walk::inode::Opener::new().look_path(name.as_bytes()).expect("there");
    let mut source = ImageSource::open(Arc::new(look), crate::capture::evidence_path(name)).expect("open");
    source.in_use(true);
    std::fs::write(&path, b"short").expect("image");
    assert!(crate::capture::Source::after(&mut source).is_some());
    assert!(!crate::capture::Source::facts_after(&mut source).contains_key("consistency"));
}

#[test]
fn a_mounted_file_system_makes_disk_and_image_live() {
    let (device, mount) = mounted(16, &["-L", "evidence"]);
    let point = mount.path();
    std::fs::write(Path::new(point).join("a.txt"), b"hello").expect("write");
    let image = device.file.to_str().expect("text").to_owned();
    let out = Memory::run(&Disk, &[("path", &format!("{}\n{image}", device.node))]);
    let frozen = Memory::run(&Disk, &[("path", &device.node), ("freeze", "true"), ("freeze_max", "20s")]);
    // Thawed: a write goes through.
    std::fs::write(Path::new(point).join("b.txt"), b"hello").expect("write");
    let _ = run("umount", &[point]);
    for name in [&device.node, &image] {
        let put = out.get(name).expect("item");
        assert_eq!(put.item.facts["consistency"], format!("inconsistent: mounted read-write at {point}"), "{name}");
    }
    let layout = layout_of(&out, name_of(&device.node));
    assert_eq!((layout["signatures"][0]["what"].as_str(), layout["signatures"][0]["label"].as_str()), (Some("ext4"), Some("evidence")));
    assert_eq!(layout["usage"]["mounts"][0]["writable"], true);
    let put = frozen.get(&device.node).expect("item");
    assert!(put.item.facts["freeze"].starts_with("frozen while it was read"), "{:?}", put.item.facts);
    assert!(put.item.facts["consistency"].starts_with("consistent: frozen"), "{:?}", put.item.facts);
    assert_eq!(put.status, Status::Collected);
    // What was written before the freeze is on the disk that was taken.
    let copy = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(copy.path(), put.content.as_deref().expect("content")).expect("write");
    let listed = run("debugfs", &["-R", "cat a.txt", copy.path().to_str().expect("text")]);
    assert_eq!(listed.as_deref(), Some("hello"));
}

#[test]
fn nothing_that_is_asked_for_is_passed_over_in_silence() {
    let dir = tempfile::tempdir().expect("folder");
    let link = dir.path().join("by-id");
    std::os::unix::fs::symlink("/dev/null", &link).expect("link");
    let name = link.to_str().expect("text");
    let out = Memory::run(&Disk, &[("path", &format!("/dev/no-such\n{name}\n/etc")), ("all", "true")]);
    assert_eq!(out.get("/dev/no-such").map(|p| p.status), Some(Status::Missing));
    let null = out.get("/dev/null").expect("item");
    assert_eq!((null.status, null.item.facts["through"].ends_with("-> /dev/null")), (Status::Error, true));
    assert_eq!(out.get("/etc").map(|p| p.status), Some(Status::Error));
    for device in Devices::read().iter().flat_map(|d| d.all().cloned().collect::<Vec<_>>()).filter(|d| d.class != sysfs::Class::Partition) {
        let path = format!("/dev/{}", escape_bytes(&device.name.0));
        assert!(out.get(&path).is_some(), "{path} has no item");
    }
}

#[test]
fn orders_that_name_no_disk_or_impossible_numbers_are_refused() {
    let check = |params: &[(&str, &str)]| {
        let values = params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let params = Params::new("disk", values);
        params.check(Disk.params()).map_err(|e| e.to_string())?;
        Disk.check(&params)
    };
    assert!(check(&[]).is_err_and(|e| e.contains("all=true")));
    assert!(check(&[("all", "false")]).is_err());
    assert!(check(&[("path", "sdb")]).is_err_and(|e| e.contains("'sdb': expected an absolute path")));
    assert!(check(&[("all", "true"), ("tries", "0")]).is_err_and(|e| e.contains("1 to 10")));
    assert!(check(&[("all", "true"), ("freeze_max", "1h")]).is_err_and(|e| e.contains("1s to 300s")));
    assert_eq!(check(&[("path", "/dev/sdb")]), Ok(()));
}

/// A file system whose server never says a word: looking at anything below waits for ever. It goes with the value.
struct Dead {
    point: tempfile::TempDir,
    server: std::process::Child,
}

impl Dead {
    /// Mounts one of this type; nothing without the right to (an unprivileged run).
    fn mount(kind: &str) -> Self {
        const SERVER: &str = "import ctypes, os, sys, time
fuse = os.open('/dev/fuse', os.O_RDWR)
options = f'fd={fuse},rootmode=40000,user_id=0,group_id=0'.encode()
done = ctypes.CDLL(None, use_errno=True).mount(b'dead', sys.argv[2].encode(), sys.argv[1].encode(), 0, options)
print('mounted' if done == 0 else os.strerror(ctypes.get_errno()), flush=True)
time.sleep(600)";
        let point = tempfile::tempdir().expect("folder");
        let mut server = Command::new("python3")
            .args(["-c", SERVER, kind])
            .arg(point.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut said = String::new();
        let out = server.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut said).expect("it says how it went");
        let dead = Self { point, server };
        assert!(said.trim() == "mounted", "no file system of type {kind}; this test needs the right to mount: {said}");
        dead
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        // Its end is an answer to everybody who waits.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = Command::new("umount").arg("--lazy").arg(self.point.path()).status();
    }
}

#[test]
fn a_server_that_does_not_answer_holds_nothing() {
    let dir = tempfile::tempdir().expect("folder");
    let sound = dir.path().join("sound.img");
    std::fs::write(&sound, noise(8192)).expect("image");
    let sound = sound.to_str().expect("text");
    // One kind is known to have a server, the other one counts as local.
    for (kind, remote, status, why) in [
        ("fuse", "false", Status::Skipped, "remote file system fuse (dead): its server may not answer; 'remote=true' asks it"),
        ("fuse", "true", Status::Error, "looking at it did not come back within 3 s: left behind"),
        ("fuse.bindfs", "false", Status::Error, "looking at it did not come back within 3 s: left behind"),
    ] {
        let dead = Dead::mount(kind);
        let image = dead.point.path().join("disk.img");
        let link = dir.path().join(format!("link-{kind}-{remote}"));
        std::os::unix::fs::symlink(&image, &link).expect("link");
        let paths = format!("{}\n{sound}", link.to_str().expect("text"));
        let out = Memory::run(&Disk, &[("path", &paths), ("remote", remote)]);
        let put = out.puts.iter().find(|p| p.item.path.to_string().contains(if status == Status::Skipped { "disk.img" } else { "link-" }));
        let put = put.expect("an item");
        assert_eq!((put.status, put.item.reason.as_deref()), (status, Some(why)));
        assert_eq!(out.get(sound).map(|p| p.status), Some(Status::Collected), "the next one is taken");
    }
}

#[test]
fn only_files_of_real_file_systems_are_images() {
    let dir = tempfile::tempdir().expect("folder");
    let link = dir.path().join("image");
    std::os::unix::fs::symlink("/proc/kcore", &link).expect("link");
    let out = Memory::run(&Disk, &[("path", &format!("/proc/version\n/sys/kernel/mm/transparent_hugepage/enabled\n{}", link.display()))]);
    assert!(out.nothing, "nothing of it was taken");
    let kernels: Vec<_> = out.puts.iter().filter(|p| p.item.path.as_bytes().starts_with(b"/")).collect();
    assert_eq!(kernels.len(), 3);
    for put in kernels {
        let why = put.item.reason.as_deref().expect("a reason");
        assert!(put.status == Status::Error && why.contains("pseudo file system") && why.contains("none is an image"), "{why}");
    }
    assert!(out.get("/proc/kcore").is_some_and(|p| p.item.facts["through"].ends_with("-> /proc/kcore")));
    // A file of no bytes is one.
    let empty = dir.path().join("empty");
    std::fs::write(&empty, b"").expect("file");
    let name = empty.to_str().expect("text");
    let out = Memory::run(&Disk, &[("path", name)]);
    assert_eq!((out.nothing, out.get(name).map(|p| p.status)), (false, Some(Status::Collected)));
}

/// Whoever reads a disk to save it must not be what changes it.
#[test]
fn the_source_is_as_it_was() {
    use std::os::unix::fs::MetadataExt as _;
    let content = noise(4 << 20);
    let device = loop_device(&content, "512");
    let times = |path: &Path| std::fs::metadata(path).map(|m| (m.mtime_nsec(), m.ctime_nsec(), m.atime_nsec())).expect("there");
    let counters = || {
        let stat = std::fs::read_to_string(format!("/sys/block/{}/stat", name_of(&device.node))).expect("counters");
        let fields: Vec<u64> = stat.split_whitespace().map(|n| n.parse().expect("number")).collect();
        // Writes, sectors written, discards, sectors discarded, flushes.
        [4, 6, 11, 13, 15].map(|field| fields.get(field).copied())
    };
    let image = device.file.to_str().expect("text");
    let (before, counted) = (times(&device.file), counters());
    let out = Memory::run(&Disk, &[("path", image)]);
    assert_eq!((out.get(image).map(|p| p.status), times(&device.file)), (Some(Status::Collected), before), "no time of the file");
    let out = Memory::run(&Disk, &[("path", &device.node)]);
    assert_eq!((out.get(&device.node).map(|p| p.status), counters()), (Some(Status::Collected), counted));
    // The kernel's loop driver reads the file, and sets the time of its last access.
    assert_eq!((times(&device.file).0, times(&device.file).1), (before.0, before.1));
    assert!(std::fs::read(&device.file).expect("read") == content);
}

/// A process that is in the middle of a write to a file until it is killed: its data are memory that nobody supplies.
struct StuckWriter(std::process::Child);

impl StuckWriter {
    fn start(file: &Path) -> Self {
        const WRITER: &str = "import ctypes, fcntl, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
fault = libc.syscall(282 if platform.machine() == 'aarch64' else 323, 0)
fcntl.ioctl(fault, 0xc018aa3f, struct.pack('QQQ', 0xaa, 0, 0))
page = libc.mmap(None, 4096, 3, 0x22, -1, 0)
fcntl.ioctl(fault, 0xc020aa00, struct.pack('QQQQ', page, 4096, 1, 0))
libc.write(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), ctypes.c_void_p(page), 4096)";
        let child = Command::new("python3").args(["-c", WRITER]).arg(file).spawn().expect("python3 is installed");
        let mut writer = Self(child);
        let wchan = format!("/proc/{}/wchan", writer.0.id());
        while std::fs::read_to_string(&wchan).is_ok_and(|at| !at.contains("userfault")) {
            assert!(writer.0.try_wait().expect("asked").is_none(), "the writer has ended");
            std::thread::yield_now();
        }
        writer
    }
}

impl Drop for StuckWriter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_freeze_that_the_kernel_cannot_finish_is_said_and_thawed_in_the_end() {
    let (device, mount) = mounted(8, &[]);
    let point = mount.path();
    for killed in [false, true] {
        let writer = StuckWriter::start(&Path::new(point).join("stuck"));
        let out = Memory::run(&Disk, &[("path", &device.node), ("freeze", "true"), ("freeze_max", "1s")]);
        let put = out.get(&device.node).expect("item");
        let freeze = &put.item.facts["freeze"];
        assert!(freeze.contains("has begun and is not finished after 1 s: writers are blocked now, process "), "{freeze}");
        assert_eq!(put.item.status, Status::Partial);
        assert!(put.item.facts["freeze_later"].contains("still being frozen"), "{:?}", put.item.facts);
        assert!(put.item.facts["consistency"].starts_with("inconsistent") && out.nothing, "the collection says it as well");
        let pid = freeze.split("process ").nth(1).and_then(|rest| rest.split(';').next()).expect("a process");
        if killed {
            let _ = run("kill", &["-9", pid]);
        }
        drop(writer);
        // Waits for as long as it is frozen.
        let _ = run("touch", &[&format!("{point}/after-{killed}")]);
        // The freeze is really over, and does not come later: its process is gone.
        while Path::new(&format!("/proc/{pid}")).exists() {
            std::thread::yield_now();
        }
        let _ = run("touch", &[&format!("{point}/later-{killed}")]);
    }
}
