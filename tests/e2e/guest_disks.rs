//! Disks that only a kernel of its own gives: sectors that fail, a disk that is pulled, a file system that is written to, and
//! what lies over several disks (LVM, RAID, btrfs) or under encryption. An agent inside a guest, the coordinator outside.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use exhibit_tests::{Finished, Fleet, GuestPlan};
use serde_json::Value;

const SECTOR: u64 = 512;
/// Sectors of the failing disk that cannot be read: first and count. The first two lie before the place of the kill.
const BAD: &[(u64, u64)] = &[(0, 1), (1_000, 3), (70_000, 1), (98_303, 1)];
const SECTORS: u64 = 98_304;
/// Sectors of 4,096 bytes that fail as hardware says it: first and count.
const MEDIUM: (u64, u64) = (300, 2);
/// The disks that the guest gets beside the failing one, with their MiB: /dev/vdb and so on.
const DISKS: &[(&str, u64)] = &[("live", 16), ("pv0", 8), ("pv1", 8), ("leg0", 7), ("leg1", 7), ("tree0", 16), ("tree1", 16), ("ext4", 4)];

/// Fails where it should, over /dev/vda; kills the agent once so much was read; pulls a disk; writes to a file system.
fn scenario() -> String {
    let (mut table, mut at) = (String::new(), 0);
    for (first, count) in BAD {
        if *first > at {
            writeln!(table, "{at} {} linear /dev/vda {at}", first - at).expect("text");
        }
        writeln!(table, "{first} {count} error").expect("text");
        at = first + count;
    }
    if at < SECTORS {
        writeln!(table, "{at} {} linear /dev/vda {at}", SECTORS - at).expect("text");
    }
    format!(
        "mkdir -p /dev/mapper /mnt
dmsetup --noudevsync create bad <<END
{table}END
dmsetup mknodes bad
read_so_far() {{ read -r _ _ so_far _ < /sys/block/$1/stat; }}
wait_until_read() {{
  read_so_far $1
  stop=$((so_far + $2))
  while [ $so_far -lt $stop ]; do usleep 50000; read_so_far $1; done
}}
( wait_until_read dm-0 64000
  killall -9 exhibit-agent; echo \"GUEST killed\"; exhibit-agent run --dir /agent ) &
mount -t ext4 /dev/vdb /mnt && echo \"mounted ext4\"
{STACKS}
( while :; do date >> /mnt/log; sync; usleep 200000; done ) &
( while [ ! -e /sys/block/sda/stat ]; do usleep 50000; done
  wait_until_read sda 14000
  echo 1 > /sys/block/sda/device/delete; echo \"GUEST pulled\" ) &
"
    )
}

/// A striped volume over two disks; a mirror, encrypted, with the same file system in it; btrfs over two disks; a disk
/// with eight sectors that are always down and eight that are every other second. Nothing waits for udev, which is not there.
const STACKS: &str = r#"
export DM_DISABLE_UDEV=1
mkdir -p /btrfs /run/lvm /run/lock/lvm /run/mdadm /run/cryptsetup
failed() { echo "GUEST failed: $1"; }
lvm vgcreate -q -s 1m evidence /dev/vdc /dev/vdd > /dev/null || failed vgcreate
lvm lvcreate -q -Wn -Zn -i 2 -I 64k -l 10 -n data evidence > /dev/null || failed lvcreate
dd if=/dev/vdi of=/dev/mapper/evidence-data bs=1M 2> /dev/null || failed "dd to the volume"
mdadm --quiet --create /dev/md0 --level=1 --raid-devices=2 --metadata=1.0 --assume-clean --run /dev/vde /dev/vdf || failed mdadm
echo -n secret > /key
cryptsetup open --type luks1 --key-file /key /dev/md0 plain || failed cryptsetup
dd if=/dev/vdi of=/dev/mapper/plain bs=1M 2> /dev/null || failed "dd to the opened container"
mount -t btrfs -o device=/dev/vdh /dev/vdg /btrfs || failed "mount btrfs"
dmsetup --noudevsync create flaky <<END || failed flaky
0 2048 linear /dev/vdi 0
2048 8 flakey /dev/vdi 2048 0 1
2056 2040 linear /dev/vdi 2056
4096 8 flakey /dev/vdi 4096 1 1
4104 4088 linear /dev/vdi 4104
END
sync
echo "GUEST stacks"
"#;

/// Images for the disks of [`DISKS`], with what can be made without a kernel of one's own.
fn make_disks(dir: &Path) -> Vec<PathBuf> {
    let run = |program: &str, args: &[&str]| Finished::of(Command::new(program).args(args).current_dir(dir)).ok();
    for (name, mib) in DISKS {
        std::fs::File::create(dir.join(name)).and_then(|f| f.set_len(mib << 20)).expect("image");
    }
    std::fs::create_dir(dir.join("files")).expect("folder");
    std::fs::write(dir.join("files/note.txt"), "who was here\n").expect("file");
    std::fs::write(dir.join("key"), "secret").expect("file");
    run("mkfs.ext4", &["-q", "-L", "live", "live"]);
    run("mkfs.ext4", &["-q", "-L", "evidence", "-d", "files", "ext4"]);
    run("mkfs.btrfs", &["-q", "-M", "-d", "single", "-m", "single", "-L", "tree", "tree0", "tree1"]);
    let cheap = ["--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file", "key"];
    run("cryptsetup", &[&["luksFormat", "--batch-mode"], cheap.as_slice(), &["leg0"]].concat());
    std::fs::copy(dir.join("leg0"), dir.join("leg1")).expect("the other leg of the mirror");
    DISKS.iter().map(|(name, _)| dir.join(name)).collect()
}

fn noise(count: u64) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).take(usize::try_from(count / 8).expect("fits")).flatten().collect()
}

fn item<'a>(items: &'a [Value], path: &str) -> &'a Value {
    items.iter().find(|i| i["path"] == path).unwrap_or_else(|| panic!("no item {path} in {items:#?}"))
}

fn sha256(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), bytes).expect("written");
    let out = Finished::of(Command::new("sha256sum").arg(file.path())).ok().text();
    out.split(' ').next().expect("digest").to_owned()
}

fn check_bad_sectors(fleet: &Fleet, items: &[Value], content: &[u8]) {
    let found = item(items, "/dev/mapper/bad");
    let mut want = content.to_vec();
    for (first, count) in BAD {
        let from = usize::try_from(first * SECTOR).expect("fits");
        want[from..from + usize::try_from(count * SECTOR).expect("fits")].fill(0);
    }
    assert_eq!((found["status"].as_str(), found["sha256"].as_str()), (Some("partial"), Some(sha256(&want).as_str())), "{found:#}");
    let gaps: Vec<(u64, u64)> = found["gaps"]
        .as_array()
        .expect("gaps")
        .iter()
        .map(|g| (g["offset"].as_u64().expect("offset") / SECTOR, g["length"].as_u64().expect("length") / SECTOR))
        .collect();
    assert_eq!(gaps, BAD, "to the sector");
    assert!(found["facts"]["continued_at"].is_string(), "the agent was killed while it read this: {found:#}");
    assert!(found["facts"]["read"].as_str().is_some_and(|r| r.contains("O_DIRECT")), "{found:#}");
    // The list holds what the first process found as well.
    let list = items.iter().find(|i| i["path"].as_str().is_some_and(|p| p.ends_with("/bad-sectors.jsonl"))).expect("the list");
    let id = list["id"].as_str().expect("id");
    let rows = fleet.exhibit(&["cat", id, "--reason", "test"]).ok().json();
    let listed: Vec<(u64, u64)> =
        rows.iter().map(|r| (r["first_lba"].as_u64().expect("number"), r["sectors"].as_u64().expect("number"))).collect();
    assert_eq!(listed, BAD);
    assert!(rows.iter().all(|r| r["errno"] == 5 && r["tries"] == 2), "{rows:#?}");
}

/// What lies over or under something else: path, file on this machine that holds the same bytes, what stands in `consistency`,
/// the mark at its start.
const STACKED: &[(&str, Option<&str>, &str, &str)] = &[
    ("/dev/mapper/flaky", None, "nothing that is known of writes to it: not mounted", "ext4"),
    ("/dev/vdc", Some("pv0"), "nothing that is known of writes to it: held by dm-1, not mounted", "LVM2_member"),
    ("/dev/vdd", Some("pv1"), "nothing that is known of writes to it: held by dm-1, not mounted", "LVM2_member"),
    ("/dev/mapper/evidence-data", None, "nothing that is known of writes to it: not mounted", "ext4"),
    ("/dev/vde", Some("leg0"), "nothing that is known of writes to it: held by md0, dm-2, not mounted", "crypto_LUKS"),
    ("/dev/vdf", Some("leg1"), "nothing that is known of writes to it: held by md0, dm-2, not mounted", "crypto_LUKS"),
    ("/dev/md0", None, "nothing that is known of writes to it: held by dm-2, not mounted", "crypto_LUKS"),
    ("/dev/mapper/plain", None, "nothing that is known of writes to it: not mounted", "ext4"),
    ("/dev/vdg", None, "inconsistent: mounted read-write at /btrfs", "btrfs"),
    ("/dev/vdh", None, "inconsistent: mounted read-write at /btrfs", "btrfs"),
];

fn check_stacks(fleet: &Fleet, collection: &str, dir: &Path) {
    let items = fleet.items(collection);
    let digest = |name: &str| sha256(&std::fs::read(dir.join(name)).expect("image"));
    let cat = |id: &Value| fleet.exhibit(&["cat", id.as_str().expect("id"), "--reason", "test"]).ok();
    let records = items.iter().filter(|i| i["path"].as_str().is_some_and(|p| p.ends_with("/layout.json")));
    let layouts: Vec<Value> = records.map(|i| cat(&i["id"]).json().remove(0)).collect();
    for (path, same, consistency, mark) in STACKED {
        let found = item(&items, path);
        assert!(found["facts"]["consistency"].as_str().is_some_and(|c| c.starts_with(consistency)), "{found:#}");
        if let Some(name) = same {
            assert_eq!((found["status"].as_str(), found["sha256"].as_str()), (Some("collected"), Some(digest(name).as_str())), "{found:#}");
        }
        let layout = layouts.iter().find(|l| l["path"] == *path).expect("its layout");
        assert_eq!(layout["signatures"][0]["what"], *mark, "{path}");
    }
    // The file system is the same in the volume and in the opened container; behind it zeros.
    let mut image = std::fs::read(dir.join("ext4")).expect("image");
    for path in ["/dev/mapper/evidence-data", "/dev/mapper/plain"] {
        let found = item(&items, path);
        image.resize(usize::try_from(found["size"].as_u64().expect("size")).expect("fits"), 0);
        if path.ends_with("data") {
            assert_eq!(
                (found["status"].as_str(), found["sha256"].as_str()),
                (Some("collected"), Some(sha256(&image).as_str())),
                "{found:#}"
            );
        }
        let file = get(fleet, found, "e01", &dir.join("out"));
        let verified = Finished::of(Command::new("ewfverify").args(["-q", "-d", "sha1", &file]));
        assert!(verified.code == 0 && verified.text().contains("SUCCESS"), "{}{}", verified.text(), verified.stderr);
        assert!(Finished::of(Command::new("fls").args(["-r", &file])).ok().text().contains("note.txt"), "{path}");
    }
    // The sealed container says that it is one, and where its plain content is to be had.
    let (md, legs) = (item(&items, "/dev/md0"), std::fs::read(dir.join("leg0")).expect("image"));
    let size = usize::try_from(md["size"].as_u64().expect("size")).expect("fits");
    assert_eq!(md["sha256"].as_str(), Some(sha256(&legs[..size]).as_str()), "the array shows what its legs hold");
    let opened = "crypto_LUKS at its start: taken sealed; opened as /dev/dm-2, which 'path' takes in plain while it is open";
    assert!([md, item(&items, "/dev/vde")].iter().all(|i| i["facts"]["encrypted"] == opened), "{md:#}");
    let disks = items.iter().find(|i| i["path"] == "disks.jsonl").expect("the table");
    let disks = cat(&disks["id"]).json();
    let row = |name: &str| disks.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(row("dm-1")["slaves"], serde_json::json!(["vdc", "vdd"]));
    assert_eq!((&row("md0")["slaves"], row("md0")["says"]["md/level"].as_str()), (&serde_json::json!(["vde", "vdf"]), Some("raid1")));
    assert!(row("dm-2")["says"]["dm/uuid"].as_str().is_some_and(|u| u.starts_with("CRYPT-LUKS1-")), "{disks:#?}");
    // btrfs: its own program knows the copy.
    let file = get(fleet, item(&items, "/dev/vdg"), "raw", &dir.join("out"));
    let shown = Finished::of(Command::new("btrfs").args(["inspect-internal", "dump-super", &file])).ok().text();
    assert!(shown.contains("num_devices\t\t2") && shown.contains("[match]"), "{shown}");
    check_flaky(item(&items, "/dev/mapper/flaky"), &std::fs::read(dir.join("ext4")).expect("image"));
}

/// What is always down is lost; whether what is down every other second is as well nobody knows before, but the record does.
fn check_flaky(found: &Value, content: &[u8]) {
    assert_eq!((found["gaps"][0]["offset"].as_u64(), found["gaps"][0]["length"].as_u64()), (Some(2048 * SECTOR), Some(8 * SECTOR)));
    let mut want = content.to_vec();
    for gap in found["gaps"].as_array().into_iter().flatten() {
        let at = |key: &str| usize::try_from(gap[key].as_u64().expect("number")).expect("fits");
        want[at("offset")..at("offset") + at("length")].fill(0);
    }
    assert_eq!(found["sha256"].as_str(), Some(sha256(&want).as_str()), "{found:#}");
    assert_eq!(found["status"], "partial", "{found:#}");
}

fn get(fleet: &Fleet, found: &Value, format: &str, out: &Path) -> String {
    let id = found["id"].as_str().expect("id");
    let got = fleet.exhibit(&["get", id, "--as", format, "--out", out.to_str().expect("text"), "--reason", "test"]).ok().json();
    got[0]["file"].as_str().expect("file").to_owned()
}

#[test]
fn failing_live_and_pulled_disks_say_what_they_are() {
    let dir = tempfile::tempdir().expect("folder");
    let failing = dir.path().join("failing.img");
    let content = noise(SECTORS * SECTOR);
    std::fs::write(&failing, &content).expect("image");
    let disks = [vec![failing], make_disks(dir.path())].concat();
    let mut plan = GuestPlan { scenario: scenario(), disks, ..GuestPlan::default() };
    let disk = format!("scsi_debug sector_size=4096 opts=2 medium_error_start={} medium_error_count={}", MEDIUM.0, MEDIUM.1);
    let stacks = ["dm-flakey", "md-mod", "raid1", "dm-crypt", "xts", "aesni-intel", "btrfs"];
    plan.modules.extend(["virtio_blk", "dm-mod", "crc32c_generic", "ext4", "sd_mod", &disk].map(str::to_owned));
    plan.modules.extend(stacks.map(str::to_owned));
    plan.programs.extend(["/usr/sbin/dmsetup", "/usr/sbin/lvm", "/usr/sbin/mdadm", "/usr/sbin/cryptsetup"].map(PathBuf::from));
    let fleet = Fleet::start();
    let (mut guest, agent) = fleet.guest_agent(plan);
    let console = guest.console();
    assert!(console.contains("mounted ext4") && console.contains("GUEST stacks") && !console.contains("GUEST failed"), "{console}");
    let case = fleet.open_case();

    // A disk with bad sectors, and the agent dies in the middle of it.
    let collection = fleet.order_for(&case, &agent, &["--capture", "disk:path=/dev/mapper/bad", "--send-rate", "6M"]);
    guest.wait_for("GUEST killed", Duration::from_mins(2));
    let ended = fleet.wait_closed(&collection, Duration::from_mins(4));
    assert_eq!((ended["state"].as_str(), ended["streams"].as_u64()), (Some("sealed"), Some(1)), "{ended}\n{}", guest.console());
    let items = fleet.items(&collection);
    check_bad_sectors(&fleet, &items, &content);

    // One that is written to, one that is pulled, and what `all` leaves out.
    let collection = fleet.order_for(&case, &agent, &["--capture", "disk:path=/dev/vdb,path=/dev/sda", "--read-rate", "4M"]);
    let ended = fleet.wait_closed(&collection, Duration::from_mins(4));
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", guest.console());
    let items = fleet.items(&collection);
    let live = item(&items, "/dev/vdb");
    assert_eq!(
        (live["status"].as_str(), live["facts"]["consistency"].as_str()),
        (Some("changed-during-read"), Some("inconsistent: mounted read-write at /mnt"))
    );
    assert!(live["reason"].as_str().is_some_and(|r| r.contains("sectors of 512 bytes were written to it")), "{live:#}");
    let pulled = item(&items, "/dev/sda");
    guest.wait_for("GUEST pulled", Duration::from_secs(1));
    assert_eq!(pulled["status"], "partial", "{pulled:#}");
    let gaps = pulled["gaps"].as_array().expect("gaps");
    let medium = (gaps[0]["offset"].as_u64(), gaps[0]["length"].as_u64());
    assert_eq!((medium, gaps.len()), ((Some(MEDIUM.0 * 4096), Some(MEDIUM.1 * 4096)), 2), "{pulled:#}");
    assert_eq!(pulled["facts"]["sector_bytes"], "4096");
    let last = gaps.last().expect("a gap");
    assert!(last["reason"].as_str().is_some_and(|r| r.contains("the device is gone")), "{pulled:#}");
    assert_eq!(last["offset"].as_u64().expect("offset") + last["length"].as_u64().expect("length"), 8 << 20, "to its end");

    let paths = STACKED.iter().map(|(path, ..)| format!("path={path}")).collect::<Vec<_>>().join(",");
    let collection = fleet.order_for(&case, &agent, &["--capture", &format!("disk:{paths}"), "--read-rate", "24M"]);
    let ended = fleet.wait_closed(&collection, Duration::from_mins(4));
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", guest.console());
    check_stacks(&fleet, &collection, dir.path());

    let collection = fleet.order_for(&case, &agent, &["--capture", "disk:all=true,content=false"]);
    let ended = fleet.wait_closed(&collection, Duration::from_mins(2));
    let items = fleet.items(&collection);
    let beneath = item(&items, "/dev/vda");
    assert_eq!(beneath["facts"]["consistency"], "nothing that is known of writes to it: held by dm-0, not mounted", "{beneath:#}");
    let mapping = item(&items, "/dev/dm-0");
    assert!(
        mapping["reason"].as_str().is_some_and(|r| r.contains("a mapping") && r.contains("vda, which is taken")),
        "{ended} {mapping:#}"
    );
    let _ = fleet.verify(&case).expect_sound();
}
