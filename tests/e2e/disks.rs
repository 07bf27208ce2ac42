//! Disks are taken byte for byte, come back in formats of foreign programs, and say what they are. On loop devices; without the
//! right to make one these tests say so and test nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use exhibit_tests::{Finished, Fleet, LoopDevice, partition, wait_until};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn sha256(path: &Path) -> String {
    let out = Finished::of(Command::new("sha256sum").arg(path)).ok().text();
    out.split(' ').next().expect("digest").to_owned()
}

fn run(program: &str, args: &[&str]) -> Finished {
    Finished::of(Command::new(program).args(args))
}

/// A disk with a GPT, an ext4 file system with files in its first partition and swap in its second.
fn gpt_disk(dir: &Path) -> PathBuf {
    let image = dir.join("gpt.img");
    std::fs::File::create(&image).and_then(|f| f.set_len(64 * MIB)).expect("image");
    partition(&image, "label: gpt\nstart=2048, size=81920, type=linux, name=data\nsize=16384, type=swap\n");
    let (tree, fs) = (dir.join("tree"), dir.join("fs.img"));
    std::fs::create_dir(&tree).expect("folder");
    std::fs::write(tree.join("note.txt"), b"who was here\n").expect("file");
    std::fs::File::create(&fs).and_then(|f| f.set_len(81_920 * 512)).expect("image");
    let _ = run("mkfs.ext4", &["-q", "-L", "evidence", "-d", tree.to_str().expect("text"), fs.to_str().expect("text")]).ok();
    let file = std::fs::OpenOptions::new().write(true).open(&image).expect("open");
    std::os::unix::fs::FileExt::write_all_at(&file, &std::fs::read(&fs).expect("read"), 2048 * 512).expect("write");
    image
}

fn item<'a>(items: &'a [Value], path: &str) -> &'a Value {
    items.iter().find(|i| i["path"] == path).unwrap_or_else(|| panic!("no item {path} in {items:#?}"))
}

fn layout(fleet: &Fleet, items: &[Value], name: &str) -> Value {
    let id = item(items, &format!("{name}/layout.json"))["id"].as_str().expect("id").to_owned();
    fleet.exhibit(&["cat", &id, "--reason", "test"]).ok().json().remove(0)
}

#[test]
fn a_disk_comes_back_as_foreign_programs_want_it() {
    let dir = tempfile::tempdir().expect("folder");
    let image = gpt_disk(dir.path());
    let device = LoopDevice::attach(&image, 512);
    // Not every kernel looks for partitions in loop devices.
    let (node, part) = (device.node(), format!("{}p1", device.node()));
    let has_part = Path::new(&part).exists();
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", &format!("disk:path={node},path={part},path={}", image.display())]);
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", fleet.coordinator_log());
    let _ = fleet.verify(&case).expect_sound();
    let items = fleet.items(ended["collection"].as_str().expect("id"));
    let digest = sha256(&image);
    for path in [node, image.to_str().expect("text")] {
        let found = item(&items, path);
        assert_eq!((found["status"].as_str(), found["sha256"].as_str()), (Some("collected"), Some(digest.as_str())), "{found:#}");
    }
    let part = item(&items, &part);
    assert_eq!(part["status"], if has_part { "collected" } else { "missing" });
    assert!(!has_part || part["sha256"] == sha256(&dir.path().join("fs.img")).as_str());

    let layout = layout(&fleet, &items, node.strip_prefix("/dev/").expect("in /dev"));
    assert_eq!(layout["tables"]["problems"], serde_json::json!([]), "{layout:#}");
    let parts = layout["partitions"].as_array().expect("partitions");
    let facts: Vec<_> = parts.iter().map(|p| (p["offset"].as_u64(), p["length"].as_u64(), p["type_name"].as_str())).collect();
    let (first, second) = ((Some(MIB), Some(40 * MIB), Some("Linux file system")), (Some(41 * MIB), Some(8 * MIB), Some("Linux swap")));
    assert_eq!(facts, [first, second]);
    assert_eq!((parts[0]["signatures"][0]["what"].as_str(), parts[0]["name"].as_str()), (Some("ext4"), Some("data")));
    // The same partitions as sleuthkit finds.
    let mmls = run("mmls", &[image.to_str().expect("text")]).ok().text();
    assert!(mmls.contains("0000002048   0000083967   0000081920") && mmls.contains("0000083968   0000100351   0000016384"), "{mmls}");

    let out = dir.path().join("out");
    let id = item(&items, node)["id"].as_str().expect("id");
    let got = fleet.exhibit(&["get", id, "--as", "e01", "--out", out.to_str().expect("text"), "--reason", "for sleuthkit"]).ok().json();
    let file = got[0]["file"].as_str().expect("file").to_owned();
    assert!(Path::new(&file).extension().is_some_and(|e| e == "E01"), "{got:#?}");
    let verified = run("ewfverify", &["-q", "-d", "sha1", &file]);
    assert!(verified.code == 0 && verified.text().contains("SUCCESS"), "{}{}", verified.text(), verified.stderr);
    let info = run("ewfinfo", &[&file]).ok().text();
    for part in [case.as_str(), id, digest.as_str(), node, "for sleuthkit"] {
        assert!(info.contains(part), "{part}: {info}");
    }
    assert!(run("mmls", &[&file]).ok().text().contains("0000083967"));
    let listed = run("fls", &["-o", "2048", "-r", &file]).ok().text();
    let inode = listed.lines().find(|l| l.ends_with("note.txt")).and_then(|l| l.split_whitespace().nth(1)).expect(&listed);
    assert_eq!(run("icat", &["-o", "2048", &file, inode.trim_end_matches(':')]).ok().stdout, b"who was here\n");
    let raw = dir.path().join("back");
    let _ = run("ewfexport", &["-q", "-u", "-f", "raw", "-t", raw.to_str().expect("text"), &file]).ok();
    assert_eq!(sha256(&dir.path().join("back.raw")), digest, "the E01 holds exactly the exhibit's bytes");

    // Raw is the exhibit; nothing is overwritten; a record is never turned into a disk.
    let raw = fleet.exhibit(&["get", id, "--as", "raw", "--out", out.to_str().expect("text"), "--reason", "test"]).ok().json();
    assert_eq!(sha256(Path::new(raw[0]["file"].as_str().expect("file"))), digest);
    let again = fleet.exhibit(&["get", id, "--as", "e01", "--out", out.to_str().expect("text"), "--reason", "test"]);
    assert_eq!(again.code, 73, "{}", again.stderr);
}

#[test]
fn sectors_of_4096_bytes_and_an_mbr() {
    let dir = tempfile::tempdir().expect("folder");
    let image = dir.path().join("4kn.img");
    std::fs::File::create(&image).and_then(|f| f.set_len(32 * MIB)).expect("image");
    let device = LoopDevice::attach(&image, 4096);
    partition(
        Path::new(device.node()),
        "label: dos\nunit: sectors\nstart=256, size=1024, type=83\nstart=2048, type=5\nstart=2304, size=512, type=82\nstart=4096, size=512, type=8e\n",
    );
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", &format!("disk:path={}", device.node())]);
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", fleet.coordinator_log());
    let items = fleet.items(ended["collection"].as_str().expect("id"));
    let found = item(&items, device.node());
    assert_eq!((found["sha256"].as_str(), found["facts"]["sector_bytes"].as_str()), (Some(sha256(&image).as_str()), Some("4096")));
    let layout = layout(&fleet, &items, device.node().strip_prefix("/dev/").expect("in /dev"));
    let facts: Vec<_> = layout["tables"]["mbr"]
        .as_array()
        .expect("partitions")
        .iter()
        .map(|p| (p["number"].as_u64(), p["offset"].as_u64(), p["type"].as_str()))
        .collect();
    let at = |sector: u64| Some(sector * 4096);
    assert_eq!(
        facts,
        [(Some(1), at(256), Some("83")), (Some(2), at(2048), Some("05")), (Some(5), at(2304), Some("82")), (Some(6), at(4096), Some("8e"))]
    );
    // The E01 counts in the disk's sectors, so sleuthkit finds the partitions without being told.
    let out = dir.path().join("out");
    let id = found["id"].as_str().expect("id");
    let got = fleet.exhibit(&["get", id, "--as", "e01", "--out", out.to_str().expect("text"), "--reason", "test"]).ok().json();
    let file = got[0]["file"].as_str().expect("file");
    let verified = run("ewfverify", &["-q", "-d", "sha1", file]);
    assert!(verified.code == 0 && verified.text().contains("SUCCESS"), "{}{}", verified.text(), verified.stderr);
    let mmls = run("mmls", &[file]).ok().text();
    assert!(mmls.contains("in 4096-byte sectors"), "{mmls}");
    for part in ["0000000256   0000001279   0000001024", "0000002304   0000002815", "0000004096   0000004607"] {
        assert!(mmls.contains(part), "{part}: {mmls}");
    }
}

/// What cannot be converted without loss is not converted, and the others are.
#[test]
fn an_image_of_an_odd_size_is_no_e01() {
    let dir = tempfile::tempdir().expect("folder");
    let (odd, even) = (dir.path().join("odd.img"), dir.path().join("even.img"));
    std::fs::write(&odd, vec![7; 100_001]).expect("image");
    std::fs::write(&even, vec![8; 102_400]).expect("image");
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", &format!("disk:path={},path={}", odd.display(), even.display())]);
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", fleet.coordinator_log());
    let collection = ended["collection"].as_str().expect("id");
    let out = dir.path().join("out");
    let got = fleet.exhibit(&[
        "get",
        "--collection",
        collection,
        "--path",
        "/**",
        "--as",
        "e01",
        "--out",
        out.to_str().expect("text"),
        "--reason",
        "test",
    ]);
    assert_eq!(got.code, 2, "{}", got.stderr);
    let lines = got.json();
    let said = lines.iter().find_map(|l| l["reason"].as_str()).expect("a reason");
    assert!(said.contains("are not a multiple of 512") && said.contains("--as raw"), "{said}");
    let of = |status: &str| lines.iter().filter(|l| l["status"] == status).count();
    assert_eq!((of("not-convertible"), of("collected")), (1, 1), "{lines:#?}");
}

#[test]
fn an_image_that_grows_is_taken_up_to_the_size_that_it_had() {
    let dir = tempfile::tempdir().expect("folder");
    let image = dir.path().join("growing.img");
    std::fs::write(&image, vec![5; 24 << 20]).expect("image");
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let capture = format!("disk:path={}", image.display());
    let collection = fleet.order(&case, &agent, &["--capture", &capture, "--read-rate", "8M"]);
    wait_until(Duration::from_secs(30), "the reading began", || {
        fleet.collection(&collection)["raw_bytes"].as_u64().unwrap_or(0) > 4_000_000
    });
    let mut file = std::fs::OpenOptions::new().append(true).open(&image).expect("open");
    file.write_all(&vec![6; 100_000]).expect("append");
    let ended = fleet.wait_closed(&collection, Duration::from_mins(1));
    assert_eq!(ended["state"], "sealed", "{ended}");
    let items = fleet.items(&collection);
    let found = item(&items, image.to_str().expect("text"));
    assert_eq!((found["status"].as_str(), found["size"].as_u64()), (Some("changed-during-read"), Some(24 * MIB)));
    assert!(found["reason"].as_str().is_some_and(|r| r.contains("25165824 to 25265824 bytes")), "{found:#}");
    assert!(found["facts"]["consistency"].as_str().is_some_and(|c| c.starts_with("inconsistent: changed while it was read")), "{found:#}");
}

/// A file system that is frozen by an agent which is killed must not stay frozen.
#[test]
#[allow(clippy::disallowed_methods, reason = "a test waits for another process: there is nothing to be woken by")]
fn a_killed_agent_leaves_nothing_frozen() {
    let dir = tempfile::tempdir().expect("folder");
    let (image, point) = (dir.path().join("fs.img"), dir.path().join("mnt"));
    std::fs::create_dir(&point).expect("folder");
    std::fs::File::create(&image).and_then(|f| f.set_len(64 * MIB)).expect("image");
    let _ = run("mkfs.ext4", &["-q", image.to_str().expect("text")]).ok();
    let device = LoopDevice::attach(&image, 512);
    let _ = run("mount", &[device.node(), point.to_str().expect("text")]).ok();
    let out = dir.path().join("out");
    let mut agent = Command::new(exhibit_tests::programs().join("exhibit-agent"))
        .args([
            "collect",
            "--offline",
            "--read-rate",
            "2M",
            "--capture",
            &format!("disk:path={},freeze=true,freeze_max=300s", device.node()),
        ])
        .arg("--out")
        .arg(&out)
        .spawn()
        .expect("agent");
    // Who writes to a frozen file system waits and cannot even be killed: it is left behind until the thaw.
    let mut waiting = Vec::new();
    let mut is_blocked = |name: &str| {
        let mut child = Command::new("touch").arg(point.join(name)).spawn().expect("touch");
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(300) {
            if child.try_wait().expect("asked").is_some() {
                return false;
            }
            std::thread::yield_now();
        }
        waiting.push(child);
        true
    };
    wait_until(Duration::from_secs(20), "it is frozen", || is_blocked("frozen"));
    agent.kill().expect("kill");
    agent.wait().expect("ended");
    wait_until(Duration::from_secs(5), "it is thawed", || !is_blocked("thawed"));
    assert!(waiting.into_iter().all(|mut child| child.wait().expect("ended").success()), "whoever waited went on");
    // Its time being up thaws as well, while the agent goes on.
    let out = dir.path().join("again");
    let mut agent = Command::new(exhibit_tests::programs().join("exhibit-agent"))
        .args(["collect", "--offline", "--read-rate", "8M", "--capture", &format!("disk:path={},freeze=true,freeze_max=2s", device.node())])
        .arg("--out")
        .arg(&out)
        .spawn()
        .expect("agent");
    assert!(agent.wait().expect("ended").success());
    let _ = run("umount", &[point.to_str().expect("text")]).ok();
    let manifest = std::fs::read_to_string(out.join("manifest.jsonl")).expect("manifest");
    let line = manifest.lines().find(|l| l.contains(&format!("\"path\":\"{}\"", device.node()))).expect("the device's line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    let freeze = line["facts"]["freeze"].as_str().expect("fact");
    assert!(freeze.contains("frozen up to about byte") && freeze.contains("2 s were over"), "{freeze}");
    assert!(line["facts"]["consistency"].as_str().is_some_and(|c| c.starts_with("inconsistent")), "{line:#}");
}
