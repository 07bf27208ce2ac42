//! The memory of a whole machine: a guest with known processes, a secret, holes in its memory; an agent inside, the
//! coordinator outside. What was collected is compared with what the machine's emulator says of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use exhibit_evidence::dsse::Envelope;
use exhibit_tests::{Finished, Fleet, Guest, GuestPlan, kit, wait_until};
use serde_json::Value;

/// Processes, sockets and a secret; a program that is not on any file system any more.
const SUSPECTS: &str = "
cp /bin/suspect /tmp/.gone; /tmp/.gone gone &
suspect tree &
(echo 'set -o history'; echo 'echo what the shell remembers'; sleep 10000) | bash --norc -i > /tmp/bash.log 2>&1 &
sleep 1
";
/// What the program whose file is gone keeps in its memory.
const SECRET: &[u8] = b"what-nobody-knows-the-sequence09";

/// What the kernel itself does not see.
const HIDDEN: &[u8] = b"not-even-the-kernel-itself-sees-the-sequence07";

/// What the agent may take at most.
const RSS_MAX: u64 = 48 << 20;

/// A collection of a guest's memory, restored.
struct Taken {
    guest: Guest,
    fleet: Fleet,
    agent: String,
    case: String,
    ended: Value,
    items: Vec<Value>,
    out: tempfile::TempDir,
}

fn take(plan: GuestPlan, capture: &str) -> Taken {
    take_while(plan, capture, |_, _, _| {})
}

/// The same, while something happens to the guest.
fn take_while(plan: GuestPlan, capture: &str, meanwhile: impl FnOnce(&Guest, &Fleet, &str)) -> Taken {
    let fleet = Fleet::start();
    let (guest, agent) = fleet.guest_agent(plan);
    let case = fleet.open_case();
    let collection = fleet.order_for(&case, &agent, &["--capture", capture]);
    meanwhile(&guest, &fleet, &collection);
    let ended = fleet.wait_closed(&collection, Duration::from_mins(6));
    let _ = fleet.verify(&case).expect_sound();
    let peak = peak_bytes(&fleet.case_dir(&case));
    eprintln!("the agent's peak: {peak:?} bytes");
    assert!(peak.is_some_and(|peak| peak <= RSS_MAX), "{peak:?}");
    let items = fleet.items(&collection);
    let out = tempfile::tempdir().expect("folder");
    let place = out.path().to_str().expect("UTF-8");
    let _ = fleet.exhibit(&["get", "--collection", &collection, "--out", place, "--reason", "test"]);
    Taken { guest, fleet, agent, case, ended, items, out }
}

/// What the acquisition record says of the agent's own memory.
fn peak_bytes(case: &Path) -> Option<u64> {
    let slots = std::fs::read_dir(case.join("log/seq")).expect("slots").filter_map(Result::ok);
    let records = slots.map(|slot| Envelope::parse(&std::fs::read(slot.path()).expect("slot")).expect("an envelope"));
    let text = records.map(|e| String::from_utf8_lossy(e.unverified_payload()).into_owned()).find(|t| t.contains("rss_peak_bytes"))?;
    text.split("\"rss_peak_bytes\":").nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
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

/// Bytes of a row of a map.
fn length(row: &Value) -> u64 {
    row["end"].as_u64().expect("end") - row["start"].as_u64().expect("start")
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

/// An analysis with nothing but what the collection holds: symbols that are made of it, and volatility3. It shows the processes,
/// modules and sockets that the guest really has.
fn analyse(taken: &Taken, image: &Path) {
    let folder = taken.out.path().join("symbols");
    std::fs::create_dir_all(folder.join("linux")).expect("folder");
    let (from, to) = (taken.out.path().join("memory"), folder.join("linux/guest.json"));
    let args = ["symbols", "build", "--from", from.to_str().expect("UTF-8"), "--out", to.to_str().expect("UTF-8")];
    let built = taken.fleet.exhibit(&args).ok().json();
    eprintln!("{}", built[0]);
    // A host that hides its symbols: they are read from the image, and are the same.
    let listed = from.join("proc/kallsyms");
    std::fs::rename(&listed, taken.out.path().join("kallsyms")).expect("moved");
    let again = taken.out.path().join("again.json");
    let args = ["symbols", "build", "--from", from.to_str().expect("UTF-8"), "--out", again.to_str().expect("UTF-8")];
    let hidden = taken.fleet.exhibit(&args).ok().json();
    assert_eq!((built[0]["symbols_from"].as_str(), hidden[0]["symbols_from"].as_str()), (Some("file"), Some("image")), "{}", hidden[0]);
    std::fs::rename(taken.out.path().join("kallsyms"), &listed).expect("moved");
    let symbols =
        |path: &Path| -> Value { serde_json::from_slice::<Value>(&std::fs::read(path).expect("file")).expect("json")["symbols"].clone() };
    let (listed, decoded) = (symbols(&to), symbols(&again));
    for name in ["init_task", "sys_call_table", "linux_banner", "modules", "init_net", "prb", "_text", "idt_table"] {
        assert_eq!(listed[name]["address"], decoded[name]["address"], "{name}");
    }
    let differing = decoded.as_object().expect("symbols").iter().filter(|(n, s)| listed[n.as_str()]["address"] != s["address"]).count();
    assert!(differing * 100 < decoded.as_object().expect("symbols").len(), "{differing} symbols differ");
    let gone: u64 = taken.guest.told("secret-frame")[2].parse().expect("pid");
    let maps = format!("linux.proc.Maps:pid={gone}");
    let plugins = [
        "linux.pslist.PsList",
        "linux.psscan.PsScan",
        "linux.lsmod.Lsmod",
        "linux.sockstat.Sockstat",
        "linux.check_syscall.Check_syscall",
        "linux.kmsg.Kmsg",
        "linux.mountinfo.MountInfo",
        "linux.elfs.Elfs",
        "linux.bash.Bash",
        &maps,
    ];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/volatility.py");
    let mut command = std::process::Command::new("python3");
    let found = Finished::of(command.arg(script).arg(image).arg(&folder).args(plugins)).ok();
    let found: Value = serde_json::from_slice(&found.stdout).expect("json");
    let rows = |plugin: &str| found[plugin].as_array().unwrap_or_else(|| panic!("{plugin} in {found}")).clone();

    // The tree of processes, with their parents.
    let list = rows("linux.pslist.PsList");
    let process = |name: &str| {
        let found = list.iter().find(|r| r["COMM"] == name).unwrap_or_else(|| panic!("no process {name} in {list:?}"));
        (found["PID"].as_u64().expect("pid"), found["PPID"].as_u64().expect("parent"))
    };
    let root: Vec<String> = taken.guest.told("suspect-root");
    let (root, child): (u64, u64) = (root[0].parse().expect("pid"), root[2].parse().expect("pid"));
    assert_eq!(process("suspect-root"), (root, 1));
    assert_eq!(process("suspect-child"), (child, root));
    assert_eq!(process("suspect-leaf").1, child);
    assert_eq!(process("suspect-gone"), (gone, 1));
    let scanned = rows("linux.psscan.PsScan");
    assert!(
        ["suspect-root", "suspect-leaf", "suspect-gone", "exhibit-agent"].iter().all(|n| scanned.iter().any(|r| r["COMM"] == *n)),
        "{scanned:?}"
    );
    let modules = rows("linux.lsmod.Lsmod");
    for name in ["virtio_net", "virtio_blk", "virtio_pci"] {
        assert!(modules.iter().any(|r| r.to_string().contains(&format!("\"{name}\""))), "{name} in {modules:?}");
    }
    let sockets = rows("linux.sockstat.Sockstat");
    for port in [4711, 4712] {
        assert!(
            sockets.iter().any(|r| r.to_string().contains(&format!("\"{port}\"")) || r["Source Port"] == port),
            "{port} in {sockets:?}"
        );
    }
    for plugin in ["linux.check_syscall.Check_syscall", "linux.kmsg.Kmsg", "linux.mountinfo.MountInfo", "linux.elfs.Elfs"] {
        assert!(rows(plugin).len() > 3, "{plugin}: {:?}", rows(plugin));
    }
    assert!(rows("linux.kmsg.Kmsg").iter().any(|r| r.to_string().contains("Linux version")));
    assert!(rows("linux.proc.Maps").iter().any(|r| r.to_string().contains("[stack]")), "{:?}", rows("linux.proc.Maps"));
    assert!(
        rows("linux.bash.Bash").iter().any(|r| r.to_string().contains("echo what the shell remembers")),
        "{:?}",
        rows("linux.bash.Bash")
    );
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

/// Pages that the machine found broken, a block of memory that was taken away, pages that the kernel hides from itself, and a module
/// that is plugged in while memory is taken: each byte is said to be missing, and why, or is there under its address. Lockdown as
/// Secure Boot sets it does not stand in the way.
#[test]
fn memory_that_is_poisoned_removed_hidden_or_added_is_named() {
    let plan = GuestPlan {
        memory_mib: 208,
        module_mib: Some(256),
        append: "lockdown=integrity lsm=lockdown memhp_default_state=online_movable secretmem.enable=1".to_owned(),
        scenario: "for block in /sys/devices/system/memory/memory*; do
  [ \"$(cat $block/valid_zones)\" = Movable ] || continue
  echo offline > $block/state && echo \"block $(basename $block) $(cat $block/state)\" && break
done
# The kernel says of each poisoned page that it is; between the lines that the test reads.
dmesg -n 1
suspect poison 3
suspect hidden 3 &
# Somebody looks at the kernel's memory all the time: whenever it is opened, the kernel makes its table anew.
while sleep 1; do head -c 64 /proc/kcore > /dev/null; done &
sleep 1
"
        .to_owned(),
        ..GuestPlan::default()
    };
    let taken = take_while(plan, "memory:priority=false", |guest, fleet, collection| {
        wait_until(Duration::from_mins(2), "some of the memory is taken", || {
            fleet.collection(collection)["raw_bytes"].as_u64().is_some_and(|b| b > 40 << 20)
        });
        for command in ["object_add memory-backend-ram,id=m1,size=128M", "device_add pc-dimm,id=d1,memdev=m1"] {
            let said = guest.monitor(command);
            assert!(!said.contains("Error"), "{said}");
        }
    });
    assert_eq!(taken.ended["state"], "sealed", "{}", taken.ended);
    assert!(taken.guest.told("block")[1] == "offline", "{}", taken.guest.console());
    let image = check_every_byte(&taken, 64 << 10);
    let rows = taken.rows("map.jsonl");
    let sum = |reason: &str| rows.iter().filter(|r| r["state"] == "zeroed-by-kernel" && r["reason"] == reason).map(length).sum::<u64>();
    assert_eq!(sum("nopage"), 128 << 20, "the block that was taken away");
    let console = taken.guest.console();
    let frames = |key: &str| -> Vec<u64> { console.lines().filter_map(|l| l.strip_prefix(key)).map(hexadecimal).collect() };
    let (poisoned, hidden) = (frames("poisoned "), frames("hidden-frame "));
    assert_eq!((poisoned.len(), hidden.len()), (3, 3), "{console}");
    let item = taken.item("memory.lime");
    assert_eq!(item["status"], "partial", "{item}");
    let gaps: u64 =
        item["gaps"].as_array().expect("gaps").iter().map(|g| g[1].as_u64().or_else(|| g["length"].as_u64()).expect("length")).sum();
    assert_eq!(gaps, (128 << 20) + 3 * 4096 + sum("not-mapped"), "{item}");
    let named = |frame: &u64, reason: &str| {
        let row = rows.iter().find(|r| r["start"].as_u64() <= Some(frame * 4096) && Some(frame * 4096) < r["end"].as_u64()).expect("a row");
        assert_eq!((row["state"].as_str(), row["reason"].as_str()), (Some("zeroed-by-kernel"), Some(reason)), "{row}");
        assert!(at(&image, frame * 4096, 4096).is_some_and(|page| page.iter().all(|b| *b == 0)));
    };
    for (frames, reason) in [(&poisoned, "hwpoison"), (&hidden, "not-mapped")] {
        for frame in frames {
            named(frame, reason);
        }
    }
    // The emulator sees what the kernel does not; the image has it nowhere.
    let dump = taken.guest.path().join("hidden");
    let _ = taken.guest.monitor(&format!("pmemsave {:#x} {} \"{}\"", hidden[0] * 4096, HIDDEN.len(), dump.display()));
    assert_eq!(std::fs::read(&dump).expect("the emulator's dump"), HIDDEN);
    let holds = |bytes: &Vec<u8>| bytes.windows(HIDDEN.len()).any(|w| w == HIDDEN);
    assert!(!image.values().any(holds), "the secret is in the image");
    let preflight = taken.json("preflight.json");
    assert_eq!((preflight["lockdown"].as_str(), preflight["source"].as_str()), (Some("integrity"), Some("/proc/kcore")));
    assert_eq!(preflight["zeros_judged"], true, "{preflight}");

    // What was plugged in is an image of its own, and the kernel's other table was noticed.
    let changes = taken.json("ram-changes.json");
    assert_eq!((changes["added_bytes"].as_u64(), changes["removed_bytes"].as_u64()), (Some(128 << 20), Some(0)), "{changes}");
    assert!(changes["source_changes"].as_u64() >= Some(1), "{changes}");
    let added = lime(&taken.file("added.lime"));
    assert_eq!(added.values().map(|b| b.len() as u64).sum::<u64>(), 128 << 20);
    assert_eq!(changes["added"][0][0].as_u64(), added.keys().next().copied(), "{changes}");
    assert_eq!(taken.rows("added-map.jsonl").iter().map(length).sum::<u64>(), 128 << 20);
}

/// Five levels of page tables: volatility3 would show nothing, so it is said; the ELF export opens in drgn all the same.
#[test]
fn a_guest_with_five_levels_is_opened_by_drgn() {
    let plan = GuestPlan { memory_mib: 160, cpu: "max".to_owned(), ..GuestPlan::default() };
    let taken = take(plan, "memory:priority=false");
    assert_eq!(taken.ended["state"], "sealed", "{}", taken.ended);
    let _ = check_every_byte(&taken, 64 << 10);
    let preflight = taken.json("preflight.json");
    assert_eq!((preflight["la57"].as_bool(), preflight["zeros_judged"].as_bool()), (Some(true), Some(true)), "{preflight}");
    let item = taken.item("memory.lime");
    assert!(item["facts"]["warnings"].as_str().is_some_and(|w| w.contains("five-level")), "{item}");

    let out = taken.out.path().join("converted");
    let args = ["get", item["id"].as_str().expect("id"), "--as", "elf", "--out", out.to_str().expect("UTF-8"), "--reason", "test"];
    let done = taken.fleet.exhibit(&args).ok();
    assert!(done.stderr.contains("drgn") || done.text().contains("drgn"), "the warning: {}{}", done.text(), done.stderr);
    let core = Finished::of(std::process::Command::new("find").arg(&out).args(["-type", "f"])).ok().text().trim().to_owned();
    let symbols = std::fs::read_to_string(taken.file("/proc/kallsyms")).expect("symbols");
    let banner = symbols.lines().find(|l| l.ends_with(" linux_banner")).expect("the banner's symbol");
    let address = banner.split(' ').next().expect("address");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/drgn_image.py");
    let opened = Finished::of(std::process::Command::new("python3").arg(script).args([&core, &format!("v:{address}")])).ok();
    assert!(opened.text().starts_with("Linux version 6."), "{}", opened.text());

    // More than the order allows: said with both numbers, before a byte is read; the first pass still fits.
    let (fleet, case) = (&taken.fleet, &taken.case);
    let small = fleet.order_for(case, &taken.agent, &["--capture", "memory", "--max-bytes", "64M"]);
    let ended = fleet.wait_closed(&small, Duration::from_mins(3));
    assert_eq!(ended["state"], "partial", "{ended}");
    let items = fleet.items(&small);
    let image = items.iter().find(|i| i["path"] == "memory.lime").expect("an item");
    assert!(image["status"] == "skipped" && image["reason"].as_str().is_some_and(|r| r.contains("limit of 67108864")), "{image}");
    assert!(items.iter().any(|i| i["path"] == "priority.lime" && i["status"] == "collected"), "{items:?}");

    // Interrupted: what came is kept, the rest is one gap that says why.
    let cut = fleet.order_for(case, &taken.agent, &["--capture", "memory:priority=false"]);
    wait_until(Duration::from_mins(2), "some of the memory is taken", || {
        fleet.collection(&cut)["raw_bytes"].as_u64().is_some_and(|b| b > 40 << 20)
    });
    let _ = fleet.exhibit(&["cancel", &cut, "--reason", "enough"]).ok();
    let ended = fleet.wait_closed(&cut, Duration::from_mins(2));
    assert!(matches!(ended["state"].as_str(), Some("partial" | "cancelled")), "{ended}");
    let items = fleet.items(&cut);
    let image = items.iter().find(|i| i["path"] == "memory.lime").expect("an item");
    assert!(image["status"] == "partial" && image["gaps"].to_string().contains("enough"), "{image}");
    let _ = fleet.verify(case).expect_sound();
}

/// Where the kernel gives no physical memory: said plainly, and the memory of every process is taken instead.
#[test]
fn a_locked_guest_gives_its_processes() {
    let plan = GuestPlan {
        memory_mib: 192,
        append: "lockdown=confidentiality lsm=lockdown".to_owned(),
        scenario: "cp /bin/suspect /tmp/.gone; /tmp/.gone gone &
sleep 1
"
        .to_owned(),
        ..GuestPlan::default()
    };
    let taken = take(plan, "memory");
    assert_eq!(taken.ended["state"], "partial", "{}", taken.ended);
    let said = taken.ended.to_string();
    assert!(said.contains("confidentiality") && said.contains("instead the memory of"), "{said}");
    let image = taken.item("memory.lime");
    assert!(image["status"] == "denied" && image["reason"].as_str().is_some_and(|r| r.contains("/proc/kcore")), "{image}");
    let preflight = taken.json("preflight.json");
    assert_eq!((preflight["lockdown"].as_str(), preflight["source"].is_null()), (Some("confidentiality"), true), "{preflight}");
    let gone = taken.guest.told("secret-frame")[2].clone();
    let core = std::fs::read(taken.file(&format!("/proc/{gone}/core"))).expect("the core of the program whose file is gone");
    assert!(core.windows(SECRET.len()).any(|w| w == SECRET), "the secret is in it");
}

#[test]
fn a_guest_s_memory_is_there_to_the_byte() {
    let mut plan = GuestPlan { memory_mib: 224, scenario: SUSPECTS.to_owned(), ..GuestPlan::default() };
    // A hole in the middle of memory.
    plan.append = "memmap=4M$0x5000000".to_owned();
    // The same memory as another tool takes it, just before.
    let other = tempfile::NamedTempFile::new().expect("file");
    other.as_file().set_len(320 << 20).expect("size");
    plan.disks.push(other.path().to_path_buf());
    plan.modules.push("virtio_blk".to_owned());
    plan.programs.push(avml());
    plan.programs.push("/bin/bash".into());
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

    analyse(&taken, &taken.file("memory.lime"));

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
    assert_eq!(taken.json("preflight.json")["zeros_judged"], true);
    assert_eq!(
        (taken.json("ram-changes.json")["added_bytes"].as_u64(), taken.json("ram-changes.json")["source_changes"].as_u64()),
        (Some(0), Some(0))
    );
    for path in ["/sys/kernel/btf/vmlinux", "/proc/kallsyms", "vmcoreinfo.txt", "kcore-notes.bin", "/proc/version", "preflight.json"] {
        assert_eq!(taken.item(path)["status"], "collected", "{path}");
    }
    eprintln!("{}", taken.item("memory.lime"));
    eprintln!("{smear}");
}
