//! Disks that only a kernel of its own gives: sectors that fail, a disk that is pulled, a file system that is written to. An
//! agent inside a guest, the coordinator outside.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use exhibit_tests::{Finished, Fleet, GuestPlan};
use serde_json::Value;

const SECTOR: u64 = 512;
/// Sectors of the failing disk that cannot be read: first and count. The first two lie before the place of the kill.
const BAD: &[(u64, u64)] = &[(0, 1), (1_000, 3), (70_000, 1), (98_303, 1)];
const SECTORS: u64 = 98_304;

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
read_so_far() {{ awk '{{print $3}}' /sys/block/$1/stat; }}
( before=$(read_so_far dm-0)
  while [ $(( $(read_so_far dm-0) - before )) -lt 45000 ]; do usleep 50000; done
  killall -9 exhibit-agent; echo \"GUEST killed\"; exhibit-agent run --dir /agent ) &
mount -t ext4 /dev/vdb /mnt && echo \"mounted ext4\"
( while :; do date >> /mnt/log; sync; usleep 200000; done ) &
( while [ ! -e /sys/block/sda/stat ]; do usleep 50000; done
  before=$(read_so_far sda)
  while [ $(( $(read_so_far sda) - before )) -lt 8000 ]; do usleep 20000; done
  echo 1 > /sys/block/sda/device/delete; echo \"GUEST pulled\" ) &
"
    )
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

#[test]
fn failing_live_and_pulled_disks_say_what_they_are() {
    let dir = tempfile::tempdir().expect("folder");
    let (failing, live): (PathBuf, PathBuf) = (dir.path().join("failing.img"), dir.path().join("live.img"));
    let content = noise(SECTORS * SECTOR);
    std::fs::write(&failing, &content).expect("image");
    std::fs::File::create(&live).and_then(|f| f.set_len(24 << 20)).expect("image");
    let _ = Finished::of(Command::new("mkfs.ext4").args(["-q", "-L", "live"]).arg(&live)).ok();
    let mut plan = GuestPlan { scenario: scenario(), disks: vec![failing, live], ..GuestPlan::default() };
    plan.modules.extend(["virtio_blk", "dm-mod", "crc32c_generic", "ext4", "sd_mod", "scsi_debug"].map(str::to_owned));
    plan.programs.push("/usr/sbin/dmsetup".into());
    let fleet = Fleet::start();
    let (mut guest, agent) = fleet.guest_agent(plan);
    assert!(guest.console().contains("mounted ext4"), "{}", guest.console());
    let case = fleet.open_case();

    // A disk with bad sectors, and the agent dies in the middle of it.
    let collection = fleet.order_for(&case, &agent, &["--capture", "disk:path=/dev/mapper/bad,path=/dev/vda", "--send-rate", "6M"]);
    guest.wait_for("GUEST killed", Duration::from_mins(2));
    let ended = fleet.wait_closed(&collection, Duration::from_mins(4));
    assert_eq!((ended["state"].as_str(), ended["streams"].as_u64()), (Some("sealed"), Some(1)), "{ended}\n{}", guest.console());
    let items = fleet.items(&collection);
    check_bad_sectors(&fleet, &items, &content);
    let beneath = item(&items, "/dev/vda");
    assert_eq!((beneath["status"].as_str(), beneath["sha256"].as_str()), (Some("collected"), Some(sha256(&content).as_str())));
    assert_eq!(beneath["facts"]["consistency"], "nothing that is known of writes to it: held by dm-0, not mounted");

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
    let last = pulled["gaps"].as_array().and_then(|g| g.last()).expect("a gap");
    assert!(last["reason"].as_str().is_some_and(|r| r.contains("the device is gone")), "{pulled:#}");
    assert_eq!(last["offset"].as_u64().expect("offset") + last["length"].as_u64().expect("length"), 8 << 20, "to its end");

    let collection = fleet.order_for(&case, &agent, &["--capture", "disk:all=true,content=false"]);
    let ended = fleet.wait_closed(&collection, Duration::from_mins(2));
    let items = fleet.items(&collection);
    let mapping = item(&items, "/dev/dm-0");
    assert!(
        mapping["reason"].as_str().is_some_and(|r| r.contains("a mapping") && r.contains("vda, which is taken")),
        "{ended} {mapping:#}"
    );
    let _ = fleet.verify(&case).expect_sound();
}
