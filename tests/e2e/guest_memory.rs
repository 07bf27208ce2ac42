//! The memory of a whole machine: a guest with known processes, a secret, holes in its memory; an agent inside, the
//! coordinator outside. What was collected is compared with what the machine's emulator says of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use exhibit_tests::{Fleet, Guest, GuestPlan};
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

/// The map covers all of System RAM once, and the image holds exactly what it calls data or blank.
fn check_every_byte(taken: &Taken) -> BTreeMap<u64, Vec<u8>> {
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
    assert!(hidden < 64 << 10, "{hidden} bytes are not exposed");
    assert!(rows.iter().all(|r| r["state"] == "data" || r["reason"].as_str().is_some_and(|r| !r.is_empty())));
    for row in rows.iter().filter(|r| r["state"] != "data" && r["reason"] != "not-exposed-by-kcore") {
        let (start, end) = (number(row, "start"), number(row, "end"));
        let bytes = at(&image, start, usize::try_from(end - start).expect("fits")).expect("in the image");
        assert!(bytes.iter().all(|b| *b == 0), "what is no data is zeros: {row}");
    }
    image
}

#[test]
fn a_guest_s_memory_is_there_to_the_byte() {
    let mut plan = GuestPlan { scenario: SUSPECTS.to_owned(), ..GuestPlan::default() };
    // A hole in the middle of memory.
    plan.append = "memmap=4M$0x5000000".to_owned();
    let taken = take(plan, "memory");
    assert_eq!(taken.ended["state"], "sealed", "{}\n{}", taken.ended, taken.fleet.coordinator_log());
    let image = check_every_byte(&taken);
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
    assert!(ratio("kernel-image") < 0.5 && ratio("page-table") <= 1.0, "{smear}");
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
