//! The memory of a whole machine: a guest with known processes, a secret, holes in its memory; an agent inside, the
//! coordinator outside. What was collected is compared with what the machine's emulator says of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use exhibit_tests::{Fleet, Guest, GuestPlan, kit};
use serde_json::Value;

/// Processes, sockets and a secret; a program that is not on any file system any more.
const SUSPECTS: &str = "
cp /bin/suspect /tmp/.gone; /tmp/.gone gone &
suspect tree &
sleep 1
";
/// What the program whose file is gone keeps in its memory.
const SECRET: &[u8] = b"what-nobody-knows-the-sequence09";

/// A collection of a guest's memory, restored.
struct Taken {
    guest: Guest,
    fleet: Fleet,
    ended: Value,
    items: Vec<Value>,
    out: tempfile::TempDir,
}

fn take(plan: GuestPlan, capture: &str) -> Taken {
    let fleet = Fleet::start();
    let (guest, agent) = fleet.guest_agent(plan);
    let case = fleet.open_case();
    let collection = fleet.order_for(&case, &agent, &["--capture", capture]);
    let ended = fleet.wait_closed(&collection, Duration::from_mins(6));
    let _ = fleet.verify(&case).expect_sound();
    let items = fleet.items(&collection);
    let out = tempfile::tempdir().expect("folder");
    let place = out.path().to_str().expect("UTF-8");
    let _ = fleet.exhibit(&["get", "--collection", &collection, "--out", place, "--reason", "test"]);
    Taken { guest, fleet, ended, items, out }
}

impl Taken {
    fn item(&self, path: &str) -> &Value {
        self.items.iter().find(|i| i["path"] == path).unwrap_or_else(|| panic!("no item {path}:\n{}", self.guest.console()))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.out.path().join("memory").join(name.trim_start_matches('/'))
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.file(name)).expect(name)).expect("json")
    }

    fn rows(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.file(name)).expect(name);
        text.lines().map(|l| serde_json::from_str(l).expect("a row")).collect()
    }
}

/// An image by a reading of the format that is not the agent's: start address to bytes.
fn lime(path: &Path) -> BTreeMap<u64, Vec<u8>> {
    let bytes = std::fs::read(path).expect("image");
    let (mut found, mut at, mut last) = (BTreeMap::new(), 0_usize, 0_u64);
    while at < bytes.len() {
        let word = |n: usize| u64::from_le_bytes(bytes[at + n..at + n + 8].try_into().expect("8 bytes"));
        assert_eq!(&bytes[at..at + 8], b"EMiL\x01\0\0\0", "a header at {at}");
        let (start, end) = (word(8), word(16) + 1);
        assert!(start >= last && end > start && word(24) == 0, "ascending");
        last = end;
        let length = usize::try_from(end - start).expect("fits");
        found.insert(start, bytes[at + 32..at + 32 + length].to_vec());
        at += 32 + length;
    }
    assert_eq!(at, bytes.len(), "nothing after the last record");
    found
}

/// What is at an address of an image.
fn at(image: &BTreeMap<u64, Vec<u8>>, address: u64, length: usize) -> Option<&[u8]> {
    let (start, bytes) = image.range(..=address).next_back()?;
    let from = usize::try_from(address - start).ok()?;
    bytes.get(from..from + length)
}

fn hexadecimal(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Ranges of `/proc/iomem` with this name, half-open.
fn iomem(text: &str, name: &str) -> Vec<(u64, u64)> {
    let lines = text.lines().filter_map(|l| l.trim().split_once(" : ")).filter(|(_, n)| *n == name);
    lines.map(|(range, _)| range.split_once('-').expect("a range")).map(|(a, b)| (hexadecimal(a), hexadecimal(b) + 1)).collect()
}

/// The map covers all of System RAM once, and the image holds exactly what it calls data or blank. At most `hidden_max` bytes
/// may be missing in the kernel's own list.
fn check_every_byte(taken: &Taken, hidden_max: u64) -> BTreeMap<u64, Vec<u8>> {
    let image = lime(&taken.file("memory.lime"));
    let table = std::fs::read_to_string(taken.file("/proc/iomem")).expect("iomem");
    let ram: u64 = iomem(&table, "System RAM").iter().map(|(a, b)| b - a).sum();
    let rows = taken.rows("map.jsonl");
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or_else(|| panic!("{key} in {row}"));
    assert!(rows.windows(2).all(|w| number(&w[0], "end") <= number(&w[1], "start")), "ascending, disjoint");
    let sum = |keep: &dyn Fn(&Value) -> bool| rows.iter().filter(|r| keep(r)).map(|r| number(r, "end") - number(r, "start")).sum::<u64>();
    assert_eq!(sum(&|_| true), ram, "every byte of System RAM is in the map");
    let hidden = sum(&|r| r["reason"] == "not-exposed-by-kcore");
    let in_image: u64 = image.values().map(|b| b.len() as u64).sum();
    assert_eq!(in_image, ram - hidden, "System RAM without what is listed as not exposed, to the byte");
    assert!(hidden <= hidden_max, "{hidden} bytes are not exposed");
    assert!(rows.iter().all(|r| r["state"] == "data" || r["reason"].as_str().is_some_and(|r| !r.is_empty())));
    for row in rows.iter().filter(|r| r["state"] != "data" && r["reason"] != "not-exposed-by-kcore") {
        let (start, end) = (number(row, "start"), number(row, "end"));
        let bytes = at(&image, start, usize::try_from(end - start).expect("fits")).expect("in the image");
        assert!(bytes.iter().all(|b| *b == 0), "what is no data is zeros: {row}");
    }
    image
}

/// Where `tests/run` installs the tool with which our images are compared.
fn avml() -> PathBuf {
    let avml = kit().join("avml/bin/avml");
    assert!(avml.is_file(), "no avml: run tests/guest/kit.sh {}", kit().display());
    avml
}

/// Every byte that the other tool has is in our image, and what does not change is the same. (That tool writes to a disk of the
/// guest: about half of such a small memory is then page cache of its own image.)
fn compare_with_avml(disk: &Path, image: &BTreeMap<u64, Vec<u8>>, (code, length): (u64, u64)) {
    let bytes = std::fs::read(disk).expect("image");
    let (mut offset, mut pages, mut same, mut patched, mut records) = (0_usize, 0_u64, 0_u64, 0_u64, 0);
    while bytes[offset..].starts_with(b"EMiL") {
        let word = |n: usize| u64::from_le_bytes(bytes[offset + n..offset + n + 8].try_into().expect("8 bytes"));
        let (start, end) = (word(8), word(16) + 1);
        let theirs = &bytes[offset + 32..offset + 32 + usize::try_from(end - start).expect("fits")];
        for (n, page) in theirs.chunks(4096).enumerate() {
            let address = start + n as u64 * 4096;
            let ours = at(image, address, page.len()).unwrap_or_else(|| panic!("{address:#x} is not in our image"));
            let equal = ours == page;
            (pages, same) = (pages + 1, same + u64::from(equal));
            patched += u64::from(!equal && (code..code + length).contains(&address));
        }
        (offset, records) = (offset + 32 + theirs.len(), records + 1);
    }
    eprintln!("AVML: {records} records, {pages} pages, {same} the same in our image; {patched} pages of the kernel's code differ");
    // A running kernel patches a few of its own branches.
    assert!(patched < 32, "{patched} pages of the kernel's code differ");
    assert!(records > 3 && pages > 30_000 && same * 3 > pages, "{records} records, {same} of {pages} pages are the same");
}

/// Pages that the machine found broken, and a block of memory that was taken away: each byte of it is said to be missing,
/// and why. Lockdown as Secure Boot sets it does not stand in the way.
#[test]
fn poisoned_and_removed_memory_is_named() {
    let plan = GuestPlan {
        module_mib: Some(256),
        append: "lockdown=integrity lsm=lockdown memhp_default_state=online_movable".to_owned(),
        scenario: "for block in /sys/devices/system/memory/memory*; do
  [ \"$(cat $block/valid_zones)\" = Movable ] || continue
  echo offline > $block/state && echo \"block $(basename $block) $(cat $block/state)\" && break
done
suspect poison 3
"
        .to_owned(),
        ..GuestPlan::default()
    };
    let taken = take(plan, "memory:priority=false");
    assert_eq!(taken.ended["state"], "sealed", "{}", taken.ended);
    assert!(taken.guest.told("block")[1] == "offline", "{}", taken.guest.console());
    let image = check_every_byte(&taken, 64 << 10);
    let rows = taken.rows("map.jsonl");
    let length = |row: &Value| row["end"].as_u64().expect("end") - row["start"].as_u64().expect("start");
    let offline: u64 = rows.iter().filter(|r| r["state"] == "zeroed-by-kernel" && r["reason"] == "nopage").map(length).sum();
    assert_eq!(offline, 128 << 20, "the block that was taken away");
    let console = taken.guest.console();
    let poisoned: Vec<u64> = console.lines().filter_map(|l| l.strip_prefix("poisoned ")).map(hexadecimal).collect();
    assert_eq!(poisoned.len(), 3, "{console}");
    let item = taken.item("memory.lime");
    assert_eq!(item["status"], "partial", "{item}");
    let gaps: u64 =
        item["gaps"].as_array().expect("gaps").iter().map(|g| g[1].as_u64().or_else(|| g["length"].as_u64()).expect("length")).sum();
    assert_eq!(gaps, (128 << 20) + 3 * 4096, "{item}");
    for frame in poisoned {
        let row = rows.iter().find(|r| r["start"].as_u64() <= Some(frame * 4096) && Some(frame * 4096) < r["end"].as_u64()).expect("a row");
        assert_eq!((row["state"].as_str(), row["reason"].as_str()), (Some("zeroed-by-kernel"), Some("hwpoison")), "{row}");
        assert!(at(&image, frame * 4096, 4096).is_some_and(|page| page.iter().all(|b| *b == 0)));
    }
    let preflight = taken.json("preflight.json");
    assert_eq!((preflight["lockdown"].as_str(), preflight["source"].as_str()), (Some("integrity"), Some("/proc/kcore")));
}

#[test]
fn a_guest_s_memory_is_there_to_the_byte() {
    let mut plan = GuestPlan { scenario: SUSPECTS.to_owned(), ..GuestPlan::default() };
    // A hole in the middle of memory.
    plan.append = "memmap=4M$0x5000000".to_owned();
    // The same memory as another tool takes it, just before.
    let other = tempfile::NamedTempFile::new().expect("file");
    other.as_file().set_len(320 << 20).expect("size");
    plan.disks.push(other.path().to_path_buf());
    plan.modules.push("virtio_blk".to_owned());
    plan.programs.push(avml());
    plan.scenario.push_str("avml acquire --source /proc/kcore /dev/vda && echo \"AVML ok\"\n");
    let taken = take(plan, "memory");
    assert_eq!(taken.ended["state"], "sealed", "{}\n{}", taken.ended, taken.fleet.coordinator_log());
    let image = check_every_byte(&taken, 64 << 10);
    assert!(at(&image, 0x500_0000, 1).is_none(), "the hole is no memory");

    // What never moves is what the emulator sees.
    let frame = hexadecimal(&taken.guest.told("pattern-frame")[0]);
    let pattern: Vec<u8> = (0..1024_u32).flat_map(|i| (0xe100_0000 | i).to_le_bytes()).collect();
    assert_eq!(at(&image, frame * 4096, 4096), Some(&pattern[..]), "the pinned page");
    let table = std::fs::read_to_string(taken.file("/proc/iomem")).expect("iomem");
    let (start, end) = iomem(&table, "Kernel code")[0];
    let (start, length) = (start.next_multiple_of(4096), (end - start) / 4096 * 4096 - 4096);
    let dump = taken.guest.path().join("kernel");
    let _ = taken.guest.monitor(&format!("pmemsave {start:#x} {length:#x} \"{}\"", dump.display()));
    let outside = std::fs::read(&dump).expect("the emulator's dump");
    let inside = at(&image, start, outside.len()).expect("the kernel's code");
    let differing = outside.chunks(4096).zip(inside.chunks(4096)).filter(|(a, b)| a != b).count();
    assert!(outside.len() > 4 << 20 && differing == 0, "{differing} of {} pages of the kernel's code differ", outside.len() / 4096);
    let secret_frame = hexadecimal(&taken.guest.told("secret-frame")[0]);
    assert_eq!(at(&image, secret_frame * 4096, SECRET.len()), Some(SECRET), "the secret of the program whose file is gone");

    compare_with_avml(other.path(), &image, (start, length));

    // The first pass: an image of its own, a small one, and what changed between the two.
    let first = lime(&taken.file("priority.lime"));
    let bytes: u64 = first.values().map(|b| b.len() as u64).sum();
    let all: u64 = image.values().map(|b| b.len() as u64).sum();
    assert!(bytes > 4 << 20 && bytes <= all / 10 + (1 << 20), "the first pass took {bytes} of {all}");
    assert!(first.iter().all(|(start, b)| at(&image, *start, b.len()).is_some()), "it is a part of the second");
    let smear = taken.json("smear.json");
    assert!(smear["compared"].as_u64().is_some_and(|n| n > 1000) && smear["changed"].as_u64() < smear["compared"].as_u64(), "{smear}");
    let ratio = |class: &str| {
        let found = smear["classes"].as_array().into_iter().flatten().find(|c| c["class"] == class).cloned();
        found.unwrap_or_else(|| panic!("no class {class} in {smear}"))["ratio"].as_f64().expect("a ratio")
    };
    assert!(ratio("slab") < 0.5 && ratio("kernel-data") < 0.9 && ratio("page-table") <= 1.0, "{smear}");
    for name in ["kpageflags-before.bin", "kpageflags-after.bin"] {
        let frames: u64 = iomem(&table, "System RAM").iter().map(|(a, b)| b.div_ceil(4096) - a / 4096).sum();
        assert_eq!(std::fs::metadata(taken.file(name)).expect(name).len(), frames * 8, "{name}");
    }
    for path in ["/sys/kernel/btf/vmlinux", "/proc/kallsyms", "vmcoreinfo.txt", "kcore-notes.bin", "/proc/version", "preflight.json"] {
        assert_eq!(taken.item(path)["status"], "collected", "{path}");
    }
    eprintln!("{}", taken.item("memory.lime"));
    eprintln!("{smear}");
}
